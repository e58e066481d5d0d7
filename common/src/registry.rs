//! Image names and the credentials of their registries, as Docker writes them. Reads no files itself.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// The registry of images whose names have none.
pub const HUB: &str = "docker.io";
/// Docker Hub's name in `config.json` and to the engine.
pub const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The parts of an image's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// The registry's `host` or `host:port`; [`HUB`] when the name has none.
    pub registry: String,
    /// The name within the registry: `library/nginx` for `nginx`.
    pub repository: String,
    /// The name as it is written, without tag and digest.
    pub familiar: String,
    /// The tag, if the name has one.
    pub tag: Option<String>,
    /// The digest with its algorithm, if the name has one.
    pub digest: Option<String>,
}

/// Whether the first part of a name is a registry's: engines take one with a capital letter for a host, too.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

impl ImageName {
    /// Takes a name apart. Any text has parts; whether they are well-formed is judged where topologies are read.
    #[must_use]
    pub fn of(text: &str) -> Self {
        let (name, digest) = text.split_once('@').map_or((text, None), |(name, digest)| (name, Some(digest.to_owned())));
        let (familiar, tag) = match name.rsplit_once(':') {
            // A colon before the last slash is a registry's port.
            Some((familiar, tag)) if !tag.contains('/') => (familiar, Some(tag.to_owned())),
            Some(_) | None => (name, None),
        };
        let (registry, path) = match familiar.split_once('/') {
            Some((first, path)) if is_host(first) => (canonical_host(first), path),
            Some(_) | None => (HUB.to_owned(), familiar),
        };
        let repository = if registry == HUB && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        Self { registry, repository, familiar: familiar.to_owned(), tag, digest }
    }

    /// What the engine is asked for: the digest, which is the image whatever the tag says now, else the tag.
    #[must_use]
    pub fn reference(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// The name with its tag and this digest.
    #[must_use]
    pub fn pinned(&self, digest: &str) -> String {
        let tag = self.tag.as_ref().map(|t| format!(":{t}")).unwrap_or_default();
        format!("{}{tag}@{digest}", self.familiar)
    }
}

/// A registry's host as it stands in images' names and in Docker's `config.json`, there with scheme and path: Docker Hub's
/// names are one.
#[must_use]
pub fn canonical_host(text: &str) -> String {
    let plain = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let host = plain.split('/').next().unwrap_or_default().to_ascii_lowercase();
    if host == "index.docker.io" { HUB.to_owned() } else { host }
}

/// Whether `text` is a digest as registries give them.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let hex = |h: &str| h.len() == 64 && h.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:").is_some_and(hex)
}

/// What a registry lets somebody in by. Never shown: it has no `Debug`.
#[derive(Clone)]
pub enum Credentials {
    /// A name and a password, or an access token in its place.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Zeroizing<String>,
    },
    /// A token that the registry gave when somebody logged in.
    IdentityToken(Zeroizing<String>),
}

impl Credentials {
    /// The engine's `X-Registry-Auth` for `registry`, before its base64.
    #[must_use]
    pub fn engine_json(&self, registry: &str) -> Zeroizing<String> {
        let address = if registry == HUB { HUB_KEY } else { registry };
        let json = match self {
            Self::Password { username, password } => {
                serde_json::json!({ "username": username, "password": password.as_str(), "serveraddress": address })
            }
            Self::IdentityToken(token) => serde_json::json!({ "identitytoken": token.as_str(), "serveraddress": address }),
        };
        Zeroizing::new(json.to_string())
    }

    /// What follows `Basic ` in an HTTP request; `None` for a token, which is no password.
    #[must_use]
    pub fn basic(&self) -> Option<Zeroizing<String>> {
        match self {
            Self::Password { username, password } => {
                Some(Zeroizing::new(BASE64.encode(Zeroizing::new(format!("{username}:{}", password.as_str())).as_bytes())))
            }
            Self::IdentityToken(_) => None,
        }
    }

    /// `text` without the secret in it: a registry's own words may repeat what it was sent.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let (Self::Password { password: secret, .. } | Self::IdentityToken(secret)) = self;
        let basic = self.basic();
        let secrets = [Some(secret.as_str()), basic.as_ref().map(|b| b.as_str())];
        secrets.into_iter().flatten().filter(|s| !s.is_empty()).fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

/// Why a Docker `config.json` gives no credentials. Never repeats what stands in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerConfigError {
    /// It is not what Docker writes.
    #[error("it is no Docker configuration (line {line}, column {column})")]
    Malformed {
        /// The line of the first thing that is wrong.
        line: usize,
        /// Its column.
        column: usize,
    },
    /// The entry is neither a name with a password nor a token.
    #[error("its entry for `{0}` is neither base64 of `name:password` nor a token; log in anew with `docker login {0}`")]
    Entry(String),
    /// Another program keeps the credentials.
    #[error(
        "it keeps the credentials of `{registry}` in the helper `docker-credential-{helper}`, which is not run; write them into a \
         file of their own, with `auths` and without `credsStore` and `credHelpers`"
    )]
    Helper {
        /// The registry.
        registry: String,
        /// The helper's name.
        helper: String,
    },
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "secret")]
    auth: Zeroizing<String>,
    username: String,
    #[serde(deserialize_with = "secret")]
    password: Zeroizing<String>,
    #[serde(deserialize_with = "secret")]
    identitytoken: Zeroizing<String>,
}

fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

/// The credentials of `registry` (as [`canonical_host`] writes it) in a Docker `config.json`.
///
/// # Errors
/// [`DockerConfigError`].
pub fn from_docker_config(bytes: &[u8], registry: &str) -> Result<Option<Credentials>, DockerConfigError> {
    let config: DockerConfig =
        serde_json::from_slice(bytes).map_err(|e| DockerConfigError::Malformed { line: e.line(), column: e.column() })?;
    let bad = || DockerConfigError::Entry(registry.to_owned());
    let entry = config.auths.iter().find(|(key, _)| canonical_host(key) == registry).map(|(_, entry)| entry);
    if let Some(entry) = entry {
        if !entry.identitytoken.is_empty() {
            return Ok(Some(Credentials::IdentityToken(entry.identitytoken.clone())));
        }
        if !entry.auth.is_empty() {
            let bytes = BASE64.decode(entry.auth.trim()).map(Zeroizing::new).map_err(|_| bad())?;
            let text = std::str::from_utf8(&bytes).map_err(|_| bad())?;
            let (username, password) = text.split_once(':').ok_or_else(bad)?;
            let password = Zeroizing::new(password.trim_end_matches('\0').to_owned());
            return Ok(Some(Credentials::Password { username: username.to_owned(), password }));
        }
        if !entry.username.is_empty() {
            return Ok(Some(Credentials::Password { username: entry.username.clone(), password: entry.password.clone() }));
        }
    }
    let named = config.cred_helpers.iter().find(|(key, _)| canonical_host(key) == registry).map(|(_, helper)| helper);
    // An empty entry is how Docker marks what its store keeps.
    let helper = named.or(config.creds_store.as_ref().filter(|_| entry.is_some()));
    match helper {
        Some(helper) => Err(DockerConfigError::Helper { registry: registry.to_owned(), helper: helper.clone() }),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(config: &serde_json::Value, registry: &str) -> Result<Option<(String, String)>, DockerConfigError> {
        let found = from_docker_config(config.to_string().as_bytes(), registry)?;
        Ok(found.map(|c| match c {
            Credentials::Password { username, password } => (username, password.to_string()),
            Credentials::IdentityToken(token) => ("(token)".to_owned(), token.to_string()),
        }))
    }

    #[test]
    fn a_name_has_the_parts_that_docker_sees_in_it() {
        let parts = |text: &str| {
            let name = ImageName::of(text);
            (name.registry.clone(), name.repository.clone(), name.reference().to_owned())
        };
        let is = |r: &str, p: &str, t: &str| (r.to_owned(), p.to_owned(), t.to_owned());
        assert_eq!(parts("nginx"), is("docker.io", "library/nginx", "latest"));
        assert_eq!(parts("index.docker.io/team/app:2"), is("docker.io", "team/app", "2"));
        assert_eq!(parts("localhost/app:1"), is("localhost", "app", "1"));
        assert_eq!(parts("Reg.example:5000/a/b"), is("reg.example:5000", "a/b", "latest"));
        assert_eq!(parts("reg.example:5000/a/b:2@sha256:00"), is("reg.example:5000", "a/b", "sha256:00"));
        assert_eq!(ImageName::of("reg.example:5000/a:1").pinned("sha256:00"), "reg.example:5000/a:1@sha256:00");
        assert_eq!(ImageName::of("nginx").pinned("sha256:00"), "nginx@sha256:00");
    }

    #[test]
    fn credentials_are_those_of_exactly_that_registry() {
        let config = serde_json::json!({ "auths": {
            "https://index.docker.io/v1/": { "auth": BASE64.encode("me:a:b") },
            "https://reg.example": { "username": "ci", "password": "x" },
            "token.example:5000": { "auth": "", "identitytoken": "t" },
        } });
        let pair = |a: &str, b: &str| Ok(Some((a.to_owned(), b.to_owned())));
        assert_eq!(password(&config, HUB), pair("me", "a:b"));
        assert_eq!(password(&config, "reg.example"), pair("ci", "x"));
        assert_eq!(password(&config, "token.example:5000"), pair("(token)", "t"));
        for other in ["example", "reg.example:5000", "sub.reg.example", "token.example"] {
            assert_eq!(password(&config, other), Ok(None), "{other}");
        }
    }

    #[test]
    fn what_a_helper_keeps_is_refused_and_nothing_is_repeated_from_the_file() {
        let config = serde_json::json!({
            "auths": { "a.example": {}, "b.example": { "auth": BASE64.encode("u:p") } }, "credsStore": "desktop",
            "credHelpers": { "c.example": "ecr-login" }
        });
        let helper = |registry: &str| password(&config, registry).unwrap_err().to_string();
        assert!(helper("a.example").contains("docker-credential-desktop"));
        assert!(helper("c.example").contains("docker-credential-ecr-login"));
        assert_eq!(password(&config, "b.example").unwrap().unwrap().1, "p");
        assert_eq!(password(&config, "d.example"), Ok(None), "nobody logged in there");
        let bad = serde_json::json!({ "auths": { "a.example": { "auth": "bm8tY29sb24=" } } });
        assert_eq!(password(&bad, "a.example"), Err(DockerConfigError::Entry("a.example".to_owned())));
        let Err(error) = from_docker_config(b"{\"auths\": \"hunter2\"}", "a.example") else { panic!("read") };
        assert!(!error.to_string().contains("hunter2") && error.to_string().contains("line 1"), "{error}");
    }

    #[test]
    fn the_secret_is_taken_out_of_what_others_say() {
        let credentials = Credentials::Password { username: "me".to_owned(), password: Zeroizing::new("hunter2".to_owned()) };
        let basic = BASE64.encode("me:hunter2");
        assert_eq!(credentials.scrub(&format!("wrong hunter2, sent {basic}")), "wrong ***, sent ***");
    }
}
