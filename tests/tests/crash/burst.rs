//! Exactly as ordered: a burst of a thousand operations over fifty lanes, and an agent that does not live long.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use moorline_tests::crash::orders::Wish;
use moorline_tests::crash::site::{HOST, Site, submit};
use moorline_tests::limits::APPLY;
use moorline_tests::wait::wait_until;
use serde_json::Value;

const LANES: usize = 50;
/// Times four operations in each lane.
const TURNS: usize = 5;
const DEATHS: u64 = 10;
/// Records between two deaths: fewer than a tenth of what all the operations leave.
const RECORDS_A_LIFE: u64 = 420;

fn topology(name: &str) -> String {
    let services: String = (0..LANES).map(|n| format!("        s{n}: {{ image: \"app:1\" }}\n")).collect();
    format!("topology: {name}\nhosts:\n  {HOST}:\n    docker:\n      services:\n{services}")
}

#[test]
fn a_thousand_operations_run_exactly_as_ordered_while_the_agent_is_killed_ten_times() {
    let begun = Instant::now();
    let mut site = Site::on_sim("burst").unwrap();
    site.rotate_bytes = 400_000;
    let generation = site.push(&topology(&site.topology())).unwrap();
    site.converge(generation).unwrap();
    site.kill().unwrap();
    site.start(None).unwrap();
    let (operator, pen) = (site.fleet.operator().unwrap(), site.pen());
    let lanes: Vec<String> = (0..LANES).map(|n| site.container(&format!("s{n}"))).collect();
    let before = site.journal_seq().unwrap();
    let orders = std::thread::scope(|scope| {
        let burst = scope.spawn(move || {
            let mut orders = Vec::new();
            for _ in 0..TURNS {
                for step in 0..4 {
                    for lane in &lanes {
                        let wish = match step {
                            0 | 3 => Wish::exec(lane),
                            1 => Wish::plain("pause", lane),
                            _ => Wish::plain("unpause", lane),
                        };
                        orders.push(submit(&operator, &pen, wish).unwrap());
                    }
                }
            }
            orders
        });
        for death in 1..=DEATHS {
            let far = before + death * RECORDS_A_LIFE;
            wait_until("some more is done", APPLY, || Ok(site.journal_seq()? >= far)).unwrap();
            // Somewhere within the next few flushes.
            std::thread::sleep(Duration::from_micros(getrandom::u64().unwrap() % 20_000));
            site.kill().unwrap();
            site.start(None).unwrap();
        }
        burst.join().unwrap()
    });
    assert_eq!(orders.len(), 1000);
    site.adopt(orders);
    site.settle().unwrap();
    site.check(0, "s0").unwrap();

    let world = std::fs::read(site.fleet.agent_dir(HOST).join("sim/engine.json")).unwrap();
    let world: Value = serde_json::from_slice(&world).unwrap();
    let effects = world.get("effects").and_then(Value::as_object).cloned().unwrap_or_default();
    let times: BTreeMap<&String, u64> =
        effects.iter().map(|(id, e)| (id, e.get("times").and_then(Value::as_u64).unwrap_or_default())).collect();
    for order in site.given() {
        let (outcome, times) = (site.outcome(&order.id), times.get(&order.id).copied());
        assert_eq!((outcome, times), ("succeeded", Some(1)), "{} {}", order.wish.kind, order.wish.resource);
    }
    assert_eq!(times.len(), 1000, "nothing that was not ordered");
    println!("a thousand operations, {DEATHS} deaths: {:.1} s", begun.elapsed().as_secs_f32());
}
