//! `check`: watches whether a guest runs, and goes on to.
//!
//! Nothing is begun on the host. It goes on under a name of the agent's own, so that a later life takes it up past the order's last
//! moment too; that one looks anew. What counts is what was seen: how long a guest ran before says nothing about what was just done to it.

use std::time::Duration;

use moorline_common::fault::{Code, Fault, cut};
use moorline_common::observe::GuestStatus;
use moorline_common::op::guest::Check;
use moorline_common::pve::answer::ErrorKind;
use serde_json::Value;
use tokio::time::Instant;

use super::super::{DriverError, OpResult};
use super::client::{CallError, Params, Transport, Verb};
use super::run::Run;
use crate::limits::{PVE_CHECK_LOOK, PVE_CHECK_SLACK};

/// The name under which it goes on.
pub(super) const TASK: &str = "check";
/// A host tells whole seconds, of a moment within the look.
const UPTIME_SLACK_S: u64 = 2;

/// How a guest was at a look.
enum Seen {
    /// It ran, for so long if the host told, and its guest agent answered, if it was asked.
    Well { uptime_s: Option<u64>, agent: bool },
    /// It did not, or its guest agent did not answer.
    Unwell(String),
}

/// Since when it runs without a break.
#[derive(Clone, Copy)]
struct Unbroken {
    from: Instant,
    uptime_s: Option<u64>,
}

impl Unbroken {
    /// Whether it was not started anew since, where it runs for `uptime_s` at a look that was asked for then. A host that was away for a
    /// while tells that afterwards.
    fn goes_on(self, uptime_s: Option<u64>, asked: Instant) -> bool {
        let (Some(before), Some(is)) = (self.uptime_s, uptime_s) else { return true };
        is >= before && is.saturating_add(UPTIME_SLACK_S) >= asked.saturating_duration_since(self.from).as_secs()
    }
}

/// Watches until it ran for as long as is asked, or the time is over.
pub(super) async fn watch<T: Transport>(run: &Run<'_, T>, check: &Check) -> OpResult {
    let (span, limit) = (Duration::from_secs(check.for_s.into()), Duration::from_secs(check.timeout_s.into()));
    let deadline = Instant::now() + limit;
    let mut unbroken: Option<Unbroken> = None;
    loop {
        let asked = Instant::now();
        let seen = tokio::time::timeout_at(deadline + PVE_CHECK_SLACK, look(run)).await;
        let mut next = asked + PVE_CHECK_LOOK;
        let why = match seen.unwrap_or_else(|_| Err(DriverError::no_answer("`check`"))) {
            Ok(Seen::Well { uptime_s, agent }) => {
                let from = unbroken.filter(|before| before.goes_on(uptime_s, asked)).map_or_else(Instant::now, |before| before.from);
                unbroken = Some(Unbroken { from, uptime_s });
                let ran = asked.saturating_duration_since(from);
                if ran >= span {
                    return well(run, uptime_s, agent);
                }
                next = next.min(from + span);
                Fault::new(Code::NotHealthy, format!("it was seen to run without a break for {} s of {}", ran.as_secs(), check.for_s))
            }
            Ok(Seen::Unwell(why)) => {
                unbroken = None;
                Fault::new(Code::NotHealthy, why)
            }
            // There is nothing to wait for.
            Err(error) if matches!(error.code, Code::NotFound | Code::IncarnationChanged) => return ended(error.code, &error.message),
            Err(error) => Fault::new(error.code, error.message),
        };
        if asked >= deadline {
            let message = format!("`check` on {}: after {} s {}", run.order.resource, check.timeout_s, why.message);
            return ended(if why.code == Code::OpFailed { Code::NotHealthy } else { why.code }, &message);
        }
        tokio::time::sleep_until(next.min(deadline)).await;
    }
}

fn well<T: Transport>(run: &Run<'_, T>, uptime_s: Option<u64>, agent: bool) -> OpResult {
    if let Some(uptime_s) = uptime_s {
        run.note("uptime_s", Value::from(uptime_s));
    }
    run.note("agent", Value::from(agent));
    run.result()
}

fn ended(code: Code, message: &str) -> OpResult {
    OpResult { fault: Some(Fault::new(code, cut(message))), result: Value::Null }
}

async fn look<T: Transport>(run: &Run<'_, T>) -> Result<Seen, DriverError> {
    let live = run.live().await?;
    match live.status {
        GuestStatus::Stopped => return Ok(Seen::Unwell("it does not run".to_owned())),
        GuestStatus::Paused => return Ok(Seen::Unwell("it is frozen".to_owned())),
        GuestStatus::Running => {}
    }
    if !live.has_agent {
        return Ok(Seen::Well { uptime_s: live.uptime_s, agent: false });
    }
    match run.client.of_guest(Verb::Post, run.at, &["agent", "ping"], &Params::new()).await {
        Ok(_) => Ok(Seen::Well { uptime_s: live.uptime_s, agent: true }),
        // The token may not ask, or the host has no such call: that it runs is all that is to be known.
        Err(error) if matches!(error.kind(), Some(ErrorKind::Forbidden | ErrorKind::Invalid)) => {
            Ok(Seen::Well { uptime_s: live.uptime_s, agent: false })
        }
        Err(error @ CallError::NoReply(_)) => Err(run.failed(error)),
        Err(CallError::Api(error)) => Ok(Seen::Unwell(format!("its guest agent does not answer: {error}"))),
    }
}
