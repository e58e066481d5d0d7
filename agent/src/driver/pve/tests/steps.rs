//! Steps: what the planner wants becomes so, and stays so.

use moorline_common::fault::Code;
use moorline_common::observe::GuestStatus;
use moorline_pve_sim::world::faults::{CallFault, TaskFails, Wrong};
use moorline_pve_sim::world::guest::Kind;

use super::*;

fn db() -> HostSpec {
    guests(json!({ "101": { "type": "qemu", "state": "running",
        "config": { "name": "db", "cores": "2", "memory": "2048", "tags": "prod", "scsi0": "local-lvm:8,discard=on", "net0": "virtio,bridge=vmbr0", "onboot": "1" } } }))
}

fn cache() -> HostSpec {
    let template = moorline_pve_sim::setup::CONTAINER_TEMPLATE;
    guests(json!({ "205": { "type": "lxc", "state": "running", "from": { "ostemplate": template, "storage": "local-lvm" },
        "config": { "hostname": "cache", "memory": "256", "net0": "name=eth0,bridge=vmbr0,ip=dhcp", "rootfs": "local-lvm:4", "description": "a\nb" } } }))
}

fn copy() -> HostSpec {
    guests(json!({ "102": { "type": "qemu", "state": "running", "from": { "clone": "9000", "full": true },
        "config": { "name": "copy", "cores": "3", "scsi0": "local-lvm:16", "description": "hello\n" } } }))
}

fn lose(method: &str, path: &str, then: Wrong) -> CallFault {
    CallFault { method: Some(method.to_owned()), path: path.to_owned(), next: Some(1), then }
}

#[tokio::test(start_paused = true)]
async fn guests_are_made_of_nothing_of_a_template_and_by_cloning_and_then_nothing_changes_any_more() {
    for (desired, number, name) in [(db(), 101, "db"), (cache(), 205, "cache"), (copy(), 102, "copy")] {
        let bench = Bench::new(Setup::default());
        let steps = bench.settle(&desired, None).await;
        assert_eq!((steps.first(), steps.last()), (Some(&"create"), Some(&"start")), "{steps:?}");
        let guest = bench.guest(number).await;
        assert_eq!((guest.status, guest.name.as_deref()), (GuestStatus::Running, Some(name)));
        assert!(guest.is_marked && guest.owner.is_some() && guest.incarnation.is_some(), "{guest:?}");
        let before = bench.changes();
        for applied in [None, Some(&desired)] {
            let plan = bench.plan(&desired, applied).await;
            assert_eq!(plan, Plan::default(), "at rest");
        }
        assert_eq!(bench.changes(), before);
        assert_eq!(bench.sim.inspect(|world| world.wrong.clone()), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_makes_no_second_guest_and_no_stranger_of_the_first() {
    for (desired, number, path) in [(db(), 101, "/qemu$"), (cache(), 205, "/lxc$"), (copy(), 102, "/clone$")] {
        for then in [Wrong::LoseReply, Wrong::StatusAfter(596), Wrong::LoseRequest, Wrong::Garbage] {
            let bench = Bench::new(Setup::default());
            bench.sim.change(|world| world.faults.calls.push(lose("POST", path, then.clone())));
            bench.settle(&desired, None).await;
            let made = bench.effects(number, EffectKind::Created) + bench.effects(number, EffectKind::Cloned);
            assert_eq!(made, 1, "{path} {then:?}");
            assert_eq!(bench.guest(number).await.status, GuestStatus::Running);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_anywhere_in_making_a_guest_goes_on_with_it() {
    for desired in [db(), copy()] {
        for at in 1..24 {
            let bench = Bench::new(Setup::default());
            // Dies by never being asked again: behind its n-th change or look nothing of it is left.
            let dies = async {
                let mut polls = 0;
                let settle = bench.settle(&desired, None);
                tokio::pin!(settle);
                while polls < at {
                    let _ = tokio::time::timeout(Duration::from_millis(150), &mut settle).await;
                    polls += 1;
                }
            };
            dies.await;
            let next = Bench::on(bench.sim.clone(), Arc::default());
            next.settle(&desired, None).await;
            let number = if desired == db() { 101 } else { 102 };
            let made = next.effects(number, EffectKind::Created) + next.effects(number, EffectKind::Cloned);
            assert_eq!(made, 1, "died at {at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_changed_by_hand_is_mended_and_disks_and_addresses_stay() {
    let bench = Bench::new(Setup::default());
    bench.settle(&db(), None).await;
    let before = bench.guest(101).await.config.unwrap().set;
    bench.set_by_hand(101, "memory", "512");
    bench.set_by_hand(101, "onboot", "0");
    bench.set_by_hand(101, "numa", "1");
    let plan = bench.plan(&db(), Some(&db())).await;
    let healed: Vec<&str> = plan.steps[0].heals.iter().map(|drift| drift.field.as_str()).collect();
    assert_eq!(healed, ["config.memory", "config.onboot"]);
    assert_eq!(bench.settle(&db(), Some(&db())).await, ["update"]);
    let after = bench.guest(101).await.config.unwrap().set;
    assert_eq!((&after["net0"], &after["scsi0"], after["numa"].as_str()), (&before["net0"], &before["scsi0"], "1"));
    assert_eq!(bench.effects(101, EffectKind::VolumeMade), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disk_grows_and_is_never_made_twice_and_never_shrinks() {
    let bench = Bench::new(Setup::default());
    bench.settle(&db(), None).await;
    let mut larger = db();
    let config = |spec: &mut HostSpec, text: &str| {
        let guest = spec.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap();
        guest.config.insert("scsi0".to_owned(), text.to_owned());
    };
    config(&mut larger, "local-lvm:16,discard=on");
    assert_eq!(bench.settle(&larger, Some(&db())).await, ["update"]);
    assert!(bench.guest(101).await.config.unwrap().set["scsi0"].contains("size=16G"));
    assert!(bench.plan(&db(), Some(&larger)).await.is_settled(), "the smaller one is met by the larger");
    assert_eq!((bench.effects(101, EffectKind::VolumeMade), bench.effects(101, EffectKind::VolumeGrown)), (1, 1));
    let mut more = larger.clone();
    more.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().config.insert("scsi1".to_owned(), "tank:1".to_owned());
    bench.sim.change(|world| world.faults.calls.push(lose("POST", "/config$", Wrong::LoseReply)));
    bench.settle(&more, Some(&larger)).await;
    assert_eq!(bench.effects(101, EffectKind::VolumeMade), 2, "an answer that is lost makes no third disk");
}

#[tokio::test(start_paused = true)]
async fn changes_of_a_running_guest_wait_for_its_start_and_are_no_drift() {
    let bench = Bench::new(Setup::default());
    bench.settle(&db(), None).await;
    let mut bigger = db();
    let guest = bigger.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap();
    guest.config.insert("cores".to_owned(), "4".to_owned());
    bench.settle(&bigger, Some(&db())).await;
    let live = bench.guest(101).await;
    assert!(moorline_common::pve::guest::pending(live.config.as_ref().unwrap()).contains("cores"), "{live:?}");
    let mut may = bigger.clone();
    may.proxmox.as_mut().unwrap().guests.get_mut(&vmid(101)).unwrap().reboot = Some(moorline_common::topology::Reboot::Now);
    assert_eq!(bench.settle(&may, Some(&bigger)).await, ["reboot"]);
    let live = bench.guest(101).await;
    assert!(moorline_common::pve::guest::pending(live.config.as_ref().unwrap()).is_empty() && live.status == GuestStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn what_a_slice_names_no_more_is_stopped_and_stays_and_what_others_made_is_left_alone() {
    let setup = Setup::default().with_guest(Kind::Qemu, 300, true, &[("name", "theirs"), ("memory", "512")]);
    let bench = Bench::new(setup);
    bench.settle(&db(), None).await;
    let none = guests(json!({}));
    assert_eq!(bench.settle(&none, Some(&db())).await, ["shutdown"]);
    assert_eq!(bench.guest(101).await.status, GuestStatus::Stopped);
    let theirs = guests(json!({ "300": { "type": "qemu", "state": "stopped" } }));
    let plan = bench.plan(&theirs, None).await;
    assert_eq!((plan.steps.len(), plan.blocked[0].code), (0, Some(Code::NotOwned)));
    let seen = bench.guest(300).await;
    assert!(seen.owner.is_none() && !seen.is_marked && seen.status == GuestStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_taken_over_is_not_touched() {
    let uuid = "6e3c4af2-7d60-4c8e-8f2a-0f6a1d6f9b7e";
    let smbios = format!("uuid={uuid}");
    let setup = Setup::default().with_guest(Kind::Qemu, 300, true, &[("name", "theirs"), ("memory", "512"), ("smbios1", &smbios)]);
    let bench = Bench::new(setup);
    let desired = guests(
        json!({ "300": { "type": "qemu", "state": "running", "adopt": format!("vm:{uuid}"), "config": { "name": "theirs", "memory": "512" } } }),
    );
    assert_eq!(bench.settle(&desired, None).await, ["adopt"]);
    assert_eq!(bench.changes(), 0);
    bench.set_by_hand(300, "memory", "1024");
    assert_eq!(bench.settle(&desired, Some(&desired)).await, ["update"], "it is ours from then on");
}

#[tokio::test(start_paused = true)]
async fn a_locked_guest_is_waited_for_and_a_guest_that_was_changed_meanwhile_is_planned_anew() {
    let bench = Bench::new(Setup::default());
    bench.settle(&db(), None).await;
    bench.set_by_hand(101, "memory", "512");
    bench.set_by_hand(101, "lock", "backup");
    let plan = bench.plan(&db(), Some(&db())).await;
    assert_eq!((plan.steps.len(), plan.blocked[0].code), (0, None));
    bench.sim.change(|world| drop(world.guests.get_mut(&101).unwrap().conf.remove("lock")));
    let plan = bench.plan(&db(), Some(&db())).await;
    bench.set_by_hand(101, "cores", "7");
    let error = bench.carry_out(&plan.steps[0].action).await.unwrap_err();
    assert_eq!(error.kind, crate::driver::DriverErrorKind::Conflict, "{error}");
    bench.settle(&db(), Some(&db())).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_storage_and_a_dead_worker_are_said_and_tried_again() {
    let bench = Bench::new(Setup::default());
    bench.sim.change(|world| world.faults.storage_full.insert("local-lvm".to_owned()));
    let plan = bench.plan(&db(), None).await;
    let error = bench.carry_out(&plan.steps[0].action).await.unwrap_err();
    assert!(error.kind == crate::driver::DriverErrorKind::Retryable && error.message.contains("free"), "{error}");
    bench.sim.change(|world| {
        world.faults.storage_full.clear();
        world.faults.task_fails.push(TaskFails {
            task: "qmstart".to_owned(),
            words: "start failed: QEMU exited with code 1".to_owned(),
            next: Some(1),
        });
    });
    bench.settle(&db(), None).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_a_list_leaves_out_is_not_made_again() {
    let bench = Bench::new(Setup::default());
    bench.settle(&db(), None).await;
    bench.sim.change(|world| world.faults.hide.insert(101));
    let plan = bench.plan(&db(), Some(&db())).await;
    assert_eq!((plan.steps.len(), plan.drift.len()), (0, 1));
    assert_eq!(plan.drift[0].field, "presence");
}

#[tokio::test(start_paused = true)]
async fn nothing_that_has_not_changed_is_asked_for_again() {
    let bench = Bench::new(Setup::default());
    bench.settle(&db(), None).await;
    bench.look().await;
    let asked = |bench: &Bench| bench.sim.inspect(|world| world.requests.iter().filter(|r| r.path.contains("/101/")).count());
    let before = asked(&bench);
    bench.look().await;
    assert_eq!(asked(&bench) - before, 1, "its config, and nothing else");
    bench.set_by_hand(101, "cores", "7");
    bench.look().await;
    assert!(asked(&bench) - before > 2);
}
