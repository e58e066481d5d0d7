//! Handing an operation in, and waiting for the host's word on it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use indicatif::{ProgressBar, ProgressStyle};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, OpId, ResourceId};
use moorline_common::op::{Act, Class, OpStatement, Receipt, Stage, State};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use serde::Serialize;
use serde_json::Value;

use super::{OnOne, OpWait, OrderArgs, draft, saved};
use crate::client::ops::{OpFacts, verify_receipt};
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::error::{Failure, LocalCode};
use crate::limits::POLL_INTERVAL;
use crate::render::{Format, Ui};
use crate::signers::Signers;

/// What became of an order, as `-o json` shows it; keys are stable.
#[derive(Debug, Serialize)]
struct Ended {
    op_id: OpId,
    idempotency_key: String,
    host: String,
    resource: String,
    kind: String,
    class: Class,
    /// As the hub knows it.
    state: &'static str,
    /// Whether the host's own signature stands under that.
    verified: bool,
    /// The verified receipt.
    receipt: Option<Receipt>,
    fault: Option<Fault>,
}

/// An operation on one resource.
pub async fn on_one(env: &Env, ui: &mut Ui, act: Act, on: &OnOne) -> Result<u8, Failure> {
    let (name, resource) = draft::target(&on.target)?;
    let resource = draft::resource(&act, resource)?;
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    order(&client, ui, &host, act, resource, &on.order).await
}

/// An operation about another one, on the same resource.
pub async fn about(env: &Env, ui: &mut Ui, op_id: &OpId, act: Act, args: &OrderArgs) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let op = client.op(op_id).await?;
    let hosts = client.hosts(None).await?;
    let host = hosts.into_iter().find(|h| h.host_id == op.host_id && !h.pending);
    let host = host.ok_or_else(|| Fault::new(Code::NotFound, format!("the host of operation {op_id} is not there any more")))?;
    let resource = ResourceId::parse(op.resource)?;
    order(&client, ui, &host, act, resource, args).await
}

fn bound(host: &HostView) -> Result<&HostBinding, Failure> {
    host.bound().ok_or_else(|| {
        let doubt = host.doubt.clone();
        doubt.unwrap_or_else(|| Fault::new(Code::NotApproved, format!("host `{}` has no verified binding", host.name))).into()
    })
}

/// Signs an order by what is verified of its host, and hands it in or writes it down.
pub async fn order(client: &Client, ui: &mut Ui, host: &HostView, act: Act, resource: ResourceId, args: &OrderArgs) -> Result<u8, Failure> {
    client.require_signable()?;
    let binding = bound(host)?;
    let class = act.class(&resource);
    let report = if act.takes_a_lane() && !resource.is_host() { client.report(host).await? } else { None };
    let observed = report.as_ref().map(|r| &r.report.statement().observed);
    let incarnation = draft::incarnation(&act, &resource, class, args.incarnation.as_deref(), observed)?;
    if let (Some(report), Some(id), None) = (&report, &incarnation, &args.incarnation) {
        let age = clock::span_words(report.age_s(clock::now()));
        ui.note(&format!("meant is container {id}, by the host's report of {age} ago"));
    }
    let signers = Signers::of(client)?;
    let statement = draft::statement(&client.root, binding, &act, (resource, incarnation), args, clock::now())?;
    let sealed = draft::seal(&client.root, binding, &statement, &signers)?;
    let words = draft::words(&statement, class, &host.name);
    confirm(ui, class, &words)?;
    if let Some(path) = &args.save {
        return saved::write(client, ui, path, host, &statement, sealed);
    }
    if let Some(lacks) = sealed.lacks {
        return Err(Failure::from(lacks).with_remedy(
            "write the order to a file with --save FILE, let the other operators add their signatures with `moorctl op sign FILE`, then `moorctl op submit FILE`",
        ));
    }
    ui.note(&format!("{words}: operation {}, key {}", statement.op_id, statement.idempotency_key));
    hand_in(client, ui, host, &statement, class, &sealed.envelope, &args.wait).await
}

/// What disrupts or destroys is asked about first.
pub fn confirm(ui: &mut Ui, class: Class, words: &str) -> Result<(), Failure> {
    match class {
        Class::R0 | Class::R1 | Class::R2 => Ok(()),
        Class::R3 => ui.confirm(&format!("This disrupts what runs: {words}. Go on?")),
        Class::R4 => ui.confirm(&format!("This cannot be undone: {words}. Go on?")),
        Class::P => ui.confirm(&format!("This reaches past the container's walls: {words}. Go on?")),
    }
}

/// Hands a signed order in and waits for its receipt.
pub async fn hand_in(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    statement: &OpStatement,
    class: Class,
    envelope: &Envelope,
    wait: &OpWait,
) -> Result<u8, Failure> {
    let binding = bound(host)?;
    let (mut op, known) = client.submit_op(envelope).await?;
    if known {
        ui.note(&format!("the hub had operation {} already; nothing is done twice", statement.op_id));
    }
    if let Some(limit) = wait.limit() {
        op = until_settled(client, ui, &statement.op_id, limit).await?;
    }
    let receipt = match &op.receipt {
        None => None,
        Some(receipt) => {
            Some(verify_receipt(receipt, &statement.op_id, Some(envelope), binding).map_err(|f| distrust(&statement.op_id, f))?)
        }
    };
    let receipt = receipt.map(|r| r.into_statement());
    let ended = Ended {
        op_id: statement.op_id.clone(),
        idempotency_key: statement.idempotency_key.to_string(),
        host: host.name.to_string(),
        resource: statement.resource.to_string(),
        kind: statement.kind.clone(),
        class,
        state: op.state.as_str(),
        verified: receipt.is_some(),
        fault: receipt.as_ref().and_then(|r| r.fault.clone()).or_else(|| op.fault.clone()),
        receipt,
    };
    tell(ui, &ended, &host.name)?;
    if wait.limit().is_none() {
        return Ok(0);
    }
    judge(&op, &ended)
}

fn distrust(op_id: &OpId, fault: Fault) -> Failure {
    let message = format!("THE RECEIPT OF OPERATION {op_id} IS NOT THE HOST'S: {}", fault.message);
    Failure::from(Fault { message, ..fault })
        .with_remedy("believe nothing that the hub says of this operation; look at the host itself (`moorline-agent journal show --op ID`)")
}

/// Follows an operation until it has ended.
async fn until_settled(client: &Client, ui: &mut Ui, op_id: &OpId, limit: Duration) -> Result<OpFacts, Failure> {
    let over = Instant::now() + limit;
    let bar = bar(ui);
    let mut shown = None;
    loop {
        let settled = async {
            let mut watch = client.watch_op(op_id).await?;
            while let Some(op) = watch.next().await? {
                let now = (op.state, op.message.clone());
                if shown.as_ref() != Some(&now) {
                    show(ui, &bar, &op);
                    shown = Some(now);
                }
                if op.state.is_settled() {
                    return Ok(Some(op));
                }
            }
            Ok::<_, Failure>(None)
        };
        match tokio::time::timeout_at(over.into(), settled).await {
            Ok(Ok(Some(op))) => {
                bar.finish_and_clear();
                return Ok(op);
            }
            // A hub that restarts is back in seconds; what was submitted is durable.
            Ok(Ok(None)) => {}
            Ok(Err(failure)) if failure.code == LocalCode::HubUnreachable.as_str() => {
                bar.set_message("the hub does not answer; trying again");
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => {
                bar.finish_and_clear();
                let at = shown.map_or_else(|| "not known yet".to_owned(), |(state, _)| state.to_string());
                let waited = clock::span_words(limit.as_secs());
                return Err(Failure::new(
                    LocalCode::NotConverged,
                    format!("operation {op_id} has not ended after {waited}: it is {at}"),
                    format!("it goes on by itself; look with `moorctl op show {op_id}`, take it back with `moorctl op cancel {op_id}`"),
                ));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn bar(ui: &Ui) -> ProgressBar {
    if !ui.progress_bars() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(POLL_INTERVAL);
    bar
}

/// How far it is, for people.
fn show(ui: &mut Ui, bar: &ProgressBar, op: &OpFacts) {
    let words = match op.state {
        Stage::Submitted => "submitted; it is sent when the host is connected and ready for orders".to_owned(),
        Stage::Sent => "sent to the host".to_owned(),
        Stage::At(_) | Stage::Refused if op.message.is_empty() => op.state.to_string(),
        Stage::At(_) | Stage::Refused => format!("{}: {}", op.state, op.message),
    };
    if bar.is_hidden() {
        if !op.state.is_settled() {
            ui.note(&words);
        }
    } else {
        bar.set_message(words);
    }
}

fn tell(ui: &mut Ui, ended: &Ended, host: &HostName) -> Result<(), Failure> {
    if ui.format == Format::Table
        && let Some(receipt) = ended.receipt.as_ref().filter(|r| r.kind == "exec")
    {
        return tell_output(ui, receipt, host);
    }
    ui.result(ended, || {
        let on = if ended.resource == "host" { String::new() } else { format!(" {}", ended.resource) };
        let by = match (&ended.receipt, ended.verified) {
            (Some(receipt), _) => {
                let instead = receipt.same_as.as_ref().map(|id| format!(" as operation {id}, of the same key")).unwrap_or_default();
                format!("{instead}, receipt verified")
            }
            (None, _) if ended.state == "submitted" || ended.state == "sent" => String::new(),
            (None, _) => " by the hub's word only: there is no receipt".to_owned(),
        };
        format!("{}{on} on {host}: {}{by}\n", ended.kind, ended.state)
    })
}

/// What a command wrote, each where it belongs, and how it ended.
fn tell_output(ui: &mut Ui, receipt: &Receipt, host: &HostName) -> Result<(), Failure> {
    let part = |name: &str| {
        let text = receipt.result.get(name).and_then(Value::as_str).unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
        let total = receipt.result.get(format!("{name}_bytes")).and_then(Value::as_u64).unwrap_or_default();
        let kept = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        (String::from_utf8_lossy(&bytes).into_owned(), total.saturating_sub(kept))
    };
    let ((stdout, stdout_lost), (stderr, stderr_lost)) = (part("stdout"), part("stderr"));
    ui.text(&stdout)?;
    if !stderr.is_empty() {
        ui.note(stderr.trim_end_matches('\n'));
    }
    for (name, lost) in [("standard output", stdout_lost), ("standard error", stderr_lost)] {
        if lost > 0 {
            ui.warn(&format!("{lost} more bytes of its {name} were not kept"));
        }
    }
    let code =
        receipt.result.get("exit_code").and_then(Value::as_i64).map_or_else(|| "no exit code".to_owned(), |c| format!("exit code {c}"));
    ui.note(&format!("exec {} on {host}: {}, {code}, receipt verified", receipt.resource, receipt.outcome.as_str()));
    Ok(())
}

/// Exit 0 for what succeeded, the failure otherwise.
fn judge(op: &OpFacts, ended: &Ended) -> Result<u8, Failure> {
    match op.state {
        Stage::At(State::Succeeded) if ended.verified => Ok(0),
        Stage::At(State::Succeeded) => {
            Err(distrust(&op.op_id, Fault::new(Code::BadSignature, "the hub says that it succeeded and shows no receipt")))
        }
        Stage::At(State::Indeterminate) => {
            let fault = ended.fault.clone().unwrap_or_else(|| Fault::new(Code::Indeterminate, "nothing proves how it ended"));
            Err(Failure::from(fault).with_remedy(format!(
                "look at the resource on the host, then say how it ended: `moorctl op resolve {} --as succeeded` or `--as failed`",
                op.op_id
            )))
        }
        state @ (Stage::Submitted | Stage::Sent | Stage::At(_) | Stage::Refused) => {
            let code = match state {
                Stage::At(State::Expired) => Code::Expired,
                Stage::At(State::Cancelled) => Code::Cancelled,
                Stage::Submitted | Stage::Sent | Stage::At(_) | Stage::Refused => Code::OpFailed,
            };
            let fault = ended.fault.clone().unwrap_or_else(|| Fault::new(code, format!("the operation is {state}")));
            Err(fault.into())
        }
    }
}

/// Which host an order is for, by its own words and the verified bindings.
pub async fn host_of(client: &Client, envelope: &Envelope) -> Result<(HostView, OpStatement), Failure> {
    let statement = Signed::<OpStatement>::new(envelope.clone())?.peek()?;
    let host = client.hosts(None).await?.into_iter().find(|h| h.host_id == statement.host_id && !h.pending);
    let host = host.ok_or_else(|| Fault::new(Code::NotFound, format!("there is no host {}", statement.host_id)))?;
    Ok((host, statement))
}
