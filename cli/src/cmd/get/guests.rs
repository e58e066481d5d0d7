//! `moorctl get guests`: what hosts of Proxmox VE have, by their verified reports.

use std::collections::BTreeSet;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostName;
use moorline_common::observe::{EngineState, GuestStatus, ObservedGuest, ObservedPve};
use moorline_common::pve::{GuestKind, Vmid};
use serde::Serialize;

use crate::client::{Client, HostView, ReportView};
use crate::clock;
use crate::error::Failure;
use crate::render::{Table, Tone, Ui, or_dash, plain, visible};

/// A host with guests, as `-o json` shows it; keys are stable.
#[derive(Debug, Serialize)]
struct Row {
    host: String,
    report_age_s: u64,
    /// Whether Proxmox VE could be asked.
    engine: EngineState,
    /// Why not.
    error: Option<String>,
    version: Option<String>,
    node: String,
    guests: Vec<Guest>,
}

/// A guest.
#[derive(Debug, Serialize)]
struct Guest {
    vmid: Vmid,
    name: Option<String>,
    #[serde(rename = "type")]
    kind: GuestKind,
    status: GuestStatus,
    /// The topology that it is noted for.
    topology: Option<String>,
    /// Whether it bears Moorline's mark.
    is_marked: bool,
    is_template: bool,
    incarnation: Option<String>,
    lock: Option<String>,
    snapshots: BTreeSet<String>,
    /// The settings that count from its next start on.
    pending: BTreeSet<String>,
}

impl Row {
    fn new(host: &HostView, age_s: u64, pve: &ObservedPve) -> Self {
        Self {
            host: host.name.to_string(),
            report_age_s: age_s,
            engine: pve.engine,
            error: pve.error.clone(),
            version: pve.version.clone(),
            node: pve.node.clone(),
            guests: pve.guests.iter().map(|(vmid, guest)| Guest::new(*vmid, guest)).collect(),
        }
    }
}

impl Guest {
    fn new(vmid: Vmid, guest: &ObservedGuest) -> Self {
        Self {
            vmid,
            name: guest.name.clone(),
            kind: guest.kind,
            status: guest.status,
            topology: guest.owner.as_ref().map(|owner| owner.topology.clone()),
            is_marked: guest.is_marked,
            is_template: guest.is_template,
            incarnation: guest.incarnation.clone(),
            lock: guest.lock.clone().or_else(|| guest.task.clone()),
            snapshots: guest.snapshots.keys().cloned().collect(),
            pending: guest.pending().into_iter().map(str::to_owned).collect(),
        }
    }

    /// Whose it is.
    fn owner(&self) -> (String, Tone) {
        match &self.topology {
            Some(topology) => (topology.clone(), Tone::Plain),
            None if self.is_marked => ("marked".to_owned(), Tone::Warn),
            None if self.is_template => ("template".to_owned(), Tone::Dim),
            None => ("-".to_owned(), Tone::Dim),
        }
    }
}

/// Lists them.
///
/// # Errors
/// `not_found` when the host is none, or has sent no report that tells of guests; a signature code when its report does not verify.
pub(super) async fn list(client: &Client, ui: &mut Ui, name: Option<String>) -> Result<(), Failure> {
    let name = name.map(HostName::parse).transpose()?;
    let hosts = match &name {
        Some(name) => vec![client.host(name).await?],
        None => client.hosts(None).await?,
    };
    let reports = client.reports(&hosts.iter().collect::<Vec<_>>()).await;
    let now = clock::now();
    let mut rows = Vec::new();
    for (host, report) in hosts.iter().zip(reports) {
        let report: Option<ReportView> = match report {
            Err(failure) if name.is_some() => return Err(failure),
            Err(failure) => {
                ui.warn(&format!("the report of {} does not count: {failure}", host.name));
                None
            }
            Ok(report) => report,
        };
        let pve = report.as_ref().and_then(|report| Some((report.age_s(now), report.report.statement().observed.pve.as_ref()?)));
        rows.extend(pve.map(|(age_s, pve)| Row::new(host, age_s, pve)));
    }
    if let Some(name) = name.filter(|_| rows.is_empty()) {
        let message = format!("host `{name}` has reported nothing of Proxmox VE");
        let remedy = "its agent is connected by `[proxmox]` in agent.toml; `moorline-agent doctor` there says whether that works";
        return Err(Failure::from(Fault::new(Code::NotFound, message)).with_remedy(remedy));
    }
    ui.result(&rows, || table(&rows))
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no host has reported anything of Proxmox VE\n".to_owned();
    }
    let mut table = Table::new(&["HOST", "VMID", "NAME", "TYPE", "STATUS", "OWNER", "WORK", "PENDING REBOOT", "AGE"]);
    for row in rows {
        for guest in &row.guests {
            let status = match guest.status {
                GuestStatus::Running => Tone::Good,
                GuestStatus::Paused => Tone::Warn,
                GuestStatus::Stopped => Tone::Dim,
            };
            let pending = guest.pending.iter().map(|key| visible(key)).collect::<Vec<_>>().join(", ");
            table.row(vec![
                plain(&row.host),
                plain(guest.vmid.to_string()),
                plain(or_dash(guest.name.as_deref().unwrap_or_default())),
                plain(guest.kind.as_str()),
                (guest.status.as_str().to_owned(), status),
                guest.owner(),
                plain(or_dash(guest.lock.as_deref().unwrap_or_default())),
                (or_dash(&pending), if pending.is_empty() { Tone::Plain } else { Tone::Warn }),
                (clock::span_words(row.report_age_s), Tone::Dim),
            ]);
        }
    }
    let mut text = table.text();
    for row in rows.iter().filter(|row| row.engine != EngineState::Ready) {
        let why = row.error.as_deref().unwrap_or("it was not asked yet");
        text.push_str(&format!("\n{}: Proxmox VE cannot be asked, and this is what was seen before: {}\n", row.host, visible(why)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::revision::tests::host;

    #[test]
    fn every_guest_is_listed_with_whose_it_is_and_what_waits() {
        let guest = |name: &str, more: Value| {
            let mut guest = json!({ "type": "qemu", "name": name, "status": "running" });
            guest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            guest
        };
        let owner = json!({ "topology": "edge", "resource": "pve/guest/101", "spec": "x", "base": "" });
        let config = json!({ "type": "qemu", "set": { "memory": "4096" }, "running": { "memory": "8192" } });
        let pve: ObservedPve = serde_json::from_value(json!({ "engine": "unreachable", "error": "refused", "guests": {
            "101": guest("db", json!({ "owner": owner, "config": config })),
            "102": guest("copy", json!({ "is_marked": true, "lock": "backup" })),
            "103": guest("theirs", json!({ "status": "stopped" })),
        } }))
        .unwrap();
        let row = Row::new(&host(10, "pve-1"), 7, &pve);
        let text = anstream::adapter::strip_str(&table(&[row])).to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["pve-1", "101", "db", "qemu", "running", "edge", "-", "memory", "7s"]);
        assert_eq!(lines[2], ["pve-1", "102", "copy", "qemu", "running", "marked", "backup", "-", "7s"]);
        assert_eq!(lines[3], ["pve-1", "103", "theirs", "qemu", "stopped", "-", "-", "-", "7s"]);
        assert!(text.ends_with("pve-1: Proxmox VE cannot be asked, and this is what was seen before: refused\n"), "{text}");
    }
}
