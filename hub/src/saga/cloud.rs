//! What the hub does in clouds for a saga. Each try goes on from what an earlier one left, whoever made it.

use std::collections::BTreeSet;
use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::UnixSeconds;
use moorline_common::saga::{CloudAct, CloudDroplet, CloudWork, DropletRef, End, Line, Side, StepNumber};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::act::Job;
use crate::cloud::steps::{self, Attempt, Create, Destroy, Mark, Resize, StepError, TakeSnapshot, WaitActive};
use crate::cloud::{ActionId, Droplet, DropletId, NewDroplet, Provider, Secret, SnapshotId};
use crate::hub::Hub;
use crate::store::{CloudKind, NewProvisioned, StoreError};

type Done = Result<Value, StepError>;

/// Does it; gives back how that ended.
pub(super) async fn perform(hub: &Hub, job: &Job, act: &CloudAct) -> End {
    let work = async { Worker::new(hub, job, act)?.run(&act.work).await };
    #[cfg(test)]
    let work = crate::cloud::budgets::PACE.scope(hub.sagas.pace(), work);
    let done = work.await;
    match done {
        Ok(output) => End::Succeeded { output },
        Err(StepError { fault, again, effect }) => End::Failed { fault, again, effect, signed: false },
    }
}

struct Worker<'a> {
    hub: &'a Hub,
    job: &'a Job,
    cloud: &'a str,
    provider: Arc<dyn Provider>,
}

impl<'a> Worker<'a> {
    fn new(hub: &'a Hub, job: &'a Job, act: &'a CloudAct) -> Result<Self, StepError> {
        let provider = hub.clouds.get(&act.cloud).map_err(|error| StepError::call(&error, "reaching it", job.is_resumed))?;
        Ok(Self { hub, job, cloud: &act.cloud, provider })
    }

    async fn run(&self, work: &CloudWork) -> Done {
        let provider = self.provider.as_ref();
        let attempt = &self.attempt(self.job.side);
        match work {
            CloudWork::CreateDroplet(new) => self.create(new).await,
            CloudWork::WaitActive { droplet } => self.wait_active(droplet).await,
            CloudWork::Register { droplet, spec } => self.register(droplet, json!(spec)).await,
            CloudWork::Desire { droplet, spec } => {
                let id = self.number(droplet)?;
                let version = self.hub.store.amend_spec(self.cloud.to_owned(), id.0, spec.clone(), self.by(), Some(self.saga_id())).await;
                Ok(json!({ "spec_version": version.map_err(failed)? }))
            }
            CloudWork::Snapshot { droplet, name } => {
                let made = steps::snapshot(provider, &self.take(self.number(droplet)?, name).await?, attempt).await?;
                Ok(json!({ "snapshot": made.id, "name": made.name }))
            }
            CloudWork::DeleteSnapshot { snapshot } => {
                steps::delete_snapshot(provider, SnapshotId(*snapshot), attempt).await?;
                self.bury(CloudKind::Snapshot, [*snapshot].into()).await
            }
            CloudWork::Resize { droplet, size, disk } => {
                let input = Resize { droplet: self.number(droplet)?, size: size.clone(), disk: *disk, was_on: None };
                let resized = steps::resize(provider, &input, attempt).await?;
                self.seen(&resized.droplet).await?;
                Ok(json!({ "droplet": resized.droplet.id, "size": resized.droplet.size, "from": resized.from }))
            }
            CloudWork::Rename { droplet, name } => {
                let renamed = steps::alter::rename(provider, self.number(droplet)?, name, attempt).await?;
                self.seen(&renamed).await?;
                Ok(json!({ "droplet": renamed.id, "name": renamed.name }))
            }
            CloudWork::Tag { droplet, tag } => {
                let id = self.number(droplet)?;
                steps::alter::tag(provider, id, tag, attempt).await?;
                Ok(json!({ "droplet": id, "tag": tag }))
            }
            CloudWork::Untag { droplet, tag } => {
                let id = self.number(droplet)?;
                steps::alter::untag(provider, id, tag, attempt).await?;
                Ok(json!({ "droplet": id, "tag": tag }))
            }
            CloudWork::Power { droplet, on } => {
                let switched = steps::alter::power(provider, self.number(droplet)?, *on, attempt).await?;
                self.seen(&switched).await?;
                Ok(json!({ "droplet": switched.id, "status": switched.status }))
            }
            CloudWork::Destroy { droplet } => self.destroy(droplet).await,
            CloudWork::Unmake => self.unmake().await,
        }
    }

    /// This try; `side` says which one's beginning counts.
    fn attempt(&self, side: Side) -> Attempt {
        let job = self.job;
        let began_ms = job.state.line(job.step, side).map_or(0, |line| line.began_ms);
        Attempt {
            tried_before: job.is_resumed || job.attempt > 1,
            began_at: UnixSeconds(began_ms / 1000),
            now: self.hub.clock.unix_s(),
            deadline: Instant::now() + job.patience(),
        }
    }

    fn saga_id(&self) -> moorline_common::id::SagaId {
        self.job.plan.saga_id.clone()
    }

    fn by(&self) -> String {
        format!("saga/{}", self.job.plan.saga_id)
    }

    fn mark(&self) -> Mark {
        Mark { saga_id: self.job.plan.saga_id.to_string(), step: self.job.step }
    }

    fn done(&self, step: StepNumber) -> Option<&Line> {
        self.job.state.line(step, Side::Do)
    }

    /// The step that a droplet is made by.
    fn maker(&self, droplet: &DropletRef) -> Option<StepNumber> {
        match droplet {
            DropletRef::Number(_) => None,
            DropletRef::MadeBy(by) => self.job.plan.step_named(by),
        }
    }

    fn number(&self, droplet: &DropletRef) -> Result<DropletId, StepError> {
        let number = match droplet {
            DropletRef::Number(number) => Some(*number),
            DropletRef::MadeBy(_) => self.maker(droplet).and_then(|step| told(self.done(step)?, "droplet")),
        };
        let lacks = || StepError::new(Code::CloudMissingInput, format!("the number of {droplet} is not known"), false, false);
        number.map(DropletId).ok_or_else(lacks)
    }

    async fn buried(&self, kind: CloudKind) -> Result<BTreeSet<u64>, StepError> {
        self.hub.store.buried(self.cloud.to_owned(), kind).await.map_err(failed)
    }

    /// What is gone is remembered: listings go on showing it.
    async fn bury(&self, kind: CloudKind, numbers: BTreeSet<u64>) -> Done {
        let gone = json!({ "deleted": numbers });
        if !numbers.is_empty() {
            self.hub.store.bury(self.cloud.to_owned(), kind, numbers, Some(self.saga_id())).await.map_err(failed)?;
        }
        Ok(gone)
    }

    /// The inventory has what was just seen.
    async fn seen(&self, droplet: &Droplet) -> Result<(), StepError> {
        self.hub.store.see_droplet(self.cloud.to_owned(), droplet.id.0, droplet.name.clone(), droplet.to_value()).await.map_err(failed)
    }

    async fn creation(&self, new: &CloudDroplet) -> Result<Create, StepError> {
        let user_data = match &new.boot {
            // What undoes it needs none.
            Some(hash) if self.job.side == Side::Do => {
                let text = self.hub.store.saga_part(self.saga_id(), hash.clone()).await.map_err(failed)?;
                let text = text.and_then(|text| String::from_utf8(text).ok());
                let lacks = || StepError::new(Code::Internal, "the store lacks what the first boot is told", false, false);
                Some(Secret::new(text.ok_or_else(lacks)?))
            }
            Some(_) | None => None,
        };
        let wanted = NewDroplet {
            name: new.name.clone(),
            region: new.region.clone(),
            size: new.size.clone(),
            image: new.image.clone(),
            ssh_keys: new.ssh_keys.clone(),
            tags: new.tags.clone(),
            user_data,
            vpc: new.vpc.clone(),
            monitoring: new.monitoring,
            ipv6: new.ipv6,
        };
        let deleted = self.buried(CloudKind::Droplet).await?.into_iter().map(DropletId).collect();
        Ok(Create { wanted, mark: self.mark(), deleted })
    }

    async fn create(&self, new: &CloudDroplet) -> Done {
        let input = self.creation(new).await?;
        let made = steps::create(self.provider.as_ref(), &input, &self.attempt(Side::Do)).await?;
        self.bury(CloudKind::Droplet, made.swept.iter().map(|id| id.0).collect()).await?;
        Ok(json!({ "droplet": made.droplet.id, "name": made.droplet.name, "action": made.action }))
    }

    async fn wait_active(&self, droplet: &DropletRef) -> Done {
        let action = self.maker(droplet).and_then(|step| told(self.done(step)?, "action")).map(ActionId);
        let input = WaitActive { id: self.number(droplet)?, action };
        let active = steps::wait_active(self.provider.as_ref(), input, &self.attempt(self.job.side)).await?;
        Ok(json!({ "droplet": active.droplet.id, "ip": active.public }))
    }

    async fn register(&self, droplet: &DropletRef, spec: Value) -> Done {
        let id = self.number(droplet)?;
        let live = self.provider.droplet(id).await;
        let live = live.map_err(|error| StepError::call(&error, &format!("registering droplet {id}"), false))?;
        let registered = NewProvisioned {
            cloud: self.cloud.to_owned(),
            number: id.0,
            name: live.name.clone(),
            live: live.to_value(),
            spec,
            by: self.by(),
            saga_id: Some(self.saga_id()),
        };
        let version = self.hub.store.register_droplet(registered).await.map_err(failed)?;
        Ok(json!({ "droplet": id, "spec_version": version }))
    }

    async fn take(&self, droplet: DropletId, name: &str) -> Result<TakeSnapshot, StepError> {
        let deleted = self.buried(CloudKind::Snapshot).await?.into_iter().map(SnapshotId).collect();
        Ok(TakeSnapshot { droplet, name: name.to_owned(), mark: self.mark(), deleted })
    }

    async fn destroy(&self, droplet: &DropletRef) -> Done {
        let id = self.number(droplet)?;
        let made = self.maker(droplet).and_then(|step| Some(UnixSeconds(self.done(step)?.began_ms / 1000)));
        let created_at = match made {
            Some(made) => Some(made),
            None => {
                let known = self.hub.store.resource(self.cloud.to_owned(), CloudKind::Droplet, id.0).await.map_err(failed)?;
                known.and_then(|known| known.value.get("created_at")?.as_u64()).map(UnixSeconds)
            }
        };
        steps::destroy(self.provider.as_ref(), Destroy { id, created_at }, &self.attempt(self.job.side)).await?;
        self.bury(CloudKind::Droplet, [id.0].into()).await
    }

    /// Undoes what the step made, or may have made.
    async fn unmake(&self) -> Done {
        let job = self.job;
        let made = job.plan.cloud_act(job.step, Side::Do).map(|act| &act.work);
        let line = self.done(job.step);
        // What a listing shows is told from what was there before by when the step began.
        let attempt = Attempt { tried_before: true, ..self.attempt(Side::Do) };
        match made {
            Some(CloudWork::CreateDroplet(new)) => {
                let known = line.and_then(|line| told(line, "droplet")).map(DropletId);
                let gone = steps::undo_create(self.provider.as_ref(), &self.creation(new).await?, known, &attempt).await?;
                self.bury(CloudKind::Droplet, gone.into_iter().map(|id| id.0).collect()).await
            }
            Some(CloudWork::Snapshot { droplet, name }) => {
                let known = line.and_then(|line| told(line, "snapshot")).map(SnapshotId);
                let input = self.take(self.number(droplet)?, name).await?;
                let gone = steps::undo_snapshot(self.provider.as_ref(), &input, known, &attempt).await?;
                self.bury(CloudKind::Snapshot, gone.into_iter().map(|id| id.0).collect()).await
            }
            Some(CloudWork::Register { droplet, .. }) => {
                let id = self.number(droplet)?;
                self.hub.store.unregister_droplet(self.cloud.to_owned(), id.0, Some(self.saga_id())).await.map_err(failed)?;
                Ok(json!({ "droplet": id }))
            }
            Some(_) | None => Err(StepError::new(Code::Internal, "there is nothing that the step could have made", false, false)),
        }
    }
}

/// A number in what came of a step.
fn told(line: &Line, key: &str) -> Option<u64> {
    line.output.get(key)?.as_u64()
}

/// The store failed: another try may do better, and this one may have had its effect.
fn failed(error: StoreError) -> StepError {
    let Fault { code, message, .. } = error.into_fault();
    StepError::new(code, message, true, true)
}
