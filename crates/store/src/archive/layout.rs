//! The OCI image layout (image-spec, `image-layout.md`): `index.json` leads by digest to indexes, manifests and layers.
//! Must not take a descriptor's word for anything that can be checked.

use std::collections::BTreeMap;

use brig_oci::{Descriptor, Digest, Document, Index, Manifest, Platform, Reference, media_type};
use serde::Deserialize;

use super::parts::{Parts, blob_path};
use super::{ListedLayer, Planned, diff_ids};
use crate::error::{Error, Result};
use crate::store::Store;

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LayoutFile {
    image_layout_version: String,
}

/// The images that `index.json` leads to, for this machine. Manifests and indexes on the way are stored; those of an
/// image that then fails are collected later.
pub(super) fn images(store: &Store, parts: &Parts) -> Result<Vec<Planned>> {
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
        let entry = match &entries[..] {
            [only] => only.clone(),
            several => pick(&Index { manifests: several.to_vec(), ..empty_index() })?,
        };
        let (digest, manifest) = resolve(store, parts, &entry)?;
        let config = parts.blob(&manifest.config.digest, manifest.config.size)?.to_vec();
        // An image's id is the SHA-256 of its configuration, whichever way the manifest names it.
        let layers = manifest
            .layers
            .iter()
            .map(|layer| ListedLayer { path: blob_path(&layer.digest), blob: Some(layer.digest.clone()) });
        images.push(Planned {
            diff_ids: diff_ids(&config)?,
            config,
            layers: layers.collect(),
            manifest: Some(digest),
            target: Some(entry.digest),
            names: reference.into_iter().collect(),
        });
    }
    Ok(images)
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

/// Follows indexes to the manifest for this machine; what is passed on the way is stored.
fn resolve(store: &Store, parts: &Parts, entry: &Descriptor) -> Result<(Digest, Manifest)> {
    let mut entry = entry.clone();
    for _ in 0..MAX_DEPTH {
        let bytes = parts.blob(&entry.digest, entry.size)?;
        let document = Document::parse(bytes, Some(&entry.media_type))
            .map_err(|error| Error::invalid(format!("{}: {error}", entry.digest)))?;
        store.put_blob_as(&entry.digest, bytes)?;
        match document {
            Document::Manifest(manifest) if media_type::is_image_config(&manifest.config.media_type) => {
                return Ok((entry.digest, manifest));
            }
            Document::Manifest(manifest) => {
                let text = format!("{} is no image: its config is {:?}", entry.digest, manifest.config.media_type);
                return Err(Error::invalid(text));
            }
            Document::Index(index) => entry = pick(&index)?,
        }
    }
    Err(Error::invalid(format!("indexes within indexes, more than {MAX_DEPTH} deep")))
}

fn pick(index: &Index) -> Result<Descriptor> {
    let host = Platform::host();
    index.select(&host).cloned().ok_or_else(|| {
        let have: Vec<String> =
            index.manifests.iter().filter_map(|entry| entry.platform.as_ref()).map(Platform::to_string).collect();
        Error::not_found(format!("no image for {host} in the archive: it has {}", have.join(", ")))
    })
}

fn empty_index() -> Index {
    Index { schema_version: 2, media_type: String::new(), manifests: Vec::new(), annotations: BTreeMap::new() }
}
