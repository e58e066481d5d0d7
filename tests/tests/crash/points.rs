//! At every crash point: a real agent, a real hub, the real engine.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use moorline_agent::crash::POINTS;
use moorline_tests::crash::stories::{Story, play, stage, story_of};

/// Hosts that are played on at once: mostly they wait.
const SITES: usize = 5;

#[test]
fn killed_at_every_point_nothing_happens_twice_and_nothing_is_lost() {
    assert!(POINTS.len() >= 40);
    // Where a replacement that fails in the end can be cut short before it has failed.
    let undone =
        ["docker.create.after", "docker.replace.made", "docker.replace.stopped", "docker.start.after"].map(|point| (point, Story::Undone));
    let mut queue: Vec<(&str, Story)> = POINTS.iter().map(|point| (*point, story_of(point))).chain(undone).collect();
    if let Ok(only) = std::env::var("MOORLINE_CRASH_ONLY") {
        for one in only.split(',') {
            assert!(!one.is_empty() && POINTS.iter().any(|point| point.contains(one)), "MOORLINE_CRASH_ONLY: no point's name has `{one}`");
        }
        queue.retain(|(point, _)| only.split(',').any(|one| point.contains(one)));
    }
    // Taken from the end: those that wait longest first.
    queue.sort_by_key(|(_, story)| matches!(story, Story::Destroyed | Story::Emptied | Story::Doubted));
    let sites = SITES.min(queue.len());
    let (queue, failures) = (Mutex::new(queue), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for n in 0..sites {
            let (queue, failures) = (&queue, &failures);
            scope.spawn(move || {
                let fail = |point: &str, error: anyhow::Error| {
                    println!("FAILED {point}: {error:#}");
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{point}: {error:#}"));
                };
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut site = None;
                while let Some((point, story)) = next() {
                    if site.is_none() {
                        site = match stage(&format!("crash{n}")) {
                            Ok(Some(site)) => Some(site),
                            Ok(None) => return println!("skipped: no Docker Engine answers"),
                            Err(error) => return fail(point, error),
                        };
                    }
                    let begun = Instant::now();
                    let played = site.as_mut().map_or(Ok(()), |site| play(site, story, Some(point)));
                    println!("{n}: {point}: {:.1} s", begun.elapsed().as_secs_f32());
                    if let Err(error) = played {
                        let log = site.as_ref().and_then(|s| s.fleet.logs().ok()).unwrap_or_default();
                        for (name, text) in log {
                            let skipped = text.len().saturating_sub(4000);
                            println!("--- {name}:\n{}", String::from_utf8_lossy(text.as_bytes().get(skipped..).unwrap_or_default()));
                        }
                        fail(point, error);
                        // Whatever it left behind is no other point's.
                        site = None;
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} points:\n{}", failures.len(), POINTS.len(), failures.join("\n"));
}
