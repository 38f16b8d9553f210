//! Enough of HTTP/1.1 for tests: one request per connection over any stream, answers read whole.
//! Owns the framing; knows neither registries nor engines.

use brig_sys::netns;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head as it came.
    pub head: String,
    /// The body, joined from its chunks.
    pub body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// Connects inside a network namespace.
pub fn connect(netns: &OwnedFd, address: &str, limit: Duration) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().expect("an address with a port");
    netns::inside(netns.as_fd(), || TcpStream::connect_timeout(&address, limit)).expect("the namespace can be entered")
}

/// One request over TCP inside a network namespace.
pub fn tcp(
    netns: &OwnedFd,
    address: &str,
    method: &str,
    path: &str,
    kind: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let stream = connect(netns, address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, address, method, path, &format!("Content-Type: {kind}"), body)
}

/// One GET over TCP inside a network namespace, saying which kinds are wanted.
pub fn tcp_accepting(netns: &OwnedFd, address: &str, path: &str, kinds: &str) -> std::io::Result<Answer> {
    let stream = connect(netns, address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, address, "GET", path, &format!("Accept: {kinds}"), &[])
}

/// A part of what is at an address, over TCP inside a network namespace: `bytes=0-1`.
pub fn tcp_part(netns: &OwnedFd, address: &str, path: &str, range: &str) -> std::io::Result<Answer> {
    let stream = connect(netns, address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, address, "GET", path, &format!("Range: {range}"), &[])
}

/// One request over a unix socket.
pub fn unix(socket: &Path, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(stream, "brig", method, path, "Content-Type: application/json", body)
}

fn exchange(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    header: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{header}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let broken = || std::io::Error::other("the answer has no head");
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    let mut answer = Answer { status, head, body: bytes[end + 4..].to_vec() };
    if answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        answer.body = unchunk(&answer.body);
    }
    Ok(answer)
}

fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let length = std::str::from_utf8(&bytes[..end]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(length @ 1..) = length else { break };
        let start = end + 2;
        whole.extend_from_slice(&bytes[start..(start + length).min(bytes.len())]);
        bytes = bytes.get(start + length + 2..).unwrap_or_default();
    }
    whole
}
