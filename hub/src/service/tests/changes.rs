//! Operators' changes: whole whatever becomes of the caller, and refused on the record.

use moorline_common::fault::Code;
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_proto::v1::hub_message::Kind as Said;
use moorline_proto::v1::operator_server::Operator as _;
use tonic::{Request, Response, Status};

use super::{Gateway, Kit, Operator, applied, ready, web};
use crate::auth::{Peer, PeerCertificate, Role};
use crate::service::operator::OperatorService;

/// A request as one of the operator's comes to the service.
fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let certificate = PeerCertificate { role: Role::Operator { name: "ann".to_owned(), is_admin: true }, count: 0, not_after_s: u64::MAX };
    request.extensions_mut().insert(Peer::new(([127, 0, 0, 1], 1).into(), Some(certificate)));
    request
}

/// Makes a call and drops it as soon as the store has what it is about, which `kind` tells, and before the fleet can hear of it.
async fn abandon<T: Send + 'static>(kit: &Kit, kind: &str, call: impl Future<Output = Result<Response<T>, Status>> + Send + 'static) {
    let before = kit.kinds(kind).await.len();
    let held = kit.hub().loading.lock().await;
    let task = tokio::spawn(call);
    kit.until_kinds(kind, before + 1).await;
    task.abort();
    assert!(task.await.is_err_and(|e| e.is_cancelled()), "it was to wait for the fleet");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_whose_caller_goes_away_still_reaches_the_fleet() {
    let kit = Kit::new().await;
    let (agent, late) = (kit.bound("shop", 1).await, kit.bound("late", 2).await);
    let (mut link, mut late_link) = (agent.open(&kit).await.unwrap(), late.open(&kit).await.unwrap());
    link.beat(ready()).await;
    late_link.beat(ready()).await;
    for name in ["shop", "late"] {
        kit.until_host(name, |h| h.heartbeat.is_some()).await;
    }
    let service = || OperatorService::new(kit.hub().clone());

    let slice = kit.slice(&agent, "edge", 1, web("a"));
    let (callee, push) = (service(), request(kit.push_request("edge", 0, std::slice::from_ref(&slice))));
    abandon(&kit, "pushed", async move { callee.push(push).await }).await;
    assert_eq!(link.slice().await, slice);
    link.beat(applied(&slice)).await;

    let late_slice = kit.slice(&late, "edge", 1, web("a"));
    let add = pb::AddSlicesRequest { topology: "edge".to_owned(), generation: 1, slices: vec![kit.sealed(&late_slice)] };
    let (callee, add) = (service(), request(add));
    abandon(&kit, "slices_added", async move { callee.add_slices(add).await }).await;
    assert_eq!(late_link.slice().await, late_slice);

    let binding = request(pb::PutBindingRequest { binding: Some(kit.binding(&agent, "shop", 2)) });
    let callee = service();
    abandon(&kit, "host_bound", async move { callee.put_binding(binding).await }).await;
    assert!(matches!(link.next().await, Said::Binding(_)));
    link.beat(pb::Heartbeat { binding_serial: 2, ..applied(&slice) }).await;

    let root = request(pb::PutRootRequest { root: Some(kit.sealed_root(2)) });
    let callee = service();
    abandon(&kit, "root_stored", async move { callee.put_root(root).await }).await;
    assert!(matches!(link.next().await, Said::Root(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_under_way_are_bounded_even_when_their_callers_go_away() {
    let kit = Kit::new().await;
    let held = kit.hub().loading.lock().await;
    let places = || kit.hub().changes.available_permits();
    for left in (0..crate::limits::CHANGES_MAX).rev() {
        let (service, root) = (OperatorService::new(kit.hub().clone()), request(pb::PutRootRequest { root: kit.root.clone() }));
        let call = tokio::spawn(async move { service.put_root(root).await });
        let taken = async {
            while places() != left {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(super::DEADLINE, taken).await.expect("each call takes a place and keeps it");
        call.abort();
        assert!(call.await.is_err_and(|e| e.is_cancelled()));
    }
    assert_eq!(places(), 0, "those whose callers went away are still under way");
    drop(held);
    kit.operator().await.put_root(pb::PutRootRequest { root: kit.root.clone() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_by_role_or_content_is_on_the_record() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let bad = pb::CreateJoinTokenRequest { token_id: "x".to_owned(), ..Default::default() };
    kit.operator().await.create_join_token(bad).await.unwrap_err();
    let refused = kit.until_kinds("token_refused", 1).await;
    assert_eq!((refused[0].actor.as_str(), refused[0].code.as_str()), ("operator/ann", "invalid_argument"));

    let mut as_operator = Operator::new(kit.channel(Some(agent.identity())).await);
    let status = as_operator.push(pb::PushRequest::default()).await.unwrap_err();
    assert_eq!(from_status(&status).code, Code::PermissionDenied);
    let denied = kit.until_kinds("call_refused", 1).await;
    assert_eq!((denied[0].actor.clone(), denied[0].code.as_str()), (format!("agent/{}", agent.id()), "permission_denied"));

    let mut as_agent = Gateway::new(kit.channel(Some(kit.identity())).await);
    let nothing = tokio_stream::iter([pb::AgentMessage::default()]);
    assert_eq!(from_status(&as_agent.session(nothing).await.unwrap_err()).code, Code::PermissionDenied);
    assert_eq!(from_status(&as_agent.renew(pb::RenewRequest::default()).await.unwrap_err()).code, Code::PermissionDenied);
    assert_eq!(kit.until_kinds("call_refused", 3).await[2].actor, "operator/ann");

    // It is no way to flood the record.
    for _ in 0..2 * crate::limits::DENIALS_PER_MINUTE {
        as_operator.push(pb::PushRequest::default()).await.unwrap_err();
    }
    let written = kit.kinds("call_refused").await.len();
    assert!(written <= 2 * usize::try_from(crate::limits::DENIALS_PER_MINUTE).unwrap(), "{written} events");
}
