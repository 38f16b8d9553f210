//! The last steps before the program: streams, priorities, credentials, filter, gate, execve. The same for the first
//! process and for an exec. Owns their order (runc's `standard_init_linux.go`). Must not touch mounts.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::path::Path;

use brig_sys::fdpass::Channel;
use brig_sys::process::StringArray;
use brig_sys::seccomp::Instruction;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{finish, lookup, reaper};
use crate::error::{Error, Result, Step};
use crate::gate::Gate;
use crate::hooks::{Hooks, Inside};
use crate::launch::{self, Launch};
use crate::seccomp::Program;
use crate::wire::{self, Order, Report};

/// SIGHUP, SIGINT, SIGQUIT, SIGTERM.
const POLITE: [i32; 4] = [1, 2, 3, 15];

/// The program's streams.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stdio<'a> {
    /// stdin, stdout, stderr; each above 2.
    Pipes { fds: [BorrowedFd<'a>; 3] },
    /// A terminal of this size.
    Terminal { rows: u16, columns: u16 },
}

impl<'a> Stdio<'a> {
    pub fn fds(&self) -> &[BorrowedFd<'a>] {
        match self {
            Stdio::Pipes { fds } => fds,
            Stdio::Terminal { .. } => &[],
        }
    }
}

/// A process inside the container that is about to become the program.
pub(crate) struct Process<'a> {
    pub launch: &'a Launch,
    pub channel: &'a Channel,
    pub stdio: Stdio<'a>,
    /// What the program gets besides its streams, at the numbers that it has already.
    pub preserved: &'a [OwnedFd],
    /// The terminal's slave.
    pub terminal: Option<OwnedFd>,
    /// The user namespace lets groups be set.
    pub sets_groups: bool,
    /// Stay as a small init and run the program as a child.
    pub reaper: bool,
    /// Whose `startContainer` are run before the program.
    pub hooks: Option<&'a Hooks>,
    /// Where to wait once the parent has gone.
    pub gate: Option<&'a Gate>,
    /// Whoever made it has no rights over processes but their own: they must be able to come in while it waits.
    pub owned: bool,
}

/// What is found out before the gate, for what is behind it.
struct Prepared<'a> {
    program: CString,
    arguments: StringArray,
    variables: Vec<CString>,
    hooks: Option<Inside<'a>>,
    keep: Vec<BorrowedFd<'a>>,
    late_filter: Option<&'a Program>,
}

impl Process<'_> {
    /// Returns only if the parent is gone, or in a reaper, with the exit code.
    pub fn run(mut self) -> Result<i32> {
        let launch = self.launch;
        self.streams()?;
        // From here on nothing but the streams and the channel is open, so no path can lead to anything of the host.
        let keep: Vec<BorrowedFd<'_>> = [self.channel.as_fd()]
            .into_iter()
            .chain(self.preserved.iter().map(AsFd::as_fd))
            .chain(self.gate.iter().flat_map(|gate| gate.fds()))
            .collect();
        brig_sys::process::close_all_but(&keep)?;
        if self.gate.is_some() {
            // What is left to itself must be possible to end politely. Here, as a filter may forbid it later.
            brig_sys::signal::end_at(&POLITE)?;
        }
        let hooks = self.hooks.map(Inside::prepare).transpose()?.flatten();
        priorities(launch)?;
        if launch.own_limits {
            launch::apply_limits(0, &launch.limits, false)?;
        }
        // Before a filter, which may not know the calls that keep this inside of the root.
        let entered = enter_directory(&launch.cwd)?;
        if launch.no_new_privileges {
            brig_sys::process::set_no_new_privileges()?;
        } else if let Some(filter) = &launch.filter {
            self.load(filter)?;
        }
        credentials(launch, self.sets_groups)?;
        // Some file systems (FUSE, NFS) let only the user in. A filter may forbid the better call; where the plain one leads
        // is verified next.
        if !entered && !enter_directory(&launch.cwd)? {
            rustix::process::chdir(launch.cwd.as_str()).map_err(|errno| denied(errno, &launch.cwd))?;
        }
        verify_directory(&launch.cwd)?;
        let first = launch.args.first().ok_or_else(|| Error::invalid("process.args: there is no program to run"))?;
        let program = lookup::program(first, launch.variable("PATH"))?;
        let arguments = StringArray::new(launch.args.clone());
        let variables = environment(launch);
        let mut late_filter = launch.filter.as_ref().filter(|_| launch.no_new_privileges);
        if let Some(filter) = late_filter.take_if(|filter| filter.notifies) {
            // Its listener has to be handed over, which the gate leaves time for.
            self.load(filter)?;
        }
        if self.owned && self.gate.is_some() && (launch.no_new_privileges || launch.filter.is_none()) {
            // Nothing of the host is open by now but the gate. Where a filter is in force already it stays as it is.
            brig_sys::process::set_dumpable(true)?;
        }
        wire::report(self.channel, &Report::Ready)?;
        let prepared = Prepared { program, arguments, variables, hooks, keep, late_filter };
        let Some(gate) = self.gate else {
            let ordered = wire::wait_order(self.channel, Order::Go)?;
            return ordered.map_or(Ok(0), |()| self.go(prepared));
        };
        // Without this order a parent that died in between would leave a container that nobody knows of.
        if wire::wait_order(self.channel, Order::Leave)?.is_none()
            || wire::wait_order(&gate.orders, Order::Go)?.is_none()
        {
            return Ok(0);
        }
        // Nobody listens at the channel any more.
        Ok(finish(&gate.answers, self.go(prepared)))
    }

    /// Becomes the program.
    fn go(&self, prepared: Prepared<'_>) -> Result<i32> {
        let Prepared { program, arguments, variables, hooks, keep, late_filter } = prepared;
        hooks.map_or(Ok(()), |hooks| hooks.run(&variables, late_filter))?;
        let environment = StringArray::new(variables);
        let finish = || -> Error {
            let closed = brig_sys::process::close_all_but(&keep);
            let kept = || self.preserved.iter().try_for_each(|fd| brig_sys::process::keep_over_exec(fd.as_fd()));
            if let Err(error) = closed.and_then(|()| kept()) {
                return error.into();
            }
            if let Err(error) = late_filter.map_or(Ok(None), load) {
                return error;
            }
            execute(&program, &arguments, &environment)
        };
        if self.reaper {
            return reaper::run(self.channel, late_filter, finish);
        }
        Err(finish())
    }

    /// Loads the filter. Its listener, if it has one, stays open until everything but the streams is closed.
    fn load(&self, filter: &Program) -> Result<()> {
        match load(filter)? {
            Some(listener) => wire::report_listener(self.channel, listener.into_raw_fd()),
            None => Ok(()),
        }
    }

    fn streams(&mut self) -> Result<()> {
        match (self.terminal.take(), &self.stdio) {
            (Some(slave), _) => {
                brig_sys::pty::set_controlling(slave.as_fd()).step(|| "process.terminal".to_owned())?;
                for number in 0..3 {
                    brig_sys::process::duplicate_to(slave.as_fd(), number)?;
                }
            }
            (None, Stdio::Pipes { fds }) => {
                for (number, fd) in (0..).zip(fds) {
                    brig_sys::process::duplicate_to(*fd, number)?;
                }
            }
            (None, Stdio::Terminal { .. }) => return Err(Error::system("process.terminal: there is none")),
        }
        Ok(())
    }
}

fn execute(program: &CStr, arguments: &StringArray, environment: &StringArray) -> Error {
    lookup::exec_error(&brig_sys::process::execute(program, arguments, environment), program)
}

/// Loads a filter; returns its listener if it has one.
pub(crate) fn load(filter: &Program) -> Result<Option<OwnedFd>> {
    let instructions: Vec<Instruction> = filter
        .instructions
        .iter()
        .map(|instruction| Instruction {
            code: instruction.code,
            jt: instruction.jt,
            jf: instruction.jf,
            k: instruction.k,
        })
        .collect();
    brig_sys::seccomp::load(&instructions, filter.flags).step(|| "linux.seccomp".to_owned())
}

fn priorities(launch: &Launch) -> Result<()> {
    if let Some(scheduling) = launch.scheduling {
        brig_sys::process::set_scheduling(scheduling)
            .map_err(|error| match error.errno {
                // SCHED_DEADLINE is a promise about all CPUs of the machine.
                Errno::PERM if launch.confined => Error::invalid(format!(
                    "{error}: process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus)"
                )),
                _ => error.into(),
            })
            .step(|| "process.scheduler".to_owned())?;
    }
    if let Some((class, priority)) = launch.io_priority {
        brig_sys::process::set_io_priority(class, priority).step(|| "process.ioPriority".to_owned())?;
    }
    if let Some(domain) = launch.personality {
        brig_sys::process::set_personality(domain).step(|| "linux.personality".to_owned())?;
    }
    if let Some(memory) = &launch.memory {
        memory.apply()?;
    }
    rustix::process::umask(Mode::from_raw_mode(launch.umask.unwrap_or(0o022)));
    Ok(())
}

fn credentials(launch: &Launch, sets_groups: bool) -> Result<()> {
    let step = || "process.capabilities".to_owned();
    brig_sys::caps::limit_bounding(launch.caps.bounding).step(step)?;
    brig_sys::caps::keep_over_setuid(true)?;
    if !sets_groups && !launch.groups.is_empty() {
        return Err(Error::invalid(
            "process.user.additionalGids: cannot set any additional groups: the user namespace forbids it, as its groups were mapped without privileges",
        ));
    }
    let groups = Some(launch.groups.as_slice()).filter(|_| sets_groups);
    brig_sys::idmap::become_user(launch.uid, launch.gid, groups).step(|| "process.user".to_owned())?;
    brig_sys::caps::keep_over_setuid(false)?;
    brig_sys::caps::apply(&launch.caps).step(step)
}

/// Enters the working directory through the root, no link of procfs being followed (CVE-2024-21626). False if this process
/// may not.
fn enter_directory(cwd: &str) -> Result<bool> {
    let step = || format!("process.cwd: chdir to cwd ({cwd:?}) failed");
    let opened = brig_sys::beneath::Root::open(Path::new("/"))
        .and_then(|root| root.open_in(Path::new(cwd), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()));
    let directory = match opened {
        Ok(directory) => directory,
        Err(error) if matches!(error.errno, Errno::ACCESS | Errno::PERM | Errno::NOSYS) => return Ok(false),
        Err(error) if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
            return Err(denied(error.errno, cwd));
        }
        Err(error) => return Err(error).step(step),
    };
    match rustix::process::fchdir(&directory) {
        Err(Errno::ACCESS) => Ok(false),
        done => done.map(|()| true).map_err(|errno| brig_sys::Error::new("fchdir()", errno)).step(step),
    }
}

fn denied(errno: Errno, cwd: &str) -> Error {
    let why = match errno {
        Errno::NOENT => "no such file or directory",
        Errno::NOTDIR => "not a directory",
        Errno::LOOP => "it leads through a link of /proc or too many links",
        _ => "permission denied",
    };
    Error::invalid(format!("process.cwd: chdir to cwd ({cwd:?}) failed: {why}"))
}

/// The kernel says where we are: it must be inside.
fn verify_directory(cwd: &str) -> Result<()> {
    let inside = rustix::process::getcwd(Vec::new()).is_ok_and(|path| path.to_bytes().starts_with(b"/"));
    if inside { Ok(()) } else { Err(Error::invalid(format!("process.cwd: {cwd:?} is outside of the container"))) }
}

/// The environment, with `HOME` if it lacks one.
fn environment(launch: &Launch) -> Vec<CString> {
    let mut environment = launch.env.clone();
    if launch.variable("HOME").is_none_or(<[u8]>::is_empty) {
        environment.retain(|entry| !entry.as_bytes().starts_with(b"HOME="));
        let mut entry = b"HOME=".to_vec();
        entry.extend_from_slice(lookup::home(launch.uid).as_bytes());
        environment.extend(CString::new(entry));
    }
    environment
}
