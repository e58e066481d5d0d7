//! Moorline as a contender: all of the agent but its link, in this process.
//!
//! A signed slice goes in through the intake; it counts as applied when the reconciler has seen with its own eyes
//! that the host is as wanted, and the ledger has it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use bollard::Docker;
use moorline_agent::driver::Driver as _;
use moorline_agent::driver::docker::DockerDriver;
use moorline_agent::intake::Intake;
use moorline_agent::lane::Lanes;
use moorline_agent::reconcile::{Parts, Reconciler};
use moorline_agent::report::HostState;
use moorline_common::canonical::version_hash;
use moorline_common::id::{Generation, TopologyId, UnixSeconds};
use moorline_common::sign::{PrivateKey, Signed};
use moorline_common::statement::{HostBinding, SliceStatement};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::scene::{self, Scene};
use super::{PATIENCE, Sample, Witness, now};
use crate::host::Host;

/// An agent with an operator who signs for it.
pub struct Agent {
    scene: Scene,
    docker: Docker,
    intake: Intake,
    state: watch::Receiver<HostState>,
    operator: PrivateKey,
    binding: HostBinding,
    topology: TopologyId,
    generation: u64,
    /// The newest slice.
    slice: Vec<u8>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
}

impl Agent {
    /// An agent that has accepted nothing yet, on the engine behind `socket`.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub async fn start(scene: Scene, docker: &Docker, socket: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let host = Host::new(&folder.path().join("state"), scene.name.as_str(), vec![PathBuf::from(socket)]).await?;
        let driver = DockerDriver::new(PathBuf::from(socket), host.ownership());
        let Host { operator, binding, intake, ledger, journal, .. } = host;
        let lanes = Lanes::new(driver.parallelism());
        let (reconciler, handle) = Reconciler::new(Parts { driver: Arc::new(driver), journal, ledger, lanes, target: intake.target() });
        let stop = CancellationToken::new();
        tokio::spawn(reconciler.run(stop.clone()));
        let topology = TopologyId::parse(scene.name.as_str())?;
        let (docker, state) = (docker.clone(), handle.state());
        let mut agent =
            Self { scene, docker, intake, state, operator, binding, topology, generation: 0, slice: Vec::new(), stop, _folder: folder };
        // At rest before anything is measured, as an agent is when a push comes.
        tokio::time::timeout(PATIENCE, agent.state.wait_for(|s| !s.observed_digest.is_empty())).await??;
        Ok(agent)
    }

    /// Everything once.
    ///
    /// # Errors
    /// When the engine fails a step, or something takes too long.
    pub async fn round(&mut self, marker: &str) -> Result<Sample> {
        let cold = self.push(self.scene.content(marker)).await?;
        let noop = self.push_again().await?;
        let change = self.push(self.scene.content(&format!("{marker}-changed"))).await?;
        let heal = self.heal().await?;
        let down = self.push(json!({})).await?;
        Ok(Sample { cold: Some(cold), noop: Some(noop), change: Some(change), heal: Some(heal), down: Some(down) })
    }

    /// Pushes the next generation; how long until it is applied.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub async fn push(&mut self, content: Value) -> Result<std::time::Duration> {
        self.generation += 1;
        let slice = SliceStatement {
            cluster: self.binding.cluster.clone(),
            topology: self.topology.clone(),
            generation: Generation(self.generation),
            host_id: self.binding.host_id.clone(),
            version_hash: version_hash(&content)?,
            content,
            issued_at: UnixSeconds(now().as_secs()),
            deliver_by: UnixSeconds(u64::from(u32::MAX)),
            sealed: Default::default(),
            fallback: None,
            at_once: false,
        };
        self.slice = Signed::seal(&slice, &[&self.operator])?.envelope().to_json();
        self.push_again().await
    }

    /// Pushes the very same bytes again; how long until they are known to be applied.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub async fn push_again(&mut self) -> Result<std::time::Duration> {
        let begin = Instant::now();
        self.intake.slice(self.slice.clone()).await.map_err(|r| anyhow!("{}", r.fault))?;
        let pushes = self.intake.target().borrow().pushes;
        let settled = self.state.wait_for(|s| s.settled_push == Some(pushes));
        let settled = tokio::time::timeout(PATIENCE, settled).await.map(|r| r.map(drop));
        settled.with_context(|| format!("not applied in time: {:?}", self.state.borrow().apply))??;
        Ok(begin.elapsed())
    }

    /// Kills the chosen container; how long until it runs again.
    ///
    /// # Errors
    /// As [`Self::round`].
    pub async fn heal(&self) -> Result<std::time::Duration> {
        let name = format!("{}-{}-1", self.scene.name, scene::service(scene::CHOSEN));
        let id = self.docker.inspect_container(&name, None).await?.id.context("a container without an id")?;
        let witness = Witness::new(&self.docker);
        self.docker.kill_container(&id, None).await?;
        let (died, started) = (witness.moment(&id, "die").await?, witness.moment(&id, "start").await?);
        Ok(started.saturating_sub(died))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
