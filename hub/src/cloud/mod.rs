//! Clouds: what the hub does there for sagas and inventory. It holds tokens, and gives them to nobody but their cloud.
//!
//! | module | what it is |
//! |---|---|
//! | [`types`], [`error`] | what a cloud has, and why it did not do something, in Moorline's words |
//! | [`digitalocean`] | DigitalOcean's API behind [`Provider`] |
//! | [`steps`] | what sagas do: each can be done again after a crash, and finds what an earlier try left |
//! | [`budgets`] | every bound |
//! | [`clouds`] | the clouds that a hub is configured for |
//! | [`config`], [`secret`] | the section of `hub.toml`, and tokens |
//!
//! A cloud's word is the hub's claim, and authorises nothing on a host. Nothing here stores anything: who calls remembers.

use futures_util::future::BoxFuture;

pub mod budgets;
pub mod clouds;
pub mod config;
pub mod digitalocean;
pub mod error;
pub mod secret;
pub mod steps;
#[cfg(test)]
pub(crate) mod tests;
pub mod types;

pub use clouds::Clouds;
pub use config::CloudConfig;
pub use digitalocean::DigitalOcean;
pub use error::CloudError;
pub use secret::{Secret, TokenSource};
pub use types::{
    Accepted, Action, ActionId, ActionStatus, Address, Change, Droplet, DropletId, DropletStatus, Image, NewDroplet, Snapshot, SnapshotId,
};

/// The result of a call.
pub type Result<T> = std::result::Result<T, CloudError>;
/// A call under way.
pub type Call<'a, T> = BoxFuture<'a, Result<T>>;

/// A cloud. Each verb is one call, or the pages of one listing; none looks at what an earlier one did.
///
/// What changes something is sent once at most, unless it cannot have arrived or twice is as good as once: who calls finds out by
/// [`CloudError::maybe_done`] and looks.
pub trait Provider: Send + Sync {
    /// What it is called, such as `digitalocean`.
    fn name(&self) -> &'static str;

    /// Asks for a droplet. That it is accepted says nothing of what becomes of it.
    fn create_droplet<'a>(&'a self, wanted: &'a NewDroplet) -> Call<'a, Accepted>;
    /// The droplet of that number.
    fn droplet(&self, id: DropletId) -> Call<'_, Droplet>;
    /// The droplets that a listing shows with a tag. New ones may be missing, deleted ones still be there.
    fn droplets_by_tag<'a>(&'a self, tag: &'a str) -> Call<'a, Vec<Droplet>>;
    /// The droplets that a listing shows under exactly this name. New ones may be missing, deleted ones still be there.
    fn droplets_by_name<'a>(&'a self, name: &'a str) -> Call<'a, Vec<Droplet>>;
    /// Every droplet that a listing shows, by the inventory's token.
    fn inventory(&self) -> Call<'_, Vec<Droplet>>;
    /// Deletes the droplet of that number.
    fn delete_droplet(&self, id: DropletId) -> Call<'_, ()>;

    /// Begins a change.
    fn act<'a>(&'a self, id: DropletId, change: &'a Change) -> Call<'a, Action>;
    /// The action of that number.
    fn action(&self, id: ActionId) -> Call<'_, Action>;
    /// Everything that was ever begun on a droplet.
    fn actions_of(&self, id: DropletId) -> Call<'_, Vec<Action>>;

    /// Gives a droplet a tag. It may have it already.
    fn tag<'a>(&'a self, id: DropletId, tag: &'a str) -> Call<'a, ()>;
    /// Takes a tag from a droplet. It may not have it.
    fn untag<'a>(&'a self, id: DropletId, tag: &'a str) -> Call<'a, ()>;

    /// The snapshot of that number.
    fn snapshot(&self, id: SnapshotId) -> Call<'_, Snapshot>;
    /// The snapshots of a droplet that a listing shows.
    fn snapshots_of(&self, id: DropletId) -> Call<'_, Vec<Snapshot>>;
    /// The snapshots of droplets that a listing shows under exactly this name, whether or not their droplets are still there.
    fn snapshots_by_name<'a>(&'a self, name: &'a str) -> Call<'a, Vec<Snapshot>>;
    /// Every snapshot of a droplet that a listing shows, by the inventory's token.
    fn snapshots(&self) -> Call<'_, Vec<Snapshot>>;
    /// Deletes the snapshot of that number.
    fn delete_snapshot(&self, id: SnapshotId) -> Call<'_, ()>;
}
