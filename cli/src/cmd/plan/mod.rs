//! `moorctl plan`: what a topology file would change on each host, judged by the host's last signed report.
//!
//! - [`model`]: the plan as programs read it.
//! - [`words`]: the same for people.
//! - [`saved`]: the same in a file, for `push --plan`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use moorline_common::id::UnixSeconds;
use moorline_common::maintenance;
use moorline_common::observe::{EngineState, Observed};
use moorline_common::plan::lower::{self, LoweredSpec};
use moorline_common::plan::{self, Given, Identity};
use moorline_common::topology::HostSpec;

use self::model::{HostPlan, Outcome, Steps};
use super::{Env, deploy};
use crate::client::{HostView, ReportView};
use crate::clock;
use crate::desired;
use crate::error::{EXIT_CHANGES, Failure};
use crate::inputs::InputArgs;
use crate::limits::REPORT_OLD_S;
use crate::parallel;
use crate::pins::PinArgs;
use crate::render::Ui;
use crate::revision::{self, ChangeKind, HostChange};
use crate::saved::SavedFile as _;

pub mod model;
pub mod saved;
#[cfg(test)]
mod tests;
pub mod words;

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The topology file; `-` reads standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// What the file takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Which images
    #[command(flatten)]
    pub pins: PinArgs,
    /// Write the plan to a new file as well: `moorctl push --plan` pushes exactly that, or refuses
    #[arg(long, visible_alias = "out", value_name = "PLAN")]
    pub save: Option<PathBuf>,
    /// Exit 2 when changes are pending, as is done anyway: for scripts that say it
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// Runs it; exit 2 when something would change.
///
/// # Errors
/// `bad_topology`; what calls can fail with; when a plan that shall be saved cannot be.
pub async fn run(args: PlanArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let mut source = desired::read(ui, &args.file, &args.inputs)?;
    let topology = source.file.topology.clone();
    let client = env.client(ui).await?;
    let current = client.current(&topology, true).await?;
    let scene = deploy::scene(&client, ui, &topology, current).await?;
    source.read_secrets(&client.context, &deploy::bound(&scene.hosts))?;
    source.pin(ui, &args.pins, &scene.hosts).await?;
    let desired = deploy::wanted(ui, &topology, Some(&source), &scene)?;
    let known: BTreeMap<_, _> = scene.hosts.iter().map(|h| (&h.host_id, h)).collect();
    let mut planned = Vec::with_capacity(desired.hosts.len());
    for change in revision::changes(&desired.hosts, &scene.previous, &scene.hosts)? {
        if let (Some(host), Some(spec)) = (known.get(&change.host_id), desired.hosts.get(&change.host_id)) {
            planned.push((*host, spec, change));
        }
    }
    let reports = client.reports(&planned.iter().map(|(host, _, _)| *host).collect::<Vec<_>>()).await;
    let now = clock::now();
    let planned: Vec<_> = planned.into_iter().zip(reports).collect();
    let hosts = parallel::map(&planned, |((host, spec, change), report)| {
        let identity = Identity { cluster: client.root.cluster.clone(), host_id: host.host_id.clone(), topology: topology.clone() };
        let side = Side { identity: &identity, host, spec, before: &|| scene.previous.spec_of(&host.host_id) };
        plan_host(now, &side, change, report)
    });
    let mut hosts = hosts.into_iter().collect::<Result<Vec<HostPlan>, Failure>>()?;
    let same = source.means_the_same_as(scene.previous.source.as_deref().unwrap_or_default(), &scene.previous.inputs);
    hosts.iter_mut().for_each(HostPlan::tell_held);
    let changes = hosts.iter().any(HostPlan::has_changes) || (!desired.pending.is_empty() && !same);
    let outcome =
        Outcome { topology: topology.to_string(), base_generation: scene.previous.generation.0, changes, hosts, awaiting: desired.pending };
    if let Some(path) = &args.save {
        source.note_place(&client.context)?;
        saved::SavedPlan::new(&client.root.cluster, &topology, &source, &outcome, now)?.write_new(path)?;
    }
    ui.result(&outcome, || words::words(&outcome))?;
    if let Some(path) = &args.save {
        ui.note(&format!("saved; `moorctl push --plan {}` pushes exactly this", path.display()));
    }
    // The program ends here: to give all this back bit by bit takes a tenth of the time of a large fleet's plan.
    std::mem::forget((planned, outcome));
    std::mem::forget((scene, desired.hosts));
    Ok(if changes { EXIT_CHANGES } else { 0 })
}

/// A host, and what it shall have.
struct Side<'a> {
    identity: &'a Identity,
    host: &'a HostView,
    spec: &'a HostSpec,
    /// What the newest revision wants of it: asked for only where something changes.
    before: &'a dyn Fn() -> Option<HostSpec>,
}

fn plan_host(
    now: UnixSeconds,
    side: &Side<'_>,
    change: &HostChange,
    report: &Result<Option<ReportView>, Failure>,
) -> Result<HostPlan, Failure> {
    let (identity, host) = (side.identity, side.host);
    let mut notes = Vec::new();
    let report = match report {
        Ok(report) => report.as_ref(),
        Err(failure) => {
            notes.push(format!("its report does not count: {failure}"));
            None
        }
    };
    let report_age_s = report.map(|r| r.age_s(now));
    let none = Observed::default();
    let observed = report.map_or(&none, |r| &r.report.statement().observed);
    let blind = observed.engine == EngineState::Unreachable
        && observed.networks.is_empty()
        && observed.volumes.is_empty()
        && observed.containers.is_empty()
        && observed.guests().next().is_none();
    if report.is_none() {
        notes.push("no report yet: planned for an empty host".to_owned());
    } else if blind {
        notes.push("unknown: engine unreachable, nothing seen yet".to_owned());
    } else if observed.engine == EngineState::Unreachable {
        notes.push("its engine was unreachable: planned with what was seen before".to_owned());
    }
    if let Some(age) = report_age_s.filter(|age| *age > REPORT_OLD_S) {
        notes.push(format!("its report is {} old: what it has may have changed since", clock::span_words(age)));
    }
    if observed.trimmed {
        notes.push("its report was too large and came cut: the agent, which sees everything, may plan other steps".to_owned());
    }
    for (vmid, guest) in observed.guests().filter(|(_, guest)| guest.owner.is_some()) {
        let waiting = guest.pending().into_iter().collect::<Vec<_>>().join(", ");
        if !waiting.is_empty() {
            notes.push(format!("{} has a pending reboot: {waiting} counts from its next start on", vmid.resource()));
        }
    }
    if let Some(cordon) = &host.cordon {
        notes.push(format!("cordoned by {}: it gets the change when `moorctl host uncordon {}` is said", cordon.by, host.name));
    }
    let windows = side.spec.policy.as_ref().map(|policy| policy.maintenance.as_slice()).unwrap_or_default();
    if let (Some(at), ChangeKind::Changed) = (maintenance::opens_at(windows, now)?, change.change) {
        let at = maintenance::moment(at);
        notes.push(format!("outside of its maintenance windows: it gets the change at {at}; `push --now` does not wait"));
    }
    if !host.connected {
        notes.push("offline: it gets the change when it connects".to_owned());
    }
    let empty = revision::empty_hash()?;
    if let Some(other) = host.target.as_ref().filter(|t| t.topology != identity.topology && t.hash.as_ref() != Some(&empty)) {
        notes.push(format!("it follows topology `{}`: a push is refused until that one is down", other.topology));
    }
    let has_it = change.from.is_some() && report.and_then(|r| r.report.statement().apply.applied.as_ref()) == change.from.as_ref();
    let plan = if blind { Steps::default() } else { steps(side, observed, has_it, change.change) };
    let held = report.map(|r| r.report.statement().apply.held.clone()).unwrap_or_default();
    Ok(HostPlan { report_age_s, notes, held, ..HostPlan::new(change.clone(), plan) })
}

/// What its agent does; `has_it`: whether it has applied the newest revision.
fn steps(side: &Side<'_>, observed: &Observed, has_it: bool, change: ChangeKind) -> Steps {
    let plan = plan::plan(side.identity, side.spec, observed);
    // What is wanted of a guest no more is told by what was wanted before alone.
    let may_drop = change != ChangeKind::Unchanged && observed.guests().next().is_some();
    if plan.steps.is_empty() && !may_drop {
        return Steps::of(plan, observed, &LoweredSpec::default());
    }
    // What differs is a change, or has drifted: only what was wanted before tells.
    let before = (side.before)();
    let applied = before.as_ref().filter(|_| has_it);
    let plan = plan::plan_given(side.identity, side.spec, observed, Given { applied, ..Given::default() });
    let before = before.as_ref().map(|before| lower::lower(side.identity, before)).unwrap_or_default();
    Steps::of(plan, observed, &before)
}
