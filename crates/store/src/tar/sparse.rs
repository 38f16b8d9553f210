//! Sparse files: which parts of a file are stored, and that the parts make sense.
//! Must not write holes; that is for who makes the file.

use std::io::Read;

use super::BLOCK;
use crate::error::{Error, Result};

/// One stored part of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it belongs, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// Segments must be in order, apart from each other, within the file, and just as long as what is stored.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> Result<()> {
    if i64::try_from(size).is_err() {
        return Err(Error::invalid("sparse file of impossible size"));
    }
    let (mut end, mut total) = (0u64, 0u64);
    for segment in segments {
        let next = segment.offset.checked_add(segment.length);
        match next {
            Some(next) if segment.offset >= end && next <= size => end = next,
            _ => {
                return Err(Error::invalid("sparse map is out of order, overlaps, or leaves the file"));
            }
        }
        total += segment.length;
    }
    if total != stored {
        return Err(Error::invalid(format!("sparse map is about {total} bytes, {stored} are stored")));
    }
    Ok(())
}

/// Reads the map at the start of the body (PAX sparse 1.0): a count, then offset and length of each segment, one decimal
/// number a line, padded to a whole block.
pub(super) fn read_map(body: &mut impl Read, limit: u64) -> Result<Vec<Segment>> {
    let mut lines = Lines { body, block: [0; BLOCK], at: BLOCK, left: limit };
    let count = lines.number()?;
    if count > limit / 4 {
        return Err(Error::invalid("sparse map is too long"));
    }
    let mut segments = Vec::new();
    for _ in 0..count {
        segments.push(Segment { offset: lines.number()?, length: lines.number()? });
    }
    Ok(segments)
}

struct Lines<'a, R> {
    body: &'a mut R,
    block: [u8; BLOCK],
    at: usize,
    left: u64,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64> {
        let bad = || Error::invalid("malformed sparse map");
        let (mut value, mut digits) = (0u64, 0);
        loop {
            if self.at == BLOCK {
                self.left =
                    self.left.checked_sub(BLOCK as u64).ok_or_else(|| Error::invalid("sparse map is too long"))?;
                self.body.read_exact(&mut self.block).map_err(|error| Error::input("sparse map", &error))?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' if digits > 0 => return Ok(value),
                b'0'..=b'9' => {
                    value = value
                        .checked_mul(10)
                        .and_then(|value| value.checked_add(u64::from(byte - b'0')))
                        .ok_or_else(bad)?;
                    digits += 1;
                }
                _ => return Err(bad()),
            }
        }
    }
}
