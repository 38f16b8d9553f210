//! Events as `GET /events` sends them, one JSON object after the other.
//! Data only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go::{empty, null};

/// Something that happened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Message {
    /// The action again, in the form of old clients.
    #[serde(rename = "status", deserialize_with = "null", skip_serializing_if = "empty")]
    pub status: String,
    /// The actor's id again, in the form of old clients.
    #[serde(rename = "id", deserialize_with = "null", skip_serializing_if = "empty")]
    pub id: String,
    /// The image, in the form of old clients.
    #[serde(rename = "from", deserialize_with = "null", skip_serializing_if = "empty")]
    pub from: String,
    /// `container`, `image`, `volume`, `network`, `daemon`, `builder` …
    #[serde(deserialize_with = "null")]
    pub type_: String,
    /// What happened.
    #[serde(deserialize_with = "null")]
    pub action: String,
    /// What it happened to.
    #[serde(deserialize_with = "null")]
    pub actor: Actor,
    /// `local` or `swarm`.
    #[serde(rename = "scope", deserialize_with = "null", skip_serializing_if = "empty")]
    pub scope: String,
    /// When, in seconds since 1970.
    #[serde(rename = "time", deserialize_with = "null", skip_serializing_if = "empty")]
    pub time: i64,
    /// When, in nanoseconds since 1970.
    #[serde(rename = "timeNano", deserialize_with = "null", skip_serializing_if = "empty")]
    pub time_nano: i64,
}

/// What an event happened to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Actor {
    /// Its id.
    #[serde(rename = "ID", deserialize_with = "null")]
    pub id: String,
    /// Its labels and other facts.
    pub attributes: Option<BTreeMap<String, String>>,
}
