//! Which blob a layer was unpacked from, and whether its files were seen to be what its diff id promises.
//!
//! A layer's diff id is told by the process that unpacked it, which a hostile blob may have taken over: such a blob could claim
//! to be the layer that another image wants. So a layer is taken as it is only for images that list the very blob that it
//! came from, whose digest this process has verified itself; for any other it is first compared with the archive of that diff
//! id (`check/compare.rs`), once, and put out of use if it is something else. Must not believe what an image says.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::PoisonError;

use brig_oci::Digest;

use crate::catalog::{Catalog, LayerInfo};
use crate::check::compare::{Verdict, compare};
use crate::check::marks::{self, Damage};
use crate::error::Result;
use crate::store::Store;

/// The table, as a step of the store's schema. Layers without a row came from nobody knows what.
pub(crate) const SCHEMA: &str = "
    CREATE TABLE store_sources (chain_id TEXT PRIMARY KEY, blob TEXT, proven INTEGER NOT NULL) WITHOUT ROWID;
";

/// Where a layer is from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// The blob, packed or not, of which it was made.
    pub(crate) blob: Option<Digest>,
    /// Its files are those of the archive with its diff id, whatever it was made of.
    pub(crate) proven: bool,
}

impl Source {
    /// Of a layer that was unpacked from a blob of this digest. If that is the diff id itself nothing is left to prove: then
    /// whoever could lie about the layer is the layer.
    pub(crate) fn of(blob: Option<&Digest>, diff_id: &Digest) -> Source {
        Source { blob: blob.cloned(), proven: blob == Some(diff_id) }
    }

    fn can_serve(&self, blob: Option<&Digest>) -> bool {
        self.proven || (blob.is_some() && self.blob.as_ref() == blob)
    }
}

/// Writes down where a layer that is published is from.
pub(crate) fn record(db: &rusqlite::Transaction<'_>, chain: &Digest, source: &Source) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO store_sources (chain_id, blob, proven) VALUES (?1, ?2, ?3)";
    db.execute(sql, (chain.as_str(), source.blob.as_ref().map(Digest::as_str), source.proven)).map(drop)
}

/// Forgets it, with the layer.
pub(crate) fn forget(db: &rusqlite::Transaction<'_>, chain: &Digest) -> rusqlite::Result<()> {
    db.execute("DELETE FROM store_sources WHERE chain_id = ?1", [chain.as_str()]).map(drop)
}

/// Whether a layer is here and can be taken as it is by an image that lists `blob` in its place. May compare it with its
/// archive, which takes as long as unpacking it; one that is not what it should be is out of use from then on.
pub fn serves(store: &Store, chain: &Digest, blob: Option<&Digest>) -> Result<bool> {
    Ok(store.layer(chain).is_some() && (serves_already(store, chain, blob) || prove(store, chain)?))
}

/// As [`serves`] of a layer that is here, if that is known without looking at it.
pub(crate) fn serves_already(store: &Store, chain: &Digest, blob: Option<&Digest>) -> bool {
    store.catalog().sources.get(chain).is_some_and(|source| source.can_serve(blob))
}

/// Compares a layer, and before it those below, with their archives.
fn prove(store: &Store, chain: &Digest) -> Result<bool> {
    let _pin = store.pin(std::slice::from_ref(chain));
    // A collection that had decided before that ends first.
    drop(store.gate());
    let _one = store.inner.proving.lock().unwrap_or_else(PoisonError::into_inner);
    if store.layer(chain).is_none() {
        return Ok(false);
    }
    let mut layers: Vec<LayerInfo> = store.catalog().chain(chain).into_iter().cloned().collect();
    layers.reverse();
    for layer in layers {
        if is_proven(&store.catalog(), &layer.chain_id) {
            continue;
        }
        let below: Vec<PathBuf> = match &layer.parent {
            None => Vec::new(),
            Some(parent) if store.is_whole(parent) => store.diff_paths(&store.catalog(), parent),
            // Whoever has the layer's blob makes it anew on what will be there then.
            Some(_) => return Ok(false),
        };
        let path = store.inner.root.join("layers").join(layer.chain_id.hex());
        match compare(store, &layer, &path, Some(&below))? {
            Verdict::Whole(actual) if actual == layer => prove_one(store, &layer.chain_id)?,
            verdict => {
                let damage = match verdict {
                    Verdict::Damaged(damage) => damage,
                    Verdict::Whole(_) => {
                        Damage { why: "it was said to have another size or to hide other layers".into(), usable: false }
                    }
                };
                condemn(store, &layer.chain_id, damage)?;
                return Ok(false);
            }
        }
    }
    Ok(store.layer(chain).is_some())
}

fn is_proven(catalog: &Catalog, chain: &Digest) -> bool {
    catalog.sources.get(chain).is_some_and(|source| source.proven)
}

/// Notes that a layer was seen to be the whole of its archive, by a check that has it pinned. That is no proof if it stands on
/// something that has none.
pub(crate) fn compared(store: &Store, chain: &Digest) -> Result<()> {
    let Some(layer) = store.layer(chain) else { return Ok(()) };
    let (has_proof, stands_on_proof) = {
        let catalog = store.catalog();
        (is_proven(&catalog, chain), layer.parent.is_none_or(|parent| is_proven(&catalog, &parent)))
    };
    if has_proof || !stands_on_proof { Ok(()) } else { prove_one(store, chain) }
}

fn prove_one(store: &Store, chain: &Digest) -> Result<()> {
    let _gate = store.gate();
    let mut source = store.catalog().sources.get(chain).cloned().unwrap_or_default();
    source.proven = true;
    store.inner.database.write_relaxed(|db| record(db, chain, &source))?;
    store.catalog_mut().sources.insert(chain.clone(), source);
    Ok(())
}

/// Puts a layer that is not what it claims out of use until it is brought anew, and with it those that stand on it and may
/// have taken something from it.
pub(crate) fn condemn(store: &Store, chain: &Digest, damage: Damage) -> Result<()> {
    tracing::error!(
        "layer {chain} is not what it should be: {}; it is out of use until a pull, load or push brings it anew",
        damage.why
    );
    let above = match damage.usable {
        true => Vec::new(),
        false => above(&store.catalog(), chain),
    };
    let why = format!("it stands on layer {chain}, which was not what it should be");
    for chain in above {
        marks::mark(store, &chain, Damage { why: why.clone(), usable: false })?;
    }
    marks::mark(store, chain, damage)
}

/// The layers that stand on this one and were never compared.
fn above(catalog: &Catalog, chain: &Digest) -> Vec<Digest> {
    let mut children: HashMap<&Digest, Vec<&Digest>> = HashMap::new();
    for layer in catalog.layers.values() {
        if let Some(parent) = &layer.parent {
            children.entry(parent).or_default().push(&layer.chain_id);
        }
    }
    let (mut found, mut todo, mut seen) = (Vec::new(), vec![chain], HashSet::new());
    while let Some(next) = todo.pop() {
        for child in children.get(next).into_iter().flatten().filter(|child| seen.insert(**child)) {
            if !is_proven(catalog, child) && !catalog.damaged.contains_key(*child) {
                found.push((*child).clone());
            }
            todo.push(child);
        }
    }
    found
}
