//! HTTP/1.1 over a blocking stream: one request, one answer, and the raw stream behind an upgrade.
//! Knows nothing of Docker; opens no connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

/// Longest line of a head, and most lines in one.
const LINE: u64 = 64 << 10;
const LINES: usize = 256;

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    /// To a unix socket, or to the pump of an encrypted connection.
    Unix(UnixStream),
    /// Plain TCP.
    Tcp(TcpStream),
}

impl Stream {
    /// A second handle on the same connection.
    ///
    /// # Errors
    /// `dup` fails.
    pub fn try_clone(&self) -> io::Result<Stream> {
        match self {
            Stream::Unix(s) => s.try_clone().map(Stream::Unix),
            Stream::Tcp(s) => s.try_clone().map(Stream::Tcp),
        }
    }
    /// Says that nothing more will be written.
    pub fn close_write(&self) {
        // A peer that has gone already needs no telling.
        let _gone = match self {
            Stream::Unix(s) => s.shutdown(Shutdown::Write),
            Stream::Tcp(s) => s.shutdown(Shutdown::Write),
        };
    }
    /// Ends the connection: nobody is to wait for the rest.
    fn break_off(&self) {
        let _gone = match self {
            Stream::Unix(s) => s.shutdown(Shutdown::Both),
            Stream::Tcp(s) => s.shutdown(Shutdown::Both),
        };
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Unix(s) => s.as_fd(),
            Stream::Tcp(s) => s.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.read(buffer),
            Stream::Tcp(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(s) => s.write(bytes),
            Stream::Tcp(s) => s.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a request carries.
pub enum Body<'a> {
    /// Nothing.
    Empty,
    /// JSON text.
    Json(Vec<u8>),
    /// Bytes of unknown number, sent in chunks, with their content type.
    Stream(&'a mut dyn Read, &'static str),
}

/// One request. `path` starts with `/` and is encoded.
pub struct Request<'a> {
    /// `GET`, `POST` …
    pub method: &'a str,
    /// Path and query.
    pub path: String,
    /// Headers beyond those every request has.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body<'a>,
    /// Asks for the raw stream.
    pub upgrade: bool,
}

/// A connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    reader: BufReader<Stream>,
}

impl Connection {
    /// Over a connected stream.
    pub fn new(stream: Stream) -> Connection {
        Connection { reader: BufReader::with_capacity(16 << 10, stream) }
    }

    /// Writes a request.
    ///
    /// # Errors
    /// The stream's, or those of reading the body.
    pub fn send(&mut self, request: &mut Request<'_>, host: &str) -> io::Result<()> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: ", request.method, request.path);
        head.push_str(concat!("brig/", env!("CARGO_PKG_VERSION"), "\r\n"));
        for (name, value) in &request.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if request.upgrade {
            head.push_str("Connection: Upgrade\r\nUpgrade: tcp\r\n");
        }
        let stream = self.reader.get_mut();
        match &mut request.body {
            Body::Empty => {
                if request.method != "GET" && request.method != "HEAD" {
                    head.push_str("Content-Length: 0\r\n");
                }
                head.push_str("\r\n");
                stream.write_all(head.as_bytes())
            }
            Body::Json(json) => {
                head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", json.len()));
                let mut whole = head.into_bytes();
                whole.extend_from_slice(json);
                stream.write_all(&whole)
            }
            Body::Stream(source, content_type) => {
                head.push_str(&format!("Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"));
                stream.write_all(head.as_bytes())?;
                send_chunks(stream, *source)
            }
        }
    }

    /// Reads the head of the answer.
    ///
    /// # Errors
    /// The stream's, and answers that are not HTTP.
    pub fn receive(mut self) -> io::Result<Response> {
        let status_line = self.line()?;
        let status = status_line
            .split_ascii_whitespace()
            .nth(1)
            .and_then(|code| code.parse::<u16>().ok())
            .filter(|_| status_line.starts_with("HTTP/1."))
            .ok_or_else(|| malformed(&format!("status line {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if headers.len() == LINES {
                return Err(malformed("too many headers"));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("header without colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, left: Left::Close, connection: self };
        response.left = response.framing()?;
        Ok(response)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.reader).take(LINE).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed the connection"));
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        String::from_utf8(line).map_err(|_| malformed("head is not text"))
    }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed HTTP response: {what}"))
}

fn send_chunks(stream: &mut Stream, source: &mut dyn Read) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        // The peer waits for the rest of the body, and would for ever.
        let read = source.read(&mut buffer).inspect_err(|_| stream.break_off())?;
        stream.write_all(format!("{read:x}\r\n").as_bytes())?;
        stream.write_all(&buffer[..read])?;
        stream.write_all(b"\r\n")?;
        if read == 0 {
            return Ok(());
        }
    }
}

/// How much of a body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// This many bytes.
    Bytes(u64),
    /// Chunks; this many bytes of the present one.
    Chunk(u64),
    /// Until the peer closes.
    Close,
    /// Nothing.
    Done,
}

/// An answer: its head, and its body to be read.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    headers: Vec<(String, String)>,
    left: Left,
    connection: Connection,
}

impl Response {
    /// A header's value; `name` in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn framing(&self) -> io::Result<Left> {
        if self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(if self.status == 101 { Left::Close } else { Left::Done });
        }
        if self.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return Ok(Left::Chunk(0));
        }
        match self.header("content-length") {
            // Reading nothing of a stream would wait for its next byte.
            Some("0") => Ok(Left::Done),
            Some(length) => length.parse().map(Left::Bytes).map_err(|_| malformed("content-length")),
            None => Ok(Left::Close),
        }
    }

    /// The connection for the next request, if the body was read to its end and the peer keeps it open.
    pub fn into_connection(self) -> Option<Connection> {
        let close = self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        (self.left == Left::Done && !close).then_some(self.connection)
    }

    /// The raw stream behind an upgrade, with what has arrived of it already.
    pub fn into_stream(self) -> (BufReader<Stream>, bool) {
        let framed = self.header("content-type") == Some("application/vnd.docker.multiplexed-stream");
        (self.connection.reader, framed)
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let line = self.connection.line()?;
        let digits = line.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| malformed("chunk size"))?;
        if size > 0 {
            self.left = Left::Chunk(size);
            return Ok(());
        }
        while !self.connection.line()?.is_empty() {}
        self.left = Left::Done;
        Ok(())
    }
}

impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == Left::Chunk(0) {
            self.next_chunk()?;
        }
        let (Left::Bytes(left) | Left::Chunk(left)) = self.left else {
            return if self.left == Left::Close { self.connection.reader.read(buffer) } else { Ok(0) };
        };
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.connection.reader.read(&mut buffer[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed the connection"));
        }
        let rest = left - read as u64;
        self.left = match self.left {
            Left::Chunk(_) if rest > 0 => Left::Chunk(rest),
            Left::Chunk(_) => {
                self.connection.line()?;
                self.next_or_wait()?
            }
            _ if rest > 0 => Left::Bytes(rest),
            _ => Left::Done,
        };
        Ok(read)
    }
}

impl Response {
    /// Behind a chunk: reads the size of the next one only if it is here already, so that a live stream is not held back.
    fn next_or_wait(&mut self) -> io::Result<Left> {
        if self.connection.reader.buffer().contains(&b'\n') {
            self.next_chunk()?;
            return Ok(self.left);
        }
        Ok(Left::Chunk(0))
    }
}

/// Encodes text for one segment of a path or one value of a query.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &[u8]) -> Response {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(text).unwrap();
        drop(far);
        Connection::new(Stream::Unix(near)).receive().unwrap()
    }

    #[test]
    fn bodies() {
        let mut text = String::new();
        let mut chunked =
            answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n");
        chunked.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcde");
        assert!(chunked.into_connection().is_some());
        let mut empty = answer(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(empty.read(&mut [0; 9]).unwrap(), 0);
        assert!(empty.into_connection().is_some());
        let mut sized = answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhixx");
        text.clear();
        sized.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), sized.status), ("hi", 404));
        assert!(sized.into_connection().is_none());
        let empty = answer(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert!(empty.into_connection().is_some());
    }

    #[test]
    fn cut_and_malformed_answers_are_errors() {
        let mut cut = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
        assert_eq!(cut.read_to_end(&mut Vec::new()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"220 smtp\r\n\r\n").unwrap();
        assert!(Connection::new(Stream::Unix(near)).receive().is_err());
    }

    #[test]
    fn escaping() {
        assert_eq!(escape("a b/c:é"), "a%20b%2Fc%3A%C3%A9");
    }
}
