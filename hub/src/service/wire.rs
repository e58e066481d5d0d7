//! Wire messages to the hub's types and back. Values that make no sense are errors, not defaults.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId, VersionHash};
use moorline_common::observe::EngineState;
use moorline_common::pulling::Pulling;
use moorline_common::sign::ENVELOPE_MAX;
use moorline_proto::v1 as pb;

use crate::events::Event;
use crate::fleet::{Beat, Outgoing, View};
use crate::limits;
use crate::ops::Wanted;
use crate::store::{HostRecord, HostState, OpRecord, RevisionRecord};

/// A text of an agent's that is kept: its first characters, at most [`limits::SHORT_MAX`] bytes.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(limits::SHORT_MAX / 4).collect()
}

pub(super) fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(Code::InvalidArgument, message)
}

pub(super) fn topology(text: &str) -> Result<TopologyId, Fault> {
    TopologyId::parse(text).map_err(|e| invalid(e.to_string()))
}

/// The JSON of an envelope that the message must carry.
pub(super) fn json(envelope: Option<pb::Envelope>, what: &str) -> Result<Vec<u8>, Fault> {
    let json = envelope.ok_or_else(|| invalid(format!("the message carries no {what}")))?.json;
    if json.len() > ENVELOPE_MAX {
        return Err(Fault::new(Code::TooLarge, format!("the {what} has {} bytes; at most {ENVELOPE_MAX} are read", json.len())));
    }
    Ok(json)
}

pub(super) fn beat(message: pb::Heartbeat) -> Result<Beat, Fault> {
    let engine = pb::EngineState::try_from(message.engine).map_err(|_| invalid("the heartbeat names an unknown engine state"))?;
    let topology = (!message.topology.is_empty()).then(|| topology(&message.topology)).transpose()?;
    // A hash that is none (somebody edited the ledger) is a hash that matches nothing.
    let applied = VersionHash::parse(message.applied_hash).ok();
    if message.observed_digest.len() > limits::SHORT_MAX
        || message.last_error_code.len() > limits::SHORT_MAX
        || message.journal_head.len() > limits::JOURNAL_HEAD_MAX
    {
        return Err(Fault::new(Code::TooLarge, "a field of the heartbeat is too long"));
    }
    Ok(Beat {
        sequence: message.sequence,
        root_version: message.root_version,
        binding_serial: message.binding_serial,
        topology,
        generation: Generation(message.generation),
        applied,
        applied_generation: Generation(message.applied_generation),
        healthy_generation: Generation(message.healthy_generation),
        rolled_back_generation: Generation(message.rolled_back_generation),
        observed_digest: message.observed_digest,
        engine: EngineState::from(engine),
        converging: message.converging,
        journal_seq: message.journal_seq,
        journal_head: message.journal_head,
        open_ops: message.open_ops,
        indeterminate_ops: message.indeterminate_ops,
        last_error_code: message.last_error_code,
        observe_error: message.observe_error,
        ready: message.ready,
        enforcing: message.enforcing,
    })
}

fn heartbeat(beat: Beat) -> pb::Heartbeat {
    pb::Heartbeat {
        sequence: beat.sequence,
        root_version: beat.root_version,
        topology: beat.topology.map(String::from).unwrap_or_default(),
        generation: beat.generation.0,
        applied_hash: beat.applied.map(String::from).unwrap_or_default(),
        applied_generation: beat.applied_generation.0,
        healthy_generation: beat.healthy_generation.0,
        rolled_back_generation: beat.rolled_back_generation.0,
        observed_digest: beat.observed_digest,
        engine: pb::EngineState::from(beat.engine).into(),
        converging: beat.converging,
        journal_seq: beat.journal_seq,
        journal_head: beat.journal_head,
        open_ops: beat.open_ops,
        indeterminate_ops: beat.indeterminate_ops,
        last_error_code: beat.last_error_code,
        observe_error: beat.observe_error,
        ready: beat.ready,
        binding_serial: beat.binding_serial,
        enforcing: beat.enforcing,
    }
}

/// What a host pulls, as much of it as operators are shown.
pub(super) fn pulls(message: pb::Pulls) -> Vec<Pulling> {
    let short = |image: &str| {
        let mut text: String = image.chars().filter(|c| !c.is_control()).collect();
        text.truncate(text.floor_char_boundary(limits::PULL_IMAGE_MAX));
        text
    };
    let pulls = message.pulls.into_iter().take(limits::PULLS_MAX);
    pulls.map(|pull| Pulling { image: short(&pull.image), ..Pulling::from(pull) }).collect()
}

pub(super) fn outgoing(message: Outgoing) -> pb::HubMessage {
    use pb::hub_message::Kind;
    let envelope = |json| pb::Envelope { json };
    let kind = match message {
        Outgoing::Root(json) => Kind::Root(envelope(json)),
        Outgoing::Binding(json) => Kind::Binding(envelope(json)),
        Outgoing::Slice(json) => Kind::Slice(envelope(json)),
        Outgoing::QueryHeld => Kind::Query(pb::Query { what: pb::query::What::Held.into(), ..pb::Query::default() }),
        Outgoing::QueryJournal { request_id, from_seq } => {
            Kind::Query(pb::Query { what: pb::query::What::Journal.into(), request_id, from_seq, logs: None })
        }
        Outgoing::QueryLogs { request_id, wanted } => {
            let window = u32::try_from(limits::LOG_WINDOW).unwrap_or(u32::MAX);
            let logs = match wanted {
                Wanted::Log { container, follow, tail, since_s } => {
                    pb::Logs { container, follow, tail, since_unix_s: since_s, window, ..pb::Logs::default() }
                }
                Wanted::Output(op_id) => pb::Logs { op_id: op_id.into(), window, ..pb::Logs::default() },
            };
            Kind::Query(pb::Query { what: pb::query::What::Logs.into(), request_id, from_seq: 0, logs: Some(logs) })
        }
        Outgoing::MoreLogs { request_id } => {
            Kind::Query(pb::Query { what: pb::query::What::More.into(), request_id, ..pb::Query::default() })
        }
        Outgoing::EndLogs { request_id } => {
            Kind::Query(pb::Query { what: pb::query::What::End.into(), request_id, ..pb::Query::default() })
        }
        Outgoing::Op(json) => Kind::Op(envelope(json)),
        Outgoing::SagaOrder { op, evidence } => Kind::SagaOrder(pb::SagaOrder {
            op: Some(envelope(op)),
            plan: Some(envelope(evidence.plan)),
            receipts: evidence.receipts.into_iter().map(envelope).collect(),
            words: evidence.words.into_iter().map(envelope).collect(),
        }),
        Outgoing::OpAck { op_id, outcome } => Kind::OpAck(pb::OpAck { op_id: op_id.into(), outcome: outcome.as_str().to_owned() }),
        Outgoing::QueryReport => Kind::Query(pb::Query { what: pb::query::What::Report.into(), ..pb::Query::default() }),
    };
    pb::HubMessage { kind: Some(kind) }
}

pub(super) fn host(record: HostRecord, view: View) -> pb::Host {
    let target = view.target;
    pb::Host {
        host_id: record.host_id.into(),
        name: record.name.into(),
        state: match record.state {
            HostState::Pending => pb::HostState::Pending.into(),
            HostState::Bound => pb::HostState::Bound.into(),
        },
        binding: record.binding.map(|json| pb::Envelope { json }),
        host_key: record.host_key.to_vec(),
        sealing_key: record.sealing_key.to_vec(),
        host_epoch: record.host_epoch,
        claim_mac: record.claim_mac,
        token_id: record.token_id,
        connected: view.connected,
        heartbeat: view.beat.map(heartbeat),
        heartbeat_unix_ms: view.beat_unix_ms,
        target_topology: target.as_ref().map(|t| t.topology.to_string()).unwrap_or_default(),
        target_generation: target.as_ref().map(|t| t.generation.0).unwrap_or_default(),
        target_hash: target.as_ref().map(|t| t.version_hash.to_string()).unwrap_or_default(),
        converged: view.converged,
        last_error: view.last_error.map(pb::Fault::from),
        joined_unix_ms: record.joined_ms,
        agent_version: record.agent_version,
        locked: record.locked,
        witnessed_journal_seq: view.witness.seq,
        witnessed_journal_head: view.witness.head,
        witnessed_epoch: view.witness.epoch,
        held: view.held.into_iter().map(|(r, op)| pb::HeldResource { resource: r.into(), op_id: op.into() }).collect(),
        pulls: view.pulls.into_iter().map(pb::Pull::from).collect(),
        cordon: record.cordon.map(|c| pb::Cordon { since_unix_ms: c.since_ms, by: c.by, reason: c.reason }),
    }
}

/// An operation with the name that its host has now.
pub(super) fn op(record: OpRecord, host: String) -> pb::Op {
    let envelope = |json| pb::Envelope { json };
    pb::Op {
        op_id: record.op_id.into(),
        host_id: record.host_id.into(),
        host,
        host_epoch: record.host_epoch,
        resource: record.resource,
        kind: record.kind,
        class: record.class,
        payload_sha256: record.payload_sha256,
        expires_at: record.expires_at.0,
        reason: record.reason,
        sequence: record.sequence,
        submitted_unix_ms: record.submitted_ms,
        submitted_by: record.submitted_by,
        state: record.stage.as_str().to_owned(),
        updated_unix_ms: record.updated_ms,
        message: record.message,
        same_as: record.same_as,
        fault: record.fault.map(pb::Fault::from),
        has_receipt: record.has_receipt,
        order: record.envelope.map(envelope),
        receipt: record.receipt.map(envelope),
    }
}

pub(super) fn revision(record: RevisionRecord) -> pb::Revision {
    pb::Revision {
        topology: record.topology.into(),
        generation: record.generation.0,
        hosts: record.hosts,
        down: record.down,
        pushed_unix_ms: record.pushed_ms,
        pushed_by: record.pushed_by,
        message: record.message,
        source_sha256: record.source_sha256,
    }
}

pub(super) fn event(event: Event) -> pb::Event {
    pb::Event {
        sequence: event.sequence,
        at_unix_ms: event.at_ms,
        kind: event.kind,
        actor: event.actor,
        host: event.host,
        topology: event.topology,
        generation: event.generation,
        code: event.code,
        message: event.message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_hosts_pulls_only_so_much_is_taken() {
        let pull = pb::Pull { image: format!("a\n{}", "x".repeat(2 * limits::PULL_IMAGE_MAX)), ..pb::Pull::default() };
        let taken = pulls(pb::Pulls { pulls: vec![pull; 2 * limits::PULLS_MAX] });
        assert_eq!(taken.len(), limits::PULLS_MAX);
        assert!(taken.iter().all(|p| p.image.len() <= limits::PULL_IMAGE_MAX && p.image.starts_with("ax")));
    }
}
