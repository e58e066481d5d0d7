//! What objects are, though their labels say otherwise or nothing: the ledger keeps it, the driver goes by it.

use std::sync::Arc;

use moorline_common::observe::Owner;
use moorline_common::plan::Action;

use super::record::retryable;
use crate::db::{DbError, blocking};
use crate::driver::{DriverError, Known};
use crate::ledger::Ledger;

/// The spec of a container that is being changed: no slice has it, so whatever is wanted next is compared in full.
const CHANGING: &str = "changing";

/// Keeps ledger and driver in step.
#[derive(Clone)]
pub(crate) struct Notes {
    ledger: Ledger,
    known: Arc<Known>,
}

impl Notes {
    pub fn new(ledger: Ledger, known: Arc<Known>) -> Self {
        Self { ledger, known }
    }

    /// Tells the driver what the ledger knows.
    pub async fn load(&self) -> Result<(), DriverError> {
        let ledger = self.ledger.clone();
        let notes = blocking(move || ledger.notes()).await.map_err(|e| unusable(&e))?;
        self.known.load(notes);
        Ok(())
    }

    /// Before the first effect of `action`: what is changed in several calls is not what it was from now on.
    pub async fn begin(&self, action: &Action) -> Result<(), DriverError> {
        match action.note() {
            Some((key, owner)) if matches!(action, Action::UpdateContainer { .. }) => self.put(key, CHANGING, owner).await,
            Some(_) | None => Ok(()),
        }
    }

    /// After its last one.
    pub async fn end(&self, action: &Action) -> Result<(), DriverError> {
        let Some((key, owner)) = action.note() else { return Ok(()) };
        crate::crash::point("reconcile.note.before");
        let spec = owner.spec.clone();
        self.put(key, &spec, owner).await?;
        crate::crash::point("reconcile.note.after");
        Ok(())
    }

    async fn put(&self, key: String, spec: &str, owner: Owner) -> Result<(), DriverError> {
        let owner = self.known.heir(&key, Owner { spec: spec.to_owned(), ..owner });
        let (ledger, name, copy) = (self.ledger.clone(), key.clone(), owner.clone());
        blocking(move || ledger.note(&name, &copy)).await.map_err(|e| unusable(&e))?;
        self.known.note(key, owner);
        Ok(())
    }

    /// Forgets what is not `there` any more.
    pub async fn forget_unless(&self, there: impl Fn(&String) -> bool) {
        let gone: Vec<String> = self.known.keys().into_iter().filter(|key| !there(key)).collect();
        if gone.is_empty() {
            return;
        }
        self.known.forget(&gone);
        let ledger = self.ledger.clone();
        if let Err(error) = blocking(move || ledger.forget(&gone)).await {
            // What is gone never comes back: the engine gives no id twice. It is forgotten after the next start.
            tracing::error!(%error, "the ledger failed");
        }
    }
}

fn unusable(error: &DbError) -> DriverError {
    retryable(format!("the ledger does not take or give what is known beside labels: {error}"))
}
