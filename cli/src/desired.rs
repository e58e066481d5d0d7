//! From a topology file to one desired state per host, over hosts whose bindings were verified here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moorline_common::id::{HostId, HostName};
use moorline_common::topology::{self, BoundHost, HostSpec, Problem, TopologyFile};

use crate::client::HostView;
use crate::error::{Failure, LocalCode};

/// A topology file that was read and holds no problem that shows without hosts.
#[derive(Debug, Clone)]
pub struct Source {
    /// How problems name it.
    pub name: String,
    /// The text, comments and all.
    pub text: String,
    /// What it says.
    pub file: TopologyFile,
}

/// What a file means for the hosts.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Per host that an entry matches.
    pub hosts: BTreeMap<HostId, HostSpec>,
    /// Entries that name hosts which are not bound.
    pub pending: Vec<String>,
}

/// Reads the file that `-f` names; `-` is standard input.
///
/// # Errors
/// [`LocalCode::BadTopology`] with every problem at its line, or when the file cannot be read.
pub fn read(path: &Path) -> Result<Source, Failure> {
    let bytes = read_bytes(path)?;
    parse(&display_name(path), &bytes)
}

/// The bytes of the file that `-f` names, no more than a topology file may have and one.
fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::io::Read;
    let limit = u64::try_from(topology::limits::TOPOLOGY_FILE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(|e| Failure::file("read", &PathBuf::from("stdin"), &e))?;
        return Ok(bytes);
    }
    let failed = |e| Failure::file("read", path, &e).with_remedy("check the path that -f names");
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn display_name(path: &Path) -> String {
    if path == Path::new("-") { "<stdin>".to_owned() } else { path.display().to_string() }
}

/// Reads a topology's text.
///
/// # Errors
/// [`LocalCode::BadTopology`] with every problem at its line.
pub fn parse(name: &str, bytes: &[u8]) -> Result<Source, Failure> {
    let file = topology::load_bytes(bytes).map_err(|problems| bad_topology(name, &problems))?;
    // `load_bytes` has refused what is not UTF-8.
    let text = String::from_utf8_lossy(bytes).into_owned();
    Ok(Source { name: name.to_owned(), text, file })
}

fn bad_topology(name: &str, problems: &[Problem]) -> Failure {
    let count = match problems.len() {
        1 => "a problem".to_owned(),
        n => format!("{n} problems"),
    };
    let details = problems.iter().flat_map(|p| p.render(name).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    Failure::new(
        LocalCode::BadTopology,
        format!("{name} has {count}; nothing was sent"),
        "correct the lines above; `moorctl schema` helps editors to check",
    )
    .with_details(details)
}

impl Source {
    /// What the file means for `hosts`; only those with a verified binding count.
    ///
    /// # Errors
    /// [`LocalCode::BadTopology`], also when two bound hosts bear one name.
    pub fn slice(&self, hosts: &[HostView]) -> Result<Desired, Failure> {
        self.slice_bound(&hosts.iter().filter_map(HostView::bound).map(BoundHost::from).collect::<Vec<_>>())
    }

    /// The same for hosts that are not listed yet.
    ///
    /// # Errors
    /// As [`Self::slice`].
    pub fn slice_bound(&self, bound: &[BoundHost]) -> Result<Desired, Failure> {
        let mut names: BTreeMap<&HostName, &HostId> = BTreeMap::new();
        for host in bound {
            if let Some(other) = names.insert(&host.name, &host.host_id) {
                return Err(Failure::new(
                    LocalCode::BadTopology,
                    format!("two bound hosts bear the name `{}`: {other} and {}", host.name, host.host_id),
                    "bind one of them anew under another name",
                ));
            }
        }
        let slices = self.file.slice(bound).map_err(|problems| bad_topology(&self.name, &problems))?;
        Ok(Desired { hosts: slices.hosts, pending: slices.pending })
    }

    /// Whether two texts say the same, comments and key order aside.
    #[must_use]
    pub fn means_the_same_as(&self, other: &str) -> bool {
        if self.text == other {
            return true;
        }
        let value = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).ok();
        match (value(&self.text), value(other)) {
            (Some(a), Some(b)) => a == b,
            (None, _) | (_, None) => false,
        }
    }
}
