//! Two hubs on one store: each saga has one runner, whatever stops, comes back from the dead or is killed.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use moorline_common::id::{ClusterId, SagaId, UnixSeconds};
use moorline_common::saga::{Act, CloudAct, CloudDroplet, CloudWork, DropletRef, Kind, Plan, Step, Task};
use moorline_common::sign::Signed;
use moorline_proto::v1 as pb;
use moorline_tests::cloud::CloudSim;
use moorline_tests::fleet::{Fleet, free_port};
use moorline_tests::limits::SOON;
use moorline_tests::process::{Process, run};
use moorline_tests::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::evil_orders::now;

/// How long a claim lasts without a sign of life, and a little more.
const LEASE: Duration = Duration::from_secs(9);
/// Looks in a cloud are seconds apart, and one whose answer was lost is looked for for more than a minute.
const PATIENCE: Duration = Duration::from_secs(300);
const SAGAS: usize = 12;

/// Another hub with a folder of its own, whose store is the first one's.
fn second(fleet: &Fleet) -> Process {
    let (first, folder) = (fleet.hub_dir(), fleet.root().join("hub-2"));
    if !folder.exists() {
        std::fs::create_dir(&folder).unwrap();
        for entry in std::fs::read_dir(&first).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let text = name.to_string_lossy();
            if text != "hub.lock" && text != "hub.toml" && !text.contains(".sqlite-") {
                std::os::unix::fs::symlink(entry.path(), folder.join(&name)).unwrap();
            }
        }
        let config = std::fs::read_to_string(first.join("hub.toml")).unwrap();
        std::fs::write(folder.join("hub.toml"), config).unwrap();
    }
    let mut command = Command::new(&fleet.binaries().hub);
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    command.arg("--dir").arg(&folder).args(["serve", "--listen", &address]);
    let process = Process::start("moorline-hub", command, &fleet.root().join("logs/hub-2.log")).unwrap();
    wait_until("the second hub accepts connections", SOON, || Ok(std::net::TcpStream::connect(&address).is_ok())).unwrap();
    process
}

fn signal(id: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
}

/// A droplet with a snapshot, which every third saga takes back at its end.
fn plan(fleet: &Fleet, number: usize) -> Plan {
    let saga_id = SagaId::parse(uuid::Uuid::now_v7().to_string()).unwrap();
    let task = |cloud: &str, work: CloudWork| Task {
        act: Act::Cloud(CloudAct { cloud: cloud.to_owned(), work }),
        attempts: 3,
        backoff_s: 1,
        timeout_s: 600,
    };
    let at = |work: CloudWork| task("digitalocean", work);
    let made = || DropletRef::MadeBy("create".to_owned());
    let [region, size, image] = ["fra1", "s-1vcpu-1gb", "debian-12-x64"].map(str::to_owned);
    let spec = BTreeMap::from([("size".to_owned(), json!(size))]);
    let droplet = CloudDroplet { name: format!("web-{number}"), region, size, image, ..CloudDroplet::default() };
    let mut steps = vec![
        ("create", at(CloudWork::CreateDroplet(Box::new(droplet))), Some(at(CloudWork::Unmake))),
        ("active", at(CloudWork::WaitActive { droplet: made() }), None),
        ("register", at(CloudWork::Register { droplet: made(), spec }), Some(at(CloudWork::Unmake))),
        ("snapshot", at(CloudWork::Snapshot { droplet: made(), name: format!("s-{saga_id}-3") }), Some(at(CloudWork::Unmake))),
    ];
    if number.is_multiple_of(3) {
        steps.push(("fails", task("nowhere", CloudWork::WaitActive { droplet: DropletRef::Number(1) }), None));
    }
    let steps = steps.into_iter().zip(0..).map(|((name, run, undo), group)| Step {
        name: name.to_owned(),
        group,
        run,
        undo,
        irreversible: false,
        when: Vec::new(),
    });
    Plan {
        cluster: ClusterId::parse(fleet.cluster()).unwrap(),
        saga_id,
        name: "try".to_owned(),
        kind: Kind::Test,
        deployment: String::new(),
        triggered_by: "operator".to_owned(),
        inputs: BTreeMap::new(),
        hosts: BTreeMap::new(),
        steps: steps.collect(),
        not_before: UnixSeconds(now().0 - 60),
        expires_at: now().plus(3600),
        undo_until: now().plus(7200),
        root_version: 1,
        reason: String::new(),
    }
}

#[test]
fn of_two_hubs_on_one_store_one_runs_a_saga_whatever_becomes_of_either() {
    let mut fleet = Fleet::start("two-hubs").unwrap();
    let cloud = CloudSim::start(fleet.binaries(), &fleet.root().join("cloud"), &["--latency", "active=6000"]).unwrap();
    fleet.stop_hub().unwrap();
    cloud.connect(&fleet).unwrap();
    fleet.start_hub().unwrap();
    let mut other = second(&fleet);
    let (operator, key) = (fleet.operator().unwrap(), fleet.operator_key().unwrap());
    let plans: Vec<Plan> = (1..=SAGAS).map(|number| plan(&fleet, number)).collect();
    for plan in &plans {
        let plan = Signed::seal(plan, &[&key]).unwrap();
        let request = pb::StartSagaRequest { plan: Some(plan.envelope().into()), ..pb::StartSagaRequest::default() };
        operator.call(|mut c| async move { c.start_saga(request).await }).unwrap();
    }
    // Stopped in the middle, taken for dead, and back again with everything that it was about to do.
    let first = fleet.hub_id().unwrap();
    signal(first, Signal::SIGSTOP);
    let since = Instant::now();
    wait_until("the claims of the first hub are over", 2 * LEASE, || Ok(since.elapsed() >= LEASE)).unwrap();
    signal(first, Signal::SIGCONT);
    other.kill().unwrap();
    let mut other = second(&fleet);
    let saga = |plan: &Plan| {
        let request = pb::GetSagaRequest { saga_id: plan.saga_id.to_string() };
        operator.call(|mut c| async move { c.get_saga(request).await }).map(|answer| answer.saga.unwrap())
    };
    wait_until("every saga has ended", PATIENCE, || {
        Ok(plans
            .iter()
            .map(saga)
            .collect::<Result<Vec<_>, _>>()?
            .iter()
            .all(|saga| matches!(saga.status.as_str(), "completed" | "rolled_back")))
    })
    .unwrap_or_else(|e| {
        panic!("{e:#}: {:#?}", plans.iter().map(|plan| saga(plan).map(|saga| (saga.status, saga.stuck, saga.timeline))).collect::<Vec<_>>())
    });
    let count = |alive: &[Value], item: &str, name: &str| {
        alive.iter().filter(|one| one["item"] == item && one["name"].as_str().is_some_and(|own| own == name)).count()
    };
    let is_clean = || {
        let alive = cloud.alive()?;
        Ok(plans.iter().zip(1..).all(|(plan, number)| {
            let kept = usize::from(number % 3 != 0);
            let found = (count(&alive, "droplet", &format!("web-{number}")), count(&alive, "snapshot", &format!("s-{}-3", plan.saga_id)));
            found == (kept, kept)
        }))
    };
    // What a hub did after it was taken for dead, the next sync of the inventory finds.
    wait_until("each has what it made, once", PATIENCE, is_clean).unwrap_or_else(|e| panic!("{e:#}: {:#?}", cloud.alive().unwrap()));
    assert_eq!(cloud.wrong().unwrap(), Vec::<Value>::new());
    other.stop().unwrap();
    fleet.stop_hub().unwrap();
    let mut doctor = Command::new(&fleet.binaries().hub);
    doctor.arg("--dir").arg(fleet.hub_dir()).arg("doctor");
    run(doctor, b"", SOON).unwrap().ok().unwrap();
}
