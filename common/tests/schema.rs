//! The published JSON Schema and the reader agree about every key.
#![allow(clippy::unwrap_used)] // A panic here is a failed test.

use std::collections::BTreeSet;
use std::path::PathBuf;

use moorline_common::pve::GuestKind;
use moorline_common::topology::{json_schema, load};
use serde_json::Value;

/// The part of JSON Schema that ours uses; patterns are not looked at.
fn check(schema: &Value, root: &Value, value: &Value, path: &str) -> Result<(), String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        return check(root.pointer(&format!("/$defs/{name}")).unwrap(), root, value, path);
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let errors: Vec<String> = choices.iter().filter_map(|s| check(s, root, value, path).err()).collect();
        return if errors.len() < choices.len() { Ok(()) } else { Err(errors.join("; ")) };
    }
    for rule in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
        let is_meant =
            rule.pointer("/if/properties").and_then(Value::as_object).unwrap().iter().all(|(key, is)| value.get(key) == Some(&is["const"]));
        let then = rule.pointer("/then/properties").and_then(Value::as_object).unwrap().iter().filter(|_| is_meant);
        for (key, schema) in then.filter(|(key, _)| value.get(key).is_some()) {
            check(schema, root, &value[key], &format!("{path}.{key}"))?;
        }
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return if words.contains(value) { Ok(()) } else { Err(format!("{path}: {value} is not one of {words:?}")) };
    }
    if let Some(only) = schema.get("const") {
        return if only == value { Ok(()) } else { Err(format!("{path}: {value} is not {only}")) };
    }
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let one_or_many = &schema["type"];
    let types: Vec<&str> =
        one_or_many.as_array().map_or(vec![one_or_many], |many| many.iter().collect()).into_iter().filter_map(Value::as_str).collect();
    if !(types.contains(&found) || found == "integer" && types.contains(&"number")) {
        return Err(format!("{path}: found {found}, expected {types:?}"));
    }
    match value {
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(n, item)| check(&schema["items"], root, item, &format!("{path}[{n}]")))
        }
        Value::Object(map) => {
            for key in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
                if !map.contains_key(key) {
                    return Err(format!("{path}: no {key}"));
                }
            }
            map.iter().try_for_each(|(key, item)| {
                let path = format!("{path}.{key}");
                let families = schema.get("patternProperties").and_then(Value::as_object).into_iter().flatten();
                let family = families.filter(|(_, schema)| schema.is_object()).find(|(pattern, _)| matches(pattern, key));
                match (schema["properties"].get(key).or(family.map(|(_, schema)| schema)), &schema["additionalProperties"]) {
                    (Some(schema), _) => check(schema, root, item, &path),
                    (None, Value::Bool(true)) => Ok(()),
                    (None, Value::Object(_)) => check(&schema["additionalProperties"], root, item, &path),
                    (None, _) if key.starts_with("x-") && schema["patternProperties"].get("^x-").is_some() => Ok(()),
                    (None, _) => Err(format!("{path}: unknown key")),
                }
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// The patterns for keys that ours has: guests' numbers, and a word with one of some numbers behind.
fn matches(pattern: &str, key: &str) -> bool {
    if pattern.starts_with("^[1-9]") {
        return (3..=9).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_digit()) && !key.starts_with('0');
    }
    let (word, numbers) = pattern.strip_prefix('^').unwrap().strip_suffix(")$").unwrap().split_once('(').unwrap();
    key.strip_prefix(word).is_some_and(|number| numbers.split('|').any(|known| known == number))
}

fn examples() -> Vec<(String, String)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let mut out: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".yaml"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), std::fs::read_to_string(entry.path()).unwrap()))
        .collect();
    out.sort();
    out
}

fn as_json(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

#[test]
fn every_example_is_valid_by_the_schema() {
    let schema = json_schema();
    for (name, text) in examples() {
        check(&schema, &schema, &as_json(&text), "").unwrap_or_else(|e| panic!("{name}{e}"));
    }
}

#[test]
fn a_wrong_key_or_shape_is_refused_by_reader_and_schema_alike() {
    let schema = json_schema();
    for text in [
        "topology: t\n",
        "topology: t\nhosts: {}\nrolout: {}\n",
        "topology: t\nhosts: { h: { docker: { services: { s: { image: i, prots: [] } } } } }\n",
        "topology: t\nhosts: { h: { docker: { services: { s: { image: i, ports: 80 } } } } }\n",
        "topology: t\nhosts: { h: { docker: { services: { s: { image: [i] } } } } }\n",
        "topology: t\nhosts: { h: { docker: { services: { s: { image: i, ports: [{ published: 1 }] } } } } }\n",
        "topology: t\nhosts: { h: { policy: { drift: maybe, more: 1 } } }\n",
        "topology: t\nhosts: { h: { docker: { networks: { n: { ipam: { config: [{}] } } } } } }\n",
        "topology: t\nhosts: { h: { proxmox: { guests: { '99': { type: qemu } } } } }\n",
        "topology: t\nhosts: { h: { proxmox: { guests: { '101': { state: running } } } } }\n",
        "topology: t\nhosts: { h: { proxmox: { guests: { '101': { type: qemu, config: { hostname: db } } } } } }\n",
        "topology: t\nhosts: { h: { proxmox: { guests: { '101': { type: qemu, config: { scsi31: 'a:8' } } } } } }\n",
        "topology: t\nhosts: { h: { proxmox: { guests: { '101': { type: qemu, config: { x-own: 1 } } } } } }\n",
        "topology: t\nhosts: { h: { proxmox: { guests: { '101': { type: lxc, from: { clone: 1 }, config: { cmode: [tty] } } } } } }\n",
        "topology: t\nhosts: { h: { proxmox: { guests: { '101': { type: qemu, config: { cores: true } } } } } }\n",
    ] {
        assert!(load(text).is_err(), "{text}");
        assert!(check(&schema, &schema, &as_json(text), "").is_err(), "{text}");
    }
}

/// Every key of the schema, as `definition.key`.
fn keys(schema: &Value) -> BTreeSet<String> {
    let own = schema["properties"].as_object().unwrap().keys().map(|k| format!("topology.{k}"));
    let defs = schema["$defs"].as_object().unwrap().iter();
    own.chain(defs.flat_map(|(name, def)| def["properties"].as_object().unwrap().keys().map(move |k| format!("{name}.{k}")))).collect()
}

#[test]
fn the_full_example_and_the_reference_name_every_key() {
    let (_, full) = examples().into_iter().find(|(name, _)| name == "full.yaml").unwrap();
    let docs = std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/topology.md")).unwrap();
    for key in keys(&json_schema()) {
        let (definition, word) = key.split_once('.').unwrap();
        // Proxmox VE's own keys are explained by Proxmox VE.
        let is_ours = !matches!(definition, "qemu-config" | "lxc-config");
        assert!(!is_ours || full.contains(&format!("{word}:")), "deploy/examples/full.yaml lacks {key}");
        assert!(docs.contains(&format!("`{word}`")), "docs/topology.md lacks {key}");
    }
}

#[test]
fn every_setting_of_a_guest_is_in_the_schema_with_what_its_values_are() {
    let schema = json_schema();
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        let config = &schema["$defs"][format!("{}-config", kind.as_str())];
        for (first, key) in moorline_common::pve::keys::all(kind) {
            let families = config["patternProperties"].as_object().unwrap();
            let family = families.iter().find(|(pattern, _)| matches(pattern, &first)).map(|(_, schema)| schema);
            let setting = if key.count.is_some() { family } else { config["properties"].get(&first) };
            assert!(setting.unwrap()["description"].as_str().unwrap().ends_with('.'), "{first}");
        }
    }
}
