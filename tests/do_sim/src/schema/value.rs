//! Values against their rules: the part of JSON Schema that OpenAPI 3.0 has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{LazyLock, Mutex, PoisonError};

use regex::Regex;
use serde_json::{Map, Number, Value};

use super::{Schema, Way};

impl Schema {
    /// What is wrong with a text by the rule of a parameter or header.
    pub(super) fn text_fault(&self, rule: &Value, text: &str) -> Option<String> {
        let number = text.parse::<i64>().ok().map(Value::from);
        let boolean = text.parse::<bool>().ok().map(Value::Bool);
        let readings: Vec<Value> = number.into_iter().chain(boolean).chain([Value::String(text.to_owned())]).collect();
        let mut first = None;
        for reading in readings {
            let mut wrong = Vec::new();
            self.check_value(rule, &reading, text, Way::In, &mut wrong);
            if wrong.is_empty() {
                return None;
            }
            first = first.or(Some(wrong.join("; ")));
        }
        first
    }

    /// Adds what is wrong with a value by its rule.
    pub(super) fn check_value(&self, rule: &Value, value: &Value, at: &str, way: Way, wrong: &mut Vec<String>) {
        let rule = self.resolve(rule);
        if value.is_null() && rule["nullable"] == true {
            return;
        }
        if let Some(mapped) = self.mapped(rule, value) {
            return self.check_value(mapped, value, at, way, wrong);
        }
        self.check_choices(rule, value, at, way, wrong);
        if let Some(kind) = rule["type"].as_str().filter(|kind| !is_of(kind, value)) {
            return wrong.push(format!("{at}: it should be of type {kind} and is {value}"));
        }
        if rule["enum"].as_array().is_some_and(|words| !words.contains(value)) {
            wrong.push(format!("{at}: {value} is none of {}", rule["enum"]));
        }
        match value {
            Value::Object(object) => self.check_object(rule, object, at, way, wrong),
            Value::Array(items) => self.check_items(rule, items, at, way, wrong),
            Value::String(text) => wrong.extend(string_fault(rule, text).map(|fault| format!("{at}: {fault}"))),
            Value::Number(number) => wrong.extend(number_fault(rule, number).map(|fault| format!("{at}: {fault}"))),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn check_choices(&self, rule: &Value, value: &Value, at: &str, way: Way, wrong: &mut Vec<String>) {
        for part in rule["allOf"].as_array().into_iter().flatten() {
            self.check_value(part, value, at, way, wrong);
        }
        for (word, is_one) in [("oneOf", true), ("anyOf", false)] {
            let Some(choices) = rule[word].as_array() else { continue };
            let faults = choices.iter().map(|choice| {
                let mut wrong = Vec::new();
                self.check_value(choice, value, at, way, &mut wrong);
                wrong
            });
            let (good, bad): (Vec<_>, Vec<_>) = faults.partition(Vec::is_empty);
            if good.is_empty() {
                let words: Vec<String> = bad.iter().map(|faults| faults.join(", ")).collect();
                wrong.push(format!("{at}: it is none of {word}: {}", words.join(" | ")));
            } else if is_one && good.len() > 1 {
                wrong.push(format!("{at}: it is more than one of {word}"));
            }
        }
    }

    fn check_object(&self, rule: &Value, object: &Map<String, Value>, at: &str, way: Way, wrong: &mut Vec<String>) {
        let rules = rule["properties"].as_object();
        let of = |key: &str| rules.and_then(|rules| rules.get(key));
        let foreign = if way == Way::In { "readOnly" } else { "writeOnly" };
        for (key, value) in object {
            match of(key) {
                Some(own) if self.resolve(own)[foreign] == true => wrong.push(format!("{at}.{key}: it is {foreign}")),
                Some(own) => self.check_value(own, value, &format!("{at}.{key}"), way, wrong),
                None if rule["additionalProperties"] == false => wrong.push(format!("{at}.{key}: there is no such key")),
                None if rule["additionalProperties"].is_object() => {
                    self.check_value(&rule["additionalProperties"], value, &format!("{at}.{key}"), way, wrong);
                }
                None => {}
            }
        }
        for key in rule["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let is_foreign = of(key).is_some_and(|own| self.resolve(own)[foreign] == true);
            if !object.contains_key(key) && !is_foreign {
                wrong.push(format!("{at}.{key}: it is missing"));
            }
        }
    }

    fn check_items(&self, rule: &Value, items: &[Value], at: &str, way: Way, wrong: &mut Vec<String>) {
        if let Some(own) = rule.get("items") {
            items.iter().enumerate().for_each(|(index, item)| self.check_value(own, item, &format!("{at}[{index}]"), way, wrong));
        }
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        if rule["minItems"].as_u64().is_some_and(|least| count < least) || rule["maxItems"].as_u64().is_some_and(|most| count > most) {
            wrong.push(format!("{at}: {count} items are too few or too many"));
        }
        if rule["uniqueItems"] == true && items.iter().enumerate().any(|(index, item)| items.iter().take(index).any(|other| other == item))
        {
            wrong.push(format!("{at}: an item stands there twice"));
        }
    }

    /// The rule that a discriminator chooses.
    fn mapped<'s>(&'s self, rule: &'s Value, value: &Value) -> Option<&'s Value> {
        let word = value.get(rule.pointer("/discriminator/propertyName")?.as_str()?)?.as_str()?;
        let reference = rule.pointer("/discriminator/mapping")?.get(word)?.as_str()?;
        self.document.pointer(reference.trim_start_matches('#'))
    }

    /// The keys that a rule names, in whatever of its parts.
    pub(super) fn collect_names<'s>(&'s self, rule: &'s Value, value: &Value, names: &mut BTreeSet<&'s str>) {
        let rule = self.resolve(rule);
        if let Some(mapped) = self.mapped(rule, value) {
            return self.collect_names(mapped, value, names);
        }
        names.extend(rule["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str()));
        for word in ["allOf", "oneOf", "anyOf"] {
            rule[word].as_array().into_iter().flatten().for_each(|part| self.collect_names(part, value, names));
        }
    }
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    }
}

fn number_fault(rule: &Value, number: &Number) -> Option<String> {
    let number = number.as_f64()?;
    if rule["minimum"].as_f64().is_some_and(|least| number < least) {
        return Some(format!("{number} is less than {}", rule["minimum"]));
    }
    if rule["maximum"].as_f64().is_some_and(|most| number > most) {
        return Some(format!("{number} is more than {}", rule["maximum"]));
    }
    let step = rule["multipleOf"].as_f64().filter(|step| *step > 0.0)?;
    ((number / step).fract() != 0.0).then(|| format!("{number} is no multiple of {step}"))
}

fn string_fault(rule: &Value, text: &str) -> Option<String> {
    let length = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if rule["minLength"].as_u64().is_some_and(|least| length < least) || rule["maxLength"].as_u64().is_some_and(|most| length > most) {
        return Some(format!("{length} characters are too few or too many"));
    }
    if let Some(pattern) = rule["pattern"].as_str().filter(|pattern| !matches(pattern, text)) {
        return Some(format!("`{text}` does not match {pattern}"));
    }
    let is_good = match rule["format"].as_str().unwrap_or_default() {
        "date-time" => matches(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", text),
        "uuid" => matches(r"^(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uri" => matches(r"^[a-z][a-z0-9+.-]*:[^\s]+$", text),
        // The others say how numbers are kept.
        _ => true,
    };
    (!is_good).then(|| format!("`{text}` is no {}", rule["format"]))
}

/// A pattern that cannot be read matches nothing.
fn matches(pattern: &str, text: &str) -> bool {
    static READ: LazyLock<Mutex<BTreeMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    let regex = read.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
    regex.as_ref().is_some_and(|regex| regex.is_match(text))
}
