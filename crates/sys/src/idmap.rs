//! User namespaces' id maps, and the file system ids that a mount is made with.
//! Owns reading and writing of `/proc/PID/{uid,gid}_map`. Must not choose ranges.

use std::fmt::Write as _;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::clone::last_errno;
use crate::error::{Error, Result};

/// One line of an id map: `count` ids from `inside` mean those from `outside`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// What `id` inside is outside, if the map has it.
pub fn to_outside(map: &[Range], id: u32) -> Option<u32> {
    map.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside)?;
        (offset < range.count).then(|| range.outside.checked_add(offset)).flatten()
    })
}

/// Which of the two maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// User ids.
    User,
    /// Group ids.
    Group,
}

impl Kind {
    fn file(self, pid: i32) -> String {
        match self {
            Kind::User => format!("/proc/{pid}/uid_map"),
            Kind::Group => format!("/proc/{pid}/gid_map"),
        }
    }
}

/// Writes a map of a child in a new user namespace, once. At most 340 ranges (the kernel's limit: EINVAL).
pub fn write(pid: i32, kind: Kind, map: &[Range]) -> Result<()> {
    let mut text = String::new();
    for range in map {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
    }
    write_file(&kind.file(pid), text.as_bytes())
}

/// Forbids a child in a new user namespace to set its supplementary groups; a group map of an unprivileged writer needs it.
pub fn deny_setgroups(pid: i32) -> Result<()> {
    write_file(&format!("/proc/{pid}/setgroups"), b"deny")
}

/// Writes a whole kernel file in one write.
pub(crate) fn write_file(path: &str, content: &[u8]) -> Result<()> {
    let call = || format!("write({path:?}, {:?})", String::from_utf8_lossy(content));
    let fd = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new(format!("open({path:?}, O_WRONLY)"), errno))?;
    match rustix::io::write(&fd, content) {
        Ok(length) if length == content.len() => Ok(()),
        Ok(_) => Err(Error::new(call(), Errno::IO)),
        Err(errno) => Err(Error::new(call(), errno)),
    }
}

/// Reads a map of a process as the caller's user namespace sees it.
pub fn read(pid: i32, kind: Kind) -> Result<Vec<Range>> {
    let path = kind.file(pid);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::new(format!("read({path:?})"), Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
    text.lines()
        .map(|line| {
            let mut words = line.split_ascii_whitespace();
            match (number(words.next()), number(words.next()), number(words.next())) {
                (Some(inside), Some(outside), Some(count)) => Ok(Range { inside, outside, count }),
                _ => Err(Error::new(format!("read({path:?}): line {line:?}"), Errno::INVAL)),
            }
        })
        .collect()
}

/// Runs `work` with the file system user and group ids `uid` and `gid` but every capability that the caller may have:
/// what is created then belongs to them, and an overlay mounted then creates its own files as them.
///
/// # Errors
/// EPERM if the ids cannot be taken (no `CAP_SETUID`/`CAP_SETGID`).
pub fn as_filesystem_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T> {
    let _restore = Restore { uid: setfsuid(uid), gid: setfsgid(gid) };
    // An id that was not taken shows when it is set again: the call returns the old one and never an error.
    if setfsgid(gid) != gid || setfsuid(uid) != uid {
        return Err(Error::new(format!("setfsuid({uid}), setfsgid({gid})"), Errno::PERM));
    }
    crate::caps::raise_all_permitted()?;
    Ok(work())
}

struct Restore {
    uid: u32,
    gid: u32,
}

impl Drop for Restore {
    fn drop(&mut self) {
        setfsgid(self.gid);
        setfsuid(self.uid);
    }
}

fn setfsuid(uid: u32) -> u32 {
    // SAFETY: changes only the thread's file system user id.
    (unsafe { libc::setfsuid(uid) }) as u32
}

fn setfsgid(gid: u32) -> u32 {
    // SAFETY: changes only the thread's file system group id.
    (unsafe { libc::setfsgid(gid) }) as u32
}

/// Becomes `uid` and `gid` entirely (real, effective, saved), groups first. With `groups` the supplementary groups are set too.
///
/// # Errors
/// EINVAL if an id is not mapped in the user namespace; EPERM without `CAP_SETUID`/`CAP_SETGID`.
pub fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<()> {
    let check =
        |done: i32, call: &dyn Fn() -> String| if done == 0 { Ok(()) } else { Err(Error::new(call(), last_errno())) };
    if let Some(groups) = groups {
        // SAFETY: pointer and length describe the slice; the process has one thread, so the plain call is right.
        let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        check(done as i32, &|| format!("setgroups({groups:?})"))?;
    }
    // SAFETY: changes only the credentials of this thread.
    let done = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    check(done as i32, &|| format!("setresgid({gid})"))?;
    // SAFETY: changes only the credentials of this thread.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check(done as i32, &|| format!("setresuid({uid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_inside_to_outside() {
        let map =
            [Range { inside: 0, outside: 1000, count: 10 }, Range { inside: 100, outside: u32::MAX - 1, count: 5 }];
        assert_eq!(to_outside(&map, 0), Some(1000));
        assert_eq!(to_outside(&map, 9), Some(1009));
        assert_eq!(to_outside(&map, 10), None);
        assert_eq!(to_outside(&map, 101), Some(u32::MAX));
        assert_eq!(to_outside(&map, 102), None);
    }

    #[test]
    fn reads_this_processs_own_map() {
        assert!(!read(std::process::id() as i32, Kind::User).unwrap().is_empty());
    }
}
