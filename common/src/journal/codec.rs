//! Journal lines: how a record becomes bytes, and what the bytes of a segment mean. Pure.
//!
//! A line is one JSON object. Its last member is `crc`: the CRC-32C, in hex, of all bytes before that member. `prev`
//! chains it to the line before. A segment begins with a header and the checkpoint that it announces; records follow.

use std::io::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Head, LINE_MAX, PART_LINE_MAX};
use crate::id::{UnixSeconds, sha256_hex};
use crate::op::{Book, Part, Record};

/// The version of this format.
pub const VERSION: u32 = 1;

/// Bytes of most lines, with room.
const LINE_USUAL: usize = 512;

const CRC_MEMBER: &str = ",\"crc\":\"";
/// `,"crc":"` + 8 digits + `"}`.
const CRC_BYTES: usize = CRC_MEMBER.len() + 8 + 2;

/// The first line of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`VERSION`].
    pub journal: u32,
    /// The number of the first record that the segment can hold.
    pub first: u64,
    /// When it was begun, in milliseconds since 1970 by the wall clock.
    pub at: u64,
    /// The hash of the newest record before it; empty when there is none.
    pub head: String,
    /// Lines of the checkpoint, which follow.
    pub parts: u64,
    /// The time floor at that moment: older nonces were forgotten.
    pub time_floor: UnixSeconds,
    /// The hash of the last line before it, in the segment before; empty for the first segment.
    pub prev: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartLine {
    part: Part,
    prev: String,
}

/// The last line of a segment that has a successor: without it the successor was never there, with it it must be.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seal {
    sealed: u64,
    prev: String,
}

/// A record as a line, without its line feed; `None` when it is too large or cannot be written.
#[must_use]
pub fn encode<T: Serialize>(value: &T) -> Option<Vec<u8>> {
    encode_within(value, LINE_MAX)
}

fn encode_within<T: Serialize>(value: &T, max: usize) -> Option<Vec<u8>> {
    let mut line = Vec::with_capacity(LINE_USUAL);
    serde_json::to_writer(&mut line, value).ok()?;
    line.pop(); // the closing brace
    let crc = crc32c::crc32c(&line);
    // A vector takes all that is written to it.
    let _ = write!(line, "{CRC_MEMBER}{crc:08x}\"}}");
    (line.len() <= max).then_some(line)
}

/// The JSON object in a line; `None` when the checksum is wrong.
fn checked(line: &[u8]) -> Option<Vec<u8>> {
    let (body, tail) = line.split_at_checked(line.len().checked_sub(CRC_BYTES)?)?;
    let digits = tail.strip_prefix(CRC_MEMBER.as_bytes())?.strip_suffix(b"\"}")?;
    // Exactly as it was written: a digit in upper case is another byte.
    if digits != format!("{:08x}", crc32c::crc32c(body)).as_bytes() {
        return None;
    }
    let mut json = Vec::with_capacity(body.len() + 1);
    json.extend_from_slice(body);
    json.push(b'}');
    Some(json)
}

fn decode<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// The first record of the segment that a line begins; `None` when it is no header.
#[must_use]
pub fn begins(line: &[u8]) -> Option<u64> {
    decode::<Header>(&checked(line)?).map(|header| header.first)
}

/// How a new segment begins: the lines, and the hash of the last of them. `None` when a line cannot be written.
#[must_use]
pub fn beginning(head: &Head, tail: &str, book: &Book, time_floor: UnixSeconds, at: u64) -> Option<(Vec<u8>, String)> {
    let parts = book.parts();
    let header = Header {
        journal: VERSION,
        first: head.seq + 1,
        at,
        head: head.hash.clone(),
        parts: u64::try_from(parts.len()).ok()?,
        time_floor,
        prev: tail.to_owned(),
    };
    let mut bytes = encode(&header)?;
    let mut prev = sha256_hex(&bytes);
    bytes.push(b'\n');
    for part in parts {
        let line = encode_within(&PartLine { part, prev }, PART_LINE_MAX)?;
        prev = sha256_hex(&line);
        bytes.extend_from_slice(&line);
        bytes.push(b'\n');
    }
    Some((bytes, prev))
}

/// The line that closes a segment whose successor begins with record `next`.
#[must_use]
pub fn seal(next: u64, tail: &str) -> Option<Vec<u8>> {
    let mut line = encode(&Seal { sealed: next, prev: tail.to_owned() })?;
    line.push(b'\n');
    Some(line)
}

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Its first line; `None` when that cannot be read.
    pub header: Option<Header>,
    /// The newest record.
    pub head: Head,
    /// The hash of the newest line of the chain.
    pub tail: String,
    /// The fold of all records up to the head.
    pub book: Book,
    /// How many bytes the good lines take, a seal not among them.
    pub good_bytes: usize,
    /// The first record of the successor, when the segment is closed.
    pub sealed: Option<u64>,
    /// What comes after the good lines.
    pub rest: Rest,
}

/// What follows the good lines. Whole lines behind an unreadable one are damage even when all are of one
/// [batch](Record::batch): a flush that was cut short may leave that, and so may one that was acknowledged and lost a block
/// later. Nothing behind it says which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// Nothing.
    Clean,
    /// The remains of a write that a crash cut short. It was never acknowledged, and may be removed.
    Torn,
    /// Damage in what may have been acknowledged.
    Damaged(String),
}

/// Reads a whole segment, and hands each record with its line to `see`.
pub fn scan(bytes: &[u8], mut see: impl FnMut(&Record, &[u8])) -> Scan {
    let mut scan = Scan {
        header: None,
        head: Head::default(),
        tail: String::new(),
        book: Book::default(),
        good_bytes: 0,
        sealed: None,
        rest: Rest::Clean,
    };
    let mut parts = 0;
    while let Some(rest) = bytes.get(scan.good_bytes..).filter(|r| !r.is_empty()) {
        let line = rest.iter().position(|b| *b == b'\n').and_then(|end| rest.get(..end));
        let Some((line, json)) = line.and_then(|line| checked(line).map(|json| (line, json))) else {
            scan.rest = judge_rest(rest, &scan, parts);
            return scan;
        };
        let taken = match (&scan.header, parts) {
            (None, _) => take_header(&mut scan, &json).map(|n| parts = n),
            (Some(_), 1..) => take_part(&mut scan, &json).map(|()| parts -= 1),
            (Some(_), 0) => match take_record(&mut scan, &json) {
                Ok(Some(record)) => {
                    see(&record, line);
                    Ok(())
                }
                Ok(None) => {
                    if rest.len() > line.len() + 1 {
                        scan.rest = Rest::Damaged("something follows its seal".to_owned());
                    }
                    return scan;
                }
                Err(what) => Err(what),
            },
        };
        if let Err(what) = taken {
            scan.rest = Rest::Damaged(what);
            return scan;
        }
        scan.tail = sha256_hex(line);
        scan.good_bytes += line.len() + 1;
        if parts == 0 && scan.head.seq >= scan.header.as_ref().map_or(0, |h| h.first) {
            scan.head.hash.clone_from(&scan.tail);
        }
    }
    if scan.header.is_none() || parts > 0 {
        // A segment gets its name when its beginning is durable.
        scan.rest = Rest::Damaged("its beginning is missing".to_owned());
    }
    scan
}

fn take_header(scan: &mut Scan, json: &[u8]) -> Result<u64, String> {
    let header: Header = decode(json).ok_or("its first line is no header")?;
    if header.journal != VERSION {
        return Err(format!("it is of version {}; this agent reads version {VERSION}", header.journal));
    }
    scan.head = Head { seq: header.first.saturating_sub(1), hash: header.head.clone() };
    let parts = header.parts;
    scan.header = Some(header);
    Ok(parts)
}

fn take_part(scan: &mut Scan, json: &[u8]) -> Result<(), String> {
    let line: PartLine = decode(json).ok_or("a line of its checkpoint is unreadable")?;
    if line.prev != scan.tail {
        return Err("its checkpoint is not in order".to_owned());
    }
    scan.book.restore(line.part);
    Ok(())
}

/// The next record; `None` when the segment is closed here.
fn take_record(scan: &mut Scan, json: &[u8]) -> Result<Option<Arc<Record>>, String> {
    let next = scan.head.seq + 1;
    let Some(record) = decode::<Record>(json) else {
        let seal: Seal = decode(json).ok_or_else(|| format!("record {next} is unreadable"))?;
        if seal.prev != scan.tail || seal.sealed != next {
            return Err(format!("its seal does not follow record {}", scan.head.seq));
        }
        scan.sealed = Some(seal.sealed);
        return Ok(None);
    };
    if record.seq != next || record.prev != scan.tail {
        return Err(format!("record {} does not follow record {}", record.seq, scan.head.seq));
    }
    let record = Arc::new(record);
    scan.book.fold(&record).map_err(|e| format!("record {next}: {e}"))?;
    scan.head.seq = next;
    Ok(Some(record))
}

/// Whether what follows the last good line can be the remains of one interrupted write: a line without its end, or
/// bytes that never arrived (zeros), and nothing after it.
fn judge_rest(rest: &[u8], scan: &Scan, parts: u64) -> Rest {
    let next = scan.head.seq + 1;
    if scan.header.is_none() || parts > 0 {
        return Rest::Damaged("its beginning is unreadable".to_owned());
    }
    let written = rest.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let text = rest.get(..written).unwrap_or_default();
    // A good line whose line feed is another byte was written in full.
    let lost_its_end = text.split_last().is_some_and(|(_, line)| checked(line).is_some());
    if text.contains(&b'\n') || lost_its_end {
        return Rest::Damaged(format!("record {next} is unreadable"));
    }
    Rest::Torn
}
