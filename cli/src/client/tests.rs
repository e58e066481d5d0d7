//! The client against a hub that lies, withholds or falls back.

use std::sync::{Arc, Mutex};

use moorline_common::id::{ClusterId, UnixSeconds};
use moorline_common::observe::Observed;
use moorline_common::op::OpStatement;
use moorline_common::sign::PrivateKey;
use moorline_common::statement::ApplyReport;
use moorline_proto::v1::operator_client::OperatorClient;
use moorline_proto::v1::operator_server::{Operator, OperatorServer};
use tonic::{Request, Response, Status};

use super::*;
use crate::home::{ContextFacts, Home};
use crate::revision::tests::{host, host_binding, keys, trust};

/// What the hub shows.
#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) hosts: Vec<pb::Host>,
    pub(crate) revision: Option<pb::GetRevisionResponse>,
    pub(crate) report: Option<Envelope>,
    /// The newest binding that was handed in.
    bound: Option<pb::Envelope>,
    /// Whether it stores what is pushed.
    pub(crate) takes_pushes: bool,
    /// Why it stores nothing.
    pub(crate) refuses_pushes: Option<Fault>,
    /// Whether topologies cannot be listed.
    pub(crate) broken: bool,
    /// How many reports were asked for.
    pub(crate) reports_asked: usize,
    /// Operations that were submitted.
    pub(crate) submitted: Vec<pb::Op>,
    /// What those who follow an operation are shown.
    pub(crate) watched: Vec<pb::Op>,
    /// Sagas that were started.
    pub(crate) sagas: Vec<pb::StartSagaRequest>,
    /// The one saga that it shows.
    pub(crate) saga: Option<pb::Saga>,
    /// What those who follow it are shown.
    pub(crate) saga_news: Vec<pb::Saga>,
    /// What was said of it.
    pub(crate) saga_words: Vec<pb::ActOnSagaRequest>,
    /// A host's journal, in parts.
    pub(crate) journal: Vec<Vec<u8>>,
}

struct FakeHub(Arc<Mutex<Shown>>);

type OpsOut = tokio_stream::Iter<std::vec::IntoIter<Result<pb::Op, Status>>>;
type SagasOut = tokio_stream::Iter<std::vec::IntoIter<Result<pb::Saga, Status>>>;
type JournalOut = tokio_stream::Iter<std::vec::IntoIter<Result<pb::GetJournalResponse, Status>>>;
type LogsOut = tokio_stream::Iter<std::vec::IntoIter<Result<pb::GetLogsResponse, Status>>>;
type EventsOut = tokio_stream::Iter<std::vec::IntoIter<Result<pb::Event, Status>>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not by this hub"))
}

#[tonic::async_trait]
impl Operator for FakeHub {
    type EventsStream = EventsOut;

    type GetLogsStream = LogsOut;

    async fn get_logs(&self, _: Request<pb::GetLogsRequest>) -> Result<Response<LogsOut>, Status> {
        not_here()
    }

    async fn list_drift(&self, _: Request<pb::ListDriftRequest>) -> Result<Response<pb::ListDriftResponse>, Status> {
        not_here()
    }

    async fn get_drift(&self, _: Request<pb::GetDriftRequest>) -> Result<Response<pb::GetDriftResponse>, Status> {
        not_here()
    }

    async fn ignore_drift(&self, _: Request<pb::IgnoreDriftRequest>) -> Result<Response<pb::IgnoreDriftResponse>, Status> {
        not_here()
    }

    async fn revert_drift(&self, _: Request<pb::RevertDriftRequest>) -> Result<Response<pb::RevertDriftResponse>, Status> {
        not_here()
    }

    async fn list_resources(&self, _: Request<pb::ListResourcesRequest>) -> Result<Response<pb::ListResourcesResponse>, Status> {
        not_here()
    }

    async fn scan_drift(&self, _: Request<pb::ScanDriftRequest>) -> Result<Response<pb::ScanDriftResponse>, Status> {
        not_here()
    }

    async fn accept_cloud_drift(&self, _: Request<pb::AcceptCloudDriftRequest>) -> Result<Response<pb::AcceptCloudDriftResponse>, Status> {
        not_here()
    }

    async fn get_cluster(&self, _: Request<pb::GetClusterRequest>) -> Result<Response<pb::GetClusterResponse>, Status> {
        not_here()
    }

    async fn put_root(&self, _: Request<pb::PutRootRequest>) -> Result<Response<pb::PutRootResponse>, Status> {
        not_here()
    }

    async fn create_join_token(&self, _: Request<pb::CreateJoinTokenRequest>) -> Result<Response<pb::CreateJoinTokenResponse>, Status> {
        not_here()
    }

    async fn put_binding(&self, request: Request<pb::PutBindingRequest>) -> Result<Response<pb::PutBindingResponse>, Status> {
        self.0.lock().unwrap().bound = request.into_inner().binding;
        Ok(Response::new(pb::PutBindingResponse {}))
    }

    async fn cordon_host(&self, _: Request<pb::CordonHostRequest>) -> Result<Response<pb::CordonHostResponse>, Status> {
        not_here()
    }

    async fn remove_host(&self, _: Request<pb::RemoveHostRequest>) -> Result<Response<pb::RemoveHostResponse>, Status> {
        not_here()
    }

    async fn add_slices(&self, _: Request<pb::AddSlicesRequest>) -> Result<Response<pb::AddSlicesResponse>, Status> {
        not_here()
    }

    async fn push(&self, request: Request<pb::PushRequest>) -> Result<Response<pb::PushResponse>, Status> {
        if let Some(fault) = &self.0.lock().unwrap().refuses_pushes {
            return Err(convert::to_status(fault));
        }
        if !self.0.lock().unwrap().takes_pushes {
            return not_here();
        }
        Ok(Response::new(pb::PushResponse { generation: request.into_inner().base_generation + 1 }))
    }

    async fn get_rollout(&self, _: Request<pb::GetRolloutRequest>) -> Result<Response<pb::GetRolloutResponse>, Status> {
        not_here()
    }

    async fn list_rollouts(&self, _: Request<pb::ListRolloutsRequest>) -> Result<Response<pb::ListRolloutsResponse>, Status> {
        not_here()
    }

    async fn act_on_rollout(&self, _: Request<pb::ActOnRolloutRequest>) -> Result<Response<pb::ActOnRolloutResponse>, Status> {
        not_here()
    }

    async fn list_topologies(&self, _: Request<pb::ListTopologiesRequest>) -> Result<Response<pb::ListTopologiesResponse>, Status> {
        if self.0.lock().unwrap().broken {
            return Err(Status::unavailable("gone"));
        }
        Ok(Response::new(pb::ListTopologiesResponse { revisions: Vec::new() }))
    }

    async fn list_revisions(&self, _: Request<pb::ListRevisionsRequest>) -> Result<Response<pb::ListRevisionsResponse>, Status> {
        not_here()
    }

    async fn list_hosts(&self, _: Request<pb::ListHostsRequest>) -> Result<Response<pb::ListHostsResponse>, Status> {
        Ok(Response::new(pb::ListHostsResponse { hosts: self.0.lock().unwrap().hosts.clone() }))
    }

    async fn get_revision(&self, _: Request<pb::GetRevisionRequest>) -> Result<Response<pb::GetRevisionResponse>, Status> {
        let shown = self.0.lock().unwrap().revision.clone();
        shown.map(Response::new).ok_or_else(|| convert::to_status(&Fault::new(Code::NotFound, "no such topology")))
    }

    async fn get_report(&self, _: Request<pb::GetReportRequest>) -> Result<Response<pb::GetReportResponse>, Status> {
        let mut shown = self.0.lock().unwrap();
        shown.reports_asked += 1;
        let report = shown.report.as_ref().map(Into::into);
        Ok(Response::new(pb::GetReportResponse { report, received_unix_ms: 1 }))
    }

    async fn events(&self, _: Request<pb::EventsRequest>) -> Result<Response<EventsOut>, Status> {
        Err(Status::unavailable("gone"))
    }

    async fn submit_op(&self, request: Request<pb::SubmitOpRequest>) -> Result<Response<pb::SubmitOpResponse>, Status> {
        let order = request.into_inner().op;
        let statement = order.as_ref().map(|e| Signed::<OpStatement>::from_json(&e.json).unwrap().peek().unwrap()).unwrap();
        let host_id = statement.host_id.into();
        let op = pb::Op { op_id: statement.op_id.into(), host_id, state: "submitted".to_owned(), order, ..pb::Op::default() };
        self.0.lock().unwrap().submitted.push(op.clone());
        Ok(Response::new(pb::SubmitOpResponse { op: Some(op), known: false }))
    }

    async fn list_ops(&self, _: Request<pb::ListOpsRequest>) -> Result<Response<pb::ListOpsResponse>, Status> {
        Ok(Response::new(pb::ListOpsResponse { ops: self.0.lock().unwrap().submitted.clone() }))
    }

    async fn get_op(&self, request: Request<pb::GetOpRequest>) -> Result<Response<pb::GetOpResponse>, Status> {
        let wanted = request.into_inner().op_id;
        let op = self.0.lock().unwrap().submitted.iter().find(|op| op.op_id == wanted).cloned();
        let op = op.ok_or_else(|| convert::to_status(&Fault::new(Code::NotFound, "no such operation")))?;
        Ok(Response::new(pb::GetOpResponse { op: Some(op) }))
    }

    type WatchOpStream = OpsOut;

    async fn watch_op(&self, _: Request<pb::WatchOpRequest>) -> Result<Response<OpsOut>, Status> {
        let ops: Vec<_> = self.0.lock().unwrap().watched.iter().cloned().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(ops)))
    }

    async fn start_saga(&self, request: Request<pb::StartSagaRequest>) -> Result<Response<pb::StartSagaResponse>, Status> {
        let saga = crate::saga::testing::taken(&request.get_ref().plan.clone().unwrap_or_default());
        self.0.lock().unwrap().sagas.push(request.into_inner());
        Ok(Response::new(pb::StartSagaResponse { saga: Some(saga), known: false }))
    }

    async fn list_sagas(&self, _: Request<pb::ListSagasRequest>) -> Result<Response<pb::ListSagasResponse>, Status> {
        Ok(Response::new(pb::ListSagasResponse { sagas: self.0.lock().unwrap().saga.iter().cloned().collect() }))
    }

    async fn get_saga(&self, _: Request<pb::GetSagaRequest>) -> Result<Response<pb::GetSagaResponse>, Status> {
        let saga = self.0.lock().unwrap().saga.clone();
        let saga = saga.ok_or_else(|| convert::to_status(&Fault::new(Code::NotFound, "no such saga")))?;
        Ok(Response::new(pb::GetSagaResponse { saga: Some(saga) }))
    }

    type WatchSagaStream = SagasOut;

    async fn watch_saga(&self, _: Request<pb::WatchSagaRequest>) -> Result<Response<SagasOut>, Status> {
        let sagas: Vec<_> = self.0.lock().unwrap().saga_news.iter().cloned().map(Ok).collect();
        Ok(Response::new(tokio_stream::iter(sagas)))
    }

    async fn act_on_saga(&self, request: Request<pb::ActOnSagaRequest>) -> Result<Response<pb::ActOnSagaResponse>, Status> {
        let mut shown = self.0.lock().unwrap();
        shown.saga_words.push(request.into_inner());
        Ok(Response::new(pb::ActOnSagaResponse { saga: shown.saga.clone() }))
    }

    type GetJournalStream = JournalOut;

    async fn get_journal(&self, _: Request<pb::GetJournalRequest>) -> Result<Response<JournalOut>, Status> {
        let parts: Vec<_> =
            self.0.lock().unwrap().journal.iter().map(|lines| Ok(pb::GetJournalResponse { lines: lines.clone() })).collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }
}

/// A client of such a hub, with what it shows at hand.
pub(crate) async fn client() -> (Client, Arc<Mutex<Shown>>, tempfile::TempDir) {
    let shown = Arc::new(Mutex::new(Shown::default()));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let service = OperatorServer::new(FakeHub(shown.clone()));
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(far));
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let mut near = Some(near);
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let io = near.take().map(hyper_util::rt::TokioIo::new).ok_or_else(|| std::io::Error::other("one connection only"));
        async move { io }
    });
    let channel = tonic::transport::Endpoint::from_static("http://hub").connect_with_connector(connector).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let home = Home::open(Some(dir.path().to_owned())).unwrap();
    let facts = ContextFacts { cluster: ClusterId::parse("acme").unwrap(), operator: "ann".into(), root_pin: String::new() };
    let client = Client {
        hub: Hub::over(OperatorClient::new(channel), "fake"),
        context: home.store_context("acme", facts, b"{}").unwrap(),
        root: trust(),
        facts: ClusterFacts {
            cluster: "acme".into(),
            hub_version: String::new(),
            roots: Vec::new(),
            agent_addresses: Vec::new(),
            clock_offset_ms: 0,
        },
        warnings: Vec::new(),
        accept_clock: false,
        bindings: Arc::default(),
    };
    (client, shown, dir)
}

pub(crate) fn shown_host(binding: &HostBinding, signer: &PrivateKey) -> pb::Host {
    pb::Host {
        host_id: binding.host_id.to_string(),
        name: binding.name.to_string(),
        state: pb::HostState::Bound.into(),
        binding: Some(Signed::seal(binding, &[signer]).unwrap().envelope().into()),
        ..pb::Host::default()
    }
}

pub(crate) fn binding(serial: u64) -> HostBinding {
    HostBinding { serial, ..host_binding(10, "shop-17") }
}

pub(crate) fn shown_revision(generation: u64, signed_as: u64, source: &str, signer: &PrivateKey) -> pb::GetRevisionResponse {
    shown_statement(generation, statement(signed_as, source), signer)
}

/// A revision that tears its topology down.
pub(crate) fn shown_down(generation: u64, source: &str, signer: &PrivateKey) -> pb::GetRevisionResponse {
    shown_statement(generation, TopologyStatement { down: true, ..statement(generation, source) }, signer)
}

fn statement(generation: u64, source: &str) -> TopologyStatement {
    TopologyStatement {
        cluster: ClusterId::parse("acme").unwrap(),
        topology: TopologyId::parse("edge").unwrap(),
        generation: Generation(generation),
        source: source.into(),
        inputs: moorline_common::topology::Inputs::default(),
        down: false,
        issued_at: UnixSeconds(1),
        deliver_within_s: 60,
        message: String::new(),
    }
}

fn shown_statement(generation: u64, statement: TopologyStatement, signer: &PrivateKey) -> pb::GetRevisionResponse {
    pb::GetRevisionResponse {
        revision: Some(pb::Revision { topology: "edge".into(), generation, ..pb::Revision::default() }),
        source: Some(Signed::seal(&statement, &[signer]).unwrap().envelope().into()),
        slices: Vec::new(),
    }
}

#[tokio::test]
async fn a_binding_counts_only_under_an_operators_signature_and_never_an_older_one() {
    let (client, shown, _dir) = client().await;
    let operator = keys().1;
    shown.lock().unwrap().hosts = vec![shown_host(&binding(2), &operator)];
    assert_eq!(client.hosts(None).await.unwrap()[0].bound().unwrap().serial, 2);
    shown.lock().unwrap().hosts = vec![shown_host(&binding(3), &PrivateKey::from_seed(&[9; 32]))];
    let forged = client.hosts(None).await.unwrap().remove(0);
    assert!(forged.bound().is_none());
    assert_eq!(forged.doubt.unwrap().code, Code::UnknownKey);
    shown.lock().unwrap().hosts = vec![shown_host(&binding(1), &operator)];
    let withheld = client.hosts(None).await.unwrap().remove(0);
    assert!(withheld.bound().is_none());
    assert_eq!(withheld.doubt.unwrap().code, Code::GenerationRegressed);
}

#[tokio::test]
async fn what_hub_and_hosts_say_moves_no_cursor_and_forges_no_line() {
    let (client, shown, _dir) = client().await;
    let text = "x\u{1b}[2J\u{202e}y\nshop-18: cordoned".to_owned();
    shown.lock().unwrap().hosts = vec![pb::Host {
        last_error: Some(pb::Fault { code: "busy".to_owned(), message: text.clone() }),
        cordon: Some(pb::Cordon { since_unix_ms: 1, by: text.clone(), reason: text.clone() }),
        ..shown_host(&binding(2), &keys().1)
    }];
    let view = client.hosts(None).await.unwrap().remove(0);
    let cordon = view.cordon.unwrap();
    for shown in [view.last_error.unwrap().message, cordon.by, cordon.reason.clone(), Failure::local(text).to_string()] {
        assert!(shown.contains("\\u{1b}[2J\\u{202e}") && !shown.contains('\u{1b}'), "{shown}");
    }
    assert!(!cordon.reason.contains('\n'), "{}", cordon.reason);
}

#[tokio::test]
async fn a_locked_host_is_bound_anew_as_it_was_with_the_next_serial() {
    let (client, shown, _dir) = client().await;
    let operator = keys().1;
    let mut held = binding(2);
    held.labels.insert("site".into(), "sydney".into());
    shown.lock().unwrap().hosts = vec![pb::Host { locked: true, sealing_key: vec![9; 32], ..shown_host(&held, &operator) }];
    let view = client.hosts(None).await.unwrap().remove(0);
    assert!(view.locked);
    let mut ui = crate::render::Ui::new(crate::render::Format::Json, false);
    crate::approve::unlock(&client, &mut ui, &keys().1.into(), &view, &held).await.unwrap();
    let given = shown.lock().unwrap().bound.clone().unwrap();
    let anew = trust().verify_binding(Signed::new(Envelope::try_from(given).unwrap()).unwrap(), Some(&held.host_id)).unwrap();
    let anew = anew.into_statement();
    assert_eq!((anew.serial, &anew.labels, anew.sealing_key), (3, &held.labels, held.sealing_key));
}

#[tokio::test]
async fn a_binding_of_one_host_does_not_pass_for_another() {
    let (client, shown, _dir) = client().await;
    let mut swapped = shown_host(&binding(1), &keys().1);
    swapped.name = "shop-18".into();
    shown.lock().unwrap().hosts = vec![swapped];
    assert_eq!(client.hosts(None).await.unwrap()[0].doubt.as_ref().unwrap().code, Code::WrongHost);
    let mut swapped = shown_host(&binding(1), &keys().1);
    swapped.host_id = host(11, "x").host_id.to_string();
    shown.lock().unwrap().hosts = vec![swapped];
    assert_eq!(client.hosts(None).await.unwrap()[0].doubt.as_ref().unwrap().code, Code::WrongHost);
}

#[tokio::test]
async fn a_hub_that_falls_back_or_shows_two_faces_is_refused() {
    let (client, shown, _dir) = client().await;
    let (edge, operator) = (TopologyId::parse("edge").unwrap(), keys().1);
    let show = |revision| shown.lock().unwrap().revision = revision;
    assert!(client.current(&edge, false).await.unwrap().is_none());
    let missing = client.revision(&edge, Generation(9), false).await.unwrap_err();
    assert!(missing.is(Code::NotFound) && missing.remedy.contains("moorctl history edge"), "{missing:?}");
    show(Some(shown_revision(3, 3, "a", &operator)));
    assert_eq!(client.current(&edge, false).await.unwrap().unwrap().facts.generation, Generation(3));
    show(Some(shown_revision(2, 2, "a", &operator)));
    assert!(client.current(&edge, false).await.unwrap_err().is(Code::GenerationRegressed));
    show(None);
    assert!(client.current(&edge, false).await.unwrap_err().is(Code::GenerationRegressed));
    show(Some(shown_revision(3, 3, "b", &operator)));
    assert!(client.current(&edge, false).await.unwrap_err().is(Code::Equivocation));
}

#[tokio::test]
async fn a_source_that_does_not_verify_is_no_source() {
    let (client, shown, _dir) = client().await;
    let edge = TopologyId::parse("edge").unwrap();
    shown.lock().unwrap().revision = Some(shown_revision(1, 1, "a", &PrivateKey::from_seed(&[9; 32])));
    let view = client.current(&edge, false).await.unwrap().unwrap();
    assert!(view.source.is_none());
    assert_eq!(view.doubt.unwrap().code, Code::UnknownKey);
    // Signed once as another generation and shown again as this one.
    shown.lock().unwrap().revision = Some(shown_revision(2, 1, "a", &keys().1));
    assert!(client.current(&edge, false).await.unwrap().unwrap().source.is_none());
}

#[tokio::test]
async fn a_report_counts_only_under_the_hosts_own_signature() {
    let (client, shown, _dir) = client().await;
    let view = host(10, "shop-17");
    let report = ObservedReport {
        host_id: view.host_id.clone(),
        taken_at: UnixSeconds(1),
        observed: Observed::default(),
        apply: ApplyReport::default(),
    };
    let sign = |seed: u8| Some(Signed::seal(&report, &[&PrivateKey::from_seed(&[seed; 32])]).unwrap().envelope().clone());
    assert!(client.report(&view).await.unwrap().is_none());
    shown.lock().unwrap().report = sign(10);
    assert!(client.report(&view).await.unwrap().is_some());
    shown.lock().unwrap().report = sign(11);
    assert!(client.report(&view).await.unwrap_err().is(Code::UnknownKey));
}

#[tokio::test]
async fn a_call_that_the_hub_does_not_answer_says_so_with_a_code() {
    let (client, _shown, _dir) = client().await;
    assert!(client.revisions(&TopologyId::parse("edge").unwrap(), 1).await.unwrap_err().is(Code::UnsupportedVersion));
    assert_eq!(client.events(0, 1, false).await.err().unwrap().code, "hub_unreachable");
}

#[tokio::test]
async fn nothing_is_signed_by_a_clock_that_is_not_the_hubs() {
    let (mut client, _shown, _dir) = client().await;
    assert!(client.require_signable().is_ok());
    for offset in [-301_000, 301_000] {
        client.facts.clock_offset_ms = offset;
        client.accept_clock = false;
        assert_eq!(client.require_signable().unwrap_err().code, "clock_skew");
        client.accept_clock = true;
        assert!(client.require_signable().is_ok());
    }
}

#[tokio::test]
async fn a_binding_that_verified_before_does_not_vouch_for_other_bytes() {
    let (client, shown, _dir) = client().await;
    let good = shown_host(&binding(2), &keys().1);
    shown.lock().unwrap().hosts = vec![good.clone()];
    assert!(client.hosts(None).await.unwrap()[0].bound().is_some());
    assert!(client.hosts(None).await.unwrap()[0].bound().is_some());
    shown.lock().unwrap().hosts = vec![pb::Host { name: "shop-18".into(), ..good }];
    assert_eq!(client.hosts(None).await.unwrap()[0].doubt.as_ref().unwrap().code, Code::WrongHost);
}

#[test]
fn a_push_that_the_hub_would_not_take_is_not_sent() {
    assert!(push::require_fitting(moorline_proto::OPERATOR_MESSAGE_MAX, 1).is_ok());
    let failure = push::require_fitting(moorline_proto::OPERATOR_MESSAGE_MAX + 1, 50_000).unwrap_err();
    assert!(failure.is(Code::TooLarge));
    assert!(failure.message.contains("65 MiB") && failure.remedy.contains("split"));
}
