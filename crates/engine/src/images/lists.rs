//! `manifest`: what a name is at its registry, and indexes ("manifest lists") made of images that are there. Nothing of it is
//! in the store but what a push makes. Owns Docker's rules about that; the bytes are the registry's.

use brig_api::image as api;
use brig_oci::{Descriptor, Digest, Document, ImageConfig, Index, Platform, Reference, media_type};
use brig_registry::{Auth, documents};

use super::transfer::from_registry;
use super::{Images, manifests};
use crate::error::{Error, Result};

/// What a name is at its registry.
pub(super) async fn look(images: &Images, name: &str, auth: Option<&Auth>) -> Result<api::RegistryManifest> {
    let reference = parse(name)?;
    let named = documents::fetch(&images.client, &images.store, &reference, auth).await.map_err(from_registry)?;
    let (kind, platform) = match &named.document {
        Document::Index(index) => (or(&index.media_type, media_type::OCI_INDEX), None),
        Document::Manifest(manifest) => {
            let kind = or(&manifest.media_type, media_type::OCI_MANIFEST);
            if !media_type::is_image_config(&manifest.config.media_type) {
                (kind, None)
            } else {
                let config = documents::fetch_config(&images.client, &reference, manifest, auth).await;
                let config = config.map_err(from_registry)?;
                let config = ImageConfig::parse(&config).map_err(|e| Error::invalid(e.to_string()))?;
                (kind, Some(config.platform()))
            }
        }
    };
    let mut descriptor = Descriptor::new(kind, named.digest.clone(), named.bytes.len() as u64);
    descriptor.platform = platform;
    Ok(api::RegistryManifest {
        ref_: reference.canonical(),
        descriptor: manifests::descriptor(&descriptor),
        raw: String::from_utf8_lossy(&named.bytes).into_owned(),
    })
}

/// Makes an index of manifests that are in the same registry, and pushes it; those of other repositories are mounted into
/// the list's. Gives its digest.
pub(super) async fn push(
    images: &Images,
    name: &str,
    entries: Vec<api::RegistryManifest>,
    auth: Option<&Auth>,
) -> Result<Digest> {
    let target = parse(name)?;
    if target.digest().is_some() {
        return Err(Error::invalid("cannot push a digest reference"));
    }
    if entries.is_empty() {
        return Err(Error::invalid(format!("manifest list {} is empty: add a manifest first", target.familiar())));
    }
    let mut list = Vec::new();
    for entry in entries {
        let digest = Digest::parse(&entry.descriptor.digest).map_err(|e| Error::invalid(e.to_string()))?;
        let source = parse(&entry.ref_)?.with_digest(&digest);
        if source.domain() != target.domain() {
            return Err(Error::invalid(format!(
                "cannot use source images from a different registry than the target image: {} != {}",
                source.domain(),
                target.domain()
            )));
        }
        let copied = documents::copy(&images.client, &images.store, &source, &target.with_digest(&digest), auth).await;
        let named = copied.map_err(from_registry)?;
        let Document::Manifest(manifest) = &named.document else {
            return Err(Error::invalid(format!("{} is a manifest list: only images can be in one", source.familiar())));
        };
        let kind = or(&manifest.media_type, media_type::OCI_MANIFEST);
        let mut descriptor = Descriptor::new(kind, digest, named.bytes.len() as u64);
        descriptor.platform = entry.descriptor.platform.map(|of| Platform {
            architecture: of.architecture,
            os: of.os,
            os_version: of.os_version,
            os_features: of.os_features.unwrap_or_default(),
            variant: of.variant,
        });
        list.push(descriptor);
    }
    // As Docker has it: a list of Docker's where all in it are Docker's.
    let is_docker = list.iter().all(|entry| entry.media_type == media_type::DOCKER_MANIFEST);
    let kind = if is_docker { media_type::DOCKER_INDEX } else { media_type::OCI_INDEX };
    let index = Index {
        schema_version: 2,
        media_type: kind.to_owned(),
        manifests: list,
        annotations: std::collections::BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&index).map_err(|e| Error::system(format!("encode an index: {e}")))?;
    let sent = documents::push_raw(&images.client, &images.store, &target, (&bytes, kind), &[], auth).await;
    sent.map_err(from_registry)?;
    Ok(brig_store::digest::sha256_of(&bytes))
}

fn parse(name: &str) -> Result<Reference> {
    Reference::parse(name).map_err(|e| Error::invalid(e.to_string()))
}

fn or(kind: &str, default: &str) -> String {
    if kind.is_empty() { default.to_owned() } else { kind.to_owned() }
}
