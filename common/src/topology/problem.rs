//! What is wrong with a topology file, and where.

use std::fmt::Write as _;

use super::Position;
use super::limits::{NAME_MAX, NAMES_COMPARED_MAX, PROBLEMS_KEPT_MAX, PROBLEMS_MAX, SHOWN_MAX};

/// One thing that is wrong with a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where it is.
    pub position: Position,
    /// The file, when it is one that the topology takes and not the topology's own: a path relative to that.
    pub file: Option<Box<str>>,
    /// Where it is in the file's own words, such as `hosts.shop-17.docker.services.site.ports[0]`; empty for the whole file.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// The nearest known word, when one was probably meant.
    pub suggestion: Option<Box<str>>,
    /// What to do, when that is more than writing [`Self::suggestion`].
    pub help: Option<String>,
}

impl Problem {
    /// A problem at `position`.
    pub fn new(position: Position, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { position, path: path.into(), message: message.into(), file: None, suggestion: None, help: None }
    }

    /// The same with a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with the word that was probably meant.
    #[must_use]
    pub fn suggest(mut self, word: Option<&str>) -> Self {
        self.suggestion = word.map(Box::from);
        self
    }

    /// `file:line:col: error: message`, then where it is in the file's words, then a `help:` line if there is one.
    /// Ends without a line break.
    #[must_use]
    pub fn render(&self, file_name: &str) -> String {
        self.render_as(file_name, "error")
    }

    /// The same for what is not an `error`.
    #[must_use]
    pub fn render_as(&self, file_name: &str, what: &str) -> String {
        let Self { position: Position { file: _, line, column }, path, file, message, suggestion, help } = self;
        let name = file.as_deref().map_or_else(|| file_name.to_owned(), shown);
        let mut out = match line {
            // It is in no place.
            0 => format!("{name}: {what}: {}", shown(message)),
            _ => format!("{name}:{line}:{column}: {what}: {}", shown(message)),
        };
        // Writing to a String does not fail.
        if !path.is_empty() {
            let _ = write!(out, "\n    at {}", shown(path));
        }
        if let Some(word) = suggestion {
            let _ = write!(out, "\n    help: did you mean `{}`?", shown(word));
        }
        if let Some(help) = help {
            let _ = write!(out, "\n    help: {}", shown(help));
        }
        out
    }
}

/// `text` fit for a terminal: what the file says cannot move the cursor, and no name fills the screen.
fn shown(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == SHOWN_MAX {
            out.push('…');
            break;
        }
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// All of `problems` as text, one after the other, each on lines of its own.
#[must_use]
pub fn render_all(problems: &[Problem], file_name: &str) -> String {
    problems.iter().map(|p| p.render(file_name) + "\n").collect()
}

/// Names the files of problems outside of the topology's own: `files` are those that it takes, in order. Then sorts by place, drops
/// repetitions and cuts to [`PROBLEMS_MAX`], saying how many more there were.
pub(crate) fn tidy(mut problems: Vec<Problem>, files: &[String]) -> Vec<Problem> {
    for problem in problems.iter_mut().filter(|p| p.position.file > 0) {
        problem.file = files.get(usize::from(problem.position.file) - 1).map(|file| file.as_str().into());
    }
    problems.sort();
    // Several entries that use one profile report what is wrong in it once each.
    problems.dedup_by(|a, b| a.position == b.position && a.message == b.message);
    if problems.len() > PROBLEMS_MAX {
        let (more, or) = (problems.len() - PROBLEMS_MAX, if problems.len() >= PROBLEMS_KEPT_MAX { " or more" } else { "" });
        problems.truncate(PROBLEMS_MAX);
        let (position, file) = problems.last().map(|p| (p.position, p.file.clone())).unwrap_or_default();
        problems.push(Problem { file, ..Problem::new(position, "", format!("… and {more}{or} other problems further down")) });
    }
    problems
}

/// The word of `known` that is nearest to `word`, if one is near enough to have been meant.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    // Comparing takes time by the product of both lengths.
    let comparable = |text: &str| text.len() <= NAME_MAX;
    if !comparable(word) {
        return None;
    }
    let word = word.to_lowercase();
    let known = known.into_iter().filter(|k| comparable(k)).take(NAMES_COMPARED_MAX);
    let (distance, best) =
        known.map(|k| (strsim::damerau_levenshtein(&word, &k.to_lowercase()), k)).min_by_key(|(distance, _)| *distance)?;
    (distance <= (word.chars().count() / 3).max(1)).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_with_its_place_and_its_remedy() {
        let problem =
            Problem::new(Position { file: 0, line: 3, column: 7 }, "hosts.h", "a host entry has no key `uses`").suggest(Some("use"));
        assert_eq!(
            problem.help("see docs").render("x.yaml"),
            "x.yaml:3:7: error: a host entry has no key `uses`\n    at hosts.h\n    help: did you mean `use`?\n    help: see docs"
        );
    }

    #[test]
    fn what_a_file_says_cannot_move_the_cursor_or_fill_the_screen() {
        let text = Problem::new(Position::default(), "a\u{1b}[2Jb".repeat(1000), "x\ny\u{7}").render("x.yaml");
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}') && text.lines().count() == 2 && text.len() < 10_000, "{text}");
    }

    #[test]
    fn only_words_that_are_near_are_suggested() {
        let known = ["environment", "ports", "image"];
        assert_eq!(nearest("enviroment", known), Some("environment"));
        assert_eq!(nearest("Image", known), Some("image"));
        assert_eq!(nearest("prots", known), Some("ports"));
        assert_eq!(nearest("deploy", known), None);
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
