//! `moorline-hub backup`: everything in one private file, also while the hub serves.
//!
//! The file is an SQLite database: the store as of one moment, with the folder's other files in a table
//! beside it. Whoever reads it can be the hub, so it is 0600 and belongs where secrets are kept.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use rusqlite::{Connection, OpenFlags};

use super::{CmdError, operator, say};
use crate::files;
use crate::limits;
use crate::pki;
use crate::store::sqlite;

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The file to write; must not exist.
    pub file: PathBuf,
}

/// The table of files in a backup.
pub(super) const FILES_TABLE: &str = "backup_files";

/// Writes the backup.
///
/// # Errors
/// [`CmdError`].
pub fn run(dir: &Path, args: &BackupArgs) -> Result<(), CmdError> {
    write(dir, &args.file)?;
    say(&format!("Backup written to {}. It holds the CA's key: keep it as a secret.", args.file.display()))
}

/// Writes the folder `dir` into `file`.
///
/// # Errors
/// [`CmdError`].
pub fn write(dir: &Path, file: &Path) -> Result<(), CmdError> {
    let failed = |e: &dyn std::fmt::Display| CmdError::Failed(format!("cannot write the backup {}: {e}", file.display()));
    let refuse_used = || match file.exists() {
        true => Err(CmdError::Failed(format!("{} exists; backups never overwrite", file.display()))),
        false => Ok(()),
    };
    refuse_used()?;
    let database = dir.join(sqlite::FILE);
    if !database.exists() {
        return Err(CmdError::Failed(format!("{} holds no hub: there is no {}", dir.display(), sqlite::FILE)));
    }
    let mut name = file.as_os_str().to_owned();
    // Of its own: another backup to the same file may be under way.
    name.push(format!(".partial-{}", getrandom::u64().map_err(|e| failed(&e))?));
    let partial = PathBuf::from(name);
    let made = files::create_private(&partial).map_err(|e| failed(&e)).and_then(|out| {
        copy_store(&database, &partial).map_err(|e| failed(&e))?;
        add_files(dir, &partial).map_err(|e| failed(&e))?;
        out.sync_all().map_err(|e| failed(&e))?;
        refuse_used()?;
        fs::rename(&partial, file).and_then(|()| files::sync_parent(file)).map_err(|e| failed(&e))
    });
    if made.is_err() {
        let _ = fs::remove_file(&partial);
    }
    made
}

fn copy_store(database: &Path, out: &Path) -> rusqlite::Result<()> {
    let conn = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    conn.busy_timeout(limits::STORE_PATIENCE)?;
    conn.execute("VACUUM INTO ?1", [out.to_string_lossy()])?;
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum AddError {
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}: {1}")]
    File(String, #[source] io::Error),
}

fn add_files(dir: &Path, out: &Path) -> Result<(), AddError> {
    let mut conn = Connection::open_with_flags(out, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // No second file beside the backup, not even for a moment: it would hold secrets too.
    conn.pragma_update(None, "journal_mode", "OFF")?;
    let transaction = conn.transaction()?;
    transaction.execute_batch(&format!("CREATE TABLE {FILES_TABLE} (path TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT"))?;
    for path in file_list(dir).map_err(|e| AddError::File(dir.display().to_string(), e))? {
        let content = zeroize::Zeroizing::new(fs::read(dir.join(&path)).map_err(|e| AddError::File(path.clone(), e))?);
        transaction.execute(&format!("INSERT INTO {FILES_TABLE} (path, content) VALUES (?1, ?2)"), rusqlite::params![path, *content])?;
    }
    transaction.commit()?;
    Ok(())
}

/// The folder's files besides the store, as paths inside it.
fn file_list(dir: &Path) -> io::Result<Vec<String>> {
    let mut list =
        vec![crate::config::FILE.to_owned(), format!("{}/{}", pki::CA_DIR, pki::CA_CERT), format!("{}/{}", pki::CA_DIR, pki::CA_KEY)];
    let operators = dir.join(operator::DIR);
    if operators.is_dir() {
        for entry in fs::read_dir(operators)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".json") {
                list.push(format!("{}/{name}", operator::DIR));
            }
        }
    }
    list.sort();
    Ok(list)
}
