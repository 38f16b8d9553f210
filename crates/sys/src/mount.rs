//! The descriptor based mount API (Linux 5.2 to 6.15): file system contexts, detached trees, attributes, pivot_root.
//! Owns the calls and their errors. Must not resolve paths that a container can influence, nor parse mount options.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::path::Arg;

use crate::clone::last_errno;
use crate::error::{Error, Result};

pub use rustix::mount::MountAttrFlags as Attr;

/// How mounts of a tree take part in propagation (`MS_…` of mount(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Both ways.
    Shared,
    /// From the master only.
    Slave,
    /// Not at all.
    Private,
    /// Not at all, and it cannot be bound elsewhere.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// A file system being configured (`fsopen(2)`).
#[derive(Debug)]
pub struct Context {
    fd: OwnedFd,
    fs: String,
}

impl Context {
    /// `fsopen(fs, FSOPEN_CLOEXEC)`. Fails with ENODEV if the kernel does not know the file system.
    pub fn open(fs: &str) -> Result<Context> {
        rustix::mount::fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)
            .map(|fd| Context { fd, fs: fs.to_owned() })
            .map_err(|errno| Error::new(format!("fsopen({fs:?})"), errno))
    }

    /// `FSCONFIG_SET_STRING`.
    pub fn set(&self, key: &str, value: impl Arg + std::fmt::Debug + Copy) -> Result<()> {
        rustix::mount::fsconfig_set_string(self.fd.as_fd(), key, value)
            .map_err(|errno| self.error(&format!("FSCONFIG_SET_STRING, {key:?}, {value:?}"), errno))
    }

    /// `FSCONFIG_SET_FLAG`.
    pub fn set_flag(&self, key: &str) -> Result<()> {
        rustix::mount::fsconfig_set_flag(self.fd.as_fd(), key)
            .map_err(|errno| self.error(&format!("FSCONFIG_SET_FLAG, {key:?}"), errno))
    }

    /// `FSCONFIG_SET_FD`: for overlayfs' layers since Linux 6.13, detached ones since 6.15.
    pub fn set_fd(&self, key: &str, value: BorrowedFd<'_>) -> Result<()> {
        rustix::mount::fsconfig_set_fd(self.fd.as_fd(), key, value)
            .map_err(|errno| self.error(&format!("FSCONFIG_SET_FD, {key:?}, {}", value.as_raw_fd()), errno))
    }

    /// `FSCONFIG_CMD_CREATE`, then `fsmount`: the file system as a detached mount.
    pub fn mount(&self, attributes: Attr) -> Result<OwnedFd> {
        rustix::mount::fsconfig_create(self.fd.as_fd()).map_err(|errno| self.error("FSCONFIG_CMD_CREATE", errno))?;
        rustix::mount::fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
            .map_err(|errno| Error::new(format!("fsmount({:?}, {:#x})", self.fs, attributes.bits()), errno))
    }

    /// The error of a call on this context, with what the kernel's log of the context says.
    fn error(&self, call: &str, errno: rustix::io::Errno) -> Error {
        let mut text = format!("fsconfig({:?}, {call})", self.fs);
        let mut line = [0u8; 512];
        while let Ok(length @ 1..) = rustix::io::read(&self.fd, &mut line[..]) {
            text.push_str(" [");
            text.push_str(String::from_utf8_lossy(&line[..length]).trim());
            text.push(']');
        }
        Error::new(text, errno)
    }
}

/// A detached copy of the mount at `path`, which is followed if it is a link (`open_tree(OPEN_TREE_CLONE)`).
/// `recursive` also copies the mounts beneath it. The path must be one that no container can influence.
pub fn clone_tree_at(path: &Path, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(CWD, path, tree_flags(recursive)).map_err(|errno| {
        Error::new(format!("open_tree({path:?}, OPEN_TREE_CLONE{})", recursive_name(recursive)), errno)
    })
}

/// A detached copy of the mount that `fd` is in, rooted at `fd`.
pub fn clone_tree(fd: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd> {
    rustix::mount::open_tree(fd, "", tree_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH).map_err(|errno| {
        Error::new(format!("open_tree({}, OPEN_TREE_CLONE{})", fd.as_raw_fd(), recursive_name(recursive)), errno)
    })
}

fn tree_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

fn recursive_name(recursive: bool) -> &'static str {
    if recursive { "|AT_RECURSIVE" } else { "" }
}

/// Attaches the detached mount `from` on top of what `to` is.
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(from, "", to, "", flags)
        .map_err(|errno| Error::new(format!("move_mount({}, {})", from.as_raw_fd(), to.as_raw_fd()), errno))
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

fn set_attributes(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr, call: impl Fn() -> String) -> Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and `attr` a mount_attr of the size given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(Error::new(call(), last_errno())) }
}

/// What [`configure`] changes about a mount; the default changes nothing.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Attributes to set.
    pub set: Attr,
    /// Attributes to clear. A change of the access time mode needs [`Attr::MOUNT_ATTR__ATIME`] here.
    pub clear: Attr,
    /// New propagation.
    pub propagation: Option<Propagation>,
    /// Map the owners as this user namespace maps ids; only for a detached mount that is not mapped yet.
    pub idmap: Option<BorrowedFd<'a>>,
}

impl Default for Change<'_> {
    fn default() -> Self {
        Change { set: Attr::empty(), clear: Attr::empty(), propagation: None, idmap: None }
    }
}

/// Changes the mount at `fd`, or it and all beneath, in one `mount_setattr(2)`.
///
/// # Errors
/// The kernel's; EINVAL for an id map if a file system in it cannot be idmapped, or is already.
pub fn configure(fd: BorrowedFd<'_>, recursive: bool, change: Change<'_>) -> Result<()> {
    let mut attr =
        MountAttr { attr_set: change.set.bits().into(), attr_clr: change.clear.bits().into(), ..MountAttr::default() };
    attr.propagation = change.propagation.map_or(0, Propagation::bits);
    if let Some(user_namespace) = change.idmap {
        attr.attr_set |= u64::from(MountAttrFlags::MOUNT_ATTR_IDMAP.bits());
        attr.userns_fd = user_namespace.as_raw_fd() as u64;
    }
    set_attributes(fd, recursive, &attr, || {
        let mut what = Vec::new();
        if change.idmap.is_some() {
            what.push("MOUNT_ATTR_IDMAP".to_owned());
        }
        if !change.set.is_empty() || !change.clear.is_empty() {
            what.push(format!("set {:#x}, clear {:#x}", change.set.bits(), change.clear.bits()));
        }
        if let Some(propagation) = change.propagation {
            what.push(format!("{propagation:?}"));
        }
        format!("mount_setattr({}, {}{})", fd.as_raw_fd(), what.join(", "), recursive_name(recursive))
    })
}

/// Makes the directory `root`, which must be the root of an attached mount, the root of this mount namespace and detaches
/// the old one. The working directory ends at the new root.
pub fn pivot_into(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(|errno| Error::new(format!("fchdir({})", root.as_raw_fd()), errno))?;
    rustix::process::pivot_root(".", ".").map_err(|errno| Error::new("pivot_root(\".\", \".\")", errno))?;
    // The old root is now mounted over the new one, and "." is the old one's place.
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(|errno| Error::new("umount2(\".\", MNT_DETACH)", errno))?;
    rustix::process::chdir("/").map_err(|errno| Error::new("chdir(\"/\")", errno))
}

/// Makes the directory `root` this process's root, and its working directory. Others keep theirs.
pub fn chroot_into(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(|errno| Error::new(format!("fchdir({})", root.as_raw_fd()), errno))?;
    rustix::process::chroot(".").map_err(|errno| Error::new("chroot(\".\")", errno))?;
    rustix::process::chdir("/").map_err(|errno| Error::new("chdir(\"/\")", errno))
}

/// Detaches the mount whose root `fd` is, with all beneath.
pub fn detach(fd: BorrowedFd<'_>) -> Result<()> {
    detach_at(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())))
}

/// Detaches the mount at a path that no container can influence, with all beneath.
///
/// # Errors
/// The kernel's; EINVAL if nothing is mounted there, or it came from a namespace of more rights.
pub fn detach_at(path: &Path) -> Result<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH)
        .map_err(|errno| Error::new(format!("umount2({path:?}, MNT_DETACH)"), errno))
}

/// A mount as `/proc/self/mountinfo` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its number.
    pub id: u64,
    /// The number of the mount that it is on.
    pub parent: u64,
    /// Whether the whole file system is there, not only a directory of it.
    pub whole: bool,
    /// Where it is, as this process's root has it.
    pub place: std::path::PathBuf,
    /// File system type.
    pub fs: String,
}

/// The mounts that this process can see.
pub fn list() -> Result<Vec<Listed>> {
    let path = "/proc/self/mountinfo";
    let text = std::fs::read(path).map_err(|error| {
        Error::new(format!("read({path:?})"), rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
    })?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse_listed).collect())
}

fn parse_listed(line: &[u8]) -> Option<Listed> {
    use std::os::unix::ffi::OsStringExt as _;
    let mut words = line.split(|byte| *byte == b' ');
    let number = |word: Option<&[u8]>| std::str::from_utf8(word?).ok()?.parse().ok();
    let (id, parent) = (number(words.next())?, number(words.next())?);
    let whole = words.nth(1)? == b"/";
    let mut place = Vec::new();
    let mut bytes = words.next()?;
    while let Some((&first, rest)) = bytes.split_first() {
        // Blanks, line breaks and backslashes are written in octal.
        let octal = rest.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                place.push(byte);
                bytes = &rest[3..];
            }
            None => {
                place.push(first);
                bytes = rest;
            }
        }
    }
    let fs = words.skip_while(|word| *word != b"-").nth(1)?;
    let place = std::ffi::OsString::from_vec(place).into();
    Some(Listed { id, parent, whole, place, fs: String::from_utf8_lossy(fs).into_owned() })
}

/// The number of the mount that a descriptor is in.
pub fn id_of(fd: BorrowedFd<'_>) -> Result<u64> {
    rustix::fs::statx(fd, "", rustix::fs::AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::MNT_ID)
        .map(|stat| stat.stx_mnt_id)
        .map_err(|errno| Error::new(format!("statx({}, STATX_MNT_ID)", fd.as_raw_fd()), errno))
}

/// The classic mount(2), for overlayfs on kernels that do not take layers by descriptor. `data` is at most 4,095 bytes.
pub fn mount_classic(fs: &str, target: &str, data: &std::ffi::CStr) -> Result<()> {
    rustix::mount::mount(fs, target, fs, MountFlags::empty(), Some(data))
        .map_err(|errno| Error::new(format!("mount({fs:?}, {target:?}, {data:?})"), errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let line = br"36 35 98:0 /mnt1 /a\040b\134 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let listed = parse_listed(line).unwrap();
        assert_eq!(listed, Listed { id: 36, parent: 35, whole: false, place: r"/a b\".into(), fs: "ext3".to_owned() });
        assert!(list().unwrap().iter().any(|mount| mount.fs == "proc" && mount.whole));
        assert!(parse_listed(b"").is_none());
    }
}
