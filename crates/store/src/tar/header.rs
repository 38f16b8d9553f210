//! One 512-byte header: its fields, in all the ways in which numbers and names are written there.
//! Must not read beyond the block.

use super::sparse::Segment;
use super::{BLOCK, Kind, Time};
use crate::error::{Error, Result};

/// A header block whose checksum is right.
pub(super) struct Header {
    block: [u8; BLOCK],
    format: Format,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    pub(super) fn new(block: [u8; BLOCK]) -> Result<Header> {
        let expected = number(&block[148..156]).map_err(|_| Error::invalid("tar: not a tar archive"))?;
        let counted = |byte: (usize, &u8)| {
            if (148..156).contains(&byte.0) { b' ' } else { *byte.1 }
        };
        let unsigned: i64 = block.iter().enumerate().map(|byte| i64::from(counted(byte))).sum();
        let signed: i64 = block.iter().enumerate().map(|byte| i64::from(counted(byte).cast_signed())).sum();
        if expected != unsigned && expected != signed {
            return Err(Error::invalid("tar: not a tar archive, or damaged: a header's checksum is wrong"));
        }
        let format = match &block[257..265] {
            b"ustar  \0" => Format::Gnu,
            magic if magic.starts_with(b"ustar\0") && &block[508..512] == b"tar\0" => Format::Star,
            magic if magic.starts_with(b"ustar\0") => Format::Ustar,
            _ => Format::V7,
        };
        Ok(Header { block, format })
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    pub(super) fn kind(&self, name: &[u8], size: u64) -> Result<Kind> {
        Ok(match self.type_flag() {
            // Before there was a type for them, directories were files whose name ends in a slash.
            b'0' | 0 if name.ends_with(b"/") && size == 0 => Kind::Directory,
            b'0' | 0 | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(Error::invalid(format!("unsupported member type '{}'", other.escape_ascii())));
            }
        })
    }

    pub(super) fn name(&self) -> Result<Vec<u8>> {
        let name = text(&self.block[..100]);
        let prefix = match self.format {
            Format::Ustar => text(&self.block[345..500]),
            Format::Star => text(&self.block[345..476]),
            Format::V7 | Format::Gnu => &[],
        };
        Ok(if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() })
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32> {
        let mode = field("mode", &self.block[100..108])?;
        // Type bits above the permissions are written by some and mean nothing here.
        u32::try_from(mode & 0xffff).map_err(|_| Error::invalid(format!("mode {mode} is out of range")))
    }

    pub(super) fn uid(&self) -> Result<i64> {
        field("uid", &self.block[108..116])
    }

    pub(super) fn gid(&self) -> Result<i64> {
        field("gid", &self.block[116..124])
    }

    pub(super) fn size(&self) -> Result<u64> {
        let size = field("size", &self.block[124..136])?;
        u64::try_from(size).map_err(|_| Error::invalid(format!("tar: size {size} is negative")))
    }

    pub(super) fn mtime(&self) -> Result<Time> {
        Ok(Time { seconds: field("mtime", &self.block[136..148])?, nanoseconds: 0 })
    }

    pub(super) fn device(&self) -> Result<(u32, u32)> {
        if self.format == Format::V7 {
            return Ok((0, 0));
        }
        let part = |name, range: std::ops::Range<usize>| {
            let value = field(name, &self.block[range])?;
            u32::try_from(value).map_err(|_| Error::invalid(format!("{name} {value} is out of range")))
        };
        Ok((part("device major", 329..337)?, part("device minor", 337..345)?))
    }

    /// The start of an old GNU sparse map: the file's size, the segments, and whether blocks of more follow.
    pub(super) fn sparse(&self) -> Result<(u64, Vec<Segment>, bool)> {
        if self.format != Format::Gnu {
            return Err(Error::invalid("sparse file in an archive that is not GNU's"));
        }
        let mut segments = Vec::new();
        read_segments(&self.block[386..482], &mut segments)?;
        let size = field("real size", &self.block[483..495])?;
        let size = u64::try_from(size).map_err(|_| Error::invalid("sparse file of negative size"))?;
        Ok((size, segments, self.block[482] != 0))
    }
}

/// A further block of an old GNU sparse map; tells whether another one follows.
pub(super) fn extended_sparse(block: &[u8; BLOCK], segments: &mut Vec<Segment>) -> Result<bool> {
    read_segments(&block[..504], segments)?;
    Ok(block[504] != 0)
}

fn read_segments(table: &[u8], segments: &mut Vec<Segment>) -> Result<()> {
    for entry in table.chunks_exact(24) {
        if entry[0] == 0 {
            break;
        }
        let part = |bytes| {
            let value = field("sparse map", bytes)?;
            u64::try_from(value).map_err(|_| Error::invalid("sparse map with a negative number"))
        };
        segments.push(Segment { offset: part(&entry[..12])?, length: part(&entry[12..])? });
    }
    Ok(())
}

fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

fn field(name: &str, bytes: &[u8]) -> Result<i64> {
    number(bytes).map_err(|why| Error::invalid(format!("tar: {name}: {why}")))
}

/// Octal text, or with the top bit set a big-endian two's complement number (GNU's base-256).
fn number(bytes: &[u8]) -> std::result::Result<i64, &'static str> {
    let Some(first) = bytes.first() else {
        return Ok(0);
    };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let fill: u8 = if negative { 0xff } else { 0 };
        let mut value: i64 = if negative { -1 } else { 0 };
        for (index, byte) in bytes.iter().enumerate() {
            let byte = if index == 0 { (byte & 0x7f) | (fill & 0x80) } else { *byte };
            let significant = bytes.len() - index <= 8;
            if !significant && byte != fill {
                return Err("number is too large");
            }
            if significant {
                if bytes.len() - index == 8 && (byte & 0x80 != 0) != negative {
                    return Err("number is too large");
                }
                value = (value << 8) | i64::from(byte);
            }
        }
        return Ok(value);
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = bytes.iter().position(|byte| !is_blank(byte)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    let mut value: i64 = 0;
    for byte in text(&bytes[start..end]) {
        if !(b'0'..=b'7').contains(byte) {
            return Err("not an octal number");
        }
        value = value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(byte - b'0')))
            .ok_or("number is too large")?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        // Cases of Go's archive/tar TestParseNumeric.
        assert_eq!(number(b""), Ok(0));
        assert_eq!(number(b"\x80"), Ok(0));
        assert_eq!(number(b"\x80\x00"), Ok(0));
        assert_eq!(number(b"\x87\x76\xa2\x22\xeb\x8a\x72\x61"), Ok(537_795_476_381_659_745));
        assert_eq!(number(b"\x80\x00\x00\x00\x07\x76\xa2\x22\xeb\x8a\x72\x61"), Ok(537_795_476_381_659_745));
        assert_eq!(number(b"\xf7\x76\xa2\x22\xeb\x8a\x72\x61"), Ok(-615_126_028_225_187_231));
        assert_eq!(number(b"\xff\xff\xff\xff\xf7\x76\xa2\x22\xeb\x8a\x72\x61"), Ok(-615_126_028_225_187_231));
        assert_eq!(number(b"\x80\x7f\xff\xff\xff\xff\xff\xff\xff"), Ok(i64::MAX));
        assert!(number(b"\x80\x80\x00\x00\x00\x00\x00\x00\x00").is_err());
        assert_eq!(number(b"\xff\x80\x00\x00\x00\x00\x00\x00\x00"), Ok(i64::MIN));
        assert!(number(b"\xff\x7f\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert_eq!(number(b"0000000\x00"), Ok(0));
        assert_eq!(number(b" \x0000000\x00"), Ok(0));
        assert_eq!(number(b"123\x00456\x00").ok(), Some(0o123));
        assert_eq!(number(b"0123456789\x00"), Err("not an octal number"));
        assert!(number(b"-1").is_err() && number(b"+1").is_err() && number(b"0x1").is_err());
    }
}
