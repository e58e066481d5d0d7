//! The words of a plan, its form for programs, and plans in files.

use super::model::{HostPlan, Outcome, Steps};
use super::saved::{Reviewed, SavedPlan};
use super::words::words;
use super::*;
use crate::revision::tests::{host, trust};
use crate::revision::{ChangeKind, HostChange};
use moorline_common::canonical::to_canonical;
use moorline_common::drift::Drift;
use moorline_common::fault::Code;
use moorline_common::id::{ClusterId, Generation, ResourceId, TopologyId, sha256_hex};
use moorline_common::observe::{ContainerState, ObservedPve};
use moorline_common::plan::fields::FieldChange;
use moorline_common::plan::lower::LoweredSpec;
use moorline_common::plan::model::Engine;
use moorline_common::plan::{self, Blocked};
use moorline_common::sign::{PrivateKey, Signed};
use moorline_common::statement::{ApplyReport, ObservedReport};
use moorline_common::topology::Inputs;
use serde_json::json;

fn spec(value: serde_json::Value) -> HostSpec {
    serde_json::from_value(value).unwrap()
}

fn identity() -> Identity {
    Identity {
        cluster: ClusterId::parse("acme").unwrap(),
        host_id: host(10, "shop-17").host_id,
        topology: TopologyId::parse("edge").unwrap(),
    }
}

fn change(kind: ChangeKind, spec: &HostSpec) -> HostChange {
    let to = revision::content_hash(spec).unwrap();
    HostChange { host: "shop-17".into(), host_id: identity().host_id, change: kind, from: None, to }
}

/// What the host of `observed`, which follows `before`, would do for `wanted`.
fn planned(kind: ChangeKind, wanted: &HostSpec, before: Option<&HostSpec>, observed: Observed) -> HostPlan {
    let view = host(10, "shop-17");
    let from = before.map(|before| revision::content_hash(before).unwrap());
    let apply = ApplyReport { applied: from.clone(), ..ApplyReport::default() };
    let report = ObservedReport { host_id: view.host_id.clone(), taken_at: UnixSeconds(1), observed, apply };
    let key = PrivateKey::from_seed(&[10; 32]);
    let report = Signed::seal(&report, &[&key]).unwrap().verify_by_host(&key.public()).unwrap();
    let report = Ok(Some(ReportView { report, received_unix_ms: 61_000 }));
    let side = Side { identity: &identity(), host: &view, spec: wanted, before: &|| before.cloned() };
    plan_host(UnixSeconds(61), &side, &HostChange { from, ..change(kind, wanted) }, &report).unwrap()
}

/// A host of which nothing is known.
fn unknown(value: serde_json::Value) -> HostPlan {
    let spec = spec(value);
    let plan = plan::plan(&identity(), &spec, &Observed::default());
    let plan = Steps::of(plan, &Observed::default(), &LoweredSpec::default());
    HostPlan { notes: vec!["no report yet: planned for an empty host".into()], ..HostPlan::new(change(ChangeKind::Added, &spec), plan) }
}

fn outcome(changes: bool, hosts: Vec<HostPlan>) -> Outcome {
    Outcome { topology: "edge".into(), base_generation: 3, changes, hosts, awaiting: Vec::new() }
}

fn told(outcome: &Outcome) -> String {
    anstream::adapter::strip_str(&words(outcome)).to_string()
}

/// An engine on which `wanted` was applied.
fn settled(wanted: &HostSpec) -> Engine {
    let mut engine = Engine::default();
    for step in plan::plan(&identity(), wanted, &engine.observed()).steps {
        engine.apply(&step).unwrap();
    }
    engine
}

#[test]
fn a_plan_reads_as_what_happens_and_why() {
    let healthy = json!({"condition": "service_healthy"});
    let plan = unknown(json!({"docker": {"services": {
        "db": {"image": "db:1", "healthcheck": {"test": ["CMD", "true"]}},
        "site": {"image": "site:1", "depends_on": {"db": healthy}},
    }}}));
    assert!(plan.has_changes());
    let outcome = Outcome { awaiting: vec!["shop-18".into()], ..outcome(true, vec![plan]) };
    let expected = "\
shop-17 is added (no report)
    note: no report yet: planned for an empty host
  + create docker/network/edge_default — does not exist
  + create docker/container/edge-db-1 — does not exist
      + healthcheck.test: [\"CMD\",\"true\"]
      + image: db:1
      + networks.edge_default: attached
  … docker/container/edge-site-1 — waits for `edge-db-1` to be healthy
not joined yet: shop-18
2 to create on 1 host, 1 to follow when others are so far
";
    assert_eq!(told(&outcome), expected);
}

#[test]
fn a_change_reads_as_what_the_host_has_and_what_it_gets() {
    let long = "x".repeat(100);
    let before = spec(json!({"docker": {"volumes": {"data": {}}, "services": {
        "db": {"image": "db:1"}, "old": {"image": "old:1"}, "job": {"image": "job:1", "environment": {"A": "1"}},
        "site": {"image": "site:1", "environment": {"KEEP": "1", "MODE": "slow", "GONE": "\u{1b}[2Jx"}, "labels": {"team": "web"},
            "ports": [{"target": 80, "protocol": "tcp", "published": 8080}]},
    }}}));
    let after = spec(json!({"docker": {"volumes": {"data": {}}, "services": {
        "db": {"image": "db:1"}, "job": {"image": "job:1", "environment": {"A": "1"}},
        "site": {"image": "site:2", "environment": {"KEEP": "1", "MODE": "fast", "NOTE": long}, "command": ["serve", "-v"],
            "ports": [{"target": 80, "protocol": "tcp", "published": 9090}]},
    }}}));
    let mut engine = settled(&before);
    let db = engine.containers.get_mut("edge-db-1").unwrap();
    (db.state, db.exit_code) = (ContainerState::Exited, Some(137));
    let by_hand = engine.containers.get_mut("edge-job-1").unwrap().config.as_mut().unwrap();
    by_hand.environment.insert("A".into(), "by hand".into());
    let plan = planned(ChangeKind::Changed, &after, Some(&before), engine.observed());
    let expected = "\
shop-17 changes (verified report, 60s old)
  - remove docker/container/edge-old-1 — not in the slice
  ~ start docker/container/edge-db-1 in place — exited with code 137
      ~ state: exited (137) → running
  ~ replace docker/container/edge-job-1 — it is not as the file says
      ~ environment.A: by hand → 1
  ~ replace docker/container/edge-site-1 — its specification changed
      ~ command: [\"/app\"] → [\"serve\",\"-v\"]
      - environment.GONE: \\u{1b}[2Jx
      ~ environment.MODE: slow → fast
      + environment.NOTE: CUT
      ~ image: site:1 → site:2
      - labels.team: web
      + ports: 9090:80/tcp
      - ports: 8080:80/tcp
1 to change in place, 2 to replace, 1 to remove on 1 host
"
    .replace("CUT", &format!("{}…", "x".repeat(71)));
    assert_eq!(told(&outcome(true, vec![plan.clone()])), expected);
    let coloured = words(&outcome(true, vec![plan]));
    assert!(coloured.contains("\u{1b}[32m+ image") || coloured.contains("\u{1b}[33m~ image"), "{coloured:?}");
    assert!(!coloured.contains("\u{1b}[2J"), "what a host says moves no cursor");
}

#[test]
fn the_form_for_programs_is_the_one_that_the_guide_names() {
    let before = spec(json!({"docker": {"services": {"site": {"image": "site:1"}}}}));
    let after = spec(json!({"docker": {"services": {"site": {"image": "site:2"}}}}));
    let mut plan = planned(ChangeKind::Changed, &after, Some(&before), settled(&before).observed());
    plan.from = Some(revision::content_hash(&before).unwrap());
    let value = serde_json::to_value(outcome(true, vec![plan])).unwrap();
    let keys = |pointer: &str| {
        let object = value.pointer(pointer).and_then(|v| v.as_object()).unwrap_or_else(|| panic!("{pointer} of {value}"));
        object.keys().map(String::as_str).collect::<Vec<_>>()
    };
    assert_eq!(keys(""), ["awaiting", "base_generation", "changes", "hosts", "topology"]);
    assert_eq!(keys("/hosts/0"), ["change", "from", "held", "host", "host_id", "notes", "plan", "report_age_s", "to"]);
    assert_eq!(keys("/hosts/0/plan"), ["blocked", "drift", "steps"]);
    assert_eq!(keys("/hosts/0/plan/steps/0"), ["after", "effect", "fields", "reason", "resource", "verb"]);
    assert_eq!(value["hosts"][0]["plan"]["steps"][0]["effect"], "replace");
    let fields = &value["hosts"][0]["plan"]["steps"][0]["fields"];
    assert_eq!(*fields, json!([{"field": "image", "live": "site:1", "wanted": "site:2"}]));
}

#[test]
fn hosts_without_anything_to_tell_are_summed_up() {
    let wanted = spec(json!({"docker": {"services": {"site": {"image": "site:1"}}}}));
    let quiet = planned(ChangeKind::Unchanged, &wanted, Some(&wanted), settled(&wanted).observed());
    let hosts = |n: u64| (0..n).map(|at| HostPlan { report_age_s: Some(at), ..quiet.clone() }).collect();
    assert_eq!(told(&outcome(false, hosts(5))).lines().count(), 6, "few are listed");
    let many = told(&outcome(false, hosts(9)));
    assert_eq!(
        many,
        "9 hosts have the same content and nothing to do (verified reports, 0s to 8s old)\nno changes: `edge` is as the file says\n"
    );
}

#[test]
fn a_host_that_only_waits_has_no_changes() {
    let mut plan = unknown(json!({}));
    plan.change = ChangeKind::Unchanged;
    assert!(!plan.has_changes());
    let resource = ResourceId::parse("docker/container/edge-site-1").unwrap();
    plan.plan.blocked.push(Blocked { resource: resource.clone(), code: Some(Code::Waiting), reason: String::new() });
    assert!(!plan.has_changes());
    plan.plan.blocked.push(Blocked { resource, code: Some(Code::NotOwned), reason: String::new() });
    assert!(plan.has_changes());
}

#[test]
fn a_plan_with_differences_that_wait_does_not_say_that_all_is_as_the_file_says() {
    let mut plan = unknown(json!({}));
    plan.change = ChangeKind::Unchanged;
    assert!(told(&outcome(false, Vec::new())).contains("no changes: `edge` is as the file says"));
    let resource = ResourceId::parse("docker/network/edge_default").unwrap();
    plan.plan.drift.push(Drift { resource, field: "driver".into(), expected: "bridge".into(), actual: "macvlan".into() });
    assert!(!plan.has_changes());
    let text = told(&outcome(false, vec![plan]));
    assert!(text.ends_with("nothing to push; 1 difference waits for an operator\n") && !text.contains("as the file says"), "{text}");
}

#[test]
fn nothing_is_made_up_for_a_host_of_which_nothing_was_seen() {
    let wanted = spec(json!({"docker": {"services": {"site": {"image": "site:1"}}}}));
    let plan = |observed: Observed| planned(ChangeKind::Added, &wanted, None, observed);
    let blind = plan(Observed { engine: EngineState::Unreachable, ..Observed::default() });
    assert_eq!(blind.report_age_s, Some(60), "by the time that the host signed, not the hub's");
    assert!(blind.plan.steps.is_empty());
    assert_eq!(blind.notes, ["unknown: engine unreachable, nothing seen yet"]);
    assert!(!plan(Observed { engine: EngineState::Ready, ..Observed::default() }).plan.steps.is_empty());
}

#[test]
fn an_old_report_is_warned_of() {
    let wanted = spec(json!({}));
    let view = host(10, "shop-17");
    let at = |now: u64| {
        let report = ObservedReport {
            host_id: view.host_id.clone(),
            taken_at: UnixSeconds(1000),
            observed: Observed { engine: EngineState::Ready, ..Observed::default() },
            apply: ApplyReport::default(),
        };
        let key = PrivateKey::from_seed(&[10; 32]);
        let report = Signed::seal(&report, &[&key]).unwrap().verify_by_host(&key.public()).unwrap();
        let report = Ok(Some(ReportView { report, received_unix_ms: 0 }));
        let side = Side { identity: &identity(), host: &view, spec: &wanted, before: &|| None };
        plan_host(UnixSeconds(now), &side, &change(ChangeKind::Unchanged, &wanted), &report).unwrap()
    };
    assert!(at(1300).notes.is_empty());
    assert_eq!(at(1301).notes, ["its report is 5m old: what it has may have changed since"]);
}

const FILE: &str = "topology: edge\nhosts:\n  shop-17: { docker: { services: { site: { image: site:1 } } } }\n";

fn cluster() -> ClusterId {
    trust().cluster
}

fn plan_file(dir: &std::path::Path) -> std::path::PathBuf {
    let source = desired::parse("edge.yaml", FILE, &Inputs::default()).unwrap();
    let hosts = [host(10, "shop-17")];
    let desired = source.slice(&hosts).unwrap();
    let changes = revision::changes(&desired.hosts, &revision::Previous::default(), &hosts).unwrap();
    let plan = |change: HostChange| {
        let spec = &desired.hosts[&change.host_id];
        let steps = plan::plan(&identity(), spec, &Observed::default());
        HostPlan::new(change, Steps::of(steps, &Observed::default(), &LoweredSpec::default()))
    };
    let outcome = outcome(true, changes.into_iter().map(plan).collect());
    let topology = TopologyId::parse("edge").unwrap();
    let path = dir.join("plan.json");
    SavedPlan::new(&cluster(), &topology, &source, &outcome, UnixSeconds(1)).unwrap().write_new(&path).unwrap();
    path
}

fn changes(named: &[(u8, &str, &str)]) -> Vec<HostChange> {
    let each = named.iter().map(|(seed, name, image)| {
        let spec = spec(json!({"docker": {"services": {"site": {"image": image}}}}));
        let host_id = host(*seed, name).host_id;
        HostChange { host: (*name).into(), host_id, change: ChangeKind::Added, from: None, to: revision::content_hash(&spec).unwrap() }
    });
    each.collect()
}

#[test]
fn a_saved_plan_gives_back_the_very_source_and_what_each_host_was_to_get() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = plan_file(dir.path());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (source, reviewed) = SavedPlan::open(&path, &cluster()).unwrap();
    assert_eq!((source.text.as_str(), source.name.as_str(), reviewed.base), (FILE, "edge.yaml", Generation(3)));
    assert_eq!(reviewed.hosts.len(), 1);
    reviewed.require_same(&changes(&[(10, "shop-17", "site:1")])).unwrap();
}

/// The plan as JSON, after `edit`; with a digest that fits when `resealed`.
fn edited(path: &std::path::Path, resealed: bool, edit: impl Fn(&mut serde_json::Value)) -> Failure {
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    if resealed {
        value["digest"] = json!("");
        value["digest"] = json!(sha256_hex(&to_canonical(&value).unwrap()));
    }
    let other = path.with_extension("edited");
    std::fs::write(&other, value.to_string()).unwrap();
    SavedPlan::open(&other, &cluster()).unwrap_err()
}

#[test]
fn a_plan_that_was_changed_by_hand_is_refused_whatever_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = plan_file(dir.path());
    for pointer in [
        "/source",
        "/source_name",
        "/base_generation",
        "/made_at",
        "/hosts/0/host",
        "/hosts/0/to",
        "/hosts/0/plan/steps/0/reason",
        "/hosts/0/plan/steps/1/fields/0/wanted",
    ] {
        let failure = edited(&path, false, |value| {
            let place = value.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}"));
            *place = match place.as_str() {
                Some(_) if pointer.ends_with("/to") => json!(format!("sha256:{}", "0".repeat(64))),
                Some(text) => json!(format!("{text} ")),
                None => json!(place.as_u64().unwrap() + 1),
            };
        });
        assert_eq!(failure.code, "plan_altered", "{pointer}: {failure}");
        assert!(failure.remedy.contains("make the plan anew"), "{failure:?}");
    }
    assert_eq!(edited(&path, true, |value| value["topology"] = json!("other")).code, "plan_altered");
    assert_eq!(edited(&path, true, |value| value["cluster"] = json!("other")).code, "wrong_cluster");
    assert_eq!(edited(&path, true, |value| value["format"] = json!(2)).code, "unsupported_version");
    assert_eq!(edited(&path, true, |value| value["more"] = json!(2)).code, "bad_envelope");
    assert_eq!(edited(&path, true, |value| value["source"] = json!("topology: [")).code, "bad_topology");
    let none = SavedPlan::open(&dir.path().join("none.json"), &cluster()).unwrap_err();
    assert_eq!(none.code, "local_io");
}

#[test]
fn hosts_that_come_out_unlike_the_plan_are_named() {
    let empty = revision::empty_hash().unwrap();
    let reviewed = |hosts: &[HostChange]| Reviewed {
        base: Generation(3),
        hosts: hosts.iter().map(|c| (c.host_id.clone(), (c.host.clone(), c.to.clone()))).collect(),
    };
    let plan = reviewed(&changes(&[(10, "a", "x:1"), (11, "b", "x:1"), (12, "c", "x:1")]));
    let now = changes(&[(10, "a", "x:1"), (11, "b", "x:2"), (13, "d", "x:1")]);
    let failure = plan.require_same(&now).unwrap_err();
    assert_eq!((failure.code, failure.details.len()), ("plan_outdated", 3));
    let said = failure.details.join("\n");
    assert!(
        said.contains("b gets other content") && said.contains("d was not in the plan") && said.contains("c was in the plan"),
        "{said}"
    );
    // One that had nothing and gets nothing is on its way out, and may have gone meanwhile.
    let gone = HostChange { to: empty, ..changes(&[(14, "e", "x:1")]).remove(0) };
    reviewed(&changes(&[(10, "a", "x:1")])).require_same(&[changes(&[(10, "a", "x:1")]), vec![gone]].concat()).unwrap();
}

#[test]
fn a_rotated_secret_is_told_by_its_name_and_nothing_else() {
    let field = |field: &str, live: &str, wanted: &str| {
        let change = FieldChange { field: field.to_owned(), live: Some(live.to_owned()), wanted: Some(wanted.to_owned()) };
        anstream::adapter::strip_str(&words::field_words(&change)).to_string()
    };
    assert_eq!(field("secrets.db", "another value", "changed"), "~ secret db: changed");
    assert_eq!(field("configs.site.conf", "another value", "changed"), "~ config site.conf: changed");
    assert_eq!(field("secrets.db", "-:- 0444", "33:- 0400"), "~ secrets.db: -:- 0444 → 33:- 0400");
    assert_eq!(field("environment.X", "1", "changed"), "~ environment.X: 1 → changed");
}

fn guests(guests: serde_json::Value) -> HostSpec {
    spec(json!({ "proxmox": { "guests": guests } }))
}

/// A host of Proxmox VE on which `wanted` was applied.
fn settled_guests(wanted: &HostSpec) -> Engine {
    let mut engine = Engine { pve: Some(ObservedPve { engine: EngineState::Ready, ..ObservedPve::default() }), ..Engine::default() };
    loop {
        let plan = plan::plan(&identity(), wanted, &engine.observed());
        if plan.is_settled() {
            return engine;
        }
        plan.steps.iter().for_each(|step| engine.apply(step).unwrap());
    }
}

#[test]
fn a_guest_is_told_with_what_it_is_made_of_and_one_that_is_gone_is_not_said_to_come_back() {
    let clone = json!({ "clone": "9000", "full": true, "storage": "local-lvm" });
    let wanted = guests(json!({ "101": { "type": "qemu", "state": "running", "config": { "name": "db" }, "from": clone } }));
    let empty = Observed { engine: EngineState::Ready, pve: settled_guests(&guests(json!({}))).observed().pve, ..Observed::default() };
    let expected = "\
shop-17 is added (verified report, 60s old)
  + create pve/guest/101 — does not exist
      + config.name: db
      + config.tags: moorline
      + from: clone=9000,full=true,storage=local-lvm
1 to create on 1 host
";
    let plan = planned(ChangeKind::Added, &wanted, None, empty.clone());
    assert_eq!(told(&outcome(true, vec![plan])), expected);

    let plan = planned(ChangeKind::Unchanged, &wanted, Some(&wanted), empty);
    assert!(!plan.has_changes());
    let expected = "\
shop-17 has the same content (verified report, 60s old)
  ≠ pve/guest/101 presence: is missing, should be present
nothing to push; 1 difference waits for an operator
";
    assert_eq!(told(&outcome(false, vec![plan])), expected);
}

#[test]
fn what_waits_for_a_guests_next_start_is_told() {
    let wanted = guests(json!({ "101": { "type": "qemu", "state": "running", "config": { "name": "db", "memory": "4096" } } }));
    let mut engine = settled_guests(&wanted);
    let guest = engine.pve.as_mut().unwrap().guests.values_mut().next().unwrap();
    guest.config.as_mut().unwrap().running.insert("memory".into(), Some("8192".into()));
    let plan = planned(ChangeKind::Unchanged, &wanted, Some(&wanted), engine.observed());
    assert_eq!(plan.notes, ["pve/guest/101 has a pending reboot: memory counts from its next start on"]);
    assert!(!plan.is_quiet() && !plan.has_changes());
}

#[test]
fn what_a_guest_or_a_key_that_left_the_file_comes_to_is_told() {
    let guest = |config: serde_json::Value| json!({ "type": "qemu", "state": "running", "config": config });
    let before = guests(json!({ "101": guest(json!({ "name": "db", "onboot": "1" })) }));
    // A host of Proxmox VE alone has no Docker, and is seen all the same.
    let observed = || Observed { engine: EngineState::Unreachable, ..settled_guests(&before).observed() };
    for (wanted, told) in [(guests(json!({})), "stop"), (guests(json!({ "101": guest(json!({ "name": "db" })) })), "onboot")] {
        let plan = planned(ChangeKind::Changed, &wanted, Some(&before), observed());
        assert!(plan.has_changes() && !plan.notes.iter().any(|note| note.contains("nothing seen yet")), "{:?}", plan.notes);
        let words = self::told(&outcome(true, vec![plan]));
        assert!(words.contains("pve/guest/101") && words.contains(told), "{words}");
    }
}
