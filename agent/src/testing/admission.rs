//! What a ledger is given.

use moorline_common::id::{Generation, TopologyId, UnixSeconds, VersionHash};

use super::NOW;
use crate::clock::BootTime;
use crate::ledger::Admission;

pub fn topology(name: &str) -> TopologyId {
    TopologyId::parse(name).unwrap()
}

/// A slice of topology `name` whose content is `content`, as the ledger takes it.
pub fn admission(name: &str, generation: u64, content: &str) -> Admission {
    Admission {
        topology: topology(name),
        generation: Generation(generation),
        payload_sha256: format!("{generation:064x}"),
        version_hash: VersionHash::of_bytes(content.as_bytes()),
        content_since: Generation(generation),
        hydrated: content.to_owned(),
        envelope: format!("signed {content}").into_bytes(),
        is_empty: content == "{}",
        issued_at: UnixSeconds(1000 + generation),
    }
}

/// A moment after a start of the machine.
pub fn boot() -> BootTime {
    BootTime { boot_id: "b".to_owned(), uptime_s: 1, wall: UnixSeconds(NOW) }
}
