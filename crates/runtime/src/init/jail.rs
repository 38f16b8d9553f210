//! From the host's root into the container's.
//! Owns where the root is mounted and the three ways to leave the host's: `pivot_root`, `MS_MOVE` with `chroot`, and `chroot`
//! alone where others see the mounts too. Must not touch a mount of a namespace that is not the container's own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use brig_sys::beneath::Root;
use brig_sys::mount::{Attr, Change, Context, Listed, Propagation};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::hooks::Moment;
use crate::plan::Plan;

/// Opens the host's root and, in a mount namespace of the container's own, stops its mounts from reaching the host's.
pub(super) fn host_root(plan: &Plan<'_>) -> Result<OwnedFd> {
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| brig_sys::Error::new("open(\"/\", O_PATH)", errno))?;
    // With a user namespace the kernel has done so.
    if plan.namespaces.own_mounts() && !plan.namespaces.has(brig_sys::clone::flags::NEWUSER) {
        let slave = Change { propagation: Some(Propagation::Slave), ..Change::default() };
        brig_sys::mount::configure(root.as_fd(), true, slave)?;
    }
    Ok(root)
}

/// Mounts the container's root: over the host's, which nobody sees, except for hooks and in a mount namespace of others,
/// where it must be where the bundle says. `path` is that place, if there is one.
pub(super) fn attach(plan: &Plan<'_>, root: BorrowedFd<'_>, host: BorrowedFd<'_>, path: Option<&Path>) -> Result<()> {
    let step = || "rootfs".to_owned();
    let looked_for = plan.hooks.as_ref().is_some_and(|hooks| hooks.has(Moment::CreateContainer));
    match path {
        // The parent has done so, as it shares these mounts.
        _ if plan.shares_mounts() => Ok(()),
        Some(path) if looked_for || !plan.namespaces.own_mounts() => attach_at(root, path).step(step),
        None if !plan.namespaces.own_mounts() => Err(needs_directory()),
        _ => brig_sys::mount::attach(root, host).step(step),
    }
}

/// Where others see the mounts there is no place for a root that is not a directory of the host's.
pub(crate) fn needs_directory() -> Error {
    Error::unsupported("linux.namespaces: a root made of layers needs a mount namespace of its own")
}

/// Mounts a root on its directory.
pub(crate) fn attach_at(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, O_PATH)"), errno))?;
    Ok(brig_sys::mount::attach(root, place.as_fd())?)
}

/// Makes the container's root this process's, and sets what the whole of it is to be.
pub(super) fn enter(plan: &Plan<'_>, root: &Root, host: BorrowedFd<'_>) -> Result<()> {
    if !plan.namespaces.own_mounts() {
        brig_sys::mount::chroot_into(root.as_fd())?;
    } else if plan.no_pivot {
        move_over(root, host).step(|| "--no-pivot".to_owned())?;
    } else {
        brig_sys::mount::pivot_into(root.as_fd()).map_err(|error| {
            if error.call.starts_with("pivot_root") && error.errno == Errno::INVAL {
                Error::unsupported(format!(
                    "{error}: the host's root is its initial ramfs, which cannot be left this way: use --no-pivot, or run from a real root file system"
                ))
            } else {
                Error::from(error)
            }
        })?;
    }
    let read_only = plan.spec.root.as_ref().is_some_and(|root| root.readonly);
    let set = if read_only { Attr::MOUNT_ATTR_RDONLY } else { Attr::empty() };
    let (propagation, recursive) = plan.root_propagation;
    if recursive && propagation != Propagation::Private {
        let change = Change { propagation: Some(propagation), ..Change::default() };
        brig_sys::mount::configure(root.as_fd(), true, change)?;
    }
    let top = Change { set, propagation: Some(propagation).filter(|_| !recursive), ..Change::default() };
    if !set.is_empty() || top.propagation.is_some() {
        brig_sys::mount::configure(root.as_fd(), false, top)
            .step(|| "root.readonly, linux.rootfsPropagation".to_owned())?;
    }
    Ok(())
}

/// Without `pivot_root` the host's mounts stay in the namespace, only covered by the container's root. A whole procfs or
/// sysfs among them would let a user namespace made inside mount such a one of its own, with nothing masked in it.
fn move_over(root: &Root, host: BorrowedFd<'_>) -> Result<()> {
    let own = brig_sys::mount::id_of(root.as_fd())?;
    let mounts = brig_sys::mount::list()?;
    for mount in mounts.iter().filter(|mount| mount.whole && matches!(mount.fs.as_str(), "proc" | "sysfs")) {
        if is_beneath(&mounts, mount, own) {
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = match rustix::fs::open(&mount.place, flags, Mode::empty()) {
            Ok(place) => place,
            // Gone with one above it.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(brig_sys::Error::new(format!("open({:?}, O_PATH)", mount.place), errno).into()),
        };
        match brig_sys::mount::detach_at(&mount.place) {
            // Mounts that came from a namespace of more rights can only be covered.
            Err(error) if matches!(error.errno, Errno::INVAL | Errno::PERM) => {
                let cover = Context::open("tmpfs")?.mount(Attr::MOUNT_ATTR_RDONLY)?;
                brig_sys::mount::attach(cover.as_fd(), place.as_fd())?;
            }
            done => done?,
        }
    }
    if mounts.iter().any(|mount| mount.id == own && mount.place != Path::new("/")) {
        brig_sys::mount::attach(root.as_fd(), host)?;
    }
    Ok(brig_sys::mount::chroot_into(root.as_fd())?)
}

fn is_beneath(mounts: &[Listed], mount: &Listed, top: u64) -> bool {
    let mut at = mount;
    // As many steps as there are mounts, should the kernel's list not be a tree.
    for _ in mounts {
        if at.id == top {
            return true;
        }
        match mounts.iter().find(|above| above.id == at.parent) {
            Some(above) if above.id != at.id => at = above,
            _ => return false,
        }
    }
    false
}
