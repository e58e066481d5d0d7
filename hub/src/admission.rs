//! Who may shake hands, and when: no address from which connections come holds up the others.
//!
//! | the listener does IO | this decides |
//! |---|---|
//! | accepts, shakes hands, closes | is there room for this connection? whose turn is it? must a slow one go? |
//!
//! A *source* is an IPv4 address, or an IPv6 network of 64 bits. Each may have as many unfinished
//! connections as there is room left in all, so that whoever comes next always finds some.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// Counts connections by their sources. Clones share the counts.
#[derive(Clone)]
pub struct Admission(Arc<Shared>);

struct Shared {
    counts: Mutex<Counts>,
    turns: Arc<Semaphore>,
}

#[derive(Default)]
struct Counts {
    sources: BTreeMap<IpAddr, Source>,
    unfinished: usize,
    anonymous: usize,
    /// Those that have their source's turn and wait for one of all.
    waiting: usize,
}

struct Source {
    unfinished: usize,
    waiting: usize,
    anonymous: usize,
    turns: Arc<Semaphore>,
}

impl Default for Admission {
    fn default() -> Self {
        Self(Arc::new(Shared { counts: Mutex::default(), turns: Arc::new(Semaphore::new(limits::HANDSHAKES_MAX)) }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// The entry of a source. Those without connections are forgotten by [`Counts::leave`].
    fn source(&mut self, source: IpAddr) -> &mut Source {
        self.sources.entry(source).or_insert_with(|| Source {
            unfinished: 0,
            waiting: 0,
            anonymous: 0,
            turns: Arc::new(Semaphore::new(limits::HANDSHAKES_PER_SOURCE)),
        })
    }

    fn leave(&mut self, source: IpAddr, change: impl FnOnce(&mut Source)) {
        let Some(entry) = self.sources.get_mut(&source) else { return };
        change(entry);
        if entry.unfinished == 0 && entry.anonymous == 0 {
            self.sources.remove(&source);
        }
    }
}

impl Admission {
    /// Lets a connection from `address` in, if its source does not have more than its share.
    #[must_use]
    pub fn arrive(&self, address: IpAddr) -> Option<Arrival> {
        let source = source_of(address);
        let mut counts = self.0.lock();
        let room = limits::UNFINISHED_MAX.saturating_sub(counts.unfinished);
        if counts.sources.get(&source).map_or(0, |s| s.unfinished) >= room {
            return None;
        }
        counts.unfinished += 1;
        counts.source(source).unfinished += 1;
        drop(counts);
        Some(Arrival { shared: self.0.clone(), source })
    }
}

/// A connection whose handshake has not ended; it counts for as long as this lives.
pub struct Arrival {
    shared: Arc<Shared>,
    source: IpAddr,
}

/// The right to shake hands.
pub struct Turn {
    _source: Option<OwnedSemaphorePermit>,
    _all: Option<OwnedSemaphorePermit>,
}

impl Arrival {
    /// Waits for this connection's turn: first within its source, then among all.
    pub async fn turn(&self) -> Turn {
        let turns = {
            let mut counts = self.shared.lock();
            counts.source(self.source).waiting += 1;
            counts.source(self.source).turns.clone()
        };
        // The semaphores are never closed.
        let source = turns.acquire_owned().await.ok();
        {
            let mut counts = self.shared.lock();
            counts.source(self.source).waiting -= 1;
            counts.waiting += 1;
        }
        let all = self.shared.turns.clone().acquire_owned().await.ok();
        self.shared.lock().waiting -= 1;
        Turn { _source: source, _all: all }
    }

    /// Whether others wait for what this connection holds.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        let mut counts = self.shared.lock();
        counts.waiting > 0 || counts.source(self.source).waiting > 0
    }

    /// The place of a connection that showed no certificate, if there is one left.
    #[must_use]
    pub fn anonymous(&self) -> Option<Anonymous> {
        let mut counts = self.shared.lock();
        if counts.anonymous >= limits::ANONYMOUS_MAX || counts.source(self.source).anonymous >= limits::ANONYMOUS_PER_SOURCE {
            return None;
        }
        counts.anonymous += 1;
        counts.source(self.source).anonymous += 1;
        drop(counts);
        Some(Anonymous { shared: self.shared.clone(), source: self.source })
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut counts = self.shared.lock();
        counts.unfinished = counts.unfinished.saturating_sub(1);
        counts.leave(self.source, |s| s.unfinished = s.unfinished.saturating_sub(1));
    }
}

/// The place of a connection without a certificate; given back when it ends.
pub struct Anonymous {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        let mut counts = self.shared.lock();
        counts.anonymous = counts.anonymous.saturating_sub(1);
        counts.leave(self.source, |s| s.anonymous = s.anonymous.saturating_sub(1));
    }
}

/// What counts as one source.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn arrivals(admission: &Admission, n: u8) -> Vec<Arrival> {
        std::iter::from_fn(|| admission.arrive(address(n))).collect()
    }

    #[test]
    fn a_source_that_takes_all_it_can_leaves_room_for_others() {
        let admission = Admission::default();
        let first = arrivals(&admission, 1);
        assert_eq!(first.len(), limits::UNFINISHED_MAX / 2);
        let second = arrivals(&admission, 2);
        assert!(second.len() >= limits::UNFINISHED_MAX / 4, "{}", second.len());
        assert!(admission.arrive(address(3)).is_some());
        drop(first);
        assert!(admission.arrive(address(1)).is_some());
    }

    #[tokio::test]
    async fn turns_of_one_source_do_not_take_those_of_others() {
        let admission = Admission::default();
        let slow: Vec<Arrival> = (0..limits::HANDSHAKES_PER_SOURCE).map(|_| admission.arrive(address(1)).unwrap()).collect();
        let mut turns = Vec::new();
        for arrival in &slow {
            turns.push(arrival.turn().await);
        }
        assert!(!slow[0].is_pressed());
        let (next, other) = (admission.arrive(address(1)).unwrap(), admission.arrive(address(2)).unwrap());
        let waiting = tokio::spawn(async move { drop(next.turn().await) });
        other.turn().await;
        while !slow[0].is_pressed() {
            tokio::task::yield_now().await;
        }
        assert!(!other.is_pressed(), "who waits waits for its own source");
        drop(turns);
        waiting.await.unwrap();
    }

    #[test]
    fn connections_without_a_certificate_are_counted_by_source() {
        let admission = Admission::default();
        let arrival = admission.arrive(address(1)).unwrap();
        let held: Vec<Anonymous> = std::iter::from_fn(|| arrival.anonymous()).collect();
        assert_eq!(held.len(), limits::ANONYMOUS_PER_SOURCE);
        assert!(admission.arrive(address(2)).unwrap().anonymous().is_some());
        drop(held);
        assert!(arrival.anonymous().is_some());
    }

    #[test]
    fn a_source_is_forgotten_with_its_last_connection() {
        let admission = Admission::default();
        drop(admission.arrive(address(1)).unwrap().anonymous());
        assert!(admission.0.lock().sources.is_empty());
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let v6 = |text: &str| source_of(text.parse().unwrap());
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::ffff:2"));
        assert_ne!(v6("2001:db8::1"), v6("2001:db8:0:1::1"));
        assert_eq!(v6("::ffff:192.0.2.1"), address(1));
    }
}
