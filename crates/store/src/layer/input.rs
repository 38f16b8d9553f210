//! What a layer is unpacked from. Owns telling what can only be read from what lies in a file, whose bytes can be handed on
//! without being copied. Must not look at them.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;

/// A stream that may be a file of this program's own.
pub trait Input: Read {
    /// Where the next bytes are, once there are some; `None` if they can only be read.
    ///
    /// # Errors
    /// As reading them.
    fn in_file(&mut self) -> io::Result<Option<InFile<'_>>> {
        Ok(None)
    }

    /// So many of the bytes that [`Input::in_file`] told of were taken from there.
    fn pass(&mut self, _length: u64) {}
}

/// Bytes in a file.
pub struct InFile<'a> {
    /// The file; its bytes from `at` on do not change any more.
    pub file: BorrowedFd<'a>,
    /// Where they begin.
    pub at: u64,
    /// How many there are; none at the end of the stream.
    pub length: u64,
}

/// What can only be read.
pub(super) struct Stream<R>(pub(super) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Input for Stream<R> {}
