//! `moorctl drift`: the inbox. The hub lists what differs; what a host really has its own signed report says.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::observe::Observed;
use moorline_common::plan::Identity;

use super::Env;
use super::op::OpWait;
use super::push::WaitArgs;
use crate::client::drift::DriftFacts;
use crate::client::{Client, HostView, ReportView};
use crate::clock;
use crate::error::Failure;
use crate::inputs::InputArgs;
use crate::render::{Ui, visible};

mod accept;
mod cloud;
mod list;
mod revert;

/// What can be done about drift.
#[derive(Debug, Subcommand)]
pub enum DriftVerb {
    /// Have the hub ask its clouds now, and compare droplets with what they should be like
    Scan {
        /// Only this cloud [default: all of the hub's]
        #[arg(value_name = "CLOUD", default_value = "", hide_default_value = true)]
        cloud: String,
    },
    /// List what differs and waits for a decision, newest first
    Ls {
        /// Only on this host
        #[arg(value_name = "HOST")]
        host: Option<String>,
        /// Also what is resolved or ignored
        #[arg(long)]
        all: bool,
        /// How many
        #[arg(short = 'n', long, default_value_t = crate::limits::DRIFTS_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one, what the host signed about it, and what each decision would do
    Show {
        /// Its number
        id: u64,
    },
    /// Write what the host has into the topology file, and push that; in a cloud: what is there is wanted from now on
    Accept(AcceptArgs),
    /// Make the host as the topology says; in a cloud, start the saga that does
    Revert {
        /// Their numbers; all of one resource
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
        /// Why, for the record
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        reason: String,
        /// How to wait
        #[command(flatten)]
        wait: OpWait,
    },
    /// Leave it alone for a time
    Ignore {
        /// Its number
        id: u64,
        /// For how long
        #[arg(long = "for", default_value = "7d", value_name = "SPAN", value_parser = clock::parse_span)]
        span: Duration,
        /// Why, for the record
        #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
        reason: String,
    },
}

/// Arguments of `drift accept`.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    /// Their numbers: drifts of one resource
    #[arg(required = true)]
    pub ids: Vec<u64>,
    /// The topology file, which must say what the newest generation says; it is edited, comments stay. Not for what is in a cloud
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Write it into this profile, for every host that uses it, instead of the host's own entry
    #[arg(long, value_name = "PROFILE")]
    pub in_profile: Option<String>,
    /// What the file takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Why, for the history
    #[arg(short, long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub message: String,
    /// How the wait goes
    #[command(flatten)]
    pub wait: WaitArgs,
}

/// Runs one of them.
///
/// # Errors
/// `drift_moved`, `drift_resolved`; what signing, pushing and waiting can fail with.
pub async fn run(verb: DriftVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        DriftVerb::Scan { cloud } => cloud::scan(env, ui, &cloud).await,
        DriftVerb::Ls { host, all, limit } => list::ls(env, ui, host.as_deref(), all, limit).await,
        DriftVerb::Show { id } => list::show(env, ui, id).await,
        DriftVerb::Accept(args) => match args.file.clone() {
            Some(file) => accept::run(&args, &file, env, ui).await,
            None => cloud::accept(&args, env, ui).await,
        },
        DriftVerb::Revert { ids, reason, wait } => match cloud::reverted(&ids, env, ui).await? {
            Some(facts) => cloud::revert(&facts, &reason, &wait, env, ui).await,
            None => revert::run(&ids, &reason, &wait, env, ui).await,
        },
        DriftVerb::Ignore { id, span, reason } => ignore(env, ui, id, span, &reason).await,
    }
}

async fn ignore(env: &Env, ui: &mut Ui, id: u64, span: Duration, reason: &str) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let until = client.hub_now_ms().saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    let facts = client.ignore_drift(id, until, reason).await?;
    ui.result(&facts, || format!("drift {id} is ignored until {}\n", facts.ignored_until))?;
    Ok(0)
}

/// A drift that the hub shows, on a host whose own word on it was verified.
struct Case {
    facts: DriftFacts,
    host: HostView,
    report: ReportView,
}

impl Case {
    /// The drift `id`, and what its host signed.
    async fn of(client: &Client, facts: DriftFacts) -> Result<Self, Failure> {
        let hosts = client.hosts(None).await?;
        let host = hosts.into_iter().find(|h| facts.host_id.as_ref() == Some(&h.host_id) && !h.pending);
        let host = host.ok_or_else(|| Fault::new(Code::NotFound, format!("the host of drift {} is not there any more", facts.id)))?;
        let report = client.report_anew(&host).await?;
        let report = report.ok_or_else(|| Fault::new(Code::NotFound, format!("host `{}` has sent no report", host.name)))?;
        Ok(Self { facts, host, report })
    }

    /// The drifts `ids`, all of one resource, to `verb` them together: by one report of their host.
    async fn of_one_resource(client: &Client, ids: &[u64], verb: &str) -> Result<Vec<Self>, Failure> {
        let mut cases: Vec<Self> = Vec::with_capacity(ids.len());
        for id in ids {
            let facts = client.drift(*id).await?;
            if !facts.cloud.is_empty() {
                return Err(cloud::refusal(&facts, verb));
            }
            let is_elsewhere = |first: &Self| facts.host_id != first.facts.host_id || facts.drift.resource != first.facts.drift.resource;
            if let Some(first) = cases.first().filter(|first| is_elsewhere(first)) {
                let message = format!("drift {id} is of another resource than drift {}", first.facts.id);
                return Err(Failure::usage(message, format!("{verb} the drifts of one resource at a time")));
            }
            if cases.iter().any(|case| case.facts.id == *id) {
                return Err(Failure::usage(format!("drift {id} is named twice"), "name each once"));
            }
            let case = match cases.first() {
                Some(first) => Self { facts, host: first.host.clone(), report: first.report.clone() },
                None => Self::of(client, facts).await?,
            };
            cases.push(case);
        }
        Ok(cases)
    }

    /// What the host signed about the very field, if that is what it has now: a hub could show again what was so once.
    ///
    /// # Errors
    /// As [`Self::signed`]; [`Code::DriftMoved`] when nobody knows what the host has now.
    fn signed_lately(&self) -> Result<&Drift, Failure> {
        let signed = self.signed()?;
        let Some(doubt) = self.report.doubt(clock::now()) else { return Ok(signed) };
        let message = format!("what host `{}` has now is not known: {doubt}", self.host.name);
        Err(Failure::from(Fault::new(Code::DriftMoved, message)).with_remedy(
            "decide when the host is connected and its engine answers (`moorctl status`); if so, compare its clock with this machine's",
        ))
    }

    /// What the host signed about the very field: this counts, and not what the hub shows.
    ///
    /// # Errors
    /// [`Code::DriftResolved`] when it says nothing of it, or there is nothing to decide any more; [`Code::DriftMoved`] when the hub
    /// shows another value.
    fn signed(&self) -> Result<&Drift, Failure> {
        let (id, shown) = (self.facts.id, &self.facts.drift);
        if !self.facts.is_unresolved() {
            let by = if self.facts.resolved_by.is_empty() { String::new() } else { format!(", by {}", self.facts.resolved_by) };
            return Err(Fault::new(Code::DriftResolved, format!("drift {id} is {} already{by}", self.facts.status)).into());
        }
        let apply = &self.report.report.statement().apply;
        let found = apply.drift.iter().find(|d| d.resource == shown.resource && d.field == shown.field);
        let Some(found) = found else {
            let message = format!(
                "the report that host `{}` signed {} ago says nothing of {} {}: it is as wanted again, or never was otherwise",
                self.host.name,
                self.age(),
                shown.resource,
                visible(&shown.field)
            );
            return Err(Fault::new(Code::DriftResolved, message).into());
        };
        if found.actual != shown.actual {
            let message = format!(
                "the hub shows {} for {}, the host signed {}",
                visible(&shown.actual),
                visible(&shown.field),
                visible(&found.actual)
            );
            return Err(Fault::new(Code::DriftMoved, message).into());
        }
        Ok(found)
    }

    fn observed(&self) -> &Observed {
        &self.report.report.statement().observed
    }

    fn age(&self) -> String {
        clock::span_words(self.report.age_s(clock::now()))
    }

    /// Who plans for the host, by what it follows.
    fn identity(&self, client: &Client) -> Result<Identity, Failure> {
        let topology = self.report.report.statement().apply.topology.clone();
        let topology = topology.ok_or_else(|| Fault::new(Code::NotFound, format!("host `{}` follows no topology", self.host.name)))?;
        Ok(Identity { cluster: client.root.cluster.clone(), host_id: self.host.host_id.clone(), topology })
    }
}

#[cfg(test)]
mod tests {
    use moorline_common::id::UnixSeconds;
    use moorline_common::observe::EngineState;
    use moorline_common::sign::{PrivateKey, Signed};
    use moorline_common::statement::{ApplyReport, ObservedReport};

    use super::*;
    use crate::limits::REPORT_OLD_S;
    use crate::revision::tests::host;

    #[test]
    fn what_was_so_once_is_not_what_a_decision_goes_by() {
        let view = host(10, "shop-17");
        let drift: Drift = serde_json::from_value(serde_json::json!({
            "resource": "docker/container/edge-site-1", "field": "mem_limit", "expected": "64m", "actual": "128m",
        }))
        .unwrap();
        let case = |taken_at: UnixSeconds, engine: EngineState| {
            let apply = ApplyReport { drift: vec![drift.clone()], ..ApplyReport::default() };
            let report =
                ObservedReport { host_id: view.host_id.clone(), taken_at, observed: Observed { engine, ..Observed::default() }, apply };
            let key = PrivateKey::from_seed(&[10; 32]);
            let report = Signed::seal(&report, &[&key]).unwrap().verify_by_host(&key.public()).unwrap();
            let report = ReportView { report, received_unix_ms: clock::now_ms() };
            let nothing = String::new;
            let facts = DriftFacts {
                id: 1,
                host: nothing(),
                host_id: Some(view.host_id.clone()),
                cloud: nothing(),
                drift: drift.clone(),
                status: "open".to_owned(),
                topology: nothing(),
                generation: 1,
                detected: nothing(),
                changed: nothing(),
                resolved: nothing(),
                resolved_by: nothing(),
                reason: nothing(),
                ignored_until: nothing(),
                accepted_generation: 0,
                op_id: nothing(),
                detected_unix_ms: 0,
            };
            Case { facts, host: view.clone(), report }
        };
        let now = clock::now();
        assert_eq!(case(now, EngineState::Ready).signed_lately().unwrap().actual, "128m");
        let old = case(UnixSeconds(now.0 - REPORT_OLD_S - 5), EngineState::Ready);
        // Signed just now, of what was seen before the engine went away.
        let blind = case(now, EngineState::Unreachable);
        for case in [old, blind] {
            assert!(case.signed().is_ok(), "it is signed, and shown");
            assert!(case.signed_lately().unwrap_err().is(Code::DriftMoved));
        }
    }
}
