//! `moorline-hub doctor`: is everything in place, and will it stay so?

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use moorline_common::id::ClusterId;
use rusqlite::{Connection, OpenFlags};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CmdError, say};
use crate::clock::Clock;
use crate::config::Config;
use crate::limits;
use crate::pki::{self, Pki};
use crate::store::Store as _;
use crate::store::sqlite::{self, SqliteStore};

/// The outcome of one check.
enum Finding {
    Good(String),
    Warning(String),
    Bad(String),
}

/// Checks everything and prints one line each.
///
/// # Errors
/// [`CmdError::Config`] when the configuration is wrong, [`CmdError::Failed`] when any check is bad.
pub fn run(dir: &Path) -> Result<(), CmdError> {
    let config = Config::load(dir, None)?;
    let findings = [
        ("config", Finding::Good(format!("{} is valid", crate::config::FILE))),
        ("folder", folder(dir)),
        ("store", store(dir)),
        ("events", events(dir)),
        ("ca", authority(dir)),
        ("port", port(config.listen)),
        ("disk", disk(dir)),
    ];
    let (mut text, mut bad) = (String::new(), 0);
    for (what, finding) in findings {
        let (mark, words) = match finding {
            Finding::Good(words) => ("ok  ", words),
            Finding::Warning(words) => ("warn", words),
            Finding::Bad(words) => {
                bad += 1;
                ("BAD ", words)
            }
        };
        let _ = writeln!(text, "{mark}  {what:<7} {words}");
    }
    say(text.trim_end())?;
    if bad > 0 { Err(CmdError::Failed(format!("{bad} checks failed"))) } else { Ok(()) }
}

fn folder(dir: &Path) -> Finding {
    let key = dir.join(pki::CA_DIR).join(pki::CA_KEY);
    for (path, mode) in [(dir, 0o700), (key.as_path(), 0o600)] {
        match std::fs::metadata(path) {
            Ok(meta) if meta.permissions().mode() & 0o777 & !mode == 0 => {}
            Ok(meta) => {
                let found = meta.permissions().mode() & 0o777;
                return Finding::Bad(format!("{} has mode {found:o}; run `chmod {mode:o} {}`", path.display(), path.display()));
            }
            Err(error) => return Finding::Bad(format!("cannot look at {}: {error}", path.display())),
        }
    }
    Finding::Good(format!("{} is private", dir.display()))
}

fn store(dir: &Path) -> Finding {
    let path = dir.join(sqlite::FILE);
    let checked = (|| {
        let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.busy_timeout(limits::STORE_PATIENCE)?;
        let verdict: String = conn.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
        let hosts: i64 = conn.query_row("SELECT count(*) FROM hosts", [], |row| row.get(0))?;
        let topologies: i64 = conn.query_row("SELECT count(DISTINCT topology) FROM revisions", [], |row| row.get(0))?;
        Ok::<_, rusqlite::Error>((verdict, hosts, topologies))
    })();
    match checked {
        Ok((verdict, hosts, topologies)) if verdict == "ok" => Finding::Good(format!("intact, {hosts} hosts, {topologies} topologies")),
        Ok((verdict, _, _)) => Finding::Bad(format!("{} is damaged: {verdict}; restore a backup (`moorline-hub restore`)", path.display())),
        Err(error) => Finding::Bad(format!("cannot check {}: {error}", path.display())),
    }
}

fn events(dir: &Path) -> Finding {
    let runtime = match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime,
        Err(error) => return Finding::Bad(format!("cannot check the events: {error}")),
    };
    let verified = SqliteStore::open(&dir.join(sqlite::FILE), Clock::default())
        .map_err(|e| e.to_string())
        .and_then(|store| runtime.block_on(store.verify_events()).map_err(|e| e.to_string()));
    match verified {
        Ok(Ok(count)) => Finding::Good(format!("{count} events, the chain holds")),
        Ok(Err(at)) => Finding::Bad(format!("the chain of events is broken at number {at}: somebody changed the store")),
        Err(error) => Finding::Bad(format!("cannot check the events: {error}")),
    }
}

fn authority(dir: &Path) -> Finding {
    let loaded = SqliteStore::cluster(&dir.join(sqlite::FILE))
        .map_err(|e| e.to_string())
        .and_then(|name| ClusterId::parse(name).map_err(|e| e.to_string()))
        .and_then(|cluster| Pki::load(dir, &cluster).map_err(|e| e.to_string()));
    let pki = match loaded {
        Ok(pki) => pki,
        Err(error) => return Finding::Bad(error),
    };
    let Ok((_, certificate)) = X509Certificate::from_der(pki.ca()) else {
        return Finding::Bad("the CA's certificate cannot be read".to_owned());
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let left = Duration::from_secs(end.saturating_sub(now));
    let days = left.as_secs() / 86_400;
    match left {
        Duration::ZERO => Finding::Bad("the CA has expired: agents and operators cannot connect".to_owned()),
        left if left < limits::CA_WARNING => Finding::Warning(format!("the CA expires in {days} days")),
        _ => Finding::Good(format!("key and certificate fit, {days} days left, SPKI {}", pki.ca_spki())),
    }
}

fn port(listen: SocketAddr) -> Finding {
    match TcpListener::bind(listen) {
        Ok(_) => Finding::Good(format!("{listen} is free: the hub is not running")),
        Err(_) => {
            let ip = if listen.ip().is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { listen.ip() };
            let dial = SocketAddr::new(ip, listen.port());
            match TcpStream::connect_timeout(&dial, limits::DOCTOR_DIAL) {
                Ok(_) => Finding::Good(format!("{listen} is in use and answers")),
                Err(error) => Finding::Bad(format!("{listen} is in use but does not answer: {error}")),
            }
        }
    }
}

fn disk(dir: &Path) -> Finding {
    match nix::sys::statvfs::statvfs(dir) {
        Ok(stat) => {
            let free = stat.blocks_available().saturating_mul(stat.fragment_size());
            let mib = free / (1024 * 1024);
            if free < limits::DISK_FREE_MIN {
                Finding::Bad(format!("only {mib} MiB are free; the hub stops recording when the disk is full"))
            } else {
                Finding::Good(format!("{mib} MiB free"))
            }
        }
        Err(error) => Finding::Warning(format!("cannot ask for free space: {error}")),
    }
}
