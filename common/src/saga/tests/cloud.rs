//! Which acts in a cloud a plan may have.

use super::*;
use crate::op::Class;
use crate::saga::{CloudAct, CloudDroplet, CloudWork, DropletRef, NewHost};

fn in_cloud(work: CloudWork) -> Task {
    Task { act: Act::Cloud(CloudAct { cloud: "digitalocean".to_owned(), work }), attempts: 3, backoff_s: 10, timeout_s: 600 }
}

fn made() -> DropletRef {
    DropletRef::MadeBy("create".to_owned())
}

fn create(name: &str) -> CloudWork {
    let [region, size, image] = ["fra1", "s-1", "debian-12-x64"].map(str::to_owned);
    CloudWork::CreateDroplet(Box::new(CloudDroplet { name: name.to_owned(), region, size, image, ..CloudDroplet::default() }))
}

fn row(steps: Vec<(&str, CloudWork, Option<CloudWork>)>) -> Plan {
    let numbered = steps.into_iter().enumerate();
    let steps = numbered.map(|(number, (name, run, undo))| Step {
        name: name.to_owned(),
        group: u32::try_from(number).unwrap(),
        run: in_cloud(run),
        undo: undo.map(in_cloud),
        irreversible: false,
        when: Vec::new(),
    });
    plan(steps.collect())
}

fn good() -> Plan {
    row(vec![
        ("create", create("web-1"), Some(CloudWork::Unmake)),
        ("active", CloudWork::WaitActive { droplet: made() }, None),
        ("register", CloudWork::Register { droplet: made(), spec: [("size".to_owned(), json!("s-1"))].into() }, Some(CloudWork::Unmake)),
        ("resize", CloudWork::Resize { droplet: made(), size: "s-2".to_owned(), disk: false }, None),
    ])
}

fn work(plan: &mut Plan, step: usize) -> &mut CloudWork {
    match &mut plan.steps[step].run.act {
        Act::Cloud(act) => &mut act.work,
        Act::Host(_) | Act::Hub(_) => panic!("no act in a cloud"),
    }
}

#[test]
fn a_plan_of_a_droplet_is_good_and_tells_what_it_does() {
    let plan = good();
    plan.check().unwrap();
    let words: Vec<String> = plan.tasks().map(|(_, _, task)| task.act.words()).collect();
    assert_eq!(words[0], "make droplet `web-1` at digitalocean (s-1 in fra1, image debian-12-x64)");
    assert_eq!(words[2], "wait until the droplet that `create` makes is active");
    assert_eq!(words[3], "register the droplet that `create` makes with size s-1");
}

#[test]
fn what_cannot_be_done_in_a_cloud_is_told_before_it_is_signed() {
    type Spoil = fn(&mut Plan);
    let bad: &[(Spoil, &str)] = &[
        (|p| *work(p, 0) = create(" "), "step 1 (`create`, do): a droplet needs name"),
        (|p| *work(p, 1) = CloudWork::WaitActive { droplet: DropletRef::MadeBy("register".to_owned()) }, "`register` is no earlier step"),
        (|p| *work(p, 1) = CloudWork::WaitActive { droplet: DropletRef::MadeBy("resize".to_owned()) }, "`resize` is no earlier step"),
        (|p| *work(p, 3) = CloudWork::Unmake, "`unmake` undoes a step"),
        (|p| p.steps[3].undo = Some(in_cloud(CloudWork::Unmake)), "`unmake` undoes a step"),
        (|p| *work(p, 3) = CloudWork::Destroy { droplet: made() }, "this cannot be undone"),
        (|p| *work(p, 3) = CloudWork::DeleteSnapshot { snapshot: 1 }, "this cannot be undone"),
        (|p| *work(p, 3) = CloudWork::Resize { droplet: made(), size: "s-2".to_owned(), disk: true }, "this cannot be undone"),
        (|p| *work(p, 3) = CloudWork::Snapshot { droplet: made(), name: "before".to_owned() }, "does not bear the saga's id"),
        (
            |p| {
                let Act::Cloud(act) = &mut p.steps[0].run.act else { return };
                act.cloud = "Digital Ocean".to_owned();
            },
            "`Digital Ocean` is no name of a cloud",
        ),
        (
            |p| {
                let CloudWork::CreateDroplet(new) = work(p, 0) else { return };
                new.boot = Some("no hash".to_owned());
            },
            "named by its hash",
        ),
        (
            |p| {
                let host = NewHost { host: host("web-1"), token: "short".to_owned(), converged: false };
                p.steps[3].run.act = Act::Hub(HubAct::Joined(host));
            },
            "a token's id",
        ),
    ];
    for (spoil, says) in bad {
        let mut plan = good();
        spoil(&mut plan);
        let told = plan.check().unwrap_err();
        assert!(told.code == Code::BadSaga && told.message.contains(says), "`{says}` in {told}");
    }
}

#[test]
fn the_class_of_what_is_done_in_a_cloud_is_that_of_the_same_on_a_host() {
    let class = |work| match in_cloud(work).act {
        Act::Cloud(act) => act.class(),
        Act::Host(_) | Act::Hub(_) => panic!("no act in a cloud"),
    };
    assert_eq!(class(create("web-1")), Class::R2);
    assert_eq!(class(CloudWork::Resize { droplet: made(), size: "s".to_owned(), disk: false }), Class::R3);
    assert_eq!(class(CloudWork::Resize { droplet: made(), size: "s".to_owned(), disk: true }), Class::R4);
    assert_eq!(class(CloudWork::Destroy { droplet: made() }), Class::R4);
    assert_eq!(class(CloudWork::DeleteSnapshot { snapshot: 1 }), Class::R4);
}

#[test]
fn what_a_host_does_after_a_cloud_is_at_most_reversible() {
    let mut steps = good().steps;
    steps.push(Step { group: 4, ..step("use", 0, "a") });
    let mut plan = plan(steps);
    plan.check().unwrap();
    let Act::Host(act) = &mut plan.steps[4].run.act else { panic!("a host's") };
    act.kind = "destroy".to_owned();
    assert!(plan.check().unwrap_err().message.contains("the hub's word is not enough"));
}
