//! `extends`: a service takes over what another one says, in its own file or another.
//! <https://github.com/compose-spec/compose-spec/blob/main/05-services.md#extends>

use std::rc::Rc;

use super::super::inputs::{folder, join};
use super::super::limits::{EXTENDS_MAX, PROBLEMS_KEPT_MAX, RESOLVED_NODES_MAX};
use super::super::node::{self, Kind, Node, Value, shorten};
use super::super::problem::nearest;
use super::super::vars::{self, Why};
use super::super::{Position, keys};
use super::{Resolver, Scope, merge, stamp, wrong};

/// The services that led to one by `extends`, by file and name.
type Trail = Vec<(u16, String)>;

impl Resolver<'_> {
    /// A service with its variables filled in and what it extends merged into it; [`Kind::Wrong`] when that cannot be.
    pub(super) fn service(&mut self, scope: &Scope, name: &str, mut node: Node, trail: &mut Trail) -> Node {
        self.fill_object(&mut node);
        let Value::Map(pairs) = &mut node.value else { return node };
        if let Some(files) = pairs.iter_mut().find(|p| p.key == "env_file") {
            self.within("env_file", |r| r.name_files(scope, &mut files.value));
        }
        let Some(at) = pairs.iter().position(|p| p.key == "extends") else { return node };
        let extends = pairs.remove(at).value;
        trail.push((scope.file, name.to_owned()));
        let base = self.within("extends", |r| r.base(scope, &extends, trail));
        trail.pop();
        match base {
            Some(base) => merge::service(base, node),
            None => wrong(node.at),
        }
    }

    fn base(&mut self, scope: &Scope, node: &Node, trail: &mut Trail) -> Option<Node> {
        let (name, at, file) = match &node.value {
            Value::Map(pairs) => {
                for pair in pairs.iter().filter(|p| !keys::EXTENDS.keys.iter().any(|k| k.name == p.key) && !p.key.starts_with("x-")) {
                    let mut why = Why::new(format!("{} has no key `{}`", keys::EXTENDS.name, shorten(&pair.key)));
                    why.suggestion = nearest(&pair.key, keys::EXTENDS.keys.iter().map(|k| k.name)).map(str::to_owned);
                    self.within(&pair.key, |r| r.report(pair.key_at, why));
                }
                let part = |key: &str| pairs.iter().find(|p| p.key == key);
                let Some(service) = part("service") else {
                    self.report(node.at, Why::new(format!("{} needs the key `service`", keys::EXTENDS.name)));
                    return None;
                };
                let file = match part("file") {
                    Some(file) => Some((self.within("file", |r| r.word(&file.value, "a path"))?, file.value.at)),
                    None => None,
                };
                (self.within("service", |r| r.word(&service.value, "a service's name"))?, service.value.at, file)
            }
            Value::Scalar { .. } | Value::List(_) => {
                (self.word(node, "a service's name, or a map with `service` and `file`")?, node.at, None)
            }
        };
        match file {
            Some((path, file_at)) => {
                let path = self.within("file", |r| r.path(scope, &path, file_at))?;
                let other = self.open(&path, file_at)?;
                self.extended(&other, &name, at, trail)
            }
            None => self.extended(scope, &name, at, trail),
        }
    }

    fn extended(&mut self, scope: &Scope, name: &str, at: Position, trail: &mut Trail) -> Option<Node> {
        if let Some(first) = trail.iter().position(|(file, known)| *file == scope.file && known == name) {
            let circle = trail.get(first..).unwrap_or_default().iter().map(|(_, known)| format!("`{known}`")).collect::<Vec<_>>();
            let why = if circle.len() == 1 {
                Why::new(format!("service `{name}` extends itself"))
            } else {
                Why::new(format!("services extend each other in a circle: {} → `{name}`", circle.join(" → ")))
            };
            self.report(at, why);
            return None;
        }
        if trail.len() >= EXTENDS_MAX {
            self.report(at, Why::new(format!("more than {EXTENDS_MAX} services extend each other in a row")));
            return None;
        }
        let Some(found) = scope.services.get(name) else {
            let mut why = Why::new(format!("there is no service `{}` in {}", shorten(name), scope.name));
            why.suggestion = nearest(name, scope.services.keys().map(String::as_str)).map(str::to_owned);
            if scope.file == 0 {
                why = why.help("only services of the same section can be extended, and those of a Compose file: name it by `file`");
            }
            self.report(at, why);
            return None;
        };
        // Each time it is written out anew, and has been told if that is too much.
        if self.nodes > RESOLVED_NODES_MAX {
            return None;
        }
        let base = self.service(scope, name, without_notes(found), trail);
        (!base.is_wrong()).then_some(base)
    }

    /// The services of another file.
    fn open(&mut self, path: &str, at: Position) -> Option<Rc<Scope>> {
        if let Some(known) = self.opened.get(path) {
            return known.clone();
        }
        let scope = self.read_file(path, at).map(Rc::new);
        self.opened.insert(path.to_owned(), scope.clone());
        scope
    }

    fn read_file(&mut self, path: &str, at: Position) -> Option<Scope> {
        let Some((text, file)) = self.file(path) else {
            self.miss(at, not_there(path));
            return None;
        };
        let mut problems = Vec::new();
        let read = node::read(text.strip_prefix('\u{feff}').unwrap_or(text), &mut problems);
        let mut root = read.map_err(|problem| problems.push(problem)).ok();
        let is_bad = !problems.is_empty();
        for mut problem in problems {
            problem.position.file = file;
            if self.done.problems.len() < PROBLEMS_KEPT_MAX {
                self.done.problems.push(problem);
            }
        }
        let root = root.as_mut().filter(|_| !is_bad)?;
        stamp(root, file);
        let top = Position { file, line: 1, column: 1 };
        let name = format!("`{path}`");
        let Value::Map(fields) = &root.value else {
            self.report(top, Why::new(format!("{name} is no Compose file: expected a map, found {}", root.describe())));
            return None;
        };
        let Some(Value::Map(services)) = fields.iter().find(|f| f.key == "services").map(|f| &f.value.value) else {
            self.report(top, Why::new(format!("{name} has no `services`")).help("name a Compose file, with its services at the top level"));
            return None;
        };
        let services = services.iter().map(|s| (s.key.clone(), s.value.clone())).collect();
        Some(Scope { file, name, folder: folder(path).to_owned(), services })
    }

    /// Text that is the same on every host.
    pub(super) fn word(&mut self, node: &Node, wanted: &str) -> Option<String> {
        let why = match &node.value {
            Value::Scalar { text, kind: Kind::Text | Kind::Filled } => match vars::fill(text, None) {
                Ok(Some(text)) if !text.is_empty() && !text.contains('\0') => return Some(text),
                Ok(Some(_)) => Why::new(format!("expected {wanted}, found nothing")),
                Ok(None) => Why::new(format!("{wanted} cannot differ from host to host here")).help("write it without variables of hosts"),
                Err(why) => why,
            },
            Value::Scalar { kind: Kind::Wrong, .. } => return None,
            Value::Scalar { .. } | Value::List(_) | Value::Map(_) => Why::new(format!("expected {wanted}, found {}", node.describe())),
        };
        self.report(node.at, why);
        None
    }

    /// The file that `named` means.
    pub(super) fn path(&mut self, scope: &Scope, named: &str, at: Position) -> Option<String> {
        if named.starts_with("~/") || named == "~" {
            self.report(
                at,
                Why::new("`~` is not replaced in a path").help("write the path relative to the file that names it, or beginning with `/`"),
            );
            return None;
        }
        if named.contains("://") {
            self.report(at, Why::new(format!("`{}` is no path: only files of this machine are read", shorten(named))));
            return None;
        }
        Some(join(&scope.folder, named))
    }
}

/// What is told of a file that is missing.
pub(super) fn not_there(path: &str) -> Why {
    Why::new(format!("the file `{}` is not there", shorten(path))).help("a path is relative to the file that names it")
}

/// A service without its `x-` keys: they mean nothing, and whoever extends it has no use for them.
fn without_notes(service: &Node) -> Node {
    let Value::Map(pairs) = &service.value else { return service.clone() };
    let pairs = pairs.iter().filter(|pair| !pair.key.starts_with("x-")).cloned().collect();
    Node { value: Value::Map(pairs), at: service.at }
}
