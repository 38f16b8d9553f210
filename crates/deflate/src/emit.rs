//! Writing the stream of a stretch whose tokens and codes are known.
//! Owns how symbols follow each other. Must not choose any.

use crate::bits::BitWriter;
use crate::segment::{Item, Segment, fixed_literals};
use crate::token::{DISTANCES, END, MAX_MATCH, MIN_MATCH, Token, distance_symbol, length_of, length_symbol};
use crate::{Error, Result, huffman};

/// A code and its length in bits.
type Code = (u32, u32);

/// The stream of a stretch. Begins with the bits of a byte that was begun before.
pub(crate) fn emit(segment: &Segment, text: &[u8], bits: (u8, u32)) -> Result<BitWriter> {
    let mut output = BitWriter::from(bits.0, bits.1, text.len() / 3);
    let (mut at, mut tokens) = (0, &segment.tokens[..]);
    for item in &segment.items {
        match item {
            Item::Member(bytes) | Item::Rest(bytes) => output.put_bytes(bytes),
            Item::Zeros(count) => output.put_bytes(&vec![0; *count as usize]),
            Item::Trailer { pad, bytes } => {
                output.align(*pad);
                output.put_bytes(bytes);
            }
            Item::Stored { last, pad, length } => {
                output.put(u32::from(*last), 3);
                output.align(*pad);
                output.put(*length as u32, 16);
                output.put(!*length as u32 & 0xffff, 16);
                output.put_bytes(text.get(at..at + length).ok_or(Error::Damaged("the length of a block"))?);
                at += length;
            }
            Item::Tokens { last, header, count } => {
                let kind = if header.is_some() { 4 } else { 2 };
                output.put(u32::from(*last) | kind, 3);
                let codes = match header {
                    None => Codes::new(&fixed_literals(), &[5; DISTANCES]),
                    Some(header) => {
                        header.write(&mut output);
                        Codes::new(&header.literals, &header.distances)
                    }
                };
                let (block, rest) = tokens.split_at_checked(*count).ok_or(Error::Damaged("the number of tokens"))?;
                at += codes.emit(&mut output, block)?;
                tokens = rest;
            }
        }
    }
    Ok(output)
}

/// The codes of a block; those of no bits are of symbols that it does not have.
struct Codes {
    literals: Vec<Code>,
    distances: Vec<Code>,
    /// For each length of a match, its symbol's code and what follows that.
    lengths: [Code; MAX_MATCH + 1],
}

impl Codes {
    /// Of the lengths of the symbols' codes in bits.
    fn new(literals: &[u8], distances: &[u8]) -> Codes {
        let literals = huffman::codes(literals);
        let mut lengths = [(0, 0); MAX_MATCH + 1];
        for (length, entry) in lengths.iter_mut().enumerate().skip(MIN_MATCH) {
            let symbol = length_symbol(length);
            if let (Some((code, bits @ 1..)), Some((base, extra))) = (literals.get(symbol), length_of(symbol)) {
                *entry = (code | ((length - base) as u32) << bits, bits + extra);
            }
        }
        Codes { literals, distances: huffman::codes(distances), lengths }
    }

    /// Writes a block's tokens and its end; the bytes that they stand for.
    fn emit(&self, output: &mut BitWriter, tokens: &[Token]) -> Result<usize> {
        let no_code = || Error::Damaged("a symbol without a code");
        let mut length = 0;
        for token in tokens {
            length += token.length();
            if !token.is_match() {
                let (code, bits @ 1..) = self.literals.get(token.symbol()).copied().unwrap_or_default() else {
                    return Err(no_code());
                };
                output.put(code, bits);
                continue;
            }
            let (symbol, extra, more) = distance_symbol(token.distance());
            match (self.lengths[token.length()], self.distances.get(symbol)) {
                ((code, bits @ 1..), Some((distance, distance_bits @ 1..))) => {
                    output.put(code, bits);
                    output.put(distance | more << distance_bits, distance_bits + extra);
                }
                _ => return Err(no_code()),
            }
        }
        match self.literals.get(END) {
            Some((code, bits @ 1..)) => output.put(*code, *bits),
            _ => return Err(no_code()),
        }
        Ok(length)
    }
}
