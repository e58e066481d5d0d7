//! Disks of guests: which volume, how large, and with which options.

use super::names;
use super::property::{Format, Props, Whose};
use super::scalar::{self, Wrong};

/// A volume with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What it is.
    pub source: Source,
    /// Its size in bytes, if it is said and means something.
    pub size: Option<u64>,
    /// Everything else.
    pub options: Props,
}

/// What a disk is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing: an empty drive.
    None,
    /// The host's own drive.
    Cdrom,
    /// To be made on this storage.
    New {
        /// Where.
        storage: String,
        /// How large, in bytes.
        bytes: u64,
    },
    /// The drive of cloud-init, on this storage.
    CloudInit {
        /// Where.
        storage: String,
    },
    /// This one.
    Existing {
        /// Where.
        storage: String,
        /// Its name there.
        name: String,
    },
    /// A device or folder of the host.
    Path(String),
}

impl Source {
    fn storage(&self) -> Option<&str> {
        match self {
            Source::New { storage, .. } | Source::CloudInit { storage } | Source::Existing { storage, .. } => Some(storage),
            Source::None | Source::Cdrom | Source::Path(_) => None,
        }
    }

    fn is_cloud_init(&self) -> bool {
        match self {
            Source::CloudInit { .. } => true,
            // `vm-101-cloudinit`, or `101/vm-101-cloudinit.qcow2` on storages of files.
            Source::Existing { name, .. } => {
                let file = name.rsplit('/').next().unwrap_or(name);
                file.starts_with("vm-") && file.split('.').next().is_some_and(|stem| stem.ends_with("-cloudinit"))
            }
            Source::None | Source::Cdrom | Source::New { .. } | Source::Path(_) => false,
        }
    }
}

impl Volume {
    /// What `text` says by `format`.
    ///
    /// # Errors
    /// [`Wrong`], with what is wrong.
    pub fn read(format: &Format, text: &str, whose: Whose) -> Result<Self, Wrong> {
        let mut options = format.read(text, whose)?;
        let named = format.bare.and_then(|key| options.remove(key)).ok_or_else(|| Wrong::new("it names no volume"))?;
        let said = options.remove("size").and_then(|bytes| bytes.parse().ok());
        let source = source(&named, whose)?;
        if matches!(source, Source::None | Source::Cdrom) {
            if !format.has(MEDIA) {
                return Err(Wrong::new(format!("`{named}` is for drives of virtual machines: name a volume")));
            }
            // A host says so by itself. Source: `PVE::QemuServer::cleanup_drive_path`.
            options.entry(MEDIA.to_owned()).or_insert_with(|| CDROM.to_owned());
        }
        let is_disc = options.get(MEDIA).is_some_and(|media| media == CDROM);
        if is_disc && matches!(source, Source::New { .. }) && whose == Whose::Ours {
            return Err(Wrong::new(format!("`{named}` makes a disk, and a disc is one that is there: `storage:iso/name.iso`, or `none`")));
        }
        let allocated = if let Source::New { bytes, .. } = &source { Some(*bytes) } else { None };
        if allocated.is_some() && said.is_some() && whose == Whose::Ours {
            return Err(Wrong::new(format!("`{named}` says its size already: leave `size` out")));
        }
        if whose == Whose::Ours && options.contains_key(IMPORT) {
            match &source {
                Source::New { bytes: 0, .. } => {}
                Source::New { storage, .. } => {
                    return Err(Wrong::new(format!("a disk that is imported is as large as what it is made of: write `{storage}:0`")));
                }
                Source::None | Source::Cdrom | Source::CloudInit { .. } | Source::Existing { .. } | Source::Path(_) => {
                    return Err(Wrong::new(format!("`{IMPORT}` is for a new disk: write `storage:0`")));
                }
            }
        }
        // Whatever is allocated for firmware, the host makes it as large as that is.
        let is_sized = whose == Whose::Theirs || !format.has_own_size();
        Ok(Self { source, size: allocated.or(said).filter(|_| is_sized), options })
    }

    /// Whether a host that has `live` has this one: on the same storage, at least as large (a disk never shrinks), with the same options.
    #[must_use]
    pub fn is_met_by(&self, live: &Volume) -> bool {
        self.is_the_place_of(live) && !self.is_larger_than(live) && self.has_options_of(live)
    }

    /// Whether it is a disc, which holds no data of the guest's: a medium in a drive, an empty drive, or what cloud-init is told by.
    #[must_use]
    pub fn is_disc(&self) -> bool {
        self.source.is_cloud_init() || self.options.get(MEDIA).is_some_and(|media| media == CDROM)
    }

    /// Whether `live` is what this one names, or was made for it.
    fn is_the_place_of(&self, live: &Volume) -> bool {
        if self.is_disc() != live.is_disc() {
            return false;
        }
        match (&self.source, &live.source) {
            (Source::New { storage, .. }, Source::Existing { .. }) => live.source.storage() == Some(storage),
            (Source::CloudInit { storage }, _) => live.source.storage() == Some(storage) && live.source.is_cloud_init(),
            (wanted, has) => wanted == has,
        }
    }

    /// Whether it is to grow.
    #[must_use]
    pub fn is_larger_than(&self, live: &Volume) -> bool {
        match (self.size, live.size) {
            (Some(wanted), Some(has)) => wanted > has && !live.is_disc(),
            _ => false,
        }
    }

    /// Whether its options are those of `live`.
    #[must_use]
    pub fn has_options_of(&self, live: &Volume) -> bool {
        let given = |key: &str| {
            // The host says by itself what cloud-init's drive is, and whose certificates it put into the firmware's variables.
            let is_said = key == CERTIFICATES || (key == MEDIA && live.source.is_cloud_init());
            is_said && !self.options.contains_key(key)
        };
        let wanted = self.options.iter().filter(|(key, _)| !is_for_making(key));
        let has = live.options.iter().filter(|(key, _)| !given(key) && !is_for_making(key));
        wanted.eq(has)
    }

    /// This one, written where `live` is: the volume that is there with the wanted options; of discs the wanted one.
    ///
    /// # Errors
    /// [`Wrong`] when another volume is meant: taking its place would leave data behind.
    pub fn over(&self, live: &Volume) -> Result<Self, Wrong> {
        let is_there = self.is_the_place_of(live);
        if !is_there && self.is_disc() && live.is_disc() {
            return Ok(self.clone());
        }
        if !is_there {
            return Err(Wrong::new("another volume is there: attach the wanted one under a key of its own, and move the data by hand"));
        }
        let mut options = self.options.clone();
        options.retain(|key, _| !is_for_making(key));
        if let Some(has) = live.options.get(CERTIFICATES) {
            options.entry(CERTIFICATES.to_owned()).or_insert_with(|| has.clone());
        }
        Ok(Self { source: live.source.clone(), size: live.size, options })
    }

    /// As a host takes it.
    #[must_use]
    pub fn write(&self, format: &Format) -> String {
        let mut props = self.options.clone();
        let named = match &self.source {
            Source::None => "none".to_owned(),
            Source::Cdrom => "cdrom".to_owned(),
            // In GiB.
            Source::New { storage, bytes } => format!("{storage}:{}", gib(*bytes)),
            Source::CloudInit { storage } => format!("{storage}:cloudinit"),
            Source::Existing { storage, name } => format!("{storage}:{name}"),
            Source::Path(path) => path.clone(),
        };
        if let (Source::Existing { .. }, Some(bytes)) = (&self.source, self.size) {
            props.insert("size".to_owned(), bytes.to_string());
        }
        props.extend(format.bare.map(|key| (key.to_owned(), named)));
        format.write(&props)
    }
}

const MEDIA: &str = "media";
const CDROM: &str = "cdrom";
/// What a new disk is a copy of.
pub(super) const IMPORT: &str = "import-from";

/// What a host notes of the firmware's variables that it made. Source: `PVE::QemuServer::OVMF::create_efidisk`.
const CERTIFICATES: &str = "ms-cert";

/// What says how a volume is made: afterwards its name tells, or nothing does.
fn is_for_making(key: &str) -> bool {
    matches!(key, "format" | IMPORT)
}

/// What a value names.
fn source(named: &str, whose: Whose) -> Result<Source, Wrong> {
    if named == "none" {
        return Ok(Source::None);
    }
    if named == "cdrom" {
        return Ok(Source::Cdrom);
    }
    if named.starts_with('/') {
        if whose == Whose::Ours {
            return Err(Wrong::new(format!("`{named}` is of the host itself: only root there may attach it, and no API token")));
        }
        return Ok(Source::Path(named.to_owned()));
    }
    let wrong = || Wrong::new(format!("`{named}` is no volume: write `storage:8` for a new one of 8 GiB, or `storage:name`"));
    let (storage, name) = named.split_once(':').ok_or_else(wrong)?;
    if names::storage(storage).is_err() || name.is_empty() {
        return Err(wrong());
    }
    let storage = storage.to_owned();
    if name == "cloudinit" {
        return Ok(Source::CloudInit { storage });
    }
    if name.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        let bytes = scalar::size(&format!("{name}G")).map_err(|_| wrong())?;
        return Ok(Source::New { storage, bytes });
    }
    if whose == Whose::Ours && is_a_size(name) {
        return Err(Wrong::new(format!("`{name}` is no size of a new volume: that is in GiB and without a unit, such as `{storage}:8`")));
    }
    Ok(Source::Existing { storage, name: name.to_owned() })
}

/// Whether a volume's name was meant as a size: digits, with a sign or a unit.
fn is_a_size(name: &str) -> bool {
    let digits = name.trim_start_matches(['-', '+']);
    let unit = digits.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').trim().to_ascii_lowercase();
    let is_unit = matches!(unit.trim_end_matches('b').trim_end_matches('i'), "" | "k" | "m" | "g" | "t" | "p");
    digits.starts_with(|c: char| c.is_ascii_digit()) && is_unit
}

/// Bytes in GiB, exactly.
fn gib(bytes: u64) -> String {
    let (whole, rest) = (bytes >> 30, bytes & ((1 << 30) - 1));
    if rest == 0 {
        return whole.to_string();
    }
    // A part of a GiB has at most 30 binary digits, and so as many decimal ones; six are what a size may have.
    let millionths = (u128::from(rest) * 1_000_000).div_ceil(1 << 30);
    format!("{whole}.{millionths:06}").trim_end_matches('0').to_owned()
}
