//! What Proxmox VE's values mean: pure, and the same on the operator's machine and on the host.
//!
//! [`keys`] says what each key of a guest's config holds, [`value`] when two values mean the same and how one is written, [`property`]
//! reads the `key=value` lists that most of them are, [`upid`] tells tasks apart, [`incarnation`] guests that had the same number.

pub mod answer;
mod formats;
mod forms;
pub mod guest;
pub mod incarnation;
pub mod keys;
pub mod lenient;
mod machine;
pub mod names;
pub mod privilege;
pub mod property;
pub mod scalar;
pub mod tags;
pub mod upid;
pub mod value;
mod vmid;
pub mod volume;

pub use keys::GuestKind;
pub use vmid::{NoVmid, RESOURCE, Vmid};
