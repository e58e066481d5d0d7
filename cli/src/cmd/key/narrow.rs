//! Changes of roles, and `key resign`: what fewer keys have signed than count from now on is signed anew.
//!
//! A host whose binding or slice no longer stands keeps what it has and takes nothing new. So what a change would take the
//! ground from is found before anything is signed, and signed anew with all the keys that are here once the change is in force.

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::trust::{ROOT_ROLE, TrustRoot};
use serde::Serialize;

use super::next::{self, Became, RootArgs, RootView};
use crate::client::{Client, walk};
use crate::cmd::Env;
use crate::cmd::push::WaitArgs;
use crate::error::Failure;
use crate::render::Ui;
use crate::resign::{self, Held, Resigned};
use crate::signers::Signers;

/// How a change of roles is signed, and what it takes the ground from.
#[derive(Debug, Args)]
pub struct NarrowArgs {
    /// Sign nothing anew: hosts whose slices too few keys have signed keep what they have, and take nothing until
    /// `moorctl key resign`
    #[arg(long)]
    no_resign: bool,
    /// How the trust root is signed
    #[command(flatten)]
    root: RootArgs,
}

/// Arguments of `key resign`.
#[derive(Debug, Args)]
pub struct ResignArgs {
    /// The version of the trust root under which it stood [default: the one before the newest]
    #[arg(long, value_name = "VERSION")]
    root: Option<u64>,
    /// How the wait goes
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    root: RootView,
    /// What stands no more, and was not signed anew.
    frozen: Vec<String>,
    #[serde(flatten)]
    resigned: Resigned,
}

/// Makes the next version of the trust root, changed by `change`, and signs anew what it takes the ground from.
///
/// # Errors
/// [`Code::ThresholdNotMet`] when the keys that are here cannot sign that; what making a root can fail with.
pub(super) async fn run(
    mut client: Client,
    ui: &mut Ui,
    args: &NarrowArgs,
    change: impl FnOnce(&mut TrustRoot) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let then = client.root.clone();
    let mut after = next::successor(&then);
    change(&mut after)?;
    let held = match narrows(&then, &after) && after.check().is_ok() {
        true => resign::roots(&client.under(after.clone()), then.clone()).held(ui).await?,
        false => Held::default(),
    };
    if !held.is_empty() {
        if !args.no_resign {
            held.require(&after, &Signers::with(client.context.operator_key()?, &client.context, &after)?).map_err(too_few)?;
        }
        explain(ui, &held, args.no_resign);
        ui.confirm(if args.no_resign { "Let the above stand still?" } else { "Sign the above anew?" })?;
    }
    let view = match next::put(&client, ui, &args.root, &after).await? {
        Became::InForce(root) => {
            client.root = root;
            next::view(&client.root)
        }
        Became::Saved(view) => {
            if !held.is_empty() {
                ui.note("once it is submitted, `moorctl key resign` signs the above anew");
            }
            return next::show(ui, &view);
        }
    };
    let mut outcome = Outcome { root: view, frozen: Vec::new(), resigned: Resigned::default() };
    if args.no_resign {
        outcome.frozen = held.words();
    } else if !held.is_empty() {
        let version = then.version;
        outcome.resigned = sign(&client, ui, then).await.map_err(|f| {
            let remedy = format!("{}; then go on with `moorctl key resign --root {version}`", f.remedy);
            f.while_doing("the trust root is in force, and what no longer stands is not all signed anew").with_remedy(remedy)
        })?;
    }
    ui.result(&outcome, || words(&outcome))?;
    Ok(0)
}

async fn sign(client: &Client, ui: &mut Ui, then: TrustRoot) -> Result<Resigned, Failure> {
    let signers = Signers::of(client)?;
    let roots = resign::roots(client, then);
    let held = roots.held(ui).await?;
    roots.sign(ui, &signers, held, "other keys must sign").await
}

/// Signs anew what stood under an earlier version of the trust root and stands no more.
///
/// # Errors
/// [`Code::NotFound`] for a version that there is not; [`Code::ThresholdNotMet`]; what signing and handing in can fail with.
pub(super) async fn resign(args: ResignArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let version = args.root.unwrap_or_else(|| client.root.version.saturating_sub(1));
    let versions = walk::versions(&client.context.facts.root_pin, &client.context.roots()?)?;
    let then = versions.into_iter().find(|root| root.version == version && version < client.root.version).ok_or_else(|| {
        let message = format!("the trust root has no version {version} before the one in force, {}", client.root.version);
        Failure::from(Fault::new(Code::NotFound, message)).with_remedy("name an earlier version with --root VERSION")
    })?;
    let signers = Signers::of(&client)?;
    let roots = resign::roots(&client, then);
    let held = roots.held(ui).await?;
    let mut resigned = Resigned::default();
    if !held.is_empty() {
        held.require(&client.root, &signers).map_err(too_few)?;
        explain(ui, &held, false);
        ui.confirm("Sign the above anew?")?;
        resigned = roots.sign(ui, &signers, held, "signed anew").await?;
    }
    ui.result(&resigned, || match (resigned.hosts.is_empty(), resigned.revisions.is_empty()) {
        (true, true) => format!("all that stood under trust root version {version} stands\n"),
        _ => resign::words(&resigned),
    })?;
    if let Some(limit) = args.wait.limit() {
        resign::wait(&client, ui, &resigned, limit).await?;
    }
    Ok(0)
}

/// Whether what was signed under `old` may stand no more under `new`.
fn narrows(old: &TrustRoot, new: &TrustRoot) -> bool {
    old.roles.iter().filter(|(name, _)| *name != ROOT_ROLE).any(|(name, was)| {
        new.roles.get(name).is_none_or(|is| {
            is.threshold > was.threshold
                || !was.keys.is_subset(&is.keys)
                || !was.kinds.is_subset(&is.kinds)
                || was.hosts.iter().any(|pattern| !is.hosts.contains(pattern))
        })
    })
}

/// The keys that are here cannot sign anew what a change takes the ground from.
pub(super) fn too_few(fault: Fault) -> Failure {
    Failure::from(fault)
        .while_doing("what no longer stands cannot be signed anew with the keys that are here; nothing was signed")
        .with_remedy(
            "name the other operators' key files with --sign-with FILE; or add --no-resign: hosts then keep what they have, and take \
         nothing until `moorctl key resign`",
        )
}

fn explain(ui: &mut Ui, held: &Held, no_resign: bool) {
    let then = if no_resign { "hosts keep what they have and take nothing new" } else { "it is signed anew as it is" };
    ui.note(&format!("too few keys that count have signed the following; {then}:"));
    for line in held.words() {
        ui.note(&format!("  {line}"));
    }
}

fn words(outcome: &Outcome) -> String {
    let mut text = next::words(&outcome.root);
    for line in &outcome.frozen {
        text.push_str(&format!("  stands still until `moorctl key resign`: {line}\n"));
    }
    text + &resign::words(&outcome.resigned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::trust;
    use moorline_common::op::Class;
    use moorline_common::trust::{OPERATOR_ROLE, Role};

    #[test]
    fn only_what_asks_for_more_can_take_the_ground_from_anything() {
        let after = |change: fn(&mut Role)| {
            let mut root = trust();
            change(root.roles.get_mut(OPERATOR_ROLE).unwrap());
            narrows(&trust(), &root)
        };
        assert!(!after(|_| {}) && !after(|r| r.max_class = Class::R1) && !after(|r| r.hosts.push("x".into())));
        assert!(after(|r| r.threshold = 2) && after(|r| r.keys.clear()) && after(|r| r.hosts = vec!["shop-*".into()]));
        assert!(after(|r| r.kinds.clear()));
        let mut root = trust();
        root.roles.get_mut(ROOT_ROLE).unwrap().threshold = 2;
        assert!(!narrows(&trust(), &root));
        root.roles.remove(OPERATOR_ROLE);
        assert!(narrows(&trust(), &root));
    }
}
