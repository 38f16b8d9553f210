//! A connection's byte stream under HTTP: Unix, TCP or TLS, with Docker's two liberties.
//!
//! Docker's hijack may be asked for without `Upgrade`, which HTTP does not have: such a request is given the header, and
//! the `101` that answers it becomes a `200`. And a client that half-closes behind a hijack request means the end of
//! stdin, while one that does so behind any other request has left; HTTP is told accordingly.
//! Owns that translation; must not know routes beyond which ones are hijacked.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

/// The longest request head that is looked at, in bytes; longer ones are left to HTTP to refuse.
const MAX_HEAD: usize = 64 << 10;

/// How long a request may still run when its client has closed its sending side: quick ones get their answer out.
const LEAVING: Duration = Duration::from_secs(2);

/// What bytes travel on.
pub enum Transport {
    /// A Unix socket.
    Unix(UnixStream),
    /// A TCP connection in the clear.
    Tcp(TcpStream),
    /// A TCP connection under TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Whether a request is being answered on the connection. Set by the socket when a head arrives, cleared by the server
/// when the answer has been given.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<AtomicBool>);

impl Busy {
    /// The answer has been given.
    pub fn done(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The socket that HTTP runs on.
pub struct Socket {
    transport: Transport,
    busy: Busy,
    /// A head that is not complete yet.
    held: Vec<u8>,
    /// Bytes for HTTP, and how many of them it has.
    inward: (Vec<u8>, usize),
    /// Bytes for the client that are not written yet, and how many of them are.
    outward: (Vec<u8>, usize),
    /// The present request will be hijacked: its end of input is not the client's leaving.
    hijack: bool,
    /// The answer's head is being collected, to make `200` of `101`.
    rewrite: bool,
    ended: bool,
    leaving: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// A socket before its first request.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            busy: Busy::default(),
            held: Vec::new(),
            inward: (Vec::new(), 0),
            outward: (Vec::new(), 0),
            hijack: false,
            rewrite: false,
            ended: false,
            leaving: None,
        }
    }

    /// The flag that the server clears after each answer.
    pub fn busy(&self) -> Busy {
        self.busy.clone()
    }

    /// The transport, and bytes that were read from it and not given to HTTP.
    pub fn into_transport(self) -> (Transport, Vec<u8>) {
        let (bytes, taken) = self.inward;
        (self.transport, bytes[taken..].to_vec())
    }

    /// Takes bytes that begin a request. They are held until it is clear whether the request is a hijack.
    fn examine(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let end = self.held.windows(4).position(|window| window == b"\r\n\r\n");
        let may_be_hijack = b"POST /".starts_with(&self.held[..self.held.len().min(6)]) && self.held.len() < MAX_HEAD;
        let line_is_open = !self.held.contains(&b'\n') && self.held.len() < MAX_HEAD;
        if line_is_open || (may_be_hijack && end.is_none()) {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let encoded = encode_target(&held);
        // Only the first line grew.
        let end = end.map(|end| end + encoded.len() - held.len());
        let mut head = encoded;
        self.busy.begin();
        self.hijack = false;
        if let Some(end) = end.filter(|end| is_hijack(&head[..*end])) {
            self.hijack = true;
            if !has_upgrade(&head[..end]) {
                self.rewrite = true;
                let line = head.windows(2).position(|window| window == b"\r\n").map_or(0, |at| at + 2);
                head.splice(line..line, *b"Connection: Upgrade\r\nUpgrade: tcp\r\n");
            }
        }
        self.inward = (head, 0);
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        if !self.held.is_empty() {
            self.inward = (std::mem::take(&mut self.held), 0);
        }
        if !self.busy.is_set() {
            return Poll::Ready(Ok(()));
        }
        if self.hijack {
            return Poll::Pending;
        }
        // A time limit; the answer's end comes before it.
        let sleep = self.leaving.get_or_insert_with(|| Box::pin(tokio::time::sleep(LEAVING)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Ok(()))
    }

    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outward.1 < self.outward.0.len() {
            let count = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.outward.0[self.outward.1..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outward.1 += count;
        }
        self.outward = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

/// Percent-encodes what people write into a request's target and Go's server takes, such as the quotes of
/// `?filters={"status":["running"]}`, but HTTP does not. Only the first line is touched.
fn encode_target(head: &[u8]) -> Vec<u8> {
    let line = head.iter().position(|b| *b == b'\n').unwrap_or(0);
    let mut out = Vec::with_capacity(head.len());
    for byte in &head[..line] {
        match byte {
            b'"' | b'<' | b'>' | b'`' | b'|' | b'^' | 0x80.. => {
                out.extend_from_slice(format!("%{byte:02X}").as_bytes())
            }
            _ => out.push(*byte),
        }
    }
    out.extend_from_slice(&head[line..]);
    out
}

/// Whether a head, without its empty line, asks for a hijacked route: `…/containers/x/attach` or `…/exec/x/start`.
fn is_hijack(head: &[u8]) -> bool {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let Some(target) = line.strip_prefix(b"POST ").and_then(|rest| rest.split(|b| *b == b' ' || *b == b'?').next())
    else {
        return false;
    };
    let segments: Vec<&[u8]> = target.split(|b| *b == b'/').collect();
    matches!(segments.as_slice(), [.., b"containers", _, b"attach"] | [.., b"exec", _, b"start"])
}

fn has_upgrade(head: &[u8]) -> bool {
    head.split(|b| *b == b'\n').any(|line| line.len() > 8 && line[..8].eq_ignore_ascii_case(b"upgrade:"))
}

/// Makes the `200` that Docker answers a hijack without `Upgrade` with of the `101` that HTTP insists on.
fn to_ok(head: &[u8]) -> Option<Vec<u8>> {
    head.strip_prefix(b"HTTP/1.1 101")?;
    let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
    for line in head.split_inclusive(|b| *b == b'\n').skip(1) {
        let lower = line.to_ascii_lowercase();
        if !lower.starts_with(b"connection:") && !lower.starts_with(b"upgrade:") {
            out.extend_from_slice(line);
        }
    }
    Some(out)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let (bytes, taken) = &mut this.inward;
            if *taken < bytes.len() {
                let count = (bytes.len() - *taken).min(buf.remaining());
                buf.put_slice(&bytes[*taken..*taken + count]);
                *taken += count;
                return Poll::Ready(Ok(()));
            }
            this.inward = (Vec::new(), 0);
            if this.ended {
                return this.poll_end(cx);
            }
            let before = buf.filled().len();
            if this.busy.is_set() {
                ready!(Pin::new(&mut this.transport).poll_read(cx, buf))?;
                if buf.filled().len() > before {
                    return Poll::Ready(Ok(()));
                }
                return this.poll_end(cx);
            }
            let mut space = [0u8; 4096];
            let mut piece = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.transport).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                this.ended = true;
                this.inward = (std::mem::take(&mut this.held), 0);
                continue;
            }
            this.examine(piece.filled());
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.rewrite {
            this.outward.0.extend_from_slice(buf);
            if let Some(end) = this.outward.0.windows(4).position(|window| window == b"\r\n\r\n") {
                this.rewrite = false;
                if let Some(mut head) = to_ok(&this.outward.0[..end + 4]) {
                    head.extend_from_slice(&this.outward.0[end + 4..]);
                    this.outward.0 = head;
                }
            }
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(this.poll_outward(cx))?;
        Pin::new(&mut this.transport).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.rewrite {
            ready!(this.poll_outward(cx))?;
        }
        Pin::new(&mut this.transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outward(cx))?;
        Pin::new(&mut this.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hijacks_are_told_from_other_requests() {
        for line in ["/containers/x/attach?stream=1", "/v1.41/exec/y/start", "/v1.51/containers/a/attach"] {
            assert!(is_hijack(format!("POST {line} HTTP/1.1\r\nHost: d").as_bytes()), "{line}");
        }
        for line in ["/containers/x/start", "/containers/x/exec", "/exec/x/resize", "/x?y=/exec/a/start"] {
            assert!(!is_hijack(format!("POST {line} HTTP/1.1").as_bytes()), "{line}");
        }
        assert!(!is_hijack(b"GET /containers/x/attach HTTP/1.1"));
    }

    #[test]
    fn quotes_in_a_target_are_encoded() {
        assert_eq!(
            encode_target(b"GET /x?filters={\"a\":[\"b\"]} HTTP/1.1\r\nX: \"y\"\r\n\r\n"),
            b"GET /x?filters={%22a%22:[%22b%22]} HTTP/1.1\r\nX: \"y\"\r\n\r\n"
        );
        assert_eq!(encode_target(b"no line"), b"no line");
    }

    #[test]
    fn the_upgrade_header_is_found_in_any_case() {
        assert!(has_upgrade(b"POST / HTTP/1.1\r\nUPGRADE: tcp\r\n"));
        assert!(!has_upgrade(b"POST / HTTP/1.1\r\nX-Upgrade: tcp\r\n"));
    }

    #[test]
    fn a_switch_of_protocols_becomes_ok_and_errors_stay() {
        let head = b"HTTP/1.1 101 UPGRADED\r\nconnection: Upgrade\r\nupgrade: tcp\r\ncontent-type: x\r\n\r\n";
        assert_eq!(to_ok(head).unwrap(), b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n\r\n");
        assert_eq!(to_ok(b"HTTP/1.1 404 Not Found\r\n\r\n"), None);
    }
}
