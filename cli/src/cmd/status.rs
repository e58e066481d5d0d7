//! `moorctl status`: every host, what it should have and what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clap::Args;
use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, ResourceId, VersionHash};
use moorline_common::observe::{EngineState, Observed};
use moorline_common::statement::{Held, RolledBack, Trial, Trouble};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::Env;
use crate::approve;
use crate::client::facts::{Beat, Cordon};
use crate::client::{Client, HostView, ReportView};
use crate::clock;
use crate::error::Failure;
use crate::limits::{REPORT_LIFE, WATCH_INTERVAL_MIN};
use crate::render::{Format, Table, Tone, Ui, or_dash, plain, visible};
use crate::revision;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Refresh until interrupted
    #[arg(short, long)]
    pub watch: bool,
    /// Between two refreshes
    #[arg(long, default_value = "1s", value_name = "SPAN", value_parser = clock::parse_span)]
    pub interval: Duration,
    /// Only hosts of this topology
    #[arg(long, value_name = "NAME")]
    pub topology: Option<String>,
}

/// A host as `-o json` shows it; keys are stable.
#[derive(Debug, Serialize)]
struct Row {
    host: String,
    host_id: String,
    state: State,
    connected: bool,
    /// Whether the hub keeps what is pushed from it.
    cordon: Option<Cordon>,
    /// What it should follow, by the hub.
    target_topology: Option<String>,
    target_generation: Option<u64>,
    target_hash: Option<VersionHash>,
    /// What it says that it follows.
    topology: Option<String>,
    generation: Option<u64>,
    applied_hash: Option<VersionHash>,
    engine: EngineState,
    engine_version: Option<String>,
    heartbeat_age_s: Option<u64>,
    /// Whether the host's own signature stands under its last report.
    verified: bool,
    report_age_s: Option<u64>,
    error: Option<Fault>,
    /// Resources that are not as wanted, from the verified report.
    troubles: Vec<Trouble>,
    /// What differs from the slice and is left as it is, from the verified report.
    drift: Vec<Drift>,
    /// What an operation keeps unlike the slice, from the verified report.
    held: Vec<Held>,
    /// Guests that run and have settings that count from their next start on, from the verified report.
    pending: Vec<Pending>,
    /// What may still come back in the place of its newest slice, from the verified report.
    trial: Option<Trial>,
    /// What came back in its place, and why, from the verified report.
    rolled_back: Option<RolledBack>,
    agent_version: String,
    /// The generation that a rollout has not given to it yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for_generation: Option<u64>,
}

/// A guest that has to be started anew for some of its settings.
#[derive(Debug, Serialize)]
struct Pending {
    resource: ResourceId,
    keys: BTreeSet<String>,
}

fn pending(observed: &Observed) -> Vec<Pending> {
    let ours = observed.guests().filter(|(_, guest)| guest.owner.is_some());
    let waiting =
        ours.map(|(vmid, guest)| Pending { resource: vmid.resource(), keys: guest.pending().into_iter().map(str::to_owned).collect() });
    waiting.filter(|guest| !guest.keys.is_empty()).collect()
}

/// Where a host is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// Joined, awaits approval.
    Pending,
    /// The hub shows no binding of it that verifies.
    Unverified,
    /// Kept out: two holders used its identity.
    Locked,
    /// No session.
    Offline,
    /// Its engine does not answer.
    EngineUnreachable,
    /// A refusal or an error stands in the way.
    Error,
    /// No topology names it.
    Idle,
    /// On its way.
    Converging,
    /// It keeps what it has until a rollout comes to it.
    Waiting,
    /// It keeps what it has until its maintenance window opens.
    OutsideMaintenance,
    /// It keeps what it has until an operator lets it have what is pushed.
    Cordoned,
    /// It has what it should.
    Converged,
    /// Its topology was torn down.
    Down,
}

impl State {
    const fn words(self) -> (&'static str, Tone) {
        match self {
            State::Pending => ("pending approval", Tone::Warn),
            State::Unverified => ("unverified", Tone::Bad),
            State::Locked => ("locked", Tone::Bad),
            State::Offline => ("offline", Tone::Warn),
            State::EngineUnreachable => ("engine unreachable", Tone::Bad),
            State::Error => ("error", Tone::Bad),
            State::Idle => ("idle", Tone::Dim),
            State::Converging => ("converging", Tone::Warn),
            State::Cordoned => ("cordoned", Tone::Warn),
            State::OutsideMaintenance => ("waiting for its window", Tone::Warn),
            State::Waiting => ("waiting for the rollout", Tone::Warn),
            State::Converged => ("converged", Tone::Good),
            State::Down => ("down", Tone::Dim),
        }
    }

    fn of(host: &HostView, empty: &VersionHash, waits: bool) -> Self {
        let engine = host.heartbeat.as_ref().map(|b| b.engine);
        if host.pending {
            State::Pending
        } else if host.binding.is_none() {
            State::Unverified
        } else if host.locked {
            State::Locked
        } else if !host.connected {
            State::Offline
        } else if engine == Some(EngineState::Unreachable) {
            State::EngineUnreachable
        } else if host.last_error.as_ref().is_some_and(|f| f.code == Code::OutsideMaintenance) && !host.converged {
            State::OutsideMaintenance
        } else if host.last_error.is_some() && !host.converged {
            State::Error
        } else {
            match &host.target {
                None if host.cordon.is_some() => State::Cordoned,
                Some(_) if host.cordon.is_some() && host.converged => State::Cordoned,
                None if waits => State::Waiting,
                Some(_) if waits && host.converged => State::Waiting,
                None => State::Idle,
                Some(_) if !host.converged => State::Converging,
                Some(target) if target.hash.as_ref() == Some(empty) => State::Down,
                Some(_) => State::Converged,
            }
        }
    }
}

/// Runs it.
///
/// # Errors
/// What calls can fail with; while watching, only what cannot be tried again.
pub async fn run(args: StatusArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let mut known = Known::default();
    if !args.watch {
        show(&client, ui, &args, &mut known, false).await?;
        return Ok(0);
    }
    let clear = std::io::stdout().is_terminal();
    loop {
        match show(&client, ui, &args, &mut known, clear).await {
            Ok(()) => {}
            Err(failure) if failure.code == crate::error::LocalCode::HubUnreachable.as_str() => ui.failure(&failure),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(args.interval.max(WATCH_INTERVAL_MIN)).await;
    }
}

async fn show(client: &Client, ui: &mut Ui, args: &StatusArgs, known: &mut Known, clear: bool) -> Result<(), Failure> {
    let mut hosts = client.hosts(None).await?;
    if let Some(wanted) = &args.topology {
        hosts.retain(|h| h.target.as_ref().is_some_and(|t| t.topology.as_str() == wanted));
    }
    let reports = known.reports(client, &hosts).await;
    let empty = revision::empty_hash()?;
    let now = client.hub_now_ms();
    let waiting = client.waiting_for_rollouts().await?;
    let rows: Vec<Row> =
        hosts.iter().zip(&reports).map(|(host, report)| row(host, report, &empty, waiting.get(&host.host_id).copied(), now)).collect();
    let human = || {
        let home = if clear { "\x1b[H\x1b[2J" } else { "" };
        format!("{home}{}", table(&rows, client))
    };
    if args.watch && ui.format == Format::Json { ui.item(&rows, human) } else { ui.result(&rows, human) }
}

/// Reports of earlier looks, with the heartbeat that they came with.
#[derive(Default)]
struct Known(BTreeMap<HostId, (Beat, Instant, ReportView)>);

impl Known {
    /// The report of a host that is as wanted and has told of no change since it was fetched.
    fn get(&self, host: &HostView) -> Option<ReportView> {
        let (beat, fetched, report) = self.0.get(&host.host_id)?;
        let same = host.converged && host.last_error.is_none() && host.heartbeat.as_ref() == Some(beat);
        (same && host.bound().is_some() && fetched.elapsed() < REPORT_LIFE).then(|| report.clone())
    }

    /// The verified report of each host, or why it does not count; asks for those that may be new.
    async fn reports(&mut self, client: &Client, hosts: &[HostView]) -> Vec<Result<Option<ReportView>, Failure>> {
        let known: Vec<Option<ReportView>> = hosts.iter().map(|h| self.get(h)).collect();
        let asked: Vec<&HostView> = hosts.iter().zip(&known).filter(|(_, k)| k.is_none()).map(|(h, _)| h).collect();
        let mut fetched = client.reports(&asked).await.into_iter();
        for (host, report) in asked.iter().zip(fetched.as_slice()) {
            if let (Some(beat), Ok(Some(report))) = (&host.heartbeat, report) {
                self.0.insert(host.host_id.clone(), (beat.clone(), Instant::now(), report.clone()));
            }
        }
        known.into_iter().map(|k| k.map_or_else(|| fetched.next().unwrap_or(Ok(None)), |report| Ok(Some(report)))).collect()
    }
}

fn row(
    host: &HostView,
    report: &Result<Option<ReportView>, Failure>,
    empty: &VersionHash,
    waits_for: Option<Generation>,
    now_ms: u64,
) -> Row {
    let beat = host.heartbeat.as_ref();
    let target = host.target.as_ref();
    let report = report.as_ref().ok().and_then(Option::as_ref);
    let statement = report.map(|r| r.report.statement());
    let error = host.last_error.clone().map(|fault| report.map_or(fault.clone(), |r| r.in_full(fault)));
    let age = |then: u64| now_ms.saturating_sub(then) / 1000;
    Row {
        host: host.name.to_string(),
        host_id: host.host_id.to_string(),
        state: State::of(host, empty, waits_for.is_some()),
        connected: host.connected,
        cordon: host.cordon.clone(),
        target_topology: target.map(|t| t.topology.to_string()),
        target_generation: target.map(|t| t.generation.0),
        target_hash: target.and_then(|t| t.hash.clone()),
        topology: beat.and_then(|b| b.topology.as_ref()).map(ToString::to_string),
        generation: beat.map(|b| b.generation.0).filter(|g| *g > 0),
        applied_hash: beat.and_then(|b| b.applied.clone()),
        engine: beat.map(|b| b.engine).unwrap_or_default(),
        engine_version: statement.and_then(|s| s.observed.engine_version.clone()),
        heartbeat_age_s: beat.map(|_| age(host.heartbeat_unix_ms)),
        verified: report.is_some(),
        report_age_s: report.map(|r| r.age_s(clock::now())),
        error: host.doubt.clone().or_else(|| approve::lock_fault(host)).or(error),
        troubles: statement.map(|s| s.apply.troubles.clone()).unwrap_or_default(),
        drift: statement.map(|s| s.apply.drift.clone()).unwrap_or_default(),
        held: statement.map(|s| s.apply.held.clone()).unwrap_or_default(),
        pending: statement.map(|s| pending(&s.observed)).unwrap_or_default(),
        trial: statement.and_then(|s| s.apply.trial.clone()),
        rolled_back: statement.and_then(|s| s.apply.rolled_back.clone()),
        agent_version: host.agent_version.clone(),
        waits_for_generation: waits_for.map(|g| g.0),
    }
}

fn table(rows: &[Row], client: &Client) -> String {
    if rows.is_empty() {
        return "no hosts yet: moorctl host add NAME\n".to_owned();
    }
    let mut table = Table::new(&["NAME", "STATE", "TOPOLOGY", "GEN", "APPLIED", "ENGINE", "REPORT", "AGE", "ERROR"]);
    for row in rows {
        let (word, tone) = row.state.words();
        let (engine, engine_tone) = match row.engine {
            EngineState::Unknown => ("-", Tone::Dim),
            EngineState::Ready => ("ready", Tone::Plain),
            EngineState::Unreachable => ("unreachable", Tone::Bad),
        };
        let report = match (row.verified, row.heartbeat_age_s) {
            (true, _) => ("verified".to_owned(), Tone::Good),
            (false, Some(_)) if row.state != State::Pending => ("unverified".to_owned(), Tone::Warn),
            (false, _) => ("-".to_owned(), Tone::Dim),
        };
        let error = row.error.as_ref().map(|f| f.code.to_string()).unwrap_or_default();
        table.row(vec![
            plain(&row.host),
            state_cell(row, word, tone),
            plain(or_dash(row.target_topology.as_deref().or(row.topology.as_deref()).unwrap_or_default())),
            plain(generation(row)),
            plain(row.applied_hash.as_ref().map_or("-", |h| h.short())),
            (engine.to_owned(), engine_tone),
            report,
            (row.heartbeat_age_s.map_or_else(|| "-".to_owned(), clock::span_words), Tone::Dim),
            (error.clone(), if error.is_empty() { Tone::Plain } else { Tone::Bad }),
        ]);
    }
    let converged = rows.iter().filter(|r| matches!(r.state, State::Converged | State::Down)).count();
    let mut text = table.text();
    text.push_str(&details(rows));
    let s = if rows.len() == 1 { "" } else { "s" };
    let summary =
        format!("{} host{s}, {converged} converged; cluster {}, hub {}", rows.len(), client.root.cluster, client.facts.hub_version);
    text.push_str(&format!("\n{}\n", summary.dimmed()));
    text
}

/// The state, how many differences an operator has to look at, what is held, and what has to be started anew.
fn state_cell(row: &Row, word: &str, tone: Tone) -> (String, Tone) {
    let drift = match row.drift.len() {
        0 => String::new(),
        1 => ", 1 difference waits".to_owned(),
        n => format!(", {n} differences wait"),
    };
    let held = if row.held.is_empty() { String::new() } else { format!(", {} held", row.held.len()) };
    let pending = match row.pending.len() {
        0 => String::new(),
        1 => ", 1 pending reboot".to_owned(),
        n => format!(", {n} pending reboots"),
    };
    let trial = if row.trial.is_some() { ", on trial" } else { "" };
    let is_quiet = drift.is_empty() && (held.is_empty() && pending.is_empty() && trial.is_empty() || tone == Tone::Bad);
    (format!("{word}{trial}{drift}{held}{pending}"), if is_quiet { tone } else { Tone::Warn })
}

/// The generation it has, and the one it should have when that is another.
fn generation(row: &Row) -> String {
    let same_topology = row.target_topology.is_none() || row.topology == row.target_topology;
    match (row.generation.filter(|_| same_topology), row.waits_for_generation.or(row.target_generation)) {
        (None, None) => "-".to_owned(),
        (Some(has), None) => has.to_string(),
        (None, Some(wants)) => format!("-→{wants}"),
        (Some(has), Some(wants)) if has == wants => has.to_string(),
        (Some(has), Some(wants)) => format!("{has}→{wants}"),
    }
}

/// Every error and every difference in full, below the table.
fn details(rows: &[Row]) -> String {
    let mut text = String::new();
    let is_told = |r: &&Row| {
        let stands = r.trial.is_some() || r.rolled_back.is_some();
        r.error.is_some() || stands || !r.troubles.is_empty() || !r.drift.is_empty() || !r.held.is_empty() || !r.pending.is_empty()
    };
    for row in rows.iter().filter(is_told) {
        text.push_str(&format!("\n{}\n", row.host.bold()));
        if let Some(fault) = &row.error {
            text.push_str(&format!("  {}: {fault}\n", "error".red()));
        }
        let told = |t: &&Trouble| row.error.as_ref().is_some_and(|f| f.code == t.code && f.message.starts_with(t.resource.as_str()));
        for trouble in row.troubles.iter().filter(|t| !told(t)) {
            text.push_str(&format!("  {}: {} [{}]\n", trouble.resource, visible(&trouble.message), trouble.code));
        }
        if let Some(trial) = &row.trial {
            text.push_str(&format!("  {}\n", trial_words(trial, row.target_topology.as_deref().unwrap_or_default())));
        }
        if let Some(back) = &row.rolled_back {
            let at = clock::rfc3339(back.at.0.saturating_mul(1000));
            text.push_str(&format!("  rolled back to {} at {at}: {}\n", generation_words(back.to), visible(&back.reason)));
        }
        for drifted in &row.drift {
            text.push_str(&format!("  {}: {} differs from the slice and is left as it is\n", drifted.resource, visible(&drifted.field)));
        }
        for held in &row.held {
            text.push_str(&format!("  {}: held by op {}\n", held.resource, held.op_id));
        }
        for guest in &row.pending {
            let keys = guest.keys.iter().map(|key| visible(key)).collect::<Vec<_>>().join(", ");
            text.push_str(&format!("  {}: pending reboot: {keys} counts from its next start on\n", guest.resource));
        }
    }
    text
}

/// What is on trial, until when, and what ends that.
fn trial_words(trial: &Trial, topology: &str) -> String {
    let (until, to) = (clock::rfc3339(trial.until.0.saturating_mul(1000)), generation_words(trial.to));
    if trial.needs_confirm {
        format!("on trial until {until}: then it goes back to {to}, unless `moorctl confirm {topology}` lets it stay")
    } else {
        format!("on trial until {until}: it goes back to {to} unless it is healthy by then")
    }
}

fn generation_words(generation: Generation) -> String {
    if generation == Generation(0) { "nothing, as before".to_owned() } else { format!("generation {generation}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::facts::TargetFacts;
    use crate::client::tests::client;
    use crate::revision::tests::host;
    use moorline_common::fault::Code;
    use moorline_common::id::{TopologyId, UnixSeconds};
    use moorline_common::sign::{PrivateKey, Signed};
    use moorline_common::statement::{ApplyReport, ObservedReport};
    use moorline_proto::v1 as pb;
    use serde_json::{Value, json};

    fn view() -> HostView {
        let mut view = host(10, "a");
        let topology = TopologyId::parse("edge").unwrap();
        view.target = Some(TargetFacts { topology, generation: Generation(3), hash: Some(VersionHash::of_bytes(b"x")) });
        view
    }

    #[test]
    fn a_hosts_state_is_the_first_thing_that_an_operator_must_know() {
        let empty = revision::empty_hash().unwrap();
        let mut v = view();
        assert_eq!(State::of(&v, &empty, false), State::Converging);
        v.last_error = Some(Fault::new(Code::StepFailed, "x"));
        assert_eq!(State::of(&v, &empty, false), State::Error);
        v.converged = true;
        assert_eq!(State::of(&v, &empty, false), State::Converged);
        v.target.as_mut().unwrap().hash = Some(empty.clone());
        assert_eq!(State::of(&v, &empty, false), State::Down);
        v.connected = false;
        assert_eq!(State::of(&v, &empty, false), State::Offline);
        v.locked = true;
        assert_eq!(State::of(&v, &empty, false), State::Locked);
        assert!(details(&[row(&v, &Ok(None), &empty, None, 0)]).contains("moorctl host approve a --fingerprint"));
        v.binding = None;
        assert_eq!(State::of(&v, &empty, false), State::Unverified);
        v.pending = true;
        assert_eq!(State::of(&v, &empty, false), State::Pending);
    }

    #[test]
    fn the_full_error_stands_below_the_table() {
        let mut v = view();
        let long = "x".repeat(150);
        v.last_error = Some(Fault::new(Code::ImageUnavailable, long.clone()));
        let row = row(&v, &Ok(None), &revision::empty_hash().unwrap(), None, 0);
        assert_eq!(generation(&row), "-→3");
        assert!(details(&[row]).contains(&long));
    }

    #[test]
    fn an_error_that_was_cut_on_its_way_is_shown_in_full_with_what_to_do() {
        let mut v = view();
        let resource = moorline_common::id::ResourceId::parse("docker/network/edge_default").unwrap();
        let message = format!("{}: remove it with `docker network rm edge_default`", "x".repeat(150));
        let cut = Fault::new(Code::NotOwned, moorline_common::fault::cut(&format!("{resource}: {message}")));
        assert!(!cut.message.contains("rm edge_default"));
        v.last_error = Some(cut);
        let apply = ApplyReport { troubles: vec![Trouble { resource, code: Code::NotOwned, message }], ..ApplyReport::default() };
        let report = ObservedReport { host_id: v.host_id.clone(), taken_at: UnixSeconds(1), observed: Observed::default(), apply };
        let key = PrivateKey::from_seed(&[10; 32]);
        let report = Signed::seal(&report, &[&key]).unwrap().verify_by_host(&key.public()).unwrap();
        let report = Ok(Some(ReportView { report, received_unix_ms: clock::now_ms() }));
        let row = row(&v, &report, &revision::empty_hash().unwrap(), None, 0);
        assert!(row.report_age_s.unwrap() > 1_000_000, "by the time that the host signed, not the hub's");
        let text = details(&[row]);
        assert_eq!(text.matches("docker network rm edge_default`").count(), 1, "{text}");
        assert!(!text.contains('…'), "{text}");
    }

    #[test]
    fn differences_that_wait_are_counted_and_named() {
        let mut v = view();
        v.converged = true;
        let mut row = row(&v, &Ok(None), &revision::empty_hash().unwrap(), None, 0);
        let cell = |row: &Row| state_cell(row, row.state.words().0, row.state.words().1).0;
        assert_eq!(cell(&row), "converged");
        let resource = moorline_common::id::ResourceId::parse("docker/container/edge-site-1").unwrap();
        row.drift.push(Drift { resource, field: "restart".to_owned(), expected: "always".to_owned(), actual: "no".to_owned() });
        assert_eq!(cell(&row), "converged, 1 difference waits");
        row.drift.push(row.drift[0].clone());
        assert_eq!(cell(&row), "converged, 2 differences wait");
        assert!(details(&[row]).contains("docker/container/edge-site-1: restart differs"));
    }

    #[test]
    fn what_is_held_is_counted_and_named_with_the_whole_operation() {
        let mut v = view();
        v.converged = true;
        let mut row = row(&v, &Ok(None), &revision::empty_hash().unwrap(), None, 0);
        let resource = moorline_common::id::ResourceId::parse("docker/container/edge-site-1").unwrap();
        let op_id = moorline_common::id::OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap();
        row.held.push(Held { resource, op_id });
        assert_eq!(state_cell(&row, "converged", Tone::Good), ("converged, 1 held".to_owned(), Tone::Warn));
        assert_eq!(state_cell(&row, "error", Tone::Bad).1, Tone::Bad);
        assert!(details(&[row]).contains("docker/container/edge-site-1: held by op 0197a2b4-1c3d-7e5f-8a6b-0123456789ab\n"));
    }

    #[test]
    fn a_guest_that_has_to_be_started_anew_is_counted_and_named_with_what_waits() {
        let guest = |status: &str, memory: &str, owner: Value| json!({ "type": "qemu", "status": status, "owner": owner, "config": { "type": "qemu", "set": { "memory": "4096" }, "running": { "memory": memory } } });
        let ours = json!({ "topology": "edge", "resource": "pve/guest/101", "spec": "x", "base": "" });
        let guests = json!({
            "101": guest("running", "8192", ours.clone()), "102": guest("stopped", "8192", ours.clone()), "103": guest("running", "4096", ours),
            "104": guest("running", "8192", Value::Null),
        });
        let pve = serde_json::from_value(json!({ "engine": "ready", "guests": guests })).unwrap();
        let mut v = view();
        v.converged = true;
        let mut row = row(&v, &Ok(None), &revision::empty_hash().unwrap(), None, 0);
        row.pending = pending(&Observed { pve: Some(pve), ..Observed::default() });
        assert_eq!(state_cell(&row, "converged", Tone::Good), ("converged, 1 pending reboot".to_owned(), Tone::Warn));
        assert!(details(&[row]).contains("  pve/guest/101: pending reboot: memory counts from its next start on\n"));
    }

    #[test]
    fn what_is_on_trial_says_until_when_and_what_lets_it_stay() {
        let mut v = view();
        v.converged = true;
        let mut row = row(&v, &Ok(None), &revision::empty_hash().unwrap(), None, 0);
        let trial = Trial { generation: Generation(3), to: Generation(2), until: UnixSeconds(1_700_000_000), needs_confirm: true };
        row.trial = Some(trial.clone());
        assert_eq!(state_cell(&row, "converged", Tone::Good), ("converged, on trial".to_owned(), Tone::Warn));
        let text = details(&[row]);
        assert!(text.contains("on trial until 2023-11-14T22:13:20Z: then it goes back to generation 2"), "{text}");
        assert!(text.contains("`moorctl confirm edge`"), "{text}");
        let by_health = Trial { to: Generation(0), needs_confirm: false, ..trial };
        assert!(trial_words(&by_health, "edge").ends_with("goes back to nothing, as before unless it is healthy by then"));

        let mut row = super::row(&v, &Ok(None), &revision::empty_hash().unwrap(), None, 0);
        let reason = "not confirmed within 60 s".to_owned();
        row.rolled_back = Some(RolledBack { generation: Generation(3), to: Generation(2), reason, at: UnixSeconds(1_700_000_000) });
        assert!(details(&[row]).contains("rolled back to generation 2 at 2023-11-14T22:13:20Z: not confirmed within 60 s"));
    }

    #[tokio::test]
    async fn while_watching_a_report_is_asked_for_when_it_may_be_new() {
        let (client, shown, _dir) = client().await;
        let report = ObservedReport {
            host_id: host(10, "a").host_id,
            taken_at: UnixSeconds(1),
            observed: Observed::default(),
            apply: ApplyReport::default(),
        };
        let signed = Signed::seal(&report, &[&PrivateKey::from_seed(&[10; 32])]).unwrap();
        shown.lock().unwrap().report = Some(signed.envelope().clone());
        let mut v = view();
        v.converged = true;
        v.heartbeat = Some(Beat::try_from(pb::Heartbeat::default()).unwrap());
        let mut known = Known::default();
        let mut hosts = [v];
        for _ in 0..3 {
            assert!(matches!(known.reports(&client, &hosts).await.as_slice(), [Ok(Some(_))]));
        }
        assert_eq!(shown.lock().unwrap().reports_asked, 1);
        hosts[0].heartbeat.as_mut().unwrap().observed_digest = "new".into();
        known.reports(&client, &hosts).await;
        assert_eq!(shown.lock().unwrap().reports_asked, 2);
        hosts[0].last_error = Some(Fault::new(Code::StepFailed, "x"));
        known.reports(&client, &hosts).await;
        assert_eq!(shown.lock().unwrap().reports_asked, 3);
    }
}
