//! Owns a request's body on its way out, in small pieces, and the knowledge of whether it still moves: a slow line is not a
//! server that is silent. It must not know what is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// What is handed to the connection at once, in bytes.
const PIECE: usize = 64 << 10;

/// A body that is sent a piece at a time.
pub(super) struct Sent {
    left: Bytes,
    progress: Progress,
}

/// How much of a body is still to be handed to the connection, in bytes.
#[derive(Clone)]
pub(super) struct Progress(Arc<AtomicUsize>);

impl Progress {
    /// What has not been taken yet.
    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Sent {
    pub(super) fn new(bytes: Bytes) -> (Sent, Progress) {
        let progress = Progress(Arc::new(AtomicUsize::new(bytes.len())));
        (Sent { left: bytes, progress: progress.clone() }, progress)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
        let length = self.left.len().min(PIECE);
        let piece = self.left.split_to(length);
        self.progress.0.store(self.left.len(), Ordering::Relaxed);
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}
