//! The intake's judgement. Pure: time, trust and floors are handed in.
//!
//! | caller does IO | this decides |
//! |---|---|
//! | reads floors, trust and clocks; stores what is accepted | is this statement accepted, known already, or refused, and by which code? |

use std::path::{Component, Path, PathBuf};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostEpoch, HostId, TopologyId, UnixSeconds};
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_common::statement::{HostBinding, SliceStatement};
use moorline_common::topology::{HostSpec, MountKind};
use moorline_common::trust::TrustRoot;

use crate::config::Policy;
use crate::ledger::Floor;
use crate::trust::Trust;

/// This host, as statements must name it.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its id.
    pub host_id: HostId,
    /// Its epoch.
    pub epoch: HostEpoch,
    /// Its X25519 public key.
    pub sealing_key: [u8; 32],
}

/// What becomes of a statement that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be stored, then acted on.
    New,
    /// It was accepted before.
    Known,
}

/// What the judgement of a slice needs to know of this host.
#[derive(Debug, Clone, Copy)]
pub struct SliceContext<'a> {
    /// The newest slice that was accepted for the topology.
    pub floor: Option<&'a Floor>,
    /// The topology that this host is bound to.
    pub pinned: Option<&'a TopologyId>,
    /// What this host allows.
    pub policy: &'a Policy,
    /// The paths of the engine's socket, which no container may have.
    pub engine_sockets: &'a [PathBuf],
    /// The latest that it can be: the greater of wall clock and time floor.
    pub now: UnixSeconds,
}

/// Verifies a slice up to its content: type, signatures, cluster, host, content hash.
///
/// # Errors
/// A [`Fault`] with the code of the first check that failed.
pub fn verify_slice(envelope: Envelope, trust: &Trust, own: &Own) -> Result<(Verified<SliceStatement>, HostSpec), Fault> {
    let signed = Signed::<SliceStatement>::new(envelope)?;
    let (root, binding) = roots_of(trust)?;
    check_epoch(binding.statement(), own)?;
    let slice = root.statement().verify_slice(signed, binding.statement())?;
    let spec = slice.statement().spec()?;
    Ok((slice, spec))
}

/// Judges a verified slice against what this host has accepted before and what it allows.
///
/// # Errors
/// A [`Fault`] with the code of the first check that failed.
pub fn judge_slice(slice: &Verified<SliceStatement>, spec: &HostSpec, trust: &Trust, context: SliceContext<'_>) -> Result<Verdict, Fault> {
    let (root, binding) = roots_of(trust)?;
    let statement = slice.statement();
    let payload_sha256 = slice.envelope().payload_sha256();
    let known = context.floor.is_some_and(|f| f.generation == statement.generation && f.payload_sha256 == payload_sha256);
    check_floors(statement, context.floor, binding.statement(), known)?;
    if let Some(pinned) = context.pinned.filter(|pinned| **pinned != statement.topology) {
        return Err(Fault::new(
            Code::AlreadyApplied,
            format!("topology `{pinned}` is applied on this host; take it down (`moorctl down {pinned}`) before `{}`", statement.topology),
        ));
    }
    if !known {
        check_root_expiry(root.statement(), context.now)?;
        if context.now > statement.deliver_by {
            return Err(Fault::new(Code::Expired, "the slice was delivered after its deliver_by; push it again"));
        }
    }
    check_policy(spec, context.policy, context.engine_sockets)?;
    Ok(if known { Verdict::Known } else { Verdict::New })
}

fn check_floors(statement: &SliceStatement, floor: Option<&Floor>, binding: &HostBinding, known: bool) -> Result<(), Fault> {
    let accepted = floor.map_or(Generation(0), |f| f.generation);
    let bound = binding.generation_floors.get(&statement.topology).copied().unwrap_or_default();
    let lowest = accepted.max(bound);
    if statement.generation < lowest {
        return Err(Fault::new(
            Code::GenerationRegressed,
            format!("generation {} of `{}` is lower than {lowest}, which this host has accepted", statement.generation, statement.topology),
        ));
    }
    if !known && floor.is_some_and(|f| f.generation == statement.generation) {
        return Err(Fault::new(
            Code::Equivocation,
            format!("generation {} of `{}` was accepted with other content before", statement.generation, statement.topology),
        ));
    }
    Ok(())
}

/// Verifies and judges a binding.
///
/// # Errors
/// A [`Fault`] with the code of the first check that failed.
pub fn judge_binding(envelope: Envelope, trust: &Trust, own: &Own, now: UnixSeconds) -> Result<(Verified<HostBinding>, Verdict), Fault> {
    let signed = Signed::<HostBinding>::new(envelope)?;
    let Some(root) = &trust.root else { return Err(no_root()) };
    let binding = root.statement().verify_binding(signed, Some(&own.host_id))?;
    let statement = binding.statement();
    check_epoch(statement, own)?;
    if statement.sealing_key != own.sealing_key {
        return Err(Fault::new(Code::BadContent, "the binding names another sealing key than this host's"));
    }
    let payload = &binding.envelope().payload;
    if let Some(held) = &trust.binding {
        let serial = held.statement().serial;
        if statement.serial < serial {
            return Err(Fault::new(Code::GenerationRegressed, format!("binding {} is older than {serial}", statement.serial)));
        }
        if statement.serial == serial {
            return if held.envelope().payload == *payload {
                Ok((binding, Verdict::Known))
            } else {
                Err(Fault::new(Code::Equivocation, format!("binding {serial} was accepted with other content before")))
            };
        }
    }
    check_root_expiry(root.statement(), now)?;
    Ok((binding, Verdict::New))
}

fn roots_of(trust: &Trust) -> Result<(&Verified<TrustRoot>, &Verified<HostBinding>), Fault> {
    let root = trust.root.as_ref().ok_or_else(no_root)?;
    let binding = trust.binding.as_ref();
    let binding = binding.ok_or_else(|| Fault::new(Code::NotApproved, "this host awaits approval (`moorctl host approve`)"))?;
    Ok((root, binding))
}

fn no_root() -> Fault {
    Fault::new(Code::NoTrustRoot, "this host has no trust root yet; `moorctl init` gives one to the hub")
}

fn check_epoch(binding: &HostBinding, own: &Own) -> Result<(), Fault> {
    if binding.host_epoch == own.epoch {
        return Ok(());
    }
    Err(Fault::new(Code::WrongEpoch, "the binding is for an earlier life of this host; approve it again"))
}

fn check_root_expiry(root: &TrustRoot, now: UnixSeconds) -> Result<(), Fault> {
    if now < root.expires {
        return Ok(());
    }
    Err(Fault::new(Code::RootExpired, format!("trust root {} has expired; only its successor is accepted", root.version)))
}

/// What a slice may take from the host: paths below the allowed folders, and never the engine itself.
fn check_policy(spec: &HostSpec, policy: &Policy, engine_sockets: &[PathBuf]) -> Result<(), Fault> {
    let Some(docker) = &spec.docker else { return Ok(()) };
    for (name, service) in &docker.services {
        for mount in service.volumes.values().filter(|m| m.kind == MountKind::Bind) {
            let source = mount.source.as_deref().unwrap_or_default();
            check_path(Path::new(source), policy, engine_sockets, &format!("service `{name}`"))?;
        }
    }
    for (name, volume) in &docker.volumes {
        // The engine's `local` driver mounts any path of the host by this option.
        if let Some(device) = volume.driver_opts.get("device").filter(|d| d.starts_with('/') || d.contains("..")) {
            check_path(Path::new(device), policy, engine_sockets, &format!("volume `{name}`"))?;
        }
    }
    Ok(())
}

fn check_path(source: &Path, policy: &Policy, engine_sockets: &[PathBuf], who: &str) -> Result<(), Fault> {
    let denied = |why: &str| Err(Fault::new(Code::PolicyDenied, format!("{who} may not mount `{}`: {why}", source.display())));
    let plain = source.is_absolute() && source.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !plain {
        return denied("it is no plain absolute path");
    }
    let has_engine =
        engine_sockets.iter().any(|socket| socket.starts_with(source)) || source.file_name().is_some_and(|n| n == "docker.sock");
    if has_engine && !policy.bind_roots.iter().any(|root| root == source) {
        return denied("it holds the engine's socket");
    }
    if !policy.bind_roots.iter().any(|root| source.starts_with(root)) {
        return denied("it is outside the bind_roots of this host's policy file");
    }
    Ok(())
}
