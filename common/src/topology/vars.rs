//! `${host.name}`, `${host.id}` and `${host.labels.x}` inside of text, and `$$` for a dollar sign.

use super::Position;
use super::problem::{Problem, nearest};
use super::slice::BoundHost;

/// What is wrong with a value, without its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Why {
    /// What is wrong.
    pub(crate) message: String,
    /// The nearest known word.
    pub(crate) suggestion: Option<String>,
    /// What to do.
    pub(crate) help: Option<String>,
}

impl Why {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: None, help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same at its place.
    pub(crate) fn at(self, position: Position, path: impl Into<String>) -> Problem {
        let Self { message, suggestion, help } = self;
        Problem { suggestion: suggestion.map(Into::into), help, ..Problem::new(position, path, message) }
    }
}

const KNOWN: [&str; 2] = ["host.name", "host.id"];
const LABELS: &str = "host.labels.";
const DOLLAR_HELP: &str = "write `$$` for a dollar sign; variables are `${host.name}`, `${host.id}` and `${host.labels.NAME}`";

/// `text` with its variables filled in for `host`; `None` when it has some and no host is given yet.
pub(crate) fn fill(text: &str, host: Option<&BoundHost>) -> Result<Option<String>, Why> {
    let Some((before, mut rest)) = text.split_once('$') else { return Ok(Some(text.to_owned())) };
    let mut out = before.to_owned();
    let mut open = false;
    loop {
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err(Why::new("a `${` without its `}`").help(DOLLAR_HELP));
            };
            match variable(name, host)? {
                Some(value) => out.push_str(value),
                None => open = true,
            }
            rest = after;
        } else {
            return Err(Why::new("a single `$` has no meaning here").help(DOLLAR_HELP));
        }
        match rest.split_once('$') {
            Some((before, after)) => {
                out.push_str(before);
                rest = after;
            }
            None => {
                out.push_str(rest);
                return Ok((!open).then_some(out));
            }
        }
    }
}

fn variable<'h>(name: &str, host: Option<&'h BoundHost>) -> Result<Option<&'h str>, Why> {
    if let Some(label) = name.strip_prefix(LABELS).filter(|label| !label.is_empty()) {
        let Some(host) = host else { return Ok(None) };
        return match host.labels.get(label) {
            Some(value) => Ok(Some(value)),
            None => {
                let mut why = Why::new(format!("host {} has no label `{label}`, which `${{{name}}}` asks for", host.name));
                why.suggestion = nearest(label, host.labels.keys().map(String::as_str)).map(|l| format!("${{{LABELS}{l}}}"));
                Err(why)
            }
        };
    }
    match name {
        "host.name" => Ok(host.map(|h| h.name.as_str())),
        "host.id" => Ok(host.map(|h| h.host_id.as_str())),
        _ => {
            let mut why = Why::new(format!("`${{{}}}` is no variable", super::node::shorten(name))).help(DOLLAR_HELP);
            why.suggestion = nearest(name, KNOWN).map(|n| format!("${{{n}}}"));
            Err(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::id::{HostId, HostName};

    fn host() -> BoundHost {
        BoundHost {
            host_id: HostId::of_key(&[7; 32]),
            name: HostName::parse("shop-17").unwrap(),
            labels: BTreeMap::from([("site".to_owned(), "sydney".to_owned()), ("odd".to_owned(), "$x ${host.name}".to_owned())]),
        }
    }

    #[test]
    fn variables_are_filled_and_their_values_are_not_looked_at_again() {
        let host = host();
        for (text, expected) in [
            ("plain", "plain"),
            ("${host.name}.example", "shop-17.example"),
            ("a ${host.labels.site} b ${host.name}", "a sydney b shop-17"),
            ("$$HOME costs 5$$", "$HOME costs 5$"),
            ("$${host.name}", "${host.name}"),
            ("${host.labels.odd}", "$x ${host.name}"),
        ] {
            assert_eq!(fill(text, Some(&host)).unwrap().as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn without_a_host_only_text_without_variables_is_known() {
        assert_eq!(fill("a$$b", None).unwrap().as_deref(), Some("a$b"));
        assert_eq!(fill("a${host.labels.any}", None).unwrap(), None);
    }

    #[test]
    fn unknown_variables_missing_labels_and_stray_dollars_are_told() {
        let host = host();
        for (text, words) in [
            ("$HOME", "single `$`"),
            ("cost: 5$", "single `$`"),
            ("${host.name", "without its `}`"),
            ("${HOME}", "`${HOME}` is no variable"),
            ("${host.labels.}", "is no variable"),
            ("${host.labels.rack}", "host shop-17 has no label `rack`"),
        ] {
            let why = fill(text, Some(&host)).unwrap_err();
            assert!(why.message.contains(words), "{text}: {why:?}");
        }
        assert_eq!(fill("${host.nam}", None).unwrap_err().suggestion.as_deref(), Some("${host.name}"));
        assert_eq!(fill("${host.labels.sitee}", Some(&host)).unwrap_err().suggestion.as_deref(), Some("${host.labels.site}"));
    }
}
