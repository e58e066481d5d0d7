//! By what private registries let this host in: where the credentials stand, and reading them.
//!
//! They are this host's own and never come from an operator or the hub. The files are read anew for each pull, so that a
//! changed password needs no restart, and what they hold goes to the engine alone: into no log, record, receipt or error.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use moorline_common::registry::{self, Credentials, DockerConfigError};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::files::{self, PrivateError};
use crate::limits::{CREDENTIALS_MAX, REGISTRIES_MAX};

/// Where the credentials stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    /// A Docker `config.json`, for the registries that are not named here.
    pub docker_config: Option<PathBuf>,
    /// By the registry's `host` or `host:port`, as [`registry::canonical_host`] writes it.
    pub named: BTreeMap<String, Login>,
}

/// One registry's login.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table with `username` and `password_file`")]
pub struct Login {
    /// The name.
    pub username: String,
    /// A file with the password and nothing else; a line's end behind it does not count.
    pub password_file: PathBuf,
}

/// Why there are no usable credentials. Never repeats what stands in a file.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// There is no such file.
    #[error("the credentials file {} does not exist; write it, or take it out of the agent's configuration", .0.display())]
    Missing(PathBuf),
    /// Others may read it.
    #[error("others may read the credentials file {path} (mode {mode:04o}); `chmod 600` it, and change what stands in it", path = .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It cannot be read.
    #[error("the credentials file {path} cannot be read: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no password.
    #[error("the password file {} must hold one line of text, the password", .0.display())]
    NoPassword(PathBuf),
    /// It is no Docker configuration with credentials in it.
    #[error("the credentials file {path}: {source}", path = .path.display())]
    DockerConfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DockerConfigError,
    },
}

impl Registries {
    /// From what `agent.toml` says; adds to `problems` what is wrong with it.
    pub(crate) fn new(docker_config: Option<PathBuf>, named: BTreeMap<String, Login>, problems: &mut Vec<String>) -> Self {
        let mut found = Self { docker_config, named: BTreeMap::new() };
        if named.len() > REGISTRIES_MAX {
            problems.push(format!("more than {REGISTRIES_MAX} registries"));
        }
        for (key, login) in named {
            let host = registry::canonical_host(&key);
            let is_name = !host.is_empty() && !key.contains(['/', '@']) && !key.contains(char::is_whitespace);
            // An address may have a password before its `@`.
            let key = key.rsplit_once('@').map_or(key.as_str(), |(_, address)| address);
            if !is_name {
                problems.push(format!("registry `{key}` is no `host` or `host:port`, as it stands in images' names"));
            }
            // A colon ends the name where the password begins.
            if login.username.is_empty() || login.username.contains(':') {
                problems.push(format!("registry `{key}`: the username must not be empty or contain `:`"));
            }
            if !login.password_file.is_absolute() {
                // It may be the password itself.
                problems.push(format!(
                    "registry `{key}`: password_file is not an absolute path; write the password into a file, and its path here"
                ));
            }
            if found.named.insert(host, login).is_some() {
                problems.push(format!("registry `{key}` is named twice"));
            }
        }
        if let Some(path) = found.docker_config.as_deref().filter(|p| !p.is_absolute()) {
            problems.push(format!("docker_config `{}` is not an absolute path", path.display()));
        }
        found
    }

    /// The credentials of `host` (as [`registry::canonical_host`] writes it), read now; `None` when it has none.
    ///
    /// # Errors
    /// [`CredentialsError`] when it should have some that cannot be used.
    pub fn read(&self, host: &str) -> Result<Option<Credentials>, CredentialsError> {
        if let Some(login) = self.named.get(host) {
            let path = &login.password_file;
            let bytes = read(path)?;
            let no_password = || CredentialsError::NoPassword(path.clone());
            let line = std::str::from_utf8(&bytes).map_err(|_| no_password())?.trim_end_matches(['\r', '\n']);
            if line.is_empty() || line.contains(['\r', '\n', '\0']) {
                return Err(no_password());
            }
            let password = Zeroizing::new(line.to_owned());
            return Ok(Some(Credentials::Password { username: login.username.clone(), password }));
        }
        let Some(path) = &self.docker_config else { return Ok(None) };
        let bytes = read(path)?;
        registry::from_docker_config(&bytes, host).map_err(|source| CredentialsError::DockerConfig { path: path.clone(), source })
    }

    /// Every file that cannot be used, whichever registry it is for.
    #[must_use]
    pub fn problems(&self) -> Vec<CredentialsError> {
        let named = self.named.keys().filter_map(|host| self.read(host).err());
        let config = self.docker_config.as_deref().and_then(|path| {
            let read = read(path).and_then(|bytes| {
                let checked = registry::from_docker_config(&bytes, "").map(drop);
                checked.map_err(|source| CredentialsError::DockerConfig { path: path.to_owned(), source })
            });
            read.err()
        });
        named.chain(config).collect()
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, CredentialsError> {
    match files::read_private(path, CREDENTIALS_MAX) {
        Ok(Some(bytes)) => Ok(Zeroizing::new(bytes)),
        Ok(None) => Err(CredentialsError::Missing(path.to_owned())),
        Err(PrivateError::Exposed(mode)) => Err(CredentialsError::Exposed { path: path.to_owned(), mode }),
        Err(PrivateError::Io(source)) => Err(CredentialsError::Unreadable { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn write(path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn password(registries: &Registries, host: &str) -> Result<Option<String>, String> {
        let found = registries.read(host).map_err(|e| e.to_string())?;
        Ok(found.map(|c| match c {
            Credentials::Password { username, password } => format!("{username}/{}", password.as_str()),
            Credentials::IdentityToken(token) => token.to_string(),
        }))
    }

    #[test]
    fn a_login_is_read_anew_each_time_and_only_for_its_registry() {
        let dir = tempfile::tempdir().unwrap();
        let (file, config) = (dir.path().join("password"), dir.path().join("config.json"));
        write(&config, "{\"auths\":{\"other.example\":{\"username\":\"o\",\"password\":\"p\"}}}", 0o600);
        let login = Login { username: "ci".into(), password_file: file.clone() };
        let mut problems = Vec::new();
        let named = BTreeMap::from([("Reg.example:5000".to_owned(), login)]);
        let registries = Registries::new(Some(config), named, &mut problems);
        assert!(problems.is_empty());
        write(&file, "one\n", 0o600);
        assert_eq!(password(&registries, "reg.example:5000"), Ok(Some("ci/one".into())));
        write(&file, "two", 0o600);
        assert_eq!(password(&registries, "reg.example:5000"), Ok(Some("ci/two".into())));
        assert_eq!(password(&registries, "other.example"), Ok(Some("o/p".into())));
        assert_eq!(password(&registries, "reg.example"), Ok(None));
        assert!(registries.problems().is_empty());
    }

    #[test]
    fn a_file_that_others_may_read_or_that_is_no_password_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let login = Login { username: "ci".into(), password_file: file.clone() };
        let registries = Registries { docker_config: None, named: BTreeMap::from([("reg.example".to_owned(), login)]) };
        assert!(password(&registries, "reg.example").unwrap_err().contains("does not exist"));
        for mode in [0o644, 0o604, 0o602, 0o601] {
            write(&file, "hunter2", mode);
            let error = password(&registries, "reg.example").unwrap_err();
            assert!(error.contains("others may read") && error.contains("chmod 600") && !error.contains("hunter2"), "{error}");
        }
        assert_eq!(registries.problems().len(), 1);
        for bad in ["", "\n", "two\nlines"] {
            write(&file, bad, 0o600);
            assert!(password(&registries, "reg.example").unwrap_err().contains("one line"), "{bad:?}");
        }
    }

    #[test]
    fn every_problem_of_the_configuration_is_told() {
        let login = |username: &str, file: &str| Login { username: username.into(), password_file: file.into() };
        let named = BTreeMap::from([
            ("https://reg.example".to_owned(), login("", "password")),
            ("docker.io".to_owned(), login("a", "/p")),
            ("index.docker.io".to_owned(), login("a", "/p")),
        ]);
        let mut problems = Vec::new();
        Registries::new(Some("config.json".into()), named, &mut problems);
        assert_eq!(problems.len(), 5, "{problems:?}");
    }
}
