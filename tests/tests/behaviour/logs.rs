//! What containers and commands write reaches the operator whole, in order, and for as long as it is wanted; nothing of a stranger's does.

use std::process::{Child, Stdio};
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters as query;
use moorline_proto::v1 as pb;
use moorline_tests::image::IMAGE;
use moorline_tests::limits::SOON;
use moorline_tests::wait::{holds_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::setup::{EngineFleet, HOST, assert_says};

/// Lines that one container has written: more than may be under way at once.
const LINES: usize = 20_000;

fn start(test: &str) -> Option<EngineFleet> {
    let t = EngineFleet::start(test)?;
    let name = t.topology();
    t.fleet.push(&topology(&name, "hello"), &["--wait"]).unwrap().ok().unwrap();
    t.fleet.wait_converged(&t.operator, HOST, &name, 1).unwrap();
    Some(t)
}

fn topology(name: &str, greeting: &str) -> String {
    let service = |more: &str| format!("{{ image: {IMAGE}, stop_grace_period: 1s, {more} }}");
    format!(
        "topology: {name}\nhosts:\n  {HOST}:\n    docker:\n      services:\n        site: {}\n        loud: {}\n        clock: {}\n",
        service(&format!("scale: 2, environment: {{ GREETING: {greeting} }}")),
        service(&format!("command: [lines, \"{LINES}\", stay]")),
        service("command: [tick]"),
    )
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

/// A verb that goes on, as it is typed.
struct Following {
    child: Child,
    out: std::path::PathBuf,
}

impl Following {
    fn start(t: &EngineFleet, args: &[&str], number: usize) -> Self {
        let out = t.fleet.root().join(format!("followed-{number}"));
        let file = std::fs::File::create(&out).unwrap();
        let mut command = t.fleet.moorctl_command(args);
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Self { child, out }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    fn wait_for_lines(&self, count: usize) {
        wait_until(&format!("{count} lines"), SOON, || Ok(self.text().lines().count() >= count)).unwrap();
    }

    fn interrupt(&mut self) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_log_is_followed_until_the_operator_has_enough_or_the_host_is_gone() {
    let Some(mut t) = start("follow") else { return };
    let clock = format!("{HOST}/clock");
    let follow = ["logs", "-f", &clock];
    // More than may be open at once: each that ends gives its place back.
    for number in 0..12 {
        let mut following = Following::start(&t, &follow, number);
        following.wait_for_lines(if number == 0 { 30 } else { 1 });
        following.interrupt();
    }
    let mut following = Following::start(&t, &follow, 99);
    following.wait_for_lines(1);
    t.fleet.kill_agent(HOST).unwrap();
    wait_until("it ends", SOON, || Ok(following.child.try_wait()?.is_some())).unwrap();
    assert!(!following.child.wait().unwrap().success());
    let text = following.text();
    assert!(text.contains("the host's session ended"), "{text}");
    assert_says(&t.fleet.moorctl(&["logs", &format!("{HOST}/clock")]).unwrap(), &["is not connected"]);
}

#[test]
fn a_commands_output_comes_as_it_is_said_and_whole() {
    let Some(mut t) = start("exec") else { return };
    let clock = format!("{HOST}/clock");
    let exec = |t: &EngineFleet, on: &str, argv: &[&str]| t.fleet.moorctl(&[&["--yes", "exec", on, "--"], argv].concat()).unwrap();

    let said = exec(&t, &clock, &["moorline-demo", "lines", "200000"]).ok().unwrap();
    let numbers = |text: &str, word: &str| -> Vec<usize> {
        text.lines().filter_map(|line| line.strip_prefix(word)?.split(' ').next()?.parse().ok()).collect()
    };
    assert!(numbers(&said.stdout, "line ").into_iter().eq((1..=200_000).filter(|n| n % 10 != 0)));
    assert!(numbers(&said.stderr, "error ").into_iter().eq((1..=200_000).filter(|n| n % 10 == 0)));
    assert_says(&said, &["exit code 0, receipt verified"]);

    let failed = exec(&t, &clock, &["moorline-demo", "exit", "7"]).expect_code(7).unwrap();
    assert_says(&failed, &["failed, exit code 7, receipt verified"]);
    let input = t.fleet.file("input", "from the operator\n").unwrap();
    let cat = ["--yes", "exec", &clock, "--stdin", moorline_tests::fleet::text(&input).unwrap(), "--", "cat"];
    assert_eq!(t.fleet.moorctl(&cat).unwrap().ok().unwrap().stdout, "from the operator\n");
    let failed = ["--yes", "-o", "json", "exec", &clock, "--", "moorline-demo", "exit", "7"];
    assert!(t.fleet.moorctl(&failed).unwrap().expect_code(7).unwrap().stdout.contains("\"failed\""));
    let json = t.fleet.moorctl(&["--yes", "-o", "json", "exec", &clock, "--", "moorline-demo", "print", "hello"]).unwrap().ok().unwrap();
    let shown: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&shown["state"], &shown["receipt"]["result"]["stdout_bytes"]), (&"succeeded".into(), &6.into()), "{shown}");

    // It is seen while it runs; who has enough of it stops nothing.
    let tick = ["--yes", "exec", &clock, "--timeout", "1m", "--", "moorline-demo", "tick"];
    let mut ticking = Following::start(&t, &tick, 1);
    ticking.wait_for_lines(5);
    exec(&t, &format!("{HOST}/{}-loud-1", t.topology()), &["true"]).ok().unwrap();
    assert_eq!(ticking.interrupt(), Some(130));
    assert!(ticking.text().contains("the operation was not"), "{}", ticking.text());

    assert_says(&exec(&t, &format!("{HOST}/site"), &["true"]), &["has 2 containers", "-site-1", "-site-2"]);
    assert_says(&exec(&t, &format!("{HOST}/sit"), &["true"]), &["did you mean `site`?"]);
    assert_says(&t.fleet.moorctl(&["exec", &clock, "--", "true"]).unwrap(), &["needs_confirmation", "class R3"]);
    t.fleet.kill_agent(HOST).unwrap();
    wait_until("it is gone", SOON, || Ok(!t.operator.host(HOST)?.connected)).unwrap();
    assert_says(&exec(&t, &clock, &["true"]), &["is not connected", "op exec"]);
}

/// Who reads slowly holds up the command, and nothing else; who is gone holds up nothing.
#[test]
fn what_nobody_reads_holds_up_the_command_alone() {
    let Some(t) = start("slow") else { return };
    let name = t.topology();
    let on = format!("{HOST}/clock");
    let mut slow = t.fleet.moorctl_command(&["--yes", "exec", &on, "--timeout", "2m", "--", "moorline-demo", "lines", "300000"]);
    let mut slow = slow.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the command runs", SOON, || Ok(ops(&t).iter().any(|op| op["kind"] == "exec" && op["state"] == "task_running"))).unwrap();
    // Heartbeats, other operations and other streams go on meanwhile.
    t.fleet.push(&topology(&name, "again"), &["--wait"]).unwrap().ok().unwrap();
    assert!(ops(&t).iter().any(|op| op["kind"] == "exec" && op["state"] == "task_running"), "it is held up");
    slow.kill().unwrap();
    slow.wait().unwrap();
    wait_until("the command goes on to its end", SOON, || Ok(ops(&t).iter().any(|op| op["kind"] == "exec" && op["state"] == "succeeded")))
        .unwrap();
}

/// Whatever a slow reader misses: that is said, or there is nothing that it missed.
#[test]
fn output_is_whole_or_said_to_be_cut_however_slowly_it_is_read() {
    const LINES: usize = 60_000;
    let Some(t) = start("cutoff") else { return };
    let on = format!("{HOST}/clock");
    let lines = LINES.to_string();
    let mut command = t.fleet.moorctl_command(&["--yes", "exec", &on, "--timeout", "2m", "--", "moorline-demo", "lines", &lines]);
    let mut reading = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = reading.stderr.take().unwrap();
    let noted = std::thread::spawn(move || std::io::read_to_string(&mut stderr));
    // The command ends while its reader does something else, or cannot end as nobody reads.
    let ended = || Ok(ops(&t).iter().any(|op| op["kind"] == "exec" && op["state"] != "task_running" && op["state"] != "started"));
    holds_for("it is under way, or has ended", Duration::from_secs(6), || ended().map(|_| true)).unwrap();
    let out = std::io::read_to_string(reading.stdout.take().unwrap()).unwrap();
    let code = reading.wait().unwrap().code();
    let noted = noted.join().unwrap().unwrap();
    let came =
        out.lines().filter(|line| line.starts_with("line ")).count() + noted.lines().filter(|line| line.starts_with("error ")).count();
    assert_eq!(code == Some(0), came == LINES, "{came} of {LINES} lines, exit {code:?}: {}", noted.lines().last().unwrap_or_default());
    assert!(code == Some(0) || noted.contains("output_lost"), "{}", noted.lines().last().unwrap_or_default());
    // Who wants no more is not kept: the command goes on by itself.
    let mut head = t.fleet.moorctl_command(&["--yes", "exec", &on, "--timeout", "1m", "--", "moorline-demo", "tick"]);
    let mut head = head.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(head.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "tick 1\n");
    wait_until("it ends with its reader", SOON, || Ok(head.try_wait()?.is_some())).unwrap();
}

#[test]
fn a_host_that_keeps_its_logs_to_itself_gives_none() {
    let (mut fleet, _) = crate::setup::sim_fleet("nologs");
    fleet.push(&crate::setup::services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let policy = fleet.file("policy.toml", "logs = false\n").unwrap();
    fleet.stop_agent(HOST).unwrap();
    fleet.set_agent_config(HOST, &format!("policy = {:?}", policy.to_str().unwrap())).unwrap();
    fleet.start_agent(HOST).unwrap();
    let operator = fleet.operator().unwrap();
    fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    assert_says(&fleet.moorctl(&["logs", &format!("{HOST}/site")]).unwrap(), &["policy_denied", "logs = false"]);
}

fn ops(t: &EngineFleet) -> Vec<serde_json::Value> {
    let said = t.fleet.moorctl(&["op", "ls", "-o", "json"]).unwrap().ok().unwrap();
    serde_json::from_str(&said.stdout).unwrap()
}
