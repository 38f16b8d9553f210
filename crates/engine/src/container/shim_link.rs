//! The engine's end of a shim: starting one, hearing its events, asking it things. Owns the waiting that the shim crate
//! leaves to its caller; must not decide anything about containers.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use brig_shim::client;
use brig_shim::protocol::{self, Answer, Event, Failure, FailureKind, Message, Request, Subscribed};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::error::{Error, ErrorKind, Result};

/// A shim answers in microseconds; one that is silent this long is stopped or gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// When the daemon starts, the API waits for the slowest shim: one that is silent this long is asked again later.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(2);

/// A connection with events.
pub struct ShimLink {
    stream: UnixStream,
    buffer: Vec<u8>,
    ready: VecDeque<Message>,
}

impl ShimLink {
    /// Takes over the engine's end of descriptor 3 of a new shim.
    pub fn new(stream: std::os::unix::net::UnixStream) -> Result<Self> {
        Ok(Self { stream: to_tokio(stream)?, buffer: Vec::new(), ready: VecDeque::new() })
    }

    /// Finds the shim that serves `dir` and subscribes; `None` when no shim is there.
    pub async fn reconnect(dir: &Path) -> Result<Option<(Self, protocol::Status)>> {
        let stream = match client::connect(dir) {
            Ok(stream) => stream,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(unreachable(dir, &e)),
        };
        let mut link = Self::new(stream)?;
        link.send(&Request::Subscribe).await?;
        let answer = tokio::time::timeout(RECONNECT_PATIENCE, link.next_answer()).await.map_err(|_| silent(dir))?;
        let Some(answer) = answer else { return Ok(None) };
        let subscribed: Subscribed = convert(answer)?;
        Ok(Some((link, subscribed.state)))
    }

    /// Sends a request on this connection.
    pub async fn send(&mut self, request: &Request) -> Result<()> {
        self.stream
            .write_all(&protocol::encode(request))
            .await
            .map_err(|e| Error::system(format!("the container's shim went away: {e}")))
    }

    /// The next event; answers to requests on this connection are passed over. `None` when the shim is gone.
    /// May be dropped at any await without losing anything.
    pub async fn next_event(&mut self) -> Option<Event> {
        loop {
            match self.next_message().await? {
                Message::Event(event) => return Some(event),
                Message::Answer(Answer::Error(failure)) => {
                    // A refusal of `go` is the only one that matters: it means that nothing will start.
                    return Some(Event::Failed { error: failure });
                }
                Message::Answer(Answer::Ok(_)) => {}
            }
        }
    }

    async fn next_answer(&mut self) -> Option<Answer<serde_json::Value>> {
        let mut events = VecDeque::new();
        let answer = loop {
            match self.next_message().await? {
                Message::Answer(answer) => break answer,
                event @ Message::Event(_) => events.push_back(event),
            }
        };
        // Events that came in between are not lost.
        events.append(&mut self.ready);
        self.ready = events;
        Some(answer)
    }

    async fn next_message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Some(message);
            }
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                match protocol::decode_message(&line) {
                    Ok(message) => self.ready.push_back(message),
                    Err(e) => tracing::error!("{e}"),
                }
            }
            if !self.ready.is_empty() {
                continue;
            }
            if self.buffer.len() > protocol::MAX_LINE || self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0
            {
                return None;
            }
        }
    }

    /// Lets the shim end once its clients have their output.
    pub async fn release(&mut self) {
        // A shim that is already gone needs no leave.
        self.send(&Request::Release).await.ok();
    }
}

fn to_tokio(stream: std::os::unix::net::UnixStream) -> Result<UnixStream> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|e| Error::system(format!("prepare a shim's socket: {e}")))
}

fn unreachable(dir: &Path, e: &std::io::Error) -> Error {
    Error::system(format!("connect to the shim in {}: {e}", dir.display()))
}

fn silent(dir: &Path) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the shim in {} does not answer", dir.display()))
}

/// Connects, asks one thing and gives the answer with the connection, which may have become a stream.
async fn exchange(dir: &Path, request: &Request) -> Result<(Answer<serde_json::Value>, UnixStream)> {
    let stream = client::connect(dir).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            Error::conflict("container is not running")
        }
        _ => unreachable(dir, &e),
    })?;
    let mut stream = to_tokio(stream)?;
    let answered = async {
        stream.write_all(&protocol::encode(request)).await?;
        // Byte by byte up to the newline: what follows already belongs to the process's output.
        let mut line = Vec::with_capacity(128);
        loop {
            let byte = stream.read_u8().await?;
            line.push(byte);
            if byte == b'\n' || line.len() > protocol::MAX_LINE {
                break std::io::Result::Ok(line);
            }
        }
    };
    let line = tokio::time::timeout(PATIENCE, answered)
        .await
        .map_err(|_| silent(dir))?
        .map_err(|e| Error::system(format!("the shim in {} hung up: {e}", dir.display())))?;
    let answer = protocol::decode_answer(&line).map_err(|e| Error::system(e.to_string()))?;
    Ok((answer, stream))
}

/// Asks one thing.
pub async fn ask(dir: &Path, request: &Request) -> Result<serde_json::Value> {
    exchange(dir, request).await?.0.into_result().map_err(from_failure)
}

/// Asks one thing whose answer has a type.
pub async fn ask_for<T: DeserializeOwned>(dir: &Path, request: &Request) -> Result<T> {
    convert(exchange(dir, request).await?.0)
}

/// Asks for streams: the connection carries them when the answer is good.
pub async fn stream(dir: &Path, request: &Request) -> Result<UnixStream> {
    let (answer, stream) = exchange(dir, request).await?;
    answer.into_result().map_err(from_failure)?;
    Ok(stream)
}

/// Asks for streams and gives the answer too.
pub async fn stream_with<T: DeserializeOwned>(dir: &Path, request: &Request) -> Result<(T, UnixStream)> {
    let (answer, stream) = exchange(dir, request).await?;
    Ok((convert(answer)?, stream))
}

fn convert<T: DeserializeOwned>(answer: Answer<serde_json::Value>) -> Result<T> {
    let value = answer.into_result().map_err(from_failure)?;
    serde_json::from_value(value).map_err(|e| Error::system(format!("the shim answered with something else: {e}")))
}

/// A shim's refusal as an error of the engine.
pub fn from_failure(failure: Failure) -> Error {
    let kind = match failure.kind {
        FailureKind::NotFound | FailureKind::NotExecutable | FailureKind::Invalid => ErrorKind::InvalidParameter,
        FailureKind::Unsupported => ErrorKind::InvalidParameter,
        FailureKind::NotRunning => ErrorKind::Conflict,
        FailureKind::System => ErrorKind::System,
    };
    Error::new(kind, failure.message)
}

/// The exit code that stands for a failed start, as Docker's.
pub fn exit_code_of(failure: &Failure) -> i64 {
    match failure.kind {
        FailureKind::NotFound => 127,
        FailureKind::NotExecutable => 126,
        FailureKind::Invalid | FailureKind::Unsupported | FailureKind::NotRunning | FailureKind::System => 128,
    }
}
