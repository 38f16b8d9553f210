//! What is read of images before CRIU gets them: the mounts and the filters that they ask for, against the specification.
//! Owns the refusal of images that ask for more than that gives. Must not change them. It is the first of two looks: whatever
//! slips by (somebody else may write to the directory) is seen in the restored processes (`verify`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::mountinfo::{RESTRICTIONS, words};
use super::protobuf::{Fields, Value};
use super::stage::Staged;
use crate::error::{Error, Result};
use crate::launch::Launch;

/// The first word of every image but the inventory.
const COMMON_MAGIC: u32 = 0x5456_4319;
const MOUNTS_MAGIC: u32 = 0x5556_3928;
const SECCOMP_MAGIC: u32 = 0x6441_3049;
const CORE_MAGIC: u32 = 0x5505_3847;

const SECCOMP_MODE_FILTER: u64 = 2;

/// Larger ones are no list of mounts or filters (4,096 mounts of 4 KiB each).
const MAX_BYTES: u64 = 16 << 20;

/// `fstype` of images: what a container may have. The others are the host's (devtmpfs, debugfs, tracefs, securityfs, pstore, …).
const FILE_SYSTEMS: [u64; 12] = [0, 1, 2, 5, 6, 7, 12, 14, 15, 17, 18, 23];

/// A mount as an image has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mount {
    fs: u64,
    device: u64,
    flags: u64,
    root: PathBuf,
    /// Without a leading slash.
    pub point: PathBuf,
    external: Option<String>,
    plugin: bool,
}

/// All mounts of the images, those of nested mount namespaces too.
pub(super) fn mounts(directory: &Path) -> Result<Vec<Mount>> {
    let mut mounts = Vec::new();
    for path in named(directory, "mountpoints-")? {
        for message in messages(&path, MOUNTS_MAGIC)? {
            mounts.push(mount(&message)?);
        }
    }
    Ok(mounts)
}

/// The images whose name begins so.
fn named(directory: &Path, prefix: &str) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(directory).map_err(|error| Error::system(format!("{}: {error}", directory.display())))?;
    let named = entries.flatten().filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(prefix) && name.ends_with(".img")
    });
    Ok(named.map(|entry| entry.path()).collect())
}

/// The messages of an image.
fn messages(path: &Path, magic: u32) -> Result<Vec<Vec<u8>>> {
    let bad = |why: String| Error::invalid(format!("{}: {why}", path.display()));
    let stat = std::fs::symlink_metadata(path).map_err(|error| bad(error.to_string()))?;
    if !stat.is_file() || stat.len() > MAX_BYTES {
        return Err(bad("is no image".to_owned()));
    }
    let content = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    let cut = || bad("is cut off or of another format".to_owned());
    let (first, rest) = word(&content).ok_or_else(cut)?;
    let (second, mut rest) = if first == COMMON_MAGIC { word(rest).ok_or_else(cut)? } else { (first, rest) };
    if second != magic {
        return Err(cut());
    }
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let (length, after) = word(rest).ok_or_else(cut)?;
        let (message, after) =
            usize::try_from(length).ok().and_then(|length| after.split_at_checked(length)).ok_or_else(cut)?;
        messages.push(message.to_vec());
        rest = after;
    }
    Ok(messages)
}

fn word(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*word), rest))
}

fn mount(message: &[u8]) -> Result<Mount> {
    let mut mount = Mount::default();
    let path = |data: &[u8]| PathBuf::from(OsString::from_vec(data.to_vec()));
    for field in Fields::of(message) {
        match field? {
            (1, fs) => mount.fs = fs.number(),
            (3, device) => mount.device = device.number(),
            (5, flags) => mount.flags = flags.number(),
            (6, root) => mount.root = path(root.data()),
            (7, point) => {
                let point = path(point.data());
                // Written as it was read: once with, once without what stands for the namespace's root.
                mount.point =
                    point.strip_prefix("./").or_else(|_| point.strip_prefix("/")).unwrap_or(&point).to_owned();
            }
            (12, plugin) => mount.plugin = plugin.number() != 0,
            // Before there were names: the root was one.
            (13, external) if external.number() != 0 => mount.external = Some(String::new()),
            (18, name) => mount.external = Some(name.text()),
            _ => {}
        }
    }
    Ok(mount)
}

/// Refuses mounts that the bundle does not give.
pub(super) fn check(mounts: &[Mount], staged: &[Staged]) -> Result<()> {
    if mounts.is_empty() {
        return Err(Error::invalid("the images have no mount namespace: they are not of a container"));
    }
    for mount in mounts {
        let place = mount.point.display();
        let bad = |why: &str| Error::invalid(format!("the images' mount at /{place} is refused: {why}"));
        if !plain(&mount.point) || !plain(&mount.root) {
            return Err(bad("its path has \"..\""));
        }
        if mount.plugin || !FILE_SYSTEMS.contains(&mount.fs) {
            return Err(bad("it is of a kind that no container has"));
        }
        let Some(name) = &mount.external else { continue };
        let given = staged.iter().find(|given| given.name == *name);
        let given = given.ok_or_else(|| {
            bad(&format!(
                "it is called {name:?}, which no mount of this bundle is: restore with the bundle that it was made from"
            ))
        })?;
        let missing =
            RESTRICTIONS.iter().fold(0, |bits, (_, bit)| bits | bit) & given.restrictions & !(mount.flags as u32);
        if missing != 0 {
            return Err(bad(&format!("the bundle has it {}, the images do not", words(missing))));
        }
    }
    Ok(())
}

fn plain(path: &Path) -> bool {
    !path.components().any(|component| matches!(component, Component::ParentDir))
}

/// Refuses places and sources of mounts that a link of the root file system would lead elsewhere: what CRIU opens by path.
/// `root` is the container's root as prepared, `staged` where what is given lies.
pub(super) fn check_links(mounts: &[Mount], root: &impl std::os::fd::AsFd, staged: &[(String, PathBuf)]) -> Result<()> {
    let Some(top) = mounts.iter().find(|mount| mount.point.as_os_str().is_empty()) else {
        return Err(Error::invalid("the images have no mount at /"));
    };
    let refused = |mount: &Mount, what: &str| {
        Error::invalid(format!(
            "the images' mount at /{} is refused: {what} leads through a link",
            mount.point.display()
        ))
    };
    for mount in mounts {
        // Beneath another mount it is that mount's content that counts, which is CRIU's to make (or was checked with it).
        let beneath = mounts.iter().any(|other| {
            other.external.is_none()
                && other.fs != 0
                && !other.point.as_os_str().is_empty()
                && mount.point.starts_with(&other.point)
        });
        if !beneath && has_link(root, &mount.point) {
            return Err(refused(mount, "its place"));
        }
        if mount.external.is_none() && mount.device == top.device {
            let inside = mount.root.strip_prefix(&top.root).unwrap_or(&mount.root);
            if has_link(root, inside.strip_prefix("/").unwrap_or(inside)) {
                return Err(refused(mount, "what it shows"));
            }
        }
        for origin in mounts.iter().filter(|other| mount.external.is_none() && other.device == mount.device) {
            let Some(name) = &origin.external else { continue };
            let Some((_, path)) = staged.iter().find(|(known, _)| known == name) else { continue };
            let Ok(inside) = mount.root.strip_prefix(&origin.root) else { continue };
            let there = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            if !inside.as_os_str().is_empty() && there.is_ok_and(|there| has_link(&there, inside)) {
                return Err(refused(mount, "what it shows"));
            }
        }
    }
    Ok(())
}

/// Whether a path leads through a link; one that is not there leads nowhere.
fn has_link(root: &impl std::os::fd::AsFd, path: &Path) -> bool {
    if path.as_os_str().is_empty() {
        return false;
    }
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let opened = rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    matches!(opened, Err(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV))
}

/// Refuses images of threads that would run without the specification's filter. A thread's chain of filters starts with the
/// oldest, which is that of its container.
pub(super) fn check_filters(directory: &Path, launch: Option<&Launch>) -> Result<()> {
    let Some(filter) = launch.and_then(|launch| launch.filter.as_ref()) else { return Ok(()) };
    let bytes = |one: &crate::seccomp::Instruction| {
        [&one.code.to_ne_bytes()[..], &[one.jt, one.jf], &one.k.to_ne_bytes()].concat()
    };
    let wanted: Vec<u8> = filter.instructions.iter().flat_map(bytes).collect();
    let path = directory.join("seccomp.img");
    let messages = if path.exists() { messages(&path, SECCOMP_MAGIC)? } else { Vec::new() };
    let mut filters = Vec::new();
    for entry in messages.iter().flat_map(|message| Fields::of(message)) {
        let (1, entry) = entry? else { continue };
        filters.push(last(entry.data(), 1)?.is_some_and(|program| program.data() == wanted));
    }
    for path in named(directory, "core-")? {
        for core in self::messages(&path, CORE_MAGIC)? {
            let has_it =
                |index: Option<u64>| index.and_then(|index| filters.get(usize::try_from(index).ok()?)) == Some(&true);
            if let Thread::Alive { mode, filter } = thread(&core)?
                && (mode != Some(SECCOMP_MODE_FILTER) || !has_it(filter))
            {
                return Err(Error::invalid(format!(
                    "linux.seccomp: {}: the filter is not the one that this bundle's profile gives (another profile, or another version of this program)",
                    path.display()
                )));
            }
        }
    }
    Ok(())
}

/// What an image of a thread says of filters.
enum Thread {
    /// It has ended and will never run.
    Ended,
    Alive {
        mode: Option<u64>,
        filter: Option<u64>,
    },
}

fn thread(core: &[u8]) -> Result<Thread> {
    const TASK_DEAD: u64 = 6;
    if let Some(task) = last(core, 3)? {
        if last(task.data(), 1)?.map(Value::number) == Some(TASK_DEAD) {
            return Ok(Thread::Ended);
        }
        // Where CRIU before 3.6 had them; it would prefer these.
        if last(task.data(), 11)?.is_some() || last(task.data(), 12)?.is_some() {
            return Ok(Thread::Alive { mode: None, filter: None });
        }
    }
    let Some(thread) = last(core, 5)? else { return Ok(Thread::Alive { mode: None, filter: None }) };
    let number = |field| Ok::<_, Error>(last(thread.data(), field)?.map(Value::number));
    Ok(Thread::Alive { mode: number(11)?, filter: number(12)? })
}

/// The last value of a field, which is the one that counts.
fn last(message: &[u8], wanted: u32) -> Result<Option<Value<'_>>> {
    let mut found = None;
    for field in Fields::of(message) {
        let (number, value) = field?;
        if number == wanted {
            found = Some(value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::Message;
    use super::*;

    fn entry(point: &str, root: &str, fs: i64, flags: i64, name: Option<&str>) -> Mount {
        let mut message = Message::default();
        message.number(1, fs).number(3, 7).number(5, flags).data(6, root).data(7, point);
        if let Some(name) = name {
            message.data(18, name);
        }
        mount(message.bytes()).unwrap()
    }

    fn staged() -> Vec<Staged> {
        vec![Staged {
            name: "brig:1:/data".into(),
            path: "/mnt/1".into(),
            device: "8:1".into(),
            root: "/srv/data".into(),
            restrictions: 1 | 4,
        }]
    }

    #[test]
    fn only_what_the_bundle_gives() {
        let root = entry("/", "/", 0, 0, None);
        let good = entry("/data", "/x", 0, 1 | 4 | 8, Some("brig:1:/data"));
        assert_eq!(good.point, Path::new("data"));
        check(&[root.clone(), good], &staged()).unwrap();
        for (mount, why) in [
            (entry("/data", "/x", 0, 4, Some("brig:1:/data")), "the bundle has it ro"),
            (entry("/data", "/x", 0, 5, Some("/etc")), "no mount of this bundle"),
            (entry("/a/../../b", "/", 5, 0, None), "\"..\""),
            (entry("/a", "/../etc", 0, 0, None), "\"..\""),
            (entry("/a", "/", 3, 0, None), "no container has"),
            (entry("/a", "/", 11, 0, None), "no container has"),
            (entry("/a", "/", 16, 0, None), "no container has"),
        ] {
            let error = check(&[root.clone(), mount], &staged()).unwrap_err();
            assert!(error.message.contains(why), "{error}");
        }
        assert!(check(&[], &[]).is_err());
    }

    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/conf")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let top = entry("/", "/rootfs", 0, 0, None);
        let try_one = |mount: Mount| check_links(&[top.clone(), mount], &root, &[]);
        assert!(try_one(entry("/real/conf", "/rootfs/real", 0, 0, Some("x"))).is_ok());
        assert!(try_one(entry("/not/there", "/rootfs", 0, 0, Some("x"))).is_ok());
        let place = try_one(entry("/link/conf", "/rootfs/real", 0, 0, Some("x"))).unwrap_err();
        assert!(place.message.contains("its place leads through a link"), "{place}");
        assert!(try_one(entry("/link", "/rootfs/real", 0, 0, Some("x"))).is_err());
        let shown = try_one(entry("/real/conf", "/rootfs/link/conf", 0, 0, None)).unwrap_err();
        assert!(shown.message.contains("what it shows leads through a link"), "{shown}");
    }

    #[test]
    fn threads() {
        let core = |task: &[(u32, i64)], thread: &[(u32, i64)]| {
            let [mut inner, mut other, mut core] = [Message::default(), Message::default(), Message::default()];
            for (field, value) in task {
                inner.number(*field, *value);
            }
            for (field, value) in thread {
                other.number(*field, *value);
            }
            super::thread(core.number(1, 1).data(3, inner.bytes()).data(5, other.bytes()).bytes()).unwrap()
        };
        assert!(matches!(core(&[(1, 1)], &[(11, 2), (12, 7)]), Thread::Alive { mode: Some(2), filter: Some(7) }));
        assert!(matches!(core(&[(1, 6)], &[]), Thread::Ended));
        assert!(matches!(core(&[(1, 1), (12, 3)], &[(11, 2), (12, 7)]), Thread::Alive { mode: None, filter: None }));
        assert!(matches!(core(&[(1, 1)], &[]), Thread::Alive { mode: None, filter: None }));
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mountpoints-9.img");
        let mut message = Message::default();
        message.number(1, 5).data(6, "/").data(7, "/tmp");
        let mut content = [COMMON_MAGIC.to_le_bytes(), MOUNTS_MAGIC.to_le_bytes()].concat();
        content.extend(u32::try_from(message.bytes().len()).unwrap().to_le_bytes());
        content.extend(message.bytes());
        std::fs::write(&path, &content).unwrap();
        assert_eq!(mounts(dir.path()).unwrap()[0].point, Path::new("tmp"));
        for end in [0, 3, 7, 10, content.len() - 1] {
            std::fs::write(&path, &content[..end]).unwrap();
            assert!(mounts(dir.path()).is_err(), "{end}");
        }
    }
}
