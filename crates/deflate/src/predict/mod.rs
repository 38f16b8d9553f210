//! Guessing an encoder's next token from the text and what it did before.
//! Each way of searching has a file of its own; a wrong guess costs a few bytes in the recipe, never its truth.

mod chain;
mod dual;

pub(crate) use self::chain::Chain;
pub(crate) use self::dual::Dual;
use crate::huffman::Builder;
use crate::token::Token;

/// How much of the text before a segment its predictor is shown, in bytes.
pub(crate) const HISTORY: usize = 64 * 1024;

/// Guesses tokens. Positions are in a text that begins at most [`HISTORY`] bytes before the segment.
pub(crate) trait Predictor {
    /// Whether literals may be passed over without asking for them or accepting them, at no loss.
    const SKIPS: bool;

    /// Begins at `at`, knowing the text from `floor` on, nothing before which may be matched. `origin` is where the encoder
    /// itself began, or was flushed last.
    fn begin(&mut self, text: &[u8], floor: usize, origin: i64, at: usize);
    /// The encoder was flushed here.
    fn flush(&mut self, text: &[u8], at: usize);
    /// What comes at `at`.
    fn predict(&mut self, text: &[u8], at: usize) -> Token;
    /// What came. `guessed` if it is what was predicted.
    fn accept(&mut self, text: &[u8], at: usize, token: Token, guessed: bool);
}

/// The encoders that are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    /// zlib and gzip(1), and what descends from them, level 1 to 9.
    Zlib(u8),
    /// Go's library up to version 1.26, level 4 to 9.
    Go(u8),
    /// The library "compress" for Go, since 1.27 also Go's own, level 5 and 6.
    Compress(u8),
    /// The same in independent pieces that begin with 16 KiB of the one before ("pgzip").
    Pieces(u8),
}

/// How an encoder writes down the lengths of codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Runs {
    /// Those of literals and those of distances each for themselves.
    Apart,
    /// As one.
    Joined,
}

impl Flavour {
    /// All, the more likely ones first.
    pub(crate) const ALL: [Flavour; 19] = [
        Flavour::Go(6),
        Flavour::Zlib(6),
        Flavour::Pieces(5),
        Flavour::Compress(6),
        Flavour::Zlib(9),
        Flavour::Pieces(6),
        Flavour::Compress(5),
        Flavour::Zlib(1),
        Flavour::Go(9),
        Flavour::Zlib(5),
        Flavour::Zlib(4),
        Flavour::Zlib(3),
        Flavour::Zlib(2),
        Flavour::Zlib(7),
        Flavour::Zlib(8),
        Flavour::Go(4),
        Flavour::Go(5),
        Flavour::Go(7),
        Flavour::Go(8),
    ];

    /// What it is called in recipes.
    pub(crate) fn number(self) -> u8 {
        match self {
            Flavour::Zlib(level) => level,
            Flavour::Go(level) => 10 + level,
            Flavour::Compress(level) => 20 + level,
            Flavour::Pieces(level) => 30 + level,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Flavour> {
        Flavour::ALL.into_iter().find(|flavour| flavour.number() == number)
    }

    pub(crate) fn builder(self) -> Builder {
        if matches!(self, Flavour::Zlib(_)) { Builder::Heap } else { Builder::Best }
    }

    pub(crate) fn runs(self) -> Runs {
        if matches!(self, Flavour::Zlib(_)) { Runs::Apart } else { Runs::Joined }
    }

    /// Whether a block's codes are made from its first chunk of this many bytes only, and how many that are.
    pub(crate) fn chunk(self) -> Option<usize> {
        matches!(self, Flavour::Compress(_) | Flavour::Pieces(_)).then_some(dual::CHUNK)
    }
}

/// How many bytes at `a` and `b`, which is before, are the same; at most `most`, which the text has after `a`.
#[inline]
pub(crate) fn common(text: &[u8], a: usize, b: usize, most: usize) -> usize {
    let (here, there) = (&text[a..a + most], &text[b..b + most]);
    let mut length = 0;
    for (x, y) in here.chunks_exact(8).zip(there.chunks_exact(8)) {
        let x = u64::from_le_bytes(x.try_into().unwrap_or_default());
        let y = u64::from_le_bytes(y.try_into().unwrap_or_default());
        if x != y {
            return length + ((x ^ y).trailing_zeros() / 8) as usize;
        }
        length += 8;
    }
    let rest = here[length..].iter().zip(&there[length..]).take_while(|(x, y)| x == y).count();
    length + rest
}
