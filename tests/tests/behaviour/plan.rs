//! What was reviewed is what is pushed: a plan that was saved goes out exactly so, or not at all.

use moorline_tests::fleet::{Drive, text};
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;

use crate::setup::{HOST, assert_says, moorctl, services, sim_fleet};

#[test]
fn a_saved_plan_is_pushed_exactly_as_it_was_reviewed_and_an_altered_one_not() {
    let (fleet, operator) = sim_fleet("plansaved");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    let file = fleet.file("edge.yaml", services("edge", &["site", "cache"], "two")).unwrap();
    let plan = fleet.root().join("plan.json");
    let make = ["plan", "-f", text(&file).unwrap(), "--save", text(&plan).unwrap()];
    let is_fresh = || Ok(moorctl(&fleet, &["plan", "-f", text(&file).unwrap()]).text().contains("~ environment.GREETING: one → two"));
    wait_until("the report tells what there is", SOON, is_fresh).unwrap();
    let made = moorctl(&fleet, &make).expect_code(2).unwrap();
    assert_says(
        &made,
        &["+ create docker/container/edge-cache-1", "~ replace docker/container/edge-site-1", "1 to create, 1 to replace on 1 host"],
    );
    assert_says(&moorctl(&fleet, &make).expect_code(1).unwrap(), &["[already_exists]"]);

    let saved = std::fs::read_to_string(&plan).unwrap();
    let altered = fleet.file("altered.json", saved.replace("two", "six")).unwrap();
    let refused = moorctl(&fleet, &["push", "--plan", text(&altered).unwrap()]).expect_code(1).unwrap();
    assert_says(&refused, &["[plan_altered]", "nothing was pushed"]);

    // What stands in the file by now is not what was reviewed, and does not count.
    std::fs::write(&file, services("edge", &["site"], "three")).unwrap();
    moorctl(&fleet, &["push", "--plan", text(&plan).unwrap(), "--wait"]).ok().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 2).unwrap();
    let source = moorctl(&fleet, &["get", "topology", "edge"]).ok().unwrap().stdout;
    assert_eq!(source.trim_end(), services("edge", &["site", "cache"], "two").trim_end());
    let same = fleet.file("same.yaml", services("edge", &["site", "cache"], "two")).unwrap();
    let is_at_rest = || Ok(moorctl(&fleet, &["plan", "-f", text(&same).unwrap(), "--detailed-exitcode"]).code == 0);
    wait_until("nothing is left to do", SOON, is_at_rest).unwrap();
}

#[test]
fn a_plan_whose_base_moved_is_refused_with_the_difference() {
    let (fleet, operator) = sim_fleet("planmoved");
    fleet.push(&services("edge", &["site"], "one"), &["--wait"]).unwrap().ok().unwrap();
    let file = fleet.file("edge.yaml", services("edge", &["site", "mine"], "one")).unwrap();
    let plan = fleet.root().join("plan.json");
    moorctl(&fleet, &["plan", "-f", text(&file).unwrap(), "--out", text(&plan).unwrap()]).expect_code(2).unwrap();
    fleet.push(&services("edge", &["site", "theirs"], "one"), &[]).unwrap().ok().unwrap();
    let refused = moorctl(&fleet, &["push", "--plan", text(&plan).unwrap()]).expect_code(1).unwrap();
    assert_says(&refused, &["[base_moved]", "from generation 1 to 2", "make the plan anew"]);
    assert!(refused.text().lines().any(|l| l.trim_start().starts_with('+') && l.contains("theirs")), "{}", refused.text());
    assert_eq!(operator.topologies().unwrap()[0].generation, 2);
}

#[test]
fn a_plan_is_refused_when_another_host_would_get_a_slice_by_now() {
    let (mut fleet, operator) = sim_fleet("planlate");
    let yaml = services("edge", &["site"], "one").replace(&format!("  {HOST}:"), "  \"site=sydney\":");
    let file = fleet.file("edge.yaml", yaml).unwrap();
    let plan = fleet.root().join("plan.json");
    moorctl(&fleet, &["plan", "-f", text(&file).unwrap(), "--save", text(&plan).unwrap()]);
    fleet.add_host("shop-2", Drive::Sim, &["site=sydney"]).unwrap();
    let refused = moorctl(&fleet, &["push", "--plan", text(&plan).unwrap()]).expect_code(1).unwrap();
    assert_says(&refused, &["[plan_outdated]", "shop-2 was not in the plan", "nothing was pushed"]);
    assert!(operator.topologies().unwrap().is_empty());
}
