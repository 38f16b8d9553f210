//! The images as a registry shows them to others, and what others push to it as images. Owns what a repository and a tag of that
//! registry are called here: as people write the name of the image (`app` is `docker.io/library/app`, `ghcr.io/team/app` is that).
//! Images whose name has a port in it cannot be asked for that way and are not shown. Must not know HTTP. Blocks.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use brig_oci::{Digest, Document, Manifest, Platform, Reference};
use brig_store::{ImageRecord, Lease, Packed, Repositories, Store, TagRecord};

use super::family::Kind;
use super::{Images, platforms, remove};
use crate::error::{Error, ErrorKind, Result, from_store};

/// An image that a push has just brought may be a part of what is still to come: it is not pruned for so long.
const PUSH: Duration = Duration::from_secs(3600);

/// What became of a manifest that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is an image of the engine, with its names.
    Image,
    /// It describes none that this engine could run: nothing has changed.
    Other,
    /// It says that it is one, and is not what it says, or cannot be unpacked: nothing has changed.
    Broken(String),
}

/// The images of an engine as a registry has them.
pub struct Shelf {
    images: Images,
    /// Layers are compressed for one image at a time: whoever asks for the same one finds it done then.
    preparing: Mutex<()>,
}

/// Whether an image may be part of a push to this engine's registry that is not at its end.
pub(super) fn is_being_pushed(images: &Images, id: &Digest) -> bool {
    Repositories::of(&images.store).is_recent(id, PUSH).unwrap_or(true)
}

/// The image that a repository is of. It has that one name only: who may see `app` is asked about `app`.
fn image_name(repository: &str) -> Option<Reference> {
    Reference::parse_bare(repository).ok().filter(|name| name.familiar_name() == repository)
}

fn name(repository: &str, tag: &str) -> Option<Reference> {
    image_name(repository)?.with_tag(tag).ok()
}

impl Shelf {
    /// The images of an engine.
    pub fn of(images: &Images) -> Shelf {
        Shelf { images: images.clone(), preparing: Mutex::default() }
    }

    /// Where the images are kept.
    pub fn store(&self) -> &Store {
        &self.images.store
    }

    /// The names in the store with what they mean.
    fn names(&self) -> impl Iterator<Item = (Reference, TagRecord)> {
        let tags = self.images.store.tags().into_iter();
        tags.filter_map(|tag| Some((Reference::parse(&tag.name).ok()?, tag))).filter(|(name, _)| name.tag().is_some())
    }

    /// The names of one repository's images, and what they begin with: their tags follow.
    fn names_of(&self, repository: &str) -> (String, Vec<TagRecord>) {
        let Some(name) = image_name(repository) else { return Default::default() };
        let prefix = format!("{}:", name.name());
        let names = brig_store::tags_beginning(&self.images.store, &prefix);
        (prefix, names)
    }

    fn resolve(&self, repository: &str, tag: &str) -> Option<(Reference, TagRecord)> {
        let name = name(repository, tag)?;
        let record = self.images.store.resolve(&name.canonical())?;
        Some((name, record))
    }

    /// The repositories that there are; the caller leaves out those that its protocol has no words for.
    pub fn repositories(&self) -> BTreeSet<String> {
        self.names().map(|(name, _)| name.familiar_name()).collect()
    }

    /// The tags of a repository.
    pub fn tags(&self, repository: &str) -> BTreeSet<String> {
        let (prefix, names) = self.names_of(repository);
        let tag = |name: &TagRecord| name.name.strip_prefix(&prefix)?.split('@').next().map(str::to_owned);
        names.iter().filter_map(tag).collect()
    }

    /// The manifests and indexes that the tags of a repository are known to mean: the index of a name, and the manifest of
    /// its image.
    pub fn tops(&self, repository: &str) -> Vec<Digest> {
        let (_, names) = self.names_of(repository);
        // Of many names for few images.
        let images: BTreeSet<&Digest> = names.iter().map(|name| &name.image).collect();
        let tops: BTreeSet<Digest> = names.iter().filter_map(|name| name.manifest.clone()).collect();
        let own = images.into_iter().filter_map(|image| self.images.store.image(image)?.manifest);
        tops.into_iter().chain(own).collect()
    }

    /// The manifest or index under which a tag's image can be had whole; made if there is none yet, for which its layers have
    /// to be compressed.
    ///
    /// # Errors
    /// If the image is damaged.
    pub fn manifest(&self, repository: &str, tag: &str) -> Result<Option<Digest>> {
        let Some((name, record)) = self.resolve(repository, tag) else { return Ok(None) };
        if let Some(top) = record.manifest.as_ref().filter(|top| self.is_whole(top)) {
            return Ok(Some(top.clone()));
        }
        let _turn = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        let store = &self.images.store;
        let _lease = Lease::begin(store);
        let made = brig_registry::prepare(&self.images.client, store, &record.image, &name)
            .map_err(super::transfer::from_registry)?;
        self.note(&name, &record, &made)?;
        Ok(Some(made))
    }

    /// Sees to it that something leads to the manifest of an image.
    fn note(&self, name: &Reference, record: &TagRecord, made: &Digest) -> Result<()> {
        let store = &self.images.store;
        let image = store.image(&record.image);
        if record.manifest.as_ref() == Some(made) || image.as_ref().and_then(|it| it.manifest.as_ref()) == Some(made) {
            return Ok(());
        }
        // What stands for an index goes on doing so.
        let is_index =
            record.manifest.as_ref().and_then(|top| self.images.family_of(top)).is_some_and(|it| it.is_index);
        if is_index {
            store.put_image(ImageRecord::new(record.image.clone(), Some(made.clone()))).map_err(from_store)?;
        } else if store.resolve(&name.canonical()).is_some_and(|now| now.image == record.image) {
            store.tag(&name.canonical(), &record.image, Some(made)).map_err(from_store)?;
        }
        Ok(())
    }

    /// Whether everything that a manifest or an index leads to can be had, byte for byte.
    fn is_whole(&self, top: &Digest) -> bool {
        let Some(family) = self.images.family_of(top) else { return false };
        let has_blobs = |manifest: &Manifest| {
            let forms = Packed::of(&self.images.store);
            manifest.layers.iter().all(|layer| {
                let size = self.images.store.blob_size(&layer.digest);
                let size = size.or_else(|| forms.size(&layer.digest).ok().flatten());
                size == Some(layer.size) || !layer.urls.is_empty()
            })
        };
        let all = family.members.iter().filter_map(|member| member.manifest.as_ref()).all(has_blobs);
        all && !family.members.is_empty() && (platforms::goes_whole(&family) || !family.is_index)
    }

    /// Makes an image of a manifest, or images of an index, that was pushed to `repository` and is in the store with its blobs,
    /// and gives it these tags.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidParameter`] if images of this repository are called otherwise.
    pub fn take(&self, repository: &str, digest: &Digest, tags: &[String]) -> Result<Taken> {
        if let Some(other) = Reference::parse_bare(repository).ok().filter(|name| name.familiar_name() != repository) {
            let text = format!("{repository} is called {} here: push to that", other.familiar_name());
            return Err(Error::invalid(text));
        }
        let Some(names) = tags.iter().map(|tag| name(repository, tag)).collect::<Option<Vec<_>>>() else {
            return Ok(Taken::Other);
        };
        let store = &self.images.store;
        let lease = Lease::begin(store);
        let bytes = store.read_blob(digest).map_err(from_store)?;
        let document = Document::parse(&bytes, None).map_err(|e| Error::invalid(e.to_string()))?;
        let image = match document {
            Document::Manifest(manifest) => self.adopt(digest, &manifest),
            Document::Index(_) => self.adopt_all(digest),
        };
        let image = match image {
            Ok(Some(image)) => image,
            Ok(None) => return Ok(Taken::Other),
            Err(error) if error.kind == ErrorKind::InvalidParameter => return Ok(Taken::Broken(error.message)),
            Err(error) => return Err(error),
        };
        if !names.is_empty() {
            let canonical: Vec<String> = names.iter().map(Reference::canonical).collect();
            brig_store::tag_all(store, &canonical, &image.id, Some(digest)).map_err(from_store)?;
        }
        for name in names {
            self.images.emit("tag", image.id.as_str(), &name.familiar());
        }
        drop(lease);
        Ok(Taken::Image)
    }

    fn adopt(&self, digest: &Digest, manifest: &Manifest) -> Result<Option<ImageRecord>> {
        let store = &self.images.store;
        let is_new = store.image(&manifest.config.digest).is_none();
        // Calls block, on threads of the runtime that pulls run on.
        let runtime = tokio::runtime::Handle::current();
        let place = || self.images.client.place_to_unpack(&runtime);
        let image = brig_store::adopt(store, digest, manifest, &place).map_err(|e| match e.kind {
            // Of what was pushed, not of what is here.
            brig_store::ErrorKind::Mismatch => Error::invalid(e.message),
            _ => from_store(e),
        })?;
        if let Some(image) = image.as_ref().filter(|_| is_new) {
            self.images.emit("load", image.id.as_str(), image.id.as_str());
        }
        Ok(image)
    }

    /// The image that an index means here, when all of its images are.
    fn adopt_all(&self, digest: &Digest) -> Result<Option<ImageRecord>> {
        let Some(family) = self.images.family_of(digest) else { return Ok(None) };
        for member in family.members.iter().filter(|member| member.kind == Kind::Image && member.image.is_none()) {
            if let Some(manifest) = &member.manifest {
                self.adopt(&member.descriptor.digest, manifest)?;
            }
        }
        let Some(family) = self.images.family_of(digest) else { return Ok(None) };
        Ok(family.select(&Platform::host()).or_else(|| family.images().next().map(|(_, image)| image)).cloned())
    }

    /// What a tag is known to mean, without making anything.
    pub fn meaning(&self, repository: &str, tag: &str) -> Option<Digest> {
        let (_, record) = self.resolve(repository, tag)?;
        record.manifest.or_else(|| self.images.store.image(&record.image)?.manifest)
    }

    /// Takes a name away; whether there was one. The image stays, as one without a name if it has no other.
    pub fn untag(&self, repository: &str, tag: &str) -> Result<bool> {
        let Some((name, _)) = self.resolve(repository, tag) else { return Ok(false) };
        remove::untag(&self.images, &name.canonical(), &mut Vec::new())?;
        Ok(true)
    }

    /// Removes the image of a manifest if no name leads to it and no container uses it.
    pub fn forget(&self, digest: &Digest) -> Result<()> {
        let Some(family) = self.images.family_of(digest) else { return Ok(()) };
        let orphans = family.images().map(|(_, image)| image.id.clone()).collect();
        remove::forget_orphans(&self.images, orphans, &mut Vec::new()).map(drop)
    }
}
