//! Which digest each image of a topology has: found when it is pushed, signed with the source, and put in wherever that is
//! sliced.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::Args;
use moorline_common::registry::{Credentials, ImageName, from_docker_config};
use moorline_common::topology::limits::PINS_MAX;
use moorline_common::topology::{Entry, HostSpec, TopologyFile};
use zeroize::Zeroizing;

use crate::error::{Failure, LocalCode};
use crate::home::files;
use crate::limits::LOGINS_MAX;
use crate::registry::{Asker, RegistryError};
use crate::render::Ui;

/// Image as the topology names it → its digest.
pub type Pins = BTreeMap<String, String>;

/// Whether and how images are pinned.
#[derive(Debug, Clone, Default, Args)]
pub struct PinArgs {
    /// Ask the registries now which digest each image's tag has, and sign that: hosts pull exactly those
    #[arg(long)]
    pub pin: bool,
    /// A Docker config.json with the logins for that [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE", requires = "pin")]
    pub registry_auth: Option<PathBuf>,
}

/// The images that are to be pinned.
#[derive(Debug, Default, PartialEq, Eq)]
struct Images {
    /// Of hosts that are there: each must be found.
    needed: BTreeSet<String>,
    /// Of hosts that may come.
    possible: BTreeSet<String>,
}

impl Images {
    fn of<'a>(file: &TopologyFile, specs: impl Iterator<Item = &'a HostSpec>) -> Self {
        let docker = |entry: &Entry| entry.docker.iter().flat_map(|d| d.services.values()).map(|s| s.image.clone()).collect::<Vec<_>>();
        let open = |image: &String| !image.is_empty() && !image.contains('$') && ImageName::of(image).digest.is_none();
        let sliced = specs.flat_map(|spec| spec.docker.iter()).flat_map(|d| d.services.values()).map(|s| s.image.clone());
        let needed: BTreeSet<String> = sliced.filter(open).collect();
        let written = file.profiles.values().chain(file.hosts.values().map(|h| &h.own)).flat_map(docker);
        let possible = written.filter(open).filter(|image| !needed.contains(image)).collect();
        Self { needed, possible }
    }
}

/// Asks the registries which digests the images of `file` have now; `specs` is what it means for the hosts that are there.
///
/// # Errors
/// [`LocalCode::PinFailed`] with every image that could not be found, and why.
pub async fn find<'a>(
    args: &PinArgs,
    ui: &mut Ui,
    file: &TopologyFile,
    specs: impl Iterator<Item = &'a HostSpec>,
) -> Result<Pins, Failure> {
    let images = Images::of(file, specs);
    let count = images.needed.len() + images.possible.len();
    if count > PINS_MAX {
        return Err(failed(vec![format!("{count} images; at most {PINS_MAX} are pinned in one topology")]));
    }
    let logins = Logins::read(args.registry_auth.as_deref())?;
    let asker = Asker::new().map_err(|why| failed(vec![why]))?;
    let (mut pins, mut problems) = (Pins::new(), Vec::new());
    for (image, is_needed) in images.needed.iter().map(|i| (i, true)).chain(images.possible.iter().map(|i| (i, false))) {
        match logins.ask(&asker, image).await {
            Ok(digest) => {
                ui.note(&format!("{image} is {digest}"));
                pins.insert(image.clone(), digest);
            }
            Err(why) if is_needed => problems.push(format!("{image}: {why}")),
            // Said again if a host comes that wants it.
            Err(why) => ui.warn(&format!("{image}, which no host has yet, is not pinned: {why}")),
        }
    }
    if problems.is_empty() { Ok(pins) } else { Err(failed(problems)) }
}

fn failed(problems: Vec<String>) -> Failure {
    Failure::new(
        LocalCode::PinFailed,
        "the digests of these images are not known; nothing was signed",
        "check the names, the way from this machine to the registries, and the logins (`docker login`, or --registry-auth FILE)",
    )
    .with_details(problems)
}

/// Puts the digests into what a host shall have. Nothing to do where nothing was pinned.
///
/// # Errors
/// [`LocalCode::BadTopology`] for an image that was not known when the topology was pinned: it would be whatever its tag is
/// on that day.
pub fn put_in(pins: &Pins, name: &str, spec: &mut HostSpec) -> Result<(), Failure> {
    if pins.is_empty() {
        return Ok(());
    }
    for (service, spec) in spec.docker.iter_mut().flat_map(|d| d.services.iter_mut()) {
        let image = ImageName::of(&spec.image);
        if image.digest.is_some() {
            continue;
        }
        let Some(digest) = pins.get(&spec.image) else {
            return Err(Failure::new(
                LocalCode::BadTopology,
                format!("{name}: the image `{}` of the service `{service}` was not known when the others were pinned", spec.image),
                "push the topology again with --pin",
            ));
        };
        spec.image = image.pinned(digest);
    }
    Ok(())
}

/// The operator's own logins, as Docker keeps them.
struct Logins(Option<(PathBuf, Zeroizing<Vec<u8>>)>);

impl Logins {
    /// Those of the file that was named, or else of the usual one if there is one.
    fn read(named: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = named {
            return Ok(Self(Some((path.to_owned(), files::read_up_to(path, LOGINS_MAX)?))));
        }
        let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
        let Some(path) = folder.map(|f| f.join("config.json")).filter(|p| p.is_file()) else { return Ok(Self(None)) };
        let bytes = files::read_up_to(&path, LOGINS_MAX)?;
        Ok(Self(Some((path, bytes))))
    }

    async fn ask(&self, asker: &Asker, image: &str) -> Result<String, String> {
        let name = ImageName::of(image);
        let credentials = self.of(&name.registry)?;
        asker.digest(&name, credentials.as_ref()).await.map_err(|error| match (&error, &self.0) {
            (RegistryError::Denied { had_login: false, .. }, Some((path, _))) => {
                format!("{error}; {} has none for `{}`", path.display(), name.registry)
            }
            _ => error.to_string(),
        })
    }

    fn of(&self, registry: &str) -> Result<Option<Credentials>, String> {
        let Some((path, bytes)) = &self.0 else { return Ok(None) };
        from_docker_config(bytes, registry).map_err(|e| format!("{}: {e}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorline_common::topology;

    const FILE: &str = "topology: edge\nprofiles:\n  web: { docker: { services: { site: { image: nginx:1 } } } }\n  \
                        late: { docker: { services: { db: { image: postgres:16 }, var: { image: \"app:${host.name}\" } } } }\n\
                        hosts:\n  a: { use: [web] }\n";

    fn spec(images: &[(&str, &str)]) -> HostSpec {
        let services = images.iter().map(|(name, image)| (*name, serde_json::json!({ "image": image })));
        let services: serde_json::Map<_, _> = services.map(|(name, value)| (name.to_owned(), value)).collect();
        serde_json::from_value(serde_json::json!({ "docker": { "services": services } })).unwrap()
    }

    #[test]
    fn images_of_hosts_that_are_there_are_needed_and_those_of_others_are_wanted_too() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let file = topology::load_bytes(FILE.as_bytes()).unwrap();
        let host = spec(&[("site", "nginx:1"), ("own", "app:a"), ("pinned", &format!("app@{digest}"))]);
        let images = Images::of(&file, [&host].into_iter());
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(images, Images { needed: set(&["app:a", "nginx:1"]), possible: set(&["postgres:16"]) });
    }

    #[test]
    fn every_image_is_pinned_or_the_host_gets_nothing() {
        let (one, two) = (format!("sha256:{}", "1".repeat(64)), format!("sha256:{}", "2".repeat(64)));
        let pins = Pins::from([("nginx:1".to_owned(), one.clone())]);
        let mut host = spec(&[("site", "nginx:1"), ("other", &format!("app:3@{two}"))]);
        put_in(&pins, "edge@1", &mut host).unwrap();
        assert_eq!(host, spec(&[("site", &format!("nginx:1@{one}")), ("other", &format!("app:3@{two}"))]));
        let mut unknown = spec(&[("db", "postgres:16")]);
        let failure = put_in(&pins, "edge@1", &mut unknown).unwrap_err();
        assert!(failure.message.contains("postgres:16") && failure.remedy.contains("--pin"), "{failure}");
        let mut unpinned = spec(&[("db", "postgres:16")]);
        put_in(&Pins::new(), "edge@1", &mut unpinned).unwrap();
        assert_eq!(unpinned, spec(&[("db", "postgres:16")]));
    }
}
