//! From the tree as it is written to the tree as it is meant on the operator's machine: variables filled in, what services extend
//! merged into them, and the files of their `env_file` in their `environment`.
//!
//! What differs from host to host (`${host.name}` and its like) stays for the reader of values. Each place is kept, also of what
//! stands in another file. Pure: everything that is not in the tree comes from the [`Inputs`].

mod environment;
mod extends;
pub(crate) mod merge;

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Position;
use super::inputs::{Asked, Inputs};
use super::interpolate::{Style, substitute};
use super::limits::{FILLED_MAX, PROBLEMS_KEPT_MAX, RESOLVED_NODES_MAX};
use super::node::{Kind, Node, Pair, Value};
use super::parse::path_text;
use super::problem::Problem;
use super::vars::Why;

/// The variable that names the enabled profiles of Compose.
const PROFILES_VARIABLE: &str = "COMPOSE_PROFILES";

/// For each part of the file, by its path: the services that have Compose's `profiles`, and whether one of them is enabled.
pub(crate) type Gates = BTreeMap<String, BTreeMap<String, bool>>;

/// What came of it, besides the tree.
#[derive(Default)]
pub(crate) struct Resolved {
    /// What was looked for.
    pub(crate) asked: Asked,
    /// What is wrong.
    pub(crate) problems: Vec<Problem>,
    /// What is not wrong, and should be known.
    pub(crate) warnings: Vec<Problem>,
    /// Which services are enabled.
    pub(crate) gates: Gates,
}

/// Brings the tree of a topology into the form that it is meant in. When `lenient`, what the inputs lack is a warning.
pub(crate) fn resolve(root: &mut Node, inputs: &Inputs, lenient: bool) -> Resolved {
    let mut resolver = Resolver::new(inputs, lenient);
    let Value::Map(fields) = &mut root.value else { return resolver.done };
    for field in fields.iter_mut().filter(|f| matches!(f.key.as_str(), "profiles" | "hosts")) {
        let Value::Map(parts) = &mut field.value.value else { continue };
        for part in parts {
            let Value::Map(sections) = &mut part.value.value else { continue };
            resolver.path = vec![field.key.clone(), part.key.clone()];
            for section in sections {
                match section.key.as_str() {
                    "docker" => resolver.docker(&mut section.value),
                    "proxmox" => resolver.proxmox(&mut section.value),
                    _ => {}
                }
            }
        }
    }
    resolver.done
}

/// Services that may extend each other: those of one file, or of one section of the topology.
struct Scope {
    /// The file, as in [`Position::file`].
    file: u16,
    /// Its name, for messages.
    name: String,
    /// The folder that its paths are relative to.
    folder: String,
    services: BTreeMap<String, Node>,
}

struct Resolver<'i> {
    inputs: &'i Inputs,
    done: Resolved,
    path: Vec<String>,
    /// Files that services extended so far; `None` for one that is wrong and was told.
    opened: BTreeMap<String, Option<Rc<Scope>>>,
    nodes: usize,
    filled: usize,
    /// Whether what the inputs lack is only warned of: they are another machine's business.
    lenient: bool,
    /// Variables that were looked for and are not set.
    missed: usize,
}

impl<'i> Resolver<'i> {
    fn new(inputs: &'i Inputs, lenient: bool) -> Self {
        Self { inputs, done: Resolved::default(), path: Vec::new(), opened: BTreeMap::new(), nodes: 0, filled: 0, lenient, missed: 0 }
    }

    fn within<T>(&mut self, step: impl Into<String>, work: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step.into());
        let done = work(self);
        self.path.pop();
        done
    }

    fn report(&mut self, at: Position, why: Why) {
        if self.done.problems.len() < PROBLEMS_KEPT_MAX {
            self.done.problems.push(why.at(at, path_text(&self.path)));
        }
    }

    fn warn(&mut self, at: Position, why: Why) {
        if self.done.warnings.len() < PROBLEMS_KEPT_MAX {
            self.done.warnings.push(why.at(at, path_text(&self.path)));
        }
    }

    /// Tells of what the inputs lack.
    fn miss(&mut self, at: Position, why: Why) {
        if self.lenient { self.warn(at, why) } else { self.report(at, why) }
    }

    /// What a variable is set to.
    fn variable(&mut self, name: &str) -> Option<String> {
        if !self.done.asked.variables.contains(name) {
            self.done.asked.variables.insert(name.to_owned());
        }
        let value = self.inputs.variables.get(name).cloned();
        self.missed += usize::from(value.is_none());
        value
    }

    /// The content of a file, and its number.
    fn file(&mut self, path: &str) -> Option<(&'i str, u16)> {
        self.done.asked.files.insert(path.to_owned());
        let (number, (_, content)) = self.inputs.files.iter().enumerate().find(|(_, (known, _))| *known == path)?;
        Some((content, u16::try_from(number + 1).ok()?))
    }

    fn docker(&mut self, node: &mut Node) {
        let Value::Map(sections) = &mut node.value else { return };
        let part = path_text(&self.path);
        self.within("docker", |r| {
            for section in sections.iter_mut().filter(|s| !s.key.starts_with("x-")) {
                r.within(&section.key, |r| match (section.key.as_str(), &mut section.value.value) {
                    ("services", Value::Map(services)) => r.services(&part, services),
                    (_, Value::Map(objects)) => r.fill_objects(objects),
                    (_, Value::List(_) | Value::Scalar { .. }) => r.fill(&mut section.value),
                });
            }
        });
    }

    fn proxmox(&mut self, node: &mut Node) {
        let Value::Map(sections) = &mut node.value else { return };
        self.within("proxmox", |r| {
            for section in sections.iter_mut().filter(|s| !s.key.starts_with("x-")) {
                r.within(&section.key, |r| match &mut section.value.value {
                    Value::Map(objects) => r.fill_objects(objects),
                    Value::List(_) | Value::Scalar { .. } => r.fill(&mut section.value),
                });
            }
        });
    }

    fn fill_objects(&mut self, objects: &mut [Pair]) {
        objects.iter_mut().for_each(|object| self.within(&object.key, |r| r.fill_object(&mut object.value)));
    }

    fn services(&mut self, part: &str, services: &mut [Pair]) {
        let extend = |service: &Pair| matches!(&service.value.value, Value::Map(keys) if keys.iter().any(|k| k.key == "extends"));
        let known =
            if services.iter().any(extend) { services.iter().map(|s| (s.key.clone(), s.value.clone())).collect() } else { BTreeMap::new() };
        let scope = Scope { file: 0, name: format!("`{part}.docker.services`"), folder: String::new(), services: known };
        for service in services {
            self.within(&service.key, |r| {
                let written = std::mem::replace(&mut service.value, wrong(service.key_at));
                let mut meant = r.service(&scope, &service.key, written, &mut Vec::new());
                r.environment(&mut meant);
                if let Some(enabled) = r.gate(&mut meant) {
                    r.done.gates.entry(part.to_owned()).or_default().insert(service.key.clone(), enabled);
                }
                service.value = meant;
            });
        }
    }

    /// Fills in the variables of an object; what is the operator's own (`x-…`) stays as it is.
    fn fill_object(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Map(keys) => {
                keys.iter_mut().filter(|k| !k.key.starts_with("x-")).for_each(|key| self.within(&key.key, |r| r.fill(&mut key.value)));
            }
            Value::List(_) | Value::Scalar { .. } => self.fill(node),
        }
    }

    fn fill(&mut self, node: &mut Node) {
        self.nodes += 1;
        if self.nodes > RESOLVED_NODES_MAX {
            if self.nodes == RESOLVED_NODES_MAX + 1 {
                let why = Why::new(format!("with what services extend written out, the file holds more than {RESOLVED_NODES_MAX} values"));
                self.report(node.at, why.help("split the topology"));
            }
            *node = wrong(node.at);
            return;
        }
        match &mut node.value {
            Value::Scalar { text, kind: kind @ Kind::Text } if text.contains('$') => {
                let before = self.missed;
                match self.filled(text) {
                    Ok(filled) => {
                        *text = filled;
                        *kind = Kind::Filled;
                    }
                    Err(why) => {
                        *kind = Kind::Wrong;
                        if self.missed > before { self.miss(node.at, why) } else { self.report(node.at, why) }
                    }
                }
            }
            Value::Scalar { .. } => {}
            Value::List(items) => {
                items.iter_mut().enumerate().for_each(|(n, item)| self.within(format!("[{n}]"), |r| r.fill(item)));
            }
            Value::Map(pairs) => pairs.iter_mut().for_each(|pair| self.within(&pair.key, |r| r.fill(&mut pair.value))),
        }
    }

    fn filled(&mut self, text: &str) -> Result<String, Why> {
        let filled = substitute(text, Style::Topology, &mut |name| self.variable(name))?;
        self.filled = self.filled.saturating_add(filled.len());
        if self.filled > FILLED_MAX {
            return Err(too_much());
        }
        Ok(filled)
    }

    /// Takes `profiles` out of a service; says whether one of them is enabled, when it has any.
    fn gate(&mut self, node: &mut Node) -> Option<bool> {
        let Value::Map(keys) = &mut node.value else { return None };
        let at = keys.iter().position(|k| k.key == "profiles")?;
        let profiles = keys.remove(at).value;
        let Value::List(items) = &profiles.value else {
            if !profiles.is_wrong() && !profiles.is_null() {
                let why = Why::new(format!("expected a list of names, found {}", profiles.describe()));
                self.within("profiles", |r| r.report(profiles.at, why));
            }
            return None;
        };
        let mut names = Vec::new();
        for item in items {
            match &item.value {
                Value::Scalar { text, kind: Kind::Text | Kind::Filled } if !text.is_empty() && !text.contains(['$', ',']) => {
                    names.push(text.as_str())
                }
                Value::Scalar { kind: Kind::Wrong, .. } => {}
                Value::Scalar { .. } | Value::List(_) | Value::Map(_) => {
                    let why = Why::new(format!("expected a profile's name, found {}", item.describe()));
                    self.within("profiles", |r| r.report(item.at, why));
                }
            }
        }
        if names.is_empty() {
            return None;
        }
        let enabled = self.variable(PROFILES_VARIABLE).unwrap_or_default();
        let mut enabled = enabled.split(',').map(str::trim);
        Some(enabled.any(|profile| profile == "*" || names.contains(&profile)))
    }
}

/// Notes of every place below `node` that it is in `file`.
pub(crate) fn stamp(node: &mut Node, file: u16) {
    node.at.file = file;
    match &mut node.value {
        Value::Scalar { .. } => {}
        Value::List(items) => items.iter_mut().for_each(|item| stamp(item, file)),
        Value::Map(pairs) => pairs.iter_mut().for_each(|pair| {
            pair.key_at.file = file;
            stamp(&mut pair.value, file);
        }),
    }
}

fn too_much() -> Why {
    let mib = FILLED_MAX / (1024 * 1024);
    Why::new(format!("with variables and their files filled in, the file's values are larger than {mib} MiB")).help("split the topology")
}

/// What stands for something that was reported.
fn wrong(at: Position) -> Node {
    Node { value: Value::Scalar { text: String::new(), kind: Kind::Wrong }, at }
}

/// Text at a place.
fn text_node(text: impl Into<String>, at: Position) -> Node {
    Node { value: Value::Scalar { text: text.into(), kind: Kind::Text }, at }
}

fn pair(key: &str, value: Node) -> Pair {
    Pair { key: key.to_owned(), key_at: value.at, value }
}

#[cfg(test)]
mod tests;
