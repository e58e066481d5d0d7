//! A hub that is restored from an older backup takes over what its agents hold.

use moorline_common::fault::Code;
use moorline_proto::convert::from_status;
use moorline_proto::v1 as pb;
use moorline_proto::v1::agent_message::Kind as Say;
use moorline_proto::v1::hub_message::Kind as Said;

use super::{Kit, Link, applied, web};
use crate::cmd::{backup, restore};

async fn asked_for_held(link: &mut Link) {
    let next = link.next().await;
    assert!(matches!(&next, Said::Query(query) if query.what() == pb::query::What::Held), "expected a query, got {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_restored_from_before_everything_takes_over_what_agents_hold() {
    let mut kit = Kit::bare().await;
    let file = kit.home.path().join("backup");
    backup::write(&kit.dir(), &file).unwrap();
    let root = kit.trust_root();
    kit.operator().await.put_root(pb::PutRootRequest { root: Some(root.clone()) }).await.unwrap();
    let agent = kit.bound("shop", 1).await;
    let slice = kit.pushed(&agent, web("a")).await;
    kit.stop().await;

    let dir = kit.home.path().join("restored");
    restore::restore(&dir, &file, false).unwrap();
    kit.start_in(&dir).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(applied(&slice)).await;
    asked_for_held(&mut link).await;
    let held = pb::Held { roots: vec![root], binding: Some(kit.binding(&agent, "shop", 1)), slice: kit.sealed(&slice).slice };
    link.say(Say::Held(held)).await;
    kit.until_kinds("adopted", 1).await;
    let host = kit.until_host("shop", |h| h.converged).await;
    assert_eq!((host.state(), host.target_topology.as_str(), host.target_generation), (pb::HostState::Bound, "edge", 1));
    assert_eq!(kit.kinds("slice_sent").await.len(), 0, "the host is left alone");
    let request = pb::GetRevisionRequest { topology: "edge".to_owned(), generation: 0, with_slices: true };
    let revision = kit.operator().await.get_revision(request).await.unwrap().into_inner();
    assert_eq!((revision.source, revision.slices.len()), (None, 1));
    // And life goes on from the recovered generation.
    let next = kit.slice(&agent, "edge", 2, web("b"));
    kit.push("edge", 1, std::slice::from_ref(&next)).await.unwrap();
    // The hub also wants a fresh report, since it dropped the one before.
    while !matches!(link.next().await, Said::Slice(_)) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_one_generation_behind_asks_instead_of_pushing_back() {
    let mut kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    kit.pushed(&agent, web("a")).await;
    // While the hub serves.
    let file = kit.home.path().join("backup");
    backup::write(&kit.dir(), &file).unwrap();
    let new = kit.slice(&agent, "edge", 2, web("b"));
    kit.push("edge", 1, std::slice::from_ref(&new)).await.unwrap();
    kit.stop().await;
    restore::restore(&kit.dir(), &file, true).unwrap();
    kit.start().await;
    assert_eq!(kit.host("shop").await.target_generation, 1);
    kit.until_kinds("hub_restored", 1).await;
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(applied(&new)).await;
    asked_for_held(&mut link).await;
    let held = pb::Held { roots: agent.roots.clone(), binding: Some(kit.binding(&agent, "shop", 1)), slice: kit.sealed(&new).slice };
    link.say(Say::Held(held)).await;
    let host = kit.until_host("shop", |h| h.converged && h.target_generation == 2).await;
    assert_eq!(host.target_hash, new.version_hash.to_string());
    let status = kit.push("edge", 1, std::slice::from_ref(&new)).await.unwrap_err();
    assert_eq!(from_status(&status).code, Code::BaseMoved);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_operator_signed_is_not_taken_over() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    kit.pushed(&agent, web("a")).await;
    let forged = kit.slice(&agent, "edge", 9, web("evil"));
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(applied(&forged)).await;
    asked_for_held(&mut link).await;
    let by_host = moorline_common::sign::Signed::seal(&forged, &[&agent.host]).unwrap();
    let held =
        pb::Held { roots: agent.roots.clone(), binding: Some(kit.binding(&agent, "shop", 1)), slice: Some(by_host.envelope().into()) };
    link.say(Say::Held(held)).await;
    kit.until_kinds("adopt_refused", 1).await;
    assert_eq!(kit.host("shop").await.target_generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_agents_hold_may_come_in_several_messages_and_what_is_good_of_it_is_taken() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let slice = kit.slice(&agent, "edge", 4, web("a"));
    let forged = moorline_common::sign::Signed::seal(&slice, &[&agent.host]).unwrap();
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(pb::Heartbeat { binding_serial: 2, ..applied(&slice) }).await;
    asked_for_held(&mut link).await;
    link.say(Say::Held(pb::Held { roots: agent.roots.clone(), binding: None, slice: None })).await;
    let binding = Some(kit.binding(&agent, "shop", 2));
    link.say(Say::Held(pb::Held { roots: Vec::new(), binding, slice: Some(forged.envelope().into()) })).await;
    kit.until_kinds("adopt_refused", 1).await;
    assert!(kit.until_kinds("adopted", 1).await[0].message.contains("binding 2"));
    link.say(Say::Held(pb::Held { roots: Vec::new(), binding: None, slice: kit.sealed(&slice).slice })).await;
    kit.until_host("shop", |h| h.converged && h.target_generation == 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_hands_in_nothing_of_another_host() {
    let kit = Kit::new().await;
    let (agent, other) = (kit.bound("shop", 1).await, kit.bound("other", 2).await);
    let link = agent.open(&kit).await.unwrap();
    let binding = Some(kit.binding(&other, "other", 2));
    link.say(Say::Held(pb::Held { roots: agent.roots.clone(), binding, slice: None })).await;
    let slice = kit.sealed(&kit.slice(&other, "edge", 1, web("a"))).slice;
    link.say(Say::Held(pb::Held { roots: agent.roots.clone(), binding: None, slice })).await;
    for refused in kit.until_kinds("adopt_refused", 2).await {
        assert_eq!(refused.code, "wrong_host");
    }
    let stored = kit.hub().store.host(other.id()).await.unwrap().unwrap();
    assert_eq!((stored.binding_serial, kit.host("other").await.target_topology), (1, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_slice_that_the_hub_no_longer_keeps_does_not_come_back_as_the_target() {
    let kit = Kit::new().await;
    let agent = kit.bound("shop", 1).await;
    let old = kit.pushed(&agent, web("a")).await;
    let down = kit.slice(&agent, "edge", 2, serde_json::json!({}));
    kit.push("edge", 1, std::slice::from_ref(&down)).await.unwrap();
    let mut link = agent.open(&kit).await.unwrap();
    link.beat(applied(&down)).await;
    kit.until_kinds("applied", 1).await;
    let other = kit.slice(&agent, "other", 1, web("b"));
    kit.push("other", 0, std::slice::from_ref(&other)).await.unwrap();
    let store = rusqlite::Connection::open(kit.dir().join(crate::store::sqlite::FILE)).unwrap();
    assert_eq!(store.execute("DELETE FROM slices WHERE topology = 'edge' AND generation = 1", []).unwrap(), 1);
    link.say(Say::Held(pb::Held { roots: agent.roots.clone(), binding: None, slice: kit.sealed(&old).slice })).await;
    link.beat(pb::Heartbeat { journal_seq: 1, ..applied(&other) }).await;
    let host = kit.until_host("shop", |h| h.heartbeat.as_ref().is_some_and(|b| b.journal_seq == 1)).await;
    assert_eq!((host.target_topology.as_str(), host.target_generation), ("other", 1));
    assert_eq!(kit.kinds("adopted").await.len(), 0);
}

#[test]
fn a_backup_is_private_and_never_overwrites() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let (dir, file) = (hub_in(home.path()), home.path().join("backup"));
    assert!(crate::cmd::init::create(&dir, &init_args()).is_err(), "a hub is never made over another");
    backup::write(&dir, &file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(backup::write(&dir, &file).is_err());
    assert!(restore::restore(&dir, &file, false).is_err(), "a used folder is not replaced without --force");
    let replaced = restore::restore(&dir, &file, true).unwrap().unwrap();
    for path in ["hub.toml", "ca/ca.key.pem", "operators/ann.json"] {
        assert_eq!(std::fs::read(dir.join(path)).unwrap(), std::fs::read(replaced.join(path)).unwrap(), "{path}");
    }
    assert_eq!(std::fs::metadata(dir.join("ca/ca.key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&file, b"not a backup").unwrap();
    assert!(restore::restore(&home.path().join("x"), &file, false).is_err());
    assert!(!home.path().join("x").exists(), "a bad backup leaves nothing behind");
}

fn init_args() -> crate::cmd::init::InitArgs {
    crate::cmd::init::InitArgs {
        cluster: moorline_common::id::ClusterId::parse("one").unwrap(),
        listen: "127.0.0.1:0".to_owned(),
        advertise: vec!["hub:7443".to_owned()],
        operator: "ann".to_owned(),
    }
}

/// A new hub's folder.
fn hub_in(home: &std::path::Path) -> std::path::PathBuf {
    let dir = home.join("hub");
    crate::cmd::init::create(&dir, &init_args()).unwrap();
    dir
}

#[test]
fn two_backups_to_one_file_leave_each_other_whole() {
    let home = tempfile::tempdir().unwrap();
    let (dir, file) = (hub_in(home.path()), home.path().join("backup"));
    std::fs::write(home.path().join("backup.partial"), b"of another").unwrap();
    let ended: Vec<_> = std::thread::scope(|scope| {
        let writers = [(); 4].map(|()| scope.spawn(|| backup::write(&dir, &file)));
        writers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    assert!(ended.iter().any(Result::is_ok));
    for error in ended.into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("never overwrite"), "{error}");
    }
    restore::restore(&home.path().join("restored"), &file, false).unwrap();
    assert_eq!(std::fs::read(home.path().join("backup.partial")).unwrap(), b"of another");
    let left = std::fs::read_dir(home.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("partial-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_restore_that_fails_says_where_the_old_files_are_and_holds_the_lock() {
    let home = tempfile::tempdir().unwrap();
    let (dir, file) = (hub_in(home.path()), home.path().join("backup"));
    backup::write(&dir, &file).unwrap();
    // A backup that reads well and whose store is no hub's.
    rusqlite::Connection::open(&file).unwrap().execute("DELETE FROM meta", []).unwrap();
    let error = restore::restore(&dir, &file, true).unwrap_err().to_string();
    let away = std::fs::read_dir(home.path()).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains(".replaced-"));
    let away = away.unwrap();
    assert!(error.contains(&away.display().to_string()), "{error}");
    assert!(away.join("hub.toml").exists() && dir.join(crate::server::LOCK).exists(), "the lock stays in the folder that it guards");
    let held = crate::server::lock(&dir).unwrap();
    let status = restore::restore(&dir, &file, true).unwrap_err().to_string();
    assert!(status.contains("another moorline-hub"), "{status}");
    drop(held);
}
