//! Init's process while it is being made: cloned, mapped, given its mounts.
//! Owns: the parent's half of that conversation, and that a child that does not get everything is killed and leaves nothing. Must not:
//! know what becomes of it afterwards.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use brig_sys::clone::{self, Spawned, flags};
use brig_sys::fdpass::{self, Channel};
use brig_sys::pidfd;

use crate::cgroup::Cgroup;
use crate::container::end;
use crate::error::{Error, Result, Step};
use crate::gate::Gate;
use crate::identity::{self, Identity};
use crate::init::{self, Init};
use crate::launch;
use crate::net_devices::{self, Moved};
use crate::plan::Plan;
use crate::rootfs::Rootfs;
use crate::sources::{self, Sources};
use crate::stdio::Stdio;
use crate::wire::{self, Order, Report};

/// What a container is given besides its plan.
pub(crate) struct Given {
    pub(crate) stdio: Stdio,
    pub(crate) preserved: Vec<OwnedFd>,
    pub(crate) rootfs: Rootfs,
    pub(crate) gate: Option<Gate>,
}

/// A child that exists but does not have its mounts yet; killed and reaped if dropped.
pub(crate) struct Creation {
    child: Option<Spawned>,
    channel: Channel,
    /// The root, if the caller's mount namespace has it; taken away if dropped.
    attached: Option<OwnedFd>,
    /// Devices in its network namespace; given back if dropped.
    moved: Option<Moved>,
}

impl Drop for Creation {
    fn drop(&mut self) {
        // While its namespace lives.
        self.moved.iter().for_each(Moved::give_back);
        if let Some(child) = self.child.take() {
            end(child.pidfd.as_fd());
        }
        if let Some(root) = &self.attached {
            // The error that led here is what counts.
            brig_sys::mount::detach(root.as_fd()).unwrap_or_default();
        }
    }
}

/// A child that has everything.
pub(crate) struct Made {
    pub(crate) child: Spawned,
    pub(crate) channel: Channel,
    pub(crate) used: Vec<OwnedFd>,
    pub(crate) attached: Option<OwnedFd>,
    pub(crate) moved: Option<Moved>,
}

impl Creation {
    /// Clones init, through a stage if it has namespaces to join first.
    pub(crate) fn start(plan: &Plan<'_>, given: &Given, cgroup: &Cgroup, keyring: Option<&CStr>) -> Result<Creation> {
        let (ours, theirs) = fdpass::pair()?;
        let directory = cgroup.fd_for_clone();
        let files = cgroup.join_files().step(|| "cgroup".to_owned())?;
        // The cgroup namespace is made later, when the child is in its cgroup on every hierarchy.
        let mut new = plan.namespaces.new & !flags::NEWCGROUP;
        if !plan.linux.time_offsets.is_empty() {
            // Clocks can be shifted only before anybody is in it.
            new &= !flags::NEWTIME;
        }
        let child = || {
            init::run(Init {
                plan,
                channel: &theirs,
                stdio: given.stdio.borrow(),
                preserved: &given.preserved,
                cgroup,
                cgroups: &files,
                keyring,
                rootfs: &given.rootfs,
                gate: given.gate.as_ref(),
            })
        };
        if plan.namespaces.join.is_empty() {
            let child = clone::spawn(new, directory.as_ref().map(AsFd::as_fd), child)?;
            return Creation { child: Some(child), channel: ours, attached: None, moved: None }.in_cgroup(cgroup);
        }
        let stage = clone::spawn(0, directory.as_ref().map(AsFd::as_fd), || {
            init::finish(&theirs, join(plan, &theirs, new, child))
        })?;
        drop(theirs);
        let answer = wire::next_of(&ours, stage.pidfd.as_fd());
        pidfd::reap(stage.pidfd.as_fd())?;
        match answer? {
            Some((Report::Child { pid }, Some(pidfd))) => {
                Creation { child: Some(Spawned { pid, pidfd }), channel: ours, attached: None, moved: None }
                    .in_cgroup(cgroup)
            }
            Some((Report::Failed(error), _)) => Err(error),
            _ => Err(Error::system("the process that joins namespaces died")),
        }
    }

    /// Puts the child where only systemd can put it.
    fn in_cgroup(self, cgroup: &Cgroup) -> Result<Creation> {
        let pid = self.child.as_ref().map_or(0, |child| child.pid);
        cgroup.attach(pid).step(|| "cgroup".to_owned())?;
        Ok(self)
    }

    /// Maps ids, makes the mounts and hands them over.
    pub(crate) fn finish(mut self, plan: &Plan<'_>, given: &Given, idmap_binds: bool) -> Result<Made> {
        let Given { stdio, rootfs, .. } = given;
        let pid = self.child.as_ref().map_or(0, |child| child.pid);
        if plan.namespaces.new & flags::NEWUSER != 0 {
            let uids = identity::ranges(&plan.linux.uid_mappings);
            let gids = identity::ranges(&plan.linux.gid_mappings);
            if plan.unprivileged {
                identity::write_unprivileged(pid, &uids, &gids)?;
            } else {
                identity::write(pid, &uids, &gids)?;
            }
        }
        if let Some(class) = &plan.class {
            class.add(pid)?;
        }
        self.shift_clocks(plan, pid)?;
        if plan.unprivileged {
            // Init looks after itself. From this order on it is no longer the caller's to look into.
            self.identify(plan, stdio, pid)?;
            self.moved = net_devices::move_in(&plan.net_devices, pid)?;
            wire::order(&self.channel, Order::Mapped).map_err(|error| self.why(error))?;
            return self.hand_over(Vec::new());
        }
        wire::order(&self.channel, Order::Mapped).map_err(|error| self.why(error))?;
        let identity = self.identify(plan, stdio, pid)?;
        let console = matches!(stdio, Stdio::Terminal { .. });
        let Sources { root, mut mounts } = sources::make(plan, rootfs, &identity, idmap_binds, console)?;
        if plan.shares_mounts() {
            let Rootfs::Directory(path) = rootfs else { return Err(init::jail::needs_directory()) };
            init::jail::attach_at(root.root.as_fd(), path).step(|| "rootfs".to_owned())?;
            self.attached = Some(copy(root.root.as_fd())?);
        }
        self.moved = net_devices::move_in(&plan.net_devices, pid).map_err(|error| self.why_if_said(error))?;
        let fds: Vec<BorrowedFd<'_>> = [root.root.as_fd()].into_iter().chain(mounts.iter().map(AsFd::as_fd)).collect();
        wire::send_fds(&self.channel, &fds).map_err(|error| self.why(error))?;
        mounts.extend(root.rest);
        self.hand_over(mounts)
    }

    /// Whose the container's ids are, checked against what the process wants of them.
    fn identify(&self, plan: &Plan<'_>, stdio: &Stdio, pid: i32) -> Result<Identity> {
        let identity = Identity::of(pid, plan.namespaces.has(flags::NEWUSER))?;
        if plan.namespaces.new & flags::NEWUSER == 0 {
            identity.check_joined(plan.linux)?;
        }
        if let Some(launch) = &plan.launch {
            launch::check_mapped(launch, &identity.uids, &identity.gids)?;
            if !plan.unprivileged {
                stdio.give_to(launch, &identity)?;
            }
            if let Some(value) = launch.oom_score_adj {
                brig_sys::process::set_oom_score_adj(pid, value).step(|| "process.oomScoreAdj".to_owned())?;
            }
        }
        Ok(identity)
    }

    fn hand_over(mut self, used: Vec<OwnedFd>) -> Result<Made> {
        let channel = Channel::from_fd(copy(self.channel.as_fd())?);
        let child = self.child.take().ok_or_else(|| Error::system("there is no child"))?;
        Ok(Made { child, channel, used, attached: self.attached.take(), moved: self.moved.take() })
    }

    /// Writes the offsets of the time namespace that the child has made and not yet entered.
    fn shift_clocks(&self, plan: &Plan<'_>, pid: i32) -> Result<()> {
        if plan.linux.time_offsets.is_empty() {
            return Ok(());
        }
        match wire::next(&self.channel)? {
            Some((Report::Timeless, _)) => {}
            Some((Report::Failed(error), _)) => return Err(error),
            _ => return Err(Error::system("init died before its clocks were set")),
        }
        for (clock, offset) in &plan.linux.time_offsets {
            brig_sys::namespace::set_time_offset(pid, clock, offset.secs, offset.nanosecs)
                .step(|| format!("linux.timeOffsets: {clock}"))?;
        }
        Ok(())
    }

    /// [`Creation::why`] for a step that may fail while the child lives and has nothing to say.
    fn why_if_said(&self, error: Error) -> Error {
        if wire::waiting(&self.channel) { self.why(error) } else { error }
    }

    /// If a message could not be sent because the child ended, what it said before it did.
    fn why(&self, error: Error) -> Error {
        match wire::next(&self.channel) {
            Ok(Some((Report::Failed(said), _))) => said,
            _ => error,
        }
    }
}

fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| Error::system(format!("dup({}): {error}", fd.as_raw_fd())))
}

/// Joins namespaces while the caller's rights last; those that only the rights of the user namespace allow come after it.
fn join_all(namespaces: &[(u64, OwnedFd)]) -> brig_sys::Result<()> {
    let join = |(flag, namespace): &(u64, OwnedFd)| brig_sys::namespace::join(namespace.as_fd(), *flag);
    let joins_user = namespaces.iter().any(|(flag, _)| *flag == flags::NEWUSER);
    let mut later = Vec::new();
    for namespace in namespaces {
        match join(namespace) {
            Err(error) if joins_user && namespace.0 != flags::NEWUSER && error.errno == rustix::io::Errno::PERM => {
                later.push(namespace);
            }
            done => done?,
        }
    }
    later.into_iter().try_for_each(join)
}

/// In the stage: joins namespaces, then makes init as a child of the stage's parent.
fn join(plan: &Plan<'_>, channel: &Channel, new: u64, child: impl FnOnce() -> i32) -> Result<i32> {
    // As init: a caller without rights has to look into it.
    if !plan.unprivileged {
        brig_sys::process::set_dumpable(false)?;
    }
    join_all(&plan.namespaces.join).step(|| "linux.namespaces".to_owned())?;
    let child = clone::spawn(new | flags::PARENT, None, child)?;
    wire::report_with(channel, &Report::Child { pid: child.pid }, child.pidfd.as_fd())?;
    Ok(0)
}
