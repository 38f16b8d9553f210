//! Reading a compressed form: the blob that is kept, or the one that its recipe makes.
//! Owns that what is read has the digest that was asked for. Must not decide which form is wanted.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;

use brig_oci::Digest;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::tables::{self, State};
use super::{BLOB, Files, sound};
use crate::digest::Hasher;
use crate::error::{Error, Result};
use crate::store::Store;

/// Threads that make one blob. More are of little use: hashing is one.
const THREADS: usize = 4;

/// A layer of a stretch or two, in bytes of its tar: to start threads would take longer than they save, and others are made
/// beside it.
const SMALL: u64 = 2 << 20;

pub(super) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(THREADS))
}

/// The bytes of a compressed layer. The last read fails, in place of telling the end, if they have not the digest that was
/// asked for.
pub struct LayerBlob {
    input: Box<dyn Read + Send>,
    digest: Digest,
    size: u64,
    /// `None` once the end was verified.
    hasher: Option<Hasher>,
    read: u64,
    /// Whose it is and of which layer it is made, if it is, to find out what is to blame if it cannot be had.
    origin: Option<(Store, Option<Digest>)>,
}

impl LayerBlob {
    pub(super) fn new(input: Box<dyn Read + Send>, digest: &Digest, size: u64) -> LayerBlob {
        LayerBlob { input, digest: digest.clone(), size, hasher: Some(Hasher::like(digest)), read: 0, origin: None }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its digest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl LayerBlob {
    /// Sees to it that a pull brings anew what is damaged, and says what that is.
    fn failed(&mut self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::InvalidData {
            return error;
        }
        let Some((store, chain)) = self.origin.take() else { return error };
        match blame(&store, &self.digest, chain.as_ref()) {
            Some(why) => io::Error::new(io::ErrorKind::InvalidData, why),
            None => error,
        }
    }
}

/// See [`sound::blame`]; that it cannot be found out is told only here.
fn blame(store: &Store, digest: &Digest, chain: Option<&Digest>) -> Option<String> {
    sound::blame(store, digest, chain).unwrap_or_else(|error| {
        tracing::warn!("cannot find out why {digest} cannot be made again: {error}");
        None
    })
}

impl Read for LayerBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let length = self.input.read(buffer).map_err(|error| self.failed(error))?;
        if length > 0 {
            self.read += length as u64;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buffer[..length]);
            }
            return Ok(length);
        }
        match self.hasher.take().map(Hasher::finish) {
            Some(actual) if actual != self.digest => {
                let text = format!(
                    "the compressed form {} of a layer cannot be made again (it would be {actual}): pull the image again",
                    self.digest
                );
                Err(self.failed(io::Error::new(io::ErrorKind::InvalidData, text)))
            }
            _ => Ok(0),
        }
    }
}

impl Files {
    pub(super) fn open(&self, name: &str) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(self.dir.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open", name, errno)),
        }
    }
}

/// Opens a form. What is damaged will be brought back by a pull if `blames`; a check that only looks does not want that.
pub(super) fn open(store: &Store, files: &Files, digest: &Digest, blames: bool) -> Result<LayerBlob> {
    let missing = || Error::not_found(format!("no layer is here that can be had as {digest}"));
    let Some(row) = tables::find(&store.inner.database, digest)? else {
        // A layer that came uncompressed is its own tar.
        let (chain, tar) = super::tar(store, digest)?.ok_or_else(missing)?;
        let tar = tar.left_to_reader();
        let size = tar.size();
        let origin = blames.then(|| (store.clone(), Some(chain)));
        return Ok(LayerBlob { origin, ..LayerBlob::new(Box::new(tar), digest, size) });
    };
    let size = row.form.size_bytes;
    let hex = digest.hex();
    if row.state != State::Recipe
        && let Some(file) = files.open(&format!("{hex}{BLOB}"))?
    {
        let origin = blames.then(|| (store.clone(), None));
        return Ok(LayerBlob { origin, ..LayerBlob::new(Box::new(file), digest, size) });
    }
    // The worker may have come between.
    let recipe = files.open(hex)?.ok_or_else(missing)?;
    let (chain, tar) = super::tar(store, &row.form.diff_id)?.ok_or_else(missing)?;
    let threads = if tar.size() <= SMALL { 1 } else { threads() };
    let made = brig_deflate::rebuild(tar.left_to_reader(), BufReader::new(recipe), threads);
    let made = made.map_err(|error| {
        if blames {
            // The recipe alone tells how it begins: there is nothing to say of the layer.
            drop(blame(store, digest, Some(&chain)));
        }
        Error::corrupt(format!("the compressed form {digest} of a layer: {error}: pull the image again"))
    })?;
    let origin = blames.then(|| (store.clone(), Some(chain)));
    Ok(LayerBlob { origin, ..LayerBlob::new(made, digest, size) })
}
