//! Collection: what nothing leads to goes.
//!
//! Owns what "leads to" means. Roots are images, names, writable layers, repositories, pins, leases and what a crash cut off (below);
//! an image leads to its configuration, its manifest and its layers; a manifest or an index to whatever it lists.
//! Must not take anything that is in use, and takes the rest at once.
//!
//! A crash drops all leases. So that a pull that is begun again finds the layers it had, what nothing leads to when the
//! store is opened, and arrived within the hour before that (the change time of its directory entry, which the publishing
//! rename sets), is kept for another hour. An explicit [`Upkeep::prune`] takes that too.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use brig_oci::{Digest, Document};
use rustix::fs::AtFlags;

use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::packed;
use crate::partial;
use crate::repositories;
use crate::sources;
use crate::store::Store;
use crate::trash;
use crate::upkeep::Upkeep;

/// For how long what a crash has cut off is kept, before and after the store is opened again.
const CUT_OFF: Duration = Duration::from_secs(3600);

/// A download that nobody has gone on with for this long goes with an explicit prune.
pub(crate) const IDLE: Duration = Duration::from_secs(3600);

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Chain ids of removed layers, upper ones before those below them.
    pub layers: Vec<Digest>,
    /// Removed configurations, manifests, indexes and packed layers.
    pub blobs: Vec<Digest>,
    /// The sum of the sizes of what was removed, in bytes. Freed in the background.
    pub size_bytes: u64,
}

/// What was cut off by the crash of an earlier process: kept until then.
#[derive(Default)]
pub(crate) struct CutOff {
    kept: HashSet<Digest>,
    until: Option<Instant>,
}

impl Upkeep<'_> {
    /// Removes layers and blobs that nothing leads to and that are not in `keep` (chain ids).
    pub(crate) fn collect(&self, keep: &[Digest]) -> Result<Reclaimed> {
        let store = self.store;
        let _gate = store.gate();
        store.inner.reserve.make_room();
        let mut reclaimed = Reclaimed::default();
        repositories::hide_abandoned(store)?;
        // What is given from one hand to another, an image's to a repository's or the other way round, has both for a moment:
        // asking one, the other, and the one again misses nothing.
        let mut shown = repositories::live_blobs(store)?;
        let held = live_blobs(store, &store.catalog());
        // Whatever the reason, it may be gone tomorrow; what is taken now is gone for good.
        let held = held.inspect_err(|error| tracing::error!("blobs are not collected: {error}")).ok();
        // What a repository shows can be had, also after the image that it was taken for is gone.
        let mut keep = [keep, &packed::layers_behind(store, &shown)?].concat();
        keep.extend(store.catalog().live_layers(&[]));
        shown.extend(repositories::live_blobs(store)?);
        keep.extend(packed::layers_behind(store, &shown)?);
        collect_layers(store, &keep, &mut reclaimed)?;
        if let Some(live) = held.map(|held| &held | &shown) {
            packed::collect(store, &live, &mut reclaimed)?;
            collect_blobs(store, &live, &mut reclaimed)?;
        }
        reclaimed.size_bytes += store.partials().expire(partial::EXPIRY)?;
        Ok(reclaimed)
    }

    /// As [`Store::gc`]; also takes what a crash had cut off from its image.
    pub fn prune(&self) -> Result<Reclaimed> {
        self.store.catalog_mut().cut_off = CutOff::default();
        self.store.partials().expire(IDLE)?;
        repositories::found::prune(self.store)?;
        self.collect(&[])
    }

    /// Does `work`, waits until what it and others before it discarded has been removed, and tells how many bytes of the
    /// disk that gave back. One such at a time; what is removed by others meanwhile counts as well.
    pub fn freed_by<T, E>(&self, work: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<(T, u64), E> {
        let inner = &self.store.inner;
        let _one = inner.freeing.lock().unwrap_or_else(PoisonError::into_inner);
        inner.trash.wait_empty();
        let before = inner.trash.freed_bytes();
        let done = work()?;
        inner.trash.wait_empty();
        Ok((done, inner.trash.freed_bytes() - before))
    }

    /// Notes, when the store is opened, what a crash may just have cut off from the image it was fetched for.
    pub(crate) fn note_cut_off(&self) -> Result<()> {
        let recent = SystemTime::now().checked_sub(CUT_OFF).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let recent = recent.map_or(0, |at| i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        let (store, dirs) = (self.store, &self.store.inner.dirs);
        let arrived = |dir: &std::os::fd::OwnedFd, name: &str| {
            rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| stat.st_ctime >= recent)
        };
        let mut kept: HashSet<Digest> =
            store.catalog().layers.keys().filter(|chain| arrived(&dirs.layers, chain.hex())).cloned().collect();
        each_blob(store, &mut |dir, digest, _| {
            if arrived(dir, digest.hex()) {
                kept.insert(digest);
            }
            Ok(())
        })?;
        if kept.is_empty() {
            return Ok(());
        }
        let catalog = store.catalog();
        // Of what cannot be read it is not known what it leads to: then more is kept than need be.
        let live = (catalog.live_layers(&[]), live_blobs(store, &catalog).unwrap_or_default());
        drop(catalog);
        kept.retain(|digest| !live.0.contains(digest) && !live.1.contains(digest));
        store.catalog_mut().cut_off = CutOff { kept, until: Instant::now().checked_add(CUT_OFF) };
        Ok(())
    }
}

impl Catalog {
    /// What arrived while leases are open belongs to each of them: nobody knows for whom it came.
    pub(crate) fn arrived(&mut self, digest: &Digest) {
        for held in self.leases.values_mut() {
            if !held.contains(digest) {
                held.insert(digest.clone());
            }
        }
    }

    /// What is kept without any record: by pins, by leases, and by a crash.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Digest> {
        let cut_off = self.cut_off.until.is_some_and(|until| Instant::now() < until).then_some(&self.cut_off.kept);
        self.pinned.keys().chain(self.leases.values().flatten()).chain(cut_off.into_iter().flatten())
    }

    /// Chain ids that something stands on: images, writable layers, what is held, and `extra`.
    pub(crate) fn live_layers(&self, extra: &[Digest]) -> HashSet<Digest> {
        self.layers_of(&|_| true, extra)
    }

    /// As [`Catalog::live_layers`], if there were only the images for which `stays` is true of their ids.
    pub(crate) fn layers_of(&self, stays: &dyn Fn(&Digest) -> bool, extra: &[Digest]) -> HashSet<Digest> {
        let images = self.images.values().filter(|image| stays(&image.id)).filter_map(|image| image.chain_id.as_ref());
        let active = self.active.values().flatten();
        let roots = images.chain(active).chain(self.held()).chain(extra);
        let mut live = HashSet::new();
        for root in roots {
            let mut next = Some(root);
            while let Some(id) = next {
                if !live.insert(id.clone()) {
                    break;
                }
                next = self.layers.get(id).and_then(|layer| layer.parent.as_ref());
            }
        }
        live
    }
}

fn collect_layers(store: &Store, keep: &[Digest], reclaimed: &mut Reclaimed) -> Result<()> {
    let mut dead: Vec<(usize, Digest, u64)> = {
        let catalog = store.catalog();
        let live = catalog.live_layers(keep);
        let dead = catalog.layers.values().filter(|layer| !live.contains(&layer.chain_id));
        dead.map(|layer| (catalog.chain(&layer.chain_id).len(), layer.chain_id.clone(), layer.size_bytes)).collect()
    };
    if dead.is_empty() {
        return Ok(());
    }
    dead.sort_by(|a, b| b.cmp(a));
    store.inner.database.write(|db| {
        let mut delete = db.prepare("DELETE FROM store_layers WHERE chain_id = ?1")?;
        let mut unmark = db.prepare("DELETE FROM store_damaged WHERE chain_id = ?1")?;
        dead.iter().try_for_each(|(_, chain, _)| {
            unmark.execute([chain.as_str()])?;
            sources::forget(db, chain)?;
            delete.execute([chain.as_str()]).map(drop)
        })
    })?;
    let mut catalog = store.catalog_mut();
    for (_, chain, _) in &dead {
        catalog.layers.remove(chain);
        catalog.damaged.remove(chain);
        catalog.sources.remove(chain);
    }
    drop(catalog);
    for (_, chain, size) in dead {
        store.inner.trash.take(store.inner.dirs.layers.as_fd(), chain.hex().as_ref())?;
        reclaimed.size_bytes += size;
        reclaimed.layers.push(chain);
    }
    Ok(())
}

fn collect_blobs(store: &Store, live: &HashSet<Digest>, reclaimed: &mut Reclaimed) -> Result<()> {
    each_blob(store, &mut |dir, digest, size| {
        if live.contains(&digest) {
            return Ok(());
        }
        store.inner.trash.remove_file(dir.as_fd(), digest.hex()).map_err(|error| error.context(&digest))?;
        reclaimed.size_bytes += size;
        reclaimed.blobs.push(digest);
        Ok(())
    })
}

/// Every file in `blobs/` that is named like a blob, with its directory and its length in bytes. What has another name is
/// not the store's, and left for a check to report.
pub(crate) fn each_blob(
    store: &Store,
    each: &mut dyn FnMut(&std::os::fd::OwnedFd, Digest, u64) -> Result<()>,
) -> Result<()> {
    for (algorithm, dir) in [("sha256", &store.inner.dirs.sha256), ("sha512", &store.inner.dirs.sha512)] {
        for name in trash::names(dir.as_fd(), &store.inner.root.join("blobs").join(algorithm))? {
            let Some(digest) = name.to_str().and_then(|hex| Digest::parse(&format!("{algorithm}:{hex}")).ok()) else {
                continue;
            };
            let stat = match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(rustix::io::Errno::NOENT) => continue,
                Err(errno) => return Err(Error::io(format!("stat blob {digest}"), errno)),
            };
            each(dir, digest, u64::try_from(stat.st_size).unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Configurations and manifests of images, what names point to, what is held, and through manifests and indexes what they
/// list. Other parts of the store that refer to blobs add theirs here.
///
/// # Errors
/// A manifest is there and cannot be read.
pub(crate) fn live_blobs(store: &Store, catalog: &Catalog) -> Result<HashSet<Digest>> {
    blobs_of(store, catalog, &|_| true)
}

/// As [`live_blobs`], if there were only the images for which `stays` is true of their ids.
pub(crate) fn blobs_of(store: &Store, catalog: &Catalog, stays: &dyn Fn(&Digest) -> bool) -> Result<HashSet<Digest>> {
    let images = catalog.images.values().filter(|image| stays(&image.id));
    let mut todo: Vec<Digest> = images.clone().map(|image| image.id.clone()).collect();
    let mut live: HashSet<Digest> = todo.drain(..).collect();
    todo.extend(images.filter_map(|image| image.manifest.clone()));
    todo.extend(catalog.tags.values().filter(|tag| stays(&tag.image)).filter_map(|tag| tag.manifest.clone()));
    while let Some(digest) = todo.pop() {
        if !live.insert(digest.clone()) {
            continue;
        }
        let bytes = match store.read_blob(&digest) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == ErrorKind::Io => return Err(error),
            // It is gone or damaged: only a pull knows what it led to.
            Err(_) => continue,
        };
        match Document::parse(&bytes, None).ok() {
            Some(Document::Index(index)) => todo.extend(index.manifests.into_iter().map(|entry| entry.digest)),
            Some(Document::Manifest(manifest)) => {
                live.insert(manifest.config.digest);
                live.extend(manifest.layers.into_iter().map(|layer| layer.digest));
            }
            None => {}
        }
    }
    live.extend(catalog.held().cloned());
    Ok(live)
}
