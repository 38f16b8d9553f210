//! Owns making a layer's blob for the wire: the very one that it came as, where the store can make that again, while it is
//! sent; else its tar is compressed, always to the same bytes, the first
//! time into a file without a name. It must not decide whether that
//! is needed.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use brig_oci::{Descriptor, Digest, media_type};
use brig_store::digest::Hasher;
use brig_store::{Compression, Form, LayerBlob, Packed as Forms, Store};
use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

/// Bytes to upload.
#[derive(Clone)]
pub(super) enum Content {
    Bytes(Bytes),
    File(Arc<File>),
    /// Made while it is read.
    Made(Arc<Mutex<Made>>),
}

/// A blob that is made again, as far as it was read.
pub(super) struct Made {
    store: Store,
    digest: Digest,
    blob: Option<LayerBlob>,
    /// How much of it was read.
    at: u64,
    /// What was read last, and where it began: what a broken connection asks for again.
    last: (u64, Bytes),
}

impl Made {
    /// From `offset` on. What was read before the last piece has to be made anew.
    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let again = offset.checked_sub(self.last.0).and_then(|skipped| usize::try_from(skipped).ok());
        if let Some(skipped) = again.filter(|skipped| *skipped < self.last.1.len()) {
            return Ok(self.last.1.slice(skipped..self.last.1.len().min(skipped.saturating_add(length))));
        }
        if offset < self.at {
            (self.blob, self.at) = (None, 0);
        }
        let blob = match &mut self.blob {
            Some(blob) => blob,
            None => self.blob.insert(Forms::of(&self.store).blob(&self.digest)?),
        };
        let skipped = io::copy(&mut blob.take(offset - self.at), &mut io::sink()).map_err(|error| failed(&error))?;
        self.at += skipped;
        let left = blob.size().saturating_sub(self.at);
        // One more than is wanted of the last piece: reading the end is what verifies the whole.
        let most = if left <= length as u64 { left + 1 } else { length as u64 };
        let mut bytes = Vec::with_capacity(usize::try_from(most).unwrap_or(length));
        blob.take(most).read_to_end(&mut bytes).map_err(|error| failed(&error))?;
        self.at += bytes.len() as u64;
        self.last = (offset, Bytes::from(bytes));
        Ok(self.last.1.clone())
    }
}

/// A blob that is ready to be uploaded.
pub(super) struct Packed {
    pub(super) descriptor: Descriptor,
    pub(super) content: Content,
}

impl Content {
    /// The bytes from `offset` on, at most `length`.
    pub(super) async fn read(&self, offset: u64, length: usize) -> Result<Bytes> {
        let file = match self {
            Content::Made(made) => {
                let made = made.clone();
                let read = move || made.lock().unwrap_or_else(PoisonError::into_inner).read(offset, length);
                return super::blocking(read).await;
            }
            Content::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                return Ok(bytes.slice(start..bytes.len().min(start.saturating_add(length))));
            }
            Content::File(file) => file.clone(),
        };
        super::blocking(move || {
            let mut bytes = vec![0; length];
            let read = file.read_at(&mut bytes, offset).map_err(|error| failed(&error))?;
            bytes.truncate(read);
            Ok(Bytes::from(bytes))
        })
        .await
    }
}

fn failed(error: &io::Error) -> Error {
    let kind = if error.kind() == io::ErrorKind::InvalidData { ErrorKind::Invalid } else { ErrorKind::Storage };
    Error::new(kind, format!("prepare a layer for the registry: {error}"))
}

/// The blob that a layer came as, if the store can make it again. Blocks.
pub(super) fn original(store: &Store, original: &Descriptor) -> Option<Packed> {
    let blob = Forms::of(store).blob(&original.digest).ok().filter(|blob| blob.size() == original.size)?;
    Some(made(store, original.clone(), Some(blob)))
}

/// The blob of a layer in the form that the media type `like` says: plain if that is, else compressed as `compression` says.
/// Where that is known by its digest it is made while it is read, else now. Blocks.
pub(super) fn pack(store: &Store, chain: &Digest, like: &str, compression: Compression) -> Result<Packed> {
    let tar = store.layer_tar(chain)?;
    if matches!(like, media_type::OCI_LAYER | media_type::DOCKER_LAYER) {
        let descriptor = Descriptor::new(like, tar.diff_id().clone(), tar.size());
        return Ok(made(store, descriptor, None));
    }
    let forms = Forms::of(store);
    let media_type = match (compression, like.starts_with("application/vnd.docker.")) {
        // Docker's own kind has no word for zstd.
        (Compression::Zstd, _) => media_type::OCI_LAYER_ZSTD,
        (Compression::Gzip, true) => media_type::DOCKER_LAYER_GZIP,
        (Compression::Gzip, false) => media_type::OCI_LAYER_GZIP,
    };
    if let Some(known) = forms.known(tar.diff_id(), compression)? {
        return Ok(made(store, Descriptor::new(media_type, known.digest, known.size_bytes), None));
    }
    let file = brig_store::scratch_file(store)?;
    let output = Hashed { output: BufWriter::with_capacity(1 << 20, file), hasher: Hasher::sha256(), count: 0 };
    let output = copy(forms.compress(chain, compression)?, output)?;
    let file = output.output.into_inner().map_err(|error| failed(error.error()))?;
    let form = Form {
        digest: output.hasher.finish(),
        diff_id: tar.diff_id().clone(),
        media_type: media_type.to_owned(),
        size_bytes: output.count,
        has_recipe: true,
    };
    forms.compressed(&form, compression)?;
    let descriptor = Descriptor::new(media_type, form.digest, form.size_bytes);
    Ok(Packed { descriptor, content: Content::File(Arc::new(file)) })
}

fn made(store: &Store, descriptor: Descriptor, blob: Option<LayerBlob>) -> Packed {
    let (store, digest) = (store.clone(), descriptor.digest.clone());
    let made = Made { store, digest, blob, at: 0, last: (0, Bytes::new()) };
    Packed { descriptor, content: Content::Made(Arc::new(Mutex::new(made))) }
}

/// To the very end: the last read tells whether it is the right tar.
fn copy<W: Write>(mut tar: impl Read, mut output: W) -> Result<W> {
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match tar.read(&mut buffer).map_err(|error| failed(&error))? {
            0 => return Ok(output),
            length => output.write_all(&buffer[..length]).map_err(|error| failed(&error))?,
        }
    }
}

/// Hashes and counts what is written.
struct Hashed {
    output: BufWriter<File>,
    hasher: Hasher,
    count: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.output.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.count += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
