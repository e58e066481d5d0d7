//! Changes of guests that run: what they take, and what waits.

use serde_json::{Value, json};

use super::Client;
use crate::setup::{CONTAINER_TEMPLATE, Setup};

const QEMU: &str = "/nodes/pve-1/qemu/101";
const LXC: &str = "/nodes/pve-1/lxc/205";

async fn machine() -> Client {
    let client = Client::new(Setup::default());
    let new =
        [("vmid", "101"), ("scsi0", "local-lvm:8"), ("net0", "virtio=BC:24:11:00:00:01,bridge=vmbr0"), ("memory", "1024"), ("start", "1")];
    client.done("POST", "/nodes/pve-1/qemu", &new).await;
    client
}

/// What is now, what will be, and what the list of pending changes says of a key.
async fn three(client: &Client, guest: &str, key: &str) -> (Value, Value, Value) {
    let now = client.get(&format!("{guest}/config?current=1")).await;
    let next = client.get(&format!("{guest}/config")).await;
    let list = client.get(&format!("{guest}/pending")).await;
    let item = list.as_array().unwrap().iter().find(|item| item["key"] == key).cloned().unwrap_or(Value::Null);
    (now[key].clone(), next[key].clone(), item)
}

#[tokio::test(start_paused = true)]
async fn a_running_machine_takes_some_changes_and_others_wait_for_the_next_start() {
    let client = machine().await;
    let set = [
        ("memory", "2048"),
        ("cores", "2"),
        ("name", "db"),
        ("net1", "virtio,bridge=vmbr0"),
        ("scsi1", "local-lvm:1"),
        ("sata0", "local-lvm:1"),
        ("ciuser", "op"),
        ("cpulimit", "1"),
    ];
    client.ok("PUT", &format!("{QEMU}/config"), &set).await;
    for (key, waits) in [
        ("memory", true),
        ("cores", true),
        ("sata0", true),
        ("name", false),
        ("net1", false),
        ("scsi1", false),
        ("ciuser", false),
        ("cpulimit", false),
    ] {
        let (now, next, item) = three(&client, QEMU, key).await;
        assert_eq!((now != next, !item["pending"].is_null()), (waits, waits), "{key}: {now} {next} {item}");
    }
    assert_eq!(
        three(&client, QEMU, "memory").await,
        (json!("1024"), json!("2048"), json!({ "key": "memory", "value": "1024", "pending": "2048" }))
    );
    // Back to what it is: nothing waits.
    client.ok("PUT", &format!("{QEMU}/config"), &[("memory", "1024")]).await;
    assert_eq!(three(&client, QEMU, "memory").await.2, json!({ "key": "memory", "value": "1024" }));
    client.ok("PUT", &format!("{QEMU}/config"), &[("revert", "cores")]).await;
    assert!(three(&client, QEMU, "cores").await.2.is_null());
}

#[tokio::test(start_paused = true)]
async fn a_disk_takes_its_limits_while_it_is_used_and_not_its_cache() {
    let client = machine().await;
    let disk = "local-lvm:vm-101-disk-0";
    client.ok("PUT", &format!("{QEMU}/config"), &[("scsi0", &format!("{disk},mbps=10"))]).await;
    assert_eq!(three(&client, QEMU, "scsi0").await.0, json!(format!("{disk},mbps=10,size=8G")));
    client.ok("PUT", &format!("{QEMU}/config"), &[("scsi0", &format!("{disk},cache=writeback"))]).await;
    let (now, next, _) = three(&client, QEMU, "scsi0").await;
    assert_eq!((now, next), (json!(format!("{disk},mbps=10,size=8G")), json!(format!("{disk},cache=writeback,size=8G"))));
    let media = client.no("PUT", &format!("{QEMU}/config"), &[("scsi0", "none,media=cdrom")]).await;
    assert_eq!(media, (400, "Parameter verification failed.{\"scsi0\":\"hotplug problem - unable to change media type\"}".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_waits_as_well_and_is_hidden_from_the_merged_config() {
    let client = machine().await;
    client.ok("PUT", &format!("{QEMU}/config"), &[("delete", "memory,onboot,net0")]).await;
    assert_eq!(
        three(&client, QEMU, "memory").await,
        (json!("1024"), Value::Null, json!({ "key": "memory", "value": "1024", "delete": 1 }))
    );
    assert_eq!(three(&client, QEMU, "net0").await.0, Value::Null, "a card can be taken away");
    client.done("POST", &format!("{QEMU}/status/reboot"), &[]).await;
    assert_eq!(three(&client, QEMU, "memory").await, (Value::Null, Value::Null, Value::Null));
}

#[tokio::test(start_paused = true)]
async fn a_reset_applies_nothing_and_a_stop_and_a_start_apply_everything() {
    let client = machine().await;
    client.ok("PUT", &format!("{QEMU}/config"), &[("memory", "2048")]).await;
    client.done("POST", &format!("{QEMU}/status/reset"), &[]).await;
    assert_eq!(three(&client, QEMU, "memory").await.0, json!("1024"));
    client.done("POST", &format!("{QEMU}/status/stop"), &[]).await;
    assert_eq!(three(&client, QEMU, "memory").await.0, json!("1024"), "only when it starts");
    client.done("POST", &format!("{QEMU}/status/start"), &[]).await;
    assert_eq!(three(&client, QEMU, "memory").await.0, json!("2048"));
}

#[tokio::test(start_paused = true)]
async fn a_running_container_takes_memory_and_cores_and_not_its_name_servers() {
    let client = Client::new(Setup::default());
    let new = [("vmid", "205"), ("ostemplate", CONTAINER_TEMPLATE), ("rootfs", "local-lvm:4"), ("start", "1")];
    client.done("POST", "/nodes/pve-1/lxc", &new).await;
    let set = [
        ("memory", "1024"),
        ("swap", "0"),
        ("cores", "2"),
        ("hostname", "cache"),
        ("net0", "name=eth0,bridge=vmbr0"),
        ("mp0", "local-lvm:1,mp=/data"),
        ("nameserver", "192.0.2.1"),
        ("features", "nesting=1"),
        ("cmode", "shell"),
    ];
    client.ok("PUT", &format!("{LXC}/config"), &set).await;
    for (key, waits) in [
        ("memory", false),
        ("swap", false),
        ("cores", false),
        ("hostname", false),
        ("net0", false),
        ("mp0", false),
        ("nameserver", true),
        ("features", true),
        ("cmode", true),
    ] {
        let (now, next, _) = three(&client, LXC, key).await;
        assert_eq!(now != next, waits, "{key}: {now} {next}");
    }
    client.done("POST", &format!("{LXC}/status/reboot"), &[]).await;
    assert_eq!(three(&client, LXC, "nameserver").await.0, json!("192.0.2.1"));
}

#[tokio::test(start_paused = true)]
async fn what_is_absent_can_be_deleted_and_what_is_set_cannot() {
    let client = machine().await;
    let config = format!("{QEMU}/config");
    client.ok("PUT", &config, &[("delete", "onboot")]).await;
    assert_eq!(client.no("PUT", &config, &[]).await, (500, "no options specified".to_owned()));
    assert_eq!(client.no("PUT", &config, &[("onboot", "1"), ("delete", "onboot")]).await.0, 400);
    assert!(client.no("PUT", &config, &[("delete", "nonsense")]).await.1.contains("unknown option 'nonsense'"));
    let (status, words) = client.no("PUT", &config, &[("cores", "four"), ("nonsense", "1")]).await;
    assert!(status == 400 && words.contains("\"cores\"") && words.contains("\"nonsense\":\"property is not defined in schema"), "{words}");
    assert!(
        client.no("PUT", &config, &[("scsi9", "local-lvm:vm-101-disk-7")]).await.1.contains("no such logical volume pve/vm-101-disk-7")
    );
    assert!(client.no("PUT", &config, &[("boot", "order=scsi7")]).await.1.contains("invalid bootorder: device 'scsi7' does not exist'"));
    assert!(client.no("PUT", &config, &[("balloon", "4096")]).await.1.contains("balloon value too large"));
}

#[tokio::test(start_paused = true)]
async fn the_later_form_answers_a_task_or_nothing_when_it_was_done_in_time() {
    let client = machine().await;
    let config = format!("{QEMU}/config");
    client.done("POST", &config, &[("cores", "2")]).await;
    assert_eq!(client.ok("POST", &config, &[("cores", "3"), ("background_delay", "5")]).await, Value::Null);
    client.sim.change(|world| {
        world.faults.task_takes.push(crate::world::faults::TaskTakes { task: "qmconfig".into(), ms: 8_000 });
    });
    let upid = client.ok("POST", &config, &[("cores", "4"), ("background_delay", "5")]).await;
    assert_eq!(client.end(&upid).await, "OK");
    assert_eq!(client.get(&config).await["cores"], 4);
    let failed = client.no("POST", &config, &[("boot", "order=scsi7"), ("background_delay", "10")]).await;
    assert_eq!(failed, (500, "failed to update VM 101: invalid bootorder: device 'scsi7' does not exist'".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn any_change_of_the_file_is_another_digest_and_an_old_one_is_refused() {
    let client = machine().await;
    let config = format!("{QEMU}/config");
    let digest = || async { client.get(&config).await["digest"].as_str().unwrap().to_owned() };
    let first = digest().await;
    client.ok("PUT", &config, &[("memory", "2048"), ("digest", &first)]).await;
    let second = digest().await;
    assert_eq!(
        client.no("PUT", &config, &[("cores", "2"), ("digest", &first)]).await,
        (500, "checksum mismatch (file change by other user?)".to_owned())
    );
    client.done("POST", &format!("{QEMU}/snapshot"), &[("snapname", "before")]).await;
    let third = digest().await;
    assert!(first != second && second != third && third.len() == 40);
    let container = Client::new(Setup::default().with_guest(crate::Kind::Lxc, 205, false, &[("memory", "512")]));
    let refused = container.no("PUT", &format!("{LXC}/config"), &[("cores", "2"), ("digest", &first)]).await;
    assert_eq!(refused, (500, "detected modified configuration - file changed by other user? Try again.".to_owned()));
}
