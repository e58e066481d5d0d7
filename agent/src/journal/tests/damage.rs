//! Bytes that are missing or wrong: a cut-off tail is mended, everything else is told, nothing is skipped.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::journal::codec;
use crate::journal::segment::file_name;

/// A journal with a few batches: its folder, and its only segment.
async fn written() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    for id in 1..6 {
        journal.append(vec![op(id, State::Accepted), op(id, State::Queued)]).await.unwrap();
        journal.append(vec![op(id, State::Started)]).await.unwrap();
    }
    journal.append(vec![op(1, State::Succeeded), op(2, State::Failed)]).await.unwrap();
    let path = dir.path().join(file_name(1));
    (dir, path)
}

#[tokio::test]
async fn a_journal_cut_off_anywhere_in_its_last_records_is_mended_and_goes_on() {
    let (dir, path) = written().await;
    let all = fs::read(&path).unwrap();
    let ends: Vec<usize> = all.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(n, _)| n + 1).collect();
    let from = ends[ends.len() - 5];
    for cut in from..all.len() {
        let good = *ends.iter().rev().find(|end| **end <= cut).unwrap();
        let scan = codec::scan(&all[..cut], |_, _| {});
        let rest = if good == cut { codec::Rest::Clean } else { codec::Rest::Torn };
        assert_eq!((scan.good_bytes, scan.rest), (good, rest), "cut at {cut}");
        if cut % 16 != 0 && !ends.contains(&cut) && !ends.contains(&(cut + 1)) {
            continue;
        }
        fs::write(&path, &all[..cut]).unwrap();
        let opened = open(dir.path());
        assert_eq!(opened.torn.is_some(), good != cut, "cut at {cut}");
        if let Some(aside) = opened.torn {
            assert_eq!(fs::read(aside).unwrap(), &all[good..cut], "what was cut off is kept");
        }
        let seq = opened.journal.head().seq;
        assert_eq!(fs::read(&path).unwrap(), &all[..good]);
        assert_eq!(opened.journal.append(vec![step("next", 99, State::Started)]).await.unwrap().seq, seq + 1);
        drop(opened.journal);
        assert_eq!(open(dir.path()).journal.head().seq, seq + 1);
    }
}

#[tokio::test]
async fn zeros_where_the_last_write_should_be_are_mended_and_zeros_elsewhere_are_damage() {
    let (dir, path) = written().await;
    let all = fs::read(&path).unwrap();
    let ends: Vec<usize> = all.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(n, _)| n + 1).collect();
    let (before, last) = (ends[ends.len() - 2], *ends.last().unwrap());
    let mut zeros = all[..before].to_vec();
    zeros.resize(last + 4096, 0);
    fs::write(&path, &zeros).unwrap();
    assert!(open(dir.path()).torn.is_some());

    let mut hole = all;
    hole[ends[ends.len() - 3]..before].fill(0);
    fs::write(&path, &hole).unwrap();
    assert!(
        matches!(FileJournal::open(dir.path(), epoch()), Err(JournalError::Damaged { .. })),
        "something valid follows, be it of the same flush"
    );
    assert_eq!(fs::read(&path).unwrap(), hole, "damage is left as it is");
}

#[tokio::test]
async fn a_flipped_bit_is_never_overlooked() {
    let (dir, path) = written().await;
    let all = fs::read(&path).unwrap();
    for at in 0..all.len() {
        let mut flipped = all.clone();
        flipped[at] ^= 1 << (at % 8);
        let scan = codec::scan(&flipped, |_, _| {});
        assert!(matches!(scan.rest, codec::Rest::Damaged(_)), "byte {at}: {:?}", scan.rest);
    }
    drop(dir);
}

#[tokio::test]
async fn twenty_thousand_flipped_bits_in_a_journal_of_several_segments_are_told_or_mended() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    journal.append(vec![op(1, State::Accepted), step("open", 2, State::Started)]).await.unwrap();
    fill(&journal, dir.path(), 1).await;
    journal.append([State::Queued, State::Started, State::Succeeded].map(|s| op(1, s)).to_vec()).await.unwrap();
    let (end, book) = (journal.head(), journal.read(Book::clone));
    drop(journal);
    let path = newest(dir.path());
    assert_ne!(path, dir.path().join(file_name(1)));
    let all = fs::read(&path).unwrap();
    let mut seed = 0x5eed_u64;
    for n in 0..20_000 {
        // xorshift64: every run flips the same bits.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = usize::try_from(seed >> 3).unwrap() % all.len();
        let mut flipped = all.clone();
        flipped[at] ^= 1 << (seed & 7);
        let scan = codec::scan(&flipped, |_, _| {});
        let unharmed = scan.rest == codec::Rest::Clean && scan.head == end && scan.book == book;
        assert!(!unharmed && matches!(scan.rest, codec::Rest::Damaged(_)), "flip {n}: byte {at}: {:?}", scan.rest);
    }
    let walk = reader::walk(dir.path(), |_, _| {}).unwrap();
    assert_eq!((walk.damage, walk.segments, walk.head, walk.records), (Vec::new(), 2, end.clone(), end.seq));
    // In the closed segment it is told, and stops nothing.
    let sealed = dir.path().join(file_name(1));
    let mut bytes = fs::read(&sealed).unwrap();
    bytes[1000] ^= 1;
    fs::write(&sealed, bytes).unwrap();
    let opened = open(dir.path());
    assert!(opened.sealed_damage.unwrap().contains("damaged at byte"));
    assert_eq!(opened.journal.head(), end);
    let walk = reader::walk(dir.path(), |_, _| {}).unwrap();
    assert_eq!((walk.damage.len(), walk.head), (1, end));
}

/// A journal that has begun its second segment: its folder, and that segment.
async fn rotated() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    fill(&journal, dir.path(), 1).await;
    drop(journal);
    let newest = newest(dir.path());
    (dir, newest)
}

fn newest(dir: &Path) -> PathBuf {
    dir.join(file_name(*segment::list(&fs_of(), dir).unwrap().last().unwrap()))
}

fn fs_of() -> crate::journal::fs::RealFs {
    crate::journal::fs::RealFs
}

#[tokio::test]
async fn a_missing_newest_segment_is_damage() {
    let (dir, newest) = rotated().await;
    fs::remove_file(newest).unwrap();
    let Err(JournalError::Damaged { what, .. }) = FileJournal::open(dir.path(), epoch()) else { panic!("it was opened") };
    assert!(what.contains("is missing"), "{what}");
}

#[tokio::test]
async fn a_closed_segment_that_a_crash_kept_open_is_closed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    let head = fill(&journal, dir.path(), 1).await;
    drop(journal);
    let sealed = dir.path().join(file_name(1));
    let all = fs::read(&sealed).unwrap();
    let seal = all[..all.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    assert!(all[seal..].starts_with(b"{\"sealed\":"));
    for cut in [seal, seal + 1, all.len() - 1] {
        fs::write(&sealed, &all[..cut]).unwrap();
        let opened = open(dir.path());
        assert_eq!((opened.sealed_damage, opened.journal.head()), (None, head.clone()), "cut at {cut} of {}", all.len());
        drop(opened.journal);
        assert_eq!(fs::read(&sealed).unwrap(), all, "cut at {cut}");
    }
    // So the loss of the segment after it is noticed.
    fs::remove_file(dir.path().join(file_name(head.seq + 1))).unwrap();
    let Err(JournalError::Damaged { what, .. }) = FileJournal::open(dir.path(), epoch()) else { panic!("it was opened") };
    assert!(what.contains("is missing"), "{what}");
}

#[tokio::test]
async fn of_what_writes_left_that_were_cut_short_the_newest_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    // By number, not by name: 9 is older than 10.
    let after: Vec<usize> = (5..5 + crate::limits::JOURNAL_TORN_MAX + 3).collect();
    for seq in &after {
        fs::write(dir.path().join(format!("torn-after-{seq}")), "{").unwrap();
    }
    let journal = open(dir.path()).journal;
    fill(&journal, dir.path(), 1).await;
    let is_kept = |seq: &&usize| dir.path().join(format!("torn-after-{seq}")).exists();
    assert_eq!(after.iter().filter(is_kept).collect::<Vec<_>>(), after[3..].iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn a_swapped_dropped_or_repeated_line_is_damage() {
    let (_dir, path) = written().await;
    let all = fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = all.split_inclusive(|b| *b == b'\n').collect();
    for n in 1..lines.len() - 1 {
        let mut swapped = lines.clone();
        swapped.swap(n, n + 1);
        let mut dropped = lines.clone();
        dropped.remove(n);
        let mut repeated = lines.clone();
        repeated.insert(n, lines[n]);
        for wrong in [swapped, dropped, repeated] {
            assert!(matches!(codec::scan(&wrong.concat(), |_, _| {}).rest, codec::Rest::Damaged(_)), "line {n}");
        }
    }
}

/// A line with another content, and the checksum of that.
fn forged(line: &[u8], change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut value: serde_json::Value = serde_json::from_slice(line).unwrap();
    value.as_object_mut().unwrap().remove("crc");
    change(&mut value);
    let mut line = codec::encode(&value).unwrap();
    line.push(b'\n');
    line
}

#[tokio::test]
async fn a_line_that_was_written_anew_with_its_checksum_breaks_the_chain() {
    let (_dir, path) = written().await;
    let all = fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = all.split_inclusive(|b| *b == b'\n').collect();
    let same = forged(lines[2], |_| {});
    assert_eq!(codec::scan(&[lines[0], lines[1], &same].concat(), |_, _| {}).head.seq, 2, "the line is one that would be believed");
    for n in 1..lines.len() - 1 {
        let other = forged(lines[n], |line| line["kind"] = "remove-network".into());
        let mut wrong = lines.clone();
        wrong[n] = &other;
        let scan = codec::scan(&wrong.concat(), |_, _| {});
        assert!(matches!(scan.rest, codec::Rest::Damaged(_)), "line {n}");
        assert!(scan.head.seq <= u64::try_from(n).unwrap(), "line {n}: {:?}", scan.head);
    }
}

#[tokio::test]
async fn a_segment_with_the_name_of_another_is_damage() {
    let (dir, newest) = rotated().await;
    let first = fs::read(dir.path().join(file_name(1))).unwrap();
    // Without its last line, which says that it has a successor.
    let open_end = first[..first.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    fs::write(newest, &first[..open_end]).unwrap();
    let Err(JournalError::Damaged { what, .. }) = FileJournal::open(dir.path(), epoch()) else { panic!("it was opened") };
    assert!(what.contains("another segment's name"), "{what}");
}

#[tokio::test]
async fn a_checkpoint_that_forgets_something_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path()).journal;
    for id in 1..4 {
        journal.append([State::Accepted, State::Queued, State::Started, State::Succeeded].map(|s| op(id, s)).to_vec()).await.unwrap();
    }
    fill(&journal, dir.path(), 1).await;
    drop(journal);
    let newest = newest(dir.path());
    let all = fs::read(&newest).unwrap();
    let lines: Vec<&[u8]> = all.split_inclusive(|b| *b == b'\n').collect();
    let keys = lines.iter().position(|line| line.windows(7).any(|w| w == b"\"key-2\"")).unwrap();
    // Everything after it is chained anew, as only somebody who means it does.
    let (mut wrong, mut prev) = (lines[..keys].concat(), None);
    for line in &lines[keys..] {
        let line = forged(line, |value| {
            if let Some(keys) = value.pointer_mut("/part/keys").and_then(serde_json::Value::as_object_mut) {
                keys.remove("key-2");
            }
            if let Some(prev) = prev.take() {
                value["prev"] = serde_json::Value::String(prev);
            }
        });
        prev = Some(moorline_common::id::sha256_hex(&line[..line.len() - 1]));
        wrong.extend(line);
    }
    assert_ne!(wrong, all);
    assert_eq!(codec::scan(&wrong, |_, _| {}).rest, codec::Rest::Clean, "sound by itself");
    fs::write(&newest, &wrong).unwrap();
    let walk = reader::walk(dir.path(), |_, _| {}).unwrap();
    assert!(walk.damage.iter().any(|d| format!("{d:?}").contains("checkpoint")), "{:?}", walk.damage);
}
