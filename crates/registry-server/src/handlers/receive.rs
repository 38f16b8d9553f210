//! Bytes of a blob on their way in: from the connection to the disk, a bounded amount at a time.
//! Owns the hand-over between the asynchronous side and threads that may wait. Must not know what the bytes are for.

use std::sync::Arc;

use brig_store::{ErrorKind, Partial};
use bytes::{Bytes, BytesMut};
use hyper::StatusCode;
use tokio::task::JoinHandle;

use super::partial_name;
use crate::body::Pieces;
use crate::refusal::Refusal;
use crate::registry::{Registry, Writing};

/// How much is collected before it is written, in bytes: less often a thread is taken for it, more is in memory. Twice that
/// is there at once for each upload that is being sent.
const BATCH: usize = 512 << 10;

/// An upload that this request alone works on.
pub(super) struct Receiver {
    registry: Registry,
    partial: Arc<Partial>,
    writing: Writing,
}

impl Receiver {
    /// Opens an upload's bytes; refused while another request works on them and does not end soon.
    pub(super) async fn open(registry: &Registry, id: &str) -> Result<Receiver, Refusal> {
        let busy = || {
            let text = "another request is sending to this upload: ask how far it is, or wait until it has ended";
            Refusal::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", text).header(hyper::header::RETRY_AFTER, "1")
        };
        let writing = registry.inner.wait_to_write(id).await.ok_or_else(busy)?;
        let name = partial_name(id);
        let partial = registry
            .blocking(move |inner| match inner.store.partials().open(&name) {
                Ok(partial) => Ok(Some(partial)),
                Err(error) if error.kind == ErrorKind::Busy => Ok(None),
                Err(error) => Err(error.into()),
            })
            .await?
            .ok_or_else(busy)?;
        writing.set(partial.len());
        Ok(Receiver { registry: registry.clone(), partial: Arc::new(partial), writing })
    }

    /// How much is there.
    pub(super) fn len(&self) -> u64 {
        self.partial.len()
    }

    /// Adds a body to the end. What arrived before the connection broke stays, so that the client can go on from there; if
    /// more than `expected` arrives, or less at a regular end, all of it is taken back.
    pub(super) async fn add(&self, mut body: Pieces, expected: Option<u64>) -> Result<(), Refusal> {
        let before = self.len();
        let outcome = self.write(&mut body, expected).await;
        self.writing.set(self.len());
        match outcome? {
            Some(count) if expected.is_none_or(|expected| expected == count) => Ok(()),
            _ => {
                let partial = self.partial.clone();
                self.registry.blocking(move |_| Ok(partial.truncate(before)?)).await?;
                self.writing.set(before);
                Err(Refusal::size_invalid("the body is not as long as was said"))
            }
        }
    }

    /// How many bytes came; `None` if more than expected.
    async fn write(&self, body: &mut Pieces, expected: Option<u64>) -> Result<Option<u64>, Refusal> {
        let mut count = 0;
        let mut batch = Batch::default();
        let mut under_way: Option<JoinHandle<brig_store::Result<()>>> = None;
        let outcome = loop {
            match body.next().await {
                Err(refusal) => break Err(refusal),
                Ok(None) => break Ok(Some(count)),
                Ok(Some(piece)) => {
                    count += piece.len() as u64;
                    if expected.is_some_and(|expected| count > expected) {
                        break Ok(None);
                    }
                    batch.push(piece);
                }
            }
            if batch.length >= BATCH {
                wait(under_way.take()).await?;
                self.writing.set(self.len());
                under_way = Some(self.write_batch(batch.take()));
            }
        };
        // What arrived before the connection broke is kept too.
        wait(under_way).await?;
        wait(Some(self.write_batch(batch.take()))).await?;
        outcome
    }

    fn write_batch(&self, batch: Vec<Bytes>) -> JoinHandle<brig_store::Result<()>> {
        let partial = self.partial.clone();
        tokio::task::spawn_blocking(move || batch.iter().try_for_each(|piece| partial.append(piece)))
    }

    /// The bytes, whole now, to be published, and what keeps others off them meanwhile.
    pub(super) fn into_parts(self) -> Result<(Partial, Writing), Refusal> {
        let partial =
            Arc::into_inner(self.partial).ok_or_else(|| Refusal::internal("an upload is still being written"))?;
        Ok((partial, self.writing))
    }
}

/// Pieces that are collected before they are written. Small ones are put together: a client that sends a byte at a time would else
/// take many times that room.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    small: BytesMut,
    length: usize,
}

impl Batch {
    /// A piece that is smaller is copied, in bytes.
    const SMALL: usize = 16 << 10;

    fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if piece.len() < Batch::SMALL {
            self.small.extend_from_slice(&piece);
        } else {
            self.join();
            self.pieces.push(piece);
        }
    }

    fn join(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    /// What was collected, in its order.
    fn take(&mut self) -> Vec<Bytes> {
        self.join();
        std::mem::take(self).pieces
    }
}

async fn wait(under_way: Option<JoinHandle<brig_store::Result<()>>>) -> Result<(), Refusal> {
    match under_way {
        Some(handle) => Ok(handle.await.map_err(Refusal::internal)??),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_pieces_take_no_more_room_than_a_large_one() {
        let mut batch = Batch::default();
        let sent: Vec<u8> = (0..BATCH).map(|n| n as u8).collect();
        let (one_by_one, large) = sent.split_at(BATCH / 2);
        one_by_one.iter().for_each(|byte| batch.push(Bytes::copy_from_slice(&[*byte])));
        batch.push(Bytes::copy_from_slice(large));
        batch.push(Bytes::from_static(b"end"));
        assert_eq!(batch.length, BATCH + 3);
        let pieces = batch.take();
        assert_eq!(pieces.len(), 3);
        assert_eq!(pieces.concat(), [&sent[..], b"end"].concat());
        assert!(batch.take().is_empty() && batch.length == 0);
    }
}
