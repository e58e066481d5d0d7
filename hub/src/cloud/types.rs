//! What clouds have, in Moorline's words.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use moorline_common::id::UnixSeconds;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Secret;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A droplet's number. Never given twice.
    DropletId
}
number! {
    /// An action's number. Later ones are higher.
    ActionId
}
number! {
    /// A snapshot's number.
    SnapshotId
}

/// A machine in a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Droplet {
    /// Its number.
    pub id: DropletId,
    /// Its name. Others may have the same.
    pub name: String,
    /// How far it is.
    pub status: DropletStatus,
    /// Its region's slug.
    pub region: String,
    /// Its size's slug.
    pub size: String,
    /// What it was made from.
    pub image: Image,
    /// Its tags. They may come later than the droplet.
    pub tags: BTreeSet<String>,
    /// Its addresses; none while it is new.
    pub addresses: Vec<Address>,
    /// When it was made, by the cloud's clock.
    pub created_at: UnixSeconds,
    /// Whether an event keeps it from being changed.
    pub locked: bool,
    /// What else the cloud says of it.
    pub attributes: Map<String, Value>,
}

impl Droplet {
    /// Whether it bears a tag. The cloud does not tell capitals from small letters in tags.
    #[must_use]
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
    }

    /// The same as plain data, as it is stored and compared.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
}

/// How far a droplet is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DropletStatus {
    /// It is being made.
    New,
    /// It is on. What runs on it may not have begun.
    Active,
    /// It is off.
    Off,
    /// It is put away.
    Archive,
    /// Something that this version does not know.
    #[serde(untagged)]
    Other(String),
}

/// What a droplet is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its number; 0 when the token may not see images.
    pub id: u64,
    /// Its slug. Snapshots have none.
    pub slug: Option<String>,
    /// Its name.
    pub name: String,
}

/// An address of a droplet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Whether the world reaches it.
    pub public: bool,
}

/// A droplet that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewDroplet {
    /// Its name.
    pub name: String,
    /// Its region's slug.
    pub region: String,
    /// Its size's slug.
    pub size: String,
    /// The image's slug or number.
    pub image: String,
    /// The numbers or fingerprints of keys that may log in.
    pub ssh_keys: Vec<String>,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// What its first boot is told. It may hold a token to join by.
    pub user_data: Option<Secret>,
    /// Its network; the region's own when left out.
    pub vpc: Option<String>,
    /// Whether the cloud's own monitoring is put in.
    pub monitoring: bool,
    /// Whether it has an address of IPv6.
    pub ipv6: bool,
}

/// A droplet as its creation was answered: accepted, and nothing more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The droplet.
    pub droplet: Droplet,
    /// The action that makes it.
    pub action: Option<ActionId>,
}

/// Something to be done to a droplet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make a snapshot.
    Snapshot {
        /// What it is called.
        name: String,
    },
    /// Give it another size. It must be off.
    Resize {
        /// The size's slug.
        size: String,
        /// Whether the disk grows too, which cannot be undone.
        disk: bool,
    },
    /// Give it another name.
    Rename {
        /// The name.
        name: String,
    },
    /// Switch it on.
    PowerOn,
    /// Switch it off, as by the plug.
    PowerOff,
}

impl Change {
    /// The cloud's word for it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Change::Snapshot { .. } => "snapshot",
            Change::Resize { .. } => "resize",
            Change::Rename { .. } => "rename",
            Change::PowerOn => "power_on",
            Change::PowerOff => "power_off",
        }
    }
}

/// Something that was begun on a droplet. It does not say what it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// Its number.
    pub id: ActionId,
    /// The cloud's word for what it does.
    pub kind: String,
    /// How far it is.
    pub status: ActionStatus,
    /// When it began, by the cloud's clock.
    pub started_at: UnixSeconds,
}

/// How far an action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionStatus {
    /// It is under way.
    InProgress,
    /// It did what it should, as it says.
    Completed,
    /// It did not, as it says.
    Errored,
}

/// A snapshot of a droplet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number.
    pub id: SnapshotId,
    /// Its name. Others may have the same.
    pub name: String,
    /// The droplet that it was made from; nothing where the cloud does not say.
    pub droplet: Option<DropletId>,
    /// The regions that have it.
    pub regions: BTreeSet<String>,
    /// When it was made, by the cloud's clock.
    pub created_at: UnixSeconds,
    /// The smallest disk that it fits on, in GiB.
    pub min_disk_gib: u64,
    /// What is paid for, as the cloud writes it, in GiB.
    pub size_gib: String,
}
