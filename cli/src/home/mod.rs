//! The operator's home folder: contexts with their keys, pinned trust roots, floors and pending tokens.
//!
//! ```text
//! HOME/current                     the name of the context that is used when none is named
//! HOME/contexts/NAME/context.json  cluster, operator, root pin
//!                    bundle.json   transport certificate and key, as `moorline-hub` made them
//!                    operator.key  ed25519 seed in hex: signs topologies and bindings
//!                    recovery.key  ed25519 seed in hex: signs trust roots; belongs offline
//!                    roots.json    every verified trust root, version 1 first
//!                    floors.json   the newest that was seen: generations, binding serials
//! HOME/pending/TOKEN_ID.json       what `host add` keeps until the host is bound
//! HOME/keys/NAME.key               keys made by `key new`
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use moorline_common::id::{ClusterId, Generation, HostId, HostName, TopologyId, UnixSeconds};
use moorline_common::sign::{Envelope, OperatorKey};
use nix::fcntl::{Flock, FlockArg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Failure, LocalCode};

pub mod files;

use files::{ensure_private_dir, read_optional, read_secret, write_private};

/// The home folder.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
}

/// A cluster as this operator uses it.
#[derive(Debug, Clone)]
pub struct Context {
    /// Its name, by default the cluster's.
    pub name: String,
    dir: PathBuf,
    /// What it is about.
    pub facts: ContextFacts,
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

/// What `host add` remembers until the host is bound. Has no `Debug`: it holds a secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// The cluster.
    pub cluster: ClusterId,
    /// The token's public id.
    pub token_id: String,
    /// The host's name.
    pub name: HostName,
    /// The labels it will get.
    pub labels: BTreeMap<String, String>,
    /// When the token ends.
    pub expires: UnixSeconds,
    /// The key of the claim's MAC, in hex.
    mac_key: SecretText,
}

impl Pending {
    /// What to remember of a token.
    #[must_use]
    pub fn new(
        cluster: ClusterId,
        token_id: String,
        name: HostName,
        labels: BTreeMap<String, String>,
        expires: UnixSeconds,
        mac_key: &[u8; 32],
    ) -> Self {
        Self { cluster, token_id, name, labels, expires, mac_key: SecretText(hex::encode(mac_key)) }
    }

    /// The key of the claim's MAC.
    ///
    /// # Errors
    /// When the file was damaged.
    pub fn mac_key(&self) -> Result<Zeroizing<[u8; 32]>, Failure> {
        parse_seed(&self.mac_key.0).ok_or_else(|| Failure::local(format!("the pending token {} is damaged", self.token_id)))
    }
}

/// A secret text: zeroed when dropped, without `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// The text, to be used and not kept.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// 32 bytes from 64 hex digits; surrounding white space and lines that begin with `#` are ignored.
#[must_use]
pub fn parse_seed(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'))?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(line, seed.as_mut()).ok()?;
    Some(seed)
}

/// Reads a private key file.
///
/// # Errors
/// When it is missing, readable by others, or no key.
pub fn read_key(path: &Path) -> Result<OperatorKey, Failure> {
    let bytes = read_secret(path)?;
    let seed = std::str::from_utf8(&bytes).ok().and_then(parse_seed).ok_or_else(|| {
        Failure::local(format!("{} is not a key file", path.display()))
            .with_remedy("name a file that `moorctl key new` or `moorctl init` made")
    })?;
    Ok(OperatorKey::from_seed(&seed))
}

/// Writes a private key file.
///
/// # Errors
/// When it cannot be written.
pub fn write_key(path: &Path, key: &OperatorKey) -> Result<(), Failure> {
    let text = Zeroizing::new(format!("{}\n", hex::encode(*key.seed())));
    write_private(path, text.as_bytes())
}

/// A fresh key from the system's randomness.
///
/// # Errors
/// When the system has none.
pub fn new_key() -> Result<OperatorKey, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| Failure::local(format!("the system gives no randomness: {e}")))?;
    Ok(OperatorKey::from_seed(&seed))
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

impl Home {
    /// The folder `dir`, or `~/.config/moorline`. Nothing is made yet.
    ///
    /// # Errors
    /// When no folder is named and there is no home.
    pub fn open(dir: Option<PathBuf>) -> Result<Self, Failure> {
        let dir = match dir {
            Some(dir) => dir,
            None => match std::env::var_os("HOME").filter(|h| !h.is_empty()) {
                Some(home) => Path::new(&home).join(".config/moorline"),
                None => return Err(Failure::usage("there is no home folder", "set HOME, or name a folder with --home")),
            },
        };
        Ok(Self { dir })
    }

    /// The names of all contexts, sorted.
    #[must_use]
    pub fn context_names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.dir.join("contexts")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter(|e| e.path().join("context.json").exists()).filter_map(|e| e.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The context `name`, or the current one, or the only one.
    ///
    /// # Errors
    /// [`LocalCode::NoContext`] when there is none such.
    pub fn context(&self, name: Option<&str>) -> Result<Context, Failure> {
        let names = self.context_names();
        let name = match name {
            Some(name) => name.to_owned(),
            None => match (read_optional(&self.dir.join("current"))?, names.as_slice()) {
                (Some(bytes), _) => String::from_utf8_lossy(&bytes).trim().to_owned(),
                (None, [only]) => only.clone(),
                (None, _) => String::new(),
            },
        };
        if !names.contains(&name) {
            let message = match (name.is_empty(), names.is_empty()) {
                (_, true) => format!("there is no context in {}", self.dir.display()),
                (true, false) => format!("no context is chosen; there are: {}", names.join(", ")),
                (false, false) => format!("there is no context `{name}`; there are: {}", names.join(", ")),
            };
            return Err(Failure::new(
                LocalCode::NoContext,
                message,
                "run `moorctl init --bundle FILE` with the bundle that `moorline-hub init` made, or choose one with --context or --home",
            ));
        }
        let dir = self.context_dir(&name)?;
        let facts = read_json(&dir.join("context.json"))?
            .ok_or_else(|| Failure::local(format!("{} has vanished", dir.join("context.json").display())))?;
        Ok(Context { name, dir, facts })
    }

    /// The folder of a context that may not exist yet.
    ///
    /// # Errors
    /// When the name is not one that a folder may have.
    pub fn context_dir(&self, name: &str) -> Result<PathBuf, Failure> {
        let clean = !name.is_empty() && name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !clean {
            return Err(Failure::usage(format!("`{name}` is not a context name"), "use 1 to 63 letters, digits, - and _"));
        }
        Ok(self.dir.join("contexts").join(name))
    }

    /// Writes a context and makes it the current one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_context(&self, name: &str, facts: ContextFacts, bundle: &[u8]) -> Result<Context, Failure> {
        let dir = self.context_dir(name)?;
        write_private(&dir.join("bundle.json"), bundle)?;
        write_json(&dir.join("context.json"), &facts)?;
        write_private(&self.dir.join("current"), format!("{name}\n").as_bytes())?;
        Ok(Context { name: name.to_owned(), dir, facts })
    }

    /// Where `key new` keeps the key `name`.
    #[must_use]
    pub fn spare_key_path(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(format!("{name}.key"))
    }

    fn pending_path(&self, token_id: &str) -> PathBuf {
        self.dir.join("pending").join(format!("{token_id}.json"))
    }

    /// Remembers a token.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_pending(&self, pending: &Pending) -> Result<(), Failure> {
        write_json(&self.pending_path(&pending.token_id), pending)
    }

    /// What is remembered of a token, if this machine made it.
    ///
    /// # Errors
    /// When the file cannot be read, or others can read it.
    pub fn pending(&self, token_id: &str) -> Result<Option<Pending>, Failure> {
        // The id comes from the hub: it must not become a path elsewhere.
        if token_id.len() != 32 || !token_id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let path = self.pending_path(token_id);
        if !path.exists() {
            return Ok(None);
        }
        read_secret(&path)?;
        read_json(&path)
    }

    /// Forgets a token whose host is bound.
    pub fn forget_pending(&self, token_id: &str) {
        // A file that stays does no harm: the token is spent.
        let _ = fs::remove_file(self.pending_path(token_id));
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

    /// The operator's signing key.
    ///
    /// # Errors
    /// When it cannot be read, or others can read it.
    pub fn operator_key(&self) -> Result<OperatorKey, Failure> {
        read_key(&self.dir.join("operator.key"))
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
        ensure_private_dir(&self.dir)?;
        let lock_path = self.dir.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|e| Failure::file("open", &lock_path, &e))?;
        let _lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Failure::local(format!("cannot lock {}: {errno}", lock_path.display())))?;
        let before = self.floors()?;
        let mut floors = before.clone();
        let result = change(&mut floors)?;
        if floors != before {
            write_json(&self.dir.join("floors.json"), &floors)?;
        }
        Ok(result)
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Failure::local(format!("{} is damaged: {e}", path.display())).with_remedy("restore it from a backup of your home folder")
    })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let mut bytes =
        Zeroizing::new(serde_json::to_vec_pretty(value).map_err(|e| Failure::local(format!("cannot write {}: {e}", path.display())))?);
    bytes.push(b'\n');
    write_private(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ContextFacts {
        ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: "00".into() }
    }

    #[test]
    fn the_newest_context_is_current_and_another_can_be_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        assert_eq!(home.context(None).unwrap_err().code, "no_context");
        home.store_context("one", facts(), b"{}").unwrap();
        home.store_context("two", facts(), b"{}").unwrap();
        assert_eq!(home.context(None).unwrap().name, "two");
        assert_eq!(home.context(Some("one")).unwrap().name, "one");
        assert!(home.context(Some("three")).unwrap_err().message.contains("one, two"));
        assert_eq!(home.context_dir("../x").unwrap_err().exit, 64);
    }

    #[test]
    fn keys_survive_their_file_and_garbage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.key");
        let key = new_key().unwrap();
        write_key(&path, &key).unwrap();
        assert_eq!(read_key(&path).unwrap().id(), key.id());
        write_private(&path, b"hello").unwrap();
        assert!(read_key(&path).is_err());
    }

    #[test]
    fn floors_stay_as_they_were_when_a_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        let context = home.store_context("one", facts(), b"{}").unwrap();
        let host = HostId::of_key(&[1; 32]);
        context.update_floors(|f| Ok(f.bindings.insert(host.clone(), 3))).unwrap();
        let refused: Result<(), Failure> = context.update_floors(|f| {
            f.bindings.clear();
            Err(Failure::local("no"))
        });
        assert!(refused.is_err());
        assert_eq!(context.floors().unwrap().bindings.get(&host), Some(&3));
    }

    #[test]
    fn a_token_id_from_the_hub_never_becomes_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        assert!(home.pending("../contexts/one/context").unwrap().is_none());
    }
}
