//! Rollouts on the wire.

use moorline_common::fault::{Code, Fault};
use moorline_common::rollout::{Act, COUNT_MAX, OnFailure, Plan, Share};

use crate::v1 as pb;
use crate::v1::host_share::Kind;

impl From<Share> for pb::HostShare {
    fn from(share: Share) -> Self {
        let kind = match share {
            Share::Count(count) => Kind::Count(count),
            Share::Percent(percent) => Kind::Percent(percent),
        };
        pb::HostShare { kind: Some(kind) }
    }
}

impl From<&Plan> for pb::RolloutPlan {
    fn from(plan: &Plan) -> Self {
        pb::RolloutPlan {
            canary: Some(plan.canary.into()),
            max_parallel: Some(plan.max_parallel.into()),
            healthy_for_s: plan.healthy_for_s,
            on_failure: plan.on_failure.as_str().to_owned(),
            failure_budget: Some(plan.failure_budget.into()),
            deadline_s: plan.deadline_s,
        }
    }
}

fn share(share: Option<pb::HostShare>, what: &str) -> Result<Share, Fault> {
    match share.and_then(|share| share.kind) {
        Some(Kind::Count(count)) if count <= COUNT_MAX => Ok(Share::Count(count)),
        Some(Kind::Percent(percent)) if percent <= 100 => Ok(Share::Percent(percent)),
        Some(Kind::Count(_) | Kind::Percent(_)) | None => {
            Err(Fault::new(Code::InvalidArgument, format!("the rollout's `{what}` is no number or share of hosts")))
        }
    }
}

impl TryFrom<pb::RolloutPlan> for Plan {
    type Error = Fault;

    fn try_from(plan: pb::RolloutPlan) -> Result<Self, Fault> {
        let unknown = || Fault::new(Code::InvalidArgument, "the rollout's `on_failure` is neither `rollback` nor `pause`");
        let plan = Plan {
            canary: share(plan.canary, "canary")?,
            max_parallel: share(plan.max_parallel, "max_parallel")?,
            healthy_for_s: plan.healthy_for_s,
            on_failure: OnFailure::parse(&plan.on_failure).ok_or_else(unknown)?,
            failure_budget: share(plan.failure_budget, "failure_budget")?,
            deadline_s: plan.deadline_s,
        };
        plan.require_sound()?;
        Ok(plan)
    }
}

impl From<Act> for pb::RolloutAct {
    fn from(act: Act) -> Self {
        match act {
            Act::Pause => pb::RolloutAct::Pause,
            Act::Resume => pb::RolloutAct::Resume,
            Act::Abort => pb::RolloutAct::Abort,
        }
    }
}

impl TryFrom<pb::RolloutAct> for Act {
    type Error = Fault;

    fn try_from(act: pb::RolloutAct) -> Result<Self, Fault> {
        match act {
            pb::RolloutAct::Pause => Ok(Act::Pause),
            pb::RolloutAct::Resume => Ok(Act::Resume),
            pb::RolloutAct::Abort => Ok(Act::Abort),
            pb::RolloutAct::Unspecified => Err(Fault::new(Code::InvalidArgument, "name what to do to the rollout")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_the_wire_and_nonsense_does_not() {
        let plan = Plan { canary: Share::Percent(5), on_failure: OnFailure::Pause, ..Plan::default() };
        assert_eq!(Plan::try_from(pb::RolloutPlan::from(&plan)).unwrap(), plan);
        let good = || pb::RolloutPlan::from(&plan);
        for bad in [
            pb::RolloutPlan::default(),
            pb::RolloutPlan { canary: None, ..good() },
            pb::RolloutPlan { max_parallel: Some(pb::HostShare { kind: Some(Kind::Percent(101)) }), ..good() },
            pb::RolloutPlan { on_failure: "explode".to_owned(), ..good() },
            pb::RolloutPlan { deadline_s: 0, ..good() },
        ] {
            assert_eq!(Plan::try_from(bad).unwrap_err().code, Code::InvalidArgument);
        }
    }
}
