//! What is known of the engine's objects beside their labels, which cannot be changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use moorline_common::observe::{Observed, Owner};
use moorline_common::plan::{guest, volume_key};
use moorline_common::pve::Vmid;
use moorline_common::topology::{DockerSpec, HostSpec};

/// See the module. The ledger keeps the notes; this is what a driver sees of them.
#[derive(Debug, Default)]
pub struct Known(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// What objects are, by the engine's ids of containers and networks, and [`volume_key`] of volumes.
    notes: BTreeMap<String, Owner>,
    /// Names that the slice gives, which strangers may bear.
    names: BTreeSet<String>,
    /// Ids and volumes that the slice takes over.
    adopted: BTreeSet<String>,
    /// Guests that the slice names.
    guests: BTreeSet<Vmid>,
}

impl Known {
    /// Takes in what the ledger knows.
    pub fn load(&self, notes: impl IntoIterator<Item = (String, Owner)>) {
        self.write().notes.extend(notes);
    }

    /// Notes what `key` is from now on.
    pub fn note(&self, key: String, owner: Owner) {
        self.write().notes.insert(key, owner);
    }

    /// `owner` as it is noted for `key`: what was taken over once stays so. An engine gives no id twice; but another guest may bear a number
    /// by now, which nobody took over.
    #[must_use]
    pub fn heir(&self, key: &str, owner: Owner) -> Owner {
        let is_same = |before: &&Owner| !guest::is_note(key) || before.base == owner.base;
        let adopted = owner.adopted || self.read().notes.get(key).filter(is_same).is_some_and(|before| before.adopted);
        Owner { adopted, ..owner }
    }

    /// Forgets `keys`.
    pub fn forget<'k>(&self, keys: impl IntoIterator<Item = &'k String>) {
        let mut inner = self.write();
        for key in keys {
            inner.notes.remove(key);
        }
    }

    /// The keys of all notes.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.read().notes.keys().cloned().collect()
    }

    /// What `key` is.
    #[must_use]
    pub fn owner(&self, key: &str) -> Option<Owner> {
        self.read().notes.get(key).cloned()
    }

    /// Shows in `observed` what is known.
    pub fn show(&self, observed: &mut Observed) {
        let inner = self.read();
        let containers = observed.containers.values_mut().map(|live| (live.id.clone(), &mut live.owner));
        let networks = observed.networks.values_mut().map(|live| (live.id.clone(), &mut live.owner));
        let volumes = observed.volumes.iter_mut().map(|(name, live)| (volume_key(name), &mut live.owner));
        for (key, owner) in containers.chain(networks).chain(volumes) {
            if let Some(known) = inner.notes.get(&key) {
                *owner = Some(known.clone());
            }
        }
    }

    /// Looks for what `slice` names.
    pub fn look_for(&self, slice: Option<&HostSpec>) {
        let (mut names, mut adopted) = (BTreeSet::new(), BTreeSet::new());
        let nothing = DockerSpec::default();
        let DockerSpec { networks, volumes, services, .. } = slice.and_then(|s| s.docker.as_ref()).unwrap_or(&nothing);
        for (key, network) in networks {
            names.extend(network.name.clone().or_else(|| network.external.then(|| key.clone())));
            adopted.extend(network.adopt.clone());
        }
        for (key, volume) in volumes {
            names.extend(volume.name.clone().or_else(|| volume.external.then(|| key.clone())));
            adopted.extend(volume.adopt.as_deref().map(volume_key));
        }
        for service in services.values() {
            names.extend(service.container_name.clone());
            adopted.extend(service.adopt.clone());
        }
        let guests = slice.into_iter().flat_map(HostSpec::guests).map(|(vmid, _)| vmid).collect();
        let mut inner = self.write();
        (inner.names, inner.adopted, inner.guests) = (names, adopted, guests);
    }

    /// Whether the slice gives this name.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.read().names.contains(name)
    }

    /// Whether the slice names this guest.
    #[must_use]
    pub fn is_wanted(&self, vmid: Vmid) -> bool {
        self.read().guests.contains(&vmid)
    }

    /// Whether the slice takes this object over.
    #[must_use]
    pub fn is_adopted(&self, key: &str) -> bool {
        self.read().adopted.contains(key)
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use moorline_common::id::ResourceId;

    use super::*;

    #[test]
    fn another_guest_of_a_number_inherits_nothing_of_the_one_before_it() {
        let owner = |base: &str, adopted| Owner {
            topology: "edge".to_owned(),
            resource: ResourceId::parse("pve/guest/101").unwrap(),
            spec: String::new(),
            base: base.to_owned(),
            adopted,
            hidden: None,
        };
        let known = Known::default();
        known.note("guest/101".to_owned(), owner("vm:a", true));
        assert!(known.heir("guest/101", owner("vm:a", false)).adopted, "what was taken over once stays so");
        assert!(!known.heir("guest/101", owner("vm:b", false)).adopted);
    }
}
