//! The `docker` section: networks and volumes, and the walk over all of its objects.

use std::collections::BTreeMap;

use super::super::keys;
use super::super::node::{Node, Value};
use super::super::vars::Why;
use super::super::{DockerSpec, Ipam, IpamPool, NetworkSpec, ObjectKind, SealedKind, Varying, VolumeSpec};
use super::values;
use super::walk::{Fields, Walker};
use super::{drift, sealed, service};
use crate::observe::LABEL_PREFIX;

/// Names that the engine gives a meaning of its own.
const RESERVED_NETWORKS: [&str; 3] = ["bridge", "host", "none"];

/// What a walk over a `docker` section brings besides the spec itself.
#[derive(Default)]
pub(crate) struct Extras {
    /// Objects that hold variables.
    pub(crate) varying: Vec<Varying>,
}

/// Reads a `docker` section.
pub(crate) fn docker(w: &mut Walker<'_>, node: &Node, extras: &mut Extras) -> Option<DockerSpec> {
    if node.is_null() {
        return None;
    }
    let fields = w.object(node, &keys::DOCKER)?;
    Some(DockerSpec {
        networks: objects(w, &fields, ObjectKind::Network, extras, network),
        volumes: objects(w, &fields, ObjectKind::Volume, extras, volume),
        secrets: objects(w, &fields, ObjectKind::Sealed(SealedKind::Secret), extras, |w, n| sealed::object(w, n, SealedKind::Secret)),
        configs: objects(w, &fields, ObjectKind::Sealed(SealedKind::Config), extras, |w, n| sealed::object(w, n, SealedKind::Config)),
        services: objects(w, &fields, ObjectKind::Service, extras, service::service),
    })
}

fn objects<T>(
    w: &mut Walker<'_>,
    fields: &Fields<'_>,
    kind: ObjectKind,
    extras: &mut Extras,
    read: fn(&mut Walker<'_>, &Node) -> T,
) -> BTreeMap<String, T> {
    let mut out = BTreeMap::new();
    let section = kind.section();
    let Some(node) = fields.get(section).filter(|node| !node.is_null()) else { return out };
    w.within(section, |w| {
        for pair in w.map(node, &format!("a map of {section} by their names")) {
            w.within(&pair.key, |w| {
                if let Err(why) = values::name(&pair.key) {
                    w.report_why(pair.key_at, why);
                } else if kind == ObjectKind::Network && RESERVED_NETWORKS.contains(&pair.key.as_str()) {
                    w.report(pair.key_at, format!("`{}` is a network of the engine's own and can't be the name of another", pair.key));
                }
                w.mark("", pair.key_at);
                w.varied = false;
                out.insert(pair.key.clone(), read(w, &pair.value));
                if std::mem::take(&mut w.varied) {
                    extras.varying.push(Varying { kind, name: pair.key.clone(), node: pair.value.clone() });
                }
            });
        }
    });
    out
}

/// Reads an entry under `networks`.
pub(crate) fn network(w: &mut Walker<'_>, node: &Node) -> NetworkSpec {
    let Some(fields) = optional(w, node, &keys::NETWORK) else { return NetworkSpec::default() };
    let (name, external) = naming(w, &fields, "network");
    NetworkSpec {
        name,
        external,
        adopt: w.get(&fields, "adopt", |w, n| w.checked(n, values::engine_id)),
        drift: w.get(&fields, "drift", drift),
        driver: w.get(&fields, "driver", |w, n| w.checked(n, non_empty)),
        driver_opts: w.get(&fields, "driver_opts", |w, n| Some(w.options(n))).unwrap_or_default(),
        attachable: w.get(&fields, "attachable", Walker::truth),
        enable_ipv6: w.get(&fields, "enable_ipv6", Walker::truth),
        internal: w.get(&fields, "internal", Walker::truth),
        ipam: w.get(&fields, "ipam", ipam),
        labels: w.get(&fields, "labels", labels).unwrap_or_default(),
    }
}

/// Reads an entry under `volumes`.
pub(crate) fn volume(w: &mut Walker<'_>, node: &Node) -> VolumeSpec {
    let Some(fields) = optional(w, node, &keys::VOLUME) else { return VolumeSpec::default() };
    let (name, external) = naming(w, &fields, "volume");
    VolumeSpec {
        name,
        external,
        adopt: w.get(&fields, "adopt", |w, n| w.checked(n, values::engine_name)),
        drift: w.get(&fields, "drift", drift),
        driver: w.get(&fields, "driver", |w, n| w.checked(n, non_empty)),
        driver_opts: w.get(&fields, "driver_opts", |w, n| Some(w.options(n))).unwrap_or_default(),
        labels: w.get(&fields, "labels", labels).unwrap_or_default(),
    }
}

/// What a network or volume is called on the engine, and whether it is only used.
fn naming(w: &mut Walker<'_>, fields: &Fields<'_>, what: &str) -> (Option<String>, bool) {
    let check = |text: &str| match text {
        "bridge" | "host" | "none" if what == "network" => Err(Why::new(format!("`{text}` is a network of the engine's own"))
            .help(format!("write `network_mode: {text}` at the service, and no `networks`"))),
        text => values::engine_name(text),
    };
    let mut name = w.get(fields, "name", |w, n| w.checked(n, check));
    let mut is_external = false;
    if let Some(node) = fields.get("external").filter(|node| !node.is_null()) {
        w.within("external", |w| {
            if let Value::Map(_) = &node.value {
                let Some(older) = w.object(node, &keys::EXTERNAL) else { return };
                name = w.get(&older, "name", |w, n| w.checked(n, check)).or(name.take());
                is_external = true;
            } else {
                is_external = w.truth(node).unwrap_or_default();
            }
        });
    }
    if is_external {
        let others = fields.keys().filter(|key| !matches!(*key, "name" | "external") && !key.starts_with("x-"));
        for key in others.map(str::to_owned).collect::<Vec<_>>() {
            let why = Why::new(format!("`{key}` says how a {what} is made, and an external one is there already"));
            w.report_why(fields.key_at(&key), why.help(format!("leave `{key}` out, or `external`")));
        }
    }
    (name, is_external)
}

/// An object that may also be nothing at all.
pub(crate) fn optional<'n>(w: &mut Walker<'_>, node: &'n Node, object: &'static keys::Object) -> Option<Fields<'n>> {
    if node.is_null() { None } else { w.object(node, object) }
}

/// Text that says something.
pub(crate) fn non_empty(text: &str) -> Result<String, Why> {
    if text.is_empty() { Err(Why::new("empty text cannot stand here").help("leave the key out")) } else { Ok(text.to_owned()) }
}

/// Reads an operator's own labels.
pub(crate) fn labels(w: &mut Walker<'_>, node: &Node) -> Option<BTreeMap<String, String>> {
    Some(w.pairs(node, |name| {
        if name.is_empty() {
            return Err(Why::new("a label needs a name"));
        }
        if name.starts_with(LABEL_PREFIX) {
            return Err(Why::new(format!("labels that begin with `{LABEL_PREFIX}` are reserved")).help("choose another name"));
        }
        Ok(())
    }))
}

fn ipam(w: &mut Walker<'_>, node: &Node) -> Option<Ipam> {
    let fields = optional(w, node, &keys::IPAM)?;
    let driver = w.get(&fields, "driver", |w, n| w.checked(n, non_empty));
    let config = w.get(&fields, "config", |w, node| {
        let mut pools = Vec::new();
        for (n, item) in w.list(node, "a list of address pools").iter().enumerate() {
            pools.extend(w.within(format!("[{n}]"), |w| pool(w, item)));
        }
        Some(pools)
    });
    let ipam = Ipam { driver, config: config.unwrap_or_default() };
    // `ipam: {}` says nothing.
    (ipam != Ipam::default()).then_some(ipam)
}

fn pool(w: &mut Walker<'_>, node: &Node) -> Option<IpamPool> {
    let fields = w.object(node, &keys::POOL)?;
    let subnet = w.get(&fields, "subnet", |w, n| w.parsed(n, values::subnet));
    let ip_range = w.get(&fields, "ip_range", |w, n| w.parsed(n, values::subnet).map(|net| (net, n.at)));
    let gateway = w.get(&fields, "gateway", |w, n| w.parsed(n, |t| values::address::<std::net::IpAddr>(t, "IP")).map(|ip| (ip, n.at)));
    let subnet = subnet?;
    if let Some((range, at)) = ip_range
        && !subnet.contains(&range)
    {
        w.within("ip_range", |w| w.report(at, format!("`{range}` is not inside of the subnet {subnet}")));
    }
    if let Some((gateway, at)) = gateway
        && !subnet.contains(&gateway)
    {
        w.within("gateway", |w| w.report(at, format!("`{gateway}` is not inside of the subnet {subnet}")));
    }
    Some(IpamPool {
        subnet: subnet.to_string(),
        ip_range: ip_range.map(|(r, _)| r.to_string()),
        gateway: gateway.map(|(g, _)| g.to_string()),
    })
}

/// Whether `node` is an empty list: it empties what came before, instead of saying nothing.
pub(crate) fn is_empty_list(node: &Node) -> bool {
    matches!(&node.value, Value::List(items) if items.is_empty())
}
