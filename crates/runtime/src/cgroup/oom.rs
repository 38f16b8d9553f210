//! Owns a descriptor that tells when the kernel killed something in a cgroup for want of memory.
//! It must not count or react.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;
use rustix::io::Errno;

use super::error::{Error, ErrorKind, Result};
use super::files::write;

/// Readable after each kill (version 1: each time the limit could not be kept). Call [`OomWatch::clear`], then compare
/// [`super::Cgroup::oom_kills`]: the end of a version 1 cgroup wakes, too.
#[derive(Debug)]
pub struct OomWatch {
    descriptor: OwnedFd,
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl OomWatch {
    /// An eventfd registered with `memory.oom_control`.
    pub(super) fn v1(dir: &Path) -> Result<OomWatch> {
        let failed = |error: Errno| Error::new(ErrorKind::System, format!("eventfd for {}: {error}", dir.display()));
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
        let path = dir.join("memory.oom_control");
        let control = std::fs::File::open(&path).map_err(|error| Error::io("open", &path, &error))?;
        write(dir, "cgroup.event_control", &format!("{} {}", descriptor.as_raw_fd(), control.as_raw_fd()))?;
        Ok(OomWatch { descriptor })
    }

    /// An inotify watch on `memory.events`.
    pub(super) fn v2(dir: &Path) -> Result<OomWatch> {
        let path = dir.join("memory.events");
        let failed = |error: Errno| Error::io("watch", &path, &std::io::Error::from_raw_os_error(error.raw_os_error()));
        let descriptor =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).map_err(failed)?;
        let _watch: i32 = inotify::add_watch(&descriptor, &path, inotify::WatchFlags::MODIFY).map_err(failed)?;
        Ok(OomWatch { descriptor })
    }

    /// Takes what has been reported so far, so that the descriptor is readable again only after the next event.
    pub fn clear(&self) {
        let mut buffer = [0u8; 4096];
        // Non-blocking; an error means that nothing (more) is there.
        while rustix::io::read(&self.descriptor, &mut buffer).is_ok_and(|count| count == buffer.len()) {}
    }
}
