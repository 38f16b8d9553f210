//! New processes: clone3 without shared memory, from a process that has one thread.
//! Owns the call and the child's last step (`_exit`). Must not know what the child does in between.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use crate::error::{Error, Result};

/// `CLONE_…` bits that callers may give to [`spawn`].
pub mod flags {
    /// New time namespace.
    pub const NEWTIME: u64 = 0x80;
    /// New mount namespace.
    pub const NEWNS: u64 = 0x0002_0000;
    /// New cgroup namespace.
    pub const NEWCGROUP: u64 = 0x0200_0000;
    /// New UTS namespace.
    pub const NEWUTS: u64 = 0x0400_0000;
    /// New IPC namespace.
    pub const NEWIPC: u64 = 0x0800_0000;
    /// New user namespace.
    pub const NEWUSER: u64 = 0x1000_0000;
    /// New pid namespace.
    pub const NEWPID: u64 = 0x2000_0000;
    /// New network namespace.
    pub const NEWNET: u64 = 0x4000_0000;
    /// The child becomes the caller's sibling.
    pub const PARENT: u64 = 0x8000;
}

const CLONE_PIDFD: u64 = 0x1000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// This process came from [`spawn`] and so has one thread (none of them makes more), whatever the `/proc` that it sees now.
static FRESH: AtomicBool = AtomicBool::new(false);

/// `struct clone_args` of clone3(2), version 2 (Linux 5.7).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// A process that [`spawn`] made; nothing is done to it on drop.
#[derive(Debug)]
pub struct Spawned {
    /// As the caller's pid namespace sees it.
    pub pid: i32,
    /// Names the process for as long as the descriptor lives.
    pub pidfd: OwnedFd,
}

/// Makes a process with the caller's memory (copied on write) that runs `child` and exits with what it returns; a
/// panic in it exits with 70. The child starts in `cgroup` (a cgroup v2 directory) if one is given.
///
/// # Errors
/// The kernel's; EBUSY if the calling process has more than one thread, as the child would then own locks that nobody
/// will ever release.
pub fn spawn(flags: u64, cgroup: Option<BorrowedFd<'_>>, child: impl FnOnce() -> i32) -> Result<Spawned> {
    require_single_thread()?;
    let mut pidfd: i32 = -1;
    let mut args = CloneArgs { flags: flags | CLONE_PIDFD, pidfd: (&raw mut pidfd) as u64, ..CloneArgs::default() };
    if flags & self::flags::PARENT == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given; memory is not shared, no stack is switched, and the process
    // has one thread, so the child may run ordinary code on its copy.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match pid {
        0 => {
            FRESH.store(true, Ordering::Relaxed);
            exit_now(catch_unwind(AssertUnwindSafe(child)).unwrap_or(70))
        }
        -1 => Err(Error::new(format!("clone3({})", names(args.flags)), last_errno())),
        // SAFETY: the kernel stored a new descriptor that nobody else owns.
        pid => Ok(Spawned { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Ends the process at once: no destructors, no exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; nothing is left to be unsound.
    unsafe { libc::_exit(code) }
}

/// The errno of the last libc call of this thread.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// EBUSY unless this process has exactly one thread.
pub(crate) fn require_single_thread() -> Result<()> {
    if FRESH.load(Ordering::Relaxed) {
        return Ok(());
    }
    let stat = rustix::fs::stat("/proc/self/task").map_err(|errno| Error::new("stat(\"/proc/self/task\")", errno))?;
    // The directory has one link per thread besides its own two.
    if stat.st_nlink == 3 {
        return Ok(());
    }
    Err(Error::new(format!("clone in a process of {} threads", stat.st_nlink.saturating_sub(2)), Errno::BUSY))
}

/// The namespace bits of `bits` in words, e.g. `CLONE_NEWUSER|CLONE_NEWPID`.
pub(crate) fn names(bits: u64) -> String {
    let known = [
        (flags::NEWUSER, "CLONE_NEWUSER"),
        (flags::NEWNS, "CLONE_NEWNS"),
        (flags::NEWPID, "CLONE_NEWPID"),
        (flags::NEWNET, "CLONE_NEWNET"),
        (flags::NEWIPC, "CLONE_NEWIPC"),
        (flags::NEWUTS, "CLONE_NEWUTS"),
        (flags::NEWCGROUP, "CLONE_NEWCGROUP"),
        (flags::NEWTIME, "CLONE_NEWTIME"),
        (flags::PARENT, "CLONE_PARENT"),
        (CLONE_PIDFD, "CLONE_PIDFD"),
        (CLONE_INTO_CGROUP, "CLONE_INTO_CGROUP"),
    ];
    let set: Vec<&str> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    if set.is_empty() { "0".to_owned() } else { set.join("|") }
}

/// Makes sure that a descriptor is neither stdin, stdout nor stderr, by moving it up if it is.
///
/// # Errors
/// The kernel's (EMFILE).
pub fn above_stdio(fd: OwnedFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() > 2 {
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), 3)
        .map_err(|errno| Error::new(format!("fcntl({}, F_DUPFD_CLOEXEC, 3)", fd.as_raw_fd()), errno))
}

/// The plainest fork, for a process whose filter does not let clone3 through; `child`'s result is the child's exit code.
///
/// # Errors
/// The kernel's.
pub fn fork(child: impl FnOnce() -> i32) -> Result<i32> {
    // SAFETY: no memory is shared and no stack switched; callers are children of `spawn`, which have one thread.
    match unsafe { libc::fork() } {
        0 => exit_now(catch_unwind(AssertUnwindSafe(child)).unwrap_or(70)),
        -1 => Err(Error::new("fork()", last_errno())),
        pid => Ok(pid),
    }
}
