//! Tokens, and other text that must be seen by nobody: it has no words for logs, errors or the store.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::CloudError;
use super::budgets::TOKEN_MAX;

/// Text that nobody is shown. It is wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text, for who sends it where it belongs.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a token comes from. It is read anew at each use, so that one that was changed counts at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// A file with nothing else in it, which not everybody can read.
    File(PathBuf),
    /// A variable of the hub's environment.
    Env(String),
}

impl TokenSource {
    /// The token as it now is.
    ///
    /// # Errors
    /// [`CloudError::Unconfigured`], which names file or variable and never what is in it.
    pub fn read(&self) -> Result<Secret, CloudError> {
        let (text, from) = match self {
            TokenSource::File(path) => (read_file(path)?, path.display().to_string()),
            TokenSource::Env(name) => {
                let unset = |_| unusable(format!("the token's variable {name} is not set, or is no text; set it in the hub's environment"));
                (Zeroizing::new(std::env::var(name).map_err(unset)?), format!("the variable {name}"))
            }
        };
        let token = text.trim();
        if token.is_empty() {
            return Err(unusable(format!("{from} is empty; put the token there")));
        }
        if token.len() > TOKEN_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(unusable(format!("{from} holds no token: a token is one line of at most {TOKEN_MAX} letters, digits and signs")));
        }
        Ok(Secret::new(token.to_owned()))
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, CloudError> {
    let failed = |error: std::io::Error| unusable(format!("the token file {} cannot be read: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o007 != 0 {
        let advice = "run `chmod o-rwx` on it, and make a new token if somebody may have copied it";
        return Err(unusable(format!("the token file {} can be read by everybody: {advice}", path.display())));
    }
    let mut text = Zeroizing::new(String::new());
    let limit = u64::try_from(TOKEN_MAX).unwrap_or(u64::MAX).saturating_add(16);
    file.take(limit).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

fn unusable(message: String) -> CloudError {
    CloudError::Unconfigured { message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str, mode: u32) -> (tempfile::TempDir, TokenSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, TokenSource::File(path))
    }

    #[test]
    fn a_token_is_read_anew_each_time_and_without_its_line_end() {
        let (dir, source) = file("dop_v1_first\n", 0o600);
        assert_eq!(source.read().unwrap().expose(), "dop_v1_first");
        std::fs::write(dir.path().join("token"), "dop_v1_second").unwrap();
        assert_eq!(source.read().unwrap().expose(), "dop_v1_second");
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_shown() {
        let long = "x".repeat(TOKEN_MAX + 1);
        for content in ["", "\n", "hush two", "hush\nhush", "hüsh", long.as_str()] {
            let (_dir, source) = file(content, 0o600);
            let error = source.read().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("sh"), "{error:?}");
        }
    }

    #[test]
    fn a_file_that_everybody_reads_is_refused() {
        let (_dir, source) = file("dop_v1_x", 0o644);
        assert!(source.read().unwrap_err().to_string().contains("everybody"));
        let (_dir, source) = file("dop_v1_x", 0o440);
        source.read().unwrap();
    }

    #[test]
    fn a_secret_has_no_words() {
        assert_eq!(format!("{:?}", Secret::new("dop_v1_x".to_owned())), "Secret(..)");
    }
}
