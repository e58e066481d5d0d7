//! Whether a call's parameters are sound: by the API's own description where that is given, by our short one otherwise.
//!
//! Source: `PVE::JSONSchema::validate`.

use std::collections::BTreeMap;

use super::routes::{Route, with_volume};
use super::{Call, Fail};
use crate::normal::types;
use crate::world::World;
use crate::world::guest::Kind;

/// Checks a call.
pub(crate) fn check(
    world: &mut World,
    route: &Route,
    verb: &str,
    parts: &[String],
    call: &Call,
    pairs: &[(String, String)],
) -> Result<(), Fail> {
    let errors = match world.schema() {
        Some(schema) => {
            let wanted: Vec<&str> = route.path.split('/').filter(|part| !part.is_empty()).collect();
            let parts = if wanted.last() == Some(&"{volume}") { with_volume(&wanted, parts) } else { parts.to_vec() };
            schema.errors_of(verb, &parts.iter().map(String::as_str).collect::<Vec<_>>(), pairs)
        }
        None => by_route(route, call, pairs),
    };
    if errors.is_empty() {
        return Ok(());
    }
    let said = errors.iter().map(|(key, words)| format!("{verb} /{}: {key}: {words}", parts.join("/"))).collect::<Vec<_>>();
    world.wrong.extend(said);
    Err(Fail::bads(errors))
}

fn by_route(route: &Route, call: &Call, pairs: &[(String, String)]) -> BTreeMap<String, String> {
    let mut errors = BTreeMap::new();
    let rules: Vec<(&str, bool, &str)> = route.params.iter().map(|rule| parse(rule)).collect();
    let mut seen = BTreeMap::new();
    for (key, value) in pairs {
        if seen.insert(key, ()).is_some() && key != "exclude-path" {
            errors.insert(key.clone(), "type check ('string') failed - got ARRAY".to_owned());
            continue;
        }
        let rule = rules.iter().find(|(name, ..)| name == key);
        let fault = match (rule, route.config) {
            (Some((_, _, kind)), _) => type_fault(kind, value).or_else(|| if *kind == "b" { None } else { value_fault(key, value) }),
            (None, Some(kind)) => config_fault(kind, key, value),
            (None, None) => Some("property is not defined in schema and the schema does not allow additional properties".to_owned()),
        };
        if let Some(fault) = fault {
            errors.insert(key.clone(), fault);
        }
    }
    for (name, is_needed, _) in &rules {
        if *is_needed && !call.params.contains_key(*name) {
            errors.insert((*name).to_owned(), "property is missing and it is not optional".to_owned());
        }
    }
    for (name, value) in &call.names {
        if let Some(fault) = value_fault(name, value) {
            errors.insert(name.clone(), fault);
        }
    }
    errors
}

fn parse(rule: &'static str) -> (&'static str, bool, &'static str) {
    let (name, kind) = rule.split_once(':').unwrap_or((rule, "s"));
    (name.trim_end_matches('!'), name.ends_with('!'), kind)
}

fn type_fault(kind: &str, value: &str) -> Option<String> {
    let (is_good, word) = match kind {
        "b" => (matches!(crate::normal::property::flag(value).as_str(), "0" | "1"), "boolean"),
        "i" => (value.parse::<i64>().is_ok(), "integer"),
        "n" => (value.parse::<f64>().is_ok(), "number"),
        _ => (true, "string"),
    };
    (!is_good).then(|| format!("type check ('{word}') failed - got '{value}'"))
}

/// What holds for a parameter of this name wherever it stands.
fn value_fault(key: &str, value: &str) -> Option<String> {
    match key {
        "vmid" | "newid" | "target-vmid" => {
            // A list, of the backup's.
            let is_good = value.split(',').all(|part| part.parse::<u32>().is_ok_and(|n| (100..=999_999_999).contains(&n)));
            (!is_good).then(|| "invalid format - value does not look like a valid VM ID".to_owned())
        }
        "snapname" => {
            let is_name = value.len() <= 40 && is_config_id(value);
            (!is_name).then(|| format!("invalid format - invalid configuration ID '{value}'"))
        }
        "digest" => (value.len() > 40).then(|| "value may only be 40 characters long".to_owned()),
        "background_delay" => {
            let is_good = value.parse::<u32>().is_ok_and(|n| (1..=30).contains(&n));
            (!is_good).then(|| "value must have a maximum value of 30".to_owned())
        }
        "delete" | "revert" | "idlist" => {
            let bad = value.split([',', ';', ' ']).filter(|part| !part.is_empty()).find(|part| !is_config_id(part));
            bad.map(|bad| format!("invalid format - invalid configuration ID '{bad}'"))
        }
        "hostname" | "name" => host_fault(value),
        "node" | "target" => (host_fault(value).is_some() || value.contains('.'))
            .then(|| "invalid format - value does not look like a valid node name".to_owned()),
        _ => None,
    }
}

fn is_config_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.len() > 1
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn host_fault(value: &str) -> Option<String> {
    let is_label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    (!value.split('.').all(is_label)).then(|| format!("invalid format - value '{value}' does not look like a valid DNS name"))
}

fn config_fault(kind: Kind, key: &str, value: &str) -> Option<String> {
    if matches!(key, "parent" | "snaptime" | "snapstate" | "vmstate" | "meta" | "runningcpu" | "runningmachine" | "digest") {
        return Some("property is not defined in schema and the schema does not allow additional properties".to_owned());
    }
    if let Err(fault) = types::kept(kind, key, value) {
        return Some(fault);
    }
    let number: Option<f64> = value.parse().ok();
    let least = match key {
        "cores" | "sockets" | "vcpus" => Some(1.0),
        "memory" | "balloon" | "swap" | "cpulimit" | "shares" => Some(if key == "memory" { 16.0 } else { 0.0 }),
        _ => None,
    };
    if let (Some(least), Some(number)) = (least, number)
        && number < least
    {
        return Some(format!("value must have a minimum value of {least}"));
    }
    if matches!(key, "name" | "hostname") {
        return host_fault(value);
    }
    if key == "sshkeys" && !value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-%_.!~*'()".contains(&b)) {
        return Some("invalid format - invalid urlencoded string".to_owned());
    }
    (key != "description" && value.contains(['\n', '\r'])).then(|| "property contains a line feed".to_owned())
}
