//! Processes by descriptor: signals, and waiting for children.
//! Owns the calls. Must not act on a process by a number that may have been reused.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions};

use crate::clone::last_errno;
use crate::error::{Error, Result};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code that a shell would give: 128 + signal for a killed process.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// Opens a process by number.
///
/// # Errors
/// ESRCH if there is none.
pub fn open(pid: i32) -> Result<OwnedFd> {
    let call = || format!("pidfd_open({pid})");
    let number = Pid::from_raw(pid).ok_or_else(|| Error::new(call(), Errno::SRCH))?;
    rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(|errno| Error::new(call(), errno))
}

/// Copies a descriptor of another process by its number there (`pidfd_getfd(2)`, Linux 5.6).
///
/// # Errors
/// EPERM unless the caller may trace the process; EBADF if it has none of that number.
pub fn take_fd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd> {
    // SAFETY: integers only.
    match unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0u32) } {
        -1 => Err(Error::new(format!("pidfd_getfd({}, {number})", pidfd.as_raw_fd()), last_errno())),
        // SAFETY: a new descriptor that nobody else owns; the kernel made it close-on-exec.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
    }
}

/// Sends a signal by number (1 to 64; 0 only asks whether it may be sent).
///
/// # Errors
/// ESRCH if the process has ended and was waited for; EINVAL for a number that is no signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: a null siginfo means what kill(2) sends.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0u32)
    };
    if done == 0 {
        Ok(())
    } else {
        Err(Error::new(format!("pidfd_send_signal({}, {signal})", pidfd.as_raw_fd()), last_errno()))
    }
}

/// Waits until a process has ended, at most `timeout` (for ever if none is given). Does not reap it. False on timeout.
pub fn wait_end(pidfd: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let timeout = timeout.map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });
    loop {
        match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new(format!("poll(pidfd {})", pidfd.as_raw_fd()), errno)),
        }
    }
}

/// Reaps a child that has ended; `None` while it lives.
///
/// # Errors
/// ECHILD if it is no child of the caller or was reaped before.
pub fn try_reap(pidfd: BorrowedFd<'_>) -> Result<Option<Exit>> {
    wait_id(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
}

/// Waits for a child and reaps it.
///
/// # Errors
/// ECHILD if it is no child of the caller or was reaped before.
pub fn reap(pidfd: BorrowedFd<'_>) -> Result<Exit> {
    match wait_id(pidfd, WaitIdOptions::EXITED)? {
        Some(exit) => Ok(exit),
        None => Err(Error::new(format!("waitid(P_PIDFD, {})", pidfd.as_raw_fd()), Errno::CHILD)),
    }
}

fn wait_id(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> Result<Option<Exit>> {
    loop {
        match rustix::process::waitid(WaitId::PidFd(pidfd), options) {
            Ok(status) => {
                return Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, signal) => Exit::Signal(signal.unwrap_or(libc::SIGKILL)),
                }));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new(format!("waitid(P_PIDFD, {})", pidfd.as_raw_fd()), errno)),
        }
    }
}
