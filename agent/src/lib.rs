//! Moorline's agent: makes one host match its operator-signed slice.
//!
//! | module | what it owns |
//! |---|---|
//! | [`config`], [`limits`] | what may be set, and what is bounded |
//! | [`identity`] | keys, certificate and the lock of the state folder |
//! | [`intake`] | the only door for signed statements |
//! | [`trust`], [`ledger`], [`db`] | what was believed, accepted and applied |
//! | [`trial`] | whether the newest slice stays, or its signed fallback comes back |
//! | [`journal`] | what is about to be done, durable before it is |
//! | [`lane`] | one FIFO per resource |
//! | [`reconcile`] | observe, plan, do, report |
//! | [`ops`] | what operators order once |
//! | [`driver`] | the engine |
//! | [`vault`] | the values of secrets: sealed on the disk, open in memory |
//! | [`registries`] | by what private registries let this host in |
//! | [`link`] | the one connection to the hub |
//! | [`report`], [`admin`], [`doctor`] | what the agent says about itself |
//! | [`crash`], [`plant`] | where tests kill the agent, and which defects they plant in it |
//! | [`run`], [`teardown`] | puts the parts together; takes a topology off the host |
//! | [`cli`] | the verbs of `moorline-agent` |

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod crash;
pub mod db;
pub mod doctor;
pub mod driver;
pub mod files;
pub mod identity;
pub mod intake;
pub mod journal;
pub mod lane;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod ops;
pub mod plant;
pub mod reconcile;
pub mod records;
pub mod registries;
pub mod report;
pub mod run;
pub mod teardown;
#[cfg(test)]
mod testing;
pub mod trial;
pub mod trust;
pub mod vault;
