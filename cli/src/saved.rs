//! Files that go from operator to operator: what is to be signed, its signatures so far, and what a signer without a hub needs to
//! judge it. What stands in one and whether it is believed is the business of its verb.

use std::path::Path;

use moorline_common::canonical::from_strict_json;
use moorline_common::fault::{Code, Fault};
use moorline_common::sign::{Envelope, Signature};
use moorline_common::trust::TrustRoot;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::Failure;
use crate::home::files;
use crate::render::Ui;
use crate::signers::Signers;

/// The form of such a file.
pub trait SavedFile: Serialize + DeserializeOwned {
    /// What it holds, in a word.
    const WHAT: &'static str;
    /// What the verbs `sign` and `submit` stand behind.
    const VERBS: &'static str;
    /// The command that makes one.
    const MADE_BY: &'static str;
    /// The most bytes that are read, and so that are written.
    const BYTES_MAX: u64;

    /// The same as JSON.
    ///
    /// # Errors
    /// [`Code::TooLarge`] for more than could be read again.
    fn text(&self) -> Result<Vec<u8>, Failure> {
        let mut text = serde_json::to_vec(self).map_err(|e| Failure::local(format!("cannot write JSON: {e}")))?;
        text.push(b'\n');
        if u64::try_from(text.len()).unwrap_or(u64::MAX) > Self::BYTES_MAX {
            let message =
                format!("a saved {} of {} bytes; at most {} are read; nothing was written", Self::WHAT, text.len(), Self::BYTES_MAX);
            return Err(Fault::new(Code::TooLarge, message).into());
        }
        Ok(text)
    }

    /// Writes it to a new file.
    ///
    /// # Errors
    /// [`Code::AlreadyExists`]; [`Code::TooLarge`]; when it cannot be written.
    fn write_new(&self, path: &Path) -> Result<(), Failure> {
        files::write_new(path, &self.text()?)
    }

    /// Writes it in place of what was read. Whole or not at all: the signatures of others are in it.
    ///
    /// # Errors
    /// [`Code::TooLarge`]; when it cannot be written.
    fn replace(&self, path: &Path) -> Result<(), Failure> {
        files::write_private(path, &self.text()?)
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Code::BadEnvelope`] for what is none; when it cannot be read.
    fn read(path: &Path) -> Result<Self, Failure> {
        from_strict_json(&files::read_up_to(path, Self::BYTES_MAX)?).map_err(|e| {
            Failure::from(Fault::new(Code::BadEnvelope, format!("{} is no saved {}: {e}", path.display(), Self::WHAT)))
                .with_remedy(format!("name a file that `{}` made", Self::MADE_BY))
        })
    }

    /// What is to be done with the file at `path`, which still `lacks` something or nothing.
    fn next(path: &Path, lacks: Option<&str>) -> String {
        let (path, verbs) = (path.display(), Self::VERBS);
        match lacks {
            Some(lacks) => format!("{lacks}: the others sign with `{verbs} sign {path}`"),
            None => format!("hand it in with `{verbs} submit {path}`"),
        }
    }

    /// What an operator does who would hand in the file at `path` and lacks signatures.
    fn more_signers(path: &Path) -> String {
        format!("let more operators sign: `{} sign {}`", Self::VERBS, path.display())
    }
}

/// Tells who has signed, by the names in `root`.
pub fn tell_signers(ui: &mut Ui, root: &TrustRoot, signatures: &[Signature]) {
    for signature in signatures {
        ui.note(&format!("  signed   by {} ({})", root.name_of(&signature.keyid), signature.keyid));
    }
}

/// Adds the signatures of `signers` to `main` and to what goes with it.
pub fn add_signatures<'e>(ui: &mut Ui, signers: &Signers, main: &'e mut Envelope, rest: impl IntoIterator<Item = &'e mut Envelope>) {
    let before = main.signatures.len();
    signers.keys().for_each(|key| main.add_signature(key));
    if main.signatures.len() == before {
        ui.note("your signature is in it already");
    }
    for envelope in rest {
        signers.keys().for_each(|key| envelope.add_signature(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Note {
        text: String,
    }

    impl SavedFile for Note {
        const WHAT: &'static str = "note";
        const VERBS: &'static str = "moorctl revision";
        const MADE_BY: &'static str = "moorctl push --save FILE";
        const BYTES_MAX: u64 = 32;
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.json");
        let note = |letters: usize| Note { text: "x".repeat(letters) };
        let most = 32 - r#"{"text":""}"#.len() - 1;
        assert!(note(most + 1).write_new(&path).unwrap_err().is(Code::TooLarge));
        assert!(!path.exists(), "nothing was written");
        note(most).write_new(&path).unwrap();
        assert!(note(most + 1).replace(&path).unwrap_err().is(Code::TooLarge));
        assert_eq!(Note::read(&path).unwrap().text.len(), most, "what others signed stays");
    }

    #[test]
    fn a_file_that_is_too_large_or_another_one_is_told_as_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.json");
        std::fs::write(&path, format!("{}{}", r#"{"text":"x"}"#, " ".repeat(64))).unwrap();
        let large = Note::read(&path).err().unwrap();
        assert!(large.message.contains("larger than 32 bytes"), "{large}");
        std::fs::write(&path, "{}").unwrap();
        let other = Note::read(&path).err().unwrap();
        assert!(other.is(Code::BadEnvelope) && other.message.contains("is no saved note"), "{other}");
        assert!(other.remedy.contains("moorctl push --save FILE"), "{other:?}");
    }
}
