//! A packed stream that is decoded in a confined process, for what must be read here once it is decoded: the outer tar of an
//! image archive. Owns feeding the process while its output is read, on one thread. Must not believe that what comes out has
//! anything to do with what went in.

use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use brig_sys::mount::{Attr, Context};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use super::{JOB, PIECE, Process, Unpacker, helper, notes, pipe};
use crate::decompress::{Packing, packing_of, peek};
use crate::error::{Error, Result};

/// zstd windows of at most 2^26 = 64 MiB: the process that unpacks a layer of the same archive needs memory beside this one.
const WINDOW_LOG: u8 = 26;

impl Unpacker {
    /// Passes a plain stream through; for a packed one starts a process that decodes it.
    pub(crate) fn decoded<'a, R: Read + 'a>(&'a self, reader: R) -> Result<Box<dyn Read + 'a>> {
        let (head, reader) = peek(reader)?;
        let packing = packing_of(&head);
        if packing == Packing::Plain {
            return Ok(Box::new(reader));
        }
        let mut process = Process::start(self)?;
        let (their_input, input) = pipe()?;
        let (output, their_output) = output_pipe()?;
        let directory = nothing()?;
        process.prepare(self)?;
        let job = [JOB, helper::packing_code(Some(packing)), WINDOW_LOG];
        process.send(&job, &[directory.as_fd(), their_input.as_fd(), their_output.as_fd()])?;
        Ok(Box::new(Decoded { process, reader, input: Some(input), output, piece: vec![0; PIECE], filled: 0, at: 0 }))
    }
}

/// A directory in which there is nothing and nothing can be made.
fn nothing() -> Result<OwnedFd> {
    let context = Context::open("tmpfs")?;
    context.set("size", "4096")?;
    let attributes =
        Attr::MOUNT_ATTR_RDONLY | Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC;
    Ok(context.mount(attributes)?)
}

/// A pipe from the process: our end, which never blocks, then its.
fn output_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let failed = |errno: Errno| Error::io("make a pipe", errno);
    let (read_end, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    // Only fewer wake-ups: where pipes are limited a smaller one does.
    let _smaller = rustix::pipe::fcntl_setpipe_size(&read_end, PIECE);
    rustix::fs::fcntl_setfl(&read_end, OFlags::NONBLOCK).map_err(failed)?;
    Ok((read_end, write_end))
}

struct Decoded<'a, R> {
    process: Process<'a>,
    reader: R,
    /// `None` once it has had all, or does not want more.
    input: Option<OwnedFd>,
    output: OwnedFd,
    /// What was read and not yet passed on: from `at` to `filled`.
    piece: Vec<u8>,
    filled: usize,
    at: usize,
}

impl<R: Read> Read for Decoded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // However long nobody read, that was not its fault.
        self.process.goes_on();
        loop {
            match rustix::io::read(&self.output, &mut *buffer) {
                Ok(0) => return self.process.last_word().map(|_| 0).map_err(io::Error::from),
                Ok(length) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.go_on()?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl<R: Read> Decoded<'_, R> {
    /// Does one thing that brings the process on, and waits for it if there is nothing to do.
    fn go_on(&mut self) -> io::Result<()> {
        // The output's end comes before the last word.
        if self.process.last_word.is_some() {
            return Err(notes::bad("its last word before the end of its output").into());
        }
        if self.input.is_some() && self.at == self.filled {
            self.fill()?;
        }
        let Some(input) = &self.input else {
            return self.wait();
        };
        match rustix::io::write(input, &self.piece[self.at..self.filled]) {
            Ok(written) => {
                self.process.goes_on();
                self.at += written;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => self.wait()?,
            // It does not read any more, and its last word says why.
            Err(Errno::PIPE) => self.input = None,
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Reads the next piece of input; at its end says so.
    fn fill(&mut self) -> io::Result<()> {
        (self.at, self.filled) = (0, 0);
        while self.filled == 0 {
            match self.reader.read(&mut self.piece) {
                Ok(0) => {
                    self.input = None;
                    return Ok(self.process.ended()?);
                }
                Ok(length) => self.filled = length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.process.goes_on();
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut pipes = vec![(&self.output, PollFlags::IN)];
        pipes.extend(self.input.as_ref().map(|input| (input, PollFlags::OUT)));
        if self.process.wait(&pipes)? {
            self.process.hear()?;
        }
        Ok(())
    }
}
