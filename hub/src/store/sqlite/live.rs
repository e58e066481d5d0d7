//! What hosts say: heartbeats, reports, refusals, and what a restored hub takes over from them.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostId;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::{Result, Tx, count, damaged, enrol, events, int, remove, revisions};
use crate::events::NewEvent;
use crate::store::{Adoption, RefusalRecord, RefusedKind, ReportRecord, Witness};

pub(super) fn keep_heartbeat(tx: &Tx<'_>, host: &HostId, json: &[u8], at_ms: u64, witness: &Witness) -> Result<()> {
    tx.conn.prepare_cached("UPDATE hosts SET heartbeat = ?2, heartbeat_ms = ?3 WHERE host_id = ?1")?.execute(params![
        host.as_str(),
        json,
        int(at_ms)
    ])?;
    if witness.seq > 0 {
        tx.conn
            .prepare_cached(
                "UPDATE hosts SET witnessed_epoch = ?2, witnessed_seq = ?3, witnessed_head = ?4
                 WHERE host_id = ?1 AND (witnessed_epoch <> ?2 OR witnessed_seq < ?3)",
            )?
            .execute(params![host.as_str(), witness.epoch, int(witness.seq), witness.head])?;
    }
    Ok(())
}

pub(super) fn keep_report(tx: &Tx<'_>, host: &HostId, report: &ReportRecord) -> Result<()> {
    tx.conn
        .prepare_cached(
            // Of a host that was removed meanwhile nothing is kept.
            "INSERT INTO reports (host_id, envelope, digest, received_ms) SELECT host_id, ?2, ?3, ?4 FROM hosts WHERE host_id = ?1
             ON CONFLICT (host_id) DO UPDATE SET envelope = excluded.envelope, digest = excluded.digest, received_ms = excluded.received_ms",
        )?
        .execute(params![host.as_str(), report.envelope, report.digest, int(report.received_ms)])?;
    Ok(())
}

pub(super) fn report(conn: &Connection, host: &HostId) -> Result<Option<ReportRecord>> {
    Ok(conn
        .prepare_cached("SELECT envelope, digest, received_ms FROM reports WHERE host_id = ?1")?
        .query_row([host.as_str()], |row| Ok(ReportRecord { envelope: row.get(0)?, digest: row.get(1)?, received_ms: count(row.get(2)?) }))
        .optional()?)
}

pub(super) fn keep_refusal(tx: &Tx<'_>, host: &HostId, refusal: &RefusalRecord, event: Option<&NewEvent>) -> Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO refusals (host_id, kind, payload_sha256, code, message, at_ms)
             SELECT host_id, ?2, ?3, ?4, ?5, ?6 FROM hosts WHERE host_id = ?1
             ON CONFLICT (host_id, kind) DO UPDATE SET payload_sha256 = excluded.payload_sha256, code = excluded.code,
                 message = excluded.message, at_ms = excluded.at_ms",
        )?
        .execute(params![
            host.as_str(),
            refusal.kind.as_str(),
            refusal.payload_sha256,
            refusal.fault.code.as_str(),
            refusal.fault.message,
            int(tx.now_ms)
        ])?;
    event.map_or(Ok(()), |event| events::append(tx, event))
}

pub(super) fn refusals(conn: &Connection) -> Result<Vec<(HostId, RefusalRecord)>> {
    let mut statement = conn.prepare_cached("SELECT host_id, kind, payload_sha256, code, message FROM refusals")?;
    let rows = statement
        .query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
                row.get::<_, String>(4)?,
            ))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let mut found = Vec::new();
    for (host, kind, payload_sha256, code, message) in rows {
        let kind = RefusedKind::parse(&kind).ok_or_else(|| damaged("refusal"))?;
        let fault = Fault::new(Code::parse(&code).unwrap_or(Code::Internal), message);
        found.push((HostId::parse(host).map_err(|_| damaged("host id"))?, RefusalRecord { kind, payload_sha256, fault }));
    }
    Ok(found)
}

pub(super) fn adopt(tx: &Tx<'_>, host: &HostId, adoption: &Adoption, event: &NewEvent) -> Result<()> {
    remove::require_not_removed(tx, host)?;
    for root in &adoption.roots {
        enrol::put_root(tx, root, None)?;
    }
    if let Some(binding) = &adoption.binding {
        let stored = enrol::host(tx.conn, host)?;
        if stored.is_none_or(|stored| stored.binding_serial < binding.serial) {
            enrol::write_binding(tx, binding)?;
        }
    }
    if let Some((topology, generation, slice)) = &adoption.slice {
        revisions::recover(tx, topology, *generation, slice)?;
    }
    events::append(tx, event)
}
