//! How one Compose service is merged over another, by the rules of the Compose Specification, for `extends`, and for several files
//! that are one. <https://github.com/compose-spec/compose-spec/blob/main/13-merge.md>
//!
//! Maps merge key by key, lists are appended, everything else is replaced; what names itself (a variable, a mount by its target)
//! is there once, and the later one wins. The parts of a *topology* merge by other rules: see `super::super::merge`.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Position;
use super::super::node::{Kind, Node, Pair, Value};
use super::{pair, text_node};

/// `over` on top of `base`, both services.
pub(crate) fn service(base: Node, over: Node) -> Node {
    merge(base, over, "")
}

/// `over` on top of `base`, both whole Compose files.
pub(crate) fn file(base: Node, over: Node) -> Node {
    by_key(base, over, &|key, base, over| match key {
        "services" => by_key(base, over, &|_, base, over| service(base, over)),
        // Their keys have the same meaning as those of services that bear the same name.
        "networks" | "volumes" | "configs" | "secrets" => by_key(base, over, &|_, base, over| merge(base, over, "top")),
        _ => merge(base, over, "top"),
    })
}

/// What becomes of two values at one place.
enum Rule {
    /// The later one counts.
    Replace,
    /// A map, or a list of `NAME=VALUE`.
    Pairs,
    /// A map, or a list of names.
    Names,
    /// One word, or a list.
    Sequence,
    /// Maps by key; another `driver` begins anew.
    Driver,
    /// As their shapes say.
    Shape,
}

fn rule(path: &str) -> Rule {
    match path {
        "command" | "entrypoint" | "healthcheck.test" => Rule::Replace,
        "environment" | "labels" | "annotations" | "sysctls" | "deploy.labels" | "build.args" | "build.labels" | "top.labels" => {
            Rule::Pairs
        }
        "depends_on" | "networks" => Rule::Names,
        "dns" | "dns_opt" | "dns_search" | "env_file" | "tmpfs" | "label_file" => Rule::Sequence,
        "logging" => Rule::Driver,
        _ => Rule::Shape,
    }
}

fn merge(base: Node, over: Node, path: &str) -> Node {
    if base.is_null() {
        return over;
    }
    // Nothing takes away a command that came before, and says nothing about what is merged.
    if over.is_null() && !matches!(rule(path), Rule::Replace) && !matches!(base.value, Value::Scalar { .. }) {
        return base;
    }
    let deeper = |key: &str, base, over| merge(base, over, &if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") });
    match rule(path) {
        Rule::Replace => over,
        Rule::Pairs => maps(as_pairs(base), as_pairs(over), &|_, _, over| over),
        Rule::Names if matches!((&base.value, &over.value), (Value::List(_), Value::List(_))) => append(base, over, path),
        Rule::Names => maps(as_names(base, path), as_names(over, path), &deeper),
        Rule::Sequence => append(as_list(base), as_list(over), path),
        Rule::Driver if driver(&base).is_some() && driver(&over).is_some() && driver(&base) != driver(&over) => over,
        Rule::Driver => by_key(base, over, &deeper),
        Rule::Shape => match (&base.value, &over.value) {
            (Value::Map(_), Value::Map(_)) => by_key(base, over, &deeper),
            (Value::List(_), Value::List(_)) => append(base, over, path),
            _ => over,
        },
    }
}

/// Merges two maps; anything else is replaced.
fn by_key(base: Node, over: Node, both: &dyn Fn(&str, Node, Node) -> Node) -> Node {
    let (Value::Map(_), Value::Map(_)) = (&base.value, &over.value) else { return over };
    let (Value::Map(mut pairs), at) = (base.value, base.at) else { return over };
    let Value::Map(later) = over.value else { return Node { value: Value::Map(pairs), at } };
    let places: BTreeMap<String, usize> = pairs.iter().enumerate().map(|(n, p)| (p.key.clone(), n)).collect();
    for pair in later {
        match places.get(&pair.key).and_then(|n| pairs.get_mut(*n)) {
            Some(known) => {
                let before = std::mem::replace(&mut known.value, super::wrong(pair.key_at));
                let own = pair.key.starts_with("x-");
                known.value = if own { pair.value } else { both(&pair.key, before, pair.value) };
                known.key_at = pair.key_at;
            }
            None => pairs.push(pair),
        }
    }
    Node { value: Value::Map(pairs), at: over.at }
}

/// Appends a list; an item that says which it is replaces the earlier one.
fn append(base: Node, over: Node, path: &str) -> Node {
    let (Value::List(earlier), Value::List(later)) = (base.value, over.value) else {
        return Node { value: Value::List(Vec::new()), at: over.at };
    };
    let mut items: Vec<Node> = Vec::with_capacity(earlier.len() + later.len());
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for (is_later, item) in earlier.into_iter().map(|i| (false, i)).chain(later.into_iter().map(|i| (true, i))) {
        let index = index(path, &item);
        // Within one list nothing is taken away: what stands there twice is told.
        match index.as_ref().and_then(|index| places.get(index)).filter(|_| is_later).and_then(|n| items.get_mut(*n)) {
            Some(known) => *known = item,
            None => {
                if let Some(index) = index.filter(|_| !is_later) {
                    places.insert(index, items.len());
                }
                items.push(item);
            }
        }
    }
    Node { value: Value::List(items), at: over.at }
}

/// The parts of a short form, whose variables may hold colons of their own.
fn colon_parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut out) = (0_usize, 0, Vec::new());
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' || depth > 0 => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => {
                out.extend(text.get(start..at));
                start = at + 1;
            }
            _ => {}
        }
        before = c;
    }
    out.extend(text.get(start..));
    out
}

/// Which one of its list an item is.
fn index(path: &str, item: &Node) -> Option<String> {
    let field = |key: &str| match &item.value {
        Value::Map(pairs) => pairs.iter().find(|p| p.key == key).and_then(|p| scalar(&p.value)),
        Value::Scalar { .. } | Value::List(_) => None,
    };
    match (path, &item.value) {
        ("env_file", Value::Map(_)) => field("path").map(str::to_owned),
        ("volumes" | "devices" | "secrets" | "configs", Value::Map(_)) => field("target").or_else(|| field("source")).map(str::to_owned),
        ("volumes" | "devices", Value::Scalar { text, .. }) => {
            let mut parts = colon_parts(text).into_iter();
            let first = parts.next();
            parts.next().filter(|second| path == "devices" || second.starts_with('/')).or(first).map(str::to_owned)
        }
        ("ports", Value::Map(_)) => {
            let [host_ip, published, protocol] = ["host_ip", "published", "protocol"].map(|key| field(key).unwrap_or_default());
            let protocol = if protocol.is_empty() { "tcp" } else { protocol };
            Some(format!("{host_ip}:{published}:{}/{protocol}", field("target")?))
        }
        ("ports", Value::Scalar { text, .. }) => {
            let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
            let (front, target) = ports.rsplit_once(':').unwrap_or(("", ports));
            let (host_ip, published) = front.rsplit_once(':').unwrap_or(("", front));
            Some(format!("{}:{published}:{target}/{protocol}", host_ip.trim_matches(['[', ']'])))
        }
        (_, Value::Scalar { text, .. }) => Some(text.clone()),
        (_, Value::List(_) | Value::Map(_)) => None,
    }
}

fn scalar(node: &Node) -> Option<&str> {
    if let Value::Scalar { text, .. } = &node.value { Some(text) } else { None }
}

fn driver(node: &Node) -> Option<&str> {
    let Value::Map(pairs) = &node.value else { return None };
    pairs.iter().find(|p| p.key == "driver").and_then(|p| scalar(&p.value))
}

/// Merges what became two maps. What could not become one stands alone, so that whoever reads its values tells what is wrong.
fn maps(base: Result<Node, Node>, over: Result<Node, Node>, both: &dyn Fn(&str, Node, Node) -> Node) -> Node {
    match (base, over) {
        (Ok(base), Ok(over)) => by_key(base, over, both),
        (Err(wrong), _) | (Ok(_), Err(wrong)) => wrong,
    }
}

/// A list of `NAME=VALUE` as a map.
fn as_pairs(node: Node) -> Result<Node, Node> {
    as_map(node, &|text, at| match text.split_once('=') {
        Some((name, value)) => Pair { key: name.to_owned(), key_at: at, value: text_node(value, at) },
        None => Pair { key: text.to_owned(), key_at: at, value: nothing(at) },
    })
}

/// A list of names as a map.
fn as_names(node: Node, path: &str) -> Result<Node, Node> {
    as_map(node, &|name, at| {
        let condition = || Node { value: Value::Map(vec![pair("condition", text_node("service_started", at))]), at };
        Pair { key: name.to_owned(), key_at: at, value: if path == "depends_on" { condition() } else { nothing(at) } }
    })
}

/// A list of words as a map; as it was when it is no such list, or has something twice.
fn as_map(node: Node, read: &dyn Fn(&str, Position) -> Pair) -> Result<Node, Node> {
    let items = match &node.value {
        Value::Map(_) => return Ok(node),
        Value::List(items) => items,
        Value::Scalar { .. } => return Err(node),
    };
    let mut pairs: Vec<Pair> = Vec::with_capacity(items.len());
    let mut names = BTreeSet::new();
    for item in items {
        let Value::Scalar { text, kind: Kind::Text | Kind::Filled } = &item.value else { return Err(node) };
        let made = read(text, item.at);
        if !names.insert(made.key.clone()) {
            return Err(node);
        }
        pairs.push(made);
    }
    Ok(Node { value: Value::Map(pairs), at: node.at })
}

fn nothing(at: Position) -> Node {
    Node { value: Value::Scalar { text: String::new(), kind: Kind::Null }, at }
}

fn as_list(node: Node) -> Node {
    let at = node.at;
    match node.value {
        Value::List(_) => node,
        Value::Scalar { .. } | Value::Map(_) => Node { value: Value::List(vec![node]), at },
    }
}
