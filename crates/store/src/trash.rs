//! What is to be deleted: renamed out of sight at once, removed by a background thread.
//! Must not follow anything inside; that is the tree removal's promise.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use brig_sys::beneath::Root;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::durable;
use crate::error::{Error, Result};
use crate::reserve::Reserve;

/// The nice value of the thread that removes while nobody waits for it, and while somebody does.
const LOWEST: i32 = 19;
const ORDINARY: i32 = 0;

/// The trash directory and the thread that empties it.
pub(crate) struct Trash {
    dir: Arc<OwnedFd>,
    todo: Sender<OsString>,
    pending: Arc<(Mutex<usize>, Condvar)>,
    /// Bytes of the disk that removals gave back since the store was opened.
    freed: Arc<AtomicU64>,
    /// The thread that removes, once it runs.
    thread: Arc<OnceLock<Pid>>,
}

impl Trash {
    /// Takes over the directory; what a former process left in it is queued.
    pub(crate) fn open(path: &Path, reserve: Arc<Reserve>) -> Result<Trash> {
        let dir = Arc::new(durable::directory(path)?);
        let (todo, queue) = channel();
        let pending = Arc::new((Mutex::new(0), Condvar::new()));
        let freed = Arc::new(AtomicU64::new(0));
        let thread = Arc::new(OnceLock::new());
        let trash =
            Trash { dir: dir.clone(), todo, pending: pending.clone(), freed: freed.clone(), thread: thread.clone() };
        for name in names(dir.as_fd(), path)? {
            trash.queue(name);
        }
        std::thread::Builder::new()
            .name("store-trash".into())
            .spawn(move || {
                let this = *thread.get_or_init(rustix::thread::gettid);
                set_nice(this, LOWEST);
                empty(&dir, &queue, &pending, &freed, &reserve);
            })
            .map_err(|error| Error::io("start the thread that empties the trash", error))?;
        Ok(trash)
    }

    /// Moves `name` of `from` out of sight. What is not there is fine: `Ok(false)`.
    pub(crate) fn take(&self, from: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
        let unique = durable::unique_name()?;
        match rustix::fs::renameat_with(from, name, self.dir.as_fd(), &*unique, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.queue(unique.into());
                Ok(true)
            }
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(Error::io(format!("move {} to the trash", name.display()), errno)),
        }
    }

    /// As [`Trash::take`], for a path of this program's own on the same file system.
    pub(crate) fn take_path(&self, path: &Path) -> Result<bool> {
        self.take(CWD, path.as_os_str())
    }

    /// Removes one file at once, and counts what that gives back.
    pub(crate) fn remove_file(&self, from: BorrowedFd<'_>, name: &str) -> Result<()> {
        let freed = Root::remove_tree(from, name.as_ref())?;
        self.freed.fetch_add(freed, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of the disk that removals gave back since the store was opened.
    pub(crate) fn freed_bytes(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    /// Waits until all that was queued has been removed, or has failed to be.
    pub(crate) fn wait_empty(&self) {
        let (count, changed) = &*self.pending;
        let nice = |value| self.thread.get().iter().for_each(|thread| set_nice(**thread, value));
        // On a busy machine the lowest priority may mean never.
        nice(ORDINARY);
        let guard = count.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(guard, |count| *count > 0).unwrap_or_else(PoisonError::into_inner));
        nice(LOWEST);
    }

    fn queue(&self, name: OsString) {
        let (count, _) = &*self.pending;
        *count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        // Without its thread the trash is emptied at the next open.
        if self.todo.send(name).is_err() {
            *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        }
    }
}

/// Whoever reads and writes meanwhile goes first.
fn set_nice(thread: Pid, value: i32) {
    if let Err(errno) = rustix::process::setpriority_process(Some(thread), value) {
        tracing::debug!("the thread that empties the trash keeps its priority: {errno}");
    }
}

fn empty(
    dir: &OwnedFd,
    queue: &Receiver<OsString>,
    pending: &(Mutex<usize>, Condvar),
    freed: &AtomicU64,
    reserve: &Reserve,
) {
    while let Ok(name) = queue.recv() {
        match Root::remove_tree(dir.as_fd(), &name) {
            Ok(bytes) => drop(freed.fetch_add(bytes, Ordering::Relaxed)),
            Err(error) => {
                tracing::warn!("the trash could not be emptied, it is tried again at the next start: {error}");
            }
        }
        reserve.refill();
        let (count, changed) = pending;
        *count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        changed.notify_all();
    }
}

/// The entries of a directory, without `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>> {
    let failed = |errno: Errno| Error::io(format!("list {}", path.display()), errno);
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
