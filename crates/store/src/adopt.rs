//! Images made of blobs that came in one by one: what was pushed to a registry over this store.
//! Owns that a layer is kept once, unpacked, and its blob as a form of it. Must not believe what a configuration says of a
//! layer: each blob that is new here is unpacked and hashed.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use brig_oci::media_type::{self, Compression};
use brig_oci::{Descriptor, Digest, ImageConfig, Manifest};

use crate::catalog::ImageRecord;
use crate::decompress::Packing;
use crate::digest;
use crate::error::{Error, Result};
use crate::layer::LayerIngest;
use crate::lease::Lease;
use crate::packed::Packed;
use crate::sources;
use crate::store::Store;

/// Held for as long as a layer is being unpacked: see [`adopt`].
pub type Place = Box<dyn Any + Send>;

/// The most layers of one image that are unpacked at once, however many places there are.
const HANDS: usize = 16;

/// Makes an image of a manifest whose blobs are all in the store; durable when this returns. `None` if it describes no image
/// that could run here: an artifact, another system's, one whose configuration does not fit its layers. As many layers are
/// unpacked at once as `place` gives places for, which waits where there is none.
///
/// # Errors
/// [`crate::ErrorKind::Invalid`] and [`crate::ErrorKind::Mismatch`] if a layer is not what it should be. No image is made then.
pub fn adopt(
    store: &Store,
    digest: &Digest,
    manifest: &Manifest,
    place: &(dyn Fn() -> Place + Sync),
) -> Result<Option<ImageRecord>> {
    let Some(diff_ids) = diff_ids(store, manifest)? else { return Ok(None) };
    let lease = Lease::begin(store);
    let _urgent = Packed::of(store).pause();
    let mut chains: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in &diff_ids {
        chains.push(digest::chain_id(chains.last(), diff_id));
    }
    chains.iter().for_each(|chain| lease.hold(chain));
    take_layers(store, &manifest.layers, &diff_ids, &chains, place)?;
    // Only now: what was begun for an image that then fails goes with the next collection.
    Packed::of(store).keep_stored(manifest.layers.iter().zip(&diff_ids))?;
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

/// A layer whose blob is to be unpacked.
struct Job<'a> {
    layer: &'a Descriptor,
    diff_id: &'a Digest,
    /// The layer is in its place already: the blob is only to be found out about.
    is_here: bool,
}

/// Sees to it that the layers are here, and that each blob is what it should be.
fn take_layers(
    store: &Store,
    layers: &[Descriptor],
    diff_ids: &[Digest],
    chains: &[Digest],
    place: &(dyn Fn() -> Place + Sync),
) -> Result<()> {
    let (mut below, mut is_whole, mut jobs) = (None, true, Vec::new());
    for ((layer, diff_id), chain) in layers.iter().zip(diff_ids).zip(chains) {
        let is_known =
            Packed::of(store).diff_id_of(&layer.digest)?.as_ref() == Some(diff_id) || layer.digest == *diff_id;
        is_whole = is_whole && sources::serves(store, chain, Some(&layer.digest))?;
        if is_whole {
            below = Some(chain);
        }
        if !(is_whole && is_known) {
            jobs.push(Job { layer, diff_id, is_here: is_whole });
        }
    }
    LayerIngest::commit_all(unpack_all(store, &jobs, place)?, below).map(drop)
}

/// Unpacks blobs side by side, and gives what is not here yet in their order. Fails with the lowest that cannot be unpacked of
/// those that were tried.
fn unpack_all(store: &Store, jobs: &[Job<'_>], place: &(dyn Fn() -> Place + Sync)) -> Result<Vec<LayerIngest>> {
    let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let done: Mutex<BTreeMap<usize, Result<LayerIngest>>> = Mutex::default();
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(nth) else { return };
            let _place = place();
            if has_failed.load(Ordering::Relaxed) {
                return;
            }
            let unpacked = unpack(store, job.layer, job.diff_id);
            has_failed.fetch_or(unpacked.is_err(), Ordering::Relaxed);
            if !job.is_here || unpacked.is_err() {
                done.lock().unwrap_or_else(PoisonError::into_inner).insert(nth, unpacked);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.len().min(HANDS) {
            // Where no thread is to be had there are fewer.
            if std::thread::Builder::new().name("unpack".into()).spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
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
    ingest.came_as(&layer.digest);
    Ok(ingest)
}
