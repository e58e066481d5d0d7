//! Secrets and configs: files in a container whose values never stand in a slice.
//!
//! A slice says by a digest, keyed by the operator, which value is meant; the value itself goes beside the content, sealed to the host.
//! So the same value again is no change, whoever looks learns nothing from the digest, and only the host opens what is sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::limits::NAME_MAX;
use super::{DockerSpec, HostSpec, ServiceSpec};
use crate::id::{TopologyId, is_engine_name, sha256_hex};

/// Hex digits of a digest.
const DIGEST_LEN: usize = 64;
/// What digests are for, so that the operator's key makes none for anything else.
const DIGEST_CONTEXT: &[u8] = b"moorline secret digest v1";

/// Which of the two it is. They differ in where they are mounted when nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SealedKind {
    /// Under `secrets`.
    Secret,
    /// Under `configs`.
    Config,
}

impl SealedKind {
    /// Both.
    pub const ALL: [Self; 2] = [SealedKind::Secret, SealedKind::Config];

    /// The key that such objects stand under.
    #[must_use]
    pub const fn section(self) -> &'static str {
        match self {
            SealedKind::Secret => "secrets",
            SealedKind::Config => "configs",
        }
    }

    /// One of them, in a word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            SealedKind::Secret => "secret",
            SealedKind::Config => "config",
        }
    }

    /// The folder in the container that a name alone is in.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            SealedKind::Secret => "/run/secrets/",
            SealedKind::Config => "/",
        }
    }

    fn objects(self, docker: &DockerSpec) -> &BTreeMap<String, SealedSpec> {
        match self {
            SealedKind::Secret => &docker.secrets,
            SealedKind::Config => &docker.configs,
        }
    }

    fn objects_mut(self, docker: &mut DockerSpec) -> &mut BTreeMap<String, SealedSpec> {
        match self {
            SealedKind::Secret => &mut docker.secrets,
            SealedKind::Config => &mut docker.configs,
        }
    }

    /// What a service mounts of this kind, by the path in the container.
    #[must_use]
    pub fn mounts(self, service: &ServiceSpec) -> &BTreeMap<String, SealedMount> {
        match self {
            SealedKind::Secret => &service.secrets,
            SealedKind::Config => &service.configs,
        }
    }
}

/// A secret or config. <https://github.com/compose-spec/compose-spec/blob/main/09-secrets.md>
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSpec {
    /// Where its value comes from, as the file says. No part of a slice.
    #[serde(skip)]
    pub origin: Option<Origin>,
    /// The [`digest`] of its value; empty until that is known.
    pub digest: String,
}

/// Where a value comes from, on the machine of the operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A file, as [`super::inputs::join`] gives its path.
    File(String),
    /// A variable of the environment, or of `.env`.
    Environment(String),
    /// It stands in the topology itself.
    Content(String),
}

impl Origin {
    /// By what a signed source names the value of the object `name`.
    #[must_use]
    pub fn key(&self, kind: SealedKind, name: &str) -> String {
        let section = kind.section();
        match self {
            Origin::File(path) => format!("{section}.{name} file {path}"),
            Origin::Environment(variable) => format!("{section}.{name} environment {variable}"),
            Origin::Content(content) => format!("{section}.{name} content {}", sha256_hex(content.as_bytes())),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "the file `{path}`"),
            Origin::Environment(variable) => write!(f, "the variable `{variable}`"),
            Origin::Content(_) => f.write_str("its `content`"),
        }
    }
}

/// How a service has a secret or config, keyed by the path in the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedMount {
    /// Its name in the file.
    pub source: String,
    /// Who owns the file in the container; who writes it on the host, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// The group that owns it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Its permissions; 0444, if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// The permissions of a file that does not say.
pub const SEALED_MODE: u32 = 0o444;

/// The keyed digest of `value`. It tells nothing of the value to whoever lacks `key`, and nothing of two objects that have the same value.
#[must_use]
pub fn digest(key: &[u8; 32], topology: &TopologyId, kind: SealedKind, name: &str, value: &[u8]) -> String {
    // HMAC's own rule for a key shorter than its block: zeros behind it.
    let mut block = Zeroizing::new([0; 64]);
    block.split_at_mut(key.len()).0.copy_from_slice(key);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&(*block).into());
    for part in [DIGEST_CONTEXT, topology.as_str().as_bytes(), kind.section().as_bytes(), name.as_bytes(), value] {
        mac.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        mac.update(part);
    }
    hex::encode(mac.finalize().into_bytes())
}

/// Whether `text` could be a [`digest`].
#[must_use]
pub fn is_digest(text: &str) -> bool {
    text.len() == DIGEST_LEN && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A file that a host keeps for its containers: which value it has, and who may read it. Files of one name are the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SealedFile {
    /// Which of the two it is.
    pub kind: SealedKind,
    /// The digest of its value.
    pub digest: String,
    /// Its owner, if one is named.
    pub uid: Option<u32>,
    /// Its group, if one is named.
    pub gid: Option<u32>,
    /// Its permissions.
    pub mode: u32,
    /// Its name in the topology.
    pub name: String,
}

/// A name that no [`SealedFile`] has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no secret or config is kept under such a name")]
pub struct NotSealedFile;

impl SealedFile {
    /// The file of `mount` of the object `spec`; `None` for what could be no file's name.
    #[must_use]
    pub fn new(kind: SealedKind, mount: &SealedMount, spec: &SealedSpec) -> Option<Self> {
        let file = Self {
            kind,
            digest: spec.digest.clone(),
            uid: mount.uid,
            gid: mount.gid,
            mode: mount.mode.unwrap_or(SEALED_MODE),
            name: mount.source.clone(),
        };
        // A slice need not come from our own reader.
        file.to_string().parse().ok()
    }

    /// What it is, for people: `secrets.db_password`.
    #[must_use]
    pub fn field(&self) -> String {
        format!("{}.{}", self.kind.section(), self.name)
    }
}

impl fmt::Display for SealedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        let Self { kind, digest, uid, gid, mode, name } = self;
        write!(f, "{}.{digest}.{}.{}.{mode:04o}.{name}", kind.word(), id(*uid), id(*gid))
    }
}

impl FromStr for SealedFile {
    type Err = NotSealedFile;

    fn from_str(text: &str) -> Result<Self, NotSealedFile> {
        let parts: Vec<&str> = text.splitn(6, '.').collect();
        let [kind, digest, uid, gid, mode, name] = parts.as_slice() else { return Err(NotSealedFile) };
        let id = |text: &str| match text {
            "-" => Ok(None),
            text => text.parse().map(Some).map_err(|_| NotSealedFile),
        };
        let file = Self {
            kind: SealedKind::ALL.into_iter().find(|k| k.word() == *kind).ok_or(NotSealedFile)?,
            digest: (*digest).to_owned(),
            uid: id(uid)?,
            gid: id(gid)?,
            mode: u32::from_str_radix(mode, 8).map_err(|_| NotSealedFile)?,
            name: (*name).to_owned(),
        };
        // One spelling only: names of files are compared as text.
        let is_good = is_digest(digest) && is_file_name(name) && file.mode <= 0o777 && file.to_string() == text;
        if is_good { Ok(file) } else { Err(NotSealedFile) }
    }
}

impl TryFrom<String> for SealedFile {
    type Error = NotSealedFile;

    fn try_from(text: String) -> Result<Self, NotSealedFile> {
        text.parse()
    }
}

impl From<SealedFile> for String {
    fn from(file: SealedFile) -> Self {
        file.to_string()
    }
}

fn is_file_name(name: &str) -> bool {
    is_engine_name(name) && name.len() <= NAME_MAX
}

impl DockerSpec {
    /// Its secrets and configs.
    pub fn sealed(&self) -> impl Iterator<Item = (SealedKind, &String, &SealedSpec)> {
        SealedKind::ALL.into_iter().flat_map(|kind| kind.objects(self).iter().map(move |(name, spec)| (kind, name, spec)))
    }

    /// The secret or config of that name.
    #[must_use]
    pub fn sealed_of(&self, kind: SealedKind, name: &str) -> Option<&SealedSpec> {
        kind.objects(self).get(name)
    }

    /// Takes out those that no service has.
    pub(crate) fn drop_unused_sealed(&mut self) {
        for kind in SealedKind::ALL {
            let used: BTreeSet<String> = self.services.values().flat_map(|s| kind.mounts(s).values()).map(|m| m.source.clone()).collect();
            kind.objects_mut(self).retain(|name, _| used.contains(name));
        }
    }
}

impl HostSpec {
    /// The digests of all values that this host needs, each with the name of an object that has it.
    #[must_use]
    pub fn sealed_digests(&self) -> BTreeMap<&str, String> {
        let sealed = self.docker.iter().flat_map(DockerSpec::sealed);
        sealed.map(|(kind, name, spec)| (spec.digest.as_str(), format!("{} `{name}`", kind.word()))).collect()
    }

    /// Puts in the digests that a signed source has, by [`Origin::key`]; says what it has none of, as `secret `x``, with where that
    /// comes from.
    ///
    /// # Errors
    /// What it has none of.
    pub fn know_sealed(&mut self, digests: &BTreeMap<String, String>) -> Result<(), Vec<(String, Origin)>> {
        let Some(docker) = &mut self.docker else { return Ok(()) };
        let mut unknown = Vec::new();
        for kind in SealedKind::ALL {
            for (name, spec) in kind.objects_mut(docker) {
                let Some(origin) = &spec.origin else { continue };
                match digests.get(&origin.key(kind, name)) {
                    Some(digest) => spec.digest.clone_from(digest),
                    None => unknown.push((format!("{} `{name}`", kind.word()), origin.clone())),
                }
            }
        }
        if unknown.is_empty() { Ok(()) } else { Err(unknown) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> SealedFile {
        SealedFile { kind: SealedKind::Config, digest: "0f".repeat(32), uid: Some(33), gid: None, mode: 0o400, name: name.to_owned() }
    }

    #[test]
    fn a_digest_depends_on_the_key_the_place_and_the_value() {
        let of = |key: u8, topology: &str, kind, name, value: &[u8]| {
            digest(&[key; 32], &TopologyId::parse(topology).unwrap(), kind, name, value)
        };
        let all = [
            of(1, "edge", SealedKind::Secret, "a", b"x"),
            of(2, "edge", SealedKind::Secret, "a", b"x"),
            of(1, "edge-2", SealedKind::Secret, "a", b"x"),
            of(1, "edge", SealedKind::Config, "a", b"x"),
            of(1, "edge", SealedKind::Secret, "ax", b""),
            of(1, "edge", SealedKind::Secret, "a", b"y"),
        ];
        assert!(all.iter().all(|d| is_digest(d)));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert_eq!(all[0], of(1, "edge", SealedKind::Secret, "a", b"x"));
        assert!(!is_digest("") && !is_digest(&"F0".repeat(32)) && !is_digest(&"0".repeat(63)));
    }

    #[test]
    fn a_file_has_one_name_and_no_other_text_is_one() {
        let one = file("site.conf-2");
        assert_eq!(one.to_string(), format!("config.{}.33.-.0400.site.conf-2", "0f".repeat(32)));
        assert_eq!(one.to_string().parse(), Ok(one.clone()));
        let text = one.to_string();
        for wrong in [
            String::new(),
            text.replace("config", "x"),
            text.replace("0400", "400"),
            text.replace("0400", "4000"),
            text.replace(".33.", ".033."),
            text.replace(".33.", ".+33."),
            text.replace("0f0f", "0F0f"),
            text.replace("site", ".."),
            text.replace("site", "a/b"),
            text.replace("site.conf-2", ""),
            text.replace("site", &"s".repeat(NAME_MAX)),
        ] {
            assert_eq!(wrong.parse::<SealedFile>(), Err(NotSealedFile), "{wrong}");
        }
        let mount = SealedMount { source: "../x".to_owned(), ..SealedMount::default() };
        let spec = SealedSpec { origin: None, digest: "0f".repeat(32) };
        assert_eq!(SealedFile::new(SealedKind::Secret, &mount, &spec), None);
    }
}
