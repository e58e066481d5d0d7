//! One agent's session: its messages in, the hub's out, until either side ends it.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault, cut};
use moorline_common::id::{Generation, HostEpoch, HostId, TopologyId, sha256_hex};
use moorline_common::observe::EngineState;
use moorline_common::sign::{Envelope, PayloadType, Signed};
use moorline_common::statement::{DRIFT_MAX, ObservedReport};
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Said;
use moorline_proto::{PROTOCOL_MIN, PROTOCOL_VERSION};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::agent::SessionStream;
use super::{adopt, fault_status, permitted, session_ops, wire};
use crate::auth::{Actor, Peer};
use crate::events::{Kind, NewEvent};
use crate::fleet::{Outgoing, ReportBrief, SessionHold, Unkept};
use crate::hub::Hub;
use crate::limits;
use crate::ops;
use crate::store::{DriftReport, RefusalRecord, RefusedKind, ReportRecord, StoreError, TargetRecord};

/// Opens a session and lets it run in its own task.
pub(super) async fn open(hub: &Hub, peer: Peer, mut inbound: Streaming<pb::AgentMessage>) -> Result<SessionStream, Status> {
    let (host, certificate) = permitted(hub, &peer, peer.agent(hub.clock.unix_s().0)).await?;
    let hello = tokio::time::timeout(limits::HELLO_TIMEOUT, inbound.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello came"))??
        .and_then(|m| m.kind);
    let Some(Said::Hello(hello)) = hello else {
        return Err(fault_status(wire::invalid("the first message of a session must be Hello")));
    };
    let epoch = check_hello(&hello).map_err(fault_status)?;
    let (name, known) = hub.fleet.name(&host);
    if !hub.fleet.admits_session(&host, hub.clock.monotonic_ms()) {
        return Err(fault_status(Fault::new(Code::Busy, "this host opened too many sessions lately; it may again in a minute")));
    }
    let version = wire::short(&hello.agent_version);
    let event = NewEvent::new(Kind::Connected, peer.actor(), format!("agent {version}")).host(&name);
    let event = hub.within_limit(&host, event);
    let opened = hub.store.session_opened(host.clone(), version.clone(), epoch.clone(), certificate, event).await;
    if let Err(error) = opened {
        let fault = error.into_fault();
        let (limit, kind, prefix) = if fault.code == Code::RenewalConflict {
            (&hub.alarms, Kind::RenewRefused, "ALARM: ")
        } else {
            (&hub.strangers, Kind::CallRefused, "")
        };
        if limit.admits(hub.clock.monotonic_ms()) {
            hub.record(NewEvent::new(kind, peer.actor(), format!("{prefix}{}", fault.message)).host(&name).code(fault.code)).await;
        }
        return Err(fault_status(fault));
    }
    tracing::info!(host = name, %host, known, version, origin = %peer.address(), "session opened");
    let (tx, rx) = mpsc::channel(limits::SESSION_QUEUE);
    // What was witnessed of an earlier life says nothing of this one.
    let witness = Some(hub.fleet.witness(&host)).filter(|w| w.epoch == epoch.as_str()).unwrap_or_default();
    let hold = hub.fleet.open(&host, epoch, tx, peer.not_after_s(), hub.clock.monotonic_ms());
    let welcome = pb::HubMessage {
        kind: Some(pb::hub_message::Kind::Welcome(pb::Welcome {
            protocol_version: hello.protocol_version.min(PROTOCOL_VERSION),
            heartbeat_interval_ms: hub.heartbeat_interval_ms,
            hub_version: env!("CARGO_PKG_VERSION").to_owned(),
            witnessed_journal_seq: witness.seq,
            witnessed_journal_head: witness.head,
        })),
    };
    let outbound = Outbound { first: Some(welcome), rx, ended: Box::pin(ended(hub.stopping.clone(), hold.cut.clone())), done: false };
    let session = Session { hub: hub.clone(), host, actor: peer.actor(), hold };
    tokio::spawn(session.run(inbound));
    Ok(Box::pin(outbound))
}

/// Completes when the hub ends the session, with the status to end it by.
async fn ended(stopping: CancellationToken, cut: CancellationToken) -> Status {
    tokio::select! {
        // A hub that stops ends its sessions, too.
        biased;
        () = stopping.cancelled() => Status::unavailable("the hub is stopping"),
        () = cut.cancelled() => Status::aborted("the hub ended this session"),
    }
}

/// What the hub sends: the welcome, then whatever is queued, until the session ends.
struct Outbound {
    first: Option<pb::HubMessage>,
    rx: mpsc::Receiver<Outgoing>,
    ended: Pin<Box<dyn Future<Output = Status> + Send>>,
    done: bool,
}

impl Stream for Outbound {
    type Item = Result<pb::HubMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.done {
            return Poll::Ready(None);
        }
        // A closed queue means that the session is ending: the status says why.
        if let Poll::Ready(Some(message)) = self.rx.poll_recv(context) {
            return Poll::Ready(Some(Ok(wire::outgoing(message))));
        }
        let Poll::Ready(status) = self.ended.as_mut().poll(context) else { return Poll::Pending };
        self.done = true;
        Poll::Ready(Some(Err(status)))
    }
}

fn check_hello(hello: &pb::Hello) -> Result<HostEpoch, Fault> {
    if !(PROTOCOL_MIN..=PROTOCOL_VERSION + 1).contains(&hello.protocol_version) {
        return Err(Fault::new(
            Code::UnsupportedVersion,
            format!(
                "the agent speaks protocol {}, this hub {PROTOCOL_MIN} to {PROTOCOL_VERSION}; update the older side",
                hello.protocol_version
            ),
        ));
    }
    HostEpoch::parse(hello.host_epoch.as_str()).map_err(|e| wire::invalid(e.to_string()))
}

/// The receiving half of a session.
struct Session {
    hub: Hub,
    host: HostId,
    actor: Actor,
    hold: SessionHold,
}

impl Session {
    async fn run(self, mut inbound: Streaming<pb::AgentMessage>) {
        let reason = loop {
            tokio::select! {
                () = self.hub.stopping.cancelled() => break "the hub is stopping".to_owned(),
                () = self.hold.cut.cancelled() => break "ended by the hub: silent, locked or replaced".to_owned(),
                message = inbound.message() => match message {
                    Ok(Some(message)) => {
                        // Boxed: between two messages a session should take no room for handling one.
                        if let Err(reason) = Box::pin(self.take(message)).await {
                            break reason;
                        }
                    }
                    Ok(None) => break "closed by the agent".to_owned(),
                    Err(status) => break cut(&format!("connection lost: {}", status.message())),
                },
            }
        };
        self.hold.cut.cancel();
        let (name, _) = self.hub.fleet.name(&self.host);
        tracing::info!(host = name, reason, "session ended");
        let was_current = self.hub.fleet.close(&self.host, self.hold.id);
        self.hub.ops.journals.session_ended(&self.host, self.hold.id);
        self.hub.ops.logs.session_ended(&self.host, self.hold.id);
        self.hub.convergence.wake(self.host.clone());
        if was_current {
            self.hub.record_of(&self.host, NewEvent::new(Kind::Disconnected, self.actor, reason).host(name)).await;
        }
    }

    /// Takes one message; an error ends the session.
    async fn take(&self, message: pb::AgentMessage) -> Result<(), String> {
        let clock = &self.hub.clock;
        self.hub.fleet.touch(&self.host, self.hold.id, clock.monotonic_ms(), clock.unix_s().0).map_err(|e| e.to_string())?;
        let taken = match message.kind {
            Some(Said::Heartbeat(heartbeat)) => self.heartbeat(heartbeat).await,
            Some(Said::Observed(observed)) => {
                self.observed(observed).await;
                Ok(())
            }
            Some(Said::Refusal(refusal)) => self.refusal(refusal).await,
            Some(Said::Held(held)) => {
                adopt::take(&self.hub, &self.host, self.hold.id, &self.actor, held).await;
                Ok(())
            }
            Some(Said::Hello(_)) => Err(wire::invalid("a second Hello")),
            Some(Said::OpEvent(event)) => {
                session_ops::event(&self.hub, &self.host, event).await;
                Ok(())
            }
            Some(Said::Receipt(receipt)) => {
                session_ops::receipt(&self.hub, &self.host, self.hold.id, &self.actor, receipt).await;
                Ok(())
            }
            Some(Said::JournalPart(part)) => {
                let fault = part.fault.map(Fault::from).map(|f| Fault::new(f.code, cut(&f.message)));
                self.hub.ops.journals.answer(&self.host, self.hold.id, part.request_id, part.lines, part.last, fault).await;
                Ok(())
            }
            Some(Said::LogChunk(chunk)) => {
                let part = match chunk.fault.map(Fault::from) {
                    Some(fault) => Err(Fault::new(fault.code, cut(&fault.message))),
                    None if chunk.last => Ok(None),
                    None => Ok(Some(ops::Chunk { data: chunk.data, is_stderr: chunk.stderr })),
                };
                self.hub.ops.logs.answer(&self.host, self.hold.id, chunk.request_id, part);
                Ok(())
            }
            Some(Said::Pulls(pulls)) => {
                self.hub.fleet.set_pulls(&self.host, wire::pulls(pulls));
                Ok(())
            }
            // A newer agent says something that this hub does not know: it does not matter here.
            None => Ok(()),
        };
        taken.map_err(|fault| fault.to_string())
    }

    async fn heartbeat(&self, heartbeat: pb::Heartbeat) -> Result<(), Fault> {
        let beat = wire::beat(heartbeat)?;
        let unix_ms = self.hub.clock.unix_ms();
        let json = serde_json::to_vec(&beat).unwrap_or_default();
        let revision = (beat.topology.clone(), beat.generation);
        let outcome = self.hub.fleet.beat(&self.host, beat, unix_ms, self.hub.clock.monotonic_ms());
        if !outcome.changed && outcome.error.is_none() {
            return Ok(());
        }
        self.hub.convergence.wake(self.host.clone());
        ops::wake(&self.hub, &self.host);
        let (name, known) = self.hub.fleet.name(&self.host);
        if known && outcome.changed {
            self.keep(Unkept { beat: Some((json, unix_ms)), ..Unkept::default() });
        }
        self.tell(outcome.error, &name, revision).await;
        Ok(())
    }

    /// Lets the store have what the host said, soon.
    fn keep(&self, said: Unkept) {
        self.hub.fleet.keep(&self.host, said);
        self.hub.keeper.wake();
    }

    /// Records an error that the host reported.
    async fn tell(&self, error: Option<(String, String)>, name: &str, revision: (Option<TopologyId>, Generation)) {
        let Some((code, words)) = error else { return };
        let mut event = NewEvent::new(Kind::Error, self.actor.clone(), words).host(name).code(Code::parse(&code).unwrap_or(Code::Internal));
        if let (Some(topology), generation) = revision {
            event = event.revision(&topology, generation);
        }
        self.hub.record_of(&self.host, event).await;
    }

    async fn observed(&self, observed: pb::Observed) {
        let Some(host_key) = self.hub.fleet.host_key(&self.host) else {
            return;
        };
        let (name, known) = self.hub.fleet.name(&self.host);
        // A report that cannot be used ends no session: the host would be without the hub for as long as it sends such ones.
        let json = match wire::json(observed.report, "report") {
            Ok(json) => json,
            Err(fault) => return self.refuse_report(name, fault, String::new()).await,
        };
        let report = match read_report(&json, &observed.digest, &self.host, &host_key) {
            Ok(report) => report,
            Err(fault) => return self.refuse_report(name, fault, sha256_hex(&json)).await,
        };
        let revision = (report.apply.topology.clone(), report.apply.generation);
        if known {
            let record = ReportRecord { envelope: json, digest: observed.digest.clone(), received_ms: self.hub.clock.unix_ms() };
            let now_ms = self.hub.clock.monotonic_ms();
            let drift = drift_report(&report).and_then(|drift| self.hub.fleet.drift(&self.host, drift, now_ms));
            let drift = drift.map(|(report, events)| (Box::new(report), events));
            self.keep(Unkept { beat: None, report: Some(Box::new(record)), drift });
        }
        let error = self.hub.fleet.report(&self.host, ReportBrief::new(report, observed.digest), self.hub.clock.monotonic_ms());
        self.tell(error, &name, revision).await;
        self.hub.convergence.wake(self.host.clone());
    }

    async fn refuse_report(&self, name: String, fault: Fault, body: String) {
        tracing::warn!(host = name, %fault, "report refused");
        let event = NewEvent::new(Kind::ReportRefused, self.actor.clone(), fault.message).host(name).code(fault.code).body(body);
        self.hub.record_of(&self.host, event).await;
    }

    /// Whether `payload` is what the store now holds for `target`, though not what was pushed.
    async fn is_changed_target(&self, target: &TargetRecord, payload: &str) -> bool {
        let stored = self.hub.store.slice(target.topology.clone(), target.generation, self.host.clone()).await;
        let Ok(Some(json)) = stored else { return false };
        sha256_hex(&json) == payload || Envelope::from_json(&json).is_ok_and(|e| e.payload_sha256() == payload)
    }

    async fn refusal(&self, refusal: pb::Refusal) -> Result<(), Fault> {
        let (name, known) = self.hub.fleet.name(&self.host);
        let given = refusal.fault.map(Fault::from).unwrap_or_else(|| Fault::new(Code::Internal, "refused without a reason"));
        let fault = Fault::new(given.code, cut(&given.message));
        let payload: String = refusal.payload_sha256.chars().filter(char::is_ascii_hexdigit).take(64).collect();
        if refusal.kind == PayloadType::Op.word() && session_ops::refused(&self.hub, &self.host, &self.actor, &payload, &fault).await {
            return Ok(());
        }
        let mut event = NewEvent::new(Kind::Refused, self.actor.clone(), format!("{}: {}", wire::short(&refusal.kind), fault.message))
            .host(&name)
            .code(fault.code)
            .body(&payload);
        let target = self.hub.fleet.view(&self.host).target;
        let mut record = RefusedKind::parse(&refusal.kind).map(|kind| RefusalRecord { kind, payload_sha256: payload.clone(), fault });
        let mut about_target = target.as_ref().is_some_and(|t| t.payload_sha256 == payload);
        if let (Some(record), Some(target), false) = (&mut record, &target, about_target)
            && self.is_changed_target(target, &payload).await
        {
            // Bytes that changed in the store are refused in the target's name: it is what cannot be had.
            record.payload_sha256.clone_from(&target.payload_sha256);
            about_target = true;
        }
        if let Some(target) = target.filter(|_| about_target) {
            event = event.revision(&target.topology, target.generation);
        }
        tracing::warn!(host = name, code = given.code.as_str(), kind = refusal.kind, "the host refused a statement");
        match record {
            Some(record) if known && (about_target || record.kind != RefusedKind::Slice) => {
                if self.hub.fleet.set_refusal(&self.host, &record) {
                    // One that refuses all the time is asked again after a restart of the hub.
                    if let Some(event) = self.hub.within_limit(&self.host, event) {
                        self.hub.store.keep_refusal(self.host.clone(), record, Some(event)).await.map_err(StoreError::into_fault)?;
                    }
                }
                self.hub.convergence.wake(self.host.clone());
            }
            Some(_) | None => self.hub.record_of(&self.host, event).await,
        }
        Ok(())
    }
}

/// What a report says of drift; `None` when the host compared with nothing, or could not see.
fn drift_report(report: &ObservedReport) -> Option<DriftReport> {
    let ObservedReport { observed, apply, .. } = report;
    let topology = apply.topology.clone()?;
    if observed.engine != EngineState::Ready || observed.error.is_some() {
        return None;
    }
    // Bounded here, too: the host signs what it likes.
    let mut drift: Vec<Drift> = apply.drift.iter().take(DRIFT_MAX).map(Drift::shown).collect();
    drift.sort();
    drift.dedup_by(|a, b| a.resource == b.resource && a.field == b.field);
    let is_whole = !apply.drift_cut && apply.drift.len() <= DRIFT_MAX;
    Some(DriftReport { topology, generation: apply.generation, drift, is_whole })
}

/// Verifies a report: signed by the host, about the host, with the digest that it came with.
fn read_report(json: &[u8], digest: &str, host: &HostId, host_key: &[u8; 32]) -> Result<ObservedReport, Fault> {
    let report = Signed::<ObservedReport>::from_json(json)?.verify_by_host(host_key)?.into_statement();
    if report.host_id != *host {
        return Err(Fault::new(Code::WrongHost, "the report is about another host"));
    }
    if report.observed.digest() != digest {
        return Err(Fault::new(Code::HashMismatch, "the report's digest is not that of its observation"));
    }
    Ok(report)
}
