//! The journal's folder: segments named by their first record, of which the newest is written to.
//!
//! | file | what it is |
//! |---|---|
//! | `00000000000000000001.jsonl` | a segment; the number is that of its first record |
//! | `*.tmp` | a segment that never got its name; removed at the next start |
//! | `torn-after-N` | the remains of a write that a crash cut short |
//! | `failed` | a write or flush has failed: what the file seems to hold may not be on the disk |

use std::io;
use std::path::{Path, PathBuf};

use moorline_common::id::{UnixSeconds, sha256_hex};
use moorline_common::op::Book;

use super::codec::{self, Rest, Scan};
use super::fs::{Fs, FsFile};
use super::{Head, JournalError};
use crate::limits::{
    JOURNAL_READ_MAX, JOURNAL_RESERVE_BYTES, JOURNAL_RESERVE_STEP, JOURNAL_ROTATE_AGAIN_BYTES, JOURNAL_SEALED_AGE_MS, JOURNAL_SEALED_MAX,
    JOURNAL_TORN_MAX,
};
use crate::plant::planted;

const SUFFIX: &str = ".jsonl";
const TEMPORARY: &str = ".tmp";
const FAILED: &str = "failed";
const TORN: &str = "torn-after-";

/// The segment that is written to, and the folder around it.
pub struct Segments<F: Fs> {
    fs: F,
    dir: PathBuf,
    first: u64,
    file: F::File,
    /// Bytes written.
    size: u64,
    /// At this size a new segment is begun: so many bytes after its beginning, as a large checkpoint must not lead to the next
    /// one, and later when the disk had no room for that.
    large_from: u64,
    /// Up to here the file's space is taken already; `None` where the file system cannot do that.
    reserved: Option<u64>,
    /// It is closed when so many bytes of records are in it.
    rotate_at: u64,
}

/// What was found when the folder was opened.
pub struct Found<F: Fs> {
    /// The segment to go on with.
    pub segments: Segments<F>,
    /// What it holds.
    pub scan: Scan,
    /// Where the remains of an interrupted write were put, if there were any.
    pub torn: Option<PathBuf>,
    /// What is wrong with the segment before it: told, and stops nothing.
    pub sealed_damage: Option<String>,
}

/// The file name of the segment that begins with record `first`.
#[must_use]
pub fn file_name(first: u64) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The first records of the segments in a folder, in order.
///
/// # Errors
/// The file system's.
pub fn list<F: Fs>(fs: &F, dir: &Path) -> io::Result<Vec<u64>> {
    let number = |name: &String| name.strip_suffix(SUFFIX).filter(|n| n.len() == 20).and_then(|n| n.parse().ok());
    let mut found: Vec<u64> = fs.list(dir)?.iter().filter_map(number).collect();
    found.sort_unstable();
    Ok(found)
}

/// Opens the folder, mends what a crash left, and makes the first segment if there is none.
///
/// # Errors
/// [`JournalError::Damaged`], [`JournalError::Unreadable`].
pub fn open<F: Fs>(fs: F, dir: &Path, at: u64, rotate_at: u64) -> Result<Found<F>, JournalError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |e: io::Error| JournalError::Unreadable { path, reason: e.to_string() }
    };
    crate::crash::point("journal.open.before");
    fs.ensure_dir(dir).map_err(unreadable(dir))?;
    for name in fs.list(dir).map_err(unreadable(dir))? {
        if name.ends_with(TEMPORARY) {
            fs.remove(&dir.join(name)).map_err(unreadable(dir))?;
        }
    }
    let known = list(&fs, dir).map_err(unreadable(dir))?;
    let Some(first) = known.last().copied() else {
        let empty = Chained { head: &Head::default(), tail: "", book: &Book::default() };
        let (segments, tail) = begin(fs, dir, &empty, UnixSeconds(0), at, rotate_at).map_err(unreadable(dir))?;
        let mut scan = codec::scan(&[], |_, _| {});
        (scan.tail, scan.rest) = (tail, Rest::Clean);
        return Ok(Found { segments, scan, torn: None, sealed_damage: None });
    };
    let path = dir.join(file_name(first));
    let bytes = match fs.read(&path, JOURNAL_READ_MAX) {
        // No agent writes a file that is too large to be read.
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(JournalError::Damaged { path, offset: JOURNAL_READ_MAX, what: "it is longer than any segment".to_owned() });
        }
        other => other.map_err(unreadable(&path))?.unwrap_or_default(),
    };
    let scan = codec::scan(&bytes, |_, _| {});
    let offset = u64::try_from(scan.good_bytes).unwrap_or(u64::MAX);
    let damaged = |what: String| JournalError::Damaged { path: path.clone(), offset, what };
    let torn = match &scan.rest {
        Rest::Damaged(what) => return Err(damaged(what.clone())),
        Rest::Clean => None,
        Rest::Torn => Some(dir.join(format!("{TORN}{}", scan.head.seq))),
    };
    if let Some(next) = scan.sealed {
        return Err(damaged(format!("it is closed, and the segment that begins with record {next} is missing")));
    }
    if scan.header.as_ref().is_none_or(|h| h.first != first) {
        return Err(damaged("it bears another segment's name".to_owned()));
    }
    let sealed_damage = known.iter().rev().nth(1).and_then(|before| examine_sealed(&fs, dir, *before, &scan));
    let is_torn = torn.is_some();
    let torn = match torn {
        Some(aside) => {
            let is_kept = put_aside(&fs, &aside, bytes.get(scan.good_bytes..).unwrap_or_default()).map_err(unreadable(&aside))?;
            crate::crash::point("journal.open.torn-kept");
            is_kept.then_some(aside)
        }
        None => None,
    };
    let good = bytes.get(..scan.good_bytes).unwrap_or_default();
    let segments = go_on(fs, dir, first, good, is_torn, rotate_at).map_err(unreadable(&path))?;
    crate::crash::point("journal.open.after");
    Ok(Found { segments, scan, torn, sealed_damage })
}

/// What is wrong with the segment before the one of `scan`; a crash may have kept its seal from being written.
fn examine_sealed<F: Fs>(fs: &F, dir: &Path, first: u64, newest: &Scan) -> Option<String> {
    let path = dir.join(file_name(first));
    let bytes = match fs.read(&path, JOURNAL_READ_MAX) {
        Ok(bytes) => bytes?,
        Err(error) => return Some(format!("{}: {error}", path.display())),
    };
    let scan = codec::scan(&bytes, |_, _| {});
    let prev = newest.header.as_ref().map(|h| h.prev.as_str());
    match scan.rest {
        Rest::Damaged(what) => Some(format!("{} is damaged at byte {}: {what}", path.display(), scan.good_bytes)),
        Rest::Clean | Rest::Torn if prev != Some(scan.tail.as_str()) => {
            Some(format!("{} does not lead to the segment after it", path.display()))
        }
        Rest::Clean | Rest::Torn => {
            let next = newest.header.as_ref().map_or(0, |h| h.first);
            if scan.sealed.is_none()
                && let Err(error) = close(fs, &path, &scan, next)
            {
                tracing::warn!(%error, "a segment stays without the line that closes it");
            }
            None
        }
    }
}

/// Closes a segment that a crash kept open although its successor had begun: without that line a loss of the successor would
/// not be noticed.
fn close<F: Fs>(fs: &F, path: &Path, scan: &Scan, next: u64) -> io::Result<()> {
    let mut file = fs.open(path)?;
    file.truncate(u64::try_from(scan.good_bytes).map_err(io::Error::other)?)?;
    file.append(&codec::seal(next, &scan.tail).unwrap_or_default())?;
    file.sync()
}

/// Copies the remains of an interrupted write to a file of their own; `false` when the disk has no room for them: they were
/// never acknowledged, and no reason not to start.
fn put_aside<F: Fs>(fs: &F, aside: &Path, bytes: &[u8]) -> io::Result<bool> {
    if fs.read(aside, JOURNAL_READ_MAX)?.is_some() {
        fs.remove(aside)?;
    }
    let kept = fs.create(aside).and_then(|mut file| {
        file.append(bytes)?;
        file.sync()
    });
    match kept {
        Ok(()) => Ok(true),
        Err(error) if is_full(&error) => {
            tracing::warn!(
                bytes = bytes.len(),
                sha256 = sha256_hex(bytes),
                "the disk is full; the remains of a write that was cut short are dropped"
            );
            match fs.remove(aside) {
                // Not even its name found room.
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Err(_) | Ok(()) => Ok(false),
            }
        }
        Err(error) => Err(error),
    }
}

/// Whether the disk, or the owner's share of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Opens a segment to write after its `good` bytes. After a failed write or flush the kernel may show bytes that the disk
/// does not have: then they are written anew, to a new file.
fn go_on<F: Fs>(fs: F, dir: &Path, first: u64, good: &[u8], cut: bool, rotate_at: u64) -> io::Result<Segments<F>> {
    let path = dir.join(file_name(first));
    let size = u64::try_from(good.len()).map_err(io::Error::other)?;
    let failed = dir.join(FAILED);
    let had_failed = fs.read(&failed, JOURNAL_READ_MAX)?.is_some();
    if had_failed {
        let temporary = dir.join(format!("{}{TEMPORARY}", file_name(first)));
        let mut file = fs.create(&temporary)?;
        file.append(good)?;
        file.sync()?;
        fs.rename(&temporary, &path)?;
        fs.sync_dir(dir)?;
        fs.remove(&failed)?;
    }
    let mut file = fs.open(&path)?;
    if cut && !had_failed {
        file.truncate(size)?;
        crate::crash::point("journal.open.torn-cut");
        file.sync()?;
    }
    fs.sync_dir(dir)?;
    let beginning =
        good.split_inclusive(|b| *b == b'\n').take_while(|line| !line.starts_with(b"{\"seq\":")).map(<[u8]>::len).sum::<usize>();
    let beginning = u64::try_from(beginning).map_err(io::Error::other)?;
    let large_from = beginning.saturating_add(rotate_at);
    let mut segments = Segments { fs, dir: dir.to_owned(), first, file, size, large_from, reserved: Some(size), rotate_at };
    // A cut gives the reserve back, and a copy never had one. On a disk that is full by now nothing new begins.
    match segments.make_room(0) {
        Err(error) if !is_full(&error) => Err(error),
        Ok(()) | Err(_) => Ok(segments),
    }
}

/// What a new segment begins with.
struct Chained<'a> {
    head: &'a Head,
    tail: &'a str,
    book: &'a Book,
}

/// Makes a new segment, with its reserve: it gets its name when its beginning is durable. Returns the hash of its last line, too.
fn begin<F: Fs>(
    fs: F,
    dir: &Path,
    chained: &Chained<'_>,
    time_floor: UnixSeconds,
    at: u64,
    rotate_at: u64,
) -> io::Result<(Segments<F>, String)> {
    let first = chained.head.seq + 1;
    let (bytes, tail) = codec::beginning(chained.head, chained.tail, chained.book, time_floor, at)
        .ok_or_else(|| io::Error::other("the checkpoint holds an entry past the limit of a line"))?;
    let temporary = dir.join(format!("{}{TEMPORARY}", file_name(first)));
    if fs.read(&temporary, JOURNAL_READ_MAX)?.is_some() {
        fs.remove(&temporary)?;
    }
    let size = u64::try_from(bytes.len()).map_err(io::Error::other)?;
    crate::crash::point("journal.begin.before");
    let file = fs.create(&temporary)?;
    let large_from = size.saturating_add(rotate_at);
    let mut segments = Segments { fs, dir: dir.to_owned(), first, file, size: 0, large_from, reserved: Some(0), rotate_at };
    // With the reserve: how what has begun ends must find room in it, too.
    let written = segments.make_room(bytes.len()).and_then(|()| segments.file.append(&bytes)).and_then(|()| segments.file.sync());
    if let Err(error) = written {
        // Its space is needed for what matters more.
        let _ = segments.fs.remove(&temporary);
        return Err(error);
    }
    crate::crash::point("journal.begin.written");
    segments.size = size;
    if let Err(error) = segments.fs.rename(&temporary, &dir.join(file_name(first))) {
        let _ = segments.fs.remove(&temporary);
        return Err(error);
    }
    crate::crash::point("journal.begin.named");
    if !planted("no flush of the folder") {
        // It has its name, and the next start goes on in it: whatever the reason, nothing may be written to the one before it.
        segments.fs.sync_dir(dir).map_err(|e| io::Error::other(format!("the folder of a new segment is not flushed: {e}")))?;
    }
    crate::crash::point("journal.begin.after");
    Ok((segments, tail))
}

impl<F: Fs> Segments<F> {
    /// Takes the space for `bytes` more and the reserve behind them, so that outcomes can be written on a full disk.
    ///
    /// # Errors
    /// The file system's, such as a full disk: then nothing is taken on.
    pub fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let Some(reserved) = self.reserved else { return Ok(()) };
        let wanted = self.size + u64::try_from(bytes).map_err(io::Error::other)? + JOURNAL_RESERVE_BYTES;
        if reserved >= wanted {
            return Ok(());
        }
        let end = wanted + JOURNAL_RESERVE_STEP;
        let taken = match self.file.reserve(reserved, end - reserved) {
            Err(error) if is_full(&error) => self.file.reserve(reserved, wanted - reserved).map(|can| (can, wanted)),
            other => other.map(|can| (can, end)),
        };
        let (can, end) = taken?;
        self.reserved = can.then_some(end);
        crate::crash::point("journal.room.after");
        Ok(())
    }

    /// Writes and flushes.
    ///
    /// # Errors
    /// The file system's: then the journal must not be written to any more.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        crate::crash::point("journal.write.before");
        self.file.append(bytes)?;
        crate::crash::point("journal.write.after");
        if !planted("no flush") {
            self.file.sync()?;
        }
        crate::crash::point("journal.flush.after");
        self.size += u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(())
    }

    /// Notes that a write or flush has failed. The kernel keeps the note for the next start even when the disk does not;
    /// after a power cut the disk itself tells what it has.
    pub fn note_failure(&self) {
        let _ = self.fs.create(&self.dir.join(FAILED));
    }

    /// Whether it is time for a new segment.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.size >= self.large_from
    }

    /// Goes on in a new segment, closes this one, and removes the oldest. Returns the hash of the newest line. On a full
    /// disk this segment is kept on with, for a good while: every try writes a whole checkpoint.
    ///
    /// # Errors
    /// The file system's, other than a full disk.
    pub fn rotate(&mut self, head: &Head, tail: &str, book: &Book, time_floor: UnixSeconds, at: u64) -> io::Result<Option<String>> {
        let chained = Chained { head, tail, book };
        if planted("seal before the new name") {
            self.file.append(&codec::seal(head.seq + 1, tail).unwrap_or_default())?;
            self.file.sync()?;
        }
        let (next, new_tail) = match begin(self.fs.clone(), &self.dir, &chained, time_floor, at, self.rotate_at) {
            Ok(begun) => begun,
            Err(error) if is_full(&error) => {
                self.large_from = self.size.saturating_add(self.rotate_at.min(JOURNAL_ROTATE_AGAIN_BYTES));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        // From here on the new segment counts; the seal only tells that it must be there.
        let seal = codec::seal(head.seq + 1, tail).unwrap_or_default();
        crate::crash::point("journal.seal.before");
        self.file.append(&seal)?;
        crate::crash::point("journal.seal.written");
        self.file.sync()?;
        crate::crash::point("journal.seal.after");
        // Its reserve is the new one's now; what cannot be given back is merely kept.
        let _ = self.file.truncate(self.size + u64::try_from(seal.len()).map_err(io::Error::other)?);
        *self = next;
        self.prune(at);
        crate::crash::point("journal.rotate.after");
        Ok(Some(new_tail))
    }

    /// Removes segments that are too old or too many. What cannot be removed stays.
    fn prune(&self, now: u64) {
        let sealed = list(&self.fs, &self.dir).unwrap_or_default().into_iter().filter(|first| *first != self.first);
        for (age, first) in sealed.rev().enumerate() {
            let path = self.dir.join(file_name(first));
            let is_old = self.fs.modified_ms(&path).is_ok_and(|at| now.saturating_sub(at) > JOURNAL_SEALED_AGE_MS);
            // The newest sealed segment shows that the one after it is its successor.
            if age > 0 && (age >= JOURNAL_SEALED_MAX || is_old) {
                let _ = self.fs.remove(&path);
            }
        }
        let torn = |name: &String| name.strip_prefix(TORN).and_then(|after| after.parse().ok());
        let mut torn: Vec<u64> = self.fs.list(&self.dir).unwrap_or_default().iter().filter_map(torn).collect();
        torn.sort_unstable();
        for after in torn.into_iter().rev().skip(JOURNAL_TORN_MAX) {
            let _ = self.fs.remove(&self.dir.join(format!("{TORN}{after}")));
        }
    }
}
