//! The head of a block with codes of its own (RFC 1951, 3.2.7): reading it, writing it, and coding it relative to what the
//! known encoders would make of the block's frequencies.
//! Must not look at tokens.

use std::io::Read;

use crate::bits::{BitReader, BitWriter};
use crate::huffman::{self, Builder, MAX_BITS};
use crate::predict::Runs;
use crate::range::{Bit, Coder, Tree};
use crate::token::{DISTANCES, LITERALS};
use crate::{Error, Result};

/// The order in which the lengths of the code of lengths are written.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const COPY: u8 = 16;
const ZEROS: u8 = 17;
const MANY_ZEROS: u8 = 18;
const LEAST_LITERALS: usize = 257;

/// A head, with everything that is not settled by the code lengths alone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Header {
    /// The lengths of the codes of literals, the end and match lengths.
    pub(crate) literals: Vec<u8>,
    /// The lengths of the codes of distances.
    pub(crate) distances: Vec<u8>,
    /// How both are written down: symbols, each with what follows it.
    runs: Vec<(u8, u8)>,
    /// The lengths of those symbols' codes.
    run_lengths: [u8; 19],
    /// How many of these are written.
    written: usize,
}

/// The bits that follow a symbol, and what they count from.
fn run_extra(symbol: u8) -> (u32, u8) {
    match symbol {
        COPY => (2, 3),
        ZEROS => (3, 3),
        MANY_ZEROS => (7, 11),
        _ => (0, 1),
    }
}

/// What code lengths symbols stand for. `None` if they make no sense.
fn expand(runs: &[(u8, u8)], total: usize) -> Option<Vec<u8>> {
    let mut lengths: Vec<u8> = Vec::with_capacity(total);
    for (symbol, extra) in runs {
        let value = match *symbol {
            COPY => *lengths.last()?,
            ZEROS | MANY_ZEROS => 0,
            length => length,
        };
        let count = usize::from(run_extra(*symbol).1 + extra);
        lengths.resize(lengths.len() + count, value);
    }
    (lengths.len() == total).then_some(lengths)
}

impl Header {
    pub(crate) fn read(input: &mut BitReader<impl Read>) -> Result<Header> {
        let damaged = || Error::Unsupported("a block's head makes no sense");
        let literals = input.take(5)? as usize + LEAST_LITERALS;
        let distances = input.take(5)? as usize + 1;
        if literals > LITERALS || distances > DISTANCES {
            return Err(damaged());
        }
        let mut header = Header { written: input.take(4)? as usize + 4, ..Header::default() };
        for place in &ORDER[..header.written] {
            header.run_lengths[*place] = input.take(3)? as u8;
        }
        let decoder = huffman::Decoder::new(&header.run_lengths)?;
        let mut count = 0;
        while count < literals + distances {
            let symbol = decoder.read(input)? as u8;
            let (bits, base) = run_extra(symbol);
            let extra = input.take(bits)? as u8;
            header.runs.push((symbol, extra));
            count += usize::from(base + extra);
        }
        let mut lengths = expand(&header.runs, literals + distances).ok_or_else(damaged)?;
        header.distances = lengths.split_off(literals);
        header.literals = lengths;
        Ok(header)
    }

    /// What Go's library would write for these frequencies.
    pub(crate) fn best(literals: &[u32; LITERALS], distances: &[u32; DISTANCES]) -> Header {
        let mut distances = *distances;
        if distances.iter().all(|count| *count == 0) {
            distances[0] = 1;
        }
        let trimmed = |mut lengths: Vec<u8>, least: usize| {
            let used = lengths.iter().rposition(|length| *length > 0).map_or(0, |last| last + 1);
            lengths.truncate(used.max(least));
            lengths
        };
        let literals = trimmed(huffman::lengths(Builder::Best, literals, MAX_BITS), LEAST_LITERALS);
        let distances = trimmed(huffman::lengths(Builder::Best, &distances, MAX_BITS), 1);
        let runs = joined(&[&literals[..], &distances].concat());
        let mut frequencies = [0; 19];
        runs.iter().for_each(|run| frequencies[usize::from(run.0)] += 1);
        let mut run_lengths = [0; 19];
        run_lengths.copy_from_slice(&huffman::lengths(Builder::Best, &frequencies, 7));
        let written = ORDER.iter().rposition(|place| run_lengths[*place] > 0).map_or(4, |last| (last + 1).max(4));
        Header { literals, distances, runs, run_lengths, written }
    }

    /// How many bits it takes.
    pub(crate) fn bits(&self) -> u64 {
        let run = |(symbol, _): &(u8, u8)| {
            u64::from(self.run_lengths[usize::from(*symbol)]) + u64::from(run_extra(*symbol).0)
        };
        14 + 3 * self.written as u64 + self.runs.iter().map(run).sum::<u64>()
    }

    pub(crate) fn write(&self, output: &mut BitWriter) {
        output.put((self.literals.len() - LEAST_LITERALS) as u32, 5);
        output.put((self.distances.len() - 1) as u32, 5);
        output.put((self.written - 4) as u32, 4);
        for place in &ORDER[..self.written] {
            output.put(u32::from(self.run_lengths[*place]), 3);
        }
        let codes = huffman::codes(&self.run_lengths);
        for (symbol, extra) in &self.runs {
            let (code, length) = codes[usize::from(*symbol)];
            output.put(code, length);
            output.put(u32::from(*extra), run_extra(*symbol).0);
        }
    }
}

/// What was learnt of earlier heads.
#[derive(Default)]
pub(crate) struct Models {
    count: [[Bit; 3]; 2],
    counts: Tree<5>,
    all_same: Bit,
    same: [Bit; 16],
    length: [Tree<4>; 16],
    same_runs: Bit,
    run: Tree<5>,
    same_run_lengths: Bit,
    run_length: Tree<3>,
    same_written: Bit,
}

/// What a head is expected from.
pub(crate) struct Expected<'a> {
    pub(crate) literals: &'a [u32; LITERALS],
    pub(crate) distances: &'a [u32; DISTANCES],
    pub(crate) builder: Builder,
    pub(crate) runs: Runs,
}

/// Codes a head. What comes out of a damaged recipe is a head that can be written, or an error.
pub(crate) fn code(
    coder: &mut impl Coder,
    models: &mut Models,
    header: &Header,
    expected: &Expected<'_>,
) -> Result<Header> {
    let mut distances = *expected.distances;
    if expected.builder == Builder::Best && distances.iter().all(|count| *count == 0) {
        distances[0] = 1;
    }
    let mut literals = huffman::lengths(expected.builder, expected.literals, MAX_BITS);
    let mut distances = huffman::lengths(expected.builder, &distances, MAX_BITS);
    let counts = [
        code_count(coder, models, 0, header.literals.len(), &literals, LEAST_LITERALS),
        code_count(coder, models, 1, header.distances.len(), &distances, 1),
    ];
    literals.resize(counts[0].clamp(LEAST_LITERALS, LITERALS), 0);
    distances.resize(counts[1].clamp(1, DISTANCES), 0);
    let is_same = literals == header.literals && distances == header.distances;
    if !coder.bit(&mut models.all_same, is_same) {
        let actual = header.literals.iter().chain(&header.distances).copied().chain(std::iter::repeat(0));
        for (guess, actual) in literals.iter_mut().chain(&mut distances).zip(actual) {
            let context = usize::from(*guess);
            if !coder.bit(&mut models.same[context], *guess == actual) {
                *guess = models.length[context].code(coder, u32::from(actual)) as u8;
            }
        }
    }
    let mut made = Header { literals, distances, ..Header::default() };
    code_runs(coder, models, header, &mut made, expected.runs)?;
    code_run_lengths(coder, models, header, &mut made, expected.builder)?;
    Ok(made)
}

/// How many lengths are written: as many as are not zero, or all there are, or another number.
fn code_count(
    coder: &mut impl Coder,
    models: &mut Models,
    which: usize,
    actual: usize,
    guess: &[u8],
    least: usize,
) -> usize {
    let natural = guess.iter().rposition(|length| *length > 0).map_or(0, |last| last + 1).max(least);
    if coder.bit(&mut models.count[which][0], actual == natural) {
        return natural;
    }
    if coder.bit(&mut models.count[which][1], actual == guess.len()) {
        return guess.len();
    }
    models.counts.code(coder, actual.saturating_sub(least) as u32) as usize + least
}

fn code_runs(
    coder: &mut impl Coder,
    models: &mut Models,
    header: &Header,
    made: &mut Header,
    kind: Runs,
) -> Result<()> {
    let guess = match kind {
        Runs::Joined => joined(&[&made.literals[..], &made.distances].concat()),
        Runs::Apart => [apart(&made.literals), apart(&made.distances)].concat(),
    };
    if coder.bit(&mut models.same_runs, guess == header.runs) {
        made.runs = guess;
        return Ok(());
    }
    let total = made.literals.len() + made.distances.len();
    let (mut count, mut actual) = (0, header.runs.iter());
    while count < total {
        let (symbol, extra) = actual.next().copied().unwrap_or_default();
        let symbol = models.run.code(coder, u32::from(symbol)) as u8;
        let (bits, base) = run_extra(symbol);
        let extra = coder.raw(bits, u32::from(extra)) as u8;
        made.runs.push((symbol, extra));
        count += usize::from(base + extra);
    }
    let lengths = if made.runs.iter().any(|run| run.0 > MANY_ZEROS) { None } else { expand(&made.runs, total) };
    if lengths.is_none_or(|lengths| {
        lengths[..made.literals.len()] != made.literals || lengths[made.literals.len()..] != made.distances
    }) {
        return Err(Error::Damaged("the lengths of codes"));
    }
    Ok(())
}

fn code_run_lengths(
    coder: &mut impl Coder,
    models: &mut Models,
    header: &Header,
    made: &mut Header,
    builder: Builder,
) -> Result<()> {
    let mut frequencies = [0; 19];
    made.runs.iter().for_each(|run| frequencies[usize::from(run.0)] += 1);
    let guess = huffman::lengths(builder, &frequencies, 7);
    made.run_lengths.copy_from_slice(&guess);
    if !coder.bit(&mut models.same_run_lengths, made.run_lengths == header.run_lengths) {
        for (length, actual) in made.run_lengths.iter_mut().zip(header.run_lengths) {
            *length = models.run_length.code(coder, u32::from(actual)) as u8;
        }
    }
    // A code that cannot be written would be written wrongly; whoever checks the whole would notice, but not why.
    if made.runs.iter().any(|run| made.run_lengths[usize::from(run.0)] == 0) {
        return Err(Error::Damaged("the code of lengths"));
    }
    let natural = ORDER.iter().rposition(|place| made.run_lengths[*place] > 0).map_or(4, |last| (last + 1).max(4));
    made.written = natural;
    if !coder.bit(&mut models.same_written, header.written == natural) {
        made.written = (coder.raw(4, (header.written.wrapping_sub(4) & 15) as u32) as usize + 4).clamp(natural, 19);
    }
    Ok(())
}

/// Go's way: a length is written once before it is repeated; the longest runs first.
fn joined(lengths: &[u8]) -> Vec<(u8, u8)> {
    let mut runs = Vec::new();
    for run in lengths.chunk_by(|a, b| a == b) {
        let (length, mut count) = (run[0], run.len());
        if length == 0 {
            while count >= 11 {
                let now = count.min(138);
                runs.push((MANY_ZEROS, (now - 11) as u8));
                count -= now;
            }
            if count >= 3 {
                runs.push((ZEROS, (count - 3) as u8));
                count = 0;
            }
        } else {
            runs.push((length, 0));
            count -= 1;
            while count >= 3 {
                let now = count.min(6);
                runs.push((COPY, (now - 3) as u8));
                count -= now;
            }
        }
        runs.resize(runs.len() + count, (length, 0));
    }
    runs
}

/// zlib's way: runs of at most 138 zeros, 7 of a new length, 6 of the one before.
fn apart(lengths: &[u8]) -> Vec<(u8, u8)> {
    let mut runs = Vec::new();
    let mut before = None;
    let mut at = 0;
    while at < lengths.len() {
        let length = lengths[at];
        let most = match length {
            0 => 138,
            _ if before == Some(length) => 6,
            _ => 7,
        };
        let count = lengths[at..].iter().take(most).take_while(|next| **next == length).count();
        let least = if length == 0 || before == Some(length) { 3 } else { 4 };
        if count < least {
            runs.resize(runs.len() + count, (length, 0));
        } else if length == 0 {
            runs.push(if count <= 10 { (ZEROS, (count - 3) as u8) } else { (MANY_ZEROS, (count - 11) as u8) });
        } else {
            if before != Some(length) {
                runs.push((length, 0));
            }
            let copied = if before == Some(length) { count } else { count - 1 };
            runs.push((COPY, (copied - 3) as u8));
        }
        before = Some(length);
        at += count;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_write_lengths_mean_the_same() {
        let mut state = 7u32;
        for _ in 0..2000 {
            let mut lengths = Vec::new();
            while lengths.len() < 200 {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
                let count = 1 + (state >> 16) as usize % if state >> 30 == 0 { 150 } else { 9 };
                lengths.resize(lengths.len() + count, (state >> 20) as u8 % 5);
            }
            for runs in [joined(&lengths), apart(&lengths)] {
                assert_eq!(expand(&runs, lengths.len()), Some(lengths.clone()));
            }
        }
        assert_eq!(joined(&[5; 9]), [(5, 0), (16, 3), (5, 0), (5, 0)]);
        assert_eq!(apart(&[5; 9]), [(5, 0), (16, 3), (5, 0), (5, 0)]);
        assert_eq!(apart(&[5; 4]), [(5, 0), (16, 0)]);
        assert_eq!(apart(&[5; 3]), [(5, 0), (5, 0), (5, 0)]);
    }
}
