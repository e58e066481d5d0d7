//! Tasks: work that a host goes on with after it has answered, known by a name.
//!
//! An answer with such a name never means success. Source: the API pages below `/nodes/{node}/tasks`.

use std::collections::VecDeque;
use std::time::Duration;

use moorline_common::fault::{Code, cut};
use moorline_common::pve::Vmid;
use moorline_common::pve::answer::{ApiError, ErrorKind};
use moorline_common::pve::lenient;
use moorline_common::pve::upid::{TaskEnd, Upid};
use serde_json::Value;
use tokio::time::Instant;

use super::super::{DriverError, DriverErrorKind, Taker};
use super::client::{CallError, Client, Params, Transport, Verb, params};
use crate::limits::{PVE_TASK_LINES, PVE_TASK_LOOK, PVE_TASKS_LISTED};

/// The task in an answer; `None` when the host says that all is done.
///
/// # Errors
/// [`DriverError`] of something else than either: what was asked for may have happened.
pub fn of_answer(answer: &Value, what: &str) -> Result<Option<Upid>, DriverError> {
    match answer.as_str() {
        None if answer.is_null() => Ok(None),
        Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|e| odd(what, &format!("{e}"))),
        None => Err(odd(what, &format!("the host answered {answer}, and no task"))),
    }
}

fn odd(what: &str, why: &str) -> DriverError {
    DriverError { kind: DriverErrorKind::Unreachable, code: Code::EngineUnreachable, message: cut(&format!("{what}: {why}")) }
}

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It runs.
    Running,
    /// It has ended.
    Ended(TaskEnd),
    /// The host does not know it, or no more.
    Unheard,
}

/// Where a task is.
///
/// # Errors
/// [`CallError`] when nobody can say.
pub async fn stage<T: Transport>(client: &Client<T>, upid: &Upid) -> Result<Stage, CallError> {
    let answer = match client.of_node(Verb::Get, &["tasks", upid.as_str(), "status"], &Params::new()).await {
        Ok(answer) => answer,
        Err(error) if error.kind() == Some(ErrorKind::NotFound) => return Ok(Stage::Unheard),
        // A name that this node cannot read is none of its own.
        Err(error) if error.kind() == Some(ErrorKind::Invalid) => return Ok(Stage::Unheard),
        Err(error) => return Err(error),
    };
    let text = |key: &str| lenient::text(answer.get(key)).unwrap_or_default();
    Ok(if text("status") == "running" { Stage::Running } else { Stage::Ended(TaskEnd::of(&text("exitstatus"))) })
}

/// Waits until a task has ended, for at most `limit`; `None` when it has not. `taker` gets its log as it grows. A host that cannot be asked
/// for a while is asked again: the task goes on without being watched.
///
/// # Errors
/// [`DriverError`] when nobody could say until the limit.
pub async fn wait<T: Transport>(client: &Client<T>, upid: &Upid, limit: Duration, mut taker: Taker) -> Result<Option<Stage>, DriverError> {
    let (deadline, mut told, mut looks) = (Instant::now() + limit, 0, 0_u32);
    loop {
        let seen = stage(client, upid).await;
        if taker.is_somebody() {
            told = tell(client, upid, told, &mut taker).await;
        }
        match seen {
            Ok(Stage::Running) if Instant::now() >= deadline => return Ok(None),
            Ok(Stage::Running) => {}
            Ok(ended) => return Ok(Some(ended)),
            Err(error) if Instant::now() >= deadline || !is_passing(&error) => return Err(unheard(error, upid)),
            Err(_) => {}
        }
        looks = looks.saturating_add(1);
        tokio::time::sleep(PVE_TASK_LOOK.ceiling(looks)).await;
    }
}

/// Nobody says how the task is: it goes on nevertheless.
fn unheard(error: CallError, upid: &Upid) -> DriverError {
    let error = error.into_driver(Code::OpFailed, &format!("asking for the task {upid}"));
    DriverError { kind: DriverErrorKind::Unreachable, ..error }
}

/// Whether asking again soon may help.
const fn is_passing(error: &CallError) -> bool {
    match error.kind() {
        None => true,
        Some(kind) => matches!(kind, ErrorKind::UnknownOutcome | ErrorKind::Busy | ErrorKind::Failed),
    }
}

/// Gives the lines of a task's log from `from` on; returns how many were given in all. What cannot be had now comes later.
async fn tell<T: Transport>(client: &Client<T>, upid: &Upid, from: u64, taker: &mut Taker) -> u64 {
    let mut told = from;
    loop {
        let range = params([("start", told.to_string().as_str()), ("limit", PVE_TASK_LINES.to_string().as_str())]);
        let Ok(answer) = client.of_node(Verb::Get, &["tasks", upid.as_str(), "log"], &range).await else { return told };
        let lines: Vec<(u64, String)> = lines(&answer).filter(|(n, _)| *n > told).collect();
        for (n, line) in &lines {
            taker.give(format!("{line}\n").as_bytes(), false).await;
            told = told.max(*n);
        }
        if lines.len() < PVE_TASK_LINES {
            return told;
        }
    }
}

/// The lines of a log with their numbers, from 1. A log without any has one that says so.
fn lines(answer: &Value) -> impl Iterator<Item = (u64, String)> {
    let line = |line: &Value| {
        let text = lenient::text(line.get("t")).unwrap_or_default();
        let n = line.get("n").and_then(lenient::uint)?;
        (text != "no content").then_some((n, text))
    };
    answer.as_array().into_iter().flatten().filter_map(line)
}

/// The last lines of a task's log, for people; none when they cannot be had.
pub async fn last_lines<T: Transport>(client: &Client<T>, upid: &Upid) -> Vec<String> {
    let mut last = VecDeque::with_capacity(LAST_LINES + 1);
    let mut from = 0;
    for _ in 0..LOG_PAGES_MAX {
        let range = params([("start", from.to_string().as_str()), ("limit", PVE_TASK_LINES.to_string().as_str())]);
        let Ok(answer) = client.of_node(Verb::Get, &["tasks", upid.as_str(), "log"], &range).await else { break };
        let page: Vec<(u64, String)> = lines(&answer).filter(|(n, _)| *n > from).collect();
        for (n, text) in &page {
            from = from.max(*n);
            if !text.trim().is_empty() {
                last.push_back(cut(text));
                while last.len() > LAST_LINES {
                    last.pop_front();
                }
            }
        }
        if page.len() < PVE_TASK_LINES {
            break;
        }
    }
    last.into()
}

/// So many of a log's last lines are told of a task that has ended.
const LAST_LINES: usize = 5;
/// Pages of a log that are read for its end.
const LOG_PAGES_MAX: usize = 100;

/// What a task's end means for who waited for it.
///
/// # Errors
/// [`ApiError`] of one that failed; [`ErrorKind::UnknownOutcome`] of one of which nobody knows.
pub fn outcome(stage: &Stage) -> Result<(), ApiError> {
    match stage {
        Stage::Ended(TaskEnd::Ok | TaskEnd::Warnings(_)) => Ok(()),
        Stage::Ended(TaskEnd::Failed(words)) => Err(ApiError::of_task(words)),
        Stage::Ended(TaskEnd::Unknown) => Err(ApiError::unknown("unexpected status")),
        Stage::Running | Stage::Unheard => Err(ApiError::unknown("its node does not know the task any more")),
    }
}

/// The newest tasks about a guest, running or ended, newest first.
///
/// # Errors
/// [`CallError`].
pub async fn about<T: Transport>(client: &Client<T>, vmid: Vmid) -> Result<Vec<Upid>, CallError> {
    let limit = PVE_TASKS_LISTED.to_string();
    let asked = params([("source", "all"), ("vmid", vmid.to_string().as_str()), ("limit", limit.as_str())]);
    let answer = client.of_node(Verb::Get, &["tasks"], &asked).await?;
    let upid = |task: &Value| lenient::text(task.get("upid"))?.parse::<Upid>().ok();
    let mut tasks: Vec<Upid> = answer.as_array().into_iter().flatten().filter_map(upid).collect();
    tasks.sort_by_key(|task| std::cmp::Reverse(task.started_s));
    Ok(tasks)
}

/// Tasks that run at once, and that are asked for: a host lists 50 when nobody says otherwise.
const ACTIVE_MAX: &str = "10000";

/// Consoles: they change nothing, and stay open for as long as somebody looks.
const CONSOLES: [&str; 5] = ["vncproxy", "vncshell", "termproxy", "spiceproxy", "spiceshell"];

/// The kinds of the tasks that run on guests now, as far as the token may see them.
///
/// # Errors
/// [`CallError`].
pub async fn running<T: Transport>(client: &Client<T>) -> Result<Vec<(Vmid, String)>, CallError> {
    let answer = client.of_node(Verb::Get, &["tasks"], &params([("source", "active"), ("limit", ACTIVE_MAX)])).await?;
    let runs = |task: &&Value| lenient::text(task.get("status")).is_none_or(|status| status == "running" || status == "RUNNING");
    let upid = |task: &Value| lenient::text(task.get("upid"))?.parse::<Upid>().ok();
    let tasks = answer.as_array().into_iter().flatten().filter(runs).filter_map(upid);
    let on_guests = tasks.filter(|task| !CONSOLES.contains(&task.kind.as_str()));
    Ok(on_guests.filter_map(|task| Some((Vmid::parse(&task.id).ok()?, task.kind))).collect())
}
