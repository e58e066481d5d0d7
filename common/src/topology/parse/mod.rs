//! Reads YAML or JSON text into a [`TopologyFile`], with every problem at its line.
//!
//! Text → tree (`super::node`) → tree as it is meant here (`super::resolve`) → values (`walk`, `docker`, `service`, `proxmox`, `values`) → checks of the whole
//! (`super::validate`). Nothing is ever silently ignored.

mod deploy;
mod docker;
mod maintenance;
mod mounts;
mod options;
mod proxmox;
mod rollout;
mod sealed;
mod service;
mod values;
mod walk;

use std::collections::BTreeMap;

use super::inputs::{Asked, Inputs, Reading};
use super::keys;
use super::limits::TOPOLOGY_FILE_MAX;
use super::node::{self, Node, shorten};
use super::problem::{Problem, nearest, tidy};
use super::resolve::resolve;
use super::slice::BoundHost;
use super::vars::Why;
use super::{DriftPolicy, Entry, HostEntry, ObjectKind, Policy, Position, Source, TopologyFile, Varying};
use super::{GuestSpec, NetworkSpec, SealedKind, SealedSpec, ServiceSpec, VolumeSpec};
use crate::id::{HostName, TopologyId};
use crate::pve::Vmid;
use walk::Walker;

pub(crate) use service::port_mark;
pub(crate) use walk::path_text;

/// Reads a topology file that takes nothing from elsewhere, and checks everything that can be checked without its hosts.
///
/// # Errors
/// As [`read`].
pub fn load(text: &str) -> Result<TopologyFile, Vec<Problem>> {
    load_bytes(text.as_bytes())
}

/// The same from bytes.
///
/// # Errors
/// As [`read`].
pub fn load_bytes(bytes: &[u8]) -> Result<TopologyFile, Vec<Problem>> {
    read(bytes, &Inputs::default()).file
}

/// Reads a topology file with what it may take from elsewhere, and checks everything that can be checked without its hosts: in its
/// [`Reading::file`] is everything that is wrong, sorted by place, at most [`super::limits::PROBLEMS_MAX`]. A file that is too large
/// or not UTF-8 is a problem like any other.
#[must_use]
pub fn read(bytes: &[u8], inputs: &Inputs) -> Reading {
    let failed = |problems| Reading { file: Err(problems), asked: Asked::default(), warnings: Vec::new() };
    if bytes.len() > TOPOLOGY_FILE_MAX {
        return failed(vec![too_large()]);
    }
    if let Some(problem) = inputs.excess() {
        return failed(vec![problem]);
    }
    match std::str::from_utf8(bytes) {
        // A byte order mark at the start is no content.
        Ok(text) => read_text(text.strip_prefix('\u{feff}').unwrap_or(text), inputs),
        Err(error) => failed(vec![not_utf8(bytes, error.valid_up_to())]),
    }
}

fn read_text(text: &str, inputs: &Inputs) -> Reading {
    let files: Vec<String> = inputs.files.keys().cloned().collect();
    let mut problems = Vec::new();
    let root = match node::read(text, &mut problems) {
        Ok(root) => root,
        Err(problem) => {
            problems.push(problem);
            return Reading { file: Err(tidy(problems, &files)), asked: Asked::default(), warnings: Vec::new() };
        }
    };
    let reading = read_tree(root, inputs, &files, false);
    problems.extend(reading.file.as_ref().err().into_iter().flatten().cloned());
    let file = reading.file.ok().filter(|_| problems.is_empty()).ok_or_else(|| tidy(problems, &files));
    Reading { file, ..reading }
}

/// Reads a topology's tree. `files` are the names of the files that places are in besides the topology's own. When `lenient`, what the
/// inputs lack is a warning. Problems are not tidied yet.
pub(crate) fn read_tree(mut root: Node, inputs: &Inputs, files: &[String], lenient: bool) -> Reading {
    let resolved = resolve(&mut root, inputs, lenient);
    let mut problems = resolved.problems;
    let mut walker = Walker::new(&[], None);
    walker.gates = resolved.gates;
    let mut file = read_file(&mut walker, &root);
    problems.append(&mut walker.problems);
    if let Some(file) = &mut file {
        file.files = files.to_vec();
        file.validate(&mut problems);
    }
    let file = file.filter(|_| problems.is_empty()).ok_or(problems);
    Reading { file, asked: resolved.asked, warnings: tidy(resolved.warnings, files) }
}

fn not_utf8(bytes: &[u8], valid: usize) -> Problem {
    let good = String::from_utf8_lossy(bytes.get(..valid).unwrap_or_default());
    let line = good.matches('\n').count() + 1;
    let column = good.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    let at = Position { file: 0, line: u32::try_from(line).unwrap_or(u32::MAX), column: u32::try_from(column).unwrap_or(u32::MAX) };
    let byte = bytes.get(valid).copied().unwrap_or_default();
    Problem::new(at, "", format!("the byte 0x{byte:02x} here is not UTF-8")).help("save the file as UTF-8")
}

fn too_large() -> Problem {
    let mib = TOPOLOGY_FILE_MAX / (1024 * 1024);
    Problem::new(Position { file: 0, line: 1, column: 1 }, "", format!("the file is larger than {mib} MiB")).help("split the topology")
}

/// Reads as much as can be read. `None` when nothing can be checked beyond that.
fn read_file(w: &mut Walker<'_>, root: &Node) -> Option<TopologyFile> {
    let fields = w.object(root, &keys::FILE)?;
    let topology = w.get(&fields, "topology", |w, n| w.parsed(n, |t| TopologyId::parse(t).map_err(|e| Why::new(e.to_string()))));
    let policy = w.get(&fields, "policy", policy);
    let rollout = w.get(&fields, "rollout", rollout::rollout);
    let mut profiles = BTreeMap::new();
    if let Some(node) = fields.get("profiles").filter(|n| !n.is_null()) {
        w.within("profiles", |w| {
            for pair in w.map(node, "a map of profiles by their names") {
                w.within(&pair.key, |w| {
                    if let Err(why) = values::name(&pair.key) {
                        w.report_why(pair.key_at, why);
                    }
                    if pair.value.is_null() {
                        w.report(pair.key_at, "this profile says nothing");
                    } else if let Some(fields) = w.object(&pair.value, &keys::PROFILE) {
                        let profile = entry(w, &fields);
                        profiles.insert(pair.key.clone(), profile);
                        return;
                    }
                    // It exists, whatever is wrong with it.
                    profiles.insert(pair.key.clone(), Entry::default());
                });
            }
        });
    }
    let mut hosts = BTreeMap::new();
    if let Some(node) = fields.get("hosts") {
        w.within("hosts", |w| {
            for pair in w.map(node, "a map of hosts by their names, or `label=value`") {
                let host = w.within(&pair.key, |w| {
                    if let Err(why) = host_key(&pair.key) {
                        w.report_why(pair.key_at, why);
                    }
                    host_entry(w, &pair.value, pair.key_at)
                });
                hosts.insert(pair.key.clone(), host);
            }
        });
    }
    // A wrong name is reported already; the rest can still be checked.
    let topology = topology.or_else(|| TopologyId::parse("unnamed").ok())?;
    Some(TopologyFile { topology, policy, rollout, profiles, hosts, files: Vec::new() })
}

/// What a key under `hosts` may be.
fn host_key(key: &str) -> Result<(), Why> {
    let Some((label, value)) = key.split_once('=') else {
        return HostName::parse(key)
            .map(|_| ())
            .map_err(|e| Why::new(e.to_string()).help("for every host with a label write `label=value`"));
    };
    let word = |t: &str| t.len() <= 253 && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
    if label.is_empty() || value.is_empty() || !word(label) || !word(value) {
        return Err(Why::new(format!(
            "`{}` selects nothing: a selector is one `label=value` of letters, digits, `.`, `_`, `-` and `/`",
            shorten(key)
        )));
    }
    Ok(())
}

fn host_entry(w: &mut Walker<'_>, node: &Node, at: Position) -> HostEntry {
    if node.is_null() {
        w.report_why(at, Why::new("this host entry says nothing").help("write `{}` for a host that shall have nothing"));
        return HostEntry { at, ..HostEntry::default() };
    }
    let Some(fields) = w.object(node, &keys::HOST) else { return HostEntry { at, ..HostEntry::default() } };
    let uses = w.get(&fields, "use", |w, n| Some(w.names(n, values::name))).unwrap_or_default();
    let mut own = entry(w, &fields);
    for (name, at) in &uses {
        own.source.marks.insert(format!("use.{name}"), *at);
    }
    HostEntry { uses: uses.into_iter().map(|(name, _)| name).collect(), own, at }
}

/// Reads what profiles and host entries have in common.
fn entry(w: &mut Walker<'_>, fields: &walk::Fields<'_>) -> Entry {
    let prefix = w.path();
    w.take_marks();
    let mut extras = docker::Extras::default();
    w.variables = true;
    let docker = w.get(fields, "docker", |w, n| docker::docker(w, n, &mut extras));
    let proxmox = w.get(fields, "proxmox", |w, n| proxmox::proxmox(w, n, &mut extras));
    w.variables = false;
    let policy = w.get(fields, "policy", policy);
    let gates = w.gates.remove(&prefix).unwrap_or_default();
    Entry { docker, proxmox, policy, source: Source { prefix, marks: w.take_marks(), varying: extras.varying, gates } }
}

fn policy(w: &mut Walker<'_>, node: &Node) -> Option<Policy> {
    let fields = w.object(node, &keys::POLICY)?;
    let loop_breaker = w.get(&fields, "loop_breaker", Walker::truth);
    let maintenance = w.get(&fields, "maintenance", maintenance::windows).unwrap_or_default();
    Some(Policy { drift: w.get(&fields, "drift", drift).unwrap_or_default(), loop_breaker, maintenance })
}

/// `drift`, of a policy or of one object.
pub(super) fn drift(w: &mut Walker<'_>, node: &Node) -> Option<DriftPolicy> {
    w.one_of(node, &[("heal", DriftPolicy::Heal), ("inbox", DriftPolicy::Inbox)])
}

/// One object as it is for one host.
pub(crate) enum Hydrated {
    /// A network.
    Network(NetworkSpec),
    /// A volume.
    Volume(VolumeSpec),
    /// A secret or config.
    Sealed(SealedKind, SealedSpec),
    /// A service.
    Service(Box<ServiceSpec>),
    /// A guest.
    Guest(Vmid, Box<GuestSpec>),
}

/// Reads an object that holds variables for one host. `prefix` is the path of its entry.
/// `None` when nothing can be made of it, which was reported before.
pub(crate) fn hydrate(varying: &Varying, prefix: &str, host: &BoundHost, problems: &mut Vec<Problem>) -> Option<Hydrated> {
    let Varying { kind, name, node } = varying;
    let mut w = Walker::new(&[prefix, kind.driver(), kind.section(), name], Some(host));
    let done = match kind {
        ObjectKind::Network => Some(Hydrated::Network(docker::network(&mut w, node))),
        ObjectKind::Volume => Some(Hydrated::Volume(docker::volume(&mut w, node))),
        ObjectKind::Sealed(kind) => Some(Hydrated::Sealed(*kind, sealed::object(&mut w, node, *kind))),
        ObjectKind::Service => Some(Hydrated::Service(Box::new(service::service(&mut w, node)))),
        ObjectKind::Guest => proxmox::hydrated(&mut w, name, node),
    };
    let name = host.name.as_str();
    problems.extend(w.problems.into_iter().map(|mut problem| {
        // The line is the same for every host that the entry is for.
        if !problem.message.contains(name) {
            problem.message = format!("{} (on host {name})", problem.message);
        }
        problem
    }));
    done
}

/// Adds the nearest of `known` to a problem about `word`.
pub(crate) fn undefined<'k>(problem: Problem, word: &str, known: impl IntoIterator<Item = &'k String>) -> Problem {
    problem.suggest(nearest(word, known.into_iter().map(String::as_str)))
}

#[cfg(test)]
mod tests;
