//! Images as files: `docker save` archives, OCI image layouts in a tar, and the tar of a root file system.
//! Owns reading the outer archive in one pass, layers being unpacked as they come by, and writing it. Must not believe a
//! name: what a member is called only says where it is listed, its digest says what it is.

mod docker;
mod layout;
mod parts;
mod save;
mod spool;

use std::io::Read;

use brig_oci::{Descriptor, Digest, History, ImageConfig, Platform, Reference, RootFs};

use crate::catalog::ImageRecord;
use crate::decompress::decompress;
use crate::digest;
use crate::error::{Error, ErrorKind, Result};
use crate::layer::LayerIngest;
use crate::lease::Lease;
use crate::sources;
use crate::store::Store;
use parts::Parts;
pub use save::{Chosen, Listed, Saving, save};

/// How loading gets on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadEvent {
    /// A layer is being unpacked.
    Layer {
        /// 12 hex digits by which the archive knows it.
        id: String,
        /// Bytes read so far.
        current: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// One image that was loaded, once for each of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The canonical name it was given, if the archive has one.
    pub name: Option<String>,
    /// Its id.
    pub id: Digest,
}

/// Loads and names all images of an archive in the format of `docker save` or of an OCI layout, plain or packed with
/// gzip, zstd, xz or bzip2 as a whole. Of images for several platforms all are loaded, or those for `platforms` if there are any; the
/// name means the one for this machine. Every digest is verified.
/// Everything is checked before the first image is stored.
pub fn load(
    store: &Store,
    reader: impl Read,
    platforms: &[Platform],
    on_event: &mut dyn FnMut(LoadEvent),
) -> Result<Vec<Loaded>> {
    let lease = Lease::begin(store);
    let plain = match &store.inner.unpacker {
        Some(unpacker) => unpacker.decoded(reader)?,
        None => decompress(reader)?,
    };
    let mut parts = Parts::read(store, plain, on_event)?;
    let images = if parts.has("manifest.json") && !layout::has_several_platforms(&parts) {
        docker::images(store, &parts, platforms)?
    } else if parts.has("index.json") {
        layout::images(store, &parts, platforms)?
    } else {
        let hint = match parts.has("repositories") {
            true => ": it was made by a Docker older than 1.10, save it again with a current one",
            false => "; if it holds the files of a system, import it",
        };
        return Err(Error::invalid(format!(
            "not an image archive: it has neither manifest.json (docker save) nor index.json (OCI layout){hint}"
        )));
    };
    for image in &images {
        image.check(&mut parts)?;
    }
    let mut loaded = Vec::new();
    for image in images {
        loaded.extend(image.store(store, &lease, &mut parts)?);
    }
    Ok(loaded)
}

/// Makes an image of one layer from the tar of a root file system, plain or packed with gzip, zstd, xz or bzip2.
/// `config` describes it except for the layer; `name` is a canonical one.
pub fn import(store: &Store, reader: impl Read, mut config: ImageConfig, name: Option<&str>) -> Result<Digest> {
    let _lease = Lease::begin(store);
    let mut ingest = store.begin_layer()?;
    let unpacked = ingest.unpack_blob(reader, None)?;
    store.commit_layer(ingest, None)?;
    config.rootfs = RootFs { diff_ids: vec![unpacked.diff_id], ..RootFs::default() };
    config.history =
        vec![History { created: config.created.clone(), comment: config.comment.clone(), ..History::default() }];
    let bytes = serde_json::to_vec(&config).map_err(|error| Error::invalid(format!("image config: {error}")))?;
    let id = store.put_blob(&bytes)?;
    store.put_image(ImageRecord::new(id.clone(), None))?;
    if let Some(name) = name {
        store.tag(name, &id, None)?;
    }
    Ok(id)
}

/// One layer that an image lists: where it is in the archive and, if the image says so, what it is there.
struct ListedLayer {
    path: String,
    blob: Option<Descriptor>,
}

/// One image that was found whole and is about to be stored.
struct Planned {
    /// The configuration's bytes, verified as far as the archive promises anything about them.
    config: Vec<u8>,
    diff_ids: Vec<Digest>,
    /// From below, as many as diff ids.
    layers: Vec<ListedLayer>,
    /// The image's own manifest.
    manifest: Option<Digest>,
    /// What its names mean in the archive: the manifest, or the index that led to it.
    target: Option<Digest>,
    names: Vec<Reference>,
    /// It belongs to another one's name, for another platform.
    is_part: bool,
}

impl Planned {
    /// Checks that the configuration and the layers fit together and are all there.
    fn check(&self, parts: &mut Parts) -> Result<()> {
        if self.diff_ids.len() != self.layers.len() {
            let (promised, listed) = (self.diff_ids.len(), self.layers.len());
            return Err(Error::invalid(format!("the image config has {promised} layers, the manifest {listed}")));
        }
        let mut parent = None;
        for (diff_id, listed) in self.diff_ids.iter().zip(&self.layers) {
            let chain_id = digest::chain_id(parent.as_ref(), diff_id);
            parts.plan_layer(listed, diff_id, &chain_id)?;
            parent = Some(chain_id);
        }
        Ok(())
    }

    /// Commits the layers, makes the image, gives it its names. One without any is reported once, nameless.
    fn store(self, store: &Store, lease: &Lease, parts: &mut Parts) -> Result<Vec<Loaded>> {
        let (mut parent, mut below, mut missing) = (None, None, Vec::new());
        for (diff_id, listed) in self.diff_ids.iter().zip(&self.layers) {
            let chain_id = digest::chain_id(parent.as_ref(), diff_id);
            lease.hold(&chain_id);
            let blob = parts.blob_of(&listed.path)?;
            if !missing.is_empty() || !sources::serves(store, &chain_id, Some(&blob))? {
                missing.push(parts.take_layer(&listed.path)?);
            } else {
                below = Some(chain_id.clone());
            }
            if let Some(descriptor) = &listed.blob {
                parts.keep_packed(store, &listed.path, descriptor, diff_id);
            }
            parent = Some(chain_id);
        }
        LayerIngest::commit_all(missing, below.as_ref())?;
        let id = store.put_blob(&self.config)?;
        store.put_image(ImageRecord::new(id.clone(), self.manifest))?;
        if self.is_part {
            return Ok(Vec::new());
        }
        if self.names.is_empty() {
            return Ok(vec![Loaded { name: None, id }]);
        }
        let mut loaded = Vec::new();
        for name in self.names {
            let name = name.canonical();
            store.tag(&name, &id, self.target.as_ref())?;
            loaded.push(Loaded { name: Some(name), id: id.clone() });
        }
        Ok(loaded)
    }
}

/// The diff ids that a configuration promises.
fn diff_ids(config: &[u8]) -> Result<Vec<Digest>> {
    let config = ImageConfig::parse(config).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(config.rootfs.diff_ids)
}

fn mismatch(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Mismatch, text)
}
