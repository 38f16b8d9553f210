//! What the tests share: archives made on the spot, a store in a scratch directory, and ways to look at the outcome.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use brig_oci::Digest;
use brig_store::{ImageRecord, LayerInfo, LayerIngest, Result, Store};

/// The modification time of everything that [`Tar`] writes.
pub const MTIME: i64 = 1_600_000_000;

/// Writes archives header by header, so that hostile ones can be written as well.
#[derive(Default, Clone)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// One member to be written.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub link: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub body: &'a [u8],
    pub device: (u32, u32),
    pub owner: (u32, u32),
}

impl Default for Entry<'_> {
    fn default() -> Self {
        Entry { name: b"", link: b"", kind: b'0', mode: 0o644, body: b"", device: (0, 0), owner: (0, 0) }
    }
}

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    pub fn file(self, name: &str, body: &[u8]) -> Tar {
        self.entry(&Entry { name: name.as_bytes(), body, ..Entry::default() })
    }

    pub fn dir(self, name: &str, mode: u32) -> Tar {
        self.entry(&Entry { name: name.as_bytes(), kind: b'5', mode, ..Entry::default() })
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.entry(&Entry {
            name: name.as_bytes(),
            link: target.as_bytes(),
            kind: b'2',
            mode: 0o777,
            ..Entry::default()
        })
    }

    pub fn link(self, name: &str, target: &str) -> Tar {
        self.entry(&Entry { name: name.as_bytes(), link: target.as_bytes(), kind: b'1', ..Entry::default() })
    }

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

    /// Bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Tar {
        self.bytes.extend_from_slice(bytes);
        self
    }

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

pub fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("v1")).unwrap();
    (dir, store)
}

pub fn unpack(store: &Store, tar: &[u8]) -> Result<LayerIngest> {
    let mut ingest = store.begin_layer()?;
    ingest.unpack(tar)?;
    Ok(ingest)
}

pub fn layer(store: &Store, tar: &[u8], parent: Option<&Digest>) -> LayerInfo {
    store.commit_layer(unpack(store, tar).unwrap(), parent).unwrap()
}

/// The configuration of an image of these layers.
pub fn config(tars: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = tars.iter().map(|tar| format!("\"{}\"", brig_store::digest::sha256_of(tar))).collect();
    format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2026-01-01T00:00:00Z","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    )
    .into_bytes()
}

/// An image of these layers, stored.
pub fn image(store: &Store, tars: &[&[u8]]) -> Digest {
    let mut parent = None;
    for tar in tars {
        parent = Some(layer(store, tar, parent.as_ref()).chain_id);
    }
    let id = store.put_blob(&config(tars)).unwrap();
    store.put_image(ImageRecord::new(id, None)).unwrap().id
}

pub fn diff(store: &Store, chain: &Digest) -> PathBuf {
    store.root().join("layers").join(chain.hex()).join("diff")
}

pub fn count(store: &Store, name: &str) -> usize {
    std::fs::read_dir(store.root().join(name)).unwrap().count()
}

pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 4096];
    rustix::fs::lgetxattr(path, name, &mut value[..]).ok().map(|length| value[..length].to_vec())
}

/// Everything beneath a directory, by path, as text that says all that matters about it.
pub fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "dir".to_owned()
        } else if kind.is_symlink() {
            format!("link {:?}", std::fs::read_link(&path).unwrap())
        } else if kind.is_file() {
            format!(
                "file {} nlink {}",
                brig_store::digest::sha256_of(&std::fs::read(&path).unwrap()).short(),
                metadata.nlink()
            )
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            format!("node {:x}", metadata.rdev())
        };
        if path != root {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let text = format!(
                "{what} {:o} {}:{} {}.{:09}",
                metadata.mode() & 0o7777,
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec()
            );
            found.insert(name, text);
        }
    }
    found
}
