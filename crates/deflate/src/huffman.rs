//! Prefix codes: reading by them, writing by them, and what code known encoders make of which frequencies.
//! Must not know what symbols mean.

use crate::bits::BitReader;
use crate::{Error, Result};

/// The longest code of the format, in bits.
pub(crate) const MAX_BITS: usize = 15;
const FAST: u32 = 10;

/// For reading.
pub(crate) struct Decoder {
    /// By the next bits: symbol and length, length 0 for longer codes.
    fast: Vec<u16>,
    /// How many codes of each length there are.
    counts: [u16; MAX_BITS + 1],
    /// Symbols ordered by code.
    symbols: Vec<u16>,
}

impl Decoder {
    /// Of the lengths of all symbols. Fails unless the code is complete, or has a single symbol as is allowed for
    /// distances, or none.
    pub(crate) fn new(lengths: &[u8]) -> Result<Decoder> {
        let mut counts = [0u16; MAX_BITS + 1];
        lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
        counts[0] = 0;
        let mut left = 1i32;
        for count in &counts[1..] {
            left = 2 * left - i32::from(*count);
            if left < 0 {
                return Err(Error::Unsupported("a code with too many symbols"));
            }
        }
        let used: u16 = counts.iter().sum();
        if left > 0 && !(used == 0 || used == 1 && counts[1] == 1) {
            return Err(Error::Unsupported("an incomplete code"));
        }
        let mut offsets = [0u16; MAX_BITS + 2];
        for length in 1..=MAX_BITS {
            offsets[length + 1] = offsets[length] + counts[length];
        }
        let mut symbols = vec![0; usize::from(used)];
        for (symbol, length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let place = &mut offsets[usize::from(*length)];
            symbols[usize::from(*place)] = symbol as u16;
            *place += 1;
        }
        let mut fast = vec![0u16; 1 << FAST];
        for (symbol, (code, length)) in codes(lengths).into_iter().enumerate() {
            if length > 0 && length <= FAST {
                let mut at = code as usize;
                while at < fast.len() {
                    fast[at] = (symbol as u16) << 4 | length as u16;
                    at += 1 << length;
                }
            }
        }
        Ok(Decoder { fast, counts, symbols })
    }

    /// The next symbol.
    #[inline]
    pub(crate) fn read(&self, input: &mut BitReader<impl std::io::Read>) -> Result<usize> {
        let bits = input.peek()?;
        let entry = self.fast[bits as usize & ((1 << FAST) - 1)];
        if entry != 0 {
            input.skip(u32::from(entry & 15))?;
            return Ok(usize::from(entry >> 4));
        }
        let (mut code, mut first, mut index) = (0u32, 0u32, 0u32);
        for length in 1..=MAX_BITS {
            code |= (bits >> (length - 1) & 1) as u32;
            let count = u32::from(self.counts[length]);
            if code < first + count {
                input.skip(length as u32)?;
                return Ok(usize::from(self.symbols[(index + code - first) as usize]));
            }
            index += count;
            first = (first + count) << 1;
            code <<= 1;
        }
        Err(Error::Unsupported("a code that stands for nothing"))
    }
}

/// The code of each symbol, to be written least significant bit first, and its length in bits (RFC 1951, 3.2.2).
pub(crate) fn codes(lengths: &[u8]) -> Vec<(u32, u32)> {
    let mut counts = [0u32; MAX_BITS + 1];
    lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
    counts[0] = 0;
    let mut next = [0u32; MAX_BITS + 2];
    for length in 1..=MAX_BITS {
        next[length + 1] = (next[length] + counts[length]) << 1;
    }
    let code = |length: &u8| {
        let bits = u32::from(*length);
        if bits == 0 {
            return (0, 0);
        }
        let code = next[usize::from(*length)];
        next[usize::from(*length)] += 1;
        ((code as u16).reverse_bits() as u32 >> (16 - bits), bits)
    };
    lengths.iter().map(code).collect()
}

/// How an encoder finds the lengths of codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Builder {
    /// A tree built by a heap, too long codes shortened afterwards: zlib and its relatives.
    Heap,
    /// The best lengths that there are within the limit, longer codes for rarer symbols: Go's library.
    Best,
}

/// The lengths that an encoder would give symbols of these frequencies.
pub(crate) fn lengths(builder: Builder, frequencies: &[u32], limit: usize) -> Vec<u8> {
    match builder {
        Builder::Heap => heap_lengths(frequencies, limit),
        Builder::Best => best_lengths(frequencies, limit),
    }
}

/// Package-merge. On each level the packages and symbols are taken by weight, packages first where they weigh the same.
fn best_lengths(frequencies: &[u32], limit: usize) -> Vec<u8> {
    let mut lengths = vec![0; frequencies.len()];
    let mut used: Vec<usize> = (0..frequencies.len()).filter(|symbol| frequencies[*symbol] > 0).collect();
    if used.len() <= 2 {
        used.iter().for_each(|symbol| lengths[*symbol] = 1);
        return lengths;
    }
    used.sort_by_key(|symbol| (frequencies[*symbol], *symbol));
    let limit = limit.min(used.len() - 1);
    let symbols: Vec<u64> = used.iter().map(|symbol| u64::from(frequencies[*symbol])).collect();
    let most = 2 * used.len();
    // Of each level, lowest first: whether the items are symbols, and where the next one begins.
    let (mut kinds, mut ends) = (Vec::with_capacity(limit * most), Vec::with_capacity(limit));
    let (mut packages, mut weights) = (Vec::with_capacity(most), Vec::<u64>::with_capacity(most));
    for _ in 0..limit {
        let (mut packages_left, mut symbols_left) = (&packages[..], &symbols[..]);
        weights.clear();
        loop {
            let is_symbol = match (packages_left.first(), symbols_left.first()) {
                // The first two items of a level are always symbols.
                (_, Some(_)) if weights.len() < 2 => true,
                (Some(package), Some(symbol)) => symbol < package,
                (None, Some(_)) => true,
                (Some(_), None) => false,
                (None, None) => break,
            };
            let left = if is_symbol { &mut symbols_left } else { &mut packages_left };
            weights.extend(left.split_off_first());
            kinds.push(is_symbol);
        }
        packages.clear();
        packages.extend(weights.chunks_exact(2).map(|pair| pair[0] + pair[1]));
        ends.push(kinds.len());
    }
    // From the top: how many items of each level count, and thereby how many of its symbols.
    let mut items = 2 * used.len() - 2;
    for level in (0..limit).rev() {
        let kinds = &kinds[if level == 0 { 0 } else { ends[level - 1] }..ends[level]];
        let symbols = kinds[..items.min(kinds.len())].iter().filter(|is_symbol| **is_symbol).count();
        used[..symbols].iter().for_each(|symbol| lengths[*symbol] += 1);
        items = 2 * (items.min(kinds.len()) - symbols);
    }
    lengths
}

/// A node of the tree under construction.
#[derive(Clone, Copy, Default)]
struct Node {
    weight: u32,
    depth: u8,
    parent: usize,
}

/// The two lightest are joined until one is left; of equals the one with the lower tree counts as lighter.
fn heap_lengths(frequencies: &[u32], limit: usize) -> Vec<u8> {
    let mut nodes: Vec<Node> = frequencies.iter().map(|weight| Node { weight: *weight, ..Node::default() }).collect();
    let mut heap: Vec<usize> = (0..nodes.len()).filter(|symbol| frequencies[*symbol] > 0).collect();
    let mut last = heap.last().copied();
    // The format has no way to say that there is a single code: others are made up.
    while heap.len() < 2 {
        let made_up = match last {
            None => 0,
            Some(last) if last < 2 => last + 1,
            Some(_) => 0,
        };
        if last.is_none_or(|last| last < 2) {
            last = Some(made_up);
        }
        if made_up >= nodes.len() {
            return vec![0; frequencies.len()];
        }
        nodes[made_up].weight = 1;
        heap.push(made_up);
    }
    let lighter =
        |nodes: &[Node], a: usize, b: usize| (nodes[a].weight, nodes[a].depth) <= (nodes[b].weight, nodes[b].depth);
    // Which of equals is on top depends on how the heap is kept: one-based, sifting the last one down from the top.
    let sift = |heap: &mut [usize], nodes: &[Node], mut at: usize| {
        let moving = heap[at];
        loop {
            let mut child = 2 * at + 1;
            if child >= heap.len() {
                break;
            }
            if child + 1 < heap.len() && lighter(nodes, heap[child + 1], heap[child]) {
                child += 1;
            }
            if lighter(nodes, moving, heap[child]) {
                break;
            }
            heap[at] = heap[child];
            at = child;
        }
        heap[at] = moving;
    };
    for at in (0..heap.len() / 2).rev() {
        sift(&mut heap, &nodes, at);
    }
    let symbols = nodes.len();
    let mut order = Vec::with_capacity(2 * heap.len());
    while heap.len() >= 2 {
        let first = heap[0];
        let end = heap.pop().unwrap_or(first);
        if !heap.is_empty() {
            heap[0] = end;
            sift(&mut heap, &nodes, 0);
        }
        let second = heap[0];
        let parent = nodes.len();
        let depth = nodes[first].depth.max(nodes[second].depth).saturating_add(1);
        nodes.push(Node { weight: nodes[first].weight.saturating_add(nodes[second].weight), depth, parent });
        (nodes[first].parent, nodes[second].parent) = (parent, parent);
        order.extend([first, second]);
        heap[0] = parent;
        sift(&mut heap, &nodes, 0);
    }
    shorten(&nodes, symbols, &order, limit)
}

/// From the tree to lengths of at most `limit`: what is too long moves up, as little as must be.
fn shorten(nodes: &[Node], symbols: usize, order: &[usize], limit: usize) -> Vec<u8> {
    let mut lengths = vec![0u8; nodes.len()];
    let mut counts = vec![0i32; limit + 1];
    let mut overflow = 0i32;
    for node in order.iter().rev() {
        let length = (usize::from(lengths[nodes[*node].parent]) + 1).min(limit + 1);
        overflow += i32::from(length > limit);
        let length = length.min(limit);
        lengths[*node] = length as u8;
        if *node < symbols {
            counts[length] += 1;
        }
    }
    if overflow > 0 {
        while overflow > 0 {
            let mut bits = limit - 1;
            while bits > 0 && counts[bits] == 0 {
                bits -= 1;
            }
            counts[bits] -= 1;
            counts[bits + 1] += 2;
            counts[limit] -= 1;
            overflow -= 2;
        }
        let mut rest = order.iter().filter(|node| **node < symbols);
        for bits in (1..=limit).rev() {
            for node in rest.by_ref().take(usize::try_from(counts[bits]).unwrap_or_default()) {
                lengths[*node] = bits as u8;
            }
        }
    }
    lengths.truncate(symbols);
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_complete_and_within_their_limit() {
        for seed in 1..200u32 {
            let mut state = seed;
            let mut next = || {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
                state >> 16
            };
            let count = 3 + next() as usize % 280;
            let steep = next() % 20;
            let mut frequencies: Vec<u32> =
                (0..count).map(|_| (next() >> (next() % (steep + 1))).max(next() % 2)).collect();
            frequencies[0] = 1;
            frequencies[1] = 2;
            for builder in [Builder::Heap, Builder::Best] {
                let found = lengths(builder, &frequencies, MAX_BITS);
                for (length, frequency) in found.iter().zip(&frequencies) {
                    assert_eq!(*length > 0, *frequency > 0);
                }
                let sum: u32 = found.iter().filter(|length| **length > 0).map(|length| 1 << (15 - length)).sum();
                assert_eq!(sum, 1 << 15, "{builder:?} {frequencies:?}");
                assert!(Decoder::new(&found).is_ok());
            }
        }
    }

    #[test]
    fn few_symbols() {
        assert_eq!(lengths(Builder::Best, &[0, 0, 5], 15), [0, 0, 1]);
        assert_eq!(lengths(Builder::Heap, &[0, 0, 5], 15), [1, 0, 1]);
        assert_eq!(lengths(Builder::Heap, &[0; 30], 15)[..3], [1, 1, 0]);
        assert_eq!(lengths(Builder::Heap, &[1, 1, 2, 4, 8, 16], 3).iter().max(), Some(&3));
    }
}
