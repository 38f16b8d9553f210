//! One client's connection to a shim.
//!
//! Owns: reading lines or raw input from the socket, what waits to be written to it, and when it is over. Must not: know what
//! a request means.

use std::io::{IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use crate::protocol::{CLIENT_BUFFER, Channel, Event, MAX_LINE, Streams, encode, frame_header};
use crate::queue::Queue;
use crate::streams::SessionId;

/// A subscriber that leaves this much unread, in bytes, is dropped: nobody may make a shim grow.
const MAX_UNREAD_EVENTS: usize = 1 << 20;

/// What a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Requests and answers.
    Requests,
    /// Requests, answers and events.
    Subscriber,
    /// The streams of one process.
    Streams(SessionId, Streams),
}

/// One client.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) role: Role,
    /// Whether the streams are raw bytes (a terminal's) instead of frames.
    pub(crate) raw: bool,
    socket: UnixStream,
    /// The beginning of a request whose end has not come.
    line: Vec<u8>,
    output: Queue,
    /// The client may still send.
    reading: bool,
    /// The client may still receive.
    writing: bool,
    /// Close as soon as everything is written.
    finishing: bool,
}

/// What came from a client.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// Nothing complete yet.
    Nothing,
    /// One request line; there may be more behind it.
    Line(Vec<u8>),
    /// It will send nothing more.
    End,
}

impl Connection {
    /// Takes a connected socket; it is made non-blocking.
    pub(crate) fn new(id: u64, socket: UnixStream, role: Role) -> std::io::Result<Connection> {
        socket.set_nonblocking(true)?;
        Ok(Connection {
            id,
            role,
            raw: false,
            socket,
            line: Vec::new(),
            output: Queue::default(),
            reading: true,
            writing: true,
            finishing: false,
        })
    }

    /// The socket, to wait on.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What to wait for; `None` when there is nothing to wait for at all. `input` says whether its input has room.
    pub(crate) fn interest(&self, input: bool) -> Option<PollFlags> {
        let mut flags = PollFlags::empty();
        let unread = matches!(self.role, Role::Requests | Role::Subscriber) && self.output.len() >= CLIENT_BUFFER;
        if self.reading && input && !unread {
            flags |= PollFlags::IN;
        }
        if self.writing && !self.output.is_empty() {
            flags |= PollFlags::OUT;
        }
        // With no flag at all a hang-up is still reported, which is wanted only once.
        (self.writing || !flags.is_empty()).then_some(flags)
    }

    /// Whether it can be forgotten.
    pub(crate) fn is_over(&self) -> bool {
        let written = !self.writing || self.output.is_empty();
        written && (self.finishing || (!self.reading && !self.writing))
    }

    /// Whether the client takes output of `channel` of this session.
    pub(crate) fn takes(&self, session: SessionId, channel: Channel) -> bool {
        self.writing
            && !self.finishing
            && matches!(self.role, Role::Streams(id, wanted) if id == session && wanted.wants(channel))
    }

    /// Whether output for it may be read from the container now.
    pub(crate) fn has_room(&self) -> bool {
        self.output.len() < CLIENT_BUFFER
    }

    /// Whether something waits to be written to it.
    pub(crate) fn has_unread(&self) -> bool {
        self.writing && !self.output.is_empty()
    }

    /// Close it once everything is written.
    pub(crate) fn finish(&mut self) {
        self.finishing = true;
    }

    /// The client is gone: nothing more can be written, and whatever it sent before may still be read.
    pub(crate) fn hung_up(&mut self) {
        self.writing = false;
        self.output.clear();
        if !matches!(self.role, Role::Streams(_, Streams { stdin: true, .. })) {
            self.reading = false;
        }
    }

    /// Sends an event, if this is a subscriber.
    pub(crate) fn tell(&mut self, event: &Event) {
        if self.role == Role::Subscriber {
            self.send(&encode(event));
            if self.output.len() > MAX_UNREAD_EVENTS {
                self.writing = false;
                self.reading = false;
            }
        }
    }

    /// Sends output of the process.
    pub(crate) fn send_output(&mut self, channel: Channel, output: &[u8]) {
        if self.raw {
            self.send(output);
        } else {
            let length = u32::try_from(output.len()).expect("one read is far below 4 GiB");
            self.send_parts(&frame_header(channel, length), output);
        }
    }

    /// Sends bytes after everything that waits already.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.send_parts(bytes, &[]);
    }

    fn send_parts(&mut self, first: &[u8], second: &[u8]) {
        if !self.writing {
            return;
        }
        let mut sent = 0;
        if self.output.is_empty() {
            sent = self.send_now(&[IoSlice::new(first), IoSlice::new(second)]);
        }
        if self.writing {
            let from_first = sent.min(first.len());
            self.output.push(&first[from_first..]);
            self.output.push(&second[sent - from_first..]);
        }
    }

    /// Writes what waits, as far as the socket takes it.
    pub(crate) fn flush(&mut self) {
        while self.writing && !self.output.is_empty() {
            let waiting = std::mem::take(&mut self.output);
            let sent = self.send_now(&[IoSlice::new(waiting.waiting())]);
            if self.writing {
                self.output = waiting;
                self.output.consume(sent);
            }
            if sent == 0 {
                break;
            }
        }
    }

    /// One `sendmsg`; 0 when the socket is full or, then `writing` is false, gone.
    fn send_now(&mut self, parts: &[IoSlice<'_>]) -> usize {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::sendmsg(&self.socket, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => return count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return 0,
                Err(_) => {
                    self.hung_up();
                    return 0;
                }
            }
        }
    }

    /// Reads raw input into `buffer`: `None` when there is none now, `Some(0)` when none will come.
    pub(crate) fn read_input(&mut self, buffer: &mut [u8]) -> Option<usize> {
        // What followed the request in the same packet is the first input.
        if !self.line.is_empty() {
            let count = self.line.len().min(buffer.len());
            buffer[..count].copy_from_slice(&self.line[..count]);
            self.line.drain(..count);
            return Some(count);
        }
        match self.socket.read(buffer) {
            Ok(0) => {
                self.reading = false;
                Some(0)
            }
            Ok(count) => Some(count),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {
                None
            }
            Err(_) => {
                self.reading = false;
                self.hung_up();
                Some(0)
            }
        }
    }

    /// Whether input that came together with the request waits already.
    pub(crate) fn has_early_input(&self) -> bool {
        matches!(self.role, Role::Streams(..)) && !self.line.is_empty()
    }

    /// Reads from the socket what is there, up to `scratch`. After this call [`Connection::next_line`] until it has nothing.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) {
        match self.socket.read(scratch) {
            Ok(0) => self.reading = false,
            Ok(count) => self.line.extend_from_slice(&scratch[..count]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => {}
            Err(_) => {
                self.reading = false;
                self.hung_up();
            }
        }
    }

    /// Takes the next whole request. A line longer than allowed ends the connection.
    pub(crate) fn next_line(&mut self) -> Incoming {
        if let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
            let rest = self.line.split_off(end + 1);
            return Incoming::Line(std::mem::replace(&mut self.line, rest));
        }
        if self.line.len() >= MAX_LINE {
            self.reading = false;
        }
        if self.reading { Incoming::Nothing } else { Incoming::End }
    }
}
