//! The same on a host of Proxmox VE: wherever its agent is killed, nothing is made twice and nothing is lost. What happened there tells the
//! simulator, which forgets nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::orders::Wish;
use super::site::{HOST, Site};
use crate::pve::PveHost;

/// Something that happens to a host of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Operations in two lanes.
    Lanes,
    /// The same after an agent was killed at the given place.
    LanesAfter(&'static str),
    /// The same after an agent was killed in the middle of a line.
    Torn,
    /// Orders that are refused, on the way in and at their turn.
    Refused,
    /// A worker dies; an operator has to say what came of it.
    Doubted,
    /// The topology changes, with another guest, and changes back.
    Pushed,
    /// The topology changes only to be tried, and nobody lets it stay.
    Tried,
    /// What is in force is confirmed, before an operation in another lane.
    Confirmed,
}

/// The story that passes `point`; nothing for what only an engine of containers passes.
#[must_use]
pub fn story_of(point: &str) -> Option<Story> {
    if point.starts_with("docker.") || point == "op.found-made" {
        return None;
    }
    Some(match point {
        "op.recover.before" | "op.recover.place" | "op.recover.begun" | "op.carry-on" | "op.doubt" => Story::LanesAfter("op.task.after"),
        "op.found-task" => Story::LanesAfter("pve.op.asked"),
        "op.again.before" | "op.again.after" => Story::LanesAfter("op.effect.before"),
        "journal.open.torn-kept" | "journal.open.torn-cut" => Story::Torn,
        "op.refuse-for-good" | "op.refuse.before" => Story::Refused,
        "op.lost.before" | "op.lost.after" | "op.about.before" | "op.about.after" => Story::Doubted,
        "intake.back.before" | "ledger.back.before" | "intake.back.after" => Story::Tried,
        "ledger.confirm.before" => Story::Confirmed,
        "ledger.trial-end.before" | "ledger.admit.before" | "ledger.admit.after" | "pve.step.asked" => Story::Pushed,
        _ if point.starts_with("reconcile.") || point.starts_with("ledger.success.") => Story::Pushed,
        _ => Story::Lanes,
    })
}

/// A host of guests, and who is killed there.
pub struct GuestSite {
    /// The hub, the agent and the operator.
    pub site: Site,
    pve: PveHost,
}

const DB: &str = "pve/guest/101";
const WEB: &str = "pve/guest/102";

/// Other guests, one for each time that one is asked for.
fn another() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn topology(name: &str, memory: u32, more: Option<u32>) -> String {
    let guest = |vmid: u32, name: &str, memory: u32, from: &str| {
        format!(
            "        {vmid}: {{ type: qemu, state: running, config: {{ name: {name}, memory: {memory}, scsi0: \"local-lvm:4\" }}{from} }}\n"
        )
    };
    let mut yaml = format!("topology: {name}\nhosts:\n  {HOST}:\n    proxmox:\n      guests:\n");
    yaml.push_str(&guest(101, "db", memory, ""));
    yaml.push_str(&guest(102, "web", 1024, ""));
    yaml.extend(more.map(|vmid| guest(vmid, "more", 512, ", from: { clone: 9000, full: true }")));
    yaml
}

impl GuestSite {
    /// A site as every story begins and ends.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn stage(name: &str) -> Result<Self> {
        let (mut site, pve) = Site::on_guests(name)?;
        let generation = site.push(&topology(&site.topology(), 2048, None))?;
        site.converge(generation)?;
        Ok(Self { site, pve })
    }

    /// Lets an agent die at `point` (or, without one, not at all) in its story, and checks what came of it.
    ///
    /// # Errors
    /// When nothing passed the point, or something does not hold.
    pub fn play(&mut self, story: Story, point: Option<&str>) -> Result<()> {
        let (from, before) = (self.site.orders(), self.pve.all_effects()?.len());
        self.site.kill()?;
        let mut all_succeed = true;
        match story {
            Story::Lanes => self.orders(point, lanes())?,
            Story::LanesAfter(first) => {
                self.site.start(Some(first))?;
                lanes().into_iter().try_for_each(|wish| self.site.order(wish).map(drop))?;
                self.site.wait_for_death().with_context(|| format!("at {first}, before the story"))?;
                self.orders(point, Vec::new())?;
            }
            Story::Torn => {
                self.site.tear_journal()?;
                self.orders(point, lanes())?;
            }
            Story::Refused => {
                all_succeed = false;
                let outdated = Wish { outdated: true, ..snapshot(DB) };
                self.orders(point, vec![outdated, snapshot("pve/guest/999"), snapshot(DB)])?;
                let outcomes: Vec<&str> = self.site.given().iter().skip(from).map(|o| self.site.outcome(&o.id)).collect();
                ensure!(outcomes == ["refused", "refused", "succeeded"], "{outcomes:?}");
            }
            Story::Doubted => {
                let dies = json!({ "worker_dies": [{ "task": "vzdump", "after_effect": true, "next": 1 }] });
                self.pve.faults(&dies)?;
                self.orders(point, vec![backup(WEB), snapshot(DB)])?;
                self.pve.faults(&json!({}))?;
                self.pve.by_hand(&moorline_pve_sim::world::hand::Hand::Unlock { vmid: 102 })?;
            }
            Story::Pushed => self.pushed(point)?,
            Story::Tried => self.tried(point)?,
            Story::Confirmed => {
                let (topology, generation) = (self.site.topology(), self.site.operator.host(HOST)?.target_generation);
                let confirm = Wish::new("confirm", json!({ "topology": topology, "generation": generation }), "host");
                self.orders(point, vec![confirm, snapshot(DB)])?;
            }
        }
        if all_succeed {
            let failed = self.site.given().iter().skip(from).filter(|o| self.site.outcome(&o.id) != "succeeded");
            let failed: Vec<_> = failed.map(|o| self.site.told(o)).collect();
            ensure!(failed.is_empty(), "{failed:?}");
        }
        self.site.check(from, "db")?;
        self.effects_once(from, before)?;
        let wrong = self.pve.wrong()?;
        ensure!(wrong.is_empty(), "the host was asked otherwise than its API says: {wrong:?}");
        Ok(())
    }

    /// Orders all, while an agent dies at `point`.
    fn orders(&mut self, point: Option<&str>, wishes: Vec<Wish>) -> Result<()> {
        let deaths = self.site.deaths;
        self.site.start(point)?;
        wishes.into_iter().try_for_each(|wish| self.site.order(wish).map(drop))?;
        self.site.settle()?;
        self.died(deaths, point)
    }

    /// What follows the last order, such as an acknowledgement, may still be under way.
    fn died(&mut self, deaths: u32, point: Option<&str>) -> Result<()> {
        if point.is_some() && self.site.deaths == deaths {
            self.site.wait_for_death()?;
            self.site.start(None)?;
            self.site.settle()?;
        }
        Ok(())
    }

    fn pushed(&mut self, point: Option<&str>) -> Result<()> {
        let (deaths, name, more) = (self.site.deaths, self.site.topology(), another());
        let generation = self.site.push(&topology(&name, 4096, Some(more)))?;
        self.site.start(point)?;
        self.site.converge(generation)?;
        self.memory("4096")?;
        let generation = self.site.push(&topology(&name, 2048, None))?;
        self.site.converge(generation)?;
        self.memory("2048")?;
        self.died(deaths, point)?;
        let guest = self.pve.guest(more)?.with_context(|| format!("guest {more} is gone, though it was only taken out of the topology"))?;
        ensure!(guest.get("status").is_some_and(|status| status == "stopped"), "guest {more} is not stopped: {guest}");
        let made = self.pve.effects(more, "cloned")?;
        ensure!(made == 1, "guest {more} was made {made} times");
        // The next story's host is no larger.
        self.pve.by_hand(&moorline_pve_sim::world::hand::Hand::Destroy { vmid: more })
    }

    fn tried(&mut self, point: Option<&str>) -> Result<()> {
        let (deaths, name) = (self.site.deaths, self.site.topology());
        let generation = self.site.try_out(&topology(&name, 8192, None))?;
        self.site.start(point)?;
        self.site.until_given_up(generation)?;
        self.died(deaths, point)?;
        self.memory("2048")?;
        let generation = self.site.push(&topology(&name, 2048, None))?;
        self.site.converge(generation)
    }

    fn memory(&self, wanted: &str) -> Result<()> {
        let guest = self.pve.guest(101)?.context("guest 101 is gone")?;
        ensure!(guest.get("memory").is_some_and(|memory| memory == wanted), "guest 101 should have {wanted} MiB: {guest}");
        Ok(())
    }

    /// What each order that succeeded is to do was done, once.
    fn effects_once(&self, from: usize, before: usize) -> Result<()> {
        let all = self.pve.all_effects()?;
        let new = all.get(before..).unwrap_or_default();
        let text = |effect: &Value, key: &str| effect.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        let count = |vmid: &str, kind: &str, what: &dyn Fn(&str) -> bool| {
            let is_it = |effect: &&Value| {
                text(effect, "vmid").as_deref() == Some(vmid)
                    && text(effect, "kind").as_deref() == Some(kind)
                    && what(&text(effect, "what").unwrap_or_default())
            };
            new.iter().filter(is_it).count()
        };
        let mut backups: BTreeMap<String, usize> = BTreeMap::new();
        for order in self.site.given().iter().skip(from).filter(|order| self.site.outcome(&order.id) == "succeeded") {
            let vmid = order.wish.resource.rsplit('/').next().unwrap_or_default();
            let times = match order.wish.kind {
                "snapshot-create" => count(vmid, "snapshot-made", &|name| is_of(name, &order.id)),
                "clone" => count(order.wish.params.get("newid").and_then(Value::as_str).unwrap_or_default(), "cloned", &|_| true),
                "backup" => {
                    *backups.entry(vmid.to_owned()).or_default() += 1;
                    continue;
                }
                _ => continue,
            };
            ensure!(times == 1, "{}: it happened {times} times: {new:#?}", self.site.told(order));
        }
        for (vmid, wanted) in backups {
            let times = count(&vmid, "backed-up", &|_| true);
            ensure!(times == wanted, "{wanted} backups of guest {vmid} were ordered, and {times} made: {new:#?}");
        }
        Ok(())
    }
}

/// Whether a snapshot's name is the one that an operation gives it by itself.
fn is_of(name: &str, op_id: &str) -> bool {
    let id = op_id.parse().ok();
    id.is_some_and(|id| name == moorline_common::op::guest::snapshot_name(&id))
}

fn snapshot(resource: &str) -> Wish {
    Wish::new("snapshot-create", json!({}), resource)
}

fn backup(resource: &str) -> Wish {
    Wish::new("backup", json!({ "storage": "local" }), resource)
}

fn lanes() -> Vec<Wish> {
    let clone = Wish::new("clone", json!({ "newid": another().to_string() }), WEB);
    vec![snapshot(DB), snapshot(WEB), backup(DB), clone, snapshot(DB)]
}
