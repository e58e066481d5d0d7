//! Moorline's hub: remembers what operators signed and delivers it to agents.
//!
//! The hub holds no signing key. It can withhold, delay or repeat, never invent: every fault of the hub
//! is a question of *when*, never of *what*.
//!
//! | module | what it owns |
//! |---|---|
//! | [`cmd`] | the verbs of the command line, one per file |
//! | [`config`], [`limits`], [`rate`], [`clock`], [`files`] | configuration, every bound, the clocks, private files |
//! | [`server`] | start-up and shutdown: binds, serves, drains |
//! | [`tls`], [`admission`], [`auth`], [`pki`] | connections, whose turn it is, who is on them, and the embedded CA |
//! | [`service`] | the gRPC services: messages in, verbs out |
//! | [`hub`] | what all parts of a running hub share |
//! | [`fleet`] | hosts as they are now, in memory |
//! | [`keeper`] | the task that hands the store what hosts say |
//! | [`convergence`] | the task that sends slices again until hosts have them |
//! | [`saga`] | runs sagas: work of several steps that ends, is undone, or stands still visibly |
//! | [`rollout`] | the task that gives hosts a new revision one after the other |
//! | [`ops`] | operations on their way to hosts, their news and journals on their way to operators |
//! | [`slices`] | what a slice makes present |
//! | [`cloud`] | what is done in clouds |
//! | [`inventory`] | the task that asks clouds what they have, and compares it with what was wanted |
//! | [`store`] | what must not be forgotten; [`events`] records every decision |
//!
//! Nothing here imports a driver, and no message type leaves [`service`].

pub mod admission;
pub mod auth;
pub mod clock;
pub mod cloud;
pub mod cmd;
pub mod config;
pub mod convergence;
pub mod events;
pub mod files;
pub mod fleet;
pub mod hub;
pub mod inventory;
pub mod keeper;
pub mod limits;
pub mod ops;
pub mod pki;
pub mod rate;
pub mod rollout;
pub mod saga;
pub mod server;
pub mod service;
pub mod slices;
pub mod store;
pub mod tls;

pub use config::Config;
pub use server::Server;
