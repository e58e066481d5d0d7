//! How much an operation can do, and so who may order it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The class of an operation. The agent computes it from kind and parameters; nobody tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Only looks.
    R0,
    /// What an accepted slice implies.
    R1,
    /// Can be undone.
    R2,
    /// Disrupts what runs.
    R3,
    /// Destroys data for good.
    R4,
    /// Reaches past the container's walls. Also needs the host's local policy to allow it.
    P,
}

impl Class {
    /// Every class, from the least to the greatest.
    pub const ALL: [Class; 6] = [Class::R0, Class::R1, Class::R2, Class::R3, Class::R4, Class::P];

    /// The class as it is written in roots and policies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::R0 => "R0",
            Class::R1 => "R1",
            Class::R2 => "R2",
            Class::R3 => "R3",
            Class::R4 => "R4",
            Class::P => "P",
        }
    }

    /// The class behind its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }

    /// For how long an order of this class is valid when the operator says nothing, in seconds: 15 minutes for what
    /// disrupts or destroys, an hour for the rest. It is what a hostile hub can delay it by.
    #[must_use]
    pub const fn window_default_s(self) -> u64 {
        match self {
            Class::R0 | Class::R1 | Class::R2 => 3600,
            Class::R3 | Class::R4 | Class::P => 900,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
