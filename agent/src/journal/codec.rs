//! Journal lines: how a record becomes bytes, and what the bytes of a file mean. Pure.
//!
//! A line is one JSON object. Its last member is `crc`: the CRC-32C, in hex, of all bytes before that
//! member. `prev` chains it to the line before.

use moorline_common::id::sha256_hex;

use super::{Head, Record};
use crate::limits::JOURNAL_LINE_MAX;

const CRC_MEMBER: &str = ",\"crc\":\"";
/// `,"crc":"` + 8 digits + `"}`.
const CRC_BYTES: usize = CRC_MEMBER.len() + 8 + 2;

/// A record as a line, without its line feed; `None` when it cannot be written.
#[must_use]
pub fn encode(record: &Record) -> Option<Vec<u8>> {
    let mut line = serde_json::to_vec(record).ok()?;
    line.pop(); // the closing brace
    let crc = crc32c::crc32c(&line);
    line.extend_from_slice(format!("{CRC_MEMBER}{crc:08x}\"}}").as_bytes());
    (line.len() <= JOURNAL_LINE_MAX).then_some(line)
}

/// The record in a line; `None` when the checksum or the shape is wrong.
#[must_use]
pub fn decode(line: &[u8]) -> Option<Record> {
    let (body, tail) = line.split_at_checked(line.len().checked_sub(CRC_BYTES)?)?;
    let digits = tail.strip_prefix(CRC_MEMBER.as_bytes())?.strip_suffix(b"\"}")?;
    let stored = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    if stored != crc32c::crc32c(body) {
        return None;
    }
    let mut json = body.to_vec();
    json.push(b'}');
    serde_json::from_slice(&json).ok()
}

/// What a journal file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The good records, in order.
    pub records: Vec<Record>,
    /// The newest of them.
    pub head: Head,
    /// How many bytes they take.
    pub good_bytes: usize,
    /// What comes after them.
    pub rest: Rest,
}

/// What follows the good records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    Clean,
    /// The remains of a write that a crash cut short. It was never acknowledged, and may be removed.
    Torn,
    /// Damage in acknowledged history.
    Damaged(String),
}

/// Reads a whole file. `before` is the head of the file before it, for a journal that was rotated; the
/// first record must follow it (any first record is taken when `before` is `None`).
#[must_use]
pub fn scan(bytes: &[u8], before: Option<&Head>) -> Scan {
    let mut scan = Scan { records: Vec::new(), head: before.cloned().unwrap_or_default(), good_bytes: 0, rest: Rest::Clean };
    let mut anchored = before.is_some();
    while let Some(rest) = bytes.get(scan.good_bytes..).filter(|r| !r.is_empty()) {
        let next = match rest.iter().position(|b| *b == b'\n') {
            Some(end) => rest.get(..end).and_then(|line| decode(line).map(|record| (line, record))),
            None => None,
        };
        let Some((line, record)) = next else {
            scan.rest = judge_rest(rest, scan.head.seq + 1, scan.records.is_empty() && !anchored);
            return scan;
        };
        let follows = record.seq == scan.head.seq + 1 && record.prev == scan.head.hash;
        if anchored && !follows {
            scan.rest = Rest::Damaged(format!("record {} does not follow record {}", record.seq, scan.head.seq));
            return scan;
        }
        anchored = true;
        scan.head = Head { seq: record.seq, hash: sha256_hex(line) };
        scan.good_bytes += line.len() + 1;
        scan.records.push(record);
    }
    scan
}

/// Whether what follows the last good record can be the remains of one interrupted write: bytes that
/// never arrived (zeros) or a line without its end, and nothing valid of a later flush.
fn judge_rest(rest: &[u8], next_seq: u64, is_first: bool) -> Rest {
    let lines: Vec<&[u8]> = rest.split(|b| *b == b'\n').collect();
    let later = lines.iter().filter_map(|line| decode(line)).find(|r| !is_first && r.batch > next_seq);
    if let Some(record) = later {
        return Rest::Damaged(format!("record {next_seq} is unreadable, and record {} of a later write follows", record.seq));
    }
    // A line that has its line feed and no zeros was written in full, and does not read as a record.
    let whole = lines.len().saturating_sub(1);
    let bad = lines.iter().take(whole).find(|line| decode(line).is_none() && !line.contains(&0));
    match bad {
        Some(_) => Rest::Damaged(format!("record {next_seq} is unreadable")),
        None => Rest::Torn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::State;
    use proptest::prelude::*;

    fn lines(batches: &[&[u64]]) -> Vec<Vec<u8>> {
        let mut prev = String::new();
        let mut out = Vec::new();
        for batch in batches {
            for seq in *batch {
                let record = Record {
                    seq: *seq,
                    batch: batch[0],
                    at: 1,
                    op_id: format!("op-{seq}"),
                    resource: "docker/network/x".to_owned(),
                    kind: "create-network".to_owned(),
                    params: serde_json::json!({"reason": "it is absent"}),
                    task: None,
                    state: State::Started,
                    idempotency_key: String::new(),
                    prev: prev.clone(),
                };
                let line = encode(&record).unwrap();
                prev = sha256_hex(&line);
                out.push(line);
            }
        }
        out
    }

    fn file(lines: &[Vec<u8>]) -> Vec<u8> {
        lines.iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect()
    }

    #[test]
    fn what_was_written_is_read_back() {
        let lines = lines(&[&[1, 2], &[3]]);
        let scan = scan(&file(&lines), Some(&Head::default()));
        assert_eq!(scan.rest, Rest::Clean);
        assert_eq!(scan.records.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(scan.head, Head { seq: 3, hash: sha256_hex(&lines[2]) });
    }

    #[test]
    fn a_write_cut_short_anywhere_is_torn_and_keeps_all_before() {
        let all = file(&lines(&[&[1, 2], &[3, 4]]));
        let committed = file(&lines(&[&[1, 2]])).len();
        for cut in committed + 1..all.len() {
            let scan = scan(&all[..cut], Some(&Head::default()));
            assert!(scan.records.len() >= 2 && scan.rest != Rest::Damaged(String::new()), "cut at {cut}");
            assert!(matches!(scan.rest, Rest::Torn | Rest::Clean), "cut at {cut}: {:?}", scan.rest);
        }
    }

    #[test]
    fn zeros_where_the_last_write_should_be_are_torn() {
        let written = lines(&[&[1], &[2, 3]]);
        let good = file(&written[..1]);
        let mut zeros = good.clone();
        zeros.extend_from_slice(&[0; 4096]);
        assert_eq!(scan(&zeros, Some(&Head::default())).rest, Rest::Torn);
        // The first page of the last write never arrived, its second did.
        let mut hole = good;
        hole.extend(vec![0; written[1].len() + 1]);
        hole.extend(file(&written[2..]));
        assert_eq!(scan(&hole, Some(&Head::default())).rest, Rest::Torn);
    }

    #[test]
    fn a_missing_record_in_the_middle_is_damage() {
        let written = lines(&[&[1], &[2], &[3]]);
        let bytes = file(&[written[0].clone(), written[2].clone()]);
        assert!(matches!(scan(&bytes, Some(&Head::default())).rest, Rest::Damaged(_)));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_in_acknowledged_history_is_never_overlooked(at in 0.0f64..1.0, bit in 0u8..8) {
            let all = file(&lines(&[&[1], &[2, 3], &[4]]));
            let acknowledged = file(&lines(&[&[1], &[2, 3]])).len();
            let index = ((acknowledged - 1) as f64 * at) as usize;
            let mut flipped = all;
            flipped[index] ^= 1 << bit;
            let scan = scan(&flipped, Some(&Head::default()));
            prop_assert!(matches!(scan.rest, Rest::Damaged(_)), "{:?}", scan.rest);
        }
    }
}
