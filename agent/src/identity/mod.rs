//! Who this host is, on disk: its keys, what it joined, its transport certificate, and the lock that
//! lets only one agent use them.
//!
//! Every file is private and replaced in one step. Keys are stored before they are used for the first
//! time, so that a lost reply can be asked for again with the same ones.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use moorline_common::enrol::JoinToken;
use moorline_common::id::{ClusterId, HostEpoch, HostName, UnixSeconds};
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{Uid, User, geteuid};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files;
use crate::limits::{CONFIG_MAX, HUBS_MAX};

mod keys;
mod transport;

pub use keys::HostKeys;
pub use transport::Transport;

const LOCK: &str = "lock";
const ENROLMENT: &str = "enrolment.json";
const QUARANTINE: &str = "quarantine.json";
const LEDGER_MARK: &str = "ledger.id.json";
const JOURNAL_MARK: &str = "journal.id.json";

/// Why the identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another agent runs on this state folder.
    #[error("another moorline-agent uses {path}; stop it first", path = .0.display())]
    Locked(PathBuf),
    /// The state folder belongs to another user: files of ours in it would be closed to its agent.
    #[error("{path} belongs to user `{owner}`; run this as that user: `runuser -u {owner} -- moorline-agent …`", path = path.display())]
    NotOwner {
        /// The folder.
        path: PathBuf,
        /// Its owner's name, or number.
        owner: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{path} is damaged: {reason}; restore the state folder, or remove it and join anew", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The host has not joined.
    #[error("this host has not joined a cluster; run `moorline-agent join -` and paste the token that `moorctl host add` printed")]
    NotJoined,
    /// A key or certificate could not be made.
    #[error("no key or certificate request could be made: {0}")]
    Crypto(String),
}

/// Holds the state folder for this process; released when dropped, also by a crash.
pub struct Lock {
    _file: Flock<File>,
}

/// The state folder.
#[derive(Debug, Clone)]
pub struct StateDir(pub PathBuf);

/// What was joined; stored before the join is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The cluster.
    pub cluster: ClusterId,
    /// The host's name.
    pub name: HostName,
    /// Hub addresses, in order of preference.
    pub hubs: Vec<String>,
    /// Lowercase hex SHA-256 of the hub CA's SubjectPublicKeyInfo.
    pub ca_spki: String,
    /// The pin of root version 1.
    pub root_pin: String,
    /// The public id of the token that was used.
    pub token_id: String,
    /// Whether the hub has answered with a certificate.
    pub joined: bool,
}

impl Enrolment {
    /// What `token` says, not joined yet.
    #[must_use]
    pub fn of_token(token: &JoinToken) -> Self {
        Self {
            cluster: token.cluster.clone(),
            name: token.name.clone(),
            hubs: token.hubs.iter().take(HUBS_MAX).cloned().collect(),
            ca_spki: token.ca_spki.clone(),
            root_pin: token.root_pin.clone(),
            token_id: token.id.clone(),
            joined: false,
        }
    }
}

/// Why nothing may be changed on this host, and which life of it an operator must bind to end that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// The epoch that began with it.
    pub epoch: HostEpoch,
    /// What was damaged.
    pub reason: String,
}

impl StateDir {
    /// Makes the folder if needed, private. One that is there must be this user's: root may write anywhere, and would leave
    /// files that the agent cannot read.
    ///
    /// # Errors
    /// [`IdentityError::NotOwner`], [`IdentityError::File`].
    pub fn ensure(&self) -> Result<(), IdentityError> {
        let failed = |source| IdentityError::File { path: self.0.clone(), source };
        match std::fs::metadata(&self.0) {
            Ok(folder) => self.check_owner(Uid::from_raw(folder.uid()), geteuid())?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(e)),
        }
        files::ensure_private_dir(&self.0).map_err(failed)
    }

    fn check_owner(&self, owner: Uid, own: Uid) -> Result<(), IdentityError> {
        if owner == own {
            return Ok(());
        }
        let name = User::from_uid(owner).ok().flatten().map_or_else(|| owner.to_string(), |user| user.name);
        Err(IdentityError::NotOwner { path: self.0.clone(), owner: name })
    }

    /// Takes the folder for this process.
    ///
    /// # Errors
    /// [`IdentityError::Locked`] when another process has it.
    pub fn lock(&self) -> Result<Lock, IdentityError> {
        let path = self.0.join(LOCK);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|source| IdentityError::File { path: path.clone(), source })?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Lock { _file: file }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(IdentityError::Locked(self.0.clone())),
            Err((_, errno)) => Err(IdentityError::File { path, source: errno.into() }),
        }
    }

    /// What was joined; `None` before the first `join`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn enrolment(&self) -> Result<Option<Enrolment>, IdentityError> {
        self.read(ENROLMENT)
    }

    /// What was joined, once the hub has answered.
    ///
    /// # Errors
    /// [`IdentityError::NotJoined`] and others.
    pub fn joined(&self) -> Result<Enrolment, IdentityError> {
        self.enrolment()?.filter(|e| e.joined).ok_or(IdentityError::NotJoined)
    }

    /// Stores what is joined.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_enrolment(&self, enrolment: &Enrolment) -> Result<(), IdentityError> {
        self.write(ENROLMENT, enrolment)
    }

    /// Begins a new life of the host: its statements so far no longer name it. Done once for each quarantine; an
    /// operator ends it by binding the new epoch.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn enter_quarantine(&self, keys: &mut HostKeys, reason: &str) -> Result<(), IdentityError> {
        if self.quarantine()?.is_none() {
            // Written first: in the new life the records no longer show what was wrong with them.
            self.write(QUARANTINE, &Quarantine { epoch: HostKeys::fresh_epoch()?, reason: reason.to_owned() })?;
        }
        self.live_on(keys)
    }

    /// Goes on with the life that a quarantine began, which a crash may have kept from the keys.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn live_on(&self, keys: &mut HostKeys) -> Result<(), IdentityError> {
        match self.quarantine()? {
            Some(Quarantine { epoch, .. }) if epoch != keys.epoch => {
                keys.epoch = epoch;
                self.store_keys(keys)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The id of the ledger that was made for this host; `None` before the first run.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn ledger_mark(&self) -> Result<Option<String>, IdentityError> {
        self.read(LEDGER_MARK)
    }

    /// Stores the id of the ledger that was made for this host.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_ledger_mark(&self, id: &str) -> Result<(), IdentityError> {
        self.write(LEDGER_MARK, &id)
    }

    /// The life of the host in which its journal was begun; `None` before there was one.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn journal_mark(&self) -> Result<Option<HostEpoch>, IdentityError> {
        self.read(JOURNAL_MARK)
    }

    /// Stores the life of the host in which its journal was begun.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_journal_mark(&self, epoch: &HostEpoch) -> Result<(), IdentityError> {
        self.write(JOURNAL_MARK, epoch)
    }

    /// Gives the ledger's files other names, which tell the time `at`, so that a new one can be made.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_ledger_aside(&self, at: UnixSeconds) -> Result<(), IdentityError> {
        const SUFFIXES: [&str; 4] = ["", "-journal", "-wal", "-shm"];
        let names = |at: UnixSeconds| SUFFIXES.map(|suffix| format!("ledger.damaged-{}.sqlite{suffix}", at.0));
        for (suffix, aside) in SUFFIXES.into_iter().zip(self.free_names(at, names)?) {
            let path = self.0.join(format!("{}{suffix}", crate::db::FILE_NAME));
            match std::fs::rename(&path, aside) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(IdentityError::File { path, source }),
                Err(_) | Ok(()) => {}
            }
        }
        files::sync_dir(&self.0).map_err(|source| IdentityError::File { path: self.0.clone(), source })
    }

    /// The paths in this folder that `names` gives for `at`, or for the first second after it for which nothing bears any of
    /// them: a clock that stands at its beginning tells the same second again, and what was put aside before stays.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn free_names<const N: usize>(
        &self,
        mut at: UnixSeconds,
        names: impl Fn(UnixSeconds) -> [String; N],
    ) -> Result<[PathBuf; N], IdentityError> {
        'taken: loop {
            let paths = names(at).map(|name| self.0.join(name));
            for path in &paths {
                match std::fs::symlink_metadata(path) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(IdentityError::File { path: path.clone(), source }),
                    Ok(_) => {
                        at = at.plus(1);
                        continue 'taken;
                    }
                }
            }
            return Ok(paths);
        }
    }

    /// The quarantine that this host is in, if it is.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn quarantine(&self) -> Result<Option<Quarantine>, IdentityError> {
        self.read(QUARANTINE)
    }

    /// Ends the quarantine.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn leave_quarantine(&self) -> Result<(), IdentityError> {
        let path = self.0.join(QUARANTINE);
        match std::fs::remove_file(&path).and_then(|()| files::sync_dir(&self.0)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(IdentityError::File { path, source }),
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, IdentityError> {
        let path = self.0.join(name);
        let bytes = files::read_limited(&path, CONFIG_MAX).map_err(|source| IdentityError::File { path: path.clone(), source })?;
        let Some(bytes) = bytes.map(Zeroizing::new) else { return Ok(None) };
        // serde's words may quote the content: only the place is told.
        let damaged = |e: serde_json::Error| IdentityError::Damaged { path, reason: format!("line {} column {}", e.line(), e.column()) };
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), IdentityError> {
        let path = self.0.join(name);
        let bytes = serde_json::to_vec_pretty(value).map(Zeroizing::new).map_err(io::Error::other);
        bytes.and_then(|bytes| files::write_private(&path, &bytes)).map_err(|source| IdentityError::File { path, source })
    }
}

/// The path of a folder or file inside the state folder.
impl AsRef<Path> for StateDir {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_on_the_same_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        let held = state.lock().unwrap();
        assert!(matches!(state.lock(), Err(IdentityError::Locked(_))));
        drop(held);
        assert!(state.lock().is_ok());
    }

    #[test]
    fn a_quarantine_that_was_cut_off_goes_on_with_the_life_that_it_began() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        state.ensure().unwrap();
        let mut keys = state.ensure_keys().unwrap();
        let before = keys.epoch.clone();
        let quarantine = Quarantine { epoch: HostKeys::fresh_epoch().unwrap(), reason: "it was lost".to_owned() };
        state.write(QUARANTINE, &quarantine).unwrap();
        state.live_on(&mut keys).unwrap();
        assert_ne!(before, quarantine.epoch);
        assert_eq!((&keys.epoch, &state.keys().unwrap().unwrap().epoch), (&quarantine.epoch, &quarantine.epoch));
        state.enter_quarantine(&mut keys, "another reason").unwrap();
        assert_eq!((state.quarantine().unwrap().unwrap(), &keys.epoch), (quarantine.clone(), &quarantine.epoch), "once for each");
    }

    #[test]
    fn what_was_put_aside_before_stays_when_the_clock_tells_the_same_second_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        // The second time there is a file of SQLite's alone, then one without it.
        let times: [&[(&str, &str)]; 3] = [
            &[("ledger.sqlite", "first"), ("ledger.sqlite-journal", "its journal")],
            &[("ledger.sqlite-journal", "an orphan")],
            &[("ledger.sqlite", "third")],
        ];
        for files in times {
            files.iter().for_each(|(name, text)| put(name, text));
            state.put_ledger_aside(UnixSeconds(7)).unwrap();
        }
        let mut found: Vec<(String, String)> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap()))
            .collect();
        found.sort_unstable();
        let expected = [
            ("ledger.damaged-7.sqlite", "first"),
            ("ledger.damaged-7.sqlite-journal", "its journal"),
            ("ledger.damaged-8.sqlite-journal", "an orphan"),
            ("ledger.damaged-9.sqlite", "third"),
        ];
        assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn whoever_does_not_own_the_folder_is_told_who_does() {
        let state = StateDir("/state".into());
        let (root, other) = (Uid::from_raw(0), Uid::from_raw(4_000_000));
        assert!(state.check_owner(other, other).is_ok());
        let said = |owner, own| state.check_owner(owner, own).unwrap_err().to_string();
        assert!(said(other, root).contains("runuser -u 4000000 -- moorline-agent"), "{}", said(other, root));
        assert!(said(root, other).contains("`root`"));
    }
}
