//! `key new|show|encrypt|decrypt`: key files.

use std::path::PathBuf;

use clap::Args;
use moorline_common::id::KeyId;
use serde::Serialize;

use crate::cmd::Env;
use crate::error::Failure;
use crate::home::{Passphrases, new_key, open_key, public_of, write_key, write_sealed_key};
use crate::render::Ui;

/// Arguments of `key new`.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Whose it is; also the file's name
    #[arg(default_value = "operator")]
    name: String,
    /// Seal the file with a passphrase
    #[arg(long)]
    passphrase: bool,
}

/// Arguments of `key show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A key file instead of the context's
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Arguments of `key encrypt`.
#[derive(Debug, Args)]
pub struct EncryptArgs {
    /// A key file instead of the context's operator key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// A file with the new passphrase [default: --passphrase-file for a key that has none yet, else ask]
    #[arg(long, value_name = "FILE")]
    new_passphrase_file: Option<PathBuf>,
}

/// Arguments of `key decrypt`.
#[derive(Debug, Args)]
pub struct DecryptArgs {
    /// A key file instead of the context's operator key
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Serialize)]
struct KeyView {
    key_id: String,
    public: String,
    file: PathBuf,
}

impl KeyView {
    fn new(public: [u8; 32], file: PathBuf) -> Self {
        Self { key_id: KeyId::of_key(&public).to_string(), public: hex::encode(public), file }
    }
}

/// The named file, or the context's operator key.
fn chosen(file: Option<PathBuf>, env: &Env) -> Result<PathBuf, Failure> {
    match file {
        Some(file) => Ok(file),
        None => Ok(env.home.context(env.context.as_deref())?.operator_key_path()),
    }
}

pub(super) fn new(args: NewArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = args.name;
    // The rules for a context's name are those for a file's.
    env.home.context_dir(&name)?;
    let file = env.home.spare_key_path(&name);
    if file.exists() {
        return Err(Failure::usage(
            format!("{} exists already", file.display()),
            "choose another name, or print it with `moorctl key show --key FILE`",
        ));
    }
    let passphrase = args.passphrase.then(|| env.home.passphrases.new_for(&file)).transpose()?;
    let key = new_key()?;
    write_sealed_key(&file, &key, passphrase.as_ref())?;
    ui.note(&format!(
        "made {}; give the line below to the operator who runs `moorctl init --add-operator {name}=…` or `moorctl key add {name}=…`",
        file.display()
    ));
    let view = KeyView::new(key.public(), file);
    ui.result(&view, || format!("{}\n", view.public))?;
    Ok(0)
}

pub(super) fn show(args: ShowArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let file = chosen(args.key, env)?;
    let view = KeyView::new(public_of(&file)?, file);
    ui.result(&view, || format!("{}\n", view.public))?;
    Ok(0)
}

pub(super) fn encrypt(args: EncryptArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let file = chosen(args.key, env)?;
    let opened = open_key(&file, &env.home.passphrases)?;
    let source = match (args.new_passphrase_file, &opened.passphrase) {
        (Some(file), _) => Passphrases::new(Some(file)),
        (None, None) => env.home.passphrases.clone(),
        // The file that was named holds the old one.
        (None, Some(_)) => Passphrases::default(),
    };
    let passphrase = source.new_for(&file)?;
    write_sealed_key(&file, &opened.key, Some(&passphrase))?;
    done(ui, KeyView::new(opened.key.public(), file), "sealed with its passphrase")
}

pub(super) fn decrypt(args: DecryptArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let file = chosen(args.key, env)?;
    let opened = open_key(&file, &env.home.passphrases)?;
    if opened.passphrase.is_some() {
        write_key(&file, &opened.key)?;
    }
    done(ui, KeyView::new(opened.key.public(), file), "not sealed: whoever reads the file has the key")
}

fn done(ui: &mut Ui, view: KeyView, what: &str) -> Result<u8, Failure> {
    ui.result(&view, || format!("{} is now {what}\n", view.file.display()))?;
    Ok(0)
}
