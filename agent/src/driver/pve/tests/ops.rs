//! Operations.

use moorline_common::fault::Code;
use moorline_common::observe::GuestStatus;
use moorline_common::pve::GuestKind;
use moorline_pve_sim::world::faults::{CallFault, TaskFails, WorkerFault, Wrong};
use moorline_pve_sim::world::guest::Kind;

use super::super::client::{GuestAt, Verb, params};
use super::*;
use crate::driver::{DriverErrorKind, Found};

pub const MACHINE: &[(&str, &str)] = &[
    ("name", "db"),
    ("memory", "512"),
    ("tags", "moorline"),
    ("scsi0", "local-lvm:vm-101-disk-0,size=8G"),
    ("smbios1", "uuid=6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e"),
    ("vmgenid", "0f6a1d6f-7d60-4c8e-8f2a-6e3c4af29b7e"),
];
pub(super) const CONTAINER: &[(&str, &str)] = &[
    ("hostname", "cache"),
    ("memory", "256"),
    ("tags", "moorline"),
    ("rootfs", "local-lvm:vm-205-disk-0,size=4G"),
    ("ostype", "debian"),
    ("arch", "amd64"),
];

pub fn setup(running: bool) -> Setup {
    Setup::two_nodes().with_guest(Kind::Qemu, 101, running, MACHINE).with_guest(Kind::Lxc, 205, running, CONTAINER)
}

pub(super) async fn meant(bench: &Bench, mut order: OpOrder) -> OpOrder {
    let guests = bench.look().await.pve.unwrap().guests;
    order.incarnation = Vmid::of(&order.resource).and_then(|vmid| guests.get(&vmid)?.incarnation.clone());
    order
}

#[tokio::test(start_paused = true)]
async fn every_kind_does_what_it_says_on_machines_and_on_containers() {
    for number in [101, 205] {
        let bench = Bench::new(setup(false));
        let mut at = 0;
        let is_machine = number == 101;
        for (kind, params, status) in [
            ("start", json!({}), GuestStatus::Running),
            ("reboot", json!({ "timeout_s": 60 }), GuestStatus::Running),
            ("snapshot-create", json!({ "name": "before" }), GuestStatus::Running),
            ("snapshot-list", json!({}), GuestStatus::Running),
            (
                "set-config",
                json!({ "type": if is_machine { "qemu" } else { "lxc" }, "set": { "description": "x" }, "delete": ["onboot"] }),
                GuestStatus::Running,
            ),
            ("resize", json!({ "disk": if is_machine { "scsi0" } else { "rootfs" }, "size": "9G" }), GuestStatus::Running),
            ("backup", json!({ "storage": "local", "notes": "nightly" }), GuestStatus::Running),
            ("shutdown", json!({ "timeout_s": 60 }), GuestStatus::Stopped),
            ("snapshot-rollback", json!({ "name": "before" }), GuestStatus::Stopped),
            ("start", json!({}), GuestStatus::Running),
            ("stop", json!({}), GuestStatus::Stopped),
            ("snapshot-delete", json!({ "name": "before" }), GuestStatus::Stopped),
            ("clone", json!({ "newid": "400", "full": true }), GuestStatus::Stopped),
        ] {
            at += 1;
            let order = meant(&bench, order(number, kind, params, at)).await;
            let result = bench.order(&order).await.unwrap_or_else(|e| panic!("{number} {kind}: {e:?}"));
            assert_eq!(result.fault, None, "{number} {kind}");
            assert_eq!(bench.guest(number).await.status, status, "{number} {kind}");
            match kind {
                "backup" => assert!(
                    result.result["archive"]
                        .as_str()
                        .unwrap()
                        .contains(&format!("vzdump-{}", if is_machine { "qemu-101" } else { "lxc-205" })),
                    "{result:?}"
                ),
                "snapshot-list" => assert_eq!(result.result["snapshots"].as_object().unwrap().keys().collect::<Vec<_>>(), ["before"]),
                "clone" => assert!(bench.guest(400).await.is_marked && result.result["vmid"] == "400"),
                _ => {}
            }
        }
        assert_eq!(bench.sim.inspect(|world| world.wrong.clone()), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn machines_alone_are_frozen_reset_and_moved_while_they_run() {
    let bench = Bench::new(setup(true));
    for (at, (kind, params, status)) in [
        ("suspend", json!({}), GuestStatus::Paused),
        ("resume", json!({}), GuestStatus::Running),
        ("reset", json!({}), GuestStatus::Running),
        ("snapshot-create", json!({ "memory": true }), GuestStatus::Running),
    ]
    .into_iter()
    .enumerate()
    {
        let result = bench.order(&order(101, kind, params, u32::try_from(at).unwrap())).await.unwrap();
        assert_eq!((result.fault, bench.guest(101).await.status), (None, status), "{kind}");
    }
    let refused = bench.order(&order(205, "reset", json!({}), 9)).await.unwrap_err();
    assert!(refused.message.contains("a container has no `reset`"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_guest_is_made_restored_and_destroyed() {
    let bench = Bench::new(setup(false));
    let make = order(500, "create", json!({ "type": "qemu", "config": { "name": "new", "scsi0": "local-lvm:1" }, "start": true }), 1);
    assert_eq!(bench.order(&make).await.unwrap().fault, None);
    let made = bench.guest(500).await;
    assert!(made.is_marked && made.status == GuestStatus::Running, "{made:?}");
    let dumped = bench.order(&order(101, "backup", json!({ "storage": "local" }), 2)).await.unwrap();
    let archive = dumped.result["archive"].clone();
    let restored = bench.order(&order(600, "restore", json!({ "type": "qemu", "archive": archive, "unique": true }), 3)).await.unwrap();
    assert_eq!(restored.fault, None);
    assert!(bench.guest(600).await.is_marked);
    let gone =
        meant(&bench, order(500, "destroy", json!({ "now": true, "stop": true, "backup_first": "local", "snapshot_first": true }), 4))
            .await;
    let result = bench.order(&gone).await.unwrap();
    assert_eq!(result.fault, None, "{result:?}");
    assert!(!bench.look().await.pve.unwrap().guests.contains_key(&vmid(500)));
    assert!(result.result["archive"].as_str().unwrap().contains("vzdump-qemu-500"));
    let kept = meant(&bench, order(101, "destroy", json!({}), 5)).await;
    assert_eq!(bench.order(&kept).await.unwrap().fault, None);
    let buried = bench.guest(101).await;
    let config = &buried.config.as_ref().unwrap().set;
    assert_eq!((config["name"].as_str(), config["protection"].as_str()), ("deleted-db", "1"));
    assert!(moorline_common::plan::guest::is_buried(&buried, buried.lasting().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn mistakes_are_refused_and_change_nothing() {
    let bench = Bench::new(setup(true).with_guest(Kind::Qemu, 300, false, &[("name", "theirs"), ("memory", "512")]));
    let exact = |number: u32, kind: &'static str, params: Value| meant(&bench, order(number, kind, params, 1));
    let wrong = OpOrder {
        incarnation: Some("vm:6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e:-".to_owned()),
        ..order(101, "destroy", json!({ "stop": true }), 1)
    };
    let archive = |of: u32| json!({ "type": "qemu", "archive": format!("local:backup/vzdump-qemu-{of}-2026_11_23-10_00_00.vma.zst") });
    for (order, code, says) in [
        (exact(101, "destroy", json!({})).await, Code::PreconditionFailed, "it runs"),
        (order(101, "destroy", json!({ "stop": true }), 1), Code::BadParams, "which one"),
        (wrong, Code::IncarnationChanged, "the order is for"),
        (exact(300, "destroy", json!({})).await, Code::NotOwned, "did not make it"),
        (exact(101, "snapshot-rollback", json!({ "name": "none" })).await, Code::NoSnapshot, "no snapshot `none`"),
        (exact(101, "snapshot-delete", json!({ "name": "none" })).await, Code::NotFound, "no snapshot `none`"),
        (exact(101, "set-config", json!({ "type": "lxc", "set": { "memory": "512" } })).await, Code::PreconditionFailed, "type qemu"),
        (
            exact(101, "set-config", json!({ "type": "qemu", "set": { "memory": "1024" }, "digest": "abc" })).await,
            Code::PreconditionFailed,
            "was changed",
        ),
        (
            exact(101, "set-config", json!({ "type": "qemu", "set": { "scsi1": "local-lvm:vm-300-disk-0" } })).await,
            Code::NotOwned,
            "a disk of guest 300",
        ),
        (exact(101, "resize", json!({ "disk": "scsi0", "size": "1G" })).await, Code::OpFailed, "never shrinks"),
        (exact(101, "set-config", json!({ "type": "qemu", "set": { "scsi0": "local-lvm:16" } })).await, Code::OpFailed, "order `resize`"),
        (exact(999, "start", json!({})).await, Code::NotFound, "no guest 999"),
        (order(205, "create", json!({ "type": "qemu" }), 1), Code::AlreadyExists, "there already"),
        (order(600, "restore", archive(300), 1), Code::NotOwned, "of guest 300, which is not Moorline's"),
        (order(600, "restore", archive(301), 1), Code::NotOwned, "of guest 301"),
    ] {
        let before = bench.changes();
        let refused = bench.order(&order).await.unwrap_err();
        assert!(refused.code == code && refused.message.contains(says), "{}: {refused:?}", order.act.kind());
        assert_eq!(bench.changes(), before);
    }
    bench.set_by_hand(101, "protection", "1");
    let refused = bench.order(&exact(101, "destroy", json!({ "stop": true })).await).await.unwrap_err();
    assert!(refused.message.contains("protected"), "{refused}");
    bench.set_by_hand(101, "protection", "0");
    bench.sim.change(|world| world.setup.ha.insert(101));
    let refused = bench.order(&exact(101, "destroy", json!({ "stop": true })).await).await.unwrap_err();
    assert!(refused.message.contains("resource manager"), "{refused}");
    bench.sim.change(|world| world.setup.ha.clear());
    bench.set_by_hand(101, "lock", "backup");
    let refused = bench.order(&exact(101, "stop", json!({})).await).await.unwrap_err();
    assert!(refused.message.contains("locked (backup)"), "{refused}");
}

/// Goes on with an operation whose beginning was cut off, as the agent does: by what is found of it.
pub(super) async fn goes_on(bench: &Bench, order: &OpOrder, evidence: &Value, task: Option<String>) -> Result<OpResult, String> {
    let mut task = task;
    let mut age = Duration::ZERO;
    for _ in 0..400 {
        match bench.driver.adopt(order, evidence, task.as_deref(), age).await {
            Ok(Found::Done(result)) => return Ok(result),
            Ok(Found::Task(found)) => match bench.driver.resume(order, evidence, &found, Taker::nobody()).await {
                Ok(Begun::Done(result)) => return Ok(result),
                Ok(Begun::Task(next)) => task = Some(next),
                Err(error) if error.kind == DriverErrorKind::Unreachable => task = Some(found),
                Err(error) => return Err(error.message),
            },
            Ok(Found::NotYet(wait)) => {
                tokio::time::sleep(wait).await;
                age += wait;
            }
            Ok(Found::Absent) => return Err("absent".to_owned()),
            Ok(other) => return Err(format!("{other:?}")),
            Err(error) if error.kind == DriverErrorKind::Unreachable => tokio::time::sleep(Duration::from_secs(1)).await,
            Err(error) => return Err(error.message),
        }
    }
    Err("no end".to_owned())
}

#[tokio::test(start_paused = true)]
async fn what_was_begun_is_found_again_whatever_was_lost_and_is_never_begun_twice() {
    let cases = [
        ("start", json!({}), false, EffectKind::Started),
        ("stop", json!({}), true, EffectKind::Stopped),
        ("snapshot-create", json!({}), false, EffectKind::SnapshotMade),
        ("clone", json!({ "newid": "400" }), false, EffectKind::Cloned),
        ("set-config", json!({ "type": "qemu", "set": { "description": "x" } }), false, EffectKind::ConfigSet),
        ("backup", json!({ "storage": "local" }), false, EffectKind::BackedUp),
    ];
    for (kind, params, running, effect) in cases {
        for then in [Wrong::LoseReply, Wrong::StatusAfter(596), Wrong::LoseRequest, Wrong::StatusBefore(596), Wrong::Hang, Wrong::Garbage] {
            let bench = Bench::new(setup(running));
            let fault = CallFault { method: Some("POST".to_owned()), path: String::new(), next: Some(1), then: then.clone() };
            bench.sim.change(|world| world.faults.calls.push(fault));
            let order = order(101, kind, params.clone(), 7);
            let evidence = bench.driver.prepare(&order).await.unwrap();
            let begun = bench.driver.start(&order, &evidence).await;
            assert!(begun.as_ref().is_err_and(|e| e.kind == DriverErrorKind::Unreachable), "{kind} {then:?}: {begun:?}");
            let next = Bench::on(bench.sim.clone(), Arc::default());
            let ended = goes_on(&next, &order, &evidence, None).await;
            let happened = !matches!(then, Wrong::LoseRequest | Wrong::StatusBefore(_));
            match ended {
                Ok(result) => assert!(happened && result.fault.is_none(), "{kind} {then:?}: {result:?}"),
                Err(why) => assert!(!happened && why == "absent", "{kind} {then:?}: {why}"),
            }
            let on = if kind == "clone" { 400 } else { 101 };
            let times = next.sim.inspect(|world| {
                let same = |e: &&moorline_pve_sim::world::effects::Effect| {
                    e.vmid == on && e.kind == effect && (kind != "set-config" || e.what == "description")
                };
                world.effects.iter().filter(same).count()
            });
            assert_eq!(times, usize::from(happened), "{kind} {then:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_dies_leaves_the_operation_in_doubt() {
    let bench = Bench::new(setup(false));
    bench
        .sim
        .change(|world| world.faults.worker_dies.push(WorkerFault { task: "qmsnapshot".to_owned(), after_effect: false, next: Some(1) }));
    let result = bench.order(&order(101, "snapshot-create", json!({}), 1)).await.unwrap();
    assert_eq!(result.fault.unwrap().code, Code::Indeterminate);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_in_part_is_not_told_as_one_that_did_nothing() {
    for (number, set, is_noted) in [
        (205, json!({ "type": "lxc", "set": { "hostname": "other", "mp0": "local-lvm:1,mp=/data" } }), true),
        (101, json!({ "type": "qemu", "set": { "name": "other", "scsi1": "local-lvm:1" } }), true),
        (101, json!({ "type": "qemu", "set": { "scsi1": "local-lvm:1" } }), false),
    ] {
        let bench = Bench::new(setup(true));
        bench.sim.change(|world| world.faults.storage_full = ["local-lvm".to_owned()].into());
        let file = || bench.sim.inspect(|world| world.guests[&number].file());
        let before = file();
        let why = match bench.order(&order(number, "set-config", set, 1)).await {
            Ok(result) => result.fault.unwrap().message,
            Err(error) => error.message,
        };
        assert_eq!((why.contains("some of it may be written nevertheless"), file() != before), (is_noted, is_noted), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_destruction_that_is_cut_off_between_its_stages_goes_on_and_does_nothing_twice() {
    for path in ["/vzdump$", "/snapshot$", "/status/stop$", "/qemu/101$"] {
        for then in [Wrong::LoseReply, Wrong::Hang] {
            let bench = Bench::new(setup(true));
            let order = meant(
                &bench,
                order(101, "destroy", json!({ "now": true, "stop": true, "backup_first": "local", "snapshot_first": true }), 3),
            )
            .await;
            let fault = CallFault { method: None, path: path.to_owned(), next: Some(1), then: then.clone() };
            let evidence = bench.driver.prepare(&order).await.unwrap();
            bench.sim.change(|world| {
                let mut fault = fault.clone();
                fault.method = Some(if path.ends_with("101$") { "DELETE" } else { "POST" }.to_owned());
                world.faults.calls.push(fault);
            });
            let mut task = None;
            let mut begun = bench.driver.start(&order, &evidence).await;
            while let Ok(Begun::Task(next)) = begun {
                begun = bench.driver.resume(&order, &evidence, &next, Taker::nobody()).await;
                task = Some(next);
            }
            assert!(begun.is_err(), "{path} {then:?}: {begun:?}");
            let next = Bench::on(bench.sim.clone(), Arc::default());
            let ended = goes_on(&next, &order, &evidence, task).await;
            assert_eq!(ended.map(|result| result.fault), Ok(None), "{path} {then:?}");
            for kind in [EffectKind::BackedUp, EffectKind::SnapshotMade, EffectKind::Stopped, EffectKind::Destroyed] {
                assert_eq!(next.effects(101, kind), 1, "{path} {then:?} {kind:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_is_brought_back_over_itself_and_started() {
    let bench = Bench::new(setup(true));
    let dumped = bench.order(&order(205, "backup", json!({ "storage": "local" }), 1)).await.unwrap();
    assert_eq!(bench.order(&order(205, "stop", json!({}), 2)).await.unwrap().fault, None);
    let before = bench.guest(205).await.incarnation;
    // What is made later is another one.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let over = json!({ "type": "lxc", "archive": dumped.result["archive"], "storage": "local-lvm", "over": true, "start": true });
    let result = bench.order(&meant(&bench, order(205, "restore", over, 3)).await).await.unwrap();
    assert_eq!(result.fault, None);
    let is = bench.guest(205).await;
    assert!(is.status == GuestStatus::Running && is.is_marked && is.incarnation != before, "{is:?}");
}

#[tokio::test(start_paused = true)]
async fn a_password_that_was_not_written_is_not_told_as_written_for_what_somebody_else_changed() {
    let config = [MACHINE, &[("cipassword", "$6$salt$old")]].concat();
    let bench = Bench::new(Setup::default().with_guest(Kind::Qemu, 101, false, &config));
    let order = order(101, "set-config", json!({ "type": "qemu", "set": { "cipassword": "$6$salt$new" } }), 1);
    let evidence = bench.driver.prepare(&order).await.unwrap();
    let lost = CallFault { method: Some("POST".to_owned()), path: String::new(), next: Some(1), then: Wrong::LoseRequest };
    bench.sim.change(|world| world.faults.calls.push(lost));
    assert!(bench.driver.start(&order, &evidence).await.is_err());
    bench.set_by_hand(101, "description", "by hand");
    assert_eq!(goes_on(&bench, &order, &evidence, None).await, Err("absent".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_told_from_another_of_the_same_source() {
    // It goes well, and the other does not; or the other way round.
    for fails in ["another", "own"] {
        let bench = Bench::new(setup(false));
        let own = order(101, "clone", json!({ "newid": "400" }), 1);
        let evidence = bench.driver.prepare(&own).await.unwrap();
        let lost = CallFault { method: Some("POST".to_owned()), path: String::new(), next: Some(1), then: Wrong::LoseReply };
        let fail = || TaskFails { task: "qmclone".to_owned(), words: "no space left".to_owned(), next: Some(1) };
        bench.sim.change(|world| {
            world.faults.calls.push(lost);
            world.faults.task_fails.extend((fails == "own").then(fail));
        });
        assert!(bench.driver.start(&own, &evidence).await.is_err());
        bench.sim.change(|world| world.faults.task_fails.extend((fails == "another").then(fail)));
        let source = GuestAt { kind: GuestKind::Qemu, vmid: vmid(101) };
        let asked = params([("newid", "500")]);
        assert!(bench.driver.client.of_guest(Verb::Post, source, &["clone"], &asked).await.is_ok());
        match goes_on(&bench, &own, &evidence, None).await {
            Ok(result) => assert!(fails == "another" && result.fault.is_none() && bench.guest(400).await.is_marked, "{result:?}"),
            // Nothing is left of it.
            Err(why) => assert!(fails == "own" && why == "absent", "{why}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn which_container_it_is_is_seen_as_soon_as_the_token_may() {
    let bench = Bench::new(setup(true));
    let hidden = CallFault { method: None, path: "/storage/local-lvm/content".to_owned(), next: None, then: Wrong::StatusBefore(403) };
    bench.sim.change(|world| world.faults.calls.push(hidden));
    assert_eq!(bench.guest(205).await.incarnation, None);
    bench.sim.change(|world| world.faults.calls.clear());
    assert!(bench.guest(205).await.incarnation.is_some());
}
