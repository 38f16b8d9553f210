//! A stretch of a gzip stream, of whole blocks, and how it is coded for itself: so that stretches can be made again side by
//! side, each from its own text and the little before it.
//! Owns the meaning of what the coder codes. Must not read or write streams.

use crate::header::{self, Header};
use crate::predict::{Chain, Dual, Flavour, Predictor};
use crate::range::{Bit, Coder, Number, Reader, Tree, Writer};
use crate::token::{DISTANCES, END, LITERALS, Token, WINDOW, distance_symbol};
use crate::{Error, Result};

/// The longest gzip header that is kept, and the most bytes after the last member, in bytes.
pub(crate) const MOST_EXTRA: usize = 64 * 1024;
/// The longest stretch of text, in bytes: a block may take as much as 32,768 longest matches.
pub(crate) const MOST_TEXT: usize = 12 << 20;
/// The most tokens of one stretch.
pub(crate) const MOST_TOKENS: usize = 1 << 20;
/// The most zero bytes after the last member.
pub(crate) const MOST_ZEROS: u32 = 1 << 20;
const MOST_ITEMS: usize = 1 << 20;
/// After so many literals in a row it is told how many more follow, so that nothing need be searched for in what cannot be
/// compressed.
const ROW: usize = 64;

/// What stands in a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// The header of a gzip member.
    Member(Vec<u8>),
    /// Its end: what fills the last byte up, checksum and length.
    Trailer { pad: u8, bytes: [u8; 8] },
    /// A block that is not compressed.
    Stored { last: bool, pad: u8, length: usize },
    /// A block, and how many tokens it has; `None` for the codes that the format itself has.
    Tokens { last: bool, header: Option<Header>, count: usize },
    /// What follows the last member.
    Rest(Vec<u8>),
    /// So many zero bytes that follow the last member.
    Zeros(u32),
}

/// A stretch.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) items: Vec<Item>,
    /// Those of all blocks.
    pub(crate) tokens: Vec<Token>,
}

/// Where a stretch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Where its text begins in the text at hand.
    pub(crate) start: usize,
    /// Where that of its gzip member begins, or what is at hand of it.
    pub(crate) floor: usize,
    /// Where the encoder began or was flushed last.
    pub(crate) origin: i64,
}

#[derive(Default)]
struct Models {
    kind: Tree<3>,
    last: Bit,
    pad: Tree<8>,
    size: Number,
    byte: Tree<8>,
    same_count: Bit,
    count: Number,
    guessed: Vec<Bit>,
    row: Number,
    is_literal: [Bit; 3],
    is_same_distance: Bit,
    length: Tree<8>,
    distance: Tree<5>,
    header: header::Models,
}

/// Codes a stretch of known flavour, rows of literals told. Gives up beyond `budget` bytes.
pub(crate) fn encode(segment: &Segment, text: &[u8], place: Place, flavour: Flavour, budget: usize) -> Option<Vec<u8>> {
    let mut writer = Writer::new();
    // What was read from a stream can be coded: only a recipe can be damaged.
    let mut limited = Limited { writer: &mut writer, budget };
    code_with(&mut limited, (flavour, true), segment, text, place).ok()?;
    let coded = writer.finish();
    (coded.len() <= budget).then_some(coded)
}

/// The other way. `tells_rows` is false for what older versions coded.
pub(crate) fn decode(
    coded: &[u8],
    text: &[u8],
    place: Place,
    (flavour, tells_rows): (Flavour, bool),
) -> Result<Segment> {
    code_with(&mut Reader::new(coded), (flavour, tells_rows), &Segment::default(), text, place)
}

/// Ends the work on a recipe that is longer than it may be.
trait Budget {
    fn is_spent(&self) -> bool {
        false
    }
}

struct Limited<'a> {
    writer: &'a mut Writer,
    budget: usize,
}

impl Coder for Limited<'_> {
    const READS: bool = false;

    #[inline]
    fn bit(&mut self, model: &mut Bit, value: bool) -> bool {
        self.writer.bit(model, value)
    }

    fn raw(&mut self, count: u32, value: u32) -> u32 {
        self.writer.raw(count, value)
    }
}

impl Budget for Limited<'_> {
    fn is_spent(&self) -> bool {
        self.writer.len() > self.budget
    }
}

impl Budget for Reader<'_> {}

fn code_with<C: Coder + Budget>(
    coder: &mut C,
    way: (Flavour, bool),
    segment: &Segment,
    text: &[u8],
    place: Place,
) -> Result<Segment> {
    match way.0 {
        Flavour::Zlib(level) => code(coder, Chain::<false>::new(level), way, segment, text, place),
        Flavour::Go(level) => code(coder, Chain::<true>::new(level), way, segment, text, place),
        Flavour::Compress(level) => code(coder, Dual::new(level, false), way, segment, text, place),
        Flavour::Pieces(level) => code(coder, Dual::new(level, true), way, segment, text, place),
    }
}

/// A coding under way.
struct Work<'a, P> {
    predictor: P,
    models: Models,
    flavour: Flavour,
    /// Literals that follow others in a row are told, not guessed.
    tells_rows: bool,
    text: &'a [u8],
    at: usize,
    floor: usize,
    origin: i64,
    /// The number of tokens of the block before.
    count: usize,
    /// How well the last guesses went, a bit each.
    luck: usize,
}

fn code<C: Coder + Budget, P: Predictor>(
    coder: &mut C,
    mut predictor: P,
    (flavour, tells_rows): (Flavour, bool),
    segment: &Segment,
    text: &[u8],
    place: Place,
) -> Result<Segment> {
    predictor.begin(text, place.floor, place.origin, place.start);
    let models = Models { guessed: vec![Bit::default(); 64], ..Models::default() };
    let Place { start, floor, origin } = place;
    let tells_rows = tells_rows && P::SKIPS;
    let mut work = Work { predictor, models, flavour, tells_rows, text, at: start, floor, origin, count: 0, luck: 0 };
    let mut made = Segment::default();
    // In most texts a token stands for more bytes than that.
    made.tokens.reserve(if C::READS { ((text.len() - start) / 2).min(MOST_TOKENS) } else { 0 });
    let mut items = segment.items.iter();
    let mut tokens = &segment.tokens[..];
    while made.items.len() <= MOST_ITEMS {
        let Some(item) = work.item(coder, items.next(), &mut tokens, &mut made.tokens)? else {
            if work.at != text.len() {
                return Err(Error::Damaged("the length of a stretch"));
            }
            return Ok(made);
        };
        if coder.is_spent() {
            return Err(Error::Unsupported("an encoder that is not known"));
        }
        made.items.push(item);
    }
    Err(Error::Damaged("the number of items"))
}

impl<P: Predictor> Work<'_, P> {
    /// One item, `None` after the last one.
    fn item<C: Coder + Budget>(
        &mut self,
        coder: &mut C,
        item: Option<&Item>,
        tokens: &mut &[Token],
        made: &mut Vec<Token>,
    ) -> Result<Option<Item>> {
        let kind = match item {
            None => 0,
            Some(Item::Member(_)) => 1,
            Some(Item::Trailer { .. }) => 2,
            Some(Item::Stored { .. }) => 3,
            Some(Item::Tokens { header: None, .. }) => 4,
            Some(Item::Tokens { header: Some(_), .. }) => 5,
            Some(Item::Rest(_)) => 6,
            Some(Item::Zeros(_)) => 7,
        };
        let kind = self.models.kind.code(coder, kind);
        Ok(Some(match kind {
            0 => return Ok(None),
            1 => {
                let bytes = self.bytes(coder, if let Some(Item::Member(bytes)) = item { bytes } else { &[] })?;
                (self.floor, self.origin) = (self.at, self.at as i64);
                self.predictor.begin(self.text, self.floor, self.origin, self.at);
                Item::Member(bytes)
            }
            2 => {
                let (pad, bytes) =
                    if let Some(Item::Trailer { pad, bytes }) = item { (*pad, *bytes) } else { Default::default() };
                let pad = self.models.pad.code(coder, u32::from(pad)) as u8;
                Item::Trailer { pad, bytes: bytes.map(|byte| coder.raw(8, u32::from(byte)) as u8) }
            }
            3 => self.stored(coder, item)?,
            6 => Item::Rest(self.bytes(coder, if let Some(Item::Rest(bytes)) = item { bytes } else { &[] })?),
            7 => {
                let count = self.models.size.code(coder, if let Some(Item::Zeros(count)) = item { *count } else { 0 });
                Item::Zeros(count.min(MOST_ZEROS))
            }
            _ => self.block(coder, item, kind == 5, tokens, made)?,
        }))
    }

    fn bytes(&mut self, coder: &mut impl Coder, bytes: &[u8]) -> Result<Vec<u8>> {
        let length = self.models.size.code(coder, bytes.len() as u32) as usize;
        if length > MOST_EXTRA {
            return Err(Error::Damaged("the length of a header"));
        }
        let mut bytes = bytes.iter().copied().chain(std::iter::repeat(0));
        Ok((0..length).map(|_| self.models.byte.code(coder, u32::from(bytes.next().unwrap_or(0))) as u8).collect())
    }

    fn stored(&mut self, coder: &mut impl Coder, item: Option<&Item>) -> Result<Item> {
        let (last, pad, length) =
            if let Some(Item::Stored { last, pad, length }) = item { (*last, *pad, *length) } else { (false, 0, 0) };
        let last = coder.bit(&mut self.models.last, last);
        let pad = self.models.pad.code(coder, u32::from(pad)) as u8;
        let length = self.models.size.code(coder, length as u32) as usize;
        if length > usize::from(u16::MAX) || length > self.text.len() - self.at {
            return Err(Error::Damaged("the length of a block"));
        }
        if length == 0 {
            self.origin = self.at as i64;
            self.predictor.flush(self.text, self.at);
        }
        // The encoder went through this text too, and found nothing of use.
        let end = self.at + length;
        if self.tells_rows {
            // But for what it found at its end.
            self.at = end.saturating_sub(1).max(self.at);
        }
        while self.at < end {
            let token = Token::literal(self.text[self.at]);
            let guess = self.predictor.predict(self.text, self.at);
            self.predictor.accept(self.text, self.at, token, guess == token);
            self.at += 1;
        }
        Ok(Item::Stored { last, pad, length })
    }

    fn block<C: Coder + Budget>(
        &mut self,
        coder: &mut C,
        item: Option<&Item>,
        has_header: bool,
        tokens: &mut &[Token],
        made: &mut Vec<Token>,
    ) -> Result<Item> {
        let (last, header, count) = if let Some(Item::Tokens { last, header, count }) = item {
            (*last, header.as_ref(), *count)
        } else {
            (false, None, 0)
        };
        let last = coder.bit(&mut self.models.last, last);
        let count = if coder.bit(&mut self.models.same_count, count == self.count) {
            self.count
        } else {
            self.models.count.code(coder, count as u32) as usize
        };
        if count > MOST_TOKENS - made.len().min(MOST_TOKENS) {
            return Err(Error::Damaged("the number of tokens"));
        }
        self.count = count;
        let begun = made.len();
        let counts = self.tokens(coder, tokens, count, made)?;
        if !C::READS {
            *tokens = &tokens[made.len() - begun..];
        }
        if !has_header {
            return Ok(Item::Tokens { last, header: None, count });
        }
        let expected = header::Expected {
            literals: &counts.0,
            distances: &counts.1,
            builder: self.flavour.builder(),
            runs: self.flavour.runs(),
        };
        let nothing = Header::default();
        let header = header::code(coder, &mut self.models.header, header.unwrap_or(&nothing), &expected)?;
        Ok(Item::Tokens { last, header: Some(header), count })
    }

    /// The tokens of a block; how often it has each symbol that its codes are made for.
    fn tokens<C: Coder + Budget>(
        &mut self,
        coder: &mut C,
        tokens: &[Token],
        count: usize,
        made: &mut Vec<Token>,
    ) -> Result<([u32; LITERALS], [u32; DISTANCES])> {
        let mut literals = [0; LITERALS];
        let mut distances = [0; DISTANCES];
        literals[END] = 1;
        let chunk_end = self.flavour.chunk().map_or(usize::MAX, |chunk| {
            let into = (self.at as i64 - self.origin).rem_euclid(chunk as i64) as usize;
            self.at + chunk - into
        });
        let (mut nth, mut row) = (0, 0);
        while nth < count {
            if self.tells_rows && row == ROW {
                let more = if C::READS { 0 } else { literals_of(&tokens[nth..count]) };
                let more = self.row(coder, more, count - nth)?;
                for byte in more {
                    literals[usize::from(*byte)] += 1;
                    made.push(Token::literal(*byte));
                }
                (nth, row) = (nth + more.len(), 0);
                continue;
            }
            let token = if C::READS { Token::literal(0) } else { tokens[nth] };
            if self.at >= self.text.len() {
                return Err(Error::Damaged("the number of tokens"));
            }
            let token = self.token(coder, token)?;
            if self.at < chunk_end {
                literals[token.symbol()] += 1;
                if token.is_match() {
                    distances[distance_symbol(token.distance()).0] += 1;
                }
            }
            self.at += token.length();
            made.push(token);
            if nth % 4096 == 0 && coder.is_spent() {
                return Err(Error::Unsupported("an encoder that is not known"));
            }
            row = if token.is_match() { 0 } else { row + 1 };
            nth += 1;
        }
        Ok((literals, distances))
    }

    /// The text of so many literals that follow others, at most `most`.
    fn row(&mut self, coder: &mut impl Coder, count: usize, most: usize) -> Result<&[u8]> {
        let count = self.models.row.code(coder, count as u32) as usize;
        let text = self.text.get(self.at..self.at.saturating_add(count)).filter(|_| count <= most);
        let text = text.ok_or(Error::Damaged("the number of literals"))?;
        self.at += count;
        Ok(text)
    }

    #[inline]
    fn token<C: Coder>(&mut self, coder: &mut C, token: Token) -> Result<Token> {
        let guess = self.predictor.predict(self.text, self.at);
        let kind = match guess.is_match() {
            false => 0,
            true if guess.length() <= 6 => 1,
            true => 2,
        };
        let context = kind << 4 | self.luck & 15;
        let is_right = coder.bit(&mut self.models.guessed[context], token == guess);
        self.luck = self.luck << 1 | usize::from(!is_right);
        let token = if is_right { guess } else { self.other(coder, token, guess, kind)? };
        let length = token.length();
        if length > self.text.len() - self.at
            || token.is_match() && token.distance() > self.at - self.floor.min(self.at)
        {
            return Err(Error::Damaged("a match outside of the text"));
        }
        self.predictor.accept(self.text, self.at, token, is_right);
        Ok(token)
    }

    /// A token that was not guessed.
    #[cold]
    fn other<C: Coder>(&mut self, coder: &mut C, token: Token, guess: Token, kind: usize) -> Result<Token> {
        let models = &mut self.models;
        if guess.is_match() && coder.bit(&mut models.is_literal[kind], !token.is_match()) {
            return Ok(Token::literal(self.text[self.at]));
        }
        let (length, distance) = if token.is_match() { (token.length(), token.distance()) } else { (3, 1) };
        let length = models.length.code(coder, (length - 3) as u32) as usize + 3;
        if guess.is_match() && coder.bit(&mut models.is_same_distance, distance == guess.distance()) {
            return Ok(Token::matched(length, guess.distance()));
        }
        let (symbol, _, bits) = distance_symbol(distance);
        let symbol = models.distance.code(coder, symbol as u32) as usize;
        let (base, count) = crate::token::distance_of(symbol).ok_or(Error::Damaged("a distance"))?;
        let bits = coder.raw(count, bits);
        Ok(Token::matched(length, (base + bits as usize).min(WINDOW)))
    }
}

/// How many literals these tokens begin with.
fn literals_of(tokens: &[Token]) -> usize {
    tokens.iter().take_while(|token| !token.is_match()).count()
}

/// The lengths of the format's own code of literals.
pub(crate) fn fixed_literals() -> Vec<u8> {
    (0..288u32)
        .map(|symbol| match symbol {
            0..144 => 8,
            144..256 => 9,
            256..280 => 7,
            _ => 8,
        })
        .collect()
}
