//! Droplets that are switched on and off, for those who run what they boot.

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::unbounded_channel;

use super::World;

/// A droplet is switched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Power {
    /// On.
    On {
        /// Its number.
        id: u64,
        /// Its name.
        name: String,
        /// Its address.
        ip: String,
        /// What its first boot is told.
        user_data: String,
        /// How often it was switched on, with this time.
        boot: u32,
    },
    /// Off, or it is deleted.
    Off {
        /// Its number.
        id: u64,
        /// Whether it was asked to end by itself.
        is_asked: bool,
    },
}

impl World {
    /// Tells from now on of every droplet that is switched, in order. It is told when the account's time goes by: when somebody calls, or
    /// while [`crate::Sim::keep_time`] runs.
    pub fn watch(&mut self) -> UnboundedReceiver<Power> {
        let (sender, receiver) = unbounded_channel();
        self.watchers.push(sender);
        receiver
    }

    pub(crate) fn switched_on(&mut self, id: u64) {
        let Some(droplet) = self.droplets.get(&id) else { return };
        let (name, ip, user_data) = (droplet.name.clone(), droplet.ip(), droplet.user_data.clone());
        self.tell(&Power::On { id, name, ip, user_data, boot: droplet.boots });
    }

    pub(crate) fn switched_off(&mut self, id: u64, is_asked: bool) {
        self.tell(&Power::Off { id, is_asked });
    }

    fn tell(&mut self, power: &Power) {
        self.watchers.retain(|watcher| watcher.send(power.clone()).is_ok());
    }
}
