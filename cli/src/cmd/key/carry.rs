//! `key sign|submit|export|import`: trust roots as files, from key to key and past a hub that is not to be trusted.
//!
//! All of them read and write one format, which `moorline-agent trust import` reads too: every version, the first one first.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::{TrustRoot, read_chain, write_chain};

use super::next::{self, more_keys, recovery_key};
use crate::client::walk;
use crate::cmd::Env;
use crate::error::Failure;
use crate::home::files;
use crate::render::Ui;

/// Arguments of `key sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The file that `--save` wrote; the signature is added to it
    file: PathBuf,
    /// The recovery key's file [default: the one that `init` made here]
    #[arg(long, value_name = "FILE")]
    recovery_key: Option<PathBuf>,
}

/// Arguments of `key submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The file
    file: PathBuf,
}

/// Arguments of `key export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Where to write it [default: standard output]
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

/// Arguments of `key import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file that `moorctl key export` wrote
    file: PathBuf,
}

fn read(file: &Path) -> Result<Vec<Envelope>, Failure> {
    read_chain(&files::read(file)?).map_err(|f| Failure::from(f).while_doing(file.display()))
}

/// The last root of a file and the one before it. Those before the last are verified among themselves, from their own first.
struct Carried {
    chain: Vec<Envelope>,
    pin: String,
    current: TrustRoot,
    next: TrustRoot,
}

impl Carried {
    fn read(file: &Path) -> Result<Self, Failure> {
        let chain = read(file)?;
        let (Some(first), Some((last, before))) = (chain.first(), chain.split_last().filter(|(_, before)| !before.is_empty())) else {
            let message = format!("{} holds one trust root only, and nothing that follows it", file.display());
            return Err(Failure::from(Fault::new(Code::BadRoot, message)).with_remedy("name the file that `--save` wrote"));
        };
        let pin = TrustRoot::pin(first);
        let current = walk::walk(&pin, before, &[])?.newest;
        let next = Signed::<TrustRoot>::new(last.clone())?.peek()?;
        if next.cluster != current.cluster || next.version != current.version.saturating_add(1) {
            let message = format!("{}: its last trust root does not follow the one before it", file.display());
            return Err(Fault::new(Code::BadRoot, message).into());
        }
        next.check()?;
        Ok(Self { pin, current, next, chain })
    }
}

/// Adds a signature, after showing what is signed. The pin of the first version is what an operator compares when this
/// machine has no context to check it by.
pub(super) fn sign(args: SignArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let mut carried = Carried::read(&args.file)?;
    let context = env.home.context(env.context.as_deref()).ok().filter(|c| c.facts.cluster == carried.current.cluster);
    if let Some(context) = &context {
        walk::walk(&context.facts.root_pin, &context.roots()?, carried.chain.get(..carried.chain.len() - 1).unwrap_or_default())?;
    }
    let file = match (args.recovery_key, &context) {
        (Some(file), _) => file,
        (None, Some(context)) => context.dir().join("recovery.key"),
        (None, None) => return Err(Failure::usage("this machine has no recovery key", "name its file with --recovery-key FILE")),
    };
    ui.note(&format!("cluster {}, first trust root {}", carried.current.cluster, carried.pin));
    let checked = if context.is_some() { "as this machine knows it" } else { "compare it with what `moorctl init` printed" };
    ui.note(&format!("({checked}); version {} changes:", carried.next.version));
    for line in carried.current.changes_to(&carried.next, next::when) {
        ui.note(&format!("  {line}"));
    }
    ui.confirm(&format!("Sign trust root version {}?", carried.next.version))?;
    let key = recovery_key(&[&carried.current, &carried.next], &file, &env.home.passphrases)?;
    if let Some(last) = carried.chain.last_mut() {
        last.add_signature(&key);
        ui.note(&next::missing(&carried.current, &carried.next, last, &args.file));
    }
    files::write_private(&args.file, &write_chain(&carried.chain))?;
    ui.result(&next::view(&carried.next), || format!("signed trust root version {} in {}\n", carried.next.version, args.file.display()))?;
    Ok(0)
}

/// Hands in every version of the file that the hub lacks.
pub(super) async fn submit(args: SubmitArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let chain = read(&args.file)?;
    let mut client = env.client(ui).await?;
    let known = client.facts.roots.len();
    let walked = walk::walk(&client.context.facts.root_pin, &client.context.roots()?, &chain).map_err(more_keys)?;
    for envelope in walked.chain.iter().skip(known) {
        client.put_root(envelope).await?;
    }
    client.context.save_roots(&walked.chain)?;
    client.root = walked.newest;
    next::show(ui, &next::view(&client.root))
}

/// Writes the chain that this machine has verified.
pub(super) fn export(args: ExportArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let context = env.home.context(env.context.as_deref())?;
    let walked = walk::walk(&context.facts.root_pin, &context.roots()?, &[])?;
    let bytes = write_chain(&walked.chain);
    match &args.root {
        // Roots are no secret, but who can change the file decides what is imported elsewhere.
        Some(file) => files::write_private(file, &bytes)?,
        None => std::io::stdout().lock().write_all(&bytes)?,
    }
    let to = args.root.as_ref().map_or_else(|| "standard output".to_owned(), |f| f.display().to_string());
    ui.note(&format!(
        "wrote {} version(s) of the trust root to {to}; any verb that asks the hub fetches newer ones first",
        walked.chain.len()
    ));
    Ok(0)
}

/// Follows the file from what this machine has verified.
pub(super) fn import(args: ImportArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let chain = read(&args.file)?;
    let context = env.home.context(env.context.as_deref())?;
    let walked = walk::walk(&context.facts.root_pin, &context.roots()?, &chain).map_err(more_keys)?;
    context.save_roots(&walked.chain)?;
    next::show(ui, &next::view(&walked.newest))
}
