//! Owns the DNS message format as far as a stub resolver needs it: one question out, addresses back (RFC 1035, 3596).
//! Bytes only: no sockets, no files.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The record types asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordType {
    A,
    Aaaa,
}

impl RecordType {
    fn code(self) -> u16 {
        match self {
            RecordType::A => 1,
            RecordType::Aaaa => 28,
        }
    }
}

/// What a server's answer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The name exists; these are its addresses of the type asked for, perhaps none.
    Addresses(Vec<IpAddr>),
    /// The name does not exist (NXDOMAIN).
    NoSuchName,
    /// Cut to fit a datagram: ask again over TCP.
    Truncated,
    /// The server failed or refused; another one may know. Holds the response code.
    Failed(u8),
}

const CLASS_IN: u16 = 1;
const TYPE_CNAME: u16 = 5;
/// More records than any sane answer has; the walk stops there.
const MOST_RECORDS: u16 = 256;

/// Encodes a recursive query; `None` if `name` is not a legal host name.
pub(crate) fn encode_query(id: u16, name: &str, record: RecordType) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 18);
    out.extend(id.to_be_bytes());
    out.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    out.extend(encode_name(name)?);
    out.extend(record.code().to_be_bytes());
    out.extend(CLASS_IN.to_be_bytes());
    Some(out)
}

fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        out.push(length);
        out.extend(label.to_ascii_lowercase().bytes());
    }
    out.push(0);
    (out.len() <= 255).then_some(out)
}

/// Decodes a message as the answer to that query. `None` means "not an answer to this question": a stray or forged
/// datagram, to be ignored while waiting on.
pub(crate) fn decode_answer(message: &[u8], id: u16, name: &str, record: RecordType) -> Option<Answer> {
    let word = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let flags = word(2)?;
    let is_response = flags & 0x8000 != 0;
    if word(0)? != id || !is_response || word(4)? != 1 {
        return None;
    }
    let asked = encode_name(name)?;
    let (question, mut at) = read_name(message, 12)?;
    if question != asked || word(at)? != record.code() || word(at + 2)? != CLASS_IN {
        return None;
    }
    at += 4;
    match (flags & 0x000f) as u8 {
        0 => {}
        3 => return Some(Answer::NoSuchName),
        code => return Some(Answer::Failed(code)),
    }
    if flags & 0x0200 != 0 {
        return Some(Answer::Truncated);
    }
    let mut wanted = asked;
    let mut addresses = Vec::new();
    for _ in 0..word(6)?.min(MOST_RECORDS) {
        let (owner, next) = read_name(message, at)?;
        let (kind, class, length) = (word(next)?, word(next + 2)?, usize::from(word(next + 8)?));
        let data = message.get(next + 10..next + 10 + length)?;
        at = next + 10 + length;
        if class != CLASS_IN || owner != wanted {
            continue;
        }
        if kind == TYPE_CNAME {
            wanted = read_name(message, next + 10)?.0;
        } else if kind == record.code() {
            addresses.extend(address(data));
        }
    }
    Some(Answer::Addresses(addresses))
}

fn address(data: &[u8]) -> Option<IpAddr> {
    match data.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?))),
        _ => None,
    }
}

/// Reads a possibly compressed name, lower-cased and uncompressed, and the offset after it. Pointers must point
/// backwards, so a loop cannot be built.
fn read_name(message: &[u8], start: usize) -> Option<(Vec<u8>, usize)> {
    let mut name = Vec::new();
    let (mut at, mut segment, mut after) = (start, start, None);
    loop {
        let length = *message.get(at)?;
        match length {
            0 => {
                name.push(0);
                return (name.len() <= 255).then(|| (name, after.unwrap_or(at + 1)));
            }
            1..=63 => {
                let label = message.get(at..at + 1 + usize::from(length))?;
                name.push(length);
                name.extend(label[1..].iter().map(u8::to_ascii_lowercase));
                at += label.len();
                if name.len() > 255 {
                    return None;
                }
            }
            0xc0..=0xff => {
                let target = usize::from(length & 0x3f) << 8 | usize::from(*message.get(at + 1)?);
                after.get_or_insert(at + 2);
                if target >= segment {
                    return None;
                }
                segment = target;
                at = target;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response to `name` with the given records, each (owner, type, data) already encoded.
    fn response(id: u16, name: &str, record: RecordType, flags: u16, records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut m = encode_query(id, name, record).unwrap();
        m[2..4].copy_from_slice(&flags.to_be_bytes());
        m[6..8].copy_from_slice(&(records.len() as u16).to_be_bytes());
        for (owner, kind, data) in records {
            m.extend(*owner);
            m.extend(kind.to_be_bytes());
            m.extend([0, 1, 0, 0, 0, 60]);
            m.extend((data.len() as u16).to_be_bytes());
            m.extend(*data);
        }
        m
    }

    #[test]
    fn names_are_checked() {
        assert!(encode_query(1, "a..b", RecordType::A).is_none());
        assert!(encode_query(1, &"x".repeat(64), RecordType::A).is_none());
        assert!(encode_query(1, &"abcdefg.".repeat(40), RecordType::A).is_none());
        assert_eq!(encode_name("Ab.c."), Some(b"\x02ab\x01c\0".to_vec()));
    }

    #[test]
    fn addresses_through_an_alias_and_compression() {
        let alias = b"\x03cdn\xc0\x0c".as_slice();
        let m = response(
            7,
            "reg.example",
            RecordType::A,
            0x8180,
            &[
                (b"\xc0\x0c", 5, alias),
                (b"\x05other\x00", 1, &[9, 9, 9, 9]),
                (b"\x03cdn\x03reg\x07example\x00", 1, &[192, 0, 2, 1]),
            ],
        );
        let want = Answer::Addresses(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(decode_answer(&m, 7, "REG.example", RecordType::A), Some(want));
    }

    #[test]
    fn codes_and_strangers() {
        let ok = response(7, "a.b", RecordType::Aaaa, 0x8180, &[(b"\xc0\x0c", 28, &[0; 16])]);
        assert_eq!(
            decode_answer(&ok, 7, "a.b", RecordType::Aaaa),
            Some(Answer::Addresses(vec!["::".parse().unwrap()]))
        );
        assert_eq!(decode_answer(&ok, 8, "a.b", RecordType::Aaaa), None);
        assert_eq!(decode_answer(&ok, 7, "a.c", RecordType::Aaaa), None);
        assert_eq!(decode_answer(&ok, 7, "a.b", RecordType::A), None);
        let code = |flags| decode_answer(&response(7, "a.b", RecordType::A, flags, &[]), 7, "a.b", RecordType::A);
        assert_eq!(code(0x8183), Some(Answer::NoSuchName));
        assert_eq!(code(0x8182), Some(Answer::Failed(2)));
        assert_eq!(code(0x8380), Some(Answer::Truncated));
        assert_eq!(code(0x0180), None);
    }

    #[test]
    fn damaged_messages_end_quietly() {
        let loops = response(7, "a.b", RecordType::A, 0x8180, &[(b"\xc0\x15", 1, &[1, 2, 3, 4])]);
        assert_eq!(decode_answer(&loops, 7, "a.b", RecordType::A), None);
        let good = response(7, "a.b", RecordType::A, 0x8180, &[(b"\xc0\x0c", 1, &[1, 2, 3, 4])]);
        for n in 0..good.len() {
            let _: Option<Answer> = decode_answer(&good[..n], 7, "a.b", RecordType::A);
            for flip in [0x01, 0x40, 0xff] {
                let mut bad = good.clone();
                bad[n] ^= flip;
                let _: Option<Answer> = decode_answer(&bad, 7, "a.b", RecordType::A);
            }
        }
    }
}
