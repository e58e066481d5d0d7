//! A disk that loses whatever was not flushed, at any operation: `kill -9` keeps the page cache and proves nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::*;
use crate::journal::fs::{Fs, FsFile};

#[derive(Default, Clone)]
struct Content {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// Bytes that the disk has set aside for it.
    allocated: usize,
}

/// Names lead to files; both are known twice: as the running system sees them, and as the disk has them.
#[derive(Default)]
struct Disk {
    files: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    operations: usize,
    /// From this operation on everything fails, as the machine is off.
    dies_at: Option<usize>,
    /// Bytes that may be written in all. Without any, no file is made either.
    space: Option<usize>,
    /// What the disk has no room for, although it takes bytes: `rename` or `sync_dir`.
    no_room_to: &'static str,
    fails_to_flush: bool,
    /// Flushes do not end while this is set.
    holds_flushes: bool,
    flushes: usize,
}

#[derive(Clone, Default)]
pub(super) struct LossyFs(Arc<Mutex<Disk>>);

impl Disk {
    fn allocate(&mut self, id: usize, end: usize) -> io::Result<()> {
        let more = end.saturating_sub(self.files[id].allocated);
        if let Some(space) = &mut self.space {
            *space = space.checked_sub(more).ok_or(io::ErrorKind::StorageFull)?;
        }
        self.files[id].allocated += more;
        Ok(())
    }

    fn room_to(&self, what: &str) -> io::Result<()> {
        if self.no_room_to == what { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl LossyFs {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap()
    }

    /// What the segments hold by themselves and one after the other.
    fn walk(&self) -> codec::Walk {
        let known = segment::list(self, dir()).unwrap();
        let mut walker = codec::Walker::default();
        for (n, first) in known.iter().enumerate() {
            let bytes = self.read(&dir().join(segment::file_name(*first)), u64::MAX).unwrap().unwrap();
            walker.segment(*first, &bytes, known.get(n + 1).copied(), |_, _| {});
        }
        walker.end()
    }

    /// How many segments were ever begun.
    fn segments(&self) -> usize {
        self.lock().files.len()
    }

    fn step(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let mut disk = self.lock();
        disk.operations += 1;
        if disk.dies_at.is_some_and(|at| disk.operations > at) { Err(io::Error::other("no power")) } else { Ok(disk) }
    }

    /// The machine after a power cut: unflushed bytes are gone but for the first `kept`, unflushed names are gone, too.
    fn after_power_cut(&self, kept: usize) -> Self {
        let old = self.lock();
        let survive = |c: &Content| {
            let mut bytes = c.durable.clone();
            if c.written.starts_with(&c.durable) {
                bytes.extend(c.written[c.durable.len()..].iter().take(kept));
            }
            Content { allocated: bytes.len(), written: bytes.clone(), durable: bytes }
        };
        let files = old.files.iter().map(survive).collect();
        let (names, durable_names) = (old.durable_names.clone(), old.durable_names.clone());
        Self(Arc::new(Mutex::new(Disk { files, names, durable_names, ..Disk::default() })))
    }
}

pub(super) struct LossyFile {
    fs: LossyFs,
    id: usize,
}

impl Fs for LossyFs {
    type File = LossyFile;

    fn ensure_dir(&self, _: &Path) -> io::Result<()> {
        self.step().map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.step()?;
        let inside = disk.names.keys().filter(|p| p.parent() == Some(dir));
        Ok(inside.map(|p| p.file_name().unwrap().to_string_lossy().into_owned()).collect())
    }

    fn read(&self, path: &Path, _: u64) -> io::Result<Option<Vec<u8>>> {
        let disk = self.step()?;
        Ok(disk.names.get(path).map(|id| disk.files[*id].written.clone()))
    }

    fn create(&self, path: &Path) -> io::Result<LossyFile> {
        let mut disk = self.step()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if disk.space == Some(0) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let id = disk.files.len();
        disk.files.push(Content::default());
        disk.names.insert(path.to_owned(), id);
        Ok(LossyFile { fs: self.clone(), id })
    }

    fn open(&self, path: &Path) -> io::Result<LossyFile> {
        let id = *self.step()?.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(LossyFile { fs: self.clone(), id })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.step()?;
        disk.room_to("rename")?;
        let id = disk.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        disk.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.step()?.names.remove(path).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        let mut disk = self.step()?;
        disk.room_to("sync_dir")?;
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn modified_ms(&self, _: &Path) -> io::Result<u64> {
        self.step().map(|_| 0)
    }
}

impl FsFile for LossyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.fs.step()?;
        let end = disk.files[self.id].written.len() + bytes.len();
        disk.allocate(self.id, end)?;
        disk.files[self.id].written.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).unwrap();
        let mut disk = self.fs.step()?;
        let content = &mut disk.files[self.id];
        content.written.truncate(len);
        let freed = content.allocated.saturating_sub(len);
        content.allocated -= freed;
        if let Some(space) = &mut disk.space {
            *space += freed;
        }
        Ok(())
    }

    fn reserve(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        self.fs.step()?.allocate(self.id, usize::try_from(offset + len).unwrap()).map(|()| true)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.fs.lock().flushes += 1;
        while self.fs.lock().holds_flushes {
            std::thread::yield_now();
        }
        let mut disk = self.fs.step()?;
        if disk.fails_to_flush {
            return Err(io::Error::other("input/output error"));
        }
        let content = &mut disk.files[self.id];
        content.durable = content.written.clone();
        Ok(())
    }
}

/// So few bytes that a segment is closed several times.
const ROTATE_AT: u64 = 2_000;

fn dir() -> &'static Path {
    Path::new("/journal")
}

/// Work for a journal: some operations and steps; after each append that was acknowledged, the head.
async fn work(fs: &LossyFs, from: u128) -> Result<Head, JournalError> {
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT)?.journal;
    let mut head = journal.head();
    for id in from..from + 6 {
        for entries in [
            vec![op(id, State::Accepted), op(id, State::Queued)],
            vec![op(id, State::Started), step("s", id + 1000, State::Started)],
            vec![op(id, State::Succeeded)],
        ] {
            match journal.append(entries).await {
                Ok(now) => head = now,
                Err(_) => return Ok(head),
            }
        }
    }
    settle(&journal).await;
    Ok(head)
}

/// Waits until the writer has done what it does after it has answered, such as beginning a new segment.
async fn settle(journal: &FileJournal) {
    // One that has failed does nothing more.
    let _ = journal.append(Vec::new()).await;
}

#[tokio::test]
async fn waiting_appends_share_one_flush_and_none_is_answered_before_it() {
    let fs = LossyFs::default();
    // No new segment: that flushes, too.
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), u64::MAX).unwrap().journal;
    (fs.lock().holds_flushes, fs.lock().flushes) = (true, 0);
    let first = tokio::spawn(journal.append(vec![step("a", 1, State::Started)]));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while fs.lock().flushes == 0 {
        assert!(std::time::Instant::now() < deadline, "nothing is flushed");
        tokio::task::yield_now().await;
    }
    // The disk is busy with the first; these wait together.
    let waiting: Vec<_> = (2..60).map(|id| tokio::spawn(journal.append(vec![step("a", id, State::Started)]))).collect();
    tokio::task::yield_now().await;
    assert!(!first.is_finished() && waiting.iter().all(|w| !w.is_finished()));
    assert_eq!((journal.head().seq, journal.read(|book| book.open().count())), (0, 0), "nothing is seen before it is durable");
    fs.lock().holds_flushes = false;
    assert_eq!(first.await.unwrap().unwrap().seq, 1);
    for (seq, answer) in (2..).zip(waiting) {
        assert_eq!(answer.await.unwrap().unwrap().seq, seq);
    }
    assert_eq!(fs.lock().flushes, 2);
}

#[tokio::test]
async fn no_acknowledged_record_is_lost_wherever_the_power_goes() {
    let whole = LossyFs::default();
    work(&whole, 1).await.unwrap();
    let operations = whole.lock().operations;
    assert!(operations > 80, "{operations}");
    assert!(whole.segments() > 2, "power goes in rotations, too");
    for dies_at in 0..=operations {
        for kept in [0, 1, 100, usize::MAX] {
            let fs = LossyFs::default();
            fs.lock().dies_at = Some(dies_at);
            let acknowledged = work(&fs, 1).await.unwrap_or_default();
            let mut after = fs.after_power_cut(kept);
            // And again while it mends what the first cut left.
            for again in [3, 7, usize::MAX] {
                after.lock().dies_at = Some(again);
                match FileJournal::open_on(after.clone(), dir(), epoch(), ROTATE_AT) {
                    Ok(opened) => {
                        let head = opened.journal.head();
                        assert!(head.seq >= acknowledged.seq, "power cut at {dies_at}, {kept} kept: {head:?} < {acknowledged:?}");
                    }
                    Err(JournalError::Unreadable { .. }) if again != usize::MAX => {}
                    Err(error) => panic!("power cut at {dies_at}, {kept} kept: {error}"),
                }
                after = after.after_power_cut(kept);
            }
            work(&after, 100).await.unwrap();
        }
    }
}

#[test]
fn a_power_cut_shows_each_planted_defect_of_the_flushes() {
    for defect in ["no flush", "answer before the flush", "no flush of the folder", "seal before the new name"] {
        let _planted = crate::plant::plant(defect);
        let noticed = std::panic::catch_unwind(no_acknowledged_record_is_lost_wherever_the_power_goes);
        assert!(noticed.is_err(), "nothing notices `{defect}`");
    }
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_acknowledged_and_what_the_kernel_shows_is_written_anew() {
    let fs = LossyFs::default();
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
    journal.append(vec![op(1, State::Accepted)]).await.unwrap();
    fs.lock().fails_to_flush = true;
    assert!(matches!(journal.append(vec![op(1, State::Queued)]).await, Err(JournalError::Failed(_))));
    fs.lock().fails_to_flush = false;
    assert!(matches!(journal.failed().await, JournalError::Failed(_)));
    assert!(matches!(journal.append(vec![op(2, State::Accepted)]).await, Err(JournalError::Failed(_))), "never again on this file");
    drop(journal);
    // The kernel still shows the record; a new file makes that true.
    let opened = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap();
    assert_eq!(opened.journal.head().seq, 2);
    drop(opened);
    assert_eq!(FileJournal::open_on(fs.after_power_cut(0), dir(), epoch(), ROTATE_AT).unwrap().journal.head().seq, 2);
}

#[tokio::test]
async fn on_a_full_disk_nothing_new_begins_and_what_began_still_ends() {
    let fs = LossyFs::default();
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
    journal.append(vec![op(1, State::Accepted), op(1, State::Queued), op(1, State::Started)]).await.unwrap();
    fs.lock().space = Some(500_000);
    // What was taken from the disk before lasts for a while.
    let mut refused = None;
    for id in 2..100 {
        let big = Entry { params: Value::String("x".repeat(200_000)), ..op(id, State::Accepted) };
        if let Err(error) = journal.append(vec![big]).await {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(JournalError::Full(_))), "{refused:?}");
    let big = Entry { params: Value::String("x".repeat(200_000)), ..op(1, State::Succeeded) };
    let head = journal.append(vec![big]).await.unwrap();
    settle(&journal).await;
    drop(journal);
    fs.lock().space = None;
    let opened = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap();
    assert_eq!(opened.journal.head(), head);
    opened.journal.append(vec![op(50, State::Accepted)]).await.unwrap();
}

#[tokio::test]
async fn on_a_disk_that_fills_up_after_a_rotation_what_began_still_ends_and_closed_segments_keep_no_reserve() {
    let fs = LossyFs::default();
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
    for id in 1..9 {
        journal.append(vec![op(id, State::Accepted), op(id, State::Queued), op(id, State::Started)]).await.unwrap();
    }
    settle(&journal).await;
    let rotations = fs.segments();
    assert!(rotations > 2);
    {
        let disk = fs.lock();
        let newest = *disk.names.values().max().unwrap();
        for (name, id) in disk.names.iter().filter(|(_, id)| **id != newest) {
            assert_eq!(disk.files[*id].allocated, disk.files[*id].written.len(), "{}", name.display());
        }
    }
    // The last record was an outcome, which asks for no room: the segment is new, and the disk is full from here on.
    journal.append(vec![op(1, State::Succeeded)]).await.unwrap();
    settle(&journal).await;
    while fs.segments() == rotations {
        journal.append(vec![step("s", 100, State::Started), step("s", 100, State::Succeeded)]).await.unwrap();
        settle(&journal).await;
    }
    fs.lock().space = Some(0);
    for id in 2..9 {
        let big = Entry { params: Value::String("x".repeat(200_000)), ..op(id, State::Succeeded) };
        journal.append(vec![big]).await.unwrap();
    }
    assert!(matches!(journal.append(vec![op(50, State::Accepted)]).await, Err(JournalError::Full(_))));
}

#[tokio::test]
async fn on_a_full_disk_a_torn_write_keeps_nobody_from_starting() {
    // Room for nothing, then for a name and a few bytes.
    for space in [0, 5] {
        let fs = LossyFs::default();
        let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
        let head = journal.append(vec![op(1, State::Accepted), op(1, State::Queued), op(1, State::Started)]).await.unwrap();
        settle(&journal).await;
        drop(journal);
        let newest = *fs.lock().names.values().max().unwrap();
        fs.lock().files[newest].written.extend(b"{\"seq\":4,\"bat");
        fs.lock().space = Some(space);
        let opened = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap();
        assert_eq!((opened.journal.head(), opened.torn), (head, None), "{space}");
        assert!(fs.lock().names.keys().all(|name| !name.to_string_lossy().contains("torn")), "nothing half written is left");
        opened.journal.append(vec![op(1, State::Succeeded)]).await.unwrap();
    }
}

/// Appends `n` steps, each by itself.
async fn steps(journal: &FileJournal, from: u128, n: u128) -> Head {
    for id in from..from + n {
        journal.append(vec![step("s", id, State::Started)]).await.unwrap();
    }
    settle(journal).await;
    journal.head()
}

#[tokio::test]
async fn on_a_full_disk_a_new_segment_is_not_tried_after_every_record_and_begun_when_there_is_room() {
    let fs = LossyFs::default();
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
    fs.lock().space = Some(100);
    let before = fs.segments();
    steps(&journal, 1, 100).await;
    let size = fs.lock().files[0].written.len();
    let (tries, rotate_at) = (fs.segments() - before, usize::try_from(ROTATE_AT).unwrap());
    assert!((1..=size / rotate_at).contains(&tries), "{tries} tries in {size} bytes");
    assert_eq!(segment::list(&fs, dir()).unwrap(), [1]);

    fs.lock().space = None;
    let head = steps(&journal, 200, 10).await;
    assert_eq!(segment::list(&fs, dir()).unwrap().len(), 2);
    let walk = fs.walk();
    assert_eq!((walk.damage, walk.head), (Vec::new(), head));
}

#[tokio::test]
async fn a_time_reset_between_two_tries_of_a_new_segment_is_no_damage() {
    let fs = LossyFs::default();
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
    journal.append([State::Accepted, State::Queued, State::Started, State::Succeeded].map(|s| op(1, s)).to_vec()).await.unwrap();
    settle(&journal).await;
    journal.set_time_floor(UnixSeconds(1001));
    fs.lock().space = Some(100);
    let before = fs.segments();
    steps(&journal, 10, 10).await;
    assert!(fs.segments() > before, "a new segment was tried");
    // The nonce counts until 1000: by the floor that the new segment names it was never to be forgotten.
    journal.set_time_floor(UnixSeconds(500));
    fs.lock().space = None;
    let head = steps(&journal, 100, 10).await;
    assert_eq!(segment::list(&fs, dir()).unwrap().len(), 2);
    let walk = fs.walk();
    assert_eq!((walk.damage, walk.head), (Vec::new(), head));
    let book = journal.read(Book::clone);
    assert!(book.knows_nonce("nonce-1"));
    drop(journal);
    assert_eq!(FileJournal::open_on(fs, dir(), epoch(), ROTATE_AT).unwrap().journal.read(Book::clone), book);
}

#[tokio::test]
async fn a_disk_without_room_for_a_new_name_loses_nothing_that_was_acknowledged() {
    for no_room_to in ["rename", "sync_dir"] {
        let fs = LossyFs::default();
        let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
        fs.lock().no_room_to = no_room_to;
        let mut acknowledged = Head::default();
        for id in 1..40 {
            let Ok(head) = journal.append(vec![step("s", id, State::Started)]).await else { break };
            acknowledged = head;
            settle(&journal).await;
        }
        // A segment that has its name is the one that the next start reads: none before it may be gone on with.
        assert_eq!(journal.append(Vec::new()).await.is_err(), no_room_to == "sync_dir", "{no_room_to}");
        assert!(fs.lock().names.keys().all(|name| !name.to_string_lossy().ends_with(".tmp")), "its space is given back");
        drop(journal);
        fs.lock().no_room_to = "";
        for disk in [fs.after_power_cut(0), fs.clone()] {
            let journal = FileJournal::open_on(disk.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
            assert_eq!(journal.head(), acknowledged, "{no_room_to}");
            let head = steps(&journal, 100, 10).await;
            let walk = disk.walk();
            assert_eq!((walk.damage, walk.head), (Vec::new(), head), "{no_room_to}");
        }
    }
}

#[tokio::test]
async fn the_largest_operation_finds_room_in_a_checkpoint() {
    let fs = LossyFs::default();
    let journal = FileJournal::open_on(fs.clone(), dir(), epoch(), ROTATE_AT).unwrap().journal;
    let large = |state| Entry { params: Value::String("x".repeat(crate::limits::JOURNAL_LINE_MAX - 2_000)), ..op(1, state) };
    for state in [State::Accepted, State::Queued, State::Started, State::Succeeded] {
        journal.append(vec![large(state)]).await.unwrap();
    }
    let head = journal.append(vec![op(2, State::Accepted)]).await.unwrap();
    drop(journal);
    assert_eq!(FileJournal::open_on(fs, dir(), epoch(), ROTATE_AT).unwrap().journal.head(), head);
}
