//! The published JSON Schema and the reader agree about every key.
#![allow(clippy::unwrap_used)] // A panic here is a failed test.

use std::collections::BTreeSet;
use std::path::PathBuf;

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
                match (schema["properties"].get(key), &schema["additionalProperties"]) {
                    (Some(schema), _) => check(schema, root, item, &path),
                    (None, Value::Object(_)) => check(&schema["additionalProperties"], root, item, &path),
                    (None, _) if key.starts_with("x-") => Ok(()),
                    (None, _) => Err(format!("{path}: unknown key")),
                }
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
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
    ] {
        assert!(load(text).is_err(), "{text}");
        assert!(check(&schema, &schema, &as_json(text), "").is_err(), "{text}");
    }
}

/// Every key of the schema below `name`, as `definition.key`.
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
        let (_, word) = key.split_once('.').unwrap();
        assert!(full.contains(&format!("{word}:")), "deploy/examples/full.yaml lacks {key}");
        assert!(docs.contains(&format!("`{word}`")), "docs/topology.md lacks {key}");
    }
}
