//! What is read from hosts for operators, part by part: who asked which session for what, under which number.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_common::fault::Fault;
use moorline_common::id::HostId;

/// Readings under way. Clones share them.
#[derive(Debug)]
pub(super) struct Readings<R>(Arc<Mutex<Inner<R>>>);

#[derive(Debug)]
struct Inner<R> {
    next: u64,
    under_way: BTreeMap<u64, Entry<R>>,
}

/// One of them: the session that was asked, and who reads.
#[derive(Debug)]
pub(super) struct Entry<R> {
    pub(super) host: HostId,
    session: u64,
    pub(super) reader: R,
}

/// The place of one reading, which it has until this is dropped.
#[derive(Debug)]
pub(super) struct Place<R> {
    readings: Readings<R>,
    pub(super) request_id: u64,
}

// Derived, it would ask the same of `R`.
impl<R> Clone for Readings<R> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<R> Default for Readings<R> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Inner { next: 0, under_way: BTreeMap::new() })))
    }
}

impl<R> Readings<R> {
    fn lock(&self) -> MutexGuard<'_, Inner<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins one for `reader`, unless `refuse` finds that those under way are too many.
    ///
    /// # Errors
    /// Those of `refuse`.
    pub(super) fn begin(
        &self,
        host: &HostId,
        session: u64,
        reader: R,
        refuse: impl FnOnce(&BTreeMap<u64, Entry<R>>) -> Result<(), Fault>,
    ) -> Result<Place<R>, Fault> {
        let mut inner = self.lock();
        refuse(&inner.under_way)?;
        inner.next += 1;
        let request_id = inner.next;
        inner.under_way.insert(request_id, Entry { host: host.clone(), session, reader });
        Ok(Place { readings: self.clone(), request_id })
    }

    /// What `act` makes of the reader of `request_id`, if this session of this host was asked for that.
    pub(super) fn with<T>(&self, host: &HostId, session: u64, request_id: u64, act: impl FnOnce(&mut R) -> T) -> Option<T> {
        let mut inner = self.lock();
        let entry = inner.under_way.get_mut(&request_id).filter(|r| r.host == *host && r.session == session)?;
        Some(act(&mut entry.reader))
    }

    /// Ends one, if it has not ended.
    pub(super) fn end(&self, request_id: u64) {
        self.lock().under_way.remove(&request_id);
    }

    /// Ends what a session that is gone cannot send any more; `tell` is given each reader.
    pub(super) fn session_ended(&self, host: &HostId, session: u64, tell: impl Fn(&R)) {
        self.lock().under_way.retain(|_, entry| {
            let stays = entry.host != *host || entry.session != session;
            if !stays {
                tell(&entry.reader);
            }
            stays
        });
    }
}

impl<R> Drop for Place<R> {
    fn drop(&mut self) {
        self.readings.end(self.request_id);
    }
}
