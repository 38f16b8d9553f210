//! One layer on its way in: unpacked beside the others, completed from the layers below, published by rename.
//! Owns the order of those steps, and that a failure at any of them leaves nothing. Must not verify what the caller
//! expected: it tells the diff id of what was read.

pub(crate) mod below;
mod duplicate;
pub(crate) mod info;
mod input;
mod shape;
mod stream;

pub(crate) use duplicate::describe;
pub use input::{InFile, Input};
pub(crate) use stream::unpack_stream;

use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;

use brig_oci::Digest;
use brig_sys::beneath::Root;
use rustix::fs::Mode;

use crate::apply::{self, Applied, Content};
use crate::catalog::LayerInfo;
use crate::check::marks::{self, Damage};
use crate::decompress::{self, Packing};
use crate::digest;
use crate::durable;
use crate::error::{Error, Result};
use crate::recipe;
use crate::sources::{self, Source};
use crate::store::Store;
use input::Stream;

/// The longest uncompressed tar of one layer, in bytes.
pub const MAX_LAYER_SIZE: u64 = 128 << 30;

/// A layer that is being unpacked. Dropping it removes what was made.
pub struct LayerIngest {
    store: Store,
    name: String,
    /// The layer's own directory.
    dir: Root,
    /// Its files: `diff` in there.
    root: Root,
    state: State,
    /// The digest of the blob it comes from.
    blob: Option<Digest>,
}

enum State {
    Empty,
    Failed,
    Unpacked(Unpacked, Applied),
    /// Only to be looked at.
    Hollow(Applied),
    Published,
}

/// What unpacking a layer told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the uncompressed tar, to be compared with what the image's configuration promises.
    pub diff_id: Digest,
    /// The length of the uncompressed tar in bytes.
    pub size: u64,
    /// The sum of the sizes of its regular files in bytes.
    pub content_bytes: u64,
    /// How many members it has.
    pub entries: u64,
    /// How many of them have an owner or group above 65,535, which a container shows as nobody's.
    pub foreign_ids: u64,
    /// How many extended attributes were left out.
    pub ignored_xattrs: u64,
}

impl LayerIngest {
    pub(crate) fn begin(store: &Store) -> Result<LayerIngest> {
        let name = durable::unique_name()?;
        let dir = store.inner.dirs.ingest.as_fd();
        let path = store.inner.root.join("ingest").join(&name);
        let failed = |errno| Error::io(format!("mkdir {}", path.display()), errno);
        rustix::fs::mkdirat(dir, &*name, Mode::from_raw_mode(0o700)).map_err(failed)?;
        let diff = path.join(recipe::DIFF);
        let made = rustix::fs::mkdirat(dir, format!("{name}/diff"), Mode::from_raw_mode(0o755))
            .map_err(failed)
            .and_then(|()| {
                rustix::fs::chmodat(
                    dir,
                    format!("{name}/diff"),
                    Mode::from_raw_mode(0o755),
                    rustix::fs::AtFlags::empty(),
                )
                .map_err(failed)?;
                Ok((Root::open(&path)?, Root::open(&diff)?))
            });
        match made {
            Ok((dir, root)) => {
                Ok(LayerIngest { store: store.clone(), name, dir, root, state: State::Empty, blob: None })
            }
            Err(error) => {
                // The first error counts; what is left is swept at the next open.
                let _swept_later = store.inner.trash.take(dir, name.as_ref());
                Err(error)
            }
        }
    }

    /// Unpacks an uncompressed tar: [`LayerIngest::unpack_blob`].
    pub fn unpack(&mut self, reader: impl Read) -> Result<Unpacked> {
        self.unpack_blob(reader, Some(Packing::Plain))
    }

    /// Unpacks a layer as it is transported, hashing the tar on the way: in a confined process if the store was opened with
    /// one, else in this one. With `packing` the stream must be packed so, else its first bytes tell. Reads to the stream's
    /// end unless it fails. Once only for each ingest.
    pub fn unpack_blob(&mut self, reader: impl Read, packing: Option<Packing>) -> Result<Unpacked> {
        self.unpack_as(&mut Stream(reader), packing, Content::Written)
    }

    /// As [`LayerIngest::unpack_blob`], from what may lie in a file.
    pub fn unpack_input(&mut self, input: &mut dyn Input, packing: Option<Packing>) -> Result<Unpacked> {
        self.unpack_as(input, packing, Content::Written)
    }

    /// Says that what was unpacked had this digest as it came, which the caller has verified itself: whoever lists the same
    /// blob can share the layer. See `sources`.
    pub fn came_as(&mut self, blob: &Digest) {
        self.blob = Some(blob.clone());
    }

    /// Unpacks an uncompressed tar without the content of its files, and completes it from the layers below: what a layer is
    /// to look like. Not to be committed. Tells what came of it, with the directory of the layer and that of its files.
    pub(crate) fn unpack_hollow(&mut self, reader: impl Read) -> Result<(&Root, &Root, &Applied)> {
        self.unpack_as(&mut Stream(reader), Some(Packing::Plain), Content::LeftOut)?;
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Unpacked(_, applied) => self.state = State::Hollow(applied),
            state => self.state = state,
        }
        match &self.state {
            State::Hollow(applied) => Ok((&self.dir, &self.root, applied)),
            _ => Err(Error::invalid("the layer could not be unpacked again")),
        }
    }

    fn unpack_as(&mut self, input: &mut dyn Input, packing: Option<Packing>, content: Content) -> Result<Unpacked> {
        if !matches!(self.state, State::Empty) {
            return Err(Error::invalid("a layer can be unpacked only once"));
        }
        self.state = State::Failed;
        let outcome = match &self.store.inner.unpacker {
            Some(unpacker) => unpacker.unpack(&self.dir, input, packing, content),
            None => decompress::decompress_as(input, packing)
                .and_then(|plain| unpack_stream(&self.dir, &self.root, plain, content, &|| {})),
        };
        self.finish(outcome)
    }

    /// Believes of what unpacking tells only what holds.
    fn finish(&mut self, outcome: Result<(Digest, u64, Applied)>) -> Result<Unpacked> {
        let path = self.store.inner.root.join("ingest");
        let (diff_id, size, mut applied) = outcome.map_err(|error| match error.kind {
            crate::ErrorKind::NoSpace => error.context(format!("no space left in {}", path.display())),
            _ => error,
        })?;
        if applied.size != size {
            return Err(Error::invalid(format!("{} of {size} bytes of a layer were unpacked", applied.size)));
        }
        shape::check(&self.dir, &self.root)?;
        applied.ignored_xattrs += apply::settle(&self.dir, &self.root, &std::mem::take(&mut applied.later))?;
        let unpacked = Unpacked {
            diff_id,
            size,
            content_bytes: applied.content_bytes,
            entries: applied.entries,
            foreign_ids: applied.foreign_ids,
            ignored_xattrs: applied.ignored_xattrs,
        };
        self.state = State::Unpacked(unpacked.clone(), applied);
        Ok(unpacked)
    }
}

#[doc(hidden)]
impl LayerIngest {
    /// For the fuzz targets: unpacks a plain tar here, then goes on as if a process that was taken over had said something
    /// else of it: a summary and lists as they come over the channel. `say` is given where the layer's files are.
    pub fn unpack_telling(
        &mut self,
        tar: &[u8],
        say: impl FnOnce(&std::path::Path) -> (Vec<u8>, Vec<u8>),
    ) -> Result<Unpacked> {
        self.state = State::Failed;
        unpack_stream(&self.dir, &self.root, tar, Content::Written, &|| {})?;
        let files = self.store.inner.root.join("ingest").join(&self.name).join(recipe::DIFF);
        let (summary, lists) = say(&files);
        self.finish(crate::unpacker::believe(&summary, &lists))
    }
}

impl LayerIngest {
    /// A second, independent copy of an unpacked layer, to be committed on other layers than this one.
    pub fn duplicate(&self) -> Result<LayerIngest> {
        let State::Unpacked(unpacked, applied) = &self.state else {
            return Err(Error::invalid("only a layer that was unpacked whole can be copied"));
        };
        let mut copy = LayerIngest::begin(&self.store)?;
        let applied = duplicate::copy(&self.root, &copy.root, applied)?;
        duplicate::recipe(&self.dir, &copy.dir)?;
        copy.state = State::Unpacked(unpacked.clone(), applied);
        copy.blob.clone_from(&self.blob);
        Ok(copy)
    }
}

impl LayerIngest {
    /// Makes unpacked layers of one store part of it, each on top of the one before it and the first on top of `parent`:
    /// durable when this returns, all of them or none. The disk is waited for once. Those that are already here are dropped, after
    /// what is here was compared with its archive if it came of another blob.
    pub fn commit_all(ingests: Vec<LayerIngest>, parent: Option<&Digest>) -> Result<Vec<LayerInfo>> {
        match ingests.first().map(|ingest| ingest.store.clone()) {
            Some(store) => commit(&store, ingests, parent),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for LayerIngest {
    fn drop(&mut self) {
        if matches!(self.state, State::Published) {
            return;
        }
        let taken = self.store.inner.trash.take(self.store.inner.dirs.ingest.as_fd(), self.name.as_ref());
        if let Err(error) = taken {
            tracing::warn!("an unfinished layer is left until the next start: {error}");
        }
    }
}

/// See [`LayerIngest::commit_all`].
fn commit(store: &Store, mut ingests: Vec<LayerIngest>, parent: Option<&Digest>) -> Result<Vec<LayerInfo>> {
    loop {
        let (infos, mut brought) = complete(store, &mut ingests, parent)?;
        if brought.is_empty() {
            return Ok(infos);
        }
        rustix::fs::syncfs(&store.inner.dirs.ingest).map_err(|errno| Error::io("syncfs", errno))?;
        if publish(store, &mut brought)? {
            return Ok(infos);
        }
    }
}

/// A layer that is not here yet.
type Brought<'a> = (&'a mut LayerIngest, LayerInfo);

/// Finds out which of the layers are here already, and completes the others from those below.
fn complete<'a>(
    store: &Store,
    ingests: &'a mut [LayerIngest],
    parent: Option<&Digest>,
) -> Result<(Vec<LayerInfo>, Vec<Brought<'a>>)> {
    let mut infos: Vec<LayerInfo> = Vec::with_capacity(ingests.len());
    let mut brought: Vec<Brought<'a>> = Vec::new();
    // Where the files of the layers below are, the nearest first: those that come along are still in their ingests.
    let mut below: Vec<PathBuf> = Vec::new();
    for ingest in ingests {
        let State::Unpacked(unpacked, applied) = &ingest.state else {
            return Err(Error::invalid("only a layer that was unpacked whole can be committed"));
        };
        let parent = infos.last().map(|info| &info.chain_id).or(parent);
        let chain_id = digest::chain_id(parent, &unpacked.diff_id);
        if let Some(existing) = existing(store, &chain_id, ingest.blob.as_ref(), brought.is_empty())? {
            below.insert(0, store.inner.root.join("layers").join(chain_id.hex()).join(recipe::DIFF));
            infos.push(existing);
            continue;
        }
        if let Some(parent) = parent.filter(|_| brought.is_empty()) {
            if !store.is_whole(parent) {
                return Err(Error::not_found(format!("the layer below, {parent}, is not in the store")));
            }
            below = store.diff_paths(&store.catalog(), parent);
        }
        below::complete(&ingest.root, applied, &below)?;
        let info = LayerInfo {
            chain_id,
            diff_id: unpacked.diff_id.clone(),
            parent: parent.cloned(),
            size_bytes: unpacked.content_bytes,
            opaque: applied.opaque,
        };
        info::write(ingest.dir.as_fd(), &info)?;
        below.insert(0, store.inner.root.join("ingest").join(&ingest.name).join(recipe::DIFF));
        infos.push(info.clone());
        brought.push((ingest, info));
    }
    Ok((infos, brought))
}

/// The layer, if it is here already: then it has arrived as if it had been brought. One that came of another blob is looked
/// at first, and is out of use if it is not what it should be, or cannot be looked at as long as those below are on their way.
fn existing(store: &Store, chain: &Digest, blob: Option<&Digest>, can_look: bool) -> Result<Option<LayerInfo>> {
    if can_look {
        sources::serves(store, chain, blob)?;
    }
    let gate = store.gate();
    let Some(existing) = store.layer(chain) else { return Ok(None) };
    if sources::serves_already(store, chain, blob) {
        store.catalog_mut().arrived(chain);
        return Ok(Some(existing));
    }
    drop(gate);
    let why = "it could not be compared with its archive".to_owned();
    marks::mark(store, chain, Damage { why, usable: true })?;
    Ok(None)
}

/// The steps that make them visible: directories in place and synced, then the rows, all in one. From below; on an error
/// none of them is there, nor if one has meanwhile come of another blob, which is to be looked at: then tells `false`.
fn publish(store: &Store, brought: &mut [Brought<'_>]) -> Result<bool> {
    let _gate = store.gate();
    let dirs = &store.inner.dirs;
    let is_here = |info: &LayerInfo| store.layer(&info.chain_id).is_some();
    let has_raced = |(ingest, info): &Brought<'_>| {
        is_here(info) && !sources::serves_already(store, &info.chain_id, ingest.blob.as_ref())
    };
    if brought.iter().any(has_raced) {
        return Ok(false);
    }
    let mut moved: Vec<(LayerInfo, Source)> = Vec::with_capacity(brought.len());
    let outcome = brought.iter_mut().try_for_each(|(ingest, info)| {
        if is_here(info) {
            return Ok(());
        }
        // The layer below was here when this one was completed from it; a collection may have come between.
        let comes_along = |parent: &Digest| moved.last().is_some_and(|(below, _)| below.chain_id == *parent);
        if info.parent.as_ref().is_some_and(|parent| !comes_along(parent) && !store.is_whole(parent)) {
            return Err(Error::not_found("the layer below was removed meanwhile"));
        }
        let path = store.inner.root.join("layers").join(info.chain_id.hex());
        marks::make_way(store, &info.chain_id)?;
        let renamed = durable::rename_new(dirs.ingest.as_fd(), &ingest.name, dirs.layers.as_fd(), info.chain_id.hex())
            .map_err(|errno| Error::io(format!("rename to {}", path.display()), errno))?;
        if !renamed {
            return Err(Error::corrupt(format!("{} is in the way of a layer", path.display())));
        }
        ingest.state = State::Published;
        moved.push((info.clone(), Source::of(ingest.blob.as_ref(), &info.diff_id)));
        Ok(())
    });
    let recorded = outcome.and_then(|()| {
        durable::sync(dirs.layers.as_fd(), &store.inner.root.join("layers"))?;
        store.inner.database.write(|db| {
            moved.iter().try_for_each(|(info, source)| {
                db.execute("DELETE FROM store_damaged WHERE chain_id = ?1", [info.chain_id.as_str()])?;
                sources::record(db, &info.chain_id, source)?;
                record(db, info)
            })
        })
    });
    if let Err(error) = recorded {
        for (info, _) in moved.iter().rev() {
            store.inner.trash.take(dirs.layers.as_fd(), info.chain_id.hex().as_ref())?;
        }
        return Err(error);
    }
    let mut catalog = store.catalog_mut();
    for (_, info) in brought {
        catalog.arrived(&info.chain_id);
    }
    for (info, source) in moved {
        catalog.damaged.remove(&info.chain_id);
        catalog.sources.insert(info.chain_id.clone(), source);
        catalog.layers.insert(info.chain_id.clone(), info);
    }
    Ok(true)
}

/// Writes a layer's row.
pub(crate) fn record(db: &rusqlite::Transaction<'_>, info: &LayerInfo) -> rusqlite::Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO store_layers (chain_id, diff_id, parent, size_bytes, opaque) VALUES (?1, ?2, ?3, ?4, ?5)",
        (
            info.chain_id.as_str(),
            info.diff_id.as_str(),
            info.parent.as_ref().map(Digest::as_str),
            i64::try_from(info.size_bytes).unwrap_or(i64::MAX),
            info.opaque,
        ),
    )
    .map(drop)
}
