//! What the journal needs of a file system. A seam, so that tests can take away what was never flushed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::files;

/// A file system.
pub trait Fs: Clone + Send + Sync + 'static {
    /// An open file.
    type File: FsFile;

    /// Makes a folder for the owner alone, if it is not there.
    ///
    /// # Errors
    /// The file system's, as for all that follow.
    fn ensure_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// The whole of a file of at most `max` bytes; `None` when there is none.
    fn read(&self, path: &Path, max: u64) -> io::Result<Option<Vec<u8>>>;
    /// Makes a new file for the owner alone.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file to write at its end.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Gives a file another name, in place of what had it. Not durable before [`Self::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// When a file was last written, in milliseconds since 1970.
    fn modified_ms(&self, path: &Path) -> io::Result<u64>;
}

/// An open file of an [`Fs`].
pub trait FsFile: Send + 'static {
    /// Writes all of `bytes` at the end.
    ///
    /// # Errors
    /// The file system's, as for all that follow.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Takes the space of `len` bytes from `offset` on without making the file longer. `false` when this file system
    /// cannot do that.
    fn reserve(&mut self, offset: u64, len: u64) -> io::Result<bool>;
    /// Makes everything written durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealFs;

impl Fs for RealFs {
    type File = File;

    fn ensure_dir(&self, dir: &Path) -> io::Result<()> {
        files::ensure_private_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn read(&self, path: &Path, max: u64) -> io::Result<Option<Vec<u8>>> {
        files::read_limited(path, max)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().append(true).open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        files::sync_dir(dir)
    }

    fn modified_ms(&self, path: &Path) -> io::Result<u64> {
        let at = fs::metadata(path)?.modified()?.duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
        u64::try_from(at.as_millis()).map_err(io::Error::other)
    }
}

impl FsFile for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn reserve(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        let signed = |n: u64| i64::try_from(n).map_err(io::Error::other);
        match fallocate(&*self, FallocateFlags::FALLOC_FL_KEEP_SIZE, signed(offset)?, signed(len)?) {
            Ok(()) => Ok(true),
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}
