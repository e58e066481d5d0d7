//! Each refusal by its code, and what is durable before anything acts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moorline_common::fault::Code;
use moorline_common::id::{ClusterId, Generation, HostEpoch, HostId, HostName, TopologyId, UnixSeconds, VersionHash};
use moorline_common::sign::PrivateKey;
use moorline_common::statement::Sealed;
use moorline_common::trust::TrustRoot;
use serde_json::{Value, json};

use super::*;
use crate::testing::{NOW, Operator, services};

struct Bench {
    _dir: tempfile::TempDir,
    operator: Operator,
    intake: Intake,
    db: crate::db::Db,
}

async fn ready() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let operator = Operator::new(dir.path());
    let db = crate::db::Db::open(dir.path()).unwrap();
    let intake = operator.ready_intake(&db).await;
    Bench { _dir: dir, operator, intake, db }
}

fn web() -> Value {
    services(&["web"], false)
}

impl Bench {
    /// The code with which a slice is refused; checks that nothing came of it.
    async fn refused(&mut self, json: Vec<u8>) -> Code {
        let (before, rows) = (self.intake.target().borrow().pushes, Ledger::new(self.db.clone()).standing().unwrap());
        let refused = self.intake.slice(json).await.unwrap_err();
        assert_eq!(self.intake.target().borrow().pushes, before);
        assert_eq!(Ledger::new(self.db.clone()).standing().unwrap(), rows);
        assert_eq!((refused.kind, refused.payload_sha256.len()), ("slice", 64));
        refused.fault.code
    }
}

#[tokio::test]
async fn a_binding_for_another_sealing_key_is_refused() {
    let mut bench = ready().await;
    let other = bench.operator.binding(|b| (b.serial, b.sealing_key) = (2, [9; 32]));
    assert_eq!(bench.intake.binding(other).await.unwrap_err().fault.code, Code::BadContent);
}

#[tokio::test]
async fn an_order_for_the_life_before_the_last_is_refused_also_when_the_old_binding_is_all_there_is() {
    let bench = ready().await;
    let order = bench.operator.order("restart", "docker/container/edge-web-1", json!({}), |_| {});
    let envelope = || gate::read_envelope(&order).unwrap();
    assert!(bench.intake.gate().read(envelope()).await.is_ok());
    let own = Own { epoch: HostEpoch::parse("f".repeat(32)).unwrap(), ..bench.intake.gate().own().clone() };
    let gate = gate::Gate { own, ..bench.intake.gate() };
    assert_eq!(gate.read(envelope()).await.unwrap_err().code, Code::WrongEpoch);
}

#[tokio::test]
async fn an_accepted_slice_is_durable_before_the_reconciler_sees_it() {
    let mut bench = ready().await;
    let mut target = bench.intake.target();
    bench.intake.slice(bench.operator.slice(1, web())).await.unwrap();
    assert!(target.has_changed().unwrap());
    assert_eq!(target.borrow_and_update().desired.as_ref().unwrap().admission.generation, Generation(1));
    let standing = Ledger::new(bench.db.clone()).standing().unwrap();
    assert_eq!((standing.generation, standing.applied), (Generation(1), None));
    // Time since then counts as well.
    let floor = Ledger::new(bench.db.clone()).time_floor().unwrap().at;
    assert!((UnixSeconds(NOW)..UnixSeconds(NOW + 3600)).contains(&floor), "{floor:?}");
    // The same bytes again are no news, but wake the reconciler.
    bench.intake.slice(bench.operator.slice(1, web())).await.unwrap();
    assert_eq!(target.borrow().pushes, 2);
}

#[tokio::test]
async fn a_slice_that_is_not_what_an_operator_signed_is_refused() {
    let mut bench = ready().await;
    let slice = bench.operator.slice(1, web());
    assert_eq!(bench.refused(vec![b' '; 5 * 1024 * 1024]).await, Code::TooLarge);
    assert_eq!(bench.refused(b"{}".to_vec()).await, Code::BadEnvelope);
    assert_eq!(bench.refused(bench.operator.binding(|_| {})).await, Code::WrongType);

    let mut envelope = Envelope::from_json(&slice).unwrap();
    let last = envelope.payload.len() - 2;
    envelope.payload[last] ^= 1;
    assert_eq!(bench.refused(envelope.to_json()).await, Code::BadSignature);

    let statement = Signed::<SliceStatement>::from_json(&slice).unwrap().peek().unwrap();
    let stranger = PrivateKey::from_seed(&[9; 32]);
    assert_eq!(bench.refused(bench.operator.seal_with(&statement, &stranger)).await, Code::UnknownKey);
    // The recovery key may sign roots, and nothing else.
    let recovery = PrivateKey::from_seed(&[2; 32]);
    assert_eq!(bench.refused(bench.operator.seal_with(&statement, &recovery)).await, Code::OutOfScope);
    bench.intake.slice(slice).await.unwrap();
}

#[tokio::test]
async fn a_slice_for_somebody_else_or_with_other_content_is_refused() {
    let mut bench = ready().await;
    let other = bench.operator.slice_with(1, web(), |s| s.cluster = ClusterId::parse("other").unwrap());
    assert_eq!(bench.refused(other).await, Code::WrongCluster);
    let other = bench.operator.slice_with(1, web(), |s| s.host_id = HostId::of_key(&[7; 32]));
    assert_eq!(bench.refused(other).await, Code::WrongHost);
    let other = bench.operator.slice_with(1, web(), |s| s.version_hash = VersionHash::of_bytes(b"x"));
    assert_eq!(bench.refused(other).await, Code::HashMismatch);
    let newer = json!({ "docker": { "services": {} }, "teleport": {} });
    assert_eq!(bench.refused(bench.operator.slice(1, newer)).await, Code::BadContent);
}

#[tokio::test]
async fn generations_never_fall_and_one_generation_has_one_content() {
    let mut bench = ready().await;
    bench.intake.slice(bench.operator.slice(5, web())).await.unwrap();
    assert_eq!(bench.refused(bench.operator.slice(4, web())).await, Code::GenerationRegressed);
    assert_eq!(bench.refused(bench.operator.slice(5, services(&["other"], false))).await, Code::Equivocation);
    let same_content = bench.operator.slice_with(5, web(), |s| s.issued_at = UnixSeconds(NOW + 1));
    assert_eq!(bench.refused(same_content).await, Code::Equivocation);
    // A rollback is a new generation with old content.
    bench.intake.slice(bench.operator.slice(6, web())).await.unwrap();
}

#[tokio::test]
async fn the_floors_in_a_binding_count_too() {
    let mut bench = ready().await;
    let edge = TopologyId::parse("edge").unwrap();
    let binding = bench.operator.binding(|b| {
        b.serial = 2;
        b.generation_floors.insert(edge.clone(), Generation(10));
    });
    bench.intake.binding(binding).await.unwrap();
    assert_eq!(bench.refused(bench.operator.slice(9, web())).await, Code::GenerationRegressed);
    bench.intake.slice(bench.operator.slice(10, web())).await.unwrap();
}

#[tokio::test]
async fn a_second_topology_is_refused_until_the_first_is_gone() {
    let mut bench = ready().await;
    bench.intake.slice(bench.operator.slice(1, web())).await.unwrap();
    let other = || bench.operator.slice_with(1, web(), |s| s.topology = TopologyId::parse("other").unwrap());
    let (first, second) = (other(), other());
    assert_eq!(bench.refused(first).await, Code::AlreadyApplied, "a marker pins as well");
    let ledger = Ledger::new(bench.db.clone());
    bench.intake.slice(bench.operator.slice(2, json!({}))).await.unwrap();
    ledger.clear(&TopologyId::parse("edge").unwrap(), FloorState::TornDown).unwrap();
    bench.intake.slice(second).await.unwrap();
    assert_eq!(bench.refused(bench.operator.slice(1, web())).await, Code::GenerationRegressed, "the floor outlives the topology");
}

#[tokio::test]
async fn a_late_slice_is_refused_but_one_that_was_accepted_in_time_stays() {
    let mut bench = ready().await;
    let past = |s: &mut SliceStatement| s.deliver_by = UnixSeconds(NOW - 1);
    // The wall clock of a test machine may be anywhere: the floor alone is past `deliver_by`.
    bench.intake.slice(bench.operator.slice(1, web())).await.unwrap();
    assert_eq!(bench.refused(bench.operator.slice_with(2, web(), past)).await, Code::Expired);

    let soon = Clock.wall().max(UnixSeconds(NOW)).plus(3600);
    let slice = bench.operator.slice_with(2, web(), |s| s.deliver_by = soon);
    bench.intake.slice(slice.clone()).await.unwrap();
    let later = bench.operator.binding(|b| {
        b.serial = 2;
        b.issued_at = soon.plus(3600);
    });
    bench.intake.binding(later).await.unwrap();
    bench.intake.slice(slice).await.unwrap();
    let fresh = bench.operator.slice_with(3, web(), |s| s.deliver_by = soon);
    assert_eq!(bench.refused(fresh).await, Code::Expired);
}

#[tokio::test]
async fn the_host_gives_away_only_what_its_own_policy_allows() {
    let mut bench = ready().await;
    let mounting = |source: &str| {
        let mounts = json!({ "/data": { "type": "bind", "source": source } });
        json!({ "docker": { "services": { "web": { "image": "demo:1", "volumes": mounts } } } })
    };
    for denied in ["/etc", "/srv/moorlineX", "/srv/moorline/../../etc", "/var/run/docker.sock", "/run/docker.sock", "/", "/var/run"] {
        assert_eq!(bench.refused(bench.operator.slice(1, mounting(denied))).await, Code::PolicyDenied, "{denied}");
    }
    let by_option = json!({ "docker": { "volumes": { "v": { "driver_opts": { "type": "none", "o": "bind", "device": "/etc" } } } } });
    assert_eq!(bench.refused(bench.operator.slice(1, by_option)).await, Code::PolicyDenied);
    bench.intake.slice(bench.operator.slice(1, mounting("/srv/moorline/web"))).await.unwrap();
}

#[tokio::test]
async fn even_a_host_that_gives_away_every_path_keeps_its_engine() {
    let mut bench = ready().await;
    bench.intake.parts.policy = Policy { bind_roots: vec!["/".into(), "/srv/sock/docker.sock".into()], ..Policy::default() };
    let mounting = |source: &str| {
        let mounts = json!({ "/data": { "type": "bind", "source": source } });
        json!({ "docker": { "services": { "web": { "image": "demo:1", "volumes": mounts } } } })
    };
    for denied in ["/run", "/run/docker.sock", "/var/run", "/other/docker.sock"] {
        assert_eq!(bench.refused(bench.operator.slice(1, mounting(denied))).await, Code::PolicyDenied, "{denied}");
    }
    bench.intake.slice(bench.operator.slice(1, mounting("/etc"))).await.unwrap();
    bench.intake.slice(bench.operator.slice(2, mounting("/srv/sock/docker.sock"))).await.unwrap();
}

#[tokio::test]
async fn without_root_or_binding_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let operator = Operator::new(dir.path());
    let mut intake = operator.intake(&crate::db::Db::open(dir.path()).unwrap());
    let code = |r: Result<(), Refused>| r.unwrap_err().fault.code;
    assert_eq!(code(intake.slice(operator.slice(1, web())).await), Code::NoTrustRoot);
    assert_eq!(code(intake.binding(operator.binding(|_| {})).await), Code::NoTrustRoot);
    intake.root(operator.root.envelope().to_json()).await.unwrap();
    assert_eq!(code(intake.slice(operator.slice(1, web())).await), Code::NotApproved);
    let older_life = operator.binding(|b| b.host_epoch = HostEpoch::parse("0".repeat(32)).unwrap());
    assert_eq!(code(intake.binding(older_life).await), Code::WrongEpoch);
}

#[tokio::test]
async fn bindings_are_replaced_only_by_higher_serials() {
    let mut bench = ready().await;
    bench.intake.binding(bench.operator.binding(|b| b.serial = 3)).await.unwrap();
    bench.intake.binding(bench.operator.binding(|b| b.serial = 3)).await.unwrap();
    let code = |r: Result<(), Refused>| r.unwrap_err().fault.code;
    assert_eq!(code(bench.intake.binding(bench.operator.binding(|b| b.serial = 2)).await), Code::GenerationRegressed);
    let other = bench.operator.binding(|b| {
        b.serial = 3;
        b.labels.insert("site".to_owned(), "sydney".to_owned());
    });
    assert_eq!(code(bench.intake.binding(other).await), Code::Equivocation);
}

#[tokio::test]
async fn a_binding_that_a_new_root_no_longer_covers_still_keeps_older_ones_out() {
    let mut bench = ready().await;
    bench.intake.binding(bench.operator.binding(|b| b.serial = 5)).await.unwrap();
    let bindings_of_others_only = |r: &mut TrustRoot| r.roles.get_mut("operator").unwrap().hosts = vec!["other-*".to_owned()];
    bench.intake.root(bench.operator.next_root(bindings_of_others_only)).await.unwrap();
    assert!(!bench.intake.trust().borrow().is_ready());
    let mut again = bench.operator.intake(&bench.db);
    again.root(bench.operator.next_root(|r| r.version = 3)).await.unwrap();
    let code = |r: Result<(), Refused>| r.unwrap_err().fault.code;
    assert_eq!(code(again.binding(bench.operator.binding(|b| b.serial = 4)).await), Code::GenerationRegressed);
    let other = bench.operator.binding(|b| (b.serial, b.issued_at) = (5, UnixSeconds(NOW + 1)));
    assert_eq!(code(again.binding(other).await), Code::Equivocation);
    again.binding(bench.operator.binding(|b| b.serial = 5)).await.unwrap();
    assert!(again.trust().borrow().is_ready());
}

#[tokio::test]
async fn a_host_is_not_taken_over_by_renaming_it() {
    let mut bench = ready().await;
    bench.intake.binding(bench.operator.binding(|b| (b.serial, b.name) = (2, HostName::parse("vault").unwrap()))).await.unwrap();
    let shops_only = |r: &mut TrustRoot| r.roles.get_mut("operator").unwrap().hosts = vec!["shop-*".to_owned()];
    bench.intake.root(bench.operator.next_root(shops_only)).await.unwrap();
    let code = |r: Result<(), Refused>| r.unwrap_err().fault.code;
    assert_eq!(code(bench.intake.binding(bench.operator.binding(|b| b.serial = 3)).await), Code::OutOfScope);
}

#[tokio::test]
async fn a_change_waits_for_its_window_and_what_is_held_is_enforced_meanwhile() {
    let mut bench = ready().await;
    // A minute of each day, and not one of those in which this test runs.
    let minute = (Clock.wall().0 / 60 + 12 * 60) % (24 * 60);
    let windows = json!([{ "start": format!("{:02}:{:02}", minute / 60, minute % 60), "duration_s": 60, "timezone": "UTC" }]);
    let content = |names: &[&str]| {
        let mut content = services(names, false);
        content["policy"] = json!({ "drift": "heal", "maintenance": windows });
        content
    };
    bench.intake.slice(bench.operator.slice(1, content(&["web"]))).await.unwrap();
    let next = bench.operator.slice(2, content(&["web", "cache"]));
    assert_eq!(bench.refused(next.clone()).await, Code::OutsideMaintenance);
    bench.intake.slice(bench.operator.slice(2, content(&["web"]))).await.unwrap();
    let at_once = bench.operator.slice_with(3, content(&["cache"]), |s| s.at_once = true);
    bench.intake.slice(at_once).await.unwrap();
    // After a start the hub has the newest one only: it says that the host still follows its topology.
    bench.intake = bench.operator.ready_intake(&bench.db).await;
    assert!(bench.intake.target().borrow().desired.is_none());
    let refused = bench.intake.slice(bench.operator.slice(4, content(&["web"]))).await.unwrap_err();
    assert_eq!(refused.fault.code, Code::OutsideMaintenance);
    assert_eq!(bench.intake.target().borrow().desired.as_ref().unwrap().accepted, Generation(3));
    let nowhere = json!([{ "start": "02:00", "duration_s": 60, "timezone": "Mars/Base" }]);
    let mut mars = content(&["web"]);
    mars["policy"]["maintenance"] = nowhere;
    assert_eq!(bench.refused(bench.operator.slice(4, mars)).await, Code::BadContent);
    // To be taken down waits for nothing.
    bench.intake.slice(bench.operator.slice(5, json!({}))).await.unwrap();
}

#[tokio::test]
async fn what_was_signed_in_the_future_is_refused_and_does_not_move_time() {
    let mut bench = ready().await;
    let far = Clock.wall().plus(3 * 24 * 3600);
    let before = Ledger::new(bench.db.clone()).time_floor().unwrap().at;
    assert_eq!(bench.refused(bench.operator.slice_with(1, web(), |s| s.issued_at = far)).await, Code::NotYetValid);
    let code = |r: Result<(), Refused>| r.unwrap_err().fault.code;
    assert_eq!(code(bench.intake.binding(bench.operator.binding(|b| (b.serial, b.issued_at) = (2, far))).await), Code::NotYetValid);
    assert_eq!(code(bench.intake.root(bench.operator.next_root(|r| r.issued_at = far)).await), Code::NotYetValid);
    assert_eq!(Ledger::new(bench.db.clone()).time_floor().unwrap().at, before);
    let soon = Clock.wall().plus(3600);
    bench.intake.slice(bench.operator.slice_with(1, web(), |s| s.issued_at = soon)).await.unwrap();
}

#[tokio::test]
async fn what_was_taken_down_on_the_host_comes_back_only_in_time() {
    let mut bench = ready().await;
    let soon = Clock.wall().plus(3600);
    let slice = bench.operator.slice_with(1, web(), |s| s.deliver_by = soon);
    bench.intake.slice(slice.clone()).await.unwrap();
    Ledger::new(bench.db.clone()).clear(&TopologyId::parse("edge").unwrap(), FloorState::Cleared).unwrap();
    let later = bench.operator.binding(|b| (b.serial, b.issued_at) = (2, soon.plus(3600)));
    bench.intake.binding(later).await.unwrap();
    assert_eq!(bench.refused(slice).await, Code::Expired);
}

#[tokio::test]
async fn only_the_pinned_root_and_its_successors_are_believed() {
    let mut bench = ready().await;
    let code = |r: Result<(), Refused>| r.unwrap_err().fault.code;
    let skipped = bench.operator.next_root(|r| r.version = 3);
    assert_eq!(code(bench.intake.root(skipped).await), Code::BadRoot);
    let stranger = PrivateKey::from_seed(&[9; 32]);
    let mut next = bench.operator.root.peek().unwrap();
    next.version = 2;
    assert_eq!(code(bench.intake.root(bench.operator.seal_with(&next, &stranger)).await), Code::UnknownKey);
    bench.intake.root(bench.operator.next_root(|_| {})).await.unwrap();
    assert_eq!(bench.intake.trust().borrow().root_version(), 2);
    assert!(bench.intake.trust().borrow().is_ready(), "the binding still counts");

    // What is on disk is verified again when it is read.
    let again = bench.operator.intake(&bench.db);
    assert_eq!(again.trust().borrow().root_version(), 2);
}

#[tokio::test]
async fn a_host_whose_signer_was_revoked_freezes() {
    let mut bench = ready().await;
    bench.intake.slice(bench.operator.slice(1, web())).await.unwrap();
    let revoked = bench.operator.key.id();
    bench.intake.root(bench.operator.next_root(|r| r.revoked.extend([revoked]))).await.unwrap();
    assert!(bench.intake.target().borrow().desired.is_none());
    assert!(!bench.intake.trust().borrow().is_ready());
    assert!(Ledger::new(bench.db.clone()).current().unwrap().is_some(), "nothing was taken down");
}

#[tokio::test]
async fn an_expired_root_lets_in_nothing_new_but_its_successor() {
    let mut bench = ready().await;
    let slice = bench.operator.slice(1, web());
    bench.intake.slice(slice.clone()).await.unwrap();
    bench.intake.root(bench.operator.next_root(|r| r.expires = UnixSeconds(1))).await.unwrap();
    assert_eq!(bench.refused(bench.operator.slice(2, web())).await, Code::RootExpired);
    bench.intake.slice(slice).await.unwrap();
    let code = |r: Result<(), Refused>| r.unwrap_err().fault.code;
    assert_eq!(code(bench.intake.binding(bench.operator.binding(|b| b.serial = 9)).await), Code::RootExpired);
    bench.intake.root(bench.operator.next_root(|r| r.version = 3)).await.unwrap();
    bench.intake.slice(bench.operator.slice(2, web())).await.unwrap();
}

#[tokio::test]
async fn in_quarantine_every_slice_is_refused() {
    let mut bench = ready().await;
    bench.intake.parts.quarantine = Some(Fault::new(Code::Quarantined, "the journal is damaged"));
    assert_eq!(bench.refused(bench.operator.slice(1, web())).await, Code::Quarantined);
}

#[tokio::test]
async fn a_stored_slice_is_verified_again_before_it_is_enforced_offline() {
    let mut bench = ready().await;
    assert!(!bench.intake.enforce_stored().await.unwrap());
    bench.intake.slice(bench.operator.slice(1, web())).await.unwrap();
    let mut again = bench.operator.intake(&bench.db);
    assert!(again.target().borrow().desired.is_none(), "nothing is enforced by itself after a start");
    assert!(again.enforce_stored().await.unwrap());
    assert!(again.target().borrow().desired.is_some());

    let edit = "UPDATE floors SET envelope = CAST(replace(CAST(envelope AS TEXT), '\"sig\":\"', '\"sig\":\"AAAA') AS BLOB)";
    assert_eq!(bench.db.edit(edit), 1);
    let mut edited = bench.operator.intake(&bench.db);
    assert!(edited.enforce_stored().await.is_err());
    assert!(edited.target().borrow().desired.is_none());
}

#[tokio::test]
async fn values_that_this_host_cannot_open_are_refused_before_anything_acts() {
    let mut b = ready().await;
    let digest = "0f".repeat(32);
    let content = json!({ "docker": { "secrets": { "db": { "digest": digest } },
        "services": { "site": { "image": "i", "secrets": { "/run/secrets/db": { "source": "db" } } } } } });
    let own = b.operator.keys.sealing_identity().unwrap().to_public();
    let other = age::x25519::Identity::generate().to_public();
    let sealed_to = |recipient: &age::x25519::Recipient| STANDARD.encode(age::encrypt(recipient, b"marked").unwrap());
    let with = |to: [u8; 32], values: &[(&str, String)]| {
        let values = values.iter().map(|(digest, value)| ((*digest).to_owned(), value.clone())).collect();
        b.operator.slice_with(1, content.clone(), |slice| slice.sealed = Sealed { to, values })
    };
    let key = b.operator.keys.sealing_key();
    let wrong = [
        ("none", b.operator.slice(1, content.clone())),
        ("of another digest", with(key, &[(&"1f".repeat(32), sealed_to(&own))])),
        ("to another host", with(key, &[(&digest, sealed_to(&other))])),
        ("to another key, as it says", with([9; 32], &[(&digest, sealed_to(&own))])),
        ("no sealed value", with(key, &[(&digest, "bWFya2Vk".to_owned())])),
    ];
    let good = with(key, &[(&digest, sealed_to(&own))]);
    for (what, slice) in wrong {
        assert_eq!(b.refused(slice).await, Code::SecretsUnreadable, "{what}");
    }
    b.intake.slice(good).await.unwrap();
    assert!(b.intake.target().borrow().desired.is_some());
}
