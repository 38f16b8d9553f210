//! A server of HTTP that answers as a test says, or passes requests on to a registry and spoils what comes back.
//! Owns the listening thread, which ends when this is dropped; what is spoilt and when is the test's business.

use crate::host::TestHost;
use brig_sys::netns;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request as it came.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Range` header.
    pub range: Option<String>,
    /// How many requests for the same path by the same method came before.
    pub nth: usize,
}

/// What becomes of a request.
pub enum Deed {
    /// It is passed on, and so is the answer.
    Pass,
    /// Passed on; of the answer's body only this many percent come, then the connection ends.
    Cut(usize),
    /// Passed on; the body comes in ten pieces with a pause before each.
    Slow(Duration),
    /// Passed on; one bit in the midst of the body is another.
    Wrong,
    /// Passed on; the body has this many bytes more, of which its length knows.
    Longer(usize),
    /// Answered here: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Answered with a body of zeros of this length.
    Blank(u64),
}

type Decide = Arc<Mutex<Box<dyn Fn(&Asked) -> Deed + Send>>>;

/// The server.
pub struct Relay {
    /// Where it listens, in the host's network.
    pub address: String,
    decide: Decide,
    log: Arc<Mutex<Vec<Asked>>>,
    listener: TcpListener,
}

impl TestHost {
    /// Starts one at an address of the host's, before `target`.
    pub fn relay(&self, address: &str, target: &str, decide: impl Fn(&Asked) -> Deed + Send + 'static) -> Relay {
        let listener = netns::inside(self.netns.as_fd(), || TcpListener::bind(address));
        let listener = listener.expect("the namespace can be entered").expect("the address is free");
        let relay = Relay {
            address: address.to_owned(),
            decide: Arc::new(Mutex::new(Box::new(decide))),
            log: Arc::default(),
            listener: listener.try_clone().expect("a socket can be copied"),
        };
        let (netns, target) = (Arc::clone(&self.netns), target.to_owned());
        let (decide, log) = (Arc::clone(&relay.decide), Arc::clone(&relay.log));
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let (netns, target) = (Arc::clone(&netns), target.clone());
                let (decide, log) = (Arc::clone(&decide), Arc::clone(&log));
                // Whoever goes away in the midst is not waited for.
                std::thread::spawn(move || serve(&client, &netns, &target, &decide, &log).ok());
            }
        });
        relay
    }
}

impl Relay {
    /// From now on requests become this.
    pub fn now(&self, decide: impl Fn(&Asked) -> Deed + Send + 'static) {
        *self.decide.lock().expect("nobody panics with the lock") = Box::new(decide);
        self.log.lock().expect("nobody panics with the lock").clear();
    }

    /// What came since.
    pub fn log(&self) -> Vec<Asked> {
        self.log.lock().expect("nobody panics with the lock").clone()
    }

    /// `127.0.0.1:5001/name`
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Whoever accepts there gets an error from now on.
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Read).ok();
    }
}

/// One request on one connection.
fn serve(
    mut client: &TcpStream,
    netns: &OwnedFd,
    target: &str,
    decide: &Decide,
    log: &Mutex<Vec<Asked>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim_end().is_empty() {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let header = |name: &str| {
        head.iter()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned()))
    };
    let length = header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = head.first().map(|line| line.split(' ')).into_iter().flatten().map(str::to_owned);
    let mut asked = Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        authorization: header("authorization"),
        range: header("range"),
        nth: 0,
    };
    {
        let mut log = log.lock().expect("nobody panics with the lock");
        asked.nth = log.iter().filter(|seen| seen.path == asked.path && seen.method == asked.method).count();
        log.push(asked.clone());
    }
    let deed = (decide.lock().expect("nobody panics with the lock"))(&asked);
    let (status, headers, mut body) = match &deed {
        Deed::Answer(status, headers, body) => {
            let headers = headers.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
            (format!("{status} Said"), headers, body.clone())
        }
        Deed::Blank(length) => {
            let length = *length;
            write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
            return std::io::copy(&mut std::io::repeat(b' ').take(length), &mut client).map(drop);
        }
        _ => pass(netns, target, &head, &body)?,
    };
    let mut told = body.len();
    let mut pause = Duration::ZERO;
    match deed {
        Deed::Cut(percent) => body.truncate(told * percent / 100),
        Deed::Slow(each) => pause = each,
        Deed::Wrong if told > 0 => body[told / 2] ^= 0x10,
        Deed::Longer(more) => {
            body.resize(told + more, b'x');
            told = body.len();
        }
        _ => {}
    }
    let headers: String = headers.iter().map(|(key, value)| format!("{key}: {value}\r\n")).collect();
    let length = headers.to_ascii_lowercase().contains("content-length");
    let length = if length { String::new() } else { format!("Content-Length: {told}\r\n") };
    write!(client, "HTTP/1.1 {status}\r\n{headers}{length}Connection: close\r\n\r\n")?;
    if asked.method == "HEAD" {
        return Ok(());
    }
    for piece in body.chunks(body.len().div_ceil(10).max(1)) {
        // The slowness that was asked for.
        std::thread::sleep(pause);
        client.write_all(piece)?;
    }
    Ok(())
}

type Answer = (String, Vec<(String, String)>, Vec<u8>);

/// The target's answer. Of a `HEAD` the length is kept as a header, since there is no body to have it.
fn pass(netns: &OwnedFd, target: &str, head: &[String], body: &[u8]) -> std::io::Result<Answer> {
    let mut server = crate::http::connect(netns, target, Duration::from_secs(5))?;
    let kept = head.iter().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let text: String = kept.map(|line| format!("{line}\r\n")).collect();
    server.write_all(format!("{text}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(body)?;
    let mut bytes = Vec::new();
    server.read_to_end(&mut bytes)?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let (answer, body) = (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes[end + 4..].to_vec());
    let mut lines = answer.split("\r\n");
    let status = lines.next().and_then(|line| line.split_once(' ')).map(|(_, status)| status.to_owned());
    let is_head = head.first().is_some_and(|line| line.starts_with("HEAD "));
    let keep =
        |key: &str| !key.eq_ignore_ascii_case("connection") && (is_head || !key.eq_ignore_ascii_case("content-length"));
    let headers = lines.filter_map(|line| line.split_once(':')).filter(|(key, _)| keep(key));
    let headers: Vec<_> = headers.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect();
    let chunked = headers.iter().any(|(key, _)| key.eq_ignore_ascii_case("transfer-encoding"));
    assert!(!chunked, "{target} sends in chunks");
    Ok((status.unwrap_or_default(), headers, body))
}
