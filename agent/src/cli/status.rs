//! `moorline-agent status`.

use std::process::ExitCode;

use jiff::Timestamp;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::UnixSeconds;
use moorline_common::observe::EngineState;
use moorline_common::trust::EXPIRY_WARNING_S;

use super::{Output, say};
use crate::admin::{self, Status};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Db;
use crate::identity::StateDir;
use crate::ledger::Ledger;

pub(super) async fn status(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let status = match admin::ask_status(&config.state).await? {
        Some(status) => status,
        None => from_disk(config)?,
    };
    match output {
        Output::Json => say(&serde_json::to_string_pretty(&status)?),
        Output::Text => lines(&status).iter().for_each(|line| say(line)),
    }
    Ok(if status.running { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What can be told while the agent does not run.
fn from_disk(config: &Config) -> anyhow::Result<Status> {
    let state = StateDir(config.state.clone());
    let enrolment = state.joined()?;
    let mut status = Status::default();
    match Db::open_to_read(&config.state).and_then(|db| db.map_or(Ok(None), |db| Ledger::new(db).current())) {
        Ok(current) => status.from_disk(&enrolment, current.as_ref()),
        Err(error) => {
            status.from_disk(&enrolment, None);
            status.last_error = Some(Fault::new(Code::Internal, error.to_string()));
        }
    }
    status.quarantine = state.quarantine()?.map(|q| Fault::new(Code::Quarantined, q.reason));
    if let Some(keys) = state.keys()? {
        status.host_id = keys.host_id().to_string();
        status.fingerprint = keys.claim(enrolment.name.clone()).fingerprint();
    }
    Ok(status)
}

fn lines(s: &Status) -> Vec<String> {
    let mut out = Vec::new();
    let mut line = |name: &str, text: String| out.push(format!("{name:<13}{text}"));
    line("agent", format!("{} {}", s.version, if s.running { "running" } else { "not running" }));
    line("host", format!("{} of cluster {}", s.name, s.cluster));
    line("host id", s.host_id.clone());
    line("fingerprint", s.fingerprint.clone());
    if s.running {
        line("hub", hub_words(s));
        line("trust", trust_words(s));
        line("engine", engine_words(s));
    }
    if let Some(warning) = expiry_words(s.root_expires, Clock.wall()) {
        line("warning", warning);
    }
    line(
        "topology",
        match &s.topology {
            Some(topology) => format!("{topology}, generation {}", s.generation),
            None => "none".to_owned(),
        },
    );
    line(
        "applied",
        match &s.applied_hash {
            Some(hash) if s.applied_at > 0 => format!("{hash} since {}", when(s.applied_at)),
            Some(hash) => hash.clone(),
            None => "nothing".to_owned(),
        },
    );
    if s.running {
        line("state", state_words(s));
    }
    for (name, fault) in [("last error", &s.last_error), ("quarantine", &s.quarantine), ("frozen", &s.frozen)] {
        if let Some(fault) = fault {
            line(name, fault.to_string());
        }
    }
    if let Some((kind, fault)) = &s.last_refusal {
        line("refused", format!("a {kind}: {fault}"));
    }
    for trouble in &s.troubles {
        line("trouble", format!("{}: {} [{}]", trouble.resource, trouble.message, trouble.code));
    }
    for drifted in &s.drift {
        line("drift", format!("{}: {} differs from the slice and is left as it is", drifted.resource, drifted.field));
    }
    out
}

fn hub_words(s: &Status) -> String {
    match (&s.hub, &s.link_error) {
        (Some(hub), _) => format!("connected to {hub} since {}", when(s.link_since)),
        (None, Some(error)) => format!("not connected: {error}"),
        (None, None) => "not connected yet".to_owned(),
    }
}

fn trust_words(s: &Status) -> String {
    match (s.root_version, s.binding_serial) {
        (0, _) => "no trust root yet".to_owned(),
        (root, 0) => format!("root {root}; awaiting approval (`moorctl host approve {}`)", s.name),
        (root, binding) => format!("root {root}, binding {binding}"),
    }
}

fn engine_words(s: &Status) -> String {
    match s.engine {
        EngineState::Unknown => "not looked at yet".to_owned(),
        EngineState::Ready => s.engine_version.clone().unwrap_or_else(|| s.driver.clone()),
        EngineState::Unreachable => format!("UNREACHABLE: {}", s.observe_error.as_deref().unwrap_or("no answer")),
    }
}

fn state_words(s: &Status) -> String {
    let state = match (s.enforcing, s.converging) {
        (false, _) if s.topology.is_none() => "has no slice",
        (false, _) if s.frozen.is_some() => "frozen: changes nothing until an operator signs its slice anew",
        (false, _) => "waits for the hub to send the slice again",
        (true, true) => "converging",
        (true, false) => "enforcing",
    };
    let containers = match s.containers_wanted {
        Some(wanted) => format!("{} of {wanted} wanted containers run, {} are there", s.containers_running, s.containers),
        None => format!("{} of {} containers run", s.containers_running, s.containers),
    };
    format!("{state}; {containers}")
}

/// What the trust root's end means, when it is near or past.
fn expiry_words(expires: Option<u64>, now: UnixSeconds) -> Option<String> {
    let expires = expires?;
    if now.0 >= expires {
        return Some(format!(
            "the trust root expired at {}: nothing new is accepted until an operator runs `moorctl key renew`",
            when(expires)
        ));
    }
    let near = now.plus(EXPIRY_WARNING_S).0 >= expires;
    near.then(|| format!("the trust root expires at {}: an operator is to run `moorctl key renew` before", when(expires)))
}

pub(super) fn when(unix: u64) -> String {
    i64::try_from(unix).ok().and_then(|s| Timestamp::from_second(s).ok()).map_or_else(|| unix.to_string(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_trust_root_is_warned_of_from_14_days_before() {
        let day = 24 * 3600;
        let words = |now: u64| expiry_words(Some(100 * day), UnixSeconds(now));
        assert_eq!(words(86 * day - 1), None);
        assert!(words(86 * day).unwrap().contains("expires at 1970-04-11"));
        assert!(words(100 * day).unwrap().contains("expired"));
        assert_eq!(expiry_words(None, UnixSeconds(0)), None);
    }
}
