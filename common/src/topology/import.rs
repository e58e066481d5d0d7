//! From Compose files to a topology file for one host that means the same.
//!
//! Keys and values stay as they are written, variables too; comments and anchors do not. What cannot be meant here is refused by the
//! same reader as every topology, at its place in the Compose file, and all of it at once.

use super::Position;
use super::inputs::{Asked, Inputs, join};
use super::keys;
use super::limits::TOPOLOGY_FILE_MAX;
use super::node::{self, Kind, Node, Pair, Value, shorten};
use super::parse::read_tree;
use super::problem::{Problem, tidy};
use super::resolve::{merge, stamp};
use super::vars::Why;
use super::write::yaml;
use crate::id::{HostName, TopologyId};

/// What is imported, and how.
#[derive(Debug, Clone)]
pub struct Import<'i> {
    /// The Compose files with their names, the later ones on top of the earlier ones.
    pub files: &'i [(String, String)],
    /// The host that shall have their services.
    pub host: &'i HostName,
    /// The topology's name, instead of the one that the files say.
    pub topology: Option<&'i TopologyId>,
    /// The topology's name when the files say none.
    pub fallback: &'i str,
    /// The way from the topology file's folder to that of the first Compose file; empty when they are the same.
    pub way: &'i str,
    /// The folder on the host that paths on the host are taken to be in which are relative to the Compose file.
    pub bind_root: Option<&'i str>,
}

/// What came of an import.
#[derive(Debug)]
pub struct Imported {
    /// The topology file, or everything that is in its way.
    pub text: Result<String, Vec<Problem>>,
    /// What it looked for, as in [`super::Reading::asked`].
    pub asked: Asked,
    /// What is otherwise than in the Compose files, and what should be known.
    pub notes: Vec<Problem>,
}

/// Keys of a service that are left out, and why that changes nothing, or what to do.
const LEFT_OUT: [(&str, &str); 3] = [
    ("attach", "it concerns the terminal of `docker compose up`"),
    ("develop", "it concerns `docker compose watch`"),
    ("pull_refresh_after", "images are pulled by `pull_policy`"),
];

struct Importer<'i> {
    import: &'i Import<'i>,
    problems: Vec<Problem>,
    notes: Vec<Problem>,
}

/// Makes a topology file of Compose files. `inputs` are for checking it: they are not written into it.
#[must_use]
pub fn compose(import: &Import<'_>, inputs: &Inputs) -> Imported {
    // Files are told apart behind those that the topology itself takes.
    let mut names: Vec<String> = inputs.files.keys().cloned().collect();
    let first = names.len();
    names.extend(import.files.iter().map(|(name, _)| name.clone()));
    let mut importer = Importer { import, problems: Vec::new(), notes: Vec::new() };
    let Some(merged) = importer.read(first) else {
        return Imported { text: Err(tidy(importer.problems, &names)), asked: Asked::default(), notes: Vec::new() };
    };
    let tree = importer.topology(merged);
    let text = format!("# Imported from {}; comments are not kept.\n{}", file_names(import.files), yaml(&tree));
    let checked = read_tree(tree, inputs, &names, true);
    let mut problems = importer.problems;
    problems.extend(checked.file.err().unwrap_or_default());
    if text.len() > TOPOLOGY_FILE_MAX {
        problems.push(
            Problem::new(Position::default(), "", "the topology file would be too large").help("import fewer files into one topology"),
        );
    }
    let mut notes = importer.notes;
    notes.extend(checked.warnings);
    let text = if problems.is_empty() { Ok(text) } else { Err(tidy(problems, &names)) };
    Imported { text, asked: checked.asked, notes: tidy(notes, &names) }
}

fn file_names(files: &[(String, String)]) -> String {
    let names: Vec<String> = files.iter().map(|(name, _)| name.chars().filter(|c| !c.is_control()).collect()).collect();
    names.join(" and ")
}

impl Importer<'_> {
    fn problem(&mut self, at: Position, path: &str, why: Why) {
        self.problems.push(why.at(at, path));
    }

    fn note(&mut self, at: Position, path: &str, message: impl Into<String>) {
        self.notes.push(Problem::new(at, path, message));
    }

    /// The files, each on top of the ones before it.
    fn read(&mut self, first: usize) -> Option<Node> {
        let mut merged: Option<Node> = None;
        for (n, (_, text)) in self.import.files.iter().enumerate() {
            let file = u16::try_from(first + n + 1).unwrap_or(u16::MAX);
            let mut problems = Vec::new();
            let read = node::read(text.strip_prefix('\u{feff}').unwrap_or(text), &mut problems);
            let root = read.map_err(|problem| problems.push(problem)).ok();
            self.problems.extend(problems.into_iter().map(|mut problem| {
                problem.position.file = file;
                problem
            }));
            let Some(mut root) = root else { continue };
            stamp(&mut root, file);
            if !matches!(root.value, Value::Map(_)) {
                let why = Why::new(format!("expected a Compose file (a map), found {}", root.describe()));
                self.problem(root.at, "", why);
                continue;
            }
            merged = Some(match merged {
                Some(base) => merge::file(base, root),
                None => root,
            });
        }
        merged.filter(|_| self.problems.is_empty())
    }

    /// The topology that a Compose file makes.
    fn topology(&mut self, merged: Node) -> Node {
        let at = merged.at;
        let Value::Map(fields) = merged.value else { return merged };
        let mut name: Option<(String, Position)> = None;
        let mut docker = Vec::new();
        for mut field in fields {
            match field.key.as_str() {
                "version" => self.note(field.key_at, "version", "`version` is left out: it has no meaning any more"),
                "name" => {
                    if let Value::Scalar { text, kind: Kind::Text } = &field.value.value {
                        name = Some((text.clone(), field.value.at));
                    }
                }
                "include" => {
                    let why = Why::new("`include` has no meaning in a topology")
                        .help("name the included files on the command line, before this one");
                    self.problem(field.key_at, "include", why);
                }
                "secrets" | "configs" => {
                    if let Value::Map(objects) = &mut field.value.value {
                        let maps = objects.iter_mut().filter(|object| matches!(object.value.value, Value::Map(_)));
                        maps.for_each(|object| self.move_paths(&mut object.value, "file"));
                    }
                    docker.push(field);
                }
                "services" => {
                    self.services(&mut field.value);
                    docker.push(field);
                }
                _ => docker.push(field),
            }
        }
        let name = self.name(name, at);
        let value = |value| Node { value, at };
        let pair = |key: &str, value: Node| Pair { key: key.to_owned(), key_at: at, value };
        let docker = value(Value::Map(vec![pair("docker", value(Value::Map(docker)))]));
        let hosts = value(Value::Map(vec![pair(self.import.host.as_str(), docker)]));
        value(Value::Map(vec![pair("topology", value(Value::Scalar { text: name, kind: Kind::Text })), pair("hosts", hosts)]))
    }

    fn name(&mut self, said: Option<(String, Position)>, top: Position) -> String {
        if let Some(name) = self.import.topology {
            return name.to_string();
        }
        let (name, at) = said.unwrap_or_else(|| (self.import.fallback.to_owned(), top));
        let plain: String = name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let plain = plain.trim_matches('-').to_owned();
        if name.contains('$') || TopologyId::parse(plain.clone()).is_err() {
            let why =
                Why::new(format!("`{}` cannot be a topology's name", shorten(&name))).help("name the topology with `--topology NAME`");
            self.problem(at, "name", why);
            return "unnamed".to_owned();
        }
        if plain != name {
            self.note(at, "name", format!("the topology is named `{plain}`: names are made of `a-z`, `0-9` and `-`"));
        }
        plain
    }

    fn services(&mut self, node: &mut Node) {
        let Value::Map(services) = &mut node.value else { return };
        for service in services {
            let path = format!("services.{}", service.key);
            let Value::Map(fields) = &mut service.value.value else { continue };
            let has_image = fields.iter().any(|f| f.key == "image");
            let known = |key: &str| keys::SERVICE.keys.iter().any(|k| k.name == key);
            let mut kept = Vec::with_capacity(fields.len());
            for mut field in std::mem::take(fields) {
                let here = format!("{path}.{}", field.key);
                if let Some((_, why)) = LEFT_OUT.iter().find(|(key, _)| *key == field.key && !known(key)) {
                    self.note(field.key_at, &here, format!("`{}` is left out: {why}", field.key));
                    continue;
                }
                match field.key.as_str() {
                    "build" if has_image => {
                        self.note(
                            field.key_at,
                            &here,
                            "`build` is left out: the host pulls the `image`, so build it and push it to a registry first",
                        );
                        continue;
                    }
                    "build" => {
                        let why = Why::new("`build` has no meaning here: images are not built on hosts");
                        self.problem(field.key_at, &here, why.help("build the image, push it to a registry, and name it by `image`"));
                        continue;
                    }
                    "env_file" => self.move_paths(&mut field.value, "path"),
                    "extends" => {
                        if let Value::Map(parts) = &mut field.value.value {
                            parts.iter_mut().filter(|p| p.key == "file").for_each(|part| self.move_path(&mut part.value));
                        }
                    }
                    "volumes" => self.binds(&mut field.value, &here),
                    _ => {}
                }
                kept.push(field);
            }
            // What only this file would have brought is told as what it is.
            if !kept.iter().any(|f| f.key == "image" || f.key == "extends")
                && self.problems.iter().any(|p| p.path == format!("{path}.build"))
            {
                kept.push(Pair { key: "image".to_owned(), key_at: service.key_at, value: wrong(service.key_at) });
            }
            *fields = kept;
        }
    }

    fn move_paths(&self, node: &mut Node, key: &str) {
        match &mut node.value {
            Value::Scalar { .. } => self.move_path(node),
            Value::List(items) => items.iter_mut().for_each(|item| self.move_paths(item, key)),
            Value::Map(pairs) => pairs.iter_mut().filter(|p| p.key == key).for_each(|pair| self.move_path(&mut pair.value)),
        }
    }

    /// Makes a path relative to the topology file that is relative to the Compose file.
    fn move_path(&self, node: &mut Node) {
        if let Value::Scalar { text, kind: Kind::Text } = &mut node.value
            && !self.import.way.is_empty()
            && !text.starts_with(['/', '~', '$'])
        {
            *text = join(self.import.way, text);
        }
    }

    /// Gives paths on the host that are relative a place in the folder that was named for them.
    fn binds(&mut self, node: &mut Node, path: &str) {
        let (Value::List(items), Some(root)) = (&mut node.value, self.import.bind_root) else { return };
        for (n, item) in items.iter_mut().enumerate() {
            let at = item.at;
            let moved = |named: &str| join(root, named.trim_start_matches("./"));
            let relative = |named: &str| named.starts_with("./") || named.starts_with("../") || named == "." || named == "..";
            let new = match &mut item.value {
                Value::Scalar { text, kind: Kind::Text } => match text.split_once(':') {
                    Some((source, rest)) if relative(source) => {
                        let (from, to) = (source.to_owned(), moved(source));
                        *text = format!("{to}:{rest}");
                        Some((from, to))
                    }
                    Some(_) | None => None,
                },
                Value::Map(pairs) => pairs.iter_mut().find(|p| p.key == "source").and_then(|pair| match &mut pair.value.value {
                    Value::Scalar { text, kind: Kind::Text } if relative(text) => {
                        let to = moved(text);
                        Some((std::mem::replace(text, to.clone()), to))
                    }
                    Value::Scalar { .. } | Value::List(_) | Value::Map(_) => None,
                }),
                Value::Scalar { .. } | Value::List(_) => None,
            };
            if let Some((from, to)) = new {
                self.note(
                    at,
                    &format!("{path}[{n}]"),
                    format!("`{}` is `{}` on the host: bring there what it holds", shorten(&from), shorten(&to)),
                );
            }
        }
    }
}

fn wrong(at: Position) -> Node {
    Node { value: Value::Scalar { text: String::new(), kind: Kind::Wrong }, at }
}
