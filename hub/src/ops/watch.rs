//! Those who follow operations: each is told that something changed, and reads it from the store.
//!
//! Who only waits for an end is not told how far an operation is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::OpId;
use tokio::sync::watch;

use crate::limits;

/// Everybody who follows an operation. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Watches(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    followed: BTreeMap<OpId, Followed>,
    count: usize,
}

#[derive(Debug)]
struct Followed {
    /// Whether it may have ended.
    changes: watch::Sender<bool>,
    watchers: usize,
}

/// One who follows an operation, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    watches: Watches,
    op_id: OpId,
    changes: watch::Receiver<bool>,
    /// It is a caller's, of which there may be only so many.
    is_counted: bool,
}

impl Inner {
    fn follow(&mut self, watches: &Watches, op_id: &OpId, is_counted: bool) -> Watch {
        let followed = self.followed.entry(op_id.clone()).or_insert_with(|| Followed { changes: watch::channel(false).0, watchers: 0 });
        followed.watchers += 1;
        Watch { watches: watches.clone(), op_id: op_id.clone(), changes: followed.changes.subscribe(), is_counted }
    }
}

impl Watches {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows an operation from now on.
    ///
    /// # Errors
    /// [`Code::Busy`] when too many follow operations.
    pub fn follow(&self, op_id: &OpId) -> Result<Watch, Fault> {
        let mut inner = self.lock();
        if inner.count >= limits::OP_WATCHES_MAX {
            return Err(Fault::new(Code::Busy, format!("{} callers follow operations already; try again later", inner.count)));
        }
        inner.count += 1;
        Ok(inner.follow(self, op_id, true))
    }

    /// The same for the hub's own work, which is bounded by what it works on.
    #[must_use]
    pub fn follow_own(&self, op_id: &OpId) -> Watch {
        self.lock().follow(self, op_id, false)
    }

    /// Tells those who follow `op_id` that something changed.
    pub fn changed(&self, op_id: &OpId) {
        if let Some(followed) = self.lock().followed.get(op_id) {
            followed.changes.send_replace(true);
        }
    }

    /// Tells those who follow `op_id` that it is further, and has not ended by that.
    pub fn is_further(&self, op_id: &OpId) {
        if let Some(followed) = self.lock().followed.get(op_id) {
            followed.changes.send_modify(|_| {});
        }
    }

    /// Tells everybody.
    pub fn all_changed(&self) {
        for followed in self.lock().followed.values() {
            followed.changes.send_replace(true);
        }
    }
}

impl Watch {
    /// Waits for the next change since the last call.
    pub async fn next(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the next change since the last call after which the operation may have ended.
    pub async fn end(&mut self) {
        loop {
            self.next().await;
            if *self.changes.borrow() {
                return;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut inner = self.watches.lock();
        inner.count = inner.count.saturating_sub(usize::from(self.is_counted));
        if let Some(followed) = inner.followed.get_mut(&self.op_id) {
            followed.watchers = followed.watchers.saturating_sub(1);
            if followed.watchers == 0 {
                inner.followed.remove(&self.op_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_follows_hears_of_each_change_and_leaves_nothing_behind() {
        let (watches, op_id) = (Watches::default(), OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap());
        let (mut one, mut two) = (watches.follow(&op_id).unwrap(), watches.follow(&op_id).unwrap());
        watches.changed(&op_id);
        one.next().await;
        watches.all_changed();
        one.next().await;
        two.next().await;
        drop(one);
        watches.changed(&op_id);
        two.next().await;
        drop(two);
        let inner = watches.lock();
        assert_eq!((inner.count, inner.followed.len()), (0, 0));
    }

    #[tokio::test]
    async fn who_waits_for_an_end_is_not_woken_before_it_may_have_come() {
        let (watches, op_id) = (Watches::default(), OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap());
        let mut watch = watches.follow_own(&op_id);
        watches.is_further(&op_id);
        assert!(futures_util::FutureExt::now_or_never(watch.end()).is_none());
        watches.changed(&op_id);
        watches.is_further(&op_id);
        watch.end().await;
        assert!(futures_util::FutureExt::now_or_never(watch.end()).is_none());
    }

    #[test]
    fn so_many_may_follow_and_no_more() {
        let (watches, op_id) = (Watches::default(), OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap());
        let mut all: Vec<Watch> = (0..limits::OP_WATCHES_MAX).map(|_| watches.follow(&op_id).unwrap()).collect();
        assert_eq!(watches.follow(&op_id).unwrap_err().code, Code::Busy);
        all.pop();
        assert!(watches.follow(&op_id).is_ok());
    }
}
