//! Finding containers by id, unambiguous part of an id, or name. Owns the two maps and the reservation of names;
//! must not change a container.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Handle;
use super::create::choose_name;
use super::record::Record;
use super::view::View;
use crate::error::{Error, Result};

/// The containers of this daemon.
#[derive(Default)]
pub struct Index {
    maps: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    by_id: BTreeMap<String, Arc<Handle>>,
    /// Name → id. A name is here from before its container exists until after it is gone.
    names: BTreeMap<String, String>,
}

impl Index {
    fn read(&self) -> RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the record its name and takes the name.
    pub fn name(&self, mut record: Record, given: Option<&str>) -> Result<Record> {
        let mut maps = self.write();
        record.name = choose_name(given, |name| maps.names.get(name).cloned())?;
        maps.names.insert(record.name.clone(), record.id.clone());
        Ok(record)
    }

    /// Takes another name for a container; the old one stays taken until [`Index::forget_name`].
    pub fn take_name(&self, id: &str, new: &str) -> Result<()> {
        let mut maps = self.write();
        let new = choose_name(Some(new), |name| maps.names.get(name).cloned())?;
        maps.names.insert(new, id.to_owned());
        Ok(())
    }

    /// Frees a name.
    pub fn forget_name(&self, name: &str) {
        self.write().names.remove(name);
    }

    /// Frees whatever names point to this id.
    pub fn forget_name_of(&self, id: &str) {
        self.write().names.retain(|_, owner| owner != id);
    }

    /// Adds a container whose name is taken already, or is taken now.
    pub fn insert(&self, handle: Arc<Handle>, name: &str) {
        let mut maps = self.write();
        maps.names.insert(name.to_owned(), handle.id.clone());
        maps.by_id.insert(handle.id.clone(), handle);
    }

    /// Forgets a container and its name.
    pub fn forget(&self, id: &str, name: &str) {
        let mut maps = self.write();
        maps.by_id.remove(id);
        if maps.names.get(name).is_some_and(|owner| owner == id) {
            maps.names.remove(name);
        }
    }

    /// Finds by full id, name, or unambiguous beginning of an id.
    pub fn find(&self, wanted: &str) -> Result<Arc<Handle>> {
        let maps = self.read();
        let key = wanted.trim_start_matches('/');
        if let Some(handle) = maps.by_id.get(key) {
            return Ok(Arc::clone(handle));
        }
        if let Some(handle) = maps.names.get(key).and_then(|id| maps.by_id.get(id)) {
            return Ok(Arc::clone(handle));
        }
        let missing = || Error::not_found(format!("No such container: {wanted}"));
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let mut found = maps.by_id.range(key.to_owned()..).take_while(|(id, _)| id.starts_with(key));
        match (found.next(), found.next()) {
            (Some((_, handle)), None) => Ok(Arc::clone(handle)),
            (None, _) => Err(missing()),
            (Some(_), Some(_)) => Err(Error::invalid(format!(
                "multiple IDs found with provided prefix: {key}: give more digits of the one you mean"
            ))),
        }
    }

    /// The current picture of a container.
    pub fn view(&self, wanted: &str) -> Result<Arc<View>> {
        self.find(wanted).map(|handle| handle.view())
    }

    /// The pictures of all containers.
    pub fn views(&self) -> Vec<Arc<View>> {
        self.read().by_id.values().map(|handle| handle.view()).collect()
    }

    /// All containers.
    pub fn handles(&self) -> Vec<Arc<Handle>> {
        self.read().by_id.values().cloned().collect()
    }

    /// The range of host ids that a running container's users have: its own, or that of the container it joined.
    pub fn id_base_of(&self, view: &View) -> Result<Option<u32>> {
        use super::modes::{Mode, Modes};
        let mut record = Arc::clone(&view.record);
        // A chain of joins is as long as a person makes it; a circle cannot start, so it cannot be running.
        for _ in 0..64 {
            match Modes::of(&record.host_config)?.user {
                Mode::Host => return Ok(None),
                Mode::Private => return Ok(record.run.as_ref().and_then(|run| run.id_base)),
                Mode::Container(other) => record = Arc::clone(&self.view(&other)?.record),
            }
        }
        Err(Error::invalid("containers join each other's namespaces in a circle"))
    }
}
