//! Owns pushing an image: what the registry already has stays, what another of its repositories has is mounted, the rest
//! is packed and sent, and the manifest comes last. It must not change the store other than by the manifest that it made.

mod event;
mod packed;
mod prepare;
pub(crate) mod send;
mod upload;

use std::collections::{BTreeMap, BTreeSet};

use brig_oci::{Descriptor, Digest, Document, ImageConfig, Manifest, Reference, media_type};
use brig_store::{Packed as Forms, Store};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Mutex, Semaphore};

pub use self::event::PushEvent;
use self::packed::Packed;
pub use self::prepare::prepare;
use self::upload::{Step, Upload};
use crate::client::Client;
use crate::config::Auth;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::chain_ids;
pub(crate) use crate::pull::blocking;
use crate::session::Session;

/// Other repositories that a token is asked for, to mount from.
const MOST_SOURCES: usize = 8;

/// Layers of at most so many bytes take one place of those for uploads, all others [`PLACES`]: what a registry does for each
/// blob takes longer than sending a small one.
const SMALL: u64 = 1 << 20;
const PLACES: usize = 3;

/// Where progress goes.
type Progress<'a> = &'a (dyn Fn(PushEvent) + Send + Sync);

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The digest of the manifest that the tag means now.
    pub digest: Digest,
    /// That manifest's length in bytes.
    pub size: u64,
}

impl Client {
    /// Pushes the image `id` to the repository and tag that `reference` names, without a tag under its digest. The manifest
    /// that the image came with is sent unchanged where every layer is there, or comes out, byte for byte as it says; else
    /// one is made and kept in the store: the caller holds a lease until a name leads to it. Does not tag.
    pub async fn push(
        &self,
        store: &Store,
        id: &Digest,
        reference: &Reference,
        auth: Option<&Auth>,
        progress: Progress<'_>,
    ) -> Result<Pushed> {
        let image = read(store, id, reference).await?;
        let _pin = store.pin(&image.chains);
        let _urgent = brig_store::Packed::of(store).pause();
        let endpoint = self.inner().config.registry(reference.domain()).map_err(Error::invalid)?;
        let sources: BTreeSet<&str> = image.elsewhere.values().map(String::as_str).take(MOST_SOURCES).collect();
        let session = Session::for_push(self.inner(), endpoint, reference.clone(), auth, &sources);
        let push = Push { store, session: &session, image: &image, progress };
        for diff_id in &image.diff_ids {
            progress(PushEvent::Preparing { id: short(diff_id) });
        }
        let config = send::blob(&session, &image.config_digest, image.config.clone());
        let (layers, ()) = tokio::try_join!(push.layers(), config)?;
        let (bytes, kind) = image.manifest(layers)?;
        send::manifest(&session, &bytes, &kind).await?;
        let (store, kept) = (store.clone(), bytes.clone());
        let digest = blocking(move || Ok(store.put_blob(&kept)?)).await?;
        Ok(Pushed { digest, size: bytes.len() as u64 })
    }
}

/// An image as it is here.
struct Image {
    config: Bytes,
    config_digest: Digest,
    diff_ids: Vec<Digest>,
    chains: Vec<Digest>,
    /// The manifest that it came with, and its bytes.
    original: Option<(Manifest, Vec<u8>)>,
    /// Blobs that other repositories of the same registry should have.
    elsewhere: BTreeMap<Digest, String>,
}

async fn read(store: &Store, id: &Digest, reference: &Reference) -> Result<Image> {
    let (store, id, reference) = (store.clone(), id.clone(), reference.clone());
    blocking(move || read_now(&store, &id, &reference)).await
}

fn read_now(store: &Store, id: &Digest, reference: &Reference) -> Result<Image> {
    let config = store.read_blob(id)?;
    let parsed = ImageConfig::parse(&config).map_err(|error| Error::new(ErrorKind::Storage, error.to_string()))?;
    let diff_ids = parsed.rootfs.diff_ids;
    let own = store.resolve(&reference.canonical()).filter(|tag| tag.image == *id).and_then(|tag| tag.manifest);
    let others = store.tags().into_iter().filter(|tag| tag.image == *id).filter_map(|tag| tag.manifest);
    let known = own.into_iter().chain(others).chain(store.image(id).and_then(|image| image.manifest));
    let original = known.into_iter().find_map(|digest| {
        let (manifest, bytes) = read_manifest(store, &digest)?;
        let fits = manifest.config.digest == *id && manifest.layers.len() == diff_ids.len();
        fits.then_some((manifest, bytes))
    });
    Ok(Image {
        chains: chain_ids(&diff_ids),
        config: config.into(),
        config_digest: id.clone(),
        diff_ids,
        original,
        elsewhere: elsewhere(store, reference),
    })
}

fn read_manifest(store: &Store, digest: &Digest) -> Option<(Manifest, Vec<u8>)> {
    let bytes = store.read_blob(digest).ok()?;
    match Document::parse(&bytes, None).ok()? {
        Document::Manifest(manifest) => Some((manifest, bytes)),
        Document::Index(_) => None,
    }
}

/// The blobs of images that came from, or went to, other repositories of the same registry.
fn elsewhere(store: &Store, reference: &Reference) -> BTreeMap<Digest, String> {
    let mut found = BTreeMap::new();
    for tag in store.tags() {
        let Ok(name) = Reference::parse(&tag.name) else { continue };
        if name.domain() != reference.domain() || name.path() == reference.path() {
            continue;
        }
        // What the tag means may be an index; the image has the manifest then.
        let image = store.image(&tag.image).and_then(|image| image.manifest);
        let manifests = tag.manifest.iter().chain(&image).filter(|_| tag.manifest.is_some());
        if let Some((manifest, _)) = manifests.into_iter().find_map(|digest| read_manifest(store, digest)) {
            let layers = manifest.layers.into_iter().map(|layer| layer.digest);
            found.extend(layers.map(|digest| (digest, name.path().to_owned())));
        }
    }
    found
}

impl Image {
    /// The manifest over these layers: the original's bytes if they are the original's, else a new one.
    fn manifest(&self, layers: Vec<Descriptor>) -> Result<(Vec<u8>, String)> {
        let made = match &self.original {
            Some((manifest, bytes)) if manifest.layers == layers => {
                return Ok((bytes.clone(), media_type_of(manifest).to_owned()));
            }
            Some((manifest, _)) => Manifest { layers, ..manifest.clone() },
            None => Manifest {
                schema_version: 2,
                media_type: media_type::OCI_MANIFEST.to_owned(),
                artifact_type: None,
                config: Descriptor::new(media_type::OCI_CONFIG, self.config_digest.clone(), self.config.len() as u64),
                layers,
                subject: None,
                annotations: BTreeMap::new(),
            },
        };
        let kind = media_type_of(&made).to_owned();
        let bytes = serde_json::to_vec(&made).map_err(|error| Error::invalid(format!("manifest: {error}")))?;
        Ok((bytes, kind))
    }
}

/// A manifest that does not say what it is is OCI's, which need not.
fn media_type_of(manifest: &Manifest) -> &str {
    match manifest.media_type.as_str() {
        "" => media_type::OCI_MANIFEST,
        kind => kind,
    }
}

/// One push under way.
struct Push<'a> {
    store: &'a Store,
    session: &'a Session,
    image: &'a Image,
    progress: Progress<'a>,
}

impl Push<'_> {
    /// Sees to it that the repository has all layers, several at once; tells as what.
    async fn layers(&self) -> Result<Vec<Descriptor>> {
        let at_once = self.session.inner.config.max_concurrent_uploads.clamp(1, 64);
        let places = if at_once == 1 { 1 } else { at_once * PLACES };
        let free = Semaphore::new(places);
        // A layer that an image has twice is sent once: the second waits, and finds it there.
        let turns: BTreeMap<&Digest, Mutex<()>> = self.image.diff_ids.iter().map(|id| (id, Mutex::default())).collect();
        let layer = async |nth: usize| {
            let original = self.image.original.as_ref().map(|(manifest, _)| &manifest.layers[nth]);
            let taken = if original.is_some_and(|layer| layer.size <= SMALL) { 1 } else { PLACES.min(places) };
            let _turn = turns[&self.image.diff_ids[nth]].lock().await;
            let _places = free.acquire_many(u32::try_from(taken).unwrap_or(1)).await;
            self.layer(nth).await
        };
        let layers = 0..self.image.diff_ids.len();
        stream::iter(layers.map(layer)).buffered(places).try_collect().await
    }

    /// Sees to it that the repository has the `nth` layer; tells as what.
    async fn layer(&self, nth: usize) -> Result<Descriptor> {
        let id = short(&self.image.diff_ids[nth]);
        let original = self.image.original.as_ref().map(|(manifest, _)| &manifest.layers[nth]);
        if let Some(original) = original
            && self.is_there(&id, &original.digest).await?
        {
            return Ok(original.clone());
        }
        if let Some(original) = original.filter(|original| is_foreign(original)) {
            (self.progress)(PushEvent::Skipped { id });
            return Ok(original.clone());
        }
        let like = original.map_or(media_type::OCI_LAYER_GZIP, |layer| layer.media_type.as_str()).to_owned();
        let (store, chain) = (self.store.clone(), self.image.chains[nth].clone());
        let (came_as, compression) = (original.cloned(), self.session.inner.config.compression);
        let pack = move || match came_as.and_then(|original| packed::original(&store, &original)) {
            Some(packed) => Ok(packed),
            None => packed::pack(&store, &chain, &like, compression),
        };
        let Packed { descriptor, content } = blocking(pack).await?;
        let same = original.filter(|original| original.digest == descriptor.digest);
        if same.is_none() && self.is_there(&id, &descriptor.digest).await? {
            return Ok(descriptor);
        }
        let (total, progress) = (descriptor.size, self.progress);
        progress(PushEvent::Pushing { id: id.clone(), current: 0, total });
        let step = |step| {
            progress(match step {
                Step::Sent(current) => PushEvent::Pushing { id: id.clone(), current, total },
                Step::Waiting(in_seconds) => PushEvent::Retrying { id: id.clone(), in_seconds },
            });
        };
        let upload = Upload { session: self.session, digest: &descriptor.digest, size: total, content: &content };
        upload.run(&step).await?;
        progress(PushEvent::Pushed { id });
        Ok(same.cloned().unwrap_or(descriptor))
    }

    /// Whether the repository has a blob, or got it from another one of the registry's.
    async fn is_there(&self, id: &str, digest: &Digest) -> Result<bool> {
        if upload::exists(self.session, digest).await? {
            (self.progress)(PushEvent::AlreadyExists { id: id.to_owned() });
            return Ok(true);
        }
        let Some(from) = self.image.elsewhere.get(digest) else { return Ok(false) };
        let mounted = upload::mount(self.session, digest, from).await?;
        if mounted {
            (self.progress)(PushEvent::Mounted { id: id.to_owned(), from: from.clone() });
        }
        Ok(mounted)
    }
}

/// A layer whose licence does not allow to pass it on, kept at a place of its maker's.
pub(crate) fn is_foreign(layer: &Descriptor) -> bool {
    let kind = &layer.media_type;
    !layer.urls.is_empty() && (kind.contains(".nondistributable.") || kind.contains(".foreign."))
}

/// What a layer goes by in progress.
fn short(diff_id: &Digest) -> String {
    diff_id.hex().chars().take(12).collect()
}
