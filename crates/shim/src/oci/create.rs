//! `create` and `run`.
//!
//! Owns: from a bundle to a container at its gate, the pid file, the sockets that are sent descriptors. Must not: leave
//! anything of a container that could not be created.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use brig_oci::runtime::{Mount, Process, Spec};
use brig_runtime::cgroup::Driver;
use brig_runtime::gate::Gate;
use brig_runtime::{About, Container, CreateRequest, ErrorKind, Note, Rootfs, Stdio, Unfinished};
use brig_sys::fdpass::Channel;

use crate::oci::arguments::CommandLine;
use crate::oci::foreground::Foreground;
use crate::oci::notify::{self, Notify};
use crate::oci::record::{Record, Records, boot_id, replace, start_time};
use crate::oci::relay::{Host, Relay};
use crate::oci::{Fault, bundle_process, help, is_rootless, log};
use crate::timestamp::Timestamp;

/// Parent of cgroups whose spec names none, or a relative path.
const CGROUP_PARENT: &str = "/brig-rt";

/// What the command line asks for.
pub(crate) struct Order<'a> {
    pub(crate) line: &'a CommandLine,
    pub(crate) id: &'a str,
    bundle: PathBuf,
    pub(crate) spec: Spec,
    pub(crate) console: Option<PathBuf>,
    pidfd_socket: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    preserved: Vec<OwnedFd>,
    manager: Option<PathBuf>,
}

impl<'a> Order<'a> {
    /// Reads the bundle. From here on its directory is the current one: paths in it may be relative.
    pub(crate) fn read(line: &'a CommandLine, detached: bool) -> Result<Order<'a>, Fault> {
        // Before anything else could be opened at their numbers.
        let (preserved, listening) = preserved(line, true)?;
        let pid_file = pid_file(line)?;
        let id = line.id()?;
        let config = line.path("config").map(|path| absolute_path("config", path)).transpose()?;
        let bundle = line.path("bundle").unwrap_or_else(|| PathBuf::from("."));
        let bundle = bundle.canonicalize().map_err(|error| Fault::io("bundle", &bundle, &error))?;
        rustix::process::chdir(&bundle)
            .map_err(|errno| Fault::from(brig_sys::Error::new(format!("chdir({bundle:?})"), errno)))?;
        let mut spec = load(&config.unwrap_or_else(|| bundle.join("config.json")))?;
        let process = spec.process.as_mut().ok_or_else(|| Fault::new("process property must not be empty"))?;
        bundle_process::tolerate(process).iter().for_each(|warning| log::warn(warning));
        let terminal = process.terminal;
        if listening > 0 {
            process.env.extend([format!("LISTEN_FDS={listening}"), "LISTEN_PID=1".to_owned()]);
        }
        for mount in &mut spec.mounts {
            absolute(mount, &bundle);
        }
        let console = line.path("console-socket");
        check_terminal(terminal, detached, console.is_some())?;
        Ok(Order {
            line,
            id,
            bundle,
            spec,
            console,
            pidfd_socket: line.path("pidfd-socket"),
            pid_file,
            preserved,
            manager: notify::wanted(),
        })
    }

    pub(crate) fn about(&self) -> About {
        About { id: self.id.to_owned(), bundle: self.bundle.clone() }
    }

    pub(crate) fn terminal(&self) -> bool {
        self.spec.process.as_ref().is_some_and(|process| process.terminal)
    }

    fn stdio(&self) -> Result<Stdio, Fault> {
        let process = self.spec.process.as_ref().filter(|process| process.terminal);
        process.map_or_else(inherited, |process| Ok(terminal(process)))
    }

    /// Makes the spec ready for the service manager's socket, if there is one.
    pub(crate) fn prepare(&mut self, directory: &Path) -> Result<(), Fault> {
        if self.manager.is_some() {
            notify::prepare(directory, &mut self.spec)?;
        }
        Ok(())
    }

    /// What the runtime is asked for.
    pub(crate) fn request<'b>(
        &'b self,
        preserved: Vec<OwnedFd>,
        gate: Option<Gate>,
        note: Note<'b>,
    ) -> Result<CreateRequest<'b>, Fault> {
        let root = self.spec.root.as_ref().ok_or_else(|| Fault::new("root: is missing; there is nothing to run in"))?;
        let rootfs = Rootfs::Directory(self.bundle.join(&root.path));
        let driver = if self.line.systemd_cgroup()? { Driver::Systemd } else { Driver::Cgroupfs };
        let rootless = self.line.rootless()?.unwrap_or_else(is_rootless);
        // As the specification has it: of bind mounts only those are mapped that the bundle asks for.
        Ok(CreateRequest {
            about: self.about(),
            cgroup_driver: driver,
            rootless_cgroup: rootless,
            strict_limits: true,
            session_keyring: !self.line.has("no-new-keyring"),
            preserved,
            no_pivot: self.line.has("no-pivot"),
            gate,
            note: Some(note),
            ..CreateRequest::new(self.id, &self.spec, rootfs, self.stdio()?, CGROUP_PARENT)
        })
    }

    /// Makes the container, remembers it and tells whoever wants to know. The terminal's master comes back unless it has
    /// been sent away.
    fn make(
        &mut self,
        records: &Records,
        directory: &Path,
        gate: Option<Gate>,
    ) -> Result<(Container, Option<OwnedFd>), Fault> {
        self.prepare(directory)?;
        let preserved = std::mem::take(&mut self.preserved);
        let keep = keep_note(self.id, records);
        let request = self.request(preserved, gate, Note(&keep))?;
        self.tell_plan();
        let mut container = brig_runtime::create(request).map_err(|error| self.failed(&error))?;
        log::debug(|| format!("nsexec container setup: the namespaces are made; init is process {}", container.pid()));
        let console = match self.console.as_deref().map(connect).transpose() {
            Ok(console) => console,
            Err(fault) => return Err(undo(container, fault)),
        };
        let master = container.wait_ready().map_err(|error| self.failed(&error))?;
        log::debug(|| {
            format!("child process in init(): process {} has its root and stands at its gate", container.pid())
        });
        match self.announce(&container, master, console, records) {
            Ok(master) => Ok((container, master)),
            Err(fault) => Err(undo(container, fault)),
        }
    }

    /// In front of what went wrong stands what callers of runc look for. What is about the program says so itself.
    fn failed(&self, error: &brig_runtime::Error) -> Fault {
        if matches!(error.kind, ErrorKind::NotFound | ErrorKind::NotExecutable) {
            return Fault::new(error.to_string());
        }
        let (name, verb) = (help::name(), &self.line.verb);
        Fault::new(format!(
            "{name} {verb} failed: unable to start container process: error during container init: {error}"
        ))
    }

    /// Tells what the runtime is about to do differently from runc, under the lines that people look for.
    fn tell_plan(&self) {
        log::debug(|| {
            "this program runs from a read-only view of its file or a sealed copy, and init is its clone; instead of \
             runc exeseal: using /proc/self/exe clone, runc exeseal: using overlayfs for sealed /proc/self/exe"
                .to_owned()
        });
        if let Some(profile) = self.spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref()) {
            // Compiled once more, but only for those who look.
            let flags = || brig_runtime::seccomp::compile(profile).map(|program| program.flags).unwrap_or_default();
            log::debug(|| format!("seccomp filter flags: {}", flags()));
        }
    }

    /// Remembers the container; the master goes to the console socket, if there is one.
    fn announce(
        &self,
        container: &Container,
        master: Option<OwnedFd>,
        console: Option<Channel>,
        records: &Records,
    ) -> Result<Option<OwnedFd>, Fault> {
        container.warnings().iter().for_each(|warning| log::warn(warning));
        let mut master = master;
        if let Some(console) = console
            && let Some(master) = master.take()
        {
            console.send(b"/dev/ptmx", &[master.as_fd()])?;
        }
        send_pidfd(self.pidfd_socket.as_deref(), container.pidfd())?;
        let started = start_time(container.pid())
            .ok_or_else(|| Fault::new("the container's first process ended before it was started"))?;
        self.remember(container, started, records).map(|()| master)
    }

    /// Writes the record.
    pub(crate) fn remember(&self, container: &Container, start_time: u64, records: &Records) -> Result<(), Fault> {
        let record = Record {
            id: self.id.to_owned(),
            bundle: self.bundle.clone(),
            pid: container.pid(),
            start_time,
            boot_id: boot_id(),
            created: Timestamp::now().to_string(),
            cgroup: container.cgroup().place().clone(),
            streams: if self.terminal() { Vec::new() } else { brig_runtime::checkpoint::given_streams()? },
            session_keyring: !self.line.has("no-new-keyring"),
        };
        records.save(&record, &self.spec)
    }

    pub(crate) fn write_pid(&self, pid: i32) -> Result<(), Fault> {
        self.pid_file.as_deref().map_or(Ok(()), |path| replace(path, pid.to_string().as_bytes()))
    }

    /// Waits until the program says that it is ready, if anybody wants to know.
    fn wait_until_ready(&self, container: &Container, notify: Option<&Notify>) -> Result<(), Fault> {
        notify.map_or(Ok(()), |notify| notify.wait(container.pid(), container.pidfd()))
    }

    fn listen(&self, directory: &Path) -> Result<Option<Notify>, Fault> {
        self.manager.as_deref().map_or(Ok(None), |manager| Notify::listen(directory, manager))
    }
}

/// Keeps notes of a container's cgroup beside where its record will be.
pub(crate) fn keep_note(id: &str, records: &Records) -> impl Fn(&Unfinished) -> Result<(), brig_runtime::Error> {
    |unfinished| records.note(id, unfinished).map_err(|fault| brig_runtime::Error::system(fault.to_string()))
}

/// Paths of bind mounts are relative to the bundle.
fn absolute(mount: &mut Mount, bundle: &Path) {
    let binds = mount.type_ == "bind" || mount.options.iter().any(|option| matches!(option.as_str(), "bind" | "rbind"));
    if let Some(source) = mount.source.as_mut().filter(|source| binds && source.is_relative()) {
        *source = bundle.join(&source);
    }
}

/// Where the pid goes, absolute.
pub(crate) fn pid_file(line: &CommandLine) -> Result<Option<PathBuf>, Fault> {
    line.path("pid-file").map(|path| absolute_path("pid file", path)).transpose()
}

/// A path that the caller's working directory is part of, for when that is no longer the current one.
fn absolute_path(what: &str, path: PathBuf) -> Result<PathBuf, Fault> {
    std::path::absolute(&path).map_err(|error| Fault::io(what, &path, &error))
}

/// The bundle's specification.
fn load(path: &Path) -> Result<Spec, Fault> {
    if !path.exists() {
        return Err(Fault::new(format!("JSON specification file {} not found", path.display())));
    }
    crate::launch::load_regular(path).map_err(|failure| Fault::new(failure.message))
}

/// Descriptors that the program keeps: those of socket activation, which must all be there, then as many numbers as the
/// caller counts, of which those that are open stay where they are. How many are the former comes with them.
pub(crate) fn preserved(line: &CommandLine, activation: bool) -> Result<(Vec<OwnedFd>, u32), Fault> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u32>().ok();
    // Meant for another process, for example the shell that called us: then they are not ours to pass on.
    let ours = || number("LISTEN_PID").is_some_and(|pid| pid == std::process::id());
    let listening = number("LISTEN_FDS").filter(|_| activation && ours()).unwrap_or_default();
    let asked: u32 = line.number("preserve-fds")?.unwrap_or_default();
    let mut fds = brig_sys::inherited::take_all(3, listening)
        .map_err(|error| Fault::new(format!("unable to stat the {listening} descriptors of $LISTEN_FDS: {error}")))?;
    if asked > 0 {
        let first = i32::try_from(fds.len()).map_or(i32::MAX, |count| count.saturating_add(3));
        fds.extend(brig_sys::inherited::take_open(first, asked)?);
    }
    Ok((fds, listening))
}

/// Whether the streams can be had as they are asked for.
pub(crate) fn check_terminal(terminal: bool, detached: bool, socket: bool) -> Result<(), Fault> {
    match (terminal, detached, socket) {
        (true, true, false) => {
            Err(Fault::new("cannot allocate tty if runc will detach without setting console socket"))
        }
        (false, _, true) | (_, false, true) => {
            Err(Fault::new("cannot use console socket if runc will not detach or allocate tty"))
        }
        _ => Ok(()),
    }
}

/// Removes what was made before `fault` happened.
pub(crate) fn undo(container: Container, fault: Fault) -> Fault {
    match container.delete() {
        Ok(()) => fault,
        Err(error) => Fault::new(format!("{fault}; and removing the container failed: {error}")),
    }
}

/// A terminal of the size that the process is described with.
pub(crate) fn terminal(process: &Process) -> Stdio {
    let size = process.console_size.unwrap_or_default();
    let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    Stdio::Terminal { width: narrow(size.width), height: narrow(size.height) }
}

/// The caller's own streams.
pub(crate) fn inherited() -> Result<Stdio, Fault> {
    let copy = |fd: BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| Fault::new(format!("dup of a standard stream: {error}")))
    };
    Ok(Stdio::Pipes {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
    })
}

/// Connects to a console socket, or to one for pidfds.
pub(crate) fn connect(path: &Path) -> Result<Channel, Fault> {
    let socket = UnixStream::connect(path).map_err(|error| Fault::io("connect to socket", path, &error))?;
    Ok(Channel::from_fd(socket.into()))
}

/// Gives a process to whoever listens at `--pidfd-socket`.
pub(crate) fn send_pidfd(socket: Option<&Path>, pidfd: BorrowedFd<'_>) -> Result<(), Fault> {
    socket.map_or(Ok(()), |socket| Ok(connect(socket)?.send(b"pidfd", &[pidfd])?))
}

/// `create`: leaves a container at its gate, where its first process waits alone.
pub(crate) fn create(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let mut order = Order::read(line, true)?;
    let directory = records.claim(order.id)?;
    let created = create_claimed(&mut order, records, &directory);
    if created.is_err() {
        records.forget(order.id)?;
    }
    created.map(|()| 0)
}

fn create_claimed(order: &mut Order<'_>, records: &Records, directory: &Path) -> Result<(), Fault> {
    // Whoever wants to delete it meanwhile waits until it is whole.
    let _lock = records.lock(order.id)?;
    let (container, _) = order.make(records, directory, Some(Gate::make(directory)?))?;
    match order.write_pid(container.pid()) {
        Ok(()) => {}
        Err(fault) => return Err(undo(container, fault)),
    }
    log::debug(|| "init: closing the pipe to signal completion: it waits alone".to_owned());
    Ok(container.leave()?)
}

/// `run`: `create` and `start`; in the foreground also waits, deletes, and ends with the container's exit code.
pub(crate) fn run(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let detached = line.has("detach");
    let mut order = Order::read(line, detached)?;
    let directory = records.claim(order.id)?;
    let ran = if detached {
        run_detached(&mut order, records, &directory).map_err(|fault| (fault, false))
    } else {
        run_attached(&mut order, records, &directory)
    };
    match ran {
        Ok(code) if detached || line.has("keep") => Ok(code),
        Ok(code) => {
            records.forget(order.id)?;
            after_delete(&order.spec, &order.about());
            Ok(code)
        }
        Err((fault, made)) => {
            records.forget(order.id)?;
            // The hooks of one that could not be made have run.
            if made {
                after_delete(&order.spec, &order.about());
            }
            Err(fault)
        }
    }
}

fn run_detached(order: &mut Order<'_>, records: &Records, directory: &Path) -> Result<u8, Fault> {
    let _lock = records.lock(order.id)?;
    let (mut container, _) = order.make(records, directory, None)?;
    let notify = match order.listen(directory) {
        Ok(notify) => notify,
        Err(fault) => return Err(undo(container, fault)),
    };
    container.start()?;
    log::debug(|| "init: closing the pipe to signal completion: the program runs".to_owned());
    if let Err(fault) = order.write_pid(container.pid()) {
        return Err(undo(container, fault));
    }
    order.wait_until_ready(&container, notify.as_ref())?;
    Ok(0)
}

/// The fault comes with whether there was a container.
fn run_attached(order: &mut Order<'_>, records: &Records, directory: &Path) -> Result<u8, (Fault, bool)> {
    let before = |fault| (fault, false);
    let host = if order.terminal() { Some(Host::find().map_err(before)?) } else { None };
    let foreground = Foreground::prepare(!order.line.has("no-subreaper")).map_err(before)?;
    let (container, master) = order.make(records, directory, None).map_err(before)?;
    attend(order, directory, foreground, container, host.zip(master)).map_err(|fault| (fault, true))
}

fn attend(
    order: &Order<'_>,
    directory: &Path,
    foreground: Foreground,
    mut container: Container,
    terminals: Option<(Host, OwnedFd)>,
) -> Result<u8, Fault> {
    let prepared = order.listen(directory).and_then(|notify| {
        let relay = terminals.map(|(host, master)| Relay::new(host, master)).transpose()?;
        Ok((notify, relay))
    });
    let (notify, relay) = match prepared {
        Ok(prepared) => prepared,
        Err(fault) => return Err(undo(container, fault)),
    };
    // What the program would have said itself if it could run.
    container.start().map_err(Fault::of_program)?;
    log::debug(|| "init: closing the pipe to signal completion: the program runs".to_owned());
    if let Err(fault) = order.write_pid(container.pid()) {
        return Err(undo(container, fault));
    }
    let waited = foreground.wait(container.pid(), container.pidfd(), relay, notify);
    match waited {
        Ok(code) if order.line.has("keep") => Ok(code),
        Ok(code) => container.delete().map(|()| code).map_err(Fault::from),
        Err(fault) => Err(undo(container, fault)),
    }
}

/// Runs the hooks for a container that is gone; that one of them fails changes nothing about that.
pub(crate) fn after_delete(spec: &Spec, about: &About) {
    brig_runtime::release(spec, about);
    let warnings = brig_runtime::hooks::poststop(spec, about).unwrap_or_else(|error| vec![error.message]);
    warnings.iter().for_each(|warning| log::warn(warning));
}
