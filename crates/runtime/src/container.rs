//! A container as its parent holds it: made, started, signalled, deleted.
//! Owns the parent's half of the conversation with init and the clean-up of what failed. Must not be used by a process with threads.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use brig_oci::runtime::{Resources, Spec};
use brig_sys::clone::flags;
use brig_sys::fdpass::Channel;
use brig_sys::mount::Change;
use brig_sys::pidfd;
use rustix::fs::FileType;

use crate::about::About;
use crate::cgroup::{Cgroup, Driver, Layout, Place, Wish};
use crate::creation::{Creation, Given, Made};
use crate::error::{Error, Result, Step};
use crate::gate::Gate;
use crate::hooks::{Hooks, Moment};
use crate::launch;
use crate::listener::{Agent, Whose};
use crate::net_devices::Moved;
use crate::plan::Plan;
use crate::resctrl::Class;
use crate::rights;
use crate::rootfs::Rootfs;
use crate::stdio::{Stdio, check_preserved, check_terminal, lift};
use crate::unfinished::{Note, Unfinished};
use crate::wire::{self, Order, Report};

pub(crate) const SIGKILL: i32 = 9;

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
    /// Keeps notes of the cgroup, for whoever comes after a killed caller.
    pub note: Option<Note<'a>>,
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
            note: None,
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
        note,
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
    let cgroup = make_cgroup(&plan, &wish, note)?;
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
pub(crate) fn make_cgroup(plan: &Plan<'_>, wish: &Wish<'_>, note: Option<Note<'_>>) -> Result<Cgroup> {
    let none = Resources::default();
    let resources = plan.linux.resources.as_ref().unwrap_or(&none);
    let place = Place::of(wish)?;
    let noted = |unfinished: Option<Unfinished>| match (note, unfinished) {
        (Some(Note(keep)), Some(unfinished)) => keep(&unfinished),
        _ => Ok(()),
    };
    noted(Unfinished::planned(&place))?;
    let cgroup = Cgroup::create(&plan.layout, place, resources).step(|| "cgroup".to_owned())?;
    match noted(Unfinished::made(&cgroup)) {
        Ok(()) => Ok(cgroup),
        Err(error) => {
            // The first error is what the caller must read.
            cgroup.remove().unwrap_or_default();
            Err(error)
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

/// Kills a child and reaps it; it may have ended before.
pub(crate) fn end(child: BorrowedFd<'_>) {
    // Both fail only if it has been reaped before, which is as good.
    pidfd::send_signal(child, SIGKILL).unwrap_or_default();
    pidfd::reap(child).map(drop).unwrap_or_default();
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

    /// A container that runs already, restored as a child of this process. Takes the cgroup and the plan's hooks unless it fails.
    pub(crate) fn restored(pid: i32, cgroup: &mut Cgroup, plan: &mut Plan<'_>, about: About) -> Result<Container> {
        let adopted = Container::adopt(pid, plan.spec, cgroup.place().clone(), about)?;
        let (cgroup, hooks) = (std::mem::take(cgroup), plan.hooks.take());
        let warnings = cgroup.warnings().to_vec();
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
