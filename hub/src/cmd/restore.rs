//! `moorline-hub restore`: a folder from a backup file.
//!
//! Hosts stay untouched: what they hold and the backup lacks, the hub takes over from them when they
//! connect.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use clap::Args;
use rusqlite::{Connection, OpenFlags};

use super::backup::FILES_TABLE;
use super::{CmdError, say};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::events::{Kind, NewEvent};
use crate::store::sqlite::{self, SqliteStore};
use crate::{files, server};

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup file.
    pub file: PathBuf,
    /// Replace the hub that is in the folder; its files are moved into a folder beside it.
    #[arg(long)]
    pub force: bool,
}

/// Restores the backup.
///
/// # Errors
/// [`CmdError`].
pub fn run(dir: &Path, args: &RestoreArgs) -> Result<(), CmdError> {
    let replaced = restore(dir, &args.file, args.force)?;
    let kept = replaced.map(|p| format!("\nThe old files are in {}.", p.display())).unwrap_or_default();
    say(&format!(
        "Restored into {}.{kept}
Start it with `moorline-hub --dir {} serve`. What agents hold and this backup lacks is taken over as they
connect; `moorctl events` shows it as `adopted`.",
        dir.display(),
        dir.display()
    ))
}

/// Restores `file` into `dir`; gives back where the old files went.
///
/// # Errors
/// [`CmdError`].
pub fn restore(dir: &Path, file: &Path, force: bool) -> Result<Option<PathBuf>, CmdError> {
    let contents = read(file).map_err(|e| CmdError::Failed(format!("{} is not a usable backup: {e}", file.display())))?;
    let failed = |e: &dyn std::fmt::Display| CmdError::Failed(format!("cannot restore into {}: {e}", dir.display()));
    let used = dir.is_dir() && !old_files(dir).map_err(|e| failed(&e))?.is_empty();
    if used && !force {
        return Err(CmdError::Failed(format!("{} is not empty; --force replaces what is there", dir.display())));
    }
    files::private_dir(dir).map_err(|e| failed(&e))?;
    // Held until the folder is whole: the lock's file stays where it is.
    let _lock = server::lock(dir).map_err(CmdError::failed)?;
    if !used {
        return fill(dir, file, &contents).map(|()| None);
    }
    let away = away(dir);
    let kept = |e: CmdError| {
        CmdError::Failed(format!("{e}\nThe old files are in {}: move them back, or repeat the restore with --force", away.display()))
    };
    move_away(dir, &away).map_err(|e| kept(failed(&e)))?;
    fill(dir, file, &contents).map_err(kept)?;
    Ok(Some(away))
}

/// Writes the backup `file`, whose files are `contents`, into the empty folder `dir`.
fn fill(dir: &Path, file: &Path, contents: &Contents) -> Result<(), CmdError> {
    let failed = |e: &dyn std::fmt::Display| CmdError::Failed(format!("cannot restore into {}: {e}", dir.display()));
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(|e| failed(&e))?;
    for (path, content) in contents {
        if path == config::FILE {
            continue;
        }
        let target = dir.join(path);
        if let Some(parent) = target.parent() {
            files::private_dir(parent).map_err(|e| failed(&e))?;
        }
        files::write_private(&target, content).map_err(|e| failed(&e))?;
    }
    copy_store(file, &dir.join(sqlite::FILE))?;
    // Last: a folder with this file is a whole hub.
    if let Some((_, content)) = contents.iter().find(|(path, _)| path == config::FILE) {
        files::write_private(&dir.join(config::FILE), content).map_err(|e| failed(&e))?;
    }
    Config::load(dir, None)?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("it is damaged: {0}")]
    Damaged(String),
    #[error("it names the file `{0}`, which is outside a hub's folder")]
    Path(String),
}

type Contents = Vec<(String, zeroize::Zeroizing<Vec<u8>>)>;

/// Checks a backup and reads its files.
fn read(file: &Path) -> Result<Contents, ReadError> {
    let conn = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let verdict: String = conn.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    if verdict != "ok" {
        return Err(ReadError::Damaged(verdict));
    }
    let mut statement = conn.prepare(&format!("SELECT path, content FROM {FILES_TABLE} ORDER BY path"))?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, zeroize::Zeroizing::new(row.get::<_, Vec<u8>>(1)?))))?;
    let contents = rows.collect::<rusqlite::Result<Contents>>()?;
    for (path, _) in &contents {
        if !Path::new(path).components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(ReadError::Path(path.clone()));
        }
    }
    if !contents.iter().any(|(path, _)| path == config::FILE) {
        return Err(ReadError::Damaged(format!("it lacks {}", config::FILE)));
    }
    Ok(contents)
}

/// Puts the store of the backup in place, without the table of files.
fn copy_store(file: &Path, database: &Path) -> Result<(), CmdError> {
    let failed = |e: &dyn std::fmt::Display| CmdError::Failed(format!("cannot write {}: {e}", database.display()));
    drop(files::create_private(database).map_err(|e| failed(&e))?);
    let source = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| failed(&e))?;
    source.execute("VACUUM INTO ?1", [database.to_string_lossy()]).map_err(|e| failed(&e))?;
    let conn = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(|e| failed(&e))?;
    conn.execute_batch(&format!("PRAGMA secure_delete = ON; DROP TABLE {FILES_TABLE}; VACUUM")).map_err(|e| failed(&e))?;
    drop(conn);
    fs::File::open(database).and_then(|f| f.sync_all()).map_err(|e| failed(&e))?;
    // Opens, migrates and names its cluster, or it is no hub's store.
    SqliteStore::cluster(database).map_err(CmdError::failed)?;
    let event = NewEvent::hub(Kind::HubRestored, "restored from a backup; what came after it is taken over from the agents");
    SqliteStore::record_offline(database, &Clock::default(), &event).map_err(CmdError::failed)
}

/// What is in `dir` besides the lock's file.
fn old_files(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name());
    }
    names.retain(|name| name != server::LOCK);
    Ok(names)
}

/// A name for the old files' folder, beside `dir`.
fn away(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(format!(".replaced-{}", Clock::default().unix_ms()));
    PathBuf::from(name)
}

/// Moves the old files in `dir` into the folder `away`.
fn move_away(dir: &Path, away: &Path) -> io::Result<()> {
    files::private_dir(away)?;
    for name in old_files(dir)? {
        match fs::rename(dir.join(&name), away.join(&name)) {
            // SQLite removes its log with the last reader of the store, say a `doctor` that ran meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
    }
    Ok(())
}
