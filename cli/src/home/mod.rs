//! The operator's home folder: contexts with their keys, pinned trust roots, floors and pending tokens.
//!
//! ```text
//! HOME/current                     the name of the context that is used when none is named
//! HOME/contexts/NAME/context.json  cluster, operator, root pin
//!                    bundle.json   transport certificate and key, as `moorline-hub` made them
//!                    operator.key  ed25519 seed in hex: signs topologies and bindings
//!                    recovery.key  ed25519 seed in hex: signs trust roots; belongs offline
//!                    operator.key.next, rotation.json  what an unfinished `key rotate` goes on with
//!                    operator.key.old-ID  keys that were rotated away: they count no more
//!                    roots.json    every verified trust root, version 1 first
//!                    floors.json   the newest that was seen: generations, binding serials
//!                    secrets.key   the key of the digests of secrets; made when first needed
//!                    places.json   where each topology with secrets was last pushed from
//! HOME/pending/TOKEN_ID.json       what `host add` keeps until the host is bound
//! HOME/keys/NAME.key               keys made by `key new`
//! ```
//!
//! A key file holds its seed as it is, or sealed with a passphrase (`key encrypt`).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use moorline_common::id::{ClusterId, HostName, UnixSeconds};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Failure, LocalCode};

mod context;
pub mod files;
mod key;
mod passphrase;

pub use context::{Bundle, Context, ContextFacts, Floors, Place, TopologyFloor};
pub use key::{OpenedKey, SecretText, new_key, open_key, parse_seed, public_of, read_key, write_key, write_sealed_key};
pub use passphrase::Passphrases;

use files::{read_json, read_optional, read_secret, write_json, write_private};

/// The home folder.
#[derive(Debug, Clone)]
pub struct Home {
    dir: PathBuf,
    /// Where passphrases of key files come from.
    pub passphrases: Passphrases,
    /// Key files of other operators that sign besides this one's.
    pub sign_with: Vec<PathBuf>,
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
        Self { cluster, token_id, name, labels, expires, mac_key: SecretText::new(hex::encode(mac_key)) }
    }

    /// The key of the claim's MAC.
    ///
    /// # Errors
    /// When the file was damaged.
    pub fn mac_key(&self) -> Result<Zeroizing<[u8; 32]>, Failure> {
        parse_seed(self.mac_key.expose()).ok_or_else(|| Failure::local(format!("the pending token {} is damaged", self.token_id)))
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
        Ok(Self { dir, passphrases: Passphrases::default(), sign_with: Vec::new() })
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
        Ok(Context { name, dir, facts, passphrases: self.passphrases.clone(), sign_with: self.sign_with.clone() })
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
        Ok(Context { name: name.to_owned(), dir, facts, passphrases: self.passphrases.clone(), sign_with: self.sign_with.clone() })
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
    fn a_token_id_from_the_hub_never_becomes_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(Some(dir.path().to_owned())).unwrap();
        assert!(home.pending("../contexts/one/context").unwrap().is_none());
    }
}
