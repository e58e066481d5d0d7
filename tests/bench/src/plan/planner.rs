//! The planner alone: from a slice and an observation to the steps, one host after the other on one core.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Result, ensure};
use moorline_common::id::{ClusterId, TopologyId};
use moorline_common::plan::{self, Identity};

use super::scene::{self, RESOURCES};
use super::{Aim, Row};

const LEAST: f64 = 50_000.0;

/// Plans `hosts` hosts in each of `rounds` rounds: at rest, and with everything changed.
///
/// # Errors
/// When a plan is not what it should be.
pub fn measure(rounds: u32, hosts: u32) -> Result<Vec<Row>> {
    let host = scene::host()?;
    let identity =
        Identity { cluster: ClusterId::parse("bench")?, host_id: host.host_id.clone(), topology: TopologyId::parse(scene::TOPOLOGY)? };
    let (old, new) = (scene::spec(&scene::file("1"), &host)?, scene::spec(&scene::file("2"), &host)?);
    let observed = scene::settled(&identity, &old)?;
    let present = observed.networks.len() + observed.volumes.len() + observed.containers.len();
    ensure!(present == RESOURCES, "{present} resources instead of {RESOURCES}");
    ensure!(plan::plan(&identity, &old, &observed).is_settled(), "what was applied is not at rest");
    ensure!(plan::plan(&identity, &new, &observed).steps.len() >= 16, "a change that changes too little");
    let rate = |spec| {
        let begin = Instant::now();
        for _ in 0..hosts {
            black_box(plan::plan(black_box(&identity), black_box(spec), black_box(&observed)));
        }
        f64::from(hosts) * f64::from(u32::try_from(RESOURCES).unwrap_or(u32::MAX)) / begin.elapsed().as_secs_f64()
    };
    let (mut rest, mut changed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        rest.push(rate(&old));
        changed.push(rate(&new));
    }
    let row = |name: &str, values| Row { name: name.to_owned(), values, unit: "resources/s", aim: Some(Aim::AtLeast(LEAST)) };
    Ok(vec![row("planner, host at rest", rest), row("planner, every container changed", changed)])
}
