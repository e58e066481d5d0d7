//! Floors, what is applied, and what time it is at least.

use super::*;
use crate::testing::{admission, boot, topology};

fn ledger() -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::new(Db::open(dir.path()).unwrap());
    (dir, ledger)
}

fn failure() -> Fault {
    Fault::new(Code::StepFailed, "x".repeat(500))
}

#[test]
fn floor_and_reset_are_those_of_one_moment() {
    let (dir, ledger) = ledger();
    let reset = |ledger: &Ledger, to| ledger.reset_time(UnixSeconds(to), &BootTime { wall: UnixSeconds(to), ..boot() }).unwrap();
    reset(&ledger, 1);
    // A connection of its own, as another process has it.
    let other = Ledger::new(Db::open(dir.path()).unwrap());
    let writer = std::thread::spawn(move || (2..500).for_each(|to| reset(&other, to)));
    while !writer.is_finished() {
        // On a slow disk the writer may keep us out for too long.
        if let Ok((floor, reset)) = ledger.times() {
            assert_eq!(floor.at, reset);
        }
    }
    writer.join().unwrap();
}

#[test]
fn content_is_wanted_since_the_first_of_the_generations_in_a_row_that_have_it() {
    let (_dir, ledger) = ledger();
    let accept = |generation: u64, content: &str| {
        let mut admission = admission("edge", generation, content);
        let floor = ledger.floor(&admission.topology).unwrap();
        admission.content_since = Floor::content_since(floor.as_ref(), &admission.version_hash, admission.generation);
        ledger.admit(&admission, &boot()).unwrap();
        ledger.floor(&admission.topology).unwrap().unwrap().content_since.0
    };
    let since: Vec<u64> = [(3, "a"), (3, "a"), (4, "a"), (6, "b"), (7, "a"), (8, "a")].map(|(g, content)| accept(g, content)).into();
    assert_eq!(since, [3, 3, 3, 6, 7, 7]);
    ledger.clear(&topology("edge"), FloorState::TornDown).unwrap();
    assert_eq!(accept(9, "a"), 9, "what was torn down is wanted anew");
}

#[test]
fn a_failed_first_apply_leaves_a_marker_that_pins_its_topology() {
    let (_dir, ledger) = ledger();
    ledger.admit(&admission("edge", 1, "{a}"), &boot()).unwrap();
    ledger.record_error(&topology("edge"), &failure()).unwrap();
    let row = ledger.current().unwrap().unwrap();
    assert_eq!((row.version_hash, row.applied_at, row.hydrated.as_str()), (None, UnixSeconds(0), "{a}"));
    assert_eq!(row.last_error.unwrap().message.chars().count(), 200);
    assert_eq!(ledger.pinned().unwrap(), Some(topology("edge")));
    let standing = ledger.standing().unwrap();
    assert_eq!((standing.generation, standing.applied), (Generation(1), None));
}

#[test]
fn an_error_keeps_what_was_applied_and_success_clears_it() {
    let (_dir, ledger) = ledger();
    let (first, second) = (admission("edge", 1, "{a}"), admission("edge", 2, "{b}"));
    ledger.admit(&first, &boot()).unwrap();
    ledger.record_success(&first, UnixSeconds(50)).unwrap();
    ledger.admit(&second, &boot()).unwrap();
    ledger.record_error(&topology("edge"), &failure()).unwrap();
    let row = ledger.current().unwrap().unwrap();
    assert_eq!(row.version_hash, Some(first.version_hash.clone()));
    assert_eq!((row.applied_at, row.hydrated.as_str(), row.generation), (UnixSeconds(50), "{a}", Generation(1)));
    let standing = ledger.standing().unwrap();
    assert_eq!((standing.generation, standing.applied), (Generation(2), Some(first.version_hash)));
    assert_eq!(standing.applied_generation, Generation(1));
    assert_eq!(standing.last_error.unwrap().code, Code::StepFailed);
    ledger.admit(&second, &boot()).unwrap();
    assert!(ledger.standing().unwrap().last_error.is_some(), "the same payload once more mends nothing by itself");
    ledger.admit(&admission("edge", 3, "{a}"), &boot()).unwrap();
    let standing = ledger.standing().unwrap();
    assert_eq!((standing.last_error, standing.applied_generation), (None, Generation(1)));

    ledger.record_success(&second, UnixSeconds(60)).unwrap();
    let row = ledger.current().unwrap().unwrap();
    assert_eq!((row.version_hash, row.last_error, row.applied_at), (Some(second.version_hash), None, UnixSeconds(60)));
}

#[test]
fn an_error_about_another_topology_changes_nothing() {
    let (_dir, ledger) = ledger();
    let first = admission("edge", 1, "{a}");
    ledger.admit(&first, &boot()).unwrap();
    ledger.record_success(&first, UnixSeconds(50)).unwrap();
    let before = ledger.current().unwrap();
    ledger.record_error(&topology("other"), &failure()).unwrap();
    assert_eq!(ledger.current().unwrap(), before);
}

#[test]
fn clearing_is_idempotent_and_clearing_another_topology_does_nothing() {
    let (_dir, ledger) = ledger();
    let first = admission("edge", 1, "{a}");
    ledger.admit(&first, &boot()).unwrap();
    ledger.record_success(&first, UnixSeconds(50)).unwrap();
    ledger.clear(&topology("other"), FloorState::TornDown).unwrap();
    assert!(ledger.current().unwrap().is_some());
    for _ in 0..2 {
        ledger.clear(&topology("edge"), FloorState::Cleared).unwrap();
        assert_eq!(ledger.current().unwrap(), None);
        assert_eq!(ledger.pinned().unwrap(), None);
        assert_eq!(ledger.standing().unwrap(), Standing::default());
    }
    assert_eq!(ledger.floor(&topology("edge")).unwrap().unwrap().generation, Generation(1));
}

#[test]
fn a_torn_down_topology_is_still_reported_and_its_floor_stays() {
    let (_dir, ledger) = ledger();
    let (first, down) = (admission("edge", 1, "{a}"), admission("edge", 2, "{}"));
    ledger.admit(&first, &boot()).unwrap();
    ledger.record_success(&first, UnixSeconds(50)).unwrap();
    ledger.admit(&down, &boot()).unwrap();
    ledger.clear(&topology("edge"), FloorState::TornDown).unwrap();
    let standing = ledger.standing().unwrap();
    assert_eq!(standing.topology, Some(topology("edge")));
    assert_eq!((standing.generation, standing.applied), (Generation(2), Some(down.version_hash)));
    assert_eq!(ledger.pinned().unwrap(), None);
}

#[test]
fn floors_never_fall_and_outlive_a_lost_current_row() {
    let (dir, ledger) = ledger();
    ledger.admit(&admission("edge", 5, "{a}"), &boot()).unwrap();
    ledger.admit(&admission("edge", 3, "{a}"), &boot()).unwrap();
    ledger.db.edit("DELETE FROM current");
    drop(ledger);
    let ledger = Ledger::new(Db::open(dir.path()).unwrap());
    assert_eq!(ledger.floor(&topology("edge")).unwrap().unwrap().generation, Generation(5));
    assert_eq!(ledger.pinned().unwrap(), Some(topology("edge")), "what was accepted and never torn down still pins");
    assert_eq!(ledger.standing().unwrap().applied, None);
    assert_eq!(ledger.time_floor().unwrap().at, UnixSeconds(1005));
}

#[test]
fn a_hash_edited_by_hand_shows_in_what_the_heartbeat_reads() {
    let (_dir, ledger) = ledger();
    let first = admission("edge", 1, "{a}");
    ledger.admit(&first, &boot()).unwrap();
    ledger.record_success(&first, UnixSeconds(50)).unwrap();
    ledger.db.edit("UPDATE current SET version_hash = 'nonsense'");
    assert_eq!(ledger.standing().unwrap().applied, None);
}

#[test]
fn the_database_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, _ledger) = ledger();
    let mode = std::fs::metadata(dir.path().join(crate::db::FILE_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
