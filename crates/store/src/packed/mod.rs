//! The compressed forms in which layers came or went: what is needed to make each again, byte for byte.
//!
//! Owns the directory `packed/` and the table of what is in it: for each form a recipe (`<hex>`), or, until there is one or
//! where there is none, the blob itself (`<hex>.blob`). Must not keep a recipe that was not seen to work.
//!
//! A form is there as long as a layer with its diff id is; a blob also only as long as a manifest lists it. After a power
//! cut files may be older than their rows say: what is missing or does not have its digest counts as never kept.

mod blob;
mod retry;
mod sound;
mod stored;
mod tables;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How layers are compressed here.
pub use brig_deflate::Form as Compression;
use brig_oci::Digest;

pub use self::blob::LayerBlob;
pub(crate) use self::sound::{Unsound, lose, stray_names, unsound};
pub(crate) use self::stored::layers_behind;
use self::tables::{Row, State};
pub use self::worker::Pause;
use self::worker::Worker;
use crate::catalog::Catalog;
use crate::collect::Reclaimed;
use crate::database::Database;
use crate::durable;
use crate::error::{Error, Result};
use crate::lease;
use crate::partial::Partial;
use crate::recipe::LayerTar;
use crate::store::Store;
use crate::trash;

/// What follows the name of a blob that is kept whole.
const BLOB: &str = ".blob";
/// What follows the name of a recipe that is being written.
const NEW: &str = ".new";

/// The directory, and the thread that works in it.
pub(crate) struct Packer {
    files: Arc<Files>,
    worker: Worker,
}

/// The directory of forms.
pub(crate) struct Files {
    dir: OwnedFd,
    path: PathBuf,
    /// The directory of layers.
    layers: PathBuf,
}

/// One compressed form of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The digest of the compressed blob.
    pub digest: Digest,
    /// The layer that it is a form of.
    pub diff_id: Digest,
    /// What the manifest called it.
    pub media_type: String,
    /// The length of the compressed blob in bytes.
    pub size_bytes: u64,
    /// Whether there is a recipe; otherwise the blob is kept.
    pub has_recipe: bool,
}

/// The compressed forms of a store's layers.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    store: &'a Store,
}

impl Packer {
    /// Opens the directory, forgets what is not whole, and begins to work on what has no recipe yet.
    pub(crate) fn open(root: &Path, database: &Arc<Database>) -> Result<Packer> {
        tables::migrate(database)?;
        let path = root.join("packed");
        let files = Files { dir: durable::directory(&path)?, path, layers: root.join("layers") };
        files.sweep(database)?;
        let files = Arc::new(files);
        let worker = Worker::start(files.clone(), database.clone())?;
        Ok(Packer { files, worker })
    }
}

impl Packer {
    /// Tells the thread whose layers it reads, once everything is open.
    pub(crate) fn belongs_to(&self, store: &Store) {
        self.worker.belongs_to(store);
    }
}

impl Files {
    fn failed(&self, call: &str, name: &str, error: impl Into<std::io::Error>) -> Error {
        Error::io(format!("{call} {}", self.path.join(name).display()), error)
    }

    fn remove(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.dir, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.failed("remove", name, errno)),
        }
    }

    /// The length of a file in bytes, if there is one.
    fn size(&self, name: &str) -> Option<u64> {
        let stat = rustix::fs::statat(&self.dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        is_file.then(|| u64::try_from(stat.st_size).unwrap_or_default())
    }

    /// The store opens whatever lies in here.
    fn try_remove(&self, name: &str) {
        if let Err(error) = self.remove(name) {
            tracing::warn!("what is no form of a layer stays: {error}");
        }
    }

    /// Removes files without a row, and rows without a file.
    fn sweep(&self, database: &Database) -> Result<()> {
        let mut names: HashSet<String> = trash::names(self.dir.as_fd(), &self.path)?
            .into_iter()
            .filter_map(|name| name.into_string().ok())
            .collect();
        for row in tables::all(database)? {
            let hex = row.form.digest.hex();
            let has_recipe = names.remove(hex);
            let has_blob = names.remove(&format!("{hex}{BLOB}"));
            match (row.state, has_recipe, has_blob) {
                // A crash came between the recipe's record and the blob's end.
                (State::Recipe, true, true) => self.try_remove(&format!("{hex}{BLOB}")),
                (State::Recipe, true, false) | (State::Waiting | State::Blob, false, true) => {}
                (State::Waiting | State::Blob, true, true) => self.try_remove(hex),
                // The recipe is gone, but not what it was made for.
                (State::Recipe, false, true) => {
                    let form = Form { has_recipe: false, ..row.form };
                    tables::insert(database, &Row { form, state: State::Waiting })?;
                }
                _ => {
                    tracing::warn!("the compressed form {} of a layer is gone: a pull brings it back", row.form.digest);
                    tables::lose(database, &row.form.digest)?;
                }
            }
        }
        // Of a database that was lost the rows may be made again; see `adopt`.
        if database.rescued().is_none() {
            names.iter().filter(|name| is_form(name)).for_each(|name| self.try_remove(name));
        }
        Ok(())
    }
}

impl<'a> Packed<'a> {
    /// Of this store.
    pub fn of(store: &'a Store) -> Packed<'a> {
        Packed { store }
    }

    fn packer(&self) -> &'a Packer {
        &self.store.inner.packer
    }

    /// Takes over a blob from which a layer with `diff_id` was unpacked, whole and of this digest, so that it can be had again
    /// with [`Packed::blob`]. A recipe is looked for in the background; until there is one the blob itself stays. Nothing
    /// waits for the disk here: after a power cut the form may be gone, the layer is not.
    pub fn keep(&self, partial: Partial, digest: &Digest, diff_id: &Digest, media_type: &str) -> Result<()> {
        let database = &self.store.inner.database;
        lease::arrives(self.store, digest);
        // The layer's own tar is always there.
        if digest == diff_id || tables::find(database, digest)?.is_some() {
            return partial.discard();
        }
        let files = &self.packer().files;
        let name = format!("{}{BLOB}", digest.hex());
        // Nobody looks between the file and its row.
        let _gate = self.store.gate();
        let size_bytes = partial.move_to(files.dir.as_fd(), &name, &files.path)?;
        tables::insert(database, &Row::waiting(digest, diff_id, media_type, size_bytes))
            .inspect_err(|_| files.try_remove(&name))?;
        self.packer().worker.wake();
        Ok(())
    }

    /// A compressed form of a layer. Fails with [`crate::ErrorKind::NotFound`] if it was never here, or is gone.
    pub fn blob(&self, digest: &Digest) -> Result<LayerBlob> {
        blob::open(self.store, &self.packer().files, digest, true)
    }

    /// The forms in which this layer came or went.
    pub fn forms(&self, diff_id: &Digest) -> Result<Vec<Form>> {
        tables::of_layer(&self.store.inner.database, diff_id)
    }

    /// A layer's tar, compressed always to the same bytes.
    pub fn compress(&self, chain: &Digest, compression: Compression) -> Result<impl Read + Send + use<>> {
        Ok(brig_deflate::compress(self.store.layer_tar(chain)?, compression, blob::threads()))
    }

    /// Remembers what [`Packed::compress`] made, so that it can be had again by its digest. Keeps no copy.
    pub fn compressed(&self, form: &Form, compression: Compression) -> Result<()> {
        let (database, files) = (&self.store.inner.database, &self.packer().files);
        lease::arrives(self.store, &form.digest);
        if form.digest == form.diff_id || tables::find(database, &form.digest)?.is_some() {
            return Ok(());
        }
        let hex = form.digest.hex();
        let bytes = compression.recipe();
        let _gate = self.store.gate();
        durable::publish(files.dir.as_fd(), &format!("{hex}{NEW}"), files.dir.as_fd(), hex, &files.path, &bytes)?;
        let form = Form { has_recipe: true, ..form.clone() };
        tables::insert(database, &Row { form, state: State::Recipe }).inspect_err(|_| files.try_remove(hex))
    }

    /// What [`Packed::compress`] makes of this layer, if that is known.
    pub fn known(&self, diff_id: &Digest, compression: Compression) -> Result<Option<Form>> {
        let recipe = compression.recipe();
        for form in self.forms(diff_id)?.into_iter().filter(|form| form.has_recipe) {
            let Some(file) = self.packer().files.open(form.digest.hex())? else { continue };
            let mut bytes = Vec::new();
            let read = file.take(recipe.len() as u64 + 1).read_to_end(&mut bytes);
            if read.is_ok() && bytes == recipe {
                return Ok(Some(form));
            }
        }
        Ok(None)
    }

    /// Whether a form was here and is damaged or gone, so that only whoever has the blob can bring it back: with [`Packed::keep`].
    pub fn is_lost(&self, digest: &Digest) -> Result<bool> {
        sound::is_lost(self.store, digest)
    }

    /// Waits until everything that can have a recipe has one. For tests, and for whoever is to tell how much room is used.
    pub fn wait(&self) {
        self.packer().worker.wait();
    }

    /// Stops the work on recipes for as long as the result lives: something more urgent needs the disk and the processors.
    pub fn pause(&self) -> Pause {
        self.packer().worker.pause()
    }
}

/// Drops the forms of layers that are gone, and blobs that no manifest lists; part of a collection.
pub(crate) fn collect(store: &Store, live: &HashSet<Digest>, reclaimed: &mut Reclaimed) -> Result<()> {
    let layers: HashSet<Digest> = store.catalog().layers.values().map(|layer| layer.diff_id.clone()).collect();
    collect_from(store, &layers, live, reclaimed)
}

fn collect_from(
    store: &Store,
    layers: &HashSet<Digest>,
    live: &HashSet<Digest>,
    reclaimed: &mut Reclaimed,
) -> Result<()> {
    let database = &store.inner.database;
    let mut lost = tables::lost(database)?;
    lost.retain(|digest| !live.contains(digest));
    if !lost.is_empty() {
        tables::unlose(database, &lost)?;
    }
    let mut rows = tables::all(database)?;
    rows.retain(|row| {
        let is_wanted = live.contains(&row.form.digest);
        !(layers.contains(&row.form.diff_id) && (is_wanted || row.state == State::Recipe))
            // A pull that has not committed the layer yet.
            && !(is_wanted && row.state == State::Waiting)
    });
    if rows.is_empty() {
        return Ok(());
    }
    let dead: Vec<Digest> = rows.into_iter().map(|row| row.form.digest).collect();
    tables::delete(database, &dead)?;
    let files = &store.inner.packer.files;
    for digest in dead {
        for name in [digest.hex().to_owned(), format!("{}{BLOB}", digest.hex())] {
            let stat = rustix::fs::statat(&files.dir, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
            if let Ok(stat) = stat {
                store.inner.trash.remove_file(files.dir.as_fd(), &name)?;
                reclaimed.size_bytes += u64::try_from(stat.st_size).unwrap_or_default();
            }
        }
    }
    Ok(())
}

/// Whether a file of this name is one that is made here; another one is for a check to find.
pub(crate) fn is_form(name: &str) -> bool {
    let hex = name.strip_suffix(BLOB).or_else(|| name.strip_suffix(NEW)).unwrap_or(name);
    matches!(hex.len(), 64 | 128) && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Takes up again a form whose row was lost: a manifest says of which layer it is.
pub(crate) fn adopt(store: &Store, form: Form) -> Result<bool> {
    let (database, files) = (&store.inner.database, &store.inner.packer.files);
    if form.digest == form.diff_id || tables::find(database, &form.digest)?.is_some() {
        return Ok(false);
    }
    let has = |name: &str| files.size(name).is_some();
    let hex = form.digest.hex();
    let state = match (has(hex), files.size(&format!("{hex}{BLOB}"))) {
        (true, _) => State::Recipe,
        (false, Some(size)) if size == form.size_bytes => State::Waiting,
        (false, _) => return Ok(false),
    };
    tables::insert(database, &Row { form, state })?;
    store.inner.packer.worker.wake();
    Ok(true)
}

/// The tar of a layer with this diff id, whichever has one yet, and which that is; `None` if there is no such layer.
fn tar(store: &Store, diff_id: &Digest) -> Result<Option<(Digest, LayerTar)>> {
    let chains = chains(&store.catalog(), diff_id);
    let mut failed = None;
    for chain in chains {
        match store.layer_tar(&chain) {
            Ok(tar) => return Ok(Some((chain, tar))),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// The chain ids of the layers with this diff id.
fn chains(catalog: &Catalog, diff_id: &Digest) -> Vec<Digest> {
    catalog.layers.values().filter(|layer| layer.diff_id == *diff_id).map(|layer| layer.chain_id.clone()).collect()
}
