//! Paths that an image, an archive, a client or a container can influence: opened, made and removed only
//! beneath a directory descriptor, so that no link in them can lead outside. Owns openat2 and tree removal.
//! Must not take a path relative to the process, nor follow a link that it has not resolved in-root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How many links one path may lead through: the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// openat2 answers EAGAIN when a rename raced with `..`; this many tries are made.
const MAX_RACES: usize = 128;
/// Directories deeper than this are moved up before they are emptied, so that descriptors stay bounded.
const MAX_OPEN_DIRS: usize = 32;

/// A directory, held by an `O_PATH` descriptor, that paths are resolved in as if it were `/`.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens a directory whose path is trusted (the engine's own).
    pub fn open(path: &Path) -> Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map(Root)
            .map_err(|errno| Error::new(format!("open({path:?}, {})", flag_names(flags)), errno))
    }

    /// Takes a directory that was opened elsewhere.
    pub fn from_fd(fd: OwnedFd) -> Root {
        Root(fd)
    }

    /// The directory itself.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Opens `path` with every link and `..` in it kept inside the root (openat2, `RESOLVE_IN_ROOT`).
    /// `O_CLOEXEC` is added. An empty path means the root. Fails with the kernel's errno.
    pub fn open_in(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::CLOEXEC;
        let mode = if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) { mode } else { Mode::empty() };
        openat2(self.as_fd(), path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    }

    /// Makes `path` and what is missing above it, each step in-root and links followed in-root, also those
    /// that lead to a directory that does not exist yet. Returns the directory, `O_PATH`.
    /// New directories get exactly `mode`, and the set-group-id bit of the one that they are in. Fails with ENOTDIR if something else stands there.
    pub fn mkdir_all(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        match self.open_in(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.errno == Errno::NOENT => {}
            done => return done,
        }
        let real = self.walk(path, Missing::MakeDirectories(mode))?;
        self.open_in(&real, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens what stands at `path` as `O_PATH` if it is not a directory, else makes an empty regular file there,
    /// with its parents (0755). Fails with EISDIR if a directory stands there.
    pub fn create_file(&self, path: &Path, mode: Mode) -> Result<OwnedFd> {
        let real = self.walk(path, Missing::MakeParents(Mode::from_raw_mode(0o755)))?;
        let call = || format!("create {path:?} in the root");
        let Some(name) = real.file_name() else {
            return Err(Error::new(call(), Errno::ISDIR));
        };
        let parent = real.parent().unwrap_or(Path::new(""));
        let parent = self.open_in(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, mode) {
            Ok(file) => rustix::fs::fchmod(&file, mode).map_err(|errno| Error::new(call(), errno))?,
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::new(call(), errno)),
        }
        let file = open_beneath(parent.as_fd(), name, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&file).map_err(|errno| Error::new(call(), errno))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Error::new(call(), Errno::ISDIR));
        }
        Ok(file)
    }

    /// Splits `path` into its parent, resolved in-root and opened `O_PATH`, and its last component, which is
    /// neither followed nor ever `.` or `..` (those, and the root itself, fail with EINVAL).
    pub fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString)> {
        let Some(name) = path.file_name() else {
            return Err(Error::new(format!("split {path:?} into a parent and a name"), Errno::INVAL));
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        let parent = self.open_in(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok((parent, name.to_owned()))
    }

    /// The path without links that `path` means in this root; what is missing on the way is made as `missing` says.
    /// Each prefix is opened afresh in-root, so a racing rename can mislead only inside the root.
    fn walk(&self, path: &Path, missing: Missing) -> Result<PathBuf> {
        let mut todo: VecDeque<OsString> = components(path).collect();
        let mut real = PathBuf::new();
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == ".." {
                real.pop();
                continue;
            }
            let parent = self.open_in(&real, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW);
            let call = || format!("fstatat({:?}, AT_SYMLINK_NOFOLLOW)", real.join(&name));
            match stat.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                Ok(FileType::Symlink) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::new(format!("resolve {path:?} in the root"), Errno::LOOP));
                    }
                    let target = rustix::fs::readlinkat(&parent, &name, Vec::new())
                        .map_err(|errno| Error::new(format!("readlink({:?})", real.join(&name)), errno))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        real.clear();
                    }
                    for name in components(&target).collect::<Vec<_>>().into_iter().rev() {
                        todo.push_front(name);
                    }
                    continue;
                }
                Ok(FileType::Directory) => {}
                Ok(_) if todo.is_empty() && matches!(missing, Missing::MakeParents(_)) => {}
                Ok(_) => {
                    return Err(Error::new(format!("open directory {:?}", real.join(&name)), Errno::NOTDIR));
                }
                Err(Errno::NOENT) => match missing {
                    Missing::MakeParents(_) if todo.is_empty() => {}
                    Missing::MakeParents(mode) | Missing::MakeDirectories(mode) => make_dir(&parent, &name, mode)?,
                },
                Err(errno) => return Err(Error::new(call(), errno)),
            }
            real.push(name);
        }
        Ok(real)
    }

    /// Removes `name` in `parent` and all that is beneath it, by descriptor: links are removed, never followed;
    /// another mount is never entered (EXDEV or EBUSY). What is not there counts as removed. Goes on after an
    /// error and reports the first. Tells how many bytes of the disk that gave back: those of each inode whose last name
    /// went.
    pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<u64> {
        remove_tree(parent, name)
    }
}

/// What [`Root::walk`] does about a component that does not exist.
#[derive(Clone, Copy)]
enum Missing {
    /// Make it and all below as directories of this mode.
    MakeDirectories(Mode),
    /// Make directories of this mode, but leave the last component alone.
    MakeParents(Mode),
}

fn components(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// Makes one directory with exactly `mode` (and what it inherits), whatever the umask; one that a racing maker made is fine.
fn make_dir(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<()> {
    match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) => {
            let made = open_beneath(parent.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
            // What is made in a directory with this bit has it too, or groups that share the directory would not share it.
            let stat = rustix::fs::fstat(&made).map_err(|errno| Error::new(format!("fstat({name:?})"), errno))?;
            let mode = mode | (Mode::from_raw_mode(stat.st_mode) & Mode::SGID);
            rustix::fs::fchmod(&made, mode)
                .map_err(|errno| Error::new(format!("fchmod({name:?}, {:#o})", mode.as_raw_mode()), errno))
        }
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::new(format!("mkdirat({name:?}, {:#o})", mode.as_raw_mode()), errno)),
    }
}

/// Opens one component of a directory: no links, no `..`, no other mount.
fn open_beneath(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(parent, Path::new(name), flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, resolve: ResolveFlags) -> Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags, mode, resolve) {
            Err(Errno::AGAIN) if tries < MAX_RACES => tries += 1,
            Err(Errno::INTR) => {}
            Ok(fd) => return Ok(fd),
            Err(errno) => {
                let call = format!("openat2({path:?}, {}, {})", flag_names(flags), resolve_names(resolve));
                return Err(Error::new(call, errno));
            }
        }
    }
}

/// One directory on the way down of [`remove_tree`].
struct Level {
    dir: Dir,
    name: OsString,
    /// Something was removed in this pass, so that another pass over the directory is worth it.
    progress: bool,
}

fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> Result<u64> {
    if name.is_empty() || name == "." || name == ".." || name.as_bytes().contains(&b'/') {
        return Err(Error::new(format!("remove_tree({name:?})"), Errno::INVAL));
    }
    match unlink(parent, name, AtFlags::empty()) {
        Ok(freed) => return Ok(freed),
        Err(error) if matches!(error.errno, Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let mut removal = Removal { levels: vec![open_level(parent, name)?], moved: 0, freed: 0, first_error: None };
    while !removal.levels.is_empty() {
        removal.step(parent);
    }
    removal.first_error.map_or(Ok(removal.freed), Err)
}

/// The state of one tree removal: an explicit stack, so that depth costs neither stack nor descriptors.
struct Removal {
    levels: Vec<Level>,
    /// How many directories were moved up so far; names the next one.
    moved: u64,
    /// Bytes given back so far.
    freed: u64,
    first_error: Option<Error>,
}

impl Removal {
    /// Handles the next entry of the innermost directory, or leaves that directory when there is none.
    fn step(&mut self, parent: BorrowedFd<'_>) {
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        match level.dir.read() {
            Some(Ok(entry)) => {
                let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
                if name != "." && name != ".." {
                    self.entry(&name, entry.file_type());
                }
            }
            Some(Err(errno)) => {
                let error = Error::new(format!("getdents({:?})", level.name), errno);
                self.fail(error);
                self.leave(parent, false);
            }
            None => self.leave(parent, true),
        }
    }

    fn entry(&mut self, name: &OsStr, kind: FileType) {
        let depth = self.levels.len();
        let (top, level) = match self.levels.split_first_mut() {
            Some((top, rest)) => (&*top, rest.last_mut()),
            None => return,
        };
        let top_fd = top.dir.fd();
        let dir = level.as_ref().map_or(&top.dir, |level| &level.dir);
        let fd = match dir.fd() {
            Ok(fd) => fd,
            Err(errno) => return self.fail(Error::new(format!("dirfd({name:?})"), errno)),
        };
        if kind != FileType::Directory {
            match unlink(fd, name, AtFlags::empty()) {
                Ok(freed) => {
                    self.freed += freed;
                    return self.progressed();
                }
                Err(error) if error.errno == Errno::ISDIR => {}
                Err(error) => return self.fail(error),
            }
        }
        if depth >= MAX_OPEN_DIRS {
            let moved = format!(".brig-removing-{}-{}", std::process::id(), self.moved);
            if let Ok(top_fd) = top_fd
                && rustix::fs::renameat_with(fd, name, top_fd, moved.as_str(), RenameFlags::NOREPLACE).is_ok()
            {
                self.moved += 1;
                if let Some(top) = self.levels.first_mut() {
                    top.progress = true;
                }
                return self.progressed();
            }
        }
        match open_level(fd, name) {
            Ok(level) => self.levels.push(level),
            Err(error) => self.fail(error),
        }
    }

    /// Removes the innermost directory, now that its listing has ended. If it is not empty and something went
    /// since the last pass it is read again: some file systems skip entries while others are being removed.
    fn leave(&mut self, parent: BorrowedFd<'_>, again: bool) {
        let Some(mut level) = self.levels.pop() else {
            return;
        };
        let outer = match self.levels.last() {
            Some(outer) => match outer.dir.fd() {
                Ok(fd) => fd,
                Err(errno) => {
                    return self.fail(Error::new(format!("dirfd({:?})", outer.name), errno));
                }
            },
            None => parent,
        };
        match unlink(outer, &level.name, AtFlags::REMOVEDIR) {
            Ok(freed) => {
                self.freed += freed;
                self.progressed();
            }
            Err(error) if error.errno == Errno::NOTEMPTY && again && level.progress => {
                level.progress = false;
                level.dir.rewind();
                self.levels.push(level);
            }
            Err(error) => self.fail(error),
        }
    }

    fn progressed(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.progress = true;
        }
    }

    fn fail(&mut self, error: Error) {
        self.first_error.get_or_insert(error);
    }
}

fn open_level(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Level> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(parent, Path::new(name), flags, Mode::empty(), resolve)?;
    let dir = Dir::new(fd).map_err(|errno| Error::new(format!("fdopendir({name:?})"), errno))?;
    Ok(Level { dir, name: name.to_owned(), progress: false })
}

/// unlinkat that counts what is already gone as removed; tells the bytes that it gave back.
fn unlink(parent: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> Result<u64> {
    let is_directory = flags.contains(AtFlags::REMOVEDIR);
    let blocks = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        // A directory has a link from each one in it, the others one for each name.
        Ok(stat) if is_directory || stat.st_nlink == 1 => u64::try_from(stat.st_blocks).unwrap_or_default(),
        Ok(_) | Err(_) => 0,
    };
    match rustix::fs::unlinkat(parent, name, flags) {
        // st_blocks counts 512 bytes each, on every file system.
        Ok(()) => Ok(blocks * 512),
        Err(Errno::NOENT) => Ok(0),
        Err(errno) => {
            let flags = if is_directory { "AT_REMOVEDIR" } else { "0" };
            Err(Error::new(format!("unlinkat({name:?}, {flags})"), errno))
        }
    }
}

/// Sets an extended attribute of one directory entry without following it, whatever its type.
/// Goes through `/proc/self/fd`, as no call before Linux 6.13 takes a descriptor and a name; `name` is one component.
pub fn set_xattr_at(parent: BorrowedFd<'_>, name: &OsStr, attribute: &OsStr, value: &[u8]) -> Result<()> {
    let path = proc_path(parent, name);
    rustix::fs::lsetxattr(&path, attribute, value, rustix::fs::XattrFlags::empty())
        .map_err(|errno| Error::new(format!("lsetxattr({name:?}, {attribute:?}, {} bytes)", value.len()), errno))
}

/// The extended attributes of one directory entry, which is not followed. A file system without any gives none.
pub fn xattrs_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<(OsString, Vec<u8>)>> {
    let path = proc_path(parent, name);
    let mut list = vec![0u8; 64 * 1024];
    let call = || format!("llistxattr({name:?})");
    let length = match rustix::fs::llistxattr(&path, &mut list[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(Error::new(call(), errno)),
    };
    let mut found = Vec::new();
    for attribute in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let attribute = OsStr::from_bytes(attribute);
        let mut value = vec![0u8; 64 * 1024];
        match rustix::fs::lgetxattr(&path, attribute, &mut value[..]) {
            Ok(length) => value.truncate(length),
            Err(Errno::NODATA) => continue,
            Err(errno) => {
                return Err(Error::new(format!("lgetxattr({name:?}, {attribute:?})"), errno));
            }
        }
        found.push((attribute.to_owned(), value));
    }
    Ok(found)
}

fn proc_path(parent: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(name)
}

fn flag_names(flags: OFlags) -> String {
    let known = [
        (OFlags::PATH, "O_PATH"),
        (OFlags::DIRECTORY, "O_DIRECTORY"),
        (OFlags::NOFOLLOW, "O_NOFOLLOW"),
        (OFlags::CREATE, "O_CREAT"),
        (OFlags::EXCL, "O_EXCL"),
        (OFlags::TRUNC, "O_TRUNC"),
        (OFlags::APPEND, "O_APPEND"),
        (OFlags::NONBLOCK, "O_NONBLOCK"),
    ];
    let access = match flags & OFlags::RWMODE {
        _ if flags.contains(OFlags::PATH) => "",
        mode if mode == OFlags::WRONLY => "O_WRONLY",
        mode if mode == OFlags::RDWR => "O_RDWR",
        _ => "O_RDONLY",
    };
    join(access, &known.map(|(flag, name)| (flags.contains(flag), name)))
}

fn resolve_names(resolve: ResolveFlags) -> String {
    let known = [
        (ResolveFlags::IN_ROOT, "RESOLVE_IN_ROOT"),
        (ResolveFlags::BENEATH, "RESOLVE_BENEATH"),
        (ResolveFlags::NO_XDEV, "RESOLVE_NO_XDEV"),
        (ResolveFlags::NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"),
    ];
    join("", &known.map(|(flag, name)| (resolve.contains(flag), name)))
}

fn join(first: &str, rest: &[(bool, &str)]) -> String {
    let mut text = first.to_owned();
    for (_, name) in rest.iter().filter(|(set, _)| *set) {
        let separator = if text.is_empty() { "" } else { "|" };
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{separator}{name}");
    }
    if text.is_empty() { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn scratch() -> (tempfile::TempDir, Root, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("root");
        fs::create_dir(&inside).unwrap();
        fs::write(dir.path().join("secret"), "host").unwrap();
        let root = Root::open(&inside).unwrap();
        (dir, root, inside)
    }

    #[test]
    fn links_and_dots_stay_inside() {
        let (_dir, root, inside) = scratch();
        fs::write(inside.join("secret"), "guest").unwrap();
        symlink("../../../../secret", inside.join("up")).unwrap();
        symlink("/secret", inside.join("absolute")).unwrap();
        for path in ["../secret", "/../../secret", "up", "absolute", "/secret"] {
            let fd = root.open_in(Path::new(path), OFlags::RDONLY, Mode::empty()).unwrap();
            let mut text = String::new();
            std::io::Read::read_to_string(&mut fs::File::from(fd), &mut text).unwrap();
            assert_eq!(text, "guest", "{path}");
        }
    }

    #[test]
    fn errors_print_the_call() {
        let (_dir, root, _) = scratch();
        let error = root.open_in(Path::new("etc/passwd"), OFlags::PATH, Mode::empty()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "openat2(\"etc/passwd\", O_PATH, RESOLVE_IN_ROOT): No such file or directory (ENOENT)"
        );
    }

    #[test]
    fn mkdir_all_follows_dangling_links_inside() {
        let (dir, root, inside) = scratch();
        symlink("/run/deep", inside.join("link")).unwrap();
        symlink("../../outside", inside.join("escape")).unwrap();
        let mode = Mode::from_raw_mode(0o750);
        root.mkdir_all(Path::new("link/a/b"), mode).unwrap();
        assert!(inside.join("run/deep/a/b").is_dir());
        assert_eq!(inside.join("run/deep").metadata().unwrap().mode() & 0o7777, 0o750);
        root.mkdir_all(Path::new("/escape/x"), mode).unwrap();
        assert!(inside.join("outside/x").is_dir());
        assert!(!dir.path().join("outside").exists());
        fs::write(inside.join("file"), "").unwrap();
        assert_eq!(root.mkdir_all(Path::new("file/x"), mode).unwrap_err().errno, Errno::NOTDIR);
        symlink("loop", inside.join("loop")).unwrap();
        assert_eq!(root.mkdir_all(Path::new("loop/x"), mode).unwrap_err().errno, Errno::LOOP);
    }

    #[test]
    fn create_file_keeps_what_stands_there() {
        let (_dir, root, inside) = scratch();
        let mode = Mode::from_raw_mode(0o644);
        root.create_file(Path::new("/etc/deep/hosts"), mode).unwrap();
        assert!(inside.join("etc/deep/hosts").is_file());
        fs::write(inside.join("etc/deep/hosts"), "kept").unwrap();
        symlink("/etc/deep/hosts", inside.join("alias")).unwrap();
        let fd = root.create_file(Path::new("alias"), mode).unwrap();
        assert_eq!(rustix::fs::fstat(&fd).unwrap().st_size, 4);
        assert_eq!(root.create_file(Path::new("etc"), mode).unwrap_err().errno, Errno::ISDIR);
        assert_eq!(root.create_file(Path::new("/"), mode).unwrap_err().errno, Errno::ISDIR);
    }

    #[test]
    fn parent_never_names_dots() {
        let (_dir, root, _) = scratch();
        let (_, name) = root.parent(Path::new("/x/.")).unwrap();
        assert_eq!(name, "x");
        for path in ["/", "", ".", "..", "a/.."] {
            assert_eq!(root.parent(Path::new(path)).unwrap_err().errno, Errno::INVAL, "{path:?}");
        }
    }

    #[test]
    fn remove_tree_follows_nothing_and_is_deep() {
        let (dir, root, inside) = scratch();
        fs::create_dir(dir.path().join("kept")).unwrap();
        fs::write(dir.path().join("kept/file"), "").unwrap();
        symlink("../kept", inside.join("out")).unwrap();
        let tree = inside.join("tree");
        fs::create_dir(&tree).unwrap();
        symlink("../../kept", tree.join("out")).unwrap();
        let mut fd = root.open_in(Path::new("tree"), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&fd, "d", Mode::from_raw_mode(0o700)).unwrap();
            rustix::fs::symlinkat("x", &fd, "l").unwrap();
            fd = rustix::fs::openat(&fd, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        drop(fd);
        for index in 0..2000 {
            fs::write(tree.join(format!("f{index}")), "").unwrap();
        }
        Root::remove_tree(root.as_fd(), OsStr::new("tree")).unwrap();
        assert!(!tree.exists());
        Root::remove_tree(root.as_fd(), OsStr::new("out")).unwrap();
        assert!(!inside.join("out").is_symlink());
        Root::remove_tree(root.as_fd(), OsStr::new("absent")).unwrap();
        assert!(dir.path().join("kept/file").exists());
        for name in ["", ".", "..", "a/b"] {
            assert_eq!(Root::remove_tree(root.as_fd(), OsStr::new(name)).unwrap_err().errno, Errno::INVAL);
        }
    }

    #[test]
    fn xattrs_of_links_are_their_own() {
        let (_dir, root, inside) = scratch();
        fs::write(inside.join("file"), "").unwrap();
        symlink("file", inside.join("link")).unwrap();
        let link = OsStr::new("link");
        match set_xattr_at(root.as_fd(), link, OsStr::new("trusted.brig"), b"a\nb") {
            Err(error) if matches!(error.errno, Errno::PERM | Errno::OPNOTSUPP) => return,
            result => result.unwrap(),
        }
        assert_eq!(xattrs_at(root.as_fd(), link).unwrap(), [("trusted.brig".into(), b"a\nb".to_vec())]);
        assert_eq!(xattrs_at(root.as_fd(), OsStr::new("file")).unwrap(), []);
    }
}
