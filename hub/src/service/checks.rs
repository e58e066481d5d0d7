//! What an operator's request must satisfy before the store sees it: shapes, names that agree, and
//! signatures by the trust root that the hub holds.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, HostName, TopologyId, UnixSeconds};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::{HostBinding, SliceStatement, TopologyStatement};
use moorline_common::trust::TrustRoot;
use moorline_proto::v1 as pb;

use super::{adopt, wire};
use crate::auth::Actor;
use crate::fleet::Outgoing;
use crate::hub::Hub;
use crate::limits;
use crate::slices;
use crate::store::{self, NewBinding, NewRevision, NewRoot, NewSlice, NewToken, ReportRecord, StoreError};

/// A trust root that follows the stored ones (or is the first).
pub(super) async fn root(hub: &Hub, json: &[u8]) -> Result<NewRoot, Fault> {
    let envelope = Envelope::from_json(json)?;
    let claimed = Signed::<TrustRoot>::new(envelope.clone())?.peek()?;
    let stored = hub.store.roots().await.map_err(StoreError::into_fault)?;
    let same_version = usize::try_from(claimed.version).ok().and_then(|v| v.checked_sub(1)).and_then(|i| stored.get(i));
    let payload_sha256 = envelope.payload_sha256();
    if let Some(same) = same_version {
        if Envelope::from_json(same)?.payload_sha256() == payload_sha256 {
            return Ok(NewRoot { version: claimed.version, payload_sha256, envelope: same.clone() });
        }
        if claimed.version != 1 || hub.store.operator_put_a_root().await.map_err(StoreError::into_fault)? {
            return Err(Fault::new(Code::AlreadyExists, format!("another trust root of version {} is stored", claimed.version)));
        }
        tracing::warn!("the stored trust roots came from an agent only; the operator's takes their place");
    }
    let verified = match stored.last().filter(|_| same_version.is_none()) {
        Some(newest) => Signed::<TrustRoot>::new(Envelope::from_json(newest)?)?.peek()?.verify_next(envelope)?,
        None => {
            let pin = TrustRoot::pin(&envelope);
            TrustRoot::verify_first(envelope, &pin)?
        }
    };
    let root = verified.statement();
    if root.cluster != hub.cluster {
        return Err(Fault::new(
            Code::WrongCluster,
            format!("the trust root is for cluster `{}`, this hub is of `{}`", root.cluster, hub.cluster),
        ));
    }
    if !root.hub_ca_spki.contains(hub.pki.ca_spki()) {
        tracing::warn!(version = root.version, "the trust root does not list this hub's CA");
    }
    Ok(NewRoot { version: root.version, payload_sha256, envelope: verified.envelope().to_json() })
}

/// A join token within its bounds.
pub(super) fn token(request: pb::CreateJoinTokenRequest, now: UnixSeconds) -> Result<NewToken, Fault> {
    let is_hex = |text: &str, digits| text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex(&request.token_id, 32) || !is_hex(&request.join_key_hash, 64) {
        return Err(wire::invalid("token_id must be 32 and join_key_hash 64 lowercase hex digits"));
    }
    let expires = UnixSeconds(request.expires);
    if expires <= now || expires > now.plus(limits::TOKEN_TTL_MAX_S) {
        return Err(wire::invalid("a join token must expire in the future, at most 7 days ahead; check this machine's clock"));
    }
    let name = HostName::parse(request.name).map_err(|e| wire::invalid(e.to_string()))?;
    Ok(NewToken { token_id: request.token_id, join_key_hash: request.join_key_hash, name, expires })
}

/// A binding that the trust root vouches for.
pub(super) async fn binding(hub: &Hub, json: &[u8]) -> Result<NewBinding, Fault> {
    let root = hub.newest_root().await?;
    let signed = Signed::<HostBinding>::from_json(json)?;
    let host = signed.peek()?.host_id;
    let held = hub.store.host(host).await.map_err(StoreError::into_fault)?.filter(|r| r.binding.is_some()).map(|r| r.name);
    let verified = root.verify_rebinding(signed, None, held.as_ref())?;
    Ok(adopt::new_binding(&verified))
}

/// A revision with all its slices.
pub(super) async fn revision(
    hub: &Hub,
    topology: &TopologyId,
    base: Generation,
    source: Option<pb::Envelope>,
    slices: Vec<pb::HostSlice>,
    accepts: Vec<pb::ShownDrift>,
    actor: &Actor,
) -> Result<NewRevision, Fault> {
    let root = hub.newest_root().await?;
    let signed = Signed::<TopologyStatement>::from_json(&wire::json(source, "source")?)?;
    let verified = root.verify_topology(signed)?;
    let statement = verified.statement();
    if statement.topology != *topology || statement.generation != base.next() {
        return Err(wire::invalid(format!(
            "the source is for `{}` generation {}, the push for `{topology}` generation {}",
            statement.topology,
            statement.generation,
            base.next()
        )));
    }
    let slices = self::slices(hub, topology, base.next(), slices).await?;
    if statement.down && slices.iter().any(|s| !s.empty) {
        return Err(wire::invalid("a teardown has slices that are not empty"));
    }
    Ok(NewRevision {
        topology: topology.clone(),
        base,
        source: verified.envelope().to_json(),
        source_sha256: verified.envelope().payload_sha256(),
        down: statement.down,
        message: statement.message.clone(),
        pushed_by: actor.subject.clone(),
        slices,
        rollout: None,
        accepts: super::drift::shown(accepts)?,
    })
}

/// Slices of one revision, each for a bound host and verified for it.
pub(super) async fn slices(
    hub: &Hub,
    topology: &TopologyId,
    generation: Generation,
    slices: Vec<pb::HostSlice>,
) -> Result<Vec<NewSlice>, Fault> {
    if slices.len() > limits::SLICES_MAX {
        return Err(Fault::new(Code::TooLarge, format!("{} slices; at most {} fit one push", slices.len(), limits::SLICES_MAX)));
    }
    let root = hub.newest_root().await?;
    let bindings = bindings_of(hub, &slices).await?;
    let topology = topology.clone();
    // Verifying many signatures takes a while: not on a thread that serves others.
    let checked = tokio::task::spawn_blocking(move || check_slices(&root, &bindings, &topology, generation, slices));
    checked.await.map_err(|_| Fault::new(Code::Internal, "checking the slices was interrupted"))?
}

async fn bindings_of(hub: &Hub, slices: &[pb::HostSlice]) -> Result<BTreeMap<HostId, HostBinding>, Fault> {
    let named: BTreeSet<&str> = slices.iter().map(|s| s.host_id.as_str()).collect();
    let mut bindings = BTreeMap::new();
    for record in hub.store.hosts().await.map_err(StoreError::into_fault)? {
        if let Some(json) = record.binding.filter(|_| named.contains(record.host_id.as_str())) {
            bindings.insert(record.host_id, Signed::<HostBinding>::from_json(&json)?.peek()?);
        }
    }
    Ok(bindings)
}

fn check_slices(
    root: &TrustRoot,
    bindings: &BTreeMap<HostId, HostBinding>,
    topology: &TopologyId,
    generation: Generation,
    slices: Vec<pb::HostSlice>,
) -> Result<Vec<NewSlice>, Fault> {
    let mut seen = BTreeSet::new();
    let mut checked = Vec::with_capacity(slices.len());
    for slice in slices {
        let host = HostId::parse(slice.host_id).map_err(|e| wire::invalid(e.to_string()))?;
        if !seen.insert(host.clone()) {
            return Err(wire::invalid(format!("two slices for host {host}")));
        }
        let Some(binding) = bindings.get(&host) else {
            return Err(Fault::new(Code::NotFound, format!("host {host} is not bound; `moorctl host approve` binds it")));
        };
        let named = |fault: Fault| Fault::new(fault.code, format!("slice of host `{}`: {}", binding.name, fault.message));
        let signed = Signed::<SliceStatement>::from_json(&wire::json(slice.slice, "slice")?).map_err(named)?;
        let verified = root.verify_slice(signed, binding).map_err(named)?;
        let statement = verified.statement();
        if statement.topology != *topology || statement.generation != generation {
            return Err(named(wire::invalid(format!(
                "it is of `{}` generation {}, expected `{topology}` generation {generation}",
                statement.topology, statement.generation
            ))));
        }
        checked.push(slices::from_verified(&verified).map_err(named)?);
    }
    Ok(checked)
}

/// There is no such revision.
pub(super) fn no_revision(topology: &TopologyId, generation: u64) -> Fault {
    let words =
        if generation == 0 { format!("there is no topology `{topology}`") } else { format!("`{topology}` has no generation {generation}") };
    Fault::new(Code::NotFound, words)
}

/// The newest report of a host.
pub(super) async fn report(hub: &Hub, host: &HostId) -> store::Result<Option<ReportRecord>> {
    match hub.fleet.unkept_report(host) {
        Some(report) => Ok(Some(report)),
        None => hub.store.report(host.clone()).await,
    }
}

/// The same, after its host was asked for a new one: what it has now, or what there was if it does not answer in time.
pub(super) async fn report_anew(hub: &Hub, host: &HostId) -> store::Result<Option<ReportRecord>> {
    let before = report(hub, host).await?;
    let Some(way) = hub.fleet.way(host).filter(|way| hub.fleet.send(host, way.session, Outgoing::QueryReport)) else { return Ok(before) };
    let over = tokio::time::Instant::now() + limits::REPORT_ANSWER;
    while tokio::time::Instant::now() < over && hub.fleet.way(host).is_some_and(|now| now.session == way.session) {
        tokio::time::sleep(limits::REPORT_LOOK).await;
        let now = report(hub, host).await?;
        // One that says the same as before has come all the same.
        if now.as_ref().map(|r| r.received_ms) != before.as_ref().map(|r| r.received_ms) {
            return Ok(now);
        }
    }
    report(hub, host).await
}

/// The host has not reported.
pub(super) fn no_report(host: &HostId) -> Fault {
    Fault::new(Code::NotFound, format!("host {host} has not sent a report yet"))
}
