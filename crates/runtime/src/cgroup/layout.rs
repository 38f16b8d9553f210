//! Owns finding out which cgroup hierarchies this machine mounts, and where. It must not create or change any.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::error::{Error, ErrorKind, Result};
use super::files;

/// Which generation is in charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only version 1 is mounted.
    V1,
    /// Only version 2 is mounted.
    V2,
    /// Controllers on version 1, and version 2 mounted beside it.
    Hybrid,
}

/// One mounted version 1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// `cpu`, `memory`, `name=systemd`, …
    pub controllers: Vec<String>,
    /// Where it is mounted. Names of cgroups are relative to here.
    pub mount: PathBuf,
}

/// The hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    /// Version 1 hierarchies.
    pub v1: Vec<Hierarchy>,
    /// The version 2 hierarchy.
    pub v2: Option<PathBuf>,
}

/// Where cgroups are mounted unless somebody has a reason not to.
const USUAL: &str = "/sys/fs/cgroup";

/// Options of a version 1 mount that are controllers; the others (`xattr`, `release_agent=…`) are not.
const CONTROLLERS: [&str; 14] = [
    "cpuset",
    "cpu",
    "cpuacct",
    "blkio",
    "memory",
    "devices",
    "freezer",
    "net_cls",
    "perf_event",
    "net_prio",
    "hugetlb",
    "pids",
    "rdma",
    "misc",
];

impl Layout {
    /// Reads this process's mounts.
    ///
    /// # Errors
    /// `/proc` is not readable, or no cgroup file system is mounted at all.
    pub fn detect() -> Result<Layout> {
        let layout = Layout::parse(&files::read(Path::new("/proc/self"), "mountinfo")?);
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "no cgroup file system is mounted: mount one, for example: mount -t cgroup2 none /sys/fs/cgroup",
            ));
        }
        Ok(layout)
    }

    /// Reads the text of a `mountinfo` file. The first mount of a controller counts, those in the usual place before others:
    /// somebody may have bound a cgroup elsewhere, for a container of theirs.
    #[must_use]
    pub fn parse(mountinfo: &str) -> Layout {
        let mut layout = Layout::default();
        let mut found: Vec<(PathBuf, &str, &str)> = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let mut right = right.split(' ');
            let (Some(kind @ ("cgroup" | "cgroup2")), Some(options)) = (right.next(), right.nth(1)) else {
                continue;
            };
            found.extend(left.split(' ').nth(4).map(|mount| (unescape(mount), kind, options)));
        }
        found.sort_by_key(|(mount, ..)| !mount.starts_with(USUAL));
        for (mount, kind, options) in found {
            match kind {
                "cgroup" => layout.add_v1(mount, options),
                _ if layout.v2.is_none() => layout.v2 = Some(mount),
                _ => {}
            }
        }
        layout
    }

    fn add_v1(&mut self, mount: PathBuf, options: &str) {
        let is_controller = |option: &&str| CONTROLLERS.contains(option) || option.starts_with("name=");
        let controllers: Vec<String> = options.split(',').filter(is_controller).map(str::to_owned).collect();
        if !controllers.is_empty() && controllers.iter().all(|name| self.hierarchy(name).is_none()) {
            self.v1.push(Hierarchy { controllers, mount });
        }
    }

    /// Which generation holds the controllers.
    #[must_use]
    pub fn mode(&self) -> Mode {
        // A lone named hierarchy (name=systemd) carries no controllers: the machine is version 2 in all that matters.
        let controllers_on_v1 =
            self.v1.iter().any(|hierarchy| hierarchy.controllers.iter().any(|name| !name.starts_with("name=")));
        match (&self.v2, controllers_on_v1) {
            (Some(_), false) => Mode::V2,
            (Some(_), true) => Mode::Hybrid,
            (None, _) => Mode::V1,
        }
    }

    /// The version 1 hierarchy of a controller.
    #[must_use]
    pub fn hierarchy(&self, controller: &str) -> Option<&Hierarchy> {
        self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }
}

/// The parent of the cgroup that this process is in on version 2, without a leading slash.
pub(super) fn own_parent() -> Result<PathBuf> {
    let text = files::read(Path::new("/proc/self"), "cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Ok(Path::new(own).parent().map(Path::to_path_buf).unwrap_or_default())
}

/// mountinfo writes space, tab, newline and backslash as `\040` and the like.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|digits| bytes[at] == b'\\' && digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        if let Some(digits) = octal {
            out.push(digits.iter().fold(0u8, |value, digit| value.wrapping_mul(8).wrapping_add(digit - b'0')));
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_v1_and_v2() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      36 31 0:32 / /mnt/again rw - cgroup cgroup rw,memory\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/with\\040space rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(hybrid);
        assert_eq!(layout.mode(), Mode::Hybrid);
        assert_eq!(layout.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/with space")));
        assert_eq!(layout.hierarchy("memory").unwrap().mount, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(layout.hierarchy("cpuacct").unwrap().controllers, ["cpu", "cpuacct"]);
        assert_eq!(layout.hierarchy("name=systemd").unwrap().controllers, ["name=systemd"]);
        assert!(layout.hierarchy("pids").is_none());
        assert_eq!(Layout::parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate").mode(), Mode::V2);
        assert_eq!(Layout::parse("30 23 0:26 / /c rw - cgroup cgroup rw,pids").mode(), Mode::V1);
        assert_eq!(Layout::parse("garbage\n - \n1 2 - cgroup2"), Layout::default());
    }

    #[test]
    fn the_usual_place_comes_before_others() {
        let layout = Layout::parse(
            "9 1 0:38 / /tmp/x/sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             10 1 0:30 / /tmp/x/cpu rw - cgroup cgroup rw,cpu\n\
             11 1 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             12 1 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
        );
        assert_eq!(layout.v2.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(layout.hierarchy("cpu").unwrap().mount, Path::new("/sys/fs/cgroup/cpu"));
        let elsewhere = Layout::parse("9 1 0:38 / /mnt/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(elsewhere.v2.as_deref(), Some(Path::new("/mnt/cgroup")));
    }

    #[test]
    fn this_machine_has_some() {
        let layout = Layout::detect().unwrap();
        println!("{:?}: {layout:?}", layout.mode());
    }
}
