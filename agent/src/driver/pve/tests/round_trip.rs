//! Every key that a topology may name, in several spellings: what was written and is read back is no difference.

use moorline_common::pve::GuestKind;
use moorline_common::pve::keys::{self, Shape};
use moorline_pve_sim::world::effects::EffectKind;

use super::*;

/// Spellings of the same value, for a key that has this one.
pub fn spellings(shape: Shape, text: &str) -> Vec<String> {
    let padded = |text: &str| vec![text.to_owned(), format!(" {text}"), format!("{text} ")];
    match shape {
        Shape::Bool(_) => {
            let words: &[&str] = if matches!(text, "1") { &["1", "on", "yes", "true"] } else { &["0", "off", "no", "false"] };
            words.iter().map(|word| (*word).to_owned()).collect()
        }
        Shape::Number(..) => vec![text.to_owned(), format!("{text}0"), format!("{text}00")],
        Shape::Description => vec![text.to_owned(), format!("{text}\n"), format!("{text}  \r\n\n")],
        Shape::Tags => {
            let mut words: Vec<&str> = text.split(';').collect();
            words.reverse();
            vec![text.to_owned(), words.join(","), words.join(" ").to_uppercase(), format!("{text};{}", words[0])]
        }
        Shape::SshKeys => {
            let encoded = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
            vec![text.to_owned(), format!("\n{}\n\n", text.replace('\n', "\n\n")), encoded]
        }
        Shape::Props(_) | Shape::Card(..) | Shape::Identity(..) | Shape::Volume(_) => {
            let mut parts: Vec<String> = text.split(',').map(str::to_owned).collect();
            let plain = parts.join(",");
            // The bare value stays in front: only its key could stand elsewhere.
            parts[1..].reverse();
            let reversed = parts.join(",");
            let yes: Vec<String> =
                parts.iter().map(|part| part.strip_suffix("=1").map_or_else(|| part.clone(), |key| format!("{key}=yes"))).collect();
            vec![plain, reversed.clone(), yes.join(","), format!("{reversed},")]
        }
        Shape::Int(..) | Shape::CpuUnits | Shape::Word(..) | Shape::Text(_) | Shape::DnsName | Shape::PasswordHash => padded(text),
    }
}

/// A value for every key of a machine.
pub const QEMU: &[(&str, &str)] = &[
    ("acpi", "0"),
    ("agent", "enabled=1,fstrim_cloned_disks=1,type=virtio"),
    ("agent", "enabled=0,fstrim_cloned_disks=1"),
    ("allow-ksm", "0"),
    ("audio0", "device=AC97,driver=none"),
    ("autostart", "1"),
    ("balloon", "512"),
    ("bios", "ovmf"),
    ("boot", "order=scsi0;net0"),
    ("cicustom", "user=local:snippets/user.yaml"),
    ("cipassword", "$6$salt$hash"),
    ("citype", "nocloud"),
    ("ciupgrade", "0"),
    ("ciuser", "op"),
    ("cores", "4"),
    ("cpu", "host,flags=+aes;-pcid,hidden=1"),
    ("cpulimit", "2.5"),
    ("cpuunits", "200"),
    ("description", "two\nlines: ä % & + ;"),
    ("efidisk0", "local-lvm:1,efitype=4m,pre-enrolled-keys=1"),
    ("freeze", "1"),
    ("hotplug", "network,disk"),
    ("ide0", "local-lvm:1,backup=0,ssd=1"),
    ("ipconfig0", "ip=10.0.0.2/24,gw=10.0.0.1"),
    ("keyboard", "de"),
    ("kvm", "0"),
    ("localtime", "1"),
    ("machine", "q35,viommu=intel"),
    ("memory", "2048"),
    ("migrate_downtime", "0.5"),
    ("migrate_speed", "10"),
    ("name", "db.example"),
    ("nameserver", "10.0.0.1"),
    ("net0", "model=virtio,bridge=vmbr0,firewall=1,tag=5"),
    ("numa", "1"),
    ("numa0", "cpus=0-1,memory=512"),
    ("onboot", "1"),
    ("ostype", "l26"),
    ("protection", "1"),
    ("reboot", "0"),
    ("rng0", "source=/dev/urandom,max_bytes=512,period=1000"),
    ("sata0", "local-lvm:1,discard=on,ssd=1"),
    ("scsi0", "local-lvm:2,discard=on,ssd=1,iothread=1"),
    ("scsihw", "virtio-scsi-single"),
    ("searchdomain", "example"),
    ("serial0", "socket"),
    ("shares", "500"),
    ("smbios1", "uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e"),
    ("sockets", "2"),
    ("sshkeys", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGcHIO8sWn2N0uHQL5zTqb4Ih1m4AC6W5T9E1Z1z0X9a a@b"),
    ("startdate", "now"),
    ("startup", "order=2,up=30,down=60"),
    ("tablet", "0"),
    ("tags", "db;prod;web"),
    ("tdf", "1"),
    ("tpmstate0", "local-lvm:1,version=v2.0"),
    ("usb0", "spice,usb3=1"),
    ("vcpus", "2"),
    ("vga", "virtio,memory=64"),
    ("virtio0", "local-lvm:1,iothread=1"),
    ("vmstatestorage", "local-lvm"),
    ("watchdog", "model=ib700,action=reset"),
];

/// And of a container.
pub const LXC: &[(&str, &str)] = &[
    ("cmode", "shell"),
    ("console", "0"),
    ("cores", "2"),
    ("cpulimit", "1.5"),
    ("cpuunits", "50"),
    ("debug", "1"),
    ("description", "two\nlines: ä % & + ;"),
    ("features", "nesting=1"),
    ("hostname", "cache"),
    ("memory", "1024"),
    ("mp0", "local-lvm:1,mp=/data,backup=1"),
    ("nameserver", "10.0.0.1"),
    ("net0", "name=eth0,bridge=vmbr0,firewall=1,ip=dhcp"),
    ("onboot", "1"),
    ("protection", "1"),
    ("rootfs", "local-lvm:4"),
    ("searchdomain", "example"),
    ("startup", "order=3,up=10"),
    ("swap", "0"),
    ("tags", "a;b"),
    ("timezone", "host"),
    ("tty", "1"),
    ("unprivileged", "0"),
];

/// Said when a container is made, or by its template; and what needs devices or folders that a host maps.
const APART: [&str; 5] = ["arch", "ostype", "entrypoint", "hostpci", "virtiofs"];

fn guest(kind: GuestKind, config: &Value) -> Value {
    match kind {
        GuestKind::Qemu => json!({ "type": "qemu", "config": config }),
        GuestKind::Lxc => {
            let template = moorline_pve_sim::setup::CONTAINER_TEMPLATE;
            json!({ "type": "lxc", "config": config, "from": { "ostemplate": template, "storage": "local-lvm" } })
        }
    }
}

fn shape(kind: GuestKind, key: &str) -> Shape {
    keys::find(kind, key).unwrap().shape
}

/// A disc that is there from the start.
const DISC: &str = "local:iso/debian-12.7.0-amd64-netinst.iso,media=cdrom";

fn has_grown(bench: &Bench) -> bool {
    bench.sim.inspect(|world| world.effects.iter().any(|effect| effect.kind == EffectKind::VolumeGrown))
}

#[test]
fn every_key_has_a_value_here() {
    for (kind, values) in [(GuestKind::Qemu, QEMU), (GuestKind::Lxc, LXC)] {
        for (key, known) in keys::all(kind) {
            let is_there = values.iter().any(|(name, _)| *name == key) || APART.contains(&known.name);
            assert!(is_there, "{} {key}", kind.as_str());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_key_is_no_difference_in_whichever_spelling_it_was_written_or_is_wanted() {
    for (kind, values) in [(GuestKind::Qemu, QEMU), (GuestKind::Lxc, LXC)] {
        for (key, text) in values {
            let all = spellings(shape(kind, key), text);
            assert!(all.len() >= 3, "{key}");
            for written in &all {
                let bench = Bench::new(Setup::default());
                let wanted = |text: &str| {
                    let mut config = json!({ *key: text });
                    if key.starts_with("mp") {
                        // Mount points are said together with the root.
                        config["rootfs"] = json!("local-lvm:4");
                    }
                    guests(json!({ "101": guest(kind, &config) }))
                };
                bench.settle(&wanted(written), None).await;
                assert!(!has_grown(&bench), "{key}: {written:?}: what was just made was grown");
                for spelling in &all {
                    for applied in [None, Some(&wanted(written))] {
                        let plan = bench.plan(&wanted(spelling), applied).await;
                        assert!(plan.is_settled(), "{key}: {written:?} then {spelling:?}: {plan:#?}");
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_whose_version_its_host_chose_is_as_it_was_wanted_and_keeps_it() {
    let wanted = |machine: &str| guests(json!({ "101": { "type": "qemu", "config": { "ostype": "win11", "machine": machine } } }));
    for (machine, pinned) in [("q35", "pc-q35-9.2+pve1"), ("pc", "pc-i440fx-9.2+pve1"), ("pc-q35-8.1", "pc-q35-8.1")] {
        let bench = Bench::new(Setup::default());
        bench.settle(&wanted(machine), None).await;
        let has = || bench.sim.inspect(|world| world.guests[&101].conf["machine"].clone());
        assert_eq!(has(), pinned);
        assert!(bench.plan(&wanted(machine), Some(&wanted(machine))).await.is_settled(), "{machine}");
        let more = format!("{machine},viommu=intel");
        bench.settle(&wanted(&more), Some(&wanted(machine))).await;
        assert_eq!(has(), format!("{pinned},viommu=intel"));
    }
}

#[tokio::test(start_paused = true)]
async fn tags_keep_their_case_where_the_cluster_does() {
    let wanted = |tags: &str| guests(json!({ "101": { "type": "qemu", "config": { "tags": tags } } }));
    let bench = Bench::new(Setup { case_sensitive_tags: true, ..Setup::default() });
    bench.settle(&wanted("Prod"), None).await;
    bench.settle(&wanted("Prod web"), Some(&wanted("Prod"))).await;
    assert_eq!(bench.sim.inspect(|world| world.guests[&101].conf["tags"].clone()), "Prod;moorline;web");
}

#[tokio::test(start_paused = true)]
async fn discs_of_a_machine_that_runs_are_changed_put_back_and_taken_out() {
    let wanted = |config: Value| guests(json!({ "101": { "type": "qemu", "state": "running", "config": config } }));
    let (disc, empty) = (json!({ "ide2": DISC }), json!({ "ide2": "none,media=cdrom" }));
    let bench = Bench::new(Setup::default());
    let has = || bench.sim.inspect(|world| world.guests[&101].conf.get("ide2").cloned()).unwrap_or_default();
    bench.settle(&wanted(disc.clone()), None).await;
    assert!(has().starts_with(DISC), "{}", has());
    bench.settle(&wanted(empty.clone()), Some(&wanted(disc.clone()))).await;
    assert_eq!(has(), "none,media=cdrom");
    // As if it were ejected by hand: it is put back.
    bench.settle(&wanted(disc.clone()), Some(&wanted(disc.clone()))).await;
    assert!(has().starts_with(DISC), "{}", has());
    bench.settle(&wanted(json!({})), Some(&wanted(disc))).await;
    let waits = bench.sim.inspect(|world| world.guests[&101].pending_deletes().contains_key("ide2"));
    assert!(waits || has().is_empty(), "{}", has());
}

/// Random numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        // xorshift64: <https://www.jstatsoft.org/article/view/v008i14>
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(sides).unwrap()).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn after_any_config_was_applied_nothing_is_left_to_do() {
    let mut dice = Dice(20_261_123);
    for round in 0..200 {
        let kind = if round % 2 == 0 { GuestKind::Qemu } else { GuestKind::Lxc };
        let values = if kind == GuestKind::Qemu { QEMU } else { LXC };
        let mut all = serde_json::Map::new();
        for number in 0..25 {
            let mut config = serde_json::Map::new();
            for (key, text) in values {
                // What is said once per cluster is left out where guests are many.
                if dice.throw(3) == 0 && *key != "smbios1" && *key != "vmgenid" {
                    let spellings = spellings(shape(kind, key), text);
                    config.insert((*key).to_owned(), Value::from(spellings[dice.throw(spellings.len())].clone()));
                }
            }
            if config.contains_key("unprivileged") {
                // Only root may set any of a privileged container.
                config.remove("features");
            }
            if config.contains_key("mp0") {
                config.insert("rootfs".to_owned(), json!("local-lvm:4"));
            }
            all.insert((200 + number).to_string(), guest(kind, &Value::Object(config)));
        }
        let bench = Bench::new(Setup::default());
        let desired = guests(Value::Object(all));
        bench.settle(&desired, None).await;
        assert!(!has_grown(&bench), "what was just made was grown");
        assert_eq!(bench.plan(&desired, Some(&desired)).await, Plan::default());
        assert_eq!(bench.sim.inspect(|world| world.wrong.clone()), Vec::<String>::new());
    }
}
