//! RFC 8785 canonical JSON, the version hash over it, and the strict reading of JSON.
//!
//! Strict reading refuses what two readers could understand differently: duplicate keys, floats,
//! and integers that a double cannot hold.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::id::VersionHash;

mod write;

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
    write::to_vec(value)
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
    // What is strict is looked at first and kept nowhere: to build a tree for it costs more than to read twice.
    serde_json::from_slice::<Strict>(bytes).map_err(CanonicalError::Malformed)?;
    serde_json::from_slice(bytes).map_err(CanonicalError::Shape)
}

fn is_safe(magnitude: u64) -> bool {
    magnitude <= MAX_SAFE_INTEGER
}

/// Any JSON whose objects have no duplicate keys and whose numbers are safe integers.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

fn unsafe_number<E: de::Error>(number: impl fmt::Display) -> E {
    E::custom(format_args!("the number {number} is not an integer within ±2^53; write it as a string"))
}

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate keys")
    }
    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }
    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Strict, E> {
        if is_safe(v.unsigned_abs()) { Ok(Strict) } else { Err(unsafe_number(v)) }
    }
    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Strict, E> {
        if is_safe(v) { Ok(Strict) } else { Err(unsafe_number(v)) }
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Strict, E> {
        Err(unsafe_number(v))
    }
    fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
        while let Some(Strict) = seq.next_element()? {}
        Ok(Strict)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Strict, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(Key(key)) = access.next_key()? {
            if keys.contains(&key) {
                return Err(de::Error::custom(format_args!("duplicate key `{key}`")));
            }
            keys.insert(key);
            let Strict = access.next_value()?;
        }
        Ok(Strict)
    }
}

/// An object's key, borrowed where it stands without escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(v)))
    }
    fn visit_str<E>(self, v: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(v.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Any JSON that may be canonical, keys beyond ASCII and characters that must be escaped among it.
    fn any_json() -> impl Strategy<Value = Value> {
        let text = || prop_oneof![".*", "[a-c\\\\\"/\u{0}-\u{1f}\u{7f}]{0,4}", "[a\u{e9}\u{ffff}\u{10000}]{0,3}"];
        let number = prop_oneof![(-(1_i64 << 53)..=1 << 53).prop_map(Value::from), Just(json!(-(1_i64 << 53))), Just(json!(1_u64 << 53))];
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, text().prop_map(Value::from)];
        leaf.prop_recursive(4, 32, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((text(), inner), 0..6).prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_the_full_canonicalizer_writes(value in any_json()) {
            prop_assert_eq!(to_canonical(&value).unwrap(), serde_json_canonicalizer::to_vec(&value).unwrap());
        }
    }

    #[test]
    fn keys_stand_in_the_order_of_utf_16() {
        let bytes = to_canonical(&json!({ "in": { "\u{ffff}": 1, "\u{10000}": 2 } })).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), "{\"in\":{\"\u{10000}\":2,\"\u{ffff}\":1}}");
    }

    /// All that serde can say of a value.
    #[derive(Serialize)]
    struct Everything<'a> {
        zebra: (u8, i16, char),
        unit: (),
        #[serde(rename = "a b")]
        spaced: Option<&'a str>,
        a: Variants<'a>,
        numbered: std::collections::BTreeMap<i64, Variants<'a>>,
        truths: std::collections::BTreeMap<bool, Unit>,
        named: std::collections::BTreeMap<&'a str, Variants<'a>>,
        #[serde(flatten)]
        more: std::collections::BTreeMap<&'a str, [u64; 2]>,
    }
    #[derive(Serialize)]
    struct Unit;
    #[derive(Serialize)]
    enum Variants<'a> {
        Unit,
        New(&'a str),
        Tuple(bool, i32),
        Struct { z: u64, b: Option<u8>, a: Vec<i8> },
    }

    #[test]
    fn every_shape_of_value_is_written_as_its_tree_would_be() {
        let value = Everything {
            zebra: (255, -7, '"'),
            unit: (),
            spaced: Some("x\u{7}\u{1f600}"),
            a: Variants::Tuple(true, i32::MIN),
            numbered: [(10, Variants::Unit), (9, Variants::New("n")), (-1, Variants::Tuple(false, 0))].into(),
            truths: [(true, Unit), (false, Unit)].into(),
            named: [("a\"", Variants::Struct { z: 1, b: None, a: vec![-1] }), ("a!", Variants::Unit), ("a", Variants::New(""))].into(),
            more: [("a!", [1, 2]), ("zz", [MAX_SAFE_INTEGER, 0])].into(),
        };
        let tree = serde_json::to_value(&value).unwrap();
        assert_eq!(String::from_utf8(to_canonical(&value).unwrap()), String::from_utf8(serde_json_canonicalizer::to_vec(&tree).unwrap()));
    }

    #[test]
    fn of_two_entries_with_one_name_the_last_counts() {
        struct Twice;
        impl Serialize for Twice {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map([("b", 1), ("a", 2), ("b", 3)])
            }
        }
        assert_eq!(to_canonical(&Twice).unwrap(), br#"{"a":2,"b":3}"#);
        assert!(to_canonical(&[((), 1)].into_iter().collect::<std::collections::BTreeMap<_, _>>()).is_err());
    }

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
        assert!(from_strict_json::<Value>(br#"{"a":[{"b":1,"\u0062":2}]}"#).is_err());
        assert!(from_strict_json::<Value>(b"[1.5]").is_err());
        assert!(from_strict_json::<Value>(b"[9007199254740993]").is_err());
        assert!(from_strict_json::<Value>(b"[-9007199254740993]").is_err());
        assert!(from_strict_json::<Value>(b"[-9007199254740992,9007199254740992]").is_ok());
        assert!(from_strict_json::<Value>(b"[1] x").is_err());
        assert!(to_canonical(&json!(1.5)).is_err());
        assert!(to_canonical(&json!(9_007_199_254_740_992_u64)).is_ok());
    }
}
