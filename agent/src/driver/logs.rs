//! What containers write, for who asks.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use moorline_common::id::ResourceId;

use super::{Driver, DriverError};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogWish {
    /// The container.
    pub container: ResourceId,
    /// Whether to go on with what it writes from now on.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<u32>,
    /// Only what was written since, in seconds since 1970; 0 for all.
    pub since_s: u64,
}

/// A part of what a container wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Byte for byte.
    pub data: Vec<u8>,
    /// Whether to its standard error.
    pub is_stderr: bool,
}

/// A log as it comes.
pub type LogStream = BoxStream<'static, Result<LogPart, DriverError>>;

/// Where logs come from: a driver, whichever it is.
pub trait LogSource: Send + Sync {
    /// Begins to read. Nothing of a stranger's is read.
    fn open(&self, wish: LogWish) -> BoxFuture<'_, Result<LogStream, DriverError>>;
}

impl<D: Driver> LogSource for D {
    fn open(&self, wish: LogWish) -> BoxFuture<'_, Result<LogStream, DriverError>> {
        Box::pin(async move { self.logs(&wish).await })
    }
}

/// A source that many ask.
pub type SharedLogs = Arc<dyn LogSource>;
