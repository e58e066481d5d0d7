//! How a push is told: what became of it, and why it was not made.

use std::path::Path;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::Generation;
use moorline_common::trust::TrustRoot;
use owo_colors::OwoColorize;

use super::{Aim, Outcome, Verb};
use crate::client::{Client, RevisionView};
use crate::clock;
use crate::error::Failure;
use crate::limits::ERROR_DIFF_LINES;
use crate::progress::{HostStanding, Standing};
use crate::render::{diff, visible};
use crate::revision::{ChangeKind, HostChange};

/// What became of it, for people.
pub(super) fn words(outcome: &Outcome) -> String {
    let name = outcome.topology.bold();
    let mut text = if outcome.pushed {
        let verb = if outcome.down { "tearing down" } else { "pushed" };
        format!("{verb} {name} generation {}\n", outcome.generation)
    } else if outcome.verb == Verb::Submit {
        format!("{name} generation {} was handed in before\n", outcome.generation)
    } else if outcome.down {
        format!("{name} generation {} is down already\n", outcome.generation)
    } else {
        let force = if matches!(outcome.verb, Verb::Push | Verb::PushPlan) { " (--force pushes all the same)" } else { "" };
        format!("nothing changed: {name} generation {} says the same{force}\n", outcome.generation)
    };
    let counts: Vec<String> = [
        (ChangeKind::Added, "added"),
        (ChangeKind::Changed, "changed"),
        (ChangeKind::Unchanged, "unchanged"),
        (ChangeKind::Leaves, "torn down"),
    ]
    .into_iter()
    .map(|(kind, word)| (count(&outcome.hosts, kind), word))
    .filter(|(n, _)| *n > 0)
    .map(|(n, word)| format!("{n} {word}"))
    .collect();
    if !counts.is_empty() && (outcome.pushed || !outcome.down) {
        text.push_str(&format!("  hosts: {}\n", counts.join(", ")));
    }
    let changes = outcome.hosts.iter().any(|c| matches!(c.change, ChangeKind::Added | ChangeKind::Changed));
    if let Some(plan) = outcome.rollout.as_ref().filter(|_| outcome.pushed && changes) {
        text.push_str(&format!("  rollout: {}\n", plan.words()));
        text.push_str(&format!("  `moorctl rollout status {} -w` shows how far it is\n", outcome.topology));
    }
    if let Some(trial) = &outcome.trial {
        let (hosts, span) = (trial.hosts, clock::span_words(trial.within_s));
        text.push_str(&format!(
            "  on trial: {hosts} of them go back by themselves {span} after they have it, from {} on, unless you let it stay:\n    {}\n",
            trial.until, trial.confirm
        ));
    }
    if !outcome.awaiting.is_empty() {
        text.push_str(&format!("  not joined yet, they get it when they are approved: {}\n", outcome.awaiting.join(", ")));
    }
    text
}

fn count(changes: &[HostChange], kind: ChangeKind) -> usize {
    changes.iter().filter(|c| c.change == kind).count()
}

/// How far the hosts are, for people.
pub(super) fn standing_words(standings: &[HostStanding]) -> String {
    let done = standings.iter().filter(|s| s.standing == Standing::Done).count();
    let offline: Vec<&str> = standings.iter().filter(|s| s.standing == Standing::Offline).map(|s| s.host.as_str()).collect();
    let cordoned: Vec<&str> = standings.iter().filter(|s| s.standing == Standing::Cordoned).map(|s| s.host.as_str()).collect();
    let mut text = format!("  {done} of {} hosts have it\n", standings.len());
    if !cordoned.is_empty() {
        text.push_str(&format!("  cordoned, pending until `moorctl host uncordon`: {}\n", cordoned.join(", ")));
    }
    for standing in standings {
        if let Standing::OutsideMaintenance { why } = &standing.standing {
            text.push_str(&format!("  {}: {}\n", standing.host, visible(why)));
        }
    }
    if !offline.is_empty() {
        text.push_str(&format!("  offline, pending until they connect: {}\n", offline.join(", ")));
    }
    text
}

/// Why the hub took no push, in its own words.
pub(super) fn not_taken(failure: Failure, aim: &Aim, generation: Generation) -> Failure {
    let stands = failure.is(Code::BaseMoved);
    let failure = failure.while_doing(format_args!("pushing `{}` generation {generation}", aim.topology));
    if stands { failure.with_remedy("nobody pushed meanwhile: look at the hosts with `moorctl status`, then try again") } else { failure }
}

/// Why a file that was asked for is not written.
pub(super) fn nothing_to_sign(aim: &Aim, newest: Generation, file: &Path) -> Failure {
    let state = if aim.source.is_none() { "is down already" } else { "says the same already" };
    let message =
        format!("`{}` generation {newest} {state}: there is nothing to sign, and {} was not written", aim.topology, file.display());
    let failure = Failure::from(Fault::new(Code::AlreadyExists, message));
    match aim.verb {
        Verb::Push | Verb::PushPlan => failure.with_remedy("with --force it is made all the same"),
        Verb::Rollback | Verb::Down | Verb::Submit => failure.with_remedy("nothing is left to do"),
    }
}

/// By whom and when a revision was pushed, and why.
fn pushed_by(client: &Client, view: &RevisionView) -> String {
    let age = clock::age(view.facts.pushed_unix_ms, client.hub_now_ms());
    let why = if view.facts.message.is_empty() { String::new() } else { format!(": “{}”", view.facts.message) };
    format!("pushed by {} {age} ago{why}", author(view, &client.root))
}

fn text_of(view: &RevisionView) -> Option<&str> {
    view.source.as_ref().map(|s| s.statement().source.as_str())
}

fn no_text(generation: Generation) -> Vec<String> {
    vec![format!("the hub has no source of generation {generation}: `moorctl get slice HOST` shows what each host has of it")]
}

fn difference(old: &str, new: &str, old_name: &str, new_name: &str) -> Vec<String> {
    diff::first_lines(&diff::coloured(&diff::unified(old, new, old_name, new_name)), ERROR_DIFF_LINES)
}

/// Refuses to replace a revision that this machine's file was not made from, and shows what the file would change.
pub(super) fn never_pushed(client: &Client, aim: &Aim, current: &RevisionView) -> Failure {
    let generation = current.facts.generation;
    let topology = &aim.topology;
    let message = format!(
        "`{topology}` is at generation {generation}, {}, and this machine has not pushed it before; nothing was pushed",
        pushed_by(client, current)
    );
    let details = match (text_of(current), &aim.source) {
        (Some(old), Some(new)) => difference(old, &new.text, &format!("generation {generation}"), &new.name),
        (Some(_), None) => Vec::new(),
        (None, _) => no_text(generation),
    };
    Failure::from(Fault::new(Code::BaseMoved, message))
        .with_details(details)
        .with_remedy(format!("look at the difference, then push with `--base {generation}`"))
}

/// Says who moved the base, and shows what they changed.
pub(super) async fn base_moved(client: &Client, aim: &Aim, base: Generation, current: Option<&RevisionView>) -> Failure {
    let Some(current) = current else {
        let message = format!("`{}` has no generation {base}; the hub has none at all; nothing was pushed", aim.topology);
        return Failure::from(Fault::new(Code::BaseMoved, message))
            .with_remedy("look at the hub with `moorctl status`: it may be another one, or have lost its records");
    };
    let generation = current.facts.generation;
    let message =
        format!("`{}` has moved from generation {base} to {generation}, {}; nothing was pushed", aim.topology, pushed_by(client, current));
    let old = match base {
        Generation(0) => Some(String::new()),
        base => client.revision(&aim.topology, base, false).await.ok().as_ref().and_then(text_of).map(str::to_owned),
    };
    let details = match (old, text_of(current)) {
        (Some(old), Some(new)) => difference(&old, new, &format!("generation {base}"), &format!("generation {generation}")),
        (None, _) => vec![format!("the hub has no source of generation {base} to compare with")],
        (Some(_), None) => no_text(generation),
    };
    Failure::from(Fault::new(Code::BaseMoved, message)).with_details(details).with_remedy(after_a_move(aim, generation))
}

/// What to do once somebody else has pushed `generation`.
fn after_a_move(aim: &Aim, generation: Generation) -> String {
    match aim.verb {
        Verb::Push => {
            let file = aim.source.as_ref().map_or("FILE", |s| s.name.as_str());
            format!(
                "merge the difference above into your file, then `moorctl push -f {file} --base {generation}` (`moorctl diff {} -f {file}` shows what that would change)",
                aim.topology
            )
        }
        Verb::PushPlan => {
            let file = aim.source.as_ref().map_or("FILE", |s| s.name.as_str());
            format!(
                "merge the difference above into your file, then make the plan anew with `moorctl plan -f {file} --save PLAN` and review it"
            )
        }
        Verb::Rollback | Verb::Down => "look at the difference above; if it shall go all the same, repeat the command".to_owned(),
        Verb::Submit => {
            "merge the difference above into your file, then save and sign it anew: what was signed names the generation it follows"
                .to_owned()
        }
    }
}

/// Who made a revision: by the signature if it verifies, else the hub's word.
#[must_use]
pub fn author(view: &RevisionView, root: &TrustRoot) -> String {
    let source = match (&view.source, &view.doubt) {
        (Some(source), _) => source,
        (None, Some(_)) => return format!("{} (the hub says)", view.facts.pushed_by),
        // A restored hub took it over from what agents hold.
        (None, None) => return "recovered".to_owned(),
    };
    let names: Vec<String> = source.signers().iter().map(|id| root.name_of(id)).collect();
    names.join(", ")
}
