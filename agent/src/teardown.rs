//! Taking a topology off the host without hub and operator: the reconciler works towards nothing, then the
//! ledger is cleared. The floors stay, so that nothing older can come back.

use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{TopologyId, UnixSeconds};
use moorline_common::observe::EngineState;
use moorline_common::plan::Identity;
use moorline_common::topology::HostSpec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::db::{Db, DbError};
use crate::driver::Driver;
use crate::identity::{IdentityError, StateDir};
use crate::intake::{Desired, Target};
use crate::lane::Lanes;
use crate::ledger::{Admission, FloorState, Ledger};
use crate::limits::TEARDOWN_TIMEOUT;
use crate::reconcile::{Parts, Reconciler};
use crate::records;
use crate::run::{Host, RunError};

/// What is to be removed.
#[derive(Debug, Clone)]
pub struct Removal {
    identity: Identity,
    admission: Admission,
}

impl Removal {
    /// What the ledger says is on this host, a marker included. `None`: nothing.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn of(config: &Config, host: &Host) -> Result<Option<Self>, DbError> {
        let ledger = Ledger::new(Db::open_own(&StateDir(config.state.clone()))?);
        let Some(topology) = ledger.pinned()? else { return Ok(None) };
        let Some(floor) = ledger.floor(&topology)? else {
            return Err(DbError::Damaged(format!("topology `{topology}` is current but was never accepted")));
        };
        let owned = host.ownership();
        Ok(Some(Self {
            identity: Identity { cluster: owned.cluster, host_id: owned.host_id, topology: topology.clone() },
            admission: Admission {
                topology,
                generation: floor.generation,
                payload_sha256: floor.payload_sha256,
                version_hash: floor.version_hash,
                content_since: floor.generation,
                hydrated: "{}".to_owned(),
                envelope: floor.envelope,
                is_empty: true,
                issued_at: UnixSeconds(0),
                fallback: None,
            },
        }))
    }

    /// The topology that goes.
    #[must_use]
    pub fn topology(&self) -> &TopologyId {
        &self.identity.topology
    }
}

/// Removes it. Returns what could not be removed, and why; empty when all is gone.
///
/// # Errors
/// [`RunError`] when the journal or the ledger cannot be used.
pub async fn teardown<D: Driver>(config: &Config, removal: Removal, driver: D) -> Result<Vec<Fault>, RunError> {
    let state_dir = StateDir(config.state.clone());
    let ledger = Ledger::new(Db::open_own(&state_dir)?);
    let epoch = state_dir.keys()?.ok_or(IdentityError::NotJoined)?.epoch;
    let journal = records::open_journal(&state_dir, &epoch)?.journal;
    let Removal { identity, admission } = removal;
    let accepted = admission.generation;
    let desired = Desired { identity, spec: HostSpec::default(), admission, when_gone: FloorState::Cleared, accepted, applied: None };
    let (_target, target) = watch::channel(Target { desired: Some(Arc::new(desired)), pushes: 1 });
    let lanes = Lanes::new(driver.parallelism());
    let (reconciler, handle) = Reconciler::new(Parts { driver: Arc::new(driver), journal, ledger, lanes, target });
    let stop = CancellationToken::new();
    let task = tokio::spawn(reconciler.run(stop.clone()));
    let mut state = handle.state();
    let ended = |s: &crate::report::HostState| {
        let apply = &s.apply;
        s.settled_push.is_some() || s.engine() == EngineState::Unreachable || (!apply.converging && !apply.troubles.is_empty())
    };
    let outcome = tokio::time::timeout(TEARDOWN_TIMEOUT, state.wait_for(ended)).await;
    let left = match outcome {
        Ok(Ok(s)) if s.settled_push.is_some() => Vec::new(),
        Ok(Ok(s)) if s.apply.troubles.is_empty() => {
            vec![Fault::new(Code::EngineUnreachable, s.observed.error.clone().unwrap_or_default())]
        }
        Ok(Ok(s)) => s.apply.troubles.iter().map(|t| Fault::new(t.code, format!("{}: {}", t.resource, t.message))).collect(),
        Ok(Err(_)) => vec![Fault::new(Code::Internal, "the journal cannot be written")],
        Err(_) => vec![Fault::new(Code::StepFailed, format!("not done after {} s", TEARDOWN_TIMEOUT.as_secs()))],
    };
    stop.cancel();
    match task.await {
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(())) | Err(_) => Ok(left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DriverErrorKind;
    use crate::journal::file::FileJournal;
    use crate::testing::{FakeDriver, Operator, config, enrol, services};

    /// A host that has accepted a slice, and what its engine holds of it.
    async fn host(dir: &std::path::Path) -> (Operator, FakeDriver) {
        let operator = Operator::new(dir);
        enrol(dir, &operator);
        let db = Db::open(dir).unwrap();
        let mut intake = operator.ready_intake(&db).await;
        intake.slice(operator.slice(4, services(&["db", "web"], false))).await.unwrap();
        let driver = FakeDriver::default();
        let (reconciler, handle) = Reconciler::new(Parts {
            driver: Arc::new(driver.clone()),
            journal: FileJournal::open(&dir.join("journal"), operator.keys.epoch.clone()).unwrap().journal,
            ledger: Ledger::new(db),
            lanes: Lanes::new(8),
            target: intake.target(),
        });
        let stop = CancellationToken::new();
        let task = tokio::spawn(reconciler.run(stop.clone()));
        crate::testing::until(&mut handle.state(), "applied", |s| s.settled_push.is_some()).await;
        stop.cancel();
        task.await.unwrap().unwrap();
        (operator, driver)
    }

    #[tokio::test]
    async fn everything_of_the_topology_goes_and_its_floor_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (_operator, driver) = host(dir.path()).await;
        let config = config(dir.path());
        let removal = Removal::of(&config, &Host::open(&config).unwrap()).unwrap().unwrap();
        assert_eq!(removal.topology().as_str(), "edge");
        assert_eq!(teardown(&config, removal, driver.clone()).await.unwrap(), []);
        driver.with(|fake| assert!(fake.engine.containers.is_empty() && fake.engine.networks.is_empty()));
        let ledger = Ledger::new(Db::open(dir.path()).unwrap());
        assert_eq!(ledger.current().unwrap(), None);
        assert_eq!(ledger.standing().unwrap().topology, None, "the hub will send its slice again");
        assert_eq!(ledger.floor(&TopologyId::parse("edge").unwrap()).unwrap().unwrap().generation.0, 4);
        assert!(Removal::of(&config, &Host::open(&config).unwrap()).unwrap().is_none());
    }

    #[tokio::test]
    async fn what_cannot_be_removed_is_told_and_the_ledger_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (_operator, driver) = host(dir.path()).await;
        let config = config(dir.path());
        driver.with(|fake| fake.fail.extend([("edge-web-1".to_owned(), DriverErrorKind::Permanent)]));
        let removal = Removal::of(&config, &Host::open(&config).unwrap()).unwrap().unwrap();
        let left = teardown(&config, removal.clone(), driver.clone()).await.unwrap();
        assert!(left.iter().any(|f| f.message.contains("edge-web-1")), "{left:?}");
        assert!(Ledger::new(Db::open(dir.path()).unwrap()).current().unwrap().is_some());
        driver.with(|fake| {
            fake.fail.clear();
            fake.unreachable = true;
        });
        let left = teardown(&config, removal, driver).await.unwrap();
        assert_eq!(left[0].code, Code::EngineUnreachable);
    }

    #[tokio::test]
    async fn a_folder_in_use_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let _ = host(dir.path()).await;
        let config = config(dir.path());
        let _running = Host::open(&config).unwrap();
        assert!(Host::open(&config).is_err());
    }
}
