//! RFC 8785 canonical JSON, the version hash over it, and the strict reading of JSON.
//!
//! Strict reading refuses what two readers could understand differently: duplicate keys, floats,
//! and integers that a double cannot hold.

use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::VersionHash;

/// The largest integer that every JSON reader holds exactly: 2^53.
pub const MAX_SAFE_INTEGER: u64 = 1 << 53;

/// JSON that cannot be read strictly or written canonically.
#[derive(Debug, thiserror::Error)]
pub enum CanonicalError {
    /// Not JSON, or not of the expected shape; the message gives line and column.
    #[error("malformed JSON: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The value does not fit the expected type: an unknown, missing or mistyped field.
    #[error("unexpected JSON content: {0}")]
    Shape(#[source] serde_json::Error),
    /// A number that canonical content must carry as a string.
    #[error("the number {0} is not an integer within ±2^53; write it as a string")]
    Number(String),
    /// The value cannot be serialised at all (a map with keys that are no strings).
    #[error("value cannot be written as canonical JSON: {0}")]
    Write(#[source] serde_json::Error),
}

/// `value` in RFC 8785 canonical JSON.
///
/// # Errors
/// [`CanonicalError::Number`] for a number outside ±2^53 or with a fraction.
pub fn to_canonical<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    value_to_canonical(&serde_json::to_value(value).map_err(CanonicalError::Write)?)
}

/// The canonical form of a value.
///
/// # Errors
/// As [`to_canonical`].
pub fn value_to_canonical(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    check_numbers(value)?;
    serde_json_canonicalizer::to_vec(value).map_err(CanonicalError::Write)
}

/// The version hash of slice content (or of any one resource's spec).
///
/// # Errors
/// As [`to_canonical`].
pub fn version_hash<T: Serialize + ?Sized>(content: &T) -> Result<VersionHash, CanonicalError> {
    Ok(VersionHash::of_bytes(&to_canonical(content)?))
}

/// Reads JSON strictly into `T`; combine with `#[serde(deny_unknown_fields)]` on `T`.
///
/// # Errors
/// [`CanonicalError`] for malformed JSON, duplicate keys, unsafe numbers or a wrong shape.
pub fn from_strict_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CanonicalError> {
    let StrictValue(value) = serde_json::from_slice(bytes).map_err(CanonicalError::Malformed)?;
    check_numbers(&value)?;
    serde_json::from_value(value).map_err(CanonicalError::Shape)
}

fn check_numbers(value: &Value) -> Result<(), CanonicalError> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(n) => {
            let magnitude = n.as_u64().or_else(|| n.as_i64().map(i64::unsigned_abs));
            match magnitude {
                Some(m) if m <= MAX_SAFE_INTEGER => Ok(()),
                Some(_) | None => Err(CanonicalError::Number(n.to_string())),
            }
        }
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(map) => map.values().try_for_each(check_numbers),
    }
}

/// A JSON value whose objects had no duplicate keys.
struct StrictValue(Value);

impl<'de> Deserialize<'de> for StrictValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(StrictValue)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON without duplicate keys")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Err(E::custom(format_args!("the number {v} is not an integer within ±2^53; write it as a string")))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(StrictValue(item)) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key `{key}`")));
            }
            let StrictValue(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn key_order_and_spacing_do_not_change_the_hash() {
        let a: Value = from_strict_json(br#"{"b":1,"a":{"y":"2","x":[1,2]}}"#).unwrap();
        let b: Value = from_strict_json(b"{ \"a\": {\"x\":[1,2], \"y\":\"2\"},\n \"b\": 1 }").unwrap();
        assert_eq!(version_hash(&a).unwrap(), version_hash(&b).unwrap());
    }

    #[test]
    fn the_hash_is_the_published_one() {
        // printf '{"a":"é","b":1}' | sha256sum
        let hash = version_hash(&json!({"b": 1, "a": "é"})).unwrap();
        assert_eq!(hash, VersionHash::of_bytes("{\"a\":\"é\",\"b\":1}".as_bytes()));
    }

    #[test]
    fn duplicate_keys_and_unsafe_numbers_are_refused() {
        assert!(from_strict_json::<Value>(br#"{"a":1,"a":1}"#).is_err());
        assert!(from_strict_json::<Value>(br#"{"a":{"b":1,"b":2}}"#).is_err());
        assert!(from_strict_json::<Value>(b"[1.5]").is_err());
        assert!(from_strict_json::<Value>(b"[9007199254740993]").is_err());
        assert!(from_strict_json::<Value>(b"[1] x").is_err());
        assert!(to_canonical(&json!(1.5)).is_err());
        assert!(to_canonical(&json!(9_007_199_254_740_992_u64)).is_ok());
    }
}
