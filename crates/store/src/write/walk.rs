//! Going through a tree in the order of its names, each directory before what is in it, while others may be changing it.
//! Owns the descriptors: few, however deep the tree. Must not follow a link, nor leave the tree.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use brig_sys::beneath::{Root, xattrs_at};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::apply::MAX_ENTRIES;
use crate::error::{Error, Result};

/// The longest path, in bytes: PATH_MAX without its NUL. Layers hold no longer ones.
const MAX_PATH: usize = 4095;
/// How many directories are kept open on the way down; those above are opened again by their paths.
const MAX_OPEN: usize = 64;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Where the walk stands.
pub(crate) struct Walk<'a> {
    root: &'a Root,
    levels: Vec<Level>,
    /// The innermost directory's path below the root.
    path: PathBuf,
    seen: u64,
}

struct Level {
    /// `None` while the walk is so far below that it was closed.
    directory: Option<Rc<OwnedFd>>,
    /// The names that are still to come.
    names: std::vec::IntoIter<OsString>,
}

/// One thing in the tree.
pub(crate) struct Entry {
    /// Below the root.
    pub(crate) path: PathBuf,
    /// What it is, not followed. Of a file or directory that was opened: that one's.
    pub(crate) stat: Stat,
    parent: Rc<OwnedFd>,
    name: OsString,
}

/// A directory that was opened, with the names in it, in order.
pub(crate) struct Opened {
    directory: OwnedFd,
    pub(crate) names: Vec<OsString>,
}

impl Entry {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Its extended attributes; none if it has gone.
    pub(crate) fn xattrs(&self) -> Result<Vec<(OsString, Vec<u8>)>> {
        match xattrs_at(self.parent.as_fd(), &self.name) {
            Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Where a link leads; `None` if it has gone.
    pub(crate) fn link(&self) -> Result<Option<Vec<u8>>> {
        match rustix::fs::readlinkat(&self.parent, &self.name, Vec::new()) {
            Ok(link) => Ok(Some(link.into_bytes())),
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(Error::io(format!("readlink {}", self.path.display()), errno)),
        }
    }

    /// Opens a regular file, and looks at it again; `None` if it is not there any more or no such file.
    pub(crate) fn open_file(&mut self) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // The access time is the container's.
        let quiet = rustix::fs::openat(&self.parent, &self.name, flags | OFlags::NOATIME, Mode::empty());
        let opened = match quiet {
            Err(Errno::PERM) => rustix::fs::openat(&self.parent, &self.name, flags, Mode::empty()),
            other => other,
        };
        match opened {
            Ok(file) => {
                self.stat = stat_of(&file, &self.path)?;
                Ok((self.kind() == FileType::RegularFile).then(|| File::from(file)))
            }
            Err(errno) if is_gone(errno) || errno == Errno::NXIO => Ok(None),
            Err(errno) => Err(Error::io(format!("open {}", self.path.display()), errno)),
        }
    }

    /// Opens a directory, looks at it again and reads its names; `None` if it is not there any more.
    pub(crate) fn open_directory(&mut self) -> Result<Option<Opened>> {
        match rustix::fs::openat(&self.parent, &self.name, DIRECTORY, Mode::empty()) {
            Ok(directory) => {
                self.stat = stat_of(&directory, &self.path)?;
                Opened::read(directory, &self.path).map(Some)
            }
            Err(errno) if is_gone(errno) => Ok(None),
            Err(errno) => Err(Error::io(format!("open {}", self.path.display()), errno)),
        }
    }
}

impl Opened {
    /// The directory `path` of a tree; `None` if there is none.
    pub(crate) fn of(root: &Root, path: &Path) -> Result<Option<Opened>> {
        match root.open_in(path, DIRECTORY, Mode::empty()) {
            Ok(directory) => Opened::read(directory, path).map(Some),
            Err(error) if is_gone(error.errno) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn read(directory: OwnedFd, path: &Path) -> Result<Opened> {
        let failed = |errno: Errno| Error::io(format!("read directory {}", path.display()), errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(failed)? {
            let name = OsStr::from_bytes(entry.map_err(failed)?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
            if names.len() as u64 > MAX_ENTRIES {
                return Err(Error::invalid(format!("{}: more than {MAX_ENTRIES} names", path.display())));
            }
        }
        names.sort();
        Ok(Opened { directory, names })
    }

    /// What one of its names is; `None` if it has gone.
    pub(crate) fn stat(&self, name: &OsStr) -> Option<Stat> {
        rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }
}

impl<'a> Walk<'a> {
    /// Opens the root itself, which the walk then leaves out. Goes through what is in it after [`Walk::enter`].
    pub(crate) fn new(root: &'a Root) -> Result<(Walk<'a>, Entry, Opened)> {
        let directory = root.open_in(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let (path, name) = (PathBuf::new(), OsString::new());
        let stat = stat_of(&directory, Path::new("/"))?;
        let parent = directory.try_clone().map_err(|error| Error::io("dup", error))?;
        let entry = Entry { path: path.clone(), stat, parent: Rc::new(parent), name };
        let opened = Opened::read(directory, Path::new("/"))?;
        Ok((Walk { root, levels: Vec::new(), path, seen: 0 }, entry, opened))
    }

    /// The next thing to come, which is not entered by itself; `None` at the end. What vanishes meanwhile is left out.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        loop {
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let name = level.names.next();
            let directory = level.directory.clone();
            let Some(name) = name else {
                self.leave();
                continue;
            };
            let Some(parent) = directory.map_or_else(|| self.reopen(), |open| Ok(Some(open)))? else {
                self.leave();
                continue;
            };
            let path = self.path.join(&name);
            let length = path.as_os_str().len();
            if length > MAX_PATH {
                let start: String = path.to_string_lossy().chars().take(64).collect();
                return Err(Error::invalid(format!("/{start}…: a path of {length} bytes: at most {MAX_PATH}")));
            }
            let stat = match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(errno) if is_gone(errno) => continue,
                Err(errno) => return Err(Error::io(format!("stat {}", path.display()), errno)),
            };
            self.seen += 1;
            if self.seen > MAX_ENTRIES {
                return Err(Error::invalid(format!("more than {MAX_ENTRIES} files")));
            }
            return Ok(Some(Entry { path, stat, parent, name }));
        }
    }

    /// Goes on in this directory, which must be the one that came last, or the root.
    pub(crate) fn enter(&mut self, entry: &Entry, opened: Opened) {
        self.path.push(&entry.name);
        self.levels.push(Level { directory: Some(Rc::new(opened.directory)), names: opened.names.into_iter() });
        if let Some(far) = self.levels.len().checked_sub(MAX_OPEN + 1) {
            self.levels[far].directory = None;
        }
    }

    fn leave(&mut self) {
        self.levels.pop();
        self.path.pop();
    }

    /// Opens the innermost directory again by its path, and keeps it; `None` if there is none any more.
    fn reopen(&mut self) -> Result<Option<Rc<OwnedFd>>> {
        let opened = match self.root.open_in(&self.path, DIRECTORY, Mode::empty()) {
            Ok(directory) => Rc::new(directory),
            Err(error) if is_gone(error.errno) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some(level) = self.levels.last_mut() {
            level.directory = Some(Rc::clone(&opened));
        }
        Ok(Some(opened))
    }
}

/// What an error means when somebody else took a thing away or put another in its place.
fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::INVAL | Errno::STALE)
}

fn stat_of(fd: impl AsFd, path: &Path) -> Result<Stat> {
    rustix::fs::fstat(fd).map_err(|errno| Error::io(format!("fstat {}", path.display()), errno))
}
