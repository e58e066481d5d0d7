//! The clouds that a hub is configured for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::digitalocean::Unusable;
use super::{CloudConfig, CloudError, DigitalOcean, Provider};

/// Providers by their names. Clones share them.
#[derive(Clone, Default)]
pub struct Clouds(BTreeMap<&'static str, Cloud>);

#[derive(Clone)]
struct Cloud {
    provider: Arc<dyn Provider>,
    /// Between two syncs of the inventory; nothing for none but those that are asked for.
    sync_every: Option<Duration>,
}

impl Clouds {
    /// As the configuration says. Opens nothing yet.
    ///
    /// # Errors
    /// [`Unusable`] when an authorities' file cannot be used.
    pub fn new(digitalocean: Option<&CloudConfig>) -> Result<Self, Unusable> {
        let mut clouds = Self::default();
        if let Some(config) = digitalocean {
            clouds.add_synced(Arc::new(DigitalOcean::new(config)?), Duration::from_secs(config.sync_every_s));
        }
        Ok(clouds)
    }

    /// One more, under its own name.
    pub fn add(&mut self, provider: Arc<dyn Provider>) {
        self.0.insert(provider.name(), Cloud { provider, sync_every: None });
    }

    /// One more, whose inventory is synced so often.
    pub fn add_synced(&mut self, provider: Arc<dyn Provider>, every: Duration) {
        self.0.insert(provider.name(), Cloud { provider, sync_every: Some(every) });
    }

    /// The one of that name.
    ///
    /// # Errors
    /// [`CloudError::Unconfigured`].
    pub fn get(&self, name: &str) -> Result<Arc<dyn Provider>, CloudError> {
        let lacks = || CloudError::Unconfigured {
            message: format!("this hub has no cloud `{}`: write its section [cloud.NAME] in hub.toml", moorline_common::fault::cut(name)),
        };
        self.0.get(name).map(|cloud| cloud.provider.clone()).ok_or_else(lacks)
    }

    /// Every one.
    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Provider>> {
        self.0.values().map(|cloud| &cloud.provider)
    }

    /// Those whose inventory is synced by itself, and how often.
    pub fn synced(&self) -> impl Iterator<Item = (&Arc<dyn Provider>, Duration)> {
        self.0.values().filter_map(|cloud| Some((&cloud.provider, cloud.sync_every?)))
    }
}
