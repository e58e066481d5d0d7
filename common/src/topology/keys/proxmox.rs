//! The keys of guests of Proxmox VE. Those of their configs are Proxmox VE's own: see [`crate::pve::keys`].

use super::{Form, Object, key, required};

/// `proxmox`.
pub(crate) static PROXMOX: Object = Object {
    name: "a proxmox section",
    definition: "proxmox",
    about: "Guests of a Proxmox VE host, in Proxmox VE's own words.",
    keys: &[key("guests", Form::Guests(&GUEST), "Virtual machines and containers, by their numbers.")],
    never: &[],
    later: &["storage", "pools", "networks"],
};

/// An entry under `guests`.
pub(crate) static GUEST: Object = Object {
    name: "a guest",
    definition: "guest",
    about: "A virtual machine or container. It is never shrunk, moved or destroyed.",
    keys: &[
        required("type", Form::OneOf(&["qemu", "lxc"]), "`qemu` for a virtual machine, `lxc` for a container."),
        key("state", Form::OneOf(&["running", "stopped"]), "Whether it runs; left as it is when left out."),
        key(
            "config",
            Form::GuestConfig,
            "Its settings, in Proxmox VE's own keys. What is not named is not managed; `false` and `true` are 0 and 1.",
        ),
        key("from", Form::Object(&FROM), "What it is made of when it is not there. It says nothing about a guest that is."),
        key("adopt", Form::Text, "The incarnation of the guest that is taken over as it is; `moorctl import proxmox` finds it."),
        key(
            "drift",
            Form::OneOf(&["heal", "inbox"]),
            "What to do when the guest is not as the file says, instead of what the policy says.",
        ),
        key("shutdown", Form::TextOr(&SHUTDOWN), "How it is told to stop: how long it may take, or an object."),
        key(
            "reboot",
            Form::OneOf(&["never", "window", "now"]),
            "When it may be started anew for changes that wait for that; `never` when left out. `window`: in one of the host's maintenance windows.",
        ),
    ],
    never: &[
        ("name", "write it under `config`"),
        ("hostname", "write it under `config`"),
        ("cores", "write it under `config`"),
        ("memory", "write it under `config`"),
        ("tags", "write it under `config`"),
        ("template", "clone it with `from: { clone: … }`; making templates is no part of a topology"),
        ("vmid", "the key of the guest is its number"),
    ],
    later: &["snapshots", "backup", "firewall"],
};

/// `from`.
pub(crate) static FROM: Object = Object {
    name: "a guest's source",
    definition: "guest-source",
    about: "What a guest is made of: one of `clone`, `ostemplate`, `archive` and `iso`.",
    keys: &[
        key("clone", Form::Scalar, "The number of the guest or template that it is a clone of."),
        key("full", Form::Bool, "Of a clone: whether it has copies of all disks, instead of sharing those of a template."),
        key("snapshot", Form::Text, "Of a clone: the snapshot that it is made of."),
        key("ostemplate", Form::Text, "The template of a container, as `local:vztmpl/debian-12-standard_12.7-1_amd64.tar.zst`."),
        key("archive", Form::Text, "The backup that it is restored from, as `backups:backup/vzdump-qemu-101-….vma.zst`."),
        key("unique", Form::Bool, "Of a restored one: whether it gets network addresses and ids of its own."),
        key("iso", Form::Text, "The image that a virtual machine starts from at first, as `local:iso/debian.iso`: a disc in `ide2`."),
        key("storage", Form::Text, "The storage for its disks."),
        key("pool", Form::Text, "The pool that it is put in."),
    ],
    never: &[],
    later: &[],
};

/// The long form of `shutdown`.
pub(crate) static SHUTDOWN: Object = Object {
    name: "a guest's shutdown",
    definition: "guest-shutdown",
    about: "How a guest is told to stop.",
    keys: &[
        key("timeout", Form::Duration, "How long it may take: whole seconds, from `1s` to `1h`; `3m` when left out."),
        key("force", Form::Bool, "Whether its power is cut when it takes longer; `false` when left out."),
    ],
    never: &[],
    later: &[],
};
