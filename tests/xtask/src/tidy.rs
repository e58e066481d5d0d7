//! The project's own checks of its source, over every file that git knows.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cmd::{root, say};

const FILE_LINES_MAX: usize = 500;
const MAIN_LINES_MAX: usize = 80;
/// The page with the table of what always holds, and the tests that hold it.
const INVARIANTS_PAGE: &str = "ARCHITECTURE.md";
/// Files over the limit. This list may only shrink.
const NAUGHTY: [&str; 0] = [];
/// Words that may not be left behind. Written in two parts, so that this file passes.
const LEFTOVERS: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("db", "g!(")];
/// What the pure crate must not know.
const IMPURE: [&str; 7] = ["tokio", "std::fs", "std::net::Tcp", "std::net::Udp", "std::process", "Instant::now", "SystemTime::now"];

/// Checks everything; an error lists all that is wrong.
pub fn check() -> Result<()> {
    let root = root()?;
    let mut wrong = Vec::new();
    let sources = sources(&root)?;
    for (path, text) in &sources {
        check_file(path, text, &mut wrong);
    }
    let page = std::fs::read_to_string(root.join(INVARIANTS_PAGE)).with_context(|| format!("reading {INVARIANTS_PAGE}"))?;
    check_invariants(&page, &sources, &mut wrong);
    if !wrong.is_empty() {
        bail!("tidy:\n  {}", wrong.join("\n  "));
    }
    say("\ntidy: fine\n");
    Ok(())
}

fn sources(root: &Path) -> Result<BTreeMap<String, String>> {
    let out = Command::new("git").arg("-C").arg(root).args(["ls-files", "--cached", "*.rs"]).output().context("git ls-files")?;
    if !out.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&out.stderr));
    }
    let mut all = BTreeMap::new();
    for path in String::from_utf8(out.stdout)?.lines() {
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            all.insert(path.to_owned(), text);
        }
    }
    Ok(all)
}

fn check_file(path: &str, text: &str, wrong: &mut Vec<String>) {
    let code = without_tests(path, text);
    let lines = code.lines().count();
    let limit = if path.ends_with("src/main.rs") && !path.starts_with("tests/") { MAIN_LINES_MAX } else { FILE_LINES_MAX };
    let naughty = NAUGHTY.contains(&path);
    if lines > limit && !naughty {
        wrong.push(format!("{path}: {lines} lines without its tests; at most {limit}"));
    }
    if lines <= limit && naughty {
        wrong.push(format!("{path}: is short enough now; take it off the list in tidy.rs"));
    }
    if !text.starts_with("//!") && !path.ends_with("build.rs") {
        wrong.push(format!("{path}: does not begin with `//!` and what it is"));
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(word) = LEFTOVERS.iter().find(|word| line.contains(**word)) {
            wrong.push(format!("{path}:{}: `{word}` was left behind", number + 1));
        }
        if line.contains('\t') && !line.contains("\\t") {
            wrong.push(format!("{path}:{}: a tab", number + 1));
        }
    }
    if path.starts_with("common/src/") {
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            if let Some(word) = IMPURE.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{path}:{}: the pure crate must not use `{word}`", number + 1));
            }
        }
    }
}

/// Every test that the table of invariants names is a function of the file that is linked before it.
fn check_invariants(page: &str, sources: &BTreeMap<String, String>, wrong: &mut Vec<String>) {
    let mut named = 0;
    for line in page.lines().filter(|line| line.starts_with("| I")) {
        for link in line.split("](").skip(1) {
            let (path, rest) = link.split_once(')').unwrap_or((link, ""));
            // Up to the next link's text.
            let rest = rest.split('[').next().unwrap_or_default();
            for name in rest.split('`').skip(1).step_by(2).filter(|name| is_function_name(name)) {
                named += 1;
                if !sources.get(path).is_some_and(|text| text.contains(&format!("fn {name}("))) {
                    wrong.push(format!("{INVARIANTS_PAGE}: {path} has no test `{name}`"));
                }
            }
        }
    }
    if named == 0 {
        wrong.push(format!("{INVARIANTS_PAGE}: the table of invariants names no test"));
    }
}

fn is_function_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// The file up to its in-file tests, which stand last; nothing of a file that is all tests.
fn without_tests<'t>(path: &str, text: &'t str) -> &'t str {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return "";
    }
    text.find("\n#[cfg(test)]\nmod ").and_then(|at| text.get(..at)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(path: &str, text: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        check_file(path, text, &mut wrong);
        wrong
    }

    #[test]
    fn long_files_leftovers_and_impure_core_are_found() {
        assert!(wrong("hub/src/a.rs", "//! Fine.\nfn a() {}\n").is_empty());
        assert_eq!(wrong("hub/src/a.rs", &format!("//! Long.\n{}", "x\n".repeat(FILE_LINES_MAX))).len(), 1);
        assert!(wrong("hub/src/a.rs", &format!("//! Short.\n\n#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(900))).is_empty());
        assert_eq!(wrong("hub/src/a.rs", &format!("//! Left.\n// {}: later\n", LEFTOVERS[0])).len(), 1);
        assert_eq!(wrong("common/src/a.rs", "//! Impure.\nuse tokio::fs;\n").len(), 1);
        assert!(wrong("agent/src/a.rs", "//! Allowed here.\nuse tokio::fs;\n").is_empty());
        assert_eq!(wrong("hub/src/a.rs", "fn a() {}\n").len(), 1);
    }

    #[test]
    fn an_invariant_that_names_a_test_which_is_gone_is_found() {
        let sources = BTreeMap::from([("hub/src/a.rs".to_owned(), "fn it_holds() {}\n".to_owned())]);
        let wrong = |row: &str| {
            let mut wrong = Vec::new();
            check_invariants(row, &sources, &mut wrong);
            wrong
        };
        let row = |names: &str| format!("| I1 | **One.** It holds. | [`a.rs`](hub/src/a.rs): {names} |");
        assert!(wrong(&row("`it_holds`; `limits.rs` too")).is_empty());
        assert_eq!(wrong(&row("`it_holds`, `it_held`")), ["ARCHITECTURE.md: hub/src/a.rs has no test `it_held`"]);
        assert_eq!(wrong(&row("`it_holds`; [`b.rs`](hub/src/b.rs): `it_holds`")), ["ARCHITECTURE.md: hub/src/b.rs has no test `it_holds`"]);
        assert_eq!(wrong("no table").len(), 1);
    }
}
