//! A revision that spreads: who gets it when, what stops it, and what outlives the hub.

use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::rollout::{OnFailure, Plan, Share};
use moorline_common::statement::SliceStatement;
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Say;
use moorline_proto::v1::hub_message::Kind as Said;

use super::{Agent, DEADLINE, Kit, Link, applied, ready, web};
use crate::cmd::{backup, restore};

fn plan(canary: u32, width: u32) -> Plan {
    Plan { canary: Share::Count(canary), max_parallel: Share::Count(width), healthy_for_s: 1, deadline_s: 5, ..Plan::default() }
}

/// Hosts `a`, `b`, … with generation 1 of `edge`, and their sessions.
struct Hosts {
    agents: Vec<Agent>,
    links: Vec<Link>,
    now: Vec<SliceStatement>,
}

impl Hosts {
    async fn new(kit: &Kit, count: u8) -> Self {
        let mut agents = Vec::new();
        for n in 0..count {
            agents.push(kit.bound(&name(usize::from(n)), n).await);
        }
        let now: Vec<SliceStatement> = agents.iter().map(|a| kit.slice(a, "edge", 1, web("one"))).collect();
        kit.push("edge", 0, &now).await.unwrap();
        let mut hosts = Self { agents, links: Vec::new(), now };
        hosts.connect(kit).await;
        hosts
    }

    /// Every host opens a session and has what it had.
    async fn connect(&mut self, kit: &Kit) {
        self.links = Vec::new();
        for (n, agent) in self.agents.iter().enumerate() {
            let mut link = agent.open(kit).await.unwrap();
            link.beat(applied(&self.now[n])).await;
            kit.until_host(&name(n), |h| h.connected && h.heartbeat.is_some()).await;
            self.links.push(link);
        }
    }

    /// Pushes `image` for all, to be spread by `plan`.
    async fn push(&self, kit: &Kit, base: u64, image: &str, plan: Option<&Plan>) -> Vec<SliceStatement> {
        let slices: Vec<_> = self.agents.iter().map(|a| kit.slice(a, "edge", base + 1, web(image))).collect();
        let mut request = kit.push_request("edge", base, &slices);
        request.rollout = plan.map(pb::RolloutPlan::from);
        kit.operator().await.push(request).await.unwrap();
        slices
    }

    /// Host `n` gets `slice`, applies it and finds itself healthy.
    async fn heal(&mut self, n: usize, slice: &SliceStatement) {
        assert_eq!(self.links[n].slice().await, *slice);
        self.links[n].beat(pb::Heartbeat { healthy_generation: slice.generation.0, ..applied(slice) }).await;
        self.now[n] = slice.clone();
    }

    /// Host `n` is sent nothing.
    async fn hears_nothing(&mut self, n: usize) {
        let next = tokio::time::timeout(Duration::from_millis(400), self.links[n].inbound.message()).await;
        assert!(next.is_err(), "host {n} was sent {next:?}");
    }
}

fn name(n: usize) -> String {
    char::from(b'a' + u8::try_from(n).unwrap()).to_string()
}

async fn rollout(kit: &Kit) -> pb::Rollout {
    let request = pb::GetRolloutRequest { topology: "edge".to_owned(), generation: 0 };
    kit.operator().await.get_rollout(request).await.unwrap().into_inner().rollout.unwrap()
}

/// Waits until the newest rollout is so.
async fn until(kit: &Kit, so: impl Fn(&pb::Rollout) -> bool) -> pb::Rollout {
    let mut last = None;
    let waited = tokio::time::timeout(DEADLINE, async {
        loop {
            let rollout = rollout(kit).await;
            if so(&rollout) {
                return rollout;
            }
            last = Some(rollout);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("the rollout is {last:?}"))
}

fn standings(rollout: &pb::Rollout) -> Vec<&str> {
    rollout.hosts.iter().map(|h| h.standing.as_str()).collect()
}

async fn act(kit: &Kit, act: pb::RolloutAct) -> Result<String, Code> {
    let request = pb::ActOnRolloutRequest { topology: "edge".to_owned(), generation: 0, act: act.into() };
    let done = kit.operator().await.act_on_rollout(request).await;
    done.map(|r| r.into_inner().rollout.unwrap().state).map_err(|status| from_status(&status).code)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_canary_first_then_as_many_at_once_as_the_plan_allows() {
    let kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 4).await;
    let two = hosts.push(&kit, 1, "two", Some(&plan(1, 2))).await;
    assert_eq!(hosts.links[0].slice().await, two[0]);
    hosts.hears_nothing(1).await;
    let waiting = kit.host("b").await;
    assert!(waiting.target_generation == 1 && waiting.converged, "it is as wanted until its turn: {waiting:?}");
    // What a host loses meanwhile is what it had before.
    hosts.links[3].beat(pb::Heartbeat { applied_hash: "edited by hand".to_owned(), ..applied(&hosts.now[3]) }).await;
    assert_eq!(hosts.links[3].slice().await, hosts.now[3]);
    hosts.links[3].beat(applied(&hosts.now[3])).await;
    // Applied is not healthy yet.
    hosts.links[0].beat(applied(&two[0])).await;
    hosts.hears_nothing(1).await;
    hosts.links[0].beat(pb::Heartbeat { healthy_generation: 2, ..applied(&two[0]) }).await;
    for n in [1, 2] {
        assert_eq!(hosts.links[n].slice().await, two[n]);
    }
    hosts.hears_nothing(3).await;
    assert_eq!(standings(&rollout(&kit).await), ["healthy", "released", "released", "pending"]);
    hosts.links[2].beat(pb::Heartbeat { healthy_generation: 2, ..applied(&two[2]) }).await;
    hosts.heal(3, &two[3]).await;
    hosts.links[1].beat(pb::Heartbeat { healthy_generation: 2, ..applied(&two[1]) }).await;
    let done = until(&kit, |r| r.state == "completed").await;
    assert_eq!((standings(&done), done.reason.as_str()), (vec!["healthy"; 4], "4 of 4 hosts healthy, 0 failed"));
    kit.until_kinds("rollout_completed", 1).await;
    assert_eq!(kit.kinds("rollout_released").await.len(), 3);
    assert_eq!(act(&kit, pb::RolloutAct::Pause).await, Err(Code::PreconditionFailed));
    assert_eq!(kit.kinds("rollout_act_refused").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_goes_back_ends_it_also_when_the_hub_dies_in_the_middle() {
    let mut kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 3).await;
    let two = hosts.push(&kit, 1, "two", Some(&plan(1, 2))).await;
    assert_eq!(hosts.links[0].slice().await, two[0]);
    kit.stop().await;
    kit.start().await;
    hosts.connect(&kit).await;
    assert_eq!(hosts.links[0].slice().await, two[0], "it was given to it, and is sent again");
    let back = pb::Heartbeat { generation: 2, rolled_back_generation: 2, ..applied(&hosts.now[0]) };
    hosts.links[0].beat(back.clone()).await;
    let failed = until(&kit, |r| r.state == "failed").await;
    assert_eq!(standings(&failed), ["rolled_back", "pending", "pending"]);
    assert_eq!(failed.reason, "1 of 3 hosts failed, and 0 may: a");
    kit.stop().await;
    kit.start().await;
    hosts.connect(&kit).await;
    hosts.links[0].beat(back).await;
    for n in [1, 2] {
        hosts.hears_nothing(n).await;
        assert!(kit.host(&name(n)).await.converged);
    }
    let alarms = kit.until_kinds("rollout_failed", 1).await;
    assert!(alarms[0].message.starts_with("ALARM") && alarms[0].code == "rollout_failed", "{alarms:?}");
    assert_eq!(kit.until_kinds("rollout_host_failed", 1).await[0].host, "a");
    assert_eq!(act(&kit, pb::RolloutAct::Resume).await, Err(Code::PreconditionFailed));
    // A mended one goes its own way, and begins with the first again.
    let three = hosts.push(&kit, 2, "three", Some(&plan(1, 2))).await;
    let next = async |link: &mut Link| loop {
        // The session of before was asked what it holds, as its first heartbeat here was an old one.
        if let Said::Slice(_) = link.next().await {
            return;
        }
    };
    next(&mut hosts.links[0]).await;
    hosts.links[0].beat(pb::Heartbeat { healthy_generation: 3, ..applied(&three[0]) }).await;
    for n in [1, 2] {
        hosts.heal(n, &three[n]).await;
    }
    until(&kit, |r| r.generation == 3 && r.state == "completed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rollback_a_host_that_is_late_pauses_it_and_operators_decide() {
    let kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 3).await;
    let pausing = Plan { on_failure: OnFailure::Pause, ..plan(0, 1) };
    let two = hosts.push(&kit, 1, "two", Some(&pausing)).await;
    assert_eq!(hosts.links[0].slice().await, two[0]);
    let trouble = pb::Heartbeat { last_error_code: "step_failed".to_owned(), ..applied(&two[0]) };
    hosts.links[0].beat(trouble.clone()).await;
    kit.until_host("a", |h| h.heartbeat.as_ref().is_some_and(|b| b.generation == 2)).await;
    for seq in 1..=2 {
        kit.clock.advance(Duration::from_secs(8));
        // They are not silent meanwhile.
        let beats = [&trouble, &applied(&hosts.now[1]), &applied(&hosts.now[2])].map(Clone::clone);
        for (link, beat) in hosts.links.iter_mut().zip(beats) {
            link.beat(pb::Heartbeat { journal_seq: seq, ..beat }).await;
        }
        for n in 0..3 {
            kit.until_host(&name(n), |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == seq)).await;
        }
    }
    let paused = until(&kit, |r| r.state == "paused").await;
    assert_eq!(standings(&paused), ["failed", "pending", "pending"]);
    assert!(paused.hosts[0].reason.contains("not healthy within 5 s") && paused.hosts[0].reason.contains("step_failed"), "{paused:?}");
    kit.until_kinds("rollout_paused", 1).await;
    hosts.hears_nothing(1).await;
    assert_eq!(act(&kit, pb::RolloutAct::Resume).await.unwrap(), "running");
    assert_eq!(hosts.links[1].slice().await, two[1]);
    assert_eq!(act(&kit, pb::RolloutAct::Pause).await.unwrap(), "paused");
    hosts.links[1].beat(pb::Heartbeat { healthy_generation: 2, ..applied(&two[1]) }).await;
    until(&kit, |r| standings(r) == ["failed", "healthy", "pending"]).await;
    hosts.hears_nothing(2).await;
    assert_eq!(act(&kit, pb::RolloutAct::Abort).await.unwrap(), "aborted");
    hosts.hears_nothing(2).await;
    assert_eq!(rollout(&kit).await.state, "aborted");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fallback_the_hub_sees_to_it_that_a_host_stays_healthy_for_as_long_as_the_plan_says() {
    let kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 2).await;
    let long = Plan { on_failure: OnFailure::Pause, healthy_for_s: 15, deadline_s: 60, ..plan(1, 1) };
    let two = hosts.push(&kit, 1, "two", Some(&long)).await;
    assert_eq!(hosts.links[0].slice().await, two[0]);
    let healthy = pb::Heartbeat { healthy_generation: 2, ..applied(&two[0]) };
    let failing = pb::Heartbeat { last_error_code: "step_failed".to_owned(), ..healthy.clone() };
    // Healthy by its own word after ten seconds, but not for five more without a break.
    for (seq, beat) in [(1, &healthy), (2, &failing), (3, &healthy)] {
        for n in 0..2 {
            let said = if n == 0 { beat.clone() } else { applied(&hosts.now[1]) };
            hosts.links[n].beat(pb::Heartbeat { journal_seq: seq, ..said }).await;
            kit.until_host(&name(n), |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == seq)).await;
        }
        hosts.hears_nothing(1).await;
        kit.clock.advance(Duration::from_secs(4));
    }
    hosts.hears_nothing(1).await;
    kit.clock.advance(Duration::from_secs(2));
    hosts.links[0].beat(pb::Heartbeat { journal_seq: 9, ..healthy }).await;
    assert_eq!(hosts.links[1].slice().await, two[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_counts_at_once_and_what_changes_nothing_does_not_wait() {
    let kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 4).await;
    // `c` keeps its content, `d` leaves.
    let of = |n: usize, content| kit.slice(&hosts.agents[n], "edge", 2, content);
    let two = [of(0, web("two")), of(1, web("two")), of(2, web("one")), of(3, serde_json::json!({}))];
    let mut request = kit.push_request("edge", 1, &two);
    request.rollout = Some(pb::RolloutPlan::from(&plan(1, 1)));
    kit.operator().await.push(request).await.unwrap();
    for n in [2, 3] {
        assert_eq!(hosts.links[n].slice().await, two[n]);
    }
    hosts.links[0].refuse("policy_denied", "bind mount").await;
    let failed = until(&kit, |r| r.state == "failed").await;
    assert_eq!((failed.hosts.len(), standings(&failed)), (2, vec!["failed", "pending"]));
    assert!(failed.hosts[0].reason.contains("bind mount"), "{failed:?}");
    hosts.hears_nothing(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_away_gets_it_when_it_comes() {
    let kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 3).await;
    drop(hosts.links.remove(0));
    kit.until_host("a", |h| !h.connected).await;
    let two = hosts.push(&kit, 1, "two", Some(&plan(1, 3))).await;
    for (link, slice) in hosts.links.iter_mut().zip(&two[1..]) {
        assert_eq!(link.slice().await, *slice);
        link.beat(pb::Heartbeat { healthy_generation: 2, ..applied(slice) }).await;
    }
    kit.clock.advance(Duration::from_secs(21));
    let done = until(&kit, |r| r.state == "completed").await;
    assert_eq!(
        (standings(&done), done.reason.as_str()),
        (vec!["offline", "healthy", "healthy"], "2 of 3 hosts healthy, 0 failed, 1 away until they come")
    );
    let mut link = hosts.agents[0].open(&kit).await.unwrap();
    link.beat(applied(&hosts.now[0])).await;
    assert_eq!(link.slice().await, two[0]);
    link.beat(pb::Heartbeat { healthy_generation: 2, ..applied(&two[0]) }).await;
    until(&kit, |r| standings(r) == ["healthy"; 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_without_a_plan_ends_it_and_reaches_all_at_once() {
    let kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 3).await;
    let two = hosts.push(&kit, 1, "two", Some(&plan(1, 1))).await;
    assert_eq!(hosts.links[0].slice().await, two[0]);
    let three = hosts.push(&kit, 2, "three", None).await;
    for (link, slice) in hosts.links.iter_mut().zip(&three) {
        assert_eq!(link.slice().await, *slice);
    }
    assert_eq!(rollout(&kit).await.state, "superseded");
    kit.until_kinds("rollout_superseded", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_bound_late_waits_for_its_turn() {
    let kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 1).await;
    let two = hosts.push(&kit, 1, "two", Some(&plan(1, 1))).await;
    assert_eq!(hosts.links[0].slice().await, two[0]);
    let late = kit.bound("late", 9).await;
    let slice = kit.slice(&late, "edge", 2, web("two"));
    let request = pb::AddSlicesRequest { topology: "edge".to_owned(), generation: 2, slices: vec![kit.sealed(&slice)] };
    kit.operator().await.add_slices(request).await.unwrap();
    let mut link = late.open(&kit).await.unwrap();
    link.beat(ready()).await;
    assert!(tokio::time::timeout(Duration::from_millis(400), link.inbound.message()).await.is_err(), "the canary is not healthy yet");
    hosts.links[0].beat(pb::Heartbeat { healthy_generation: 2, ..applied(&two[0]) }).await;
    assert_eq!(link.slice().await, slice);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_restored_from_the_middle_goes_on_from_what_the_hosts_have() {
    let mut kit = Kit::new().await;
    let mut hosts = Hosts::new(&kit, 2).await;
    drop(hosts.links.remove(0));
    kit.until_host("a", |h| !h.connected).await;
    drop(hosts.links.remove(0));
    kit.until_host("b", |h| !h.connected).await;
    let two = hosts.push(&kit, 1, "two", Some(&plan(1, 1))).await;
    // By this backup, nobody has it yet.
    let file = kit.home.path().join("backup");
    backup::write(&kit.dir(), &file).unwrap();
    kit.stop().await;
    restore::restore(&kit.dir(), &file, true).unwrap();
    kit.start().await;
    let mut link = hosts.agents[0].open(&kit).await.unwrap();
    link.beat(pb::Heartbeat { healthy_generation: 2, ..applied(&two[0]) }).await;
    let next = link.next().await;
    if matches!(&next, Said::Query(query) if query.what() == pb::query::What::Held) {
        let held = pb::Held { roots: hosts.agents[0].roots.clone(), binding: None, slice: kit.sealed(&two[0]).slice };
        link.say(Say::Held(held)).await;
    }
    let gone_on = until(&kit, |r| r.hosts[0].standing == "healthy").await;
    assert_eq!(standings(&gone_on)[1], "pending");
    kit.until_host("a", |h| h.converged && h.target_generation == 2).await;
    let mut second = hosts.agents[1].open(&kit).await.unwrap();
    second.beat(applied(&hosts.now[1])).await;
    assert_eq!(second.slice().await, two[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_makes_no_sense_changes_nothing() {
    let kit = Kit::new().await;
    let hosts = Hosts::new(&kit, 1).await;
    let slice = kit.slice(&hosts.agents[0], "edge", 2, web("two"));
    let mut request = kit.push_request("edge", 1, std::slice::from_ref(&slice));
    request.rollout = Some(pb::RolloutPlan { max_parallel: None, ..pb::RolloutPlan::from(&plan(1, 1)) });
    let status = kit.operator().await.push(request).await.unwrap_err();
    assert_eq!(from_status(&status).code, Code::InvalidArgument);
    let none = pb::GetRolloutRequest { topology: "edge".to_owned(), generation: 0 };
    assert_eq!(from_status(&kit.operator().await.get_rollout(none).await.unwrap_err()).code, Code::NotFound);
    let list = pb::ListRolloutsRequest::default();
    assert!(kit.operator().await.list_rollouts(list).await.unwrap().into_inner().rollouts.is_empty());
    assert_eq!(kit.host("a").await.target_generation, 1);
}
