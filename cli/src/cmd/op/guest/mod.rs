//! Operations on guests of Proxmox VE: their verbs and arguments. [`act`] makes orders of them, [`meant`] finds which guest is meant,
//! [`words`] says what an order does and what came of it.

use std::time::Duration;

use clap::{Args, Subcommand};
use moorline_common::op::guest::BackupMode;
use moorline_common::pve::{GuestKind, Vmid};

use super::{OnOne, OrderArgs};
use crate::clock;

pub mod act;
pub mod log;
pub mod meant;
pub mod words;

/// How a change of a config is written down.
const CONFIG_EXAMPLE: &str = "Keys and values are Proxmox VE's own: moorctl op set-config pve-1/101 memory=4096 'net0=virtio,bridge=vmbr1' --delete balloon\n\
    The order is for the version of the config that the host's report shows: when it was changed since, nothing is done.\n\
    Values are signed with the order: never a secret.";

/// What becomes of a guest that is destroyed.
pub(super) const DESTROY_NOTE: &str = "A guest is stopped (--stop, if it runs), renamed, protected and never started again, and removed with its disks \
    when --keep is over, or at once with --now. The order is for the very guest in the host's last report: another one of its number is left alone.";

/// What is done to guests alone.
#[derive(Debug, Subcommand)]
pub enum GuestVerb {
    /// Let a guest end by itself; it is held until other content is pushed or `op release`
    Shutdown {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// How long it may take [default: the host's own]
        #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
        timeout: Option<Duration>,
        /// Cut its power when it takes longer
        #[arg(long)]
        force: bool,
    },
    /// Let a guest end by itself and start it, with what waited for that
    Reboot {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// How long it may take to end by itself [default: the host's own]
        #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
        timeout: Option<Duration>,
    },
    /// Freeze a virtual machine; it is held until other content is pushed or `op release`
    Suspend {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// Write its memory to a disk, and cut its power
        #[arg(long)]
        to_disk: bool,
    },
    /// Let a frozen virtual machine go on
    Resume(OnGuest),
    /// Press the reset button of a virtual machine
    Reset(OnGuest),
    /// Change the config of a guest; it is held until other content is pushed or `op release`
    #[command(after_help = CONFIG_EXAMPLE)]
    SetConfig(SetConfigArgs),
    /// Grow a disk of a guest, which never shrinks again; it is held until other content is pushed or `op release`
    Resize {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// The disk's key, such as scsi0
        #[arg(value_name = "DISK")]
        disk: String,
        /// Its size then, such as 32G; not by how much it grows
        #[arg(value_name = "SIZE")]
        size: String,
    },
    /// Make, remove, list and go back to snapshots of a guest
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// Make another guest of one
    Clone(CloneArgs),
    /// Make a guest
    #[command(
        after_help = "The number is the new guest's: moorctl op create pve-1/205 --type lxc --ostemplate local:vztmpl/debian-12.tar.zst \
        --config hostname=cache --config rootfs=local-lvm:8"
    )]
    Create(CreateArgs),
    /// Make a backup of a guest
    Backup {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// The storage that it goes to
        #[arg(long, value_name = "STORAGE")]
        storage: String,
        /// What is done with it meanwhile if it runs: snapshot (it runs on), suspend or stop [default: snapshot]
        #[arg(long, value_name = "MODE", value_parser = mode)]
        mode: Option<BackupMode>,
        /// What the backup says of itself
        #[arg(long, value_name = "TEXT")]
        notes: Option<String>,
        /// Let nothing remove the backup
        #[arg(long)]
        protected: bool,
    },
    /// Make a guest from a backup, or bring one back to it; it is held until other content is pushed or `op release`
    #[command(after_help = "The number is the one that the guest gets: moorctl op restore pve-1/101 --archive \
        local:backup/vzdump-qemu-101-2026_11_23-10_00_00.vma.zst --over")]
    Restore(RestoreArgs),
    /// Bring a guest to another node of its cluster; it is held until other content is pushed or `op release`
    Migrate {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// The node
        #[arg(long, value_name = "NODE")]
        to: String,
        /// While it runs; a container is started anew there
        #[arg(long)]
        online: bool,
        /// With disks that only this node has
        #[arg(long)]
        with_local_disks: bool,
        /// The storage there for its disks [default: of the same name]
        #[arg(long, value_name = "STORAGE")]
        target_storage: Option<String>,
    },
    /// Watch whether a guest runs, and goes on to; a virtual machine's guest agent must answer, where it has one. Changes nothing
    Check {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// How long it must be seen to run, without a break, from now on; 0s: one look
        #[arg(long = "for", value_name = "SPAN", default_value = "30s", value_parser = clock::parse_span)]
        span: Duration,
        /// Within how long it must have done so; it counts as failed then
        #[arg(long, value_name = "SPAN", default_value = "5m", value_parser = clock::parse_span)]
        timeout: Duration,
    },
}

/// What is done with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotVerb {
    /// Make a snapshot
    Create {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// Its name [default: one with the operation's id]
        #[arg(value_name = "NAME")]
        name: Option<String>,
        /// What it says of itself
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// With the memory of a virtual machine that runs
        #[arg(long)]
        memory: bool,
    },
    /// Remove a snapshot for good
    Delete {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// Its name
        #[arg(value_name = "NAME")]
        name: String,
        /// Take it out of the config also when its disks cannot be removed
        #[arg(long)]
        force: bool,
    },
    /// Bring a guest back to a snapshot: what was written since is lost; it is held until other content is pushed or `op release`
    Rollback {
        /// Where
        #[command(flatten)]
        on: OnGuest,
        /// The snapshot's name
        #[arg(value_name = "NAME")]
        name: String,
        /// Start it then
        #[arg(long)]
        start: bool,
    },
    /// List the snapshots of a guest, as its host sees them now
    List(OnGuest),
}

/// One guest, and how it is ordered.
#[derive(Debug, Clone, Args)]
pub struct OnGuest {
    /// A guest on a host, by its number, or by its name in the host's report: pve-1/101, pve-1/guest/101, pve-1/guest/db
    #[arg(value_name = "HOST/GUEST")]
    pub target: String,
    /// How it is ordered
    #[command(flatten)]
    pub order: OrderArgs,
}

impl From<OnGuest> for OnOne {
    fn from(on: OnGuest) -> Self {
        Self { target: on.target, order: on.order }
    }
}

/// Arguments of `op set-config`.
#[derive(Debug, Args)]
pub struct SetConfigArgs {
    /// Where
    #[command(flatten)]
    pub on: OnGuest,
    /// Keys and their new values
    #[arg(value_name = "KEY=VALUE", value_parser = pair, required_unless_present = "delete")]
    pub set: Vec<(String, String)>,
    /// A key to take out; may be repeated
    #[arg(long, value_name = "KEY")]
    pub delete: Vec<String>,
    /// What kind of guest it is: qemu or lxc [default: as in the host's report]
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    pub kind: Option<GuestKind>,
    /// The version of its config that this is for [default: the one in the host's report]
    #[arg(long, value_name = "DIGEST", conflicts_with = "any_version")]
    pub digest: Option<String>,
    /// Also when its config was changed since the host's report
    #[arg(long)]
    pub any_version: bool,
}

/// Arguments of `op clone`.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// Where
    #[command(flatten)]
    pub on: OnGuest,
    /// The new guest's number
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub newid: Vmid,
    /// The new guest's name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// With copies of all disks [default: linked for a template, else full]
    #[arg(long, conflicts_with = "linked")]
    pub full: bool,
    /// With disks that go on from those of a template
    #[arg(long)]
    pub linked: bool,
    /// The snapshot that it is made of [default: as it is now]
    #[arg(long, value_name = "NAME")]
    pub snapshot: Option<String>,
    /// The storage for its disks
    #[arg(long, value_name = "STORAGE")]
    pub storage: Option<String>,
    /// The pool that it is put in
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
}

/// Arguments of `op create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Where
    #[command(flatten)]
    pub on: OnGuest,
    /// What kind of guest: qemu or lxc
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    pub kind: GuestKind,
    /// A key of its config with its value; may be repeated. It is signed with the order: never a secret
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub config: Vec<(String, String)>,
    /// The template of a container
    #[arg(long, value_name = "VOLID")]
    pub ostemplate: Option<String>,
    /// The storage for disks whose own is not said
    #[arg(long, value_name = "STORAGE")]
    pub storage: Option<String>,
    /// The pool that it is put in
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Start it then
    #[arg(long)]
    pub start: bool,
}

/// Arguments of `op restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Where
    #[command(flatten)]
    pub on: OnGuest,
    /// The backup
    #[arg(long, value_name = "VOLID")]
    pub archive: String,
    /// What kind of guest it holds: qemu or lxc [default: as the backup's name says]
    #[arg(long = "type", value_name = "TYPE", value_parser = kind)]
    pub kind: Option<GuestKind>,
    /// The storage for its disks [default: where they were]
    #[arg(long, value_name = "STORAGE")]
    pub storage: Option<String>,
    /// With addresses and ids of its own, beside the guest that the backup is of
    #[arg(long)]
    pub unique: bool,
    /// In the place of the guest that has the number: what it holds is lost
    #[arg(long)]
    pub over: bool,
    /// Start it then
    #[arg(long)]
    pub start: bool,
}

/// What `op destroy` has for guests alone.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Guests")]
pub struct DestroyArgs {
    /// Of a guest: cut its power first if it runs; else a running one is refused
    #[arg(long)]
    pub stop: bool,
    /// Of a guest: make a snapshot first, which goes with it in the end
    #[arg(long)]
    pub snapshot_first: bool,
    /// Of a guest: make a backup to this storage first, which stays
    #[arg(long, value_name = "STORAGE")]
    pub backup_first: Option<String>,
    /// Of a guest: remove it at once
    #[arg(long, conflicts_with = "keep")]
    pub now: bool,
    /// Of a guest: how long it is kept, under another name and protected, before it is removed [default: 1w]
    #[arg(long, value_name = "SPAN", value_parser = clock::parse_span)]
    pub keep: Option<Duration>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, such as memory=2048".to_owned()),
    }
}

fn kind(text: &str) -> Result<GuestKind, String> {
    match text {
        "qemu" => Ok(GuestKind::Qemu),
        "lxc" => Ok(GuestKind::Lxc),
        _ => Err("write qemu for a virtual machine, lxc for a container".to_owned()),
    }
}

fn mode(text: &str) -> Result<BackupMode, String> {
    match text {
        "snapshot" => Ok(BackupMode::Snapshot),
        "suspend" => Ok(BackupMode::Suspend),
        "stop" => Ok(BackupMode::Stop),
        _ => Err("write snapshot, suspend or stop".to_owned()),
    }
}

fn number(text: &str) -> Result<Vmid, String> {
    Vmid::parse(text).map_err(|e| e.to_string())
}

/// The word for a kind of guest.
pub(super) const fn kind_words(kind: GuestKind) -> &'static str {
    match kind {
        GuestKind::Qemu => "virtual machine",
        GuestKind::Lxc => "container",
    }
}
