//! Reads a journal's files without touching them, whether an agent writes to them or not.

use std::io;
use std::path::Path;

use moorline_common::journal::Walker;
pub use moorline_common::journal::{Damage, Walk};
use moorline_common::op::Record;

use super::fs::{Fs as _, RealFs};
use super::segment;
use crate::limits::JOURNAL_READ_MAX;

/// Reads every segment in order; each record goes to `see`, with its line as it stands in the file.
///
/// # Errors
/// The file system's; a folder that is not there is [`io::ErrorKind::NotFound`].
pub fn walk(dir: &Path, mut see: impl FnMut(&Record, &[u8])) -> io::Result<Walk> {
    let mut walker = Walker::default();
    let mut next = segment::list(&RealFs, dir)?.first().copied();
    while let Some(first) = next {
        let read = RealFs.read(&dir.join(segment::file_name(first)), JOURNAL_READ_MAX)?;
        // A new segment may have been begun since the folder was listed.
        next = segment::list(&RealFs, dir)?.into_iter().find(|n| *n > first);
        match read {
            Some(bytes) => walker.segment(first, &bytes, next, &mut see),
            // Removed for its age while it was about to be read.
            None => walker.skip(),
        }
    }
    Ok(walker.end())
}
