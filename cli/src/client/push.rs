//! Handing in revisions, and noting what this machine has pushed.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId};
use moorline_common::rollout::Plan;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::TopologyStatement;
use moorline_common::topology;
use moorline_proto::v1 as pb;
use prost::Message;

use super::drift::Shown;
use super::{Client, floor};
use crate::error::Failure;
use crate::revision::SignedRevision;

impl Client {
    /// Pushes a revision that says what the one before it says. This machine's next push is made from it only if it was made
    /// from that one: else what others changed since would be overwritten unseen.
    ///
    /// # Errors
    /// As [`Self::push`]; when the floors cannot be written.
    pub async fn push_the_same(&self, base: Generation, revision: &SignedRevision) -> Result<(), Failure> {
        // It spreads as the one before it: hosts that do not have that one yet are not to get it all at once.
        self.push(base, revision, plan_of(&revision.source).as_ref(), &[]).await?;
        self.context.update_floors(|floors| {
            let pushed = floors.topologies.get(&revision.topology).map(|f| f.pushed).unwrap_or_default();
            floor::note_pushed(floors, &revision.topology, revision.generation, &revision.source.payload_sha256(), false);
            if let Some(floor) = floors.topologies.get_mut(&revision.topology).filter(|_| pushed != base) {
                floor.pushed = pushed;
            }
            Ok(())
        })
    }

    /// Pushes a signed revision that spreads by `plan`, or reaches all hosts at once, and takes over the live values of the drifts in
    /// `accepts`.
    ///
    /// # Errors
    /// [`Code::BaseMoved`], [`Code::DriftMoved`], [`Code::DriftResolved`] and whatever else the hub refuses;
    /// [`Code::UnsupportedVersion`] by a hub that knows of no plans.
    pub async fn push(&self, base: Generation, revision: &SignedRevision, plan: Option<&Plan>, accepts: &[Shown]) -> Result<(), Failure> {
        if plan.is_some() {
            self.require_rollouts(&revision.topology).await?;
        }
        let request = pb::PushRequest {
            topology: revision.topology.to_string(),
            base_generation: base.0,
            source: Some((&revision.source).into()),
            slices: revision
                .slices
                .iter()
                .map(|(host, slice)| pb::HostSlice { host_id: host.to_string(), slice: Some((&slice.envelope).into()) })
                .collect(),
            rollout: plan.map(pb::RolloutPlan::from),
            accepts: accepts.iter().map(Into::into).collect(),
        };
        require_fitting(request.encoded_len(), revision.slices.len())?;
        let answer = self.hub.call(|mut rpc| async move { rpc.push(request).await }).await?;
        if answer.generation != revision.generation.0 {
            let message = format!("pushed generation {}, the hub says it stored {}", revision.generation, answer.generation);
            return Err(Fault::new(Code::Internal, message).into());
        }
        Ok(())
    }

    /// Notes that the hub's newest revision is what this machine wants; `lower` also when it has seen a newer one.
    ///
    /// # Errors
    /// When the floors cannot be written.
    pub fn note_pushed(&self, topology: &TopologyId, generation: Generation, source_sha256: &str, lower: bool) -> Result<(), Failure> {
        self.context.update_floors(|floors| {
            floor::note_pushed(floors, topology, generation, source_sha256, lower);
            Ok(())
        })
    }
}

/// How a signed source says that it spreads.
fn plan_of(source: &Envelope) -> Option<Plan> {
    let statement = Signed::<TopologyStatement>::new(source.clone()).and_then(|signed| signed.peek()).ok()?;
    let file = topology::read(statement.source.as_bytes(), &statement.inputs).file.ok()?;
    file.rollout.filter(|_| !statement.down)
}

/// Refuses a push of `bytes` that the hub would not take.
pub(super) fn require_fitting(bytes: usize, hosts: usize) -> Result<(), Failure> {
    if bytes <= moorline_proto::OPERATOR_MESSAGE_MAX {
        return Ok(());
    }
    let mib = |bytes: usize| bytes.div_ceil(1024 * 1024);
    let (bytes, most) = (mib(bytes), mib(moorline_proto::OPERATOR_MESSAGE_MAX));
    let message = format!("the push for {hosts} hosts has {bytes} MiB, the hub takes {most} MiB; nothing was sent");
    Err(Failure::from(Fault::new(Code::TooLarge, message))
        .with_remedy("split the hosts over several topologies, or make what each host gets smaller"))
}
