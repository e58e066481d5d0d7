//! The revisions that a saga pushes: the operator's file, and what undoes that.

use moorline_common::id::{Generation, TopologyId};

use crate::revision::SignedRevision;

/// A revision of a file, and the one that brings back what was before it.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The topology.
    pub topology: TopologyId,
    /// The newest generation, from which the first one follows.
    pub base: Generation,
    /// The file's.
    pub forward: SignedRevision,
    /// What was before.
    pub back: SignedRevision,
}
