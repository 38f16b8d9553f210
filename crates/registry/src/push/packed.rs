//! Owns making a layer's blob for the wire: its tar is made again and compressed, always to the same bytes, into a file
//! without a name. It must not decide whether that is needed.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use brig_oci::{Descriptor, Digest, media_type};
use brig_store::Store;
use brig_store::digest::Hasher;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{Error, ErrorKind, Result};

/// How layers are compressed: part of what makes a blob's digest, so it must not change lightly.
const LEVEL: u32 = 6;

/// Bytes to upload.
#[derive(Clone)]
pub(super) enum Content {
    Bytes(Bytes),
    File(Arc<File>),
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

/// Makes the blob of a layer, in the form that the media type of `like` says: plain if that is, else gzip. Blocks.
pub(super) fn pack(store: &Store, chain: &Digest, like: &str) -> Result<Packed> {
    let tar = store.layer_tar(chain)?;
    let file = brig_store::scratch_file(store)?;
    let is_docker = like.starts_with("application/vnd.docker.");
    let output = Hashed { output: BufWriter::with_capacity(1 << 20, file), hasher: Hasher::sha256(), count: 0 };
    let (media_type, output) = match like {
        media_type::OCI_LAYER | media_type::DOCKER_LAYER => (like, copy(tar, output)?),
        _ => {
            let packed = copy(tar, GzEncoder::new(output, Compression::new(LEVEL)))?;
            let kind = if is_docker { media_type::DOCKER_LAYER_GZIP } else { media_type::OCI_LAYER_GZIP };
            (kind, packed.finish().map_err(|error| failed(&error))?)
        }
    };
    let descriptor = Descriptor::new(media_type, output.hasher.finish(), output.count);
    let file = output.output.into_inner().map_err(|error| failed(error.error()))?;
    Ok(Packed { descriptor, content: Content::File(Arc::new(file)) })
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
