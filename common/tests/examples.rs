//! The example topologies are read, sliced, and are what they say that they are.
#![allow(clippy::unwrap_used)] // A panic here is a failed test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use moorline_common::canonical::version_hash;
use moorline_common::id::{HostId, HostName};
use moorline_common::topology::{self, BoundHost, HostSpec, Inputs, Power, TopologyFile};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples")
}

fn example(name: &str) -> TopologyFile {
    let text = std::fs::read_to_string(folder().join(name)).unwrap();
    let common = std::fs::read_to_string(folder().join("common.yml")).unwrap();
    let inputs = Inputs { files: BTreeMap::from([("common.yml".to_owned(), common)]), ..Inputs::default() };
    topology::read(text.as_bytes(), &inputs).file.unwrap_or_else(|problems| panic!("{}", topology::render_all(&problems, name)))
}

fn host(seed: u8, name: &str, labels: &[(&str, &str)]) -> BoundHost {
    BoundHost {
        host_id: HostId::of_key(&[seed; 32]),
        name: HostName::parse(name).unwrap(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn slices(file: &TopologyFile, hosts: &[BoundHost]) -> BTreeMap<String, HostSpec> {
    let slices = file.slice(hosts).unwrap_or_else(|problems| panic!("{}", topology::render_all(&problems, "")));
    hosts.iter().filter_map(|h| Some((h.name.to_string(), slices.hosts.get(&h.host_id)?.clone()))).collect()
}

#[test]
fn every_example_is_read_and_sliced() {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".yaml") {
            let hosts = [host(1, "shop-17", &[("site", "perth")]), host(2, "shop-18", &[("site", "sydney")])];
            assert!(!slices(&example(&name), &hosts).is_empty(), "{name}");
            seen += 1;
        }
    }
    assert!(seen >= 4);
}

#[test]
fn guests_and_containers_of_one_host_stand_side_by_side_and_profiles_are_merged_setting_by_setting() {
    let hosts = [host(1, "shop-17", &[]), host(2, "pve-1", &[])];
    let slices = slices(&example("proxmox.yaml"), &hosts);
    let guest = |host: &str, number: &str| {
        let (_, guest) = slices[host].guests().find(|(vmid, _)| vmid.to_string() == number).unwrap();
        guest.clone()
    };
    assert_eq!(slices["shop-17"].docker.as_ref().unwrap().services.len(), 1);
    assert_eq!((slices["shop-17"].guests().count(), slices["pve-1"].guests().count()), (2, 2));
    assert!(slices["pve-1"].docker.is_none());
    let (shop, pve) = (guest("shop-17", "200"), guest("pve-1", "200"));
    assert_eq!((shop.config["hostname"].as_str(), pve.config["hostname"].as_str()), ("dns-shop-17", "dns-pve-1"));
    assert_eq!((shop.config["memory"].as_str(), pve.config["memory"].as_str()), ("512", "1024"));
    assert_eq!((pve.config["rootfs"].as_str(), pve.config["onboot"].as_str()), ("local-lvm:4", "1"));
    assert!(pve.from.unwrap().ostemplate.unwrap().starts_with("local:vztmpl/debian-12"));
    let tills = guest("shop-17", "101");
    assert_eq!((tills.state, tills.config["tags"].as_str(), tills.config["agent"].as_str()), (Some(Power::Running), "prod;tills", "1"));
    let json = serde_json::to_value(&tills).unwrap();
    assert_eq!(json["from"], serde_json::json!({ "clone": "9000", "full": true, "storage": "local-lvm" }));
    assert_eq!(json["shutdown"], serde_json::json!({ "timeout_s": 120, "force": true }));
}

#[test]
fn the_second_edge_changes_only_what_it_says() {
    let hosts = [host(1, "shop-17", &[]), host(2, "shop-18", &[])];
    let (before, after) = (slices(&example("edge.yaml"), &hosts), slices(&example("edge-v2.yaml"), &hosts));
    for name in ["shop-17", "shop-18"] {
        let (mut before, mut after) = (before[name].docker.clone().unwrap(), after[name].docker.clone().unwrap());
        assert_eq!((before.networks.len(), before.volumes.len(), before.services.len()), (2, 1, 3));
        assert_eq!(after.services["site"].environment["GREETING"], "good morning");
        assert_eq!(after.services["site"].environment["HOST"], name);
        assert_eq!(after.services.remove("night-clerk").is_some(), name == "shop-17");
        before.services.remove("site");
        after.services.remove("site");
        assert_eq!(before, after);
    }
}

#[test]
fn full_is_hydrated_as_it_says() {
    let hosts = [host(1, "shop-17", &[("site", "perth")]), host(2, "shop-99", &[("site", "sydney")])];
    let slices = slices(&example("full.yaml"), &hosts);
    let json = serde_json::to_string_pretty(&slices["shop-17"]).unwrap() + "\n";
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/full.shop-17.json");
    if std::env::var_os("MOORLINE_UPDATE").is_some() {
        std::fs::write(&golden, &json).unwrap();
    }
    assert_eq!(json, std::fs::read_to_string(golden).unwrap());
    assert_ne!(version_hash(&slices["shop-17"]).unwrap(), version_hash(&slices["shop-99"]).unwrap());
}
