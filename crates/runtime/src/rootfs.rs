//! The root file system as one detached mount, made by the parent with its rights and the container's owners.
//! Owns overlays and idmapped layers. Must not attach anything in the caller's mount namespace.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use brig_sys::mount::{Attr, Change, Context, Propagation};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::identity::Identity;
use crate::overlay_by_path::{self, Parts};

/// Set by tests: go the way of older kernels.
pub(crate) static BY_PATH: AtomicBool = AtomicBool::new(false);

/// What a container's root is made of. Paths are the engine's own, absolute, with plain ids on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// Read-only layers with a writable one on top.
    Overlay {
        /// Top first. None at all makes `upper` alone the root.
        lower: Vec<PathBuf>,
        /// The writable layer. In one directory with `work`.
        upper: PathBuf,
        /// Scratch space of overlayfs.
        work: PathBuf,
        /// Leave out fsync to disk.
        volatile: bool,
    },
    /// Read-only layers with a throw-away layer in memory on top; a layer may be `/`, which the container cannot change.
    OverlayTmpfs {
        /// Top first; only the file system of each path itself, nothing that is mounted beneath.
        lower: Vec<PathBuf>,
        /// How large the throw-away layer may grow; `None` is the kernel's default, half of the memory.
        size_bytes: Option<u64>,
    },
    /// A directory as it is, with what is mounted beneath.
    Directory(PathBuf),
}

/// The detached root mount, and what must stay open until it has been handed over (closing costs, so it is done late).
#[derive(Debug)]
pub(crate) struct Made {
    pub root: OwnedFd,
    pub rest: Vec<OwnedFd>,
}

/// Makes the root mount. Layers have plain ids on disk and are mapped; a directory only if `map_directory`.
pub(crate) fn make(rootfs: &Rootfs, identity: &Identity, map_directory: bool) -> Result<Made> {
    match rootfs {
        Rootfs::Directory(path) => directory(path, identity, map_directory),
        Rootfs::Overlay { lower, upper, .. } if lower.is_empty() => directory(upper, identity, true),
        Rootfs::Overlay { lower, upper, work, volatile } => {
            if *volatile {
                forget_volatile(work)?;
            }
            overlay(lower, upper, work, *volatile, identity)
        }
        Rootfs::OverlayTmpfs { lower, size_bytes } => overlay_tmpfs(lower, *size_bytes, identity),
    }
}

/// The mark of an earlier volatile mount would make this one fail; what it warns of is the engine's to judge.
fn forget_volatile(work: &Path) -> Result<()> {
    let above = work.join("work");
    match rustix::fs::open(&above, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    {
        Ok(above) => {
            let removed = brig_sys::beneath::Root::remove_tree(above.as_fd(), OsStr::new("incompat"));
            removed.map(drop).step(|| "rootfs".to_owned())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(brig_sys::Error::new(format!("open({above:?}, O_PATH)"), errno).into()),
    }
}

/// Device nodes that an image brings are dead when its root is not the host's root.
fn attributes(identity: &Identity) -> Attr {
    if identity.user_namespace.is_some() { Attr::MOUNT_ATTR_NODEV } else { Attr::empty() }
}

fn directory(path: &Path, identity: &Identity, map: bool) -> Result<Made> {
    let step = || format!("rootfs {}", path.display());
    let root = brig_sys::mount::clone_tree_at(path, true).step(step)?;
    let idmap = identity.map().filter(|_| map);
    let change = Change { propagation: Some(Propagation::Private), idmap, ..Change::default() };
    configure(&root, true, change, path)?;
    if identity.user_namespace.is_some() {
        brig_sys::mount::configure(root.as_fd(), true, Change { set: attributes(identity), ..Change::default() })
            .step(step)?;
    }
    Ok(Made { root, rest: Vec::new() })
}

fn configure(tree: &OwnedFd, recursive: bool, change: Change<'_>, path: &Path) -> Result<()> {
    brig_sys::mount::configure(tree.as_fd(), recursive, change).map_err(|error| {
        if change.idmap.is_some() && error.errno == Errno::INVAL {
            Error::unsupported(format!(
                "rootfs {}: its file system cannot show its files with the container's owners ({error}): run the container with --userns=host",
                path.display()
            ))
        } else {
            Error::system(format!("rootfs {}: {error}", path.display()))
        }
    })
}

fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, volatile: bool, identity: &Identity) -> Result<Made> {
    let paths: Vec<&Path> = lower.iter().map(PathBuf::as_path).chain([upper, work]).collect();
    let mut opened = open_layers(&paths, identity)?;
    let work = opened.layers.pop();
    let upper = opened.layers.pop();
    let (Some(work), Some(upper)) = (work, upper) else {
        return Err(Error::invalid("rootfs: no layers"));
    };
    let root = mount(&Parts {
        trees: opened.trees.iter().map(AsFd::as_fd).collect(),
        lower: opened.layers.iter().map(AsFd::as_fd).collect(),
        upper: upper.as_fd(),
        work: work.as_fd(),
        volatile,
        attributes: attributes(identity),
        owner: identity.root()?,
    })?;
    Ok(Made { root, rest: opened.trees })
}

fn overlay_tmpfs(lower: &[PathBuf], size_bytes: Option<u64>, identity: &Identity) -> Result<Made> {
    if lower.is_empty() {
        return Err(Error::invalid("rootfs: a throw-away root needs a layer to throw away the changes of"));
    }
    let (uid, gid) = identity.root()?;
    let tmpfs = Context::open("tmpfs")?;
    tmpfs.set("source", "brig")?;
    tmpfs.set("mode", "0700")?;
    if let Some(size) = size_bytes {
        tmpfs.set("size", size.to_string().as_str())?;
    }
    let tmpfs = tmpfs.mount(Attr::MOUNT_ATTR_NODEV)?;
    let directory = |name: &str, mode: u32| -> Result<OwnedFd> {
        let step = |call: &str, errno| {
            Error::from(brig_sys::Error::new(format!("{call}({name:?} on the throw-away layer)"), errno))
        };
        rustix::fs::mkdirat(&tmpfs, name, Mode::from_raw_mode(0o700)).map_err(|errno| step("mkdirat", errno))?;
        rustix::fs::chmodat(&tmpfs, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|errno| step("fchmodat", errno))?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(&tmpfs, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| step("fchownat", errno))?;
        rustix::fs::openat(&tmpfs, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| step("openat", errno))
    };
    let upper = directory("upper", 0o755)?;
    let work = directory("work", 0o700)?;
    let opened = open_layers_apart(&lower.iter().map(PathBuf::as_path).collect::<Vec<_>>(), identity)?;
    let lower: Vec<BorrowedFd<'_>> = opened.layers.iter().map(AsFd::as_fd).collect();
    let root = mount(&Parts {
        trees: opened.trees.iter().map(AsFd::as_fd).chain([tmpfs.as_fd()]).collect(),
        lower,
        upper: upper.as_fd(),
        work: work.as_fd(),
        volatile: true,
        // The layers may be this very machine's root, device nodes included.
        attributes: Attr::MOUNT_ATTR_NODEV,
        owner: (uid, gid),
    })?;
    let mut rest = opened.trees;
    rest.push(tmpfs);
    Ok(Made { root, rest })
}

/// Layers opened for overlayfs, with the detached mounts that they are in.
struct Opened {
    layers: Vec<OwnedFd>,
    trees: Vec<OwnedFd>,
}

/// Opens layers in one idmapped copy of the mount that holds them all (one mount to make and to dissolve, not one per
/// layer), or, if other mounts are in between, each in a copy of its own mount.
fn open_layers(paths: &[&Path], identity: &Identity) -> Result<Opened> {
    let above = common_ancestor(paths);
    let tree = layer_tree(above, identity)?;
    let mut layers = Vec::with_capacity(paths.len());
    for path in paths {
        let inside = path.strip_prefix(above).unwrap_or(path);
        match open_same(&tree, inside, path)? {
            Some(layer) => layers.push(layer),
            None => return open_layers_by_mount(paths, identity),
        }
    }
    Ok(Opened { layers, trees: vec![tree] })
}

/// Lower layers each in their own copy; the last two, upper and work, must share one.
fn open_layers_by_mount(paths: &[&Path], identity: &Identity) -> Result<Opened> {
    let (lower, writable) = paths.split_at(paths.len() - 2);
    let mut opened = open_layers_apart(lower, identity)?;
    let above = common_ancestor(writable);
    let tree = layer_tree(above, identity)?;
    for path in writable {
        let layer = open_same(&tree, path.strip_prefix(above).unwrap_or(path), path)?;
        opened.layers.push(layer.ok_or_else(|| {
            Error::invalid(format!("rootfs: {} is on another mount than {}", path.display(), above.display()))
        })?);
    }
    opened.trees.push(tree);
    Ok(opened)
}

fn open_layers_apart(paths: &[&Path], identity: &Identity) -> Result<Opened> {
    let layers = paths.iter().map(|path| layer_tree(path, identity)).collect::<Result<Vec<_>>>()?;
    let copy = |layer: &OwnedFd| layer.try_clone().map_err(|error| Error::system(format!("rootfs: dup: {error}")));
    let trees = layers.iter().map(copy).collect::<Result<Vec<_>>>()?;
    Ok(Opened { layers, trees })
}

/// A detached, idmapped copy of the mount at `path`, without what is mounted beneath.
fn layer_tree(path: &Path, identity: &Identity) -> Result<OwnedFd> {
    let tree = brig_sys::mount::clone_tree_at(path, false).step(|| "rootfs".to_owned())?;
    let change = Change { propagation: Some(Propagation::Private), idmap: identity.map(), ..Change::default() };
    configure(&tree, false, change, path)?;
    Ok(tree)
}

/// Opens `inside` the tree if that is what `path` is, and not a directory hidden beneath another mount.
fn open_same(tree: &OwnedFd, inside: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let real = rustix::fs::stat(path).map_err(|errno| brig_sys::Error::new(format!("stat({path:?})"), errno))?;
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let layer = match rustix::fs::openat(tree, inside, flags, Mode::empty()) {
        Ok(layer) => layer,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(brig_sys::Error::new(format!("openat({path:?}, O_PATH|O_DIRECTORY)"), errno).into()),
    };
    let found = rustix::fs::fstat(&layer).map_err(|errno| brig_sys::Error::new(format!("fstat({path:?})"), errno))?;
    Ok(((found.st_dev, found.st_ino) == (real.st_dev, real.st_ino)).then_some(layer))
}

fn common_ancestor<'a>(paths: &[&'a Path]) -> &'a Path {
    let Some((first, rest)) = paths.split_first() else { return Path::new("/") };
    first.ancestors().find(|above| rest.iter().all(|path| path.starts_with(above))).unwrap_or(Path::new("/"))
}

/// Mounts the overlay as the container's root user, so that what overlayfs makes on its own (copies, whiteouts) has an
/// owner that the idmapped layers know, but with the caller's capabilities.
fn mount(parts: &Parts<'_>) -> Result<OwnedFd> {
    let by_descriptor = || -> brig_sys::Result<OwnedFd> {
        let overlay = Context::open("overlay")?;
        overlay.set("source", "overlay")?;
        for layer in &parts.lower {
            overlay.set_fd("lowerdir+", *layer)?;
        }
        overlay.set_fd("upperdir", parts.upper)?;
        overlay.set_fd("workdir", parts.work)?;
        if parts.volatile {
            overlay.set_flag("volatile")?;
        }
        overlay.mount(parts.attributes)
    };
    if BY_PATH.load(Ordering::Relaxed) {
        return overlay_by_path::mount(parts);
    }
    match brig_sys::idmap::as_filesystem_ids(parts.owner.0, parts.owner.1, by_descriptor)? {
        Ok(root) => Ok(root),
        // Before 6.13 overlayfs takes no descriptors, before 6.15 no detached mounts.
        Err(error) if matches!(error.errno, Errno::INVAL | Errno::NOENT | Errno::BADF | Errno::OPNOTSUPP) => {
            overlay_by_path::mount(parts).map_err(|second| Error {
                message: format!("{}; by descriptors before that: {error}", second.message),
                ..second
            })
        }
        Err(error) => Err(error).step(|| "rootfs".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_directory_above_all() {
        let paths = [Path::new("/a/b/c/diff"), Path::new("/a/b/d/upper"), Path::new("/a/b")];
        assert_eq!(common_ancestor(&paths), Path::new("/a/b"));
        assert_eq!(common_ancestor(&[Path::new("/a/b"), Path::new("/ab")]), Path::new("/"));
    }
}
