//! Netlink sockets: building messages, sending batches, reading acknowledgements, dumps and events.
//! Owns the wire format and the pairing of answers with requests. Must not know what a link, a route or
//! a firewall rule means: that is the network crate's.
//!
//! Format: linux/Documentation/userspace-api/netlink/intro.rst and include/uapi/linux/netlink.h.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::{Error, Result};

/// `NLM_F_REQUEST`: every message to the kernel carries it; the builder sets it.
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: answer even on success.
pub const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: list everything (`NLM_F_ROOT | NLM_F_MATCH`).
pub const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: fail if the object exists.
pub const EXCL: u16 = 0x200;
/// `NLM_F_REPLACE`: replace the object if it exists.
pub const REPLACE: u16 = 0x100;
/// `NLM_F_CREATE`: make the object if it does not exist.
pub const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`: add to the end of a list.
pub const APPEND: u16 = 0x800;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const FLAG_DUMP_INTERRUPTED: u16 = 0x10;
const FLAG_CAPPED: u16 = 0x100;
const FLAG_ACK_TLVS: u16 = 0x200;
const ATTRIBUTE_TEXT: u16 = 1;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// The kernel never answers with more than this in one datagram (`NLMSG_GOODSIZE` and dumps up to 32 KiB).
const RECEIVE: usize = 64 * 1024;

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `NETLINK_ROUTE`: links, addresses, routes, neighbours.
    Route,
    /// `NETLINK_NETFILTER`: nftables and connection tracking.
    Netfilter,
}

/// One request under construction: a header, the family's own header, attributes.
#[derive(Debug, Clone)]
pub struct Message {
    bytes: Vec<u8>,
    what: String,
}

impl Message {
    /// Starts a message of type `kind`. `what` is how an error names it, such as `RTM_NEWLINK("veth1a")`.
    pub fn new(kind: u16, flags: u16, what: impl Into<String>) -> Message {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Message { bytes, what: what.into() }
    }

    /// Appends raw bytes (the family header), padded to four.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends one attribute.
    pub fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute's value is shorter than 64 KiB");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a NUL-terminated string.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends a number in the machine's byte order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network byte order.
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends one byte.
    pub fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    /// Appends an attribute that holds what `fill` writes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("a nested attribute is shorter than 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes so far, to keep nested lists below the 64 KiB that an attribute can hold.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn seal(&mut self, sequence: u32, extra_flags: u16) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).expect("a message is shorter than 4 GiB");
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// One message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// Message type.
    pub kind: u16,
    /// Header flags.
    pub flags: u16,
    /// The request's number.
    pub sequence: u32,
    /// Port of the socket whose request caused it (events), or of the receiver.
    pub port: u32,
    /// What follows the netlink header.
    pub body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The attributes after a family header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes(self.body.get(header..).unwrap_or_default())
    }
}

/// Walks attributes: `(type without flags, value)`. Stops at the first malformed one.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The first attribute of this type.
    pub fn find(self, kind: u16) -> Option<&'a [u8]> {
        let mut attributes = self;
        attributes.find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// The first attribute of this type as a NUL-terminated string.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        std::str::from_utf8(&value[..end]).ok()
    }

    /// The first attribute of this type as a number in the machine's byte order.
    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(self.find(kind)?.try_into().ok()?))
    }

    /// The attributes nested in the first attribute of this type.
    pub fn nested(self, kind: u16) -> Attributes<'a> {
        Attributes(self.find(kind).unwrap_or_default())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(self.0.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & TYPE_MASK;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Walks the messages of one datagram.
struct Answers<'a>(&'a [u8]);

impl<'a> Iterator for Answers<'a> {
    type Item = Answer<'a>;

    fn next(&mut self) -> Option<Answer<'a>> {
        let number = |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(self.0.get(at..at + 4)?.try_into().ok()?)) };
        let half = |at: usize| -> Option<u16> { Some(u16::from_ne_bytes(self.0.get(at..at + 2)?.try_into().ok()?)) };
        let length = usize::try_from(number(0)?).ok()?;
        let answer = Answer {
            kind: half(4)?,
            flags: half(6)?,
            sequence: number(8)?,
            port: number(12)?,
            body: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    }
}

/// A netlink socket. It belongs to the network namespace of the thread that opened it, for good.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(family: Family) -> Result<Socket> {
        let (protocol, name) = match family {
            Family::Route => (None, "NETLINK_ROUTE"),
            Family::Netfilter => (Some(rustix::net::netlink::NETFILTER), "NETLINK_NETFILTER"),
        };
        let failed = |call: &str| {
            let call = format!("{call}({name})");
            move |errno| Error::new(call, errno)
        };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .map_err(failed("socket"))?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed("bind"))?;
        let address = rustix::net::getsockname(&fd).map_err(failed("getsockname"))?;
        let address = SocketAddrNetlink::try_from(address).map_err(failed("getsockname"))?;
        set_option(fd.as_fd(), libc::NETLINK_EXT_ACK, 1).map_err(failed("setsockopt(NETLINK_EXT_ACK)"))?;
        set_option(fd.as_fd(), libc::NETLINK_CAP_ACK, 1).map_err(failed("setsockopt(NETLINK_CAP_ACK)"))?;
        if family == Family::Route {
            set_option(fd.as_fd(), libc::NETLINK_GET_STRICT_CHK, 1)
                .map_err(failed("setsockopt(NETLINK_GET_STRICT_CHK)"))?;
        }
        Ok(Socket { fd, port: address.pid(), sequence: 0, buffer: vec![0; RECEIVE] })
    }

    /// The number by which the kernel names this socket in the events that it caused.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Subscribes to a multicast group (its number, not a mask), with room for `bytes` of unread events.
    pub fn join(&self, group: u32, bytes: usize) -> Result<()> {
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes)
            .map_err(|errno| Error::new(format!("setsockopt(SO_RCVBUFFORCE, {bytes})"), errno))?;
        set_option(self.fd.as_fd(), libc::NETLINK_ADD_MEMBERSHIP, group)
            .map_err(|errno| Error::new(format!("setsockopt(NETLINK_ADD_MEMBERSHIP, {group})"), errno))
    }

    /// Sends `messages` in one datagram and returns when every one of them was carried out, or the first error
    /// (with the kernel's own explanation if it gave one). On NETLINK_ROUTE later messages run even if one
    /// fails; an nftables batch is all or nothing.
    pub fn execute(&mut self, messages: &mut [Message]) -> Result<()> {
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(messages.iter().map(Message::size).sum());
        for (index, message) in messages.iter_mut().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend_from_slice(message.seal(self.sequence, if index == last { ACK } else { 0 }));
        }
        self.send(&datagram, &messages[last].what)?;
        self.collect(first, messages)
    }

    /// As [`Socket::execute`] for an nftables transaction: the acknowledged message is the last but one, because
    /// the end marker itself is only answered by new kernels.
    pub fn execute_batch(&mut self, begin: Message, mut messages: Vec<Message>, end: Message) -> Result<()> {
        let Some(last) = messages.len().checked_sub(1) else {
            return Ok(());
        };
        let first = self.sequence.wrapping_add(1);
        messages.insert(0, begin);
        messages.push(end);
        let mut datagram = Vec::with_capacity(messages.iter().map(Message::size).sum());
        for (index, message) in messages.iter_mut().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            datagram.extend_from_slice(message.seal(self.sequence, if index == last + 1 { ACK } else { 0 }));
        }
        self.send(&datagram, "nftables transaction")?;
        self.collect(first, &messages)
    }

    /// Sends one request and hands every answer to `each`; returns at the end of the list, or of the single
    /// answer. An interrupted list (the kernel's table changed meanwhile) is an `EINTR` error: ask again.
    pub fn ask(&mut self, mut message: Message, mut each: impl FnMut(Answer<'_>)) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let flags = u16::from_ne_bytes([message.bytes[6], message.bytes[7]]);
        let extra = if flags & DUMP == DUMP { 0 } else { ACK };
        let datagram = message.seal(sequence, extra).to_vec();
        self.send(&datagram, &message.what)?;
        let mut interrupted = false;
        loop {
            let length = self.receive(true)?.ok_or_else(|| Error::new(message.what.clone(), Errno::AGAIN))?;
            for answer in Answers(&self.buffer[..length]) {
                if answer.sequence != sequence {
                    continue;
                }
                interrupted |= answer.flags & FLAG_DUMP_INTERRUPTED != 0;
                match answer.kind {
                    NLMSG_DONE if interrupted => return Err(Error::new(message.what, Errno::INTR)),
                    NLMSG_DONE => return status(&answer, &message.what),
                    NLMSG_ERROR => return status(&answer, &message.what),
                    _ => each(answer),
                }
            }
        }
    }

    /// Waits for events at most `timeout` and hands them to `each`. `Ok(false)`: none came. `ENOBUFS`: events
    /// were lost, whatever they said may have happened.
    pub fn events(&mut self, timeout: Option<Duration>, mut each: impl FnMut(Answer<'_>)) -> Result<bool> {
        let timeout = timeout.map(|duration| Timespec {
            tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(duration.subsec_nanos()),
        });
        let mut poll = [PollFd::new(&self.fd, PollFlags::IN)];
        match rustix::event::poll(&mut poll, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(false),
            Ok(_) => {}
            Err(errno) => return Err(Error::new("poll(netlink)", errno)),
        }
        let Some(length) = self.receive(false)? else {
            return Ok(false);
        };
        Answers(&self.buffer[..length]).for_each(&mut each);
        Ok(true)
    }

    fn send(&self, datagram: &[u8], what: &str) -> Result<()> {
        // The default send buffer holds 200 KiB; a table with thousands of ports is longer.
        if datagram.len() > 64 * 1024 {
            rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, datagram.len() + 4096)
                .map_err(|errno| Error::new("setsockopt(SO_SNDBUFFORCE)", errno))?;
        }
        loop {
            match rustix::net::send(&self.fd, datagram, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new(format!("sendmsg({what})"), errno)),
            }
        }
    }

    fn receive(&mut self, wait: bool) -> Result<Option<usize>> {
        let flags = if wait { RecvFlags::TRUNC } else { RecvFlags::TRUNC | RecvFlags::DONTWAIT };
        loop {
            match rustix::net::recv(&self.fd, &mut self.buffer[..], flags) {
                Ok((read, whole)) if whole > read => {
                    return Err(Error::new("recvmsg(netlink): the answer was cut", Errno::MSGSIZE));
                }
                Ok((read, _)) => return Ok(Some(read)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(Error::new("recvmsg(netlink)", errno)),
            }
        }
    }

    /// Both families work inside sendmsg: when it has returned, every answer is already queued.
    fn collect(&mut self, first: u32, messages: &[Message]) -> Result<()> {
        let mut failure: Option<(usize, Error)> = None;
        let mut acknowledged = false;
        while let Some(length) = self.receive(false)? {
            for answer in Answers(&self.buffer[..length]) {
                let index = usize::try_from(answer.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                let Some(message) = messages.get(index) else {
                    continue;
                };
                if answer.kind != NLMSG_ERROR {
                    continue;
                }
                match status(&answer, &message.what) {
                    Ok(()) => acknowledged = true,
                    Err(error) if failure.as_ref().is_none_or(|(earlier, _)| index < *earlier) => {
                        failure = Some((index, error));
                    }
                    Err(_) => {}
                }
            }
        }
        match failure {
            Some((_, error)) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(Error::new("netlink: the kernel did not acknowledge the request", Errno::IO)),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads an NLMSG_ERROR or NLMSG_DONE: zero is success; the extended acknowledgement's text goes into the error.
fn status(answer: &Answer<'_>, what: &str) -> Result<()> {
    let code = answer.body.get(0..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if code == 0 || (answer.kind == NLMSG_DONE && code > 0) {
        return Ok(());
    }
    let errno = Errno::from_raw_os_error(-code);
    let request = answer.body.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let skip = match answer.kind {
        NLMSG_DONE => 4,
        _ if answer.flags & FLAG_CAPPED != 0 => 4 + HEADER,
        _ => 4 + usize::try_from(request).unwrap_or(HEADER).next_multiple_of(4),
    };
    let text = (answer.flags & FLAG_ACK_TLVS != 0).then(|| answer.attributes(skip).text(ATTRIBUTE_TEXT)).flatten();
    Err(Error::new(text.map_or_else(|| what.to_owned(), |text| format!("{what}: {text}")), errno))
}

fn set_option(fd: BorrowedFd<'_>, option: libc::c_int, value: u32) -> std::result::Result<(), Errno> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).expect("four fits");
    // SAFETY: the descriptor is borrowed, `value` outlives the call and `length` is its size.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTM_GETLINK: u16 = 18;
    const IFLA_IFNAME: u16 = 3;

    #[test]
    fn attributes_round_trip_and_survive_rubbish() {
        let mut message = Message::new(16, 0, "test");
        message.text(1, "ab").nest(2, |inner| {
            inner.u32(3, 7).u8(4, 9);
        });
        let attributes = Attributes(&message.bytes[HEADER..]);
        assert_eq!(attributes.text(1), Some("ab"));
        assert_eq!(attributes.nested(2).u32(3), Some(7));
        assert_eq!(attributes.nested(2).find(4), Some(&[9u8][..]));
        for cut in 0..message.bytes.len() {
            Attributes(&message.bytes[cut..]).for_each(drop);
            Attributes(&message.bytes[..cut]).for_each(drop);
            Answers(&message.bytes[..cut]).for_each(drop);
        }
    }

    #[test]
    fn asks_for_the_loopback_and_reports_a_missing_link() {
        let mut socket = Socket::open(Family::Route).expect("socket");
        let request = |name: &str| {
            let mut message = Message::new(RTM_GETLINK, 0, format!("RTM_GETLINK({name:?})"));
            message.raw(&[0; 16]).text(IFLA_IFNAME, name);
            message
        };
        let mut found = None;
        socket
            .ask(request("lo"), |answer| found = answer.attributes(16).text(IFLA_IFNAME).map(str::to_owned))
            .expect("lo");
        assert_eq!(found.as_deref(), Some("lo"));
        let error = socket.ask(request("nosuchlink"), |_| {}).expect_err("missing");
        assert_eq!(error.errno, Errno::NODEV);
        assert!(error.to_string().starts_with("RTM_GETLINK(\"nosuchlink\")"), "{error}");
    }
}
