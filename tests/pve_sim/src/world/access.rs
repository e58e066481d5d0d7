//! Who calls, and what each may do.
//!
//! Source: `PVE::AccessControl`, `PVE::RPCEnvironment`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::World;
use crate::api::Fail;
use crate::request::{Request, decode};
use crate::setup::{Grant, PRIVILEGES};

/// A ticket that somebody has got.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    /// Whose it is.
    pub user: String,
    /// What has to come with everything but `GET`.
    pub csrf: String,
    /// When it ends, in milliseconds since 1970.
    pub until_ms: u64,
}

/// How long a ticket holds.
pub const TICKET_MS: u64 = 2 * 60 * 60 * 1000;

impl World {
    /// Who a call is from: `user@realm`, with `!name` behind it for a token. A ticket, where one is, counts before a token.
    ///
    /// # Errors
    /// The words with which it is refused.
    pub(crate) fn who(&self, request: &Request) -> Result<String, String> {
        if let Some(ticket) = request.cookie.as_deref().and_then(ticket_of) {
            let session = self.sessions.get(&ticket).filter(|session| self.now_ms < session.until_ms);
            let session = session.ok_or("Permission denied - invalid PVE ticket")?;
            if request.method != "GET" && request.csrf.as_deref() != Some(session.csrf.as_str()) {
                return Err("Permission denied - invalid csrf token".to_owned());
            }
            return Ok(session.user.clone());
        }
        let Some(header) = &request.authorization else { return Err("No ticket".to_owned()) };
        let rest = header.trim().strip_prefix("PVEAPIToken").ok_or("No ticket")?.trim_start_matches(['=', ' ']);
        let value = decode(rest.split(';').next().unwrap_or(rest).trim());
        let (id, secret) = value.rsplit_once('=').ok_or("invalid token value!")?;
        let (user, name) = id.split_once('!').ok_or("no tokenid specified")?;
        if !self.setup.users.iter().any(|known| known.id == user) {
            return Err(format!("no such user ('{user}')"));
        }
        let token = self.setup.tokens.iter().find(|token| token.id == id);
        let token = token.ok_or_else(|| format!("no such token '{name}' for user '{user}'"))?;
        if token.secret == secret { Ok(id.to_owned()) } else { Err("invalid token value!".to_owned()) }
    }

    /// Every privilege of somebody at a path.
    #[must_use]
    pub fn privileges(&self, who: &str, path: &str) -> BTreeSet<String> {
        let hidden = path.strip_prefix("/vms/").and_then(|vmid| vmid.parse().ok()).is_some_and(|vmid| self.faults.hide.contains(&vmid));
        if hidden {
            return BTreeSet::new();
        }
        let Some((user, _)) = who.split_once('!') else { return self.user_privileges(who, path) };
        let Some(token) = self.setup.tokens.iter().find(|token| token.id == who) else { return BTreeSet::new() };
        let theirs = self.user_privileges(user, path);
        if !token.privsep {
            return theirs;
        }
        let own = self.granted(&token.grants, path);
        own.intersection(&theirs).cloned().collect()
    }

    fn user_privileges(&self, user: &str, path: &str) -> BTreeSet<String> {
        if user == "root@pam" {
            return PRIVILEGES.iter().map(|privilege| (*privilege).to_owned()).collect();
        }
        let grants = self.setup.users.iter().find(|known| known.id == user).map(|user| user.grants.as_slice()).unwrap_or_default();
        self.granted(grants, path)
    }

    /// What is granted at a path: what stands at the nearest path above it, and what stands at the pools that it is in.
    fn granted(&self, grants: &[Grant], path: &str) -> BTreeSet<String> {
        let mut all = granted_at(grants, path);
        if let Some(vmid) = path.strip_prefix("/vms/").and_then(|vmid| vmid.parse::<u32>().ok()) {
            for (pool, _) in self.setup.pools.iter().filter(|(_, guests)| guests.contains(&vmid)) {
                all.extend(granted_at(grants, &format!("/pool/{pool}")));
            }
        }
        all
    }

    /// Whether somebody has a privilege at a path.
    #[must_use]
    pub fn may(&self, who: &str, path: &str, privilege: &str) -> bool {
        self.privileges(who, path).contains(privilege)
    }

    /// Refuses who has not every one of the privileges.
    pub(crate) fn check(&self, who: &str, path: &str, privileges: &[&str]) -> Result<(), Fail> {
        match privileges.iter().find(|privilege| !self.may(who, path, privilege)) {
            Some(missing) => Err(Fail::denied(&format!("{path}, {missing}"))),
            None => Ok(()),
        }
    }

    /// Refuses who has none of the privileges.
    pub(crate) fn check_any(&self, who: &str, path: &str, privileges: &[&str]) -> Result<(), Fail> {
        if privileges.iter().any(|privilege| self.may(who, path, privilege)) {
            return Ok(());
        }
        Err(Fail::denied(&format!("{path}, {}", privileges.join("|"))))
    }
}

fn granted_at(grants: &[Grant], path: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut at = String::new();
    let parts = std::iter::once("").chain(path.split('/').filter(|part| !part.is_empty()));
    for part in parts {
        if !part.is_empty() {
            at.push('/');
            at.push_str(part);
        }
        let here = if at.is_empty() { "/" } else { &at };
        let is_end = here == path || (path.is_empty() && here == "/");
        let all: Vec<&Grant> = grants.iter().filter(|grant| grant.path == here && (is_end || grant.propagate)).collect();
        if !all.is_empty() {
            // What stands nearer takes the place of what stands above it.
            found = all.iter().flat_map(|grant| grant.privileges.iter().cloned()).collect();
        }
    }
    found
}

/// Whether somebody is `root@pam` itself: a token of root's is not.
pub(crate) fn is_root(who: &str) -> bool {
    who == "root@pam"
}

/// `user@realm` of somebody.
pub(crate) fn user_of(who: &str) -> &str {
    who.split('!').next().unwrap_or(who)
}

fn ticket_of(cookie: &str) -> Option<String> {
    cookie.split(';').find_map(|part| part.trim().strip_prefix("PVEAuthCookie=")).map(decode)
}
