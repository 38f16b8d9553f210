//! What parent and child say to each other between clone and exec.
//! Owns the messages. After a filter may be in force only plain `read` and `write` are used, which every program needs too.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use brig_sys::fdpass::{Channel, MAX_FDS, MAX_MESSAGE};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// From the child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// From the stage that joined namespaces: the child is this process; its pidfd comes along.
    Child { pid: i32 },
    /// The terminal's master comes along.
    Terminal,
    /// The time namespace is there and nobody is in it; its offsets are due.
    Timeless,
    /// A map for the mount that comes with the next report.
    Map,
    /// A copy of a mount comes along, to be mapped by the map that came before: only the parent may.
    Unmapped { recursive: bool },
    /// The mounts are there; the parent's hooks are due.
    Mounted,
    /// The filter is loaded; its listener is this descriptor of the child, which keeps it open until the gate opens.
    Listener { fd: i32 },
    /// Everything is done but the exec.
    Ready,
    /// It cannot be done; the child ends.
    Failed(Error),
}

/// To the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The user namespace has its maps.
    Mapped,
    /// Descriptors come along, and more messages with some.
    Fds,
    /// Descriptors come along; these are the last.
    LastFds,
    /// The mount has its map.
    MountMapped,
    /// The parent's hooks have run.
    Hooked,
    /// The parent goes; the next order comes through the gate.
    Leave,
    /// Run the program.
    Go,
}

impl Order {
    fn letter(self) -> u8 {
        match self {
            Order::Mapped => b'm',
            Order::Fds => b'f',
            Order::LastFds => b'l',
            Order::MountMapped => b'i',
            Order::Hooked => b'h',
            Order::Leave => b'w',
            Order::Go => b'g',
        }
    }
}

/// Sends an order without descriptors.
pub(crate) fn order(channel: &Channel, order: Order) -> Result<()> {
    Ok(channel.send(&[order.letter()], &[])?)
}

/// The same by plain write.
pub(crate) fn write_order(to: impl AsFd, order: Order) -> Result<()> {
    rustix::io::write(to, &[order.letter()])
        .map(drop)
        .map_err(|errno| brig_sys::Error::new(format!("write(gate, {order:?})"), errno).into())
}

/// Sends descriptors, in as many messages as it takes.
pub(crate) fn send_fds(channel: &Channel, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut rest = fds;
    loop {
        let (now, later) = rest.split_at(rest.len().min(MAX_FDS));
        let order = if later.is_empty() { Order::LastFds } else { Order::Fds };
        channel.send(&[order.letter()], now)?;
        if later.is_empty() {
            return Ok(());
        }
        rest = later;
    }
}

/// In the child: waits for an order. `None` means that the parent is gone.
pub(crate) fn wait_order(channel: impl AsFd, wanted: Order) -> Result<Option<()>> {
    let mut letter = [0u8; 1];
    loop {
        match rustix::io::read(channel.as_fd(), &mut letter) {
            Ok(0) => return Ok(None),
            Ok(_) if letter[0] == wanted.letter() => return Ok(Some(())),
            Ok(_) => {
                return Err(Error::system(format!("parent sent {:?} instead of {wanted:?}", char::from(letter[0]))));
            }
            Err(Errno::INTR | Errno::CONNRESET) => {}
            Err(errno) => return Err(brig_sys::Error::new("read(channel)", errno).into()),
        }
    }
}

/// In the child: receives all descriptors. `None` means that the parent is gone.
pub(crate) fn receive_fds(channel: &Channel) -> Result<Option<Vec<OwnedFd>>> {
    let mut fds = Vec::new();
    loop {
        let message = channel.receive()?;
        fds.extend(message.fds);
        match message.bytes.first() {
            None => return Ok(None),
            Some(letter) if *letter == Order::LastFds.letter() => return Ok(Some(fds)),
            Some(letter) if *letter == Order::Fds.letter() => {}
            Some(letter) => {
                return Err(Error::system(format!("parent sent {:?} instead of descriptors", char::from(*letter))));
            }
        }
    }
}

fn encode(report: &Report) -> Vec<u8> {
    let text = serde_json::to_vec(report).unwrap_or_default();
    if !text.is_empty() && text.len() <= MAX_MESSAGE {
        return text;
    }
    // Only an error's text can be that long.
    serde_json::to_vec(&Report::Failed(Error::system("init failed with a message that is too long to pass on")))
        .unwrap_or_default()
}

/// In the child: reports by plain write.
pub(crate) fn report(channel: impl AsFd, report: &Report) -> Result<()> {
    loop {
        match rustix::io::write(channel.as_fd(), &encode(report)) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(brig_sys::Error::new("write(channel)", errno).into()),
        }
    }
}

/// In the child: reports the listener of a filter that is in force already, by one write and without asking the kernel for
/// memory: any other call may wait for an agent that does not have the listener yet.
pub(crate) fn report_listener(channel: &Channel, fd: i32) -> Result<()> {
    use std::io::Write as _;
    let mut text = [0u8; 64];
    let mut rest = text.as_mut_slice();
    let room = rest.len();
    // A number has at most 11 characters.
    write!(rest, "{{\"listener\":{{\"fd\":{fd}}}}}").unwrap_or_default();
    let length = room - rest.len();
    loop {
        match rustix::io::write(channel.as_fd(), &text[..length]) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(brig_sys::Error::new("write(channel)", errno).into()),
        }
    }
}

/// In the child: reports with a descriptor.
pub(crate) fn report_with(channel: &Channel, report: &Report, fd: BorrowedFd<'_>) -> Result<()> {
    Ok(channel.send(&encode(report), &[fd])?)
}

/// In the parent: the next report with its descriptor, if any. `None` means that the child closed its end: it has exec'd or died.
pub(crate) fn next(channel: &Channel) -> Result<Option<(Report, Option<OwnedFd>)>> {
    let mut message = channel.receive()?;
    if message.bytes.is_empty() {
        return Ok(None);
    }
    let report = serde_json::from_slice(&message.bytes)
        .map_err(|error| Error::system(format!("init sent what is no report: {error}")))?;
    Ok(Some((report, message.fds.pop())))
}

/// In the parent: whether [`next`] would not wait.
pub(crate) fn waiting(channel: &Channel) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// [`next`], but `None` also if `process` ends without another report: others may hold the child's end open.
pub(crate) fn next_of(channel: &Channel, process: BorrowedFd<'_>) -> Result<Option<(Report, Option<OwnedFd>)>> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [channel.as_fd(), process].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(brig_sys::Error::new("poll(channel, pidfd)", errno).into()),
        }
    }
    if fds[0].revents().is_empty() { Ok(None) } else { next(channel) }
}
