//! Tasks: what workers do, in the time that it takes them.
//!
//! Source: `PVE::Tools::upid_encode`, `PVE::RESTEnvironment::fork_worker`.

use serde::{Deserialize, Serialize};

use super::effects::{By, EffectKind};
use super::{Cause, World};
use crate::work::Work;

/// How long a worker waits for a config's file.
pub const FLOCK_MS: u64 = 10_000;
/// How long a worker lives that has nothing to do but to fail.
const SHORT_MS: u64 = 20;

/// A task.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub upid: String,
    /// Where it runs.
    pub node: String,
    /// Its worker.
    pub pid: u32,
    /// When its worker began, in ticks since the node's start.
    pub pstart: u64,
    /// What it does, such as `qmstart`.
    pub kind: String,
    /// To what: a vmid, mostly.
    pub id: String,
    /// Who asked for it, with a token's name.
    pub user: String,
    /// For whom the call was made that began it, see [`Request::on_behalf`](crate::Request::on_behalf).
    pub on_behalf: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// What it is to do.
    pub work: Work,
    /// How far it is.
    pub state: TaskState,
    /// With what it will end, whatever it does.
    pub doom: Option<String>,
    /// Whether its worker dies, and whether only after the effect.
    pub dies: Option<bool>,
    /// Its lines.
    pub log: Vec<String>,
    /// How many of them warn.
    pub warnings: u32,
    /// How it ended.
    pub exit: Option<String>,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// It waits for a config's file.
    Waits {
        /// When to look again.
        at_ms: u64,
        /// When to give up.
        until_ms: u64,
    },
    /// It works.
    Runs {
        /// Until when.
        until_ms: u64,
    },
    /// It has ended.
    Ended {
        /// When.
        at_ms: u64,
    },
}

/// How long work takes, and with what it ends if not well.
pub(crate) struct Span {
    /// In milliseconds; as long as the type of the task takes when `None`.
    pub ms: Option<u64>,
    /// The words of its end.
    pub doom: Option<String>,
}

impl Span {
    /// As long as such tasks take.
    pub(crate) fn usual() -> Self {
        Self { ms: None, doom: None }
    }
}

impl Task {
    /// Whether it goes on.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.exit.is_none()
    }

    /// When something is next to be done about it.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        match self.state {
            TaskState::Waits { at_ms, until_ms } => Some(at_ms.min(until_ms)),
            TaskState::Runs { until_ms } => Some(until_ms),
            TaskState::Ended { .. } => None,
        }
    }

    /// When it ended.
    #[must_use]
    pub fn ended_ms(&self) -> Option<u64> {
        match self.state {
            TaskState::Waits { .. } | TaskState::Runs { .. } => None,
            TaskState::Ended { at_ms } => Some(at_ms),
        }
    }
}

impl World {
    /// Begins a task and returns its id.
    pub(crate) fn spawn(&mut self, node: &str, kind: &str, id: &str, user: &str, work: Work) -> String {
        let number = self.next_task;
        self.next_task += 1;
        let pid = u32::try_from(number % 4_000_000).unwrap_or(0) + 0x1000;
        let pstart = 0x0010_0000 + (self.now_ms.saturating_sub(self.setup.begins_at_ms)) / 10;
        let upid = format!("UPID:{node}:{pid:08X}:{pstart:08X}:{:08X}:{kind}:{id}:{user}:", self.now_ms / 1000);
        let (dies, fails) = (self.faults.dies(kind), self.faults.fails(kind));
        let task = Task {
            upid: upid.clone(),
            node: node.to_owned(),
            pid,
            pstart,
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: user.to_owned(),
            on_behalf: self.cause.on_behalf.clone(),
            started_ms: self.now_ms,
            work,
            state: TaskState::Waits { at_ms: self.now_ms, until_ms: self.now_ms.saturating_add(FLOCK_MS) },
            doom: fails,
            dies,
            log: Vec::new(),
            warnings: 0,
            exit: None,
        };
        self.tasks.insert(number, task);
        self.try_begin(number);
        upid
    }

    /// Until when somebody holds a guest's file.
    pub(crate) fn held_until(&self, vmid: u32, is_shared: bool) -> Option<u64> {
        let ends = self.tasks.values().filter_map(|task| match task.state {
            TaskState::Runs { until_ms } => {
                let (exclusive, shared) = task.work.holds();
                let is_held = exclusive.contains(&vmid) || (!is_shared && shared.contains(&vmid));
                is_held.then_some(until_ms)
            }
            TaskState::Waits { .. } | TaskState::Ended { .. } => None,
        });
        ends.max()
    }

    /// The words with which a file is not got.
    pub(crate) fn flock_words(&self, vmid: u32) -> String {
        let kind = self.guests.get(&vmid).map_or(super::guest::Kind::Qemu, |guest| guest.kind);
        format!("can't lock file '{}' - got timeout", kind.lock_file(vmid))
    }

    fn try_begin(&mut self, number: u64) {
        let Some(task) = self.tasks.get(&number) else { return };
        let TaskState::Waits { until_ms, .. } = task.state else { return };
        let (exclusive, shared) = task.work.holds();
        let all = exclusive.iter().map(|vmid| (*vmid, false)).chain(shared.iter().map(|vmid| (*vmid, true))).collect::<Vec<_>>();
        for (vmid, is_shared) in all {
            let free = if self.faults.flock_busy.contains(&vmid) { Some(u64::MAX) } else { self.held_until(vmid, is_shared) };
            let Some(free) = free else { continue };
            let words = self.flock_words(vmid);
            let is_over = self.now_ms >= until_ms;
            if let Some(task) = self.tasks.get_mut(&number) {
                if is_over {
                    task.doom = Some(words);
                    task.work = Work::Nothing;
                    task.state = TaskState::Runs { until_ms: self.now_ms };
                } else {
                    task.state = TaskState::Waits { at_ms: free, until_ms };
                }
            }
            return;
        }
        self.begin(number);
    }

    fn begin(&mut self, number: u64) {
        let Some(task) = self.tasks.get(&number) else { return };
        let (work, kind) = (task.work.clone(), task.kind.clone());
        let usual = self.faults.takes(&kind).unwrap_or_else(|| self.setup.task_takes(&kind));
        let cause = self.enter(Cause { text: task.upid.clone(), on_behalf: task.on_behalf.clone(), by: By::Api });
        let begun = self.begin_work(&work, number);
        self.leave(cause);
        let now = self.now_ms;
        let fault = self.faults.takes(&kind);
        let Some(task) = self.tasks.get_mut(&number) else { return };
        let ms = match begun {
            Ok(span) => {
                task.doom = task.doom.take().or(span.doom);
                fault.or(span.ms).unwrap_or(usual)
            }
            Err(words) => {
                task.doom = Some(words);
                task.work = Work::Nothing;
                SHORT_MS
            }
        };
        task.state = TaskState::Runs { until_ms: now.saturating_add(ms) };
    }

    /// The task that is due next, and when.
    pub(crate) fn next_due(&self) -> Option<(u64, u64)> {
        self.tasks.iter().filter_map(|(number, task)| Some((task.due_ms()?, *number))).min()
    }

    /// Does what is due about a task.
    pub(crate) fn advance(&mut self, number: u64) {
        let Some(task) = self.tasks.get(&number) else { return };
        match task.state {
            TaskState::Waits { .. } => self.try_begin(number),
            TaskState::Runs { .. } => self.finish(number),
            TaskState::Ended { .. } => {}
        }
    }

    fn finish(&mut self, number: u64) {
        let Some(task) = self.tasks.get(&number) else { return };
        let (work, doom, dies) = (task.work.clone(), task.doom.clone(), task.dies);
        let cause = self.enter(Cause { text: task.upid.clone(), on_behalf: task.on_behalf.clone(), by: By::Api });
        let result = match (dies, doom) {
            (Some(false), _) => Ok(()),
            (Some(true) | None, Some(words)) => {
                self.undo_work(&work);
                Err(words)
            }
            (Some(true) | None, None) => self.finish_work(&work, number),
        };
        self.leave(cause);
        self.end(number, result);
    }

    fn end(&mut self, number: u64, result: Result<(), String>) {
        let now = self.now_ms;
        let Some(task) = self.tasks.get_mut(&number) else { return };
        task.state = TaskState::Ended { at_ms: now };
        if task.dies.is_some() {
            task.exit = Some("unexpected status".to_owned());
            return;
        }
        let exit = match result {
            Ok(()) if task.warnings > 0 => {
                task.log.push(format!("TASK WARNINGS: {}", task.warnings));
                format!("WARNINGS: {}", task.warnings)
            }
            Ok(()) => {
                task.log.push("TASK OK".to_owned());
                "OK".to_owned()
            }
            Err(words) => {
                task.log.push(format!("TASK ERROR: {words}"));
                words.split('\n').next().unwrap_or(&words).to_owned()
            }
        };
        task.exit = Some(exit);
    }

    /// Ends a task before its time.
    pub(crate) fn abort(&mut self, number: u64) {
        let Some(task) = self.tasks.get(&number).filter(|task| task.is_running()) else { return };
        let (work, words) = (task.work.clone(), task.work.interrupted());
        self.undo_work(&work);
        self.end(number, Err(words.to_owned()));
    }

    /// A line in a task's log.
    pub(crate) fn log(&mut self, number: u64, line: &str) {
        if let Some(task) = self.tasks.get_mut(&number) {
            task.log.extend(line.split('\n').map(str::to_owned));
        }
    }

    /// A line that warns.
    pub(crate) fn warn(&mut self, number: u64, line: &str) {
        if let Some(task) = self.tasks.get_mut(&number) {
            task.log.push(format!("WARN: {line}"));
            task.warnings += 1;
        }
    }

    /// A task by its id.
    pub(crate) fn task(&self, upid: &str) -> Option<(u64, &Task)> {
        self.tasks.iter().find(|(_, task)| task.upid == upid).map(|(number, task)| (*number, task))
    }

    /// Notes what happened.
    pub(crate) fn effect(&mut self, vmid: u32, kind: EffectKind, what: &str) {
        let effect = super::effects::Effect {
            at_ms: self.now_ms,
            vmid,
            kind,
            what: what.to_owned(),
            cause: self.cause.text.clone(),
            on_behalf: self.cause.on_behalf.clone(),
            by: self.cause.by,
        };
        self.effects.push(effect);
    }
}
