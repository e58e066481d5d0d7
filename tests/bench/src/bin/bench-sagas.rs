//! Measures sagas: how fast a hub with many of them in flight does their steps, and what a step costs it, beside bare SQLite
//! commits of 2 KiB on the same disk in the same run.
//!
//! The hub is a real process; the hosts are simulated here, each with its own key and connection, and answer at once. They sign and
//! speak TLS on the hub's own processors, so their share is told, too. Disks that others use are three times as fast in one moment as in
//! the next: bare commits are counted before the sagas and after them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use moorline_bench::fleet::{Agent, Hub, Life, Operator, cpu_ms};
use moorline_common::id::{ClusterId, HostEpoch, HostId, HostName, Nonce, OpId, ResourceId, SagaId, UnixSeconds};
use moorline_common::op::{OpStatement, Outcome, Receipt};
use moorline_common::saga::{Act, HostAct, Kind, OfSaga, Plan, PublicKey, Side, Step, Task};
use moorline_common::statement::{ObservedReport, SliceStatement};
use moorline_proto::v1 as pb;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Measures sagas in flight on one hub.
#[derive(Parser)]
struct Args {
    /// How many sagas are in flight.
    #[arg(long, default_value_t = 1000)]
    sagas: usize,
    /// How many hosts they are on.
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// How many steps each has, one after the other.
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// How often it is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The hub's program.
    #[arg(long, default_value = "target/release/moorline-hub")]
    hub: PathBuf,
    /// The least ratio of steps to bare commits, both in a second; less is an error.
    #[arg(long, default_value_t = 0.5)]
    floor: f64,
}

/// A host that does what it is ordered, once it is let.
struct Doer {
    go: watch::Receiver<bool>,
}

impl Life for Doer {
    fn applied(&self, _: &SliceStatement) -> Result<Option<ObservedReport>> {
        Ok(None)
    }

    async fn ordered(&self, order: OpStatement, payload_sha256: String) -> Option<Receipt> {
        self.go.clone().wait_for(|go| *go).await.ok()?;
        Some(Receipt {
            cluster: order.cluster,
            host_id: order.host_id,
            host_epoch: order.host_epoch,
            op_id: order.op_id,
            payload_sha256,
            same_as: None,
            resource: order.resource,
            kind: order.kind,
            outcome: Outcome::Succeeded,
            at: 1,
            fault: None,
            result: serde_json::Value::Null,
            journal_seq: 1,
        })
    }
}

/// A host as plans name it.
struct Known {
    name: HostName,
    id: HostId,
    key: [u8; 32],
    epoch: HostEpoch,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let args = Args::parse();
    moorline_bench::fleet::init_tls();
    let mut worst = f64::INFINITY;
    for round in 1..=args.rounds {
        let folder = tempfile::tempdir()?;
        let before = bare_commits(&folder.path().join("before.sqlite"))?;
        let measured = sagas(&args, folder.path()).await?;
        let after = bare_commits(&folder.path().join("after.sqlite"))?;
        let commits = f64::midpoint(before, after);
        let ratio = measured.steps_per_s / commits;
        say(&format!(
            "round {round}: {} sagas of {} steps in flight: {:.0} steps/s, each {:.2} ms of the hub's processor time and {:.2} ms of the hosts'; bare SQLite {before:.0} and {after:.0} FULL commits/s; ratio {ratio:.2}",
            args.sagas, args.steps, measured.steps_per_s, measured.cpu_ms_per_step, measured.hosts_cpu_ms_per_step
        ))?;
        worst = worst.min(ratio);
    }
    say(&format!("worst ratio {worst:.2} (floor {})", args.floor))?;
    if worst < args.floor {
        bail!("{worst:.2} is under the floor of {}", args.floor);
    }
    Ok(())
}

/// How many commits of one row a second the disk takes, as a store makes them: `synchronous=FULL`, a write-ahead log, one writer.
fn bare_commits(file: &Path) -> Result<f64> {
    let conn = rusqlite::Connection::open(file)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, body BLOB NOT NULL)")?;
    let body = vec![7_u8; 2048];
    let (mut done, started) = (0_u32, Instant::now());
    while started.elapsed() < Duration::from_secs(2) {
        conn.execute("INSERT INTO t (body) VALUES (?1)", [&body])?;
        done += 1;
    }
    Ok(f64::from(done) / started.elapsed().as_secs_f64())
}

struct Measured {
    steps_per_s: f64,
    cpu_ms_per_step: f64,
    hosts_cpu_ms_per_step: f64,
}

async fn sagas(args: &Args, folder: &Path) -> Result<Measured> {
    let hub = Hub::start(&args.hub, folder).await?;
    let operator = Operator::init(&hub).await?;
    let (go, went) = watch::channel(false);
    let settled = Arc::new(AtomicU64::new(0));
    let mut sessions = JoinSet::new();
    let mut hosts = Vec::new();
    for n in 0..args.hosts {
        let agent: Agent = operator.enrol(&hub, n, BTreeMap::new()).await?;
        let name = HostName::parse(format!("host-{n}"))?;
        hosts.push(Known { name, id: agent.host_id.clone(), key: agent.host_key(), epoch: agent.epoch() });
        let (address, pins, settled, doer) = (hub.address.clone(), hub.pins.clone(), settled.clone(), Doer { go: went.clone() });
        sessions.spawn(async move { agent.live(&address, pins, Duration::from_secs(5), &settled, &doer).await });
    }
    let requests = (0..args.sagas).map(|n| request(&operator, &hosts, n, args.steps)).collect::<Result<Vec<_>>>()?;
    let client = operator.client();
    stream::iter(requests)
        .map(|request| {
            let mut client = client.clone();
            async move { client.start_saga(request).await.map(drop) }
        })
        .buffer_unordered(16)
        .try_collect::<Vec<()>>()
        .await?;
    while count(&operator, "pending").await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (before, own_before, started) = (hub.usage()?, cpu_ms("self")?, Instant::now());
    go.send(true)?;
    while count(&operator, "running").await? {
        ensure!(started.elapsed() < Duration::from_secs(300), "the sagas do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (took, after, own_after) = (started.elapsed(), hub.usage()?, cpu_ms("self")?);
    let completed = listed(&operator, "completed", 1000).await?.len();
    ensure!(completed == args.sagas.min(1000), "only {completed} sagas are completed");
    let steps = f64::from(u32::try_from(args.sagas * args.steps)?);
    let per_step = |ms: u64| anyhow::Ok(f64::from(u32::try_from(ms)?) / steps);
    Ok(Measured {
        steps_per_s: steps / took.as_secs_f64(),
        cpu_ms_per_step: per_step(after.cpu_ms - before.cpu_ms)?,
        hosts_cpu_ms_per_step: per_step(own_after - own_before)?,
    })
}

async fn listed(operator: &Operator, status: &str, limit: u32) -> Result<Vec<pb::Saga>> {
    let request = pb::ListSagasRequest { status: status.to_owned(), limit, ..Default::default() };
    Ok(operator.client().list_sagas(request).await?.into_inner().sagas)
}

/// Whether any saga stands so.
async fn count(operator: &Operator, status: &str) -> Result<bool> {
    Ok(!listed(operator, status, 1).await?.is_empty())
}

fn request(operator: &Operator, hosts: &[Known], number: usize, steps: usize) -> Result<pb::StartSagaRequest> {
    let now = UnixSeconds(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let saga_id = SagaId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{number:012x}"))?;
    let mut plan = Plan {
        cluster: ClusterId::parse("bench")?,
        saga_id: saga_id.clone(),
        name: "bench".to_owned(),
        kind: Kind::Test,
        deployment: String::new(),
        triggered_by: "operator".to_owned(),
        inputs: BTreeMap::new(),
        hosts: hosts.iter().map(|host| (host.name.clone(), PublicKey(host.key))).collect(),
        steps: Vec::new(),
        not_before: now,
        expires_at: now.plus(3600),
        undo_until: now.plus(7200),
        root_version: 1,
        reason: String::new(),
    };
    let mut orders = Vec::new();
    for step in 0..steps {
        let host = hosts.get((number + step) % hosts.len()).context("no host")?;
        let resource = ResourceId::parse(format!("docker/container/s{number}-{step}"))?;
        let mut task = |side: Side, kind: &str, serial: usize| -> Result<Task> {
            let of = OfSaga { saga_id: saga_id.clone(), step, side, attempt: 1 };
            let order = OpStatement {
                cluster: plan.cluster.clone(),
                op_id: OpId::parse(format!("0197a2b4-1c3d-7e5f-8a6b-{serial:012x}"))?,
                idempotency_key: of.key()?,
                host_id: host.id.clone(),
                host_epoch: host.epoch.clone(),
                resource: resource.clone(),
                incarnation: None,
                kind: kind.to_owned(),
                params: json!({}),
                precondition: None,
                not_before: now,
                expires_at: plan.expires_at,
                nonce: Nonce::parse(format!("{serial:032x}"))?,
                root_version: 1,
                reason: String::new(),
                saga: Some(of),
            };
            let envelope = operator.seal(&order)?;
            let hashes = vec![envelope.payload_sha256()];
            orders.push(pb::Envelope::from(&envelope));
            let act = HostAct {
                host: host.name.clone(),
                resource: resource.clone(),
                kind: kind.to_owned(),
                params: json!({}),
                orders: hashes,
                made_by: None,
            };
            Ok(Task { act: Act::Host(act), attempts: 1, backoff_s: 0, timeout_s: 600 })
        };
        let serial = 2 * (number * steps + step) + 1;
        let (run, undo) = (task(Side::Do, "start", serial)?, task(Side::Undo, "stop", serial + 1)?);
        let group = u32::try_from(step)?;
        plan.steps.push(Step { name: format!("s{step}"), group, run, undo: Some(undo), irreversible: false, when: Vec::new() });
    }
    let plan = pb::Envelope::from(&operator.seal(&plan)?);
    Ok(pb::StartSagaRequest { plan: Some(plan), orders, revisions: Vec::new(), boots: Vec::new() })
}

fn say(line: &str) -> Result<()> {
    use std::io::Write as _;
    writeln!(std::io::stdout().lock(), "{line}").context("writing to standard output")
}
