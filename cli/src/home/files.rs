//! Private files: 0600 in 0700 folders, written whole or not at all, refused when others can read them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use moorline_common::fault::{Code, Fault};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::error::{Failure, LocalCode};
use crate::limits::HOME_FILE_MAX;

/// Makes `dir` and its parents; what is new is 0700.
///
/// # Errors
/// When it cannot be made.
pub fn ensure_private_dir(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| Failure::file("create", dir, &e))
}

/// The folder that `path` is in; that of a bare name is the one that we are in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// Writes `bytes` to `path`, 0600: a temporary file, its bytes and then the folder made durable.
///
/// # Errors
/// When it cannot be written; then the old content is untouched.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |e: &io::Error| Failure::file("write", path, e);
    let dir = folder_of(path);
    ensure_private_dir(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary: PathBuf = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    // What a killed process of the same id left behind.
    let _ = fs::remove_file(&temporary);
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(|e| failed(&e))
}

/// Writes `bytes` over a file of the operator's that holds `old`: whole or not at all, with the owner and the rights that it has.
///
/// # Errors
/// When somebody has changed the file, or it cannot be written. Then the content is untouched.
pub fn replace(path: &Path, old: &[u8], bytes: &[u8]) -> Result<(), Failure> {
    // What a link names is meant.
    let path = fs::canonicalize(path).map_err(|e| Failure::file("find", path, &e))?;
    let dir = folder_of(&path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.tmp", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let result = (|| {
        let rights = fs::metadata(&path)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        let made = file.metadata()?;
        if (made.uid(), made.gid()) != (rights.uid(), rights.gid()) {
            std::os::unix::fs::fchown(&file, Some(rights.uid()), Some(rights.gid()))?;
        }
        file.set_permissions(rights.permissions())?;
        file.sync_all()?;
        if fs::read(&path)? != old {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "somebody has changed it meanwhile; run the same again"));
        }
        fs::rename(&temporary, &path)?;
        File::open(dir)?.sync_all()
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(|e: io::Error| Failure::file("write", &path, &e))
}

/// Makes a new file, 0600, for what an operator asked to `--save`: nothing is overwritten unseen.
///
/// # Errors
/// [`Code::AlreadyExists`] when there is such a file; when it cannot be made.
pub fn create_new(path: &Path) -> Result<File, Failure> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|e| {
        if e.kind() != io::ErrorKind::AlreadyExists {
            return Failure::file("write", path, &e);
        }
        let message = format!("{} exists already; nothing was written", path.display());
        Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("name another file with --save, or remove this one first")
    })
}

/// Writes `bytes` to a new file, 0600. What could not be written whole does not stay.
///
/// # Errors
/// As [`create_new`]; when it cannot be written.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut file = create_new(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| File::open(folder_of(path))?.sync_all());
    written.map_err(|e| {
        let _ = fs::remove_file(path);
        Failure::file("write", path, &e)
    })
}

/// Makes `path` with `bytes`, 0600, if there is no such file: whole and durable before it has its name, so that nobody sees a part of it.
///
/// # Errors
/// When it cannot be written.
pub fn write_once(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |e: &io::Error| Failure::file("write", path, e);
    let dir = folder_of(path);
    ensure_private_dir(dir)?;
    // A process with the same id may be at it, too, where several systems share the folder.
    let mut own = [0; 8];
    getrandom::fill(&mut own).map_err(|e| Failure::local(format!("no random bytes: {e}")))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}.tmp", hex::encode(own)));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            Err(_) | Ok(()) => Ok(()),
        }
    })();
    // It may hold a key.
    let _ = fs::remove_file(&temporary);
    written.and_then(|()| File::open(dir)?.sync_all()).map_err(|e| failed(&e))
}

/// Reads a file; `None` when there is none.
///
/// # Errors
/// When it cannot be read or is larger than [`HOME_FILE_MAX`].
pub fn read_optional(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    read_if_there(path, HOME_FILE_MAX)
}

/// Reads a file that must exist, of `max` bytes at most.
///
/// # Errors
/// When there is none, it cannot be read, or it is larger.
pub fn read_up_to(path: &Path, max: u64) -> Result<Zeroizing<Vec<u8>>, Failure> {
    read_if_there(path, max)?.ok_or_else(|| Failure::local(format!("{} does not exist", path.display())).with_remedy("check the path"))
}

fn read_if_there(path: &Path, max: u64) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let failed = |e: &io::Error| Failure::file("read", path, e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(&e)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > max {
        let message = format!("{} is larger than {max} bytes", path.display());
        return Err(Failure::from(Fault::new(Code::TooLarge, message)).with_remedy("check that it is the file you mean"));
    }
    Ok(Some(bytes))
}

/// Reads a file that must exist.
///
/// # Errors
/// As [`read_optional`], or when there is none.
pub fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    read_up_to(path, HOME_FILE_MAX)
}

/// Reads a file that holds a secret; refuses one that anybody but its owner can read.
///
/// # Errors
/// [`LocalCode::UnsafeFile`], or as [`read`].
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let bytes = read(path)?;
    let metadata = fs::metadata(path).map_err(|e| Failure::file("read", path, &e))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(Failure::new(
            LocalCode::UnsafeFile,
            format!("{} holds a key and can be read by others (mode {:o})", path.display(), metadata.mode() & 0o777),
            format!("run `chmod 600 {}`, and make a new key if somebody may have copied it", path.display()),
        ));
    }
    Ok(bytes)
}

/// Reads a JSON file; `None` when there is none.
///
/// # Errors
/// As [`read_optional`], or when it is damaged.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Failure> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Failure::local(format!("{} is damaged: {e}", path.display())).with_remedy("restore it from a backup of your home folder")
    })
}

/// Writes a value as a private JSON file.
///
/// # Errors
/// As [`write_private`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let mut bytes =
        Zeroizing::new(serde_json::to_vec_pretty(value).map_err(|e| Failure::local(format!("cannot write {}: {e}", path.display())))?);
    bytes.push(b'\n');
    write_private(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn private_files_and_folders_are_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/key");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(&**read_secret(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_private(&path, b"x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let failure = read_secret(&path).unwrap_err();
        assert_eq!(failure.code, "unsafe_file");
        assert!(failure.remedy.contains("chmod 600"));
    }
}
