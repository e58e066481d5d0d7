//! Handing an operation in, and waiting for the host's word on it.

use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, OpId, ResourceId};
use moorline_common::op::{Act, Class, OpStatement, Receipt, Stage, State};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use serde_json::Value;

use super::view::{self, OpView};
use super::wait::Beside;
use super::{OnOne, OpWait, OrderArgs, draft, saved, wait};
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::error::{Failure, LocalCode};
use crate::render::{Format, Ui, visible};
use crate::signers::Signers;

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
    let incarnation = draft::incarnation(act, &resource, class, args.incarnation.as_deref(), observed)?;
    if let (Some(report), Some(id), None) = (&report, &incarnation, &args.incarnation) {
        let age = clock::span_words(report.age_s(clock::now()));
        ui.note(&format!("meant is container {}, by the host's report of {age} ago", visible(id)));
    }
    let signers = Signers::of(client)?;
    let statement = draft::statement(&client.root, binding, act, (resource, incarnation), args, clock::now())?;
    let sealed = draft::seal(&client.root, binding, &statement, &signers)?;
    let words = draft::words(&statement, class, &host.name);
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
    if give(client, statement, envelope).await? {
        ui.note(&format!("the hub had operation {} already; nothing is done twice", statement.op_id));
    }
    follow(client, ui, host, statement, class, envelope, waiting).await
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
    let binding = host.require_bound()?;
    let is_pull = statement.kind == "pull";
    let beside = if is_pull { Beside::Pull(wait::Pulled::new(&host.name, statement.resource.name())) } else { Beside::Nothing };
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
    match Code::parse(failure.code).and_then(|code| remedy(code, statement)) {
        Some(remedy) => failure.with_remedy(remedy),
        None => failure,
    }
}

/// What an operator does about a refused or failed order; `None` where that does not differ from what else the code is about.
#[expect(clippy::too_many_lines, reason = "a table: each code has its lines")]
fn remedy(code: Code, statement: &OpStatement) -> Option<String> {
    let key = &statement.idempotency_key;
    let anew = format!("then sign it again with --key {key}: with the same key it is done at most once");
    let aimed = matches!(statement.kind.as_str(), "cancel" | "resolve");
    let text = match code {
        Code::Expired => "nothing was done: sign it again, with a longer --expires if the host may be away for long".to_owned(),
        Code::NotYetValid | Code::ClockUnsound => format!("set the clocks of the host and of this machine, {anew}"),
        Code::Busy => format!(
            "wait until others have ended (`moorctl op ls --open`), and resolve those that are indeterminate (`moorctl op resolve`), {anew}"
        ),
        Code::DiskFull => format!("free the disk of the agent's state folder, {anew}"),
        Code::EngineUnreachable => format!("start the engine on the host, {anew}"),
        Code::RootBehind | Code::Waiting => format!("wait until the host has caught up (`moorctl status`), {anew}"),
        Code::Quarantined | Code::RecordsBehind => {
            "run `moorline-agent doctor` on the host, mend the cause, `moorctl host approve NAME`, then sign the order anew".to_owned()
        }
        Code::NotOwned => {
            "operations touch only what Moorline made: act on it on the host itself, or name one of ours (`moorctl get report HOST`)"
                .to_owned()
        }
        Code::PolicyDenied => "let the host's administrator allow it in the agent's local policy file, or leave it".to_owned(),
        Code::WrongEpoch => {
            "the host began a new life since: `moorctl host approve NAME` if it asks for it, then sign the order anew".to_owned()
        }
        Code::NotFound | Code::TooLate if aimed => {
            "the operation has ended, or this host never had it: `moorctl op show` tells how it ended".to_owned()
        }
        Code::NotFound => "look at what the host has with `moorctl get report HOST`".to_owned(),
        Code::WrongType | Code::HashMismatch => {
            "sign it again; if it comes back, compare the versions of moorctl, hub and agents".to_owned()
        }
        Code::TooLate
        | Code::OutsideMaintenance
        | Code::TooLarge
        | Code::BadEnvelope
        | Code::BadSignature
        | Code::UnknownKey
        | Code::RevokedKey
        | Code::ThresholdNotMet
        | Code::WrongCluster
        | Code::WrongHost
        | Code::OutOfScope
        | Code::DriftMoved
        | Code::DriftResolved
        | Code::RootExpired
        | Code::BadRoot
        | Code::NoTrustRoot
        | Code::NotApproved
        | Code::GenerationRegressed
        | Code::Equivocation
        | Code::AlreadyApplied
        | Code::BadContent
        | Code::UnknownKind
        | Code::BadParams
        | Code::ClassDenied
        | Code::NonceUsed
        | Code::Conflict
        | Code::IncarnationChanged
        | Code::PreconditionFailed
        | Code::Cancelled
        | Code::OpFailed
        | Code::Indeterminate
        | Code::StepFailed
        | Code::EngineTooOld
        | Code::NotThere
        | Code::AdoptDiffers
        | Code::RolledBack
        | Code::RolloutFailed
        | Code::FallbackUnusable
        | Code::ImageUnavailable
        | Code::DependencyFailed
        | Code::BaseMoved
        | Code::SecretsUnreadable
        | Code::JoinRefused
        | Code::PermissionDenied
        | Code::AlreadyExists
        | Code::InvalidArgument
        | Code::RenewalConflict
        | Code::UnsupportedVersion
        | Code::Internal => return None,
    };
    Some(text)
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
    Err(match remedy(said, statement) {
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
