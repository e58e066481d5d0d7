//! Joining, renewing, and who may call what.

use std::time::{Duration, SystemTime};

use moorline_common::fault::Code;
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use tonic::{Code as Grpc, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::{Agent, Gateway, Kit, Operator, applied, ready, web};
use crate::limits;
use crate::pki::RequestedKey;

fn shown(status: &Status) -> (Grpc, String, Code) {
    (status.code(), status.message().to_owned(), from_status(status).code)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_makes_a_pending_host_and_only_the_operator_binds_it() {
    let kit = Kit::new().await;
    let agent = kit.joined("shop", 1).await;
    assert_eq!((agent.certificate_serial, agent.roots.len(), agent.chain.len()), (1, 1, 2));
    let host = kit.host("shop").await;
    assert_eq!((host.state(), host.host_id, host.converged), (pb::HostState::Pending, agent.id().to_string(), false));
    kit.bind(&agent, "shop", 1).await.unwrap();
    assert_eq!(kit.host("shop").await.state(), pb::HostState::Bound);
    let kinds: Vec<String> = kit.events().await.into_iter().map(|e| e.kind).collect();
    assert_eq!(kinds, ["hub_started", "root_stored", "token_created", "host_joined", "host_bound"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refused_join_gets_one_and_the_same_answer() {
    let kit = Kit::new().await;
    let token = kit.token("shop").await;
    let mut first = Agent::new(1);
    first.join(&kit, &token).await.unwrap();
    first.join(&kit, &token).await.unwrap();
    let mut gateway = Gateway::new(kit.stranger().await);
    let fresh = kit.token("other").await;
    let good = Agent::new(2).join_request(&fresh);
    let mut answers = Vec::new();
    for bad in [
        Agent::new(2).join_request(&token),
        pb::JoinRequest { name: "shop".to_owned(), ..good.clone() },
        pb::JoinRequest { join_key: vec![0; 32], ..good.clone() },
        pb::JoinRequest { token_id: "0".repeat(32), ..good.clone() },
        pb::JoinRequest { host_signature: vec![0; 64], ..good.clone() },
        pb::JoinRequest { csr_der: vec![1, 2, 3], ..good.clone() },
        pb::JoinRequest::default(),
    ] {
        answers.push(shown(&gateway.join(bad).await.unwrap_err()));
    }
    kit.clock.advance(Duration::from_secs(601));
    answers.push(shown(&gateway.join(good).await.unwrap_err()));
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!((answers[0].0, answers[0].2), (Grpc::PermissionDenied, Code::JoinRefused));
    let alarms = kit.kinds("join_refused").await.into_iter().filter(|e| e.message.starts_with("ALARM")).count();
    assert_eq!(alarms, 1, "only the reuse by another key is an alarm");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_certificate_request_counts_but_its_key() {
    let kit = Kit::new().await;
    let agent = kit.joined("shop", 1).await;
    let (_, certificate) = x509_parser::parse_x509_certificate(&agent.chain[0]).unwrap();
    let san = certificate.subject_alternative_name().unwrap().unwrap();
    let names: Vec<String> = san.value.general_names.iter().map(|n| n.to_string()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].contains(&format!("moorline://one/agent/{}", agent.id())), "{names:?}");
    assert!(!certificate.subject().to_string().contains("admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_join_and_health_answer() {
    let kit = Kit::new().await;
    let channel = kit.stranger().await;
    let status = Operator::new(channel.clone()).get_cluster(pb::GetClusterRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Grpc::Unauthenticated);
    let status = Gateway::new(channel.clone()).renew(pb::RenewRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Grpc::Unauthenticated);
    let nothing = tokio_stream::empty::<pb::AgentMessage>();
    assert_eq!(Gateway::new(channel.clone()).session(nothing).await.unwrap_err().code(), Grpc::Unauthenticated);
    let nothing = tokio_stream::empty();
    let status = ServerReflectionClient::new(channel.clone()).server_reflection_info(nothing).await.unwrap_err();
    assert_eq!(status.code(), Grpc::Unauthenticated);
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_fill_the_hubs_memory() {
    let kit = Kit::new().await;
    let request = pb::JoinRequest { claim_mac: vec![0; 4 * 1024 * 1024], ..Default::default() };
    let status = Gateway::new(kit.stranger().await).join(request).await.unwrap_err();
    assert_ne!(from_status(&status).code, Code::JoinRefused, "it was cut before it was read: {status}");
    // Others are served as before.
    kit.joined("shop", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_reach_only_their_own_service() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut as_operator = Operator::new(kit.channel(Some(agent.identity())).await);
    let mut refused = Vec::new();
    macro_rules! refused {
        ($($call:ident: $request:ident),+ $(,)?) => {
            $(refused.push((stringify!($call), as_operator.$call(pb::$request::default()).await.map(|_| ()).unwrap_err()));)+
        };
    }
    refused!(
        get_cluster: GetClusterRequest,
        put_root: PutRootRequest,
        create_join_token: CreateJoinTokenRequest,
        list_hosts: ListHostsRequest,
        put_binding: PutBindingRequest,
        remove_host: RemoveHostRequest,
        add_slices: AddSlicesRequest,
        push: PushRequest,
        list_topologies: ListTopologiesRequest,
        list_revisions: ListRevisionsRequest,
        get_revision: GetRevisionRequest,
        get_report: GetReportRequest,
        events: EventsRequest,
    );
    for (call, status) in &refused {
        assert_eq!(shown(status).2, Code::PermissionDenied, "{call}");
    }
    // The agents' gateway is as closed to an operator.
    let mut as_agent = Gateway::new(kit.channel(Some(kit.identity())).await);
    let nothing = tokio_stream::empty::<pb::AgentMessage>();
    assert_eq!(shown(&as_agent.session(nothing).await.unwrap_err()).2, Code::PermissionDenied);
    assert_eq!(shown(&as_agent.renew(pb::RenewRequest::default()).await.unwrap_err()).2, Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_voids_the_old_one_once_it_is_used() {
    let kit = Kit::new().await;
    let mut agent = kit.bound("shop", 1).await;
    let renewed = agent.renew(&kit, 1).await.unwrap();
    assert_eq!(renewed.certificate_serial, 2);
    // Two-phase: the old one still opens sessions.
    drop(agent.open(&kit).await.unwrap());
    let old = std::mem::replace(&mut agent.chain, renewed.certificate_chain);
    drop(agent.open(&kit).await.unwrap());
    agent.chain = old;
    let status = agent.open(&kit).await.err().unwrap();
    assert_eq!(shown(&status).2, Code::RenewalConflict);
    let status = agent.renew(&kit, 1).await.unwrap_err();
    assert_eq!(shown(&status).2, Code::RenewalConflict);
    let alarms: Vec<String> = kit.kinds("renew_refused").await.into_iter().map(|e| e.code).collect();
    assert_eq!(alarms, ["renewal_conflict", "renewal_conflict"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_must_be_signed_by_the_host_key() {
    let kit = Kit::new().await;
    let mut agent = kit.bound("shop", 1).await;
    agent.host = super::seed(200);
    let status = agent.renew(&kit, 1).await.unwrap_err();
    assert_eq!(shown(&status).2, Code::BadSignature);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_away_may_renew_and_do_nothing_else() {
    let kit = Kit::new().await;
    let mut agent = kit.bound("shop", 1).await;
    let key = RequestedKey::from_der(&agent.csr()).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(7 * 24 * 3600);
    agent.chain = kit.hub().pki.agent_certificate(&agent.id(), &key, 1, long_ago).unwrap();
    assert_eq!(agent.open(&kit).await.err().unwrap().code(), Grpc::Unauthenticated);
    agent.chain = agent.renew(&kit, 1).await.unwrap().certificate_chain;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    kit.until_host("shop", |h| h.connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_its_certificate_does() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    kit.clock.advance(Duration::from_secs(25 * 3600));
    link.beat(ready()).await;
    assert!(link.inbound.message().await.is_err());
    // The operator's certificate lives longer.
    assert!(!kit.host("shop").await.connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_gets_only_so_many_certificates_and_sessions_in_a_minute() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    // The minute may turn once on the way.
    let mut status = None;
    for _ in 0..=2 * limits::RENEWALS_PER_MINUTE {
        status = status.or(agent.renew(&kit, 1).await.err());
    }
    assert_eq!(shown(&status.unwrap()).2, Code::Busy);
    let mut status = None;
    for _ in 0..=2 * limits::SESSIONS_PER_MINUTE {
        status = status.or(agent.open(&kit).await.err());
    }
    assert_eq!(shown(&status.unwrap()).2, Code::Busy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_name_gets_no_second_token() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let expires = kit.now().plus(60).0;
    let request = pb::CreateJoinTokenRequest { token_id: "0".repeat(32), join_key_hash: "0".repeat(64), name: "shop".to_owned(), expires };
    let status = kit.operator().await.create_join_token(request).await.unwrap_err();
    assert_eq!(shown(&status).2, Code::AlreadyExists);
    let slice = kit.slice(&agent, "edge", 1, web("a"));
    assert_eq!(applied(&slice).generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_keep_nobody_out() {
    let kit = Kit::new().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(kit.address()).await.unwrap());
    }
    // Even from the address that all the silent ones come from, within the client's patience.
    kit.operator().await.get_cluster(pb::GetClusterRequest {}).await.unwrap();
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_host_is_shown_and_a_new_binding_lets_it_in_again() {
    let kit = Kit::new().await;
    let mut agent = kit.bound("shop", 1).await;
    let newer = agent.renew(&kit, 1).await.unwrap().certificate_chain;
    let old = std::mem::replace(&mut agent.chain, newer);
    drop(agent.open(&kit).await.unwrap());
    agent.chain = old;
    agent.renew(&kit, 1).await.unwrap_err();
    assert!(kit.host("shop").await.locked);
    kit.bind(&agent, "shop", 2).await.unwrap();
    assert!(!kit.host("shop").await.locked);
    assert!(kit.kinds("host_bound").await.last().unwrap().message.contains("locked"));
    // By the certificate that it fell back to, and it can renew from there.
    drop(agent.open(&kit).await.unwrap());
    agent.chain = agent.renew(&kit, 1).await.unwrap().certificate_chain;
    drop(agent.open(&kit).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trust_root_that_only_an_agent_brought_can_be_replaced() {
    let mut kit = Kit::bare().await;
    let foreign = Kit::bare().await.sealed_root(1);
    let held = crate::store::NewRoot { version: 1, payload_sha256: "x".repeat(64), envelope: foreign.json };
    let adoption = crate::store::Adoption { roots: vec![held], ..Default::default() };
    let event = crate::events::NewEvent::hub(crate::events::Kind::Adopted, "test");
    kit.hub().store.adopt(Agent::new(9).id(), adoption, event).await.unwrap();
    let ours = kit.trust_root();
    kit.operator().await.put_root(pb::PutRootRequest { root: Some(ours.clone()) }).await.unwrap();
    assert_eq!(kit.operator().await.get_cluster(pb::GetClusterRequest {}).await.unwrap().into_inner().roots, [ours]);
    kit.bound("shop", 1).await;
}
