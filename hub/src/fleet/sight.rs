//! What the hosts of a rollout say of its revision.

use moorline_common::convergence::is_definite;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, TopologyId, VersionHash};
use moorline_common::observe::EngineState;

use super::Fleet;
use super::live::Live;
use crate::store::RefusedKind;

/// What one host says of a revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Whether it is there and has spoken in its session.
    pub connected: bool,
    /// Whether what is pushed is kept from it.
    pub is_cordoned: bool,
    /// Whether it cannot have accepted the revision: it is cordoned, or waits for its maintenance window.
    pub is_kept_out: bool,
    /// Whether it has accepted the revision.
    pub accepted: bool,
    /// Whether it has been healthy with it for long enough.
    pub healthy: bool,
    /// Whether nothing is wrong with it now.
    pub well: bool,
    /// Whether it has gone back from it.
    pub rolled_back: bool,
    /// Why it refused it for good, if it did.
    pub refused: Option<Fault>,
}

impl Fleet {
    /// What each of `hosts` says of a revision, in their order.
    #[must_use]
    pub fn said<'h>(&self, hosts: impl Iterator<Item = &'h HostId>, topology: &TopologyId, generation: Generation) -> Vec<Said> {
        let inner = self.lock();
        hosts.map(|host| inner.hosts.get(host).map(|live| live.said(topology, generation)).unwrap_or_default()).collect()
    }

    /// Why a host went back from a generation, by its last report.
    #[must_use]
    pub fn why_back(&self, host: &HostId, generation: Generation) -> Option<String> {
        let inner = self.lock();
        let back = inner.hosts.get(host)?.report.as_ref()?.rolled_back.as_ref();
        back.filter(|r| r.generation == generation).map(|r| r.reason.clone())
    }

    /// What is wrong with a host.
    #[must_use]
    pub fn trouble(&self, host: &HostId) -> Option<String> {
        let inner = self.lock();
        inner.hosts.get(host)?.last_error(inner.root_version).map(|fault| fault.to_string())
    }

    /// Whether a host says that it has this content of this topology.
    #[must_use]
    pub fn has_applied(&self, host: &HostId, topology: &TopologyId, hash: &VersionHash) -> bool {
        let inner = self.lock();
        let beat = inner.hosts.get(host).and_then(|live| live.beat.as_ref());
        beat.is_some_and(|b| b.topology.as_ref() == Some(topology) && b.applied.as_ref() == Some(hash))
    }
}

impl Live {
    fn said(&self, topology: &TopologyId, generation: Generation) -> Said {
        let of_it = |named: Generation| self.beat.as_ref().is_some_and(|b| b.topology.as_ref() == Some(topology)) && named == generation;
        let beat = self.beat.as_ref();
        let target = self.target.as_ref().filter(|t| t.topology == *topology && t.generation == generation);
        let refusal = self.refusals.get(&RefusedKind::Slice).filter(|r| target.is_some_and(|t| t.payload_sha256 == r.payload_sha256));
        let connected = self.session.as_ref().is_some_and(|s| s.beat_seen && !s.cut.is_cancelled());
        let accepted = self.has_accepted(topology, generation);
        let waits = connected && refusal.is_some_and(|r| r.fault.code == Code::OutsideMaintenance);
        Said {
            connected,
            is_cordoned: self.is_cordoned,
            is_kept_out: !accepted && (self.is_cordoned || waits),
            accepted,
            healthy: beat.is_some_and(|b| of_it(b.healthy_generation)),
            well: beat.is_some_and(|b| b.last_error_code.is_empty() && !b.observe_error && b.engine == EngineState::Ready),
            rolled_back: beat.is_some_and(|b| of_it(b.rolled_back_generation)),
            refused: refusal.map(|r| r.fault.clone()).filter(|fault| is_definite(fault.code)),
        }
    }
}
