//! Made-up values: the same ones for the same seed.

use serde::{Deserialize, Serialize};

/// A source of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Begins at a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number (SplitMix64).
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A UUID of version 4.
    pub fn uuid(&mut self) -> String {
        let (high, low) = (self.number(), self.number());
        let [a, b] = [high >> 32, (high >> 16) & 0xffff];
        let (c, d) = (0x4000 | (high & 0x0fff), 0x8000 | ((low >> 48) & 0x3fff));
        format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{:012x}", low & 0xffff_ffff_ffff)
    }
}
