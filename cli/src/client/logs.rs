//! What containers and commands write, as their hosts send it through the hub. Nothing of it is signed.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, OpId};
use moorline_proto::v1 as pb;
use tonic::Streaming;

use super::{Client, Hub};
use crate::error::Failure;
use crate::limits::LOG_PART_MAX;

/// Which log is wanted.
#[derive(Debug, Clone)]
pub struct LogsWanted {
    /// The host.
    pub host: HostId,
    /// The container's name on the engine.
    pub container: String,
    /// Whether to go on with what it writes.
    pub follow: bool,
    /// Only so many of the last lines.
    pub tail: Option<u32>,
    /// Only what was written since, in seconds since 1970; 0 for all.
    pub since_unix_s: u64,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Byte for byte.
    pub data: Vec<u8>,
    /// Whether to its standard error.
    pub is_stderr: bool,
}

/// A log as it comes.
pub struct LogStream {
    stream: Streaming<pb::GetLogsResponse>,
    hub: Hub,
}

impl Client {
    /// Begins to read a log.
    ///
    /// # Errors
    /// When the hub refuses it, or the host is not connected.
    pub async fn logs(&self, wanted: LogsWanted) -> Result<LogStream, Failure> {
        let request = pb::GetLogsRequest {
            host_id: wanted.host.to_string(),
            container: wanted.container,
            follow: wanted.follow,
            tail: wanted.tail,
            since_unix_s: wanted.since_unix_s,
            ..pb::GetLogsRequest::default()
        };
        self.read(request).await
    }

    /// Takes what the command of an operation says while it runs. To be asked for before the order is handed in.
    ///
    /// # Errors
    /// As [`Self::logs`].
    pub async fn output(&self, host: &HostId, op_id: &OpId) -> Result<LogStream, Failure> {
        self.read(pb::GetLogsRequest { host_id: host.to_string(), op_id: op_id.to_string(), ..pb::GetLogsRequest::default() }).await
    }

    async fn read(&self, request: pb::GetLogsRequest) -> Result<LogStream, Failure> {
        let stream = self.hub.call(|mut rpc| async move { rpc.get_logs(request).await }).await?;
        Ok(LogStream { stream, hub: self.hub.clone() })
    }
}

impl LogStream {
    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// What the host or the hub says.
    pub async fn next(&mut self) -> Result<Option<LogPart>, Failure> {
        let next = self.stream.message().await.map_err(|status| self.hub.failure(&status))?;
        if next.as_ref().is_some_and(|part| part.data.len() > LOG_PART_MAX) {
            return Err(Fault::new(Code::TooLarge, "the hub sent more of a log at once than a host does").into());
        }
        Ok(next.map(|part| LogPart { data: part.data, is_stderr: part.stderr }))
    }
}
