//! What the confined process tells of an unpacked layer, as bytes.
//! Owns the encoding and its bounds. Must not believe anything: a number out of range, a name that leads out of the layer or
//! a list without end is a failure of that layer.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use brig_oci::Digest;

use crate::apply::{Applied, Later, MAX_CONTENT, MAX_LEFT, What, clean};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::MAX_LAYER_SIZE;

/// The longest value of an extended attribute (`XATTR_SIZE_MAX`), in bytes.
const MAX_VALUE: usize = 65_536;
/// The longest text of an error that is passed on, in bytes.
pub(super) const MAX_TEXT: usize = 8 * 1024;

const IMPLIED: u8 = 1;
const LINK: u8 = 2;
const OPAQUE: u8 = 3;
const DEVICE: u8 = 4;
const ATTRIBUTE: u8 = 5;

/// A layer that was unpacked: diff id, length of the tar, and what came of it.
pub(super) type Outcome = (Digest, u64, Applied);

/// The lists, entry after entry.
pub(super) fn encode_lists(applied: &Applied) -> Vec<u8> {
    let mut out = Vec::new();
    for (path, inode) in &applied.implied {
        out.push(IMPLIED);
        out.extend_from_slice(&inode.to_le_bytes());
        put_path(&mut out, path);
    }
    for (path, target) in &applied.pending_links {
        out.push(LINK);
        put_path(&mut out, path);
        put_path(&mut out, target);
    }
    for later in &applied.later {
        let start = out.len();
        out.push(0);
        out.extend_from_slice(&later.inode.to_le_bytes());
        put_path(&mut out, &later.path);
        out[start] = match &later.what {
            What::Opaque => OPAQUE,
            What::Device { character, major, minor } => {
                out.push((*character).into());
                out.extend_from_slice(&major.to_le_bytes());
                out.extend_from_slice(&minor.to_le_bytes());
                DEVICE
            }
            What::Attribute { name, value } => {
                put(&mut out, name.as_bytes());
                out.extend_from_slice(&(value.len() as u64).to_le_bytes());
                out.extend_from_slice(value);
                ATTRIBUTE
            }
        };
    }
    out
}

/// The numbers, of a fixed length.
pub(super) fn encode_summary(diff_id: &Digest, size: u64, applied: &Applied) -> Vec<u8> {
    let mut out = diff_id.hex().as_bytes().to_vec();
    let numbers = [
        size,
        applied.size,
        applied.entries,
        applied.content_bytes,
        applied.foreign_ids,
        applied.ignored_xattrs,
        u64::from(applied.opaque),
    ];
    out.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    out
}

/// Reads both again.
pub(super) fn decode(summary: &[u8], lists: &[u8]) -> Result<Outcome> {
    let mut input = Input(summary);
    let hex = std::str::from_utf8(input.take(64)?).map_err(|_| bad("a digest"))?;
    let diff_id = Digest::parse(&format!("sha256:{hex}")).map_err(|_| bad("a digest"))?;
    let size = input.number()?;
    let mut applied = Applied {
        size: input.number()?,
        entries: input.number()?,
        content_bytes: input.number()?,
        foreign_ids: input.number()?,
        ignored_xattrs: input.number()?,
        opaque: input.number()? == 1,
        ..Applied::default()
    };
    if !input.0.is_empty() || size > MAX_LAYER_SIZE || applied.content_bytes > MAX_CONTENT {
        return Err(bad("numbers"));
    }
    let mut input = Input(lists);
    while !input.0.is_empty() {
        input.entry(&mut applied)?;
    }
    Ok((diff_id, size, applied))
}

/// An error, to be told again by the other side.
pub(super) fn encode_error(error: &Error) -> Vec<u8> {
    let kind = match error.kind {
        ErrorKind::Invalid => 0,
        ErrorKind::Mismatch => 1,
        ErrorKind::NoSpace => 2,
        _ => 3,
    };
    let mut text = error.message.as_str();
    if text.len() > MAX_TEXT {
        text = &text[..text.floor_char_boundary(MAX_TEXT)];
    }
    [&[kind], text.as_bytes()].concat()
}

/// The error of an encoded one. Control characters in it are escaped: the text holds names from the archive.
pub(super) fn decode_error(bytes: &[u8]) -> Error {
    let (kind, text) = bytes.split_first().unwrap_or((&3, b"no reason given"));
    let kind = match kind {
        0 => ErrorKind::Invalid,
        1 => ErrorKind::Mismatch,
        2 => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_TEXT)]);
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    Error::new(kind, text.chars().map(escape).collect::<String>())
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // Names and paths are bounded far below by whoever makes them.
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&bytes[..bytes.len().min(usize::from(u16::MAX))]);
}

fn put_path(out: &mut Vec<u8>, path: &Path) {
    put(out, path.as_os_str().as_bytes());
}

pub(super) fn bad(what: &str) -> Error {
    Error::invalid(format!("the process that unpacked the layer has sent {what} that cannot be"))
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| bad("a list"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| bad("a list"))
    }

    fn number(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn short(&mut self) -> Result<&'a [u8]> {
        let length = u16::from_le_bytes(self.array()?);
        self.take(usize::from(length))
    }

    /// A path below the layer's root, just as it would have been made of a member's name.
    fn path(&mut self) -> Result<PathBuf> {
        let bytes = self.short()?;
        let path = clean(bytes)?;
        if bytes.contains(&0) || path.as_os_str().as_bytes() != bytes {
            return Err(bad("a path"));
        }
        Ok(path)
    }

    fn entry(&mut self, applied: &mut Applied) -> Result<()> {
        let [kind] = self.array()?;
        match kind {
            IMPLIED => {
                let inode = self.number()?;
                applied.implied.push((self.path()?, inode));
            }
            LINK => applied.pending_links.push((self.path()?, self.path()?)),
            OPAQUE | DEVICE | ATTRIBUTE => {
                let inode = self.number()?;
                let path = self.path()?;
                let what = match kind {
                    OPAQUE => What::Opaque,
                    DEVICE => self.device()?,
                    _ => self.attribute()?,
                };
                applied.later.push(Later { path, inode, what });
            }
            _ => return Err(bad("an entry")),
        }
        Ok(())
    }

    fn device(&mut self) -> Result<What> {
        let [character] = self.array()?;
        let (major, minor) = (u32::from_le_bytes(self.array()?), u32::from_le_bytes(self.array()?));
        Ok(What::Device { character: character == 1, major, minor })
    }

    fn attribute(&mut self) -> Result<What> {
        let name = self.short()?;
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if name.is_empty() || name.len() > 255 || name.contains(&0) || length > MAX_VALUE {
            return Err(bad("an attribute"));
        }
        Ok(What::Attribute { name: OsStr::from_bytes(name).to_owned(), value: self.take(length)?.to_vec() })
    }
}

/// The longest lists that are taken, in bytes.
pub(super) const MAX_LISTS: usize = MAX_LEFT;

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Applied {
        let later = |path: &str, what| Later { path: path.into(), inode: 7, what };
        Applied {
            size: 10_240,
            entries: 3,
            content_bytes: 5,
            foreign_ids: 1,
            ignored_xattrs: 2,
            opaque: true,
            implied: vec![("a".into(), 1), (PathBuf::new(), 2)],
            pending_links: vec![("a/b".into(), "c".into())],
            later: vec![
                later("", What::Opaque),
                later("d", What::Device { character: true, major: 1, minor: 5 }),
                later("x", What::Attribute { name: "security.capability".into(), value: vec![1; 20] }),
            ],
        }
    }

    fn digest() -> Digest {
        crate::digest::sha256_of(b"x")
    }

    #[test]
    fn what_was_told_is_understood() {
        let told = some();
        let (diff_id, size, heard) = decode(&encode_summary(&digest(), 9, &told), &encode_lists(&told)).unwrap();
        assert_eq!((diff_id, size), (digest(), 9));
        assert_eq!(format!("{heard:?}"), format!("{told:?}"));
        let error = decode_error(&encode_error(&Error::new(ErrorKind::NoSpace, "full \u{1b}[31m\n")));
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::NoSpace, "full \\u{1b}[31m\\n"));
        assert_eq!(decode_error(&[]).kind, ErrorKind::Io);
    }

    #[test]
    fn nothing_else_is_believed() {
        let (summary, lists) = (encode_summary(&digest(), 9, &some()), encode_lists(&some()));
        for cut in 0..summary.len() {
            assert!(decode(&summary[..cut], &[]).is_err(), "{cut}");
        }
        for cut in 1..lists.len() {
            // A cut between entries leaves a shorter list; nowhere does it panic.
            let _whatever = decode(&summary, &lists[..cut]);
        }
        for at in 0..lists.len() {
            for byte in [0, 1, 0x2e, 0x2f, 0x80, 0xff] {
                let mut changed = lists.clone();
                changed[at] = byte;
                if let Ok((_, _, heard)) = decode(&summary, &changed) {
                    let paths = heard.implied.iter().map(|(path, _)| path).chain(heard.later.iter().map(|l| &l.path));
                    for path in paths {
                        assert!(path.is_relative() && path.iter().all(|part| part != ".."), "{path:?}");
                    }
                }
            }
        }
        for path in ["/etc", "../x", "a/../b", "a/./b", "a//b", "a/", "a\0b"] {
            let mut list = vec![OPAQUE];
            list.extend_from_slice(&1u64.to_le_bytes());
            put(&mut list, path.as_bytes());
            assert!(decode(&summary, &list).is_err(), "{path:?}");
        }
        let mut endless = summary.clone();
        endless[64..72].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(decode(&endless, &[]).is_err());
    }
}
