//! Files of procfs by which a process changes itself, opened so that they are certainly those.
//! Owns the proof. Must not be used for files of another process.

use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// `PROC_SUPER_MAGIC`.
const MAGIC: rustix::fs::FsWord = 0x9fa0;
/// `PROC_ROOT_INO`: what is mounted is a whole procfs, not a directory of one.
const ROOT: u64 = 1;

/// Writes `text` in one call to `/proc/self/<path>`. What a container mounted on top of `/proc` or anywhere below it makes
/// this an error instead of a write elsewhere (CVE-2019-16884, CVE-2025-52881).
///
/// # Errors
/// ENOENT if the kernel has no such file; EXDEV if something is mounted on the way; else what the file's owner says.
pub fn write_own(path: &str, text: &str) -> Result<()> {
    let failed = |call: &str| {
        let call = call.to_owned();
        move |errno| Error::new(call, errno)
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).map_err(failed("open(\"/proc\")"))?;
    let kind = rustix::fs::fstatfs(&proc).map_err(failed("fstatfs(\"/proc\")"))?.f_type;
    let stat = rustix::fs::fstat(&proc).map_err(failed("fstat(\"/proc\")"))?;
    if kind != MAGIC || stat.st_ino != ROOT {
        return Err(Error::new("open(\"/proc\"): it is no procfs", Errno::XDEV));
    }
    let place = format!("self/{path}");
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(proc.as_fd(), &place, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty(), beneath)
        .map_err(failed(&format!("openat2(\"/proc/{place}\", O_WRONLY)")))?;
    rustix::io::write(&file, text.as_bytes()).map(drop).map_err(failed(&format!("write(\"/proc/{place}\", {text:?})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_to_itself_only() {
        // The name of the thread that leads the process: of the test's process, so that nobody else minds.
        write_own("comm", "procfs-test").unwrap();
        assert_eq!(std::fs::read_to_string("/proc/self/comm").unwrap(), "procfs-test\n");
        assert_eq!(write_own("no/such", "x").unwrap_err().errno, Errno::NOENT);
        assert_eq!(write_own("cwd/x", "x").unwrap_err().errno, Errno::LOOP);
        assert_eq!(write_own("../../etc/passwd", "x").unwrap_err().errno, Errno::XDEV);
    }
}
