//! Orders: what their check costs, and how soon one begins on a host that has nothing else to do.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use moorline_agent::driver::Driver as _;
use moorline_agent::driver::sim::SimDriver;
use moorline_agent::journal::file::FileJournal;
use moorline_agent::journal::{Head, Journal as _};
use moorline_agent::lane::Lanes;
use moorline_agent::ops::{Answer, Handle, Ops, Parts};
use moorline_agent::reconcile::{self, Reconciler};
use moorline_common::id::{IdempotencyKey, Nonce, OpId, ResourceId, UnixSeconds};
use moorline_common::op::{OpEntry, OpStatement};
use moorline_common::sign::{PrivateKey, Signed, verify_raw};
use moorline_common::statement::HostBinding;
use moorline_common::trust::TrustRoot;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Bare, median};
use crate::apply::now;
use crate::host;

/// Longer than what follows an operation takes: a look at the simulated engine.
const REST: Duration = Duration::from_millis(5);

/// An operation on a host at rest is over long before.
const PATIENCE: Duration = Duration::from_secs(20);

/// A host with an operator who orders, without a hub.
pub struct Host {
    operator: PrivateKey,
    root: TrustRoot,
    binding: HostBinding,
    ops: Handle,
    journal: FileJournal,
    stop: CancellationToken,
}

impl Host {
    /// A host at rest, with its state in `dir`, on the simulated engine.
    ///
    /// # Errors
    /// The disk's.
    pub async fn start(dir: &Path) -> Result<Self> {
        let host = host::Host::new(dir, "bench", Vec::new()).await?;
        let driver = Arc::new(SimDriver::new(dir, host.ownership()));
        let host::Host { operator, root, binding, intake, ledger, journal } = host;
        let lanes = Lanes::new(driver.parallelism());
        let parts =
            reconcile::Parts { driver: driver.clone(), journal: journal.clone(), ledger, lanes: lanes.clone(), target: intake.target() };
        let (reconciler, handle) = Reconciler::new(parts);
        let (ops, ops_handle) = Ops::new(Parts { driver, journal: journal.clone(), lanes, gate: intake.gate(), reconciler: handle });
        ops.recover().await?;
        ops_handle.records_are_current();
        let stop = CancellationToken::new();
        tokio::spawn(reconciler.run(stop.clone()));
        tokio::spawn(ops.run(stop.clone()));
        Ok(Self { operator, root, binding, ops: ops_handle, journal, stop })
    }

    fn order(&self, kind: &str, resource: &str) -> Result<(OpId, Vec<u8>)> {
        let (op_id, at) = (OpId::parse(Uuid::now_v7().to_string())?, UnixSeconds(now().as_secs()));
        let order = OpStatement {
            cluster: self.root.cluster.clone(),
            idempotency_key: IdempotencyKey::parse(op_id.as_str())?,
            nonce: Nonce::parse(Uuid::now_v7().simple().to_string())?,
            op_id: op_id.clone(),
            host_id: self.binding.host_id.clone(),
            host_epoch: self.binding.host_epoch.clone(),
            resource: ResourceId::parse(resource)?,
            incarnation: None,
            kind: kind.to_owned(),
            params: json!({}),
            precondition: None,
            not_before: at,
            expires_at: at.plus(900),
            root_version: 1,
            reason: "to be measured".to_owned(),
            saga: None,
        };
        Ok((op_id, Signed::seal(&order, &[&self.operator])?.envelope().to_json()))
    }

    /// The median time of one envelope's check (read, signature, statement, scope and class), and a bare signature's over as many bytes.
    ///
    /// # Errors
    /// When an order is refused.
    pub fn check(&self, times: u32) -> Result<(Duration, Duration)> {
        let (_, json) = self.order("stop", "docker/container/bench-1")?;
        let (bytes, key) = (&json, &self.operator);
        let (signature, public) = (key.sign_raw(bytes), key.public());
        let (mut checks, mut signatures) = (Vec::new(), Vec::new());
        for _ in 0..times {
            let begun = Instant::now();
            self.root.verify_op(Signed::from_json(&json)?, &self.binding)?;
            checks.push(begun.elapsed());
            let begun = Instant::now();
            ensure!(verify_raw(&public, bytes, &signature), "a good signature is refused");
            signatures.push(begun.elapsed());
        }
        Ok((median(checks), median(signatures)))
    }

    /// The median time from the arrival of an order until its `started` record is durable, and that of one bare `write` and
    /// `fdatasync` to `bare`, turn by turn: each finds the host and its disk at rest.
    ///
    /// # Errors
    /// When an order is refused.
    pub async fn until_started(&self, bare: &Path, times: usize) -> Result<(Duration, Duration)> {
        let (mut orders, mut flushes) = (Vec::with_capacity(times), Vec::with_capacity(times));
        let mut bare = Bare::create(bare)?;
        for n in 0..times {
            tokio::time::sleep(REST).await;
            flushes.push(bare.flush()?);
            tokio::time::sleep(REST).await;
            let (op_id, json) = self.order("release", &format!("docker/container/bench-{n}"))?;
            let mut heads = self.journal.heads();
            let begun = Instant::now();
            let answer = self.ops.take(json, None).await.context("the operations have stopped")?;
            ensure!(answer == Answer::Known(op_id.clone()), "{answer:?}");
            self.until(&mut heads, &op_id, |e| e.started.is_some()).await?;
            orders.push(begun.elapsed());
            self.until(&mut heads, &op_id, |e| e.state().is_terminal()).await?;
        }
        Ok((median(orders), median(flushes)))
    }
}

impl Host {
    async fn until(&self, heads: &mut watch::Receiver<Head>, op_id: &OpId, is_so: impl Fn(&OpEntry) -> bool) -> Result<()> {
        let is_so = || self.journal.read(|book| book.ops().get(op_id.as_str()).is_some_and(&is_so));
        while !is_so() {
            timeout(PATIENCE, heads.changed()).await.with_context(|| format!("operation {op_id} stands still"))??;
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
