//! The clouds that a hub is configured for.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::digitalocean::Unusable;
use super::{CloudConfig, CloudError, DigitalOcean, Provider};

/// Providers by their names. Clones share them.
#[derive(Clone, Default)]
pub struct Clouds(BTreeMap<&'static str, Arc<dyn Provider>>);

impl Clouds {
    /// As the configuration says. Opens nothing yet.
    ///
    /// # Errors
    /// [`Unusable`] when an authorities' file cannot be used.
    pub fn new(digitalocean: Option<&CloudConfig>) -> Result<Self, Unusable> {
        let mut clouds = Self::default();
        if let Some(config) = digitalocean {
            clouds.add(Arc::new(DigitalOcean::new(config)?));
        }
        Ok(clouds)
    }

    /// One more, under its own name.
    pub fn add(&mut self, provider: Arc<dyn Provider>) {
        self.0.insert(provider.name(), provider);
    }

    /// The one of that name.
    ///
    /// # Errors
    /// [`CloudError::Unconfigured`].
    pub fn get(&self, name: &str) -> Result<Arc<dyn Provider>, CloudError> {
        let lacks = || CloudError::Unconfigured {
            message: format!("this hub has no cloud `{}`: write its section [cloud.NAME] in hub.toml", moorline_common::fault::cut(name)),
        };
        self.0.get(name).cloned().ok_or_else(lacks)
    }

    /// Every one.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Provider>> {
        self.0.values()
    }
}
