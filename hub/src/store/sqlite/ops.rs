//! Operations: taken, sent, ended, and forgotten when they are old.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostEpoch, HostId, OpId, SagaId, UnixSeconds};
use moorline_common::op::{Stage, State};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Result, Tx, count, damaged, events, int};
use crate::events::{Kind, NewEvent};
use crate::limits;
use crate::store::{Advance, DueOp, NewOp, OpChange, OpQuery, OpRecord, UnknownOp};

/// Everything but the two envelopes, whose places are the last.
const COLUMNS: &str = "sequence, op_id, host_id, host_epoch, resource, kind, class, payload_sha256, expires_at, reason, submitted_ms,
     submitted_by, state, updated_ms, message, same_as, code, fault, receipt IS NOT NULL";

fn record(row: &Row<'_>, with_envelopes: bool) -> rusqlite::Result<Option<OpRecord>> {
    let (code, fault): (String, String) = (row.get(16)?, row.get(17)?);
    let fault = (!code.is_empty()).then(|| Fault::new(Code::parse(&code).unwrap_or(Code::Internal), fault));
    let (op_id, host_id, stage): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(12)?);
    let (Ok(op_id), Ok(host_id), Some(stage)) = (OpId::parse(op_id), HostId::parse(host_id), Stage::parse(&stage)) else {
        return Ok(None);
    };
    Ok(Some(OpRecord {
        sequence: count(row.get(0)?),
        op_id,
        host_id,
        host_epoch: row.get(3)?,
        resource: row.get(4)?,
        kind: row.get(5)?,
        class: row.get(6)?,
        payload_sha256: row.get(7)?,
        expires_at: UnixSeconds(count(row.get(8)?)),
        reason: row.get(9)?,
        submitted_ms: count(row.get(10)?),
        submitted_by: row.get(11)?,
        stage,
        updated_ms: count(row.get(13)?),
        message: row.get(14)?,
        same_as: row.get(15)?,
        fault,
        has_receipt: row.get(18)?,
        envelope: if with_envelopes { row.get(19)? } else { None },
        receipt: if with_envelopes { row.get(20)? } else { None },
    }))
}

pub(super) fn op(conn: &Connection, op_id: &OpId) -> Result<Option<OpRecord>> {
    let sql = format!("SELECT {COLUMNS}, envelope, receipt FROM ops WHERE op_id = ?1");
    let found = conn.prepare_cached(&sql)?.query_row([op_id.as_str()], |row| record(row, true)).optional()?;
    found.map(|record| record.ok_or_else(|| damaged("operation"))).transpose()
}

pub(super) fn op_of_payload(conn: &Connection, host: &HostId, payload_sha256: &str) -> Result<Option<OpId>> {
    // Only what has not ended can be refused: the partial index is short.
    let found: Option<String> = conn
        .prepare_cached("SELECT op_id FROM ops WHERE host_id = ?1 AND open = 1 AND payload_sha256 = ?2")?
        .query_row([host.as_str(), payload_sha256], |row| row.get(0))
        .optional()?;
    found.map(|id| OpId::parse(id).map_err(|_| damaged("operation id"))).transpose()
}

pub(super) fn ops(conn: &Connection, query: &OpQuery) -> Result<Vec<OpRecord>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM ops WHERE sequence < ?1 {} {} ORDER BY sequence DESC LIMIT ?2",
        if query.host.is_some() { "AND host_id = ?3" } else { "AND ?3 IS NULL" },
        if query.open { "AND (open = 1 OR state = 'indeterminate')" } else { "" },
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let before = query.before.map_or(i64::MAX, int);
    let host = query.host.as_ref().map(HostId::as_str);
    let rows = statement.query_map(params![before, query.limit, host], |row| record(row, false))?;
    rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().map(|row| row.ok_or_else(|| damaged("operation"))).collect()
}

pub(super) fn submit(tx: &Tx<'_>, new: &NewOp, event: &NewEvent) -> Result<(OpRecord, bool)> {
    if let Some(stored) = op(tx.conn, &new.op_id)? {
        if stored.payload_sha256 == new.payload_sha256 && stored.host_id == new.host_id {
            return Ok((stored, true));
        }
        return Err(Fault::new(
            Code::Conflict,
            format!("the hub has another operation by the id {}; sign this one anew, it then gets its own", new.op_id),
        )
        .into());
    }
    let bound: Option<String> = tx
        .conn
        .prepare_cached("SELECT host_epoch FROM hosts WHERE host_id = ?1 AND state = 'bound'")?
        .query_row([new.host_id.as_str()], |row| row.get(0))
        .optional()?;
    if bound.is_none() {
        return Err(Fault::new(Code::NotFound, format!("host {} is not bound; `moorctl host approve` binds it", new.host_id)).into());
    }
    let open: i64 = tx
        .conn
        .prepare_cached("SELECT count(*) FROM ops WHERE host_id = ?1 AND open = 1")?
        .query_row([new.host_id.as_str()], |row| row.get(0))?;
    let limit = limits::OPS_OPEN_MAX + if new.is_remedy { limits::OPS_OPEN_RESERVE } else { 0 };
    if count(open) >= limit {
        return Err(Fault::new(Code::Busy, format!("{open} operations of this host have not ended; wait, or cancel some")).into());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO ops (op_id, host_id, host_epoch, resource, kind, class, envelope, payload_sha256, root_version, expires_at, reason,
                 submitted_ms, submitted_by, state, open, updated_ms, message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 'submitted', 1, ?12, '')",
        )?
        .execute(params![
            new.op_id.as_str(),
            new.host_id.as_str(),
            new.host_epoch.as_str(),
            new.resource.as_str(),
            new.kind,
            new.class.as_str(),
            new.envelope,
            new.payload_sha256,
            int(new.root_version),
            int(new.expires_at.0),
            new.reason,
            int(tx.now_ms),
            new.submitted_by
        ])?;
    events::append(tx, event)?;
    let stored = op(tx.conn, &new.op_id)?.ok_or_else(|| damaged("operation"))?;
    Ok((stored, false))
}

pub(super) fn due(conn: &Connection, host: &HostId, after: u64, limit: u32) -> Result<Vec<DueOp>> {
    let mut statement = conn.prepare_cached(
        "SELECT sequence, op_id, host_epoch, root_version, expires_at, state, o.envelope, s.saga_id
         FROM ops o LEFT JOIN saga_orders s USING (op_id) WHERE host_id = ?1 AND open = 1 AND sequence > ?2 AND o.envelope IS NOT NULL ORDER BY sequence LIMIT ?3",
    )?;
    let rows = statement.query_map(params![host.as_str(), int(after), limit], |row| {
        let (op_id, stage): (String, String) = (row.get(1)?, row.get(5)?);
        let saga_id = row.get::<_, Option<String>>(7)?.and_then(|id| SagaId::parse(id).ok());
        let (Ok(op_id), Some(stage)) = (OpId::parse(op_id), Stage::parse(&stage)) else { return Ok(None) };
        Ok(Some(DueOp {
            sequence: count(row.get(0)?),
            op_id,
            host_epoch: row.get(2)?,
            root_version: count(row.get(3)?),
            expires_at: UnixSeconds(count(row.get(4)?)),
            stage,
            envelope: row.get(6)?,
            saga_id,
        }))
    })?;
    rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().map(|row| row.ok_or_else(|| damaged("operation"))).collect()
}

/// Gives back those that may be sent: they have not ended meanwhile.
pub(super) fn sent(tx: &Tx<'_>, op_ids: &[OpId]) -> Result<Vec<OpId>> {
    let mut statement =
        tx.conn.prepare_cached("UPDATE ops SET state = 'sent', updated_ms = ?2 WHERE op_id = ?1 AND state = 'submitted'")?;
    let mut marked = Vec::with_capacity(op_ids.len());
    for op_id in op_ids {
        if statement.execute(params![op_id.as_str(), int(tx.now_ms)])? == 1 {
            marked.push(op_id.clone());
        }
    }
    Ok(marked)
}

pub(super) fn advance(tx: &Tx<'_>, host: &HostId, op_id: &OpId, change: &OpChange, event: Option<&NewEvent>) -> Result<Advance> {
    let row: Option<(String, String, bool, String, i64, String)> = tx
        .conn
        .prepare_cached("SELECT host_id, state, receipt IS NOT NULL, message, updated_ms, payload_sha256 FROM ops WHERE op_id = ?1")?
        .query_row([op_id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)))
        .optional()?;
    let Some((owner, stage, proven, message, updated_ms, payload_sha256)) = row.filter(|row| row.0 == host.as_str()) else {
        return Ok(Advance::Unknown);
    };
    debug_assert_eq!(owner, host.as_str());
    let stage = Stage::parse(&stage).ok_or_else(|| damaged("state of an operation"))?;
    if stage == change.stage {
        let proves = change.receipt.is_some() && !proven;
        let is_news =
            stage.is_open() && message != change.message && tx.now_ms.saturating_sub(count(updated_ms)) >= limits::OP_WORDS_INTERVAL_MS;
        if !proves && !is_news {
            return Ok(Advance::Known);
        }
        write(tx, op_id, change)?;
        return Ok(Advance::Changed);
    }
    if !stage.leads_to(proven, change.stage, change.receipt.is_some()) {
        // What was said in passing may come late.
        return Ok(if change.receipt.is_none() { Advance::Known } else { Advance::Contradicts(stage) });
    }
    write(tx, op_id, change)?;
    if let Some(event) = event {
        events::append(tx, event)?;
    }
    // Finding the oldest means passing all that are kept. A hash hits every host as often as any other, whatever the order they end in.
    if !change.stage.is_open() && payload_sha256.ends_with("00") {
        forget_old(tx, host, limits::OPS_KEPT)?;
    }
    Ok(Advance::Changed)
}

fn write(tx: &Tx<'_>, op_id: &OpId, change: &OpChange) -> Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE ops SET state = ?2, open = ?3, updated_ms = ?4, message = ?5, same_as = CASE ?6 WHEN '' THEN same_as ELSE ?6 END,
                 code = ?7, fault = ?8, receipt = coalesce(?9, receipt) WHERE op_id = ?1",
        )?
        .execute(params![
            op_id.as_str(),
            change.stage.as_str(),
            change.stage.is_open(),
            int(tx.now_ms),
            change.message,
            change.same_as.as_ref().map_or("", OpId::as_str),
            change.fault.as_ref().map_or("", |f| f.code.as_str()),
            change.fault.as_ref().map_or("", |f| f.message.as_str()),
            change.receipt
        ])?;
    Ok(())
}

/// Forgets the oldest of a host's operations that have ended, past the newest that are kept. What is indeterminate stays for as
/// long as the host's life to which an operator can say how it ended, and what hosts are to be shown for as long as the saga is open.
fn forget_old(tx: &Tx<'_>, host: &HostId, keep: u64) -> Result<()> {
    tx.conn
        .prepare_cached(
            "DELETE FROM ops WHERE sequence IN (
                 SELECT sequence FROM ops o WHERE host_id = ?1 AND open = 0
                     AND (state <> 'indeterminate' OR host_epoch <> (SELECT host_epoch FROM hosts h WHERE h.host_id = o.host_id))
                 ORDER BY sequence DESC LIMIT ?3 OFFSET ?2)
             AND NOT EXISTS (SELECT 1 FROM saga_orders s JOIN sagas g USING (saga_id) WHERE s.op_id = ops.op_id AND g.open = 1)",
        )?
        .execute(params![host.as_str(), int(keep), int(limits::OPS_FORGOTTEN_BATCH)])?;
    Ok(())
}

pub(super) fn recover(tx: &Tx<'_>, new: &UnknownOp, event: &NewEvent) -> Result<()> {
    let known: bool = tx
        .conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM hosts WHERE host_id = ?1)")?
        .query_row([new.host_id.as_str()], |row| row.get(0))?;
    if !known {
        return Err(Fault::new(Code::NotFound, format!("there is no host {}", new.host_id)).into());
    }
    let inserted = tx
        .conn
        .prepare_cached(
            "INSERT INTO ops (op_id, host_id, host_epoch, resource, kind, class, payload_sha256, root_version, expires_at, reason,
                 submitted_ms, submitted_by, state, open, updated_ms, message)
             VALUES (?1, ?2, ?3, ?4, ?5, '', ?6, 0, 0, '', ?7, '', ?8, ?9, ?7, '')
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            new.op_id.as_str(),
            new.host_id.as_str(),
            new.host_epoch.as_str(),
            new.resource.as_str(),
            new.kind,
            new.payload_sha256,
            int(tx.now_ms),
            new.change.stage.as_str(),
            new.change.stage.is_open()
        ])?;
    if inserted == 1 {
        write(tx, &new.op_id, &new.change)?;
        events::append(tx, event)?;
        forget_old(tx, &new.host_id, limits::OPS_KEPT)?;
    }
    Ok(())
}

pub(super) fn has_overdue(conn: &Connection, before: UnixSeconds) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM ops WHERE state = 'submitted' AND expires_at < ?1)";
    Ok(conn.prepare_cached(sql)?.query_row([int(before.0)], |row| row.get(0))?)
}

pub(super) fn expire(tx: &Tx<'_>, before: UnixSeconds, limit: u32) -> Result<Vec<OpId>> {
    let mut statement = tx.conn.prepare_cached(
        "SELECT o.op_id, o.payload_sha256, o.kind, o.resource, h.name FROM ops o JOIN hosts h USING (host_id)
         WHERE o.state = 'submitted' AND o.expires_at < ?1 ORDER BY o.expires_at LIMIT ?2",
    )?;
    type Overdue = (String, String, String, String, String);
    let rows =
        statement.query_map(params![int(before.0), limit], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?;
    let mut expired = Vec::new();
    for (op_id, payload, kind, resource, name) in rows.collect::<rusqlite::Result<Vec<Overdue>>>()? {
        let op_id = OpId::parse(op_id).map_err(|_| damaged("operation id"))?;
        let words = "its last moment passed before the host could be sent it; the hub says so, not the host";
        let fault = Some(Fault::new(Code::Expired, words));
        write(tx, &op_id, &OpChange { stage: Stage::At(State::Expired), message: String::new(), same_as: None, fault, receipt: None })?;
        let event = NewEvent::hub(Kind::OpEnded, format!("{op_id} `{kind}` on {resource} expired: {words}"))
            .host(name)
            .code(Code::Expired)
            .body(payload);
        events::append(tx, &event)?;
        expired.push(op_id);
    }
    Ok(expired)
}

/// A host began a new life: what was ordered for those before ends as far as the hub can tell.
pub(super) fn settle_epoch(tx: &Tx<'_>, host: &HostId, epoch: &HostEpoch, name: &str) -> Result<()> {
    for (from, to, code, fault) in [
        ("state = 'submitted'", State::Cancelled, Code::WrongEpoch, "the host began a new life before it was sent this; order it anew"),
        (
            "state <> 'submitted'",
            State::Indeterminate,
            Code::Indeterminate,
            "the host's records were lost after it was sent this: nothing proves whether it happened; look at the host",
        ),
    ] {
        let changed = tx.conn.execute(
            &format!(
                "UPDATE ops SET state = ?3, open = 0, updated_ms = ?4, message = '', code = ?5, fault = ?6
                 WHERE host_id = ?1 AND open = 1 AND host_epoch <> ?2 AND {from}"
            ),
            params![host.as_str(), epoch.as_str(), to.as_str(), int(tx.now_ms), code.as_str(), fault],
        )?;
        if changed > 0 {
            let (kind, alarm) = if to == State::Indeterminate { (Kind::OpIndeterminate, "ALARM: ") } else { (Kind::OpEnded, "") };
            let event = NewEvent::hub(kind, format!("{alarm}{changed} operations are {to}: {fault}")).host(name).code(code);
            events::append(tx, &event)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{FILE, SqliteStore};
    use super::*;
    use crate::clock::Clock;

    #[tokio::test]
    async fn the_oldest_that_have_ended_are_forgotten_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        SqliteStore::create(&dir.path().join(FILE), "one").unwrap();
        let store = SqliteStore::open(&dir.path().join(FILE), Clock::default()).unwrap();
        let host = HostId::of_key(&[1; 32]);
        let left = store.write(move |tx| {
            tx.conn.execute(
                "INSERT INTO hosts (host_id, name, state, host_key, sealing_key, host_epoch, claim_mac, token_id, joined_ms)
                 VALUES (?1, 'h', 'pending', ?2, ?2, 'new', x'', '', 0)",
                params![host.as_str(), [1_u8; 32].as_slice()],
            )?;
            let rows = [
                ("succeeded", "new"),
                ("indeterminate", "old"),
                ("indeterminate", "new"),
                ("queued", "new"),
                ("failed", "new"),
                ("refused", "new"),
                ("expired", "new"),
            ];
            for (n, (state, epoch)) in rows.iter().enumerate() {
                tx.conn.execute(
                    "INSERT INTO ops (op_id, host_id, host_epoch, resource, kind, class, payload_sha256, root_version, expires_at, reason,
                         submitted_ms, submitted_by, state, open, updated_ms, message)
                     VALUES (?1, ?2, ?3, 'host', 'prune', '', '', 1, 1, '', 1, '', ?4, ?5, 1, '')",
                    params![n.to_string(), host.as_str(), epoch, state, Stage::parse(state).unwrap().is_open()],
                )?;
            }
            forget_old(tx, &host, 2)?;
            let mut left = tx.conn.prepare("SELECT op_id FROM ops ORDER BY sequence")?;
            Ok(left.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?)
        });
        assert_eq!(left.await.unwrap(), ["2", "3", "5", "6"]);
    }
}
