//! What keeps things alive for which no record stands yet: pins for what is named, leases for work in flight.
//! Both are in memory only: a crash drops them, and what the work had brought is then kept for a while by the time at
//! which it came (see `collect`). Must not write anything.

use brig_oci::Digest;

use crate::store::Store;

/// Keeps layers from being collected for as long as it lives.
pub struct Pin {
    store: Store,
    chains: Vec<Digest>,
}

/// Work in flight: a pull, a load, a commit, an upload. Whatever arrives in the store while it lives (blobs, layers), and
/// what it was told to [hold](Lease::hold), is not collected. Drop it when the image, the name or whatever else leads to
/// those things is recorded, or when the work has failed.
pub struct Lease {
    store: Store,
    number: u64,
}

impl Pin {
    pub(crate) fn new(store: &Store, chains: &[Digest]) -> Pin {
        let mut catalog = store.catalog_mut();
        for chain in chains {
            *catalog.pinned.entry(chain.clone()).or_default() += 1;
        }
        Pin { store: store.clone(), chains: chains.to_vec() }
    }
}

impl Lease {
    /// Begins work in flight. What is stored without any lease open is garbage until something leads to it.
    pub fn begin(store: &Store) -> Lease {
        let mut catalog = store.catalog_mut();
        catalog.last_lease += 1;
        let number = catalog.last_lease;
        catalog.leases.insert(number, std::collections::HashSet::new());
        drop(catalog);
        Lease { store: store.clone(), number }
    }

    /// Keeps a blob or a layer (by chain id), whether it is here already or not. Call it before asking whether it is here:
    /// then the answer stays true.
    pub fn hold(&self, digest: &Digest) {
        // The gate: a collection that has already decided what goes must end before the answer is relied on.
        let _gate = self.store.gate();
        if let Some(held) = self.store.catalog_mut().leases.get_mut(&self.number) {
            held.insert(digest.clone());
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut catalog = self.store.catalog_mut();
        for chain in &self.chains {
            if let Some(count) = catalog.pinned.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    catalog.pinned.remove(chain);
                }
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.store.catalog_mut().leases.remove(&self.number);
    }
}

/// A blob or layer is about to be published, or was found here by whoever brings it: it belongs to the work in flight. When
/// this returns no collection is between its decision and its deed, so that what is found here now stays.
pub(crate) fn arrives(store: &Store, digest: &Digest) {
    let _gate = store.gate();
    store.catalog_mut().arrived(digest);
}
