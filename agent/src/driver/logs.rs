//! What containers write, for who asks.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use moorline_common::id::ResourceId;
use tokio::sync::mpsc;

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

/// Who takes what a command says as it comes.
#[derive(Debug)]
pub struct Taker(Option<mpsc::Sender<LogPart>>);

impl Taker {
    /// Whoever receives by `way`.
    #[must_use]
    pub const fn new(way: mpsc::Sender<LogPart>) -> Self {
        Self(Some(way))
    }

    /// Nobody: a command writes on unheeded.
    #[must_use]
    pub const fn nobody() -> Self {
        Self(None)
    }

    /// Whether anybody takes anything.
    #[must_use]
    pub const fn is_somebody(&self) -> bool {
        self.0.is_some()
    }

    /// Gives a part, when there is room for it. Who is gone gets nothing more.
    pub async fn give(&mut self, data: &[u8], is_stderr: bool) {
        if let Some(way) = &self.0
            && !data.is_empty()
            && way.send(LogPart { data: data.to_vec(), is_stderr }).await.is_err()
        {
            self.0 = None;
        }
    }
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
