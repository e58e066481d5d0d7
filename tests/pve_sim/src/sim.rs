//! The cluster as it is asked: with delays, and with what goes wrong on the wire.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::request::{Answer, Request, split_path};
use crate::setup::Setup;
use crate::world::faults::Wrong;
use crate::world::hand::Hand;
use crate::world::{PROXY_MS, Reply, World};

/// A cluster, to be shared. Its time is that of tokio: a test that pauses that also pauses this.
#[derive(Debug, Clone)]
pub struct Sim {
    world: Arc<Mutex<World>>,
    began: Instant,
    base_ms: u64,
}

/// A connection without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is closed.
    Closed,
    /// It stays open, and nothing ever comes: how long to wait is the caller's affair.
    Hangs,
}

impl Sim {
    /// A cluster as it begins.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self::of(World::new(setup))
    }

    /// One that goes on.
    #[must_use]
    pub fn of(world: World) -> Self {
        let base_ms = world.now_ms;
        Self { world: Arc::new(Mutex::new(world)), began: Instant::now(), base_ms }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its time, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.base_ms.saturating_add(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Looks at it, as it is now.
    pub fn inspect<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        let mut world = self.lock();
        world.settle(self.now_ms());
        look(&world)
    }

    /// Changes it, as it is now.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.lock();
        world.settle(self.now_ms());
        change(&mut world)
    }

    /// Does something behind the API's back.
    ///
    /// # Errors
    /// When there is no such guest, or nothing to do it to.
    pub fn hand(&self, hand: &Hand) -> Result<(), String> {
        self.lock().hand(self.now_ms(), hand)
    }

    /// Makes a call. What it does is done even when nobody waits for the answer any more.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn answer(&self, request: Request) -> Result<Answer, Cut> {
        let path = split_path(&request.path).0.trim_start_matches("/api2/json").to_owned();
        let (is_cut, faults) = self.change(|world| (world.faults.unreachable, world.faults.take(&request.method, &path)));
        if is_cut {
            return Err(Cut::Closed);
        }
        for fault in &faults {
            if let Wrong::DelayMs(ms) = fault {
                tokio::time::sleep(Duration::from_millis(*ms)).await;
            }
        }
        let before = faults.iter().find_map(|fault| match fault {
            Wrong::LoseRequest => Some(Err(Cut::Closed)),
            Wrong::StatusBefore(status) => Some(Ok(Answer::plain(*status, phrase(*status)))),
            Wrong::LoseReply | Wrong::StatusAfter(_) | Wrong::DelayMs(_) | Wrong::TakesMs(_) | Wrong::Hang | Wrong::Garbage => None,
        });
        if let Some(end) = before {
            return end;
        }
        let takes = faults.iter().find_map(|fault| if let Wrong::TakesMs(ms) = fault { Some(*ms) } else { None });
        let answer = self.serve(&request, takes).await;
        let mut end = Ok(answer);
        for fault in &faults {
            match fault {
                Wrong::LoseReply => return Err(Cut::Closed),
                Wrong::Hang => return Err(Cut::Hangs),
                Wrong::StatusAfter(status) => end = Ok(Answer::plain(*status, phrase(*status))),
                Wrong::Garbage => {
                    end = Ok(Answer { status: 200, reason: "OK".to_owned(), body: b"<html>a captive portal</html>".to_vec() })
                }
                Wrong::LoseRequest | Wrong::StatusBefore(_) | Wrong::DelayMs(_) | Wrong::TakesMs(_) => {}
            }
        }
        end
    }

    async fn serve(&self, request: &Request, takes_ms: Option<u64>) -> Answer {
        let began_ms = self.now_ms();
        let mut reply = self.lock().call_taking(began_ms, request, takes_ms);
        loop {
            match reply {
                Reply::Now(answer, after_ms) => {
                    tokio::time::sleep(Duration::from_millis(after_ms)).await;
                    return answer;
                }
                // The proxy gives up; what it waited for comes nevertheless.
                Reply::Later { at_ms, .. } if at_ms >= began_ms.saturating_add(PROXY_MS) => {
                    let left = began_ms.saturating_add(PROXY_MS).saturating_sub(self.now_ms());
                    tokio::time::sleep(Duration::from_millis(left)).await;
                    return Answer::plain(596, "Connection timed out");
                }
                Reply::Later { number, at_ms } => {
                    tokio::time::sleep(Duration::from_millis(at_ms.saturating_sub(self.now_ms()))).await;
                    let now_ms = self.now_ms().max(at_ms);
                    reply = self.lock().outcome(now_ms, number);
                }
            }
        }
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        595 => "Connection refused",
        596 => "Connection timed out",
        597 => "Broken pipe",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Internal Server Error",
    }
}
