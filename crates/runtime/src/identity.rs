//! Who a container's ids are on this machine: its user namespace and its maps.
//! Owns making of user namespaces that only serve as maps. Must not choose ranges.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use brig_oci::runtime::IdMapping;
use brig_sys::clone::flags;
use brig_sys::idmap::{self, Kind, Range};

use crate::error::{Error, Result, Step};

/// The user namespace and maps of one container.
#[derive(Debug)]
pub(crate) struct Identity {
    /// `None` if the container lives in the caller's user namespace.
    pub user_namespace: Option<OwnedFd>,
    pub uids: Vec<Range>,
    pub gids: Vec<Range>,
}

impl Identity {
    /// That of a child: its own namespace if `own`, else the caller's.
    pub fn of(pid: i32, own: bool) -> Result<Identity> {
        if !own {
            return Ok(Identity::inside());
        }
        let user_namespace = brig_sys::namespace::of_process(pid, "user")?;
        let uids = idmap::read(pid, Kind::User)?;
        let gids = idmap::read(pid, Kind::Group)?;
        Ok(Identity { user_namespace: Some(user_namespace), uids, gids })
    }

    /// A user namespace that exists has its maps: the specification can only repeat them.
    pub fn check_joined(&self, linux: &brig_oci::runtime::Linux) -> Result<()> {
        let maps = [
            ("linux.uidMappings", &linux.uid_mappings, &self.uids),
            ("linux.gidMappings", &linux.gid_mappings, &self.gids),
        ];
        for (field, wanted, found) in maps {
            let mut wanted = ranges(wanted);
            let mut found = found.clone();
            wanted.sort_unstable_by_key(|range| range.inside);
            found.sort_unstable_by_key(|range| range.inside);
            if !wanted.is_empty() && wanted != found {
                return Err(Error::invalid(format!(
                    "{field}: is not the map of the user namespace to join; leave it out"
                )));
            }
        }
        Ok(())
    }

    /// That of a process in the container itself.
    pub fn inside() -> Identity {
        let everything = || vec![Range { inside: 0, outside: 0, count: u32::MAX }];
        Identity { user_namespace: None, uids: everything(), gids: everything() }
    }

    /// The namespace to map mounts with.
    pub fn map(&self) -> Option<BorrowedFd<'_>> {
        self.user_namespace.as_ref().map(AsFd::as_fd)
    }

    /// The container's root on this machine.
    pub fn root(&self) -> Result<(u32, u32)> {
        self.outside(0, 0)
    }

    /// A user and a group of the container on this machine.
    pub fn outside(&self, uid: u32, gid: u32) -> Result<(u32, u32)> {
        let uid = idmap::to_outside(&self.uids, uid)
            .ok_or_else(|| Error::invalid(format!("uid {uid} is outside of the container's id range")))?;
        let gid = idmap::to_outside(&self.gids, gid)
            .ok_or_else(|| Error::invalid(format!("gid {gid} is outside of the container's id range")))?;
        Ok((uid, gid))
    }
}

/// The specification's ranges as the kernel's.
pub(crate) fn ranges(list: &[IdMapping]) -> Vec<Range> {
    list.iter().map(|range| Range { inside: range.container_id, outside: range.host_id, count: range.size }).collect()
}

/// Writes both maps of a child in a new user namespace.
pub(crate) fn write(pid: i32, uids: &[Range], gids: &[Range]) -> Result<()> {
    idmap::write(pid, Kind::User, uids).step(|| "linux.uidMappings".to_owned())?;
    idmap::write(pid, Kind::Group, gids).step(|| "linux.gidMappings".to_owned())
}

/// [`write`] by a caller who may not: its own user and group alone it may map itself, more is for the helpers of the `uidmap`
/// package, which know what the machine's administrator grants.
pub(crate) fn write_unprivileged(pid: i32, uids: &[Range], gids: &[Range]) -> Result<()> {
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let only = |map: &[Range], own: u32| matches!(map, [range] if range.outside == own && range.count == 1);
    if only(uids, user) {
        idmap::write(pid, Kind::User, uids).step(|| "linux.uidMappings".to_owned())?;
    } else {
        helper("newuidmap", pid, uids).step(|| "linux.uidMappings".to_owned())?;
    }
    if only(gids, group) {
        // Or members of a group could leave it to get at files that are closed to it.
        idmap::deny_setgroups(pid)?;
        return idmap::write(pid, Kind::Group, gids).step(|| "linux.gidMappings".to_owned());
    }
    helper("newgidmap", pid, gids).step(|| "linux.gidMappings".to_owned())
}

/// Runs one of the two from where packages put them, whatever the caller's `PATH` says.
fn helper(name: &str, pid: i32, map: &[Range]) -> Result<()> {
    const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];
    let program =
        DIRECTORIES.iter().map(|directory| format!("{directory}/{name}")).find(|path| Path::new(path).exists());
    let program = program.ok_or_else(|| {
        Error::unsupported(format!(
            "more than the caller's own id needs {name}, which is not installed (package uidmap): map that id alone"
        ))
    })?;
    let numbers = map.iter().flat_map(|range| [range.inside, range.outside, range.count]);
    let arguments = [name.to_owned(), pid.to_string()].into_iter().chain(numbers.map(|number| number.to_string()));
    crate::hooks::helper(&program, arguments.collect())
}

/// A user namespace without processes, only for its maps.
pub(crate) fn mapping_only(uids: &[Range], gids: &[Range]) -> Result<OwnedFd> {
    // The child only exists until its namespace is open; it waits for a message that never comes.
    let (ours, theirs) = brig_sys::fdpass::pair()?;
    let child = brig_sys::clone::spawn(flags::NEWUSER, None, || {
        let closed = brig_sys::process::close_all_but(&[theirs.as_fd()]);
        i32::from(closed.is_err() || theirs.receive().is_err())
    })?;
    let namespace = write(child.pid, uids, gids).and_then(|()| Ok(brig_sys::namespace::of_process(child.pid, "user")?));
    drop(ours);
    brig_sys::pidfd::send_signal(child.pidfd.as_fd(), libc_sigkill())?;
    brig_sys::pidfd::reap(child.pidfd.as_fd())?;
    namespace
}

fn libc_sigkill() -> i32 {
    rustix::process::Signal::KILL.as_raw()
}
