//! `moorline-agent journal`: shows and checks what the agent has done, whether it runs or not.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use jiff::Timestamp;
use moorline_common::op::Record;

use super::{Output, complain, say};
use crate::config::Config;
use crate::journal::reader::{self, Damage, Walk};
use crate::journal::segment;

#[derive(Debug, Subcommand)]
pub(super) enum JournalVerb {
    /// Check every line: checksums, chain, order and checkpoints
    Verify {
        /// The form of the output
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Show what was done, oldest first
    Show {
        /// Only this operation
        #[arg(long, value_name = "ID")]
        op: Option<String>,
        /// Only this resource, such as docker/container/edge-site-1
        #[arg(long, value_name = "RESOURCE")]
        resource: Option<String>,
    },
    /// Write the lines as they stand in the files, for audit
    Export {
        /// Only this operation
        #[arg(long, value_name = "ID")]
        op: Option<String>,
    },
}

pub(super) fn journal(config: &Config, verb: &JournalVerb) -> anyhow::Result<ExitCode> {
    let dir = config.state.join("journal");
    let mut out = io::BufWriter::new(io::stdout().lock());
    // A reader that has gone away is no error.
    let mut matched = 0_u64;
    let walk = reader::walk(&dir, |record, line| match verb {
        JournalVerb::Show { op, resource } if is_wanted(record, op.as_deref(), resource.as_deref()) => {
            matched += 1;
            let _ = writeln!(out, "{}", line_of(record));
        }
        JournalVerb::Export { op } if is_wanted(record, op.as_deref(), None) => {
            matched += 1;
            let _ = out.write_all(line).and_then(|()| out.write_all(b"\n"));
        }
        JournalVerb::Verify { .. } | JournalVerb::Show { .. } | JournalVerb::Export { .. } => {}
    });
    let walk = match walk {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            anyhow::bail!("there is no journal in {}: nothing was done yet", dir.display())
        }
        other => other.with_context(|| format!("reading {}", dir.display()))?,
    };
    let _ = out.flush();
    drop(out);
    let path = |damage: &Damage| dir.join(segment::file_name(damage.segment));
    match verb {
        JournalVerb::Verify { output: Output::Json } => say(&serde_json::to_string_pretty(&json(&walk, path))?),
        JournalVerb::Verify { output: Output::Text } => say(&summary(&walk)),
        JournalVerb::Show { .. } | JournalVerb::Export { .. } => {}
    }
    if matched == 0 && walk.records > 0 && !matches!(verb, JournalVerb::Verify { .. }) {
        complain(&format!("none of the {} records is of that; operations and resources are named in full", walk.records));
    }
    for damage in &walk.damage {
        complain(&format!("{} is damaged at byte {}: {}", path(damage).display(), damage.offset, damage.what));
    }
    Ok(if walk.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_wanted(record: &Record, op: Option<&str>, resource: Option<&str>) -> bool {
    op.is_none_or(|op| record.op_id == op) && resource.is_none_or(|resource| record.resource == resource)
}

fn line_of(r: &Record) -> String {
    let at = i64::try_from(r.at)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| r.at.to_string(), |t| format!("{t:.3}"));
    let state = if r.acknowledged { "acknowledged" } else { r.state.as_str() };
    let why = match (&r.fault, r.params.get("reason").and_then(|reason| reason.as_str())) {
        (Some(fault), _) => format!("  {fault}"),
        (None, Some(reason)) => format!("  {reason}"),
        (None, None) => String::new(),
    };
    format!("{:>8}  {at}  {}  {state:<13}  {:<18}  {}{why}", r.seq, r.op_id, r.kind, r.resource)
}

fn summary(walk: &Walk) -> String {
    let kept = match walk.segments {
        1 => "1 segment".to_owned(),
        n => format!("{n} segments"),
    };
    let tail = if walk.unfinished { "; the last line is not whole: it is being written, or the next start mends it" } else { "" };
    let verdict = if walk.damage.is_empty() { "sound" } else { "DAMAGED" };
    format!(
        "{verdict}: {} records from {} to {} in {kept}, {} open{tail}\nhead {} {}",
        walk.records, walk.first, walk.head.seq, walk.open, walk.head.seq, walk.head.hash
    )
}

fn json(walk: &Walk, path: impl Fn(&Damage) -> PathBuf) -> serde_json::Value {
    let damage: Vec<_> = walk.damage.iter().map(|d| serde_json::json!({ "file": path(d), "offset": d.offset, "what": d.what })).collect();
    serde_json::json!({
        "sound": walk.damage.is_empty(),
        "segments": walk.segments,
        "first": walk.first,
        "records": walk.records,
        "open": walk.open,
        "unfinished": walk.unfinished,
        "head": { "seq": walk.head.seq, "hash": walk.head.hash },
        "damage": damage,
    })
}
