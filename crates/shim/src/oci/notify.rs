//! sd_notify out of a container: its program tells a socket of ours that it is ready, and we tell the service manager.
//!
//! Owns: that socket, and what of it is passed on: readiness and nothing else. Must not: believe anything else that a
//! container says, for example which process is the main one.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use brig_oci::runtime::{Mount, Spec};
use brig_sys::fdpass::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::oci::{Fault, log};

/// Below a container's state directory.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where the container finds it.
const INSIDE: &str = "/run/notify";
/// How long the service manager may take to note that the main process is another now.
const BARRIER: Duration = Duration::from_secs(30);

/// The service manager's socket, if the caller has one.
pub(crate) fn wanted() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Makes the place for the socket and lets the container see it.
pub(crate) fn prepare(directory: &Path, spec: &mut Spec) -> Result<(), Fault> {
    let place = directory.join(DIRECTORY);
    std::fs::create_dir(&place).map_err(|error| Fault::io("create", &place, &error))?;
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec();
    spec.mounts.push(Mount { destination: INSIDE.into(), source: Some(place), options, ..Mount::default() });
    if let Some(process) = &mut spec.process {
        process.env.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
    }
    Ok(())
}

/// Our socket, and the service manager's.
#[derive(Debug)]
pub(crate) struct Notify {
    ours: UnixDatagram,
    manager: UnixDatagram,
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

impl Notify {
    /// Listens for the container whose state directory is `directory`, if it was [prepared](prepare).
    pub(crate) fn listen(directory: &Path, manager: &Path) -> Result<Option<Notify>, Fault> {
        let place = directory.join(DIRECTORY);
        if !place.exists() {
            return Ok(None);
        }
        let path = place.join(SOCKET);
        let failed = |what: &str, path: &Path, error: &std::io::Error| Fault::io(what, path, error);
        let ours = crate::client::with_short_path(&place, SOCKET, |path| UnixDatagram::bind(path))
            .map_err(|error| failed("bind", &path, &error))?;
        // Whoever the program runs as.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
            .map_err(|error| failed("chmod", &path, &error))?;
        let theirs = UnixDatagram::unbound().and_then(|socket| connect(&socket, manager).map(|()| socket));
        let manager = theirs.map_err(|error| failed("NOTIFY_SOCKET: connect", manager, &error))?;
        Ok(Some(Notify { ours, manager }))
    }

    /// Waits until the container is ready or its first process has ended, and passes on the former.
    pub(crate) fn wait(&self, pid: i32, process: BorrowedFd<'_>) -> Result<(), Fault> {
        loop {
            let mut fds = [PollFd::new(&self.ours, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
            if poll(&mut fds, None).is_err() {
                continue;
            }
            let (told, ended) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if (told && self.pass_on(pid)?) || ended {
                return Ok(());
            }
        }
    }

    /// Takes one message; if it says that the container is ready, the service manager hears so, and that `pid` is the main
    /// process. True once that is done.
    pub(crate) fn pass_on(&self, pid: i32) -> Result<bool, Fault> {
        let mut message = [0u8; 4096];
        let count = self.ours.recv(&mut message).map_err(|error| Fault::new(format!("notify socket: {error}")))?;
        let Some(ready) = message[..count].split(|&byte| byte == b'\n').find(|line| line.starts_with(b"READY=")) else {
            return Ok(false);
        };
        let send = |bytes: &[u8]| {
            self.manager.send(bytes).map(drop).map_err(|error| Fault::new(format!("NOTIFY_SOCKET: {error}")))
        };
        send(&[ready, b"\n"].concat())?;
        send(format!("MAINPID={pid}\n").as_bytes())?;
        self.barrier()?;
        Ok(true)
    }

    /// Waits until the service manager has read what was sent (`sd_notify_barrier`): we may be gone right after, and then
    /// nobody could tell any more whose messages these were.
    fn barrier(&self) -> Result<(), Fault> {
        let (read, write) = std::io::pipe().map_err(|error| Fault::new(format!("pipe: {error}")))?;
        let manager = self.manager.try_clone().map_err(|error| Fault::new(format!("dup(NOTIFY_SOCKET): {error}")))?;
        Channel::from_fd(manager.into()).send(b"BARRIER=1", &[write.as_fd()])?;
        drop(write);
        let limit = Timespec { tv_sec: i64::try_from(BARRIER.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 };
        if poll(&mut [PollFd::new(&read, PollFlags::IN)], Some(&limit)) == Ok(0) {
            log::warn("NOTIFY_SOCKET: the service manager knows no barriers; waited long enough");
        }
        Ok(())
    }
}

/// Connects to a path, or to a name that has none (`@name`).
fn connect(socket: &UnixDatagram, to: &Path) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    match to.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?),
        None => socket.connect(to),
    }
}
