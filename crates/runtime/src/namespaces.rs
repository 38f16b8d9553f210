//! Which namespaces a container makes and which it joins.
//! Owns reading `linux.namespaces`. Must not enter any.

use std::os::fd::OwnedFd;

use brig_oci::runtime::{Linux, LinuxNamespace};
use brig_sys::clone::flags;

use crate::error::{Error, Result, Step};

/// What the kernel takes as a path, in bytes.
const PATH_MAX: usize = 4096;

/// The namespaces of a container.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    /// `CLONE_NEW…` bits of those to make.
    pub new: u64,
    /// Those to join, in the order of joining: the user namespace last, as the caller's rights end there.
    pub join: Vec<(u64, OwnedFd)>,
}

impl Namespaces {
    /// Reads the list and opens what is joined.
    pub fn read(list: &[LinuxNamespace]) -> Result<Namespaces> {
        let mut namespaces = Namespaces::default();
        for entry in list {
            let flag = flag(&entry.type_)?;
            if namespaces.has(flag) {
                return Err(Error::invalid(format!("linux.namespaces: {:?} is listed twice", entry.type_)));
            }
            if entry.path.as_ref().is_some_and(|path| path.as_os_str().len() >= PATH_MAX) {
                return Err(Error::invalid(format!("linux.namespaces: {:?}: the path is too long", entry.type_)));
            }
            match entry.path.as_deref().filter(|path| !path.as_os_str().is_empty()) {
                None => namespaces.new |= flag,
                Some(path) => {
                    let fd = brig_sys::namespace::open(path, flag)
                        .step(|| format!("linux.namespaces: {:?}", entry.type_))?;
                    namespaces.join.push((flag, fd));
                }
            }
        }
        if namespaces.new & (flags::NEWNS | flags::NEWUSER) == flags::NEWUSER {
            return Err(Error::invalid(
                "linux.namespaces: a new user namespace may not mount in a mount namespace that is not its own; add {\"type\":\"mount\"}",
            ));
        }
        namespaces.join.sort_by_key(|(flag, _)| *flag == flags::NEWUSER);
        Ok(namespaces)
    }

    /// All of them, made or joined: what an exec has to join.
    pub fn all(&self) -> u64 {
        self.join.iter().fold(self.new, |all, (flag, _)| all | flag)
    }

    /// Whether the container has its own or a joined one of this kind.
    pub fn has(&self, flag: u64) -> bool {
        self.all() & flag != 0
    }

    /// Whether nobody else sees the container's mounts.
    pub fn own_mounts(&self) -> bool {
        self.new & flags::NEWNS != 0
    }

    /// The contradictions between namespaces and the rest of the specification.
    pub fn check(&self, linux: &Linux) -> Result<()> {
        let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
        let complete = !linux.uid_mappings.is_empty() && !linux.gid_mappings.is_empty();
        if self.new & flags::NEWUSER != 0 && !complete {
            return Err(Error::invalid(
                "linux.namespaces: a new user namespace needs linux.uidMappings and linux.gidMappings",
            ));
        }
        if mapped && !self.has(flags::NEWUSER) {
            return Err(Error::invalid("linux.uidMappings: id mappings need a user namespace in linux.namespaces"));
        }
        check_offsets(linux, self.new)?;
        for (field, paths) in
            [("linux.maskedPaths", &linux.masked_paths), ("linux.readonlyPaths", &linux.readonly_paths)]
        {
            if !paths.is_empty() && !self.own_mounts() {
                return Err(Error::invalid(format!(
                    "{field}: cannot mask paths without a private mount namespace: add {{\"type\":\"mount\"}} to linux.namespaces"
                )));
            }
        }
        for (field, list) in [("linux.uidMappings", &linux.uid_mappings), ("linux.gidMappings", &linux.gid_mappings)] {
            check_mappings(field, list)?;
        }
        Ok(())
    }
}

fn check_offsets(linux: &Linux, new: u64) -> Result<()> {
    if !linux.time_offsets.is_empty() && new & flags::NEWTIME == 0 {
        return Err(Error::invalid("linux.timeOffsets: offsets need a new time namespace in linux.namespaces"));
    }
    for (clock, offset) in &linux.time_offsets {
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return Err(Error::invalid(format!(
                "linux.timeOffsets: {clock:?}: only monotonic and boottime can be shifted"
            )));
        }
        if offset.nanosecs >= 1_000_000_000 {
            return Err(Error::invalid(format!("linux.timeOffsets: {clock}: {} is a second or more", offset.nanosecs)));
        }
    }
    Ok(())
}

/// The kernel would say only EINVAL to any of these.
fn check_mappings(field: &str, list: &[brig_oci::runtime::IdMapping]) -> Result<()> {
    if list.len() > 340 {
        return Err(Error::invalid(format!("{field}: {} ranges; the kernel takes 340", list.len())));
    }
    for (index, range) in list.iter().enumerate() {
        if range.size == 0
            || range.container_id.checked_add(range.size).is_none()
            || range.host_id.checked_add(range.size).is_none()
        {
            return Err(Error::invalid(format!(
                "{field}[{index}]: size {} is empty or goes beyond the last id",
                range.size
            )));
        }
        let overlaps = |left: u32, left_size: u32, right: u32, right_size: u32| {
            left < right + right_size && right < left + left_size
        };
        for other in &list[..index] {
            if overlaps(range.container_id, range.size, other.container_id, other.size)
                || overlaps(range.host_id, range.size, other.host_id, other.size)
            {
                return Err(Error::invalid(format!("{field}[{index}]: overlaps another range")));
            }
        }
    }
    Ok(())
}

/// Whether the container made a mount namespace for itself; else its root is one of processes, not of a namespace.
pub(crate) fn has_own_mounts(list: &[LinuxNamespace]) -> bool {
    let joins = |entry: &LinuxNamespace| entry.path.as_ref().is_some_and(|path| !path.as_os_str().is_empty());
    list.iter().any(|entry| entry.type_ == "mount" && !joins(entry))
}

/// The kinds that are listed, as `CLONE_NEW…` bits, without opening any.
pub(crate) fn kinds(list: &[LinuxNamespace]) -> Result<u64> {
    list.iter().try_fold(0, |all, entry| Ok(all | flag(&entry.type_)?))
}

/// The `CLONE_NEW…` bit of a namespace by its name in the specification.
fn flag(name: &str) -> Result<u64> {
    Ok(match name {
        "pid" => flags::NEWPID,
        "network" => flags::NEWNET,
        "mount" => flags::NEWNS,
        "ipc" => flags::NEWIPC,
        "uts" => flags::NEWUTS,
        "user" => flags::NEWUSER,
        "cgroup" => flags::NEWCGROUP,
        "time" => flags::NEWTIME,
        _ => return Err(Error::invalid(format!("linux.namespaces: unknown type {name:?}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_oci::runtime::IdMapping;

    fn entry(type_: &str, path: Option<&str>) -> LinuxNamespace {
        LinuxNamespace { type_: type_.into(), path: path.map(Into::into) }
    }

    #[test]
    fn reads_and_orders() {
        let list = [
            entry("user", Some("/proc/self/ns/user")),
            entry("mount", None),
            entry("uts", Some("/proc/self/ns/uts")),
            entry("pid", Some("")),
        ];
        let namespaces = Namespaces::read(&list).unwrap();
        assert_eq!(namespaces.new, flags::NEWNS | flags::NEWPID);
        let joined: Vec<u64> = namespaces.join.iter().map(|(flag, _)| *flag).collect();
        assert_eq!(joined, [flags::NEWUTS, flags::NEWUSER]);
    }

    #[test]
    fn refuses_what_cannot_be() {
        for list in [
            vec![entry("mount", None), entry("bogus", None)],
            vec![entry("mount", None), entry("mount", None)],
            vec![entry("user", None)],
            vec![entry("user", None), entry("mount", Some("/proc/self/ns/mnt"))],
            vec![entry("mount", Some("/proc/self/ns/net"))],
            vec![entry("mount", None), entry("uts", Some("/proc/self/ns/net"))],
            vec![entry("mount", None), entry("uts", Some("/etc/passwd"))],
            vec![entry("mount", None), entry("uts", Some("/absent"))],
        ] {
            assert!(Namespaces::read(&list).is_err(), "{list:?}");
        }
    }

    #[test]
    fn refuses_offsets_of_other_clocks() {
        let check = |clock: &str, nanosecs: u32, types: &[&str]| {
            let list: Vec<_> = types.iter().map(|type_| entry(type_, None)).collect();
            let offset = brig_oci::runtime::TimeOffset { secs: 5, nanosecs };
            let linux = Linux { time_offsets: [(clock.to_owned(), offset)].into(), ..Linux::default() };
            Namespaces::read(&list).unwrap().check(&linux)
        };
        assert!(check("boottime", 999_999_999, &["mount", "time"]).is_ok());
        assert!(check("boottime", 1_000_000_000, &["mount", "time"]).is_err());
        assert!(check("realtime", 0, &["mount", "time"]).is_err());
        assert!(check("monotonic", 0, &["mount"]).is_err());
    }

    #[test]
    fn refuses_contradicting_mappings() {
        let range = |container_id, host_id, size| IdMapping { container_id, host_id, size };
        let check = |uids: Vec<IdMapping>, types: &[&str]| {
            let list: Vec<_> = types.iter().map(|type_| entry(type_, None)).collect();
            let linux = Linux { gid_mappings: uids.clone(), uid_mappings: uids, ..Linux::default() };
            Namespaces::read(&list).unwrap().check(&linux)
        };
        assert!(check(vec![range(0, 1000, 10)], &["mount", "user"]).is_ok());
        assert!(check(vec![], &["mount", "user"]).is_err());
        assert!(check(vec![range(0, 1000, 10)], &["mount"]).is_err());
        assert!(check(vec![range(0, 1000, 0)], &["mount", "user"]).is_err());
        assert!(check(vec![range(u32::MAX, 0, 10)], &["mount", "user"]).is_err());
        assert!(check(vec![range(0, 1000, 10), range(5, 2000, 10)], &["mount", "user"]).is_err());
        assert!(check(vec![range(0, 1000, 1); 341], &["mount", "user"]).is_err());
    }
}
