//! Bodies: what answers are made of, and how a request's body is read, whole and bounded or streamed into a reader.
//! Owns the limits; must not know what is in a body except that JSON is JSON.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::fault::Fault;
use crate::request_body::RequestBody;

/// The largest JSON body that is read, in bytes.
pub const MAX_JSON: usize = 4 << 20;

/// Pieces of a request body that wait for the reader.
const READ_AHEAD: usize = 16;

/// The body of an answer.
pub enum Body {
    /// All of it at once.
    Whole(Option<Bytes>),
    /// Piece by piece, until the stream ends. Dropped when the client leaves.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    /// Piece by piece from a writer; an error breaks the connection, so that no client takes a part for the whole.
    Pipe(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body {
    /// A body that is there at once.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    /// A body that comes from a stream.
    pub fn stream(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::Stream(Box::pin(stream))
    }

    /// A body that comes from a channel; ends when the senders are gone.
    pub fn channel(mut receiver: mpsc::Receiver<Bytes>) -> Self {
        Self::stream(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)))
    }
}

/// The other end of [`Body::Pipe`], for a blocking writer on another thread. A slow client slows the writer down; one that
/// has left makes it fail.
pub struct BodyWriter(mpsc::Sender<io::Result<Bytes>>);

impl BodyWriter {
    /// A pipe: the writer, and the body that gives out what is written.
    pub fn new() -> (Self, Body) {
        let (sender, pieces) = mpsc::channel(READ_AHEAD);
        (Self(sender), Body::Pipe(pieces))
    }

    /// Breaks the answer off.
    pub fn fail(self, error: io::Error) {
        // Where the client has left there is nothing to break off.
        self.0.blocking_send(Err(error)).ok();
    }
}

impl io::Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.0
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has left"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(stream) => {
                stream.as_mut().poll_next(context).map(|item| item.map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Pipe(pieces) => pieces.poll_recv(context).map(|item| item.map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Stream(_) | Self::Pipe(_) => SizeHint::default(),
        }
    }
}

/// Reads a JSON body. None at all, as Docker's clients send where every field is optional, is the default.
///
/// # Errors
/// 400 for a wrong content type or JSON that does not fit, 413 beyond [`MAX_JSON`].
pub async fn json<T: DeserializeOwned + Default>(headers: &HeaderMap, body: RequestBody) -> Result<T, Fault> {
    check_content_type(headers, &body)?;
    let bytes = bytes(headers, body).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    brig_api::go::from_slice(&bytes).map_err(|error| Fault::bad_request(format!("invalid JSON: {error}")))
}

async fn bytes(headers: &HeaderMap, body: RequestBody) -> Result<Bytes, Fault> {
    let too_large = || {
        Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body is larger than the {MAX_JSON} bytes that are accepted"),
        )
    };
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_JSON as u64) {
        return Err(too_large());
    }
    match Limited::new(body, MAX_JSON).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(error) => Err(Fault::bad_request(format!("reading the request body: {error}"))),
    }
}

fn check_content_type(headers: &HeaderMap, body: &RequestBody) -> Result<(), Fault> {
    let given = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if given.is_empty() && body.is_end_stream() {
        return Ok(());
    }
    let media = given.split(';').next().unwrap_or_default().trim();
    if media.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    if media.is_empty() {
        return Err(Fault::bad_request("malformed Content-Type header (): mime: no media type"));
    }
    Err(Fault::bad_request(format!("unsupported Content-Type header ({given}): must be 'application/json'")))
}

/// A request's body for a blocking reader on another thread. Pieces are handed over through a bounded channel, so a slow
/// reader slows the client down.
pub struct BodyReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl BodyReader {
    /// Starts to read `body`; reading ends when the reader is dropped.
    pub fn new(mut body: RequestBody) -> Self {
        let (sender, pieces) = mpsc::channel(READ_AHEAD);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let piece = match frame.map(Frame::into_data) {
                    Ok(Ok(data)) => Ok(data),
                    Ok(Err(_trailers)) => continue,
                    Err(error) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, error)),
                };
                let last = piece.is_err();
                if sender.send(piece).await.is_err() || last {
                    break;
                }
            }
        });
        Self { pieces, current: Bytes::new() }
    }
}

impl io::Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.current = piece?,
            }
        }
        let count = self.current.len().min(out.len());
        out[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}
