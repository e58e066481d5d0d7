//! A service's keys that become settings of its container; see [`Options`].

use std::collections::{BTreeMap, BTreeSet};

use super::super::keys;
use super::super::limits::{MEMORY_MAX, NANO_CPUS_MAX, PORTS_MAX};
use super::super::node::{Node, Value, shorten};
use super::super::options::{Device, Exposed, Logging, Options, SecurityOpts, Swappiness, Ulimit};
use super::super::vars::Why;
use super::docker::non_empty;
use super::service::scalar;
use super::walk::{Fields, Filled, Walker};
use super::{mounts, values};

/// Reads them.
pub(crate) fn options(w: &mut Walker<'_>, fields: &Fields<'_>) -> Options {
    Options {
        cgroup: w.get(fields, "cgroup", |w, n| word(w, n, &["host", "private"])),
        cgroup_parent: w.get(fields, "cgroup_parent", |w, n| w.checked(n, non_empty)),
        cap_add: w.get(fields, "cap_add", |w, n| Some(set(w, n, capability))),
        cap_drop: w.get(fields, "cap_drop", |w, n| Some(set(w, n, capability))),
        cpu_period: w.get(fields, "cpu_period", |w, n| w.int(n, 0, 1_000_000)),
        cpu_quota: w.get(fields, "cpu_quota", |w, n| signed(w, n, -1, 1 << 40)),
        cpu_shares: w.get(fields, "cpu_shares", |w, n| w.int(n, 0, 262_144)),
        cpus: w.get(fields, "cpus", cpus),
        cpuset: w.get(fields, "cpuset", |w, n| scalar(w, n, "processors such as `0-2,5`", cpuset)),
        device_cgroup_rules: w.get(fields, "device_cgroup_rules", |w, n| Some(set(w, n, non_empty))),
        devices: w.get(fields, "devices", devices),
        dns: w.get(fields, "dns", |w, n| some_of(w, n, |t| values::address::<std::net::IpAddr>(t, "IP").map(|ip| ip.to_string()))),
        dns_opt: w.get(fields, "dns_opt", |w, n| some_of(w, n, non_empty)),
        dns_search: w.get(fields, "dns_search", |w, n| some_of(w, n, non_empty)),
        domainname: w.get(fields, "domainname", |w, n| w.checked(n, values::hostname)),
        expose: w.get(fields, "expose", expose),
        extra_hosts: w.get(fields, "extra_hosts", extra_hosts),
        group_add: w.get(fields, "group_add", groups),
        init: w.get(fields, "init", Walker::truth),
        ipc: w.get(fields, "ipc", |w, n| namespace(w, n, &["host", "none", "private", "shareable"])),
        logging: w.get(fields, "logging", logging),
        mem_limit: w.get(fields, "mem_limit", bytes),
        mem_reservation: w.get(fields, "mem_reservation", bytes),
        mem_swappiness: w.get(fields, "mem_swappiness", |w, n| w.int(n, 0, 100)).map(Swappiness),
        memswap_limit: w.get(fields, "memswap_limit", bytes_or_all).filter(|n| *n != 0),
        network_mode: w.get(fields, "network_mode", |w, n| namespace(w, n, &["bridge", "host", "none"])),
        oom_kill_disable: w.get(fields, "oom_kill_disable", Walker::truth),
        oom_score_adj: w.get(fields, "oom_score_adj", |w, n| signed(w, n, -1000, 1000)),
        pid: w.get(fields, "pid", |w, n| namespace(w, n, &["host"])),
        pids_limit: w.get(fields, "pids_limit", pids),
        privileged: w.get(fields, "privileged", Walker::truth),
        read_only: w.get(fields, "read_only", Walker::truth),
        runtime: w.get(fields, "runtime", |w, n| w.checked(n, non_empty)),
        security_opt: w.get(fields, "security_opt", |w, n| Some(SecurityOpts(set(w, n, security_opt)))),
        // Of these two, nothing is what the engine makes of it.
        shm_size: w.get(fields, "shm_size", bytes).filter(|n| *n != 0),
        stdin_open: w.get(fields, "stdin_open", Walker::truth),
        storage_opt: w.get(fields, "storage_opt", |w, n| Some(w.options(n))),
        sysctls: w.get(fields, "sysctls", |w, n| Some(w.pairs(n, |name| non_empty(name).map(drop)))),
        tmpfs: w.get(fields, "tmpfs", mounts::tmpfs),
        tty: w.get(fields, "tty", Walker::truth),
        ulimits: w.get(fields, "ulimits", ulimits),
        userns_mode: w.get(fields, "userns_mode", |w, n| word(w, n, &["host"])),
        uts: w.get(fields, "uts", |w, n| word(w, n, &["host"])),
    }
}

/// Processes; -1 is without limit, and to have none is not to be limited.
pub(super) fn pids(w: &mut Walker<'_>, node: &Node) -> Option<i64> {
    signed(w, node, -1, 1 << 32).map(|n| if n == 0 { -1 } else { n })
}

/// Ports that other containers may use: `3000`, `8000-8010/udp`.
fn expose(w: &mut Walker<'_>, node: &Node) -> Option<Exposed> {
    let mut out = BTreeSet::new();
    for (n, item) in w.list(node, "a list of ports").iter().enumerate() {
        let ports = w.within(format!("[{n}]"), |w| {
            let filled = w.scalar(item, "a port such as `3000` or `8000-8010/udp`")?;
            w.understood(filled, item.at, |text| match text.contains(':') {
                true => Err(Why::new(format!("`{}` publishes a port", shorten(text))).help("write it under `ports`")),
                false => values::ports(text),
            })
        });
        out.extend(ports.into_iter().flatten().map(|port| format!("{}/{}", port.target, port.protocol.as_str())));
    }
    if out.len() > PORTS_MAX {
        w.report(node.at, format!("a service cannot offer more than {PORTS_MAX} ports"));
    }
    Some(Exposed(out))
}

/// Text that is one of `words`.
fn word(w: &mut Walker<'_>, node: &Node, words: &[&str]) -> Option<String> {
    let words: Vec<(&str, &str)> = words.iter().map(|word| (*word, *word)).collect();
    w.one_of(node, &words).map(str::to_owned)
}

/// What a container shares: one of `words`, or that of another service.
fn namespace(w: &mut Walker<'_>, node: &Node, words: &[&str]) -> Option<String> {
    let filled = w.text(node)?;
    let service = match &filled {
        Filled::Open(_) => return None,
        Filled::Known(text) => text.strip_prefix("service:").map(str::to_owned),
    };
    w.mark("", node.at);
    if let Some(service) = service {
        return w.understood(Filled::Known(service), node.at, values::name).map(|name| format!("service:{name}"));
    }
    w.understood(filled, node.at, |text| {
        if words.contains(&text) {
            return Ok(text.to_owned());
        }
        let list: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        let mut why = Why::new(format!("expected {} or `service:NAME`, found `{}`", list.join(", "), shorten(text)));
        if text.starts_with("container:") {
            why = why.help("only a service of the same host can be meant: write `service:NAME`");
        }
        Err(why)
    })
}

fn set(w: &mut Walker<'_>, node: &Node, check: fn(&str) -> Result<String, Why>) -> BTreeSet<String> {
    w.names(node, check).into_iter().map(|(name, _)| name).collect()
}

/// Text, or a list of text; the order counts.
fn some_of(w: &mut Walker<'_>, node: &Node, check: fn(&str) -> Result<String, Why>) -> Option<Vec<String>> {
    if matches!(node.value, Value::Scalar { .. }) {
        return w.checked(node, check).map(|one| vec![one]);
    }
    Some(w.names(node, check).into_iter().map(|(name, _)| name).collect())
}

fn groups(w: &mut Walker<'_>, node: &Node) -> Option<BTreeSet<String>> {
    let mut out = BTreeSet::new();
    for (n, item) in w.list(node, "a list of groups").iter().enumerate() {
        out.extend(w.within(format!("[{n}]"), |w| scalar(w, item, "a group's name or number", non_empty)));
    }
    Some(out)
}

/// A capability in the engine's spelling.
fn capability(text: &str) -> Result<String, Why> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare.is_empty() || !bare.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') {
        return Err(Why::new(format!("`{}` is no capability", shorten(text))).help("write it like `NET_ADMIN`; `ALL` is all of them"));
    }
    Ok(if bare == "ALL" { bare.to_owned() } else { format!("CAP_{bare}") })
}

/// An option of the host's security modules, `name=value` or a bare name.
fn security_opt(text: &str) -> Result<String, Why> {
    let text = if text.contains('=') { text.to_owned() } else { text.replacen(':', "=", 1) };
    match text.split_once('=').map_or((text.as_str(), ""), |(name, value)| (name, value)) {
        ("no-new-privileges", "" | "true") => Ok("no-new-privileges=true".to_owned()),
        ("no-new-privileges", "false") => Ok("no-new-privileges=false".to_owned()),
        ("seccomp", "unconfined") | ("apparmor" | "label", _) => Ok(text),
        ("seccomp", _) => Err(Why::new("a seccomp profile from a file is not supported yet").help("`seccomp=unconfined` is")),
        _ => Err(Why::new(format!("`{}` is no security option", shorten(&text)))
            .help("there are `no-new-privileges`, `seccomp=unconfined`, `apparmor=PROFILE` and `label=…`")),
    }
}

fn cpuset(text: &str) -> Result<String, Why> {
    let number = |t: &str| values::decimal(t).is_some_and(|n| n < 8192);
    let part = |part: &str| part.split_once('-').map_or_else(|| number(part), |(first, last)| number(first) && number(last));
    if text.split(',').all(part) {
        return Ok(text.to_owned());
    }
    Err(Why::new(format!("`{}` names no processors", shorten(text))).help("write them like `0-2,5`"))
}

/// Processors as a decimal number, in billionths.
pub(super) fn cpus(w: &mut Walker<'_>, node: &Node) -> Option<u64> {
    let filled = w.scalar(node, "a number of processors such as `1.5`")?;
    w.understood(filled, node.at, |text| {
        values::billionths(text)
            .filter(|n| *n <= NANO_CPUS_MAX)
            .ok_or_else(|| Why::new(format!("`{}` is no number of processors", shorten(text))).help("write it like `1.5`"))
    })
}

/// Bytes: a number, or text with a unit.
pub(crate) fn bytes(w: &mut Walker<'_>, node: &Node) -> Option<u64> {
    let filled = w.scalar(node, "bytes such as `512m`")?;
    w.understood(filled, node.at, values::bytes)
}

/// Bytes, or -1 for all there are.
fn bytes_or_all(w: &mut Walker<'_>, node: &Node) -> Option<i64> {
    let filled = w.scalar(node, "bytes such as `1g`, or -1")?;
    w.understood(
        filled,
        node.at,
        |text| if text == "-1" { Ok(-1) } else { values::bytes(text).map(i64::try_from)?.map_err(|_| too_many()) },
    )
}

fn too_many() -> Why {
    Why::new(format!("more than {MEMORY_MAX} bytes"))
}

/// A whole number that may be negative.
fn signed(w: &mut Walker<'_>, node: &Node, min: i64, max: i64) -> Option<i64> {
    let wanted = format!("a whole number from {min} to {max}");
    let filled = w.scalar(node, &wanted)?;
    w.understood(filled, node.at, |text| {
        let magnitude = values::decimal(text.strip_prefix('-').unwrap_or(text)).and_then(|n| i64::try_from(n).ok());
        magnitude
            .map(|n| if text.starts_with('-') { -n } else { n })
            .filter(|n| (min..=max).contains(n))
            .ok_or_else(|| Why::new(format!("expected {wanted}, found `{}`", shorten(text))))
    })
}

fn devices(w: &mut Walker<'_>, node: &Node) -> Option<BTreeSet<Device>> {
    let mut out = BTreeSet::new();
    for (n, item) in w.list(node, "a list of devices").iter().enumerate() {
        let device = w.within(format!("[{n}]"), |w| match &item.value {
            Value::Map(_) => long_device(w, item),
            Value::Scalar { .. } | Value::List(_) => w.parsed(item, short_device),
        });
        out.extend(device);
    }
    Some(out)
}

fn short_device(text: &str) -> Result<Device, Why> {
    let help = "write it like `/dev/kvm`, `/dev/sda:/dev/xvda` or `/dev/sda:/dev/xvda:r`";
    let mut parts = text.split(':');
    let source = values::absolute_path(parts.next().unwrap_or_default()).map_err(|why| why.help(help))?;
    let (target, permissions) = match (parts.next(), parts.next()) {
        (None, _) => (source.clone(), "rwm"),
        // `/dev/kvm:rw`: the second part may already be what is allowed.
        (Some(second), None) if !second.starts_with('/') => (source.clone(), second),
        (Some(second), permissions) => (values::absolute_path(second).map_err(|why| why.help(help))?, permissions.unwrap_or("rwm")),
    };
    if parts.next().is_some() {
        return Err(Why::new(format!("`{}` is no device", shorten(text))).help(help));
    }
    Ok(Device { source, target, permissions: allowed(permissions)? })
}

fn allowed(text: &str) -> Result<String, Why> {
    let known = ['r', 'w', 'm'];
    if text.is_empty() || !text.chars().all(|c| known.contains(&c)) {
        return Err(Why::new(format!("`{}` is none of `r`, `w` and `m`", shorten(text))));
    }
    Ok(known.iter().filter(|c| text.contains(**c)).collect())
}

fn long_device(w: &mut Walker<'_>, node: &Node) -> Option<Device> {
    let fields = w.object(node, &keys::DEVICE)?;
    let source = w.get(&fields, "source", |w, n| w.parsed(n, values::absolute_path));
    let target = w.get(&fields, "target", |w, n| w.parsed(n, values::absolute_path));
    let permissions = w.get(&fields, "permissions", |w, n| w.parsed(n, allowed));
    let source = source?;
    Some(Device { target: target.unwrap_or_else(|| source.clone()), source, permissions: permissions.unwrap_or_else(|| "rwm".to_owned()) })
}

/// `name:address` or `name=address` each, or a map from names to addresses or lists of them.
fn extra_hosts(w: &mut Walker<'_>, node: &Node) -> Option<Vec<String>> {
    let mut out = Vec::new();
    match &node.value {
        Value::Map(pairs) => {
            for pair in pairs {
                let addresses = w.within(&pair.key, |w| {
                    if let Err(why) = values::hostname(&pair.key) {
                        w.report_why(pair.key_at, why);
                    }
                    some_of(w, &pair.value, host_target)
                });
                out.extend(addresses.into_iter().flatten().map(|address| format!("{}:{address}", pair.key)));
            }
        }
        Value::List(_) | Value::Scalar { .. } => {
            for (n, item) in w.list(node, "a list of `name:address`, or a map").iter().enumerate() {
                out.extend(w.within(format!("[{n}]"), |w| w.parsed(item, host_line)));
            }
        }
    }
    Some(out)
}

fn host_line(text: &str) -> Result<String, Why> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let Some((name, address)) = split else {
        return Err(Why::new(format!("`{}` names no address", shorten(text))).help("write it like `db.example:10.0.0.5`"));
    };
    Ok(format!("{}:{}", values::hostname(name)?, host_target(address)?))
}

fn host_target(text: &str) -> Result<String, Why> {
    if text == "host-gateway" {
        return Ok(text.to_owned());
    }
    values::host_address(text).map(|ip| ip.to_string())
}

fn logging(w: &mut Walker<'_>, node: &Node) -> Option<Logging> {
    let fields = w.object(node, &keys::LOGGING)?;
    Some(Logging {
        driver: w.get(&fields, "driver", |w, n| w.checked(n, non_empty)),
        options: w.get(&fields, "options", |w, n| Some(w.options(n))).unwrap_or_default(),
    })
}

fn ulimits(w: &mut Walker<'_>, node: &Node) -> Option<BTreeMap<String, Ulimit>> {
    let mut out = BTreeMap::new();
    for pair in w.map(node, "a map of limits by their names") {
        let limit = w.within(&pair.key, |w| match &pair.value.value {
            Value::Map(_) => {
                let fields = w.object(&pair.value, &keys::ULIMIT)?;
                let soft = w.get(&fields, "soft", |w, n| signed(w, n, -1, i64::MAX >> 10));
                let hard = w.get(&fields, "hard", |w, n| signed(w, n, -1, i64::MAX >> 10));
                let (soft, hard) = (soft?, hard?);
                if hard != -1 && (soft == -1 || soft > hard) {
                    w.report(pair.value.at, "the soft limit is above the hard one");
                    return None;
                }
                Some(Ulimit { soft, hard })
            }
            Value::Scalar { .. } | Value::List(_) => signed(w, &pair.value, -1, i64::MAX >> 10).map(|n| Ulimit { soft: n, hard: n }),
        });
        if pair.key.is_empty() || !pair.key.bytes().all(|b| b.is_ascii_lowercase()) {
            w.within(&pair.key, |w| w.report(pair.key_at, format!("`{}` is the name of no limit", shorten(&pair.key))));
            continue;
        }
        out.extend(limit.map(|limit| (pair.key.clone(), limit)));
    }
    Some(out)
}
