//! How far revisions have spread, as the hub shows it. None of it has authority: what a host has is in its signed report.

use std::collections::BTreeMap;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::rollout::{Act, Plan, Standing, State};
use moorline_proto::v1 as pb;
use serde::Serialize;

use super::Client;
use crate::error::Failure;
use crate::limits::ROLLOUTS_LOOKED;

/// One rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolloutFacts {
    /// The topology.
    pub topology: TopologyId,
    /// The generation that spreads.
    pub generation: Generation,
    /// What it is.
    pub state: State,
    /// Why; empty when there is nothing to say.
    pub reason: String,
    /// How it spreads.
    pub plan: Plan,
    /// Who pushed.
    pub started_by: String,
    /// When it began, in milliseconds since 1970 by the hub's clock.
    pub started_unix_ms: u64,
    /// When it last became what it is.
    pub changed_unix_ms: u64,
    /// How many hosts stand where.
    pub counts: BTreeMap<Standing, u32>,
    /// The hosts that take part, sorted by name; not in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<RolloutHostFacts>,
}

/// One host that takes part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RolloutHostFacts {
    /// Its name.
    pub host: String,
    /// The host.
    pub host_id: HostId,
    /// Where it stands.
    pub standing: Standing,
    /// Why; empty when there is nothing to say.
    pub reason: String,
    /// When it got the revision, in milliseconds since 1970 by the hub's clock; 0 before.
    pub released_unix_ms: u64,
    /// Since when it stands there.
    pub changed_unix_ms: u64,
}

fn newer(what: &str, word: &str) -> Fault {
    Fault::new(Code::UnsupportedVersion, format!("the hub calls {what} `{word}`, which is not known here"))
}

fn standing(word: &str) -> Result<Standing, Fault> {
    Standing::parse(word).ok_or_else(|| newer("where a host stands", word))
}

impl TryFrom<pb::Rollout> for RolloutFacts {
    type Error = Fault;

    fn try_from(rollout: pb::Rollout) -> Result<Self, Fault> {
        let malformed = |e: &dyn std::fmt::Display| Fault::new(Code::BadEnvelope, format!("the hub sent a malformed rollout: {e}"));
        let mut hosts = Vec::with_capacity(rollout.hosts.len());
        for host in rollout.hosts {
            hosts.push(RolloutHostFacts {
                host_id: HostId::parse(host.host_id).map_err(|e| malformed(&e))?,
                host: crate::render::visible(&host.host),
                standing: standing(&host.standing)?,
                reason: crate::render::visible(&host.reason),
                released_unix_ms: host.released_unix_ms,
                changed_unix_ms: host.changed_unix_ms,
            });
        }
        let counts = rollout.counts.into_iter().map(|count| Ok((standing(&count.standing)?, count.hosts)));
        Ok(Self {
            topology: TopologyId::parse(rollout.topology).map_err(|e| malformed(&e))?,
            generation: Generation(rollout.generation),
            state: State::parse(&rollout.state).ok_or_else(|| newer("a rollout", &rollout.state))?,
            reason: crate::render::visible(&rollout.reason),
            plan: rollout.plan.ok_or_else(|| malformed(&"it has no plan")).and_then(Plan::try_from)?,
            started_by: rollout.started_by,
            started_unix_ms: rollout.started_unix_ms,
            changed_unix_ms: rollout.changed_unix_ms,
            counts: counts.collect::<Result<_, Fault>>()?,
            hosts,
        })
    }
}

impl RolloutFacts {
    /// How many hosts stand so.
    #[must_use]
    pub fn count(&self, is: impl Fn(Standing) -> bool) -> u32 {
        self.counts.iter().filter(|(standing, _)| is(**standing)).map(|(_, hosts)| *hosts).fold(0, u32::saturating_add)
    }

    /// How many hosts take part.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.count(|_| true)
    }
}

impl Client {
    /// One rollout with its hosts (generation 0: the newest of the topology); `None` without one, also of a hub that knows of none.
    ///
    /// # Errors
    /// What calls can fail with.
    pub async fn rollout(&self, topology: &TopologyId, generation: Generation) -> Result<Option<RolloutFacts>, Failure> {
        let request = pb::GetRolloutRequest { topology: topology.to_string(), generation: generation.0 };
        match self.hub.call(|mut rpc| async move { rpc.get_rollout(request).await }).await {
            Ok(answer) => Ok(answer.rollout.map(RolloutFacts::try_from).transpose()?),
            Err(failure) if failure.is(Code::NotFound) || failure.is(Code::UnsupportedVersion) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Rollouts, the newest first, without their hosts.
    ///
    /// # Errors
    /// What calls can fail with.
    pub async fn rollouts(&self, topology: Option<&TopologyId>, limit: u32) -> Result<Vec<RolloutFacts>, Failure> {
        let request = pb::ListRolloutsRequest { topology: topology.map(ToString::to_string).unwrap_or_default(), limit };
        let answer = self.hub.call(|mut rpc| async move { rpc.list_rollouts(request).await }).await?;
        Ok(answer.rollouts.into_iter().map(RolloutFacts::try_from).collect::<Result<_, _>>()?)
    }

    /// Pauses, resumes or aborts the newest rollout of a topology.
    ///
    /// # Errors
    /// [`Code::NotFound`], [`Code::PreconditionFailed`] and what calls can fail with.
    pub async fn act_on_rollout(&self, topology: &TopologyId, act: Act) -> Result<RolloutFacts, Failure> {
        let request = pb::ActOnRolloutRequest { topology: topology.to_string(), generation: 0, act: pb::RolloutAct::from(act).into() };
        let answer = self.hub.call(|mut rpc| async move { rpc.act_on_rollout(request).await }).await?;
        let rollout = answer.rollout.ok_or_else(|| Fault::new(Code::BadEnvelope, "the hub sent no rollout"))?;
        Ok(RolloutFacts::try_from(rollout)?)
    }

    /// Refuses when the hub would give a revision to all hosts at once, whatever plan it has.
    ///
    /// # Errors
    /// [`Code::UnsupportedVersion`]; what calls can fail with.
    pub async fn require_rollouts(&self, topology: &TopologyId) -> Result<(), Failure> {
        match self.rollouts(Some(topology), 1).await {
            Ok(_) => Ok(()),
            Err(failure) if failure.is(Code::UnsupportedVersion) => {
                let message = "the hub is older than rollouts and would give this to all hosts at once; nothing was pushed";
                Err(Failure::from(Fault::new(Code::UnsupportedVersion, message))
                    .with_remedy("update the hub, or push with --no-rollout if all at once is what you want"))
            }
            Err(failure) => Err(failure),
        }
    }

    /// The hosts that keep what they have until a rollout comes to them, with the generation that waits.
    ///
    /// # Errors
    /// What calls can fail with.
    pub async fn waiting_for_rollouts(&self) -> Result<BTreeMap<HostId, Generation>, Failure> {
        let mut waiting = BTreeMap::new();
        let rollouts = match self.rollouts(None, ROLLOUTS_LOOKED).await {
            Ok(rollouts) => rollouts,
            Err(failure) if failure.is(Code::UnsupportedVersion) => return Ok(waiting),
            Err(failure) => return Err(failure),
        };
        for rollout in rollouts.iter().filter(|r| is_open(r.state) && r.count(Standing::waits) > 0) {
            let Some(full) = self.rollout(&rollout.topology, rollout.generation).await? else { continue };
            waiting.extend(full.hosts.into_iter().filter(|h| h.standing.waits()).map(|h| (h.host_id, rollout.generation)));
        }
        Ok(waiting)
    }
}

/// Whether hosts may still get it.
const fn is_open(state: State) -> bool {
    match state {
        State::Running | State::Paused | State::Completed => true,
        State::Failed | State::Aborted | State::Superseded => false,
    }
}
