//! Bind mounts: trees of the host's, cloned and mapped by the parent, handed over detached.
//! Owns the rule that a file system whose owners cannot be mapped is refused. Must not attach anything.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use brig_sys::mount::{Change, Propagation};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::identity::{self, Identity};
use crate::mounts::Planned;
use crate::options::Idmap;

/// Clones the source of a bind mount. With `map_all` its owners are mapped as the container's ids even if the mount does
/// not ask for that itself.
pub(crate) fn make(mount: &Planned, identity: &Identity, map_all: bool) -> Result<OwnedFd> {
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
    let own = mount.mappings.as_ref().map(|(uids, gids)| identity::mapping_only(uids, gids)).transpose().step(place)?;
    let map = match (&own, mount.options.idmap) {
        (Some(own), _) => Some(own.as_fd()),
        (None, Some(_)) if identity.map().is_none() => {
            return Err(Error::invalid(format!(
                "{}: idmap needs uidMappings or a container with a user namespace",
                place()
            )));
        }
        (None, Some(_)) => identity.map(),
        (None, None) if map_all => identity.map(),
        (None, None) => None,
    };
    let map_recursive = recursive && mount.options.idmap != Some(Idmap::Top);
    let (propagation, spread) = mount.options.propagation.unwrap_or((Propagation::Private, true));
    // As few calls as can be: usually one.
    let all = Change {
        set: mount.options.recursive.set,
        clear: mount.options.recursive.clear,
        propagation: Some(propagation).filter(|_| spread || !recursive),
        idmap: map.filter(|_| map_recursive || !recursive),
    };
    configure(&tree, recursive, all, source, &place)?;
    let top = Change {
        set: mount.options.top.set,
        clear: mount.options.top.clear,
        propagation: Some(propagation).filter(|_| !spread && recursive),
        idmap: map.filter(|_| !map_recursive && recursive),
    };
    if !mount.options.top.is_none() || top.propagation.is_some() || top.idmap.is_some() {
        configure(&tree, false, top, source, &place)?;
    }
    Ok(tree)
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
