//! Keys and other secrets: how they are kept in memory and in files.

use std::path::Path;

use moorline_common::sign::PrivateKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files::{read_secret, write_private};
use crate::error::Failure;

/// A secret text: zeroed when dropped, without `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, to be used and not kept.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

/// 32 bytes from 64 hex digits; surrounding white space and lines that begin with `#` are ignored.
#[must_use]
pub fn parse_seed(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'))?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(line, seed.as_mut()).ok()?;
    Some(seed)
}

/// Reads a private key file.
///
/// # Errors
/// When it is missing, readable by others, or no key.
pub fn read_key(path: &Path) -> Result<PrivateKey, Failure> {
    let bytes = read_secret(path)?;
    let seed = std::str::from_utf8(&bytes).ok().and_then(parse_seed).ok_or_else(|| {
        Failure::local(format!("{} is not a key file", path.display()))
            .with_remedy("name a file that `moorctl key new` or `moorctl init` made")
    })?;
    Ok(PrivateKey::from_seed(&seed))
}

/// Writes a private key file.
///
/// # Errors
/// When it cannot be written.
pub fn write_key(path: &Path, key: &PrivateKey) -> Result<(), Failure> {
    let text = Zeroizing::new(format!("{}\n", hex::encode(*key.seed())));
    write_private(path, text.as_bytes())
}

/// A fresh key from the system's randomness.
///
/// # Errors
/// When the system has none.
pub fn new_key() -> Result<PrivateKey, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|e| Failure::local(format!("the system gives no randomness: {e}")))?;
    Ok(PrivateKey::from_seed(&seed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_file_and_garbage_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k.key");
        let key = new_key().unwrap();
        write_key(&path, &key).unwrap();
        assert_eq!(read_key(&path).unwrap().id(), key.id());
        write_private(&path, b"hello").unwrap();
        assert!(read_key(&path).is_err());
    }
}
