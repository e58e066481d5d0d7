//! What a ledger is given.

use std::path::Path;
use std::sync::Arc;

use moorline_common::id::{Generation, TopologyId, UnixSeconds, VersionHash};

use super::{NOW, Operator};
use crate::clock::BootTime;
use crate::config::Policy;
use crate::db::Db;
use crate::intake::Parts;
use crate::intake::judge::Own;
use crate::intake::policy::Guarded;
use crate::ledger::{Admission, Ledger};
use crate::trust::TrustStore;
use crate::vault::Vault;

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
        fallback: None,
    }
}

/// A moment after a start of the machine.
pub fn boot() -> BootTime {
    BootTime { boot_id: "b".to_owned(), uptime_s: 1, wall: UnixSeconds(NOW) }
}

impl Operator {
    /// What such an intake is made of.
    pub fn intake_parts(&self, db: &Db) -> Parts {
        Parts {
            ledger: Ledger::new(db.clone()),
            trust_store: TrustStore::new(db.clone()),
            root_pin: self.pin(),
            own: Own::of(&self.keys),
            policy: Policy::default(),
            guarded: Guarded {
                engine_sockets: vec!["/var/run/docker.sock".into(), "/run/docker.sock".into()],
                folders: vec!["/srv/moorline/agent".into()],
            },
            vault: Arc::new(Vault::new(Path::new("/dev/shm/moorline-tests"), Path::new("/nowhere"), &self.keys).unwrap()),
            quarantine: None,
        }
    }
}
