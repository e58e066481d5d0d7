//! What the documents show works as it stands there.

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

#[test]
fn the_readmes_topology_and_every_example_are_valid() {
    let fleet = Fleet::prepare("docs").unwrap();
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let shown = blocks(&readme, "yaml");
    assert!(!shown.is_empty(), "the README shows a topology");
    let mut files = Vec::new();
    for (n, block) in shown.iter().enumerate() {
        files.push(fleet.file(&format!("readme-{n}.yaml"), block).unwrap());
    }
    for entry in std::fs::read_dir(project().join("deploy/examples")).unwrap().flatten() {
        files.extend(Some(entry.path()).filter(|p| p.extension().is_some_and(|e| e == "yaml")));
    }
    for file in files {
        let output = fleet.moorctl(&["validate", "-f", text(&file).unwrap()]).unwrap();
        assert_eq!(output.code, 0, "{}: {}", file.display(), output.text());
    }
}

#[test]
fn every_verb_that_the_readme_names_exists() {
    let fleet = Fleet::prepare("verbs").unwrap();
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let mut verbs = 0;
    for block in blocks(&readme, "sh") {
        for line in block.lines().filter_map(|l| l.trim().strip_prefix("moorctl ")) {
            let verb: Vec<&str> = line.split_whitespace().take_while(|w| w.chars().all(|c| c.is_ascii_lowercase())).collect();
            let verb = if verb.first() == Some(&"host") { verb } else { verb.into_iter().take(1).collect() };
            let help: Vec<&str> = verb.iter().copied().chain(["--help"]).collect();
            let output = fleet.moorctl(&help).unwrap();
            assert_eq!(output.code, 0, "moorctl {line}: {}", output.text());
            verbs += 1;
        }
    }
    assert!(verbs >= 6, "the README shows the daily lines");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "deploy/README.md"] {
        let path = project().join(name);
        let markdown = std::fs::read_to_string(&path).unwrap();
        for target in markdown.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !path.parent().unwrap().join(file).exists() {
                broken.push(format!("{name}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
