//! Whether this host's records are the ones that the hub has seen. Those of a snapshot are fewer, or others: a journal that was
//! set back and has grown again has as many, and at the witnessed number another record.

use std::io;
use std::path::{Path, PathBuf};

use moorline_proto::v1 as pb;

use super::transport::LinkError;
use crate::journal::fs::{Fs as _, RealFs};
use crate::journal::{Head, codec, segment};
use crate::limits::JOURNAL_READ_MAX;

/// Refuses to go on with records that are older than what the hub has seen of them, or others: they were restored from a
/// snapshot, or another copy of them has been in use. A hub that lies can only stop the host, which it can do anyway.
///
/// # Errors
/// [`LinkError::Behind`]; [`LinkError::Ended`] when the journal in `dir` cannot be read.
pub(super) async fn check(welcome: &pb::Welcome, head: &Head, dir: PathBuf) -> Result<(), LinkError> {
    let seen = welcome.witnessed_journal_seq;
    if seen == 0 {
        return Ok(());
    }
    let own = if seen > head.seq {
        return Err(behind(&format!("record {seen}"), head));
    } else if seen == head.seq {
        Some(head.clone())
    } else {
        let found = tokio::task::spawn_blocking(move || record(&dir, seen)).await;
        let found = found.map_err(io::Error::other).and_then(|found| found);
        found.map_err(|e| LinkError::Ended(format!("the journal cannot be compared with what the hub has seen: {e}")))?
    };
    match own {
        Some(own) if own.short() == welcome.witnessed_journal_head => Ok(()),
        Some(_) => Err(behind(&format!("another record {seen}"), head)),
        None => {
            // Older than all that is kept, or damaged in closed history, which is told at the start.
            tracing::warn!(seen, head = head.seq, "the record that the hub has seen last is not kept any more; nothing is compared");
            Ok(())
        }
    }
}

fn behind(what: &str, head: &Head) -> LinkError {
    LinkError::Behind(format!(
        "the hub has seen {what} of this host's journal, whose newest is {}: the state folder was restored from a snapshot, or copied",
        head.seq
    ))
}

/// The record `seq` of the journal in `dir`, if it is kept. Blocks.
fn record(dir: &Path, seq: u64) -> io::Result<Option<Head>> {
    let all = segment::list(&RealFs, dir)?;
    // A segment begins with the hash of the record before it.
    let Some(first) = all.iter().rev().find(|first| **first <= seq).or(all.first().filter(|first| **first == seq + 1)) else {
        return Ok(None);
    };
    let Some(bytes) = RealFs.read(&dir.join(segment::file_name(*first)), JOURNAL_READ_MAX)? else { return Ok(None) };
    let mut found = None;
    let scan = codec::scan(&bytes, |record, line| {
        if record.seq == seq {
            found = Some(moorline_common::id::sha256_hex(line));
        }
    });
    let before = scan.header.filter(|header| header.first == seq + 1).map(|header| header.head);
    Ok(found.or(before).map(|hash| Head { seq, hash }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::file::FileJournal;
    use crate::journal::{Entry, Journal as _};
    use moorline_common::id::{HostEpoch, ResourceId, UnixSeconds};
    use moorline_common::op::State;

    /// Appends a step to the journal in `dir`; what it is called makes it this one.
    async fn grow(dir: &Path, steps: &[&'static str]) -> Vec<Head> {
        let journal = FileJournal::open(dir, HostEpoch::parse("0".repeat(32)).unwrap()).unwrap().journal;
        let mut heads = Vec::new();
        for step in steps {
            let resource = ResourceId::parse("docker/container/c").unwrap();
            heads.push(journal.append(vec![Entry::step(uuid::Uuid::now_v7(), resource, step, State::Started)]).await.unwrap());
        }
        heads
    }

    async fn verdict(seen: &Head, head: &Head, dir: &Path) -> Result<(), String> {
        let welcome = pb::Welcome { witnessed_journal_seq: seen.seq, witnessed_journal_head: seen.short(), ..pb::Welcome::default() };
        check(&welcome, head, dir.to_owned()).await.map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_journal_that_was_set_back_is_noticed_also_when_it_has_grown_again() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let early = grow(dir, &["a", "b"]).await;
        let snapshot = std::fs::read(dir.join(segment::file_name(1))).unwrap();
        let seen = grow(dir, &["c", "d"]).await;
        for witnessed in early.iter().chain(&seen) {
            assert_eq!(verdict(witnessed, &seen[1], dir).await, Ok(()));
        }
        assert_eq!(verdict(&Head::default(), &seen[1], dir).await, Ok(()), "a hub that has seen nothing says nothing");

        std::fs::write(dir.join(segment::file_name(1)), snapshot).unwrap();
        assert!(verdict(&seen[1], &early[1], dir).await.unwrap_err().contains("has seen record 4"));
        let grown = grow(dir, &["e", "f", "g"]).await;
        assert!(verdict(&seen[1], &grown[2], dir).await.unwrap_err().contains("has seen another record 4"));
        assert!(verdict(&seen[1], &grown[1], dir).await.unwrap_err().contains("has seen another record 4"));
        assert_eq!(verdict(&early[1], &grown[2], dir).await, Ok(()), "what both have in common");
    }

    #[tokio::test]
    async fn a_segment_knows_the_record_before_it_and_what_is_older_is_not_compared() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let old = grow(dir, &["a", "b"]).await;
        let path = dir.join(segment::file_name(1));
        let before = codec::scan(&std::fs::read(&path).unwrap(), |_, _| {});
        let (next, _) = codec::beginning(&before.head, &before.tail, &before.book, UnixSeconds(0), 1).unwrap();
        std::fs::write(dir.join(segment::file_name(3)), next).unwrap();
        std::fs::remove_file(path).unwrap();
        let new = grow(dir, &["c"]).await;
        assert_eq!(verdict(&old[1], &new[0], dir).await, Ok(()));
        let other = Head { hash: old[0].hash.clone(), ..old[1].clone() };
        assert!(verdict(&other, &new[0], dir).await.is_err());
        let gone = Head { hash: old[1].hash.clone(), ..old[0].clone() };
        assert_eq!(verdict(&gone, &new[0], dir).await, Ok(()));
    }
}
