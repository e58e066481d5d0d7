//! A plan in a file: what was reviewed, to be pushed exactly so.
//!
//! It is no authority: `push --plan` slices the source anew, refuses when a host comes out unlike what stands here, and signs.

use std::collections::BTreeMap;
use std::path::Path;

use moorline_common::canonical::to_canonical;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{ClusterId, Generation, HostId, TopologyId, UnixSeconds, VersionHash, sha256_hex};
use moorline_common::topology::Inputs;
use serde::{Deserialize, Serialize};

use super::model::{HostPlan, Outcome};
use crate::desired::{self, Source};
use crate::error::{Failure, LocalCode};
use crate::limits::{NAMES_SHOWN, PLAN_FILE_MAX};
use crate::revision::{self, HostChange};
use crate::saved::SavedFile;

/// The form of the file.
const FORMAT: u32 = 1;

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedPlan {
    format: u32,
    cluster: ClusterId,
    topology: TopologyId,
    /// The generation that was the newest.
    base_generation: Generation,
    made_at: UnixSeconds,
    /// How the topology file was called.
    source_name: String,
    /// The topology file, byte for byte.
    source: String,
    /// What it took from the machine that the plan was made on.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    inputs: Inputs,
    hosts: Vec<HostPlan>,
    awaiting: Vec<String>,
    /// SHA-256 of all of it in canonical JSON, this being empty.
    digest: String,
}

impl SavedFile for SavedPlan {
    const WHAT: &'static str = "plan";
    const VERBS: &'static str = "moorctl push";
    const MADE_BY: &'static str = "moorctl plan -f FILE --save PLAN";
    const BYTES_MAX: u64 = PLAN_FILE_MAX;
}

/// What was reviewed, as far as a push depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reviewed {
    /// The generation that was the newest.
    pub base: Generation,
    /// What each host was to get; hosts that had nothing and were to get nothing are left out.
    pub hosts: BTreeMap<HostId, (String, VersionHash)>,
}

impl SavedPlan {
    /// What `outcome` says of `source`.
    ///
    /// # Errors
    /// Never in practice: it has a canonical form.
    pub fn new(cluster: &ClusterId, topology: &TopologyId, source: &Source, outcome: &Outcome, now: UnixSeconds) -> Result<Self, Failure> {
        let mut plan = Self {
            format: FORMAT,
            cluster: cluster.clone(),
            topology: topology.clone(),
            base_generation: Generation(outcome.base_generation),
            made_at: now,
            source_name: source.name.clone(),
            source: source.text.clone(),
            inputs: source.inputs.clone(),
            hosts: outcome.hosts.clone(),
            awaiting: outcome.awaiting.clone(),
            digest: String::new(),
        };
        plan.digest = plan.true_digest()?;
        Ok(plan)
    }

    fn true_digest(&self) -> Result<String, Failure> {
        let blank = Self { digest: String::new(), ..self.clone() };
        let bytes = to_canonical(&blank).map_err(|e| Failure::local(format!("the plan has no canonical form: {e}")))?;
        Ok(sha256_hex(&bytes))
    }

    /// Reads the plan at `path`, for `cluster`; gives the source and what was reviewed.
    ///
    /// # Errors
    /// [`LocalCode::PlanAltered`] for one that is not as `plan` wrote it; [`Code::WrongCluster`]; [`Code::BadEnvelope`] and what
    /// reading can fail with.
    pub fn open(path: &Path, cluster: &ClusterId) -> Result<(Source, Reviewed), Failure> {
        let plan = Self::read(path)?;
        if plan.format != FORMAT {
            let message = format!("{} is a plan of form {}; this version reads form {FORMAT}", path.display(), plan.format);
            return Err(Fault::new(Code::UnsupportedVersion, message).into());
        }
        if plan.digest != plan.true_digest()? {
            return Err(altered(path, "its digest is not that of its content"));
        }
        if plan.cluster != *cluster {
            let message = format!("{} is a plan for cluster `{}`, this context is for `{cluster}`", path.display(), plan.cluster);
            return Err(Fault::new(Code::WrongCluster, message).into());
        }
        let source = desired::parse(&plan.source_name, &plan.source, &plan.inputs)?;
        if source.file.topology != plan.topology {
            return Err(altered(path, "its source is of another topology than it says"));
        }
        let empty = revision::empty_hash()?;
        let meant = plan.hosts.into_iter().filter(|h| h.from.is_some() || h.to != empty);
        let hosts = meant.map(|h| (h.host_id, (h.host, h.to))).collect();
        Ok((source, Reviewed { base: plan.base_generation, hosts }))
    }
}

fn altered(path: &Path, why: &str) -> Failure {
    Failure::new(
        LocalCode::PlanAltered,
        format!("{} is not as `moorctl plan` wrote it: {why}; nothing was pushed", path.display()),
        "do not push it: make the plan anew with `moorctl plan -f FILE --save PLAN`, and review that",
    )
}

impl Reviewed {
    /// Whether a push would give every host what was reviewed, and no other host anything.
    ///
    /// # Errors
    /// [`LocalCode::PlanOutdated`] with the hosts that come out otherwise.
    pub fn require_same(&self, changes: &[HostChange]) -> Result<(), Failure> {
        let empty = revision::empty_hash()?;
        let mut open = self.hosts.clone();
        let mut lines = Vec::new();
        for change in changes.iter().filter(|c| c.from.is_some() || c.to != empty) {
            match open.remove(&change.host_id) {
                Some((_, reviewed)) if reviewed == change.to => {}
                Some(_) => lines.push(format!("  {} gets other content than was reviewed: its binding was signed anew since", change.host)),
                None => {
                    lines.push(format!("  {} was not in the plan: it was approved since, or its labels say otherwise now", change.host))
                }
            }
        }
        lines.extend(open.values().map(|(host, _)| format!("  {host} was in the plan and is not meant any more")));
        if lines.is_empty() {
            return Ok(());
        }
        let count = lines.len();
        lines.truncate(NAMES_SHOWN);
        if count > lines.len() {
            lines.push(format!("  … and {} more", count - lines.len()));
        }
        Err(Failure::new(
            LocalCode::PlanOutdated,
            format!("{count} {} out unlike the plan; nothing was pushed", if count == 1 { "host comes" } else { "hosts come" }),
            "the hosts were bound otherwise since: make the plan anew with `moorctl plan -f FILE --save PLAN`, and review that",
        )
        .with_details(lines))
    }
}
