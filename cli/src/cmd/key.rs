//! `moorctl key`: operator keys. The private half never leaves this machine.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::KeyId;
use moorline_common::sign::{PrivateKey, Signed};
use moorline_common::trust::{OPERATOR_ROLE, ROOT_ROLE, RootKey, TrustRoot};
use serde::Serialize;

use super::Env;
use super::init::parse_operator;
use crate::client::require_fair_clock;
use crate::clock;
use crate::error::Failure;
use crate::home::{new_key, read_key, write_key};
use crate::limits::ROOT_LIFE_S;
use crate::render::Ui;

/// Verbs of `key`.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make a key for an operator who is not in the trust root yet, and print its public half
    New {
        /// Whose it is; also the file's name
        #[arg(default_value = "operator")]
        name: String,
    },
    /// Print the public half of this context's operator key, or of a key file
    Show {
        /// A key file instead of the context's
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Put another operator's key into the trust root: signs its next version with the recovery key
    Add {
        /// The operator's name and the key that `moorctl key new` printed there
        #[arg(value_name = "NAME=PUBKEYHEX", value_parser = parse_operator)]
        operator: (String, [u8; 32]),
        /// How to sign it
        #[command(flatten)]
        recovery: RecoveryArgs,
    },
    /// Make the trust root valid for another year: signs its next version with the recovery key
    Renew {
        /// How to sign it
        #[command(flatten)]
        recovery: RecoveryArgs,
    },
}

/// Where the key of the `root` role is.
#[derive(Debug, Args)]
pub struct RecoveryArgs {
    /// The recovery key's file, from its offline media [default: the one that `init` made here]
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Option<PathBuf>,
}

#[derive(Serialize)]
struct RootView {
    version: u64,
    expires: String,
    /// Operators by name.
    operators: Vec<String>,
}

#[derive(Serialize)]
struct KeyView {
    key_id: String,
    public: String,
    file: PathBuf,
}

/// Runs one of them. The table form prints the public key alone, ready to be passed on.
///
/// # Errors
/// When a file cannot be read or written.
pub async fn run(verb: KeyVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let (key, file) = match verb {
        KeyVerb::Add { operator: (name, public), recovery } => {
            let added = (KeyId::of_key(&public), RootKey { name, public });
            return next_root(env, ui, recovery.recovery_key, Some(added)).await;
        }
        KeyVerb::Renew { recovery } => return next_root(env, ui, recovery.recovery_key, None).await,
        KeyVerb::New { name } => {
            // The rules for a context's name are those for a file's.
            env.home.context_dir(&name)?;
            let file = env.home.spare_key_path(&name);
            if file.exists() {
                return Err(Failure::usage(
                    format!("{} exists already", file.display()),
                    "choose another name, or print it with `moorctl key show --key FILE`",
                ));
            }
            let key = new_key()?;
            write_key(&file, &key)?;
            ui.note(&format!(
                "made {}; give the line below to the operator who runs `moorctl init --add-operator {name}=…` or `moorctl key add {name}=…`",
                file.display()
            ));
            (key, file)
        }
        KeyVerb::Show { key: Some(file) } => (read_key(&file)?, file),
        KeyVerb::Show { key: None } => {
            let context = env.home.context(env.context.as_deref())?;
            (context.operator_key()?, context.dir().join("operator.key"))
        }
    };
    let view = view(&key, file);
    ui.result(&view, || format!("{}\n", view.public))?;
    Ok(0)
}

/// Signs and hands in the next version of the trust root.
async fn next_root(env: &Env, ui: &mut Ui, recovery: Option<PathBuf>, added: Option<(KeyId, RootKey)>) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    require_fair_clock(client.facts.clock_offset_ms, client.accept_clock)?;
    let file = recovery.unwrap_or_else(|| client.context.dir().join("recovery.key"));
    let key = recovery_key(&client.root, &file)?;
    let now = clock::now();
    let mut root = client.root.clone();
    root.version += 1;
    root.issued_at = now;
    root.expires = now.plus(ROOT_LIFE_S);
    if let Some((id, operator)) = added {
        add(&mut root, id, operator)?;
    }
    let signed = Signed::seal(&root, &[&key])?;
    let root = client.put_next_root(signed.envelope()).await?;
    let operators = root.roles.get(OPERATOR_ROLE).into_iter().flat_map(|r| &r.keys).filter_map(|id| root.keys.get(id));
    let view = RootView {
        version: root.version,
        expires: clock::rfc3339(root.expires.0.saturating_mul(1000)),
        operators: operators.map(|k| k.name.clone()).collect(),
    };
    ui.result(&view, || {
        format!("trust root version {}, expires {}, operators: {}\n", view.version, view.expires, view.operators.join(", "))
    })?;
    Ok(0)
}

/// Reads the key that signs trust roots.
fn recovery_key(root: &TrustRoot, file: &Path) -> Result<PrivateKey, Failure> {
    let pass = "pass the recovery key with `--recovery-key FILE`";
    if !file.exists() {
        let message = format!("the recovery key's file {} does not exist", file.display());
        return Err(Failure::local(message).with_remedy(format!("{pass}: `moorctl init` made it, and it belongs on offline media")));
    }
    let key = read_key(file)?;
    if root.roles.get(ROOT_ROLE).is_none_or(|role| !role.keys.contains(&key.id())) {
        let message = format!("{}: this is not a key of the role `{ROOT_ROLE}`; nothing was signed", file.display());
        return Err(Failure::from(Fault::new(Code::UnknownKey, message)).with_remedy(pass));
    }
    Ok(key)
}

/// Puts an operator's key into the trust root.
fn add(root: &mut TrustRoot, id: KeyId, operator: RootKey) -> Result<(), Failure> {
    if root.revoked.contains(&id) {
        return Err(Fault::new(Code::RevokedKey, format!("the key of `{}` was revoked before", operator.name)).into());
    }
    if let Some(held) = root.keys.get(&id) {
        let message = format!("this key is in the trust root already, as `{}`; nothing was signed", held.name);
        return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("check that the key is the one that was meant"));
    }
    let role = root
        .roles
        .get_mut(OPERATOR_ROLE)
        .ok_or_else(|| Fault::new(Code::BadRoot, format!("the trust root has no role `{OPERATOR_ROLE}`")))?;
    role.keys.insert(id.clone());
    root.keys.insert(id, operator);
    Ok(())
}

fn view(key: &PrivateKey, file: PathBuf) -> KeyView {
    KeyView { key_id: key.id().to_string(), public: hex::encode(key.public()), file }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::{keys, trust};

    #[test]
    fn only_a_key_of_the_root_role_signs_a_trust_root_and_the_option_that_names_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("recovery.key");
        let failure = recovery_key(&trust(), &file).err().unwrap();
        assert!(failure.code == "local_io" && failure.remedy.contains("--recovery-key FILE"), "{failure:?}");
        write_key(&file, &keys().1).unwrap();
        let failure = recovery_key(&trust(), &file).err().unwrap();
        assert!(failure.is(Code::UnknownKey) && failure.message.contains("role `root`"), "{failure:?}");
        assert!(failure.remedy.contains("--recovery-key FILE"), "{failure:?}");
        write_key(&file, &keys().0).unwrap();
        assert_eq!(recovery_key(&trust(), &file).unwrap().id(), keys().0.id());
    }

    #[test]
    fn a_key_is_added_once_and_never_renamed() {
        let mut root = trust();
        let named = |name: &str, key: &PrivateKey| (key.id(), RootKey { name: name.to_owned(), public: key.public() });
        let (id, bob) = named("bob", &PrivateKey::from_seed(&[9; 32]));
        add(&mut root, id.clone(), bob).unwrap();
        assert!(root.roles[OPERATOR_ROLE].keys.contains(&id));
        for (id, again) in [named("eve", &PrivateKey::from_seed(&[9; 32])), named("eve", &keys().0)] {
            let before = root.clone();
            assert_eq!(add(&mut root, id, again).unwrap_err().code, "already_exists");
            assert_eq!(root, before);
        }
    }
}
