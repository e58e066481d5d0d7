//! How far the pulls of a driver are, for whoever looks: the newest counts, nothing is kept.

use std::collections::BTreeMap;

use moorline_common::pulling::Pulling;
use tokio::sync::watch;

use crate::limits::PULLS_TOLD_MAX;

/// The pulls that are under way, by the order in which they were asked for.
type Pulls = BTreeMap<u64, Pulling>;

/// All of a driver's pulls.
#[derive(Debug, Default)]
pub struct Board(watch::Sender<Pulls>);

/// What a [`Board`] shows.
#[derive(Debug, Clone)]
pub struct View(watch::Receiver<Pulls>);

/// One pull on a [`Board`]; it goes with its value.
#[derive(Debug)]
pub struct Entry<'a> {
    board: &'a Board,
    key: u64,
}

impl Board {
    /// Shows one more, which waits.
    pub(super) fn add(&self, image: &str) -> Entry<'_> {
        let mut key = 0;
        self.0.send_modify(|pulls| {
            key = pulls.last_key_value().map_or(0, |(last, _)| last.saturating_add(1));
            pulls.insert(key, Pulling { image: image.to_owned(), waiting: true, ..Pulling::default() });
        });
        Entry { board: self, key }
    }

    /// For somebody who looks.
    #[must_use]
    pub fn view(&self) -> View {
        View(self.0.subscribe())
    }
}

impl View {
    /// One that never shows anything.
    #[must_use]
    pub fn empty() -> Self {
        Self(watch::channel(Pulls::new()).1)
    }

    /// Waits for news; for ever, when there will be none.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// What is to be seen, at most [`PULLS_TOLD_MAX`] of it: those that have begun first.
    #[must_use]
    pub fn now(&mut self) -> Vec<Pulling> {
        let pulls = self.0.borrow_and_update();
        let (waiting, begun): (Vec<&Pulling>, Vec<&Pulling>) = pulls.values().partition(|p| p.waiting);
        begun.into_iter().chain(waiting).take(PULLS_TOLD_MAX).cloned().collect()
    }
}

impl Entry<'_> {
    /// Shows how far it is.
    pub(super) fn show(&self, now: Pulling) {
        self.board.0.send_if_modified(|pulls| match pulls.get_mut(&self.key) {
            Some(was) if *was != now => {
                *was = now;
                true
            }
            Some(_) | None => false,
        });
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.board.0.send_modify(|pulls| drop(pulls.remove(&self.key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_pulled_is_shown_while_it_is_and_only_so_much_of_it() {
        let board = Board::default();
        let mut view = board.view();
        let entries: Vec<Entry<'_>> = (0..=PULLS_TOLD_MAX).map(|n| board.add(&n.to_string())).collect();
        view.changed().await;
        let last = Pulling { image: PULLS_TOLD_MAX.to_string(), layers: 1, ..Pulling::default() };
        entries.last().unwrap().show(last.clone());
        let shown = view.now();
        assert_eq!((shown.len(), shown.first()), (PULLS_TOLD_MAX, Some(&last)), "what has begun comes first");
        drop(entries);
        view.changed().await;
        assert_eq!(view.now(), []);
    }
}
