//! The format of `docker save`: `manifest.json` lists each image's config, names and layers by path.
//! Must not use paths but to look members up.

use brig_oci::{Digest, ImageConfig, MAX_LAYERS, Platform, Reference};
use serde::Deserialize;

use super::layout;
use super::parts::{Parts, blob_path};
use super::{ListedLayer, Planned, diff_ids, mismatch};
use crate::digest;
use crate::error::{Error, Result};
use crate::store::Store;

/// The most images of one archive.
const MAX_IMAGES: usize = 1_000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// The images that `manifest.json` lists.
pub(super) fn images(store: &Store, parts: &Parts, platforms: &[Platform]) -> Result<Vec<Planned>> {
    let entries: Vec<Entry> = serde_json::from_slice(parts.document("manifest.json")?)
        .map_err(|error| Error::invalid(format!("manifest.json: {error}")))?;
    if entries.len() > MAX_IMAGES {
        return Err(Error::invalid(format!("archive of {} images: at most {MAX_IMAGES}", entries.len())));
    }
    let mut images = entries.into_iter().map(|entry| image(store, parts, entry)).collect::<Result<Vec<_>>>()?;
    if let Some(wanted) = platforms.first() {
        let has =
            |image: &Planned| ImageConfig::parse(&image.config).map(|config| config.platform()).unwrap_or_default();
        let shown: std::collections::BTreeSet<String> = images.iter().map(|image| has(image).to_string()).collect();
        images.retain(|image| platforms.iter().any(|platform| platform.rank(&has(image)).is_some()));
        if images.is_empty() {
            let shown = shown.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::not_found(format!("no image for {wanted} in the archive: it has {shown}")));
        }
    }
    Ok(images)
}

fn image(store: &Store, parts: &Parts, entry: Entry) -> Result<Planned> {
    let layers = entry.layers.unwrap_or_default();
    if layers.len() > MAX_LAYERS {
        return Err(Error::invalid(format!("image of {} layers: at most {MAX_LAYERS}", layers.len())));
    }
    let mut names = Vec::new();
    for name in entry.repo_tags.unwrap_or_default() {
        let parsed = Reference::parse(&name);
        names.push(parsed.map_err(|error| Error::invalid(format!("manifest.json: name {name:?}: {error}")))?);
    }
    let config = parts.document(&entry.config)?.to_vec();
    check_name(&entry.config, &digest::sha256_of(&config))?;
    let mut planned = Planned {
        diff_ids: diff_ids(&config)?,
        config,
        layers: layers.into_iter().map(|path| ListedLayer { path, blob: None }).collect(),
        manifest: None,
        target: None,
        names,
        is_part: false,
    };
    if let Some((descriptor, manifest)) = layout::original(parts, &digest::sha256_of(&planned.config)) {
        store.put_blobs(&[(&descriptor.digest, parts.blob(&descriptor.digest, descriptor.size)?)])?;
        let listed = manifest.layers.into_iter();
        planned.layers =
            listed.map(|layer| ListedLayer { path: blob_path(&layer.digest), blob: Some(layer) }).collect();
        (planned.manifest, planned.target) = (Some(descriptor.digest.clone()), Some(descriptor.digest));
    }
    Ok(planned)
}

/// A config whose name is a digest must have that digest.
fn check_name(path: &str, digest: &Digest) -> Result<()> {
    let base = path.rsplit('/').next().unwrap_or(path);
    let hex = base.strip_suffix(".json").unwrap_or(base);
    if brig_oci::is_identifier(hex) && hex != digest.hex() {
        return Err(mismatch(format!("config {path} in the archive is {digest}, not what its name says")));
    }
    Ok(())
}
