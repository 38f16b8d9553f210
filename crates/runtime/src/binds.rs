//! Bind mounts: trees of the host's, cloned and mapped by the parent, handed over detached.
//! Owns the rule that a file system whose owners cannot be mapped is refused. Must not attach anything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use brig_sys::mount::{Attr, Change, Propagation};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::identity::{self, Identity};
use crate::mounts::Planned;
use crate::options::{self, Idmap};

/// Clones the source of a bind mount. With `map_all` its owners are mapped as the container's ids even if the mount does
/// not ask for that itself.
pub(crate) fn make(mount: &Planned, identity: &Identity, map_all: bool, user: bool) -> Result<OwnedFd> {
    let source = mount.source.as_deref().unwrap_or(Path::new(""));
    let place = || format!("mounts: /{}", mount.destination.display());
    let recursive = mount.options.bind == Some(true);
    let tree = brig_sys::mount::clone_tree_at(source, recursive).map_err(|error| {
        if error.errno == Errno::NOENT {
            Error::invalid(format!("{}: bind source path does not exist: {}", place(), source.display()))
        } else {
            Error::system(format!("{}: {error}", place()))
        }
    })?;
    finish(mount, &tree, own_map(mount)?.as_ref(), identity.map(), map_all, user)?;
    Ok(tree)
}

/// The user namespace that stands for a mount's own map, if it has one.
pub(crate) fn own_map(mount: &Planned) -> Result<Option<OwnedFd>> {
    let make = |(uids, gids): &(Vec<_>, Vec<_>)| identity::mapping_only(uids, gids);
    mount.mappings.as_ref().map(make).transpose().step(|| format!("mounts: /{}", mount.destination.display()))
}

/// Maps and changes a cloned tree as its mount wants it; `own` is the mount's own map, `container` is the container's user namespace.
pub(crate) fn finish(
    mount: &Planned,
    tree: &OwnedFd,
    own: Option<&OwnedFd>,
    container: Option<BorrowedFd<'_>>,
    map_all: bool,
    user: bool,
) -> Result<()> {
    let source = mount.source.as_deref().unwrap_or(Path::new(""));
    let place = || format!("mounts: /{}", mount.destination.display());
    let recursive = mount.options.bind == Some(true);
    check_special(mount, tree)?;
    let map = match (own, mount.options.idmap) {
        (Some(own), _) => Some(own.as_fd()),
        // The parent has done it for init.
        (None, Some(_)) if mount.mappings.is_some() => None,
        (None, Some(_)) if container.is_none() => {
            return Err(Error::invalid(format!(
                "{}: idmap needs uidMappings or a container with a user namespace",
                place()
            )));
        }
        (None, Some(_)) => container,
        (None, None) if map_all => container,
        (None, None) => None,
    };
    // A map that was asked for is the top's unless "ridmap" says otherwise; the container's own is for everything.
    let map_recursive = maps_all(mount) || (recursive && mount.options.idmap.is_none() && own.is_none());
    let (propagation, spread) = mount.options.propagation.unwrap_or((Propagation::Private, true));
    // As few calls as can be: usually one.
    let all = Change {
        set: mount.options.recursive.set,
        clear: mount.options.recursive.clear,
        propagation: Some(propagation).filter(|_| spread || !recursive),
        idmap: map.filter(|_| map_recursive || !recursive),
    };
    configure(tree, recursive, all, source, &place)?;
    let change = |attributes: options::Change| Change {
        set: attributes.set,
        clear: attributes.clear,
        propagation: Some(propagation).filter(|_| !spread && recursive),
        idmap: map.filter(|_| !map_recursive && recursive),
    };
    // Mounts of the engine's own say all that they mean.
    let attributes = if map_all { mount.options.top } else { fstab(mount, tree, user)? };
    let top = change(attributes);
    if attributes.is_none() && top.propagation.is_none() && top.idmap.is_none() {
        return Ok(());
    }
    match configure(tree, false, top, source, &place) {
        // The caller itself is in a user namespace whose mounts came with attributes that stay.
        Err(_) if !map_all && !user && !attributes.clear.is_empty() && top.idmap.is_none() => {
            configure(tree, false, change(fstab(mount, tree, true)?), source, &place)
        }
        done => done,
    }
}

/// Whether the map that a mount asks for is for what is mounted beneath it, too.
pub(crate) fn maps_all(mount: &Planned) -> bool {
    mount.options.bind == Some(true) && mount.options.idmap == Some(Idmap::Recursive)
}

/// What the options of a mount change about its top; `user`: a user namespace may not take back what the source has.
fn fstab(mount: &Planned, tree: &OwnedFd, user: bool) -> Result<options::Change> {
    let kept = if user && mount.options.said.any { Some(attributes_of(tree)?) } else { None };
    mount.options.of_bind(kept).map_err(|why| {
        let (place, source) = (mount.destination.display(), mount.source.as_deref().unwrap_or(Path::new("")).display());
        Error::invalid(format!("error mounting {source} to /{place}: mounts: {why}: operation not permitted"))
    })
}

/// The attributes that a mount has.
fn attributes_of(tree: &OwnedFd) -> Result<Attr> {
    use rustix::fs::StatVfsMountFlags as Flags;
    let flags = rustix::fs::fstatvfs(tree).map_err(|errno| brig_sys::Error::new("fstatvfs()", errno))?.f_flag;
    let known = [
        (Flags::RDONLY, Attr::MOUNT_ATTR_RDONLY),
        (Flags::NOSUID, Attr::MOUNT_ATTR_NOSUID),
        (Flags::NODEV, Attr::MOUNT_ATTR_NODEV),
        (Flags::NOEXEC, Attr::MOUNT_ATTR_NOEXEC),
        (Flags::NOATIME, Attr::MOUNT_ATTR_NOATIME),
        (Flags::NODIRATIME, Attr::MOUNT_ATTR_NODIRATIME),
    ];
    let mut attributes =
        known.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, attribute)| *attribute).collect();
    if !flags.intersects(Flags::NOATIME | Flags::RELATIME) {
        attributes |= Attr::MOUNT_ATTR_STRICTATIME;
    }
    Ok(attributes)
}

/// What is bound to `/proc` or `/sys` must be a whole procfs or sysfs: security settings are written through them
/// (CVE-2019-16884 and kin).
fn check_special(mount: &Planned, tree: &OwnedFd) -> Result<()> {
    const SYSFS_MAGIC: i64 = 0x6265_6572;
    let (name, wanted) = if mount.destination == Path::new("proc") {
        ("proc", crate::init::PROC_MAGIC)
    } else if mount.destination == Path::new("sys") {
        ("sysfs", SYSFS_MAGIC)
    } else {
        return Ok(());
    };
    let stat = rustix::fs::fstat(tree).map_err(|errno| brig_sys::Error::new("fstat()", errno))?;
    // The root of either has this number.
    if crate::init::magic(tree.as_fd())? == wanted && stat.st_ino == 1 {
        return Ok(());
    }
    Err(Error::invalid(format!("mounts: /{}: only a whole {name} may be mounted there", mount.destination.display())))
}

fn configure(
    tree: &OwnedFd,
    recursive: bool,
    change: Change<'_>,
    source: &Path,
    place: &dyn Fn() -> String,
) -> Result<()> {
    brig_sys::mount::configure(tree.as_fd(), recursive, change).map_err(|error| {
        if change.idmap.is_none() || error.errno != Errno::INVAL {
            return Error::system(format!("{}: {}: {error}", place(), source.display()));
        }
        let beneath = if recursive { " (or one mounted beneath it)" } else { "" };
        Error::unsupported(format!(
            "{}: the file system of {}{beneath} cannot show its files with the container's owners ({error}): run the container with --userns=host",
            place(),
            source.display()
        ))
    })
}
