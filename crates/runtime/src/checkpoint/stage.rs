//! What a restore mounts, laid out for CRIU where only CRIU sees it: a mount namespace that ends with it.
//! Owns the layout. Every mount gets all its attributes here, before CRIU can show it to anybody. Must not leave anything on
//! the host but the places of mounts in the container's root, which a create makes too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use brig_sys::beneath::Root;
use brig_sys::clone::flags;
use brig_sys::mount::{Attr, Change, Context, Propagation};
use rustix::fs::{FileType, Mode, OFlags};

use super::images::{self, Mount};
use super::{NULL, external_name, is_external, masks_from_host, mountinfo};
use crate::cgroup::Cgroup;
use crate::error::{Error, Result, Step};
use crate::identity::Identity;
use crate::mounts::{Kind, Planned};
use crate::plan::Plan;
use crate::rootfs::{self, Rootfs};
use crate::{binds, devices, init};

/// Where the layout is mounted: a directory that everybody may pass (also who is root in a user namespace only), and in which
/// nothing that CRIU needs lives.
const PLACES: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];

/// A mount that is given to the restored container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staged {
    /// What images call it.
    pub name: String,
    /// Where CRIU finds it.
    pub path: PathBuf,
    /// `major:minor`, and what of that file system it shows.
    pub device: String,
    pub root: PathBuf,
    /// What it takes away (`mountinfo::RESTRICTIONS`).
    pub restrictions: u32,
}

/// What is laid out.
pub(super) struct Stage<'a> {
    pub plan: &'a Plan<'a>,
    pub cgroup: &'a Cgroup,
    pub rootfs: &'a Rootfs,
    /// Files of the root and of bind mounts get the container's owners.
    pub idmap: bool,
    pub identity: &'a Identity,
    pub images: &'a [Mount],
    pub console: bool,
}

/// Where the layout is.
pub(super) fn place() -> Result<&'static Path> {
    let found =
        PLACES.iter().map(Path::new).find(|place| std::fs::symlink_metadata(place).is_ok_and(|stat| stat.is_dir()));
    found.ok_or_else(|| Error::system(format!("restore: none of {} is a directory", PLACES.join(", "))))
}

/// The container's root in the layout.
pub(super) fn root_path(place: &Path) -> PathBuf {
    place.join("root")
}

impl Stage<'_> {
    /// Runs in the child that becomes CRIU, in a mount namespace of its own: lays everything out. Returns the
    /// directory of the images as the container's root may read it.
    pub fn run(&self, images: OwnedFd) -> Result<OwnedFd> {
        let place = place()?;
        let open = |path: &Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, O_PATH)"), errno))
        };
        let slave = Change { propagation: Some(Propagation::Slave), ..Change::default() };
        brig_sys::mount::configure(open(Path::new("/"))?.as_fd(), true, slave)?;
        // All sources first: the layout may cover some.
        let root = rootfs::make(self.rootfs, self.identity, self.idmap)?;
        let prepared = rootfs::make(self.rootfs, self.identity, self.idmap)?;
        let trees = self.trees()?;
        let tmpfs = Context::open("tmpfs")?;
        tmpfs.set("source", "restore")?;
        tmpfs.set("mode", "0755")?;
        let layout = tmpfs.mount(Attr::empty())?;
        brig_sys::mount::attach(layout.as_fd(), open(place)?.as_fd())?;
        let layout = Root::from_fd(layout);
        attach(&layout, "root", &root.root)?;
        for (name, tree) in &trees {
            attach(&layout, name, tree)?;
        }
        attach(&layout, "prepared", &prepared.root)?;
        self.prepare(&layout, place)?;
        // Else CRIU's copies of the namespace would have it too.
        rustix::mount::unmount(place.join("prepared"), rustix::mount::UnmountFlags::DETACH)
            .map_err(|errno| brig_sys::Error::new("umount2(prepared, MNT_DETACH)", errno))?;
        match self.identity.map() {
            Some(owners) => readable(&layout, images, owners),
            None => Ok(images),
        }
    }

    /// What comes from outside, detached, by its name in the layout.
    fn trees(&self) -> Result<Vec<(String, OwnedFd)>> {
        let user_namespace = self.plan.namespaces.has(flags::NEWUSER);
        let mut trees = Vec::new();
        for (index, mount) in
            self.plan.mounts.iter().enumerate().filter(|(_, mount)| is_external(mount, user_namespace))
        {
            let tree = match mount.kind {
                Kind::Dev => devices::make(mount, &self.plan.nodes, self.console, self.identity)?,
                _ => binds::make(mount, self.identity, self.idmap, self.plan.namespaces.has(flags::NEWUSER))?,
            };
            trees.push((index.to_string(), tree));
        }
        let cgroups = self.plan.mounts.iter().enumerate().filter(|(_, mount)| mount.kind == Kind::Cgroup);
        for (index, mount) in cgroups.filter(|_| !self.plan.namespaces.has(flags::NEWCGROUP)) {
            for (beneath, tree) in init::cgroup_binds(self.plan, self.cgroup, mount)? {
                trees.push((Path::new(&index.to_string()).join(beneath).to_string_lossy().into_owned(), tree));
            }
        }
        if masks_from_host(&self.plan.mounts) {
            let null = brig_sys::mount::clone_tree_at(Path::new("/dev/null"), false)
                .step(|| "linux.maskedPaths".to_owned())?;
            trees.push(("null".to_owned(), null));
        }
        Ok(trees)
    }

    /// Makes the places of mounts in the root, as a create does, and checks those of the images.
    fn prepare(&self, layout: &Root, place: &Path) -> Result<()> {
        let root =
            Root::from_fd(layout.open_in(Path::new("prepared"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?);
        let user_namespace = self.plan.namespaces.has(flags::NEWUSER);
        let mut staged = Vec::new();
        for (index, mount) in self.plan.mounts.iter().enumerate() {
            if is_external(mount, user_namespace) {
                staged.push((external_name(index, mount, Path::new("")), place.join(index.to_string())));
            }
            // What a file system of CRIU's holds, CRIU brings; cgroups are in such a one.
            let made = |other: &Planned| !is_external(other, user_namespace) && other.kind != Kind::Cgroup;
            if mount.kind == Kind::Cgroup || self.plan.mounts.iter().any(|other| made(other) && below(mount, other)) {
                continue;
            }
            let step = || format!("mounts: /{}", mount.destination.display());
            let tree = layout.open_in(Path::new(&index.to_string()), OFlags::PATH, Mode::empty()).ok();
            let directory = match &tree {
                Some(tree) => kind_of(tree)? == FileType::Directory,
                None => true,
            };
            let target = init::place_of_mount(&root, mount, directory).step(step)?;
            if let Some(tree) = tree {
                let copy = brig_sys::mount::clone_tree(tree.as_fd(), true).step(step)?;
                brig_sys::mount::attach(copy.as_fd(), target.as_fd()).step(step)?;
            }
        }
        images::check_links(self.images, &root.as_fd(), &staged)
    }
}

fn below(mount: &Planned, other: &Planned) -> bool {
    mount.destination != other.destination && mount.destination.starts_with(&other.destination)
}

fn kind_of(fd: &OwnedFd) -> Result<FileType> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| brig_sys::Error::new("fstat()", errno))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

fn attach(layout: &Root, name: &str, tree: &OwnedFd) -> Result<()> {
    let path = Path::new(name);
    let target = if kind_of(tree)? == FileType::Directory {
        layout.mkdir_all(path, Mode::from_raw_mode(0o755))?
    } else {
        layout.create_file(path, Mode::from_raw_mode(0o644))?
    };
    brig_sys::mount::attach(tree.as_fd(), target.as_fd())?;
    // Attached below a shared mount it would be one itself.
    let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
    Ok(brig_sys::mount::configure(tree.as_fd(), true, private)?)
}

/// The images once more, each its own mount, for those who restore inside of a user namespace: to root there they are its own.
/// Before that namespace has its map CRIU reads clocks there, as nobody; those are no secret.
fn readable(layout: &Root, images: OwnedFd, owners: BorrowedFd<'_>) -> Result<OwnedFd> {
    let step = || "images".to_owned();
    let mapped = brig_sys::mount::clone_tree(images.as_fd(), false).step(step)?;
    match brig_sys::mount::configure(mapped.as_fd(), false, Change { idmap: Some(owners), ..Change::default() }) {
        Ok(()) => {}
        // Not every file system can; then the files' modes decide.
        Err(error) if error.errno == rustix::io::Errno::INVAL => return Ok(images),
        Err(error) => return Err(error.into()),
    }
    attach(layout, "mapped", &mapped)?;
    let call = |name: &str, errno| brig_sys::Error::new(format!("openat(images, {name:?})"), errno);
    let entries = rustix::fs::Dir::read_from(&images).map_err(|errno| call(".", errno))?;
    layout.mkdir_all(Path::new("images"), Mode::from_raw_mode(0o755))?;
    for entry in entries {
        let entry = entry.map_err(|errno| call(".", errno))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.ends_with(".img") {
            continue;
        }
        let copy = format!("images/{name}");
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let image = rustix::fs::openat(&mapped, &name, flags, Mode::empty()).map_err(|errno| call(&name, errno))?;
        if name.starts_with("timens-") {
            copy_clocks(layout, &images, &name, &copy)?;
        } else if kind_of(&image)? == FileType::RegularFile {
            attach(layout, &copy, &brig_sys::mount::clone_tree(image.as_fd(), false).step(step)?)?;
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    Ok(layout.open_in(Path::new("images"), flags, Mode::empty())?)
}

/// A clock image is some dozens of bytes.
fn copy_clocks(layout: &Root, images: &OwnedFd, name: &str, copy: &str) -> Result<()> {
    let call = |errno| Error::from(brig_sys::Error::new(format!("copy of {name}"), errno));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let from = rustix::fs::openat(images, name, flags, Mode::empty()).map_err(call)?;
    let mut content = [0u8; 4096];
    let length = rustix::io::read(&from, &mut content[..]).map_err(call)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
    let to = layout.open_in(Path::new(copy), flags, Mode::from_raw_mode(0o644))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(0o644)).map_err(call)?;
    rustix::io::write(&to, &content[..length]).map(drop).map_err(call)
}

/// What lies ready, by the mounts of the process that laid it out.
pub(super) fn staged(plan: &Plan<'_>, place: &Path, mounts: &[mountinfo::Entry]) -> Vec<Staged> {
    let mut staged = Vec::new();
    let mut add = |name: String, entry: &mountinfo::Entry| {
        staged.push(Staged {
            name,
            path: entry.point.clone(),
            device: entry.device.clone(),
            root: entry.root.clone(),
            restrictions: entry.restrictions,
        });
    };
    for entry in mounts {
        let Ok(inside) = entry.point.strip_prefix(place) else { continue };
        let mut components = inside.components();
        let Some(first) = components.next().and_then(|first| first.as_os_str().to_str()) else { continue };
        let beneath = components.as_path();
        if first == "null" && beneath.as_os_str().is_empty() {
            add(NULL.to_owned(), entry);
        } else if let Some((index, mount)) =
            first.parse::<usize>().ok().and_then(|index| Some((index, plan.mounts.get(index)?)))
        {
            add(external_name(index, mount, beneath), entry);
        }
    }
    staged
}
