//! The YAML tree with every position and spelling kept. Knows nothing of topologies.
//!
//! Values are read by YAML 1.2's core schema, of which JSON is a part: `no` is text, `022` is no
//! octal. Aliases and merge keys are written out here, within limits that a small file can't pass
//! by nesting aliases.

use std::collections::BTreeMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::Position;
use super::limits::{DEPTH_MAX, NODES_MAX, PROBLEMS_KEPT_MAX};
use super::problem::Problem;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// What it is.
    pub(crate) value: Value,
    /// Where it begins.
    pub(crate) at: Position,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// One word or text.
    Scalar {
        /// As written, quotes and escapes taken away.
        text: String,
        /// What the core schema takes it for.
        kind: Kind,
    },
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file, merge keys written out.
    Map(Vec<Pair>),
}

/// What a scalar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// Another number.
    Float,
    /// Anything else, and anything in quotes.
    Text,
    /// Text in which variables were filled in: a text, number or truth value, whatever its place takes.
    Filled,
    /// What was reported as wrong already: whoever wants something of it finds nothing and says nothing.
    Wrong,
}

/// One entry of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pair {
    /// The key as written.
    pub(crate) key: String,
    /// Where the key stands.
    pub(crate) key_at: Position,
    /// The value.
    pub(crate) value: Node,
}

impl Node {
    /// What it is, for messages: "a list", "the number 5".
    pub(crate) fn describe(&self) -> String {
        match &self.value {
            Value::Map(_) => "a map".to_owned(),
            Value::List(_) => "a list".to_owned(),
            Value::Scalar { kind: Kind::Null, .. } => "nothing".to_owned(),
            Value::Scalar { kind: Kind::Bool, text } => format!("the truth value `{text}`"),
            Value::Scalar { kind: Kind::Int | Kind::Float, text } => format!("the number {}", shorten(text)),
            Value::Scalar { kind: Kind::Text | Kind::Filled, text } => format!("the text {:?}", shorten(text)),
            Value::Scalar { kind: Kind::Wrong, .. } => "something wrong".to_owned(),
        }
    }

    /// Whether it was reported as wrong already.
    pub(crate) fn is_wrong(&self) -> bool {
        matches!(self.value, Value::Scalar { kind: Kind::Wrong, .. })
    }

    /// Whether nothing stands there.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar { kind: Kind::Null, .. })
    }
}

/// `text` cut for a message.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 40 { text.to_owned() } else { text.chars().take(39).chain(['…']).collect() }
}

/// Reads one document. Problems that leave the tree usable (duplicate keys) go to `problems`.
pub(crate) fn read(text: &str, problems: &mut Vec<Problem>) -> Result<Node, Problem> {
    let options = granit_parser::options! {
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
        simple_key_max_lookahead: 4096,
    };
    let mut builder = Builder { problems, open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, documents: 0, done: None };
    for next in Parser::new_from_str_with_options(text, options) {
        match next {
            Ok((event, span)) => builder.event(event, &span)?,
            Err(error) => return Err(scan_problem(text, &error)),
        }
    }
    builder.done.ok_or_else(|| empty_file(Position { file: 0, line: 1, column: 1 }))
}

fn empty_file(at: Position) -> Problem {
    Problem::new(at, "", "the file is empty").help("begin with `topology: NAME`, then `hosts:`; see docs/topology.md")
}

fn position(span: &Span) -> Position {
    place(&span.start)
}

/// Where the tag of a node begins; where the node does, if it has none.
fn tag_position(span: &Span) -> Position {
    place(&span.tag_start().unwrap_or(span.start))
}

fn place(mark: &Marker) -> Position {
    Position { file: 0, line: u32::try_from(mark.line()).unwrap_or(u32::MAX), column: u32::try_from(mark.col() + 1).unwrap_or(u32::MAX) }
}

fn scan_problem(text: &str, error: &granit_parser::ScanError) -> Problem {
    let mark = error.marker();
    let at = Position {
        file: 0,
        line: u32::try_from(mark.line()).unwrap_or(u32::MAX).max(1),
        column: u32::try_from(mark.col() + 1).unwrap_or(u32::MAX),
    };
    let line = text.lines().nth(mark.line().saturating_sub(1)).unwrap_or("");
    let indent = line.get(..line.len() - line.trim_start().len()).unwrap_or("");
    if let Some(before) = indent.find('\t') {
        let at = Position { column: u32::try_from(before + 1).unwrap_or(u32::MAX), ..at };
        return Problem::new(at, "", "a tab indents this line; YAML allows only spaces there").help("replace the tab by spaces");
    }
    let info = error.info();
    let limits = info.contains("nesting") || info.contains("recursion");
    if limits {
        return Problem::new(at, "", too_deep());
    }
    let problem = Problem::new(at, "", format!("not valid YAML: {info}"));
    if info.contains("expected") { problem.help("check how far this line and the ones above it are indented") } else { problem }
}

fn too_deep() -> String {
    format!("lists and maps nest deeper than {DEPTH_MAX} levels")
}

/// A list or map whose end has not come yet.
struct Open {
    at: Position,
    anchor: usize,
    nodes: usize,
    height: usize,
    shape: Shape,
}

enum Shape {
    List(Vec<Node>),
    Map { pairs: Vec<Pair>, key: Option<(String, Position, Kind)>, merges: Vec<Node> },
}

/// A node that an alias can repeat.
struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

struct Builder<'p> {
    problems: &'p mut Vec<Problem>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Anchored>,
    nodes: usize,
    documents: usize,
    done: Option<Node>,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        let at = position(span);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Problem::new(at, "", "a second YAML document begins here; a topology file holds one"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = scalar_kind(&text, style, tag.as_deref(), tag_position(span))?;
                self.count(1, at)?;
                let node = Node { value: Value::Scalar { text: text.into_owned(), kind }, at };
                self.finish(node, anchor, 1, 0)
            }
            Event::SequenceStart(_, anchor, tag) => self.begin(anchor, tag.as_deref(), span, Shape::List(Vec::new())),
            Event::MappingStart(_, anchor, tag) => {
                self.begin(anchor, tag.as_deref(), span, Shape::Map { pairs: Vec::new(), key: None, merges: Vec::new() })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => self.alias(id, at),
            Event::UnresolvedAlias(name) => Err(Problem::new(at, "", format!("no anchor `&{}` stands before this", shorten(&name)))),
            // What is left marks no value; that enum may grow by kinds that we did not ask for.
            Event::StreamStart | Event::StreamEnd | Event::DocumentEnd | Event::Anchor(..) | _ => Ok(()),
        }
    }

    fn count(&mut self, nodes: usize, at: Position) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            return Err(Problem::new(at, "", format!("the file holds more than {NODES_MAX} values, aliases written out"))
                .help("split the topology, or repeat less by aliases"));
        }
        Ok(())
    }

    fn begin(&mut self, anchor: usize, tag: Option<&Tag>, span: &Span, shape: Shape) -> Result<(), Problem> {
        let at = position(span);
        let plain = match (&shape, tag) {
            (_, None) => true,
            (Shape::List(_), Some(tag)) => tag.is_yaml_core_schema_tag("seq"),
            (Shape::Map { .. }, Some(tag)) => tag.is_yaml_core_schema_tag("map"),
        };
        if let (false, Some(tag)) = (plain, tag) {
            return Err(unknown_tag(tag, tag_position(span)));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(Problem::new(at, "", too_deep()));
        }
        self.count(1, at)?;
        self.open.push(Open { at, anchor, nodes: 1, height: 0, shape });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(Open { at, anchor, nodes, height, shape }) = self.open.pop() else { return Ok(()) };
        let value = match shape {
            Shape::List(items) => Value::List(items),
            Shape::Map { pairs, merges, .. } => Value::Map(self.merge(pairs, merges)?),
        };
        self.finish(Node { value, at }, anchor, nodes, height + 1)
    }

    fn alias(&mut self, id: usize, at: Position) -> Result<(), Problem> {
        let Some(Anchored { node, nodes, height }) = self.anchors.get(&id) else {
            return Err(Problem::new(at, "", "this alias stands inside of what it repeats"));
        };
        let (nodes, height) = (*nodes, *height);
        if self.open.len() + height > DEPTH_MAX {
            return Err(Problem::new(at, "", too_deep()));
        }
        let node = node.clone();
        self.count(nodes, at)?;
        self.finish(node, 0, nodes, height)
    }

    /// Puts a complete node where it belongs.
    fn finish(&mut self, node: Node, anchor: usize, nodes: usize, height: usize) -> Result<(), Problem> {
        if anchor != 0 {
            // The copy that aliases repeat takes room, too.
            self.count(nodes, node.at)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes, height });
        }
        let Some(open) = self.open.last_mut() else {
            self.done = Some(node);
            return Ok(());
        };
        open.height = open.height.max(height);
        open.nodes += nodes;
        match &mut open.shape {
            Shape::List(items) => items.push(node),
            Shape::Map { key: key @ None, .. } => match node.value {
                Value::Scalar { text, kind } => *key = Some((text, node.at, kind)),
                Value::List(_) | Value::Map(_) => return Err(Problem::new(node.at, "", "a key must be a word, not a list or map")),
            },
            Shape::Map { pairs, key, merges } => {
                let Some((key, key_at, kind)) = key.take() else { return Ok(()) };
                if key == "<<" && kind == Kind::Text {
                    merges.push(node);
                } else {
                    pairs.push(Pair { key, key_at, value: node });
                }
            }
        }
        Ok(())
    }

    /// Reports duplicate keys and adds what `<<` brings in: own keys win, then earlier merges.
    fn merge(&mut self, pairs: Vec<Pair>, merges: Vec<Node>) -> Result<Vec<Pair>, Problem> {
        let mut places: BTreeMap<String, Position> = BTreeMap::new();
        let mut out: Vec<Pair> = Vec::with_capacity(pairs.len());
        for pair in pairs {
            if let Some(first) = places.get(&pair.key) {
                if self.problems.len() < PROBLEMS_KEPT_MAX {
                    let message = format!("the key `{}` stands twice in one map; first on line {}", shorten(&pair.key), first.line);
                    self.problems.push(Problem::new(pair.key_at, "", message));
                }
                continue;
            }
            places.insert(pair.key.clone(), pair.key_at);
            out.push(pair);
        }
        for node in merges {
            let sources = match node.value {
                Value::List(items) => items,
                Value::Map(_) | Value::Scalar { .. } => vec![node],
            };
            for source in sources {
                let Value::Map(pairs) = source.value else {
                    return Err(Problem::new(source.at, "", format!("`<<` takes a map or a list of maps, found {}", source.describe())));
                };
                for pair in pairs {
                    if !places.contains_key(&pair.key) {
                        places.insert(pair.key.clone(), pair.key_at);
                        out.push(pair);
                    }
                }
            }
        }
        Ok(out)
    }
}

fn scalar_kind(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Position) -> Result<Kind, Problem> {
    match tag {
        None if style == ScalarStyle::Plain => Ok(core_kind(text)),
        None => Ok(Kind::Text),
        Some(tag) if tag.is_yaml_core_schema_tag("str") => Ok(Kind::Text),
        Some(tag) if ["int", "float", "bool", "null"].iter().any(|t| tag.is_yaml_core_schema_tag(t)) => Ok(core_kind(text)),
        Some(tag) => Err(unknown_tag(tag, at)),
    }
}

fn unknown_tag(tag: &Tag, at: Position) -> Problem {
    Problem::new(at, "", format!("the tag `{}` has no meaning here", shorten(&tag.original()))).help("leave it out")
}

/// YAML 1.2.2, section 10.3.2.
pub(crate) fn core_kind(text: &str) -> Kind {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Kind::Null,
        "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Kind::Bool,
        ".nan" | ".NaN" | ".NAN" => return Kind::Float,
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Kind::Float;
    }
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if digits(unsigned) {
        return Kind::Int;
    }
    let octal = text.strip_prefix("0o").is_some_and(|t| !t.is_empty() && t.bytes().all(|b| matches!(b, b'0'..=b'7')));
    let hexadecimal = text.strip_prefix("0x").is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_hexdigit()));
    if octal || hexadecimal {
        return Kind::Int;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_ok = digits(whole) && (fraction.is_empty() || digits(fraction)) || whole.is_empty() && digits(fraction);
    if mantissa_ok && exponent.is_none_or(digits) { Kind::Float } else { Kind::Text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_read(text: &str) -> (Result<Node, Problem>, Vec<Problem>) {
        let mut problems = Vec::new();
        let node = read(text, &mut problems);
        (node, problems)
    }

    fn kind_of(text: &str) -> Kind {
        let Value::Scalar { kind, .. } = try_read(text).0.unwrap().value else { panic!("{text} is no scalar") };
        kind
    }

    #[test]
    fn scalars_are_what_the_core_schema_says() {
        for (text, kind) in [
            ("~", Kind::Null),
            ("no", Kind::Text),
            ("on", Kind::Text),
            ("true", Kind::Bool),
            ("\"true\"", Kind::Text),
            ("!!str 5", Kind::Text),
            ("0o17", Kind::Int),
            ("-12", Kind::Int),
            ("3.10", Kind::Float),
            ("1e3", Kind::Float),
            (".5", Kind::Float),
            ("1.2.3", Kind::Text),
            ("22:22", Kind::Text),
            ("-", Kind::Text),
        ] {
            if text != "-" {
                assert_eq!(kind_of(text), kind, "{text}");
            }
        }
    }

    #[test]
    fn aliases_and_merge_keys_are_written_out_and_own_keys_win() {
        let text = "base: &b {a: 1, b: 2}\nmore: &m {b: 3, c: 4}\nboth: {<<: [*b, *m], a: 9}\n";
        let Value::Map(pairs) = try_read(text).0.unwrap().value else { panic!() };
        let Value::Map(both) = &pairs[2].value.value else { panic!() };
        let seen: Vec<(&str, String)> = both.iter().map(|p| (p.key.as_str(), p.value.describe())).collect();
        assert_eq!(seen, [("a", "the number 9".to_owned()), ("b", "the number 2".to_owned()), ("c", "the number 4".to_owned())]);
    }

    #[test]
    fn a_yaml_bomb_ends_at_the_node_limit() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for n in 1..12 {
            let previous = format!("*a{}", n - 1);
            text.push_str(&format!("a{n}: &a{n} [{}]\n", vec![previous; 10].join(",")));
        }
        let problem = try_read(&text).0.unwrap_err();
        assert!(problem.message.contains("more than 500000 values"), "{problem:?}");
    }

    #[test]
    fn anchors_inside_of_anchors_count_once_for_each_copy() {
        let text = format!("{}x{}", (0..60).map(|n| format!("&a{n} [")).collect::<String>(), "]".repeat(60));
        assert!(try_read(&text).0.is_ok());
    }

    #[test]
    fn nesting_ends_at_the_depth_limit_also_through_aliases() {
        for text in ["[".repeat(10_000), "a: ".repeat(3) + &"{a: ".repeat(5000), "- ".repeat(5000) + "x"] {
            assert!(try_read(&text).0.is_err());
        }
        let mut text = format!("a0: &a0 {}x{}\n", "[".repeat(30), "]".repeat(30));
        for n in 1..5 {
            text.push_str(&format!("a{n}: &a{n} {}*a{}{}\n", "[".repeat(20), n - 1, "]".repeat(20)));
        }
        let problem = try_read(&text).0.unwrap_err();
        assert!(problem.message.contains("nest deeper"), "{problem:?}");
    }

    #[test]
    fn positions_count_from_one() {
        let Value::Map(pairs) = try_read("# x\nkey:\n  - é: v\n").0.unwrap().value else { panic!() };
        assert_eq!(pairs[0].key_at, Position { file: 0, line: 2, column: 1 });
        let Value::List(items) = &pairs[0].value.value else { panic!() };
        let Value::Map(inner) = &items[0].value else { panic!() };
        assert_eq!(inner[0].value.at, Position { file: 0, line: 3, column: 8 });
    }

    #[test]
    fn every_duplicate_key_is_reported() {
        let (node, problems) = try_read("a: 1\nb: {c: 1, c: 2}\na: 2\n");
        assert!(node.is_ok());
        let lines: Vec<u32> = problems.iter().map(|p| p.position.line).collect();
        assert_eq!(lines, [2, 3]);
    }

    #[test]
    fn tabs_unknown_anchors_and_second_documents_are_told() {
        for (text, line, words) in [
            ("a:\n\tb: 1\n", 2, "tab"),
            ("a: *x\n", 1, "no anchor `&x`"),
            ("a: &x [*x]\n", 1, "inside of what it repeats"),
            ("a: 1\n---\nb: 2\n", 2, "second YAML document"),
            ("a: !thing 1\n", 1, "!thing"),
            ("", 1, "empty"),
            ("# only words\n", 1, "empty"),
            ("a: [1, 2\n", 1, "not valid YAML"),
        ] {
            let problem = try_read(text).0.unwrap_err();
            assert!(problem.message.contains(words), "{text:?}: {problem:?}");
            assert_eq!(problem.position.line, line, "{text:?}: {problem:?}");
        }
    }
}
