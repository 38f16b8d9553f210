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

    /// Gives the reserve up if the disk is all but full, and tells whether it is. Costs one statvfs.
    pub(crate) fn make_room(&self) -> bool {
        if !self.is_low() {
            return false;
        }
        let mut filled = self.filled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *filled && rustix::fs::ftruncate(&self.file, 0).is_ok() {
            tracing::warn!("the disk is full: the store's reserve was given up so that things can be removed");
            *filled = false;
        }
        true
    }

    /// Sets the space aside again once there is plenty.
    pub(crate) fn refill(&self) {
        let mut filled = self.filled.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *filled || self.size == 0 || self.free().is_none_or(|free| free < 4 * self.size) {
            return;
        }
        *filled = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, self.size).is_ok();
    }

    /// Whether all but nothing can be written any more. Beside what is kept for root, ext4 keeps blocks that nobody may use
    /// for files (`s_resv_clusters`, at most 4096), and counts them as free.
    fn is_low(&self) -> bool {
        const KEPT_BLOCKS: u64 = 4096;
        let Ok(stat) = rustix::fs::fstatvfs(self.file.as_fd()) else { return false };
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        bytes(stat.f_bavail) < LOW && bytes(stat.f_bfree) < LOW + bytes(KEPT_BLOCKS)
    }

    /// Free bytes of the file system, those kept for root included.
    fn free(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(self.file.as_fd()).ok()?;
        Some(stat.f_bfree.saturating_mul(stat.f_frsize))
    }
}

/// Sets blocks aside for what a file of the database will grow to, without changing its length: with the reserve gone and
/// the disk full again, transactions still find room. Where the file system cannot do that there is only the reserve.
pub(crate) fn set_aside_for(path: &Path, from: u64, length: u64) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let set = rustix::fs::open(path, flags, Mode::empty())
        .and_then(|file| rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, from, length));
    if let Err(errno) = set {
        tracing::debug!("no room is set aside for {}: {errno}", path.display());
    }
}
