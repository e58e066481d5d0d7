//! The journal's speed beside bare files in the same run, and that of what surrounds it.
//!
//! | what | beside |
//! |---|---|
//! | appends by 1, 8 and 64 writers | a loop of `write` and `fdatasync`; a group commit without checks or chain |
//! | replay of many records | |
//! | an order's check | |
//! | an order from its arrival until it is started | one bare `fdatasync` in the same rhythm |

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use moorline_agent::journal::file::FileJournal;
use moorline_agent::journal::{Entry, Journal as _, reader};
use moorline_common::id::{HostEpoch, ResourceId};
use moorline_common::op::State;
use tokio::sync::oneshot;
use uuid::Uuid;

pub mod order;

/// Bytes of a bare line: about those of a record.
const LINE: usize = 420;
/// Appends of one group that may wait, as in the journal.
const QUEUE: usize = 1024;

/// The epoch of every journal here.
///
/// # Errors
/// Never.
pub fn epoch() -> Result<HostEpoch> {
    Ok(HostEpoch::parse("0".repeat(32))?)
}

/// What a lane records: operations that begin and end, one after the other.
#[derive(Default)]
struct Lane {
    begun: Option<Entry>,
}

impl Lane {
    fn next(&mut self, n: usize) -> Result<Entry> {
        if let Some(begun) = self.begun.take() {
            return Ok(Entry { state: State::Succeeded, ..begun });
        }
        let entry = entry(n)?;
        self.begun = Some(entry.clone());
        Ok(entry)
    }
}

fn entry(n: usize) -> Result<Entry> {
    let resource = ResourceId::parse(format!("docker/container/bench-{}", n % 64))?;
    Ok(Entry::step(Uuid::now_v7(), resource, "create-container", State::Started))
}

/// A bare file that lines are appended to.
pub struct Bare {
    file: File,
    line: Vec<u8>,
}

impl Bare {
    /// A new file at `path`.
    ///
    /// # Errors
    /// The disk's.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self { file: File::create(path)?, line: line() })
    }

    /// How long one `write` and `fdatasync` take.
    ///
    /// # Errors
    /// The disk's.
    pub fn flush(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.file.write_all(&self.line)?;
        self.file.sync_data()?;
        Ok(begun.elapsed())
    }
}

/// One writer: appends of the journal and of a bare file, turn by turn, so that the disk's moods meet both. Returns how
/// long each took.
///
/// # Errors
/// The disk's.
pub async fn alone(dir: &Path, appends: usize) -> Result<(Duration, Duration)> {
    let journal = FileJournal::open(&dir.join("alone"), epoch()?)?.journal;
    let mut bare = Bare::create(&dir.join("alone.bare"))?;
    let mut lane = Lane::default();
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    for n in 0..appends {
        let entry = lane.next(n)?;
        let begun = Instant::now();
        journal.append(vec![entry]).await?;
        ours += begun.elapsed();
        theirs += bare.flush()?;
    }
    Ok((ours, theirs))
}

/// Many writers through the journal.
///
/// # Errors
/// The disk's.
pub async fn together(dir: &Path, writers: usize, each: usize) -> Result<Duration> {
    let journal = FileJournal::open(dir, epoch()?)?.journal;
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let journal = journal.clone();
        tasks.push(tokio::spawn(async move {
            let mut lane = Lane::default();
            for n in 0..each {
                journal.append(vec![lane.next(writer * each + n)?]).await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(begun.elapsed())
}

/// Many writers through a bare group commit: one thread writes all lines that wait with one call, and flushes once.
///
/// # Errors
/// The disk's.
pub async fn together_bare(file: &Path, writers: usize, each: usize) -> Result<Duration> {
    let mut file = File::create(file)?;
    let (requests, waiting) = sync_channel::<(Vec<u8>, oneshot::Sender<()>)>(QUEUE);
    let thread = std::thread::spawn(move || -> std::io::Result<()> {
        while let Ok((mut bytes, first)) = waiting.recv() {
            let mut replies = vec![first];
            while let Ok((more, reply)) = waiting.try_recv() {
                bytes.extend_from_slice(&more);
                replies.push(reply);
            }
            file.write_all(&bytes)?;
            file.sync_data()?;
            for reply in replies {
                // A writer that went away does not matter here.
                let _ = reply.send(());
            }
        }
        Ok(())
    });
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for _ in 0..writers {
        let requests = requests.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..each {
                let (reply, done) = oneshot::channel();
                requests.try_send((line(), reply)).ok().context("the queue is full")?;
                done.await?;
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    let took = begun.elapsed();
    drop(requests);
    thread.join().ok().context("the writer panicked")??;
    Ok(took)
}

fn line() -> Vec<u8> {
    let mut line = vec![b'x'; LINE];
    line.push(b'\n');
    line
}

/// Writes `records` records (in the journal's own way, so with rotation) and reads them all back: checksums, chain, fold and
/// checkpoints. Returns how long the reading took, how long an opening, and the bytes per record.
///
/// # Errors
/// The disk's; damage.
pub async fn replay(dir: &Path, records: usize) -> Result<(Duration, Duration, u64)> {
    let opened = FileJournal::open(dir, epoch()?)?;
    let journal = opened.journal;
    let mut done = 0;
    while done < records {
        let mut batch = Vec::with_capacity(2048);
        for n in 0..1024 {
            let started = entry(done + n)?;
            let ended = Entry { state: State::Succeeded, ..started.clone() };
            batch.extend([started, ended]);
        }
        done += batch.len();
        journal.append(batch).await?;
    }
    drop(journal);
    let begun = Instant::now();
    let walk = reader::walk(dir, |_, _| {})?;
    let took = begun.elapsed();
    anyhow::ensure!(walk.damage.is_empty() && walk.records >= u64::try_from(records)?, "{:?}", walk.damage);
    let bytes: u64 = std::fs::read_dir(dir)?.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum();
    let begun = Instant::now();
    drop(FileJournal::open(dir, epoch()?)?);
    Ok((took, begun.elapsed(), bytes / walk.records.max(1)))
}

/// The middle one.
#[must_use]
pub fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}
