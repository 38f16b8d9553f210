//! Reading a blob while it arrives. Owns waiting for the next byte; must not write.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};

use super::{End, Shared};
use crate::layer::{InFile, Input};

/// Reads a [`super::Partial`] from its first byte, as far as it is there without a gap, and waits for more. It ends where
/// the blob was [finished](super::Partial::finish), fails with what the blob [failed](super::Partial::fail) with, and with
/// `ConnectionAborted` if the blob was let go of or begun again.
pub struct PartialReader {
    shared: Arc<Shared>,
    at: u64,
    generation: u64,
    /// Waiting or reading has failed.
    broken: bool,
}

impl PartialReader {
    pub(super) fn new(shared: Arc<Shared>) -> PartialReader {
        let generation = shared.state().generation;
        PartialReader { shared, at: 0, generation, broken: false }
    }

    /// Another one, from the first byte on.
    pub fn again(&self) -> PartialReader {
        PartialReader { shared: self.shared.clone(), at: 0, generation: self.generation, broken: false }
    }

    /// Which beginning of the blob this reads: another number after it was cut short and begun again.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether reading has failed, so that who reads knows less than who writes about why.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// How much can be read now, once there is something to read; 0 at the end.
    fn there(&mut self) -> io::Result<u64> {
        let end = self.available().inspect_err(|_| self.broken = true)?;
        Ok(end - self.at)
    }

    /// The end of what can be read now, once there is something to read or nothing will come.
    fn available(&self) -> io::Result<u64> {
        let mut state = self.shared.state();
        loop {
            if state.generation != self.generation {
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the download was begun again"));
            }
            let prefix = state.spans.prefix_len();
            match &state.end {
                End::Failed(kind, text) => return Err(io::Error::new(*kind, text.clone())),
                End::Finished => return Ok(prefix),
                End::Open if prefix > self.at => return Ok(prefix),
                End::Open => state = self.shared.grown.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl Read for PartialReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = usize::try_from(self.there()?).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.shared.file.read_at(&mut buffer[..length], self.at).inspect_err(|_| self.broken = true)?;
        if read == 0 && length > 0 {
            self.broken = true;
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file of the store became shorter"));
        }
        self.at += read as u64;
        Ok(read)
    }
}

impl Input for PartialReader {
    fn in_file(&mut self) -> io::Result<Option<InFile<'_>>> {
        let length = self.there()?;
        Ok(Some(InFile { file: self.shared.file.as_fd(), at: self.at, length }))
    }

    fn pass(&mut self, length: u64) {
        self.at += length;
    }
}
