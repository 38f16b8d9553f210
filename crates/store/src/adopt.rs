//! Images made of blobs that came in one by one: what was pushed to a registry over this store.
//! Owns that a layer is kept once, unpacked, and its blob as a form of it. Must not believe what a configuration says of a
//! layer: each blob that is new here is unpacked and hashed.

use std::io::Read;

use brig_oci::media_type::{self, Compression};
use brig_oci::{Descriptor, Digest, ImageConfig, Manifest};

use crate::catalog::ImageRecord;
use crate::decompress::Packing;
use crate::digest;
use crate::error::{Error, Result};
use crate::layer::LayerIngest;
use crate::lease::Lease;
use crate::packed::Packed;
use crate::store::Store;

/// Makes an image of a manifest whose blobs are all in the store; durable when this returns. `None` if it describes no image
/// that could run here: an artifact, another system's, one whose configuration does not fit its layers.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] and [`crate::ErrorKind::Mismatch`] if a layer is not what it should be. No image is made then.
pub fn adopt(store: &Store, digest: &Digest, manifest: &Manifest) -> Result<Option<ImageRecord>> {
    let Some(diff_ids) = diff_ids(store, manifest)? else { return Ok(None) };
    let lease = Lease::begin(store);
    let _urgent = Packed::of(store).pause();
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in &diff_ids {
        chains.push(digest::chain_id(chains.last(), diff_id));
    }
    chains.iter().for_each(|chain| lease.hold(chain));
    take_layers(store, &manifest.layers, &diff_ids, &chains)?;
    // Only now: what was begun for an image that then fails goes with the next collection.
    for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        Packed::of(store).keep_stored(&layer.digest, diff_id, &layer.media_type)?;
    }
    // An image's id is the SHA-256 of its configuration, whichever way the manifest names it.
    let id = store.put_blob(&store.read_blob(&manifest.config.digest)?)?;
    let image = store.put_image(ImageRecord::new(id, Some(digest.clone())))?;
    // That was durable, and so is everything before it.
    for layer in &manifest.layers {
        Packed::of(store).give_up_stored(&layer.digest)?;
    }
    drop(lease);
    Ok(Some(image))
}

/// The layers that an image of this manifest has, bottom first; `None` if it is no image.
fn diff_ids(store: &Store, manifest: &Manifest) -> Result<Option<Vec<Digest>>> {
    let is_layer = |layer: &Descriptor| media_type::layer_compression(&layer.media_type).is_some();
    if !media_type::is_image_config(&manifest.config.media_type)
        || manifest.artifact_type.is_some()
        || !manifest.layers.iter().all(is_layer)
    {
        return Ok(None);
    }
    // What is to be had elsewhere is not fetched from there.
    for layer in &manifest.layers {
        if store.blob_size(&layer.digest).is_none() && Packed::of(store).size(&layer.digest)?.is_none() {
            return Ok(None);
        }
    }
    let Ok(config) = ImageConfig::parse(&store.read_blob(&manifest.config.digest)?) else { return Ok(None) };
    let platform = config.platform().normalized();
    let diff_ids = config.rootfs.diff_ids;
    let fits = (platform.os.is_empty() || platform.os == "linux")
        && diff_ids.len() == manifest.layers.len()
        && diff_ids.iter().all(|diff_id| diff_id.algorithm() == "sha256");
    Ok(fits.then_some(diff_ids))
}

/// Sees to it that the layers are here, and that each blob is what it should be.
fn take_layers(store: &Store, layers: &[Descriptor], diff_ids: &[Digest], chains: &[Digest]) -> Result<()> {
    let (mut below, mut missing) = (None, Vec::new());
    for ((layer, diff_id), chain) in layers.iter().zip(diff_ids).zip(chains) {
        let is_known =
            Packed::of(store).diff_id_of(&layer.digest)?.as_ref() == Some(diff_id) || layer.digest == *diff_id;
        let is_here = missing.is_empty() && store.layer(chain).is_some();
        if !(is_here && is_known) {
            let ingest = unpack(store, layer, diff_id)?;
            if !is_here {
                missing.push(ingest);
            }
        }
        if is_here {
            below = Some(chain);
        }
    }
    LayerIngest::commit_all(missing, below).map(drop)
}

/// Unpacks a blob and compares what it is with what it should be.
fn unpack(store: &Store, layer: &Descriptor, diff_id: &Digest) -> Result<LayerIngest> {
    let named = |error: Error| error.context(format!("layer {}", layer.digest));
    let blob: Box<dyn Read> = match store.open_blob(&layer.digest) {
        Ok((file, _)) => Box::new(file),
        Err(error) if error.kind == crate::ErrorKind::NotFound => Box::new(Packed::of(store).blob(&layer.digest)?),
        Err(error) => return Err(error),
    };
    let packing = match media_type::layer_compression(&layer.media_type) {
        Some(Compression::Gzip) => Some(Packing::Gzip),
        Some(Compression::Zstd) => Some(Packing::Zstd),
        // As with a pull: what is called plain may be packed all the same.
        Some(Compression::Plain) | None => None,
    };
    let mut ingest = store.begin_layer()?;
    let unpacked = ingest.unpack_blob(blob, packing).map_err(named)?;
    if unpacked.diff_id != *diff_id {
        let text = format!("its content has diff id {}, the image's config promises {diff_id}", unpacked.diff_id);
        return Err(named(Error::new(crate::ErrorKind::Mismatch, text)));
    }
    Ok(ingest)
}
