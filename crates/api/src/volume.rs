//! Volumes as they travel over the socket.
//! Data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{empty, null};

/// A volume in a list or alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Volume {
    /// Date/Time the volume was created.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub created_at: String,
    /// Name of the volume driver used by the volume.
    #[serde(deserialize_with = "null")]
    pub driver: String,
    /// User-defined key/value metadata.
    pub labels: Option<BTreeMap<String, String>>,
    /// Mount path of the volume on the host.
    #[serde(deserialize_with = "null")]
    pub mountpoint: String,
    /// Name of the volume.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// The driver specific options used when creating the volume.
    pub options: Option<BTreeMap<String, String>>,
    /// The level at which the volume exists. Either `global` for cluster-wide, or `local` for
    /// machine level.
    #[serde(deserialize_with = "null")]
    pub scope: String,
    /// Low-level details about the volume, provided by the volume driver. Details are returned as a
    /// map with key/value pairs: `{"key":"value","key2":"value2"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<BTreeMap<String, serde_json::Value>>,
    /// Usage details about the volume. This information is used by the `GET /system/df` endpoint,
    /// and omitted in other endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage_data: Option<UsageData>,
}

/// How much a volume uses; only in `GET /system/df`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct UsageData {
    /// Containers that use it; -1 if not known.
    #[serde(deserialize_with = "null")]
    pub ref_count: i64,
    /// Bytes; -1 if not known.
    #[serde(deserialize_with = "null")]
    pub size: i64,
}

/// The answer to `GET /volumes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ListResponse {
    /// List of volumes
    #[serde(deserialize_with = "null")]
    pub volumes: Vec<Volume>,
    /// Warnings that occurred when fetching the list of volumes.
    pub warnings: Option<Vec<String>>,
}

/// The body of `POST /volumes/create`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateRequest {
    /// Name; empty means a random one.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub name: String,
    /// Driver; empty means `local`.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub driver: String,
    /// Options of the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_opts: Option<BTreeMap<String, String>>,
    /// Labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// The answer to `POST /volumes/prune`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct PruneReport {
    /// Names of the removed volumes.
    pub volumes_deleted: Option<Vec<String>>,
    /// Disk space freed, in bytes.
    #[serde(deserialize_with = "null")]
    pub space_reclaimed: u64,
}
