//! What the documents show works as it stands there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moorline_tests::fleet::{Fleet, text};

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The code blocks of a Markdown file in one language.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    markdown.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect()
}

/// Every page that users read.
const PAGES: [&str; 7] =
    ["README.md", "CHANGELOG.md", "deploy/README.md", "docs/compose.md", "docs/errors.md", "docs/operator-guide.md", "docs/topology.md"];

fn page(name: &str) -> String {
    std::fs::read_to_string(project().join(name)).unwrap()
}

#[test]
fn every_topology_on_a_page_and_every_example_is_valid() {
    let fleet = Fleet::prepare("docs").unwrap();
    let mut files = Vec::new();
    for name in PAGES {
        let shown = blocks(&page(name), "yaml");
        assert!(name != "README.md" || !shown.is_empty(), "the README shows a topology");
        for (n, block) in shown.iter().enumerate() {
            files.push(fleet.file(&format!("{}-{n}.yaml", name.replace('/', "-")), block).unwrap());
        }
    }
    for entry in std::fs::read_dir(project().join("deploy/examples")).unwrap().flatten() {
        files.extend(Some(entry.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")));
    }
    for file in files {
        let output = fleet.moorctl(&["validate", "-f", text(&file).unwrap()]).unwrap();
        assert_eq!(output.code, 0, "{}: {}", file.display(), output.text());
    }
}

/// The words after each command line of `program` in a text: in backticks, at the beginning of a line or text, or, for
/// the one that all messages speak of, anywhere in a line of code.
fn command_lines<'t>(text: &'t str, program: &str, is_code: bool) -> Vec<Vec<&'t str>> {
    let is_word = |w: &&str| w.starts_with(|c: char| c.is_ascii_lowercase()) && w.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    let mut found = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !is_code || !line.starts_with("//")) {
        for (at, call) in line.match_indices(&format!("{program} ")) {
            let before = line.get(..at).unwrap_or_default();
            let is_plain_code = is_code && program == "moorctl";
            if is_plain_code || before.is_empty() || before.ends_with(['`', '"']) {
                let rest = line.get(at + call.len()..).unwrap_or_default();
                let rest = rest.split(['`', '\\', '"', ';', ',', ':', '(', ')']).next().unwrap_or_default();
                found.push(rest.split_whitespace().take_while(is_word).take(2).collect());
            }
        }
    }
    found.retain(|words: &Vec<&str>| !words.is_empty());
    found
}

/// The source files of the programs, without their tests.
fn sources() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = ["common", "proto", "agent", "hub", "cli"].iter().map(|c| project().join(c).join("src")).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn every_verb_that_a_page_or_a_message_names_exists() {
    let fleet = Fleet::prepare("verbs").unwrap();
    let help = |program: &str, words: &[&str]| {
        let args: Vec<&str> = words.iter().copied().chain(["--help"]).collect();
        match program {
            "moorctl" => fleet.moorctl(&args),
            "moorline-hub" => fleet.hub_command(&args),
            _ => fleet.agent("nobody", &args),
        }
        .unwrap()
    };
    let mut texts: Vec<(String, String, bool)> = PAGES.iter().map(|name| ((*name).to_owned(), page(name), false)).collect();
    texts.extend(sources().iter().map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap(), true)));
    let mut wrong = Vec::new();
    for program in ["moorctl", "moorline-hub", "moorline-agent"] {
        let mut groups: BTreeMap<&str, bool> = BTreeMap::new();
        let mut known: BTreeMap<Vec<&str>, bool> = BTreeMap::new();
        for (name, text, is_code) in &texts {
            for mut words in command_lines(text, program, *is_code) {
                let is_group = *groups.entry(words[0]).or_insert_with(|| help(program, &words[..1]).stdout.contains("<COMMAND>"));
                words.truncate(if is_group { 2 } else { 1 });
                if !*known.entry(words.clone()).or_insert_with(|| help(program, &words).code == 0) {
                    wrong.push(format!("{name}: {program} {}", words.join(" ")));
                }
            }
        }
        assert!(known.values().filter(|exists| **exists).count() >= 4, "{program}: {known:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for name in PAGES.into_iter().chain(["ARCHITECTURE.md"]) {
        let path = project().join(name);
        let markdown = page(name);
        for target in markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !path.parent().unwrap().join(file).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
