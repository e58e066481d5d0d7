//! What costs processor time host by host, on all processors.

use crate::limits::{WORKER_SHARE_MIN, WORKERS_MAX};

/// How many threads work at once.
#[must_use]
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS_MAX)
}

/// What `work` makes of each of `items`, in their order.
pub fn map<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    parts(items, |part| part.iter().map(&work).collect::<Vec<R>>()).into_iter().flatten().collect()
}

/// What `work` makes of the parts of `items`, in their order: of one at least, and all of them together are `items`.
pub fn parts<T: Sync, R: Send>(items: &[T], work: impl Fn(&[T]) -> R + Sync) -> Vec<R> {
    let share = items.len().div_ceil(workers()).max(WORKER_SHARE_MIN);
    if items.len() <= share {
        return vec![work(items)];
    }
    let work = &work;
    std::thread::scope(|scope| {
        let all: Vec<_> = items.chunks(share).map(|part| scope.spawn(move || work(part))).collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_there_are_each_is_worked_on_once_and_order_stays() {
        for count in [0, 1, WORKER_SHARE_MIN, WORKER_SHARE_MIN + 1, 10 * WORKER_SHARE_MIN + 3] {
            let items: Vec<usize> = (0..count).collect();
            assert_eq!(map(&items, |n| n * 2), items.iter().map(|n| n * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic(expected = "number 77")]
    fn a_panic_is_not_swallowed() {
        let items: Vec<usize> = (0..100).collect();
        map(&items, |n| assert!(*n != 77, "number 77"));
    }
}
