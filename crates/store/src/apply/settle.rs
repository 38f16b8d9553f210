//! What unpacking leaves for a process with all rights, and that process's part: devices, file capabilities, and overlayfs'
//! marks, none of which a user namespace may make. Owns finding the place again by its inode number.
//! Must not believe the list: it may come from a process that a hostile archive has taken over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brig_sys::beneath::{self, Root};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::{OPAQUE, is_device_number};
use crate::error::{Error, Result};

/// The name beside the layer's files under which a device is made before it takes its place.
const NEW_DEVICE: &str = "device";

/// Something to be done once unpacking has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Later {
    /// The path by which the archive led there, below the layer's root. Links in it may have changed since.
    pub(crate) path: PathBuf,
    /// What it is about, wherever it is now.
    pub(crate) inode: u64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// The directory hides what is below it.
    Opaque,
    /// The pipe that stands there is to be this character or block device, under each of its names.
    Device { character: bool, major: u32, minor: u32 },
    /// An attribute that only a process with all rights can set, or only by way of `/proc`.
    Attribute { name: OsString, value: Vec<u8> },
}

/// Does all that was left, in the layer's files `root` of the ingest `ingest`. Tells how many attributes were left out, as
/// the file system or the kind of file does not have them. What a later member took away is passed over.
pub(crate) fn settle(ingest: &Root, root: &Root, list: &[Later]) -> Result<u64> {
    let places = Places::find(root, list)?;
    let mut ignored = 0;
    // A device takes over what was said about the pipe that stands for it.
    for later in list {
        let described = |error: Error| error.context(later.path.display().to_string().escape_default());
        let Some((parent, name)) = places.of(root, later)? else { continue };
        match &later.what {
            What::Device { .. } => {}
            What::Opaque => beneath::set_xattr_at(parent.as_fd(), &name, OsStr::new(OPAQUE), b"y")?,
            What::Attribute { name: attribute, value } => {
                ignored += set_attribute(&parent, &name, attribute, value).map_err(described)?;
            }
        }
    }
    let mut devices: BTreeMap<u64, Vec<&Later>> = BTreeMap::new();
    for later in list.iter().filter(|later| matches!(later.what, What::Device { .. })) {
        devices.entry(later.inode).or_default().push(later);
    }
    for told in devices.values() {
        let described = |error: Error| error.context(told[0].path.display().to_string().escape_default());
        device(ingest, root, told[0], &places.all(told)).map_err(described)?;
    }
    Ok(ignored)
}

/// Runs `change`, which adds to or takes from a directory, and gives the directory its times again.
pub(crate) fn undisturbed<T>(directory: &OwnedFd, change: impl FnOnce() -> Result<T>) -> Result<T> {
    let stat = rustix::fs::fstat(directory).map_err(|errno| Error::io("fstat", errno))?;
    let done = change()?;
    rustix::fs::utimensat(directory, "", &times_of(&stat), AtFlags::EMPTY_PATH)
        .map_err(|errno| Error::io("utimensat", errno))?;
    Ok(done)
}

/// The modification time of what `stat` is about, as both times to set.
pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default() };
    Timestamps { last_access: time, last_modification: time }
}

/// Makes one device in the place of the pipe that stands for it, under all its names.
fn device(ingest: &Root, root: &Root, later: &Later, names: &[&Path]) -> Result<()> {
    let What::Device { character, major, minor } = later.what else { return Ok(()) };
    if !is_device_number(character, major, minor) {
        return Err(Error::invalid(format!("device number {major}:{minor} is out of range")));
    }
    let kind = if character { FileType::CharacterDevice } else { FileType::BlockDevice };
    let device = rustix::fs::makedev(major, minor);
    let mut first = None;
    for path in names {
        if let Some((parent, name)) = at(root, path, later)? {
            undisturbed(&parent, || replace(ingest, root, (&parent, &name), first, (kind, device)))?;
            first = first.or(Some(*path));
        }
    }
    Ok(())
}

/// Puts a device, or a further name of the one at `first`, in the place of the pipe `name`.
fn replace(
    ingest: &Root,
    root: &Root,
    (parent, name): (&OwnedFd, &OsStr),
    first: Option<&Path>,
    (kind, device): (FileType, u64),
) -> Result<()> {
    let failed = |call: &'static str| move |errno: Errno| Error::io(call, errno);
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
        return Err(Error::invalid("something else stands where a device is to be"));
    }
    let aside = ingest.open_in(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let new = OsStr::new(NEW_DEVICE);
    Root::remove_tree(aside.as_fd(), new)?;
    match first {
        Some(first) => {
            let (first_parent, first_name) = root.parent(first)?;
            rustix::fs::linkat(&first_parent, &first_name, &aside, new, AtFlags::empty()).map_err(failed("link"))?;
        }
        None => {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(&aside, new, kind, mode, device).map_err(failed("mknod"))?;
            crate::layer::describe(parent, name, &aside, new, &stat)?;
        }
    }
    rustix::fs::renameat(&aside, new, parent, name).map_err(failed("rename"))
}

/// Tells 1 if the attribute was left out.
fn set_attribute(parent: &OwnedFd, name: &OsStr, attribute: &OsStr, value: &[u8]) -> Result<u64> {
    if !super::may_be_set(attribute.as_bytes()) {
        return Err(Error::invalid(format!("extended attribute {} is not an archive's to set", attribute.display())));
    }
    let set = beneath::set_xattr_at(parent.as_fd(), name, attribute, value);
    super::attribute(attribute, set.map_err(|error| error.errno)).map(u64::from)
}

/// Where things are that are not any more where the archive's own path leads.
struct Places(HashMap<u64, Vec<PathBuf>>);

impl Places {
    fn find(root: &Root, list: &[Later]) -> Result<Places> {
        let mut lost = HashSet::new();
        for later in list {
            if at(root, &later.path, later)?.is_none() {
                lost.insert(later.inode);
            }
        }
        let mut found = HashMap::new();
        if !lost.is_empty() {
            search(root, &lost, &mut found)?;
        }
        Ok(Places(found))
    }

    /// The directory and name of what this is about; an empty name means the directory itself.
    fn of(&self, root: &Root, later: &Later) -> Result<Option<(OwnedFd, OsString)>> {
        if let Some(found) = at(root, &later.path, later)? {
            return Ok(Some(found));
        }
        match self.0.get(&later.inode).and_then(|paths| paths.first()) {
            Some(path) => at(root, path, later),
            None => Ok(None),
        }
    }

    /// Every path at which one thing may stand.
    fn all<'a>(&'a self, told: &[&'a Later]) -> Vec<&'a Path> {
        let found = told.first().and_then(|later| self.0.get(&later.inode)).into_iter().flatten();
        told.iter().map(|later| later.path.as_path()).chain(found.map(PathBuf::as_path)).collect()
    }
}

/// What stands at `path`, if that is still the inode in question.
fn at(root: &Root, path: &Path, later: &Later) -> Result<Option<(OwnedFd, OsString)>> {
    let is_gone = |errno| matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
    let failed = |errno| Error::io(format!("stat {}", path.display()), errno);
    if later.what == What::Opaque {
        let directory = match root.open_in(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if is_gone(error.errno) => return Ok(None),
            opened => opened?,
        };
        let same = rustix::fs::fstat(&directory).map_err(failed)?.st_ino == later.inode;
        return Ok(same.then(|| (directory, OsString::new())));
    }
    let (parent, name) = match root.parent(path) {
        // A directory's own attributes may be the root's.
        Err(error) if error.errno == Errno::INVAL => {
            (root.open_in(Path::new(""), OFlags::PATH, Mode::empty())?, OsString::new())
        }
        Err(error) if is_gone(error.errno) => return Ok(None),
        found => found?,
    };
    let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    match rustix::fs::statat(&parent, &name, flags) {
        Ok(stat) => Ok((stat.st_ino == later.inode).then_some((parent, name))),
        Err(errno) if is_gone(errno) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

/// Looks through all of the layer for these inodes.
fn search(root: &Root, lost: &HashSet<u64>, found: &mut HashMap<u64, Vec<PathBuf>>) -> Result<()> {
    let failed = |errno: Errno| Error::io("look through the layer", errno);
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let fd = root.open_in(&path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if lost.contains(&entry.ino()) {
                found.entry(entry.ino()).or_default().push(path.join(name));
            }
            if entry.file_type() == FileType::Directory {
                todo.push(path.join(name));
            }
        }
    }
    Ok(())
}
