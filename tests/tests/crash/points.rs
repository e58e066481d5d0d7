//! At every crash point: a real agent, a real hub, the real engine, and a simulated Proxmox VE.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Result;
use moorline_agent::crash::POINTS;
use moorline_tests::crash::guests::{self, GuestSite};
use moorline_tests::crash::site::Site;
use moorline_tests::crash::stories::{Story, play, stage, story_of};

/// Hosts that are played on at once: mostly they wait.
const SITES: usize = 5;

/// Points, and what is played at each.
type Queue<S> = Vec<(&'static str, S)>;

/// Keeps what `MOORLINE_CRASH_ONLY` names, if it does.
fn only<S>(mut queue: Queue<S>) -> Queue<S> {
    if let Ok(only) = std::env::var("MOORLINE_CRASH_ONLY") {
        for one in only.split(',') {
            assert!(!one.is_empty() && POINTS.iter().any(|point| point.contains(one)), "MOORLINE_CRASH_ONLY: no point's name has `{one}`");
        }
        queue.retain(|(point, _)| only.split(',').any(|one| point.contains(one)));
    }
    queue
}

/// Plays all of `queue` from its end, on several hosts at once; `stage` makes one, nothing when that cannot be had here.
fn play_all<S: Copy + Send, T: Send>(
    queue: Queue<S>,
    stage: impl Fn(usize) -> Result<Option<T>> + Sync,
    play: impl Fn(&mut T, S, &str) -> Result<()> + Sync,
    site: impl Fn(&T) -> &Site + Sync,
) {
    let (all, sites) = (queue.len(), SITES.min(queue.len()));
    let (queue, failures) = (Mutex::new(queue), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for n in 0..sites {
            let (queue, failures, stage, play, site) = (&queue, &failures, &stage, &play, &site);
            scope.spawn(move || {
                let fail = |point: &str, error: anyhow::Error| {
                    println!("FAILED {point}: {error:#}");
                    failures.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{point}: {error:#}"));
                };
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut host = None;
                while let Some((point, story)) = next() {
                    if host.is_none() {
                        host = match stage(n) {
                            Ok(Some(host)) => Some(host),
                            Ok(None) => return println!("skipped: no Docker Engine answers"),
                            Err(error) => return fail(point, error),
                        };
                    }
                    let begun = Instant::now();
                    let played = host.as_mut().map_or(Ok(()), |host| play(host, story, point));
                    println!("{n}: {point}: {:.1} s", begun.elapsed().as_secs_f32());
                    if let Err(error) = played {
                        let log = host.as_ref().and_then(|host| site(host).fleet.logs().ok()).unwrap_or_default();
                        for (name, text) in log {
                            let skipped = text.len().saturating_sub(4000);
                            println!("--- {name}:\n{}", String::from_utf8_lossy(text.as_bytes().get(skipped..).unwrap_or_default()));
                        }
                        fail(point, error);
                        // Whatever it left behind is no other point's.
                        host = None;
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {all} points:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn killed_at_every_point_nothing_happens_twice_and_nothing_is_lost() {
    // Where a replacement that fails in the end can be cut short before it has failed.
    let undone =
        ["docker.create.after", "docker.replace.made", "docker.replace.stopped", "docker.start.after"].map(|point| (point, Story::Undone));
    let points = POINTS.iter().copied().filter(|point| !point.starts_with("pve."));
    let mut queue = only(points.map(|point| (point, story_of(point))).chain(undone).collect());
    assert!(queue.len() >= 40 || std::env::var_os("MOORLINE_CRASH_ONLY").is_some());
    // Taken from the end: those that wait longest first.
    queue.sort_by_key(|(_, story)| matches!(story, Story::Destroyed | Story::Emptied | Story::Doubted));
    let host = |n: usize| stage(&format!("crash{n}"));
    play_all(queue, host, |site, story, point| play(site, story, Some(point)), |site| site);
}

#[test]
fn killed_at_every_point_no_guest_snapshot_clone_or_backup_is_made_twice_and_nothing_is_lost() {
    let mut queue = only(POINTS.iter().filter_map(|point| Some((*point, guests::story_of(point)?))).collect());
    assert!(queue.len() >= 40 || std::env::var_os("MOORLINE_CRASH_ONLY").is_some());
    // What is killed before it asked anything waits longest: until it is proven that it did not.
    let waits = |point: &str| matches!(point, "op.started.after" | "op.effect.before" | "op.again.before" | "op.again.after");
    queue.sort_by_key(|(point, story)| waits(point) || matches!(story, guests::Story::Tried));
    let host = |n: usize| GuestSite::stage(&format!("guests{n}")).map(Some);
    play_all(queue, host, |host, story, point| host.play(story, Some(point)), |host| &host.site);
}
