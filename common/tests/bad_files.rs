//! Every `bad/NAME.yaml` is refused with exactly the words of `bad/NAME.err`.
//!
//! `MOORLINE_UPDATE=1 cargo test -p moorline-common --test bad_files` writes the words anew; read the
//! difference before committing it.
#![allow(clippy::unwrap_used)] // A panic here is a failed test.

use std::path::PathBuf;

use moorline_common::id::{HostId, HostName};
use moorline_common::topology::limits::{PROBLEMS_MAX, TOPOLOGY_FILE_MAX};
use moorline_common::topology::{self, BoundHost};

fn host(seed: u8, name: &str, labels: &[(&str, &str)]) -> BoundHost {
    BoundHost {
        host_id: HostId::of_key(&[seed; 32]),
        name: HostName::parse(name).unwrap(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn refusal(bytes: &[u8], name: &str) -> String {
    let hosts = [host(1, "shop-17", &[("site", "sydney"), ("rack", "a1")]), host(2, "shop-18", &[("site", "sydney")])];
    match topology::load_bytes(bytes).and_then(|file| file.slice(&hosts)) {
        Err(problems) => {
            assert!(problems.len() <= PROBLEMS_MAX + 1);
            topology::render_all(&problems, name)
        }
        Ok(_) => panic!("{name} is accepted"),
    }
}

#[test]
fn bad_files_are_refused_with_the_words_written_beside_them() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let update = std::env::var_os("MOORLINE_UPDATE").is_some();
    let mut differing = String::new();
    let mut names: Vec<String> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    for name in names.iter().filter(|n| n.ends_with(".yaml")) {
        let got = refusal(&std::fs::read(folder.join(name)).unwrap(), name);
        let golden = folder.join(name.replace(".yaml", ".err"));
        if update {
            std::fs::write(&golden, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if got != expected {
            differing.push_str(&format!("--- {name}: expected\n{expected}+++ got\n{got}"));
        }
    }
    assert!(differing.is_empty(), "{differing}");
}

#[test]
fn a_file_over_the_limit_is_refused_without_being_read() {
    let mut text = b"topology: edge\nhosts: {}\n".to_vec();
    text.resize(10 * 1024 * 1024, b'#');
    assert_eq!(refusal(&text, "big.yaml"), "big.yaml:1:1: error: the file is larger than 4 MiB\n    help: split the topology\n");
}

#[test]
fn a_large_file_of_nonsense_is_refused_with_few_words() {
    let text = "a: [\n".repeat(TOPOLOGY_FILE_MAX / 5 - 1);
    assert!(refusal(text.as_bytes(), "nonsense.yaml").len() < 1000);
    let text: String = (0..200_000).map(|n| format!("k{n}: 1\n")).collect();
    assert!(refusal(text.as_bytes(), "nonsense.yaml").contains("or more other problems"));
}
