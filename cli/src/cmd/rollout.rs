//! `moorctl rollout`: how far revisions have spread, and what operators do about it.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId};
use moorline_common::rollout::{Act, Standing, State};
use owo_colors::OwoColorize;

use super::Env;
use crate::args::parse_generation;
use crate::client::Client;
use crate::client::rollouts::{RolloutFacts, RolloutHostFacts};
use crate::clock;
use crate::error::{EXIT_ERROR, Failure, LocalCode};
use crate::limits::{ROLLOUT_HOSTS_NAMED, ROLLOUTS_DEFAULT, ROLLOUTS_LOOKED, WATCH_INTERVAL_MIN};
use crate::render::{Format, Table, Tone, Ui, plain};

/// The verbs of `rollout`.
#[derive(Debug, Subcommand)]
pub enum RolloutVerb {
    /// List rollouts, the newest first
    Ls(LsArgs),
    /// Show how far a revision has spread; exit 1 when that has failed or was ended
    Status(StatusArgs),
    /// Give the revision to no more hosts until it is resumed
    Pause(ActArgs),
    /// Go on; what has failed so far is forgiven
    Resume(ActArgs),
    /// Give the revision to no more hosts; those that have it keep it
    Abort(ActArgs),
}

/// Arguments of `rollout ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only those of this topology
    pub topology: Option<String>,
    /// How many
    #[arg(short = 'n', long, default_value_t = ROLLOUTS_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
}

/// Arguments of `rollout status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The topology [default: the one with the only rollout]
    pub topology: Option<String>,
    /// The rollout of this generation [default: the newest]
    #[arg(long, value_name = "GENERATION", value_parser = parse_generation, requires = "topology")]
    pub generation: Option<u64>,
    /// Show it as it goes on, until it is over
    #[arg(short, long)]
    pub watch: bool,
    /// Between two looks
    #[arg(long, default_value = "1s", value_name = "SPAN", value_parser = clock::parse_span)]
    pub interval: Duration,
}

/// Arguments of the acts.
#[derive(Debug, Args)]
pub struct ActArgs {
    /// The topology
    pub topology: String,
}

/// Runs it.
///
/// # Errors
/// `not_found`, `precondition_failed`; what calls can fail with.
pub async fn run(verb: RolloutVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        RolloutVerb::Ls(args) => ls(args, env, ui).await,
        RolloutVerb::Status(args) => status(args, env, ui).await,
        RolloutVerb::Pause(args) => act(args, Act::Pause, env, ui).await,
        RolloutVerb::Resume(args) => act(args, Act::Resume, env, ui).await,
        RolloutVerb::Abort(args) => act(args, Act::Abort, env, ui).await,
    }
}

async fn ls(args: LsArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let topology = args.topology.map(TopologyId::parse).transpose()?;
    let client = env.client(ui).await?;
    let rollouts = client.rollouts(topology.as_ref(), args.limit).await?;
    let now = client.hub_now_ms();
    ui.result(&rollouts, || {
        if rollouts.is_empty() {
            return "no rollouts: one begins with a push of a file that has `rollout`\n".to_owned();
        }
        let mut table = Table::new(&["TOPOLOGY", "GEN", "STATE", "HEALTHY", "FAILED", "WAITING", "AGE", "NOTE"]);
        for rollout in &rollouts {
            table.row(vec![
                plain(&rollout.topology),
                plain(rollout.generation),
                (rollout.state.as_str().to_owned(), tone(rollout.state)),
                plain(format!("{} of {}", rollout.count(|s| s == Standing::Healthy), rollout.total())),
                plain(rollout.count(Standing::failed)),
                plain(rollout.count(Standing::waits)),
                (clock::age(rollout.started_unix_ms, now), Tone::Dim),
                (rollout.reason.clone(), Tone::Dim),
            ]);
        }
        table.text()
    })?;
    Ok(0)
}

async fn act(args: ActArgs, act: Act, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let topology = TopologyId::parse(args.topology)?;
    let client = env.client(ui).await?;
    let rollout = client.act_on_rollout(&topology, act).await.map_err(|f| {
        if f.is(Code::PreconditionFailed) { f.with_remedy(format!("look at it with `moorctl rollout status {topology}`")) } else { f }
    })?;
    ui.result(&rollout, || format!("{} generation {}: {}\n", topology.bold(), rollout.generation, rollout.state.as_str()))?;
    Ok(0)
}

async fn status(args: StatusArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let topology = match args.topology {
        Some(name) => TopologyId::parse(name)?,
        None => only(&client).await?,
    };
    let generation = Generation(args.generation.unwrap_or_default());
    let mut rollout = look(&client, &topology, generation).await?;
    if args.watch && !is_over(&rollout) {
        rollout = watch(&client, ui, rollout, args.interval.max(WATCH_INTERVAL_MIN)).await?;
    }
    let now = client.hub_now_ms();
    if args.watch && ui.format == Format::Json {
        ui.item(&rollout, String::new)?
    } else {
        ui.result(&rollout, || in_full(&rollout, now))?
    }
    Ok(exit(rollout.state))
}

/// The topology whose rollout is meant when none is named: the only one that is under way, or else the only one.
async fn only(client: &Client) -> Result<TopologyId, Failure> {
    let rollouts = client.rollouts(None, ROLLOUTS_LOOKED).await?;
    let mut newest: BTreeMap<TopologyId, State> = BTreeMap::new();
    for rollout in rollouts {
        newest.entry(rollout.topology).or_insert(rollout.state);
    }
    let under_way: Vec<&TopologyId> = newest.iter().filter(|(_, s)| matches!(s, State::Running | State::Paused)).map(|(t, _)| t).collect();
    let candidates = if under_way.is_empty() { newest.keys().collect() } else { under_way };
    match candidates.as_slice() {
        [] => Err(Failure::from(Fault::new(Code::NotFound, "there is no rollout"))
            .with_remedy("one begins with a push of a file that has `rollout`")),
        [one] => Ok((*one).clone()),
        several => {
            let names: Vec<&str> = several.iter().map(|t| t.as_str()).collect();
            Err(Failure::usage("there are rollouts of several topologies", format!("name one of: {}", names.join(", "))))
        }
    }
}

async fn look(client: &Client, topology: &TopologyId, generation: Generation) -> Result<RolloutFacts, Failure> {
    let found = client.rollout(topology, generation).await?;
    found.ok_or_else(|| {
        let which = if generation == Generation(0) { String::new() } else { format!(" of generation {generation}") };
        Failure::from(Fault::new(Code::NotFound, format!("`{topology}` has no rollout{which}")))
            .with_remedy("`moorctl rollout ls` lists those that there are")
    })
}

/// Whether nothing more happens to it by itself: one that failed is waited for until no host is under way.
fn is_over(rollout: &RolloutFacts) -> bool {
    match rollout.state {
        State::Running | State::Paused => false,
        State::Completed | State::Superseded => true,
        State::Failed | State::Aborted => rollout.count(|s| s == Standing::Released) == 0,
    }
}

const fn exit(state: State) -> u8 {
    match state {
        State::Running | State::Paused | State::Completed => 0,
        State::Failed | State::Aborted | State::Superseded => EXIT_ERROR,
    }
}

/// Follows it until it is over; gives back how it ended.
async fn watch(client: &Client, ui: &mut Ui, first: RolloutFacts, interval: Duration) -> Result<RolloutFacts, Failure> {
    let bar = bar(ui, &first);
    let (topology, generation) = (first.topology.clone(), first.generation);
    let mut before: Option<RolloutFacts> = None;
    let mut rollout = first;
    loop {
        let is_news = before.as_ref() != Some(&rollout);
        if ui.format == Format::Table {
            show(ui, &bar, before.as_ref(), &rollout);
        } else if is_news && !is_over(&rollout) {
            ui.item(&rollout, String::new)?;
        }
        if is_over(&rollout) {
            bar.finish_and_clear();
            return Ok(rollout);
        }
        before = Some(rollout.clone());
        tokio::time::sleep(interval).await;
        rollout = loop {
            match look(client, &topology, generation).await {
                Ok(rollout) => break rollout,
                // A hub that restarts is back in seconds, and goes on where it was.
                Err(failure) if failure.code == LocalCode::HubUnreachable.as_str() => {
                    bar.set_message("the hub does not answer; trying again");
                    tokio::time::sleep(interval).await;
                }
                Err(failure) => return Err(failure),
            }
        };
    }
}

fn bar(ui: &Ui, rollout: &RolloutFacts) -> ProgressBar {
    if !ui.progress_bars() || ui.format != Format::Table {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(rollout.total().into());
    if let Ok(style) = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} hosts healthy {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Moves the bar, or (off a terminal) says a line for each thing that changed.
fn show(ui: &mut Ui, bar: &ProgressBar, before: Option<&RolloutFacts>, now: &RolloutFacts) {
    bar.set_length(now.total().into());
    bar.set_position(now.count(|s| s == Standing::Healthy).into());
    let note = if now.state == State::Running { counts(now) } else { format!("{}: {}", now.state.as_str(), now.reason) };
    bar.set_message(note);
    bar.tick();
    if !bar.is_hidden() {
        return;
    }
    if before.is_none_or(|before| before.state != now.state) {
        ui.note(&headline(now));
    }
    for host in &now.hosts {
        let was = before.and_then(|before| before.hosts.iter().find(|h| h.host_id == host.host_id)).map(|h| h.standing);
        if was != Some(host.standing) && (was.is_some() || host.standing != Standing::Pending) {
            ui.note(&format!("{}: {}", host.host, standing_words(host)));
        }
    }
}

fn standing_words(host: &RolloutHostFacts) -> String {
    let word = word(host.standing);
    if host.reason.is_empty() { word.to_owned() } else { format!("{word}: {}", host.reason) }
}

/// Where a host stands, for people.
const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Pending => "pending",
        Standing::Offline => "offline, pending",
        Standing::Released => "has it, not judged yet",
        Standing::Healthy => "healthy",
        Standing::Failed => "failed",
        Standing::RolledBack => "rolled back",
    }
}

const fn tone(state: State) -> Tone {
    match state {
        State::Running => Tone::Warn,
        State::Completed => Tone::Good,
        State::Paused | State::Failed => Tone::Bad,
        State::Aborted | State::Superseded => Tone::Dim,
    }
}

fn headline(rollout: &RolloutFacts) -> String {
    let reason = if rollout.reason.is_empty() { String::new() } else { format!(": {}", rollout.reason) };
    format!("{} generation {}: {}{reason}", rollout.topology, rollout.generation, rollout.state.as_str())
}

/// How many hosts stand where, in the order of their way.
fn counts(rollout: &RolloutFacts) -> String {
    let standings = [Standing::Healthy, Standing::Released, Standing::Pending, Standing::Offline, Standing::Failed, Standing::RolledBack];
    let counted = standings.into_iter().map(|s| (s, rollout.count(|other| other == s))).filter(|(_, n)| *n > 0);
    counted.map(|(s, n)| format!("{n} {}", word(s))).collect::<Vec<_>>().join("; ")
}

fn in_full(rollout: &RolloutFacts, now_ms: u64) -> String {
    let mut text = format!("{}\n  plan:  {}\n  hosts: {}\n\n", headline(rollout).bold(), rollout.plan.words(), counts(rollout));
    let mut table = Table::new(&["HOST", "STANDING", "SINCE", "NOTE"]);
    let is_quiet = |s: Standing| matches!(s, Standing::Pending | Standing::Healthy);
    let (quiet, loud): (Vec<_>, Vec<_>) = rollout.hosts.iter().partition(|h| is_quiet(h.standing));
    let left = quiet.len().saturating_sub(ROLLOUT_HOSTS_NAMED);
    for host in loud.into_iter().chain(quiet.into_iter().take(ROLLOUT_HOSTS_NAMED)) {
        let tone = match host.standing {
            Standing::Healthy => Tone::Good,
            Standing::Failed | Standing::RolledBack => Tone::Bad,
            Standing::Released => Tone::Warn,
            Standing::Pending | Standing::Offline => Tone::Dim,
        };
        table.row(vec![
            plain(&host.host),
            (word(host.standing).to_owned(), tone),
            (clock::age(host.changed_unix_ms, now_ms), Tone::Dim),
            plain(&host.reason),
        ]);
    }
    text.push_str(&table.text());
    if left > 0 {
        text.push_str(&format!("… and {left} more that are pending or healthy; `-o json` lists them all\n"));
    }
    if let Some(next) = next_step(rollout) {
        text.push_str(&format!("\n  {}: {next}\n", "next".cyan()));
    }
    text
}

/// What an operator can do now.
fn next_step(rollout: &RolloutFacts) -> Option<String> {
    let topology = &rollout.topology;
    let before = rollout.generation.0.saturating_sub(1);
    let back = if rollout.count(|s| s == Standing::Healthy) > 0 {
        format!(", or `moorctl rollback {topology} --to {before}` for the hosts that have it")
    } else {
        String::new()
    };
    match rollout.state {
        State::Failed => Some(format!("push a mended file{back}")),
        State::Aborted => Some(format!("push what is wanted{back}")),
        State::Paused => Some(format!("`moorctl rollout resume {topology}`, `moorctl rollout abort {topology}`, or push a mended file")),
        State::Running | State::Completed | State::Superseded => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorline_common::id::HostId;
    use moorline_common::rollout::Plan;

    fn rollout(state: State, standings: &[(&str, Standing, &str)]) -> RolloutFacts {
        let hosts = standings.iter().enumerate().map(|(n, (host, standing, reason))| RolloutHostFacts {
            host: (*host).to_owned(),
            host_id: HostId::of_key(&[u8::try_from(n).unwrap(); 32]),
            standing: *standing,
            reason: (*reason).to_owned(),
            released_unix_ms: 0,
            changed_unix_ms: 0,
        });
        let mut counts = BTreeMap::new();
        for (_, standing, _) in standings {
            *counts.entry(*standing).or_insert(0) += 1;
        }
        RolloutFacts {
            topology: TopologyId::parse("edge").unwrap(),
            generation: Generation(3),
            state,
            reason: "1 of 3 hosts failed, and 0 may: a".to_owned(),
            plan: Plan::default(),
            started_by: "operator/ann".to_owned(),
            started_unix_ms: 0,
            changed_unix_ms: 0,
            counts,
            hosts: hosts.collect(),
        }
    }

    #[test]
    fn a_failed_rollout_names_the_hosts_their_reasons_and_what_to_do() {
        let failed = rollout(
            State::Failed,
            &[("a", Standing::RolledBack, "not healthy in time"), ("b", Standing::Pending, ""), ("c", Standing::Healthy, "")],
        );
        let text = in_full(&failed, 0);
        for words in [
            "edge generation 3: failed: 1 of 3",
            "rolled back",
            "not healthy in time",
            "push a mended file",
            "moorctl rollback edge --to 2",
        ] {
            assert!(text.contains(words), "{text}");
        }
        assert!(is_over(&failed) && exit(failed.state) == 1);
        let waiting = rollout(State::Failed, &[("a", Standing::Released, "")]);
        assert!(!is_over(&waiting), "it may still go back");
        assert_eq!((exit(State::Completed), exit(State::Aborted), is_over(&rollout(State::Paused, &[]))), (0, 1, false));
    }

    #[test]
    fn of_many_hosts_those_are_listed_that_matter() {
        let names: Vec<String> = (0..100).map(|n| format!("h{n}")).collect();
        let mut many: Vec<(&str, Standing, &str)> = names.iter().map(|n| (n.as_str(), Standing::Healthy, "")).collect();
        many[99].1 = Standing::Failed;
        let text = in_full(&rollout(State::Running, &many), 0);
        assert!(text.contains("h99") && text.contains(&format!("{} more", 99 - ROLLOUT_HOSTS_NAMED)), "{text}");
    }
}
