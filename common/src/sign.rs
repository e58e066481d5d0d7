//! DSSE envelopes over ed25519: sign exact bytes, verify first, parse after.
//!
//! A [`Signed<T>`] is what arrives; only [`crate::trust`] (or a host's own key, see
//! [`Signed::verify_by_host`]) turns it into a [`Verified<T>`], and only that reaches code that acts.
//! Source: <https://github.com/secure-systems-lab/dsse/blob/master/protocol.md>.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::canonical::{from_strict_json, to_canonical};
use crate::fault::{Code, Fault};
use crate::id::{KeyId, sha256_hex};

/// The largest envelope that is read, in bytes of its JSON.
pub const ENVELOPE_MAX: usize = 4 * 1024 * 1024;
/// The most public keys whose points are remembered.
const KEYS_KNOWN_MAX: usize = 1024;
/// The most signatures that an envelope may carry.
pub const SIGNATURES_MAX: usize = 16;

/// What kind of statement an envelope carries: its DSSE `payloadType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PayloadType {
    /// One host's desired state.
    Slice,
    /// The source of a whole revision, kept for history, rollback and late hosts.
    Topology,
    /// A one-shot operation.
    Op,
    /// A saga's whole plan.
    SagaPlan,
    /// An operator's word on a saga that is under way.
    SagaWord,
    /// A trust root.
    Root,
    /// An operator's word on who a host is.
    HostBinding,
    /// A host's word on how an operation ended.
    Receipt,
    /// A host's word on what it observed.
    Observed,
}

impl PayloadType {
    /// The media type in the envelope.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PayloadType::Slice => "application/vnd.moorline.slice.v1+json",
            PayloadType::Topology => "application/vnd.moorline.topology.v1+json",
            PayloadType::Op => "application/vnd.moorline.op.v1+json",
            PayloadType::SagaPlan => "application/vnd.moorline.saga-plan.v1+json",
            PayloadType::SagaWord => "application/vnd.moorline.saga-word.v1+json",
            PayloadType::Root => "application/vnd.moorline.root.v1+json",
            PayloadType::HostBinding => "application/vnd.moorline.host-binding.v1+json",
            PayloadType::Receipt => "application/vnd.moorline.receipt.v1+json",
            PayloadType::Observed => "application/vnd.moorline.observed.v1+json",
        }
    }

    /// The word used in a role's scope: `slice`, `host-binding`, …
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            PayloadType::Slice => "slice",
            PayloadType::Topology => "topology",
            PayloadType::Op => "op",
            PayloadType::SagaPlan => "saga-plan",
            PayloadType::SagaWord => "saga-word",
            PayloadType::Root => "root",
            PayloadType::HostBinding => "host-binding",
            PayloadType::Receipt => "receipt",
            PayloadType::Observed => "observed",
        }
    }
}

/// A type that can be carried, signed, by an envelope.
pub trait Statement: Serialize + DeserializeOwned {
    /// The payload type of its envelopes.
    const TYPE: PayloadType;
}

/// One signature of an [`Envelope`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Which key is said to have signed. A hint: the signature decides.
    pub keyid: KeyId,
    /// The ed25519 signature over [`pae`], in base64.
    #[serde(with = "base64_bytes")]
    pub sig: Vec<u8>,
}

/// A DSSE envelope: exact payload bytes, their type, and who signed them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Envelope {
    /// A [`PayloadType`] as text.
    pub payload_type: String,
    /// The exact signed bytes, in base64.
    #[serde(with = "base64_bytes")]
    pub payload: Vec<u8>,
    /// The signatures; order has no meaning.
    pub signatures: Vec<Signature>,
}

mod base64_bytes {
    use super::BASE64;
    use base64::Engine as _;
    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_str(Base64Visitor)
    }

    /// Decodes the text where it stands.
    struct Base64Visitor;

    impl Visitor<'_> for Base64Visitor {
        type Value = Vec<u8>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("base64")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<u8>, E> {
            BASE64.decode(text).map_err(E::custom)
        }
    }
}

/// DSSE's pre-authentication encoding: what a signature is made over.
#[must_use]
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = format!("DSSEv1 {} {} {} ", payload_type.len(), payload_type, payload.len()).into_bytes();
    out.extend_from_slice(payload);
    out
}

impl Envelope {
    /// Reads an envelope from JSON, strictly.
    ///
    /// # Errors
    /// [`Code::TooLarge`] or [`Code::BadEnvelope`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() > ENVELOPE_MAX {
            return Err(Fault::new(Code::TooLarge, format!("envelope of {} bytes; at most {ENVELOPE_MAX} are read", bytes.len())));
        }
        let envelope: Envelope =
            from_strict_json(bytes).map_err(|e| Fault::new(Code::BadEnvelope, format!("not a signed envelope: {e}")))?;
        if envelope.signatures.len() > SIGNATURES_MAX {
            return Err(Fault::new(Code::BadEnvelope, format!("more than {SIGNATURES_MAX} signatures")));
        }
        Ok(envelope)
    }

    /// The envelope as JSON bytes.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // A struct of strings always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Lowercase hex SHA-256 of the payload bytes: two statements are the same when this is.
    #[must_use]
    pub fn payload_sha256(&self) -> String {
        sha256_hex(&self.payload)
    }

    /// Which of `keys` have validly signed this envelope. A key that signs twice counts once.
    ///
    /// # Errors
    /// [`Code::BadSignature`] when a signature that names one of `keys` is not that key's over these
    /// bytes; [`Code::UnknownKey`] when no signature names one of `keys`.
    pub fn verified_signers<'k>(&self, keys: impl Fn(&KeyId) -> Option<&'k [u8; 32]>) -> Result<BTreeSet<KeyId>, Fault> {
        let message = pae(&self.payload_type, &self.payload);
        let mut signers = BTreeSet::new();
        for signature in &self.signatures {
            let Some(public) = keys(&signature.keyid) else { continue };
            verify_bytes(public, &message, &signature.sig).map_err(|()| {
                Fault::new(Code::BadSignature, format!("the signature of key {} does not match the statement", signature.keyid))
            })?;
            signers.insert(signature.keyid.clone());
        }
        if signers.is_empty() {
            return Err(Fault::new(Code::UnknownKey, "no signature is by a key of the trust root"));
        }
        Ok(signers)
    }

    /// Adds `key`'s signature over the payload, unless it has signed already.
    pub fn add_signature(&mut self, key: &PrivateKey) {
        let keyid = key.id();
        if self.signatures.iter().all(|s| s.keyid != keyid) {
            let sig = key.sign_raw(&pae(&self.payload_type, &self.payload));
            self.signatures.push(Signature { keyid, sig });
        }
    }
}

/// The point of a public key. Finding it takes a sixth of the time of a whole verification, and the keys of a cluster are few.
fn verifying_key(public: &[u8; 32]) -> Result<VerifyingKey, ()> {
    static KNOWN: Mutex<BTreeMap<[u8; 32], VerifyingKey>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(key) = known().get(public) {
        return Ok(*key);
    }
    let key = VerifyingKey::from_bytes(public).map_err(|_| ())?;
    let mut known = known();
    if known.len() >= KEYS_KNOWN_MAX {
        known.clear();
    }
    known.insert(*public, key);
    Ok(key)
}

/// Whether `signature` is `public`'s over `message`, by the strict rules of ed25519-dalek.
fn verify_bytes(public: &[u8; 32], message: &[u8], signature: &[u8]) -> Result<(), ()> {
    let key = verifying_key(public)?;
    let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| ())?;
    key.verify_strict(message, &signature).map_err(|_| ())
}

/// Whether `signature` is `public`'s over the bare bytes of `message`: for what is no statement, such as a join.
#[must_use]
pub fn verify_raw(public: &[u8; 32], message: &[u8], signature: &[u8]) -> bool {
    verify_bytes(public, message, signature).is_ok()
}

/// An ed25519 private key: an operator's, or a host's. Zeroed when dropped; has no `Debug`.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// The key of this 32-byte seed (RFC 8032).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, to be written to a private file and nowhere else.
    #[must_use]
    pub fn seed(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The id of the public half.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of_key(&self.public())
    }

    /// A raw ed25519 signature over `message`.
    #[must_use]
    pub fn sign_raw(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).to_bytes().to_vec()
    }
}

/// A statement in its envelope, not yet verified: nothing in it may be believed.
#[derive(Debug, Clone)]
pub struct Signed<T> {
    envelope: Envelope,
    kind: PhantomData<fn() -> T>,
}

impl<T: Statement> Signed<T> {
    /// Wraps an envelope whose type says that it carries a `T`.
    ///
    /// # Errors
    /// [`Code::WrongType`] when it says otherwise.
    pub fn new(envelope: Envelope) -> Result<Self, Fault> {
        if envelope.payload_type != T::TYPE.as_str() {
            return Err(Fault::new(
                Code::WrongType,
                format!("expected a {} statement, got `{}`", T::TYPE.word(), crate::fault::cut(&envelope.payload_type)),
            ));
        }
        Ok(Self { envelope, kind: PhantomData })
    }

    /// Reads an envelope from JSON and wraps it.
    ///
    /// # Errors
    /// As [`Envelope::from_json`] and [`Signed::new`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, Fault> {
        Self::new(Envelope::from_json(bytes)?)
    }

    /// Signs `statement` with `keys`, over its canonical bytes.
    ///
    /// # Errors
    /// [`Code::BadEnvelope`] when the statement has no canonical form.
    pub fn seal(statement: &T, keys: &[&PrivateKey]) -> Result<Self, Fault> {
        let payload = to_canonical(statement).map_err(|e| Fault::new(Code::BadEnvelope, e.to_string()))?;
        let mut envelope = Envelope { payload_type: T::TYPE.as_str().to_owned(), payload, signatures: Vec::new() };
        for key in keys {
            envelope.add_signature(key);
        }
        Self::new(envelope)
    }

    /// The envelope.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Reads the statement without verifying it: for showing and indexing only, never for acting.
    ///
    /// # Errors
    /// [`Code::BadEnvelope`] when the payload is not a `T`.
    pub fn peek(&self) -> Result<T, Fault> {
        from_strict_json(&self.envelope.payload)
            .map_err(|e| Fault::new(Code::BadEnvelope, format!("the {} statement is malformed: {e}", T::TYPE.word())))
    }

    /// Verifies that the holder of the host key `public` signed this.
    ///
    /// # Errors
    /// [`Code::UnknownKey`], [`Code::BadSignature`] or [`Code::BadEnvelope`].
    pub fn verify_by_host(self, public: &[u8; 32]) -> Result<Verified<T>, Fault> {
        let id = KeyId::of_key(public);
        let signers = self.envelope.verified_signers(|k| (*k == id).then_some(public))?;
        self.into_verified(signers)
    }

    /// Parses the payload after its signers were verified by the caller.
    pub(crate) fn into_verified(self, signers: BTreeSet<KeyId>) -> Result<Verified<T>, Fault> {
        let statement = self.peek()?;
        Ok(Verified { statement, signers, envelope: self.envelope })
    }
}

/// A statement whose signatures were checked. Cannot be made any other way.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    statement: T,
    signers: BTreeSet<KeyId>,
    envelope: Envelope,
}

impl<T> Verified<T> {
    /// The statement.
    #[must_use]
    pub fn statement(&self) -> &T {
        &self.statement
    }
    /// The distinct keys that signed it.
    #[must_use]
    pub fn signers(&self) -> &BTreeSet<KeyId> {
        &self.signers
    }
    /// The envelope that it came in.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
    /// The statement, by value.
    #[must_use]
    pub fn into_statement(self) -> T {
        self.statement
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Generation, HostId, UnixSeconds};
    use crate::statement::{ApplyReport, ObservedReport};
    use crate::testing::{code, key};

    #[test]
    fn a_signature_by_no_key_at_all_is_none() {
        // By the neutral element every message is signed, if it is let through.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let signature = [neutral, [0; 32]].concat();
        assert!(!verify_raw(&neutral, b"anything", &signature));
        assert!(!verify_raw(&key(1).public(), b"anything", &signature));
    }

    fn report() -> ObservedReport {
        ObservedReport {
            host_id: HostId::of_key(&key(1).public()),
            taken_at: UnixSeconds(7),
            observed: crate::observe::Observed::default(),
            apply: ApplyReport { generation: Generation(3), ..ApplyReport::default() },
        }
    }

    fn sealed() -> Signed<ObservedReport> {
        Signed::seal(&report(), &[&key(1)]).unwrap()
    }

    #[test]
    fn what_a_host_signs_is_read_back_by_its_key_only() {
        let bytes = sealed().envelope().to_json();
        let read = Signed::<ObservedReport>::from_json(&bytes).unwrap();
        let verified = read.clone().verify_by_host(&key(1).public()).unwrap();
        assert_eq!(verified.statement(), &report());
        assert_eq!(verified.signers().iter().collect::<Vec<_>>(), [&key(1).id()]);
        assert_eq!(code(read.verify_by_host(&key(2).public())), Code::UnknownKey);
    }

    #[test]
    fn one_changed_byte_anywhere_is_refused() {
        let good = sealed().envelope().clone();
        for at in 0..good.payload.len() {
            let mut bad = good.clone();
            bad.payload[at] ^= 1;
            assert_eq!(code(Signed::<ObservedReport>::new(bad).unwrap().verify_by_host(&key(1).public())), Code::BadSignature, "byte {at}");
        }
        for at in 0..64 {
            let mut bad = good.clone();
            bad.signatures[0].sig[at] ^= 1;
            assert_eq!(code(Signed::<ObservedReport>::new(bad).unwrap().verify_by_host(&key(1).public())), Code::BadSignature);
        }
        let mut short = good;
        short.signatures[0].sig.pop();
        assert_eq!(code(Signed::<ObservedReport>::new(short).unwrap().verify_by_host(&key(1).public())), Code::BadSignature);
    }

    #[test]
    fn another_type_is_refused_even_with_the_same_payload() {
        let mut envelope = sealed().envelope().clone();
        envelope.payload_type = PayloadType::Slice.as_str().to_owned();
        assert_eq!(code(Signed::<ObservedReport>::new(envelope.clone())), Code::WrongType);
        // Named as the right type again, the signature over the other one doesn't count.
        let signature = key(1).sign_raw(&pae(&envelope.payload_type, &envelope.payload));
        envelope.signatures[0].sig = signature;
        envelope.payload_type = PayloadType::Observed.as_str().to_owned();
        assert_eq!(code(Signed::<ObservedReport>::new(envelope).unwrap().verify_by_host(&key(1).public())), Code::BadSignature);
    }

    #[test]
    fn a_signature_under_another_keys_name_is_refused() {
        let mut envelope = sealed().envelope().clone();
        envelope.signatures[0].keyid = key(2).id();
        assert_eq!(code(Signed::<ObservedReport>::new(envelope).unwrap().verify_by_host(&key(2).public())), Code::BadSignature);
    }

    #[test]
    fn a_key_that_signs_twice_counts_once() {
        let mut envelope = sealed().envelope().clone();
        envelope.add_signature(&key(1));
        assert_eq!(envelope.signatures.len(), 1);
        envelope.signatures.push(envelope.signatures[0].clone());
        let public = key(1).public();
        assert_eq!(envelope.verified_signers(|_| Some(&public)).unwrap().len(), 1);
    }

    #[test]
    fn a_payload_with_duplicate_or_unknown_keys_is_refused_although_it_is_signed() {
        let good = String::from_utf8(sealed().envelope().payload.clone()).unwrap();
        for (bad, what) in [
            (good.replacen("{\"apply\"", "{\"host_id\":\"x\",\"apply\"", 1), "duplicate"),
            (good.replacen("{\"apply\"", "{\"more\":1,\"apply\"", 1), "unknown"),
            (good.replacen("\"taken_at\":7", "\"taken_at\":7.5", 1), "fraction"),
            (good.clone() + " 1", "trailing"),
        ] {
            assert_ne!(bad, good);
            let signature = key(1).sign_raw(&pae(PayloadType::Observed.as_str(), bad.as_bytes()));
            let envelope = Envelope {
                payload_type: PayloadType::Observed.as_str().to_owned(),
                payload: bad.into_bytes(),
                signatures: vec![Signature { keyid: key(1).id(), sig: signature }],
            };
            let result = Signed::<ObservedReport>::new(envelope).unwrap().verify_by_host(&key(1).public());
            assert_eq!(code(result), Code::BadEnvelope, "{what}");
        }
    }

    #[test]
    fn envelopes_that_are_too_large_or_misshapen_are_refused_before_any_signature_is_looked_at() {
        assert_eq!(code(Envelope::from_json(&vec![b' '; ENVELOPE_MAX + 1])), Code::TooLarge);
        let good = sealed().envelope().clone();
        let text = String::from_utf8(good.to_json()).unwrap();
        for bad in [
            "",
            "[]",
            "{}",
            &text.replacen("{\"payloadType\"", "{\"payload\":\"\",\"payloadType\"", 1),
            &text.replacen("{\"payloadType\"", "{\"x\":1,\"payloadType\"", 1),
            &text.replacen("\"sig\":\"", "\"sig\":\"!", 1),
            &text.replacen("\"keyid\":\"", "\"keyid\":\"../", 1),
        ] {
            assert_eq!(code(Envelope::from_json(bad.as_bytes())), Code::BadEnvelope, "{bad}");
        }
        let mut many = good.clone();
        many.signatures = vec![good.signatures[0].clone(); SIGNATURES_MAX + 1];
        assert_eq!(code(Envelope::from_json(&many.to_json())), Code::BadEnvelope);
    }
}
