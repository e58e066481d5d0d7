//! `moorline-agent doctor`: looks at everything that the agent needs, and changes nothing.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::unistd::geteuid;
use serde::Serialize;

use crate::clock::{Clock, Skew};
use crate::config::{Config, DriverKind};
use crate::db::Db;
use crate::driver::{Driver, Finding};
use crate::identity::{Enrolment, StateDir};
use crate::journal::codec::{self, Rest};
use crate::journal::fs::RealFs;
use crate::journal::segment;
use crate::ledger::Ledger;
use crate::limits::{EXPIRED_RENEWAL_MAX_S, JOURNAL_READ_MAX, OBSERVE_TIMEOUT};
use crate::link::transport;
use crate::registries::Registries;
use crate::trust::Trust;
use crate::{admin, files, vault};

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
    let mut checks = vec![permissions(&config.state), running(&state).await];
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
    let has_engine = config.driver != DriverKind::None;
    if let Some(driver) = driver {
        if has_engine {
            checks.push(engine(&driver).await);
        }
        let findings = tokio::time::timeout(OBSERVE_TIMEOUT, driver.examine()).await.unwrap_or_default();
        checks.extend(findings.into_iter().map(|Finding { name, found }| match found {
            Ok(found) => check(name, Outcome::Ok, found),
            // What it may not do may be what nobody wants of it.
            Err(wrong) => check(name, if name == "proxmox token" { Outcome::Warning } else { Outcome::Failed }, wrong),
        }));
    }
    checks.extend(registries(config));
    if has_engine {
        checks.push(secrets(config));
    }
    checks
}

/// Whether files with secrets can be put where containers mount them.
fn secrets(config: &Config) -> Check {
    const NAME: &str = "secrets folder";
    // Only who has any cannot do without.
    let wrong = if vault::keeps_any(&config.state) { Outcome::Failed } else { Outcome::Warning };
    let folder = config.secrets_dir.display();
    let host = StateDir(config.state.clone()).keys().ok().flatten().map(|keys| keys.host_id());
    // Whoever asks may be root, and the agent somebody else.
    let agent = std::fs::metadata(&config.state).map_or_else(|_| geteuid().as_raw(), |state| state.uid());
    match vault::standing(&config.secrets_dir, host.as_ref(), agent) {
        vault::Standing::Good => check(NAME, Outcome::Ok, format!("{folder} is in memory")),
        vault::Standing::OnDisk(_) => check(
            NAME,
            wrong,
            format!(
                "{folder} is not in memory: no container can have secrets; mount a tmpfs there, or name another folder by `secrets_dir`"
            ),
        ),
        vault::Standing::Unsafe(why) => check(NAME, wrong, why.to_string()),
        vault::Standing::Unseen(why) => check(NAME, wrong, why),
    }
}

/// Whether the credentials of private registries can be read; nothing to say where there are none.
fn registries(config: &Config) -> Option<Check> {
    const NAME: &str = "registries";
    let registries = &config.registries;
    if *registries == Registries::default() {
        return None;
    }
    let problems = registries.problems();
    Some(if problems.is_empty() {
        check(NAME, Outcome::Ok, "their credentials can be read")
    } else {
        let words: Vec<String> = problems.iter().map(ToString::to_string).collect();
        check(NAME, Outcome::Failed, words.join("; "))
    })
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

async fn running(state: &StateDir) -> Check {
    const NAME: &str = "agent";
    match admin::ask_status(&state.0).await {
        Ok(Some(status)) => match status.quarantine {
            Some(fault) => check(NAME, Outcome::Failed, fault.to_string()),
            None => check(NAME, Outcome::Ok, format!("runs, version {}", status.version)),
        },
        Ok(None) => match state.quarantine() {
            Ok(None) => check(NAME, Outcome::Warning, "does not run"),
            Ok(Some(quarantine)) => check(NAME, Outcome::Failed, format!("does not run, and is quarantined: {}", quarantine.reason)),
            Err(error) => check(NAME, Outcome::Failed, error.to_string()),
        },
        Err(error) => check(NAME, Outcome::Failed, format!("runs, but does not answer: {error}")),
    }
}

fn certificate(state: &StateDir) -> Check {
    const NAME: &str = "certificate";
    let validity = state.transport().and_then(|t| t.ok_or(crate::identity::IdentityError::NotJoined)?.validity());
    let now = Clock.wall().0;
    match validity {
        Err(error) => check(NAME, Outcome::Failed, error.to_string()),
        Ok((_, until)) if until.saturating_add(EXPIRED_RENEWAL_MAX_S) <= now => check(
            NAME,
            Outcome::Failed,
            "it expired too long ago to be renewed; let an operator run `moorctl host rm`, and join anew from an empty state folder",
        ),
        Ok((_, until)) if until <= now => check(NAME, Outcome::Warning, "it has expired; it is renewed at the next connection"),
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
    let read = |db: Db| {
        let ledger = Ledger::new(db);
        ledger.current()?;
        ledger.time_floor()
    };
    match Db::open_to_read(dir).and_then(|db| db.map(read).transpose()) {
        Err(error) => check(NAME, Outcome::Failed, error.to_string()),
        Ok(None) => check(NAME, Outcome::Warning, "there is no ledger yet"),
        Ok(Some(floor)) => {
            let (floor, wall) = (floor.now(&Clock.boot()), Clock.wall());
            match Skew::of(floor, wall) {
                None => check(NAME, Outcome::Ok, "readable, and the clock is plausible"),
                Some(skew @ Skew::Behind { .. }) => check(NAME, Outcome::Failed, skew.to_string()),
                Some(skew @ Skew::Ahead { .. }) => check(NAME, Outcome::Warning, skew.to_string()),
            }
        }
    }
}

fn journal(dir: &Path) -> Check {
    const NAME: &str = "journal";
    let newest = segment::list(&RealFs, dir).map(|known| known.last().copied());
    let newest = match newest {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return check(NAME, Outcome::Failed, error.to_string()),
        Err(_) | Ok(None) => return check(NAME, Outcome::Warning, "there is no journal yet"),
        Ok(Some(first)) => dir.join(segment::file_name(first)),
    };
    match files::read_limited(&newest, JOURNAL_READ_MAX) {
        Err(error) => check(NAME, Outcome::Failed, error.to_string()),
        Ok(bytes) => {
            let scan = codec::scan(&bytes.unwrap_or_default(), |_, _| {});
            match scan.rest {
                Rest::Clean => check(NAME, Outcome::Ok, format!("readable up to record {}", scan.head.seq)),
                Rest::Torn => check(NAME, Outcome::Warning, "its last write was cut short; the next start mends it"),
                Rest::Damaged(what) => check(NAME, Outcome::Failed, format!("damaged at byte {}: {what}", scan.good_bytes)),
            }
        }
    }
}

async fn engine<D: Driver>(driver: &D) -> Check {
    const NAME: &str = "engine";
    match tokio::time::timeout(OBSERVE_TIMEOUT, driver.observe()).await {
        Ok(Ok(observed)) => check(NAME, Outcome::Ok, format!("{} answers", observed.engine_version.as_deref().unwrap_or(driver.name()))),
        Ok(Err(error)) => check(NAME, Outcome::Failed, format!("{}: {error}", driver.name())),
        Err(_) => check(NAME, Outcome::Failed, format!("{} does not answer", driver.name())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::identity::Transport;
    use crate::testing::config;

    /// The check of a certificate that lived a day and ended so many days ago.
    fn expired_for(days: u64) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir(dir.path().to_owned());
        let transport = Transport::generate().unwrap();
        let csr = transport.csr_der().unwrap();
        let mut request = rcgen::CertificateSigningRequestParams::from_der(&csr.as_slice().into()).unwrap();
        let day = Duration::from_secs(24 * 3600);
        let end = SystemTime::now() - day * u32::try_from(days).unwrap();
        (request.params.not_before, request.params.not_after) = ((end - day).into(), end.into());
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = request.signed_by(&rcgen::Issuer::new(rcgen::CertificateParams::default(), key)).unwrap();
        state.put_transport(&transport.with_certificate(&[leaf.der().to_vec()], 1).unwrap()).unwrap();
        certificate(&state).outcome
    }

    #[test]
    fn an_expired_certificate_is_worth_a_look_while_it_still_renews_itself() {
        assert_eq!([expired_for(1), expired_for(89), expired_for(90)], [Outcome::Warning, Outcome::Warning, Outcome::Failed]);
    }

    #[test]
    fn a_folder_for_secrets_that_somebody_else_made_is_told() {
        let (dir, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir_in("/dev/shm").unwrap());
        let config = Config { secrets_dir: memory.path().join("secrets"), ..config(dir.path()) };
        let host = StateDir(dir.path().to_owned()).ensure_keys().unwrap().host_id();
        assert_eq!(secrets(&config).outcome, Outcome::Ok);
        let folder = config.secrets_dir.join(host.as_str());
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(secrets(&config).outcome, Outcome::Ok);
        std::os::unix::fs::chown(&folder, Some(12_345), None).unwrap();
        let found = secrets(&config);
        assert!(found.outcome == Outcome::Warning && found.detail.contains("belongs to user 12345"), "{found:?}");
        // The agent's user is the state folder's, whoever asks.
        std::os::unix::fs::chown(dir.path(), Some(12_345), None).unwrap();
        assert_eq!(secrets(&config).outcome, Outcome::Ok);
    }

    #[tokio::test]
    async fn looking_makes_no_file_and_changes_none() {
        let dir = tempfile::tempdir().unwrap();
        examine(&config(dir.path()), None::<crate::testing::FakeDriver>).await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(Db::open(dir.path()).unwrap());
        rusqlite::Connection::open(dir.path().join(crate::db::FILE_NAME)).unwrap().execute_batch("PRAGMA user_version = 0").unwrap();
        let path = dir.path().join(crate::db::FILE_NAME);
        let bytes = std::fs::read(&path).unwrap();
        examine(&config(dir.path()), None::<crate::testing::FakeDriver>).await;
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(std::fs::read(&path).unwrap() == bytes, "nor brings one up to date");
    }
}
