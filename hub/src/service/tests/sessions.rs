//! Pushing, converging, refusing, and what operators see of it.

use moorline_common::fault::Code;
use moorline_common::id::{Generation, UnixSeconds};
use moorline_common::observe::Observed;
use moorline_common::sign::Signed;
use moorline_common::statement::{ApplyReport, ObservedReport, RolledBack};
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Say;
use moorline_proto::v1::hub_message::Kind as Said;
use serde_json::json;

use super::{Agent, Kit, applied, ready, web};

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_host_gets_root_binding_and_slice_in_this_order() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let slice = kit.pushed(&agent, web("a")).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(pb::Heartbeat { engine: pb::EngineState::Ready.into(), ..Default::default() }).await;
    assert!(matches!(link.next().await, Said::Root(_)));
    assert!(matches!(link.next().await, Said::Binding(_)));
    link.beat(ready()).await;
    assert_eq!(link.slice().await, slice);
    assert!(!kit.host("shop").await.converged);
    link.beat(applied(&slice)).await;
    let host = kit.until_host("shop", |h| h.converged).await;
    assert_eq!((host.target_topology.as_str(), host.target_generation, host.connected), ("edge", 1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_does_not_match_is_pushed_again_and_applied_is_told_once() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let slice = kit.pushed(&agent, web("a")).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.slice().await;
    link.beat(applied(&slice)).await;
    kit.until_host("shop", |h| h.converged).await;
    link.beat(pb::Heartbeat { applied_hash: "edited by hand".to_owned(), ..applied(&slice) }).await;
    assert_eq!(link.slice().await, slice);
    link.beat(applied(&slice)).await;
    kit.until_host("shop", |h| h.converged).await;
    kit.until_kinds("applied", 1).await;
    kit.until_at_least("slice_sent", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_revision_reaches_a_connected_host_at_once() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    for generation in 1..=3 {
        let slice = kit.slice(&agent, "edge", generation, web(&format!("image-{generation}")));
        kit.push("edge", generation - 1, std::slice::from_ref(&slice)).await.unwrap();
        assert_eq!(link.slice().await, slice);
        link.beat(applied(&slice)).await;
        kit.until_host("shop", |h| h.converged && h.target_generation == generation).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_restarted_is_sent_its_slice_again() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let slice = kit.pushed(&agent, web("a")).await;
    for _ in 0..2 {
        let mut link = agent.open(&kit).await.unwrap();
        link.beat(pb::Heartbeat { enforcing: false, ..applied(&slice) }).await;
        assert_eq!(link.slice().await, slice);
        link.beat(applied(&slice)).await;
        kit.until_host("shop", |h| h.converged && h.connected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_went_back_from_is_not_sent_again_and_said_with_the_reason() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let first = kit.pushed(&agent, web("a")).await;
    let failed = kit.slice(&agent, "edge", 2, web("b"));
    kit.push("edge", 1, std::slice::from_ref(&failed)).await.unwrap();
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(applied(&first)).await;
    assert_eq!(link.slice().await, failed);
    let fault = moorline_common::fault::Fault::new(Code::RolledBack, "back at generation 1: not confirmed in time");
    let rolled_back =
        RolledBack { generation: Generation(2), to: Generation(1), reason: "not confirmed in time".into(), at: UnixSeconds(1) };
    let apply = ApplyReport { last_error: Some(fault), rolled_back: Some(rolled_back), ..ApplyReport::default() };
    link.say(Say::Observed(report(&agent, Observed::default(), apply))).await;
    let gone_back = pb::Heartbeat {
        generation: 2,
        rolled_back_generation: 2,
        last_error_code: "rolled_back".to_owned(),
        observed_digest: Observed::default().digest(),
        ..applied(&first)
    };
    link.beat(gone_back.clone()).await;
    let said = kit.until_kinds("error", 1).await;
    assert!(said[0].code == "rolled_back" && said[0].message.contains("not confirmed in time"), "{said:?}");
    let short = std::time::Duration::from_millis(20);
    for beats in 1..=50 {
        kit.clock.advance(std::time::Duration::from_secs(30));
        link.beat(pb::Heartbeat { journal_seq: beats, ..gone_back.clone() }).await;
        assert!(tokio::time::timeout(short, link.inbound.message()).await.is_err(), "the failed slice was sent again");
    }
    let shown = kit.host("shop").await;
    assert!(!shown.converged && shown.heartbeat.unwrap().rolled_back_generation == 2);
    // Neither by a hub that was started anew; but an agent that was has to be let enforce what it went back to.
    kit.stop().await;
    kit.start().await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(gone_back.clone()).await;
    assert!(tokio::time::timeout(10 * short, link.inbound.message()).await.is_err());
    link.beat(pb::Heartbeat { enforcing: false, ..gone_back }).await;
    assert_eq!(link.slice().await, failed);
    let mended = kit.slice(&agent, "edge", 3, web("c"));
    kit.push("edge", 2, std::slice::from_ref(&mended)).await.unwrap();
    assert_eq!(link.slice().await, mended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definite_refusal_is_shown_and_not_pushed_again() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    kit.pushed(&agent, web("a")).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.refuse("policy_denied", "bind mount outside its roots").await;
    let host = kit.until_host("shop", |h| h.last_error.is_some()).await;
    assert_eq!(host.last_error.unwrap().code, "policy_denied");
    assert_eq!(kit.until_kinds("refused", 1).await[0].code, "policy_denied");
    // Heartbeats that say the same lead to nothing; a new revision does.
    link.beat(ready()).await;
    let next = kit.slice(&agent, "edge", 2, web("b"));
    kit.push("edge", 1, std::slice::from_ref(&next)).await.unwrap();
    assert_eq!(link.slice().await.generation.0, 2);
    link.beat(applied(&next)).await;
    let host = kit.until_host("shop", |h| h.converged).await;
    assert_eq!(host.last_error, None);
    kit.until_at_least("slice_sent", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_outlives_the_hub() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    kit.pushed(&agent, web("a")).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.refuse("policy_denied", "no").await;
    kit.until_host("shop", |h| h.last_error.is_some()).await;
    kit.stop().await;
    kit.start().await;
    let host = kit.host("shop").await;
    assert_eq!((host.last_error.unwrap().code, host.connected), ("policy_denied".to_owned(), false));
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_that_are_not_as_signed_are_refused_early() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let other = kit.bound("other", 2).await;
    let good = kit.slice(&agent, "edge", 1, web("a"));
    let push = async |slice: pb::HostSlice| {
        let source = kit.push("edge", 0, &[]).await;
        drop(source);
        let request = pb::AddSlicesRequest { topology: "edge".to_owned(), generation: 1, slices: vec![slice] };
        from_status(&kit.operator().await.add_slices(request).await.unwrap_err()).code
    };
    let stranger = Signed::seal(&good, &[&super::seed(77)]).unwrap();
    let by_stranger = pb::HostSlice { host_id: agent.id().to_string(), slice: Some(stranger.envelope().into()) };
    assert_eq!(push(by_stranger).await, Code::UnknownKey);
    let mut tampered = Signed::seal(&good, &[&kit.key]).unwrap().envelope().clone();
    *tampered.payload.last_mut().unwrap() = b' ';
    let tampered = pb::HostSlice { host_id: agent.id().to_string(), slice: Some((&tampered).into()) };
    assert_eq!(push(tampered).await, Code::BadSignature);
    let mut for_other = kit.sealed(&good);
    for_other.host_id = other.id().to_string();
    assert_eq!(push(for_other).await, Code::WrongHost);
    let mut wrong_hash = good.clone();
    wrong_hash.content = web("b");
    assert_eq!(push(kit.sealed(&wrong_hash)).await, Code::HashMismatch);
    let elsewhere = kit.slice(&agent, "edge", 7, web("a"));
    assert_eq!(push(kit.sealed(&elsewhere)).await, Code::InvalidArgument);
    assert!(kit.kinds("push_refused").await.len() >= 5);
    assert_eq!(kit.host("shop").await.target_topology, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_trust_root_nothing_can_be_bound_or_pushed() {
    let kit = Kit::bare().await;
    let agent = kit.joined("shop", 1).await;
    let status = kit.bind(&agent, "shop", 1).await.unwrap_err();
    assert_eq!(from_status(&status).code, Code::NoTrustRoot);
    let status = kit.push("edge", 0, &[]).await.unwrap_err();
    assert_eq!(from_status(&status).code, Code::NoTrustRoot);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_operators_is_told_that_the_base_moved() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let (a, b) = (kit.slice(&agent, "edge", 1, web("a")), kit.slice(&agent, "edge", 1, web("b")));
    let (a, b) = ([a], [b]);
    let (first, second) = tokio::join!(kit.push("edge", 0, &a), kit.push("edge", 0, &b));
    let (won, lost) = if first.is_ok() { (first, second) } else { (second, first) };
    assert_eq!(won.unwrap(), 1);
    let status = lost.unwrap_err();
    assert_eq!((status.code(), from_status(&status).code), (tonic::Code::Aborted, Code::BaseMoved));
    assert!(status.message().contains("generation 1"), "{}", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_down_host_is_free_for_another_topology() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let up = kit.pushed(&agent, web("a")).await;
    let other = kit.slice(&agent, "other", 1, web("b"));
    let status = kit.push("other", 0, std::slice::from_ref(&other)).await.unwrap_err();
    assert_eq!((status.code(), from_status(&status).code), (tonic::Code::FailedPrecondition, Code::AlreadyApplied));
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.slice().await;
    link.beat(applied(&up)).await;
    let down = kit.slice(&agent, "edge", 2, json!({}));
    kit.push("edge", 1, std::slice::from_ref(&down)).await.unwrap();
    assert_eq!(link.slice().await, down);
    kit.push("other", 0, std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(kit.host("shop").await.target_topology, "edge", "the teardown is not confirmed yet");
    link.beat(applied(&down)).await;
    assert_eq!(link.slice().await, other);
    link.beat(applied(&other)).await;
    kit.until_host("shop", |h| h.converged && h.target_topology == "other").await;
}

fn report(agent: &Agent, observed: Observed, apply: ApplyReport) -> pb::Observed {
    let digest = observed.digest();
    let statement = ObservedReport { host_id: agent.id(), taken_at: moorline_common::id::UnixSeconds(1), observed, apply };
    let signed = Signed::seal(&statement, &[&agent.host]).unwrap();
    pb::Observed { report: Some(signed.envelope().into()), digest, apply_digest: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_error_shows_with_its_words_and_missing_resources_lead_to_a_push() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let slice = kit.pushed(&agent, web("a")).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(applied(&slice)).await;
    kit.until_host("shop", |h| h.converged).await;
    let fault = moorline_common::fault::Fault::new(Code::ImageUnavailable, "image `a` cannot be pulled: no such host");
    let apply = ApplyReport { last_error: Some(fault), ..ApplyReport::default() };
    let observed = Observed::default();
    let digest = observed.digest();
    let failing = pb::Heartbeat { last_error_code: "image_unavailable".to_owned(), observed_digest: digest, ..applied(&slice) };
    link.beat(failing.clone()).await;
    link.say(Say::Observed(report(&agent, observed, apply))).await;
    // Nothing of it is there. The agent is given time to mend it; then the slice is sent again.
    let (mut waits, short) = (0, std::time::Duration::from_millis(50));
    while tokio::time::timeout(short, link.inbound.message()).await.is_err() {
        waits += 1;
        assert!(waits < 200, "the slice is not sent again");
        kit.clock.advance(std::time::Duration::from_secs(1));
        link.beat(pb::Heartbeat { journal_seq: waits, ..failing.clone() }).await;
    }
    let sent = kit.until_at_least("slice_sent", 1).await;
    assert!(sent[0].message.contains("resources missing (try 1)"), "{sent:?}");
    let host = kit.host("shop").await;
    assert!(!host.converged);
    assert!(host.last_error.unwrap().message.contains("no such host"));
    assert_eq!(kit.until_kinds("error", 1).await[0].code, "image_unavailable");
    let request = pb::GetReportRequest { host_id: agent.id().to_string(), anew: false };
    let stored = kit.operator().await.get_report(request).await.unwrap().into_inner();
    let verified = Signed::<ObservedReport>::from_json(&stored.report.unwrap().json).unwrap().verify_by_host(&agent.host.public());
    assert_eq!(verified.unwrap().statement().host_id, agent.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_an_error_outlive_the_hub() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(pb::Heartbeat { last_error_code: "image_unavailable".to_owned(), ..ready() }).await;
    let fault = moorline_common::fault::Fault::new(Code::ImageUnavailable, "no such image");
    let apply = ApplyReport { last_error: Some(fault), ..ApplyReport::default() };
    link.say(Say::Observed(report(&agent, Observed::default(), apply))).await;
    let words = |h: &pb::Host| h.last_error.as_ref().is_some_and(|f| f.message == "no such image");
    kit.until_host("shop", words).await;
    kit.stop().await;
    kit.start().await;
    assert!(!kit.until_host("shop", words).await.connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_is_one_event_whether_report_or_heartbeat_comes_first() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    // What merely waits is no error.
    let resource = moorline_common::id::ResourceId::parse("docker/container/edge-app-1").unwrap();
    let waits = moorline_common::statement::Trouble { resource, code: Code::Waiting, message: "waits for `edge-db-1`".to_owned() };
    let apply = ApplyReport { troubles: vec![waits], ..ApplyReport::default() };
    link.say(Say::Observed(report(&agent, Observed::default(), apply))).await;
    let failing = pb::Heartbeat { last_error_code: "image_unavailable".to_owned(), ..ready() };
    let fault = moorline_common::fault::Fault::new(Code::ImageUnavailable, "no such image");
    let apply = ApplyReport { last_error: Some(fault), ..ApplyReport::default() };
    link.say(Say::Observed(report(&agent, Observed::default(), apply))).await;
    for _ in 0..3 {
        link.beat(failing.clone()).await;
    }
    link.beat(pb::Heartbeat { journal_seq: 9, ..failing }).await;
    kit.until_host("shop", |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 9)).await;
    assert_eq!(kit.until_kinds("error", 1).await[0].message, "no such image");
    // One without words is told without them, one heartbeat later.
    for _ in 0..3 {
        link.beat(pb::Heartbeat { last_error_code: "busy".to_owned(), ..ready() }).await;
    }
    assert_eq!(kit.until_kinds("error", 2).await[1].code, "busy");
    link.beat(pb::Heartbeat { engine: pb::EngineState::Unreachable.into(), ..ready() }).await;
    assert_eq!(kit.until_kinds("error", 3).await[2].code, "engine_unreachable");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_the_host_has_not_signed_is_not_kept() {
    let kit = Kit::new().await;
    let (agent, other) = (kit.bound("shop", 1).await, kit.bound("other", 2).await);
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    link.say(Say::Observed(report(&other, Observed::default(), ApplyReport::default()))).await;
    // Nor one that it has signed itself, about another host or with another digest.
    let about_other = ObservedReport {
        host_id: other.id(),
        taken_at: moorline_common::id::UnixSeconds(1),
        observed: Observed::default(),
        apply: ApplyReport::default(),
    };
    let signed = Signed::seal(&about_other, &[&agent.host]).unwrap();
    let digest = Observed::default().digest();
    link.say(Say::Observed(pb::Observed { report: Some(signed.envelope().into()), digest, apply_digest: String::new() })).await;
    let own = report(&agent, Observed::default(), ApplyReport::default());
    link.say(Say::Observed(pb::Observed { digest: "0".repeat(64), ..own })).await;
    let refused: Vec<String> = kit.until_kinds("report_refused", 3).await.into_iter().map(|e| e.code).collect();
    assert_eq!(refused[1..], ["wrong_host", "hash_mismatch"]);
    let request = pb::GetReportRequest { host_id: agent.id().to_string(), anew: false };
    assert_eq!(kit.operator().await.get_report(request).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_cannot_be_read_is_refused_and_the_session_goes_on() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    let large = pb::Envelope { json: vec![b' '; moorline_common::sign::ENVELOPE_MAX + 1] };
    for report in [Some(large), Some(pb::Envelope { json: b"{".to_vec() }), None] {
        link.say(Say::Observed(pb::Observed { report, digest: String::new(), apply_digest: String::new() })).await;
    }
    link.beat(pb::Heartbeat { journal_seq: 1, ..ready() }).await;
    kit.until_host("shop", |h| h.connected && h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 1)).await;
    let refused = kit.until_kinds("report_refused", 3).await;
    assert_eq!(refused[0].code, "too_large");
    assert_eq!(kit.kinds("connected").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_trust_root_reaches_connected_hosts_and_others_are_refused() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    kit.until_host("shop", |h| h.heartbeat.is_some()).await;
    let put = async |version| kit.operator().await.put_root(pb::PutRootRequest { root: Some(kit.sealed_root(version)) }).await;
    assert_eq!(from_status(&put(3).await.unwrap_err()).code, Code::BadRoot);
    kit.clock.advance(std::time::Duration::from_secs(5));
    assert_eq!(from_status(&put(1).await.unwrap_err()).code, Code::AlreadyExists, "another one of a stored version");
    put(2).await.unwrap();
    assert!(matches!(link.next().await, Said::Root(_)));
    assert_eq!(kit.until_kinds("root_refused", 2).await[0].code, "bad_root");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_cannot_flood_the_record() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    for n in 0..200 {
        let fault = pb::Fault { code: "bad_content".to_owned(), message: format!("{n}") };
        link.say(Say::Refusal(pb::Refusal { fault: Some(fault), payload_sha256: format!("{n:064}"), kind: "op".to_owned() })).await;
    }
    link.beat(pb::Heartbeat { journal_seq: 1, ..ready() }).await;
    kit.until_host("shop", |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 1)).await;
    let written = kit.kinds("refused").await.len();
    assert!(written <= 2 * usize::try_from(crate::limits::HOST_EVENTS_PER_MINUTE).unwrap(), "{written} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_session_of_a_host_ends_the_first() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut first = agent.open(&kit).await.unwrap();
    let _second = agent.open(&kit).await.unwrap();
    assert!(first.inbound.message().await.is_err());
    assert!(kit.host("shop").await.connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_falls_silent_is_cut() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    kit.until_host("shop", |h| h.heartbeat.is_some()).await;
    kit.clock.advance(std::time::Duration::from_secs(60));
    assert!(link.inbound.message().await.is_err());
    kit.until_host("shop", |h| !h.connected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_events_see_what_comes_in_order() {
    let kit = Kit::new().await;
    let request = pb::EventsRequest { after: 0, limit: 1, follow: true };
    let mut stream = kit.operator().await.events(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    kit.bound("shop", 1).await;
    let mut kinds = Vec::new();
    let mut sequence = first.sequence;
    while kinds.len() < 3 {
        let event = tokio::time::timeout(super::DEADLINE, stream.message()).await.unwrap().unwrap().unwrap();
        assert_eq!(event.sequence, sequence + 1);
        sequence = event.sequence;
        kinds.push(event.kind);
    }
    assert_eq!(kinds, ["token_created", "host_joined", "host_bound"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_hub_tells_its_sessions_and_followers() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(ready()).await;
    let mut events = kit.operator().await.events(pb::EventsRequest { after: 0, limit: 1, follow: true }).await.unwrap().into_inner();
    events.message().await.unwrap();
    kit.stop().await;
    let session = link.inbound.message().await.unwrap_err();
    assert_eq!(session.code(), tonic::Code::Unavailable, "{session:?}");
    loop {
        match events.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the follower was not told"),
            Err(status) => break assert_eq!(status.code(), tonic::Code::Unavailable),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_sent_away_when_their_certificate_ends() {
    let kit = Kit::new().await;
    let mut stream = kit.operator().await.events(pb::EventsRequest { after: 0, limit: 1, follow: true }).await.unwrap().into_inner();
    stream.message().await.unwrap();
    kit.clock.advance(std::time::Duration::from_secs(366 * 24 * 3600));
    kit.hub().record(crate::events::NewEvent::hub(crate::events::Kind::Pushed, "later")).await;
    let ended = loop {
        match tokio::time::timeout(super::DEADLINE, stream.message()).await.unwrap() {
            Ok(event) => assert_ne!(event.expect("the hub says why").message, "later"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), tonic::Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_report_is_shown_at_once_and_outlives_the_hub() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    for n in 0..20 {
        let apply = ApplyReport { generation: moorline_common::id::Generation(n), ..ApplyReport::default() };
        link.say(Say::Observed(report(&agent, Observed::default(), apply))).await;
    }
    link.beat(pb::Heartbeat { journal_seq: 7, ..ready() }).await;
    kit.until_host("shop", |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 7)).await;
    let request = pb::GetReportRequest { host_id: agent.id().to_string(), anew: false };
    let shown = async |kit: &Kit| {
        let report = kit.operator().await.get_report(request.clone()).await.unwrap().into_inner().report.unwrap();
        Signed::<ObservedReport>::from_json(&report.json).unwrap().peek().unwrap().apply.generation.0
    };
    assert_eq!(shown(&kit).await, 19);
    kit.stop().await;
    kit.start().await;
    assert_eq!(shown(&kit).await, 19);
    assert_eq!(kit.host("shop").await.heartbeat.unwrap().journal_seq, 7);
}
