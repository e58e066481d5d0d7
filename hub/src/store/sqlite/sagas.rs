//! Sagas: started with their work, claimed by one runner at a time, changed only by who holds the claim.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{OpId, SagaId};
use moorline_common::saga::{Kind, State, Status};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Result, StoreError, Tx, count, damaged, events, int, ops};
use crate::events::NewEvent;
use crate::limits;
use crate::store::{NewSaga, SagaAdvance, SagaChange, SagaEvidence, SagaOrder, SagaQuery, SagaRecord};

const COLUMNS: &str = "sequence, saga_id, name, kind, deployment, triggered_by, reason, envelope, payload_sha256, state, status, revision,
     started_ms, started_by, changed_ms";

fn record(row: &Row<'_>) -> rusqlite::Result<Option<SagaRecord>> {
    let (saga_id, kind, state, status): (String, String, String, String) = (row.get(1)?, row.get(3)?, row.get(9)?, row.get(10)?);
    let (Ok(saga_id), Some(kind), Ok(state), Some(status)) =
        (SagaId::parse(saga_id), Kind::parse(&kind), serde_json::from_str(&state), Status::parse(&status))
    else {
        return Ok(None);
    };
    Ok(Some(SagaRecord {
        sequence: count(row.get(0)?),
        saga_id,
        name: row.get(2)?,
        kind,
        deployment: row.get(4)?,
        triggered_by: row.get(5)?,
        reason: row.get(6)?,
        plan: row.get(7)?,
        payload_sha256: row.get(8)?,
        state,
        status,
        revision: count(row.get(11)?),
        started_ms: count(row.get(12)?),
        started_by: row.get(13)?,
        changed_ms: count(row.get(14)?),
    }))
}

pub(super) fn saga(conn: &Connection, saga_id: &SagaId) -> Result<Option<SagaRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM sagas JOIN saga_plans USING (saga_id) WHERE saga_id = ?1");
    let found = conn.prepare_cached(&sql)?.query_row([saga_id.as_str()], record).optional()?;
    found.map(|record| record.ok_or_else(|| damaged("saga"))).transpose()
}

pub(super) fn sagas(conn: &Connection, query: &SagaQuery) -> Result<Vec<SagaRecord>> {
    // Named only if it is asked for: else SQLite would read every row for it.
    let status = if query.status.is_some() { "status = ?1" } else { "?1 IS NULL" };
    let sql = format!(
        "SELECT {COLUMNS} FROM sagas JOIN saga_plans USING (saga_id)
         WHERE {status} AND (?2 IS NULL OR kind = ?2) AND (?3 IS NULL OR deployment = ?3) ORDER BY sequence DESC LIMIT ?4"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let given = params![query.status.map(Status::as_str), query.kind.map(Kind::as_str), query.deployment, query.limit];
    let rows = statement.query_map(given, record)?;
    rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().map(|row| row.ok_or_else(|| damaged("saga"))).collect()
}

pub(super) fn start(tx: &Tx<'_>, new: &NewSaga, event: &NewEvent) -> Result<(SagaRecord, bool)> {
    if let Some(stored) = saga(tx.conn, &new.saga_id)? {
        if stored.payload_sha256 == new.payload_sha256 {
            return Ok((stored, true));
        }
        return Err(Fault::new(Code::Conflict, format!("the hub has another saga by the id {}; start it anew", new.saga_id)).into());
    }
    let open: i64 = tx.conn.prepare_cached("SELECT count(*) FROM sagas WHERE open = 1")?.query_row([], |row| row.get(0))?;
    if count(open) >= limits::SAGAS_OPEN_MAX {
        return Err(Fault::new(Code::Busy, format!("{open} sagas have not ended; wait, or end some")).into());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO sagas (saga_id, name, kind, deployment, triggered_by, reason, payload_sha256, state, status, open, revision,
                 started_ms, started_by, changed_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', 1, 1, ?9, ?10, ?9)",
        )?
        .execute(params![
            new.saga_id.as_str(),
            new.name,
            new.kind.as_str(),
            new.deployment,
            new.triggered_by,
            new.reason,
            new.payload_sha256,
            written(&new.state)?,
            int(tx.now_ms),
            new.started_by
        ])?;
    tx.conn
        .prepare_cached("INSERT INTO saga_plans (saga_id, envelope) VALUES (?1, ?2)")?
        .execute(params![new.saga_id.as_str(), new.plan])?;
    tx.conn
        .prepare_cached("INSERT INTO saga_work (saga_id, runner, fence, until_ms) VALUES (?1, '', 0, 0)")?
        .execute([new.saga_id.as_str()])?;
    add_orders(tx, &new.saga_id, &new.orders)?;
    for (sha256, body) in &new.parts {
        tx.conn.prepare_cached("INSERT INTO saga_parts (saga_id, sha256, body) VALUES (?1, ?2, ?3)")?.execute(params![
            new.saga_id.as_str(),
            sha256,
            body
        ])?;
    }
    add_facts(tx, &new.saga_id, &[format!("handed in by {}", new.started_by)])?;
    events::append(tx, event)?;
    forget_old(tx)?;
    let stored = saga(tx.conn, &new.saga_id)?.ok_or_else(|| damaged("saga"))?;
    Ok((stored, false))
}

fn written(state: &State) -> Result<String> {
    serde_json::to_string(state).map_err(|e| StoreError::Failed(e.to_string()))
}

fn add_orders(tx: &Tx<'_>, saga_id: &SagaId, orders: &[SagaOrder]) -> Result<()> {
    let mut insert =
        tx.conn.prepare_cached("INSERT INTO saga_orders (saga_id, payload_sha256, op_id, envelope) VALUES (?1, ?2, ?3, ?4)")?;
    let taken = "SELECT 1 FROM saga_orders WHERE op_id = ?1 UNION ALL SELECT 1 FROM ops WHERE op_id = ?1";
    for order in orders {
        if tx.conn.prepare_cached(taken)?.exists([order.op_id.as_str()])? {
            let what = format!("the hub has another operation by the id {}; sign the saga anew", order.op_id);
            return Err(Fault::new(Code::Conflict, what).into());
        }
        insert.execute(params![saga_id.as_str(), order.payload_sha256, order.op_id.as_str(), order.envelope])?;
    }
    Ok(())
}

fn add_facts(tx: &Tx<'_>, saga_id: &SagaId, facts: &[String]) -> Result<()> {
    for what in facts {
        tx.conn
            .prepare_cached(
                "INSERT INTO saga_facts (saga_id, number, at_ms, what)
                 VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM saga_facts WHERE saga_id = ?1), ?2, ?3)",
            )?
            .execute(params![saga_id.as_str(), int(tx.now_ms), what])?;
    }
    if !facts.is_empty() {
        let old = "DELETE FROM saga_facts WHERE saga_id = ?1 AND number <= (SELECT max(number) FROM saga_facts WHERE saga_id = ?1) - ?2";
        tx.conn.prepare_cached(old)?.execute(params![saga_id.as_str(), int(limits::SAGA_FACTS_KEPT)])?;
    }
    Ok(())
}

/// Forgets the oldest that have ended, past those that are kept.
fn forget_old(tx: &Tx<'_>) -> Result<()> {
    let old = "DELETE FROM sagas WHERE sequence IN (SELECT sequence FROM sagas WHERE open = 0 ORDER BY sequence DESC LIMIT 16 OFFSET ?1)";
    tx.conn.prepare_cached(old)?.execute([int(limits::SAGAS_KEPT)])?;
    Ok(())
}

/// Takes over what nobody runs.
pub(super) fn claim(tx: &Tx<'_>, runner: &str, until_ms: u64, limit: u32) -> Result<Vec<(SagaId, u64)>> {
    let mut statement = tx.conn.prepare_cached(
        "UPDATE saga_work SET runner = ?1, fence = fence + 1, until_ms = ?2
         WHERE saga_id IN (SELECT saga_id FROM saga_work WHERE until_ms <= ?3 ORDER BY until_ms LIMIT ?4) RETURNING saga_id, fence",
    )?;
    let rows = statement
        .query_map(params![runner, int(until_ms), int(tx.now_ms), limit], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    rows.collect::<rusqlite::Result<Vec<_>>>()?
        .into_iter()
        .map(|(saga_id, fence)| Ok((SagaId::parse(saga_id).map_err(|_| damaged("saga id"))?, count(fence))))
        .collect()
}

/// Keeps what a runner has claimed until then, unless somebody took it over.
pub(super) fn renew(tx: &Tx<'_>, runner: &str, until_ms: u64) -> Result<()> {
    tx.conn.prepare_cached("UPDATE saga_work SET until_ms = ?2 WHERE runner = ?1")?.execute(params![runner, int(until_ms)])?;
    Ok(())
}

pub(super) fn has_unclaimed(conn: &Connection, now_ms: u64) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM saga_work WHERE until_ms <= ?1 LIMIT 1")?.exists([int(now_ms)])?)
}

pub(super) fn change(tx: &Tx<'_>, change: &SagaChange) -> Result<SagaAdvance> {
    let saga_id = &change.saga_id;
    let found: Option<(i64, i64)> = tx
        .conn
        .prepare_cached("SELECT s.revision, w.fence FROM sagas s JOIN saga_work w USING (saga_id) WHERE saga_id = ?1")?
        .query_row([saga_id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    // What has ended has no work.
    let Some((revision, fence)) = found else { return Ok(SagaAdvance::Lost) };
    if change.fence.is_some_and(|held| held != count(fence)) {
        return Ok(SagaAdvance::Lost);
    }
    if count(revision) != change.seen {
        return Ok(SagaAdvance::Moved);
    }
    let revision = change.seen.saturating_add(1);
    let is_open = !change.status.is_final();
    tx.conn
        .prepare_cached("UPDATE sagas SET state = ?2, status = ?3, open = ?4, revision = ?5, changed_ms = ?6 WHERE saga_id = ?1")?
        .execute(params![saga_id.as_str(), written(&change.state)?, change.status.as_str(), is_open, int(revision), int(tx.now_ms)])?;
    if !is_open {
        for sql in ["DELETE FROM saga_work WHERE saga_id = ?1", "DELETE FROM saga_parts WHERE saga_id = ?1"] {
            tx.conn.prepare_cached(sql)?.execute([saga_id.as_str()])?;
        }
    }
    if let Some(word) = &change.word {
        tx.conn
            .prepare_cached(
                "INSERT INTO saga_words (saga_id, number, envelope)
                 VALUES (?1, (SELECT coalesce(max(number), 0) + 1 FROM saga_words WHERE saga_id = ?1), ?2)",
            )?
            .execute(params![saga_id.as_str(), word])?;
    }
    add_orders(tx, saga_id, &change.orders)?;
    add_facts(tx, saga_id, &change.facts)?;
    for (op, event) in &change.submit {
        ops::submit(tx, op, event)?;
    }
    change.events.iter().try_for_each(|event| events::append(tx, event))?;
    Ok(SagaAdvance::Done { revision })
}

pub(super) fn order(conn: &Connection, saga_id: &SagaId, payload_sha256: &str) -> Result<Option<SagaOrder>> {
    let sql = "SELECT op_id, envelope FROM saga_orders WHERE saga_id = ?1 AND payload_sha256 = ?2";
    let found: Option<(String, Vec<u8>)> =
        conn.prepare_cached(sql)?.query_row([saga_id.as_str(), payload_sha256], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    found
        .map(|(op_id, envelope)| {
            let op_id = OpId::parse(op_id).map_err(|_| damaged("operation id"))?;
            Ok(SagaOrder { payload_sha256: payload_sha256.to_owned(), op_id, envelope })
        })
        .transpose()
}

pub(super) fn part(conn: &Connection, saga_id: &SagaId, sha256: &str) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT body FROM saga_parts WHERE saga_id = ?1 AND sha256 = ?2";
    Ok(conn.prepare_cached(sql)?.query_row([saga_id.as_str(), sha256], |row| row.get(0)).optional()?)
}

pub(super) fn facts(conn: &Connection, saga_id: &SagaId) -> Result<Vec<(u64, String)>> {
    let mut statement = conn.prepare_cached("SELECT at_ms, what FROM saga_facts WHERE saga_id = ?1 ORDER BY number")?;
    let rows = statement.query_map([saga_id.as_str()], |row| Ok((count(row.get(0)?), row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn blobs(conn: &Connection, sql: &str, saga_id: &SagaId) -> Result<Vec<Vec<u8>>> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map([saga_id.as_str()], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn words(conn: &Connection, saga_id: &SagaId) -> Result<Vec<Vec<u8>>> {
    blobs(conn, "SELECT envelope FROM saga_words WHERE saga_id = ?1 ORDER BY number", saga_id)
}

pub(super) fn evidence(conn: &Connection, saga_id: &SagaId) -> Result<Option<SagaEvidence>> {
    let plan: Option<Vec<u8>> = conn
        .prepare_cached("SELECT envelope FROM saga_plans WHERE saga_id = ?1")?
        .query_row([saga_id.as_str()], |row| row.get(0))
        .optional()?;
    let Some(plan) = plan else { return Ok(None) };
    let receipts = "SELECT o.receipt FROM saga_orders s JOIN ops o USING (op_id) WHERE s.saga_id = ?1 AND o.receipt IS NOT NULL";
    Ok(Some(SagaEvidence { plan, receipts: blobs(conn, receipts, saga_id)?, words: words(conn, saga_id)? }))
}
