//! What clouds have: one row for each thing, which stays when it is gone.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::id::SagaId;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde_json::Value;

use super::{Result, StoreError, Tx, count, damaged, int};
use crate::limits;
use crate::store::{CloudKind, NewProvisioned, ProvisionedRecord, ResourceEvent, ResourceRecord, SeenResource};

/// How a row is read.
const COLUMNS: &str = "cloud, kind, number, name, value, first_seen_ms, seen_ms, deleted_ms, saga_id";

fn written(value: &Value) -> Result<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Failed(e.to_string()))
}

/// As it is stored: empty for none.
fn saga(saga_id: Option<&SagaId>) -> &str {
    saga_id.map_or("", SagaId::as_str)
}

fn read_saga(text: String) -> std::result::Result<Option<SagaId>, ()> {
    if text.is_empty() { Ok(None) } else { SagaId::parse(text).map(Some).map_err(|_| ()) }
}

fn record(row: &Row<'_>) -> rusqlite::Result<Option<ResourceRecord>> {
    let (kind, value, saga_id): (String, String, String) = (row.get(1)?, row.get(4)?, row.get(8)?);
    let (Some(kind), Ok(value), Ok(saga_id)) = (CloudKind::parse(&kind), serde_json::from_str(&value), read_saga(saga_id)) else {
        return Ok(None);
    };
    Ok(Some(ResourceRecord {
        cloud: row.get(0)?,
        kind,
        number: count(row.get(2)?),
        name: row.get(3)?,
        value,
        first_seen_ms: count(row.get(5)?),
        seen_ms: count(row.get(6)?),
        deleted_ms: count(row.get(7)?),
        saga_id,
    }))
}

pub(super) fn resource(conn: &Connection, cloud: &str, kind: CloudKind, number: u64) -> Result<Option<ResourceRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM resources WHERE cloud = ?1 AND kind = ?2 AND number = ?3");
    let found = conn.prepare_cached(&sql)?.query_row(params![cloud, kind.as_str(), int(number)], record).optional()?;
    found.map(|row| row.ok_or_else(|| damaged("resource"))).transpose()
}

pub(super) fn resources(conn: &Connection, cloud: &str, with_deleted: bool) -> Result<Vec<ResourceRecord>> {
    let sql = format!("SELECT {COLUMNS} FROM resources WHERE cloud = ?1 AND (deleted_ms = 0 OR ?2) ORDER BY kind, number");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params![cloud, with_deleted], record)?.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().map(|row| row.ok_or_else(|| damaged("resource"))).collect()
}

pub(super) fn events(conn: &Connection, cloud: &str, kind: CloudKind, number: u64) -> Result<Vec<ResourceEvent>> {
    let sql = "SELECT sequence, at_ms, what, saga_id FROM resource_events WHERE cloud = ?1 AND kind = ?2 AND number = ?3 ORDER BY sequence";
    let mut statement = conn.prepare_cached(sql)?;
    let read = |row: &Row<'_>| {
        let saga_id = read_saga(row.get(3)?).unwrap_or_default();
        Ok(ResourceEvent { sequence: count(row.get(0)?), at_ms: count(row.get(1)?), what: row.get(2)?, saga_id })
    };
    Ok(statement.query_map(params![cloud, kind.as_str(), int(number)], read)?.collect::<rusqlite::Result<_>>()?)
}

fn happened(tx: &Tx<'_>, cloud: &str, kind: CloudKind, number: u64, what: &str, saga_id: Option<&SagaId>) -> Result<()> {
    tx.conn
        .prepare_cached("INSERT INTO resource_events (cloud, kind, number, at_ms, what, saga_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![cloud, kind.as_str(), int(number), int(tx.now_ms), what, saga(saga_id)])?;
    let old = "DELETE FROM resource_events WHERE sequence <= (SELECT max(sequence) FROM resource_events) - ?1";
    tx.conn.prepare_cached(old)?.execute([int(limits::RESOURCE_EVENTS_KEPT)])?;
    Ok(())
}

/// The inventory has it, as it was seen just now. What was deleted stays so.
fn see(tx: &Tx<'_>, cloud: &str, kind: CloudKind, number: u64, name: &str, value: &Value) -> Result<()> {
    let value = written(value)?;
    tx.conn
        .prepare_cached(
            "INSERT INTO resources (cloud, kind, number, name, value, first_seen_ms, seen_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
             ON CONFLICT (cloud, kind, number) DO UPDATE SET name = ?4, value = ?5, seen_ms = ?6, missed = 0 WHERE deleted_ms = 0",
        )?
        .execute(params![cloud, kind.as_str(), int(number), name, value, int(tx.now_ms)])?;
    Ok(())
}

pub(super) fn see_droplet(tx: &Tx<'_>, cloud: &str, number: u64, name: &str, value: &Value) -> Result<()> {
    // Only what is known already: whose it is, the next listing tells.
    if resource(tx.conn, cloud, CloudKind::Droplet, number)?.is_some() {
        see(tx, cloud, CloudKind::Droplet, number, name, value)?;
    }
    Ok(())
}

pub(super) fn register(tx: &Tx<'_>, new: &NewProvisioned) -> Result<u64> {
    let saga_id = new.saga_id.as_ref();
    see(tx, &new.cloud, CloudKind::Droplet, new.number, &new.name, &new.live)?;
    tx.conn
        .prepare_cached("UPDATE resources SET saga_id = ?3 WHERE cloud = ?1 AND kind = 'droplet' AND number = ?2 AND deleted_ms = 0")?
        .execute(params![new.cloud, int(new.number), saga(saga_id)])?;
    let before = provisioned(tx.conn, &new.cloud, Some(new.number))?.pop();
    let version = match &before {
        Some(before) if before.spec == new.spec => before.spec_version,
        Some(before) => before.spec_version.saturating_add(1),
        None => 1,
    };
    tx.conn
        .prepare_cached(
            "INSERT INTO provisioned (cloud, number, spec, spec_version, provisioned_ms, provisioned_by, saga_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (cloud, number)
             DO UPDATE SET spec = ?3, spec_version = ?4, provisioned_ms = ?5, provisioned_by = ?6, saga_id = ?7",
        )?
        .execute(params![new.cloud, int(new.number), written(&new.spec)?, int(version), int(tx.now_ms), new.by, saga(saga_id)])?;
    // The same again, after a crash, is no news.
    if before.is_none_or(|before| before.spec_version != version) {
        let what = format!("registered as `{}`, version {version} of its spec", new.name);
        happened(tx, &new.cloud, CloudKind::Droplet, new.number, &what, saga_id)?;
    }
    Ok(version)
}

pub(super) fn unregister(tx: &Tx<'_>, cloud: &str, number: u64, saga_id: Option<&SagaId>) -> Result<()> {
    tx.conn.prepare_cached("DELETE FROM provisioned WHERE cloud = ?1 AND number = ?2")?.execute(params![cloud, int(number)])?;
    let gone = tx
        .conn
        .prepare_cached("DELETE FROM resources WHERE cloud = ?1 AND kind = 'droplet' AND number = ?2 AND deleted_ms = 0")?
        .execute(params![cloud, int(number)])?;
    if gone > 0 {
        happened(tx, cloud, CloudKind::Droplet, number, "its registration is undone", saga_id)?;
    }
    super::cloud_drift::forget(tx, cloud, number)
}

pub(super) fn amend(
    tx: &Tx<'_>,
    cloud: &str,
    number: u64,
    fields: &BTreeMap<String, Value>,
    by: &str,
    saga_id: Option<&SagaId>,
) -> Result<u64> {
    let Some(before) = provisioned(tx.conn, cloud, Some(number))?.pop() else { return Ok(0) };
    let mut spec = before.spec.clone();
    if let Value::Object(spec) = &mut spec {
        spec.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    if spec == before.spec {
        return Ok(before.spec_version);
    }
    let version = before.spec_version.saturating_add(1);
    tx.conn.prepare_cached("UPDATE provisioned SET spec = ?3, spec_version = ?4 WHERE cloud = ?1 AND number = ?2")?.execute(params![
        cloud,
        int(number),
        written(&spec)?,
        int(version)
    ])?;
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    let what = format!("wanted with another {} by {by}, version {version} of its spec", names.join(", "));
    happened(tx, cloud, CloudKind::Droplet, number, &what, saga_id)?;
    Ok(version)
}

pub(super) fn bury(tx: &Tx<'_>, cloud: &str, kind: CloudKind, numbers: &BTreeSet<u64>, saga_id: Option<&SagaId>) -> Result<()> {
    for number in numbers {
        let buried = tx
            .conn
            .prepare_cached(
                "INSERT INTO resources (cloud, kind, number, name, value, first_seen_ms, seen_ms, deleted_ms, saga_id)
                 VALUES (?1, ?2, ?3, '', 'null', ?4, ?4, ?4, ?5) ON CONFLICT (cloud, kind, number)
                 DO UPDATE SET deleted_ms = ?4, saga_id = CASE WHEN ?5 = '' THEN saga_id ELSE ?5 END WHERE deleted_ms = 0",
            )?
            .execute(params![cloud, kind.as_str(), int(*number), int(tx.now_ms), saga(saga_id)])?;
        if buried > 0 {
            happened(tx, cloud, kind, *number, "deleted", saga_id)?;
        }
        if kind == CloudKind::Droplet {
            tx.conn.prepare_cached("DELETE FROM provisioned WHERE cloud = ?1 AND number = ?2")?.execute(params![cloud, int(*number)])?;
            super::cloud_drift::forget(tx, cloud, *number)?;
        }
    }
    let kept_ms = u64::try_from(limits::BURIED_KEPT.as_millis()).unwrap_or(u64::MAX);
    tx.conn
        .prepare_cached("DELETE FROM resources WHERE deleted_ms > 0 AND deleted_ms < ?1")?
        .execute([int(tx.now_ms.saturating_sub(kept_ms))])?;
    Ok(())
}

pub(super) fn buried(conn: &Connection, cloud: &str, kind: CloudKind) -> Result<BTreeSet<u64>> {
    let mut statement = conn.prepare_cached("SELECT number FROM resources WHERE cloud = ?1 AND kind = ?2 AND deleted_ms > 0")?;
    let rows = statement.query_map(params![cloud, kind.as_str()], |row| row.get::<_, i64>(0))?;
    rows.map(|number| Ok(count(number?))).collect()
}

pub(super) fn provisioned(conn: &Connection, cloud: &str, number: Option<u64>) -> Result<Vec<ProvisionedRecord>> {
    let sql = "SELECT cloud, number, spec, spec_version, provisioned_ms, provisioned_by, saga_id FROM provisioned
         WHERE cloud = ?1 AND (?2 IS NULL OR number = ?2) ORDER BY number";
    let read = |row: &Row<'_>| {
        let (spec, saga_id): (String, String) = (row.get(2)?, row.get(6)?);
        let (Ok(spec), Ok(saga_id)) = (serde_json::from_str(&spec), read_saga(saga_id)) else { return Ok(None) };
        Ok(Some(ProvisionedRecord {
            cloud: row.get(0)?,
            number: count(row.get(1)?),
            spec,
            spec_version: count(row.get(3)?),
            provisioned_ms: count(row.get(4)?),
            provisioned_by: row.get(5)?,
            saga_id,
        }))
    };
    let mut statement = conn.prepare_cached(sql)?;
    let rows = statement.query_map(params![cloud, number.map(int)], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().map(|row| row.ok_or_else(|| damaged("spec"))).collect()
}

/// Takes a whole listing over. What is new or other is noted; what was deleted and lingers is not there; what is missing may only not be listed
/// yet, and counts as gone after several listings.
pub(super) fn sync(tx: &Tx<'_>, cloud: &str, kind: CloudKind, seen: &[SeenResource]) -> Result<()> {
    let known: BTreeMap<u64, ResourceRecord> =
        resources(tx.conn, cloud, true)?.into_iter().filter(|one| one.kind == kind).map(|one| (one.number, one)).collect();
    for one in seen {
        match known.get(&one.number) {
            Some(row) if row.deleted_ms > 0 => continue,
            Some(row) if row.value == one.value => {}
            Some(_) => happened(tx, cloud, kind, one.number, "changed", None)?,
            None => happened(tx, cloud, kind, one.number, &format!("seen first, as `{}`", one.name), None)?,
        }
        see(tx, cloud, kind, one.number, &one.name, &one.value)?;
    }
    let listed: BTreeSet<u64> = seen.iter().map(|one| one.number).collect();
    let young_ms = u64::try_from(limits::RESOURCE_YOUNG.as_millis()).unwrap_or(u64::MAX);
    let is_missing = |one: &&ResourceRecord| one.deleted_ms == 0 && !listed.contains(&one.number);
    for one in known.values().filter(is_missing).filter(|one| one.first_seen_ms.saturating_add(young_ms) <= tx.now_ms) {
        let missed: i64 = tx
            .conn
            .prepare_cached("UPDATE resources SET missed = missed + 1 WHERE cloud = ?1 AND kind = ?2 AND number = ?3 RETURNING missed")?
            .query_row(params![cloud, kind.as_str(), int(one.number)], |row| row.get(0))?;
        if count(missed) >= limits::RESOURCE_MISSES {
            tx.conn
                .prepare_cached("UPDATE resources SET deleted_ms = ?4 WHERE cloud = ?1 AND kind = ?2 AND number = ?3")?
                .execute(params![cloud, kind.as_str(), int(one.number), int(tx.now_ms)])?;
            happened(tx, cloud, kind, one.number, "gone: it is listed no more, and no saga deleted it", None)?;
        }
    }
    Ok(())
}
