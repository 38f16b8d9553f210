//! Copying a directory of the image into a new tmpfs (`tmpcopyup`), by descriptor, within limits.
//! Owns nothing else. Must not follow links.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

use crate::error::{Error, Result};

/// How deep and how much: a tmpfs is memory.
const MAX_DEPTH: u32 = 64;
const MAX_ENTRIES: u32 = 100_000;

/// Copies directories, files and links with their modes and owners; device nodes and sockets are left out. `to` itself keeps
/// its mode if `keep_mode`.
pub(crate) fn tree(from: &OwnedFd, to: &OwnedFd, keep_mode: bool) -> Result<()> {
    let failed = |call: &str, errno| Error::from(brig_sys::Error::new(call, errno));
    let stat = rustix::fs::fstat(to).map_err(|errno| failed("fstat()", errno))?;
    let mut left = MAX_ENTRIES;
    level(from, to, MAX_DEPTH, &mut left)?;
    if keep_mode {
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(|errno| failed("fchmod()", errno))?;
    }
    Ok(())
}

fn level(from: &OwnedFd, to: &OwnedFd, depth: u32, left: &mut u32) -> Result<()> {
    let failed = |call: &str, errno| Error::from(brig_sys::Error::new(call, errno));
    if depth == 0 {
        return Err(Error::unsupported(format!("more than {MAX_DEPTH} directories deep")));
    }
    let stat = rustix::fs::fstat(from).map_err(|errno| failed("fstat()", errno))?;
    let owner = |stat: &rustix::fs::Stat| {
        (Some(rustix::fs::Uid::from_raw(stat.st_uid)), Some(rustix::fs::Gid::from_raw(stat.st_gid)))
    };
    let (uid, gid) = owner(&stat);
    rustix::fs::fchown(to, uid, gid).map_err(|errno| failed("fchown()", errno))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(|errno| failed("fchmod()", errno))?;
    for entry in Dir::read_from(from).map_err(|errno| failed("getdents()", errno))? {
        let entry = entry.map_err(|errno| failed("getdents()", errno))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *left = left.checked_sub(1).ok_or_else(|| Error::unsupported(format!("more than {MAX_ENTRIES} entries")))?;
        let call = |what: &str| format!("{what}({name:?})");
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed(&call("fstatat"), errno))?;
        let (uid, gid) = owner(&stat);
        let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))
                    .map_err(|errno| failed(&call("mkdirat"), errno))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | nofollow;
                let from = rustix::fs::openat(from, name, flags, Mode::empty())
                    .map_err(|errno| failed(&call("openat"), errno))?;
                let to = rustix::fs::openat(to, name, flags, Mode::empty())
                    .map_err(|errno| failed(&call("openat"), errno))?;
                level(&from, &to, depth - 1, left)?;
            }
            FileType::RegularFile => {
                let source =
                    rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::NONBLOCK | nofollow, Mode::empty())
                        .map_err(|errno| failed(&call("openat"), errno))?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | nofollow;
                let copy = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600))
                    .map_err(|errno| failed(&call("openat"), errno))?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let mut copy = File::from(copy);
                io::copy(&mut File::from(source).take(size), &mut copy)
                    .map_err(|error| Error::system(format!("copy {name:?}: {error}")))?;
                rustix::fs::fchown(&copy, uid, gid).map_err(|errno| failed(&call("fchown"), errno))?;
                rustix::fs::fchmod(&copy, Mode::from_raw_mode(stat.st_mode & 0o7777))
                    .map_err(|errno| failed(&call("fchmod"), errno))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())
                    .map_err(|errno| failed(&call("readlinkat"), errno))?;
                rustix::fs::symlinkat(target, to, name).map_err(|errno| failed(&call("symlinkat"), errno))?;
                rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| failed(&call("fchownat"), errno))?;
            }
            _ => {}
        }
    }
    Ok(())
}
