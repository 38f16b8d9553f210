//! Landlock: what a process gives up for good, down to one directory. Owns the calls (landlock(7)).
//! Must not decide which rights that directory keeps.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::clone::last_errno;
use crate::error::{Error, Result};

/// `LANDLOCK_ACCESS_FS_…`.
pub mod access {
    /// Run a file.
    pub const EXECUTE: u64 = 1;
    /// Make a UNIX socket.
    pub const MAKE_SOCKET: u64 = 1 << 9;
    /// Make a block device.
    pub const MAKE_BLOCK: u64 = 1 << 11;
    /// Use a device's ioctls.
    pub const IOCTL_DEVICE: u64 = 1 << 15;
}

/// Rights on files by version: 2 added moving between directories, without which no version lets anybody do that, 3
/// truncating, 5 device ioctls.
const FILES: [(u32, u64); 3] = [(2, 0x3fff), (3, 0x7fff), (5, 0xffff)];
/// TCP bind and connect, from version 4.
const NETWORK: u64 = 0b11;
/// Abstract UNIX sockets and signals of others, from version 6.
const SCOPES: u64 = 0b11;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: i32 = 1;

/// `struct landlock_ruleset_attr`.
#[repr(C)]
#[derive(Default)]
struct Ruleset {
    files: u64,
    network: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}

/// Takes from this thread (and what it starts from now on) everything Landlock knows: all access to files but what `refused`
/// does not name of it beneath `directory`, TCP, and other processes' sockets and signals, as far as the kernel's version goes.
/// No-new-privileges must be set.
///
/// # Errors
/// ENOSYS or EOPNOTSUPP if the kernel has no Landlock or not version 2.
pub fn restrict_to(directory: BorrowedFd<'_>, refused: u64) -> Result<()> {
    // SAFETY: with this flag the call takes no structure and only tells a number.
    let version = unsafe {
        let none = std::ptr::null::<Ruleset>();
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, CREATE_RULESET_VERSION)
    };
    let version = match u32::try_from(version) {
        Ok(version) => version,
        Err(_) => return Err(Error::new("landlock_create_ruleset(version)", last_errno())),
    };
    let known = FILES.iter().rev().find(|(since, _)| version >= *since);
    let Some((_, files)) = known else {
        return Err(Error::new(format!("landlock of version {version}, 2 is needed"), Errno::OPNOTSUPP));
    };
    let mut ruleset = Ruleset { files: *files, ..Ruleset::default() };
    let mut size = 8usize;
    if version >= 4 {
        (ruleset.network, size) = (NETWORK, 16);
    }
    if version >= 6 {
        (ruleset.scopes, size) = (SCOPES, 24);
    }
    // SAFETY: `size` bytes of a landlock_ruleset_attr, as long as this version of it is.
    let rules = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, size, 0u32) };
    if rules < 0 {
        return Err(Error::new("landlock_create_ruleset()", last_errno()));
    }
    // SAFETY: a new descriptor that nobody else owns.
    let rules = unsafe { OwnedFd::from_raw_fd(rules as i32) };
    let beneath = Beneath { allowed: files & !refused, parent: directory.as_raw_fd() };
    // SAFETY: a landlock_path_beneath_attr, as this type of rule takes.
    let added = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, rules.as_raw_fd(), RULE_PATH_BENEATH, &raw const beneath, 0u32)
    };
    if added != 0 {
        return Err(Error::new("landlock_add_rule(directory)", last_errno()));
    }
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) } != 0 {
        return Err(Error::new("landlock_restrict_self()", last_errno()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn only_the_directory_is_left() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = std::fs::File::open(inside.path()).unwrap();
        // Of one thread only: the test program goes on.
        std::thread::spawn(move || {
            crate::process::set_no_new_privileges().unwrap();
            if let Err(error) = restrict_to(directory.as_fd(), access::EXECUTE) {
                assert!(matches!(error.errno, Errno::NOSYS | Errno::OPNOTSUPP), "{error}");
                return;
            }
            std::fs::write(inside.path().join("x"), "").unwrap();
            std::fs::create_dir(inside.path().join("d")).unwrap();
            std::fs::rename(inside.path().join("x"), inside.path().join("d/x")).unwrap();
            let refused = std::fs::write(outside.path().join("x"), "").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
            assert!(std::fs::read("/etc/passwd").is_err());
            assert!(std::process::Command::new("/bin/true").status().is_err());
            assert!(std::net::TcpStream::connect("127.0.0.1:9").is_err());
        })
        .join()
        .unwrap();
    }
}
