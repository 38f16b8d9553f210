//! Another process in a running container.
//! Owns joining of its namespaces and cgroup. Must not give more rights than the container has, unless told so.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use brig_oci::runtime::{Linux, Process};
use brig_sys::beneath::Root;
use brig_sys::clone::{self, flags};
use brig_sys::fdpass::{self, Channel};
use brig_sys::pidfd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::cgroup::Entrance;
use crate::container::{Container, end, go};
use crate::error::{Error, Result, Step};
use crate::identity::Identity;
use crate::init;
use crate::launch::{self, Launch};
use crate::rights;
use crate::stdio::{Stdio, check_preserved, check_terminal, lift};
use crate::wire::{self, Report};

/// What [`Container::exec`] needs.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// What to run.
    pub process: &'a Process,
    /// Whose filter and execution domain it gets: the container's.
    pub linux: Option<&'a Linux>,
    /// Its streams.
    pub stdio: Stdio,
    /// Let it have capabilities that the container's bounding set has not (`exec --privileged`).
    pub privileged: bool,
    /// Give it the container's session keyring instead of the caller's.
    pub session_keyring: bool,
    /// Descriptors that the program gets besides its streams: at the numbers that they have, ascending from 3.
    pub preserved: Vec<OwnedFd>,
    /// Do it in a paused container too: the process stands still until the container goes on.
    pub ignore_paused: bool,
    /// Existing cgroups below the container's to run it in: controller (empty for all) and path.
    pub sub_cgroups: Vec<(String, String)>,
}

impl<'a> ExecRequest<'a> {
    /// What every process needs: it gets the container's session keyring; the rest is off.
    pub fn new(process: &'a Process, linux: Option<&'a Linux>, stdio: Stdio) -> ExecRequest<'a> {
        ExecRequest {
            process,
            linux,
            stdio,
            privileged: false,
            session_keyring: true,
            preserved: Vec::new(),
            ignore_paused: false,
            sub_cgroups: Vec::new(),
        }
    }
}

/// A process that [`Container::exec`] started: a child of the caller, who reaps it.
#[derive(Debug)]
pub struct ExecProcess {
    /// As the caller sees it.
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// The terminal's master, if it has one.
    pub master: Option<OwnedFd>,
    /// What the kernel granted differently, for people.
    pub warnings: Vec<String>,
}

impl Container {
    /// Runs a process in the container; returns when it has been started.
    ///
    /// # Errors
    /// `NotFound` and `NotExecutable` are about the program; `Invalid` if the container is paused or has ended. Then
    /// nothing is left of the process. Only for processes with one thread.
    pub fn exec(&self, request: ExecRequest<'_>) -> Result<ExecProcess> {
        let ExecRequest { process, linux, stdio, privileged, session_keyring, preserved, ignore_paused, sub_cgroups } =
            request;
        let launch = Launch::compile(process, linux)?;
        check_terminal(process.terminal, &stdio)?;
        check_preserved(&preserved)?;
        let beyond = launch.caps.bounding | launch.caps.permitted | launch.caps.inheritable;
        if !privileged && beyond & !self.bounding != 0 {
            return Err(Error::invalid(
                "process.capabilities: more than the container has; only a privileged exec may have them",
            ));
        }
        self.check_running(ignore_paused)?;
        let entrance = self.cgroup.entrance(&sub_cgroups).step(|| "cgroup".to_owned())?;
        let identity = Identity::of(self.pid(), self.namespaces & flags::NEWUSER != 0)?;
        launch::check_mapped(&launch, &identity.uids, &identity.gids)?;
        let stdio = lift(stdio)?;
        stdio.give_to(&launch, &identity)?;
        let (ours, theirs) = fdpass::pair()?;
        let mut started = Started { child: None, channel: ours, master: None };
        let keyring = session_keyring.then(|| self.about.keyring());
        self.spawn(&launch, (&stdio, &preserved), theirs, keyring.as_deref(), entrance, &mut started)?;
        let pid = started.child.as_ref().map_or(0, |(pid, _)| *pid);
        if sub_cgroups.is_empty() {
            self.cgroup.attach(pid).step(|| "cgroup".to_owned())?;
        }
        if let Some(class) = &self.class {
            class.add_if_there(pid)?;
        }
        let warnings = launch::apply_limits(pid, &launch.limits, launch.own_limits)?;
        if let Some(value) = launch.oom_score_adj {
            brig_sys::process::set_oom_score_adj(pid, value).step(|| "process.oomScoreAdj".to_owned())?;
        }
        go(&started.channel)?;
        let (pid, pidfd) = started.child.take().ok_or_else(|| Error::system("there is no child"))?;
        Ok(ExecProcess { pid, pidfd, master: started.master.take(), warnings })
    }

    fn check_running(&self, ignore_paused: bool) -> Result<()> {
        if pidfd::wait_end(self.pidfd.as_fd(), Some(Duration::ZERO))? {
            return Err(Error::invalid("the container is not running"));
        }
        if !ignore_paused && self.cgroup.frozen().step(|| "cgroup".to_owned())? {
            return Err(Error::invalid("the container is paused; unpause it before exec"));
        }
        Ok(())
    }

    /// Makes the process: a stage joins, and its child, a sibling of the stage, is inside of the pid namespace.
    fn spawn(
        &self,
        launch: &Launch,
        (stdio, preserved): (&Stdio, &[OwnedFd]),
        theirs: Channel,
        keyring: Option<&CStr>,
        entrance: Entrance,
        started: &mut Started,
    ) -> Result<()> {
        let Entrance { directory, files, chosen } = entrance;
        let own_user = self.namespaces & flags::NEWUSER != 0;
        let sets_groups = if own_user { None } else { Some(rights::may_set_groups()?) };
        let stage = || {
            let stdio = stdio.borrow();
            let stage = Stage {
                container: self,
                launch,
                stdio,
                preserved,
                channel: &theirs,
                files: &files,
                keyring,
                sets_groups,
            };
            init::finish(&theirs, stage.run())
        };
        let into = |directory: Option<&OwnedFd>| clone::spawn(0, directory.map(AsFd::as_fd), stage);
        let stage = launch.affinity.starting(|| {
            let spawned = match into(directory.as_ref()) {
                // It has given its controllers on: then where its first process is.
                Err(error) if error.errno == Errno::BUSY && !chosen => {
                    let below = self.cgroup.below_with(self.pid());
                    if below.is_some() { into(below.as_ref()) } else { Err(error) }
                }
                spawned => spawned,
            };
            Ok(spawned?)
        })?;
        drop(theirs);
        let heard = started.hear(stage.pidfd.as_fd(), |child, listener| {
            self.introduce(launch.agent.as_ref(), child, listener, "running")
        });
        pidfd::reap(stage.pidfd.as_fd())?;
        heard
    }
}

/// A process on its way; killed and reaped if dropped.
struct Started {
    child: Option<(i32, OwnedFd)>,
    channel: Channel,
    master: Option<OwnedFd>,
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some((_, child)) = self.child.take() {
            end(child.as_fd());
        }
    }
}

impl Started {
    /// Listens until the child is known and ready. The stage and its child talk at the same time, so their messages come in
    /// any order.
    fn hear(
        &mut self,
        stage: BorrowedFd<'_>,
        introduce: impl Fn((i32, BorrowedFd<'_>), i32) -> Result<()>,
    ) -> Result<()> {
        let mut listener = None;
        let mut ready = false;
        let mut failed = None;
        while self.child.is_none() || !(ready || failed.is_some()) {
            let heard =
                if self.child.is_none() { wire::next_of(&self.channel, stage) } else { wire::next(&self.channel) };
            match heard? {
                Some((Report::Child { pid }, Some(pidfd))) => self.child = Some((pid, pidfd)),
                Some((Report::Terminal, Some(master))) => self.master = Some(master),
                Some((Report::Listener { fd }, _)) => listener = Some(fd),
                Some((Report::Ready, _)) => ready = true,
                Some((Report::Failed(error), _)) => failed = Some(error),
                Some(_) => return Err(Error::system("the process sent an unexpected report")),
                None => break,
            }
            if let Some((pid, child)) = &self.child
                && let Some(number) = listener.take()
            {
                introduce((*pid, child.as_fd()), number)?;
            }
        }
        match failed {
            Some(error) => Err(error),
            None if ready && self.child.is_some() => Ok(()),
            None => Err(Error::system("the process died before it was ready (killed, or the container ended)")),
        }
    }
}

/// The process that joins; everything from here on runs in it or in its child.
struct Stage<'a> {
    container: &'a Container,
    launch: &'a Launch,
    stdio: init::Stdio<'a>,
    preserved: &'a [OwnedFd],
    channel: &'a Channel,
    files: &'a [OwnedFd],
    keyring: Option<&'a CStr>,
    /// Whether groups may be set; `None` is found out in the container's user namespace.
    sets_groups: Option<bool>,
}

impl Stage<'_> {
    fn run(self) -> Result<i32> {
        // Before anything of the container can see this process (CVE-2016-9962).
        brig_sys::process::set_dumpable(false)?;
        brig_sys::signal::reset()?;
        let mut keep = vec![self.channel.as_fd(), self.container.pidfd.as_fd()];
        keep.extend(self.stdio.fds());
        keep.extend(self.preserved.iter().chain(self.files).map(AsFd::as_fd));
        brig_sys::process::close_all_but(&keep)?;
        // While this still is the process that the host's procfs knows as its own.
        init::labels::set(self.launch)?;
        for file in self.files {
            rustix::io::write(file, b"0").map_err(|errno| brig_sys::Error::new("write(cgroup tasks, \"0\")", errno))?;
        }
        let root = if self.container.chrooted { Some(self.root()?) } else { None };
        self.launch.affinity.settle()?;
        brig_sys::namespace::join_process(self.container.pidfd.as_fd(), self.container.namespaces)?;
        if let Some(root) = root {
            brig_sys::mount::chroot_into(root.as_fd())?;
        }
        // What the child must not hold: it is visible inside.
        let mut keep = vec![self.channel.as_fd()];
        keep.extend(self.stdio.fds());
        keep.extend(self.preserved.iter().map(AsFd::as_fd));
        brig_sys::process::close_all_but(&keep)?;
        let child = clone::spawn(flags::PARENT, None, || init::finish(self.channel, self.inside()))?;
        wire::report_with(self.channel, &Report::Child { pid: child.pid }, child.pidfd.as_fd())?;
        Ok(0)
    }

    /// The root of the container's first process, which is not that of its mount namespace.
    fn root(&self) -> Result<OwnedFd> {
        let path = format!("/proc/{}/root", self.container.pid());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|errno| brig_sys::Error::new(format!("open({path:?}, O_PATH)"), errno))?;
        // Only now it is certain that the number still meant that process.
        self.container.check_running(true)?;
        Ok(root)
    }

    fn inside(&self) -> Result<i32> {
        brig_sys::process::new_session()?;
        let sets_groups = match self.sets_groups {
            Some(known) => known,
            None => init::become_root()?,
        };
        if let Some(name) = self.keyring {
            brig_sys::keyring::join_session(name, None)?;
        }
        let terminal = match self.stdio {
            init::Stdio::Terminal { rows, columns } => {
                Some(self.terminal((rows, columns)).step(|| "process.terminal".to_owned())?)
            }
            init::Stdio::Pipes { .. } => None,
        };
        init::Process {
            launch: self.launch,
            channel: self.channel,
            stdio: self.stdio,
            preserved: self.preserved,
            terminal,
            reaper: false,
            sets_groups,
            hooks: None,
            gate: None,
            owned: false,
        }
        .run()
    }

    fn terminal(&self, size: (u16, u16)) -> Result<OwnedFd> {
        let root = Root::open(Path::new("/"))?;
        let devpts = root.open_in(Path::new("dev/pts"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        init::open_terminal(&devpts, self.channel, size, self.launch.uid)
    }
}
