//! Private files: folders 0700, files 0600, replaced in one step and durable before the call returns.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Makes `dir` with mode 0700 if it is not there; one that others may read is closed to them.
///
/// # Errors
/// The file system's.
pub fn ensure_private_dir(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let mode = fs::metadata(dir)?.permissions().mode();
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Writes `bytes` to `path` with mode 0600: to a temporary file first, flushed, then renamed.
///
/// # Errors
/// The file system's.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a file needs a folder"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = parent.join(name);
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        Err(_) | Ok(()) => {}
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // It may hold a key.
        let _ = fs::remove_file(&temporary);
    })?;
    sync_dir(parent)
}

/// Flushes a folder, so that a new or renamed file in it survives a power cut.
///
/// # Errors
/// The file system's.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Reads a file of at most `max` bytes; `None` when there is none.
///
/// # Errors
/// The file system's, and one for a file that is too large.
pub fn read_limited(path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
    open(path)?.map(|file| take(file, path, max)).transpose()
}

/// Why a file with a secret is not read.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// Everybody on this host may read, change or run it; its permissions.
    #[error("others may read it (mode {0:04o})")]
    Exposed(u32),
    /// The file system's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a file of at most `max` bytes that only its owner and group may read; `None` when there is none.
///
/// # Errors
/// [`PrivateError`].
pub fn read_private(path: &Path, max: u64) -> Result<Option<Vec<u8>>, PrivateError> {
    let Some(file) = open(path)? else { return Ok(None) };
    // Of the file that was opened, not of what has its name by now.
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(PrivateError::Exposed(mode));
    }
    Ok(Some(take(file, path, max)?))
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn take(file: File, path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("{} is larger than {max} bytes", path.display()));
    if file.metadata()?.len() > max {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        return Err(too_large());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_files_are_readable_by_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        ensure_private_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        ensure_private_dir(&state).unwrap();
        let path = state.join("key");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        let taken = state.join("folder");
        fs::create_dir(&taken).unwrap();
        assert!(write_private(&taken, b"secret").is_err());
        assert_eq!(fs::read_dir(&state).unwrap().count(), 2, "what could not be put in its place is gone");
        assert!(read_limited(&path, 2).is_err());
        assert_eq!(read_limited(&state.join("none"), 2).unwrap(), None);
    }
}
