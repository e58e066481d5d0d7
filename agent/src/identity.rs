//! Who this host is, on disk: its keys, what it joined, its transport certificate, and the lock that
//! lets only one agent use them.
//!
//! Every file is private and replaced in one step. Keys are stored before they are used for the first
//! time, so that a lost reply can be asked for again with the same ones.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use moorline_common::enrol::{HostClaim, JoinToken};
use moorline_common::id::{ClusterId, HostEpoch, HostId, HostName};
use moorline_common::sign::OperatorKey;
use moorline_proto::transport::ClientIdentity;
use nix::fcntl::{Flock, FlockArg};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::files;
use crate::limits::{CONFIG_MAX, HUBS_MAX};

const LOCK: &str = "lock";
const IDENTITY: &str = "identity.json";
const ENROLMENT: &str = "enrolment.json";
const TRANSPORT: &str = "transport.json";
const TRANSPORT_NEXT: &str = "transport.next.json";
const QUARANTINE: &str = "quarantine.json";
const LEDGER_MARK: &str = "ledger.id.json";

/// Why the identity can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another agent runs on this state folder.
    #[error("another moorline-agent uses {path}; stop it first", path = .0.display())]
    Locked(PathBuf),
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKeys {
    host_seed: String,
    sealing_secret: String,
    host_epoch: HostEpoch,
}

impl Drop for StoredKeys {
    fn drop(&mut self) {
        self.host_seed.zeroize();
        self.sealing_secret.zeroize();
    }
}

/// The host's long-lived keys. Has no `Debug`.
pub struct HostKeys {
    /// The ed25519 host key.
    pub host_key: OperatorKey,
    sealing_secret: x25519_dalek::StaticSecret,
    /// This life of the host.
    pub epoch: HostEpoch,
}

impl HostKeys {
    /// The id that the host key gives.
    #[must_use]
    pub fn host_id(&self) -> HostId {
        HostId::of_key(&self.host_key.public())
    }

    /// The X25519 public key.
    #[must_use]
    pub fn sealing_key(&self) -> [u8; 32] {
        x25519_dalek::PublicKey::from(&self.sealing_secret).to_bytes()
    }

    /// What the host says about itself.
    #[must_use]
    pub fn claim(&self, name: HostName) -> HostClaim {
        HostClaim { host_key: self.host_key.public(), sealing_key: self.sealing_key(), host_epoch: self.epoch.clone(), name }
    }

    fn generate() -> Result<Self, IdentityError> {
        let mut seed = Zeroizing::new([0u8; 32]);
        let mut secret = Zeroizing::new([0u8; 32]);
        for bytes in [seed.as_mut_slice(), secret.as_mut_slice()] {
            getrandom::fill(bytes).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        }
        let epoch = Self::fresh_epoch()?;
        Ok(Self { host_key: OperatorKey::from_seed(&seed), sealing_secret: x25519_dalek::StaticSecret::from(*secret), epoch })
    }

    pub(crate) fn fresh_epoch() -> Result<HostEpoch, IdentityError> {
        let mut epoch = [0u8; 16];
        getrandom::fill(&mut epoch).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        HostEpoch::parse(hex::encode(epoch)).map_err(|e| IdentityError::Crypto(e.to_string()))
    }
}

/// A transport certificate with its key. Has no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// Counts this host's certificates; 0 before the first.
    pub serial: u64,
    /// The certificate, then its CA, as hex DER; empty before the join was answered.
    pub chain: Vec<String>,
    /// The private key, PKCS#8 PEM.
    key_pem: String,
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.key_pem.zeroize();
    }
}

impl Transport {
    /// A fresh P-256 key without a certificate.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        Ok(Self { serial: 0, chain: Vec::new(), key_pem: key.serialize_pem() })
    }

    fn key(&self) -> Result<KeyPair, IdentityError> {
        KeyPair::from_pem(&self.key_pem).map_err(|e| IdentityError::Crypto(e.to_string()))
    }

    /// A PKCS#10 request for the key, in DER. It names nothing: the hub takes only the key from it.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn csr_der(&self) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateParams::default().serialize_request(&self.key()?);
        Ok(request.map_err(|e| IdentityError::Crypto(e.to_string()))?.der().to_vec())
    }

    /// This key with the certificate that the hub gave for it.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the certificate is for another key or unreadable.
    pub fn with_certificate(&self, chain: &[Vec<u8>], serial: u64) -> Result<Self, IdentityError> {
        let leaf = chain.first().ok_or_else(|| IdentityError::Crypto("the hub sent no certificate".to_owned()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != self.key()?.public_key_raw() {
            return Err(IdentityError::Crypto("the hub's certificate is for another key".to_owned()));
        }
        Ok(Self { serial, chain: chain.iter().map(hex::encode).collect(), key_pem: self.key_pem.clone() })
    }

    /// The certificates in DER, leaf first.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when the stored text is no hex.
    pub fn chain_der(&self) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
        let decode = |text: &String| hex::decode(text).map(CertificateDer::from).map_err(|e| IdentityError::Crypto(e.to_string()));
        self.chain.iter().map(decode).collect()
    }

    /// What TLS needs.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn client_identity(&self) -> Result<ClientIdentity, IdentityError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key()?.serialize_der()));
        Ok(ClientIdentity { chain: self.chain_der()?, key })
    }

    /// From when until when the certificate is valid, in Unix seconds.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`] when there is none.
    pub fn validity(&self) -> Result<(u64, u64), IdentityError> {
        let chain = self.chain_der()?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Crypto("there is no certificate yet".to_owned()))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        let seconds = |t: x509_parser::time::ASN1Time| u64::try_from(t.timestamp()).unwrap_or(0);
        Ok((seconds(parsed.validity().not_before), seconds(parsed.validity().not_after)))
    }
}

impl StateDir {
    /// Makes the folder if needed, private.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn ensure(&self) -> Result<(), IdentityError> {
        files::ensure_private_dir(&self.0).map_err(|source| IdentityError::File { path: self.0.clone(), source })
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

    /// The host's keys; `None` before the first `join`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn keys(&self) -> Result<Option<HostKeys>, IdentityError> {
        let Some(stored) = self.read::<StoredKeys>(IDENTITY)? else { return Ok(None) };
        let damaged = || IdentityError::Damaged { path: self.0.join(IDENTITY), reason: "a key is not 64 hex digits".to_owned() };
        let mut seed = Zeroizing::new([0u8; 32]);
        let mut secret = Zeroizing::new([0u8; 32]);
        hex::decode_to_slice(&stored.host_seed, seed.as_mut_slice()).map_err(|_| damaged())?;
        hex::decode_to_slice(&stored.sealing_secret, secret.as_mut_slice()).map_err(|_| damaged())?;
        Ok(Some(HostKeys {
            host_key: OperatorKey::from_seed(&seed),
            sealing_secret: x25519_dalek::StaticSecret::from(*secret),
            epoch: stored.host_epoch.clone(),
        }))
    }

    /// The host's keys, made and stored if there are none.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn ensure_keys(&self) -> Result<HostKeys, IdentityError> {
        if let Some(keys) = self.keys()? {
            return Ok(keys);
        }
        let keys = HostKeys::generate()?;
        self.store_keys(&keys)?;
        Ok(keys)
    }

    fn store_keys(&self, keys: &HostKeys) -> Result<(), IdentityError> {
        let stored = StoredKeys {
            host_seed: hex::encode(keys.host_key.seed().as_slice()),
            sealing_secret: hex::encode(Zeroizing::new(keys.sealing_secret.to_bytes()).as_slice()),
            host_epoch: keys.epoch.clone(),
        };
        self.write(IDENTITY, &stored)
    }

    /// Begins a new life of the host: its statements so far no longer name it. Done once for each quarantine; an
    /// operator ends it by binding the new epoch.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn enter_quarantine(&self, keys: &mut HostKeys, reason: &str) -> Result<(), IdentityError> {
        if self.quarantine()?.is_some() {
            return Ok(());
        }
        keys.epoch = HostKeys::fresh_epoch()?;
        self.store_keys(keys)?;
        // Written last: a crash in between only leads to yet another epoch.
        self.write(QUARANTINE, &Quarantine { epoch: keys.epoch.clone(), reason: reason.to_owned() })
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

    /// Gives the ledger's files other names, ending in `at`, so that a new one can be made.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_ledger_aside(&self, at: u64) -> Result<(), IdentityError> {
        for suffix in ["", "-wal", "-shm"] {
            let path = self.0.join(format!("{}{suffix}", crate::db::FILE_NAME));
            let aside = self.0.join(format!("ledger.damaged-{at}.sqlite{suffix}"));
            match std::fs::rename(&path, aside) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(IdentityError::File { path, source }),
                Err(_) | Ok(()) => {}
            }
        }
        files::sync_dir(&self.0).map_err(|source| IdentityError::File { path: self.0.clone(), source })
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

    /// The transport certificate in use.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn transport(&self) -> Result<Option<Transport>, IdentityError> {
        self.read(TRANSPORT)
    }

    /// Stores the transport certificate in use.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_transport(&self, transport: &Transport) -> Result<(), IdentityError> {
        self.write(TRANSPORT, transport)
    }

    /// A renewed certificate that has not been used yet.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn next_transport(&self) -> Result<Option<Transport>, IdentityError> {
        self.read(TRANSPORT_NEXT)
    }

    /// Stores a renewed certificate (or, before that, its key) beside the one in use.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn put_next_transport(&self, transport: &Transport) -> Result<(), IdentityError> {
        self.write(TRANSPORT_NEXT, transport)
    }

    /// Puts the renewed certificate in the place of the old one.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn promote_transport(&self) -> Result<(), IdentityError> {
        let path = self.0.join(TRANSPORT_NEXT);
        let renamed = std::fs::rename(&path, self.0.join(TRANSPORT)).and_then(|()| files::sync_dir(&self.0));
        renamed.map_err(|source| IdentityError::File { path, source })
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
    fn keys_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        assert!(state.keys().unwrap().is_none());
        let first = state.ensure_keys().unwrap();
        let second = state.ensure_keys().unwrap();
        assert_eq!(first.host_id(), second.host_id());
        assert_eq!(first.sealing_key(), second.sealing_key());
        assert_eq!(first.epoch, second.epoch);
    }

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
    fn a_certificate_for_another_key_is_refused() {
        let mine = Transport::generate().unwrap();
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let theirs = CertificateParams::default().self_signed(&other).unwrap();
        assert!(mine.with_certificate(&[theirs.der().to_vec()], 1).is_err());
        let own = CertificateParams::default().self_signed(&mine.key().unwrap()).unwrap();
        let with = mine.with_certificate(&[own.der().to_vec()], 1).unwrap();
        assert!(with.client_identity().is_ok() && with.validity().is_ok());
    }

    #[test]
    fn a_damaged_identity_is_told_without_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        std::fs::write(dir.path().join(IDENTITY), "{\"host_seed\": \"topsecret\"").unwrap();
        let Err(error) = state.keys() else { panic!("read a damaged file") };
        assert!(!error.to_string().contains("topsecret"), "{error}");
    }
}
