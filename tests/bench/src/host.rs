//! A host that knows its operator, without a hub: keys, ledger and journal in a folder, trust root and binding accepted.
//! What runs on it is its benchmark's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, anyhow};
use moorline_agent::config::{Policy, SECRETS_DIR_DEFAULT};
use moorline_agent::db::Db;
use moorline_agent::driver::Ownership;
use moorline_agent::identity::StateDir;
use moorline_agent::intake::judge::Own;
use moorline_agent::intake::policy::Guarded;
use moorline_agent::intake::{self, Intake};
use moorline_agent::journal::file::FileJournal;
use moorline_agent::ledger::Ledger;
use moorline_agent::trust::TrustStore;
use moorline_agent::vault::Vault;
use moorline_common::id::{ClusterId, HostName, UnixSeconds};
use moorline_common::sign::{PrivateKey, Signed};
use moorline_common::statement::HostBinding;
use moorline_common::trust::TrustRoot;

use crate::apply::now;

/// See the module.
pub struct Host {
    /// Signs slices and orders.
    pub operator: PrivateKey,
    /// What the host trusts.
    pub root: TrustRoot,
    /// Who it is.
    pub binding: HostBinding,
    /// The door for signed statements.
    pub intake: Intake,
    /// What was accepted and applied.
    pub ledger: Ledger,
    /// Its journal.
    pub journal: FileJournal,
}

impl Host {
    /// A host of `cluster` with its state in `dir`, whose engine answers at `engine_sockets`.
    ///
    /// # Errors
    /// The disk's.
    pub async fn new(dir: &Path, cluster: &str, engine_sockets: Vec<PathBuf>) -> Result<Self> {
        let state_dir = StateDir(dir.to_owned());
        state_dir.ensure()?;
        let keys = state_dir.ensure_keys()?;
        let cluster = ClusterId::parse(cluster)?;
        let (operator, root_key) = (PrivateKey::from_seed(&[1; 32]), PrivateKey::from_seed(&[2; 32]));
        let (at, forever) = (UnixSeconds(now().as_secs()), UnixSeconds(u64::from(u32::MAX)));
        let root = TrustRoot::first(cluster.clone(), &[("ann".to_owned(), operator.public())], &root_key.public(), at, forever);
        let binding = HostBinding {
            cluster,
            host_id: keys.host_id(),
            host_key: keys.host_key.public(),
            sealing_key: keys.sealing_key(),
            host_epoch: keys.epoch.clone(),
            name: HostName::parse("bench")?,
            labels: BTreeMap::new(),
            generation_floors: BTreeMap::new(),
            serial: 1,
            issued_at: at,
        };
        let (signed, bound) = (Signed::seal(&root, &[&root_key])?, Signed::seal(&binding, &[&operator])?);
        let db = Db::open(dir)?;
        let ledger = Ledger::new(db.clone());
        let mut intake = Intake::open(intake::Parts {
            ledger: ledger.clone(),
            trust_store: TrustStore::new(db),
            root_pin: TrustRoot::pin(signed.envelope()),
            own: Own::of(&keys),
            policy: Policy::default(),
            guarded: Guarded { engine_sockets, ..Guarded::default() },
            vault: Arc::new(Vault::new(Path::new(SECRETS_DIR_DEFAULT), dir, &keys)?),
            quarantine: None,
        })?;
        intake.root(signed.envelope().to_json()).await.map_err(|r| anyhow!("{}", r.fault))?;
        intake.binding(bound.envelope().to_json()).await.map_err(|r| anyhow!("{}", r.fault))?;
        let journal = FileJournal::open(&dir.join("journal"), keys.epoch)?.journal;
        Ok(Self { operator, root, binding, intake, ledger, journal })
    }

    /// By what its driver knows its objects.
    #[must_use]
    pub fn ownership(&self) -> Ownership {
        Ownership { cluster: self.binding.cluster.clone(), host_id: self.binding.host_id.clone(), known: Default::default() }
    }
}
