//! `key revoke`: a key counts no more.
//!
//! Run again after it was cut off, or after `--no-resign`, it goes on with what is left to be signed anew.

use clap::Args;
use moorline_common::id::KeyId;
use serde::Serialize;

use super::edit;
use super::narrow;
use super::next::{self, Became, RootArgs};
use crate::cmd::Env;
use crate::cmd::push::WaitArgs;
use crate::crash;
use crate::error::Failure;
use crate::home::public_of;
use crate::render::Ui;
use crate::resign::{self, Held, Resigned};
use crate::signers::Signers;

/// Arguments of `key revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The key: its name, its id, or at least the first eight digits of the id
    #[arg(value_name = "NAME|KEYID")]
    key: String,
    /// Sign nothing anew: hosts whose slices only this key signed keep what they have, and take nothing until a push
    #[arg(long)]
    no_resign: bool,
    /// How the trust root is signed
    #[command(flatten)]
    root: RootArgs,
    /// How the wait goes
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Serialize)]
struct Outcome {
    revoked_key: String,
    name: String,
    root_version: u64,
    /// What stood by the key alone, and was not signed anew.
    frozen: Vec<String>,
    #[serde(flatten)]
    resigned: Resigned,
}

/// Runs it; asks first, as it shows what stands by the key alone.
///
/// # Errors
/// When a role would have too few keys; what signing and handing in can fail with.
pub(super) async fn run(args: RevokeArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let mut client = env.client(ui).await?;
    let id = edit::find(&client.root, &args.key)?;
    let name = client.root.name_of(&id);
    let revoked = client.root.revoked.contains(&id);
    let own = KeyId::of_key(&public_of(&client.context.operator_key_path())?) == id;
    if own && !revoked {
        return Err(Failure::usage(
            "this is this context's own operator key: nothing could be signed after it",
            "replace it with `moorctl key rotate`, or let another operator revoke it",
        ));
    }
    let then = resign::last_root_with(&client, &id)?;
    // What will stand by it alone is known before anything is signed.
    let mut after = next::successor(&client.root);
    if !revoked {
        edit::revoke(&mut after, &id)?;
    }
    let held = resign::roots(&client.under(after.clone()), then.clone()).held(ui).await?;
    if !args.no_resign && !held.is_empty() {
        held.require(&after, &Signers::with(client.context.operator_key()?, &client.context, &after)?).map_err(narrow::too_few)?;
    }
    explain(ui, &name, &held, args.no_resign);
    if !revoked || !(held.is_empty() || args.no_resign) {
        ui.confirm(&question(&name, revoked, &held, args.no_resign))?;
    }
    if !revoked {
        match next::put(&client, ui, &args.root, &after).await? {
            Became::InForce(root) => client.root = root,
            Became::Saved(view) => {
                ui.note("once it is submitted, the same `moorctl key revoke` signs anew what stood by the key alone");
                return next::show(ui, &view);
            }
        }
    }
    crash::point("revoke.root");
    let (mut frozen, mut resigned) = (Vec::new(), Resigned::default());
    if args.no_resign {
        frozen = held.words();
    } else if !held.is_empty() {
        let signers = Signers::of(&client)?;
        let roots = resign::roots(&client, then);
        let held = roots.held(ui).await?;
        resigned = roots.sign(ui, &signers, held, &format!("the key of {name} was revoked")).await?;
    }
    let outcome = Outcome { revoked_key: id.to_string(), name, root_version: client.root.version, frozen, resigned };
    ui.result(&outcome, || words(&outcome))?;
    if let Some(limit) = args.wait.limit() {
        resign::wait(&client, ui, &outcome.resigned, limit).await?;
    }
    Ok(0)
}

fn explain(ui: &mut Ui, name: &str, held: &Held, no_resign: bool) {
    if held.is_empty() {
        ui.note(&format!("nothing stands by the key of `{name}` alone"));
        return;
    }
    let then = if no_resign { "these hosts keep what they have and take nothing new" } else { "these are signed anew as they are" };
    ui.note(&format!("only the key of `{name}` has signed the following; {then}:"));
    for line in held.words() {
        ui.note(&format!("  {line}"));
    }
    if !no_resign {
        ui.note(
            "if the key was stolen, look first whether its holder pushed something: `moorctl history`, `moorctl diff`, or add --no-resign",
        );
    }
}

fn question(name: &str, revoked: bool, held: &Held, no_resign: bool) -> String {
    match (revoked, held.is_empty() || no_resign) {
        (false, true) => format!("Revoke the key of `{name}`?"),
        (false, false) => format!("Revoke the key of `{name}`, and sign the above anew with yours?"),
        (true, _) => "Sign the above anew with your key?".to_owned(),
    }
}

fn words(outcome: &Outcome) -> String {
    let mut text = format!("the key of `{}` is revoked, trust root version {}\n", outcome.name, outcome.root_version);
    for line in &outcome.frozen {
        text.push_str(&format!("  stands still until it is pushed again: {line}\n"));
    }
    text + &resign::words(&outcome.resigned)
}
