//! Following an operation until it has ended, or nothing more can be hoped for.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, OpId, UnixSeconds};
use moorline_common::op::{Stage, State};

use super::guest::log::TaskLog;
use crate::client::Client;
use crate::client::ops::{OpFacts, OpWatch};
use crate::clock;
use crate::error::{EXIT_INTERRUPTED, Failure, LocalCode};
use crate::limits::{POLL_INTERVAL, PULL_LINES_INTERVAL, PULL_LOOK, RECEIPT_GRACE};
use crate::render::{Ui, visible};

/// Why a wait ended without the operation's end.
enum Over {
    Time,
    Window,
    Interrupt,
}

/// Follows an operation until it has ended, `limit` is over, or its own last moment has passed without its beginning.
///
/// # Errors
/// [`LocalCode::NotConverged`] when the wait ends first: the operation goes on; [`Code::Expired`] when its window does.
pub async fn until_settled(
    client: &Client,
    ui: &mut Ui,
    op_id: &OpId,
    expires_at: UnixSeconds,
    limit: Duration,
    mut beside: Beside<'_>,
) -> Result<OpFacts, Failure> {
    let over = Instant::now() + limit;
    let left_ms = expires_at.0.saturating_mul(1000).saturating_sub(client.hub_now_ms());
    // Far enough that it adds up: a window is at most days.
    let window = Instant::now() + Duration::from_millis(left_ms.min(u64::from(u32::MAX))) + RECEIPT_GRACE;
    let bar = if matches!(beside, Beside::Quiet) { ProgressBar::hidden() } else { bar(ui) };
    let mut shown: Option<(Stage, String)> = None;
    let mut is_told = false;
    let ended = loop {
        let has_begun = matches!(shown, Some((Stage::At(State::Started | State::TaskRunning), _)));
        let until = if has_begun { over } else { over.min(window) };
        let settled = async {
            let mut watch = client.watch_op(op_id).await?;
            while let Some(op) = next(&mut watch, client, ui, &bar, &mut beside).await? {
                let now = (op.state, op.message.clone());
                let begins = !has_begun && matches!(op.state, Stage::At(State::Started | State::TaskRunning));
                if shown.as_ref() != Some(&now) {
                    if beside.may_be_told(&op) {
                        show(ui, &bar, &op);
                    }
                    shown = Some(now);
                }
                if op.state.is_settled() {
                    return Ok(Some(op));
                }
                if begins {
                    // From here on its window does not matter.
                    return Ok(None);
                }
            }
            Ok::<_, Failure>(None)
        };
        let look = tokio::select! {
            look = tokio::time::timeout_at(until.into(), settled) => look,
            Ok(()) = tokio::signal::ctrl_c() => break Err(Over::Interrupt),
        };
        match look {
            Ok(Ok(Some(op))) => break Ok(op),
            // A hub that restarts is back in seconds; what was submitted is durable.
            Ok(Ok(None)) => {}
            Ok(Err(failure)) if failure.code == LocalCode::HubUnreachable.as_str() => {
                bar.set_message(AWAY);
                if bar.is_hidden() && !std::mem::replace(&mut is_told, true) {
                    ui.note(AWAY);
                }
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => break Err(if until < over { Over::Window } else { Over::Time }),
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            Ok(()) = tokio::signal::ctrl_c() => break Err(Over::Interrupt),
        }
    };
    if let (Ok(_), Beside::Log(log)) = (&ended, &mut beside) {
        log.drain(ui, &bar).await;
    }
    bar.finish_and_clear();
    ended.map_err(|over| unsettled(&over, op_id, shown.map(|(stage, _)| stage), expires_at, limit))
}

const AWAY: &str = "the hub does not answer; trying again";

/// What else is shown while an operation is waited for.
pub enum Beside<'a> {
    /// Nothing.
    Nothing,
    /// How far the pull is that it does.
    Pull(Pulled<'a>),
    /// The log of what it runs as.
    Log(Box<TaskLog>),
    /// Somebody else tells how it goes: only what it waits for is said here.
    Quiet,
}

impl Beside<'_> {
    fn may_be_told(&self, op: &OpFacts) -> bool {
        let waits = matches!(op.state, Stage::At(State::Accepted | State::Queued)) && !op.message.is_empty();
        waits || !matches!(self, Beside::Quiet)
    }
}

/// An image whose pull is followed beside the operation that pulls it.
pub struct Pulled<'a> {
    host: &'a HostName,
    image: &'a str,
    said: Option<(String, Instant)>,
}

impl<'a> Pulled<'a> {
    /// The pull of `image` on `host`.
    pub fn new(host: &'a HostName, image: &'a str) -> Self {
        Self { host, image, said: None }
    }

    async fn show(&mut self, client: &Client, ui: &mut Ui, bar: &ProgressBar) {
        // Nothing hangs on it: what is not known is not shown.
        let Ok(host) = client.host(self.host).await else { return };
        let Some(pull) = host.pulls.iter().find(|p| p.image == self.image) else { return };
        let words = visible(&pull.to_string());
        if !bar.is_hidden() {
            bar.set_message(words);
        } else if self.said.as_ref().is_none_or(|(said, at)| *said != words && at.elapsed() >= PULL_LINES_INTERVAL) {
            ui.note(&words);
            self.said = Some((words, Instant::now()));
        }
    }
}

/// What becomes of the operation next; meanwhile how far its pull is, and what its tasks say.
async fn next(
    watch: &mut OpWatch,
    client: &Client,
    ui: &mut Ui,
    bar: &ProgressBar,
    beside: &mut Beside<'_>,
) -> Result<Option<OpFacts>, Failure> {
    loop {
        tokio::select! {
            op = watch.next() => return op,
            () = tokio::time::sleep(PULL_LOOK), if matches!(beside, Beside::Pull(_)) => {
                if let Beside::Pull(pulled) = beside {
                    pulled.show(client, ui, bar).await;
                }
            }
            lines = lines(beside) => {
                if let Beside::Log(log) = beside {
                    log.show(ui, bar, &lines);
                }
            }
        }
    }
}

/// The next lines of the log beside, if there is one.
async fn lines(beside: &mut Beside<'_>) -> Vec<String> {
    match beside {
        Beside::Log(log) => log.lines().await,
        Beside::Nothing | Beside::Pull(_) | Beside::Quiet => std::future::pending().await,
    }
}

/// What is known of an operation that has not ended when the wait did.
fn unsettled(over: &Over, op_id: &OpId, stage: Option<Stage>, expires_at: UnixSeconds, limit: Duration) -> Failure {
    let at = stage.map_or_else(|| "not known yet".to_owned(), |stage| stage.to_string());
    let goes_on = format!("it goes on by itself; look with `moorctl op show {op_id}`, take it back with `moorctl op cancel {op_id}`");
    match over {
        Over::Time => {
            let waited = clock::span_words(limit.as_secs());
            Failure::new(LocalCode::NotConverged, format!("operation {op_id} has not ended after {waited}: it is {at}"), goes_on)
        }
        Over::Interrupt => {
            let message = format!("the wait was broken off, the operation was not: {op_id} is {at}");
            let failure = Failure::new(LocalCode::NotConverged, message, goes_on);
            Failure { exit: EXIT_INTERRUPTED, ..failure }
        }
        Over::Window => {
            let when = clock::rfc3339(expires_at.0.saturating_mul(1000));
            let (what, next) = match stage {
                None | Some(Stage::Submitted) => (
                    "its host was not connected, or not ready for orders, and was never sent it",
                    "it is not done any more; order it anew when the host is there, or give it longer with --expires".to_owned(),
                ),
                Some(_) => (
                    "its host was sent it and has not said whether it began",
                    format!("its receipt tells, once the host is back: `moorctl op show {op_id}`; until then it is not known"),
                ),
            };
            let message = format!("the last moment of operation {op_id} has passed ({when}): {what}");
            Failure::from(Fault::new(Code::Expired, message)).with_remedy(next)
        }
    }
}

fn bar(ui: &Ui) -> ProgressBar {
    if !ui.progress_bars() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(POLL_INTERVAL);
    bar
}

/// How far it is, for people.
fn show(ui: &mut Ui, bar: &ProgressBar, op: &OpFacts) {
    let words = match op.state {
        Stage::Submitted => "submitted; it is sent when the host is connected and ready for orders".to_owned(),
        Stage::Sent => "sent to the host".to_owned(),
        Stage::At(_) | Stage::Refused if op.message.is_empty() => op.state.to_string(),
        Stage::At(_) | Stage::Refused => format!("{}: {}", op.state, visible(&op.message)),
    };
    if bar.is_hidden() {
        if !op.state.is_settled() {
            ui.note(&words);
        }
    } else {
        bar.set_message(words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_ends_first_says_what_is_known_and_what_is_not() {
        let id = OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap();
        let say = |over: Over, stage| unsettled(&over, &id, stage, UnixSeconds(1_000), Duration::from_secs(600));
        let broken = say(Over::Interrupt, Some(Stage::Sent));
        assert_eq!((broken.code, broken.exit), ("not_converged", 130));
        assert!(broken.message.contains("is sent") && broken.remedy.contains("moorctl op show 0197a2b4"), "{broken:?}");
        let never = say(Over::Window, Some(Stage::Submitted));
        assert!(never.is(Code::Expired) && never.message.contains("never sent") && never.remedy.contains("--expires"), "{never:?}");
        let unknown = say(Over::Window, Some(Stage::Sent));
        assert!(unknown.message.contains("has not said whether it began") && unknown.remedy.contains("not known"), "{unknown:?}");
        assert!(say(Over::Time, None).message.contains("not known yet"));
    }
}
