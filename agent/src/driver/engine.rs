//! The engine of containers that a configuration names.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::observe::Observed;
use moorline_common::plan::Step;
use serde_json::Value;

use super::docker::DockerDriver;
use super::sim::SimDriver;
use super::{Begun, Driver, DriverError, Found, Known, OpOrder, Taker, logs, pulls};

/// One of them.
pub enum Engine {
    /// The Docker Engine.
    Docker(DockerDriver),
    /// A simulated one.
    Sim(SimDriver),
}

/// The same of whichever it is.
macro_rules! of {
    ($engine:expr, $driver:ident => $call:expr) => {
        match $engine {
            Engine::Docker($driver) => $call,
            Engine::Sim($driver) => $call,
        }
    };
}

impl Driver for Engine {
    fn name(&self) -> &'static str {
        of!(self, driver => driver.name())
    }

    fn parallelism(&self) -> usize {
        of!(self, driver => driver.parallelism())
    }

    fn known(&self) -> Arc<Known> {
        of!(self, driver => driver.known())
    }

    async fn observe(&self) -> Result<Observed, DriverError> {
        of!(self, driver => driver.observe().await)
    }

    fn pulls(&self) -> pulls::View {
        of!(self, driver => driver.pulls())
    }

    async fn logs(&self, wish: &logs::LogWish) -> Result<logs::LogStream, DriverError> {
        of!(self, driver => driver.logs(wish).await)
    }

    async fn apply(&self, step: &Step) -> Result<(), DriverError> {
        of!(self, driver => driver.apply(step).await)
    }

    async fn next_event(&self) {
        of!(self, driver => driver.next_event().await)
    }

    fn capabilities(&self) -> &'static [&'static str] {
        of!(self, driver => driver.capabilities())
    }

    async fn prepare(&self, order: &OpOrder) -> Result<Value, DriverError> {
        of!(self, driver => driver.prepare(order).await)
    }

    async fn start(&self, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
        of!(self, driver => driver.start(order, evidence).await)
    }

    async fn resume(&self, order: &OpOrder, evidence: &Value, task: &str, taker: Taker) -> Result<Begun, DriverError> {
        of!(self, driver => driver.resume(order, evidence, task, taker).await)
    }

    async fn adopt(&self, order: &OpOrder, evidence: &Value, task: Option<&str>, age: Duration) -> Result<Found, DriverError> {
        of!(self, driver => driver.adopt(order, evidence, task, age).await)
    }
}
