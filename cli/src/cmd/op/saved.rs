//! Orders in files: for signers without a way to the hub, and for orders that several must sign.

use std::io::Write as _;
use std::path::Path;

use moorline_common::fault::{Code, Fault};
use moorline_common::op::{Class, OpStatement};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use moorline_common::trust::TrustRoot;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::draft::{self, Sealed};
use super::{OpWait, submit};
use crate::client::{HostView, walk};
use crate::clock;
use crate::cmd::Env;
use crate::error::Failure;
use crate::home::Context;
use crate::limits::ORDER_FILE_MAX;
use crate::render::Ui;

/// What a saved order holds. The binding lets a signer without a hub see whom it is for.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    order: Envelope,
    binding: Envelope,
}

/// Writes a signed order to a file.
pub fn write(ui: &mut Ui, path: &Path, host: &HostView, statement: &OpStatement, sealed: Sealed) -> Result<u8, Failure> {
    let binding = host.binding.as_ref().map(|b| b.envelope().clone());
    let binding = binding.ok_or_else(|| Fault::new(Code::NotApproved, format!("host `{}` has no verified binding", host.name)))?;
    save(path, &Saved { order: sealed.envelope, binding }, true)?;
    let lacks = sealed.lacks.as_ref().map(|f| f.message.clone());
    let value = json!({ "op_id": statement.op_id, "file": path, "expires_at": clock::rfc3339(statement.expires_at.0.saturating_mul(1000)), "lacks": lacks });
    ui.result(&value, || {
        let next = match &lacks {
            Some(lacks) => format!("{lacks}: the others sign with `moorctl op sign {}`", path.display()),
            None => format!("hand it in with `moorctl op submit {}`", path.display()),
        };
        format!("operation {} is in {}; {next}\n", statement.op_id, path.display())
    })?;
    Ok(0)
}

fn save(path: &Path, saved: &Saved, new: bool) -> Result<(), Failure> {
    let failed = |e: &std::io::Error| Failure::file("write", path, e);
    let mut text = serde_json::to_vec_pretty(saved).map_err(|e| Failure::local(format!("cannot write JSON: {e}")))?;
    text.push(b'\n');
    if new {
        use std::os::unix::fs::OpenOptionsExt as _;
        // An order that others have signed is not overwritten unseen.
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| failed(&e))?;
        return file.write_all(&text).and_then(|()| file.sync_all()).map_err(|e| failed(&e));
    }
    // Whole or not at all: the signatures of others are in it.
    crate::home::files::write_private(path, &text)
}

fn read(path: &Path) -> Result<Saved, Failure> {
    use std::io::Read as _;
    let failed = |e: &std::io::Error| Failure::file("read", path, e);
    let file = std::fs::File::open(path).map_err(|e| failed(&e))?;
    let mut bytes = Vec::new();
    file.take(ORDER_FILE_MAX).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    moorline_common::canonical::from_strict_json(&bytes).map_err(|e| {
        Failure::from(Fault::new(Code::BadEnvelope, format!("{} is no saved order: {e}", path.display())))
            .with_remedy("name a file that `moorctl op … --save FILE` made")
    })
}

/// A saved order whose host and meaning were verified by `root`, as far as its signatures go.
struct Understood {
    binding: HostBinding,
    statement: OpStatement,
    class: Class,
}

fn understand(root: &TrustRoot, saved: &Saved) -> Result<Understood, Failure> {
    let binding = root.verify_binding(Signed::<HostBinding>::new(saved.binding.clone())?, None)?.into_statement();
    // Signatures that do not match are told before anybody signs below them.
    let lacks = draft::lacking(root, &binding, &saved.order)?;
    drop(lacks);
    let statement = Signed::<OpStatement>::new(saved.order.clone())?.peek()?;
    let class = statement.act()?.class(&statement.resource);
    Ok(Understood { binding, statement, class })
}

/// Adds this operator's signature to a saved order. Asks no hub: this machine's verified trust root decides.
pub fn sign(env: &Env, ui: &mut Ui, path: &Path) -> Result<u8, Failure> {
    let context = env.home.context(env.context.as_deref())?;
    let root = walk::walk(&context.facts.root_pin, &context.roots()?, &[])?.newest;
    sign_by(&context, &root, ui, path)
}

/// Adds the signature of the operator of `context` to a saved order that `root` allows.
pub fn sign_by(context: &Context, root: &TrustRoot, ui: &mut Ui, path: &Path) -> Result<u8, Failure> {
    let mut saved = read(path)?;
    let Understood { binding, statement, class } = understand(root, &saved)?;
    if clock::now() > statement.expires_at {
        return Err(Fault::new(Code::Expired, "the order's last moment has passed").into());
    }
    let needed = root.class_threshold(class);
    let until = clock::rfc3339(statement.expires_at.0.saturating_mul(1000));
    ui.note(&format!("operation {}", statement.op_id));
    ui.note(&format!("  orders   {}", draft::words(&statement, class, &binding.name)));
    ui.note(&format!("  params   {}", statement.params));
    ui.note(&format!("  reason   {}", crate::render::or_dash(&statement.reason)));
    ui.note(&format!("  key      {}", statement.idempotency_key));
    ui.note(&format!("  until    {until}"));
    for signature in &saved.order.signatures {
        let name = root.keys.get(&signature.keyid).map_or("unknown", |k| k.name.as_str());
        ui.note(&format!("  signed   by {name} ({})", signature.keyid));
    }
    ui.note(&format!("  needs    {needed} key(s) for class {class}"));
    ui.confirm("Sign this order?")?;
    let key = context.operator_key()?;
    let before = saved.order.signatures.len();
    saved.order.add_signature(&key);
    if saved.order.signatures.len() == before {
        ui.note("your signature is in it already");
    }
    // A signature that cannot count is not added.
    let lacks = draft::lacking(root, &binding, &saved.order)?;
    save(path, &saved, false)?;
    let lacks = lacks.map(|f| f.message);
    let value = json!({ "op_id": statement.op_id, "file": path, "signatures": saved.order.signatures.len(), "lacks": lacks });
    ui.result(&value, || match &lacks {
        Some(lacks) => format!("signed; {lacks}\n"),
        None => format!("signed; hand it in with `moorctl op submit {}`\n", path.display()),
    })?;
    Ok(0)
}

/// Hands in a saved order.
pub async fn submit(env: &Env, ui: &mut Ui, path: &Path, wait: &OpWait) -> Result<u8, Failure> {
    let saved = read(path)?;
    let client = env.client(ui).await?;
    let (host, statement) = submit::host_of(&client, &saved.order).await?;
    let binding = host.bound().ok_or_else(|| Fault::new(Code::NotApproved, format!("host `{}` has no verified binding", host.name)))?;
    if let Some(lacks) = draft::lacking(&client.root, binding, &saved.order)? {
        return Err(Failure::from(lacks).with_remedy(format!("let more operators sign: `moorctl op sign {}`", path.display())));
    }
    let class = statement.act()?.class(&statement.resource);
    let words = draft::words(&statement, class, &host.name);
    submit::confirm(ui, class, &words)?;
    ui.note(&format!("{words}: operation {}, key {}", statement.op_id, statement.idempotency_key));
    submit::hand_in(&client, ui, &host, &statement, class, &saved.order, wait).await
}
