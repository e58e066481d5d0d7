//! The simulated engine's file: the planner's model of an engine, and what operations need beside it.
//!
//! Who edits the file by hand edits the model's part; the rest follows at the next reading.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::observe::{ContainerState, ObservedContainer};
use moorline_common::plan::model::Engine;
use serde::{Deserialize, Serialize};

use super::super::evidence::{Birth, DEFAULT_GRACE_S, Life};
use super::super::op::OpOrder;
use crate::limits::SIM_EFFECTS_MAX;

/// Everything that the simulated engine knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct World {
    /// Networks, volumes and containers.
    #[serde(flatten)]
    pub engine: Engine,
    /// How often a container started and ended, by its id.
    pub lives: BTreeMap<String, Lives>,
    /// Volume → which one of all it is.
    pub births: BTreeMap<String, u64>,
    /// Volumes made so far.
    pub last_birth: u64,
    /// Images that were pulled.
    pub images: BTreeSet<String>,
    /// Commands by their ids. An engine that is started again has forgotten them.
    pub commands: BTreeMap<String, Command>,
    /// Commands made so far.
    pub last_command: u64,
    /// What operations did, by operation.
    pub effects: BTreeMap<String, Effect>,
}

/// A container's starts and ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lives {
    /// Its state when these were counted.
    pub state: ContainerState,
    /// How often it was started.
    pub starts: u64,
    /// How often it ended.
    pub ends: u64,
}

/// A command in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The container's id.
    pub container: String,
    /// How often it was started; the engine allows one.
    pub starts: u64,
    /// When it ends, in milliseconds since 1970.
    pub ends_at: u64,
    /// Its exit code then.
    pub exit_code: i64,
}

/// How often an operation had an effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effect {
    /// Its kind.
    pub kind: String,
    /// The resource.
    pub resource: String,
    /// How often the engine was told to do it.
    pub times: u64,
}

impl World {
    /// Brings what is counted in line with what is there.
    pub fn settle(&mut self) {
        for container in self.engine.containers.values() {
            let lives = self.lives.entry(container.id.clone()).or_default();
            let (was, is) = (is_up(lives.state), is_up(container.state));
            // One that ended at once has lived, too.
            let lived = !was && !is && lives.state == ContainerState::Created && container.state == ContainerState::Exited;
            lives.starts += u64::from((is && !was) || lived);
            lives.ends += u64::from((was && !is) || lived);
            lives.state = container.state;
        }
        let up: BTreeSet<&String> = self.engine.containers.values().filter(|c| is_up(c.state)).map(|c| &c.id).collect();
        let there: BTreeSet<&String> = self.engine.containers.values().map(|c| &c.id).collect();
        self.lives.retain(|id, _| there.contains(id));
        // Commands end with their container.
        self.commands.retain(|_, command| up.contains(&command.container));
        self.births.retain(|name, _| self.engine.volumes.contains_key(name));
        for name in self.engine.volumes.keys() {
            if !self.births.contains_key(name) {
                self.last_birth += 1;
                self.births.insert(name.clone(), self.last_birth);
            }
        }
    }

    /// A container started and ended without a trace in its state.
    pub fn count_life(&mut self, id: &str) {
        if let Some(lives) = self.lives.get_mut(id) {
            lives.starts += 1;
            lives.ends += 1;
        }
    }

    /// The container with this id, and its name.
    pub fn container(&self, id: &str) -> Option<(&String, &ObservedContainer)> {
        self.engine.containers.iter().find(|(_, c)| c.id == id)
    }

    /// Where a container is in its life.
    pub fn life(&self, container: &ObservedContainer) -> Life {
        let lives = self.lives.get(&container.id).cloned().unwrap_or_default();
        let grace = container.config.as_ref().and_then(|c| c.stop_grace_period).map(|n| n.0 / 1_000_000_000);
        Life {
            id: container.id.clone(),
            state: container.state,
            started_at: format!("start {}", lives.starts),
            finished_at: format!("end {}", lives.ends),
            restart_count: 0,
            grace_s: grace.map_or(DEFAULT_GRACE_S, |s| u32::try_from(s).unwrap_or(u32::MAX)),
        }
    }

    /// Which volume bears the name.
    pub fn birth(&self, name: &str) -> Option<Birth> {
        self.births.get(name).map(|n| Birth { name: name.to_owned(), created_at: format!("volume {n}") })
    }

    /// Notes that the engine was told to do it.
    pub fn count(&mut self, order: &OpOrder) {
        let effect = self.effects.entry(order.op_id.to_string()).or_insert_with(|| Effect {
            kind: order.act.kind().to_owned(),
            resource: order.resource.to_string(),
            times: 0,
        });
        effect.times += 1;
        while self.effects.len() > SIM_EFFECTS_MAX {
            // Ids grow with time.
            self.effects.pop_first();
        }
    }
}

const fn is_up(state: ContainerState) -> bool {
    matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting)
}
