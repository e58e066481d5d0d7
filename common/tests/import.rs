//! Every Compose file `import/NAME.yml` becomes what stands in `import/NAME.out`: a topology that is read, or the words that refuse it.
//!
//! `MOORLINE_UPDATE=1 cargo test -p moorline-common --test import` writes them anew; read the difference before committing it.
#![allow(clippy::unwrap_used)] // A panic here is a failed test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use moorline_common::id::{HostId, HostName};
use moorline_common::topology::import::{Import, Imported, compose};
use moorline_common::topology::{BoundHost, Inputs, Problem, read, render_all};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// What the machine of the import has.
fn inputs() -> Inputs {
    let names = ["common.compose.yml", "base.env", "web.env"];
    let variables = BTreeMap::from([("API_TAG".to_owned(), "5".to_owned()), ("C".to_owned(), "sea".to_owned())]);
    Inputs { variables, files: names.iter().map(|name| ((*name).to_owned(), text(name))).collect(), ..Inputs::default() }
}

fn import(files: &[&str], bind_root: Option<&str>, way: &str, inputs: &Inputs) -> Imported {
    let files: Vec<(String, String)> = files.iter().map(|name| ((*name).to_owned(), text(name))).collect();
    let host = HostName::parse("shop-1").unwrap();
    compose(&Import { files: &files, host: &host, topology: None, fallback: "Imported", way, bind_root }, inputs)
}

fn told(problems: &[Problem], what: &str) -> String {
    problems.iter().map(|p| p.render_as("topology.yaml", what) + "\n").collect()
}

#[test]
fn compose_files_become_topologies_or_are_refused_with_all_that_is_in_the_way() {
    let update = std::env::var_os("MOORLINE_UPDATE").is_some();
    let mut names: Vec<String> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".yml") && name.matches('.').count() == 1);
    names.sort();
    assert!(names.len() >= 12);
    let (mut differing, mut made) = (String::new(), 0);
    for name in names {
        let more = name.replace(".yml", ".override.yml");
        let files: Vec<&str> = [name.as_str(), more.as_str()].into_iter().filter(|f| folder().join(f).exists()).collect();
        let root = (name == "bound.yml").then_some("/srv/moorline/shop");
        let imported = import(&files, root, "", &inputs());
        let got = match &imported.text {
            Ok(text) => {
                made += 1;
                // Whatever it takes, it is a topology: with all variables set, it is read and sliced.
                let mut all = inputs();
                all.variables.extend(imported.asked.variables.iter().map(|name| (name.clone(), "1".to_owned())));
                all.files.extend(
                    imported
                        .asked
                        .files
                        .iter()
                        .filter(|f| !all.files.contains_key(*f))
                        .map(|f| (f.clone(), String::new()))
                        .collect::<Vec<_>>(),
                );
                let file = read(text.as_bytes(), &all).file.unwrap_or_else(|problems| panic!("{}\n{text}", render_all(&problems, &name)));
                let host =
                    BoundHost { host_id: HostId::of_key(&[1; 32]), name: HostName::parse("shop-1").unwrap(), labels: BTreeMap::new() };
                let slices = file.slice(&[host]).unwrap_or_else(|problems| panic!("{}\n{text}", render_all(&problems, &name)));
                assert!(!slices.hosts.into_values().next().unwrap().is_empty());
                format!("{text}---\n{}", told(&imported.notes, "note"))
            }
            Err(problems) => told(problems, "error"),
        };
        let golden = folder().join(name.replace(".yml", ".out"));
        if update {
            std::fs::write(&golden, &got).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if got != expected {
            differing.push_str(&format!("--- {name}: expected\n{expected}+++ got\n{got}"));
        }
    }
    assert!(differing.is_empty(), "{differing}");
    assert!(made >= 7, "{made}");
}

#[test]
fn paths_follow_the_topology_to_another_folder() {
    let moved =
        Inputs { files: inputs().files.into_iter().map(|(path, content)| (format!("compose/{path}"), content)).collect(), ..inputs() };
    let imported = import(&["files.yml"], None, "compose", &moved);
    let text = imported.text.unwrap();
    for path in ["compose/common.compose.yml", "compose/web.env", "compose/missing.env", "compose/none.env"] {
        assert!(text.contains(path), "{path}\n{text}");
        assert!(imported.asked.files.contains(path), "{path}: {:?}", imported.asked);
    }
    assert!(imported.asked.files.contains("compose/base.env"));
    let imported = import(&["sealed.yml"], None, "compose", &moved);
    let text = imported.text.unwrap();
    assert!(text.contains("file: compose/secrets/password.txt") && text.contains("file: settings.conf"), "{text}");
    assert!(imported.asked.files.is_empty() && !imported.asked.variables.contains("API_TOKEN"), "their values are for whoever pushes");
}
