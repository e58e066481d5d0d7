//! The names and tags by which what a saga made is found again.

use super::super::budgets::{NAME_MAX, TAG_MAX};

pub use moorline_common::cloud::{MANAGED, SAGA};

/// A step of a saga, as it stands in names and tags: the saga's id is never shortened, as its beginning is only the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// The saga's id.
    pub saga_id: String,
    /// The step's place in the plan.
    pub step: usize,
}

impl Mark {
    /// The tag on everything that the saga made.
    #[must_use]
    pub fn saga_tag(&self) -> String {
        format!("{SAGA}{}", self.saga_id)
    }

    /// The tag on what this step made. It is on nothing else.
    #[must_use]
    pub fn step_tag(&self) -> String {
        format!("{SAGA}{}:{}", self.saga_id, self.step)
    }

    /// A name that nothing else has: `PREFIX-SAGA-STEP`.
    #[must_use]
    pub fn name(&self, prefix: &str) -> String {
        format!("{prefix}-{}-{}", self.saga_id, self.step)
    }

    /// Whether a name is one that only this saga gives.
    #[must_use]
    pub fn is_in(&self, name: &str) -> bool {
        !self.saga_id.is_empty() && name.contains(&self.saga_id)
    }
}

/// Whether something may be tagged so.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.len() <= TAG_MAX && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b":-_".contains(&b))
}

/// Whether a droplet may be called so.
#[must_use]
pub fn is_droplet_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let last = name.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric());
    first && last && name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_tags_bear_the_whole_id_and_the_step() {
        let mark = Mark { saga_id: "0199d0aa-0000-7000-8000-00000000000a".to_owned(), step: 3 };
        assert_eq!(mark.name("before"), "before-0199d0aa-0000-7000-8000-00000000000a-3");
        assert!(is_tag(&mark.step_tag()) && is_tag(&mark.saga_tag()) && is_tag(MANAGED) && is_droplet_name(&mark.name("web")));
        assert!(mark.is_in(&mark.name("x")) && !mark.is_in("web-1"));
    }
}
