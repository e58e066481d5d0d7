//! The values of secrets and configs on this host: kept sealed in the state folder, opened only into files in memory.
//!
//! | where | what | for how long |
//! |---|---|---|
//! | `STATE/sealed/FILE` | the value as it came, sealed to this host | while a container has it |
//! | `SECRETS_DIR/HOST_ID/FILE` | the value, for containers to mount | the same; gone after a reboot, and put back |
//!
//! The files' names say everything else ([`SealedFile`]), so that nothing has to be remembered: what a container mounts can be put back
//! from its own mounts. Called by the intake (can this be opened?) and the Docker driver; it knows neither. Values are in no error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use age::x25519::Identity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostId;
use moorline_common::statement::Sealed;
use moorline_common::topology::{HostSpec, SealedFile};
use zeroize::Zeroizing;

use crate::files;
use crate::identity::{HostKeys, IdentityError};
use crate::limits::SEALED_FILE_MAX;

mod memory;
#[cfg(test)]
mod tests;

pub use memory::{Standing, UnsafeFolder, standing};

/// The folder of sealed values in the state folder.
const KEPT: &str = "sealed";

/// Why a file cannot be where a container looks for it.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It is not sealed to this host, or damaged.
    #[error("the value of {0} cannot be opened: it is damaged, or sealed to another host")]
    Closed(String),
    /// Nothing has its value.
    #[error("the value of {0} is not on this host; push the topology again")]
    Unknown(String),
    /// What is written there would be on a disk.
    #[error("{path} is not in memory; mount a tmpfs there, or name another folder by `secrets_dir` in agent.toml", path = .0.display())]
    NotInMemory(PathBuf),
    /// Somebody else could read or swap what is written there.
    #[error(transparent)]
    Folder(#[from] UnsafeFolder),
    /// A file cannot be given to whom it shall belong.
    #[error("{what} cannot be given to {to}: {source}; run the agent with CAP_CHOWN, or leave `uid` and `gid` out")]
    Owner {
        /// The secret or config.
        what: String,
        /// User and group.
        to: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// See the module. Has no `Debug`: it holds a key.
pub struct Vault {
    identity: Identity,
    /// In memory.
    folder: PathBuf,
    /// On the disk, sealed.
    kept: PathBuf,
    state: Mutex<State>,
    /// Held while files are written or removed; taken before `state`.
    writing: Mutex<()>,
}

#[derive(Default)]
struct State {
    /// What the accepted slice has, by digest.
    offered: BTreeMap<String, Arc<str>>,
    /// Counts the times that files were about to be needed, or no longer were.
    changes: u64,
    /// How many are at it.
    open: u32,
}

/// Somebody makes a container: until this is dropped nothing is swept away.
pub struct Hold(Arc<Vault>);

impl Drop for Hold {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.changes += 1;
        state.open = state.open.saturating_sub(1);
    }
}

/// A moment, to tell whether anything began since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Vault {
    /// The vault of the host with `keys`, whose files in memory are below `secrets_dir`. Nothing is made yet.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn new(secrets_dir: &Path, state_dir: &Path, keys: &HostKeys) -> Result<Self, IdentityError> {
        Ok(Self {
            identity: keys.sealing_identity()?,
            folder: folder_of(secrets_dir, &keys.host_id()),
            kept: state_dir.join(KEPT),
            state: Mutex::default(),
            writing: Mutex::default(),
        })
    }

    /// Checks that every value can be opened.
    ///
    /// # Errors
    /// [`Code::SecretsUnreadable`] with the name of one that cannot.
    pub fn check(&self, spec: &HostSpec, sealed: &Sealed) -> Result<(), Fault> {
        for (digest, name) in spec.sealed_digests() {
            let value = sealed.values.get(digest).map(|value| self.opened(value, &name));
            if let Some(Err(error)) = value {
                return Err(Fault::new(Code::SecretsUnreadable, format!("{error}; push the topology again")));
            }
        }
        Ok(())
    }

    /// Takes the values of the slice that was accepted.
    pub fn offer(&self, sealed: &Sealed) {
        self.state().offered = sealed.values.iter().map(|(digest, value)| (digest.clone(), value.as_str().into())).collect();
    }

    /// Where a container finds `file`.
    #[must_use]
    pub fn path(&self, file: &SealedFile) -> PathBuf {
        self.folder.join(file.to_string())
    }

    /// The file that a container has from `path` on this host, if it is one of these.
    #[must_use]
    pub fn file_at(&self, path: &str) -> Option<SealedFile> {
        let name = Path::new(path).strip_prefix(&self.folder).ok()?;
        name.to_str()?.parse().ok()
    }

    /// Nothing is swept away while the answer is held.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Hold {
        let mut state = self.state();
        state.changes += 1;
        state.open += 1;
        drop(state);
        Hold(self.clone())
    }

    /// Whether there is no value for anybody, neither kept nor from the slice.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state().offered.is_empty() && names(&self.kept).next().is_none()
    }

    /// Puts `file` where a container finds it; "already there" is success. Its value is what was kept when a container first had it, or,
    /// when that is not there or cannot be opened, what the accepted slice brings; that is kept then.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn put(&self, file: &SealedFile) -> Result<(), VaultError> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.kept.join(file.to_string());
        let failed = |source| VaultError::File { path: kept.clone(), source };
        let value = match self.kept_value(&kept, file) {
            Ok(value) => value,
            Err(unusable) => {
                let sealed = self.state().offered.get(&file.digest).cloned().ok_or(unusable)?;
                let value = self.opened(&sealed, &word(file))?;
                files::ensure_private_dir(&self.kept).map_err(failed)?;
                files::write_private(&kept, sealed.as_bytes()).map_err(failed)?;
                value
            }
        };
        if memory::is_there(&self.folder, file) {
            return Ok(());
        }
        memory::write(&self.folder, file, &value)?;
        tracing::debug!(file = %file.field(), "put a file into memory for a container");
        Ok(())
    }

    /// Puts back every file that is kept; what cannot be is logged, and told where a container needs it. For the start: an engine that
    /// starts containers by itself finds them then.
    pub fn put_all_back(&self) {
        for file in names(&self.kept) {
            if let Err(error) = self.put(&file) {
                tracing::warn!(file = %file.field(), %error, "a file for containers could not be put back");
            }
        }
    }

    /// The moment before a look at who has which files.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.state().changes)
    }

    /// Removes every file that is not among `used`, what a look after `mark` found; nothing when containers were made since.
    pub fn sweep(&self, mark: Mark, used: &BTreeSet<SealedFile>) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // Held to the end: whoever is about to need one waits, and puts it there again.
        let state = self.state();
        if state.changes != mark.0 || state.open > 0 {
            return;
        }
        memory::remove_unfinished(&self.folder);
        for folder in [&self.folder, &self.kept] {
            for file in names(folder).filter(|file| !used.contains(file)) {
                match std::fs::remove_file(folder.join(file.to_string())) {
                    Ok(()) => tracing::debug!(file = %file.field(), "no container has it any more: removed"),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => tracing::warn!(file = %file.field(), %error, "a file that no container has could not be removed"),
                }
            }
        }
    }

    /// The value in the file `kept`.
    fn kept_value(&self, kept: &Path, file: &SealedFile) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let sealed = files::read_limited(kept, SEALED_FILE_MAX).map_err(|source| VaultError::File { path: kept.to_owned(), source })?;
        let sealed = String::from_utf8(sealed.ok_or_else(|| VaultError::Unknown(word(file)))?);
        self.opened(&sealed.map_err(|_| VaultError::Closed(word(file)))?, &word(file))
    }

    fn opened(&self, sealed: &str, what: &str) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let closed = || VaultError::Closed(what.to_owned());
        let sealed = STANDARD.decode(sealed).map_err(|_| closed())?;
        age::decrypt(&self.identity, &sealed).map(Zeroizing::new).map_err(|_| closed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the agent with the state folder `state` keeps a file for a container.
#[must_use]
pub fn keeps_any(state: &Path) -> bool {
    names(&state.join(KEPT)).next().is_some()
}

/// Several agents may have one folder: each keeps to its own.
fn folder_of(secrets_dir: &Path, host: &HostId) -> PathBuf {
    secrets_dir.join(host.as_str())
}

fn word(file: &SealedFile) -> String {
    format!("{} `{}`", file.kind.word(), file.name)
}

/// The files of ours in `folder`; others are nobody's business.
fn names(folder: &Path) -> impl Iterator<Item = SealedFile> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
