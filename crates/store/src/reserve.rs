//! Space set aside so that things can still be removed when the disk is full.
//! Must not be used to make anything new.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{FallocateFlags, Mode, OFlags};

use crate::error::{Error, Result};

/// How much is set aside, in bytes.
pub(crate) const RESERVE_SIZE: u64 = 16 * 1024 * 1024;
/// With less free than this, in bytes, the reserve is given up.
const LOW: u64 = 2 * 1024 * 1024;

/// A preallocated file beside the database.
pub(crate) struct Reserve {
    file: OwnedFd,
    size: u64,
    filled: Mutex<bool>,
}

impl Reserve {
    /// Opens the file in `root` and fills it to `size` bytes if there is room for several times that.
    pub(crate) fn open(root: &Path, size: u64) -> Result<Reserve> {
        let path = root.join("reserve");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| Error::io(format!("open {}", path.display()), errno))?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| Error::io(path.display(), errno))?;
        // st_blocks counts 512 bytes each, on every file system.
        let allocated = u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
        let reserve = Reserve { file, size, filled: Mutex::new(size > 0 && allocated >= size) };
        reserve.refill();
        Ok(reserve)
    }

    /// Gives the reserve up if the disk is all but full. Costs one statvfs.
    pub(crate) fn make_room(&self) {
        if self.free().is_none_or(|free| free >= LOW) {
            return;
        }
        let mut filled = self.filled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *filled && rustix::fs::ftruncate(&self.file, 0).is_ok() {
            tracing::warn!("the disk is full: the store's reserve was given up so that things can be removed");
            *filled = false;
        }
    }

    /// Sets the space aside again once there is plenty.
    pub(crate) fn refill(&self) {
        let mut filled = self.filled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *filled || self.size == 0 || self.free().is_none_or(|free| free < 4 * self.size) {
            return;
        }
        *filled = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, self.size).is_ok();
    }

    /// Free bytes of the file system, those kept for root included.
    fn free(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(self.file.as_fd()).ok()?;
        Some(stat.f_bfree.saturating_mul(stat.f_frsize))
    }
}
