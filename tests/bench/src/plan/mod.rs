//! What it costs to know what would change, and to mend what broke.
//!
//! - [`scene`]: a host's twenty resources, and a fleet of hosts that have them.
//! - [`planner`]: the planner alone, on one core.
//! - [`guests`]: a look at many guests of Proxmox VE, and the planner on them.
//! - [`command`]: `moorctl plan` as an operator runs it, beside the bare download of the same reports.
//! - [`heal`]: from the death of a container to its start, beside a client that starts it at the engine's word.

use std::io::Write;

use anyhow::{Context as _, Result};

use crate::apply::table::{Spread, spread};

pub mod command;
pub mod guests;
pub mod heal;
pub mod planner;
pub mod scene;

/// What was measured, beside what was aimed at.
#[derive(Debug, Clone)]
pub struct Row {
    /// What.
    pub name: String,
    /// The figures of all rounds.
    pub values: Vec<f64>,
    /// Their unit.
    pub unit: &'static str,
    /// The aim, if there is one.
    pub aim: Option<Aim>,
}

/// What the median shall be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    /// At most that.
    AtMost(f64),
    /// At least that.
    AtLeast(f64),
}

impl Aim {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Aim::AtMost(most) => value <= most,
            Aim::AtLeast(least) => value >= least,
        }
    }
}

/// Prints `rows`; whether every aim is reached.
///
/// # Errors
/// When `out` cannot be written, or a row is empty.
pub fn print(out: &mut impl Write, rows: &[Row]) -> Result<bool> {
    let mut all = true;
    for row in rows {
        let Spread { median, least, most } = spread(row.values.clone()).with_context(|| format!("nothing was measured of {}", row.name))?;
        let places = if median < 100.0 { 2 } else { 0 };
        let figures = format!("{median:.places$} {} ({least:.places$} – {most:.places$})", row.unit);
        let verdict = match row.aim {
            None => String::new(),
            Some(aim) => {
                let reached = aim.is_reached(median);
                all &= reached;
                let (sign, figure) = match aim {
                    Aim::AtMost(most) => ('≤', most),
                    Aim::AtLeast(least) => ('≥', least),
                };
                format!("{sign} {figure}: {}", if reached { "reached" } else { "missed" })
            }
        };
        writeln!(out, "{:<48}{figures:<44}{verdict}", row.name)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_aim_is_told_and_fails_the_whole() {
        let row = |aim| Row { name: "x".into(), values: vec![1.0, 3.0, 2.0], unit: "s", aim };
        let mut out = Vec::new();
        assert!(print(&mut out, &[row(Some(Aim::AtMost(2.0))), row(None)]).unwrap());
        assert!(!print(&mut out, &[row(Some(Aim::AtLeast(2.5))), row(None)]).unwrap());
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("2.00 s (1.00 – 3.00)") && text.contains("≥ 2.5: missed"), "{text}");
    }
}
