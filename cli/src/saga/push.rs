//! The revisions that a saga pushes: the operator's file, and what undoes that. Both are signed with the saga's plan; the hub takes them
//! in as any push, when their turn comes and nobody has pushed in between.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, HostName, TopologyId, UnixSeconds};
use moorline_common::pve::Vmid;
use moorline_common::saga::{Condition, HubAct};
use moorline_common::statement::{DELIVER_WITHIN_DEFAULT_S, Sealed};
use moorline_common::topology::{GuestSpec, HostSpec};

use super::draft::{Patience, Step, Task};
use crate::client::Client;
use crate::clock;
use crate::cmd::deploy::{self, Scene};
use crate::desired::Source;
use crate::error::Failure;
use crate::render::Ui;
use crate::revision::{self, Draft, Pen, SignedRevision};
use crate::secrets::Sealer;
use crate::signers::Signers;

/// How long an answer to a push may take, in seconds.
const PUSH_S: u64 = 5 * 60;
/// How long a host may take to apply a revision.
const APPLY_S: u64 = 30 * 60;

/// A revision of a file, and the one that brings back what was before it.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The topology.
    pub topology: TopologyId,
    /// The newest generation, from which the first one follows.
    pub base: Generation,
    /// The file's.
    pub forward: SignedRevision,
    /// What was before.
    pub back: SignedRevision,
    /// What each host has by the file; empty for one that leaves.
    pub hosts: BTreeMap<HostId, HostSpec>,
}

impl Pushed {
    /// Whether the file has nothing more for a host that has something now.
    #[must_use]
    pub fn leaves(&self, host: &HostId) -> bool {
        self.hosts.get(host).is_some_and(|spec| *spec == HostSpec::default())
    }

    /// What the file says of a guest.
    #[must_use]
    pub fn guest(&self, host: &HostId, vmid: Vmid) -> Option<&GuestSpec> {
        self.hosts.get(host)?.proxmox.as_ref()?.guests.get(&vmid)
    }

    /// The step that pushes it, undone by a push of what was before.
    #[must_use]
    pub fn push(&self, name: &str) -> Step {
        let push = |revision: &SignedRevision| HubAct::Push {
            topology: self.topology.clone(),
            generation: revision.generation,
            source: revision.source.payload_sha256(),
        };
        let newest = Condition::Newest { topology: self.topology.clone(), generation: self.base };
        let run = Task::of_hub(push(&self.forward), Patience::usual(PUSH_S));
        let step = Step::new(name, run).undone_by(Task::of_hub(push(&self.back), Patience::undo(PUSH_S)));
        // A topology that was never pushed has no newest.
        if self.base == Generation(0) { step } else { step.when(newest) }
    }

    /// The step that waits until a host has applied it.
    #[must_use]
    pub fn applied(&self, name: &str, host: &HostName) -> Step {
        let hosts = BTreeSet::from([host.clone()]);
        let act = HubAct::Applied { topology: self.topology.clone(), generation: self.forward.generation, hosts };
        Step::new(name, Task::of_hub(act, Patience::once(APPLY_S)))
    }

    /// Both, as they are handed in.
    #[must_use]
    pub const fn revisions(&self) -> [&SignedRevision; 2] {
        [&self.forward, &self.back]
    }
}

/// Signs the revision of a file, and the one that undoes it.
///
/// # Errors
/// [`Code::BaseMoved`] when this machine has not pushed the newest generation; what signing can fail with.
pub async fn sign(client: &Client, ui: &mut Ui, signers: &Signers, mut source: Source, reason: &str) -> Result<Pushed, Failure> {
    let topology = source.file.topology.clone();
    let current = client.current(&topology, true).await?;
    let scene = deploy::scene(client, ui, &topology, current).await?;
    require_own_base(client, &topology, &scene)?;
    if source.file.rollout.is_some() {
        ui.warn("a saga pushes to all hosts at once, whatever `rollout` in the file says");
    }
    source.read_secrets(&client.context, &deploy::bound(&scene.hosts))?;
    let hosts = deploy::wanted(ui, &topology, Some(&source), &scene)?.hosts;
    let bindings = revision::bindings(&scene.hosts);
    let earlier = scene.previous.slices.values().flatten().collect();
    let sealer = Sealer { context: &client.context, topology: &topology, values: &source.values, earlier };
    let base = scene.previous.generation;
    let forward = Draft {
        topology: topology.clone(),
        generation: base.next(),
        source: source.text.clone(),
        inputs: source.inputs.clone(),
        down: false,
        message: reason.to_owned(),
        deliver_within_s: DELIVER_WITHIN_DEFAULT_S,
        sealed: sealer.seal(&hosts, &bindings)?,
        hosts,
        fallbacks: BTreeMap::new(),
        at_once: BTreeSet::new(),
    };
    let back = back(&forward, &scene)?;
    signed(client, signers, (forward, back), &scene, clock::now())
}

fn signed(client: &Client, signers: &Signers, (forward, back): (Draft, Draft), scene: &Scene, now: UnixSeconds) -> Result<Pushed, Failure> {
    let pen = Pen { root: &client.root, signers, now };
    let several = |failure: Failure| {
        let is_more = failure.is(Code::ThresholdNotMet);
        if is_more { failure.with_remedy("name the other operators' key files with --sign-with FILE") } else { failure }
    };
    Ok(Pushed {
        topology: forward.topology.clone(),
        base: scene.previous.generation,
        forward: pen.sign(&forward, &scene.hosts).map_err(several)?,
        back: pen.sign(&back, &scene.hosts).map_err(several)?,
        hosts: forward.hosts,
    })
}

/// What brings back, one generation later, what every host of `forward` has before it.
pub(super) fn back(forward: &Draft, scene: &Scene) -> Result<Draft, Failure> {
    let (previous, was_there) = (&scene.previous, scene.previous.generation != Generation(0) && !scene.previous.down);
    let (mut hosts, mut sealed, mut at_once) = (BTreeMap::new(), BTreeMap::<HostId, Sealed>::new(), BTreeSet::new());
    for host in forward.hosts.keys() {
        let Some(slice) = previous.content_of(host) else {
            if matches!(previous.slices.get(host), Some(None)) {
                let message =
                    format!("what host {host} has by generation {} does not verify, and could not be brought back", previous.generation);
                return Err(
                    Failure::from(Fault::new(Code::BadSignature, message)).with_remedy("push the topology once more, then start the saga")
                );
            }
            hosts.insert(host.clone(), HostSpec::default());
            continue;
        };
        hosts.insert(host.clone(), slice.spec()?);
        sealed.insert(host.clone(), slice.sealed.clone());
        at_once.extend(slice.at_once.then(|| host.clone()));
    }
    let source = match (&previous.source, was_there) {
        (Some(source), true) => source.clone(),
        (None, true) => {
            let message = format!("the source of generation {} does not verify, and could not be brought back", previous.generation);
            return Err(
                Failure::from(Fault::new(Code::BadSignature, message)).with_remedy("push the topology once more, then start the saga")
            );
        }
        (Some(_) | None, false) => forward.source.clone(),
    };
    Ok(Draft {
        generation: forward.generation.next(),
        source,
        inputs: if was_there { previous.inputs.clone() } else { forward.inputs.clone() },
        down: !was_there,
        message: format!("undone: {}", forward.message),
        hosts,
        sealed,
        at_once,
        ..forward.clone()
    })
}

/// Refuses a file that was made from another generation than the newest, as far as this machine knows.
fn require_own_base(client: &Client, topology: &TopologyId, scene: &Scene) -> Result<(), Failure> {
    let pushed = client.context.floors()?.topologies.get(topology).map(|floor| floor.pushed).unwrap_or_default();
    let newest = scene.previous.generation;
    if newest == Generation(0) || pushed == newest || scene.previous.down {
        return Ok(());
    }
    let from = if pushed == Generation(0) { "nothing of it".to_owned() } else { format!("generation {pushed}") };
    let message =
        format!("the newest generation of `{topology}` is {newest}, and this machine pushed {from}: others' changes would be lost");
    Err(Failure::from(Fault::new(Code::BaseMoved, message)).with_remedy(format!(
        "look at what differs with `moorctl diff {topology} -f FILE`, bring it into your file, push that with `--base {newest}`, then start the saga"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::{draft, host, keys, pen, previous, spec, trust};

    fn scene(generation: Option<u64>) -> Scene {
        let (root, signers, hosts) = (trust(), Signers::from(keys().1), vec![host(10, "a"), host(11, "b")]);
        let previous = match generation {
            None => revision::Previous::default(),
            Some(generation) => {
                let before = draft(generation, BTreeMap::from([(hosts[0].host_id.clone(), spec("old"))]));
                let before = previous(&pen(&root, &signers).sign(&before, &hosts).unwrap(), &hosts);
                revision::Previous { source: Some("topology: edge # before".to_owned()), ..before }
            }
        };
        Scene { current: None, previous, hosts }
    }

    fn forward(generation: u64, scene: &Scene) -> Draft {
        draft(generation, scene.hosts.iter().map(|host| (host.host_id.clone(), spec("new"))).collect())
    }

    #[test]
    fn what_undoes_a_push_is_the_next_generation_with_what_each_host_had() {
        let scene = scene(Some(4));
        let back = back(&forward(5, &scene), &scene).unwrap();
        assert_eq!((back.generation, back.down), (Generation(6), false));
        assert_eq!(back.hosts[&scene.hosts[0].host_id], spec("old"));
        assert_eq!(back.hosts[&scene.hosts[1].host_id], HostSpec::default(), "what had nothing has nothing again");
        assert_eq!(Some(back.source), scene.previous.source);
    }

    #[test]
    fn what_undoes_the_first_push_tears_down() {
        let scene = scene(None);
        let back = back(&forward(1, &scene), &scene).unwrap();
        assert_eq!((back.generation, back.down), (Generation(2), true));
        assert!(back.hosts.values().all(|spec| *spec == HostSpec::default()));
    }

    #[test]
    fn what_cannot_be_brought_back_is_not_pushed_over() {
        let mut scene = scene(Some(4));
        scene.previous.slices.values_mut().for_each(|slice| *slice = None);
        let refused = back(&forward(5, &scene), &scene).unwrap_err();
        assert!(refused.is(Code::BadSignature) && refused.remedy.contains("once more"), "{refused:?}");
    }

    #[test]
    fn a_push_waits_for_its_base_and_is_undone_by_a_push() {
        let pushed = crate::saga::testing::pushed();
        let step = pushed.push("push");
        assert_eq!(step.when, [Condition::Newest { topology: pushed.topology, generation: Generation(4) }]);
        let generations: Vec<Generation> = step
            .tasks()
            .filter_map(|(_, task)| match &task.what {
                super::super::What::Hub(HubAct::Push { generation, .. }) => Some(*generation),
                super::super::What::Hub(_) | super::super::What::Host(_) | super::super::What::Cloud(_) => None,
            })
            .collect();
        assert_eq!(generations, [Generation(5), Generation(6)]);
    }
}
