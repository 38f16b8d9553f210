//! The store's upkeep as a noun: collecting, measuring, checking. Each of these has a file of its own; this one only names
//! them together.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::rescue;
use crate::store::Store;

/// What keeps the store in order.
#[derive(Clone, Copy)]
pub struct Upkeep<'a> {
    pub(crate) store: &'a Store,
}

impl Upkeep<'_> {
    /// To be called when everything that keeps its records in the database is up: ends the rescue of a damaged one, and
    /// makes the copy that the next rescue would start from.
    pub fn settle(&self) -> Result<()> {
        rescue::settle(&self.store.inner.root, &self.store.inner.database)
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
