//! One cluster as this operator uses it: the way to its hub, its verified trust roots, and the newest that was seen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use moorline_common::id::{ClusterId, Generation, HostId, TopologyId};
use moorline_common::sign::{Envelope, PrivateKey};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files::{ensure_private_dir, read_json, read_secret, write_json, write_once};
use super::key::{SecretText, read_key};
use super::passphrase::Passphrases;
use crate::error::Failure;

/// A cluster as this operator uses it.
#[derive(Debug, Clone)]
pub struct Context {
    /// Its name, by default the cluster's.
    pub name: String,
    pub(super) dir: PathBuf,
    /// What it is about.
    pub facts: ContextFacts,
    /// Where passphrases of key files come from.
    pub passphrases: Passphrases,
    /// Key files of other operators that sign besides this one's.
    pub sign_with: Vec<PathBuf>,
}

/// The content of `context.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextFacts {
    /// The cluster.
    pub cluster: ClusterId,
    /// The operator's name.
    pub operator: String,
    /// [`moorline_common::trust::TrustRoot::pin`] of root version 1.
    pub root_pin: String,
}

/// The operator's way to the hub, as `moorline-hub` made it. Grants transport, never authority.
/// Has no `Debug`: it holds a private key.
#[derive(Clone, Deserialize)]
pub struct Bundle {
    /// The cluster.
    pub cluster: ClusterId,
    /// The operator's name in the certificate.
    pub name: String,
    /// Hub addresses, `host:port`.
    pub hubs: Vec<String>,
    /// Lowercase hex SHA-256 of the hub CA's SubjectPublicKeyInfo.
    pub ca_spki: String,
    /// The certificate and its CA, in PEM.
    pub certificate_chain_pem: String,
    /// The certificate's key, in PEM.
    pub key_pem: SecretText,
}

/// The newest that this machine has seen: a hub that shows less is behind or withholds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// Per topology.
    #[serde(default)]
    pub topologies: BTreeMap<TopologyId, TopologyFloor>,
    /// The highest binding serial per host.
    #[serde(default)]
    pub bindings: BTreeMap<HostId, u64>,
}

/// See [`Floors::topologies`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyFloor {
    /// The highest generation seen.
    pub generation: Generation,
    /// The SHA-256 of its source payload; empty when the hub had none (it was restored).
    pub source_sha256: String,
    /// The generation that this machine last pushed; the base of its next push. 0 for none.
    pub pushed: Generation,
}

/// Where a topology file and its secrets are on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Its folder, absolute.
    pub folder: PathBuf,
    /// The files that were named instead of `.env`, absolute.
    #[serde(default)]
    pub env_files: Vec<PathBuf>,
}

impl Bundle {
    /// Reads a bundle file, and gives its exact bytes too.
    ///
    /// # Errors
    /// When it is missing, readable by others, or no bundle.
    pub fn read(path: &Path) -> Result<(Self, Zeroizing<Vec<u8>>), Failure> {
        let bytes = read_secret(path)?;
        let bundle = serde_json::from_slice(&bytes).map_err(|e| {
            Failure::local(format!("{} is not an operator bundle: {e}", path.display()))
                .with_remedy("name a file that `moorline-hub init` or `moorline-hub operator add` made")
        })?;
        Ok((bundle, bytes))
    }
}

impl Context {
    /// The context's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The transport bundle.
    ///
    /// # Errors
    /// When it cannot be read, or others can read it.
    pub fn bundle(&self) -> Result<Bundle, Failure> {
        Bundle::read(&self.dir.join("bundle.json")).map(|(bundle, _)| bundle)
    }

    /// Where the operator's signing key is.
    #[must_use]
    pub fn operator_key_path(&self) -> PathBuf {
        self.dir.join("operator.key")
    }

    /// Where `key rotate` notes how far it is.
    #[must_use]
    pub fn rotation_path(&self) -> PathBuf {
        self.dir.join("rotation.json")
    }

    /// The operator's signing key.
    ///
    /// # Errors
    /// When it cannot be read, others can read it, or its passphrase is not given.
    pub fn operator_key(&self) -> Result<PrivateKey, Failure> {
        read_key(&self.operator_key_path(), &self.passphrases)
    }

    /// Every verified trust root, version 1 first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn roots(&self) -> Result<Vec<Envelope>, Failure> {
        Ok(read_json(&self.dir.join("roots.json"))?.unwrap_or_default())
    }

    /// Keeps verified trust roots.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save_roots(&self, roots: &[Envelope]) -> Result<(), Failure> {
        write_json(&self.dir.join("roots.json"), &roots)
    }

    /// The key of the digests of secrets: made at its first use. Operators who have the same key make the same digests.
    ///
    /// # Errors
    /// When it cannot be read or made, others can read it, or it is none.
    pub fn digest_key(&self) -> Result<Zeroizing<[u8; 32]>, Failure> {
        let path = self.dir.join("secrets.key");
        if !path.exists() {
            let mut key = Zeroizing::new([0; 32]);
            getrandom::fill(key.as_mut_slice()).map_err(|e| Failure::local(format!("no random bytes: {e}")))?;
            let text = Zeroizing::new(format!("{}\n", Zeroizing::new(hex::encode(key.as_slice())).as_str()));
            // Where another process was faster, its key counts.
            write_once(&path, text.as_bytes())?;
        }
        let bytes = read_secret(&path)?;
        let mut key = Zeroizing::new([0; 32]);
        hex::decode_to_slice(bytes.trim_ascii(), key.as_mut_slice()).map_err(|_| {
            Failure::local(format!("{} is no key of 64 hex digits", path.display()))
                .with_remedy("restore it from a backup; a new one makes every secret count as changed")
        })?;
        Ok(key)
    }

    /// Where a topology was last pushed from on this machine.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn place(&self, topology: &TopologyId) -> Result<Option<Place>, Failure> {
        let places: BTreeMap<TopologyId, Place> = read_json(&self.dir.join("places.json"))?.unwrap_or_default();
        Ok(places.get(topology).cloned())
    }

    /// Notes where a topology is pushed from, one process at a time.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn note_place(&self, topology: &TopologyId, place: &Place) -> Result<(), Failure> {
        let _lock = self.lock()?;
        let path = self.dir.join("places.json");
        let mut places: BTreeMap<TopologyId, Place> = read_json(&path)?.unwrap_or_default();
        if places.get(topology) == Some(place) {
            return Ok(());
        }
        places.insert(topology.clone(), place.clone());
        write_json(&path, &places)
    }

    /// What was the newest that this machine has seen.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn floors(&self) -> Result<Floors, Failure> {
        Ok(read_json(&self.dir.join("floors.json"))?.unwrap_or_default())
    }

    /// Changes the floors, one process at a time.
    ///
    /// # Errors
    /// When `change` refuses, or the file cannot be written.
    pub fn update_floors<T>(&self, change: impl FnOnce(&mut Floors) -> Result<T, Failure>) -> Result<T, Failure> {
        let _lock = self.lock()?;
        let before = self.floors()?;
        let mut floors = before.clone();
        let result = change(&mut floors)?;
        if floors != before {
            write_json(&self.dir.join("floors.json"), &floors)?;
        }
        Ok(result)
    }

    /// Waits until no other process changes what this context has noted.
    fn lock(&self) -> Result<Flock<fs::File>, Failure> {
        ensure_private_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(|e| Failure::file("open", &path, &e))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Failure::local(format!("cannot lock {}: {errno}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::Home;

    #[test]
    fn the_key_of_digests_is_made_once_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: "00".into() };
        let context = home.store_context("one", facts, b"{}").unwrap();
        let key = context.digest_key().unwrap();
        assert_eq!(*context.digest_key().unwrap(), *key);
        let path = context.dir().join("secrets.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(context.digest_key().unwrap_err().code, "unsafe_file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "no key").unwrap();
        let failure = context.digest_key().unwrap_err();
        assert!(failure.message.contains("no key of 64 hex digits") && failure.remedy.contains("backup"), "{failure:?}");
    }

    #[test]
    fn places_that_are_noted_at_once_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: "00".into() };
        let context = home.store_context("one", facts, b"{}").unwrap();
        let topologies = (0..40).map(|n| TopologyId::parse(format!("edge-{n}")).unwrap()).collect::<Vec<_>>();
        let place = |topology: &TopologyId| Place { folder: format!("/srv/{topology}").into(), env_files: Vec::new() };
        std::thread::scope(|scope| {
            for half in topologies.chunks(20) {
                scope.spawn(|| half.iter().for_each(|topology| context.note_place(topology, &place(topology)).unwrap()));
            }
        });
        for topology in &topologies {
            assert_eq!(context.place(topology).unwrap(), Some(place(topology)));
        }
    }

    #[test]
    fn all_who_make_the_key_of_digests_at_once_have_the_same_one() {
        for _ in 0..50 {
            let dir = tempfile::tempdir().unwrap();
            let home = Home::open(Some(dir.path().to_owned())).unwrap();
            let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: "00".into() };
            let context = home.store_context("one", facts, b"{}").unwrap();
            // What a killed process left behind.
            fs::write(context.dir().join(".secrets.key.0.tmp"), "").unwrap();
            let start = std::sync::Barrier::new(4);
            let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
                let make = || {
                    start.wait();
                    context.digest_key().map(|key| *key)
                };
                let all: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
                all.into_iter().map(|one| one.join().unwrap().unwrap()).collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
            let names = fs::read_dir(context.dir()).unwrap().flatten().map(|entry| entry.file_name());
            assert_eq!(
                names.filter(|name| name.to_string_lossy().ends_with(".tmp")).count(),
                1,
                "no temporary file stays of those who end"
            );
        }
    }

    #[test]
    fn floors_stay_as_they_were_when_a_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: "00".into() };
        let context = home.store_context("one", facts, b"{}").unwrap();
        let host = HostId::of_key(&[1; 32]);
        context.update_floors(|f| Ok(f.bindings.insert(host.clone(), 3))).unwrap();
        let refused: Result<(), Failure> = context.update_floors(|f| {
            f.bindings.clear();
            Err(Failure::local("no"))
        });
        assert!(refused.is_err());
        assert_eq!(context.floors().unwrap().bindings.get(&host), Some(&3));
    }
}
