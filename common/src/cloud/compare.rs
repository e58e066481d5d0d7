//! Whether something in a cloud is as its spec says, field by field.
//!
//! The spec is what a saga wanted, and clouds write the same in many ways. So equality is loose: scalars are equal by their text, null is equal to what is
//! empty, lists are sets, and what is known by a slug is equal to its slug.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The tag on everything that Moorline makes in clouds.
pub const MANAGED: &str = "managed-by-moorline";
/// Before a saga's id in its tags.
pub const SAGA: &str = "saga:";

/// Where a live value has what stands at no field of its own.
const ATTRIBUTES: &str = "attributes";
/// The field whose list also has Moorline's own marks.
const TAGS: &str = "tags";

/// A field that is not as the spec says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mismatch {
    /// The field's name in the spec.
    pub field: String,
    /// What the spec says.
    pub wanted: Value,
    /// What there is, in the same form where there is one: of an image its slug. Null when there is nothing.
    pub found: Value,
}

/// Compares every field of `spec` with what `live` has: at its top, or else among its `attributes`. A spec that is no map wants nothing. Fields that the
/// spec does not name are not looked at.
#[must_use]
pub fn compare(spec: &Value, live: &Value) -> Vec<Mismatch> {
    let Value::Object(spec) = spec else { return Vec::new() };
    let mismatch = |(field, wanted): (&String, &Value)| {
        let found = live.get(field).or_else(|| live.get(ATTRIBUTES)?.get(field)).unwrap_or(&Value::Null);
        let (own, theirs) = if field == TAGS { (operators(wanted), operators(found)) } else { (wanted.clone(), found.clone()) };
        let is_same = own_form(&own).iter().any(|own| own_form(&theirs).contains(own));
        (!is_same).then(|| Mismatch { field: field.clone(), wanted: wanted.clone(), found: shown(&theirs, wanted) })
    };
    spec.iter().filter_map(mismatch).collect()
}

/// Whether a tag is Moorline's own, and no operator's.
#[must_use]
pub fn is_own_tag(tag: &str) -> bool {
    tag.eq_ignore_ascii_case(MANAGED) || tag.get(..SAGA.len()).is_some_and(|start| start.eq_ignore_ascii_case(SAGA))
}

/// A list of tags without Moorline's own, and in small letters: clouds keep a tag as it was written first, by whomever.
fn operators(tags: &Value) -> Value {
    let Value::Array(tags) = tags else { return tags.clone() };
    let own = |tag: &&Value| !tag.as_str().is_some_and(is_own_tag);
    let small = |tag: &Value| tag.as_str().map_or_else(|| tag.clone(), |text| Value::from(text.to_ascii_lowercase()));
    tags.iter().filter(own).map(small).collect()
}

/// A value with all that does not count taken away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Null, or empty.
    Nothing,
    /// A scalar's text.
    Text(String),
    /// A list's elements, each once.
    Set(BTreeSet<Form>),
    /// A map's fields that are something.
    Map(BTreeMap<String, Form>),
}

/// The forms that a value may be known by: its own, and of what has a slug that, or its number where it has none.
fn own_form(value: &Value) -> Vec<Form> {
    let mut forms = vec![form(value)];
    if let Value::Object(map) = value
        && map.contains_key("slug")
    {
        let names = ["slug", "id"].iter().filter_map(|key| map.get(*key)).map(form).filter(|name| matches!(name, Form::Text(_)));
        forms.extend(names);
    }
    forms
}

fn form(value: &Value) -> Form {
    let text = |text: String| if text.is_empty() { Form::Nothing } else { Form::Text(text) };
    match value {
        Value::Null => Form::Nothing,
        Value::Bool(on) => text(on.to_string()),
        // 1.0 is written for 1 by some.
        Value::Number(number) => text(number.to_string().trim_end_matches(".0").to_owned()),
        Value::String(words) => text(words.clone()),
        Value::Array(list) => {
            let set: BTreeSet<Form> = list.iter().map(form).filter(|one| *one != Form::Nothing).collect();
            if set.is_empty() { Form::Nothing } else { Form::Set(set) }
        }
        Value::Object(map) => {
            let fields = map.iter().map(|(key, value)| (key.clone(), form(value)));
            let map: BTreeMap<String, Form> = fields.filter(|(_, value)| *value != Form::Nothing).collect();
            if map.is_empty() { Form::Nothing } else { Form::Map(map) }
        }
    }
}

/// What there is, in the form in which it was wanted.
fn shown(found: &Value, wanted: &Value) -> Value {
    let slug = || {
        ["slug", "id"]
            .iter()
            .filter(|_| found.get("slug").is_some())
            .filter_map(|key| found.get(*key))
            .find(|name| form(name) != Form::Nothing)
    };
    if wanted.is_object() { found.clone() } else { slug().unwrap_or(found).clone() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn live() -> Value {
        json!({
            "id": 524_000_001, "name": "web-1", "region": "fra1", "size": "s-1vcpu-1gb", "status": "active", "locked": false,
            "image": { "id": 159_651_797, "slug": "debian-12-x64", "name": "12 x64" },
            "tags": ["web", "prod", "managed-by-moorline", "saga:0199", "saga:0199:2"],
            "attributes": { "vcpus": 1, "memory": 1024, "vpc_uuid": "", "size": "shadowed", "features": ["ipv6", "monitoring"], "monitoring": true },
        })
    }

    fn fields(spec: &Value) -> Vec<String> {
        compare(spec, &live()).into_iter().map(|one| one.field).collect()
    }

    #[test]
    fn a_wrong_size_and_a_right_region_report_the_size_alone() {
        let found = compare(&json!({ "size": "s-2vcpu-2gb", "region": "fra1", "image": "debian-12-x64" }), &live());
        assert_eq!(found, [Mismatch { field: "size".to_owned(), wanted: json!("s-2vcpu-2gb"), found: json!("s-1vcpu-1gb") }]);
    }

    #[test]
    fn the_top_comes_before_the_attributes() {
        assert!(fields(&json!({ "size": "s-1vcpu-1gb", "vcpus": 1 })).is_empty());
        assert_eq!(fields(&json!({ "size": "shadowed" })), ["size"]);
    }

    #[test]
    fn scalars_are_equal_by_their_text() {
        assert!(fields(&json!({ "vcpus": "1", "memory": 1024.0, "locked": "false", "monitoring": "true", "id": "524000001" })).is_empty());
        assert_eq!(fields(&json!({ "vcpus": "01", "locked": 0 })), ["locked", "vcpus"]);
    }

    #[test]
    fn null_is_equal_to_what_is_empty_and_to_what_is_missing() {
        assert!(
            fields(&json!({ "vpc_uuid": null, "backups": null, "volumes": [], "notes": "", "labels": {}, "keys": [null, ""] })).is_empty()
        );
        assert_eq!(fields(&json!({ "vpc_uuid": "760e", "region": null })), ["region", "vpc_uuid"]);
    }

    #[test]
    fn lists_are_sets() {
        assert!(fields(&json!({ "features": ["monitoring", "ipv6", "ipv6"] })).is_empty());
        assert_eq!(fields(&json!({ "features": ["monitoring"] })), ["features"]);
        assert_eq!(fields(&json!({ "features": "monitoring" })), ["features"]);
        assert!(compare(&json!({ "ports": [80, "443"] }), &json!({ "ports": ["443", "80"] })).is_empty());
    }

    #[test]
    fn moorlines_own_tags_do_not_count_and_neither_do_capitals_in_tags() {
        assert!(fields(&json!({ "tags": ["Prod", "web"] })).is_empty());
        assert!(fields(&json!({ "tags": ["prod", "web", "saga:other"] })).is_empty());
        let found = compare(&json!({ "tags": ["web"] }), &live());
        assert_eq!(found.first().map(|one| one.found.clone()), Some(json!(["web", "prod"])));
    }

    #[test]
    fn an_image_is_known_by_its_slug_or_by_its_number_where_it_has_none() {
        assert!(fields(&json!({ "image": "debian-12-x64" })).is_empty());
        assert!(fields(&json!({ "image": 159_651_797 })).is_empty());
        assert!(fields(&json!({ "image": { "slug": "debian-12-x64" } })).is_empty());
        let found = compare(&json!({ "image": "debian-13-x64" }), &live());
        assert_eq!(found.first().map(|one| one.found.clone()), Some(json!("debian-12-x64")));
        let snapshot = json!({ "image": { "id": 198_000_001, "slug": null, "name": "mine" } });
        assert!(compare(&json!({ "image": "198000001" }), &snapshot).is_empty());
        assert_eq!(compare(&json!({ "image": "debian-12-x64" }), &snapshot).first().map(|one| one.found.clone()), Some(json!(198_000_001)));
    }

    #[test]
    fn what_is_no_map_wants_nothing() {
        for spec in [json!(null), json!("size"), json!(["size"]), json!(7), json!({})] {
            assert!(compare(&spec, &live()).is_empty(), "{spec}");
        }
        assert_eq!(compare(&json!({ "size": "s" }), &json!(null)).len(), 1);
    }

    #[test]
    fn what_was_accepted_has_no_mismatch_any_more() {
        let mut spec = json!({ "size": "s-4vcpu-8gb", "region": "nyc3", "image": "debian-13-x64", "tags": ["a"], "vpc_uuid": "x" });
        for one in compare(&spec, &live()) {
            spec[one.field.as_str()] = one.found;
        }
        assert_eq!(compare(&spec, &live()), []);
    }
}
