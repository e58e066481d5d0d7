//! What commands say while they run, and the tasks of operations on guests, on its way to who takes it as it comes.
//!
//! Who wants it says so before the order is handed in, as most commands are over in no time. Of a command anybody gets anything only if its
//! order is signed to be taken so (`stream`): who takes it may hold it up. An operation on a guest is held up by nobody: who does not keep
//! up with the log of a task loses the rest of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt as _};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::OpId;
use moorline_common::op::Act;
use tokio::sync::mpsc;

use crate::driver::logs::{LogPart, LogStream};
use crate::driver::{DriverError, OpOrder, Taker};
use crate::limits::OUTPUT_PATIENCE;

/// Who waits for the output of which command. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Outputs(Arc<Mutex<BTreeMap<OpId, mpsc::Sender<LogPart>>>>);

/// A command's output, for as long as it is kept.
struct Taken {
    outputs: Outputs,
    op_id: OpId,
    parts: mpsc::Receiver<LogPart>,
}

impl Outputs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OpId, mpsc::Sender<LogPart>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the output of a command, or the log of an operation on a guest, that has not begun. Parts come from when it begins until it
    /// has ended.
    ///
    /// # Errors
    /// [`Code::Busy`] when somebody else takes it already.
    pub fn take(&self, op_id: OpId) -> Result<LogStream, Fault> {
        let mut waiting = self.lock();
        if waiting.get(&op_id).is_some_and(|way| !way.is_closed()) {
            return Err(Fault::new(Code::Busy, format!("the output of operation {op_id} is taken already")));
        }
        let (way, parts) = mpsc::channel(1);
        waiting.insert(op_id.clone(), way);
        drop(waiting);
        Ok(Taken { outputs: self.clone(), op_id, parts }.map(Ok::<_, DriverError>).boxed())
    }

    /// Who takes what `order` says: of a command, if it is signed to be taken as it comes, as nobody else is let to hold it up; of an
    /// operation on a guest for each of its tasks anew, until it has [ended](Self::ended).
    pub(super) fn taker(&self, order: &OpOrder) -> Taker {
        let mut waiting = self.lock();
        if let Act::Guest(_) = &order.act {
            let way = waiting.get(&order.op_id).cloned();
            return way.map_or_else(Taker::nobody, |way| Taker::within(way, OUTPUT_PATIENCE));
        }
        let way = waiting.remove(&order.op_id);
        let may_be_held_up = matches!(&order.act, Act::Exec(command) if command.stream);
        way.filter(|_| may_be_held_up).map_or_else(Taker::nobody, Taker::new)
    }

    /// Nothing more comes of an operation.
    pub(super) fn ended(&self, op_id: &OpId) {
        self.lock().remove(op_id);
    }
}

impl Stream for Taken {
    type Item = LogPart;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LogPart>> {
        self.parts.poll_recv(context)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.parts.close();
        let mut waiting = self.outputs.lock();
        if waiting.get(&self.op_id).is_some_and(mpsc::Sender::is_closed) {
            waiting.remove(&self.op_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use moorline_common::id::ResourceId;
    use serde_json::json;

    use super::*;

    fn op_id() -> OpId {
        OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap()
    }

    fn order(stream: bool) -> OpOrder {
        let params = json!({ "argv": ["true"], "stream": stream, "timeout_s": 5 });
        let resource = ResourceId::parse("docker/container/c").unwrap();
        let act = Act::read("exec", &params, &resource).unwrap();
        OpOrder { op_id: op_id(), resource, incarnation: None, state: None, act, wanted: Default::default() }
    }

    #[tokio::test]
    async fn who_takes_it_gets_all_of_it_until_its_end() {
        let outputs = Outputs::default();
        let mut taken = outputs.take(op_id()).unwrap();
        assert_eq!(outputs.take(op_id()).err().unwrap().code, Code::Busy);
        let mut taker = outputs.taker(&order(true));
        let say = async {
            for n in 0..9_u8 {
                taker.give(&[n], n % 2 == 1).await;
            }
            drop(taker);
        };
        let hear = async {
            let mut heard = Vec::new();
            while let Some(part) = taken.next().await {
                let part = part.unwrap();
                heard.push((part.data, part.is_stderr));
            }
            heard
        };
        let ((), heard) = tokio::join!(say, hear);
        assert!(heard.into_iter().eq((0..9_u8).map(|n| (vec![n], n % 2 == 1))));
    }

    #[tokio::test]
    async fn a_command_that_nobody_hears_any_more_goes_on() {
        let outputs = Outputs::default();
        drop(outputs.take(op_id()).unwrap());
        assert!(outputs.lock().is_empty() && !outputs.taker(&order(true)).is_somebody());
        let taken = outputs.take(op_id()).unwrap();
        let mut taker = outputs.taker(&order(true));
        drop(taken);
        taker.give(b"on", false).await;
        assert!(!taker.is_somebody());
    }

    #[tokio::test]
    async fn a_command_that_is_not_signed_to_be_streamed_is_held_up_by_nobody() {
        let outputs = Outputs::default();
        let mut taken = outputs.take(op_id()).unwrap();
        assert!(!outputs.taker(&order(false)).is_somebody());
        assert!(taken.next().await.is_none(), "and who asked for it is told at once");
    }

    fn guest_order() -> OpOrder {
        let resource = ResourceId::parse("pve/guest/101").unwrap();
        let act = Act::read("backup", &json!({ "storage": "local" }), &resource).unwrap();
        OpOrder { resource, act, ..order(false) }
    }

    #[tokio::test]
    async fn the_log_of_an_operation_on_a_guest_goes_on_over_all_its_tasks_and_ends_with_it() {
        let outputs = Outputs::default();
        let mut taken = outputs.take(op_id()).unwrap();
        let say = async {
            for n in 0..3_u8 {
                let mut taker = outputs.taker(&guest_order());
                taker.give(&[n], false).await;
            }
            outputs.ended(&op_id());
        };
        let hear = async {
            let mut heard = Vec::new();
            while let Some(part) = taken.next().await {
                heard.extend(part.unwrap().data);
            }
            heard
        };
        let ((), heard) = tokio::join!(say, hear);
        assert_eq!(heard, [0, 1, 2]);
        assert!(outputs.lock().is_empty() && !outputs.taker(&guest_order()).is_somebody());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_keep_up_with_the_log_of_a_guests_task_holds_nothing_up() {
        let outputs = Outputs::default();
        let mut taken = outputs.take(op_id()).unwrap();
        let mut taker = outputs.taker(&guest_order());
        let began = tokio::time::Instant::now();
        for n in 0..9_u8 {
            taker.give(&[n], false).await;
        }
        assert!(!taker.is_somebody() && began.elapsed() <= 2 * OUTPUT_PATIENCE);
        assert_eq!(taken.next().await.unwrap().unwrap().data, [0]);
        let mut next = outputs.taker(&guest_order());
        next.give(b"next", false).await;
        assert_eq!(taken.next().await.unwrap().unwrap().data, b"next", "the next task is heard again");
    }
}
