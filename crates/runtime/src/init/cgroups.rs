//! The container's view of its cgroups: every hierarchy that the machine has, as the machine mounts it.
//! Owns the layout of `/sys/fs/cgroup` inside. Must not change any limit.

use std::os::fd::{AsFd, OwnedFd};

use brig_sys::beneath::Root;
use brig_sys::mount::{Attr, Change, Context};
use rustix::fs::{Mode, OFlags};

use super::mounts;
use crate::cgroup::{Hierarchy, Mode as Generation};
use crate::error::{Error, Result, Step};
use crate::mounts::Planned;
use crate::plan::Plan;

pub(super) fn mount(plan: &Plan<'_>, root: &Root, mount: &Planned) -> Result<()> {
    let target = mounts::target(root, mount, true)?;
    if plan.layout.mode() == Generation::V2 || mount.fs == "cgroup2" {
        let made = version2(mount.options.top.set)?;
        return Ok(brig_sys::mount::attach(made.as_fd(), target.as_fd())?);
    }
    let tmpfs = Context::open("tmpfs")?;
    tmpfs.set("source", "cgroup")?;
    tmpfs.set("mode", "755")?;
    let top = tmpfs.mount(mount.options.top.set & !Attr::MOUNT_ATTR_RDONLY)?;
    brig_sys::mount::attach(top.as_fd(), target.as_fd())?;
    for hierarchy in &plan.layout.v1 {
        let Some(name) = hierarchy.mount.file_name().and_then(|name| name.to_str()) else { continue };
        let made = version1(hierarchy, mount.options.top.set).step(|| name.to_owned())?;
        attach_in(&top, name, &made)?;
        for controller in
            hierarchy.controllers.iter().filter(|controller| *controller != name && !controller.contains('='))
        {
            rustix::fs::symlinkat(name, &top, controller.as_str())
                .map_err(|errno| brig_sys::Error::new(format!("symlinkat({name:?}, {controller:?})"), errno))?;
        }
    }
    if plan.layout.v2.is_some() {
        attach_in(&top, "unified", &version2(mount.options.top.set)?)?;
    }
    if mount.options.top.set.contains(Attr::MOUNT_ATTR_RDONLY) {
        brig_sys::mount::configure(top.as_fd(), false, Change { set: Attr::MOUNT_ATTR_RDONLY, ..Change::default() })?;
    }
    Ok(())
}

fn attach_in(top: &OwnedFd, name: &str, made: &OwnedFd) -> Result<()> {
    rustix::fs::mkdirat(top, name, Mode::from_raw_mode(0o755))
        .map_err(|errno| brig_sys::Error::new(format!("mkdirat({name:?})"), errno))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(top, name, flags, Mode::empty())
        .map_err(|errno| brig_sys::Error::new(format!("openat({name:?})"), errno))?;
    Ok(brig_sys::mount::attach(made.as_fd(), place.as_fd())?)
}

fn version1(hierarchy: &Hierarchy, attributes: Attr) -> Result<OwnedFd> {
    let context = Context::open("cgroup")?;
    context.set("source", "cgroup")?;
    for controller in &hierarchy.controllers {
        match controller.strip_prefix("name=") {
            Some(name) => {
                context.set("name", name)?;
                context.set_flag("none")?;
            }
            None => context.set_flag(controller)?,
        }
    }
    context.mount(attributes).map_err(refused)
}

fn version2(attributes: Attr) -> Result<OwnedFd> {
    let context = Context::open("cgroup2")?;
    context.set("source", "cgroup2")?;
    context.mount(attributes).map_err(refused)
}

fn refused(error: brig_sys::Error) -> Error {
    if error.errno == rustix::io::Errno::PERM {
        return Error::unsupported(format!(
            "{error}: a container with a user namespace needs a cgroup namespace of its own to see cgroups"
        ));
    }
    error.into()
}
