//! Revisions, slices, and which topology each host follows.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, ResourceId, TopologyId, VersionHash};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Result, StoreError, Tx, count, damaged, drift, events, int, rollouts};
use crate::events::NewEvent;
use crate::limits;
use crate::store::{FullRevision, NewRevision, NewSlice, RevisionRecord, TargetRecord};

/// The newest generation of a topology; 0 without one.
pub(super) fn newest(conn: &Connection, topology: &TopologyId) -> Result<Generation> {
    let generation: i64 = conn
        .prepare_cached("SELECT coalesce(max(generation), 0) FROM revisions WHERE topology = ?1")?
        .query_row([topology.as_str()], |row| row.get(0))?;
    Ok(Generation(count(generation)))
}

pub(super) fn push(tx: &Tx<'_>, revision: &NewRevision, event: &NewEvent) -> Result<Generation> {
    let current = newest(tx.conn, &revision.topology)?;
    if current != revision.base {
        return Err(base_moved(&revision.topology, revision.base, current));
    }
    let named: BTreeSet<&HostId> = revision.slices.iter().map(|s| &s.host_id).collect();
    if let Some(host) = members(tx.conn, &revision.topology)?.into_iter().find(|host| !named.contains(host)) {
        let name = host_name(tx.conn, &host)?.unwrap_or_else(|| host.to_string());
        return Err(Fault::new(
            Code::BaseMoved,
            format!("host `{name}` follows `{}` and has no slice in this push; read generation {current} again and give it one (an empty one if it leaves)", revision.topology),
        )
        .into());
    }
    let generation = current.next();
    tx.conn
        .prepare_cached(
            "INSERT INTO revisions (topology, generation, source, source_sha256, down, pushed_ms, pushed_by, message)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            revision.topology.as_str(),
            int(generation.0),
            revision.source,
            revision.source_sha256,
            revision.down,
            int(tx.now_ms),
            revision.pushed_by,
            revision.message
        ])?;
    for slice in &revision.slices {
        insert_slice(tx, &revision.topology, generation, slice)?;
        assign(tx, &revision.topology, slice)?;
    }
    drift::accept(tx, revision, generation, event)?;
    events::append(tx, event)?;
    rollouts::supersede(tx, &revision.topology, generation)?;
    if let Some(rollout) = &revision.rollout {
        rollouts::start(tx, &revision.topology, generation, rollout, event)?;
    }
    // Last: what is withheld now is not what its host follows.
    prune(tx.conn, &revision.topology, generation)?;
    Ok(generation)
}

/// Removes the slices and revisions before the newest ones that are kept. A host's newest slice stays (it is the host's
/// target, or will be, or says that the host left), and so do the newest one that is not withheld, the one that a cordon keeps it on,
/// and the one that it reported applied.
fn prune(conn: &Connection, topology: &TopologyId, newest: Generation) -> Result<()> {
    let before = newest.0.saturating_sub(limits::REVISIONS_KEPT);
    rollouts::prune(conn, topology, Generation(before))?;
    let last = params![topology.as_str(), int(before)];
    conn.prepare_cached(
        "DELETE FROM slices WHERE topology = ?1 AND generation <= ?2
         AND generation < (SELECT max(n.generation) FROM slices n WHERE n.host_id = slices.host_id AND n.topology = slices.topology)
         AND generation <> (SELECT coalesce(max(n.generation), 0) FROM slices n
             WHERE n.host_id = slices.host_id AND n.topology = slices.topology AND n.withheld = 0)
         AND NOT EXISTS (SELECT 1 FROM hosts h WHERE h.host_id = slices.host_id
             AND ((h.done_topology = slices.topology AND h.done_generation = slices.generation)
                 OR (h.cordon_topology = slices.topology AND h.cordon_generation = slices.generation)))",
    )?
    .execute(last)?;
    conn.prepare_cached(
        "DELETE FROM revisions WHERE topology = ?1 AND generation <= ?2
         AND NOT EXISTS (SELECT 1 FROM slices s WHERE s.topology = revisions.topology AND s.generation = revisions.generation)",
    )?
    .execute(last)?;
    Ok(())
}

fn base_moved(topology: &TopologyId, base: Generation, current: Generation) -> StoreError {
    Fault::new(Code::BaseMoved, format!("`{topology}` is at generation {current}, this was made from generation {base}")).into()
}

/// Hosts whose newest slice of the topology is not empty.
fn members(conn: &Connection, topology: &TopologyId) -> Result<Vec<HostId>> {
    let mut statement = conn.prepare_cached(
        "SELECT host_id FROM slices s WHERE topology = ?1 AND empty = 0
         AND generation = (SELECT max(generation) FROM slices n WHERE n.host_id = s.host_id AND n.topology = s.topology)",
    )?;
    let ids = statement.query_map([topology.as_str()], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    ids.into_iter().map(|id| HostId::parse(id).map_err(|_| damaged("host id"))).collect()
}

pub(super) fn host_name(conn: &Connection, host: &HostId) -> Result<Option<String>> {
    Ok(conn.prepare_cached("SELECT name FROM hosts WHERE host_id = ?1")?.query_row([host.as_str()], |row| row.get(0)).optional()?)
}

pub(super) fn add_slices(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, slices: &[NewSlice], event: &NewEvent) -> Result<()> {
    let current = newest(tx.conn, topology)?;
    if current == Generation(0) {
        return Err(Fault::new(Code::NotFound, format!("there is no topology `{topology}`")).into());
    }
    if current != generation {
        return Err(base_moved(topology, generation, current));
    }
    let down = tx
        .conn
        .prepare_cached("SELECT 1 FROM revisions WHERE topology = ?1 AND generation = ?2 AND down = 1")?
        .exists(params![topology.as_str(), int(generation.0)])?;
    if down && slices.iter().any(|s| !s.empty) {
        return Err(Fault::new(Code::InvalidArgument, format!("`{topology}` generation {generation} is a teardown")).into());
    }
    for slice in slices {
        if let Some(stored) = payload_of(tx.conn, topology, generation, &slice.host_id)? {
            if stored == slice.payload_sha256 {
                continue;
            }
            return Err(Fault::new(
                Code::Equivocation,
                format!("host {} has another slice of `{topology}` generation {generation}; push a new generation", slice.host_id),
            )
            .into());
        }
        insert_slice(tx, topology, generation, slice)?;
        assign(tx, topology, slice)?;
        rollouts::join(tx, topology, generation, slice)?;
    }
    events::append(tx, event)
}

fn payload_of(conn: &Connection, topology: &TopologyId, generation: Generation, host: &HostId) -> Result<Option<String>> {
    Ok(conn
        .prepare_cached("SELECT payload_sha256 FROM slices WHERE topology = ?1 AND generation = ?2 AND host_id = ?3")?
        .query_row(params![topology.as_str(), int(generation.0), host.as_str()], |row| row.get(0))
        .optional()?)
}

fn insert_slice(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, slice: &NewSlice) -> Result<()> {
    let state: Option<String> = tx
        .conn
        .prepare_cached("SELECT state FROM hosts WHERE host_id = ?1")?
        .query_row([slice.host_id.as_str()], |row| row.get(0))
        .optional()?;
    if state.as_deref() != Some("bound") {
        return Err(Fault::new(Code::NotFound, format!("host {} is not bound; `moorctl host approve` binds it", slice.host_id)).into());
    }
    let resources = serde_json::to_string(&slice.resources).map_err(|e| StoreError::Failed(e.to_string()))?;
    tx.conn
        .prepare_cached(
            "INSERT INTO slices (topology, generation, host_id, version_hash, payload_sha256, empty, resources, envelope)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            topology.as_str(),
            int(generation.0),
            slice.host_id.as_str(),
            slice.version_hash.as_str(),
            slice.payload_sha256,
            slice.empty,
            resources,
            slice.envelope
        ])?;
    Ok(())
}

/// Makes `topology` the one that the host follows, now or once a teardown is confirmed.
fn assign(tx: &Tx<'_>, topology: &TopologyId, slice: &NewSlice) -> Result<()> {
    let host = &slice.host_id;
    let (target, next): (Option<String>, Option<String>) = tx
        .conn
        .prepare_cached("SELECT target_topology, next_topology FROM hosts WHERE host_id = ?1")?
        .query_row([host.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match target {
        Some(other) if other != topology.as_str() => {
            let other = TopologyId::parse(other).map_err(|_| damaged("topology name"))?;
            if next.as_deref() == Some(topology.as_str()) {
                // It waits for the other's teardown already; an empty slice takes it out of the queue.
                if slice.empty {
                    tx.conn.prepare_cached("UPDATE hosts SET next_topology = NULL WHERE host_id = ?1")?.execute([host.as_str()])?;
                }
                return Ok(());
            }
            if slice.empty {
                // Nothing of this topology is on the host: there is nothing to tear down.
                return Ok(());
            }
            follow_after(tx, topology, host, &other, next.is_some())
        }
        Some(_) => Ok(()),
        None => set_target(tx, host, topology),
    }
}

fn follow_after(tx: &Tx<'_>, topology: &TopologyId, host: &HostId, other: &TopologyId, queued: bool) -> Result<()> {
    let name = host_name(tx.conn, host)?.unwrap_or_else(|| host.to_string());
    let target = target(tx.conn, host)?;
    let is_promised = rollouts::is_promised(tx.conn, other, host)?;
    let torn_down = target.as_ref().is_none_or(|t| t.empty) && !is_promised;
    if !torn_down && !is_promised {
        return Err(Fault::new(
            Code::AlreadyApplied,
            format!(
                "host `{name}` is cordoned and has `{other}` for as long as it is: `moorctl host uncordon {name}` lets it be taken down"
            ),
        )
        .into());
    }
    if !torn_down || queued {
        return Err(Fault::new(
            Code::AlreadyApplied,
            format!("host `{name}` follows topology `{other}`; take it down first (`moorctl down {other}`) or leave the host out of `{topology}`"),
        )
        .into());
    }
    if target.is_some_and(|t| !is_done(tx.conn, host, &t.topology, t.generation).unwrap_or(false)) {
        tx.conn.prepare_cached("UPDATE hosts SET next_topology = ?2 WHERE host_id = ?1")?.execute([host.as_str(), topology.as_str()])?;
        return Ok(());
    }
    set_target(tx, host, topology)
}

/// Makes the host follow `topology` from now on.
pub(super) fn set_target(tx: &Tx<'_>, host: &HostId, topology: &TopologyId) -> Result<()> {
    tx.conn
        .prepare_cached("UPDATE hosts SET target_topology = ?2, next_topology = NULL WHERE host_id = ?1")?
        .execute([host.as_str(), topology.as_str()])?;
    Ok(())
}

fn is_done(conn: &Connection, host: &HostId, topology: &TopologyId, generation: Generation) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM hosts WHERE host_id = ?1 AND done_topology = ?2 AND done_generation >= ?3")?.exists(params![
        host.as_str(),
        topology.as_str(),
        int(generation.0)
    ])?)
}

pub(super) fn applied(tx: &Tx<'_>, host: &HostId, topology: &TopologyId, generation: Generation, event: &NewEvent) -> Result<bool> {
    let updated = tx
        .conn
        .prepare_cached("UPDATE hosts SET done_topology = ?2, done_generation = ?3 WHERE host_id = ?1")?
        .execute(params![host.as_str(), topology.as_str(), int(generation.0)])?;
    if updated == 0 {
        // An operator removed it meanwhile.
        return Ok(false);
    }
    events::append(tx, event)?;
    let next: Option<String> =
        tx.conn.prepare_cached("SELECT next_topology FROM hosts WHERE host_id = ?1")?.query_row([host.as_str()], |row| row.get(0))?;
    let (Some(next), Some(target)) = (next, target(tx.conn, host)?) else { return Ok(false) };
    if !target.empty || target.topology != *topology || target.generation != generation {
        return Ok(false);
    }
    set_target(tx, host, &TopologyId::parse(next).map_err(|_| damaged("topology name"))?)?;
    Ok(true)
}

const TARGETS: &str = "SELECT h.host_id, s.topology, s.generation, s.version_hash, s.payload_sha256, s.empty, s.resources
     FROM hosts h JOIN slices s ON s.host_id = h.host_id AND s.topology = h.target_topology
     WHERE s.generation = (SELECT max(n.generation) FROM slices n WHERE n.host_id = h.host_id AND n.topology = h.target_topology
         AND n.withheld = 0
         AND (h.cordoned_ms = 0 OR (n.topology = h.cordon_topology AND n.generation <= h.cordon_generation)))";

struct RawTarget(String, String, i64, String, String, bool, String);

fn raw_target(row: &Row<'_>) -> rusqlite::Result<RawTarget> {
    Ok(RawTarget(row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
}

fn target_record(raw: RawTarget) -> Result<(HostId, TargetRecord)> {
    let RawTarget(host, topology, generation, version_hash, payload_sha256, empty, resources) = raw;
    let resources: BTreeSet<ResourceId> = serde_json::from_str(&resources).map_err(|_| damaged("resource list"))?;
    let record = TargetRecord {
        topology: TopologyId::parse(topology).map_err(|_| damaged("topology name"))?,
        generation: Generation(count(generation)),
        version_hash: VersionHash::parse(version_hash).map_err(|_| damaged("version hash"))?,
        payload_sha256,
        empty,
        resources,
    };
    Ok((HostId::parse(host).map_err(|_| damaged("host id"))?, record))
}

pub(super) fn target(conn: &Connection, host: &HostId) -> Result<Option<TargetRecord>> {
    let sql = format!("{TARGETS} AND h.host_id = ?1");
    let raw = conn.prepare_cached(&sql)?.query_row([host.as_str()], raw_target).optional()?;
    Ok(raw.map(target_record).transpose()?.map(|(_, record)| record))
}

pub(super) fn targets(conn: &Connection, hosts: &[HostId]) -> Result<Vec<(HostId, TargetRecord)>> {
    if hosts.is_empty() {
        let raw = conn.prepare_cached(TARGETS)?.query_map([], raw_target)?.collect::<rusqlite::Result<Vec<_>>>()?;
        return raw.into_iter().map(target_record).collect();
    }
    let mut found = BTreeMap::new();
    for host in hosts {
        if let Some(record) = target(conn, host)? {
            found.insert(host.clone(), record);
        }
    }
    Ok(found.into_iter().collect())
}

/// Keeps a host on what it has of its target's topology, or lets it follow the newest one again.
pub(super) fn cordon(tx: &Tx<'_>, host: &HostId, reason: Option<&str>, event: &NewEvent) -> Result<()> {
    let changed = match reason {
        Some(reason) => {
            // Read before: a second time it is the one of the first.
            let kept = target(tx.conn, host)?;
            let (topology, generation) = match kept {
                // It was given that one and does not have it yet, such as outside of its windows: it does not come now.
                Some(t) => (Some(t.topology.to_string()), int(has_applied(tx.conn, host, &t)?.unwrap_or(t.generation).0)),
                None => (None, 0),
            };
            tx.conn
                .prepare_cached(
                    "UPDATE hosts SET cordoned_ms = CASE cordoned_ms WHEN 0 THEN ?2 ELSE cordoned_ms END, cordoned_by = ?3, cordon_reason = ?4,
                         cordon_topology = ?5, cordon_generation = ?6 WHERE host_id = ?1",
                )?
                .execute(params![host.as_str(), int(tx.now_ms), event.actor.subject, reason, topology, generation])?
        }
        None => tx
            .conn
            .prepare_cached(
                "UPDATE hosts SET cordoned_ms = 0, cordoned_by = '', cordon_reason = '', cordon_topology = NULL, cordon_generation = 0
                 WHERE host_id = ?1",
            )?
            .execute([host.as_str()])?,
    };
    if changed == 0 {
        return Err(Fault::new(Code::NotFound, format!("there is no host {host}")).into());
    }
    events::append(tx, event)
}

/// The generation of its target's topology that a host reported applied last, if its slice is there.
fn has_applied(conn: &Connection, host: &HostId, target: &TargetRecord) -> Result<Option<Generation>> {
    let sql = "SELECT h.done_generation FROM hosts h JOIN slices s
         ON s.host_id = h.host_id AND s.topology = h.done_topology AND s.generation = h.done_generation
         WHERE h.host_id = ?1 AND h.done_topology = ?2 AND h.done_generation < ?3";
    let key = params![host.as_str(), target.topology.as_str(), int(target.generation.0)];
    let found: Option<i64> = conn.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?;
    Ok(found.map(|generation| Generation(count(generation))))
}

/// A host that is kept on its target turns out to be further: that is its target now.
fn cordon_follows(tx: &Tx<'_>, host: &HostId, topology: &TopologyId, generation: Generation) -> Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE hosts SET cordon_generation = CASE WHEN cordon_topology = ?2 THEN max(cordon_generation, ?3) ELSE ?3 END, cordon_topology = ?2
             WHERE host_id = ?1 AND cordoned_ms > 0",
        )?
        .execute(params![host.as_str(), topology.as_str(), int(generation.0)])?;
    Ok(())
}

const REVISION_COLUMNS: &str =
    "topology, generation, (SELECT count(*) FROM slices s WHERE s.topology = r.topology AND s.generation = r.generation),
     down, pushed_ms, pushed_by, message, source_sha256";

fn revision_record(row: &Row<'_>) -> rusqlite::Result<RevisionRecord> {
    let topology = TopologyId::parse(row.get::<_, String>(0)?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e)))?;
    Ok(RevisionRecord {
        topology,
        generation: Generation(count(row.get(1)?)),
        hosts: row.get(2)?,
        down: row.get(3)?,
        pushed_ms: count(row.get(4)?),
        pushed_by: row.get(5)?,
        message: row.get(6)?,
        source_sha256: row.get(7)?,
    })
}

pub(super) fn topologies(conn: &Connection) -> Result<Vec<RevisionRecord>> {
    let sql = format!(
        "SELECT {REVISION_COLUMNS} FROM revisions r WHERE generation = (SELECT max(generation) FROM revisions n WHERE n.topology = r.topology) ORDER BY topology"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    Ok(statement.query_map([], revision_record)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn revisions(conn: &Connection, topology: &TopologyId, limit: u32) -> Result<Vec<RevisionRecord>> {
    let sql = format!("SELECT {REVISION_COLUMNS} FROM revisions r WHERE topology = ?1 ORDER BY generation DESC LIMIT ?2");
    let mut statement = conn.prepare_cached(&sql)?;
    Ok(statement.query_map(params![topology.as_str(), limit], revision_record)?.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn revision(
    conn: &Connection,
    topology: &TopologyId,
    generation: Generation,
    with_slices: bool,
) -> Result<Option<FullRevision>> {
    let generation = if generation == Generation(0) { newest(conn, topology)? } else { generation };
    let sql = format!("SELECT {REVISION_COLUMNS}, source FROM revisions r WHERE topology = ?1 AND generation = ?2");
    let found = conn
        .prepare_cached(&sql)?
        .query_row(params![topology.as_str(), int(generation.0)], |row| Ok((revision_record(row)?, row.get::<_, Option<Vec<u8>>>(8)?)))
        .optional()?;
    let Some((record, source)) = found else { return Ok(None) };
    let mut slices = Vec::new();
    if with_slices {
        let mut statement =
            conn.prepare_cached("SELECT host_id, envelope FROM slices WHERE topology = ?1 AND generation = ?2 ORDER BY host_id")?;
        let rows = statement
            .query_map(params![topology.as_str(), int(generation.0)], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        for (host, envelope) in rows {
            slices.push((HostId::parse(host).map_err(|_| damaged("host id"))?, envelope));
        }
    }
    Ok(Some(FullRevision { record, source, slices }))
}

/// The generation of the newest slice that a host was given in a topology; 0 without one.
pub(super) fn newest_slice(conn: &Connection, topology: &TopologyId, host: &HostId) -> Result<Generation> {
    let generation: i64 = conn
        .prepare_cached("SELECT coalesce(max(generation), 0) FROM slices WHERE topology = ?1 AND host_id = ?2 AND withheld = 0")?
        .query_row([topology.as_str(), host.as_str()], |row| row.get(0))?;
    Ok(Generation(count(generation)))
}

pub(super) fn slice(conn: &Connection, topology: &TopologyId, generation: Generation, host: &HostId) -> Result<Option<Vec<u8>>> {
    Ok(conn
        .prepare_cached("SELECT envelope FROM slices WHERE topology = ?1 AND generation = ?2 AND host_id = ?3")?
        .query_row(params![topology.as_str(), int(generation.0), host.as_str()], |row| row.get(0))
        .optional()?)
}

/// Stores a slice that an agent held, under a revision without a source if there is none.
pub(super) fn recover(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, slice: &NewSlice) -> Result<()> {
    cordon_follows(tx, &slice.host_id, topology, generation)?;
    if let Some(stored) = payload_of(tx.conn, topology, generation, &slice.host_id)? {
        if stored == slice.payload_sha256 {
            // The host has it: there is nothing left to withhold.
            rollouts::release(tx, topology, generation, &slice.host_id)?;
            return set_target(tx, &slice.host_id, topology);
        }
        return Err(Fault::new(
            Code::Equivocation,
            format!("the host holds another slice of `{topology}` generation {generation} than this hub; push a new generation"),
        )
        .into());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO revisions (topology, generation, source, source_sha256, down, pushed_ms, pushed_by, message)
             VALUES (?1, ?2, NULL, '', 0, ?3, 'hub', 'recovered from what agents held') ON CONFLICT DO NOTHING",
        )?
        .execute(params![topology.as_str(), int(generation.0), int(tx.now_ms)])?;
    insert_slice(tx, topology, generation, slice)?;
    set_target(tx, &slice.host_id, topology)
}
