//! Encoders that search along chains of earlier places with the same hash: zlib's and Go's.
//! Owns what they search, in which order, and when they stop. Must not know how tokens are written down.

use super::{Predictor, common};
use crate::token::{MAX_MATCH, MIN_MATCH, Token, WINDOW};

/// How far and how long one searches.
#[derive(Clone, Copy)]
struct Effort {
    /// With a match of this length at hand only a quarter of the chain is looked at.
    good: usize,
    /// With a match of this length none is looked for at the next place. Without laziness: longer ones are not indexed.
    lazy: usize,
    /// A match of this length ends the search.
    nice: usize,
    /// Places looked at.
    chain: u32,
}

const fn effort(good: usize, lazy: usize, nice: usize, chain: u32) -> Effort {
    Effort { good, lazy, nice, chain }
}

/// zlib's `configuration_table`, from level 1 on; from level 4 on also Go's up to version 1.26.
const EFFORTS: [Effort; 9] = [
    effort(4, 4, 8, 4),
    effort(4, 5, 16, 8),
    effort(4, 6, 32, 32),
    effort(4, 4, 16, 16),
    effort(8, 16, 32, 32),
    effort(8, 16, 128, 128),
    effort(8, 32, 128, 256),
    effort(32, 128, 258, 1024),
    effort(32, 258, 258, 4096),
];
/// Matches of the least length are not taken from farther away.
const TOO_FAR: usize = 4096;
/// zlib keeps room for a whole match and the next one behind the window.
const ZLIB_REACH: usize = WINDOW - (MAX_MATCH + MIN_MATCH + 1);

/// Hashes of Go's; zlib has a quarter of them.
const HEADS: usize = 1 << 17;

/// See the module.
pub(crate) struct Chain<const IS_GO: bool> {
    effort: Effort,
    is_lazy: bool,
    reach: usize,
    /// The last place of each hash, plus one.
    heads: Box<[u32; HEADS]>,
    /// For each place of the window the one before of the same hash, plus one.
    before: Box<[u32; WINDOW]>,
    /// Places below are indexed.
    indexed: usize,
    floor: usize,
    /// What was found at the place after the last one that was asked for.
    found: Option<(usize, usize, usize)>,
}

impl<const IS_GO: bool> Chain<IS_GO> {
    const LEAST: usize = if IS_GO { 4 } else { 3 };
    const HASH_BITS: u32 = if IS_GO { 17 } else { 15 };

    /// Of a level that the flavours name.
    pub(crate) fn new(level: u8) -> Chain<IS_GO> {
        let level = usize::from(level);
        let effort = EFFORTS[level.clamp(if IS_GO { 4 } else { 1 }, 9) - 1];
        Chain {
            effort,
            is_lazy: IS_GO || level >= 4,
            reach: if IS_GO { WINDOW } else { ZLIB_REACH },
            heads: table(),
            before: table(),
            indexed: 0,
            floor: 0,
            found: None,
        }
    }

    #[inline]
    fn hash(text: &[u8], at: usize) -> usize {
        if IS_GO {
            let word = u32::from_be_bytes(text[at..at + 4].try_into().unwrap_or_default());
            (word.wrapping_mul(0x1e35_a7bd) >> (32 - Self::HASH_BITS)) as usize
        } else {
            let bytes = &text[at..at + 3];
            (usize::from(bytes[0]) << 10 ^ usize::from(bytes[1]) << 5 ^ usize::from(bytes[2])) & 0x7fff
        }
    }

    /// Indexes the places below `end`.
    #[inline]
    fn index(&mut self, text: &[u8], end: usize) {
        let end = end.min((text.len() + 1).saturating_sub(Self::LEAST));
        while self.indexed < end {
            let at = self.indexed;
            let head = &mut self.heads[Self::hash(text, at)];
            self.before[at % WINDOW] = *head;
            *head = at as u32 + 1;
            self.indexed += 1;
        }
    }

    /// The match that the encoder finds at `at` that is longer than `best`: length and distance.
    #[inline]
    fn search(&self, text: &[u8], at: usize, mut best: usize, chain: u32) -> Option<(usize, usize)> {
        let most = MAX_MATCH.min(text.len() - at);
        if most < Self::LEAST || best >= most {
            return None;
        }
        let nice = self.effort.nice.min(most);
        let lowest = at.saturating_sub(self.reach).max(self.floor);
        let mut distance = 0;
        let mut place = self.heads[Self::hash(text, at)] as usize;
        let mut wanted = last_word(text, at, best);
        for _ in 0..chain {
            // Places count from one; zero is none.
            if place <= lowest || place > at {
                break;
            }
            let there = place - 1;
            // Where the last bytes differ that a longer match needs, no longer one is: more than the encoders compare, to the same end.
            if last_word(text, there, best) == wanted {
                let length = common(text, at, there, most);
                if length > best && (!IS_GO || length > 4 || at - there <= TOO_FAR) {
                    (best, distance) = (length, at - there);
                    if length >= nice {
                        break;
                    }
                    wanted = last_word(text, at, best);
                }
            }
            place = self.before[there % WINDOW] as usize;
            if place > there {
                break;
            }
        }
        (distance > 0).then_some((best, distance))
    }

    fn first(&self, text: &[u8], at: usize) -> Option<(usize, usize)> {
        let found = self.search(text, at, Self::LEAST - 1, self.effort.chain)?;
        let is_too_far = !IS_GO && self.is_lazy && found.0 == 3 && found.1 > TOO_FAR;
        (!is_too_far).then_some(found)
    }
}

/// The last bytes of those that a match longer than `best` has: the place after that and up to three before it.
#[inline]
fn last_word(text: &[u8], at: usize, best: usize) -> u32 {
    if best >= 3 {
        u32::from_le_bytes(text[at + best - 3..at + best + 1].try_into().unwrap_or_default())
    } else {
        u32::from(u16::from_le_bytes(text[at + best - 1..at + best + 1].try_into().unwrap_or_default()))
    }
}

/// Zeros, on the heap from the beginning.
fn table<const LENGTH: usize>() -> Box<[u32; LENGTH]> {
    vec![0; LENGTH].into_boxed_slice().try_into().unwrap_or_else(|_| Box::new([0; LENGTH]))
}

impl<const IS_GO: bool> Predictor for Chain<IS_GO> {
    // What is behind is indexed when the next place is asked for.
    const SKIPS: bool = true;

    fn begin(&mut self, text: &[u8], floor: usize, _origin: i64, at: usize) {
        self.heads.fill(0);
        self.floor = floor;
        self.indexed = at.saturating_sub(WINDOW).max(floor);
        self.found = None;
        self.index(text, at);
    }

    fn flush(&mut self, _text: &[u8], _at: usize) {}

    #[inline]
    fn predict(&mut self, text: &[u8], at: usize) -> Token {
        let literal = Token::literal(text[at]);
        self.index(text, at);
        let here = match self.found.take() {
            Some((place, length, distance)) if place == at => Some((length, distance)),
            _ => self.first(text, at),
        };
        let Some((length, distance)) = here else { return literal };
        let matched = Token::matched(length, distance);
        if !self.is_lazy || length >= self.effort.lazy || at + 1 >= text.len() {
            return matched;
        }
        self.index(text, at + 1);
        let next = if IS_GO {
            self.search(text, at + 1, Self::LEAST - 1, self.effort.chain).filter(|next| next.0 > length)
        } else {
            let chain = if length >= self.effort.good { self.effort.chain >> 2 } else { self.effort.chain };
            self.search(text, at + 1, length, chain)
        };
        match next {
            Some((length, distance)) => {
                self.found = Some((at + 1, length, distance));
                literal
            }
            None => matched,
        }
    }

    #[inline]
    fn accept(&mut self, text: &[u8], at: usize, token: Token, _guessed: bool) {
        if !self.is_lazy && token.length() > self.effort.lazy {
            self.index(text, at + 1);
            self.indexed = at + token.length();
        }
    }
}
