//! Marks on layers that are not what they were. A marked layer counts as missing for whoever would bring it (`Store::layer`),
//! so that the next pull does, and what is published takes its place; until then what uses it goes on with it.

use std::os::fd::AsFd;

use brig_oci::Digest;
use rustix::fs::AtFlags;

use crate::error::Result;
use crate::sources;
use crate::store::Store;

/// What is wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) why: String,
    /// Containers may still be started on it.
    pub(crate) usable: bool,
}

/// The table, as a step of the store's schema.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE store_damaged (chain_id TEXT PRIMARY KEY, why TEXT NOT NULL, usable INTEGER NOT NULL) WITHOUT ROWID;
";

/// Marks a layer.
pub(crate) fn mark(store: &Store, chain: &Digest, damage: Damage) -> Result<()> {
    let _gate = store.gate();
    store.inner.database.write(|db| {
        let sql = "INSERT OR REPLACE INTO store_damaged (chain_id, why, usable) VALUES (?1, ?2, ?3)";
        db.execute(sql, (chain.as_str(), &damage.why, damage.usable)).map(drop)
    })?;
    store.catalog_mut().damaged.insert(chain.clone(), damage);
    Ok(())
}

/// Takes a layer out of the records; its directory is the caller's.
pub(crate) fn forget(store: &Store, chain: &Digest) -> Result<()> {
    let _gate = store.gate();
    store.inner.database.write(|db| {
        db.execute("DELETE FROM store_damaged WHERE chain_id = ?1", [chain.as_str()])?;
        sources::forget(db, chain)?;
        db.execute("DELETE FROM store_layers WHERE chain_id = ?1", [chain.as_str()]).map(drop)
    })?;
    let mut catalog = store.catalog_mut();
    catalog.damaged.remove(chain);
    catalog.sources.remove(chain);
    catalog.layers.remove(chain);
    Ok(())
}

/// Makes room for a layer that is about to be published. Of a damaged one a directory may be left: whoever has it mounted
/// goes on with it in the quarantine.
pub(crate) fn make_way(store: &Store, chain: &Digest) -> Result<()> {
    let layers = store.inner.dirs.layers.as_fd();
    let is_marked = store.catalog().damaged.contains_key(chain);
    let is_used = store.catalog().active.values().flatten().next().is_some();
    if is_marked || is_used {
        store.inner.quarantine.take(layers, chain.hex().as_ref(), "layer").map(drop)
    } else {
        store.inner.trash.take(layers, chain.hex().as_ref()).map(drop)
    }
}

/// Whether all layers from `chain` down are here, damaged or not.
pub(crate) fn are_there(store: &Store, chain: &Digest) -> bool {
    let catalog = store.catalog();
    let layers = catalog.chain(chain);
    layers.last().is_some_and(|lowest| lowest.parent.is_none())
        && layers.iter().all(|layer| {
            rustix::fs::statat(&store.inner.dirs.layers, layer.chain_id.hex(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
        })
}
