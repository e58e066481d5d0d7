//! Crash points: places at which a test kills the agent, as `kill -9` does. Only debug builds have them.

/// Every place, in the order in which one operation passes them. A test kills the agent at each.
pub const POINTS: &[&str] = &[
    "op.accept.before",
    "op.accept.after",
    "op.about.before",
    "op.about.after",
    "op.turn",
    "op.started.before",
    "op.started.after",
    "op.effect.before",
    "op.effect.after",
    "op.task.after",
    "op.end.before",
    "op.end.after",
    "op.lost.before",
    "op.lost.after",
    "link.receipt.before",
    "link.receipt.after",
];

/// Dies here when `MOORLINE_CRASH_AT` names this place, or `NAME:N` for the n-th time that it is passed.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
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
    }
}

/// Nothing: this is no debug build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn point(_name: &'static str) {}
