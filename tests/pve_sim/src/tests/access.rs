//! Who is let in, and what each may do.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Client;
use crate::setup::{Grant, SECRET, Setup};
use crate::{Kind, Request};

fn limited(grants: &[Grant]) -> Client {
    let setup = Setup::default().with_token("someone@pve!x", grants);
    let setup =
        setup.with_guest(Kind::Qemu, 101, false, &[("memory", "512"), ("scsi0", "local-lvm:vm-101-disk-0,size=8G"), ("name", "db")]);
    let setup = setup.with_guest(Kind::Qemu, 102, false, &[("memory", "512")]);
    let setup = setup.with_guest(Kind::Lxc, 205, false, &[("memory", "512"), ("unprivileged", "1")]);
    Client { token: "someone@pve!x".to_owned(), ..Client::new(setup) }
}

#[tokio::test(start_paused = true)]
async fn who_is_unknown_waits_and_gets_no_json() {
    let client = Client::new(Setup::default());
    let nobody = Request::new("GET", "/api2/json/version");
    let wrong = nobody.clone().by_token(crate::setup::TOKEN, "no");
    let none = nobody.clone().by_token("moorline@pve!other", SECRET);
    let stranger = nobody.clone().by_token("stranger@pve!x", SECRET);
    for (request, words) in [
        (nobody, "No ticket"),
        (wrong, "invalid token value!"),
        (none, "no such token 'other' for user 'moorline@pve'"),
        (stranger, "no such user ('stranger@pve')"),
    ] {
        let began = Instant::now();
        let answer = client.sim.answer(request).await.unwrap();
        assert_eq!((answer.status, answer.reason.as_str(), answer.body.as_slice()), (401, words, b"".as_slice()));
        assert_eq!(began.elapsed(), Duration::from_secs(3));
    }
    let spaced = Request {
        authorization: Some(format!("PVEAPIToken {}%3D{SECRET};more", crate::setup::TOKEN)),
        ..Request::new("GET", "/api2/json/version")
    };
    assert_eq!(client.sim.answer(spaced).await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_needs_its_second_half_for_changes_and_ends_after_two_hours() {
    let client = Client::new(Setup::default());
    let token = client.no("POST", "/access/ticket", &[("username", "root@pam"), ("password", "secret")]).await;
    assert_eq!(token, (403, "URI '/access/ticket' not available with API token, need proper ticket.".to_owned()));
    let wrong = Request::new("POST", "/api2/json/access/ticket").form(&[("username", "root@pam"), ("password", "no")]);
    assert_eq!(client.sim.answer(wrong).await.unwrap().reason, "authentication failure");
    let root = client.with_ticket().await;
    root.get("/version").await;
    root.ok("PUT", "/nodes/pve-1/qemu/9000/config", &[("args", "-no-hpet")]).await;
    let (ticket, _) = root.ticket.clone().unwrap();
    let half = Client { ticket: Some((ticket, String::new())), ..root.as_root() };
    half.get("/version").await;
    let refused = half.no("PUT", "/nodes/pve-1/qemu/9000/config", &[("cores", "2")]).await;
    assert_eq!(refused, (401, "Permission denied - invalid csrf token".to_owned()));
    tokio::time::advance(Duration::from_secs(2 * 60 * 60)).await;
    assert_eq!(root.no("GET", "/version", &[]).await.0, 401);
}

#[tokio::test(start_paused = true)]
async fn lists_leave_out_what_may_not_be_looked_at_and_calls_are_forbidden_before_anything_is_looked_up() {
    let client = limited(&[Grant::new("/vms/101", &["VM.Audit"])]);
    let vmids = |list: Value| list.as_array().unwrap().iter().map(|item| item["vmid"].clone()).collect::<Vec<_>>();
    assert_eq!(vmids(client.get("/nodes/pve-1/qemu").await), [json!(101)]);
    assert_eq!(vmids(client.get("/cluster/resources?type=vm").await), [json!(101)]);
    assert!(vmids(client.get("/nodes/pve-1/lxc").await).is_empty());
    for vmid in ["102", "777"] {
        let refused = client.no("GET", &format!("/nodes/pve-1/qemu/{vmid}/config"), &[]).await;
        assert_eq!(refused, (403, format!("Permission check failed (/vms/{vmid}, VM.Audit)")));
    }
    // Also before the parameters are.
    assert_eq!(client.no("POST", "/nodes/pve-1/qemu/101/status/start", &[("nonsense", "1")]).await.0, 403);
    assert_eq!(client.get("/nodes/pve-1/storage").await, json!([]));
    let allowed = client.get("/access/permissions?path=/vms/101").await;
    assert_eq!(allowed, json!({ "/vms/101": { "VM.Audit": 1 } }));
}

#[tokio::test(start_paused = true)]
async fn each_key_of_a_config_needs_its_own_privilege() {
    let grants = [Grant::new("/vms/101", &["VM.Audit", "VM.Config.Options"]), Grant::new("/vms/205", &["VM.Audit", "VM.Config.Options"])];
    let client = limited(&grants);
    let (machine, container) = ("/nodes/pve-1/qemu/101/config", "/nodes/pve-1/lxc/205/config");
    client.ok("PUT", machine, &[("onboot", "1"), ("tags", "a")]).await;
    for (path, key, value, words) in [
        (machine, "memory", "1024", "/vms/101, VM.Config.Memory"),
        (machine, "cores", "2", "/vms/101, VM.Config.CPU"),
        (machine, "net0", "virtio", "/vms/101, VM.Config.Network"),
        (machine, "scsihw", "virtio-scsi-pci", "/vms/101, VM.Config.HWType"),
        (machine, "delete", "scsi0", "/vms/101, VM.Config.Disk"),
        (machine, "ciuser", "op", "/vms/101, VM.Config.Cloudinit|VM.Config.Network"),
        (machine, "startup", "order=1", "/, Sys.Modify"),
        (machine, "scsi1", "local-lvm:1", "/storage/local-lvm, Datastore.AllocateSpace"),
        (container, "memory", "1024", "/vms/205, VM.Config.Memory"),
        (container, "hostname", "x", "/vms/205, VM.Config.Network"),
        (container, "features", "nesting=1", "/vms/205, VM.Allocate"),
        (container, "features", "fuse=1", "changing feature flags (except nesting) is only allowed for root@pam"),
        (container, "hookscript", "local:snippets/hook.pl", "configuring a hookscript is only allowed for root@pam"),
        (container, "dev0", "/dev/kvm", "configuring device passthrough is only allowed for root@pam"),
    ] {
        let refused = client.no("PUT", path, &[(key, value)]).await;
        assert_eq!(refused, (403, format!("Permission check failed ({words})")), "{path} {key}");
    }
    for (key, value, words) in [
        ("args", "-x", "only root can set 'args' config"),
        ("hookscript", "local:snippets/hook.pl", "only root can set 'hookscript' config"),
        ("lock", "backup", "only root can set 'lock' config"),
    ] {
        assert_eq!(client.no("PUT", machine, &[(key, value)]).await, (500, words.to_owned()));
        // A token of root's is not root.
        assert_eq!(client.as_root().no("PUT", machine, &[(key, value)]).await, (500, words.to_owned()));
    }
    let skip = client.as_root().no("PUT", machine, &[("onboot", "0"), ("skiplock", "1")]).await;
    assert_eq!(skip, (400, "Parameter verification failed.{\"skiplock\":\"Only root may use this option.\"}".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_and_a_bind_mount_have_to_be_allowed_as_well() {
    let config = ["VM.Audit", "VM.Config.Network", "VM.Config.Disk", "VM.Config.Options"];
    let client = limited(&[Grant::new("/vms", &config)]);
    let refused = client.no("PUT", "/nodes/pve-1/qemu/101/config", &[("net0", "virtio,bridge=vmbr0,tag=5")]).await;
    assert_eq!(refused, (403, "Permission check failed (/sdn/zones/localnetwork/vmbr0/5, SDN.Use)".to_owned()));
    let bind = client.no("PUT", "/nodes/pve-1/lxc/205/config", &[("mp0", "/srv,mp=/data")]).await;
    assert_eq!(bind, (403, "Permission check failed (mount point type bind is only allowed for root@pam)".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_its_own_may_do_what_both_it_and_its_user_may_and_pools_count() {
    let mut setup = Setup::default().with_token("someone@pve!x", &[Grant::new("/pool/prod", &["VM.Audit", "VM.PowerMgmt"])]);
    setup = setup.with_guest(Kind::Qemu, 101, false, &[]).with_guest(Kind::Qemu, 102, false, &[]);
    setup.pools.insert("prod".to_owned(), [101].into());
    for user in setup.users.iter_mut().filter(|user| user.id == "someone@pve") {
        user.grants = vec![Grant::new("/pool/prod", &["VM.Audit"])];
    }
    let client = Client { token: "someone@pve!x".to_owned(), ..Client::new(setup) };
    client.get("/nodes/pve-1/qemu/101/config").await;
    assert_eq!(client.no("GET", "/nodes/pve-1/qemu/102/config", &[]).await.0, 403);
    assert_eq!(client.no("POST", "/nodes/pve-1/qemu/101/status/start", &[]).await.0, 403, "its user may not");
}

#[tokio::test(start_paused = true)]
async fn unknown_calls_and_nodes_are_said_to_be() {
    let client = Client::new(Setup::default());
    assert_eq!(
        client.no("GET", "/nodes/pve-1/nonsense", &[]).await,
        (501, "Method 'GET /nodes/pve-1/nonsense' not implemented".to_owned())
    );
    assert_eq!(client.no("POST", "/nodes/pve-1/lxc/205/status/reset", &[]).await.0, 501);
    assert_eq!(client.no("POST", "/nodes/pve-1/lxc/205/config", &[("cores", "1")]).await.0, 501);
    let (status, words) = client.no("GET", "/nodes/other/qemu", &[]).await;
    assert_eq!(
        (status, words.as_str()),
        (500, "hostname lookup 'other' failed - failed to get address info for: other: Name or service not known")
    );
    assert_eq!(
        client.no("PUT", "/nodes/pve-1/qemu/9000/config", &[("vmid", "9000")]).await,
        (400, "duplicate parameter (already defined in URI) 'vmid'".to_owned())
    );
    assert_eq!(client.get("/nodes/localhost/qemu").await.as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_old_host_tells_failures_in_its_first_line_alone() {
    let client = Client::new(Setup { old_errors: true, ..Setup::default() });
    let answer = client.raw("GET", "/nodes/pve-1/qemu/777/config", &[]).await;
    assert_eq!(answer.reason, "Configuration file 'nodes/pve-1/qemu-server/777.conf' does not exist");
    assert_eq!(answer.body, br#"{"data":null}"#);
}

#[tokio::test(start_paused = true)]
async fn bodies_come_with_what_has_one_and_in_two_forms() {
    let client = limited(&[Grant::new("/", &crate::setup::PRIVILEGES)]);
    let call =
        |method: &str, path: &str| Request::new(method, &format!("/api2/json/nodes/pve-1/qemu/101{path}")).by_token(&client.token, SECRET);
    let delete = client.sim.answer(call("DELETE", "").form(&[("purge", "1")])).await.unwrap();
    assert_eq!((delete.status, delete.reason.as_str()), (501, "Unexpected content for method 'DELETE'"));
    let put = client.sim.answer(call("PUT", "/config?cores=3").json(&json!({ "cores": 2, "onboot": true, "tags": "a;b" }))).await.unwrap();
    assert_eq!(put.status, 200, "{put:?}");
    let config = client.get("/nodes/pve-1/qemu/101/config").await;
    assert_eq!((config["cores"].as_i64(), config["onboot"].as_i64(), config["tags"].as_str()), (Some(3), Some(1), Some("a;b")));
    let other = Request { content_type: Some("text/plain".to_owned()), body: b"cores=4".to_vec(), ..call("PUT", "/config") };
    assert_eq!(client.sim.answer(other).await.unwrap().status, 506);
    assert_eq!(client.no("PUT", "/nodes/pve-1/qemu/101/config", &[("sshkeys", "nonsense")]).await.1, "SSH public key validation error");
}
