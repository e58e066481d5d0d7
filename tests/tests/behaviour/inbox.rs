//! What differs is seen, decided and remembered: every transition of the inbox, through `moorctl`, on the real engine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bollard::models::{ContainerCreateBody, ContainerUpdateBody, HostConfig, NetworkConnectRequest, NetworkingConfig};
use bollard::query_parameters as query;
use moorline_tests::fleet::text;
use moorline_tests::image::IMAGE;
use moorline_tests::limits::SOON;
use moorline_tests::process::Output;
use moorline_tests::wait::{wait_for, wait_until};
use serde_json::Value;

use crate::setup::{EngineFleet, HOST, assert_says, event_kinds, moorctl, sqlite};

struct Inbox {
    t: EngineFleet,
    name: String,
    file: PathBuf,
}

impl Inbox {
    fn start(test: &str) -> Option<Self> {
        let t = EngineFleet::start(test)?;
        let name = t.topology();
        let yaml = format!(
            "# The shops.
topology: {name}
policy: {{ drift: inbox }}   # an operator decides

profiles:
  web:
    docker:
      networks: {{ front: {{}} }}
      services:
        # Everybody sees this one.
        site:
          image: {IMAGE}
          networks: [front]
          stop_grace_period: 1s
          mem_limit: 64m        # enough until Christmas
          pids_limit: 100
          environment: {{ GREETING: hello }}
        cache: {{ image: {IMAGE}, networks: [front], stop_grace_period: 1s }}
hosts:
  {HOST}: {{ use: [web] }}   # in the north
"
        );
        let file = t.fleet.file("shops.yaml", yaml).unwrap();
        t.fleet.moorctl(&["--yes", "push", "-f", text(&file).unwrap(), "--wait"]).unwrap().ok().unwrap();
        t.fleet.wait_converged(&t.operator, HOST, &name, 1).unwrap();
        Some(Self { t, name, file })
    }

    fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.name)
    }

    fn drift(&self, args: &[&str]) -> Output {
        moorctl(&self.t.fleet, &[&["drift"], args].concat())
    }

    /// Every drift, newest first.
    fn rows(&self) -> Vec<Value> {
        let said = self.drift(&["ls", "--all", "-o", "json"]).ok().unwrap();
        serde_json::from_str(&said.stdout).unwrap()
    }

    /// Waits for the newest drift of a field in a status; gives its number.
    fn wait(&self, field: &str, status: &str, actual: Option<&str>) -> String {
        let row = wait_for(&format!("{field} is {status} {actual:?}"), SOON, || {
            let newest = self.rows().into_iter().find(|row| row["field"] == field);
            Ok(newest.filter(|row| row["status"] == status && actual.is_none_or(|actual| row["actual"] == actual)))
        });
        row.unwrap_or_else(|e| panic!("{e:#}: {:#?}", self.rows()))["id"].to_string()
    }

    fn set_memory(&self, service: &str, mib: i64) {
        let body = ContainerUpdateBody { memory: Some(mib << 20), memory_swap: Some(mib << 21), ..Default::default() };
        self.t.engine.block_on(self.t.engine.docker().update_container(&self.container(service), body)).unwrap();
    }

    fn accept(&self, id: &str, more: &[&str]) -> Output {
        self.drift(&[&["accept", id, "-f", text(&self.file).unwrap()], more].concat())
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap()
    }
}

#[test]
fn a_value_is_followed_goes_stale_and_is_accepted_into_a_file_that_keeps_its_comments() {
    let Some(inbox) = Inbox::start("accept") else { return };
    let (before, site) = (inbox.text(), inbox.container("site"));
    let id = inbox.t.containers()[&site].id.clone();
    assert_says(&inbox.drift(&["ls"]), &["no open drift"]);

    inbox.set_memory("site", 128);
    let first = inbox.wait("mem_limit", "open", Some("128m"));
    inbox.set_memory("site", 96);
    assert_eq!(inbox.wait("mem_limit", "open", Some("96m")), first, "one row follows the value");
    inbox.set_memory("site", 64);
    assert_eq!(inbox.wait("mem_limit", "stale", None), first);
    assert_says(&inbox.accept(&first, &[]), &["drift_resolved", "stale"]);

    inbox.set_memory("site", 256);
    let second = inbox.wait("mem_limit", "open", Some("256m"));
    assert_ne!(first, second);
    let shown = inbox.drift(&["show", &second]).ok().unwrap();
    assert_says(&shown, &["verified", "docker.services.site.mem_limit: 256m", "update while it stays the same object"]);
    assert_says(&inbox.t.fleet.moorctl(&["drift", "accept", &second, "-f", text(&inbox.file).unwrap()]).unwrap(), &["needs_confirmation"]);
    assert_eq!(inbox.text(), before, "nobody said yes");

    // Nothing else is pushed along, and a push that fails leaves the file as it was.
    std::fs::write(&inbox.file, before.replace("hello", "good bye")).unwrap();
    assert_says(&inbox.accept(&second, &[]), &["base_moved", "would be pushed along"]);
    std::fs::write(&inbox.file, &before).unwrap();

    let accepted = inbox.accept(&second, &["--wait"]).ok().unwrap();
    assert_says(&accepted, &["+", "mem_limit: 256m", "by the report that the host signed"]);
    let after = inbox.text();
    for kept in [
        "# The shops.",
        "# an operator decides",
        "# Everybody sees this one.",
        "mem_limit: 64m        # enough until Christmas",
        "# in the north",
    ] {
        assert!(after.contains(kept), "`{kept}` is gone:\n{after}");
    }
    assert_eq!(after.lines().count(), before.lines().count(), "one line changed:\n{after}");
    let row = inbox.rows().into_iter().find(|row| row["status"] == "accepted").unwrap();
    assert_eq!(
        (row["status"].as_str(), row["accepted_generation"].as_u64(), row["resolved_by"].as_str()),
        (Some("accepted"), Some(2), Some("operator/admin"))
    );
    inbox.t.fleet.wait_converged(&inbox.t.operator, HOST, &inbox.name, 2).unwrap();
    assert_eq!(inbox.t.containers()[&site].id, id, "the same container goes on");
    assert_says(&inbox.drift(&["ls"]), &["no open drift"]);
    let kinds = event_kinds(&inbox.t.operator);
    assert_eq!(kinds.iter().filter(|k| *k == "drift_detected").count(), 2, "{kinds:?}");
}

#[test]
fn all_that_differs_in_one_resource_is_accepted_together() {
    let Some(inbox) = Inbox::start("together") else { return };
    let before = inbox.text();
    let body = ContainerUpdateBody { memory: Some(128 << 20), memory_swap: Some(128 << 21), pids_limit: Some(50), ..Default::default() };
    inbox.t.engine.block_on(inbox.t.engine.docker().update_container(&inbox.container("site"), body)).unwrap();
    let memory = inbox.wait("mem_limit", "open", Some("128m"));
    let processes = inbox.wait("pids_limit", "open", Some("50"));
    let alone = inbox.accept(&memory, &[]);
    assert_says(&alone, &["precondition_failed", "differs in pids_limit, too", "moorctl drift accept ID ID"]);
    inbox.t.engine.block_on(inbox.t.engine.docker().pause_container(&inbox.container("cache"))).unwrap();
    let elsewhere = inbox.wait("state", "open", Some("paused"));
    assert_says(&inbox.accept(&memory, &[&elsewhere]), &["is of another resource"]);
    assert_eq!(inbox.text(), before);

    let both = inbox.accept(&memory, &[&processes, "--wait"]).ok().unwrap();
    assert_says(&both, &["mem_limit: 128m", "pids_limit: 50"]);
    assert!(inbox.text().contains("mem_limit: 128m") && inbox.text().contains("pids_limit: 50"), "{}", inbox.text());
    let accepted = inbox.rows().into_iter().filter(|row| row["status"] == "accepted").count();
    assert_eq!(accepted, 2);
    let live = inbox.t.containers();
    assert!(live.contains_key(&inbox.container("site")));
}

#[test]
fn what_is_reverted_is_mended_in_place_or_made_anew_with_every_field_listed_first() {
    let Some(mut inbox) = Inbox::start("revert") else { return };
    let (docker, site) = (inbox.t.engine.docker().clone(), inbox.container("site"));
    let id = inbox.t.containers()[&site].id.clone();
    inbox.t.engine.kill_container(inbox.t.fleet.cluster(), &site).unwrap();
    let state = inbox.wait("state", "open", Some("exited (137)"));
    assert_says(&inbox.drift(&["accept", &state, "-f", text(&inbox.file).unwrap()]), &["what runs, not what stands still", "op stop"]);
    inbox.set_memory("site", 128);
    inbox.wait("mem_limit", "open", None);
    inbox.drift(&["revert", &state, "--reason", "shop is open"]).ok().unwrap();
    inbox.wait("state", "reverted", None);
    assert!(inbox.t.containers()[&site].running && inbox.t.containers()[&site].id == id);
    let memory = inbox.wait("mem_limit", "open", Some("128m"));

    // The hub dies between the order and the report that closes the row.
    inbox.drift(&["revert", &memory, "--no-wait"]).ok().unwrap();
    inbox.t.fleet.kill_hub().unwrap();
    inbox.t.fleet.start_hub().unwrap();
    assert_eq!(inbox.wait("mem_limit", "reverted", None), memory);

    // Somebody makes it anew with our labels and other words: only another container has the right ones.
    let live = inbox.t.engine.block_on(docker.inspect_container(&site, None)).unwrap();
    let labels = live.config.and_then(|c| c.labels);
    inbox.t.engine.remove_container(inbox.t.fleet.cluster(), &site).unwrap();
    let missing = inbox.wait("presence", "open", Some("missing"));
    let network = format!("{}_front", inbox.name);
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        labels,
        env: Some(vec!["GREETING=hacked".to_owned()]),
        host_config: Some(HostConfig { network_mode: Some(network.clone()), ..Default::default() }),
        networking_config: Some(NetworkingConfig { endpoints_config: Some([(network, Default::default())].into()) }),
        ..Default::default()
    };
    let options = query::CreateContainerOptionsBuilder::new().name(&site).build();
    inbox.t.engine.block_on(docker.create_container(Some(options), body)).unwrap();
    inbox.t.engine.block_on(docker.start_container(&site, None)).unwrap();
    let greeting = inbox.wait("environment.GREETING", "open", Some("hacked"));
    inbox.wait("presence", "stale", None);
    assert_says(&inbox.drift(&["revert", &missing]), &["drift_resolved"]);
    let asked = inbox.t.fleet.moorctl(&["drift", "revert", &greeting]).unwrap();
    assert_says(&asked, &["REPLACED", "environment.GREETING: hacked -> hello", "mem_limit", "needs_confirmation"]);
    inbox.drift(&["revert", &greeting]).ok().unwrap();
    inbox.wait("environment.GREETING", "reverted", None);
    wait_until("nothing is open", SOON, || Ok(inbox.drift(&["ls"]).text().contains("no open drift"))).unwrap();
    inbox.t.fleet.wait_converged(&inbox.t.operator, HOST, &inbox.name, 1).unwrap();
}

#[test]
fn strangers_are_shown_and_what_is_ignored_is_out_of_sight() {
    let Some(inbox) = Inbox::start("ignore") else { return };
    let (docker, guest) = (inbox.t.engine.docker().clone(), format!("{}guest", inbox.name));
    let body = ContainerCreateBody { image: Some(IMAGE.to_owned()), ..Default::default() };
    let options = query::CreateContainerOptionsBuilder::new().name(&guest).build();
    inbox.t.engine.block_on(docker.create_container(Some(options), body)).unwrap();
    let network = format!("{}_front", inbox.name);
    let connect = NetworkConnectRequest { container: guest.clone(), ..Default::default() };
    let connected = inbox.t.engine.block_on(docker.connect_network(&network, connect));
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let field = format!("containers.{guest}");
        let id = inbox.wait(&field, "open", Some("attached"));
        assert_says(&inbox.drift(&["show", &id]), &["a stranger is shown, and nothing else", "nothing that Moorline may do changes it"]);
        assert_says(&inbox.drift(&["revert", &id]), &["precondition_failed"]);
        assert_says(&inbox.drift(&["ignore", &id, "--for", "1h", "--reason", "the auditor's"]).ok().unwrap(), &["is ignored until"]);
        assert_says(&inbox.drift(&["ls"]), &["no open drift"]);
        assert_says(&inbox.drift(&["ls", "--all"]), &["ignored"]);
        field
    }));
    let remove = query::RemoveContainerOptionsBuilder::new().force(true).build();
    inbox.t.engine.block_on(docker.remove_container(&guest, Some(remove))).unwrap();
    connected.unwrap();
    inbox.wait(&seen.unwrap(), "stale", None);
}

#[test]
fn what_one_resource_says_of_its_drift_goes_before_the_policy() {
    let Some(t) = EngineFleet::start("owndrift") else { return };
    let name = t.topology();
    let yaml = format!(
        "topology: {name}\npolicy: {{ drift: inbox }}\nhosts:\n  {HOST}:\n    docker:\n      networks: {{ healed: {{ drift: heal }}, left: {{}} }}\n      \
         volumes: {{ healed: {{ drift: heal }}, left: {{}} }}\n      services:\n        healed: {{ image: {IMAGE}, drift: heal }}\n        \
         left: {{ image: {IMAGE} }}\n"
    );
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &name, 1).unwrap();
    for what in ["left", "healed"] {
        t.engine.remove_container(t.fleet.cluster(), &format!("{name}-{what}-1")).unwrap();
        t.engine.block_on(t.engine.docker().remove_network(&format!("{name}_{what}"))).unwrap();
        t.engine.block_on(t.engine.docker().remove_volume(&format!("{name}_{what}"), None::<query::RemoveVolumeOptions>)).unwrap();
    }
    let missing = || -> BTreeSet<String> {
        let said = moorctl(&t.fleet, &["drift", "ls", "-o", "json"]).ok().unwrap();
        let rows: Vec<Value> = serde_json::from_str(&said.stdout).unwrap();
        rows.iter().filter_map(|row| row["resource"].as_str().map(str::to_owned)).collect()
    };
    let left = BTreeSet::from(["container", "network", "volume"].map(|kind| {
        let joint = if kind == "container" { "-left-1" } else { "_left" };
        format!("docker/{kind}/{name}{joint}")
    }));
    wait_until("what is left is shown", SOON, || Ok(missing() == left)).unwrap();
    wait_until("what is to be healed is back", SOON, || {
        Ok(t.engine.running(t.fleet.cluster())?.contains(&format!("{name}-healed-1"))
            && t.engine.networks(t.fleet.cluster())?.contains(&format!("{name}_healed"))
            && t.engine.volumes(t.fleet.cluster())?.contains(&format!("{name}_healed")))
    })
    .unwrap();
    assert_eq!(missing(), left);
    assert!(!t.containers().contains_key(&format!("{name}-left-1")));
}

#[test]
fn of_two_operators_one_decides_and_who_is_no_admin_does_not() {
    let Some(inbox) = Inbox::start("twoadmins") else { return };
    inbox.set_memory("cache", 96);
    // What the topology does not name is not managed.
    inbox.set_memory("site", 96);
    let id = inbox.wait("mem_limit", "open", Some("96m"));
    assert_eq!(inbox.rows().len(), 1, "{:#?}", inbox.rows());

    let fleet = &inbox.t.fleet;
    fleet.hub_command(&["operator", "add", "bob"]).unwrap().ok().unwrap();
    let bob = moorline_tests::operator::Bundle::read(&fleet.bundle_path("bob")).unwrap();
    let bob = moorline_tests::operator::Operator::connect(&bob).unwrap();
    let number: u64 = id.parse().unwrap();
    let ignore = moorline_proto::v1::IgnoreDriftRequest { id: number, until_unix_ms: u64::MAX / 2, reason: String::new() };
    let refused = bob.call(|mut c| async move { c.ignore_drift(ignore).await }).unwrap_err();
    assert!(refused.code() == tonic::Code::PermissionDenied && refused.message().contains("--admin"), "{refused:?}");
    assert!(event_kinds(&inbox.t.operator).contains(&"call_refused".to_owned()));

    // Each has a file of their own and another idea where it belongs, and both say yes at the same time.
    let other = fleet.file("shops-too.yaml", inbox.text()).unwrap();
    let both = std::thread::scope(|scope| {
        let one = scope.spawn(|| inbox.accept(&id, &[]));
        let two = scope.spawn(|| inbox.drift(&["accept", &id, "-f", text(&other).unwrap(), "--in-profile", "web"]));
        [one.join().unwrap(), two.join().unwrap()]
    });
    let [won, lost]: [Vec<&Output>; 2] = [both.iter().filter(|o| o.code == 0).collect(), both.iter().filter(|o| o.code != 0).collect()];
    assert!(won.len() == 1 && lost.len() == 1, "{both:?}");
    let said = lost[0].text();
    assert!(said.contains("drift_resolved") || said.contains("base_moved"), "{said}");
    let written = [inbox.text(), std::fs::read_to_string(&other).unwrap()].iter().filter(|t| t.contains("96m")).count();
    assert_eq!(written, 1, "the other one's file is as it was");
    inbox.wait("mem_limit", "accepted", None);
    inbox.t.fleet.wait_converged(&inbox.t.operator, HOST, &inbox.name, 2).unwrap();
}

#[test]
fn a_hostile_hub_shows_what_it_likes_and_gets_nothing_signed_that_the_host_did_not_sign() {
    let Some(mut inbox) = Inbox::start("evilinbox") else { return };
    let before = inbox.text();
    inbox.set_memory("site", 128);
    let id = inbox.wait("mem_limit", "open", Some("128m"));
    let database = inbox.t.fleet.hub_dir().join("hub.sqlite");
    let host = inbox.rows()[0]["host_id"].as_str().unwrap().to_owned();
    let site = inbox.container("site");

    // While the host is away nothing that it says sets the hub right.
    inbox.t.fleet.stop_agent(HOST).unwrap();
    // A row with another value, and rows for what is as wanted or not there at all.
    sqlite(&database, &format!("UPDATE drift SET actual = '4g' WHERE id = {id}"));
    for (resource, field, actual) in [
        ("docker/container/X", "environment.GREETING", "owned"),
        ("docker/container/X", "image", "evil:1"),
        ("docker/network/Y", "presence", "missing"),
    ] {
        let resource = resource.replace('X', &site).replace('Y', &format!("{}_front", inbox.name));
        let columns = "scope, resource, field, expected, actual, status, topology, generation, detected_ms, changed_ms";
        let values = format!("'{host}', '{resource}', '{field}', 'x', '{actual}', 'open', '{}', 1, 1, 1", inbox.name);
        sqlite(&database, &format!("INSERT INTO drift ({columns}) VALUES ({values})"));
    }
    assert_says(&inbox.drift(&["show", &id]), &["NOT VERIFIED", "the host signed 128m"]);
    for row in inbox.rows() {
        let number = row["id"].to_string();
        for said in [inbox.accept(&number, &[]), inbox.drift(&["revert", &number])] {
            assert!(said.code == 1 && (said.text().contains("drift_moved") || said.text().contains("drift_resolved")), "{said:?}");
        }
    }

    // A report that is not the host's own.
    sqlite(&database, &format!("UPDATE drift SET actual = '128m' WHERE id = {id}"));
    inbox.drift(&["show", &id]).ok().map(|said| assert_says(&said, &["verified  the host signed"])).unwrap();
    let forged = "UPDATE reports SET envelope = CAST(replace(CAST(envelope AS TEXT), '\"sig\":\"', '\"sig\":\"AAAA') AS BLOB)";
    inbox.t.fleet.stop_hub().unwrap();
    assert_eq!(sqlite(&database, forged), 1);
    inbox.t.fleet.start_hub().unwrap();
    let said = inbox.accept(&id, &[]);
    assert!(said.code == 1 && !said.text().contains("drift_"), "{said:?}");
    assert_eq!(inbox.text(), before);
    let operator = inbox.t.fleet.operator().unwrap();
    assert_eq!(operator.topologies().unwrap()[0].generation, 1, "nothing was pushed");
    let ops = inbox.t.fleet.moorctl(&["op", "ls"]).unwrap();
    assert_says(&ops, &["no operations"]);
}
