//! Between a host's claim and its binding: the checks that keep a hub from passing off a host of its own,
//! and the slices that a newly bound host is owed.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::enrol::HostClaim;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId};
use moorline_common::sign::Verified;
use moorline_common::statement::{HostBinding, Sealed, TopologyStatement};
use moorline_common::topology::{BoundHost, HostSpec, Inputs};

use crate::client::facts::Claim;
use crate::client::{Client, HostView};
use crate::clock;
use crate::desired;
use crate::error::{EXIT_USAGE, Failure, LocalCode};
use crate::home::{Home, Pending};
use crate::limits::RETRIES;
use crate::render::Ui;
use crate::revision::{Draft, Pen, Previous};
use crate::secrets::{Sealer, Values};
use crate::signers::Signers;

/// Checks that a joined host is the one that was meant: by the MAC if this machine made the token, by
/// `fingerprint` if one is given; at least one must stand. Gives what was remembered of the token.
///
/// # Errors
/// [`LocalCode::ClaimMismatch`] when a check fails; [`LocalCode::Usage`] when none is possible.
pub fn check_claim(home: &Home, host: &HostView, fingerprint: Option<&str>) -> Result<Option<Pending>, Failure> {
    let claim = claim_of(host)?;
    let shown = claim.claim.fingerprint();
    if let Some(expected) = fingerprint
        && !same_fingerprint(expected, &shown)
    {
        return Err(mismatch(host, &format!("its fingerprint is {shown}, expected {expected}")));
    }
    let pending = home.pending(&claim.token_id)?;
    if let Some(pending) = &pending {
        let stands = pending.name == host.name && claim.claim.mac_is_valid(&*pending.mac_key()?, &claim.mac);
        if !stands {
            return Err(mismatch(host, "what it claims does not bear the mark of the token's secret"));
        }
    } else if fingerprint.is_none() {
        return Err(Failure::usage(
            format!("the token of host `{}` was not made on this machine, so its keys cannot be checked here", host.name),
            // The hub's fingerprint is not repeated here: copying it from here would compare nothing.
            "run `moorline-agent status` on the host itself, and pass the fingerprint that it shows there with --fingerprint",
        ));
    }
    Ok(pending)
}

fn claim_of(host: &HostView) -> Result<&Claim, Failure> {
    host.claim
        .as_ref()
        .filter(|c| moorline_common::id::HostId::of_key(&c.claim.host_key) == host.host_id)
        .ok_or_else(|| Fault::new(Code::BadEnvelope, format!("the hub shows no well-formed claim of host `{}`", host.name)).into())
}

fn same_fingerprint(a: &str, b: &str) -> bool {
    let digits = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
    !digits(a).is_empty() && digits(a) == digits(b)
}

fn mismatch(host: &HostView, why: &str) -> Failure {
    Failure::new(
        LocalCode::ClaimMismatch,
        format!("the host that joined as `{}` is not the one that was meant: {why}", host.name),
        "do not approve it: somebody else used the token, or the hub is not honest; look at `moorctl events`, then make a new token",
    )
}

/// What the hub's lock on `host` means, and what ends it; `None` for a host that is not locked.
#[must_use]
pub fn lock_fault(host: &HostView) -> Option<Fault> {
    host.locked.then(|| {
        let message = format!(
            "two holders used its identity, and the hub keeps both out: find the copy and switch it off, \
             then `moorctl host approve {} --fingerprint FINGERPRINT`",
            host.name
        );
        Fault::new(Code::RenewalConflict, message)
    })
}

/// Checks a locked host as [`check_claim`] does, by the keys in its held binding and not by what the hub shows.
///
/// # Errors
/// As [`check_claim`].
pub fn check_locked(home: &Home, host: &HostView, held: &HostBinding, fingerprint: Option<&str>) -> Result<(), Failure> {
    let (mac, token_id) = host.claim.as_ref().map(|c| (c.mac.clone(), c.token_id.clone())).unwrap_or_default();
    let claim =
        HostClaim { host_key: held.host_key, sealing_key: held.sealing_key, host_epoch: held.host_epoch.clone(), name: held.name.clone() };
    let as_bound = HostView { claim: Some(Claim { claim, mac, token_id }), ..host.clone() };
    match check_claim(home, &as_bound, fingerprint) {
        Ok(_) => Ok(()),
        Err(mut failure) => {
            if failure.exit == EXIT_USAGE {
                failure.message =
                    format!("host `{}` is locked and bound long ago: its keys must be compared by their fingerprint", host.name);
            }
            Err(failure)
        }
    }
}

/// A topology whose newest revision names the host.
struct Owed {
    source: Verified<TopologyStatement>,
    spec: HostSpec,
}

/// Binds a host whose claim was checked, with the floors of the topologies that name it.
///
/// # Errors
/// When the statement is refused here or by the hub.
pub async fn bind(
    client: &Client,
    ui: &mut Ui,
    signers: &Signers,
    host: &HostView,
    labels: BTreeMap<String, String>,
) -> Result<(), Failure> {
    let claim = claim_of(host)?.claim.clone();
    let binding = HostBinding {
        cluster: client.root.cluster.clone(),
        host_id: host.host_id.clone(),
        host_key: claim.host_key,
        sealing_key: claim.sealing_key,
        host_epoch: claim.host_epoch,
        name: host.name.clone(),
        labels,
        generation_floors: BTreeMap::new(),
        serial: 0,
        issued_at: clock::now(),
    };
    hand_in(client, client, ui, signers, host, binding).await
}

/// Binds a locked host anew, with the name, labels and keys that it was bound with: that unlocks it. Its epoch
/// may be a newer one.
///
/// # Errors
/// As [`bind`].
pub async fn unlock(client: &Client, ui: &mut Ui, signers: &Signers, host: &HostView, held: &HostBinding) -> Result<(), Failure> {
    let claim = host.claim.as_ref().map(|c| &c.claim).filter(|c| c.host_key == held.host_key && c.sealing_key == held.sealing_key);
    let host_epoch = claim.map_or(&held.host_epoch, |c| &c.host_epoch).clone();
    hand_in(client, client, ui, signers, host, HostBinding { host_epoch, issued_at: clock::now(), ..held.clone() }).await
}

/// Binds a host anew as it was bound, with other keys. `reader` judges by the trust root under which the old keys counted:
/// the topologies that it signed name the host's floors.
///
/// # Errors
/// As [`bind`].
pub async fn renew_binding(
    client: &Client,
    reader: &Client,
    ui: &mut Ui,
    signers: &Signers,
    host: &HostView,
    held: &HostBinding,
) -> Result<(), Failure> {
    hand_in(client, reader, ui, signers, host, HostBinding { issued_at: clock::now(), ..held.clone() }).await
}

/// Gives `binding` its serial and floors, signs it and hands it in.
async fn hand_in(
    client: &Client,
    reader: &Client,
    ui: &mut Ui,
    signers: &Signers,
    host: &HostView,
    mut binding: HostBinding,
) -> Result<(), Failure> {
    client.require_signable()?;
    let seen = client.context.floors()?.bindings.get(&host.host_id).copied().unwrap_or_default();
    let serial = seen.max(binding.serial).saturating_add(1);
    binding.serial = serial;
    for owed in owed(reader, ui, &binding).await? {
        let statement = owed.source.statement();
        let floor = binding.generation_floors.entry(statement.topology.clone()).or_default();
        *floor = statement.generation.max(*floor);
    }
    let signed = client.root.verify_binding(signers.seal(&binding)?, Some(&host.host_id))?;
    client.put_binding(signed.envelope()).await?;
    client.context.update_floors(|floors| {
        floors.bindings.insert(host.host_id.clone(), serial);
        Ok(())
    })
}

/// Every topology whose newest, verified revision names the host of `binding`.
async fn owed(client: &Client, ui: &mut Ui, binding: &HostBinding) -> Result<Vec<Owed>, Failure> {
    let bound = [BoundHost::from(binding)];
    let mut found = Vec::new();
    for facts in client.topologies().await? {
        let Some(view) = client.current(&facts.topology, false).await? else { continue };
        let Some(source) = view.source else {
            let why = view.doubt.map_or_else(|| "the hub has no source of it".to_owned(), |f| f.to_string());
            ui.warn(&format!("topology `{}` generation {} is left out: {why}; push it again", facts.topology, view.facts.generation));
            continue;
        };
        if source.statement().down {
            continue;
        }
        let name = format!("{}@{}", facts.topology, view.facts.generation);
        let sliced = desired::parse(&name, &source.statement().source, &source.statement().inputs).and_then(|s| s.slice_bound(&bound));
        match sliced {
            Ok(mut desired) => {
                if let Some(spec) = desired.hosts.remove(&binding.host_id) {
                    found.push(Owed { source, spec });
                }
            }
            Err(failure) => {
                ui.failure(&failure);
                ui.warn(&format!("topology `{}` is left out for this host", facts.topology));
            }
        }
    }
    Ok(found)
}

/// What the slice that `host` is owed needs of secrets and configs, sealed to it.
async fn sealed(client: &Client, owed: &Owed, host: &HostView, binding: &HostBinding) -> Result<BTreeMap<HostId, Sealed>, Failure> {
    if owed.spec.sealed_digests().is_empty() {
        return Ok(BTreeMap::new());
    }
    let topology = &owed.source.statement().topology;
    // It may have been of the topology before.
    let mut view = client.current(topology, true).await?;
    view.iter_mut().for_each(|view| view.slices.retain(|(id, _)| *id == host.host_id));
    let previous = Previous::of(view.as_ref(), std::slice::from_ref(host), &client.root);
    let earlier = previous.slices.values().flatten().collect();
    let sealer = Sealer { context: &client.context, topology, values: &Values::none(), earlier };
    sealer.seal(&BTreeMap::from([(host.host_id.clone(), owed.spec.clone())]), &BTreeMap::from([(&host.host_id, binding)]))
}

/// Signs and hands in the slice that a bound host is owed by the topology that names it, if it lacks it.
/// Gives the topology and generation that it now follows.
///
/// # Errors
/// [`Code::AlreadyApplied`] when more than one topology names the host; what calls can fail with.
pub async fn give_slices(
    client: &Client,
    ui: &mut Ui,
    signers: &Signers,
    host: &HostView,
) -> Result<Option<(TopologyId, Generation)>, Failure> {
    let binding = host.require_bound()?;
    let mut tries = 0;
    loop {
        tries += 1;
        let mut owed = owed(client, ui, binding).await?;
        let Some(one) = owed.pop() else { return Ok(None) };
        if !owed.is_empty() {
            let names: Vec<String> = owed.iter().chain([&one]).map(|o| o.source.statement().topology.to_string()).collect();
            let message =
                format!("host `{}` is named by {} topologies: {}; it got a slice of none", host.name, names.len(), names.join(", "));
            return Err(Fault::new(Code::AlreadyApplied, message).into());
        }
        let statement = one.source.statement();
        let has = host.target.as_ref().is_some_and(|t| t.topology == statement.topology && t.generation == statement.generation);
        let given = Some((statement.topology.clone(), statement.generation));
        if has {
            return Ok(given);
        }
        let draft = Draft {
            topology: statement.topology.clone(),
            generation: statement.generation,
            source: String::new(),
            inputs: Inputs::default(),
            down: false,
            message: String::new(),
            deliver_within_s: statement.deliver_within_s,
            hosts: BTreeMap::new(),
            sealed: sealed(client, &one, host, binding).await?,
            // Nothing was there before.
            fallbacks: BTreeMap::new(),
            at_once: BTreeSet::new(),
        };
        let slice = Pen { root: &client.root, signers, now: clock::now() }.sign_slice(&draft, binding, &one.spec)?;
        match client.add_slice(&draft.topology, draft.generation, host, &slice.envelope).await {
            Ok(()) => return Ok(given),
            // A push or another approval was faster and took the host along.
            Err(failure) if failure.is(Code::Equivocation) || failure.is(Code::AlreadyExists) => {
                let now = client.hosts(Some(&host.name)).await?.into_iter().find(|h| h.host_id == host.host_id);
                let target = now.and_then(|h| h.target);
                if target.is_some_and(|t| t.topology == draft.topology && t.generation >= draft.generation) {
                    return Ok(given);
                }
                return Err(failure);
            }
            Err(failure) if failure.is(Code::BaseMoved) && tries < RETRIES => {}
            Err(failure) => return Err(failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::host;
    use moorline_common::id::{ClusterId, HostEpoch, UnixSeconds};

    fn joined(name: &str, mac_key: &[u8; 32]) -> HostView {
        let mut view = host(10, name);
        let binding = view.binding.take().unwrap().into_statement();
        let claim = HostClaim {
            host_key: binding.host_key,
            sealing_key: binding.sealing_key,
            host_epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
            name: binding.name,
        };
        view.pending = true;
        view.claim = Some(Claim { mac: claim.mac(mac_key).to_vec(), claim, token_id: "a".repeat(32) });
        view
    }

    fn home_with_token(name: &str, mac_key: &[u8; 32]) -> (tempfile::TempDir, Home) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        let cluster = ClusterId::parse("acme").unwrap();
        let name = moorline_common::id::HostName::parse(name).unwrap();
        home.save_pending(&Pending::new(cluster, "a".repeat(32), name, BTreeMap::new(), UnixSeconds(9), mac_key)).unwrap();
        (dir, home)
    }

    #[test]
    fn only_the_host_that_had_the_token_passes() {
        let (_dir, home) = home_with_token("shop-17", &[7; 32]);
        assert!(check_claim(&home, &joined("shop-17", &[7; 32]), None).unwrap().is_some());
        assert_eq!(check_claim(&home, &joined("shop-17", &[8; 32]), None).err().unwrap().code, "claim_mismatch");
        assert_eq!(check_claim(&home, &joined("shop-18", &[7; 32]), None).err().unwrap().code, "claim_mismatch");
        let mut swapped = joined("shop-17", &[7; 32]);
        swapped.claim.as_mut().unwrap().claim.sealing_key = [9; 32];
        assert_eq!(check_claim(&home, &swapped, None).err().unwrap().code, "claim_mismatch");
    }

    #[test]
    fn without_the_token_the_fingerprint_must_be_given_and_equal() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        let view = joined("shop-17", &[7; 32]);
        let shown = view.claim.as_ref().unwrap().claim.fingerprint();
        assert_eq!(check_claim(&home, &view, None).err().unwrap().exit, 64);
        assert!(check_claim(&home, &view, Some(&shown.to_uppercase().replace('-', " "))).unwrap().is_none());
        assert_eq!(check_claim(&home, &view, Some("0000")).err().unwrap().code, "claim_mismatch");
        assert_eq!(check_claim(&home, &view, Some("")).err().unwrap().code, "claim_mismatch");
    }

    #[test]
    fn a_locked_host_passes_by_the_keys_that_it_was_bound_with_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        let mut view = joined("shop-17", &[7; 32]);
        let shown = view.claim.as_ref().unwrap().claim.fingerprint();
        let bound = host(10, "shop-17");
        let held = bound.bound().unwrap();
        // What the hub shows of the claim does not matter.
        view.claim.as_mut().unwrap().claim.sealing_key = [9; 32];
        let others = view.claim.as_ref().unwrap().claim.fingerprint();
        assert!(check_locked(&home, &view, held, Some(&shown)).is_ok());
        assert_eq!(check_locked(&home, &view, held, Some(&others)).unwrap_err().code, "claim_mismatch");
        assert_eq!(check_locked(&home, &view, held, None).unwrap_err().exit, 64);
        view.claim = None;
        assert!(check_locked(&home, &view, held, Some(&shown)).is_ok(), "a restored hub has no claim");
        let (_dir, home) = home_with_token("shop-17", &[7; 32]);
        assert!(check_locked(&home, &joined("shop-17", &[7; 32]), held, None).is_ok());
    }
}
