//! Configuration: `agent.toml`, the local policy file, and what the command line overrides.
//!
//! Everything is read and checked, with all problems at once, before any socket or state is opened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moorline_common::op::{Act, Class};
use serde::Deserialize;

use crate::driver::pve::https::parse_fingerprint;
use crate::files;
use crate::limits::{BIND_ROOTS_MAX, CONFIG_MAX, POLICY_WORDS_MAX};
use crate::registries::{Login, Registries};

/// Where the state folder is when nothing says otherwise.
pub const STATE_DEFAULT: &str = "/var/lib/moorline-agent";
/// Where the configuration is when nothing says otherwise. Need not exist.
pub const CONFIG_DEFAULT: &str = "/etc/moorline/agent.toml";
/// Where Docker listens when nothing says otherwise.
pub const DOCKER_SOCKET_DEFAULT: &str = "/var/run/docker.sock";
/// Where files with secrets are when nothing says otherwise.
pub const SECRETS_DIR_DEFAULT: &str = "/run/moorline-agent/secrets";
/// Host paths that containers may mount when no policy file says otherwise.
pub const BIND_ROOT_DEFAULT: &str = "/srv/moorline";

/// What `host_namespaces` may name.
pub const HOST_NAMESPACES: [&str; 7] = ["network", "pid", "ipc", "uts", "user", "cgroup", "mount"];

/// The agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The state folder.
    pub state: PathBuf,
    /// The engine of containers.
    pub driver: DriverKind,
    /// Proxmox VE, if the agent is to manage its guests.
    pub proxmox: Option<Proxmox>,
    /// Docker's socket.
    pub docker_socket: PathBuf,
    /// What this host allows, whatever an operator signs.
    pub policy: Policy,
    /// The folder, in memory, of the files with secrets that containers mount.
    pub secrets_dir: PathBuf,
    /// By what private registries let this host in.
    pub registries: Registries,
    /// What to do after a start while the hub cannot be reached.
    pub offline: Offline,
    /// The form of the log.
    pub log: LogFormat,
    /// The least level that is logged, such as `info`, or a `tracing` filter.
    pub log_level: String,
}

/// Which engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DriverKind {
    /// The Docker Engine.
    #[default]
    Docker,
    /// A simulated engine that keeps its state in the state folder.
    Sim,
    /// None: the agent manages Proxmox VE's guests alone.
    None,
}

/// Where Proxmox VE's API is when nothing says otherwise.
pub const PROXMOX_URL_DEFAULT: &str = "https://127.0.0.1:8006";

/// How the agent gets to Proxmox VE's API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxmox {
    /// Where it is.
    #[serde(default = "proxmox_url_default")]
    pub url: String,
    /// The node that this host is; the host's own name without its domain, if it is left out.
    pub node: Option<String>,
    /// A file with an API token, `user@realm!name=secret`, and nothing else.
    pub token_file: PathBuf,
    /// SHA-256 fingerprints of the API's certificate, as Proxmox VE shows them; several, since it is renewed.
    #[serde(default)]
    pub fingerprints: Vec<String>,
    /// A file with the authorities that may have signed it, in PEM, instead; such as `/etc/pve/pve-root-ca.pem`.
    pub authorities: Option<PathBuf>,
}

fn proxmox_url_default() -> String {
    PROXMOX_URL_DEFAULT.to_owned()
}

/// What to do after a start while the hub cannot be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offline {
    /// Change nothing until the hub has sent the slice again.
    #[default]
    Wait,
    /// Verify the stored slice anew and enforce it.
    Enforce,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What this host allows, whatever an operator signs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Folders of the host below which containers may mount paths.
    #[serde(default = "bind_roots_default")]
    pub bind_roots: Vec<PathBuf>,
    /// Volume drivers, besides `local`, that may be used with any options.
    #[serde(default)]
    pub volume_drivers: Vec<String>,
    /// File systems, such as `nfs`, that volumes of the `local` driver may mount with any options.
    #[serde(default)]
    pub volume_types: Vec<String>,
    /// Whether containers may be privileged: they can do what the host's root can. The same of guests that have the host's devices or
    /// folders, run programs on it, or are containers without a user namespace.
    #[serde(default)]
    pub privileged: bool,
    /// Capabilities, such as `NET_ADMIN`, that containers may have besides the engine's usual ones.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Devices of the host that containers may have.
    #[serde(default)]
    pub devices: Vec<PathBuf>,
    /// Namespaces of the host that containers may share: `network`, `pid`, `ipc`, `uts`, `user` and `cgroup`.
    #[serde(default)]
    pub host_namespaces: Vec<String>,
    /// Security options that containers may have though they take protection away, such as `seccomp=unconfined`.
    #[serde(default)]
    pub security_opts: Vec<String>,
    /// Logging drivers, besides `json-file`, `local` and `none`, that containers may have, with any options.
    #[serde(default)]
    pub log_drivers: Vec<String>,
    /// Programs that containers may name to be run by.
    #[serde(default)]
    pub runtimes: Vec<String>,
    /// Names of networks, volumes, containers and guests (`guest/101`) that Moorline did not make and that a topology may use
    /// (`external`) or take over (`adopt`); `*` at the end stands for any rest.
    #[serde(default)]
    pub outside: Vec<String>,
    /// The greatest class of operation that is done here, whoever signs it. `P` has to be named to be allowed.
    #[serde(default = "op_class_default")]
    pub op_class_max: Class,
    /// Kinds of operation that are never done here, such as `exec`.
    #[serde(default)]
    pub ops_denied: Vec<String>,
    /// Whether the hub may read what containers of its topologies write: no operator signs that.
    #[serde(default = "logs_default")]
    pub logs: bool,
}

const fn logs_default() -> bool {
    true
}

const fn op_class_default() -> Class {
    Class::R4
}

fn bind_roots_default() -> Vec<PathBuf> {
    vec![PathBuf::from(BIND_ROOT_DEFAULT)]
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            bind_roots: bind_roots_default(),
            volume_drivers: Vec::new(),
            volume_types: Vec::new(),
            privileged: false,
            capabilities: Vec::new(),
            devices: Vec::new(),
            host_namespaces: Vec::new(),
            security_opts: Vec::new(),
            log_drivers: Vec::new(),
            outside: Vec::new(),
            runtimes: Vec::new(),
            op_class_max: op_class_default(),
            ops_denied: Vec::new(),
            logs: logs_default(),
        }
    }
}

/// What the command line says; wins over the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--state`.
    pub state: Option<PathBuf>,
    /// `--driver`.
    pub driver: Option<DriverKind>,
    /// `--docker-socket`.
    pub docker_socket: Option<PathBuf>,
}

/// Everything that is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is not usable:\n{}", .0.iter().map(|p| format!("  - {p}")).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub Vec<String>);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    state: Option<PathBuf>,
    driver: Option<DriverKind>,
    docker_socket: Option<PathBuf>,
    proxmox: Option<Proxmox>,
    policy: Option<PathBuf>,
    secrets_dir: Option<PathBuf>,
    docker_config: Option<PathBuf>,
    #[serde(default)]
    registry: BTreeMap<String, Login>,
    #[serde(default)]
    offline: Offline,
    #[serde(default)]
    log: LogFormat,
    log_level: Option<String>,
}

/// Reads the file (the default one only if it exists), applies `overrides` and checks everything.
///
/// # Errors
/// [`ConfigError`] with every problem that was found.
pub fn load(overrides: &Overrides) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let file = match &overrides.config {
        Some(path) => read_toml(path, true, &mut problems),
        None => read_toml(Path::new(CONFIG_DEFAULT), false, &mut problems),
    };
    let file: FileConfig = file.unwrap_or_default();
    let policy = match &file.policy {
        Some(path) => read_toml(path, true, &mut problems).unwrap_or_default(),
        None => Policy::default(),
    };
    let config = Config {
        state: overrides.state.clone().or(file.state).unwrap_or_else(|| STATE_DEFAULT.into()),
        driver: overrides.driver.or(file.driver).unwrap_or_default(),
        docker_socket: overrides.docker_socket.clone().or(file.docker_socket).unwrap_or_else(|| DOCKER_SOCKET_DEFAULT.into()),
        proxmox: file.proxmox,
        policy,
        secrets_dir: file.secrets_dir.unwrap_or_else(|| SECRETS_DIR_DEFAULT.into()),
        registries: Registries::new(file.docker_config, file.registry, &mut problems),
        offline: file.offline,
        log: file.log,
        log_level: file.log_level.unwrap_or_else(|| "info".to_owned()),
    };
    config.validate(&mut problems);
    if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
}

impl Config {
    fn validate(&self, problems: &mut Vec<String>) {
        let mut absolute = |what: &str, path: &Path| {
            if !path.is_absolute() {
                problems.push(format!("{what} `{}` is not an absolute path", path.display()));
            }
        };
        absolute("docker_socket", &self.docker_socket);
        absolute("secrets_dir", &self.secrets_dir);
        if let Some(proxmox) = &self.proxmox {
            absolute("proxmox: token_file", &proxmox.token_file);
            proxmox.authorities.iter().for_each(|path| absolute("proxmox: authorities", path));
        }
        self.policy.bind_roots.iter().for_each(|root| absolute("bind root", root));
        self.policy.devices.iter().for_each(|device| absolute("device", device));
        self.check_proxmox(problems);
        if self.policy.bind_roots.len() > BIND_ROOTS_MAX {
            problems.push(format!("more than {BIND_ROOTS_MAX} bind roots"));
        }
        let Policy {
            volume_drivers,
            volume_types,
            capabilities,
            host_namespaces,
            security_opts,
            log_drivers,
            runtimes,
            devices,
            outside,
            ..
        } = &self.policy;
        let lists = [volume_drivers, volume_types, capabilities, host_namespaces, security_opts, log_drivers, runtimes, outside];
        if lists.into_iter().map(Vec::len).chain([devices.len()]).any(|words| words > POLICY_WORDS_MAX) {
            problems.push(format!("a list of the policy file has more than {POLICY_WORDS_MAX} words"));
        }
        if let Some(unknown) = host_namespaces.iter().find(|name| !HOST_NAMESPACES.contains(&name.as_str())) {
            problems.push(format!("host_namespaces: there is no namespace `{unknown}`; there are {}", HOST_NAMESPACES.join(", ")));
        }
        if let Some(unknown) = self.policy.ops_denied.iter().find(|kind| !Act::KINDS.contains(&kind.as_str())) {
            problems.push(format!("ops_denied: there is no operation `{unknown}`; there are {}", Act::KINDS.join(", ")));
        }
        if self.policy.bind_roots.iter().any(|r| r.components().any(|c| c == std::path::Component::ParentDir)) {
            problems.push("a bind root contains `..`".to_owned());
        }
        if self.log_level.parse::<tracing_subscriber::filter::EnvFilter>().is_err() {
            problems.push(format!("log_level `{}` is not a level such as `info`", self.log_level));
        }
    }
}

impl Config {
    fn check_proxmox(&self, problems: &mut Vec<String>) {
        let Some(Proxmox { url, node, fingerprints, authorities, .. }) = &self.proxmox else {
            if self.driver == DriverKind::None {
                problems.push("driver is `none`, and there is no `[proxmox]`: there is nothing to manage".to_owned());
            }
            return;
        };
        let authority = url.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', '?', '#']) {
            problems.push("proxmox: url is no address such as `https://127.0.0.1:8006`".to_owned());
        }
        if node.as_ref().is_some_and(|node| !moorline_common::pve::upid::is_node(node)) {
            problems.push("proxmox: node is no name of a node".to_owned());
        }
        if fingerprints.is_empty() == authorities.is_none() {
            let remedy = "`pvenode cert info` shows the fingerprint";
            problems
                .push(format!("proxmox: name either `fingerprints` or `authorities`, by which the API's certificate is known; {remedy}"));
        }
        for wrong in fingerprints.iter().filter(|text| parse_fingerprint(text).is_none()) {
            problems.push(format!("proxmox: `{wrong}` is no SHA-256 fingerprint, which has 64 hex digits, with colons or without"));
        }
    }
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path, must_exist: bool, problems: &mut Vec<String>) -> Option<T> {
    let bytes = match files::read_limited(path, CONFIG_MAX) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            if must_exist {
                problems.push(format!("{}: there is no such file", path.display()));
            }
            return None;
        }
        Err(e) => {
            problems.push(format!("{}: {e}", path.display()));
            return None;
        }
    };
    let parsed = std::str::from_utf8(&bytes).map_err(|e| e.to_string()).and_then(parse_toml);
    parsed.map_err(|e| problems.push(format!("{}: {e}", path.display()))).ok()
}

/// Reads `text`. Errors tell the line and what belongs there, and never what stands there: it may be a password.
fn parse_toml<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let at_line = |error: &toml::de::Error, words: &str| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        format!("line {}: {words}", before.matches('\n').count() + 1)
    };
    // What is no TOML at all is told in fixed words; only what comes after may repeat a value.
    toml::de::DeTable::parse(text).map_err(|e| at_line(&e, e.message()))?;
    toml::from_str(text).map_err(|e| at_line(&e, &without_value(e.message())))
}

/// An error of a type without the value that has it; names of keys stay. Words that are not known here are not repeated.
fn without_value(message: &str) -> String {
    const WITH_VALUE: [&str; 4] = ["invalid type", "invalid value", "invalid length", "unknown variant"];
    const WITHOUT: [&str; 3] = ["unknown field `", "missing field `", "wanted "];
    if WITHOUT.iter().any(|words| message.starts_with(words)) {
        return message.to_owned();
    }
    let Some(kind) = WITH_VALUE.into_iter().find(|words| message.starts_with(words)) else {
        return "this cannot stand here".to_owned();
    };
    // Behind the last one: the value may have the word, too.
    message.rsplit_once(", expected ").map_or_else(|| kind.to_owned(), |(_, expected)| format!("{kind}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let policy = write(dir.path(), "policy.toml", "bind_roots = [\"/data\"]");
        let text = format!("state = \"/a\"\ndriver = \"sim\"\noffline = \"enforce\"\npolicy = \"{}\"\nlog = \"json\"", policy.display());
        let overrides =
            Overrides { config: Some(write(dir.path(), "agent.toml", &text)), state: Some("/b".into()), ..Overrides::default() };
        let config = load(&overrides).unwrap();
        assert_eq!(config.state, PathBuf::from("/b"));
        assert_eq!((config.driver, config.offline, config.log), (DriverKind::Sim, Offline::Enforce, LogFormat::Json));
        assert_eq!(config.policy.bind_roots, [PathBuf::from("/data")]);
        assert_eq!(config.docker_socket, PathBuf::from(DOCKER_SOCKET_DEFAULT));
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let policy = write(dir.path(), "policy.toml", "devices = [\"kvm\"]\nhost_namespaces = [\"net\"]");
        let text = format!("docker_socket = \"docker.sock\"\nlog_level = \"x=y=z\"\npolicy = \"{}\"", policy.display());
        let overrides = Overrides { config: Some(write(dir.path(), "agent.toml", &text)), ..Overrides::default() };
        let ConfigError(problems) = load(&overrides).unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
        let text = "docker_socket = \"docker.sock\"\nlog_level = \"x=y=z\"\npolicy = \"/nowhere/policy.toml\"";
        let overrides = Overrides { config: Some(write(dir.path(), "agent.toml", text)), ..Overrides::default() };
        let ConfigError(problems) = load(&overrides).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let overrides = Overrides { config: Some(write(dir.path(), "agent.toml", "\nstaet = \"/a\"")), ..Overrides::default() };
        let text = load(&overrides).unwrap_err().to_string();
        assert!(text.contains("staet") && text.contains("line 2"), "{text}");
        let secret = "[registry.\"registry.example\"]\npassword = \"hunter2\"\n";
        let overrides = Overrides { config: Some(write(dir.path(), "agent.toml", secret)), ..Overrides::default() };
        let text = load(&overrides).unwrap_err().to_string();
        assert!(text.contains("line 2") && text.contains("password") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn what_stands_where_something_else_belongs_is_not_repeated() {
        let refusal = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            let config = Some(write(dir.path(), "agent.toml", text));
            load(&Overrides { config, ..Overrides::default() }).unwrap_err().to_string()
        };
        let login = "line 2: invalid type, expected a table with `username` and `password_file`";
        let path = "line 1: invalid type, expected path string";
        let cases = [
            ("[registry]\n\"reg.example\" = \"puller:hunter2\"", login),
            ("[registry]\n\"reg.example\" = \"a\\\", expected hunter2\"", login),
            ("[registry]\n\"reg.example\" = [\"hunter2\"]", "line 2: invalid length, expected a table"),
            ("[registry]\n\"reg.example\" = 4711", login),
            ("[registry]\n\"reg.example\" = { username = \"hunter2\" }", "line 2: missing field `password_file`"),
            ("registry = \"hunter2\"", "line 1: invalid type, expected a map"),
            ("state = 4711", path),
            ("state = 4711.5", path),
            ("state = 4711-01-01", path),
            ("state = true", path),
            ("state = [\"hunter2\"]", path),
            ("driver = \"hunter2\"", "line 1: unknown variant, expected one of `docker`, `sim`, `none`"),
            ("driver = \"a, expected hunter2\"", "line 1: unknown variant, expected one of `docker`, `sim`, `none`"),
            ("driver = 4711", "line 1: wanted string or table"),
            ("driver = { hunter2 = \"hunter2\" }", "line 1: unknown variant, expected one of `docker`, `sim`, `none`"),
            ("driver = { sim = \"hunter2\" }", "line 1: "),
            ("log = \"text\"\nlog = \"hunter2\"", "line 2: duplicate key"),
            ("log = hunter2", "line 1: "),
            ("log = \"hunter2\nlog_level = 4711", "line 1: "),
            ("log.hunter2", "line 1: "),
            ("log = 4711471147114711471147114711", "line 1: "),
        ];
        for (text, told) in cases {
            let refused = refusal(text);
            assert!(refused.contains(told), "{text}: {refused}");
            assert!(!refused.contains("hunter2") && !refused.contains("4711"), "{text}: {refused}");
        }
    }

    #[test]
    fn a_password_where_its_file_belongs_or_in_a_registry_s_name_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[registry.\"reg.example\"]\nusername = \"ci\"\npassword_file = \"hunter2\"\n\
                    [registry.\"https://ci:hunter2@two.example\"]\nusername = \"ci:hunter2\"\npassword_file = \"/p\"\n";
        let overrides = Overrides { config: Some(write(dir.path(), "agent.toml", text)), ..Overrides::default() };
        let ConfigError(problems) = load(&overrides).unwrap_err();
        let told = problems.join("\n");
        assert!(problems.len() == 3 && told.contains("`reg.example`: password_file") && told.contains("two.example"), "{told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}
