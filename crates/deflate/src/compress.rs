//! Compressing layers so that the same text always gives the same bytes, however many threads there are.
//!
//! Owns the encoders that we name: their output is part of what digests are made of and must never change, which the tests
//! hold on to. gzip: pieces of 1 MiB that begin with the 16 KiB before them known, in blocks of 65,535 bytes, tokens as the
//! library "compress" for Go finds them on level 6; a recipe for it would be next to nothing even without a name. zstd:
//! frames of 4 MiB made by libzstd.

use std::io::{self, Read};

use flate2::Crc;

use crate::emit::emit;
use crate::header::Header;
use crate::parallel::{Parallel, Task};
use crate::predict::{Dual, Predictor};
use crate::segment::{Item, Segment};
use crate::token::{DISTANCES, END, LITERALS, Token, distance_symbol, length_of};
use crate::{Error, MADE, Result};

/// A piece of a gzip stream, in bytes of text.
const PIECE: usize = 1 << 20;
/// How much of the text before a piece it may refer to.
const TAIL: usize = 16 * 1024;
/// A block, in bytes of text.
const BLOCK: usize = 65_535;
/// A frame of a zstd stream, in bytes of text.
const FRAME: usize = 4 << 20;
/// No name, no time, an unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
const ZSTD_LEVEL: i32 = 3;

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// gzip, which everybody reads.
    #[default]
    Gzip,
    /// Zstandard: smaller, and faster to unpack.
    Zstd,
}

impl Form {
    /// The recipe of what [`compress`] makes in this form.
    pub fn recipe(self) -> Vec<u8> {
        [&MADE[..], &[self.number(), 1]].concat()
    }

    fn number(self) -> u8 {
        match self {
            Form::Gzip => 1,
            Form::Zstd => 2,
        }
    }

    pub(crate) fn from_bytes(bytes: [u8; 2]) -> Option<Form> {
        [Form::Gzip, Form::Zstd].into_iter().find(|form| [form.number(), 1] == bytes)
    }

    fn piece(self) -> usize {
        match self {
            Form::Gzip => PIECE,
            Form::Zstd => FRAME,
        }
    }
}

/// The compressed text. Each thread needs about 8 MiB.
pub fn compress<'a>(text: impl Read + Send + 'a, form: Form, threads: usize) -> impl Read + Send + 'a {
    Compress {
        text,
        form,
        work: Parallel::new(threads),
        tail: Vec::new(),
        crc: Crc::new(),
        begun: false,
        ended: false,
        ready: Vec::new(),
        at: 0,
    }
}

struct Compress<T> {
    text: T,
    form: Form,
    work: Parallel<Vec<u8>>,
    /// The end of the piece before.
    tail: Vec<u8>,
    crc: Crc,
    begun: bool,
    ended: bool,
    ready: Vec<u8>,
    at: usize,
}

impl<T: Read> Compress<T> {
    /// The work on the next piece. The last one is shorter than the others, or empty.
    fn next(&mut self) -> Result<Option<Task<Vec<u8>>>> {
        if self.ended {
            return Ok(None);
        }
        let mut text = std::mem::take(&mut self.tail);
        let start = text.len();
        text.reserve_exact(self.form.piece());
        self.text.by_ref().take(self.form.piece() as u64).read_to_end(&mut text)?;
        self.ended = text.len() - start < self.form.piece();
        let is_first = !std::mem::replace(&mut self.begun, true);
        if self.form == Form::Zstd {
            // A stream has at least one frame.
            if self.ended && text.is_empty() && !is_first {
                return Ok(None);
            }
            return Ok(Some(Box::new(move || Ok(zstd::bulk::compress(&text, ZSTD_LEVEL)?))));
        }
        self.crc.update(&text[start..]);
        self.tail = text[text.len().saturating_sub(TAIL).max(start)..].to_vec();
        let sum = self.ended.then(|| [self.crc.sum().to_le_bytes(), self.crc.amount().to_le_bytes()].concat());
        let end = sum.and_then(|sum| sum.try_into().ok());
        Ok(Some(Box::new(move || gzip_piece(&text, start, is_first, end))))
    }

    fn advance(&mut self) -> Result<bool> {
        while self.work.has_room() {
            let Some(task) = self.next()? else { break };
            self.work.begin(task);
        }
        let Some(made) = self.work.take() else { return Ok(false) };
        (self.ready, self.at) = (made?, 0);
        Ok(true)
    }
}

impl<T: Read> Read for Compress<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.ready.len() {
            if buffer.is_empty() || !self.advance()? {
                return Ok(0);
            }
        }
        let length = buffer.len().min(self.ready.len() - self.at);
        buffer[..length].copy_from_slice(&self.ready[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// The blocks of `text` from `start` on, ended so that the next piece begins with a byte, or with the whole stream's end.
fn gzip_piece(text: &[u8], start: usize, is_first: bool, end: Option<[u8; 8]>) -> Result<Vec<u8>> {
    let mut predictor = Dual::new(6, true);
    predictor.begin(text, 0, start as i64, start);
    let mut segment = Segment::default();
    if is_first {
        segment.items.push(Item::Member(GZIP_HEADER.to_vec()));
    }
    let mut at = start;
    while at < text.len() {
        let until = text.len().min(at + BLOCK);
        block(&mut segment, &mut predictor, text, at, until);
        at = until;
    }
    segment.items.push(Item::Stored { last: end.is_some(), pad: 0, length: 0 });
    segment.items.extend(end.map(|bytes| Item::Trailer { pad: 0, bytes }));
    let (bytes, _, rest) = emit(&segment, &text[start..], (0, 0))?.finish();
    if rest > 0 { Err(Error::Damaged("the end of a piece")) } else { Ok(bytes) }
}

/// One block: compressed if that makes it shorter.
fn block(segment: &mut Segment, predictor: &mut Dual, text: &[u8], start: usize, until: usize) {
    let (mut literals, mut distances) = ([0u32; LITERALS], [0u32; DISTANCES]);
    literals[END] = 1;
    let begun = segment.tokens.len();
    let (mut at, mut extra_bits) = (start, 0u64);
    while at < until {
        let mut token = predictor.predict(text, at);
        let is_right = token.length() <= until - at;
        if !is_right {
            token = Token::literal(text[at]);
        }
        predictor.accept(text, at, token, is_right);
        literals[token.symbol()] += 1;
        if token.is_match() {
            let (symbol, extra, _) = distance_symbol(token.distance());
            distances[symbol] += 1;
            extra_bits += u64::from(extra) + length_of(token.symbol()).map_or(0, |(_, extra)| u64::from(extra));
        }
        at += token.length();
        segment.tokens.push(token);
    }
    let header = Header::best(&literals, &distances);
    let cost = |counts: &[u32], lengths: &[u8]| -> u64 {
        counts.iter().zip(lengths).map(|(count, length)| u64::from(*count) * u64::from(*length)).sum()
    };
    let bits = 3 + header.bits() + cost(&literals, &header.literals) + cost(&distances, &header.distances) + extra_bits;
    let length = until - start;
    if bits < (length as u64 + 5) * 8 {
        let count = segment.tokens.len() - begun;
        segment.items.push(Item::Tokens { last: false, header: Some(header), count });
    } else {
        segment.tokens.truncate(begun);
        segment.items.push(Item::Stored { last: false, pad: 0, length });
    }
}
