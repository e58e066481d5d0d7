//! What a step does to a guest.

use serde::{Deserialize, Serialize};

use super::note_key;
use crate::observe::Owner;
use crate::plan::Effect;
use crate::pve::guest::{Config, ConfigChange};
use crate::pve::{GuestKind, Vmid, incarnation};
use crate::topology::GuestSource;

/// A change to a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestAction {
    /// Which guest.
    pub vmid: Vmid,
    /// Its kind.
    #[serde(rename = "type")]
    pub kind: GuestKind,
    /// The topology that has it.
    pub topology: String,
    /// The hash of what it shall be.
    pub spec: String,
    /// Which one of those it is that have borne its number; `None` for one that is to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Whether it was made otherwise.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub adopted: bool,
    /// See [`Owner::hidden`]: what it is afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<String>,
    /// What is done.
    pub act: GuestAct,
}

/// What is done to a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum GuestAct {
    /// Make it, with [`super::marker`] as its description until it is known.
    Create {
        /// What of; an empty machine, if `None`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<GuestSource>,
        /// Its config, as it is sent.
        config: Config,
        /// What it says of itself at first.
        marker: String,
    },
    /// Take it over as it is.
    Adopt,
    /// Change its config.
    Update {
        /// What of it.
        change: ConfigChange,
        /// The version of its file that this was planned on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        digest: Option<String>,
    },
    /// Start it.
    Start,
    /// Let it go on.
    Resume,
    /// Let it end by itself.
    Shutdown {
        /// How long it may take, in seconds.
        timeout_s: u32,
        /// Whether its power is cut when it takes longer.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// Let it end and start it, for changes that wait for that.
    Reboot {
        /// How long it may take to end, in seconds.
        timeout_s: u32,
    },
    /// Remove it with all that it holds: it was destroyed, and the time for which it was kept is over.
    Purge,
}

impl GuestAct {
    /// See [`crate::plan::Action::verb`].
    pub(in crate::plan) const fn verb(&self) -> &'static str {
        match self {
            GuestAct::Create { .. } => "create",
            GuestAct::Adopt => "adopt",
            GuestAct::Update { .. } => "update",
            GuestAct::Start => "start",
            GuestAct::Resume => "resume",
            GuestAct::Shutdown { .. } => "shutdown",
            GuestAct::Reboot { .. } => "reboot",
            GuestAct::Purge => "purge",
        }
    }

    /// Its name in the journal and the log.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            GuestAct::Create { .. } => "create-guest",
            GuestAct::Adopt => "adopt-guest",
            GuestAct::Update { .. } => "update-guest",
            GuestAct::Start => "start-guest",
            GuestAct::Resume => "resume-guest",
            GuestAct::Shutdown { .. } => "shutdown-guest",
            GuestAct::Reboot { .. } => "reboot-guest",
            GuestAct::Purge => "purge-guest",
        }
    }

    pub(in crate::plan) const fn effect(&self) -> Effect {
        match self {
            GuestAct::Create { .. } => Effect::Create,
            GuestAct::Purge => Effect::Remove,
            GuestAct::Adopt
            | GuestAct::Update { .. }
            | GuestAct::Start
            | GuestAct::Resume
            | GuestAct::Shutdown { .. }
            | GuestAct::Reboot { .. } => Effect::InPlace,
        }
    }
}

impl GuestAction {
    /// What is known of the guest from now on: the key of the note, and what it says. One that is made is known once it is seen.
    pub(in crate::plan) fn note(&self) -> Option<(String, Owner)> {
        if self.act == GuestAct::Purge {
            return None;
        }
        let lasting = incarnation::lasting(self.incarnation.as_deref()?);
        let owner = Owner {
            topology: self.topology.clone(),
            resource: self.vmid.resource(),
            spec: self.spec.clone(),
            base: lasting.to_owned(),
            adopted: self.adopted,
            hidden: self.hidden.clone(),
        };
        Some((note_key(self.vmid), owner))
    }
}
