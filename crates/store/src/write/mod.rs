//! A tree of files as a tar, the same tree always as the same bytes: a container's writable layer as an image's layer,
//! a container's merged files as an archive. What a layer cannot hold is refused by name.
//!
//! Owns the order, what each thing becomes, and overlayfs' marks as whiteouts. Must not change the tree, and must not
//! stumble over a container that changes it meanwhile: what vanishes is left out, what shrinks is filled with zeros.
//! `redirect_dir` and `metacopy` are not used by this engine's overlays, so their marks are not looked for.

mod changes;
mod member;
mod walk;

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use brig_oci::Digest;
use brig_sys::beneath::Root;
use rustix::fs::{FileType, SeekFrom, Stat};

use crate::apply::{OPAQUE, is_whiteout, may_be_set, plain_capability};
use crate::catalog::LayerInfo;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::tar::{BLOCK, Time};
use crate::view::View;
use changes::Below;
pub use changes::{Change, ChangeKind};
use member::Head;
use walk::{Entry, Opened, Walk};

/// The diff id of a layer without members: two zero blocks.
const EMPTY_LAYER: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
/// Names with this beginning are whiteouts in a layer, so that a file cannot have one.
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &str = ".wh..wh..opq";

/// Makes a layer of what the writable layer `key` changes, on the chain that it stands on; `None` if that is nothing.
/// The container may go on meanwhile. No temporary file is made: the layer is unpacked while it is written.
pub fn commit_active(store: &Store, key: &str) -> Result<Option<LayerInfo>> {
    let missing = || Error::not_found(format!("writable layer {key} is not in the store"));
    let chain = store.catalog().active.get(key).ok_or_else(missing)?.clone();
    let layers = store.active(key).ok_or_else(missing)?;
    let _pin = store.pin(chain.as_slice());
    let root = Root::open(&layers.upper)?;
    let below = Below::open(&layers.lower)?;
    let mut ingest = store.begin_layer()?;
    let (reader, writer) = std::io::pipe().map_err(|error| Error::io("pipe", error))?;
    let unpacked = std::thread::scope(|threads| {
        let write = || layer(&root, &below, writer);
        let worker = std::thread::Builder::new().name("store-layer".into()).spawn_scoped(threads, write);
        let worker = worker.map_err(|error| Error::io("start a thread that writes a layer", error))?;
        let unpacked = ingest.unpack(reader);
        let written = worker.join().unwrap_or_else(|_| Err(Error::corrupt("writing a layer stopped unexpectedly")));
        match (unpacked, written) {
            // What was cut short may still have been a whole tar; and who stopped reading has the reason.
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(unpacked), Ok(())) => Ok(unpacked),
        }
    })?;
    if unpacked.diff_id.as_str() == EMPTY_LAYER {
        return Ok(None);
    }
    store.commit_layer(ingest, chain.as_ref()).map(Some)
}

/// What the writable layer `key` changes of the files below it, by path.
pub fn active_changes(store: &Store, key: &str) -> Result<Vec<Change>> {
    let layers =
        store.active(key).ok_or_else(|| Error::not_found(format!("writable layer {key} is not in the store")))?;
    changes::list(&Root::open(&layers.upper)?, &Below::open(&layers.lower)?)
}

impl View {
    /// Writes all files that it shows as one tar.
    pub fn write_tar(&self, output: &mut dyn Write) -> Result<()> {
        Writer::new(output, None).tree(self.root())
    }
}

/// Writes an upper directory of overlayfs as a layer. The reader sees the end when this returns.
fn layer(upper: &Root, below: &Below, output: impl Write) -> Result<()> {
    let mut output = std::io::BufWriter::with_capacity(128 * 1024, output);
    Writer::new(&mut output, Some(below)).tree(upper)?;
    output.flush().map_err(|error| Error::io("write the layer", error))
}

/// An archive that is being written.
struct Writer<'a> {
    output: &'a mut dyn Write,
    /// Set for a layer: what is below it.
    below: Option<&'a Below>,
    /// Where files with several names were written, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
    buffer: Vec<u8>,
}

impl<'a> Writer<'a> {
    fn new(output: &'a mut dyn Write, below: Option<&'a Below>) -> Writer<'a> {
        Writer { output, below, links: HashMap::new(), buffer: vec![0; 128 * 1024] }
    }

    fn tree(mut self, root: &Root) -> Result<()> {
        let (mut walk, entry, opened) = Walk::new(root)?;
        self.root(&entry)?;
        self.enter(&mut walk, &entry, opened)?;
        while let Some(mut entry) = walk.next()? {
            let described = |error: Error| error.context(format!("/{}", entry.path.display()));
            if self.below.is_some() {
                if is_whiteout(&entry.stat) {
                    self.whiteout(&entry.path)?;
                    continue;
                }
                if self.below.is_some_and(|below| below.is_left_over(&entry)) {
                    continue;
                }
                check_name(&entry.path).map_err(described)?;
            }
            let path = entry.path.clone();
            let described = |error: Error| error.context(format!("/{}", path.display()));
            match entry.kind() {
                FileType::Directory => {
                    let Some(opened) = entry.open_directory()? else { continue };
                    self.directory(&mut walk, &entry, opened)
                }
                _ => self.other(&mut entry),
            }
            .map_err(described)?;
        }
        self.bytes(&[0; 2 * BLOCK])
    }

    /// The root is only written if it is not what an unpacked archive's is anyway.
    fn root(&mut self, entry: &Entry) -> Result<()> {
        let stat = &entry.stat;
        let xattrs = attributes(entry)?;
        let is_plain = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (0o755, 0, 0) && xattrs.is_empty();
        match is_plain {
            true => Ok(()),
            false => self.head(&Head { kind: b'5', name: b"./", xattrs: &xattrs, ..head(stat) }),
        }
    }

    fn directory(&mut self, walk: &mut Walk<'_>, entry: &Entry, opened: Opened) -> Result<()> {
        if self.below.is_some_and(|below| below.is_only_passed(entry, &opened)) {
            return Ok(());
        }
        let name = [entry.path.as_os_str().as_bytes(), b"/"].concat();
        let xattrs = attributes(entry)?;
        self.head(&Head { kind: b'5', name: &name, xattrs: &xattrs, ..head(&entry.stat) })?;
        self.enter(walk, entry, opened)
    }

    /// Goes on inside of a directory, which hides what is below it if overlayfs says so.
    fn enter(&mut self, walk: &mut Walk<'_>, entry: &Entry, opened: Opened) -> Result<()> {
        if self.below.is_some() && is_opaque(entry)? {
            self.marker(&entry.path.join(WHITEOUT_OPAQUE))?;
        }
        walk.enter(entry, opened);
        Ok(())
    }

    /// Anything that is no directory.
    fn other(&mut self, entry: &mut Entry) -> Result<()> {
        let kind = match entry.kind() {
            FileType::RegularFile => b'0',
            FileType::Symlink => b'2',
            FileType::CharacterDevice => b'3',
            FileType::BlockDevice => b'4',
            FileType::Fifo => b'6',
            // A socket without its server is nothing.
            FileType::Socket | FileType::Directory | FileType::Unknown => return Ok(()),
        };
        let path = entry.path.clone();
        let name = path.as_os_str().as_bytes();
        if entry.stat.st_nlink > 1 {
            let inode = (entry.stat.st_dev, entry.stat.st_ino);
            if let Some(first) = self.links.get(&inode) {
                let link = first.clone();
                let head = Head { kind: b'1', name, link: link.as_os_str().as_bytes(), ..head(&entry.stat) };
                return self.head(&head);
            }
        }
        let file = match kind {
            b'0' => match entry.open_file()? {
                Some(file) => Some(file),
                None => return Ok(()),
            },
            _ => None,
        };
        let link = match kind {
            b'2' => match entry.link()? {
                Some(link) => link,
                None => return Ok(()),
            },
            _ => Vec::new(),
        };
        let size = file.as_ref().map_or(0, |_| u64::try_from(entry.stat.st_size).unwrap_or_default());
        let xattrs = attributes(entry)?;
        self.head(&Head { kind, name, link: &link, size, xattrs: &xattrs, ..head(&entry.stat) })?;
        if let Some(file) = file {
            self.content(&file, size, &entry.stat)?;
        }
        if entry.stat.st_nlink > 1 {
            self.links.insert((entry.stat.st_dev, entry.stat.st_ino), path);
        }
        Ok(())
    }

    /// The file's first `size` bytes, zeros where it has become shorter. Holes are not read.
    fn content(&mut self, file: &File, size: u64, stat: &Stat) -> Result<()> {
        let has_holes = u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512) < size;
        let (mut at, mut data_ends) = (0, if has_holes { 0 } else { size });
        while at < size {
            if at >= data_ends {
                // A file system that cannot tell has no holes.
                let data = rustix::fs::seek(file, SeekFrom::Data(at));
                let data = data.unwrap_or_else(|errno| if errno == rustix::io::Errno::NXIO { size } else { at });
                let data = data.clamp(at, size);
                self.zeros(data - at)?;
                at = data;
                data_ends = rustix::fs::seek(file, SeekFrom::Hole(at)).unwrap_or(size).clamp(at, size);
                if data_ends == at {
                    // Changed in between: what is left is read.
                    data_ends = size;
                }
                continue;
            }
            let want = usize::try_from(data_ends - at).unwrap_or(usize::MAX).min(self.buffer.len());
            match file.read_at(&mut self.buffer[..want], at) {
                Ok(0) => {
                    self.zeros(size - at)?;
                    at = size;
                }
                Ok(length) => {
                    let written = self.output.write_all(&self.buffer[..length]);
                    written.map_err(|error| Error::io("write the archive", error))?;
                    at += length as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", error)),
            }
        }
        self.zeros(size.wrapping_neg() % BLOCK as u64)
    }

    fn whiteout(&mut self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().as_bytes();
        self.marker(&path.with_file_name(std::ffi::OsStr::from_bytes(&[WHITEOUT, name].concat())))
    }

    /// An empty file that says something about the layers below: nobody's, of no time.
    fn marker(&mut self, path: &Path) -> Result<()> {
        self.head(&Head { kind: b'0', name: path.as_os_str().as_bytes(), mode: 0o600, ..Head::default() })
    }

    fn head(&mut self, head: &Head<'_>) -> Result<()> {
        let blocks = head.encode();
        self.bytes(&blocks)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(|error| Error::io("write the archive", error))
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        std::io::copy(&mut std::io::repeat(0).take(count), &mut self.output)
            .map(drop)
            .map_err(|error| Error::io("write the archive", error))
    }
}

/// What a thing's own state says of its header.
fn head(stat: &Stat) -> Head<'static> {
    let is_device = matches!(FileType::from_raw_mode(stat.st_mode), FileType::CharacterDevice | FileType::BlockDevice);
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    Head {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        // A Stat's nanoseconds are always below a thousand million.
        mtime: Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() },
        device: if is_device { device } else { (0, 0) },
        ..Head::default()
    }
}

/// The attributes that an archive carries, which are those that it may set, by name.
fn attributes(entry: &Entry) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut attributes = Vec::new();
    for (name, value) in entry.xattrs()? {
        let name = name.as_bytes();
        // In the archive it would end there, and be another attribute.
        if name.contains(&b'=') && may_be_set(name) {
            let name = String::from_utf8_lossy(name).escape_debug().to_string();
            let why = "has a = in its name, which a layer cannot hold: remove it with setfattr -x";
            return Err(Error::invalid(format!("extended attribute {name} {why}")));
        }
        match name {
            b"security.capability" => attributes.push((name.to_vec(), plain_capability(&value))),
            name if may_be_set(name) => attributes.push((name.to_vec(), value)),
            _ => {}
        }
    }
    attributes.sort();
    Ok(attributes)
}

fn is_opaque(entry: &Entry) -> Result<bool> {
    Ok(entry.xattrs()?.iter().any(|(name, value)| name == OPAQUE && value == b"y"))
}

/// Refuses a file whose name would mean something else in a layer.
fn check_name(path: &Path) -> Result<()> {
    match path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT)) {
        true => Err(Error::invalid("in a layer a name that begins with .wh. means a removed file: rename this one")),
        false => Ok(()),
    }
}

/// The digest of a layer that changes nothing.
pub fn empty_layer() -> Digest {
    Digest::parse(EMPTY_LAYER).expect("the constant is a digest")
}
