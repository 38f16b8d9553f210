//! Whether one layer's recipe is another's: the same bytes of the tar from the same places of the same files. Owns what that
//! proves: if a tar of the right digest is made by a recipe that is as the tar's own unpacking writes it, then the files that
//! it names have the content that the tar gives them. Must not be asked about layers whose trees differ.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use brig_sys::beneath::Root;
use rustix::fs::{Mode, OFlags, SeekFrom, seek};

use super::{DIFF, Step, Steps};
use crate::error::{Error, Result};

/// How much of a hole is looked at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// Compares the recipe of the layer `made`, which is right, with that of the layer `there`. Tells the first difference, if
/// there is one, and the inode numbers of the files of `made` whose content is in the tar.
pub(crate) fn compare(made: &Root, there: &Root) -> Result<(Option<String>, HashSet<u64>)> {
    let unreadable = || Error::corrupt("a layer's recipe cannot be read");
    let mut right = Cursor::new(Steps::open(made)?.ok_or_else(unreadable)?);
    let mut other = Cursor::new(Steps::open(there)?.ok_or_else(unreadable)?);
    let (mut own, mut covered) = (HashSet::new(), Covered::default());
    loop {
        while let Some(path) = right.load().map_err(failed)? {
            if let Some(problem) = covered.problem(there)? {
                return Ok((Some(problem), own));
            }
            own.insert(open(made, &path)?.metadata().map_err(failed)?.ino());
            covered = Covered { path, parts: Vec::new() };
        }
        while other.load().map_err(failed)?.is_some() {}
        let same = match (&right.piece, &other.piece) {
            (Piece::End, Piece::End) => return Ok((covered.problem(there)?, own)),
            (Piece::Bytes(bytes), Piece::Bytes(found)) => {
                let length = bytes.len().min(found.len());
                (bytes[..length] == found[..length]).then_some(length as u64)
            }
            (Piece::Part { offset, left }, Piece::Part { offset: found, left: found_left }) => {
                let length = *left.min(found_left);
                covered.parts.push((*offset, length));
                (offset == found && is_same(there, &right.file, &other.file)?).then_some(length)
            }
            _ => None,
        };
        let Some(length) = same else {
            let what = format!("its archive is not made from its files: {} differs", shown(&right.file));
            return Ok((Some(what), own));
        };
        right.pass(length);
        other.pass(length);
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("compare a layer with its archive", error)
}

/// What comes next in a tar.
enum Piece {
    Bytes(Vec<u8>),
    Part { offset: u64, left: u64 },
    End,
}

/// A place in a recipe.
struct Cursor {
    steps: Steps,
    /// Where parts are from.
    file: PathBuf,
    piece: Piece,
}

impl Cursor {
    fn new(steps: Steps) -> Cursor {
        Cursor { steps, file: PathBuf::new(), piece: Piece::Bytes(Vec::new()) }
    }

    /// Sees to it that there is a piece; tells of a file that begins instead.
    fn load(&mut self) -> io::Result<Option<PathBuf>> {
        while match &self.piece {
            Piece::Bytes(bytes) => bytes.is_empty(),
            Piece::Part { left, .. } => *left == 0,
            Piece::End => false,
        } {
            self.piece = match self.steps.next()? {
                None => Piece::End,
                Some(Step::Bytes(bytes)) => Piece::Bytes(bytes),
                Some(Step::Part { offset, length }) => Piece::Part { offset, left: length },
                Some(Step::File(path)) => {
                    self.file.clone_from(&path);
                    return Ok(Some(path));
                }
            };
        }
        Ok(None)
    }

    fn pass(&mut self, length: u64) {
        match &mut self.piece {
            Piece::Bytes(bytes) => drop(bytes.drain(..usize::try_from(length).unwrap_or(bytes.len()))),
            Piece::Part { offset, left } => (*offset, *left) = (*offset + length, *left - length),
            Piece::End => {}
        }
    }
}

/// The parts of a file that are in the tar.
#[derive(Default)]
struct Covered {
    path: PathBuf,
    parts: Vec<(u64, u64)>,
}

impl Covered {
    /// Whether there is anything but zeros where the tar has nothing.
    fn problem(&mut self, there: &Root) -> Result<Option<String>> {
        if self.path.as_os_str().is_empty() {
            return Ok(None);
        }
        let file = open(there, &self.path)?;
        let size = file.metadata().map_err(failed)?.size();
        self.parts.sort_unstable();
        let mut at = 0;
        for (offset, length) in self.parts.drain(..).chain([(size, 0)]) {
            if offset > at && !is_hole(&file, at, offset).map_err(failed)? {
                return Ok(Some(format!("{} has something where it had a hole", shown(&self.path))));
            }
            at = at.max(offset.saturating_add(length));
        }
        Ok(None)
    }
}

/// Whether there are only zeros between these offsets.
fn is_hole(file: &File, mut at: u64, end: u64) -> io::Result<bool> {
    let mut buffer = vec![0; PIECE];
    while at < end {
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.max(at),
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that cannot tell has no holes.
            Err(_) => at,
        };
        let want = usize::try_from(end.saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
        let length = file.read_at(&mut buffer[..want], at)?;
        if buffer[..length].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        if length == 0 {
            break;
        }
        at += length as u64;
    }
    Ok(true)
}

/// Whether two paths are names of one file.
fn is_same(layer: &Root, one: &Path, other: &Path) -> Result<bool> {
    if one == other {
        return Ok(true);
    }
    let inode = |path: &Path| -> Result<u64> { Ok(open(layer, path)?.metadata().map_err(failed)?.ino()) };
    Ok(inode(one)? == inode(other)?)
}

/// Opens a file as a recipe names it, below the layer's directory.
fn open(layer: &Root, path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // The longest path there may be has no room for what is before it.
    let opened = match path.strip_prefix(DIFF) {
        Ok(path) => {
            let files = layer.open_in(Path::new(DIFF), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
            Root::from_fd(files).open_in(path, flags, Mode::empty())
        }
        Err(_) => layer.open_in(path, flags, Mode::empty()),
    };
    Ok(File::from(opened?))
}

fn shown(path: &Path) -> String {
    Path::new("/").join(path.strip_prefix(DIFF).unwrap_or(path)).display().to_string()
}
