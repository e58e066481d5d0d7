//! The intake's judgement. Pure: time, trust and floors are handed in.
//!
//! | caller does IO | this decides |
//! |---|---|
//! | reads floors, trust and clocks; stores what is accepted | is this statement accepted, known already, or refused, and by which code? |

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds, VersionHash};
use moorline_common::maintenance;
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_common::statement::{HostBinding, SliceStatement};
use moorline_common::topology::HostSpec;
use moorline_common::trust::TrustRoot;

use super::policy::{self, Guarded, Resolve};
use crate::config::Policy;
use crate::identity::HostKeys;
use crate::ledger::{Floor, FloorState};
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

impl Own {
    /// The host with these keys.
    #[must_use]
    pub fn of(keys: &HostKeys) -> Self {
        Self { host_id: keys.host_id(), epoch: keys.epoch.clone(), sealing_key: keys.sealing_key() }
    }
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
    /// The content that is in force for the topology.
    pub in_force: Option<&'a VersionHash>,
    /// What the host's clock says.
    pub wall: UnixSeconds,
    /// The topology that this host is bound to.
    pub pinned: Option<&'a TopologyId>,
    /// What this host allows.
    pub policy: &'a Policy,
    /// What no container may have.
    pub guarded: &'a Guarded,
    /// Where a path of the host leads.
    pub resolve: Resolve,
    /// What time it is, as far as this host can know.
    pub time: Time,
}

/// What time it is, as far as this host can know.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// The latest that it can be: the greater of wall clock and time floor.
    pub now: UnixSeconds,
    /// Nothing can have been signed after this.
    pub horizon: UnixSeconds,
}

/// The newest binding that this host has accepted; it counts even when a new root no longer vouches for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingFloor {
    /// Its serial.
    pub serial: u64,
    /// The payload's SHA-256.
    pub payload_sha256: String,
    /// The name that it gave this host.
    pub name: HostName,
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
    // What was taken down on the host itself comes back only in time, like something new.
    if !known || context.floor.is_some_and(|f| f.state == FloorState::Cleared) {
        check_root_expiry(root.statement(), context.time.now)?;
        if context.time.now > statement.deliver_by {
            return Err(Fault::new(Code::Expired, "the slice was delivered after its deliver_by; push it again"));
        }
        check_issued(statement.issued_at, context.time)?;
    }
    policy::check(&statement.topology, spec, context.policy, context.guarded, context.resolve)?;
    if !known {
        check_windows(statement, spec, context)?;
    }
    Ok(if known { Verdict::Known } else { Verdict::New })
}

/// What changes nothing on the host, and what finds nothing there to disturb, waits for no window.
fn check_windows(statement: &SliceStatement, spec: &HostSpec, context: SliceContext<'_>) -> Result<(), Fault> {
    let windows = spec.policy.as_ref().map(|policy| policy.maintenance.as_slice()).unwrap_or_default();
    maintenance::require_sound(windows)?;
    let disturbs = context.in_force.is_some_and(|hash| *hash != statement.version_hash);
    if statement.at_once || !disturbs {
        return Ok(());
    }
    match maintenance::opens_at(windows, context.wall)? {
        None => Ok(()),
        Some(at) => Err(Fault::new(
            Code::OutsideMaintenance,
            format!("generation {} waits for the maintenance window that opens at {}", statement.generation, maintenance::moment(at)),
        )),
    }
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

/// Verifies and judges a binding against the newest one that was accepted.
///
/// # Errors
/// A [`Fault`] with the code of the first check that failed.
pub fn judge_binding(
    envelope: Envelope,
    trust: &Trust,
    own: &Own,
    floor: Option<&BindingFloor>,
    time: Time,
) -> Result<(Verified<HostBinding>, Verdict), Fault> {
    let signed = Signed::<HostBinding>::new(envelope)?;
    let Some(root) = &trust.root else { return Err(no_root()) };
    let binding = root.statement().verify_rebinding(signed, Some(&own.host_id), floor.map(|f| &f.name))?;
    let statement = binding.statement();
    check_epoch(statement, own)?;
    if statement.sealing_key != own.sealing_key {
        return Err(Fault::new(Code::BadContent, "the binding names another sealing key than this host's"));
    }
    if let Some(floor) = floor {
        if statement.serial < floor.serial {
            return Err(Fault::new(Code::GenerationRegressed, format!("binding {} is older than {}", statement.serial, floor.serial)));
        }
        if statement.serial == floor.serial {
            if binding.envelope().payload_sha256() != floor.payload_sha256 {
                return Err(Fault::new(Code::Equivocation, format!("binding {} was accepted with other content before", floor.serial)));
            }
            // It may have been left out at the start, under a root that did not vouch for it.
            let verdict = if trust.binding.is_some() { Verdict::Known } else { Verdict::New };
            return Ok((binding, verdict));
        }
    }
    check_root_expiry(root.statement(), time.now)?;
    check_issued(statement.issued_at, time)?;
    Ok((binding, Verdict::New))
}

/// Refuses what was signed further in the future than clocks may differ: it would raise the time floor.
///
/// # Errors
/// [`Code::NotYetValid`].
pub fn check_issued(issued_at: UnixSeconds, time: Time) -> Result<(), Fault> {
    if issued_at <= time.horizon {
        return Ok(());
    }
    let ahead = issued_at.0.saturating_sub(time.now.0) / 3600;
    Err(Fault::new(
        Code::NotYetValid,
        format!("signed {ahead} hours after this host's time; set the clocks of the host and of the operator's machine, and sign again"),
    ))
}

pub(super) fn roots_of(trust: &Trust) -> Result<(&Verified<TrustRoot>, &Verified<HostBinding>), Fault> {
    let root = trust.root.as_ref().ok_or_else(no_root)?;
    let binding = trust.binding.as_ref();
    let binding = binding.ok_or_else(|| Fault::new(Code::NotApproved, "this host awaits approval (`moorctl host approve`)"))?;
    Ok((root, binding))
}

fn no_root() -> Fault {
    Fault::new(Code::NoTrustRoot, "this host has no trust root yet; `moorctl init` gives one to the hub")
}

pub(super) fn check_epoch(binding: &HostBinding, own: &Own) -> Result<(), Fault> {
    if binding.host_epoch == own.epoch {
        return Ok(());
    }
    Err(Fault::new(Code::WrongEpoch, "the binding is for an earlier life of this host; approve it again"))
}

pub(super) fn check_root_expiry(root: &TrustRoot, now: UnixSeconds) -> Result<(), Fault> {
    if now < root.expires {
        return Ok(());
    }
    Err(Fault::new(Code::RootExpired, format!("trust root {} has expired; only its successor is accepted", root.version)))
}
