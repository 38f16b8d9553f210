//! The container's view of its cgroups: every hierarchy that the machine has, as the machine mounts it.
//! Owns the layout of `/sys/fs/cgroup` inside. Must not change any limit.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use brig_sys::beneath::Root;
use brig_sys::clone::flags;
use brig_sys::mount::{Attr, Change, Context, Propagation};
use rustix::fs::{Mode, OFlags};

use super::mounts;
use crate::cgroup::{Cgroup, Hierarchy, Mode as Generation};
use crate::error::{Error, Result, Step};
use crate::mounts::Planned;
use crate::plan::Plan;

pub(super) fn mount(plan: &Plan<'_>, cgroup: &Cgroup, root: &Root, mount: &Planned) -> Result<()> {
    let target = mounts::target(root, mount, true)?;
    // Without a cgroup namespace a new mount would show every cgroup of the machine: then it is a bind of our own.
    let own = (!plan.namespaces.has(flags::NEWCGROUP)).then_some(cgroup);
    let version2 = |mounted: &Path| match own {
        Some(cgroup) => bind(cgroup, mounted, mount.options.top.set),
        None => version2(mount.options.top.set).map(Some),
    };
    if plan.layout.mode() == Generation::V2 || mount.fs == "cgroup2" {
        let mounted = plan.layout.v2.as_deref().ok_or_else(|| Error::unsupported("cgroup2 is not mounted here"))?;
        // Without rights over cgroups it has none: what of the host's may be there already is covered.
        let made = version2(mounted)?.map_or_else(|| mounts::empty_directory(&plan.linux.mount_label), Ok)?;
        return Ok(brig_sys::mount::attach(made.as_fd(), target.as_fd())?);
    }
    let tmpfs = Context::open("tmpfs")?;
    tmpfs.set("source", "cgroup")?;
    tmpfs.set("mode", "755")?;
    let top = tmpfs.mount(mount.options.top.set & !Attr::MOUNT_ATTR_RDONLY)?;
    brig_sys::mount::attach(top.as_fd(), target.as_fd())?;
    for hierarchy in &plan.layout.v1 {
        let Some(name) = hierarchy.mount.file_name().and_then(|name| name.to_str()) else { continue };
        let made = match own {
            Some(cgroup) => match bind(cgroup, &hierarchy.mount, mount.options.top.set) {
                Ok(None) => borrowed(hierarchy),
                done => done,
            },
            None => version1(hierarchy, mount.options.top.set).map(Some),
        };
        let Some(made) = made.step(|| name.to_owned())? else { continue };
        attach_in(&top, name, &made)?;
        for controller in
            hierarchy.controllers.iter().filter(|controller| *controller != name && !controller.contains('='))
        {
            rustix::fs::symlinkat(name, &top, controller.as_str())
                .map_err(|errno| brig_sys::Error::new(format!("symlinkat({name:?}, {controller:?})"), errno))?;
        }
    }
    if let Some(mounted) = plan.layout.v2.as_deref()
        && let Some(made) = version2(mounted)?
    {
        attach_in(&top, "unified", &made)?;
    }
    if mount.options.top.set.contains(Attr::MOUNT_ATTR_RDONLY) {
        brig_sys::mount::configure(top.as_fd(), false, Change { set: Attr::MOUNT_ATTR_RDONLY, ..Change::default() })?;
    }
    Ok(())
}

/// What a mount of cgroups is made of in a container without a cgroup namespace: binds of its own directories, and where they
/// are below the mount.
pub(crate) fn binds(plan: &Plan<'_>, cgroup: &Cgroup, mount: &Planned) -> Result<Vec<(PathBuf, OwnedFd)>> {
    let attributes = mount.options.top.set;
    let version2 = plan.layout.v2.as_deref();
    if plan.layout.mode() == Generation::V2 || mount.fs == "cgroup2" {
        let mounted = version2.ok_or_else(|| Error::unsupported("cgroup2 is not mounted here"))?;
        return Ok(bind(cgroup, mounted, attributes)?.map(|made| (PathBuf::new(), made)).into_iter().collect());
    }
    let first = plan.layout.v1.iter().map(|hierarchy| (hierarchy.mount.file_name(), hierarchy.mount.as_path()));
    let all = first.chain(version2.map(|mounted| (Some("unified".as_ref()), mounted)));
    all.filter_map(|(name, mounted)| Some((PathBuf::from(name?), mounted)))
        .filter_map(|(name, mounted)| Some(bind(cgroup, mounted, attributes).transpose()?.map(|made| (name, made))))
        .collect()
}

fn attach_in(top: &OwnedFd, name: &str, made: &OwnedFd) -> Result<()> {
    rustix::fs::mkdirat(top, name, Mode::from_raw_mode(0o755))
        .map_err(|errno| brig_sys::Error::new(format!("mkdirat({name:?})"), errno))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(top, name, flags, Mode::empty())
        .map_err(|errno| brig_sys::Error::new(format!("openat({name:?})"), errno))?;
    Ok(brig_sys::mount::attach(made.as_fd(), place.as_fd())?)
}

/// The container's own cgroup in the hierarchy that the host has mounted there; `None` if it was made without one.
fn bind(cgroup: &Cgroup, mounted: &Path, attributes: Attr) -> Result<Option<OwnedFd>> {
    let directories = cgroup.directories();
    let Some(own) = directories.iter().find(|directory| directory.starts_with(mounted)) else { return Ok(None) };
    let tree = brig_sys::mount::clone_tree_at(own, false)?;
    let change = Change { set: attributes, propagation: Some(Propagation::Private), ..Change::default() };
    brig_sys::mount::configure(tree.as_fd(), false, change)?;
    Ok(Some(tree))
}

/// For a container that has no cgroup of its own: the caller's, to look at only.
fn borrowed(hierarchy: &Hierarchy) -> Result<Option<OwnedFd>> {
    let path = "/proc/self/cgroup";
    let text = std::fs::read_to_string(path).map_err(|error| Error::system(format!("read({path:?}): {error}")))?;
    let own = text.lines().find_map(|line| {
        let (controllers, own) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').eq(hierarchy.controllers.iter().map(String::as_str)).then_some(own)
    });
    // The path of one outside of the caller's cgroup namespace begins with "..".
    let Some(own) = own.filter(|own| !own.contains("..")) else { return Ok(None) };
    let own = hierarchy.mount.join(own.trim_start_matches('/'));
    let tree = brig_sys::mount::clone_tree_at(&own, false)?;
    let set = Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    let change = Change { set, propagation: Some(Propagation::Private), ..Change::default() };
    brig_sys::mount::configure(tree.as_fd(), false, change)?;
    Ok(Some(tree))
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
