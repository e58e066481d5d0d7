//! A real process for every droplet that is on: a stand-in for what its first boot would install.
//!
//! The program finds the droplet's `user_data` on its standard input, and `DROPLET_ID`, `DROPLET_NAME`, `DROPLET_IP` and `DROPLET_BOOT` (1 for
//! the first boot) in its environment. It has a process group of its own, which ends when the droplet is switched off or deleted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use crate::sim::Sim;
use crate::world::power::Power;

/// For how long a program that is asked to end may take.
const GRACE: Duration = Duration::from_secs(5);

/// What is run.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Where the output of each droplet goes: `<id>.log`.
    pub logs: Option<PathBuf>,
    /// This program, which guards the processes: it ends them when this process ends without a word.
    pub guard: Option<PathBuf>,
}

/// Runs what droplets boot. All of it ends with its value.
pub struct Boot {
    running: Running,
    task: JoinHandle<()>,
}

type Running = Arc<Mutex<BTreeMap<u64, Child>>>;

impl Boot {
    /// Runs the program for every droplet that is switched on from now on. Has to be called within tokio.
    ///
    /// # Errors
    /// When the folder of logs cannot be made, or the guard does not start.
    pub fn start(sim: &Sim, program: Program) -> Result<Self> {
        if let Some(logs) = &program.logs {
            std::fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
        }
        let guard = program.guard.as_ref().map(start_guard).transpose()?;
        let running = Running::default();
        let task = tokio::spawn(follow(sim.watch(), program, running.clone(), guard));
        Ok(Self { running, task })
    }

    /// The droplets whose programs were started and not ended, with the processes' numbers.
    #[must_use]
    pub fn running(&self) -> BTreeMap<u64, u32> {
        lock(&self.running).iter().filter_map(|(id, child)| Some((*id, child.id()?))).collect()
    }
}

impl Drop for Boot {
    fn drop(&mut self) {
        self.task.abort();
        lock(&self.running).values().for_each(|child| signal(child, Signal::SIGKILL));
    }
}

fn lock(running: &Running) -> MutexGuard<'_, BTreeMap<u64, Child>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To a whole group. One that has ended needs none; its number is its own until it is waited for.
fn signal(child: &Child, signal: Signal) {
    if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) {
        let _ = killpg(Pid::from_raw(group), signal);
    }
}

async fn follow(mut switched: UnboundedReceiver<Power>, program: Program, running: Running, mut guard: Option<Child>) {
    while let Some(power) = switched.recv().await {
        match power {
            Power::On { id, name, ip, user_data, boot } => {
                let env = [("DROPLET_ID", id.to_string()), ("DROPLET_NAME", name), ("DROPLET_IP", ip), ("DROPLET_BOOT", boot.to_string())];
                match spawn(&program, id, &env) {
                    Ok(mut child) => {
                        tell(&mut guard, '+', &child).await;
                        feed(&mut child, user_data);
                        lock(&running).insert(id, child);
                    }
                    Err(error) => note(&program, id, &format!("{error:#}")),
                }
            }
            Power::Off { id, is_asked } => end(&running, id, is_asked, &mut guard).await,
        }
    }
}

fn spawn(program: &Program, id: u64, env: &[(&str, String)]) -> Result<Child> {
    let mut command = Command::new(&program.path);
    command.envs(env.iter().map(|(key, value)| (*key, value.as_str()))).stdin(Stdio::piped()).process_group(0);
    if let Some(log) = log(program, id) {
        let file =
            std::fs::File::options().create(true).append(true).open(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command.stdout(file.try_clone()?).stderr(file);
    } else {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    command.spawn().with_context(|| format!("cannot start {}", program.path.display()))
}

fn log(program: &Program, id: u64) -> Option<PathBuf> {
    program.logs.as_ref().map(|logs| logs.join(format!("{id}.log")))
}

/// What went wrong stands in the droplet's log.
fn note(program: &Program, id: u64, words: &str) {
    if let Some(log) = log(program, id) {
        let _ = std::fs::write(log, format!("{words}\n"));
    }
}

fn feed(child: &mut Child, user_data: String) {
    let Some(mut stdin) = child.stdin.take() else { return };
    // Who does not read it does not get it.
    tokio::spawn(async move {
        let _ = stdin.write_all(user_data.as_bytes()).await;
    });
}

/// Ends a droplet's processes. Until they have ended they stay among those that end with [`Boot`].
async fn end(running: &Running, id: u64, is_asked: bool, guard: &mut Option<Child>) {
    let Some(process) = lock(running).get(&id).and_then(Child::id) else { return };
    let send = |word| lock(running).get(&id).into_iter().for_each(|child| signal(child, word));
    if is_asked {
        send(Signal::SIGTERM);
        // The others of its group are ended below in any case, so its number has to stay taken: it is not waited for.
        let _ = tokio::time::timeout(GRACE, ended(process)).await;
    }
    send(Signal::SIGKILL);
    let child = lock(running).remove(&id);
    if let Some(mut child) = child {
        tell(guard, '-', &child).await;
        let _ = child.wait().await;
    }
}

/// Until a process has ended, without taking its number back.
async fn ended(process: u32) {
    let is_there = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // Behind the name, which stands in brackets, comes the state.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    while is_there() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn start_guard(program: &PathBuf) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("--guard").stdin(Stdio::piped()).process_group(0);
    command.spawn().with_context(|| format!("cannot start {} as a guard", program.display()))
}

async fn tell(guard: &mut Option<Child>, sign: char, child: &Child) {
    if let (Some(stdin), Some(id)) = (guard.as_mut().and_then(|guard| guard.stdin.as_mut()), child.id()) {
        let _ = stdin.write_all(format!("{sign}{id}\n").as_bytes()).await;
    }
}

/// The guard's own work: it is told of groups that begin (`+7`) and end (`-7`), and ends those that are left when nobody tells it more.
pub fn guard(told: impl std::io::BufRead) {
    let mut groups = std::collections::BTreeSet::new();
    for line in told.lines().map_while(Result::ok) {
        match (line.get(..1), line.get(1..).and_then(|id| id.parse::<i32>().ok())) {
            (Some("+"), Some(id)) => drop(groups.insert(id)),
            (Some("-"), Some(id)) => drop(groups.remove(&id)),
            _ => {}
        }
    }
    for group in groups {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}
