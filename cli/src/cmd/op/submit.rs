//! Handing an operation in, and waiting for the host's word on it.

use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, OpId, ResourceId};
use moorline_common::op::{Act, Class, GuestOp, OpStatement, Receipt, Stage, State};
use moorline_common::pve::Vmid;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use serde_json::Value;

use super::act::Wish;
use super::guest::log::TaskLog;
use super::guest::meant::{self, Named};
use super::guest::words as guest_words;
use super::view::{self, OpView};
use super::wait::Beside;
use super::{OnOne, OpWait, OrderArgs, draft, remedy, saved, wait};
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::error::{Failure, LocalCode};
use crate::render::{Format, Ui, visible};
use crate::signers::Signers;

/// An operation on one resource.
pub async fn on_one(env: &Env, ui: &mut Ui, wish: Wish, on: &OnOne) -> Result<u8, Failure> {
    let (name, text) = draft::target(&on.target)?;
    let is_image = matches!(wish, Wish::Act(Act::Pull));
    let named = text.filter(|_| !is_image).map(meant::named).transpose()?.flatten();
    if named.is_some() && on.order.if_state.is_some() {
        let message = "`--if-state` is for containers, and this is a guest of Proxmox VE";
        return Err(Failure::usage(message, "leave it out: a guest that is not as the operation needs it is refused by its host"));
    }
    let by_name = if let Some(Named::Name(name)) = &named { Some(name.as_str()) } else { None };
    // The number behind a name is known once the report is there: until then any will do.
    let text = if by_name.is_some() { Some("guest/100") } else { text };
    let resource = match &wish {
        Wish::Act(act) => {
            // What is wrong in itself needs no hub to be told.
            let resource = draft::resource(act, text)?;
            if let (Act::Guest(op), Some(_)) = (act, by_name) {
                // On which guest it is comes later.
                op.check(None)?;
            } else {
                Act::read(act.kind(), &act.params(), &resource)?;
            }
            resource
        }
        Wish::Config(_) => draft::resource(&Act::Guest(GuestOp::Start), text)?,
    };
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    let (act, resource) = match wish {
        Wish::Act(act) if by_name.is_none() => (act, resource),
        wish @ (Wish::Act(_) | Wish::Config(_)) => by_report(&client, &host, wish, by_name, resource).await?,
    };
    order(&client, ui, &host, act, resource, &on.order).await
}

/// What the host's report says that the command line does not: which guest has a name, or how its config is.
async fn by_report(
    client: &Client,
    host: &HostView,
    wish: Wish,
    by_name: Option<&str>,
    resource: ResourceId,
) -> Result<(Act, ResourceId), Failure> {
    let report = client.report(host).await?;
    let observed = report.as_ref().map(|r| &r.report.statement().observed);
    let resource = match by_name {
        Some(name) => meant::by_name(name, observed)?.resource(),
        None => resource,
    };
    let act = match wish {
        Wish::Act(act) => act,
        Wish::Config(wish) => match wish.act(&resource, observed) {
            Ok(act) => act,
            Err(failure) => return Err(meant::elsewhere(client, host, &resource, failure).await),
        },
    };
    Act::read(act.kind(), &act.params(), &resource)?;
    Ok((act, resource))
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

/// Signs an order by what is verified of its host, and hands it in or writes it down.
pub async fn order(client: &Client, ui: &mut Ui, host: &HostView, act: Act, resource: ResourceId, args: &OrderArgs) -> Result<u8, Failure> {
    let Order { statement, sealed, class, words } = sign(client, ui, host, &act, resource, args).await?;
    if let Some(path) = &args.save {
        return saved::write(client, ui, path, host, &statement, sealed);
    }
    let envelope = sealed.whole(
        "write the order to a file with --save FILE, let the other operators add their signatures with `moorctl op sign FILE`, then `moorctl op submit FILE`",
    )?;
    ui.note(&format!("{words}: operation {}, key {}", statement.op_id, statement.idempotency_key));
    hand_in(client, ui, host, &statement, class, &envelope, &args.wait).await
}

/// An order that was signed and not handed in.
pub struct Order {
    /// What is ordered.
    pub statement: OpStatement,
    /// The same, signed.
    pub sealed: draft::Sealed,
    /// How much it can do.
    pub class: Class,
    /// What it orders, for people.
    pub words: String,
}

/// Signs an order by what is verified of its host, once the operator has said yes.
pub async fn sign(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    act: &Act,
    resource: ResourceId,
    args: &OrderArgs,
) -> Result<Order, Failure> {
    client.require_signable()?;
    let binding = host.require_bound()?;
    let class = act.class(&resource);
    let report = if act.takes_a_lane() && !resource.is_host() { client.report(host).await? } else { None };
    let observed = report.as_ref().map(|r| &r.report.statement().observed);
    let incarnation = match draft::incarnation(act, &resource, class, args.incarnation.as_deref(), observed) {
        Ok(incarnation) => incarnation,
        Err(failure) => return Err(meant::elsewhere(client, host, &resource, failure).await),
    };
    if let (Some(report), Some(id), None) = (&report, &incarnation, &args.incarnation) {
        let age = clock::span_words(report.age_s(clock::now()));
        let what = match Vmid::of(&resource) {
            Some(vmid) => format!("guest {}, {}", meant::title(vmid, meant::find(observed, vmid)), visible(id)),
            None => format!("container {}", visible(id)),
        };
        ui.note(&format!("meant is {what}, by the host's report of {age} ago"));
    }
    if let Some(doubt) = observed.filter(|_| Vmid::of(&resource).is_some()).and_then(meant::doubt) {
        ui.warn(&doubt);
    }
    let words_of = |statement: &OpStatement| draft::words(statement, class, &host.name, observed);
    let signers = Signers::of(client)?;
    let statement = draft::statement(&client.root, binding, act, (resource, incarnation), args, clock::now())?;
    let sealed = draft::seal(&client.root, binding, &statement, &signers)?;
    let words = words_of(&statement);
    confirm(ui, class, &words)?;
    Ok(Order { statement, sealed, class, words })
}

/// Asks the host something, and gives its signed answer.
pub async fn ask(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    act: Act,
    resource: ResourceId,
    args: &OrderArgs,
) -> Result<Value, Failure> {
    client.require_signable()?;
    let binding = host.require_bound()?;
    let Sent { statement, envelope } = send(client, host, &act, (resource, None), args, &Signers::of(client)?).await?;
    let view = settle(client, ui, host, &statement, &envelope, Some(args.wait.timeout_wait), Beside::Nothing).await?;
    judge(&view, &statement, binding)?;
    Ok(view.receipt.map(|receipt| receipt.result).unwrap_or_default())
}

/// What to do where one key does not do and nothing can be saved.
pub const SIGN_WITH: &str = "name the other operators' key files with --sign-with FILE";

/// An order that was handed in.
pub struct Sent {
    statement: OpStatement,
    envelope: Envelope,
}

impl Sent {
    /// Which operation it is.
    pub fn op_id(&self) -> &OpId {
        &self.statement.op_id
    }
}

/// Signs an order for a host and hands it in, without waiting for its end.
pub async fn send(
    client: &Client,
    host: &HostView,
    act: &Act,
    on: (ResourceId, Option<String>),
    args: &OrderArgs,
    signers: &Signers,
) -> Result<Sent, Failure> {
    let binding = host.require_bound()?;
    let statement = draft::statement(&client.root, binding, act, on, args, clock::now())?;
    let sealed = draft::seal(&client.root, binding, &statement, signers)?;
    let envelope = sealed.whole(SIGN_WITH)?;
    give(client, &statement, &envelope).await?;
    Ok(Sent { statement, envelope })
}

/// Waits for the host's signed word on what was sent.
pub async fn outcome(client: &Client, ui: &mut Ui, host: &HostView, sent: &Sent, limit: Duration) -> Result<(), Failure> {
    let Sent { statement, envelope } = sent;
    let view = settle(client, ui, host, statement, envelope, Some(limit), Beside::Quiet).await?;
    judge(&view, statement, host.require_bound()?).map(drop)
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

/// Gives a signed order to the hub; whether it had it already.
pub async fn give(client: &Client, statement: &OpStatement, envelope: &Envelope) -> Result<bool, Failure> {
    let (_, known) = client.submit_op(envelope).await.map_err(|f| not_taken(f, statement))?;
    Ok(known)
}

/// Hands a signed order in and waits for its receipt.
pub async fn hand_in(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    statement: &OpStatement,
    class: Class,
    envelope: &Envelope,
    waiting: &OpWait,
) -> Result<u8, Failure> {
    let log = TaskLog::open(client, ui, host, statement, waiting).await;
    if give(client, statement, envelope).await? {
        ui.note(&format!("the hub had operation {} already; nothing is done twice", statement.op_id));
    }
    match log {
        Some(log) => follow_beside(client, ui, host, (statement, class), envelope, waiting, Beside::Log(Box::new(log))).await,
        None => follow(client, ui, host, statement, class, envelope, waiting).await,
    }
}

/// Waits for the receipt of an order that the hub has, for as long as `waiting` says.
pub async fn follow(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    statement: &OpStatement,
    class: Class,
    envelope: &Envelope,
    waiting: &OpWait,
) -> Result<u8, Failure> {
    let is_pull = statement.kind == "pull";
    let beside = if is_pull { Beside::Pull(wait::Pulled::new(&host.name, statement.resource.name())) } else { Beside::Nothing };
    follow_beside(client, ui, host, (statement, class), envelope, waiting, beside).await
}

async fn follow_beside(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    (statement, class): (&OpStatement, Class),
    envelope: &Envelope,
    waiting: &OpWait,
    beside: Beside<'_>,
) -> Result<u8, Failure> {
    let binding = host.require_bound()?;
    let mut view = settle(client, ui, host, statement, envelope, waiting.limit(), beside).await?;
    view.facts.class = class.to_string();
    tell(ui, &view, &host.name)?;
    if waiting.limit().is_none() {
        return Ok(0);
    }
    judge(&view, statement, binding)
}

/// Waits for an order that the hub has, for as long as `limit` says; with the host's own word when that is there.
pub async fn settle(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    statement: &OpStatement,
    envelope: &Envelope,
    limit: Option<Duration>,
    beside: Beside<'_>,
) -> Result<OpView, Failure> {
    let op = match limit {
        Some(limit) => wait::until_settled(client, ui, &statement.op_id, statement.expires_at, limit, beside).await?,
        None => client.op(&statement.op_id).await?,
    };
    let mut view = OpView::new(&client.root, op, Some(host.require_bound()?), Some(envelope))?;
    view.facts.host = host.name.to_string();
    if view.facts.state == Stage::Refused && !view.verified {
        ui.warn(&format!(
            "the host has not signed that: until {} the order can still be carried out if it is handed in again",
            clock::rfc3339(statement.expires_at.0.saturating_mul(1000))
        ));
    }
    match view.receipt_doubt.take() {
        Some(doubt) => Err(distrust(&statement.op_id, doubt)),
        None => Ok(view),
    }
}

/// Why the hub did not take an order, and whether it may have.
fn not_taken(failure: Failure, statement: &OpStatement) -> Failure {
    if failure.code == LocalCode::HubUnreachable.as_str() {
        let remedy = format!(
            "whether the hub took it is not known: look with `moorctl op show {}`, or order it again with --key {}: it is done at most once",
            statement.op_id, statement.idempotency_key
        );
        return failure.with_remedy(remedy);
    }
    match Code::parse(failure.code).and_then(|code| remedy::of(code, statement)) {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

/// What the hub shows is not what the host signed.
pub fn distrust(op_id: &OpId, fault: Fault) -> Failure {
    let message = format!("THE RECEIPT OF OPERATION {op_id} IS NOT THE HOST'S WORD ON IT: {}", fault.message);
    Failure::from(Fault { message, ..fault })
        .with_remedy("believe nothing that the hub says of this operation; look at the host itself (`moorline-agent journal show --op ID`)")
}

/// How an operation ended, with what a command wrote.
pub fn tell(ui: &mut Ui, view: &OpView, host: &HostName) -> Result<(), Failure> {
    if ui.format == Format::Table
        && let Some(receipt) = view.receipt.as_ref().filter(|r| r.kind == "exec" && r.result.get("stdout").is_some())
    {
        return tell_output(ui, receipt, host);
    }
    if ui.format == Format::Table
        && let Some(table) = view.receipt.as_ref().and_then(|receipt| guest_words::snapshots(receipt, clock::now()))
    {
        return ui.text(&table);
    }
    ui.result(view, || {
        let facts = &view.facts;
        let on = if facts.resource == "host" { String::new() } else { format!(" {}", facts.resource) };
        let by = match &view.receipt {
            Some(receipt) => {
                let instead = receipt.same_as.as_ref().map(|id| format!(" as operation {id}, of the same key")).unwrap_or_default();
                format!("{instead}, receipt verified\n{}", view::effects(receipt))
            }
            None if facts.state.is_open() => "\n".to_owned(),
            None => ": there is no receipt\n".to_owned(),
        };
        let state = view::state_words(facts, clock::now());
        format!("{}{on} on {host}: {state}{by}", facts.kind)
    })
}

/// What a command wrote, each where it belongs, and how it ended.
fn tell_output(ui: &mut Ui, receipt: &Receipt, host: &HostName) -> Result<(), Failure> {
    let part = |name: &str| {
        let bytes = view::decoded(receipt.result.get(name).and_then(Value::as_str).unwrap_or_default());
        let total = receipt.result.get(format!("{name}_bytes")).and_then(Value::as_u64).unwrap_or_default();
        let kept = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        (bytes, total.saturating_sub(kept))
    };
    let ((stdout, stdout_lost), (stderr, stderr_lost)) = (part("stdout"), part("stderr"));
    ui.output(&stdout)?;
    if !stderr.is_empty() {
        ui.note(visible(&String::from_utf8_lossy(&stderr)).trim_end_matches('\n'));
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
pub fn judge(view: &OpView, statement: &OpStatement, binding: &HostBinding) -> Result<u8, Failure> {
    let OpView { facts, verified, .. } = view;
    let code = match facts.state {
        Stage::At(State::Succeeded) if *verified => return Ok(0),
        Stage::At(State::Succeeded) => {
            return Err(distrust(&facts.op_id, Fault::new(Code::BadSignature, "the hub says that it succeeded and shows no receipt")));
        }
        Stage::At(State::Indeterminate) => Code::Indeterminate,
        Stage::At(State::Expired) => Code::Expired,
        Stage::At(State::Cancelled) => Code::Cancelled,
        Stage::Submitted | Stage::Sent | Stage::At(_) | Stage::Refused => Code::OpFailed,
    };
    let fault = facts.fault.clone().unwrap_or_else(|| Fault::new(code, format!("the operation is {}", facts.state)));
    let said = fault.code;
    let failure = Failure::from(fault);
    if code == Code::Indeterminate && statement.host_epoch != binding.host_epoch {
        // The host forgot it, and nothing waits for it there.
        return Err(
            failure.with_remedy("the host has begun a new life since: look at the resource on the host; nothing waits for a word on it")
        );
    }
    if code == Code::Indeterminate {
        return Err(failure.with_remedy(format!(
            "look at the resource on the host, then say how it ended: `moorctl op resolve {} --as succeeded` or `--as failed`",
            facts.op_id
        )));
    }
    Err(match remedy::of(said, statement) {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    })
}

/// Which host an order is for, by its own words and the verified bindings.
pub async fn host_of(client: &Client, envelope: &Envelope) -> Result<(HostView, OpStatement), Failure> {
    let statement = Signed::<OpStatement>::new(envelope.clone())?.peek()?;
    let host = client.hosts(None).await?.into_iter().find(|h| h.host_id == statement.host_id && !h.pending);
    let host = host.ok_or_else(|| Fault::new(Code::NotFound, format!("there is no host {}", statement.host_id)))?;
    Ok((host, statement))
}
