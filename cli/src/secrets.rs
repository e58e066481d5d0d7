//! The values of secrets and configs: read where an operator hands a topology in, told apart by keyed digests, and sealed to each host
//! that needs them. They are in no signed source and in no output.
//!
//! A revision that is made without them (a rollback, a signing anew, a late host) takes what was sealed to the same host before. Where
//! nothing was, the values are looked for once more where this machine pushed the topology from, and count only when they have
//! the digests that were signed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use age::x25519::Recipient;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bech32::{Bech32, Hrp};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, TopologyId};
use moorline_common::statement::{HostBinding, Sealed, SliceStatement};
use moorline_common::topology::limits::{DIGESTS_MAX, SEALED_HOST_MAX};
use moorline_common::topology::sealed::digest;
use moorline_common::topology::{BoundHost, DockerSpec, HostSpec, Origin, SealedKind, SealedSpec, TopologyFile};
use zeroize::Zeroizing;

use crate::desired::Source;
use crate::error::{Failure, LocalCode};
use crate::home::{Context, Place};
use crate::inputs::{Machine, Named};
use crate::limits::{NAMES_SHOWN, VALUES_MAX};

/// How age names an X25519 key that things are sealed to.
const RECIPIENT: &str = "age";

/// A value, held once however many names it has.
type Value = Arc<Zeroizing<Vec<u8>>>;

/// Values by their digests.
#[derive(Clone, Default)]
pub struct Values(BTreeMap<String, Value>);

impl Values {
    /// No value.
    #[must_use]
    pub const fn none() -> Self {
        Self(BTreeMap::new())
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.0.len())
    }
}

/// What reading a topology's values gave.
#[derive(Debug, Default)]
pub struct Gathered {
    /// [`Origin::key`] → digest.
    pub digests: BTreeMap<String, String>,
    /// The values.
    pub values: Values,
}

/// A secret or config, by where its value comes from.
type Wanted = (SealedKind, String, Origin);

fn wanted_of(docker: &DockerSpec) -> impl Iterator<Item = Wanted> {
    docker.sealed().filter_map(|(kind, name, spec)| Some((kind, name.clone(), spec.origin.clone()?)))
}

/// The values of one machine: each is read once, and no more of them than may be held.
struct Reader<'m> {
    machine: &'m Machine<'m>,
    found: BTreeMap<Origin, Option<Value>>,
    bytes: usize,
}

impl<'m> Reader<'m> {
    const fn new(machine: &'m Machine<'m>) -> Self {
        Self { machine, found: BTreeMap::new(), bytes: 0 }
    }

    /// The value from `origin`; `None` when it is not there.
    ///
    /// # Errors
    /// As [`Machine::value`]; [`Code::TooLarge`] when all of them together are too much.
    fn value(&mut self, origin: &Origin) -> Result<Option<Value>, Failure> {
        if let Some(known) = self.found.get(origin) {
            return Ok(known.clone());
        }
        let value = self.machine.value(origin)?.map(Arc::new);
        self.bytes = self.bytes.saturating_add(value.as_ref().map_or(0, |value| value.len()));
        if self.bytes > VALUES_MAX {
            let message = format!("the secrets and configs of the topology are larger than {} MiB together", VALUES_MAX / (1024 * 1024));
            return Err(Failure::from(Fault::new(Code::TooLarge, message))
                .with_remedy("split the topology, or put large content into an image or a volume"));
        }
        self.found.insert(origin.clone(), value.clone());
        Ok(value)
    }

    /// The same for a value that may as well be missing.
    ///
    /// # Errors
    /// [`Code::TooLarge`].
    fn value_if_any(&mut self, origin: &Origin) -> Result<Option<Value>, Failure> {
        match self.value(origin) {
            Err(failure) if !failure.is(Code::TooLarge) => Ok(None),
            found => found,
        }
    }
}

/// Reads the values of all secrets and configs of `file` from `machine`. Those of hosts that are there must be there; those of hosts
/// that may come are taken if they are.
///
/// # Errors
/// [`LocalCode::SecretsMissing`] with every value that is not there; what reading can fail with.
pub fn gather(machine: &Machine<'_>, key: &[u8; 32], file: &TopologyFile, specs: &BTreeMap<HostId, HostSpec>) -> Result<Gathered, Failure> {
    let needed: BTreeSet<Wanted> = specs.values().filter_map(|s| s.docker.as_ref()).flat_map(wanted_of).collect();
    let parts = file.profiles.values().chain(file.hosts.values().map(|h| &h.own));
    let possible: BTreeSet<Wanted> =
        parts.filter_map(|p| p.docker.as_ref()).flat_map(wanted_of).filter(|wanted| !needed.contains(wanted)).collect();
    // Before any of them is read.
    if needed.len().saturating_add(possible.len()) > DIGESTS_MAX {
        let message = format!("the topology takes more than {DIGESTS_MAX} secrets and configs");
        return Err(Failure::new(LocalCode::BadTopology, message, "split the topology"));
    }
    let mut reader = Reader::new(machine);
    let (mut gathered, mut missing) = (Gathered::default(), Vec::new());
    for (is_needed, (kind, name, origin)) in needed.iter().map(|w| (true, w)).chain(possible.iter().map(|w| (false, w))) {
        // Whoever needs one of the others later is told then what is wrong with it.
        let found = if is_needed { reader.value(origin)? } else { reader.value_if_any(origin)? };
        let Some(value) = found else {
            if is_needed {
                missing.push(format!("{} `{name}`: {origin} is not there", kind.word()));
            }
            continue;
        };
        let digest = digest(key, &file.topology, *kind, name, &value);
        gathered.digests.insert(origin.key(*kind, name), digest.clone());
        gathered.values.0.insert(digest, value);
    }
    if !missing.is_empty() {
        return Err(Failure::new(
            LocalCode::SecretsMissing,
            format!("{} not there; nothing was sent", if missing.len() == 1 { "a value is" } else { "values are" }),
            "put the files where the topology file names them, and set the variables in the environment or in `.env`",
        )
        .with_details(missing));
    }
    Ok(gathered)
}

/// Where sealed values come from.
pub struct Sealer<'a> {
    /// This operator's context.
    pub context: &'a Context,
    /// The topology.
    pub topology: &'a TopologyId,
    /// The values that are at hand.
    pub values: &'a Values,
    /// Verified slices of earlier revisions, whose sealed values may be taken over.
    pub earlier: Vec<&'a SliceStatement>,
}

impl Sealer<'_> {
    /// Seals what each of `hosts` needs to the key in its binding.
    ///
    /// # Errors
    /// [`LocalCode::SecretsMissing`] with the names of those whose values are not known; [`Code::TooLarge`].
    pub fn seal(
        &self,
        hosts: &BTreeMap<HostId, HostSpec>,
        bindings: &BTreeMap<&HostId, &HostBinding>,
    ) -> Result<BTreeMap<HostId, Sealed>, Failure> {
        let (mut sealed, mut missing) = (BTreeMap::new(), Vec::new());
        let mut looked: Option<Values> = None;
        for (host, spec) in hosts {
            let (Some(docker), Some(binding)) = (&spec.docker, bindings.get(host)) else { continue };
            let mut own = Sealed { to: binding.sealing_key, values: BTreeMap::new() };
            let mut total = 0_usize;
            for (kind, name, object) in docker.sealed().filter(|(.., object)| !object.digest.is_empty()) {
                if own.values.contains_key(&object.digest) {
                    continue;
                }
                let value = match self.value(binding, &object.digest)? {
                    Some(value) => Some(value),
                    None => {
                        let more = match &looked {
                            Some(more) => more,
                            None => looked.insert(self.look_again(hosts)?),
                        };
                        more.0.get(&object.digest).map(|value| seal_to(&binding.sealing_key, value)).transpose()?
                    }
                };
                let Some(value) = value else {
                    missing.push(format!("{} `{name}` of host `{}`{}", kind.word(), binding.name, from(object)));
                    continue;
                };
                total = total.saturating_add(value.len().div_ceil(4).saturating_mul(3));
                own.values.insert(object.digest.clone(), value);
            }
            if total > SEALED_HOST_MAX {
                let message =
                    format!("the secrets and configs of host `{}` are larger than {} KiB together", binding.name, SEALED_HOST_MAX / 1024);
                return Err(
                    Failure::from(Fault::new(Code::TooLarge, message)).with_remedy("large content belongs into an image or a volume")
                );
            }
            if !own.is_empty() {
                sealed.insert(host.clone(), own);
            }
        }
        if missing.is_empty() { Ok(sealed) } else { Err(self.lacking(missing)) }
    }

    /// The value of that digest, sealed to the host of `binding`.
    fn value(&self, binding: &HostBinding, digest: &str) -> Result<Option<String>, Failure> {
        if let Some(value) = self.values.0.get(digest) {
            return seal_to(&binding.sealing_key, value).map(Some);
        }
        let own = |slice: &&&SliceStatement| slice.host_id == binding.host_id && slice.sealed.to == binding.sealing_key;
        Ok(self.earlier.iter().filter(own).find_map(|slice| slice.sealed.values.get(digest)).cloned())
    }

    /// The values that are where the topology was last pushed from on this machine, and are the ones that were signed.
    ///
    /// # Errors
    /// [`Code::TooLarge`] when they are too many to be held.
    fn look_again(&self, hosts: &BTreeMap<HostId, HostSpec>) -> Result<Values, Failure> {
        let mut values = Values::default();
        let Ok(Some(place)) = self.context.place(self.topology) else { return Ok(values) };
        let Ok(key) = self.context.digest_key() else { return Ok(values) };
        let environment = |name: &str| std::env::var_os(name);
        let machine = Machine { folder: &place.folder, env_files: &place.env_files, environment: &environment, named: Named::default() };
        let mut reader = Reader::new(&machine);
        for (kind, name, object) in hosts.values().filter_map(|spec| spec.docker.as_ref()).flat_map(DockerSpec::sealed) {
            let Some(origin) = object.origin.as_ref().filter(|_| !values.0.contains_key(&object.digest)) else { continue };
            // One that cannot be read is missing, as one that is not there.
            let Some(value) = reader.value_if_any(origin)? else { continue };
            if digest(&key, self.topology, kind, name, &value) == object.digest {
                values.0.insert(object.digest.clone(), value);
            }
        }
        Ok(values)
    }

    fn lacking(&self, mut missing: Vec<String>) -> Failure {
        let count = missing.len();
        missing.truncate(NAMES_SHOWN);
        if count > missing.len() {
            missing.push(format!("… and {} more", count - missing.len()));
        }
        Failure::new(
            LocalCode::SecretsMissing,
            format!(
                "{} of `{}` not known here with the content that was signed",
                if count == 1 { "a value is" } else { "values are" },
                self.topology
            ),
            "push the topology from where its secrets are: `moorctl push -f FILE`",
        )
        .with_details(missing)
    }
}

/// Where the value of `object` comes from, if that is known.
fn from(object: &SealedSpec) -> String {
    object.origin.as_ref().map(|origin| format!(": {origin}")).unwrap_or_default()
}

/// `value` in age's format, in base64, for the host that has the sealing key `key`.
///
/// # Errors
/// A key that is none.
pub fn seal_to(key: &[u8; 32], value: &[u8]) -> Result<String, Failure> {
    let bad = |why: String| Failure::local(format!("a value cannot be sealed: {why}"));
    let name = Hrp::parse(RECIPIENT).map_err(|e| bad(e.to_string()))?;
    let text = bech32::encode::<Bech32>(name, key).map_err(|e| bad(e.to_string()))?;
    let recipient: Recipient = text.parse().map_err(|e: &str| bad(e.to_owned()))?;
    let sealed = age::encrypt(&recipient, value).map_err(|e| bad(e.to_string()))?;
    Ok(STANDARD.encode(sealed))
}

impl Source {
    /// Reads the values of its secrets and configs, if it is a file of this machine: from then on it says by their digests which are
    /// meant. What was signed says so already.
    ///
    /// # Errors
    /// As [`gather`] and [`Source::slice`].
    pub fn read_secrets(&mut self, context: &Context, bound: &[BoundHost]) -> Result<(), Failure> {
        let Some(place) = self.place.clone().filter(|_| self.file.has_sealed()) else { return Ok(()) };
        let specs = self.file.slice(bound).map_err(|problems| self.bad(&problems))?.hosts;
        let environment = |name: &str| std::env::var_os(name);
        let machine = Machine { folder: &place.folder, env_files: &place.env_files, environment: &environment, named: self.named.clone() };
        let Gathered { digests, values } = gather(&machine, &*context.digest_key()?, &self.file, &specs)?;
        (self.inputs.digests, self.values) = (digests, values);
        Ok(())
    }

    /// Notes where its secrets are, for revisions that are made without it. A file of variables that is a pipe has nothing for them.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn note_place(&self, context: &Context) -> Result<(), Failure> {
        let Some(place) = self.place.as_ref().filter(|_| !self.inputs.digests.is_empty()) else { return Ok(()) };
        let stays = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|found| found.is_file());
        let env_files = place.env_files.iter().filter(stays).cloned().collect();
        context.note_place(&self.file.topology, &Place { env_files, ..place.clone() })
    }
}

impl Place {
    /// The place of a topology file in `folder`.
    ///
    /// # Errors
    /// When the folder that we are in cannot be told.
    pub fn of(folder: &Path, env_files: &[PathBuf]) -> Result<Self, Failure> {
        let absolute = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            std::path::absolute(path).map_err(|e| Failure::file("find", path, &e))
        };
        let env_files = env_files.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?;
        Ok(Self { folder: absolute(folder)?, env_files })
    }
}

#[cfg(test)]
mod tests;
