//! What the API takes and answers.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::request::{Request, Response, decode, split_path};
use crate::world::World;
use crate::world::limits::{Refused, Standing};

mod actions;
mod catalog;
mod create;
mod droplets;
mod page;
mod shape;
mod snapshots;
mod tags;

/// A call that was let in.
pub(crate) struct Call<'w> {
    pub world: &'w mut World,
    /// The name of the token.
    pub token: String,
    /// The path without its query.
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub body: &'w [u8],
    pub base: &'w str,
}

/// A call that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fail {
    status: u16,
    id: &'static str,
    message: String,
}

impl Fail {
    pub fn unprocessable(message: &str) -> Self {
        Self { status: 422, id: "unprocessable_entity", message: message.to_owned() }
    }

    pub fn bad(message: &str) -> Self {
        Self { status: 400, id: "bad_request", message: message.to_owned() }
    }

    pub fn not_found() -> Self {
        Self { status: 404, id: "not_found", message: "The resource you were accessing could not be found.".to_owned() }
    }

    /// One thing at a time is done to a droplet.
    pub fn pending() -> Self {
        Self::unprocessable("Droplet already has a pending event.")
    }
}

impl Call<'_> {
    /// The body, which has to be an object.
    pub fn object(&self) -> Result<serde_json::Map<String, Value>, Fail> {
        match serde_json::from_slice(self.body) {
            Ok(Value::Object(body)) => Ok(body),
            Ok(_) | Err(_) => Err(Fail::bad("The request body is not valid JSON.")),
        }
    }

    /// A parameter of the query.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

type Served = Result<Response, Fail>;
type Serve = fn(&mut Call<'_>, &[&str]) -> Served;

/// The scopes that a call needs, all of them, and what serves it.
fn route(method: &str, parts: &[&str]) -> Option<(&'static [&'static str], Serve)> {
    let found: (&'static [&'static str], Serve) = match (method, parts) {
        ("GET", ["account"]) => (&["account:read"], catalog::account),
        ("GET", ["account", "keys"]) => (&["ssh_key:read"], catalog::keys),
        ("GET", ["account", "keys", _]) => (&["ssh_key:read"], catalog::key),
        ("GET", ["regions"]) => (&["regions:read"], catalog::regions),
        ("GET", ["sizes"]) => (&["sizes:read", "regions:read"], catalog::sizes),
        ("GET", ["images"]) => (&["image:read"], catalog::images),
        ("GET", ["images", _]) => (&["image:read"], catalog::image),
        ("DELETE", ["images", _]) => (&["image:delete"], snapshots::delete_image),
        ("GET", ["droplets"]) => (&["droplet:read"], droplets::list),
        ("POST", ["droplets"]) => (&["droplet:create"], create::create),
        ("DELETE", ["droplets"]) => (&["droplet:delete"], droplets::delete_by_tag),
        ("GET", ["droplets", _]) => (&["droplet:read"], droplets::one),
        ("DELETE", ["droplets", _]) => (&["droplet:delete"], droplets::delete),
        ("GET", ["droplets", _, "actions"]) => (&["droplet:read"], actions::of_droplet),
        ("POST", ["droplets", _, "actions"]) => (&["droplet:update"], actions::begin),
        ("GET", ["droplets", _, "actions", _]) => (&["droplet:read"], actions::one_of_droplet),
        ("GET", ["droplets", _, "snapshots"]) => (&["droplet:read"], snapshots::of_droplet),
        ("GET", ["actions"]) => (&["actions:read"], actions::all),
        ("GET", ["actions", _]) => (&["actions:read"], actions::one),
        ("GET", ["snapshots"]) => (&["snapshot:read"], snapshots::list),
        ("GET", ["snapshots", _]) => (&["snapshot:read", "block_storage_snapshot:read"], snapshots::one),
        ("DELETE", ["snapshots", _]) => (&["image:delete", "snapshot:delete"], snapshots::delete),
        ("GET", ["tags"]) => (&["tag:read"], tags::list),
        ("POST", ["tags"]) => (&["tag:create"], tags::create),
        ("GET", ["tags", _]) => (&["tag:read"], tags::one),
        ("DELETE", ["tags", _]) => (&["tag:delete"], tags::delete),
        ("POST", ["tags", _, "resources"]) => (&["tag:create"], tags::put),
        ("DELETE", ["tags", _, "resources"]) => (&["tag:delete"], tags::take),
        _ => return None,
    };
    Some(found)
}

/// The scopes that a call needs; nothing when the simulator does not know it.
#[cfg(test)]
pub(crate) fn scopes(method: &str, path: &str) -> Option<&'static [&'static str]> {
    let parts: Vec<&str> = path.trim_start_matches("/v2/").split('/').collect();
    route(method, &parts).map(|(scopes, _)| scopes)
}

/// Serves a call: the answer, and the name of the token.
pub(crate) fn answer(world: &mut World, request: &Request) -> (Response, String) {
    let (path, query) = split_path(&request.path);
    let Some(token) = let_in(world, request) else {
        return (Response::failure(401, "unauthorized", "Unable to authenticate you"), String::new());
    };
    let (now_ms, limits) = (world.now_ms, world.setup.limits);
    let lists_keys = request.method == "GET" && path == "/v2/account/keys";
    let standing = world.counters.count(&token.name, now_ms, limits, lists_keys);
    let mut response = if standing.refused.is_some() {
        Response::failure(429, "too_many_requests", "API rate limit exceeded.")
    } else {
        let decoded: Vec<String> = path.trim_start_matches('/').split('/').map(decode).collect();
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        let query = query.into_iter().collect();
        let name = token.name.clone();
        let mut call = Call { world, token: name, path: path.to_owned(), query, body: &request.body, base: &request.base };
        match serve(&mut call, &request.method, &parts, |scope| token.may(scope)) {
            Ok(response) => response,
            Err(fail) => Response::failure(fail.status, fail.id, &fail.message),
        }
    };
    tell_standing(&mut response, standing);
    (response, token.name)
}

fn serve(call: &mut Call<'_>, method: &str, parts: &[&str], may: impl Fn(&str) -> bool) -> Served {
    let found = parts.split_first().filter(|(version, _)| **version == "v2");
    let Some((parts, (scopes, serve))) = found.and_then(|(_, parts)| Some((parts, route(method, parts)?))) else {
        return Err(Fail::not_found());
    };
    if !scopes.iter().all(|scope| may(scope)) {
        let message = "You are not authorized to perform this operation".to_owned();
        return Err(Fail { status: 403, id: "forbidden", message });
    }
    serve(call, parts)
}

/// Whose call it is.
pub(crate) fn let_in(world: &World, request: &Request) -> Option<crate::setup::Token> {
    let secret = request.authorization.as_deref()?.strip_prefix("Bearer ")?;
    world.setup.tokens.iter().find(|token| token.secret == secret).cloned()
}

fn tell_standing(response: &mut Response, standing: Standing) {
    let mut header = |name: &str, value: u64| response.headers.push((name.to_owned(), value.to_string()));
    header("ratelimit-limit", u64::try_from(standing.limit).unwrap_or(u64::MAX));
    header("ratelimit-remaining", u64::try_from(standing.remaining).unwrap_or(u64::MAX));
    header("ratelimit-reset", standing.reset);
    if let Some(Refused::Burst { after }) = standing.refused {
        header("retry-after", after);
    }
}

/// The number in a path. What is none is nowhere.
fn number(parts: &[&str], at: usize) -> Result<u64, Fail> {
    parts.get(at).and_then(|part| part.parse().ok()).ok_or_else(Fail::not_found)
}
