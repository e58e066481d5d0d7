//! `moorctl key`: operator keys. The private half never leaves this machine.

use std::path::PathBuf;

use clap::Subcommand;
use moorline_common::sign::OperatorKey;
use serde::Serialize;

use super::Env;
use crate::error::Failure;
use crate::home::{new_key, read_key, write_key};
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
pub fn run(verb: KeyVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let (key, file) = match verb {
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
                "made {}; give the line below to the operator who runs `moorctl init --add-operator {name}=…`",
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

fn view(key: &OperatorKey, file: PathBuf) -> KeyView {
    KeyView { key_id: key.id().to_string(), public: hex::encode(key.public()), file }
}
