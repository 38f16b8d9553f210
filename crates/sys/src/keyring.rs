//! The session keyring of this process.
//! Owns keyctl(2). Must not know whose keyring it is.

use std::ffi::CStr;

use rustix::io::Errno;

use crate::clone::last_errno;
use crate::error::{Error, Result};

const JOIN_SESSION_KEYRING: libc::c_long = 1;
const SETPERM: libc::c_long = 5;

/// What the kernel gives a new session keyring: everything to its possessor, and view, read and link to its owner.
const NEW: u32 = 0x3f13_0000;
/// `KEY_USR_SEARCH`.
const OWNER_SEARCH: u32 = 0x0008_0000;
/// `KEY_OTH_SEARCH`.
const OTHER_SEARCH: u32 = 0x8;

/// Who may find keys in a keyring besides those who have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Searchers {
    /// Processes of the user that made it, which is what joining it by name takes.
    Owner,
    /// Those and every other process of its user namespace.
    Everyone,
}

/// Leaves the caller's session keyring for the one of this name in this user namespace, which is made if there is none
/// that this process may search. `searchers` sets its permissions. A kernel without keyrings has none to protect.
///
/// # Errors
/// EDQUOT if the user has too many keys; EACCES if the keyring exists and is not this process's to change.
pub fn join_session(name: &CStr, searchers: Option<Searchers>) -> Result<()> {
    // SAFETY: the name is a C string that outlives the call.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if serial == -1 {
        return match last_errno() {
            Errno::NOSYS => Ok(()),
            errno => Err(Error::new(format!("keyctl(KEYCTL_JOIN_SESSION_KEYRING, {name:?})"), errno)),
        };
    }
    let Some(searchers) = searchers else { return Ok(()) };
    let permissions = NEW | OWNER_SEARCH | if searchers == Searchers::Everyone { OTHER_SEARCH } else { 0 };
    // SAFETY: integers only.
    match unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, serial, permissions) } {
        -1 => Err(Error::new(format!("keyctl(KEYCTL_SETPERM, {serial}, {permissions:#x})"), last_errno())),
        _ => Ok(()),
    }
}
