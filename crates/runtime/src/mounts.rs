//! The mounts of a specification, checked and sorted by what has to be done for them.
//! Owns the rules about destinations. Must not mount.

use std::path::{Component, Path, PathBuf};

use brig_oci::runtime::{Mount, Spec};

use crate::error::{Error, Result};
use crate::options::{self, Options};

/// How a mount comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The parent clones a tree of the host's and hands it over.
    Bind,
    /// `/dev`: the parent makes and fills it.
    Dev,
    /// The cgroup hierarchies.
    Cgroup,
    /// Init makes the file system in its own namespaces.
    FileSystem,
}

/// One mount.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// Without a leading `/`, without `.` and `..`.
    pub destination: PathBuf,
    pub kind: Kind,
    pub fs: String,
    pub source: Option<PathBuf>,
    /// The source is in the container's own root, where earlier mounts may have put it: its path there.
    pub inner: Option<PathBuf>,
    pub options: Options,
    pub mappings: Option<(Vec<brig_sys::idmap::Range>, Vec<brig_sys::idmap::Range>)>,
}

/// Files in `/proc` that may be replaced by a bind mount (lxcfs makes such); nothing else there may be hidden.
const PROC_FILES: [&str; 10] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/meminfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "proc/loadavg",
    "proc/slabinfo",
    "proc/sys/kernel/ns_last_pid",
    "proc/sys/crypto/fips_enabled",
];

/// Where relative paths begin, and which absolute ones mean the container.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outside<'a> {
    /// The bundle: sources may be relative to it.
    pub bundle: &'a Path,
    /// The root, if it is a directory of the host's: paths through it mean what the container sees there.
    pub root: Option<&'a Path>,
}

/// The mounts of a specification in their order. A container always gets a `/dev` of ours: if none is listed, one is added.
pub(crate) fn plan(spec: &Spec, outside: Outside<'_>) -> Result<Vec<Planned>> {
    if spec.mounts.len() > 4096 {
        return Err(Error::invalid(format!("mounts: {} of them; 4096 are supported", spec.mounts.len())));
    }
    let mut planned = spec.mounts.iter().map(|mount| plan_one(mount, outside)).collect::<Result<Vec<_>>>()?;
    if !planned.iter().any(|mount| mount.destination == Path::new("dev")) {
        planned.insert(0, plan_one(&default_dev(), outside)?);
    }
    let label = spec.linux.as_ref().map_or("", |linux| linux.mount_label.as_str());
    if !label.is_empty() {
        planned.iter_mut().for_each(|mount| mount.set_label(label));
    }
    Ok(planned)
}

impl Planned {
    /// Gives a new file system its SELinux context. The kernel's own file systems have theirs from the policy, and what is
    /// bound keeps what it has.
    fn set_label(&mut self, label: &str) {
        let labelled = matches!(self.kind, Kind::Dev | Kind::FileSystem)
            && !matches!(self.fs.as_str(), "proc" | "sysfs" | "mqueue" | "securityfs" | "bpf");
        if labelled && !self.options.has_data("context") {
            self.options.data.push(("context".to_owned(), Some(label.to_owned())));
        }
    }
}

fn default_dev() -> Mount {
    let options = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    Mount {
        destination: "/dev".into(),
        type_: "tmpfs".into(),
        source: Some("tmpfs".into()),
        options: options.map(str::to_owned).to_vec(),
        ..Mount::default()
    }
}

fn plan_one(mount: &Mount, outside: Outside<'_>) -> Result<Planned> {
    if mount.destination.as_os_str().is_empty() {
        return Err(Error::invalid("mounts.destination: is missing"));
    }
    let through_root = |path: &Path| outside.root.and_then(|root| path.strip_prefix(root).ok()).map(Path::to_owned);
    // Before 1.1 the specification let destinations be relative, to the container's root.
    let destination = through_root(&mount.destination).unwrap_or_else(|| mount.destination.clone());
    let destination = inside(&Path::new("/").join(destination), "mounts.destination")?;
    let place = mount.destination.display();
    if destination.as_os_str().is_empty() {
        return Err(Error::invalid(format!("mounts: {place}: the root itself cannot be a mount of its own; use root")));
    }
    let options = options::parse(mount)?;
    let kind = match (options.bind, mount.type_.as_str()) {
        (Some(_), _) => Kind::Bind,
        (None, "tmpfs") if destination == Path::new("dev") => Kind::Dev,
        (None, "cgroup" | "cgroup2") => Kind::Cgroup,
        (None, _) => Kind::FileSystem,
    };
    if destination == Path::new("dev") && kind == Kind::FileSystem {
        return Err(Error::unsupported(format!(
            "mounts: {place}: must be a tmpfs or a bind mount, not {:?}",
            mount.type_
        )));
    }
    let mut source = mount.source.clone();
    let mut inner = None;
    if kind == Kind::Bind {
        let given = source.filter(|source| !source.as_os_str().is_empty());
        let given =
            given.ok_or_else(|| Error::invalid(format!("mounts: {place}: a bind mount needs a source path")))?;
        let path = outside.bundle.join(given);
        inner = through_root(&path);
        source = Some(path);
    }
    check_special(mount, &destination, kind)?;
    Ok(Planned { destination, kind, fs: mount.type_.clone(), source, inner, options, mappings: mappings(mount)? })
}

fn mappings(mount: &Mount) -> Result<Option<(Vec<brig_sys::idmap::Range>, Vec<brig_sys::idmap::Range>)>> {
    match (mount.uid_mappings.is_empty(), mount.gid_mappings.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => {
            Ok(Some((crate::identity::ranges(&mount.uid_mappings), crate::identity::ranges(&mount.gid_mappings))))
        }
        _ => Err(Error::invalid(format!(
            "mounts: {}: needs uidMappings and gidMappings, not one of them",
            mount.destination.display()
        ))),
    }
}

/// A path inside the container without its leading `/`.
pub(crate) fn inside(path: &Path, field: &str) -> Result<PathBuf> {
    let bad = |why: &str| Error::invalid(format!("{field}: {}: {why}", path.display()));
    if !path.is_absolute() {
        return Err(bad("is not absolute"));
    }
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => return Err(bad("contains \"..\"")),
            Component::Prefix(_) => return Err(bad("has a prefix")),
        }
    }
    Ok(clean)
}

/// `/proc` and `/sys` must be what they are called: security settings are written through them (CVE-2019-16884 and kin).
fn check_special(mount: &Mount, destination: &Path, kind: Kind) -> Result<()> {
    let bad = |why: &str| Err(Error::invalid(format!("mounts: {}: {why}", mount.destination.display())));
    let fs = mount.type_.as_str();
    if destination == Path::new("proc") {
        // What is bound must itself be a whole procfs, which is seen when it is opened.
        return if kind == Kind::Bind || fs == "proc" {
            Ok(())
        } else {
            bad("only a proc file system may be mounted there")
        };
    }
    if destination == Path::new("sys") {
        return if kind == Kind::Bind || matches!(fs, "sysfs" | "tmpfs") {
            Ok(())
        } else {
            bad("only a sysfs file system may be mounted there")
        };
    }
    if destination.starts_with("proc") && !may_hide_in_proc(destination) {
        return bad("nothing may be mounted inside of /proc except over cpuinfo, meminfo, stat, uptime and such");
    }
    Ok(())
}

/// Whether a mount on this file in `/proc` is harmless.
pub(crate) fn may_hide_in_proc(destination: &Path) -> bool {
    PROC_FILES.iter().any(|file| destination == Path::new(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outside() -> Outside<'static> {
        Outside { bundle: Path::new("/bundle"), root: Some(Path::new("/bundle/root")) }
    }

    fn one(destination: &str, type_: &str, source: &str, options: &[&str]) -> Result<Planned> {
        let mount = Mount {
            destination: destination.into(),
            type_: type_.into(),
            source: Some(source.into()),
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            ..Mount::default()
        };
        plan_one(&mount, outside())
    }

    #[test]
    fn paths_through_the_bundle() {
        assert_eq!(one("x", "tmpfs", "tmpfs", &[]).unwrap().destination, Path::new("x"));
        assert_eq!(one("/bundle/root/a/b", "bind", "/y", &[]).unwrap().destination, Path::new("a/b"));
        let planned = one("/x", "bind", "sub/dir", &[]).unwrap();
        assert_eq!((planned.source.as_deref(), planned.inner), (Some(Path::new("/bundle/sub/dir")), None));
        assert_eq!(one("/x", "bind", "root/dir", &[]).unwrap().inner.as_deref(), Some(Path::new("dir")));
        assert_eq!(one("/x", "bind", "/bundle/rootless", &[]).unwrap().inner, None);
    }

    #[test]
    fn sorts_by_kind() {
        assert_eq!(one("/dev", "tmpfs", "tmpfs", &[]).unwrap().kind, Kind::Dev);
        assert_eq!(one("/dev/shm", "tmpfs", "shm", &[]).unwrap().kind, Kind::FileSystem);
        assert_eq!(one("/x", "none", "/y", &["rbind"]).unwrap().kind, Kind::Bind);
        assert_eq!(one("/x/./y/", "bind", "/y", &[]).unwrap().destination, Path::new("x/y"));
        assert_eq!(one("/sys/fs/cgroup", "cgroup", "cgroup", &["ro"]).unwrap().kind, Kind::Cgroup);
        assert_eq!(one("/proc/meminfo", "bind", "/y", &[]).unwrap().kind, Kind::Bind);
    }

    #[test]
    fn labels_are_for_new_file_systems() {
        let labelled = |destination: &str, type_: &str, options: &[&str]| -> Vec<String> {
            let mut mount = one(destination, type_, "/x", options).unwrap();
            mount.set_label("system_u:object_r:container_file_t:s0:c4,c5");
            mount.options.data.into_iter().filter(|(key, _)| key == "context").filter_map(|(_, value)| value).collect()
        };
        let label = ["system_u:object_r:container_file_t:s0:c4,c5"];
        assert_eq!(labelled("/dev", "tmpfs", &[]), label);
        assert_eq!(labelled("/dev/shm", "tmpfs", &["size=5"]), label);
        assert_eq!(labelled("/dev/pts", "devpts", &[]), label);
        assert_eq!(labelled("/x", "tmpfs", &["context=own"]), ["own"]);
        for (destination, type_, options) in [
            ("/proc", "proc", &[][..]),
            ("/sys", "sysfs", &[]),
            ("/dev/mqueue", "mqueue", &[]),
            ("/x", "bind", &["bind"]),
            ("/sys/fs/cgroup", "cgroup", &[]),
        ] {
            assert_eq!(labelled(destination, type_, options), Vec::<String>::new(), "{destination}");
        }
    }

    #[test]
    fn refuses_dangerous_places() {
        for (destination, type_, source) in [
            ("/", "tmpfs", "tmpfs"),
            (".", "tmpfs", "tmpfs"),
            ("/bundle/root", "tmpfs", "tmpfs"),
            ("/a/../b", "tmpfs", "tmpfs"),
            ("/proc", "tmpfs", "x"),
            ("/proc/self", "bind", "/fake"),
            ("/proc/sys/net", "tmpfs", "x"),
            ("/sys", "proc", "x"),
            ("/x", "bind", ""),
            ("/dev", "ramfs", "x"),
        ] {
            assert!(one(destination, type_, source, &[]).is_err(), "{destination} {type_}");
        }
    }

    #[test]
    fn adds_dev() {
        let planned = plan(&Spec::default(), outside()).unwrap();
        assert_eq!((planned.len(), planned[0].kind), (1, Kind::Dev));
    }
}
