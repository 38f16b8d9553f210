//! The confined process: a job, its input, and what to tell of it. Owns the way from the first system call to the last.
//! Must be the whole of its process: it gives up everything else for good.

use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;

use brig_sys::beneath::Root;
use brig_sys::fdpass::{Channel, MAX_MESSAGE};
use brig_sys::{inherited, process};
use rustix::fs::Mode;

use super::confine::{self, Missing, PIECES};
use super::{DONE, END, FAILED, JOB, LISTS, LOCKED, PROGRESS, READY, files, notes};
use crate::decompress::{self, Packing};
use crate::error::{Error, Result};
use crate::layer;

/// The job has a message of three bytes, packing and window, and two descriptors.
const GZIP: u8 = b'g';
const ZSTD: u8 = b'z';
const PLAIN: u8 = b'p';
const UNKNOWN: u8 = b'?';

pub(super) fn packing_code(packing: Option<Packing>) -> u8 {
    match packing {
        Some(Packing::Gzip) => GZIP,
        Some(Packing::Zstd) => ZSTD,
        Some(Packing::Plain) => PLAIN,
        None => UNKNOWN,
    }
}

fn packing(code: u8) -> Option<Packing> {
    match code {
        GZIP => Some(Packing::Gzip),
        ZSTD => Some(Packing::Zstd),
        PLAIN => Some(Packing::Plain),
        _ => None,
    }
}

/// Unpacks one layer for the process at the other end of standard input, confined. For a process that does nothing else.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the conversation itself has failed.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve() -> Result<()> {
    let channel = Channel::from_fd(inherited::take(0)?);
    process::close_from(3)?;
    // Modes are the archive's.
    rustix::process::umask(Mode::empty());
    let (missing, user) = confine::isolate(PIECES);
    channel.send(&[&[READY, u8::from(user)], text(&missing).as_bytes()].concat(), &[])?;
    let job = channel.receive()?;
    let (&[JOB, code, window_log], Ok([directory, input])) = (job.bytes.as_slice(), <[_; 2]>::try_from(job.fds)) else {
        return Err(Error::invalid("no job"));
    };
    let directory = Root::from_fd(directory);
    let missing = confine::lock(directory.as_fd(), PIECES, &missing);
    channel.send(&[&[LOCKED], text(&missing).as_bytes()].concat(), &[])?;
    let decode = (packing(code), u32::from(window_log));
    match work(&channel, &directory, File::from(input), decode) {
        Ok(summary) => channel.send(&[&[DONE], &summary[..]].concat(), &[])?,
        Err(error) => channel.send(&[&[FAILED], &notes::encode_error(&error)[..]].concat(), &[])?,
    }
    Ok(())
}

fn work(
    channel: &Channel,
    directory: &Root,
    input: File,
    (packing, window_log): (Option<Packing>, u32),
) -> Result<Vec<u8>> {
    let root = files(directory)?;
    let mut input = Input { pipe: input, channel, ended: false };
    // Somebody who waits sees that it goes on; whether they look just now does not matter.
    let alive = || drop(channel.try_send(&[PROGRESS]));
    let plain = decompress::decompress_within(&mut input, packing, window_log)?;
    let (diff_id, size, applied) = layer::unpack_stream(directory, &root, plain, &alive)?;
    io::copy(&mut input, &mut io::sink()).map_err(|error| Error::input("read the layer", &error))?;
    for part in notes::encode_lists(&applied).chunks(MAX_MESSAGE - 1) {
        channel.send(&[&[LISTS], part].concat(), &[])?;
    }
    Ok(notes::encode_summary(&diff_id, size, &applied))
}

fn text(missing: &[Missing]) -> String {
    let all: Vec<String> = missing.iter().map(|missing| format!("{:?} ({})", missing.piece, missing.error)).collect();
    all.join(", ").chars().take(notes::MAX_TEXT / 4).collect()
}

/// The pipe; its end is only believed if the other side says so.
struct Input<'a> {
    pipe: File,
    channel: &'a Channel,
    ended: bool,
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.pipe.read(buffer)?;
        if length > 0 || self.ended || buffer.is_empty() {
            return Ok(length);
        }
        match self.channel.receive() {
            Ok(message) if message.bytes == [END] => {
                self.ended = true;
                Ok(0)
            }
            _ => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the input broke off")),
        }
    }
}
