//! What the hub must not forget, in the domain's own verbs. Each verb is atomic: it happens with its
//! audit row, or not at all.
//!
//! The store checks what only it can check (uniqueness, base generations, who targets a host);
//! signatures and shapes are the services' to check before.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::BoxFuture;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostEpoch, HostId, OpId, ResourceId, SagaId, TopologyId, UnixSeconds, VersionHash};
use moorline_common::rollout::Act;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::Actor;
use crate::events::{Event, NewEvent};

mod cloud;
#[cfg(test)]
pub(crate) mod conformance;
mod drift;
mod hosts;
mod ops;
mod rollouts;
mod sagas;
pub mod sqlite;

pub use cloud::{CloudKind, NewProvisioned, ProvisionedRecord, ResourceEvent, ResourceRecord, SeenResource};
pub use drift::{CloudSweep, DriftQuery, DriftRecord, DriftReport, DriftStatus, Scope, ShownDrift};
pub use hosts::{Cordon, HostRecord, HostState, JoinAttempt, JoinOutcome, NewBinding, NewToken, RenewOutcome};
pub use ops::{Advance, DueOp, NewOp, OpChange, OpQuery, OpRecord, UnknownOp, Witness};
pub use rollouts::{NewRollout, RolloutChange, RolloutHost, RolloutRecord};
pub use sagas::{NewSaga, SagaAdvance, SagaChange, SagaEvidence, SagaOrder, SagaQuery, SagaRecord};

/// Why a verb did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The store's rules forbid it.
    #[error(transparent)]
    Refused(#[from] Fault),
    /// The store itself failed; nothing was changed.
    #[error("the store failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// The fault to show; the store's own words stay in the log.
    #[must_use]
    pub fn into_fault(self) -> Fault {
        match self {
            StoreError::Refused(fault) => fault,
            StoreError::Failed(reason) => {
                tracing::error!(reason, "the store failed");
                Fault::new(Code::Internal, "the hub's store failed; its log has more")
            }
        }
    }
}

/// The result of a verb.
pub type Result<T> = std::result::Result<T, StoreError>;
/// A verb under way.
pub type Verb<'a, T> = BoxFuture<'a, Result<T>>;

/// A trust root to be stored.
#[derive(Debug, Clone)]
pub struct NewRoot {
    /// Its version.
    pub version: u64,
    /// Its payload's hash.
    pub payload_sha256: String,
    /// The envelope's JSON.
    pub envelope: Vec<u8>,
}

/// A slice to be stored; its signatures have been checked.
#[derive(Debug, Clone)]
pub struct NewSlice {
    /// The host.
    pub host_id: HostId,
    /// The hash of its content.
    pub version_hash: VersionHash,
    /// Its payload's hash.
    pub payload_sha256: String,
    /// Whether it tears down.
    pub empty: bool,
    /// What must be present once it is applied.
    pub resources: BTreeSet<ResourceId>,
    /// The envelope's JSON.
    pub envelope: Vec<u8>,
}

/// A revision to be stored with all its slices.
#[derive(Debug, Clone)]
pub struct NewRevision {
    /// The topology.
    pub topology: TopologyId,
    /// The generation that it was made from; the new one is the next.
    pub base: Generation,
    /// The source envelope's JSON.
    pub source: Vec<u8>,
    /// The source payload's hash.
    pub source_sha256: String,
    /// Whether it tears the topology down.
    pub down: bool,
    /// The operator's message.
    pub message: String,
    /// Who pushed it.
    pub pushed_by: String,
    /// Its slices.
    pub slices: Vec<NewSlice>,
    /// How it spreads; `None` gives all hosts their slices at once.
    pub rollout: Option<NewRollout>,
    /// The drifts whose live values it takes over.
    pub accepts: Vec<ShownDrift>,
}

/// A stored revision, without its source.
#[derive(Debug, Clone)]
pub struct RevisionRecord {
    /// The topology.
    pub topology: TopologyId,
    /// The generation.
    pub generation: Generation,
    /// Hosts with a slice in it.
    pub hosts: u32,
    /// Whether it tears the topology down.
    pub down: bool,
    /// When the hub stored it, in milliseconds since 1970.
    pub pushed_ms: u64,
    /// Who pushed it.
    pub pushed_by: String,
    /// The operator's message.
    pub message: String,
    /// The source payload's hash; empty for a revision that was recovered from its slices.
    pub source_sha256: String,
}

/// A stored revision in full.
#[derive(Debug, Clone)]
pub struct FullRevision {
    /// What it is.
    pub record: RevisionRecord,
    /// The source envelope's JSON; `None` for a recovered revision.
    pub source: Option<Vec<u8>>,
    /// Hosts and their slices' JSON, when asked for; sorted by host.
    pub slices: Vec<(HostId, Vec<u8>)>,
}

/// What a host should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetRecord {
    /// The topology.
    pub topology: TopologyId,
    /// The generation.
    pub generation: Generation,
    /// The hash of the host's slice.
    pub version_hash: VersionHash,
    /// The slice payload's hash.
    pub payload_sha256: String,
    /// Whether it tears down.
    pub empty: bool,
    /// What must be present once it is applied.
    pub resources: BTreeSet<ResourceId>,
}

/// What kind of statement a host refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusedKind {
    /// Its slice.
    Slice,
    /// A trust root.
    Root,
    /// Its binding.
    Binding,
}

impl RefusedKind {
    /// The kind as it is stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            RefusedKind::Slice => "slice",
            RefusedKind::Root => "root",
            RefusedKind::Binding => "host-binding",
        }
    }

    /// The kind behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [RefusedKind::Slice, RefusedKind::Root, RefusedKind::Binding].into_iter().find(|k| k.as_str() == text)
    }
}

/// A statement that a host did not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRecord {
    /// Its kind.
    pub kind: RefusedKind,
    /// Its payload's hash.
    pub payload_sha256: String,
    /// Why.
    pub fault: Fault,
}

/// A host's report to be stored; its signature has been checked.
#[derive(Debug, Clone)]
pub struct ReportRecord {
    /// The envelope's JSON.
    pub envelope: Vec<u8>,
    /// The digest of the observation inside.
    pub digest: String,
    /// When it came, in milliseconds since 1970.
    pub received_ms: u64,
}

/// What an agent held and the hub did not; everything in it has been checked.
#[derive(Debug, Clone, Default)]
pub struct Adoption {
    /// Trust roots that follow the stored ones.
    pub roots: Vec<NewRoot>,
    /// A newer binding.
    pub binding: Option<NewBinding>,
    /// A newer slice with its revision.
    pub slice: Option<(TopologyId, Generation, NewSlice)>,
}

impl Adoption {
    /// Whether there is nothing to adopt.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.binding.is_none() && self.slice.is_none()
    }
}

/// The hub's memory.
pub trait Store: Send + Sync + 'static {
    /// Trust roots as envelope JSON, version 1 first.
    fn roots(&self) -> Verb<'_, Vec<Vec<u8>>>;
    /// Whether an operator put any of the stored trust roots; agents may have brought them all.
    fn operator_put_a_root(&self) -> Verb<'_, bool>;
    /// Stores the successor of the newest trust root. One that is stored already is only marked as an operator's. Another
    /// version 1 takes the place of all that are stored, when only agents brought those.
    ///
    /// Refuses with `bad_root` one that is no successor, `already_exists` another one of a stored version.
    fn put_root(&self, root: NewRoot, event: NewEvent) -> Verb<'_, ()>;

    /// Registers a join token. Refuses with `already_exists` when its id or a bound host has the name taken, `busy` past the limit.
    fn create_token(&self, token: NewToken, event: NewEvent) -> Verb<'_, ()>;
    /// Consumes a token for one key; the same key may ask again within the token's life.
    fn join(&self, attempt: JoinAttempt, event: NewEvent) -> Verb<'_, JoinOutcome>;
    /// Numbers a host's next certificate, or locks the host when `presented` is neither the newest nor the one in use.
    fn renew(&self, host: HostId, presented: u64, event: Option<NewEvent>) -> Verb<'_, RenewOutcome>;

    /// Every host, sorted by name.
    fn hosts(&self) -> Verb<'_, Vec<HostRecord>>;
    /// One host.
    fn host(&self, host: HostId) -> Verb<'_, Option<HostRecord>>;
    /// Stores a binding of a higher serial. One for a new life of the host settles the operations of those before.
    /// Refuses with `not_found`, `generation_regressed` (serial), `already_exists` (name), `wrong_host` (keys).
    fn put_binding(&self, binding: NewBinding, event: NewEvent) -> Verb<'_, ()>;
    /// Keeps what is pushed from now on from a host, for `reason`, or lifts that (`None`). A second time the reason and who gave
    /// it are taken over, and the time of the first stays.
    /// Refuses with `not_found`.
    fn cordon(&self, host: HostId, reason: Option<String>, event: NewEvent) -> Verb<'_, ()>;
    /// Forgets a host with its slices, report and token, and frees its name. It comes back by a new token only:
    /// `session_opened` and `adopt` refuse it with `permission_denied`. Refuses with `not_found`.
    fn remove_host(&self, host: HostId, event: NewEvent) -> Verb<'_, ()>;

    /// Stores a revision if its base is still the newest, closes the drifts that it accepts, and removes the revisions that are too old to
    /// be kept. It ends the rollout that is under way and begins its own: what a host that takes part should have stays what it was.
    /// Refuses with `base_moved`, `already_applied`, `drift_moved`, `drift_resolved`, `not_found` or, for a drift
    /// that it is not about, `invalid_argument`.
    fn push(&self, revision: NewRevision, event: NewEvent) -> Verb<'_, Generation>;
    /// Adds slices to the newest revision, and their hosts to its rollout. Refuses with `base_moved`, `already_applied`, `equivocation` or `not_found`.
    fn add_slices(&self, topology: TopologyId, generation: Generation, slices: Vec<NewSlice>, event: NewEvent) -> Verb<'_, ()>;
    /// The newest revision of every topology, sorted by name.
    fn topologies(&self) -> Verb<'_, Vec<RevisionRecord>>;
    /// The revisions of a topology, newest first.
    fn revisions(&self, topology: TopologyId, limit: u32) -> Verb<'_, Vec<RevisionRecord>>;
    /// One revision; generation 0 means the newest.
    fn revision(&self, topology: TopologyId, generation: Generation, with_slices: bool) -> Verb<'_, Option<FullRevision>>;
    /// What these hosts should have (every host for an empty list).
    fn targets(&self, hosts: Vec<HostId>) -> Verb<'_, Vec<(HostId, TargetRecord)>>;
    /// The JSON of one host's slice.
    fn slice(&self, topology: TopologyId, generation: Generation, host: HostId) -> Verb<'_, Option<Vec<u8>>>;
    /// The generation of the newest slice that a host was given in a topology; 0 without one.
    fn newest_slice(&self, topology: TopologyId, host: HostId) -> Verb<'_, Generation>;

    /// Rollouts of one topology or of all, the newest first, without their hosts.
    fn rollouts(&self, topology: Option<TopologyId>, limit: u32) -> Verb<'_, Vec<RolloutRecord>>;
    /// One rollout with its hosts; generation 0 means the newest of the topology.
    fn rollout(&self, topology: TopologyId, generation: Generation) -> Verb<'_, Option<RolloutRecord>>;
    /// The rollouts in which anything can still happen by itself, with their hosts.
    fn open_rollouts(&self) -> Verb<'_, Vec<RolloutRecord>>;
    /// Makes a change if the rollout is what it was when that was decided; `false` otherwise.
    fn change_rollout(&self, change: RolloutChange, events: Vec<NewEvent>) -> Verb<'_, bool>;
    /// An operator acts on a rollout (generation 0: the newest of the topology); the event's words are why. Refuses with
    /// `not_found` or `precondition_failed`. What is so already is no event.
    fn act_on_rollout(&self, topology: TopologyId, generation: Generation, act: Act, event: NewEvent) -> Verb<'_, RolloutRecord>;

    /// An agent opened a session by its certificate of this number. Refuses with `renewal_conflict` when a newer one was used before.
    fn session_opened(&self, host: HostId, version: String, epoch: HostEpoch, certificate: u64, event: Option<NewEvent>) -> Verb<'_, ()>;
    /// Keeps a host's last heartbeat, and the newest journal record that it named: that never goes back within one life.
    fn keep_heartbeat(&self, host: HostId, json: Vec<u8>, at_ms: u64, witness: Witness) -> Verb<'_, ()>;
    /// Hosts reported their targets applied. Gives back those whose target changed by it (a teardown let the next topology in).
    fn applied(&self, done: Vec<(HostId, TopologyId, Generation, NewEvent)>) -> Verb<'_, Vec<HostId>>;
    /// Keeps a host's last report.
    fn keep_report(&self, host: HostId, report: ReportRecord) -> Verb<'_, ()>;
    /// A host's last report.
    fn report(&self, host: HostId) -> Verb<'_, Option<ReportRecord>>;
    /// Keeps a host's refusal, one per kind.
    fn keep_refusal(&self, host: HostId, refusal: RefusalRecord, event: Option<NewEvent>) -> Verb<'_, ()>;
    /// Every kept refusal with its host.
    fn refusals(&self) -> Verb<'_, Vec<(HostId, RefusalRecord)>>;
    /// Takes over what an agent held.
    fn adopt(&self, host: HostId, adoption: Adoption, event: NewEvent) -> Verb<'_, ()>;

    /// Stores an operation for its host; gives it back, and whether it was stored before by the very same bytes.
    /// Refuses with `conflict` other bytes under its id, with `busy` past the limit, with `not_found` without a bound host.
    fn submit_op(&self, op: NewOp, event: NewEvent) -> Verb<'_, (OpRecord, bool)>;
    /// One operation, with its envelopes.
    fn op(&self, op_id: OpId) -> Verb<'_, Option<OpRecord>>;
    /// The id of a host's operation by its payload's hash.
    fn op_of_payload(&self, host: HostId, payload_sha256: String) -> Verb<'_, Option<OpId>>;
    /// Operations, newest first, without their envelopes.
    fn ops(&self, query: OpQuery) -> Verb<'_, Vec<OpRecord>>;
    /// The open operations of a host that were submitted after `after`, in the order of submission.
    fn due_ops(&self, host: HostId, after: u64, limit: u32) -> Verb<'_, Vec<DueOp>>;
    /// Operations are about to be sent for the first time: from now on their host may have them. Gives back those that may
    /// be: the others have ended meanwhile.
    fn ops_sent(&self, op_ids: Vec<OpId>) -> Verb<'_, Vec<OpId>>;
    /// A host said what became of an operation of its own. The event is recorded if that is news.
    fn advance_op(&self, host: HostId, op_id: OpId, change: OpChange, event: Option<NewEvent>) -> Verb<'_, Advance>;
    /// Keeps the receipt of an order that this store does not have. Refuses with `not_found` without the host.
    fn recover_op(&self, op: UnknownOp, event: NewEvent) -> Verb<'_, ()>;
    /// Whether [`Store::expire_ops`] would end any.
    fn has_overdue_ops(&self, before: UnixSeconds) -> Verb<'_, bool>;
    /// Ends operations that were never sent and whose last moment was before `before`, each with its event.
    fn expire_ops(&self, before: UnixSeconds, limit: u32) -> Verb<'_, Vec<OpId>>;

    /// Stores a saga with the work that it is; gives it back, and whether it was stored before by the very same bytes.
    /// Refuses with `conflict` other bytes under its id or under that of one of its orders, with `busy` past the limit.
    fn start_saga(&self, saga: NewSaga, event: NewEvent) -> Verb<'_, (SagaRecord, bool)>;
    /// One saga.
    fn saga(&self, saga_id: SagaId) -> Verb<'_, Option<SagaRecord>>;
    /// Sagas, newest first.
    fn sagas(&self, query: SagaQuery) -> Verb<'_, Vec<SagaRecord>>;
    /// Gives `runner` the sagas that nobody runs, each with the number of this claim: until `until_ms`, in milliseconds since 1970,
    /// nobody else gets them.
    fn claim_sagas(&self, runner: String, until_ms: u64, limit: u32) -> Verb<'_, Vec<(SagaId, u64)>>;
    /// Whether [`Store::claim_sagas`] would give any.
    fn has_unclaimed_sagas(&self, now_ms: u64) -> Verb<'_, bool>;
    /// A runner keeps what it has until then.
    fn renew_sagas(&self, runner: String, until_ms: u64) -> Verb<'_, ()>;
    /// Makes a change if the claim still holds and the saga is what it was when that was decided. Refuses as [`Store::submit_op`].
    fn change_saga(&self, change: SagaChange) -> Verb<'_, SagaAdvance>;
    /// An order of a saga by its payload's hash.
    fn saga_order(&self, saga_id: SagaId, payload_sha256: String) -> Verb<'_, Option<SagaOrder>>;
    /// What a step of a saga needs beside the plan, by the hash that the plan names it by.
    fn saga_part(&self, saga_id: SagaId, sha256: String) -> Verb<'_, Option<Vec<u8>>>;
    /// What happened to a saga: when, in milliseconds since 1970, and what; the oldest first.
    fn saga_facts(&self, saga_id: SagaId) -> Verb<'_, Vec<(u64, String)>>;
    /// What operators signed of a saga, in order.
    fn saga_words(&self, saga_id: SagaId) -> Verb<'_, Vec<Vec<u8>>>;
    /// What hosts are shown with an order of a saga.
    fn saga_evidence(&self, saga_id: SagaId) -> Verb<'_, Option<SagaEvidence>>;

    /// Takes over what a host, called `name`, said of its drift: opens, follows and closes rows, with at most so many events.
    fn report_drift(&self, host: HostId, name: String, report: DriftReport, events: u32) -> Verb<'_, ()>;
    /// Drifts, newest first.
    fn drifts(&self, query: DriftQuery) -> Verb<'_, Vec<DriftRecord>>;
    /// One drift.
    fn drift(&self, id: u64) -> Verb<'_, Option<DriftRecord>>;
    /// Leaves a drift alone until a moment in milliseconds since 1970. Refuses with `not_found` or `drift_resolved`.
    fn ignore_drift(&self, id: u64, until_ms: u64, reason: String, by: Actor, event: NewEvent) -> Verb<'_, DriftRecord>;
    /// Stores the operation that reverts these drifts; it is noted with them. Refuses as [`Store::submit_op`], with `not_found`,
    /// `drift_resolved` and `drift_moved`, and with `invalid_argument` for those of another resource.
    fn revert_drift(&self, drifts: Vec<ShownDrift>, op: NewOp, event: NewEvent) -> Verb<'_, (OpRecord, bool)>;
    /// Whether [`Store::reopen_drift`] would open any.
    fn has_drift_to_reopen(&self, now_ms: u64) -> Verb<'_, bool>;
    /// Opens again what was ignored for long enough, each with its event; gives back how many.
    fn reopen_drift(&self, limit: u32) -> Verb<'_, usize>;

    /// Takes a droplet into the inventory at once, and with it what it should be like; gives back the version of that. The same again changes
    /// nothing; another spec is the next version.
    fn register_droplet(&self, new: NewProvisioned) -> Verb<'_, u64>;
    /// Takes a droplet and what it should be like out again, with its rows in the inbox. One that is not there is out.
    fn unregister_droplet(&self, cloud: String, number: u64, saga_id: Option<SagaId>) -> Verb<'_, ()>;
    /// Changes fields of what a droplet should be like; gives back the version of that, 0 when nothing is expected of it.
    fn amend_spec(&self, cloud: String, number: u64, fields: BTreeMap<String, Value>, by: String, saga_id: Option<SagaId>)
    -> Verb<'_, u64>;
    /// A droplet that the inventory has was just seen so.
    fn see_droplet(&self, cloud: String, number: u64, name: String, value: Value) -> Verb<'_, ()>;
    /// These are deleted, for ever: whatever listings show. Nothing is expected of them any more.
    fn bury(&self, cloud: String, kind: CloudKind, numbers: BTreeSet<u64>, saga_id: Option<SagaId>) -> Verb<'_, ()>;
    /// The numbers of what was deleted, as far as that is remembered.
    fn buried(&self, cloud: String, kind: CloudKind) -> Verb<'_, BTreeSet<u64>>;
    /// Takes a whole listing of one kind over.
    fn sync_resources(&self, cloud: String, kind: CloudKind, seen: Vec<SeenResource>) -> Verb<'_, ()>;
    /// Compares every droplet of which something is expected with that: opens, follows and closes rows of the inbox.
    fn sweep_cloud(&self, cloud: String) -> Verb<'_, CloudSweep>;
    /// What a droplet has becomes what it should have, as the next version of that. Refuses with `not_found`, `drift_resolved` or
    /// `drift_moved`, and with `invalid_argument` for a drift on a host.
    fn accept_cloud_drift(&self, drift: ShownDrift, by: Actor, reason: String, event: NewEvent) -> Verb<'_, DriftRecord>;
    /// One thing in a cloud.
    fn resource(&self, cloud: String, kind: CloudKind, number: u64) -> Verb<'_, Option<ResourceRecord>>;
    /// Everything in a cloud; what is deleted only if that is asked for.
    fn resources(&self, cloud: String, with_deleted: bool) -> Verb<'_, Vec<ResourceRecord>>;
    /// What happened to one thing in a cloud, the oldest first.
    fn resource_events(&self, cloud: String, kind: CloudKind, number: u64) -> Verb<'_, Vec<ResourceEvent>>;
    /// What the droplets of a cloud should be like.
    fn provisioned(&self, cloud: String) -> Verb<'_, Vec<ProvisionedRecord>>;

    /// Records events, in order.
    fn record(&self, events: Vec<NewEvent>) -> Verb<'_, ()>;
    /// Events after `after`: the first `limit` of them, or the last when `newest`; in order.
    fn events(&self, after: u64, limit: u32, newest: bool) -> Verb<'_, Vec<Event>>;
    /// The newest event's sequence number, as it grows.
    fn newest_event(&self) -> watch::Receiver<u64>;
    /// Cancelled once any part of the store has ended (by a panic): only a restart brings it back.
    fn ended(&self) -> CancellationToken;

    /// Does what it was asked for before, then lets go of its files: who waits for this may move or replace them.
    /// Whatever is asked for later fails.
    fn close(&self) -> Verb<'_, ()>;
    /// Checks every event's hash against its predecessor's; gives back the count, or where the chain is broken.
    fn verify_events(&self) -> Verb<'_, std::result::Result<u64, u64>>;
}
