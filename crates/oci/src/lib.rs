//! What images and containers are made of, as data: references, digests, manifests, image configuration, runtime specification.
//!
//! Owns: parsing, checking and writing these formats. Must not: do any input or output.

pub mod capabilities;
pub mod device_rules;
mod digest;
mod image_config;
mod manifest;
pub mod media_type;
mod platform;
mod reference;
pub mod runtime;
pub mod seccomp_profile;

pub use digest::{Digest, DigestError};
pub use image_config::{
    ContainerConfig, Empty, Healthcheck, History, ImageConfig, ImageConfigError, MAX_CONFIG_SIZE, RootFs,
};
pub use manifest::{
    Descriptor, Document, Index, MAX_INDEX_ENTRIES, MAX_LAYERS, MAX_MANIFEST_SIZE, Manifest, ManifestError,
};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError, is_identifier};

/// The most levels of arrays and objects in each other in a manifest or configuration.
const MAX_DEPTH: usize = 64;

/// Whether JSON, also where nobody looks at it, has more than [`MAX_DEPTH`] levels: somebody downstream may recurse.
fn nested_too_deep(json: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// Reads `null` as the type's default, as Go does for every field.
fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + serde::Deserialize<'de>,
{
    let value = <Option<T> as serde::Deserialize>::deserialize(deserializer)?;
    Ok(value.unwrap_or_default())
}
