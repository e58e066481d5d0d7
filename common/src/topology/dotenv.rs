//! Files of variables: `.env` and what `env_file` names, as Compose reads them. Pure.
//!
//! A line is `NAME=value`, `export NAME=value`, `NAME: value`, or `NAME` alone for a variable that is passed on. Values without
//! quotes end at ` #`; those in `"…"` may go over lines and know escapes; those in `'…'` stand as they are, over lines, too.
//! Variables are filled in except between single quotes. Unlike in Compose, one that is not set is an error.

use super::Position;
use super::interpolate::{Lookup, Style, substitute};
use super::limits::{FILLED_MAX, PROBLEMS_KEPT_MAX};
use super::problem::Problem;
use super::vars::Why;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As above.
    Compose,
    /// `NAME=value` with the value as it stands, and `NAME` alone: what `docker run --env-file` reads.
    Raw,
}

/// One variable of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value; `None` for one that is passed on and not set.
    pub value: Option<String>,
    /// Where it stands.
    pub at: Position,
}

/// Reads the variables of `text` in order; of two with one name the later one counts. `outer` says what is set outside of the
/// file, which wins over what stands further up in it.
///
/// # Errors
/// Every line that is not understood. Values are never part of a message.
pub fn variables(text: &str, format: Format, outer: &mut dyn FnMut(&str) -> Option<String>) -> Result<Vec<Variable>, Vec<Problem>> {
    // A byte order mark is no content.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut reader = Reader {
        rest: &text,
        line: 1,
        column: 1,
        found: Vec::new(),
        places: std::collections::BTreeMap::new(),
        problems: Vec::new(),
        total: 0,
    };
    while !reader.rest.is_empty() {
        match format {
            Format::Compose => reader.statement(outer),
            Format::Raw => reader.raw_line(outer),
        }
    }
    if reader.problems.is_empty() { Ok(reader.found) } else { Err(reader.problems) }
}

struct Reader<'t> {
    rest: &'t str,
    line: u32,
    column: u32,
    found: Vec<Variable>,
    /// Name → its newest place in `found`.
    places: std::collections::BTreeMap<String, usize>,
    problems: Vec<Problem>,
    /// Bytes of all values so far: each may hold those above it.
    total: usize,
}

const ESCAPES: [(char, char); 8] =
    [('a', '\u{7}'), ('b', '\u{8}'), ('f', '\u{c}'), ('n', '\n'), ('r', '\r'), ('t', '\t'), ('v', '\u{b}'), ('\\', '\\')];

impl<'t> Reader<'t> {
    fn at(&self) -> Position {
        Position { file: 0, line: self.line, column: self.column }
    }

    /// Goes on behind the first `bytes` of what is left.
    fn skip(&mut self, bytes: usize) -> &'t str {
        let (gone, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        match gone.rsplit_once('\n') {
            Some((_, last)) => {
                self.line = self.line.saturating_add(count(gone.matches('\n').count()));
                self.column = count(last.chars().count()).saturating_add(1);
            }
            None => self.column = self.column.saturating_add(count(gone.chars().count())),
        }
        self.rest = rest;
        gone
    }

    fn skip_blanks(&mut self) {
        let blanks = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_whitespace() && c != '\n').len();
        self.skip(blanks);
    }

    /// The rest of the line; its end stays.
    fn line_left(&self) -> &'t str {
        self.rest.split('\n').next().unwrap_or("")
    }

    fn end_line(&mut self) {
        let left = self.line_left().len();
        self.skip(left + 1);
    }

    fn problem(&mut self, at: Position, name: &str, why: Why) {
        if self.problems.len() < PROBLEMS_KEPT_MAX {
            self.problems.push(why.at(at, name));
        }
    }

    fn push(&mut self, name: &str, value: Option<String>, at: Position) {
        if value.as_ref().is_some_and(|value| value.contains('\0')) {
            self.problem(at, name, Why::new("a NUL character cannot stand here"));
            return;
        }
        self.total = self.total.saturating_add(value.as_ref().map_or(0, String::len));
        if self.total > FILLED_MAX {
            let mib = FILLED_MAX / (1024 * 1024);
            self.problem(at, name, Why::new(format!("with their variables filled in, the values up to here are larger than {mib} MiB")));
            self.rest = "";
            return;
        }
        self.places.insert(name.to_owned(), self.found.len());
        self.found.push(Variable { name: name.to_owned(), value, at });
    }

    fn raw_line(&mut self, outer: &mut Lookup<'_>) {
        self.skip_blanks();
        let (at, line) = (self.at(), self.line_left());
        if !line.is_empty() && !line.starts_with('#') {
            let (name, value) = match line.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (line.trim_end(), outer(line.trim_end())),
            };
            if name.is_empty() || name.contains(char::is_whitespace) {
                self.problem(at, "", no_name());
            } else {
                self.push(name, value, at);
            }
        }
        self.end_line();
    }

    fn statement(&mut self, outer: &mut Lookup<'_>) {
        self.skip_blanks();
        let line = self.line_left();
        if line.is_empty() || line.starts_with('#') {
            self.end_line();
            return;
        }
        if let Some(after) = line.strip_prefix("export").filter(|after| after.starts_with(char::is_whitespace)) {
            self.skip(line.len() - after.len());
            self.skip_blanks();
        }
        let (at, line) = (self.at(), self.line_left());
        let end = line.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '[' | ']'))).unwrap_or(line.len());
        let name = self.skip(end);
        self.skip_blanks();
        let next = self.rest.chars().next();
        if name.is_empty() {
            self.problem(at, "", no_name());
            self.end_line();
        } else if matches!(next, Some('=' | ':')) {
            self.skip(1);
            self.skip_blanks();
            self.value(name, at, outer);
        } else if next.is_none_or(|c| c == '\n' || c == '#') {
            let value = outer(name);
            self.push(name, value, at);
            self.end_line();
        } else {
            // It may go on a value that has no quotes.
            self.problem(at, "", no_name());
            self.end_line();
        }
    }

    fn value(&mut self, name: &str, at: Position, outer: &mut Lookup<'_>) {
        let here = self.at();
        let text = match self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
            Some(quote) => {
                let Some(inside) = self.quoted(quote) else {
                    self.problem(here, name, Why::new(format!("the {quote} that begins here has no end")));
                    self.skip(self.rest.len());
                    return;
                };
                self.skip_blanks();
                let left = self.line_left();
                if !left.is_empty() && !left.starts_with('#') {
                    let why = Why::new(format!("something follows the closing {quote}"));
                    self.problem(self.at(), name, why.help("put the whole value between one pair of quotes"));
                }
                self.end_line();
                if quote == '\'' {
                    self.push(name, Some(inside), at);
                    return;
                }
                inside
            }
            None => {
                let line = self.line_left();
                let value = if line.starts_with('#') { "" } else { line.split(" #").next().unwrap_or("").trim_end() };
                self.end_line();
                value.to_owned()
            }
        };
        let (found, places) = (&self.found, &self.places);
        let mut lookup = |name: &str| {
            let above = || places.get(name).and_then(|n| found.get(*n)).and_then(|variable| variable.value.clone());
            outer(name).or_else(above)
        };
        match substitute(&text, Style::Plain, &mut lookup) {
            Ok(value) => self.push(name, Some(value), at),
            Err(why) => self.problem(here, name, why),
        }
    }

    /// What stands between quotes, with its escapes; `None` without a closing one. A `\$` becomes `$$`, which is a dollar sign.
    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == quote {
                self.skip(at + 1);
                return Some(out);
            }
            let next = chars.peek().map(|(_, next)| *next);
            match (c, next) {
                ('\\', Some(next)) if next == quote => out.push(next),
                ('\\', Some('$')) if quote == '"' => out.push_str("$$"),
                ('\\', Some(next)) if quote == '"' => match ESCAPES.iter().find(|(letter, _)| *letter == next) {
                    Some((_, meant)) => out.push(*meant),
                    None => out.extend(['\\', next]),
                },
                ('\\', Some(next)) => out.extend(['\\', next]),
                _ => {
                    out.push(c);
                    continue;
                }
            }
            chars.next();
        }
        None
    }
}

fn no_name() -> Why {
    Why::new("no variable begins here").help("write `NAME=value`; a name is made of letters, digits, `_`, `.` and `-`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_grow_out_of_each_other_end_somewhere() {
        let mut text = String::from("A=0123456789abcdef\n");
        for n in 0..40 {
            text.push_str(&format!("A=$A$A # {n}\n"));
        }
        let problems = variables(&text, Format::Compose, &mut |_| None).unwrap_err();
        assert!(problems.len() == 1 && problems[0].message.contains("MiB"), "{problems:?}");
    }

    fn read(text: &str, format: Format) -> Result<Vec<(String, Option<String>)>, Vec<Problem>> {
        let mut outer = |name: &str| match name {
            "OUTER" => Some("outer".to_owned()),
            "BOTH" => Some("from outside".to_owned()),
            _ => None,
        };
        variables(text, format, &mut outer).map(|found| found.into_iter().map(|v| (v.name, v.value)).collect())
    }

    #[test]
    fn values_are_what_compose_makes_of_them() {
        for (text, value) in [
            ("A=b", "b"),
            ("A=", ""),
            ("  export A=b  ", "b"),
            ("export\tA = b c ", "b c"),
            ("A: b", "b"),
            ("A=b # c", "b"),
            ("A=b#c", "b#c"),
            ("A=#c", ""),
            ("A=a=b==", "a=b=="),
            ("A='b # $X \\n'", "b # $X \\n"),
            ("A='it\\'s'", "it's"),
            ("A=\"b # c\" # d", "b # c"),
            ("A=\"say \\\"x\\\" \\t.\\n\"", "say \"x\" \t.\n"),
            ("A=\"a\\qb\\\\\"", "a\\qb\\"),
            ("A=\"one\ntwo\"", "one\ntwo"),
            ("A='one\r\ntwo'", "one\ntwo"),
            ("A=$OUTER/${NONE:-x}", "outer/x"),
            ("A=\"$OUTER \\$x $$y\"", "outer $x $y"),
            ("A='$OUTER'", "$OUTER"),
            ("\u{feff}A=b\r", "b"),
            ("A=ä", "ä"),
            ("A=b\"c\"", "b\"c\""),
        ] {
            assert_eq!(read(text, Format::Compose).map(|v| v[0].1.clone()), Ok(Some(value.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn lines_are_read_in_order_and_what_is_outside_wins_over_what_stands_above() {
        let text = "# words\n\nA=1\nB=${A}2\nBOTH=3\nC=$BOTH\nOUTER\nNONE\nA=4\nD=$A\nE=\"x\ny\"\nF=z";
        let found = read(text, Format::Compose).unwrap();
        let expected = [
            ("A", Some("1")),
            ("B", Some("12")),
            ("BOTH", Some("3")),
            ("C", Some("from outside")),
            ("OUTER", Some("outer")),
            ("NONE", None),
            ("A", Some("4")),
            ("D", Some("4")),
            ("E", Some("x\ny")),
            ("F", Some("z")),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))));
    }

    #[test]
    fn a_raw_file_is_taken_as_it_stands() {
        let text = "A='x' # y\n  B=$OUTER\\n \nOUTER\nNONE\n#C=1\n";
        let expected = [("A", Some("'x' # y")), ("B", Some("$OUTER\\n ")), ("OUTER", Some("outer")), ("NONE", None)];
        assert_eq!(read(text, Format::Raw).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned))));
        assert!(read("A B=1", Format::Raw).is_err());
    }

    #[test]
    fn every_wrong_line_is_told_by_its_place_and_no_value_is_shown() {
        let text = "A=1\n=hidden\nB B=hidden\n  C=x$hidden\nhidden+hidden\nG=${hidden!}\nG=${A:hidden}\nD='x' hidden\nE=\"x\n\nF=hidden";
        let problems = read(text, Format::Compose).unwrap_err();
        assert!(!format!("{problems:?}").contains("hidden"), "{problems:?}");
        let told: Vec<(u32, u32, &str)> = problems.iter().map(|p| (p.position.line, p.position.column, p.message.as_str())).collect();
        let expected = [
            (2, 1, "no variable begins here"),
            (3, 1, "no variable begins here"),
            (4, 5, "a variable in this value is not set"),
            (5, 1, "no variable begins here"),
            (6, 3, "a `${…}` in this value is no variable"),
            (7, 3, "a `${…}` in this value is no variable"),
            (8, 7, "something follows the closing '"),
            (9, 3, "the \" that begins here has no end"),
        ];
        assert_eq!(told, expected);
        // In braces it is a name that somebody meant.
        let problems = read("A=${MEANT}", Format::Compose).unwrap_err();
        assert_eq!(problems[0].message, "the variable `MEANT` is not set");
    }

    #[test]
    fn nonsense_ends() {
        for text in ["\"", "'", "=", "A=\"\\", "A='\\", "export", "export ", "A=${", "\\", "A\u{0}=1", "A=\u{0}"] {
            let _ = read(text, Format::Compose);
            let _ = read(text, Format::Raw);
        }
        assert_eq!(read("export", Format::Compose).unwrap(), [("export".to_owned(), None)]);
    }
}
