//! The directory of unfinished blobs: their files, the maps beside them, and who has one open. Owns how a map is written and
//! what it and its file are worth after a restart. Must not know what is done with a blob.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::spans::Spans;
use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::trash;

const LONGEST_NAME: usize = 160;
/// How the names of blobs begin that are parts of an archive being loaded, which cannot be gone on with.
pub(crate) const LOADING: &str = "load-";
pub(super) const MAP: &str = ".map";
const NEW_MAP: &str = ".map-new";
/// One range in a map: its start and its end, little-endian.
const RECORD: usize = 16;

/// The directory of unfinished blobs, and who has one open.
pub(crate) struct PartialDir {
    pub(super) dir: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) open: Mutex<HashSet<String>>,
    pub(super) closed: Condvar,
}

impl PartialDir {
    /// Opens the directory, and removes what a killed process left that nobody can go on with: parts of an archive that was
    /// being loaded, and maps without their file.
    pub(crate) fn open(path: &Path) -> Result<PartialDir> {
        let partials = PartialDir {
            dir: durable::directory(path)?,
            path: path.to_owned(),
            open: Mutex::default(),
            closed: Condvar::new(),
        };
        for name in trash::names(partials.dir.as_fd(), path)? {
            let Some(name) = name.to_str().filter(|name| partials.file(name).is_some()) else { continue };
            let is_widowed =
                |of| rustix::fs::statat(&partials.dir, of, AtFlags::SYMLINK_NOFOLLOW).err() == Some(Errno::NOENT);
            if name.starts_with(LOADING) || file_of_map(name).is_some_and(is_widowed) {
                partials.remove(name).unwrap_or_else(|error| tracing::warn!("a part of a blob stays: {error}"));
            }
        }
        Ok(partials)
    }

    /// The attributes of a file in the directory; what is none is nobody's unfinished blob, and for a check to report.
    pub(super) fn file(&self, name: &str) -> Option<Stat> {
        let stat = rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some(stat)
    }

    /// Everything in the directory but maps, each with whether it can be an unfinished blob.
    pub(crate) fn strays(&self) -> Result<Vec<(OsString, bool)>> {
        let names = trash::names(self.dir.as_fd(), &self.path)?;
        let look = |name: OsString| {
            let stat = rustix::fs::statat(&self.dir, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            let text = name.to_str().unwrap_or_default();
            let is_map = file_of_map(text).is_some_and(is_plain);
            (!(is_file && is_map)).then(|| (name.clone(), is_file && is_plain(text)))
        };
        Ok(names.into_iter().filter_map(look).collect())
    }

    pub(super) fn taken(&self) -> MutexGuard<'_, HashSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn failed(&self, call: &str, name: &str, error: impl Into<io::Error>) -> Error {
        let error = Error::io(format!("{call} {}", self.path.join(name).display()), error);
        match error.kind {
            ErrorKind::NoSpace => error.context(format!("no space left in {}", self.path.display())),
            _ => error,
        }
    }

    pub(super) fn remove(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// Removes a blob, and its map last: without that a file with gaps would count as whole.
    pub(super) fn delete(&self, name: &str) -> Result<()> {
        ["", MAP, NEW_MAP].iter().try_for_each(|suffix| self.remove(&format!("{name}{suffix}")))
    }

    pub(super) fn open_file(&self, name: &str, flags: OFlags) -> std::result::Result<File, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(&self.dir, name, flags, Mode::from_raw_mode(0o600)).map(File::from)
    }

    /// What of the file `name` is certainly there. Afterwards it has no more than that, or a map that says so.
    pub(super) fn load(&self, name: &str, file: &File) -> Result<(Spans, Option<File>)> {
        self.remove(&format!("{name}{NEW_MAP}"))?;
        let length = file.metadata().map_err(|error| self.failed("stat", name, error))?.len();
        let map_name = format!("{name}{MAP}");
        let map = match self.open_file(&map_name, OFlags::RDWR | OFlags::APPEND) {
            Ok(map) => map,
            Err(Errno::NOENT) => return Ok((Spans::prefix(length), None)),
            Err(errno) => return Err(self.failed("open", &map_name, errno)),
        };
        let mut records = Vec::new();
        (&map).read_to_end(&mut records).map_err(|error| self.failed("read", &map_name, error))?;
        let mut spans = Spans::default();
        for (start, end) in records.chunks_exact(RECORD).filter_map(parse_record) {
            spans.add(start..end.min(length));
        }
        if !spans.is_prefix() {
            return Ok((spans, Some(map)));
        }
        file.set_len(spans.prefix_len()).map_err(|error| self.failed("truncate", name, error))?;
        self.remove(&map_name)?;
        Ok((spans, None))
    }

    /// A map that says what is there now; complete before anybody can see it.
    pub(super) fn new_map(&self, name: &str, prefix: u64) -> Result<File> {
        let (new, map) = (format!("{name}{NEW_MAP}"), format!("{name}{MAP}"));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND;
        let mut file = self.open_file(&new, flags).map_err(|errno| self.failed("create", &new, errno))?;
        file.write_all(&record(&(0..prefix))).map_err(|error| self.failed("write", &new, error))?;
        rustix::fs::renameat(&self.dir, &*new, &self.dir, &*map)
            .map_err(|errno| self.failed("rename to", &map, errno))?;
        Ok(file)
    }
}

/// Whether an unfinished blob may have this name.
pub(super) fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(is_plain)
}

/// The name of the file that a map is of.
fn file_of_map(name: &str) -> Option<&str> {
    name.strip_suffix(MAP).or_else(|| name.strip_suffix(NEW_MAP))
}

pub(super) fn record(range: &Range<u64>) -> [u8; RECORD] {
    let mut bytes = [0; RECORD];
    bytes[..8].copy_from_slice(&range.start.to_le_bytes());
    bytes[8..].copy_from_slice(&range.end.to_le_bytes());
    bytes
}

fn parse_record(bytes: &[u8]) -> Option<(u64, u64)> {
    let (start, end) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*start), u64::from_le_bytes(end.try_into().ok()?)))
}
