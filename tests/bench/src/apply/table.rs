//! Medians, spreads and ratios for people.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;

use super::Sample;

/// The rounds of all contenders.
#[derive(Debug, Clone, Default)]
pub struct Results {
    /// Moorline's.
    pub agent: Vec<Sample>,
    /// The raw calls'.
    pub raw: Vec<Sample>,
    /// docker-compose's, if it is there.
    pub compose: Vec<Sample>,
    /// Mutating engine calls of a re-application.
    pub mutations: usize,
}

struct Row {
    name: &'static str,
    pick: fn(&Sample) -> Option<Duration>,
    aim: Aim,
}

enum Aim {
    /// At most so many times the raw calls.
    Ratio(f64),
    /// At most so long, and no mutating call.
    Quiet(Duration),
}

const ROWS: [Row; 5] = [
    Row { name: "cold apply", pick: |s| s.cold, aim: Aim::Ratio(1.10) },
    Row { name: "no-op re-apply", pick: |s| s.noop, aim: Aim::Quiet(Duration::from_millis(50)) },
    Row { name: "change of one", pick: |s| s.change, aim: Aim::Ratio(1.20) },
    Row { name: "heal after kill", pick: |s| s.heal, aim: Aim::Ratio(1.20) },
    Row { name: "down", pick: |s| s.down, aim: Aim::Ratio(1.15) },
];

/// Median, least and greatest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
}

/// The spread of `values`; `None` without any.
#[must_use]
pub fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(Spread { median: f64::midpoint(lower, upper), least, most })
}

/// Prints the table.
///
/// # Errors
/// When `out` cannot be written.
pub fn print(out: &mut impl Write, results: &Results) -> Result<()> {
    writeln!(out, "{:<16}{:<26}{:<26}{:<26}{:<22}aim", "", "moorline", "raw calls, 8 at once", "docker-compose", "moorline : raw")?;
    for row in &ROWS {
        let times = |samples: &[Sample]| seconds(samples, row.pick).and_then(spread).map_or_else(|| "-".to_owned(), time);
        let ratios = ratios(&results.agent, &results.raw, row.pick).and_then(spread);
        let shown = ratios.map_or_else(|| "-".to_owned(), |r| format!("{:.2} ({:.2} – {:.2})", r.median, r.least, r.most));
        let own = seconds(&results.agent, row.pick).and_then(spread);
        writeln!(
            out,
            "{:<16}{:<26}{:<26}{:<26}{:<22}{}",
            row.name,
            times(&results.agent),
            times(&results.raw),
            times(&results.compose),
            shown,
            verdict(&row.aim, own, ratios, results.mutations)
        )?;
    }
    writeln!(out, "Medians (least – greatest) of {} interleaved rounds; ratios are within one round.", results.agent.len())?;
    Ok(())
}

fn verdict(aim: &Aim, own: Option<Spread>, ratios: Option<Spread>, mutations: usize) -> String {
    let word = |reached: bool| if reached { "reached" } else { "missed" };
    match aim {
        Aim::Ratio(most) => format!("≤ {most:.2} {}", word(ratios.is_some_and(|r| r.median <= *most))),
        Aim::Quiet(most) => {
            let reached = mutations == 0 && own.is_some_and(|o| o.median <= most.as_secs_f64());
            format!("≤ {} ms, {mutations} mutating calls: {}", most.as_millis(), word(reached))
        }
    }
}

fn seconds(samples: &[Sample], pick: fn(&Sample) -> Option<Duration>) -> Option<Vec<f64>> {
    let values: Vec<f64> = samples.iter().filter_map(pick).map(|d| d.as_secs_f64()).collect();
    Some(values).filter(|v| !v.is_empty())
}

fn ratios(agent: &[Sample], raw: &[Sample], pick: fn(&Sample) -> Option<Duration>) -> Option<Vec<f64>> {
    let pairs = agent.iter().zip(raw).filter_map(|(a, r)| Some((pick(a)?.as_secs_f64(), pick(r)?.as_secs_f64())));
    let values: Vec<f64> = pairs.filter(|(_, r)| *r > 0.0).map(|(a, r)| a / r).collect();
    Some(values).filter(|v| !v.is_empty())
}

fn time(spread: Spread) -> String {
    if spread.most < 1.0 {
        return format!("{:.0} ms ({:.0} – {:.0})", spread.median * 1e3, spread.least * 1e3, spread.most * 1e3);
    }
    format!("{:.2} s ({:.2} – {:.2})", spread.median, spread.least, spread.most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, least: 1.0, most: 4.0 }));
        assert_eq!(spread(vec![5.0]), Some(Spread { median: 5.0, least: 5.0, most: 5.0 }));
        assert_eq!(spread(Vec::new()), None);
    }
}
