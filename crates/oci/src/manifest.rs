//! Descriptors, manifests and indexes: read strictly, so that two readers cannot understand one document differently.
//! Must not fetch what they point to.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::media_type;
use crate::null_default;
use crate::platform::Platform;

/// The largest manifest or index, in bytes, as registries have it.
pub const MAX_MANIFEST_SIZE: u64 = 4 * 1024 * 1024;
/// The most layers of one image: overlayfs takes no more (OVL_MAX_STACK).
pub const MAX_LAYERS: usize = 500;
/// The most entries of one index.
pub const MAX_INDEX_ENTRIES: usize = 2_000;

/// A pointer to content: what it is, its digest and its size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is; see [`media_type`].
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
    /// Other places to fetch it from. Data only: nothing is fetched from there.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free text by key.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: the platform that the image is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact this is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor with nothing optional in it.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// One image: its configuration and its layers, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What the document says it is, or was said to be.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact this is, if it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one is about, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free text by key.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Several images under one name, for the most part one for each platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What the document says it is, or was said to be.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The images (or further indexes).
    #[serde(default, deserialize_with = "null_default")]
    pub manifests: Vec<Descriptor>,
    /// Free text by key.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// The entry to use where `wanted` is wanted. A lone entry that names no platform is taken.
    pub fn select(&self, wanted: &Platform) -> Option<&Descriptor> {
        let platforms = self.manifests.iter().map(|entry| entry.platform.as_ref());
        match wanted.select(platforms) {
            Some(index) => self.manifests.get(index),
            None => match &self.manifests[..] {
                [only] if only.platform.is_none() => Some(only),
                _ => None,
            },
        }
    }
}

/// Either of the two documents that a name can point to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "short-lived, one at a time")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several.
    Index(Index),
}

/// Why a manifest or index was refused, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError(String);

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ManifestError {}

fn refuse<T>(text: impl Into<String>) -> Result<T, ManifestError> {
    Err(ManifestError(text.into()))
}

impl Document {
    /// Reads a manifest or an index. `declared` is the media type that the server or the descriptor gave, if any.
    /// Refused are: more than 4 MiB; a document that could be read as both kinds; one whose own media type is
    /// not the declared one; schema 1; keys twice or in other capitals; more than [`MAX_LAYERS`] layers.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Document, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST_SIZE {
            return refuse(format!("manifest of {} bytes is larger than {MAX_MANIFEST_SIZE}", bytes.len()));
        }
        if crate::nested_too_deep(bytes) {
            return refuse(format!("manifest with more than {} levels of JSON", crate::MAX_DEPTH));
        }
        let keys: Keys = serde_json::from_slice(bytes)
            .map_err(|error| ManifestError(format!("manifest is not valid JSON: {error}")))?;
        keys.check()?;
        let declared = declared.map(media_type::essence).filter(|text| !text.is_empty());
        let own = keys.media_type.as_deref();
        if let (Some(own), Some(declared)) = (own, declared)
            && own != declared
        {
            return refuse(format!("manifest says it is {own:?} but was declared as {declared:?}"));
        }
        match own.or(declared) {
            Some(kind) if media_type::is_index(kind) && !keys.is_index() => {
                refuse(format!("{kind:?} without \"manifests\""))
            }
            Some(kind) if media_type::is_manifest(kind) && keys.is_index() => {
                refuse(format!("{kind:?} with \"manifests\": could be read as an index as well"))
            }
            Some(kind) if media_type::is_index(kind) || media_type::is_manifest(kind) => read(bytes, &keys, kind),
            Some(kind @ (media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED)) => {
                refuse(format!("{kind:?} (schema 1) is not supported: push the image again with a current tool"))
            }
            Some(kind) => refuse(format!("unsupported manifest media type {kind:?}")),
            None if keys.is_index() => read(bytes, &keys, media_type::OCI_INDEX),
            None => read(bytes, &keys, media_type::OCI_MANIFEST),
        }
    }
}

impl Manifest {
    /// Reads one image's manifest, with the checks of [`Document::parse`].
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Manifest, ManifestError> {
        match Document::parse(bytes, declared)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => refuse("expected the manifest of one image, found an index"),
        }
    }
}

impl Index {
    /// Reads an index, with the checks of [`Document::parse`].
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Index, ManifestError> {
        match Document::parse(bytes, declared)? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => refuse("expected an index, found the manifest of one image"),
        }
    }
}

fn read(bytes: &[u8], keys: &Keys, kind: &str) -> Result<Document, ManifestError> {
    let invalid = |error: serde_json::Error| ManifestError(format!("invalid manifest: {error}"));
    let document = if keys.is_index() {
        let mut index: Index = serde_json::from_slice(bytes).map_err(invalid)?;
        index.media_type = kind.to_owned();
        if index.manifests.len() > MAX_INDEX_ENTRIES {
            return refuse(format!("index of {} entries: at most {MAX_INDEX_ENTRIES}", index.manifests.len()));
        }
        check_sizes(&index.manifests)?;
        Document::Index(index)
    } else {
        let mut manifest: Manifest = serde_json::from_slice(bytes).map_err(invalid)?;
        manifest.media_type = kind.to_owned();
        if manifest.layers.len() > MAX_LAYERS {
            return refuse(format!("image of {} layers: at most {MAX_LAYERS}", manifest.layers.len()));
        }
        check_sizes(std::slice::from_ref(&manifest.config))?;
        check_sizes(&manifest.layers)?;
        Document::Manifest(manifest)
    };
    Ok(document)
}

fn check_sizes(descriptors: &[Descriptor]) -> Result<(), ManifestError> {
    match descriptors.iter().find(|descriptor| i64::try_from(descriptor.size).is_err()) {
        Some(descriptor) => refuse(format!("{} has an impossible size of {}", descriptor.digest, descriptor.size)),
        None => Ok(()),
    }
}

/// The keys of a document's top level, in the order written, and the two values that decide what it is.
struct Keys {
    names: Vec<String>,
    schema_version: Option<u64>,
    media_type: Option<String>,
}

impl Keys {
    fn is_index(&self) -> bool {
        self.names.iter().any(|name| name == "manifests")
    }

    fn check(&self) -> Result<(), ManifestError> {
        let known =
            ["schemaVersion", "mediaType", "config", "layers", "manifests", "annotations", "subject", "artifactType"];
        for (index, name) in self.names.iter().enumerate() {
            if self.names[..index].contains(name) {
                return refuse(format!("manifest has the key {name:?} twice"));
            }
            // Go's decoder takes any capitals: what it would read and this one would not is refused.
            if known.iter().any(|known| *known != name && known.eq_ignore_ascii_case(name)) {
                return refuse(format!("manifest has the key {name:?} in unexpected capitals"));
            }
        }
        let has = |name: &str| self.names.iter().any(|other| other == name);
        if has("fsLayers") || self.schema_version == Some(1) {
            return refuse("manifest of schema 1 is not supported: push the image again with a current tool");
        }
        if self.schema_version != Some(2) {
            return refuse("manifest has no \"schemaVersion\": 2");
        }
        if has("manifests") && (has("layers") || has("config")) {
            return refuse(
                "manifest has both \"manifests\" and \"layers\" or \"config\": it could be read in two ways",
            );
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keys, D::Error> {
        struct KeysVisitor;
        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Keys { names: Vec::new(), schema_version: None, media_type: None };
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "schemaVersion" => keys.schema_version = Some(map.next_value()?),
                        "mediaType" => {
                            keys.media_type = map.next_value::<Option<String>>()?.filter(|text| !text.is_empty())
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                    if keys.names.len() >= 64 {
                        return Err(serde::de::Error::custom("more than 64 keys"));
                    }
                    keys.names.push(name);
                }
                Ok(keys)
            }
        }
        deserializer.deserialize_map(KeysVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#;

    #[track_caller]
    fn refused(json: &str, declared: Option<&str>, part: &str) {
        let error = Document::parse(json.as_bytes(), declared).unwrap_err().to_string();
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }

    #[test]
    fn reads_both_kinds() {
        let json = format!(r#"{{"schemaVersion":2,"config":{D},"layers":[{D}],"annotations":null,"extra":1}}"#);
        let manifest = Manifest::parse(json.as_bytes(), None).unwrap();
        assert_eq!((manifest.layers.len(), &*manifest.media_type), (1, media_type::OCI_MANIFEST));
        let declared = Manifest::parse(json.as_bytes(), Some(media_type::DOCKER_MANIFEST)).unwrap();
        assert_eq!(declared.media_type, media_type::DOCKER_MANIFEST);
        let json = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{D}]}}"#, media_type::OCI_INDEX);
        let index = Index::parse(json.as_bytes(), Some("application/vnd.oci.image.index.v1+json; q=1")).unwrap();
        assert!(index.select(&Platform::host()).is_some());
    }

    #[test]
    fn refuses_what_can_be_read_in_two_ways() {
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"manifests":[]}}"#), None, "two ways");
        refused(&format!(r#"{{"schemaVersion":2,"manifests":[{D}]}}"#), Some(media_type::OCI_MANIFEST), "as an index");
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}}"#), Some(media_type::OCI_INDEX), "without");
        let json =
            format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{D},"layers":[]}}"#, media_type::OCI_MANIFEST);
        refused(&json, Some(media_type::DOCKER_MANIFEST), "declared as");
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"layers":[]}}"#), None, "twice");
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"Layers":[]}}"#), None, "capitals");
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}} x"#), None, "trailing");
    }

    #[test]
    fn refuses_old_wrong_and_huge() {
        refused(r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema 1");
        refused(&format!(r#"{{"config":{D},"layers":[]}}"#), None, "schemaVersion");
        refused(r#"{"schemaVersion":"2"}"#, None, "not valid JSON");
        let deep = ["[".repeat(64), "]".repeat(64)].concat();
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[],"x":{deep}}}"#), None, "levels");
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[]}}"#), Some("text/html"), "unsupported");
        let negative = D.replace("\"size\":2", "\"size\":-2");
        refused(&format!(r#"{{"schemaVersion":2,"config":{negative},"layers":[]}}"#), None, "invalid manifest");
        let huge = D.replace("\"size\":2", "\"size\":9223372036854775808");
        refused(&format!(r#"{{"schemaVersion":2,"config":{huge},"layers":[]}}"#), None, "impossible size");
        let many = vec![D; MAX_LAYERS + 1].join(",");
        refused(&format!(r#"{{"schemaVersion":2,"config":{D},"layers":[{many}]}}"#), None, "at most");
        refused(&" ".repeat(5 << 20), None, "larger than");
        refused(&"[".repeat(100_000), None, "levels of JSON");
    }
}
