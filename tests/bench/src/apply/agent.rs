//! Moorline as a contender: all of the agent but its link, in this process.
//!
//! A signed slice goes in through the intake; it counts as applied when the reconciler has seen with its own eyes
//! that the host is as wanted, and the ledger has it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use bollard::Docker;
use moorline_agent::config::Policy;
use moorline_agent::db::Db;
use moorline_agent::driver::docker::DockerDriver;
use moorline_agent::driver::{Driver as _, Ownership};
use moorline_agent::identity::{HostKeys, StateDir};
use moorline_agent::intake::judge::Own;
use moorline_agent::intake::{self, Intake};
use moorline_agent::journal::file::FileJournal;
use moorline_agent::lane::Lanes;
use moorline_agent::ledger::Ledger;
use moorline_agent::reconcile::{Parts, Reconciler};
use moorline_agent::report::HostState;
use moorline_agent::trust::TrustStore;
use moorline_common::canonical::version_hash;
use moorline_common::id::{ClusterId, Generation, HostName, TopologyId, UnixSeconds};
use moorline_common::sign::{PrivateKey, Signed, Statement};
use moorline_common::statement::{HostBinding, SliceStatement};
use moorline_common::trust::TrustRoot;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::scene::{self, Scene};
use super::{PATIENCE, Sample, Witness, now};

/// An agent with an operator who signs for it.
pub struct Agent {
    scene: Scene,
    docker: Docker,
    intake: Intake,
    state: watch::Receiver<HostState>,
    operator: PrivateKey,
    keys: HostKeys,
    cluster: ClusterId,
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
        let state_dir = StateDir(folder.path().join("state"));
        state_dir.ensure()?;
        let keys = state_dir.ensure_keys()?;
        let cluster = ClusterId::parse(scene.name.as_str())?;
        let (operator, root_key) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
        let root = Signed::seal(&root(&cluster, &operator, &root_key), &[&root_key])?;
        let db = Db::open(&state_dir.0)?;
        let ledger = Ledger::new(db.clone());
        let mut intake = Intake::open(intake::Parts {
            ledger: ledger.clone(),
            trust_store: TrustStore::new(db),
            root_pin: TrustRoot::pin(root.envelope()),
            own: Own { host_id: keys.host_id(), epoch: keys.epoch.clone(), sealing_key: keys.sealing_key() },
            policy: Policy::default(),
            engine_sockets: vec![PathBuf::from(socket)],
            quarantine: None,
        })?;
        intake.root(root.envelope().to_json()).await.map_err(|r| anyhow!("{}", r.fault))?;
        let binding = seal(&binding(&cluster, &keys)?, &operator)?;
        intake.binding(binding).await.map_err(|r| anyhow!("{}", r.fault))?;
        let owned = Ownership { cluster: cluster.clone(), host_id: keys.host_id() };
        let driver = DockerDriver::new(PathBuf::from(socket), owned);
        let journal = FileJournal::open(&state_dir.0.join("journal"), keys.epoch.clone())?.journal;
        let lanes = Lanes::new(driver.parallelism());
        let (reconciler, handle) = Reconciler::new(Parts { driver: Arc::new(driver), journal, ledger, lanes, target: intake.target() });
        let stop = CancellationToken::new();
        tokio::spawn(reconciler.run(stop.clone()));
        let topology = TopologyId::parse(scene.name.as_str())?;
        let (docker, state) = (docker.clone(), handle.state());
        let mut agent = Self {
            scene,
            docker,
            intake,
            state,
            operator,
            keys,
            cluster,
            topology,
            generation: 0,
            slice: Vec::new(),
            stop,
            _folder: folder,
        };
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
            cluster: self.cluster.clone(),
            topology: self.topology.clone(),
            generation: Generation(self.generation),
            host_id: self.keys.host_id(),
            version_hash: version_hash(&content)?,
            content,
            issued_at: UnixSeconds(now().as_secs()),
            deliver_by: UnixSeconds(u64::from(u32::MAX)),
            fallback: None,
        };
        self.slice = seal(&slice, &self.operator)?;
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

    async fn heal(&self) -> Result<std::time::Duration> {
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

fn seal<T: Statement>(statement: &T, key: &PrivateKey) -> Result<Vec<u8>> {
    Ok(Signed::seal(statement, &[key])?.envelope().to_json())
}

fn root(cluster: &ClusterId, operator: &PrivateKey, root_key: &PrivateKey) -> TrustRoot {
    let operators = [("bench".to_owned(), operator.public())];
    let forever = UnixSeconds(u64::from(u32::MAX));
    TrustRoot::first(cluster.clone(), &operators, &root_key.public(), UnixSeconds(now().as_secs()), forever)
}

fn binding(cluster: &ClusterId, keys: &HostKeys) -> Result<HostBinding> {
    Ok(HostBinding {
        cluster: cluster.clone(),
        host_id: keys.host_id(),
        host_key: keys.host_key.public(),
        sealing_key: keys.sealing_key(),
        host_epoch: keys.epoch.clone(),
        name: HostName::parse("bench")?,
        labels: BTreeMap::new(),
        generation_floors: BTreeMap::new(),
        serial: 1,
        issued_at: UnixSeconds(now().as_secs()),
    })
}
