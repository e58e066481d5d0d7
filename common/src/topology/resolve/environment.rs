//! A service's variables: `env_file`, what is passed on from the operator's environment, and a look at what seems to be a credential.

use std::collections::{BTreeMap, BTreeSet};

use super::super::credentials::looks_like_one;
use super::super::dotenv::{self, Format};
use super::super::keys;
use super::super::limits::FILLED_MAX;
use super::super::node::{Kind, Node, Pair, Value, shorten};
use super::super::problem::nearest;
use super::super::vars::Why;
use super::extends::not_there;
use super::{Resolver, Scope, pair, text_node, too_much, wrong};

impl Resolver<'_> {
    /// Brings `env_file` into one form: a list of maps, each path relative to the topology file.
    pub(super) fn name_files(&mut self, scope: &Scope, node: &mut Node) {
        let at = node.at;
        let value = std::mem::replace(&mut node.value, Value::List(Vec::new()));
        let items = match value {
            Value::List(items) => items,
            Value::Scalar { kind: Kind::Null, .. } => return,
            single @ (Value::Scalar { .. } | Value::Map(_)) => vec![Node { value: single, at }],
        };
        let named = items.into_iter().enumerate().filter_map(|(n, item)| self.within(format!("[{n}]"), |r| r.name_file(scope, item)));
        node.value = Value::List(named.collect());
    }

    fn name_file(&mut self, scope: &Scope, item: Node) -> Option<Node> {
        let Value::Map(mut pairs) = item.value else {
            let named = self.word(&item, "a path, or a map with `path`")?;
            let path = self.path(scope, &named, item.at)?;
            return Some(Node { value: Value::Map(vec![pair("path", text_node(path, item.at))]), at: item.at });
        };
        let mut is_good = true;
        for pair in &pairs {
            let wrong = match (pair.key.as_str(), &pair.value.value) {
                ("path", _) | ("required", Value::Scalar { kind: Kind::Bool, .. }) => None,
                ("required", Value::Scalar { text, kind: Kind::Filled }) if matches!(text.as_str(), "true" | "false") => None,
                ("format", Value::Scalar { text, kind: Kind::Text | Kind::Filled }) if text == "raw" => None,
                ("required", _) => Some(Why::new(format!("expected true or false, found {}", pair.value.describe()))),
                ("format", _) => Some(Why::new(format!("expected `raw`, found {}", pair.value.describe()))),
                (key, _) if key.starts_with("x-") => None,
                (key, _) => {
                    let mut why = Why::new(format!("{} has no key `{}`", keys::ENV_FILE.name, shorten(key)));
                    why.suggestion = nearest(key, keys::ENV_FILE.keys.iter().map(|k| k.name)).map(str::to_owned);
                    Some(why)
                }
            };
            if let Some(why) = wrong.filter(|_| !pair.value.is_wrong()) {
                is_good = false;
                self.within(&pair.key, |r| r.report(pair.value.at, why));
            }
        }
        let Some(path) = pairs.iter_mut().find(|p| p.key == "path") else {
            self.report(item.at, Why::new(format!("{} needs the key `path`", keys::ENV_FILE.name)));
            return None;
        };
        let at = path.value.at;
        let named = self.within("path", |r| r.word(&path.value, "a path").and_then(|named| r.path(scope, &named, at)))?;
        path.value = text_node(named, at);
        is_good.then_some(Node { value: Value::Map(pairs), at: item.at })
    }

    /// Puts the variables of `env_file` under those of `environment`, and fills in those that are passed on.
    pub(super) fn environment(&mut self, node: &mut Node) {
        let Value::Map(fields) = &mut node.value else { return };
        let files = fields.iter().position(|f| f.key == "env_file").map(|at| fields.remove(at));
        if let Some(own) = fields.iter_mut().find(|f| f.key == "environment") {
            self.within("environment", |r| r.pass_on(&mut own.value));
        }
        let Some(Pair { key_at, value: Node { value: Value::List(files), .. }, .. }) = files else {
            self.look(fields, &BTreeSet::new());
            return;
        };
        let mut given: BTreeMap<String, Node> = BTreeMap::new();
        for (n, file) in files.iter().enumerate() {
            self.within("env_file", |r| r.within(format!("[{n}]"), |r| r.add_file(file, &mut given)));
        }
        let names: BTreeSet<String> = given.keys().cloned().collect();
        if !fields.iter().any(|f| f.key == "environment") {
            let value = Node { value: Value::Map(Vec::new()), at: key_at };
            fields.push(Pair { key: "environment".to_owned(), key_at, value });
        }
        let own = fields.iter_mut().find(|f| f.key == "environment").map(|f| &mut f.value.value);
        match own {
            Some(Value::Map(own)) => {
                own.iter().for_each(|p| drop(given.remove(&p.key)));
                own.extend(given.into_iter().map(|(name, value)| Pair { key: name, key_at: value.at, value }));
            }
            Some(Value::List(own)) => {
                for item in own.iter() {
                    if let Value::Scalar { text, .. } = &item.value {
                        given.remove(text.split('=').next().unwrap_or_default());
                    }
                }
                let text = |node: &Node| if let Value::Scalar { text, .. } = &node.value { text.clone() } else { String::new() };
                own.extend(given.into_iter().map(|(name, value)| text_node(format!("{name}={}", text(&value)), value.at)));
            }
            // What is no environment is told where values are read.
            Some(other @ Value::Scalar { kind: Kind::Null, .. }) => {
                *other = Value::Map(given.into_iter().map(|(name, value)| Pair { key: name, key_at: value.at, value }).collect());
            }
            Some(Value::Scalar { .. }) | None => {}
        }
        self.look(fields, &names);
    }

    fn add_file(&mut self, item: &Node, given: &mut BTreeMap<String, Node>) {
        let Value::Map(pairs) = &item.value else { return };
        let part = |key: &str| pairs.iter().find(|p| p.key == key).map(|p| &p.value);
        let word = |key: &str| part(key).and_then(|n| if let Value::Scalar { text, .. } = &n.value { Some(text.as_str()) } else { None });
        let (path, at) = (word("path").unwrap_or_default(), part("path").map_or(item.at, |n| n.at));
        let Some((text, file)) = self.file(path) else {
            if !word("required").is_some_and(|word| word.eq_ignore_ascii_case("false")) {
                self.miss(at, not_there(path));
            }
            return;
        };
        let format = if word("format") == Some("raw") { Format::Raw } else { Format::Compose };
        self.filled = self.filled.saturating_add(text.len());
        if self.filled > FILLED_MAX {
            self.report(at, too_much());
            return;
        }
        let before = self.missed;
        let read = dotenv::variables(text, format, &mut |name| self.variable(name));
        match read {
            Ok(variables) => {
                // Values may hold others, and so be much longer than their file.
                let values = variables.iter().filter_map(|variable| variable.value.as_ref()).map(String::len);
                self.filled = values.fold(self.filled, usize::saturating_add);
                if self.filled > FILLED_MAX {
                    self.report(at, too_much());
                    return;
                }
                for mut variable in variables {
                    variable.at.file = file;
                    match variable.value {
                        Some(value) => drop(given.insert(variable.name, text_node(value.replace('$', "$$"), variable.at))),
                        None => self.within(&variable.name, |r| r.warn(variable.at, not_passed_on(&variable.name))),
                    }
                }
            }
            Err(problems) => {
                for problem in problems {
                    let at = super::Position { file, ..problem.position };
                    let why = Why { message: problem.message, suggestion: problem.suggestion.map(Into::into), help: problem.help };
                    if self.missed > before { self.miss(at, why) } else { self.report(at, why) }
                }
            }
        }
    }

    /// Gives the variables that are named without a value the value that they have on the operator's machine. One that has none is
    /// left as a place where nothing is.
    fn pass_on(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Map(pairs) => {
                for pair in pairs.iter_mut().filter(|p| p.value.is_null() && !p.key.is_empty() && !p.key.contains('=')) {
                    match self.variable(&pair.key) {
                        Some(value) => pair.value = text_node(value.replace('$', "$$"), pair.value.at),
                        None => {
                            self.within(&pair.key, |r| r.warn(pair.key_at, not_passed_on(&pair.key)));
                            pair.value = wrong(pair.value.at);
                        }
                    }
                }
            }
            Value::List(items) => {
                for (n, item) in items.iter_mut().enumerate() {
                    let Value::Scalar { text: name, kind: Kind::Text | Kind::Filled } = &item.value else { continue };
                    if name.is_empty() || name.contains('=') {
                        continue;
                    }
                    *item = match self.variable(name) {
                        Some(value) => text_node(format!("{name}={}", value.replace('$', "$$")), item.at),
                        None => {
                            self.within(format!("[{n}]"), |r| r.warn(item.at, not_passed_on(name)));
                            // Its name stays: no file gives what the service meant to pass on.
                            Node { value: Value::Scalar { text: name.clone(), kind: Kind::Wrong }, at: item.at }
                        }
                    };
                }
            }
            Value::Scalar { .. } => {}
        }
    }

    /// Warns of variables that look like credentials. `of_files` are those that came from files.
    fn look(&mut self, fields: &[Pair], of_files: &BTreeSet<String>) {
        let Some(environment) = fields.iter().find(|f| f.key == "environment") else { return };
        let found: Vec<(&str, &str, super::Position)> = match &environment.value.value {
            Value::Map(pairs) => pairs.iter().filter_map(|p| Some((p.key.as_str(), scalar(&p.value)?, p.value.at))).collect(),
            Value::List(items) => {
                items.iter().filter_map(|i| scalar(i)?.split_once('=').map(|(name, value)| (name, value, i.at))).collect()
            }
            Value::Scalar { .. } => Vec::new(),
        };
        for (name, _, at) in found.into_iter().filter(|(name, value, _)| looks_like_one(name, value)) {
            let section = if at.file > 0 && of_files.contains(name) { "env_file" } else { "environment" };
            let why = Why::new(format!("the value of `{}` looks like a credential, and it will be readable in the signed slice, at the hub and in `docker inspect`", shorten(name)))
                .help("such values belong into `secrets`: a file or variable that only the host can open, and the container reads at `/run/secrets/NAME`");
            self.within(section, |r| r.within(name, |r| r.warn(at, why)));
        }
    }
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.value {
        Value::Scalar { text, kind: Kind::Text | Kind::Filled } => Some(text),
        // A password of digits.
        Value::Scalar { text, kind: Kind::Int | Kind::Float } => Some(text),
        Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
    }
}

fn not_passed_on(name: &str) -> Why {
    Why::new(format!("the variable `{}` is not set, so nothing is passed on", shorten(name)))
        .help(format!("set it in the environment or in `.env`, or write `{}=` for an empty value", shorten(name)))
}
