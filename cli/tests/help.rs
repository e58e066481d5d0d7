//! The help texts stay as they are written down: they are what operators learn the tool by.
//! `MOORLINE_UPDATE=1 cargo test -p moorctl --test help` writes them anew.

use std::path::PathBuf;

use clap::{Command, CommandFactory};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/help"))
}

/// The command and all commands below it, with the words that lead to each.
fn commands(command: &Command, path: &str, found: &mut Vec<(String, Command)>) {
    found.push((path.to_owned(), command.clone()));
    for below in command.get_subcommands().filter(|c| c.get_name() != "help") {
        commands(below, &format!("{path}-{}", below.get_name()), found);
    }
}

#[test]
fn help_texts_are_the_ones_written_down() {
    let update = std::env::var_os("MOORLINE_UPDATE").is_some();
    let mut root = moorctl::args::Cli::command().term_width(100);
    root.build();
    let mut all = Vec::new();
    commands(&root, "moorctl", &mut all);
    let mut differing = Vec::new();
    for (name, mut command) in all {
        let text = command.render_long_help().to_string();
        let path = folder().join(format!("{name}.txt"));
        if update {
            std::fs::write(&path, &text).expect("the golden file can be written");
        } else if std::fs::read_to_string(&path).unwrap_or_default() != text {
            differing.push(format!("--- {name}\n{text}"));
        }
    }
    assert!(differing.is_empty(), "run with MOORLINE_UPDATE=1 if this is meant:\n{}", differing.join("\n"));
}

#[test]
fn every_verb_and_option_says_what_it_does() {
    let mut root = moorctl::args::Cli::command();
    root.build();
    let mut all = Vec::new();
    commands(&root, "moorctl", &mut all);
    for (name, command) in all {
        assert!(command.get_about().is_some(), "{name} has no description");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{name}: {} has no description", arg.get_id());
        }
    }
}
