//! The confined process: a job, its input, and what to tell of it. Owns the way from the first system call to the last.
//! Must be the whole of its process: it gives up everything else for good.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use brig_sys::beneath::Root;
use brig_sys::fdpass::{Channel, MAX_MESSAGE};

use super::confine::{self, Missing, PIECES, Piece};
use super::{DONE, END, FAILED, JOB, LISTS, LOCKED, PIECE, PROGRESS, READY, files, notes};
use super::{filter, zygote};
use crate::apply::Content;
use crate::decompress::{self, Packing};
use crate::error::{Error, Result};
use crate::layer;

/// The job has a message of three bytes, packing and window, and two descriptors; a third is where to write what is decoded.
const GZIP: u8 = b'g';
const ZSTD: u8 = b'z';
const XZ: u8 = b'x';
const BZIP2: u8 = b'b';
const PLAIN: u8 = b'p';
const UNKNOWN: u8 = b'?';
/// Plain, and files get no content.
pub(super) const HOLLOW: u8 = b'h';

pub(super) fn packing_code(packing: Option<Packing>) -> u8 {
    match packing {
        Some(Packing::Gzip) => GZIP,
        Some(Packing::Zstd) => ZSTD,
        Some(Packing::Xz) => XZ,
        Some(Packing::Bzip2) => BZIP2,
        Some(Packing::Plain) => PLAIN,
        None => UNKNOWN,
    }
}

fn packing(code: u8) -> Option<Packing> {
    match code {
        GZIP => Some(Packing::Gzip),
        ZSTD => Some(Packing::Zstd),
        XZ => Some(Packing::Xz),
        BZIP2 => Some(Packing::Bzip2),
        PLAIN | HOLLOW => Some(Packing::Plain),
        _ => None,
    }
}

/// Unpacks layers, or only decodes streams, for the process at the other end of standard input: each in a process of its own,
/// confined. For a process that does nothing else.
pub fn main() -> ExitCode {
    zygote::serve(|channel, missing| match serve(&channel, missing) {
        Ok(()) => 0,
        // There is nobody to tell: the conversation itself has failed.
        Err(_) => 1,
    })
}

fn serve(channel: &Channel, missing: Vec<Missing>) -> Result<()> {
    let (missing, user) = confine::isolate(PIECES, missing);
    channel.send(&[&[READY, u8::from(user)], text(&missing).as_bytes()].concat(), &[])?;
    let job = channel.receive()?;
    let mut fds = job.fds.into_iter();
    let (&[JOB, code, window_log], Some(directory), Some(input)) = (job.bytes.as_slice(), fds.next(), fds.next())
    else {
        return Err(Error::invalid("no job"));
    };
    let output = fds.next();
    let directory = Root::from_fd(directory);
    let missing = confine::lock(directory.as_fd(), PIECES, &missing);
    channel.send(&[&[LOCKED], text(&missing).as_bytes()].concat(), &[])?;
    let decode = (packing(code), u32::from(window_log));
    let content = if code == HOLLOW { Content::LeftOut } else { Content::Written };
    let worked = match output {
        Some(output) => only_decode(channel, File::from(input), File::from(output), decode),
        None => work(channel, &directory, File::from(input), decode, content),
    };
    match worked {
        Ok(summary) => channel.send(&[&[DONE], &summary[..]].concat(), &[])?,
        Err(error) => channel.send(&[&[FAILED], &notes::encode_error(&error)[..]].concat(), &[])?,
    }
    Ok(())
}

/// Decodes the input to its end. The output's end comes before the last word.
fn only_decode(
    channel: &Channel,
    input: File,
    mut output: File,
    (packing, window_log): (Option<Packing>, u32),
) -> Result<Vec<u8>> {
    no_more_threads(channel);
    let mut input = Input { pipe: input, channel, ended: false };
    let mut plain = decompress::decompress_within(&mut input, packing, window_log)?;
    let mut piece = vec![0; PIECE];
    loop {
        let length = match plain.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::input("unpack the archive", &error)),
        };
        output.write_all(&piece[..length]).map_err(|error| Error::io("write what was unpacked", error))?;
    }
    drop(plain);
    io::copy(&mut input, &mut io::sink()).map_err(|error| Error::input("read the archive", &error))?;
    Ok(Vec::new())
}

fn no_more_threads(channel: &Channel) {
    if let Err(error) = filter::no_more_threads() {
        let missing = text(&[Missing { piece: Piece::Filter, error }]);
        drop(channel.try_send(&[&[LOCKED], missing.as_bytes()].concat()));
    }
}

fn work(
    channel: &Channel,
    directory: &Root,
    input: File,
    (packing, window_log): (Option<Packing>, u32),
    content: Content,
) -> Result<Vec<u8>> {
    let root = files(directory)?;
    let mut input = Input { pipe: input, channel, ended: false };
    let begun = Cell::new(false);
    let alive = || {
        // All threads that there are to be are there now, and nothing of the layer has been read.
        if !begun.replace(true) {
            no_more_threads(channel);
        }
        // Somebody who waits sees that it goes on; whether they look just now does not matter.
        drop(channel.try_send(&[PROGRESS]));
    };
    let plain = decompress::decompress_within(&mut input, packing, window_log)?;
    let (diff_id, size, applied) = layer::unpack_stream(directory, &root, plain, content, &alive)?;
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
