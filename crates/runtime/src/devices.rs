//! The container's `/dev`: a tmpfs that the parent makes and fills before anything of the image can act.
//! Owns which nodes and links it holds. Must not open any device.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use brig_oci::runtime::LinuxDevice;
use brig_sys::mount::{Attr, Context};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use crate::error::{Error, Result, Step};
use crate::identity::Identity;
use crate::mounts::{self, Planned};

/// What every container has (runtime-spec, config-linux.md, default devices): name, major, minor.
const DEFAULT: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// A node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub kind: FileType,
    number: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// The nodes of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Nodes {
    /// By their path in `/dev`. If that is a bind mount it is taken as it is, and none of these is made.
    pub dev: BTreeMap<PathBuf, Node>,
    /// By their path in the root, elsewhere.
    pub outside: BTreeMap<PathBuf, Node>,
}

/// The default nodes and those of the specification.
pub(crate) fn plan(devices: &[LinuxDevice]) -> Result<Nodes> {
    let mut dev: BTreeMap<PathBuf, Node> = DEFAULT
        .iter()
        .map(|(name, major, minor)| {
            let number = rustix::fs::makedev(*major, *minor);
            (PathBuf::from(name), Node { kind: FileType::CharacterDevice, number, mode: 0o666, uid: 0, gid: 0 })
        })
        .collect();
    let mut outside = BTreeMap::new();
    for device in devices {
        let bad = |why: &str| Error::invalid(format!("linux.devices: {}: {why}", device.path.display()));
        let whole = mounts::inside(&device.path, "linux.devices")?;
        if whole.as_os_str().is_empty() || whole.starts_with("proc") || whole.starts_with("sys") {
            return Err(bad("is no place for a node"));
        }
        let Ok(path) = whole.strip_prefix("dev") else {
            if outside.insert(whole.clone(), node(device, &bad)?).is_some() {
                return Err(bad("is listed twice"));
            }
            continue;
        };
        if path.as_os_str().is_empty() {
            return Err(bad("is not the name of a node"));
        }
        // Every container has its own of these.
        if path.starts_with("pts") || ["ptmx", "console"].iter().any(|own| path == Path::new(own)) {
            continue;
        }
        if LINKS.iter().any(|(name, _)| path == Path::new(name)) {
            return Err(bad("is a link in every container"));
        }
        let node = node(device, &bad)?;
        if let Some(known) = dev.get(path)
            && (known.kind, known.number) != (node.kind, node.number)
        {
            return Err(bad("is already another device"));
        }
        dev.insert(path.to_owned(), node);
    }
    Ok(Nodes { dev, outside })
}

fn node(device: &LinuxDevice, bad: &dyn Fn(&str) -> Error) -> Result<Node> {
    let kind = match device.type_.as_str() {
        "c" | "u" => FileType::CharacterDevice,
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        other => return Err(bad(&format!("unknown type {other:?}"))),
    };
    // 12 and 20 bits: what dev_t has in the kernel.
    let number = |value: i64, bits: u32| u32::try_from(value).ok().filter(|value| *value < 1 << bits);
    let number = match kind {
        FileType::Fifo => 0,
        _ => match (number(device.major, 12), number(device.minor, 20)) {
            // 0:0 is what overlayfs hides files with, and what a specification without numbers says.
            (Some(major), Some(minor)) if (major, minor) != (0, 0) => rustix::fs::makedev(major, minor),
            _ => return Err(bad(&format!("{}:{} is no device number", device.major, device.minor))),
        },
    };
    let mode = device.file_mode.unwrap_or(0o666) & 0o7777;
    if mode > 0o777 {
        return Err(bad("its fileMode has more than permission bits"));
    }
    Ok(Node { kind, number, mode, uid: device.uid.unwrap_or(0), gid: device.gid.unwrap_or(0) })
}

/// Makes `/dev` as a detached mount. Owners are written as this machine sees them, so that it needs no idmap.
/// With `console` there is an empty file for the terminal to be bound on.
pub(crate) fn make(mount: &Planned, nodes: &Nodes, console: bool, identity: &Identity) -> Result<OwnedFd> {
    let (root_uid, root_gid) = identity.root()?;
    let tmpfs = Context::open("tmpfs")?;
    tmpfs.set("source", "tmpfs")?;
    tmpfs.set("uid", root_uid.to_string().as_str())?;
    tmpfs.set("gid", root_gid.to_string().as_str())?;
    for (key, value) in &mount.options.data {
        let step = || "mounts: /dev".to_owned();
        match value {
            Some(value) => tmpfs.set(key, value.as_str()).step(step)?,
            None => tmpfs.set_flag(key).step(step)?,
        }
    }
    // If it is to be read-only it becomes so when everything has been mounted in it.
    let attributes = mount.options.top.set & !Attr::MOUNT_ATTR_RDONLY;
    let dev = tmpfs.mount(attributes).step(|| "mounts: /dev".to_owned())?;
    without_umask(|| {
        fill(&dev, &nodes.dev, identity)?;
        finish(&dev, console, identity)
    })?;
    Ok(dev)
}

/// Makes the nodes whose places are elsewhere, in a file system of their own, from where each is bound to its place: what
/// stands there then is certainly what was made here. They are named by their number in the list.
pub(crate) fn make_outside(nodes: &Nodes, identity: &Identity) -> Result<OwnedFd> {
    let tmpfs = Context::open("tmpfs")?;
    tmpfs.set("source", "tmpfs")?;
    tmpfs.set("mode", "755")?;
    let place = tmpfs.mount(Attr::MOUNT_ATTR_NOEXEC | Attr::MOUNT_ATTR_NOSUID)?;
    let numbered = (0..).map(|number: usize| PathBuf::from(number.to_string()));
    let nodes = numbered.zip(nodes.outside.values().cloned()).collect();
    without_umask(|| fill(&place, &nodes, identity))?;
    Ok(place)
}

fn without_umask<T>(work: impl FnOnce() -> T) -> T {
    let old = rustix::process::umask(Mode::empty());
    let done = work();
    rustix::process::umask(old);
    done
}

fn fill(dev: &OwnedFd, nodes: &BTreeMap<PathBuf, Node>, identity: &Identity) -> Result<()> {
    let own = |path: &Path, uid: u32, gid: u32| own(dev, path, (uid, gid), identity);
    for (path, node) in nodes {
        for above in
            path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect::<Vec<_>>().into_iter().rev()
        {
            match rustix::fs::mkdirat(dev, above, Mode::from_raw_mode(0o755)) {
                Ok(()) => own(above, 0, 0)?,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed("mkdirat", above, errno)),
            }
        }
        match rustix::fs::mknodat(dev, path, node.kind, Mode::from_raw_mode(node.mode), node.number) {
            // In a user namespace nobody makes nodes: init binds those of the host.
            Err(Errno::PERM) if node.kind != FileType::Fifo => placeholder(dev, path)?,
            done => done.map_err(|errno| failed("mknodat", path, errno))?,
        }
        own(path, node.uid, node.gid)?;
    }
    Ok(())
}

fn placeholder(dev: &OwnedFd, path: &Path) -> Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dev, path, flags, Mode::from_raw_mode(0o600))
        .map(drop)
        .map_err(|errno| failed("openat", path, errno))
}

/// Opens an entry of a `/dev` of ours.
pub(crate) fn open(dev: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(dev, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed("openat", path, errno))
}

/// The node of the host at the same path, if it is the same device.
pub(crate) fn of_host(node: &Node, path: &Path) -> Result<OwnedFd> {
    let path = Path::new("/").join(path);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(&path, flags, Mode::empty())
        .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, O_PATH|O_NOFOLLOW)"), errno))?;
    let stat = rustix::fs::fstat(&found).map_err(|errno| brig_sys::Error::new(format!("fstat({path:?})"), errno))?;
    if FileType::from_raw_mode(stat.st_mode) != node.kind || stat.st_rdev != node.number {
        return Err(Error::invalid(format!(
            "no nodes can be made here, and the host's {} is another device",
            path.display()
        )));
    }
    Ok(found)
}

fn failed(call: &str, path: &Path, errno: Errno) -> Error {
    brig_sys::Error::new(format!("{call}(\"/dev/{}\")", path.display()), errno).into()
}

/// Gives an entry to an owner as the container calls it.
fn own(dev: &OwnedFd, path: &Path, (uid, gid): (u32, u32), identity: &Identity) -> Result<()> {
    let (uid, gid) = identity.outside(uid, gid).step(|| format!("linux.devices: /dev/{}", path.display()))?;
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    rustix::fs::chownat(dev, path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| failed("fchownat", path, errno))
}

/// What a `/dev` has besides nodes.
fn finish(dev: &OwnedFd, console: bool, identity: &Identity) -> Result<()> {
    let own = |path: &Path, uid: u32, gid: u32| own(dev, path, (uid, gid), identity);
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev, name).map_err(|errno| failed("symlinkat", Path::new(name), errno))?;
        own(Path::new(name), 0, 0)?;
    }
    if console {
        let path = Path::new("console");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(dev, path, flags, Mode::from_raw_mode(0o600))
            .map_err(|errno| failed("openat", path, errno))?;
        own(path, 0, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str, type_: &str, major: i64, minor: i64) -> LinuxDevice {
        LinuxDevice { path: path.into(), type_: type_.into(), major, minor, ..LinuxDevice::default() }
    }

    #[test]
    fn defaults_and_extras() {
        let nodes = plan(&[
            device("/dev/net/tun", "c", 10, 200),
            device("/dev/null", "c", 1, 3),
            device("/dev/ptmx", "c", 5, 2),
        ])
        .unwrap();
        assert_eq!((nodes.dev.len(), nodes.outside.len()), (7, 0));
        assert!(nodes.dev.contains_key(Path::new("net/tun")));
        let nodes = plan(&[device("/other/x", "c", 1, 5), device("y", "p", 0, 0)]);
        assert!(nodes.is_err());
        let nodes = plan(&[device("/other/x", "c", 1, 5), device("/y", "p", 0, 0)]).unwrap();
        assert_eq!((nodes.dev.len(), nodes.outside.len()), (6, 2));
    }

    #[test]
    fn refuses_contradictions() {
        for bad in [
            device("/dev/null", "c", 1, 5),
            device("/dev/x", "x", 1, 5),
            device("/dev/../x", "c", 1, 5),
            device("x", "c", 1, 5),
            device("/dev", "c", 1, 5),
            device("/proc/x", "c", 1, 5),
            device("/", "c", 1, 5),
            device("/dev/x", "c", -1, 5),
            device("/dev/x", "b", 1, 1 << 32),
            device("/dev/fd", "c", 1, 3),
        ] {
            assert!(plan(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
    }
}
