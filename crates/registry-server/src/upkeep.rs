//! Upkeep while serving: uploads that nobody goes on with, blobs that nothing needs. Owns when; what may go is decided by
//! [`brig_store::Repositories::tidy`] and the store's collection, in transactions, so that pushes need not stop for it.

use std::time::{Duration, Instant};

use brig_store::Error;

use crate::registry::Registry;

/// How long after a deletion its bytes are given back: one round for many, and a blob can be asked about, or deleted, until then.
const MORE_DELETIONS: Duration = Duration::from_secs(30);

/// What is cleaned up, and how often.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Time between two rounds at most.
    pub interval: Duration,
    /// A blob that no manifest names stays so long after it was pushed, mounted or asked for.
    pub grace: Duration,
    /// An upload that nobody goes on with stays so long.
    pub uploads: Duration,
    /// Whether manifests go too that have no tag, are in no index and are about nothing that is there.
    pub untagged: bool,
}

impl Default for Upkeep {
    fn default() -> Upkeep {
        Upkeep {
            interval: Duration::from_secs(3600),
            grace: Duration::from_secs(3600),
            uploads: Duration::from_secs(24 * 3600),
            untagged: false,
        }
    }
}

impl Registry {
    /// Waits for something to be deleted, and a while for more.
    async fn deletions(&self) {
        self.inner.deleted.notified().await;
        // Who else deletes something is not known before.
        tokio::time::sleep(MORE_DELETIONS).await;
    }

    /// Does one round. Blocking.
    ///
    /// # Errors
    /// The store's; what was not reached goes the next time.
    pub fn tidy(&self, upkeep: &Upkeep) -> Result<(), Error> {
        let begun = Instant::now();
        let store = &self.inner.store;
        let expired = self.inner.repositories.uploads().expire(upkeep.uploads)?;
        for id in &expired {
            // One that is being written just now ends by itself: its next request finds no such upload.
            if let Ok(partial) = store.partials().open(&crate::handlers::partial_name(id)) {
                partial.discard()?;
            }
        }
        let named = if upkeep.untagged { self.inner.named() } else { Vec::new() };
        let (blobs, manifests) = self.inner.repositories.tidy(upkeep.grace, upkeep.untagged, &named)?;
        let reclaimed = store.gc(&[])?;
        if !expired.is_empty() || blobs + manifests > 0 || !reclaimed.blobs.is_empty() {
            tracing::info!(
                "collected {} blobs ({} bytes), {manifests} manifests and {} uploads in {} ms",
                reclaimed.blobs.len(),
                reclaimed.size_bytes,
                expired.len(),
                begun.elapsed().as_millis()
            );
        }
        Ok(())
    }

    /// Does a round every so often, and soon after something was deleted, for ever.
    pub async fn keep_tidy(self, upkeep: Upkeep) {
        loop {
            tokio::select! {
                // The clock: grace and expiry pass without any event.
                () = tokio::time::sleep(upkeep.interval) => {}
                () = self.deletions() => {}
            }
            let (registry, round) = (self.clone(), upkeep.clone());
            match tokio::task::spawn_blocking(move || registry.tidy(&round)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("the collection could not be finished, it is tried again: {error}"),
                Err(error) => tracing::error!("the collection failed: {error}"),
            }
        }
    }
}
