//! Progress of pull, push, load, import and build: one JSON object per line.
//! Data only.

use serde::{Deserialize, Serialize};

use crate::go::{empty, null};

/// One line of a progress stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Message {
    /// Text to print as it is.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub stream: String,
    /// What is going on.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub status: String,
    /// How far it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<Detail>,
    /// A ready-made progress bar, for old clients.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub progress: String,
    /// What the status is about, such as a layer's short id.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub id: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ErrorDetail>,
    /// Why it failed, as text; for old clients.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub error: String,
    /// A result for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<serde_json::Value>,
}

/// How far one item is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Detail {
    /// Done so far.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub current: i64,
    /// All there is; 0 if not known.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub total: i64,
    /// When it started, in seconds since 1970.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub start: i64,
    /// Do not show the numbers.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub hidecounts: bool,
    /// The unit, if not bytes.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub units: String,
}

/// Why an operation failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ErrorDetail {
    /// A code; 0 if there is none.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub code: i64,
    /// The text.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub message: String,
}
