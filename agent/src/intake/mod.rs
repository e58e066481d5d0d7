//! The intake: the only door for what operators signed. Envelope in, verified out, floors persisted
//! before anything acts.
//!
//! [`judge`] decides; this reads and stores. It never touches an engine: it hands the accepted slice on.

use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, VersionHash};
use moorline_common::plan::Identity;
use moorline_common::sign::{Envelope, Verified};
use moorline_common::statement::SliceStatement;
use moorline_common::topology::HostSpec;
use moorline_common::trust::TrustRoot;
use moorline_common::{id::sha256_hex, sign::Signed};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{BootTime, Clock};
use crate::config::Policy;
use crate::db::{DbError, blocking};
use crate::ledger::trial::TrialRow;
use crate::ledger::{Admission, Current, Floor, FloorState, Ledger};
use crate::trust::{Trust, TrustStore, next_root};
use crate::vault::Vault;

pub mod gate;
pub mod judge;
pub mod policy;
pub mod trial;

use judge::{Own, SliceContext, Time, Verdict};
use policy::Guarded;

/// An accepted slice: what the host shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Who plans for whom.
    pub identity: Identity,
    /// The desired state.
    pub spec: HostSpec,
    /// What the ledger records of it.
    pub admission: Admission,
    /// What the floor becomes once an empty slice is applied.
    pub when_gone: FloorState,
    /// The generation that was accepted: that of the admission, unless this came back in its place.
    pub accepted: Generation,
    /// What was applied last when it was accepted, if that is known.
    pub applied: Option<HostSpec>,
}

/// What the reconciler works towards.
#[derive(Debug, Clone, Default)]
pub struct Target {
    /// The accepted slice; `None` means: observe, change nothing.
    pub desired: Option<Arc<Desired>>,
    /// Counts the times that a slice was handed in, repeats included.
    pub pushes: u64,
}

/// The agent did not accept something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub fault: Fault,
    /// Lowercase hex SHA-256 of the payload (of the message's bytes when there is none).
    pub payload_sha256: String,
    /// What it was taken for: `slice`, `root`, `host-binding` or `op`.
    pub kind: &'static str,
}

/// By what a refusal of the message `json`, read as `envelope`, names it; see [`Refused::payload_sha256`].
#[must_use]
pub fn sha256_of_refused(envelope: &Result<Envelope, Fault>, json: &[u8]) -> String {
    envelope.as_ref().map_or_else(|_| sha256_hex(json), Envelope::payload_sha256)
}

/// What an intake is made of.
#[derive(Clone)]
pub struct Parts {
    /// Where slices and floors are kept.
    pub ledger: Ledger,
    /// Where roots and the binding are kept.
    pub trust_store: TrustStore,
    /// The pin of the first root.
    pub root_pin: String,
    /// This host.
    pub own: Own,
    /// What this host allows.
    pub policy: Policy,
    /// What no container may have.
    pub guarded: Guarded,
    /// Opens what is sealed to this host.
    pub vault: Arc<Vault>,
    /// Why nothing may be changed, if the agent's records are damaged.
    pub quarantine: Option<Fault>,
}

/// See the module. Clones are one door: what comes in by different ways is judged one at a time.
#[derive(Clone)]
pub struct Intake {
    parts: Parts,
    turn: Arc<Mutex<()>>,
    trust: watch::Sender<Arc<Trust>>,
    target: watch::Sender<Target>,
    trial: watch::Sender<u64>,
    released: CancellationToken,
}

impl Intake {
    /// Loads what was accepted before. Nothing is enforced yet.
    ///
    /// # Errors
    /// [`DbError`].
    pub fn open(parts: Parts) -> Result<Self, DbError> {
        let trust = parts.trust_store.load(&parts.root_pin, &parts.own.host_id)?;
        let (trust, _) = watch::channel(Arc::new(trust));
        let (target, _) = watch::channel(Target::default());
        let (trial, _) = watch::channel(0);
        Ok(Self { parts, turn: Arc::default(), trust, target, trial, released: CancellationToken::new() })
    }

    /// What the reconciler works towards.
    #[must_use]
    pub fn target(&self) -> watch::Receiver<Target> {
        self.target.subscribe()
    }

    /// Cancelled when an operator has ended the quarantine: the agent is to start anew.
    #[must_use]
    pub fn released(&self) -> CancellationToken {
        self.released.clone()
    }

    /// What the agent believes.
    #[must_use]
    pub fn trust(&self) -> watch::Receiver<Arc<Trust>> {
        self.trust.subscribe()
    }

    /// The door for orders.
    #[must_use]
    pub fn gate(&self) -> gate::Gate {
        gate::Gate {
            ledger: self.parts.ledger.clone(),
            trust: self.trust.subscribe(),
            target: self.target.subscribe(),
            trial: self.trial.clone(),
            own: self.parts.own.clone(),
            policy: self.parts.policy.clone(),
            quarantine: self.parts.quarantine.clone(),
        }
    }

    /// Takes in a slice.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn slice(&mut self, json: Vec<u8>) -> Result<(), Refused> {
        self.take("slice", json, async |intake: &mut Self, envelope| intake.accept_slice(envelope).await).await
    }

    /// Takes in a binding.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn binding(&mut self, json: Vec<u8>) -> Result<(), Refused> {
        self.take("host-binding", json, async |intake: &mut Self, envelope| intake.accept_binding(envelope).await).await
    }

    /// Takes in the next root.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn root(&mut self, json: Vec<u8>) -> Result<(), Refused> {
        self.take("root", json, async |intake: &mut Self, envelope| intake.accept_root(envelope).await).await
    }

    /// Takes in a root by hand. One that this host has walked already changes nothing; gives whether it was new.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn import_root(&mut self, json: Vec<u8>) -> Result<bool, Refused> {
        let before = self.trust.borrow().root_version();
        let accept = async |intake: &mut Self, envelope: Envelope| {
            if intake.has_walked(&envelope).await? { Ok(()) } else { intake.accept_root(envelope).await }
        };
        self.take("root", json, accept).await?;
        Ok(self.trust.borrow().root_version() > before)
    }

    /// Whether the root in `envelope` is one of those that led to the newest.
    async fn has_walked(&self, envelope: &Envelope) -> Result<bool, Fault> {
        let TrustRoot { cluster, version, .. } = Signed::<TrustRoot>::new(envelope.clone())?.peek()?;
        let trust = self.trust.borrow().clone();
        if let Some(root) = trust.root.as_ref().map(Verified::statement).filter(|root| root.cluster != cluster) {
            return Err(Fault::new(
                Code::WrongCluster,
                format!("the trust root is for cluster `{cluster}`, this host is of `{}`", root.cluster),
            ));
        }
        if version > trust.root_version() {
            return Ok(false);
        }
        let store = self.parts.trust_store.clone();
        let stored = blocking(move || store.root_row(version)).await.map_err(|e| internal(&e))?;
        let stored = stored.map(|json| Envelope::from_json(&json)).transpose()?;
        match stored {
            Some(stored) if stored.payload == envelope.payload => Ok(true),
            Some(_) => Err(Fault::new(Code::Equivocation, format!("this host has accepted another trust root of version {version}"))),
            None => Ok(false),
        }
    }

    /// Enforces the stored slice without the hub, after verifying it anew. Returns whether there is one.
    ///
    /// # Errors
    /// [`Fault`] when it is refused.
    pub async fn enforce_stored(&mut self) -> Result<bool, Fault> {
        let Some(held) = self.held().await? else { return Ok(false) };
        let turn = self.turn.clone();
        let _turn = turn.lock().await;
        self.accept_slice(held).await?;
        Ok(true)
    }

    async fn take<F>(&mut self, kind: &'static str, json: Vec<u8>, accept: F) -> Result<(), Refused>
    where
        F: AsyncFnOnce(&mut Self, Envelope) -> Result<(), Fault>,
    {
        let envelope = Envelope::from_json(&json);
        let payload_sha256 = sha256_of_refused(&envelope, &json);
        drop(json);
        let turn = self.turn.clone();
        let _turn = turn.lock().await;
        let result = match envelope {
            Ok(envelope) => accept(self, envelope).await,
            Err(fault) => Err(fault),
        };
        result.map_err(|fault| {
            tracing::warn!(kind, code = %fault.code, error = %fault.message, "refused a signed statement");
            Refused { fault, payload_sha256, kind }
        })
    }

    /// Takes a slice in. One that waits for a maintenance window says, too, that the host still follows its topology: what it holds is
    /// enforced until then.
    async fn accept_slice(&mut self, envelope: Envelope) -> Result<(), Fault> {
        let accepted = self.judge_and_admit(envelope).await;
        if let Err(fault) = &accepted
            && fault.code == Code::OutsideMaintenance
            && self.target.borrow().desired.is_none()
            && let Ok(Some(held)) = self.held().await
            && let Err(fault) = self.judge_and_admit(held).await
        {
            tracing::warn!(code = %fault.code, error = %fault.message, "what this host holds cannot be enforced until the window opens");
        }
        accepted
    }

    /// The slice that was accepted last, if it is in force.
    async fn held(&self) -> Result<Option<Envelope>, Fault> {
        let ledger = self.parts.ledger.clone();
        let stored = blocking(move || ledger.accepted()).await.map_err(|e| internal(&e))?;
        stored.filter(|f| f.state == FloorState::Active).map(|floor| Envelope::from_json(&floor.envelope)).transpose()
    }

    async fn judge_and_admit(&mut self, envelope: Envelope) -> Result<(), Fault> {
        crate::crash::point("intake.slice.before");
        let trust = self.trust.borrow().clone();
        if let Some(fault) = &self.parts.quarantine {
            return Err(fault.clone());
        }
        let (slice, spec) = judge::verify_slice(envelope, &trust, &self.parts.own)?;
        let parts = self.parts.clone();
        let (desired, verdict) = blocking(move || {
            let (statement, Parts { ledger, vault, .. }) = (slice.statement(), &parts);
            // One that was given up is never tried again: its fallback is in force.
            let trial = ledger.trial()?;
            let back = trial::given_up(trial.as_ref(), statement);
            let (mut desired, sealed) = match back {
                Some(row) => trial::base(&parts, &trust, &slice, row)?,
                None => (desired_of(&slice, spec), statement.sealed.clone()),
            };
            let floor = ledger.floor(&statement.topology)?;
            let (current, pinned) = (ledger.current()?, ledger.pinned()?);
            let boot = Clock.boot();
            let time = time_at(ledger, &boot)?;
            let in_force = floor.as_ref().and_then(|floor| in_force(floor, trial.as_ref()));
            let context = SliceContext {
                floor: floor.as_ref(),
                in_force: in_force.as_ref(),
                wall: boot.wall,
                pinned: pinned.as_ref(),
                policy: &parts.policy,
                guarded: &parts.guarded,
                resolve: policy::resolve,
                time,
            };
            let verdict = judge::judge_slice(&slice, &desired.spec, &trust, context)?;
            vault.check(&desired.spec, &sealed)?;
            let admission = &mut desired.admission;
            desired.applied = current.as_ref().filter(|row| is_whole(row, floor.as_ref())).and_then(Current::applied);
            if back.is_some() {
                ledger.keep_back(admission)?;
            } else {
                admission.content_since = Floor::content_since(floor.as_ref(), &admission.version_hash, admission.generation);
                // A known slice whose row was lost, or that was taken down on the host itself, gets its rows again.
                if verdict == Verdict::New || (current.is_none() && !admission.is_empty) {
                    ledger.admit(admission, &boot)?;
                }
            }
            vault.offer(&sealed);
            Ok::<_, IntakeError>((Arc::new(desired), verdict))
        })
        .await
        .map_err(Fault::from)?;
        tracing::info!(
            topology = %desired.identity.topology, generation = %desired.accepted, enforced = %desired.admission.generation,
            hash = desired.admission.version_hash.short(), new = verdict == Verdict::New, "accepted a slice"
        );
        crate::crash::point("intake.slice.after");
        self.target.send_modify(|t| *t = Target { desired: Some(desired), pushes: t.pushes + 1 });
        self.tell_of_trial();
        if self.trust.borrow().frozen.is_some() {
            self.trust.send_modify(|t| *t = Arc::new(Trust { frozen: None, ..Trust::clone(t) }));
        }
        Ok(())
    }

    async fn accept_binding(&mut self, envelope: Envelope) -> Result<(), Fault> {
        let trust = self.trust.borrow().clone();
        let (store, ledger) = (self.parts.trust_store.clone(), self.parts.ledger.clone());
        let read = move || Ok::<_, DbError>((store.binding_floor()?, time_at(&ledger, &Clock.boot())?));
        let (floor, time) = blocking(read).await.map_err(|e| internal(&e))?;
        let (binding, verdict) = judge::judge_binding(envelope, &trust, &self.parts.own, floor.as_ref(), time)?;
        if verdict == Verdict::Known {
            return Ok(());
        }
        let (store, ledger, stored) = (self.parts.trust_store.clone(), self.parts.ledger.clone(), binding.clone());
        blocking(move || {
            store.put_binding(&stored)?;
            ledger.advance_time_floor(stored.statement().issued_at, &Clock.boot())
        })
        .await
        .map_err(|e| internal(&e))?;
        tracing::info!(serial = binding.statement().serial, name = %binding.statement().name, "accepted a host-binding");
        if self.parts.quarantine.is_some() {
            // It names the life that began with the quarantine: an operator has ended it.
            self.released.cancel();
        }
        self.trust.send_modify(|t| *t = Arc::new(Trust { binding: Some(binding), ..Trust::clone(t) }));
        Ok(())
    }

    async fn accept_root(&mut self, envelope: Envelope) -> Result<(), Fault> {
        let trust = self.trust.borrow().clone();
        Signed::<TrustRoot>::new(envelope.clone())?;
        if trust.root.as_ref().is_some_and(|r| r.envelope().payload == envelope.payload) {
            return Ok(());
        }
        let root = next_root(trust.root.as_ref().map(Verified::statement), &self.parts.root_pin, envelope)?;
        let ledger = self.parts.ledger.clone();
        let time = blocking(move || time_at(&ledger, &Clock.boot())).await.map_err(|e| internal(&e))?;
        judge::check_issued(root.statement().issued_at, time)?;
        let (store, ledger, stored) = (self.parts.trust_store.clone(), self.parts.ledger.clone(), root.clone());
        blocking(move || {
            store.put_root(&stored)?;
            ledger.advance_time_floor(stored.statement().issued_at, &Clock.boot())
        })
        .await
        .map_err(|e| internal(&e))?;
        tracing::info!(version = root.statement().version, "accepted a trust root");
        self.adopt_root(root);
        Ok(())
    }

    /// Puts a new root in force. A binding or slice that it no longer covers is no longer acted on:
    /// the host freezes, it is never torn down.
    fn adopt_root(&mut self, root: Verified<TrustRoot>) {
        let held = self.trust.borrow().binding.clone();
        let own = &self.parts.own;
        let again = held.map(|held| {
            let signed = Signed::new(held.envelope().clone());
            signed.and_then(|signed| root.statement().verify_binding(signed, Some(&own.host_id)))
        });
        let (binding, lost) = match again.transpose() {
            Ok(binding) => (binding, None),
            Err(fault) => (None, Some(fault)),
        };
        let frozen = self.trust.borrow().frozen.clone();
        let mut trust = Trust { root: Some(root), binding, frozen };
        let desired = self.target.borrow().desired.clone();
        if let Some(desired) = desired {
            let again = Envelope::from_json(&desired.admission.envelope).and_then(|e| judge::verify_slice(e, &trust, own));
            if let Err(fault) = again {
                let fault = lost.unwrap_or(fault);
                tracing::warn!(code = %fault.code, error = %fault.message, "the new trust root does not cover the accepted slice; the host stays as it is");
                self.target.send_modify(|t| t.desired = None);
                trust.frozen = Some(fault);
            }
        }
        self.trust.send_replace(Arc::new(trust));
    }
}

/// Whether the slice that was accepted last is applied as a whole: of one that came only so far nobody can tell what it made, and what
/// is missing was not removed.
fn is_whole(current: &Current, accepted: Option<&Floor>) -> bool {
    accepted.is_some_and(|floor| floor.generation == current.generation && floor.version_hash_is(current))
}

/// The content that a host has by what it accepted last: that of its fallback, if it has gone back.
fn in_force(accepted: &Floor, trial: Option<&TrialRow>) -> Option<VersionHash> {
    if accepted.state != FloorState::Active {
        return None;
    }
    match trial.filter(|row| row.is_used() && row.is_of(&accepted.topology, accepted.generation)) {
        Some(row) => row.base.1.clone(),
        None => Some(accepted.version_hash.clone()),
    }
}

/// What time it is at `boot`, by the wall clock and the ledger's floor.
fn time_at(ledger: &Ledger, boot: &BootTime) -> Result<Time, DbError> {
    let floor = ledger.time_floor()?;
    Ok(Time { now: boot.wall.max(floor.now(boot)), horizon: floor.horizon(boot) })
}

fn desired_of(slice: &Verified<SliceStatement>, spec: HostSpec) -> Desired {
    let statement = slice.statement();
    Desired {
        identity: Identity { cluster: statement.cluster.clone(), host_id: statement.host_id.clone(), topology: statement.topology.clone() },
        admission: Admission {
            topology: statement.topology.clone(),
            generation: statement.generation,
            payload_sha256: slice.envelope().payload_sha256(),
            version_hash: statement.version_hash.clone(),
            // Until the floor is known.
            content_since: statement.generation,
            hydrated: statement.content.to_string(),
            envelope: slice.envelope().to_json(),
            is_empty: spec.is_empty(),
            issued_at: statement.issued_at,
            fallback: statement.fallback.clone(),
        },
        spec,
        when_gone: FloorState::TornDown,
        accepted: statement.generation,
        applied: None,
    }
}

/// What can stop an admission.
enum IntakeError {
    Refused(Fault),
    Db(DbError),
}

impl From<Fault> for IntakeError {
    fn from(fault: Fault) -> Self {
        IntakeError::Refused(fault)
    }
}

impl From<DbError> for IntakeError {
    fn from(error: DbError) -> Self {
        IntakeError::Db(error)
    }
}

impl From<IntakeError> for Fault {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Refused(fault) => fault,
            IntakeError::Db(error) => internal(&error),
        }
    }
}

fn internal(error: &DbError) -> Fault {
    tracing::error!(%error, "the ledger failed");
    let code = if matches!(error, DbError::Full) { Code::DiskFull } else { Code::Internal };
    Fault::new(code, error.to_string())
}

#[cfg(test)]
mod tests;
