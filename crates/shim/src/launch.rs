//! From a shim's directory to a container at its gate.
//!
//! Owns: reading `shim.json` and `config.json`, what is added to the spec, the order of creation and what is told meanwhile.
//! Must not: start the user's program (a client's `go` does).

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use brig_oci::runtime::{Process, Spec};
use brig_runtime::{About, Container, CreateRequest, ErrorKind, Stdio};
use serde::de::DeserializeOwned;

use crate::client::{CONFIG, SPEC, read_file, read_regular};
use crate::diagnose;
use crate::log::Log;
use crate::protocol::{Config, Event, Failure, FailureKind, Rootfs, Streams, encode};
use crate::server::{Init, Parts, Shim};
use crate::socket::SocketFile;
use crate::streams::Session;

/// Keeps the container described in `dir` until it has ended. `first` is the client that started this process, `children`
/// notifies of children.
///
/// Errors: it could not be created, or the loop failed; nothing of it is left then, and `first` was told.
pub(crate) fn keep(dir: &Path, mut first: UnixStream, children: OwnedFd) -> Result<(), Failure> {
    let told = first.try_clone();
    let prepared = prepare(dir, &mut first);
    let result = prepared.and_then(|prepared| {
        let shim = prepared.into_shim(first, children);
        shim.map_err(|error| Failure::new(FailureKind::System, format!("the first client's socket: {error}")))
    });
    match (result, told) {
        (Ok(mut shim), _) => {
            // The spec is gone, and what comes now needs a fraction of what creating took.
            brig_sys::inherited::trim_memory();
            shim.run().map_err(kernel_failure)?;
            shim.remove_container();
            Ok(())
        }
        (Err(error), Ok(mut told)) => {
            tell(&mut told, &Event::Failed { error: error.clone() });
            Err(error)
        }
        (Err(error), Err(_)) => Err(error),
    }
}

/// A container at its gate, and what a loop needs to know about it.
struct Prepared {
    container: Container,
    session: Session,
    log: Log,
    spec: PathBuf,
    socket: SocketFile,
    listener: std::os::unix::net::UnixListener,
    config: Config,
    oom_score_adj: Option<i32>,
}

fn prepare(dir: &Path, first: &mut UnixStream) -> Result<Prepared, Failure> {
    let config: Config = load(&dir.join(CONFIG))?;
    let mut spec: Spec = load(&dir.join(SPEC))?;
    complete(&mut spec, &config);
    let log = Log::open(&config.log).map_err(|error| Failure::new(FailureKind::System, error.to_string()))?;
    let (socket, listener) = SocketFile::bind(dir).map_err(|error| {
        Failure::new(FailureKind::System, format!("binding a socket in {}: {error}", dir.display()))
    })?;
    match create(dir, &config, &spec, first) {
        Ok((container, session)) => {
            let oom_score_adj = spec.process.and_then(|process| process.oom_score_adj);
            Ok(Prepared { container, session, log, spec: dir.join(SPEC), socket, listener, config, oom_score_adj })
        }
        Err(error) => {
            socket.remove();
            Err(error)
        }
    }
}

impl Prepared {
    fn into_shim(self, first_client: UnixStream, children: OwnedFd) -> std::io::Result<Shim> {
        let pidfd = self.container.pidfd().try_clone_to_owned()?;
        let init = Init {
            pid: self.container.pid(),
            pidfd,
            session: self.session,
            terminal: self.config.terminal,
            stdin_once: self.config.stdin_once,
        };
        Shim::new(Parts {
            init,
            container: Some(self.container),
            log: self.log,
            listener: self.listener,
            socket: Some(self.socket),
            first_client,
            children,
            exit_file: self.config.exit_file,
            exit_relaxed: self.config.exit_relaxed,
            oom_score_adj: self.oom_score_adj,
            spec: self.spec,
        })
    }
}

/// Creates the container, telling `first` as it comes into being.
fn create(dir: &Path, config: &Config, spec: &Spec, first: &mut UnixStream) -> Result<(Container, Session), Failure> {
    let [height, width] = config.console_size.unwrap_or_default();
    let wanted = Streams { stdin: config.stdin_open, stdout: true, stderr: true };
    let (stdio, session) = if config.terminal {
        (Stdio::Terminal { width, height }, None)
    } else {
        let pipes = Session::pipes(wanted).map_err(kernel_failure)?;
        (pipes.theirs, Some(pipes.ours))
    };
    let rootfs = rootfs(config.rootfs.clone());
    let request = CreateRequest {
        about: About { id: config.id.clone(), bundle: dir.to_owned() },
        idmap_binds: true,
        init: config.init,
        ..CreateRequest::new(&config.id, spec, rootfs, stdio, &config.cgroup_parent)
    };
    let mut container = brig_runtime::create(request).map_err(failure)?;
    tell(first, &Event::Created { pid: container.pid() });
    match at_gate(&mut container, session) {
        Ok(session) => {
            tell(first, &Event::Ready);
            Ok((container, session))
        }
        Err(error) => {
            if let Err(error) = container.delete() {
                diagnose::report(&format!("removing a container that could not be created: {error}"));
            }
            Err(error)
        }
    }
}

fn at_gate(container: &mut Container, session: Option<Session>) -> Result<Session, Failure> {
    let master = container.wait_ready().map_err(failure)?;
    match (session, master) {
        (Some(session), _) => Ok(session),
        (None, Some(master)) => Session::terminal(master).map_err(kernel_failure),
        (None, None) => Err(Failure::new(FailureKind::System, "the container has no terminal")),
    }
}

/// Adds what `shim.json` says to the spec.
fn complete(spec: &mut Spec, config: &Config) {
    let process = spec.process.get_or_insert_with(Process::default);
    process.terminal = config.terminal;
    // A container must not inherit the shim's own protection from the kernel's out-of-memory killer.
    process.oom_score_adj.get_or_insert(0);
}

fn rootfs(rootfs: Rootfs) -> brig_runtime::Rootfs {
    match rootfs {
        Rootfs::Overlay { lower, upper, work, volatile } => {
            brig_runtime::Rootfs::Overlay { lower, upper, work, volatile }
        }
        Rootfs::OverlayTmpfs { lower, size_bytes } => brig_runtime::Rootfs::OverlayTmpfs { lower, size_bytes },
        Rootfs::Directory(path) => brig_runtime::Rootfs::Directory(path),
    }
}

pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    parse(path, read_file(path))
}

/// The same of a file in a bundle, which whoever made the bundle may have replaced by something that never ends.
pub(crate) fn load_regular<T: DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    parse(path, read_regular(path))
}

fn parse<T: DeserializeOwned>(path: &Path, content: std::io::Result<Vec<u8>>) -> Result<T, Failure> {
    let invalid = |error: String| Failure::new(FailureKind::Invalid, format!("{}: {error}", path.display()));
    let content = content.map_err(|error| invalid(error.to_string()))?;
    serde_json::from_slice(&content).map_err(|error| invalid(error.to_string()))
}

/// Sends an event to the first client; that it has gone is noticed later, by the loop.
fn tell(client: &mut UnixStream, event: &Event) {
    client.write_all(&encode(event)).ok();
}

/// The runtime's error for clients.
pub(crate) fn failure(error: impl Into<brig_runtime::Error>) -> Failure {
    let error = error.into();
    let kind = match error.kind {
        ErrorKind::NotFound => FailureKind::NotFound,
        ErrorKind::NotExecutable => FailureKind::NotExecutable,
        ErrorKind::Invalid => FailureKind::Invalid,
        ErrorKind::Unsupported => FailureKind::Unsupported,
        ErrorKind::System => FailureKind::System,
    };
    Failure::new(kind, error.message)
}

/// A failed system call for clients.
pub(crate) fn kernel_failure(error: brig_sys::Error) -> Failure {
    Failure::new(FailureKind::System, error.to_string())
}
