//! Whether the agent can work with a node: that it answers, is the one that is meant, and lets the token do what guests need.
//!
//! Source of the privileges: the permissions in the API viewer, and `PVE::API2::Qemu::check_vm_modify_config_perm`.

use std::collections::BTreeSet;

use moorline_common::pve::lenient;
use serde_json::Value;

use super::client::{CallError, Client, Params, Transport, Verb, params};

/// One thing that was looked at.
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// What was found.
    pub found: Result<String, String>,
}

/// What the token needs on a path, and what for.
struct Need {
    path: &'static str,
    privileges: &'static [&'static str],
    what: &'static str,
}

const NEEDS: [Need; 7] = [
    Need { path: "/vms", privileges: &["VM.Audit"], what: "to see guests" },
    Need { path: "/vms", privileges: &["VM.PowerMgmt"], what: "to start and stop guests" },
    Need {
        path: "/vms",
        privileges: &[
            "VM.Config.CDROM",
            "VM.Config.CPU",
            "VM.Config.Cloudinit",
            "VM.Config.Disk",
            "VM.Config.HWType",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
        ],
        what: "to set guests' configs",
    },
    Need { path: "/vms", privileges: &["VM.Allocate", "VM.Clone"], what: "to make and remove guests" },
    Need {
        path: "/vms",
        privileges: &["VM.Snapshot", "VM.Snapshot.Rollback", "VM.Backup", "VM.Migrate"],
        what: "for snapshots, backups and migrations",
    },
    Need { path: "/storage", privileges: &["Datastore.AllocateSpace", "Datastore.Audit"], what: "for guests' disks and backups" },
    Need { path: "/nodes", privileges: &["Sys.Audit"], what: "to see what others do on the node" },
];

/// Looks at everything. Changes nothing.
pub async fn examine<T: Transport>(client: &Client<T>) -> Vec<Finding> {
    let version = match client.call(Verb::Get, &["version"], &Params::new()).await {
        Ok(answer) => lenient::text(answer.get("version")).unwrap_or_else(|| "of an unknown version".to_owned()),
        Err(error) => return vec![Finding { name: "proxmox", found: Err(error.to_string()) }],
    };
    let mut findings = vec![Finding { name: "proxmox", found: Ok(format!("version {version} answers")) }];
    findings.push(Finding { name: "proxmox node", found: node(client).await.unwrap_or_else(|error| Err(error.to_string())) });
    findings.push(Finding { name: "proxmox token", found: token(client).await.unwrap_or_else(|error| Err(error.to_string())) });
    findings
}

async fn node<T: Transport>(client: &Client<T>) -> Result<Result<String, String>, CallError> {
    let nodes = client.call(Verb::Get, &["nodes"], &Params::new()).await?;
    let names: Vec<String> = nodes.as_array().into_iter().flatten().filter_map(|node| lenient::text(node.get("node"))).collect();
    if names.iter().any(|name| name == client.node()) {
        return Ok(Ok(format!("{} is one of the cluster's", client.node())));
    }
    let remedy = "write the `node` of this host in `[proxmox]`";
    Ok(Err(format!("there is no node {}; there are {}: {remedy}", client.node(), names.join(", "))))
}

async fn token<T: Transport>(client: &Client<T>) -> Result<Result<String, String>, CallError> {
    let mut missing = Vec::new();
    for path in ["/vms", "/storage", "/nodes"] {
        let path = if path == "/nodes" { format!("/nodes/{}", client.node()) } else { path.to_owned() };
        let granted = granted(&client.call(Verb::Get, &["access", "permissions"], &params([("path", path.as_str())])).await?, &path);
        for need in NEEDS.iter().filter(|need| path.starts_with(need.path)) {
            let lacks: Vec<&str> = need.privileges.iter().copied().filter(|privilege| !granted.contains(*privilege)).collect();
            if !lacks.is_empty() {
                missing.push(format!("{} on {path} {}", lacks.join(", "), need.what));
            }
        }
    }
    Ok(if missing.is_empty() {
        Ok("may do what guests need".to_owned())
    } else {
        Err(format!(
            "lacks {}; grant them by `pveum acl modify`, or leave them out where guests are not to be managed so",
            missing.join("; ")
        ))
    })
}

/// The privileges on `path` in an answer.
fn granted(answer: &Value, path: &str) -> BTreeSet<String> {
    let of_path = answer.get(path).and_then(Value::as_object);
    let privileges = of_path.into_iter().flatten().filter(|(_, may)| lenient::flag(Some(may)) || may.is_number());
    privileges.map(|(privilege, _)| privilege.clone()).collect()
}
