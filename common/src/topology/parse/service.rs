//! A service, in every form that the Compose Specification knows for its keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::keys;
use super::super::limits::PORTS_MAX;
use super::super::node::{Kind, Node, Value, shorten};
use super::super::vars::Why;
use super::super::{Attachment, Dependency, DependencyCondition, Healthcheck, Nanos, PortSpec, Protocol, SealedKind, ServiceSpec};
use super::docker::{labels, non_empty, optional};
use super::walk::{Filled, Walker};
use super::{deploy, drift, mounts, options, sealed, values};

/// Reads an entry under `services`. An image may be missing here: another part may bring it.
pub(crate) fn service(w: &mut Walker<'_>, node: &Node) -> ServiceSpec {
    let fields = w.object(node, &keys::SERVICE);
    // Whoever names an image wrongly is not told as well that there is none.
    let image_at = fields.as_ref().map_or(Some(node.at), |f| f.get("image").map(|n| n.at));
    if let Some(at) = image_at {
        w.mark("image", at);
    }
    let Some(fields) = fields else { return ServiceSpec::default() };
    let mut service = ServiceSpec {
        container_name: w.get(&fields, "container_name", |w, n| w.checked(n, values::engine_name)),
        adopt: w.get(&fields, "adopt", |w, n| w.checked(n, values::engine_id)),
        drift: w.get(&fields, "drift", drift),
        image: w.get(&fields, "image", |w, n| w.checked(n, values::image)).unwrap_or_default(),
        platform: w.get(&fields, "platform", |w, n| w.checked(n, values::platform)),
        pull_policy: w.get(&fields, "pull_policy", |w, n| w.parsed(n, values::pull_policy)),
        command: w.get(&fields, "command", words),
        entrypoint: w.get(&fields, "entrypoint", words),
        environment: w.get(&fields, "environment", environment).unwrap_or_default(),
        ports: w.get(&fields, "ports", ports).unwrap_or_default(),
        networks: w.get(&fields, "networks", networks).unwrap_or_default(),
        volumes: w.get(&fields, "volumes", mounts::mounts).unwrap_or_default(),
        secrets: w.get(&fields, "secrets", |w, n| sealed::mounts(w, n, SealedKind::Secret)).unwrap_or_default(),
        configs: w.get(&fields, "configs", |w, n| sealed::mounts(w, n, SealedKind::Config)).unwrap_or_default(),
        restart: w.get(&fields, "restart", restart),
        labels: w.get(&fields, "labels", labels).unwrap_or_default(),
        healthcheck: w.get(&fields, "healthcheck", healthcheck),
        depends_on: w.get(&fields, "depends_on", depends_on).unwrap_or_default(),
        hostname: w.get(&fields, "hostname", |w, n| w.checked(n, values::hostname)),
        user: w.get(&fields, "user", |w, n| scalar(w, n, "a user", non_empty)),
        working_dir: w.get(&fields, "working_dir", |w, n| w.checked(n, values::absolute_path)),
        stop_signal: w.get(&fields, "stop_signal", |w, n| scalar(w, n, "a signal", values::signal)),
        stop_grace_period: w.get(&fields, "stop_grace_period", span),
        options: options::options(w, &fields),
        ..ServiceSpec::default()
    };
    deploy::deploy(w, &fields, &mut service);
    service
}

/// Text or a number that passes `check`.
pub(super) fn scalar(w: &mut Walker<'_>, node: &Node, what: &str, check: fn(&str) -> Result<String, Why>) -> Option<String> {
    match w.scalar(node, what)? {
        Filled::Open(text) => Some(text),
        known @ Filled::Known(_) => w.understood(known, node.at, check),
    }
}

/// A span of time; a number needs a unit.
pub(super) fn span(w: &mut Walker<'_>, node: &Node) -> Option<Nanos> {
    if let Value::Scalar { text, kind: Kind::Int | Kind::Float } = &node.value
        && text != "0"
    {
        w.report_why(
            node.at,
            Why::new(format!("the span of time {} has no unit", shorten(text))).help(format!("write `{}s` for seconds", shorten(text))),
        );
        return None;
    }
    let filled = w.scalar(node, "a span of time such as `1m30s`")?;
    w.understood(filled, node.at, values::duration)
}

/// A span of time in whole seconds, up to `most_s`.
pub(super) fn seconds(w: &mut Walker<'_>, node: &Node, most_s: u64) -> Option<u64> {
    const SECOND: u64 = 1_000_000_000;
    let Nanos(nanos) = span(w, node)?;
    let seconds = nanos / SECOND;
    if nanos.is_multiple_of(SECOND) && seconds <= most_s {
        return Some(seconds);
    }
    w.report(node.at, format!("a span here has whole seconds, and {} hours at most", most_s / 3600));
    None
}

fn restart(w: &mut Walker<'_>, node: &Node) -> Option<super::super::RestartPolicy> {
    if let Value::Scalar { text, kind: Kind::Bool } = &node.value {
        w.report_why(
            node.at,
            Why::new(format!("expected `no`, `always`, `unless-stopped` or `on-failure`, found {text}")).help("write \"no\" for never"),
        );
        return None;
    }
    w.parsed(node, values::restart)
}

/// Words: a list, or a string that is split as a shell does, before its variables are filled.
fn words(w: &mut Walker<'_>, node: &Node) -> Option<Vec<String>> {
    let mut out = Vec::new();
    match &node.value {
        Value::List(items) => {
            for (n, item) in items.iter().enumerate() {
                let word = w.within(format!("[{n}]"), |w| w.scalar(item, "a word"));
                out.push(word?.into_text());
            }
        }
        Value::Scalar { text, kind: Kind::Text | Kind::Filled } => match values::shell_words(text) {
            Ok(words) => {
                for word in words {
                    out.push(w.fill(&word, node.at)?.into_text());
                }
            }
            Err(why) => {
                w.report_why(node.at, why);
                return None;
            }
        },
        Value::Scalar { .. } | Value::Map(_) => {
            w.wanted(node, "a command as text or as a list of words");
            return None;
        }
    }
    Some(out)
}

fn environment(w: &mut Walker<'_>, node: &Node) -> Option<BTreeMap<String, String>> {
    Some(w.pairs(node, |name| {
        if name.is_empty() || name.contains('=') {
            return Err(Why::new(format!("`{}` cannot be a variable's name", shorten(name))));
        }
        Ok(())
    }))
}

fn ports(w: &mut Walker<'_>, node: &Node) -> Option<BTreeSet<PortSpec>> {
    let mut out = BTreeSet::new();
    for (n, item) in w.list(node, "a list of ports").iter().enumerate() {
        let ports = w.within(format!("[{n}]"), |w| match &item.value {
            Value::Map(_) => long_port(w, item).map(|port| vec![port]),
            Value::Scalar { .. } | Value::List(_) => {
                let filled = w.scalar(item, "a port such as `8080:80`, or the long form")?;
                w.understood(filled, item.at, values::ports)
            }
        });
        for port in ports.into_iter().flatten() {
            w.mark(&port_mark(&port), item.at);
            if out.len() >= PORTS_MAX {
                w.report(item.at, format!("a service cannot publish more than {PORTS_MAX} ports"));
                return Some(out);
            }
            if !out.insert(port) {
                w.within(format!("[{n}]"), |w| w.report(item.at, "this port stands twice in this list"));
                break;
            }
        }
    }
    if out.is_empty() && super::docker::is_empty_list(node) {
        // Read again when parts are merged: an empty list takes away what came before.
        w.mark("", node.at);
    }
    Some(out)
}

/// The name of a port's mark below `services.NAME.ports`.
pub(crate) fn port_mark(port: &PortSpec) -> String {
    let PortSpec { target, protocol, published, host_ip } = port;
    let ip = host_ip.map(|ip| ip.to_string()).unwrap_or_default();
    format!("{ip}:{}:{target}/{}", published.unwrap_or(0), protocol.as_str())
}

fn long_port(w: &mut Walker<'_>, node: &Node) -> Option<PortSpec> {
    let fields = w.object(node, &keys::PORT)?;
    let varied_before = std::mem::take(&mut w.varied);
    let before = w.problems.len();
    let target = w.get(&fields, "target", |w, n| w.int(n, 1, 65535)).and_then(|n| u16::try_from(n).ok());
    let published = w.get(&fields, "published", |w, n| {
        let filled = w.scalar(n, "a port")?;
        w.understood(filled, n.at, |text| {
            if text.contains('-') { Err(Why::new("a range of ports is not supported yet in the long form")) } else { values::port(text) }
        })
    });
    let host_ip = w.get(&fields, "host_ip", |w, n| w.parsed(n, values::host_address));
    let words = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
    let protocol = w.get(&fields, "protocol", |w, n| w.one_of(n, &words));
    // An open or wrong part makes the port unknown: half of it would be another port.
    let open = w.varied;
    w.varied |= varied_before;
    if open || w.problems.len() > before {
        return None;
    }
    Some(PortSpec { target: target?, protocol: protocol.unwrap_or(Protocol::Tcp), published, host_ip })
}

fn networks(w: &mut Walker<'_>, node: &Node) -> Option<BTreeMap<String, Attachment>> {
    let mut out = BTreeMap::new();
    if let Value::Map(pairs) = &node.value {
        for pair in pairs {
            w.mark(&pair.key, pair.key_at);
            let attachment = w.within(&pair.key, |w| attachment(w, &pair.value));
            out.insert(pair.key.clone(), attachment);
        }
    } else {
        for (name, at) in w.names(node, values::name) {
            w.mark(&name, at);
            out.insert(name, Attachment::default());
        }
    }
    Some(out)
}

fn attachment(w: &mut Walker<'_>, node: &Node) -> Attachment {
    let Some(fields) = optional(w, node, &keys::ATTACHMENT) else { return Attachment::default() };
    let aliases = w.get(&fields, "aliases", |w, n| Some(w.names(n, values::hostname)));
    for key in ["ipv4_address", "ipv6_address"] {
        if let Some(at) = fields.get(key).map(|n| n.at) {
            w.mark(key, at);
        }
    }
    Attachment {
        aliases: aliases.into_iter().flatten().map(|(name, _)| name).collect(),
        ipv4_address: w.get(&fields, "ipv4_address", |w, n| w.parsed(n, |t| values::address::<Ipv4Addr>(t, "IPv4"))),
        ipv6_address: w.get(&fields, "ipv6_address", |w, n| w.parsed(n, |t| values::address::<Ipv6Addr>(t, "IPv6"))),
    }
}

fn healthcheck(w: &mut Walker<'_>, node: &Node) -> Option<Healthcheck> {
    let fields = w.object(node, &keys::HEALTHCHECK)?;
    let disable = w.get(&fields, "disable", Walker::truth).unwrap_or(false);
    let test = w.get(&fields, "test", health_test);
    if disable && test.as_ref().is_some_and(|t| t.first().is_none_or(|word| word != "NONE")) {
        w.within("test", |w| w.report(fields.key_at("test"), "`test` and `disable: true` contradict each other"));
    }
    let check = Healthcheck {
        test: if disable { vec!["NONE".to_owned()] } else { test.unwrap_or_default() },
        interval: w.get(&fields, "interval", span),
        timeout: w.get(&fields, "timeout", span),
        retries: w.get(&fields, "retries", |w, n| w.int(n, 1, 1_000_000)).and_then(|n| u32::try_from(n).ok()),
        start_period: w.get(&fields, "start_period", span),
        start_interval: w.get(&fields, "start_interval", span),
    };
    // `disable: false` alone says nothing.
    (check != Healthcheck::default()).then_some(check)
}

fn health_test(w: &mut Walker<'_>, node: &Node) -> Option<Vec<String>> {
    if matches!(node.value, Value::Scalar { .. }) {
        let test = w.checked(node, non_empty)?;
        return Some(vec!["CMD-SHELL".to_owned(), test]);
    }
    let test = words(w, node)?;
    let good = match test.first().map(String::as_str) {
        Some("NONE") => test.len() == 1,
        Some("CMD") => test.len() > 1,
        Some("CMD-SHELL") => test.len() == 2,
        Some(_) | None => false,
    };
    if good {
        return Some(test);
    }
    let why = Why::new("a healthcheck's test as a list is `[\"CMD\", program, …]`, `[\"CMD-SHELL\", line]` or `[\"NONE\"]`")
        .help("a plain string is run in the image's shell");
    w.report_why(node.at, why);
    None
}

fn depends_on(w: &mut Walker<'_>, node: &Node) -> Option<BTreeMap<String, Dependency>> {
    let mut out = BTreeMap::new();
    if let Value::Map(pairs) = &node.value {
        let words = [
            ("service_started", DependencyCondition::ServiceStarted),
            ("service_healthy", DependencyCondition::ServiceHealthy),
            ("service_completed_successfully", DependencyCondition::ServiceCompletedSuccessfully),
        ];
        for pair in pairs {
            w.mark(&pair.key, pair.key_at);
            let dependency = w.within(&pair.key, |w| {
                let fields = w.object(&pair.value, &keys::DEPENDENCY)?;
                let condition = w.get(&fields, "condition", |w, n| w.one_of(n, &words));
                Some(Dependency {
                    condition: condition.unwrap_or(DependencyCondition::ServiceStarted),
                    optional: !w.get(&fields, "required", Walker::truth).unwrap_or(true),
                    restart: w.get(&fields, "restart", Walker::truth).unwrap_or_default(),
                })
            });
            out.insert(pair.key.clone(), dependency.unwrap_or(Dependency::on(DependencyCondition::ServiceStarted)));
        }
    } else {
        for (name, at) in w.names(node, values::name) {
            w.mark(&name, at);
            out.insert(name, Dependency::on(DependencyCondition::ServiceStarted));
        }
    }
    Some(out)
}
