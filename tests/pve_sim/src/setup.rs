//! What a simulated cluster begins as.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::world::guest::Kind;

/// 2026-11-23 10:00 UTC: when a simulated cluster begins, unless told otherwise.
pub const BEGINS_AT_MS: u64 = 1_795_428_000_000;
/// The token of [`Setup::default`].
pub const TOKEN: &str = "moorline@pve!agent";
/// Its secret.
pub const SECRET: &str = "11111111-2222-4333-8444-555555555555";
/// The token of `root@pam` of [`Setup::default`].
pub const ROOT_TOKEN: &str = "root@pam!x";
/// The volume of the container template of [`Setup::default`].
pub const CONTAINER_TEMPLATE: &str = "local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst";
/// The virtual machine of [`Setup::default`] that is a template.
pub const TEMPLATE: u32 = 9000;

/// A cluster as it begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// Seeds everything that is made up: addresses, ids.
    pub seed: u64,
    /// When it begins, in milliseconds since 1970.
    pub begins_at_ms: u64,
    /// The nodes; the first one is asked.
    pub nodes: Vec<String>,
    /// The version that it says it has.
    pub version: String,
    /// Failures are told in the first line of an answer alone, as before 2025.
    pub old_errors: bool,
    /// Lists write numbers as texts, as older hosts do.
    pub old_numbers: bool,
    /// Tags keep their case.
    pub case_sensitive_tags: bool,
    /// Tags keep their order.
    pub tags_keep_order: bool,
    /// The storages.
    pub storages: Vec<StorageSetup>,
    /// Who may call with a token.
    pub tokens: Vec<Token>,
    /// Who may log in, and what each may do.
    pub users: Vec<User>,
    /// vmids that the cluster keeps available.
    pub ha: BTreeSet<u32>,
    /// vmids that are copied to another node regularly.
    pub replicated: BTreeSet<u32>,
    /// Pools and the guests in them.
    pub pools: BTreeMap<String, BTreeSet<u32>>,
    /// Guests that are there from the start.
    pub guests: Vec<GuestSetup>,
    /// How long a task takes, by its type; see [`Setup::task_takes`].
    pub task_ms: BTreeMap<String, u64>,
    /// How often what `/cluster/resources` says of a guest's state is renewed.
    pub resources_every_ms: u64,
    /// How long the cluster takes to do what it was asked for a guest that it keeps available.
    pub ha_takes_ms: u64,
}

/// A storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageSetup {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: StorageKind,
    /// What it may hold: `images`, `rootdir`, `iso`, `vztmpl`, `backup`, `snippets`.
    pub content: BTreeSet<String>,
    /// How large it is, in bytes.
    pub total: u64,
    /// Whether all nodes see the same.
    #[serde(default)]
    pub shared: bool,
    /// Files in it from the start: names behind the `:` of a volume, and their sizes.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
    /// How many backups of a guest are kept when one is made with `remove`.
    #[serde(default)]
    pub keep_last: Option<u32>,
}

/// What a storage is, and so what it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A folder.
    Dir,
    /// LVM, without snapshots.
    Lvm,
    /// LVM with a thin pool.
    LvmThin,
    /// ZFS.
    ZfsPool,
}

impl StorageKind {
    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            StorageKind::Dir => "dir",
            StorageKind::Lvm => "lvm",
            StorageKind::LvmThin => "lvmthin",
            StorageKind::ZfsPool => "zfspool",
        }
    }
}

/// A token of the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// `user@realm!name`.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// Whether it may only do what it was granted itself (and its user may, too).
    pub privsep: bool,
    /// What it was granted.
    #[serde(default)]
    pub grants: Vec<Grant>,
}

/// A user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// `name@realm`.
    pub id: String,
    /// With what a ticket is got.
    #[serde(default)]
    pub password: String,
    /// What was granted.
    #[serde(default)]
    pub grants: Vec<Grant>,
}

/// Privileges at a path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The path, such as `/vms/101`.
    pub path: String,
    /// The privileges, such as `VM.Audit`.
    pub privileges: BTreeSet<String>,
    /// Whether they hold for everything below the path as well.
    #[serde(default = "yes")]
    pub propagate: bool,
}

fn yes() -> bool {
    true
}

impl Grant {
    /// Privileges at a path and below it.
    #[must_use]
    pub fn new(path: &str, privileges: &[&str]) -> Self {
        let privileges = privileges.iter().map(|privilege| (*privilege).to_owned()).collect();
        Self { path: path.to_owned(), privileges, propagate: true }
    }
}

/// A guest that is there from the start. Its config is taken as it is; volumes named in it are made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSetup {
    /// Its number.
    pub vmid: u32,
    /// What it is.
    pub kind: Kind,
    /// Where it is; the first node when left out.
    #[serde(default)]
    pub node: Option<String>,
    /// Its config.
    pub config: BTreeMap<String, String>,
    /// Whether it runs.
    #[serde(default)]
    pub running: bool,
}

/// Every privilege that there is.
pub const PRIVILEGES: [&str; 39] = [
    "Datastore.Allocate",
    "Datastore.AllocateSpace",
    "Datastore.AllocateTemplate",
    "Datastore.Audit",
    "Group.Allocate",
    "Mapping.Audit",
    "Mapping.Modify",
    "Mapping.Use",
    "Permissions.Modify",
    "Pool.Allocate",
    "Pool.Audit",
    "Realm.Allocate",
    "Realm.AllocateUser",
    "SDN.Allocate",
    "SDN.Audit",
    "SDN.Use",
    "Sys.Audit",
    "Sys.Console",
    "Sys.Modify",
    "Sys.PowerMgmt",
    "Sys.Syslog",
    "VM.Allocate",
    "VM.Audit",
    "VM.Backup",
    "VM.Clone",
    "VM.Config.CDROM",
    "VM.Config.CPU",
    "VM.Config.Cloudinit",
    "VM.Config.Disk",
    "VM.Config.HWType",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.GuestAgent.Audit",
    "VM.GuestAgent.Unrestricted",
    "VM.Migrate",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
];

const GIB: u64 = 1 << 30;

impl Default for Setup {
    fn default() -> Self {
        let all = Grant::new("/", &PRIVILEGES);
        let token = |id: &str, privsep, grants| Token { id: id.to_owned(), secret: SECRET.to_owned(), privsep, grants };
        let user = |id: &str, grants| User { id: id.to_owned(), password: "secret".to_owned(), grants };
        Self {
            seed: 1,
            begins_at_ms: BEGINS_AT_MS,
            nodes: vec!["pve-1".to_owned()],
            version: "9.1.3".to_owned(),
            old_errors: false,
            old_numbers: false,
            case_sensitive_tags: false,
            tags_keep_order: false,
            storages: storages(),
            tokens: vec![token(TOKEN, true, vec![all.clone()]), token(ROOT_TOKEN, false, Vec::new())],
            users: vec![user("moorline@pve", vec![all]), user("root@pam", Vec::new())],
            ha: BTreeSet::new(),
            replicated: BTreeSet::new(),
            pools: BTreeMap::new(),
            guests: vec![template()],
            task_ms: BTreeMap::new(),
            resources_every_ms: 10_000,
            ha_takes_ms: 10_000,
        }
    }
}

fn storages() -> Vec<StorageSetup> {
    let storage = |name: &str, kind, content: &[&str], total, files: &[(&str, u64)]| StorageSetup {
        name: name.to_owned(),
        kind,
        content: content.iter().map(|word| (*word).to_owned()).collect(),
        total,
        shared: false,
        files: files.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect(),
        keep_last: None,
    };
    let container = CONTAINER_TEMPLATE.trim_start_matches("local:");
    let files = [
        ("iso/debian-12.7.0-amd64-netinst.iso", 661_651_456),
        (container, 126_515_062),
        ("snippets/user.yaml", 512),
        ("snippets/hook.pl", 512),
    ];
    vec![
        storage("local", StorageKind::Dir, &["iso", "vztmpl", "backup", "snippets", "images"], 100 * GIB, &files),
        storage("local-lvm", StorageKind::LvmThin, &["images", "rootdir"], 350 * GIB, &[]),
        storage("tank", StorageKind::ZfsPool, &["images", "rootdir"], 500 * GIB, &[]),
    ]
}

fn template() -> GuestSetup {
    let config = [
        ("agent", "1"),
        ("boot", "order=scsi0;net0"),
        ("cores", "1"),
        ("memory", "1024"),
        ("meta", "creation-qemu=9.2.0,ctime=1795000000"),
        ("name", "debian-12"),
        ("net0", "virtio=BC:24:11:00:90:00,bridge=vmbr0"),
        ("ostype", "l26"),
        ("scsi0", "local-lvm:base-9000-disk-0,size=4G"),
        ("scsihw", "virtio-scsi-single"),
        ("smbios1", "uuid=9a1b6a1e-0000-4000-8000-000000009000"),
        ("template", "1"),
        ("vmgenid", "9a1b6a1e-0000-4000-9000-000000009000"),
    ];
    let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    GuestSetup { vmid: TEMPLATE, kind: Kind::Qemu, node: None, config, running: false }
}

impl Setup {
    /// With two nodes.
    #[must_use]
    pub fn two_nodes() -> Self {
        Self { nodes: vec!["pve-1".to_owned(), "pve-2".to_owned()], ..Self::default() }
    }

    /// With a token that may do only this, and whose user may do everything.
    #[must_use]
    pub fn with_token(mut self, id: &str, grants: &[Grant]) -> Self {
        self.tokens.retain(|token| token.id != id);
        self.tokens.push(Token { id: id.to_owned(), secret: SECRET.to_owned(), privsep: true, grants: grants.to_vec() });
        let user = id.split('!').next().unwrap_or(id);
        if !self.users.iter().any(|known| known.id == user) {
            self.users.push(User { id: user.to_owned(), password: String::new(), grants: vec![Grant::new("/", &PRIVILEGES)] });
        }
        self
    }

    /// With a guest that is there from the start.
    #[must_use]
    pub fn with_guest(mut self, kind: Kind, vmid: u32, running: bool, config: &[(&str, &str)]) -> Self {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.guests.push(GuestSetup { vmid, kind, node: None, config, running });
        self
    }

    /// How long a task of this type takes.
    #[must_use]
    pub fn task_takes(&self, kind: &str) -> u64 {
        self.task_ms.get(kind).copied().unwrap_or(200)
    }
}

impl Setup {
    /// What stands for the fingerprint of a node's certificate where there is no connection.
    #[must_use]
    pub fn made_up_fingerprint(&self, node: &str) -> String {
        use sha2::{Digest as _, Sha256};
        let bytes = Sha256::digest(format!("{}{node}", self.seed).as_bytes());
        bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
    }
}
