//! Blobs that came in by themselves and turned out to be forms of layers: taken over from `blobs/`.
//! Owns that such a blob can be had at every moment of that, also after a power cut. Must not look into one.

use std::collections::HashSet;
use std::os::fd::AsFd;

use brig_oci::{Descriptor, Digest};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::tables::{self, Row, State};
use super::{BLOB, Packed};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::{durable, lease};

impl Packed<'_> {
    /// The length in bytes of a form that can be had with [`Packed::blob`].
    pub fn size(&self, digest: &Digest) -> Result<Option<u64>> {
        let store = self.store;
        let is_here = |diff_id: &Digest| !super::chains(&store.catalog(), diff_id).is_empty();
        match tables::find(&store.inner.database, digest)? {
            Some(row) if row.state != State::Recipe || is_here(&row.form.diff_id) => Ok(Some(row.form.size_bytes)),
            Some(_) => Ok(None),
            // A layer that was kept without its recipe cannot be had as a tar.
            None => Ok(super::tar(store, digest).ok().flatten().map(|(_, tar)| tar.size())),
        }
    }

    /// Which layer a form is of, if that was found out.
    pub fn diff_id_of(&self, digest: &Digest) -> Result<Option<Digest>> {
        Ok(tables::find(&self.store.inner.database, digest)?.map(|row| row.form.diff_id))
    }

    /// As [`Packed::keep`], of blobs that are in the store, each with the diff id of its layer: from now on they are forms as well.
    /// Whoever has made sure that all is durable gives each blob up with [`Packed::give_up_stored`]. Nothing happens to those that
    /// are not there, or are the layer's own tar. The disk is waited for once.
    pub fn keep_stored<'b>(&self, blobs: impl Iterator<Item = (&'b Descriptor, &'b Digest)>) -> Result<()> {
        let (store, files) = (self.store, &self.packer().files);
        let database = &store.inner.database;
        let mut rows: Vec<Row> = Vec::new();
        let blobs: Vec<_> = blobs.collect();
        blobs.iter().for_each(|(blob, _)| lease::arrives(store, &blob.digest));
        let _gate = store.gate();
        for (Descriptor { digest, media_type, .. }, diff_id) in blobs {
            let Some(size_bytes) = store.blob_size(digest) else { continue };
            let is_named = rows.iter().any(|row| row.form.digest == *digest);
            if digest == diff_id || is_named || tables::find(database, digest)?.is_some() {
                continue;
            }
            let name = format!("{}{BLOB}", digest.hex());
            // Without a row it is nobody's.
            files.remove(&name)?;
            rustix::fs::linkat(store.inner.blobs(digest), digest.hex(), &files.dir, &name, AtFlags::empty())
                .map_err(|errno| files.failed("link", &name, errno))?;
            rows.push(Row::waiting(digest, diff_id, media_type, size_bytes));
        }
        if rows.is_empty() {
            return Ok(());
        }
        durable::sync(files.dir.as_fd(), &files.path)?;
        rows.iter().try_for_each(|row| tables::insert(database, row))
    }

    /// Removes the blob of a form that can be had without it, and sees to it that a recipe is looked for.
    pub fn give_up_stored(&self, digest: &Digest) -> Result<()> {
        let store = self.store;
        let gate = store.gate();
        if self.size(digest)?.is_some() {
            match rustix::fs::unlinkat(store.inner.blobs(digest), digest.hex(), AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    return Err(Error::io(format!("remove {}", store.inner.blob_path(digest).display()), errno));
                }
            }
        }
        drop(gate);
        self.packer().worker.wake();
        Ok(())
    }
}

/// The layers without which some of these blobs could not be had any more.
pub(crate) fn layers_behind(store: &Store, blobs: &HashSet<Digest>) -> Result<Vec<Digest>> {
    if blobs.is_empty() {
        return Ok(Vec::new());
    }
    let rows = tables::all(&store.inner.database)?.into_iter();
    let forms: HashSet<Digest> =
        rows.filter(|row| blobs.contains(&row.form.digest)).map(|row| row.form.diff_id).collect();
    let catalog = store.catalog();
    let layers = catalog.layers.values();
    let behind = layers.filter(|layer| forms.contains(&layer.diff_id) || blobs.contains(&layer.diff_id));
    Ok(behind.map(|layer| layer.chain_id.clone()).collect())
}
