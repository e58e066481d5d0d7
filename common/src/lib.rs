//! Moorline's pure core.
//!
//! Everything that decides lives here and does no IO: no tokio, no sockets, no files, no clock
//! (time is an argument). The hub, the agent and `moorctl` share it, so that what the operator's
//! machine plans is what the agent does.
//!
//! | module | what it decides |
//! |---|---|
//! | [`id`] | what a well-formed name, id or hash is |
//! | [`topology`] | what the operator's file means for each host |
//! | [`canonical`] | which bytes are hashed and signed |
//! | [`sign`], [`trust`] | whether a signature counts |
//! | [`statement`] | what can be signed |
//! | [`enrol`] | how a new host proves itself to the operator |
//! | [`op`] | what may happen to an operation, and what a journal says about all of them |
//! | [`journal`] | whether a journal's lines are whole and in order |
//! | [`observe`], [`plan`], [`drift`] | what differs and what to do about it |
//! | [`convergence`] | when the hub pushes again |
//! | [`rollout`] | which hosts get a new revision next, and when that stops |
//! | [`saga`] | what work of several steps does next, and what a host must be shown for it |
//! | [`cloud`] | what in a cloud is not as its spec says |
//! | [`maintenance`] | when a host may be given other content |
//! | [`fallback`] | whether a slice stays or is given up for its fallback |
//! | [`registry`] | whose credentials an image needs, and where they stand |
//! | [`pulling`] | how far a pull is, in words |
//! | [`pve`] | what Proxmox VE's values mean, and when two of them are the same |
//! | [`backoff`] | how long to wait before the next try |
//! | [`fault`] | the stable error codes |

pub mod backoff;
pub mod canonical;
pub mod cloud;
pub mod convergence;
pub mod drift;
pub mod enrol;
pub mod fallback;
pub mod fault;
pub mod id;
pub mod journal;
pub mod maintenance;
pub mod observe;
pub mod op;
pub mod plan;
pub mod pulling;
pub mod pve;
pub mod registry;
pub mod rollout;
pub mod saga;
pub mod sign;
pub mod statement;
pub mod survey;
#[cfg(test)]
mod testing;
pub mod topology;
pub mod trust;
