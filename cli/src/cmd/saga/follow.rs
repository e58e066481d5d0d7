//! Following a saga until it has ended or stands still.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::view::headline;
use crate::client::Client;
use crate::client::sagas::{SagaFact, SagaFacts};
use crate::clock;
use crate::error::{EXIT_INTERRUPTED, Failure, LocalCode};
use crate::limits::POLL_INTERVAL;
use crate::render::{Format, Ui};

/// The longest that anything is waited for: times further away do not add up.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const AWAY: &str = "the hub does not answer; trying again";

/// Why a wait ended before the saga did.
enum Over {
    Time,
    Interrupt,
}

/// Follows a saga until it has ended or is stuck; gives back how it stands then.
///
/// # Errors
/// [`LocalCode::NotConverged`] when the wait ends first: the saga goes on.
pub async fn until_over(client: &Client, ui: &mut Ui, first: SagaFacts, limit: Duration) -> Result<SagaFacts, Failure> {
    let until = Instant::now() + limit.min(FOREVER);
    let bar = bar(ui, &first);
    let mut shown = Shown { last: first, is_first: true };
    shown.news(ui, &bar, None)?;
    let mut is_told = false;
    let over = loop {
        if shown.last.is_over() {
            bar.finish_and_clear();
            return Ok(shown.last);
        }
        let look = tokio::select! {
            look = tokio::time::timeout_at(until.into(), watch(client, ui, &bar, &mut shown)) => look,
            Ok(()) = tokio::signal::ctrl_c() => break Over::Interrupt,
        };
        match look {
            Ok(Ok(())) => {}
            // A hub that restarts is back in seconds, and goes on where it was.
            Ok(Err(failure)) if failure.code == LocalCode::HubUnreachable.as_str() => {
                bar.set_message(AWAY);
                if bar.is_hidden() && !std::mem::replace(&mut is_told, true) {
                    ui.note(AWAY);
                }
            }
            Ok(Err(failure)) => return Err(failure),
            Err(_) => break Over::Time,
        }
        if shown.last.is_over() {
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            Ok(()) = tokio::signal::ctrl_c() => break Over::Interrupt,
        }
    };
    bar.finish_and_clear();
    Err(unsettled(&over, &shown.last, limit))
}

/// Shows news until the stream ends or nothing more is to come.
async fn watch(client: &Client, ui: &mut Ui, bar: &ProgressBar, shown: &mut Shown) -> Result<(), Failure> {
    let mut watch = client.watch_saga(&shown.last.saga_id).await?;
    while let Some(saga) = watch.next().await? {
        shown.news(ui, bar, Some(saga))?;
        if shown.last.is_over() {
            break;
        }
    }
    Ok(())
}

/// What was shown last.
struct Shown {
    last: SagaFacts,
    is_first: bool,
}

impl Shown {
    /// Shows what is new.
    fn news(&mut self, ui: &mut Ui, bar: &ProgressBar, now: Option<SagaFacts>) -> Result<(), Failure> {
        let now = now.unwrap_or_else(|| self.last.clone());
        let before = std::mem::replace(&mut self.last, now);
        let (now, is_first) = (&self.last, std::mem::replace(&mut self.is_first, false));
        bar.set_length(now.step_count.into());
        bar.set_position(now.steps_over.into());
        bar.set_message(now.timeline.last().map(|fact| fact.what.clone()).unwrap_or_else(|| now.status.to_string()));
        if ui.format != Format::Table {
            // The last one is the result.
            return if (is_first || before != *now) && !now.is_over() { ui.item(now, String::new) } else { Ok(()) };
        }
        if !bar.is_hidden() {
            return Ok(());
        }
        if is_first || before.status != now.status {
            ui.note(&headline(now));
        }
        let facts = if is_first { now.timeline.as_slice() } else { new_facts(&before.timeline, &now.timeline) };
        for fact in facts {
            ui.note(&format!("{}  {}", clock::rfc3339(fact.at_unix_ms), fact.what));
        }
        Ok(())
    }
}

/// What stands behind the last one that was shown.
pub(super) fn new_facts<'a>(before: &[SagaFact], now: &'a [SagaFact]) -> &'a [SagaFact] {
    let Some(last) = before.last() else { return now };
    let shown = now.iter().rposition(|fact| fact == last).map_or(0, |at| at + 1);
    now.get(shown..).unwrap_or_default()
}

fn bar(ui: &Ui, saga: &SagaFacts) -> ProgressBar {
    if !ui.progress_bars() || ui.format != Format::Table {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(saga.step_count.into());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} [{bar:20}] {pos}/{len} steps {wide_msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.enable_steady_tick(POLL_INTERVAL);
    bar
}

fn unsettled(over: &Over, saga: &SagaFacts, limit: Duration) -> Failure {
    let id = &saga.saga_id;
    let goes_on = format!("it goes on by itself; look with `moorctl saga show {id}`, let it be undone with `moorctl saga abort {id}`");
    match over {
        Over::Time => {
            let waited = clock::span_words(limit.as_secs());
            let message = format!("saga {id} has not ended after {waited}: it is {}", saga.status);
            Failure::new(LocalCode::NotConverged, message, goes_on)
        }
        Over::Interrupt => {
            let message = format!("the wait was broken off, the saga was not: {id} is {}", saga.status);
            let failure = Failure::new(LocalCode::NotConverged, message, goes_on);
            Failure { exit: EXIT_INTERRUPTED, ..failure }
        }
    }
}
