//! The events table: append only, each row bound to its predecessor by a hash.

use moorline_common::id::sha256_hex;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Result, Tx, count, int};
use crate::events::{Event, NewEvent};

/// The newest event's sequence number; 0 without one.
pub(super) fn newest(conn: &Connection) -> rusqlite::Result<u64> {
    let newest: Option<i64> = conn.prepare_cached("SELECT max(sequence) FROM events")?.query_row([], |row| row.get(0))?;
    Ok(count(newest.unwrap_or(0)))
}

/// Appends one event.
pub(super) fn append(tx: &Tx<'_>, event: &NewEvent) -> Result<()> {
    let last: Option<(i64, String)> = tx
        .conn
        .prepare_cached("SELECT sequence, hash FROM events ORDER BY sequence DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (sequence, previous) = last.map_or((1, String::new()), |(sequence, hash)| (sequence + 1, hash));
    let code = event.code.map_or("", |c| c.as_str());
    let recorded = Event {
        sequence: count(sequence),
        at_ms: tx.now_ms,
        kind: event.kind.as_str().to_owned(),
        actor: event.actor.subject.clone(),
        host: event.host.clone(),
        topology: event.topology.clone(),
        generation: event.generation,
        code: code.to_owned(),
        message: event.message.clone(),
    };
    let hash = chain(&previous, &recorded, &event.actor.origin, &event.body);
    tx.conn
        .prepare_cached(
            "INSERT INTO events (sequence, at_ms, kind, actor, origin, host, topology, generation, code, message, body, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            sequence,
            int(tx.now_ms),
            recorded.kind,
            recorded.actor,
            event.actor.origin,
            recorded.host,
            recorded.topology,
            int(recorded.generation),
            recorded.code,
            recorded.message,
            event.body,
            hash
        ])?;
    Ok(())
}

/// The hash of a row: over its predecessor's and its own fields, each with its length so that no two
/// rows read the same.
fn chain(previous: &str, event: &Event, origin: &str, body: &str) -> String {
    let mut bytes = Vec::new();
    let (sequence, at_ms, generation) = (event.sequence.to_string(), event.at_ms.to_string(), event.generation.to_string());
    let fields = [
        previous,
        &sequence,
        &at_ms,
        &event.kind,
        &event.actor,
        origin,
        &event.host,
        &event.topology,
        &generation,
        &event.code,
        &event.message,
        body,
    ];
    for field in fields {
        bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
        bytes.extend_from_slice(field.as_bytes());
    }
    sha256_hex(&bytes)
}

const COLUMNS: &str = "sequence, at_ms, kind, actor, host, topology, generation, code, message, origin, body, hash";

fn read(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        sequence: count(row.get(0)?),
        at_ms: count(row.get(1)?),
        kind: row.get(2)?,
        actor: row.get(3)?,
        host: row.get(4)?,
        topology: row.get(5)?,
        generation: count(row.get(6)?),
        code: row.get(7)?,
        message: row.get(8)?,
    })
}

/// Events after `after`: the first `limit`, or the last when `newest`; in order.
pub(super) fn list(conn: &Connection, after: u64, limit: u32, newest: bool) -> Result<Vec<Event>> {
    let direction = if newest { "DESC" } else { "ASC" };
    let sql = format!("SELECT {COLUMNS} FROM events WHERE sequence > ?1 ORDER BY sequence {direction} LIMIT ?2");
    let mut statement = conn.prepare_cached(&sql)?;
    let mut events = statement.query_map(params![int(after), limit], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    if newest {
        events.reverse();
    }
    Ok(events)
}

/// Walks the whole chain; gives back how many events hold, or the first that does not.
pub(super) fn verify(conn: &Connection) -> Result<std::result::Result<u64, u64>> {
    let sql = format!("SELECT {COLUMNS} FROM events ORDER BY sequence");
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let (mut previous, mut seen) = (String::new(), 0);
    while let Some(row) = rows.next()? {
        let event = read(row)?;
        let (origin, body, hash): (String, String, String) = (row.get(9)?, row.get(10)?, row.get(11)?);
        if event.sequence != seen + 1 || chain(&previous, &event, &origin, &body) != hash {
            return Ok(Err(event.sequence));
        }
        seen = event.sequence;
        previous = hash;
    }
    Ok(Ok(seen))
}
