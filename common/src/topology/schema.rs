//! The JSON Schema of the topology file, made of the tables that the reader uses.

mod guest;

use serde_json::{Map, Value, json};

use super::keys::{FILE, Form, Key, Object};
use crate::rollout::COUNT_MAX;

/// The JSON Schema (draft 2020-12) of the topology file, for editors and checkers.
///
/// It is as strict as a schema can be about keys and shapes; what needs the whole file (undefined
/// names, cycles, ports published twice) only [`super::load`] finds.
#[must_use]
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    let mut root = object_schema(&FILE, &mut definitions);
    if let Value::Object(map) = &mut root {
        map.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".to_owned(), json!("Moorline topology"));
        map.insert("$defs".to_owned(), Value::Object(definitions));
    }
    root
}

/// A reference to `object`, which is added to the definitions if it isn't there.
fn reference(object: &'static Object, definitions: &mut Map<String, Value>) -> Value {
    let name = object.definition;
    if !definitions.contains_key(name) {
        // Present before its content, should the tables ever refer to themselves.
        definitions.insert(name.to_owned(), Value::Null);
        let schema = object_schema(object, definitions);
        definitions.insert(name.to_owned(), schema);
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn object_schema(object: &'static Object, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for Key { name, form, about, .. } in object.keys {
        let mut schema = form_schema(form, definitions);
        if let Value::Object(map) = &mut schema {
            map.insert("description".to_owned(), json!(about));
        }
        properties.insert((*name).to_owned(), schema);
    }
    let required: Vec<&str> = object.keys.iter().filter(|k| k.required).map(|k| k.name).collect();
    let mut schema = json!({
        "type": "object",
        "description": object.about,
        "properties": properties,
        "patternProperties": { "^x-": true },
        "additionalProperties": false,
    });
    if let (false, Value::Object(map)) = (required.is_empty(), &mut schema) {
        map.insert("required".to_owned(), json!(required));
    }
    let has_config = object.keys.iter().any(|k| matches!(k.form, Form::GuestConfig));
    if let (true, Value::Object(map)) = (has_config, &mut schema) {
        map.insert("allOf".to_owned(), guest::by_type(definitions));
    }
    schema
}

fn form_schema(form: &'static Form, definitions: &mut Map<String, Value>) -> Value {
    let scalar = json!(["string", "number", "boolean"]);
    match form {
        Form::Text => json!({ "type": "string" }),
        // A pattern binds text without variables; those are filled in per host.
        Form::Pattern(pattern) => json!({ "type": "string", "pattern": format!("{pattern}|\\$") }),
        Form::Scalar => json!({ "type": ["string", "number"] }),
        Form::Bool => json!({ "anyOf": [{ "type": "boolean" }, variable()] }),
        Form::Int(min, max) => json!({ "anyOf": [{ "type": "integer", "minimum": min, "maximum": max }, { "type": "string" }] }),
        Form::Duration => {
            json!({ "anyOf": [{ "type": "string", "pattern": "^([0-9.]+(h|m|s|ms|us|µs|ns))+$|^0$|\\$" }, { "const": 0 }] })
        }
        Form::Bytes => json!({ "type": ["string", "integer"], "pattern": "^(-1|[0-9.]+ ?([kKmMgGtT]?[bB]?|[kKmMgGtT][iI][bB]))$|\\$" }),
        Form::Share => json!({ "type": ["string", "integer"], "pattern": "^[0-9]+%?$", "minimum": 0, "maximum": COUNT_MAX }),
        Form::OneOrMore => json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] }),
        Form::OneOrMoreOr(object) => {
            let one = json!({ "anyOf": [{ "type": "string" }, reference(object, definitions)] });
            json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": one }] })
        }
        Form::TextOr(object) => json!({ "anyOf": [{ "type": "string" }, reference(object, definitions)] }),
        Form::BoolOr(object) => json!({ "anyOf": [{ "type": "boolean" }, variable(), reference(object, definitions)] }),
        Form::Environment => json!({ "anyOf": [
            { "type": "object", "additionalProperties": { "type": ["string", "number", "boolean", "null"] } },
            { "type": "array", "items": { "type": "string", "pattern": "^[^=]+" } },
        ] }),
        Form::Scalars => json!({ "type": "array", "items": { "type": ["string", "number"] } }),
        Form::Hosts => json!({ "anyOf": [
            { "type": "array", "items": { "type": "string" }, "uniqueItems": true },
            { "type": "object", "additionalProperties": { "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] } },
        ] }),
        Form::MapOrInt(object) => {
            json!({ "type": "object", "additionalProperties": { "anyOf": [{ "type": ["integer", "string"] }, reference(object, definitions)] } })
        }
        Form::OneOf(words) => json!({ "anyOf": [{ "enum": words }, variable()] }),
        Form::Words => json!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": scalar } }] }),
        Form::Pairs => json!({ "anyOf": [
            { "type": "object", "additionalProperties": { "type": scalar } },
            { "type": "array", "items": { "type": "string", "pattern": "^[^=]+=" } },
        ] }),
        Form::Options => json!({ "type": "object", "additionalProperties": { "type": scalar } }),
        Form::Names => json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true }),
        Form::NamesOr(object) => json!({ "anyOf": [
            { "type": "array", "items": { "type": "string" }, "uniqueItems": true },
            { "type": "object", "additionalProperties": nullable(object, definitions) },
        ] }),
        Form::Map(object) => json!({ "type": ["object", "null"], "additionalProperties": nullable(object, definitions) }),
        Form::Guests(object) => json!({
            "type": ["object", "null"],
            "patternProperties": { "^[1-9][0-9]{2,8}$": reference(object, definitions) },
            "additionalProperties": false,
        }),
        // Which keys it has depends on what stands beside it.
        Form::GuestConfig => json!({ "type": ["object", "null"], "additionalProperties": true }),
        Form::Object(object) => reference(object, definitions),
        Form::ListOf(object) => json!({ "type": "array", "items": reference(object, definitions) }),
        Form::ShortOr { number, long } => {
            let short = if *number { json!(["string", "integer"]) } else { json!("string") };
            json!({ "type": "array", "items": { "anyOf": [{ "type": short }, reference(long, definitions)] } })
        }
    }
}

/// Text with a variable in it.
fn variable() -> Value {
    json!({ "type": "string", "pattern": "\\$" })
}

/// The object, or nothing where it has no key that must be there.
fn nullable(object: &'static Object, definitions: &mut Map<String, Value>) -> Value {
    let reference = reference(object, definitions);
    if object.keys.iter().any(|k| k.required) { reference } else { json!({ "anyOf": [reference, { "type": "null" }] }) }
}
