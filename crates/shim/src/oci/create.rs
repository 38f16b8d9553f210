//! `create` and `run`.
//!
//! Owns: from a bundle to a container at its gate, the pid file, the console socket, and a foreground `run`. Must not: leave
//! anything of a container that could not be created.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use brig_oci::runtime::Spec;
use brig_runtime::{About, Container, CreateRequest, Rootfs, Stdio};
use brig_sys::fdpass::Channel;
use brig_sys::pidfd::Exit as Ended;

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::gate;
use crate::oci::record::{Record, Records, boot_id, replace, start_time};
use crate::timestamp::Timestamp;

/// Parent of cgroups whose spec names none, or a relative path.
const CGROUP_PARENT: &str = "/brig-rt";

/// What the command line asks for.
struct Order<'a> {
    id: &'a str,
    bundle: PathBuf,
    spec: Spec,
    console: Option<PathBuf>,
    pid_file: Option<PathBuf>,
}

impl<'a> Order<'a> {
    fn read(line: &'a CommandLine) -> Result<Order<'a>, Fault> {
        let bundle = line.path("bundle").unwrap_or_else(|| PathBuf::from("."));
        let bundle = bundle.canonicalize().map_err(|error| Fault::io("bundle", &bundle, &error))?;
        let spec: Spec =
            crate::launch::load_regular(&bundle.join("config.json")).map_err(|failure| Fault::new(failure.message))?;
        let console = line.path("console-socket");
        let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
        match (terminal, &console) {
            (true, None) => Err(Fault::new("cannot allocate tty if runc will detach without setting console socket")),
            (false, Some(_)) => Err(Fault::new("cannot use console socket if runc will not detach or allocate tty")),
            _ => Ok(Order { id: line.id()?, bundle, spec, console, pid_file: line.path("pid-file") }),
        }
    }

    fn about(&self) -> About {
        About { id: self.id.to_owned(), bundle: self.bundle.clone() }
    }

    fn stdio(&self) -> Result<Stdio, Fault> {
        let Some(process) = self.spec.process.as_ref().filter(|process| process.terminal) else { return inherited() };
        let size = process.console_size.unwrap_or_default();
        let narrow = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        Ok(Stdio::Terminal { width: narrow(size.width), height: narrow(size.height) })
    }

    /// Makes the container, remembers it and tells whoever wants to know.
    fn make(&self, records: &Records) -> Result<Container, Fault> {
        let root = self.spec.root.as_ref().ok_or_else(|| Fault::new("root: is missing; there is nothing to run in"))?;
        let rootfs = Rootfs::Directory(self.bundle.join(&root.path));
        // As the specification has it: of bind mounts only those are mapped that the bundle asks for.
        let request = CreateRequest {
            about: self.about(),
            ..CreateRequest::new(self.id, &self.spec, rootfs, self.stdio()?, CGROUP_PARENT)
        };
        let mut container = brig_runtime::create(request)?;
        let console = match self.console.as_deref().map(connect).transpose() {
            Ok(console) => console,
            Err(fault) => return Err(undo(container, fault)),
        };
        let master = container.wait_ready()?;
        match self.announce(&container, master, console, records) {
            Ok(()) => Ok(container),
            Err(fault) => Err(undo(container, fault)),
        }
    }

    fn announce(
        &self,
        container: &Container,
        master: Option<OwnedFd>,
        console: Option<Channel>,
        records: &Records,
    ) -> Result<(), Fault> {
        if let (Some(master), Some(console)) = (master, console) {
            console.send(b"/dev/ptmx", &[master.as_fd()])?;
        }
        let pid = container.pid();
        let record = Record {
            id: self.id.to_owned(),
            bundle: self.bundle.clone(),
            pid,
            start_time: start_time(pid)
                .ok_or_else(|| Fault::new("the container's first process ended before it was started"))?,
            boot_id: boot_id(),
            created: Timestamp::now().to_string(),
            cgroup: container.cgroup().place().clone(),
        };
        records.save(&record, &self.spec)?;
        self.pid_file.as_deref().map_or(Ok(()), |path| replace(path, pid.to_string().as_bytes()))
    }
}

/// Removes what was made before `fault` happened.
fn undo(container: Container, fault: Fault) -> Fault {
    match container.delete() {
        Ok(()) => fault,
        Err(error) => Fault::new(format!("{fault}; and removing the container failed: {error}")),
    }
}

/// The caller's own streams.
pub(crate) fn inherited() -> Result<Stdio, Fault> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| Fault::new(format!("dup of a standard stream: {error}")))
    };
    Ok(Stdio::Pipes {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
    })
}

/// Connects to a console socket.
pub(crate) fn connect(path: &Path) -> Result<Channel, Fault> {
    let socket = UnixStream::connect(path).map_err(|error| Fault::io("console socket", path, &error))?;
    Ok(Channel::from_fd(socket.into()))
}

/// `create`: leaves a container at its gate, held by a process of its own.
pub(crate) fn create(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    create_detached(&Order::read(line)?, records).map(|()| 0)
}

fn create_detached(order: &Order<'_>, records: &Records) -> Result<(), Fault> {
    let directory = records.claim(order.id)?;
    let created = spawn_holder(order, records, &directory);
    if created.is_err() {
        records.forget(order.id)?;
    }
    created
}

/// Makes the process that creates and holds the container, and hears from it whether it could.
fn spawn_holder(order: &Order<'_>, records: &Records, directory: &Path) -> Result<(), Fault> {
    let (ours, theirs) = brig_sys::fdpass::pair()?;
    let holder = brig_sys::clone::spawn(0, None, || {
        // The gate comes first: without it the container would look as if it ran already.
        let made = gate::listen(directory).and_then(|listener| Ok((listener, order.make(records)?)));
        let parted = made.and_then(|made| part(&theirs).map(|()| made));
        match parted {
            Ok((listener, container)) => {
                gate::hold(container, &listener, records, order.id);
                0
            }
            Err(fault) => {
                // A parent that is gone needs no reason.
                theirs.send(fault.to_string().as_bytes(), &[]).ok();
                1
            }
        }
    })?;
    drop(theirs);
    let said = ours.receive()?;
    match said.bytes.as_slice() {
        b"\0" => Ok(()),
        [] => Err(Fault::new("the process that creates the container died")),
        text => {
            // It has nothing left to do, so this is no wait worth a deadline.
            brig_sys::pidfd::reap(holder.pidfd.as_fd())?;
            Err(Fault::new(String::from_utf8_lossy(text)))
        }
    }
}

/// Lets go of everything of the caller: its terminal, its streams, its directory; then tells that the container is there.
fn part(parent: &Channel) -> Result<(), Fault> {
    let failed = |call: &str, errno| Fault::from(brig_sys::Error::new(call, errno));
    brig_sys::process::new_session()?;
    rustix::process::chdir("/").map_err(|errno| failed("chdir(\"/\")", errno))?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let null = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty())
        .map_err(|errno| failed("open(\"/dev/null\")", errno))?;
    for number in 0..3 {
        brig_sys::process::duplicate_to(null.as_fd(), number)?;
    }
    Ok(parent.send(b"\0", &[])?)
}

/// `run`: `create` and `start`; in the foreground also waits, deletes, and ends with the container's exit code.
pub(crate) fn run(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let order = Order::read(line)?;
    if line.has("detach") {
        create_detached(&order, records)?;
        return match gate::open(&records.directory(order.id)) {
            Ok(()) => Ok(0),
            Err(fault) => {
                records.forget(order.id)?;
                Err(fault)
            }
        };
    }
    records.claim(order.id)?;
    let made = order.make(records);
    // The hooks of one that could not be made have run.
    let deleted = made.is_ok() && !line.has("keep");
    let ran = made.and_then(foreground);
    if !line.has("keep") {
        records.forget(order.id)?;
    }
    if deleted {
        after_delete(&order.spec, &order.about());
    }
    ran
}

/// Runs the hooks for a container that is gone; that one of them fails changes nothing about that.
pub(crate) fn after_delete(spec: &Spec, about: &About) {
    let warnings = brig_runtime::hooks::poststop(spec, about).unwrap_or_else(|error| vec![error.message]);
    warnings.iter().for_each(|warning| eprintln!("brig-rt: warning: {warning}"));
}

fn foreground(mut container: Container) -> Result<u8, Fault> {
    brig_sys::signal::block_all()?;
    container.start()?;
    let ended = wait(&container)?;
    container.delete()?;
    Ok(u8::try_from(ended.shell_code() & 0xff).unwrap_or(u8::MAX))
}

/// Hands signals on to the container until it has ended.
fn wait(container: &Container) -> Result<Ended, Fault> {
    const SIGCHLD: i32 = 17;
    loop {
        match brig_sys::signal::wait()? {
            SIGCHLD => {
                while let Ok(Some((pid, ended))) = brig_sys::signal::reap_any() {
                    if pid == container.pid() {
                        return Ok(ended);
                    }
                }
            }
            // It may have ended in between; then SIGCHLD is next.
            signal => container.kill(signal).unwrap_or_default(),
        }
    }
}
