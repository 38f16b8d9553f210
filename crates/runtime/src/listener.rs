//! Seccomp agents: who answers for the system calls that a filter refers to user space.
//! Owns taking the listener out of the process that loaded the filter, and handing it over with the state document of the
//! runtime specification. Must not answer for any call itself.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::PathBuf;

use brig_oci::runtime::{ContainerProcessState, SECCOMP_FD, Seccomp, State, VERSION};

use crate::about::About;
use crate::error::{Error, Result, Step};

/// The agent that a profile names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agent {
    path: PathBuf,
    metadata: String,
}

/// The container of the process whose listener is handed over.
pub(crate) struct Whose<'a> {
    pub about: &'a About,
    pub annotations: &'a BTreeMap<String, String>,
    /// `creating` or `running`.
    pub status: &'a str,
    /// Its first process.
    pub init: i32,
}

impl Agent {
    /// The agent of a profile that needs one: its socket must be there before anything is made.
    pub fn of(profile: &Seccomp) -> Result<Agent> {
        let path = profile.listener_path.clone().unwrap_or_default();
        let agent = Agent { path, metadata: profile.listener_metadata.clone() };
        if !agent.is_abstract() {
            match std::fs::metadata(&agent.path) {
                Ok(found) if found.file_type().is_socket() => {}
                Ok(_) => return Err(agent.unreachable("it is no socket")),
                Err(error) => return Err(agent.unreachable(&error.to_string())),
            }
        }
        Ok(agent)
    }

    /// `@name` is a socket without a file.
    fn is_abstract(&self) -> bool {
        self.path.as_os_str().as_bytes().starts_with(b"@")
    }

    fn unreachable(&self, why: &str) -> Error {
        Error::invalid(format!(
            "linux.seccomp.listenerPath: failed to connect with seccomp agent at {}: {why}",
            self.path.display()
        ))
    }

    fn connect(&self) -> Result<UnixStream> {
        let stream = if self.is_abstract() {
            SocketAddr::from_abstract_name(&self.path.as_os_str().as_bytes()[1..])
                .and_then(|address| UnixStream::connect_addr(&address))
        } else {
            UnixStream::connect(&self.path)
        };
        stream.map_err(|error| self.unreachable(&error.to_string()))
    }

    /// Takes the listener `number` of a process that has just loaded its filter, and gives it to the agent.
    pub fn introduce(&self, process: (i32, BorrowedFd<'_>), number: i32, whose: &Whose<'_>) -> Result<()> {
        let (pid, pidfd) = process;
        let step = || "linux.seccomp.listenerPath".to_owned();
        let listener = brig_sys::pidfd::take_fd(pidfd, number).step(step)?;
        let document = ContainerProcessState {
            oci_version: VERSION.to_owned(),
            fds: vec![SECCOMP_FD.to_owned()],
            pid,
            metadata: self.metadata.clone(),
            state: State {
                oci_version: VERSION.to_owned(),
                id: whose.about.id.clone(),
                status: whose.status.to_owned(),
                pid: Some(whose.init),
                bundle: whose.about.bundle.clone(),
                annotations: whose.annotations.clone(),
            },
        };
        let document = serde_json::to_vec(&document)
            .map_err(|error| Error::system(format!("linux.seccomp.listenerPath: the state document: {error}")))?;
        let socket = self.connect()?;
        brig_sys::fdpass::send_over_stream(socket.as_fd(), &document, &[listener.as_fd()]).step(step)
    }
}
