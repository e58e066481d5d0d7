//! The property strings of guests' configs.
//!
//! Source: the API pages `PUT /nodes/{node}/qemu/{vmid}/config` and `PUT /nodes/{node}/lxc/{vmid}/config`.

use super::property::{Field, Format};
use super::{forms, scalar};

const ANY: Field = Field::Text(None);
const YES: Field = Field::Bool(Some(true));
const NO: Field = Field::Bool(Some(false));
const FLAG: Field = Field::Bool(None);
const COUNT: Field = Field::Int(0, i64::MAX, None);
const SOME: Field = Field::Int(1, i64::MAX, None);

const CACHE: Field = Field::Word(&["none", "writethrough", "writeback", "unsafe", "directsync"], Some("none"));
const IMAGE: Field = Field::Word(&["raw", "qcow", "qed", "qcow2", "vmdk", "cloop"], None);

/// Disks of virtual machines, on every bus; what a bus does not know the host refuses.
pub static DRIVE: Format = Format {
    bare: Some("file"),
    required: &["file"],
    keys: &[
        ("file", ANY),
        ("volume", Field::Alias("file")),
        ("size", Field::Size),
        ("format", IMAGE),
        ("media", Field::Word(&["cdrom", "disk"], Some("disk"))),
        ("cache", CACHE),
        ("aio", Field::Word(&["native", "threads", "io_uring"], None)),
        ("discard", Field::Word(&["ignore", "on"], Some("ignore"))),
        ("werror", Field::Word(&["enospc", "ignore", "report", "stop"], None)),
        ("rerror", Field::Word(&["ignore", "report", "stop"], None)),
        ("backup", YES),
        ("replicate", YES),
        ("shared", NO),
        ("detect_zeroes", FLAG),
        ("iothread", FLAG),
        ("ro", FLAG),
        ("scsiblock", NO),
        ("snapshot", FLAG),
        ("ssd", FLAG),
        ("queues", Field::Int(2, i64::MAX, None)),
        ("import-from", ANY),
        ("serial", Field::Checked(forms::disk_serial)),
        ("model", Field::Checked(forms::disk_model)),
        ("vendor", Field::Checked(forms::disk_vendor)),
        ("product", Field::Checked(forms::disk_product)),
        ("wwn", Field::Checked(forms::world_wide_name)),
        ("bps", COUNT),
        ("bps_rd", COUNT),
        ("bps_wr", COUNT),
        ("bps_max_length", SOME),
        ("bps_rd_max_length", SOME),
        ("bps_wr_max_length", SOME),
        ("bps_rd_length", Field::Alias("bps_rd_max_length")),
        ("bps_wr_length", Field::Alias("bps_wr_max_length")),
        ("iops", COUNT),
        ("iops_max", COUNT),
        ("iops_max_length", SOME),
        ("iops_rd", COUNT),
        ("iops_rd_max", COUNT),
        ("iops_rd_max_length", SOME),
        ("iops_wr", COUNT),
        ("iops_wr_max", COUNT),
        ("iops_wr_max_length", SOME),
        ("iops_rd_length", Field::Alias("iops_rd_max_length")),
        ("iops_wr_length", Field::Alias("iops_wr_max_length")),
        ("mbps", Field::Number),
        ("mbps_max", Field::Number),
        ("mbps_rd", Field::Number),
        ("mbps_rd_max", Field::Number),
        ("mbps_wr", Field::Number),
        ("mbps_wr_max", Field::Number),
    ],
};

/// `efidisk0`.
pub static EFI_DISK: Format = Format {
    bare: Some("file"),
    required: &["file"],
    keys: &[
        ("file", ANY),
        ("volume", Field::Alias("file")),
        ("size", Field::OwnSize),
        ("format", IMAGE),
        ("import-from", ANY),
        ("efitype", Field::Word(&["2m", "4m"], Some("2m"))),
        ("ms-cert", Field::Word(&["2011", "2023", "2023w", "2023k"], Some("2011"))),
        ("pre-enrolled-keys", NO),
    ],
};

/// `tpmstate0`.
pub static TPM_STATE: Format = Format {
    bare: Some("file"),
    required: &["file"],
    keys: &[
        ("file", ANY),
        ("volume", Field::Alias("file")),
        ("size", Field::OwnSize),
        ("format", Field::Word(&["raw", "qcow2", "vmdk"], None)),
        ("import-from", ANY),
        ("version", Field::Word(&["v1.2", "v2.0"], Some("v1.2"))),
    ],
};

/// `rootfs` of containers.
pub static ROOT: Format = Format {
    bare: Some("volume"),
    required: &["volume"],
    keys: &[
        ("volume", ANY),
        ("size", Field::Size),
        ("acl", FLAG),
        ("mountoptions", Field::Checked(forms::mount_options)),
        ("quota", FLAG),
        ("replicate", YES),
        ("ro", FLAG),
        ("shared", NO),
    ],
};

/// `mp[n]` of containers.
pub static MOUNT: Format = Format {
    bare: Some("volume"),
    required: &["volume", "mp"],
    keys: &[
        ("volume", ANY),
        ("mp", ANY),
        ("size", Field::Size),
        ("acl", FLAG),
        ("backup", FLAG),
        ("keepattrs", NO),
        ("mountoptions", Field::Checked(forms::mount_options)),
        ("quota", FLAG),
        ("replicate", YES),
        ("ro", FLAG),
        ("shared", NO),
    ],
};

const CARD: Field = Field::WordWith("model", "macaddr");

/// `net[n]` of virtual machines.
pub static CARDS: Format = Format {
    bare: Some("model"),
    required: &["model"],
    keys: &[
        (
            "model",
            Field::Word(
                &[
                    "virtio",
                    "e1000",
                    "e1000e",
                    "rtl8139",
                    "vmxnet3",
                    "e1000-82540em",
                    "e1000-82544gc",
                    "e1000-82545em",
                    "i82551",
                    "i82557b",
                    "i82559er",
                    "ne2k_isa",
                    "ne2k_pci",
                    "pcnet",
                ],
                None,
            ),
        ),
        ("macaddr", Field::Mac),
        ("virtio", CARD),
        ("e1000", CARD),
        ("e1000e", CARD),
        ("rtl8139", CARD),
        ("vmxnet3", CARD),
        ("e1000-82540em", CARD),
        ("e1000-82544gc", CARD),
        ("e1000-82545em", CARD),
        ("i82551", CARD),
        ("i82557b", CARD),
        ("i82559er", CARD),
        ("ne2k_isa", CARD),
        ("ne2k_pci", CARD),
        ("pcnet", CARD),
        ("bridge", Field::Checked(forms::interface)),
        ("firewall", FLAG),
        ("link_down", FLAG),
        ("mtu", Field::Int(1, 65_520, None)),
        ("queues", Field::Int(0, 64, None)),
        ("rate", Field::Number),
        ("tag", Field::Int(1, 4094, None)),
        ("trunks", Field::Checked(forms::ranges)),
    ],
};

/// `net[n]` of containers.
pub static INTERFACES: Format = Format {
    bare: None,
    required: &["name"],
    keys: &[
        ("name", Field::Checked(forms::interface)),
        ("type", Field::Word(&["veth"], Some("veth"))),
        ("hwaddr", Field::Mac),
        ("bridge", Field::Checked(forms::interface)),
        ("firewall", FLAG),
        ("link_down", FLAG),
        ("host-managed", FLAG),
        ("ip", Field::Checked(forms::ipv4)),
        ("ip6", Field::Checked(forms::ipv6)),
        ("gw", Field::Checked(forms::gateway4)),
        ("gw6", Field::Checked(forms::gateway6)),
        ("mtu", Field::Int(64, 65_535, None)),
        ("rate", Field::Number),
        ("tag", Field::Int(1, 4094, None)),
        ("trunks", Field::Checked(forms::numbers)),
    ],
};

/// `memory` of virtual machines, in MiB.
pub static MEMORY: Format =
    Format { bare: Some("current"), required: &["current"], keys: &[("current", Field::Int(16, i64::MAX, Some(512)))] };

/// `agent`.
pub static AGENT: Format = Format {
    bare: Some("enabled"),
    required: &["enabled"],
    keys: &[
        ("enabled", NO),
        ("type", Field::Word(&["virtio", "isa"], Some("virtio"))),
        ("freeze-fs", YES),
        ("freeze-fs-on-backup", Field::Alias("freeze-fs")),
        ("guest-fsfreeze", Field::Alias("freeze-fs")),
        ("fstrim_cloned_disks", NO),
    ],
};

/// `audio0`.
pub static AUDIO: Format = Format {
    bare: None,
    required: &["device"],
    keys: &[
        ("device", Field::Word(&["ich9-intel-hda", "intel-hda", "AC97"], None)),
        ("driver", Field::Word(&["spice", "none"], Some("spice"))),
    ],
};

/// `boot`.
pub static BOOT: Format = Format { bare: Some("legacy"), required: &[], keys: &[("legacy", ANY), ("order", Field::List)] };

/// `cpu`.
pub static CPU: Format = Format {
    bare: Some("cputype"),
    required: &[],
    keys: &[
        ("cputype", Field::Text(Some("kvm64"))),
        ("flags", Field::List),
        ("guest-phys-bits", Field::Int(32, 64, None)),
        ("hidden", NO),
        ("hv-vendor-id", ANY),
        ("phys-bits", ANY),
        ("reported-model", Field::Text(Some("kvm64"))),
    ],
};

/// `hostpci[n]`.
pub static HOST_PCI: Format = Format {
    bare: Some("host"),
    required: &[],
    keys: &[
        ("host", Field::List),
        ("mapping", Field::Checked(forms::config_id)),
        ("driver", Field::Word(&["vfio", "keep"], Some("vfio"))),
        ("device-id", ANY),
        ("vendor-id", ANY),
        ("sub-device-id", ANY),
        ("sub-vendor-id", ANY),
        ("legacy-igd", NO),
        ("mdev", ANY),
        ("pcie", NO),
        ("rombar", YES),
        ("romfile", ANY),
        ("x-vga", NO),
    ],
};

/// `ipconfig[n]`, for cloud-init.
pub static IP_CONFIG: Format = Format {
    bare: None,
    required: &[],
    keys: &[
        ("ip", Field::Checked(forms::ipv4)),
        ("gw", Field::Checked(forms::gateway4)),
        ("ip6", Field::Checked(forms::ipv6)),
        ("gw6", Field::Checked(forms::gateway6)),
    ],
};

/// `machine`.
pub static MACHINE: Format = Format {
    bare: Some("type"),
    required: &[],
    keys: &[
        ("type", Field::Machine),
        ("viommu", Field::Word(&["intel", "virtio"], None)),
        ("aw-bits", Field::Int(32, 64, None)),
        ("enable-s3", FLAG),
        ("enable-s4", FLAG),
    ],
};

/// `numa[n]`.
pub static NUMA: Format = Format {
    bare: None,
    required: &["cpus"],
    keys: &[
        ("cpus", Field::Checked(forms::ranges)),
        ("hostnodes", Field::Checked(forms::ranges)),
        ("memory", Field::Number),
        ("policy", Field::Word(&["preferred", "bind", "interleave"], None)),
    ],
};

/// `rng0`.
pub static RANDOM: Format = Format {
    bare: Some("source"),
    required: &["source"],
    keys: &[
        ("source", Field::Word(&["/dev/urandom", "/dev/random", "/dev/hwrng"], None)),
        ("max_bytes", Field::Int(0, i64::MAX, Some(1024))),
        ("period", Field::Int(0, i64::MAX, Some(1000))),
    ],
};

/// `smbios1`.
pub static SMBIOS: Format = Format {
    bare: None,
    required: &[],
    keys: &[
        ("uuid", Field::Checked(scalar::uuid)),
        ("base64", NO),
        ("family", Field::Checked(forms::base64)),
        ("manufacturer", Field::Checked(forms::base64)),
        ("product", Field::Checked(forms::base64)),
        ("serial", Field::Checked(forms::base64)),
        ("sku", Field::Checked(forms::base64)),
        ("version", Field::Checked(forms::base64)),
    ],
};

/// `startup`.
pub static STARTUP: Format = Format { bare: Some("order"), required: &[], keys: &[("order", COUNT), ("up", COUNT), ("down", COUNT)] };

/// `usb[n]`.
pub static USB: Format = Format {
    bare: Some("host"),
    required: &[],
    keys: &[("host", Field::Checked(forms::usb_device)), ("mapping", Field::Checked(forms::config_id)), ("usb3", NO)],
};

/// `vga`.
pub static DISPLAY: Format = Format {
    bare: Some("type"),
    required: &[],
    keys: &[
        (
            "type",
            Field::Word(
                &[
                    "cirrus",
                    "none",
                    "qxl",
                    "qxl2",
                    "qxl3",
                    "qxl4",
                    "serial0",
                    "serial1",
                    "serial2",
                    "serial3",
                    "std",
                    "virtio",
                    "virtio-gl",
                    "vmware",
                ],
                Some("std"),
            ),
        ),
        ("memory", Field::Int(4, 512, None)),
        ("clipboard", Field::Word(&["vnc"], None)),
    ],
};

/// `virtiofs[n]`.
pub static SHARED_FOLDER: Format = Format {
    bare: Some("dirid"),
    required: &["dirid"],
    keys: &[
        ("dirid", Field::Checked(forms::config_id)),
        ("cache", Field::Word(&["auto", "always", "metadata", "never"], Some("auto"))),
        ("direct-io", NO),
        ("expose-acl", NO),
        ("expose-xattr", NO),
    ],
};

/// `watchdog`.
pub static WATCHDOG: Format = Format {
    bare: Some("model"),
    required: &[],
    keys: &[
        ("model", Field::Word(&["i6300esb", "ib700"], Some("i6300esb"))),
        ("action", Field::Word(&["reset", "shutdown", "poweroff", "pause", "debug", "none"], None)),
    ],
};

/// `features` of containers. An API token may set `nesting` alone, and of unprivileged containers only.
pub static FEATURES: Format = Format {
    bare: None,
    required: &[],
    keys: &[
        ("nesting", NO),
        ("fuse", NO),
        ("keyctl", NO),
        ("mknod", NO),
        ("force_rw_sys", NO),
        ("mount", Field::Checked(forms::file_systems)),
    ],
};
