//! What the engine says of its objects, as it says it, and two such accounts side by side.
//!
//! An account leaves out what must differ (ids, times, addresses that the engine chose) and has names that do not depend on who made
//! the objects. Everything else is a [`Fact`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value};

use crate::limits::SOON;
use crate::wait::{wait_for, wait_until};

/// Where a value stands: the kind and the name of its object, and the keys down to it.
pub type Place = (&'static str, String, Vec<String>);
/// A value that the engine tells. Lists are one value, but for a container's mounts, which are told by their targets.
pub type Fact = (Place, Value);

/// Keys whose values are never the same twice, by the kind of their object.
const FLEETING: [(&str, &[&str]); 19] = [
    ("container", &["Id"]),
    ("container", &["Created"]),
    ("container", &["State", "Pid"]),
    ("container", &["State", "StartedAt"]),
    ("container", &["State", "FinishedAt"]),
    ("container", &["State", "Health", "Log"]),
    ("container", &["GraphDriver"]),
    // A healthcheck that runs just now.
    ("container", &["ExecIDs"]),
    ("container", &["NetworkSettings", "SandboxID"]),
    ("container", &["NetworkSettings", "SandboxKey"]),
    ("container", &["NetworkSettings", "EndpointID"]),
    // Addresses that a file asks for stand under `IPAMConfig`.
    ("container", &["NetworkSettings", "IPAddress"]),
    ("container", &["NetworkSettings", "Gateway"]),
    ("container", &["NetworkSettings", "MacAddress"]),
    ("network", &["Id"]),
    ("network", &["Created"]),
    ("network", &["Containers"]),
    ("volume", &["CreatedAt"]),
    ("volume", &["Mountpoint"]),
];
/// The same below each of a container's networks.
const FLEETING_OF_ENDPOINT: [&str; 6] = ["EndpointID", "IPAddress", "IPPrefixLen", "Gateway", "MacAddress", "NetworkID"];
/// Lists whose order means nothing.
const SETS: [&str; 10] =
    ["Env", "Aliases", "CapAdd", "CapDrop", "SecurityOpt", "Binds", "Devices", "DeviceCgroupRules", "GroupAdd", "Ulimits"];
/// Maps of a container whose keys alone say something.
const KEYS_ALONE: [&str; 2] = ["ExposedPorts", "Volumes"];
/// Where the kernel, and so the engine, takes ports that nobody asked for. One that a file names there is not told either.
pub const CHOSEN_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;
/// Where the engine takes subnets that nobody asked for. One that a file names there is not told either.
pub const CHOSEN_SUBNETS: [&str; 2] = ["172.", "192.168."];

/// Asks the engine behind `socket`, and gives the status and the answer.
///
/// # Errors
/// When it does not answer in JSON.
pub fn ask(socket: &Path, method: &str, path: &str) -> Result<(u16, Value)> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("the engine at {}", socket.display()))?;
    stream.set_read_timeout(Some(SOON))?;
    // By this version of HTTP the answer ends with the connection.
    write!(stream, "{method} {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("an answer has a status")?;
    let value = if body.trim().is_empty() { Value::Null } else { serde_json::from_str(body)? };
    Ok((status, value))
}

/// What bears a label on the engine: all of one project, or of one topology.
pub struct Labelled<'a> {
    /// The engine's socket.
    pub socket: &'a Path,
    /// `NAME=VALUE`.
    pub label: &'a str,
    /// What the objects' names begin with.
    pub project: &'a str,
}

impl Labelled<'_> {
    fn get(&self, path: &str) -> Result<Value> {
        match ask(self.socket, "GET", path)? {
            (200, value) => Ok(value),
            (status, value) => bail!("GET {path}: {status} {value}"),
        }
    }

    fn list(&self, path: &str, key: Option<&str>, id: &str) -> Result<Vec<String>> {
        let filters = escaped(&serde_json::json!({ "label": [self.label] }).to_string());
        let all = self.get(&format!("{path}?all=true&filters={filters}"))?;
        let all = key.map_or(Some(&all), |key| all.get(key));
        let ids = all.and_then(Value::as_array).into_iter().flatten().filter_map(|one| Some(one.get(id)?.as_str()?.to_owned()));
        Ok(ids.collect())
    }

    fn inspected(&self, folder: &str, more: &str, ids: &[String]) -> Result<Vec<Value>> {
        ids.iter().map(|id| self.get(&format!("/{folder}/{id}{more}"))).collect()
    }

    fn containers(&self) -> Result<Vec<Value>> {
        self.inspected("containers", "/json", &self.list("/containers/json", None, "Id")?)
    }

    /// Waits until every container is what it will be: running, and healthy where it has a check, or at its end.
    ///
    /// # Errors
    /// When that does not come in time.
    pub fn settle(&self) -> Result<()> {
        wait_for(&format!("the containers of {} have settled", self.project), SOON, || {
            Ok(self.containers()?.iter().all(has_settled).then_some(()))
        })
    }

    /// All that the engine says of them.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn facts(&self) -> Result<BTreeMap<Place, Value>> {
        let containers = self.containers()?;
        let networks = self.inspected("networks", "", &self.list("/networks", None, "Id")?)?;
        let volumes = self.inspected("volumes", "", &self.list("/volumes", Some("Volumes"), "Name")?)?;
        let mut words = BTreeMap::new();
        for container in &containers {
            let (id, name) = (text(container, "/Id"), text(container, "/Name").trim_start_matches('/'));
            words.insert(id.to_owned(), format!("<id of {}>", self.plain(name)));
            words.insert(id.get(..12).unwrap_or(id).to_owned(), format!("<id of {}>", self.plain(name)));
            words.insert(name.to_owned(), format!("<{}>", self.plain(name)));
            words.extend(unnamed(container).map(|volume| (volume.to_owned(), "<without a name>".to_owned())));
        }
        let mut facts = BTreeMap::new();
        for (kind, objects) in [("container", containers), ("network", networks), ("volume", volumes)] {
            for object in objects {
                let name = self.plain(text(&object, "/Name").trim_start_matches('/'));
                let object = renamed(object, &words)?;
                tell(kind, &name, &mut Vec::new(), object, &mut facts);
            }
        }
        Ok(facts)
    }

    /// The volumes without a name that containers have, as the engine calls them.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn unnamed_volumes(&self) -> Result<Vec<String>> {
        Ok(self.containers()?.iter().flat_map(unnamed).map(str::to_owned).collect())
    }

    /// An object's name as neither maker writes it.
    fn plain(&self, name: &str) -> String {
        let own = name.strip_prefix(self.project).and_then(|rest| rest.strip_prefix(['-', '_']));
        own.map_or_else(|| name.to_owned(), |own| own.replace('_', "-"))
    }

    /// When each container was last started, by its id.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn starts(&self) -> Result<BTreeMap<String, String>> {
        let containers = self.containers()?;
        Ok(containers.iter().map(|c| (text(c, "/Id").to_owned(), text(c, "/State/StartedAt").to_owned())).collect())
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// When the engine refuses.
    pub fn remove(&self) -> Result<()> {
        let gone = |path: String| delete(self.socket, &path);
        self.list("/containers/json", None, "Id")?.into_iter().try_for_each(|id| gone(format!("/containers/{id}?force=1&v=1")))?;
        self.list("/networks", None, "Id")?.into_iter().try_for_each(|id| gone(format!("/networks/{id}")))?;
        self.list("/volumes", Some("Volumes"), "Name")?.into_iter().try_for_each(|name| gone(format!("/volumes/{name}")))
    }
}

/// Removes an object. What is gone already is fine; what still has something to let go of (an engine takes a container from its
/// network some time after the container is gone) is tried again.
///
/// # Errors
/// When it stays.
pub fn delete(socket: &Path, path: &str) -> Result<()> {
    wait_until(&format!("{path} is removed"), SOON, || match ask(socket, "DELETE", path)? {
        (200..300 | 404, _) => Ok(true),
        (status, value) => bail!("{status} {value}"),
    })
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn unnamed(container: &Value) -> impl Iterator<Item = &str> {
    let mounts = container.pointer("/Mounts").and_then(Value::as_array);
    mounts.into_iter().flatten().map(|mount| text(mount, "/Name")).filter(|name| name.len() == 64)
}

fn has_settled(container: &Value) -> bool {
    let first = container.pointer("/Args/0").and_then(Value::as_str).unwrap_or_default();
    let ends = matches!(first, "print" | "true" | "exit") || text(container, "/Path").ends_with("/true");
    let status = text(container, "/State/Status");
    if ends { status == "exited" } else { status == "running" && text(container, "/State/Health/Status") != "starting" }
}

/// Percent-encoded for a query.
fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// With ids and names of containers in other words, wherever they stand.
fn renamed(value: Value, words: &BTreeMap<String, String>) -> Result<Value> {
    // The longest first: an id begins with its short form.
    let mut words: Vec<_> = words.iter().collect();
    words.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
    let text = words.into_iter().fold(value.to_string(), |text, (word, plain)| text.replace(word.as_str(), plain));
    Ok(serde_json::from_str(&text)?)
}

/// Adds what stands in `value` to `facts`, down to what is no map. Null and what is empty say the same: nothing.
fn tell(kind: &'static str, name: &str, keys: &mut Vec<String>, value: Value, facts: &mut BTreeMap<Place, Value>) {
    if matches!(keys.as_slice(), [config, map, _] if config == "Config" && KEYS_ALONE.contains(&map.as_str())) {
        facts.insert((kind, name.to_owned(), keys.clone()), Value::Bool(true));
        return;
    }
    if is_fleeting(kind, keys) || is_nothing(&value) {
        return;
    }
    let key = keys.last().cloned().unwrap_or_default();
    let value = match value {
        Value::Array(list) if kind == "container" && *keys == ["Mounts"] => {
            Value::Object(list.into_iter().map(|mount| (text(&mount, "/Destination").to_owned(), mount)).collect::<Map<_, _>>())
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => other,
    };
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                keys.push(key);
                tell(kind, name, keys, value, facts);
                keys.pop();
            }
        }
        Value::Array(mut list) => {
            if SETS.contains(&key.as_str()) {
                list.sort_by_key(Value::to_string);
                list.dedup();
            }
            facts.insert((kind, name.to_owned(), keys.clone()), Value::Array(list.into_iter().map(without_chosen).collect()));
        }
        scalar @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => {
            facts.insert((kind, name.to_owned(), keys.clone()), scalar);
        }
    }
}

fn is_fleeting(kind: &str, keys: &[String]) -> bool {
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    FLEETING.iter().any(|(of, path)| *of == kind && *path == keys)
        || matches!(keys.as_slice(), ["NetworkSettings", "Networks", _, key] if FLEETING_OF_ENDPOINT.contains(key))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// An entry of a list, without what the engine chose.
fn without_chosen(mut value: Value) -> Value {
    if text(&value, "/HostPort").parse().is_ok_and(|port: u16| CHOSEN_PORTS.contains(&port))
        && let Some(port) = value.get_mut("HostPort")
    {
        *port = "<chosen>".into();
    }
    if CHOSEN_SUBNETS.iter().any(|pool| text(&value, "/Subnet").starts_with(pool)) {
        return "<chosen>".into();
    }
    value
}

/// Instead of keys, for an object that only the first account has, and for one that only the second has.
pub const ONLY_FIRST: &str = "only first";
/// See [`ONLY_FIRST`].
pub const ONLY_SECOND: &str = "only second";

/// The places at which two accounts differ, each with both values.
#[must_use]
pub fn differences(first: &BTreeMap<Place, Value>, second: &BTreeMap<Place, Value>) -> BTreeMap<Place, (Value, Value)> {
    let objects = |of: &BTreeMap<Place, Value>| -> BTreeSet<_> { of.keys().map(|(kind, name, _)| (*kind, name.clone())).collect() };
    let (in_first, in_second) = (objects(first), objects(second));
    let places: BTreeSet<&Place> = first.keys().chain(second.keys()).collect();
    let mut all = BTreeMap::new();
    for place in places {
        let object = (place.0, place.1.clone());
        let at = match (in_first.contains(&object), in_second.contains(&object)) {
            (true, false) => (place.0, place.1.clone(), vec![ONLY_FIRST.to_owned()]),
            (false, true) => (place.0, place.1.clone(), vec![ONLY_SECOND.to_owned()]),
            _ => place.clone(),
        };
        let value = |of: &BTreeMap<Place, Value>| of.get(place).cloned().unwrap_or_default();
        let (one, other) = (value(first), value(second));
        if one != other {
            all.insert(at, (one, other));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_never_the_same_twice_is_left_out_and_everything_else_is_told() {
        let mut facts = BTreeMap::new();
        let container = json!({
            "Id": "a", "Name": "/site", "Config": { "Env": ["B=2", "A=1"], "Cmd": ["b", "a"], "Labels": {}, "ExposedPorts": { "80/tcp": {} } },
            "Mounts": [{ "Destination": "/data", "RW": true }],
            "NetworkSettings": { "Ports": { "80/tcp": [{ "HostIp": "", "HostPort": "40000" }] } },
        });
        tell("container", "site", &mut Vec::new(), container, &mut facts);
        let told: Vec<String> = facts.iter().map(|((_, _, keys), value)| format!("{}={value}", keys.join("/"))).collect();
        assert_eq!(
            told,
            [
                r#"Config/Cmd=["b","a"]"#,
                r#"Config/Env=["A=1","B=2"]"#,
                "Config/ExposedPorts/80/tcp=true",
                r#"Mounts//data/Destination="/data""#,
                "Mounts//data/RW=true",
                r#"Name="/site""#,
                r#"NetworkSettings/Ports/80/tcp=[{"HostIp":"","HostPort":"<chosen>"}]"#,
            ]
        );
    }

    #[test]
    fn an_object_that_one_account_lacks_is_one_difference() {
        let fact = |name: &str, key: &str, value: u8| (("network", name.to_owned(), vec![key.to_owned()]), Value::from(value));
        let one = BTreeMap::from([fact("front", "Mtu", 1), fact("front", "Scope", 1)]);
        let other =
            BTreeMap::from([fact("front", "Mtu", 2), fact("front", "Scope", 1), fact("spare", "Mtu", 1), fact("spare", "Scope", 1)]);
        let places: Vec<String> =
            differences(&one, &other).into_keys().map(|(_, name, keys)| format!("{name} {}", keys.join("/"))).collect();
        assert_eq!(places, ["front Mtu", "spare only second"]);
    }
}
