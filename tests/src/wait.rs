//! Waiting for a condition with a deadline; nothing here sleeps for a fixed time and hopes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::limits::POLL;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C makes every wait end with an error, so that a program tidies up behind itself and then ends.
pub fn interrupt_on_ctrl_c() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime
            && runtime.block_on(tokio::signal::ctrl_c()).is_ok()
        {
            INTERRUPTED.store(true, Ordering::SeqCst);
        }
    });
}

/// An error once Ctrl-C was pressed; see [`interrupt_on_ctrl_c`].
///
/// # Errors
/// See above.
pub fn check_interrupt() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) { Err(anyhow!("interrupted")) } else { Ok(()) }
}

/// Looks until `condition` gives a value, at most for `deadline`; returns the value.
///
/// # Errors
/// After the deadline, naming `what` and the last error of `condition`.
pub fn wait_for<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut last = String::new();
    loop {
        check_interrupt()?;
        match condition() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => {}
            Err(error) => last = format!("; last error: {error:#}"),
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain until {what}{last}", deadline.as_secs());
        }
        std::thread::sleep(POLL);
    }
}

/// Looks until `condition` holds, at most for `deadline`.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_for(what, deadline, || Ok(condition()?.then_some(())))
}

/// Looks for all of `span` that `condition` holds at every look: for what must *not* happen.
///
/// # Errors
/// At once when it does not hold.
pub fn holds_for(what: &str, span: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        check_interrupt()?;
        if !condition()? {
            bail!("it should have stayed so that {what}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}
