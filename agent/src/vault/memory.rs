//! Files in memory: what containers mount. Written whole or not at all, with their rights before their name.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use moorline_common::id::HostId;
use moorline_common::topology::SealedFile;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use nix::unistd::geteuid;

use super::{VaultError, folder_of, word};

/// ramfs, which is memory too; nix has no name for it.
const RAMFS: FsType = FsType(0x8584_58f6);

/// Why a folder is not safe for values, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsafeFolder {
    /// It is none.
    #[error("{} is a link or a file where the agent's own folder in memory belongs; remove it", .0.display())]
    NoFolder(PathBuf),
    /// It, or one on the way to it, is somebody else's.
    #[error(
        "{path} belongs to user {uid}, who could read or swap the values below it; remove it, or name a folder by `secrets_dir` in agent.toml that is root's or the agent's",
        path = path.display()
    )]
    Strangers {
        /// The folder or link.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// On the way to it others can put another folder in its place.
    #[error(
        "others can write to {path} (mode {mode:04o}), and so swap the values below it; `chmod go-w` it, or name another folder by `secrets_dir` in agent.toml",
        path = path.display()
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// What can be said of the folder for files in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is there, or can be made.
    Good,
    /// It would be on a disk.
    OnDisk(PathBuf),
    /// Somebody else could read or swap what is there.
    Unsafe(UnsafeFolder),
    /// It cannot be looked at.
    Unseen(String),
}

/// Looks at `secrets_dir`, and at what the agent of `host`, which runs as the user `own`, has there; makes nothing.
#[must_use]
pub fn standing(secrets_dir: &Path, host: Option<&HostId>, own: u32) -> Standing {
    let checked = match host {
        Some(host) => safe(&folder_of(secrets_dir, host), own).map(drop),
        None => safe_way(secrets_dir, own),
    };
    if let Err(why) = checked {
        return Standing::Unsafe(why);
    }
    match in_memory(nearest(secrets_dir)) {
        Ok(true) => Standing::Good,
        Ok(false) => Standing::OnDisk(secrets_dir.to_owned()),
        Err(error) => Standing::Unseen(format!("{}: {error}", secrets_dir.display())),
    }
}

/// Whether `file` is in `folder` with its rights, and nobody but the agent could put it there. Its content was there before its name was.
pub(super) fn is_there(folder: &Path, file: &SealedFile) -> bool {
    let Ok(found) = fs::symlink_metadata(folder.join(file.to_string())) else { return false };
    let owner = file.uid.unwrap_or_else(own) == found.uid() && file.gid.is_none_or(|gid| gid == found.gid());
    found.is_file() && found.mode() & 0o7777 == file.mode && owner && safe(folder, own()).is_ok_and(|closed| closed)
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

/// Makes `folder`, private, if what is above it is in memory; one of ours that is open is closed.
fn ensure(folder: &Path) -> Result<(), VaultError> {
    let failed = |source| VaultError::File { path: folder.to_owned(), source };
    safe(folder, own())?;
    if !in_memory(nearest(folder)).map_err(failed)? {
        // By the name that the configuration has for it, not by the host's own part of it.
        return Err(VaultError::NotInMemory(folder.parent().unwrap_or(folder).to_owned()));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // Somebody may have been faster. From here on nobody else can put anything in its place.
    if !safe(folder, own())? {
        tracing::warn!(folder = %folder.display(), "the folder of files with secrets was open to others; it is closed now");
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

fn own() -> u32 {
    geteuid().as_raw()
}

/// Checks that `folder`, as far as it exists, is the user's own, and that nobody else can put another one in its place. Gives whether
/// it is closed to others.
fn safe(folder: &Path, own: u32) -> Result<bool, UnsafeFolder> {
    safe_way(folder.parent().unwrap_or(folder), own)?;
    let Ok(found) = fs::symlink_metadata(folder) else { return Ok(true) };
    if !found.is_dir() {
        return Err(UnsafeFolder::NoFolder(folder.to_owned()));
    }
    if found.uid() != own {
        return Err(UnsafeFolder::Strangers { path: folder.to_owned(), uid: found.uid() });
    }
    Ok(found.mode() & 0o077 == 0)
}

/// Checks that nobody but root and the user `own` can say what `folder` is: as it is written, and where links lead.
fn safe_way(folder: &Path, own: u32) -> Result<(), UnsafeFolder> {
    let real = nearest(folder).canonicalize().unwrap_or_else(|_| folder.to_owned());
    for path in folder.ancestors().chain(real.ancestors()) {
        // What is not there yet the agent makes itself.
        let Ok(found) = fs::symlink_metadata(path) else { continue };
        let (uid, mode) = (found.uid(), found.mode() & 0o7777);
        if uid != 0 && uid != own {
            return Err(UnsafeFolder::Strangers { path: path.to_owned(), uid });
        }
        if found.is_symlink() {
            continue;
        }
        if !found.is_dir() {
            return Err(UnsafeFolder::NoFolder(path.to_owned()));
        }
        // In a sticky folder each has only their own.
        if mode & 0o022 != 0 && mode & 0o1000 == 0 {
            return Err(UnsafeFolder::Open { path: path.to_owned(), mode });
        }
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
