//! From a gzip stream to its recipe: the stream is inflated, its tokens are kept, and each stretch is coded as what differs
//! from the encoder that fits best.
//! Owns which encoders are tried and when a stretch ends. Must not trust the stream.

use std::io::{Read, Write};

use crate::bits::BitReader;
use crate::header::Header;
use crate::huffman::Decoder;
use crate::predict::{Flavour, HISTORY};
use crate::segment::{self, Item, MOST_EXTRA, MOST_TEXT, MOST_TOKENS, MOST_ZEROS, Place, Segment};
use crate::token::{END, Token, WINDOW, distance_of, length_of};
use crate::{Error, MAGIC, Result};

/// A stretch ends with the block that reaches this, in bytes of text.
const STRETCH: usize = 1 << 20;
/// Or this many tokens.
const STRETCH_TOKENS: usize = 400_000;
/// How much text encoders are tried on.
const SAMPLE: usize = 192 * 1024;
/// An encoder whose recipe is below one in this many bytes is taken for the right one.
const CERTAIN: usize = 250;
/// Encoders are looked for again when a stretch's recipe is above one in this many bytes, so many times.
const DOUBTFUL: usize = 30;
const SEARCHES: u32 = 6;
/// A recipe above one in this many bytes of the stream is not worth it.
const WORTHLESS: u64 = 2;

/// What was found out about a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysed {
    /// The length of the stream in bytes.
    pub stream_bytes: u64,
    /// The length of its text in bytes.
    pub text_bytes: u64,
    /// The length of the recipe in bytes.
    pub recipe_bytes: u64,
    /// What seems to have made it.
    pub encoder: String,
}

/// Writes the recipe of a gzip stream. `go_on` is asked every now and then. Needs about 12 MiB of memory, more only for
/// stretches of text that compress to almost nothing.
pub fn analyse(stream: impl Read, recipe: impl Write, go_on: &mut dyn FnMut() -> bool) -> Result<Analysed> {
    let mut analysis = Analysis {
        input: BitReader::new(stream),
        output: recipe,
        go_on,
        text: Vec::with_capacity(HISTORY + STRETCH * 2),
        place: Place { start: 0, floor: 0, origin: 0 },
        begun: Begun::default(),
        segment: Segment::default(),
        flavour: None,
        searches: SEARCHES,
        done: Analysed { stream_bytes: 0, text_bytes: 0, recipe_bytes: 0, encoder: String::new() },
    };
    analysis.output.write_all(MAGIC)?;
    analysis.done.recipe_bytes = MAGIC.len() as u64;
    analysis.run()?;
    analysis.output.write_all(&[0])?;
    analysis.done.recipe_bytes += 1;
    analysis.done.stream_bytes = analysis.input.position() / 8;
    Ok(analysis.done)
}

/// Where the stretch began.
#[derive(Default, Clone, Copy)]
struct Begun {
    bit: u64,
    floor: usize,
    origin: i64,
}

struct Analysis<'a, R, W> {
    input: BitReader<R>,
    output: W,
    go_on: &'a mut dyn FnMut() -> bool,
    /// What is known of the text before the stretch, and its own.
    text: Vec<u8>,
    /// Where the stretch begins in `text`, and what held last.
    place: Place,
    begun: Begun,
    segment: Segment,
    flavour: Option<Flavour>,
    searches: u32,
    done: Analysed,
}

impl<R: Read, W: Write> Analysis<'_, R, W> {
    fn run(&mut self) -> Result<()> {
        let mut members = 0u64;
        while let Some(first) = self.input.byte()? {
            if first != 0x1f {
                if members == 0 {
                    return Err(Error::Unsupported("not a gzip stream"));
                }
                self.rest(first)?;
                break;
            }
            self.member(first)?;
            members += 1;
        }
        if members == 0 {
            return Err(Error::Unsupported("not a gzip stream"));
        }
        self.end_stretch()
    }

    /// What follows the last member.
    fn rest(&mut self, first: u8) -> Result<()> {
        let mut rest = vec![first];
        while let Some(byte) = self.input.byte()? {
            rest.push(byte);
            if rest.len() > MOST_ZEROS as usize {
                return Err(Error::Unsupported("too much after the last member"));
            }
        }
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        if zeros > 0 {
            self.segment.items.push(Item::Zeros(zeros as u32));
        }
        rest.drain(..zeros);
        if rest.len() > MOST_EXTRA {
            return Err(Error::Unsupported("too much after the last member"));
        }
        if !rest.is_empty() {
            self.segment.items.push(Item::Rest(rest));
        }
        Ok(())
    }

    /// One gzip member (RFC 1952).
    fn member(&mut self, first: u8) -> Result<()> {
        let mut header = vec![first];
        self.more(&mut header, 9)?;
        if header[1] != 0x8b || header[2] != 8 || header[3] & 0xe0 != 0 {
            return Err(Error::Unsupported("not a gzip stream"));
        }
        let flags = header[3];
        if flags & 4 != 0 {
            self.more(&mut header, 2)?;
            let length = u16::from_le_bytes([header[10], header[11]]);
            self.more(&mut header, usize::from(length))?;
        }
        for _name_or_comment in [8, 16].into_iter().filter(|flag| flags & flag != 0) {
            self.more(&mut header, 1)?;
            while header.last() != Some(&0) {
                self.more(&mut header, 1)?;
            }
        }
        if flags & 2 != 0 {
            self.more(&mut header, 2)?;
        }
        self.segment.items.push(Item::Member(header));
        (self.place.floor, self.place.origin) = (self.text.len(), self.text.len() as i64);
        while !self.block()? {
            self.end_stretch_if_long()?;
        }
        let pad = self.input.align()?;
        let mut bytes = Vec::with_capacity(8);
        self.more(&mut bytes, 8)?;
        let bytes = bytes.try_into().unwrap_or_default();
        self.segment.items.push(Item::Trailer { pad, bytes });
        self.end_stretch_if_long()
    }

    fn more(&mut self, bytes: &mut Vec<u8>, count: usize) -> Result<()> {
        if bytes.len() + count > MOST_EXTRA {
            return Err(Error::Unsupported("too long a header"));
        }
        self.input.bytes(count, bytes)
    }

    /// One block; tells whether it is the last.
    fn block(&mut self) -> Result<bool> {
        let last = self.input.take(1)? == 1;
        match self.input.take(2)? {
            0 => {
                let pad = self.input.align()?;
                let length = self.input.take(16)?;
                if self.input.take(16)? != !length & 0xffff {
                    return Err(Error::Unsupported("a block's length is not what it says twice"));
                }
                let length = length as usize;
                self.input.bytes(length, &mut self.text)?;
                if length == 0 {
                    self.place.origin = self.text.len() as i64;
                }
                self.segment.items.push(Item::Stored { last, pad, length });
            }
            1 => {
                let count = self.tokens(&Decoder::new(&segment::fixed_literals())?, &Decoder::new(&[5; 32])?)?;
                self.segment.items.push(Item::Tokens { last, header: None, count });
            }
            2 => {
                let header = Header::read(&mut self.input)?;
                let count = self.tokens(&Decoder::new(&header.literals)?, &Decoder::new(&header.distances)?)?;
                self.segment.items.push(Item::Tokens { last, header: Some(header), count });
            }
            _ => return Err(Error::Unsupported("a block of unknown kind")),
        }
        Ok(last)
    }

    /// The tokens of a block; tells how many.
    fn tokens(&mut self, literals: &Decoder, distances: &Decoder) -> Result<usize> {
        let begun = self.segment.tokens.len();
        loop {
            let symbol = literals.read(&mut self.input)?;
            if symbol < END {
                self.text.push(symbol as u8);
                self.segment.tokens.push(Token::literal(symbol as u8));
            } else if symbol == END {
                return Ok(self.segment.tokens.len() - begun);
            } else {
                let wrong = Error::Unsupported("a symbol that stands for nothing");
                let Some((base, bits)) = length_of(symbol) else { return Err(wrong) };
                let length = base + self.input.take(bits)? as usize;
                let Some((base, bits)) = distance_of(distances.read(&mut self.input)?) else { return Err(wrong) };
                let distance = base + self.input.take(bits)? as usize;
                if distance > WINDOW.min(self.text.len() - self.place.floor) {
                    return Err(Error::Unsupported("a match before the start of the text"));
                }
                if length == 258 && symbol != 285 {
                    return Err(Error::Unsupported("a length that is written in an unusual way"));
                }
                let from = self.text.len() - distance;
                if distance >= length {
                    self.text.extend_from_within(from..from + length);
                } else {
                    (from..from + length).for_each(|at| self.text.push(self.text[at]));
                }
                self.segment.tokens.push(Token::matched(length, distance));
            }
            if self.segment.tokens.len() > MOST_TOKENS || self.text.len() > MOST_TEXT {
                return Err(Error::Unsupported("too long a block"));
            }
        }
    }

    fn end_stretch_if_long(&mut self) -> Result<()> {
        let length = self.text.len() - self.place.start;
        let is_long = length >= STRETCH || self.segment.tokens.len() >= STRETCH_TOKENS;
        if is_long || self.segment.items.len() >= 100_000 { self.end_stretch() } else { Ok(()) }
    }

    /// Codes the stretch and begins the next one.
    fn end_stretch(&mut self) -> Result<()> {
        if !(self.go_on)() {
            return Err(Error::Stopped);
        }
        let end = self.input.position();
        let stream = ((end - self.begun.bit) / 8 + 1) as usize;
        let place = Place { start: self.place.start, floor: self.begun.floor, origin: self.begun.origin };
        let (flavour, coded) = self.code(place, stream)?;
        let length = self.text.len() - place.start;
        let origin_back = (place.start as i64 - place.origin) as u64;
        let head = StretchHead {
            flavour: flavour.number() | StretchHead::TELLS_ROWS,
            bits: (self.begun.bit % 8) as u8,
            text_bytes: length as u32,
            floor_back: (place.start - place.floor.min(place.start)) as u32,
            origin_back: near(origin_back),
            coded_bytes: coded.len() as u32,
        };
        self.output.write_all(&head.to_bytes())?;
        self.output.write_all(&coded)?;
        self.done.recipe_bytes += (StretchHead::SIZE + coded.len()) as u64;
        self.done.text_bytes += length as u64;
        if self.done.text_bytes > 8 * STRETCH as u64 && self.done.recipe_bytes > end / 8 / WORTHLESS {
            return Err(Error::Unsupported("no encoder that is known"));
        }
        self.flavour = Some(flavour);
        self.done.encoder = format!("{flavour:?}");
        self.segment.items.clear();
        self.segment.tokens.clear();
        let forget = self.text.len().saturating_sub(HISTORY);
        self.text.drain(..forget);
        if self.text.capacity() > 4 * STRETCH {
            self.text.shrink_to(HISTORY + 2 * STRETCH);
        }
        self.place.start = self.text.len();
        self.place.floor = self.place.floor.saturating_sub(forget);
        self.place.origin -= forget as i64;
        self.begun = Begun { bit: end, floor: self.place.floor, origin: self.place.origin };
        Ok(())
    }

    /// The stretch as the best encoder sees it.
    fn code(&mut self, place: Place, stream: usize) -> Result<(Flavour, Vec<u8>)> {
        if let Some(flavour) = self.flavour {
            let coded = segment::encode(&self.segment, &self.text, place, flavour, usize::MAX);
            let coded = coded.ok_or(Error::Unsupported("it cannot be described"))?;
            if coded.len() < stream / DOUBTFUL || self.searches == 0 || self.segment.tokens.len() < 2000 {
                return Ok((flavour, coded));
            }
        }
        self.searches = self.searches.saturating_sub(1);
        let flavour = self.find(place)?;
        let coded = segment::encode(&self.segment, &self.text, place, flavour, usize::MAX);
        Ok((flavour, coded.ok_or(Error::Unsupported("it cannot be described"))?))
    }

    /// Tries the encoders on the start of the stretch.
    fn find(&mut self, place: Place) -> Result<Flavour> {
        let (sample, end, tokens) = self.sample(place);
        let text = &self.text[..end];
        let certain = tokens / 2 / CERTAIN + 100;
        let (mut best, mut least) = (Flavour::ALL[0], usize::MAX);
        for flavour in Flavour::ALL {
            if !(self.go_on)() {
                return Err(Error::Stopped);
            }
            if let Some(coded) = segment::encode(&sample, text, place, flavour, least)
                && coded.len() < least
            {
                (best, least) = (flavour, coded.len());
                if least < certain {
                    break;
                }
            }
        }
        Ok(best)
    }

    /// The first blocks, the end of their text, and how many tokens they have.
    fn sample(&self, place: Place) -> (Segment, usize, usize) {
        let mut sample = Segment::default();
        let (mut end, mut tokens) = (place.start, 0);
        for item in &self.segment.items {
            if end - place.start >= SAMPLE {
                break;
            }
            sample.items.push(item.clone());
            match item {
                Item::Stored { length, .. } => end += length,
                Item::Tokens { count, .. } => {
                    end +=
                        self.segment.tokens[tokens..tokens + count].iter().map(|token| token.length()).sum::<usize>();
                    tokens += count;
                }
                _ => {}
            }
        }
        sample.tokens = self.segment.tokens[..tokens].to_vec();
        (sample, end, tokens)
    }
}

/// A distance back that means the same to every predictor, and fits.
fn near(back: u64) -> u32 {
    const CHUNK: u64 = 65_535;
    let near = if back > 4 * CHUNK { back % CHUNK + 3 * CHUNK } else { back };
    near as u32
}

/// What stands before a stretch's code in a recipe; a zero byte ends the recipe.
pub(crate) struct StretchHead {
    /// The encoder's number, with [`StretchHead::TELLS_ROWS`].
    pub(crate) flavour: u8,
    /// How many bits of its first byte belong to the stretch before.
    pub(crate) bits: u8,
    pub(crate) text_bytes: u32,
    pub(crate) floor_back: u32,
    pub(crate) origin_back: u32,
    pub(crate) coded_bytes: u32,
}

impl StretchHead {
    pub(crate) const SIZE: usize = 18;
    /// Set in `flavour` if rows of literals are told; what the first versions wrote has none.
    pub(crate) const TELLS_ROWS: u8 = 0x80;

    fn to_bytes(&self) -> Vec<u8> {
        let numbers = [self.text_bytes, self.floor_back, self.origin_back, self.coded_bytes];
        [self.flavour, self.bits].into_iter().chain(numbers.into_iter().flat_map(u32::to_le_bytes)).collect()
    }

    /// `None` for what no recipe says.
    pub(crate) fn from_bytes(bytes: &[u8; StretchHead::SIZE]) -> Option<StretchHead> {
        let number = |nth: usize| {
            let at = 2 + 4 * nth;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let head = StretchHead {
            flavour: bytes[0],
            bits: bytes[1],
            text_bytes: number(0),
            floor_back: number(1),
            origin_back: number(2),
            coded_bytes: number(3),
        };
        let fits = head.bits < 8 && head.text_bytes as usize <= MOST_TEXT && head.coded_bytes as usize <= MOST_TEXT;
        fits.then_some(head)
    }
}
