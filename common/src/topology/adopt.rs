//! A topology file that takes over what runs on a host as it is. Pure.
//!
//! Each container that was made by hand or by another tool becomes a service with `adopt`, in the words of the Compose
//! Specification; networks and volumes that nobody else uses are taken over with them, others stay `external`.

pub mod guests;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value as Json, json};

use super::limits::NAME_MAX;
use super::node::{Kind, Node, Pair, Value};
use super::write::yaml;
use super::{MountKind, MountSpec, Options, Position, Problem, RestartPolicy, load};
use crate::id::{HostName, TopologyId};
use crate::observe::{ContainerConfig, ContainerState, ObservedContainer, ObservedNetwork, ObservedVolume};
use crate::plan::compare::span_words;
use crate::survey::{Survey, Users};

/// The labels by which Compose knows its own.
const COMPOSE: &str = "com.docker.compose.";
/// Nanoseconds of processor time in a second of one processor.
const NANO: u64 = 1_000_000_000;

/// What is taken over.
#[derive(Debug)]
pub struct Adoption<'a> {
    /// The host.
    pub host: &'a HostName,
    /// The topology's name; that of the only Compose project, if `None`.
    pub topology: Option<&'a TopologyId>,
    /// What is there.
    pub survey: &'a Survey,
    /// Containers, by their names on the engine; all that run, if both are empty.
    pub only: &'a BTreeSet<String>,
    /// Compose projects.
    pub projects: &'a BTreeSet<String>,
}

/// What came of it.
#[derive(Debug)]
pub struct Adopted {
    /// The topology file.
    pub text: String,
    /// How many containers are taken over.
    pub containers: usize,
    /// The engine's names of all that is taken over or used as it is: what the host's policy must give away.
    pub outside: BTreeSet<String>,
    /// What is left out, and what should be known.
    pub notes: Vec<String>,
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// A container that was named is not there, or Moorline's own already.
    #[error("there is no container `{0}` that Moorline did not make")]
    NoContainer(String),
    /// A container that was named cannot be told of.
    #[error("the container `{name}` cannot be taken over: {why}")]
    LeftOut {
        /// The container.
        name: String,
        /// Why.
        why: String,
    },
    /// A project that was named has no container.
    #[error("no container is of the Compose project `{0}`")]
    NoProject(String),
    /// Nothing is there to be taken over.
    #[error("nothing runs on this host but what Moorline made")]
    Nothing,
    /// Nobody named the topology.
    #[error("the containers are of no one Compose project, so the topology needs a name")]
    NoName,
    /// The file would not be valid.
    #[error("what is there cannot be said in a topology file")]
    Bad(Vec<Problem>),
}

/// Writes the file.
///
/// # Errors
/// [`AdoptError`].
pub fn adopt(adoption: &Adoption<'_>) -> Result<Adopted, AdoptError> {
    let mut notes = Vec::new();
    let mut chosen = chosen(adoption, &mut notes)?;
    let names = leave_out_unshared(&mut chosen, &mut notes);
    if chosen.is_empty() {
        return Err(AdoptError::Nothing);
    }
    let topology = match adoption.topology {
        Some(topology) => topology.clone(),
        None => only_project(&chosen).ok_or(AdoptError::NoName)?,
    };
    let parts = Parts { survey: adoption.survey, chosen: &chosen, services: &names };
    let (networks, network_keys) = parts.networks(&mut notes);
    let (volumes, volume_keys) = parts.volumes(&mut notes);
    let services = chosen.iter().filter_map(|(name, container)| {
        let config = container.config.as_deref()?;
        Some((names.get(*name)?.clone(), parts.service(name, container, config, (&network_keys, &volume_keys))))
    });
    let services: BTreeMap<String, Json> = services.collect();
    let objects = networks.iter().chain(&volumes).map(|(key, object)| object.get("name").and_then(Json::as_str).unwrap_or(key).to_owned());
    let outside = objects.chain(chosen.keys().map(|name| (*name).to_owned())).collect();
    let mut docker = Vec::new();
    for (key, objects) in [("networks", networks), ("volumes", volumes), ("services", services)] {
        if !objects.is_empty() {
            docker.push(pair(key, map(objects.into_iter().map(|(name, object)| pair(&name, node(&object))).collect())));
        }
    }
    let host = map(vec![pair("docker", map(docker))]);
    let tree = map(vec![pair("topology", node(&json!(topology.as_str()))), pair("hosts", map(vec![pair(adoption.host.as_str(), host)]))]);
    let text = format!(
        "# Takes over what runs on {} as it is. Leave `adopt` in until the object has been made anew once.\n{}",
        adoption.host,
        yaml(&tree)
    );
    load(&text).map_err(AdoptError::Bad)?;
    Ok(Adopted { text, containers: chosen.len(), outside, notes })
}

type Chosen<'a> = BTreeMap<&'a str, &'a ObservedContainer>;

fn project(container: &ObservedContainer) -> Option<&str> {
    container.config.as_ref()?.labels.get("com.docker.compose.project").map(String::as_str)
}

fn chosen<'a>(adoption: &Adoption<'a>, notes: &mut Vec<String>) -> Result<Chosen<'a>, AdoptError> {
    let Adoption { survey, only, projects, .. } = adoption;
    if let Some((name, why)) = only.iter().find_map(|name| survey.left_out.get_key_value(name)) {
        return Err(AdoptError::LeftOut { name: name.clone(), why: why.clone() });
    }
    if let Some(name) = only.iter().find(|name| !survey.containers.contains_key(*name)) {
        return Err(AdoptError::NoContainer(name.clone()));
    }
    if let Some(name) = projects.iter().find(|name| !survey.containers.values().any(|c| project(c) == Some(name.as_str()))) {
        return Err(AdoptError::NoProject(name.clone()));
    }
    let mut chosen = Chosen::new();
    for (name, container) in &survey.containers {
        let is_named = only.contains(name);
        let is_wanted = is_named || project(container).is_some_and(|p| projects.contains(p)) || (only.is_empty() && projects.is_empty());
        let runs = matches!(container.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
        if is_wanted && !runs && !is_named {
            notes.push(format!("`{name}` is left out: it does not run; name it with --only to take it over all the same"));
        } else if is_wanted {
            chosen.insert(name, container);
        }
    }
    if only.is_empty() {
        notes.extend(survey.left_out.iter().map(|(name, why)| format!("`{name}` is left out: {why}")));
    }
    Ok(chosen)
}

/// Leaves out what shares with a container that is not taken over. Gives the services' names.
fn leave_out_unshared(chosen: &mut Chosen<'_>, notes: &mut Vec<String>) -> BTreeMap<String, String> {
    loop {
        let missing = chosen.iter().find_map(|(name, container)| {
            let Options { network_mode, ipc, pid, .. } = &container.config.as_ref()?.options;
            let other = [network_mode, ipc, pid].into_iter().flatten().filter_map(|mode| mode.strip_prefix("container:"));
            other.into_iter().find(|other| !chosen.contains_key(other)).map(|other| ((*name).to_owned(), other.to_owned()))
        });
        let Some((name, other)) = missing else { break };
        notes.push(format!("`{name}` is left out: it shares with `{other}`, which is not taken over"));
        chosen.remove(name.as_str());
    }
    let mut taken = BTreeSet::new();
    let named = chosen.iter().map(|(name, container)| {
        let label = container.config.as_ref().and_then(|c| c.labels.get("com.docker.compose.service"));
        ((*name).to_owned(), free_name(label.map_or(*name, String::as_str), &mut taken))
    });
    named.collect()
}

/// `text` as a name in the file that nobody else has.
fn free_name(text: &str, taken: &mut BTreeSet<String>) -> String {
    let fit: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' }).collect();
    let fit: String = fit.trim_start_matches(['_', '.', '-']).chars().take(NAME_MAX - 4).collect();
    let fit = if fit.is_empty() { "unnamed".to_owned() } else { fit };
    let more = (2..).map(|n| format!("{fit}-{n}"));
    let free = std::iter::once(fit.clone()).chain(more).find(|name| !taken.contains(name)).unwrap_or(fit);
    taken.insert(free.clone());
    free
}

/// The topology's name when all are of one Compose project.
fn only_project(chosen: &Chosen<'_>) -> Option<TopologyId> {
    let projects: BTreeSet<Option<&str>> = chosen.values().map(|c| project(c)).collect();
    let [Some(one)] = projects.into_iter().collect::<Vec<_>>()[..] else { return None };
    let plain: String = one.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    TopologyId::parse(plain.trim_matches('-')).ok()
}

struct Parts<'a> {
    survey: &'a Survey,
    chosen: &'a Chosen<'a>,
    services: &'a BTreeMap<String, String>,
}

/// By the engine's names: what stands in the file, and under which name.
type Objects = (BTreeMap<String, Json>, BTreeMap<String, String>);

impl Parts<'_> {
    fn configs(&self) -> impl Iterator<Item = &ContainerConfig> {
        self.chosen.values().filter_map(|c| c.config.as_deref())
    }

    fn networks(&self, notes: &mut Vec<String>) -> Objects {
        let used: BTreeSet<&String> = self.configs().filter(|c| c.options.network_mode.is_none()).flat_map(|c| c.networks.keys()).collect();
        let (mut out, mut keys, mut taken) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let taken_over = Users::of(self.chosen.values().copied());
        for name in used {
            let Some(live) = self.survey.networks.get(name) else { continue };
            let key = free_name(live.labels.get("com.docker.compose.network").unwrap_or(name), &mut taken);
            let elsewhere = self.survey.users.networks.get(name) > taken_over.networks.get(name);
            if live.owner.is_some() || elsewhere {
                if elsewhere {
                    notes.push(format!("the network `{name}` is only used, not taken over: other containers are on it"));
                }
                out.insert(key.clone(), json!({ "external": true, "name": name }));
            } else {
                let fixed = self.configs().filter_map(|c| c.networks.get(name)).any(|a| a.addresses().next().is_some());
                out.insert(key.clone(), network(name, live, fixed));
            }
            keys.insert(name.clone(), key);
        }
        (out, keys)
    }

    fn volumes(&self, notes: &mut Vec<String>) -> Objects {
        let mounted = self.configs().flat_map(|c| c.volumes.values()).filter(|m| m.kind == MountKind::Volume);
        let used: BTreeSet<&String> = mounted.filter_map(|m| m.source.as_ref()).collect();
        let (mut out, mut keys, mut taken) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let taken_over = Users::of(self.chosen.values().copied());
        for name in used {
            let Some(live) = self.survey.volumes.get(name) else { continue };
            let key = free_name(live.labels.get("com.docker.compose.volume").unwrap_or(name), &mut taken);
            let elsewhere = self.survey.users.volumes.get(name) > taken_over.volumes.get(name);
            if live.owner.is_some() || elsewhere {
                if elsewhere {
                    notes.push(format!("the volume `{name}` is only used, not taken over: other containers mount it"));
                }
                out.insert(key.clone(), json!({ "external": true, "name": name }));
            } else {
                out.insert(key.clone(), volume(name, live));
            }
            keys.insert(name.clone(), key);
        }
        (out, keys)
    }

    fn service(
        &self,
        name: &str,
        container: &ObservedContainer,
        config: &ContainerConfig,
        (networks, volumes): (&BTreeMap<String, String>, &BTreeMap<String, String>),
    ) -> Json {
        let mut out = json!({ "image": container.image, "container_name": name, "adopt": container.id });
        let mut say = |key: &str, value: Json| put(&mut out, key, value);
        say("command", json!(config.command));
        say("entrypoint", json!(config.entrypoint));
        say("environment", json!(config.environment));
        say("labels", json!(own_labels(&config.labels)));
        // Who shares another's network has its names, too.
        let shares = config.options.network_mode.as_deref().is_some_and(|mode| mode.starts_with("container:"));
        let none = String::new();
        let hostname = if shares { &none } else { &config.hostname };
        for (key, text) in [("hostname", hostname), ("user", &config.user), ("working_dir", &config.working_dir)] {
            say(key, json!(Some(text).filter(|text| !text.is_empty())));
        }
        say("stop_signal", json!(config.stop_signal));
        say("stop_grace_period", json!(config.stop_grace_period.map(span_words)));
        say("restart", json!(config.restart.and_then(restart)));
        say("ports", json!(config.ports));
        if let Some(check) = &config.healthcheck {
            let spans = [("interval", check.interval), ("timeout", check.timeout), ("start_period", check.start_period)];
            let mut said = json!({ "test": check.test, "retries": check.retries });
            for (key, span) in spans.into_iter().chain([("start_interval", check.start_interval)]) {
                put(&mut said, key, json!(span.map(span_words)));
            }
            said.as_object_mut().into_iter().for_each(|said| said.retain(|_, value| !is_nothing(value)));
            say("healthcheck", said);
        }
        let own = self.services.get(name);
        let joined = config.networks.iter().filter_map(|(network, attachment)| {
            let mut attachment = attachment.clone();
            attachment.aliases.retain(|alias| Some(alias) != own);
            Some((networks.get(network)?.clone(), json!(attachment)))
        });
        if config.options.network_mode.is_none() {
            say("networks", Json::Object(joined.collect()));
        }
        let mounts: Vec<Json> = config.volumes.iter().map(|(path, spec)| mount(path, spec, volumes)).collect();
        say("volumes", json!(mounts));
        for (key, value) in self.options(&config.options) {
            if !(shares && matches!(key.as_str(), "domainname" | "dns" | "dns_search" | "dns_opt" | "extra_hosts")) {
                say(&key, value);
            }
        }
        out
    }

    /// Settings in the forms of the file, where those differ from the model's.
    fn options(&self, options: &Options) -> Vec<(String, Json)> {
        let mut out = Vec::new();
        let Ok(Json::Object(said)) = serde_json::to_value(options) else { return out };
        for (key, value) in said {
            let value = match (key.as_str(), value) {
                ("cpus", _) => json!(options.cpus.map(cpus)),
                ("tmpfs", _) => {
                    let mounts = options.tmpfs.iter().flatten();
                    json!(mounts.map(|(path, how)| if how.is_empty() { path.clone() } else { format!("{path}:{how}") }).collect::<Vec<_>>())
                }
                ("network_mode" | "ipc" | "pid", Json::String(mode)) => {
                    let service = mode.strip_prefix("container:").and_then(|other| self.services.get(other));
                    json!(service.map_or(mode.clone(), |service| format!("service:{service}")))
                }
                (_, value) => value,
            };
            out.push((key, value));
        }
        out
    }
}

/// Adds what says something.
fn put(object: &mut Json, key: &str, value: Json) {
    if let Json::Object(map) = object
        && !is_nothing(&value)
    {
        map.insert(key.to_owned(), value);
    }
}

fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(map) => map.is_empty(),
        Json::Bool(_) | Json::Number(_) | Json::String(_) => false,
    }
}

fn own_labels(labels: &BTreeMap<String, String>) -> BTreeMap<&String, &String> {
    labels.iter().filter(|(name, _)| !name.starts_with(COMPOSE)).collect()
}

fn network(name: &str, live: &ObservedNetwork, fixed: bool) -> Json {
    let mut out = json!({ "name": name, "adopt": live.id });
    put(&mut out, "driver", json!(Some(&live.driver).filter(|driver| *driver != "bridge")));
    put(&mut out, "driver_opts", json!(live.driver_opts));
    for (key, truth) in [("attachable", live.attachable), ("enable_ipv6", live.enable_ipv6), ("internal", live.internal)] {
        put(&mut out, key, json!(truth.then_some(true)));
    }
    put(&mut out, "labels", json!(own_labels(&live.labels)));
    if fixed {
        put(&mut out, "ipam", json!({ "config": live.ipam.config }));
    }
    out
}

fn volume(name: &str, live: &ObservedVolume) -> Json {
    let mut out = json!({ "name": name, "adopt": name });
    put(&mut out, "driver", json!(Some(&live.driver).filter(|driver| *driver != "local")));
    put(&mut out, "driver_opts", json!(live.driver_opts));
    put(&mut out, "labels", json!(own_labels(&live.labels)));
    out
}

fn mount(path: &str, spec: &MountSpec, volumes: &BTreeMap<String, String>) -> Json {
    let MountSpec { kind, source, read_only, options } = spec;
    let mut out = json!({ "type": kind, "target": path });
    let source = source.as_ref().map(|source| if *kind == MountKind::Volume { volumes.get(source).unwrap_or(source) } else { source });
    put(&mut out, "source", json!(source));
    put(&mut out, "read_only", json!(read_only.then_some(true)));
    let mut bind = json!({});
    put(&mut bind, "propagation", json!(options.propagation));
    put(&mut bind, "selinux", json!(options.selinux));
    put(&mut out, "bind", bind);
    let mut volume = json!({});
    put(&mut volume, "nocopy", json!(options.nocopy));
    put(&mut volume, "subpath", json!(options.subpath));
    put(&mut out, "volume", volume);
    let mut tmpfs = json!({});
    put(&mut tmpfs, "size", json!(options.size));
    put(&mut tmpfs, "mode", json!(options.mode));
    put(&mut out, "tmpfs", tmpfs);
    out
}

fn restart(policy: RestartPolicy) -> Option<String> {
    match policy {
        // The engine's own word for nothing; named, it would mean that the service ends.
        RestartPolicy::No => None,
        RestartPolicy::Always => Some("always".to_owned()),
        RestartPolicy::UnlessStopped => Some("unless-stopped".to_owned()),
        RestartPolicy::OnFailure(0) => Some("on-failure".to_owned()),
        RestartPolicy::OnFailure(retries) => Some(format!("on-failure:{retries}")),
    }
}

/// Billionths of a processor, as the file has it.
fn cpus(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / NANO, nano % NANO);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn map(pairs: Vec<Pair>) -> Node {
    Node { value: Value::Map(pairs), at: Position::default() }
}

fn pair(key: &str, value: Node) -> Pair {
    Pair { key: key.to_owned(), key_at: Position::default(), value }
}

/// As it stands in a file, where `$` begins a variable.
fn node(json: &Json) -> Node {
    let scalar = |text: String, kind| Value::Scalar { text, kind };
    let value = match json {
        Json::Null => scalar(String::new(), Kind::Null),
        Json::Bool(truth) => scalar(truth.to_string(), Kind::Bool),
        Json::Number(number) => scalar(number.to_string(), Kind::Int),
        Json::String(text) => scalar(text.replace('$', "$$"), Kind::Text),
        Json::Array(items) => Value::List(items.iter().map(node).collect()),
        Json::Object(fields) => Value::Map(fields.iter().map(|(key, value)| pair(key, node(value))).collect()),
    };
    Node { value, at: Position::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClusterId, HostId};
    use crate::observe::Observed;
    use crate::plan::Identity;
    use crate::plan::plan;
    use crate::topology::BoundHost;

    fn survey() -> Survey {
        let config = |value: Json| -> ContainerConfig {
            let mut whole = json!({ "command": [], "entrypoint": [], "environment": {}, "ports": [], "networks": {}, "volumes": {}, "labels": {},
                "hostname": "", "user": "", "working_dir": "" });
            whole.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            serde_json::from_value(whole).unwrap()
        };
        let container = |id: char, value: Json| ObservedContainer {
            id: id.to_string().repeat(64),
            image: "shop:1".to_owned(),
            state: ContainerState::Running,
            config: Some(Box::new(config(value))),
            ..ObservedContainer::default()
        };
        let label = |service: &str| json!({ "com.docker.compose.project": "shop", "com.docker.compose.service": service, "team": "web" });
        let network =
            |id: char| ObservedNetwork { id: id.to_string().repeat(64), driver: "bridge".to_owned(), ..ObservedNetwork::default() };
        let volume = || ObservedVolume { driver: "local".to_owned(), ..ObservedVolume::default() };
        let mut survey = Survey {
            networks: BTreeMap::from([("shop_default".to_owned(), network('d')), ("proxy".to_owned(), network('e'))]),
            volumes: BTreeMap::from([("shop_data".to_owned(), volume()), ("backup".to_owned(), volume())]),
            containers: BTreeMap::from([
                (
                    "shop_db_1".to_owned(),
                    container(
                        '1',
                        json!({ "labels": label("db"), "environment": { "PASS": "a$b", "ON": "true" },
                    "networks": { "shop_default": { "aliases": ["db", "database"] } }, "restart": "always",
                    "volumes": { "/data": { "type": "volume", "source": "shop_data" }, "/scratch": { "type": "volume" }, "/b": { "type": "volume", "source": "backup" },
                        "/etc/x": { "type": "bind", "source": "/srv/x", "read_only": true } },
                    "healthcheck": { "test": ["CMD", "true"], "interval": 1_500_000_000_u64, "retries": 3 },
                    "options": { "cpus": 500_000_000, "mem_limit": 67_108_864, "tmpfs": { "/run": "size=1m", "/x": "" },
                        "ulimits": { "nofile": { "soft": 10, "hard": 20 } }, "logging": { "driver": "local", "options": { "max-size": "1m" } },
                        "extra_hosts": ["a:10.0.0.1"], "cap_add": ["CAP_CHOWN"], "security_opt": ["no-new-privileges=true"], "init": true } }),
                    ),
                ),
                (
                    "shop_web_1".to_owned(),
                    container(
                        '2',
                        json!({ "labels": label("web"), "command": ["sh", "-c", "echo $HOME"],
                    "networks": { "shop_default": { "aliases": ["web"] }, "proxy": {} }, "stop_grace_period": 3_000_000_000_u64,
                    "ports": [{ "target": 80, "protocol": "tcp", "published": 8080, "host_ip": "127.0.0.1" }, { "target": 81, "protocol": "udp" }] }),
                    ),
                ),
                (
                    "shop_side_1".to_owned(),
                    container(
                        '3',
                        json!({ "labels": label("side"), "hostname": "222222222222", "options": { "network_mode": "container:shop_web_1" } }),
                    ),
                ),
                (
                    "traefik".to_owned(),
                    container('4', json!({ "networks": { "proxy": {} }, "volumes": { "/b": { "type": "volume", "source": "backup" } } })),
                ),
            ]),
            ..Survey::default()
        };
        survey.users = Users::of(survey.containers.values());
        survey
    }

    fn adopt_project(survey: &Survey) -> Adopted {
        let host = HostName::parse("shop-17").unwrap();
        let projects = BTreeSet::from(["shop".to_owned()]);
        adopt(&Adoption { host: &host, topology: None, survey, only: &BTreeSet::new(), projects: &projects }).unwrap()
    }

    #[test]
    fn what_is_written_takes_over_exactly_what_is_there() {
        let survey = survey();
        let adopted = adopt_project(&survey);
        let id = HostId::of_key(&[7; 32]);
        let host = BoundHost { host_id: id.clone(), name: HostName::parse("shop-17").unwrap(), labels: BTreeMap::new() };
        let slices = load(&adopted.text).unwrap().slice(&[host]).unwrap();
        let identity =
            Identity { cluster: ClusterId::parse("home").unwrap(), host_id: id.clone(), topology: TopologyId::parse("shop").unwrap() };
        let Survey { networks, volumes, containers, .. } = survey;
        let observed = Observed { networks, volumes, containers, ..Observed::default() };
        let plan = plan(&identity, &slices.hosts[&id], &observed);
        assert!(plan.blocked.is_empty() && plan.steps.iter().all(|s| s.action.verb() == "adopt"), "{}\n{plan:#?}", adopted.text);
        assert_eq!((plan.steps.len(), adopted.containers), (5, 3), "three containers, a network and a volume: {}", adopted.text);
        assert!(
            adopted.text.contains("echo $$HOME") && adopted.text.contains("a$$b") && !adopted.text.contains(COMPOSE),
            "{}",
            adopted.text
        );
        assert_eq!(adopted.notes.len(), 2, "the proxy's network and the backups stay its own: {:?}", adopted.notes);
        assert!(adopted.text.contains("network_mode: service:web") && adopted.text.contains("team: web"), "{}", adopted.text);
    }

    #[test]
    fn what_others_use_too_is_only_used_also_when_the_answer_does_not_tell_of_them() {
        let mut survey = survey();
        assert!(adopt_project(&survey).text.contains(&"d".repeat(64)));
        // By one that is left out, or is Moorline's own.
        for count in [survey.users.networks.get_mut("shop_default"), survey.users.volumes.get_mut("shop_data")] {
            *count.unwrap() += 1;
        }
        survey.left_out.insert("huge".to_owned(), "its settings are too large for an answer".to_owned());
        let adopted = adopt_project(&survey);
        assert!(!adopted.text.contains(&"d".repeat(64)) && !adopted.text.contains("adopt: shop_data"), "{}", adopted.text);
        assert_eq!(adopted.text.matches("external: true").count(), 4, "{}", adopted.text);
        assert!(adopted.notes.iter().any(|note| note.starts_with("`huge` is left out: its settings")), "{:?}", adopted.notes);
        let host = HostName::parse("shop-17").unwrap();
        let only = BTreeSet::from(["huge".to_owned()]);
        let error = adopt(&Adoption { host: &host, topology: None, survey: &survey, only: &only, projects: &BTreeSet::new() }).unwrap_err();
        assert!(matches!(&error, AdoptError::LeftOut { name, .. } if name == "huge") && error.to_string().contains("too large"), "{error}");
    }

    #[test]
    fn what_cannot_be_taken_over_is_said() {
        let mut survey = survey();
        let host = HostName::parse("shop-17").unwrap();
        let ask = |survey: &Survey, only: &[&str], projects: &[&str]| {
            let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|n| (*n).to_owned()).collect() };
            adopt(&Adoption { host: &host, topology: None, survey, only: &set(only), projects: &set(projects) })
        };
        assert!(matches!(ask(&survey, &[], &[]), Err(AdoptError::NoName)), "one of them is of no project");
        assert!(matches!(ask(&survey, &["shop_db_2"], &[]), Err(AdoptError::NoContainer(name)) if name == "shop_db_2"));
        assert!(matches!(ask(&survey, &[], &["shops"]), Err(AdoptError::NoProject(_))));
        assert!(matches!(ask(&Survey::default(), &[], &[]), Err(AdoptError::Nothing)));
        let alone = ask(&survey, &["shop_side_1"], &[]);
        assert!(matches!(alone, Err(AdoptError::Nothing)), "it shares with one that is not taken over: {alone:?}");
        survey.containers.get_mut("shop_web_1").unwrap().state = ContainerState::Exited;
        let adopted = adopt_project(&survey);
        assert!(
            adopted.containers == 1 && adopted.notes.iter().any(|n| n.contains("shop_web_1") && n.contains("does not run")),
            "{adopted:?}"
        );
    }
}
