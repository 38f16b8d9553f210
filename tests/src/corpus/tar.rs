//! Writes archives header by header, so that hostile ones can be written as well.
//! Owns the format; what is tried with it is its neighbours' business.

/// The modification time of everything that [`Tar`] writes.
pub const MTIME: i64 = 1_600_000_000;

/// Writes archives header by header, so that hostile ones can be written as well.
#[derive(Default, Clone)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// One member to be written.
pub struct Entry<'a> {
    /// As it is written; beyond 100 bytes with a GNU long name before.
    pub name: &'a [u8],
    /// Target of a link.
    pub link: &'a [u8],
    /// The type flag.
    pub kind: u8,
    /// Permissions.
    pub mode: u32,
    /// Content.
    pub body: &'a [u8],
    /// Major and minor number.
    pub device: (u32, u32),
    /// User and group.
    pub owner: (u32, u32),
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry { name: b"", link: b"", kind: b'0', mode: 0o644, body: b"", device: (0, 0), owner: (0, 0) }
    }
}

impl Tar {
    /// An empty one.
    pub fn new() -> Tar {
        Tar::default()
    }

    /// With a file.
    pub fn file(self, name: &str, body: &[u8]) -> Tar {
        self.entry(&Entry { name: name.as_bytes(), body, ..Entry::default() })
    }

    /// With a directory.
    pub fn dir(self, name: &str, mode: u32) -> Tar {
        self.entry(&Entry { name: name.as_bytes(), kind: b'5', mode, ..Entry::default() })
    }

    /// With a symbolic link.
    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(&Entry {
            name: name.as_bytes(),
            link: target.as_bytes(),
            kind: b'2',
            mode: 0o777,
            ..Entry::default()
        })
    }

    /// With a hard link.
    pub fn link(self, name: &str, target: &str) -> Tar {
        self.entry(&Entry { name: name.as_bytes(), link: target.as_bytes(), kind: b'1', ..Entry::default() })
    }

    /// With a device, or whatever else the type flag says.
    pub fn device(self, name: &str, kind: u8, device: (u32, u32)) -> Tar {
        self.entry(&Entry { name: name.as_bytes(), kind, device, mode: 0o600, ..Entry::default() })
    }

    /// A PAX header for the next member.
    pub fn pax(self, records: &[(&[u8], &[u8])]) -> Tar {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            body.extend_from_slice(format!("{length} ").as_bytes());
            body.extend_from_slice(&[key, &b"="[..], value, b"\n"].concat());
        }
        self.raw(b'x', &body)
    }

    /// An extension header with this body.
    pub fn raw(self, kind: u8, body: &[u8]) -> Tar {
        self.entry(&Entry { name: b"extension", kind, body, ..Entry::default() })
    }

    /// Any member. A name that is too long for the header gets a GNU long name before it.
    pub fn entry(mut self, entry: &Entry<'_>) -> Tar {
        if entry.name.len() > 100 {
            self = self.raw(b'L', &[entry.name, b"\0"].concat());
        }
        if entry.link.len() > 100 {
            self = self.raw(b'K', &[entry.link, b"\0"].concat());
        }
        self.bytes.extend_from_slice(&header(entry, entry.body.len() as u64));
        self.body(entry.body)
    }

    /// A body without a header, padded.
    pub fn body(mut self, body: &[u8]) -> Tar {
        self.bytes.extend_from_slice(body);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// With a whiteout of a path.
    pub fn whiteout(self, path: &str) -> Tar {
        let (directory, name) = path.rsplit_once('/').map_or((".", path), |(directory, name)| (directory, name));
        self.file(&format!("{directory}/.wh.{name}"), b"")
    }

    /// The members so far, without an end.
    pub fn open_end(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Tar {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The archive, with its end.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

/// A GNU header with this size in it.
pub fn header(entry: &Entry<'_>, size: u64) -> [u8; 512] {
    let mut block = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8], room: usize| {
        let length = bytes.len().min(room);
        block[at..at + length].copy_from_slice(&bytes[..length]);
    };
    put(0, entry.name, 100);
    put(100, format!("{:07o}\0", entry.mode).as_bytes(), 8);
    put(108, &binary(u64::from(entry.owner.0), 8), 8);
    put(116, &binary(u64::from(entry.owner.1), 8), 8);
    put(124, format!("{size:011o}\0").as_bytes(), 12);
    put(136, format!("{MTIME:011o}\0").as_bytes(), 12);
    put(156, &[entry.kind], 1);
    put(157, entry.link, 100);
    put(257, b"ustar  \0", 8);
    put(329, format!("{:07o}\0", entry.device.0).as_bytes(), 8);
    put(337, format!("{:07o}\0", entry.device.1).as_bytes(), 8);
    checksum(&mut block);
    block
}

/// Writes the checksum that the rest of the header has.
pub fn checksum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn binary(value: u64, width: usize) -> Vec<u8> {
    if value < 0o7_777_777 {
        return format!("{value:0w$o}\0", w = width - 1).into_bytes();
    }
    let mut bytes = vec![0; width];
    bytes[width - 8..].copy_from_slice(&value.to_be_bytes());
    bytes[0] |= 0x80;
    bytes
}
