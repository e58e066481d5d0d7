//! The keys that sign what an operator says: this operator's own, and those of others that `--sign-with` names.
//!
//! Where a role asks for more than one key, every statement must bear that many signatures: slices, bindings and orders alike.

use std::path::Path;

use moorline_common::fault::{Code, Fault};
use moorline_common::sign::{PrivateKey, Signed, Statement};
use moorline_common::trust::TrustRoot;

use crate::client::Client;
use crate::error::Failure;
use crate::home::{Context, read_key};

/// See the module.
pub struct Signers(Vec<PrivateKey>);

impl From<PrivateKey> for Signers {
    fn from(key: PrivateKey) -> Self {
        Self(vec![key])
    }
}

impl Signers {
    /// `own`, and the keys that were named besides it.
    ///
    /// # Errors
    /// When a key cannot be read; [`Code::UnknownKey`] or [`Code::RevokedKey`] for one that does not count by `root`: its
    /// signature would help nobody.
    pub fn with(own: PrivateKey, context: &Context, root: &TrustRoot) -> Result<Self, Failure> {
        let mut keys = vec![own];
        for file in &context.sign_with {
            let key = read_key(file, &context.passphrases)?;
            require_known(root, &key, file)?;
            if keys.iter().all(|known| known.id() != key.id()) {
                keys.push(key);
            }
        }
        Ok(Self(keys))
    }

    /// The keys of the client's context.
    ///
    /// # Errors
    /// As [`Self::with`].
    pub fn of(client: &Client) -> Result<Self, Failure> {
        Self::with(client.context.operator_key()?, &client.context, &client.root)
    }

    /// Signs a statement with all of them.
    ///
    /// # Errors
    /// When it has no canonical form.
    pub fn seal<T: Statement>(&self, statement: &T) -> Result<Signed<T>, Fault> {
        Signed::seal(statement, &self.0.iter().collect::<Vec<_>>())
    }

    /// Each of them.
    pub fn keys(&self) -> impl Iterator<Item = &PrivateKey> {
        self.0.iter()
    }
}

fn require_known(root: &TrustRoot, key: &PrivateKey, file: &Path) -> Result<(), Failure> {
    let id = key.id();
    let (code, why) = match (root.keys.contains_key(&id), root.revoked.contains(&id)) {
        (true, false) => return Ok(()),
        (_, true) => (Code::RevokedKey, "was revoked"),
        (false, false) => (Code::UnknownKey, "is not in the trust root"),
    };
    let message = format!("{}: this key {why}; nothing was signed", file.display());
    Err(Failure::from(Fault::new(code, message)).with_remedy("name the key file of an operator who stands in `moorctl key ls`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::{ContextFacts, Home, write_key};
    use crate::revision::tests::{keys, trust};
    use moorline_common::id::ClusterId;

    #[test]
    fn each_named_key_signs_once_and_none_that_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut home = Home::open(Some(dir.path().to_owned())).unwrap();
        let file = |name: &str, key: &PrivateKey| {
            let path = dir.path().join(name);
            write_key(&path, key).unwrap();
            path
        };
        let (recovery, own) = keys();
        home.sign_with = vec![file("own", &own), file("recovery", &recovery)];
        let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: String::new() };
        let mut context = home.store_context("acme", facts, b"{}").unwrap();
        let signers = Signers::with(keys().1, &context, &trust()).unwrap();
        assert_eq!(signers.keys().map(PrivateKey::id).collect::<Vec<_>>(), [own.id(), recovery.id()]);
        let mut root = trust();
        root.revoked.insert(recovery.id());
        assert!(Signers::with(keys().1, &context, &root).err().unwrap().is(Code::RevokedKey));
        context.sign_with = vec![file("stranger", &PrivateKey::from_seed(&[9; 32]))];
        let refused = Signers::with(keys().1, &context, &trust()).err().unwrap();
        assert!(refused.is(Code::UnknownKey) && refused.message.contains("stranger"), "{refused:?}");
    }
}
