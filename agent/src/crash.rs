//! Crash points: places at which a test kills the agent, as `kill -9` does. Only debug builds have them.
//!
//! `MOORLINE_CRASH_AT=NAME[:N]` kills at the N-th time that the place is passed. `MOORLINE_JOURNAL_ROTATE_BYTES=N` makes segments
//! of the journal small, so that a short test passes their ends, too.

#[cfg(debug_assertions)]
use std::sync::OnceLock;

use crate::limits::JOURNAL_ROTATE_BYTES;

/// Every place, roughly in the order in which they are passed. A test kills the agent at each.
pub const POINTS: &[&str] = &[
    // An order comes in.
    "link.welcome",
    "link.op.before",
    "op.take",
    "op.verified",
    "lane.place.before",
    "lane.turn.before",
    "lane.turn.after",
    "lane.place.after",
    "op.accept.before",
    "journal.room.after",
    "journal.write.before",
    "journal.write.after",
    "journal.flush.after",
    "journal.publish.before",
    "journal.publish.after",
    "journal.answer.after",
    "op.accept.after",
    "link.op.known",
    "link.event",
    // Its turn.
    "op.turn",
    "op.prepare.before",
    "docker.prepare.before",
    "docker.prepare.after",
    "op.refuse-for-good",
    "op.refuse.before",
    "op.started.before",
    "op.started.after",
    "op.effect.before",
    "docker.act.before",
    "docker.act.after",
    "docker.exec-make.before",
    "docker.destroy.before",
    "docker.destroy.stopped",
    "docker.volume.before",
    "docker.pull.before",
    "docker.pull.after",
    "docker.prune.before",
    "docker.prune.after",
    "pve.op.asked",
    "op.effect.after",
    "op.task.before",
    "op.task.after",
    "docker.exec-start.before",
    "docker.exec-start.after",
    "op.end.before",
    "op.end.after",
    "lane.leave.before",
    "lane.leave.after",
    "op.lost.before",
    "op.lost.after",
    "op.about.before",
    "op.about.after",
    "link.receipt.before",
    "link.receipt.after",
    "link.ack.before",
    "op.ack.before",
    "link.ack.after",
    // After a start.
    "op.recover.before",
    "op.recover.place",
    "op.recover.begun",
    "op.carry-on",
    "op.doubt",
    "op.found-task",
    "op.found-made",
    "op.again.before",
    "op.again.after",
    "journal.open.before",
    "journal.open.torn-kept",
    "journal.open.torn-cut",
    "journal.open.after",
    // A new segment.
    "journal.begin.before",
    "journal.begin.written",
    "journal.begin.named",
    "journal.begin.after",
    "journal.rotate.before",
    "journal.seal.before",
    "journal.seal.written",
    "journal.seal.after",
    "journal.rotate.after",
    // A slice, and the steps towards it.
    "intake.slice.before",
    "ledger.admit.before",
    "ledger.admit.after",
    "intake.slice.after",
    "intake.back.before",
    "ledger.back.before",
    "intake.back.after",
    "ledger.trial-end.before",
    "ledger.confirm.before",
    "ledger.floor.before",
    "ledger.floor.after",
    "reconcile.append.before",
    "reconcile.append.after",
    "reconcile.step.before",
    "docker.network.before",
    "docker.network-gone.before",
    "docker.new-volume.before",
    "docker.new-volume.after",
    "docker.create.before",
    "docker.create.after",
    "docker.start.before",
    "docker.start.after",
    "docker.replace.made",
    "docker.replace.stopped",
    "docker.replace.good",
    "docker.replace.failed",
    "docker.replace.undone",
    "docker.replace.back",
    "docker.replace.removed",
    "docker.replace.named",
    "docker.remove.stopped",
    "docker.update.before",
    "docker.update.networks",
    "docker.update.after",
    "pve.step.asked",
    "reconcile.step.after",
    "reconcile.note.before",
    "reconcile.note.after",
    "reconcile.ended.before",
    "reconcile.ended.after",
    "ledger.success.before",
    "ledger.success.after",
];

/// Dies here when `MOORLINE_CRASH_AT` names this place, or `NAME:N` for the n-th time that it is passed.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::sync::atomic::{AtomicU64, Ordering};
    static WHERE: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);
    debug_assert!(POINTS.contains(&name), "`{name}` is not listed");
    let wanted = WHERE.get_or_init(|| {
        let text = std::env::var("MOORLINE_CRASH_AT").ok()?;
        let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), nth.parse().unwrap_or(1)))
    });
    if let Some((at, nth)) = wanted
        && at == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        // No destructor, no flush: what is not on the disk is lost with the process.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
        loop {
            // The signal is on its way: nothing behind this place happens any more.
            std::thread::park();
        }
    }
}

/// Nothing: this is no debug build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn point(_name: &'static str) {}

/// A segment of the journal with this many bytes of records is closed; less than the limit only where a test says so.
#[cfg(debug_assertions)]
pub fn rotate_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let asked = std::env::var("MOORLINE_JOURNAL_ROTATE_BYTES").ok().and_then(|n| n.parse().ok());
        asked.unwrap_or(JOURNAL_ROTATE_BYTES).min(JOURNAL_ROTATE_BYTES)
    })
}

/// A segment of the journal with this many bytes of records is closed.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn rotate_bytes() -> u64 {
    JOURNAL_ROTATE_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::POINTS;

    /// How often each place stands in the source below `folder`.
    fn placed(folder: &Path, found: &mut BTreeMap<String, u32>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                placed(&path, found);
            } else if !path.ends_with("src/crash.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for rest in text.split("crash::point(\"").skip(1) {
                    *found.entry(rest.split('"').next().unwrap().to_owned()).or_default() += 1;
                }
            }
        }
    }

    #[test]
    fn every_point_that_is_listed_stands_at_one_place() {
        let mut found = BTreeMap::new();
        placed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        let listed: BTreeMap<String, u32> = POINTS.iter().map(|name| ((*name).to_owned(), 1)).collect();
        assert_eq!(found, listed);
    }
}
