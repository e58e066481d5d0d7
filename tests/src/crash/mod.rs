//! Killing an agent anywhere, and checking what it did: its journal against what the engine itself saw.
//!
//! | module | what it owns |
//! |---|---|
//! | [`site`] | a hub, one host with its agent, an operator who signs; lives and deaths of the agent |
//! | [`orders`] | what an operator signs |
//! | [`events`] | the engine's own record of what happened to the site's containers |
//! | [`records`] | the host's journal, as `moorline-agent journal export` gives it |
//! | [`check`] | what must hold between the three |
//! | [`stories`] | for each crash point a story that passes it |
//! | [`guests`] | the same on a host of Proxmox VE |
//! | [`rounds`] | random stories, for as long as asked |

pub mod check;
pub mod events;
pub mod guests;
pub mod orders;
pub mod records;
pub mod rounds;
pub mod site;
pub mod stories;
