//! Reads a journal's files without touching them, whether an agent writes to them or not.

use std::io;
use std::path::{Path, PathBuf};

use moorline_common::op::Record;

use super::codec::{self, Rest, Scan};
use super::fs::{Fs as _, RealFs};
use super::{Head, segment};
use crate::limits::JOURNAL_READ_MAX;

/// What a journal's files hold.
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// What is wrong there.
    pub what: String,
}

/// Reads every segment in order; each record goes to `see`, with its line as it stands in the file.
///
/// # Errors
/// The file system's; a folder that is not there is [`io::ErrorKind::NotFound`].
pub fn walk(dir: &Path, mut see: impl FnMut(&Record, &[u8])) -> io::Result<Walk> {
    let mut walk = Walk::default();
    let mut before: Option<Scan> = None;
    let mut next = segment::list(&RealFs, dir)?.first().copied();
    while let Some(first) = next {
        let path = dir.join(segment::file_name(first));
        let Some(bytes) = RealFs.read(&path, JOURNAL_READ_MAX)? else {
            // Removed for its age while it was about to be read.
            next = segment::list(&RealFs, dir)?.into_iter().find(|n| *n > first);
            before = None;
            continue;
        };
        let mut records = 0;
        let scan = codec::scan(&bytes, |record, line| {
            records += 1;
            see(record, line);
        });
        let mut damaged = |offset: usize, what: String| walk.damage.push(Damage { path: path.clone(), offset, what });
        if let Some(what) = before.as_ref().and_then(|before| breach(before, &scan, first, &bytes)) {
            damaged(0, what);
        }
        // A new segment may have been begun since the folder was listed.
        next = segment::list(&RealFs, dir)?.into_iter().find(|n| *n > first);
        match (&scan.rest, next, scan.sealed) {
            (Rest::Damaged(what), _, _) => damaged(scan.good_bytes, what.clone()),
            (_, None, Some(missing)) => damaged(bytes.len(), format!("the segment that begins with record {missing} is missing")),
            (_, Some(next), Some(sealed)) if next != sealed => {
                damaged(bytes.len(), format!("the segment that begins with record {sealed} is missing"))
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
        before = Some(scan);
    }
    Ok(walk)
}

/// Why a segment does not follow the one before it.
fn breach(before: &Scan, scan: &Scan, first: u64, bytes: &[u8]) -> Option<String> {
    // What is damaged has been told, and leads nowhere.
    if matches!(before.rest, Rest::Damaged(_)) {
        return None;
    }
    let header = scan.header.as_ref()?;
    if header.first != first || header.first != before.head.seq + 1 || header.prev != before.tail || header.head != before.head.hash {
        return Some(format!("it does not follow record {}, with which the segment before it ends", before.head.seq));
    }
    let lines = usize::try_from(header.parts).ok()?.checked_add(1)?;
    let beginning: usize = bytes.split_inclusive(|b| *b == b'\n').take(lines).map(<[u8]>::len).sum();
    let checkpoint = codec::scan(bytes.get(..beginning)?, |_, _| {}).book;
    let mut expected = before.book.clone();
    expected.forget_nonces(header.time_floor);
    (checkpoint != expected).then(|| "its checkpoint is not what the records before it say".to_owned())
}
