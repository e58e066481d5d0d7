//! One call as it comes over the wire, and its answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A call, before anything of it is understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// `GET`, `POST`, `PUT` or `DELETE`.
    pub method: String,
    /// The path with its query, as sent: `/v2/droplets?page=2`.
    pub path: String,
    /// The value of the header `Authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    /// Where it was sent to, for links in the answer: `https://api.digitalocean.com`.
    pub base: String,
}

impl Default for Request {
    fn default() -> Self {
        Self { method: "GET".to_owned(), path: String::new(), authorization: None, body: Vec::new(), base: BASE.to_owned() }
    }
}

/// Where the API is.
pub const BASE: &str = "https://api.digitalocean.com";

impl Request {
    /// A call without a body, by nobody.
    #[must_use]
    pub fn new(method: &str, path: &str) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), ..Self::default() }
    }

    /// The same by a token.
    #[must_use]
    pub fn by(mut self, secret: &str) -> Self {
        self.authorization = Some(format!("Bearer {secret}"));
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self
    }
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The headers, their names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// With a body.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json; charset=utf-8".to_owned())];
        Self { status, headers, body: body.to_string().into_bytes() }
    }

    /// Success that says nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self { status: 204, headers: Vec::new(), body: Vec::new() }
    }

    /// A failure.
    #[must_use]
    pub fn failure(status: u16, id: &str, message: &str) -> Self {
        Self::json(status, &json!({ "id": id, "message": message }))
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Its body; nothing when that is no JSON.
    #[must_use]
    pub fn read(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// The path without its query, and the query's pairs, decoded. The path stays encoded.
#[must_use]
pub fn split_path(path: &str) -> (&str, Vec<(String, String)>) {
    let Some((path, query)) = path.split_once('?') else { return (path, Vec::new()) };
    let parts = query.split('&').filter(|part| !part.is_empty());
    let pairs = parts.map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    });
    (path, pairs.collect())
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
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
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

    #[test]
    fn queries_are_decoded_and_paths_are_not() {
        let (path, query) = split_path("/v2/tags/a%3Ab?tag_name=saga%3A1&name=a+b");
        assert_eq!(path, "/v2/tags/a%3Ab");
        assert_eq!(query, [("tag_name".to_owned(), "saga:1".to_owned()), ("name".to_owned(), "a b".to_owned())]);
        assert_eq!(decode(&encode("ä :/+%")), "ä :/+%");
    }
}
