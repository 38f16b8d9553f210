//! PAX extended headers: `length key=value\n` records, values being any bytes.
//! Must not apply them; that is the archive's part.

use super::Time;
use super::sparse::Segment;
use crate::error::{Error, Result};

/// The largest value of an extended attribute: Linux takes no more (XATTR_SIZE_MAX).
const MAX_XATTR: usize = 64 * 1024;
/// The longest name of one (XATTR_NAME_MAX).
const MAX_XATTR_NAME: usize = 255;
/// The most of them for one member.
const MAX_XATTRS: usize = 1000;

/// What a PAX header says about the next member. An empty value takes the key back, as POSIX has it.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse_name: Option<Vec<u8>>,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    sparse_size: Option<u64>,
    /// Format 0.1: all numbers in one record.
    sparse_map: Option<Vec<u8>>,
    /// Format 0.0: two records for each segment.
    sparse_pairs: Vec<u64>,
    sparse_expects_length: bool,
}

impl Pax {
    pub(super) fn parse(mut data: &[u8]) -> Result<Pax> {
        let mut pax = Pax::default();
        // Some writers pad with zeros.
        while !data.iter().all(|byte| *byte == 0) {
            let (key, value, rest) = record(data).ok_or_else(|| Error::invalid("tar: malformed PAX record"))?;
            pax.set(key, value)?;
            data = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let bad = |why: &str| Error::invalid(format!("tar: PAX record {}={}: {why}", key.escape_ascii(), shown(value)));
        let present = !value.is_empty();
        let name = || match value.contains(&0) {
            true => Err(bad("a name with a NUL in it")),
            false => Ok(present.then(|| value.to_vec())),
        };
        let id = || signed(value).ok_or_else(|| bad("not a number"));
        let count = || unsigned(value).ok_or_else(|| bad("not a number"));
        match key {
            b"path" => self.path = name()?,
            b"linkpath" => self.link_path = name()?,
            b"size" => self.size = present.then(count).transpose()?,
            b"uid" => self.uid = present.then(id).transpose()?,
            b"gid" => self.gid = present.then(id).transpose()?,
            b"mtime" => self.mtime = present.then(|| time(value).ok_or_else(|| bad("not a time"))).transpose()?,
            b"GNU.sparse.major" => self.sparse_major = Some(count()?),
            b"GNU.sparse.minor" => self.sparse_minor = Some(count()?),
            b"GNU.sparse.name" => self.sparse_name = name()?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse_size = Some(count()?),
            b"GNU.sparse.map" => self.sparse_map = Some(value.to_vec()),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                if (key == b"GNU.sparse.numbytes") != self.sparse_expects_length {
                    return Err(bad("offset and size do not take turns"));
                }
                self.sparse_pairs.push(count()?);
                self.sparse_expects_length = !self.sparse_expects_length;
            }
            _ => {
                if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(attribute, value).map_err(bad)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: &[u8], value: &[u8]) -> std::result::Result<(), &'static str> {
        if name.is_empty() || name.len() > MAX_XATTR_NAME || name.contains(&0) {
            return Err("no valid attribute name");
        }
        if value.len() > MAX_XATTR {
            return Err("attribute is larger than 64 KiB");
        }
        self.xattrs.retain(|(known, _)| known != name);
        if self.xattrs.len() >= MAX_XATTRS {
            return Err("too many attributes");
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }

    /// Whether the sparse map is at the start of the body.
    pub(super) fn is_sparse_1_0(&self) -> bool {
        (self.sparse_major, self.sparse_minor) == (Some(1), Some(0))
    }

    /// The sparse map if it is in these records (formats 0.0 and 0.1).
    pub(super) fn sparse_map(&self) -> Result<Option<Vec<Segment>>> {
        let bad = || Error::invalid("malformed sparse map");
        let numbers = match &self.sparse_map {
            Some(map) if map.is_empty() => Vec::new(),
            Some(map) => map.split(|byte| *byte == b',').map(unsigned).collect::<Option<Vec<u64>>>().ok_or_else(bad)?,
            None if self.sparse_pairs.is_empty() && self.sparse_size.is_none() => return Ok(None),
            None => self.sparse_pairs.clone(),
        };
        if numbers.len() % 2 != 0 {
            return Err(bad());
        }
        let segments = numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] });
        Ok(Some(segments.collect()))
    }

    /// The size of the file with its holes.
    pub(super) fn sparse_size(&self, stored: u64) -> u64 {
        self.sparse_size.unwrap_or(stored)
    }
}

/// Cuts the first record off: key, value, rest.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(unsigned(&data[..space])?).ok()?;
    // At least a space, a key of one character, '=' and a newline.
    if length < space + 4 || length > data.len() {
        return None;
    }
    let (record, rest) = data.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

fn unsigned(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse::<u64>().ok().filter(|value| i64::try_from(*value).is_ok())
}

fn signed(text: &[u8]) -> Option<i64> {
    match text.strip_prefix(b"-") {
        Some(digits) => i64::try_from(unsigned(digits)?).ok().map(|value| -value),
        None => i64::try_from(unsigned(text)?).ok(),
    }
}

/// Seconds with an optional fraction, of which nine digits count.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let mut parts = digits.splitn(2, |byte| *byte == b'.');
    let seconds = i64::try_from(unsigned(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |index: usize| u32::from(fraction.get(index).map_or(0, |byte| byte - b'0'));
    let nanoseconds = (0..9).fold(0, |value, index| value * 10 + digit(index));
    Some(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

/// The beginning of a value, for an error text.
fn shown(value: &[u8]) -> String {
    let end = value.len().min(64);
    value[..end].escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_cut_by_length_not_by_line() {
        let (key, value, rest) = record(b"11 key=a\nb\nrest").unwrap();
        assert_eq!((key, value, rest), (&b"key"[..], &b"a\nb"[..], &b"rest"[..]));
        for bad in [
            &b""[..],
            b"1",
            b" ",
            b"0 a=b\n",
            b"6 k=1\n",
            b"5 k=1\n",
            b"99 k=1\n",
            b"6 k=v ",
            b"6 =v\n\n",
            b"5 kv\n",
            b"+6 k=v\n",
            b"18446744073709551616 k=v\n",
            b"9223372036854775807 k=v\n",
            b"7 \0=vv\n",
            b"- k=v\n",
        ] {
            let whole = record(bad).filter(|(_, _, rest)| rest.is_empty());
            assert!(whole.is_none() || bad == b"6 k=1\n", "{:?}", bad.escape_ascii().to_string());
        }
    }

    #[test]
    fn times_have_nanoseconds_before_and_after_1970() {
        let is = |text: &str, seconds, nanoseconds| {
            assert_eq!(time(text.as_bytes()), Some(Time { seconds, nanoseconds }), "{text}");
        };
        is("1350244992.023960108", 1_350_244_992, 23_960_108);
        is("1.9999999999", 1, 999_999_999);
        is("1", 1, 0);
        is("1.", 1, 0);
        is("-1", -1, 0);
        is("-1.5", -2, 500_000_000);
        is("-0.000000001", -1, 999_999_999);
        for bad in ["", "-", ".5", "1.5x", "NaN", "1e5", "+1", "9223372036854775808", "1.-5"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }
}
