//! Where the passphrases of sealed key files come from: a file that was named, else the terminal, without echo.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::files::read_secret;
use super::key::SecretText;
use crate::error::{Failure, LocalCode};
use crate::limits::{PASSPHRASE_MIN, PASSPHRASES_MAX};

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Passphrases {
    file: Option<PathBuf>,
}

impl Passphrases {
    /// From `file`, or from the terminal.
    #[must_use]
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// Those to try on the key file `key`.
    ///
    /// # Errors
    /// [`LocalCode::PassphraseNeeded`] when no file is named and nobody can be asked.
    pub(super) fn for_key(&self, key: &Path) -> Result<Vec<SecretText>, Failure> {
        match &self.file {
            Some(file) => lines(file),
            None => Ok(vec![ask(&format!("Passphrase for {}: ", key.display()), key)?]),
        }
    }

    /// A new passphrase for the key file `key`: the first line of the named file, or typed twice.
    ///
    /// # Errors
    /// When it is too short, the two differ, or nobody can be asked.
    pub fn new_for(&self, key: &Path) -> Result<SecretText, Failure> {
        let chosen = match &self.file {
            Some(file) => first(file)?,
            None => {
                let chosen = ask(&format!("New passphrase for {}: ", key.display()), key)?;
                if ask("The same again: ", key)?.expose() != chosen.expose() {
                    return Err(Failure::new(LocalCode::WrongPassphrase, "the two passphrases differ; nothing was changed", "try again"));
                }
                chosen
            }
        };
        if chosen.expose().chars().count() < PASSPHRASE_MIN {
            let message = format!("the passphrase is shorter than {PASSPHRASE_MIN} characters; nothing was changed");
            return Err(Failure::usage(message, "choose a longer one: a few words that belong nowhere together are good"));
        }
        Ok(chosen)
    }
}

fn lines(file: &Path) -> Result<Vec<SecretText>, Failure> {
    let bytes = read_secret(file)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::local(format!("{} is not text", file.display())))?;
    let found: Vec<SecretText> =
        text.lines().filter(|l| !l.is_empty()).take(PASSPHRASES_MAX).map(|l| SecretText::new(l.to_owned())).collect();
    if found.is_empty() {
        let message = format!("{} holds no passphrase", file.display());
        return Err(Failure::new(LocalCode::PassphraseNeeded, message, "write the passphrase on its first line"));
    }
    Ok(found)
}

fn first(file: &Path) -> Result<SecretText, Failure> {
    lines(file)?.into_iter().next().ok_or_else(|| Failure::local(format!("{} holds no passphrase", file.display())))
}

fn ask(prompt: &str, key: &Path) -> Result<SecretText, Failure> {
    let nobody = |why: &str| {
        Failure::new(
            LocalCode::PassphraseNeeded,
            format!("{} needs a passphrase, and {why}", key.display()),
            "name a file that holds it with --passphrase-file FILE or MOORLINE_PASSPHRASE_FILE",
        )
    };
    if !io::stdin().is_terminal() && !io::stderr().is_terminal() {
        return Err(nobody("nobody is here to type it"));
    }
    let typed = Zeroizing::new(rpassword::prompt_password(prompt).map_err(|e| nobody(&format!("it cannot be asked for: {e}")))?);
    Ok(SecretText::new((*typed).clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::files::write_private;

    #[test]
    fn a_named_file_gives_its_lines_and_must_be_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pass");
        write_private(&file, b"correct horse\n\nbattery staple\n").unwrap();
        let from = Passphrases::new(Some(file.clone()));
        let tried: Vec<String> = from.for_key(Path::new("k")).unwrap().iter().map(|s| s.expose().to_owned()).collect();
        assert_eq!(tried, ["correct horse", "battery staple"]);
        assert_eq!(from.new_for(Path::new("k")).unwrap().expose(), "correct horse");
        write_private(&file, b"short\n").unwrap();
        assert!(from.new_for(Path::new("k")).err().unwrap().message.contains("shorter than 8"));
        write_private(&file, b"\n").unwrap();
        assert_eq!(from.for_key(Path::new("k")).err().unwrap().code, "passphrase_needed");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(from.for_key(Path::new("k")).err().unwrap().code, "unsafe_file");
    }
}
