//! Reading and writing bits, least significant first.
//! Must not know what they mean.

use std::io::{self, Read};

use crate::{Error, Result};

const BUFFER: usize = 64 * 1024;

/// Bits of a stream.
pub(crate) struct BitReader<R> {
    input: R,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    bits: u64,
    count: u32,
    ended: bool,
    /// Bytes taken from the input so far.
    taken: u64,
}

impl<R: Read> BitReader<R> {
    pub(crate) fn new(input: R) -> BitReader<R> {
        BitReader { input, buffer: vec![0; BUFFER], at: 0, end: 0, bits: 0, count: 0, ended: false, taken: 0 }
    }

    /// How many bits were read.
    pub(crate) fn position(&self) -> u64 {
        (self.taken - (self.end - self.at) as u64) * 8 - u64::from(self.count)
    }

    /// Sees to it that at least 48 bits are at hand, unless the stream ends before.
    #[inline]
    fn fill(&mut self) -> Result<()> {
        if self.count >= 48 {
            return Ok(());
        }
        if self.end - self.at >= 8 {
            let word: [u8; 8] = self.buffer[self.at..self.at + 8].try_into().unwrap_or_default();
            self.bits |= u64::from_le_bytes(word) << self.count;
            let bytes = (63 - self.count) / 8;
            self.at += bytes as usize;
            self.count += bytes * 8;
            // What was read beyond those bytes comes again.
            self.bits &= (1 << self.count) - 1;
            return Ok(());
        }
        self.fill_slowly()
    }

    #[cold]
    fn fill_slowly(&mut self) -> Result<()> {
        while self.count < 48 {
            if self.at == self.end && !self.more()? {
                return Ok(());
            }
            self.bits |= u64::from(self.buffer[self.at]) << self.count;
            self.at += 1;
            self.count += 8;
        }
        Ok(())
    }

    fn more(&mut self) -> Result<bool> {
        while !self.ended {
            match self.input.read(&mut self.buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    (self.at, self.end) = (0, length);
                    self.taken += length as u64;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
        Ok(false)
    }

    /// The next bits, zeros behind the end; at least 48 are true if the stream has them.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<u64> {
        self.fill()?;
        Ok(self.bits)
    }

    /// Takes bits that were looked at.
    #[inline]
    pub(crate) fn skip(&mut self, count: u32) -> Result<()> {
        if count > self.count {
            return Err(Error::Unsupported("the stream is cut off"));
        }
        self.bits >>= count;
        self.count -= count;
        Ok(())
    }

    /// At most 32 bits.
    #[inline]
    pub(crate) fn take(&mut self, count: u32) -> Result<u32> {
        let bits = self.peek()? & ((1 << count) - 1);
        self.skip(count)?;
        Ok(bits as u32)
    }

    /// What is left of the byte that was begun.
    pub(crate) fn align(&mut self) -> Result<u8> {
        Ok(self.take(self.count % 8)? as u8)
    }

    /// The next byte, which begins here, or `None` at the end.
    pub(crate) fn byte(&mut self) -> Result<Option<u8>> {
        self.fill()?;
        if self.count == 0 {
            return Ok(None);
        }
        Ok(Some(self.take(8)? as u8))
    }

    /// Appends so many bytes that begin here.
    pub(crate) fn bytes(&mut self, mut count: usize, to: &mut Vec<u8>) -> Result<()> {
        while count > 0 && self.count > 0 {
            to.push(self.take(8)? as u8);
            count -= 1;
            if self.at < self.end && self.count == 0 {
                break;
            }
        }
        while count > 0 {
            if self.at == self.end && !self.more()? {
                return Err(Error::Unsupported("the stream is cut off"));
            }
            let length = count.min(self.end - self.at);
            to.extend_from_slice(&self.buffer[self.at..self.at + length]);
            self.at += length;
            count -= length;
        }
        Ok(())
    }
}

/// Puts bits together.
#[derive(Default)]
pub(crate) struct BitWriter {
    pub(crate) bytes: Vec<u8>,
    bits: u64,
    count: u32,
}

impl BitWriter {
    /// Goes on in the midst of a byte, with room for so many bytes.
    pub(crate) fn from(bits: u8, count: u32, room: usize) -> BitWriter {
        BitWriter { bytes: Vec::with_capacity(room), bits: u64::from(bits), count }
    }

    /// At most 32 bits.
    #[inline]
    pub(crate) fn put(&mut self, bits: u32, count: u32) {
        self.bits |= u64::from(bits) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.bytes.extend_from_slice(&(self.bits as u32).to_le_bytes());
            self.bits >>= 32;
            self.count -= 32;
        }
    }

    /// Fills the byte up with these bits.
    pub(crate) fn align(&mut self, pad: u8) {
        let missing = (8 - self.count % 8) % 8;
        self.put(u32::from(pad) & ((1 << missing) - 1), missing);
    }

    /// Bytes that begin here.
    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) {
        self.flush();
        self.bytes.extend_from_slice(bytes);
    }

    fn flush(&mut self) {
        while self.count >= 8 {
            self.bytes.push(self.bits as u8);
            self.bits >>= 8;
            self.count -= 8;
        }
    }

    /// The whole bytes, and the bits of the last one that is not.
    pub(crate) fn finish(mut self) -> (Vec<u8>, u8, u32) {
        self.flush();
        (self.bytes, self.bits as u8, self.count)
    }
}
