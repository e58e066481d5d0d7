//! Whatever is wrong with a file is said at its line, and nothing is sent.

use moorline_tests::fleet::text;
use moorline_tests::limits::SOON;
use moorline_tests::wait::{wait_for, wait_until};

use crate::setup::{EngineFleet, HOST, assert_says, sim_fleet};

/// A file that cannot be pushed: its name, its content, and what the error must name.
fn cases() -> Vec<(&'static str, Vec<u8>, Vec<&'static str>)> {
    let service = |extra: &str| {
        format!("topology: edge\nhosts:\n  {HOST}:\n    docker:\n      services:\n        site:\n          image: a:1\n{extra}")
    };
    let mut big = service("").into_bytes();
    big.extend(std::iter::repeat_n(b'#', 10 * 1024 * 1024));
    let mut bomb = String::from("topology: edge\na: &a [x,x,x,x,x,x,x,x,x]\n");
    for pair in ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"] {
        let (one, two) = pair.split_at(1);
        bomb.push_str(&format!("{two}: &{two} [{}]\n", vec![format!("*{one}"); 9].join(",")));
    }
    let mut invalid = service("").into_bytes();
    invalid.extend(b"          hostname: \xff\xfe\n");
    let cycle = "topology: edge\nhosts:\n  shop-1:\n    docker:\n      services:\n        a: { image: \"x:1\", depends_on: [b] }\n        b: { image: \"x:1\", depends_on: [a] }\n";
    let twice = format!(
        "topology: edge\nhosts:\n  {HOST}:\n    docker: {{ services: {{ a: {{ image: \"x:1\" }} }} }}\n  \"site=here\":\n    docker: {{ services: {{ b: {{ image: \"x:1\" }} }} }}\n"
    );
    vec![
        ("unknown-key", service("          imagee: b\n").into_bytes(), vec![":8:", "imagee", "image"]),
        ("wrong-type", service("          environment: 5\n").into_bytes(), vec![":8:", "environment"]),
        ("cycle", cycle.as_bytes().to_vec(), vec!["depends_on", "a", "b"]),
        ("undefined-network", service("          networks: [nowhere]\n").into_bytes(), vec![":8:", "nowhere"]),
        ("two-entries", twice.into_bytes(), vec![HOST, "site=here"]),
        ("ten-megabytes", big, vec!["larger than"]),
        ("bomb", bomb.into_bytes(), vec![":7:", "500000 values, aliases written out"]),
        ("invalid-utf-8", invalid, vec!["UTF-8"]),
        ("tab", b"topology: edge\nhosts:\n\tshop-1: {}\n".to_vec(), vec![":3:"]),
        ("empty", Vec::new(), vec![":1:1:", "the file is empty"]),
        ("relative-path", service("          volumes: [\"./data:/data\"]\n").into_bytes(), vec![":8:"]),
    ]
}

#[test]
fn every_kind_of_bad_file_is_refused_at_its_line_and_nothing_is_sent() {
    let (fleet, operator) = sim_fleet("badinput");
    // A second name for the host, so that two entries can match it.
    let mut wrong = Vec::new();
    for (name, content, words) in cases() {
        let path = fleet.file(&format!("{name}.yaml"), content).unwrap();
        for verb in [vec!["validate", "-f"], vec!["--yes", "push", "-f"]] {
            if name == "two-entries" {
                continue;
            }
            let mut args = verb.clone();
            args.push(text(&path).unwrap());
            let output = fleet.moorctl(&args).unwrap();
            if !matches!(output.code, 1 | 64) {
                wrong.push(format!("{name}: {verb:?} ended with {}: {}", output.code, output.text()));
            }
            wrong.extend(words.iter().filter(|w| !output.text().contains(**w)).map(|w| format!("{name}: no `{w}` in: {}", output.text())));
            if output.text().contains("panicked") {
                wrong.push(format!("{name}: panicked: {}", output.text()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(operator.topologies().unwrap().len(), 0, "nothing was sent");
}

#[test]
fn two_entries_that_match_one_host_are_an_error_at_push_that_names_both() {
    use moorline_tests::fleet::{Drive, Fleet};
    let mut fleet = Fleet::start("twoentries").unwrap();
    fleet.add_host(HOST, Drive::Sim, &["site=here"]).unwrap();
    let (_, content, words) = cases().into_iter().find(|(name, _, _)| *name == "two-entries").unwrap();
    let path = fleet.file("two.yaml", content).unwrap();
    let output = fleet.moorctl(&["--yes", "push", "-f", text(&path).unwrap()]).unwrap();
    assert!(matches!(output.code, 1 | 64), "{}", output.text());
    assert_says(&output, &words);
    assert_eq!(fleet.operator().unwrap().topologies().unwrap().len(), 0);
}

#[test]
fn an_image_that_cannot_be_had_fails_alone_and_its_dependants_say_why() {
    let Some(t) = EngineFleet::start("noimage") else { return };
    let topology = t.topology();
    let yaml = format!(
        "topology: {topology}\nhosts:\n  {HOST}:\n    docker:\n      services:\n        good: {{ image: \"{}\" }}\n        \
         missing: {{ image: \"localhost:1/nowhere:1\" }}\n        dependant: {{ image: \"{}\", depends_on: [missing] }}\n",
        moorline_tests::image::IMAGE,
        moorline_tests::image::IMAGE
    );
    t.fleet.push(&yaml, &[]).unwrap().ok().unwrap();
    let error = wait_for("the host's error is visible", SOON, || Ok(t.operator.host(HOST)?.last_error)).unwrap();
    assert_eq!(error.code, "image_unavailable", "{error:?}");
    wait_until("the rest is applied", SOON, || Ok(t.engine.running(&topology)? == [format!("{topology}-good-1")].into_iter().collect()))
        .unwrap();
    let status = t.fleet.moorctl(&["status"]).unwrap().ok().unwrap();
    assert_says(&status, &["image_unavailable", "localhost:1/nowhere:1"]);
    // While the image is tried again, nothing is skipped.
    wait_until("the dependant is skipped and says why", SOON, || {
        let report = t.fleet.moorctl(&["get", "report", HOST, "-o", "json"])?.ok()?.text();
        Ok(report.contains("dependency_failed") && report.contains("-missing-1"))
    })
    .unwrap();
    let local = t.fleet.agent(HOST, &["status"]).unwrap();
    assert_says(&local, &["image_unavailable"]);
}
