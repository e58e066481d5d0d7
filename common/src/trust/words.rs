//! A trust root in words for people.

use std::collections::BTreeSet;

use super::{Role, TrustRoot};
use crate::id::{KeyId, UnixSeconds};

impl TrustRoot {
    /// What it says, line by line; `when` writes a time.
    #[must_use]
    pub fn describe(&self, when: impl Fn(UnixSeconds) -> String) -> Vec<String> {
        let mut lines = vec![
            format!("trust root version {} of cluster {}", self.version, self.cluster),
            format!("  signed   {}", when(self.issued_at)),
            format!("  expires  {}", when(self.expires)),
        ];
        for (id, key) in &self.keys {
            let gone = if self.revoked.contains(id) { "  REVOKED" } else { "" };
            lines.push(format!("  key      {} {}{gone}", short(id), key.name));
        }
        lines.extend(self.revoked.iter().filter(|id| !self.keys.contains_key(*id)).map(|id| format!("  key      {} - REVOKED", short(id))));
        lines.extend(self.roles.iter().map(|(name, role)| format!("  role     {name}: {}", self.role_words(role))));
        lines.extend(self.class_thresholds.iter().map(|(class, n)| format!("  class    {class}: operations need {n} keys")));
        lines
    }

    /// The name of a key, or the beginning of its id when the root does not know it.
    #[must_use]
    pub fn name_of(&self, id: &KeyId) -> String {
        self.keys.get(id).map_or_else(|| short(id), |key| key.name.clone())
    }

    /// What changes from `self` to `next`, line by line.
    #[must_use]
    pub fn changes_to(&self, next: &TrustRoot, when: impl Fn(UnixSeconds) -> String) -> Vec<String> {
        let mut lines = Vec::new();
        if self.expires != next.expires {
            lines.push(format!("expires {} (was {})", when(next.expires), when(self.expires)));
        }
        for (id, key) in &next.keys {
            match self.keys.get(id) {
                None => lines.push(format!("+ key {} {}", short(id), key.name)),
                Some(old) if old != key => lines.push(format!("~ key {} is now called {} (was {})", short(id), key.name, old.name)),
                Some(_) => {}
            }
        }
        lines.extend(
            self.keys.iter().filter(|(id, _)| !next.keys.contains_key(*id)).map(|(id, k)| format!("- key {} {}", short(id), k.name)),
        );
        lines.extend(next.revoked.difference(&self.revoked).map(|id| format!("- key {} {} is REVOKED", short(id), next.name_of(id))));
        lines.extend(
            self.revoked.difference(&next.revoked).map(|id| format!("+ key {} {} is no longer revoked", short(id), next.name_of(id))),
        );
        let names: BTreeSet<&String> = self.roles.keys().chain(next.roles.keys()).collect();
        for name in names {
            match (self.roles.get(name), next.roles.get(name)) {
                (Some(old), Some(new)) if old == new => {}
                (None, None) => {}
                (None, Some(new)) => lines.push(format!("+ role {name}: {}", next.role_words(new))),
                (Some(_), None) => lines.push(format!("- role {name}")),
                (Some(old), Some(new)) => {
                    lines.push(format!("~ role {name}: {} (was {})", next.role_words(new), self.role_words(old)));
                }
            }
        }
        if self.class_thresholds != next.class_thresholds {
            let words = |root: &TrustRoot| match root.class_thresholds.is_empty() {
                true => "one key each".to_owned(),
                false => root.class_thresholds.iter().map(|(c, n)| format!("{c}: {n}")).collect::<Vec<_>>().join(", "),
            };
            lines.push(format!("~ keys per class of operation: {} (was {})", words(next), words(self)));
        }
        if self.hub_ca_spki != next.hub_ca_spki {
            lines.push(format!("~ hub CAs: {}", next.hub_ca_spki.iter().map(|s| s.get(..12).unwrap_or(s)).collect::<Vec<_>>().join(", ")));
        }
        lines
    }

    fn role_words(&self, role: &Role) -> String {
        let keys: Vec<String> = role.keys.iter().map(|id| self.name_of(id)).collect();
        let kinds: Vec<&str> = role.kinds.iter().map(String::as_str).collect();
        format!(
            "{} of [{}] sign {} on {}, operations up to {}",
            role.threshold,
            keys.join(", "),
            kinds.join(", "),
            role.hosts.join(", "),
            role.max_class
        )
    }
}

fn short(id: &KeyId) -> String {
    id.as_str().get(..12).unwrap_or_default().to_owned()
}
