//! The next version of the trust root: made, signed by as many recovery keys as are here, handed in or carried on.

use std::path::{Path, PathBuf};

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::sign::{Envelope, PayloadType, PrivateKey, Signed};
use moorline_common::trust::{OPERATOR_ROLE, ROOT_ROLE, TrustRoot, write_chain};
use serde::Serialize;

use crate::client::{Client, require_fair_clock};
use crate::clock;
use crate::error::Failure;
use crate::home::{Passphrases, files, read_key};
use crate::limits::ROOT_LIFE_S;
use crate::render::Ui;

/// How the next version of the trust root is signed.
#[derive(Debug, Clone, Default, Args)]
pub struct RootArgs {
    /// A recovery key's file, from its offline media; may be repeated [default: the one that `init` made here]
    #[arg(long, value_name = "FILE")]
    pub recovery_key: Vec<PathBuf>,
    /// Do not hand it in: write it to a file, for `moorctl key sign` on the machines of other recovery keys
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// A trust root as it is shown.
#[derive(Serialize)]
pub(super) struct RootView {
    version: u64,
    expires: String,
    /// Operators by name.
    operators: Vec<String>,
    /// Where it was written, when it was not handed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<PathBuf>,
}

/// What became of a next version.
pub(super) enum Became {
    /// The hub has it.
    InForce(TrustRoot),
    /// It lies in a file, to be signed elsewhere.
    Saved(RootView),
}

/// The successor of `root` before it is changed.
pub(super) fn successor(root: &TrustRoot) -> TrustRoot {
    let now = clock::now();
    TrustRoot { version: root.version.saturating_add(1), issued_at: now, expires: now.plus(ROOT_LIFE_S), ..root.clone() }
}

/// Makes the successor, changed by `change`, signs it and hands it in or writes it.
pub(super) async fn make(
    client: &Client,
    ui: &mut Ui,
    args: &RootArgs,
    change: impl FnOnce(&mut TrustRoot) -> Result<(), Failure>,
) -> Result<Became, Failure> {
    let mut next = successor(&client.root);
    change(&mut next)?;
    put(client, ui, args, &next).await
}

/// Signs `next`, a successor that was changed already, and hands it in or writes it.
pub(super) async fn put(client: &Client, ui: &mut Ui, args: &RootArgs, next: &TrustRoot) -> Result<Became, Failure> {
    require_fair_clock(client.facts.clock_offset_ms, client.accept_clock)?;
    next.check().map_err(|f| Failure::from(f).with_remedy("correct what the message names; nothing was signed"))?;
    if !one_key_pushes(next) && one_key_pushes(&client.root) {
        ui.note(
            "no single key can sign slices any more: from now on, push with --sign-with FILE, or with --save FILE and \
             `moorctl revision sign FILE` on the other operators' machines",
        );
    }
    let keys = root_keys(client, next, args)?;
    let signed = Signed::seal(next, &keys.iter().collect::<Vec<_>>())?;
    if let Some(file) = &args.save {
        save(client, file, signed.envelope())?;
        ui.note(&missing(&client.root, next, signed.envelope(), file));
        return Ok(Became::Saved(RootView { saved: Some(file.clone()), ..view(next) }));
    }
    client.root.verify_next(signed.envelope().clone()).map_err(more_keys)?;
    Ok(Became::InForce(client.put_next_root(signed.envelope()).await?))
}

/// Whether some key alone may sign slices.
fn one_key_pushes(root: &TrustRoot) -> bool {
    root.roles.iter().any(|(name, role)| name != ROOT_ROLE && role.threshold == 1 && role.kinds.contains(PayloadType::Slice.word()))
}

/// Makes, signs and shows it: all that most verbs do.
pub(super) async fn run(
    client: &Client,
    ui: &mut Ui,
    args: &RootArgs,
    change: impl FnOnce(&mut TrustRoot) -> Result<(), Failure>,
) -> Result<u8, Failure> {
    let view = match make(client, ui, args, change).await? {
        Became::InForce(root) => view(&root),
        Became::Saved(view) => view,
    };
    show(ui, &view)
}

pub(super) fn show(ui: &mut Ui, view: &RootView) -> Result<u8, Failure> {
    ui.result(view, || words(view))?;
    Ok(0)
}

pub(super) fn words(view: &RootView) -> String {
    match &view.saved {
        Some(file) => format!("trust root version {} written to {}\n", view.version, file.display()),
        None => format!("trust root version {}, expires {}, operators: {}\n", view.version, view.expires, view.operators.join(", ")),
    }
}

pub(super) fn view(root: &TrustRoot) -> RootView {
    let operators = root.roles.get(OPERATOR_ROLE).into_iter().flat_map(|r| &r.keys).filter_map(|id| root.keys.get(id));
    RootView { version: root.version, expires: when(root.expires), operators: operators.map(|k| k.name.clone()).collect(), saved: None }
}

/// A time as it is shown.
pub(super) fn when(at: moorline_common::id::UnixSeconds) -> String {
    clock::rfc3339(at.0.saturating_mul(1000))
}

/// Too few recovery keys were here.
pub(super) fn more_keys(fault: Fault) -> Failure {
    let short = matches!(fault.code, Code::ThresholdNotMet | Code::UnknownKey);
    let failure = Failure::from(fault);
    if !short {
        return failure;
    }
    failure.with_remedy(
        "repeat --recovery-key for each, or collect signatures: the same with --save FILE, \
         `moorctl key sign FILE` on each machine, then `moorctl key submit FILE`",
    )
}

/// Who still has to sign the root in `envelope`, as words.
pub(super) fn missing(current: &TrustRoot, next: &TrustRoot, envelope: &Envelope, file: &Path) -> String {
    let wants = |root: &TrustRoot| {
        let role = root.roles.get(ROOT_ROLE)?;
        let signed = envelope.signatures.iter().filter(|s| role.keys.contains(&s.keyid) && !root.revoked.contains(&s.keyid)).count();
        let lacks = usize::try_from(role.threshold).unwrap_or(usize::MAX).saturating_sub(signed);
        let left: Vec<String> = role
            .keys
            .iter()
            .filter(|id| !root.revoked.contains(*id) && envelope.signatures.iter().all(|s| s.keyid != **id))
            .map(|id| root.name_of(id))
            .collect();
        (lacks > 0).then(|| format!("version {} asks for {lacks} more of: {}", root.version, left.join(", ")))
    };
    let lacking: Vec<String> = [current, next].into_iter().filter_map(wants).collect();
    let file = file.display();
    if lacking.is_empty() {
        return format!("it has all its signatures; next: moorctl key submit {file}");
    }
    format!("still to be signed ({}): moorctl key sign {file}", lacking.join("; "))
}

/// Writes the chain that this machine has verified, and `next` as its last.
fn save(client: &Client, file: &Path, next: &Envelope) -> Result<(), Failure> {
    let mut chain = client.context.roots()?;
    chain.push(next.clone());
    files::write_new(file, &write_chain(&chain))
}

/// The recovery keys that were named, or the one that lies here.
fn root_keys(client: &Client, next: &TrustRoot, args: &RootArgs) -> Result<Vec<PrivateKey>, Failure> {
    let own = client.context.dir().join("recovery.key");
    let named = if args.recovery_key.is_empty() { vec![own.clone()] } else { args.recovery_key.clone() };
    if args.save.is_some() && args.recovery_key.is_empty() && !own.exists() {
        // Only the keys elsewhere sign it.
        return Ok(Vec::new());
    }
    named.iter().map(|file| recovery_key(&[&client.root, next], file, &client.context.passphrases)).collect()
}

/// Reads a key that signs trust roots, by one of `roots`.
pub(super) fn recovery_key(roots: &[&TrustRoot], file: &Path, passphrases: &Passphrases) -> Result<PrivateKey, Failure> {
    let pass = "pass the recovery key with `--recovery-key FILE`";
    if !file.exists() {
        let message = format!("the recovery key's file {} does not exist", file.display());
        return Err(Failure::local(message).with_remedy(format!("{pass}: `moorctl init` made it, and it belongs on offline media")));
    }
    let key = read_key(file, passphrases)?;
    let holds = |root: &TrustRoot| root.roles.get(ROOT_ROLE).is_some_and(|role| role.keys.contains(&key.id()));
    if !roots.iter().any(|root| holds(root)) {
        let message = format!("{}: this is not a key of the role `{ROOT_ROLE}`; nothing was signed", file.display());
        return Err(Failure::from(Fault::new(Code::UnknownKey, message)).with_remedy(pass));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::write_key;
    use crate::revision::tests::{keys, trust};

    #[test]
    fn only_a_key_of_the_root_role_signs_a_trust_root_and_the_option_that_names_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("recovery.key");
        let read = || recovery_key(&[&trust()], &file, &Passphrases::default());
        let failure = read().err().unwrap();
        assert!(failure.code == "local_io" && failure.remedy.contains("--recovery-key FILE"), "{failure:?}");
        write_key(&file, &keys().1).unwrap();
        let failure = read().err().unwrap();
        assert!(failure.is(Code::UnknownKey) && failure.message.contains("role `root`"), "{failure:?}");
        assert!(failure.remedy.contains("--recovery-key FILE"), "{failure:?}");
        write_key(&file, &keys().0).unwrap();
        assert_eq!(read().unwrap().id(), keys().0.id());
    }

    #[test]
    fn who_still_has_to_sign_is_said() {
        let (root, file) = (trust(), Path::new("f"));
        let mut next = successor(&root);
        next.roles.get_mut(ROOT_ROLE).unwrap().keys.insert(keys().1.id());
        next.roles.get_mut(ROOT_ROLE).unwrap().threshold = 2;
        let mut envelope = Signed::seal(&next, &[&keys().0]).unwrap().envelope().clone();
        let said = missing(&root, &next, &envelope, file);
        assert!(said.contains("version 2 asks for 1 more of: ann") && !said.contains("version 1"), "{said}");
        assert_eq!(root.verify_next(envelope.clone()).unwrap_err().code, Code::ThresholdNotMet);
        envelope.add_signature(&keys().1);
        assert!(missing(&root, &next, &envelope, file).contains("key submit"));
        assert!(root.verify_next(envelope).is_ok());
    }
}
