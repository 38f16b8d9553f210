//! Owns running downloads: one task for each blob however many ask, its bytes spooled into an unfinished blob of the store
//! that survives a restart, verified at the end. It must not look inside the bytes; who unpacks reads along.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use brig_oci::{Descriptor, Digest};
use brig_store::{Packed, Partial, PartialReader, Store};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use super::source::{BlobSource, Piece, Report, Stop};
use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;

/// Pieces on their way to the disk. With at most 64 KiB each this bounds a blob's memory to 2 MiB.
const PIECES_IN_FLIGHT: usize = 32;
/// How long to wait for whoever else works on the same blob, most often a pull that is just being given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// How far a blob is.
#[derive(Debug, Clone)]
pub(crate) enum Arrival {
    /// Others are being fetched first.
    Waiting,
    Downloading {
        /// Bytes that are there.
        current: u64,
    },
    /// Broke off; waiting this long to try again.
    Retrying {
        seconds: u64,
    },
    /// Everything is there and is what it should be.
    Verified,
    Failed(Error),
}

/// Running downloads by what they fetch.
#[derive(Default)]
pub(crate) struct Downloads(Mutex<HashMap<Digest, Weak<Download>>>);

/// One running (or just finished) download. It ends when nobody holds it.
pub(crate) struct Download {
    pub(super) arrival: watch::Receiver<Arrival>,
    spool: Arc<Spool>,
    task: AbortHandle,
}

/// The unfinished blob, between the download and who reads along.
#[derive(Default)]
struct Spool(Mutex<Spooled>);

#[derive(Default)]
struct Spooled {
    partial: Option<Arc<Partial>>,
    /// Stands in for it once it was taken.
    reader: Option<PartialReader>,
}

impl Drop for Download {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Spool {
    fn lock(&self) -> MutexGuard<'_, Spooled> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Download {
    /// Reads along from the first byte, once there is something to read from. The stream ends only after the whole blob
    /// was verified; until then what it says may be a lie.
    pub(super) async fn reader(&self) -> Result<PartialReader> {
        let mut arrival = self.arrival.clone();
        loop {
            if let Arrival::Failed(error) = &*arrival.borrow_and_update() {
                return Err(error.clone());
            }
            if let Some(reader) = self.spool.lock().reader.as_ref() {
                return Ok(reader.again());
            }
            arrival.changed().await.map_err(|_| ended())?;
        }
    }

    /// Waits for the end; what `reader` read is good only after that. `false` if the blob was begun again meanwhile, so
    /// that `reader` stands for nothing.
    pub(super) async fn outcome(&self, reader_generation: u64) -> Result<bool> {
        let mut arrival = self.arrival.clone();
        loop {
            let now = arrival.borrow_and_update().clone();
            // Looked at after the news, which may be of the blob that was begun again.
            let is_stale = self.spool.lock().reader.as_ref().is_some_and(|now| now.generation() != reader_generation);
            match now {
                Arrival::Failed(error) => return Err(error),
                _ if is_stale => return Ok(false),
                Arrival::Verified => return Ok(true),
                _ => {}
            }
            arrival.changed().await.map_err(|_| ended())?;
        }
    }

    /// Waits until everything is there and is what it should be.
    pub(super) async fn verified(&self) -> Result<()> {
        let mut arrival = self.arrival.clone();
        loop {
            match &*arrival.borrow_and_update() {
                Arrival::Verified => return Ok(()),
                Arrival::Failed(error) => return Err(error.clone()),
                _ => {}
            }
            arrival.changed().await.map_err(|_| ended())?;
        }
    }

    /// The verified blob, for the first who asks; readers go on.
    pub(super) fn take(&self) -> Option<Partial> {
        matches!(&*self.arrival.borrow(), Arrival::Verified)
            .then(|| self.spool.lock().partial.take().and_then(Arc::into_inner))
            .flatten()
    }

    /// What is there is of no use to anybody later.
    pub(super) fn abandon(&self) {
        if let Some(partial) = &self.spool.lock().partial {
            partial.abandon();
        }
    }

    fn is_useful(&self) -> bool {
        !matches!(&*self.arrival.borrow(), Arrival::Failed(_))
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Storage, "a download ended without a result")
}

impl Downloads {
    /// The download of `descriptor`, begun now unless it is running.
    pub(super) fn join(
        &self,
        descriptor: &Descriptor,
        sources: &[Arc<Session>],
        store: &Store,
        limit: &Arc<Semaphore>,
    ) -> Arc<Download> {
        let mut downloads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = downloads.get(&descriptor.digest).and_then(Weak::upgrade)
            && running.is_useful()
        {
            return running;
        }
        downloads.retain(|_, download| download.strong_count() > 0);
        let (publish, arrival) = watch::channel(Arrival::Waiting);
        let spool = Arc::new(Spool::default());
        let work = Work { descriptor: descriptor.clone(), store: store.clone(), spool: spool.clone(), publish };
        let task = tokio::spawn(work.run(sources.to_vec(), limit.clone())).abort_handle();
        let download = Arc::new(Download { arrival, spool, task });
        downloads.insert(descriptor.digest.clone(), Arc::downgrade(&download));
        download
    }
}

/// What one download works with.
struct Work {
    descriptor: Descriptor,
    store: Store,
    spool: Arc<Spool>,
    publish: watch::Sender<Arrival>,
}

impl Work {
    async fn run(self, sources: Vec<Arc<Session>>, limit: Arc<Semaphore>) {
        let _permit = limit.acquire_owned().await.expect("the client never closes its download limit");
        let outcome = self.all(&sources).await;
        let last = match outcome {
            Ok(()) => Arrival::Verified,
            Err(error) => {
                // Closed before anybody hears of it, so that who begins anew finds it free.
                *self.spool.lock() = Spooled::default();
                Arrival::Failed(error)
            }
        };
        self.publish.send_replace(last);
    }

    async fn all(&self, sources: &[Arc<Session>]) -> Result<()> {
        let partial = self.open().await?;
        let mut outcome = Err(Error::new(ErrorKind::Network, "no place to fetch from"));
        for session in sources {
            let source = BlobSource { session: session.clone(), descriptor: self.descriptor.clone() };
            if matches!(&outcome, Err(error) if error.kind == ErrorKind::Mismatch) {
                // What came from a place that had the wrong content is not worth going on from.
                self.begin_again(&partial).await?;
            }
            outcome = self.from(&source, &partial).await;
            match &outcome {
                Ok(()) => return Ok(()),
                // Another place may have better content, but this disk stays the same.
                Err(error) if error.kind == ErrorKind::Storage => break,
                Err(error) => tracing::debug!("{:?}: {error}", session.endpoint.origins),
            }
        }
        let error = outcome.err().unwrap_or_else(ended);
        partial.fail(io::ErrorKind::ConnectionAborted, error.message.clone());
        // Room on a full disk is worth more than a part of a blob.
        if error.kind == ErrorKind::Storage {
            partial.abandon();
        }
        Err(error)
    }

    /// Opens what an earlier download left, or begins.
    async fn open(&self) -> Result<Arc<Partial>> {
        let (store, digest) = (self.store.clone(), self.descriptor.digest.clone());
        let size = self.descriptor.size;
        let partial = super::blocking(move || {
            let partial = open(&store, &digest)?;
            if partial.present() > size {
                partial.truncate(0)?;
            }
            if partial.present() == 0
                && let Err(error) = copy_from_here(&store, &digest, size, &partial)
            {
                tracing::debug!("{digest} cannot be made from what is here, so it is fetched: {error}");
                partial.truncate(0)?;
            }
            Ok(partial)
        })
        .await?;
        let partial = Arc::new(partial);
        *self.spool.lock() = Spooled { reader: Some(partial.reader()), partial: Some(partial.clone()) };
        self.publish.send_replace(Arrival::Downloading { current: partial.present() });
        Ok(partial)
    }

    /// Fetches what is missing from one place, and begins once more from nothing where the whole is wrong and part of it
    /// came from elsewhere or earlier.
    async fn from(&self, source: &BlobSource, partial: &Arc<Partial>) -> Result<()> {
        let mut may_repeat = partial.present() > 0;
        loop {
            self.fill(source, partial).await?;
            let error = match self.verify(partial).await {
                Ok(()) => return Ok(()),
                Err(error) if error.kind != ErrorKind::Mismatch => return Err(error),
                Err(error) => error,
            };
            self.begin_again(partial).await?;
            if !std::mem::take(&mut may_repeat) {
                return Err(error);
            }
            tracing::warn!("{error}; a part of it came from an earlier download, so it is fetched again");
        }
    }

    /// Gives up what is there. Who was reading along begins anew too.
    async fn begin_again(&self, partial: &Arc<Partial>) -> Result<()> {
        let (spool, partial) = (self.spool.clone(), partial.clone());
        super::blocking(move || {
            let mut spooled = spool.lock();
            partial.truncate(0)?;
            spooled.reader = Some(partial.reader());
            Ok(())
        })
        .await?;
        self.publish.send_replace(Arrival::Downloading { current: 0 });
        Ok(())
    }

    async fn fill(&self, source: &BlobSource, partial: &Arc<Partial>) -> Result<()> {
        let mut in_ranges = source.is_worth_ranges();
        loop {
            let missing = partial.missing(self.descriptor.size);
            if missing.is_empty() {
                return Ok(());
            }
            let report = Report::new(&self.publish, partial.present());
            let (pieces, writing) = write(partial.clone());
            let fetched = tokio::select! {
                // Without this a full disk would be noticed only when the next byte arrives.
                () = pieces.closed() => Err(Stop::ReaderGone),
                fetched = source.fetch(missing, in_ranges, &pieces, &report) => fetched,
            };
            drop(pieces);
            let written = writing.await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Storage, format!("writing a download stopped: {error}")))
            });
            match (fetched, written) {
                (_, Err(error)) => return Err(error),
                (Err(Stop::RangesLost), Ok(())) if in_ranges => in_ranges = false,
                (Err(Stop::Failed(failure)), Ok(())) => return Err(failure.error),
                (Err(Stop::RangesLost | Stop::ReaderGone), Ok(())) => return Err(ended()),
                (Ok(()), Ok(())) => {}
            }
        }
    }

    async fn verify(&self, partial: &Arc<Partial>) -> Result<()> {
        let (partial, digest) = (partial.clone(), self.descriptor.digest.clone());
        super::blocking(move || {
            match partial.actual(&digest)? {
                actual if actual == digest => partial.finish(),
                actual => {
                    return Err(Error::mismatch(format!("layer digest mismatch: expected {digest}, got {actual}")));
                }
            }
            Ok(())
        })
        .await
    }
}

/// Opens the unfinished blob with this digest, once nobody else works on it.
pub(super) fn open(store: &Store, digest: &Digest) -> Result<Partial> {
    Ok(store.partials().open_within(&format!("{}-{}", digest.algorithm(), digest.hex()), PATIENCE)?)
}

/// The blob may be here as the form of a layer that is wanted in another place now: then nothing need be fetched.
fn copy_from_here(store: &Store, digest: &Digest, size: u64, partial: &Partial) -> io::Result<()> {
    let Ok(mut blob) = Packed::of(store).blob(digest) else { return Ok(()) };
    if blob.size() != size {
        return Ok(());
    }
    let mut buffer = vec![0; 256 << 10];
    loop {
        match blob.read(&mut buffer)? {
            0 => return Ok(()),
            length => partial.append(&buffer[..length])?,
        }
    }
}

/// Writes pieces where they belong, on a thread of its own, until the channel closes.
fn write(partial: Arc<Partial>) -> (mpsc::Sender<Piece>, tokio::task::JoinHandle<Result<()>>) {
    let (sender, mut pieces) = mpsc::channel::<Piece>(PIECES_IN_FLIGHT);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = pieces.blocking_recv() {
            partial.write_at(piece.offset, &piece.data)?;
        }
        Ok(())
    });
    (sender, writing)
}
