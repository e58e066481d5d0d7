//! Random stories, for as long as asked: random operations in three lanes, an agent that dies up to three times at random
//! places or moments, and the same checks. The seed makes orders and places again, moments not quite.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use moorline_agent::crash::POINTS;

use super::orders::Wish;
use super::site::Site;
use super::stories::{Story, stage, story_of};
use crate::limits::POLL;
use crate::wait::check_interrupt;

/// An agent that did not pass the place where it should die is killed after so long.
const PATIENCE: Duration = Duration::from_secs(3);
const SERVICES: [&str; 3] = ["a", "b", "c"];

/// How many, and which.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// So many rounds.
    pub rounds: u64,
    /// Of the first round; each next one has the next seed.
    pub seed: u64,
}

/// Numbers that look random (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let sides = u64::try_from(from.len()).unwrap_or(1);
        from.get(usize::try_from(self.below(sides)).unwrap_or_default())
    }
}

/// Plays `options.rounds` rounds; `say` hears of each. Without an engine nothing is played.
///
/// # Errors
/// The first round that fails, with its seed.
pub fn run(options: Options, mut say: impl FnMut(&str)) -> Result<()> {
    let Some(mut site) = stage("rounds")? else {
        say("skipped: no Docker Engine answers");
        return Ok(());
    };
    for n in 0..options.rounds {
        let seed = options.seed.wrapping_add(n);
        let begun = Instant::now();
        let deaths = round(&mut site, seed).with_context(|| format!("round {n}: play it again with `--rounds 1 --seed {seed}`"))?;
        say(&format!("round {n}, seed {seed}: {deaths}, {:.1} s", begun.elapsed().as_secs_f32()));
    }
    Ok(())
}

fn round(site: &mut Site, seed: u64) -> Result<String> {
    let mut dice = Dice(seed);
    let (before, from) = (site.state()?, site.orders());
    site.kill()?;
    let places: Vec<&str> = POINTS.iter().copied().filter(|p| !matches!(story_of(p), Story::Pushed | Story::Torn)).collect();
    let wishes = wishes(site, &mut dice);
    let mut deaths = Vec::new();
    let mut wishes = wishes.into_iter().peekable();
    for _ in 0..=dice.below(3) {
        // One in three dies at a moment, not at a place.
        let place = (dice.below(3) > 0).then(|| dice.pick(&places).map(|p| format!("{p}:{}", 1 + dice.below(6)))).flatten();
        let patience = if place.is_some() { PATIENCE } else { Duration::from_millis(dice.below(1500)) };
        site.start(place.as_deref())?;
        let begun = Instant::now();
        let share = 3 + dice.below(5);
        for wish in wishes.by_ref().take(usize::try_from(share)?) {
            site.order(wish)?;
        }
        let died = dead_within(site, patience.saturating_sub(begun.elapsed()))?;
        if !died {
            site.kill()?;
        }
        deaths.push(place.filter(|_| died).unwrap_or_else(|| format!("after {} ms", begun.elapsed().as_millis())));
    }
    site.start(None)?;
    for wish in wishes {
        site.order(wish)?;
    }
    site.settle()?;
    site.check(from, "a")?;
    let after = site.state()?;
    anyhow::ensure!(after == before, "the host was {before:?}, now it is {after:?}");
    Ok(format!("{} orders, died {}", site.orders() - from, deaths.join(", ")))
}

fn dead_within(site: &mut Site, patience: Duration) -> Result<bool> {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        check_interrupt()?;
        if site.is_dead()? {
            return Ok(true);
        }
        std::thread::sleep(POLL / 10);
    }
    site.is_dead()
}

/// Where a container will be when its lane is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Will {
    Run,
    Pause,
    Rest,
}

/// A few orders for each of three lanes, mixed. In the end all run, as in the beginning.
fn wishes(site: &Site, dice: &mut Dice) -> Vec<Wish> {
    let mut lanes = SERVICES.map(|service| (site.container(service), Will::Run));
    let mut all = Vec::new();
    for _ in 0..6 + dice.below(9) {
        let at = usize::try_from(dice.below(3)).unwrap_or_default();
        let Some((resource, will)) = lanes.get_mut(at) else { continue };
        let (wish, then) = one(resource, *will, dice);
        *will = then;
        all.push(wish);
    }
    for (resource, will) in &lanes {
        match will {
            Will::Run => {}
            Will::Pause => all.push(Wish::plain("unpause", resource)),
            Will::Rest => all.push(Wish::plain("start", resource)),
        }
    }
    all
}

fn one(resource: &str, will: Will, dice: &mut Dice) -> (Wish, Will) {
    let pick = dice.below(8);
    match (will, pick) {
        (_, 0 | 1) => (Wish::exec(resource), will),
        (Will::Pause, _) => (Wish::plain("unpause", resource), Will::Run),
        (Will::Rest, 2) => (Wish::brief("restart", resource), Will::Run),
        (Will::Rest, 3) => (Wish::brief("stop", resource), Will::Rest),
        (Will::Rest, _) => (Wish::plain("start", resource), Will::Run),
        (Will::Run, 2) => (Wish::brief("stop", resource), Will::Rest),
        (Will::Run, 3) => (Wish::brief("restart", resource), Will::Run),
        (Will::Run, 4) => (Wish::kill("SIGKILL", resource), Will::Rest),
        (Will::Run, 5) => (Wish::kill("SIGUSR1", resource), Will::Run),
        (Will::Run, 6) => (Wish::plain("start", resource), Will::Run),
        (Will::Run, _) => (Wish::plain("pause", resource), Will::Pause),
    }
}
