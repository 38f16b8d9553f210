//! After opening: what an earlier process left half-made goes, what the database lost is taken up again from the disk.
//! What holds data is never deleted here: it goes to the quarantine, or stays and is reported.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use brig_oci::{Digest, Document, ImageConfig};
use rustix::fs::{AtFlags, FileType};

use crate::catalog::{ImageRecord, LayerInfo};
use crate::collect;
use crate::digest;
use crate::durable;
use crate::error::{Error, Result};
use crate::layer::info;
use crate::lock;
use crate::packed::{self, Form};
use crate::partial::Partial;
use crate::quarantine::Quarantine;
use crate::repositories::{Repositories, UPLOAD, found};
use crate::store::{Inner, Store};
use crate::trash;

/// Moves whatever stands where one of the store's own directories or files belongs out of the way.
pub(crate) fn clear_the_way(root: &Path, quarantine: &Quarantine) -> Result<()> {
    let directories = [
        "blobs",
        "blobs/sha256",
        "blobs/sha512",
        "ingest",
        "layers",
        "active",
        "packed",
        "partial",
        "trash",
        "containers",
        "volumes",
    ];
    let files = [
        "reserve",
        "brig.db-wal",
        "brig.db-shm",
        "brig.db.copy",
        "brig.db.copy.new",
        "rescue",
        "rescue.new",
        "rescue.db",
    ];
    let wrong = |name: &str, is_right: fn(&std::fs::Metadata) -> bool| {
        let path = root.join(name);
        // Links are followed: an administrator may have put a directory on another disk.
        path.symlink_metadata().is_ok() && !path.metadata().is_ok_and(|metadata| is_right(&metadata))
    };
    let wrong_directories = directories.into_iter().filter(|name| wrong(name, std::fs::Metadata::is_dir));
    let wrong_files = files.into_iter().filter(|name| wrong(name, std::fs::Metadata::is_file));
    for name in wrong_directories.chain(wrong_files) {
        let moved = quarantine.take_path(&root.join(name), "stray")?;
        if let Some(moved) = moved {
            tracing::error!(
                "{} was in the store's way and was moved to {}",
                root.join(name).display(),
                moved.display()
            );
        }
    }
    Ok(())
}

/// The same for the lock, which comes before everything else.
pub(crate) fn clear_lock(root: &Path) -> Result<()> {
    if root.join(lock::NAME).is_dir() {
        drop(Quarantine::new(root).take_path(&root.join(lock::NAME), "stray")?);
    }
    Ok(())
}

/// Removes what was not finished, and reports or takes up what is not as the database says.
pub(crate) fn sweep(store: &Store) -> Result<()> {
    let Inner { root, dirs, trash, .. } = &*store.inner;
    for name in trash::names(dirs.ingest.as_fd(), &root.join("ingest"))? {
        trash.take(dirs.ingest.as_fd(), &name).map(drop).unwrap_or_else(left);
    }
    uploads(store)?;
    layers(store)?;
    if store.inner.database.rescued().is_some() {
        forget_what_is_gone(store)?;
        images(store)?;
        found::take_up(store)?;
    }
    writable_layers(store)
}

/// What cannot be moved, for whatever reason of the file system's, keeps nothing from opening.
fn left(error: Error) {
    tracing::error!("what an earlier process left stays for now: {error}");
}

/// Uploads to a registry are forgotten before their bytes go; without its id nobody can go on with one.
fn uploads(store: &Store) -> Result<()> {
    let known = Repositories::of(store).uploads();
    for info in store.partials().list()? {
        let Some(id) = info.name.strip_prefix(UPLOAD) else { continue };
        if known.find(id)?.is_none() {
            store.partials().open(&info.name).and_then(Partial::discard).unwrap_or_else(|error| {
                tracing::warn!("an upload that nobody knows of any more stays: {error}");
            });
        }
    }
    Ok(())
}

/// A directory without a row was published by somebody whose row is lost, or was about to be removed: its own info says what
/// it is, and a collection decides.
fn layers(store: &Store) -> Result<()> {
    let Inner { root, dirs, .. } = &*store.inner;
    let (mut found, mut lost) = (0, Vec::new());
    for name in trash::names(dirs.layers.as_fd(), &root.join("layers"))? {
        let known = name.to_str().and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok());
        let row = known.as_ref().and_then(|chain| store.catalog().layers.get(chain).cloned());
        match (row, name.to_str().and_then(|name| info::read(dirs.layers.as_fd(), name))) {
            (Some(row), None) => {
                found += 1;
                // From before there were such files. Without one the layer only cannot be taken up again.
                if let Ok(dir) = durable::open_directory(&root.join("layers").join(&name)) {
                    info::write(dir.as_fd(), &row).unwrap_or_else(|error| tracing::warn!("layer {row:?}: {error}"));
                }
            }
            (Some(_), Some(_)) => found += 1,
            (None, Some(info)) => lost.push(info),
            (None, None) => tracing::warn!(
                "{} is not a layer of this store: it is left alone, 'brig system check --repair' moves it away",
                root.join("layers").join(name).display()
            ),
        }
    }
    let known = store.catalog().layers.len();
    if found < known {
        tracing::error!(
            "{} layers are damaged, their directories are gone: 'brig system check' tells what to pull again",
            known - found
        );
    }
    adopt(store, lost)
}

/// Records layers that are on the disk.
pub(crate) fn adopt(store: &Store, layers: Vec<LayerInfo>) -> Result<()> {
    if layers.is_empty() {
        return Ok(());
    }
    store.inner.database.write(|db| layers.iter().try_for_each(|layer| crate::layer::record(db, layer)))?;
    let mut catalog = store.catalog_mut();
    for layer in layers {
        tracing::info!("layer {} is on the disk and was taken up again", layer.chain_id);
        catalog.layers.insert(layer.chain_id.clone(), layer);
    }
    Ok(())
}

/// The rows that were saved may be old: what they tell of and is not on the disk is no more.
fn forget_what_is_gone(store: &Store) -> Result<()> {
    let catalog = store.catalog();
    let is_there =
        |chain: &Digest| rustix::fs::statat(&store.inner.dirs.layers, chain.hex(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
    let layers: Vec<Digest> = catalog.layers.keys().filter(|chain| !is_there(chain)).cloned().collect();
    let images: Vec<Digest> = catalog.images.keys().filter(|id| store.blob_size(id).is_none()).cloned().collect();
    let tags: Vec<String> =
        catalog.tags.values().filter(|tag| images.contains(&tag.image)).map(|tag| tag.name.clone()).collect();
    drop(catalog);
    store.inner.database.write(|db| {
        for chain in &layers {
            db.execute("DELETE FROM store_layers WHERE chain_id = ?1", [chain.as_str()])?;
        }
        for id in &images {
            db.execute("DELETE FROM store_images WHERE id = ?1", [id.as_str()])?;
        }
        tags.iter().try_for_each(|name| db.execute("DELETE FROM store_tags WHERE name = ?1", [name]).map(drop))
    })?;
    let mut catalog = store.catalog_mut();
    layers.iter().for_each(|chain| drop(catalog.layers.remove(chain)));
    images.iter().for_each(|id| drop(catalog.images.remove(id)));
    tags.iter().for_each(|name| drop(catalog.tags.remove(name)));
    Ok(())
}

/// Every configuration whose layers are all here is an image again; what it was called only the database knew. What its
/// manifests call its layers says which compressed forms are theirs.
fn images(store: &Store) -> Result<()> {
    let (mut configs, mut manifests) = (HashMap::new(), Vec::new());
    collect::each_blob(store, &mut |_, digest, _| {
        let Ok(bytes) = store.read_blob(&digest) else { return Ok(()) };
        if let Ok(Document::Manifest(manifest)) = Document::parse(&bytes, None) {
            manifests.push((manifest, digest));
        } else if let Ok(config) = ImageConfig::parse(&bytes)
            && digest::top_chain_id(&config.rootfs.diff_ids).is_some_and(|chain| store.is_whole(&chain))
        {
            configs.insert(digest, config.rootfs.diff_ids);
        }
        Ok(())
    })?;
    for id in configs.keys().filter(|id| store.image(id).is_none()) {
        let manifest = manifests.iter().find(|(manifest, _)| manifest.config.digest == *id);
        match store.put_image(ImageRecord::new(id.clone(), manifest.map(|(_, digest)| digest.clone()))) {
            Ok(_) => tracing::warn!("image {id} is on the disk and was taken up again, without its names"),
            Err(error) => tracing::warn!("image {id} could not be taken up again: {error}"),
        }
    }
    for (manifest, _) in manifests {
        let Some(diff_ids) = configs.get(&manifest.config.digest) else { continue };
        for (layer, diff_id) in manifest.layers.into_iter().zip(diff_ids) {
            let (media_type, size_bytes) = (layer.media_type, layer.size);
            let (digest, diff_id) = (layer.digest, diff_id.clone());
            packed::adopt(store, Form { digest, diff_id, media_type, size_bytes, has_recipe: false })?;
        }
    }
    Ok(())
}

/// A writable layer without a row: its row was lost, for a removal takes the directory first.
fn writable_layers(store: &Store) -> Result<()> {
    let Inner { root, dirs, .. } = &*store.inner;
    for name in trash::names(dirs.active.as_fd(), &root.join("active"))? {
        if !name.to_str().is_some_and(|name| store.catalog().active.contains_key(name)) {
            unknown_writable_layer(store, &name).unwrap_or_else(left);
        }
    }
    Ok(())
}

/// One in which nothing was written goes, any other is somebody's data.
fn unknown_writable_layer(store: &Store, name: &OsStr) -> Result<()> {
    let Inner { root, dirs, trash, quarantine, .. } = &*store.inner;
    let path = root.join("active").join(name);
    let stat = rustix::fs::statat(&dirs.active, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| Error::io(format!("stat {}", path.display()), errno))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        tracing::warn!("{} is not a writable layer: it is left alone", path.display());
    } else if std::fs::read_dir(path.join("upper")).map_or(true, |mut entries| entries.next().is_none()) {
        trash.take(dirs.active.as_fd(), name)?;
    } else if let Some(moved) = quarantine.take(dirs.active.as_fd(), name, "active")? {
        tracing::error!(
            "the writable layer {} belongs to no container: it is kept as {}",
            path.display(),
            moved.display()
        );
    }
    Ok(())
}
