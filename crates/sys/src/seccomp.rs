//! Loading a system call filter into the calling thread, and answering the calls that a filter refers to user space.
//! Owns seccomp(2) and the ioctls of a listener. Must not know profiles or system call names.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::clone::last_errno;
use crate::error::{Error, Result};

/// One classic BPF instruction (`struct sock_filter`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// Instructions to skip if the condition holds.
    pub jt: u8,
    /// Instructions to skip if it does not.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// For all threads of the process: `SECCOMP_FILTER_FLAG_TSYNC`, with ESRCH if one cannot have it (`…_TSYNC_ESRCH`, Linux 5.7).
pub const ALL_THREADS: u32 = 1 | 1 << 4;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 1 << 3;

#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

/// Loads a filter. Returns the listener if `flags` asks for one.
///
/// # Errors
/// EACCES without `CAP_SYS_ADMIN` and no-new-privileges; EINVAL if the kernel does not take the program or the flags.
pub fn load(filter: &[Instruction], flags: u32) -> Result<Option<OwnedFd>> {
    let call = || format!("seccomp(SECCOMP_SET_MODE_FILTER, {flags:#x}, {} instructions)", filter.len());
    let length = u16::try_from(filter.len()).map_err(|_| Error::new(call(), Errno::INVAL))?;
    let program = Program { length, filter: filter.as_ptr() };
    // SAFETY: `program` describes the slice, which outlives the call; the kernel copies it.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match done {
        -1 => Err(Error::new(call(), last_errno())),
        // SAFETY: with this flag the kernel returned a new descriptor that nobody else owns.
        fd if flags & NEW_LISTENER != 0 => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) })),
        _ => Ok(None),
    }
}

/// `SECCOMP_IOCTL_NOTIF_RECV`: `_IOWR('!', 0, struct seccomp_notif)`.
const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
/// `SECCOMP_IOCTL_NOTIF_SEND`: `_IOWR('!', 1, struct seccomp_notif_resp)`.
const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;

/// A call that waits for an answer (`struct seccomp_notif`).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Call {
    /// What an answer refers to.
    pub id: u64,
    /// The caller, as the reader of the listener sees it.
    pub pid: u32,
    /// None is defined.
    pub flags: u32,
    /// The call's number.
    pub number: i32,
    /// `AUDIT_ARCH_…`.
    pub arch: u32,
    /// Where the caller is.
    pub instruction_pointer: u64,
    /// The arguments.
    pub args: [u64; 6],
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out after all.
    Continue,
    /// It fails.
    Fail(Errno),
}

#[repr(C)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Waits for the next call that a filter refers to this listener.
///
/// # Errors
/// ENOENT if the caller was killed meanwhile, or nobody is left who could call.
pub fn next_call(listener: BorrowedFd<'_>) -> Result<Call> {
    let mut call = Call::default();
    // SAFETY: the ioctl writes one seccomp_notif, which Call is laid out as and which has to be zero before.
    match unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut call) } {
        -1 => Err(Error::new("ioctl(SECCOMP_IOCTL_NOTIF_RECV)", last_errno())),
        _ => Ok(call),
    }
}

/// Answers a call.
///
/// # Errors
/// ENOENT if the caller was killed meanwhile.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> Result<()> {
    let (error, flags) = match answer {
        Answer::Continue => (0, 1),
        Answer::Fail(errno) => (-errno.raw_os_error(), 0),
    };
    let response = Response { id, value: 0, error, flags };
    // SAFETY: the ioctl reads one seccomp_notif_resp, which Response is laid out as.
    match unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const response) } {
        -1 => Err(Error::new("ioctl(SECCOMP_IOCTL_NOTIF_SEND)", last_errno())),
        _ => Ok(()),
    }
}
