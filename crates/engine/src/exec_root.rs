//! The lock of an exec root: one daemon at a time has its runs there. Owns the lock and the words when it is taken; must not
//! look at what lies in the directory.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// An exec root that is this daemon's alone.
pub(crate) struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a child that is just being started has the directory too, until it runs its program.
        if let Err(errno) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!("the exec root's lock is left until this process ends: {errno}");
        }
    }
}

/// Makes sure that no other daemon, with another data root, has its runs here: they would be removed as nobody's.
pub(crate) fn lock(path: &Path) -> Result<Lock> {
    let failed = |call: &str, errno| Error::system(format!("{call} {}: {errno}", path.display()));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed("open", errno))?;
    // A daemon that was just killed may hold it for another moment, and so may a child that it was starting.
    for _ in 0..100 {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock(directory)),
            // flock(2) knows no time limit and has nothing to poll.
            Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
            Err(errno) => return Err(failed("flock", errno)),
        }
    }
    Err(Error::system(format!(
        "{} is in use by another daemon: stop that first, or choose another directory with --exec-root",
        path.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_free_when_it_was_let_go_of() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        let error = lock(dir.path()).err().unwrap();
        assert!(error.message.contains("is in use by another daemon"), "{error}");
        // What a child has that is just being started.
        let copy = first.0.try_clone().unwrap();
        drop(first);
        lock(dir.path()).unwrap();
        drop(copy);
    }
}
