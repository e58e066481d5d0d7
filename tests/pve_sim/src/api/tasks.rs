//! Tasks and their logs.
//!
//! Source: `PVE::API2::Tasks`.

use serde_json::{Map, Value, json};

use super::{Call, Fail, Outcome};
use crate::world::World;
use crate::world::task::Task;

/// A task as lists and its status tell it.
fn item(task: &Task) -> Map<String, Value> {
    let mut item = Map::new();
    item.insert("upid".to_owned(), json!(task.upid));
    item.insert("node".to_owned(), json!(task.node));
    item.insert("pid".to_owned(), json!(task.pid));
    item.insert("pstart".to_owned(), json!(task.pstart));
    item.insert("starttime".to_owned(), json!(task.started_ms / 1000));
    item.insert("type".to_owned(), json!(task.kind));
    item.insert("id".to_owned(), json!(task.id));
    // A token's task belongs to its user, and says by which token.
    let (user, token) = task.user.split_once('!').map_or((task.user.as_str(), None), |(user, token)| (user, Some(token)));
    item.insert("user".to_owned(), json!(user));
    if let Some(token) = token {
        item.insert("tokenid".to_owned(), json!(token));
    }
    item
}

/// Whose a task is: a token sees its own, a user also those of all tokens.
fn is_own(task: &Task, who: &str) -> bool {
    task.user == who || task.user.split('!').next() == Some(who)
}

fn sees(world: &World, task: &Task, who: &str) -> bool {
    is_own(task, who) || world.may(who, &format!("/nodes/{}", task.node), "Sys.Audit")
}

/// `GET /cluster/tasks`: the latest ones of all nodes.
pub(crate) fn of_cluster(world: &mut World, call: &Call) -> Outcome {
    let tasks = world.tasks.values().rev().filter(|task| sees(world, task, &call.who)).take(100);
    Ok(tasks
        .map(|task| {
            let mut item = item(task);
            if let (Some(at), Some(exit)) = (task.ended_ms(), &task.exit) {
                item.insert("endtime".to_owned(), json!(at / 1000));
                item.insert("status".to_owned(), json!(exit));
                item.insert("saved".to_owned(), json!("1"));
            }
            Value::Object(item)
        })
        .collect())
}

/// `GET /nodes/{node}/tasks`: the newest one first. Those that still run are no part of the archive, which is what is listed unless
/// asked otherwise.
pub(crate) fn list(world: &mut World, call: &Call) -> Outcome {
    let source = call.get("source").unwrap_or("archive");
    let (start, limit) = (call.number("start").unwrap_or(0), call.number("limit").unwrap_or(50));
    let (start, limit) = (usize::try_from(start).unwrap_or(usize::MAX), usize::try_from(limit).unwrap_or(usize::MAX));
    let is_wanted = |task: &&Task| {
        let is_source = match source {
            "all" => true,
            "active" => task.is_running(),
            _ => !task.is_running(),
        };
        let exit = task.exit.as_deref().unwrap_or_default();
        let is_error = !exit.is_empty() && exit != "OK" && !exit.starts_with("WARNINGS: ");
        let kinds: Vec<&str> = call.get("typefilter").map(|text| text.split(',').collect()).unwrap_or_default();
        is_source
            && task.node == call.node
            && sees(world, task, &call.who)
            && call.get("vmid").is_none_or(|vmid| task.id == vmid)
            && (kinds.is_empty() || kinds.contains(&task.kind.as_str()))
            && call.get("userfilter").is_none_or(|user| task.user.contains(user))
            && call.number("since").is_none_or(|since| task.started_ms / 1000 >= since)
            && call.number("until").is_none_or(|until| task.started_ms / 1000 <= until)
            && (!call.is("errors") || is_error)
    };
    let found = world.tasks.values().rev().filter(is_wanted).skip(start).take(limit);
    Ok(found
        .map(|task| {
            let mut item = item(task);
            match (&task.exit, task.ended_ms()) {
                (Some(exit), Some(at)) => {
                    item.insert("endtime".to_owned(), json!(at / 1000));
                    item.insert("status".to_owned(), json!(exit));
                }
                (Some(_) | None, _) => drop(item.insert("status".to_owned(), json!("RUNNING"))),
            }
            Value::Object(item)
        })
        .collect())
}

fn find(world: &World, call: &Call, privilege: &str) -> Result<u64, Fail> {
    let upid = call.text("upid");
    let parts: Vec<&str> = upid.split(':').collect();
    let is_upid = parts.len() == 9 && parts.first() == Some(&"UPID") && parts.last() == Some(&"");
    if !is_upid {
        return Err(Fail::bad("upid", "unable to parse worker upid"));
    }
    let Some((number, task)) = world.task(&upid) else { return Err(Fail::bad("upid", "no such task")) };
    if !is_own(task, &call.who) {
        world.check(&call.who, &format!("/nodes/{}", call.node), &[privilege])?;
    }
    Ok(number)
}

/// `GET /nodes/{node}/tasks/{upid}/status`
pub(crate) fn status(world: &mut World, call: &Call) -> Outcome {
    let number = find(world, call, "Sys.Audit")?;
    let Some(task) = world.tasks.get(&number) else { return Ok(Value::Null) };
    let mut item = item(task);
    item.insert("status".to_owned(), json!(if task.is_running() { "running" } else { "stopped" }));
    if let Some(exit) = &task.exit {
        item.insert("exitstatus".to_owned(), json!(exit));
    }
    Ok(Value::Object(item))
}

/// `GET /nodes/{node}/tasks/{upid}/log`
pub(crate) fn log(world: &mut World, call: &Call) -> Outcome {
    let number = find(world, call, "Sys.Audit")?;
    let Some(task) = world.tasks.get(&number) else { return Ok(Value::Null) };
    if task.log.is_empty() {
        return Ok(json!([{ "n": 1, "t": "no content" }]));
    }
    let (start, limit) = (call.number("start").unwrap_or(0), call.number("limit").unwrap_or(50));
    let lines = task.log.iter().zip(1_u64..).filter(|(_, n)| *n > start && (limit == 0 || *n <= start + limit));
    Ok(lines.map(|(line, n)| json!({ "n": n, "t": line })).collect())
}

/// `DELETE /nodes/{node}/tasks/{upid}`
pub(crate) fn stop(world: &mut World, call: &Call) -> Outcome {
    let number = find(world, call, "Sys.Modify")?;
    world.abort(number);
    Ok(Value::Null)
}
