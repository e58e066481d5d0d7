//! What is left of operations when the engine itself was started again: a `dockerd` of the test's own, with all its files in one
//! folder and its interfaces in a network namespace of its own.

use std::process::{Child, Command, Stdio};

use moorline_common::id::{OpId, ResourceId};
use moorline_common::observe::{LABEL_RESOURCE, LABEL_SPEC, LABEL_TOPOLOGY};
use moorline_common::op::Exec;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

/// How long an engine may take to come up.
const COMES_UP: Duration = Duration::from_secs(60);

struct OwnEngine {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl OwnEngine {
    fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    fn start(&mut self) -> std::io::Result<()> {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = Command::new("unshare");
        // Each word replaces the one before it: the process stays the same, and becomes dockerd.
        command.args(["--net", "--", "sh", "-ec", "ip link set lo up; exec \"$@\"", "sh", "dockerd"]);
        command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
        command.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec")).arg("--pidfile").arg(at("pid"));
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        command.args(["--bridge=none", "--iptables=false", "--ip-masq=false"]);
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        Ok(())
    }

    /// Whether it answers; `false` when it ended instead.
    async fn comes_up(&mut self) -> bool {
        let deadline = tokio::time::Instant::now() + COMES_UP;
        loop {
            if DockerDriver::new(self.socket(), owned("up")).version().await.is_ok() {
                return true;
            }
            if self.child.as_mut().is_none_or(|c| c.try_wait().unwrap().is_some()) {
                return false;
            }
            assert!(tokio::time::Instant::now() < deadline, "the engine does not come up");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A clean end unmounts what it mounted.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM);
        let _ = child.wait();
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn order(resource: &str, act: Act) -> OpOrder {
    OpOrder {
        op_id: OpId::parse(uuid::Uuid::now_v7().to_string()).unwrap(),
        resource: ResourceId::parse(resource).unwrap(),
        incarnation: None,
        state: None,
        act,
        wanted: BTreeSet::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_when_the_engine_ended_is_never_run_again() {
    // A socket's path is short.
    let mut own = OwnEngine { folder: tempfile::tempdir_in("/tmp").unwrap(), child: None };
    if own.start().is_err() || !own.comes_up().await {
        eprintln!("skipped: no Docker Engine of our own can run here");
        return;
    }
    let bench = DockerBench::at(&own.socket()).await.unwrap();
    let (name, host) = (format!("{}-own-1", bench.unique), owned(&bench.unique).host_id);
    let resource = format!("docker/container/{name}");
    let labels = [
        (LABEL_CLUSTER, bench.unique.as_str()),
        (LABEL_HOST, host.as_str()),
        (LABEL_TOPOLOGY, bench.unique.as_str()),
        (LABEL_RESOURCE, resource.as_str()),
        (LABEL_SPEC, "x"),
    ];
    let body = ContainerCreateBody {
        image: Some(bench.images()[0].clone()),
        labels: Some(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()),
        stop_signal: Some("KILL".to_owned()),
        host_config: Some(bollard::models::HostConfig { network_mode: Some("none".to_owned()), ..Default::default() }),
        ..Default::default()
    };
    bench.make(body, &name, true).await;
    let command: Exec = serde_json::from_value(serde_json::json!({ "argv": ["sleep", "1000"], "timeout_s": 60 })).unwrap();
    let exec = order(&resource, Act::Exec(command));
    let (kill, stop) = (order(&resource, Act::Kill { signal: "SIGTERM".to_owned() }), order(&resource, Act::Stop { timeout_s: None }));
    let driver = &bench.driver;
    let noted = [driver.prepare(&exec).await.unwrap(), driver.prepare(&kill).await.unwrap(), driver.prepare(&stop).await.unwrap()];
    let Begun::Task(running) = driver.start(&exec, &noted[0]).await.unwrap() else { panic!("a command is a task") };
    let Begun::Task(made) = driver.start(&exec, &noted[0]).await.unwrap() else { panic!("a command is a task") };
    // It runs, and the engine ends under it.
    let cut_short = async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while bench.docker.inspect_exec(&running).await.unwrap().running != Some(true) {
            assert!(tokio::time::Instant::now() < deadline, "the command does not run");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::task::block_in_place(|| own.stop());
    };
    let (ended, ()) = tokio::join!(driver.resume(&exec, &noted[0], &running, Taker::nobody()), cut_short);
    assert_eq!(ended.unwrap_err().kind, DriverErrorKind::Unreachable);
    own.start().unwrap();
    assert!(own.comes_up().await);
    for task in [&running, &made] {
        let found = driver.adopt(&exec, &noted[0], Some(task), Duration::ZERO).await.unwrap();
        assert!(matches!(found, Found::Unknown(_)), "{found:?}");
        let lost = driver.resume(&exec, &noted[0], task, Taker::nobody()).await.unwrap();
        assert_eq!(lost.done().fault.unwrap().code, Code::Indeterminate);
    }
    // The container ended with its engine.
    for (ordered, evidence) in [(&kill, &noted[1]), (&stop, &noted[2])] {
        assert_eq!(driver.adopt(ordered, evidence, None, Duration::ZERO).await.unwrap(), Found::Done(crate::driver::OpResult::default()));
    }
    bench.clean_up().await;
}
