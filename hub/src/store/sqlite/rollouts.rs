//! How revisions spread: rollouts, their hosts, and which slices are withheld until a host's turn.

use std::collections::BTreeMap;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::rollout::{Act, Standing, State};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{Result, StoreError, Tx, count, damaged, events, int};
use crate::events::{Kind, NewEvent};
use crate::store::{NewRollout, NewSlice, RolloutChange, RolloutHost, RolloutRecord};

/// A newer generation takes the place of every rollout of the topology that could still release.
pub(super) fn supersede(tx: &Tx<'_>, topology: &TopologyId, by: Generation) -> Result<()> {
    let sql = "SELECT generation, state FROM rollouts WHERE topology = ?1 AND state IN ('running', 'paused', 'completed')";
    let rows = tx
        .conn
        .prepare_cached(sql)?
        .query_map([topology.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (old, state) in rows {
        let waiting =
            "SELECT 1 FROM rollout_hosts WHERE topology = ?1 AND generation = ?2 AND standing IN ('pending', 'offline', 'released')";
        let is_open = tx.conn.prepare_cached(waiting)?.exists(params![topology.as_str(), old])?;
        if state == State::Completed.as_str() && !is_open {
            continue;
        }
        let words = format!("generation {by} took its place");
        set_state(tx, topology, Generation(count(old)), State::Superseded, Some(&words))?;
        let event = NewEvent::hub(Kind::RolloutSuperseded, format!("rollout: {words}")).revision(topology, Generation(count(old)));
        events::append(tx, &event)?;
    }
    Ok(())
}

/// Begins the rollout of a revision that was just stored.
pub(super) fn start(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, rollout: &NewRollout, event: &NewEvent) -> Result<()> {
    if rollout.hosts.is_empty() {
        return Ok(());
    }
    let plan = serde_json::to_string(&rollout.plan).map_err(|e| StoreError::Failed(e.to_string()))?;
    tx.conn
        .prepare_cached(
            "INSERT INTO rollouts (topology, generation, plan, state, started_ms, started_by, changed_ms)
             VALUES (?1, ?2, ?3, 'running', ?4, ?5, ?4)",
        )?
        .execute(params![topology.as_str(), int(generation.0), plan, int(tx.now_ms), event.actor.subject])?;
    for host in &rollout.hosts {
        withhold(tx, topology, generation, host)?;
    }
    let words = format!("rollout over {} hosts: {}", rollout.hosts.len(), rollout.plan.words());
    events::append(tx, &NewEvent::new(Kind::RolloutStarted, event.actor.clone(), words).revision(topology, generation))
}

fn withhold(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, host: &HostId) -> Result<()> {
    let key = params![topology.as_str(), int(generation.0), host.as_str(), int(tx.now_ms)];
    tx.conn.prepare_cached("UPDATE slices SET withheld = 1 WHERE topology = ?1 AND generation = ?2 AND host_id = ?3")?.execute(params![
        topology.as_str(),
        int(generation.0),
        host.as_str()
    ])?;
    tx.conn
        .prepare_cached(
            "INSERT INTO rollout_hosts (topology, generation, host_id, standing, changed_ms) VALUES (?1, ?2, ?3, 'pending', ?4)",
        )?
        .execute(key)?;
    Ok(())
}

/// A slice that came late takes part in the rollout of its revision, if that has one.
pub(super) fn join(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, slice: &NewSlice) -> Result<()> {
    let spreads = "SELECT 1 FROM rollouts WHERE topology = ?1 AND generation = ?2";
    if slice.empty || !tx.conn.prepare_cached(spreads)?.exists(params![topology.as_str(), int(generation.0)])? {
        return Ok(());
    }
    withhold(tx, topology, generation, &slice.host_id)
}

/// Gives a host its slice.
pub(super) fn release(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, host: &HostId) -> Result<()> {
    tx.conn.prepare_cached("UPDATE slices SET withheld = 0 WHERE topology = ?1 AND generation = ?2 AND host_id = ?3")?.execute(params![
        topology.as_str(),
        int(generation.0),
        host.as_str()
    ])?;
    Ok(())
}

/// Whether something is to be on the host by the newest slice of the topology, which it may not have got yet.
pub(super) fn is_promised(conn: &Connection, topology: &TopologyId, host: &HostId) -> Result<bool> {
    let sql = "SELECT NOT empty FROM slices WHERE topology = ?1 AND host_id = ?2 ORDER BY generation DESC LIMIT 1";
    let newest = conn.prepare_cached(sql)?.query_row([topology.as_str(), host.as_str()], |row| row.get(0)).optional()?;
    Ok(newest.unwrap_or(false))
}

/// Forgets the rollouts of revisions that are about to be removed.
pub(super) fn prune(conn: &Connection, topology: &TopologyId, last: Generation) -> Result<()> {
    for table in ["rollout_hosts", "rollouts"] {
        let sql = format!("DELETE FROM {table} WHERE topology = ?1 AND generation <= ?2");
        conn.prepare_cached(&sql)?.execute(params![topology.as_str(), int(last.0)])?;
    }
    Ok(())
}

fn set_state(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, state: State, reason: Option<&str>) -> Result<()> {
    tx.conn
        .prepare_cached(
            "UPDATE rollouts SET state = ?3, reason = coalesce(?4, reason), changed_ms = ?5
             WHERE topology = ?1 AND generation = ?2",
        )?
        .execute(params![topology.as_str(), int(generation.0), state.as_str(), reason, int(tx.now_ms)])?;
    Ok(())
}

/// Makes a change if the rollout is what it was when that was decided; `false` otherwise.
pub(super) fn change(tx: &Tx<'_>, change: &RolloutChange, new: &[NewEvent]) -> Result<bool> {
    let RolloutChange { topology, generation, seen, state, reason, forgiven, moved } = change;
    let found: Option<(String, u32)> = tx
        .conn
        .prepare_cached("SELECT state, forgiven FROM rollouts WHERE topology = ?1 AND generation = ?2")?
        .query_row(params![topology.as_str(), int(generation.0)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if found.is_none_or(|(was, forgave)| was != seen.0.as_str() || forgave != seen.1) {
        return Ok(false);
    }
    for (host, standing, why) in moved {
        tx.conn
            .prepare_cached(
                "UPDATE rollout_hosts SET standing = ?4, reason = ?5, changed_ms = ?6,
                     released_ms = CASE WHEN ?7 AND released_ms = 0 THEN ?6 ELSE released_ms END
                 WHERE topology = ?1 AND generation = ?2 AND host_id = ?3",
            )?
            .execute(params![
                topology.as_str(),
                int(generation.0),
                host.as_str(),
                standing.as_str(),
                why,
                int(tx.now_ms),
                !standing.waits()
            ])?;
        if !standing.waits() {
            release(tx, topology, *generation, host)?;
        }
    }
    if *state != seen.0 {
        set_state(tx, topology, *generation, *state, Some(reason.as_deref().unwrap_or_default()))?;
    }
    tx.conn.prepare_cached("UPDATE rollouts SET forgiven = ?3 WHERE topology = ?1 AND generation = ?2")?.execute(params![
        topology.as_str(),
        int(generation.0),
        forgiven
    ])?;
    new.iter().try_for_each(|event| events::append(tx, event))?;
    Ok(true)
}

/// An operator acts on the newest rollout of a topology, or on the one of that generation.
pub(super) fn act(tx: &Tx<'_>, topology: &TopologyId, generation: Generation, act: Act, event: &NewEvent) -> Result<RolloutRecord> {
    let found = rollout(tx.conn, topology, generation)?;
    let mut record = found.ok_or_else(|| Fault::new(Code::NotFound, format!("`{topology}` has no rollout")))?;
    let mut core = record.core();
    core.act(act)?;
    if core.state == record.state {
        return Ok(record);
    }
    set_state(tx, topology, record.generation, core.state, Some(&event.message))?;
    tx.conn.prepare_cached("UPDATE rollouts SET forgiven = ?3 WHERE topology = ?1 AND generation = ?2")?.execute(params![
        topology.as_str(),
        int(record.generation.0),
        core.forgiven
    ])?;
    events::append(tx, &event.clone().revision(topology, record.generation))?;
    (record.state, record.forgiven, record.changed_ms) = (core.state, core.forgiven, tx.now_ms);
    record.reason.clone_from(&event.message);
    Ok(record)
}

const COLUMNS: &str = "topology, generation, plan, state, reason, forgiven, started_ms, started_by, changed_ms";

struct Raw(String, i64, String, String, String, u32, i64, String, i64);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw(row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?, row.get(8)?))
}

fn record(conn: &Connection, raw: Raw) -> Result<RolloutRecord> {
    let Raw(topology, generation, plan, state, reason, forgiven, started_ms, started_by, changed_ms) = raw;
    let topology = TopologyId::parse(topology).map_err(|_| damaged("topology name"))?;
    let generation = Generation(count(generation));
    let sql = "SELECT standing, count(*) FROM rollout_hosts WHERE topology = ?1 AND generation = ?2 GROUP BY standing";
    let rows = conn
        .prepare_cached(sql)?
        .query_map(params![topology.as_str(), int(generation.0)], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    let counts = rows.into_iter().map(|(word, n)| Ok((standing(&word)?, n))).collect::<Result<BTreeMap<_, _>>>()?;
    Ok(RolloutRecord {
        plan: serde_json::from_str(&plan).map_err(|_| damaged("rollout plan"))?,
        state: State::parse(&state).ok_or_else(|| damaged("rollout state"))?,
        topology,
        generation,
        reason,
        forgiven,
        started_ms: count(started_ms),
        started_by,
        changed_ms: count(changed_ms),
        counts,
        hosts: Vec::new(),
    })
}

fn standing(word: &str) -> Result<Standing> {
    Standing::parse(word).ok_or_else(|| damaged("rollout standing"))
}

fn with_hosts(conn: &Connection, mut record: RolloutRecord) -> Result<RolloutRecord> {
    let sql = "SELECT r.host_id, h.name, r.standing, r.reason, r.released_ms, r.changed_ms
               FROM rollout_hosts r JOIN hosts h ON h.host_id = r.host_id
               WHERE r.topology = ?1 AND r.generation = ?2 ORDER BY h.name, r.host_id";
    let rows = conn
        .prepare_cached(sql)?
        .query_map(params![record.topology.as_str(), int(record.generation.0)], |row| {
            let times: (i64, i64) = (row.get(4)?, row.get(5)?);
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?, times))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    for (host, name, word, reason, (released, changed)) in rows {
        record.hosts.push(RolloutHost {
            host_id: HostId::parse(host).map_err(|_| damaged("host id"))?,
            name,
            standing: standing(&word)?,
            reason,
            released_ms: count(released),
            changed_ms: count(changed),
        });
    }
    Ok(record)
}

/// Rollouts of one topology or of all, the newest first, without their hosts.
pub(super) fn rollouts(conn: &Connection, topology: Option<&TopologyId>, limit: u32) -> Result<Vec<RolloutRecord>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM rollouts WHERE ?1 IS NULL OR topology = ?1 ORDER BY started_ms DESC, topology, generation DESC LIMIT ?2"
    );
    let rows = conn
        .prepare_cached(&sql)?
        .query_map(params![topology.map(TopologyId::as_str), limit], raw)?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().map(|raw| record(conn, raw)).collect()
}

/// One rollout with its hosts; generation 0 means the newest of the topology.
pub(super) fn rollout(conn: &Connection, topology: &TopologyId, generation: Generation) -> Result<Option<RolloutRecord>> {
    let sql =
        format!("SELECT {COLUMNS} FROM rollouts WHERE topology = ?1 AND (?2 = 0 OR generation = ?2) ORDER BY generation DESC LIMIT 1");
    let found = conn.prepare_cached(&sql)?.query_row(params![topology.as_str(), int(generation.0)], raw).optional()?;
    found.map(|raw| with_hosts(conn, record(conn, raw)?)).transpose()
}

/// The rollouts in which anything can still happen by itself, with their hosts.
pub(super) fn open(conn: &Connection) -> Result<Vec<RolloutRecord>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM rollouts r WHERE state <> 'superseded'
         AND generation = (SELECT max(n.generation) FROM revisions n WHERE n.topology = r.topology)
         AND EXISTS (SELECT 1 FROM rollout_hosts h WHERE h.topology = r.topology AND h.generation = r.generation
             AND (h.standing IN ('released', 'failed') OR (r.state IN ('running', 'completed') AND h.standing IN ('pending', 'offline'))))
         ORDER BY topology"
    );
    let rows = conn.prepare_cached(&sql)?.query_map([], raw)?.collect::<rusqlite::Result<Vec<_>>>()?;
    rows.into_iter().map(|raw| with_hosts(conn, record(conn, raw)?)).collect()
}
