//! Publishing how a container ended.
//!
//! Owns: the one way in which `exit.json` comes into being: written beside, synced, renamed, its directory synced. Must not:
//! leave half a file under the final name, ever.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::protocol::{Exit, encode};

/// Publishes `exit` as `path`. With `durable` it survives a power cut once this returns; without, it still is whole or absent
/// for every reader.
///
/// Errors: the file cannot be written; nothing is left beside it.
pub(crate) fn publish(path: &Path, exit: &Exit, durable: bool) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let done = write(&beside, &encode(exit), durable).and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = done {
        // The first error is the one worth telling.
        std::fs::remove_file(&beside).ok();
        return Err(error);
    }
    match path.parent() {
        Some(directory) if durable => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

fn write(path: &Path, content: &[u8], durable: bool) -> io::Result<()> {
    // Left by a shim that was killed at this very point.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    if durable { file.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        std::fs::write(dir.path().join("exit.json.new"), "left by a kill").unwrap();
        for exit_code in [1, 2] {
            let exit = Exit { exit_code, ..Exit::default() };
            publish(&path, &exit, exit_code == 1).unwrap();
            assert_eq!(crate::client::read_exit(&path).unwrap(), Some(exit));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(publish(&dir.path().join("none/exit.json"), &Exit::default(), true).is_err());
    }
}
