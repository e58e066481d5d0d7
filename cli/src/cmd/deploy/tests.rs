//! Pushing against a hub that shows what a test wants.

use super::*;
use crate::client::tests::{binding, client, shown_down, shown_host, shown_revision};
use crate::desired;
use crate::home::write_key;
use crate::revision::tests::{host, keys};
use moorline_common::id::VersionHash;
use moorline_common::topology::Inputs;

const FILE: &str = "topology: edge\nhosts:\n  a: { docker: { services: { site: { image: x } } } }\n";

fn aim(text: Option<&str>) -> Aim {
    Aim {
        verb: Verb::Push,
        topology: TopologyId::parse("edge").unwrap(),
        source: text.map(|t| desired::parse("edge.yaml", t, &Inputs::default()).unwrap()),
        accept_older_hub: false,
        no_rollout: false,
        wait: None,
        accepts: Vec::new(),
    }
}

fn order(text: Option<&str>) -> Order {
    Order { deliver_within: Duration::from_secs(60), ..Order::plain(aim(text), String::new()) }
}

fn previous(down: bool) -> Previous {
    Previous { generation: Generation(3), down, source: Some(FILE.into()), inputs: Inputs::default(), slices: BTreeMap::new() }
}

fn change(kind: ChangeKind) -> HostChange {
    let hash = VersionHash::of_bytes(b"x");
    HostChange { host: "a".into(), host_id: host(10, "a").host_id, change: kind, from: Some(hash.clone()), to: hash }
}

#[test]
fn comments_and_key_order_alone_make_no_new_generation() {
    let reordered = "# said otherwise\nhosts: { a: { docker: { services: { site: { image: x } } } } }\ntopology: edge\n";
    assert!(is_unchanged(aim(Some(reordered)).source.as_ref(), &previous(false), &[change(ChangeKind::Unchanged)]));
    assert!(!is_unchanged(aim(Some(reordered)).source.as_ref(), &previous(false), &[change(ChangeKind::Changed)]));
    assert!(!is_unchanged(aim(Some(reordered)).source.as_ref(), &previous(true), &[]), "what is down comes up again");
    assert!(!is_unchanged(aim(Some(reordered)).source.as_ref(), &Previous::default(), &[]), "a first push is always one");
}

#[test]
fn what_a_file_takes_from_elsewhere_makes_a_new_generation_although_no_host_changes() {
    let taken = Inputs { variables: [("TAG".to_owned(), "2".to_owned())].into(), ..Inputs::default() };
    let source = desired::parse("edge.yaml", FILE, &taken).unwrap();
    assert!(!is_unchanged(Some(&source), &previous(false), &[change(ChangeKind::Unchanged)]), "a host to come would get another slice");
    assert!(is_unchanged(Some(&source), &Previous { inputs: taken, ..previous(false) }, &[change(ChangeKind::Unchanged)]));
}

#[test]
fn a_file_that_names_hosts_to_come_otherwise_is_a_new_generation() {
    let more = format!("{FILE}  not-here-yet: {{ docker: {{ services: {{ site: {{ image: x }} }} }} }}\n");
    assert!(!is_unchanged(aim(Some(&more)).source.as_ref(), &previous(false), &[change(ChangeKind::Unchanged)]));
}

#[test]
fn what_is_down_is_not_torn_down_again() {
    assert!(is_unchanged(None, &previous(true), &[change(ChangeKind::Leaves)]));
    assert!(!is_unchanged(None, &previous(false), &[change(ChangeKind::Leaves)]));
}

#[test]
fn a_generation_that_nobody_signed_is_built_on_only_when_named() {
    let unsigned = Previous { generation: Generation(999), ..Previous::default() };
    let scene = Scene { current: None, previous: unsigned, hosts: Vec::new() };
    let mut order = order(Some(FILE));
    assert!(require_signed(&order, &scene).unwrap_err().remedy.contains("--base 999"));
    order.base = Base::Generation(Generation(999));
    assert!(require_signed(&order, &scene).is_ok());
}

#[test]
fn the_outcome_says_what_happens_to_how_many_hosts() {
    let changes = vec![change(ChangeKind::Changed), change(ChangeKind::Leaves), change(ChangeKind::Unchanged)];
    let outcome = outcome(&aim(Some(FILE)), Generation(3), Generation(4), vec!["b".into()], changes);
    let text = anstream::adapter::strip_str(&told::words(&outcome)).to_string();
    assert_eq!(
        text,
        "pushed edge generation 4\n  hosts: 1 changed, 1 unchanged, 1 torn down\n  not joined yet, they get it when they are approved: b\n"
    );
}

#[tokio::test]
async fn an_older_hub_is_accepted_only_by_a_push_that_succeeds() {
    let (client, shown, _dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    let edge = TopologyId::parse("edge").unwrap();
    client.note_pushed(&edge, Generation(9), "seen", false).unwrap();
    shown.lock().unwrap().revision = Some(shown_revision(2, 2, "topology: edge\n", &keys().1));
    let mut ui = Ui::new(Format::Json, false);
    let floor = || client.context.floors().unwrap().topologies[&edge].clone();
    assert_eq!(run(&client, &mut ui, order(Some(FILE))).await.unwrap_err().code, "generation_regressed");

    let older = || Order { aim: Aim { accept_older_hub: true, ..aim(Some(FILE)) }, ..order(None) };
    assert!(run(&client, &mut ui, older()).await.is_err(), "the hub takes no push");
    assert_eq!((floor().generation, floor().source_sha256.as_str()), (Generation(9), "seen"));

    shown.lock().unwrap().takes_pushes = true;
    run(&client, &mut ui, older()).await.unwrap();
    assert_eq!((floor().generation, floor().pushed), (Generation(3), Generation(3)));
    assert_ne!(floor().source_sha256, "seen");
}

#[tokio::test]
async fn a_hub_that_knows_of_no_rollouts_is_given_none() {
    let (client, shown, _dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    shown.lock().unwrap().takes_pushes = true;
    let mut ui = Ui::new(Format::Json, false);
    let spreads = format!("{FILE}rollout: {{}}\n");
    let refused = run(&client, &mut ui, order(Some(&spreads))).await.unwrap_err();
    assert!(refused.is(Code::UnsupportedVersion) && refused.remedy.contains("--no-rollout"), "{refused:?}");
    assert!(!client.context.floors().unwrap().topologies.values().any(|t| t.pushed > Generation(0)));
    let at_once = Order { aim: Aim { no_rollout: true, ..aim(Some(&spreads)) }, ..order(None) };
    run(&client, &mut ui, at_once).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_never_pushed_a_topology_overwrites_it_only_by_naming_its_generation() {
    let (client, shown, _dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    let edge = TopologyId::parse("edge").unwrap();
    shown.lock().unwrap().takes_pushes = true;
    shown.lock().unwrap().revision = Some(shown_revision(3, 3, "topology: edge\nhosts: {}\n", &keys().1));
    let mut ui = Ui::new(Format::Json, false);
    let unknown = || Order { base: Base::Unknown, ..order(Some(FILE)) };
    let refused = run(&client, &mut ui, unknown()).await.unwrap_err();
    assert!(refused.is(Code::BaseMoved), "{refused}");
    assert!(refused.message.contains("generation 3, pushed by ann") && refused.remedy.contains("--base 3"), "{refused:?}");
    assert!(refused.details.iter().any(|l| l.contains("image: x")), "{refused:?}");
    assert_eq!(client.context.floors().unwrap().topologies[&edge].pushed, Generation(0));

    run(&client, &mut ui, Order { base: Base::Generation(Generation(3)), ..unknown() }).await.unwrap();
    assert_eq!(client.context.floors().unwrap().topologies[&edge].pushed, Generation(4));
}

#[tokio::test]
async fn what_is_not_there_or_torn_down_is_pushed_by_any_machine() {
    for down in [None, Some(2)] {
        let (client, shown, _dir) = client().await;
        write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
        shown.lock().unwrap().takes_pushes = true;
        shown.lock().unwrap().revision = down.map(|generation| shown_down(generation, "topology: edge\nhosts: {}\n", &keys().1));
        let order = Order { base: Base::Unknown, ..order(Some(FILE)) };
        run(&client, &mut Ui::new(Format::Json, false), order).await.unwrap();
        let pushed = client.context.floors().unwrap().topologies[&TopologyId::parse("edge").unwrap()].pushed;
        assert_eq!(pushed, Generation(down.unwrap_or(0) + 1));
    }
}

#[tokio::test]
async fn a_refusal_at_the_same_generation_is_told_in_the_hubs_words() {
    let (client, shown, _dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    shown.lock().unwrap().revision = Some(shown_revision(3, 3, "topology: edge\nhosts: {}\n", &keys().1));
    shown.lock().unwrap().refuses_pushes = Some(Fault::new(Code::BaseMoved, "host `b` has no slice in this push"));
    let refused = run(&client, &mut Ui::new(Format::Json, false), order(Some(FILE))).await.unwrap_err();
    assert!(refused.is(Code::BaseMoved) && refused.message.contains("host `b` has no slice"), "{refused}");
    assert!(!refused.message.contains("has moved") && refused.remedy.contains("moorctl status"), "{refused:?}");
}

/// What `aim` would hand in for no host, signed elsewhere.
fn signed_elsewhere(client: &Client, aim: &Aim) -> SignedRevision {
    let draft = Draft {
        topology: aim.topology.clone(),
        generation: Generation(1),
        source: aim.source.as_ref().unwrap().text.clone(),
        inputs: Inputs::default(),
        down: false,
        message: String::new(),
        deliver_within_s: 60,
        hosts: BTreeMap::new(),
        sealed: BTreeMap::new(),
        fallbacks: BTreeMap::new(),
        at_once: BTreeSet::new(),
    };
    Pen { root: &client.root, signers: &keys().1.into(), now: clock::now() }.seal(&draft, &[]).unwrap()
}

#[tokio::test]
async fn a_saved_revision_that_fits_a_late_host_twice_is_refused_before_it_is_handed_in() {
    let (client, shown, _dir) = client().await;
    let mut late = binding(1);
    late.labels.insert("site".into(), "sydney".into());
    shown.lock().unwrap().takes_pushes = true;
    shown.lock().unwrap().hosts = vec![shown_host(&late, &keys().1)];
    let entry = "{ docker: { services: { site: { image: x } } } }";
    let twice = format!("topology: edge\nhosts:\n  shop-17: {entry}\n  site=sydney: {entry}\n");
    let aim = aim(Some(&twice));
    let signed = signed_elsewhere(&client, &aim);
    let mut ui = Ui::new(Format::Json, false);
    let refused = submit(&client, &mut ui, &aim, Generation(0), &signed, Desired::default()).await.unwrap_err();
    assert_eq!(refused.code, "bad_topology", "{refused}");
    assert!(client.context.floors().unwrap().topologies.is_empty(), "nothing was handed in");
}

#[tokio::test]
async fn a_saved_revision_that_the_hub_has_already_is_what_the_next_push_is_made_from() {
    let (client, shown, _dir) = client().await;
    let aim = aim(Some(FILE));
    let signed = signed_elsewhere(&client, &aim);
    let mut ui = Ui::new(Format::Json, false);
    let mut known = shown_revision(1, 1, FILE, &keys().1);
    known.source = Some((&signed.source).into());
    shown.lock().unwrap().revision = Some(known);
    let edge = aim.topology.clone();
    assert_eq!(submit(&client, &mut ui, &aim, Generation(0), &signed, Desired::default()).await.unwrap(), 0, "it takes no pushes");
    assert_eq!(client.context.floors().unwrap().topologies[&edge].pushed, Generation(1));
}

#[tokio::test]
async fn a_late_host_that_gets_no_slice_is_named_and_the_push_stands() {
    let (client, shown, _dir) = client().await;
    shown.lock().unwrap().hosts = vec![shown_host(&binding(1), &keys().1)];
    let mut ui = Ui::new(Format::Json, false);
    let scene = |hosts| Scene { current: None, previous: Previous::default(), hosts };
    assert!(late_hosts(&client, &mut ui, &keys().1.into(), &scene(Vec::new())).await.is_empty());
    shown.lock().unwrap().broken = true;
    assert_eq!(late_hosts(&client, &mut ui, &keys().1.into(), &scene(Vec::new())).await, ["shop-17"]);
    let known = client.hosts(None).await.unwrap();
    assert!(late_hosts(&client, &mut ui, &keys().1.into(), &scene(known)).await.is_empty());
}

#[tokio::test]
async fn a_file_that_is_asked_for_and_has_nothing_to_say_is_an_error() {
    let (client, shown, dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    shown.lock().unwrap().revision = Some(shown_revision(3, 3, FILE, &keys().1));
    let file = dir.path().join("revision.json");
    let mut ui = Ui::new(Format::Json, false);
    let save = |verb| Order { aim: Aim { verb, ..aim(Some(FILE)) }, save: Some(file.clone()), ..order(None) };
    let refused = run(&client, &mut ui, save(Verb::Push)).await.unwrap_err();
    assert!(refused.is(Code::AlreadyExists) && refused.message.contains("nothing to sign"), "{refused:?}");
    assert!(refused.remedy.contains("--force"), "{refused:?}");
    assert!(!run(&client, &mut ui, save(Verb::Rollback)).await.unwrap_err().remedy.contains("--force"));
    assert!(!file.exists());
}

#[tokio::test]
async fn whom_another_push_overtook_is_told_what_their_own_verb_does_next() {
    let (client, shown, _dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    shown.lock().unwrap().revision = Some(shown_revision(3, 3, "topology: edge\nhosts: {}\n", &keys().1));
    let mut ui = Ui::new(Format::Json, false);
    for (verb, words) in [
        (Verb::Push, "push -f edge.yaml --base 3"),
        (Verb::PushPlan, "plan -f edge.yaml --save"),
        (Verb::Rollback, "repeat the command"),
        (Verb::Submit, "sign it anew"),
    ] {
        let aim = Aim { verb, ..aim(Some(FILE)) };
        let refused = run(&client, &mut ui, Order { aim, base: Base::Generation(Generation(2)), ..order(None) }).await.unwrap_err();
        assert!(refused.is(Code::BaseMoved) && refused.remedy.contains(words), "{refused:?}");
    }
}

#[tokio::test]
async fn a_plan_is_pushed_from_its_own_base_alone_also_when_the_newest_says_the_same() {
    let (client, shown, _dir) = client().await;
    write_key(&client.context.dir().join("operator.key"), &keys().1).unwrap();
    shown.lock().unwrap().revision = Some(shown_revision(3, 3, FILE, &keys().1));
    let mut ui = Ui::new(Format::Json, false);
    let plan = |base| {
        let reviewed = Reviewed { base: Generation(base), ..Reviewed::default() };
        let aim = Aim { verb: Verb::PushPlan, ..aim(Some(FILE)) };
        Order { aim, base: Base::Generation(Generation(base)), reviewed: Some(reviewed), ..order(None) }
    };
    assert!(run(&client, &mut ui, plan(2)).await.unwrap_err().is(Code::BaseMoved));
    assert_eq!(run(&client, &mut ui, plan(3)).await.unwrap(), 0, "there is nothing to push");
}
