//! Several operators, and hosts that come later.

use moorline_tests::fleet::{Drive, Fleet, text};
use moorline_tests::limits::COMMAND;
use moorline_tests::process::run;

use crate::setup::{HOST, assert_says, services, sim_fleet};

/// Another operator's machine: a copy of the first one's home.
fn second_home(fleet: &Fleet) -> std::path::PathBuf {
    let home = fleet.root().join("second");
    let mut copy = std::process::Command::new("cp");
    copy.arg("-a").arg(fleet.home()).arg(&home);
    run(copy, b"", COMMAND).unwrap().ok().unwrap();
    home
}

#[test]
fn of_two_who_push_from_the_same_base_one_wins_and_the_other_is_shown_what_moved() {
    let (fleet, operator) = sim_fleet("twopush");
    fleet.push(&services("edge", &["site"], "base"), &["--wait"]).unwrap().ok().unwrap();
    let second = second_home(&fleet);
    let mine = fleet.file("mine.yaml", services("edge", &["site", "mine"], "base")).unwrap();
    let theirs = fleet.file("theirs.yaml", services("edge", &["site", "theirs"], "base")).unwrap();

    let outputs: Vec<_> = std::thread::scope(|scope| {
        let (fleet, home, second) = (&fleet, fleet.home(), &second);
        let push = |home: &std::path::Path, file: &std::path::Path| {
            let args = ["--yes", "push", "-f", text(file).unwrap()];
            run(fleet.moorctl_command_in(home, &args), b"", COMMAND).unwrap()
        };
        let first = scope.spawn(move || push(&home, &mine));
        let other = scope.spawn(move || push(second, &theirs));
        vec![first.join().unwrap(), other.join().unwrap()]
    });
    let won = outputs.iter().filter(|o| o.code == 0).count();
    assert_eq!(won, 1, "{outputs:#?}");
    let lost = outputs.iter().find(|o| o.code != 0).unwrap();
    assert_eq!(lost.code, 1);
    assert_says(lost, &["base_moved"]);
    let winner = if outputs[0].code == 0 { "mine" } else { "theirs" };
    assert!(lost.text().lines().any(|l| l.trim_start().starts_with('+') && l.contains(winner)), "no difference is shown:\n{}", lost.text());
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
}

#[test]
fn a_host_approved_after_a_push_that_names_its_label_gets_its_slice_by_itself() {
    let (mut fleet, operator) = sim_fleet("late");
    let yaml = services("edge", &["site"], "hello").replace(&format!("  {HOST}:"), "  \"site=sydney\":");
    fleet.push(&yaml, &[]).unwrap().ok().unwrap();
    assert_eq!(operator.topologies().unwrap()[0].hosts, 0);
    fleet.add_host("shop-2", Drive::Sim, &["site=sydney"]).unwrap();
    fleet.wait_converged(&operator, "shop-2", "edge", 1).unwrap();
    assert_eq!(operator.host(HOST).unwrap().target_topology, "");
}

#[test]
fn a_rollback_is_a_new_generation_with_the_old_content() {
    let (fleet, operator) = sim_fleet("rollback");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let first = fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    fleet.push(&services("edge", &["site"], "two"), &["--wait"]).unwrap().ok().unwrap();
    fleet.moorctl(&["--yes", "rollback", "edge", "--to", "1", "--wait"]).unwrap().ok().unwrap();
    let third = fleet.wait_converged(&operator, HOST, "edge", 3).unwrap();
    assert_eq!(first.target_hash, third.target_hash);
    let history = fleet.moorctl(&["-o", "json", "history", "edge"]).unwrap().ok().unwrap();
    assert!(history.json().unwrap().to_string().contains("\"generation\":3"), "{}", history.stdout);
}

#[test]
fn plan_says_what_would_change_and_diff_what_has() {
    let (fleet, operator) = sim_fleet("plan");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    let same = fleet.file("same.yaml", services("edge", &["site"], "one")).unwrap();
    let more = fleet.file("more.yaml", services("edge", &["site", "cache"], "one")).unwrap();
    fleet.moorctl(&["plan", "-f", text(&same).unwrap()]).unwrap().expect_code(0).unwrap();
    let plan = fleet.moorctl(&["plan", "-f", text(&more).unwrap()]).unwrap().expect_code(2).unwrap();
    assert_says(&plan, &[HOST, "edge-cache-1"]);
    let diff = fleet.moorctl(&["diff", "edge", "-f", text(&more).unwrap()]).unwrap();
    assert_says(&diff, &["cache"]);
}
