//! Completing a layer from those below it: what describes its undescribed directories, and the targets of its hard links.
//! Looks at the layers below as overlayfs would merge them. Must not change them.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use brig_sys::beneath::{self, Root};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::duplicate::copy_as;
use crate::apply::{Applied, OPAQUE, is_whiteout, link_in, same_directory, times, undisturbed};
use crate::error::{Error, Result};
use crate::tar::Time;

/// Does what unpacking left open until the layers below are known. Directories keep their times, or get those from below.
pub(crate) fn complete(layer: &Root, applied: &Applied, below: &[PathBuf]) -> Result<()> {
    let below = below.iter().map(|path| Root::open(path)).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut directory_times = Vec::new();
    for (path, inode) in applied.implied.iter().filter(|_| !below.is_empty()) {
        if let Some(time) = describe_implied(layer, path, *inode, &below)? {
            directory_times.push((path, *inode, time));
        }
    }
    for (path, target) in &applied.pending_links {
        link(layer, path, target, &below).map_err(|error| error.context(path.display()))?;
    }
    for (path, inode, time) in directory_times {
        if let Some(fd) = same_directory(layer, path, inode)? {
            rustix::fs::futimens(&fd, &times(time))
                .map_err(|errno| Error::io(format!("futimens {}", path.display()), errno))?;
        }
    }
    Ok(())
}

/// Gives a directory that the archive did not describe what it has below: else a layer that adds one file to `/tmp`
/// would make `/tmp` 0755. Tells the modification time to set.
fn describe_implied(layer: &Root, path: &Path, inode: u64, below: &[Root]) -> Result<Option<Time>> {
    let Some(fd) = same_directory(layer, path, inode)? else {
        return Ok(None);
    };
    let real = real_path(layer, &fd)?;
    if hides_below(layer, &real)? {
        return Ok(None);
    }
    let Some(found) = find(below, &real)? else {
        return Ok(None);
    };
    if FileType::from_raw_mode(found.stat.st_mode) != FileType::Directory {
        return Ok(None);
    }
    let failed = |errno: Errno| Error::io(format!("describe {}", path.display()), errno);
    let (uid, gid) = (Uid::from_raw(found.stat.st_uid), Gid::from_raw(found.stat.st_gid));
    rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(failed)?;
    rustix::fs::fchmod(&fd, Mode::from_raw_mode(found.stat.st_mode & 0o7777)).map_err(failed)?;
    for (name, value) in copied_xattrs(&found)? {
        rustix::fs::fsetxattr(&fd, &name, &value, rustix::fs::XattrFlags::empty()).map_err(failed)?;
    }
    Ok(Some(mtime(&found.stat)))
}

/// The path of an open directory below the layer's root, no links in it.
fn real_path(layer: &Root, fd: &OwnedFd) -> Result<PathBuf> {
    let path_of = |raw: i32| {
        let link = format!("/proc/self/fd/{raw}");
        std::fs::read_link(&link).map_err(|error| Error::io(format!("readlink {link}"), error))
    };
    let (root, path) = (path_of(layer.as_fd().as_raw_fd())?, path_of(fd.as_raw_fd())?);
    let outside = |_| Error::corrupt(format!("{} is not in {}", path.display(), root.display()));
    path.strip_prefix(&root).map(Path::to_owned).map_err(outside)
}

/// Whether this layer itself hides what is at `path` below it: by an opaque directory on the way, or by anything that
/// is no directory.
fn hides_below(layer: &Root, path: &Path) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = layer.open_in(Path::new(""), flags, Mode::empty())?;
    for part in path {
        if is_opaque(&directory)? {
            return Ok(true);
        }
        directory = match rustix::fs::openat(&directory, part, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(true),
            Err(errno) => return Err(Error::io(format!("open {}", path.display()), errno)),
        };
    }
    is_opaque(&directory)
}

fn is_opaque(directory: &OwnedFd) -> Result<bool> {
    let mut value = [0u8; 4];
    match rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(Error::io(format!("getxattr {OPAQUE}"), errno)),
    }
}

/// Something in the layers below.
struct Found {
    parent: OwnedFd,
    /// Empty for the root of a layer, which is `parent` itself.
    name: OsString,
    stat: Stat,
}

/// What is at `path` (without links) in the merged view of the layers below, topmost first.
pub(crate) fn stat(below: &[Root], path: &Path) -> Result<Option<Stat>> {
    Ok(find(below, path)?.map(|found| found.stat))
}

/// What `path` (without links) is in the merged view of the layers below, topmost first.
fn find(below: &[Root], path: &Path) -> Result<Option<Found>> {
    let parts: Vec<&OsStr> = path.iter().collect();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for layer in below {
        let mut directory = layer.open_in(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        if parts.is_empty() {
            let stat = rustix::fs::fstat(&directory).map_err(|errno| Error::io("fstat", errno))?;
            return Ok(Some(Found { parent: directory, name: OsString::new(), stat }));
        }
        let mut opaque = false;
        for (index, part) in parts.iter().enumerate() {
            opaque |= is_opaque(&directory)?;
            let stat = match rustix::fs::statat(&directory, *part, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) if opaque => return Ok(None),
                Err(Errno::NOENT) => break,
                Err(errno) => {
                    return Err(Error::io(format!("stat {} in a layer below", path.display()), errno));
                }
            };
            if is_whiteout(&stat) {
                return Ok(None);
            }
            if index + 1 == parts.len() {
                return Ok(Some(Found { parent: directory, name: part.into(), stat }));
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(None);
            }
            directory = rustix::fs::openat(&directory, *part, flags, Mode::empty())
                .map_err(|errno| Error::io(format!("open {} in a layer below", path.display()), errno))?;
        }
    }
    Ok(None)
}

/// Makes a hard link whose target was not in the archive: it is in this layer by now, or a copy is made of what is below.
fn link(layer: &Root, path: &Path, target: &Path, below: &[Root]) -> Result<()> {
    let missing =
        || Error::invalid(format!("a hard link to {}, which is not in this layer nor below it", target.display()));
    let (parent, name) = match layer.parent(path) {
        Ok(found) => found,
        // Its directory was replaced by a later member.
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        // A later member stands there.
        return Ok(());
    }
    let keep = |_: &OwnedFd, _: &OsStr| Ok(());
    if undisturbed(&parent, || link_in(layer, target, &parent, &name, keep))?.is_some() {
        return Ok(());
    }
    if hides_below(layer, target)? {
        return Err(missing());
    }
    let found = find(below, target)?.ok_or_else(missing)?;
    match FileType::from_raw_mode(found.stat.st_mode) {
        FileType::Directory => {
            Err(Error::invalid(format!("a hard link to {}, which is a directory", target.display())))
        }
        _ => undisturbed(&parent, || copy_as(&found.parent, &found.name, &parent, &name, &found.stat)),
    }
}

/// Attributes that belong to the file, not to overlayfs.
fn copied_xattrs(found: &Found) -> Result<Vec<(OsString, Vec<u8>)>> {
    let mut xattrs = beneath::xattrs_at(found.parent.as_fd(), &found.name)?;
    xattrs.retain(|(name, _)| {
        let name = name.as_encoded_bytes();
        name == b"security.capability" || name.starts_with(b"user.") || name.starts_with(b"system.posix_acl")
    });
    Ok(xattrs)
}

fn mtime(stat: &Stat) -> Time {
    // A Stat's nanoseconds are always below a thousand million.
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() }
}
