//! Variables of the operator's machine inside of text, as the Compose Specification has them:
//! `$VAR`, `${VAR}`, `${VAR:-default}`, `${VAR-default}`, `${VAR:?words}`, `${VAR?words}`, `${VAR:+other}`, `${VAR+other}`.
//!
//! Unlike there, a variable that is not set and has no default is an error and not empty text.
//! <https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md>

use super::limits::{FILLED_MAX, NESTED_VARIABLES_MAX};
use super::node::shorten;
use super::vars::Why;

/// What text is made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// A value of the topology: `${host.name}` and its like and `$$` stay for each host to come, and dollar signs in values are doubled.
    Topology,
    /// The text itself, as in a file of variables.
    Plain,
}

/// Says what a variable is set to.
pub(crate) type Lookup<'l> = dyn FnMut(&str) -> Option<String> + 'l;

const HELP: &str =
    "write `$$` for a dollar sign; variables are `${NAME}`, `${NAME:-default}`, `${host.name}`, `${host.id}` and `${host.labels.NAME}`";
const HELP_PLAIN: &str = "write `$$` for a dollar sign, or put the value into single quotes";

/// `text` with its variables filled in.
pub(crate) fn substitute(text: &str, style: Style, lookup: &mut Lookup<'_>) -> Result<String, Why> {
    expand(text, style, lookup, 0)
}

/// A variable's name at the beginning of `text`, and what follows it.
fn name(text: &str) -> (&str, &str) {
    let head = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    let end = if head { text.bytes().position(|b| !(b.is_ascii_alphanumeric() || b == b'_')).unwrap_or(text.len()) } else { 0 };
    text.split_at(end)
}

fn expand(text: &str, style: Style, lookup: &mut Lookup<'_>, depth: usize) -> Result<String, Why> {
    if depth > NESTED_VARIABLES_MAX {
        return Err(Why::new(format!("variables nest deeper than {NESTED_VARIABLES_MAX} levels")));
    }
    let help = if style == Style::Topology { HELP } else { HELP_PLAIN };
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push_str(if style == Style::Topology { "$$" } else { "$" });
            rest = after;
        } else if let Some(body) = after.strip_prefix('{') {
            let Some(end) = closing(body) else { return Err(Why::new("a `${` without its `}`").help(help)) };
            let (inside, after) = body.split_at(end);
            rest = after.strip_prefix('}').unwrap_or(after);
            if style == Style::Topology && inside.starts_with("host.") {
                out.push_str(&format!("${{{inside}}}"));
            } else {
                out.push_str(&braced(inside, style, lookup, depth)?);
            }
        } else {
            let (name, after) = name(after);
            if name.is_empty() {
                return Err(Why::new("a single `$` has no meaning here").help(help));
            }
            rest = after;
            let value = lookup(name).ok_or_else(|| match style {
                Style::Topology => unset(name, style),
                // More likely a password with a dollar sign in it.
                Style::Plain => {
                    Why::new("a variable in this value is not set").help(format!("set it {}, or {HELP_PLAIN}", whereabouts(style)))
                }
            })?;
            out.push_str(&written(value, style));
        }
        if out.len() > FILLED_MAX {
            return Err(Why::new(format!("with its variables filled in, this is larger than {} MiB", FILLED_MAX / (1024 * 1024))));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What stands for `inside` of `${` and `}`.
fn braced(inside: &str, style: Style, lookup: &mut Lookup<'_>, depth: usize) -> Result<String, Why> {
    let (name, operation) = name(inside);
    if name.is_empty() {
        return Err(no_variable(inside, style));
    }
    let (also_empty, operation) = match operation.strip_prefix(':') {
        Some(rest) => (true, rest),
        None => (false, operation),
    };
    let value = lookup(name);
    let counts = value.clone().filter(|value| !(also_empty && value.is_empty()));
    if operation.is_empty() && !also_empty {
        return value.map(|value| written(value, style)).ok_or_else(|| unset(name, style));
    }
    if let Some(default) = operation.strip_prefix('-') {
        return match counts {
            Some(value) => Ok(written(value, style)),
            None => expand(default, style, lookup, depth + 1),
        };
    }
    if let Some(words) = operation.strip_prefix('?') {
        let Some(value) = counts else {
            let what = if value.is_some() { "empty" } else { "not set" };
            let words = expand(words, Style::Plain, lookup, depth + 1)?;
            let words = if words.is_empty() { String::new() } else { format!(": {words}") };
            return Err(Why::new(format!("the variable `{name}` is {what}{words}")).help(format!("set `{name}` {}", whereabouts(style))));
        };
        return Ok(written(value, style));
    }
    if let Some(other) = operation.strip_prefix('+') {
        return if counts.is_some() { expand(other, style, lookup, depth + 1) } else { Ok(String::new()) };
    }
    Err(no_variable(inside, style))
}

fn no_variable(inside: &str, style: Style) -> Why {
    match style {
        Style::Topology => Why::new(format!("`${{{}}}` is no variable", shorten(inside))).help(HELP),
        Style::Plain => Why::new("a `${…}` in this value is no variable").help(HELP_PLAIN),
    }
}

fn written(value: String, style: Style) -> String {
    if style == Style::Topology { value.replace('$', "$$") } else { value }
}

fn whereabouts(style: Style) -> &'static str {
    match style {
        Style::Topology => "in the environment, or in `.env` beside the topology file",
        Style::Plain => "in the environment, or further up in this file",
    }
}

fn unset(name: &str, style: Style) -> Why {
    let or = if style == Style::Plain { ", or put a value that is no variable into single quotes" } else { "" };
    Why::new(format!("the variable `{name}` is not set"))
        .help(format!("set it {}, or write `${{{name}:-default}}` (`${{{name}:-}}` for nothing){or}", whereabouts(style)))
}

/// Where the `}` stands that ends `body`, which stands behind a `${`.
fn closing(body: &str) -> Option<usize> {
    let bytes = body.as_bytes();
    let (mut open, mut at) = (1_usize, 0);
    loop {
        match (bytes.get(at)?, bytes.get(at + 1)) {
            (b'$', Some(b'$')) => at += 1,
            (b'$', Some(b'{')) => {
                open += 1;
                at += 1;
            }
            (b'}', _) => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn try_with(text: &str, style: Style) -> Result<String, Why> {
        substitute(text, style, &mut |name| match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("5$ ${SET}".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn variables_are_filled_as_the_specification_says() {
        for (text, expected) in [
            ("plain", "plain"),
            ("$SET ${SET}-$SET.x", "value value-value.x"),
            ("${SET-d} ${EMPTY-d} ${UNSET-d}", "value  d"),
            ("${SET:-d} ${EMPTY:-d} ${UNSET:-d} ${UNSET:-}", "value d d "),
            ("${SET?w} ${EMPTY?w} ${SET:?w}", "value  value"),
            ("${SET+o} ${EMPTY+o} ${UNSET+o}", "o o "),
            ("${SET:+o} ${EMPTY:+o} ${UNSET:+o}", "o  "),
            ("${UNSET:-${EMPTY:-${SET}}}!", "value!"),
            ("${UNSET:-a${SET}b$SET}c", "avaluebvaluec"),
            ("${UNSET:-http://x:80/?a=b-c}", "http://x:80/?a=b-c"),
            ("${SET:-${UNSET}}", "value"),
            ("$SET{x}", "value{x}"),
            ("ä${UNSET:-ö}ü", "äöü"),
        ] {
            assert_eq!(try_with(text, Style::Topology).as_deref(), Ok(expected), "{text}");
            assert_eq!(try_with(text, Style::Plain).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_for_hosts_is_left_to_them_and_values_are_not_looked_at_again() {
        for (text, topology) in [
            ("${host.name} $$SET $${SET}", "${host.name} $$SET $${SET}"),
            ("${UNSET:-${host.labels.x}}", "${host.labels.x}"),
            ("$DOLLAR", "5$$ $${SET}"),
            ("${UNSET:-5$$}", "5$$"),
            ("${host.nam}", "${host.nam}"),
        ] {
            assert_eq!(try_with(text, Style::Topology).as_deref(), Ok(topology), "{text}");
        }
        assert_eq!(try_with("$$SET $DOLLAR", Style::Plain).as_deref(), Ok("$SET 5$ ${SET}"));
        assert!(try_with("${host.name}", Style::Plain).is_err());
    }

    #[test]
    fn what_is_not_set_and_what_is_no_variable_is_told() {
        for (text, words) in [
            ("$UNSET", "the variable `UNSET` is not set"),
            ("${UNSET}", "the variable `UNSET` is not set"),
            ("${SET:-x}${UNSET}", "the variable `UNSET` is not set"),
            ("${UNSET:?name the ${SET}}", "the variable `UNSET` is not set: name the value"),
            ("${EMPTY:?}", "the variable `EMPTY` is empty"),
            ("${UNSET?}", "the variable `UNSET` is not set"),
            ("${UNSET:-${MORE}}", "the variable `MORE` is not set"),
            ("${SET", "without its `}`"),
            ("${UNSET:-${SET}", "without its `}`"),
            ("cost: 5$", "a single `$`"),
            ("$5", "a single `$`"),
            ("${5}", "`${5}` is no variable"),
            ("${}", "`${}` is no variable"),
            ("${SET:x}", "`${SET:x}` is no variable"),
            ("${SET x}", "`${SET x}` is no variable"),
            ("${SET:}", "`${SET:}` is no variable"),
        ] {
            let why = try_with(text, Style::Topology).unwrap_err();
            assert!(why.message.contains(words), "{text}: {why:?}");
            assert!(why.help.is_some());
        }
    }

    #[test]
    fn a_default_that_is_not_needed_asks_for_nothing_and_nesting_is_bounded() {
        let mut asked = Vec::new();
        let mut lookup = |name: &str| {
            asked.push(name.to_owned());
            (name == "A").then(|| "a".to_owned())
        };
        assert_eq!(substitute("${A:-${B}} ${A+${C:-c}}", Style::Topology, &mut lookup).as_deref(), Ok("a c"));
        assert_eq!(asked, ["A", "A", "C"]);
        let deep = format!("{}x{}", "${U:-".repeat(1000), "}".repeat(1000));
        assert!(try_with(&deep, Style::Topology).unwrap_err().message.contains("nest deeper"));
    }

    #[test]
    fn a_value_that_is_repeated_cannot_fill_the_memory() {
        let why = substitute(&"$X".repeat(100), Style::Topology, &mut |_| Some("x".repeat(400_000))).unwrap_err();
        assert!(why.message.contains("larger than 16 MiB"), "{why:?}");
    }
}
