//! The signed statements: what operators say about hosts, and what hosts say about themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical::{CanonicalError, to_canonical};
use crate::drift::Drift;
use crate::fault::{Code, Fault};
use crate::id::{ClusterId, Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds, VersionHash};
use crate::observe::Observed;
use crate::sign::{PayloadType, Statement};
use crate::topology::limits::SEALED_HOST_MAX;
use crate::topology::{HostSpec, Inputs};

/// How long a slice may wait for its first delivery when the operator says nothing: 30 days.
pub const DELIVER_WITHIN_DEFAULT_S: u64 = 30 * 24 * 3600;

/// One host's desired state, as an operator signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SliceStatement {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The topology that it is a slice of.
    pub topology: TopologyId,
    /// The revision of that topology.
    pub generation: Generation,
    /// The one host that may apply it.
    pub host_id: HostId,
    /// The hydrated content: a [`HostSpec`] as JSON. `{}` means: tear down.
    pub content: Value,
    /// [`crate::canonical::version_hash`] of `content`.
    pub version_hash: VersionHash,
    /// When it was signed, by the operator's clock.
    pub issued_at: UnixSeconds,
    /// The last moment at which it may be accepted for the first time.
    pub deliver_by: UnixSeconds,
    /// The values of the secrets and configs in `content`, sealed to the host; no part of `version_hash`, as sealing the same value
    /// again makes other bytes.
    #[serde(default, skip_serializing_if = "Sealed::is_empty")]
    pub sealed: Sealed,
    /// The earlier revision that may be reinstated if this one fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Whether it does not wait for the maintenance windows of its own policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
}

/// Values that only one host can open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sealed {
    /// The host's sealing key that they are sealed to, in hex; of no meaning where there are none.
    #[serde(with = "hex_key")]
    pub to: [u8; 32],
    /// The digest of a value → the value in age's format, in base64.
    pub values: BTreeMap<String, String>,
}

impl Sealed {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// What the operator allows to come back by itself, and when: see [`crate::fallback`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// The generation that it was; 0 when there was nothing, and everything is torn down then.
    pub generation: Generation,
    /// Its version hash; that of empty content where there was nothing.
    pub version_hash: VersionHash,
    /// How long after its first acceptance a slice that failed is given up for it, in seconds of the host's own running time.
    pub within_s: u64,
    /// How long the host has to be healthy without a break for the slice to stay, in seconds.
    pub healthy_for_s: u64,
    /// `true`: the slice stays by a signed `confirm` alone, however healthy it is.
    pub needs_confirm: bool,
}

impl Statement for SliceStatement {
    const TYPE: PayloadType = PayloadType::Slice;
}

impl SliceStatement {
    /// Reads the content as a host's desired state, after checking its hash.
    ///
    /// # Errors
    /// [`Code::HashMismatch`] or [`Code::BadContent`].
    pub fn spec(&self) -> Result<HostSpec, Fault> {
        let bytes = to_canonical(&self.content).map_err(|e| Fault::new(Code::BadContent, e.to_string()))?;
        if VersionHash::of_bytes(&bytes) != self.version_hash {
            return Err(Fault::new(Code::HashMismatch, "the version hash is not that of the content"));
        }
        // A value has no key twice, and one with a canonical form no unsafe number: nothing is left to be strict about.
        HostSpec::deserialize(&self.content)
            .map_err(|e| Fault::new(Code::BadContent, format!("this agent does not understand the content: {}", CanonicalError::Shape(e))))
    }

    /// Checks that each value which `spec`, the content, needs is here and sealed to `key`, and nothing else.
    ///
    /// # Errors
    /// [`Code::SecretsUnreadable`], with the names of what is not.
    pub fn require_sealed(&self, spec: &HostSpec, key: &[u8; 32]) -> Result<(), Fault> {
        let unreadable = |message: String| Err(Fault::new(Code::SecretsUnreadable, message));
        let needed = spec.sealed_digests();
        let missing: Vec<&str> =
            needed.iter().filter(|(digest, _)| !self.sealed.values.contains_key(**digest)).map(|(_, name)| name.as_str()).collect();
        if !missing.is_empty() {
            return unreadable(format!("the slice lacks the value of the {}; push the topology again", missing.join(" and the ")));
        }
        if !self.sealed.is_empty() && self.sealed.to != *key {
            return unreadable("the values in the slice are sealed to another key than this host's; push the topology again".to_owned());
        }
        if let Some(unknown) = self.sealed.values.keys().find(|digest| !needed.contains_key(digest.as_str())) {
            return unreadable(format!("the slice has a value, {unknown}, that none of its secrets and configs has"));
        }
        let total = self.sealed.values.values().map(String::len).fold(0_usize, usize::saturating_add);
        if total.div_ceil(4).saturating_mul(3) > SEALED_HOST_MAX {
            return unreadable(format!("the values in the slice are larger than {} KiB together", SEALED_HOST_MAX / 1024));
        }
        Ok(())
    }
}

/// The source of a whole revision. Lets another operator machine re-slice, compare and roll back
/// without believing the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyStatement {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// The topology's name.
    pub topology: TopologyId,
    /// The revision.
    pub generation: Generation,
    /// The file as the operator wrote it, comments and all.
    pub source: String,
    /// What the file takes from elsewhere, as it was when the operator signed.
    #[serde(default, skip_serializing_if = "Inputs::is_empty")]
    pub inputs: Inputs,
    /// `true` for `moorctl down`: every host gets an empty slice, whatever `source` says.
    pub down: bool,
    /// When it was signed, by the operator's clock.
    pub issued_at: UnixSeconds,
    /// How long its slices may wait for delivery, in seconds.
    pub deliver_within_s: u64,
    /// Why, in the operator's words; may be empty.
    pub message: String,
}

impl Statement for TopologyStatement {
    const TYPE: PayloadType = PayloadType::Topology;
}

/// An operator's word on who a host is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostBinding {
    /// The cluster that it joins.
    pub cluster: ClusterId,
    /// The SHA-256 of `host_key`.
    pub host_id: HostId,
    /// The host's ed25519 public key, in hex.
    #[serde(with = "hex_key")]
    pub host_key: [u8; 32],
    /// The host's X25519 public key for sealed secrets, in hex.
    #[serde(with = "hex_key")]
    pub sealing_key: [u8; 32],
    /// The life of the host that this binding is for.
    pub host_epoch: HostEpoch,
    /// The host's name, unique in the cluster.
    pub name: HostName,
    /// Labels for selectors and `${host.labels.x}`.
    pub labels: BTreeMap<String, String>,
    /// The lowest generation per topology that this host may accept.
    pub generation_floors: BTreeMap<TopologyId, Generation>,
    /// Counts the bindings of one host: a higher serial replaces a lower one.
    pub serial: u64,
    /// When it was signed, by the operator's clock.
    pub issued_at: UnixSeconds,
}

impl Statement for HostBinding {
    const TYPE: PayloadType = PayloadType::HostBinding;
}

/// A host's signed word on what it observed and how its last apply went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedReport {
    /// The host that speaks.
    pub host_id: HostId,
    /// When it observed, by its own clock.
    pub taken_at: UnixSeconds,
    /// What it observed.
    pub observed: Observed,
    /// How the last apply went.
    pub apply: ApplyReport,
}

impl Statement for ObservedReport {
    const TYPE: PayloadType = PayloadType::Observed;
}

/// How the newest apply went, resource by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyReport {
    /// The topology of the accepted slice, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<TopologyId>,
    /// The generation of the accepted slice.
    pub generation: Generation,
    /// The version hash of what is applied; `None` before the first success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<VersionHash>,
    /// Whether an apply is under way.
    pub converging: bool,
    /// The last error, cut to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Fault>,
    /// Resources that failed, are skipped, or wait, and why; sorted by resource, at most 64.
    pub troubles: Vec<Trouble>,
    /// What differs from the slice and is left as it is, such as by `policy: { drift: inbox }`; sorted, each field of a resource once,
    /// at most [`DRIFT_MAX`], values as [`crate::drift::shown`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
    /// Whether more differs than `drift` lists.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drift_cut: bool,
    /// What an operation keeps unlike the slice; sorted by resource, at most [`HELD_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<Held>,
    /// The accepted slice has a fallback that may still come back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// The host has gone back from the accepted slice to its fallback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back: Option<RolledBack>,
}

/// A slice that is not to stay whatever happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Its generation.
    pub generation: Generation,
    /// What comes back if it fails; 0 for nothing.
    pub to: Generation,
    /// When it does so at the latest, by the host's clock; later if the host is off meanwhile.
    pub until: UnixSeconds,
    /// Whether only a signed `confirm` lets it stay.
    pub needs_confirm: bool,
}

/// A slice that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolledBack {
    /// Its generation: the newest that the host has accepted.
    pub generation: Generation,
    /// What is in force in its place; 0 for nothing.
    pub to: Generation,
    /// Why.
    pub reason: String,
    /// Since when, by the host's clock.
    pub at: UnixSeconds,
}

/// The most holds that a report lists.
pub const HELD_MAX: usize = 1024;
/// The most differences that a report lists.
pub const DRIFT_MAX: usize = 256;

/// A resource that the reconcile pass leaves alone, until other content is accepted or a `release`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The resource.
    pub resource: crate::id::ResourceId,
    /// The operation that left it so.
    pub op_id: crate::id::OpId,
}

/// One resource that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// The resource.
    pub resource: crate::id::ResourceId,
    /// What kind of trouble.
    pub code: Code,
    /// What happened and what it waits for.
    pub message: String,
}

/// 32 bytes as 64 hex digits.
pub(crate) mod hex_key {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(key: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(key))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut key = [0; 32];
        hex::decode_to_slice(&text, &mut key).map_err(serde::de::Error::custom)?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canonical::from_strict_json;

    #[test]
    fn a_slice_holds_what_its_secrets_need_and_nothing_else() {
        let content = |digests: &[&str]| {
            let objects: BTreeMap<&str, Value> = digests.iter().map(|d| (*d, serde_json::json!({ "digest": d }))).collect();
            serde_json::json!({ "docker": { "secrets": objects } })
        };
        let with = |digests: &[&str], to: u8, values: &[&str]| {
            let content = content(digests);
            let values = values.iter().map(|d| ((*d).to_owned(), "x".to_owned())).collect();
            let spec: HostSpec = serde_json::from_value(content.clone()).unwrap();
            let before = r#"{"cluster":"acme","topology":"edge","generation":3,"host_id":"HOST","content":{},"version_hash":"HASH","issued_at":1,"deliver_by":2}"#;
            let before =
                before.replace("HOST", &"0".repeat(64)).replace("HASH", crate::canonical::version_hash(&content).unwrap().as_str());
            let old: SliceStatement = from_strict_json(before.as_bytes()).unwrap();
            assert!(!String::from_utf8(to_canonical(&old).unwrap()).unwrap().contains("sealed"), "signed as before there were secrets");
            let slice = SliceStatement { content, sealed: Sealed { to: [to; 32], values }, ..old };
            assert_eq!(slice.version_hash, crate::canonical::version_hash(&slice.content).unwrap());
            slice.require_sealed(&spec, &[1; 32]).map_err(|f| (f.code, f.message))
        };
        assert_eq!(with(&["a"], 1, &["a"]), Ok(()));
        assert_eq!(with(&[], 9, &[]), Ok(()));
        for (digests, to, values, words) in [
            (&["a", "b"][..], 1, &["a"][..], "lacks the value of the secret `b`"),
            (&["a"], 2, &["a"], "another key than this host's"),
            (&["a"], 1, &["a", "b"], "that none of its secrets and configs has"),
        ] {
            let (code, message) = with(digests, to, values).unwrap_err();
            assert!(code == Code::SecretsUnreadable && message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_topology_that_takes_nothing_is_signed_as_it_was_before_there_were_inputs() {
        let before = r#"{"cluster":"acme","topology":"edge","generation":3,"source":"x","down":false,"issued_at":1,"deliver_within_s":60,"message":""}"#;
        let mut statement: TopologyStatement = from_strict_json(before.as_bytes()).unwrap();
        assert!(statement.inputs.is_empty());
        assert_eq!(to_canonical(&statement).unwrap(), to_canonical(&serde_json::from_str::<Value>(before).unwrap()).unwrap());
        statement.inputs.variables.insert("A".to_owned(), "1".to_owned());
        let text = String::from_utf8(to_canonical(&statement).unwrap()).unwrap();
        assert!(text.contains(r#""inputs":{"variables":{"A":"1"}}"#), "{text}");
        assert_eq!(from_strict_json::<TopologyStatement>(text.as_bytes()).unwrap(), statement);
    }
}
