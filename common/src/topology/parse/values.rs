//! Single values in their short forms: ports, mounts, durations, images, networks' addresses. Pure
//! text to value; places are the caller's.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::super::limits::{ENGINE_ID, ENGINE_NAME_MAX, MEMORY_MAX, NAME_MAX, NANOS_MAX, PORTS_MAX};
use super::super::node::shorten;
use super::super::vars::Why;
use super::super::{Nanos, PortSpec, Protocol, PullPolicy, RestartPolicy};
use crate::id::is_engine_name;

/// A whole number without sign; no leading zeros, which some readers take for octal.
pub(crate) fn decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// A name of a service, network, volume or profile.
pub(crate) fn name(text: &str) -> Result<String, Why> {
    named(text, NAME_MAX)
}

fn named(text: &str, longest: usize) -> Result<String, Why> {
    if is_engine_name(text) && text.len() <= longest {
        return Ok(text.to_owned());
    }
    Err(Why::new(format!(
        "`{}` cannot be a name: use at most {longest} letters, digits, `_`, `.` and `-`, beginning with a letter or digit",
        shorten(text)
    )))
}

/// A name on the engine.
pub(crate) fn engine_name(text: &str) -> Result<String, Why> {
    if text.len() > 1 { named(text, ENGINE_NAME_MAX) } else { Err(Why::new("a name on the engine has at least two characters")) }
}

/// The engine's id of a container or network.
pub(crate) fn engine_id(text: &str) -> Result<String, Why> {
    let is_id = text.len() == ENGINE_ID && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let wrong = || Why::new(format!("`{}` is no id of an engine's: it has {ENGINE_ID} digits of `0-9a-f`", shorten(text)));
    if is_id { Ok(text.to_owned()) } else { Err(wrong().help("`moorctl import docker --host NAME` finds it")) }
}

/// An absolute path without `..`, in one spelling.
pub(crate) fn absolute_path(text: &str) -> Result<String, Why> {
    if !text.starts_with('/') {
        return Err(Why::new(format!("`{}` is not an absolute path", shorten(text))).help("begin it with `/`"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(Why::new(format!("`{}` holds `..`", shorten(text))).help("write the path that is meant")),
            other => parts.push(other),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// A span of time: `1m30s`, `1.5s`, `250ms`, `0`.
pub(crate) fn duration(text: &str) -> Result<Nanos, Why> {
    let wrong = || Why::new(format!("`{}` is no span of time", shorten(text))).help("write it like `1m30s`, `1.5s` or `250ms`");
    if text == "0" {
        return Ok(Nanos(0));
    }
    let mut total: u128 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "µs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || whole.len() > 18 || fraction.len() > 9 || fraction.contains('.') {
            return Err(wrong());
        }
        total += whole.parse::<u128>().map_err(|_| wrong())? * scale;
        if !fraction.is_empty() {
            let parts = fraction.parse::<u128>().map_err(|_| wrong())? * scale;
            total += parts / 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(9));
        }
        rest = after;
    }
    match u64::try_from(total) {
        Ok(nanos) if nanos <= NANOS_MAX && !text.is_empty() => Ok(Nanos(nanos)),
        Ok(_) if text.is_empty() => Err(wrong()),
        Ok(_) | Err(_) => Err(Why::new(format!("`{}` is longer than 104 days", shorten(text)))),
    }
}

/// A decimal number without sign, in billionths; `None` for anything else, and past what fits.
pub(crate) fn billionths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    format!("{fraction:0<9}").parse::<u64>().ok()?.checked_add(whole.checked_mul(1_000_000_000)?)
}

/// Bytes: a number, or one with a unit of 1,024 and its powers (`b`, `k`, `m`, `g`, `t`, also `kb` and `kib`).
pub(crate) fn bytes(text: &str) -> Result<u64, Why> {
    let wrong = || Why::new(format!("`{}` is no number of bytes", shorten(text))).help("write it like `512m` or `1.5g`");
    let lower = text.to_ascii_lowercase();
    let at = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let shift = match unit.trim_start() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wrong()),
    };
    let scaled = (u128::from(billionths(number).ok_or_else(wrong)?) << shift) / 1_000_000_000;
    u64::try_from(scaled)
        .ok()
        .filter(|n| *n <= MEMORY_MAX)
        .ok_or_else(|| Why::new(format!("`{}` is more than {MEMORY_MAX} bytes", shorten(text))))
}

/// `restart`.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, Why> {
    match text {
        "no" => return Ok(RestartPolicy::No),
        "always" => return Ok(RestartPolicy::Always),
        "unless-stopped" => return Ok(RestartPolicy::UnlessStopped),
        "on-failure" => return Ok(RestartPolicy::OnFailure(0)),
        _ => {}
    }
    if let Some(times) = text.strip_prefix("on-failure:").and_then(decimal).and_then(|n| u32::try_from(n).ok()) {
        return Ok(RestartPolicy::OnFailure(times));
    }
    let words = ["no", "always", "unless-stopped", "on-failure"];
    let mut why = Why::new(format!("expected `no`, `always`, `unless-stopped`, `on-failure` or `on-failure:N`, found `{}`", shorten(text)));
    why.suggestion = super::super::problem::nearest(text, words).map(str::to_owned);
    Err(why)
}

/// An image reference, left as it is written.
/// <https://github.com/distribution/reference/blob/main/reference.go>
pub(crate) fn image(text: &str) -> Result<String, Why> {
    let wrong = |what: &str| {
        Err(Why::new(format!("`{}` is no image: {what}", shorten(text)))
            .help("write it like `nginx:1.27` or `registry.example:5000/team/app@sha256:…`"))
    };
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest {
        let good =
            digest.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        if !good {
            return wrong("the digest must be `sha256:` and 64 lowercase hex digits");
        }
    }
    // A colon behind the last slash begins the tag; one before belongs to the registry's port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let colon = rest.get(slash..).and_then(|last| last.find(':')).and_then(|at| rest.split_at_checked(slash + at));
    let (path, tag) = match colon {
        Some((path, tag)) => (path, tag.strip_prefix(':')),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        let head = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !head || tag.len() > 128 || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-')) {
            return wrong("its tag must be 1 to 128 letters, digits, `_`, `.` and `-`");
        }
    }
    let (registry, name) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        Some(_) | None => (None, path),
    };
    let registry_ok =
        registry.is_none_or(|r| r.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']')));
    let part_ok = |part: &str| {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        part.bytes().next().is_some_and(alnum)
            && part.bytes().next_back().is_some_and(alnum)
            && part.bytes().all(|b| alnum(b) || matches!(b, b'.' | b'_' | b'-'))
    };
    if !registry_ok || name.len() > 255 || !name.split('/').all(part_ok) {
        return wrong("its name must be lowercase letters, digits, `.`, `_`, `-` and `/`");
    }
    Ok(text.to_owned())
}

/// A platform: `linux`, `linux/arm64`, `linux/arm/v7`.
pub(crate) fn platform(text: &str) -> Result<String, Why> {
    let parts: Vec<&str> = text.split('/').collect();
    let good = parts.len() <= 3 && parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    if good {
        Ok(text.to_owned())
    } else {
        Err(Why::new(format!("`{}` is no platform", shorten(text))).help("write it like `linux/arm64`"))
    }
}

/// `pull_policy`.
pub(crate) fn pull_policy(text: &str) -> Result<PullPolicy, Why> {
    match text {
        "always" => return Ok(PullPolicy::Always),
        "missing" | "if_not_present" => return Ok(PullPolicy::Missing),
        "never" => return Ok(PullPolicy::Never),
        "build" => return Err(Why::new("images are not built here").help("build it, push it to a registry and name that image")),
        _ => {}
    }
    let mut why = Why::new(format!("expected `always`, `missing` or `never`, found `{}`", shorten(text)));
    why.suggestion = super::super::problem::nearest(text, ["always", "missing", "never"]).map(str::to_owned);
    Err(why)
}

/// A signal in one spelling: `SIGTERM`, or a number.
pub(crate) fn signal(text: &str) -> Result<String, Why> {
    if decimal(text).is_some_and(|n| (1..=64).contains(&n)) {
        return Ok(text.to_owned());
    }
    let upper = text.to_ascii_uppercase();
    let word = upper.strip_prefix("SIG").unwrap_or(&upper);
    let head = word.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
    if head && word.len() <= 16 && word.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || matches!(b, b'+' | b'-')) {
        return Ok(format!("SIG{word}"));
    }
    Err(Why::new(format!("`{}` is no signal", shorten(text))).help("write it like `SIGTERM`"))
}

/// A host name for a container.
pub(crate) fn hostname(text: &str) -> Result<String, Why> {
    let label = |t: &str| {
        !t.is_empty()
            && t.len() <= 63
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !t.starts_with('-')
            && !t.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err(Why::new(format!("`{}` is no host name", shorten(text))).help("use letters, digits, `-` and `.`"))
}

/// A subnet in its one spelling.
pub(crate) fn subnet(text: &str) -> Result<IpNet, Why> {
    let net: IpNet =
        text.parse().map_err(|_| Why::new(format!("`{}` is no subnet", shorten(text))).help("write it like `10.40.0.0/24`"))?;
    if net.trunc() == net {
        return Ok(net);
    }
    let mut why = Why::new(format!("`{text}` is an address inside of a subnet, not the subnet"));
    why.suggestion = Some(net.trunc().to_string());
    Err(why)
}

/// An address.
pub(crate) fn address<T: std::str::FromStr>(text: &str, kind: &str) -> Result<T, Why> {
    text.parse().map_err(|_| Why::new(format!("`{}` is no {kind} address", shorten(text))))
}

/// A port number.
pub(crate) fn port(text: &str) -> Result<u16, Why> {
    decimal(text)
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n != 0)
        .ok_or_else(|| Why::new(format!("`{}` is no port: expected a number from 1 to 65535", shorten(text))))
}

fn port_range(text: &str) -> Result<(u16, u16), Why> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(Why::new(format!("the range `{}` ends before it begins", shorten(text))));
    }
    if usize::from(last - first) >= PORTS_MAX {
        return Err(Why::new(format!("the range `{}` holds more than {PORTS_MAX} ports", shorten(text))));
    }
    Ok((first, last))
}

/// The short form of ports: `[[ip:]published:]target[/protocol]`, with ranges.
pub(crate) fn ports(text: &str) -> Result<Vec<PortSpec>, Why> {
    let help = "write it like `8080:80`, `127.0.0.1:8080:80/udp` or `3000-3005:3000-3005`";
    let (rest, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((rest, "sctp")) => (rest, Protocol::Sctp),
        Some((_, other)) => return Err(Why::new(format!("expected `tcp`, `udp` or `sctp` behind the `/`, found `{}`", shorten(other)))),
    };
    let (rest, target) = rest.rsplit_once(':').map_or((None, rest), |(rest, target)| (Some(rest), target));
    let (host_ip, published) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((ip, published)) => (Some(host_address(ip)?), Some(published)),
        },
    };
    let (first, last) = port_range(target).map_err(|why| why.help(help))?;
    let published = match published {
        None => None,
        // `127.0.0.1::80`: the engine chooses.
        Some("") if host_ip.is_some() => None,
        Some(published) => Some(port_range(published).map_err(|why| why.help(help))?),
    };
    if let Some((from, to)) = published
        && to - from != last - first
    {
        return Err(Why::new(format!(
            "`{}` publishes {} ports as {}",
            shorten(text),
            u32::from(last - first) + 1,
            u32::from(to - from) + 1
        ))
        .help("make both ranges equally long"));
    }
    Ok((first..=last)
        .map(|target| PortSpec { target, protocol, published: published.map(|(from, _)| from + (target - first)), host_ip })
        .collect())
}

/// A host's address to listen on; IPv6 may stand in brackets.
pub(crate) fn host_address(text: &str) -> Result<IpAddr, Why> {
    if let Some(inner) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return address::<Ipv6Addr>(inner, "IPv6").map(IpAddr::V6);
    }
    address(text, "IP")
}

/// A string as the words that a shell would make of it.
pub(crate) fn shell_words(text: &str) -> Result<Vec<String>, Why> {
    shlex::split(text)
        .ok_or_else(|| Why::new("a quotation or escape does not end").help("close it, or write the command as a list of words"))
}
