//! What the hub records: every decision that was accepted or refused, as one hash-chained table.
//!
//! Events are audit rows at the same time: who, what (the hash of its body), where from, and how it ended.

use moorline_common::fault::Code;
use moorline_common::id::{Generation, TopologyId};

use crate::auth::Actor;
use crate::limits;

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)+) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind {
            $($(#[$doc])* $variant,)+
        }

        impl Kind {
            /// The kind as it is stored and sent.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Kind::$variant => $text,)+
                }
            }
        }
    };
}

kinds! {
    /// The hub started.
    HubStarted = "hub_started",
    /// The hub stopped as it should.
    HubStopped = "hub_stopped",
    /// The hub's folder was restored from a backup.
    HubRestored = "hub_restored",
    /// An operator registered a join token.
    TokenCreated = "token_created",
    /// A join token was refused.
    TokenRefused = "token_refused",
    /// Somebody called what is not theirs to call.
    CallRefused = "call_refused",
    /// A host joined and awaits its binding.
    HostJoined = "host_joined",
    /// A join was refused.
    JoinRefused = "join_refused",
    /// An operator bound a host.
    HostBound = "host_bound",
    /// An operator removed a host.
    HostRemoved = "host_removed",
    /// An operator keeps what is pushed from a host.
    HostCordoned = "host_cordoned",
    /// An operator lets a host have what is pushed again.
    HostUncordoned = "host_uncordoned",
    /// An operator's order to cordon a host, or to lift that, was refused.
    CordonRefused = "cordon_refused",
    /// The removal of a host was refused.
    RemovalRefused = "removal_refused",
    /// A binding was refused.
    BindingRefused = "binding_refused",
    /// A trust root was stored.
    RootStored = "root_stored",
    /// A trust root was refused.
    RootRefused = "root_refused",
    /// A revision was stored.
    Pushed = "pushed",
    /// A push was refused.
    PushRefused = "push_refused",
    /// Slices were added to the newest revision.
    SlicesAdded = "slices_added",
    /// A slice was sent to a host.
    SliceSent = "slice_sent",
    /// A host reported its target applied for the first time.
    Applied = "applied",
    /// A host refused a statement.
    Refused = "refused",
    /// A host reported an error.
    Error = "error",
    /// An agent opened a session.
    Connected = "connected",
    /// A session ended.
    Disconnected = "disconnected",
    /// The hub took over what an agent held.
    Adopted = "adopted",
    /// What an agent handed in was refused.
    AdoptRefused = "adopt_refused",
    /// A host's certificate was renewed.
    Renewed = "renewed",
    /// A renewal was refused.
    RenewRefused = "renew_refused",
    /// A host's report was refused.
    ReportRefused = "report_refused",
    /// An operator submitted an operation.
    OpSubmitted = "op_submitted",
    /// An operation ended.
    OpEnded = "op_ended",
    /// An operation was refused, by the hub at its submission or by its host.
    OpRefused = "op_refused",
    /// Nothing proves how an operation ended: an operator must look.
    OpIndeterminate = "op_indeterminate",
    /// A host's receipt was refused.
    ReceiptRefused = "receipt_refused",
    /// A field of a host differs from what operators signed, and one of them has to decide.
    DriftDetected = "drift_detected",
    /// A drift was accepted or reverted, or is as wanted again by itself.
    DriftClosed = "drift_closed",
    /// An operator leaves a drift alone for a time.
    DriftIgnored = "drift_ignored",
    /// What an operator decided about a drift was refused.
    DriftRefused = "drift_refused",
    /// An operator read what a container writes.
    LogsRead = "logs_read",
    /// An operator read a host's journal.
    JournalRead = "journal_read",
    /// A revision began to spread by a plan.
    RolloutStarted = "rollout_started",
    /// Hosts were given the revision.
    RolloutReleased = "rollout_released",
    /// A host failed with the revision.
    RolloutHostFailed = "rollout_host_failed",
    /// Too many hosts failed, or an operator paused it: no host is given the revision for now.
    RolloutPaused = "rollout_paused",
    /// An operator let it go on.
    RolloutResumed = "rollout_resumed",
    /// Too many hosts failed: no other host is given the revision.
    RolloutFailed = "rollout_failed",
    /// Each host that was there has been judged.
    RolloutCompleted = "rollout_completed",
    /// An operator ended it.
    RolloutAborted = "rollout_aborted",
    /// A newer revision took its place.
    RolloutSuperseded = "rollout_superseded",
    /// An act on a rollout was refused.
    RolloutActRefused = "rollout_act_refused",
    /// An operator started a saga.
    SagaStarted = "saga_started",
    /// A saga goes forward, or back.
    SagaMoved = "saga_moved",
    /// A saga goes on by itself no more.
    SagaStuck = "saga_stuck",
    /// A saga has ended.
    SagaEnded = "saga_ended",
    /// An operator's word on a saga was taken.
    SagaActed = "saga_acted",
    /// A saga, or a word on one, was refused.
    SagaRefused = "saga_refused",
    /// What a cloud has cannot be listed; told once until it can.
    CloudSyncFailed = "cloud_sync_failed",
    /// What a cloud has can be listed again.
    CloudSyncWorks = "cloud_sync_works",
    /// An operator took over what a droplet is like.
    CloudDriftAccepted = "cloud_drift_accepted",
}

/// An event that is about to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What happened.
    pub kind: Kind,
    /// Who did it.
    pub actor: Actor,
    /// The host's name, or its id while it has none; empty when it concerns none.
    pub host: String,
    /// The topology; empty when it concerns none.
    pub topology: String,
    /// The generation; 0 when it concerns none.
    pub generation: u64,
    /// The code, when something was refused or failed.
    pub code: Option<Code>,
    /// Words for people.
    pub message: String,
    /// Lowercase hex SHA-256 of the statement that it is about; empty when it concerns none.
    pub body: String,
}

impl NewEvent {
    /// An event of `kind` by `actor`.
    #[must_use]
    pub fn new(kind: Kind, actor: Actor, message: impl Into<String>) -> Self {
        let text: String = message.into();
        let message =
            if text.chars().count() > limits::EVENT_TEXT_MAX { text.chars().take(limits::EVENT_TEXT_MAX).collect() } else { text };
        Self { kind, actor, host: String::new(), topology: String::new(), generation: 0, code: None, message, body: String::new() }
    }

    /// An event of the hub's own doing.
    #[must_use]
    pub fn hub(kind: Kind, message: impl Into<String>) -> Self {
        Self::new(kind, Actor::hub(), message)
    }

    /// Names the host that it concerns.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// Names the revision that it concerns.
    #[must_use]
    pub fn revision(mut self, topology: &TopologyId, generation: Generation) -> Self {
        self.topology = topology.as_str().to_owned();
        self.generation = generation.0;
        self
    }

    /// Gives the code of a refusal or failure.
    #[must_use]
    pub fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    /// Names the statement that it is about, by its hash.
    #[must_use]
    pub fn body(mut self, sha256: impl Into<String>) -> Self {
        self.body = sha256.into();
        self
    }
}

/// A recorded event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Counts all events of the hub, from 1.
    pub sequence: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// A [`Kind`] as text; a newer hub may have written others.
    pub kind: String,
    /// Who did it.
    pub actor: String,
    /// The host's name.
    pub host: String,
    /// The topology.
    pub topology: String,
    /// The generation.
    pub generation: u64,
    /// The code, as text.
    pub code: String,
    /// Words for people.
    pub message: String,
}
