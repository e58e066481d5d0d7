//! `moorctl op ls` and `moorctl op show`.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, OpId};
use moorline_common::op::{OpStatement, Receipt, Stage, State};
use moorline_common::sign::Signed;
use serde::Serialize;

use crate::client::ops::{OpFacts, verify_receipt};
use crate::clock;
use crate::cmd::Env;
use crate::error::Failure;
use crate::render::{Table, Tone, Ui, or_dash, plain, to_yaml};

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
    let mut table = Table::new(&["OPERATION", "HOST", "KIND", "RESOURCE", "STATE", "AGE", "ERROR"]);
    for op in ops {
        let code = op.fault.as_ref().map(|f| f.code.to_string()).unwrap_or_default();
        // The hub's own word is told from the host's.
        let state = if op.state.is_settled() && !op.has_receipt { format!("{} (by the hub)", op.state) } else { op.state.to_string() };
        table.row(vec![
            plain(&op.op_id),
            plain(or_dash(&op.host)),
            plain(&op.kind),
            plain(&op.resource),
            (state, tone(op.state)),
            (clock::age(op.updated_unix_ms, now_ms), Tone::Dim),
            (code.clone(), if code.is_empty() { Tone::Plain } else { Tone::Bad }),
        ]);
    }
    table.text()
}

/// One operation in full.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    facts: OpFacts,
    /// What was signed.
    order: Option<OpStatement>,
    /// Keys that signed it, by the names in the trust root.
    signed_by: Vec<String>,
    /// Why the order does not count by the newest trust root.
    order_doubt: Option<Fault>,
    /// The receipt, if it is the host's.
    receipt: Option<Receipt>,
    /// Why the receipt does not count.
    receipt_doubt: Option<Fault>,
}

/// Shows one operation; what does not verify is said loudly.
pub async fn show(env: &Env, ui: &mut Ui, op_id: &OpId) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let facts = client.op(op_id).await?;
    let hosts = client.hosts(None).await?;
    let binding = hosts.iter().find(|h| h.host_id == facts.host_id).and_then(|h| h.bound());
    let unbound = || Fault::new(Code::NotApproved, "its host has no verified binding");
    let order = facts.order.clone().map(Signed::<OpStatement>::new).transpose()?;
    let signed_by = order.iter().flat_map(|o| &o.envelope().signatures);
    let signed_by = signed_by.map(|s| client.root.keys.get(&s.keyid).map_or_else(|| s.keyid.to_string(), |k| k.name.clone())).collect();
    let order_doubt = match (&order, binding) {
        (None, _) => Some(Fault::new(Code::NotFound, "the hub does not have the order: it was restored from a backup")),
        (Some(_), None) => Some(unbound()),
        (Some(order), Some(binding)) => client.root.verify_op(order.clone(), binding).err(),
    };
    let (receipt, receipt_doubt) = match (&facts.receipt, binding) {
        (None, _) => (None, None),
        (Some(_), None) => (None, Some(unbound())),
        (Some(receipt), Some(binding)) => match verify_receipt(receipt, op_id, order.as_ref().map(Signed::envelope), binding) {
            Ok(receipt) => (Some(receipt.into_statement()), None),
            Err(fault) => (None, Some(fault)),
        },
    };
    if let Some(doubt) = &receipt_doubt {
        ui.warn(&format!("THE RECEIPT IS NOT THE HOST'S: {doubt}"));
    }
    let order = order.map(|o| o.peek()).transpose()?;
    let shown = Shown { facts, order, signed_by, order_doubt, receipt, receipt_doubt };
    ui.result(&shown, || to_yaml(&serde_json::to_value(&shown).unwrap_or_default()))?;
    Ok(u8::from(shown.receipt_doubt.is_some()))
}
