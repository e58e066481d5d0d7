//! How a host keeps what it is given: the changes of form that a config goes through on its way in and out. Written from what hosts
//! do, and not from what Moorline makes of it, so that the two check each other.
//!
//! | module | what it knows |
//! |---|---|
//! | [`property`] | property strings: `a=b,c=d` |
//! | [`drive`] | disks and mount points |
//! | [`net`] | network cards |
//! | [`text`] | tags, descriptions, sizes |
//! | [`types`] | what a key's value is: a number, yes or no, or a text |

pub mod drive;
pub mod net;
pub mod property;
pub mod text;
pub mod types;
