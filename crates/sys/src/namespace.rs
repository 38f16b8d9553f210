//! Namespaces: opening, naming, joining and leaving them.
//! Owns setns and unshare. Must not decide which ones a container has.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::clone::{last_errno, names, require_single_thread};
use crate::error::{Error, Result};

/// `NS_GET_NSTYPE` of ioctl_nsfs(2).
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Opens a namespace file and makes sure that it is of the kind `flag` (one of [`crate::clone::flags`]).
///
/// # Errors
/// The kernel's; EINVAL if it is no namespace or one of another kind.
pub fn open(path: &Path, flag: u64) -> Result<OwnedFd> {
    let fd =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())
            .map_err(|errno| Error::new(format!("open({path:?})"), errno))?;
    // SAFETY: this ioctl takes no argument and returns an int.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 || kind as u64 != flag {
        let found = if kind < 0 { "no namespace".to_owned() } else { names(kind as u64) };
        return Err(Error::new(format!("{path:?} is {found}, wanted {}", names(flag)), rustix::io::Errno::INVAL));
    }
    Ok(fd)
}

/// `NS_GET_USERNS` of ioctl_nsfs(2).
const NS_GET_USERNS: libc::Ioctl = 0xb701;

fn inode(path: &str) -> Result<u64> {
    rustix::fs::stat(path).map(|stat| stat.st_ino).map_err(|errno| Error::new(format!("stat({path:?})"), errno))
}

/// Whether this process is in the user namespace that the machine came up with.
pub fn is_first_user_namespace() -> Result<bool> {
    // PROC_USER_INIT_INO of the kernel, which has not changed since these files exist.
    Ok(inode("/proc/self/ns/user")? == 0xEFFF_FFFD)
}

/// Whether this process's mount namespace was made in its user namespace.
pub fn owns_mounts() -> Result<bool> {
    let path = "/proc/self/ns/mnt";
    let mounts = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new(format!("open({path:?})"), errno))?;
    // SAFETY: this ioctl takes no argument and returns a new descriptor.
    let owner = unsafe { libc::ioctl(mounts.as_raw_fd(), NS_GET_USERNS) };
    if owner < 0 {
        // EPERM: the owner is outside of what this process can see.
        return match last_errno() {
            rustix::io::Errno::PERM => Ok(false),
            errno => Err(Error::new(format!("ioctl({path:?}, NS_GET_USERNS)"), errno)),
        };
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    let owner = unsafe { OwnedFd::from_raw_fd(owner) };
    let stat = rustix::fs::fstat(&owner).map_err(|errno| Error::new("fstat(user namespace)", errno))?;
    Ok(stat.st_ino == inode("/proc/self/ns/user")?)
}

/// Joins one namespace.
pub fn join(namespace: BorrowedFd<'_>, flag: u64) -> Result<()> {
    setns(namespace, flag, || format!("setns({}, {})", namespace.as_raw_fd(), names(flag)))
}

/// Joins several namespaces of a process at once (`setns(2)` on a pidfd, Linux 5.8). Moves the working directory and the
/// root to that mount namespace's if it is among them. Only for a process with one thread.
pub fn join_process(pidfd: BorrowedFd<'_>, flags: u64) -> Result<()> {
    require_single_thread()?;
    setns(pidfd, flags, || format!("setns(pidfd {}, {})", pidfd.as_raw_fd(), names(flags)))
}

fn setns(fd: BorrowedFd<'_>, flags: u64, call: impl Fn() -> String) -> Result<()> {
    let bits = i32::try_from(flags).map_err(|_| Error::new(call(), rustix::io::Errno::INVAL))?;
    // SAFETY: setns changes only what this process is associated with.
    if unsafe { libc::setns(fd.as_raw_fd(), bits) } == 0 { Ok(()) } else { Err(Error::new(call(), last_errno())) }
}

/// Leaves namespaces for new ones (`unshare(2)`), bits of [`crate::clone::flags`] only.
pub fn unshare(flags: u64) -> Result<()> {
    let call = || format!("unshare({})", names(flags));
    let bits = i32::try_from(flags).map_err(|_| Error::new(call(), rustix::io::Errno::INVAL))?;
    // SAFETY: only namespace bits are passed (CLONE_FILES and the like, which would matter to memory safety, are not among them).
    if unsafe { libc::unshare(bits) } == 0 { Ok(()) } else { Err(Error::new(call(), last_errno())) }
}

/// Writes an offset of the time namespace that the next children of a process (an unreaped child of the caller's) will be
/// in: `clock` is `monotonic` or `boottime`. Only possible before any process has entered it.
///
/// # Errors
/// EACCES if one has; ERANGE if the clock would be negative or too far ahead.
pub fn set_time_offset(pid: i32, clock: &str, seconds: i64, nanoseconds: u32) -> Result<()> {
    crate::idmap::write_file(
        &format!("/proc/{pid}/timens_offsets"),
        format!("{clock} {seconds} {nanoseconds}\n").as_bytes(),
    )
}

/// Enters the time namespace that [`unshare`] has made for the children of this process.
pub fn enter_time_for_children() -> Result<()> {
    let path = "/proc/self/ns/time_for_children";
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new(format!("open({path:?})"), errno))?;
    join(namespace.as_fd(), crate::clone::flags::NEWTIME)
}

/// Opens a namespace of a process of the caller's own, by the name it has in `/proc/PID/ns` (`net`, `user`, …).
/// `pid` must be known not to have been reused: an unreaped child.
pub fn of_process(pid: i32, name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/{name}");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new(format!("open({path:?})"), errno))
}

/// Whether two descriptors are the same namespace.
pub fn same(left: impl AsFd, right: impl AsFd) -> Result<bool> {
    let stat = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map_err(|errno| Error::new("fstat(namespace)", errno));
    let (left, right) = (stat(left.as_fd())?, stat(right.as_fd())?);
    Ok((left.st_dev, left.st_ino) == (right.st_dev, right.st_ino))
}
