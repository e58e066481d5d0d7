//! What a hub that was restored from an old backup takes over from its agents: trust roots, bindings
//! and slices that operators signed and this hub has lost. All of it is verified first; the agents
//! remain the judges of what they apply.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostId;
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_common::statement::{HostBinding, SliceStatement};
use moorline_common::trust::TrustRoot;
use moorline_proto::v1 as pb;

use super::wire;
use crate::auth::Actor;
use crate::events::{Kind, NewEvent};
use crate::fleet::Outgoing;
use crate::hub::Hub;
use crate::limits;
use crate::slices;
use crate::store::{Adoption, NewBinding, NewRoot, StoreError};

/// Takes over what `host` holds, or records why not.
pub(super) async fn take(hub: &Hub, host: &HostId, session: u64, actor: &Actor, held: pb::Held) {
    let (name, _) = hub.fleet.name(host);
    match adopt(hub, host, actor, held).await {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!(host = name, "took over what the host holds");
            let _ = hub.fleet.send(host, session, Outgoing::QueryReport);
        }
        Err(fault) => {
            tracing::warn!(host = name, %fault, "what the host holds was refused");
            let event = NewEvent::new(Kind::AdoptRefused, actor.clone(), fault.message.clone()).host(name).code(fault.code);
            hub.record_of(host, event).await;
        }
    }
}

async fn adopt(hub: &Hub, host: &HostId, actor: &Actor, held: pb::Held) -> Result<bool, Fault> {
    let stored = hub.store.roots().await.map_err(StoreError::into_fault)?;
    let (roots, root) = newer_roots(hub, &stored, held.roots)?;
    let mut adoption = Adoption { roots, ..Adoption::default() };
    let mut words = Vec::new();
    if let Some(last) = adoption.roots.last() {
        words.push(format!("trust root {}", last.version));
    }
    let mut event_topology = None;
    let rest = match &root {
        Some(root) => statements(hub, host, root, (held.binding, held.slice), &mut adoption).await,
        None => Ok(()),
    };
    if let Some(binding) = &adoption.binding {
        words.push(format!("binding {} as `{}`", binding.serial, binding.name));
    }
    if let Some((topology, generation, _)) = &adoption.slice {
        words.push(format!("slice of `{topology}` generation {generation}"));
        event_topology = Some((topology.clone(), *generation));
    }
    // What was verified is taken over, even if something after it was not.
    if adoption.is_empty() {
        return rest.map(|()| false);
    }
    let name = adoption.binding.as_ref().map_or_else(|| hub.fleet.name(host).0, |b| b.name.to_string());
    let roots_grew = !adoption.roots.is_empty();
    let mut event = NewEvent::new(Kind::Adopted, actor.clone(), format!("took over from the host: {}", words.join(", "))).host(name);
    if let Some((topology, generation)) = event_topology {
        event = event.revision(&topology, generation);
    }
    hub.store.adopt(host.clone(), adoption, event).await.map_err(StoreError::into_fault)?;
    if roots_grew {
        hub.reload_roots().await.map_err(StoreError::into_fault)?;
    }
    hub.reload(host).await.map_err(StoreError::into_fault)?;
    rest.map(|()| true)
}

/// Verifies binding and slice by `root`. Either may come without the other: what is too large for one message comes in several.
async fn statements(
    hub: &Hub,
    host: &HostId,
    root: &TrustRoot,
    (binding, slice): (Option<pb::Envelope>, Option<pb::Envelope>),
    adoption: &mut Adoption,
) -> Result<(), Fault> {
    let record = hub.store.host(host.clone()).await.map_err(StoreError::into_fault)?;
    let held = match (binding, record.as_ref().and_then(|r| r.binding.as_ref())) {
        (Some(envelope), _) => wire::json(Some(envelope), "binding")?,
        (None, Some(stored)) => stored.clone(),
        (None, None) => return Ok(()),
    };
    let bound = record.as_ref().filter(|r| r.binding.is_some()).map(|r| &r.name);
    let binding = root.verify_rebinding(Signed::<HostBinding>::from_json(&held)?, Some(host), bound)?;
    if record.as_ref().is_none_or(|r| r.binding_serial < binding.statement().serial) {
        adoption.binding = Some(new_binding(&binding));
    }
    let Some(envelope) = slice else { return Ok(()) };
    let signed = Signed::<SliceStatement>::from_json(&wire::json(Some(envelope), "slice")?)?;
    let slice = root.verify_slice(signed, binding.statement())?;
    if is_newer(hub, host, slice.statement()).await? {
        let (topology, generation) = (slice.statement().topology.clone(), slice.statement().generation);
        adoption.slice = Some((topology, generation, slices::from_verified(&slice)?));
    }
    Ok(())
}

/// The roots that follow the stored ones, each verified by its predecessor, and the newest of all.
/// Without any stored root the chain only has to hold in itself and be of this cluster.
fn newer_roots(hub: &Hub, stored: &[Vec<u8>], held: Vec<pb::Envelope>) -> Result<(Vec<NewRoot>, Option<TrustRoot>), Fault> {
    if held.len() > limits::ROOTS_MAX {
        return Err(Fault::new(Code::TooLarge, format!("more than {} trust roots", limits::ROOTS_MAX)));
    }
    let mut newest = match stored.last() {
        Some(json) => Some(Signed::<TrustRoot>::new(Envelope::from_json(json)?)?.peek()?),
        None => None,
    };
    let mut roots = Vec::new();
    for envelope in held {
        let envelope = Envelope::from_json(&wire::json(Some(envelope), "trust root")?)?;
        let version = Signed::<TrustRoot>::new(envelope.clone())?.peek()?.version;
        let same = usize::try_from(version).ok().and_then(|v| v.checked_sub(1)).and_then(|index| stored.get(index));
        if let Some(json) = same {
            if Envelope::from_json(json)?.payload_sha256() != envelope.payload_sha256() {
                return Err(Fault::new(Code::BadRoot, format!("the host holds another trust root of version {version} than this hub")));
            }
            continue;
        }
        let (json, payload_sha256) = (envelope.to_json(), envelope.payload_sha256());
        let verified = match &newest {
            Some(previous) => previous.verify_next(envelope)?,
            None => {
                let pin = TrustRoot::pin(&envelope);
                TrustRoot::verify_first(envelope, &pin)?
            }
        };
        let root = verified.into_statement();
        if root.cluster != hub.cluster {
            return Err(Fault::new(Code::WrongCluster, format!("the host's trust root is for cluster `{}`", root.cluster)));
        }
        roots.push(NewRoot { version: root.version, payload_sha256, envelope: json });
        newest = Some(root);
    }
    Ok((roots, newest))
}

/// Whether the hub has no slice of that topology for the host that is as new.
async fn is_newer(hub: &Hub, host: &HostId, slice: &SliceStatement) -> Result<bool, Fault> {
    // Not whether it is stored: old ones are removed, and must not come back as what the host should have.
    let newest = hub.store.newest_slice(slice.topology.clone(), host.clone()).await.map_err(StoreError::into_fault)?;
    Ok(newest < slice.generation)
}

/// A verified binding as the store wants it.
pub(super) fn new_binding(binding: &Verified<HostBinding>) -> NewBinding {
    let statement = binding.statement();
    NewBinding {
        host_id: statement.host_id.clone(),
        host_key: statement.host_key,
        sealing_key: statement.sealing_key,
        host_epoch: statement.host_epoch.clone(),
        name: statement.name.clone(),
        serial: statement.serial,
        envelope: binding.envelope().to_json(),
        payload_sha256: binding.envelope().payload_sha256(),
    }
}
