//! The first process of a container, from clone to the gate: everything here runs in the child.
//! Owns the order of the steps. Must not use a path of the container except through its root's descriptor.

mod cgroups;
mod dev;
mod finish;
pub(crate) mod jail;
pub(crate) mod labels;
mod lookup;
mod mounts;
mod reaper;

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use brig_sys::beneath::Root;
use brig_sys::clone::flags;
use brig_sys::fdpass::Channel;
use brig_sys::keyring::Searchers;
use rustix::fs::Mode;

use crate::cgroup::Cgroup;
use crate::error::{Error, ErrorKind, Result};
use crate::gate::Gate;
use crate::hooks::Moment;
use crate::identity::Identity;
use crate::placement;
use crate::plan::Plan;
use crate::rootfs::Rootfs;
use crate::sources::{self, Sources};
use crate::wire::{self, Order, Report};

pub(crate) use cgroups::binds as cgroup_binds;
pub(crate) use dev::open as open_terminal;
pub(crate) use finish::{Process, Stdio, load as load_filter};
pub(crate) use mounts::target as place_of_mount;

/// What the child needs besides the plan.
pub(crate) struct Init<'a> {
    pub plan: &'a Plan<'a>,
    pub channel: &'a Channel,
    pub stdio: Stdio<'a>,
    /// What the program gets besides its streams.
    pub preserved: &'a [OwnedFd],
    /// The container's own, made by the parent.
    pub cgroup: &'a Cgroup,
    /// Files of cgroup v1 to write `0` to.
    pub cgroups: &'a [OwnedFd],
    /// The session keyring to make; `None` keeps the caller's.
    pub keyring: Option<&'a CStr>,
    /// What the root is made of.
    pub rootfs: &'a Rootfs,
    /// Where to wait once the parent has gone.
    pub gate: Option<&'a Gate>,
}

/// Runs in the child; returns its exit code if the program could not be run (or the parent is gone).
pub(crate) fn run(init: Init<'_>) -> i32 {
    let channel = init.channel;
    finish(channel, init.run())
}

/// The exit code of a child that comes back, its error reported.
pub(crate) fn finish(channel: impl AsFd, done: Result<i32>) -> i32 {
    done.unwrap_or_else(|error| {
        let code = exit_code(&error);
        // If the parent is gone too there is nobody left to tell.
        wire::report(channel, &Report::Failed(error)).unwrap_or_default();
        code
    })
}

/// What a shell would exit with.
pub(crate) fn exit_code(error: &Error) -> i32 {
    match error.kind {
        ErrorKind::NotFound => 127,
        ErrorKind::NotExecutable => 126,
        _ => 125,
    }
}

impl Init<'_> {
    fn run(self) -> Result<i32> {
        let plan = self.plan;
        // A caller without rights could not map ids for a process that it may not look into; it has nothing to hide from the
        // container either.
        if !plan.unprivileged {
            brig_sys::process::set_dumpable(false)?;
        }
        brig_sys::signal::reset()?;
        brig_sys::process::new_session()?;
        let mut keep = vec![self.channel.as_fd()];
        keep.extend(self.stdio.fds());
        keep.extend(self.preserved.iter().chain(self.cgroups).map(AsFd::as_fd));
        keep.extend(self.gate.iter().flat_map(|gate| gate.fds()));
        // Copies of the parent's connections would keep them from ever ending.
        brig_sys::process::close_all_but(&keep)?;
        if let Some(launch) = &plan.launch {
            labels::set(launch)?;
        }
        for file in self.cgroups {
            rustix::io::write(file, b"0").map_err(|errno| brig_sys::Error::new("write(cgroup tasks, \"0\")", errno))?;
        }
        if !plan.linux.time_offsets.is_empty() {
            // The parent shifts its clocks before anybody is in it.
            brig_sys::namespace::unshare(flags::NEWTIME)?;
            wire::report(self.channel, &Report::Timeless)?;
        }
        placement::on_every_cpu();
        if wire::wait_order(self.channel, Order::Mapped)?.is_none() {
            return Ok(0);
        }
        brig_sys::process::set_dumpable(false)?;
        let sets_groups = self.enter()?;
        let Some(terminal) = self.build()? else { return Ok(0) };
        let Some(launch) = &plan.launch else {
            return Err(Error::invalid("process: there is nothing to start"));
        };
        Process {
            launch,
            channel: self.channel,
            stdio: self.stdio,
            preserved: self.preserved,
            terminal,
            reaper: plan.reaper,
            sets_groups,
            hooks: plan.hooks.as_ref(),
            gate: self.gate,
            owned: plan.unprivileged,
        }
        .run()
    }

    /// Namespaces that only exist from here on, and who we are in them: whether someone who may set groups.
    fn enter(&self) -> Result<bool> {
        let plan = self.plan;
        if plan.namespaces.new & flags::NEWCGROUP != 0 {
            // Its root is the cgroup that this process is in now.
            brig_sys::namespace::unshare(flags::NEWCGROUP)?;
        }
        if !plan.linux.time_offsets.is_empty() {
            brig_sys::namespace::enter_time_for_children()?;
        }
        let sets_groups = if plan.namespaces.has(flags::NEWUSER) { become_root()? } else { plan.sets_groups };
        if let Some(name) = self.keyring {
            let searchers = if plan.namespaces.has(flags::NEWUSER) { Searchers::Everyone } else { Searchers::Owner };
            brig_sys::keyring::join_session(name, Some(searchers))?;
        }
        if !plan.spec.hostname.is_empty() {
            brig_sys::process::set_host_name(&plan.spec.hostname)?;
        }
        if !plan.spec.domainname.is_empty() {
            brig_sys::process::set_domain_name(&plan.spec.domainname)?;
        }
        Ok(sets_groups)
    }

    /// The file system. Returns the terminal's slave, if there is to be one; `None` means that the parent is gone.
    fn build(&self) -> Result<Option<Option<OwnedFd>>> {
        let plan = self.plan;
        let host_root = jail::host_root(plan)?;
        // All of this is done while the parent makes the root.
        let prepared = mounts::prepare(plan, matches!(self.stdio, Stdio::Terminal { .. }))?;
        let fds = if plan.unprivileged {
            self.own_sources()?
        } else {
            let Some(fds) = wire::receive_fds(self.channel)? else { return Ok(None) };
            fds
        };
        let mut fds = fds.into_iter();
        let root_mount = fds.next().ok_or_else(|| Error::system("the parent sent no root"))?;
        let path = match self.rootfs {
            Rootfs::Directory(path) => Some(path.as_path()),
            _ => None,
        };
        jail::attach(plan, root_mount.as_fd(), host_root.as_fd(), path)?;
        let root = Root::from_fd(root_mount);
        let places = mounts::attach(plan, self.cgroup, &root, prepared, &mut fds, self.channel)?;
        if !self.run_hooks(root.as_fd())? {
            return Ok(None);
        }
        let terminal = match &self.stdio {
            Stdio::Terminal { rows, columns } => {
                Some(dev::terminal(&root, &places, self.channel, (*rows, *columns), plan)?)
            }
            Stdio::Pipes { .. } => None,
        };
        mounts::hide(plan, &root, &places)?;
        if let Some(launch) = &plan.launch {
            make_working_directory(&root, &launch.cwd);
        }
        places.seal(plan)?;
        jail::enter(plan, &root, host_root.as_fd())?;
        Ok(Some(terminal))
    }

    /// What a parent with rights would send.
    fn own_sources(&self) -> Result<Vec<OwnedFd>> {
        if !matches!(self.rootfs, Rootfs::Directory(_)) {
            return Err(Error::unsupported("rootfs: a root made of layers needs a caller who may mount them"));
        }
        let console = matches!(self.stdio, Stdio::Terminal { .. });
        let Sources { root, mounts } = sources::make(self.plan, self.rootfs, &Identity::inside(), false, console)?;
        Ok([root.root].into_iter().chain(mounts).collect())
    }

    /// The hooks that see the host's root and the container's mounts. False means that the parent is gone.
    fn run_hooks(&self, root: BorrowedFd<'_>) -> Result<bool> {
        let Some(hooks) = &self.plan.hooks else { return Ok(true) };
        if hooks.has(Moment::Prestart) || hooks.has(Moment::CreateRuntime) {
            wire::report(self.channel, &Report::Mounted)?;
            if wire::wait_order(self.channel, Order::Hooked)?.is_none() {
                return Ok(false);
            }
        }
        if hooks.has(Moment::CreateContainer) {
            let pid = rustix::process::getpid().as_raw_nonzero().get();
            // Where the container's root is in the host's: hooks of libraries and devices go on from there.
            let root = format!("/proc/self/fd/{}", root.as_raw_fd());
            hooks.run_in(Moment::CreateContainer, Some(pid), Path::new(&root))?;
        }
        Ok(true)
    }
}

/// Becomes the root of a user namespace. False if that namespace forbids to set groups: then what the caller had stays.
pub(crate) fn become_root() -> Result<bool> {
    match brig_sys::idmap::become_user(0, 0, Some(&[])) {
        Err(error) if error.call.starts_with("setgroups") && error.errno == rustix::io::Errno::PERM => {
            brig_sys::idmap::become_user(0, 0, None)?;
            Ok(false)
        }
        done => Ok(done.map(|()| true)?),
    }
}

/// `PROC_SUPER_MAGIC`.
pub(crate) const PROC_MAGIC: i64 = 0x9fa0;

/// What cannot be made is reported when the directory is entered, by its errno there.
fn make_working_directory(root: &Root, cwd: &str) {
    if cwd != "/" {
        root.mkdir_all(Path::new(cwd), Mode::from_raw_mode(0o755)).map(drop).unwrap_or_default();
    }
}

/// The file system type of an open file.
pub(crate) fn magic(fd: BorrowedFd<'_>) -> Result<i64> {
    let stat = rustix::fs::fstatfs(fd).map_err(|errno| brig_sys::Error::new("fstatfs()", errno))?;
    Ok(stat.f_type as i64)
}
