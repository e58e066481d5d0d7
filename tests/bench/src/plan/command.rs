//! `moorctl plan` for a fleet: the real program, a real hub, and reports that each host's own key signed.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use moorline_common::id::HostId;
use moorline_common::sign::{Envelope, PrivateKey, Signed};
use moorline_common::statement::ObservedReport;
use moorline_proto::v1 as pb;
use tokio::task::JoinSet;

use super::scene::{self, Settled};
use super::{Aim, Row};
use crate::fleet::{Agent, Hub, Operator};

/// The most seconds of one plan.
const MOST_S: f64 = 2.0;
/// Reports fetched at once by the floor, as `moorctl` does.
const AT_ONCE: usize = 16;
/// Sessions that are being opened at once.
const OPENING_MAX: u64 = 64;
const PATIENCE: Duration = Duration::from_secs(300);

/// The programs that are measured.
pub struct Programs {
    /// The hub.
    pub hub: PathBuf,
    /// The operator's tool.
    pub moorctl: PathBuf,
}

/// Plans for a fleet of `hosts`, `rounds` times.
///
/// # Errors
/// When a program fails, or says other than it should.
pub async fn measure(programs: &Programs, rounds: u32, hosts: usize) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::start(&programs.hub, folder.path()).await?;
    let home = folder.path().join("home");
    let moorctl = Moorctl { program: programs.moorctl.clone(), home: home.clone() };
    moorctl.run(&["init", "--bundle", path(&folder.path().join("hub/operators/admin.json"))?], 0)?;
    let seed = std::fs::read_to_string(home.join("contexts/bench/operator.key"))?;
    let key = PrivateKey::from_seed(&<[u8; 32]>::try_from(hex::decode(seed.trim())?.as_slice())?);
    let operator = Operator::with_key(&hub, key).await?;
    let label = scene::LABEL;
    let labels = || [(label.0.to_owned(), label.1.to_owned())].into_iter().collect();
    let agents: Vec<Agent> = stream::iter(0..hosts).map(|n| operator.enrol(&hub, n, labels())).buffer_unordered(16).try_collect().await?;
    let keys: Vec<(HostId, [u8; 32])> = agents.iter().map(|a| (a.host_id.clone(), a.host_key())).collect();
    let (same, other) = (folder.path().join("same.yaml"), folder.path().join("other.yaml"));
    std::fs::write(&same, scene::file("1"))?;
    std::fs::write(&other, scene::file("2"))?;
    moorctl.run(&["push", "-f", path(&same)?], 0)?;
    let mut fleet = Fleet { sessions: JoinSet::new(), begun: 0, settled: Arc::default() };
    let deadline = Instant::now() + PATIENCE;
    for agent in agents {
        // More at once than a machine can shake hands with in time would be refused.
        fleet.wait_for(fleet.begun.saturating_sub(OPENING_MAX), deadline, &mut hub).await?;
        fleet.begin(agent, &hub);
    }
    fleet.wait_for(fleet.begun, deadline, &mut hub).await?;
    while moorctl.run(&["plan", "-f", path(&same)?], 0).is_err() {
        ensure!(Instant::now() < deadline, "the hosts are not at rest");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (mut rest, mut changed, mut status, mut floor) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        floor.push(download(&operator, &keys).await?);
        status.push(moorctl.run(&["status"], 0)?);
        rest.push(moorctl.run(&["plan", "-f", path(&same)?], 0)?);
        changed.push(moorctl.run(&["plan", "-f", path(&other)?], 2)?);
    }
    let ratios = |values: &[f64]| values.iter().zip(&floor).map(|(v, f)| v / f).collect();
    let row = |name: String, values, unit, aim| Row { name, values, unit, aim };
    let most = Some(Aim::AtMost(MOST_S));
    let of = |what: &str| format!("{what}, {hosts} hosts");
    Ok(vec![
        row(of("moorctl plan at rest : that"), ratios(&rest), "×", None),
        row(of("moorctl plan of a change : that"), ratios(&changed), "×", None),
        row(of("moorctl plan at rest"), rest, "s", most),
        row(of("moorctl plan of a change"), changed, "s", most),
        row(of("moorctl status"), status, "s", None),
        row(of("reports fetched and verified"), floor, "s", None),
    ]
    .into_iter()
    .rev()
    .collect())
}

/// Agents with open sessions; dropped before the hub, so that its end is no news to anybody.
struct Fleet {
    sessions: JoinSet<Result<Infallible>>,
    begun: u64,
    /// How many have reported.
    settled: Arc<AtomicU64>,
}

impl Fleet {
    fn begin(&mut self, agent: Agent, hub: &Hub) {
        let (settled, address, pins) = (self.settled.clone(), hub.address.clone(), hub.pins.clone());
        self.sessions.spawn(async move { agent.live(&address, pins, Duration::from_secs(5), &settled, &Settled).await });
        self.begun += 1;
    }

    /// Waits until `count` have reported.
    async fn wait_for(&mut self, count: u64, deadline: Instant, hub: &mut Hub) -> Result<()> {
        while self.settled.load(Ordering::Relaxed) < count {
            let settled = || format!("{} of {} agents had reported", self.settled.load(Ordering::Relaxed), self.begun);
            ensure!(Instant::now() < deadline, "at the end {}", settled());
            hub.check_alive().with_context(settled)?;
            if let Some(ended) = self.sessions.try_join_next() {
                match ended.context("a session's task")?.context("an agent's session ended").with_context(settled)? {}
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// Fetches and verifies every report, and does nothing with it; how long that takes, in seconds.
async fn download(operator: &Operator, hosts: &[(HostId, [u8; 32])]) -> Result<f64> {
    let begin = Instant::now();
    let each = stream::iter(hosts).map(|(host, key)| {
        let mut client = operator.client();
        async move {
            let answer = client.get_report(pb::GetReportRequest { host_id: host.to_string(), anew: false }).await?.into_inner();
            let signed: Signed<ObservedReport> = Signed::new(Envelope::try_from(answer.report.context("no report")?)?)?;
            signed.verify_by_host(key)?;
            anyhow::Ok(())
        }
    });
    each.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    Ok(begin.elapsed().as_secs_f64())
}

struct Moorctl {
    program: PathBuf,
    home: PathBuf,
}

impl Moorctl {
    /// How long it takes, in seconds.
    fn run(&self, args: &[&str], code: i32) -> Result<f64> {
        let begin = Instant::now();
        let mut command = Command::new(&self.program);
        command.arg("--home").arg(&self.home).arg("--yes").args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command
            .output()
            .with_context(|| format!("cannot run {}; build it with `cargo build --release -p moorctl`", self.program.display()))?;
        let elapsed = begin.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(code), "moorctl {args:?} ended with {} instead of {code}: {said}", output.status);
        Ok(elapsed)
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
