//! A join token works once, its refusals tell nothing, and nothing secret is ever logged.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use moorline_common::enrol::JoinToken;
use moorline_common::id::{HostName, UnixSeconds};
use moorline_proto::v1 as pb;
use moorline_tests::engine;
use moorline_tests::fleet::{Drive, Fleet};
use moorline_tests::limits::SOON;
use moorline_tests::process::Output;
use moorline_tests::wait::wait_until;

use crate::setup::{HOST, assert_says, event_kinds, services, sim_fleet};

const RACERS: usize = 50;

/// What a refused join says, without what differs by the folder that it ran in.
fn answer(fleet: &Fleet, output: &Output, name: &str) -> String {
    output.text().replace(&fleet.agent_dir(name).display().to_string(), "STATE")
}

#[test]
fn of_fifty_who_race_for_one_token_one_wins_and_the_rest_get_one_answer() {
    let fleet = Fleet::start("race").unwrap();
    let token = fleet.token(HOST, &[]).unwrap();
    let outputs: Vec<(String, Output)> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|n| {
                let (fleet, token) = (&fleet, &token);
                scope.spawn(move || {
                    let folder = format!("racer{n}");
                    let output = fleet.join(&folder, &Drive::Sim, token).unwrap();
                    (folder, output)
                })
            })
            .collect();
        racers.into_iter().map(|r| r.join().unwrap()).collect()
    });
    let (won, lost): (Vec<_>, Vec<_>) = outputs.iter().partition(|(_, output)| output.code == 0);
    assert_eq!(won.len(), 1, "{:?}", won);
    let answers: BTreeSet<String> = lost.iter().map(|(name, output)| format!("{} {}", output.code, answer(&fleet, output, name))).collect();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert!(answers.iter().all(|a| a.contains("join_refused")), "{answers:?}");
    let operator = fleet.operator().unwrap();
    let hosts = operator.hosts().unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!(hosts[0].state(), pb::HostState::Pending);
    assert!(event_kinds(&operator).contains(&"join_refused".to_owned()), "tries with a used token raise an alarm");
}

#[test]
fn reuse_expiry_a_wrong_name_and_a_wrong_secret_get_one_and_the_same_answer() {
    let fleet = Fleet::start("refused").unwrap();
    let used = fleet.token("first", &[]).unwrap();
    fleet.join("first", &Drive::Sim, &used).unwrap().ok().unwrap();

    let short = JoinToken::decode(&fleet.token("late", &["--ttl", "1s"]).unwrap()).unwrap();
    let named = JoinToken::decode(&fleet.token("named", &[]).unwrap()).unwrap();
    wait_until("the short-lived token has expired", SOON, || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        Ok(now > short.expires.0 + 1)
    })
    .unwrap();
    // What the hub says is asked for here, so the agent must not see by itself that it is void.
    let (mut expired, mut misnamed, mut unknown) = (short.clone(), named.clone(), named);
    expired.expires = UnixSeconds(short.expires.0 + 3600);
    misnamed.name = HostName::parse("other").unwrap();
    unknown.id = "0".repeat(32);

    let mut answers = BTreeSet::new();
    let mut refuse = |folder: &str, token: &str| {
        let output = fleet.join(folder, &Drive::Sim, token).unwrap();
        assert_ne!(output.code, 0, "{folder}: {}", output.text());
        answers.insert(format!("{} {}", output.code, answer(&fleet, &output, folder)));
    };
    refuse("again", &used);
    refuse("expired", &expired.encode());
    refuse("misnamed", &misnamed.encode());
    refuse("unknown", &unknown.encode());
    assert_eq!(answers.len(), 1, "{answers:#?}");
}

#[test]
fn a_host_that_joined_stays_pending_and_gets_nothing_until_it_is_approved() {
    let mut fleet = Fleet::start("pending").unwrap();
    let token = fleet.token(HOST, &[]).unwrap();
    fleet.join(HOST, &Drive::Sim, &token).unwrap().ok().unwrap();
    fleet.adopt_host(HOST, Drive::Sim);
    fleet.start_agent(HOST).unwrap();
    let operator = fleet.operator().unwrap();
    wait_until("the pending host heartbeats", SOON, || Ok(operator.host(HOST)?.heartbeat.is_some())).unwrap();
    let host = operator.host(HOST).unwrap();
    assert_eq!(host.state(), pb::HostState::Pending);
    assert!(!host.heartbeat.unwrap_or_default().ready);
    fleet.moorctl(&["--yes", "host", "approve", HOST]).unwrap().ok().unwrap();
    wait_until("the host is ready", SOON, || Ok(operator.host(HOST)?.heartbeat.is_some_and(|h| h.ready))).unwrap();
}

#[test]
fn a_user_who_does_not_own_the_state_folder_cannot_join_in_it() {
    if !nix::unistd::geteuid().is_root() {
        assert!(!engine::is_required(), "only root can make a folder of another user; run the tests as root");
        println!("skipped: only root can make a folder of another user");
        return;
    }
    let fleet = Fleet::start("owner").unwrap();
    let state = fleet.agent_dir(HOST);
    std::fs::create_dir_all(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(4_000_000), None).unwrap();
    let token = fleet.token(HOST, &[]).unwrap();
    let refused = fleet.join(HOST, &Drive::Sim, &token).unwrap().expect_code(1).unwrap();
    assert_says(&refused, &["runuser -u 4000000 -- moorline-agent"]);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0, "no file that its owner could not read");
    std::os::unix::fs::chown(&state, Some(0), None).unwrap();
    fleet.join(HOST, &Drive::Sim, &token).unwrap().ok().unwrap();
}

/// Every file below `folder`, with its content.
fn files(folder: &Path, all: &mut Vec<(std::path::PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, all);
        } else if let Ok(bytes) = std::fs::read(&path) {
            all.push((path, bytes));
        }
    }
}

/// The secrets in a file: by their names in JSON, otherwise each line that is long enough to be one.
fn secrets(path: &Path, bytes: &[u8]) -> Vec<String> {
    const NAMES: [&str; 4] = ["host_seed", "sealing_secret", "key_pem", "mac_key"];
    let long = |text: &str| -> Vec<String> {
        text.lines().map(str::trim).filter(|l| l.len() >= 32 && !l.starts_with("-----")).map(str::to_owned).collect()
    };
    if let Ok(serde_json::Value::Object(map)) = serde_json::from_slice(bytes) {
        return NAMES.iter().filter_map(|name| map.get(*name)?.as_str()).flat_map(long).collect();
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.contains("key") { long(&String::from_utf8_lossy(bytes)) } else { Vec::new() }
}

#[test]
fn nothing_secret_is_in_any_log_or_output_and_secret_files_are_private() {
    let (mut fleet, operator) = sim_fleet("secrets");
    let token = fleet.token("second", &[]).unwrap();
    let mut said = fleet.join("second", &Drive::Sim, &token).unwrap().text();
    said.push_str(&fleet.join("third", &Drive::Sim, &token).unwrap().text());
    said.push_str(&fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap().text());
    said.push_str(&fleet.agent(HOST, &["status"]).unwrap().text());
    said.push_str(&fleet.agent(HOST, &["doctor"]).unwrap().text());
    said.push_str(&fleet.hub_command(&["doctor"]).unwrap().text());
    said.push_str(&format!("{:?}", operator.events().unwrap()));
    drop(operator);
    fleet.stop_agent(HOST).unwrap();
    fleet.stop_hub().unwrap();

    let body = token.strip_prefix("moor1.").unwrap().to_owned();
    let decoded = JoinToken::decode(&token).unwrap();
    let mut looked_for = vec![body, hex::encode(*decoded.join_key()), hex::encode(*decoded.mac_key())];
    let mut all = Vec::new();
    for folder in [fleet.hub_dir(), fleet.home(), fleet.agent_dir(HOST)] {
        assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
        files(&folder, &mut all);
    }
    // The simulator's world stands for an engine's own data, which is not the agent's.
    all.retain(|(path, bytes)| !bytes.is_empty() && !path.components().any(|c| c.as_os_str() == "sim"));
    let mut holders = BTreeSet::new();
    for (path, bytes) in &all {
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} is open to others ({mode:o})", path.display());
        let found = secrets(path, bytes);
        if !found.is_empty() {
            holders.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
        looked_for.extend(found);
    }
    for holder in ["ca.key.pem", "admin.json", "bundle.json", "operator.key", "recovery.key", "identity.json", "transport.json"] {
        assert!(holders.contains(holder), "{holder} was not found among {holders:?}");
    }
    for (name, log) in fleet.logs().unwrap().into_iter().chain([("the commands' output".to_owned(), said)]) {
        for secret in &looked_for {
            assert!(!log.contains(secret.as_str()), "{name} holds a secret");
        }
    }
}

#[test]
fn a_machine_that_lost_its_state_gets_its_name_back_after_the_old_host_was_removed() {
    let (mut fleet, operator) = sim_fleet("hostrm");
    fleet.push(&services("edge", &["site"], "hello"), &["--wait"]).unwrap().ok().unwrap();
    let before = fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();

    let state = fleet.agent_dir(HOST);
    let ghost = fleet.agent_dir("ghost");
    fleet.kill_agent(HOST).unwrap();
    std::fs::rename(&state, &ghost).unwrap();
    let taken = fleet.moorctl(&["host", "add", HOST, "--no-wait"]).unwrap();
    assert_eq!(taken.code, 1);
    assert_says(&taken, &["already_exists", "moorctl host rm"]);

    let unanswered = fleet.moorctl(&["host", "rm", HOST]).unwrap();
    assert_says(&unanswered, &["needs_confirmation"]);
    assert_eq!(operator.host(HOST).unwrap().host_id, before.host_id);
    fleet.moorctl(&["--yes", "host", "rm", HOST]).unwrap().ok().unwrap();
    assert_eq!(operator.hosts().unwrap().len(), 0);
    let again = fleet.moorctl(&["--yes", "host", "rm", HOST]).unwrap();
    assert_says(&again, &["not_found"]);

    fleet.add_host(HOST, Drive::Sim, &[]).unwrap();
    let after = fleet.wait_converged(&operator, HOST, "edge", 1).unwrap();
    assert_ne!(after.host_id, before.host_id);

    // The old keys, should they turn up again, are let in no more and bring nothing back.
    fleet.adopt_host("ghost", Drive::Sim);
    fleet.start_agent("ghost").unwrap();
    wait_until("the removed host is refused", SOON, || {
        Ok(operator.events()?.iter().any(|e| e.kind == "call_refused" && e.message.contains("removed this host")))
    })
    .unwrap();
    assert_eq!(operator.hosts().unwrap().len(), 1);
    assert_eq!(operator.host(HOST).unwrap().host_id, after.host_id);
    assert!(event_kinds(&operator).contains(&"host_removed".to_owned()));
}
