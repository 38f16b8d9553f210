//! What the directory of a layer consists of once it is unpacked: its files, its recipe, what was replaced. Whoever unpacked
//! it may have been taken over, and all who come later open these by name; so each is what it should be, or there is no layer.
//! Must not look at the layer's files.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use brig_sys::beneath::Root;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::recipe::{DIFF, RECIPE, REPLACED};

/// Checks the directory `layer`, whose files are `files`, takes it back and closes it to everybody else.
///
/// # Errors
/// `Invalid` if anything is missing, is something else, or is there beside them.
pub(super) fn check(layer: &Root, files: &Root) -> Result<()> {
    let failed = |errno: Errno| Error::io("look at what was unpacked", errno);
    let directory = layer.open_in(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700)).map_err(failed)?;
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    rustix::fs::fchown(&directory, Some(user), Some(group)).map_err(failed)?;
    let own = rustix::fs::fstat(files.as_fd()).map_err(failed)?;
    let mut missing = vec![DIFF, RECIPE];
    for entry in Dir::read_from(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let right = match name.to_str() {
            Some(DIFF) => (stat.st_dev, stat.st_ino) == (own.st_dev, own.st_ino),
            Some(RECIPE) => kind == FileType::RegularFile && stat.st_nlink == 1,
            Some(REPLACED) => kind == FileType::Directory,
            _ => false,
        };
        if !right {
            return Err(wrong(&name.display().to_string().escape_default().to_string()));
        }
        missing.retain(|wanted| name != *wanted);
    }
    missing.first().map_or(Ok(()), |name| Err(wrong(name)))
}

fn wrong(name: &str) -> Error {
    Error::invalid(format!("unpacking has left {name} as it cannot be; nothing of the layer is kept"))
}
