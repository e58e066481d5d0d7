//! One saga as it is shown: what was signed, where each step stands, what happened, and what an operator can do.

use std::time::Duration;

use moorline_common::fault::Fault;
use moorline_common::id::SagaId;
use moorline_common::saga::{Plan, Side, Status};
use moorline_common::sign::Verified;
use owo_colors::OwoColorize;
use serde::Serialize;

use super::follow;
use crate::client::Client;
use crate::client::sagas::{LineFacts, SagaFacts, StepFacts};
use crate::clock;
use crate::error::{EXIT_ERROR, Failure};
use crate::render::{Format, Table, Tone, Ui, plain, visible};

/// One saga in full, as `-o json` shows it; keys are stable.
#[derive(Debug, Serialize)]
pub struct SagaView {
    /// As the hub shows it.
    #[serde(flatten)]
    pub facts: SagaFacts,
    /// What was signed.
    pub plan: Option<Plan>,
    /// Keys that signed it, by the names in the trust root.
    pub signed_by: Vec<String>,
    /// Why it does not count by the newest trust root.
    pub plan_doubt: Option<Fault>,
}

impl SagaView {
    /// What `facts` are worth.
    pub fn new(client: &Client, facts: SagaFacts) -> Self {
        let verified = client.plan_of(&facts);
        let signatures = verified.as_ref().ok().map(Verified::envelope).into_iter().flat_map(|envelope| &envelope.signatures);
        let signed_by = signatures.map(|signature| client.root.name_of(&signature.keyid)).collect();
        match verified {
            Ok(plan) => Self { facts, plan: Some(plan.into_statement()), signed_by, plan_doubt: None },
            Err(doubt) => Self { facts, plan: None, signed_by, plan_doubt: Some(doubt) },
        }
    }

    /// The exit code of a verb that shows it.
    pub const fn exit(&self) -> u8 {
        if self.plan_doubt.is_some() { EXIT_ERROR } else { exit(self.facts.status) }
    }
}

/// 0 while it goes on and when all was done.
pub const fn exit(status: Status) -> u8 {
    match status {
        Status::Pending | Status::Running | Status::Completed => 0,
        Status::Compensating | Status::RolledBack | Status::Stuck | Status::Cancelled | Status::Abandoned => EXIT_ERROR,
    }
}

/// Shows one saga; what does not verify is said loudly.
pub async fn show(client: &Client, saga_id: &SagaId, watch: bool, ui: &mut Ui) -> Result<u8, Failure> {
    let mut facts = client.saga(saga_id).await?;
    if watch && !facts.is_over() {
        facts = follow::until_over(client, ui, facts, Duration::MAX).await?;
    }
    tell(client, ui, facts, watch)
}

/// Shows it as it is now; `last` of several results.
pub fn tell(client: &Client, ui: &mut Ui, facts: SagaFacts, last: bool) -> Result<u8, Failure> {
    let view = SagaView::new(client, facts);
    if let Some(doubt) = &view.plan_doubt {
        ui.warn(&format!("THE PLAN IS NOT WHAT OPERATORS OF THIS CLUSTER SIGNED, and no host does anything for it: {doubt}"));
    }
    let now = client.hub_now_ms();
    if last && ui.format == Format::Json {
        ui.item(&view, String::new)?;
    } else {
        ui.result(&view, || in_full(&view, now))?;
    }
    Ok(view.exit())
}

pub(super) fn in_full(view: &SagaView, now_ms: u64) -> String {
    let saga = &view.facts;
    let ago = |at: u64| format!("{} ago", clock::age(at, now_ms));
    let mut text = format!("{}\n", headline(saga).bold());
    let mut fact = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<11}{value}\n"));
        }
    };
    fact("deployment", saga.deployment.clone());
    fact("reason", saga.reason.clone());
    fact("started", format!("{} ({}) by {}", saga.started, ago(saga.started_unix_ms), saga.started_by));
    fact("changed", format!("{} ({})", saga.changed, ago(saga.changed_unix_ms)));
    if let Some(plan) = &view.plan {
        let until = |at: moorline_common::id::UnixSeconds| clock::rfc3339(at.0.saturating_mul(1000));
        fact("plan", format!("verified, signed by {}", view.signed_by.join(", ")));
        fact("begins", format!("until {}; is undone until {}", until(plan.expires_at), until(plan.undo_until)));
    }
    for (key, value) in &saga.inputs {
        fact("input", format!("{key} = {value}"));
    }
    for (key, value) in &saga.outputs {
        fact("output", format!("{key} = {value}"));
    }
    text.push('\n');
    text.push_str(&steps(view, now_ms));
    if !saga.timeline.is_empty() {
        text.push_str("\ntimeline\n");
    }
    for happened in &saga.timeline {
        text.push_str(&format!("  {:>9}  {}\n", ago(happened.at_unix_ms), happened.what));
    }
    text.push_str(&ending(saga));
    text
}

/// The saga in a line.
pub fn headline(saga: &SagaFacts) -> String {
    format!("saga {}: {} ({}): {}, {} of {} steps", saga.saga_id, saga.name, saga.kind, saga.status, saga.steps_over, saga.step_count)
}

/// Why it stands still, and what an operator can do.
fn ending(saga: &SagaFacts) -> String {
    let mut text = String::new();
    if !saga.stuck.is_empty() {
        text.push_str(&format!("\n  {}: {}\n", "stuck".red().bold(), saga.stuck));
    }
    let next = match saga.status {
        Status::Stuck if saga.remedy.is_empty() => format!("moorctl saga abandon {} leaves all as it is", saga.saga_id),
        Status::Stuck => format!("{}\n        (or leave all as it is: moorctl saga abandon {})", saga.remedy, saga.saga_id),
        Status::Pending
        | Status::Running
        | Status::Compensating
        | Status::Completed
        | Status::RolledBack
        | Status::Cancelled
        | Status::Abandoned => return text,
    };
    text.push_str(&format!("  {}: {next}\n", "next".cyan()));
    text
}

fn steps(view: &SagaView, now_ms: u64) -> String {
    let mut table = Table::new(&["STEP", "GROUP", "NAME", "STATUS", "SIDE", "PHASE", "TRIES", "AGE", "WHAT"]);
    for (number, step) in view.facts.steps.iter().enumerate() {
        let signed = view.plan.as_ref().and_then(|plan| plan.steps.get(number));
        let name = signed.map_or(step.name.as_str(), |signed| signed.name.as_str());
        let what = |side: Side, line: &LineFacts| {
            let signed = signed.and_then(|signed| signed.task(side));
            signed.map_or_else(|| line.what.clone(), |task| visible(&task.act.words()))
        };
        let mut run = vec![
            plain(number + 1),
            plain(step.group.saturating_add(1)),
            plain(visible(name)),
            (step.status.clone(), step_tone(step)),
            plain("do"),
        ];
        run.extend(line_cells(&step.run, what(Side::Do, &step.run), now_ms));
        table.row(run);
        match &step.undo {
            Some(undo) => {
                let mut row = vec![plain(""), plain(""), plain(""), plain(""), plain("undo")];
                row.extend(line_cells(undo, what(Side::Undo, undo), now_ms));
                table.row(row);
            }
            None if step.irreversible => {
                let mut row = vec![plain(""); 8];
                row.push(("it cannot be undone".to_owned(), Tone::Dim));
                table.row(row);
            }
            None => {}
        }
    }
    table.text()
}

fn line_cells(line: &LineFacts, what: String, now_ms: u64) -> Vec<(String, Tone)> {
    let is_idle = line.attempt == 0 && line.phase == "idle";
    let age = if line.at_unix_ms == 0 { "-".to_owned() } else { clock::age(line.at_unix_ms, now_ms) };
    let due = if line.due_unix_ms > now_ms {
        format!(" [due in {}]", clock::span_words((line.due_unix_ms - now_ms) / 1000))
    } else {
        String::new()
    };
    let fault = line.fault.as_ref().map(|fault| format!(" — {}", visible(&fault.to_string()))).unwrap_or_default();
    let op = if line.op_id.is_empty() { String::new() } else { format!(" (operation {})", line.op_id) };
    vec![
        (line.phase.clone(), phase_tone(&line.phase)),
        plain(format!("{} of {}", line.attempt, line.allowed)),
        (age, Tone::Dim),
        (format!("{what}{op}{due}{fault}"), if is_idle { Tone::Dim } else { Tone::Plain }),
    ]
}

/// Words of a newer hub have none.
fn step_tone(step: &StepFacts) -> Tone {
    match step.status.as_str() {
        "completed" => Tone::Good,
        "running" => Tone::Warn,
        "failed" => Tone::Bad,
        "pending" | "compensated" | "skipped" => Tone::Dim,
        _ => Tone::Plain,
    }
}

fn phase_tone(phase: &str) -> Tone {
    match phase {
        "done" => Tone::Good,
        "under" | "again" => Tone::Warn,
        "silent" | "doubt" | "failed" => Tone::Bad,
        "idle" | "skipped" => Tone::Dim,
        _ => Tone::Plain,
    }
}
