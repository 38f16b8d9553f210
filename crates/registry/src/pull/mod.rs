//! Owns pulling an image: find it, fetch what is missing, commit layers in order, record the image. Names are tagged by
//! the caller.

pub(crate) mod describe;
pub(crate) mod download;
pub(crate) mod event;
pub(crate) mod flight;
mod layers;
pub(crate) mod resolve;
mod source;

use std::sync::Arc;
use std::time::Duration;

use brig_oci::{Descriptor, Digest, Platform, Reference};
use brig_store::{Lease, Packed, Store};

use self::event::PullEvent;
use self::flight::Wanted;
use self::layers::Layers;
use self::resolve::{Around, Image};
pub(crate) use self::source::content_range;
use crate::client::Client;
use crate::config::Auth;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::chain_ids;
use crate::session::{Session, sessions};

/// Where progress goes.
type Progress<'a> = &'a (dyn Fn(PullEvent) + Send + Sync);

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image's id: the digest of its config.
    pub image_id: Digest,
    /// What the name pointed to: the digest of the manifest or, where there is one, of the index.
    pub manifest_digest: Digest,
    /// Nothing had to be fetched: the image was complete in the store.
    pub up_to_date: bool,
}

impl Client {
    /// Pulls the image that `reference` names into `store`, verified and durable when this returns. `auth` is for the
    /// registry that the reference names. Without a `platform` the image that suits this machine is chosen.
    ///
    /// Dropping the future ends its downloads (unless another pull shares them) and removes what they made.
    pub async fn pull(
        &self,
        store: &Store,
        reference: &Reference,
        auth: Option<&Auth>,
        platform: Option<&Platform>,
        progress: Progress<'_>,
    ) -> Result<Pulled> {
        let local = |digest: &Digest| -> Option<Vec<u8>> {
            // Small verified files; reading them here is shorter than a thread's start.
            if store.has_blob(digest) { store.read_blob(digest).ok() } else { None }
        };
        let tag = reference
            .tag()
            .map(str::to_owned)
            .or_else(|| reference.digest().map(|d| d.to_string()))
            .unwrap_or_default();
        let waiting =
            |wait: Duration| progress(PullEvent::Retrying { id: tag.clone(), in_seconds: whole_seconds(wait) });
        let around = Around { local: &local, waiting: &waiting };
        let (sources, image) = self.find(reference, auth, platform, around).await?;
        progress(PullEvent::Resolved { tag: tag.clone(), repository: reference.path().to_owned() });
        let (config_bytes, config) = resolve::config(&sources, &image, platform, around).await?;
        let chains = chain_ids(&config.rootfs.diff_ids);
        // A collection meanwhile must not take what this image is about to lead to.
        let lease = Lease::begin(store);
        let _urgent = Packed::of(store).pause();
        chains.iter().for_each(|chain| lease.hold(chain));
        let wanted = wanted(&image, &config.rootfs.diff_ids, &chains);
        let image_id = image.manifest.config.digest.clone();
        let known = store.image(&image_id).is_some();
        let pull = Layers { inner: &self.inner(), store, sources: &sources, progress, known };
        let fetched = pull.all(&wanted).await?;
        record(store, &image, config_bytes).await?;
        drop(lease);
        progress(PullEvent::Digest(image.top.clone()));
        Ok(Pulled { image_id, manifest_digest: image.top, up_to_date: known && !fetched })
    }

    /// The first endpoint that has the image, followed by those that may stand in for it.
    async fn find(
        &self,
        reference: &Reference,
        auth: Option<&Auth>,
        platform: Option<&Platform>,
        around: Around<'_>,
    ) -> Result<(Vec<Arc<Session>>, Image)> {
        let mut sessions: Vec<Arc<Session>> =
            sessions(&self.inner(), reference, auth)?.into_iter().map(Arc::new).collect();
        loop {
            let session = sessions.first().expect("the registry itself is always among the endpoints");
            match resolve::image(session, platform, around).await {
                Ok(image) => return Ok((sessions, image)),
                Err(failure) if sessions.len() == 1 => return Err(failure.error),
                Err(failure) => {
                    tracing::warn!("mirror {:?}: {}; trying the next", session.endpoint.origins, failure.error);
                    sessions.remove(0);
                }
            }
        }
    }
}

/// Gets a blob into the store that is no layer of an image, of any size, as it is.
pub(crate) async fn raw_blob(store: &Store, session: &Arc<Session>, descriptor: &Descriptor) -> Result<()> {
    if store.blob_size(&descriptor.digest) == Some(descriptor.size) {
        return Ok(());
    }
    let inner = &session.inner;
    let download =
        inner.flights.downloads.join(descriptor, std::slice::from_ref(session), store, &inner.limits.downloads);
    download.verified().await?;
    let (store, digest, size) = (store.clone(), descriptor.digest.clone(), descriptor.size);
    blocking(move || {
        match download.take() {
            Some(spooled) => drop(spooled.commit(&digest)?),
            // Another took it, to the same end or to keep it as a layer's form: how that ends is waited for.
            None => download::open(&store, &digest)?.abandon(),
        }
        match store.blob_size(&digest) {
            Some(there) if there == size => Ok(()),
            _ => Err(Error::new(ErrorKind::Storage, format!("blob {digest} was taken by another pull: pull again"))),
        }
    })
    .await
}

/// Stores the documents and the image's record, in that order: a record never points at nothing.
async fn record(store: &Store, image: &Image, config: Vec<u8>) -> Result<()> {
    let store = store.clone();
    let mut documents: Vec<(Digest, Vec<u8>)> =
        image.documents.iter().map(|d| (d.digest.clone(), d.bytes.clone())).collect();
    documents.push((image.manifest.config.digest.clone(), config));
    let (id, manifest) = (image.manifest.config.digest.clone(), image.manifest_digest.clone());
    blocking(move || {
        let documents: Vec<_> = documents.iter().map(|(digest, bytes)| (digest, bytes.as_slice())).collect();
        store.put_blobs(&documents)?;
        store.put_image(brig_store::ImageRecord::new(id, Some(manifest)))?;
        Ok(())
    })
    .await
}

/// The layers that an image is made of; the three lists are equally long.
fn wanted(image: &Image, diff_ids: &[Digest], chains: &[Digest]) -> Vec<Wanted> {
    let layers = image.manifest.layers.iter().zip(diff_ids).zip(chains);
    layers
        .map(|((descriptor, diff_id), chain_id)| Wanted {
            descriptor: descriptor.clone(),
            diff_id: diff_id.clone(),
            chain_id: chain_id.clone(),
        })
        .collect()
}

/// Runs store work where blocking is allowed. It runs to its end even if the caller goes away.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|e| Err(Error::new(ErrorKind::Storage, format!("the store's work stopped: {e}"))))
}

/// A wait as Docker counts it down: in whole seconds, the last one shown being 1.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs_f64().ceil() as u64
}
