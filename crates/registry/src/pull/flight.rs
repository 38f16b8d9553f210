//! Owns layers on their way in: each is one task, shared by every pull that wants it in the same place, that unpacks a
//! blob while it is downloaded. It must not commit layers: what it makes is an unpacked, verified ingest that one of the
//! pulls takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use brig_oci::{Descriptor, Digest};
use brig_store::{LayerIngest, Packing, PartialReader, Store};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, watch};
use tokio::task::AbortHandle;

use super::download::{Download, Downloads};
use crate::client::Limits;
use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;

/// Where unpacking is; what followers see.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Waiting for bytes, or unpacking them.
    Working,
    /// Unpacked and verified; the ingest is in the slot.
    Ready,
    Failed(Error),
}

/// A layer as wanted by a pull.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) descriptor: Descriptor,
    pub(super) diff_id: Digest,
    pub(super) chain_id: Digest,
}

/// Two pulls share a flight if they want the same bytes for the same place in a stack.
type Key = (Digest, Digest);

/// Layers on their way in by what they become, and the downloads that they unpack.
#[derive(Default)]
pub(crate) struct Flights {
    flights: Mutex<HashMap<Key, Weak<Flight>>>,
    pub(super) downloads: Downloads,
}

/// One layer on its way in (or just arrived).
pub(crate) struct Flight {
    pub(super) download: Arc<Download>,
    pub(super) stage: watch::Receiver<Stage>,
    /// The unpacked layer, from `Ready` until a pull takes it.
    pub(super) slot: Arc<AsyncMutex<Option<LayerIngest>>>,
    task: AbortHandle,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Flight {
    /// Whether joining this one can still lead to a layer.
    fn is_useful(&self) -> bool {
        let ready = match &*self.stage.borrow() {
            Stage::Failed(_) => return false,
            Stage::Ready => true,
            _ => false,
        };
        // A locked slot is being committed; an empty one was, and then the store has the layer.
        !ready || self.slot.try_lock().map_or(true, |slot| slot.is_some())
    }
}

impl Flights {
    /// The flight of `wanted`, begun now unless it is running; and whether it was running.
    pub(super) fn join(
        &self,
        wanted: &Wanted,
        sources: &[Arc<Session>],
        store: &Store,
        limits: &Limits,
    ) -> (Arc<Flight>, bool) {
        let key = (wanted.descriptor.digest.clone(), wanted.chain_id.clone());
        let mut flights = self.flights.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade)
            && flight.is_useful()
        {
            return (flight, true);
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let download = self.downloads.join(&wanted.descriptor, sources, store, &limits.downloads);
        let (publish, stage) = watch::channel(Stage::Working);
        let slot = Arc::new(AsyncMutex::new(None));
        let work = Work { wanted: wanted.clone(), download: download.clone(), store: store.clone() };
        let work = run(work, limits.unpacking.clone(), publish, slot.clone());
        let flight = Arc::new(Flight { download, stage, slot, task: tokio::spawn(work).abort_handle() });
        flights.insert(key, Arc::downgrade(&flight));
        (flight, false)
    }
}

/// What one flight works with.
struct Work {
    wanted: Wanted,
    download: Arc<Download>,
    store: Store,
}

async fn run(
    work: Work,
    unpacking: Arc<Semaphore>,
    stage: watch::Sender<Stage>,
    slot: Arc<AsyncMutex<Option<LayerIngest>>>,
) {
    let last = match fetch(&work, &unpacking).await {
        Ok(ingest) => {
            *slot.lock().await = Some(ingest);
            Stage::Ready
        }
        Err(error) => Stage::Failed(error),
    };
    stage.send_replace(last);
}

async fn fetch(Work { wanted, download, store }: &Work, unpacking: &Semaphore) -> Result<LayerIngest> {
    let named = |mut ingest: LayerIngest| {
        ingest.came_as(&wanted.descriptor.digest);
        ingest
    };
    loop {
        // Once there is one the download is under way: who waits for a byte has its place, who has all bytes goes on.
        let mut reader = download.reader().await?;
        let _place = unpacking.acquire().await.expect("the client never closes its limit of unpacking");
        let generation = reader.generation();
        let (on, layer) = (store.clone(), wanted.clone());
        let work = move || {
            let unpacked = unpack(&on, &mut reader, &layer);
            Ok((unpacked, reader.is_broken()))
        };
        let (unpacked, is_broken) = super::blocking(work).await?;
        // Where the blob broke off the download has its own words for why.
        if let Err(error) = &unpacked
            && error.kind == ErrorKind::Storage
            && !is_broken
        {
            // Room on a full disk is worth more than a part of a blob.
            download.abandon();
            return unpacked;
        }
        // Content that cannot be unpacked is most often content that is not what was promised: find out before blaming it.
        if download.outcome(generation).await? {
            return unpacked.map(named);
        }
    }
}

/// Unpacks the blob as it arrives.
fn unpack(store: &Store, blob: &mut PartialReader, wanted: &Wanted) -> Result<LayerIngest> {
    let digest = &wanted.descriptor.digest;
    let mut ingest = store.begin_layer()?;
    let unpacked = ingest.unpack_input(blob, packing(&wanted.descriptor)).map_err(|error| {
        let mut error = Error::from(error);
        error.message = format!("layer {digest}: {}", error.message);
        error
    })?;
    if unpacked.diff_id != wanted.diff_id {
        let text = format!(
            "layer {digest}: its content has diff id {}, the image's config promises {}",
            unpacked.diff_id, wanted.diff_id
        );
        return Err(Error::mismatch(text));
    }
    Ok(ingest)
}

/// How a layer of this media type is packed, where that says so. Foreign layers were refused before.
fn packing(descriptor: &Descriptor) -> Option<Packing> {
    match descriptor.media_type.as_str() {
        kind if kind.ends_with("+gzip") || kind.ends_with(".gzip") => Some(Packing::Gzip),
        kind if kind.ends_with("+zstd") || kind.ends_with(".zstd") => Some(Packing::Zstd),
        _ => None,
    }
}
