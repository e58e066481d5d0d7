//! The calls of the API: what each needs, checks and answers, in the order in which a host does that: who calls, whether there is such a
//! call, whether the caller may make it, whether its node is there, whether its parameters are sound; everything else is found out by the
//! call itself.
//!
//! Source: `PVE::HTTPServer::rest_handler`, `PVE::RESTHandler::handle`, and the modules below `PVE::API2` named in each file.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::request::{Request, body_pairs, decode, split_path};
use crate::work::Work;
use crate::world::World;
use crate::world::guest::{Guest, Kind};

mod backup;
mod change;
mod cluster;
mod config;
mod create;
mod disks;
mod drives;
mod lxc;
mod params;
pub(crate) mod pending;
mod permissions;
mod power;
mod qemu;
mod routes;
mod snapshots;
mod status;
mod tasks;

pub use change::Change;
pub(crate) use create::check_destroy;
pub(crate) use drives::{default_boot, make_drive, make_volume, size_of};
pub(crate) use lxc::apply_pending as apply_lxc_pending;
pub(crate) use qemu::{apply as apply_qemu, apply_pending as apply_qemu_pending};

/// What a call answers.
pub(crate) type Outcome = Result<Value, Fail>;

/// Why a call does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fail {
    /// Somebody holds the guest's file.
    Busy {
        /// Whose.
        vmid: u32,
        /// When it is free.
        free_ms: u64,
    },
    /// The answer is known when a task has ended, or then.
    Await {
        /// Which one.
        upid: String,
        /// Until when it is waited for.
        until_ms: u64,
    },
    /// Nobody knows who calls.
    Unauthorized(String),
    /// The proxy itself refuses.
    Plain(u16, String),
    /// The call says so.
    Said {
        /// The status.
        status: u16,
        /// The words.
        message: String,
        /// What is wrong with single parameters.
        errors: BTreeMap<String, String>,
    },
}

impl Fail {
    /// What Perl's `die` becomes.
    pub(crate) fn die(message: impl Into<String>) -> Self {
        Self::Said { status: 500, message: message.into(), errors: BTreeMap::new() }
    }

    /// A parameter is wrong.
    pub(crate) fn bad(key: &str, message: impl Into<String>) -> Self {
        Self::bads(BTreeMap::from([(key.to_owned(), message.into())]))
    }

    /// Parameters are wrong.
    pub(crate) fn bads(errors: BTreeMap<String, String>) -> Self {
        Self::Said { status: 400, message: "Parameter verification failed.".to_owned(), errors }
    }

    /// The caller may not. `what` is the path and the privilege.
    pub(crate) fn denied(what: &str) -> Self {
        let message = if what.is_empty() { "Permission check failed".to_owned() } else { format!("Permission check failed ({what})") };
        Self::Said { status: 403, message, errors: BTreeMap::new() }
    }

    /// The words with which a worker ends that meets it.
    pub(crate) fn words(self) -> String {
        match self {
            Self::Busy { vmid, .. } => format!("can't lock file '{}' - got timeout", Kind::Qemu.lock_file(vmid)),
            Self::Await { upid: words, .. } | Self::Unauthorized(words) | Self::Plain(_, words) => words,
            Self::Said { status: 400, message, errors } => {
                let lines = errors.iter().map(|(key, words)| format!("{key}: {words}"));
                std::iter::once(format!("400 {message}")).chain(lines).collect::<Vec<_>>().join("\n")
            }
            Self::Said { message, .. } => message,
        }
    }
}

/// A call, understood.
pub(crate) struct Call {
    /// Which one of all calls.
    pub number: u64,
    /// Who calls: `user@realm`, with a token's name behind it.
    pub who: String,
    /// The node that it is for.
    pub node: String,
    /// The kind of guest that it is for.
    pub kind: Kind,
    /// The guest that it is for; 0 for none.
    pub vmid: u32,
    /// The names in its path.
    pub names: BTreeMap<String, String>,
    /// Its parameters.
    pub params: BTreeMap<String, String>,
}

impl Call {
    /// A parameter, or a name in the path.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.params.get(key).or_else(|| self.names.get(key)).map(String::as_str)
    }

    /// A parameter that was checked to be there.
    pub(crate) fn text(&self, key: &str) -> String {
        self.get(key).unwrap_or_default().to_owned()
    }

    /// Whether a parameter says yes.
    pub(crate) fn is(&self, key: &str) -> bool {
        self.get(key).is_some_and(crate::normal::property::is_yes)
    }

    /// A parameter that is a number.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        self.get(key)?.parse().ok()
    }

    /// The path of the guest for privileges.
    pub(crate) fn vm_path(&self) -> String {
        format!("/vms/{}", self.vmid)
    }

    /// Refuses an option that is for `root@pam` alone.
    pub(crate) fn only_root(&self, keys: &[&str]) -> Result<(), Fail> {
        match keys.iter().find(|key| self.is(key) && !crate::world::access::is_root(&self.who)) {
            Some(key) => Err(Fail::bad(key, "Only root may use this option.")),
            None => Ok(()),
        }
    }
}

/// Serves a call.
pub(crate) fn serve(world: &mut World, number: u64, request: &Request) -> Outcome {
    let (raw, query) = split_path(&request.path);
    let Some(path) = raw.strip_prefix("/api2/json") else { return Err(Fail::Plain(404, format!("no such file '{raw}'"))) };
    let body = read_body(request)?;
    let is_login = request.method == "POST" && path == "/access/ticket";
    if is_login && request.cookie.is_none() && request.authorization.is_some() {
        let message = format!("URI '{path}' not available with API token, need proper ticket.");
        return Err(Fail::Said { status: 403, message, errors: BTreeMap::new() });
    }
    let who = if is_login { String::new() } else { world.who(request).map_err(Fail::Unauthorized)? };
    let mut pairs = query;
    // What stands in both counts as the query has it.
    pairs.splice(0..0, body.into_iter().filter(|(key, _)| !query_has(&request.path, key)));
    note(world, number, &who, &pairs);
    // A path is decoded before it is parted: an encoded slash is one.
    let parts: Vec<String> = decode(path).split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    let shown = format!("/{}", parts.join("/"));
    let unknown =
        || Fail::Said { status: 501, message: format!("Method '{} {shown}' not implemented", request.method), errors: BTreeMap::new() };
    let (route, names) = routes::find(&request.method, &parts).ok_or_else(unknown)?;
    if let Some((key, _)) = pairs.iter().find(|(key, _)| names.contains_key(key)) {
        return Err(Fail::Said {
            status: 400,
            message: format!("duplicate parameter (already defined in URI) '{key}'"),
            errors: BTreeMap::new(),
        });
    }
    let kind = if parts.get(2).is_some_and(|part| part == "lxc") { Kind::Lxc } else { Kind::Qemu };
    let vmid = names.get("vmid").and_then(|vmid| vmid.parse().ok()).unwrap_or(0);
    let mut call = Call { number, who, node: String::new(), kind, vmid, names, params: pairs.iter().cloned().collect() };
    permissions::check(world, route.needs, &call)?;
    if let Some(node) = call.names.get("node").cloned() {
        call.node = proxied(world, &node)?;
    }
    params::check(world, route, &request.method, &parts, &call, &pairs)?;
    (route.run)(world, &call)
}

/// The parameters of a body. Source: `PVE::APIServer::AnyEvent::authenticate_and_handle_request`, `extract_params`.
fn read_body(request: &Request) -> Result<Vec<(String, String)>, Fail> {
    if !matches!(request.method.as_str(), "POST" | "PUT") {
        return match request.body.is_empty() {
            true => Ok(Vec::new()),
            false => Err(Fail::Plain(501, format!("Unexpected content for method '{}'", request.method))),
        };
    }
    let kind = request.content_type.as_deref().unwrap_or_default();
    let name = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !request.body.is_empty() && !matches!(name.as_str(), "" | "application/x-www-form-urlencoded" | "application/json") {
        return Err(Fail::Plain(506, format!("upload 'Content-Type '{kind}' not implemented")));
    }
    body_pairs(request.content_type.as_deref(), &request.body).map_err(|words| Fail::Plain(400, words))
}

fn query_has(path: &str, key: &str) -> bool {
    split_path(path).1.iter().any(|(other, _)| other == key)
}

fn note(world: &mut World, number: u64, who: &str, pairs: &[(String, String)]) {
    if let Some(logged) = usize::try_from(number).ok().and_then(|number| world.requests.get_mut(number)) {
        logged.who = who.to_owned();
        logged.params = pairs.iter().cloned().collect();
    }
}

/// The node to which a call goes. Source: `PVE::HTTPServer::rest_handler`, `PVE::Cluster::remote_node_ip`.
fn proxied(world: &World, node: &str) -> Result<String, Fail> {
    let node = if node == "localhost" { world.first_node() } else { node.to_owned() };
    if !world.setup.nodes.contains(&node) {
        let lookup = format!("hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known");
        return Err(Fail::die(lookup));
    }
    if world.faults.nodes_off.contains(&node) {
        return Err(Fail::Plain(595, "No route to host".to_owned()));
    }
    Ok(node)
}

impl World {
    /// The guest of a call, if it is of that kind and on that node.
    pub(crate) fn guest_of(&self, call: &Call) -> Result<&Guest, Fail> {
        self.config_of(call.kind, &call.node, call.vmid).map_err(Fail::die)
    }

    /// The same of any guest.
    pub(crate) fn config_of(&self, kind: Kind, node: &str, vmid: u32) -> Result<&Guest, String> {
        let guest = self.guests.get(&vmid).filter(|guest| guest.kind == kind && guest.node == node);
        guest.ok_or_else(|| format!("Configuration file 'nodes/{node}/{}/{vmid}.conf' does not exist", kind.folder()))
    }

    /// Takes a guest's file for a moment.
    pub(crate) fn take_file(&self, vmid: u32) -> Result<(), Fail> {
        if self.faults.flock_busy.contains(&vmid) {
            return Err(Fail::Busy { vmid, free_ms: u64::MAX });
        }
        match self.held_until(vmid, false) {
            Some(free_ms) => Err(Fail::Busy { vmid, free_ms }),
            None => Ok(()),
        }
    }

    /// Begins a task for a call.
    pub(crate) fn fork(&mut self, call: &Call, kind: &str, id: &str, work: Work) -> Outcome {
        Ok(Value::String(self.spawn(&call.node, kind, id, &call.who, work)))
    }
}

/// Refuses a guest that is locked.
pub(crate) fn check_lock(guest: &Guest) -> Result<(), String> {
    match guest.lock() {
        Some(lock) => Err(format!("{} is locked ({lock})", guest.kind.word())),
        None => Ok(()),
    }
}

/// Refuses a guest that is protected.
pub(crate) fn check_protection(guest: &Guest, words: &str) -> Result<(), String> {
    if guest.is_set("protection") { Err(format!("{words} - protection mode enabled")) } else { Ok(()) }
}
