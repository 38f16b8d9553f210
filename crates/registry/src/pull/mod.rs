//! Owns pulling an image: find it, fetch what is missing, commit layers in order, record the image. Names are tagged by
//! the caller.

pub(crate) mod describe;
pub(crate) mod download;
pub(crate) mod event;
pub(crate) mod flight;
pub(crate) mod resolve;
mod source;

use std::sync::Arc;
use std::time::Duration;

use brig_oci::{Descriptor, Digest, Platform, Reference};
use brig_store::{Lease, Packed, Store};
use futures_util::future::try_join_all;
use tokio::sync::watch;

use self::download::{Arrival, Download};
use self::event::PullEvent;
use self::flight::{Flight, Stage, Wanted};
use self::resolve::{Around, Image};
use crate::client::{Client, Inner};
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
    let download = inner.flights.downloads.join(descriptor, std::slice::from_ref(session), store, &inner.downloads);
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
        for (digest, bytes) in &documents {
            store.put_blob_as(digest, bytes)?;
        }
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

/// The layers of one pull.
struct Layers<'a> {
    inner: &'a Inner,
    store: &'a Store,
    sources: &'a [Arc<Session>],
    progress: Progress<'a>,
    /// The image is here already, so that of its layers there is nothing to tell.
    known: bool,
}

impl Layers<'_> {
    /// Gets all layers into the store, bottom first. Returns whether any had to be fetched.
    async fn all(&self, wanted: &[Wanted]) -> Result<bool> {
        let mut missing = Vec::new();
        for (nth, layer) in wanted.iter().enumerate() {
            let id = short(layer);
            if self.store.layer(&layer.chain_id).is_some() {
                if !self.known {
                    (self.progress)(PullEvent::AlreadyExists { id });
                }
            } else {
                (self.progress)(PullEvent::LayerQueued { id, size: layer.descriptor.size });
                missing.push(nth);
            }
        }
        // Layers that exist count as committed: a stack can only miss layers from some height on, or be shared in part.
        let (committed, watch_committed) = watch::channel(vec![false; wanted.len()]);
        committed.send_modify(|done| (0..wanted.len()).for_each(|n| done[n] = !missing.contains(&n)));
        // All downloads begin, in the order of the layers, before any is waited for.
        let followers: Vec<_> = missing
            .iter()
            .map(|&nth| {
                let flight = self.inner.flights.join(&wanted[nth], self.sources, self.store, &self.inner.downloads);
                let parent = nth.checked_sub(1).map(|below| &wanted[below].chain_id);
                self.follow(flight, nth, &wanted[nth], parent, &committed, watch_committed.clone())
            })
            .collect();
        try_join_all(followers).await?;
        Ok(!missing.is_empty())
    }

    /// Follows one layer's download until it is committed.
    async fn follow(
        &self,
        (mut flight, mut joined): (Arc<Flight>, bool),
        nth: usize,
        layer: &Wanted,
        parent: Option<&Digest>,
        committed: &watch::Sender<Vec<bool>>,
        mut watch_committed: watch::Receiver<Vec<bool>>,
    ) -> Result<()> {
        loop {
            let result = self.land(&flight, nth, layer, parent, &mut watch_committed).await;
            match result {
                Ok(()) => break,
                // Someone else's download failed, perhaps for want of their credentials: once, begin an own.
                Err(error) if joined => {
                    tracing::debug!("{}: a shared download failed: {error}; beginning anew", layer.descriptor.digest);
                    joined = false;
                    flight = self.inner.flights.join(layer, self.sources, self.store, &self.inner.downloads).0;
                }
                Err(error) => return Err(error),
            }
        }
        (self.progress)(PullEvent::PullComplete { id: short(layer) });
        committed.send_modify(|done| done[nth] = true);
        Ok(())
    }

    async fn land(
        &self,
        flight: &Flight,
        nth: usize,
        layer: &Wanted,
        parent: Option<&Digest>,
        committed: &mut watch::Receiver<Vec<bool>>,
    ) -> Result<()> {
        self.report_until_ready(flight, layer).await?;
        let all_below = committed.wait_for(|done| done[..nth].iter().all(|d| *d)).await;
        all_below.map_err(|_| Error::new(ErrorKind::Storage, "a layer below was not committed"))?;
        let mut slot = flight.slot.clone().lock_owned().await;
        let (store, chain, parent) = (self.store.clone(), layer.chain_id.clone(), parent.cloned());
        let (download, wanted) = (flight.download.clone(), layer.clone());
        // The slot stays locked in there: a pull that shares this download must not look while a commit is under way.
        blocking(move || {
            if store.layer(&chain).is_some() {
                slot.take();
                keep_packed(&store, &download, &wanted);
                return Ok(());
            }
            let lost = || Error::new(ErrorKind::Storage, "another pull of the same layer failed to commit it");
            let committed = store.commit_layer(slot.take().ok_or_else(lost)?, parent.as_ref())?;
            if committed.chain_id != chain {
                return Err(Error::mismatch(format!(
                    "layer chain mismatch: expected {chain}, got {}",
                    committed.chain_id
                )));
            }
            keep_packed(&store, &download, &wanted);
            Ok(())
        })
        .await
    }

    async fn report_until_ready(&self, flight: &Flight, layer: &Wanted) -> Result<()> {
        let (id, total) = (short(layer), layer.descriptor.size);
        let (mut arrival, mut stage) = (flight.download.arrival.clone(), flight.stage.clone());
        let (mut complete, mut arriving) = (false, true);
        loop {
            match arrival.borrow_and_update().clone() {
                Arrival::Waiting | Arrival::Failed(_) => {}
                Arrival::Downloading { current } => {
                    (self.progress)(PullEvent::Downloading { id: id.clone(), current, total })
                }
                Arrival::Retrying { seconds } => {
                    (self.progress)(PullEvent::Retrying { id: id.clone(), in_seconds: seconds })
                }
                Arrival::Verified => {
                    if !std::mem::replace(&mut complete, true) {
                        (self.progress)(PullEvent::DownloadComplete { id: id.clone() });
                        (self.progress)(PullEvent::Extracting { id: id.clone(), current: total, total });
                    }
                }
            }
            match stage.borrow_and_update().clone() {
                Stage::Working => {}
                Stage::Ready if complete => return Ok(()),
                // Its last word on the download has yet to be told.
                Stage::Ready => continue,
                Stage::Failed(error) => return Err(error),
            }
            tokio::select! {
                changed = arrival.changed(), if arriving => arriving = changed.is_ok(),
                changed = stage.changed() => {
                    // The task ends right after its last word, which is read above.
                    if changed.is_err() && matches!(&*stage.borrow(), Stage::Working) {
                        return Err(Error::new(ErrorKind::Storage, "a download ended without a result"));
                    }
                }
            }
        }
    }
}

/// A wait as Docker counts it down: in whole seconds, the last one shown being 1.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs_f64().ceil() as u64
}

/// What a layer goes by in progress: twelve digits of its digest.
fn short(layer: &Wanted) -> String {
    layer.descriptor.digest.hex().chars().take(12).collect()
}

/// The compressed blob stays, or what it can be made again from. The layer is here whether that works or not.
fn keep_packed(store: &Store, download: &Download, layer: &Wanted) {
    let Some(spooled) = download.take() else { return };
    let Descriptor { digest, media_type, .. } = &layer.descriptor;
    if let Err(error) = Packed::of(store).keep(spooled, digest, &layer.diff_id, media_type) {
        tracing::warn!("layer {digest} is here, but not its compressed form: {error}");
    }
}
