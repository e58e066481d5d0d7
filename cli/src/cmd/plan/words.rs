//! A plan for people: per host what is done and why, and below each step what the host has and what it gets.

use moorline_common::plan::Effect;
use moorline_common::plan::compare::SEALED_CHANGED;
use moorline_common::plan::fields::FieldChange;
use moorline_common::topology::SealedKind;
use owo_colors::OwoColorize;

use super::model::{HostPlan, Outcome, PlannedStep, only_waits};
use crate::clock;
use crate::limits::{FIELD_SHOWN, FIELDS_SHOWN, QUIET_HOSTS_SHOWN};
use crate::render::{shorten, visible};
use crate::revision::ChangeKind;

/// All of it.
#[must_use]
pub fn words(outcome: &Outcome) -> String {
    let mut text = String::new();
    let (quiet, told): (Vec<&HostPlan>, Vec<&HostPlan>) = outcome.hosts.iter().partition(|h| h.is_quiet());
    let summed = quiet.len() > QUIET_HOSTS_SHOWN;
    for host in if summed { told } else { outcome.hosts.iter().collect() } {
        text.push_str(&host_words(host));
    }
    if summed {
        text.push_str(&quiet_words(&quiet));
    }
    if !outcome.awaiting.is_empty() {
        text.push_str(&format!("not joined yet: {}\n", visible(&outcome.awaiting.join(", "))));
    }
    text.push_str(&summary(outcome));
    text
}

/// Hosts of which there is nothing to tell but how fresh that is.
fn quiet_words(hosts: &[&HostPlan]) -> String {
    let ages = || hosts.iter().filter_map(|h| h.report_age_s);
    let seen = match (ages().min(), ages().max()) {
        (Some(newest), Some(oldest)) => format!("verified reports, {} to {} old", clock::span_words(newest), clock::span_words(oldest)),
        (None, _) | (_, None) => "no reports".to_owned(),
    };
    format!("{} {} {}\n", format!("{} hosts", hosts.len()).bold(), "have the same content and nothing to do", format!("({seen})").dimmed())
}

fn summary(outcome: &Outcome) -> String {
    let steps = || outcome.hosts.iter().flat_map(|h| &h.plan.steps);
    let count = |effect: Effect| steps().filter(|s| s.effect == effect).count();
    let counts: Vec<String> = [
        (Effect::Create, "to create"),
        (Effect::InPlace, "to change in place"),
        (Effect::Replace, "to replace"),
        (Effect::Remove, "to remove"),
    ]
    .into_iter()
    .map(|(effect, word)| (count(effect), word))
    .filter(|(n, _)| *n > 0)
    .map(|(n, word)| format!("{n} {word}"))
    .collect();
    let busy = outcome.hosts.iter().filter(|h| !h.plan.steps.is_empty()).count();
    let wait = outcome.hosts.iter().flat_map(|h| &h.plan.blocked).filter(|b| only_waits(b)).count();
    let wait = if wait == 0 { String::new() } else { format!(", {wait} to follow when others are so far") };
    match (outcome.changes, counts.is_empty()) {
        (false, _) => match outcome.hosts.iter().map(|h| h.plan.drift.len()).sum::<usize>() {
            0 => format!("no changes: `{}` is as the file says\n", outcome.topology),
            1 => "nothing to push; 1 difference waits for an operator\n".to_owned(),
            n => format!("nothing to push; {n} differences wait for an operator\n"),
        },
        (true, true) => "a new generation; nothing to do on the hosts now\n".to_owned(),
        (true, false) => format!("{} on {busy} {}{wait}\n", counts.join(", "), if busy == 1 { "host" } else { "hosts" }),
    }
}

fn host_words(host: &HostPlan) -> String {
    let seen = match host.report_age_s {
        Some(seconds) => format!("verified report, {} old", clock::span_words(seconds)),
        None => "no report".to_owned(),
    };
    let what = match host.change {
        ChangeKind::Added => "is added",
        ChangeKind::Changed => "changes",
        ChangeKind::Unchanged => "has the same content",
        ChangeKind::Leaves => "leaves and is torn down; volumes stay",
    };
    let mut text = format!("{} {what} {}\n", host.host.bold(), format!("({seen})").dimmed());
    for note in &host.notes {
        text.push_str(&format!("    {}: {}\n", "note".yellow(), visible(note)));
    }
    for step in &host.plan.steps {
        text.push_str(&step_words(step));
    }
    for blocked in &host.plan.blocked {
        let (resource, reason) = (&blocked.resource, visible(&blocked.reason));
        let line = match blocked.code.filter(|_| !only_waits(blocked)) {
            None => format!("… {resource} — {reason}").dimmed().to_string(),
            Some(code) => format!("! {resource} — {reason} [{code}]").red().to_string(),
        };
        text.push_str(&format!("  {line}\n"));
    }
    for drift in &host.plan.drift {
        let (live, wanted) = (cut(&drift.actual), cut(&drift.expected));
        text.push_str(&format!("  {} {} {}: is {live}, should be {wanted}\n", "≠".yellow(), drift.resource, visible(&drift.field)));
    }
    text
}

fn step_words(step: &PlannedStep) -> String {
    let sign = match step.effect {
        Effect::Create => '+',
        Effect::InPlace | Effect::Replace => '~',
        Effect::Remove => '-',
    };
    let place = if step.effect == Effect::InPlace { " in place" } else { "" };
    let line = format!("{sign} {} {}{place} — {}", step.verb, step.resource, visible(&step.reason));
    let mut text = format!("  {}\n", painted(sign, &line));
    for field in step.fields.iter().take(FIELDS_SHOWN) {
        text.push_str(&format!("      {}\n", field_words(field)));
    }
    let more = step.fields.len().saturating_sub(FIELDS_SHOWN);
    if more > 0 {
        text.push_str(&format!("      … and {more} more fields, which `-o json` shows\n"));
    }
    text
}

/// What one field has and gets.
pub(super) fn field_words(change: &FieldChange) -> String {
    let field = cut(&change.field);
    if change.wanted.as_deref() == Some(SEALED_CHANGED)
        && let Some((section, name)) = change.field.split_once('.')
        && let Some(kind) = SealedKind::ALL.into_iter().find(|kind| kind.section() == section)
    {
        return painted('~', &format!("~ {} {}: {SEALED_CHANGED}", kind.word(), cut(name)));
    }
    match (&change.live, &change.wanted) {
        (None, Some(wanted)) => painted('+', &format!("+ {field}: {}", cut(wanted))),
        (Some(live), None) => painted('-', &format!("- {field}: {}", cut(live))),
        (Some(live), Some(wanted)) => painted('~', &format!("~ {field}: {} → {}", cut(live), cut(wanted))),
        (None, None) => painted('~', &format!("~ {field}")),
    }
}

fn painted(sign: char, line: &str) -> String {
    match sign {
        '+' => line.green().to_string(),
        '-' => line.red().to_string(),
        _ => line.yellow().to_string(),
    }
}

/// A value on one line, cut, with nothing in it that moves the cursor.
fn cut(value: &str) -> String {
    if value.is_empty() { "\"\"".to_owned() } else { shorten(&visible(value), FIELD_SHOWN) }
}
