//! The driver against the simulated host, in one process and by a clock of its own.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use moorline_common::id::{ClusterId, HostId, OpId, ResourceId, TopologyId};
use moorline_common::observe::{Observed, ObservedGuest};
use moorline_common::op::Act;
use moorline_common::plan::{Action, Given, Identity, Plan, plan_given};
use moorline_common::pve::Vmid;
use moorline_common::topology::HostSpec;
use moorline_pve_sim::schema::Schema;
use moorline_pve_sim::setup::{SECRET, TOKEN};
use moorline_pve_sim::sim::Cut;
use moorline_pve_sim::world::effects::EffectKind;
use moorline_pve_sim::{Request, Setup, Sim};
use serde_json::{Value, json};

use super::client::{Call, NoReply, Reply, Transport};
use super::{Client, PveDriver};
use crate::driver::{Begun, DriverError, Known, OpOrder, OpResult, Ownership, Taker, Tasks};

mod beside;
mod check;
mod doubt;
mod https;
pub mod machine;
pub mod ops;
mod round_trip;
mod steps;

/// The API's own description, where it is given: every request is held to it.
static SCHEMA: LazyLock<Option<Arc<Schema>>> = LazyLock::new(|| {
    let path = std::env::var_os("MOORLINE_PVE_SCHEMA")?;
    Some(Arc::new(Schema::parse(&std::fs::read(path).unwrap()).unwrap()))
});

/// The simulated host without anything in between.
pub struct InProcess(pub Sim);

impl Transport for InProcess {
    async fn send(&self, call: Call) -> Result<Reply, NoReply> {
        let request = Request {
            method: call.verb.as_str().to_owned(),
            path: call.target,
            authorization: Some(format!("PVEAPIToken={TOKEN}={SECRET}")),
            content_type: call.form.as_ref().map(|_| "application/x-www-form-urlencoded".to_owned()),
            body: call.form.unwrap_or_default().into_bytes(),
            ..Request::default()
        };
        let lost = |why: &str| Err(NoReply::Lost(why.to_owned()));
        let answer = async {
            match self.0.answer(request).await {
                Err(Cut::Hangs) => std::future::pending().await,
                answered => answered,
            }
        };
        match tokio::time::timeout(call.limit, answer).await {
            Ok(Ok(answer)) => Ok(Reply { status: answer.status, reason: answer.reason, body: answer.body }),
            Ok(Err(_)) => lost("the connection was cut"),
            Err(_) => lost("no answer in time"),
        }
    }
}

/// A driver and its host.
pub struct Bench<T = InProcess> {
    pub sim: Sim,
    pub driver: PveDriver<T>,
    owned: Ownership,
}

pub fn identity() -> Identity {
    Identity { cluster: ClusterId::parse("home").unwrap(), host_id: HostId::of_key(&[7; 32]), topology: TopologyId::parse("edge").unwrap() }
}

impl Bench {
    pub fn new(setup: Setup) -> Self {
        let sim = Sim::new(setup);
        sim.change(|world| world.set_schema(SCHEMA.clone()));
        Self::on(sim, Arc::default())
    }

    /// A driver of a later life, on the same host.
    pub fn on(sim: Sim, known: Arc<Known>) -> Self {
        Self::over(InProcess(sim.clone()), sim, known)
    }
}

impl<T: Transport> Bench<T> {
    /// A driver that reaches its host so.
    pub fn over(transport: T, sim: Sim, known: Arc<Known>) -> Self {
        let owned = Ownership { cluster: identity().cluster, host_id: identity().host_id, known };
        let client = Client::new(transport, "pve-1".to_owned(), TOKEN.to_owned());
        Self { driver: PveDriver::new(client, owned.clone()), sim, owned }
    }

    pub async fn look(&self) -> Observed {
        Observed { pve: Some(self.driver.observe().await.unwrap()), ..Observed::default() }
    }

    pub async fn guest(&self, number: u32) -> ObservedGuest {
        self.look().await.pve.unwrap().guests.remove(&vmid(number)).unwrap_or_else(|| panic!("no guest {number}"))
    }

    /// What has to change, given what was applied before.
    pub async fn plan(&self, desired: &HostSpec, applied: Option<&HostSpec>) -> Plan {
        self.owned.known.look_for(Some(desired));
        plan_given(&identity(), desired, &self.look().await, Given { applied, ..Given::default() })
    }

    /// Makes a step so, and notes what it is from now on, as the reconciler does.
    pub async fn carry_out(&self, action: &Action) -> Result<(), DriverError> {
        let Action::Guest(guest) = action else { panic!("{action:?}") };
        self.driver.apply(guest, Tasks::nobody()).await?;
        if let Some((key, owner)) = action.note() {
            self.owned.known.note(key, owner);
        }
        Ok(())
    }

    /// Plans and applies until nothing is left to do; returns the verbs of the steps. What fails is tried again, as the reconciler does.
    pub async fn settle(&self, desired: &HostSpec, applied: Option<&HostSpec>) -> Vec<&'static str> {
        let mut taken = Vec::new();
        for _ in 0..40 {
            let plan = self.plan(desired, applied).await;
            if plan.is_settled() {
                return taken;
            }
            if plan.steps.is_empty() && plan.blocked.iter().any(|blocked| blocked.code.is_some()) {
                panic!("blocked: {:#?}", plan.blocked);
            }
            for step in &plan.steps {
                match self.carry_out(&step.action).await {
                    Ok(()) => taken.push(step.action.verb()),
                    Err(error) => println!("{step}: {error}"),
                }
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        panic!("does not settle: {:#?}", self.plan(desired, applied).await);
    }

    /// Carries an operation out, as long as nothing is in doubt.
    pub async fn order(&self, order: &OpOrder) -> Result<OpResult, DriverError> {
        let evidence = self.driver.prepare(order).await?;
        let mut begun = self.driver.start(order, &evidence).await?;
        loop {
            match begun {
                Begun::Done(result) => return Ok(result),
                Begun::Task(task) => begun = self.driver.resume(order, &evidence, &task, Taker::nobody()).await?,
            }
        }
    }

    /// How often something happened to a guest by the API.
    pub fn effects(&self, number: u32, kind: EffectKind) -> usize {
        self.sim.inspect(|world| world.effects.iter().filter(|effect| effect.vmid == number && effect.kind == kind).count())
    }

    /// How many requests that change something there were.
    pub fn changes(&self) -> usize {
        self.sim.inspect(|world| world.requests.iter().filter(|request| request.method != "GET").count())
    }

    /// By hand on the host: a guest's key gets another value.
    pub fn set_by_hand(&self, number: u32, key: &str, text: &str) {
        self.sim.change(|world| {
            let guest = world.guests.get_mut(&number).unwrap();
            guest.conf.insert(key.to_owned(), text.to_owned());
        });
    }
}

pub fn vmid(number: u32) -> Vmid {
    Vmid::parse(&number.to_string()).unwrap()
}

pub fn guests(value: Value) -> HostSpec {
    serde_json::from_value(json!({ "proxmox": { "guests": value } })).unwrap()
}

/// An order for a guest.
pub fn order(number: u32, kind: &str, params: Value, at: u32) -> OpOrder {
    let resource: ResourceId = vmid(number).resource();
    OpOrder {
        op_id: OpId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{at:012x}")).unwrap(),
        act: Act::read(kind, &params, &resource).unwrap(),
        resource,
        incarnation: None,
        state: None,
        wanted: Default::default(),
    }
}
