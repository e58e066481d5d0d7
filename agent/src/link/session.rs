//! One session with a hub: Hello, Welcome, then heartbeats and reports one way, signed statements the other.
//!
//! Nothing here waits for the engine: the host's state comes from a `watch`, and the ledger is read afresh
//! for every heartbeat.

use std::future::pending;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::pulling::Pulling;
use moorline_proto::v1::agent_message::Kind as Up;
use moorline_proto::v1::hub_message::Kind as Down;
use moorline_proto::{PROTOCOL_MIN, PROTOCOL_VERSION, v1 as pb};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::logs::Logs;
use super::transport::{Gateway, LinkError, Which, promote, renew};
use super::{LinkState, Parts, witness};
use crate::clock::Clock;
use crate::db::{DbError, blocking};
use crate::identity::Transport;
use crate::intake::Refused;
use crate::journal::Journal;
use crate::limits::{
    HEARTBEAT_GAP, HEARTBEAT_INTERVAL_RANGE, HELD_BYTES_MAX, HELD_ROOTS_MAX, HUB_ANSWER_TIMEOUT, OUTBOUND_QUEUE, PULLS_GAP, RECEIPTS_AGAIN,
    RENEW_RETRY, SEND_TIMEOUT,
};
use crate::ops;
use crate::records::JOURNAL;
use crate::report::HostState;

/// Why a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A renewed certificate is to be used from now on.
    Renewed,
}

/// What a session is opened with.
pub(super) struct With<'a> {
    /// The connection.
    pub(super) gateway: Gateway,
    /// Where refusals are noted.
    pub(super) link: &'a watch::Sender<LinkState>,
    /// The certificate of the connection.
    pub(super) certificate: Transport,
    /// Whether it has been used before.
    pub(super) which: Which,
    /// No renewal before then, whatever this host's clock says.
    pub(super) renew_not_before: Instant,
}

pub(super) struct Session<'a, J> {
    pub(super) parts: &'a mut Parts<J>,
    gateway: Gateway,
    pub(super) link: &'a watch::Sender<LinkState>,
    pub(super) outbound: mpsc::Sender<pb::AgentMessage>,
    inbound: Streaming<pb::HubMessage>,
    state: watch::Receiver<HostState>,
    interval: Duration,
    sequence: u64,
    last_beat_at: Instant,
    next_beat: Instant,
    last_beat: pb::Heartbeat,
    /// When the hub is told of pulls again; `None` while there is no news of them.
    next_pulls: Option<Instant>,
    last_pulls_at: Option<Instant>,
    pulls_told: Vec<Pulling>,
    /// The digests of the report that was sent last in this session.
    reported: Option<(String, String)>,
    /// The newest journal record whose operation the hub was told of in this session.
    pub(super) ops_told: u64,
    /// When the hub was last told of all of them.
    ops_told_at: Instant,
    /// The logs that are being sent.
    logs: Logs,
    /// The part of the journal that is being sent.
    pub(super) reading: Option<JoinHandle<()>>,
    /// The serial of this session's certificate.
    serial: u64,
    renew_at: Instant,
    renew_failures: u32,
    renewing: Option<JoinHandle<Result<u64, LinkError>>>,
}

impl<'a, J: Journal> Session<'a, J> {
    /// Says Hello and waits for Welcome.
    pub(super) async fn open(parts: &'a mut Parts<J>, with: With<'a>) -> Result<Self, LinkError> {
        let With { mut gateway, link, certificate, which, renew_not_before } = with;
        let (outbound, receiver) = mpsc::channel(OUTBOUND_QUEUE);
        let hello = pb::Hello {
            protocol_version: PROTOCOL_VERSION,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            host_epoch: parts.keys.epoch.to_string(),
            boot_id: Clock.boot().boot_id,
            drivers: vec![parts.driver.to_owned()],
        };
        // Before the call: the hub may wait for Hello before it answers at all.
        let _ = outbound.try_send(pb::AgentMessage { kind: Some(Up::Hello(hello)) });
        let opening = async {
            let mut inbound = gateway.session(ReceiverStream::new(receiver)).await?.into_inner();
            let first = inbound.message().await?.and_then(|m| m.kind);
            Ok::<_, tonic::Status>((inbound, first))
        };
        let opened = tokio::time::timeout(HUB_ANSWER_TIMEOUT, opening).await;
        let (inbound, first) = opened.map_err(|_| LinkError::Ended("no Welcome".to_owned()))??;
        let Some(Down::Welcome(welcome)) = first else {
            return Err(LinkError::Ended("the hub's first message was not Welcome".to_owned()));
        };
        if !(PROTOCOL_MIN..=PROTOCOL_VERSION).contains(&welcome.protocol_version) {
            return Err(LinkError::Version(welcome.protocol_version));
        }
        if parts.quarantine.is_none() {
            witness::check(&welcome, &parts.journal.head(), parts.state_dir.0.join(JOURNAL)).await?;
        }
        parts.ops.records_are_current();
        let (shortest, longest) = HEARTBEAT_INTERVAL_RANGE;
        let mut state = parts.reconciler.state();
        state.mark_changed();
        if which == Which::Next {
            // The hub knows it now, and the old one no longer counts.
            promote(&parts.state_dir).await?;
            tracing::info!(serial = certificate.serial, "the renewed certificate is in use");
        }
        crate::crash::point("link.welcome");
        let logs = Logs::new(parts.logs.clone(), parts.ops.outputs().clone(), outbound.clone());
        let now = Instant::now();
        let renew_at = (now + renew_wait(&certificate)?).max(renew_not_before);
        Ok(Self {
            parts,
            gateway,
            link,
            outbound,
            inbound,
            state,
            interval: Duration::from_millis(welcome.heartbeat_interval_ms.into()).clamp(shortest, longest),
            sequence: 0,
            last_beat_at: now,
            next_beat: now,
            last_beat: pb::Heartbeat::default(),
            // Of an earlier session's pulls this hub may not know.
            next_pulls: Some(now),
            last_pulls_at: None,
            pulls_told: Vec::new(),
            reported: None,
            ops_told: 0,
            ops_told_at: now,
            logs,
            reading: None,
            serial: certificate.serial,
            renew_at,
            renew_failures: 0,
            renewing: None,
        })
    }

    /// Runs until the connection ends.
    pub(super) async fn run(mut self) -> Result<End, LinkError> {
        let mut trust = self.parts.intake.trust();
        let mut target = self.parts.intake.target();
        let mut ops = self.parts.ops.news();
        // All that this hub may not know.
        ops.mark_changed();
        let mut pulls = self.parts.pulls.clone();
        let mut trial = self.parts.intake.trial_news();
        loop {
            tokio::select! {
                message = self.inbound.message() => match message? {
                    Some(message) => self.take(message).await?,
                    None => return Err(LinkError::Ended("the hub closed the session".to_owned())),
                },
                Ok(()) = self.state.changed() => self.beat_soon(),
                Ok(()) = ops.changed() => {
                    self.tell_ops().await?;
                    self.beat_soon();
                }
                Ok(()) = trust.changed() => self.beat_soon(),
                Ok(()) = target.changed() => self.beat_soon(),
                Ok(()) = trial.changed() => self.beat_soon(),
                () = tokio::time::sleep_until(self.next_beat) => self.beat().await?,
                () = pulls.changed(), if self.next_pulls.is_none() => self.tell_pulls_soon(),
                () = due(self.next_pulls) => self.tell_pulls(pulls.now()),
                () = tokio::time::sleep_until(self.renew_at), if self.renewing.is_none() => self.begin_renewal(),
                result = joined(&mut self.renewing) => if self.renewed(result) { return Ok(End::Renewed) },
            }
        }
    }

    async fn take(&mut self, message: pb::HubMessage) -> Result<(), LinkError> {
        let (kind, result) = match message.kind {
            Some(Down::Slice(envelope)) => ("slice", self.parts.intake.slice(envelope.json).await),
            Some(Down::Binding(envelope)) => ("host-binding", self.parts.intake.binding(envelope.json).await),
            Some(Down::Root(envelope)) => ("root", self.parts.intake.root(envelope.json).await),
            Some(Down::Query(query)) => return self.answer(query).await,
            Some(Down::Op(envelope)) => return self.take_op(envelope.json, None).await,
            Some(Down::SagaOrder(order)) => return self.take_saga_order(order).await,
            Some(Down::OpAck(ack)) => {
                self.take_ack(ack).await;
                return Ok(());
            }
            // A second Welcome, or something that a newer hub says: no reason to act.
            Some(Down::Welcome(_)) | None => ("", Ok(())),
        };
        if let Err(mut refused) = result {
            if let (Some(quarantine), Code::WrongEpoch) = (&self.parts.quarantine, refused.fault.code) {
                // The life that it names ended with the quarantine: that is what an operator has to know.
                refused.fault = quarantine.clone();
            }
            self.refuse(refused).await?;
        } else {
            self.taken(kind);
        }
        self.beat_soon();
        Ok(())
    }

    /// A refusal is news until something of the same kind is taken.
    pub(super) fn taken(&self, kind: &str) {
        self.link.send_if_modified(|s| s.last_refusal.take_if(|refused| refused.kind == kind).is_some());
    }

    pub(super) async fn refuse(&self, refused: Refused) -> Result<(), LinkError> {
        self.link.send_modify(|s| s.last_refusal = Some(refused.clone()));
        self.send(Up::Refusal(refusal(refused))).await
    }

    async fn answer(&mut self, query: pb::Query) -> Result<(), LinkError> {
        match query.what() {
            pb::query::What::Unspecified => Ok(()),
            pb::query::What::Journal => {
                self.send_journal(query.request_id, query.from_seq);
                Ok(())
            }
            pb::query::What::Logs => {
                self.logs.begin(query.request_id, &query.logs.unwrap_or_default());
                Ok(())
            }
            pb::query::What::More => {
                self.logs.more(query.request_id);
                Ok(())
            }
            pb::query::What::End => {
                self.logs.end(query.request_id);
                Ok(())
            }
            pb::query::What::Report => {
                self.reported = None;
                self.parts.reconciler.look();
                self.next_beat = Instant::now();
                Ok(())
            }
            pb::query::What::Held => {
                for held in self.held().await? {
                    self.send(Up::Held(held)).await?;
                }
                Ok(())
            }
        }
    }

    /// What operators signed and this host holds, in as many messages as it takes to keep each within bounds.
    async fn held(&self) -> Result<Vec<pb::Held>, LinkError> {
        let (store, ledger) = (self.parts.trust_store.clone(), self.parts.ledger.clone());
        let read = move || Ok::<_, DbError>((store.root_rows()?, store.binding_row()?, ledger.accepted()?));
        let (roots, binding, slice) = blocking(read).await?;
        let skipped = roots.len().saturating_sub(HELD_ROOTS_MAX);
        let roots = roots.into_iter().skip(skipped).collect();
        Ok(held_messages(roots, binding, slice.map(|s| s.envelope).filter(|json| !json.is_empty())))
    }

    /// A change is told at once, but changes that come together are told together.
    fn beat_soon(&mut self) {
        let earliest = if self.sequence == 0 { Instant::now() } else { self.last_beat_at + HEARTBEAT_GAP };
        self.next_beat = self.next_beat.min(earliest);
    }

    /// Sends the report if it changed, then the heartbeat.
    async fn beat(&mut self) -> Result<(), LinkError> {
        if self.ops_told_at.elapsed() >= RECEIPTS_AGAIN {
            // Also receipts that the hub took and could not keep.
            (self.ops_told, self.ops_told_at) = (0, Instant::now());
            self.tell_ops().await?;
        }
        let state = self.state.borrow_and_update().clone();
        self.report(&state).await?;
        let mut beat = self.heartbeat(&state).await;
        let now = Instant::now();
        let is_due = self.sequence == 0 || now >= self.last_beat_at + self.interval;
        let is_news = {
            self.last_beat.sequence = 0;
            beat != self.last_beat
        };
        if is_due || is_news {
            self.last_beat = beat.clone();
            self.sequence += 1;
            beat.sequence = self.sequence;
            self.last_beat_at = now;
            self.send(Up::Heartbeat(beat)).await?;
        }
        self.next_beat = self.last_beat_at + self.interval;
        Ok(())
    }

    /// News of pulls comes many times in a second; the hub is told now and then.
    fn tell_pulls_soon(&mut self) {
        let now = Instant::now();
        self.next_pulls = Some(self.last_pulls_at.map_or(now, |at| (at + PULLS_GAP).max(now)));
    }

    /// Tells the hub what is pulled. Where there is no room for that now, there may be for newer news: nothing waits for it.
    fn tell_pulls(&mut self, now: Vec<Pulling>) {
        (self.next_pulls, self.last_pulls_at) = (None, Some(Instant::now()));
        if now == self.pulls_told {
            return;
        }
        let message = pb::Pulls { pulls: now.iter().cloned().map(pb::Pull::from).collect() };
        match self.outbound.try_send(pb::AgentMessage { kind: Some(Up::Pulls(message)) }) {
            Ok(()) => self.pulls_told = now,
            Err(_) => self.tell_pulls_soon(),
        }
    }

    async fn report(&mut self, state: &HostState) -> Result<(), LinkError> {
        let digests = (state.observed_digest.clone(), state.apply_digest.clone());
        if state.observed_digest.is_empty() || self.reported.as_ref() == Some(&digests) {
            return Ok(());
        }
        let signed = match state.sign(&self.parts.keys.host_id(), &self.parts.keys.host_key) {
            Ok(signed) => signed,
            Err(fault) => {
                // Said once. The heartbeat goes on: without it the host would seem lost.
                tracing::error!(error = %fault, "the report cannot be sent");
                self.reported = Some(digests);
                return Ok(());
            }
        };
        let observed = pb::Observed { report: Some(signed.envelope().into()), digest: digests.0.clone(), apply_digest: digests.1.clone() };
        self.send(Up::Observed(observed)).await?;
        self.reported = Some(digests);
        Ok(())
    }

    async fn heartbeat(&self, state: &HostState) -> pb::Heartbeat {
        let ledger = self.parts.ledger.clone();
        let standing = blocking(move || ledger.standing()).await.unwrap_or_else(|error: DbError| {
            // The truth is then that nothing is known to be applied.
            tracing::error!(%error, "the ledger cannot be read");
            crate::ledger::Standing::default()
        });
        let trust = self.parts.intake.trust().borrow().clone();
        let enforcing = self.parts.intake.target().borrow().desired.is_some();
        let head = self.parts.journal.head();
        let (open_ops, indeterminate_ops) = self.parts.journal.read(ops::receipt::counts);
        let error = self.parts.quarantine.as_ref().or(standing.last_error.as_ref());
        pb::Heartbeat {
            sequence: 0,
            root_version: trust.root_version(),
            topology: standing.topology.map(String::from).unwrap_or_default(),
            generation: standing.generation.0,
            applied_hash: standing.applied.map(String::from).unwrap_or_default(),
            applied_generation: standing.applied_generation.0,
            healthy_generation: standing.healthy_generation.0,
            rolled_back_generation: standing.rolled_back_generation.0,
            observed_digest: state.observed_digest.clone(),
            engine: pb::EngineState::from(state.engine()).into(),
            converging: state.apply.converging,
            journal_seq: head.seq,
            journal_head: head.short(),
            open_ops,
            indeterminate_ops,
            last_error_code: error.map(|f| f.code.as_str().to_owned()).unwrap_or_default(),
            observe_error: state.observe_error(),
            ready: trust.is_ready(),
            binding_serial: trust.binding_serial(),
            enforcing,
        }
    }

    pub(super) async fn send(&self, kind: Up) -> Result<(), LinkError> {
        let message = pb::AgentMessage { kind: Some(kind) };
        match self.outbound.send_timeout(message, SEND_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(LinkError::Ended("the hub does not read".to_owned())),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Err(LinkError::Ended("the hub closed the session".to_owned())),
        }
    }

    fn begin_renewal(&mut self) {
        let renewal = renew(self.gateway.clone(), self.parts.state_dir.clone(), self.parts.keys.clone(), self.serial);
        self.renewing = Some(tokio::spawn(renewal));
    }

    /// Takes the end of a renewal; true when there is a new certificate to use.
    fn renewed(&mut self, result: Result<u64, LinkError>) -> bool {
        self.renewing = None;
        match result {
            Ok(serial) => {
                tracing::info!(serial, "the transport certificate was renewed");
                true
            }
            Err(error) => {
                self.renew_failures = self.renew_failures.saturating_add(1);
                tracing::warn!(%error, "the transport certificate could not be renewed");
                self.renew_at = Instant::now() + RENEW_RETRY.wait(self.renew_failures, getrandom::u64().unwrap_or(0));
                false
            }
        }
    }
}

impl<J> Drop for Session<'_, J> {
    fn drop(&mut self) {
        for task in self.renewing.iter().map(JoinHandle::abort_handle).chain(self.reading.iter().map(JoinHandle::abort_handle)) {
            task.abort();
        }
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => pending().await,
    }
}

async fn joined(task: &mut Option<JoinHandle<Result<u64, LinkError>>>) -> Result<u64, LinkError> {
    match task {
        Some(task) => task.await.unwrap_or_else(|e| Err(LinkError::Ended(e.to_string()))),
        None => pending().await,
    }
}

/// How long until the certificate has lived half its life, and up to a tenth of it more.
fn renew_wait(certificate: &Transport) -> Result<Duration, LinkError> {
    let (from, until) = certificate.validity()?;
    let life = until.saturating_sub(from);
    let jitter = getrandom::u64().unwrap_or(0) % (life / 10).max(1);
    Ok(Duration::from_secs((from + life / 2 + jitter).saturating_sub(Clock.wall().0)))
}

fn refusal(refused: Refused) -> pb::Refusal {
    pb::Refusal { fault: Some(refused.fault.into()), payload_sha256: refused.payload_sha256, kind: refused.kind.to_owned() }
}

/// Splits what is held into messages of bounded size, in the order in which it is verified.
fn held_messages(roots: Vec<Vec<u8>>, binding: Option<Vec<u8>>, slice: Option<Vec<u8>>) -> Vec<pb::Held> {
    let (mut messages, mut last, mut bytes) = (Vec::new(), pb::Held::default(), 0);
    let mut room = |last: &mut pb::Held, json: &[u8]| {
        if bytes > 0 && bytes + json.len() > HELD_BYTES_MAX {
            messages.push(std::mem::take(last));
            bytes = 0;
        }
        bytes += json.len();
    };
    for json in roots {
        room(&mut last, &json);
        last.roots.push(pb::Envelope { json });
    }
    if let Some(json) = binding {
        room(&mut last, &json);
        last.binding = Some(pb::Envelope { json });
    }
    if let Some(json) = slice {
        room(&mut last, &json);
        last.slice = Some(pb::Envelope { json });
    }
    messages.push(last);
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_in_messages_that_the_hub_can_take() {
        let large = vec![b'x'; HELD_BYTES_MAX / 2];
        let messages = held_messages(vec![large.clone(); 3], Some(b"binding".to_vec()), Some(large));
        let shapes: Vec<_> = messages.iter().map(|m| (m.roots.len(), m.binding.is_some(), m.slice.is_some())).collect();
        assert_eq!(shapes, [(2, false, false), (1, true, false), (0, false, true)]);
        let small = held_messages(vec![b"root".to_vec()], Some(b"binding".to_vec()), Some(b"slice".to_vec()));
        assert_eq!(small.len(), 1, "little comes at once");
        assert_eq!(held_messages(Vec::new(), None, None), [pb::Held::default()]);
    }
}
