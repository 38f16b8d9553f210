//! What all requests share: the store, the settings, and which uploads are being written just now.
//! Must not know HTTP.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brig_store::{Repositories, Store, UploadLimits};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::access::Access;
use crate::proxy::Proxy;
use crate::refusal::Refusal;
use crate::shelf::{Documents, Shelf};
use crate::told::Told;
use crate::turns::Turns;

/// How long a request waits for another one to the same upload.
const LAST_REQUEST: Duration = Duration::from_secs(5);

/// How many manifests are taken in at once.
const TAKING: usize = 8;

/// How many answers are made while they are sent: each holds a thread that may wait, of which there are 512 for everything.
const MAKING: usize = 128;

/// How many large manifests (up to 4 MiB) may be in memory.
const LARGE: usize = 64;

/// How many long lists may be in memory: up to some 2.5 MB each.
const LISTING: usize = 32;

/// How many blobs are fetched from elsewhere at once: each may wait for another fetch of the same one, which takes a thread.
const FETCHING: usize = 64;

/// How many uploads may be under way; each is a row, and a file once something was sent.
const UPLOADS: u64 = 1 << 16;

/// How many passwords are compared at once.
const COMPARING: usize = 8;

/// What a registry is to do.
pub struct Settings {
    /// Who may use it.
    pub access: Access,
    /// Nothing is taken in or deleted.
    pub read_only: bool,
    /// Manifests, tags and blobs may be deleted.
    pub deletion: bool,
    /// The registry that this one is a cache of; nothing is pushed then.
    pub proxy: Option<Arc<Proxy>>,
    /// Images that are here already, and as which images are kept that are pushed.
    pub shelf: Option<Box<dyn Shelf>>,
    /// How many connections one client may have at once; more are closed as they come. What is done in turns is done for one client
    /// in proportion.
    pub client_connections: usize,
    /// How long a client may take for its next bytes, either way.
    pub patience: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            access: Access::Open,
            read_only: false,
            deletion: true,
            proxy: None,
            shelf: None,
            client_connections: 1024,
            patience: Duration::from_secs(60),
        }
    }
}

/// A registry over a store. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones share.
pub(crate) struct Inner {
    pub(crate) store: Store,
    pub(crate) repositories: Repositories,
    pub(crate) settings: Settings,
    pub(crate) documents: Documents,
    /// Who was told just now that a blob has arrived.
    pub(crate) told: Told,
    /// Whose answers are made while they are sent.
    pub(crate) making: Turns,
    /// Whose large manifests are in memory.
    pub(crate) large: Turns,
    /// Who fetches blobs from elsewhere.
    pub(crate) fetching: Turns,
    /// Whose long lists are in memory.
    pub(crate) listing: Turns,
    /// Whose passwords are compared.
    pub(crate) comparing: Turns,
    /// How many uploads may be begun and not ended.
    pub(crate) uploads: UploadLimits,
    /// Manifests that are taken in at once: layers are unpacked for them.
    pub(crate) taking: Semaphore,
    /// Between the moment in which a manifest's blobs are found to be shown and the one in which it holds them, nobody else may
    /// let go of them.
    pub(crate) handing_over: Mutex<()>,
    /// Told when something was deleted: there is room to be given back.
    pub(crate) deleted: Notify,
    writing: Mutex<HashMap<String, Arc<AtomicU64>>>,
    /// Told when an upload is not written any more.
    ended: Notify,
}

impl Registry {
    /// A registry of what the store's repositories show.
    pub fn new(store: Store, settings: Settings) -> Registry {
        let repositories = Repositories::of(&store);
        // One for so many of the connections that a client may have: where that is raised all come through one proxy.
        let connections = settings.client_connections;
        let of_client = (connections as u64).saturating_mul(4).clamp(16, UPLOADS);
        let turns = |all: usize, share: usize| Turns::new(all, (connections / share).clamp(1, all));
        Registry {
            inner: Arc::new(Inner {
                store,
                repositories,
                settings,
                documents: Documents::default(),
                told: Told::default(),
                making: turns(MAKING, 64),
                large: turns(LARGE, 128),
                fetching: turns(FETCHING, 64),
                listing: turns(LISTING, 256),
                comparing: turns(COMPARING, 512),
                uploads: UploadLimits { all: UPLOADS, client: of_client },
                taking: Semaphore::new(TAKING),
                handing_over: Mutex::default(),
                deleted: Notify::new(),
                writing: Mutex::default(),
                ended: Notify::new(),
            }),
        }
    }

    /// Runs what waits for the disk on a thread for that.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(Refusal::internal)?
    }
}

impl Inner {
    /// Marks an upload as being written; `None` while another request does.
    fn begin_writing(self: &Arc<Self>, id: &str) -> Option<Writing> {
        let mut writing = self.writing();
        if writing.contains_key(id) {
            return None;
        }
        let length = Arc::new(AtomicU64::new(0));
        writing.insert(id.to_owned(), length.clone());
        Some(Writing { inner: self.clone(), id: id.to_owned(), length })
    }

    /// As [`Inner::begin_writing`], after a wait for a request that is about to end: one whose client is gone already, or one
    /// that only asked how far the upload is.
    pub(crate) async fn wait_to_write(self: &Arc<Self>, id: &str) -> Option<Writing> {
        let until = Instant::now() + LAST_REQUEST;
        loop {
            // Before the question, so that an end in between is not missed.
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if let Some(writing) = self.begin_writing(id) {
                return Some(writing);
            }
            tokio::time::timeout_at(until, ended).await.ok()?;
        }
    }

    /// How much of an upload is there, if it is being written now.
    pub(crate) fn written(&self, id: &str) -> Option<u64> {
        self.writing().get(id).map(|length| length.load(Ordering::Relaxed))
    }

    fn writing(&self) -> MutexGuard<'_, HashMap<String, Arc<AtomicU64>>> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload is being written for as long as this lives.
pub(crate) struct Writing {
    inner: Arc<Inner>,
    id: String,
    length: Arc<AtomicU64>,
}

impl Writing {
    /// So much is there now.
    pub(crate) fn set(&self, length: u64) {
        self.length.store(length, Ordering::Relaxed);
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.inner.writing().remove(&self.id);
        self.inner.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_have_more_connections_has_more_turns() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let turns = |client_connections| {
            let inner = Registry::new(store.clone(), Settings { client_connections, ..Settings::default() }).inner;
            [&inner.making, &inner.large, &inner.listing, &inner.comparing].map(Turns::for_one)
        };
        assert_eq!(turns(1024), [16, 8, 4, 2]);
        assert_eq!(turns(1), [1, 1, 1, 1]);
        assert_eq!(turns(100_000), [MAKING, LARGE, LISTING, COMPARING]);
    }
}
