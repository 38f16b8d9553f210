//! A container as its parent holds it: made, started, signalled, deleted.
//! Owns the parent's half of the conversation with init and the clean-up of what failed. Must not be used by a process with threads.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use brig_oci::runtime::{Resources, Spec};
use brig_sys::clone::{self, Spawned, flags};
use brig_sys::fdpass::{self, Channel};
use brig_sys::mount::Change;
use brig_sys::pidfd;
use rustix::fs::FileType;

use crate::about::About;
use crate::cgroup::{Cgroup, Driver, Layout, Place, Wish};
use crate::error::{Error, Result, Step};
use crate::gate::Gate;
use crate::hooks::{Hooks, Moment};
use crate::identity::{self, Identity};
use crate::init::{self, Init};
use crate::launch::{self, Launch};
use crate::listener::{Agent, Whose};
use crate::net_devices::{self, Moved};
use crate::plan::Plan;
use crate::resctrl::Class;
use crate::rights;
use crate::rootfs::Rootfs;
use crate::sources::{self, Sources};
use crate::wire::{self, Order, Report};

pub(crate) const SIGKILL: i32 = 9;

/// The program's streams.
#[derive(Debug)]
pub enum Stdio {
    /// Three descriptors that become 0, 1 and 2. Pipes are given to the program's user.
    Pipes {
        /// Becomes 0.
        stdin: OwnedFd,
        /// Becomes 1.
        stdout: OwnedFd,
        /// Becomes 2.
        stderr: OwnedFd,
    },
    /// A terminal of this size in characters (0 leaves the kernel's), exactly if `process.terminal` is set.
    Terminal {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// What [`create`] needs.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// One path component; names the cgroup.
    pub id: &'a str,
    /// What the caller calls it: for hooks, agents and keys.
    pub about: About,
    /// The specification. `root.path` is not used, `root.readonly` is.
    pub spec: &'a Spec,
    /// What the root is made of.
    pub rootfs: Rootfs,
    /// The program's streams.
    pub stdio: Stdio,
    /// Where the cgroup goes if `linux.cgroupsPath` is empty, and what it is relative to.
    pub cgroup_parent: &'a str,
    /// Who looks after the cgroup, and what form `linux.cgroupsPath` has.
    pub cgroup_driver: Driver,
    /// Do without a cgroup where the caller has no rights over them and nothing in the specification needs one.
    pub rootless_cgroup: bool,
    /// Refuse limits that cannot be kept on this machine instead of dropping them with a warning.
    pub strict_limits: bool,
    /// Show the files of a root that is a directory and of every bind mount with the container's owners if it has a user
    /// namespace; else they belong to whom they belong on the host.
    pub idmap_binds: bool,
    /// The first process is a small init of ours that runs the program as its child (`--init`).
    pub init: bool,
    /// Give it a session keyring of its own instead of the caller's.
    pub session_keyring: bool,
    /// Descriptors that the program gets besides its streams, at the numbers that they have, ascending from 3. A small init
    /// keeps none.
    pub preserved: Vec<OwnedFd>,
    /// Leave the host's root by `MS_MOVE` and `chroot` instead of `pivot_root`, as a host that runs from its initial ramfs
    /// needs it.
    pub no_pivot: bool,
    /// Where init waits for the start once [`Container::leave`] has been called.
    pub gate: Option<Gate>,
}

impl<'a> CreateRequest<'a> {
    /// What every container needs: it is called as its cgroup, and gets a session keyring; the rest is off.
    pub fn new(id: &'a str, spec: &'a Spec, rootfs: Rootfs, stdio: Stdio, cgroup_parent: &'a str) -> CreateRequest<'a> {
        CreateRequest {
            id,
            about: About { id: id.to_owned(), bundle: "/".into() },
            spec,
            rootfs,
            stdio,
            cgroup_parent,
            cgroup_driver: Driver::Cgroupfs,
            rootless_cgroup: false,
            strict_limits: false,
            idmap_binds: false,
            init: false,
            session_keyring: true,
            preserved: Vec::new(),
            no_pivot: false,
            gate: None,
        }
    }
}

impl CreateRequest<'_> {
    /// The root, if paths of the host's through it mean what the container sees there.
    pub(crate) fn root_directory(&self) -> Option<&Path> {
        root_directory(&self.rootfs, self.idmap_binds)
    }
}

/// A root that is mapped shows other owners than its directory on the host.
fn root_directory(rootfs: &Rootfs, mapped: bool) -> Option<&Path> {
    match rootfs {
        Rootfs::Directory(path) if !mapped => Some(path),
        _ => None,
    }
}

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Init is preparing the root.
    Preparing,
    /// Init waits at the gate.
    Ready,
    /// The program runs, or has ended.
    Started,
    /// A step failed; nothing is left.
    Failed,
    /// Made by another process: it can be joined and deleted only.
    Adopted,
}

/// A container whose init is a child of this process (or was made by another: [`Container::adopt`]).
/// Dropping it changes nothing once it runs; one that was never started ends, as its gate closes.
#[derive(Debug)]
pub struct Container {
    pub(crate) about: About,
    pid: i32,
    pub(crate) pidfd: OwnedFd,
    channel: Option<Channel>,
    pub(crate) cgroup: Cgroup,
    /// `CLONE_NEW…` bits of what an exec joins.
    pub(crate) namespaces: u64,
    /// The bounding set of the first process: what an exec may have at most.
    pub(crate) bounding: u64,
    limits: Vec<(String, u32, brig_sys::process::Limits)>,
    /// Init lowers them itself.
    own_limits: bool,
    terminal: Option<OwnedFd>,
    /// Who gets the listener of the first process's filter.
    agent: Option<Agent>,
    /// Devices that are in its network namespace, until it is started.
    moved: Option<Moved>,
    /// Its class of cache and memory bandwidth.
    pub(crate) class: Option<Class>,
    annotations: BTreeMap<String, String>,
    warnings: Vec<String>,
    /// Mounts that were handed over or used up. Closing them makes the kernel wait, so it is done when nobody else does.
    used: Vec<OwnedFd>,
    /// The root, if it is mounted where the caller sees it. It stays there after the container's end, as others may be in it.
    attached: Option<OwnedFd>,
    /// Its root is not that of its mount namespace.
    pub(crate) chrooted: bool,
    hooks: Option<Hooks>,
    phase: Phase,
}

/// Makes the cgroup, the namespaces and init, hands the mounts over and returns while init still prepares the root.
///
/// # Errors
/// The specification is refused, or a step failed; then nothing is left behind. Only for processes with one thread.
pub fn create(request: CreateRequest<'_>) -> Result<Container> {
    let CreateRequest {
        id,
        about,
        spec,
        rootfs,
        stdio,
        cgroup_parent,
        cgroup_driver,
        rootless_cgroup,
        strict_limits,
        idmap_binds,
        init,
        session_keyring,
        preserved,
        no_pivot,
        gate,
    } = request;
    let mut plan = Plan::new(spec, &about, root_directory(&rootfs, idmap_binds), init)?;
    plan.no_pivot = no_pivot;
    plan.check_no_pivot()?;
    if plan.namespaces.has(flags::NEWUSER) {
        plan.unprivileged = !rights::may_mount()?;
    } else {
        plan.sets_groups = rights::may_set_groups()?;
    }
    check_terminal(spec.process.as_ref().is_some_and(|process| process.terminal), &stdio)?;
    check_root(&rootfs)?;
    check_preserved(&preserved)?;
    let given = Given { stdio: lift(stdio)?, preserved, rootfs, gate };
    let wish = Wish {
        path: &plan.linux.cgroups_path,
        parent: cgroup_parent,
        id,
        driver: cgroup_driver,
        annotations: &spec.annotations,
        rootless: rootless_cgroup,
        strict: strict_limits,
    };
    let cgroup = make_cgroup(&plan, &wish)?;
    let keyring = session_keyring.then(|| about.keyring());
    let made = plan.class.as_ref().map_or(Ok(()), Class::make);
    match made
        .and_then(|()| Creation::start(&plan, &given, &cgroup, keyring.as_deref()))
        .and_then(|creation| creation.finish(&plan, &given, idmap_binds))
    {
        Ok(made) => Ok(Container::begun(plan, made, cgroup, about)),
        Err(error) => {
            // The first error is what the caller must read.
            cgroup.remove().unwrap_or_default();
            plan.class.iter().for_each(Class::remove);
            plan.hooks.iter().for_each(|hooks| drop(hooks.run_all(Moment::Poststop)));
            Err(error)
        }
    }
}

/// Makes a container's cgroup and sets its limits.
pub(crate) fn make_cgroup(plan: &Plan<'_>, wish: &Wish<'_>) -> Result<Cgroup> {
    let none = Resources::default();
    let resources = plan.linux.resources.as_ref().unwrap_or(&none);
    Cgroup::create(&plan.layout, Place::of(wish)?, resources).step(|| "cgroup".to_owned())
}

pub(crate) fn check_terminal(wanted: bool, stdio: &Stdio) -> Result<()> {
    match (wanted, stdio) {
        (true, Stdio::Terminal { .. }) | (false, Stdio::Pipes { .. }) => Ok(()),
        (true, Stdio::Pipes { .. }) => Err(Error::invalid("process.terminal: is set, but streams were given")),
        (false, Stdio::Terminal { .. }) => {
            Err(Error::invalid("process.terminal: is not set, but a terminal was asked for"))
        }
    }
}

pub(crate) fn check_root(rootfs: &Rootfs) -> Result<()> {
    let Rootfs::Directory(path) = rootfs else { return Ok(()) };
    let bad = |why: &str| Error::invalid(format!("root.path: {}: {why}", path.display()));
    let look =
        |path: &Path| rustix::fs::lstat(path).map_err(|errno| bad(&brig_sys::Error::new("lstat()", errno).to_string()));
    let (stat, host) = (look(path)?, look(Path::new("/"))?);
    // By what it is: many paths lead there.
    if (stat.st_dev, stat.st_ino) == (host.st_dev, host.st_ino) {
        return Err(bad("is the host's own root; give it to a throw-away overlay instead"));
    }
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Ok(()),
        FileType::Symlink => Err(bad("is a symbolic link")),
        _ => Err(bad("is not a directory")),
    }
}

/// The program's further descriptors are where it expects them already, in order and each once, so that nothing has to be
/// moved out of their way.
pub(crate) fn check_preserved(preserved: &[OwnedFd]) -> Result<()> {
    let mut least = 3;
    for fd in preserved {
        let number = fd.as_raw_fd();
        if number < least {
            return Err(Error::invalid(format!(
                "preserved descriptors: {number} stands where {least} or above should"
            )));
        }
        least = number + 1;
    }
    Ok(())
}

/// What a container is given besides its plan.
struct Given {
    stdio: Stdio,
    preserved: Vec<OwnedFd>,
    rootfs: Rootfs,
    gate: Option<Gate>,
}

/// Streams as descriptors above 2, so that none is overwritten while they are put into place.
pub(crate) fn lift(stdio: Stdio) -> Result<Stdio> {
    Ok(match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => Stdio::Pipes {
            stdin: clone::above_stdio(stdin)?,
            stdout: clone::above_stdio(stdout)?,
            stderr: clone::above_stdio(stderr)?,
        },
        terminal @ Stdio::Terminal { .. } => terminal,
    })
}

impl Stdio {
    pub(crate) fn borrow(&self) -> init::Stdio<'_> {
        match self {
            Stdio::Pipes { stdin, stdout, stderr } => {
                init::Stdio::Pipes { fds: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] }
            }
            Stdio::Terminal { width, height } => init::Stdio::Terminal { rows: *height, columns: *width },
        }
    }

    /// Gives pipes to the program's user, who may want to open `/dev/stdout` again. Other files stay whose they are.
    pub(crate) fn give_to(&self, launch: &Launch, identity: &Identity) -> Result<()> {
        let Stdio::Pipes { stdin, stdout, stderr } = self else { return Ok(()) };
        let (uid, gid) = identity.outside(launch.uid, launch.gid).step(|| "process.user".to_owned())?;
        for fd in [stdin, stdout, stderr] {
            let stat = rustix::fs::fstat(fd)
                .map_err(|errno| brig_sys::Error::new(format!("fstat({})", fd.as_raw_fd()), errno))?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && (stat.st_uid, stat.st_gid) != (uid, gid) {
                match rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))
                {
                    // A caller without rights: the program has its streams all the same.
                    Err(rustix::io::Errno::PERM) => {}
                    done => done.map_err(|errno| {
                        brig_sys::Error::new(format!("fchown({}, {uid}, {gid})", fd.as_raw_fd()), errno)
                    })?,
                }
            }
        }
        Ok(())
    }
}

/// A child that exists but does not have its mounts yet; killed and reaped if dropped.
struct Creation {
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

/// Kills a child and reaps it; it may have ended before.
pub(crate) fn end(child: BorrowedFd<'_>) {
    // Both fail only if it has been reaped before, which is as good.
    pidfd::send_signal(child, SIGKILL).unwrap_or_default();
    pidfd::reap(child).map(drop).unwrap_or_default();
}

/// A child that has everything.
struct Made {
    child: Spawned,
    channel: Channel,
    used: Vec<OwnedFd>,
    attached: Option<OwnedFd>,
    moved: Option<Moved>,
}

fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| Error::system(format!("dup({}): {error}", fd.as_raw_fd())))
}

impl Creation {
    /// Clones init, through a stage if it has namespaces to join first.
    fn start(plan: &Plan<'_>, given: &Given, cgroup: &Cgroup, keyring: Option<&CStr>) -> Result<Creation> {
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
    fn finish(mut self, plan: &Plan<'_>, given: &Given, idmap_binds: bool) -> Result<Made> {
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

impl Container {
    /// A container whose init prepares the root.
    fn begun(plan: Plan<'_>, made: Made, cgroup: Cgroup, about: About) -> Container {
        let Made { child: spawned, channel, used, attached, moved } = made;
        let launch = plan.launch.as_ref();
        Container {
            about,
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            channel: Some(channel),
            warnings: cgroup.warnings().to_vec(),
            cgroup,
            namespaces: plan.namespaces.all(),
            bounding: launch.map_or(0, |launch| launch.caps.bounding),
            limits: launch.map(|launch| launch.limits.clone()).unwrap_or_default(),
            own_limits: launch.is_some_and(|launch| launch.own_limits),
            terminal: None,
            agent: launch.and_then(|launch| launch.agent.clone()),
            annotations: plan.spec.annotations.clone(),
            used,
            attached,
            moved,
            class: plan.class,
            chrooted: !plan.namespaces.own_mounts(),
            hooks: plan.hooks,
            phase: Phase::Preparing,
        }
    }

    /// A container that another process made: it can be joined, signalled and deleted.
    ///
    /// # Errors
    /// `pid` does not exist, or the specification makes no sense.
    pub fn adopt(pid: i32, spec: &Spec, place: Place, about: About) -> Result<Container> {
        let linux = spec.linux.as_ref().ok_or_else(|| Error::invalid("linux: is missing"))?;
        let cgroup = Cgroup::at(&Layout::detect().step(|| "cgroup".to_owned())?, place);
        let capabilities = spec.process.as_ref().and_then(|process| process.capabilities.as_ref());
        let bounding = capabilities.map(launch::capabilities).transpose()?.map_or(0, |sets| sets.bounding);
        // What could not be found could not have been made.
        let class = Class::of(linux, &about).unwrap_or_default();
        Ok(Container {
            about,
            pid,
            pidfd: pidfd::open(pid)?,
            channel: None,
            cgroup,
            namespaces: crate::namespaces::kinds(&linux.namespaces)?,
            bounding,
            limits: Vec::new(),
            own_limits: false,
            terminal: None,
            agent: None,
            moved: None,
            class,
            annotations: spec.annotations.clone(),
            warnings: Vec::new(),
            used: Vec::new(),
            attached: None,
            chrooted: !crate::namespaces::has_own_mounts(&linux.namespaces),
            hooks: None,
            phase: Phase::Adopted,
        })
    }

    /// A container that runs already, restored as a child of this process.
    pub(crate) fn restored(pid: i32, cgroup: Cgroup, plan: &mut Plan<'_>, about: About) -> Result<Container> {
        let adopted = Container::adopt(pid, plan.spec, cgroup.place().clone(), about)?;
        let (warnings, hooks) = (cgroup.warnings().to_vec(), plan.hooks.take());
        Ok(Container { cgroup, warnings, hooks, phase: Phase::Started, ..adopted })
    }

    /// Init, as this process sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Init. Readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The limits.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// What the kernel granted differently from the specification, for people.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The network namespace.
    pub fn open_netns(&self) -> Result<OwnedFd> {
        Ok(brig_sys::namespace::of_process(self.pid, "net")?)
    }

    /// A descriptor that becomes readable when [`Container::wait_ready`] would not wait.
    pub fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Waits until init stands at the gate; returns the terminal's master, if there is one.
    ///
    /// # Errors
    /// What init says; then nothing is left of the container. `NotFound` and `NotExecutable` are about the program.
    pub fn wait_ready(&mut self) -> Result<Option<OwnedFd>> {
        match self.phase {
            Phase::Preparing => {}
            Phase::Ready => return Ok(None),
            phase => return Err(Error::invalid(format!("the container is not being created but {phase:?}"))),
        }
        let ready = self.hear_ready().and_then(|()| {
            self.cgroup.entered().step(|| "cgroup".to_owned())?;
            self.warnings.extend(launch::apply_limits(self.pid, &self.limits, self.own_limits)?);
            Ok(())
        });
        match ready {
            Ok(()) => {
                self.phase = Phase::Ready;
                Ok(self.terminal.take())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Hands the listener of a process's filter to its agent.
    pub(crate) fn introduce(
        &self,
        agent: Option<&Agent>,
        process: (i32, BorrowedFd<'_>),
        listener: i32,
        status: &str,
    ) -> Result<()> {
        let whose = Whose { about: &self.about, annotations: &self.annotations, status, init: self.pid };
        agent.map_or(Ok(()), |agent| agent.introduce(process, listener, &whose))
    }

    fn hear_ready(&mut self) -> Result<()> {
        let channel = self.channel.as_ref().ok_or_else(|| Error::system("there is no channel to init"))?;
        let mut map = None;
        loop {
            match wire::next(channel)? {
                Some((Report::Map, given)) => map = given,
                Some((Report::Unmapped { recursive }, Some(tree))) => {
                    let change = Change { idmap: map.as_ref().map(AsFd::as_fd), ..Change::default() };
                    brig_sys::mount::configure(tree.as_fd(), recursive, change).step(|| "mounts: idmap".to_owned())?;
                    wire::order(channel, Order::MountMapped)?;
                }
                Some((Report::Terminal, Some(master))) => self.terminal = Some(master),
                Some((Report::Ready, _)) => return Ok(()),
                Some((Report::Failed(error), _)) => return Err(error),
                Some((Report::Listener { fd }, _)) => {
                    let init = (self.pid, self.pidfd.as_fd());
                    self.introduce(self.agent.as_ref(), init, fd, "creating")?;
                }
                Some((Report::Mounted, _)) => {
                    if let Some(hooks) = &self.hooks {
                        hooks.run(Moment::Prestart, Some(self.pid))?;
                        hooks.run(Moment::CreateRuntime, Some(self.pid))?;
                    }
                    wire::order(channel, Order::Hooked)?;
                }
                Some(_) => return Err(Error::system("init sent an unexpected report")),
                None => return Err(Error::system("init died before it was ready (killed, or out of memory)")),
            }
        }
    }

    /// Opens the gate; returns when the program has replaced init (or, with `init`, has been started by it) and the
    /// poststart hooks have run.
    ///
    /// # Errors
    /// What execve or a startContainer or poststart hook said; then nothing is left of the container.
    pub fn start(&mut self) -> Result<()> {
        if self.phase == Phase::Preparing {
            self.wait_ready()?;
        }
        if self.phase != Phase::Ready {
            return Err(Error::invalid(format!("the container cannot be started: it is {:?}", self.phase)));
        }
        let Some(channel) = self.channel.take() else { return Err(Error::system("there is no channel to init")) };
        let poststart = || self.hooks.as_ref().map_or(Ok(()), |hooks| hooks.run(Moment::Poststart, Some(self.pid)));
        match go(&channel).and_then(|()| poststart()) {
            Ok(()) => {
                self.phase = Phase::Started;
                self.used.clear();
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// Leaves a container that stands at its gate ([`CreateRequest::gate`]): from now on it lives without the caller, until
    /// somebody opens the gate ([`crate::gate::let_go`]).
    ///
    /// # Errors
    /// It is not at its gate.
    pub fn leave(mut self) -> Result<()> {
        match (self.phase, self.channel.take()) {
            (Phase::Ready, Some(channel)) => wire::order(&channel, Order::Leave),
            (phase, _) => Err(Error::invalid(format!("the container does not stand at its gate: it is {phase:?}"))),
        }
    }

    /// Sends a signal to init.
    pub fn kill(&self, signal: i32) -> Result<()> {
        Ok(pidfd::send_signal(self.pidfd.as_fd(), signal)?)
    }

    /// Kills every process of the container.
    pub fn kill_all(&self) -> Result<()> {
        Ok(self.cgroup.kill()?)
    }

    /// Kills what is left and removes the cgroup. May be called for a container whose init has ended and was reaped.
    pub fn delete(self) -> Result<()> {
        if self.phase == Phase::Failed {
            return Ok(());
        }
        // Readable means ended; then the cgroup holds at most processes that escaped its pid namespace's end.
        if !pidfd::wait_end(self.pidfd.as_fd(), Some(std::time::Duration::ZERO))? {
            match pidfd::send_signal(self.pidfd.as_fd(), SIGKILL) {
                Err(error) if error.errno != rustix::io::Errno::SRCH => return Err(error.into()),
                _ => {}
            }
            pidfd::wait_end(self.pidfd.as_fd(), None)?;
        }
        // ECHILD: reaped before, or never a child of this process.
        pidfd::try_reap(self.pidfd.as_fd()).map(drop).unwrap_or_default();
        self.class.iter().for_each(Class::remove);
        self.remove_cgroup()
    }

    fn remove_cgroup(&self) -> Result<()> {
        if !self.cgroup.processes().is_ok_and(|pids| pids.is_empty()) && self.cgroup.exists() {
            self.cgroup.kill()?;
        }
        Ok(self.cgroup.remove()?)
    }

    /// After a failed step: nothing is left, and the first error is what counts.
    fn fail(&mut self, error: Error) -> Error {
        // While its namespace lives.
        self.moved.take().iter().for_each(Moved::give_back);
        end(self.pidfd.as_fd());
        self.channel = None;
        self.terminal = None;
        self.remove_cgroup().unwrap_or_default();
        self.class.iter().for_each(Class::remove);
        if let Some(root) = self.attached.take() {
            brig_sys::mount::detach(root.as_fd()).unwrap_or_default();
        }
        let started = self.phase == Phase::Ready;
        self.phase = Phase::Failed;
        // What could not even be created will never be deleted by a caller.
        if !started {
            self.hooks.iter().for_each(|hooks| drop(hooks.run_all(Moment::Poststop)));
        }
        error
    }
}

/// Lets a process that waits at its gate go, and hears what execve says.
pub(crate) fn go(channel: &Channel) -> Result<()> {
    wire::order(channel, Order::Go)?;
    match wire::next(channel)? {
        None => Ok(()),
        Some((Report::Failed(error), _)) => Err(error),
        Some(_) => Err(Error::system("init sent an unexpected report")),
    }
}
