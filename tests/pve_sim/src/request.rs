//! One call as it comes over the wire, and its answer.
//!
//! Source of how bodies and queries are read: `PVE::APIServer::AnyEvent::decode_urlencoded`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A call, before anything of it is understood.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: String,
    /// The path with its query, as sent: nothing of it decoded.
    pub path: String,
    /// The value of the header `Authorization`.
    pub authorization: Option<String>,
    /// The value of the header `Cookie`.
    pub cookie: Option<String>,
    /// The value of the header `CSRFPreventionToken`.
    pub csrf: Option<String>,
    /// The value of the header `Content-Type`.
    pub content_type: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    /// For whom it is made, by the word of a caller in the same process: what comes of it bears the name.
    pub on_behalf: String,
}

impl Request {
    /// A call without parameters in its body.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), ..Self::default() }
    }

    /// The same by a token: `user@realm!name` and its secret.
    #[must_use]
    pub fn by_token(mut self, id: &str, secret: &str) -> Self {
        self.authorization = Some(format!("PVEAPIToken={id}={secret}"));
        self
    }

    /// The same with parameters in its body, encoded as a form.
    #[must_use]
    pub fn form(mut self, pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value)));
        self.body = pairs.collect::<Vec<_>>().join("&").into_bytes();
        self.content_type = Some("application/x-www-form-urlencoded".to_owned());
        self
    }

    /// The same with parameters in its body, as JSON.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.content_type = Some("application/json".to_owned());
        self
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The phrase behind it in the first line. It has no line's end.
    pub reason: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// Success.
    #[must_use]
    pub fn data(data: &Value) -> Self {
        Self { status: 200, reason: "OK".to_owned(), body: json!({ "data": data }).to_string().into_bytes() }
    }

    /// A failure. Before the version 5.2.0 of `pve-http-server` the words stood in the reason alone.
    #[must_use]
    pub fn failure(status: u16, message: &str, errors: &BTreeMap<String, String>, is_old: bool) -> Self {
        let mut body = json!({ "data": null });
        if let (false, Some(object)) = (is_old, body.as_object_mut()) {
            object.insert("message".to_owned(), json!(format!("{}\n", message.trim_end_matches('\n'))));
        }
        if let (400, false, Some(object)) = (status, errors.is_empty(), body.as_object_mut()) {
            object.insert("errors".to_owned(), json!(errors));
        }
        Self { status, reason: in_one_line(message), body: body.to_string().into_bytes() }
    }

    /// A failure that no formatter has seen: no JSON at all, as what the proxy itself refuses.
    #[must_use]
    pub fn plain(status: u16, message: &str) -> Self {
        Self { status, reason: in_one_line(message), body: Vec::new() }
    }

    /// Its `data`, for tests; nothing when it has none.
    #[must_use]
    pub fn read(&self) -> Value {
        serde_json::from_slice::<Value>(&self.body).ok().and_then(|body| body.get("data").cloned()).unwrap_or(Value::Null)
    }
}

fn in_one_line(message: &str) -> String {
    let line = message.trim_end().replace(['\r', '\n'], " ");
    // What cannot stand in a first line of HTTP is left out.
    line.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect()
}

/// The path without its query, and the query's pairs. The path stays encoded.
#[must_use]
pub fn split_path(path: &str) -> (&str, Vec<(String, String)>) {
    match path.split_once('?') {
        Some((path, query)) => (path, pairs(query)),
        None => (path, Vec::new()),
    }
}

/// The pairs of a form or query. Both `&` and `;` part them, and `+` is a space: who forgets to encode the `;` of a list of tags loses
/// what is behind it.
#[must_use]
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let parts = text.split(['&', ';']).filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
        })
        .collect()
}

/// The parameters of a body.
///
/// # Errors
/// When it is JSON that cannot be read, or no object.
pub fn body_pairs(content_type: Option<&str>, body: &[u8]) -> Result<Vec<(String, String)>, String> {
    let is_json = content_type.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("application/json"));
    if !is_json {
        return Ok(pairs(&String::from_utf8_lossy(body)));
    }
    if body.is_empty() {
        return Ok(Vec::new());
    }
    let value: Value = serde_json::from_slice(body).map_err(|error| format!("malformed JSON: {error}"))?;
    let Value::Object(object) = value else { return Err("malformed JSON: no object".to_owned()) };
    let mut all = Vec::new();
    for (key, value) in object {
        match value {
            Value::Array(values) => all.extend(values.iter().map(|value| (key.clone(), text(value)))),
            Value::Null => {}
            value @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => all.push((key, text(&value))),
        }
    }
    Ok(all)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(yes) => u8::from(*yes).to_string(),
        Value::Null => String::new(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Undoes percent encoding. What is no encoding stays as it is.
#[must_use]
pub fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let mut rest = bytes.clone();
        let hex = if byte == b'%' { rest.next().zip(rest.next()).and_then(|(a, b)| Some((digit(a)? << 4) | digit(b)?)) } else { None };
        match hex {
            Some(value) => {
                out.push(value);
                bytes = rest;
            }
            None => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Percent encoding of everything but letters, digits and `-_.~`.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn both_separators_part_pairs_and_plus_is_a_space() {
        assert_eq!(pairs("tags=a;b&name=x+y%2Bz"), owned(&[("tags", "a"), ("b", ""), ("name", "x y+z")]));
        assert_eq!(pairs("tags=a%3Bb"), owned(&[("tags", "a;b")]));
        assert_eq!(decode("100%zz%4"), "100%zz%4");
        assert_eq!(decode(&encode("ä ;/+%")), "ä ;/+%");
    }

    #[test]
    fn json_bodies_are_the_same_pairs() {
        let body = serde_json::json!({ "cores": 2, "onboot": true, "name": "a;b", "x": null });
        let read = body_pairs(Some("application/json; charset=utf-8"), body.to_string().as_bytes());
        assert_eq!(read, Ok(owned(&[("cores", "2"), ("name", "a;b"), ("onboot", "1")])));
        assert!(body_pairs(Some("application/json"), b"[]").is_err());
        assert_eq!(body_pairs(None, b"a=1"), Ok(owned(&[("a", "1")])));
    }

    #[test]
    fn words_of_a_failure_stand_in_the_body_or_in_the_first_line_alone() {
        let errors = BTreeMap::from([("cores".to_owned(), "no".to_owned())]);
        let new = Answer::failure(400, "Parameter verification failed.", &errors, false);
        assert_eq!(new.body, br#"{"data":null,"errors":{"cores":"no"},"message":"Parameter verification failed.\n"}"#);
        let old = Answer::failure(500, "VM is locked\n(backup)\n", &BTreeMap::new(), true);
        assert_eq!((old.body.as_slice(), old.reason.as_str()), (br#"{"data":null}"#.as_slice(), "VM is locked (backup)"));
    }
}
