//! Loading a system call filter into the calling thread.
//! Owns seccomp(2). Must not know profiles or system call names.

use std::os::fd::{FromRawFd, OwnedFd};

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
