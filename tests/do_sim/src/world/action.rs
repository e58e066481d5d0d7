//! Actions, and how they come to their end.

use serde::{Deserialize, Serialize};

use super::droplet::{Pending, Status};
use super::faults::Birth;
use super::{Event, World};

/// What is done to a droplet. Actions are kept for ever.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Its number.
    pub id: u64,
    /// The droplet's.
    pub droplet: u64,
    /// What it does.
    pub change: Change,
    /// How far it is.
    pub progress: Progress,
    /// What becomes of it.
    pub fate: Fate,
    /// When it began.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// The name of the token that began it.
    pub by: String,
}

/// What an action does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the fields are the API's")]
pub enum Change {
    /// Makes the droplet.
    Create,
    /// Makes a snapshot of it.
    Snapshot { name: String },
    /// Gives it another size, and that size's disk, which cannot be undone.
    Resize { size: String, disk: bool },
    /// Gives it another name.
    Rename { name: String },
    /// Switches it on.
    PowerOn,
    /// Switches it off.
    PowerOff,
    /// Asks it to switch itself off.
    Shutdown,
    /// Asks it to start again.
    Reboot,
    /// Switches it off and on.
    PowerCycle,
}

impl Change {
    /// The API's word for it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Change::Create => "create",
            Change::Snapshot { .. } => "snapshot",
            Change::Resize { .. } => "resize",
            Change::Rename { .. } => "rename",
            Change::PowerOn => "power_on",
            Change::PowerOff => "power_off",
            Change::Shutdown => "shutdown",
            Change::Reboot => "reboot",
            Change::PowerCycle => "power_cycle",
        }
    }
}

/// How far an action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// It has not ended.
    InProgress,
    /// It says that it did what it should.
    Completed,
    /// It did not.
    Errored,
}

impl Progress {
    /// The API's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Progress::InProgress => "in-progress",
            Progress::Completed => "completed",
            Progress::Errored => "errored",
        }
    }
}

/// What becomes of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It does what it should.
    Completes,
    /// It never ends, and does nothing.
    NeverEnds,
    /// It does nothing, and says so.
    Errored,
    /// It does what it should, and says that it did not.
    ErroredAfterEffect,
    /// It does nothing, and says that it did: a snapshot whose number never appears, a droplet that does not heed a shutdown.
    NoEffect,
    /// It ends only after so many milliseconds.
    TakesMs(u64),
    /// What it makes is seen only so many milliseconds after its end.
    SeenAfterMs(u64),
}

impl World {
    /// Begins the creation of a droplet; the action's number.
    pub(crate) fn begin_creation(&mut self, droplet: u64, birth: Option<Birth>) -> u64 {
        let usual = self.setup.latencies.active;
        let (fate, takes_ms) = match birth {
            None => (Fate::Completes, usual),
            Some(Birth::NeverActive) => (Fate::NeverEnds, usual),
            Some(Birth::Errored) => (Fate::Errored, usual),
            Some(Birth::VanishesAfterMs(ms)) => {
                self.plan(ms, Event::Vanishes(droplet));
                (Fate::NeverEnds, usual)
            }
            Some(Birth::ActiveAfterMs(ms)) => (Fate::TakesMs(ms), ms),
        };
        let by = self.droplets.get(&droplet).map(|droplet| droplet.by.clone()).unwrap_or_default();
        self.begin(droplet, Change::Create, fate, usual, takes_ms, &by)
    }

    /// Begins an action on a droplet that is there and has none; its number.
    pub(crate) fn begin_action(&mut self, droplet: u64, change: Change, by: &str) -> u64 {
        let latencies = self.setup.latencies;
        let usual = match &change {
            Change::Snapshot { .. } => latencies.snapshot,
            Change::Resize { .. } => latencies.resize,
            Change::Create => latencies.active,
            Change::Rename { .. } | Change::PowerOn | Change::PowerOff | Change::Shutdown | Change::Reboot | Change::PowerCycle => {
                latencies.action
            }
        };
        let fate = self.faults.fate(change.kind(), &mut self.random);
        let takes_ms = if let Fate::TakesMs(ms) = fate { ms } else { usual };
        self.begin(droplet, change, fate, usual, takes_ms, by)
    }

    fn begin(&mut self, droplet: u64, change: Change, fate: Fate, usual_ms: u64, takes_ms: u64, by: &str) -> u64 {
        self.last_action += 1;
        let (id, now_ms) = (self.last_action, self.now_ms);
        let action =
            Action { id, droplet, change, progress: Progress::InProgress, fate, started_ms: now_ms, ended_ms: None, by: by.to_owned() };
        self.actions.insert(id, action);
        if let Some(droplet) = self.droplets.get_mut(&droplet) {
            droplet.pending = Some(Pending { action: id, until_ms: now_ms.saturating_add(usual_ms) });
        }
        if fate != Fate::NeverEnds {
            self.plan(takes_ms, Event::Ends(id));
        }
        id
    }

    /// An action's time has come.
    pub(crate) fn end_action(&mut self, id: u64) {
        let Some(action) = self.actions.get(&id).filter(|action| action.progress == Progress::InProgress).cloned() else { return };
        let (has_effect, progress) = match action.fate {
            Fate::Completes | Fate::TakesMs(_) | Fate::SeenAfterMs(_) => (true, Progress::Completed),
            Fate::ErroredAfterEffect => (true, Progress::Errored),
            Fate::NoEffect => (false, Progress::Completed),
            Fate::Errored | Fate::NeverEnds => (false, Progress::Errored),
        };
        if has_effect {
            self.have_effect(&action);
        }
        self.close_action(id, progress);
        if let Some(droplet) = self.droplets.get_mut(&action.droplet) {
            droplet.pending = droplet.pending.filter(|pending| pending.action != id);
        }
    }

    /// An action ends because its droplet does.
    pub(crate) fn fail_action(&mut self, id: u64) {
        self.close_action(id, Progress::Errored);
    }

    fn close_action(&mut self, id: u64, progress: Progress) {
        let now_ms = self.now_ms;
        if let Some(action) = self.actions.get_mut(&id) {
            action.progress = progress;
            action.ended_ms = Some(now_ms);
        }
    }

    fn have_effect(&mut self, action: &Action) {
        let id = action.droplet;
        match &action.change {
            Change::Create | Change::PowerOn => self.switch_on(id),
            Change::PowerOff => self.switch_off(id, false),
            Change::Shutdown => self.switch_off(id, true),
            Change::Reboot | Change::PowerCycle => {
                self.switch_off(id, action.change == Change::Reboot);
                self.switch_on(id);
                // Nobody sees that it was off.
                self.show_at_once(id);
            }
            Change::Snapshot { name } => {
                let late_ms = if let Fate::SeenAfterMs(ms) = action.fate { ms } else { self.setup.latencies.snapshot_seen };
                self.make_snapshot(id, name, late_ms, &action.by);
            }
            Change::Resize { size, disk } => self.resize(id, size, *disk),
            Change::Rename { name } => {
                if let Some(droplet) = self.droplets.get_mut(&id) {
                    droplet.name.clone_from(name);
                }
            }
        }
    }

    pub(crate) fn resize(&mut self, id: u64, size: &str, with_disk: bool) {
        let disk = self.setup.sizes.iter().find(|known| known.slug == size).map(|size| size.disk);
        let (Some(droplet), Some(disk)) = (self.droplets.get_mut(&id), disk) else { return };
        size.clone_into(&mut droplet.size);
        if with_disk {
            droplet.disk = disk;
        }
    }

    pub(crate) fn switch_on(&mut self, id: u64) {
        let (now_ms, shown_ms) = (self.now_ms, self.setup.latencies.shown);
        let Some(droplet) = self.droplets.get_mut(&id).filter(|droplet| droplet.status != Status::Active) else { return };
        // Only what was seen as off can still be: a new one is active when it says so.
        let shown_ms = if droplet.status == Status::New { 0 } else { shown_ms };
        droplet.turn(Status::Active, now_ms, shown_ms);
        droplet.boots += 1;
        self.switched_on(id);
    }

    pub(crate) fn switch_off(&mut self, id: u64, is_asked: bool) {
        let (now_ms, shown_ms) = (self.now_ms, self.setup.latencies.shown);
        let Some(droplet) = self.droplets.get_mut(&id).filter(|droplet| droplet.status == Status::Active) else { return };
        droplet.turn(Status::Off, now_ms, shown_ms);
        self.switched_off(id, is_asked);
    }

    fn show_at_once(&mut self, id: u64) {
        if let Some(droplet) = self.droplets.get_mut(&id) {
            droplet.showed = None;
        }
    }
}
