//! Files in memory: what containers mount. Written whole or not at all, with their rights before their name.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use moorline_common::topology::SealedFile;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use super::{VaultError, word};

/// ramfs, which is memory too; nix has no name for it.
const RAMFS: FsType = FsType(0x8584_58f6);

/// What can be said of the folder for files in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is there, or can be made.
    Good,
    /// It would be on a disk.
    OnDisk(PathBuf),
    /// It cannot be looked at.
    Unseen(String),
}

/// Looks at `folder`; makes nothing.
#[must_use]
pub fn standing(folder: &Path) -> Standing {
    match in_memory(nearest(folder)) {
        Ok(true) => Standing::Good,
        Ok(false) => Standing::OnDisk(folder.to_owned()),
        Err(error) => Standing::Unseen(format!("{}: {error}", folder.display())),
    }
}

/// Whether `file` is at `path` with its rights. Its content was there before its name was.
pub(super) fn is_there(path: &Path, file: &SealedFile) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    let owner = file.uid.is_none_or(|uid| uid == found.uid()) && file.gid.is_none_or(|gid| gid == found.gid());
    found.is_file() && found.mode() & 0o7777 == file.mode && owner
}

/// Writes `value` as `file` into `folder`.
pub(super) fn write(folder: &Path, file: &SealedFile, value: &[u8]) -> Result<(), VaultError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    ensure(folder)?;
    let path = folder.join(file.to_string());
    let temporary = folder.join(format!(".{}.{}.tmp", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    let written = fill(&temporary, file, value)
        .and_then(|()| fs::rename(&temporary, &path).map_err(|source| VaultError::File { path: path.clone(), source }));
    written.inspect_err(|_| {
        // It may hold the value.
        let _ = fs::remove_file(&temporary);
    })
}

/// Removes what a killed agent did not finish. Nobody may be writing.
pub(super) fn remove_unfinished(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(".tmp")) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn fill(path: &Path, file: &SealedFile, value: &[u8]) -> Result<(), VaultError> {
    let failed = |source| VaultError::File { path: path.to_owned(), source };
    // What a killed process of the same id left behind.
    let _ = fs::remove_file(path);
    let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    made.write_all(value).map_err(failed)?;
    made.set_permissions(Permissions::from_mode(file.mode)).map_err(failed)?;
    give(&made, file)
}

/// The agent need not be root: it may only give away what it may give.
fn give(made: &File, file: &SealedFile) -> Result<(), VaultError> {
    if file.uid.is_none() && file.gid.is_none() {
        return Ok(());
    }
    fchown(made, file.uid, file.gid).map_err(|source| {
        let id = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        VaultError::Owner { what: word(file), to: format!("{}:{}", id(file.uid), id(file.gid)), source }
    })
}

/// Makes `folder`, private, if what is above it is in memory.
fn ensure(folder: &Path) -> Result<(), VaultError> {
    let failed = |source| VaultError::File { path: folder.to_owned(), source };
    if !in_memory(nearest(folder)).map_err(failed)? {
        return Err(VaultError::NotInMemory(folder.to_owned()));
    }
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    Ok(())
}

/// The folder itself, or what there is of the way to it.
fn nearest(folder: &Path) -> &Path {
    folder.ancestors().find(|path| path.exists()).unwrap_or(folder)
}

fn in_memory(path: &Path) -> io::Result<bool> {
    let kind = statfs(path).map_err(io::Error::from)?.filesystem_type();
    Ok(kind == TMPFS_MAGIC || kind == RAMFS)
}
