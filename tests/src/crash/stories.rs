//! For each crash point a story that passes it: what is ordered or pushed, and what comes before.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::orders::Wish;
use super::site::{HOST, Site};
use crate::image::IMAGE;

/// Something that happens to a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// Operations in two lanes, each of which leaves a trace that proves it at once.
    Lanes,
    /// The same after an agent was killed at the given place.
    LanesAfter(&'static str),
    /// The same after an agent was killed in the middle of a line.
    Torn,
    /// Orders that are refused, on the way in and at their turn.
    Refused,
    /// A container goes for good, and comes back as the topology says.
    Destroyed,
    /// A volume goes for good, and comes back.
    Emptied,
    /// An image that cannot be had, and a look for what may go.
    Fetched,
    /// A signal of which nothing tells whether it was sent; an operator has to say.
    Doubted,
    /// The topology changes, and changes back.
    Pushed,
    /// The topology changes a container to one that is no good, and back.
    Undone,
    /// The topology changes only to be tried, and nobody lets it stay.
    Tried,
    /// What is in force is confirmed, before an operation in another lane.
    Confirmed,
}

/// The story that passes `point`.
#[must_use]
pub fn story_of(point: &str) -> Story {
    match point {
        "op.recover.before" | "op.recover.place" | "op.recover.begun" | "op.carry-on" | "op.doubt" | "op.found-made" => {
            Story::LanesAfter("op.task.after")
        }
        "op.found-task" => Story::LanesAfter("docker.exec-start.after"),
        "op.again.before" | "op.again.after" => Story::LanesAfter("op.effect.before"),
        "journal.open.torn-kept" | "journal.open.torn-cut" => Story::Torn,
        "op.refuse-for-good" | "op.refuse.before" => Story::Refused,
        "docker.destroy.before" | "docker.destroy.stopped" => Story::Destroyed,
        "docker.volume.before" => Story::Emptied,
        "docker.pull.before" | "docker.pull.after" | "docker.prune.before" | "docker.prune.after" => Story::Fetched,
        "op.lost.before" | "op.lost.after" | "op.about.before" | "op.about.after" => Story::Doubted,
        "docker.network.before"
        | "docker.network-gone.before"
        | "docker.new-volume.before"
        | "docker.new-volume.after"
        | "docker.create.before"
        | "docker.create.after"
        | "docker.start.before"
        | "docker.start.after"
        | "docker.replace.made"
        | "docker.replace.stopped"
        | "docker.replace.good"
        | "docker.replace.removed"
        | "docker.replace.named"
        | "docker.remove.stopped"
        | "docker.update.before"
        | "docker.update.networks"
        | "docker.update.after"
        | "ledger.admit.before"
        | "ledger.admit.after" => Story::Pushed,
        "intake.back.before" | "ledger.back.before" | "intake.back.after" => Story::Tried,
        "ledger.trial-end.before" => Story::Pushed,
        "ledger.confirm.before" => Story::Confirmed,
        "docker.replace.failed" | "docker.replace.undone" | "docker.replace.back" => Story::Undone,
        _ if point.starts_with("reconcile.") || point.starts_with("ledger.success.") => Story::Pushed,
        _ => Story::Lanes,
    }
}

/// The topology of every site, changed in all that a reconciler can be made to do when `change` counts it.
#[must_use]
pub fn topology(name: &str, change: Option<u32>) -> String {
    let greeting = if change.is_some() { "two" } else { "one" };
    let mut yaml = format!("topology: {name}\nhosts:\n  {HOST}:\n    docker:\n");
    let service = |name: &str, greeting: &str, more: &str| {
        format!(
            "        {name}:\n          image: {IMAGE}\n          stop_grace_period: 1s\n          environment: {{ GREETING: \"{greeting}\" }}\n{more}"
        )
    };
    match change {
        None => yaml.push_str("      volumes: { data: {} }\n      services:\n"),
        Some(n) => {
            yaml.push_str(&format!("      networks: {{ more: {{}} }}\n      volumes: {{ data: {{}}, more{n}: {{}} }}\n      services:\n"))
        }
    }
    // What the engine changes while it runs.
    let running = match change {
        None => "          pids_limit: 50\n",
        Some(_) => "          pids_limit: 100\n          networks: [default, more]\n",
    };
    yaml.push_str(&service("a", "one", running));
    yaml.push_str(&service("b", greeting, ""));
    yaml.push_str(&service("c", "one", "          volumes: [\"data:/data\"]\n"));
    if let Some(n) = change {
        yaml.push_str(&service("d", "two", &format!("          networks: [more]\n          volumes: [\"more{n}:/data\"]\n")));
    }
    yaml
}

/// A site as every story begins and ends.
///
/// # Errors
/// When it cannot be made.
pub fn stage(name: &str) -> Result<Option<Site>> {
    let Some(mut site) = Site::on_docker(name)? else { return Ok(None) };
    let generation = site.push(&topology(&site.topology(), None))?;
    site.converge(generation)?;
    Ok(Some(site))
}

/// Lets an agent die at `point` (or, without one, not at all) in its story, and checks what came of it.
///
/// # Errors
/// When nothing passed the point, or something does not hold.
pub fn play(site: &mut Site, story: Story, point: Option<&str>) -> Result<()> {
    let (before, from) = (site.state()?, site.orders());
    site.kill()?;
    match story {
        Story::Lanes => orders(site, point, &[lanes(site)])?,
        Story::LanesAfter(first) => {
            site.start(Some(first))?;
            lanes(site).into_iter().try_for_each(|wish| site.order(wish).map(drop))?;
            site.wait_for_death().with_context(|| format!("at {first}, before the story"))?;
            orders(site, point, &[])?;
        }
        Story::Torn => {
            site.tear_journal()?;
            orders(site, point, &[lanes(site)])?;
        }
        Story::Refused => {
            let nobody = site.container("nobody");
            let a = site.container("a");
            let outdated = Wish { outdated: true, ..Wish::exec(&a) };
            orders(site, point, &[vec![outdated, Wish::exec(&nobody), Wish::exec(&a)]])?;
            let outcomes: Vec<&str> = site.given().iter().skip(from).map(|o| site.outcome(&o.id)).collect();
            ensure!(outcomes == ["refused", "refused", "succeeded"], "{outcomes:?}");
        }
        Story::Destroyed => {
            let b = site.container("b");
            orders(site, point, &[vec![Wish::plain("destroy", &b), Wish::plain("converge", &b), Wish::exec(&b)]])?;
        }
        Story::Emptied => {
            let (c, volume) = (site.container("c"), format!("docker/volume/{}_data", site.topology()));
            let waves = [
                vec![Wish::plain("destroy", &c)],
                vec![Wish::plain("destroy", &volume), Wish::plain("converge", &volume)],
                vec![Wish::plain("converge", &c)],
            ];
            orders(site, point, &waves)?;
        }
        Story::Fetched => {
            let pull = Wish::plain("pull", "docker/image/127.0.0.1:1/nothing:1");
            let (a, prune) = (site.container("a"), Wish::new("prune", json!({ "volumes": true }), "host"));
            orders(site, point, &[vec![Wish::exec(&a), pull, prune, Wish::exec(&a)]])?;
            let outcomes: Vec<&str> = site.given().iter().skip(from).map(|o| site.outcome(&o.id)).collect();
            // Also the prune: after a start it waits until the hub has sent the slice again.
            ensure!(outcomes == ["succeeded", "failed", "succeeded", "succeeded"], "{outcomes:?}");
        }
        Story::Doubted => {
            let b = site.container("b");
            site.start(Some("docker.act.after"))?;
            [Wish::kill("SIGUSR1", &b), Wish::exec(&b)].into_iter().try_for_each(|wish| site.order(wish).map(drop))?;
            site.wait_for_death().context("after the signal")?;
            orders(site, point, &[])?;
            let signal = site.given().get(from).map(|o| o.id.clone()).unwrap_or_default();
            let resolved = site.given().iter().skip(from).filter(|o| o.wish.kind == "resolve").count();
            ensure!(resolved == 1 && site.outcome(&signal) == "succeeded", "{resolved} resolutions; {}", site.outcome(&signal));
        }
        Story::Pushed => pushed(site, point)?,
        Story::Undone => undone(site, point)?,
        Story::Tried => tried(site, point)?,
        Story::Confirmed => {
            let (topology, generation) = (site.topology(), site.operator.host(super::site::HOST)?.target_generation);
            let confirm = Wish::new("confirm", json!({ "topology": topology, "generation": generation }), "host");
            orders(site, point, &[vec![confirm, Wish::exec(&site.container("a"))]])?;
        }
    }
    if !matches!(story, Story::Refused | Story::Fetched) {
        let failed = site.given().iter().skip(from).filter(|o| site.outcome(&o.id) != "succeeded");
        let failed: Vec<_> = failed.map(|o| site.told(o)).collect();
        ensure!(failed.is_empty(), "{failed:?}");
    }
    site.check(from, "a")?;
    let after = site.state()?;
    ensure!(after == before, "the host was {before:?}, now it is {after:?}");
    Ok(())
}

fn lanes(site: &Site) -> Vec<Wish> {
    let (a, b) = (site.container("a"), site.container("b"));
    vec![Wish::exec(&a), Wish::plain("pause", &a), Wish::exec(&b), Wish::plain("unpause", &a), Wish::exec(&a)]
}

/// Orders wave after wave, while an agent dies at `point`.
fn orders(site: &mut Site, point: Option<&str>, waves: &[Vec<Wish>]) -> Result<()> {
    let deaths = site.deaths;
    site.start(point)?;
    for wave in waves {
        wave.iter().try_for_each(|wish| site.order(wish.clone()).map(drop))?;
        site.settle()?;
    }
    if waves.is_empty() {
        site.settle()?;
    }
    died(site, deaths, point)
}

/// What follows the last order, such as an acknowledgement, may still be under way.
fn died(site: &mut Site, deaths: u32, point: Option<&str>) -> Result<()> {
    if point.is_some() && site.deaths == deaths {
        site.wait_for_death()?;
        site.start(None)?;
        site.settle()?;
    }
    Ok(())
}

fn undone(site: &mut Site, point: Option<&str>) -> Result<()> {
    let (deaths, name, old) = (site.deaths, site.topology(), site.engine_id("b")?);
    let no_good = "        b:\n          healthcheck: { test: [CMD, /no/such/check], interval: 200ms, retries: 1 }\n";
    site.push(&topology(&name, None).replace("        b:\n", no_good))?;
    site.start(point)?;
    site.until_undone("b")?;
    if point.is_some() && site.deaths == deaths {
        site.wait_for_death()?;
        site.start(None)?;
        site.until_undone("b")?;
    }
    let now = site.engine_id("b")?;
    ensure!(now == old, "the container was {old}, now it is {now}");
    let generation = site.push(&topology(&name, None))?;
    site.converge(generation)?;
    let now = site.engine_id("b")?;
    ensure!(now == old, "the container was {old}, and when the topology is as before it is {now}");
    Ok(())
}

fn tried(site: &mut Site, point: Option<&str>) -> Result<()> {
    let (deaths, name, before) = (site.deaths, site.topology(), site.state()?);
    let generation = site.try_out(&topology(&name, None).replace("GREETING: \"one\"", "GREETING: \"three\""))?;
    site.start(point)?;
    site.until_given_up(generation)?;
    died(site, deaths, point)?;
    let now = site.state()?;
    ensure!(now == before, "the host was {before:?}, and after it went back it is {now:?}");
    let generation = site.push(&topology(&name, None))?;
    site.converge(generation)
}

fn pushed(site: &mut Site, point: Option<&str>) -> Result<()> {
    static CHANGES: AtomicU32 = AtomicU32::new(0);
    let (deaths, name, unchanged) = (site.deaths, site.topology(), site.engine_id("a")?);
    let generation = site.push(&topology(&name, Some(CHANGES.fetch_add(1, Ordering::Relaxed))))?;
    site.start(point)?;
    site.converge(generation)?;
    let generation = site.push(&topology(&name, None))?;
    site.converge(generation)?;
    let now = site.engine_id("a")?;
    ensure!(now == unchanged, "the container was {unchanged}, and after what is changed while it runs it is {now}");
    died(site, deaths, point)
}
