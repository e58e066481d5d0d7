//! Where tests kill this program: nothing in a release build.

/// Ends the process as `kill -9` would, when a test named this point in `MOORLINE_CRASH_AT`.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    if std::env::var_os("MOORLINE_CRASH_AT").is_some_and(|at| at == name) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub const fn point(_name: &str) {}
