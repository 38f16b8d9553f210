//! Images as they travel over the socket: list, inspect, history, removal, and the shared OCI descriptor.
//! Data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::container::HealthConfig;
use crate::go::{empty, null, strings};

/// One entry of `GET /images/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Summary {
    /// Number of containers using this image. Includes both stopped and running containers.
    #[serde(deserialize_with = "null")]
    pub containers: i64,
    /// Date and time at which the image was created as a Unix timestamp (number of seconds since
    /// EPOCH).
    #[serde(deserialize_with = "null")]
    pub created: i64,
    /// ID is the content-addressable ID of an image.
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// User-defined key/value metadata.
    pub labels: Option<BTreeMap<String, String>>,
    /// ID of the parent image.
    #[serde(deserialize_with = "null")]
    pub parent_id: String,
    /// Descriptor is an OCI descriptor of the image target. In case of a multi-platform image, this
    /// descriptor points to the OCI index or a manifest list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// List of content-addressable digests of locally available image manifests that the image is
    /// referenced from. Multiple manifests can refer to the same image.
    pub repo_digests: Option<Vec<String>>,
    /// List of image names/tags in the local image cache that reference this image.
    pub repo_tags: Option<Vec<String>>,
    /// Total size of image layers that are shared between this image and other images.
    #[serde(deserialize_with = "null")]
    pub shared_size: i64,
    /// Total size of the image including all layers it is composed of.
    #[serde(deserialize_with = "null")]
    pub size: i64,
    /// Size again; only before API 1.44.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<i64>,
    /// Manifests is a list of image manifests available in this image. It provides a more detailed
    /// view of the platform-specific image manifests or other image-attached data like build attestations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ManifestSummary>>,
}

/// The answer to `GET /images/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct InspectResponse {
    /// ID is the content-addressable ID of an image.
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// List of image names/tags in the local image cache that reference this image.
    #[serde(deserialize_with = "null")]
    pub repo_tags: Vec<String>,
    /// List of content-addressable digests of locally available image manifests that the image is
    /// referenced from. Multiple manifests can refer to the same image.
    #[serde(deserialize_with = "null")]
    pub repo_digests: Vec<String>,
    /// Parent image; only for images built here by the classic builder.
    #[serde(deserialize_with = "null")]
    pub parent: String,
    /// Comment given when the image was made.
    #[serde(deserialize_with = "null")]
    pub comment: String,
    /// Date and time at which the image was created, formatted in [RFC
    /// 3339](https://www.ietf.org/rfc/rfc3339.txt) format with nano-seconds.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub created: String,
    /// Container it was committed from; only before API 1.45.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Configuration of that container; only before API 1.45.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_config: Option<crate::container::Config>,
    /// Version of the engine that built it.
    #[serde(deserialize_with = "null")]
    pub docker_version: String,
    /// Name of the author that was specified when committing the image, or as specified through
    /// MAINTAINER (deprecated) in the Dockerfile.
    #[serde(deserialize_with = "null")]
    pub author: String,
    /// What containers made from it start with.
    pub config: Option<ImageConfig>,
    /// Hardware CPU architecture that the image runs on.
    #[serde(deserialize_with = "null")]
    pub architecture: String,
    /// CPU architecture variant (presently ARM-only).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub variant: String,
    /// Operating System the image is built to run on.
    #[serde(deserialize_with = "null")]
    pub os: String,
    /// Operating System version the image is built to run on (especially for Windows).
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub os_version: String,
    /// Total size of the image variant, including all layers it is composed of.
    #[serde(deserialize_with = "null")]
    pub size: i64,
    /// Size again; only before API 1.44.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<i64>,
    /// How the layers are stored.
    #[serde(deserialize_with = "null")]
    pub graph_driver: GraphDriver,
    /// The layers.
    #[serde(rename = "RootFS", deserialize_with = "null")]
    pub root_fs: RootFs,
    /// What this engine knows about the image besides its content.
    #[serde(deserialize_with = "null")]
    pub metadata: Metadata,
    /// The manifest or index the image came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub descriptor: Option<Descriptor>,
    /// What the image's name leads to; only if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifests: Option<Vec<ManifestSummary>>,
}

/// One manifest that an image's name leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestSummary {
    /// ID is the content-addressable ID of an image and is the same as the digest of the image manifest.
    #[serde(rename = "ID", deserialize_with = "null")]
    pub id: String,
    /// The manifest.
    #[serde(deserialize_with = "null")]
    pub descriptor: Descriptor,
    /// Indicates whether all the child content (image config, layers) is fully available locally.
    #[serde(deserialize_with = "null")]
    pub available: bool,
    /// How much room it takes.
    #[serde(deserialize_with = "null")]
    pub size: ManifestSize,
    /// `image`, `attestation` or `unknown`.
    #[serde(deserialize_with = "null")]
    pub kind: String,
    /// For images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_data: Option<ImageData>,
    /// For attestations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_data: Option<AttestationData>,
}

/// How much room a manifest's content takes, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ManifestSize {
    /// Content is the size (in bytes) of all the locally present content in the content store (e.g.
    /// image config, layers) referenced by this manifest and its children.
    #[serde(deserialize_with = "null")]
    pub content: i64,
    /// Total is the total size (in bytes) of all the locally present data (both distributable and
    /// non-distributable) that's related to this manifest and its children.
    #[serde(deserialize_with = "null")]
    pub total: i64,
}

/// What an image among the manifests is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageData {
    /// OCI platform of the image.
    #[serde(deserialize_with = "null")]
    pub platform: Platform,
    /// The IDs of the containers that are using this image.
    pub containers: Option<Vec<String>>,
    /// Its room unpacked.
    #[serde(deserialize_with = "null")]
    pub size: ImageDataSize,
}

/// The room that an image takes unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageDataSize {
    /// Unpacked is the size (in bytes) of the locally unpacked (uncompressed) image content.
    #[serde(deserialize_with = "null")]
    pub unpacked: i64,
}

/// What an attestation among the manifests is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct AttestationData {
    /// The digest of the image manifest that this attestation is for.
    #[serde(rename = "For", deserialize_with = "null")]
    pub for_: String,
}

/// A statement about an image: an entry of `GET /images/{name}/attestations`.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct AttestationStatement {
    /// The blob that the statement is.
    pub descriptor: Descriptor,
    /// What kind of statement it is: a URI of in-toto's.
    pub predicate_type: String,
    /// The statement as it was made, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statement: Option<Box<RawValue>>,
}

/// The configuration inside an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// The user that commands are run as inside the container.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub user: String,
    /// An object mapping ports to an empty object in the form:
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Option<crate::container::Empty>>>,
    /// A list of environment variables to set inside the container in the form `["VAR=value",
    /// ...]`. A variable without `=` is removed from the environment, rather than to have an empty
    /// value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// The entry point.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The default command.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// An object mapping mount point paths inside the container to empty objects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Option<crate::container::Empty>>>,
    /// The working directory for commands to run in.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub working_dir: String,
    /// User-defined key/value metadata.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal to stop a container as a string or unsigned integer.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub stop_signal: String,
    /// Command is already escaped (Windows only)
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub args_escaped: bool,
    /// A test to perform to check that the container is healthy. Healthcheck commands should be
    /// side-effect free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// `ONBUILD` metadata that were defined in the image's `Dockerfile`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Shell for the shell form of `RUN`, `CMD` and `ENTRYPOINT`.
    #[serde(deserialize_with = "strings", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// The layers of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RootFs {
    /// Always `layers`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub type_: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub layers: Vec<String>,
}

/// What the engine knows about an image besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Metadata {
    /// When it was last tagged here, RFC 3339; the zero time if never.
    #[serde(deserialize_with = "null")]
    pub last_tag_time: String,
}

/// How a root filesystem is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct GraphDriver {
    /// Paths that the driver uses; for people only.
    pub data: Option<BTreeMap<String, String>>,
    /// Name of the storage driver.
    #[serde(deserialize_with = "null")]
    pub name: String,
}

/// One entry of `GET /images/{name}/history`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HistoryItem {
    /// Comment of the step.
    #[serde(deserialize_with = "null")]
    pub comment: String,
    /// When, in seconds since 1970.
    #[serde(deserialize_with = "null")]
    pub created: i64,
    /// The step that made the layer.
    #[serde(deserialize_with = "null")]
    pub created_by: String,
    /// Image id, or `<missing>`.
    #[serde(deserialize_with = "null")]
    pub id: String,
    /// Size of the layer in bytes.
    #[serde(deserialize_with = "null")]
    pub size: i64,
    /// Tags of the image with that id.
    pub tags: Option<Vec<String>>,
}

/// One entry of the answer to `DELETE /images/{name}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DeleteItem {
    /// Id of a removed image.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub deleted: String,
    /// Name that was removed.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub untagged: String,
}

/// The answer to `POST /images/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PruneReport {
    /// What was untagged and deleted.
    pub images_deleted: Option<Vec<DeleteItem>>,
    /// Disk space freed, in bytes.
    #[serde(deserialize_with = "null")]
    pub space_reclaimed: u64,
}

/// A reference to content by digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the object this schema refers to.
    #[serde(deserialize_with = "null")]
    pub media_type: String,
    /// The digest of the targeted content.
    #[serde(deserialize_with = "null")]
    pub digest: String,
    /// The size in bytes of the blob.
    #[serde(deserialize_with = "null")]
    pub size: i64,
    /// List of URLs from which this object MAY be downloaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Arbitrary metadata relating to the targeted content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The content itself, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Describes the platform which the image in the manifest runs on, as defined in the [OCI Image
    /// Index
    /// Specification](https://github.com/opencontainers/image-spec/blob/v1.0.1/image-index.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// ArtifactType is the IANA media type of this artifact.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub artifact_type: String,
}

/// What an image was built for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Platform {
    /// The CPU architecture, for example `amd64` or `ppc64`.
    #[serde(deserialize_with = "null")]
    pub architecture: String,
    /// The operating system, for example `linux` or `windows`.
    #[serde(deserialize_with = "null")]
    pub os: String,
    /// Optional field specifying the operating system version, for example on Windows
    /// `10.0.19041.1165`.
    #[serde(rename = "os.version", deserialize_with = "null", skip_serializing_if = "empty")]
    pub os_version: String,
    /// Optional field specifying an array of strings, each listing a required OS feature (for
    /// example on Windows `win32k`).
    #[serde(rename = "os.features", skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Optional field specifying a variant of the CPU, for example `v7` to specify ARMv7 when
    /// architecture is `arm`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub variant: String,
}

/// The answer to `GET /distribution/{name}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct DistributionInspect {
    /// What the name points to.
    #[serde(deserialize_with = "null")]
    pub descriptor: Descriptor,
    /// The platforms it is there for.
    pub platforms: Option<Vec<Platform>>,
}

/// One repository in the answer to `GET /images/search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchResult {
    /// What its owners say about it.
    #[serde(deserialize_with = "null")]
    pub description: String,
    /// Whether it is the registry's own.
    pub is_official: bool,
    /// Whether the registry builds it; always false nowadays.
    pub is_automated: bool,
    /// The name of the repository.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// The number of stars the repository has.
    pub star_count: i64,
}

/// The answer to `POST /commit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CommitResponse {
    /// Id of the image.
    #[serde(deserialize_with = "null")]
    pub id: String,
}

/// What a name is at its registry: brig's own `GET /brig/manifests/{name}`, and one entry of a list to be pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct RegistryManifest {
    /// The whole name.
    #[serde(rename = "Ref", deserialize_with = "null")]
    pub ref_: String,
    /// The manifest, with the platform of an image.
    #[serde(deserialize_with = "null")]
    pub descriptor: Descriptor,
    /// Its text.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub raw: String,
}

/// What brig's own `POST /brig/manifests/{name}` takes: an index to be made and pushed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PushList {
    /// What it lists; all in the registry that it goes to.
    #[serde(deserialize_with = "null")]
    pub manifests: Vec<RegistryManifest>,
}

/// The answer to that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PushedList {
    /// The digest of the index.
    #[serde(deserialize_with = "null")]
    pub digest: String,
}
