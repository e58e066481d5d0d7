//! Property strings: `key=value` pairs joined by commas, as most of Proxmox VE's config values are.
//!
//! Source: `PVE::JSONSchema::parse_property_string` and `print_property_string`.

use std::collections::BTreeMap;

use super::machine;
use super::scalar::{self, Wrong};

/// What a format knows of one key.
#[derive(Debug, Clone, Copy)]
pub enum Field {
    /// Yes or no; what it is when it is left out.
    Bool(Option<bool>),
    /// A whole number from and to; what it is when it is left out.
    Int(i64, i64, Option<i64>),
    /// A number with a fraction, not below 0.
    Number,
    /// One of these words; what it is when it is left out.
    Word(&'static [&'static str], Option<&'static str>),
    /// Any text; what it is when it is left out.
    Text(Option<&'static str>),
    /// A size such as `8G`, in bytes.
    Size,
    /// The same of what a host makes as large as it needs: a size that an operator writes means nothing.
    OwnSize,
    /// An address of a network card.
    Mac,
    /// A list with `;` between, in the order that it has.
    List,
    /// What has a form of its own, which this brings into its normal form.
    Checked(fn(&str) -> Result<String, Wrong>),
    /// A type of machine: one without a version is any version of its family, which hosts choose.
    Machine,
    /// Another name for this key.
    Alias(&'static str),
    /// A word of the first key, with the value of the second: `virtio=MAC` is `model=virtio,macaddr=MAC`.
    WordWith(&'static str, &'static str),
}

/// What a property string may say.
#[derive(Debug)]
pub struct Format {
    /// The key of a value that stands alone.
    pub bare: Option<&'static str>,
    /// Keys without which it says nothing.
    pub required: &'static [&'static str],
    /// Each key.
    pub keys: &'static [(&'static str, Field)],
}

/// The pairs of a property string, each in its normal form.
pub type Props = BTreeMap<String, String>;

/// Whose word a property string is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// An operator's: what a format does not know is refused.
    Ours,
    /// A host's: it may be newer than the formats here, and what they do not know counts as it stands.
    Theirs,
}

impl Format {
    fn field(&self, key: &str) -> Option<Field> {
        self.keys.iter().find(|(name, _)| *name == key).map(|(_, field)| *field)
    }

    /// The pairs that `text` says, without those that say what holds anyway.
    ///
    /// # Errors
    /// [`Wrong`], with what is wrong.
    pub fn read(&self, text: &str, whose: Whose) -> Result<Props, Wrong> {
        let mut props = Props::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            match part.split_once('=') {
                Some((key, value)) => self.pair(&mut props, key.trim(), value, whose)?,
                None => {
                    let key = self.bare.ok_or_else(|| Wrong::new(format!("`{part}` is no `key=value`")))?;
                    self.put(&mut props, key, part, whose)?;
                }
            }
        }
        if whose == Whose::Ours
            && let Some(missing) = self.required.iter().find(|key| !props.contains_key(**key))
        {
            return Err(Wrong::new(format!("`{missing}` is missing")));
        }
        props.retain(|key, value| self.default(key).is_none_or(|default| default != *value));
        Ok(props)
    }

    /// Puts a pair in by the key that is meant.
    fn pair(&self, props: &mut Props, key: &str, value: &str, whose: Whose) -> Result<(), Wrong> {
        match self.field(key) {
            Some(Field::Alias(name)) => self.put(props, name, value, whose),
            Some(Field::WordWith(first, second)) => {
                self.put(props, first, key, whose)?;
                self.put(props, second, value, whose)
            }
            _ => self.put(props, key, value, whose),
        }
    }

    fn put(&self, props: &mut Props, key: &str, value: &str, whose: Whose) -> Result<(), Wrong> {
        let read = match self.field(key) {
            Some(field) => field.read(value).map_err(|wrong| wrong.within(key)),
            None if whose == Whose::Theirs => Ok(value.trim().to_owned()),
            None => Err(Wrong::new(format!("`{key}` is no key here: it is one of {}", self.names()))),
        };
        let value = match (read, whose) {
            (Ok(value), _) => value,
            (Err(wrong), Whose::Ours) => return Err(wrong),
            (Err(_), Whose::Theirs) => value.trim().to_owned(),
        };
        match props.insert(key.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(Wrong::new(format!("`{key}` stands there twice"))),
        }
    }

    /// Whether it knows a key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.field(key).is_some()
    }

    /// Whether a host makes what it says as large as it needs.
    pub(super) fn has_own_size(&self) -> bool {
        matches!(self.field("size"), Some(Field::OwnSize))
    }

    /// Its keys, for messages.
    #[must_use]
    pub fn names(&self) -> String {
        let names = self.keys.iter().filter(|(_, field)| !matches!(field, Field::Alias(_) | Field::WordWith(..)));
        names.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    /// What a key is when it is left out, in its normal form.
    fn default(&self, key: &str) -> Option<String> {
        match self.field(key)? {
            Field::Bool(default) => default.map(|yes| scalar::flag(yes).to_owned()),
            Field::Int(_, _, default) => default.map(|n| n.to_string()),
            Field::Word(_, default) | Field::Text(default) => default.map(str::to_owned),
            Field::Number
            | Field::Size
            | Field::OwnSize
            | Field::Mac
            | Field::List
            | Field::Checked(_)
            | Field::Machine
            | Field::Alias(_)
            | Field::WordWith(..) => None,
        }
    }

    /// Whether a host that has `live` has what is wanted, but for `but`, which counts only where it is wanted.
    #[must_use]
    pub fn is_met(&self, wanted: &Props, live: &Props, but: Option<&str>) -> bool {
        let is_left = |key: &str| Some(key) == but && !wanted.contains_key(key);
        wanted.keys().chain(live.keys()).filter(|key| !is_left(key)).all(|key| self.covers(key, wanted.get(key), live.get(key)))
    }

    fn covers(&self, key: &str, wanted: Option<&String>, live: Option<&String>) -> bool {
        match self.field(key) {
            Some(Field::Machine) => machine::covers(wanted.map(String::as_str), live.map(String::as_str)),
            _ => wanted == live,
        }
    }

    /// What is wanted, with what a host that has `live` chose where it was left to it.
    pub(super) fn chosen(&self, wanted: &Props, live: &Props) -> Props {
        let mut props = wanted.clone();
        for (key, has) in live {
            if matches!(self.field(key), Some(Field::Machine)) && self.covers(key, wanted.get(key), Some(has)) {
                props.insert(key.clone(), has.clone());
            }
        }
        props
    }

    /// `props` as a host takes them: the bare value first, sizes with their units, and what it needs also where that holds anyway.
    #[must_use]
    pub fn write(&self, props: &Props) -> String {
        let missing = self.required.iter().filter(|key| !props.contains_key(**key));
        let needed = missing.filter_map(|key| Some(((*key).to_owned(), self.default(key)?)));
        let props: Props = props.clone().into_iter().chain(needed).collect();
        let shown = |key: &str, value: &str| match self.field(key) {
            Some(Field::Size | Field::OwnSize) => value.parse().map_or_else(|_| value.to_owned(), scalar::size_text),
            _ => value.to_owned(),
        };
        let bare = self.bare.and_then(|key| Some(shown(key, props.get(key)?)));
        let rest = props.iter().filter(|(key, _)| Some(key.as_str()) != self.bare);
        bare.into_iter().chain(rest.map(|(key, value)| format!("{key}={}", shown(key, value)))).collect::<Vec<_>>().join(",")
    }
}

impl Field {
    /// A value in its normal form.
    fn read(self, text: &str) -> Result<String, Wrong> {
        let text = text.trim();
        match self {
            Field::Bool(_) => scalar::boolean(text).map(|yes| scalar::flag(yes).to_owned()),
            Field::Int(from, to, _) => scalar::integer(text, from, to).map(|n| n.to_string()),
            Field::Number => scalar::number(text),
            Field::Word(words, _) => scalar::word(text, words),
            Field::Text(_) if text.is_empty() => Err(Wrong::new("it is empty")),
            Field::Text(_) => Ok(text.to_owned()),
            Field::Size | Field::OwnSize => scalar::size(text).map(|bytes| bytes.to_string()),
            Field::Mac => scalar::mac(text),
            Field::List => Ok(text.split(';').map(str::trim).collect::<Vec<_>>().join(";")),
            Field::Checked(read) => read(text),
            Field::Machine => machine::read(text),
            // Never asked: they are resolved before.
            Field::Alias(_) | Field::WordWith(..) => Ok(text.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: &[&str] = &["virtio", "e1000"];
    const NET: Format = Format {
        bare: Some("model"),
        required: &["model"],
        keys: &[
            ("model", Field::Word(MODELS, None)),
            ("macaddr", Field::Mac),
            ("virtio", Field::WordWith("model", "macaddr")),
            ("e1000", Field::WordWith("model", "macaddr")),
            ("bridge", Field::Text(None)),
            ("firewall", Field::Bool(None)),
            ("mtu", Field::Int(1, 65520, None)),
            ("trunks", Field::List),
        ],
    };
    const DISK: Format = Format {
        bare: Some("file"),
        required: &["file"],
        keys: &[
            ("file", Field::Text(None)),
            ("volume", Field::Alias("file")),
            ("size", Field::Size),
            ("backup", Field::Bool(Some(true))),
            ("cache", Field::Word(&["none", "writeback"], Some("none"))),
        ],
    };

    fn props(pairs: &[(&str, &str)]) -> Props {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_spelling_of_the_same_is_the_same() {
        let same = props(&[("model", "virtio"), ("macaddr", "BC:24:11:00:00:0A"), ("bridge", "vmbr0"), ("firewall", "1")]);
        for text in [
            "virtio=bc:24:11:00:00:0a,bridge=vmbr0,firewall=1",
            "model=virtio,macaddr=BC:24:11:00:00:0A,bridge=vmbr0,firewall=yes",
            "firewall=on,bridge=vmbr0,virtio=BC:24:11:00:00:0A",
            "virtio,macaddr=BC:24:11:00:00:0A,,firewall=true, bridge=vmbr0",
        ] {
            assert_eq!(NET.read(text, Whose::Ours), Ok(same.clone()), "{text}");
        }
        let disk = props(&[("file", "local-lvm:vm-1-disk-0"), ("size", "8589934592")]);
        for text in ["local-lvm:vm-1-disk-0,size=8G", "volume=local-lvm:vm-1-disk-0,size=8192M,backup=1,cache=none"] {
            assert_eq!(DISK.read(text, Whose::Ours), Ok(disk.clone()), "{text}");
        }
        assert_eq!(DISK.write(&disk), "local-lvm:vm-1-disk-0,size=8G");
        assert_eq!(NET.write(&same), "virtio,bridge=vmbr0,firewall=1,macaddr=BC:24:11:00:00:0A");
    }

    #[test]
    fn what_a_host_needs_is_written_also_where_it_holds_anyway() {
        let agent = Format {
            bare: Some("enabled"),
            required: &["enabled"],
            keys: &[("enabled", Field::Bool(Some(false))), ("fstrim_cloned_disks", Field::Bool(Some(false)))],
        };
        let read = agent.read("fstrim_cloned_disks=1,enabled=0", Whose::Ours).unwrap();
        assert_eq!(read, props(&[("fstrim_cloned_disks", "1")]));
        assert_eq!(agent.write(&read), "0,fstrim_cloned_disks=1");
    }

    #[test]
    fn what_an_operator_writes_wrong_is_said_and_what_a_host_says_counts_as_it_stands() {
        for (text, says) in [
            ("virtio,virtio=BC:24:11:00:00:0A", "twice"),
            ("virtio,speed=1", "`speed` is no key here: it is one of model, macaddr, bridge"),
            ("virtio,firewall=maybe", "`firewall`"),
            ("virtio,mtu=70000", "65520"),
            ("fast", "virtio"),
            ("virtio=BC:24:11:00:00", "BC:24:11:00:00"),
            ("bridge=vmbr0", "`model` is missing"),
        ] {
            let wrong = NET.read(text, Whose::Ours).unwrap_err().to_string();
            assert!(wrong.contains(says), "{text}: {wrong}");
        }
        let newer = NET.read("virtio,speed=1,firewall=maybe", Whose::Theirs);
        assert_eq!(newer, Ok(props(&[("model", "virtio"), ("speed", "1"), ("firewall", "maybe")])));
    }
}
