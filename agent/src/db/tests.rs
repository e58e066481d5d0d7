//! What becomes of a ledger whose bytes are no longer what was written: it says so, or it is as it was.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId, UnixSeconds};
use moorline_common::statement::Fallback;

use super::*;
use crate::clock::TimeFloor;
use crate::intake::judge::BindingFloor;
use crate::ledger::{Admission, Current, Floor, FloorState, Ledger, Standing};
use crate::testing::{self, Operator, boot, topology};
use crate::trust::TrustStore;

/// Everything that can be read from a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Whole {
    current: Option<Current>,
    floors: Vec<Option<Floor>>,
    accepted: Option<Floor>,
    pinned: Option<TopologyId>,
    standing: Standing,
    base: Vec<u8>,
    times: (TimeFloor, UnixSeconds),
    roots: Vec<Vec<u8>>,
    binding: (Option<Vec<u8>>, Option<BindingFloor>),
    id: Option<String>,
}

fn read_all(db: &Db) -> Result<Whole, DbError> {
    let (ledger, trust) = (Ledger::new(db.clone()), TrustStore::new(db.clone()));
    Ok(Whole {
        current: ledger.current()?,
        floors: ["old", "edge", "never"].into_iter().map(|name| ledger.floor(&topology(name))).collect::<Result<_, _>>()?,
        accepted: ledger.accepted()?,
        pinned: ledger.pinned()?,
        standing: ledger.standing()?,
        base: ledger.trial_base()?,
        times: (ledger.time_floor()?, ledger.time_reset()?),
        roots: trust.root_rows()?,
        binding: (trust.binding_row()?, trust.binding_floor()?),
        id: db.id()?,
    })
}

/// As the agent and its verbs open it.
fn open_all(dir: &Path) -> Result<Whole, DbError> {
    read_all(&Db::open_own(&StateDir(dir.to_owned()))?)
}

/// A slice with a content of about so many bytes.
fn admission(name: &str, generation: u64, bytes: usize) -> Admission {
    testing::admission(name, generation, &format!("{{{}}}", "abcdefgh".repeat(bytes / 8)))
}

/// A host's folder with a ledger that has seen something of everything.
async fn lived_in() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    db.put_id("0123456789abcdef").unwrap();
    StateDir(dir.path().to_owned()).put_ledger_mark("0123456789abcdef").unwrap();
    let operator = Operator::new(dir.path());
    let mut intake = operator.ready_intake(&db).await;
    intake.root(operator.next_root(|_| {})).await.unwrap();
    let ledger = Ledger::new(db.clone());
    let old = admission("old", 3, 100);
    ledger.admit(&old, &boot()).unwrap();
    ledger.record_success(&old, UnixSeconds(40)).unwrap();
    ledger.clear(&topology("old"), FloorState::TornDown).unwrap();
    ledger.reset_time(UnixSeconds(1_700_000_100), &boot()).unwrap();
    let edge = admission("edge", 7, 4_000);
    ledger.admit(&edge, &boot()).unwrap();
    ledger.record_success(&edge, UnixSeconds(50)).unwrap();
    let fallback =
        Fallback { generation: Generation(7), version_hash: edge.version_hash, within_s: 60, healthy_for_s: 0, needs_confirm: true };
    ledger.admit(&Admission { fallback: Some(fallback), ..admission("edge", 8, 2_500) }, &boot()).unwrap();
    assert!(ledger.is_on_trial().unwrap() && !ledger.trial_base().unwrap().is_empty());
    ledger.record_error(&topology("edge"), &Fault::new(Code::StepFailed, "no such image")).unwrap();
    (dir, db)
}

/// A copy of a host's folder without its journal, to damage.
struct Copy {
    dir: tempfile::TempDir,
    file: PathBuf,
    bytes: Vec<u8>,
}

impl Copy {
    /// Of the files of `from` whose names begin with the ledger's; `file` is the one to damage.
    fn of(from: &Path, file: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        StateDir(dir.path().to_owned()).put_ledger_mark("0123456789abcdef").unwrap();
        let copy = Self { file: dir.path().join(file), bytes: std::fs::read(from.join(file)).unwrap(), dir };
        copy.restore(from);
        copy
    }

    fn restore(&self, from: &Path) {
        for suffix in ["", "-journal"] {
            let name = format!("{FILE_NAME}{suffix}");
            match std::fs::read(from.join(&name)) {
                Ok(bytes) => std::fs::write(self.dir.path().join(&name), bytes).unwrap(),
                Err(_) => drop(std::fs::remove_file(self.dir.path().join(&name))),
            }
        }
    }
}

/// What may happen to bytes on a disk.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Bit(usize, u8),
    Zeros { from: usize, len: usize },
    Moved { from: usize, to: usize },
    Cut(usize),
}

impl Damage {
    const SECTOR: usize = 512;

    /// The `n`th by chance.
    fn any(n: usize, seed: &mut u64, len: usize) -> Self {
        // xorshift64
        let mut next = |below: usize| {
            *seed ^= *seed << 13;
            *seed ^= *seed >> 7;
            *seed ^= *seed << 17;
            usize::try_from(*seed >> 8).unwrap() % below
        };
        let sectors = len.div_ceil(Self::SECTOR);
        match n % 8 {
            0 => Damage::Zeros { from: next(sectors) * Self::SECTOR, len: Self::SECTOR },
            1 => Damage::Zeros { from: next(len.div_ceil(4096)) * 4096, len: 4096 },
            2 => Damage::Moved { from: next(sectors) * Self::SECTOR, to: next(sectors) * Self::SECTOR },
            3 => Damage::Cut(next(len)),
            _ => Damage::Bit(next(len), u8::try_from(next(8)).unwrap()),
        }
    }

    fn done_to(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Damage::Bit(at, bit) => bytes[at] ^= 1 << bit,
            Damage::Zeros { from, len } => bytes.iter_mut().skip(from).take(len).for_each(|b| *b = 0),
            Damage::Moved { from, to } => {
                let sector: Vec<u8> = bytes.iter().skip(from).take(Self::SECTOR).copied().collect();
                bytes.iter_mut().skip(to).zip(sector).for_each(|(b, new)| *b = new);
            }
            Damage::Cut(len) => bytes.truncate(len),
        }
        bytes
    }
}

/// Does each damage to a copy; gives how often the ledger was as before, and how often it said that it is damaged.
fn told_or_harmless(from: &Path, file: &str, whole: &Whole, damages: impl Iterator<Item = Damage>) -> (u32, u32) {
    let copy = Copy::of(from, file);
    let (mut harmless, mut told) = (0, 0);
    for damage in damages {
        copy.restore(from);
        std::fs::write(&copy.file, damage.done_to(&copy.bytes)).unwrap();
        let opened = catch_unwind(AssertUnwindSafe(|| open_all(copy.dir.path())));
        match opened.unwrap_or_else(|_| panic!("{file}: {damage:?} led to a panic")) {
            Ok(read) => {
                assert!(read == *whole, "{file}: {damage:?} was overlooked: {read:?}");
                harmless += 1;
            }
            Err(error) => {
                let is_newer = matches!(&error, DbError::Schema { source: rusqlite_migration::Error::MigrationDefinition(_), .. });
                assert!(error.is_damage() || is_newer, "{file}: {damage:?}: {error:?}");
                told += 1;
            }
        }
    }
    (harmless, told)
}

const SEED: u64 = 0x1ed9e5;

#[tokio::test]
async fn whatever_happens_to_the_bytes_of_a_ledger_it_is_told_or_changes_nothing() {
    let (dir, db) = lived_in().await;
    let whole = read_all(&db).unwrap();
    drop(db);
    let len = usize::try_from(std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().len()).unwrap();
    let header = (0..100 * 8).map(|n| Damage::Bit(n / 8, u8::try_from(n % 8).unwrap()));
    let mut seed = SEED;
    let chance = (0..2200).map(|n| Damage::any(n, &mut seed, len));
    let (harmless, told) = told_or_harmless(dir.path(), FILE_NAME, &whole, header.chain(chance));
    println!("seed {SEED:#x}, {len} bytes: {harmless} times harmless, {told} times told");
    assert!(harmless > 100 && told > 800, "{harmless} {told}");
}

#[tokio::test]
async fn whatever_happens_to_what_a_crash_left_beside_the_ledger_it_is_told_or_changes_nothing() {
    let (dir, db) = lived_in().await;
    let whole = read_all(&db).unwrap();
    let before = std::fs::read(dir.path().join(FILE_NAME)).unwrap();
    let crashed = tempfile::tempdir().unwrap();
    let ended = db.write(|tx| {
        tx.execute("UPDATE floors SET generation = 1, envelope = zeroblob(30000)", [])?;
        tx.execute("UPDATE current SET generation = 1, hydrated = 'x', envelope = zeroblob(40000)", [])?;
        tx.execute("DELETE FROM roots", [])?;
        // To the file before the end, as within a commit.
        tx.cache_flush()?;
        for file in [FILE_NAME.to_owned(), format!("{FILE_NAME}-journal")] {
            std::fs::copy(dir.path().join(&file), crashed.path().join(&file)).unwrap();
        }
        Err::<(), _>(DbError::Stopped)
    });
    assert!(matches!(ended, Err(DbError::Stopped)));
    assert_eq!(read_all(&db).unwrap(), whole);
    drop(db);
    let half = std::fs::read(crashed.path().join(FILE_NAME)).unwrap();
    assert_ne!(half, before, "the crash came in the middle of it");

    let journal = format!("{FILE_NAME}-journal");
    let copy = Copy::of(crashed.path(), &journal);
    assert_eq!(open_all(copy.dir.path()).unwrap(), whole, "what was not committed is taken back");
    copy.restore(crashed.path());
    std::fs::remove_file(&copy.file).unwrap();
    assert!(open_all(copy.dir.path()).unwrap_err().is_damage(), "without its journal it is neither the one nor the other");

    let mut seed = SEED;
    let header = (0..28 * 8).map(|n| Damage::Bit(n / 8, u8::try_from(n % 8).unwrap()));
    let chance = (0..1000).map(|n| Damage::any(n, &mut seed, copy.bytes.len()));
    let (harmless, told) = told_or_harmless(crashed.path(), &journal, &whole, header.chain(chance));
    println!("seed {SEED:#x}, {} bytes: {harmless} times harmless, {told} times told", copy.bytes.len());
    assert!(harmless > 10 && told > 100, "{harmless} {told}");
}

#[tokio::test]
async fn damage_that_is_met_while_it_is_open_is_told_and_nothing_is_written_on_top_of_it() {
    let (dir, db) = lived_in().await;
    let file = dir.path().join(FILE_NAME);
    let bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(13).position(|w| w == b"no such image").unwrap();
    let mut changed = bytes.clone();
    changed[at] ^= 1;
    std::fs::write(&file, changed).unwrap();
    // What is in the cache is what was written; when it gives way, the file counts.
    db.lock().execute_batch("PRAGMA shrink_memory").unwrap();
    let ledger = Ledger::new(db.clone());
    let said = ledger.standing().unwrap_err().to_string();
    assert!(said.contains("row `1` of its table `current` is not what was written") && said.contains("moorctl host approve"), "{said}");
    assert!(ledger.admit(&admission("edge", 9, 10), &boot()).unwrap_err().is_damage());
    assert!(db.damaged().await.contains("`current`"));
    assert_eq!(ledger.floor(&topology("edge")).unwrap().unwrap().generation, Generation(8), "what is sound is still read");
}

#[tokio::test]
async fn what_another_program_changed_counts_as_not_applied_or_as_damage() {
    let (dir, db) = lived_in().await;
    db.edit("UPDATE current SET generation = 99, version_hash = (SELECT version_hash FROM floors WHERE topology = 'edge')");
    let ledger = Ledger::new(db);
    assert_eq!(ledger.standing().unwrap().applied, None);
    assert_eq!(open_all(dir.path()).unwrap().standing.applied, None);
    ledger.record_error(&topology("edge"), &Fault::new(Code::StepFailed, "no")).unwrap();
    assert_eq!(ledger.standing().unwrap().applied, None, "what is written beside it gives it no weight");
    ledger.record_success(&admission("edge", 8, 2_500), UnixSeconds(60)).unwrap();
    let standing = open_all(dir.path()).unwrap().standing;
    assert_eq!((standing.applied, standing.applied_generation), (Some(admission("edge", 8, 2_500).version_hash), Generation(8)));

    for edit in [
        "UPDATE floors SET generation = 1 WHERE topology = 'edge'",
        "DELETE FROM floors WHERE topology = 'old'",
        "INSERT INTO floors SELECT 'new', 1, payload_sha256, version_hash, 'active', envelope, 9, 1 FROM floors WHERE topology = 'edge'",
        "UPDATE meta SET value = '0 1 b' WHERE key = 'time_floor'",
        "DELETE FROM roots WHERE version = 2",
        "DELETE FROM binding",
        "UPDATE seals SET sum = zeroblob(32)",
        "DELETE FROM seals",
        "DROP TRIGGER floors_DELETE_OLD",
        "PRAGMA user_version = 0",
    ] {
        let copy = Copy::of(dir.path(), FILE_NAME);
        let connection = Connection::open(&copy.file).unwrap();
        connection.execute_batch(edit).unwrap();
        drop(connection);
        assert!(open_all(copy.dir.path()).unwrap_err().is_damage(), "{edit}");
    }
}

#[tokio::test]
async fn a_ledger_of_the_first_version_is_sealed_as_it_is_with_what_its_log_still_holds() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join(FILE_NAME)).unwrap();
    old.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
    old.execute_batch(TABLES).unwrap();
    old.execute_batch(
        "PRAGMA user_version = 1;
         INSERT INTO floors VALUES ('edge', 4, 'aa', 'sha256:' || printf('%064d', 0), 'active', x'01', 1);
         INSERT INTO meta VALUES ('time_floor', '77 1 b');",
    )
    .unwrap();
    let crashed = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let name = format!("{FILE_NAME}{suffix}");
        std::fs::copy(dir.path().join(&name), crashed.path().join(&name)).unwrap();
    }
    drop(old);
    assert!(matches!(Db::open_to_read(crashed.path()), Err(DbError::Older)));
    let db = Db::open(crashed.path()).unwrap();
    let ledger = Ledger::new(db);
    assert_eq!(ledger.floor(&topology("edge")).unwrap().unwrap().generation, Generation(4));
    assert_eq!(ledger.time_floor().unwrap().at, UnixSeconds(77));
    ledger.admit(&admission("edge", 5, 10), &boot()).unwrap();
    drop(ledger);
    assert!(!crashed.path().join(format!("{FILE_NAME}-wal")).exists());
    let read = Ledger::new(Db::open_to_read(crashed.path()).unwrap().unwrap());
    assert_eq!(read.floor(&topology("edge")).unwrap().unwrap().generation, Generation(5));
}

#[test]
fn every_write_is_durable_before_it_returns() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).unwrap();
    let setting = |name: &str| db.lock().query_row(&format!("PRAGMA {name}"), [], |r| Ok(format!("{:?}", r.get_ref(0)?))).unwrap();
    assert_eq!(setting("synchronous"), "Integer(2)", "FULL: each commit is flushed");
    assert_eq!(setting("journal_mode"), format!("{:?}", rusqlite::types::ValueRef::Text(b"truncate")));
}

#[test]
fn a_full_disk_is_told_as_such() {
    let db = Db::in_memory();
    db.lock().execute_batch("PRAGMA max_page_count = 1").unwrap();
    let Err(error) = Ledger::new(db).admit(&admission("edge", 1, 900_000), &boot()) else { panic!("it was written") };
    assert!(matches!(error, DbError::Full) && !error.is_damage(), "{error:?}");
}
