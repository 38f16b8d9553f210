//! The OCI image layout (image-spec, `image-layout.md`): `index.json` leads by digest to indexes, manifests and layers.
//! Must not take a descriptor's word for anything that can be checked.

use std::collections::{BTreeMap, HashSet};

use brig_oci::{Descriptor, Digest, Document, Index, Manifest, Platform, Reference, media_type};
use serde::Deserialize;

use super::parts::{Parts, blob_path};
use super::{ListedLayer, Planned, diff_ids};
use crate::error::{Error, Result};
use crate::store::Store;

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;
/// The most images of one archive.
const MAX_IMAGES: usize = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// An image that `index.json` leads to.
struct Leaf {
    digest: Digest,
    manifest: Manifest,
    platform: Option<Platform>,
}

/// Whether the layout says more than `manifest.json` beside it can: images for several platforms under one name.
pub(super) fn has_several_platforms(parts: &Parts) -> bool {
    let index = parts.document("index.json").ok().and_then(|bytes| Index::parse(bytes, None).ok());
    index.is_some_and(|index| index.manifests.iter().any(|entry| media_type::is_index(&entry.media_type)))
}

/// The manifest by which a registry knows the image with this configuration, where the layout has it with all of its packed
/// layers. One that lists plain tars was only made for the archive.
pub(super) fn original(parts: &Parts, config: &Digest) -> Option<(Descriptor, Manifest)> {
    let index = Index::parse(parts.document("index.json").ok()?, None).ok()?;
    index.manifests.into_iter().find_map(|entry| {
        let manifest = Manifest::parse(parts.blob(&entry.digest, entry.size).ok()?, Some(&entry.media_type)).ok()?;
        let plain = Some(media_type::Compression::Plain);
        let is_packed = |layer: &Descriptor| media_type::layer_compression(&layer.media_type) != plain;
        let is_whole = manifest.layers.iter().all(|layer| parts.has(&blob_path(&layer.digest)));
        (manifest.config.digest == *config && is_whole && manifest.layers.iter().any(is_packed))
            .then_some((entry, manifest))
    })
}

/// The images that `index.json` leads to, for all platforms or for those asked for. Manifests, indexes and what is no image
/// (attestations, artifacts) are stored on the way; those of an image that then fails are collected later.
pub(super) fn images(store: &Store, parts: &Parts, platforms: &[Platform]) -> Result<Vec<Planned>> {
    let layout: LayoutFile = serde_json::from_slice(parts.document("oci-layout")?)
        .map_err(|error| Error::invalid(format!("oci-layout: {error}")))?;
    if !layout.image_layout_version.starts_with("1.") {
        let version = layout.image_layout_version;
        return Err(Error::invalid(format!("OCI layout of version {version:?}: only 1.x is supported")));
    }
    let index = Index::parse(parts.document("index.json")?, None)
        .map_err(|error| Error::invalid(format!("index.json: {error}")))?;
    let mut images = Vec::new();
    for (reference, entries) in by_name(index.manifests)? {
        let (mut leaves, mut seen) = (Vec::new(), HashSet::new());
        for entry in &entries {
            gather((store, parts), entry, entries.len() == 1, 0, &mut seen, &mut leaves)?;
        }
        let target = match &entries[..] {
            [only] => only.digest.clone(),
            // One name means one thing: the index that they make together.
            several => store.put_blob(&index_of(several)?)?,
        };
        let first = images.len();
        for leaf in wanted(&entries, leaves, platforms)? {
            let config = parts.blob(&leaf.manifest.config.digest, leaf.manifest.config.size)?.to_vec();
            // An image's id is the SHA-256 of its configuration, whichever way the manifest names it.
            let layers = leaf.manifest.layers.iter();
            let layers = layers.map(|layer| ListedLayer { path: blob_path(&layer.digest), blob: Some(layer.clone()) });
            let is_first = images.len() == first;
            images.push(Planned {
                diff_ids: diff_ids(&config)?,
                config,
                layers: layers.collect(),
                manifest: Some(leaf.digest),
                target: Some(target.clone()),
                names: reference.iter().filter(|_| is_first).cloned().collect(),
                is_part: !is_first && reference.is_some(),
            });
        }
        if images.len() > MAX_IMAGES {
            return Err(Error::invalid(format!("archive of more than {MAX_IMAGES} images")));
        }
    }
    Ok(images)
}

/// Those of one name's images that are wanted, first the one that the name is to mean here.
fn wanted(entries: &[Descriptor], mut leaves: Vec<Leaf>, platforms: &[Platform]) -> Result<Vec<Leaf>> {
    let has: Vec<String> =
        entries.iter().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).collect();
    let has: Vec<String> = match has.is_empty() {
        true => leaves.iter().filter_map(|leaf| leaf.platform.as_ref()).map(Platform::to_string).collect(),
        false => has,
    };
    let fits = |leaf: &Leaf| {
        let rank = |platform: &Platform| leaf.platform.as_ref().is_none_or(|has| platform.rank(has).is_some());
        platforms.is_empty() || platforms.iter().any(rank)
    };
    leaves.retain(fits);
    let host = platforms.first().cloned().unwrap_or_else(Platform::host);
    if leaves.is_empty() {
        return Err(Error::not_found(format!("no image for {host} in the archive: it has {}", has.join(", "))));
    }
    let best = host.select(leaves.iter().map(|leaf| leaf.platform.as_ref())).unwrap_or_default();
    leaves.swap(0, best);
    Ok(leaves)
}

/// An index of these entries, always the same for the same ones.
fn index_of(entries: &[Descriptor]) -> Result<Vec<u8>> {
    let mut manifests = entries.to_vec();
    manifests.iter_mut().for_each(|entry| entry.annotations.clear());
    let index = Index {
        schema_version: 2,
        media_type: media_type::OCI_INDEX.to_owned(),
        manifests,
        annotations: BTreeMap::new(),
    };
    serde_json::to_vec(&index).map_err(|error| Error::invalid(format!("write JSON: {error}")))
}

/// The entries under each name, in the order written; several under one name are for several platforms.
/// Attestations are no images.
fn by_name(entries: Vec<Descriptor>) -> Result<Vec<(Option<Reference>, Vec<Descriptor>)>> {
    let mut names: Vec<(Option<Reference>, Vec<Descriptor>)> = Vec::new();
    for entry in entries {
        if entry.annotations.contains_key("vnd.docker.reference.type") {
            continue;
        }
        let name = name_of(&entry)?;
        match names.iter_mut().find(|(known, others)| *known == name && others[0].platform.is_some()) {
            Some((_, others)) if entry.platform.is_some() => others.push(entry),
            _ => names.push((name, vec![entry])),
        }
    }
    Ok(names)
}

/// The name in an entry's annotations. A bare tag names nothing.
fn name_of(entry: &Descriptor) -> Result<Option<Reference>> {
    let full = entry.annotations.get("io.containerd.image.name");
    let short = entry.annotations.get("org.opencontainers.image.ref.name");
    let Some(name) = full.or(short.filter(|name| name.contains(['/', ':']))) else { return Ok(None) };
    Reference::parse(name).map(Some).map_err(|error| Error::invalid(format!("index.json: name {name:?}: {error}")))
}

/// Follows indexes to all manifests, and stores what is passed on the way. What an index lists and the archive does not
/// have is left out, unless it is `needed`. What was `seen` is not followed again: many ways may lead to one image.
fn gather(
    (store, parts): (&Store, &Parts),
    entry: &Descriptor,
    needed: bool,
    depth: usize,
    seen: &mut HashSet<Digest>,
    leaves: &mut Vec<Leaf>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("indexes within indexes, more than {MAX_DEPTH} deep")));
    }
    if !needed && !parts.has(&blob_path(&entry.digest)) || !seen.insert(entry.digest.clone()) {
        return Ok(());
    }
    let bytes = parts.blob(&entry.digest, entry.size)?;
    let document = Document::parse(bytes, Some(&entry.media_type))
        .map_err(|error| Error::invalid(format!("{}: {error}", entry.digest)))?;
    store.put_blobs(&[(&entry.digest, bytes)])?;
    match document {
        Document::Index(index) => {
            for entry in &index.manifests {
                gather((store, parts), entry, false, depth + 1, seen, leaves)?;
            }
            Ok(())
        }
        Document::Manifest(manifest) if is_image(entry, &manifest) => {
            let platform = entry.platform.clone();
            leaves.push(Leaf { digest: entry.digest.clone(), manifest, platform });
            if leaves.len() > MAX_IMAGES {
                Err(Error::invalid(format!("index of more than {MAX_IMAGES} images")))
            } else {
                Ok(())
            }
        }
        Document::Manifest(manifest) if depth == 0 => {
            let kind = manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type);
            Err(Error::invalid(format!("{} is an artifact of type {kind:?}, not a container image", entry.digest)))
        }
        Document::Manifest(manifest) => keep_raw(store, parts, &manifest),
    }
}

fn is_image(entry: &Descriptor, manifest: &Manifest) -> bool {
    let is_attestation = entry.annotations.contains_key("vnd.docker.reference.type");
    media_type::is_image_config(&manifest.config.media_type) && !is_attestation
}

/// Keeps what an attestation or artifact consists of as it is. What the archive does not have, or is no document, is left
/// out: it is not there then.
fn keep_raw(store: &Store, parts: &Parts, manifest: &Manifest) -> Result<()> {
    for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
        if let Ok(bytes) = parts.blob(&part.digest, part.size) {
            store.put_blobs(&[(&part.digest, bytes)])?;
        }
    }
    Ok(())
}
