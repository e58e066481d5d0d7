//! `key rotate`: a new key in the place of this operator's own.
//!
//! The steps can be cut off anywhere and are gone on with by running it again. How far it is shows in what is there, not in
//! a counter that could lag behind:
//!
//! | what is there | what is left to do |
//! |---|---|
//! | `operator.key` alone | make `operator.key.next`, then `rotation.json` with both ids |
//! | the trust root does not list the new key | sign and hand in the next root |
//! | bindings or revisions that only the old key signed | sign them anew with the new key |
//! | `operator.key` is the old one | put it aside, then the new one in its place |
//! | `operator.key` is the new one | remove `rotation.json` |

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::KeyId;
use serde::{Deserialize, Serialize};

use super::edit;
use super::next::{self, Became, RootArgs};
use crate::client::Client;
use crate::cmd::Env;
use crate::cmd::push::WaitArgs;
use crate::crash;
use crate::error::Failure;
use crate::home::{Context, files, new_key, open_key, public_of, read_key, write_sealed_key};
use crate::render::Ui;
use crate::resign::{self, Resigned};
use crate::signers::Signers;

/// Arguments of `key rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    /// How the trust root is signed
    #[command(flatten)]
    root: RootArgs,
    /// How the wait goes
    #[command(flatten)]
    wait: WaitArgs,
}

/// The content of `rotation.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// The key that is replaced.
    old: KeyId,
    /// The key that replaces it.
    new: KeyId,
}

#[derive(Serialize)]
struct Outcome {
    old_key: String,
    new_key: String,
    root_version: u64,
    #[serde(flatten)]
    resigned: Resigned,
    /// Where the old key was put.
    aside: PathBuf,
}

/// The files of a rotation.
struct Files {
    key: PathBuf,
    next: PathBuf,
    state: PathBuf,
}

impl Files {
    fn of(context: &Context) -> Self {
        Self { key: context.operator_key_path(), next: context.dir().join("operator.key.next"), state: context.rotation_path() }
    }

    fn aside(&self, old: &KeyId) -> PathBuf {
        self.key.with_file_name(format!("operator.key.old-{}", old.as_str().get(..12).unwrap_or_default()))
    }

    /// The rotation under way, if there is one.
    fn rotation(&self) -> Result<Option<Rotation>, Failure> {
        files::read_json(&self.state)
    }

    /// Makes the new key, sealed as the old one is, and notes both.
    fn begin(&self, context: &Context) -> Result<Rotation, Failure> {
        let old = open_key(&self.key, &context.passphrases)?;
        let new = new_key()?;
        // A key of an earlier try that was never noted is in no trust root.
        write_sealed_key(&self.next, &new, old.passphrase.as_ref())?;
        crash::point("rotate.key");
        let rotation = Rotation { old: old.key.id(), new: new.id() };
        files::write_json(&self.state, &rotation)?;
        crash::point("rotate.begun");
        Ok(rotation)
    }

    /// Puts the old key aside and the new one in its place.
    fn swap(&self, rotation: &Rotation) -> Result<PathBuf, Failure> {
        let aside = self.aside(&rotation.old);
        if KeyId::of_key(&public_of(&self.key)?) != rotation.new {
            if !aside.exists() {
                // A second name for the same file: there is no moment without the key.
                fs::hard_link(&self.key, &aside).map_err(|e| Failure::file("write", &aside, &e))?;
                sync(&aside)?;
            }
            crash::point("rotate.aside");
            fs::rename(&self.next, &self.key).map_err(|e| Failure::file("write", &self.key, &e))?;
            sync(&self.key)?;
        }
        crash::point("rotate.swapped");
        fs::remove_file(&self.state).map_err(|e| Failure::file("remove", &self.state, &e))?;
        Ok(aside)
    }
}

/// Makes the names in a file's folder durable.
fn sync(file: &Path) -> Result<(), Failure> {
    let folder = crate::home::files::folder_of(file);
    fs::File::open(folder).and_then(|f| f.sync_all()).map_err(|e| Failure::file("write", folder, &e))
}

/// Runs it, from wherever an earlier run was cut off.
///
/// # Errors
/// What a step failed with; running it again goes on from there.
pub(super) async fn run(args: RotateArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let mut client = env.client(ui).await?;
    let files = Files::of(&client.context);
    let rotation = match files.rotation()? {
        Some(rotation) => {
            ui.note("going on with the rotation that was begun before");
            rotation
        }
        None => {
            let own = KeyId::of_key(&public_of(&files.key)?);
            require_member(&client, &own)?;
            require_signers(&client, ui, &own).await?;
            files.begin(&client.context)?
        }
    };
    let swapped = KeyId::of_key(&public_of(&files.key)?) == rotation.new;
    let key_file = if swapped { &files.key } else { &files.next };
    if !client.root.keys.contains_key(&rotation.new) {
        let public = public_of(key_file)?;
        if KeyId::of_key(&public) != rotation.new {
            let message = format!("{} is not the key that {} names", key_file.display(), files.state.display());
            return Err(Failure::local(message)
                .with_remedy("no trust root lists the new key: remove both files, and run `moorctl key rotate` again"));
        }
        match next::make(&client, ui, &args.root, |root| edit::replace(root, &rotation.old, public)).await? {
            Became::InForce(root) => client.root = root,
            Became::Saved(view) => {
                ui.note("once it is submitted, `moorctl key rotate` goes on");
                return next::show(ui, &view);
            }
        }
    }
    crash::point("rotate.root");
    let own = read_key(key_file, &client.context.passphrases)?;
    let signers = Signers::with(own, &client.context, &client.root)?;
    let roots = resign::roots(&client, resign::last_root_with(&client, &rotation.old)?);
    let held = roots.held(ui).await?;
    let resigned = roots.sign(ui, &signers, held, "the operator's key was replaced").await?;
    crash::point("rotate.resigned");
    let aside = files.swap(&rotation)?;
    let outcome = Outcome {
        old_key: rotation.old.to_string(),
        new_key: rotation.new.to_string(),
        root_version: client.root.version,
        resigned,
        aside,
    };
    ui.result(&outcome, || words(&outcome))?;
    if let Some(limit) = args.wait.limit() {
        resign::wait(&client, ui, &outcome.resigned, limit).await?;
    }
    Ok(0)
}

/// What only keys that count no more would have signed must be signed anew: whether the keys that are here are enough for it is
/// known before a key is made, as the new one takes the place of the old one.
async fn require_signers(client: &Client, ui: &mut Ui, own: &KeyId) -> Result<(), Failure> {
    let mut after = next::successor(&client.root);
    edit::replace(&mut after, own, new_key()?.public())?;
    let held = resign::roots(&client.under(after), client.root.clone()).held(ui).await?;
    if held.is_empty() {
        return Ok(());
    }
    held.require(&client.root, &Signers::of(client)?)
        .map_err(|f| Failure::from(f).with_remedy("name the other operators' key files with --sign-with FILE; nothing was made"))
}

/// A key that counts for nothing cannot be replaced by itself.
fn require_member(client: &Client, id: &KeyId) -> Result<(), Failure> {
    if client.root.keys.contains_key(id) && !client.root.revoked.contains(id) {
        return Ok(());
    }
    let (code, what) = match client.root.revoked.contains(id) {
        true => (Code::RevokedKey, "was revoked"),
        false => (Code::UnknownKey, "is not in the trust root"),
    };
    let message = format!("this context's operator key {what}; nothing was made");
    Err(Failure::from(Fault::new(code, message))
        .with_remedy("make a new key with `moorctl key new`, and let another operator add it with `moorctl key add`"))
}

fn words(outcome: &Outcome) -> String {
    let short = |id: &str| id.get(..12).unwrap_or_default().to_owned();
    format!(
        "rotated: key {} in the place of {}, trust root version {}\n{}  the old key counts no more; its file is {}\n",
        short(&outcome.new_key),
        short(&outcome.old_key),
        outcome.root_version,
        resign::words(&outcome.resigned),
        outcome.aside.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::{ContextFacts, Home, Passphrases, SecretText};
    use moorline_common::id::ClusterId;

    fn context(dir: &Path) -> Context {
        let mut home = Home::open(Some(dir.to_owned())).unwrap();
        let pass = dir.join("pass");
        files::write_private(&pass, b"correct horse").unwrap();
        home.passphrases = Passphrases::new(Some(pass));
        let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: "00".into() };
        home.store_context("acme", facts, b"{}").unwrap()
    }

    #[test]
    fn a_new_key_is_sealed_as_the_old_one_and_takes_its_place_without_a_moment_between() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let files = Files::of(&context);
        let old = new_key().unwrap();
        write_sealed_key(&files.key, &old, Some(&SecretText::new("correct horse".into()))).unwrap();
        let rotation = files.begin(&context).unwrap();
        assert_eq!(files.rotation().unwrap(), Some(rotation.clone()));
        let next = open_key(&files.next, &context.passphrases).unwrap();
        assert!(next.passphrase.is_some() && next.key.id() == rotation.new && rotation.old == old.id());

        // Cut off between the two names.
        fs::hard_link(&files.key, files.aside(&rotation.old)).unwrap();
        let aside = files.swap(&rotation).unwrap();
        assert_eq!(read_key(&aside, &context.passphrases).unwrap().id(), old.id());
        assert_eq!(context.operator_key().unwrap().id(), rotation.new);
        assert!(!files.next.exists() && !files.state.exists());
        // Cut off before the note was removed.
        files::write_json(&files.state, &rotation).unwrap();
        files.swap(&rotation).unwrap();
        assert_eq!(context.operator_key().unwrap().id(), rotation.new);
    }
}
