//! Guests that were destroyed and are kept for a while: whose time is over.

use std::collections::BTreeMap;

use moorline_common::observe::{EngineState, Observed};
use moorline_common::plan::guest::is_buried;
use moorline_common::pve::Vmid;

use crate::clock::Clock;
use crate::db::{DbError, blocking};
use crate::ledger::Ledger;

/// See the module.
pub(super) struct Graves(Ledger);

impl Graves {
    pub fn new(ledger: Ledger) -> Self {
        Self(ledger)
    }

    /// Those whose time is over, with what of their incarnations stays. Of those that `observed` shows as kept by somebody, or whose number
    /// another guest has by now, nothing is known any more.
    pub async fn due(&self, observed: &Observed) -> BTreeMap<Vmid, String> {
        let Some(pve) = observed.pve.as_ref().filter(|pve| pve.engine == EngineState::Ready) else { return BTreeMap::new() };
        let (ledger, boot) = (self.0.clone(), Clock.boot());
        let read = blocking(move || Ok::<_, DbError>((ledger.buried()?, ledger.time_floor()?.now(&boot)))).await;
        let (buried, now) = match read {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(%error, "the ledger does not say which guests were destroyed");
                return BTreeMap::new();
            }
        };
        let mut due = BTreeMap::new();
        for one in buried {
            match pve.guests.get(&one.vmid) {
                // Who it is may be hidden for now.
                Some(live) if live.config.is_some() && live.lasting().is_some() && !is_buried(live, &one.lasting) => {
                    self.forget(one.vmid, "it is kept after all").await
                }
                // A list without it is no proof, but nothing is lost by forgetting it.
                None if one.purge_at <= now => self.forget(one.vmid, "it is gone").await,
                Some(_) if one.purge_at <= now => drop(due.insert(one.vmid, one.lasting)),
                Some(_) | None => {}
            }
        }
        due
    }

    async fn forget(&self, vmid: Vmid, why: &str) {
        tracing::info!(%vmid, why, "a guest that was destroyed");
        let ledger = self.0.clone();
        if let Err(error) = blocking(move || ledger.unbury(vmid)).await {
            tracing::error!(%error, "the ledger failed");
        }
    }
}
