//! Unified differences of texts, coloured for a terminal.

use owo_colors::OwoColorize;
use similar::TextDiff;

/// The unified difference of two texts, without colours; empty when they are equal.
#[must_use]
pub fn unified(old: &str, new: &str, old_name: &str, new_name: &str) -> String {
    if old == new {
        return String::new();
    }
    TextDiff::from_lines(old, new).unified_diff().context_radius(3).header(old_name, new_name).to_string()
}

/// `difference` with its lines coloured.
#[must_use]
pub fn coloured(difference: &str) -> String {
    let paint = |line: &str| match line.as_bytes() {
        [b'+', b'+', ..] | [b'-', b'-', ..] => line.bold().to_string(),
        [b'+', ..] => line.green().to_string(),
        [b'-', ..] => line.red().to_string(),
        [b'@', ..] => line.cyan().to_string(),
        _ => line.to_owned(),
    };
    difference.lines().map(|line| paint(line) + "\n").collect()
}

/// The first `max` lines of `text`, and how many follow.
#[must_use]
pub fn first_lines(text: &str, max: usize) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().take(max).map(str::to_owned).collect();
    let more = text.lines().count().saturating_sub(max);
    if more > 0 {
        lines.push(format!("… and {more} more lines"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_no_difference_and_others_show_their_lines() {
        assert_eq!(unified("a\n", "a\n", "x", "y"), "");
        let text = unified("a\nb\n", "a\nc\n", "one", "two");
        assert!(text.starts_with("--- one\n+++ two\n"), "{text}");
        assert!(text.contains("\n-b\n+c\n"), "{text}");
        assert_eq!(anstream::adapter::strip_str(&coloured(&text)).to_string(), text);
        assert_eq!(first_lines("a\nb\nc\n", 2).last().unwrap(), "… and 1 more lines");
    }
}
