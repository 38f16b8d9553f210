//! What a freshly executed process was given, and what it gives back: descriptors by number, child notifications, memory.
//! Owns those calls. Must not decide which descriptors mean what.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

use crate::clone::last_errno;
use crate::error::{Error, Result};

/// Takes over descriptor `number`, which the parent left open, and marks it close-on-exec. Call once per number, before
/// anything else of this process could have opened it.
///
/// # Errors
/// EBADF if it is not open.
pub fn take(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: borrowed only for the call that finds out whether it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC)
        .map_err(|errno| Error::new(format!("fcntl({number}, F_SETFD, FD_CLOEXEC)"), errno))?;
    // SAFETY: it is open, and by this function's contract nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// [`take`] of `count` descriptors from `first` on.
///
/// # Errors
/// EBADF if one of them is not open.
pub fn take_all(first: RawFd, count: u32) -> Result<Vec<OwnedFd>> {
    // The lowest that is not open ends it, so that a huge count costs nothing.
    (first..).take(count as usize).map(take).collect()
}

/// A descriptor, not blocking, that is readable when a child has changed state. SIGCHLD must be blocked.
pub fn child_notifications() -> Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set, sigaddset gets an initialised one.
    let fd = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(Error::new("signalfd(SIGCHLD)", last_errno()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives free memory of the allocator back to the kernel.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: only returns pages that hold no live allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_what_is_not_open_is_an_error() {
        let error = take(987).unwrap_err();
        assert_eq!(error.errno, rustix::io::Errno::BADF);
        assert!(error.to_string().starts_with("fcntl(987, F_SETFD"), "{error}");
    }
}
