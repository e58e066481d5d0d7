//! Walking the tree: where we are, what is wrong there, and the basic shapes of values.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Position;
use super::super::keys::Object;
use super::super::limits::PROBLEMS_KEPT_MAX;
use super::super::node::{Kind, Node, Pair, Value, shorten};
use super::super::problem::{Problem, nearest};
use super::super::resolve::Gates;
use super::super::slice::BoundHost;
use super::super::vars::{Why, fill};

/// Reads typed values out of a tree. Without a host, a value that holds variables is *open*: its
/// syntax is checked, its meaning waits for the host.
pub(crate) struct Walker<'a> {
    host: Option<&'a BoundHost>,
    /// Whether variables may stand where we are.
    pub(crate) variables: bool,
    path: Vec<String>,
    /// Every problem so far.
    pub(crate) problems: Vec<Problem>,
    /// Whether an open value was met since this was last cleared.
    pub(crate) varied: bool,
    /// Where things that others may refer to stand, by their path inside of the entry.
    pub(crate) marks: BTreeMap<String, Position>,
    mark_from: usize,
    /// Which services are enabled, by the part that says so.
    pub(crate) gates: Gates,
}

/// The keys of a map that have been found to be known.
pub(crate) struct Fields<'n> {
    pairs: &'n [Pair],
    /// Where the map begins.
    pub(crate) at: Position,
}

impl<'n> Fields<'n> {
    /// The value behind `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.pairs.iter().find(|p| p.key == key).map(|p| &p.value)
    }

    /// The keys that stand there.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|p| p.key.as_str())
    }

    /// Where `key` stands; else where the map begins.
    pub(crate) fn key_at(&self, key: &str) -> Position {
        self.pairs.iter().find(|p| p.key == key).map_or(self.at, |p| p.key_at)
    }
}

/// A path in the file's own words: `hosts.shop-17.docker.services.site.ports[0]`.
pub(crate) fn path_text(path: &[String]) -> String {
    let mut out = String::new();
    for part in path {
        if !out.is_empty() && !part.starts_with('[') {
            out.push('.');
        }
        out.push_str(part);
    }
    out
}

/// A text, or one that only a host can tell.
pub(crate) enum Filled {
    /// Known now.
    Known(String),
    /// Holds variables; as written.
    Open(String),
}

impl Filled {
    /// The text, filled or as written.
    pub(crate) fn into_text(self) -> String {
        match self {
            Filled::Known(text) | Filled::Open(text) => text,
        }
    }
}

impl<'a> Walker<'a> {
    /// Begins at `path`.
    pub(crate) fn new(path: &[&str], host: Option<&'a BoundHost>) -> Self {
        Self {
            host,
            variables: host.is_some(),
            path: path.iter().map(|&s| s.to_owned()).collect(),
            problems: Vec::new(),
            varied: false,
            marks: BTreeMap::new(),
            mark_from: 0,
            gates: Gates::new(),
        }
    }

    /// Takes all marks so far; those that follow are relative to where we are now.
    pub(crate) fn take_marks(&mut self) -> BTreeMap<String, Position> {
        self.mark_from = self.path.len();
        std::mem::take(&mut self.marks)
    }

    /// Notes where `name`, below where we are, stands.
    pub(crate) fn mark(&mut self, name: &str, at: Position) {
        if self.host.is_some() {
            // Marks are taken from the file's own walk.
            return;
        }
        let mut path = self.path.get(self.mark_from..).unwrap_or_default().join(".");
        if !name.is_empty() {
            path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        }
        self.marks.insert(path, at);
    }

    /// Where we are.
    pub(crate) fn path(&self) -> String {
        path_text(&self.path)
    }

    /// Does `work` one step further down.
    pub(crate) fn within<T>(&mut self, step: impl Into<String>, work: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step.into());
        let done = work(self);
        self.path.pop();
        done
    }

    /// Reports a problem here.
    pub(crate) fn report(&mut self, at: Position, message: impl Into<String>) {
        self.report_why(at, Why::new(message));
    }

    /// Reports a problem here.
    pub(crate) fn report_why(&mut self, at: Position, why: Why) {
        if self.problems.len() < PROBLEMS_KEPT_MAX {
            let problem = why.at(at, self.path());
            self.problems.push(problem);
        }
    }

    /// Reports that something else was wanted here.
    pub(crate) fn wanted(&mut self, node: &Node, wanted: &str) {
        if node.is_wrong() {
            return;
        }
        self.report(node.at, format!("expected {wanted}, found {}", node.describe()));
    }

    /// Reads a map with fixed keys; reports those that it doesn't know and those that are missing.
    pub(crate) fn object<'n>(&mut self, node: &'n Node, object: &'static Object) -> Option<Fields<'n>> {
        let Value::Map(pairs) = &node.value else {
            self.wanted(node, &format!("{} (a map)", object.name));
            return None;
        };
        for pair in pairs {
            let key = pair.key.as_str();
            if object.keys.iter().any(|k| k.name == key) || key.starts_with("x-") {
                continue;
            }
            if self.problems.len() >= PROBLEMS_KEPT_MAX {
                break;
            }
            let known = object.keys.iter().map(|k| k.name);
            let problem = if let Some((_, instead)) = object.never.iter().find(|(never, _)| *never == key) {
                Why::new(format!("`{key}` has no meaning here")).help(*instead)
            } else if object.later.contains(&key) {
                Why::new(format!("`{key}` is not supported yet"))
            } else {
                let mut why = Why::new(format!("{} has no key `{}`", object.name, shorten(key)));
                why.suggestion = nearest(key, known).map(str::to_owned);
                why.help = misplaced(object, key);
                why
            };
            self.within(key, |w| w.report_why(pair.key_at, problem));
        }
        for key in object.keys.iter().filter(|k| k.required) {
            if !pairs.iter().any(|p| p.key == key.name) {
                self.report(node.at, format!("{} needs the key `{}`", object.name, key.name));
            }
        }
        Some(Fields { pairs, at: node.at })
    }

    /// Reads what stands behind `key`, if anything does.
    pub(crate) fn get<'n, T>(&mut self, fields: &Fields<'n>, key: &str, read: impl FnOnce(&mut Self, &'n Node) -> Option<T>) -> Option<T> {
        let node = fields.get(key)?;
        self.within(key, |w| read(w, node))
    }

    /// Reads a map with free keys.
    pub(crate) fn map<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Pair] {
        match &node.value {
            Value::Map(pairs) => pairs,
            Value::Scalar { .. } | Value::List(_) => {
                self.wanted(node, what);
                &[]
            }
        }
    }

    /// Reads a list.
    pub(crate) fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        match &node.value {
            Value::List(items) => items,
            Value::Scalar { .. } | Value::Map(_) => {
                self.wanted(node, what);
                &[]
            }
        }
    }

    /// Fills in the variables of `text`.
    pub(crate) fn fill(&mut self, text: &str, at: Position) -> Option<Filled> {
        if text.contains('\0') {
            self.report(at, "a NUL character cannot stand here");
            return None;
        }
        match fill(text, self.host) {
            Ok(Some(text)) => Some(Filled::Known(text)),
            Ok(None) if !self.variables => {
                self.report(at, "variables are filled in under `docker` and `proxmox` only");
                None
            }
            Ok(None) => {
                self.varied = true;
                Some(Filled::Open(text.to_owned()))
            }
            Err(why) => {
                self.report_why(at, why);
                None
            }
        }
    }

    /// Reads text.
    pub(crate) fn text(&mut self, node: &Node) -> Option<Filled> {
        match &node.value {
            Value::Scalar { text, kind: Kind::Text | Kind::Filled } => self.fill(text, node.at),
            Value::Scalar { text, kind: Kind::Bool | Kind::Int | Kind::Float } => {
                let why = Why::new(format!("expected text, found {}", node.describe())).help(format!("write \"{text}\" in quotes"));
                self.report_why(node.at, why);
                None
            }
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.wanted(node, "text");
                None
            }
        }
    }

    /// Reads text, a number or a truth value as text: as it is written, truth values in lower case.
    pub(crate) fn scalar(&mut self, node: &Node, what: &str) -> Option<Filled> {
        match &node.value {
            Value::Scalar { text, kind: Kind::Text | Kind::Filled } => self.fill(text, node.at),
            Value::Scalar { text, kind: Kind::Bool } => Some(Filled::Known(text.to_lowercase())),
            Value::Scalar { text, kind: Kind::Int | Kind::Float } => Some(Filled::Known(text.clone())),
            Value::Scalar { kind: Kind::Null | Kind::Wrong, .. } | Value::List(_) | Value::Map(_) => {
                self.wanted(node, what);
                None
            }
        }
    }

    /// Reads text that `read` understands; `None` when it doesn't, and while it is open.
    pub(crate) fn parsed<T>(&mut self, node: &Node, read: impl FnOnce(&str) -> Result<T, Why>) -> Option<T> {
        let filled = self.text(node)?;
        self.understood(filled, node.at, read)
    }

    /// What `read` makes of a known text.
    pub(crate) fn understood<T>(&mut self, filled: Filled, at: Position, read: impl FnOnce(&str) -> Result<T, Why>) -> Option<T> {
        match filled {
            Filled::Open(_) => None,
            Filled::Known(text) => match read(&text) {
                Ok(value) => Some(value),
                Err(why) => {
                    self.report_why(at, why);
                    None
                }
            },
        }
    }

    /// Reads text that must pass `check` once it is known; while open it stays as written.
    pub(crate) fn checked(&mut self, node: &Node, check: impl FnOnce(&str) -> Result<String, Why>) -> Option<String> {
        match self.text(node)? {
            Filled::Open(text) => Some(text),
            known @ Filled::Known(_) => self.understood(known, node.at, check),
        }
    }

    /// Reads `true` or `false`.
    pub(crate) fn truth(&mut self, node: &Node) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, kind: Kind::Bool } => Some(text.eq_ignore_ascii_case("true")),
            Value::Scalar { text, kind: Kind::Text } if matches!(text.to_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n") => {
                let word = if matches!(text.to_lowercase().as_str(), "yes" | "on" | "y") { "true" } else { "false" };
                let why = Why {
                    message: format!("expected true or false, found {}", node.describe()),
                    suggestion: Some(word.to_owned()),
                    help: None,
                };
                self.report_why(node.at, why);
                None
            }
            Value::Scalar { text, kind } if *kind == Kind::Filled || *kind == Kind::Text && text.contains('$') => {
                match self.fill(text, node.at)? {
                    Filled::Open(_) => None,
                    Filled::Known(text) => match text.as_str() {
                        "true" => Some(true),
                        "false" => Some(false),
                        other => {
                            self.report(node.at, format!("expected true or false, found the text {:?}", shorten(other)));
                            None
                        }
                    },
                }
            }
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                self.wanted(node, "true or false");
                None
            }
        }
    }

    /// Reads a whole number between `min` and `max`; text of digits is one too.
    pub(crate) fn int(&mut self, node: &Node, min: u64, max: u64) -> Option<u64> {
        let wanted = format!("a whole number from {min} to {max}");
        let filled = self.scalar(node, &wanted)?;
        self.understood(filled, node.at, |text| {
            super::values::decimal(text)
                .filter(|n| (min..=max).contains(n))
                .ok_or_else(|| Why::new(format!("expected {wanted}, found `{}`", shorten(text))))
        })
    }

    /// Reads one of `words`.
    pub(crate) fn one_of<T: Copy>(&mut self, node: &Node, words: &[(&str, T)]) -> Option<T> {
        self.parsed(node, |text| {
            if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
                return Ok(*value);
            }
            let list: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
            let mut why = Why::new(format!("expected {}, found `{}`", list.join(" or "), shorten(text)));
            why.suggestion = nearest(text, words.iter().map(|(word, _)| *word)).map(str::to_owned);
            Err(why)
        })
    }

    /// Reads a list of text, each of which must pass `check`.
    pub(crate) fn names(&mut self, node: &Node, check: impl Fn(&str) -> Result<String, Why>) -> Vec<(String, Position)> {
        let mut out: Vec<(String, Position)> = Vec::new();
        let mut seen: BTreeSet<String> = BTreeSet::new();
        for (n, item) in self.list(node, "a list of names").iter().enumerate() {
            let name = self.within(format!("[{n}]"), |w| w.parsed(item, &check));
            let Some(name) = name else { continue };
            if !seen.insert(name.clone()) {
                self.within(format!("[{n}]"), |w| w.report(item.at, format!("`{}` stands twice in this list", shorten(&name))));
            } else {
                out.push((name, item.at));
            }
        }
        out
    }

    /// Reads a map of scalars.
    pub(crate) fn options(&mut self, node: &Node) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for pair in self.map(node, "a map of text, numbers or truth values") {
            let value = self.within(&pair.key, |w| w.scalar(&pair.value, "text, a number or a truth value"));
            if let Some(value) = value {
                out.insert(pair.key.clone(), value.into_text());
            }
        }
        out
    }

    /// Reads a map of scalars, or a list of `NAME=VALUE`. `rule` says what is wrong with a name.
    pub(crate) fn pairs(&mut self, node: &Node, rule: impl Fn(&str) -> Result<(), Why>) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        match &node.value {
            Value::List(items) => {
                for (n, item) in items.iter().enumerate() {
                    self.within(format!("[{n}]"), |w| w.pair_item(item, &rule, &mut out));
                }
            }
            Value::Map(pairs) => {
                for pair in pairs {
                    self.within(&pair.key, |w| {
                        if let Err(why) = rule(&pair.key) {
                            w.report_why(pair.key_at, why);
                        } else if pair.value.is_null() {
                            w.report_why(pair.value.at, no_value(&pair.key));
                        } else if let Some(value) = w.scalar(&pair.value, "text, a number or a truth value") {
                            out.insert(pair.key.clone(), value.into_text());
                        }
                    });
                }
            }
            Value::Scalar { .. } => self.wanted(node, "a map, or a list of NAME=VALUE"),
        }
        out
    }

    fn pair_item(&mut self, item: &Node, rule: impl Fn(&str) -> Result<(), Why>, out: &mut BTreeMap<String, String>) {
        let Value::Scalar { text, kind: Kind::Text | Kind::Filled } = &item.value else {
            self.wanted(item, "NAME=VALUE");
            return;
        };
        let Some((name, value)) = text.split_once('=') else {
            self.report_why(item.at, no_value(text));
            return;
        };
        if let Err(why) = rule(name) {
            self.report_why(item.at, why);
        } else if out.contains_key(name) {
            self.report(item.at, format!("`{}` stands twice in this list", shorten(name)));
        } else if let Some(value) = self.fill(value, item.at) {
            out.insert(name.to_owned(), value.into_text());
        }
    }
}

fn no_value(name: &str) -> Why {
    Why::new(format!("`{}` has no value", shorten(name)))
        .help(format!("write the value, as in `{}=…` or `\"\"` for an empty one; none is taken from the environment", shorten(name)))
}

/// Where a key that is wrong in this place would be right.
fn misplaced(object: &Object, key: &str) -> Option<String> {
    match (object.definition, key) {
        ("topology", "services" | "networks" | "volumes" | "docker") => Some(format!(
            "`{key}` belongs to a host or profile: `hosts.NAME.docker{}`",
            if key == "docker" { String::new() } else { format!(".{key}") }
        )),
        ("topology", "proxmox" | "guests") => {
            Some(format!("`{key}` belongs to a host or profile: `hosts.NAME.proxmox{}`", if key == "proxmox" { "" } else { ".guests" }))
        }
        ("host" | "profile", "guests") => Some("`guests` belongs under `proxmox`".to_owned()),
        ("topology", "name") => Some("the name stands under `topology`".to_owned()),
        ("host" | "profile", "services" | "networks" | "volumes") => Some(format!("`{key}` belongs under `docker`")),
        ("profile", "use") => Some("profiles can't use profiles; name both in the host's `use`".to_owned()),
        _ => None,
    }
}
