//! Defects that tests plant, to prove that other tests would notice them. In a build that is no test there are none.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Whether the defect `name` is planted on this thread.
#[cfg(test)]
pub fn planted(name: &str) -> bool {
    PLANTED.get() == Some(name)
}

/// Never.
#[cfg(not(test))]
#[inline(always)]
pub const fn planted(_name: &str) -> bool {
    false
}

/// Plants `name` on this thread until the guard is dropped.
#[cfg(test)]
pub fn plant(name: &'static str) -> Planted {
    PLANTED.set(Some(name));
    Planted(())
}

/// See [`plant`].
#[cfg(test)]
pub struct Planted(());

#[cfg(test)]
impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}

/// What a new thread is to run: a defect of this thread is one of the new one, too.
#[cfg(test)]
pub fn along<T>(job: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let planted = PLANTED.get();
    move || {
        PLANTED.set(planted);
        job()
    }
}

/// What a new thread is to run.
#[cfg(not(test))]
pub fn along<T>(job: impl FnOnce() -> T) -> impl FnOnce() -> T {
    job
}
