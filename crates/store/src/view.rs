//! The files of a container or a directory as a process inside would see them, without a process inside: a detached,
//! read-only mount of its layers that no path on this host leads to.
//!
//! Owns: that mount, bounded reading from it and copying out of it. Must not: change what it shows. Every path is
//! resolved in-root, so nothing that an image holds leads out of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brig_sys::beneath::{Root, set_xattr_at, xattrs_at};
use brig_sys::mount::{Attr, Change, Context, Propagation};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::active::Layers;
use crate::error::{Error, Result};

/// A view changes nothing and gives no device.
const READ_ONLY: Attr = Attr::MOUNT_ATTR_RDONLY.union(Attr::MOUNT_ATTR_NODEV);
/// Deeper trees than this are refused when copied.
const DEEPEST: usize = 256;

/// A root to look into.
pub struct View {
    root: Root,
}

impl View {
    /// The merged files of a container's layers and its writable layer, as they are now.
    pub(crate) fn merged(layers: &Layers) -> Result<View> {
        if layers.lower.is_empty() {
            return View::directory(&layers.upper);
        }
        let all: Vec<&Path> = std::iter::once(&layers.upper).chain(&layers.lower).map(PathBuf::as_path).collect();
        // Linux before 6.7 does not know `lowerdir+`, and says so only when the mount is to be made.
        let mounted = by_option(&all).or_else(|_| by_path(&all))?;
        Ok(View { root: Root::from_fd(mounted) })
    }

    /// A directory of this host as a root.
    pub fn directory(path: &Path) -> Result<View> {
        Ok(View { root: Root::open(path)? })
    }

    /// The root to look into.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// The text of a regular file of at most `limit` bytes; `None` where there is no such file. What is not UTF-8 is
    /// replaced.
    pub fn read_text(&self, path: &Path, limit: u64) -> Result<Option<String>> {
        // Not blocking: a FIFO in the file's place must not hang us.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.root.open_in(path, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(e) if matches!(e.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let stat = rustix::fs::fstat(&file).map_err(|e| Error::io(format!("fstat {path:?}"), e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::invalid(format!("/{} in the container is not a regular file", path.display())));
        }
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(format!("read {path:?}"), e))?;
        if bytes.len() as u64 > limit {
            return Err(Error::invalid(format!("/{} in the container is larger than {limit} bytes", path.display())));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Copies what is in the directory `path` into the directory `destination` of this host, which takes on its owner
    /// and mode. Where there is no such directory nothing happens.
    pub fn copy_out(&self, path: &Path, destination: &Path) -> Result<()> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let source = match self.root.open_in(relative, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Ok(source) => source,
            Err(e) if matches!(e.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = rustix::fs::open(destination, flags, Mode::empty())
            .map_err(|e| Error::io(format!("open {}", destination.display()), e))?;
        copy_directory(source.as_fd(), target.as_fd(), 0)?;
        let stat = rustix::fs::fstat(&source).map_err(|e| Error::io("fstat", e))?;
        settle(target.as_fd(), &stat)
    }
}

/// A read-only overlay of these directories, topmost first.
fn by_option(layers: &[&Path]) -> Result<OwnedFd> {
    let context = Context::open("overlay")?;
    for layer in layers {
        context.set("lowerdir+", *layer)?;
    }
    Ok(context.mount(READ_ONLY)?)
}

/// The same on older kernels: mount(2) in a mount namespace of a thread's own, where every layer has a short name, because
/// all options must fit into one page.
fn by_path(layers: &[&Path]) -> Result<OwnedFd> {
    let work = || -> Result<OwnedFd> {
        let failed = |what: &'static str| move |e: Errno| Error::io(what, e);
        brig_sys::namespace::unshare(brig_sys::clone::flags::NEWNS)?;
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", path, Mode::empty()).map_err(failed("open /"))?;
        let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
        brig_sys::mount::configure(root.as_fd(), true, private)?;
        let scratch = Context::open("tmpfs")?.mount(Attr::MOUNT_ATTR_NODEV)?;
        brig_sys::mount::attach(scratch.as_fd(), root.as_fd())?;
        rustix::process::fchdir(&scratch).map_err(failed("fchdir"))?;
        let names: Vec<String> = (0..layers.len()).map(|number| number.to_string()).collect();
        for (name, layer) in names.iter().zip(layers) {
            rustix::fs::symlinkat(*layer, &scratch, name.as_str()).map_err(failed("symlink"))?;
        }
        rustix::fs::mkdirat(&scratch, "merged", Mode::RWXU).map_err(failed("mkdir"))?;
        let data = std::ffi::CString::new(format!("lowerdir={}", names.join(":")))
            .map_err(|_| Error::invalid("a layer's name contains a NUL byte"))?;
        brig_sys::mount::mount_classic("overlay", "merged", &data)?;
        let merged = rustix::fs::openat(&scratch, "merged", path, Mode::empty()).map_err(failed("open the overlay"))?;
        let detached = brig_sys::mount::clone_tree(merged.as_fd(), false)?;
        brig_sys::mount::configure(detached.as_fd(), false, Change { set: READ_ONLY, ..Change::default() })?;
        Ok(detached)
    };
    // A thread that ends here: its namespace and its working directory are nobody else's.
    std::thread::scope(|threads| {
        let made = std::thread::Builder::new().name("view".into()).spawn_scoped(threads, work);
        let made = made.map_err(|e| Error::io("start a thread", e))?;
        made.join().unwrap_or_else(|_| Err(Error::corrupt("the thread that shows a container's files panicked")))
    })
}

/// Owner, mode and times of an open file or directory.
fn settle(target: BorrowedFd<'_>, stat: &Stat) -> Result<()> {
    let failed = |e: Errno| Error::io("set owner, mode and times of a copied file", e);
    let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(target, Some(uid), Some(gid)).map_err(failed)?;
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed)?;
    rustix::fs::futimens(target, &times(stat)).map_err(failed)
}

fn times(stat: &Stat) -> Timestamps {
    let at =
        |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn copy_directory(source: BorrowedFd<'_>, target: BorrowedFd<'_>, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(Error::invalid(format!("the image's directory is nested deeper than {DEEPEST} levels")));
    }
    let entries = Dir::read_from(source).map_err(|e| Error::io("read a directory of the image", e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read a directory of the image", e))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
        if name == "." || name == ".." {
            continue;
        }
        copy_entry(source, target, &name, depth).map_err(|e| e.context(format!("copy {name:?} of the image")))?;
    }
    Ok(())
}

fn copy_entry(source: BorrowedFd<'_>, target: BorrowedFd<'_>, name: &OsStr, depth: usize) -> Result<()> {
    let failed = |what: &'static str| move |e: Errno| Error::io(what, e);
    let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("stat"))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let nofollow = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let opened: Option<OwnedFd> = match kind {
        FileType::Directory => {
            rustix::fs::mkdirat(target, name, Mode::RWXU).map_err(failed("mkdir"))?;
            let from = rustix::fs::openat(source, name, nofollow | OFlags::DIRECTORY, Mode::empty())
                .map_err(failed("open"))?;
            let to = rustix::fs::openat(target, name, nofollow | OFlags::DIRECTORY, Mode::empty())
                .map_err(failed("open"))?;
            copy_directory(from.as_fd(), to.as_fd(), depth + 1)?;
            Some(to)
        }
        FileType::RegularFile => {
            let from = rustix::fs::openat(source, name, nofollow, Mode::empty()).map_err(failed("open"))?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let to = rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR).map_err(failed("create"))?;
            let mut to = File::from(to);
            std::io::copy(&mut File::from(from), &mut to).map_err(|e| Error::io("copy", e))?;
            Some(to.into())
        }
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(source, name, Vec::new()).map_err(failed("readlink"))?;
            rustix::fs::symlinkat(&link, target, name).map_err(failed("symlink"))?;
            None
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev).map_err(failed("mknod"))?;
            None
        }
        // A socket without its server is nothing.
        FileType::Socket | FileType::Unknown => return Ok(()),
    };
    for (attribute, value) in xattrs_at(source, name)? {
        let text = attribute.to_string_lossy();
        if text.starts_with("user.") || text == "security.capability" || text.starts_with("system.posix_acl") {
            set_xattr_at(target, name, &attribute, &value)?;
        }
    }
    match opened {
        Some(fd) => settle(fd.as_fd(), &stat),
        None => {
            let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(target, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("chown"))?;
            rustix::fs::utimensat(target, name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set times"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn layers(base: &Path) -> Layers {
        let [a, b, upper, work] = ["a", "b", "upper", "work"].map(|name| {
            let path = base.join(name);
            std::fs::create_dir(&path).unwrap();
            path
        });
        Layers { lower: vec![a, b], upper, work }
    }

    #[test]
    fn shows_the_merged_files_and_stays_inside() {
        let base = tempfile::tempdir().unwrap();
        let layers = layers(base.path());
        std::fs::create_dir(layers.lower[1].join("etc")).unwrap();
        std::fs::write(layers.lower[1].join("etc/passwd"), "low").unwrap();
        symlink("/etc/passwd", layers.lower[0].join("link")).unwrap();
        symlink("/../../../../etc/hostname", layers.lower[0].join("out")).unwrap();
        let store = Store::open(&base.path().join("store")).unwrap();
        let view = store.view(&layers).unwrap();
        assert_eq!(view.read_text(Path::new("etc/passwd"), 10).unwrap().as_deref(), Some("low"));
        assert_eq!(view.read_text(Path::new("link"), 10).unwrap().as_deref(), Some("low"));
        assert_eq!(view.read_text(Path::new("out"), 10).unwrap(), None);
        assert!(view.read_text(Path::new("etc/passwd"), 2).is_err());
        assert!(view.read_text(Path::new("etc"), 10).is_err());
        std::fs::create_dir(layers.upper.join("etc")).unwrap();
        std::fs::write(layers.upper.join("etc/passwd"), "up").unwrap();
        let view = store.view(&layers).unwrap();
        assert_eq!(view.read_text(Path::new("etc/passwd"), 10).unwrap().as_deref(), Some("up"));
    }

    #[test]
    fn older_kernels_see_the_same() {
        let base = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..100).map(|number| base.path().join(format!("layer{number}"))).collect();
        for (number, layer) in layers.iter().enumerate() {
            std::fs::create_dir(layer).unwrap();
            std::fs::write(layer.join("top"), number.to_string()).unwrap();
            std::fs::write(layer.join(number.to_string()), "own").unwrap();
        }
        let paths: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        let here = std::fs::canonicalize(".").unwrap();
        let view = View { root: Root::from_fd(by_path(&paths).unwrap()) };
        assert_eq!(view.read_text(Path::new("top"), 10).unwrap().as_deref(), Some("0"));
        assert_eq!(view.read_text(Path::new("99"), 10).unwrap().as_deref(), Some("own"));
        assert_eq!(std::fs::canonicalize(".").unwrap(), here, "the thread's directory is its own");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("layer0"), "nothing is mounted on the host");
    }

    #[test]
    fn copies_out_with_owner_and_mode() {
        let base = tempfile::tempdir().unwrap();
        let layers = layers(base.path());
        let data = layers.lower[0].join("data");
        std::fs::create_dir_all(data.join("sub")).unwrap();
        std::fs::write(data.join("sub/file"), "x").unwrap();
        std::fs::set_permissions(data.join("sub/file"), PermissionsExt::from_mode(0o4711)).unwrap();
        std::os::unix::fs::chown(&data, Some(33), Some(34)).unwrap();
        symlink("/etc/passwd", data.join("link")).unwrap();
        let store = Store::open(&base.path().join("store")).unwrap();
        let target = base.path().join("target");
        std::fs::create_dir(&target).unwrap();
        store.view(&layers).unwrap().copy_out(Path::new("/data"), &target).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("sub/file")).unwrap(), "x");
        assert_eq!(std::fs::metadata(target.join("sub/file")).unwrap().mode() & 0o7777, 0o4711);
        assert_eq!(std::fs::metadata(&target).unwrap().uid(), 33);
        assert_eq!(std::fs::read_link(target.join("link")).unwrap(), Path::new("/etc/passwd"));
        store.view(&layers).unwrap().copy_out(Path::new("/none"), &target).unwrap();
    }
}
