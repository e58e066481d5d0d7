//! The numbers of guests.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::ResourceId;

/// A guest's number in its cluster. Source: the format `pve-vmid` of the API, and its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Vmid(u32);

/// A text that is no guest's number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no guest's number: those go from {least} to {most}", least = Vmid::LEAST, most = Vmid::MOST)]
pub struct NoVmid(String);

impl Vmid {
    /// The least one: those below are Proxmox VE's own.
    pub const LEAST: u32 = 100;
    /// The greatest one.
    pub const MOST: u32 = 999_999_999;

    /// The number behind its text, which has no leading zeros.
    ///
    /// # Errors
    /// [`NoVmid`].
    pub fn parse(text: &str) -> Result<Self, NoVmid> {
        let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
        let number = text.parse().ok().filter(|n| is_plain && (Self::LEAST..=Self::MOST).contains(n));
        number.map(Self).ok_or_else(|| NoVmid(text.chars().take(40).collect()))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The guest as a resource.
    #[must_use]
    pub fn resource(self) -> ResourceId {
        // Digits behind a fixed prefix always are a valid id.
        #[allow(clippy::expect_used)]
        ResourceId::parse(format!("{RESOURCE}/{self}")).expect("a guest's number is a valid name")
    }

    /// The guest that `resource` is; `None` for any other resource.
    #[must_use]
    pub fn of(resource: &ResourceId) -> Option<Self> {
        (resource.kind() == RESOURCE).then(|| Self::parse(resource.name()).ok()).flatten()
    }
}

/// The kind of guests among resources.
pub const RESOURCE: &str = "pve/guest";

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for Vmid {
    type Error = NoVmid;

    fn try_from(text: String) -> Result<Self, NoVmid> {
        Self::parse(&text)
    }
}

impl From<Vmid> for String {
    fn from(vmid: Vmid) -> Self {
        vmid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_number_is_one_text_and_one_resource() {
        let vmid = Vmid::parse("101").unwrap();
        assert_eq!((vmid.get(), vmid.to_string().as_str(), vmid.resource().as_str()), (101, "101", "pve/guest/101"));
        assert_eq!(Vmid::of(&vmid.resource()), Some(vmid));
        assert_eq!(Vmid::of(&ResourceId::host()), None);
        for bad in ["", "99", "0101", "1000000000", "+101", "1o1", "4294967396"] {
            assert!(Vmid::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::to_string(&std::collections::BTreeMap::from([(vmid, 1)])).unwrap(), r#"{"101":1}"#);
    }
}
