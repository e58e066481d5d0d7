//! One suite for every journal; then what only a disk can do to one.

use std::path::Path;

use moorline_common::id::{HostEpoch, ResourceId, UnixSeconds};
use moorline_common::op::{Grant, State};

use super::file::{FileJournal, Opened};
use super::memory::MemoryJournal;
use super::*;

mod damage;
mod power;

pub(super) fn epoch() -> HostEpoch {
    HostEpoch::parse("e".repeat(32)).unwrap()
}

pub(super) fn open(dir: &Path) -> Opened {
    FileJournal::open(dir, epoch()).unwrap()
}

pub(super) fn step(name: &str, id: u128, state: State) -> Entry {
    Entry::step(uuid::Uuid::from_u128(id), ResourceId::parse(format!("docker/network/{name}")).unwrap(), "create-network", state)
}

/// An operation that an operator signed.
pub(super) fn op(id: u128, state: State) -> Entry {
    let grant = Grant {
        envelope: "{}".to_owned(),
        intent: format!("intent-{id}"),
        nonce: format!("nonce-{id}"),
        nonce_until: UnixSeconds(1000),
        bound: None,
        nothing: false,
    };
    Entry { idempotency_key: format!("key-{id}"), grant: (state == State::Accepted).then_some(grant), ..step("op", id, state) }
}

async fn conformance(journal: impl Journal) {
    let first = journal.append(vec![step("a", 1, State::Started), step("b", 2, State::Started)]);
    let second = journal.append(vec![step("a", 1, State::Succeeded)]);
    // Awaited the other way round: the order is that of the calls.
    let second = second.await.unwrap();
    let first = first.await.unwrap();
    assert_eq!((first.seq, second.seq), (2, 3));
    assert_eq!(journal.head(), second);
    assert_eq!(second.short().len(), 16);
    assert_eq!(journal.read(|book| book.open().map(|e| e.first.resource.clone()).collect::<Vec<_>>()), ["docker/network/b"]);

    // What cannot follow is refused whole, and leaves nothing behind.
    let refused = journal.append(vec![op(3, State::Accepted), op(3, State::Started)]).await;
    assert!(matches!(refused, Err(JournalError::Refused(_))), "{refused:?}");
    assert_eq!(journal.head(), second);
    journal.append(vec![op(3, State::Accepted), op(3, State::Queued), op(3, State::Started)]).await.unwrap();
    journal.append(vec![op(3, State::Succeeded)]).await.unwrap();
    let again = journal.append(vec![Entry { op_id: uuid::Uuid::from_u128(4), ..op(3, State::Accepted) }]).await;
    assert!(matches!(again, Err(JournalError::Refused(BookError::NonceUsed { .. }))), "{again:?}");
    assert_eq!(journal.read(|book| book.key("key-3").unwrap().ended.as_ref().map(|e| e.state)), Some(State::Succeeded));
    assert_eq!(journal.head().seq, 7);
    let large = Entry { params: Value::String("x".repeat(crate::limits::JOURNAL_LINE_MAX)), ..step("a", 9, State::Started) };
    assert!(matches!(journal.append(vec![large]).await, Err(JournalError::TooLarge(_))));
    assert_eq!(journal.append(vec![step("a", 10, State::Started)]).await.unwrap().seq, 8);
}

#[tokio::test]
async fn every_journal_keeps_the_order_of_calls_and_refuses_what_cannot_follow() {
    let dir = tempfile::tempdir().unwrap();
    conformance(open(dir.path()).journal).await;
    conformance(MemoryJournal::default()).await;
}

#[tokio::test]
async fn a_journal_in_memory_that_is_cut_off_within_an_append_is_one_chain() {
    let mut journal = MemoryJournal::default();
    let states = [State::Accepted, State::Queued, State::Started, State::Succeeded];
    for (kept, id) in [(0, 1), (1, 2), (2, 3), (4, 4), (9, 5)] {
        journal.delay(1);
        let before = journal.records().len();
        let pending = journal.append(states.map(|state| op(id, state)).to_vec());
        let next = journal.crash(kept);
        drop(pending);
        assert_eq!(next.records().len(), before + kept.min(states.len()));
        journal = next;
        journal.delay(0);
        journal.append(vec![step("s", id + 100, State::Started)]).await.unwrap();
        let mut prev = String::new();
        for record in journal.records() {
            assert_eq!(record.prev, prev, "record {} after {kept} were kept", record.seq);
            prev = moorline_common::id::sha256_hex(&codec::encode(&record).unwrap());
        }
        assert_eq!(journal.head().hash, prev);
    }
}

#[tokio::test]
async fn a_reopened_journal_goes_on_and_knows_what_was_open() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    journal.append(vec![step("a", 1, State::Started), step("b", 2, State::Started)]).await.unwrap();
    let head = journal.append(vec![step("a", 1, State::Succeeded), op(3, State::Accepted)]).await.unwrap();
    let book = journal.read(Book::clone);
    drop(journal);
    let opened = open(dir.path());
    assert_eq!((opened.torn, opened.sealed_damage), (None, None));
    assert_eq!(opened.journal.head(), head);
    assert_eq!(opened.journal.read(Book::clone), book);
    assert_eq!(opened.journal.append(vec![step("b", 2, State::Failed)]).await.unwrap().seq, head.seq + 1);
}

/// Fills segments until `rotations` have been closed. Returns the head.
pub(super) async fn fill(journal: &FileJournal, dir: &Path, rotations: usize) -> Head {
    let mut id = 100_000;
    let mut head = journal.head();
    while segment::list(&fs::RealFs, dir).unwrap().len() <= rotations {
        id += 1;
        let big = Entry { params: Value::String("x".repeat(200_000)), ..step("big", id, State::Started) };
        head = journal.append(vec![big, step("big", id, State::Succeeded)]).await.unwrap();
        // Answered when all before it is done, a new segment too.
        journal.append(Vec::new()).await.unwrap();
    }
    head
}

#[tokio::test]
async fn a_large_journal_goes_on_in_a_new_segment_and_forgets_nothing_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    let done = [State::Accepted, State::Queued, State::Started, State::Succeeded];
    journal.append(done.map(|state| op(1, state)).to_vec()).await.unwrap();
    journal.append(vec![step("open", 2, State::Started), op(3, State::Accepted)]).await.unwrap();
    let head = fill(&journal, dir.path(), 2).await;
    let (tail_head, book) = (journal.head(), journal.read(Book::clone));
    assert_eq!(tail_head, head, "a new segment does not move the head");
    drop(journal);
    let opened = open(dir.path());
    assert_eq!(opened.sealed_damage, None);
    assert_eq!((opened.journal.head(), opened.journal.read(Book::clone)), (head.clone(), book));
    let again = Entry { op_id: uuid::Uuid::from_u128(4), ..op(1, State::Accepted) };
    assert!(matches!(opened.journal.append(vec![again]).await, Err(JournalError::Refused(BookError::NonceUsed { .. }))));
    assert_eq!(opened.journal.append(vec![op(3, State::Queued)]).await.unwrap().seq, head.seq + 1);
}

#[tokio::test]
async fn nonces_are_forgotten_by_the_floor_alone_and_keys_never() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    journal.append([State::Accepted, State::Queued, State::Started, State::Succeeded].map(|s| op(1, s)).to_vec()).await.unwrap();
    fill(&journal, dir.path(), 1).await;
    assert!(journal.read(|book| book.knows_nonce("nonce-1")), "the wall clock is no floor");
    journal.set_time_floor(UnixSeconds(1001));
    fill(&journal, dir.path(), 2).await;
    assert!(journal.read(|book| !book.knows_nonce("nonce-1") && book.key("key-1").is_some()));
}
