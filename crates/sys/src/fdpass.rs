//! Messages with descriptors between related processes, over a `SOCK_SEQPACKET` pair.
//! Owns framing of one message and `SCM_RIGHTS`. Must not know what the messages mean.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::error::{Error, Result};

/// How many descriptors one message may carry; the kernel's own limit is 253.
pub const MAX_FDS: usize = 64;
/// How long a message may be, in bytes.
pub const MAX_MESSAGE: usize = 16 * 1024;

/// One end of a pair; the descriptor is close-on-exec.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// What [`Channel::receive`] got.
#[derive(Debug)]
pub struct Message {
    /// The bytes; empty means that the other end is closed.
    pub bytes: Vec<u8>,
    /// The descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// A connected pair.
pub fn pair() -> Result<(Channel, Channel)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map(|(left, right)| (Channel(left), Channel(right)))
        .map_err(|errno| Error::new("socketpair(AF_UNIX, SOCK_SEQPACKET)", errno))
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Channel {
    /// Takes over a descriptor that is such a socket.
    pub fn from_fd(fd: OwnedFd) -> Channel {
        Channel(fd)
    }

    /// The socket, to be given to another process.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message of at most [`MAX_MESSAGE`] bytes (not empty) and [`MAX_FDS`] descriptors.
    ///
    /// # Errors
    /// EPIPE if the other end is closed, never a signal.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let call = |errno| Error::new(format!("sendmsg({} bytes, {} descriptors)", bytes.len(), fds.len()), errno);
        if bytes.is_empty() || bytes.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(call(Errno::MSGSIZE));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(call(Errno::MSGSIZE));
            }
            match rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(call(errno)),
            }
        }
    }

    /// Sends one message without descriptors if there is room for it now; tells whether there was.
    ///
    /// # Errors
    /// EPIPE if the other end is closed, never a signal.
    pub fn try_send(&self, bytes: &[u8]) -> Result<bool> {
        match rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::NOBUFS) => Ok(false),
            Err(errno) => Err(Error::new(format!("send({} bytes)", bytes.len()), errno)),
        }
    }

    /// Receives one message; with no bytes if the other end is closed.
    pub fn receive(&self) -> Result<Message> {
        let mut buffer = vec![0u8; MAX_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        loop {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            match rustix::net::recvmsg(&self.0, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => {
                    let mut fds = Vec::new();
                    for message in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = message {
                            fds.extend(rights);
                        }
                    }
                    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                        return Err(Error::new("recvmsg: message or descriptors cut off", Errno::MSGSIZE));
                    }
                    buffer.truncate(got.bytes);
                    return Ok(Message { bytes: buffer, fds });
                }
                // The other end is closed and had not read everything. The kernel says so once, before it hands out what
                // the other end still sent.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(errno) => return Err(Error::new("recvmsg()", errno)),
            }
        }
    }
}

/// Sends bytes over a connected stream socket, the descriptors with the first of them.
///
/// # Errors
/// EPIPE if the other end is closed, never a signal.
pub fn send_over_stream(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let call = |errno| Error::new(format!("sendmsg({} bytes, {} descriptors)", bytes.len(), fds.len()), errno);
    if bytes.is_empty() || fds.len() > MAX_FDS {
        return Err(call(Errno::MSGSIZE));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut sent = 0;
    while sent < bytes.len() {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if sent == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(call(Errno::MSGSIZE));
        }
        match rustix::net::sendmsg(socket, &[IoSlice::new(&bytes[sent..])], &mut control, SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(call(errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_bytes_and_descriptors() {
        let (left, right) = pair().unwrap();
        let (inner, other) = pair().unwrap();
        left.send(b"hello", &[inner.as_fd(), other.as_fd()]).unwrap();
        let message = right.receive().unwrap();
        assert_eq!((message.bytes.as_slice(), message.fds.len()), (b"hello".as_slice(), 2));
        let mut fds = message.fds.into_iter();
        let copy = Channel::from_fd(fds.next().unwrap());
        copy.send(b"x", &[]).unwrap();
        assert_eq!(other.receive().unwrap().bytes, b"x");
        right.send(b"unread", &[]).unwrap();
        left.send(b"last words", &[]).unwrap();
        drop(left);
        assert_eq!(right.receive().unwrap().bytes, b"last words");
        assert!(right.receive().unwrap().bytes.is_empty());
        assert_eq!(right.send(b"x", &[]).unwrap_err().errno, Errno::PIPE);
        assert_eq!(right.send(b"", &[]).unwrap_err().errno, Errno::MSGSIZE);
    }
}
