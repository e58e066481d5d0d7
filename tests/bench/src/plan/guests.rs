//! A host with many guests: what a look costs the agent when nothing has changed, and the planner. The simulated Proxmox VE is a process of its
//! own, so that the processor's time is the agent's alone: requests, TLS, reading and comparing.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use moorline_agent::driver::pve::{Client, PveDriver};
use moorline_agent::driver::{Known, Ownership};
use moorline_common::id::{ClusterId, HostId, TopologyId};
use moorline_common::observe::Observed;
use moorline_common::plan::{self, Identity};
use moorline_common::topology::HostSpec;
use moorline_tests::binaries::Binaries;
use moorline_tests::pve::{NODE, PveHost};
use moorline_tests::pve_sim::setup::TOKEN;
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::{Aim, Row};

/// Our own processor's time for a look, in milliseconds.
const LOOK_MOST: f64 = 300.0;
/// Requests for each guest of which nothing has changed.
const REQUESTS_MOST: f64 = 2.0;
/// The planner's time, in milliseconds.
const PLAN_MOST: f64 = 20.0;

fn config(vmid: u32) -> Value {
    json!({
        "name": format!("shop-{vmid}"), "cores": "4", "memory": "4096", "onboot": "1", "ostype": "l26", "scsihw": "virtio-scsi-single",
        "boot": "order=scsi0;net0", "tags": "moorline;prod", "scsi0": format!("local-lvm:vm-{vmid}-disk-0,discard=on,size=32G"),
        "net0": format!("virtio=BC:24:11:{:02X}:{:02X}:01,bridge=vmbr0", vmid / 256 % 256, vmid % 256),
        "smbios1": format!("uuid=00000000-0000-4000-8000-{vmid:012x}"), "vmgenid": format!("00000000-0000-4000-9000-{vmid:012x}"),
    })
}

fn wanted(vmid: u32) -> Value {
    let config = json!({
        "name": format!("shop-{vmid}"), "cores": 4, "memory": 4096, "onboot": true, "ostype": "l26", "scsihw": "virtio-scsi-single",
        "tags": "prod", "scsi0": "local-lvm:32,discard=on", "net0": "virtio,bridge=vmbr0",
    });
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string().replace("true", "1"), str::to_owned);
    let config: serde_json::Map<String, Value> =
        config.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), json!(text(value)))).collect();
    json!({ "type": "qemu", "state": "running", "config": config })
}

/// This process's processor time.
fn own_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?))
}

/// Looks at `guests` guests and plans them, in each of `rounds` rounds.
///
/// # Errors
/// When the simulator cannot be started, or a plan is not what it should be.
pub fn measure(binaries: &Binaries, rounds: u32, guests: u32) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let numbers: BTreeSet<u32> = (1000..1000 + guests).collect();
    let all: Vec<Value> =
        numbers.iter().map(|vmid| json!({ "vmid": vmid, "kind": "qemu", "config": config(*vmid), "running": true })).collect();
    let pve = PveHost::start(binaries, folder.path(), &json!({ "guests": all }))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spec: HostSpec = serde_json::from_value(json!({
        "proxmox": { "guests": numbers.iter().map(|vmid| (vmid.to_string(), wanted(*vmid))).collect::<serde_json::Map<_, _>>() },
    }))?;
    let identity =
        Identity { cluster: ClusterId::parse("bench")?, host_id: HostId::of_key(&[7; 32]), topology: TopologyId::parse("edge")? };
    let known = Arc::<Known>::default();
    known.look_for(Some(&spec));
    let owned = Ownership { cluster: identity.cluster.clone(), host_id: identity.host_id.clone(), known: known.clone() };
    let driver = PveDriver::new(Client::new(pve.line()?, NODE.to_owned(), TOKEN.to_owned()), owned);
    let look = || -> Result<Observed> { Ok(Observed { pve: Some(runtime.block_on(driver.observe())?), ..Observed::default() }) };
    // As the reconciler does: each is taken in, and noted.
    for step in plan::plan(&identity, &spec, &look()?).steps {
        ensure!(step.action.verb() == "adopt", "{step}");
        let (key, owner) = step.action.note().context("what is taken in is noted")?;
        known.note(key, owner);
    }
    let (mut looks, mut own, mut requests, mut plans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (asked, time, begin) = (pve.requests()?, own_time()?, Instant::now());
        let observed = look()?;
        looks.push(begin.elapsed().as_secs_f64() * 1e3);
        own.push((own_time()? - time).as_secs_f64() * 1e3);
        requests.push(f64::from(u32::try_from(pve.requests()? - asked)?) / f64::from(guests));
        let begin = Instant::now();
        let planned = black_box(plan::plan(black_box(&identity), black_box(&spec), black_box(&observed)));
        plans.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(planned.is_settled(), "what was applied is not at rest: {:?}", planned.steps.first());
    }
    let row = |name: &str, values, unit, aim| Row { name: format!("{guests} guests: {name}"), values, unit, aim };
    Ok(vec![
        row("a look, our own time", own, "ms", Some(Aim::AtMost(LOOK_MOST))),
        row("a look, until it is over", looks, "ms", None),
        row("requests for each unchanged one", requests, "", Some(Aim::AtMost(REQUESTS_MOST))),
        row("planner", plans, "ms", Some(Aim::AtMost(PLAN_MOST))),
    ])
}
