//! The streams of one process inside the container, seen from outside.
//!
//! Owns: our ends of its pipes or its terminal: reading output without ever blocking, holding back input that it does not
//! read. Must not: know clients or logs (callers pass a function that takes output).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use brig_runtime::Stdio;
use brig_sys::Result;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::protocol::{Channel, Streams};
use crate::queue::Queue;

/// How much input waits for a process that does not read it, in bytes, before its clients have to wait.
const INPUT_BUFFER: usize = 64 * 1024;

/// How often a terminal that nobody has open is looked at again.
const TERMINAL_RETRY: Duration = Duration::from_millis(200);

/// Which process's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionId {
    /// The container's first process.
    Init,
    /// An exec, by the order in which they came.
    Exec(u64),
}

/// One output.
#[derive(Debug)]
struct Output {
    channel: Channel,
    fd: Rc<OwnedFd>,
    /// A terminal without an open slave reports a hang-up for ever: do not look before this.
    not_before: Option<Instant>,
}

/// What came of reading an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// There may be more.
    More,
    /// There is nothing now.
    Empty,
    /// It has ended and was closed.
    Ended,
}

/// Our ends of a process's streams.
#[derive(Debug, Default)]
pub(crate) struct Session {
    outputs: Vec<Output>,
    input: Option<Rc<OwnedFd>>,
    /// Input that the process has not read.
    waiting: Queue,
    /// Close the input once `waiting` is empty.
    closing_input: bool,
    terminal: Option<Rc<OwnedFd>>,
}

/// Ends that go to the new process; the others are kept here.
pub(crate) struct Pipes {
    /// For the process.
    pub(crate) theirs: Stdio,
    /// For the shim.
    pub(crate) ours: Session,
}

impl Session {
    /// Makes pipes for the streams that are `wanted`; the others are `/dev/null`.
    pub(crate) fn pipes(wanted: Streams) -> Result<Pipes> {
        let mut ours = Session::default();
        let stdin = if wanted.stdin {
            let (theirs, mine) = pipe()?;
            ours.input = Some(Rc::new(not_blocking(mine)?));
            theirs
        } else {
            null(OFlags::RDONLY)?
        };
        let mut output = |channel| -> Result<OwnedFd> {
            if !wanted.wants(channel) {
                return null(OFlags::WRONLY);
            }
            let (mine, theirs) = pipe()?;
            ours.outputs.push(Output { channel, fd: Rc::new(not_blocking(mine)?), not_before: None });
            Ok(theirs)
        };
        let theirs = Stdio::Pipes { stdin, stdout: output(Channel::Stdout)?, stderr: output(Channel::Stderr)? };
        Ok(Pipes { theirs, ours })
    }

    /// The streams of a process with a terminal, from its master.
    pub(crate) fn terminal(master: OwnedFd) -> Result<Session> {
        let master = Rc::new(not_blocking(master)?);
        Ok(Session {
            outputs: vec![Output { channel: Channel::Stdout, fd: Rc::clone(&master), not_before: None }],
            input: Some(Rc::clone(&master)),
            terminal: Some(master),
            ..Session::default()
        })
    }

    /// The terminal's master, if there is one.
    pub(crate) fn master(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(|master| master.as_fd())
    }

    /// The outputs that are open and worth waiting for.
    pub(crate) fn readable(&self, now: Instant) -> impl Iterator<Item = (Channel, BorrowedFd<'_>)> {
        let ready = move |output: &&Output| output.not_before.is_none_or(|time| time <= now);
        self.outputs.iter().filter(ready).map(|output| (output.channel, output.fd.as_fd()))
    }

    /// When an output that is not worth waiting for has to be looked at again.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.outputs.iter().filter_map(|output| output.not_before).min()
    }

    /// Whether all output has ended.
    pub(crate) fn is_drained(&self) -> bool {
        self.outputs.is_empty()
    }

    /// The channels that are still open.
    pub(crate) fn open_channels(&self) -> Vec<Channel> {
        self.outputs.iter().map(|output| output.channel).collect()
    }

    /// Reads `channel` once and gives what came to `take`. `ended` says that the process has ended.
    pub(crate) fn pump(
        &mut self,
        channel: Channel,
        scratch: &mut [u8],
        ended: bool,
        take: &mut dyn FnMut(&[u8]),
    ) -> Pumped {
        let Some(index) = self.outputs.iter().position(|output| output.channel == channel) else {
            return Pumped::Ended;
        };
        let output = &mut self.outputs[index];
        match rustix::io::read(&*output.fd, &mut *scratch) {
            Ok(count) if count > 0 => {
                output.not_before = None;
                take(&scratch[..count]);
                Pumped::More
            }
            Err(Errno::AGAIN) => Pumped::Empty,
            Err(Errno::INTR) => Pumped::More,
            // No slave is open: before the process opened it, or while it has none. It may come back.
            Err(Errno::IO) if self.terminal.is_some() && !ended => {
                output.not_before = Some(Instant::now() + TERMINAL_RETRY);
                Pumped::Empty
            }
            Ok(_) | Err(_) => {
                self.outputs.remove(index);
                Pumped::Ended
            }
        }
    }

    /// Closes what is still open.
    pub(crate) fn close(&mut self) {
        *self = Session::default();
    }

    /// Whether more input may be given.
    pub(crate) fn has_input_room(&self) -> bool {
        self.waiting.len() < INPUT_BUFFER
    }

    /// The input, if something waits for it.
    pub(crate) fn writable(&self) -> Option<BorrowedFd<'_>> {
        self.input.as_ref().filter(|_| !self.waiting.is_empty()).map(|fd| fd.as_fd())
    }

    /// Gives input to the process; discarded when its input is closed.
    pub(crate) fn give(&mut self, input: &[u8]) {
        if self.input.is_some() && !self.closing_input {
            self.waiting.push(input);
            self.write_input();
        }
    }

    /// The process will get no more input than what waits. A terminal stays open.
    pub(crate) fn end_input(&mut self) {
        if self.terminal.is_none() {
            self.closing_input = true;
            self.write_input();
        }
    }

    /// Writes what waits, as far as the process takes it.
    pub(crate) fn write_input(&mut self) {
        while let Some(fd) = self.writable() {
            match rustix::io::write(fd, self.waiting.waiting()) {
                Ok(count) => self.waiting.consume(count),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // It closed its input (EPIPE), or its terminal is gone (EIO): what it does not want is thrown away.
                Err(_) => {
                    self.waiting.clear();
                    self.closing_input = self.terminal.is_none();
                }
            }
        }
        if self.closing_input && self.waiting.is_empty() {
            self.input = None;
        }
    }
}

fn error(call: &'static str) -> impl Fn(Errno) -> brig_sys::Error {
    move |errno| brig_sys::Error::new(call, errno)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(error("pipe2(O_CLOEXEC)"))
}

/// Only our end: the flag belongs to one end of a pipe, and to the master alone of a terminal.
fn not_blocking(fd: OwnedFd) -> Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true).map_err(error("ioctl(FIONBIO)"))?;
    Ok(fd)
}

fn null(access: OFlags) -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", access | OFlags::CLOEXEC, Mode::empty()).map_err(error("open(\"/dev/null\")"))
}
