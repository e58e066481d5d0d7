//! A tree as YAML text that reads back as the same tree: in its order, comments and anchors gone.

use super::node::{Kind, Node, Value, core_kind};

/// `node`, a map or list, as a block of YAML.
pub(crate) fn yaml(node: &Node) -> String {
    let mut out = String::new();
    block(node, 0, &mut out);
    out
}

fn block(node: &Node, indent: usize, out: &mut String) {
    let margin = " ".repeat(indent);
    match &node.value {
        Value::Map(pairs) => {
            for pair in pairs {
                out.push_str(&format!("{margin}{}:", word(&pair.key, Kind::Text)));
                behind(&pair.value, indent, out);
            }
        }
        Value::List(items) => {
            for item in items {
                let is_block = matches!(&item.value, Value::Map(pairs) if !pairs.is_empty());
                if is_block {
                    let mut inner = String::new();
                    block(item, indent + 2, &mut inner);
                    // The dash stands in the margin of the first line.
                    out.push_str(&format!("{margin}- {}", inner.get(indent + 2..).unwrap_or_default()));
                } else {
                    out.push_str(&format!("{margin}-"));
                    behind(item, indent, out);
                }
            }
        }
        Value::Scalar { text, kind } => out.push_str(&format!("{margin}{}\n", word(text, *kind))),
    }
}

/// What stands behind a key or a dash.
fn behind(node: &Node, indent: usize, out: &mut String) {
    match &node.value {
        Value::Map(pairs) if pairs.is_empty() => out.push_str(" {}\n"),
        Value::List(items) if items.is_empty() => out.push_str(" []\n"),
        Value::Map(_) | Value::List(_) => {
            out.push('\n');
            block(node, indent + 2, out);
        }
        Value::Scalar { text, kind: Kind::Text } if is_literal(text) => {
            out.push_str(if text.ends_with('\n') { " |\n" } else { " |-\n" });
            for line in text.lines() {
                let line = if line.is_empty() { String::new() } else { format!("{}{line}", " ".repeat(indent + 2)) };
                out.push_str(&format!("{line}\n"));
            }
        }
        Value::Scalar { kind: Kind::Null, .. } => out.push('\n'),
        Value::Scalar { text, kind } => out.push_str(&format!(" {}\n", word(text, *kind))),
    }
}

/// Whether text of several lines can stand as it is.
fn is_literal(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let plain = |c: char| c == '\n' || (!c.is_control() && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{85}'));
    body.contains('\n') && !body.starts_with([' ', '\n', '\t']) && !body.ends_with('\n') && body.chars().all(plain)
}

fn word(text: &str, kind: Kind) -> String {
    match kind {
        Kind::Null => "null".to_owned(),
        Kind::Bool | Kind::Int | Kind::Float => text.to_owned(),
        Kind::Text | Kind::Filled | Kind::Wrong if is_plain(text) => text.to_owned(),
        Kind::Text | Kind::Filled | Kind::Wrong => quoted(text),
    }
}

/// Whether text reads back as itself without quotes, also by readers of YAML 1.1.
fn is_plain(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'/' | b'.' | b'_' | b'$'));
    let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b" _./$(){}:+=,-@%?".contains(&b));
    let old = ["y", "n", "yes", "no", "on", "off"].iter().any(|old| text.eq_ignore_ascii_case(old));
    first && rest && !old && core_kind(text) == Kind::Text && !text.contains(": ") && !text.ends_with([':', ' '])
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}') => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::super::node;
    use super::*;

    /// The same tree without its places.
    fn bare(node: &Node) -> String {
        match &node.value {
            Value::Scalar { kind: Kind::Null, .. } => "null".to_owned(),
            Value::Scalar { text, kind } => format!("{kind:?} {text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(bare).collect::<Vec<_>>().join(", ")),
            Value::Map(pairs) => {
                format!("{{{}}}", pairs.iter().map(|p| format!("{:?}: {}", p.key, bare(&p.value))).collect::<Vec<_>>().join(", "))
            }
        }
    }

    #[test]
    fn what_is_written_reads_back_as_the_same() {
        let text = r##"{ plain: word, "5": "5", five: 5, "true": "true", yes: "yes", nothing: , list: [a, "- b", [], {}, [x, [y]], { k: v, l: [m] }, ~, "a: b", "#c"],
          empty: "", spaced: " a ", colon: "a:", port: "8080:80", var: "${A:-x}", lines: "a\nb\n", more: "a\n\n  b", odd: "a\tb\u0001\u2028é", brace: "{x}",
          tail: "a\n\n", lead: "\na", trail: "a \nb", quote: "'it''s' \"x\" \\n", nul: "null", tilde: "~", float: 1.5, map: { a: { b: { c: d } } }, "key: x": 1, "": 2, date: 2020-01-01, merge: "<<", star: "*a", question: "? a", bang: "!x", percent: "%a", at: "@a", tick: "`a" }"##;
        let tree = node::read(text, &mut Vec::new()).unwrap();
        let written = yaml(&tree);
        let again = node::read(&written, &mut Vec::new()).unwrap_or_else(|p| panic!("{p:?}\n{written}"));
        assert_eq!(bare(&again), bare(&tree), "{written}");
    }
}
