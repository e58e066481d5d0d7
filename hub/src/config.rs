//! `hub.toml`: read, defaulted and checked before any socket is opened.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cloud::config::{CloudConfig, CloudFile};
use crate::limits;

/// The configuration file's name in the hub's folder.
pub const FILE: &str = "hub.toml";
/// Where the hub listens when nothing else is said.
pub const LISTEN_DEFAULT: &str = "0.0.0.0:7443";

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The file as it stands on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConfigFile {
    /// The address to listen on, `ip:port`.
    pub listen: String,
    /// Addresses that agents and operators should dial, `host:port`. Empty: this machine's name and the port.
    pub advertise: Vec<String>,
    /// Milliseconds between two heartbeats of an agent.
    pub heartbeat_interval_ms: u32,
    /// The form of the log.
    pub log: LogFormat,
    /// Clouds in which sagas make and change things.
    #[serde(skip_serializing_if = "is_none")]
    pub cloud: CloudFile,
}

fn is_none(cloud: &CloudFile) -> bool {
    *cloud == CloudFile::default()
}

impl Default for ConfigFile {
    fn default() -> Self {
        Self {
            listen: LISTEN_DEFAULT.to_owned(),
            advertise: Vec::new(),
            heartbeat_interval_ms: limits::HEARTBEAT_DEFAULT_MS,
            log: LogFormat::Text,
            cloud: CloudFile::default(),
        }
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The hub's folder.
    pub dir: PathBuf,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Addresses that agents and operators should dial.
    pub advertise: Vec<String>,
    /// Milliseconds between two heartbeats of an agent.
    pub heartbeat_interval_ms: u32,
    /// The form of the log.
    pub log: LogFormat,
    /// DigitalOcean, if it is used.
    pub digitalocean: Option<CloudConfig>,
}

/// A configuration that cannot be used; lists every problem.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("cannot read {path}: {source}; `moorline-hub init` makes a new hub")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is not valid.
    #[error("{path} is not valid:\n{problems}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Each problem on its own line.
        problems: String,
    },
}

impl Config {
    /// Reads and checks `dir/hub.toml`; `listen` replaces the file's.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems at once.
    pub fn load(dir: &Path, listen: Option<&str>) -> Result<Self, ConfigError> {
        let path = dir.join(FILE);
        let read = |source| ConfigError::Read { path: path.clone(), source };
        let size = std::fs::metadata(&path).map_err(read)?.len();
        if size > limits::CONFIG_MAX {
            return Err(ConfigError::Invalid { path, problems: format!("  it has {size} bytes; at most {} are read", limits::CONFIG_MAX) });
        }
        let text = std::fs::read_to_string(&path).map_err(read)?;
        let (mut file, mut problems) = parse(&text);
        if let Some(listen) = listen {
            listen.clone_into(&mut file.listen);
        }
        match file.check(dir) {
            Ok(config) if problems.is_empty() => Ok(config),
            Ok(_) => Err(ConfigError::Invalid { path, problems: problems.join("\n") }),
            Err(more) => {
                problems.extend(more);
                Err(ConfigError::Invalid { path, problems: problems.join("\n") })
            }
        }
    }
}

/// Reads the file key by key, so that one mistake does not hide the next.
fn parse(text: &str) -> (ConfigFile, Vec<String>) {
    let mut problems = Vec::new();
    let table: toml::Table = match toml::from_str(text) {
        Ok(table) => table,
        Err(error) => return (ConfigFile::default(), vec![format!("  {error}")]),
    };
    let mut good = toml::Table::new();
    for (key, value) in table {
        let one = toml::Table::from_iter([(key.clone(), value.clone())]);
        match one.try_into::<ConfigFile>() {
            Ok(_) => {
                good.insert(key, value);
            }
            Err(error) => {
                let words = error.message();
                problems.push(format!("  line {}: {key}: {words}", line_of(text, &key)));
            }
        }
    }
    (good.try_into().unwrap_or_default(), problems)
}

/// The line on which a top-level key stands.
fn line_of(text: &str, key: &str) -> usize {
    let stands = |line: &str| line.trim_start().trim_start_matches(['"', '[']).starts_with(key);
    text.lines().position(stands).map_or(1, |n| n + 1)
}

impl ConfigFile {
    /// Checks every key.
    ///
    /// # Errors
    /// One line per problem.
    pub fn check(self, dir: &Path) -> Result<Config, Vec<String>> {
        let mut problems = Vec::new();
        let listen = self.listen.parse::<SocketAddr>();
        if listen.is_err() {
            problems.push(format!("  listen: `{}` is not an address of the form ip:port, such as {LISTEN_DEFAULT}", self.listen));
        }
        if self.advertise.len() > limits::ADVERTISE_MAX {
            problems.push(format!("  advertise: {} addresses; at most {} are used", self.advertise.len(), limits::ADVERTISE_MAX));
        }
        for address in self.advertise.iter().filter(|a| !is_host_port(a)) {
            problems.push(format!("  advertise: `{address}` is not an address of the form host:port"));
        }
        if !(limits::HEARTBEAT_MIN_MS..=limits::HEARTBEAT_MAX_MS).contains(&self.heartbeat_interval_ms) {
            problems.push(format!(
                "  heartbeat_interval_ms: {} is not between {} and {}",
                self.heartbeat_interval_ms,
                limits::HEARTBEAT_MIN_MS,
                limits::HEARTBEAT_MAX_MS
            ));
        }
        let digitalocean = self.cloud.digitalocean.map(|file| file.check(dir)).transpose().unwrap_or_else(|more| {
            problems.extend(more);
            None
        });
        match listen {
            Ok(listen) if problems.is_empty() => Ok(Config {
                dir: dir.to_owned(),
                listen,
                advertise: self.advertise,
                heartbeat_interval_ms: self.heartbeat_interval_ms,
                log: self.log,
                digitalocean,
            }),
            Ok(_) | Err(_) => Err(problems),
        }
    }
}

/// Whether `text` is `host:port` with a name or address and a port that is not 0.
#[must_use]
pub fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let host_ok = !host.is_empty()
        && host.len() <= 255
        && (bracketed || !host.contains(':'))
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    host_ok && port.parse::<u16>().is_ok_and(|p| p != 0)
}

/// The addresses to hand out: those configured, or this machine's name (or its one address) with `port`.
#[must_use]
pub fn advertised(advertise: &[String], listen: SocketAddr) -> Vec<String> {
    if !advertise.is_empty() {
        return advertise.to_vec();
    }
    if listen.ip().is_unspecified() { vec![format!("{}:{}", machine_name(), listen.port())] } else { vec![listen.to_string()] }
}

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_reported_at_once() {
        let file = ConfigFile {
            listen: "here".to_owned(),
            advertise: vec!["nowhere".to_owned(), "x:0".to_owned()],
            heartbeat_interval_ms: 1,
            log: LogFormat::Text,
            cloud: CloudFile::default(),
        };
        let problems = file.check(Path::new("/x")).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
    }

    #[test]
    fn one_mistake_in_the_file_does_not_hide_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let text = "listen = \"nowhere\"\nlissten = 1\nadvertise = \"hub\"\nlog = \"xml\"\n\n[more]\nx = 1\n";
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let error = Config::load(dir.path(), None).unwrap_err().to_string();
        for part in ["line 2: lissten: unknown field", "line 3: advertise:", "line 4: log:", "line 6: more: unknown", "listen: `nowhere`"] {
            assert!(error.contains(part), "{part} is missing in {error}");
        }
    }

    #[test]
    fn a_file_that_is_no_toml_says_where() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "listen = \"127.0.0.1:1\"\nx = = 1\n").unwrap();
        let error = Config::load(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }

    #[test]
    fn addresses_are_told_from_other_text() {
        for good in ["hub:7443", "10.0.0.1:1", "[::1]:7443", "hub.example.org:65535"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in ["hub", ":1", "hub:0", "hub:70000", "a b:1", "::1:7443", "http://x:1/"] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }
}
