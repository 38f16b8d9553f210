//! What is said of an image by those who built it: the in-toto statements of the attestations that its index lists.
//! Owns which attestations are about which image, and that no more is read of them than memory has room for. Reads the store only.
//!
//! An attestation is a manifest beside that of the image, for the platform `unknown/unknown`, with the annotations
//! `vnd.docker.reference.type` and `vnd.docker.reference.digest`; its layers are the statements, each with its predicate type
//! as the annotation `in-toto.io/predicate-type` (BuildKit, "Image attestation storage").

use brig_api::image as api;
use brig_oci::{Descriptor, Digest, Platform};
use brig_store::ImageRecord;
use serde_json::value::RawValue;

use super::family::{Family, Kind};
use super::{Images, manifests};
use crate::error::{Error, ErrorKind, Result, from_store};

const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// The most of statements in one answer, in bytes.
const MOST: u64 = 64 << 20;

/// What is asked about an image.
#[derive(Debug, Clone, Default)]
pub struct Attestations {
    /// Of the image for this platform, as text or JSON; empty for this host's.
    pub platform: String,
    /// Statements with one of these predicate types; all if there are none.
    pub predicate_types: Vec<String>,
    /// With the statements themselves.
    pub statements: bool,
}

pub(super) fn attestations(
    images: &Images,
    name: &str,
    asked: &Attestations,
) -> Result<Vec<api::AttestationStatement>> {
    let (record, family) = images.find_family(name)?;
    let Some(family) = index(images, &record, family) else { return Ok(Vec::new()) };
    let platform = match asked.platform.as_str() {
        "" => Platform::host(),
        text => super::archive::platform(text)?,
    };
    let about = image_for(&family, &platform).ok_or_else(|| {
        Error::not_found(format!(
            "image with reference {name} was found but does not provide the specified platform ({platform})"
        ))
    })?;
    let (mut found, mut room) = (Vec::new(), MOST);
    for member in family.members.iter().filter(|member| member.kind == Kind::Attestation(Some(about.clone()))) {
        let Some(manifest) = &member.manifest else {
            return Err(Error::not_found(format!(
                "the attestations of {name} were not pulled: pull it with --all-platforms"
            )));
        };
        for layer in &manifest.layers {
            let Some(predicate_type) = layer.annotations.get(PREDICATE_TYPE).filter(|kind| !kind.is_empty()) else {
                continue;
            };
            if !asked.predicate_types.is_empty() && !asked.predicate_types.contains(predicate_type) {
                continue;
            }
            found.push(api::AttestationStatement {
                descriptor: manifests::descriptor(layer),
                predicate_type: predicate_type.clone(),
                statement: if asked.statements { Some(statement(images, layer, &mut room)?) } else { None },
            });
        }
    }
    Ok(found)
}

/// The index that a name leads to; that of the image's other names if it is called by what has none of its own.
fn index(images: &Images, record: &ImageRecord, family: Option<Family>) -> Option<Family> {
    let others = || images.tags_of(&record.id).into_iter().filter_map(|tag| images.family_of(&tag.manifest?));
    family.into_iter().chain(others()).find(|family| family.is_index)
}

/// The manifest of the image for a platform, whether that is here or not.
fn image_for<'f>(family: &'f Family, platform: &Platform) -> Option<&'f Digest> {
    let listed = family.members.iter().filter(|member| member.kind == Kind::Image);
    let fitting = listed.filter_map(|member| {
        let rank = platform.rank(member.descriptor.platform.as_ref()?)?;
        Some((rank, &member.descriptor.digest))
    });
    fitting.min_by_key(|(rank, _)| *rank).map(|(_, digest)| digest)
}

/// A statement word for word; takes what it needs of the room that there is.
fn statement(images: &Images, layer: &Descriptor, room: &mut u64) -> Result<Box<RawValue>> {
    let digest = &layer.digest;
    let too_large = || {
        Error::invalid(format!(
            "attestation statement {digest} is too large to be shown here: ask for fewer predicate types, or without statements"
        ))
    };
    let missing = || Error::not_found(format!("attestation statement {digest} is not here: pull the image again"));
    let size = images.store.blob_size(digest).ok_or_else(missing)?;
    if size > brig_store::MAX_BLOB_SIZE {
        return Err(too_large());
    }
    *room = room.checked_sub(size).ok_or_else(too_large)?;
    let bytes = images.store.read_blob(digest).map_err(from_store)?;
    let no_json = |why: &dyn std::fmt::Display| {
        Error::new(ErrorKind::System, format!("attestation statement {digest} is no JSON: {why}"))
    };
    let text = String::from_utf8(bytes).map_err(|error| no_json(&error))?;
    RawValue::from_string(text).map_err(|error| no_json(&error))
}
