//! What a real engine makes of each option, and reads back.

use moorline_common::id::HostName;
use moorline_common::plan::compare;
use moorline_common::plan::{Action, Plan};
use moorline_common::topology::{BoundHost, Options};
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
            "expose": ["53/udp", "80/tcp"], "extra_hosts": ["db.example:10.0.0.5", "host.example:host-gateway"], "group_add": ["1005"], "init": true, "ipc": "shareable",
            "logging": { "driver": "json-file", "options": { "max-size": "10m" } }, "mem_limit": 64 << 20, "mem_reservation": 32 << 20,
            "oom_score_adj": 100, "pids_limit": 200, "read_only": true, "runtime": "runc",
            "security_opt": ["no-new-privileges=true", "seccomp=unconfined"], "shm_size": 32 << 20, "stdin_open": true,
            "sysctls": { "net.core.somaxconn": "1024" }, "tmpfs": { "/run": "size=1m,mode=755", "/var/tmp": "" }, "tty": true, "ulimits": { "nofile": { "soft": 200, "hard": 400 } },
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

/// Applies it until nothing is left to do; the steps that it took.
async fn settle(bench: &DockerBench, desired: &HostSpec) -> Vec<String> {
    let (identity, mut made) = (bench.identity(), Vec::new());
    for _ in 0..3 {
        let observed = bench.driver.observe().await.unwrap();
        bench.note(&observed);
        let steps = plan(&identity, desired, &observed).steps;
        for step in &steps {
            bench.driver.apply(step).await.unwrap_or_else(|e| panic!("{step}: {e:?}"));
        }
        made.extend(steps.iter().map(ToString::to_string));
    }
    let rest = plan(&identity, desired, &bench.driver.observe().await.unwrap());
    assert!(rest.steps.is_empty(), "{:?}", rest.steps.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(rest, Plan::default());
    made
}

#[tokio::test]
async fn every_option_reads_back_as_it_was_said_and_those_who_share_are_made_anew_together() {
    with_bench(|bench| async move {
        let spec = |services: &Value| -> HostSpec { serde_json::from_value(json!({ "docker": { "services": services } })).unwrap() };
        let mut wanted = services(&bench.images()[0]);
        assert_eq!(settle(&bench, &spec(&wanted)).await.len(), 8, "a network and seven containers, each made once");

        wanted["tuned"]["options"]["oom_score_adj"] = json!(101);
        let again = settle(&bench, &spec(&wanted)).await;
        assert_eq!(again.len(), 2, "{again:?}");
        assert!(again[0].contains("oom_score_adj is 100, should be 101") && again[1].contains("begins anew"), "{again:?}");

        // Started again by its engine it has another network, of which those who share the old one hear nothing.
        let name = format!("{}-tuned-1", bench.unique);
        bench.docker.restart_container(&name, None).await.unwrap();
        let again = settle(&bench, &spec(&wanted)).await;
        assert!(again.len() == 1 && again[0].contains("joined-1") && again[0].contains("before its last start"), "{again:?}");
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

/// Mounts, networks and numbers of containers, as the reader makes them.
fn shapes(image: &str, root: &str, grace: &str) -> HostSpec {
    let net = std::process::id() % 250;
    let text = format!(
        r#"
topology: conform
hosts:
  h:
    docker:
      networks:
        six: {{ enable_ipv6: true, attachable: true, ipam: {{ config: [{{ subnet: 10.250.{net}.0/24 }}, {{ subnet: "fd00:4d6f:{net}::/64" }}] }} }}
      volumes: {{ data: {{}} }}
      services:
        mounts:
          image: {image}
          stop_signal: KILL
          volumes:
            - {{ type: tmpfs, target: /scratch, tmpfs: {{ size: 1m, mode: 0o1770 }} }}
            - {{ type: volume, source: data, target: /data, volume: {{ nocopy: true }} }}
            - {{ type: bind, source: {root}, target: /made, bind: {{ create_host_path: true, propagation: private }} }}
            - {{ type: bind, source: {root}, target: /there, read_only: true, bind: {{ create_host_path: false }} }}
            - {root}:/labelled:ro,z
            - data:/again:nocopy
        pinned:
          image: {image}
          stop_signal: KILL
          stop_grace_period: {grace}
          networks: {{ six: {{ ipv4_address: 10.250.{net}.7, ipv6_address: "fd00:4d6f:{net}::7" }} }}
          healthcheck: {{ test: [CMD, "true"], interval: 1m, start_period: 10s }}
        many:
          image: {image}
          stop_signal: KILL
          networks: [six]
          deploy: {{ replicas: 3, resources: {{ limits: {{ cpus: "0.5", memory: 32m, pids: 50 }}, reservations: {{ memory: 16m }} }} }}
          depends_on: {{ pinned: {{ condition: service_started, restart: true }} }}
"#
    );
    let file = moorline_common::topology::load(&text).unwrap_or_else(|problems| panic!("{problems:?}"));
    let host = BoundHost { host_id: HostId::of_key(&[3; 32]), name: HostName::parse("h").unwrap(), labels: BTreeMap::new() };
    file.slice(&[host]).unwrap().hosts.into_values().next().unwrap()
}

#[tokio::test]
async fn mounts_addresses_and_numbers_of_containers_are_as_they_were_said() {
    with_bench(|bench| async move {
        let (image, root) = (bench.images()[0].clone(), bench.folder());
        let made = settle(&bench, &shapes(&image, &root, "5s")).await;
        assert_eq!(made.len(), 8, "two networks, a volume, five containers: {made:?}");
        let name = |service: &str| format!("{}-{service}", bench.unique);
        let live = bench.driver.observe().await.unwrap();
        let config = live.containers[&name("many-3")].config.clone().unwrap();
        assert_eq!(
            (config.options.cpus, config.options.mem_limit, config.options.pids_limit),
            (Some(500_000_000), Some(32 << 20), Some(50))
        );
        let mounts = &live.containers[&name("mounts-1")].config.as_ref().unwrap().volumes;
        assert_eq!((mounts["/scratch"].options.size, mounts["/scratch"].options.mode), (Some(1 << 20), Some(0o1770)));
        assert_eq!(mounts["/made"].options.propagation.as_deref(), Some("private"));

        let again = settle(&bench, &shapes(&image, &root, "6s")).await;
        assert_eq!(again.len(), 4, "it, and the three that are made anew with it: {again:?}");
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
