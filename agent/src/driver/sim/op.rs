//! Operations on the simulated engine. Each changes the file once, with its count in `effects`: an operation's effect happened
//! as often as it says there, wherever the agent was killed.

use std::collections::BTreeSet;
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::observe::ContainerState;
use moorline_common::op::{Act, Exec};
use moorline_common::plan::lower::{container_resource, network_resource, volume_resource};
use moorline_common::plan::{Action, Step};
use serde_json::{Value, json};

use super::super::evidence::{self, Birth, Evidence, Life, Live};
use super::super::logs::LogPart;
use super::super::prune::{Debris, Named, Sweep, is_at_rest, is_debris};
use super::super::{Begun, DriverError, DriverErrorKind, Found, OpOrder, OpResult};
use super::command;
use super::failed;
use super::world::{Command, World};
use crate::limits::SIM_EFFECTS_MAX;
use moorline_common::op::Survey as Asked;
use moorline_common::survey::{Around, Survey, Users};

/// Why a command that is not known is indeterminate.
pub(super) const FORGOTTEN: &str = "the simulated engine does not know the command any more";
/// Exit codes of what is asked to end, and of what is killed.
const TERMINATED: i64 = 143;
const KILLED: i64 = 137;

/// Checks and notes.
pub(super) fn prepare(world: &World, order: &OpOrder) -> Result<Value, DriverError> {
    let name = order.resource.name();
    let evidence = match &order.act {
        Act::Pull => evidence::admit_image(order, world.images.get(name).map(|i| format!("sim:{i}")))?,
        Act::Prune { volumes } => evidence::admit_debris(order, debris(world, order, *volumes))?,
        Act::Destroy { .. } if evidence::is_kind(&order.resource, "volume") => {
            let live = world.engine.volumes.get(name).zip(world.birth(name));
            evidence::admit_volume(order, live.map(|(v, is)| Live { ours: v.owner.is_some(), is }))?
        }
        Act::Survey(_) => Evidence::Nothing,
        Act::Start
        | Act::Stop { .. }
        | Act::Restart { .. }
        | Act::Kill { .. }
        | Act::Pause
        | Act::Unpause
        | Act::Exec(_)
        | Act::Destroy { .. } => {
            let live = world.engine.containers.get(name);
            evidence::admit_container(order, live.map(|c| Live { ours: c.owner.is_some(), is: world.life(c) }))?
        }
        Act::Converge(_) | Act::Release | Act::TimeReset | Act::Confirm(_) | Act::Guest(_) | Act::Cancel { .. } | Act::Resolve { .. } => {
            return Err(DriverError::no_such_operation(order));
        }
    };
    Ok(evidence.written())
}

/// What is there besides ours.
fn survey(world: &World, asked: &Asked) -> Result<OpResult, DriverError> {
    let strangers = world.engine.containers.iter().filter(|(_, c)| c.owner.is_none()).map(|(name, c)| (name.clone(), c.clone()));
    let engine = &world.engine;
    let around =
        Around { networks: engine.networks.clone(), volumes: engine.volumes.clone(), users: Users::of(engine.containers.values()) };
    let survey = Survey::of(strangers.collect(), around, asked.after.as_deref());
    super::super::survey::sealed(&survey, asked)
}

/// Does it, and counts it.
pub(super) fn start(world: &mut World, order: &OpOrder, evidence: &Value) -> Result<Begun, DriverError> {
    let evidence = Evidence::read(order, evidence)?;
    if let (Act::Exec(_), Evidence::Container(was)) = (&order.act, &evidence) {
        return make_command(world, &was.id).map(Begun::Task);
    }
    let done = match (&order.act, evidence) {
        (Act::Pull, Evidence::Image { .. }) => {
            let name = order.resource.name().to_owned();
            let id = format!("sim:{name}");
            world.images.insert(name);
            OpResult { result: json!({ "id": id }), fault: None }
        }
        (Act::Survey(asked), Evidence::Nothing) => survey(world, asked)?,
        (Act::Prune { .. }, Evidence::Debris(debris)) => remove(world, &debris.leaving(&order.wanted)),
        (Act::Destroy { .. }, Evidence::Volume(was)) => {
            destroy_volume(world, &was).map_err(|words| failed(DriverErrorKind::Conflict, Code::OpFailed, &words))?;
            OpResult::default()
        }
        (act, Evidence::Container(was)) => {
            act_on(world, act, &was, order)?;
            OpResult::default()
        }
        (_, Evidence::Image { .. } | Evidence::Volume(_) | Evidence::Debris(_) | Evidence::Nothing) => {
            return Err(evidence::mismatch(order));
        }
    };
    world.count(order);
    Ok(Begun::Done(done))
}

/// Looks for what it left behind.
pub(super) fn adopt(
    world: &World,
    order: &OpOrder,
    evidence: &Value,
    task: Option<&str>,
    age: Duration,
    now_ms: u64,
) -> Result<Found, DriverError> {
    match (&order.act, Evidence::read(order, evidence)?) {
        (Act::Pull, Evidence::Image { .. }) | (Act::Prune { .. }, Evidence::Debris(_)) | (Act::Survey(_), Evidence::Nothing) => {
            Ok(Found::Absent)
        }
        (Act::Destroy { .. }, Evidence::Volume(was)) => Ok(evidence::judge_volume(&was, world.birth(&was.name).as_ref(), age)),
        (Act::Exec(exec), Evidence::Container(_)) if task.is_some() => {
            let task = task.unwrap_or_default();
            Ok(match world.commands.get(task) {
                None => Found::Unknown(FORGOTTEN.to_owned()),
                Some(c) if c.starts > 0 && c.ends_at > now_ms && age > Duration::from_secs(exec.timeout_s.into()) => {
                    Found::Unknown(late(exec))
                }
                Some(c) if c.starts == 0 => Found::Made(task.to_owned()),
                Some(_) => Found::Task(task.to_owned()),
            })
        }
        (act, Evidence::Container(was)) => {
            let is = world.container(&was.id).map(|(_, c)| world.life(c));
            Ok(evidence::judge_container(act, &was, is.as_ref(), age))
        }
        (_, Evidence::Image { .. } | Evidence::Volume(_) | Evidence::Debris(_) | Evidence::Nothing) => Err(evidence::mismatch(order)),
    }
}

/// Starts a command unless it was started before: then nobody hears what it says.
pub(super) fn start_command(world: &mut World, order: &OpOrder, exec: &Exec, task: &str, now_ms: u64) -> Option<Vec<LogPart>> {
    let live = world.commands.get_mut(task).filter(|live| live.starts == 0)?;
    let mut said = Vec::new();
    let lasts_ms = command::run(exec, &mut said, &mut live.exit_code);
    live.starts = 1;
    live.ends_at = now_ms.saturating_add(lasts_ms);
    world.count(order);
    Some(said)
}

pub(super) fn late(exec: &Exec) -> String {
    format!("the command still runs after its {} seconds; look at it in the container", exec.timeout_s)
}

fn act_on(world: &mut World, act: &Act, was: &Life, order: &OpOrder) -> Result<(), DriverError> {
    let id = was.id.as_str();
    let Some((name, state)) = world.container(id).map(|(name, c)| (name.clone(), c.state)) else {
        if matches!(act, Act::Destroy { .. }) {
            return Ok(());
        }
        return Err(failed(DriverErrorKind::NotFound, Code::OpFailed, &format!("no such container: {id}")));
    };
    let runs = matches!(state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting);
    let refuse = |words: &str| Err(failed(DriverErrorKind::Conflict, Code::OpFailed, &format!("the container `{name}` {words}")));
    match act {
        Act::Start if state == ContainerState::Running => Ok(()),
        Act::Start if state == ContainerState::Paused => refuse("is paused"),
        Act::Start => boot(world, id, order),
        Act::Stop { .. } if !runs => Ok(()),
        Act::Stop { .. } => {
            set(world, &name, ContainerState::Exited, Some(TERMINATED));
            Ok(())
        }
        Act::Restart { .. } => {
            if runs {
                set(world, &name, ContainerState::Exited, Some(TERMINATED));
                world.settle();
            }
            boot(world, id, order)
        }
        Act::Kill { .. } | Act::Pause if !runs => refuse("is not running"),
        Act::Kill { signal } => {
            if matches!(signal.as_str(), "SIGKILL" | "SIGTERM" | "SIGINT" | "SIGQUIT" | "SIGABRT") {
                set(world, &name, ContainerState::Exited, Some(KILLED));
            }
            Ok(())
        }
        Act::Pause => {
            set(world, &name, ContainerState::Paused, None);
            Ok(())
        }
        Act::Unpause if !runs => refuse("is not paused"),
        Act::Unpause => {
            set(world, &name, ContainerState::Running, None);
            Ok(())
        }
        Act::Destroy { .. } => {
            world.engine.containers.remove(&name);
            Ok(())
        }
        Act::Exec(_)
        | Act::Pull
        | Act::Prune { .. }
        | Act::Converge(_)
        | Act::Release
        | Act::TimeReset
        | Act::Confirm(_)
        | Act::Survey(_)
        | Act::Guest(_)
        | Act::Cancel { .. }
        | Act::Resolve { .. } => Err(DriverError::no_such_operation(order)),
    }
}

/// Starts a container that does not run.
fn boot(world: &mut World, id: &str, order: &OpOrder) -> Result<(), DriverError> {
    let step = Step {
        resource: order.resource.clone(),
        action: Action::StartContainer { id: id.to_owned() },
        reason: String::new(),
        after: BTreeSet::new(),
        tolerates: BTreeSet::new(),
        heals: Vec::new(),
    };
    let before = world.lives.get(id).map(|l| l.starts);
    world.engine.apply(&step).map_err(|e| failed(DriverErrorKind::Conflict, Code::OpFailed, &e.to_string()))?;
    world.settle();
    if world.lives.get(id).map(|l| l.starts) == before {
        // It ended at once.
        world.count_life(id);
    }
    Ok(())
}

fn set(world: &mut World, name: &str, state: ContainerState, exit_code: Option<i64>) {
    if let Some(container) = world.engine.containers.get_mut(name) {
        (container.state, container.exit_code) = (state, exit_code);
    }
}

fn make_command(world: &mut World, container: &str) -> Result<String, DriverError> {
    let state = world.container(container).map(|(_, c)| c.state);
    if state != Some(ContainerState::Running) {
        let kind = if state.is_none() { DriverErrorKind::NotFound } else { DriverErrorKind::Conflict };
        return Err(failed(kind, Code::OpFailed, &format!("the container {container} is not running")));
    }
    world.last_command += 1;
    let id = format!("command-{:08}", world.last_command);
    world.commands.insert(id.clone(), Command { container: container.to_owned(), starts: 0, ends_at: 0, exit_code: 0 });
    while world.commands.len() > SIM_EFFECTS_MAX {
        world.commands.pop_first();
    }
    Ok(id)
}

fn debris(world: &World, order: &OpOrder, volumes: bool) -> Debris {
    let wanted = &order.wanted;
    let engine = &world.engine;
    let containers = engine.containers.iter().filter(|(name, c)| {
        is_at_rest(c.state) && c.owner.as_ref().is_some_and(|owner| is_debris(wanted, &container_resource(name), owner))
    });
    let networks =
        engine.networks.iter().filter(|(name, n)| n.owner.as_ref().is_some_and(|owner| is_debris(wanted, &network_resource(name), owner)));
    let births = engine
        .volumes
        .iter()
        .filter(|(name, v)| volumes && v.owner.as_ref().is_some_and(|owner| is_debris(wanted, &volume_resource(name), owner)));
    Debris::bounded(
        containers.map(|(name, c)| Named { id: c.id.clone(), name: name.clone() }).collect(),
        networks.map(|(name, n)| Named { id: n.id.clone(), name: name.clone() }).collect(),
        births.filter_map(|(name, _)| world.birth(name)).collect(),
    )
}

fn remove(world: &mut World, debris: &Debris) -> OpResult {
    let mut sweep = Sweep::default();
    for Named { id, name } in &debris.containers {
        let live = world.container(id).map(|(name, c)| (name.clone(), is_at_rest(c.state)));
        let outcome = match live {
            Some((_, false)) => Err("the container is running".to_owned()),
            Some((live, true)) => {
                world.engine.containers.remove(&live);
                Ok(())
            }
            None => Ok(()),
        };
        sweep.note("container", name, outcome);
    }
    for Named { id, name } in &debris.networks {
        let live = world.engine.networks.iter().find(|(_, n)| n.id == *id).map(|(name, _)| name.clone());
        let outcome = match live {
            Some(live) if uses(world, |config| config.networks.contains_key(&live)) => Err("the network has active endpoints".to_owned()),
            Some(live) => {
                world.engine.networks.remove(&live);
                Ok(())
            }
            None => Ok(()),
        };
        sweep.note("network", name, outcome);
    }
    for was in &debris.volumes {
        let outcome = destroy_volume(world, was);
        sweep.note("volume", &was.name, outcome);
    }
    sweep.result(debris.more)
}

/// Removes a volume if it is still the one that was meant.
fn destroy_volume(world: &mut World, was: &Birth) -> Result<(), String> {
    if world.birth(&was.name).as_ref() != Some(was) {
        return Ok(());
    }
    let mounted = world.engine.containers.values().filter_map(|c| c.config.as_ref());
    if mounted.flat_map(|c| c.volumes.values()).any(|m| m.source.as_deref() == Some(was.name.as_str())) {
        return Err(format!("the volume `{}` is in use", was.name));
    }
    world.engine.volumes.remove(&was.name);
    Ok(())
}

/// Whether a running container has it.
fn uses(world: &World, has: impl Fn(&moorline_common::observe::ContainerConfig) -> bool) -> bool {
    let running = world.engine.containers.values().filter(|c| !is_at_rest(c.state));
    running.filter_map(|c| c.config.as_deref()).any(has)
}
