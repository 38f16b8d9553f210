//! The key sequence that ends an attachment, found in a stream of keys.
//! Owns parsing of sequences and the search; must not read or write anything itself.

/// Docker's default sequence.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Parses a sequence such as `ctrl-p,ctrl-q` or `a,b` into the bytes a terminal sends; empty gives the default.
///
/// # Errors
/// Docker's `Unknown character: 'x'` for anything that is neither one character nor `ctrl-` with one of `a-z@[\]^_`.
pub fn parse(keys: &str) -> Result<Vec<u8>, String> {
    let keys = if keys.is_empty() { DEFAULT } else { keys };
    keys.split(',').map(key).collect()
}

fn key(name: &str) -> Result<u8, String> {
    let unknown = || format!("Unknown character: '{name}'");
    match name.as_bytes() {
        [one] => Ok(*one),
        bytes => match bytes.strip_prefix(b"ctrl-") {
            Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
            Some(b"@") => Ok(0),
            Some(b"[") => Ok(27),
            Some(b"\\") => Ok(28),
            Some(b"]") => Ok(29),
            Some(b"^") => Ok(30),
            Some(b"_") => Ok(31),
            _ => Err(unknown()),
        },
    }
}

/// Looks for the sequence in keys that arrive in pieces. Keys that may be its beginning are held back until it is known.
#[derive(Debug)]
pub struct Detector {
    keys: Vec<u8>,
    matched: usize,
}

impl Detector {
    /// A detector for the bytes that [`parse`] gave; an empty sequence is never found.
    #[must_use]
    pub fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Passes on `input` into `out`, without the sequence. Returns true when the sequence was found: the attachment ends,
    /// and what was behind it is dropped.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> bool {
        if self.keys.is_empty() {
            out.extend_from_slice(input);
            return false;
        }
        for byte in input {
            // A wrong key gives up what was held back, then may itself begin the sequence, as in Docker.
            if *byte != self.keys[self.matched] && self.matched > 0 {
                out.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if *byte == self.keys[self.matched] {
                self.matched += 1;
            } else {
                out.push(*byte);
            }
            if self.matched == self.keys.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }

    /// Gives up what was held back, at the end of the input.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.keys[..self.matched]);
        self.matched = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut detector = Detector::new(parse("").unwrap());
        let mut out = Vec::new();
        for piece in pieces {
            if detector.feed(piece, &mut out) {
                return (out, true);
            }
        }
        detector.finish(&mut out);
        (out, false)
    }

    #[test]
    fn sequences_are_read_as_docker_reads_them() {
        assert_eq!(parse("").unwrap(), [16, 17]);
        assert_eq!(parse("a,ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_").unwrap(), [b'a', 0, 27, 28, 29, 30, 31]);
        assert_eq!(parse("ctrl-A").unwrap_err(), "Unknown character: 'ctrl-A'");
        assert_eq!(parse("ab").unwrap_err(), "Unknown character: 'ab'");
        assert!(parse("a,,b").is_err());
    }

    #[test]
    fn the_sequence_ends_it_wherever_the_pieces_are_cut() {
        assert_eq!(run(&[b"ls\n\x10\x11rest"]), (b"ls\n".to_vec(), true));
        assert_eq!(run(&[b"ls\n\x10", b"\x11"]), (b"ls\n".to_vec(), true));
        assert_eq!(run(&[b"\x10", b"\x10\x11"]), (b"\x10".to_vec(), true));
    }

    #[test]
    fn a_beginning_that_goes_on_otherwise_is_passed_on() {
        assert_eq!(run(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(run(&[b"\x10"]), (b"\x10".to_vec(), false));
        assert_eq!(run(&[b"\x11\x10\x10"]), (b"\x11\x10\x10".to_vec(), false));
    }
}
