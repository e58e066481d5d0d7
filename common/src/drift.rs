//! Drift: one field of one resource whose live value differs from the slice.

use serde::{Deserialize, Serialize};

use crate::id::ResourceId;

/// A difference between the slice and the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// The resource.
    pub resource: ResourceId,
    /// The field, in the topology file's words, such as `restart` or `environment.HOST`.
    pub field: String,
    /// What the slice says, for people.
    pub expected: String,
    /// What the host has, for people.
    pub actual: String,
}
