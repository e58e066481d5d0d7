//! The trust root: whose signatures count, for what, on which hosts.
//!
//! | caller does IO | this decides |
//! |---|---|
//! | keeps the newest root and hands in envelopes | is this root the pinned first one? |
//! | | may these signers say this about this host? |

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::fault::{Code, Fault};
use crate::id::{ClusterId, HostId, HostName, KeyId, UnixSeconds, sha256_hex};
use crate::op::Class;
use crate::sign::{Envelope, PayloadType, Signed, Statement, Verified};
use crate::statement::{HostBinding, SliceStatement, TopologyStatement, hex_key};

mod chain;
mod op;
mod words;

pub use chain::{CHAIN_BYTES_MAX, read_chain, write_chain};

/// The role that may sign trust roots, and nothing else.
pub const ROOT_ROLE: &str = "root";
/// How the recovery key of a new cluster is called.
pub const RECOVERY_NAME: &str = "recovery";
/// The role of the operators who sign topologies, host-bindings and operations for every host.
pub const OPERATOR_ROLE: &str = "operator";
/// From how long before its end the expiry of the trust root is warned of, in seconds: 14 days.
pub const EXPIRY_WARNING_S: u64 = 14 * 24 * 3600;
/// The most keys, roles or host patterns that a root may list.
pub const LIST_MAX: usize = 256;

/// Who may say what. Version 1 is pinned by the join token; each later one is signed by its
/// predecessor's and its own thresholds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustRoot {
    /// The cluster that it governs.
    pub cluster: ClusterId,
    /// 1 for the first, one more for each that follows.
    pub version: u64,
    /// When it was signed, by the operator's clock.
    pub issued_at: UnixSeconds,
    /// From then on nothing new is accepted but a root update.
    pub expires: UnixSeconds,
    /// Every key that any role names.
    pub keys: BTreeMap<KeyId, RootKey>,
    /// The roles; `root` must be among them.
    pub roles: BTreeMap<String, Role>,
    /// Lowercase hex SHA-256 of the SubjectPublicKeyInfo of each hub CA that agents may dial.
    pub hub_ca_spki: BTreeSet<String>,
    /// Keys that no longer count, whatever a role says.
    pub revoked: BTreeSet<KeyId>,
    /// How many distinct keys must sign an operation of a class; 1 for those that are not listed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub class_thresholds: BTreeMap<Class, u32>,
}

/// How near a trust root's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It expires within [`EXPIRY_WARNING_S`].
    Soon,
    /// It has expired: nothing new but its successor is accepted.
    Over,
}

impl Statement for TrustRoot {
    const TYPE: PayloadType = PayloadType::Root;
}

/// A public key in the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootKey {
    /// Whose it is, for people.
    pub name: String,
    /// The ed25519 public key, in hex.
    #[serde(with = "hex_key")]
    pub public: [u8; 32],
}

/// What a set of keys may sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Role {
    /// The keys that hold it.
    pub keys: BTreeSet<KeyId>,
    /// How many distinct ones must sign; at least 1.
    pub threshold: u32,
    /// Host names that it reaches; `*` stands for any run of characters.
    pub hosts: Vec<String>,
    /// Kinds of statement that it may sign: [`PayloadType::word`]s. `op.stop` stands for that kind of operation alone.
    pub kinds: BTreeSet<String>,
    /// The greatest class of operation that it may sign.
    #[serde(default = "max_class_default", skip_serializing_if = "is_max_class_default")]
    pub max_class: Class,
}

const fn max_class_default() -> Class {
    Class::R4
}

fn is_max_class_default(class: &Class) -> bool {
    *class == max_class_default()
}

impl Role {
    fn reaches(&self, kind: PayloadType, host: Option<&HostName>) -> bool {
        self.kinds.contains(kind.word()) && host.is_none_or(|host| self.reaches_host(host))
    }

    fn reaches_host(&self, host: &HostName) -> bool {
        self.hosts.iter().any(|pattern| glob_matches(pattern, host.as_str()))
    }
}

/// Whether `pattern`, where `*` stands for any run of characters, matches all of `text`.
#[must_use]
pub fn glob_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    true
}

impl TrustRoot {
    /// The first version of a new cluster: the recovery key signs trust roots, each of `operators` (name and public
    /// key) everything else on every host.
    #[must_use]
    pub fn first(
        cluster: ClusterId,
        operators: &[(String, [u8; 32])],
        recovery: &[u8; 32],
        issued_at: UnixSeconds,
        expires: UnixSeconds,
    ) -> Self {
        let mut keys: BTreeMap<KeyId, RootKey> = BTreeMap::new();
        for (name, public) in operators {
            keys.entry(KeyId::of_key(public)).or_insert_with(|| RootKey { name: name.clone(), public: *public });
        }
        let role = |keys: BTreeSet<KeyId>, kinds: &[PayloadType]| Role {
            keys,
            threshold: 1,
            hosts: vec!["*".to_owned()],
            kinds: kinds.iter().map(|k| k.word().to_owned()).collect(),
            max_class: max_class_default(),
        };
        let daily = [PayloadType::Slice, PayloadType::Topology, PayloadType::HostBinding, PayloadType::Op];
        let operator = role(keys.keys().cloned().collect(), &daily);
        let recovery_id = KeyId::of_key(recovery);
        let root = role(BTreeSet::from([recovery_id.clone()]), &[PayloadType::Root]);
        keys.insert(recovery_id, RootKey { name: RECOVERY_NAME.to_owned(), public: *recovery });
        Self {
            cluster,
            version: 1,
            issued_at,
            expires,
            keys,
            roles: BTreeMap::from([(ROOT_ROLE.to_owned(), root), (OPERATOR_ROLE.to_owned(), operator)]),
            hub_ca_spki: BTreeSet::new(),
            revoked: BTreeSet::new(),
            class_thresholds: BTreeMap::new(),
        }
    }

    /// Whether its end has come, or comes soon enough to be warned of; `None` when it is far.
    #[must_use]
    pub fn ends_soon(&self, now: UnixSeconds) -> Option<Ending> {
        match now {
            now if now >= self.expires => Some(Ending::Over),
            now if now.plus(EXPIRY_WARNING_S) >= self.expires => Some(Ending::Soon),
            _ => None,
        }
    }

    /// Lowercase hex SHA-256 of a root envelope's payload: what a join token pins.
    #[must_use]
    pub fn pin(envelope: &Envelope) -> String {
        sha256_hex(&envelope.payload)
    }

    /// Accepts a first root by its pin.
    ///
    /// # Errors
    /// [`Code::BadRoot`] when it is not the pinned one or not self-consistent; signature codes
    /// when its own `root` threshold has not signed it.
    pub fn verify_first(envelope: Envelope, pin: &str) -> Result<Verified<TrustRoot>, Fault> {
        if Self::pin(&envelope) != pin {
            return Err(Fault::new(Code::BadRoot, "the trust root is not the one that the join token pins"));
        }
        let signed = Signed::<TrustRoot>::new(envelope)?;
        let root = signed.peek()?;
        if root.version != 1 {
            return Err(Fault::new(Code::BadRoot, format!("the first trust root has version {}", root.version)));
        }
        root.check()?;
        let signers = root.root_signers(signed.envelope())?;
        signed.into_verified(signers)
    }

    /// Accepts the next version: signed by the root thresholds of `self` and of itself.
    ///
    /// # Errors
    /// [`Code::WrongCluster`], [`Code::GenerationRegressed`] for an older version, [`Code::Equivocation`] for the same one,
    /// [`Code::BadRoot`] when one is skipped or it does not hold in itself; signature codes.
    pub fn verify_next(&self, envelope: Envelope) -> Result<Verified<TrustRoot>, Fault> {
        let signed = Signed::<TrustRoot>::new(envelope)?;
        let mut signers = self.root_signers(signed.envelope())?;
        let next = signed.peek()?;
        self.check_cluster(&next.cluster)?;
        self.check_follows(&next)?;
        next.check()?;
        signers.extend(next.root_signers(signed.envelope())?);
        signed.into_verified(signers)
    }

    fn check_follows(&self, next: &TrustRoot) -> Result<(), Fault> {
        let (version, wanted) = (next.version, self.version.saturating_add(1));
        let (code, what) = match version {
            v if v == wanted => return Ok(()),
            v if v == self.version => (Code::Equivocation, "another one of that version is in force".to_owned()),
            v if v < self.version => (Code::GenerationRegressed, format!("version {} is in force", self.version)),
            _ => (Code::BadRoot, format!("it must be signed after version {wanted}, which is missing")),
        };
        Err(Fault::new(code, format!("trust root version {version} is not taken: {what}")))
    }

    /// What must hold inside any root: keys are what their ids say, and every threshold can be met.
    ///
    /// # Errors
    /// [`Code::BadRoot`].
    pub fn check(&self) -> Result<(), Fault> {
        let bad = |what: String| Err(Fault::new(Code::BadRoot, what));
        if self.keys.len() > LIST_MAX || self.roles.len() > LIST_MAX {
            return bad(format!("the trust root lists more than {LIST_MAX} keys or roles"));
        }
        for (id, key) in &self.keys {
            if *id != KeyId::of_key(&key.public) {
                return bad(format!("key {id} of the trust root is not the hash of its public key"));
            }
        }
        if !self.roles.contains_key(ROOT_ROLE) {
            return bad("the trust root has no `root` role".to_owned());
        }
        for (name, role) in &self.roles {
            if role.threshold == 0 || usize::try_from(role.threshold).unwrap_or(usize::MAX) > role.keys.len() {
                return bad(format!("role `{name}` has threshold {} with {} keys", role.threshold, role.keys.len()));
            }
            if let Some(key) = role.keys.iter().find(|k| !self.keys.contains_key(*k)) {
                return bad(format!("role `{name}` names key {key}, which the root does not list"));
            }
            if role.hosts.len() > LIST_MAX || role.kinds.len() > LIST_MAX {
                return bad(format!("role `{name}` lists more than {LIST_MAX} hosts or kinds"));
            }
        }
        for (class, needed) in &self.class_thresholds {
            let able = self.op_keys(*class).len();
            if *needed == 0 || usize::try_from(*needed).unwrap_or(usize::MAX) > able {
                return bad(format!("operations of class {class} need {needed} keys, and {able} could sign them"));
            }
        }
        Ok(())
    }

    fn root_signers(&self, envelope: &Envelope) -> Result<BTreeSet<KeyId>, Fault> {
        let signers = self.live_signers(envelope)?;
        let Some(role) = self.roles.get(ROOT_ROLE) else {
            return Err(Fault::new(Code::BadRoot, "the trust root has no `root` role"));
        };
        threshold(role, &signers, ROOT_ROLE)?;
        Ok(signers)
    }

    /// Distinct keys of this root that signed and are not revoked.
    fn live_signers(&self, envelope: &Envelope) -> Result<BTreeSet<KeyId>, Fault> {
        let mut signers = envelope.verified_signers(|id| self.keys.get(id).map(|k| &k.public))?;
        signers.retain(|id| !self.revoked.contains(id));
        if signers.is_empty() {
            return Err(Fault::new(Code::RevokedKey, "every key that signed has been revoked"));
        }
        Ok(signers)
    }

    /// Verifies `signed` for `host` by some role that reaches both.
    fn authorise<T: Statement>(&self, signed: Signed<T>, host: Option<&HostName>) -> Result<Verified<T>, Fault> {
        let signers = self.live_signers(signed.envelope())?;
        let mut refusal = Fault::new(
            Code::OutOfScope,
            format!(
                "no role of the signer may sign a {} {}",
                T::TYPE.word(),
                match host {
                    Some(host) => format!("for host {host}"),
                    None => "at all".to_owned(),
                }
            ),
        );
        for (name, role) in self.roles.iter().filter(|(name, _)| *name != ROOT_ROLE) {
            if role.keys.is_disjoint(&signers) || !role.reaches(T::TYPE, host) {
                continue;
            }
            match threshold(role, &signers, name) {
                Ok(()) => return signed.into_verified(signers),
                Err(fault) => refusal = fault,
            }
        }
        Err(refusal)
    }

    fn check_cluster(&self, cluster: &ClusterId) -> Result<(), Fault> {
        if *cluster == self.cluster {
            return Ok(());
        }
        Err(Fault::new(Code::WrongCluster, format!("the statement is for cluster `{cluster}`, this is `{}`", self.cluster)))
    }

    /// Verifies a slice for the host of `binding`: signatures, scope, cluster, host, content hash.
    /// Time, generation and local policy are the intake's to judge.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_slice(&self, signed: Signed<SliceStatement>, binding: &HostBinding) -> Result<Verified<SliceStatement>, Fault> {
        let slice = self.authorise(signed, Some(&binding.name))?;
        self.check_cluster(&slice.statement().cluster)?;
        check_host(&slice.statement().host_id, &binding.host_id)?;
        slice.statement().spec()?;
        Ok(slice)
    }

    /// Verifies a binding. `own` is the host that asks about itself; `None` for an operator's machine.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_binding(&self, signed: Signed<HostBinding>, own: Option<&HostId>) -> Result<Verified<HostBinding>, Fault> {
        // The scope is by the name in the binding itself: a signature of some role must stand before
        // the name may be read, so verify for no host first.
        let name = self.authorise(signed.clone(), None)?.into_statement().name;
        let binding = self.authorise(signed, Some(&name))?;
        let statement = binding.statement();
        self.check_cluster(&statement.cluster)?;
        if statement.host_id != HostId::of_key(&statement.host_key) {
            return Err(Fault::new(Code::BadEnvelope, "the binding's host id is not the hash of its host key"));
        }
        if let Some(own) = own {
            check_host(&statement.host_id, own)?;
        }
        Ok(binding)
    }

    /// Verifies a binding that takes the place of one for `held`, if the host has one: the signers must reach that name as
    /// well, or a role for `shop-*` could take over any host by renaming it.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_rebinding(
        &self,
        signed: Signed<HostBinding>,
        own: Option<&HostId>,
        held: Option<&HostName>,
    ) -> Result<Verified<HostBinding>, Fault> {
        if let Some(held) = held {
            self.authorise(signed.clone(), Some(held))?;
        }
        self.verify_binding(signed, own)
    }

    /// Verifies a revision's source.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_topology(&self, signed: Signed<TopologyStatement>) -> Result<Verified<TopologyStatement>, Fault> {
        let topology = self.authorise(signed, None)?;
        self.check_cluster(&topology.statement().cluster)?;
        Ok(topology)
    }
}

fn threshold(role: &Role, signers: &BTreeSet<KeyId>, name: &str) -> Result<(), Fault> {
    let have = role.keys.intersection(signers).count();
    if have >= usize::try_from(role.threshold).unwrap_or(usize::MAX) {
        return Ok(());
    }
    Err(Fault::new(Code::ThresholdNotMet, format!("role `{name}` needs {} keys, {have} signed", role.threshold)))
}

fn check_host(named: &HostId, own: &HostId) -> Result<(), Fault> {
    if named == own {
        return Ok(());
    }
    Err(Fault::new(Code::WrongHost, format!("the statement is for host {named}, this is {own}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::canonical::version_hash;
    use crate::id::{Generation, HostEpoch, TopologyId};
    use crate::sign::PrivateKey;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::from_seed(&[seed; 32])
    }

    fn role(keys: &[u8], threshold: u32, hosts: &[&str], kinds: &[PayloadType]) -> Role {
        Role {
            keys: keys.iter().map(|&k| key(k).id()).collect(),
            threshold,
            hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
            kinds: kinds.iter().map(|k| k.word().to_owned()).collect(),
            max_class: Class::R4,
        }
    }

    /// Keys 1 and 2 hold the root role, 3 is an operator for all hosts, 4 for `shop-*` only, 5 and 6
    /// bind hosts together.
    fn root(version: u64) -> TrustRoot {
        TrustRoot {
            cluster: ClusterId::parse("c").unwrap(),
            version,
            issued_at: UnixSeconds(1),
            expires: UnixSeconds(2),
            keys: (1..=6).map(|k| (key(k).id(), RootKey { name: format!("k{k}"), public: key(k).public() })).collect(),
            roles: BTreeMap::from([
                (ROOT_ROLE.to_owned(), role(&[1, 2], 1, &[], &[])),
                ("operator".to_owned(), role(&[3], 1, &["*"], &[PayloadType::Slice, PayloadType::Topology, PayloadType::HostBinding])),
                ("shops".to_owned(), role(&[4], 1, &["shop-*"], &[PayloadType::Slice, PayloadType::HostBinding])),
                ("binders".to_owned(), role(&[5, 6], 2, &["*"], &[PayloadType::HostBinding])),
            ]),
            hub_ca_spki: BTreeSet::new(),
            revoked: BTreeSet::new(),
            class_thresholds: BTreeMap::new(),
        }
    }

    fn seal<T: Statement>(statement: &T, keys: &[u8]) -> Signed<T> {
        let keys: Vec<PrivateKey> = keys.iter().map(|&k| key(k)).collect();
        Signed::seal(statement, &keys.iter().collect::<Vec<_>>()).unwrap()
    }

    fn binding(name: &str) -> HostBinding {
        HostBinding {
            cluster: ClusterId::parse("c").unwrap(),
            host_id: HostId::of_key(&key(9).public()),
            host_key: key(9).public(),
            sealing_key: [0; 32],
            host_epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
            name: HostName::parse(name).unwrap(),
            labels: BTreeMap::new(),
            generation_floors: BTreeMap::new(),
            serial: 1,
            issued_at: UnixSeconds(1),
        }
    }

    fn slice() -> SliceStatement {
        let content = json!({});
        SliceStatement {
            cluster: ClusterId::parse("c").unwrap(),
            topology: TopologyId::parse("t").unwrap(),
            generation: Generation(1),
            host_id: HostId::of_key(&key(9).public()),
            version_hash: version_hash(&content).unwrap(),
            content,
            issued_at: UnixSeconds(1),
            deliver_by: UnixSeconds(2),
            fallback: None,
        }
    }

    fn code<T>(result: Result<T, Fault>) -> Code {
        match result {
            Ok(_) => panic!("accepted"),
            Err(fault) => fault.code,
        }
    }

    #[test]
    fn the_first_root_is_the_pinned_one_and_signed_by_its_own_root_role() {
        let envelope = seal(&root(1), &[1]).envelope().clone();
        let pin = TrustRoot::pin(&envelope);
        assert_eq!(TrustRoot::verify_first(envelope, &pin).unwrap().statement(), &root(1));
        let other = seal(&TrustRoot { expires: UnixSeconds(3), ..root(1) }, &[1]).envelope().clone();
        assert_eq!(code(TrustRoot::verify_first(other, &pin)), Code::BadRoot);
        for (root, keys, expected) in
            [(root(2), &[1][..], Code::BadRoot), (root(1), &[3], Code::ThresholdNotMet), (root(1), &[8], Code::UnknownKey)]
        {
            let envelope = seal(&root, keys).envelope().clone();
            let pin = TrustRoot::pin(&envelope);
            assert_eq!(code(TrustRoot::verify_first(envelope, &pin)), expected);
        }
    }

    #[test]
    fn a_root_that_contradicts_itself_is_refused_although_it_is_signed() {
        let mut no_root_role = root(1);
        no_root_role.roles.remove(ROOT_ROLE);
        let mut unreachable = root(1);
        unreachable.roles.insert("x".to_owned(), role(&[3], 2, &["*"], &[]));
        let mut zero = root(1);
        zero.roles.insert("x".to_owned(), role(&[3], 0, &["*"], &[]));
        let mut unlisted = root(1);
        unlisted.roles.insert("x".to_owned(), role(&[8], 1, &["*"], &[]));
        let mut misnamed = root(1);
        misnamed.keys.insert(key(7).id(), RootKey { name: String::new(), public: key(8).public() });
        for bad in [no_root_role, unreachable, zero, unlisted, misnamed] {
            let envelope = seal(&bad, &[1]).envelope().clone();
            let pin = TrustRoot::pin(&envelope);
            assert_eq!(code(TrustRoot::verify_first(envelope, &pin)), Code::BadRoot, "{bad:?}");
        }
    }

    #[test]
    fn the_next_root_needs_the_thresholds_of_both_and_no_version_is_skipped() {
        let mut both = root(1);
        both.roles.insert(ROOT_ROLE.to_owned(), role(&[1, 2], 2, &[], &[]));
        let mut next = root(2);
        next.roles.insert(ROOT_ROLE.to_owned(), role(&[3], 1, &[], &[]));
        let envelope = |next: &TrustRoot, keys: &[u8]| seal(next, keys).envelope().clone();
        assert_eq!(both.verify_next(envelope(&next, &[1, 2, 3])).unwrap().statement(), &next);
        assert_eq!(code(both.verify_next(envelope(&next, &[1, 3]))), Code::ThresholdNotMet, "one key of the old two");
        assert_eq!(code(both.verify_next(envelope(&next, &[1, 2]))), Code::ThresholdNotMet, "not the new one");
        assert_eq!(code(both.verify_next(envelope(&root(3), &[1, 2]))), Code::BadRoot, "a version is skipped");
        assert_eq!(code(both.verify_next(envelope(&root(1), &[1, 2]))), Code::Equivocation, "the same version");
        let foreign = TrustRoot { cluster: ClusterId::parse("d").unwrap(), ..root(2) };
        assert_eq!(code(both.verify_next(envelope(&foreign, &[1, 2]))), Code::WrongCluster, "another cluster's");
    }

    #[test]
    fn a_threshold_counts_keys_not_signatures() {
        let root = root(1);
        let mut twice = seal(&binding("shop-1"), &[5]).envelope().clone();
        twice.signatures.push(twice.signatures[0].clone());
        assert_eq!(code(root.verify_binding(Signed::new(twice).unwrap(), None)), Code::ThresholdNotMet);
        assert!(root.verify_binding(seal(&binding("shop-1"), &[5, 6]), None).is_ok());
    }

    #[test]
    fn a_revoked_key_no_longer_counts() {
        let mut root = root(1);
        root.revoked.insert(key(3).id());
        assert_eq!(code(root.verify_slice(seal(&slice(), &[3]), &binding("shop-1"))), Code::RevokedKey);
        root.revoked = BTreeSet::from([key(5).id()]);
        assert_eq!(code(root.verify_binding(seal(&binding("shop-1"), &[5, 6]), None)), Code::ThresholdNotMet);
        root.revoked = BTreeSet::from([key(1).id(), key(2).id()]);
        let next = seal(&TrustRoot { version: 2, ..root.clone() }, &[1, 2]).envelope().clone();
        assert_eq!(code(root.verify_next(next)), Code::RevokedKey);
    }

    #[test]
    fn a_role_reaches_its_hosts_and_kinds_only() {
        let root = root(1);
        assert!(root.verify_slice(seal(&slice(), &[4]), &binding("shop-17")).is_ok());
        assert_eq!(code(root.verify_slice(seal(&slice(), &[4]), &binding("vault"))), Code::OutOfScope);
        assert_eq!(code(root.verify_binding(seal(&binding("vault"), &[4]), None)), Code::OutOfScope);
        assert_eq!(code(root.verify_slice(seal(&slice(), &[5, 6]), &binding("shop-17"))), Code::OutOfScope);
        // The root role signs roots and nothing else.
        assert_eq!(code(root.verify_slice(seal(&slice(), &[1, 2]), &binding("shop-17"))), Code::OutOfScope);
    }

    #[test]
    fn a_host_is_not_taken_over_by_a_name_in_the_signers_reach() {
        let root = root(1);
        let (vault, shop) = (HostName::parse("vault").unwrap(), HostName::parse("shop-9").unwrap());
        let renamed = || HostBinding { serial: 2, ..binding("shop-1") };
        assert_eq!(code(root.verify_rebinding(seal(&renamed(), &[4]), None, Some(&vault))), Code::OutOfScope);
        assert!(root.verify_rebinding(seal(&renamed(), &[4]), None, Some(&shop)).is_ok());
        assert!(root.verify_rebinding(seal(&renamed(), &[4]), None, None).is_ok());
    }

    #[test]
    fn a_slice_is_for_one_host_of_one_cluster_and_has_the_hash_that_it_names() {
        let root = root(1);
        let host = binding("shop-17");
        let refused = |slice: SliceStatement| code(root.verify_slice(seal(&slice, &[3]), &host));
        assert_eq!(refused(SliceStatement { cluster: ClusterId::parse("d").unwrap(), ..slice() }), Code::WrongCluster);
        assert_eq!(refused(SliceStatement { host_id: HostId::of_key(&[0; 32]), ..slice() }), Code::WrongHost);
        assert_eq!(refused(SliceStatement { version_hash: version_hash(&1).unwrap(), ..slice() }), Code::HashMismatch);
        let content = json!({ "docker": { "gpus": 1 } });
        assert_eq!(refused(SliceStatement { version_hash: version_hash(&content).unwrap(), content, ..slice() }), Code::BadContent);
        assert_eq!(code(root.verify_slice(seal(&slice(), &[8]), &host)), Code::UnknownKey);
    }

    #[test]
    fn a_binding_is_of_the_key_that_it_names_and_for_the_host_that_asks() {
        let root = root(1);
        let own = HostId::of_key(&key(9).public());
        assert!(root.verify_binding(seal(&binding("shop-1"), &[3]), Some(&own)).is_ok());
        assert_eq!(code(root.verify_binding(seal(&binding("shop-1"), &[3]), Some(&HostId::of_key(&[0; 32])))), Code::WrongHost);
        let stolen = HostBinding { host_key: key(8).public(), ..binding("shop-1") };
        assert_eq!(code(root.verify_binding(seal(&stolen, &[3]), Some(&own))), Code::BadEnvelope);
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, text, expected) in [
            ("*", "anything", true),
            ("*", "", true),
            ("shop-*", "shop-17", true),
            ("shop-*", "my-shop-17", false),
            ("*.sydney", "shop.sydney", true),
            ("*.sydney", "shop.sydney.x", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("", "x", false),
        ] {
            assert_eq!(glob_matches(pattern, text), expected, "{pattern} {text}");
        }
    }
}
