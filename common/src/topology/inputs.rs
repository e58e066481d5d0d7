//! What a topology takes from the operator's machine besides its own text: the values of variables and the content of files.
//!
//! Reading a topology is pure: it is handed what it may take, and says what it looked for. `moorctl` gathers that where the
//! topology is pushed and signs it with the source. From then on only what was signed counts, on whichever machine.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::limits::{DIGESTS_MAX, INPUT_FILES_MAX, INPUT_MAX, INPUTS_MAX, PINS_MAX, VARIABLES_MAX};
use super::problem::Problem;
use super::{Position, TopologyFile, sealed};
use crate::registry::is_digest;

/// Variables and files that a topology takes. What is not in here does not exist for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// Variable → value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// Path as [`join`] gives it, relative to the topology file → content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Image as a service names it → the digest that it had at its registry. Empty where images are not pinned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, String>,
    /// [`super::Origin::key`] of a secret or config → the digest of its value, which is in here for nobody.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, String>,
}

impl Inputs {
    /// Whether the topology stands alone.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.variables.is_empty() && self.files.is_empty() && self.pins.is_empty() && self.digests.is_empty()
    }

    /// What is past a limit, if anything is.
    #[must_use]
    pub fn excess(&self) -> Option<Problem> {
        let problem = |message: String, help: &str| Some(Problem::new(Position::default(), "", message).help(help));
        if self.variables.len() > VARIABLES_MAX {
            return problem(format!("the topology takes more than {VARIABLES_MAX} variables"), "split the topology");
        }
        if self.files.len() > INPUT_FILES_MAX {
            return problem(format!("the topology takes more than {INPUT_FILES_MAX} files"), "split the topology");
        }
        let is_plain = |image: &str| !image.is_empty() && image.len() <= INPUT_MAX && !image.contains(char::is_control);
        if self.pins.iter().any(|(image, digest)| !is_plain(image) || !is_digest(digest)) {
            return problem("an image is pinned to what is no digest".to_owned(), "push it again with `--pin`");
        }
        if self.pins.len() > PINS_MAX {
            return problem(format!("more than {PINS_MAX} images are pinned"), "split the topology");
        }
        if self.digests.iter().any(|(key, digest)| key.contains(char::is_control) || !sealed::is_digest(digest)) {
            return problem("the digest of a secret or config is none".to_owned(), "push it again from where its files are");
        }
        if self.digests.len() > DIGESTS_MAX {
            return problem(format!("the topology takes more than {DIGESTS_MAX} secrets and configs"), "split the topology");
        }
        let variables = self.variables.iter().map(|(name, value)| (format!("the variable `{name}`"), value));
        let files = self.files.iter().map(|(path, content)| (format!("the file `{path}`"), content));
        let mut total = 0_usize;
        for (what, content) in variables.chain(files) {
            if content.len() > INPUT_MAX {
                return problem(
                    format!("{what} is larger than {} KiB", INPUT_MAX / 1024),
                    "large content belongs into an image or a volume",
                );
            }
            total = total.saturating_add(content.len());
        }
        if total > INPUTS_MAX {
            return problem(format!("variables and files of more than {} KiB together", INPUTS_MAX / 1024), "split the topology");
        }
        None
    }
}

/// Names of what a topology looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// Variables.
    pub variables: BTreeSet<String>,
    /// Files, as keys of [`Inputs::files`].
    pub files: BTreeSet<String>,
}

/// What came of reading a topology with some inputs.
#[derive(Debug)]
pub struct Reading {
    /// The topology, or everything that is wrong with it.
    pub file: Result<TopologyFile, Vec<Problem>>,
    /// What it looked for, whether the inputs have it or not. More may follow when what is missing here is added.
    pub asked: Asked,
    /// What is not wrong, and should be known, by its place.
    pub warnings: Vec<Problem>,
}

/// The path of a file that `named` in a file of the folder `folder` means: in one spelling, relative to the topology file unless
/// it is absolute. Looks at no file system.
#[must_use]
pub fn join(folder: &str, named: &str) -> String {
    let whole = if named.starts_with('/') || folder.is_empty() { named.to_owned() } else { format!("{folder}/{named}") };
    let root = if whole.starts_with('/') { "/" } else { "" };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if !root.is_empty() => {}
            other => parts.push(other),
        }
    }
    format!("{root}{}", parts.join("/"))
}

/// The folder of a path that [`join`] gave; empty for that of the topology file.
pub(crate) fn folder(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) => "/",
        Some((folder, _)) => folder,
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (folder, named, path) in [
            ("", "x.env", "x.env"),
            ("", "./a//b/../x.env", "a/x.env"),
            ("base", "../x.env", "x.env"),
            ("base", "../../x.env", "../x.env"),
            ("../base", "../../x.env", "../../x.env"),
            ("base", "/etc/../x.env", "/x.env"),
            ("", "/../x", "/x"),
            ("/", "x", "/x"),
        ] {
            assert_eq!(join(folder, named), path, "{folder} {named}");
        }
        assert_eq!((folder("a/b/c"), folder("c"), folder("/c"), folder("../c")), ("a/b", "", "/", ".."));
    }

    #[test]
    fn inputs_are_bounded() {
        let one = |content: String| Inputs { files: BTreeMap::from([("x".to_owned(), content)]), ..Inputs::default() };
        assert_eq!(one("x".repeat(INPUT_MAX)).excess(), None);
        assert!(one("x".repeat(INPUT_MAX + 1)).excess().unwrap().message.contains("the file `x` is larger than 512 KiB"));
        let many = |n: usize, size: usize| Inputs {
            variables: (0..n).map(|n| (format!("V{n}"), "x".repeat(size))).collect(),
            ..Inputs::default()
        };
        assert_eq!(many(VARIABLES_MAX, 1).excess(), None);
        assert!(many(VARIABLES_MAX + 1, 1).excess().is_some());
        assert!(many(4, INPUTS_MAX / 3).excess().is_some());
        let files = (0..=INPUT_FILES_MAX).map(|n| (n.to_string(), String::new())).collect();
        assert!(Inputs { files, ..Inputs::default() }.excess().is_some());
    }
}
