//! What clouds have and what they should have, compared. Pure: who asks the cloud, and who remembers, is the hub.

mod compare;

pub use compare::{MANAGED, Mismatch, SAGA, compare, is_own_tag};
