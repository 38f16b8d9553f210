//! Bodies: what answers are made of, and how a request's body is taken piece by piece.
//! Owns how much of either is in memory at once. Must not know what is in a body.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::refusal::Refusal;
use crate::turns::{Turn, Turns};

/// An answer.
pub(crate) type Answer = Response<Body>;

/// How much of a file is read at once, in bytes; two such pieces are in memory for each reader.
const PIECE: u64 = 256 << 10;

/// What is taken or given whole and is no longer is in memory beside any others, in bytes.
pub(crate) const SMALL: usize = 64 << 10;

/// The body of an answer.
pub(crate) enum Body {
    /// All of it at once.
    Whole(Option<Bytes>),
    /// A part of a file.
    File(FilePart),
    /// Much of what is in memory.
    Held(Held),
    /// What is made while it is sent.
    Made(Made),
}

impl Body {
    /// Nothing.
    pub(crate) fn empty() -> Body {
        Body::Whole(None)
    }

    /// A body that is there at once.
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        Body::Whole((!bytes.is_empty()).then_some(bytes))
    }

    /// What is in memory while it is sent, and the turn for that.
    pub(crate) fn held(bytes: impl Into<Bytes>, turn: Turn) -> Body {
        Body::Held(Held { left: bytes.into(), turn: Some(turn) })
    }

    /// The bytes of `file` from `start` to `end`.
    pub(crate) fn file(file: File, start: u64, end: u64) -> Body {
        Body::File(FilePart { file: Arc::new(file), at: start, end, coming: None })
    }

    /// The bytes of `source` from `start` to `end`, which is read by a thread that may wait. Where `end` is its end, the last
    /// bytes are given out only when the source has told its end without an error.
    pub(crate) fn made(source: impl Read + Send + 'static, start: u64, end: u64) -> Body {
        let (sender, pieces) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = make(source, start, end, &sender) {
                tracing::error!("a blob could not be given out whole: {error}");
                sender.blocking_send(Err(error)).ok();
            }
        });
        Body::Made(Made { pieces, left: end.saturating_sub(start) })
    }
}

/// Bytes in memory. They are given out in copies of a piece each: what the connection still has to send of those does not keep the
/// whole in memory when the turn is over.
pub(crate) struct Held {
    left: Bytes,
    turn: Option<Turn>,
}

impl Held {
    fn next(&mut self) -> Option<io::Result<Bytes>> {
        let piece = self.left.split_to(self.left.len().min(SMALL));
        let piece = (!piece.is_empty()).then(|| Ok(Bytes::copy_from_slice(&piece)));
        if self.left.is_empty() {
            self.left = Bytes::new();
            self.turn = None;
        }
        piece
    }
}

/// Bytes that are made on another thread.
pub(crate) struct Made {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    left: u64,
}

impl Made {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let piece = ready!(self.pieces.poll_recv(context));
        if let Some(Ok(piece)) = &piece {
            self.left = self.left.saturating_sub(piece.len() as u64);
        }
        Poll::Ready(piece)
    }
}

/// Sends the pieces, each when the next one is there. Ends early when nobody takes them.
fn make(mut source: impl Read, start: u64, end: u64, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    io::copy(&mut (&mut source).take(start), &mut io::sink())?;
    let mut left = end.saturating_sub(start);
    let mut ready: Option<Bytes> = None;
    loop {
        let mut piece = Vec::new();
        // One byte more than there should be: reading the end is what verifies the whole.
        let most = if left <= PIECE { left + 1 } else { PIECE };
        (&mut source).take(most).read_to_end(&mut piece)?;
        let is_last = piece.len() as u64 >= left || piece.is_empty();
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= piece.len() as u64;
        if let Some(ready) = ready.replace(piece.into())
            && sender.blocking_send(Ok(ready)).is_err()
        {
            return Ok(());
        }
        if is_last {
            break;
        }
    }
    if left > 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the blob has ended early"));
    }
    if let Some(ready) = ready.filter(|ready| !ready.is_empty()) {
        sender.blocking_send(Ok(ready)).ok();
    }
    Ok(())
}

/// A part of a file on its way out, read one piece ahead.
pub(crate) struct FilePart {
    file: Arc<File>,
    /// Where the next piece begins that is not yet being read.
    at: u64,
    end: u64,
    coming: Option<JoinHandle<io::Result<Bytes>>>,
}

impl FilePart {
    fn read_ahead(&mut self) {
        if self.at >= self.end {
            return;
        }
        let (file, at, length) = (self.file.clone(), self.at, PIECE.min(self.end - self.at));
        self.at += length;
        self.coming = Some(tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read_exact_at(&mut piece, at)?;
            Ok(piece.into())
        }));
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.coming.is_none() {
            self.read_ahead();
        }
        let Some(coming) = &mut self.coming else { return Poll::Ready(None) };
        let piece = ready!(Pin::new(coming).poll(context)).map_err(io::Error::other).flatten();
        self.coming = None;
        if piece.is_ok() {
            self.read_ahead();
        }
        Poll::Ready(Some(piece))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let piece = match self.get_mut() {
            Body::Whole(bytes) => bytes.take().map(Ok),
            Body::File(part) => ready!(part.poll(context)),
            Body::Held(held) => held.next(),
            Body::Made(made) => ready!(made.poll(context)),
        };
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Body::Whole(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Body::File(part) => part.end.saturating_sub(part.at),
            Body::Held(held) => held.left.len() as u64,
            Body::Made(made) => made.left,
        })
    }
}

/// A request's body, taken piece by piece, each within a time limit.
pub(crate) struct Pieces {
    incoming: Incoming,
    patience: Duration,
}

impl Pieces {
    /// `patience` is how long a client may take for its next bytes.
    pub(crate) fn new(incoming: Incoming, patience: Duration) -> Pieces {
        Pieces { incoming, patience }
    }

    /// The length that was announced, if one was.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            match tokio::time::timeout(self.patience, self.incoming.frame()).await {
                Err(_) => {
                    let text = format!("no byte came for {} seconds", self.patience.as_secs());
                    return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", text));
                }
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(Refusal::upload_invalid(format!("reading the body: {error}"))),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_trailers) => {}
                },
            }
        }
    }

    /// All of it, if it is no longer than `limit` bytes; else `None`. What is not [`SMALL`] waits for one of the client's turns, which
    /// stays with it, and must then be here within the time limit.
    pub(crate) async fn whole(
        mut self,
        limit: usize,
        turns: &Turns,
        client: IpAddr,
    ) -> Result<Option<(Vec<u8>, Option<Turn>)>, Refusal> {
        if self.announced().is_some_and(|length| length > limit as u64) {
            return Ok(None);
        }
        let (mut bytes, mut turn, mut until) = (Vec::new(), None, None);
        while let Some(piece) = self.next_until(until).await? {
            if bytes.len() + piece.len() > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&piece);
            if bytes.len() > SMALL && turn.is_none() {
                turn = Some(turns.take(client, self.patience).await?);
                until = Some(Instant::now() + self.patience);
            }
        }
        Ok(Some((bytes, turn)))
    }

    /// As [`Pieces::next`], before that moment.
    async fn next_until(&mut self, until: Option<Instant>) -> Result<Option<Bytes>, Refusal> {
        let Some(until) = until else { return self.next().await };
        tokio::time::timeout_at(until, self.next()).await.unwrap_or_else(|_| {
            let text = format!("so large a body must be here within {} seconds", self.patience.as_secs());
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "SIZE_INVALID", text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_memory_keeps_its_turn_until_the_last_of_it_is_taken() {
        const PATIENCE: Duration = Duration::from_millis(10);
        let turns = Turns::new(1, 1);
        let client = IpAddr::from([127, 0, 0, 1]);
        let text: Vec<u8> = (0..SMALL * 2 + 1).map(|n| n as u8).collect();
        let mut body = Body::held(text.clone(), turns.take(client, PATIENCE).await.unwrap());
        let mut taken = Vec::new();
        while taken.len() < text.len() {
            assert!(turns.take(client, PATIENCE).await.is_err());
            assert_eq!(body.size_hint().exact(), Some((text.len() - taken.len()) as u64));
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= SMALL);
            taken.extend_from_slice(&piece);
        }
        assert!(taken == text && turns.take(client, PATIENCE).await.is_ok());
        assert!(body.frame().await.is_none());
    }
}
