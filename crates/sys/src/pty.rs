//! Pseudo terminals of one devpts instance, each object verified before it is used.
//! Owns opening, sizes and the controlling terminal. Must not open a terminal by its name.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::clone::last_errno;
use crate::error::{Error, Result};

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// The inode of `ptmx` in every devpts instance.
const PTMX_INODE: u64 = 2;

/// Both ends of a new pseudo terminal.
#[derive(Debug)]
pub struct Pair {
    /// The end of whoever serves the terminal.
    pub master: OwnedFd,
    /// The end of the program.
    pub slave: OwnedFd,
}

/// Opens a new pair in the devpts instance whose root directory is `devpts`.
///
/// # Errors
/// The kernel's; ENODEV if the directory is not devpts or its `ptmx` not the multiplexer.
pub fn open(devpts: BorrowedFd<'_>) -> Result<Pair> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(devpts, "ptmx", flags, Mode::empty())
        .map_err(|errno| Error::new("open(\"/dev/pts/ptmx\", O_RDWR|O_NOCTTY)", errno))?;
    let stat = rustix::fs::fstat(&master).map_err(|errno| Error::new("fstat(\"/dev/pts/ptmx\")", errno))?;
    let system = rustix::fs::fstatfs(&master).map_err(|errno| Error::new("fstatfs(\"/dev/pts/ptmx\")", errno))?;
    let multiplexer = rustix::fs::makedev(5, 2);
    if system.f_type as i64 != DEVPTS_MAGIC || stat.st_ino != PTMX_INODE || stat.st_rdev != multiplexer {
        return Err(Error::new("\"/dev/pts/ptmx\" is not the multiplexer of a devpts", Errno::NODEV));
    }
    rustix::pty::unlockpt(&master).map_err(|errno| Error::new("ioctl(TIOCSPTLCK, 0)", errno))?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .map_err(|errno| Error::new("ioctl(TIOCGPTPEER)", errno))?;
    Ok(Pair { master, slave })
}

/// Sets the size in characters; the foreground processes get SIGWINCH if it changed.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
        .map_err(|errno| Error::new(format!("ioctl(TIOCSWINSZ, {rows}x{columns})"), errno))
}

/// Makes `terminal` the controlling terminal of this session, which the caller must lead.
pub fn set_controlling(terminal: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).map_err(|errno| Error::new("ioctl(TIOCSCTTY)", errno))
}

/// Makes the caller's process group the foreground one of `terminal`.
pub fn set_foreground(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: the argument is a valid pid_t.
    let done = unsafe {
        let group: libc::pid_t = libc::getpgrp();
        libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSPGRP, &raw const group)
    };
    if done == 0 { Ok(()) } else { Err(Error::new("ioctl(TIOCSPGRP)", last_errno())) }
}
