//! What containers write, for who asks.

use std::time::Duration;

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
pub struct Taker {
    way: Option<mpsc::Sender<LogPart>>,
    /// How long it may take for a part; for ever when `None`.
    patience: Option<Duration>,
}

impl Taker {
    /// Whoever receives by `way`, however long that takes.
    #[must_use]
    pub const fn new(way: mpsc::Sender<LogPart>) -> Self {
        Self { way: Some(way), patience: None }
    }

    /// Whoever receives by `way`, for as long as it takes each part within `patience`.
    #[must_use]
    pub const fn within(way: mpsc::Sender<LogPart>, patience: Duration) -> Self {
        Self { way: Some(way), patience: Some(patience) }
    }

    /// Nobody: a command writes on unheeded.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { way: None, patience: None }
    }

    /// Whether anybody takes anything.
    #[must_use]
    pub const fn is_somebody(&self) -> bool {
        self.way.is_some()
    }

    /// Gives a part, when there is room for it. Who is gone, or takes too long, gets nothing more.
    pub async fn give(&mut self, data: &[u8], is_stderr: bool) {
        let Some(way) = self.way.as_ref().filter(|_| !data.is_empty()) else { return };
        let part = LogPart { data: data.to_vec(), is_stderr };
        let is_given = match self.patience {
            None => way.send(part).await.is_ok(),
            Some(patience) => way.send_timeout(part, patience).await.is_ok(),
        };
        if !is_given {
            self.way = None;
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
