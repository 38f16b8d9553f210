//! Overlays on kernels whose overlayfs takes layers by path only (before 6.15).
//! Owns a short-lived child with a private mount namespace, in which the detached layers get paths. Must not leave that child behind.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use brig_sys::clone::flags;
use brig_sys::fdpass::Channel;
use brig_sys::mount::{Attr, Change, Context, Propagation};
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, ErrorKind, Result, Step};

/// What an overlay is made of: directories in detached mounts.
pub(crate) struct Parts<'a> {
    /// The detached mounts that the directories are in; attached in the child, as such kernels copy attached mounts only.
    pub trees: Vec<BorrowedFd<'a>>,
    /// Top first.
    pub lower: Vec<BorrowedFd<'a>>,
    pub upper: BorrowedFd<'a>,
    pub work: BorrowedFd<'a>,
    pub volatile: bool,
    /// Of the finished mount.
    pub attributes: Attr,
    /// User and group that the overlay works as.
    pub owner: (u32, u32),
}

/// Mounts an overlay; detached.
pub(crate) fn mount(parts: &Parts<'_>) -> Result<OwnedFd> {
    let (ours, theirs) = brig_sys::fdpass::pair()?;
    let child = brig_sys::clone::spawn(flags::NEWNS, None, || {
        let made = in_child(parts);
        i32::from(answer(&theirs, made).is_err())
    })?;
    drop(theirs);
    let message = ours.receive();
    brig_sys::pidfd::reap(child.pidfd.as_fd())?;
    let mut message = message?;
    match message.fds.pop() {
        Some(root) => Ok(root),
        None if message.bytes.is_empty() => Err(Error::system("rootfs: the overlay's helper process died")),
        None => Err(Error::new(ErrorKind::System, String::from_utf8_lossy(&message.bytes))),
    }
}

fn answer(channel: &Channel, made: Result<OwnedFd>) -> brig_sys::Result<()> {
    match made {
        Ok(root) => channel.send(b"made", &[root.as_fd()]),
        Err(error) => channel.send(error.message.as_bytes(), &[]),
    }
}

fn in_child(parts: &Parts<'_>) -> Result<OwnedFd> {
    let step = || "rootfs".to_owned();
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| brig_sys::Error::new("open(\"/\")", errno))?;
    brig_sys::mount::configure(
        root.as_fd(),
        true,
        Change { propagation: Some(Propagation::Private), ..Change::default() },
    )
    .step(step)?;
    // Short relative names: all of mount(2)'s options must fit into one page.
    let scratch = Context::open("tmpfs")?.mount(Attr::MOUNT_ATTR_NODEV)?;
    brig_sys::mount::attach(scratch.as_fd(), root.as_fd())?;
    rustix::process::fchdir(&scratch).map_err(|errno| brig_sys::Error::new("fchdir(scratch)", errno))?;
    let attach = |tree: BorrowedFd<'_>, name: &str| -> Result<()> {
        let made = rustix::fs::mkdirat(&scratch, name, Mode::from_raw_mode(0o700));
        made.map_err(|errno| brig_sys::Error::new(format!("mkdirat({name:?})"), errno))?;
        let place = rustix::fs::openat(&scratch, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let place = place.map_err(|errno| brig_sys::Error::new(format!("openat({name:?})"), errno))?;
        Ok(brig_sys::mount::attach(tree, place.as_fd())?)
    };
    for (index, tree) in parts.trees.iter().enumerate() {
        attach(*tree, &format!("t{index}"))?;
    }
    let mut names = Vec::with_capacity(parts.lower.len());
    for (index, layer) in parts.lower.iter().enumerate() {
        let name = index.to_string();
        attach(brig_sys::mount::clone_tree(*layer, false)?.as_fd(), &name)?;
        names.push(name);
    }
    // upper and work must be on one mount, so what is attached is the directory that holds both.
    let (above, upper, work) = shared_parent(parts.upper, parts.work)?;
    attach(above.as_fd(), "w")?;
    let mut data = format!("lowerdir={},upperdir=w/{upper},workdir=w/{work}", names.join(":"));
    if parts.volatile {
        data.push_str(",volatile");
    }
    let data = CString::new(data).map_err(|_| Error::invalid("rootfs: a layer's name contains a NUL byte"))?;
    rustix::fs::mkdirat(&scratch, "r", Mode::from_raw_mode(0o700))
        .map_err(|errno| brig_sys::Error::new("mkdirat(\"r\")", errno))?;
    brig_sys::idmap::as_filesystem_ids(parts.owner.0, parts.owner.1, || {
        brig_sys::mount::mount_classic("overlay", "r", &data)
    })?
    .step(step)?;
    let place = rustix::fs::openat(&scratch, "r", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| brig_sys::Error::new("openat(\"r\")", errno))?;
    let made = brig_sys::mount::clone_tree(place.as_fd(), false)?;
    if !parts.attributes.is_empty() {
        brig_sys::mount::configure(made.as_fd(), false, Change { set: parts.attributes, ..Change::default() })?;
    }
    Ok(made)
}

/// A copy of the mount of the directory that holds both, and their names in it.
fn shared_parent(upper: BorrowedFd<'_>, work: BorrowedFd<'_>) -> Result<(OwnedFd, String, String)> {
    let open_above = |fd: BorrowedFd<'_>| {
        rustix::fs::openat(fd, "..", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| brig_sys::Error::new("openat(\"..\" of a layer)", errno))
    };
    let name_of = |fd: BorrowedFd<'_>| -> Result<String> {
        use std::os::fd::AsRawFd;
        let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let path = std::fs::read_link(&link).map_err(|error| Error::system(format!("readlink({link:?}): {error}")))?;
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        name.filter(|name| !name.contains([',', ':', '\\'])).ok_or_else(|| {
            Error::invalid(format!("rootfs: the name of {} cannot be passed to overlayfs", path.display()))
        })
    };
    let above = open_above(upper)?;
    Ok((brig_sys::mount::clone_tree(above.as_fd(), false)?, name_of(upper)?, name_of(work)?))
}
