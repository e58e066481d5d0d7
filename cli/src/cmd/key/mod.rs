//! `moorctl key`: operator keys and the trust root. The private half of a key never leaves its machine.

use clap::Subcommand;

use super::Env;
use crate::error::Failure;
use crate::render::Ui;

mod carry;
mod edit;
mod file;
mod narrow;
mod next;
mod revoke;
mod role;
mod rotate;

/// Verbs of `key`.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Make a key for an operator who is not in the trust root yet, and print its public half
    New(file::NewArgs),
    /// Print the public half of this context's operator key, or of a key file
    Show(file::ShowArgs),
    /// Seal a key file with a passphrase, or with another one
    Encrypt(file::EncryptArgs),
    /// Take the passphrase off a key file
    Decrypt(file::DecryptArgs),
    /// Show the trust root: whose signatures count, and for what
    Ls,
    /// Put another operator's key into the trust root: signs its next version with the recovery key
    Add(role::AddArgs),
    /// Replace this operator's own key by a new one, and sign anew what only the old one had signed
    Rotate(rotate::RotateArgs),
    /// Let a key count no more, and sign anew what only it had signed
    Revoke(revoke::RevokeArgs),
    /// Say how many keys of a role must sign, or how many any operation of a class needs
    Threshold(role::ThresholdArgs),
    /// Say which keys may sign what, and for which hosts
    #[command(subcommand)]
    Role(role::RoleVerb),
    /// Sign anew what stood under an earlier trust root and stands no more, with your key and those of --sign-with
    Resign(narrow::ResignArgs),
    /// Make the trust root valid for another year: signs its next version with the recovery key
    Renew(role::RenewArgs),
    /// Add a recovery key's signature to a trust root that `--save` wrote; needs no hub
    Sign(carry::SignArgs),
    /// Hand in a trust root that has all its signatures
    Submit(carry::SubmitArgs),
    /// Write every version of the trust root, for hosts and operators whose hub is not to be trusted
    Export(carry::ExportArgs),
    /// Follow the trust roots in a file that `key export` wrote; needs no hub
    Import(carry::ImportArgs),
}

/// Runs one of them. The table form of `new` and `show` prints the public key alone, ready to be passed on.
///
/// # Errors
/// What the verb failed with.
pub async fn run(verb: KeyVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        KeyVerb::New(args) => file::new(args, env, ui),
        KeyVerb::Show(args) => file::show(args, env, ui),
        KeyVerb::Encrypt(args) => file::encrypt(args, env, ui),
        KeyVerb::Decrypt(args) => file::decrypt(args, env, ui),
        KeyVerb::Ls => role::ls(env, ui).await,
        KeyVerb::Add(args) => role::add(args, env, ui).await,
        KeyVerb::Rotate(args) => rotate::run(args, env, ui).await,
        KeyVerb::Revoke(args) => revoke::run(args, env, ui).await,
        KeyVerb::Threshold(args) => role::threshold(args, env, ui).await,
        KeyVerb::Role(verb) => role::run(verb, env, ui).await,
        KeyVerb::Resign(args) => narrow::resign(args, env, ui).await,
        KeyVerb::Renew(args) => role::renew(args, env, ui).await,
        KeyVerb::Sign(args) => carry::sign(args, env, ui),
        KeyVerb::Submit(args) => carry::submit(args, env, ui).await,
        KeyVerb::Export(args) => carry::export(args, env, ui),
        KeyVerb::Import(args) => carry::import(args, env, ui),
    }
}
