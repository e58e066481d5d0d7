//! The section `[cloud.digitalocean]` of `hub.toml`.

use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::TokenSource;
use super::budgets::{SYNC_DEFAULT_S, SYNC_MAX_S, SYNC_MIN_S};
use super::digitalocean::URL_DEFAULT;

/// The section `[cloud]` as it stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CloudFile {
    /// DigitalOcean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digitalocean: Option<DigitalOceanFile>,
}

/// The section `[cloud.digitalocean]` as it stands in the file. It names where tokens are, and holds none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DigitalOceanFile {
    /// The file with the token that reads what there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inventory_token_file: Option<PathBuf>,
    /// The variable with it, instead of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inventory_token_env: Option<String>,
    /// The file with the token that makes, changes and deletes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provision_token_file: Option<PathBuf>,
    /// The variable with it, instead of a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provision_token_env: Option<String>,
    /// Where the API is.
    pub url: String,
    /// Authorities to be trusted beside the machine's, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Seconds between two syncs of the inventory.
    pub sync_every_s: u64,
}

impl Default for DigitalOceanFile {
    fn default() -> Self {
        Self {
            inventory_token_file: None,
            inventory_token_env: None,
            provision_token_file: None,
            provision_token_env: None,
            url: URL_DEFAULT.to_owned(),
            ca_file: None,
            sync_every_s: SYNC_DEFAULT_S,
        }
    }
}

/// A checked configuration of a cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudConfig {
    /// Where the token is that reads; without one there is no inventory.
    pub inventory: Option<TokenSource>,
    /// Where the token is that makes, changes and deletes; without one no saga does anything in this cloud.
    pub provisioning: Option<TokenSource>,
    /// Where the API is.
    pub url: Url,
    /// Authorities to be trusted beside the machine's.
    pub ca_file: Option<PathBuf>,
    /// Seconds between two syncs of the inventory.
    pub sync_every_s: u64,
}

impl DigitalOceanFile {
    /// Checks every key; paths are those of the hub's folder. Tokens are not read yet.
    ///
    /// # Errors
    /// One line per problem.
    pub fn check(self, dir: &Path) -> Result<CloudConfig, Vec<String>> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, words: String| problems.push(format!("  cloud.digitalocean.{key}: {words}"));
        let inventory = source("inventory", self.inventory_token_file, self.inventory_token_env, dir, &mut wrong);
        let provisioning = source("provision", self.provision_token_file, self.provision_token_env, dir, &mut wrong);
        let url = Url::parse(&self.url).ok().filter(is_base);
        if url.is_none() {
            wrong("url", format!("`{}` is not an address of the form https://host:port, such as {URL_DEFAULT}", shown(&self.url)));
        }
        if !(SYNC_MIN_S..=SYNC_MAX_S).contains(&self.sync_every_s) {
            wrong("sync_every_s", format!("{} is not between {SYNC_MIN_S} and {SYNC_MAX_S}", self.sync_every_s));
        }
        match url {
            Some(url) if problems.is_empty() => {
                let ca_file = self.ca_file.map(|path| dir.join(path));
                Ok(CloudConfig { inventory, provisioning, url, ca_file, sync_every_s: self.sync_every_s })
            }
            Some(_) | None => Err(problems),
        }
    }
}

fn source(role: &str, file: Option<PathBuf>, env: Option<String>, dir: &Path, wrong: &mut impl FnMut(&str, String)) -> Option<TokenSource> {
    match (file, env) {
        (Some(_), Some(_)) => {
            wrong(&format!("{role}_token_file"), format!("name a file or a variable ({role}_token_env), not both"));
            None
        }
        (Some(path), None) if path.as_os_str().is_empty() => {
            wrong(&format!("{role}_token_file"), "no file is named".to_owned());
            None
        }
        (Some(path), None) => Some(TokenSource::File(dir.join(path))),
        (None, Some(name)) if is_variable(&name) => Some(TokenSource::Env(name)),
        (None, Some(_)) => {
            // It may be the token itself, put into the wrong place: it is not repeated.
            wrong(&format!("{role}_token_env"), "this is no name of a variable: letters, digits and _, the first one no digit".to_owned());
            None
        }
        (None, None) => None,
    }
}

fn is_variable(name: &str) -> bool {
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    starts && name.len() <= 128 && !name.starts_with("dop_v1_") && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn is_base(url: &Url) -> bool {
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    url.scheme() == "https" && url.host().is_some() && is_plain && url.path() == "/"
}

/// An address may be written with a password in it.
fn shown(url: &str) -> &str {
    url.rsplit_once('@').map_or(url, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_without_anything_has_defaults_and_no_tokens() {
        let config = DigitalOceanFile::default().check(Path::new("/hub")).unwrap();
        assert_eq!((config.url.as_str(), config.sync_every_s), ("https://api.digitalocean.com/", 300));
        assert_eq!((config.inventory, config.provisioning), (None, None));
    }

    #[test]
    fn every_problem_is_reported_at_once_and_no_token_is_repeated() {
        let file = DigitalOceanFile {
            inventory_token_file: Some(PathBuf::from("a")),
            inventory_token_env: Some("A".to_owned()),
            provision_token_env: Some("dop_v1_0123456789abcdef".to_owned()),
            url: "https://me:hush@api.example/x".to_owned(),
            sync_every_s: 1,
            ..DigitalOceanFile::default()
        };
        let problems = file.check(Path::new("/hub")).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        assert!(!problems.concat().contains("0123456789") && !problems.concat().contains("hush"), "{problems:?}");
    }

    #[test]
    fn only_https_to_a_host_is_an_address() {
        for bad in
            ["http://api.example", "https://", "api.example", "https://api.example/v2", "https://api.example/?x", "https://u@api.example"]
        {
            let file = DigitalOceanFile { url: bad.to_owned(), ..DigitalOceanFile::default() };
            assert!(file.check(Path::new("/hub")).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_those_of_the_hubs_folder() {
        let file = DigitalOceanFile {
            provision_token_file: Some(PathBuf::from("do.token")),
            inventory_token_file: Some(PathBuf::from("/run/credentials/do")),
            ca_file: Some(PathBuf::from("ca.pem")),
            ..DigitalOceanFile::default()
        };
        let config = file.check(Path::new("/hub")).unwrap();
        assert_eq!(config.provisioning, Some(TokenSource::File(PathBuf::from("/hub/do.token"))));
        assert_eq!(config.inventory, Some(TokenSource::File(PathBuf::from("/run/credentials/do"))));
        assert_eq!(config.ca_file, Some(PathBuf::from("/hub/ca.pem")));
    }
}
