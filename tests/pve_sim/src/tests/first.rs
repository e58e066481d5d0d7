//! A guest's life, from its creation to its end.

use super::Client;
use crate::Setup;

#[tokio::test(start_paused = true)]
async fn a_machine_lives_from_its_creation_to_its_end() {
    let client = Client::new(Setup::default());
    let new = [
        ("vmid", "101"),
        ("name", "db"),
        ("cores", "2"),
        ("memory", "2048"),
        ("scsi0", "local-lvm:8,discard=on"),
        ("net0", "virtio,bridge=vmbr0"),
    ];
    client.done("POST", "/nodes/pve-1/qemu", &new).await;
    let config = client.get("/nodes/pve-1/qemu/101/config").await;
    assert_eq!((config["memory"].as_str(), config["cores"].as_i64()), (Some("2048"), Some(2)));
    assert_eq!(
        (config["scsi0"].as_str(), config["boot"].as_str()),
        (Some("local-lvm:vm-101-disk-0,discard=on,size=8G"), Some("order=scsi0;net0"))
    );
    assert!(config["net0"].as_str().unwrap().starts_with("virtio=BC:24:11:") && config["lock"].is_null(), "{config}");
    client.done("POST", "/nodes/pve-1/qemu/101/status/start", &[]).await;
    assert_eq!(client.fails("POST", "/nodes/pve-1/qemu/101/status/start", &[]).await, "VM 101 already running");
    client.ok("PUT", "/nodes/pve-1/qemu/101/config", &[("memory", "4096"), ("description", "a\n")]).await;
    let (merged, now) = (client.get("/nodes/pve-1/qemu/101/config").await, client.get("/nodes/pve-1/qemu/101/config?current=1").await);
    assert_eq!((merged["memory"].as_str(), now["memory"].as_str(), now["description"].as_str()), (Some("4096"), Some("2048"), Some("a")));
    client.done("POST", "/nodes/pve-1/qemu/101/snapshot", &[("snapname", "before"), ("description", "x")]).await;
    client.done("POST", "/nodes/pve-1/qemu/101/status/reboot", &[]).await;
    assert_eq!(client.get("/nodes/pve-1/qemu/101/config?current=1").await["memory"], "4096");
    assert_eq!(client.no("DELETE", "/nodes/pve-1/qemu/101", &[]).await, (500, "VM 101 is running - destroy failed".to_owned()));
    client.done("POST", "/nodes/pve-1/qemu/101/status/shutdown", &[]).await;
    client.done("DELETE", "/nodes/pve-1/qemu/101", &[("purge", "1")]).await;
    let gone = client.no("GET", "/nodes/pve-1/qemu/101/config", &[]).await;
    assert_eq!(gone, (500, "Configuration file 'nodes/pve-1/qemu-server/101.conf' does not exist".to_owned()));
    assert!(client.sim.inspect(|world| world.storages["local-lvm"].volumes.keys().all(|name| !name.contains("101"))));
}

#[tokio::test(start_paused = true)]
async fn a_container_lives_too() {
    let client = Client::new(Setup::default());
    let new = [
        ("vmid", "205"),
        ("ostemplate", crate::setup::CONTAINER_TEMPLATE),
        ("rootfs", "local-lvm:8"),
        ("net0", "name=eth0,bridge=vmbr0,ip=dhcp"),
        ("features", "nesting=1"),
        ("description", "x"),
    ];
    client.done("POST", "/nodes/pve-1/lxc", &new).await;
    let config = client.get("/nodes/pve-1/lxc/205/config").await;
    assert_eq!(
        (config["ostype"].as_str(), config["hostname"].as_str(), config["unprivileged"].as_i64()),
        (Some("debian"), Some("CT205"), Some(1))
    );
    assert_eq!((config["memory"].as_i64(), config["swap"].as_i64(), config["description"].as_str()), (Some(512), Some(512), Some("x\n")));
    client.done("POST", "/nodes/pve-1/lxc/205/status/start", &[]).await;
    assert_eq!(client.no("POST", "/nodes/pve-1/lxc/205/status/start", &[]).await, (500, "CT 205 already running".to_owned()));
    client.ok("PUT", "/nodes/pve-1/lxc/205/config", &[("memory", "1024"), ("nameserver", "192.0.2.1")]).await;
    let now = client.get("/nodes/pve-1/lxc/205/config?current=1").await;
    assert_eq!((now["memory"].as_i64(), now["nameserver"].as_str()), (Some(1024), None));
    client.done("DELETE", "/nodes/pve-1/lxc/205", &[("force", "1")]).await;
}

#[tokio::test(start_paused = true)]
async fn a_template_is_copied() {
    let client = Client::new(Setup::default());
    client.done("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "101"), ("name", "db")]).await;
    client.done("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "102"), ("full", "1"), ("storage", "tank")]).await;
    let (linked, full) = (client.get("/nodes/pve-1/qemu/101/config").await, client.get("/nodes/pve-1/qemu/102/config").await);
    let template = client.get("/nodes/pve-1/qemu/9000/config").await;
    assert_eq!((linked["name"].as_str(), full["name"].as_str()), (Some("db"), Some("Copy-of-VM-debian-12")));
    assert_eq!(
        (linked["scsi0"].as_str(), full["scsi0"].as_str()),
        (Some("local-lvm:vm-101-disk-0,size=4G"), Some("tank:vm-102-disk-0,size=4G"))
    );
    for key in ["net0", "smbios1", "vmgenid"] {
        assert!(linked[key] != template[key] && linked[key] != full[key], "{key}");
    }
    assert!(linked["template"].is_null());
    let taken = client.no("POST", "/nodes/pve-1/qemu/9000/clone", &[("newid", "101")]).await;
    assert_eq!(taken, (500, "unable to create VM 101: config file already exists".to_owned()));
}
