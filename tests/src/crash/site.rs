//! A hub, one host with its agent, an operator who signs; lives and deaths of the agent.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use moorline_common::op::Receipt;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use moorline_proto::v1 as pb;
use nix::libc::SIGKILL;
use serde_json::json;

use super::check::{Given, check};
use super::events::Watcher;
use super::orders::{Order, Pen, Wish};
use super::records;
use crate::engine::Engine;
use crate::fleet::{Drive, Fleet};
use crate::image;
use crate::limits::{APPLY, SETTLE, SOON};
use crate::operator::Operator;
use crate::pve::PveHost;
use crate::wait::wait_until;

/// The site's host.
pub const HOST: &str = "crash-1";
const ROTATE_BYTES: u64 = 6_000;
/// So many orders are listed at once: as many as the hub gives.
const ORDERS_PAGE: u32 = 1000;

/// See the module.
pub struct Site {
    /// Its processes.
    pub fleet: Fleet,
    /// The Operator service.
    pub operator: Operator,
    pen: Pen,
    real: Option<(Engine, Watcher)>,
    /// Every order that was given, in the order of submission.
    given: Vec<Order>,
    /// Those that are known to have ended, and how.
    outcomes: BTreeMap<String, String>,
    /// Why those that did not succeed did not, by their receipts.
    faults: BTreeMap<String, String>,
    /// How often an agent was killed.
    pub deaths: u32,
    /// A segment of the journal is closed after so many bytes: so few that a story passes a few ends.
    pub rotate_bytes: u64,
}

impl Site {
    /// A site on the real engine; `None` when there is none and none is required.
    ///
    /// # Errors
    /// When a program is missing or fails.
    pub fn on_docker(name: &str) -> Result<Option<Self>> {
        let Some(engine) = Engine::system()? else { return Ok(None) };
        image::ensure(&engine)?;
        let fleet = Fleet::start(name)?;
        let watcher = Watcher::start(&engine, fleet.cluster())?;
        let drive = Drive::Docker(engine.socket().to_owned());
        Self::with(fleet, drive, Some((engine, watcher))).map(Some)
    }

    /// A site on the simulated engine.
    ///
    /// # Errors
    /// As [`Self::on_docker`].
    pub fn on_sim(name: &str) -> Result<Self> {
        Self::with(Fleet::start(name)?, Drive::Sim, None)
    }

    /// A site on a simulated Proxmox VE.
    ///
    /// # Errors
    /// As [`Self::on_docker`].
    pub fn on_guests(name: &str) -> Result<(Self, PveHost)> {
        let fleet = Fleet::start(name)?;
        let pve = PveHost::start(fleet.binaries(), &fleet.root().join("pve"), &json!({}))?;
        fleet.connect_to_proxmox(HOST, &pve)?;
        Ok((Self::with(fleet, Drive::Guests, None)?, pve))
    }

    fn with(mut fleet: Fleet, drive: Drive, real: Option<(Engine, Watcher)>) -> Result<Self> {
        fleet.add_host(HOST, drive, &[])?;
        let operator = fleet.operator()?;
        let binding = operator.host(HOST)?.binding.context("the host has no binding")?;
        let binding = Envelope::from_json(&binding.json).and_then(Signed::<HostBinding>::new).and_then(|s| s.peek());
        let pen = Pen::new(fleet.operator_key()?, binding.map_err(|f| anyhow!("{f}"))?);
        Ok(Self {
            fleet,
            operator,
            pen,
            real,
            given: Vec::new(),
            outcomes: BTreeMap::new(),
            faults: BTreeMap::new(),
            deaths: 0,
            rotate_bytes: ROTATE_BYTES,
        })
    }

    /// The topology's name: unique to this site, on the engine too.
    #[must_use]
    pub fn topology(&self) -> String {
        self.fleet.cluster().to_owned()
    }

    /// The resource of a service.
    #[must_use]
    pub fn container(&self, service: &str) -> String {
        format!("docker/container/{}-{service}-1", self.fleet.cluster())
    }

    /// Pushes a topology; returns its generation.
    ///
    /// # Errors
    /// When `moorctl` fails.
    pub fn push(&self, yaml: &str) -> Result<u64> {
        self.fleet.push(yaml, &[])?.ok()?;
        Ok(self.operator.host(HOST)?.target_generation)
    }

    /// The same, to be tried for as short as there is; returns its generation.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn try_out(&self, yaml: &str) -> Result<u64> {
        self.fleet.push(yaml, &["--ttl", "30s"])?.ok()?;
        Ok(self.operator.host(HOST)?.target_generation)
    }

    /// Starts the agent, to be killed at `place` when one is given.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self, place: Option<&str>) -> Result<()> {
        let rotate_bytes = self.rotate_bytes.to_string();
        let mut environment = vec![("MOORLINE_JOURNAL_ROTATE_BYTES", rotate_bytes.as_str())];
        environment.extend(place.map(|place| ("MOORLINE_CRASH_AT", place)));
        self.fleet.start_agent_with(HOST, &environment)
    }

    /// Kills the agent now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.deaths += 1;
        self.fleet.kill_agent(HOST)
    }

    /// Whether the agent was killed since it was started. It must not have ended otherwise.
    ///
    /// # Errors
    /// When it does not run, or ended by itself.
    pub fn is_dead(&mut self) -> Result<bool> {
        match self.fleet.agent_ended(HOST)? {
            None => Ok(false),
            Some(status) if status.signal() == Some(SIGKILL) => {
                self.deaths += 1;
                Ok(true)
            }
            Some(status) => bail!("the agent ended by itself: {status}"),
        }
    }

    /// Signs and hands in.
    ///
    /// # Errors
    /// When the hub does not take it.
    pub fn order(&mut self, wish: Wish) -> Result<String> {
        let order = submit(&self.operator, &self.pen, wish)?;
        let id = order.id.clone();
        self.given.push(order);
        Ok(id)
    }

    /// Waits until every order has ended; what is in doubt an operator resolves, once. When the agent is killed meanwhile,
    /// it is started again.
    ///
    /// # Errors
    /// When some do not end in time.
    pub fn settle(&mut self) -> Result<()> {
        let mut resolved = Vec::new();
        let mut said = BTreeMap::new();
        let until = std::time::Instant::now() + SETTLE;
        loop {
            if self.is_dead()? {
                self.start(None)?;
            }
            said = self.stages().unwrap_or(said);
            let open: Vec<&Order> = self.given.iter().filter(|o| !is_end(said.get(&o.id)) && !self.outcomes.contains_key(&o.id)).collect();
            if open.is_empty() {
                return self.take_receipts(&said);
            }
            let in_doubt = open.iter().find(|o| said.get(&o.id).is_some_and(|s| s == "indeterminate") && !resolved.contains(&o.id));
            if let Some((id, resource)) = in_doubt.map(|o| (o.id.clone(), o.wish.resource.clone())) {
                self.order(Wish::new("resolve", json!({ "op_id": id, "outcome": "succeeded" }), &resource))?;
                resolved.push(id);
            }
            ensure!(std::time::Instant::now() < until, "some orders do not end: {:?}", self.open_now(&said));
            crate::wait::check_interrupt()?;
            std::thread::sleep(crate::limits::POLL);
        }
    }

    fn open_now(&self, said: &BTreeMap<String, String>) -> Vec<String> {
        let open = self.given.iter().filter(|o| !is_end(said.get(&o.id)) && !self.outcomes.contains_key(&o.id));
        open.map(|o| format!("{} {} {}: {:?}", o.id, o.wish.kind, o.wish.resource, said.get(&o.id))).collect()
    }

    /// Where the hub says that the orders are: all that it keeps of this host.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn stages(&self) -> Result<BTreeMap<String, String>> {
        let host_id = self.pen.binding().host_id.to_string();
        let (mut all, mut before) = (BTreeMap::new(), 0);
        loop {
            let request = pb::ListOpsRequest { host_id: host_id.clone(), open: false, limit: ORDERS_PAGE, before };
            let listed = self.operator.call(|mut c| async move { c.list_ops(request).await })?.ops;
            let Some(oldest) = listed.last() else { return Ok(all) };
            before = oldest.sequence;
            all.extend(listed.into_iter().map(|op| (op.op_id, op.state)));
        }
    }

    /// Checks the host's signature on how each ended, and keeps that.
    fn take_receipts(&mut self, said: &BTreeMap<String, String>) -> Result<()> {
        let new: Vec<String> = self.given.iter().map(|o| o.id.clone()).filter(|id| !self.outcomes.contains_key(id)).collect();
        for id in new {
            let receipt = self.receipt_of(&id)?;
            let outcome = receipt.outcome.as_str().to_owned();
            ensure!(said.get(&id) == Some(&outcome), "{id} is {:?} to the hub, and its receipt says {outcome}", said.get(&id));
            if let Some(fault) = receipt.fault {
                self.faults.insert(id.clone(), fault.to_string());
            }
            self.outcomes.insert(id, outcome);
        }
        Ok(())
    }

    fn receipt_of(&self, id: &str) -> Result<Receipt> {
        let request = pb::GetOpRequest { op_id: id.to_owned() };
        let op = self.operator.call(|mut c| async move { c.get_op(request).await })?.op.unwrap_or_default();
        let receipt = op.receipt.with_context(|| format!("{id} is {} without a receipt", op.state))?;
        let receipt = Signed::<Receipt>::from_json(&receipt.json).and_then(|s| s.verify_by_host(&self.pen.binding().host_key));
        let receipt = receipt.map_err(|f| anyhow!("the receipt of {id}: {f}"))?;
        ensure!(receipt.statement().op_id.as_str() == id, "a receipt of another order");
        Ok(receipt.into_statement())
    }

    /// How an order ended; empty before [`Self::settle`].
    #[must_use]
    pub fn outcome(&self, id: &str) -> &str {
        self.outcomes.get(id).map_or("", String::as_str)
    }

    /// What was ordered, what became of it, and why.
    #[must_use]
    pub fn told(&self, order: &Order) -> String {
        let fault = self.faults.get(&order.id).map_or("", String::as_str);
        format!("{} {} {}: {} {fault}", order.id, order.wish.kind, order.wish.resource, self.outcome(&order.id))
    }

    /// How many orders were given.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.given.len()
    }

    /// Every order.
    #[must_use]
    pub fn given(&self) -> &[Order] {
        &self.given
    }

    /// Waits until the host is as `generation` says. When the agent is killed meanwhile, it is started again.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn converge(&mut self, generation: u64) -> Result<()> {
        wait_until("the host is as the topology says", APPLY, || {
            if self.is_dead()? {
                self.start(None)?;
            }
            let host = self.operator.host(HOST)?;
            let beat = host.heartbeat.unwrap_or_default();
            Ok(host.connected
                && host.converged
                && beat.generation == generation
                && beat.applied_hash == host.target_hash
                && beat.open_ops == 0)
        })
    }

    /// The engine's id of a service's container, and whether it runs.
    ///
    /// # Errors
    /// When the engine does not answer, or has no such container.
    pub fn engine_id(&self, service: &str) -> Result<String> {
        let (engine, _) = self.real.as_ref().context("only a real engine has containers")?;
        let name = format!("{}-{service}-1", self.fleet.cluster());
        let live = engine.containers(self.fleet.cluster())?.remove(&name).with_context(|| format!("there is no container {name}"))?;
        Ok(format!("{} running: {}", live.id, live.running))
    }

    /// Waits until the agent says that a container's successor failed, and nothing is left of that. When the agent is killed
    /// meanwhile, it is started again.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn until_undone(&mut self, service: &str) -> Result<()> {
        wait_until("the old container is back", APPLY, || {
            if self.is_dead()? {
                self.start(None)?;
            }
            let host = self.operator.host(HOST)?;
            let beat = host.heartbeat.unwrap_or_default();
            if !host.connected || beat.generation != host.target_generation || beat.last_error_code != "rolled_back" {
                return Ok(false);
            }
            let (engine, _) = self.real.as_ref().context("only a real engine has containers")?;
            let beside = format!("{}-{service}-1-new-", self.fleet.cluster());
            Ok(!engine.containers(self.fleet.cluster())?.keys().any(|name| name.starts_with(&beside)))
        })
    }

    /// Waits until the agent says that it has given `generation` up, and is as before. When the agent is killed meanwhile, it is
    /// started again.
    ///
    /// # Errors
    /// When it is not in time.
    pub fn until_given_up(&mut self, generation: u64) -> Result<()> {
        wait_until("the host goes back", APPLY, || {
            if self.is_dead()? {
                self.start(None)?;
            }
            let host = self.operator.host(HOST)?;
            let beat = host.heartbeat.unwrap_or_default();
            Ok(host.connected && beat.rolled_back_generation == generation && beat.applied_generation == generation - 1 && !beat.converging)
        })
    }

    /// Waits until the agent was killed at the place that it was started with.
    ///
    /// # Errors
    /// When it is not: nothing passed that place.
    pub fn wait_for_death(&mut self) -> Result<()> {
        wait_until("the agent passes the place where it is killed", SOON, || self.is_dead())
    }

    /// Checks all orders since number `from` against journal and engine; `service` runs.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, from: usize, service: &str) -> Result<()> {
        let records = records::read(self)?;
        let verified = self.fleet.agent(HOST, &["journal", "verify"])?;
        ensure!(verified.code == 0, "the journal is not sound: {}", verified.text());
        let events = match &self.real {
            Some((engine, watcher)) => Some(watcher.until_now(engine, &format!("{}-{service}-1", self.fleet.cluster()))?),
            None => None,
        };
        let orders = self.given.get(from..).unwrap_or_default();
        check(&Given { orders, outcomes: &self.outcomes }, &records, events.as_deref())
    }

    /// Every container, with what matters of it: whether it runs, and its environment.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn state(&self) -> Result<BTreeMap<String, String>> {
        let Some((engine, _)) = &self.real else { return Ok(BTreeMap::new()) };
        let cluster = self.fleet.cluster();
        let mut all: BTreeMap<String, String> = engine
            .containers(cluster)?
            .into_iter()
            .map(|(name, c)| (name, format!("running: {}, {:?}", c.running, c.environment)))
            .collect();
        all.extend(engine.networks(cluster)?.into_iter().map(|name| (name, "network".to_owned())));
        Ok(all)
    }

    /// The newest segment of the host's journal gets the beginning of a line that was never finished.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn tear_journal(&self) -> Result<()> {
        use std::io::Write as _;
        let dir = self.fleet.agent_dir(HOST).join("journal");
        let newest = std::fs::read_dir(&dir)?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|x| x == "jsonl"));
        let newest = newest.max().context("there is no journal")?;
        let mut file = std::fs::File::options().append(true).open(newest)?;
        Ok(file.write_all(b"{\"seq\":99999999,\"batch\":9")?)
    }

    /// What signs, for another thread.
    #[must_use]
    pub fn pen(&self) -> Pen {
        self.pen.clone()
    }

    /// Takes over orders that another thread has handed in, in the order of their submission.
    pub fn adopt(&mut self, orders: Vec<Order>) {
        self.given.extend(orders);
    }

    /// How far the hub has seen the host's journal.
    ///
    /// # Errors
    /// When the hub does not answer.
    pub fn journal_seq(&self) -> Result<u64> {
        Ok(self.operator.host(HOST)?.heartbeat.unwrap_or_default().journal_seq)
    }
}

/// Signs and hands in.
///
/// # Errors
/// When the hub does not take it.
pub fn submit(operator: &Operator, pen: &Pen, wish: Wish) -> Result<Order> {
    let order = pen.sign(wish)?;
    let envelope: pb::Envelope = (&order.envelope).into();
    operator.call(|mut c| async move { c.submit_op(pb::SubmitOpRequest { op: Some(envelope) }).await })?;
    Ok(order)
}

fn is_end(stage: Option<&String>) -> bool {
    matches!(stage.map(String::as_str), Some("succeeded" | "failed" | "expired" | "cancelled" | "refused"))
}
