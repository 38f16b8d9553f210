//! Reading tar archives from a stream: one member after the other, each with one interpretation only.
//! Owns the formats (v7, ustar, GNU, PAX, sparse) and their bounds; follows Go's `archive/tar`, by which images are
//! made and checked, where readers differ. Must not touch the file system or judge names.
//!
//! The `tar` crate is not used: it splits PAX records at newlines, which binary attributes contain, it reads
//! extension headers without a bound, and it knows neither PAX sparse files nor holes.

mod header;
mod pax;
mod sparse;

use std::io::{self, BufRead, Read};

use crate::error::{Error, Result};
use header::Header;
use pax::Pax;

pub use sparse::Segment;

pub(crate) const BLOCK: usize = 512;
/// The most bytes of one PAX header, GNU long name or sparse map.
const MAX_EXTENSION: u64 = 1024 * 1024;

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file, possibly sparse.
    File,
    /// Another name of a member named by `link`.
    HardLink,
    /// A symbolic link to `link`.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// Whether a body follows the header. As in Go, no other type has one, whatever size it claims.
    fn has_body(self) -> bool {
        self == Kind::File
    }
}

/// A point in time: seconds since 1970 and nanoseconds (0 to 999,999,999) after that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanoseconds: u32,
}

/// One member, all extensions applied. Names are bytes as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is.
    pub kind: Kind,
    /// Its name. Not checked: may be absolute, empty or lead outside.
    pub name: Vec<u8>,
    /// The target of a link. Not checked.
    pub link: Vec<u8>,
    /// Permissions with set-id and sticky bits, 0 to 0o7777.
    pub mode: u32,
    /// Owner, 0 to 2^32 - 2.
    pub uid: u32,
    /// Group, 0 to 2^32 - 2.
    pub gid: u32,
    /// Size of the file in bytes, holes included; 0 for anything but files.
    pub size: u64,
    /// Last modification.
    pub mtime: Time,
    /// Device number, major and minor, for devices.
    pub device: (u32, u32),
    /// Extended attributes in the order written.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file: where the bytes that follow belong, in order and apart. `None` for an ordinary one.
    pub segments: Option<Vec<Segment>>,
}

/// An archive that is being read. Implements [`Read`] for the stored bytes of the current member.
pub struct Archive<R> {
    input: R,
    /// Stored bytes of the current member that were not read yet.
    remaining: u64,
    /// Bytes after them up to the next block.
    padding: u64,
    ended: bool,
}

/// Extension headers seen before the member that they are about.
#[derive(Default)]
struct Extensions {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Archive<R> {
    /// Starts at the beginning of an uncompressed archive.
    pub fn new(input: R) -> Archive<R> {
        Archive { input, remaining: 0, padding: 0, ended: false }
    }

    /// The stream, wherever it stands now.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The stream, to tell it what is being read.
    pub(crate) fn input(&mut self) -> &mut R {
        &mut self.input
    }

    /// Goes to the next member, skipping what is left of the current one. `None` at the end: two zero blocks, or the
    /// end of the stream between two members. What follows the end is not read.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if extensions.pax.is_some() || extensions.long_name.is_some() || extensions.long_link.is_some() {
                    return Err(Error::invalid("tar: ends after an extension header"));
                }
                return Ok(None);
            };
            match header.type_flag() {
                b'x' => extensions.pax = Some(Pax::parse(&self.extension(&header, "PAX header")?)?),
                // About all that follow, which would let one member change another: read past, as Docker does.
                b'g' => drop(self.extension(&header, "PAX global header")?),
                b'L' => extensions.long_name = Some(until_nul(self.extension(&header, "long name")?)),
                b'K' => extensions.long_link = Some(until_nul(self.extension(&header, "long link")?)),
                _ => return self.member(&header, extensions).map(Some),
            }
        }
    }

    /// Makes a member of its header and extensions, and sets up reading its body.
    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member> {
        let pax = extensions.pax.unwrap_or_default();
        let name = extensions.long_name.or_else(|| pax.path.clone()).map_or_else(|| header.name(), Ok)?;
        let link = extensions.long_link.or_else(|| pax.link_path.clone()).unwrap_or_else(|| header.link());
        let described = |error: Error| error.context(format!("tar: {}", name.escape_ascii()));
        let size = pax.size.map_or_else(|| header.size(), Ok);
        // One that is malformed only matters where there is a body.
        let kind = header.kind(&name, size.as_ref().copied().unwrap_or(u64::MAX)).map_err(described)?;
        let stored = size.map_err(described)?;
        let stored = if kind.has_body() { stored } else { 0 };
        self.remaining = stored;
        self.padding = stored.wrapping_neg() % BLOCK as u64;
        let mut member = Member {
            kind,
            link,
            mode: header.mode().map_err(described)? & 0o7777,
            uid: id(pax.uid.map_or_else(|| header.uid(), Ok).map_err(described)?).map_err(described)?,
            gid: id(pax.gid.map_or_else(|| header.gid(), Ok).map_err(described)?).map_err(described)?,
            size: stored,
            mtime: pax.mtime.map_or_else(|| header.mtime(), Ok).map_err(described)?,
            device: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
                header.device().map_err(described)?
            } else {
                (0, 0)
            },
            xattrs: pax.xattrs.clone(),
            segments: None,
            name: pax.sparse_name.clone().unwrap_or(name),
        };
        self.sparse(header, &pax, &mut member)?;
        Ok(member)
    }

    /// Finds out whether the member is a sparse file, and where its stored bytes belong.
    fn sparse(&mut self, header: &Header, pax: &Pax, member: &mut Member) -> Result<()> {
        if member.kind != Kind::File {
            return Ok(());
        }
        let described = |error: Error| error.context(format!("tar: {}", member.name.escape_ascii()));
        let (size, segments) = if header.type_flag() == b'S' {
            let (size, mut segments, mut more) = header.sparse().map_err(described)?;
            while more {
                let block = self.block()?.ok_or_else(|| Error::invalid("tar: cut off in a sparse map"))?;
                more = header::extended_sparse(&block, &mut segments).map_err(described)?;
                if segments.len() as u64 * 24 > MAX_EXTENSION {
                    return Err(described(Error::invalid("sparse map is too long")));
                }
            }
            (size, segments)
        } else if pax.is_sparse_1_0() {
            // The map is the start of the body.
            let map = sparse::read_map(self, MAX_EXTENSION).map_err(described)?;
            (pax.sparse_size(member.size), map)
        } else if let Some(segments) = pax.sparse_map().map_err(described)? {
            (pax.sparse_size(member.size), segments)
        } else {
            return Ok(());
        };
        sparse::check(&segments, size, self.remaining).map_err(described)?;
        member.size = size;
        member.segments = Some(segments);
        Ok(())
    }

    /// Reads the whole body of an extension header.
    fn extension(&mut self, header: &Header, what: &str) -> Result<Vec<u8>> {
        let size = header.size()?;
        if size > MAX_EXTENSION {
            return Err(Error::invalid(format!("tar: {what} of {size} bytes: at most {MAX_EXTENSION}")));
        }
        self.remaining = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        let mut body = Vec::new();
        self.read_to_end(&mut body).map_err(|error| Error::input(format!("tar: {what}"), &error))?;
        self.skip()?;
        Ok(body)
    }

    /// The next header; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            self.ended = true;
            return Ok(None);
        };
        if block.iter().any(|byte| *byte != 0) {
            return Header::new(block).map(Some);
        }
        self.ended = true;
        match self.block()? {
            Some(block) if block.iter().any(|byte| *byte != 0) => {
                Err(Error::invalid("tar: a lone zero block in the middle"))
            }
            _ => Ok(None),
        }
    }

    /// One whole block; `None` if the stream ends before it.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(Error::invalid("tar: cut off in the middle of a block")),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::input("tar: read", &error)),
            }
        }
        Ok(Some(block))
    }

    /// Reads past what is left of the current member.
    fn skip(&mut self) -> Result<()> {
        let left = self.remaining.saturating_add(std::mem::take(&mut self.padding));
        self.remaining = 0;
        let skipped = io::copy(&mut (&mut self.input).take(left), &mut io::sink())
            .map_err(|error| Error::input("tar: read", &error))?;
        if skipped < left {
            return Err(Error::invalid("tar: cut off in the middle of a member"));
        }
        Ok(())
    }
}

impl<R: BufRead> Archive<R> {
    /// What there is at once of the current member's body; empty at its end or that of the stream.
    pub(crate) fn piece(&mut self) -> io::Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let piece = self.input.fill_buf()?;
        Ok(&piece[..piece.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX))])
    }

    /// Goes past so much of a piece.
    pub(crate) fn pass(&mut self, length: usize) {
        self.input.consume(length);
        self.remaining -= length as u64;
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buffer.len());
        if want == 0 {
            return Ok(0);
        }
        let length = self.input.read(&mut buffer[..want])?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "cut off in the middle of a member"));
        }
        self.remaining -= length as u64;
        Ok(length)
    }
}

/// A user or group id: the largest 32-bit value means "no one" to the kernel and is refused with all above.
fn id(value: i64) -> Result<u32> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::invalid(format!("owner or group {value} is out of range"))),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Whether this block is a header, by its checksum.
pub(crate) fn is_header(block: &[u8; BLOCK]) -> bool {
    block.iter().any(|byte| *byte != 0) && Header::new(*block).is_ok()
}
