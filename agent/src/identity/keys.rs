//! The host's long-lived keys: made at the first join, kept for the life of the machine.

use bech32::{Bech32, Hrp};
use moorline_common::enrol::HostClaim;
use moorline_common::id::{HostEpoch, HostId, HostName};
use moorline_common::sign::PrivateKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::{IdentityError, StateDir};

const IDENTITY: &str = "identity.json";
/// How age names an X25519 secret key.
const SECRET_KEY: &str = "age-secret-key-";

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
    pub host_key: PrivateKey,
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

    /// The X25519 key as age takes it, to open what is sealed to this host.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`], never in practice: every key has such a form.
    pub fn sealing_identity(&self) -> Result<age::x25519::Identity, IdentityError> {
        let secret = Zeroizing::new(self.sealing_secret.to_bytes());
        let name = Hrp::parse(SECRET_KEY).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        let text = bech32::encode_upper::<Bech32>(name, secret.as_slice()).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        Zeroizing::new(text).parse().map_err(|e: &str| IdentityError::Crypto(e.to_owned()))
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
        Ok(Self { host_key: PrivateKey::from_seed(&seed), sealing_secret: x25519_dalek::StaticSecret::from(*secret), epoch })
    }

    pub(crate) fn fresh_epoch() -> Result<HostEpoch, IdentityError> {
        let mut epoch = [0u8; 16];
        getrandom::fill(&mut epoch).map_err(|e| IdentityError::Crypto(e.to_string()))?;
        HostEpoch::parse(hex::encode(epoch)).map_err(|e| IdentityError::Crypto(e.to_string()))
    }
}

impl StateDir {
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
            host_key: PrivateKey::from_seed(&seed),
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

    pub(super) fn store_keys(&self, keys: &HostKeys) -> Result<(), IdentityError> {
        let stored = StoredKeys {
            host_seed: hex::encode(keys.host_key.seed().as_slice()),
            sealing_secret: hex::encode(Zeroizing::new(keys.sealing_secret.to_bytes()).as_slice()),
            host_epoch: keys.epoch.clone(),
        };
        self.write(IDENTITY, &stored)
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
        let to = Hrp::parse("age").unwrap();
        let recipient = bech32::encode::<Bech32>(to, &first.sealing_key()).unwrap();
        assert_eq!(
            second.sealing_identity().unwrap().to_public().to_string(),
            recipient,
            "what is sealed to the one is opened by the other"
        );
        assert_eq!(first.epoch, second.epoch);
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
