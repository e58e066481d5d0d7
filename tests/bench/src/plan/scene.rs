//! A host with twenty resources: two networks, two volumes, sixteen containers with what containers usually have.

use anyhow::{Result, anyhow};
use moorline_common::id::{HostId, HostName, TopologyId};
use moorline_common::observe::Observed;
use moorline_common::plan::model::Engine;
use moorline_common::plan::{self, Identity};
use moorline_common::statement::{ApplyReport, ObservedReport, SliceStatement};
use moorline_common::topology::{self, BoundHost, HostSpec};
use serde_json::{Map, Value, json};

use crate::apply::now;
use crate::fleet::Life;

/// The topology.
pub const TOPOLOGY: &str = "bench";
/// The label that every host bears.
pub const LABEL: (&str, &str) = ("site", "bench");
/// Resources of one host.
pub const RESOURCES: usize = 20;
const SERVICES: usize = 16;

/// The topology file; another `version` changes every container.
#[must_use]
pub fn file(version: &str) -> String {
    let services: Map<String, Value> = (0..SERVICES).map(|n| (format!("s{n:02}"), service(n, version))).collect();
    let docker =
        json!({ "networks": { "front": {}, "back": { "internal": true } }, "volumes": { "data": {}, "logs": {} }, "services": services });
    let (key, value) = LABEL;
    // JSON is YAML, too.
    json!({ "topology": TOPOLOGY, "hosts": { format!("{key}={value}"): { "docker": docker } } }).to_string()
}

fn service(n: usize, version: &str) -> Value {
    json!({
        "image": format!("registry.example/team/service-{n}:{version}"),
        "command": ["serve", "--port", "8080"],
        "environment": { "HOST": "${host.name}", "LEVEL": "info", "NUMBER": n.to_string(), "REGION": "south", "URL": "http://s00:8080/" },
        "labels": { "team": "bench", "tier": if n < 4 { "front" } else { "back" } },
        "networks": if n < 4 { json!(["front", "back"]) } else { json!(["back"]) },
        "ports": if n < 4 { json!([format!("{}:8080", 8000 + n)]) } else { json!([]) },
        "volumes": if n.is_multiple_of(4) { json!(["data:/var/lib/service"]) } else { json!(["logs:/var/log/service"]) },
        "restart": "unless-stopped",
        "healthcheck": { "test": ["CMD", "check"], "interval": "10s" },
        "mem_limit": "128m",
    })
}

/// What `file` wants of one host.
///
/// # Errors
/// When the file has problems.
pub fn spec(file: &str, host: &BoundHost) -> Result<HostSpec> {
    let problems = |problems: Vec<topology::Problem>| anyhow!("{}", problems.iter().map(|p| p.render("bench")).collect::<String>());
    let slices = topology::load_bytes(file.as_bytes()).map_err(problems)?.slice(std::slice::from_ref(host)).map_err(problems)?;
    slices.hosts.into_values().next().ok_or_else(|| anyhow!("the file means no host"))
}

/// A host as the file means it.
///
/// # Errors
/// Never: its name is one.
pub fn host() -> Result<BoundHost> {
    let (key, value) = LABEL;
    Ok(BoundHost {
        host_id: HostId::of_key(&[7; 32]),
        name: HostName::parse("host-7")?,
        labels: [(key.to_owned(), value.to_owned())].into_iter().collect(),
    })
}

/// What there is once `spec` was applied to nothing.
///
/// # Errors
/// When a step fails.
pub fn settled(identity: &Identity, spec: &HostSpec) -> Result<Observed> {
    let mut engine = Engine::default();
    for step in plan::plan(identity, spec, &engine.observed()).steps {
        engine.apply(&step)?;
    }
    Ok(engine.observed())
}

/// Agents that report their slice as applied.
pub struct Settled;

impl Life for Settled {
    fn applied(&self, slice: &SliceStatement) -> Result<Option<ObservedReport>> {
        let identity = Identity { cluster: slice.cluster.clone(), host_id: slice.host_id.clone(), topology: TopologyId::parse(TOPOLOGY)? };
        let observed = settled(&identity, &slice.spec()?)?;
        let taken_at = moorline_common::id::UnixSeconds(now().as_secs());
        Ok(Some(ObservedReport { host_id: slice.host_id.clone(), taken_at, observed, apply: ApplyReport::default() }))
    }
}
