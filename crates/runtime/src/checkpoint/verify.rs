//! What was restored, compared with what a create by the same specification would give, while every restored thread still stands
//! still. Owns the comparison. It reads the kernel's word only, never the images'. Must not mend anything: what differs is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use brig_sys::beneath::Root;
use brig_sys::clone::flags;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};

use super::mountinfo::{self, Entry, words};
use super::stage::Staged;
use crate::error::{Error, Result};
use crate::plan::Plan;

const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_RESOURCE: u64 = 1 << 24;
const READ_ONLY: u32 = 1;

/// Namespaces by their flag and their name in `/proc/PID/ns`. Time is not among them: CRIU always makes one, for the clocks.
const NAMESPACES: [(u64, &str); 7] = [
    (flags::NEWUSER, "user"),
    (flags::NEWNS, "mnt"),
    (flags::NEWPID, "pid"),
    (flags::NEWNET, "net"),
    (flags::NEWIPC, "ipc"),
    (flags::NEWUTS, "uts"),
    (flags::NEWCGROUP, "cgroup"),
];

/// File systems that a process with the rights of a container can make.
const OWN_FILE_SYSTEMS: [&str; 8] = ["proc", "sysfs", "tmpfs", "ramfs", "devpts", "mqueue", "overlay", "fuse"];

/// What a restore is measured by.
pub(super) struct Measure<'a> {
    pub plan: &'a Plan<'a>,
    /// What was given.
    pub staged: &'a [Staged],
    /// The root that was given: `major:minor` and what of it.
    pub root: &'a Entry,
    /// The container's cgroup on each hierarchy, by controllers.
    pub cgroups: &'a [(String, String)],
    /// The caller asked for another label than the specification's.
    pub other_label: bool,
}

fn refused(pid: i32, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("the restored process {pid} is refused: {why}"))
}

impl Measure<'_> {
    /// Compares init and everything below it.
    pub fn check(&self, init: i32) -> Result<()> {
        let host = mountinfo::of_process(std::process::id().cast_signed())?;
        let mut seen = BTreeSet::new();
        for pid in tree(init)? {
            self.check_namespaces(pid, init)?;
            self.check_cgroup(pid)?;
            self.check_limits(pid)?;
            let user = namespace(pid, "user")?;
            for thread in threads(pid)? {
                self.check_rights(pid, &thread, user == namespace(init, "user")?)?;
            }
            if seen.insert(namespace(pid, "mnt")?) {
                self.check_mounts(pid, &host)?;
            }
        }
        self.check_maps(init)?;
        self.check_places(init)
    }

    fn caps(&self) -> u64 {
        let Some(launch) = &self.plan.launch else { return 0 };
        let sets = &launch.caps;
        sets.bounding | sets.permitted | sets.effective | sets.inheritable | sets.ambient
    }

    fn check_namespaces(&self, pid: i32, init: i32) -> Result<()> {
        for (flag, name) in NAMESPACES {
            let (there, ours) = (namespace(pid, name)?, namespace(std::process::id().cast_signed(), name)?);
            let joined = self.plan.namespaces.join.iter().find(|(kind, _)| *kind == flag);
            let right = match joined {
                Some((_, fd)) if pid == init => {
                    let stat =
                        rustix::fs::fstat(fd).map_err(|errno| brig_sys::Error::new("fstat(namespace)", errno))?;
                    there == stat.st_ino
                }
                Some(_) => true,
                None if self.plan.namespaces.new & flag != 0 => there != ours,
                None => pid != init || there == ours,
            };
            if !right {
                return Err(refused(pid, format!("its {name} namespace is not what linux.namespaces says")));
            }
        }
        Ok(())
    }

    fn check_cgroup(&self, pid: i32) -> Result<()> {
        for (controllers, path) in cgroups(pid)? {
            let own = self.cgroups.iter().find(|(known, _)| *known == controllers).map(|(_, path)| Path::new(path));
            if own.is_none_or(|own| !Path::new(&path).starts_with(own)) {
                return Err(refused(pid, format!("its cgroup {controllers}:{path} is not the container's")));
            }
        }
        Ok(())
    }

    fn check_limits(&self, pid: i32) -> Result<()> {
        let Some(launch) = self.plan.launch.as_ref().filter(|_| self.caps() & CAP_SYS_RESOURCE == 0) else {
            return Ok(());
        };
        for (name, resource, wanted) in &launch.limits {
            let there = brig_sys::process::set_limit(pid, *resource, None)?;
            if there.hard > wanted.hard {
                return Err(refused(pid, format!("{name} is {}, process.rlimits has {}", there.hard, wanted.hard)));
            }
        }
        Ok(())
    }

    /// Capabilities count in the container's own user namespace only; in another, made inside, they are that one's.
    fn check_rights(&self, pid: i32, thread: &Path, own_user_namespace: bool) -> Result<()> {
        let Some(launch) = &self.plan.launch else { return Ok(()) };
        let status = read(&thread.join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).ok_or_else(|| refused(pid, format!("its status has no {name}")))
        };
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let set =
                u64::from_str_radix(field(name)?, 16).map_err(|_| refused(pid, format!("its {name} is no number")))?;
            if own_user_namespace && set & !self.caps() != 0 {
                return Err(refused(pid, format!("{name} is {set:#x}, process.capabilities gives {:#x}", self.caps())));
            }
        }
        if launch.no_new_privileges && field("NoNewPrivs")? != "1" {
            return Err(refused(pid, "it may gain privileges, process.noNewPrivileges says no"));
        }
        if launch.filter.is_some() && field("Seccomp")? != "2" {
            return Err(refused(pid, "it has no filter, linux.seccomp has one"));
        }
        if let Some(label) = launch.apparmor.as_ref().or(launch.selinux.as_ref()).filter(|_| !self.other_label) {
            let there = read(&thread.join("attr/current"))?;
            if !there.trim_end_matches(['\0', '\n']).starts_with(label.as_str()) {
                return Err(refused(pid, format!("its label is {there:?}, the specification has {label:?}")));
            }
        }
        Ok(())
    }

    /// No mount shows anything of the host that was not given, or with fewer restrictions than it was given with.
    fn check_mounts(&self, pid: i32, host: &[Entry]) -> Result<()> {
        for mount in mountinfo::of_process(pid)? {
            let mut given = self
                .staged
                .iter()
                .map(|staged| (&staged.device, &staged.root, staged.restrictions))
                .chain([(&self.root.device, &self.root.root, self.root_restrictions(&mount))])
                .filter(|(device, root, _)| **device == mount.device && mount.root.starts_with(root))
                .map(|(_, _, restrictions)| restrictions & !mount.restrictions)
                .peekable();
            let bad = |why: String| Err(refused(pid, format!("its mount at {} {why}", mount.point.display())));
            if given.peek().is_some() {
                // The same files may have been given twice, differently: then either way is as given.
                let missing = given.min_by_key(|missing| missing.count_ones()).unwrap_or_default();
                if missing != 0 {
                    return bad(format!("is not {}, as the specification has it", words(missing)));
                }
                continue;
            }
            let of_host = host.iter().any(|other| other.device == mount.device);
            let planned = self
                .plan
                .mounts
                .iter()
                .any(|planned| planned.fs.trim_end_matches('2') == mount.fs.trim_end_matches('2'));
            // A new mount of cgroups shows those of whoever made it, and CRIU is in the container's.
            let own_cgroup = || self.cgroups.iter().any(|(_, path)| mount.root.starts_with(path));
            let allowed = match mount.fs.as_str() {
                "cgroup" | "cgroup2" => planned && own_cgroup(),
                fs => OWN_FILE_SYSTEMS.contains(&fs) && (!of_host || (planned && fs != "tmpfs")),
            };
            if !allowed {
                return bad(format!(
                    "shows {} of {} ({}), which the specification does not give",
                    mount.root.display(),
                    mount.device,
                    mount.fs
                ));
            }
        }
        Ok(())
    }

    fn root_restrictions(&self, mount: &Entry) -> u32 {
        let read_only = self.plan.spec.root.as_ref().is_some_and(|root| root.readonly);
        let must = read_only && (mount.point == Path::new("/") || self.caps() & CAP_SYS_ADMIN == 0);
        self.root.restrictions | if must { READ_ONLY } else { 0 }
    }

    fn check_maps(&self, init: i32) -> Result<()> {
        if self.plan.namespaces.new & flags::NEWUSER == 0 {
            return Ok(());
        }
        for (kind, list, field) in [
            (brig_sys::idmap::Kind::User, &self.plan.linux.uid_mappings, "uidMappings"),
            (brig_sys::idmap::Kind::Group, &self.plan.linux.gid_mappings, "gidMappings"),
        ] {
            let sorted = |mut ranges: Vec<brig_sys::idmap::Range>| {
                ranges.sort_by_key(|range| range.inside);
                ranges.iter().map(|range| (range.inside, range.outside, range.count)).collect::<Vec<_>>()
            };
            if sorted(brig_sys::idmap::read(init, kind)?) != sorted(crate::identity::ranges(list)) {
                return Err(refused(init, format!("its user namespace is not mapped as linux.{field} says")));
            }
        }
        Ok(())
    }

    /// What the specification mounts, masks and makes read-only is so; unless the container may change its mounts itself.
    fn check_places(&self, init: i32) -> Result<()> {
        if self.caps() & CAP_SYS_ADMIN != 0 {
            return Ok(());
        }
        let path = format!("/proc/{init}/root");
        let root = rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, O_PATH)"), errno))?;
        let root = Root::from_fd(root);
        let mounts = mountinfo::of_process(init)?;
        for mount in &self.plan.mounts {
            let wanted = mount.options.top.set | mount.options.recursive.set;
            let bits = wanted.bits() & (READ_ONLY | 2 | 4 | 8);
            let place = Path::new("/").join(&mount.destination);
            let there = Place::of(&root, &mount.destination, &mounts)?;
            let right = there.as_ref().is_some_and(|there| there.is_mounted && bits & !there.restrictions == 0);
            if !right {
                let flags = if bits == 0 { "mounted".to_owned() } else { words(bits) };
                return Err(refused(init, format!("{} is not {flags}, as mounts has it", place.display())));
            }
        }
        for path in &self.plan.linux.readonly_paths {
            let Some(there) = Place::of(&root, inside(path), &mounts)? else { continue };
            if there.restrictions & READ_ONLY == 0 {
                return Err(refused(init, format!("{path} can be written to, linux.readonlyPaths has it")));
            }
        }
        for path in &self.plan.linux.masked_paths {
            let Some(there) = Place::of(&root, inside(path), &mounts)? else { continue };
            if !there.is_mounted || !there.is_mask {
                return Err(refused(init, format!("{path} can be seen, linux.maskedPaths has it")));
            }
        }
        Ok(())
    }
}

fn inside(path: &str) -> &Path {
    Path::new(path.trim_start_matches('/'))
}

/// What stands at a path of the container.
struct Place {
    is_mounted: bool,
    restrictions: u32,
    /// Nothing to see: the null device, or a directory of a tmpfs that nobody can write to.
    is_mask: bool,
}

impl Place {
    /// `None` if nothing is there.
    fn of(root: &Root, path: &Path, mounts: &[Entry]) -> Result<Option<Place>> {
        let Ok(fd) = root.open_in(path, OFlags::PATH, Mode::empty()) else { return Ok(None) };
        let call = |errno| brig_sys::Error::new(format!("statx({path:?})"), errno);
        let mask = StatxFlags::MNT_ID | StatxFlags::BASIC_STATS;
        let stat = rustix::fs::statx(&fd, "", AtFlags::EMPTY_PATH, mask).map_err(call)?;
        let Some(entry) = mounts.iter().find(|mount| mount.id == stat.stx_mnt_id) else { return Ok(None) };
        let is_mounted = stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        let is_null = kind == FileType::CharacterDevice && (stat.stx_rdev_major, stat.stx_rdev_minor) == (1, 3);
        let is_empty = kind == FileType::Directory && entry.fs == "tmpfs" && entry.restrictions & READ_ONLY != 0;
        Ok(Some(Place { is_mounted, restrictions: entry.restrictions, is_mask: is_null || is_empty }))
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::system(format!("read {}: {error}", path.display())))
}

fn namespace(pid: i32, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/ns/{name}");
    let stat = rustix::fs::stat(&path).map_err(|errno| brig_sys::Error::new(format!("stat({path:?})"), errno))?;
    Ok(stat.st_ino)
}

fn threads(pid: i32) -> Result<Vec<PathBuf>> {
    let path = PathBuf::from(format!("/proc/{pid}/task"));
    let entries = std::fs::read_dir(&path).map_err(|error| Error::system(format!("{}: {error}", path.display())))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

/// A process and all its descendants; those that have ended are left out.
pub(super) fn tree(init: i32) -> Result<Vec<i32>> {
    let mut all = vec![init];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        for thread in threads(pid)? {
            let children = read(&thread.join("children"))?;
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    all.retain(|pid| !read(Path::new(&format!("/proc/{pid}/stat"))).is_ok_and(|stat| has_ended(&stat)));
    Ok(all)
}

/// By the state, the word behind the name, which may contain anything.
fn has_ended(stat: &str) -> bool {
    stat.rsplit_once(')').is_some_and(|(_, rest)| matches!(rest.split_whitespace().next(), Some("Z" | "X")))
}

/// The cgroups of a process: controllers and path of each hierarchy.
pub(super) fn cgroups(pid: i32) -> Result<Vec<(String, String)>> {
    let content = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
    let parts = content.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    Ok(parts.map(|(controllers, path)| (controllers.to_owned(), path.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let own = std::process::id().cast_signed();
        assert!(tree(own).unwrap().contains(&own));
        assert!(!cgroups(own).unwrap().is_empty());
        assert!(has_ended("7 (a) b) Z 1 2") && !has_ended("7 (Z) S 1"));
    }
}
