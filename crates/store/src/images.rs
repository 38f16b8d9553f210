//! Images, their names, and what may be forgotten because nothing leads to it any more.
//! Must not fetch or unpack; it only relates what is already here.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brig_oci::{Digest, Document, ImageConfig};
use rustix::fs::AtFlags;

use crate::catalog::{Catalog, ImageRecord, TagRecord};
use crate::digest;
use crate::error::{Error, Result};
use crate::partial;
use crate::store::Store;
use crate::trash;

/// For how long a layer or blob that belongs to no image is left for its image to arrive.
const ARRIVAL: Duration = Duration::from_secs(3600);

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Chain ids of removed layers, upper ones before those below them.
    pub layers: Vec<Digest>,
    /// Removed configurations, manifests and indexes.
    pub blobs: Vec<Digest>,
    /// The sum of the sizes of what was removed, in bytes. Freed in the background.
    pub size_bytes: u64,
}

/// Keeps layers from being collected for as long as it lives.
pub struct Pin {
    store: Store,
    chains: Vec<Digest>,
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

impl Store {
    /// Makes an image of a configuration and layers that are all here; durable when this returns.
    /// Fails, and says what is missing, if one is not. Storing an image again updates its manifest.
    pub fn put_image(&self, image: ImageRecord) -> Result<ImageRecord> {
        let bytes = self.read_blob(&image.id)?;
        let config = ImageConfig::parse(&bytes).map_err(|error| Error::invalid(error.to_string()))?;
        let _gate = self.gate();
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
        let mut catalog = self.catalog_mut();
        let chain: Vec<Digest> = match &image.chain_id {
            Some(chain) => catalog.chain(chain).iter().map(|layer| layer.chain_id.clone()).collect(),
            None => Vec::new(),
        };
        for arrived in chain.iter().chain(&image.manifest).chain([&image.id]) {
            catalog.fresh.remove(arrived);
        }
        catalog.images.insert(image.id.clone(), image.clone());
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

    /// Forgets an image and all its names; durable when this returns. Its layers go with the next collection.
    pub fn remove_image(&self, id: &Digest) -> Result<()> {
        let _gate = self.gate();
        self.inner.database.write(|db| {
            db.execute("DELETE FROM store_tags WHERE image = ?1", [id.as_str()])?;
            db.execute("DELETE FROM store_images WHERE id = ?1", [id.as_str()]).map(drop)
        })?;
        let mut catalog = self.catalog_mut();
        catalog.tags.retain(|_, tag| tag.image != *id);
        catalog.images.remove(id);
        Ok(())
    }

    /// Gives an image that is here a name, taking it from another image if need be; durable when this returns.
    /// `manifest` is what the name meant where the image came from.
    pub fn tag(&self, name: &str, image: &Digest, manifest: Option<&Digest>) -> Result<()> {
        let _gate = self.gate();
        if self.image(image).is_none() {
            return Err(Error::not_found(format!("cannot tag {name}: image {image} is not in the store")));
        }
        let updated_at = now();
        self.inner.database.write(|db| {
            let sql = "INSERT OR REPLACE INTO store_tags (name, image, manifest, updated_at) VALUES (?1, ?2, ?3, ?4)";
            db.execute(sql, (name, image.as_str(), manifest.map(Digest::as_str), updated_at)).map(drop)
        })?;
        let record = TagRecord { name: name.to_owned(), image: image.clone(), manifest: manifest.cloned(), updated_at };
        let mut catalog = self.catalog_mut();
        if let Some(manifest) = manifest {
            catalog.fresh.remove(manifest);
        }
        catalog.tags.insert(record.name.clone(), record);
        Ok(())
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
        let mut catalog = self.catalog_mut();
        for chain in chains {
            *catalog.pinned.entry(chain.clone()).or_default() += 1;
        }
        Pin { store: self.clone(), chains: chains.to_vec() }
    }

    /// Removes layers and blobs that no image, name, writable layer or pin leads to, and that are not in `keep`
    /// (chain ids). What arrived within the last hour and still waits for its image stays.
    pub fn gc(&self, keep: &[Digest]) -> Result<Reclaimed> {
        let _gate = self.gate();
        self.inner.reserve.make_room();
        self.catalog_mut().fresh.retain(|_, arrived| arrived.elapsed() < ARRIVAL);
        let mut reclaimed = Reclaimed::default();
        collect_layers(self, keep, &mut reclaimed)?;
        collect_blobs(self, &mut reclaimed)?;
        reclaimed.size_bytes += self.partials().expire(partial::EXPIRY)?;
        Ok(reclaimed)
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
        dead.iter().try_for_each(|(_, chain, _)| delete.execute([chain.as_str()]).map(drop))
    })?;
    let mut catalog = store.catalog_mut();
    dead.iter().for_each(|(_, chain, _)| drop(catalog.layers.remove(chain)));
    drop(catalog);
    for (_, chain, size) in dead {
        store.inner.trash.take(store.inner.dirs.layers.as_fd(), chain.hex().as_ref())?;
        reclaimed.size_bytes += size;
        reclaimed.layers.push(chain);
    }
    Ok(())
}

fn collect_blobs(store: &Store, reclaimed: &mut Reclaimed) -> Result<()> {
    let live = live_blobs(store, &store.catalog());
    for (algorithm, dir) in [("sha256", &store.inner.dirs.sha256), ("sha512", &store.inner.dirs.sha512)] {
        for name in trash::names(dir.as_fd(), &store.inner.root.join("blobs").join(algorithm))? {
            let digest = name.to_str().and_then(|hex| Digest::parse(&format!("{algorithm}:{hex}")).ok());
            if digest.as_ref().is_some_and(|digest| live.contains(digest)) {
                continue;
            }
            let size = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW).map_or(0, |stat| stat.st_size);
            rustix::fs::unlinkat(dir, &name, AtFlags::empty())
                .map_err(|errno| Error::io(format!("remove blob {algorithm}:{}", name.display()), errno))?;
            reclaimed.size_bytes += u64::try_from(size).unwrap_or_default();
            reclaimed.blobs.extend(digest);
        }
    }
    Ok(())
}

/// Configurations and manifests of images, what names point to, and through indexes what they list.
fn live_blobs(store: &Store, catalog: &Catalog) -> HashSet<Digest> {
    let images = catalog.images.values();
    let mut todo: Vec<Digest> = images.clone().map(|image| image.id.clone()).collect();
    let mut live: HashSet<Digest> = todo.drain(..).collect();
    todo.extend(images.filter_map(|image| image.manifest.clone()));
    todo.extend(catalog.tags.values().filter_map(|tag| tag.manifest.clone()));
    while let Some(digest) = todo.pop() {
        if !live.insert(digest.clone()) {
            continue;
        }
        let document = store.read_blob(&digest).ok().and_then(|bytes| Document::parse(&bytes, None).ok());
        match document {
            Some(Document::Index(index)) => todo.extend(index.manifests.into_iter().map(|entry| entry.digest)),
            Some(Document::Manifest(manifest)) => live.extend([manifest.config.digest]),
            None => {}
        }
    }
    live.extend(catalog.fresh.keys().cloned());
    live
}

fn now() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_secs()).unwrap_or(i64::MAX)
}
