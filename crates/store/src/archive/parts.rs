//! The members of an image archive, read in one pass in whatever order they come: documents are kept in memory,
//! layers are unpacked at once, links are remembered. Must not know which format the archive has.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use brig_oci::{Descriptor, Digest};

use super::spool::{MAX_SPOOLED, Spool};
use super::{ListedLayer, LoadEvent, mismatch};
use crate::apply::clean;
use crate::decompress::{Packing, packing_of};
use crate::digest::{Hasher, HashingReader};
use crate::error::{Error, ErrorKind, Result};
use crate::layer::LayerIngest;
use crate::store::Store;
use crate::tar::{self, Archive, Kind, Member};

/// The largest document, in bytes.
const MAX_DOCUMENT: u64 = 16 * 1024 * 1024;
/// All documents together, in bytes.
const MAX_DOCUMENTS: u64 = 128 * 1024 * 1024;
/// The most members of an image archive: a few for each layer.
const MAX_MEMBERS: usize = 20_000;
/// The most layers of one archive; each takes a directory until it is committed.
const MAX_ARCHIVE_LAYERS: usize = 5_000;
/// Links of links that are followed.
const MAX_LINKS: usize = 8;
/// Bytes between two progress events.
const PROGRESS: u64 = 512 * 1024;

pub(super) struct Parts {
    parts: HashMap<String, Part>,
    /// Chain ids that a layer was planned for.
    planned: HashSet<Digest>,
}

enum Part {
    Document(Vec<u8>),
    Layer(Box<LayerPart>),
    /// What looked like a layer and could not be unpacked, or a link that leads nowhere: only a failure if an image lists it.
    Broken(Error),
    Link(String),
}

struct LayerPart {
    /// The digest of the member as it is in the archive.
    blob: Digest,
    diff_id: Digest,
    /// `None` once it was taken for the last time.
    ingest: Option<LayerIngest>,
    /// In how many more places it is needed.
    uses: usize,
    /// The member as it is in the archive, if it is packed.
    spool: Option<Spool>,
}

impl Parts {
    /// Reads the whole archive.
    pub(super) fn read(store: &Store, reader: impl Read, on_event: &mut dyn FnMut(LoadEvent)) -> Result<Parts> {
        let mut archive = Archive::new(reader);
        let mut parts = HashMap::new();
        let (mut documents, mut layers, mut members) = (0, 0, 0);
        loop {
            let next = archive.next_member();
            let next = next.map_err(|error| if members == 0 { error.context("no archive of images") } else { error });
            let Some(member) = next? else { break };
            members += 1;
            if members > MAX_MEMBERS {
                return Err(Error::invalid(format!("image archive of more than {MAX_MEMBERS} members")));
            }
            let described = |error: Error| error.context(member.name.escape_ascii());
            let name = path(&member.name).map_err(described)?;
            let part = match member.kind {
                // Only wrong if an image lists it.
                Kind::Symlink => beside(&name, &member.link).map_or_else(|e| Part::Broken(described(e)), Part::Link),
                Kind::HardLink => Part::Link(path(&member.link).map_err(described)?),
                Kind::File if member.segments.is_none() => {
                    let spools = layers < MAX_SPOOLED;
                    match file(store, &name, &member, &mut archive, spools, on_event).map_err(described)? {
                        Some(part) => part,
                        None => continue,
                    }
                }
                Kind::File => return Err(described(Error::invalid("a sparse file in an image archive"))),
                Kind::Directory | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => continue,
            };
            match &part {
                Part::Document(bytes) => documents += bytes.len() as u64,
                Part::Layer(_) => layers += 1,
                Part::Broken(_) | Part::Link(_) => {}
            }
            if documents > MAX_DOCUMENTS || layers > MAX_ARCHIVE_LAYERS {
                return Err(Error::invalid("image archive with too many documents or layers"));
            }
            parts.insert(name, part);
        }
        // A stream that is damaged after the archive's last member is damaged; its sender is heard out in any case.
        let read = |error: std::io::Error| Error::input("read the archive", &error);
        std::io::copy(&mut archive.into_inner(), &mut std::io::sink()).map_err(read)?;
        Ok(Parts { parts, planned: HashSet::new() })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.parts.contains_key(name)
    }

    /// A document's bytes, not verified.
    pub(super) fn document(&self, name: &str) -> Result<&[u8]> {
        match self.parts.get(self.follow(name)?) {
            Some(Part::Document(bytes)) => Ok(bytes),
            Some(Part::Broken(error)) => Err(error.clone()),
            Some(_) => Err(Error::invalid(format!("{name} in the archive is not a JSON document"))),
            None => Err(Error::invalid(format!("{name} is missing in the archive"))),
        }
    }

    /// The document with this digest and size, verified.
    pub(super) fn blob(&self, digest: &Digest, size: u64) -> Result<&[u8]> {
        let bytes = self.document(&blob_path(digest))?;
        if bytes.len() as u64 != size || !crate::digest::matches(digest, bytes) {
            return Err(mismatch(format!("blob {digest} in the archive is not what its name says")));
        }
        Ok(bytes)
    }

    /// Checks that a layer is in the archive, whole, and what the image says it is, and notes that it will be taken
    /// for this chain.
    pub(super) fn plan_layer(&mut self, listed: &ListedLayer, diff_id: &Digest, chain_id: &Digest) -> Result<()> {
        let path = &listed.path;
        let name = self.follow(path)?.to_owned();
        let layer = match self.parts.get_mut(&name) {
            Some(Part::Layer(layer)) => layer,
            Some(Part::Broken(error)) => return Err(error.clone().context(format!("layer {path}"))),
            Some(_) => return Err(Error::invalid(format!("{path} in the archive is not a layer"))),
            None => return Err(Error::invalid(format!("layer {path} is missing in the archive"))),
        };
        if layer.diff_id != *diff_id {
            let actual = &layer.diff_id;
            return Err(mismatch(format!("layer {path} has diff id {actual}, the image config promises {diff_id}")));
        }
        if let Some(listed) = &listed.blob
            && listed.digest != layer.blob
        {
            let promised = &listed.digest;
            return Err(mismatch(format!("layer {path} is {}, the manifest promises {promised}", layer.blob)));
        }
        if self.planned.insert(chain_id.clone()) {
            layer.uses += 1;
        }
        Ok(())
    }

    /// The digest of a layer that was planned, as it is in the archive.
    pub(super) fn blob_of(&self, path: &str) -> Result<Digest> {
        match self.parts.get(self.follow(path)?) {
            Some(Part::Layer(layer)) => Ok(layer.blob.clone()),
            _ => Err(Error::invalid(format!("layer {path} is not in the archive any more"))),
        }
    }

    /// A layer that was planned, to be committed. Where it is needed in several places all but the last get a copy.
    pub(super) fn take_layer(&mut self, path: &str) -> Result<LayerIngest> {
        let gone = || Error::invalid(format!("layer {path} is not in the archive any more"));
        let name = self.follow(path)?.to_owned();
        let Some(Part::Layer(layer)) = self.parts.get_mut(&name) else { return Err(gone()) };
        layer.uses = layer.uses.saturating_sub(1);
        match layer.uses {
            0 => layer.ingest.take().ok_or_else(gone),
            _ => layer.ingest.as_ref().ok_or_else(gone)?.duplicate(),
        }
    }

    /// Keeps a layer that was planned as it is in the archive, too, if it is packed: as the form that a manifest lists.
    pub(super) fn keep_packed(&mut self, store: &Store, path: &str, descriptor: &Descriptor, diff_id: &Digest) {
        let Ok(name) = self.follow(path).map(str::to_owned) else { return };
        if let Some(Part::Layer(layer)) = self.parts.get_mut(&name)
            && let Some(spool) = layer.spool.take()
        {
            spool.keep(store, descriptor, diff_id);
        }
    }

    /// Where a name leads through the archive's links.
    fn follow<'a>(&'a self, name: &'a str) -> Result<&'a str> {
        let mut name = name;
        for _ in 0..MAX_LINKS {
            match self.parts.get(name) {
                Some(Part::Link(target)) => name = target,
                _ => return Ok(name),
            }
        }
        Err(Error::invalid(format!("{name} in the archive is a link of links of links")))
    }
}

/// Where a layout keeps a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// Reads one regular file: a document, a layer, or neither.
fn file(
    store: &Store,
    name: &str,
    member: &Member,
    archive: &mut Archive<impl Read>,
    spools: bool,
    on_event: &mut dyn FnMut(LoadEvent),
) -> Result<Option<Part>> {
    let read = |error: std::io::Error| Error::input("read the archive", &error);
    let mut head = Vec::new();
    archive.by_ref().take(tar::BLOCK as u64).read_to_end(&mut head).map_err(read)?;
    if is_layer(&head) {
        let spool = (spools && matches!(packing_of(&head), Packing::Gzip | Packing::Zstd)).then(|| Spool::begin(store));
        return layer(store, name, member, (head, spool), archive, on_event).map(Some);
    }
    if !matches!(head.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return Ok(None);
    }
    if member.size > MAX_DOCUMENT {
        return Err(Error::invalid(format!("document of {} bytes: at most {MAX_DOCUMENT}", member.size)));
    }
    archive.read_to_end(&mut head).map_err(read)?;
    Ok(Some(Part::Document(head)))
}

/// Whether this is the start of a tar, or of something packed.
fn is_layer(head: &[u8]) -> bool {
    packing_of(head) != Packing::Plain
        || head.try_into().is_ok_and(|block: [u8; tar::BLOCK]| tar::is_header(&block) || block == [0; tar::BLOCK])
}

/// Unpacks a layer. What is wrong with it is kept for whoever lists it, what is wrong with this disk is not.
fn layer(
    store: &Store,
    name: &str,
    member: &Member,
    (head, mut spool): (Vec<u8>, Option<Spool>),
    archive: &mut Archive<impl Read>,
    on_event: &mut dyn FnMut(LoadEvent),
) -> Result<Part> {
    let mut events = Progress { id: short_id(name), current: 0, reported: 0, total: member.size, on_event };
    let body = Watched { inner: std::io::Cursor::new(head).chain(archive), events: &mut events };
    let body: Box<dyn Read + '_> = match &mut spool {
        Some(spool) => Box::new(spool.tee(body)),
        None => Box::new(body),
    };
    let mut body = HashingReader::new(body, Hasher::sha256());
    let mut ingest = store.begin_layer()?;
    let unpacked = ingest.unpack_blob(&mut body, None);
    // The digest is over the whole member, of which a decoder may leave the end.
    std::io::copy(&mut body, &mut std::io::sink()).map_err(|error| Error::input("read the archive", &error))?;
    let blob = body.finish();
    events.report();
    match unpacked {
        Ok(unpacked) => {
            ingest.came_as(&blob);
            let diff_id = unpacked.diff_id;
            Ok(Part::Layer(Box::new(LayerPart { blob, diff_id, ingest: Some(ingest), uses: 0, spool })))
        }
        Err(error) if error.kind == ErrorKind::Invalid => Ok(Part::Broken(error)),
        Err(error) => Err(error),
    }
}

struct Progress<'a> {
    id: String,
    current: u64,
    reported: u64,
    total: u64,
    on_event: &'a mut dyn FnMut(LoadEvent),
}

impl Progress<'_> {
    fn report(&mut self) {
        self.reported = self.current;
        (self.on_event)(LoadEvent::Layer { id: self.id.clone(), current: self.current, total: self.total });
    }
}

struct Watched<'a, 'b, R> {
    inner: R,
    events: &'a mut Progress<'b>,
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.events.current += length as u64;
        if self.events.current - self.events.reported >= PROGRESS {
            self.events.report();
        }
        Ok(length)
    }
}

/// The 12 characters by which people know a layer: of its blob's name, or of the directory that it is in.
fn short_id(name: &str) -> String {
    let base = match name.rsplit_once('/') {
        Some((directory, "layer.tar")) => directory,
        Some((_, base)) => base,
        None => name,
    };
    base.chars().take(12).collect()
}

/// A member's name as the archive's documents write it.
fn path(name: &[u8]) -> Result<String> {
    let path = clean(name)?;
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(Error::invalid("a name that is not UTF-8 in an image archive")),
    }
}

/// Where a link in the archive leads: relative to its directory, never out of the archive.
fn beside(name: &str, link: &[u8]) -> Result<String> {
    if link.starts_with(b"/") {
        return Err(Error::invalid("an absolute link in an image archive"));
    }
    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
    path(&[directory.as_bytes(), b"/", OsStr::from_bytes(link).as_bytes()].concat())
}
