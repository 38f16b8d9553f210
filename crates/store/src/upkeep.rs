//! The store's upkeep as a noun: collecting, measuring, checking. Each of these has a file of its own; this one only names
//! them together.

use std::path::{Path, PathBuf};

use brig_oci::Digest;

use crate::copy::Copier;
use crate::error::Result;
use crate::images::now;
use crate::rescue;
use crate::store::Store;
use crate::usage::{self, Usage};

/// What keeps the store in order.
#[derive(Clone, Copy)]
pub struct Upkeep<'a> {
    pub(crate) store: &'a Store,
}

impl Upkeep<'_> {
    /// To be called when everything that keeps its records in the database is up: ends the rescue of a damaged one, and
    /// makes the copy that the next rescue would start from, which follows the database from then on.
    pub fn settle(&self) -> Result<()> {
        let inner = &self.store.inner;
        let settled = rescue::settle(&inner.root, &inner.database);
        if inner.copier.get().is_none() {
            // Had another thread just started one, this one ends.
            drop(inner.copier.set(Copier::start(&inner.root, &inner.database)?));
        }
        settled
    }

    /// Measures the whole store. Layers never change, so each is looked at once in the life of a process. `stays` tells which
    /// images (by id) a prune of images would leave.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn usage(&self, stays: &dyn Fn(&Digest) -> bool) -> Result<Usage> {
        usage::measure(self.store, stays)
    }

    /// What one container takes: its writable layer, its log and its other state, in bytes.
    pub fn container_usage(&self, id: &str) -> u64 {
        usage::container(self.store, id)
    }

    /// Notes that an image is used now. Cheap: written down at most once a minute for each.
    pub fn note_use(&self, image: &Digest) -> Result<()> {
        let now = now();
        let last = self.last_use(image);
        if last.is_some_and(|last| now.abs_diff(last) < 60) || self.store.image(image).is_none() {
            return Ok(());
        }
        self.store.inner.database.write_relaxed(|db| {
            let sql = "INSERT OR REPLACE INTO store_uses (image, used_at) VALUES (?1, ?2)";
            db.execute(sql, (image.as_str(), now)).map(drop)
        })?;
        self.store.catalog_mut().uses.insert(image.clone(), now);
        Ok(())
    }

    /// When an image was last used, in seconds since 1970; `None` if never since it is here.
    pub fn last_use(&self, image: &Digest) -> Option<i64> {
        self.store.catalog().uses.get(image).copied()
    }

    /// How much of the disk that the store is on is in use, in percent of what is not kept for root.
    pub fn disk_in_use(&self) -> Result<u8> {
        let path = &self.store.inner.root;
        let stat = rustix::fs::statvfs(path)
            .map_err(|errno| crate::Error::io(format!("statvfs {}", path.display()), errno))?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        let all = used.saturating_add(stat.f_bavail).max(1);
        Ok(u8::try_from(used.saturating_mul(100).div_ceil(all)).unwrap_or(100))
    }

    /// Moves something of the caller's own, on the store's file system, to the quarantine; tells where it is now, or `None`
    /// if it was not there. `path` must not be one that others can influence.
    pub fn set_aside(&self, path: &Path, kind: &str) -> Result<Option<PathBuf>> {
        self.store.inner.quarantine.take_path(path, kind)
    }

    /// Keeps the text of a record that cannot be read in the quarantine.
    pub fn set_record_aside(&self, kind: &str, name: &str, text: &[u8]) -> Result<PathBuf> {
        self.store.inner.quarantine.keep(kind, name, text)
    }
}
