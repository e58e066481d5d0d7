//! `moorctl journal`: what a host has done, by its own records. The hub only passes them on: checksums, chain, order and
//! checkpoints are checked here, and that the record which heartbeats named is among them with that very hash.

use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, sha256_hex};
use moorline_common::journal::{Damage, Head, Walk, Walker, begins};
use moorline_common::op::Record;
use serde::Serialize;

use super::Env;
use crate::client::HostView;
use crate::clock;
use crate::error::Failure;
use crate::home::files;
use crate::limits::{JOURNAL_LINE_MAX, SEGMENT_MAX};
use crate::render::{Format, Ui};

/// Arguments of `journal`.
#[derive(Debug, Args)]
pub struct JournalArgs {
    /// The host
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Check only, and show no records
    #[arg(long)]
    pub verify: bool,
    /// Write the lines as they came to a file, for audit
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Only the records of this operation or step
    #[arg(long, value_name = "ID")]
    pub op: Option<String>,
    /// A record that was noted elsewhere, which must be among them: its number and at least 32 digits of its hash
    #[arg(long, value_name = "SEQ:HASH", value_parser = noted)]
    pub head: Vec<Noted>,
}

/// A record that must be in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Noted {
    /// Its number.
    seq: u64,
    /// How its hash begins.
    hash: String,
    /// Who has seen it.
    by: &'static str,
    /// Whether it is there, with that hash.
    found: bool,
}

fn noted(text: &str) -> Result<Noted, String> {
    let wrong = || "write the record's number, a colon and at least 32 hex digits of its hash".to_owned();
    let (seq, hash) = text.split_once(':').ok_or_else(wrong)?;
    let seq = seq.parse().map_err(|_| wrong())?;
    let hash = hash.to_ascii_lowercase();
    if !(32..=64).contains(&hash.len()) || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    Ok(Noted { seq, hash, by: "you", found: false })
}

/// What came of it, as `-o json` shows it; keys are stable.
#[derive(Debug, Serialize)]
struct Checked {
    host: String,
    /// Whether nothing is damaged and every noted record is there.
    verified: bool,
    segments: usize,
    /// The first record that the host still keeps.
    first: u64,
    records: u64,
    head: Head,
    /// Operations and steps that have not ended.
    open: usize,
    /// Records that must be there: the one that heartbeats named, and those of `--head`.
    noted: Vec<Noted>,
    damage: Vec<Damage>,
    /// The records that were asked for; none with `--verify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    shown: Option<Vec<Record>>,
}

/// Runs it; exit 1 when the journal is not what was seen of it.
///
/// # Errors
/// `waiting` when the host is not connected; `hash_mismatch` when the journal is not sound.
pub async fn run(args: JournalArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.host.as_str())?;
    let client = env.client(ui).await?;
    // Before the journal is asked for: what was witnessed then must be in it.
    let host = client.host(&name).await?;
    let mut noted = args.head.clone();
    noted.extend(witnessed(&host, ui));
    let mut lines = client.journal(&host.host_id, 0).await.map_err(|f| {
        if f.is(Code::Waiting) { f.with_remedy("let the host connect, or run `moorline-agent journal verify` there") } else { f }
    })?;
    let mut reader = Reader::new(noted, args.op.clone(), !args.verify && ui.format != Format::Table);
    let mut saved = args.save.as_deref().map(|path| files::create_new(path).map(BufWriter::new)).transpose()?;
    while let Some(part) = lines.next().await? {
        if let (Some(file), Some(path)) = (&mut saved, &args.save) {
            file.write_all(&part).map_err(|e| Failure::file("write", path, &e))?;
        }
        let text = reader.take(&part)?;
        if !args.verify && ui.format == Format::Table {
            ui.text(&text)?;
        }
    }
    if let (Some(file), Some(path)) = (saved, &args.save) {
        let file = file.into_inner().map_err(|e| Failure::file("write", path, e.error()))?;
        file.sync_all().map_err(|e| Failure::file("write", path, &e))?;
    }
    let (checked, text, matched) = reader.end(&name);
    if let Some(op) = args.op.as_ref().filter(|_| matched == 0 && !args.verify) {
        ui.note(&format!("no record of `{op}` is among the {} that host `{name}` keeps; ids are never shortened", checked.records));
    }
    if ui.format == Format::Table && !args.verify {
        ui.text(&text)?;
        ui.note(summary(&checked).trim_end());
    } else {
        ui.result(&checked, || summary(&checked))?;
    }
    if checked.verified {
        return Ok(0);
    }
    let missing = checked.noted.iter().find(|n| !n.found);
    let fault = match (checked.damage.first(), missing) {
        (Some(damage), _) => Fault::new(
            Code::HashMismatch,
            format!("the journal of host `{name}` is damaged in segment {} at byte {}: {}", damage.segment, damage.offset, damage.what),
        ),
        (None, Some(missing)) if missing.seq > checked.head.seq => Fault::new(
            Code::RecordsBehind,
            format!("the journal of host `{name}` ends at record {}; {} had seen record {}", checked.head.seq, missing.by, missing.seq),
        ),
        (None, missing) => {
            let seq = missing.map_or(0, |m| m.seq);
            Fault::new(
                Code::HashMismatch,
                format!("record {seq} of host `{name}` is not the one that was seen before: its history was rewritten"),
            )
        }
    };
    Err(Failure::from(fault).with_remedy(
        "keep the lines with --save and compare them with `moorline-agent journal verify` on the host: either the host or the hub does not tell the truth",
    ))
}

/// The record that the hub has seen in heartbeats of this life of the host.
fn witnessed(host: &HostView, ui: &mut Ui) -> Option<Noted> {
    let epoch = host.bound().map(|b| b.host_epoch.as_str());
    match &host.witness {
        Some(witness) if Some(witness.epoch.as_str()) == epoch && witness.head.len() >= 16 => {
            Some(Noted { seq: witness.seq, hash: hex::encode(&witness.head), by: "the hub", found: false })
        }
        Some(_) | None => {
            ui.warn("the hub has seen no record of this life of the host: only the chain itself can be checked");
            None
        }
    }
}

/// Takes a journal in part by part, and keeps one segment at a time.
struct Reader {
    walker: Walker,
    /// The segment that is being read: its first record, and its bytes so far.
    segment: Option<(u64, Vec<u8>)>,
    /// A line whose end has not come.
    rest: Vec<u8>,
    seen: Seen,
}

/// What is looked for in records.
struct Seen {
    noted: Vec<Noted>,
    op: Option<String>,
    records: Option<Vec<Record>>,
    text: String,
    /// Records that were asked for.
    matched: u64,
}

impl Seen {
    fn see(&mut self, record: &Record, line: &[u8]) {
        if self.noted.iter().any(|n| n.seq == record.seq) {
            let hash = sha256_hex(line);
            for noted in self.noted.iter_mut().filter(|n| n.seq == record.seq) {
                noted.found = hash.starts_with(&noted.hash);
            }
        }
        if self.op.as_ref().is_none_or(|op| *op == record.op_id) {
            self.matched += 1;
            match &mut self.records {
                Some(records) => records.push(record.clone()),
                None => self.text.push_str(&line_of(record)),
            }
        }
    }
}

impl Reader {
    fn new(noted: Vec<Noted>, op: Option<String>, keep: bool) -> Self {
        let seen = Seen { noted, op, records: keep.then(Vec::new), text: String::new(), matched: 0 };
        Self { walker: Walker::default(), segment: None, rest: Vec::new(), seen }
    }

    /// Takes a part; gives back the records that it completed, for people.
    fn take(&mut self, part: &[u8]) -> Result<String, Failure> {
        let too_large = || Failure::from(Fault::new(Code::TooLarge, "the hub sends a line or a segment that no agent writes"));
        self.rest.extend_from_slice(part);
        let whole = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let rest = self.rest.split_off(whole);
        let lines = std::mem::replace(&mut self.rest, rest);
        if self.rest.len() > JOURNAL_LINE_MAX {
            return Err(too_large());
        }
        for line in lines.split_inclusive(|b| *b == b'\n') {
            // A header whose checksum is wrong begins nothing: it is damage in the segment before it.
            let begun = line.starts_with(b"{\"journal\":").then(|| begins(line.strip_suffix(b"\n").unwrap_or(line))).flatten();
            match (begun, &mut self.segment) {
                (Some(first), _) => {
                    self.close(Some(first));
                    self.segment = Some((first, line.to_vec()));
                }
                (None, Some((_, bytes))) if bytes.len() + line.len() > SEGMENT_MAX => return Err(too_large()),
                (None, Some((_, bytes))) => bytes.extend_from_slice(line),
                (None, None) => self.segment = Some((0, line.to_vec())),
            }
        }
        Ok(std::mem::take(&mut self.seen.text))
    }

    /// Checks the segment that was read, which `next` follows.
    fn close(&mut self, next: Option<u64>) {
        if let Some((first, bytes)) = self.segment.take() {
            let seen = &mut self.seen;
            self.walker.segment(first, &bytes, next, |record, line| seen.see(record, line));
        }
    }

    fn end(mut self, host: &HostName) -> (Checked, String, u64) {
        let rest = std::mem::take(&mut self.rest);
        if let Some((_, bytes)) = &mut self.segment {
            bytes.extend_from_slice(&rest);
        }
        self.close(None);
        let Seen { mut noted, records, text, matched, .. } = self.seen;
        noted.sort_by_key(|n| n.seq);
        let Walk { segments, records: count, first, head, open, damage, .. } = self.walker.end();
        let verified = damage.is_empty() && noted.iter().all(|n| n.found);
        let checked =
            Checked { host: host.to_string(), verified, segments, first, records: count, head, open, noted, damage, shown: records };
        (checked, text, matched)
    }
}

/// One record for people.
fn line_of(record: &Record) -> String {
    let state = if record.acknowledged { "acknowledged" } else { record.state.as_str() };
    let why = record.fault.as_ref().map(|f| format!("  {f}")).unwrap_or_default();
    let at = clock::rfc3339(record.at);
    format!("{:>8}  {at}  {}  {state:<13}  {:<18}  {}{why}\n", record.seq, record.op_id, record.kind, record.resource)
}

fn summary(checked: &Checked) -> String {
    let verdict = match (checked.verified, checked.noted.is_empty()) {
        (true, false) => "verified",
        (true, true) => "sound, with nothing to compare it with",
        (false, _) => "NOT VERIFIED",
    };
    let s = if checked.segments == 1 { "" } else { "s" };
    let mut text = format!(
        "{}: {verdict}: {} records from {} to {} in {} segment{s}, {} open\nhead {}:{}\n",
        checked.host, checked.records, checked.first, checked.head.seq, checked.segments, checked.open, checked.head.seq, checked.head.hash
    );
    for noted in &checked.noted {
        let found = if noted.found { "is there" } else { "IS NOT THERE" };
        text.push_str(&format!("record {}:{}, seen by {}, {found}\n", noted.seq, noted.hash, noted.by));
    }
    for damage in &checked.damage {
        text.push_str(&format!("segment {}, byte {}: {}\n", damage.segment, damage.offset, damage.what));
    }
    text
}

#[cfg(test)]
mod tests {
    use moorline_common::id::{HostEpoch, UnixSeconds};
    use moorline_common::journal::{beginning, encode, seal};
    use moorline_common::op::{Book, State};
    use serde_json::Value;

    use super::*;

    /// Two segments of two records each, and the records' hashes.
    fn journal() -> (Vec<u8>, Vec<String>) {
        let (mut head, mut book, mut hashes) = (Head::default(), Book::default(), Vec::new());
        let (mut bytes, mut tail) = beginning(&head, "", &book, UnixSeconds(0), 1).unwrap();
        for n in 1..=4_u64 {
            if n == 3 {
                let line = seal(n, &tail).unwrap();
                bytes.extend_from_slice(&line);
                let (begun, new_tail) = beginning(&head, &tail, &book, UnixSeconds(0), 1).unwrap();
                bytes.extend_from_slice(&begun);
                tail = new_tail;
            }
            let record = Record {
                seq: n,
                batch: n,
                at: 1_000,
                epoch: HostEpoch::parse("e".repeat(32)).unwrap(),
                op_id: format!("step-{}", n.div_ceil(2)),
                resource: "docker/container/c".to_owned(),
                kind: "start-container".to_owned(),
                params: Value::Null,
                task: None,
                state: if n % 2 == 1 { State::Started } else { State::Succeeded },
                idempotency_key: String::new(),
                grant: None,
                hold: None,
                fault: None,
                result: Value::Null,
                acknowledged: false,
                prev: tail.clone(),
            };
            let line = encode(&record).unwrap();
            tail = sha256_hex(&line);
            head = Head { seq: n, hash: tail.clone() };
            hashes.push(tail.clone());
            book.fold(&std::sync::Arc::new(record)).unwrap();
            bytes.extend_from_slice(&line);
            bytes.push(b'\n');
        }
        (bytes, hashes)
    }

    fn check(bytes: &[u8], noted: Vec<Noted>, part: usize) -> (Checked, String) {
        let mut reader = Reader::new(noted, None, false);
        let mut text = String::new();
        for part in bytes.chunks(part) {
            text.push_str(&reader.take(part).unwrap());
        }
        let (checked, more, _) = reader.end(&HostName::parse("shop").unwrap());
        (checked, text + &more)
    }

    fn seen(seq: u64, hash: &str) -> Noted {
        noted(&format!("{seq}:{}", hash.get(..32).unwrap())).unwrap()
    }

    #[test]
    fn a_sound_journal_that_holds_what_was_seen_is_verified_however_it_is_cut() {
        let (bytes, hashes) = journal();
        for part in [1, 7, 1000, bytes.len()] {
            let (checked, text) = check(&bytes, vec![seen(2, &hashes[1]), seen(4, &hashes[3])], part);
            assert!(checked.verified, "{checked:?}");
            assert_eq!((checked.segments, checked.records, checked.head.seq, checked.open), (2, 4, 4, 0));
            assert_eq!(text.lines().count(), 4);
            assert!(summary(&checked).starts_with("shop: verified: 4 records from 1 to 4 in 2 segments"));
        }
    }

    #[test]
    fn a_journal_that_lacks_what_was_seen_is_not_verified() {
        let (bytes, hashes) = journal();
        let (checked, _) = check(&bytes, vec![seen(4, &hashes[2])], 64);
        assert!(!checked.verified && checked.damage.is_empty());
        assert!(summary(&checked).contains("IS NOT THERE"));
        // The newest record is held back.
        let end = bytes[..bytes.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        let (checked, _) = check(&bytes[..end], vec![seen(4, &hashes[3])], 64);
        assert!(!checked.verified && checked.damage.is_empty() && checked.head.seq == 3);
    }

    #[test]
    fn a_changed_missing_or_doubled_line_is_damage() {
        let (bytes, _) = journal();
        let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
        for n in 0..lines.len() {
            let mut without = lines.clone();
            without.remove(n);
            let mut doubled = lines.clone();
            doubled.insert(n, lines[n]);
            // Without its last line it is only shorter: what was seen of it tells. A seal says only that the next segment, which
            // is here, must be.
            let harmless = n + 1 == lines.len() || lines[n].starts_with(b"{\"sealed\":");
            assert_eq!(check(&without.concat(), Vec::new(), 50).0.verified, harmless, "line {n}");
            assert!(!check(&doubled.concat(), Vec::new(), 50).0.verified, "line {n} twice");
        }
        for at in (0..bytes.len()).step_by(3) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(!check(&changed, Vec::new(), 4096).0.verified, "byte {at}");
        }
    }

    #[test]
    fn what_is_noted_elsewhere_is_read_with_care() {
        assert!(noted(&format!("7:{}", "a".repeat(32))).is_ok());
        for bad in ["7", "x:aaaa", "7:abc", &format!("7:{}", "g".repeat(32)), &format!("7:{}", "a".repeat(65))] {
            assert!(noted(bad).is_err(), "{bad}");
        }
    }
}
