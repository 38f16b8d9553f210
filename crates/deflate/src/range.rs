//! The adaptive binary range coder that recipes are written with.
//! Owns the arithmetic and the models of bits and numbers. Must not know what they mean.
//!
//! One description serves both ways: whoever codes a value hands in what it has and goes on with what it gets back, which
//! is the same when writing and the truth when reading.

/// Writes or reads decisions.
pub(crate) trait Coder {
    /// Whether values come out of a recipe, so that what is handed in means nothing.
    const READS: bool;
    /// One decision that is expected as `model` has seen it before.
    fn bit(&mut self, model: &mut Bit, value: bool) -> bool;
    /// So many bits that nothing is known of; at most 24.
    fn raw(&mut self, count: u32, value: u32) -> u32;
}

/// How likely a decision is "no", learnt as it goes.
#[derive(Clone, Copy)]
pub(crate) struct Bit {
    no: u16,
    seen: u8,
}

impl Default for Bit {
    fn default() -> Bit {
        Bit { no: 1 << 15, seen: 0 }
    }
}

impl Bit {
    /// The slowest learning: what is almost always so costs a few thousandths of a bit.
    const SLOWEST: u8 = 7;

    fn learn(&mut self, value: bool) {
        let rate = u32::from(self.seen.min(Bit::SLOWEST - 1)) + 1;
        self.seen = self.seen.saturating_add(1);
        if value {
            self.no -= self.no >> rate;
        } else {
            self.no += (u16::MAX - self.no) >> rate;
        }
        self.no = self.no.clamp(24, u16::MAX - 24);
    }
}

/// A number of `BITS` bits whose distribution is learnt.
pub(crate) struct Tree<const BITS: u32> {
    nodes: Vec<Bit>,
}

impl<const BITS: u32> Default for Tree<BITS> {
    fn default() -> Tree<BITS> {
        Tree { nodes: vec![Bit::default(); 1 << BITS] }
    }
}

impl<const BITS: u32> Tree<BITS> {
    pub(crate) fn code(&mut self, coder: &mut impl Coder, value: u32) -> u32 {
        let mut node = 1usize;
        for shift in (0..BITS).rev() {
            let bit = coder.bit(&mut self.nodes[node], value >> shift & 1 == 1);
            node = node << 1 | usize::from(bit);
        }
        (node - (1 << BITS)) as u32
    }
}

/// A number below 2^32 - 1 of which small ones are likely.
#[derive(Default)]
pub(crate) struct Number {
    lengths: Tree<5>,
}

impl Number {
    pub(crate) fn code(&mut self, coder: &mut impl Coder, value: u32) -> u32 {
        let value = value.saturating_add(1);
        let bits = self.lengths.code(coder, value.ilog2());
        let low = bits.min(16);
        let high = bits - low;
        let upper = coder.raw(high, (value >> low) & ((1 << high) - 1));
        let lower = coder.raw(low, value & ((1 << low) - 1));
        let value = 1u64 << bits | u64::from(upper) << low | u64::from(lower);
        u32::try_from(value - 1).unwrap_or(u32::MAX)
    }
}

const TOP: u32 = 1 << 24;

/// Writes.
pub(crate) struct Writer {
    low: u64,
    range: u32,
    cache: u8,
    pending: u64,
    out: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Writer {
        Writer { low: 0, range: u32::MAX, cache: 0, pending: 1, out: Vec::new() }
    }

    /// So many bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    fn shift(&mut self) {
        if self.low < 0xff00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            let mut byte = self.cache;
            while self.pending > 0 {
                self.out.push(byte.wrapping_add(carry));
                byte = 0xff;
                self.pending -= 1;
            }
            self.cache = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low & 0x00ff_ffff) << 8;
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        // What is beyond the end reads as zeros.
        while self.out.last() == Some(&0) {
            self.out.pop();
        }
        self.out
    }
}

impl Coder for Writer {
    const READS: bool = false;

    #[inline]
    fn bit(&mut self, model: &mut Bit, value: bool) -> bool {
        let bound = (self.range >> 16) * u32::from(model.no);
        if value {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.learn(value);
        while self.range < TOP {
            self.range <<= 8;
            self.shift();
        }
        value
    }

    fn raw(&mut self, count: u32, value: u32) -> u32 {
        for shift in (0..count).rev() {
            self.range >>= 1;
            if value >> shift & 1 == 1 {
                self.low += u64::from(self.range);
            }
            while self.range < TOP {
                self.range <<= 8;
                self.shift();
            }
        }
        value
    }
}

/// Reads. Of damaged bytes come wrong values, never a failure: whoever asks bounds what comes.
pub(crate) struct Reader<'a> {
    code: u32,
    range: u32,
    input: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Reader<'a> {
        let mut reader = Reader { code: 0, range: u32::MAX, input };
        for _ in 0..5 {
            reader.code = reader.code << 8 | u32::from(reader.next());
        }
        reader
    }

    fn next(&mut self) -> u8 {
        match self.input.split_first() {
            Some((first, rest)) => {
                self.input = rest;
                *first
            }
            None => 0,
        }
    }
}

impl Coder for Reader<'_> {
    const READS: bool = true;

    #[inline]
    fn bit(&mut self, model: &mut Bit, _: bool) -> bool {
        let bound = (self.range >> 16) * u32::from(model.no);
        let value = self.code >= bound;
        if value {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        model.learn(value);
        while self.range < TOP {
            self.range <<= 8;
            self.code = self.code << 8 | u32::from(self.next());
        }
        value
    }

    fn raw(&mut self, count: u32, _: u32) -> u32 {
        let mut value = 0;
        for _ in 0..count {
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            value = value << 1 | u32::from(bit);
            while self.range < TOP {
                self.range <<= 8;
                self.code = self.code << 8 | u32::from(self.next());
            }
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exercise(coder: &mut impl Coder) -> Vec<u32> {
        let (mut bit, mut tree, mut number) = (Bit::default(), Tree::<8>::default(), Number::default());
        let mut seen = Vec::new();
        let mut state = 12345u32;
        for nth in 0..20_000u32 {
            state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
            seen.push(u32::from(coder.bit(&mut bit, state >> 20 == 7)));
            seen.push(tree.code(coder, state >> 24));
            seen.push(number.code(coder, state >> (nth % 32)));
            seen.push(coder.raw(nth % 25, (state >> 3) & ((1 << (nth % 25)) - 1)));
        }
        seen.push(number.code(coder, u32::MAX - 2));
        seen
    }

    #[test]
    fn what_was_written_is_read() {
        let mut writer = Writer::new();
        let written = exercise(&mut writer);
        assert_eq!(exercise(&mut Reader::new(&writer.finish())), written);
        // Of nothing comes something, without a panic.
        exercise(&mut Reader::new(&[]));
        exercise(&mut Reader::new(&[0xff; 100]));
    }
}
