//! The socket on which a shim can be found.
//!
//! Owns: making `shim.sock` and removing it. Must not: remove a successor's.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::client::{SOCKET, with_socket_path};

/// A socket file that this process made.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens in `dir`. What a dead predecessor left is replaced.
    ///
    /// Errors: the directory cannot be written.
    pub(crate) fn bind(dir: &Path) -> io::Result<(SocketFile, UnixListener)> {
        let path = dir.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = with_socket_path(dir, |path| UnixListener::bind(path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let identity = identity(&path)?;
        Ok((SocketFile { path, identity }, listener))
    }

    /// Removes the file if it is still this one.
    pub(crate) fn remove(&self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // It may be gone with its directory by now: that is as good.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_dead_and_spares_successors() {
        let dir = tempfile::tempdir().unwrap();
        let (first, _listener) = SocketFile::bind(dir.path()).unwrap();
        let (second, _other) = SocketFile::bind(dir.path()).unwrap();
        let mode = std::fs::metadata(dir.path().join(SOCKET)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        // The first one's inode number may have been given to the second; then there is nothing to tell apart.
        if first.identity != second.identity {
            first.remove();
            assert!(dir.path().join(SOCKET).exists());
        }
        second.remove();
        second.remove();
        assert!(!dir.path().join(SOCKET).exists());
    }
}
