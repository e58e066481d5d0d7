//! Benchmarks: what Moorline costs beside the bare engine calls and its peers, measured in the same run.
//!
//! They are programs, never timed tests: a machine's mood is no fault of the code. See [`apply`].

pub mod apply;
pub mod fleet;
pub mod host;
pub mod journal;
pub mod plan;
