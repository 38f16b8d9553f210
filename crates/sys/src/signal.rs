//! Signals as a small init process needs them: blocked, then taken one after the other.
//! Owns masks and waiting. Must not install handlers, but for one that ends the process.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use crate::clone::last_errno;
use crate::error::{Error, Result};
use crate::pidfd::Exit;

fn full_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset initialises the set and cannot fail on a valid pointer.
    unsafe {
        libc::sigfillset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Blocks every signal that can be blocked.
pub fn block_all() -> Result<()> {
    let set = full_set();
    // SAFETY: the set is initialised; the old one is not wanted.
    let done = unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
    if done == 0 { Ok(()) } else { Err(Error::new("sigprocmask(SIG_SETMASK, all)", last_errno())) }
}

/// Back to what a program expects: nothing blocked, every signal at its default action.
pub fn reset() -> Result<()> {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL installs no code. KILL, STOP and libc's own two refuse, which is as wanted.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set.
    let done = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(Error::new("sigprocmask(SIG_SETMASK, none)", last_errno())) }
}

/// Makes the process end at these signals even if it is the first of its pid namespace, for which the kernel drops signals
/// that have no handler. execve undoes it.
pub fn end_at(signals: &[i32]) -> Result<()> {
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: ends the process without running anything else.
        unsafe { libc::_exit(128 + signal) }
    }
    for &signal in signals {
        let handler: extern "C" fn(libc::c_int) = end;
        // SAFETY: the handler only calls what may be called in one.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(Error::new(format!("signal({signal})"), last_errno()));
        }
    }
    Ok(())
}

/// Waits for the next blocked signal and takes it.
pub fn wait() -> Result<i32> {
    let set = full_set();
    loop {
        // SAFETY: the set is initialised; no siginfo is wanted.
        let signal = unsafe { libc::sigwaitinfo(&raw const set, std::ptr::null_mut()) };
        if signal > 0 {
            return Ok(signal);
        }
        let errno = last_errno();
        if errno != rustix::io::Errno::INTR {
            return Err(Error::new("sigwaitinfo(all)", errno));
        }
    }
}

/// A descriptor, not blocking, that is readable while a blocked signal waits to be [taken](take).
pub fn descriptor() -> Result<OwnedFd> {
    let set = full_set();
    // SAFETY: the set is initialised.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if fd < 0 {
        return Err(Error::new("signalfd(all)", last_errno()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes the next signal that waits at a [`descriptor`], if any.
pub fn take(descriptor: BorrowedFd<'_>) -> Result<Option<i32>> {
    // The size of signalfd_siginfo, which starts with the number.
    let mut info = [0u8; 128];
    match rustix::io::read(descriptor, &mut info) {
        Ok(128) => {
            let [a, b, c, d, ..] = info;
            Ok(i32::try_from(u32::from_ne_bytes([a, b, c, d])).ok())
        }
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(errno) => Err(Error::new("read(signalfd)", errno)),
    }
}

/// Reaps one child that has ended, if any: its pid and how it ended.
///
/// # Errors
/// ECHILD when there is no child at all.
pub fn reap_any() -> Result<Option<(i32, Exit)>> {
    let mut status = 0;
    // SAFETY: the pointer is to an int.
    match unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) } {
        -1 => Err(Error::new("waitpid(-1, WNOHANG)", last_errno())),
        0 => Ok(None),
        pid if libc::WIFSIGNALED(status) => Ok(Some((pid, Exit::Signal(libc::WTERMSIG(status))))),
        pid => Ok(Some((pid, Exit::Code(libc::WEXITSTATUS(status))))),
    }
}

/// Reaps the child `pid` if it has ended.
///
/// # Errors
/// ECHILD when it is no child of the caller.
pub fn reap_if_ended(pid: i32) -> Result<Option<Exit>> {
    let mut status = 0;
    // SAFETY: the pointer is to an int.
    match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
        -1 => Err(Error::new(format!("waitpid({pid}, WNOHANG)"), last_errno())),
        0 => Ok(None),
        _ if libc::WIFSIGNALED(status) => Ok(Some(Exit::Signal(libc::WTERMSIG(status)))),
        _ => Ok(Some(Exit::Code(libc::WEXITSTATUS(status)))),
    }
}

/// `kill(2)` with a child that has not been reaped, or (negative) its group.
pub fn send(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(Error::new(format!("kill({pid}, {signal})"), last_errno()))
    }
}

/// A new process group, which this process leads.
pub fn new_group() -> Result<()> {
    // SAFETY: integers only.
    if unsafe { libc::setpgid(0, 0) } == 0 { Ok(()) } else { Err(Error::new("setpgid(0, 0)", last_errno())) }
}
