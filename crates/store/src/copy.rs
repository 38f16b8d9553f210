//! The copy of the database that a rescue starts from.
//!
//! Owns when it is made: once everything that keeps records is up, and from then on a moment after what was written last, so
//! that a name given today is still known if the database is lost tonight. Must not replace a copy by one of a database that
//! cannot be read to its end, nor take the last room of a disk.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use brig_sys::process::set_io_priority;

use crate::database::Database;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};

/// The copy's name in the store.
pub(crate) const COPY: &str = "brig.db.copy";
/// So long nothing must have been written before a copy is made, unless it is overdue.
const QUIET: Duration = Duration::from_secs(1);
/// Under steady work a copy is made this long after the first change that it lacks.
const OVERDUE: Duration = Duration::from_secs(20);
/// Copying takes at most one in this many parts of the time.
const SHARE: u32 = 50;
/// With less free than this, in bytes, beside what a copy takes, none is made.
const ROOM: u64 = 32 << 20;
/// The I/O class "idle" (ioprio_set(2)).
const IDLE_IO: u8 = 3;

/// Counts what is written, for whoever makes copies.
#[derive(Default)]
pub(crate) struct Writes {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Transactions that have been committed, and how many of them the copy has.
    written: u64,
    copied: u64,
    /// When the last one was, and the first that the copy lacks.
    last: Option<Instant>,
    first: Option<Instant>,
    closing: bool,
}

impl Writes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction was committed.
    pub(crate) fn note(&self) {
        let mut state = self.state();
        let now = Instant::now();
        state.written += 1;
        state.last = Some(now);
        if state.first.is_none() {
            state.first = Some(now);
            drop(state);
            self.changed.notify_all();
        }
    }

    /// What was written so far will not be copied by itself.
    fn give_up(&self) {
        let mut state = self.state();
        state.copied = state.written;
        state.first = None;
    }

    fn taken(&self, upto: u64) {
        let mut state = self.state();
        state.copied = state.copied.max(upto);
        state.first = (state.written > state.copied).then(Instant::now);
    }
}

/// The thread that makes copies.
pub(crate) struct Copier {
    writes: Arc<Writes>,
    thread: Option<JoinHandle<()>>,
}

impl Copier {
    /// From now on the copy follows the database.
    pub(crate) fn start(root: &Path, database: &Arc<Database>) -> Result<Copier> {
        let writes = database.writes().clone();
        let (root, database) = (root.to_owned(), database.clone());
        let thread = std::thread::Builder::new()
            .name("store-copy".into())
            .spawn(move || {
                if let Err(error) = set_io_priority(IDLE_IO, 0) {
                    tracing::debug!("the database is copied with ordinary priority: {error}");
                }
                follow(&root, &database);
            })
            .map_err(|error| Error::io("start the thread that copies the database", error))?;
        Ok(Copier { writes, thread: Some(thread) })
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.writes.state().closing = true;
        self.writes.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic in there costs a copy.
            thread.join().ok();
        }
    }
}

fn follow(root: &Path, database: &Database) {
    let mut rest = Duration::ZERO;
    while wait(database.writes(), rest) {
        let begun = Instant::now();
        if let Err(error) = make(root, database) {
            // What is written next tries again.
            tracing::warn!("the copy of the database stays as it was: {error}");
            database.writes().give_up();
        }
        rest = begun.elapsed().saturating_mul(SHARE);
    }
}

/// Waits until there is something to copy and nobody is writing just now; `false` when it is time to end and all is copied.
fn wait(writes: &Writes, rest: Duration) -> bool {
    let earliest = Instant::now().checked_add(rest);
    let mut state = writes.state();
    loop {
        let is_behind = state.written > state.copied;
        if state.closing {
            return is_behind;
        }
        let now = Instant::now();
        let (Some(first), Some(last), true) = (state.first, state.last, is_behind) else {
            state = writes.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let due = (last + QUIET).min(first + OVERDUE).max(earliest.unwrap_or(now));
        if now >= due {
            return true;
        }
        state = writes.changed.wait_timeout(state, due - now).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Makes the copy, durably, of all that is committed.
pub(crate) fn make(root: &Path, database: &Database) -> Result<()> {
    let copy = root.join(COPY);
    let temporary = root.join(format!("{COPY}.new"));
    let upto = database.writes().state().written;
    remove(&temporary)?;
    let made = room(root).and_then(|()| database.copy_to(&temporary)).and_then(|()| {
        let file = std::fs::File::open(&temporary).and_then(|file| file.sync_all());
        file.and_then(|()| std::fs::rename(&temporary, &copy))
            .map_err(|error| Error::io(format!("publish {}", copy.display()), error))
    });
    if let Err(error) = made {
        // The first error counts.
        remove(&temporary).ok();
        return Err(error);
    }
    let dir = durable::open_directory(root)?;
    durable::sync(dir.as_fd(), root)?;
    database.writes().taken(upto);
    Ok(())
}

/// Fails if the disk has no room to spare for a copy.
fn room(root: &Path) -> Result<()> {
    let path = |name: &str| -> PathBuf { root.join(name) };
    let length = |name: &str| path(name).metadata().map_or(0, |metadata| metadata.len());
    let stat = rustix::fs::statvfs(root).map_err(|errno| Error::io(format!("statvfs {}", root.display()), errno))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let needed = ROOM + length("brig.db") + length("brig.db-wal");
    if free < needed {
        let text = format!("{free} bytes are free in {}, {needed} would be needed", root.display());
        return Err(Error::new(ErrorKind::NoSpace, text));
    }
    Ok(())
}

/// What is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
