//! What comes in between: others who work on the same guests, rights that go away, hosts that do not say how something ended.

use moorline_common::fault::Code;
use moorline_common::observe::{GuestStatus, Owner};
use moorline_common::plan::guest::{GuestAct, GuestAction, note_key};
use moorline_pve_sim::world::faults::{CallFault, TaskFails, Wrong};
use moorline_pve_sim::world::guest::Kind;

use super::ops::{CONTAINER, MACHINE, goes_on, meant, setup};
use super::*;
use crate::driver::{DriverErrorKind, Found};

fn fault(method: &str, path: &str, next: u32, then: Wrong) -> CallFault {
    CallFault { method: Some(method.to_owned()), path: path.to_owned(), next: Some(next), then }
}

/// Somebody else calls the host with the agent's own token.
async fn by_hand(sim: &Sim, method: &str, path: &str, form: &str) -> Value {
    let request = Request {
        method: method.to_owned(),
        path: format!("/api2/json{path}"),
        authorization: Some(format!("PVEAPIToken={TOKEN}={SECRET}")),
        content_type: (!form.is_empty()).then(|| "application/x-www-form-urlencoded".to_owned()),
        body: form.as_bytes().to_vec(),
        ..Request::default()
    };
    sim.answer(request).await.unwrap().read()
}

#[tokio::test(start_paused = true)]
async fn a_burial_whose_answer_is_lost_has_happened() {
    for then in [Wrong::LoseReply, Wrong::StatusAfter(596), Wrong::Garbage] {
        let bench = Bench::new(setup(false));
        let order = meant(&bench, order(101, "destroy", json!({}), 1)).await;
        let evidence = bench.driver.prepare(&order).await.unwrap();
        bench.sim.change(|world| world.faults.calls.push(fault("PUT", "/qemu/101/config$", 1, then.clone())));
        assert_eq!(bench.driver.start(&order, &evidence).await.unwrap_err().kind, DriverErrorKind::Unreachable);
        let found = bench.driver.adopt(&order, &evidence, None, Duration::ZERO).await.unwrap();
        assert!(matches!(found, Found::Done(result) if result.fault.is_none()), "{then:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_react_to_being_told_to_stop_is_a_failure_and_no_doubt() {
    let bench = Bench::new(setup(true));
    bench.sim.change(|world| world.faults.deaf.insert(101));
    let result = bench.order(&order(101, "shutdown", json!({ "timeout_s": 5 }), 1)).await.unwrap();
    assert_eq!(result.fault.unwrap().code, Code::OpFailed);
    let stop = GuestAction {
        vmid: vmid(101),
        kind: moorline_common::pve::GuestKind::Qemu,
        topology: "edge".to_owned(),
        spec: String::new(),
        incarnation: bench.guest(101).await.incarnation,
        adopted: true,
        hidden: None,
        act: GuestAct::Shutdown { timeout_s: 5, force: false },
    };
    let error = bench.driver.apply(&stop, Tasks::nobody()).await.unwrap_err();
    assert_eq!((error.kind, error.code), (DriverErrorKind::Retryable, Code::StepFailed), "the host is not away: {error}");
    for words in ["unexpected status", "unable to read tail (got 0 bytes)", "unable to open file - No such file or directory"] {
        let failing = TaskFails { task: "qmshutdown".to_owned(), words: words.to_owned(), next: Some(1) };
        bench.sim.change(|world| world.faults.task_fails.push(failing));
        let result = bench.order(&order(101, "shutdown", json!({ "timeout_s": 5 }), 2)).await.unwrap();
        assert_eq!(result.fault.unwrap().code, Code::Indeterminate, "{words}");
    }
}

/// Where the host is away everything waits for it; what one call has come to is that guest's affair.
#[tokio::test(start_paused = true)]
async fn a_step_of_which_a_host_that_answers_does_not_say_what_it_came_to_stops_no_other() {
    for (then, kind) in [(Wrong::StatusBefore(596), DriverErrorKind::Retryable), (Wrong::LoseRequest, DriverErrorKind::Unreachable)] {
        let bench = Bench::new(setup(false));
        let desired = guests(json!({ "101": { "type": "qemu", "state": "running", "config": { "name": "db" } } }));
        let plan = bench.plan(&desired, None).await;
        bench.sim.change(|world| world.faults.calls.push(fault("POST", "/status/start$", 1, then.clone())));
        assert_eq!(bench.carry_out(&plan.steps[0].action).await.unwrap_err().kind, kind, "{then:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_while_a_task_runs_leaves_its_end_open() {
    for status in [401, 403, 400] {
        let bench = Bench::new(setup(false));
        let order = order(101, "backup", json!({ "storage": "local" }), 1);
        let evidence = bench.driver.prepare(&order).await.unwrap();
        let Begun::Task(task) = bench.driver.start(&order, &evidence).await.unwrap() else { panic!() };
        bench.sim.change(|world| world.faults.calls.push(fault("GET", "/tasks/.*/status$", 1, Wrong::StatusBefore(status))));
        let error = bench.driver.resume(&order, &evidence, &task, Taker::nobody()).await.map(drop);
        if let Err(error) = error {
            assert_eq!(error.kind, DriverErrorKind::Unreachable, "{status}: nobody knows how it ends: {error}");
            let ended = goes_on(&bench, &order, &evidence, Some(task)).await.unwrap();
            assert_eq!(ended.fault, None, "{status}");
        } else {
            assert_eq!(status, 400, "a name that the node cannot read is none of its own");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_began_on_the_same_guest_is_not_taken_for_the_operations_own() {
    for (kind, params) in [
        ("stop", json!({})),
        ("set-config", json!({ "type": "qemu", "set": { "scsi1": "local-lvm:1" } })),
        ("clone", json!({ "newid": "400" })),
    ] {
        let bench = Bench::new(setup(true));
        let order = order(101, kind, params, 1);
        let evidence = bench.driver.prepare(&order).await.unwrap();
        bench.sim.change(|world| world.faults.calls.push(fault("POST", "", 1, Wrong::LoseRequest)));
        assert!(bench.driver.start(&order, &evidence).await.is_err());
        // A step of the same agent makes guest 102 of the same one.
        assert!(by_hand(&bench.sim, "POST", "/nodes/pve-1/qemu/101/clone", "newid=102").await.is_string());
        assert_eq!(goes_on(&bench, &order, &evidence, None).await.unwrap_err(), "absent", "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_is_not_seen_any_more_is_not_taken_for_destroyed() {
    let gone = || json!({ "now": true, "stop": true, "backup_first": "local" });
    let begin = async || {
        let bench = Bench::new(setup(true));
        let order = meant(&bench, order(101, "destroy", gone(), 1)).await;
        let evidence = bench.driver.prepare(&order).await.unwrap();
        let Begun::Task(task) = bench.driver.start(&order, &evidence).await.unwrap() else { panic!() };
        (bench, order, evidence, task)
    };
    // While the backup runs the token loses its rights to it.
    let (bench, order, evidence, task) = begin().await;
    bench.sim.change(|world| world.faults.hide.insert(101));
    let error = goes_on(&bench, &order, &evidence, Some(task)).await.unwrap_err();
    assert!(!error.is_empty() && bench.sim.inspect(|world| world.guests.contains_key(&101)));

    // It gets into the care of the cluster's resource manager.
    let (bench, order, evidence, task) = begin().await;
    bench.sim.change(|world| world.setup.ha.insert(101));
    let error = goes_on(&bench, &order, &evidence, Some(task)).await.unwrap_err();
    assert!(error.contains("resource manager") && bench.sim.inspect(|world| world.guests.contains_key(&101)), "{error}");

    // It is rolled back or restored over: another content by the same UUID.
    let (bench, order, evidence, task) = begin().await;
    bench.set_by_hand(101, "vmgenid", "11111111-7d60-4c8e-8f2a-6e3c4af29b7e");
    let error = goes_on(&bench, &order, &evidence, Some(task)).await.unwrap_err();
    assert!(error.contains("another one") && bench.sim.inspect(|world| world.guests.contains_key(&101)), "{error}");

    // Somebody was quicker: then it is gone, and that is what was wanted.
    let (bench, order, evidence, task) = begin().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.sim.change(|world| world.guests.remove(&101));
    assert_eq!(goes_on(&bench, &order, &evidence, Some(task)).await.unwrap().fault, None);
}

#[tokio::test(start_paused = true)]
async fn what_was_made_and_replaced_by_another_is_neither_marked_nor_started() {
    let bench = Bench::new(setup(false));
    let order = order(101, "clone", json!({ "newid": "400" }), 1);
    let evidence = bench.driver.prepare(&order).await.unwrap();
    let Begun::Task(task) = bench.driver.start(&order, &evidence).await.unwrap() else { panic!() };
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.sim.change(|world| {
        let config = &mut world.guests.get_mut(&400).unwrap().conf;
        config.insert("description".to_owned(), "an administrator's own".to_owned());
        config.remove("tags");
    });
    let error = bench.driver.resume(&order, &evidence, &task, Taker::nobody()).await.unwrap_err();
    assert!(error.message.contains("another guest bears the number"), "{error}");
    assert!(!bench.guest(400).await.is_marked);
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_meets_another_change_is_set_nevertheless() {
    let bench = Bench::new(setup(false));
    let order = order(101, "clone", json!({ "newid": "400" }), 1);
    let evidence = bench.driver.prepare(&order).await.unwrap();
    let Begun::Task(task) = bench.driver.start(&order, &evidence).await.unwrap() else { panic!() };
    tokio::time::sleep(Duration::from_secs(60)).await;
    bench.set_by_hand(400, "tags", "");
    bench.set_by_hand(400, "lock", "backup");
    let unlock = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.sim.change(|world| world.guests.get_mut(&400).unwrap().conf.remove("lock"));
    };
    let (ended, ()) = tokio::join!(bench.driver.resume(&order, &evidence, &task, Taker::nobody()), unlock);
    assert_eq!(ended.unwrap().done().fault, None);
    assert!(bench.guest(400).await.is_marked);
}

#[tokio::test(start_paused = true)]
async fn a_description_that_an_operator_gives_is_kept() {
    let bench = Bench::new(setup(false));
    let make = order(500, "create", json!({ "type": "qemu", "config": { "name": "new", "description": "of the shop" } }), 1);
    assert_eq!(bench.order(&make).await.unwrap().fault, None);
    let said = bench.guest(500).await.config.unwrap().set["description"].clone();
    assert!(said.starts_with("of the shop\n") && said.contains(make.op_id.as_str()), "{said}");
}

/// ZFS does not tell when a volume was made.
#[tokio::test(start_paused = true)]
async fn a_container_on_zfs_is_known_again_destroyed_exactly_and_at_rest() {
    let card = |address: &str| format!("name=eth0,bridge=vmbr0,hwaddr={address},type=veth");
    let net0 = card("BC:24:11:C3:4D:0B");
    let mut config: Vec<(&str, &str)> = CONTAINER.iter().copied().filter(|(key, _)| *key != "rootfs").collect();
    config.extend([("rootfs", "tank:subvol-205-disk-0,size=4G"), ("net0", net0.as_str())]);
    let bench = Bench::new(Setup::default().with_guest(Kind::Lxc, 205, false, &config));
    let is = bench.guest(205).await.incarnation.unwrap();
    assert_eq!(is, "ct:tank:subvol-205-disk-0@mac-bc2411c34d0b");
    let order = meant(&bench, order(205, "destroy", json!({ "now": true }), 1)).await;
    bench.set_by_hand(205, "net0", &card("BC:24:11:C3:4D:0C"));
    assert_eq!(bench.order(&order).await.unwrap_err().code, Code::IncarnationChanged, "one that was made anew");
    bench.set_by_hand(205, "net0", &net0);
    assert_eq!(bench.order(&order).await.unwrap().fault, None);
    assert!(!bench.sim.inspect(|world| world.guests.contains_key(&205)));

    let template = moorline_pve_sim::setup::CONTAINER_TEMPLATE;
    let desired = guests(
        json!({ "206": { "type": "lxc", "from": { "ostemplate": template }, "config": { "hostname": "on-zfs", "rootfs": "tank:4", "net0": "name=eth0,bridge=vmbr0" } } }),
    );
    bench.settle(&desired, None).await;
    assert_eq!(bench.plan(&desired, Some(&desired)).await, Plan::default());
}

#[tokio::test(start_paused = true)]
async fn one_guest_that_cannot_be_read_keeps_the_others_from_nothing() {
    let bench = Bench::new(setup(true));
    bench.sim.change(|world| world.faults.calls.push(fault("GET", "/storage/local-lvm/content", 100, Wrong::StatusBefore(500))));
    let seen = bench.look().await.pve.unwrap().guests;
    assert!(seen[&vmid(101)].config.is_some() && seen[&vmid(205)].config.is_none(), "{seen:?}");
    assert_eq!(seen[&vmid(205)].status, GuestStatus::Running);
    bench.sim.change(|world| world.faults.calls.clear());
    assert!(bench.guest(205).await.config.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_strangers_guest_is_not_cloned() {
    let bench = Bench::new(setup(false).with_guest(Kind::Qemu, 300, false, &[("name", "theirs"), ("memory", "512")]));
    let desired = guests(json!({ "102": { "type": "qemu", "from": { "clone": "300" }, "config": { "name": "copy" } } }));
    let plan = bench.plan(&desired, None).await;
    // One of that number was Moorline's once.
    let base = "vm:11111111-7d60-4c8e-8f2a-0f6a1d6f9b7e".to_owned();
    let other =
        Owner { topology: "edge".to_owned(), resource: vmid(300).resource(), spec: String::new(), base, adopted: false, hidden: None };
    for note in [None, Some(other)] {
        if let Some(note) = note {
            bench.owned.known.note(note_key(vmid(300)), note);
        }
        let error = bench.carry_out(&plan.steps[0].action).await.unwrap_err();
        assert!(error.code == Code::NotOwned && error.message.contains("neither a template nor Moorline's"), "{error}");
    }
    assert_eq!(bench.effects(102, EffectKind::Cloned), 0);
}

#[tokio::test(start_paused = true)]
async fn only_what_still_is_what_was_destroyed_is_removed_when_its_time_is_over() {
    let buried = async || {
        let bench = Bench::new(setup(false));
        let order = meant(&bench, order(101, "destroy", json!({}), 1)).await;
        assert_eq!(bench.order(&order).await.unwrap().fault, None);
        let purge = GuestAction {
            vmid: vmid(101),
            kind: moorline_common::pve::GuestKind::Qemu,
            topology: "edge".to_owned(),
            spec: String::new(),
            incarnation: bench.guest(101).await.incarnation,
            adopted: false,
            hidden: None,
            act: GuestAct::Purge,
        };
        (bench, purge)
    };
    let is_there = |bench: &Bench| bench.sim.inspect(|world| world.guests.contains_key(&101));
    let (bench, purge) = buried().await;
    bench.driver.apply(&purge, Tasks::nobody()).await.unwrap();
    assert!(!is_there(&bench) && bench.effects(101, EffectKind::Destroyed) == 1);
    for (what, key, text) in
        [("taken out by hand", "tags", "moorline"), ("another one by now", "smbios1", "uuid=11111111-7d60-4c8e-8f2a-0f6a1d6f9b7e")]
    {
        let (bench, purge) = buried().await;
        bench.set_by_hand(101, key, text);
        assert_eq!(bench.driver.apply(&purge, Tasks::nobody()).await.unwrap_err().kind, DriverErrorKind::Conflict, "{what}");
        assert!(is_there(&bench), "{what}");
    }
    let (bench, purge) = buried().await;
    bench.sim.change(|world| world.setup.ha.insert(101));
    assert!(bench.driver.apply(&purge, Tasks::nobody()).await.unwrap_err().message.contains("resource manager"));
    let (bench, purge) = buried().await;
    assert!(by_hand(&bench.sim, "POST", "/nodes/pve-1/qemu/101/status/start", "").await.is_string());
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.driver.apply(&purge, Tasks::nobody()).await.is_err() && is_there(&bench), "it runs");
}

#[tokio::test(start_paused = true)]
async fn another_guest_of_the_same_number_is_not_touched_by_a_step_that_was_planned_before() {
    let bench = Bench::new(Setup::default().with_guest(Kind::Qemu, 101, false, MACHINE));
    let desired = guests(json!({ "101": { "type": "qemu", "state": "running", "config": { "name": "db2" } } }));
    let plan = bench.plan(&desired, None).await;
    bench.set_by_hand(101, "smbios1", "uuid=11111111-7d60-4c8e-8f2a-0f6a1d6f9b7e");
    let before = bench.changes();
    for step in &plan.steps {
        assert_eq!(bench.carry_out(&step.action).await.unwrap_err().kind, DriverErrorKind::Conflict);
    }
    assert_eq!(bench.changes(), before);
}
