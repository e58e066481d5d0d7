//! The ids of Proxmox VE's tasks.
//!
//! Source: `PVE::Tools::upid_decode`; the API page `GET /nodes/{node}/tasks/{upid}/status`.

use std::fmt;
use std::str::FromStr;

/// A task's unique process id: `UPID:node:pid:pstart:starttime:type:id:user:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upid {
    /// The node on which it runs.
    pub node: String,
    /// The worker's process id.
    pub pid: u32,
    /// When the worker began, in clock ticks since the node's start.
    pub pstart: u64,
    /// When the task began, in seconds since 1970 by the node's clock.
    pub started_s: u32,
    /// What it does, such as `qmsnapshot`.
    pub kind: String,
    /// What it does it to: a vmid, mostly; may be empty.
    pub id: String,
    /// Who ordered it: `user@realm`, with `!token` behind it for a token.
    pub user: String,
    text: String,
}

/// A text that is no task's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no task of Proxmox VE: `UPID:node:pid:pstart:starttime:type:id:user:`")]
pub struct UpidError(String);

impl FromStr for Upid {
    type Err = UpidError;

    fn from_str(text: &str) -> Result<Self, UpidError> {
        let wrong = || UpidError(text.chars().take(120).collect());
        let rest = text.strip_prefix("UPID:").and_then(|rest| rest.strip_suffix(':')).ok_or_else(wrong)?;
        let parts: Vec<&str> = rest.split(':').collect();
        let [node, pid, pstart, started, kind, id, user] = parts[..] else { return Err(wrong()) };
        let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
        let is_id = id.is_empty() || word(id);
        if !is_node(node) || !word(kind) || !is_id || !word(user) {
            return Err(wrong());
        }
        let hex = |text: &str, digits: std::ops::RangeInclusive<usize>| {
            let is_hex = digits.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
            is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten().ok_or_else(wrong)
        };
        let short = |text: &str| u32::try_from(hex(text, 8..=8)?).map_err(|_| wrong());
        Ok(Self {
            node: node.to_owned(),
            pid: short(pid)?,
            // Nine digits on a node that has been up for more than 497 days.
            pstart: hex(pstart, 8..=9)?,
            started_s: short(started)?,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: user.to_owned(),
            text: text.to_owned(),
        })
    }
}

impl Upid {
    /// Its text, byte for byte as it was said.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A node's name: letters, digits and inner hyphens.
#[must_use]
pub fn is_node(text: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    ends(text.bytes().next()) && ends(text.bytes().last()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// How a task that has stopped ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskEnd {
    /// `OK`.
    Ok,
    /// `WARNINGS: n`: it did what it was to do, and its log has something to say.
    Warnings(u32),
    /// It failed, with these words.
    Failed(String),
    /// Its worker died: what it did is not known.
    Unknown,
}

/// What a node says of a worker that left no status, or whose log it cannot read. Source: `PVE::Tools::upid_read_status`.
const NO_END: [&str; 4] = ["unexpected status", "unable to read tail", "unable to extract last line", "unable to open file"];

impl TaskEnd {
    /// The end that `exitstatus` tells.
    #[must_use]
    pub fn of(exitstatus: &str) -> Self {
        match exitstatus.trim() {
            "OK" => Self::Ok,
            "" => Self::Unknown,
            text if NO_END.iter().any(|words| text.starts_with(words)) => Self::Unknown,
            text => match text.strip_prefix("WARNINGS: ").and_then(|n| n.parse().ok()) {
                Some(n) => Self::Warnings(n),
                None => Self::Failed(text.to_owned()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_known_by_its_parts() {
        let text = "UPID:pve-1:0003A1B2:01F2C3D4:6741A0B1:qmsnapshot:101:root@pam!moorline:";
        let upid: Upid = text.parse().unwrap();
        assert_eq!((upid.node.as_str(), upid.pid, upid.pstart), ("pve-1", 0x0003_a1b2, 0x01f2_c3d4));
        assert_eq!((upid.started_s, upid.kind.as_str(), upid.id.as_str()), (0x6741_a0b1, "qmsnapshot", "101"));
        assert_eq!((upid.user.as_str(), upid.to_string().as_str()), ("root@pam!moorline", text));
        let long: Upid = "UPID:n:0003A1B2:101F2C3D4:6741A0B1:vzdump::root@pam:".parse().unwrap();
        assert_eq!((long.pstart, long.id.as_str()), (0x1_01f2_c3d4, ""));
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in [
            "",
            "UPID:",
            "UPID:n:0003A1B2:01F2C3D4:6741A0B1:qmstart:101:root@pam",
            "UPID:n:0003A1B:01F2C3D4:6741A0B1:qmstart:101:root@pam:",
            "UPID:n:0003A1B2:01F2C3D4:6741A0B1:qmstart:101:",
            "UPID:-n:0003A1B2:01F2C3D4:6741A0B1:qmstart:101:root@pam:",
            "UPID:n:0003A1B2:01F2C3D4:6741A0B1:qm/start:101:root@pam:",
            "UPID:n:0003A1B2:01F2C3D4:6741A0B1:qmstart:../1:root@pam:",
            "UPID:n:+003A1B2:01F2C3D4:6741A0B1:qmstart:101:root@pam:",
            "UPID:n:0003A1B2:01F2C3D4:6741A0B1::101:root@pam:",
            "UPID:n:0003A1B2:01F2C3D4:6741A0B1:qmstart:101:root@pam:more:",
        ] {
            assert!(bad.parse::<Upid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_ok_and_warnings_are_success_and_a_dead_worker_is_no_failure() {
        assert_eq!(TaskEnd::of("OK"), TaskEnd::Ok);
        assert_eq!(TaskEnd::of("WARNINGS: 2"), TaskEnd::Warnings(2));
        for text in ["", "unexpected status", "unable to read tail (got 0 bytes)", "unable to extract last line"] {
            assert_eq!(TaskEnd::of(text), TaskEnd::Unknown);
        }
        assert_eq!(TaskEnd::of("unable to open file - No such file or directory"), TaskEnd::Unknown);
        assert_eq!(TaskEnd::of("VM is locked (backup)"), TaskEnd::Failed("VM is locked (backup)".to_owned()));
        assert_eq!(TaskEnd::of("WARNINGS: many"), TaskEnd::Failed("WARNINGS: many".to_owned()));
    }
}
