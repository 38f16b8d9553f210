//! Importing from a URL: the file is fetched on one side and unpacked on the other while it comes. Owns Docker's words
//! for that; the connection is the registry client's.

use std::io::{self, Read};

use brig_registry::ErrorKind as Refused;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::Images;
use super::archive::Import;
use super::transfer::{self, LINES, Progress, failure, status, with_detail};
use crate::error::{Error, ErrorKind, Result};

/// How many pieces may wait for the unpacking.
const PIECES: usize = 16;
/// Bytes between two lines of progress.
const STEP: u64 = 512 * 1024;

/// See [`Images::import_from`].
pub(super) async fn import(images: Images, url: String, import: Import) -> Result<Progress> {
    let (sender, lines) = mpsc::channel(LINES);
    let (begun, beginning) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let client = images.client.settled();
        let mut fetch = match client.fetch(&url).await {
            Ok(fetch) => fetch,
            Err(error) => {
                begun.send(Err(from_fetch(error))).ok();
                return;
            }
        };
        let source = fetch.source();
        let importing = match images.importing(import, &source) {
            Ok(importing) => importing,
            Err(error) => {
                begun.send(Err(error)).ok();
                return;
            }
        };
        let total = fetch.total().unwrap_or(0);
        // Nobody listens any more if this fails, which the next line notices too.
        begun.send(Ok(())).ok();
        sender.send(status(format!("Downloading from {source}"), "")).await.ok();
        let (pieces, reader) = mpsc::channel(PIECES);
        let reader = Pieces { pieces: reader, current: Bytes::new(), ended: false };
        let into = images.clone();
        let unpacking = tokio::task::spawn_blocking(move || into.import_now(importing, reader));
        let (mut current, mut told) = (0, 0);
        loop {
            let piece = tokio::select! {
                piece = fetch.chunk() => piece,
                () = sender.closed() => return,
            };
            let piece = match piece {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(error) => {
                    pieces.send(Err(io::Error::other(error.message))).await.ok();
                    break;
                }
            };
            current += piece.len() as u64;
            if current - told >= STEP || current == total {
                told = current;
                // A client that reads too slowly misses a step of a progress bar, nothing else.
                sender.try_send(with_detail("Importing", "", current, total)).ok();
            }
            if pieces.send(Ok(piece)).await.is_err() {
                // The unpacking has failed, and says why.
                break;
            }
        }
        // The end of the input for the unpacking.
        pieces.send(Ok(Bytes::new())).await.ok();
        let last = unpacking.await.unwrap_or_else(|error| failure(&format!("the import was cut short: {error}")));
        sender.send(last).await.ok();
    });
    match beginning.await {
        Ok(result) => result.map(|()| lines),
        Err(_) => Err(Error::system("the import was cut short")),
    }
}

/// The pieces as a stream. An empty one is the end; that nobody sends any more is none.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.ended {
            self.current = match self.pieces.blocking_recv() {
                Some(piece) => piece?,
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the import was given up")),
            };
            self.ended = self.current.is_empty();
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

fn from_fetch(error: brig_registry::Error) -> Error {
    match error.kind {
        Refused::Denied => Error::new(ErrorKind::Forbidden, error.message),
        _ => transfer::from_registry(error),
    }
}
