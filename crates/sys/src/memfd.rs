//! A program copied into memory and sealed, so that nothing can change it while it runs (CVE-2019-5736).
//! Owns the copy and its seals. Must not run it.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A sealed copy of the program at `path`. Close-on-exec: run it as `/proc/self/fd/N` from a child that keeps the
/// descriptor until execve (as `std::process::Command` does), or with [`crate::process::execute`].
///
/// # Errors
/// The kernel's, naming the file; EINVAL for what is not a regular file.
pub fn seal_copy(path: &Path) -> Result<OwnedFd> {
    let wrap = |what: &str, error: &io::Error| {
        Error::new(format!("{what}({path:?})"), Errno::from_io_error(error).unwrap_or(Errno::IO))
    };
    let mut source = File::open(path).map_err(|error| wrap("open", &error))?;
    if !source.metadata().map_err(|error| wrap("fstat", &error))?.is_file() {
        return Err(Error::new(format!("open({path:?}): not a regular file"), Errno::INVAL));
    }
    let name = path.file_name().unwrap_or(path.as_os_str());
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC (6.3) is required where vm.memfd_noexec is set; older kernels do not know it.
    let memfd = match rustix::fs::memfd_create(name, flags | MemfdFlags::from_bits_retain(0x10)) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        done => done,
    };
    let mut copy = File::from(memfd.map_err(|errno| Error::new(format!("memfd_create({name:?})"), errno))?);
    io::copy(&mut source, &mut copy).map_err(|error| wrap("copy to memfd", &error))?;
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o500)).map_err(|errno| Error::new("fchmod(memfd, 0500)", errno))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    // F_SEAL_EXEC (6.3) also pins the mode.
    let sealed = match rustix::fs::fcntl_add_seals(&copy, seals | SealFlags::from_bits_retain(0x20)) {
        Err(Errno::INVAL) => rustix::fs::fcntl_add_seals(&copy, seals),
        done => done,
    };
    sealed.map_err(|errno| Error::new("fcntl(memfd, F_ADD_SEALS)", errno))?;
    // A file that is open for writing cannot be executed (ETXTBSY), so only a read-only descriptor is kept.
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new(format!("open({path:?}, O_RDONLY)"), errno))
}

/// Bytes in memory that nobody can change, to be read from their begin. Close-on-exec.
///
/// # Errors
/// The kernel's (EMFILE, ENOMEM).
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_NOEXEC_SEAL (6.3) is required where vm.memfd_noexec is strict; older kernels do not know it.
    let memfd = match rustix::fs::memfd_create(name, flags | MemfdFlags::from_bits_retain(0x8)) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        done => done,
    };
    let mut file = File::from(memfd.map_err(|errno| Error::new(format!("memfd_create({name:?})"), errno))?);
    let wrap = |error: io::Error| {
        Error::new(format!("write(memfd {name:?})"), Errno::from_io_error(&error).unwrap_or(Errno::IO))
    };
    file.write_all(bytes).and_then(|()| file.rewind()).map_err(wrap)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(|errno| Error::new("fcntl(memfd, F_ADD_SEALS)", errno))?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_runs_and_cannot_be_written() {
        let fd = seal_copy(Path::new("/bin/busybox")).unwrap();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let output = std::process::Command::new(&path).args(["echo", "sealed"]).output().unwrap();
        // busybox picks its applet by argv[0], which is the descriptor's path here, so only that it ran is checked.
        assert!(output.status.code().is_some());
        assert_eq!(rustix::io::write(&fd, b"x").unwrap_err(), Errno::BADF);
        // Root may open it for writing, but the seals refuse every write.
        let writable = File::options().write(true).open(&path).unwrap();
        assert_eq!(rustix::io::write(&writable, b"x").unwrap_err(), Errno::PERM);
        assert!(rustix::fs::fcntl_get_seals(&fd).unwrap().contains(SealFlags::WRITE | SealFlags::SEAL));
    }
}
