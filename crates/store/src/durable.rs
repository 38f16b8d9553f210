//! Directories and files that survive a power cut: the one way in which anything is published.
//! Must only be given names that this program chose.

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::store::Store;

/// Makes the directory `path` (0700) if it is not there and opens it.
pub(crate) fn directory(path: &Path) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
        Ok(()) => {
            if let Some(parent) = path.parent() {
                sync(open_directory(parent)?.as_fd(), parent)?;
            }
        }
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(Error::io(format!("mkdir {}", path.display()), errno)),
    }
    open_directory(path)
}

/// Opens a directory of the store for reading, so that it can be synced and listed.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Error::io(format!("open {}", path.display()), errno))
}

/// fsync of a directory or file; `path` only names it.
pub(crate) fn sync(fd: BorrowedFd<'_>, path: &Path) -> Result<()> {
    rustix::fs::fsync(fd).map_err(|errno| Error::io(format!("fsync {}", path.display()), errno))
}

/// Publishes `bytes` as `name` in `to`: written to `temporary` in `from`, synced, renamed, directory synced.
/// What was there is replaced. On failure nothing stays behind.
pub(crate) fn publish(
    from: BorrowedFd<'_>,
    temporary: &str,
    to: BorrowedFd<'_>,
    name: &str,
    path: &Path,
    bytes: &[u8],
) -> Result<()> {
    publish_all(from, &[NewFile { temporary: temporary.to_owned(), directory: to, name, path: path.to_owned(), bytes }])
}

/// A file that is to be published.
pub(crate) struct NewFile<'a> {
    /// Its name until it is whole.
    pub(crate) temporary: String,
    /// Where it is to be.
    pub(crate) directory: BorrowedFd<'a>,
    pub(crate) name: &'a str,
    /// Only names it in errors.
    pub(crate) path: PathBuf,
    pub(crate) bytes: &'a [u8],
}

/// Publishes files as [`publish`] does one, waiting for the disk twice in all. Those of which
/// something fails before the first rename are not there; nothing else stays behind.
pub(crate) fn publish_all(from: BorrowedFd<'_>, files: &[NewFile<'_>]) -> Result<()> {
    let mut created = 0;
    let published = write_all(from, files, &mut created).and_then(|()| {
        files.iter().try_for_each(|file| {
            rustix::fs::renameat(from, &*file.temporary, file.directory, file.name)
                .map_err(|errno| Error::io(format!("rename to {}", file.path.display()), errno))
        })
    });
    if let Err(error) = published {
        for NewFile { temporary, .. } in &files[..created] {
            // The error that is reported is the first one; what is left is swept at the next open in any case.
            let _swept_later = rustix::fs::unlinkat(from, &**temporary, AtFlags::empty());
        }
        return Err(error);
    }
    let mut synced: Vec<i32> = Vec::new();
    for file in files {
        if !synced.contains(&file.directory.as_raw_fd()) {
            sync(file.directory, &file.path)?;
            synced.push(file.directory.as_raw_fd());
        }
    }
    Ok(())
}

/// Writes the files under their temporary names to the disk, many at the price of one, and counts those that it made.
fn write_all(from: BorrowedFd<'_>, files: &[NewFile<'_>], created: &mut usize) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut last = None;
    for file in files {
        let failed = |call: &str, error: std::io::Error| Error::io(format!("{call} {}", file.path.display()), error);
        let fd = rustix::fs::openat(from, &*file.temporary, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("create a temporary file for", errno.into()))?;
        *created += 1;
        let mut new = std::fs::File::from(fd);
        new.write_all(file.bytes).map_err(|error| failed("write", error))?;
        last = Some((new, file));
    }
    match last {
        Some((only, file)) if files.len() == 1 => sync(only.as_fd(), &file.path),
        Some(_) => rustix::fs::syncfs(from).map_err(|errno| Error::io("syncfs", errno)),
        None => Ok(()),
    }
}

/// Renames without replacing: `Ok(false)` if something stands at the target.
pub(crate) fn rename_new(
    from: BorrowedFd<'_>,
    name: &str,
    to: BorrowedFd<'_>,
    new_name: &str,
) -> std::result::Result<bool, Errno> {
    match rustix::fs::renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A file without a name on the store's file system, for what is too large for memory and gone when it is closed.
pub fn scratch_file(store: &Store) -> Result<std::fs::File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    rustix::fs::openat(&store.inner.dirs.ingest, ".", flags, Mode::from_raw_mode(0o600))
        .map(std::fs::File::from)
        .map_err(|errno| Error::io(format!("make a temporary file in {}", store.inner.root.display()), errno))
}

/// A name that nothing else has, 32 hex digits.
pub(crate) fn unique_name() -> Result<String> {
    let mut bytes = [0u8; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| Error::io("getrandom", errno))?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
