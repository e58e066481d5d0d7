//! `moorctl op ls` and `moorctl op show`.

use moorline_common::id::{HostName, OpId, UnixSeconds};
use moorline_common::op::{Stage, State};

use super::view::{self, OpView};
use crate::client::ops::OpFacts;
use crate::clock;
use crate::cmd::Env;
use crate::error::Failure;
use crate::render::{Format, Table, Tone, Ui, or_dash, plain};

/// Lists operations.
pub async fn ls(env: &Env, ui: &mut Ui, host: Option<&str>, open: bool, limit: u32) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let host = match host {
        Some(name) => Some(client.host(&HostName::parse(name)?).await?.host_id),
        None => None,
    };
    let ops = client.ops(host.as_ref(), open, limit).await?;
    let now = client.hub_now_ms();
    ui.result(&ops, || table(&ops, now))?;
    Ok(0)
}

const fn tone(state: Stage) -> Tone {
    match state {
        Stage::At(State::Succeeded) => Tone::Good,
        Stage::At(State::Failed | State::Indeterminate) | Stage::Refused => Tone::Bad,
        Stage::At(State::Expired | State::Cancelled) => Tone::Dim,
        Stage::Submitted | Stage::Sent | Stage::At(State::Accepted | State::Queued | State::Started | State::TaskRunning) => Tone::Warn,
    }
}

fn table(ops: &[OpFacts], now_ms: u64) -> String {
    if ops.is_empty() {
        return "no operations\n".to_owned();
    }
    let now = UnixSeconds(now_ms / 1000);
    let mut table = Table::new(&["OPERATION", "HOST", "KIND", "RESOURCE", "STATE", "AGE", "NOTE"]);
    for op in ops {
        let note_tone = if op.fault.is_some() { Tone::Bad } else { Tone::Dim };
        let tone = if op.is_overdue(now) { Tone::Bad } else { tone(op.state) };
        table.row(vec![
            plain(&op.op_id),
            plain(or_dash(&op.host)),
            plain(&op.kind),
            plain(&op.resource),
            (view::state_words(op, now), tone),
            (clock::age(op.updated_unix_ms, now_ms), Tone::Dim),
            (view::note(op, now), note_tone),
        ]);
    }
    table.text()
}

/// Shows one operation; what does not verify is said loudly.
pub async fn show(env: &Env, ui: &mut Ui, op_id: &OpId) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let facts = client.op(op_id).await?;
    let hosts = client.hosts(None).await?;
    let binding = hosts.iter().find(|h| h.host_id == facts.host_id).and_then(|h| h.bound());
    let shown = OpView::new(&client.root, facts, binding, None)?;
    if let Some(doubt) = &shown.receipt_doubt {
        ui.warn(&format!("THE RECEIPT IS NOT THE HOST'S WORD ON THIS: {doubt}"));
    }
    ui.result(&shown, || shown.in_full())?;
    let now = UnixSeconds(client.hub_now_ms() / 1000);
    if ui.format == Format::Table && (shown.facts.is_overdue(now) || view::state_words(&shown.facts, now) != shown.facts.state.as_str()) {
        ui.note(&format!("{}: {}", view::state_words(&shown.facts, now), view::note(&shown.facts, now)));
    }
    Ok(u8::from(shown.receipt_doubt.is_some()))
}
