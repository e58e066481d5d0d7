//! Orders in files: for signers without a way to the hub, and for orders that several must sign.

use std::path::Path;

use moorline_common::fault::{Code, Fault};
use moorline_common::op::{Class, OpStatement};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use moorline_common::trust::TrustRoot;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::draft::{self, Sealed};
use super::{OpWait, submit, view};
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::error::Failure;
use crate::home::Context;
use crate::limits::ORDER_FILE_MAX;
use crate::render::Ui;
use crate::saved::{SavedFile, add_signatures, tell_signers};
use crate::signers::Signers;

/// What a saved order holds. The binding lets a signer without a hub see whom it is for; nothing of it is believed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    order: Envelope,
    binding: Envelope,
    /// Every version of the trust root that its maker knew, the first one first: a signer may be behind.
    #[serde(default)]
    roots: Vec<Envelope>,
}

impl SavedFile for Saved {
    const WHAT: &'static str = "order";
    const VERBS: &'static str = "moorctl op";
    const MADE_BY: &'static str = "moorctl op … --save FILE";
    const BYTES_MAX: u64 = ORDER_FILE_MAX;
}

/// Writes a signed order to a file.
pub fn write(client: &Client, ui: &mut Ui, path: &Path, host: &HostView, statement: &OpStatement, sealed: Sealed) -> Result<u8, Failure> {
    let binding = host.verified()?.envelope().clone();
    Saved { order: sealed.envelope, binding, roots: client.context.roots()? }.write_new(path)?;
    let lacks = sealed.lacks.as_ref().map(|f| f.message.clone());
    let value = json!({ "op_id": statement.op_id, "file": path, "expires_at": clock::rfc3339(statement.expires_at.0.saturating_mul(1000)), "lacks": lacks });
    ui.result(&value, || format!("operation {} is in {}; {}\n", statement.op_id, path.display(), Saved::next(path, lacks.as_deref())))?;
    Ok(0)
}

/// A saved order whose host and meaning were verified by `root`, as far as its signatures go.
struct Understood {
    binding: HostBinding,
    statement: OpStatement,
    class: Class,
}

fn understand(root: &TrustRoot, saved: &Saved) -> Result<Understood, Failure> {
    let under = Signed::<OpStatement>::new(saved.order.clone())?.peek()?.root_version;
    if under > root.version {
        let message = format!("the order was signed under trust root version {under}, this machine knows version {}", root.version);
        return Err(Failure::from(Fault::new(Code::RootBehind, message)).with_remedy(
            "let any verb that asks the hub fetch it, such as `moorctl key ls`; without a hub, bring it over with `moorctl key export` and \
             `moorctl key import FILE`",
        ));
    }
    let binding = root.verify_binding(Signed::<HostBinding>::new(saved.binding.clone())?, None)?.into_statement();
    // Signatures that do not match are told before anybody signs below them.
    draft::lacking(root, &binding, &saved.order)?;
    let statement = Signed::<OpStatement>::new(saved.order.clone())?.peek()?;
    let class = statement.act()?.class(&statement.resource);
    Ok(Understood { binding, statement, class })
}

/// Adds this operator's signature to a saved order. Asks no hub: this machine's verified trust root decides, or a newer one in
/// the file that follows from it.
pub fn sign(env: &Env, ui: &mut Ui, path: &Path) -> Result<u8, Failure> {
    let (context, root) = env.newest_root(&Saved::read(path)?.roots)?;
    sign_by(&context, &root, ui, path)
}

/// Adds the signature of the operator of `context` to a saved order that `root` allows.
pub fn sign_by(context: &Context, root: &TrustRoot, ui: &mut Ui, path: &Path) -> Result<u8, Failure> {
    let mut saved = Saved::read(path)?;
    let Understood { binding, statement, class } = understand(root, &saved)?;
    if clock::now() > statement.expires_at {
        return Err(Fault::new(Code::Expired, "the order's last moment has passed").into());
    }
    let needed = root.class_threshold(class);
    let until = clock::rfc3339(statement.expires_at.0.saturating_mul(1000));
    ui.note(&format!("operation {}", statement.op_id));
    ui.note(&format!("  orders   {}", draft::words(&statement, class, &binding.name, None)));
    ui.note(&format!("  params   {}", view::readable(statement.params.clone())));
    ui.note(&format!("  reason   {}", crate::render::or_dash(&statement.reason)));
    ui.note(&format!("  key      {}", statement.idempotency_key));
    ui.note(&format!("  until    {until}"));
    tell_signers(ui, root, &saved.order.signatures);
    ui.note(&format!("  needs    {needed} key(s) for class {class}"));
    ui.confirm("Sign this order?")?;
    let signers = Signers::with(context.operator_key()?, context, root)?;
    add_signatures(ui, &signers, &mut saved.order, []);
    // A signature that cannot count is not added.
    let lacks = draft::lacking(root, &binding, &saved.order)?;
    saved.replace(path)?;
    let lacks = lacks.map(|f| f.message);
    let value = json!({ "op_id": statement.op_id, "file": path, "signatures": saved.order.signatures.len(), "lacks": lacks });
    ui.result(&value, || format!("signed; {}\n", Saved::next(path, lacks.as_deref())))?;
    Ok(0)
}

/// Hands in a saved order.
pub async fn submit(env: &Env, ui: &mut Ui, path: &Path, wait: &OpWait) -> Result<u8, Failure> {
    let saved = Saved::read(path)?;
    let client = env.client(ui).await?;
    let (host, statement) = submit::host_of(&client, &saved.order).await?;
    if let Some(lacks) = draft::lacking(&client.root, host.require_bound()?, &saved.order)? {
        return Err(Failure::from(lacks).with_remedy(Saved::more_signers(path)));
    }
    let class = statement.act()?.class(&statement.resource);
    let words = draft::words(&statement, class, &host.name, None);
    submit::confirm(ui, class, &words)?;
    ui.note(&format!("{words}: operation {}, key {}", statement.op_id, statement.idempotency_key));
    submit::hand_in(&client, ui, &host, &statement, class, &saved.order, wait).await
}
