//! The settings of guests in the schema: Proxmox VE's own keys, with what their values are.

use serde_json::{Map, Value, json};

use super::variable;
use crate::pve::GuestKind;
use crate::pve::keys::{self, Key, Shape};

/// What a guest's `config` may hold, by its `type`. The definitions are added to `definitions`.
pub(super) fn by_type(definitions: &mut Map<String, Value>) -> Value {
    let rule = |kind: GuestKind, definitions: &mut Map<String, Value>| {
        let (word, name) = (kind.as_str(), format!("{}-config", kind.as_str()));
        let reference = json!({ "$ref": format!("#/$defs/{name}") });
        definitions.insert(name, config(kind));
        json!({ "if": { "properties": { "type": { "const": word } } }, "then": { "properties": { "config": reference } } })
    };
    json!([rule(GuestKind::Qemu, definitions), rule(GuestKind::Lxc, definitions)])
}

fn config(kind: GuestKind) -> Value {
    let (mut properties, mut families) = (Map::new(), Map::new());
    for (_, key) in keys::all(kind) {
        match key.count {
            None => drop(properties.insert(key.name.to_owned(), setting(key))),
            Some(count) => drop(families.insert(format!("^{}({})$", key.name, numbers(count)), setting(key))),
        }
    }
    let what = match kind {
        GuestKind::Qemu => "a virtual machine: those of `qm`",
        GuestKind::Lxc => "a container: those of `pct`",
    };
    json!({
        "type": ["object", "null"],
        "description": format!("Settings of {what}, as https://pve.proxmox.com/pve-docs has them."),
        "properties": properties,
        "patternProperties": families,
        "additionalProperties": false,
    })
}

/// A pattern for the numbers below `count`.
fn numbers(count: u16) -> String {
    (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join("|")
}

fn setting(key: &Key) -> Value {
    let mut schema = values(key);
    let mut about = about(key.shape);
    if key.is_fixed {
        about.push_str(" It can only be said when the guest is made.");
    }
    if let Value::Object(map) = &mut schema {
        map.insert("description".to_owned(), json!(about));
    }
    schema
}

fn values(key: &Key) -> Value {
    let scalar = json!({ "type": ["string", "number"] });
    match key.shape {
        Shape::Bool(_) => json!({ "anyOf": [{ "type": "boolean" }, { "enum": [0, 1, "0", "1", "no", "yes", "off", "on"] }, variable()] }),
        Shape::Int(from, to, _) => {
            let mut integer = json!({ "type": "integer", "minimum": from });
            if let (true, Value::Object(map)) = (to != i64::MAX, &mut integer) {
                map.insert("maximum".to_owned(), json!(to));
            }
            json!({ "anyOf": [integer, { "type": "string" }] })
        }
        Shape::Word(words, _) => {
            let numbers = words.iter().filter_map(|word| word.parse::<u64>().ok()).map(|n| json!(n));
            let all: Vec<Value> = words.iter().map(|word| json!(word)).chain(numbers).collect();
            json!({ "anyOf": [{ "enum": all }, variable()] })
        }
        Shape::Props(_) => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Tags | Shape::SshKeys => json!({ "anyOf": [scalar, { "type": "array", "items": { "type": "string" } }] }),
        Shape::Text(_) if keys::is_list(key.name) => json!({ "anyOf": [scalar, { "type": "array", "items": { "type": "string" } }] }),
        Shape::Text(_) if key.name == keys::HOTPLUG => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Text(_)
        | Shape::CpuUnits
        | Shape::Number(..)
        | Shape::DnsName
        | Shape::Description
        | Shape::PasswordHash
        | Shape::Volume(_)
        | Shape::Card(..)
        | Shape::Identity(..) => scalar,
    }
}

/// What the values of a key are, in words.
fn about(shape: Shape) -> String {
    let otherwise = |default: Option<&str>| default.map_or_else(String::new, |default| format!("; {default} when left out"));
    match shape {
        Shape::Bool(default) => format!("Yes or no{}.", otherwise(default.map(|yes| if yes { "yes" } else { "no" }))),
        Shape::Int(from, to, default) => {
            let bounds = if to == i64::MAX { format!("at least {from}") } else { format!("from {from} to {to}") };
            format!("A whole number, {bounds}{}.", otherwise(default.map(|n| n.to_string()).as_deref()))
        }
        Shape::CpuUnits => "A share of the processor's time, from 1 to 10000.".to_owned(),
        Shape::Number(most, default) => {
            let bound = if most == u32::MAX { String::new() } else { format!(", at most {most}") };
            format!("A number{bound}{}.", otherwise(default))
        }
        Shape::Word(words, default) => format!("One of {}{}.", words.join(", "), otherwise(default)),
        Shape::Text(default) => format!("Text on one line{}.", otherwise(default)),
        Shape::DnsName => "A name as in DNS.".to_owned(),
        Shape::Description => "Text, of several lines if need be.".to_owned(),
        Shape::Tags => "Tags, with `;` between, or as a list. The tag `moorline` is added to guests that Moorline made.".to_owned(),
        Shape::SshKeys => "Public keys, one a line, or as a list.".to_owned(),
        Shape::PasswordHash => "A password's hash, as `openssl passwd -6` prints it; write each `$` twice.".to_owned(),
        Shape::Props(format) => format!("`key=value` with commas between: {}.", format.names()),
        Shape::Volume(format) => {
            format!("A volume: `storage:8` for a new one of 8 GiB, or `storage:name`; then `key=value`: {}.", format.names())
        }
        Shape::Identity(format, given) => {
            format!("`key=value` with commas between: {}. `{given}` can only be said when the guest is made.", format.names())
        }
        Shape::Card(format, _) => format!("A network card: `key=value` with commas between: {}.", format.names()),
    }
}
