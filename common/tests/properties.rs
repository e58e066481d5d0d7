//! What must hold for every file, not only for those that somebody thought of.
#![allow(clippy::unwrap_used)] // A panic here is a failed test.

use moorline_common::canonical::{to_canonical, version_hash};
use moorline_common::id::{HostId, HostName};
use moorline_common::topology::{self, BoundHost, HostSpec};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn host() -> BoundHost {
    BoundHost { host_id: HostId::of_key(&[1; 32]), name: HostName::parse("h").unwrap(), labels: [("l".to_owned(), "v".to_owned())].into() }
}

fn spec(text: &str) -> Option<HostSpec> {
    topology::load(text).ok()?.slice(&[host()]).ok()?.hosts.into_values().next()
}

/// A service with some of its keys, valid by itself.
fn service() -> impl Strategy<Value = Value> {
    let pairs = proptest::collection::btree_map("[A-Z]{1,4}", "[ -#%-~]{0,12}", 0..4);
    let words = proptest::collection::vec("[ -#%-~]{0,8}", 0..4);
    (
        "[a-z]{1,8}(:[a-z0-9]{1,4})?",
        proptest::option::of(words),
        pairs.clone(),
        pairs,
        proptest::collection::btree_set(1u16..60000, 0..4),
        proptest::option::of(prop_oneof![Just("no"), Just("always"), Just("unless-stopped"), Just("on-failure:2")]),
        proptest::option::of(1u32..5000),
    )
        .prop_map(|(image, command, environment, labels, ports, restart, grace)| {
            let mut service = Map::new();
            service.insert("image".to_owned(), json!(image));
            service.insert("environment".to_owned(), json!(environment));
            service.insert("labels".to_owned(), json!(labels));
            service.insert("ports".to_owned(), json!(ports.iter().map(u16::to_string).collect::<Vec<_>>()));
            service.extend(command.map(|c| ("command".to_owned(), json!(c))));
            service.extend(restart.map(|r| ("restart".to_owned(), json!(r))));
            service.extend(grace.map(|g| ("stop_grace_period".to_owned(), json!(format!("{g}ms")))));
            Value::Object(service)
        })
}

fn file() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-z][a-z0-9]{0,5}", service(), 0..5)
        .prop_map(|services| json!({ "topology": "t", "hosts": { "h": { "docker": { "services": services } } } }))
}

/// The same value as JSON text with the keys of every map in an order that `seed` shuffles.
fn shuffled(value: &Value, seed: &mut u64, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
            for last in (1..pairs.len()).rev() {
                *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                pairs.swap(last, usize::try_from(*seed >> 33).unwrap() % (last + 1));
            }
            out.push('{');
            for (n, (key, value)) in pairs.into_iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ",\n  " });
                out.push_str(&serde_json::to_string(key).unwrap());
                out.push_str(": ");
                shuffled(value, seed, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n == 0 { "" } else { ", " });
                shuffled(item, seed, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => out.push_str(&value.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_hash_does_not_depend_on_the_order_of_keys(file in file(), mut seed in any::<u64>()) {
        let mut text = String::new();
        shuffled(&file, &mut seed, &mut text);
        let (plain, other) = (spec(&file.to_string()).unwrap(), spec(&text).unwrap());
        prop_assert_eq!(version_hash(&plain).unwrap(), version_hash(&other).unwrap());
    }

    #[test]
    fn yaml_and_json_of_one_content_have_one_hash(file in file()) {
        let yaml = serde_saphyr::to_string(&file).unwrap();
        prop_assert_eq!(spec(&yaml).unwrap(), spec(&file.to_string()).unwrap());
    }

    #[test]
    fn what_is_sliced_is_read_back_from_its_canonical_form(file in file()) {
        let spec = spec(&file.to_string()).unwrap();
        let bytes = to_canonical(&spec).unwrap();
        let read: HostSpec = moorline_common::canonical::from_strict_json(&bytes).unwrap();
        prop_assert_eq!(read, spec);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC*") {
        let _ = topology::load(&text);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = topology::load_bytes(&bytes);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_reader_panic(at in 0usize..2600, cut in 0usize..40, with in "[ -~\n\t]{0,6}") {
        let full = include_str!("../../deploy/examples/full.yaml");
        let (at, end) = (at.min(full.len()), (at + cut).min(full.len()));
        let damaged = format!("{}{with}{}", full.get(..at).unwrap_or(""), full.get(end..).unwrap_or(""));
        if let Ok(file) = topology::load(&damaged) {
            let _ = file.slice(&[host()]);
        }
    }

    #[test]
    fn nothing_that_was_written_is_lost_on_the_way_to_the_slice(file in file()) {
        let spec = spec(&file.to_string()).unwrap();
        let services = file["hosts"]["h"]["docker"]["services"].as_object().unwrap();
        let sliced = spec.docker.unwrap_or_default().services;
        prop_assert_eq!(sliced.len(), services.len());
        for (name, written) in services {
            let sliced = &sliced[name];
            prop_assert_eq!(&json!(sliced.image), &written["image"]);
            prop_assert_eq!(&json!(sliced.environment), &written["environment"]);
            prop_assert_eq!(&json!(sliced.labels), &written["labels"]);
            prop_assert_eq!(sliced.ports.len(), written["ports"].as_array().unwrap().len());
            prop_assert_eq!(json!(sliced.command), written.get("command").cloned().unwrap_or(Value::Null));
        }
    }
}
