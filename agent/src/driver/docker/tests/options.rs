//! What a real engine makes of each option, and reads back.

use moorline_common::plan::compare;
use moorline_common::plan::{Action, Plan};
use moorline_common::topology::Options;
use serde_json::{Value, json};

use super::*;

/// A service for every set of options that one container can have.
fn services(image: &str) -> Value {
    let plain = json!({ "image": image, "stop_signal": "KILL" });
    let with = |options: Value| {
        let mut service = plain.clone();
        service["options"] = options;
        service
    };
    json!({
        "tuned": with(json!({
            "cap_add": ["CAP_SYS_TIME"], "cap_drop": ["CAP_MKNOD", "CAP_NET_RAW"], "cpu_shares": 512, "cpus": 500_000_000, "cpuset": "0",
            "device_cgroup_rules": ["c 1:3 mr"], "devices": [{ "source": "/dev/null", "target": "/dev/nothing", "permissions": "rw" }],
            "dns": ["10.0.0.53", "10.0.1.53"], "dns_opt": ["ndots:2"], "dns_search": ["shops.example"], "domainname": "shops.example",
            "extra_hosts": ["db.example:10.0.0.5", "host.example:host-gateway"], "group_add": ["1005"], "init": true, "ipc": "shareable",
            "logging": { "driver": "json-file", "options": { "max-size": "10m" } }, "mem_limit": 64 << 20, "mem_reservation": 32 << 20,
            "oom_score_adj": 100, "pids_limit": 200, "read_only": true, "runtime": "runc",
            "security_opt": ["no-new-privileges=true", "seccomp=unconfined"], "shm_size": 32 << 20, "stdin_open": true,
            "sysctls": { "net.core.somaxconn": "1024" }, "tty": true, "ulimits": { "nofile": { "soft": 200, "hard": 400 } },
        })),
        "quota": with(json!({ "cpu_period": 100_000, "cpu_quota": 50_000, "pids_limit": -1, "cap_drop": ["ALL"], "ipc": "private" })),
        "joined": with(json!({ "network_mode": "service:tuned", "ipc": "service:tuned", "pid": "service:quota" })),
        "host": with(json!({ "network_mode": "host", "pid": "host", "ipc": "host", "uts": "host", "userns_mode": "host", "security_opt": ["no-new-privileges=true"] })),
        "alone": with(json!({ "network_mode": "none", "ipc": "none", "logging": { "driver": "none" } })),
        "bridged": with(json!({ "network_mode": "bridge", "logging": { "options": { "max-file": "3", "max-size": "1m" } } })),
        "usual": with(json!({
            "cap_add": [], "devices": [], "dns": [], "init": false, "privileged": false, "read_only": false, "tty": false, "stdin_open": false,
            "oom_score_adj": 0, "sysctls": {}, "mem_limit": 0, "extra_hosts": [], "security_opt": [], "pid": "host",
        })),
    })
}

#[tokio::test]
async fn every_option_reads_back_as_it_was_said_and_those_who_share_are_made_anew_together() {
    with_bench(|bench| async move {
        let spec = |services: &Value| -> HostSpec { serde_json::from_value(json!({ "docker": { "services": services } })).unwrap() };
        let identity = bench.identity();
        let settle = async |desired: &HostSpec| {
            let mut made = Vec::new();
            for _ in 0..3 {
                let observed = bench.driver.observe().await.unwrap();
                bench.note(&observed);
                let steps = plan(&identity, desired, &observed).steps;
                for step in &steps {
                    bench.driver.apply(step).await.unwrap_or_else(|e| panic!("{step}: {e:?}"));
                }
                made.extend(steps.iter().map(ToString::to_string));
            }
            assert_eq!(plan(&identity, desired, &bench.driver.observe().await.unwrap()), Plan::default());
            made
        };
        let mut wanted = services(&bench.images()[0]);
        assert_eq!(settle(&spec(&wanted)).await.len(), 8, "a network and seven containers, each made once");

        wanted["tuned"]["options"]["pids_limit"] = json!(201);
        let again = settle(&spec(&wanted)).await;
        assert_eq!(again.len(), 2, "{again:?}");
        assert!(again[0].contains("pids_limit is 200, should be 201") && again[1].contains("begins anew"), "{again:?}");
    })
    .await;
}

/// Options that not every machine can start a container with.
fn rare(image: &str) -> Value {
    let one = |options: Value| json!({ "image": image, "options": options });
    json!({
        "all": one(json!({ "privileged": true, "security_opt": ["apparmor=unconfined"], "cap_add": ["ALL"], "cgroup": "host", "oom_kill_disable": true })),
        "swap": one(json!({ "mem_limit": 64 << 20, "memswap_limit": 128 << 20, "mem_swappiness": 10 })),
        "endless": one(json!({ "mem_limit": 64 << 20, "memswap_limit": -1 })),
        "apart": one(json!({ "security_opt": ["apparmor=unconfined", "label=disable"], "cgroup_parent": "/moorline-test" })),
    })
}

#[tokio::test]
async fn what_a_machine_may_lack_reads_back_from_a_container_that_is_not_started() {
    with_bench(|bench| async move {
        let desired: HostSpec = serde_json::from_value(json!({ "docker": { "services": rare(&bench.images()[0]) } })).unwrap();
        let observed = bench.driver.observe().await.unwrap();
        for step in plan(&bench.identity(), &desired, &observed).steps {
            let Action::CreateContainer(target) = &step.action else {
                bench.driver.apply(&step).await.unwrap();
                continue;
            };
            bench.by_hand(ByHand::HalfMade(target, &target.name)).await;
            let live = bench.driver.observe().await.unwrap().containers.remove(&target.name).unwrap();
            assert_eq!(compare::container(target, &live), [], "{}", target.name);
        }
    })
    .await;
}

#[test]
fn no_option_is_left_untried() {
    let services = [services("i"), rare("i")];
    let named = services.iter().flat_map(|s| s.as_object().unwrap().values()).filter_map(|service| service["options"].as_object());
    let mut tried: BTreeSet<&str> = named.flat_map(|options| options.keys().map(String::as_str)).collect();
    // For file systems with quotas alone.
    tried.insert("storage_opt");
    assert_eq!(tried, Options::KEYS.iter().copied().collect());
}
