//! The header blocks of one member of a tar: ustar where that can say it, PAX records before it where it cannot.
//! Owns the one way in which this engine writes each thing, so that the same tree gives the same bytes. Must not touch
//! the file system.

use crate::tar::{BLOCK, Time};

/// What ustar's seven and eleven octal digits can say.
const MAX_SMALL: u64 = 0o7_777_777;
const MAX_LARGE: u64 = 0o77_777_777_777;

/// One member, as it is to be written.
#[derive(Debug, Default)]
pub(crate) struct Head<'a> {
    /// The type flag of POSIX.1-2001's `ustar` format.
    pub(crate) kind: u8,
    /// Below the root; a directory's ends in a slash.
    pub(crate) name: &'a [u8],
    /// The target of a link.
    pub(crate) link: &'a [u8],
    /// Permissions, 0 to 0o7777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Bytes of the body that follows.
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    /// Major and minor number of a device.
    pub(crate) device: (u32, u32),
    /// Extended attributes, in the order of their names.
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl Head<'_> {
    /// The member's blocks before its body, PAX header included where one is needed.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| records.push((key.to_vec(), value.to_vec()));
        let split = split(self.name);
        if split.is_none() {
            record(b"path", self.name);
        }
        if self.link.len() > 100 {
            record(b"linkpath", self.link);
        }
        let is_text = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok();
        if (split.is_none() && !is_text(self.name)) || (self.link.len() > 100 && !is_text(self.link)) {
            // Names are UTF-8 unless this says that they are whatever they are.
            record(b"hdrcharset", b"BINARY");
        }
        for (key, id) in [(&b"uid"[..], self.uid), (b"gid", self.gid)] {
            if u64::from(id) > MAX_SMALL {
                record(key, id.to_string().as_bytes());
            }
        }
        if self.size > MAX_LARGE {
            record(b"size", self.size.to_string().as_bytes());
        }
        if self.mtime.nanoseconds != 0 || !u64::try_from(self.mtime.seconds).is_ok_and(|at| at <= MAX_LARGE) {
            record(b"mtime", decimal(self.mtime).as_bytes());
        }
        for (name, value) in self.xattrs {
            record(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        records.sort();
        let mut blocks = Vec::new();
        if !records.is_empty() {
            let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax(key, value)).collect();
            let head =
                Head { kind: b'x', name: b"././@PaxHeader", mode: 0o644, size: body.len() as u64, ..Head::default() };
            blocks.extend_from_slice(&head.block((b"", head.name)));
            blocks.extend_from_slice(&body);
            blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
        }
        blocks.extend_from_slice(&self.block(split.unwrap_or((b"", self.name))));
        blocks
    }

    /// The header itself. What it has no room for is cut, and said by a PAX record before it.
    fn block(&self, (prefix, name): (&[u8], &[u8])) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, room: usize, text: &[u8]| {
            let length = text.len().min(room);
            block[at..at + length].copy_from_slice(&text[..length]);
        };
        let small = |value: u64| format!("{:07o}\0", if value > MAX_SMALL { 0 } else { value });
        let large = |value: u64| format!("{:011o}\0", if value > MAX_LARGE { 0 } else { value });
        put(0, 100, name);
        put(100, 8, small(self.mode.into()).as_bytes());
        put(108, 8, small(self.uid.into()).as_bytes());
        put(116, 8, small(self.gid.into()).as_bytes());
        put(124, 12, large(self.size).as_bytes());
        put(136, 12, large(u64::try_from(self.mtime.seconds).unwrap_or_default()).as_bytes());
        put(148, 8, b"        ");
        put(156, 1, &[self.kind]);
        put(157, 100, self.link);
        put(257, 8, b"ustar\x0000");
        if matches!(self.kind, b'3' | b'4') {
            put(329, 8, small(self.device.0.into()).as_bytes());
            put(337, 8, small(self.device.1.into()).as_bytes());
        }
        put(345, 155, prefix);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// A name as ustar's prefix (155 bytes) and name (100 bytes), divided at a slash; `None` if it does not fit.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    // Not the slash that ends a directory's name: nothing would be left behind it.
    let mut fitting = slashes.filter(|at| (1..=155).contains(at) && (1..=100).contains(&(name.len() - at - 1)));
    fitting.next().map(|at| (&name[..at], &name[at + 1..]))
}

/// Seconds since 1970 as PAX has them: a decimal fraction without zeros at its end.
fn decimal(time: Time) -> String {
    let nanoseconds = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    let (sign, size) = (if nanoseconds < 0 { "-" } else { "" }, nanoseconds.unsigned_abs());
    let (seconds, rest) = (size / 1_000_000_000, size % 1_000_000_000);
    match rest {
        0 => format!("{sign}{seconds}"),
        _ => format!("{sign}{seconds}.{}", format!("{rest:09}").trim_end_matches('0')),
    }
}

/// `length key=value\n`, the length counting itself.
fn pax(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{Archive, Kind};

    fn read_back(head: &Head<'_>) -> crate::tar::Member {
        let bytes = head.encode();
        Archive::new(&bytes[..]).next_member().unwrap().unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let xattrs = [(b"user.a".to_vec(), b"x\ny=z\0".to_vec()), (b"user.b".to_vec(), vec![7; 60_000])];
        for name in [
            "a",
            &"n".repeat(100),
            &format!("{}/{}", "p".repeat(155), "n".repeat(100)),
            &format!("{}n", "n/".repeat(2000)),
        ] {
            for (seconds, nanoseconds) in [(0, 0), (-1, 500_000_000), (-5, 0), (1 << 40, 1), (7, 120_000_000)] {
                let mtime = Time { seconds, nanoseconds };
                let head = Head {
                    kind: b'0',
                    name: name.as_bytes(),
                    mode: 0o4755,
                    uid: 4_000_000_000,
                    gid: 0o7_777_777,
                    size: 1 << 40,
                    mtime,
                    xattrs: &xattrs,
                    ..Head::default()
                };
                let member = read_back(&head);
                assert_eq!((member.kind, &member.name[..], member.mode), (Kind::File, name.as_bytes(), 0o4755));
                assert_eq!((member.uid, member.gid, member.size), (4_000_000_000, 0o7_777_777, 1 << 40));
                assert_eq!((member.mtime, &member.xattrs[..]), (mtime, &xattrs[..]));
            }
        }
    }

    #[test]
    fn what_ustar_can_say_is_one_block() {
        let head = Head { kind: b'4', name: b"dev/x", mode: 0o600, device: (4095, 1_048_575), ..Head::default() };
        assert_eq!(head.encode().len(), BLOCK);
        assert_eq!(read_back(&head).device, (4095, 1_048_575));
        let deep = format!("{}/{}/", "p".repeat(155), "n".repeat(99));
        let head = Head { kind: b'5', name: deep.as_bytes(), ..Head::default() };
        assert_eq!((head.encode().len(), read_back(&head).name), (BLOCK, deep.into_bytes()));
    }

    #[test]
    fn bytes_that_are_no_text() {
        let (name, link) = (vec![0xff; 300], vec![0xfe; 300]);
        let head = Head { kind: b'2', name: &name, link: &link, ..Head::default() };
        let member = read_back(&head);
        assert_eq!((member.name, member.link), (name.clone(), link.clone()));
    }

    #[test]
    fn times_are_decimal() {
        let at = |seconds, nanoseconds| decimal(Time { seconds, nanoseconds });
        assert_eq!(at(1, 0), "1");
        assert_eq!(at(-1, 500_000_000), "-0.5");
        assert_eq!(at(-2, 999_999_999), "-1.000000001");
        assert_eq!(at(3, 10), "3.00000001");
    }
}
