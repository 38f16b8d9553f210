//! What a name leads to as Docker shows it: `Manifests` of list and inspect, and sizes. Reads the store only.

use std::collections::{BTreeMap, HashMap, HashSet};

use brig_api::image as api;
use brig_oci::{Descriptor, Digest, Platform};
use brig_store::{ImageRecord, LayerInfo};

use super::Images;
use super::family::{Family, Kind, Member};

/// The layers of an image, topmost first.
fn layers(images: &Images, record: &ImageRecord) -> Vec<LayerInfo> {
    let mut layers = Vec::new();
    let mut next = record.chain_id.clone();
    while let Some(layer) = next.as_ref().and_then(|chain| images.store.layer(chain)) {
        next.clone_from(&layer.parent);
        layers.push(layer);
    }
    layers
}

/// The chain ids of layers that more than one image has.
pub(super) fn shared_layers(images: &Images) -> HashSet<Digest> {
    let mut uses: HashMap<Digest, usize> = HashMap::new();
    for record in images.store.images() {
        for layer in layers(images, &record) {
            *uses.entry(layer.chain_id).or_default() += 1;
        }
    }
    uses.into_iter().filter(|(_, count)| *count > 1).map(|(chain, _)| chain).collect()
}

/// Bytes of an image that other images have too.
pub(super) fn shared_size(images: &Images, record: &ImageRecord, shared: &HashSet<Digest>) -> u64 {
    layers(images, record).iter().filter(|layer| shared.contains(&layer.chain_id)).map(|layer| layer.size_bytes).sum()
}

/// Bytes of an image, and of those for other platforms that its name leads to, each layer once.
pub(super) fn unpacked(images: &Images, record: &ImageRecord, family: Option<&Family>) -> u64 {
    let others = family.into_iter().flat_map(Family::images).map(|(_, image)| image);
    let mut seen = HashSet::new();
    std::iter::once(record)
        .chain(others)
        .flat_map(|record| layers(images, record))
        .filter(|layer| seen.insert(layer.chain_id.clone()))
        .map(|layer| layer.size_bytes)
        .sum()
}

/// One entry for each manifest of a name.
pub(super) fn summaries(images: &Images, family: &Family) -> Vec<api::ManifestSummary> {
    family.members.iter().map(|member| summary(images, member)).collect()
}

fn summary(images: &Images, member: &Member) -> api::ManifestSummary {
    let parts = member.manifest.iter().flat_map(|manifest| std::iter::once(&manifest.config).chain(&manifest.layers));
    let blobs = parts.map(|part| &part.digest).chain([&member.descriptor.digest]);
    let content: u64 = blobs.filter_map(|digest| images.store.blob_size(digest)).sum();
    let unpacked = member.image.as_ref().map_or(0, |image| image.size_bytes);
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let platform = member.descriptor.platform.as_ref().map(platform).unwrap_or_default();
    let users = member.image.as_ref().map(|image| images.users_of(&image.id)).unwrap_or_default();
    let containers = users.into_iter().map(|(id, _)| id).collect();
    let image_data = api::ImageData {
        platform,
        containers: Some(containers),
        size: api::ImageDataSize { unpacked: number(unpacked) },
    };
    let attestation = |about: &Option<Digest>| api::AttestationData {
        for_: about.as_ref().map(Digest::to_string).unwrap_or_default(),
    };
    api::ManifestSummary {
        id: member.descriptor.digest.to_string(),
        descriptor: descriptor(&member.descriptor),
        available: member.is_available(),
        size: api::ManifestSize { content: number(content), total: number(content + unpacked) },
        kind: match member.kind {
            Kind::Image => "image".into(),
            Kind::Attestation(_) => "attestation".into(),
            Kind::Unknown => "unknown".into(),
        },
        image_data: (member.kind == Kind::Image).then_some(image_data),
        attestation_data: match &member.kind {
            Kind::Attestation(about) => Some(attestation(about)),
            Kind::Image | Kind::Unknown => None,
        },
    }
}

/// A descriptor as the API has it.
pub(super) fn descriptor(of: &Descriptor) -> api::Descriptor {
    let annotations: BTreeMap<String, String> = of.annotations.clone();
    api::Descriptor {
        media_type: of.media_type.clone(),
        digest: of.digest.to_string(),
        size: i64::try_from(of.size).unwrap_or(i64::MAX),
        urls: Some(of.urls.clone()).filter(|urls| !urls.is_empty()),
        annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
        data: None,
        platform: of.platform.as_ref().map(platform),
        artifact_type: of.artifact_type.clone().unwrap_or_default(),
    }
}

fn platform(of: &Platform) -> api::Platform {
    api::Platform {
        architecture: of.architecture.clone(),
        os: of.os.clone(),
        os_version: of.os_version.clone(),
        os_features: Some(of.os_features.clone()).filter(|features| !features.is_empty()),
        variant: of.variant.clone(),
    }
}
