//! The account as it is asked: with delays, and with what goes wrong on the wire.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use crate::request::{Request, Response};
use crate::setup::Setup;
use crate::world::World;
use crate::world::faults::Wrong;
use crate::world::hand::Hand;
use crate::world::power::Power;

/// An account, to be shared. Its time is that of tokio: a test that pauses that also pauses this.
#[derive(Debug, Clone)]
pub struct Sim {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    began: Instant,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    world: World,
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
    /// An account as it begins.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let world = World::new(setup);
        let state = Mutex::new(State { base_ms: world.now_ms, world });
        Self { shared: Arc::new(Shared { state, began: Instant::now(), changed: Notify::new() }) }
    }

    /// The account as it is now.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = u64::try_from(self.shared.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now_ms = state.base_ms.saturating_add(passed);
        state.world.settle(now_ms);
        state
    }

    /// Its time, in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.lock().world.now_ms
    }

    /// Looks at it, as it is now.
    pub fn inspect<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.lock().world)
    }

    /// Changes it, as it is now.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let changed = change(&mut self.lock().world);
        self.shared.changed.notify_waiters();
        changed
    }

    /// Lets so many milliseconds go by at once, beside those of the clock.
    pub fn advance(&self, ms: u64) {
        {
            let mut state = self.lock();
            state.base_ms = state.base_ms.saturating_add(ms);
        }
        drop(self.lock());
        self.shared.changed.notify_waiters();
    }

    /// Does something behind the API's back.
    ///
    /// # Errors
    /// When there is nothing to do it to.
    pub fn hand(&self, hand: &Hand) -> Result<(), String> {
        self.change(|world| world.hand(hand))
    }

    /// Tells from now on of every droplet that is switched on or off, in order; see [`World::watch`].
    #[must_use]
    pub fn watch(&self) -> UnboundedReceiver<Power> {
        self.change(World::watch)
    }

    /// Lets what comes by itself come in time, though nobody calls. It never ends.
    pub async fn keep_time(&self) {
        loop {
            let changed = self.shared.changed.notified();
            let (now_ms, next_ms) = self.inspect(|world| (world.now_ms, world.next_ms()));
            match next_ms {
                Some(next_ms) => {
                    let left = tokio::time::sleep(Duration::from_millis(next_ms.saturating_sub(now_ms).max(1)));
                    tokio::select! {
                        () = changed => {}
                        () = left => {}
                    }
                }
                None => changed.await,
            }
        }
    }

    /// Makes a call. What it does is done even when nobody waits for the answer any more.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn answer(&self, request: Request) -> Result<Response, Cut> {
        let (is_cut, faults) = self.change(|world| (world.faults.unreachable, world.take_faults(&request)));
        if is_cut {
            return Err(Cut::Closed);
        }
        let before = faults.iter().find_map(|fault| match fault {
            Wrong::LoseRequest => Some(Err(Cut::Closed)),
            Wrong::StatusBefore(status) => Some(Ok(self.change(|world| world.refuse(&request, refusal(*status))))),
            Wrong::TooMany(after) => Some(Ok(self.change(|world| world.refuse(&request, too_many(world.now_ms, *after))))),
            Wrong::LoseReply | Wrong::StatusAfter(_) | Wrong::DelayMs(_) | Wrong::Hang | Wrong::Garbage | Wrong::Empty => None,
        });
        if let Some(end) = before {
            return end;
        }
        let delay_ms = faults.iter().find_map(|fault| if let Wrong::DelayMs(ms) = fault { Some(*ms) } else { None });
        let answer = match delay_ms {
            Some(ms) => self.late(request, ms).await,
            None => self.change(|world| world.call(&request)),
        };
        let takes_ms = self.inspect(|world| world.setup.latencies.answer);
        if takes_ms > 0 {
            tokio::time::sleep(Duration::from_millis(takes_ms)).await;
        }
        let mut end = Ok(answer);
        for fault in &faults {
            match fault {
                Wrong::LoseReply => return Err(Cut::Closed),
                Wrong::Hang => return Err(Cut::Hangs),
                Wrong::StatusAfter(status) => end = Ok(refusal(*status)),
                Wrong::Garbage => {
                    // Nothing would be seen of it where no body is allowed.
                    let status = |status: u16| if status == 204 { 200 } else { status };
                    let body = b"<html>by some proxy".to_vec();
                    end = end.map(|answer| Response { status: status(answer.status), headers: Vec::new(), body });
                }
                Wrong::Empty => end = end.map(emptied),
                Wrong::LoseRequest | Wrong::StatusBefore(_) | Wrong::DelayMs(_) | Wrong::TooMany(_) => {}
            }
        }
        end
    }

    /// A call that is long on its way.
    async fn late(&self, request: Request, after_ms: u64) -> Response {
        let number = self.change(|world| world.send(request, after_ms));
        loop {
            let changed = self.shared.changed.notified();
            if let Some(response) = self.change_quietly(|world| world.reply(number)) {
                return response;
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(Duration::from_millis(after_ms.max(1))) => {}
            }
        }
    }

    fn change_quietly<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        change(&mut self.lock().world)
    }
}

fn refusal(status: u16) -> Response {
    let (id, message) = match status {
        401 => ("unauthorized", "Unable to authenticate you"),
        403 => ("forbidden", "You are not authorized to perform this operation"),
        404 => ("not_found", "The resource you were accessing could not be found."),
        429 => ("too_many_requests", "API rate limit exceeded."),
        503 => ("service_unavailable", "Service Unavailable"),
        _ => ("server_error", "Server was unable to give you a response."),
    };
    Response::failure(status, id, message)
}

/// A listing that shows nothing. Other answers stay as they are.
fn emptied(mut answer: Response) -> Response {
    let Value::Object(mut body) = answer.read() else { return answer };
    if !body.contains_key("meta") {
        return answer;
    }
    body.values_mut().filter(|value| value.is_array()).for_each(|list| *list = json!([]));
    body.insert("meta".to_owned(), json!({ "total": 0 }));
    body.insert("links".to_owned(), json!({}));
    answer.body = Value::Object(body).to_string().into_bytes();
    answer
}

/// Too many calls, in a burst with `after` seconds to wait, or in an hour.
fn too_many(now_ms: u64, after: Option<u64>) -> Response {
    let mut response = refusal(429);
    let reset = now_ms / 1000 + after.unwrap_or(600);
    let mut header = |name: &str, value: String| response.headers.push((name.to_owned(), value));
    header("ratelimit-limit", "5000".to_owned());
    header("ratelimit-remaining", "0".to_owned());
    header("ratelimit-reset", reset.to_string());
    if let Some(after) = after {
        header("retry-after", after.to_string());
    }
    response
}
