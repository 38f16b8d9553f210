//! This process's own program file, as far as those can reach it who may look at `/proc/<pid>/exe` (CVE-2019-5736).
//! Owns running it again from where nobody can write it. Must not be used by a process with threads.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{SealFlags, StatVfsMountFlags};

use crate::clone::last_errno;
use crate::error::{Error, Result};
use crate::mount::{self, Attr, Change};
use crate::process::StringArray;

const OWN: &str = "/proc/self/exe";

/// Replaces this process by the same program with the same arguments, opened through a read-only mount of the file that is
/// attached nowhere, so that no right in the world makes it writable; or from a sealed copy in memory where mounts are not
/// this user's to make. Returns at once if that has been done before.
///
/// # Errors
/// Neither could be done: then no container may see this process.
pub fn protect(arguments: Vec<CString>, environment: Vec<CString>) -> Result<()> {
    if on_read_only_mount() {
        return Ok(());
    }
    let program = match read_only_mount(Path::new(OWN)) {
        Ok(program) => program,
        Err(_) if is_sealed() => return Ok(()),
        Err(_) => crate::memfd::seal_copy(Path::new(OWN))?,
    };
    Err(execute(&program, &StringArray::new(arguments), &StringArray::new(environment)))
}

fn on_read_only_mount() -> bool {
    rustix::fs::statvfs(OWN).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}

fn is_sealed() -> bool {
    let Ok(file) = std::fs::File::open(OWN) else { return false };
    rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::SEAL | SealFlags::WRITE))
}

/// The mount ceases to be one when its last descriptor is closed, at the latest by execve; then nothing can be changed about
/// it any more, and what was opened through it stays read-only.
fn read_only_mount(program: &Path) -> Result<OwnedFd> {
    let tree = mount::clone_tree_at(program, false)?;
    mount::configure(tree.as_fd(), false, Change { set: Attr::MOUNT_ATTR_RDONLY, ..Change::default() })?;
    Ok(tree)
}

/// `execveat(2)` of an open file. Returns only on failure.
fn execute(program: &OwnedFd, arguments: &StringArray, environment: &StringArray) -> Error {
    // SAFETY: the path is an empty C string; both arrays are NULL terminated and point into strings that they own.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Error::new("execveat(own program, AT_EMPTY_PATH)", last_errno())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_read_only_and_nobodys() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let tree = read_only_mount(file.path()).unwrap();
        let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
        let write = std::fs::OpenOptions::new().append(true).open(&path);
        assert_eq!(write.unwrap_err().raw_os_error(), Some(libc::EROFS));
        assert!(!on_read_only_mount() && !is_sealed());
        let kept = std::fs::File::open(&path).unwrap();
        drop(tree);
        let clear = Change { clear: Attr::MOUNT_ATTR_RDONLY, ..Change::default() };
        assert!(mount::configure(kept.as_fd(), false, clear).is_err(), "it could be made writable again");
        let again = format!("/proc/self/fd/{}", kept.as_raw_fd());
        assert!(std::fs::OpenOptions::new().append(true).open(again).is_err());
    }
}
