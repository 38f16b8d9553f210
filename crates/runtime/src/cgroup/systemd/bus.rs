//! A connection to a message bus, or to systemd directly: calls, their answers, and signals. Synchronous, with deadlines.
//! Owns: the socket, authentication, messages. Must not: know systemd's methods.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::value::{Reader, Value, Writer, broken};
use crate::cgroup::error::{Error, ErrorKind, Result};

/// No message that is of interest here is anywhere near this.
const MAX_MESSAGE: usize = 1 << 20;
/// How long an answer may take: systemd answers at once, or is not well.
const ANSWER: Duration = Duration::from_secs(25);

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// What is called, on whom.
#[derive(Debug, Clone, Copy)]
pub struct Method<'a> {
    /// `org.freedesktop.systemd1`.
    pub destination: &'a str,
    /// `/org/freedesktop/systemd1`.
    pub path: &'a str,
    /// `org.freedesktop.systemd1.Manager`.
    pub interface: &'a str,
    /// `StopUnit`.
    pub member: &'a str,
}

/// Why there is no answer to a call.
#[derive(Debug)]
pub enum Refused {
    /// The other side says no.
    Named {
        /// `org.freedesktop.systemd1.UnitExists`.
        name: String,
        /// For people.
        message: String,
    },
    /// There was no answer.
    Failed(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Failed(error)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            Refused::Failed(error) => error,
            Refused::Named { name, message } => Error::new(ErrorKind::System, format!("{message} ({name})")),
        }
    }
}

/// One message.
#[derive(Debug, Default)]
pub struct Message {
    kind: u8,
    reply_to: u32,
    error: String,
    /// Of a signal.
    pub member: String,
    /// What it says.
    pub body: Vec<Value>,
}

/// An authenticated connection.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    received: Vec<u8>,
    signals: VecDeque<Message>,
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    let timeout = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    let why = if timeout { "no answer in time".to_owned() } else { error.to_string() };
    Error::new(ErrorKind::System, format!("message bus: {what}: {why}"))
}

impl Bus {
    /// Connects to a socket that speaks D-Bus; `through_daemon` if what listens is a bus, not systemd itself.
    pub fn connect(path: &Path, through_daemon: bool) -> Result<Bus> {
        let stream =
            UnixStream::connect(path).map_err(|error| failed(&format!("connect({})", path.display()), &error))?;
        Bus::over(stream, through_daemon)
    }

    /// Connects to the first address of a list that answers (`unix:path=/run/user/1000/bus;unix:abstract=…`).
    pub fn at_address(addresses: &str) -> Result<Bus> {
        let mut last = Error::invalid(format!("message bus: {addresses:?} has no address that can be used"));
        for address in addresses.split(';') {
            let Some(keys) = address.strip_prefix("unix:") else { continue };
            for (key, value) in keys.split(',').filter_map(|pair| pair.split_once('=')) {
                let value = unescape(value);
                let connected = match key {
                    "path" => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(&value)),
                    "abstract" => SocketAddr::from_abstract_name(&value),
                    _ => continue,
                };
                let connected = connected.and_then(|address| UnixStream::connect_addr(&address));
                match connected.map_err(|error| failed(&format!("connect({address})"), &error)) {
                    Ok(stream) => return Bus::over(stream, true),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    fn over(stream: UnixStream, through_daemon: bool) -> Result<Bus> {
        let mut bus = Bus { stream, serial: 0, received: Vec::new(), signals: VecDeque::new() };
        let deadline = Instant::now() + ANSWER;
        // Without a user's number: whose socket it is, the kernel says, also across user namespaces.
        bus.send(b"\0AUTH EXTERNAL\r\nDATA\r\n", deadline)?;
        bus.line("DATA", deadline)?;
        bus.line("OK", deadline)?;
        bus.send(b"BEGIN\r\n", deadline)?;
        if through_daemon {
            bus.call(daemon("Hello"), &[])?;
        }
        Ok(bus)
    }

    fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<()> {
        let left = left(deadline)?;
        let sent = self.stream.set_write_timeout(Some(left)).and_then(|()| self.stream.write_all(bytes));
        sent.map_err(|error| failed("write", &error))
    }

    /// Reads until `enough` is satisfied with what is there.
    fn fill(&mut self, enough: usize, deadline: Instant) -> Result<()> {
        let mut buffer = [0u8; 4096];
        while self.received.len() < enough {
            let left = left(deadline)?;
            let read = self.stream.set_read_timeout(Some(left)).and_then(|()| self.stream.read(&mut buffer));
            match read {
                Ok(0) => return Err(Error::new(ErrorKind::System, "message bus: it closed the connection")),
                Ok(count) => self.received.extend(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &error)),
            }
        }
        Ok(())
    }

    /// One line of the authentication.
    fn line(&mut self, word: &str, deadline: Instant) -> Result<()> {
        let end = loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                break end;
            }
            if self.received.len() > 4096 {
                return Err(broken());
            }
            self.fill(self.received.len() + 1, deadline)?;
        };
        let line: Vec<u8> = self.received.drain(..end + 2).collect();
        if line.starts_with(word.as_bytes()) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&line);
        Err(Error::new(ErrorKind::System, format!("message bus: authentication refused: {}", said.trim_end())))
    }

    /// Calls a method and waits for its answer.
    pub fn call(&mut self, method: Method<'_>, arguments: &[Value]) -> std::result::Result<Vec<Value>, Refused> {
        self.serial += 1;
        let serial = self.serial;
        let deadline = Instant::now() + ANSWER;
        let message = encode(serial, method, arguments);
        self.send(&message, deadline).map_err(|error| about(method, error))?;
        loop {
            let mut message = self.next(deadline).map_err(|error| about(method, error))?;
            match message.kind {
                RETURN if message.reply_to == serial => return Ok(message.body),
                ERROR if message.reply_to == serial => {
                    let text = message.body.first().and_then(Value::text).unwrap_or_default().to_owned();
                    return Err(Refused::Named { name: std::mem::take(&mut message.error), message: text });
                }
                SIGNAL => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// Waits for the first signal that `wanted` makes something of; those before it are dropped.
    pub fn signal<T>(&mut self, deadline: Instant, mut wanted: impl FnMut(&Message) -> Option<T>) -> Result<T> {
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.next(deadline)?,
            };
            if let Some(found) = (message.kind == SIGNAL).then(|| wanted(&message)).flatten() {
                return Ok(found);
            }
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<Message> {
        const FIXED: usize = 16;
        self.fill(FIXED, deadline)?;
        let number = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes) as usize
        };
        // Who answers does so in the byte order of its own machine, which is ours.
        if self.received[0] != b'l' || self.received[3] != 1 {
            return Err(broken());
        }
        let (body, fields) = (number(&self.received, 4), number(&self.received, 12));
        if body > MAX_MESSAGE || fields > MAX_MESSAGE {
            return Err(broken());
        }
        let body_at = (FIXED + fields).next_multiple_of(8);
        self.fill(body_at + body, deadline)?;
        let bytes: Vec<u8> = self.received.drain(..body_at + body).collect();
        decode(&bytes, body_at)
    }
}

/// A method of the bus itself.
pub fn daemon(member: &str) -> Method<'_> {
    Method {
        destination: "org.freedesktop.DBus",
        path: "/org/freedesktop/DBus",
        interface: "org.freedesktop.DBus",
        member,
    }
}

fn about(method: Method<'_>, error: Error) -> Error {
    Error { message: format!("{}.{}: {}", method.interface, method.member, error.message), ..error }
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Error::new(ErrorKind::System, "message bus: no answer in time"));
    }
    Ok(left)
}

fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

fn encode(serial: u32, method: Method<'_>, arguments: &[Value]) -> Vec<u8> {
    let mut body = Writer::default();
    arguments.iter().for_each(|value| body.value(value));
    let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), value.variant()]);
    let mut fields = vec![
        field(1, Value::Path(method.path.to_owned())),
        field(2, Value::Str(method.interface.to_owned())),
        field(3, Value::Str(method.member.to_owned())),
        field(6, Value::Str(method.destination.to_owned())),
    ];
    if !arguments.is_empty() {
        fields.push(field(8, Value::Signature(arguments.iter().map(Value::signature).collect())));
    }
    let mut message = Writer(vec![b'l', CALL, 0, 1]);
    message.u32(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    message.u32(serial);
    message.value(&Value::Array("(yv)".to_owned(), fields));
    message.align(8);
    message.0.extend(body.0);
    message.0
}

fn decode(bytes: &[u8], body_at: usize) -> Result<Message> {
    let mut message = Message { kind: bytes[1], ..Message::default() };
    let mut signature = String::new();
    let fields = Reader { bytes: &bytes[..body_at], at: 12 }.values("a(yv)")?;
    let Some(Value::Array(_, fields)) = fields.first() else { return Err(broken()) };
    for field in fields {
        let Value::Struct(pair) = field else { return Err(broken()) };
        match pair.as_slice() {
            [Value::Byte(5), Value::Variant(value)] => {
                if let Value::U32(serial) = **value {
                    message.reply_to = serial;
                }
            }
            [Value::Byte(3), value] => message.member = value.text().unwrap_or_default().to_owned(),
            [Value::Byte(4), value] => message.error = value.text().unwrap_or_default().to_owned(),
            [Value::Byte(8), value] => signature = value.text().unwrap_or_default().to_owned(),
            _ => {}
        }
    }
    message.body = Reader { bytes, at: body_at }.values(&signature)?;
    Ok(message)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The other side of a connection: takes the authentication, then hands each call's member to `answer` and sends what
    /// it makes of it.
    pub fn peer(
        stream: UnixStream,
        mut answer: impl FnMut(&str, Vec<Value>) -> Vec<Reply> + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let mut other = Bus { stream, serial: 0, received: Vec::new(), signals: VecDeque::new() };
            let deadline = Instant::now() + Duration::from_secs(20);
            other.line("\0AUTH EXTERNAL", deadline).unwrap();
            other.line("DATA", deadline).unwrap();
            other.send(b"DATA\r\nOK 1234deadbeef\r\n", deadline).unwrap();
            other.line("BEGIN", deadline).unwrap();
            let mut serial = 0;
            while let Ok(call) = other.next(deadline) {
                serial += 1;
                for reply in answer(&call.member, call.body) {
                    other.send(&reply.bytes(serial), deadline).unwrap();
                }
            }
        })
    }

    pub enum Reply {
        Return(Vec<Value>),
        Error(&'static str, &'static str),
        Signal(&'static str, Vec<Value>),
    }

    impl Reply {
        /// As an answer to the call with this serial, which is also counted up by one per call on our side.
        fn bytes(&self, serial: u32) -> Vec<u8> {
            let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), value.variant()]);
            let (kind, mut fields, body) = match self {
                Reply::Return(body) => (RETURN, vec![field(5, Value::U32(serial))], body.clone()),
                Reply::Error(name, text) => (
                    ERROR,
                    vec![field(5, Value::U32(serial)), field(4, Value::Str((*name).to_owned()))],
                    vec![Value::Str((*text).to_owned())],
                ),
                Reply::Signal(member, body) => (SIGNAL, vec![field(3, Value::Str((*member).to_owned()))], body.clone()),
            };
            fields.push(field(8, Value::Signature(body.iter().map(Value::signature).collect())));
            let mut writer = Writer::default();
            body.iter().for_each(|value| writer.value(value));
            let mut message = Writer(vec![b'l', kind, 0, 1]);
            message.u32(u32::try_from(writer.0.len()).unwrap());
            message.u32(99);
            message.value(&Value::Array("(yv)".to_owned(), fields));
            message.align(8);
            message.0.extend(writer.0);
            message.0
        }
    }

    /// A connection to such a peer.
    pub fn connected(answer: impl FnMut(&str, Vec<Value>) -> Vec<Reply> + Send + 'static) -> Bus {
        let (ours, theirs) = UnixStream::pair().unwrap();
        peer(theirs, answer);
        Bus::over(ours, false).unwrap()
    }

    #[test]
    fn calls_answers_and_signals() {
        let mut bus = connected(|member, body| match member {
            "Echo" => vec![Reply::Signal("Early", vec![Value::U32(7)]), Reply::Return(body)],
            _ => vec![Reply::Error("org.example.No", "it may not be")],
        });
        let method = |member| Method { destination: "d.d", path: "/p", interface: "i.i", member };
        let arguments = [Value::Str("x".into()), Value::strings(["a"]), Value::U64(9).variant()];
        assert_eq!(bus.call(method("Echo"), &arguments).unwrap(), arguments);
        let Err(Refused::Named { name, message }) = bus.call(method("Other"), &[]) else { panic!("refused") };
        assert_eq!((name.as_str(), message.as_str()), ("org.example.No", "it may not be"));
        let deadline = Instant::now() + Duration::from_secs(5);
        let seven = bus.signal(deadline, |message| (message.member == "Early").then(|| message.body.clone())).unwrap();
        assert_eq!(seven, [Value::U32(7)]);
        let error = bus.signal::<()>(Instant::now() + Duration::from_millis(10), |_| None).unwrap_err();
        assert!(error.message.contains("no answer in time"), "{error}");
    }

    #[test]
    fn addresses() {
        assert_eq!(unescape("/a%20b%2"), b"/a b%2");
        assert!(Bus::at_address("tcp:host=x").unwrap_err().message.contains("no address that can be used"));
        let error = Bus::at_address("unix:path=/no/such,guid=1;launchd:x").unwrap_err();
        assert!(error.message.contains("connect(unix:path=/no/such,guid=1)"), "{error}");
    }
}
