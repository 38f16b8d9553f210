//! What the engine needs to start a shim, find it again and read what it left.
//!
//! Owns: names inside a shim's directory, the command line, connecting to long socket paths, reading `exit.json`. Must not:
//! wait for answers (the engine does, on its own event loop) or know how a shim works.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::protocol::Exit;

/// The socket's name inside a shim's directory.
pub const SOCKET: &str = "shim.sock";

/// The OCI spec's name inside a shim's directory.
pub const SPEC: &str = "config.json";

/// The shim's own configuration's name inside its directory ([`crate::protocol::Config`]).
pub const CONFIG: &str = "shim.json";

/// The name of the file, present only after a failure, with what a shim had to say last.
pub const FAILURE_LOG: &str = "shim.log";

/// The descriptor on which a shim expects its first client: a connected `AF_UNIX` stream socket, subscribed from the beginning.
pub const FIRST_CLIENT_FD: i32 = 3;

/// Largest file that is read whole, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// `argv` of a shim for the container in `dir`, the program's name first.
pub fn argv(dir: &Path) -> [OsString; 4] {
    ["brig-rt".into(), "shim".into(), "--dir".into(), dir.as_os_str().to_owned()]
}

/// A sealed copy of the program at `path`, to be run as `/proc/self/fd/N`: what no container can change.
///
/// Errors: the kernel's, naming the call and the file.
pub fn seal(path: &Path) -> io::Result<std::os::fd::OwnedFd> {
    brig_sys::memfd::seal_copy(path).map_err(|error| io::Error::other(error.to_string()))
}

/// Connects to the shim that serves `dir`. A path too long for a socket address is reached through a descriptor of `dir`.
///
/// Errors: `NotFound` and `ConnectionRefused` mean that no shim runs there.
pub fn connect(dir: &Path) -> io::Result<UnixStream> {
    with_socket_path(dir, |path| UnixStream::connect(path))
}

/// Calls `then` with a path of the socket in `dir` that is short enough for a socket address.
pub(crate) fn with_socket_path<T>(dir: &Path, then: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    with_short_path(dir, SOCKET, then)
}

/// Calls `then` with a path of `name` in `dir` that is short enough for a socket address.
pub(crate) fn with_short_path<T>(dir: &Path, name: &str, then: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    // sun_path holds 108 bytes with the terminating zero.
    const LONGEST: usize = 107;
    let path = dir.join(name);
    if path.as_os_str().as_bytes().len() <= LONGEST {
        return then(&path);
    }
    let handle = open_directory(dir)?;
    then(&PathBuf::from(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd())))
}

fn open_directory(dir: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::PATH;
    File::options().read(true).custom_flags(flags.bits() as i32).open(dir)
}

/// Reads an `exit.json`; `None` when there is none yet.
///
/// Errors: a file that cannot be read, or whose content is not one (`InvalidData`, naming the path).
pub fn read_exit(path: &Path) -> io::Result<Option<Exit>> {
    let content = match read_file(path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let exit = serde_json::from_slice(&content)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))?;
    Ok(Some(exit))
}

/// The end of what a failed shim wrote, at most 4 KiB; `None` when it wrote nothing.
pub fn read_failure(dir: &Path) -> Option<String> {
    const TAIL: usize = 4096;
    let content = read_file(&dir.join(FAILURE_LOG)).ok()?;
    let tail = &content[content.len().saturating_sub(TAIL)..];
    let text = String::from_utf8_lossy(tail).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Reads a whole file of at most [`MAX_FILE`] bytes.
pub(crate) fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_all(File::open(path)?, path)
}

/// The same, but only of a regular file: a FIFO or a device is refused at once.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is not a regular file"));
    }
    read_all(file, path)
}

fn read_all(file: File, path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        let text = format!("{}: larger than {MAX_FILE} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn long_socket_paths_are_reached() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(connect(&dir).unwrap_err().kind(), io::ErrorKind::NotFound);
        let _listener = with_socket_path(&dir, |path| UnixListener::bind(path)).unwrap();
        connect(&dir).unwrap();
    }

    #[test]
    fn exit_files() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("exit.json");
        assert_eq!(read_exit(&path).unwrap(), None);
        std::fs::write(&path, r#"{"exit_code":143,"signal":15,"started_at":"a","finished_at":"b"}"#).unwrap();
        let exit = read_exit(&path).unwrap().unwrap();
        assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (143, Some(15), false));
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_exit(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
