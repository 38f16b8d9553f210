//! The first three descriptors of a container, by the names that CRIU has for them: `descriptors.json` beside the images.
//! Owns that file. Must not take a name from it that means anything but a stream.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::SeekFrom;

use super::{mountinfo, verify};
use crate::error::{Error, Result};

/// As runc calls it.
const FILE: &str = "descriptors.json";

/// Longer is no list of three names.
const MAX_BYTES: u64 = 4096;

/// What the streams of `pid` are. Pipes by their own name; what was opened outside of the container as an external file; the
/// rest (its terminal, files of its own) as it is, which CRIU opens again itself.
pub(super) fn of_process(pid: i32, mounts: &[mountinfo::Entry]) -> Result<Vec<String>> {
    (0..3).map(|number| name(pid, number, mounts)).collect()
}

/// What the streams of a container are that this process gives its own to, for [`super::Options::streams`].
///
/// # Errors
/// /proc cannot be read.
pub fn given() -> Result<Vec<String>> {
    of_process(std::process::id().cast_signed(), &[])
}

/// Of these names those that some process from `init` on has open under any number, at their places; the others are empty. For a
/// container that stands still: a program that redirects a stream for a moment has it somewhere else meanwhile.
pub(super) fn in_use(names: &[String], init: i32, mounts: &[mountinfo::Entry]) -> Result<Vec<String>> {
    let mut open = std::collections::BTreeSet::new();
    for pid in verify::tree(init)? {
        let path = format!("/proc/{pid}/fd");
        let entries = std::fs::read_dir(&path).map_err(|error| Error::system(format!("read {path}: {error}")))?;
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        for number in numbers {
            open.insert(name(pid, number, mounts)?);
        }
    }
    Ok(names.iter().map(|name| open.get(name).cloned().unwrap_or_default()).collect())
}

fn name(pid: i32, number: i32, mounts: &[mountinfo::Entry]) -> Result<String> {
    let path = format!("/proc/{pid}/fd/{number}");
    let Ok(link) = std::fs::read_link(&path) else { return Ok(String::new()) };
    let link = link.to_string_lossy().into_owned();
    if !link.starts_with('/') {
        return Ok(link);
    }
    let info = format!("/proc/{pid}/fdinfo/{number}");
    let content = std::fs::read_to_string(&info).map_err(|error| Error::system(format!("read {info}: {error}")))?;
    let id = content.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
    let Some(id) = id.filter(|id| !mounts.iter().any(|mount| mount.id == *id)) else { return Ok(link) };
    let stat = rustix::fs::stat(&path).map_err(|errno| brig_sys::Error::new(format!("stat({path:?})"), errno))?;
    // A terminal of the caller's is a matter of `--shell-job`.
    let character = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::CharacterDevice;
    if character && rustix::fs::major(stat.st_rdev) != MEMORY {
        return Ok(link);
    }
    Ok(format!("file[{id:x}:{:x}]", stat.st_ino))
}

/// The major number of `/dev/null` and its kin.
const MEMORY: u32 = 1;

/// Whether CRIU must be told that this one is not the container's.
pub(super) fn is_external_file(name: &str) -> bool {
    name.starts_with("file[")
}

/// Writes the names.
pub(super) fn write(directory: &Path, names: &[String]) -> Result<()> {
    let path = directory.join(FILE);
    let failed = |error: std::io::Error| Error::system(format!("write {}: {error}", path.display()));
    let content = serde_json::to_vec(names).map_err(|error| failed(error.into()))?;
    std::fs::write(&path, content).map_err(failed)
}

/// Reads the names that a restore replaces by the new streams: `None` for a stream that CRIU opens itself.
///
/// # Errors
/// The file is none of ours: more than three names, or one that is neither a stream nor a path.
pub(super) fn read(directory: &Path) -> Result<Vec<Option<String>>> {
    let path = directory.join(FILE);
    let failed = |why: String| Error::invalid(format!("{}: {why}", path.display()));
    let size = std::fs::symlink_metadata(&path).map_err(|error| failed(error.to_string()))?;
    if !size.is_file() || size.len() > MAX_BYTES {
        return Err(failed("is no list of three streams".to_owned()));
    }
    let content = std::fs::read(&path).map_err(|error| failed(error.to_string()))?;
    let names: Vec<String> = serde_json::from_slice(&content).map_err(|error| failed(error.to_string()))?;
    if names.len() > 3 {
        return Err(failed(format!("names {} streams; a process has three", names.len())));
    }
    names
        .into_iter()
        .map(|name| match kind(&name) {
            Some(true) => Ok(Some(name)),
            Some(false) => Ok(None),
            None => Err(failed(format!("{name:?} is not the name of a stream"))),
        })
        .collect()
}

/// Refuses a stream that CRIU could not set to the place in the file that it was at.
pub(super) fn check(names: &[Option<String>], streams: [BorrowedFd<'_>; 3]) -> Result<()> {
    for ((name, stream), word) in names.iter().zip(streams).zip(["stdin", "stdout", "stderr"]) {
        let was_file = name.as_deref().is_some_and(is_external_file);
        if was_file && rustix::fs::seek(stream, SeekFrom::Current(0)) == Err(rustix::io::Errno::SPIPE) {
            return Err(Error::unsupported(format!(
                "{word} was a file when the container was saved; CRIU cannot put a pipe, a socket or a terminal in its place: restore with a file (or /dev/null) as {word}"
            )));
        }
    }
    Ok(())
}

/// Whether a name is one to replace; `None` if it is none at all.
fn kind(name: &str) -> Option<bool> {
    let inside = |kind: &str| name.strip_prefix(kind)?.strip_prefix('[')?.strip_suffix(']');
    let hexadecimal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Older ones have "pipe:[1]", and so has the kernel.
    if let Some(number) = inside("pipe:") {
        return hexadecimal(number).then_some(true);
    }
    if let Some((mount, inode)) = inside("file").and_then(|text| text.split_once(':')) {
        return (hexadecimal(mount) && hexadecimal(inode)).then_some(true);
    }
    let opened_again = name.is_empty() || name.starts_with('/') || inside("socket:").is_some_and(hexadecimal);
    opened_again.then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("pipe:[123]", Some(true)),
            ("file[1f:a0b]", Some(true)),
            ("/dev/pts/0", Some(false)),
            ("", Some(false)),
            ("socket:[12]", Some(false)),
            ("extRootNetNS", None),
            ("pipe:[]", None),
            ("pipe:[1]:x", None),
            ("file[1:2", None),
            ("file[1]", None),
        ] {
            assert_eq!(kind(name), want, "{name}");
        }
    }

    #[test]
    fn written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["pipe:[1]", "/dev/null", "file[a:b]"].map(str::to_owned);
        write(dir.path(), &names).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [Some(names[0].clone()), None, Some(names[2].clone())]);
        for bad in [r#"["extRootPidNS"]"#, r#"["","","",""]"#, "{}", "", r#"["mnt[/x]"]"#] {
            std::fs::write(dir.path().join(FILE), bad).unwrap();
            assert!(read(dir.path()).unwrap_err().message.contains(FILE), "{bad}");
        }
        std::fs::write(dir.path().join(FILE), vec![b' '; 5000]).unwrap();
        assert!(read(dir.path()).is_err());
        let own = of_process(std::process::id() as i32, &mountinfo::of_process(std::process::id() as i32).unwrap());
        assert_eq!(own.unwrap().len(), 3);
    }
}
