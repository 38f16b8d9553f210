//! The directory that is being unpacked into: finding and making parents, replacing what stands in the way.
//! Must not know member types other than by what it is asked to make.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use brig_sys::beneath::Root;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use super::{Applied, Content, Later, What, WriteBack, times};
use crate::error::{Error, Result};
use crate::recipe::REPLACED;
use crate::tar::Time;

/// overlayfs' mark of a directory that hides what is below it.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// What may be left to be done after unpacking, in bytes: undescribed directories, links to what is below, attributes.
pub(crate) const MAX_LEFT: usize = 16 << 20;
/// What may be remembered of directories that were described, in bytes.
const MAX_TIMES: usize = 64 << 20;
/// What each entry of those takes beside its path, in bytes.
const NOTE: usize = 64;
/// Parents that are kept open.
const MAX_CACHED: usize = 256;

pub(crate) struct Tree<'a> {
    /// The directory that `root` is in.
    ingest: &'a Root,
    pub(crate) root: &'a Root,
    pub(super) content: Content,
    pub(super) write_back: &'a WriteBack,
    pub(crate) applied: Applied,
    /// Directories by the path that led to them; emptied when a directory or link that may be on such a path goes.
    parents: HashMap<PathBuf, Rc<OwnedFd>>,
    /// Directories that no member has described yet, by inode number.
    implied: HashMap<u64, PathBuf>,
    /// What is left for later, by inode number, so that it goes when that number is free again.
    later: HashMap<u64, Vec<Later>>,
    /// Modification times of directories, set last: path, inode number, time.
    directory_times: Vec<(PathBuf, u64, Time)>,
    /// Bytes that what is left to be done takes.
    left: usize,
    /// Bytes that the times of directories take.
    timed: usize,
    /// Whole directories were replaced, so that the running sum of sizes is not right any more.
    recount: bool,
    /// How many files and directories were set aside because a later member took their place.
    replaced: u64,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(
        ingest: &'a Root,
        root: &'a Root,
        content: Content,
        write_back: &'a WriteBack,
    ) -> Result<Tree<'a>> {
        let stat = rustix::fs::fstat(root.as_fd()).map_err(|errno| Error::io("fstat", errno))?;
        let implied = HashMap::from([(stat.st_ino, PathBuf::new())]);
        Ok(Tree {
            ingest,
            root,
            content,
            write_back,
            applied: Applied::default(),
            parents: HashMap::new(),
            implied,
            later: HashMap::new(),
            directory_times: Vec::new(),
            left: 0,
            timed: 0,
            recount: false,
            replaced: 0,
        })
    }

    /// Whether anything is not where it was made any more.
    pub(crate) fn has_replaced(&self) -> bool {
        self.replaced > 0
    }

    pub(crate) fn finish(mut self) -> Result<Applied> {
        if self.recount {
            self.applied.content_bytes = content_bytes(self.root)?;
        }
        self.applied.implied = self.implied.into_iter().map(|(inode, path)| (path, inode)).collect();
        self.applied.implied.sort();
        let mut later: Vec<Vec<Later>> = self.later.into_values().collect();
        later.sort_by(|left, right| left[0].path.cmp(&right[0].path));
        self.applied.later = later.into_iter().flatten().collect();
        for (path, inode, time) in self.directory_times {
            set_directory_time(self.root, &path, inode, time)?;
        }
        Ok(self.applied)
    }

    /// A member has described this directory.
    pub(crate) fn described(&mut self, path: &Path, inode: u64, time: Time) -> Result<()> {
        self.implied.remove(&inode);
        self.timed += NOTE + path.as_os_str().len();
        if self.timed > MAX_TIMES {
            return Err(too_much("directories", MAX_TIMES));
        }
        self.directory_times.push((path.to_owned(), inode, time));
        Ok(())
    }

    /// Leaves something to [`super::settle`].
    pub(crate) fn leave(&mut self, path: &Path, inode: u64, what: What) -> Result<()> {
        let list = self.later.entry(inode).or_default();
        if what == What::Opaque && list.iter().any(|later| later.what == what) {
            return Ok(());
        }
        let extra = if let What::Attribute { name, value } = &what { name.len() + value.len() } else { 0 };
        list.push(Later { path: path.to_owned(), inode, what });
        self.left += extra;
        self.note(path)
    }

    /// There is a further name for this; if it stands for a device, the device will have that name too.
    pub(crate) fn linked(&mut self, path: &Path, inode: u64) -> Result<()> {
        let Some(list) = self.later.get(&inode) else { return Ok(()) };
        match list.iter().find(|later| matches!(later.what, What::Device { .. })) {
            Some(device) => self.leave(path, inode, device.what.clone()),
            None => Ok(()),
        }
    }

    /// Leaves a hard link to when the layers below are known.
    pub(crate) fn leave_link(&mut self, path: &Path, target: PathBuf) -> Result<()> {
        self.note(path)?;
        self.note(&target)?;
        self.applied.pending_links.push((path.to_owned(), target));
        Ok(())
    }

    /// Counts what a list takes, so that no archive can make them endless.
    fn note(&mut self, path: &Path) -> Result<()> {
        self.left += NOTE + path.as_os_str().len();
        match self.left <= MAX_LEFT {
            true => Ok(()),
            false => {
                Err(too_much("undescribed directories, links to layers below, devices and capabilities", MAX_LEFT))
            }
        }
    }

    pub(crate) fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        Ok(self.root.open_in(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?)
    }

    /// The directory that `path` is in, resolved in-root, made if it is missing.
    pub(crate) fn parent(&mut self, path: &Path) -> Result<Rc<OwnedFd>> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some(fd) = self.parents.get(parent) {
            return Ok(fd.clone());
        }
        let fd = match self.root.open_in(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Ok(fd) => fd,
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => {
                self.make_directories(parent)?;
                self.root.open_in(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).map_err(bad_path)?
            }
            Err(error) => return Err(bad_path(error)),
        };
        let fd = Rc::new(fd);
        if self.parents.len() >= MAX_CACHED {
            self.parents.clear();
        }
        self.parents.insert(parent.to_owned(), fd.clone());
        Ok(fd)
    }

    /// Makes what is missing of `path`, from the top, and notes that no member has described it. Goes from one open
    /// directory to the next, so that a deep path costs no more than its length; only links are resolved from the root.
    fn make_directories(&mut self, path: &Path) -> Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut current = self.root.open_in(Path::new(""), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let mut prefix = PathBuf::new();
        for part in path {
            prefix.push(part);
            let next = match rustix::fs::openat(&current, part, flags, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) => self.make_implied(&current, part, &prefix)?,
                Err(Errno::NOTDIR | Errno::LOOP) => self.directory_through(&current, part, &prefix)?,
                Err(errno) => return Err(Error::io(format!("open {}", prefix.display()), errno)),
            };
            current = next;
        }
        Ok(())
    }

    /// Makes one directory that no member has described.
    fn make_implied(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd> {
        let fd = self.directory_at(parent, name, path)?;
        let failed = |call: &'static str| move |errno: Errno| Error::io(call, errno);
        // In a set-group-id directory it would have inherited the group, and the bit.
        rustix::fs::fchown(&fd, Some(Uid::ROOT), Some(Gid::ROOT)).map_err(failed("fchown"))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(failed("fchmod"))?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("fstat"))?;
        self.note(path)?;
        self.implied.insert(stat.st_ino, path.to_owned());
        Ok(fd)
    }

    /// The directory at `path`, where something stands that is none itself: a link to one, possibly one that is yet
    /// to be made, or a whiteout, which becomes a directory that hides as much.
    fn directory_through(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| Error::io(format!("stat {}", path.display()), errno))?;
        if is_whiteout(&stat) {
            return self.directory_at(parent, name, path);
        }
        match self.root.open_in(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.errno == Errno::NOENT => {
                let made = self.root.mkdir_all(path, Mode::from_raw_mode(0o755)).map_err(bad_path)?;
                let stat = rustix::fs::fstat(&made).map_err(|errno| Error::io("fstat", errno))?;
                self.implied.insert(stat.st_ino, path.to_owned());
                Ok(made)
            }
            found => found.map_err(bad_path),
        }
    }

    /// Makes something that must not be there yet, after taking away what is.
    pub(crate) fn make<T>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        call: &str,
        make: impl Fn(&OwnedFd, &OsStr) -> std::result::Result<T, Errno>,
    ) -> Result<T> {
        let made = match make(parent, name) {
            Err(Errno::EXIST) => {
                self.clear(parent, name)?;
                make(parent, name)
            }
            made => made,
        };
        made.map_err(|errno| Error::io(call, errno))
    }

    /// The directory `name` in `parent`: the one that is there, or a new one in place of whatever is. In place of a
    /// whiteout it hides what the whiteout hid.
    pub(crate) fn directory_at(&mut self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd> {
        let mode = Mode::from_raw_mode(0o755);
        let failed = |errno| Error::io("mkdir", errno);
        let mut opaque = false;
        match rustix::fs::mkdirat(parent, name, mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    opaque = is_whiteout(&stat);
                    self.clear(parent, name)?;
                    rustix::fs::mkdirat(parent, name, mode).map_err(failed)?;
                }
            }
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(failed)?;
        if opaque {
            self.hide_below(&fd, path)?;
        }
        Ok(fd)
    }

    /// Takes away what stands at `name`, a whole directory if need be.
    pub(crate) fn clear(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<()> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::io("stat", errno)),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                self.parents.clear();
                self.recount = true;
                return self.set_aside(parent, name);
            }
            FileType::Symlink => self.parents.clear(),
            FileType::RegularFile if stat.st_nlink == 1 => {
                let size = u64::try_from(stat.st_size).unwrap_or_default();
                self.applied.content_bytes = self.applied.content_bytes.saturating_sub(size);
                if size > 0 {
                    return self.set_aside(parent, name);
                }
            }
            _ => {}
        }
        if stat.st_nlink == 1 {
            // What is made next may get its number.
            self.later.remove(&stat.st_ino);
        }
        // Of a file with other names only this one goes; paths that led here lead elsewhere now.
        self.replaced += 1;
        Ok(Root::remove_tree(parent.as_fd(), name).map(drop)?)
    }

    /// Takes something out of the layer whose content is still part of its tar.
    fn set_aside(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<()> {
        let aside = self.ingest.mkdir_all(Path::new(REPLACED), Mode::from_raw_mode(0o700))?;
        self.replaced += 1;
        rustix::fs::renameat(parent, name, &aside, self.replaced.to_string())
            .map_err(|errno| Error::io("set aside what a later member replaces", errno))
    }

    /// Hides `path` of the layers below. What this layer itself has there stays, and hides it as well.
    pub(crate) fn whiteout(&mut self, path: &Path) -> Result<()> {
        let parent = self.parent(path)?;
        let Some(name) = path.file_name() else {
            return Ok(());
        };
        match rustix::fs::mknodat(&parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| Error::io("stat", errno))?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.leave(path, stat.st_ino, What::Opaque)?;
                }
                Ok(())
            }
            Err(errno) => Err(Error::io("mknod of a whiteout", errno)),
        }
    }

    /// Makes the directory `path` hide everything in it of the layers below.
    pub(crate) fn make_opaque(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() {
            self.applied.opaque = true;
        }
        // The parent of something in it is the directory itself.
        let directory = self.parent(&path.join("x"))?;
        self.hide_below(&directory, path)
    }

    fn hide_below(&mut self, directory: &OwnedFd, path: &Path) -> Result<()> {
        let stat = rustix::fs::fstat(directory).map_err(|errno| Error::io("fstat", errno))?;
        self.leave(path, stat.st_ino, What::Opaque)
    }
}

fn too_much(what: &str, limit: usize) -> Error {
    Error::invalid(format!("a layer whose {what} take more than {} MiB to remember", limit >> 20))
}

/// Sets the time of a directory if it is still the one that was noted: a later member may have replaced it.
fn set_directory_time(root: &Root, path: &Path, inode: u64, time: Time) -> Result<()> {
    match same_directory(root, path, inode)? {
        Some(fd) => rustix::fs::futimens(&fd, &times(time))
            .map_err(|errno| Error::io(format!("futimens {}", path.display()), errno)),
        None => Ok(()),
    }
}

/// Opens a directory if it is still the one that was noted.
pub(crate) fn same_directory(root: &Root, path: &Path, inode: u64) -> Result<Option<OwnedFd>> {
    let fd = match root.open_in(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
        Ok(fd) => fd,
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::io(format!("fstat {}", path.display()), errno))?;
    Ok((stat.st_ino == inode).then_some(fd))
}

/// overlayfs' mark of something removed: character device 0:0.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// The kernel's verdict on a member's path is the archive's fault, unless it is about space or the disk.
fn bad_path(error: brig_sys::Error) -> Error {
    match error.errno {
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::NOENT => Error::invalid(error.to_string()),
        _ => error.into(),
    }
}

/// The sum of the sizes of all regular files beneath, each inode once.
fn content_bytes(root: &Root) -> Result<u64> {
    let failed = |errno: Errno| Error::io("measure the layer", errno);
    let (mut total, mut seen) = (0, std::collections::HashSet::new());
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let fd = root.open_in(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            match entry.file_type() {
                FileType::Directory if name != "." && name != ".." => todo.push(path.join(name)),
                FileType::RegularFile => {
                    let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                    if stat.st_nlink == 1 || seen.insert(stat.st_ino) {
                        total += u64::try_from(stat.st_size).unwrap_or_default();
                    }
                }
                _ => {}
            }
        }
    }
    Ok(total)
}
