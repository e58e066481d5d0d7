//! What comes back of what was written: a row of it each.

use serde_json::{Value, json};

use super::Client;
use crate::setup::{CONTAINER_TEMPLATE, Setup};

async fn machine() -> Client {
    let client = Client::new(Setup::default());
    client.done("POST", "/nodes/pve-1/qemu", &[("vmid", "101"), ("scsi0", "local-lvm:8"), ("net0", "virtio,bridge=vmbr0")]).await;
    client
}

async fn container() -> Client {
    let client = Client::new(Setup::default());
    let new = [("vmid", "205"), ("ostemplate", CONTAINER_TEMPLATE), ("rootfs", "tank:4"), ("net0", "name=eth0,bridge=vmbr0")];
    client.done("POST", "/nodes/pve-1/lxc", &new).await;
    client
}

const QEMU: &str = "/nodes/pve-1/qemu/101/config";
const LXC: &str = "/nodes/pve-1/lxc/205/config";

async fn kept(client: &Client, path: &str, key: &str, value: &str) -> Value {
    client.ok("PUT", path, &[(key, value)]).await;
    client.get(path).await[key].clone()
}

#[tokio::test(start_paused = true)]
async fn values_of_machines_come_back_as_hosts_keep_them() {
    let client = machine().await;
    for (key, value, back) in [
        ("description", "\n a\r\n100%: ä\n \n\n", json!("\n a\r\n100%: ä")),
        ("tags", "Prod, db;web prod", json!("db;prod;web")),
        ("memory", "2048", json!("2048")),
        ("cores", "4", json!(4)),
        ("onboot", "off", json!(0)),
        ("cpulimit", "2.50", json!("2.50")),
        ("cpuunits", "100000", json!(10_000)),
        ("agent", "enabled=yes,fstrim_cloned_disks=1", json!("enabled=yes,fstrim_cloned_disks=1")),
        ("startup", "up=30,order=2", json!("up=30,order=2")),
        ("searchdomain", "\"example\"  ", json!("example")),
        ("boot", "order=net0;scsi0", json!("order=net0;scsi0")),
        ("sshkeys", "ssh-ed25519%20AA%2B%20a%40b", json!("ssh-ed25519%20AA%2B%20a%40b")),
        ("cipassword", "secret", json!("**********")),
        (
            "ide2",
            "local:iso/debian-12.7.0-amd64-netinst.iso,media=cdrom",
            json!("local:iso/debian-12.7.0-amd64-netinst.iso,media=cdrom,size=631M"),
        ),
        ("scsi1", "local:1.5,ssd=yes,format=qcow2", json!("local:101/vm-101-disk-0.qcow2,size=1536M,ssd=1")),
        ("scsi2", "tank:1,backup=off", json!("tank:vm-101-disk-0,backup=0,size=1G")),
        ("efidisk0", "local-lvm:1,efitype=4m", json!("local-lvm:vm-101-disk-1,efitype=4m,size=4M")),
        (
            "net0",
            "tag=5,model=e1000,bridge=vmbr0,macaddr=bc:24:11:00:00:0a,firewall=true",
            json!("e1000=bc:24:11:00:00:0a,bridge=vmbr0,firewall=1,tag=5"),
        ),
    ] {
        assert_eq!(kept(&client, QEMU, key, value).await, back, "{key}={value}");
    }
}

#[tokio::test(start_paused = true)]
async fn values_of_containers_come_back_as_hosts_keep_them() {
    let client = container().await;
    for (key, value, back) in [
        ("description", "a\n\nb\n\n", json!("a\n\nb\n")),
        ("tags", "B a", json!("a;b")),
        ("memory", "1024", json!(1024)),
        ("swap", "0", json!(0)),
        ("cpulimit", "1.5", json!("1.5")),
        ("onboot", "true", json!(1)),
        ("nameserver", "192.0.2.1,192.0.2.2", json!("192.0.2.1 192.0.2.2")),
        ("mp0", "tank:1,mp=/data,backup=yes", json!("tank:subvol-205-disk-1,mp=/data,backup=1,size=1G")),
    ] {
        assert_eq!(kept(&client, LXC, key, value).await, back, "{key}={value}");
    }
    let config = client.get(LXC).await;
    assert_eq!(config["rootfs"], "tank:subvol-205-disk-0,size=4G");
    assert!(config["net0"].as_str().unwrap().ends_with(",type=veth"), "{config}");
}

#[tokio::test(start_paused = true)]
async fn nothing_and_zero_are_no_descriptions() {
    let (machine, container) = (machine().await, container().await);
    for empty in ["", "0"] {
        for (client, path) in [(&machine, QEMU), (&container, LXC)] {
            client.ok("PUT", path, &[("description", "x")]).await;
            assert_eq!(kept(client, path, "description", empty).await, Value::Null, "{path} {empty:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_left_out_is_a_new_one_at_every_write() {
    let (machine, container) = (machine().await, container().await);
    for (client, path, value) in [(machine, QEMU, "virtio,bridge=vmbr0"), (container, LXC, "name=eth0,bridge=vmbr0")] {
        let mut seen = vec![client.get(path).await["net0"].as_str().unwrap().to_owned()];
        for _ in 0..3 {
            let text = kept(&client, path, "net0", value).await.as_str().unwrap().to_owned();
            assert!(text.contains("=BC:24:11:") && !seen.contains(&text), "{text}");
            seen.push(text);
        }
        let carried = kept(&client, path, "net0", &seen[3]).await;
        assert_eq!(carried.as_str(), Some(seen[3].as_str()));
    }
}

#[tokio::test(start_paused = true)]
async fn tags_keep_case_and_order_where_the_datacenter_says_so() {
    let client = Client::new(Setup { case_sensitive_tags: true, tags_keep_order: true, ..Setup::default() });
    client.done("POST", "/nodes/pve-1/qemu", &[("vmid", "101"), ("tags", "Prod;db;Prod")]).await;
    assert_eq!(client.get(QEMU).await["tags"], "Prod;db");
}

#[tokio::test(start_paused = true)]
async fn what_is_made_at_creation_is_there_and_defaults_are_not() {
    let client = machine().await;
    let config = client.get(QEMU).await;
    for key in ["meta", "smbios1", "vmgenid", "boot", "digest"] {
        assert!(config[key].is_string(), "{key}: {config}");
    }
    for key in ["onboot", "memory", "cores", "ostype", "lock"] {
        assert!(config[key].is_null(), "{key}: {config}");
    }
    let root = client.with_ticket().await;
    let (one, two) = (kept(&root, QEMU, "vmgenid", "1").await, kept(&root, QEMU, "vmgenid", "1").await);
    assert!(one != two && one.as_str().unwrap().len() == 36);
}

#[tokio::test(start_paused = true)]
async fn the_form_that_makes_a_disk_makes_another_one_and_a_size_in_a_config_grows_none() {
    let client = machine().await;
    assert_eq!(kept(&client, QEMU, "scsi0", "local-lvm:vm-101-disk-0,size=100G,ssd=1").await, "local-lvm:vm-101-disk-0,size=8G,ssd=1");
    assert_eq!(kept(&client, QEMU, "scsi0", "local-lvm:8").await, "local-lvm:vm-101-disk-1,size=8G");
    assert_eq!(client.get(QEMU).await["unused0"], "local-lvm:vm-101-disk-0");
    // Taken back, it is unused no more, and the other one is, under the number that was free then.
    assert_eq!(kept(&client, QEMU, "scsi0", "local-lvm:vm-101-disk-0").await, "local-lvm:vm-101-disk-0,size=8G");
    let config = client.get(QEMU).await;
    assert_eq!((config["unused0"].as_str(), config["unused1"].as_str()), (None, Some("local-lvm:vm-101-disk-1")));
    client.ok("PUT", QEMU, &[("delete", "scsi0")]).await;
    let config = client.get(QEMU).await;
    assert_eq!(
        (config["scsi0"].is_null(), config["unused0"].as_str(), config["boot"].as_str()),
        (true, Some("local-lvm:vm-101-disk-0"), Some("order=net0"))
    );
    client.ok("PUT", QEMU, &[("delete", "unused0,unused1")]).await;
    assert!(client.sim.inspect(|world| world.storages["local-lvm"].volumes.keys().all(|name| !name.contains("-101-"))));
}

#[tokio::test(start_paused = true)]
async fn disks_grow_only_when_they_are_told_to_and_never_shrink() {
    let (client, resize) = (machine().await, "/nodes/pve-1/qemu/101/resize");
    client.done("PUT", resize, &[("disk", "scsi0"), ("size", "+2G")]).await;
    assert_eq!(client.get(QEMU).await["scsi0"], "local-lvm:vm-101-disk-0,size=10G");
    client.done("PUT", resize, &[("disk", "scsi0"), ("size", "10G")]).await;
    assert_eq!(client.fails("PUT", resize, &[("disk", "scsi0"), ("size", "1G")]).await, "shrinking disks is not supported");
    assert_eq!(client.fails("PUT", resize, &[("disk", "scsi5"), ("size", "1G")]).await, "disk 'scsi5' does not exist");
    let container = container().await;
    let same = container.no("PUT", "/nodes/pve-1/lxc/205/resize", &[("disk", "rootfs"), ("size", "4G")]).await;
    assert_eq!(same, (500, "disk is already at specified size".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_separator_that_is_not_encoded_loses_what_is_behind_it() {
    let client = machine().await;
    let mut request = crate::Request::new("PUT", &format!("/api2/json{QEMU}")).by_token(&client.token, crate::setup::SECRET);
    request.body = b"tags=a&cores=2;memory=1024".to_vec();
    assert_eq!(client.sim.answer(request.clone()).await.unwrap().status, 200);
    let config = client.get(QEMU).await;
    assert_eq!((config["tags"].as_str(), config["cores"].as_i64(), config["memory"].as_str()), (Some("a"), Some(2), Some("1024")));
    request.body = b"tags=a;b".to_vec();
    let answer = client.sim.answer(request).await.unwrap();
    assert_eq!(answer.status, 400, "`b` is a parameter of its own");
}
