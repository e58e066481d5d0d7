//! What a host has: an engine of containers, Proxmox VE, or both, as one driver. Each is looked at by itself, and what cannot be asked keeps
//! the other from nothing.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moorline_common::fault::cut;
use moorline_common::observe::{EngineState, Observed, ObservedPve};
use moorline_common::op::{Act, Survey};
use moorline_common::plan::{Action, Step};
use moorline_common::pve::Vmid;
use serde_json::Value;

use super::pve::{PveDriver, Transport};
use super::{Begun, Driver, DriverError, Finding, Found, Known, OpOrder, Ownership, Taker, Tasks, logs, op, pulls};
use crate::limits::{PVE_LOOK_BESIDE, PVE_PARALLELISM};

/// See the module.
pub struct HostDriver<D, T> {
    engine: Option<D>,
    pve: Option<PveDriver<T>>,
    known: Arc<Known>,
    seen: Mutex<Seen>,
}

/// What was seen last, for when it cannot be asked.
#[derive(Default)]
struct Seen {
    engine: Observed,
    pve: ObservedPve,
}

impl<D: Driver, T: Transport> HostDriver<D, T> {
    /// A driver of what there is.
    #[must_use]
    pub fn new(engine: Option<D>, pve: Option<PveDriver<T>>, owned: &Ownership) -> Self {
        Self { engine, pve, known: owned.known.clone(), seen: Mutex::default() }
    }

    /// What does operations on containers and the like.
    fn engine(&self, order: &OpOrder) -> Result<&D, DriverError> {
        self.engine.as_ref().ok_or_else(|| DriverError::no_such_operation(order))
    }

    fn pve(&self, order: &OpOrder) -> Result<&PveDriver<T>, DriverError> {
        self.pve.as_ref().ok_or_else(|| DriverError::no_such_operation(order))
    }

    /// Looks at the guests. Beside an engine they have a part of the time alone, and a host that was away is asked something small first:
    /// what hangs holds up no container.
    async fn observe_guests(&self, pve: &PveDriver<T>) -> Result<ObservedPve, DriverError> {
        if self.engine.is_none() {
            return pve.observe().await;
        }
        let is_away = self.seen.lock().unwrap_or_else(PoisonError::into_inner).pve.engine == EngineState::Unreachable;
        if is_away {
            pve.answers().await?;
        }
        let looked = tokio::time::timeout(PVE_LOOK_BESIDE, pve.observe()).await;
        looked.unwrap_or_else(|_| Err(DriverError::no_answer("observing Proxmox VE")))
    }

    /// Puts both looks together.
    fn merged(
        &self,
        engine: Option<Result<Observed, DriverError>>,
        pve: Result<ObservedPve, DriverError>,
    ) -> Result<Observed, DriverError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_alone = engine.is_none();
        match (engine, pve) {
            // Nothing at all is known: the caller keeps what it saw last.
            (Some(Err(error)), Err(_)) | (None, Err(error)) => return Err(error),
            (engine, pve) => {
                // Of one that answers with an error nothing is known now either: what was seen before is shown, and nothing is planned on it.
                match engine {
                    Some(Ok(observed)) => seen.engine = observed,
                    Some(Err(error)) => (seen.engine.engine, seen.engine.error) = (EngineState::Unreachable, Some(cut(&error.message))),
                    None => {}
                }
                match pve {
                    Ok(observed) => seen.pve = observed,
                    Err(error) => (seen.pve.engine, seen.pve.error) = (EngineState::Unreachable, Some(cut(&error.message))),
                }
            }
        }
        let mut observed = Observed { pve: Some(seen.pve.clone()), ..seen.engine.clone() };
        if is_alone {
            observed.engine = seen.pve.engine;
            observed.engine_version = seen.pve.version.as_ref().map(|version| format!("pve {version}"));
        }
        Ok(observed)
    }
}

impl<D: Driver, T: Transport> Driver for HostDriver<D, T> {
    fn name(&self) -> &'static str {
        match (&self.engine, &self.pve) {
            (Some(engine), None) => engine.name(),
            (Some(engine), Some(_)) if engine.name() == "sim" => "sim and pve",
            (Some(_), Some(_)) => "docker and pve",
            (None, _) => "pve",
        }
    }

    fn parallelism(&self) -> usize {
        let guests = if self.pve.is_some() { PVE_PARALLELISM } else { 1 };
        self.engine.as_ref().map_or(0, Driver::parallelism).max(guests)
    }

    fn known(&self) -> Arc<Known> {
        self.known.clone()
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        let engine = async {
            match &self.engine {
                Some(engine) => Some(engine.observe().await),
                None => None,
            }
        };
        match &self.pve {
            None => engine.await.unwrap_or_else(|| Ok(Observed::default())),
            Some(pve) => {
                let (engine, pve) = tokio::join!(engine, self.observe_guests(pve));
                self.merged(engine, pve)
            }
        }
    }

    async fn examine(&self) -> Vec<Finding> {
        match &self.pve {
            Some(pve) => pve.examine().await,
            None => Vec::new(),
        }
    }

    fn pulls(&self) -> pulls::View {
        self.engine.as_ref().map_or_else(pulls::View::empty, Driver::pulls)
    }

    async fn logs(&self, wish: &logs::LogWish) -> Result<logs::LogStream, DriverError> {
        match &self.engine {
            Some(engine) => engine.logs(wish).await,
            None => Err(DriverError::no_logs(self.name(), wish)),
        }
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        self.apply_told(step, Tasks::nobody()).await
    }

    async fn apply_told(&self, step: &Step, tasks: Tasks) -> Result<(), DriverError> {
        match (&step.action, &self.engine) {
            (Action::Guest(action), _) => match &self.pve {
                Some(pve) => pve.apply(action, tasks).await,
                // A simulated engine has guests of its own.
                None => match &self.engine {
                    Some(engine) => engine.apply(step).await,
                    None => Err(DriverError::no_such_step(step, self.name())),
                },
            },
            (_, Some(engine)) => engine.apply(step).await,
            (_, None) => Err(DriverError::no_such_step(step, self.name())),
        }
    }

    async fn next_event(&self) {
        let engine = async {
            match &self.engine {
                Some(engine) => engine.next_event().await,
                None => std::future::pending().await,
            }
        };
        let pve = async {
            match &self.pve {
                Some(pve) => pve.next_event().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = engine => {}
            () = pve => {}
        }
    }

    fn capabilities(&self) -> &'static [&'static str] {
        match (&self.engine, &self.pve) {
            (Some(engine), None) => engine.capabilities(),
            (Some(_), Some(_)) => op::ALL_KINDS,
            (None, _) => op::GUEST_KINDS,
        }
    }

    async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        match about(&order.act) {
            About::Guest => self.pve(order)?.prepare(order).await,
            About::Guests(_) => self.pve(order).map(|_| Value::Null),
            About::Engine => self.engine(order)?.prepare(order).await,
        }
    }

    async fn start(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        match about(&order.act) {
            About::Guest => self.pve(order)?.start(order, evidence).await,
            About::Guests((asked, wanted)) => self.pve(order)?.survey(asked, wanted).await.map(Begun::Done),
            About::Engine => self.engine(order)?.start(order, evidence).await,
        }
    }

    async fn resume(&self, order: &OpOrder, evidence: &Value, task: &str, taker: Taker) -> Result<Begun, DriverError> {
        match about(&order.act) {
            About::Guest => self.pve(order)?.resume(order, evidence, task, taker).await,
            About::Guests(_) => Err(DriverError::no_such_operation(order)),
            About::Engine => self.engine(order)?.resume(order, evidence, task, taker).await,
        }
    }

    async fn adopt(&self, order: &OpOrder, evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        match about(&order.act) {
            About::Guest => self.pve(order)?.adopt(order, evidence, task, age).await,
            // To look again is to look once.
            About::Guests(_) => Ok(Found::Absent),
            About::Engine => self.engine(order)?.adopt(order, evidence, task, age).await,
        }
    }
}

/// What an operation is about.
enum About<'a> {
    /// A guest.
    Guest,
    /// What guests there are.
    Guests((&'a Survey, &'a BTreeSet<Vmid>)),
    /// What the engine of containers has.
    Engine,
}

fn about(act: &Act) -> About<'_> {
    if let Act::Guest(_) = act {
        return About::Guest;
    }
    if let Act::Survey(asked) = act {
        return asked.guests.as_ref().map_or(About::Engine, |wanted| About::Guests((asked, wanted)));
    }
    About::Engine
}
