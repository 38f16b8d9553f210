//! From a recipe and a text to the stream, stretches side by side on several threads.
//! Owns the order and what is in memory. Must not say that the result is right: the caller compares its digest.

use std::io::{self, Read};

use crate::analyse::StretchHead;
use crate::compress::{Form, compress};
use crate::emit::emit;
use crate::parallel::Parallel;
use crate::predict::{Flavour, HISTORY};
use crate::segment::{self, Place};
use crate::{Error, MADE, MAGIC, Result};

/// Makes a stream again. Fails if that is no recipe. `text` is what it was made from, in full; one that is longer or shorter is an error. Each thread
/// needs about 8 MiB. With one thread the work is done where it is read.
pub fn rebuild<'a>(
    text: impl Read + Send + 'a,
    mut recipe: impl Read + Send + 'a,
    threads: usize,
) -> Result<Box<dyn Read + Send + 'a>> {
    let mut magic = [0; MAGIC.len()];
    recipe.read_exact(&mut magic).map_err(cut)?;
    if magic == *MADE {
        let mut form = [0; 2];
        recipe.read_exact(&mut form).map_err(cut)?;
        let form = Form::from_bytes(form).ok_or(Error::Damaged("the name of an encoder"))?;
        return Ok(Box::new(compress(text, form, threads)));
    }
    if magic != *MAGIC {
        return Err(Error::Damaged("its first bytes"));
    }
    Ok(Box::new(Rebuild {
        source: Source { text, recipe, history: Vec::new(), ended: false },
        work: Parallel::new(threads),
        ready: Vec::new(),
        at: 0,
        leftover: 0,
        failed: false,
    }))
}

fn cut(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Error::Damaged("it is cut off"),
        _ => Error::Io(error),
    }
}

/// A stretch's stream: its bytes, then the bits of the byte it ends in.
type Made = Result<(Vec<u8>, u8)>;

/// What is needed to make a stretch.
struct Job {
    head: StretchHead,
    flavour: Flavour,
    coded: Vec<u8>,
    text: Vec<u8>,
    place: Place,
}

impl Job {
    fn run(&self) -> Made {
        let tells_rows = self.head.flavour & StretchHead::TELLS_ROWS != 0;
        let segment = segment::decode(&self.coded, &self.text, self.place, (self.flavour, tells_rows))?;
        let made = emit(&segment, &self.text[self.place.start..], (0, u32::from(self.head.bits)))?;
        let (bytes, bits, _) = made.finish();
        Ok((bytes, bits))
    }
}

struct Source<T, R> {
    text: T,
    recipe: R,
    /// The end of the text so far.
    history: Vec<u8>,
    ended: bool,
}

impl<T: Read, R: Read> Source<T, R> {
    fn next(&mut self) -> Result<Option<Job>> {
        if self.ended {
            return Ok(None);
        }
        let mut head = [0; StretchHead::SIZE];
        self.recipe.read_exact(&mut head[..1]).map_err(cut)?;
        if head[0] == 0 {
            self.ended = true;
            let mut more = [0];
            if self.text.read(&mut more)? > 0 {
                return Err(Error::Damaged("the text is longer"));
            }
            return Ok(None);
        }
        self.recipe.read_exact(&mut head[1..]).map_err(cut)?;
        let head = StretchHead::from_bytes(&head).ok_or(Error::Damaged("the head of a stretch"))?;
        let number = head.flavour & !StretchHead::TELLS_ROWS;
        let flavour = Flavour::from_number(number).ok_or(Error::Damaged("an encoder that is not known"))?;
        let mut coded = Vec::new();
        self.recipe.by_ref().take(u64::from(head.coded_bytes)).read_to_end(&mut coded)?;
        if coded.len() != head.coded_bytes as usize {
            return Err(Error::Damaged("it is cut off"));
        }
        let mut text = std::mem::take(&mut self.history);
        let start = text.len();
        text.reserve_exact(head.text_bytes as usize);
        self.text.by_ref().take(u64::from(head.text_bytes)).read_to_end(&mut text)?;
        if text.len() - start != head.text_bytes as usize {
            return Err(Error::Damaged("the text is shorter"));
        }
        self.history = text[text.len().saturating_sub(HISTORY)..].to_vec();
        let floor = start.saturating_sub(head.floor_back as usize);
        let origin = start as i64 - i64::from(head.origin_back);
        Ok(Some(Job { head, flavour, coded, text, place: Place { start, floor, origin } }))
    }
}

struct Rebuild<T, R> {
    source: Source<T, R>,
    work: Parallel<(Vec<u8>, u8)>,
    ready: Vec<u8>,
    at: usize,
    /// The bits of the byte that the stretch before ended in.
    leftover: u8,
    failed: bool,
}

impl<T: Read, R: Read> Rebuild<T, R> {
    /// The next stretch's bytes; `false` at the end.
    fn advance(&mut self) -> Result<bool> {
        while self.work.has_room() {
            let Some(job) = self.source.next()? else { break };
            self.work.begin(Box::new(move || job.run()));
        }
        let Some(made) = self.work.take() else { return Ok(false) };
        let (bytes, bits) = made?;
        (self.ready, self.at) = (bytes, 0);
        match self.ready.first_mut() {
            Some(first) => {
                *first |= self.leftover;
                self.leftover = bits;
            }
            None => self.leftover |= bits,
        }
        Ok(true)
    }
}

impl<T: Read, R: Read> Read for Rebuild<T, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            if self.failed || buffer.is_empty() {
                return Ok(0);
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => {
                    self.failed = true;
                    return Err(error.into());
                }
            }
        }
        let length = buffer.len().min(self.ready.len() - self.at);
        buffer[..length].copy_from_slice(&self.ready[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}
