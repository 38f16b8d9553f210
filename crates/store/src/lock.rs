//! The lock of a store: one process at a time. Owns the file and the words when somebody else has it.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// The file's name in the store.
pub(crate) const NAME: &str = "lock";

/// How long to wait for the lock. A killed holder keeps it until its memory is gone, and a child that it was just starting
/// until that runs its program.
fn patience(holder: &str) -> Duration {
    let status = std::fs::read_to_string(format!("/proc/{holder}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    let is_killed = |name: &str| u64::from_str_radix(field(name), 16).is_ok_and(|pending| pending & 1 << 8 != 0);
    let is_ending =
        status.is_empty() || field("State:").starts_with(['Z', 'X']) || is_killed("ShdPnd:") || is_killed("SigPnd:");
    if is_ending { Duration::from_secs(10) } else { Duration::ZERO }
}

/// A locked store.
pub(crate) struct Lock(OwnedFd);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: a child that is just being started has the file too, until it runs its program.
        if let Err(errno) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!("the store's lock is left until this process ends: {errno}");
        }
    }
}

/// Locks the store and writes down by whom.
pub(crate) fn take(root: &Path) -> Result<Lock> {
    let path = root.join(NAME);
    let failed = |call: &str, errno: Errno| Error::io(format!("{call} {}", path.display()), errno);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(|errno| failed("open", errno))?;
    let begun = Instant::now();
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK) => {
                let mut holder = [0u8; 16];
                let length = rustix::io::pread(&lock, &mut holder, 0).unwrap_or_default();
                let holder = String::from_utf8_lossy(&holder[..length]);
                if begun.elapsed() < patience(holder.trim()) {
                    // flock(2) knows no time limit and has nothing to poll, and a child that has the file too is nobody's.
                    std::thread::sleep(Duration::from_millis(10));
                    continue;
                }
                let text = format!(
                    "{} is in use by process {}: stop that first, or choose another data root",
                    root.display(),
                    holder.trim()
                );
                return Err(Error::new(ErrorKind::Busy, text));
            }
            Err(errno) => return Err(failed("flock", errno)),
        }
    }
    // The number only helps people: on a full disk it is missing.
    let written = rustix::fs::ftruncate(&lock, 0)
        .and_then(|()| rustix::io::pwrite(&lock, format!("{}\n", std::process::id()).as_bytes(), 0));
    if let Err(errno) = written {
        tracing::warn!("write {}: {errno}", path.display());
    }
    Ok(Lock(lock))
}
