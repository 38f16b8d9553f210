//! Owns running downloads: each is one task, shared by every pull that wants the layer, and ends with the last of them.
//! It must not commit layers: what it makes is an unpacked, verified ingest that one of the pulls takes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};

use brig_oci::{Descriptor, Digest};
use brig_store::{LayerIngest, Store};
use bytes::{Buf, Bytes};
use tokio::sync::{Mutex as AsyncMutex, Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use super::source::{LayerSource, Piece, Stop};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::Hasher;
use crate::session::Session;

/// Pieces on their way to the unpacking thread. With at most 64 KiB each this bounds a layer's memory to 2 MiB.
const PIECES_IN_FLIGHT: usize = 32;

/// Where a download is; what followers see.
#[derive(Debug, Clone)]
pub(crate) enum Stage {
    /// Others are being fetched first.
    Waiting,
    Downloading {
        /// Compressed bytes so far.
        current: u64,
    },
    /// Broke off; waiting this long to try again.
    Retrying {
        seconds: u64,
    },
    /// Everything arrived; what is still in the pipe is being unpacked.
    Extracting,
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

/// Two pulls share a download if they want the same bytes for the same place in a stack.
type Key = (Digest, Digest);

/// Running downloads by what they fetch.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<Key, Weak<Flight>>>);

/// One running (or just finished) download.
pub(crate) struct Flight {
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
    /// The download of `wanted`, begun now unless it is running; and whether it was running.
    pub(super) fn join(
        &self,
        wanted: &Wanted,
        sources: &[Arc<Session>],
        store: &Store,
        limit: &Arc<Semaphore>,
    ) -> (Arc<Flight>, bool) {
        let key = (wanted.descriptor.digest.clone(), wanted.chain_id.clone());
        let mut flights = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(flight) = flights.get(&key).and_then(Weak::upgrade)
            && flight.is_useful()
        {
            return (flight, true);
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let (publish, stage) = watch::channel(Stage::Waiting);
        let slot = Arc::new(AsyncMutex::new(None));
        let work = run(wanted.clone(), sources.to_vec(), store.clone(), limit.clone(), publish, slot.clone());
        let flight = Arc::new(Flight { stage, slot, task: tokio::spawn(work).abort_handle() });
        flights.insert(key, Arc::downgrade(&flight));
        (flight, false)
    }
}

async fn run(
    wanted: Wanted,
    sources: Vec<Arc<Session>>,
    store: Store,
    limit: Arc<Semaphore>,
    stage: watch::Sender<Stage>,
    slot: Arc<AsyncMutex<Option<LayerIngest>>>,
) {
    let _permit = limit.acquire_owned().await.expect("the client never closes its download limit");
    let mut outcome = Err(Error::new(ErrorKind::Network, "no place to fetch from"));
    for session in sources {
        let source = LayerSource { session, descriptor: wanted.descriptor.clone() };
        outcome = fetch(&source, &wanted.diff_id, &store, &stage).await;
        // Another place may have better content, but this disk stays the same.
        if matches!(&outcome, Ok(_) | Err(Error { kind: ErrorKind::Storage, .. })) {
            break;
        }
    }
    match outcome {
        Ok(ingest) => {
            *slot.lock().await = Some(ingest);
            stage.send_replace(Stage::Ready);
        }
        Err(error) => {
            stage.send_replace(Stage::Failed(error));
        }
    }
}

async fn fetch(
    source: &LayerSource,
    diff_id: &Digest,
    store: &Store,
    stage: &watch::Sender<Stage>,
) -> Result<LayerIngest> {
    stage.send_replace(Stage::Downloading { current: 0 });
    let (sender, receiver) = mpsc::channel(PIECES_IN_FLIGHT);
    let (store, descriptor, diff_id) = (store.clone(), source.descriptor.clone(), diff_id.clone());
    let unpacking = tokio::task::spawn_blocking(move || unpack(&store, receiver, &descriptor, &diff_id));
    let fed = source.feed(&sender, stage).await;
    drop(sender);
    if fed.is_ok() {
        stage.send_replace(Stage::Extracting);
    }
    let unpacked =
        unpacking.await.unwrap_or_else(|e| Err(Error::new(ErrorKind::Storage, format!("unpacking stopped: {e}"))));
    match fed {
        Err(Stop::Failed(failure)) => Err(failure.error),
        Ok(()) | Err(Stop::ReaderGone) => unpacked,
    }
}

/// The compressed stream as the unpacking thread reads it, hashed on the way.
struct Tap {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
    hasher: Hasher,
}

impl Tap {
    /// The next bytes; empty at the proper end. A stream that was broken off is an error, never an end.
    fn fill(&mut self) -> std::io::Result<()> {
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => {
                    self.hasher.update(&data);
                    self.current = data;
                }
                Some(Piece::End) => self.ended = true,
                None => {
                    return Err(std::io::Error::new(
                        std::io::ErrorKind::ConnectionAborted,
                        "the download was broken off",
                    ));
                }
            }
        }
        Ok(())
    }

    /// Reads what the decompressor left, so that the digest covers every byte.
    fn drain(&mut self) -> std::io::Result<()> {
        while !self.ended {
            self.current.clear();
            self.fill()?;
        }
        Ok(())
    }
}

/// Shares the tap between the decompressor, which owns its input, and the check afterwards.
struct SharedTap(Rc<RefCell<Tap>>);

impl Read for SharedTap {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut tap = self.0.borrow_mut();
        tap.fill()?;
        let length = tap.current.len().min(buffer.len());
        tap.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

fn unpack(
    store: &Store,
    pieces: mpsc::Receiver<Piece>,
    descriptor: &Descriptor,
    diff_id: &Digest,
) -> Result<LayerIngest> {
    let digest = &descriptor.digest;
    let tap = Tap { pieces, current: Bytes::new(), ended: false, hasher: Hasher::like(digest) };
    let tap = Rc::new(RefCell::new(tap));
    let mut ingest = store.begin_layer()?;
    let unpacked = brig_store::decompress(SharedTap(tap.clone())).and_then(|plain| ingest.unpack(plain));
    // Content that cannot be unpacked is most often content that is not what was promised: find out before blaming it.
    let storage_failed = unpacked.as_ref().is_err_and(|e| Error::from(e.clone()).kind == ErrorKind::Storage);
    let intact = !storage_failed && tap.borrow_mut().drain().is_ok();
    if intact {
        let hasher = std::mem::replace(&mut tap.borrow_mut().hasher, Hasher::like(digest));
        let actual = hasher.finish();
        if actual != *digest {
            return Err(Error::mismatch(format!("layer digest mismatch: expected {digest}, got {actual}")));
        }
    }
    let unpacked = unpacked.map_err(|error| {
        let mut error = Error::from(error);
        error.message = format!("layer {digest}: {}", error.message);
        error
    })?;
    if unpacked.diff_id != *diff_id {
        let text = format!(
            "layer {digest}: its content has diff id {}, the image's config promises {diff_id}",
            unpacked.diff_id
        );
        return Err(Error::mismatch(text));
    }
    Ok(ingest)
}
