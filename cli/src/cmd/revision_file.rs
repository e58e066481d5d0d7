//! `moorctl revision sign|submit`: revisions in files, for clusters in which more than one operator must sign.
//!
//! The file holds all that a signer needs without a hub: the signed statements, the bindings of the hosts, every version of the
//! trust root, and the source that was in force before. Nothing of it is believed: the trust root is followed from the pinned
//! one, and what each host would get is made anew from the source and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId};
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::{HostBinding, SliceStatement, TopologyStatement};
use moorline_common::topology::{BoundHost, HostSpec};
use moorline_common::trust::TrustRoot;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Env;
use super::deploy::{self, Aim, Scene, Verb};
use super::push::WaitArgs;
use crate::client::Client;
use crate::clock;
use crate::desired::{self, Desired, Source};
use crate::error::Failure;
use crate::inputs;
use crate::limits::REVISION_FILE_MAX;
use crate::render::{Ui, diff, visible};
use crate::revision::{self, SignedRevision, SignedSlice};
use crate::saved::{SavedFile, add_signatures, tell_signers};
use crate::signers::Signers;

/// Verbs of `revision`.
#[derive(Debug, Subcommand)]
pub enum RevisionVerb {
    /// Show what a saved revision changes, and add your signature to it; needs no hub
    Sign(SignArgs),
    /// Hand in a saved revision that has all its signatures
    Submit(SubmitArgs),
}

/// Arguments of `revision sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// A file that `push --save`, `rollback --save` or `down --save` wrote; the signature is added to it
    file: PathBuf,
}

/// Arguments of `revision submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// A file that `push --save`, `rollback --save` or `down --save` wrote
    file: PathBuf,
    /// Give it to all hosts at once although it has `rollout`, and end the rollout that is under way
    #[arg(long)]
    no_rollout: bool,
    /// How the wait goes
    #[command(flatten)]
    wait: WaitArgs,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// The generation that it follows.
    base: Generation,
    /// The source that was the newest when it was made.
    before: Option<Envelope>,
    source: Envelope,
    slices: BTreeMap<HostId, Envelope>,
    bindings: BTreeMap<HostId, Envelope>,
    /// Every version of the trust root, the first one first.
    roots: Vec<Envelope>,
}

impl SavedFile for Saved {
    const WHAT: &'static str = "revision";
    const VERBS: &'static str = "moorctl revision";
    const MADE_BY: &'static str = "moorctl push --save FILE";
    const BYTES_MAX: u64 = REVISION_FILE_MAX;
}

/// What a file says, verified as far as its signatures go.
struct Understood {
    statement: TopologyStatement,
    source: Option<Source>,
    desired: Desired,
    signed: SignedRevision,
    bindings: BTreeMap<HostId, HostBinding>,
    /// Why agents would not take it yet: more keys must sign.
    lacks: Option<Failure>,
}

/// Runs one of them.
///
/// # Errors
/// What the verb failed with.
pub async fn run(verb: RevisionVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        RevisionVerb::Sign(args) => sign(env, ui, &args.file),
        RevisionVerb::Submit(args) => submit(env, ui, args).await,
    }
}

/// Writes a signed revision to a file; `verified` says whether it lacks signatures.
///
/// # Errors
/// When the file exists or cannot be written; what agents would refuse for good.
pub(super) fn write(
    client: &Client,
    ui: &mut Ui,
    file: &Path,
    base: Generation,
    signed: &SignedRevision,
    scene: &Scene,
    verified: Result<(), Failure>,
) -> Result<u8, Failure> {
    let lacks = lacking(verified)?;
    let named = scene.hosts.iter().filter(|h| signed.slices.contains_key(&h.host_id));
    let saved = Saved {
        base,
        before: scene.current.as_ref().and_then(|c| c.source.as_ref()).map(|s| s.envelope().clone()),
        source: signed.source.clone(),
        slices: signed.slices.iter().map(|(host, slice)| (host.clone(), slice.envelope.clone())).collect(),
        bindings: named.filter_map(|h| Some((h.host_id.clone(), h.binding.as_ref()?.envelope().clone()))).collect(),
        roots: client.context.roots()?,
    };
    saved.write_new(file)?;
    show(ui, file, signed, lacks.as_ref())
}

fn show(ui: &mut Ui, file: &Path, signed: &SignedRevision, lacks: Option<&Failure>) -> Result<u8, Failure> {
    let (topology, generation) = (&signed.topology, signed.generation);
    let signers: Vec<String> = signed.source.signatures.iter().map(|s| s.keyid.to_string()).collect();
    let value = json!({ "topology": topology, "generation": generation, "file": file, "hosts": signed.slices.len(), "signed_by": signers, "lacks": lacks.map(|f| &f.message) });
    ui.result(&value, || {
        let next = Saved::next(file, lacks.map(|f| f.message.as_str()));
        format!("`{topology}` generation {generation} is in {}; {next}\n", file.display())
    })?;
    Ok(0)
}

/// Tells what more keys would mend from what nothing would.
fn lacking(verified: Result<(), Failure>) -> Result<Option<Failure>, Failure> {
    match verified {
        Ok(()) => Ok(None),
        Err(failure) if failure.is(Code::ThresholdNotMet) => Ok(Some(failure)),
        Err(failure) => Err(failure),
    }
}

impl Understood {
    /// Reads what `saved` says under `root`; no other key than those that count may have signed it.
    fn new(root: &TrustRoot, saved: &Saved) -> Result<Self, Failure> {
        let mut bindings = BTreeMap::new();
        for (host, envelope) in &saved.bindings {
            let binding = root.verify_binding(Signed::new(envelope.clone())?, Some(host))?.into_statement();
            bindings.insert(host.clone(), binding);
        }
        let statement = Signed::<TopologyStatement>::new(saved.source.clone())?.peek()?;
        if statement.generation != saved.base.next() {
            let message = format!("generation {} does not follow generation {}, which the file names", statement.generation, saved.base);
            return Err(Fault::new(Code::BadEnvelope, message).into());
        }
        let mut slices = BTreeMap::new();
        for (host, envelope) in &saved.slices {
            let hash = Signed::<SliceStatement>::new(envelope.clone())?.peek()?.version_hash;
            slices.insert(host.clone(), SignedSlice { envelope: envelope.clone(), hash });
        }
        let signed =
            SignedRevision { topology: statement.topology.clone(), generation: statement.generation, source: saved.source.clone(), slices };
        let by_id: BTreeMap<&HostId, &HostBinding> = bindings.iter().collect();
        let lacks = lacking(revision::verify(root, &signed, &by_id))?;
        let name = format!("{}@{}", statement.topology, statement.generation);
        let source = if statement.down { None } else { Some(desired::parse(&name, &statement.source, &statement.inputs)?) };
        let bound: Vec<BoundHost> = bindings.values().map(BoundHost::from).collect();
        let mut desired = source.as_ref().map_or_else(|| Ok(Desired::default()), |s| s.slice_bound(&bound))?;
        // Whoever is in the file and not meant by the source is torn down.
        for host in signed.slices.keys() {
            desired.hosts.entry(host.clone()).or_insert_with(HostSpec::default);
        }
        let understood = Self { statement, source, desired, signed, bindings, lacks };
        understood.require_slices()?;
        Ok(understood)
    }

    /// Every slice must be what the source means for its host: nobody signs content that they cannot see.
    fn require_slices(&self) -> Result<(), Failure> {
        for (host, spec) in &self.desired.hosts {
            let slice = self.signed.slices.get(host).map(|s| Signed::<SliceStatement>::new(s.envelope.clone())?.peek()).transpose()?;
            let expected = revision::content_hash(spec)?;
            let is_meant = slice.is_some_and(|s| {
                s.version_hash == expected
                    && s.topology == self.signed.topology
                    && s.generation == self.signed.generation
                    && s.host_id == *host
                    && s.spec().is_ok()
            });
            if !is_meant {
                let message = format!("the slice of host `{}` is not what the source means for it; nothing was signed", self.name(host));
                return Err(Failure::from(Fault::new(Code::HashMismatch, message))
                    .with_remedy("do not sign it: ask who made the file, and save it anew"));
            }
        }
        Ok(())
    }

    fn name(&self, host: &HostId) -> String {
        self.bindings.get(host).map_or_else(|| host.to_string(), |b| b.name.to_string())
    }

    /// What it changes, for the person who is asked whether to sign it.
    fn tell(&self, ui: &mut Ui, root: &TrustRoot, before: Option<&Envelope>) -> Result<(), Failure> {
        let statement = &self.statement;
        let (gone, kept): (Vec<_>, Vec<_>) = self.desired.hosts.iter().partition(|(_, spec)| **spec == HostSpec::default());
        let names = |hosts: Vec<(&HostId, &HostSpec)>| hosts.into_iter().map(|(id, _)| self.name(id)).collect::<Vec<_>>().join(", ");
        ui.note(&format!("topology `{}`, generation {}", statement.topology, statement.generation));
        ui.note(&format!("  message  {}", crate::render::or_dash(&statement.message)));
        ui.note(&format!("  signed   at {}", clock::rfc3339(statement.issued_at.0.saturating_mul(1000))));
        tell_signers(ui, root, &self.signed.source.signatures);
        ui.note(&format!("  hosts    {}", crate::render::or_dash(&names(kept))));
        if !gone.is_empty() {
            ui.note(&format!("  torn down: {}; volumes stay", names(gone)));
        }
        self.tell_terms(ui)?;
        let old = before.map(|e| root.verify_topology(Signed::new(e.clone())?)).transpose();
        let (old, old_name) = match old {
            Ok(Some(old)) if old.statement().topology == statement.topology => {
                (inputs::shown(&old.statement().source, &old.statement().inputs), format!("generation {}", old.statement().generation))
            }
            Ok(_) => (String::new(), "nothing".to_owned()),
            Err(fault) => {
                ui.warn(&format!("the revision before does not verify, and all of the new one is shown: {fault}"));
                (String::new(), "nothing".to_owned())
            }
        };
        if !statement.down {
            let (old, new) = (visible(&old), visible(&inputs::shown(&statement.source, &statement.inputs)));
            let difference = diff::unified(&old, &new, &old_name, &format!("generation {}", statement.generation));
            // All of it: nobody signs what they cannot see.
            ui.note(diff::coloured(&difference).trim_end());
        }
        Ok(())
    }
}

impl Understood {
    /// Whether a host that gets it waits for a confirmation: no other can wait for that one then.
    fn needs_confirm(&self) -> Result<bool, Failure> {
        for slice in self.signed.slices.values() {
            let statement = Signed::<SliceStatement>::new(slice.envelope.clone())?.peek()?;
            if statement.fallback.is_some_and(|fallback| fallback.needs_confirm) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who waits for no window, and what may come back by itself: that is signed, too.
    fn tell_terms(&self, ui: &mut Ui) -> Result<(), Failure> {
        for (host, slice) in &self.signed.slices {
            let statement = Signed::<SliceStatement>::new(slice.envelope.clone())?.peek()?;
            if statement.at_once {
                ui.note(&format!("  at once  {} does not wait for a maintenance window", self.name(host)));
            }
            let Some(fallback) = statement.fallback else { continue };
            let to =
                if fallback.generation == Generation(0) { "nothing".to_owned() } else { format!("generation {}", fallback.generation) };
            let (span, unless) = (clock::span_words(fallback.within_s), if fallback.needs_confirm { "confirmed" } else { "healthy" });
            ui.note(&format!("  trial    {} goes back to {to} by itself unless it is {unless} within {span}", self.name(host)));
        }
        Ok(())
    }
}

/// Adds the operator's signature, after showing what is signed. This machine's verified trust root decides, or a newer one in
/// the file that follows from it.
fn sign(env: &Env, ui: &mut Ui, file: &Path) -> Result<u8, Failure> {
    let mut saved = Saved::read(file)?;
    let (context, root) = env.newest_root(&saved.roots)?;
    let understood = Understood::new(&root, &saved)?;
    understood.tell(ui, &root, saved.before.as_ref())?;
    ui.confirm("Sign this revision?")?;
    let signers = Signers::with(context.operator_key()?, &context, &root)?;
    add_signatures(ui, &signers, &mut saved.source, saved.slices.values_mut());
    // A signature that cannot count is not added.
    let understood = Understood::new(&root, &saved)?;
    saved.replace(file)?;
    show(ui, file, &understood.signed, understood.lacks.as_ref())
}

/// Hands it in.
async fn submit(env: &Env, ui: &mut Ui, args: SubmitArgs) -> Result<u8, Failure> {
    let saved = Saved::read(&args.file)?;
    let client = env.client(ui).await?;
    let understood = Understood::new(&client.root, &saved)?;
    if let Some(lacks) = understood.lacks {
        return Err(lacks.with_remedy(Saved::more_signers(&args.file)));
    }
    let no_rollout = args.no_rollout || understood.needs_confirm()?;
    let aim = Aim {
        verb: Verb::Submit,
        topology: understood.statement.topology.clone(),
        source: understood.source,
        accept_older_hub: false,
        no_rollout,
        wait: args.wait.limit(),
        accepts: Vec::new(),
    };
    deploy::submit(&client, ui, &aim, saved.base, &understood.signed, understood.desired).await
}
