//! Images and their names. What may be forgotten because nothing leads to it any more is `collect`'s.
//! Must not fetch or unpack; it only relates what is already here.

use std::ops::Bound;
use std::sync::MutexGuard;
use std::time::{SystemTime, UNIX_EPOCH};

use brig_oci::{Digest, ImageConfig};

use crate::catalog::{ImageRecord, TagRecord};
use crate::collect::Reclaimed;
use crate::digest;
use crate::error::{Error, Result};
use crate::lease::Pin;
use crate::repositories;
use crate::store::Store;

impl Store {
    /// Makes an image of a configuration and layers that are all here; durable when this returns.
    /// Fails, and says what is missing, if one is not. Storing an image again updates its manifest.
    pub fn put_image(&self, image: ImageRecord) -> Result<ImageRecord> {
        // First: what is read now is not collected before its record is there.
        let _gate = self.gate();
        let bytes = self.read_blob(&image.id)?;
        let config = ImageConfig::parse(&bytes).map_err(|error| Error::invalid(error.to_string()))?;
        let chain_id = digest::top_chain_id(&config.rootfs.diff_ids);
        if let Some(chain) = &chain_id
            && !self.is_whole(chain)
        {
            return Err(Error::not_found(format!(
                "image {}: not all of its layers are in the store: pull it again",
                image.id
            )));
        }
        if let Some(manifest) = &image.manifest
            && !self.has_blob(manifest)
        {
            return Err(Error::not_found(format!("image {}: its manifest {manifest} is not in the store", image.id)));
        }
        let size_bytes =
            chain_id.as_ref().map_or(0, |chain| self.catalog().chain(chain).iter().map(|layer| layer.size_bytes).sum());
        let stored_at = self.image(&image.id).map_or_else(now, |known| known.stored_at);
        let image = ImageRecord { chain_id, size_bytes, created: config.created, stored_at, ..image };
        self.inner.database.write(|db| {
            db.execute(
                "INSERT OR REPLACE INTO store_images (id, manifest, chain_id, size_bytes, created, stored_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    image.id.as_str(),
                    image.manifest.as_ref().map(Digest::as_str),
                    image.chain_id.as_ref().map(Digest::as_str),
                    i64::try_from(image.size_bytes).unwrap_or(i64::MAX),
                    &image.created,
                    image.stored_at,
                ),
            )
            .map(drop)
        })?;
        self.catalog_mut().images.insert(image.id.clone(), image.clone());
        Ok(image)
    }

    /// All images, in no order.
    pub fn images(&self) -> Vec<ImageRecord> {
        self.catalog().images.values().cloned().collect()
    }

    /// The image with this id.
    pub fn image(&self, id: &Digest) -> Option<ImageRecord> {
        self.catalog().images.get(id).cloned()
    }

    /// An image's configuration as it was stored.
    pub fn image_config(&self, id: &Digest) -> Result<ImageConfig> {
        ImageConfig::parse(&self.read_blob(id)?).map_err(|error| Error::corrupt(format!("image {id}: {error}")))
    }

    /// Forgets an image, all its names and the manifests of it that repositories show; durable when this returns. Its layers
    /// go with the next collection.
    pub fn remove_image(&self, id: &Digest) -> Result<()> {
        let gate = self.gate();
        remove_image(self, &gate, id)
    }

    /// Gives an image that is here a name, taking it from another image if need be; durable when this returns.
    /// `manifest` is what the name meant where the image came from.
    pub fn tag(&self, name: &str, image: &Digest, manifest: Option<&Digest>) -> Result<()> {
        tag_all(self, &[name.to_owned()], image, manifest)
    }

    /// Takes a name away; tells what it meant, or `None` if nothing.
    pub fn untag(&self, name: &str) -> Result<Option<TagRecord>> {
        let _gate = self.gate();
        self.inner.database.write(|db| db.execute("DELETE FROM store_tags WHERE name = ?1", [name]).map(drop))?;
        Ok(self.catalog_mut().tags.remove(name))
    }

    /// All names, in order.
    pub fn tags(&self) -> Vec<TagRecord> {
        self.catalog().tags.values().cloned().collect()
    }

    /// What a name means.
    pub fn resolve(&self, name: &str) -> Option<TagRecord> {
        self.catalog().tags.get(name).cloned()
    }

    /// Keeps these layers, and those below them, from being collected while the result lives.
    pub fn pin(&self, chains: &[Digest]) -> Pin {
        Pin::new(self, chains)
    }

    /// Removes layers and blobs that nothing leads to and that are not in `keep` (chain ids).
    pub fn gc(&self, keep: &[Digest]) -> Result<Reclaimed> {
        self.upkeep().collect(keep)
    }
}

/// As [`Store::remove_image`], unless a name leads to it: one may have come after the caller looked. Tells whether it went.
pub fn remove_unnamed_image(store: &Store, id: &Digest) -> Result<bool> {
    let gate = store.gate();
    if store.catalog().tags.values().any(|tag| tag.image == *id) {
        return Ok(false);
    }
    remove_image(store, &gate, id).map(|()| true)
}

/// See [`Store::remove_image`]. Whoever has the gate has looked before, if that matters.
fn remove_image(store: &Store, _gate: &MutexGuard<'_, ()>, id: &Digest) -> Result<()> {
    store.inner.database.write(|db| {
        db.execute("DELETE FROM store_tags WHERE image = ?1", [id.as_str()])?;
        db.execute("DELETE FROM store_uses WHERE image = ?1", [id.as_str()])?;
        repositories::forget_image(db, id)?;
        db.execute("DELETE FROM store_images WHERE id = ?1", [id.as_str()]).map(drop)
    })?;
    let mut catalog = store.catalog_mut();
    catalog.tags.retain(|_, tag| tag.image != *id);
    catalog.images.remove(id);
    catalog.uses.remove(id);
    Ok(())
}

/// As [`Store::tag`], with all of these names or none.
pub fn tag_all(store: &Store, names: &[String], image: &Digest, manifest: Option<&Digest>) -> Result<()> {
    let _gate = store.gate();
    if store.image(image).is_none() {
        return Err(Error::not_found(format!("cannot tag {}: image {image} is not in the store", names.join(", "))));
    }
    let updated_at = now();
    store.inner.database.write(|db| {
        let sql = "INSERT OR REPLACE INTO store_tags (name, image, manifest, updated_at) VALUES (?1, ?2, ?3, ?4)";
        let mut insert = db.prepare_cached(sql)?;
        let manifest = manifest.map(Digest::as_str);
        names.iter().try_for_each(|name| insert.execute((name, image.as_str(), manifest, updated_at)).map(drop))
    })?;
    let mut catalog = store.catalog_mut();
    for name in names {
        let record = TagRecord { name: name.clone(), image: image.clone(), manifest: manifest.cloned(), updated_at };
        catalog.tags.insert(record.name.clone(), record);
    }
    Ok(())
}

/// The names of images that begin so, in order.
pub fn tags_beginning(store: &Store, prefix: &str) -> Vec<TagRecord> {
    let catalog = store.catalog();
    let from = catalog.tags.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
    from.take_while(|(name, _)| name.starts_with(prefix)).map(|(_, tag)| tag.clone()).collect()
}

pub(crate) fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use brig_tests::wait::eventually;

    use super::*;

    /// A store with the configuration of an image without layers, and its digest.
    fn with_configuration() -> (tempfile::TempDir, Store, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let id = store.put_blob(config).unwrap();
        (dir, store, id)
    }

    /// Between the look at a configuration and the record of its image no collection comes: a record never points at nothing.
    #[test]
    fn no_image_is_made_of_a_configuration_that_is_being_collected() {
        let (_dir, store, id) = with_configuration();
        let collection = store.gate();
        let (tell, told) = std::sync::mpsc::channel();
        let (making, image) = (store.clone(), ImageRecord::new(id.clone(), None));
        let maker = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            making.put_image(image)
        });
        let status = format!("/proc/self/task/{}/stat", told.recv().unwrap());
        let sleeps = || std::fs::read_to_string(&status).unwrap().rsplit(") ").next().unwrap().starts_with('S');
        eventually("it waits for the collection", || sleeps().then_some(()));
        std::fs::remove_file(store.inner.blob_path(&id)).unwrap();
        drop(collection);
        assert!(maker.join().unwrap().is_err());
        assert!(store.image(&id).is_none());
    }

    /// Between a look at an image without a name and its removal somebody may give it one.
    #[test]
    fn an_image_that_was_given_a_name_meanwhile_stays() {
        let (_dir, store, id) = with_configuration();
        store.put_image(ImageRecord::new(id.clone(), None)).unwrap();
        store.tag("docker.io/library/new:1", &id, None).unwrap();
        assert!(!remove_unnamed_image(&store, &id).unwrap());
        assert!(store.image(&id).is_some() && store.resolve("docker.io/library/new:1").is_some());
        store.untag("docker.io/library/new:1").unwrap();
        assert!(remove_unnamed_image(&store, &id).unwrap());
        assert!(store.image(&id).is_none());
    }
}
