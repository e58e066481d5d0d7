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
mod saga;
mod words;

pub use chain::{CHAIN_BYTES_MAX, read_chain, write_chain};
pub use saga::{EVIDENCE_MAX, Evidence};

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

    /// Verifies a slice for the host of `binding`: signatures, scope, cluster, host, content hash, and that what is sealed in it is all
    /// there.
    /// Time, generation and local policy are the intake's to judge.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn verify_slice(&self, signed: Signed<SliceStatement>, binding: &HostBinding) -> Result<Verified<SliceStatement>, Fault> {
        let slice = self.authorise(signed, Some(&binding.name))?;
        self.check_cluster(&slice.statement().cluster)?;
        check_host(&slice.statement().host_id, &binding.host_id)?;
        slice.statement().require_sealed(&slice.statement().spec()?, &binding.sealing_key)?;
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
mod tests;
