//! What the operator sees: results on standard output (table, JSON or YAML), all else on standard error.
//! Colours only on a terminal, nothing after a closed pipe.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::{Cell, Color, ContentArrangement};
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::error::{Failure, LocalCode};

pub mod diff;

/// How results are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// Where a verb writes and asks.
pub struct Ui {
    /// How results are written.
    pub format: Format,
    /// Whether questions are answered with yes.
    pub yes: bool,
    documents: usize,
}

impl Ui {
    /// Writes in `format`; `yes` answers every question.
    #[must_use]
    pub fn new(format: Format, yes: bool) -> Self {
        Self { format, yes, documents: 0 }
    }

    /// Writes the one result of a verb: `human`'s text for people, else `value`.
    ///
    /// # Errors
    /// When standard output is closed or cannot be written.
    pub fn result<T: Serialize + ?Sized>(&mut self, value: &T, human: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&human()),
            Format::Json => {
                let text = serde_json::to_string_pretty(value).map_err(|e| Failure::local(format!("cannot write JSON: {e}")))?;
                self.text(&format!("{text}\n"))
            }
            Format::Yaml => self.yaml(value),
        }
    }

    /// Writes one of several results: in JSON each is on a line of its own.
    ///
    /// # Errors
    /// As [`Self::result`].
    pub fn item<T: Serialize + ?Sized>(&mut self, value: &T, human: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.text(&human()),
            Format::Json => {
                let text = serde_json::to_string(value).map_err(|e| Failure::local(format!("cannot write JSON: {e}")))?;
                self.text(&format!("{text}\n"))
            }
            Format::Yaml => self.yaml(value),
        }
    }

    fn yaml<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Failure> {
        // By way of JSON: both then show the same keys and values.
        let value = serde_json::to_value(value).map_err(|e| Failure::local(format!("cannot write YAML: {e}")))?;
        let separator = if self.documents > 0 { "---\n" } else { "" };
        self.documents += 1;
        let text = to_yaml(&value);
        self.text(&format!("{separator}{text}"))
    }

    /// Writes text to standard output as it is; colours are dropped where they do not belong.
    ///
    /// # Errors
    /// As [`Self::result`].
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        let mut out = anstream::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }

    /// Writes what a command wrote: byte by byte, but with its control characters written out on a terminal.
    ///
    /// # Errors
    /// As [`Self::result`].
    pub fn output(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        write_output(io::stdout().lock(), bytes)
    }

    /// Writes what a command wrote to its standard error, as [`Self::output`].
    ///
    /// # Errors
    /// When standard error cannot be written.
    pub fn error_output(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        write_output(io::stderr().lock(), bytes)
    }

    /// Says something that is no result.
    pub fn note(&mut self, text: &str) {
        // Nobody listens on a closed standard error; the work goes on.
        let _ = writeln!(anstream::stderr().lock(), "{text}");
    }

    /// Says something that the operator should see to.
    pub fn warn(&mut self, text: &str) {
        self.note(&format!("{}: {text}", "warning".yellow().bold()));
    }

    /// Says why the verb ends early.
    pub fn failure(&mut self, failure: &Failure) {
        if failure.is_quiet() {
            return;
        }
        let mut text = String::new();
        for line in &failure.details {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(&format!("{}: {} [{}]", "error".red().bold(), visible(&failure.message), failure.code));
        if !failure.remedy.is_empty() {
            text.push_str(&format!("\n  {}: {}", "help".cyan(), visible(&failure.remedy)));
        }
        self.note(&text);
    }

    /// Whether moving progress bars make sense.
    #[must_use]
    pub fn progress_bars(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Asks; goes on only at a yes.
    ///
    /// # Errors
    /// [`LocalCode::NeedsConfirmation`] at any other answer, or when nobody can be asked.
    pub fn confirm(&mut self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        let refuse = |why: &str| {
            Err(Failure::new(LocalCode::NeedsConfirmation, format!("{question} {why}"), "add --yes to go on without a question"))
        };
        if !io::stdin().is_terminal() {
            return refuse("Nobody is here to answer.");
        }
        let _ = write!(anstream::stderr().lock(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(|e| Failure::local(format!("cannot read the answer: {e}")))?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => refuse("Not confirmed."),
        }
    }
}

/// A value as YAML text.
#[must_use]
pub fn to_yaml(value: &serde_json::Value) -> String {
    let text = serde_saphyr::to_string(value).unwrap_or_else(|_| value.to_string());
    if text.ends_with('\n') { text } else { text + "\n" }
}

/// What a cell says about the thing it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing in particular.
    Plain,
    /// As wanted.
    Good,
    /// On its way, or worth a look.
    Warn,
    /// An operator must act.
    Bad,
    /// Of no importance.
    Dim,
}

/// A table for people: no lines, columns as wide as they need.
pub struct Table(comfy_table::Table);

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        // The output stream drops the colours where they do not belong.
        table.enforce_styling();
        table.style_text_only();
        table.set_header(headings.iter().map(Cell::new));
        Self(table)
    }

    /// One more row.
    pub fn row(&mut self, cells: Vec<(String, Tone)>) {
        let cells = cells.into_iter().map(|(text, tone)| {
            let cell = Cell::new_owned(text);
            match tone {
                Tone::Plain => cell,
                Tone::Good => cell.fg(Color::Green),
                Tone::Warn => cell.fg(Color::Yellow),
                Tone::Bad => cell.fg(Color::Red),
                Tone::Dim => cell.fg(Color::DarkGrey),
            }
        });
        self.0.add_row(cells);
    }

    /// The table as text.
    #[must_use]
    pub fn text(mut self) -> String {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.0.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

/// A cell without a tone.
pub fn plain(text: impl ToString) -> (String, Tone) {
    (text.to_string(), Tone::Plain)
}

/// `text`, or a dash when it is empty.
#[must_use]
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// `text` with its control characters written out, and those that turn its direction: what others wrote moves no cursor, hides no line
/// and shows its letters in their order. Line ends and tabs stay.
#[must_use]
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        // Embeddings, overrides and isolates of Unicode's bidirectional algorithm, and its ends of lines and paragraphs.
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if turns || (c.is_control() && c != '\n' && c != '\t') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Takes out of `bytes` what can be shown now: a terminal shows no half characters.
#[must_use]
pub fn whole_characters(bytes: &mut Vec<u8>) -> Vec<u8> {
    let end = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Ok(_) | Err(_) => bytes.len(),
    };
    bytes.drain(..end).collect()
}

fn write_output(mut out: impl Write + IsTerminal, bytes: &[u8]) -> Result<(), Failure> {
    if out.is_terminal() {
        out.write_all(visible(&String::from_utf8_lossy(bytes)).as_bytes())?;
    } else {
        out.write_all(bytes)?;
    }
    out.flush()?;
    Ok(())
}

/// `text` on one line of at most `max` characters.
#[must_use]
pub fn shorten(text: &str, max: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= max {
        return line;
    }
    line.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_no_lines_and_no_trailing_blanks() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec![plain("shop-17"), ("converged".into(), Tone::Good)]);
        let text = anstream::adapter::strip_str(&table.text()).to_string();
        assert_eq!(text.lines().map(str::trim_end).collect::<Vec<_>>(), ["NAME     STATE", "shop-17  converged"]);
    }

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(visible("a\n\tb\u{1b}[2J\r\u{9b}1mé"), "a\n\tb\\u{1b}[2J\\r\\u{9b}1mé");
    }

    #[test]
    fn long_texts_are_cut_to_one_line() {
        assert_eq!(shorten("a\n b", 10), "a b");
        assert_eq!(shorten("abcdef", 4), "abc…");
    }
}
