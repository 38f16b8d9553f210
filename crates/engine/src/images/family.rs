//! What a name leads to beside the image that it means here: its index, the images for other platforms, attestations and
//! artifacts. All of that is read from the documents in the store; nothing is recorded twice. Must not change anything.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use brig_oci::{Descriptor, Digest, Document, Manifest, Platform, media_type};
use brig_store::{ImageRecord, Store, TagRecord};

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;
/// Documents that are kept parsed.
const MAX_KNOWN: usize = 4096;

/// Documents by digest, parsed once: what a digest means never changes.
#[derive(Clone, Default)]
pub(super) struct Documents(Arc<Mutex<HashMap<Digest, Arc<Document>>>>);

/// What one name, or an image without any, leads to.
pub(super) struct Family {
    /// What the name means where it came from: an index or a manifest.
    pub(super) top: Descriptor,
    pub(super) is_index: bool,
    pub(super) members: Vec<Member>,
}

/// One manifest that a name leads to.
pub(super) struct Member {
    pub(super) descriptor: Descriptor,
    pub(super) kind: Kind,
    /// The manifest, if it is here.
    pub(super) manifest: Option<Manifest>,
    /// The image, if it is here.
    pub(super) image: Option<ImageRecord>,
}

/// What a manifest describes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    /// Statements about the manifest with this digest.
    Attestation(Option<Digest>),
    /// An artifact, or what cannot be told.
    Unknown,
}

impl Documents {
    fn read(&self, store: &Store, digest: &Digest) -> Option<Arc<Document>> {
        if !store.has_blob(digest) {
            return None;
        }
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(digest) {
            return Some(Arc::clone(known));
        }
        let document = Arc::new(Document::parse(&store.read_blob(digest).ok()?, None).ok()?);
        let mut known = lock();
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(digest.clone(), Arc::clone(&document));
        Some(document)
    }

    /// What `top` leads to; `None` if that document is not here.
    pub(super) fn family(&self, store: &Store, top: &Digest) -> Option<Family> {
        let document = self.read(store, top)?;
        let size = store.blob_size(top).unwrap_or_default();
        let (kind, is_index) = match &*document {
            Document::Index(index) => (or(&index.media_type, media_type::OCI_INDEX), true),
            Document::Manifest(manifest) => (or(&manifest.media_type, media_type::OCI_MANIFEST), false),
        };
        let top = Descriptor::new(kind, top.clone(), size);
        let mut family = Family { top: top.clone(), is_index, members: Vec::new() };
        self.gather(store, &top, 0, &mut HashSet::new(), &mut family.members);
        Some(family)
    }

    fn gather(
        &self,
        store: &Store,
        entry: &Descriptor,
        depth: usize,
        seen: &mut HashSet<Digest>,
        members: &mut Vec<Member>,
    ) {
        // Many ways may lead to one manifest, and millions to one index.
        if depth > MAX_DEPTH || !seen.insert(entry.digest.clone()) {
            return;
        }
        let document = self.read(store, &entry.digest);
        if let Some(Document::Index(index)) = document.as_deref() {
            index.manifests.iter().for_each(|entry| self.gather(store, entry, depth + 1, seen, members));
            return;
        }
        let manifest = match document.as_deref() {
            Some(Document::Manifest(manifest)) => Some(manifest.clone()),
            _ => None,
        };
        let mut descriptor = entry.clone();
        let kind = kind(entry, manifest.as_ref());
        let image = manifest.as_ref().filter(|_| kind == Kind::Image).and_then(|it| store.image(&it.config.digest));
        if descriptor.platform.is_none() && kind == Kind::Image {
            let config = image.as_ref().and_then(|image| store.image_config(&image.id).ok());
            descriptor.platform = config.map(|config| config.platform());
        }
        members.push(Member { descriptor, kind, manifest, image });
    }
}

fn or(kind: &str, default: &str) -> String {
    if kind.is_empty() { default.to_owned() } else { kind.to_owned() }
}

fn kind(entry: &Descriptor, manifest: Option<&Manifest>) -> Kind {
    if entry.annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest") {
        let about = entry.annotations.get("vnd.docker.reference.digest");
        return Kind::Attestation(about.and_then(|digest| Digest::parse(digest).ok()));
    }
    let is_unknown = entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
    let is_image = manifest.is_none_or(|manifest| media_type::is_image_config(&manifest.config.media_type));
    if is_unknown || !is_image || !media_type::is_manifest(&entry.media_type) { Kind::Unknown } else { Kind::Image }
}

impl Family {
    /// The images that are here, in the order of the index.
    pub(super) fn images(&self) -> impl Iterator<Item = (&Member, &ImageRecord)> {
        self.members.iter().filter_map(|member| Some((member, member.image.as_ref()?)))
    }

    /// The best image that is here for a platform.
    pub(super) fn select(&self, wanted: &Platform) -> Option<&ImageRecord> {
        let fitting = self
            .images()
            .filter_map(|(member, image)| Some((wanted.rank(member.descriptor.platform.as_ref()?)?, image)));
        fitting.min_by_key(|(rank, _)| *rank).map(|(_, image)| image)
    }

    /// Whether it is an index of which more than one image, or everything, is here.
    pub(super) fn is_kept(&self) -> bool {
        self.is_index && (self.images().count() > 1 || self.members.iter().all(Member::is_available))
    }
}

impl Member {
    /// Whether it is here: an image with its layers, anything else with its manifest.
    pub(super) fn is_available(&self) -> bool {
        match self.kind {
            Kind::Image => self.image.is_some(),
            Kind::Attestation(_) | Kind::Unknown => self.manifest.is_some(),
        }
    }
}

/// The ids of all images that a name leads to without meaning them here: those for other platforms.
pub(super) fn parts(documents: &Documents, store: &Store, tags: &[TagRecord]) -> HashSet<Digest> {
    let mut parts = HashSet::new();
    let tops: HashSet<&Digest> = tags.iter().filter_map(|tag| tag.manifest.as_ref()).collect();
    for family in tops.into_iter().filter_map(|top| documents.family(store, top)).filter(|family| family.is_index) {
        parts.extend(family.images().map(|(_, image)| image.id.clone()));
    }
    parts
}
