//! Keys and other secrets: how they are kept in memory and in files.

use std::path::Path;

use moorline_common::sign::PrivateKey;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files::{read_secret, write_json, write_private};
use super::passphrase::Passphrases;
use crate::error::{Failure, LocalCode};
use crate::limits::{SCRYPT_LOG_N, SCRYPT_LOG_N_MAX};

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

/// A private key, and what its file was sealed with.
pub struct OpenedKey {
    /// The key.
    pub key: PrivateKey,
    /// The passphrase that opened its file; `None` for a file that is not sealed.
    pub passphrase: Option<SecretText>,
}

/// The content of a sealed key file. All but `sealed` is authenticated with it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealedKey {
    /// 1: scrypt, then ChaCha20-Poly1305.
    moorline_sealed_key: u32,
    /// The public half, in hex, so that it can be shown without the passphrase.
    public: String,
    /// The cost: scrypt's N is 2 to the power of it.
    log_n: u8,
    /// scrypt's salt, in hex; new for each file, so that no key is used twice.
    salt: String,
    /// The sealed seed, in hex.
    sealed: String,
}

/// The one format so far.
const SEALED_FORMAT: u32 = 1;
const SCRYPT_R: u32 = 8;
const SCRYPT_P: u32 = 1;

impl SealedKey {
    fn seal(key: &PrivateKey, passphrase: &SecretText, log_n: u8) -> Result<Self, Failure> {
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|e| Failure::local(format!("the system gives no randomness: {e}")))?;
        let public = hex::encode(key.public());
        let mut sealed = Self { moorline_sealed_key: SEALED_FORMAT, public, log_n, salt: hex::encode(salt), sealed: String::new() };
        let mut bytes = key.seed().to_vec();
        let done = sealed.cipher(passphrase)?.seal_in_place_append_tag(nonce(), Aad::from(sealed.head()), &mut bytes);
        done.map_err(|_| Failure::local("the key could not be sealed"))?;
        sealed.sealed = hex::encode(bytes);
        Ok(sealed)
    }

    /// `None` when this is not the passphrase, or the file was changed.
    fn open(&self, passphrase: &SecretText) -> Result<Option<PrivateKey>, Failure> {
        let mut bytes = Zeroizing::new(hex::decode(&self.sealed).map_err(|_| Failure::local("the sealed key is not written in hex"))?);
        let Ok(seed) = self.cipher(passphrase)?.open_in_place(nonce(), Aad::from(self.head()), &mut bytes) else { return Ok(None) };
        let Ok(seed) = <&[u8; 32]>::try_from(&*seed) else { return Ok(None) };
        let key = PrivateKey::from_seed(seed);
        Ok((hex::encode(key.public()) == self.public).then_some(key))
    }

    fn cipher(&self, passphrase: &SecretText) -> Result<LessSafeKey, Failure> {
        if self.moorline_sealed_key != SEALED_FORMAT {
            let message = format!("the key is sealed in format {}, this version knows {SEALED_FORMAT}", self.moorline_sealed_key);
            return Err(Failure::local(message).with_remedy("update moorctl"));
        }
        if self.log_n > SCRYPT_LOG_N_MAX {
            let message = format!("the key file asks for more memory than is reasonable (cost {}, at most {SCRYPT_LOG_N_MAX})", self.log_n);
            return Err(Failure::local(message).with_remedy("restore the file from a backup"));
        }
        let params = scrypt::Params::new(self.log_n, SCRYPT_R, SCRYPT_P)
            .map_err(|e| Failure::local(format!("the key file's cost is wrong: {e}")))?;
        let salt = hex::decode(&self.salt).map_err(|_| Failure::local("the key file's salt is not written in hex"))?;
        let mut key = Zeroizing::new([0; 32]);
        scrypt::scrypt(passphrase.expose().as_bytes(), &salt, &params, key.as_mut())
            .map_err(|e| Failure::local(format!("the passphrase cannot be used: {e}")))?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).map_err(|_| Failure::local("the passphrase cannot be used"))?;
        Ok(LessSafeKey::new(key))
    }

    fn head(&self) -> String {
        format!("moorline key {} {} {} {}", self.moorline_sealed_key, self.public, self.log_n, self.salt)
    }
}

/// Always the same: each salt, and so each key, seals once.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

/// A key file as it was read.
enum KeyFile {
    Plain(PrivateKey),
    Sealed(SealedKey),
}

fn read_file(path: &Path) -> Result<KeyFile, Failure> {
    let bytes = read_secret(path)?;
    let no_key = |why: &str| {
        Failure::local(format!("{} is not a key file{why}", path.display()))
            .with_remedy("name a file that `moorctl key new` or `moorctl init` made")
    };
    if bytes.trim_ascii_start().starts_with(b"{") {
        return serde_json::from_slice(&bytes).map(KeyFile::Sealed).map_err(|e| no_key(&format!(": {e}")));
    }
    let seed = std::str::from_utf8(&bytes).ok().and_then(parse_seed).ok_or_else(|| no_key(""))?;
    Ok(KeyFile::Plain(PrivateKey::from_seed(&seed)))
}

/// Reads a private key file, with what it was sealed with.
///
/// # Errors
/// When it is missing, readable by others, or no key; [`LocalCode::PassphraseNeeded`], [`LocalCode::WrongPassphrase`].
pub fn open_key(path: &Path, passphrases: &Passphrases) -> Result<OpenedKey, Failure> {
    let sealed = match read_file(path)? {
        KeyFile::Plain(key) => return Ok(OpenedKey { key, passphrase: None }),
        KeyFile::Sealed(sealed) => sealed,
    };
    for passphrase in passphrases.for_key(path)? {
        let opened = sealed.open(&passphrase).map_err(|f| f.while_doing(path.display()))?;
        if let Some(key) = opened {
            return Ok(OpenedKey { key, passphrase: Some(passphrase) });
        }
    }
    Err(Failure::new(
        LocalCode::WrongPassphrase,
        format!("no passphrase that was given opens {}; nothing was changed", path.display()),
        "try again; if it is certainly the right one, restore the file from a backup",
    ))
}

/// Reads a private key file.
///
/// # Errors
/// As [`open_key`].
pub fn read_key(path: &Path, passphrases: &Passphrases) -> Result<PrivateKey, Failure> {
    open_key(path, passphrases).map(|opened| opened.key)
}

/// The public half of a key file. A sealed file's is as the file says: it is proven only when the key is opened.
///
/// # Errors
/// When it is missing, readable by others, or no key.
pub fn public_of(path: &Path) -> Result<[u8; 32], Failure> {
    match read_file(path)? {
        KeyFile::Plain(key) => Ok(key.public()),
        KeyFile::Sealed(sealed) => {
            let mut public = [0; 32];
            hex::decode_to_slice(&sealed.public, &mut public)
                .map_err(|_| Failure::local(format!("the public key in {} is not 64 hex digits", path.display())))?;
            Ok(public)
        }
    }
}

/// Writes a private key file that is not sealed.
///
/// # Errors
/// When it cannot be written.
pub fn write_key(path: &Path, key: &PrivateKey) -> Result<(), Failure> {
    let text = Zeroizing::new(format!("{}\n", hex::encode(*key.seed())));
    write_private(path, text.as_bytes())
}

/// Writes a private key file, sealed if there is a passphrase, and reads it back before anything else is done: a key that
/// cannot be opened again is lost.
///
/// # Errors
/// When it cannot be written; the file that was there before is then untouched.
pub fn write_sealed_key(path: &Path, key: &PrivateKey, passphrase: Option<&SecretText>) -> Result<(), Failure> {
    let Some(passphrase) = passphrase else { return write_key(path, key) };
    let log_n = if cfg!(test) { 10 } else { SCRYPT_LOG_N };
    let sealed = SealedKey::seal(key, passphrase, log_n)?;
    if sealed.open(passphrase)?.map(|k| k.id()) != Some(key.id()) {
        return Err(Failure::local(format!("the key for {} could not be opened again after it was sealed", path.display())));
    }
    write_json(path, &sealed)
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
        assert_eq!(read_key(&path, &Passphrases::default()).unwrap().id(), key.id());
        write_private(&path, b"hello").unwrap();
        assert!(read_key(&path, &Passphrases::default()).is_err());
    }

    #[test]
    fn a_sealed_key_opens_with_its_passphrase_alone_and_shows_its_public_half() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pass) = (dir.path().join("k.key"), dir.path().join("pass"));
        let key = new_key().unwrap();
        write_sealed_key(&path, &key, Some(&SecretText::new("correct horse".into()))).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&hex::encode(*key.seed())));
        assert_eq!(public_of(&path).unwrap(), key.public());

        let open = |words: &str| {
            write_private(&pass, words.as_bytes()).unwrap();
            open_key(&path, &Passphrases::new(Some(pass.clone())))
        };
        let opened = open("another one\ncorrect horse\n").unwrap();
        assert_eq!((opened.key.id(), opened.passphrase.unwrap().expose()), (key.id(), "correct horse"));
        assert_eq!(open("wrong horse").err().unwrap().code, "wrong_passphrase");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "nothing is lost by a wrong one");
    }

    #[test]
    fn a_sealed_key_file_that_was_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pass) = (dir.path().join("k.key"), dir.path().join("pass"));
        write_private(&pass, b"correct horse").unwrap();
        write_sealed_key(&path, &new_key().unwrap(), Some(&SecretText::new("correct horse".into()))).unwrap();
        let good: SealedKey = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let other = hex::encode(new_key().unwrap().public());
        type Change = fn(&mut SealedKey, &str);
        let changes: [(Change, &str); 4] = [
            (|k, other| k.public = other.to_owned(), "wrong_passphrase"),
            (|k, _| k.sealed.replace_range(..2, if k.sealed.starts_with("00") { "01" } else { "00" }), "wrong_passphrase"),
            (|k, _| k.log_n = 63, "local_io"),
            (|k, _| k.moorline_sealed_key = 2, "local_io"),
        ];
        for (change, code) in changes {
            let mut bad: SealedKey = serde_json::from_str(&serde_json::to_string(&good).unwrap()).unwrap();
            change(&mut bad, &other);
            write_json(&path, &bad).unwrap();
            assert_eq!(open_key(&path, &Passphrases::new(Some(pass.clone()))).err().unwrap().code, code);
        }
    }
}
