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

/// [`take`] of those of `count` descriptors from `first` on that are open. They stay at their numbers.
///
/// # Errors
/// The list of open descriptors cannot be read.
pub fn take_open(first: RawFd, count: u32) -> Result<Vec<OwnedFd>> {
    let mut taken = Vec::new();
    let mut missing = None;
    for number in (first..).take(count as usize) {
        match take(number) {
            Ok(fd) => taken.push(fd),
            Err(_) => {
                missing = Some(number);
                break;
            }
        }
    }
    let Some(missing) = missing else { return Ok(taken) };
    // Above the first that is not open, the kernel's list says which are, so that a huge count costs nothing.
    let failed = |error: std::io::Error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        Error::new("readdir(\"/proc/self/fd\")", errno)
    };
    let mut open = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(failed)? {
        let number = entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok());
        open.extend(number.filter(|number| *number > missing && number.abs_diff(first) < count));
    }
    open.sort_unstable();
    // The list's own descriptor is closed again by now.
    taken.extend(open.into_iter().filter_map(|number| take(number).ok()));
    Ok(taken)
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
