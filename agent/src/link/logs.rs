//! What containers and commands write, on its way to the hub: for each that was asked for a task of its own, which ends when it is not wanted any more.
//!
//! No authority is needed for logs, as for reports; what is not a topology's is not read. What commands say is sent of those that are
//! signed for that. Of each no more is under way than the hub has said that it has room for, so that heartbeats and receipts never
//! wait behind who reads slowly.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{IdError, OpId, ResourceId};
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Up;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::driver::DriverError;
use crate::driver::logs::{LogPart, LogStream, LogWish, SharedLogs};
use crate::limits::{LOG_PART_MAX, LOG_WINDOW_MAX, LOGS_MAX, OUTPUTS_MAX, SEND_TIMEOUT};
use crate::ops::outputs::Outputs;

/// The logs that are being sent in a session. They end with it.
pub(super) struct Logs {
    source: Option<SharedLogs>,
    outputs: Outputs,
    outbound: mpsc::Sender<pb::AgentMessage>,
    sending: BTreeMap<u64, Sending>,
}

struct Sending {
    task: AbortHandle,
    is_output: bool,
    /// How many parts more may be under way.
    room: Arc<Semaphore>,
}

impl Logs {
    pub(super) fn new(source: Option<SharedLogs>, outputs: Outputs, outbound: mpsc::Sender<pb::AgentMessage>) -> Self {
        Self { source, outputs, outbound, sending: BTreeMap::new() }
    }

    /// Begins to send what `wanted` names.
    pub(super) fn begin(&mut self, request_id: u64, wanted: &pb::Logs) {
        // One that asks twice under the same number wants the second.
        self.end(request_id);
        self.sending.retain(|_, sending| !sending.task.is_finished());
        let opening = match self.open(wanted) {
            Ok(opening) => opening,
            Err(fault) => {
                // A hub that asks faster than it reads gets no answer.
                let _ = self.outbound.try_send(end(request_id, Some(fault)));
                return;
            }
        };
        let window = usize::try_from(wanted.window).map_or(LOG_WINDOW_MAX, |window| window.clamp(1, LOG_WINDOW_MAX));
        let room = Arc::new(Semaphore::new(window));
        let way = Way { request_id, outbound: self.outbound.clone(), room: room.clone() };
        let task = tokio::spawn(async move {
            let fault = way.send_all(opening).await.err();
            let _ = way.outbound.send_timeout(end(request_id, fault), SEND_TIMEOUT).await;
        });
        self.sending.insert(request_id, Sending { task: task.abort_handle(), is_output: !wanted.op_id.is_empty(), room });
    }

    /// What is going to be sent. The output of a command is kept for its taker from here on.
    fn open(&self, wanted: &pb::Logs) -> Result<Opening, Fault> {
        let sending = |is_output: bool| self.sending.values().filter(|s| s.is_output == is_output).count();
        let wrong = |error: &IdError| Fault::new(Code::InvalidArgument, error.to_string());
        let busy = |what: String| Err(Fault::new(Code::Busy, format!("{what} being read already on this host; try again later")));
        if !wanted.op_id.is_empty() {
            if sending(true) >= OUTPUTS_MAX {
                return busy(format!("the output of {OUTPUTS_MAX} commands is"));
            }
            let op_id = OpId::parse(cut(&wanted.op_id)).map_err(|e| wrong(&e))?;
            let taken = self.outputs.take(op_id)?;
            return Ok(std::future::ready(Ok(taken)).boxed());
        }
        if sending(false) >= LOGS_MAX {
            return busy(format!("{LOGS_MAX} logs are"));
        }
        let denied = || Fault::new(Code::PolicyDenied, "this host's policy file says `logs = false`: they are read on the host itself");
        let source = self.source.clone().ok_or_else(denied)?;
        // Nothing of a hub's question may reach the engine's API but a name.
        let container = ResourceId::parse(format!("docker/container/{}", wanted.container)).map_err(|e| wrong(&e))?;
        let wish = LogWish { container, follow: wanted.follow, tail: wanted.tail, since_s: wanted.since_unix_s };
        Ok(async move { source.open(wish).await }.boxed())
    }

    /// One more part may be under way.
    pub(super) fn more(&mut self, request_id: u64) {
        if let Some(sending) = self.sending.get(&request_id)
            && sending.room.available_permits() < LOG_WINDOW_MAX
        {
            sending.room.add_permits(1);
        }
    }

    /// Nobody wants the rest any more.
    pub(super) fn end(&mut self, request_id: u64) {
        if let Some(sending) = self.sending.remove(&request_id) {
            sending.task.abort();
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.sending.values().for_each(|sending| sending.task.abort());
    }
}

/// A log that begins to be read.
type Opening = BoxFuture<'static, Result<LogStream, DriverError>>;

/// Where the parts of one log go.
struct Way {
    request_id: u64,
    outbound: mpsc::Sender<pb::AgentMessage>,
    room: Arc<Semaphore>,
}

impl Way {
    async fn send_all(&self, opening: Opening) -> Result<(), Fault> {
        let told = |e: DriverError| Fault::new(e.code, cut(&e.message));
        // An engine tells of each write: what is there at once goes together.
        let mut log = opening.await.map_err(told)?.ready_chunks(READY_MAX);
        while let Some(parts) = log.next().await {
            let mut joined = Joined::default();
            let fault = parts.into_iter().find_map(|part| part.map(|part| joined.add(part)).err());
            for part in joined.0 {
                self.send(part).await?;
            }
            if let Some(error) = fault {
                return Err(told(error));
            }
        }
        Ok(())
    }

    async fn send(&self, part: LogPart) -> Result<(), Fault> {
        let closed = || Fault::new(Code::Busy, "the hub does not read what it asked for");
        self.room.acquire().await.map_err(|_| closed())?.forget();
        let chunk = pb::LogChunk { request_id: self.request_id, data: part.data, stderr: part.is_stderr, last: false, fault: None };
        let message = pb::AgentMessage { kind: Some(Up::LogChunk(chunk)) };
        self.outbound.send_timeout(message, SEND_TIMEOUT).await.map_err(|_| closed())
    }
}

/// Writes of a container that are looked at together.
const READY_MAX: usize = 256;

/// Parts in their order, each as large as a message may be.
#[derive(Default)]
struct Joined(Vec<LogPart>);

impl Joined {
    fn add(&mut self, part: LogPart) {
        let mut rest = part.data.as_slice();
        if let Some(last) = self.0.last_mut().filter(|last| last.is_stderr == part.is_stderr) {
            let (now, later) = rest.split_at(rest.len().min(LOG_PART_MAX.saturating_sub(last.data.len())));
            last.data.extend_from_slice(now);
            rest = later;
        }
        self.0.extend(rest.chunks(LOG_PART_MAX).map(|data| LogPart { data: data.to_vec(), is_stderr: part.is_stderr }));
    }
}

fn end(request_id: u64, fault: Option<Fault>) -> pb::AgentMessage {
    let fault = fault.map(|f| pb::Fault { code: f.code.as_str().to_owned(), message: f.message });
    pb::AgentMessage { kind: Some(Up::LogChunk(pb::LogChunk { request_id, data: Vec::new(), stderr: false, last: true, fault })) }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;
    use crate::driver::logs::LogSource;

    /// Writes `x` for ever.
    struct Endless;

    impl LogSource for Endless {
        fn open(&self, _: LogWish) -> BoxFuture<'_, Result<LogStream, DriverError>> {
            let parts = stream::repeat_with(|| Ok(LogPart { data: vec![b'x'; LOG_PART_MAX / 2], is_stderr: false }));
            async { Ok(parts.boxed()) }.boxed()
        }
    }

    fn wanted() -> pb::Logs {
        pb::Logs { container: "edge-site-1".to_owned(), window: 1, ..pb::Logs::default() }
    }

    fn chunk(message: pb::AgentMessage) -> pb::LogChunk {
        match message.kind {
            Some(Up::LogChunk(chunk)) => chunk,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn no_more_of_a_log_is_under_way_than_the_hub_has_room_for() {
        let (outbound, mut sent) = mpsc::channel(64);
        let mut logs = Logs::new(Some(Arc::new(Endless)), Outputs::default(), outbound.clone());
        logs.begin(7, &pb::Logs { window: 2, ..wanted() });
        for _ in 0..2 {
            assert_eq!(chunk(sent.recv().await.unwrap()).data.len(), LOG_PART_MAX);
        }
        tokio::task::yield_now().await;
        sent.try_recv().unwrap_err();
        logs.more(8);
        logs.more(7);
        assert_eq!(chunk(sent.recv().await.unwrap()).request_id, 7);
        logs.end(7);
        logs.more(7);
        drop((logs, outbound));
        assert!(sent.recv().await.is_none(), "nothing is sent of a log that nobody wants");
    }

    #[tokio::test]
    async fn who_asks_for_too_many_is_told_so_at_once() {
        let (outbound, mut sent) = mpsc::channel(64);
        let mut logs = Logs::new(Some(Arc::new(Endless)), Outputs::default(), outbound);
        let max = u64::try_from(LOGS_MAX).unwrap();
        for request_id in 0..=max {
            logs.begin(request_id, &wanted());
        }
        let refused = chunk(sent.recv().await.unwrap());
        assert_eq!((refused.request_id, refused.last, refused.fault.unwrap().code.as_str()), (max, true, "busy"));
    }

    #[tokio::test]
    async fn a_host_whose_policy_says_so_sends_none() {
        let (outbound, mut sent) = mpsc::channel(64);
        Logs::new(None, Outputs::default(), outbound).begin(7, &wanted());
        let refused = chunk(sent.recv().await.unwrap());
        assert_eq!((refused.last, refused.fault.unwrap().code.as_str()), (true, "policy_denied"));
    }

    #[tokio::test]
    async fn a_question_that_is_no_name_does_not_reach_the_engine() {
        for name in ["x/export?", "../images/x", "x%2f..", "", "x y"] {
            let (outbound, mut sent) = mpsc::channel(64);
            Logs::new(Some(Arc::new(Endless)), Outputs::default(), outbound).begin(7, &pb::Logs { container: name.to_owned(), ..wanted() });
            let refused = chunk(sent.recv().await.unwrap());
            assert_eq!((refused.last, refused.fault.unwrap().code.as_str()), (true, "invalid_argument"), "{name}");
        }
    }

    #[test]
    fn parts_are_joined_in_their_order_and_split_where_they_are_too_long() {
        let mut joined = Joined::default();
        let part = |len: usize, is_stderr| LogPart { data: vec![b'x'; len], is_stderr };
        for one in [part(1, false), part(2, false), part(3, true), part(LOG_PART_MAX * 2, true), part(0, false), part(1, false)] {
            joined.add(one);
        }
        let sizes: Vec<(usize, bool)> = joined.0.iter().map(|part| (part.data.len(), part.is_stderr)).collect();
        assert_eq!(sizes, [(3, false), (LOG_PART_MAX, true), (LOG_PART_MAX, true), (3, true), (1, false)]);
    }
}
