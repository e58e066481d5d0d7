//! How a droplet becomes a host: what its first boot is told. It gets the agent's program, checks it, and joins by a one-time token.

use std::collections::BTreeMap;

use moorline_common::enrol::JoinToken;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostName;
use serde_json::json;

use crate::error::Failure;

/// The agent's unit, as packages install it.
const UNIT: &str = include_str!("../../../deploy/moorline-agent.service");
/// What the first boot runs.
const SCRIPT: &str = include_str!("joining.sh");
/// The longest text that clouds take, in bytes.
const TEXT_MAX: usize = 64 << 10;

/// How one droplet joins.
pub struct Joining {
    /// The name of the host.
    pub host: HostName,
    /// The public id of the token.
    pub token_id: String,
    /// What the first boot is told: it holds the token.
    pub boot: String,
}

/// Where the agent's program comes from, and what it drives.
pub struct Agent<'a> {
    /// Where its program is.
    pub url: &'a str,
    /// The program's SHA-256, in lowercase hex.
    pub sha256: &'a str,
    /// `docker`, `none` or `sim`.
    pub driver: &'a str,
}

impl<'a> Agent<'a> {
    /// As inputs say.
    ///
    /// # Errors
    /// A usage failure.
    pub fn of(set: &'a BTreeMap<String, String>) -> Result<Self, Failure> {
        let missing = |key: &str| {
            let remedy = format!("say `--set {key}=…`, or `--set join=no` for a droplet that becomes no host");
            Failure::usage(format!("the input `{key}` is missing"), remedy)
        };
        let given = |key: &str| set.get(key).map(String::as_str).ok_or_else(|| missing(key));
        let (url, sha256) = (given("agent-url")?, given("agent-sha256")?);
        let driver = set.get("driver").map_or("docker", String::as_str);
        let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !b"\'\"\\`$".contains(&b));
        if !["https://", "file:///"].iter().any(|scheme| url.starts_with(scheme)) || !is_plain(url) {
            return Err(Failure::usage(format!("`{url}` is no address of a program"), "such as https://example.com/moorline-agent"));
        }
        if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(Failure::usage("`agent-sha256` is no SHA-256", "it is what `sha256sum moorline-agent` prints"));
        }
        if !["docker", "none", "sim"].contains(&driver) {
            return Err(Failure::usage(format!("there is no driver `{driver}`"), "say docker, none or sim"));
        }
        Ok(Self { url, sha256, driver })
    }
}

impl Joining {
    /// By this token.
    ///
    /// # Errors
    /// When the text is longer than clouds take.
    pub fn new(token: &JoinToken, agent: &Agent<'_>) -> Result<Self, Failure> {
        Self::by(token.name.clone(), token.id.clone(), &token.encode(), agent)
    }

    /// The same without a token, to be shown.
    ///
    /// # Errors
    /// When the text is longer than clouds take.
    pub fn dry(host: HostName, agent: &Agent<'_>) -> Result<Self, Failure> {
        Self::by(host, "0".repeat(32), "", agent)
    }

    fn by(host: HostName, token_id: String, token: &str, agent: &Agent<'_>) -> Result<Self, Failure> {
        let Agent { url, sha256, driver } = agent;
        let file = |path: &str, permissions: &str, content: String| json!({ "path": path, "permissions": permissions, "content": content });
        let script = format!("AGENT_URL='{url}'\nAGENT_SHA256='{sha256}'\n{SCRIPT}");
        let mut text = json!({
            "write_files": [
                file("/run/moorline/token", "0600", format!("{token}\n")),
                file("/run/moorline/join.sh", "0700", format!("#!/bin/sh\n{script}")),
                file("/etc/moorline/agent.toml", "0644", format!("driver = \"{driver}\"\n")),
                file("/etc/systemd/system/moorline-agent.service", "0644", UNIT.to_owned()),
            ],
            "runcmd": [["/bin/sh", "/run/moorline/join.sh"]],
        });
        if *driver == "docker"
            && let Some(text) = text.as_object_mut()
        {
            text.insert("packages".to_owned(), json!(["docker.io"]));
        }
        // JSON is YAML, and needs no quoting of its own.
        let boot = format!("#cloud-config\n{text:#}\n");
        if boot.len() > TEXT_MAX || !boot.is_ascii() {
            let message = format!("what the first boot is told has {} bytes; clouds take {TEXT_MAX} of plain ASCII", boot.len());
            return Err(Fault::new(Code::TooLarge, message).into());
        }
        Ok(Self { host, token_id, boot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_the_first_boot_is_told_is_cloud_config_with_the_token_in_a_file_of_roots() {
        let hash = "a".repeat(64);
        let given = set(&[("agent-url", "https://example.com/moorline-agent"), ("agent-sha256", &hash)]);
        let host = HostName::parse("web-1").unwrap();
        let joining = Joining::by(host, "0".repeat(32), "hush", &Agent::of(&given).unwrap()).unwrap();
        let text = joining.boot.strip_prefix("#cloud-config\n").unwrap();
        let config: serde_json::Value = serde_json::from_str(text).unwrap();
        let token = &config["write_files"][0];
        assert_eq!((token["content"].as_str(), token["permissions"].as_str()), (Some("hush\n"), Some("0600")));
        assert_eq!(joining.boot.matches("hush").count(), 1);
        assert_eq!(config["packages"][0], "docker.io");
        assert!(config["write_files"][1]["content"].as_str().unwrap().contains(&hash));
    }

    #[test]
    fn what_would_break_out_of_the_script_is_no_address() {
        let hash = "a".repeat(64);
        for url in ["ftp://x", "http://x/agent", "https://x/'; rm -rf /", "https://x/$(id)", "https://x y"] {
            assert!(Agent::of(&set(&[("agent-url", url), ("agent-sha256", &hash)])).is_err(), "{url}");
        }
        let ok = "https://example.com/a";
        for bad in [&set(&[("agent-url", ok)]), &set(&[("agent-url", ok), ("agent-sha256", "A")]), &set(&[])] {
            assert!(Agent::of(bad).is_err());
        }
    }
}
