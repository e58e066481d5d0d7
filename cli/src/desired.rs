//! From a topology file to one desired state per host, over hosts whose bindings were verified here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moorline_common::id::{HostId, HostName};
use moorline_common::topology::{self, BoundHost, HostSpec, Inputs, Origin, Problem, Slices, TopologyFile};

use crate::client::HostView;
use crate::error::{Failure, LocalCode};
use crate::home::Place;
use crate::inputs::{self, InputArgs, Machine, Named};
use crate::parallel;
use crate::pins::{self, PinArgs};
use crate::render::Ui;
use crate::secrets::Values;

/// A topology file that was read and holds no problem that shows without hosts.
#[derive(Debug, Clone)]
pub struct Source {
    /// How problems name it.
    pub name: String,
    /// The folder that the files which it takes are relative to, as seen from here.
    folder: PathBuf,
    /// The text, comments and all.
    pub text: String,
    /// What it takes from elsewhere.
    pub inputs: Inputs,
    /// What it says.
    pub file: TopologyFile,
    /// Where it is, if it is a file of this machine and not what was signed.
    pub place: Option<Place>,
    /// The variables that were read for it there.
    pub named: Named,
    /// The values of its secrets and configs, as far as they were read.
    pub values: Values,
}

/// What a file means for the hosts.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    /// Per host that an entry matches.
    pub hosts: BTreeMap<HostId, HostSpec>,
    /// Entries that name hosts which are not bound.
    pub pending: Vec<String>,
}

/// Reads the file that `-f` names, `-` is standard input, with what it takes from this machine. Warnings go to standard error.
///
/// # Errors
/// [`LocalCode::BadTopology`] with every problem at its line, or when a file cannot be read.
pub fn read(ui: &mut Ui, path: &Path, args: &InputArgs) -> Result<Source, Failure> {
    read_as(ui, path, &read_bytes(path)?, args)
}

/// The same, as if `bytes` stood in the file.
///
/// # Errors
/// As [`read`].
pub fn read_as(ui: &mut Ui, path: &Path, bytes: &[u8], args: &InputArgs) -> Result<Source, Failure> {
    let folder = if path == Path::new("-") { PathBuf::new() } else { path.parent().map(Path::to_path_buf).unwrap_or_default() };
    let named = Named::default();
    let machine = Machine { folder: &folder, env_files: &args.env_file, environment: &|name| std::env::var_os(name), named: named.clone() };
    let (reading, inputs) = machine.read(bytes)?;
    let name = display_name(path);
    let file = reading.file.map_err(|problems| inputs::bad(&name, &folder, &problems))?;
    for warning in &reading.warnings {
        ui.note(&inputs::from_here(warning, &folder).render_as(&name, "warning"));
    }
    // What is not UTF-8 was refused.
    let text = String::from_utf8_lossy(bytes).into_owned();
    let place = Some(Place::of(&folder, &args.env_file)?);
    Ok(Source { name, folder, text, inputs, file, place, named, values: Values::default() })
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

/// Reads what an operator signed: a text with what it took from the machine that it was pushed from, and nothing of this one.
///
/// # Errors
/// [`LocalCode::BadTopology`] with every problem at its line.
pub fn parse(name: &str, text: &str, taken: &Inputs) -> Result<Source, Failure> {
    let folder = PathBuf::new();
    let file = topology::read(text.as_bytes(), taken).file.map_err(|problems| inputs::bad(name, &folder, &problems))?;
    let (name, text, inputs) = (name.to_owned(), text.to_owned(), taken.clone());
    Ok(Source { name, folder, text, inputs, file, place: None, named: Named::default(), values: Values::default() })
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
        let slices = self.sliced(bound).map_err(|problems| self.bad(&problems))?;
        let mut hosts = slices.hosts;
        hosts.values_mut().try_for_each(|spec| pins::put_in(&self.inputs.pins, &self.name, spec))?;
        hosts.values_mut().try_for_each(|spec| spec.know_sealed(&self.inputs.digests).map_err(|unknown| self.unknown(&unknown)))?;
        Ok(Desired { hosts, pending: slices.pending })
    }

    /// The refusal of it, with every problem at its line.
    pub(crate) fn bad(&self, problems: &[Problem]) -> Failure {
        inputs::bad(&self.name, &self.folder, problems)
    }

    fn unknown(&self, unknown: &[(String, Origin)]) -> Failure {
        Failure::new(
            LocalCode::SecretsMissing,
            format!("{} has secrets or configs whose values were not there when it was read", self.name),
            "push the topology from where its secrets are: `moorctl push -f FILE`",
        )
        .with_details(unknown.iter().map(|(what, origin)| format!("{what}: {origin}")).collect())
    }

    /// What the file means for `bound`, which are looked at in parts.
    fn sliced(&self, bound: &[BoundHost]) -> Result<Slices, Vec<Problem>> {
        let parts = parallel::parts(bound, |part| self.file.slice(part)).into_iter().collect::<Result<Vec<_>, _>>();
        // Only the whole tells each problem once, and where it is first.
        let Ok(parts) = parts else { return self.file.slice(bound) };
        let mut parts = parts.into_iter();
        let first = parts.next().unwrap_or_default();
        Ok(parts.fold(first, |mut all, part| {
            all.hosts.extend(part.hosts);
            // An entry is without its host when no part has that.
            all.pending.retain(|entry| part.pending.contains(entry));
            all
        }))
    }

    /// Takes the digests that its images have now, if `args` say so; from then on it means exactly these.
    ///
    /// # Errors
    /// As [`Self::slice`] and [`pins::find`].
    pub async fn pin(&mut self, ui: &mut Ui, args: &PinArgs, hosts: &[HostView]) -> Result<(), Failure> {
        if args.pin {
            let desired = self.slice(hosts)?;
            self.inputs.pins = pins::find(args, ui, &self.file, desired.hosts.values()).await?;
        }
        Ok(())
    }

    /// Whether it says the same as another text with what that takes, comments and key order aside.
    #[must_use]
    pub fn means_the_same_as(&self, other: &str, inputs: &Inputs) -> bool {
        if self.inputs != *inputs {
            return false;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "topology: edge\nhosts:\n  site=a: { docker: { services: { s: { image: \"i:${host.name}\" } } } }\n  shop-19: {}\n  late: {}\n";

    /// Hosts enough for several parts, of which the last has an entry of its own.
    fn bound(site_of_last: &str) -> Vec<BoundHost> {
        let label = |n| [("site".to_owned(), if n == 19 { site_of_last } else { "a" }.to_owned())].into();
        let host =
            |n: u8| BoundHost { host_id: HostId::of_key(&[n; 32]), name: HostName::parse(format!("shop-{n}")).unwrap(), labels: label(n) };
        (0..20).map(host).collect()
    }

    #[test]
    fn hosts_that_are_sliced_in_parts_get_what_they_get_together() {
        let source = parse("edge.yaml", FILE, &Inputs::default()).unwrap();
        let together = source.file.slice(&bound("b")).unwrap();
        assert_eq!((together.hosts.len(), together.pending.as_slice()), (20, ["late".to_owned()].as_slice()));
        assert_eq!(source.sliced(&bound("b")).unwrap(), together);
    }

    #[test]
    fn a_problem_of_one_part_is_told_as_it_is_told_of_the_whole() {
        let source = parse("edge.yaml", FILE, &Inputs::default()).unwrap();
        let together = source.file.slice(&bound("a")).unwrap_err();
        assert_eq!(together.len(), 1, "shop-19 is named twice");
        assert_eq!(source.sliced(&bound("a")).unwrap_err(), together);
    }
}
