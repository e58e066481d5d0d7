//! Calls and answers against the API's own description: the official OpenAPI document. It is given, never part of this project.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::request::{Request, Response, decode, split_path};

mod value;

/// The description of an API.
#[derive(Debug)]
pub struct Schema {
    document: Value,
    operations: Vec<Operation>,
}

#[derive(Debug)]
struct Operation {
    method: String,
    path: Vec<Segment>,
    /// Parameters, with what they refer to.
    parameters: Vec<Value>,
    body: Option<Value>,
    responses: Value,
    scopes: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum Segment {
    Fixed(String),
    Named(String),
}

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

impl Schema {
    /// Reads the description.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let document: Value = serde_json::from_slice(json).context("the API's description is no JSON")?;
        let mut schema = Self { document, operations: Vec::new() };
        let paths = schema.document.get("paths").and_then(Value::as_object).context("the API's description has no paths")?;
        let mut operations = Vec::new();
        for (path, methods) in paths {
            let common = list(&methods["parameters"]);
            for (method, operation) in methods.as_object().into_iter().flatten().filter(|(method, _)| METHODS.contains(&method.as_str())) {
                let own = list(&operation["parameters"]);
                operations.push(Operation {
                    method: method.to_uppercase(),
                    path: path.split('/').filter(|part| !part.is_empty()).map(segment).collect(),
                    parameters: common.iter().chain(&own).map(|value| schema.resolve(value).clone()).collect(),
                    body: operation.get("requestBody").map(|body| schema.resolve(body).clone()),
                    responses: operation["responses"].clone(),
                    scopes: scopes(operation),
                });
            }
        }
        if operations.is_empty() {
            bail!("the API's description has no calls");
        }
        schema.operations = operations;
        Ok(schema)
    }

    /// What is wrong with a call and its answer; nothing when both are as described.
    #[must_use]
    pub fn check(&self, request: &Request, response: &Response) -> Vec<String> {
        let (path, query) = split_path(&request.path);
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect();
        let found =
            self.operations.iter().filter(|known| known.method == request.method).find_map(|known| Some((known, known.names(&parts)?)));
        let Some((operation, named)) = found else { return vec![format!("{} {path} is no call of the API", request.method)] };
        let mut wrong = self.parameters(operation, &named, &query);
        wrong.extend(self.body(operation, &request.body));
        wrong.extend(self.answer(operation, response));
        wrong.into_iter().map(|words| format!("{} {}: {words}", request.method, request.path)).collect()
    }

    /// The calls that are described: method, path as written there, and the scopes that they need.
    #[must_use]
    pub fn calls(&self) -> Vec<(String, String, Vec<String>)> {
        let path = |operation: &Operation| operation.path.iter().map(|segment| format!("/{}", segment.text())).collect::<String>();
        self.operations.iter().map(|operation| (operation.method.clone(), path(operation), operation.scopes.clone())).collect()
    }

    fn parameters(&self, operation: &Operation, named: &[(String, String)], query: &[(String, String)]) -> Vec<String> {
        let mut wrong = Vec::new();
        let rule = |place: &str, name: &str| operation.parameters.iter().find(|rule| rule["in"] == place && rule["name"] == name);
        let given = named.iter().map(|pair| ("path", pair)).chain(query.iter().map(|pair| ("query", pair)));
        for (place, (name, text)) in given {
            match rule(place, name) {
                Some(rule) => wrong.extend(self.text_fault(&rule["schema"], text).map(|fault| format!("{place}: {name}: {fault}"))),
                None => wrong.push(format!("{place}: {name}: there is no such parameter")),
            }
        }
        for (index, (name, _)) in query.iter().enumerate() {
            if query.iter().take(index).any(|(earlier, _)| earlier == name) {
                wrong.push(format!("query: {name}: it stands there twice"));
            }
        }
        let needed = operation.parameters.iter().filter(|rule| rule["in"] == "query" && rule["required"] == true);
        for name in needed.filter_map(|rule| rule["name"].as_str()) {
            if !query.iter().any(|(known, _)| known == name) {
                wrong.push(format!("query: {name}: it is missing"));
            }
        }
        wrong
    }

    fn body(&self, operation: &Operation, bytes: &[u8]) -> Vec<String> {
        let Some(body) = &operation.body else {
            return if bytes.is_empty() { Vec::new() } else { vec!["body: there should be none".to_owned()] };
        };
        let rule = body.pointer("/content/application~1json/schema").unwrap_or(&Value::Null);
        match serde_json::from_slice::<Value>(bytes) {
            Err(_) if bytes.is_empty() && body["required"] != true => Vec::new(),
            Err(error) => vec![format!("body: no JSON: {error}")],
            Ok(value) => {
                let mut wrong = Vec::new();
                self.check_value(rule, &value, "body", Way::In, &mut wrong);
                // The description forbids no key, but one that it does not name does nothing.
                let mut known = BTreeSet::new();
                self.collect_names(rule, &value, &mut known);
                let keys = value.as_object().into_iter().flatten().map(|(key, _)| key);
                wrong.extend(keys.filter(|key| !known.contains(key.as_str())).map(|key| format!("body: {key}: there is no such key")));
                wrong
            }
        }
    }

    fn answer(&self, operation: &Operation, response: &Response) -> Vec<String> {
        let status = response.status.to_string();
        let found = operation.responses.get(&status).or_else(|| operation.responses.get("default"));
        let Some(rule) = found.map(|rule| self.resolve(rule)) else { return vec![format!("answer {status}: it is not described")] };
        let mut wrong = Vec::new();
        for (name, header) in rule["headers"].as_object().into_iter().flatten() {
            let text = response.header(name);
            let fault = text.and_then(|text| self.text_fault(&self.resolve(header)["schema"], text));
            wrong.extend(fault.map(|fault| format!("answer {status}: header {name}: {fault}")));
        }
        let at = format!("answer {status}");
        match (rule["content"].get("application/json"), serde_json::from_slice::<Value>(&response.body)) {
            (None, _) if response.body.is_empty() => {}
            (None, _) => wrong.push(format!("{at}: there should be no body")),
            (Some(_), Err(error)) => wrong.push(format!("{at}: no JSON: {error}")),
            (Some(content), Ok(value)) => self.check_value(&content["schema"], &value, &at, Way::Out, &mut wrong),
        }
        wrong
    }

    /// What a reference stands for.
    fn resolve<'s>(&'s self, value: &'s Value) -> &'s Value {
        let mut value = value;
        // A chain that is longer leads nowhere.
        for _ in 0..16 {
            let Some(reference) = value["$ref"].as_str() else { break };
            value = self.document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null);
        }
        value
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn scopes(operation: &Value) -> Vec<String> {
    let schemes = operation["security"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten();
    schemes.flat_map(|(_, scopes)| scopes.as_array().into_iter().flatten()).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn segment(part: &str) -> Segment {
    match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(name) => Segment::Named(name.to_owned()),
        None => Segment::Fixed(part.to_owned()),
    }
}

impl Segment {
    fn text(&self) -> &str {
        match self {
            Segment::Fixed(text) | Segment::Named(text) => text,
        }
    }
}

impl Operation {
    /// What the path's own parameters are, if it is this one's. A fixed path comes before one with names.
    fn names(&self, parts: &[String]) -> Option<Vec<(String, String)>> {
        if parts.len() != self.path.len() {
            return None;
        }
        let mut named = Vec::new();
        for (segment, part) in self.path.iter().zip(parts) {
            match segment {
                Segment::Fixed(text) if text == part => {}
                Segment::Fixed(_) => return None,
                Segment::Named(name) => named.push((name.clone(), part.clone())),
            }
        }
        Some(named)
    }
}
