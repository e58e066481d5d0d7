//! What the core's own tests share.

use std::collections::BTreeMap;

use crate::fault::{Code, Fault};
use crate::id::{ClusterId, HostEpoch, HostId, HostName, UnixSeconds};
use crate::sign::PrivateKey;
use crate::statement::HostBinding;

/// The key of that seed.
pub fn key(seed: u8) -> PrivateKey {
    PrivateKey::from_seed(&[seed; 32])
}

/// Of the host with key 9, under the name `name`.
pub fn binding(name: &str) -> HostBinding {
    HostBinding {
        cluster: ClusterId::parse("c").unwrap(),
        host_id: HostId::of_key(&key(9).public()),
        host_key: key(9).public(),
        sealing_key: [0; 32],
        host_epoch: HostEpoch::parse("0".repeat(32)).unwrap(),
        name: HostName::parse(name).unwrap(),
        labels: BTreeMap::new(),
        generation_floors: BTreeMap::new(),
        serial: 1,
        issued_at: UnixSeconds(1),
    }
}

/// Why something was refused.
pub fn code<T>(result: Result<T, Fault>) -> Code {
    match result {
        Ok(_) => panic!("accepted"),
        Err(fault) => fault.code,
    }
}
