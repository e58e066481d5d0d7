//! Names in calls of the API: of storages, pools, snapshots, volumes and guests.
//!
//! One set of checks for topology files and for operations, so that neither takes what a host refuses. Source: the formats `pve-storage-id`,
//! `pve-poolid`, `pve-configid` and `dns-name` of the API, and `parse_volname` in `PVE::Storage::Plugin`.

use super::scalar::Wrong;

/// The most characters of a snapshot's name.
pub const SNAPSHOT_MAX: usize = 40;
/// The most bytes of a volume's name in a call.
const VOLUME_MAX: usize = 255;

/// The name of a storage.
///
/// # Errors
/// [`Wrong`].
pub fn storage(text: &str) -> Result<(), Wrong> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_one = text.len() > 1
        && text.bytes().all(is_inner)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().next_back().is_some_and(|b| b.is_ascii_alphanumeric());
    right(is_one, || format!("`{}` is no storage's name: letters, digits, `-`, `_` and `.`, beginning with a letter", shown(text)))
}

/// The name of a snapshot.
///
/// # Errors
/// [`Wrong`].
pub fn snapshot(text: &str) -> Result<(), Wrong> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_one = (2..=SNAPSHOT_MAX).contains(&text.len())
        && text.bytes().all(is_inner)
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    right(is_one, || {
        let text = shown(text);
        format!("`{text}` is no snapshot's name: 2 to {SNAPSHOT_MAX} letters, digits, `-` and `_`, beginning with a letter")
    })?;
    right(!matches!(text, "current" | "pending"), || {
        format!("`{text}` is no name that a snapshot can have: Proxmox VE calls something else so")
    })
}

/// The name of a pool.
///
/// # Errors
/// [`Wrong`].
pub fn pool(text: &str) -> Result<(), Wrong> {
    let is_part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    let is_one = text.split('/').all(is_part) && text.split('/').count() <= 3;
    right(is_one, || format!("`{}` is no pool's name: letters, digits, `-`, `_` and `.`, and `/` between up to three", shown(text)))
}

/// A volume of the kind `content` on a storage.
///
/// # Errors
/// [`Wrong`].
pub fn volume(text: &str, content: &str) -> Result<(), Wrong> {
    let rest = text.split_once(':').filter(|(place, _)| storage(place).is_ok()).map(|(_, rest)| rest);
    let name = rest.and_then(|rest| rest.strip_prefix(content)?.strip_prefix('/')).unwrap_or_default();
    let is_one = !name.is_empty()
        && text.len() <= VOLUME_MAX
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        && !name.split('/').any(|part| part == "..");
    right(is_one, || format!("`{}` is no such volume: it is `STORAGE:{content}/NAME`", shown(text)))
}

/// The name of a guest, as in DNS.
///
/// # Errors
/// [`Wrong`].
pub fn dns(text: &str) -> Result<(), Wrong> {
    let is_label = |label: &str| {
        let is_inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        !label.is_empty() && label.len() <= 63 && is_inner && !label.starts_with('-') && !label.ends_with('-')
    };
    let is_one = text.len() <= 255 && text.split('.').all(is_label);
    right(is_one, || format!("`{}` is no name as in DNS: letters, digits and inner hyphens, with dots between", shown(text)))
}

fn right(is_right: bool, words: impl FnOnce() -> String) -> Result<(), Wrong> {
    if is_right { Ok(()) } else { Err(Wrong::new(words())) }
}

/// A name in a message, not longer than a line.
fn shown(text: &str) -> String {
    if text.chars().count() <= 40 { text.to_owned() } else { text.chars().take(39).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_a_host_takes() {
        let backup = |text: &str| volume(text, "backup");
        type Check<'a> = &'a dyn Fn(&str) -> Result<(), Wrong>;
        let all: [(Check<'_>, &[&str], &[&str]); 5] = [
            (&storage, &["local", "local-lvm", "a.b_c-1"], &["", "l", "1local", "local-", "lo cal", "local/x"]),
            (&snapshot, &["before", "a1", "a-b_c"], &["", "a", "1st", "a b", "current", "pending", "a.b", &"a".repeat(41)]),
            (&pool, &["prod", "a/b/c", "1.2"], &["", "a//b", "a/b/c/d", "a b", "/a"]),
            (&dns, &["db", "db-1.example", "1"], &["", "a_b", "-a", "a-", "a..b", "a b"]),
            (
                &backup,
                &["local:backup/vzdump-qemu-101.vma.zst", "pbs:backup/vm/101/2026-11-23T10:00:00Z"],
                &["", "/var/x.vma", "local:iso/a", "local:backup/", "local:backup/../x", "local:backup/a b", "l:backup/a"],
            ),
        ];
        for (check, good, bad) in all {
            for text in good {
                assert_eq!(check(text), Ok(()), "{text}");
            }
            for text in bad {
                assert!(check(text).is_err(), "{text}");
            }
        }
    }
}
