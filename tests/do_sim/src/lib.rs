//! A simulated DigitalOcean: as late, as forgetful and as strict as the real one, so that a client that works here has met what clouds do.
//!
//! | module | what it is |
//! |---|---|
//! | [`setup`] | what an account begins as: tokens, sizes, latencies |
//! | [`world`] | the account: plain data, changed by calls and by time |
//! | [`sim`] | the same to be asked in process, with delays and cut connections |
//! | [`https`] | the same over HTTPS, with a certificate authority of its own |
//! | [`boot`] | a real process for every droplet that is on |
//! | [`control`] | switching faults and looking at the world over HTTPS |
//! | [`request`] | a call and its answer |
//! | [`schema`] | calls and answers against the API's own description |
//!
//! Nothing here uses what Moorline knows of DigitalOcean, so that the two check each other. What the API takes and gives is in its official
//! description; what it does beside that is known from reports of those who use it, and stands in comments where it is made.

mod api;
pub mod boot;
pub mod control;
pub mod https;
pub mod request;
pub mod schema;
pub mod setup;
pub mod sim;
pub mod world;

pub use request::{Request, Response};
pub use setup::{Latencies, Setup, Token};
pub use sim::{Cut, Sim};
pub use world::World;
pub use world::action::Fate;
pub use world::faults::{ActionFault, Birth, CallFault, Chaos, CreateFault, Faults, Shifts, Wrong};
pub use world::hand::Hand;
pub use world::power::Power;

#[cfg(test)]
mod tests;
