//! A plain tar on its way into a directory: read and decoded on one thread, hashed and unpacked on another beside it.
//! Must not know where the stream comes from.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use brig_oci::Digest;
use brig_sys::beneath::Root;

use super::MAX_LAYER_SIZE;
use crate::apply::{self, Applied, Content, WriteBack};
use crate::digest::Hasher;
use crate::error::{Error, Result};

/// How much is read ahead of the unpacking thread, and in what pieces. The first ones are smaller: a small layer's time goes
/// into what is touched for the first time.
const PIECE: usize = 256 * 1024;
const FIRST_PIECE: usize = 64 * 1024;
const FIRST_PIECES: u64 = 24;
const PIECES: usize = 4;
/// How many pieces pass between two signs of life.
const BEAT: u64 = 32;

/// Unpacks into the directory `root` of the ingest `directory`; calls `alive` before the first byte is read, when all threads
/// have been started, and then every few megabytes. Tells the tar's digest, its
/// length, and what came of it.
pub(crate) fn unpack_stream(
    directory: &Root,
    root: &Root,
    reader: impl Read,
    content: Content,
    alive: &dyn Fn(),
) -> Result<(Digest, u64, Applied)> {
    let (full, pieces) = sync_channel(PIECES);
    let (recycle, empty) = sync_channel(PIECES + 2);
    let write_back = WriteBack::start();
    std::thread::scope(|scope| {
        let write_back = &write_back;
        let work = move || {
            let mut pieces = Pieces { pieces, recycle, current: Vec::new(), at: 0, hasher: Hasher::sha256() };
            apply::apply(directory, root, &mut pieces, content, write_back)
                .map(|applied| (pieces.hasher.finish(), applied))
        };
        let worker = std::thread::Builder::new()
            .name("store-unpack".into())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::io("start an unpacking thread", error))?;
        let fed = feed(reader, &full, &empty, alive);
        drop(full);
        // The unpacking thread runs engine code over hostile data: should it panic, that is this layer's failure only.
        let applied = worker.join().unwrap_or_else(|_| Err(Error::invalid("unpacking stopped unexpectedly")));
        match (fed, applied) {
            // A broken stream makes unpacking fail too; it is the cause.
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(size), Ok((diff_id, applied))) => Ok((diff_id, size, applied)),
        }
    })
}

/// Reads to the end and hands pieces to the other thread; ends early if that one has failed.
fn feed(mut reader: impl Read, full: &SyncSender<Vec<u8>>, empty: &Receiver<Vec<u8>>, alive: &dyn Fn()) -> Result<u64> {
    let mut total = 0u64;
    alive();
    for nth in 1.. {
        let size = if nth <= FIRST_PIECES { FIRST_PIECE } else { PIECE };
        let mut piece = empty.try_recv().unwrap_or_default();
        piece.resize(size, 0);
        let length = fill(&mut reader, &mut piece).map_err(|error| Error::input("read the layer", &error))?;
        piece.truncate(length);
        total += length as u64;
        if total > MAX_LAYER_SIZE {
            return Err(Error::invalid(format!("layer of more than {MAX_LAYER_SIZE} bytes")));
        }
        let ended = length < size;
        if full.send(piece).is_err() || ended {
            break;
        }
        if nth % BEAT == 0 {
            alive();
        }
    }
    // Whether the other side failed or merely had enough is for its own result to tell.
    Ok(total)
}

/// Reads until the buffer is full or the stream ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The stream as the unpacking thread sees it, hashed piece by piece.
struct Pieces {
    pieces: Receiver<Vec<u8>>,
    recycle: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    hasher: Hasher,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.current.len() {
            let Ok(next) = self.pieces.recv() else {
                return Ok(&[]);
            };
            self.hasher.update(&next);
            let used = std::mem::replace(&mut self.current, next);
            self.at = 0;
            if used.capacity() > 0 {
                // Only saves an allocation; the other side may have gone or have enough.
                let _spare = self.recycle.try_send(used);
            }
        }
        Ok(&self.current[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.fill_buf()?;
        let length = buffer.len().min(piece.len());
        buffer[..length].copy_from_slice(&piece[..length]);
        self.consume(length);
        Ok(length)
    }
}
