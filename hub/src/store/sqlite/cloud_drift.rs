//! Droplets that are not as they should be: rows of the inbox whose scope is a cloud.

use moorline_common::cloud::{Mismatch, compare};
use moorline_common::drift::Drift;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::ResourceId;
use rusqlite::params;
use serde_json::{Value, json};

use super::drift::{COLUMNS, detected, prune, select, shown};
use super::{Result, Tx, cloud, damaged, events, int};
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::store::{CloudKind, CloudSweep, DriftRecord, ProvisionedRecord, Scope, ShownDrift};

/// The field of a droplet that is gone, though nobody had it deleted by a saga.
const EXISTS: &str = "exists";

fn scope(cloud: &str) -> Scope {
    Scope::Cloud(cloud.to_owned())
}

/// A droplet in the inbox.
fn droplet(cloud: &str, number: u64) -> Result<ResourceId> {
    ResourceId::parse(format!("{cloud}/droplet/{number}")).map_err(|_| damaged("cloud's name"))
}

/// A value in the inbox: as JSON, so that accepting it needs no guess.
fn written(value: &Value) -> String {
    value.to_string()
}

/// The number of a droplet in the inbox.
fn number(resource: &ResourceId) -> Result<u64> {
    resource.name().parse().map_err(|_| damaged("droplet's number"))
}

/// Compares every droplet that has a spec with it: opens, follows and closes rows.
pub(super) fn sweep(tx: &Tx<'_>, cloud: &str) -> Result<CloudSweep> {
    let scope = scope(cloud).to_text();
    let sql = format!("SELECT {COLUMNS} FROM drift WHERE scope = ?1 AND status IN ('open', 'ignored')");
    let known = select(tx.conn, &sql, [&scope])?;
    let mut sweep = CloudSweep::default();
    let mut differs: Vec<(u64, Drift)> = Vec::new();
    for spec in super::cloud::provisioned(tx.conn, cloud, None)? {
        // What was registered and never seen since is as it was then.
        let Some(found) = mismatches(tx, &spec)? else { continue };
        sweep.checked = sweep.checked.saturating_add(1);
        for one in found {
            let (expected, actual) = (written(&one.wanted), written(&one.found));
            differs.push((spec.spec_version, Drift { resource: droplet(cloud, spec.number)?, field: one.field, expected, actual }));
        }
    }
    sweep.drifted_fields = u64::try_from(differs.len()).unwrap_or(u64::MAX);
    let is_same = |row: &DriftRecord, drift: &Drift| row.drift.resource == drift.resource && row.drift.field == drift.field;
    for (version, drift) in &differs {
        match known.iter().find(|row| is_same(row, drift)) {
            Some(row) if row.drift == *drift => {}
            Some(row) => super::drift::follow(tx, row.id, drift)?,
            None => {
                open(tx, &scope, *version, drift)?;
                sweep.new_drift = sweep.new_drift.saturating_add(1);
            }
        }
    }
    for row in known.iter().filter(|row| !differs.iter().any(|(_, drift)| is_same(row, drift))) {
        stale(tx, row)?;
        sweep.resolved_stale = sweep.resolved_stale.saturating_add(1);
    }
    prune(tx.conn, &scope)?;
    Ok(sweep)
}

fn open(tx: &Tx<'_>, scope: &str, version: u64, drift: &Drift) -> Result<()> {
    tx.conn
        .prepare_cached(
            "INSERT INTO drift (scope, resource, field, expected, actual, status, topology, generation, detected_ms, changed_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, 'open', '', ?6, ?7, ?7)",
        )?
        .execute(params![scope, drift.resource.as_str(), drift.field, drift.expected, drift.actual, int(version), int(tx.now_ms)])?;
    events::append(tx, &detected(tx.now_ms, drift, "cloud"))
}

/// How a droplet differs from what it should be like; nothing when it was never seen.
fn mismatches(tx: &Tx<'_>, wanted: &ProvisionedRecord) -> Result<Option<Vec<Mismatch>>> {
    let live = super::cloud::resource(tx.conn, &wanted.cloud, CloudKind::Droplet, wanted.number)?;
    Ok(live.map(|live| match live.deleted_ms {
        0 => compare(&wanted.spec, &live.value),
        _ => vec![Mismatch { field: EXISTS.to_owned(), wanted: json!(true), found: json!(false) }],
    }))
}

fn stale(tx: &Tx<'_>, row: &DriftRecord) -> Result<()> {
    tx.conn
        .prepare_cached("UPDATE drift SET status = 'stale', resolved_ms = ?2, resolved_by = 'hub' WHERE id = ?1")?
        .execute(params![int(row.id), int(tx.now_ms)])?;
    let words = format!("drift {} is stale: {} {}", row.id, row.drift.resource, row.drift.field);
    events::append(tx, &NewEvent::hub(Kind::DriftClosed, words))
}

/// Nothing is expected of a droplet any more: its rows are stale.
pub(super) fn forget(tx: &Tx<'_>, cloud: &str, number: u64) -> Result<()> {
    let sql = format!("SELECT {COLUMNS} FROM drift WHERE scope = ?1 AND resource = ?2 AND status IN ('open', 'ignored')");
    let rows = select(tx.conn, &sql, params![scope(cloud).to_text(), droplet(cloud, number)?.as_str()])?;
    rows.iter().try_for_each(|row| stale(tx, row))
}

/// What a droplet has becomes what it should have; of one that is gone, nothing is expected any more.
pub(super) fn accept(tx: &Tx<'_>, one: &ShownDrift, by: &Actor, reason: &str, event: &NewEvent) -> Result<DriftRecord> {
    let row = shown(tx.conn, one)?;
    let Scope::Cloud(cloud) = &row.scope else {
        let message = format!("drift {} is on a host: it is accepted by a push of the topology that says so", row.id);
        return Err(Fault::new(Code::InvalidArgument, message).into());
    };
    let number = number(&row.drift.resource)?;
    let Some(wanted) = super::cloud::provisioned(tx.conn, cloud, Some(number))?.pop() else {
        return Err(Fault::new(Code::DriftResolved, format!("nothing is expected of {} any more", row.drift.resource)).into());
    };
    // The inventory may have heard more than the row says.
    let live = mismatches(tx, &wanted)?.unwrap_or_default().into_iter().find(|one| one.field == row.drift.field);
    let Some(live) = live.filter(|live| written(&live.found) == row.drift.actual) else {
        let message = format!(
            "{} of {} is not {} any more; look again after `moorctl drift scan`",
            row.drift.field, row.drift.resource, row.drift.actual
        );
        return Err(Fault::new(Code::DriftMoved, message).into());
    };
    let version = if row.drift.field == EXISTS {
        tx.conn.prepare_cached("DELETE FROM provisioned WHERE cloud = ?1 AND number = ?2")?.execute(params![cloud, int(number)])?;
        0
    } else {
        let fields = std::collections::BTreeMap::from([(row.drift.field.clone(), live.found)]);
        cloud::amend(tx, cloud, number, &fields, &by.subject, None)?
    };
    tx.conn
        .prepare_cached(
            "UPDATE drift SET status = 'accepted', resolved_ms = ?2, resolved_by = ?3, reason = ?4, accepted_generation = ?5 WHERE id = ?1",
        )?
        .execute(params![int(row.id), int(tx.now_ms), by.subject, reason, int(version)])?;
    events::append(tx, event)?;
    super::drift::drift(tx.conn, row.id)?.ok_or_else(|| damaged("drift"))
}
