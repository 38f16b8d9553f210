//! Pulling and pushing an index as a whole: every image in it, and what is no image as it is. Owns the order, children
//! before what lists them; the bytes are the registry's and the store's.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use brig_oci::{Descriptor, Digest, Document, Index, Reference, media_type};
use brig_registry::{Auth, PullEvent, PushEvent, Pushed, documents};

use super::Images;
use super::family::{Family, Kind, Member};
use super::transfer::from_registry;
use crate::error::{Error, Result, from_store};

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;

/// Pulls everything that a name leads to; gives the digest of what it points to and the image that it means here. The
/// caller holds a lease until the name is there.
pub(super) async fn pull(
    images: &Images,
    reference: &Reference,
    auth: Option<&Auth>,
    show: &(dyn Fn(PullEvent) + Send + Sync),
) -> Result<(Digest, Digest)> {
    let top = documents::fetch(&images.client, &images.store, reference, auth).await.map_err(from_registry)?;
    let Document::Index(index) = top.document else {
        let pulled = images.client.pull(&images.store, reference, auth, None, show).await.map_err(from_registry)?;
        return Ok((pulled.manifest_digest, pulled.image_id));
    };
    let mut todo: Vec<(usize, Descriptor)> = index.manifests.into_iter().rev().map(|entry| (0, entry)).collect();
    let mut documents = vec![(top.digest.clone(), top.bytes)];
    let (mut first, mut seen) = (None, HashSet::new());
    let begun = AtomicBool::new(false);
    // The images are told of as parts of one, under the name that was asked for.
    let show = |event: PullEvent| match event {
        PullEvent::Resolved { .. } if begun.swap(true, Ordering::Relaxed) => {}
        PullEvent::Resolved { tag, repository } => {
            show(PullEvent::Resolved { tag: reference.tag().map_or(tag, str::to_owned), repository });
        }
        event => show(event),
    };
    while let Some((depth, entry)) = todo.pop() {
        if !seen.insert(entry.digest.clone()) {
            continue;
        }
        let child = reference.with_digest(&entry.digest);
        if media_type::is_index(&entry.media_type) {
            if depth >= MAX_DEPTH {
                return Err(Error::invalid(format!("indexes within indexes, more than {MAX_DEPTH} deep")));
            }
            let named = documents::fetch(&images.client, &images.store, &child, auth).await.map_err(from_registry)?;
            if let Document::Index(index) = named.document {
                todo.extend(index.manifests.into_iter().rev().map(|entry| (depth + 1, entry)));
            }
            documents.push((named.digest, named.bytes));
            continue;
        }
        if entry.platform.as_ref().is_some_and(|platform| !matches!(platform.os.as_str(), "linux" | "unknown" | "")) {
            // Another system's layers could not be unpacked; the index tells that it is there.
            continue;
        }
        if !is_runnable(&entry) {
            documents::pull_raw(&images.client, &images.store, &child, auth).await.map_err(from_registry)?;
            continue;
        }
        let pulled = images.client.pull(&images.store, &child, auth, None, &show).await.map_err(from_registry)?;
        first.get_or_insert(pulled.image_id);
    }
    for (digest, bytes) in &documents {
        images.store.put_blobs(&[(digest, bytes)]).map_err(from_store)?;
    }
    let none = || Error::not_found(format!("{} leads to no image that this engine could keep", reference.familiar()));
    let family = images.family_of(&top.digest).ok_or_else(none)?;
    let meant = family.select(&brig_oci::Platform::host()).map(|image| image.id.clone()).or(first);
    Ok((top.digest, meant.ok_or_else(none)?))
}

/// Whether an index's entry is an image of Linux, and nothing that only looks like one.
fn is_runnable(entry: &Descriptor) -> bool {
    let platform = entry.platform.as_ref();
    let is_attestation = entry.annotations.contains_key("vnd.docker.reference.type");
    !is_attestation && entry.artifact_type.is_none() && platform.is_none_or(|platform| platform.os != "unknown")
}

/// Whether a push of this name is one of its whole index.
pub(super) fn goes_whole(family: &Family) -> bool {
    family.is_index && !family.members.is_empty() && family.members.iter().all(Member::is_available)
}

/// Pushes an index: its images, what is no image, then the index itself, unchanged where its images came out byte for byte.
pub(super) async fn push(
    images: &Images,
    family: &Family,
    name: &Reference,
    auth: Option<&Auth>,
    show: &(dyn Fn(PushEvent) + Send + Sync),
) -> Result<Pushed> {
    let mut sent = Vec::new();
    for member in &family.members {
        let child = name.with_digest(&member.descriptor.digest);
        match (&member.image, &member.manifest) {
            (Some(image), _) if member.kind == Kind::Image => {
                let pushed = images.client.push(&images.store, &image.id, &child, auth, show).await;
                let pushed = pushed.map_err(from_registry)?;
                sent.push((member.descriptor.digest.clone(), pushed));
            }
            (_, Some(manifest)) => {
                let bytes = images.store.read_blob(&member.descriptor.digest).map_err(from_store)?;
                let mut parts = manifest.layers.clone();
                parts.push(manifest.config.clone());
                let document = (&bytes[..], member.descriptor.media_type.as_str());
                let raw = documents::push_raw(&images.client, &images.store, &child, document, &parts, auth);
                raw.await.map_err(from_registry)?;
            }
            (_, None) => {
                return Err(Error::not_found(format!("{} is not here: pull it again", member.descriptor.digest)));
            }
        }
    }
    let same = sent.iter().all(|(digest, pushed)| pushed.digest == *digest);
    let bytes = match same {
        true => images.store.read_blob(&family.top.digest).map_err(from_store)?,
        false => rewritten(family, &sent)?,
    };
    let kind = if same { family.top.media_type.as_str() } else { media_type::OCI_INDEX };
    documents::push_raw(&images.client, &images.store, name, (&bytes, kind), &[], auth).await.map_err(from_registry)?;
    let digest = images.store.put_blob(&bytes).map_err(from_store)?;
    Ok(Pushed { digest, size: bytes.len() as u64 })
}

/// The index over what the images have become.
fn rewritten(family: &Family, sent: &[(Digest, Pushed)]) -> Result<Vec<u8>> {
    let now = |digest: &Digest| sent.iter().find(|(before, _)| before == digest).map(|(_, pushed)| pushed);
    let entry = |member: &Member| {
        let mut entry = member.descriptor.clone();
        if let Some(pushed) = now(&entry.digest) {
            (entry.digest, entry.size) = (pushed.digest.clone(), pushed.size);
        }
        if let Kind::Attestation(Some(about)) = &member.kind
            && let Some(pushed) = now(about)
        {
            entry.annotations.insert("vnd.docker.reference.digest".to_owned(), pushed.digest.to_string());
        }
        entry
    };
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests: family.members.iter().map(entry).collect(),
        annotations: std::collections::BTreeMap::new(),
    };
    serde_json::to_vec(&index).map_err(|e| Error::system(format!("encode an index: {e}")))
}
