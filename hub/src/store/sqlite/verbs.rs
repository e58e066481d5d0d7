//! The [`Store`] trait over the functions beside this file.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::id::{Generation, HostEpoch, HostId, OpId, SagaId, TopologyId, UnixSeconds};
use moorline_common::rollout::Act;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{SqliteStore, cloud, cloud_drift, drift, enrol, events, live, ops, remove, revisions, rollouts, sagas};
use crate::auth::Actor;
use crate::events::{Event, NewEvent};
use crate::store::{
    Adoption, Advance, CloudKind, CloudSweep, DriftQuery, DriftRecord, DriftReport, DueOp, FullRevision, HostRecord, JoinAttempt,
    JoinOutcome, NewBinding, NewOp, NewProvisioned, NewRevision, NewRoot, NewSaga, NewSlice, NewToken, OpChange, OpQuery, OpRecord,
    ProvisionedRecord, RefusalRecord, RenewOutcome, ReportRecord, ResourceEvent, ResourceRecord, RevisionRecord, RolloutChange,
    RolloutRecord, SagaAdvance, SagaChange, SagaEvidence, SagaOrder, SagaQuery, SagaRecord, SeenResource, ShownDrift, Store, TargetRecord,
    UnknownOp, Verb, Witness,
};

impl Store for SqliteStore {
    fn roots(&self) -> Verb<'_, Vec<Vec<u8>>> {
        Box::pin(self.read(enrol::roots))
    }
    fn operator_put_a_root(&self) -> Verb<'_, bool> {
        Box::pin(self.read(enrol::operator_put_one))
    }
    fn put_root(&self, root: NewRoot, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| enrol::put_root(tx, &root, Some(&event))))
    }
    fn create_token(&self, token: NewToken, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| enrol::create_token(tx, &token, &event)))
    }
    fn join(&self, attempt: JoinAttempt, event: NewEvent) -> Verb<'_, JoinOutcome> {
        Box::pin(self.write(move |tx| enrol::join(tx, &attempt, &event)))
    }
    fn renew(&self, host: HostId, presented: u64, event: Option<NewEvent>) -> Verb<'_, RenewOutcome> {
        Box::pin(self.write(move |tx| enrol::renew(tx, &host, presented, event.as_ref())))
    }
    fn hosts(&self) -> Verb<'_, Vec<HostRecord>> {
        Box::pin(self.read(enrol::hosts))
    }
    fn host(&self, host: HostId) -> Verb<'_, Option<HostRecord>> {
        Box::pin(self.read(move |conn| enrol::host(conn, &host)))
    }
    fn put_binding(&self, binding: NewBinding, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| enrol::put_binding(tx, &binding, &event)))
    }
    fn cordon(&self, host: HostId, reason: Option<String>, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| revisions::cordon(tx, &host, reason.as_deref(), &event)))
    }
    fn remove_host(&self, host: HostId, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| remove::remove(tx, &host, &event)))
    }
    fn push(&self, revision: NewRevision, event: NewEvent) -> Verb<'_, Generation> {
        Box::pin(self.write(move |tx| revisions::push(tx, &revision, &event)))
    }
    fn add_slices(&self, topology: TopologyId, generation: Generation, slices: Vec<NewSlice>, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| revisions::add_slices(tx, &topology, generation, &slices, &event)))
    }
    fn topologies(&self) -> Verb<'_, Vec<RevisionRecord>> {
        Box::pin(self.read(revisions::topologies))
    }
    fn revisions(&self, topology: TopologyId, limit: u32) -> Verb<'_, Vec<RevisionRecord>> {
        Box::pin(self.read(move |conn| revisions::revisions(conn, &topology, limit)))
    }
    fn revision(&self, topology: TopologyId, generation: Generation, with_slices: bool) -> Verb<'_, Option<FullRevision>> {
        Box::pin(self.read(move |conn| revisions::revision(conn, &topology, generation, with_slices)))
    }
    fn targets(&self, hosts: Vec<HostId>) -> Verb<'_, Vec<(HostId, TargetRecord)>> {
        Box::pin(self.read(move |conn| revisions::targets(conn, &hosts)))
    }
    fn slice(&self, topology: TopologyId, generation: Generation, host: HostId) -> Verb<'_, Option<Vec<u8>>> {
        Box::pin(self.read(move |conn| revisions::slice(conn, &topology, generation, &host)))
    }
    fn newest_slice(&self, topology: TopologyId, host: HostId) -> Verb<'_, Generation> {
        Box::pin(self.read(move |conn| revisions::newest_slice(conn, &topology, &host)))
    }
    fn rollouts(&self, topology: Option<TopologyId>, limit: u32) -> Verb<'_, Vec<RolloutRecord>> {
        Box::pin(self.read(move |conn| rollouts::rollouts(conn, topology.as_ref(), limit)))
    }
    fn rollout(&self, topology: TopologyId, generation: Generation) -> Verb<'_, Option<RolloutRecord>> {
        Box::pin(self.read(move |conn| rollouts::rollout(conn, &topology, generation)))
    }
    fn open_rollouts(&self) -> Verb<'_, Vec<RolloutRecord>> {
        Box::pin(self.read(rollouts::open))
    }
    fn change_rollout(&self, change: RolloutChange, events: Vec<NewEvent>) -> Verb<'_, bool> {
        Box::pin(self.write(move |tx| rollouts::change(tx, &change, &events)))
    }
    fn act_on_rollout(&self, topology: TopologyId, generation: Generation, act: Act, event: NewEvent) -> Verb<'_, RolloutRecord> {
        Box::pin(self.write(move |tx| rollouts::act(tx, &topology, generation, act, &event)))
    }
    fn session_opened(&self, host: HostId, version: String, epoch: HostEpoch, certificate: u64, event: Option<NewEvent>) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| enrol::session_opened(tx, &host, &version, &epoch, certificate, event.as_ref())))
    }
    fn keep_heartbeat(&self, host: HostId, json: Vec<u8>, at_ms: u64, witness: Witness) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| live::keep_heartbeat(tx, &host, &json, at_ms, &witness)))
    }
    fn applied(&self, done: Vec<(HostId, TopologyId, Generation, NewEvent)>) -> Verb<'_, Vec<HostId>> {
        Box::pin(self.write(move |tx| {
            let mut retargeted = Vec::new();
            for (host, topology, generation, event) in done {
                if revisions::applied(tx, &host, &topology, generation, &event)? {
                    retargeted.push(host);
                }
            }
            Ok(retargeted)
        }))
    }
    fn keep_report(&self, host: HostId, report: ReportRecord) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| live::keep_report(tx, &host, &report)))
    }
    fn report(&self, host: HostId) -> Verb<'_, Option<ReportRecord>> {
        Box::pin(self.read(move |conn| live::report(conn, &host)))
    }
    fn keep_refusal(&self, host: HostId, refusal: RefusalRecord, event: Option<NewEvent>) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| live::keep_refusal(tx, &host, &refusal, event.as_ref())))
    }
    fn refusals(&self) -> Verb<'_, Vec<(HostId, RefusalRecord)>> {
        Box::pin(self.read(live::refusals))
    }
    fn adopt(&self, host: HostId, adoption: Adoption, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| live::adopt(tx, &host, &adoption, &event)))
    }
    fn submit_op(&self, op: NewOp, event: NewEvent) -> Verb<'_, (OpRecord, bool)> {
        Box::pin(self.write(move |tx| ops::submit(tx, &op, &event)))
    }
    fn op(&self, op_id: OpId) -> Verb<'_, Option<OpRecord>> {
        Box::pin(self.read(move |conn| ops::op(conn, &op_id)))
    }
    fn op_of_payload(&self, host: HostId, payload_sha256: String) -> Verb<'_, Option<OpId>> {
        Box::pin(self.read(move |conn| ops::op_of_payload(conn, &host, &payload_sha256)))
    }
    fn ops(&self, query: OpQuery) -> Verb<'_, Vec<OpRecord>> {
        Box::pin(self.read(move |conn| ops::ops(conn, &query)))
    }
    fn due_ops(&self, host: HostId, after: u64, limit: u32) -> Verb<'_, Vec<DueOp>> {
        Box::pin(self.read(move |conn| ops::due(conn, &host, after, limit)))
    }
    fn ops_sent(&self, op_ids: Vec<OpId>) -> Verb<'_, Vec<OpId>> {
        Box::pin(self.write(move |tx| ops::sent(tx, &op_ids)))
    }
    fn advance_op(&self, host: HostId, op_id: OpId, change: OpChange, event: Option<NewEvent>) -> Verb<'_, Advance> {
        Box::pin(self.write(move |tx| ops::advance(tx, &host, &op_id, &change, event.as_ref())))
    }
    fn recover_op(&self, op: UnknownOp, event: NewEvent) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| ops::recover(tx, &op, &event)))
    }
    fn has_overdue_ops(&self, before: UnixSeconds) -> Verb<'_, bool> {
        Box::pin(self.read(move |conn| ops::has_overdue(conn, before)))
    }
    fn expire_ops(&self, before: UnixSeconds, limit: u32) -> Verb<'_, Vec<OpId>> {
        Box::pin(self.write(move |tx| ops::expire(tx, before, limit)))
    }
    fn start_saga(&self, saga: NewSaga, event: NewEvent) -> Verb<'_, (SagaRecord, bool)> {
        Box::pin(self.write(move |tx| sagas::start(tx, &saga, &event)))
    }
    fn saga(&self, saga_id: SagaId) -> Verb<'_, Option<SagaRecord>> {
        Box::pin(self.read(move |conn| sagas::saga(conn, &saga_id)))
    }
    fn sagas(&self, query: SagaQuery) -> Verb<'_, Vec<SagaRecord>> {
        Box::pin(self.read(move |conn| sagas::sagas(conn, &query)))
    }
    fn claim_sagas(&self, runner: String, until_ms: u64, limit: u32) -> Verb<'_, Vec<(SagaId, u64)>> {
        Box::pin(self.write(move |tx| sagas::claim(tx, &runner, until_ms, limit)))
    }
    fn has_unclaimed_sagas(&self, now_ms: u64) -> Verb<'_, bool> {
        Box::pin(self.read(move |conn| sagas::has_unclaimed(conn, now_ms)))
    }
    fn renew_sagas(&self, runner: String, until_ms: u64) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| sagas::renew(tx, &runner, until_ms)))
    }
    fn change_saga(&self, change: SagaChange) -> Verb<'_, SagaAdvance> {
        Box::pin(self.write(move |tx| sagas::change(tx, &change)))
    }
    fn saga_order(&self, saga_id: SagaId, payload_sha256: String) -> Verb<'_, Option<SagaOrder>> {
        Box::pin(self.read(move |conn| sagas::order(conn, &saga_id, &payload_sha256)))
    }
    fn saga_part(&self, saga_id: SagaId, sha256: String) -> Verb<'_, Option<Vec<u8>>> {
        Box::pin(self.read(move |conn| sagas::part(conn, &saga_id, &sha256)))
    }
    fn saga_facts(&self, saga_id: SagaId) -> Verb<'_, Vec<(u64, String)>> {
        Box::pin(self.read(move |conn| sagas::facts(conn, &saga_id)))
    }
    fn saga_words(&self, saga_id: SagaId) -> Verb<'_, Vec<Vec<u8>>> {
        Box::pin(self.read(move |conn| sagas::words(conn, &saga_id)))
    }
    fn saga_evidence(&self, saga_id: SagaId) -> Verb<'_, Option<SagaEvidence>> {
        Box::pin(self.read(move |conn| sagas::evidence(conn, &saga_id)))
    }
    fn report_drift(&self, host: HostId, name: String, report: DriftReport, events: u32) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| drift::report(tx, &host, &name, &report, events)))
    }
    fn drifts(&self, query: DriftQuery) -> Verb<'_, Vec<DriftRecord>> {
        Box::pin(self.read(move |conn| drift::drifts(conn, &query)))
    }
    fn drift(&self, id: u64) -> Verb<'_, Option<DriftRecord>> {
        Box::pin(self.read(move |conn| drift::drift(conn, id)))
    }
    fn ignore_drift(&self, id: u64, until_ms: u64, reason: String, by: Actor, event: NewEvent) -> Verb<'_, DriftRecord> {
        Box::pin(self.write(move |tx| drift::ignore(tx, id, until_ms, &reason, &by, &event)))
    }
    fn revert_drift(&self, drifts: Vec<ShownDrift>, op: NewOp, event: NewEvent) -> Verb<'_, (OpRecord, bool)> {
        Box::pin(self.write(move |tx| drift::revert(tx, &drifts, &op, &event)))
    }
    fn has_drift_to_reopen(&self, now_ms: u64) -> Verb<'_, bool> {
        Box::pin(self.read(move |conn| drift::has_ignored_for_long(conn, now_ms)))
    }
    fn reopen_drift(&self, limit: u32) -> Verb<'_, usize> {
        Box::pin(self.write(move |tx| drift::reopen(tx, limit)))
    }
    fn register_droplet(&self, new: NewProvisioned) -> Verb<'_, u64> {
        Box::pin(self.write(move |tx| cloud::register(tx, &new)))
    }
    fn unregister_droplet(&self, cloud: String, number: u64, saga_id: Option<SagaId>) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| cloud::unregister(tx, &cloud, number, saga_id.as_ref())))
    }
    fn amend_spec(
        &self,
        cloud: String,
        number: u64,
        fields: BTreeMap<String, Value>,
        by: String,
        saga_id: Option<SagaId>,
    ) -> Verb<'_, u64> {
        Box::pin(self.write(move |tx| cloud::amend(tx, &cloud, number, &fields, &by, saga_id.as_ref())))
    }
    fn see_droplet(&self, cloud: String, number: u64, name: String, value: Value) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| cloud::see_droplet(tx, &cloud, number, &name, &value)))
    }
    fn bury(&self, cloud: String, kind: CloudKind, numbers: BTreeSet<u64>, saga_id: Option<SagaId>) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| cloud::bury(tx, &cloud, kind, &numbers, saga_id.as_ref())))
    }
    fn buried(&self, cloud: String, kind: CloudKind) -> Verb<'_, BTreeSet<u64>> {
        Box::pin(self.read(move |conn| cloud::buried(conn, &cloud, kind)))
    }
    fn sync_resources(&self, cloud: String, kind: CloudKind, seen: Vec<SeenResource>) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| cloud::sync(tx, &cloud, kind, &seen)))
    }
    fn sweep_cloud(&self, cloud: String) -> Verb<'_, CloudSweep> {
        Box::pin(self.write(move |tx| cloud_drift::sweep(tx, &cloud)))
    }
    fn accept_cloud_drift(&self, drift: ShownDrift, by: Actor, reason: String, event: NewEvent) -> Verb<'_, DriftRecord> {
        Box::pin(self.write(move |tx| cloud_drift::accept(tx, &drift, &by, &reason, &event)))
    }
    fn resource(&self, cloud: String, kind: CloudKind, number: u64) -> Verb<'_, Option<ResourceRecord>> {
        Box::pin(self.read(move |conn| cloud::resource(conn, &cloud, kind, number)))
    }
    fn resources(&self, cloud: String, with_deleted: bool) -> Verb<'_, Vec<ResourceRecord>> {
        Box::pin(self.read(move |conn| cloud::resources(conn, &cloud, with_deleted)))
    }
    fn resource_events(&self, cloud: String, kind: CloudKind, number: u64) -> Verb<'_, Vec<ResourceEvent>> {
        Box::pin(self.read(move |conn| cloud::events(conn, &cloud, kind, number)))
    }
    fn provisioned(&self, cloud: String) -> Verb<'_, Vec<ProvisionedRecord>> {
        Box::pin(self.read(move |conn| cloud::provisioned(conn, &cloud, None)))
    }

    fn record(&self, new: Vec<NewEvent>) -> Verb<'_, ()> {
        Box::pin(self.write(move |tx| new.iter().try_for_each(|event| events::append(tx, event))))
    }
    fn events(&self, after: u64, limit: u32, newest: bool) -> Verb<'_, Vec<Event>> {
        Box::pin(self.read(move |conn| events::list(conn, after, limit, newest)))
    }
    fn newest_event(&self) -> watch::Receiver<u64> {
        self.newest_event.clone()
    }
    fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
    fn close(&self) -> Verb<'_, ()> {
        Box::pin(self.close_threads())
    }
    fn verify_events(&self) -> Verb<'_, std::result::Result<u64, u64>> {
        Box::pin(self.read(events::verify))
    }
}
