//! What a saga does in a cloud: the hub does it with the cloud's token, as it was signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::check::is_hash;
use super::plan::{Act, Plan, Side, StepNumber};
use crate::op::Class;

/// Something that is done in a cloud.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudAct {
    /// The cloud, such as `digitalocean`. Roles reach it as they reach a host of that name.
    pub cloud: String,
    /// What is done there.
    pub work: CloudWork,
}

/// See [`CloudAct`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CloudWork {
    /// Makes a droplet, once. Its output has `droplet`, its number.
    CreateDroplet(Box<CloudDroplet>),
    /// Waits until a droplet is active and has an address. Its output has `ip`.
    WaitActive {
        /// Which.
        droplet: DropletRef,
    },
    /// Takes a droplet into the inventory, with what it should be like from then on.
    Register {
        /// Which.
        droplet: DropletRef,
        /// The fields of its desired spec.
        spec: BTreeMap<String, Value>,
    },
    /// Has a droplet that is registered be wanted otherwise. One that is not stays so.
    Desire {
        /// Which.
        droplet: DropletRef,
        /// The fields that change.
        spec: BTreeMap<String, Value>,
    },
    /// Makes a snapshot, once. Its output has `snapshot`, its number.
    Snapshot {
        /// Of which.
        droplet: DropletRef,
        /// Its name, with the saga's whole id in it.
        name: String,
    },
    /// Deletes a snapshot. One that is not there is deleted.
    DeleteSnapshot {
        /// Its number.
        snapshot: u64,
    },
    /// Gives a droplet another size: switches it off, and on again if it was on.
    Resize {
        /// Which.
        droplet: DropletRef,
        /// The size's slug.
        size: String,
        /// Whether its disk grows too, for good.
        disk: bool,
    },
    /// Gives a droplet another name.
    Rename {
        /// Which.
        droplet: DropletRef,
        /// The name.
        name: String,
    },
    /// Gives a droplet a tag.
    Tag {
        /// Which.
        droplet: DropletRef,
        /// The tag.
        tag: String,
    },
    /// Takes a tag from a droplet.
    Untag {
        /// Which.
        droplet: DropletRef,
        /// The tag.
        tag: String,
    },
    /// Switches a droplet on or off.
    Power {
        /// Which.
        droplet: DropletRef,
        /// On.
        on: bool,
    },
    /// Deletes a droplet, and takes it out of the inventory. One that is not there is deleted.
    Destroy {
        /// Which.
        droplet: DropletRef,
    },
    /// Undoes what its step made, or may have made: a droplet, a snapshot or a registration.
    Unmake,
}

/// A droplet by its number, or the one that an earlier step of the saga makes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum DropletRef {
    /// Its number.
    Number(u64),
    /// The name of the step that makes it.
    MadeBy(String),
}

impl fmt::Display for DropletRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DropletRef::Number(number) => write!(f, "droplet {number}"),
            DropletRef::MadeBy(step) => write!(f, "the droplet that `{step}` makes"),
        }
    }
}

/// A droplet that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloudDroplet {
    /// Its name.
    pub name: String,
    /// Its region's slug.
    pub region: String,
    /// Its size's slug.
    pub size: String,
    /// The image's slug or number.
    pub image: String,
    /// The operator's own tags; the saga's and Moorline's own are added.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// The numbers or fingerprints of keys that may log in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// Its network; the region's own when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpc: Option<String>,
    /// Whether the cloud's own monitoring is put in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub monitoring: bool,
    /// Whether it has an address of IPv6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
    /// The lowercase hex SHA-256 of what its first boot is told. The text is handed in beside the plan: it may hold a token to join by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl CloudAct {
    /// What may come of it: who signs the plan has to be allowed that.
    #[must_use]
    pub const fn class(&self) -> Class {
        match &self.work {
            CloudWork::WaitActive { .. } => Class::R0,
            CloudWork::Register { .. } | CloudWork::Desire { .. } => Class::R1,
            CloudWork::CreateDroplet(_)
            | CloudWork::Snapshot { .. }
            | CloudWork::Rename { .. }
            | CloudWork::Tag { .. }
            | CloudWork::Untag { .. }
            | CloudWork::Power { on: true, .. }
            | CloudWork::Unmake => Class::R2,
            CloudWork::Resize { disk: false, .. } | CloudWork::Power { on: false, .. } => Class::R3,
            CloudWork::Resize { disk: true, .. } | CloudWork::DeleteSnapshot { .. } | CloudWork::Destroy { .. } => Class::R4,
        }
    }

    /// What it is called in roles: `op.` and this.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match &self.work {
            CloudWork::CreateDroplet(_) => "cloud-create",
            CloudWork::WaitActive { .. } => "cloud-wait",
            CloudWork::Register { .. } => "cloud-register",
            CloudWork::Desire { .. } => "cloud-desire",
            CloudWork::Snapshot { .. } => "cloud-snapshot",
            CloudWork::DeleteSnapshot { .. } => "cloud-snapshot-delete",
            CloudWork::Resize { .. } => "cloud-resize",
            CloudWork::Rename { .. } => "cloud-rename",
            CloudWork::Tag { .. } => "cloud-tag",
            CloudWork::Untag { .. } => "cloud-untag",
            CloudWork::Power { .. } => "cloud-power",
            CloudWork::Destroy { .. } => "cloud-destroy",
            CloudWork::Unmake => "cloud-unmake",
        }
    }

    /// The droplet that it is about, where that is said.
    #[must_use]
    pub const fn droplet(&self) -> Option<&DropletRef> {
        match &self.work {
            CloudWork::WaitActive { droplet }
            | CloudWork::Register { droplet, .. }
            | CloudWork::Desire { droplet, .. }
            | CloudWork::Snapshot { droplet, .. }
            | CloudWork::Resize { droplet, .. }
            | CloudWork::Rename { droplet, .. }
            | CloudWork::Tag { droplet, .. }
            | CloudWork::Untag { droplet, .. }
            | CloudWork::Power { droplet, .. }
            | CloudWork::Destroy { droplet } => Some(droplet),
            CloudWork::CreateDroplet(_) | CloudWork::DeleteSnapshot { .. } | CloudWork::Unmake => None,
        }
    }

    /// What is done, in a line.
    pub(super) fn words(&self) -> String {
        let cloud = &self.cloud;
        match &self.work {
            CloudWork::CreateDroplet(new) => {
                let CloudDroplet { name, region, size, image, .. } = new.as_ref();
                let tags: Vec<&str> = new.tags.iter().map(String::as_str).collect();
                let tags = if tags.is_empty() { String::new() } else { format!(", tags {}", tags.join(" ")) };
                format!("make droplet `{name}` at {cloud} ({size} in {region}, image {image}{tags})")
            }
            CloudWork::WaitActive { droplet } => format!("wait until {droplet} is active"),
            CloudWork::Register { droplet, spec } => format!("register {droplet} with {}", fields(spec)),
            CloudWork::Desire { droplet, spec } => format!("want {droplet} with {}", fields(spec)),
            CloudWork::Snapshot { droplet, name } => format!("make snapshot `{name}` of {droplet}"),
            CloudWork::DeleteSnapshot { snapshot } => format!("delete snapshot {snapshot} at {cloud}"),
            CloudWork::Resize { droplet, size, disk } => {
                format!("resize {droplet} to {size}{}", if *disk { ", its disk too" } else { "" })
            }
            CloudWork::Rename { droplet, name } => format!("rename {droplet} to `{name}`"),
            CloudWork::Tag { droplet, tag } => format!("tag {droplet} with {tag}"),
            CloudWork::Untag { droplet, tag } => format!("take tag {tag} from {droplet}"),
            CloudWork::Power { droplet, on } => format!("switch {droplet} {}", if *on { "on" } else { "off" }),
            CloudWork::Destroy { droplet } => format!("delete {droplet} at {cloud}"),
            CloudWork::Unmake => "delete what the step made, or take it out of the inventory".to_owned(),
        }
    }

    /// What is wrong with it as that side of a step.
    pub(super) fn wrong(&self, plan: &Plan, number: StepNumber, side: Side) -> Option<String> {
        if self.cloud.is_empty() || self.cloud.len() > 63 || !self.cloud.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
            return Some(format!("`{}` is no name of a cloud", crate::fault::cut(&self.cloud)));
        }
        if let Some(DropletRef::MadeBy(by)) = self.droplet() {
            let made = plan.step_named(by).filter(|by| plan.comes_before(*by, number, side));
            if !made.and_then(|made| plan.cloud_act(made, Side::Do)).is_some_and(|made| self.cloud == made.cloud && made.makes_droplet()) {
                return Some(format!("`{by}` is no earlier step that makes a droplet there"));
            }
        }
        match &self.work {
            CloudWork::CreateDroplet(new) => {
                let needed = [("name", &new.name), ("region", &new.region), ("size", &new.size), ("image", &new.image)];
                let missing: Vec<&str> = needed.into_iter().filter(|(_, value)| value.trim().is_empty()).map(|(key, _)| key).collect();
                if !missing.is_empty() {
                    return Some(format!("a droplet needs {}", missing.join(", ")));
                }
                let bad = new.boot.as_ref().is_some_and(|hash| !is_hash(hash));
                bad.then(|| "what the first boot is told is named by its hash".to_owned())
            }
            CloudWork::Snapshot { name, .. } if !name.contains(plan.saga_id.as_str()) => {
                Some(format!("the snapshot's name `{}` does not bear the saga's id", crate::fault::cut(name)))
            }
            CloudWork::Unmake => {
                let made = plan.cloud_act(number, Side::Do).filter(|_| side == Side::Undo);
                let is_made = made.is_some_and(|made| {
                    made.cloud == self.cloud
                        && matches!(made.work, CloudWork::CreateDroplet(_) | CloudWork::Snapshot { .. } | CloudWork::Register { .. })
                });
                (!is_made).then(|| "`unmake` undoes a step that makes a droplet, a snapshot or a registration there".to_owned())
            }
            // What is gone does not come back.
            CloudWork::Destroy { .. } | CloudWork::DeleteSnapshot { .. } | CloudWork::Resize { disk: true, .. } => {
                let is_reversible = side == Side::Do && plan.steps.get(number).is_some_and(|step| !step.irreversible);
                is_reversible.then(|| "this cannot be undone: the step is irreversible".to_owned())
            }
            CloudWork::WaitActive { .. }
            | CloudWork::Register { .. }
            | CloudWork::Desire { .. }
            | CloudWork::Snapshot { .. }
            | CloudWork::Resize { disk: false, .. }
            | CloudWork::Rename { .. }
            | CloudWork::Tag { .. }
            | CloudWork::Untag { .. }
            | CloudWork::Power { .. } => None,
        }
    }

    const fn makes_droplet(&self) -> bool {
        matches!(self.work, CloudWork::CreateDroplet(_))
    }
}

impl Plan {
    /// What one side of a step does in a cloud, if it does.
    #[must_use]
    pub fn cloud_act(&self, step: StepNumber, side: Side) -> Option<&CloudAct> {
        match &self.task(step, side)?.act {
            Act::Cloud(act) => Some(act),
            Act::Host(_) | Act::Hub(_) => None,
        }
    }

    /// The hashes of what first boots are told.
    #[must_use]
    pub fn boots(&self) -> BTreeSet<&str> {
        let boot = |(number, side, _)| {
            let CloudWork::CreateDroplet(new) = &self.cloud_act(number, side)?.work else { return None };
            new.boot.as_deref()
        };
        self.tasks().filter_map(boot).collect()
    }
}

fn fields(spec: &BTreeMap<String, Value>) -> String {
    let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let fields: Vec<String> = spec.iter().map(|(key, value)| format!("{key} {}", shown(value))).collect();
    fields.join(", ")
}
