//! Join tokens: what an operator hands to a new host, and the two keys inside.
//!
//! One derived key authenticates the join to the hub, which keeps only its hash. The other makes a
//! MAC over the new host's keys that only the operator can check, so no hub can pass off a host
//! of its own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::canonical::from_strict_json;
use crate::id::{ClusterId, HostEpoch, HostName, UnixSeconds, sha256_hex};

const PREFIX: &str = "moor1.";
const TOKEN_MAX: usize = 4096;

/// What a host signs with its host key when it joins with this certificate request.
#[must_use]
pub fn join_message(csr_der: &[u8]) -> Vec<u8> {
    [b"moorline join v1\0".as_slice(), csr_der].concat()
}

/// What a host signs with its host key when it asks, by the certificate of this serial, for the next one.
#[must_use]
pub fn renew_message(certificate_serial: u64, csr_der: &[u8]) -> Vec<u8> {
    [b"moorline renew v1\0".as_slice(), &certificate_serial.to_be_bytes(), csr_der].concat()
}

/// A text that is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token; copy the whole line that `moorctl host add` printed, from `moor1.` on")]
pub struct BadToken;

/// The inside of a join token. Has no `Debug`: it carries a secret.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// The public id by which the hub finds its row: 32 lowercase hex digits.
    pub id: String,
    /// The cluster to join.
    pub cluster: ClusterId,
    /// The name that the host will have.
    pub name: HostName,
    /// Hub addresses to dial, `host:port`, in order of preference.
    pub hubs: Vec<String>,
    /// Lowercase hex SHA-256 of the hub CA's SubjectPublicKeyInfo.
    pub ca_spki: String,
    /// [`crate::trust::TrustRoot::pin`] of root version 1.
    pub root_pin: String,
    /// When the hub stops honouring it.
    pub expires: UnixSeconds,
    /// 32 random bytes, in hex.
    secret: Secret,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
struct Secret(#[serde(with = "crate::statement::hex_key")] [u8; 32]);

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// What a [`JoinToken`] is made of, besides its secret.
#[derive(Debug, Clone)]
pub struct TokenParts {
    /// See [`JoinToken::id`].
    pub id: String,
    /// See [`JoinToken::cluster`].
    pub cluster: ClusterId,
    /// See [`JoinToken::name`].
    pub name: HostName,
    /// See [`JoinToken::hubs`].
    pub hubs: Vec<String>,
    /// See [`JoinToken::ca_spki`].
    pub ca_spki: String,
    /// See [`JoinToken::root_pin`].
    pub root_pin: String,
    /// See [`JoinToken::expires`].
    pub expires: UnixSeconds,
}

impl JoinToken {
    /// A token around 32 fresh random bytes.
    #[must_use]
    pub fn new(parts: TokenParts, secret: [u8; 32]) -> Self {
        let TokenParts { id, cluster, name, hubs, ca_spki, root_pin, expires } = parts;
        Self { id, cluster, name, hubs, ca_spki, root_pin, expires, secret: Secret(secret) }
    }

    /// The line to hand to the new host.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        // A struct of strings and integers always serialises.
        let json = Zeroizing::new(serde_json::to_vec(self).unwrap_or_default());
        Zeroizing::new(format!("{PREFIX}{}", BASE64URL.encode(&*json)))
    }

    /// Reads such a line; surrounding white space is ignored.
    ///
    /// # Errors
    /// [`BadToken`], without saying which part is wrong.
    pub fn decode(text: &str) -> Result<Self, BadToken> {
        let text = text.trim();
        if text.len() > TOKEN_MAX {
            return Err(BadToken);
        }
        let body = text.strip_prefix(PREFIX).ok_or(BadToken)?;
        let json = Zeroizing::new(BASE64URL.decode(body).map_err(|_| BadToken)?);
        from_strict_json(&json).map_err(|_| BadToken)
    }

    fn derive(&self, info: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        // 32 bytes is a valid HKDF-SHA-256 output length.
        let _ = Hkdf::<Sha256>::new(Some(self.id.as_bytes()), &self.secret.0).expand(info, key.as_mut());
        key
    }

    /// What the agent shows to the hub, once.
    #[must_use]
    pub fn join_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"moorline join v1")
    }

    /// What the hub keeps of [`Self::join_key`]: lowercase hex of its SHA-256.
    #[must_use]
    pub fn join_key_hash(&self) -> String {
        sha256_hex(&*self.join_key())
    }

    /// The key that stays between the operator and the host.
    #[must_use]
    pub fn mac_key(&self) -> Zeroizing<[u8; 32]> {
        self.derive(b"moorline host mac v1")
    }
}

/// What a new host says about itself, under a MAC that only the operator can check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostClaim {
    /// Its ed25519 public key.
    pub host_key: [u8; 32],
    /// Its X25519 public key.
    pub sealing_key: [u8; 32],
    /// Its epoch.
    pub host_epoch: HostEpoch,
    /// The name in its token.
    pub name: HostName,
}

impl HostClaim {
    fn hmac(&self, mac_key: &[u8; 32]) -> Hmac<Sha256> {
        // RFC 2104: a key shorter than the block is padded with zeros.
        let mut block = Zeroizing::new([0; 64]);
        block.iter_mut().zip(mac_key).for_each(|(b, k)| *b = *k);
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&(*block).into());
        mac.update(b"moorline host claim v1\0");
        mac.update(&self.host_key);
        mac.update(&self.sealing_key);
        mac.update(self.host_epoch.as_str().as_bytes());
        mac.update(b"\0");
        mac.update(self.name.as_str().as_bytes());
        mac
    }

    /// The MAC over this claim.
    #[must_use]
    pub fn mac(&self, mac_key: &[u8; 32]) -> [u8; 32] {
        self.hmac(mac_key).finalize().into_bytes().into()
    }

    /// Whether `mac` is the MAC over this claim, in constant time.
    #[must_use]
    pub fn mac_is_valid(&self, mac_key: &[u8; 32], mac: &[u8]) -> bool {
        self.hmac(mac_key).verify_slice(mac).is_ok()
    }

    /// A fingerprint of both keys, for comparing by eye: 8 groups of 4 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let digest = sha256_hex(&[self.host_key.as_slice(), self.sealing_key.as_slice()].concat());
        let mut groups: Vec<&str> = Vec::new();
        for start in (0..32).step_by(4) {
            groups.extend(digest.get(start..start + 4));
        }
        groups.join("-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken::new(
            TokenParts {
                id: "0f".repeat(16),
                cluster: ClusterId::parse("c").unwrap(),
                name: HostName::parse("shop-17").unwrap(),
                hubs: vec!["hub.example:7443".to_owned()],
                ca_spki: "a".repeat(64),
                root_pin: "b".repeat(64),
                expires: UnixSeconds(3600),
            },
            [42; 32],
        )
    }

    fn claim() -> HostClaim {
        HostClaim {
            host_key: [1; 32],
            sealing_key: [2; 32],
            host_epoch: HostEpoch::parse("3".repeat(32)).unwrap(),
            name: HostName::parse("shop-17").unwrap(),
        }
    }

    #[test]
    fn a_token_survives_the_way_to_the_host() {
        let line = token().encode();
        let read = JoinToken::decode(&format!("  {}\n", *line)).unwrap();
        assert_eq!((&read.id, &read.name, &read.hubs, read.expires), (&token().id, &token().name, &token().hubs, UnixSeconds(3600)));
        assert_eq!(read.join_key_hash(), token().join_key_hash());
        assert_eq!(*read.mac_key(), *token().mac_key());
    }

    #[test]
    fn damaged_tokens_all_get_one_and_the_same_answer() {
        let line = token().encode();
        let body = line.strip_prefix(PREFIX).unwrap();
        for bad in
            ["", "moor1.", "moor2.x", body, line.get(..line.len() - 4).unwrap(), &format!("{PREFIX}!{body}"), &"x".repeat(TOKEN_MAX + 1)]
        {
            assert!(JoinToken::decode(bad).is_err(), "{bad}");
        }
        let shown = JoinToken::decode("moor1.x").map(|_| ()).unwrap_err().to_string();
        assert!(shown.contains("`moor1.`") && !shown.contains("moor1.x"));
    }

    #[test]
    fn the_two_keys_differ_and_depend_on_id_and_secret() {
        let (first, other) = (token(), JoinToken { id: "00".repeat(16), ..token() });
        assert_ne!(*first.join_key(), *first.mac_key());
        assert_ne!(*first.join_key(), *other.join_key());
        assert_ne!(*first.mac_key(), *other.mac_key());
        // What the hub keeps tells nothing of the key for the MAC.
        assert_eq!(first.join_key_hash(), sha256_hex(&*first.join_key()));
    }

    #[test]
    fn the_mac_covers_every_part_of_the_claim() {
        let key = token().mac_key();
        let mac = claim().mac(&key);
        assert!(claim().mac_is_valid(&key, &mac));
        for changed in [
            HostClaim { host_key: [9; 32], ..claim() },
            HostClaim { sealing_key: [9; 32], ..claim() },
            HostClaim { host_epoch: HostEpoch::parse("4".repeat(32)).unwrap(), ..claim() },
            HostClaim { name: HostName::parse("shop-18").unwrap(), ..claim() },
        ] {
            assert!(!changed.mac_is_valid(&key, &mac), "{changed:?}");
        }
        assert!(!claim().mac_is_valid(&[0; 32], &mac));
        assert!(!claim().mac_is_valid(&key, &mac[..31]));
        assert!(!claim().mac_is_valid(&key, b""));
    }

    #[test]
    fn fingerprints_can_be_compared_by_eye() {
        let print = claim().fingerprint();
        assert_eq!(print.len(), 39);
        assert_eq!(print.split('-').count(), 8);
        assert_ne!(print, HostClaim { sealing_key: [9; 32], ..claim() }.fingerprint());
    }

    /// Resolved by the compiler: were there a `Debug`, this would not compile for being ambiguous.
    #[test]
    fn a_token_cannot_be_printed() {
        trait NotDebug<A> {
            fn check() {}
        }
        impl<T: ?Sized> NotDebug<()> for T {}
        struct HasDebug;
        impl<T: ?Sized + std::fmt::Debug> NotDebug<HasDebug> for T {}
        <JoinToken as NotDebug<_>>::check();
    }
}
