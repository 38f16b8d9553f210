//! Encoders that look places up in two tables, by hashes of four and of seven bytes: the library "compress" for Go, levels
//! 5 and 6. They work in chunks, run ahead to the next match, and index some of the places in between.
//! Owns what they look up and what they index. Must not know how tokens are written down.

use super::{HISTORY, Predictor, common};
use crate::token::{MAX_MATCH, Token, WINDOW};

/// What is encoded at a time, in bytes.
pub(crate) const CHUNK: usize = 65_535;
/// Text at a chunk's end that is not searched, in bytes.
const MARGIN: usize = 11;
const TABLE_BITS: u32 = 15;
/// How much of a piece the next one may refer to.
const TAIL: usize = 16 * 1024;
/// The bytes at the start of a match that may differ when a better one is looked for at its end.
const SKIPPED: usize = 2;

/// What comes next: literals, then a match.
#[derive(Clone, Copy)]
struct Plan {
    start: usize,
    end: usize,
    distance: usize,
}

/// See the module.
pub(crate) struct Dual {
    is_six: bool,
    in_pieces: bool,
    /// Places plus one.
    short: Vec<u32>,
    long: Vec<[u32; 2]>,
    floor: usize,
    /// A place where a chunk begins or began.
    origin: i64,
    chunk_end: usize,
    /// Where the search goes on.
    at: usize,
    /// What is before has its tokens.
    done: usize,
    plan: Option<Plan>,
    repeat: usize,
}

#[inline]
fn load4(text: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(text[at..at + 4].try_into().unwrap_or_default())
}

#[inline]
fn load8(text: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(text[at..at + 8].try_into().unwrap_or_default())
}

#[inline]
fn short_hash(word: u64) -> usize {
    ((word as u32).wrapping_mul(2_654_435_761) >> (32 - TABLE_BITS)) as usize
}

#[inline]
fn long_hash(word: u64) -> usize {
    ((word << 8).wrapping_mul(58_295_818_150_454_627) >> (64 - TABLE_BITS)) as usize
}

/// A match under consideration.
#[derive(Clone, Copy)]
struct Candidate {
    at: usize,
    there: usize,
    /// Zero if not measured yet.
    length: usize,
}

impl Dual {
    /// Level 5 or 6.
    pub(crate) fn new(level: u8, in_pieces: bool) -> Dual {
        Dual {
            is_six: level >= 6,
            in_pieces,
            short: vec![0; 1 << TABLE_BITS],
            long: vec![[0; 2]; 1 << TABLE_BITS],
            floor: 0,
            origin: 0,
            chunk_end: 0,
            at: 0,
            done: 0,
            plan: None,
            repeat: 1,
        }
    }

    fn clear(&mut self) {
        self.short.fill(0);
        self.long.fill([0; 2]);
        self.plan = None;
    }

    /// Goes through text whose tokens are not wanted.
    fn run(&mut self, text: &[u8], from: usize, to: usize) {
        self.go_to(text, from);
        let mut at = from;
        while at < to {
            let token = self.predict(&text[..to], at);
            at += token.length();
        }
        if at > to {
            self.plan = None;
        }
    }

    /// A token ends at `at`, and the search goes on there.
    fn go_to(&mut self, text: &[u8], at: usize) {
        (self.at, self.done) = (at, at);
        self.plan = None;
        self.enter_chunk(text, at);
    }

    fn enter_chunk(&mut self, text: &[u8], at: usize) {
        let into = (at as i64 - self.origin).rem_euclid(CHUNK as i64) as usize;
        self.chunk_end = (at - into.min(at) + CHUNK).min(text.len());
        if into == 0 {
            self.repeat = 1;
        }
    }

    #[inline]
    fn put_short(&mut self, word: u64, at: usize) {
        self.short[short_hash(word)] = at as u32 + 1;
    }

    #[inline]
    fn put_long(&mut self, word: u64, at: usize) {
        let entry = &mut self.long[long_hash(word)];
        *entry = [at as u32 + 1, entry[0]];
    }

    /// The place that a table's entry means, if it may be matched from `at`.
    #[inline]
    fn place(&self, entry: u32, at: usize) -> Option<usize> {
        let there = (entry as usize).checked_sub(1)?;
        (there >= self.floor && there < at && at - there < WINDOW).then_some(there)
    }

    /// The length of a match whose first four bytes are known to be the same; bounded by the format's longest.
    fn measure(text: &[u8], at: usize, there: usize) -> usize {
        let most = (MAX_MATCH - 4).min(text.len() - at - 4);
        common(text, at + 4, there + 4, most) + 4
    }

    /// Runs ahead to the next match of this chunk. `text` ends where the chunk does.
    fn search(&mut self, text: &[u8]) -> Option<Plan> {
        let limit = text.len().checked_sub(MARGIN)?;
        let log = if self.is_six { 7 } else { 6 };
        let mut next = self.at;
        if next + 8 > text.len() {
            return None;
        }
        let mut word = load8(text, next);
        let found = loop {
            let at = next;
            next = at + 1 + ((at - self.done) >> log);
            if next > limit {
                self.at = at;
                return None;
            }
            let (short, long) = (self.short[short_hash(word)], self.long[long_hash(word)]);
            let following = load8(text, next);
            self.put_short(word, at);
            self.put_long(word, at);
            if let Some(found) = self.look(text, at, next, [word, following], short, long) {
                break found;
            }
            word = following;
        };
        Some(self.settle(text, found, next))
    }

    /// Whether there is a match at `at`, or a better one right after it.
    #[inline]
    fn look(
        &mut self,
        text: &[u8],
        at: usize,
        next: usize,
        [word, following]: [u64; 2],
        short: u32,
        long: [u32; 2],
    ) -> Option<Candidate> {
        let fits = |there: &usize| load4(text, *there) == word as u32;
        let newer = self.place(long[0], at);
        let older = newer.and_then(|_| self.place(long[1], at)).filter(fits);
        if let Some(there) = newer.filter(fits) {
            self.put_short(following, next);
            self.put_long(following, next);
            let Some(other) = older else { return Some(Candidate { at, there, length: 0 }) };
            let (length, length2) = (Dual::measure(text, at, there), Dual::measure(text, at, other));
            if length2 > length {
                return Some(Candidate { at, there: other, length: length2 });
            }
            return Some(Candidate { at, there, length });
        }
        if let Some(there) = older {
            self.put_short(following, next);
            self.put_long(following, next);
            return Some(Candidate { at, there, length: 0 });
        }
        let there = self.place(short, at).filter(fits)?;
        let mut best = Candidate { at, there, length: Dual::measure(text, at, there) };
        let long = self.long[long_hash(following)];
        self.put_short(following, next);
        self.put_long(following, next);
        if self.is_six && at + 1 >= self.repeat + self.floor {
            let there = at + 1 - self.repeat;
            if load4(text, there) == (word >> 8) as u32 {
                let most = (MAX_MATCH - 4).min(text.len() - at - 5);
                let length = common(text, at + 5, there + 4, most) + 4;
                if length > best.length {
                    return Some(Candidate { at: at + 1, there, length });
                }
            }
        }
        let Some(newer) = self.place_ahead(long[0], next) else { return Some(best) };
        for there in [Some(newer), self.place_ahead(long[1], next)].into_iter().flatten() {
            if load4(text, there) == following as u32 {
                let length = Dual::measure(text, next, there);
                if length > best.length {
                    best = Candidate { at: next, there, length };
                    if !self.is_six {
                        break;
                    }
                }
            }
        }
        Some(best)
    }

    #[inline]
    fn place_ahead(&self, entry: u32, next: usize) -> Option<usize> {
        self.place(entry, next)
    }

    /// Makes the match as long as it can be, and indexes what is indexed of it.
    fn settle(&mut self, text: &[u8], found: Candidate, mut next: usize) -> Plan {
        let Candidate { mut at, mut there, mut length } = found;
        if length == 0 {
            length = common(text, at + 4, there + 4, text.len() - at - 4) + 4;
        } else if length == MAX_MATCH {
            length += common(text, at + length, there + length, text.len() - at - length);
        }
        let limit = text.len() - MARGIN;
        let end = at + length;
        if end < limit && (self.is_six || length < 30) {
            let entries = self.long[long_hash(load8(text, end))];
            let second = at + SKIPPED;
            let count = if self.is_six { 2 } else { 1 };
            for entry in &entries[..count] {
                let place = (*entry as i64 - 1) - length as i64 + SKIPPED as i64;
                let distance = second as i64 - place;
                if *entry == 0 || distance >= WINDOW as i64 {
                    break;
                }
                if distance <= 0 || place < self.floor as i64 {
                    continue;
                }
                let place = place as usize;
                let other = common(text, second, place, text.len() - second);
                if other > length {
                    (at, there, length) = (second, place, other);
                }
            }
        }
        while there > self.floor && at > self.done && text[there - 1] == text[at - 1] {
            at -= 1;
            there -= 1;
            length += 1;
        }
        let plan = Plan { start: at, end: at + length, distance: at - there };
        self.repeat = plan.distance;
        self.done = plan.end;
        let behind = if next >= plan.end { next + 1 } else { plan.end };
        if self.is_six {
            next += 1;
            self.index_six(text, next, behind);
        } else {
            self.index_five(text, plan.start + (behind - plan.end), behind);
        }
        self.at = behind;
        plan
    }

    fn index_six(&mut self, text: &[u8], from: usize, end: usize) {
        let limit = text.len() - MARGIN;
        let at_end = end >= limit;
        let stop = if at_end { text.len().saturating_sub(8) } else { end - 1 };
        for at in (from..stop).step_by(2) {
            let word = load8(text, at);
            self.put_short(word, at);
            self.put_long(word, at);
            if !at_end {
                self.put_long(word >> 8, at + 1);
            }
        }
    }

    fn index_five(&mut self, text: &[u8], start: usize, end: usize) {
        if end >= text.len() - MARGIN {
            return;
        }
        let mut at = start + 1;
        if at < end - 1 {
            let word = load8(text, at);
            self.put_short(word, at);
            self.put_long(word, at);
            self.put_long(word >> 8, at + 1);
            self.put_short(word >> 16, at + 2);
            at += 4;
            while at < end - 1 {
                let word = load8(text, at);
                self.put_long(word, at);
                self.put_short(word >> 8, at + 1);
                at += 3;
            }
        }
        let word = load8(text, end - 1);
        self.put_short(word, end - 1);
        self.put_long(word, end - 1);
    }
}

impl Predictor for Dual {
    // What it indexes depends on how it came there.
    const SKIPS: bool = false;

    fn begin(&mut self, text: &[u8], floor: usize, origin: i64, at: usize) {
        self.clear();
        (self.floor, self.origin) = (floor, origin);
        if self.in_pieces && origin >= 0 {
            self.floor = floor.max((origin as usize).saturating_sub(TAIL).min(at));
        }
        let from = at.saturating_sub(HISTORY).max(self.floor);
        if self.in_pieces && origin > from as i64 {
            self.origin = from as i64;
            self.run(text, from, at.min(origin as usize));
            self.origin = origin;
            self.run(text, at.min(origin as usize), at);
        } else {
            self.run(text, from, at);
        }
    }

    fn flush(&mut self, text: &[u8], at: usize) {
        if self.in_pieces {
            self.begin(text, self.floor, at as i64, at);
        } else {
            self.origin = at as i64;
            self.go_to(text, at);
        }
    }

    #[inline]
    fn predict(&mut self, text: &[u8], at: usize) -> Token {
        if let Some(plan) = self.plan
            && at < plan.end
        {
            if at < plan.start {
                return Token::literal(text[at]);
            }
            // The rest of what is too long for one token has to be long enough for another.
            let length = match plan.end - at {
                left @ ..=MAX_MATCH => left,
                left if left > MAX_MATCH + 3 => MAX_MATCH,
                _ => MAX_MATCH - 3,
            };
            if length >= 3 {
                return Token::matched(length, plan.distance);
            }
            return Token::literal(text[at]);
        }
        if at >= self.chunk_end {
            self.go_to(text, at);
        }
        let chunk = &text[..self.chunk_end.min(text.len())];
        let plan = self.search(chunk);
        self.plan = plan.or(Some(Plan { start: chunk.len(), end: chunk.len(), distance: 1 }));
        match plan {
            Some(plan) if plan.start == at => self.predict(text, at),
            _ => Token::literal(text[at]),
        }
    }

    #[inline]
    fn accept(&mut self, text: &[u8], at: usize, token: Token, guessed: bool) {
        if !guessed {
            let next = at + token.length();
            (self.at, self.done) = (next, next);
            self.plan = None;
            if next >= self.chunk_end {
                self.enter_chunk(text, next);
            }
        }
    }
}
