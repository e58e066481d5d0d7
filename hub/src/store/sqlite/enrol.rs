//! Roots, join tokens, hosts, bindings and certificate numbers.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostEpoch, HostId, HostName, TopologyId};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use subtle::ConstantTimeEq as _;

use super::{Result, Tx, count, damaged, events, int, ops, remove};
use crate::events::NewEvent;
use crate::limits;
use crate::store::{Cordon, HostRecord, HostState, JoinAttempt, JoinOutcome, NewBinding, NewRoot, NewToken, RenewOutcome, Witness};

pub(super) fn roots(conn: &Connection) -> Result<Vec<Vec<u8>>> {
    let mut statement = conn.prepare_cached("SELECT envelope FROM roots ORDER BY version")?;
    Ok(statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Without an event an agent brought the root, otherwise an operator did.
pub(super) fn put_root(tx: &Tx<'_>, root: &NewRoot, event: Option<&NewEvent>) -> Result<()> {
    let stored: Option<String> = tx
        .conn
        .prepare_cached("SELECT payload_sha256 FROM roots WHERE version = ?1")?
        .query_row([int(root.version)], |row| row.get(0))
        .optional()?;
    if let Some(stored) = stored {
        if stored == root.payload_sha256 {
            if event.is_some() {
                // Whoever vouches for a root vouches for those that led to it.
                tx.conn.prepare_cached("UPDATE roots SET adopted = 0 WHERE version <= ?1")?.execute([int(root.version)])?;
            }
            return Ok(());
        }
        if event.is_none() || root.version != 1 || operator_put_one(tx.conn)? {
            return Err(Fault::new(Code::AlreadyExists, format!("another trust root of version {} is stored", root.version)).into());
        }
        // Only agents vouched for what is here: the operator's own chain takes its place.
        tx.conn.execute("DELETE FROM roots", [])?;
    }
    let newest: i64 = tx.conn.query_row("SELECT coalesce(max(version), 0) FROM roots", [], |row| row.get(0))?;
    if root.version != count(newest) + 1 {
        return Err(
            Fault::new(Code::BadRoot, format!("the newest trust root has version {newest}; {} is not the next", root.version)).into()
        );
    }
    if event.is_some() {
        tx.conn.execute("UPDATE roots SET adopted = 0", [])?;
    }
    tx.conn
        .prepare_cached("INSERT INTO roots (version, payload_sha256, envelope, stored_ms, adopted) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![int(root.version), root.payload_sha256, root.envelope, int(tx.now_ms), event.is_none()])?;
    event.map_or(Ok(()), |event| events::append(tx, event))
}

/// Whether an operator put any of the stored roots.
pub(super) fn operator_put_one(conn: &Connection) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM roots WHERE adopted = 0)")?.query_row([], |row| row.get(0))?)
}

pub(super) fn create_token(tx: &Tx<'_>, token: &NewToken, event: &NewEvent) -> Result<()> {
    // Tokens stay a while after their end, so that a late reuse is told from noise.
    let forget = int((tx.now_ms / 1000).saturating_sub(limits::TOKEN_TTL_MAX_S));
    tx.conn.prepare_cached("DELETE FROM tokens WHERE expires < ?1")?.execute([forget])?;
    let open: i64 = tx
        .conn
        .prepare_cached("SELECT count(*) FROM tokens WHERE used_spki IS NULL AND expires > ?1")?
        .query_row([int(tx.now_ms / 1000)], |row| row.get(0))?;
    if count(open) >= limits::TOKENS_MAX {
        return Err(Fault::new(Code::Busy, format!("{open} join tokens are open; wait until some are used or have expired")).into());
    }
    if bound_by_name(tx.conn, &token.name)?.is_some() {
        let name = &token.name;
        let message = format!("host `{name}` is bound already; choose another name, or free this one with `moorctl host rm {name}`");
        return Err(Fault::new(Code::AlreadyExists, message).into());
    }
    let inserted = tx
        .conn
        .prepare_cached(
            "INSERT INTO tokens (token_id, join_key_hash, name, expires, created_ms, created_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            token.token_id,
            token.join_key_hash,
            token.name.as_str(),
            int(token.expires.0),
            int(tx.now_ms),
            event.actor.subject
        ])?;
    if inserted == 0 {
        return Err(Fault::new(Code::AlreadyExists, "a join token of this id exists").into());
    }
    events::append(tx, event)
}

fn bound_by_name(conn: &Connection, name: &HostName) -> Result<Option<HostId>> {
    let id: Option<String> = conn
        .prepare_cached("SELECT host_id FROM hosts WHERE name = ?1 AND state = 'bound'")?
        .query_row([name.as_str()], |row| row.get(0))
        .optional()?;
    id.map(|id| HostId::parse(id).map_err(|_| damaged("host id"))).transpose()
}

struct TokenRow {
    join_key_hash: String,
    name: String,
    expires: i64,
    used_spki: Option<String>,
    used_host: Option<String>,
}

pub(super) fn join(tx: &Tx<'_>, attempt: &JoinAttempt, event: &NewEvent) -> Result<JoinOutcome> {
    let refused = |cause, alarm| Ok(JoinOutcome::Refused { cause, alarm });
    let row: Option<TokenRow> = tx
        .conn
        .prepare_cached("SELECT join_key_hash, name, expires, used_spki, used_host FROM tokens WHERE token_id = ?1")?
        .query_row([&attempt.token_id], |row| {
            Ok(TokenRow {
                join_key_hash: row.get(0)?,
                name: row.get(1)?,
                expires: row.get(2)?,
                used_spki: row.get(3)?,
                used_host: row.get(4)?,
            })
        })
        .optional()?;
    let Some(row) = row else { return refused("no such token", false) };
    if !bool::from(row.join_key_hash.as_bytes().ct_eq(attempt.join_key_hash.as_bytes())) {
        return refused("the token's key is wrong", false);
    }
    if count(row.expires) <= tx.now_ms / 1000 {
        return refused("the token has expired", false);
    }
    if row.name != attempt.name.as_str() {
        return refused("the name is not the token's", false);
    }
    let first = match (&row.used_spki, &row.used_host) {
        (None, _) => true,
        (Some(spki), Some(host)) if *spki == attempt.spki && host == attempt.host_id.as_str() => false,
        (Some(_), _) => return refused("the token was already used by another key", true),
    };
    if first && let Some(cause) = admit_pending(tx, attempt)? {
        return refused(cause, false);
    }
    tx.conn
        .prepare_cached("UPDATE tokens SET used_spki = ?2, used_host = ?3, used_ms = coalesce(used_ms, ?4) WHERE token_id = ?1")?
        .execute(params![attempt.token_id, attempt.spki, attempt.host_id.as_str(), int(tx.now_ms)])?;
    let certificate = next_certificate(tx, &attempt.host_id)?;
    if first {
        events::append(tx, event)?;
    }
    Ok(JoinOutcome::Joined { certificate, first })
}

/// Writes the pending host, or says why it may not be.
fn admit_pending(tx: &Tx<'_>, attempt: &JoinAttempt) -> Result<Option<&'static str>> {
    let state: Option<String> = tx
        .conn
        .prepare_cached("SELECT state FROM hosts WHERE host_id = ?1")?
        .query_row([attempt.host_id.as_str()], |row| row.get(0))
        .optional()?;
    if state.as_deref() == Some("bound") {
        return Ok(Some("the host is bound already"));
    }
    if bound_by_name(tx.conn, &attempt.name)?.is_some() {
        return Ok(Some("another host was bound under this name meanwhile"));
    }
    remove::forget_removal(tx, &attempt.host_id)?;
    tx.conn
        .prepare_cached(
            "INSERT INTO hosts (host_id, name, state, host_key, sealing_key, host_epoch, claim_mac, token_id, joined_ms)
             VALUES (?1, ?2, 'pending', ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (host_id) DO UPDATE SET name = excluded.name, sealing_key = excluded.sealing_key,
                 host_epoch = excluded.host_epoch, claim_mac = excluded.claim_mac, token_id = excluded.token_id,
                 joined_ms = excluded.joined_ms, locked = 0",
        )?
        .execute(params![
            attempt.host_id.as_str(),
            attempt.name.as_str(),
            attempt.host_key.as_slice(),
            attempt.sealing_key.as_slice(),
            attempt.host_epoch.as_str(),
            attempt.claim_mac,
            attempt.token_id,
            int(tx.now_ms)
        ])?;
    Ok(None)
}

fn next_certificate(tx: &Tx<'_>, host: &HostId) -> Result<u64> {
    let number: i64 = tx
        .conn
        .prepare_cached("UPDATE hosts SET certificate_issued = certificate_issued + 1 WHERE host_id = ?1 RETURNING certificate_issued")?
        .query_row([host.as_str()], |row| row.get(0))?;
    Ok(count(number))
}

pub(super) fn renew(tx: &Tx<'_>, host: &HostId, presented: u64, event: Option<&NewEvent>) -> Result<RenewOutcome> {
    let row: Option<(i64, i64)> = tx
        .conn
        .prepare_cached("SELECT certificate_issued, certificate_used FROM hosts WHERE host_id = ?1 AND locked = 0")?
        .query_row([host.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((issued, used)) = row else {
        return Err(Fault::new(
            Code::PermissionDenied,
            "this host is not known or is locked: an operator must bind it again (`moorctl host approve`)",
        )
        .into());
    };
    if presented < count(used) {
        tx.conn.prepare_cached("UPDATE hosts SET locked = 1 WHERE host_id = ?1")?.execute([host.as_str()])?;
        return Ok(RenewOutcome::Conflict);
    }
    // A restored hub may have issued more than it remembers: never hand out a number twice.
    let next = count(issued).max(presented) + 1;
    tx.conn
        .prepare_cached("UPDATE hosts SET certificate_issued = ?2, certificate_used = max(certificate_used, ?3) WHERE host_id = ?1")?
        .execute(params![host.as_str(), int(next), int(presented)])?;
    if let Some(event) = event {
        events::append(tx, event)?;
    }
    Ok(RenewOutcome::Next(next))
}

pub(super) fn use_certificate(tx: &Tx<'_>, host: &HostId, number: u64) -> Result<()> {
    let row: Option<(i64, bool)> = tx
        .conn
        .prepare_cached("SELECT certificate_used, locked FROM hosts WHERE host_id = ?1")?
        .query_row([host.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((used, locked)) = row else { return Ok(()) };
    if locked {
        return Err(Fault::new(
            Code::RenewalConflict,
            "this host is locked, two holders used its identity: an operator must bind it again (`moorctl host approve`)",
        )
        .into());
    }
    if number < count(used) {
        return Err(Fault::new(Code::RenewalConflict, "this certificate was replaced by a newer one that is in use").into());
    }
    if number > count(used) {
        tx.conn
            .prepare_cached("UPDATE hosts SET certificate_used = ?2, certificate_issued = max(certificate_issued, ?2) WHERE host_id = ?1")?
            .execute(params![host.as_str(), int(number)])?;
    }
    Ok(())
}

const HOST_COLUMNS: &str =
    "host_id, name, state, host_key, sealing_key, host_epoch, claim_mac, token_id, joined_ms, binding, binding_serial,
     locked, agent_version, heartbeat, heartbeat_ms, done_topology, done_generation, witnessed_epoch, witnessed_seq, witnessed_head,
     cordoned_ms, cordoned_by, cordon_reason";

struct RawHost {
    host_id: String,
    name: String,
    state: String,
    host_key: [u8; 32],
    sealing_key: [u8; 32],
    host_epoch: String,
    claim_mac: Vec<u8>,
    token_id: String,
    joined_ms: i64,
    binding: Option<Vec<u8>>,
    binding_serial: i64,
    locked: bool,
    agent_version: String,
    heartbeat: Option<Vec<u8>>,
    heartbeat_ms: i64,
    done_topology: Option<String>,
    done_generation: i64,
    witness: Witness,
    cordon: Cordon,
}

fn raw_host(row: &Row<'_>) -> rusqlite::Result<RawHost> {
    Ok(RawHost {
        host_id: row.get(0)?,
        name: row.get(1)?,
        state: row.get(2)?,
        host_key: row.get(3)?,
        sealing_key: row.get(4)?,
        host_epoch: row.get(5)?,
        claim_mac: row.get(6)?,
        token_id: row.get(7)?,
        joined_ms: row.get(8)?,
        binding: row.get(9)?,
        binding_serial: row.get(10)?,
        locked: row.get(11)?,
        agent_version: row.get(12)?,
        heartbeat: row.get(13)?,
        heartbeat_ms: row.get(14)?,
        done_topology: row.get(15)?,
        done_generation: row.get(16)?,
        witness: Witness { epoch: row.get(17)?, seq: count(row.get(18)?), head: row.get(19)? },
        cordon: Cordon { since_ms: count(row.get(20)?), by: row.get(21)?, reason: row.get(22)? },
    })
}

fn host_record(raw: RawHost) -> Result<HostRecord> {
    let done = raw
        .done_topology
        .map(|t| TopologyId::parse(t).map(|t| (t, Generation(count(raw.done_generation)))))
        .transpose()
        .map_err(|_| damaged("topology name"))?;
    Ok(HostRecord {
        host_id: HostId::parse(raw.host_id).map_err(|_| damaged("host id"))?,
        name: HostName::parse(raw.name).map_err(|_| damaged("host name"))?,
        state: if raw.state == "bound" { HostState::Bound } else { HostState::Pending },
        host_key: raw.host_key,
        sealing_key: raw.sealing_key,
        host_epoch: raw.host_epoch,
        claim_mac: raw.claim_mac,
        token_id: raw.token_id,
        joined_ms: count(raw.joined_ms),
        binding: raw.binding,
        binding_serial: count(raw.binding_serial),
        locked: raw.locked,
        agent_version: raw.agent_version,
        heartbeat: raw.heartbeat.map(|json| (json, count(raw.heartbeat_ms))),
        done,
        witness: raw.witness,
        cordon: (raw.cordon.since_ms > 0).then_some(raw.cordon),
    })
}

pub(super) fn hosts(conn: &Connection) -> Result<Vec<HostRecord>> {
    let sql = format!("SELECT {HOST_COLUMNS} FROM hosts ORDER BY name, host_id");
    let mut statement = conn.prepare_cached(&sql)?;
    let raw = statement.query_map([], raw_host)?.collect::<rusqlite::Result<Vec<_>>>()?;
    raw.into_iter().map(host_record).collect()
}

pub(super) fn host(conn: &Connection, host: &HostId) -> Result<Option<HostRecord>> {
    let sql = format!("SELECT {HOST_COLUMNS} FROM hosts WHERE host_id = ?1");
    conn.prepare_cached(&sql)?.query_row([host.as_str()], raw_host).optional()?.map(host_record).transpose()
}

pub(super) fn put_binding(tx: &Tx<'_>, binding: &NewBinding, event: &NewEvent) -> Result<()> {
    let Some(stored) = host(tx.conn, &binding.host_id)? else {
        return Err(Fault::new(Code::NotFound, format!("no host {} has joined", binding.host_id)).into());
    };
    if stored.host_key != binding.host_key || stored.sealing_key != binding.sealing_key {
        return Err(Fault::new(Code::WrongHost, "the binding's keys are not those that the host joined with").into());
    }
    if stored.host_epoch != binding.host_epoch.as_str() {
        return Err(Fault::new(
            Code::WrongEpoch,
            format!("the binding is for epoch {}; the host is in {}", binding.host_epoch, stored.host_epoch),
        )
        .into());
    }
    if stored.binding_serial >= binding.serial {
        return Err(Fault::new(
            Code::GenerationRegressed,
            format!(
                "the host has binding {}; a new one must have a higher serial than that, not {}",
                stored.binding_serial, binding.serial
            ),
        )
        .into());
    }
    write_binding(tx, binding)?;
    if stored.locked {
        let message = format!("{}; the host was locked, and is no longer", event.message);
        return events::append(tx, &NewEvent { message, ..event.clone() });
    }
    events::append(tx, event)
}

/// Writes a binding onto a host, which may be one that this hub never saw join.
/// It unlocks the host: whichever of its certificates is shown next counts again, and those before it no longer.
pub(super) fn write_binding(tx: &Tx<'_>, binding: &NewBinding) -> Result<()> {
    if bound_by_name(tx.conn, &binding.name)?.is_some_and(|other| other != binding.host_id) {
        return Err(Fault::new(Code::AlreadyExists, format!("another host is bound as `{}`", binding.name)).into());
    }
    tx.conn
        .prepare_cached(
            "INSERT INTO hosts (host_id, name, state, host_key, sealing_key, host_epoch, claim_mac, token_id, joined_ms, binding, binding_serial)
             VALUES (?1, ?2, 'bound', ?3, ?4, ?5, x'', '', ?6, ?7, ?8)
             ON CONFLICT (host_id) DO UPDATE SET name = excluded.name, state = 'bound', host_epoch = excluded.host_epoch,
                 sealing_key = excluded.sealing_key, binding = excluded.binding, binding_serial = excluded.binding_serial,
                 certificate_used = CASE locked WHEN 0 THEN certificate_used ELSE 0 END, locked = 0",
        )?
        .execute(params![
            binding.host_id.as_str(),
            binding.name.as_str(),
            binding.host_key.as_slice(),
            binding.sealing_key.as_slice(),
            binding.host_epoch.as_str(),
            int(tx.now_ms),
            binding.envelope,
            int(binding.serial)
        ])?;
    tx.conn.prepare_cached("DELETE FROM refusals WHERE host_id = ?1 AND kind = 'host-binding'")?.execute([binding.host_id.as_str()])?;
    ops::settle_epoch(tx, &binding.host_id, &binding.host_epoch, binding.name.as_str())
}

pub(super) fn session_opened(
    tx: &Tx<'_>,
    host: &HostId,
    version: &str,
    epoch: &HostEpoch,
    certificate: u64,
    event: Option<&NewEvent>,
) -> Result<()> {
    remove::require_not_removed(tx, host)?;
    use_certificate(tx, host, certificate)?;
    // A pending host's claim is under its MAC: it stays as it was made.
    tx.conn
        .prepare_cached(
            "UPDATE hosts SET agent_version = ?2, host_epoch = CASE state WHEN 'bound' THEN ?3 ELSE host_epoch END WHERE host_id = ?1",
        )?
        .execute(params![host.as_str(), version, epoch.as_str()])?;
    event.map_or(Ok(()), |event| events::append(tx, event))
}
