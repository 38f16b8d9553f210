//! A second copy of an unpacked layer, for when one archive's layer stands on two different ones.
//! Must not follow links or leave the two directories.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brig_sys::beneath::{self, Root};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::apply::{Applied, holes, times_of};
use crate::error::{Error, Result};
use crate::recipe::{RECIPE, REPLACED};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);

/// Copies everything beneath `from` into the empty directory `to`, and gives the notes about it with the copy's inodes.
pub(super) fn copy(from: &Root, to: &Root, applied: &Applied) -> Result<Applied> {
    let mut links: HashMap<u64, PathBuf> = HashMap::new();
    let mut inodes: HashMap<u64, u64> = HashMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let source = from.open_in(&path, DIRECTORY, Mode::empty())?;
        let target = to.open_in(&path, DIRECTORY, Mode::empty())?;
        let failed = |errno: Errno| Error::io(format!("copy {}", path.display()), errno);
        let stat = rustix::fs::fstat(&source).map_err(failed)?;
        inodes.insert(stat.st_ino, rustix::fs::fstat(&target).map_err(failed)?.st_ino);
        for entry in Dir::read_from(&source).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = rustix::fs::statat(&source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                rustix::fs::mkdirat(&target, name, Mode::from_raw_mode(0o700)).map_err(failed)?;
                todo.push(path.join(name));
                continue;
            }
            if let Some(first) = links.get(&stat.st_ino) {
                let (parent, first) = to.parent(first)?;
                rustix::fs::linkat(&parent, &first, &target, name, AtFlags::empty()).map_err(failed)?;
                continue;
            }
            if stat.st_nlink > 1 {
                links.insert(stat.st_ino, path.join(name));
            }
            one(&source, &target, name, &stat)?;
        }
        // Last: everything that is made in it disturbs its time.
        describe(&source, OsStr::new(""), &target, OsStr::new(""), &stat)?;
    }
    let same = |inode: &u64| inodes.get(inode).copied();
    Ok(Applied {
        implied: applied.implied.iter().filter_map(|(path, inode)| Some((path.clone(), same(inode)?))).collect(),
        pending_links: applied.pending_links.clone(),
        later: Vec::new(),
        ..*applied
    })
}

/// Copies how the layer's tar is made again, and what it needs for that beside the layer's files.
pub(super) fn recipe(from: &Root, to: &Root) -> Result<()> {
    let failed = |errno: Errno| Error::io("copy a layer's recipe", errno);
    let stat = rustix::fs::statat(from.as_fd(), RECIPE, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
    let open = |root: &Root, path: &str| root.open_in(Path::new(path), DIRECTORY, Mode::empty());
    one(&open(from, "")?, &open(to, "")?, OsStr::new(RECIPE), &stat)?;
    if rustix::fs::statat(from.as_fd(), REPLACED, AtFlags::SYMLINK_NOFOLLOW).is_err() {
        return Ok(());
    }
    let aside = to.mkdir_all(Path::new(REPLACED), Mode::from_raw_mode(0o700))?;
    copy(&Root::from_fd(open(from, REPLACED)?), &Root::from_fd(aside), &Applied::default()).map(drop)
}

/// Copies one thing that is no directory.
pub(super) fn one(source: &OwnedFd, target: &OwnedFd, name: &OsStr, stat: &Stat) -> Result<()> {
    copy_as(source, name, target, name, stat)
}

/// As [`one`], under another name.
pub(super) fn copy_as(source: &OwnedFd, name: &OsStr, target: &OwnedFd, new_name: &OsStr, stat: &Stat) -> Result<()> {
    let failed = |errno: Errno| Error::io(format!("copy {}", Path::new(name).display()), errno);
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let from = rustix::fs::openat(source, name, flags, Mode::empty()).map_err(failed)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let to = rustix::fs::openat(target, new_name, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
            holes::copy(&File::from(from), &File::from(to), u64::try_from(stat.st_size).unwrap_or_default())
                .map_err(|error| Error::io(format!("copy {}", Path::new(name).display()), error))?;
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(source, name, Vec::new()).map_err(failed)?;
            rustix::fs::symlinkat(&link, target, new_name).map_err(failed)?;
        }
        _ => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(target, new_name, kind, mode, stat.st_rdev).map_err(failed)?;
        }
    }
    describe(source, name, target, new_name, stat)
}

/// Owner, mode, attributes and time; an empty name means the directory itself.
pub(crate) fn describe(source: &OwnedFd, name: &OsStr, target: &OwnedFd, new_name: &OsStr, stat: &Stat) -> Result<()> {
    let failed = |errno: Errno| Error::io(format!("describe the copy of {}", Path::new(name).display()), errno);
    let flags = if new_name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(target, new_name, Some(uid), Some(gid), flags).map_err(failed)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    if new_name.is_empty() {
        rustix::fs::fchmod(target, mode).map_err(failed)?;
    } else if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(target, new_name, mode, AtFlags::empty()).map_err(failed)?;
    }
    for (attribute, value) in beneath::xattrs_at(source.as_fd(), name)? {
        beneath::set_xattr_at(target.as_fd(), new_name, &attribute, &value)?;
    }
    let times = times_of(stat);
    if new_name.is_empty() {
        rustix::fs::futimens(target, &times).map_err(failed)
    } else {
        rustix::fs::utimensat(target, new_name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }
}
