//! Hosts that an operator removed.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostId;
use rusqlite::params;

use super::{Result, Tx, events, int};
use crate::events::NewEvent;
use crate::limits;

/// Forgets a host with all that is about it, and remembers that it was removed for as long as a certificate of it may live.
pub(super) fn remove(tx: &Tx<'_>, host: &HostId, event: &NewEvent) -> Result<()> {
    for sql in [
        "DELETE FROM reports WHERE host_id = ?1",
        "DELETE FROM refusals WHERE host_id = ?1",
        "DELETE FROM rollout_hosts WHERE host_id = ?1",
        "DELETE FROM slices WHERE host_id = ?1",
        "DELETE FROM ops WHERE host_id = ?1",
        "DELETE FROM drift WHERE scope = ?1",
        "DELETE FROM tokens WHERE used_host = ?1",
    ] {
        tx.conn.prepare_cached(sql)?.execute([host.as_str()])?;
    }
    if tx.conn.prepare_cached("DELETE FROM hosts WHERE host_id = ?1")?.execute([host.as_str()])? == 0 {
        return Err(Fault::new(Code::NotFound, format!("there is no host {host}")).into());
    }
    let kept_ms = u64::try_from(limits::REMOVED_KEPT.as_millis()).unwrap_or(u64::MAX);
    tx.conn.prepare_cached("DELETE FROM removed WHERE removed_ms < ?1")?.execute([int(tx.now_ms.saturating_sub(kept_ms))])?;
    tx.conn
        .prepare_cached("INSERT INTO removed (host_id, removed_ms) VALUES (?1, ?2) ON CONFLICT (host_id) DO UPDATE SET removed_ms = ?2")?
        .execute(params![host.as_str(), int(tx.now_ms)])?;
    events::append(tx, event)
}

/// Refuses a host that was removed: it comes back by a new token only.
pub(super) fn require_not_removed(tx: &Tx<'_>, host: &HostId) -> Result<()> {
    let removed: bool =
        tx.conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM removed WHERE host_id = ?1)")?.query_row([host.as_str()], |row| row.get(0))?;
    if !removed {
        return Ok(());
    }
    let message = "an operator removed this host: to come back it must join anew, by a token of `moorctl host add`";
    Err(Fault::new(Code::PermissionDenied, message).into())
}

/// A host that was removed has joined anew.
pub(super) fn forget_removal(tx: &Tx<'_>, host: &HostId) -> Result<()> {
    tx.conn.prepare_cached("DELETE FROM removed WHERE host_id = ?1")?.execute([host.as_str()])?;
    Ok(())
}
