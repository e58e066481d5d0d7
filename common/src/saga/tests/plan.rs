//! Which plans there are.

use super::*;

fn good() -> Plan {
    let mut snapshot = tries(step("make", 0, "a"), 2, 3);
    snapshot.when = vec![Condition::Connected(host("a")), Condition::After(UnixSeconds(1001))];
    let mut second = step("use", 1, "a");
    if let Act::Host(act) = &mut second.run.act {
        act.made_by = Some("make".to_owned());
    }
    plan(vec![snapshot, second, bare("wait", 1, on_hub(2)), for_good("burn", 2), for_good("bury", 3)])
}

fn host_act(task: &mut Task) -> &mut HostAct {
    match &mut task.act {
        Act::Host(act) => act,
        Act::Hub(_) | Act::Cloud(_) => panic!("no operation on a host"),
    }
}

type Spoil = fn(&mut Plan);

/// What is done to a good plan, and what is said of it.
const BAD: &[(Spoil, &str)] = &[
    (|p| p.steps.clear(), "1 to 64 steps"),
    (|p| p.steps = (0..65).map(|n| step(&format!("s{n}"), 0, "a")).collect(), "1 to 64 steps"),
    (|p| p.name = "Test".to_owned(), "`Test` is no name of a definition"),
    (|p| p.triggered_by = "system:".to_owned(), "`triggered_by`"),
    (|p| p.triggered_by = "nobody".to_owned(), "`triggered_by`"),
    (|p| p.reason = "x".repeat(513), "at most 512 bytes"),
    (|p| p.inputs = (0..65).map(|n| (n.to_string(), String::new())).collect(), "at most 64 inputs"),
    (|p| p.expires_at = UnixSeconds(999), "in this order"),
    (|p| p.undo_until = UnixSeconds(1999), "in this order"),
    (|p| p.undo_until = UnixSeconds(1001 + WINDOW_MAX_S), "within 30 days"),
    (|p| p.steps[0].undo = Some(on_host("b", "stop", 1)), "step `make`: what a host undoes"),
    (|p| p.steps[2].undo = Some(on_host("b", "stop", 1)), "step `wait`: what a host undoes"),
    (|p| p.steps[1].name = "make".to_owned(), "step 2 (`make`): the name of a step"),
    (|p| p.steps[1].name = "-x".to_owned(), "step 2 (`-x`): the name of a step"),
    (|p| p.steps[1].name = "x".repeat(64), "step 2 (`xx"),
    (|p| p.steps[0].group = 1, "step 1 (`make`): groups count from 0"),
    (|p| p.steps[4].group = 4, "step 5 (`bury`): groups count from 0"),
    (|p| p.steps[4].group = 1, "step 5 (`bury`): groups count from 0"),
    (|p| p.steps[0].irreversible = true, "step 1 (`make`): what can be undone is not irreversible"),
    (|p| p.steps[4].irreversible = false, "step 5 (`bury`): nothing but irreversible"),
    (|p| p.steps[2].irreversible = true, "group 1: an irreversible step runs beside"),
    (|p| p.steps[0].run.attempts = 0, "step 1 (`make`, do): it is tried 1 to 16 times"),
    (|p| p.steps[0].undo.as_mut().unwrap().attempts = 17, "step 1 (`make`, undo): it is tried 1 to 16 times"),
    (|p| p.steps[2].run.timeout_s = 0, "step 3 (`wait`, do): a time"),
    (|p| p.steps[2].run.timeout_s = WINDOW_MAX_S + 1, "step 3 (`wait`, do): a time"),
    (|p| p.steps[2].run.backoff_s = WINDOW_MAX_S + 1, "step 3 (`wait`, do): a time"),
    (|p| p.hosts.retain(|name, _| *name != host("d")), "step 4 (`burn`, do): host d is not among"),
    (|p| drop(host_act(&mut p.steps[0].run).orders.pop()), "step 1 (`make`, do): each try on a host has an order"),
    (|p| host_act(&mut p.steps[0].run).orders[1].make_ascii_uppercase(), "step 1 (`make`, do): each try on a host has an order"),
    (|p| host_act(&mut p.steps[1].run).made_by = Some("no-such".to_owned()), "step 2 (`use`, do): `made_by`"),
    (|p| host_act(&mut p.steps[1].run).made_by = Some("wait".to_owned()), "step 2 (`use`, do): `made_by`"),
    (|p| host_act(&mut p.steps[1].run).made_by = Some("burn".to_owned()), "step 2 (`use`, do): `made_by`"),
    (|p| host_act(&mut p.steps[0].run).made_by = Some("use".to_owned()), "step 1 (`make`, do): `made_by`"),
    (|p| host_act(&mut p.steps[3].run).kind = "destroy".to_owned(), "step 4 (`burn`, do): it follows step `wait`, and the hub's word"),
    (
        |p| {
            let topology = TopologyId::parse("t").unwrap();
            p.steps[2].run.act = Act::Hub(HubAct::Push { topology, generation: Generation(0), source: String::new() });
        },
        "step 3 (`wait`, do): a revision has a generation",
    ),
    (
        |p| {
            let topology = TopologyId::parse("t").unwrap();
            p.steps[2].run.act = Act::Hub(HubAct::Applied { topology, generation: Generation(1), hosts: [].into() });
        },
        "step 3 (`wait`, do): there is no host to wait for",
    ),
];

#[test]
fn a_bad_plan_is_refused_with_what_and_where() {
    good().check().unwrap();
    for (spoil, said) in BAD {
        let mut plan = good();
        spoil(&mut plan);
        let refused = plan.check().expect_err(said);
        assert_eq!(refused.code, Code::BadSaga, "{said}");
        assert!(refused.message.contains(said), "`{}` does not say `{said}`", refused.message);
    }
}

#[test]
fn what_undoes_a_step_may_be_about_what_that_step_made() {
    let mut plan = good();
    host_act(plan.steps[0].undo.as_mut().unwrap()).made_by = Some("make".to_owned());
    assert_eq!(plan.check(), Ok(()));
}

#[test]
fn after_the_hubs_own_steps_an_operation_may_be_reversible_or_unknown_here() {
    for kind in ["stop", "not-known-to-this-version"] {
        let mut plan = good();
        host_act(&mut plan.steps[3].run).kind = kind.to_owned();
        assert_eq!(plan.check(), Ok(()), "{kind}");
    }
    // What undoes a step follows a failure or an abort, not what the hub did.
    let mut after_hub = step("after", 1, "a");
    after_hub.undo = Some(on_host("a", "destroy", 1));
    assert_eq!(super::plan(vec![bare("wait", 0, on_hub(1)), after_hub]).check(), Ok(()));
}

/// Whether an object with one more key, at any depth, is refused.
fn is_strict<T: serde::de::DeserializeOwned>(value: &Value, whole: &Value, at: &mut Vec<String>, free: &[&str]) {
    let pointer: String = at.iter().map(|part| format!("/{part}")).collect();
    if free.iter().any(|free| at.last().is_some_and(|last| last == free)) {
        return;
    }
    match value {
        Value::Object(map) => {
            let mut more = whole.clone();
            more.pointer_mut(&pointer).unwrap().as_object_mut().unwrap().insert("zzz".to_owned(), json!(null));
            assert!(serde_json::from_value::<T>(more).is_err(), "a further key at `{pointer}` is taken");
            for (key, value) in map {
                at.push(key.clone());
                is_strict::<T>(value, whole, at, free);
                at.pop();
            }
        }
        Value::Array(items) => {
            for (n, value) in items.iter().enumerate() {
                at.push(n.to_string());
                is_strict::<T>(value, whole, at, free);
                at.pop();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn reads_back<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(what: &T, free: &[&str]) {
    let value = serde_json::to_value(what).unwrap();
    assert_eq!(&serde_json::from_value::<T>(value.clone()).unwrap(), what);
    is_strict::<T>(&value, &value, &mut Vec::new(), free);
}

#[test]
fn what_is_written_is_read_back_and_nothing_more_is_taken() {
    let mut plan = good();
    plan.steps[1].when = vec![Condition::Newest { topology: TopologyId::parse("t").unwrap(), generation: Generation(3) }];
    reads_back(&plan, &["params", "inputs", "hosts"]);
    for verb in [
        Verb::Retry { step: 1, side: Side::Undo, orders: vec![order_hash(1, Side::Undo, 2)] },
        Verb::Skip { step: 0, side: Side::Do },
        Verb::Abort { begun: 2 },
        Verb::Abandon,
    ] {
        let nonce = crate::id::Nonce::parse("0".repeat(32)).unwrap();
        let (cluster, saga_id) = (plan.cluster.clone(), plan.saga_id.clone());
        reads_back(&Word { cluster, saga_id, verb, issued_at: UnixSeconds(1), nonce, root_version: 1, reason: String::new() }, &[]);
    }
    let mut saga = Saga::new(vec![tries(step("one", 0, "a"), 2, 2), step("two", 1, "b")]);
    saga.tried(0, Side::Do, End::Succeeded { output: json!({ "id": 7 }) });
    saga.tried(1, Side::Do, failed());
    saga.say(saga.retry(1, Side::Do));
    saga.tried(1, Side::Do, failed());
    reads_back(&saga.state, &["output", "fault"]);
    reads_back(&OfSaga { saga_id: plan.saga_id, step: 3, side: Side::Undo, attempt: 2 }, &[]);
}

#[test]
fn the_key_of_an_order_names_its_place_in_the_saga() {
    let of = OfSaga { saga_id: SagaId::parse(SAGA).unwrap(), step: 3, side: Side::Undo, attempt: 2 };
    assert_eq!(of.key().unwrap().as_str(), format!("saga:{SAGA}/3/undo/2"));
}

#[test]
fn a_step_is_named_by_its_name_or_its_number_from_1() {
    let plan = good();
    for (text, step) in [("use", Some(1)), ("1", Some(0)), ("5", Some(4)), ("0", None), ("6", None), ("none", None), ("", None)] {
        assert_eq!(step_by_words(&plan, text), step, "{text}");
    }
}

#[test]
fn the_words_for_kinds_and_statuses_are_read_back() {
    for kind in Kind::ALL {
        assert_eq!((Kind::parse(kind.as_str()), json!(kind)), (Some(kind), json!(kind.as_str())));
    }
    for status in Status::ALL {
        assert_eq!((Status::parse(status.as_str()), json!(status)), (Some(status), json!(status.as_str())));
    }
    assert_eq!((Kind::parse("x"), Status::parse("x")), (None, None));
}
