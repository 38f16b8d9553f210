//! A damaged or lost database: the store opens all the same.
//!
//! Owns how that goes. The damaged file goes to the quarantine and is never written again. Into a new one come, table by
//! table as their owners make them, the rows that can still be read, from both ends of each table; from the copy that
//! follows it (`copy`), what could not. What is on the disk fills the rest in (`sweep`). Until the whole daemon is
//! up again a file `rescue` names the damaged one, so that a crash in between loses nothing.
//! Must not bring back what is not there: rows of things whose files are gone are for their owners to leave out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, Transaction};

use crate::copy::{self, COPY};
use crate::database::Database;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::quarantine::Quarantine;
use crate::reserve::Reserve;

/// The database's name in the store.
pub(crate) const DATABASE: &str = "brig.db";
/// Says that a rescue has not come to its end, and from which file.
const PENDING: &str = "rescue";

/// The rows of one table, as they were read.
struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// What was saved from a damaged database.
pub(crate) struct Rescued {
    tables: BTreeMap<String, Rows>,
    /// Tables that have got theirs: what goes from them after that stays away.
    restored: Mutex<BTreeSet<String>>,
    /// For people: what happened and where the old file is.
    pub(crate) words: String,
}

/// Opens the database of the store in `root`, whatever state it is in.
pub(crate) fn open(root: &Path, quarantine: &Quarantine, reserve: &Arc<Reserve>) -> Result<Database> {
    let path = root.join(DATABASE);
    let pending = std::fs::read_to_string(root.join(PENDING)).ok().map(PathBuf::from);
    let lost = !path.exists() && has_content(root);
    let opened = if lost { Ok(None) } else { sound(&path, reserve) };
    let (old, why) = match opened {
        Ok(Some(mut database)) => {
            if let Some(old) = pending.filter(|old| old.exists()) {
                database.set_rescued(salvage(root, &old, "an earlier rescue of it did not come to its end"));
            }
            return Ok(database);
        }
        Ok(None) => (None, "it is gone".to_owned()),
        Err(error) if error.kind == ErrorKind::Corrupt => {
            let mut old = None;
            for suffix in ["", "-wal", "-shm"] {
                let file = root.join(format!("{DATABASE}{suffix}"));
                let taken = quarantine.take_path(&file, "database")?;
                old = old.or(taken);
            }
            (old, error.message)
        }
        Err(error) => return Err(error),
    };
    let old = old.unwrap_or_else(|| path.clone());
    write_pending(root, &old)?;
    let rescued = salvage(root, &old, &why);
    tracing::error!("{}", rescued.words);
    let mut database = Database::open(&path, reserve.clone())?;
    database.set_rescued(rescued);
    Ok(database)
}

/// Makes the copy that the next rescue would start from, and ends this one, if there was one: everything is in the database.
pub(crate) fn settle(root: &Path, database: &Database) -> Result<()> {
    let copied = copy::make(root, database);
    if root.join(PENDING).exists() {
        copy::remove(&root.join(PENDING))?;
        let dir = durable::open_directory(root)?;
        durable::sync(std::os::fd::AsFd::as_fd(&dir), root)?;
    }
    copied
}

/// The database, opened and looked through: `Corrupt` if it cannot be used.
fn sound(path: &Path, reserve: &Arc<Reserve>) -> Result<Option<Database>> {
    let not_a_file = || Error::corrupt(format!("{} is not a file", path.display()));
    if path.exists() && !path.is_file() {
        return Err(not_a_file());
    }
    let database = Database::open(path, reserve.clone())?;
    let verdict: String = database.read(|db| db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)))?;
    match verdict.as_str() {
        "ok" => Ok(Some(database)),
        other => Err(Error::corrupt(format!("{}: {other}", path.display()))),
    }
}

/// Whether there is anything that a database should know of.
fn has_content(root: &Path) -> bool {
    let has = |name: &str| std::fs::read_dir(root.join(name)).is_ok_and(|mut entries| entries.next().is_some());
    ["layers", "active", "containers", "volumes", "blobs/sha256", "blobs/sha512"].into_iter().any(has)
}

fn write_pending(root: &Path, old: &Path) -> Result<()> {
    let dir = durable::open_directory(root)?;
    let dir = std::os::fd::AsFd::as_fd(&dir);
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(old.as_os_str());
    let temporary = format!("{PENDING}.new");
    // Of a rescue that was cut off just here.
    std::fs::remove_file(root.join(&temporary)).ok();
    durable::publish(dir, &temporary, dir, PENDING, &root.join(PENDING), bytes)
}

/// Reads what can be read from the damaged file, and the rest from the copy.
fn salvage(root: &Path, old: &Path, why: &str) -> Rescued {
    let (mut tables, mut torn) = read_tables(root, old);
    let saved: usize = tables.values().map(|table| table.rows.len()).sum();
    let (copied, _) = read_tables(root, &root.join(COPY));
    let mut filled = 0;
    for (name, table) in copied {
        match tables.get_mut(&name) {
            // Where the table was read to its end nothing is missing, and what the copy has more was removed since.
            Some(_) if !torn.contains(&name) => {}
            Some(known) if known.columns == table.columns => {
                filled += table.rows.len();
                known.rows.extend(table.rows);
            }
            Some(_) => {}
            None => {
                torn.insert(name.clone());
                filled += table.rows.len();
                tables.insert(name, table);
            }
        }
    }
    let kept = if old.exists() { format!(" and is kept as {}", old.display()) } else { String::new() };
    let words = format!(
        "{} could not be used ({why}){kept}. A new one was made from {saved} rows of it, {filled} of its copy, and what is on the disk. Run 'brig system check' to see what is missing",
        root.join(DATABASE).display()
    );
    Rescued { tables, restored: Mutex::default(), words }
}

/// All tables of a database that may be damaged, and which of them were not read whole. Works on a copy: reading a database
/// may change its file.
fn read_tables(root: &Path, file: &Path) -> (BTreeMap<String, Rows>, BTreeSet<String>) {
    let scratch = root.join("rescue.db");
    let beside = |path: &Path, suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
    let mut best = (BTreeMap::new(), BTreeSet::new());
    // With its log, and if that leads to nothing without it.
    for suffixes in [&["", "-wal"][..], &[""]] {
        for suffix in ["", "-wal", "-shm"] {
            std::fs::remove_file(beside(&scratch, suffix)).ok();
        }
        let copied = suffixes
            .iter()
            .filter(|suffix| beside(file, suffix).is_file())
            .try_for_each(|suffix| std::fs::copy(beside(file, suffix), beside(&scratch, suffix)).map(|_| ()));
        let opened = match copied {
            Ok(()) => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(&scratch, flags)
            }
            Err(error) => {
                // The disk may be full as well.
                tracing::warn!("copy {}: {error}: it is read where it is, without its log", file.display());
                open_in_place(file)
            }
        };
        if let Ok(connection) = opened {
            best = read_all(&connection);
        }
        if !best.0.is_empty() {
            break;
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(beside(&scratch, suffix)).ok();
    }
    best
}

/// Opens a database so that neither it nor anything beside it is changed or even looked for: without its log, which may hold the
/// last transactions (sqlite.org/uri.html, "immutable").
fn open_in_place(file: &Path) -> rusqlite::Result<Connection> {
    let mut uri = String::from("file:");
    for byte in std::os::unix::ffi::OsStrExt::as_bytes(file.as_os_str()) {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(uri, flags)
}

fn read_all(db: &Connection) -> (BTreeMap<String, Rows>, BTreeSet<String>) {
    let mut names: Vec<String> = Vec::new();
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let listed = db.prepare(sql).and_then(|mut query| {
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            names.push(row.get(0)?);
        }
        Ok(())
    });
    if let Err(error) = listed {
        tracing::warn!("the list of the damaged database's tables: {error}");
    }
    let (mut tables, mut torn) = (BTreeMap::new(), BTreeSet::new());
    for name in names.into_iter().filter(|name| name != "migrations") {
        let quoted = name.replace('"', "\"\"");
        let mut table = Rows { columns: Vec::new(), rows: Vec::new() };
        let whole = read_rows(db, &format!("SELECT * FROM \"{quoted}\""), &mut table);
        if let Err(error) = whole {
            tracing::warn!("table {name} of the damaged database: {error}");
            torn.insert(name.clone());
            // What is behind the damage is reached from the other end; a table has row ids, or its key comes first.
            for order in ["rowid", "1"] {
                if read_rows(db, &format!("SELECT * FROM \"{quoted}\" ORDER BY {order} DESC"), &mut table).is_ok() {
                    break;
                }
            }
        }
        tables.insert(name, table);
    }
    (tables, torn)
}

fn read_rows(db: &Connection, sql: &str, table: &mut Rows) -> rusqlite::Result<()> {
    let mut query = db.prepare(sql)?;
    table.columns = query.column_names().map(str::to_owned).collect();
    let width = table.columns.len();
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let values: rusqlite::Result<Vec<Value>> = (0..width).map(|column| row.get(column)).collect();
        // A row whose text is none is damaged; those after it may be whole.
        table.rows.extend(values.ok());
    }
    Ok(())
}

impl Rescued {
    /// Puts the saved rows into those of the new database's tables that their owners have just made.
    pub(crate) fn restore(&self, db: &Transaction<'_>) -> rusqlite::Result<()> {
        let mut restored = self.restored.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, table) in &self.tables {
            if restored.contains(name) {
                continue;
            }
            let quote = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
            if db.prepare(&format!("SELECT 1 FROM {}", quote(name))).is_err() {
                // Its owner has not made it yet.
                continue;
            }
            let columns: Vec<String> = table.columns.iter().map(|column| quote(column)).collect();
            let marks = vec!["?"; columns.len()].join(", ");
            let sql = format!("INSERT OR IGNORE INTO {} ({}) VALUES ({marks})", quote(name), columns.join(", "));
            restored.insert(name.clone());
            let Ok(mut insert) = db.prepare(&sql) else { continue };
            for row in &table.rows {
                if let Err(error) = insert.execute(rusqlite::params_from_iter(row)) {
                    tracing::warn!("a row of {name} could not be kept: {error}");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    /// With a disk that is full as well there is no room for the copy that a damaged database is read from.
    #[test]
    fn what_cannot_be_copied_is_read_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("odd?name#of%20it.db");
        let db = Connection::open(&file).unwrap();
        db.execute_batch("CREATE TABLE names (name TEXT); INSERT INTO names VALUES ('a'), ('b')").unwrap();
        drop(db);
        let before = std::fs::read(&file).unwrap();
        let (tables, torn) = read_tables(&dir.path().join("no/such/place"), &file);
        assert_eq!((tables["names"].rows.len(), torn.len()), (2, 0));
        assert_eq!(std::fs::read(&file).unwrap(), before, "it is left as it was");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
