//! The journal as bytes: its lines, and what a chain of segments says. Pure: the agent's files and what a hub passes on
//! are checked by the same code.

mod codec;
mod walk;

pub use codec::{Header, Rest, Scan, VERSION, beginning, begins, encode, scan, seal};
pub use walk::{Damage, Walk, Walker};

/// The largest line of a record, in bytes.
pub const LINE_MAX: usize = 256 * 1024;
/// The largest line of a checkpoint, in bytes: an operation is three records there.
pub const PART_LINE_MAX: usize = 4 * LINE_MAX;

/// The newest record.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Head {
    /// Its number; 0 for an empty journal.
    pub seq: u64,
    /// Lowercase hex SHA-256 of its line; empty for an empty journal.
    pub hash: String,
}

impl Head {
    /// The first 16 bytes of the hash, for the heartbeat.
    #[must_use]
    pub fn short(&self) -> Vec<u8> {
        hex::decode(self.hash.get(..32).unwrap_or_default()).unwrap_or_default()
    }
}
