//! What a call asks to change of a config.

use serde::{Deserialize, Serialize};

use crate::world::guest::Config;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Keys and their new values, in the form in which they are kept.
    pub set: Config,
    /// Keys to delete.
    pub delete: Vec<String>,
    /// Keys whose pending change is to be forgotten.
    pub revert: Vec<String>,
    /// Whether the volumes of deleted keys are removed.
    pub force: bool,
    /// The digest that the config has to have.
    pub digest: Option<String>,
    /// Whether a lock does not count.
    pub skiplock: bool,
    /// Who asks.
    pub who: String,
}
