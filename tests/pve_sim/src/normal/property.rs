//! Property strings: `bare,key=value,…`.
//!
//! Source: `PVE::JSONSchema::parse_property_string` and `print_property_string`.

use std::collections::BTreeMap;

/// Pairs in the order in which they came; a bare value has the name of the `default` key.
#[must_use]
pub fn pairs(text: &str, default: &str) -> Vec<(String, String)> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| part.split_once('=').map_or((default.to_owned(), part.to_owned()), |(k, v)| (k.to_owned(), v.to_owned()));
    parts.map(pair).collect()
}

/// The same as a map.
#[must_use]
pub fn map(text: &str, default: &str) -> BTreeMap<String, String> {
    pairs(text, default).into_iter().collect()
}

/// Written back: `first` bare, then the keys that must be there, then the others, each sorted.
#[must_use]
pub fn print(first: &str, needed: &[&str], rest: &BTreeMap<String, String>) -> String {
    let is_needed = |key: &str| needed.contains(&key);
    let pair = |(key, value): (&String, &String)| format!("{key}={value}");
    let early = rest.iter().filter(|(key, _)| is_needed(key)).map(pair);
    let late = rest.iter().filter(|(key, _)| !is_needed(key)).map(pair);
    std::iter::once(first.to_owned()).filter(|first| !first.is_empty()).chain(early).chain(late).collect::<Vec<_>>().join(",")
}

/// 1 or 0 for every spelling of yes and no; anything else as it is.
#[must_use]
pub fn flag(value: &str) -> String {
    match value.to_ascii_lowercase().as_str() {
        "1" | "on" | "yes" | "true" => "1".to_owned(),
        "0" | "off" | "no" | "false" => "0".to_owned(),
        _ => value.to_owned(),
    }
}

/// Whether it means yes.
#[must_use]
pub fn is_yes(value: &str) -> bool {
    flag(value) == "1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_value_comes_first_then_what_is_needed_then_the_rest() {
        let read = map("mp=/data,backup=1,x,acl=1", "volume");
        assert_eq!(read["volume"], "x");
        let rest = read.into_iter().filter(|(key, _)| key != "volume").collect();
        assert_eq!(print("x", &["mp"], &rest), "x,mp=/data,acl=1,backup=1");
        assert_eq!((flag("Yes"), flag("off"), flag("spice")), ("1".into(), "0".into(), "spice".into()));
    }
}
