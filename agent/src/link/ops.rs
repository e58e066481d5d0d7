//! Operations on the link: orders in, their standing and receipts out, until the hub has acknowledged each; and the
//! journal, when an operator asks for it.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::OpId;
use moorline_common::op::Outcome;
use moorline_common::saga::PLAN_MAX;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::{EVIDENCE_MAX, Evidence};
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Up;
use tokio::sync::mpsc;

use super::session::Session;
use super::transport::LinkError;
use crate::intake::{Refused, sha256_of_refused};
use crate::journal::fs::{Fs as _, RealFs};
use crate::journal::{Journal, segment};
use crate::limits::{JOURNAL_PART_MAX, JOURNAL_READ_MAX, SEND_TIMEOUT};
use crate::ops::{Answer, Standing};
use crate::records::JOURNAL;

impl<J: Journal> Session<'_, J> {
    /// Takes an order of a saga in, with what is shown with it.
    pub(super) async fn take_saga_order(&mut self, order: pb::SagaOrder) -> Result<(), LinkError> {
        let json = order.op.unwrap_or_default().json;
        match evidence(order.plan, &order.receipts, &order.words) {
            Ok(evidence) => self.take_op(json, Some(evidence)).await,
            Err(fault) => {
                let payload_sha256 = sha256_of_refused(&Envelope::from_json(&json), &json);
                self.refuse(Refused { fault, payload_sha256, kind: "op" }).await
            }
        }
    }

    /// Takes an order in; `evidence` is what was shown with one of a saga.
    pub(super) async fn take_op(&mut self, json: Vec<u8>, evidence: Option<Evidence>) -> Result<(), LinkError> {
        let payload_sha256 = sha256_of_refused(&Envelope::from_json(&json), &json);
        crate::crash::point("link.op.before");
        match self.parts.ops.take(json, evidence).await {
            // Its first records are told by the news of them; one that was known is told again.
            Some(Answer::Known(op_id)) => {
                crate::crash::point("link.op.known");
                let standings = self.parts.ops.standing(&self.parts.journal, &self.parts.own, &op_id);
                let refused = standings.iter().find_map(|standing| match standing {
                    Standing::Over(receipt) if receipt.outcome == Outcome::Refused => receipt.fault.clone(),
                    Standing::Over(_) | Standing::UnderWay { .. } | Standing::Refused { .. } => None,
                });
                match refused {
                    Some(fault) => self.link.send_modify(|s| s.last_refusal = Some(Refused { fault, payload_sha256, kind: "op" })),
                    None => self.taken("op"),
                }
                for standing in standings {
                    self.send_standing(standing).await?;
                }
                Ok(())
            }
            Some(Answer::Settled(receipt)) => self.send_standing(Standing::Over(receipt)).await,
            Some(Answer::Refused(fault)) => self.refuse(Refused { fault, payload_sha256, kind: "op" }).await,
            None => Ok(()),
        }
    }

    pub(super) async fn take_ack(&mut self, ack: pb::OpAck) {
        // What a hub says about an operation that there is not matters to nobody.
        if let Ok(op_id) = OpId::parse(ack.op_id) {
            crate::crash::point("link.ack.before");
            self.parts.ops.acknowledge(op_id, ack.outcome).await;
            crate::crash::point("link.ack.after");
        }
    }

    /// Tells of every operation that moved since the last time.
    pub(super) async fn tell_ops(&mut self) -> Result<(), LinkError> {
        let standings = self.parts.ops.standings(&self.parts.journal, &self.parts.own, self.ops_told);
        self.ops_told = standings.seq;
        for standing in standings.list {
            self.send_standing(standing).await?;
        }
        Ok(())
    }

    async fn send_standing(&mut self, standing: Standing) -> Result<(), LinkError> {
        match standing {
            Standing::UnderWay { op_id, state, at, same_as } => {
                crate::crash::point("link.event");
                let event = pb::OpEvent {
                    op_id: op_id.into(),
                    state: state.as_str().to_owned(),
                    at_unix_ms: at,
                    message: String::new(),
                    same_as: same_as.map(String::from).unwrap_or_default(),
                };
                self.send(Up::OpEvent(event)).await
            }
            Standing::Refused { payload_sha256, fault } => self.refuse(Refused { fault, payload_sha256, kind: "op" }).await,
            Standing::Over(receipt) => match Signed::seal(&*receipt, &[&self.parts.keys.host_key]) {
                Ok(signed) => {
                    crate::crash::point("link.receipt.before");
                    self.send(Up::Receipt(signed.envelope().into())).await?;
                    crate::crash::point("link.receipt.after");
                    Ok(())
                }
                Err(fault) => {
                    tracing::error!(op = %receipt.op_id, %fault, "a receipt cannot be signed");
                    Ok(())
                }
            },
        }
    }

    /// Sends the journal from the segment on that holds `from_seq`, beside everything else; one at a time.
    pub(super) fn send_journal(&mut self, request_id: u64, from_seq: u64) {
        let (dir, outbound) = (self.parts.state_dir.0.join(JOURNAL), self.outbound.clone());
        if self.reading.as_ref().is_some_and(|reading| !reading.is_finished()) {
            let fault = pb::Fault { code: Code::Busy.as_str().to_owned(), message: "the journal is being sent already".to_owned() };
            let part = pb::JournalPart { request_id, lines: Vec::new(), last: true, fault: Some(fault) };
            // A hub that asks faster than it reads gets no answer.
            let _ = outbound.try_send(pb::AgentMessage { kind: Some(Up::JournalPart(part)) });
            return;
        }
        self.reading = Some(tokio::spawn(async move {
            let (parts, mut read) = mpsc::channel(1);
            let reader = tokio::task::spawn_blocking(move || read_journal(&dir, from_seq, &parts));
            while let Some(lines) = read.recv().await {
                let part = pb::JournalPart { request_id, lines, last: false, fault: None };
                if !send(&outbound, part).await {
                    return;
                }
            }
            let fault = match reader.await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(error) => Some(error.to_string()),
            };
            let fault = fault.map(|text| pb::Fault { code: Code::Internal.as_str().to_owned(), message: text });
            send(&outbound, pb::JournalPart { request_id, lines: Vec::new(), last: true, fault }).await;
        }));
    }
}

/// Reads what is shown with an order of a saga, within its own bounds; what it says is judged where the order is.
fn evidence(plan: Option<pb::Envelope>, receipts: &[pb::Envelope], words: &[pb::Envelope]) -> Result<Evidence, Fault> {
    let plan = plan.ok_or_else(|| Fault::new(Code::BadEnvelope, "an order of a saga without the saga's plan"))?;
    if plan.json.len() > PLAN_MAX || receipts.len().saturating_add(words.len()) > EVIDENCE_MAX {
        let what = format!("a plan has at most {PLAN_MAX} bytes, and at most {EVIDENCE_MAX} receipts and words are shown with an order");
        return Err(Fault::new(Code::TooLarge, what));
    }
    let all = |list: &[pb::Envelope]| list.iter().map(|envelope| Envelope::from_json(&envelope.json)).collect::<Result<_, Fault>>();
    Ok(Evidence { plan: Envelope::from_json(&plan.json)?, receipts: all(receipts)?, words: all(words)? })
}

async fn send(outbound: &mpsc::Sender<pb::AgentMessage>, part: pb::JournalPart) -> bool {
    let message = pb::AgentMessage { kind: Some(Up::JournalPart(part)) };
    outbound.send_timeout(message, SEND_TIMEOUT).await.is_ok()
}

/// Whole lines of the segments that hold `from_seq` and what follows. Blocks.
fn read_journal(dir: &std::path::Path, from_seq: u64, parts: &mpsc::Sender<Vec<u8>>) -> std::io::Result<()> {
    let all = segment::list(&RealFs, dir)?;
    let begin = all.iter().rev().find(|first| **first <= from_seq).or(all.first()).copied();
    for first in all.into_iter().filter(|first| Some(*first) >= begin) {
        // One that was removed for its age meanwhile is told by the record that is missing.
        let Some(bytes) = RealFs.read(&dir.join(segment::file_name(first)), JOURNAL_READ_MAX)? else { continue };
        let mut part = Vec::new();
        for line in bytes.split_inclusive(|b| *b == b'\n') {
            // The last line may be only half written, and the space behind it is taken in advance.
            if !line.ends_with(b"\n") {
                break;
            }
            if part.len() + line.len() > JOURNAL_PART_MAX && parts.blocking_send(std::mem::take(&mut part)).is_err() {
                return Ok(());
            }
            part.extend_from_slice(line);
        }
        if !part.is_empty() && parts.blocking_send(part).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
