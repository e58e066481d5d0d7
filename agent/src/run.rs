//! Puts the parts together and runs them until they are told to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::UnixSeconds;
use moorline_common::op::{OpEntry, Origin, State};
use moorline_common::trust::Ending;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Sources};
use crate::clock::{Clock, Skew};
use crate::config::{Config, Offline};
use crate::db::{DbError, blocking};
use crate::driver::{Driver, Ownership};
use crate::identity::{Enrolment, HostKeys, IdentityError, Lock, StateDir};
use crate::intake::policy::Guarded;
use crate::intake::{self, Intake, judge::Own};
use crate::journal::file::FileJournal;
use crate::journal::{Entry, HostJournal, Journal as _, JournalError};
use crate::lane::Lanes;
use crate::ledger::Ledger;
use crate::limits::{EXPIRY_WARNING_INTERVAL, FLOOR_SAVE_INTERVAL};
use crate::link::{self, Link};
use crate::ops::{self, Ops};
use crate::reconcile::{self, Reconciler};
use crate::records::{self, RecordsError};
use crate::trial::Trials;
use crate::trust::{Trust, TrustStore};
use crate::vault::Vault;

/// Why the agent could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Keys, certificate or lock.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The ledger.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Ledger or trust store at the start.
    #[error(transparent)]
    Records(#[from] records::RecordsError),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The admin socket.
    #[error("the admin socket cannot be opened: {0}")]
    Admin(#[source] std::io::Error),
    /// A part ended that never should.
    #[error("a part has stopped ({0}); its last words are in the log")]
    Stopped(&'static str),
}

/// Who this host is: loaded once, before anything runs.
pub struct Host {
    _lock: Lock,
    state_dir: StateDir,
    enrolment: Enrolment,
    keys: HostKeys,
    vault: Arc<Vault>,
}

/// Why [`run`] ended without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// An operator has ended the quarantine: open the host and run again.
    Released,
    /// The host's records are older than what the hub has seen of them: quarantine the host and run again.
    Behind(String),
}

impl Host {
    /// Takes the state folder for this process and reads who the host is.
    ///
    /// # Errors
    /// [`IdentityError`]: not joined, in use by another agent, or damaged.
    pub fn open(config: &Config) -> Result<Self, IdentityError> {
        let state_dir = StateDir(config.state.clone());
        // Before the lock: a service that waits to be joined must not stand in the way of `join`.
        let enrolment = state_dir.joined()?;
        state_dir.ensure()?;
        let lock = state_dir.lock()?;
        let mut keys = state_dir.keys()?.ok_or(IdentityError::NotJoined)?;
        state_dir.live_on(&mut keys)?;
        let vault = Arc::new(Vault::new(&config.secrets_dir, &config.state, &keys)?);
        Ok(Self { _lock: lock, state_dir, enrolment, keys, vault })
    }

    /// Begins the host's next life, in which nothing is changed until an operator binds it.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn enter_quarantine(&mut self, reason: &str) -> Result<(), IdentityError> {
        self.state_dir.enter_quarantine(&mut self.keys, reason)
    }

    /// What is sealed to this host, for its containers: what the intake accepts, the driver finds there.
    #[must_use]
    pub fn vault(&self) -> Arc<Vault> {
        self.vault.clone()
    }

    /// By what the driver knows our objects.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        Ownership { cluster: self.enrolment.cluster.clone(), host_id: self.keys.host_id(), known: Arc::default() }
    }
}

/// The door for signed statements while no agent runs, and whose lock the caller holds by `host`. Nothing acts on what it
/// takes in.
///
/// # Errors
/// [`RunError`].
pub fn open_intake(config: &Config, host: &mut Host) -> Result<Intake, RunError> {
    let db = records::open(&host.state_dir, &mut host.keys, &host.enrolment.root_pin)?;
    Ok(Intake::open(intake::Parts {
        ledger: Ledger::new(db.clone()),
        trust_store: TrustStore::new(db),
        root_pin: host.enrolment.root_pin.clone(),
        own: Own::of(&host.keys),
        policy: config.policy.clone(),
        guarded: guarded(config),
        vault: host.vault(),
        quarantine: None,
    })?)
}

/// Runs the agent on `driver` until `shutdown`.
///
/// # Errors
/// [`RunError`].
pub async fn run<D: Driver>(config: Config, mut host: Host, driver: D, shutdown: CancellationToken) -> Result<Ended, RunError> {
    let vault = host.vault();
    // Before anybody is told that the agent is up: an engine that starts behind it finds them.
    vault.put_all_back();
    let db = records::open(&host.state_dir, &mut host.keys, &host.enrolment.root_pin)?;
    let (ledger, trust_store) = (Ledger::new(db.clone()), TrustStore::new(db));
    let (journal, quarantine) = open_journal(&config, &mut host, &trust_store).await?;
    let keys = Arc::new(host.keys);
    let own = Own::of(&keys);
    let mut intake = Intake::open(intake::Parts {
        ledger: ledger.clone(),
        trust_store: trust_store.clone(),
        root_pin: host.enrolment.root_pin.clone(),
        own: own.clone(),
        policy: config.policy.clone(),
        guarded: guarded(&config),
        vault: vault.clone(),
        quarantine: quarantine.clone(),
    })?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"), state = %config.state.display(), driver = driver.name(), cluster = %host.enrolment.cluster,
        host = %host.enrolment.name, fingerprint = %keys.claim(host.enrolment.name.clone()).fingerprint(), hubs = ?host.enrolment.hubs,
        "starting"
    );
    enforce_stored(&mut intake, &ledger, config.offline).await?;
    let (driver_name, pulls, lanes, driver) = (driver.name(), driver.pulls(), Lanes::new(driver.parallelism()), Arc::new(driver));
    let (reconciler, handle) = Reconciler::new(reconcile::Parts {
        driver: driver.clone(),
        journal: journal.clone(),
        ledger: ledger.clone(),
        lanes: lanes.clone(),
        target: intake.target(),
    });
    let parts = ops::Parts { driver: driver.clone(), journal: journal.clone(), lanes, gate: intake.gate(), reconciler: handle.clone() };
    let (ops, ops_handle) = Ops::new(parts);
    // Before anything else takes a turn: what was accepted comes first.
    ops.recover().await?;
    let trials = Trials::new(intake.clone(), ledger.clone(), handle.clone());
    let (door, trust, target, released) = (intake.clone(), intake.trust(), intake.target(), intake.released());
    let (link, link_state) = Link::new(link::Parts {
        state_dir: host.state_dir.clone(),
        enrolment: host.enrolment.clone(),
        keys: keys.clone(),
        intake,
        ledger: ledger.clone(),
        trust_store,
        journal: journal.clone(),
        reconciler: handle.clone(),
        pulls,
        ops: ops_handle,
        own,
        logs: if config.policy.logs { Some(driver) } else { None },
        driver: driver_name,
        quarantine: quarantine.clone(),
    });
    let sources = Sources {
        enrolment: host.enrolment.clone(),
        host_id: keys.host_id().to_string(),
        fingerprint: keys.claim(host.enrolment.name.clone()).fingerprint(),
        driver: driver_name,
        ledger: ledger.clone(),
        state: handle.state(),
        intake: door,
        target,
        link: link_state,
        quarantine,
    };
    let listener = admin::bind(&config.state).map_err(RunError::Admin)?;
    tracing::info!(socket = %config.state.join(admin::SOCKET).display(), "the admin socket is open");
    let parts = Running { reconciler, ops, link, trials, journal, ledger, trust, released };
    parts.supervise(admin::serve(listener, sources, shutdown.clone()), shutdown).await
}

/// Enforces what was accepted before without the hub, if this host is to: by its configuration, or as long as what was accepted may
/// have to be given up.
async fn enforce_stored(intake: &mut Intake, ledger: &Ledger, offline: Offline) -> Result<(), DbError> {
    if offline != Offline::Enforce && !ledger.is_on_trial()? {
        return Ok(());
    }
    match intake.enforce_stored().await {
        Ok(found) => tracing::info!(found, "enforcing the stored slice without waiting for the hub"),
        Err(fault) => tracing::warn!(code = %fault.code, error = %fault.message, "the stored slice is not enforced"),
    }
    Ok(())
}

/// The parts that run side by side.
struct Running<D, J> {
    reconciler: Reconciler<D, J>,
    ops: Ops<D, J>,
    link: Link<J>,
    trials: Trials,
    journal: J,
    ledger: Ledger,
    trust: watch::Receiver<Arc<Trust>>,
    released: CancellationToken,
}

impl<D: Driver> Running<D, HostJournal> {
    /// Runs every part until `shutdown`, or until one can't go on.
    async fn supervise(self, admin: impl Future<Output = ()> + Send + 'static, shutdown: CancellationToken) -> Result<Ended, RunError> {
        let Self { reconciler, ops, link, trials, journal, ledger, trust, released } = self;
        let stop = shutdown.child_token();
        let mut reconcile_task = tokio::spawn(reconciler.run(stop.clone()));
        let mut ops_task = tokio::spawn(ops.run(stop.clone()));
        let mut link_task = tokio::spawn(link.run(stop.clone()));
        let mut trials_task = tokio::spawn(trials.run(stop.clone()));
        let admin_task = tokio::spawn(admin);
        let (damaged, house_task) = (ledger.clone(), tokio::spawn(keep_house(ledger, trust)));
        notify(&[sd_notify::NotifyState::Ready]);
        let result = tokio::select! {
            // First: parts that end because they were told to have not failed.
            biased;
            () = shutdown.cancelled() => Ok(Ended::Stopped),
            () = released.cancelled() => Ok(Ended::Released),
            error = journal.failed() => Err(RunError::Journal(error)),
            // The next start puts it aside and quarantines the host.
            error = damaged.damaged() => Err(RunError::Db(DbError::Damaged(error))),
            result = &mut reconcile_task => Err(match result {
                Ok(Err(error)) => RunError::Journal(error),
                Ok(Ok(())) | Err(_) => RunError::Stopped("reconciler"),
            }),
            ended = &mut link_task => match ended {
                Ok(Some(reason)) => Ok(Ended::Behind(reason)),
                Ok(None) | Err(_) => Err(RunError::Stopped("link")),
            },
            _ = &mut trials_task => Err(RunError::Stopped("trials")),
            // After the link: without it nobody hands orders in.
            _ = &mut ops_task => Err(RunError::Stopped("operations")),
        };
        notify(&[sd_notify::NotifyState::Stopping]);
        stop.cancel();
        if result.is_ok() {
            tracing::info!("stopping; workloads stay as they are");
            let _ = reconcile_task.await;
            let _ = trials_task.await;
            let _ = ops_task.await;
            if !matches!(result, Ok(Ended::Behind(_))) {
                let _ = link_task.await;
            }
        }
        for task in [admin_task, house_task] {
            task.abort();
        }
        tracing::info!(clean = result.is_ok(), "stopped");
        result
    }
}

/// What no container gets.
fn guarded(config: &Config) -> Guarded {
    let folders = vec![config.state.clone(), config.secrets_dir.clone()];
    Guarded { engine_sockets: socket_paths(&config.docker_socket), folders }
}

/// The socket's path, and what it is when symbolic links are resolved.
fn socket_paths(socket: &Path) -> Vec<PathBuf> {
    let mut paths = vec![socket.to_owned()];
    // The file may not be there yet; its folder is what links usually lead to.
    let real = socket.canonicalize().or_else(|_| {
        Ok::<_, std::io::Error>(match (socket.parent(), socket.file_name()) {
            (Some(folder), Some(name)) => folder.canonicalize()?.join(name),
            _ => socket.to_owned(),
        })
    });
    paths.extend(real);
    paths
}

/// Saves the time floor now and then, warns of the trust root's end once a day, and tells the service manager that the agent
/// lives.
async fn keep_house(ledger: Ledger, trust: watch::Receiver<Arc<Trust>>) {
    let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
    let mut floor = tokio::time::interval(FLOOR_SAVE_INTERVAL);
    let mut daily = tokio::time::interval(EXPIRY_WARNING_INTERVAL);
    let mut alive = tokio::time::interval(watchdog.unwrap_or(FLOOR_SAVE_INTERVAL).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            _ = floor.tick() => {
                let ledger = ledger.clone();
                let boot = Clock.boot();
                let (wall, saved) = (boot.wall, blocking(move || {
                    ledger.advance_time_floor(UnixSeconds(0), &boot)?;
                    ledger.time_floor()
                }).await);
                match saved {
                    Ok(floor) => if let Some(skew) = Skew::of(floor.at, wall) {
                        tracing::error!(%skew, "the clock is far from what this host knows about time");
                    },
                    Err(error) => tracing::error!(%error, "the time floor could not be saved"),
                }
            }
            _ = daily.tick() => warn_of_expiry(&trust.borrow()),
            _ = alive.tick() => if watchdog.is_some() { notify(&[sd_notify::NotifyState::Watchdog]) },
        }
    }
}

fn warn_of_expiry(trust: &Trust) {
    let Some(root) = trust.root.as_ref().map(|r| r.statement()) else { return };
    let (version, expires) = (root.version, root.expires.0);
    match root.ends_soon(Clock.wall()) {
        None => {}
        Some(Ending::Soon) => tracing::warn!(version, expires, "the trust root expires soon; an operator is to sign its next version"),
        Some(Ending::Over) => tracing::warn!(version, expires, "the trust root has expired; nothing new but its next version is accepted"),
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(states);
}

/// Opens the journal. Damage does not stop the agent: it heartbeats, changes nothing and says why, until an operator
/// binds the life of the host that began with the damage.
async fn open_journal(config: &Config, host: &mut Host, store: &TrustStore) -> Result<(HostJournal, Option<Fault>), RunError> {
    let dir = config.state.join(records::JOURNAL);
    if let Some(quarantine) = host.state_dir.quarantine()? {
        let binding = store.load(&host.enrolment.root_pin, &host.keys.host_id())?.binding;
        if binding.is_none_or(|b| b.statement().host_epoch != quarantine.epoch) {
            return Ok(quarantined(dir, quarantine.reason));
        }
        let [aside] = host.state_dir.free_names(Clock.wall(), |at| [format!("journal.damaged-{at}", at = at.0)])?;
        match std::fs::rename(&dir, &aside) {
            // Done already, before a crash.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            result => result.map_err(|e| JournalError::Unreadable { path: dir.clone(), reason: e.to_string() })?,
        }
        host.state_dir.leave_quarantine()?;
        tracing::info!(aside = %aside.display(), "an operator has ended the quarantine; the damaged journal was put aside");
    }
    match records::open_journal(&host.state_dir, &host.keys.epoch) {
        Ok(opened) => {
            if let Some(aside) = opened.torn {
                tracing::warn!(aside = %aside.display(), "the journal's last write was cut short; its remains were put aside");
            }
            if let Some(damage) = opened.sealed_damage {
                tracing::error!(%damage, "closed history is damaged; nothing depends on it any more");
            }
            close_open_steps(&opened.journal).await?;
            Ok((HostJournal::Sound(opened.journal), None))
        }
        Err(RecordsError::Journal(error @ JournalError::Damaged { .. })) => {
            host.state_dir.enter_quarantine(&mut host.keys, &error.to_string())?;
            Ok(quarantined(dir, error.to_string()))
        }
        Err(RecordsError::Journal(error)) => Err(error.into()),
        Err(error) => Err(error.into()),
    }
}

fn quarantined(path: PathBuf, reason: String) -> (HostJournal, Option<Fault>) {
    tracing::error!(%reason, "quarantined");
    let fault = Fault::new(Code::Quarantined, reason.clone());
    (HostJournal::Damaged(JournalError::Unreadable { path, reason }), Some(fault))
}

/// A step of a reconcile pass that was interrupted is never in doubt: the host is observed and planned anew.
async fn close_open_steps(journal: &FileJournal) -> Result<(), JournalError> {
    let open: Vec<OpEntry> = journal.read(|book| book.open().filter(|e| e.first.origin() == Origin::Slice).cloned().collect());
    let mut entries = Vec::new();
    for OpEntry { last, .. } in open {
        let (Ok(op_id), Ok(resource)) = (last.op_id.parse(), moorline_common::id::ResourceId::parse(last.resource.as_str())) else {
            continue;
        };
        tracing::info!(%resource, kind = %last.kind, "a step was interrupted; the host is looked at anew");
        let fault = Fault::new(Code::StepFailed, "the agent stopped before this ended");
        entries.push(Entry { task: last.task.clone(), fault: Some(fault), ..Entry::step(op_id, resource, "interrupted", State::Failed) });
    }
    if !entries.is_empty() {
        journal.append(entries).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Db;
    use crate::journal::segment;
    use crate::limits::JOURNAL_READ_MAX;
    use crate::testing::{FakeDriver, Operator, config, enrol, services, until};
    use tokio::task::JoinHandle;

    #[tokio::test(start_paused = true)]
    async fn the_time_that_passes_is_saved_for_the_next_boot() {
        let dir = tempfile::tempdir().unwrap();
        let (operator, db) = (Operator::new(dir.path()), Db::open(dir.path()).unwrap());
        let clocks = crate::clock::set::Clocks::new(UnixSeconds(crate::testing::NOW));
        let intake = operator.ready_intake(&db).await;
        let ledger = Ledger::new(db);
        let house = tokio::spawn(keep_house(ledger.clone(), intake.trust()));
        tokio::time::sleep(10 * FLOOR_SAVE_INTERVAL).await;
        house.abort();
        clocks.reboot();
        let known = ledger.time_floor().unwrap().now(&Clock.boot());
        assert!(known >= UnixSeconds(crate::testing::NOW).plus(9 * FLOOR_SAVE_INTERVAL.as_secs()), "{known:?}");
    }

    #[tokio::test]
    async fn a_journal_that_the_disk_does_not_give_ends_the_agent_and_begins_no_new_life() {
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::new(dir.path());
        enrol(dir.path(), &operator);
        let (config, store) = (config(dir.path()), TrustStore::new(Db::open(dir.path()).unwrap()));
        let mut host = Host::open(&config).unwrap();
        let before = host.keys.epoch.clone();
        let path = dir.path().join("journal").join(segment::file_name(1));
        std::fs::create_dir_all(&path).unwrap();
        assert!(matches!(open_journal(&config, &mut host, &store).await, Err(RunError::Journal(JournalError::Unreadable { .. }))));
        assert_eq!((host.state_dir.quarantine().unwrap(), &host.keys.epoch), (None, &before));

        std::fs::remove_dir(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(JOURNAL_READ_MAX + 1).unwrap();
        assert!(open_journal(&config, &mut host, &store).await.unwrap().1.is_some(), "one that no agent wrote is damage");
        assert_ne!(host.keys.epoch, before);
    }

    #[tokio::test]
    async fn a_damaged_journal_quarantines_the_host_until_an_operator_binds_its_new_life() {
        let dir = tempfile::tempdir().unwrap();
        let operator = Operator::new(dir.path());
        enrol(dir.path(), &operator);
        let (config, db) = (config(dir.path()), Db::open(dir.path()).unwrap());
        let store = TrustStore::new(db.clone());
        drop(operator.ready_intake(&db).await);
        let mut host = Host::open(&config).unwrap();
        let (journal, fault) = open_journal(&config, &mut host, &store).await.unwrap();
        assert_eq!(fault, None);
        drop(journal);
        let path = dir.path().join("journal").join(segment::file_name(1));
        std::fs::write(&path, "not a record\n").unwrap();

        let before = host.keys.epoch.clone();
        for _ in 0..2 {
            let (journal, fault) = open_journal(&config, &mut host, &store).await.unwrap();
            assert_eq!(fault.unwrap().code, Code::Quarantined);
            assert!(journal.append(Vec::new()).await.is_err());
        }
        let epoch = host.keys.epoch.clone();
        assert_ne!(epoch, before);
        assert_eq!(host.state_dir.keys().unwrap().unwrap().epoch, epoch, "one new life, kept on disk");
        // A journal put back by hand does not end it.
        std::fs::write(&path, "").unwrap();
        assert!(open_journal(&config, &mut host, &store).await.unwrap().1.is_some());

        drop(host);
        let operator = Operator::new(dir.path());
        let mut intake = operator.intake(&db);
        intake.root(operator.root.envelope().to_json()).await.unwrap();
        intake.binding(operator.binding(|b| b.serial = 2)).await.unwrap();
        let mut host = Host::open(&config).unwrap();
        assert_eq!(open_journal(&config, &mut host, &store).await.unwrap().1, None);
        assert!(host.state_dir.quarantine().unwrap().is_none());
        let aside = std::fs::read_dir(dir.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("journal.damaged"));
        assert_eq!(aside.count(), 1);
    }

    /// A reconciler that has accepted a slice of two services, on a journal that takes nothing.
    async fn reconcile_on(dir: &Path, refusal: JournalError) -> (FakeDriver, reconcile::Handle, JoinHandle<Result<(), JournalError>>) {
        let (operator, db, driver) = (Operator::new(dir), Db::open(dir).unwrap(), FakeDriver::default());
        let mut intake = operator.ready_intake(&db).await;
        intake.slice(operator.slice(1, services(&["db", "web"], false))).await.unwrap();
        let (reconciler, handle) = Reconciler::new(reconcile::Parts {
            driver: Arc::new(driver.clone()),
            journal: HostJournal::Damaged(refusal),
            ledger: Ledger::new(db),
            lanes: Lanes::new(driver.parallelism()),
            target: intake.target(),
        });
        let task = tokio::spawn(reconciler.run(CancellationToken::new()));
        (driver, handle, task)
    }

    #[tokio::test]
    async fn what_cannot_be_recorded_does_not_begin() {
        let dir = tempfile::tempdir().unwrap();
        let refusal = JournalError::Unreadable { path: "journal".into(), reason: "it is damaged".to_owned() };
        let (driver, handle, task) = reconcile_on(dir.path(), refusal).await;
        let state = until(&mut handle.state(), "trouble is told", |s| !s.apply.troubles.is_empty()).await;
        assert!(state.apply.troubles.iter().any(|t| t.message.contains("it is damaged")), "{:?}", state.apply.troubles);
        // Two looks later all that was submitted would have begun.
        for _ in 0..2 {
            handle.look();
            driver.observed_again().await;
        }
        assert_eq!(driver.calls(), Vec::<String>::new());
        task.abort();
    }

    #[tokio::test]
    async fn a_record_that_could_not_be_written_ends_the_work_before_its_step() {
        let dir = tempfile::tempdir().unwrap();
        let (driver, _handle, task) = reconcile_on(dir.path(), JournalError::Failed("no space left".to_owned())).await;
        let ended = tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
        assert!(matches!(ended, Err(JournalError::Failed(_))));
        assert_eq!(driver.calls(), Vec::<String>::new());
    }
}
