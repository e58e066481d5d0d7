//! A simulated Proxmox VE, as strict as the real one: a client that works here has been told no by everything that hosts say no to.
//!
//! | module | what it is |
//! |---|---|
//! | [`setup`] | what a cluster begins as |
//! | [`world`] | the cluster: plain data, changed by calls and by time |
//! | [`sim`] | the same to be asked in process, with delays and cut connections |
//! | [`https`] | the same over HTTPS, with a certificate of its own |
//! | [`control`] | switching faults and looking at the world over HTTPS |
//! | [`request`] | a call and its answer |
//! | [`schema`] | calls against the API's own description |
//! | [`normal`] | how values are kept |
//! | [`work`] | what workers do |
//!
//! Nothing here uses what Moorline knows of Proxmox VE, so that the two check each other. What hosts do is taken from their sources, named
//! in each file; where those differ between versions, the newest one counts.

mod api;
pub mod control;
pub mod https;
pub mod normal;
pub mod request;
pub mod schema;
pub mod setup;
pub mod sim;
pub mod work;
pub mod world;

pub use request::{Answer, Request};
pub use setup::{Grant, Setup, Token};
pub use sim::{Cut, Sim};
pub use world::World;
pub use world::faults::Faults;
pub use world::guest::Kind;
pub use world::hand::Hand;

#[cfg(test)]
mod tests;
