//! `moorline-agent doctor`: looks at everything that the agent needs, and changes nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::Config;
use crate::db::{self, Db};
use crate::driver::Driver;
use crate::identity::{Enrolment, StateDir};
use crate::journal::codec::{self, Rest};
use crate::ledger::Ledger;
use crate::limits::{CLOCK_SKEW_ALARM_S, JOURNAL_READ_MAX, OBSERVE_TIMEOUT};
use crate::link::transport;
use crate::trust::Trust;
use crate::{admin, files};

/// How one check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Worth a look; the agent works.
    Warning,
    /// The agent cannot work like this.
    Failed,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it went.
    pub outcome: Outcome,
    /// What was found, and what to do about it.
    pub detail: String,
}

fn check(name: &'static str, outcome: Outcome, detail: impl Into<String>) -> Check {
    Check { name, outcome, detail: detail.into() }
}

/// Looks at everything. `driver` is the configured engine; `None` before the host has joined.
pub async fn examine<D: Driver>(config: &Config, driver: Option<D>) -> Vec<Check> {
    let state = StateDir(config.state.clone());
    let mut checks = vec![permissions(&config.state), running(&config.state).await];
    match state.enrolment() {
        Ok(Some(enrolment)) if enrolment.joined => {
            checks.push(check("joined", Outcome::Ok, format!("host {} of cluster {}", enrolment.name, enrolment.cluster)));
            checks.push(certificate(&state));
            checks.push(hub(&state, &enrolment).await);
        }
        Ok(_) => checks.push(check("joined", Outcome::Failed, "not yet; run `moorline-agent join -` and paste the token")),
        Err(error) => checks.push(check("joined", Outcome::Failed, error.to_string())),
    }
    checks.push(ledger(&config.state));
    checks.push(journal(&config.state.join("journal")));
    if let Some(driver) = driver {
        checks.push(engine(driver).await);
    }
    checks
}

fn permissions(dir: &Path) -> Check {
    const NAME: &str = "state folder";
    match std::fs::metadata(dir) {
        Err(e) => check(NAME, Outcome::Failed, format!("{}: {e}", dir.display())),
        Ok(meta) if !meta.is_dir() => check(NAME, Outcome::Failed, format!("{} is no folder", dir.display())),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            check(NAME, Outcome::Failed, format!("others may read {}; chmod 700 it", dir.display()))
        }
        Ok(_) => check(NAME, Outcome::Ok, format!("{} is private", dir.display())),
    }
}

async fn running(dir: &Path) -> Check {
    const NAME: &str = "agent";
    match admin::ask_status(dir).await {
        Ok(Some(status)) => match status.quarantine {
            Some(fault) => check(NAME, Outcome::Failed, fault.to_string()),
            None => check(NAME, Outcome::Ok, format!("runs, version {}", status.version)),
        },
        Ok(None) => check(NAME, Outcome::Warning, "does not run"),
        Err(error) => check(NAME, Outcome::Failed, format!("runs, but does not answer: {error}")),
    }
}

fn certificate(state: &StateDir) -> Check {
    const NAME: &str = "certificate";
    let validity = state.transport().and_then(|t| t.ok_or(crate::identity::IdentityError::NotJoined)?.validity());
    let now = Clock.wall().0;
    match validity {
        Err(error) => check(NAME, Outcome::Failed, error.to_string()),
        Ok((_, until)) if until <= now => check(NAME, Outcome::Failed, "it has expired; let an operator evict the host and join anew"),
        Ok((from, _)) if from > now + 60 => check(NAME, Outcome::Failed, "it is not valid yet; set this host's clock"),
        Ok((_, until)) => check(NAME, Outcome::Ok, format!("valid for {} h more", (until - now) / 3600)),
    }
}

async fn hub(state: &StateDir, enrolment: &Enrolment) -> Check {
    const NAME: &str = "hub";
    let mut failures = Vec::new();
    for address in &enrolment.hubs {
        let identity = transport::choose(state, true).and_then(|(t, _)| t.client_identity());
        let pins: BTreeSet<String> = transport::pins(&Trust::default(), enrolment);
        let opened = match identity {
            Ok(identity) => transport::open(address, pins, Some(identity)).await.map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match opened {
            Ok(_) => return check(NAME, Outcome::Ok, format!("{address} answers")),
            Err(error) => failures.push(error),
        }
    }
    check(NAME, Outcome::Warning, failures.join("; "))
}

fn ledger(dir: &Path) -> Check {
    const NAME: &str = "ledger and clock";
    if !dir.join(db::FILE_NAME).exists() {
        return check(NAME, Outcome::Warning, "there is no ledger yet");
    }
    let floor = Db::open(dir).and_then(|db| {
        let ledger = Ledger::new(db);
        ledger.current()?;
        ledger.time_floor()
    });
    match floor {
        Err(error) => check(NAME, Outcome::Failed, error.to_string()),
        Ok(floor) => {
            let (floor, wall) = (floor.now(&Clock.boot()).0, Clock.wall().0);
            if floor > 0 && floor.abs_diff(wall) > CLOCK_SKEW_ALARM_S && wall < floor {
                check(NAME, Outcome::Failed, format!("the clock is {} s behind what operators signed; set it", floor - wall))
            } else {
                check(NAME, Outcome::Ok, "readable, and the clock is plausible")
            }
        }
    }
}

fn journal(dir: &Path) -> Check {
    const NAME: &str = "journal";
    match files::read_limited(&dir.join("journal.jsonl"), JOURNAL_READ_MAX) {
        Err(error) => check(NAME, Outcome::Failed, error.to_string()),
        Ok(None) => check(NAME, Outcome::Warning, "there is no journal yet"),
        Ok(Some(bytes)) => {
            let scan = codec::scan(&bytes, None);
            match scan.rest {
                Rest::Clean => check(NAME, Outcome::Ok, format!("{} records up to {}", scan.records.len(), scan.head.seq)),
                Rest::Torn => check(NAME, Outcome::Warning, "its last write was cut short; the next start mends it"),
                Rest::Damaged(what) => check(NAME, Outcome::Failed, format!("damaged at byte {}: {what}", scan.good_bytes)),
            }
        }
    }
}

async fn engine<D: Driver>(driver: D) -> Check {
    const NAME: &str = "engine";
    match tokio::time::timeout(OBSERVE_TIMEOUT, driver.observe()).await {
        Ok(Ok(observed)) => check(NAME, Outcome::Ok, format!("{} answers", observed.engine_version.as_deref().unwrap_or(driver.name()))),
        Ok(Err(error)) => check(NAME, Outcome::Failed, format!("{}: {error}", driver.name())),
        Err(_) => check(NAME, Outcome::Failed, format!("{} does not answer", driver.name())),
    }
}
