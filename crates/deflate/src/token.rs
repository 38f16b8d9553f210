//! The symbols of a deflate stream (RFC 1951, 3.2.5): literals and matches, and their code numbers.
//! Data only.

/// The shortest match that the format has.
pub(crate) const MIN_MATCH: usize = 3;
/// The longest.
pub(crate) const MAX_MATCH: usize = 258;
/// The farthest back.
pub(crate) const WINDOW: usize = 32 * 1024;
/// The symbol that ends a block.
pub(crate) const END: usize = 256;
/// Literals, the end and lengths.
pub(crate) const LITERALS: usize = 286;
/// Distances.
pub(crate) const DISTANCES: usize = 30;

const LENGTH_BASE: [u16; 29] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
const LENGTH_EXTRA: [u8; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];

/// The code of each length, less 257.
const LENGTH_CODE: [u8; MAX_MATCH + 1] = {
    let mut codes = [0; MAX_MATCH + 1];
    let mut code = 0;
    while code < 29 {
        let mut length = LENGTH_BASE[code] as usize;
        let end = if code == 28 { MAX_MATCH + 1 } else { length + (1 << LENGTH_EXTRA[code]) };
        while length < end && length <= MAX_MATCH {
            codes[length] = code as u8;
            length += 1;
        }
        code += 1;
    }
    codes
};

/// A literal or a match, in four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Token(u32);

const MATCH: u32 = 1 << 31;

impl Token {
    pub(crate) fn literal(byte: u8) -> Token {
        Token(u32::from(byte))
    }

    /// `length` is 3 to 258, `distance` 1 to 32,768.
    pub(crate) fn matched(length: usize, distance: usize) -> Token {
        debug_assert!((MIN_MATCH..=MAX_MATCH).contains(&length) && (1..=WINDOW).contains(&distance));
        Token(MATCH | ((length - MIN_MATCH) as u32) << 16 | (distance - 1) as u32)
    }

    pub(crate) fn is_match(self) -> bool {
        self.0 & MATCH != 0
    }

    /// The bytes that it stands for.
    pub(crate) fn length(self) -> usize {
        if self.is_match() { (self.0 >> 16 & 0xff) as usize + MIN_MATCH } else { 1 }
    }

    /// Of a match.
    pub(crate) fn distance(self) -> usize {
        (self.0 & 0x7fff) as usize + 1
    }

    /// Of a literal.
    pub(crate) fn byte(self) -> u8 {
        self.0 as u8
    }

    /// The symbol of the literal code.
    pub(crate) fn symbol(self) -> usize {
        if self.is_match() { length_symbol(self.length()) } else { usize::from(self.byte()) }
    }
}

/// The symbol of a length.
pub(crate) fn length_symbol(length: usize) -> usize {
    END + 1 + usize::from(LENGTH_CODE[length])
}

/// The first length of a symbol above [`END`], and how many bits follow.
pub(crate) fn length_of(symbol: usize) -> Option<(usize, u32)> {
    let code = symbol.checked_sub(END + 1)?;
    Some((usize::from(*LENGTH_BASE.get(code)?), u32::from(LENGTH_EXTRA[code])))
}

/// The symbol of a distance, how many bits follow, and those.
pub(crate) fn distance_symbol(distance: usize) -> (usize, u32, u32) {
    let value = (distance - 1) as u32;
    if value < 4 {
        return (value as usize, 0, 0);
    }
    let extra = value.ilog2() - 1;
    let symbol = 2 * extra + (value >> extra & 1) + 2;
    (symbol as usize, extra, value & ((1 << extra) - 1))
}

/// The first distance of a symbol, and how many bits follow.
pub(crate) fn distance_of(symbol: usize) -> Option<(usize, u32)> {
    match symbol {
        0..4 => Some((symbol + 1, 0)),
        4..DISTANCES => {
            let extra = symbol as u32 / 2 - 1;
            Some((((2 + (symbol & 1)) << extra) + 1, extra))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_specification() {
        assert_eq!((length_symbol(3), length_symbol(10), length_symbol(11), length_symbol(12)), (257, 264, 265, 265));
        assert_eq!((length_symbol(257), length_symbol(258)), (284, 285));
        for distance in 1..=WINDOW {
            let (symbol, extra, bits) = distance_symbol(distance);
            assert_eq!(distance_of(symbol), Some((distance - bits as usize, extra)));
        }
        assert_eq!(distance_symbol(24577), (29, 13, 0));
        assert_eq!(distance_of(30), None);
        for length in MIN_MATCH..=MAX_MATCH {
            let (base, extra) = length_of(length_symbol(length)).unwrap();
            assert!(length >= base && length - base < 1 << extra);
        }
    }
}
