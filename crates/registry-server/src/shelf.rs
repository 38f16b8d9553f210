//! Images that are here without having been pushed: an engine's on the same store. Owns what a repository shows through them
//! beside what was pushed to it, and that neither is lost for the other. Must not know what they are called elsewhere.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brig_oci::{Digest, Document, media_type};
use brig_store::{ErrorKind, ManifestInfo, Packed, Referenced, Source};

use crate::handlers::{Parsed, keep_manifest, parse_manifest, store_manifest};
use crate::refusal::Refusal;
use crate::registry::Inner;

/// Documents that are kept parsed, and how much they may lead to in all: an entry takes some 150 bytes.
const MOST_KNOWN: usize = 4096;
const MOST_ENTRIES: usize = 1 << 18;
/// Indexes within indexes that are followed.
const DEPTH: usize = 8;

/// Why images could not be had, or made.
#[derive(Debug, Clone)]
pub struct ShelfError {
    /// Whether what was pushed is at fault.
    pub is_clients: bool,
    /// For people.
    pub message: String,
}

/// What became of a manifest that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// It is an image with these tags.
    Image,
    /// It describes no image: nothing has changed.
    Other,
    /// It says that it is an image and is none, for this reason: nothing has changed.
    Broken(String),
}

/// Images with their names, as a registry sees them. All calls may block. What is a digest here is a document in the store.
pub trait Shelf: Send + Sync + 'static {
    /// The names that images have, which need not be names of repositories.
    fn repositories(&self) -> BTreeSet<String>;
    /// The tags that they have.
    fn tags(&self, repository: &str) -> BTreeSet<String>;
    /// What the tags of a repository are known to mean.
    fn tops(&self, repository: &str) -> Vec<Digest>;
    /// What a tag is known to mean.
    fn meaning(&self, repository: &str, tag: &str) -> Option<Digest>;
    /// The manifest or index under which a tag's image can be had whole, made now if need be.
    ///
    /// # Errors
    /// If the image is damaged.
    fn manifest(&self, repository: &str, tag: &str) -> Result<Option<Digest>, ShelfError>;
    /// Makes an image of a manifest that was pushed, or of an index, and gives it these tags.
    ///
    /// # Errors
    /// If images of this repository are called otherwise, and the disk's.
    fn take(&self, repository: &str, digest: &Digest, tags: &[String]) -> Result<Taken, ShelfError>;
    /// Takes a tag away; `false` if there is none.
    ///
    /// # Errors
    /// The disk's.
    fn untag(&self, repository: &str, tag: &str) -> Result<bool, ShelfError>;
    /// A manifest is not shown any more: its image goes if nothing else needs it.
    ///
    /// # Errors
    /// The disk's.
    fn forget(&self, digest: &Digest) -> Result<(), ShelfError>;
}

impl From<ShelfError> for Refusal {
    fn from(error: ShelfError) -> Refusal {
        match error.is_clients {
            true => Refusal::manifest_invalid(error.message),
            false => Refusal::internal(error.message),
        }
    }
}

/// Documents by digest, parsed once: what a digest means never changes.
#[derive(Default)]
pub(crate) struct Documents(Mutex<Known>);

#[derive(Default)]
struct Known {
    leads: HashMap<Digest, Arc<Leads>>,
    /// How much all of them lead to.
    entries: usize,
}

/// What a document leads to.
struct Leads {
    media_type: String,
    size: u64,
    blobs: Vec<(Digest, u64)>,
    documents: Vec<Digest>,
}

impl Documents {
    fn read(&self, inner: &Inner, digest: &Digest) -> Option<Arc<Leads>> {
        inner.store.blob_size(digest)?;
        if let Some(known) = self.known().leads.get(digest) {
            return Some(known.clone());
        }
        Some(self.keep(digest, leads(&inner.store.read_blob(digest).ok()?)?))
    }

    fn keep(&self, digest: &Digest, leads: Leads) -> Arc<Leads> {
        let (entries, leads) = (leads.blobs.len() + leads.documents.len(), Arc::new(leads));
        let mut known = self.known();
        if known.leads.len() >= MOST_KNOWN || known.entries + entries > MOST_ENTRIES {
            *known = Known::default();
        }
        // Another thread may have been quicker, with the same.
        if known.leads.insert(digest.clone(), leads.clone()).is_none() {
            known.entries += entries;
        }
        leads
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn leads(bytes: &[u8]) -> Option<Leads> {
    let size = bytes.len() as u64;
    let or = |kind: String, default: &str| if kind.is_empty() { default.to_owned() } else { kind };
    Some(match Document::parse(bytes, None).ok()? {
        Document::Manifest(manifest) => Leads {
            media_type: or(manifest.media_type, media_type::OCI_MANIFEST),
            size,
            blobs: std::iter::once(manifest.config).chain(manifest.layers).map(|it| (it.digest, it.size)).collect(),
            documents: Vec::new(),
        },
        Document::Index(index) => Leads {
            media_type: or(index.media_type, media_type::OCI_INDEX),
            size,
            blobs: index.manifests.iter().map(|entry| (entry.digest.clone(), entry.size)).collect(),
            documents: index.manifests.into_iter().map(|entry| entry.digest).collect(),
        },
    })
}

impl Inner {
    pub(crate) fn shelf(&self) -> Option<&dyn Shelf> {
        self.settings.shelf.as_deref()
    }

    fn hand_over(&self) -> MutexGuard<'_, ()> {
        self.handing_over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every document that the images of a repository lead to, until `found` is.
    fn walk(&self, repository: &str, mut found: impl FnMut(&Digest, &Leads) -> bool) {
        let mut todo: Vec<(usize, Digest)> =
            self.shelf().map(|shelf| shelf.tops(repository)).into_iter().flatten().map(|top| (0, top)).collect();
        let mut seen = HashSet::new();
        while let Some((depth, digest)) = todo.pop() {
            if depth > DEPTH || !seen.insert(digest.clone()) {
                continue;
            }
            let Some(leads) = self.documents.read(self, &digest) else { continue };
            if found(&digest, &leads) {
                return;
            }
            todo.extend(leads.documents.iter().map(|child| (depth + 1, child.clone())));
        }
    }

    /// The manifest with a digest, if a repository shows it through an image.
    pub(crate) fn shelved_manifest(&self, repository: &str, digest: &Digest) -> Option<ManifestInfo> {
        let mut info = None;
        self.walk(repository, |at, leads| {
            let is_it = at == digest;
            if is_it {
                let (media_type, size) = (leads.media_type.clone(), leads.size);
                info = Some(ManifestInfo { digest: digest.clone(), media_type, size, updated_at: 0 });
            }
            is_it
        });
        info
    }

    /// What a tag means to an image.
    pub(crate) fn shelved_tag(&self, repository: &str, tag: &str) -> Result<Option<ManifestInfo>, Refusal> {
        let Some(shelf) = self.shelf() else { return Ok(None) };
        let Some(digest) = shelf.manifest(repository, tag)? else { return Ok(None) };
        let leads = self.documents.read(self, &digest);
        let leads = leads.ok_or_else(|| Refusal::internal(format!("manifest {digest} is lost")))?;
        let (media_type, size) = (leads.media_type.clone(), leads.size);
        Ok(Some(ManifestInfo { digest, media_type, size, updated_at: 0 }))
    }

    /// The length of a blob, if a repository shows it through an image.
    pub(crate) fn shelved_blob(&self, repository: &str, digest: &Digest) -> Option<u64> {
        let mut size = None;
        self.walk(repository, |_, leads| {
            size = leads.blobs.iter().find(|(blob, _)| blob == digest).map(|(_, size)| *size);
            size.is_some()
        });
        size.filter(|size| self.stored_size(digest) == Some(*size))
    }

    /// The length of a blob that can be had from the store: as it came, or made again from a layer.
    pub(crate) fn stored_size(&self, digest: &Digest) -> Option<u64> {
        let form = || match Packed::of(&self.store).size(digest) {
            Ok(size) => size,
            Err(error) => {
                tracing::error!("blob {digest} cannot be looked for: {error}");
                None
            }
        };
        self.store.blob_size(digest).or_else(form)
    }

    /// The repositories of which images are shown here, if what they are called is a name of the protocol.
    pub(crate) fn shelved_repositories(&self) -> BTreeSet<String> {
        let mut names = self.shelf().map(|shelf| shelf.repositories()).unwrap_or_default();
        names.retain(|name| crate::route::is_name(name));
        names
    }

    /// Shows for its own sake what a manifest names and the repository shows through an image: from now on the manifest
    /// holds it.
    fn bring(&self, repository: &str, parsed: &Parsed, depth: usize, source: Source) -> Result<(), Refusal> {
        for blob in &parsed.blobs {
            if self.repositories.blob_size(repository, blob)?.is_none()
                && let Some(size) = self.shelved_blob(repository, blob)
            {
                match source {
                    Source::Here => self.repositories.show_blob(repository, blob, size)?,
                    Source::Push | Source::Pushed | Source::Registry => {
                        self.repositories.link_blob(repository, blob, size)?
                    }
                }
            }
        }
        for child in parsed.manifests.iter().filter(|_| depth < DEPTH) {
            if self.shelved_manifest(repository, child).is_some() {
                self.anchor(repository, child, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Shows for its own sake a manifest that is shown through an image, so that it can be had by its digest when the tag is
    /// gone.
    fn anchor(&self, repository: &str, digest: &Digest, depth: usize) -> Result<(), Refusal> {
        let bytes = match self.store.read_blob(digest) {
            Ok(bytes) => bytes,
            // An index may list what was never here.
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // First what holds, then what it holds: until the name is gone that leads to the image, this shows the same.
        keep_manifest(self, repository, digest, &bytes, None, Source::Here)?;
        self.bring(repository, &parse_manifest(&bytes, None)?, depth, Source::Here)
    }

    /// Takes in a manifest that was pushed: as an image if it is one, else as what it is. Tells why it is no image though it says
    /// that it is.
    pub(crate) fn shelve(
        &self,
        repository: &str,
        digest: &Digest,
        bytes: &[u8],
        parsed: &Parsed,
        tags: &[String],
    ) -> Result<Option<String>, Refusal> {
        let Some(shelf) = self.shelf() else {
            return store_manifest(self, repository, digest, bytes, parsed, tags, Source::Push).map(|()| None);
        };
        let turn = self.hand_over();
        self.bring(repository, parsed, 0, Source::Push)?;
        let was_here = self.repositories.manifest(repository, &Referenced::Digest(digest))?.is_some();
        // It holds its blobs from here on.
        store_manifest(self, repository, digest, bytes, parsed, &[], Source::Push)?;
        for tag in tags {
            if let Some(old) = shelf.meaning(repository, tag).filter(|old| old != digest) {
                self.anchor(repository, &old, 0)?;
            }
        }
        drop(turn);
        match shelf.take(repository, digest, tags) {
            Ok(Taken::Image) => {
                self.repositories.delete_tags(repository, tags)?;
                if !tags.is_empty() {
                    let _turn = self.hand_over();
                    self.release(repository, digest, 0)?;
                }
                Ok(None)
            }
            Ok(taken) => {
                for tag in tags {
                    shelf.untag(repository, tag)?;
                }
                store_manifest(self, repository, digest, bytes, parsed, tags, Source::Pushed)?;
                let Taken::Broken(why) = taken else { return Ok(None) };
                tracing::warn!("{digest} was pushed to {repository} and is kept, but is no image: {why}");
                Ok(Some(why))
            }
            Err(error) => {
                if !was_here {
                    self.repositories.delete_manifest(repository, digest)?;
                }
                Err(error.into())
            }
        }
    }

    /// The opposite of anchoring: the image's name leads to it, and to what it lists.
    fn release(&self, repository: &str, digest: &Digest, depth: usize) -> Result<(), Refusal> {
        self.repositories.release(repository, digest)?;
        let Some(leads) = self.documents.read(self, digest).filter(|_| depth < DEPTH) else { return Ok(()) };
        leads.documents.iter().try_for_each(|child| self.release(repository, child, depth + 1))
    }

    /// Takes a tag away from an image; the manifest can be had by its digest as before.
    pub(crate) fn unshelve_tag(&self, repository: &str, tag: &str) -> Result<bool, Refusal> {
        let Some(shelf) = self.shelf() else { return Ok(false) };
        if let Some(old) = shelf.meaning(repository, tag) {
            let _turn = self.hand_over();
            self.anchor(repository, &old, 0)?;
        }
        Ok(shelf.untag(repository, tag)?)
    }

    /// Takes all tags away that mean a manifest; whether there were any.
    pub(crate) fn unshelve(&self, repository: &str, digest: &Digest) -> Result<bool, Refusal> {
        let Some(shelf) = self.shelf() else { return Ok(false) };
        let mut any = false;
        for tag in shelf.tags(repository) {
            if shelf.meaning(repository, &tag).as_ref() == Some(digest) {
                any |= shelf.untag(repository, &tag)?;
            }
        }
        Ok(any)
    }

    /// What has a name though no tag of a repository's own.
    pub(crate) fn named(&self) -> Vec<(String, Digest)> {
        let of = |repository: String| {
            let tops = self.shelf().map(|shelf| shelf.tops(&repository)).unwrap_or_default();
            tops.into_iter().map(move |top| (repository.clone(), top))
        };
        self.shelved_repositories().into_iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_parsed_is_bounded_by_what_is_in_it() {
        let documents = Documents::default();
        let blob = (brig_store::digest::sha256_of(b"blob"), 4);
        let mut most = 0;
        for nth in 0..40u8 {
            let (media_type, size, blobs) = (String::new(), 0, vec![blob.clone(); 30_000]);
            documents
                .keep(&brig_store::digest::sha256_of(&[nth]), Leads { media_type, size, blobs, documents: vec![] });
            let known = documents.0.lock().unwrap();
            let entries: usize = known.leads.values().map(|leads| leads.blobs.len()).sum();
            assert!(entries <= MOST_ENTRIES && entries > 0 && known.entries == entries, "{entries}");
            most = most.max(entries);
        }
        assert!(most > MOST_ENTRIES / 2);
    }
}
