//! Starts shims. Owns the sealed copy of their program, so that no container can change it and an upgrade does not pull
//! the file from under a shim; must not know containers.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use brig_shim::client;
use tokio::process::Command;

use super::shim_link::ShimLink;
use crate::error::{Error, Result};

/// The shim's program, ready to be started.
pub struct Launcher {
    program: OwnedFd,
}

impl Launcher {
    /// Copies and seals the program; `configured`, or `brig-rt` beside the running program, or in `PATH`.
    pub fn open(configured: Option<&Path>) -> Result<Self> {
        let path = match configured {
            Some(path) => path.to_owned(),
            None => find()?,
        };
        let program = client::seal(&path)
            .map_err(|e| Error::system(format!("cannot read the runtime program {}: {e}", path.display())))?;
        Ok(Self { program })
    }

    fn command(&self) -> Command {
        // Resolved by the child before its descriptors close on exec.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.program.as_raw_fd()));
        command.arg0("brig-rt").current_dir("/").env_clear();
        command
    }

    /// Starts a shim for the container in `directory` and gives the connection on which it tells events.
    pub fn spawn(&self, directory: &Path) -> Result<ShimLink> {
        let failed = |what: &str, e: std::io::Error| Error::system(format!("start the container's shim: {what}: {e}"));
        let (ours, theirs) = UnixStream::pair().map_err(|e| failed("socketpair", e))?;
        let mut command = self.command();
        command
            .args(client::argv(directory).into_iter().skip(1))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Dropping the handle leaves the process alone; tokio reaps it when it ends.
        command.spawn().map(drop).map_err(|e| failed("spawn", e))?;
        ShimLink::new(ours)
    }

    /// Kills and removes whatever is left of a container whose shim was killed.
    pub async fn clean_up(&self, directory: &Path) {
        let mut command = self.command();
        command
            .arg("clean-up")
            .arg("--dir")
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        match command.output().await {
            Ok(output) if output.status.success() => {}
            Ok(output) => {
                tracing::warn!("clean up {}: {}", directory.display(), String::from_utf8_lossy(&output.stderr).trim())
            }
            Err(e) => tracing::warn!("clean up {}: {e}", directory.display()),
        }
    }
}

fn find() -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join("brig-rt")));
    let in_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .map(|dir| dir.join("brig-rt"));
    beside.into_iter().chain(in_path).find(|path| path.is_file()).ok_or_else(|| {
        Error::system("the program brig-rt was not found beside brig nor in PATH: install both files together")
    })
}
