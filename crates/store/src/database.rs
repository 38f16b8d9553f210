//! The one database: how it is opened, read, written and brought up to date.
//! Owns connections and durability. Must not know what tables mean; each owner brings its own through `migrate`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use crate::copy::Writes;
use crate::error::{Error, ErrorKind, Result};
use crate::rescue::Rescued;
use crate::reserve::{self, Reserve};

/// Blocks that the log has even when the disk is full, and that the database can grow by, in bytes.
const LOG_ROOM: u64 = 1 << 20;
const GROWTH: u64 = 1 << 18;
/// Idle connections for reading that are kept.
const MAX_IDLE_READERS: usize = 4;

/// SQLite in write-ahead mode: any number of readers beside one writer.
pub struct Database {
    path: PathBuf,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Connection>>,
    reserve: Arc<Reserve>,
    /// What was saved from a damaged one that this one takes the place of.
    rescued: Option<Rescued>,
    /// What is committed durably.
    writes: Arc<Writes>,
}

struct Writer {
    connection: Connection,
    relaxed: bool,
}

impl Database {
    pub(crate) fn open(path: &Path, reserve: Arc<Reserve>) -> Result<Database> {
        reserve.make_room();
        let named = |error: rusqlite::Error| Error::from(error).context(path.display());
        let connection = connect(path).map_err(named)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(named)?;
        connection
            .execute_batch("CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, version INTEGER NOT NULL)")
            .map_err(named)?;
        let length = path.metadata().map_or(0, |metadata| metadata.len());
        reserve::set_aside_for(path, length, GROWTH);
        reserve::set_aside_for(&path.with_extension("db-wal"), 0, LOG_ROOM);
        let writer = Mutex::new(Writer { connection, relaxed: false });
        Ok(Database {
            path: path.to_owned(),
            writer,
            readers: Mutex::default(),
            reserve,
            rescued: None,
            writes: Arc::default(),
        })
    }

    /// Gives it the rows of the one that it takes the place of; they go into each table when its owner makes it.
    pub(crate) fn set_rescued(&mut self, rescued: Rescued) {
        self.rescued = Some(rescued);
    }

    /// What happened to the one before, if this one takes its place: rows may be old, and some may be missing.
    pub fn rescued(&self) -> Option<&str> {
        self.rescued.as_ref().map(|rescued| rescued.words.as_str())
    }

    /// What is written durably, counted.
    pub(crate) fn writes(&self) -> &Arc<Writes> {
        &self.writes
    }

    /// Writes a copy, compact and consistent, to a path where nothing is.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<()> {
        let path = path.to_string_lossy();
        self.read(|db| db.execute("VACUUM INTO ?1", [path.as_ref()]).map(drop))
    }

    /// Runs queries against what is committed. Never waits for a writer.
    pub fn read<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.path)?,
        };
        let outcome = work(&connection);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < MAX_IDLE_READERS {
            readers.push(connection);
        }
        drop(readers);
        Ok(outcome?)
    }

    /// Runs one transaction; when this returns `Ok` it survives a power cut. An error or panic rolls it back.
    pub fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        self.transact(false, work)
    }

    /// As [`Database::write`], but a power cut may undo the last such transactions; a killed process does not.
    /// A later durable write makes the earlier relaxed ones durable too.
    pub fn write_relaxed<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        self.transact(true, work)
    }

    fn transact<T>(&self, relaxed: bool, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        let is_full = self.reserve.make_room();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if is_full {
            // The log begins anew where it has its blocks. While somebody reads it that cannot be done.
            let begun = writer.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            begun.unwrap_or_else(|error| tracing::debug!("the log of the database goes on: {error}"));
        }
        if writer.relaxed != relaxed {
            let level = if relaxed { "NORMAL" } else { "FULL" };
            writer.connection.pragma_update(None, "synchronous", level)?;
            writer.relaxed = relaxed;
        }
        let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        if !relaxed {
            self.writes.note();
        }
        Ok(value)
    }

    /// Brings the tables of `owner` up to date: runs those of `steps` that have not run yet, each once, in order.
    /// Steps are only ever appended. Fails without touching anything if a newer program was here before.
    pub fn migrate(&self, owner: &str, steps: &[&str]) -> Result<()> {
        let done: i64 = self.read(|db| {
            db.query_row("SELECT version FROM migrations WHERE name = ?1", [owner], |row| row.get(0))
                .optional()
                .map(Option::unwrap_or_default)
        })?;
        let done = usize::try_from(done).unwrap_or_default();
        if done > steps.len() {
            let text = format!(
                "{}: the tables of {owner} are of version {done}, this program knows {}: start the newer program again",
                self.path.display(),
                steps.len()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        if done == steps.len() && self.rescued.is_none() {
            return Ok(());
        }
        self.write(|transaction| {
            for step in &steps[done..] {
                transaction.execute_batch(step)?;
            }
            let version = i64::try_from(steps.len()).unwrap_or(i64::MAX);
            transaction
                .execute("INSERT OR REPLACE INTO migrations (name, version) VALUES (?1, ?2)", (owner, version))?;
            self.rescued.as_ref().map_or(Ok(()), |rescued| rescued.restore(transaction))
        })
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> Database {
        let reserve = Arc::new(Reserve::open(dir, 0).unwrap());
        Database::open(&dir.join("brig.db"), reserve).unwrap()
    }

    #[test]
    fn migrations_run_once_and_newer_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path());
        database.migrate("a", &["CREATE TABLE a (x)"]).unwrap();
        database.migrate("a", &["CREATE TABLE a (x)", "INSERT INTO a VALUES (1)"]).unwrap();
        database.migrate("a", &["CREATE TABLE a (x)", "INSERT INTO a VALUES (1)"]).unwrap();
        let count: i64 = database.read(|db| db.query_row("SELECT count(*) FROM a", [], |row| row.get(0))).unwrap();
        assert_eq!(count, 1);
        let error = database.migrate("a", &["CREATE TABLE a (x)"]).unwrap_err();
        assert!(error.message.contains("newer"), "{error}");
    }

    #[test]
    fn failed_work_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let database = open(dir.path());
        database.migrate("a", &["CREATE TABLE a (x UNIQUE)"]).unwrap();
        let twice = |db: &Transaction<'_>| {
            db.execute("INSERT INTO a VALUES (1)", [])?;
            db.execute("INSERT INTO a VALUES (1)", [])
        };
        assert!(database.write(twice).is_err());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _never = database.write_relaxed(|db| -> rusqlite::Result<()> {
                db.execute("INSERT INTO a VALUES (2)", [])?;
                panic!("in the middle")
            });
        }));
        assert!(panicked.is_err());
        let count: i64 = database.read(|db| db.query_row("SELECT count(*) FROM a", [], |row| row.get(0))).unwrap();
        assert_eq!(count, 0);
    }
}
