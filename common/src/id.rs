//! Identifiers and hashes as newtypes.
//!
//! Each is validated on the way in (`parse`, serde), so a value of the type is always well formed
//! and safe to put into file names, labels and URIs.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A text that is no valid identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a valid {kind}: {rule}")]
pub struct IdError {
    /// What it should have been, such as "host name".
    pub kind: &'static str,
    /// The offending text, cut to 80 characters.
    pub text: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and wraps it.
            ///
            /// # Errors
            /// [`IdError`] with the rule that `text` breaks.
            pub fn parse(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { kind: $kind, text: text.chars().take(80).collect(), rule: $rule })
                }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }
    };
}

fn is_lower_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_uuid_v7(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            14 => b == b'7',
            19 => matches!(b, b'8' | b'9' | b'a' | b'b'),
            _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
        })
}

/// A DNS label: 1 to 63 of `a-z0-9-`, beginning and ending with a letter or digit.
fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !text.starts_with('-')
        && !text.ends_with('-')
}

string_id!(
    /// A host's identity: the SHA-256 of its ed25519 host key. Computed, never assigned.
    HostId, "host id", "64 lowercase hex digits", |t| is_lower_hex(t, 64)
);
string_id!(
    /// A signing key's id: the SHA-256 of its ed25519 public key.
    KeyId, "key id", "64 lowercase hex digits", |t| is_lower_hex(t, 64)
);
string_id!(
    /// A random value, renewed on join, on a reset of the state folder and on leaving quarantine.
    HostEpoch, "host epoch", "32 lowercase hex digits", |t| is_lower_hex(t, 32)
);
string_id!(
    /// `sha256:` and the digest of a slice's content in RFC 8785 canonical JSON.
    VersionHash, "version hash", "`sha256:` and 64 lowercase hex digits",
    |t| t.strip_prefix("sha256:").is_some_and(|h| is_lower_hex(h, 64))
);
string_id!(
    /// The name of a cluster: one hub (or hub group), its operators and their hosts.
    ClusterId, "cluster name", "1 to 63 of a-z, 0-9 and -, not beginning or ending with -", is_dns_label
);
string_id!(
    /// A topology's name; prefixes every name that it gives to the engine.
    TopologyId, "topology name", "1 to 63 of a-z, 0-9 and -, not beginning or ending with -", is_dns_label
);
string_id!(
    /// A host's name: one or more DNS labels joined by dots.
    HostName, "host name", "at most 253 of a-z, 0-9, - and ., each part a DNS label",
    |t| t.len() <= 253 && !t.is_empty() && t.split('.').all(is_dns_label)
);
string_id!(
    /// A managed resource, and the key of its lane: `docker/container/edge-site-1`.
    ResourceId, "resource id", "`docker/network|volume|container|image/<name>`, `pve/guest/<vmid>`, `digitalocean/droplet/<number>` or `host`, at most 300 characters",
    |t| {
        t == "host"
            || t.len() <= 300
            && match t.split_once('/').and_then(|(d, rest)| rest.split_once('/').map(|(k, n)| (d, k, n))) {
                Some(("docker", "container", n)) => is_engine_name(n),
                Some(("docker", "network" | "volume" | "image", n)) => !n.is_empty() && n.bytes().all(|b| b.is_ascii_graphic()),
                _ => false,
            }
            || t.strip_prefix("pve/guest/").is_some_and(|n| crate::pve::Vmid::parse(n).is_ok())
            || t.strip_prefix("digitalocean/droplet/").is_some_and(|n| n.parse::<u64>().is_ok_and(|number| number.to_string() == n))
    }
);

string_id!(
    /// An operation's id: a UUIDv7. Its first characters are only the time, so it is never shortened.
    OpId, "operation id", "a UUIDv7 in lowercase hex with hyphens", is_uuid_v7
);
string_id!(
    /// A saga's id: a UUIDv7, never shortened, as an operation's.
    SagaId, "saga id", "a UUIDv7 in lowercase hex with hyphens", is_uuid_v7
);
string_id!(
    /// A random value that is used once.
    Nonce, "nonce", "32 lowercase hex digits", |t| is_lower_hex(t, 32)
);
string_id!(
    /// What makes two orders the same one: an operation is started at most once for it.
    IdempotencyKey, "idempotency key", "1 to 128 of A-Z, a-z, 0-9 and . _ : / -",
    |t| !t.is_empty() && t.len() <= 128 && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'/' | b'-'))
);

/// Whether an engine takes `text` as a container's name: letters, digits, `_`, `.` and `-`, beginning with a letter or digit. Such a
/// name is also safe in a path of the engine's API.
pub(crate) fn is_engine_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) && text.bytes().all(is_plain)
}

impl ResourceId {
    /// The whole host: what is ordered for it runs alone.
    #[must_use]
    pub fn host() -> Self {
        Self("host".to_owned())
    }

    /// What the host knows about time: ordered like the host's own, and no resource of an engine.
    #[must_use]
    pub fn clock() -> Self {
        Self("clock".to_owned())
    }

    /// Whether the newest slice stays: as the clock.
    #[must_use]
    pub fn trial() -> Self {
        Self("trial".to_owned())
    }

    /// Whether it is the clock or the trial: of the agent alone, and no part of the host that waits for other work.
    #[must_use]
    pub fn is_apart(&self) -> bool {
        matches!(self.0.as_str(), "clock" | "trial")
    }

    /// Whether it is the whole host.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.0 == "host"
    }

    /// The part behind the kind: an engine's object name, or a vmid.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.splitn(3, '/').nth(2).unwrap_or("")
    }

    /// The kind with its driver, such as `docker/network`.
    #[must_use]
    pub fn kind(&self) -> &str {
        let name = self.name().len();
        self.0.get(..self.0.len().saturating_sub(name + 1)).filter(|_| name > 0).unwrap_or(&self.0)
    }
}

impl HostId {
    /// The id of the host that owns this ed25519 public key.
    #[must_use]
    pub fn of_key(public: &[u8; 32]) -> Self {
        Self(sha256_hex(public))
    }
}

impl KeyId {
    /// The id of this ed25519 public key.
    #[must_use]
    pub fn of_key(public: &[u8; 32]) -> Self {
        Self(sha256_hex(public))
    }
}

impl VersionHash {
    /// The hash of canonical bytes; see [`crate::canonical::version_hash`].
    #[must_use]
    pub fn of_bytes(canonical: &[u8]) -> Self {
        Self(format!("sha256:{}", sha256_hex(canonical)))
    }

    /// The first 12 hex digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(7..19).unwrap_or(&self.0)
    }
}

/// Lowercase hex of the SHA-256 of `bytes`.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut digits = [0; 64];
    // Into a slice, as `hex::encode` makes it character by character, and every line of a journal has one.
    // 32 bytes are 64 digits.
    let _ = hex::encode_to_slice(Sha256::digest(bytes), &mut digits);
    String::from_utf8_lossy(&digits).into_owned()
}

/// A topology's revision number: 1 for the first push, one more for each that follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// The generation of the next revision.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Seconds since 1970-01-01T00:00:00Z, as signed statements carry them. No clock is read here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This moment and `seconds` more.
    #[must_use]
    pub fn plus(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_break_labels_or_paths_are_refused() {
        for bad in ["", "-a", "a-", "A", "a b", "../x", "a/b", &"a".repeat(64)] {
            assert!(TopologyId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(HostName::parse("shop-17.sydney.example").is_ok());
        assert!(HostName::parse("shop..x").is_err());
    }

    #[test]
    fn a_resource_id_names_its_kind_and_object() {
        let id = ResourceId::parse("docker/container/edge-site-1").unwrap();
        assert_eq!((id.kind(), id.name()), ("docker/container", "edge-site-1"));
        assert!(ResourceId::parse("pve/guest/101").is_ok());
        assert!(ResourceId::parse("pve/guest/1o1").is_err());
        assert!(ResourceId::parse("docker/secret/x").is_err());
        for bad in ["", "../x", "x/export?", "x/json", "-x", "x%2f", "x y"] {
            assert!(ResourceId::parse(format!("docker/container/{bad}")).is_err(), "{bad}");
        }
        let image = ResourceId::parse("docker/image/registry.example:5000/a/b:1").unwrap();
        assert_eq!((image.kind(), image.name()), ("docker/image", "registry.example:5000/a/b:1"));
        assert_eq!((ResourceId::host().kind(), ResourceId::host().name()), ("host", ""));
        assert!(ResourceId::parse("host").unwrap().is_host());
    }

    #[test]
    fn an_operations_names_are_checked() {
        assert!(OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").is_ok());
        for bad in
            ["", "0197a2b4-1c3d-4e5f-8a6b-0123456789ab", "0197A2B4-1c3d-7e5f-8a6b-0123456789ab", "0197a2b4-1c3d-7e5f-ca6b-0123456789ab"]
        {
            assert!(OpId::parse(bad).is_err(), "{bad}");
        }
        assert!(IdempotencyKey::parse("nightly/2026-11-21:db").is_ok());
        assert!(
            IdempotencyKey::parse("").is_err() && IdempotencyKey::parse("a b").is_err() && IdempotencyKey::parse("a".repeat(129)).is_err()
        );
    }
}
