//! `moorctl init`: makes the operator's keys and the first trust root, or joins a cluster that has one.
//!
//! Every step can be repeated: keys and root are durable here before the hub gets the root, so a second run
//! goes on where the first was cut off.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::KeyId;
use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::trust::{RECOVERY_NAME, TrustRoot};
use serde::Serialize;

use super::Env;
use crate::client::{ClusterFacts, Hub, require_fair_clock, walk};
use crate::clock;
use crate::error::Failure;
use crate::home::{Bundle, Context, ContextFacts, OpenedKey, Passphrases, new_key, open_key, public_of, write_sealed_key};
use crate::limits::ROOT_LIFE_S;
use crate::render::Ui;

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The bundle that `moorline-hub init` or `moorline-hub operator add` made
    #[arg(long, value_name = "FILE")]
    pub bundle: PathBuf,
    /// The operator's name in the trust root [default: the name in the bundle]
    #[arg(long, value_name = "NAME")]
    pub operator: Option<String>,
    /// Another operator and the key that `moorctl key new` printed there; may be repeated
    #[arg(long, value_name = "NAME=PUBKEYHEX", value_parser = parse_operator, conflicts_with = "root_pin")]
    pub add_operator: Vec<(String, [u8; 32])>,
    /// Use this key file instead of making a key
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Seal the key files with a passphrase
    #[arg(long)]
    pub passphrase: bool,
    /// Join a cluster that has a trust root: the pin that the first operator's `init` printed
    #[arg(long, value_name = "PIN", requires = "key")]
    pub root_pin: Option<String>,
}

#[derive(Serialize)]
struct Outcome {
    context: String,
    cluster: String,
    operator: String,
    key_id: String,
    root_version: u64,
    root_pin: String,
    /// Where the recovery key lies, when it lies here.
    recovery_key: Option<PathBuf>,
}

/// Reads `NAME=PUBKEYHEX`.
pub(super) fn parse_operator(text: &str) -> Result<(String, [u8; 32]), String> {
    let (name, public) = text.split_once('=').ok_or("write it as NAME=PUBKEYHEX")?;
    let mut key = [0; 32];
    hex::decode_to_slice(public.trim(), &mut key).map_err(|_| "the key is the 64 hex digits that `moorctl key new` printed")?;
    if name.is_empty() {
        return Err("the operator needs a name".to_owned());
    }
    Ok((name.to_owned(), key))
}

/// What both ways to a context need.
struct Setup<'a> {
    args: &'a InitArgs,
    env: &'a Env,
    name: String,
    bundle: &'a Bundle,
    /// The bundle's exact bytes.
    bytes: &'a [u8],
    facts: &'a ClusterFacts,
    operator: String,
}

/// Runs it.
///
/// # Errors
/// When the hub has another trust root, or anything cannot be read, written or reached.
pub async fn run(args: InitArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let (bundle, bytes) = Bundle::read(&args.bundle)?;
    let name = env.context.clone().unwrap_or_else(|| bundle.cluster.to_string());
    let hub = Hub::dial(&bundle, BTreeSet::from([bundle.ca_spki.clone()])).await?;
    let facts = hub.cluster().await?;
    if facts.cluster != bundle.cluster.as_str() {
        let message = format!("the bundle is for cluster `{}`, the hub at {} serves `{}`", bundle.cluster, hub.address, facts.cluster);
        return Err(Fault::new(Code::WrongCluster, message).into());
    }
    require_fair_clock(facts.clock_offset_ms, env.accept_clock)?;
    let operator = args.operator.clone().unwrap_or_else(|| bundle.name.clone());
    let setup = Setup { args: &args, env, name, bundle: &bundle, bytes: &bytes, facts: &facts, operator };
    let (context, walked) = match &args.root_pin {
        Some(pin) => setup.join(pin)?,
        None => setup.found(ui)?,
    };
    for root in walked.chain.iter().skip(facts.roots.len()) {
        hub.put_root(root).await.map_err(|f| {
            let doing = "handing the trust root to the hub";
            if f.is(Code::AlreadyExists) { other_root(&hub.address).while_doing(doing) } else { f.while_doing(doing) }
        })?;
    }
    let recovery = context.dir().join("recovery.key");
    let outcome = Outcome {
        context: context.name.clone(),
        cluster: bundle.cluster.to_string(),
        key_id: KeyId::of_key(&public_of(&context.operator_key_path())?).to_string(),
        operator: context.facts.operator.clone(),
        root_version: walked.newest.version,
        root_pin: context.facts.root_pin.clone(),
        recovery_key: recovery.exists().then_some(recovery),
    };
    ui.result(&outcome, || words(&outcome))?;
    Ok(0)
}

fn words(outcome: &Outcome) -> String {
    let mut text = format!(
        "context   {}\ncluster   {}\noperator  {} (key {})\nroot      version {}, pin {}\n",
        outcome.context,
        outcome.cluster,
        outcome.operator,
        outcome.key_id.get(..12).unwrap_or_default(),
        outcome.root_version,
        outcome.root_pin
    );
    if let Some(path) = &outcome.recovery_key {
        text.push_str(&format!(
            "\nMove the recovery key to offline media now, and remove it here:\n  {}\nOnly with it can operators be added and the trust root be renewed.\n",
            path.display()
        ));
    }
    text.push_str("\nNext: moorctl host add NAME\n");
    text
}

impl Setup<'_> {
    /// The first trust root: made here, or made by an earlier run of this very `init`.
    fn found(&self, ui: &mut Ui) -> Result<(Context, walk::Walk), Failure> {
        if let Some(context) = self.earlier()? {
            let walked = walk::walk(&context.facts.root_pin, &context.roots()?, &self.facts.roots)?;
            context.save_roots(&walked.chain)?;
            ui.note(&format!("context `{}` exists: its keys and trust root are kept", self.name));
            return Ok((self.env.home.store_context(&self.name, context.facts, self.bytes)?, walked));
        }
        if !self.facts.roots.is_empty() {
            return Err(other_root(self.bundle.hubs.first().map_or("-", String::as_str)));
        }
        let dir = self.env.home.context_dir(&self.name)?;
        let (operator_path, recovery_path) = (dir.join("operator.key"), dir.join("recovery.key"));
        let passphrases = &self.env.home.passphrases;
        let chosen = self.args.passphrase.then(|| passphrases.new_for(&operator_path)).transpose()?;
        let keep = |path: &Path, opened: &OpenedKey| write_sealed_key(path, &opened.key, opened.passphrase.as_ref().or(chosen.as_ref()));
        let operator = match &self.args.key {
            Some(file) => open_key(file, passphrases)?,
            None => existing_or_new(&operator_path, passphrases)?,
        };
        keep(&operator_path, &operator)?;
        let recovery = existing_or_new(&recovery_path, passphrases)?;
        keep(&recovery_path, &recovery)?;
        let root = first_root(self.bundle, &self.operator, &operator.key, &recovery.key, &self.args.add_operator)?;
        let pin = TrustRoot::pin(&root);
        let walked = walk::walk(&pin, std::slice::from_ref(&root), &[])?;
        Ok((self.store(pin, &walked)?, walked))
    }

    /// A cluster that has a trust root: accepted by its pin, and only if it names this operator's key.
    fn join(&self, pin: &str) -> Result<(Context, walk::Walk), Failure> {
        let Some(file) = &self.args.key else {
            return Err(Failure::usage("--root-pin needs --key", "name the file that `moorctl key new` made"));
        };
        let stored = match self.earlier()? {
            Some(context) if context.facts.root_pin == pin => context.roots()?,
            Some(context) => {
                let message = format!("context `{}` exists and is pinned to another trust root", context.name);
                return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("choose another name with --context"));
            }
            None => Vec::new(),
        };
        require_pinned(pin, stored.first().or(self.facts.roots.first()))?;
        let walked = walk::walk(pin, &stored, &self.facts.roots)?;
        let opened = open_key(file, &self.env.home.passphrases)?;
        let key = &opened.key;
        let id = key.id();
        if !walked.newest.keys.contains_key(&id) || walked.newest.revoked.contains(&id) {
            let message = format!("the key in {} (id {id}) is not in the trust root version {}", file.display(), walked.newest.version);
            return Err(Failure::from(Fault::new(Code::UnknownKey, message))
                .with_remedy(format!("let an operator with the recovery key add it: moorctl key add NAME={}", hex::encode(key.public()))));
        }
        write_sealed_key(&self.env.home.context_dir(&self.name)?.join("operator.key"), key, opened.passphrase.as_ref())?;
        Ok((self.store(pin.to_owned(), &walked)?, walked))
    }

    /// Writes the context; its roots first, so that a context always has them.
    fn store(&self, root_pin: String, walked: &walk::Walk) -> Result<Context, Failure> {
        let path = self.env.home.context_dir(&self.name)?.join("roots.json");
        let text = serde_json::to_vec_pretty(&walked.chain).map_err(|e| Failure::local(format!("cannot write {}: {e}", path.display())))?;
        crate::home::files::write_private(&path, &text)?;
        let facts = ContextFacts { cluster: self.bundle.cluster.clone(), operator: self.operator.clone(), root_pin };
        self.env.home.store_context(&self.name, facts, self.bytes)
    }

    /// The context of an earlier run, if it is for this cluster.
    fn earlier(&self) -> Result<Option<Context>, Failure> {
        if !self.env.home.context_names().contains(&self.name) {
            return Ok(None);
        }
        let context = self.env.home.context(Some(&self.name))?;
        if context.facts.cluster == self.bundle.cluster {
            return Ok(Some(context));
        }
        let message = format!("context `{}` exists and is for cluster `{}`", self.name, context.facts.cluster);
        Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("choose another name with --context"))
    }
}

fn existing_or_new(path: &Path, passphrases: &Passphrases) -> Result<OpenedKey, Failure> {
    if path.exists() { open_key(path, passphrases) } else { Ok(OpenedKey { key: new_key()?, passphrase: None }) }
}

/// Refuses a first trust root that is not the one of `--root-pin`.
fn require_pinned(pin: &str, first: Option<&Envelope>) -> Result<(), Failure> {
    let Some(other) = first.map(TrustRoot::pin).filter(|has| has != pin) else { return Ok(()) };
    let message = format!("the hub's trust root has pin {other}, not the one that --root-pin names");
    Err(Failure::from(Fault::new(Code::BadRoot, message)).with_remedy(
        "ask the operator who made the trust root for the pin that `moorctl init` printed there; \
         if that is the one you gave, do not go on: this hub shows another trust root",
    ))
}

fn other_root(hub: &str) -> Failure {
    Failure::from(Fault::new(Code::AlreadyExists, format!("the hub at {hub} has a trust root that was not made here"))).with_remedy(
        "to join as another operator: `moorctl key new NAME`, let the first operator add the key with `moorctl key add`, \
         then `moorctl init --bundle FILE --root-pin PIN --key KEYFILE`",
    )
}

fn first_root(
    bundle: &Bundle,
    operator: &str,
    operator_key: &PrivateKey,
    recovery_key: &PrivateKey,
    others: &[(String, [u8; 32])],
) -> Result<Envelope, Failure> {
    let mut operators = vec![(operator.to_owned(), operator_key.public())];
    operators.extend_from_slice(others);
    let mut names = BTreeSet::from([RECOVERY_NAME]);
    if let Some((name, _)) = operators.iter().find(|(name, _)| !names.insert(name)) {
        return Err(Failure::usage(
            format!("two keys of the trust root would be called `{name}`"),
            "give each operator a name of their own, so that everybody knows whose signature counts",
        ));
    }
    let now = clock::now();
    let root = TrustRoot {
        hub_ca_spki: BTreeSet::from([bundle.ca_spki.clone()]),
        ..TrustRoot::first(bundle.cluster.clone(), &operators, &recovery_key.public(), now, now.plus(ROOT_LIFE_S))
    };
    Ok(Signed::seal(&root, &[recovery_key])?.envelope().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_root_pin_is_told_as_that() {
        let root = walk::tests::root(1, &PrivateKey::from_seed(&[1; 32]), &PrivateKey::from_seed(&[2; 32]));
        assert!(require_pinned(&TrustRoot::pin(&root), Some(&root)).is_ok());
        let failure = require_pinned("00", Some(&root)).unwrap_err();
        assert!(failure.is(Code::BadRoot) && failure.message.contains("--root-pin"), "{failure:?}");
        assert!(!failure.message.contains("token"), "{failure:?}");
    }

    #[test]
    fn another_operator_is_named_with_a_public_key() {
        let key = "ab".repeat(32);
        assert_eq!(parse_operator(&format!("bob={key}")).unwrap().0, "bob");
        for bad in ["bob", "bob=12", &format!("={key}")] {
            assert!(parse_operator(bad).is_err(), "{bad}");
        }
    }
}
