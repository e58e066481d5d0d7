//! Exactly as ordered: a burst of a thousand operations over fifty lanes, and an agent that does not live long.

use std::time::{Duration, Instant};

use moorline_tests::crash::orders::Wish;
use moorline_tests::crash::site::{HOST, Site, submit};
use moorline_tests::image::IMAGE;
use moorline_tests::limits::APPLY;
use moorline_tests::wait::wait_until;

const LANES: usize = 50;
/// Times four operations in each lane.
const TURNS: usize = 5;
const DEATHS: u64 = 10;
/// Records between two deaths: fewer than a tenth of what all the operations leave.
const RECORDS_A_LIFE: u64 = 420;

fn topology(name: &str) -> String {
    let services: String = (0..LANES).map(|n| format!("        s{n}: {{ image: {IMAGE}, stop_grace_period: 1s }}\n")).collect();
    format!("topology: {name}\nhosts:\n  {HOST}:\n    docker:\n      services:\n{services}")
}

#[test]
fn a_thousand_operations_run_exactly_as_ordered_while_the_agent_is_killed_ten_times() {
    let begun = Instant::now();
    let Some(mut site) = Site::on_docker("burst").unwrap() else { return };
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

    println!("a thousand operations, {DEATHS} deaths: {:.1} s", begun.elapsed().as_secs_f32());
}
