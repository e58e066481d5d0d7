//! The test fleet: real processes, real TLS, and the real engine where one answers.
//!
//! | module | what it owns |
//! |---|---|
//! | [`binaries`] | where the built programs are |
//! | [`process`] | starting, killing and reading the logs of one program |
//! | [`wait`] | waiting for a condition, with a deadline |
//! | [`fleet`] | a hub, an operator's home and agents in one temporary folder |
//! | [`operator`] | the Operator service, called as an operator's machine does |
//! | [`engine`] | the Docker Engine: asking it and cleaning up behind a test |
//! | [`inspect`] | what the engine says of its objects, and two such accounts side by side |
//! | [`peer`] | Debian's `docker-compose` once more, loaded once and run for file after file |
//! | [`own_engine`] | a Docker Engine of our own, to be stopped and started |
//! | [`image`] | the image that tests and demo run, made without a registry |
//! | [`pve_sim`], [`pve`] | a simulated Proxmox VE, and one as a process of its own |
//! | [`do_sim`] | a simulated DigitalOcean |
//! | [`registry`] | a registry of our own, with a login |
//! | [`proxy`] | a recording proxy in front of the engine's socket |
//! | [`crash`] | killing an agent anywhere, and checking what it did against what the engine saw |
//! | [`leaks`] | whether a value stands anywhere, in whichever form |
//! | [`faults`] | system calls of a program that fail or take long |
//! | [`evil`] | a hub that sends whatever a test tells it to |
//! | [`storm`] | somebody who rages on the engine |
//! | [`demo`] | the guided tour behind `cargo demo` |
//!
//! Everything here is synchronous for its callers: a test reads from top to bottom. It never touches
//! an object of the engine that does not bear the labels of its own fleet.

pub mod binaries;
pub mod cloud;
pub mod crash;
pub mod demo;
pub mod engine;
pub mod evil;
pub mod faults;
pub mod fleet;
pub mod image;
pub mod inspect;
pub mod leaks;
pub mod limits;
pub mod operator;
pub mod own_engine;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod pve;
pub mod registry;
pub mod storm;
pub mod wait;

pub use moorline_do_sim as do_sim;
pub use moorline_pve_sim as pve_sim;
