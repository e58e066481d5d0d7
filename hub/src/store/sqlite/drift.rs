//! The inbox: one open row for a field of a resource, its history, and its events.

use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, ResourceId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::json;

use super::{Result, Tx, count, damaged, events, int, ops};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::limits;
use crate::store::{DriftQuery, DriftRecord, DriftReport, DriftStatus, NewOp, NewRevision, OpRecord, Scope, ShownDrift};

pub(super) const COLUMNS: &str =
    "id, scope, resource, field, expected, actual, status, topology, generation, detected_ms, changed_ms, resolved_ms,
     resolved_by, reason, ignored_until_ms, accepted_generation, op_id";

fn record(row: &Row<'_>) -> rusqlite::Result<Option<DriftRecord>> {
    let (scope, resource, status): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(6)?);
    let (Some(scope), Ok(resource), Some(status)) = (Scope::parse(&scope), ResourceId::parse(resource), DriftStatus::parse(&status)) else {
        return Ok(None);
    };
    Ok(Some(DriftRecord {
        id: count(row.get(0)?),
        scope,
        drift: Drift { resource, field: row.get(3)?, expected: row.get(4)?, actual: row.get(5)? },
        status,
        topology: row.get(7)?,
        generation: Generation(count(row.get(8)?)),
        detected_ms: count(row.get(9)?),
        changed_ms: count(row.get(10)?),
        resolved_ms: count(row.get(11)?),
        resolved_by: row.get(12)?,
        reason: row.get(13)?,
        ignored_until_ms: count(row.get(14)?),
        accepted_generation: Generation(count(row.get(15)?)),
        op_id: row.get(16)?,
    }))
}

/// One drift.
pub(super) fn drift(conn: &Connection, id: u64) -> Result<Option<DriftRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM drift WHERE id = ?1");
    let found = conn.prepare_cached(&sql)?.query_row([int(id)], record).optional()?;
    found.map(|record| record.ok_or_else(|| damaged("drift"))).transpose()
}

/// Drifts, newest first.
pub(super) fn drifts(conn: &Connection, query: &DriftQuery) -> Result<Vec<DriftRecord>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM drift WHERE id < ?1 {} {} ORDER BY id DESC LIMIT ?2",
        if query.host.is_some() { "AND scope = ?3" } else { "AND ?3 IS NULL" },
        if query.all { "" } else { "AND status = 'open'" },
    );
    let before = query.before.map_or(i64::MAX, int);
    select(conn, &sql, params![before, query.limit, query.host.as_ref().map(HostId::as_str)])
}

pub(super) fn select(conn: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Vec<DriftRecord>> {
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(values, record)?.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().map(|row| row.ok_or_else(|| damaged("drift"))).collect()
}

/// Takes over what a host said: new differences are opened, live values are followed, and what is as wanted again is closed.
pub(super) fn report(tx: &Tx<'_>, host: &HostId, name: &str, report: &DriftReport, events: u32) -> Result<()> {
    let is_known: bool =
        tx.conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM hosts WHERE host_id = ?1)")?.query_row([host.as_str()], |row| row.get(0))?;
    if !is_known {
        return Ok(());
    }
    let sql = format!("SELECT {COLUMNS} FROM drift WHERE scope = ?1 AND status IN ('open', 'ignored')");
    let known = select(tx.conn, &sql, [host.as_str()])?;
    let is_same = |row: &DriftRecord, drift: &Drift| row.drift.resource == drift.resource && row.drift.field == drift.field;
    let mut told = Told { tx, room: events, skipped: 0 };
    for drift in &report.drift {
        match known.iter().find(|row| is_same(row, drift)) {
            Some(row) if row.drift == *drift => {}
            Some(row) => follow(tx, row.id, drift)?,
            None if is_accepted(tx, host, report, drift)? => {}
            None => open(&mut told, host, name, report, drift)?,
        }
    }
    // What was cut is the end of a sorted list.
    let key = |drift: &Drift| (drift.resource.clone(), drift.field.clone());
    let last = report.drift.last().map(key);
    let is_listed = |row: &DriftRecord| report.is_whole || last.as_ref().is_some_and(|last| key(&row.drift) < *last);
    for row in known.iter().filter(|row| is_listed(row) && !report.drift.iter().any(|drift| is_same(row, drift))) {
        close_matching(&mut told, name, row)?;
    }
    told.finish(name)?;
    prune(tx.conn, host.as_str())
}

/// The events of one report: so many are recorded, and of the rest the log says how many there were.
struct Told<'t, 'c> {
    tx: &'t Tx<'c>,
    room: u32,
    skipped: u32,
}

impl Told<'_, '_> {
    fn append(&mut self, event: &NewEvent) -> Result<()> {
        match self.room.checked_sub(1) {
            Some(left) => {
                self.room = left;
                events::append(self.tx, event)
            }
            None => {
                self.skipped = self.skipped.saturating_add(1);
                Ok(())
            }
        }
    }

    fn finish(self, name: &str) -> Result<()> {
        if self.skipped == 0 {
            return Ok(());
        }
        tracing::warn!(host = name, skipped = self.skipped, "too many drifts of this host begin and end; not recorded one by one");
        Ok(())
    }
}

/// Whether a revision took this very value over that the host does not have yet.
fn is_accepted(tx: &Tx<'_>, host: &HostId, report: &DriftReport, drift: &Drift) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM drift WHERE scope = ?1 AND resource = ?2 AND field = ?3 AND actual = ?4 AND status = 'accepted'
         AND topology = ?5 AND accepted_generation > ?6)";
    let values =
        params![host.as_str(), drift.resource.as_str(), drift.field, drift.actual, report.topology.as_str(), int(report.generation.0)];
    Ok(tx.conn.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

fn open(told: &mut Told<'_, '_>, host: &HostId, name: &str, report: &DriftReport, drift: &Drift) -> Result<()> {
    let tx = told.tx;
    tx.conn
        .prepare_cached(
            "INSERT INTO drift (scope, resource, field, expected, actual, status, topology, generation, detected_ms, changed_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, 'open', ?6, ?7, ?8, ?8)",
        )?
        .execute(params![
            host.as_str(),
            drift.resource.as_str(),
            drift.field,
            drift.expected,
            drift.actual,
            report.topology.as_str(),
            int(report.generation.0),
            int(tx.now_ms)
        ])?;
    told.append(&detected(tx.now_ms, drift, "report").host(name).revision(&report.topology, report.generation))
}

/// The event of a drift that an operator has to decide about.
pub(super) fn detected(now_ms: u64, drift: &Drift, source: &str) -> NewEvent {
    let short = |text: &str| moorline_common::fault::cut(text);
    let words = json!({
        "resource": drift.resource.as_str(),
        "before": { "field": short(&drift.field), "expected": short(&drift.expected) },
        "after": { "field": short(&drift.field), "actual": short(&drift.actual) },
        "source": source,
        "occurred_at": now_ms / 1000,
    });
    NewEvent::hub(Kind::DriftDetected, words.to_string())
}

pub(super) fn follow(tx: &Tx<'_>, id: u64, drift: &Drift) -> Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE drift SET expected = ?2, actual = ?3, changed_ms = CASE WHEN actual = ?3 THEN changed_ms ELSE ?4 END WHERE id = ?1",
        )?
        .execute(params![int(id), drift.expected, drift.actual, int(tx.now_ms)])?;
    Ok(())
}

/// Closes a row whose field is as wanted: reverted if that was ordered, stale if not.
fn close_matching(told: &mut Told<'_, '_>, name: &str, row: &DriftRecord) -> Result<()> {
    let tx = told.tx;
    // Its receipt may come after the report that shows what it did.
    let is_reverted: bool = tx
        .conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM ops WHERE op_id = ?1 AND state NOT IN ('failed', 'expired', 'cancelled', 'refused'))",
        )?
        .query_row([&row.op_id], |found| found.get(0))?;
    let (status, by) = if is_reverted { (DriftStatus::Reverted, row.resolved_by.as_str()) } else { (DriftStatus::Stale, "hub") };
    tx.conn.prepare_cached("UPDATE drift SET status = ?2, resolved_ms = ?3, resolved_by = ?4 WHERE id = ?1")?.execute(params![
        int(row.id),
        status.as_str(),
        int(tx.now_ms),
        by
    ])?;
    let words = format!("drift {} is {}: {} {}", row.id, status.as_str(), row.drift.resource, row.drift.field);
    told.append(&NewEvent::hub(Kind::DriftClosed, words).host(name))
}

/// Forgets what was resolved long ago.
pub(super) fn prune(conn: &Connection, scope: &str) -> Result<()> {
    conn.prepare_cached(
        "DELETE FROM drift WHERE scope = ?1 AND status NOT IN ('open', 'ignored') AND id <= (SELECT id FROM drift
         WHERE scope = ?1 AND status NOT IN ('open', 'ignored') ORDER BY id DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute(params![scope, limits::DRIFT_KEPT])?;
    Ok(())
}

/// The row as it was shown; refuses one that is resolved or whose value has moved.
pub(super) fn shown(conn: &Connection, shown: &ShownDrift) -> Result<DriftRecord> {
    let row = unresolved(conn, shown.id)?;
    if row.drift.actual != shown.actual {
        let message = format!(
            "{} of {} is {} by now, and {} was shown; look again with `moorctl drift show {}`",
            row.drift.field, row.drift.resource, row.drift.actual, shown.actual, row.id
        );
        return Err(Fault::new(Code::DriftMoved, message).into());
    }
    Ok(row)
}

fn unresolved(conn: &Connection, id: u64) -> Result<DriftRecord> {
    let Some(row) = drift(conn, id)? else {
        return Err(Fault::new(Code::NotFound, format!("there is no drift {id}; list them with `moorctl drift ls`")).into());
    };
    match row.status {
        DriftStatus::Open | DriftStatus::Ignored => Ok(row),
        DriftStatus::Accepted | DriftStatus::Reverted | DriftStatus::Stale => {
            let message = format!("drift {id} is {} already, by {}", row.status.as_str(), row.resolved_by);
            Err(Fault::new(Code::DriftResolved, message).into())
        }
    }
}

/// Leaves a drift alone until `until_ms`.
pub(super) fn ignore(tx: &Tx<'_>, id: u64, until_ms: u64, reason: &str, by: &Actor, event: &NewEvent) -> Result<DriftRecord> {
    unresolved(tx.conn, id)?;
    tx.conn
        .prepare_cached(
            "UPDATE drift SET status = 'ignored', ignored_until_ms = ?2, reason = ?3, resolved_by = ?4, op_id = '' WHERE id = ?1",
        )?
        .execute(params![int(id), int(until_ms), reason, by.subject])?;
    events::append(tx, event)?;
    drift(tx.conn, id)?.ok_or_else(|| damaged("drift"))
}

/// Opens again what was ignored for long enough; gives back how many.
pub(super) fn reopen(tx: &Tx<'_>, limit: u32) -> Result<usize> {
    let sql = format!("SELECT {COLUMNS} FROM drift WHERE status = 'ignored' AND ignored_until_ms <= ?1 LIMIT ?2");
    let due = select(tx.conn, &sql, params![int(tx.now_ms), limit])?;
    for row in &due {
        tx.conn
            .prepare_cached("UPDATE drift SET status = 'open', ignored_until_ms = 0, resolved_by = '' WHERE id = ?1")?
            .execute([int(row.id)])?;
        events::append(tx, &detected(tx.now_ms, &row.drift, "ignored long enough").host(scope_name(tx.conn, &row.scope)?))?;
    }
    Ok(due.len())
}

/// A host's name; empty when it is not known any more, or there is no host.
fn scope_name(conn: &Connection, scope: &Scope) -> Result<String> {
    match scope {
        Scope::Host(host) => Ok(super::revisions::host_name(conn, host)?.unwrap_or_default()),
        Scope::Cloud(_) => Ok(String::new()),
    }
}

/// Refuses what is in a cloud, with what to do about that.
fn require_on_host(row: &DriftRecord, remedy: &str) -> Result<()> {
    match &row.scope {
        Scope::Host(_) => Ok(()),
        Scope::Cloud(cloud) => {
            let message = format!("drift {} is in the cloud `{cloud}`: {remedy}", row.id);
            Err(Fault::new(Code::InvalidArgument, message).into())
        }
    }
}

/// Whether [`reopen`] would open any.
pub(super) fn has_ignored_for_long(conn: &Connection, now_ms: u64) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM drift WHERE status = 'ignored' AND ignored_until_ms <= ?1)";
    Ok(conn.prepare_cached(sql)?.query_row([int(now_ms)], |row| row.get(0))?)
}

/// Stores the operation that reverts `drifts`, and notes it with them.
pub(super) fn revert(tx: &Tx<'_>, drifts: &[ShownDrift], op: &NewOp, event: &NewEvent) -> Result<(OpRecord, bool)> {
    for one in drifts {
        let row = shown(tx.conn, one)?;
        require_on_host(&row, "no order to a host reverts it, a saga does; see `moorctl drift show`")?;
        if row.scope.host() != Some(&op.host_id) || row.drift.resource != op.resource {
            let message = format!("drift {} is on {} of {}, the order is for another one", row.id, row.drift.resource, row.scope.to_text());
            return Err(Fault::new(Code::InvalidArgument, message).into());
        }
        tx.conn
            .prepare_cached(
                "UPDATE drift SET status = 'open', ignored_until_ms = 0, op_id = ?2, resolved_by = ?3, reason = ?4 WHERE id = ?1",
            )?
            .execute(params![int(row.id), op.op_id.as_str(), op.submitted_by, op.reason])?;
    }
    ops::submit(tx, op, event)
}

/// Closes the rows whose values `generation` took over.
pub(super) fn accept(tx: &Tx<'_>, revision: &NewRevision, generation: Generation, pushed: &NewEvent) -> Result<()> {
    for one in &revision.accepts {
        let row = shown(tx.conn, one)?;
        require_on_host(&row, "no push accepts it, `moorctl drift accept` does without a file")?;
        if row.topology != revision.topology.as_str() || !revision.slices.iter().any(|slice| row.scope.host() == Some(&slice.host_id)) {
            let message = format!("drift {} is of `{}` on {}, which this push is not about", row.id, row.topology, row.scope.to_text());
            return Err(Fault::new(Code::InvalidArgument, message).into());
        }
        tx.conn
            .prepare_cached(
                "UPDATE drift SET status = 'accepted', resolved_ms = ?2, resolved_by = ?3, reason = ?4, accepted_generation = ?5 WHERE id = ?1",
            )?
            .execute(params![int(row.id), int(tx.now_ms), revision.pushed_by, revision.message, int(generation.0)])?;
        let words = format!("drift {} is accepted: {} {} is {}", row.id, row.drift.resource, row.drift.field, row.drift.actual);
        let event = NewEvent::new(Kind::DriftClosed, pushed.actor.clone(), moorline_common::fault::cut(&words));
        events::append(tx, &event.host(scope_name(tx.conn, &row.scope)?).revision(&revision.topology, generation))?;
    }
    Ok(())
}
