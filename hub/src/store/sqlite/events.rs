//! The events table: append only, each row bound to its predecessor by a hash.

use moorline_common::id::sha256_hex;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Result, Tx, count, damaged, int};
use crate::events::{Event, NewEvent};
use crate::limits;

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
    if count(sequence).is_multiple_of(limits::EVENTS_PRUNE_EVERY) {
        prune(tx.conn, limits::EVENTS_KEPT, limits::EVENTS_PRUNED_MAX)?;
    }
    Ok(())
}

/// The key in `meta` of the last event that was removed: its sequence number and hash, from which the
/// rest of the chain is checked.
const CHECKPOINT: &str = "events_checkpoint";

/// Removes the oldest events past the newest `keep`, at most `limit` of them.
fn prune(conn: &Connection, keep: u64, limit: u64) -> Result<()> {
    let (removed, _) = checkpoint(conn)?;
    let last = newest(conn)?.saturating_sub(keep).min(removed.saturating_add(limit));
    let hash: Option<String> =
        conn.prepare_cached("SELECT hash FROM events WHERE sequence = ?1")?.query_row([int(last)], |row| row.get(0)).optional()?;
    let Some(hash) = hash else { return Ok(()) };
    conn.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")?
        .execute(params![CHECKPOINT, format!("{last} {hash}")])?;
    conn.prepare_cached("DELETE FROM events WHERE sequence <= ?1")?.execute([int(last)])?;
    Ok(())
}

/// Sequence number and hash of the last event that was removed.
fn checkpoint(conn: &Connection) -> Result<(u64, String)> {
    let text: Option<String> =
        conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([CHECKPOINT], |row| row.get(0)).optional()?;
    let Some(text) = text else { return Ok((0, String::new())) };
    let (sequence, hash) = text.split_once(' ').ok_or_else(|| damaged("checkpoint of the events"))?;
    Ok((sequence.parse().map_err(|_| damaged("checkpoint of the events"))?, hash.to_owned()))
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
        bytes.extend_from_slice(&u64::try_from(field.len()).unwrap_or(u64::MAX).to_be_bytes());
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

/// Walks the chain from its checkpoint on; gives back how many events were written and hold, or the first that does not.
pub(super) fn verify(conn: &Connection) -> Result<std::result::Result<u64, u64>> {
    let sql = format!("SELECT {COLUMNS} FROM events ORDER BY sequence");
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let (mut seen, mut previous) = checkpoint(conn)?;
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

#[cfg(test)]
mod tests {
    use super::super::{SCHEMA, int};
    use super::*;
    use crate::events::Kind;

    fn database(events: u64) -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        SCHEMA.iter().for_each(|sql| conn.execute_batch(sql).unwrap());
        write(&conn, events);
        conn
    }

    fn write(conn: &Connection, events: u64) {
        for n in 0..events {
            append(&Tx { conn, now_ms: n }, &NewEvent::hub(Kind::Pushed, "x")).unwrap();
        }
    }

    fn oldest(conn: &Connection) -> u64 {
        list(conn, 0, 1, false).unwrap()[0].sequence
    }

    #[test]
    fn what_is_left_after_the_oldest_were_removed_is_still_one_chain() {
        let conn = database(30);
        prune(&conn, 10, 5).unwrap();
        assert_eq!(oldest(&conn), 6, "a few at a time");
        prune(&conn, 10, 100).unwrap();
        assert_eq!((oldest(&conn), verify(&conn).unwrap()), (21, Ok(30)));
        prune(&conn, 10, 100).unwrap();
        write(&conn, 3);
        assert_eq!((oldest(&conn), verify(&conn).unwrap()), (21, Ok(33)));
    }

    #[test]
    fn an_event_that_somebody_removed_breaks_the_chain() {
        for gone in [21, 25] {
            let conn = database(30);
            prune(&conn, 10, 100).unwrap();
            conn.execute("DELETE FROM events WHERE sequence = ?1", [int(gone)]).unwrap();
            assert_eq!(verify(&conn).unwrap(), Err(gone + 1));
        }
    }

    #[test]
    fn few_events_are_all_kept() {
        let conn = database(3);
        prune(&conn, 10, 100).unwrap();
        assert_eq!((oldest(&conn), verify(&conn).unwrap()), (1, Ok(3)));
    }
}
