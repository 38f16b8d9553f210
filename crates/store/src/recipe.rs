//! How the exact tar of an unpacked layer is made again: all its bytes that are not in the layer's files, and where the
//! others are. Written while a layer is unpacked, read when it is saved or pushed.
//!
//! Owns that file's format. Must not interpret the tar: headers, padding and whatever follows the end are kept as read.
//!
//! The file: a head of 16 bytes (magic, length of the tar in bytes, little endian), then one zstd frame of records:
//! `1 length:u32 bytes`: these bytes; `2 length:u16 path`: from here on parts are of this file, below the layer's
//! directory; `3 offset:u64 length:u64`: that part of it.

mod same;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use brig_oci::Digest;
use brig_sys::beneath::Root;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::Hasher;
use crate::error::{Error, Result};

pub(crate) use same::compare;

/// The recipe's name beside the layer's files.
pub(crate) const RECIPE: &str = "tar-recipe";
/// The layer's files.
pub(crate) const DIFF: &str = "diff";
/// What a later member of the same tar took the place of: not part of the layer, but of its tar.
pub(crate) const REPLACED: &str = "replaced";

const MAGIC: &[u8; 8] = b"brigtar1";
const HEAD: usize = 16;
const BYTES: u8 = 1;
const FILE: u8 = 2;
const PART: u8 = 3;
/// Headers are alike: the fastest level makes them small enough.
const LEVEL: i32 = 1;
/// Bytes are gathered up to this before they become a record.
const GATHERED: usize = 64 * 1024;

type Encoder = zstd::stream::write::Encoder<'static, BufWriter<File>>;

/// Writes a recipe.
pub(crate) struct Recorder {
    output: Encoder,
    bytes: Vec<u8>,
    size: u64,
    in_part: bool,
    /// The inode numbers of the files, in the order of their records.
    inodes: Vec<u64>,
}

impl Recorder {
    /// Starts a recipe in the directory of a layer.
    pub(crate) fn create(layer: &Root) -> Result<Recorder> {
        let output = start(layer, RECIPE)?;
        Ok(Recorder { output, bytes: Vec::new(), size: 0, in_part: false, inodes: Vec::new() })
    }

    /// The bytes that follow until [`Recorder::end_part`] are those at `offset` of the file begun last.
    pub(crate) fn begin_part(&mut self, offset: u64, length: u64) -> Result<()> {
        self.flush().and_then(|()| part(&mut self.output, offset, length)).map_err(failed)?;
        self.in_part = true;
        Ok(())
    }

    pub(crate) fn end_part(&mut self) {
        self.in_part = false;
    }

    /// The parts that follow are in this file; `path` is below the layer's root.
    pub(crate) fn begin_file(&mut self, path: &Path, inode: u64) -> Result<()> {
        self.inodes.push(inode);
        self.flush().and_then(|()| file(&mut self.output, &Path::new(DIFF).join(path))).map_err(failed)
    }

    fn seen(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.size += bytes.len() as u64;
        if self.in_part {
            return Ok(());
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= GATHERED { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.bytes);
        let written = verbatim(&mut self.output, &bytes);
        self.bytes = bytes;
        self.bytes.clear();
        written
    }

    /// Ends the recipe; tells the tar's length. If files were replaced their new places are written down.
    pub(crate) fn finish(mut self, layer: &Root, replaced: bool) -> Result<u64> {
        self.flush().map_err(failed)?;
        end(self.output, self.size)?;
        if replaced {
            relocate(layer, &self.inodes, self.size)?;
        }
        Ok(self.size)
    }
}

/// Passes a tar on to whoever unpacks it, and tells the recorder of it.
pub(crate) struct Tape<R> {
    input: R,
    pub(crate) recorder: Recorder,
}

impl<R: Read> Tape<R> {
    pub(crate) fn new(input: R, recorder: Recorder) -> Tape<R> {
        Tape { input, recorder }
    }
}

impl<R: Read> Read for Tape<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.recorder.seen(&buffer[..length])?;
        Ok(length)
    }
}

/// For the content of files only, which a recipe leaves out.
impl<R: BufRead> BufRead for Tape<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.recorder.size += length as u64;
        self.input.consume(length);
    }
}

fn failed(error: io::Error) -> Error {
    Error::io("write the layer's recipe", error)
}

fn start(layer: &Root, name: &str) -> Result<Encoder> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(layer.as_fd(), name, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| Error::io("create the layer's recipe", errno))?;
    let mut file = BufWriter::new(File::from(fd));
    // The head is written at the end: a recipe without one is none.
    file.write_all(&[0; HEAD]).map_err(failed)?;
    Encoder::new(file, LEVEL).map_err(failed)
}

fn end(output: Encoder, size: u64) -> Result<()> {
    let mut file = output.finish().and_then(|file| file.into_inner().map_err(io::Error::from)).map_err(failed)?;
    let head = [&MAGIC[..], &size.to_le_bytes()].concat();
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head)).map_err(failed)
}

fn verbatim(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(GATHERED) {
        // A piece is far shorter than 4 GiB.
        let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
        output.write_all(&[BYTES])?;
        output.write_all(&length.to_le_bytes())?;
        output.write_all(piece)?;
    }
    Ok(())
}

fn file(output: &mut impl Write, path: &Path) -> io::Result<()> {
    let path = path.as_os_str().as_bytes();
    let length = u16::try_from(path.len()).map_err(io::Error::other)?;
    output.write_all(&[FILE])?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(path)
}

fn part(output: &mut impl Write, offset: u64, length: u64) -> io::Result<()> {
    output.write_all(&[PART])?;
    output.write_all(&offset.to_le_bytes())?;
    output.write_all(&length.to_le_bytes())
}

/// One step of a recipe.
enum Step {
    Bytes(Vec<u8>),
    File(PathBuf),
    Part { offset: u64, length: u64 },
}

/// Reads a recipe.
struct Steps {
    input: zstd::stream::read::Decoder<'static, BufReader<File>>,
    size: u64,
}

impl Steps {
    /// `None` if there is no whole recipe.
    fn open(layer: &Root) -> Result<Option<Steps>> {
        let failed = |error: io::Error| Error::io("read the layer's recipe", error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = match rustix::fs::openat(layer.as_fd(), RECIPE, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(Error::io("open the layer's recipe", errno)),
        };
        let mut head = [0; HEAD];
        match file.read_exact(&mut head) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.map_err(failed)?,
        }
        let (magic, size) = head.split_at(8);
        if magic != MAGIC {
            return Ok(None);
        }
        let size = u64::from_le_bytes(size.try_into().expect("the head's second half is eight bytes"));
        let input = zstd::stream::read::Decoder::new(file).map_err(failed)?;
        Ok(Some(Steps { input, size }))
    }

    fn next(&mut self) -> io::Result<Option<Step>> {
        let mut kind = [0];
        if self.input.read(&mut kind)? == 0 {
            return Ok(None);
        }
        Ok(Some(match kind[0] {
            BYTES => {
                let length = u32::from_le_bytes(self.array()?);
                Step::Bytes(self.vec(length as usize)?)
            }
            FILE => {
                let length = u16::from_le_bytes(self.array()?);
                Step::File(PathBuf::from(OsStr::from_bytes(&self.vec(usize::from(length))?)))
            }
            PART => {
                let offset = u64::from_le_bytes(self.array()?);
                Step::Part { offset, length: u64::from_le_bytes(self.array()?) }
            }
            other => return Err(damaged(format!("a step of unknown kind {other}"))),
        }))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn vec(&mut self, length: usize) -> io::Result<Vec<u8>> {
        if length > GATHERED {
            return Err(damaged(format!("a step of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the layer's recipe is damaged: {what}"))
}

/// Rewrites a recipe after files were replaced: each is found again by its inode, wherever it has gone.
fn relocate(layer: &Root, inodes: &[u64], size: u64) -> Result<()> {
    const TEMPORARY: &str = "tar-recipe.new";
    let mut places = HashMap::new();
    for base in [DIFF, REPLACED] {
        find(layer, PathBuf::from(base), &mut places)?;
    }
    let unreadable = || Error::corrupt("the recipe that was just written cannot be read");
    let mut steps = Steps::open(layer)?.ok_or_else(unreadable)?;
    let mut output = start(layer, TEMPORARY)?;
    let mut files = inodes.iter();
    while let Some(step) = steps.next().map_err(failed)? {
        match step {
            Step::Bytes(bytes) => verbatim(&mut output, &bytes),
            Step::Part { offset, length } => part(&mut output, offset, length),
            Step::File(path) => {
                let place = files.next().and_then(|inode| places.get(inode)).unwrap_or(&path);
                file(&mut output, place)
            }
        }
        .map_err(failed)?;
    }
    end(output, size)?;
    rustix::fs::renameat(layer.as_fd(), TEMPORARY, layer.as_fd(), RECIPE)
        .map_err(|errno| Error::io("replace the layer's recipe", errno))
}

/// The regular files beneath a directory of the layer, by inode number.
fn find(layer: &Root, base: PathBuf, places: &mut HashMap<u64, PathBuf>) -> Result<()> {
    let failed = |errno: Errno| Error::io("look through the layer", errno);
    let mut todo = vec![base];
    while let Some(path) = todo.pop() {
        let fd = match layer.open_in(&path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()) {
            Err(error) if error.errno == Errno::NOENT => continue,
            opened => opened?,
        };
        for entry in Dir::read_from(&fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => todo.push(path.join(name)),
                FileType::RegularFile => drop(places.insert(stat.st_ino, path.join(name))),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The uncompressed tar of a layer, byte for byte as it was unpacked. The last read fails, in place of telling the end,
/// if what was read has not the layer's diff id.
pub struct LayerTar {
    steps: Steps,
    layer: Root,
    diff: Root,
    diff_id: Digest,
    check: Check,
    bytes: Vec<u8>,
    at: usize,
    file: Option<File>,
    offset: u64,
    left: u64,
    _pin: Option<crate::Pin>,
}

/// Whether it is the right tar.
enum Check {
    /// To be told at the end.
    Hashing(Box<Hasher>),
    /// It is, to the end.
    Verified,
    /// Whoever reads it finds out.
    LeftToReader,
}

impl LayerTar {
    /// `None` if the layer has no recipe.
    pub(crate) fn open(layer: &Path, diff_id: &Digest, pin: Option<crate::Pin>) -> Result<Option<LayerTar>> {
        let (layer, diff) = (Root::open(layer)?, Root::open(&layer.join(DIFF))?);
        let Some(steps) = Steps::open(&layer)? else { return Ok(None) };
        Ok(Some(LayerTar {
            steps,
            layer,
            diff,
            diff_id: diff_id.clone(),
            check: Check::Hashing(Box::new(Hasher::like(diff_id))),
            bytes: Vec::new(),
            at: 0,
            file: None,
            offset: 0,
            left: 0,
            _pin: pin,
        }))
    }

    /// The tar's length in bytes.
    pub fn size(&self) -> u64 {
        self.steps.size
    }

    /// The tar's digest.
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Whether it was read to its end, and has its digest.
    pub(crate) fn is_verified(&self) -> bool {
        matches!(self.check, Check::Verified)
    }

    /// For a reader who verifies the digest of what it makes of the tar, and thereby the tar: it is not hashed for nothing.
    pub(crate) fn left_to_reader(self) -> LayerTar {
        LayerTar { check: Check::LeftToReader, ..self }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.at < self.bytes.len() {
                let length = buffer.len().min(self.bytes.len() - self.at);
                buffer[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
                self.at += length;
                return Ok(length);
            }
            if self.left > 0 {
                let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
                let file = self.file.as_ref().ok_or_else(|| damaged("a part of no file".into()))?;
                let length = file.read_at(&mut buffer[..want], self.offset)?;
                if length == 0 {
                    return Err(self.changed("a file is shorter than it was"));
                }
                self.offset += length as u64;
                self.left -= length as u64;
                return Ok(length);
            }
            match self.steps.next()? {
                None => return Ok(0),
                Some(Step::Bytes(bytes)) => (self.bytes, self.at) = (bytes, 0),
                Some(Step::Part { offset, length }) => (self.offset, self.left) = (offset, length),
                Some(Step::File(path)) => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
                    let opened = match path.strip_prefix(DIFF) {
                        // The longest path there may be has no room for what is before it.
                        Ok(path) => self.diff.open_in(path, flags, Mode::empty()),
                        Err(_) => self.layer.open_in(&path, flags, Mode::empty()),
                    };
                    self.file = Some(File::from(opened.map_err(|error| self.changed(&error.to_string()))?));
                }
            }
        }
    }

    fn changed(&self, why: &str) -> io::Error {
        let text = format!(
            "the archive of layer {} cannot be made again, its files have changed ({why}): remove the image and pull it again",
            self.diff_id
        );
        io::Error::new(io::ErrorKind::InvalidData, text)
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = self.fill(buffer)?;
        if length > 0 {
            if let Check::Hashing(hasher) = &mut self.check {
                hasher.update(&buffer[..length]);
            }
            return Ok(length);
        }
        match std::mem::replace(&mut self.check, Check::LeftToReader) {
            Check::Hashing(hasher) => {
                let actual = hasher.finish();
                if actual != self.diff_id {
                    return Err(self.changed(&format!("it would be {actual}")));
                }
                self.check = Check::Verified;
            }
            as_it_was => self.check = as_it_was,
        }
        Ok(0)
    }
}
