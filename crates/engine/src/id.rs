//! Identifiers and instants as Docker prints them. Owns their making; must not know what they name.

use std::fs::File;
use std::io::Read;

use jiff::Timestamp;

use crate::error::{Error, Result};

/// What an id is shown as, and the host name of a container that is given none, in digits.
const SHORT: usize = 12;

/// 64 hexadecimal digits of kernel randomness: the id of a container, an exec or a network. The first twelve are not all decimal, as
/// Docker's are not: resolvers take such a host name for an IPv4 address that there cannot be, and do not look it up.
pub fn random_id() -> Result<String> {
    loop {
        let id = random_hex(32)?;
        if !id.bytes().take(SHORT).all(|digit| digit.is_ascii_digit()) {
            return Ok(id);
        }
    }
}

/// `bytes` bytes of kernel randomness in hexadecimal.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0u8; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut buffer))
        .map_err(|e| Error::system(format!("read /dev/urandom: {e}")))?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The instant that Docker prints where there was none (Go's zero time).
pub const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Now, in RFC 3339 with nanoseconds, UTC.
pub fn now() -> String {
    Timestamp::now().to_string()
}

/// Seconds and nanoseconds since the epoch of an RFC 3339 instant; `None` for Docker's zero time and for garbage.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let parsed: Timestamp = text.parse().ok()?;
    (parsed.as_second() > 0).then_some(parsed)
}

/// Whether the text can be the name of a container, a volume or a network (Docker's rule).
pub fn is_valid_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() >= 2
        && bytes[0].is_ascii_alphanumeric()
        && bytes[1..].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_long_and_differ() {
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert_eq!(a.len(), 64);
        assert_ne!(a, b);
    }

    #[test]
    fn no_id_is_taken_for_an_address() {
        // Of random ones, one in 281 would be.
        for _ in 0..5_000 {
            let id = random_id().unwrap();
            assert!(id[..SHORT].parse::<u64>().is_err(), "{id}");
        }
    }

    #[test]
    fn names() {
        for good in ["ab", "a_b.c-d", "0x"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", "a", "-a", ".a", "a/b", "a b", "é", "_x"] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn zero_time_is_no_time() {
        assert!(parse_time(ZERO_TIME).is_none());
        assert!(parse_time(&now()).is_some());
    }
}
