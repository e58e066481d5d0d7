//! Operations on their way: to the hosts in the order of their submission, and their news to those who follow them.
//!
//! One task at a time delivers to a session, for as long as there is something to deliver. Whatever has not ended is sent
//! again in each session: the host knows what it has, and answers with where that stands.

use moorline_common::id::{HostId, OpId, UnixSeconds};
use moorline_common::op::{OP_SKEW_S, Stage};
use tokio_util::sync::CancellationToken;

use crate::fleet::{Outgoing, Way};
use crate::hub::Hub;
use crate::limits;
use crate::store::{DueOp, Result};

mod journal;
mod logs;
mod readings;
mod watch;

pub use journal::{Journals, Reading};
pub use logs::{Chunk, Log, Logs, Wanted};
pub use watch::{Watch, Watches};

/// Who waits for news of operations and for journals.
#[derive(Debug, Default)]
pub struct Ops {
    /// Those who follow an operation.
    pub watches: Watches,
    /// Those who read a journal.
    pub journals: Journals,
    /// Those who read a log.
    pub logs: Logs,
}

/// Lets what waits for a host go out, if it is connected.
pub fn wake(hub: &Hub, host: &HostId) {
    let Some(way) = hub.fleet.way(host) else { return };
    if way.delivery.begin() {
        tokio::spawn(deliver(hub.clone(), host.clone(), way));
    }
}

/// Lets an operation that was just stored go out.
pub fn submitted(hub: &Hub, host: &HostId) {
    if let Some(way) = hub.fleet.way(host) {
        way.delivery.news();
    }
    wake(hub, host);
}

async fn deliver(hub: Hub, host: HostId, way: Way) {
    let turns = async {
        loop {
            let has_news = way.delivery.look();
            let is_left = match turn(&hub, &host, &way, has_news).await {
                Ok(is_left) => is_left,
                Err(error) => {
                    tracing::error!(%error, %host, "operations cannot be delivered to this host; it is tried again");
                    true
                }
            };
            if way.delivery.end(is_left) {
                return;
            }
        }
    };
    tokio::select! {
        () = way.cut.cancelled() => {}
        () = hub.stopping.cancelled() => {}
        () = turns => {}
    }
}

/// Sends all that can be sent now, operations only if it `has_news` of them. `true` when something is left that must wait for the host.
async fn turn(hub: &Hub, host: &HostId, way: &Way, has_news: bool) -> Result<bool> {
    loop {
        while let Some((op_id, outcome)) = way.delivery.next_ack() {
            if way.tx.send(Outgoing::OpAck { op_id, outcome }).await.is_err() {
                return Ok(has_news);
            }
        }
        if !has_news {
            return Ok(false);
        }
        // An order that was signed under a newer root than the host has would be refused for good.
        let Some(root_version) = hub.fleet.judges_orders_by(host, way.session) else { return Ok(true) };
        let page = hub.store.due_ops(host.clone(), way.delivery.cursor(), limits::OPS_PAGE).await?;
        let Some(last) = page.last().map(|op| op.sequence) else { return Ok(false) };
        let now = hub.clock.unix_s();
        let mut is_left = false;
        let sendable: Vec<DueOp> = page
            .into_iter()
            .take_while(|op| {
                is_left |= op.root_version > root_version;
                !is_left
            })
            // The host would refuse those; the hub ends them.
            .filter(|op| op.host_epoch == way.epoch.as_str() && !(op.stage == Stage::Submitted && is_over(op, now)))
            .collect();
        let fresh: Vec<OpId> = sendable.iter().filter(|op| op.stage == Stage::Submitted).map(|op| op.op_id.clone()).collect();
        let marked = if fresh.is_empty() { Vec::new() } else { hub.store.ops_sent(fresh).await? };
        for op_id in &marked {
            hub.ops.watches.is_further(op_id);
        }
        for op in sendable {
            if op.stage == Stage::Submitted && !marked.contains(&op.op_id) {
                continue;
            }
            let message = match &op.saga_id {
                None => Outgoing::Op(op.envelope),
                // As of now: more was signed since it was handed in, and nothing of that is lost.
                Some(saga_id) => match hub.store.saga_evidence(saga_id.clone()).await? {
                    Some(evidence) => Outgoing::SagaOrder { op: op.envelope, evidence: Box::new(evidence) },
                    None => Outgoing::Op(op.envelope),
                },
            };
            if way.tx.send(message).await.is_err() {
                return Ok(true);
            }
            way.delivery.passed(op.sequence);
        }
        if is_left {
            return Ok(true);
        }
        way.delivery.passed(last);
    }
}

/// Whether no host would begin it any more, however its clock differs.
fn is_over(op: &DueOp, now: UnixSeconds) -> bool {
    op.expires_at.plus(OP_SKEW_S) < now
}

/// Ends what was never sent and is over, and sees to hosts that something waits for.
pub struct Service {
    hub: Hub,
}

impl Service {
    /// The one of `hub`.
    #[must_use]
    pub fn new(hub: Hub) -> Self {
        Self { hub }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut sweep = tokio::time::interval(limits::OPS_SWEEP);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = sweep.tick() => {}
            }
            for host in self.hub.fleet.waiting_for_ops() {
                wake(&self.hub, &host);
            }
            if let Err(error) = self.reopen_drift().await {
                tracing::error!(%error, "drifts that were ignored for long enough could not be opened again; it is tried again");
            }
            if let Err(error) = self.expire().await {
                tracing::error!(%error, "operations whose time is over could not be ended; it is tried again");
            }
        }
    }

    /// Opens drifts again that were ignored for long enough.
    async fn reopen_drift(&self) -> Result<()> {
        while self.hub.store.has_drift_to_reopen(self.hub.clock.unix_ms()).await?
            && self.hub.store.reopen_drift(limits::DRIFT_REOPENED_BATCH).await? > 0
        {}
        Ok(())
    }

    async fn expire(&self) -> Result<()> {
        let before = UnixSeconds(self.hub.clock.unix_s().0.saturating_sub(OP_SKEW_S));
        loop {
            if !self.hub.store.has_overdue_ops(before).await? {
                return Ok(());
            }
            for op_id in self.hub.store.expire_ops(before, limits::OPS_EXPIRED_BATCH).await? {
                self.hub.ops.watches.changed(&op_id);
            }
        }
    }
}
