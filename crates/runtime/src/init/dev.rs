//! The container's terminal.
//! Owns opening it in the container's own devpts and binding it to `/dev/console`. Must not open a terminal by path.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use brig_sys::beneath::Root;
use brig_sys::fdpass::Channel;
use rustix::fs::{Mode, OFlags};

use super::mounts::Places;
use crate::error::{Error, Result, Step};
use crate::plan::Plan;
use crate::wire::{self, Report};

/// Opens a terminal, sends its master to the parent and returns the slave.
pub(super) fn terminal(
    root: &Root,
    places: &Places,
    channel: &Channel,
    size: (u16, u16),
    plan: &Plan<'_>,
) -> Result<OwnedFd> {
    let step = || "process.terminal".to_owned();
    let Some(devpts) = &places.devpts else {
        return Err(Error::invalid("process.terminal: needs a devpts mount at /dev/pts"));
    };
    let owner = plan.launch.as_ref().map_or(0, |launch| launch.uid);
    let slave = open(devpts, channel, size, owner).step(step)?;
    let console = match &places.dev {
        Some(dev) => {
            rustix::fs::openat(dev, "console", OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| {
                    Error::from(brig_sys::Error::new("openat(\"/dev/console\", O_PATH|O_NOFOLLOW)", errno))
                })?
        }
        None => root.create_file(Path::new("dev/console"), Mode::from_raw_mode(0o600)).step(step)?,
    };
    let copy = brig_sys::mount::clone_tree(slave.as_fd(), false).step(step)?;
    brig_sys::mount::attach(copy.as_fd(), console.as_fd()).step(|| "/dev/console".to_owned())?;
    Ok(slave)
}

/// Opens a terminal in a devpts, gives it its size and owner, and sends the master to the parent.
pub(crate) fn open(devpts: &OwnedFd, channel: &Channel, (rows, columns): (u16, u16), owner: u32) -> Result<OwnedFd> {
    let pair = brig_sys::pty::open(devpts.as_fd())?;
    if rows != 0 || columns != 0 {
        brig_sys::pty::set_size(pair.master.as_fd(), rows, columns)?;
    }
    if owner != 0 {
        rustix::fs::fchown(&pair.slave, Some(rustix::fs::Uid::from_raw(owner)), None)
            .map_err(|errno| brig_sys::Error::new(format!("fchown(terminal, {owner})"), errno))?;
    }
    wire::report_with(channel, &Report::Terminal, pair.master.as_fd())?;
    Ok(pair.slave)
}
