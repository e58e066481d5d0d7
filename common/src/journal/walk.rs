//! Segment after segment: whether each follows from the one before it.

use super::Head;
use super::codec::{Rest, Scan, scan};
use crate::op::Record;

/// What a journal holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walk {
    /// Segments that were read.
    pub segments: usize,
    /// Records that were read.
    pub records: u64,
    /// The first record that is still kept.
    pub first: u64,
    /// The newest record.
    pub head: Head,
    /// Operations and steps that have not ended.
    pub open: usize,
    /// Whether the last line is not whole: it is being written, or a crash cut it short.
    pub unfinished: bool,
    /// What is damaged, in the order of the records. Empty when all is sound.
    pub damage: Vec<Damage>,
}

/// Damage in a segment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The first record of the segment, by its name.
    pub segment: u64,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// What is wrong there.
    pub what: String,
}

/// Reads segments in order.
#[derive(Debug, Default)]
pub struct Walker {
    walk: Walk,
    before: Option<Scan>,
}

impl Walker {
    /// Reads the next segment, which should begin with record `first` and be followed by the one that begins with `next`;
    /// each record goes to `see`, with its line.
    pub fn segment(&mut self, first: u64, bytes: &[u8], next: Option<u64>, mut see: impl FnMut(&Record, &[u8])) {
        let mut records = 0;
        let scan = scan(bytes, |record, line| {
            records += 1;
            see(record, line);
        });
        let walk = &mut self.walk;
        let mut damaged = |offset: usize, what: String| walk.damage.push(Damage { segment: first, offset, what });
        if let Some(what) = self.before.as_ref().and_then(|before| breach(before, &scan, first, bytes)) {
            damaged(0, what);
        }
        match (&scan.rest, next, scan.sealed) {
            (Rest::Damaged(what), _, _) => damaged(scan.good_bytes, what.clone()),
            (_, None, Some(missing)) => damaged(bytes.len(), format!("the segment that begins with record {missing} is missing")),
            (_, Some(next), Some(sealed)) if next != sealed => {
                damaged(bytes.len(), format!("the segment that begins with record {sealed} is missing"));
            }
            (Rest::Torn, None, _) => walk.unfinished = true,
            (Rest::Torn | Rest::Clean, _, _) => {}
        }
        if walk.segments == 0 {
            walk.first = first;
        }
        walk.segments += 1;
        walk.records += records;
        walk.head.clone_from(&scan.head);
        walk.open = scan.book.open().count();
        self.before = Some(scan);
    }

    /// A segment is not there any more: what follows is not compared with what came before it.
    pub fn skip(&mut self) {
        self.before = None;
    }

    /// What was read.
    #[must_use]
    pub fn end(self) -> Walk {
        self.walk
    }
}

/// Why a segment does not follow the one before it.
fn breach(before: &Scan, now: &Scan, first: u64, bytes: &[u8]) -> Option<String> {
    // What is damaged has been told, and leads nowhere.
    if matches!(before.rest, Rest::Damaged(_)) {
        return None;
    }
    let header = now.header.as_ref()?;
    if header.first != first || header.first != before.head.seq + 1 || header.prev != before.tail || header.head != before.head.hash {
        return Some(format!("it does not follow record {}, with which the segment before it ends", before.head.seq));
    }
    let lines = usize::try_from(header.parts).ok()?.checked_add(1)?;
    let beginning: usize = bytes.split_inclusive(|b| *b == b'\n').take(lines).map(<[u8]>::len).sum();
    let checkpoint = scan(bytes.get(..beginning)?, |_, _| {}).book;
    let mut expected = before.book.clone();
    expected.forget_nonces(header.time_floor);
    (checkpoint != expected).then(|| "its checkpoint is not what the records before it say".to_owned())
}
