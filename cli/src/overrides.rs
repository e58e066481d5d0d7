//! What a topology file must say so that it says what a host has: one value, at its place in a host's entry or a profile.

mod guest;

use std::str::FromStr;

use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::TopologyId;
use moorline_common::plan::compare::{NAME, NOTHING, PRESENCE, STATE};
use moorline_common::plan::lower;
use moorline_common::pve::Vmid;
use moorline_common::topology::{DockerSpec, HostSpec};
use serde_json::{Value, json};
use yaml_edit::path::YamlPath as _;
use yaml_edit::{Document, Mapping, ScalarValue, YamlValue};

pub use self::guest::written;
use crate::error::Failure;

/// One value of a topology file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Where it stands below an entry under `hosts` or `profiles`.
    pub path: Vec<String>,
    /// What stands there.
    pub value: Word,
}

/// What stands at a place of a topology file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// This value.
    Value(Value),
    /// Nothing: what is there is taken out.
    Nothing {
        /// What says the same where a profile says something all the same.
        instead: Option<Value>,
    },
}

impl Override {
    /// For people: `services.site.mem_limit: 1g`.
    #[must_use]
    pub fn words(&self) -> String {
        let path = self.path.join(".");
        match &self.value {
            Word::Value(Value::String(text)) => format!("{path}: {text}"),
            Word::Value(value) => format!("{path}: {value}"),
            Word::Nothing { .. } => format!("{path} is taken out"),
        }
    }
}

/// Why a live value cannot be written into a topology file.
fn unsayable(message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure::from(Fault::new(Code::InvalidArgument, message)).with_remedy(remedy)
}

/// What says the live value of `drift` on a host of `topology` that shall have `spec`.
///
/// # Errors
/// [`Code::InvalidArgument`] for what no entry can say.
pub fn of(drift: &Drift, topology: &TopologyId, spec: &HostSpec) -> Result<Override, Failure> {
    if let Some(vmid) = Vmid::of(&drift.resource) {
        return guest::of(drift, vmid, spec);
    }
    let missing = || unsayable(format!("the topology says nothing of {}", drift.resource), "only what it wants can be accepted");
    let docker = spec.docker.as_ref().ok_or_else(missing)?;
    let object = object(drift, topology, docker)?.ok_or_else(missing)?;
    let (path, value) = match drift.field.as_str() {
        PRESENCE if drift.resource.kind() == "docker/container" && drift.actual == "missing" => (vec!["scale".to_owned()], json!(0)),
        PRESENCE => {
            return Err(unsayable(
                format!("that {} is {} cannot be said for one host alone", drift.resource, drift.actual),
                "edit the topology file by hand and push it, or revert the drift",
            ));
        }
        STATE => {
            return Err(unsayable(
                "a topology says what runs, not what stands still",
                "to keep it as it is, order `moorctl op stop` or `moorctl op pause`: that holds it; or ignore the drift",
            ));
        }
        NAME => {
            return Err(unsayable(
                "a container that is named otherwise in the file is another one to its host",
                "revert the drift, or push a file with `container_name`, which makes the container anew",
            ));
        }
        field if field.starts_with("containers.") => {
            return Err(unsayable("a stranger is shown, and nothing else", "ignore the drift, or see to the container on the host itself"));
        }
        field => value_of(field, drift, topology, docker, &object)?,
    };
    let path = ["docker".to_owned(), object.section.to_owned(), object.name].into_iter().chain(path).collect();
    Ok(Override { path, value: Word::Value(literal(value)) })
}

/// An object in the file.
struct Object {
    section: &'static str,
    name: String,
}

fn object(drift: &Drift, topology: &TopologyId, docker: &DockerSpec) -> Result<Option<Object>, Failure> {
    let (kind, engine_name) = (drift.resource.kind(), drift.resource.name());
    if kind == "docker/network" {
        return Ok(network(engine_name, topology, docker).map(|name| Object { section: "networks", name }));
    }
    if kind == "docker/volume" {
        let found = docker.volumes.iter().find(|(name, spec)| lower::volume_name(topology, name, spec) == engine_name);
        return Ok(found.map(|(name, _)| Object { section: "volumes", name: name.clone() }));
    }
    let found = docker.services.iter().find(|(name, spec)| lower::container_names(topology, name, spec).any(|n| n == engine_name));
    let Some((name, spec)) = found else { return Ok(None) };
    if spec.replicas.unwrap_or(1) > 1 {
        return Err(unsayable(
            format!("the service `{name}` has several containers, and what an entry says holds for all of them"),
            "revert the drift, or edit the topology file by hand",
        ));
    }
    Ok(Some(Object { section: "services", name: name.clone() }))
}

/// What the file calls a network of the engine's.
fn network(engine_name: &str, topology: &TopologyId, docker: &DockerSpec) -> Option<String> {
    let needed = lower::needed_networks(docker);
    needed.into_iter().find(|(name, spec)| lower::network_name(topology, name, *spec) == engine_name).map(|(name, _)| name.to_owned())
}

fn value_of(
    field: &str,
    drift: &Drift,
    topology: &TopologyId,
    docker: &DockerSpec,
    object: &Object,
) -> Result<(Vec<String>, Value), Failure> {
    if drift.actual == NOTHING {
        return Err(unsayable(
            format!("the host has no `{field}`, and an entry cannot take away what a profile says"),
            "edit the topology file by hand and push it, or revert the drift",
        ));
    }
    if drift.actual.contains("… sha256:") {
        return Err(unsayable("the value is too long to be taken over from a report", "edit the topology file by hand and push it"));
    }
    if let Some(rest) = field.strip_prefix("networks.") {
        return attachment(rest, drift, topology, docker, object);
    }
    for map in ["environment", "labels", "driver_opts"] {
        if let Some(key) = field.strip_prefix(map).and_then(|rest| rest.strip_prefix('.')) {
            return Ok((vec![map.to_owned(), key.to_owned()], json!(drift.actual)));
        }
    }
    if ["volumes.", "secrets.", "configs.", "ipam."].iter().any(|prefix| field.starts_with(prefix)) {
        return Err(unsayable(format!("`{field}` is nothing that one value says"), "edit the topology file by hand and push it"));
    }
    let path: Vec<String> = field.split('.').map(str::to_owned).collect();
    let value = match field {
        "ports" => json!(drift.actual.split(", ").collect::<Vec<_>>()),
        "restart" => json!(on_failure(&drift.actual).unwrap_or_else(|| drift.actual.clone())),
        _ => typed(&drift.actual),
    };
    Ok((path, value))
}

/// How a service is attached to a network.
fn attachment(
    rest: &str,
    drift: &Drift,
    topology: &TopologyId,
    docker: &DockerSpec,
    object: &Object,
) -> Result<(Vec<String>, Value), Failure> {
    let place =
        |name: String, more: &[&str]| ["networks".to_owned(), name].into_iter().chain(more.iter().map(|m| (*m).to_owned())).collect();
    if let Some(name) = network(rest, topology, docker) {
        if drift.actual != "attached" {
            return Err(unsayable(
                format!("an entry cannot take the network `{name}` away that a profile gives to the service"),
                "edit the topology file by hand and push it, or revert the drift",
            ));
        }
        let is_default_alone = docker.services.get(&object.name).is_some_and(|service| service.networks.is_empty());
        if is_default_alone {
            return Ok((vec!["networks".to_owned()], json!({ "default": {}, name: {} })));
        }
        return Ok((place(name, &[]), json!({})));
    }
    let part = rest.rsplit_once('.').and_then(|(engine_name, key)| Some((network(engine_name, topology, docker)?, key)));
    match part {
        Some((name, "aliases")) => Ok((place(name, &["aliases"]), json!(drift.actual.split(", ").collect::<Vec<_>>()))),
        Some((name, key)) => Ok((place(name, &[key]), json!(drift.actual))),
        None => Err(unsayable(
            format!("the network `{rest}` is none of this topology's"),
            "define it as an external one in the topology file by hand, or revert the drift",
        )),
    }
}

/// `value` so that no variable of anybody's machine is filled in.
fn literal(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace('$', "$$")),
        Value::Array(items) => Value::Array(items.into_iter().map(literal).collect()),
        Value::Object(map) => Value::Object(map.into_iter().map(|(key, value)| (key, literal(value))).collect()),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// `{"on-failure":3}` as a file says it.
fn on_failure(text: &str) -> Option<String> {
    let times = serde_json::from_str::<Value>(text).ok()?.get("on-failure")?.as_u64()?;
    Some(format!("on-failure:{times}"))
}

/// A value as reports show it: lists and maps as JSON, all else as it is.
fn typed(text: &str) -> Value {
    match serde_json::from_str::<Value>(text) {
        Ok(value @ (Value::Array(_) | Value::Object(_) | Value::Bool(_))) => value,
        Ok(Value::Number(number)) if number.is_i64() || number.is_u64() => Value::Number(number),
        Ok(Value::Null | Value::String(_) | Value::Number(_)) | Err(_) => json!(text),
    }
}

/// `text`, a topology file, with `word` at `path`. Everything else stays as it is, comments too.
///
/// # Errors
/// [`Code::InvalidArgument`] when the file has no place for it.
pub fn edit(text: &str, path: &[String], word: &Word) -> Result<String, Failure> {
    let by_hand = || match word {
        Word::Value(value) => format!("write it by hand: {}: {value}", path.join(".")),
        Word::Nothing { .. } => format!("take {} out by hand", path.join(".")),
    };
    if text.trim_start().starts_with('{') {
        return Err(unsayable("the topology file is JSON, and only YAML is edited", by_hand()));
    }
    let unreadable = |e: &dyn std::fmt::Display| unsayable(format!("the topology file cannot be edited: {e}"), by_hand());
    let document = Document::from_str(text).map_err(|e| unreadable(&e))?;
    match word {
        Word::Value(value) => {
            // Every character for itself: a dot or a number is no place of its own.
            let escaped = path.iter().map(|key| key.chars().flat_map(|c| ['\\', c]).collect::<String>()).collect::<Vec<_>>().join(".");
            document.try_set_path(&escaped, yaml(value)).map_err(|e| unreadable(&e))?;
        }
        Word::Nothing { .. } => take_out(&document, path).ok_or_else(|| unreadable(&"what is to go is not written there in full"))?,
    }
    let edited = document.to_string();
    Ok(if edited.ends_with('\n') || !text.ends_with('\n') { edited } else { edited + "\n" })
}

/// Takes out what stands at `path`.
fn take_out(document: &Document, path: &[String]) -> Option<()> {
    let (last, above) = path.split_last()?;
    // A key of digits is a number there, or text.
    let number = |key: &str| key.parse::<i64>().ok();
    let within = |map: Mapping, key: &String| map.get_mapping(key.as_str()).or_else(|| map.get_mapping(number(key)?));
    let map = above.iter().try_fold(document.as_mapping()?, within)?;
    map.remove(last.as_str()).or_else(|| map.remove(number(last)?)).map(drop)
}

fn yaml(value: &Value) -> YamlValue {
    match value {
        Value::Null => YamlValue::Scalar(ScalarValue::null()),
        Value::Bool(truth) => YamlValue::Scalar(ScalarValue::from(*truth)),
        Value::Number(number) => YamlValue::Scalar(ScalarValue::parse(number.to_string())),
        Value::String(text) => YamlValue::Scalar(ScalarValue::string(text.clone())),
        Value::Array(items) => YamlValue::Sequence(items.iter().map(yaml).collect()),
        Value::Object(map) => YamlValue::Mapping(map.iter().map(|(key, value)| (key.clone(), yaml(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use moorline_common::id::ResourceId;
    use moorline_common::topology::Inputs;

    use super::*;

    const FILE: &str = "# The shops.
topology: edge   # a name
policy: { drift: inbox }

profiles:
  web:
    docker:
      networks: { front: {} }
      services:
        # Everybody sees this.
        site: { image: \"nginx:1.27\", networks: [front] }   # pinned by push
        db.1: { image: db, environment: { A: \"1\" } }
hosts:
  # In the north.
  shop-17: { use: [web] }   # one host
  shop-18:
    use: [web]   # also
    docker:
      services:
        # Less memory here.
        site:
          mem_limit: 64m

  # The last one.
  10:
    use: [web]
";

    fn drift(resource: &str, field: &str, actual: &str) -> Drift {
        let resource = ResourceId::parse(format!("docker/{resource}")).unwrap();
        Drift { resource, field: field.to_owned(), expected: String::new(), actual: actual.to_owned() }
    }

    fn spec() -> HostSpec {
        serde_json::from_value(json!({ "docker": { "networks": { "front": {} }, "volumes": { "data": {} }, "services": {
            "site": { "image": "nginx:1.27", "networks": { "front": {} } }, "db.1": { "image": "db" }, "many": { "image": "i", "replicas": 2 } } } }))
        .unwrap()
    }

    fn said(resource: &str, field: &str, actual: &str) -> Result<String, String> {
        of(&drift(resource, field, actual), &TopologyId::parse("edge").unwrap(), &spec()).map(|o| o.words()).map_err(|f| f.message)
    }

    #[test]
    fn what_a_host_has_is_one_value_at_its_place() {
        let site = "container/edge-site-1";
        for (resource, field, actual, words) in [
            (site, "mem_limit", "1g", "docker.services.site.mem_limit: 1g"),
            (site, "cpus", "0.5", "docker.services.site.cpus: 0.5"),
            (site, "pids_limit", "100", "docker.services.site.pids_limit: 100"),
            (site, "restart", "{\"on-failure\":3}", "docker.services.site.restart: on-failure:3"),
            (site, "environment.A.B", "x", "docker.services.site.environment.A.B: x"),
            (site, "command", "[\"a\",\"b\"]", "docker.services.site.command: [\"a\",\"b\"]"),
            (site, "environment.A", "${HOME} $5", "docker.services.site.environment.A: $${HOME} $$5"),
            (site, "ports", "8080:80/tcp, 81/udp", "docker.services.site.ports: [\"8080:80/tcp\",\"81/udp\"]"),
            (site, "presence", "missing", "docker.services.site.scale: 0"),
            (site, "networks.edge_default", "attached", "docker.services.site.networks.default: {}"),
            (site, "networks.edge_front.ipv4_address", "10.0.0.9", "docker.services.site.networks.front.ipv4_address: 10.0.0.9"),
            ("container/edge-db.1-1", "networks.edge_front", "attached", "docker.services.db.1.networks: {\"default\":{},\"front\":{}}"),
            ("network/edge_front", "internal", "true", "docker.networks.front.internal: true"),
            ("volume/edge_data", "labels.a", "true", "docker.volumes.data.labels.a: true"),
        ] {
            assert_eq!(said(resource, field, actual), Ok(words.to_owned()));
        }
        for (resource, field, actual, words) in [
            (site, "state", "exited (1)", "what runs"),
            (site, "container_name", "elsewhere", "another one to its host"),
            (site, "mem_limit", "nothing", "cannot take away"),
            (site, "networks.edge_front", "not attached", "cannot take the network `front`"),
            (site, "networks.other", "attached", "none of this topology's"),
            (site, "command", "x… sha256:0", "too long"),
            ("container/edge-many-2", "mem_limit", "1g", "several containers"),
            ("container/edge-gone-1", "mem_limit", "1g", "says nothing of"),
            ("network/edge_front", "presence", "missing", "for one host alone"),
            ("network/edge_front", "containers.spy", "attached", "stranger"),
        ] {
            let said = said(resource, field, actual).unwrap_err();
            assert!(said.contains(words), "{resource} {field}: {said}");
        }
    }

    /// The lines that `edited` has otherwise, in order.
    fn changed(edited: &str) -> Vec<String> {
        let diff = crate::render::diff::unified(FILE, edited, "a", "b");
        diff.lines().skip(2).filter(|l| l.starts_with(['+', '-'])).map(str::to_owned).collect()
    }

    #[test]
    fn the_file_keeps_its_comments_and_its_form() {
        let set = |host: &str, key: &[&str], value: Value| {
            let path: Vec<String> = ["hosts", host, "docker", "services"].iter().chain(key).map(|k| (*k).to_owned()).collect();
            let edited = edit(FILE, &path, &Word::Value(value)).unwrap();
            assert!(moorline_common::topology::read(edited.as_bytes(), &Inputs::default()).file.is_ok(), "{edited}");
            changed(&edited)
        };
        assert_eq!(set("shop-18", &["site", "mem_limit"], json!("1g")), ["-          mem_limit: 64m", "+          mem_limit: 1g"]);
        assert_eq!(set("shop-18", &["site", "cpus"], json!("0.5")), ["+          cpus: '0.5'"]);
        assert_eq!(set("shop-18", &["site", "pids_limit"], json!(50)), ["+          pids_limit: 50"]);
        assert_eq!(set("shop-18", &["site", "init"], json!(true)), ["+          init: true"]);
        let flow = set("shop-17", &["site", "mem_limit"], json!("1g"));
        assert_eq!(flow.len(), 2, "{flow:?}");
        assert!(flow[1].contains("use: [web]") && flow[1].ends_with("# one host"), "{flow:?}");
        let dotted = set("10", &["db.1", "environment"], json!({ "A": "yes", "B": "1" }));
        assert!(dotted.iter().all(|l| l.starts_with('+')) && dotted.iter().any(|l| l.contains("db.1:")), "{dotted:?}");
        for value in [json!("a: b # c"), json!("-1"), json!("null"), json!("x\ny"), json!("'\"{}")] {
            let path = ["hosts", "shop-18", "docker", "services", "db.1", "environment", "A"].map(str::to_owned);
            let edited = edit(FILE, &path, &Word::Value(value.clone())).unwrap();
            let read = serde_saphyr::from_str::<Value>(&edited).unwrap();
            assert_eq!(read["hosts"]["shop-18"]["docker"]["services"]["db.1"]["environment"]["A"], value, "{edited}");
        }
    }

    #[test]
    fn what_cannot_be_edited_is_said_with_what_to_write() {
        let path = ["hosts", "a", "docker"].map(str::to_owned);
        for text in ["{ \"topology\": \"edge\" }", "topology: edge\nhosts: [a]\n", "x: &x { y: 1 }\nhosts: { a: *x }\n", "hosts: ["] {
            let failure = edit(text, &path, &Word::Value(json!("1"))).unwrap_err();
            assert!(failure.remedy.contains("hosts.a.docker"), "{text}: {failure:?}");
        }
    }
}
