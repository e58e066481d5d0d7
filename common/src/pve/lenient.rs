//! JSON as Proxmox VE writes it: numbers as texts, yes and no as numbers, nothing as an empty text.
//!
//! Perl has one kind of scalar, and what a value was last used as decides how it is written: the same field of the same host comes as
//! `506` and as `"506"`.

use serde_json::Value;

use super::guest::Config;

/// A whole number that is not negative.
#[must_use]
pub fn uint(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| number.to_string().strip_suffix(".0")?.parse().ok()),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(yes) => Some(u64::from(*yes)),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Yes or no; what is missing, empty or unreadable is no.
#[must_use]
pub fn flag(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Bool(yes)) => *yes,
        Some(Value::Number(number)) => number.as_f64().is_some_and(|n| n != 0.0),
        Some(Value::String(text)) => super::scalar::boolean(text.trim()).unwrap_or(false),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
    }
}

/// A text, also of a number or of yes and no; nothing for an empty one.
#[must_use]
pub fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(super::scalar::flag(*yes).to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A guest's config and its digest, as `GET …/config` answers them.
#[must_use]
pub fn config(value: &Value) -> (Config, Option<String>) {
    let mut config: Config =
        value.as_object().into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), text(Some(value))?))).collect();
    let digest = config.remove("digest");
    (config, digest)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_spelling_of_a_number_is_that_number() {
        for value in [json!(506), json!("506"), json!(506.0), json!(" 506")] {
            assert_eq!(uint(&value), Some(506), "{value}");
        }
        assert_eq!(uint(&json!("2843268218880")), Some(2_843_268_218_880));
        for nothing in [json!(""), json!(null), json!("many"), json!(-1), json!(1.5), json!([])] {
            assert_eq!(uint(&nothing), None, "{nothing}");
        }
    }

    #[test]
    fn yes_is_what_says_so() {
        for yes in [json!(1), json!("1"), json!(true), json!("on")] {
            assert!(flag(Some(&yes)), "{yes}");
        }
        for no in [json!(0), json!("0"), json!(""), json!(null), json!(false), json!("maybe")] {
            assert!(!flag(Some(&no)), "{no}");
        }
        assert!(!flag(None));
    }

    #[test]
    fn a_config_is_texts_and_its_digest_is_none_of_it() {
        let (config, digest) =
            config(&json!({ "memory": "2048", "cores": 4, "onboot": true, "cpulimit": 2.5, "name": "", "digest": "abc" }));
        let pairs: Vec<(&str, &str)> = config.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        assert_eq!(pairs, [("cores", "4"), ("cpulimit", "2.5"), ("memory", "2048"), ("onboot", "1")]);
        assert_eq!(digest.as_deref(), Some("abc"));
    }
}
