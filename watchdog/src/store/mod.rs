//! The ledger on disk: builds, baselines, incidents and what was run for them. The only module that knows SQL.
//!
//! A function that returned `Ok` has written durably (WAL with `synchronous = FULL`: one fsync per call), so that the
//! caller may go on to the effect. Such a call blocks for that fsync; async callers go through `spawn_blocking`. What only
//! reads blocks for nothing.

mod builds;
mod decisions;
mod figures;
mod incidents;
mod migrate;
mod rails;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::incident::{IllegalStep, IncidentId};
use crate::model::{BuildId, ServiceName};

pub use builds::BuildRecord;
pub use decisions::{BuildChange, Change, NewDecision};
pub use figures::{BuildWrite, StoredCell, StoredFigures, StoredPeak, Written};
pub use incidents::{HookEnd, Release};

/// Name of the database in the state directory.
pub const DATABASE: &str = "state.db";
/// Name of the file that an agent holds locked as long as it runs.
pub const LOCK: &str = "state.lock";
/// How long a call waits for a reader of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use the state directory {}: {source}; it must be a directory that the agent may write", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "another agent runs on the state directory {}; stop it, or give this one its own with --state-dir",
        path.display()
    )]
    SecondAgent { path: PathBuf },
    #[error("there is no ledger at {}; it is created by `load-watchdog run`", path.display())]
    Absent { path: PathBuf },
    #[error(
        "{} was written by a newer load-watchdog (schema {found}, this one knows {known}); install that version again, \
         or move the file away to start with an empty ledger",
        path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("{} is from an older load-watchdog (schema {found}); start the agent once to bring it up to date", path.display())]
    Older { path: PathBuf, found: i64 },
    #[error("{} is a database, but not one of load-watchdog; it is left alone", path.display())]
    Foreign { path: PathBuf },
    #[error(
        "{} is damaged ({detail}) and is left as it is; move it away (with its -wal and -shm) to start with an empty \
         ledger, or restore it from a backup",
        path.display()
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error("the ledger holds {what} {value:?}, which this version does not know")]
    UnknownValue { what: &'static str, value: String },
    #[error("there is no incident {0}")]
    NoIncident(IncidentId),
    #[error("service {service} has no build {build} in the ledger")]
    NoBuild { service: ServiceName, build: BuildId },
    #[error("an incident for build {bad_build} of {service} is already open: {open}")]
    AlreadyOpen { service: ServiceName, bad_build: BuildId, open: IncidentId },
    #[error(transparent)]
    IllegalStep(#[from] IllegalStep),
    #[error("the ledger cannot be used: {0}; check the disk's free space and the file's permissions")]
    Sql(#[from] rusqlite::Error),
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// An open ledger. Shared between tasks in an `Arc`.
#[derive(Debug)]
pub struct Store {
    /// What is read waits for no write, and so for no disk.
    reader: Mutex<Connection>,
    /// None beside an agent.
    writer: Option<Mutex<Connection>>,
    /// Held until the store is dropped, and by the kernel released when the process dies.
    _lock: Option<Flock<File>>,
}

impl Store {
    /// Opens the ledger for the agent, created when absent, and keeps every other agent out.
    ///
    /// Never resets anything: a file that is damaged, foreign or from a newer version is refused untouched.
    pub fn open(state_dir: &Path) -> Result<Self> {
        let directory_error = |source| StoreError::Directory { path: state_dir.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(directory_error)?;
        let lock = lock(state_dir)?;
        let path = state_dir.join(DATABASE);
        if !path.try_exists().map_err(directory_error)? {
            create(state_dir, &path)?;
        }

        let mut connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        migrate::check(&connection, &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(directory_error)?;
        let durable = |connection: &Connection| -> rusqlite::Result<()> {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update(None, "foreign_keys", true)
        };
        durable(&connection).map_err(|error| migrate::name_damage(error, &path))?;
        migrate::migrate(&mut connection)?;
        let reader = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        Ok(Self { reader: Mutex::new(reader), writer: Some(Mutex::new(connection)), _lock: Some(lock) })
    }

    /// Opens the ledger for reading only, beside a running agent or without one.
    pub fn open_reader(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(DATABASE);
        if !path.exists() {
            return Err(StoreError::Absent { path });
        }
        let connection = connect(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        migrate::check(&connection, &path)?;
        migrate::require_current(&connection, &path)?;
        Ok(Self { reader: Mutex::new(connection), writer: None, _lock: None })
    }

    /// Reads what is committed.
    fn reader(&self) -> MutexGuard<'_, Connection> {
        locked(&self.reader)
    }

    /// Runs `change` in one durable transaction.
    fn write<T>(&self, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        // Beside an agent nothing can be written: SQLite says so.
        let mut connection = locked(self.writer.as_ref().unwrap_or(&self.reader));
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = change(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

/// A panic cannot leave a half-done change behind: the transaction is rolled back when dropped.
fn locked(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes an empty ledger, which is there whole or not at all: one that was cut short to nothing is damaged, and no new one.
fn create(state_dir: &Path, path: &Path) -> Result<()> {
    let directory_error = |source| StoreError::Directory { path: state_dir.to_owned(), source };
    let beside = |ending: &str| state_dir.join(format!("{DATABASE}{ending}"));
    let journal = beside("-wal");
    if journal.try_exists().map_err(directory_error)? {
        // SQLite would take it for the new database's own.
        let detail = format!("the {DATABASE} that it belongs to is missing");
        return Err(StoreError::Corrupt { path: journal, detail });
    }
    // What an agent that was killed in the middle of this has left.
    let new = beside(".new");
    for left in [&new, &beside(".new-journal")] {
        match fs::remove_file(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(directory_error(error)),
            _ => {}
        }
    }
    // SQLite would create it with the umask; the evidence is nobody else's business. It gives its companion files
    // (-wal, -shm) the mode of the database.
    let file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new).map_err(directory_error)?;
    migrate::migrate(&mut connect(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?)?;
    file.sync_all().and_then(|()| fs::rename(&new, path)).map_err(directory_error)?;
    // The new file's directory entry must survive a power cut like its content.
    File::open(state_dir).and_then(|directory| directory.sync_all()).map_err(directory_error)
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn lock(state_dir: &Path) -> Result<Flock<File>> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(state_dir.join(LOCK))
        .map_err(|source| StoreError::Directory { path: state_dir.to_owned(), source })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StoreError::SecondAgent { path: state_dir.to_owned() },
        errno => StoreError::Directory { path: state_dir.to_owned(), source: errno.into() },
    })
}
