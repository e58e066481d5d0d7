//! What containers write reaches the operator whole, in order, and for as long as it is wanted; nothing of a stranger's does.

use std::process::{Child, Stdio};

use bollard::models::ContainerCreateBody;
use bollard::query_parameters as query;
use moorline_proto::v1 as pb;
use moorline_tests::image::IMAGE;
use moorline_tests::limits::SOON;
use moorline_tests::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::setup::{EngineFleet, HOST, assert_says};

/// Lines that one container has written: more than may be under way at once.
const LINES: usize = 20_000;

fn start(test: &str) -> Option<EngineFleet> {
    let t = EngineFleet::start(test)?;
    let name = t.topology();
    let service = |command: &str| format!("image: {IMAGE}, stop_grace_period: 1s{command}");
    let yaml = format!(
        "topology: {name}\nhosts:\n  {HOST}:\n    docker:\n      services:\n        site: {{ {}, scale: 2 }}\n        loud: {{ {} }}\n        \
         clock: {{ {} }}\n",
        service(""),
        service(&format!(", command: [lines, \"{LINES}\"]")),
        service(", command: [tick]"),
    );
    t.fleet.push(&yaml, &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &name, 1).unwrap();
    Some(t)
}

#[test]
fn logs_come_whole_and_in_their_order_and_none_of_a_stranger() {
    let Some(t) = start("logs") else { return };
    let logs = |args: &[&str]| t.fleet.moorctl(&[&["logs"], args].concat()).unwrap();
    let (name, host) = (t.topology(), |what: &str| format!("{HOST}/{what}"));

    let all = || logs(&[&host("loud")]).ok().unwrap();
    wait_until("all is written", SOON, || Ok(all().stdout.lines().count() + all().stderr.lines().count() == LINES)).unwrap();
    let (out, err) = (all().stdout, all().stderr);
    let number = |line: &str| line.split(' ').nth(1).and_then(|n| n.parse::<usize>().ok()).unwrap_or_default();
    assert!(out.lines().all(|line| line.starts_with("line ")) && err.lines().all(|line| line.starts_with("error ")));
    assert!(out.lines().map(number).eq((1..=LINES).filter(|n| n % 10 != 0)));
    assert!(err.lines().map(number).eq((1..=LINES).filter(|n| n % 10 == 0)));
    let last = logs(&[&host("loud"), "-n", "3"]).ok().unwrap();
    // Which of the two streams the engine reads first is its own affair.
    assert_eq!(last.stdout.lines().count() + last.stderr.lines().count(), 3);
    assert!(out.ends_with(&last.stdout) && err.ends_with(&last.stderr), "{last:?}");
    let none = logs(&[&host("loud"), "--since", "0s"]).ok().unwrap();
    assert_eq!(none.stdout, "");

    let both = logs(&[&host("site")]).ok().unwrap().stdout;
    for n in 1..=2 {
        let said = format!("{name}-site-{n} | moorline-demo: listening on port 8080\n");
        assert!(both.contains(&said), "{both}");
    }
    let one = logs(&[&host(&format!("{name}-site-2"))]).ok().unwrap().stdout;
    assert_eq!(one, "moorline-demo: listening on port 8080\n");
    let json = logs(&["-o", "json", &host(&format!("{name}-site-2"))]).ok().unwrap().stdout;
    let line: serde_json::Value = serde_json::from_str(&json).unwrap();
    let expected = serde_json::json!({ "container": format!("{name}-site-2"), "stream": "stdout", "line": one.trim_end() });
    assert_eq!(line, expected);

    // Somebody else's container stays somebody else's, also for who asks the hub itself.
    let stranger = format!("{name}-stranger");
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        cmd: Some(vec!["print".to_owned(), "private".to_owned()]),
        ..Default::default()
    };
    let options = query::CreateContainerOptionsBuilder::new().name(&stranger).build();
    t.engine.block_on(t.engine.docker().create_container(Some(options), body)).unwrap();
    t.engine.block_on(t.engine.docker().start_container(&stranger, None::<query::StartContainerOptions>)).unwrap();
    let host_id = t.operator.host(HOST).unwrap().host_id;
    let ask = |container: &str| {
        let request = pb::GetLogsRequest { host_id: host_id.clone(), container: container.to_owned(), ..pb::GetLogsRequest::default() };
        t.operator.call(|mut rpc| async move {
            let mut stream = rpc.get_logs(request).await?.into_inner();
            Ok(tonic::Response::new(stream.message().await?))
        })
    };
    let refused = format!("{:#}", ask(&stranger).unwrap_err());
    let removal = query::RemoveContainerOptionsBuilder::new().force(true).build();
    t.engine.block_on(t.engine.docker().remove_container(&stranger, Some(removal))).unwrap();
    assert!(refused.contains("not one of Moorline's") && !refused.contains("private"), "{refused}");
    for nobody in ["../containers", "no such", ""] {
        ask(nobody).unwrap_err();
    }

    assert_says(&logs(&[&host("sit")]), &["not_found", "did you mean `site`?"]);
    assert_says(&logs(&[HOST]), &["HOST/SERVICE"]);
    let events = t.fleet.moorctl(&["events"]).unwrap().ok().unwrap();
    assert_says(&events, &["logs_read", &format!("{name}-loud-1")]);
}

/// `moorctl logs -f`, as it is typed.
struct Following {
    child: Child,
    out: std::path::PathBuf,
}

impl Following {
    fn start(t: &EngineFleet, number: usize) -> Self {
        let out = t.fleet.root().join(format!("followed-{number}"));
        let file = std::fs::File::create(&out).unwrap();
        let mut command = t.fleet.moorctl_command(&["logs", "-f", &format!("{HOST}/clock")]);
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, out }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    fn wait_for_lines(&self, count: usize) {
        wait_until(&format!("{count} lines"), SOON, || Ok(self.text().lines().count() >= count)).unwrap();
    }

    fn interrupt(&mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_log_is_followed_until_the_operator_has_enough_or_the_host_is_gone() {
    let Some(mut t) = start("follow") else { return };
    // More than may be open at once: each that ends gives its place back.
    for number in 0..12 {
        let mut following = Following::start(&t, number);
        following.wait_for_lines(if number == 0 { 30 } else { 1 });
        following.interrupt();
    }
    let mut following = Following::start(&t, 99);
    following.wait_for_lines(1);
    t.fleet.kill_agent(HOST).unwrap();
    wait_until("it ends", SOON, || Ok(following.child.try_wait()?.is_some())).unwrap();
    assert!(!following.child.wait().unwrap().success());
    let text = following.text();
    assert!(text.contains("the host's session ended"), "{text}");
    assert_says(&t.fleet.moorctl(&["logs", &format!("{HOST}/clock")]).unwrap(), &["is not connected"]);
}
