//! Starts the daemon when the default socket does not answer: one lock, so that ten at once start one.
//! Owns the lock, the log file and the waiting; the daemon's own start is behind its verb.

use crate::failure::{Failure, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::FdFlags;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The verb that the started copy of this program answers to; see [`exec_daemon`].
pub const VERB: &str = "__start-daemon";

/// Seconds without work after which a daemon started here leaves again.
const IDLE_EXIT_SECONDS: &str = "300";

/// Connects to the socket, starting a daemon if nobody listens.
///
/// # Errors
/// Not root, no start, or no answer after it; with the last lines of the daemon's log.
pub fn connect(socket: &Path) -> Result<UnixStream> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(format!(
            "no daemon answers at {}, and only root can start one\nRun it as root (sudo {}), or name a daemon with --host",
            socket.display(),
            crate::program()
        )));
    }
    let lock_path = socket.with_extension("lock");
    let directory = socket.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(|e| Failure::new(format!("mkdir {}: {e}", directory.display())))?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|e| Failure::new(format!("open {}: {e}", lock_path.display())))?;
    flock(&lock, FlockOperation::LockExclusive)
        .map_err(|e| Failure::new(format!("flock({}, LOCK_EX): {e}", lock_path.display())))?;
    // Another command may have started it while this one waited for the lock.
    if let Ok(stream) = UnixStream::connect(socket) {
        return Ok(stream);
    }
    let log = log_path();
    start(socket, &log)?;
    UnixStream::connect(socket).map_err(|e| {
        Failure::new(format!("the daemon started but does not answer at {}: {e}{}", socket.display(), tail(&log)))
    })
}

fn daemon_args() -> Vec<OsString> {
    let extra = std::env::var("BRIG_DAEMON_ARGS").unwrap_or_default();
    extra.split_whitespace().map(OsString::from).collect()
}

/// `daemon.log` in the daemon's exec root.
fn log_path() -> PathBuf {
    let extra = daemon_args();
    let mut root = PathBuf::from("/run/brig");
    for (at, arg) in extra.iter().enumerate() {
        let text = arg.to_string_lossy();
        if let Some(value) = text.strip_prefix("--exec-root=") {
            root = PathBuf::from(value);
        } else if text == "--exec-root" {
            root = extra.get(at + 1).map_or(root, PathBuf::from);
        }
    }
    root.join("daemon.log")
}

fn start(socket: &Path, log: &Path) -> Result<()> {
    let directory = log.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory).map_err(|e| Failure::new(format!("mkdir {}: {e}", directory.display())))?;
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(log)
        .map_err(|e| Failure::new(format!("open {}: {e}", log.display())))?;
    let (ready, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Failure::new(format!("pipe2(O_CLOEXEC): {e}")))?;
    rustix::io::fcntl_setfd(&told, FdFlags::empty()).map_err(|e| Failure::new(format!("fcntl(F_SETFD): {e}")))?;
    let output = file.try_clone()?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(VERB)
        .args(["--idle-exit", IDLE_EXIT_SECONDS, "--ready-fd", &told.as_raw_fd().to_string()])
        .arg("-H")
        .arg(format!("unix://{}", socket.display()))
        .args(daemon_args())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(file);
    let mut child = command.spawn().map_err(|e| Failure::new(format!("start /proc/self/exe daemon: {e}")))?;
    drop(told);
    let mut byte = [0];
    if matches!(File::from(ready).read(&mut byte), Ok(1)) {
        return Ok(());
    }
    // The pipe closed without a word: the daemon has ended or is about to.
    let status = child.wait()?;
    Err(Failure::new(format!("the daemon did not start ({status}); its log is {}{}", log.display(), tail(log))))
}

/// The last lines of the log, each indented, led by a line break.
fn tail(log: &Path) -> String {
    const BYTES: u64 = 2048;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].iter().map(|line| format!("\n  {line}")).collect()
}

/// The started copy: leaves the terminal's session, then becomes `daemon` with the same arguments.
///
/// # Errors
/// Only when it cannot.
pub fn exec_daemon(args: &[OsString]) -> Failure {
    use std::os::unix::process::CommandExt;
    if let Err(error) = rustix::process::setsid() {
        return Failure::new(format!("setsid(): {error}"));
    }
    let error = Command::new("/proc/self/exe").arg0("brig").arg("daemon").args(args).exec();
    Failure::new(format!("execve(/proc/self/exe, daemon): {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_is_the_last_five_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "1\n2\n3\n4\n5\n6\n").unwrap();
        assert_eq!(tail(file.path()), "\n  2\n  3\n  4\n  5\n  6");
        assert_eq!(tail(Path::new("/nope")), "");
    }
}
