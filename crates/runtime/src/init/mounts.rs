//! Mounts inside the container: file systems made in its own namespaces, everything attached to descriptors of places
//! that were resolved in its root. Owns masked and read-only paths too. Must not follow a path outside of the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use brig_sys::beneath::Root;
use brig_sys::clone::flags;
use brig_sys::fdpass::Channel;
use brig_sys::mount::{Attr, Change, Context, Propagation};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::cgroups;
use super::{PROC_MAGIC, magic};
use crate::binds;
use crate::cgroup::Cgroup;
use crate::devices::{self, Node};
use crate::error::{Error, Result, Step};
use crate::identity::Identity;
use crate::mounts::{self as rules, Kind, Planned};
use crate::plan::Plan;
use crate::sysctl;
use crate::wire::{self, Order, Report};

/// A mount that waits for its place.
enum Ready {
    Detached(OwnedFd),
    /// What it is like depends on the place that it is mounted on.
    Later,
    /// A tree of the container's own root, with what earlier mounts have put there.
    Inner(PathBuf),
    Cgroup,
    Dev(OwnedFd),
    FromParent,
}

/// What was mounted, for later steps.
pub(super) struct Places {
    /// Our own `/dev`, if it is ours.
    pub dev: Option<OwnedFd>,
    /// The root of the container's devpts.
    pub devpts: Option<OwnedFd>,
    /// What becomes read-only when nothing is to be made in it any more.
    read_only: Vec<OwnedFd>,
}

impl Places {
    /// Makes read-only what had to be written until now.
    pub fn seal(&self, plan: &Plan<'_>) -> Result<()> {
        let dev = plan.mounts.iter().any(|mount| mount.kind == Kind::Dev && mount.options.read_only());
        let read_only = Change { set: Attr::MOUNT_ATTR_RDONLY, ..Change::default() };
        for place in self.read_only.iter().chain(self.dev.as_ref().filter(|_| dev)) {
            brig_sys::mount::configure(place.as_fd(), false, read_only).step(|| "mounts: ro".to_owned())?;
        }
        Ok(())
    }
}

/// Everything that can be mounted before the root is there.
pub(super) struct Prepared(Vec<Ready>);

/// Makes the file systems, detached, and writes the kernel parameters through a procfs that nothing is mounted on yet.
///
/// They come into being in the order of the specification, which is the order that mountinfo shows. Only what needs rights
/// over the host's devices while this process has none, and what comes from the host, is the parent's.
pub(super) fn prepare(plan: &Plan<'_>, console: bool) -> Result<Prepared> {
    let mut parameters = plan.sysctl.as_slice();
    let mut ready = Vec::with_capacity(plan.mounts.len());
    for mount in &plan.mounts {
        ready.push(match mount.kind {
            Kind::Dev if plan.makes_own_dev() => {
                let everybody = Identity::of(0, false)?;
                Ready::Dev(devices::make(mount, &plan.nodes, console, &everybody)?)
            }
            Kind::Bind | Kind::Dev => mount.inner.clone().map_or(Ready::FromParent, Ready::Inner),
            Kind::Cgroup => Ready::Cgroup,
            Kind::FileSystem if is_like_its_place(mount) => Ready::Later,
            Kind::FileSystem => {
                let made = make(mount, None).step(|| place(mount))?;
                if mount.fs == "proc" && mount.options.data.is_empty() && !parameters.is_empty() {
                    sysctl::write(made.as_fd(), std::mem::take(&mut parameters))?;
                }
                // Only now: a read-only procfs would have refused the parameters.
                if mount.fs == "proc" && mount.options.read_only() {
                    let read_only = Change { set: Attr::MOUNT_ATTR_RDONLY, ..Change::default() };
                    brig_sys::mount::configure(made.as_fd(), false, read_only).step(|| place(mount))?;
                }
                Ready::Detached(made)
            }
        });
    }
    if !parameters.is_empty() {
        let proc = Context::open("proc")?.mount(Attr::empty()).step(|| "linux.sysctl".to_owned())?;
        sysctl::write(proc.as_fd(), parameters)?;
    }
    Ok(Prepared(ready))
}

fn place(mount: &Planned) -> String {
    format!("mounts: /{} ({})", mount.destination.display(), mount.fs)
}

/// A tmpfs without a mode takes that of the directory that it covers.
fn is_like_its_place(mount: &Planned) -> bool {
    mount.fs == "tmpfs" && !mount.options.has_data("mode")
}

fn make(mount: &Planned, mode: Option<u32>) -> Result<OwnedFd> {
    let context = Context::open(&mount.fs).map_err(|error| match error.errno {
        Errno::NODEV => Error::unsupported(format!("{error}: this kernel does not have that file system")),
        _ => Error::from(error),
    })?;
    if let Some(source) = &mount.source {
        context.set("source", source.as_path())?;
    }
    for (key, value) in &mount.options.data {
        match value {
            Some(value) => context.set(key, value.as_str())?,
            // Every devpts is an instance of its own nowadays.
            None if key == "newinstance" && mount.fs == "devpts" => {}
            None => context.set_flag(key)?,
        }
    }
    if let Some(mode) = mode {
        context.set("mode", format!("{mode:o}").as_str())?;
    }
    let mut attributes = mount.options.all_set();
    if matches!(mount.fs.as_str(), "proc" | "tmpfs") {
        attributes &= !Attr::MOUNT_ATTR_RDONLY;
    }
    let made = context.mount(attributes).map_err(|error| match (error.errno, mount.fs.as_str()) {
        (Errno::PERM, "proc" | "sysfs" | "mqueue" | "cgroup" | "cgroup2") => Error::unsupported(format!(
            "{error}: needs namespaces of the container's own: the host's cannot be shared with a user namespace (use --userns=host)"
        )),
        _ => Error::from(error),
    })?;
    if let Some((propagation, recursive)) = mount.options.propagation {
        brig_sys::mount::configure(
            made.as_fd(),
            recursive,
            Change { propagation: Some(propagation), ..Change::default() },
        )?;
    }
    Ok(made)
}

/// Attaches everything in the order of the specification.
pub(super) fn attach(
    plan: &Plan<'_>,
    cgroup: &Cgroup,
    root: &Root,
    prepared: Prepared,
    fds: &mut impl Iterator<Item = OwnedFd>,
    channel: &Channel,
) -> Result<Places> {
    let mut places = Places { dev: None, devpts: None, read_only: Vec::new() };
    for (mount, ready) in plan.mounts.iter().zip(prepared.0) {
        match ready {
            Ready::Cgroup => cgroups::mount(plan, cgroup, root, mount).step(|| place(mount))?,
            Ready::Detached(made) => {
                attach_one(root, mount, &made).step(|| place(mount))?;
                if mount.fs == "devpts" && mount.destination == Path::new("dev/pts") {
                    places.devpts = Some(made);
                } else if mount.fs == "tmpfs" && mount.options.read_only() {
                    places.read_only.push(made);
                }
            }
            Ready::Later => {
                let mode = mode_of(root, &mount.destination).step(|| place(mount))?;
                let made = make(mount, mode).step(|| place(mount))?;
                attach_one(root, mount, &made).step(|| place(mount))?;
                if mount.options.read_only() {
                    places.read_only.push(made);
                }
            }
            Ready::Inner(source) => {
                let map = mount.mappings.is_some().then(|| fds.next()).flatten();
                let user = plan.namespaces.has(flags::NEWUSER).then_some(channel);
                let made = inner(root, mount, &source, map.as_ref(), user).step(|| place(mount))?;
                attach_one(root, mount, &made).step(|| place(mount))?;
            }
            Ready::Dev(made) => {
                attach_one(root, mount, &made).step(|| place(mount))?;
                bind_dev(plan, &made)?;
                places.dev = Some(made);
            }
            Ready::FromParent => {
                let made = fds.next().ok_or_else(|| Error::system("the parent sent too few mounts"))?;
                attach_one(root, mount, &made).step(|| place(mount))?;
                if mount.kind == Kind::Dev {
                    bind_dev(plan, &made)?;
                    places.dev = Some(made);
                }
            }
        }
    }
    if !plan.nodes.outside.is_empty() {
        let made = fds.next().ok_or_else(|| Error::system("the parent sent no device nodes"))?;
        bind_nodes(root, &made, plan)?;
    }
    Ok(places)
}

/// Binds the nodes that the parent has made to their places. Before Linux 6.15 there are copies of attached mounts only, so
/// for that time their file system covers the root, where nobody sees it: what is looked for begins beneath it.
fn bind_nodes(root: &Root, made: &OwnedFd, plan: &Plan<'_>) -> Result<()> {
    brig_sys::mount::attach(made.as_fd(), root.as_fd()).step(|| "linux.devices".to_owned())?;
    let bound = plan.nodes.outside.iter().enumerate().try_for_each(|(number, (path, node))| {
        bind_node(root, made, number, path, node).step(|| format!("linux.devices: /{}", path.display()))
    });
    let detached = brig_sys::mount::detach(made.as_fd()).step(|| "linux.devices".to_owned());
    bound.and(detached)
}

/// Binds a node that the parent has made to its place.
fn bind_node(root: &Root, made: &OwnedFd, number: usize, path: &Path, node: &Node) -> Result<()> {
    let mut source = devices::open(made, Path::new(&number.to_string()))?;
    if file_type(source.as_fd())? != node.kind {
        source = devices::of_host(node, path)?;
    }
    let place = root.create_file(path, Mode::from_raw_mode(0o600))?;
    if magic(place.as_fd())? == PROC_MAGIC {
        return Err(Error::invalid("leads into /proc by a symbolic link"));
    }
    let copy = brig_sys::mount::clone_tree(source.as_fd(), false)?;
    Ok(brig_sys::mount::attach(copy.as_fd(), place.as_fd())?)
}

/// Where no nodes could be made there are empty files in their places, on which those of the host are bound.
fn bind_dev(plan: &Plan<'_>, dev: &OwnedFd) -> Result<()> {
    if file_type(devices::open(dev, Path::new("null"))?.as_fd())? == FileType::CharacterDevice {
        return Ok(());
    }
    for (path, node) in plan.nodes.dev.iter().filter(|(_, node)| node.kind != FileType::Fifo) {
        let step = || format!("linux.devices: /dev/{}", path.display());
        let copy = devices::of_host(node, &Path::new("dev").join(path))
            .and_then(|source| Ok(brig_sys::mount::clone_tree(source.as_fd(), false)?))
            .step(step)?;
        let place = devices::open(dev, path).step(step)?;
        brig_sys::mount::attach(copy.as_fd(), place.as_fd()).step(step)?;
    }
    Ok(())
}

/// The mode of what stands at a path, if anything does.
fn mode_of(root: &Root, path: &Path) -> Result<Option<u32>> {
    let Some(place) = open_if_there(root, path)? else { return Ok(None) };
    let stat = rustix::fs::fstat(&place).map_err(|errno| brig_sys::Error::new("fstat()", errno))?;
    Ok(Some(stat.st_mode & 0o7777))
}

/// A copy of a tree of the container's, as the mount wants it. In a user namespace, the parent maps it, over the channel.
fn inner(
    root: &Root,
    mount: &Planned,
    source: &Path,
    map: Option<&OwnedFd>,
    user: Option<&Channel>,
) -> Result<OwnedFd> {
    let from = root.open_in(source, OFlags::PATH, Mode::empty())?;
    let tree = brig_sys::mount::clone_tree(from.as_fd(), mount.options.bind == Some(true))?;
    let (Some(map), Some(channel)) = (map, user) else {
        binds::finish(mount, &tree, map, None, false, user.is_some())?;
        return Ok(tree);
    };
    wire::report_with(channel, &Report::Map, map.as_fd())?;
    wire::report_with(channel, &Report::Unmapped { recursive: binds::maps_all(mount) }, tree.as_fd())?;
    if wire::wait_order(channel, Order::MountMapped)?.is_none() {
        return Err(Error::system("the parent died before the mount had its map"));
    }
    binds::finish(mount, &tree, None, None, false, true)?;
    Ok(tree)
}

fn attach_one(root: &Root, mount: &Planned, made: &OwnedFd) -> Result<()> {
    let directory = mount.kind != Kind::Bind || file_type(made.as_fd())? == FileType::Directory;
    let target = target(root, mount, directory)?;
    if mount.options.copy_up {
        copy_up(&target, made, mount.options.has_data("mode"))?;
    }
    Ok(brig_sys::mount::attach(made.as_fd(), target.as_fd())?)
}

pub(super) fn file_type(fd: BorrowedFd<'_>) -> Result<FileType> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| brig_sys::Error::new("fstat()", errno))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// The place of a mount, made if it is missing.
pub(crate) fn target(root: &Root, mount: &Planned, directory: bool) -> Result<OwnedFd> {
    let path = mount.destination.as_path();
    let mode = Mode::from_raw_mode(0o755);
    let special = path == Path::new("proc") || path == Path::new("sys");
    if special || (matches!(mount.fs.as_str(), "proc" | "sysfs") && mount.kind == Kind::FileSystem) {
        return plain_directory(root, path);
    }
    if path.starts_with("proc") {
        // One of the few files that the rules let be hidden, and really that file.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        return rustix::fs::openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(|errno| {
                brig_sys::Error::new(format!("openat2({path:?}, O_PATH, RESOLVE_IN_ROOT|RESOLVE_NO_SYMLINKS)"), errno)
                    .into()
            });
    }
    let target = if directory { root.mkdir_all(path, mode)? } else { root.create_file(path, mode)? };
    // A link of the image may lead anywhere in the root, but not into procfs.
    if magic(target.as_fd())? == PROC_MAGIC && !rules::may_hide_in_proc(path) {
        return Err(Error::invalid("leads into /proc by a symbolic link"));
    }
    Ok(target)
}

/// `/proc` and `/sys` must be directories of the image, not links to other places in it.
fn plain_directory(root: &Root, path: &Path) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    match rustix::fs::openat2(
        root.as_fd(),
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    ) {
        Ok(fd) => Ok(fd),
        Err(Errno::NOENT) => Ok(root.mkdir_all(path, Mode::from_raw_mode(0o755))?),
        Err(Errno::LOOP) => Err(Error::invalid(format!(
            "/{} must be mounted on ordinary directory: it is a symbolic link in the image",
            path.display()
        ))),
        Err(Errno::NOTDIR) => Err(Error::invalid(format!(
            "/{} must be mounted on ordinary directory: it is not a directory in the image",
            path.display()
        ))),
        Err(errno) => Err(brig_sys::Error::new(
            format!("openat2({path:?}, O_PATH|O_DIRECTORY, RESOLVE_IN_ROOT|RESOLVE_NO_SYMLINKS)"),
            errno,
        )
        .into()),
    }
}

/// Copies what a directory of the image holds into a new tmpfs.
fn copy_up(from: &OwnedFd, to: &OwnedFd, keep_mode: bool) -> Result<()> {
    let open = |errno| brig_sys::Error::new("openat(\".\" of a tmpfs with tmpcopyup)", errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(from, ".", flags, Mode::empty()).map_err(open)?;
    let to = rustix::fs::openat(to, ".", flags, Mode::empty()).map_err(open)?;
    crate::copy::tree(&from, &to, keep_mode).step(|| "tmpcopyup".to_owned())
}

/// Masked and read-only paths.
pub(super) fn hide(plan: &Plan<'_>, root: &Root, places: &Places) -> Result<()> {
    for path in &plan.linux.readonly_paths {
        let step = || format!("linux.readonlyPaths: {path}");
        let inside = rules::inside(Path::new(path), "linux.readonlyPaths")?;
        let Some(place) = open_if_there(root, &inside).step(step)? else { continue };
        let tree = brig_sys::mount::clone_tree(place.as_fd(), true).step(step)?;
        let change =
            Change { set: Attr::MOUNT_ATTR_RDONLY, propagation: Some(Propagation::Private), ..Change::default() };
        brig_sys::mount::configure(tree.as_fd(), true, change).step(step)?;
        brig_sys::mount::attach(tree.as_fd(), place.as_fd()).step(step)?;
    }
    if plan.linux.masked_paths.is_empty() {
        return Ok(());
    }
    let null = null_node(places)?;
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.linux.masked_paths {
        let step = || format!("linux.maskedPaths: {path}");
        let inside = rules::inside(Path::new(path), "linux.maskedPaths")?;
        let Some(place) = open_if_there(root, &inside).step(step)? else { continue };
        let cover = if file_type(place.as_fd())? == FileType::Directory {
            match &empty {
                // The first stays attached where it is; later ones are copies of it.
                Some(first) => brig_sys::mount::clone_tree(first.as_fd(), false).step(step)?,
                None => empty_directory(&plan.linux.mount_label).step(step)?,
            }
        } else {
            brig_sys::mount::clone_tree(null.as_fd(), false).step(step)?
        };
        brig_sys::mount::attach(cover.as_fd(), place.as_fd()).step(step)?;
        if empty.is_none() && file_type(cover.as_fd())? == FileType::Directory {
            empty = Some(cover);
        }
    }
    Ok(())
}

/// What is not there needs no hiding; that holds for this one open only.
fn open_if_there(root: &Root, path: &Path) -> Result<Option<OwnedFd>> {
    match root.open_in(path, OFlags::PATH, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn empty_directory(label: &str) -> Result<OwnedFd> {
    let tmpfs = Context::open("tmpfs")?;
    if !label.is_empty() {
        tmpfs.set("context", label)?;
    }
    for (key, value) in [("source", "tmpfs"), ("nr_blocks", "1"), ("nr_inodes", "1"), ("mode", "0555")] {
        tmpfs.set(key, value)?;
    }
    let attributes =
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    Ok(tmpfs.mount(attributes)?)
}

/// A null device that no image could have replaced: of our own `/dev`, else the host's.
fn null_node(places: &Places) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match &places.dev {
        Some(dev) => rustix::fs::openat(dev, "null", flags, Mode::empty()),
        None => rustix::fs::open("/dev/null", flags, Mode::empty()),
    };
    let null = opened.map_err(|errno| brig_sys::Error::new("open(\"/dev/null\", O_PATH|O_NOFOLLOW)", errno))?;
    let stat = rustix::fs::fstat(&null).map_err(|errno| brig_sys::Error::new("fstat(\"/dev/null\")", errno))?;
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(null) } else { Err(Error::system("linux.maskedPaths: /dev/null is not the null device")) }
}
