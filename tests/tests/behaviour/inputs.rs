//! What a topology takes from the machine that it is pushed from goes with it, and nothing of another machine comes in its place.

use moorline_tests::fleet::{Drive, Fleet, text};
use moorline_tests::image::IMAGE;
use moorline_tests::limits::COMMAND;
use moorline_tests::process::{Output, run};

use crate::setup::{HOST, assert_says, sim_fleet};

/// A topology that takes variables, a file of variables and a Compose file, for every host of one site.
fn topology(hosts: &str) -> String {
    format!(
        "topology: edge\nprofiles:\n  web:\n    docker:\n      services:\n        site:\n          extends: {{ file: common/web.yml, service: web }}\n          \
         env_file: site.env\n          environment: {{ GREETING: \"${{GREETING}}\", DB_PASSWORD: \"${{PASSWORD:-none-given}}\" }}\n\
         hosts:\n{hosts}"
    )
}

fn moorctl(fleet: &Fleet, home: &std::path::Path, environment: &[(&str, &str)], args: &[&str]) -> anyhow::Result<Output> {
    let mut command = fleet.moorctl_command_in(home, args);
    command.envs(environment.iter().copied());
    run(command, b"", COMMAND)
}

#[test]
fn a_late_host_gets_what_the_push_took_from_another_machine() {
    let (mut fleet, operator) = sim_fleet("inputs");
    std::fs::create_dir(fleet.root().join("common")).unwrap();
    fleet.file("common/web.yml", format!("services: {{ web: {{ image: \"{IMAGE}\", env_file: web.env }} }}\n")).unwrap();
    fleet.file("common/web.env", "FROM=the file beside it, $WORDS\n").unwrap();
    fleet.file("site.env", "SITE=${GREETING}!\n").unwrap();
    fleet.file(".env", "WORDS=words\nGREETING=the file's\n").unwrap();
    let file = fleet.file("edge.yaml", topology(&format!("  {HOST}: {{ use: [web] }}\n  \"site=sydney\": {{ use: [web] }}\n"))).unwrap();
    let file = text(&file).unwrap();

    let environment = [("GREETING", "hello"), ("PASSWORD", "hunter2-marked")];
    let pushed = moorctl(&fleet, &fleet.home(), &environment, &["--yes", "push", "-f", file, "--wait"]).unwrap().ok().unwrap();
    assert_says(&pushed, &["looks like a credential", "DB_PASSWORD", "secrets"]);
    assert!(!pushed.text().contains("hunter2-marked"), "{}", pushed.text());
    let first = fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();

    let token = fleet.token("shop-2", &["--label", "site=sydney"]).unwrap();
    fleet.join("shop-2", &Drive::Sim, &token).unwrap().ok().unwrap();
    fleet.adopt_host("shop-2", Drive::Sim);
    fleet.start_agent("shop-2").unwrap();
    // Another operator's machine has neither the files nor the variables, and has others of the same names.
    let second = fleet.root().join("second");
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(fleet.home()).arg(&second);
    run(copy, b"", COMMAND).unwrap().ok().unwrap();
    for gone in ["common/web.yml", "common/web.env", "site.env"] {
        std::fs::remove_file(fleet.root().join(gone)).unwrap();
    }
    std::fs::write(fleet.root().join(".env"), "GREETING=another\nWORDS=others\n").unwrap();
    let others = [("GREETING", "another"), ("WORDS", "others")];
    moorctl(&fleet, &second, &others, &["--yes", "host", "approve", "shop-2"]).unwrap().ok().unwrap();
    let late = fleet.wait_converged(&operator, "shop-2", "edge", 1).unwrap();
    assert_eq!(late.target_hash, first.target_hash);
    let slice = moorctl(&fleet, &second, &others, &["get", "slice", "shop-2"]).unwrap().ok().unwrap();
    assert_says(&slice, &["GREETING: hello", "SITE: hello!", "the file beside it, words"]);

    // There, the same file lacks what it takes; and a rollback needs nothing of it.
    let lacking = moorctl(&fleet, &second, &others, &["validate", "-f", file]).unwrap();
    assert_eq!(lacking.code, 1);
    assert_says(&lacking, &["the file `common/web.yml` is not there"]);
    moorctl(&fleet, &fleet.home(), &[], &["--yes", "down", "edge", "--wait"]).unwrap().ok().unwrap();
    moorctl(&fleet, &second, &others, &["--yes", "rollback", "edge", "--to", "1", "--wait"]).unwrap().ok().unwrap();
    let back = fleet.wait_converged(&operator, HOST, "edge", 3).unwrap();
    assert_eq!(back.target_hash, first.target_hash);
}

#[test]
fn another_value_of_a_variable_is_another_revision_and_the_difference_says_so() {
    let (fleet, operator) = sim_fleet("revalue");
    std::fs::create_dir(fleet.root().join("common")).unwrap();
    fleet.file("common/web.yml", format!("services: {{ web: {{ image: \"{IMAGE}\" }} }}\n")).unwrap();
    fleet.file("site.env", "").unwrap();
    let file = fleet.file("edge.yaml", topology(&format!("  {HOST}: {{ use: [web] }}\n"))).unwrap();
    let file = text(&file).unwrap();
    let push = |greeting: &str| {
        moorctl(&fleet, &fleet.home(), &[("GREETING", greeting)], &["--yes", "push", "-f", file, "--wait"]).unwrap().ok().unwrap()
    };
    push("hello");
    push("hello");
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    push("good evening");
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    let diff = fleet.moorctl(&["diff", "edge", "1..2"]).unwrap().ok().unwrap();
    assert_says(&diff, &["-# variable GREETING=\"hello\"", "+# variable GREETING=\"good evening\""]);
    let unset = moorctl(&fleet, &fleet.home(), &[], &["--yes", "push", "-f", file]).unwrap();
    assert_eq!(unset.code, 1);
    assert_says(&unset, &["the variable `GREETING` is not set", "bad_topology"]);
    assert_eq!(operator.host(HOST).unwrap().target_generation, 2);
}
