//! Processes run in a running container: create, start, inspect.
//! Data only.

use serde::{Deserialize, Serialize};

use crate::go::{empty, null, strings};

/// The body of `POST /containers/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateRequest {
    /// User, and optionally group, to run as.
    #[serde(deserialize_with = "null")]
    pub user: String,
    /// Run with all capabilities.
    #[serde(deserialize_with = "null")]
    pub privileged: bool,
    /// Allocate a terminal.
    #[serde(deserialize_with = "null")]
    pub tty: bool,
    /// Initial console size, `[height, width]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u32; 2]>,
    /// Attach to stdin.
    #[serde(deserialize_with = "null")]
    pub attach_stdin: bool,
    /// Attach to stderr.
    #[serde(deserialize_with = "null")]
    pub attach_stderr: bool,
    /// Attach to stdout.
    #[serde(deserialize_with = "null")]
    pub attach_stdout: bool,
    /// Key sequence for detaching; empty means the default.
    #[serde(deserialize_with = "null")]
    pub detach_keys: String,
    /// Environment variables, `NAME=value`.
    pub env: Option<Vec<String>>,
    /// Working directory; empty means the container's.
    #[serde(deserialize_with = "null")]
    pub working_dir: String,
    /// Command to run.
    #[serde(deserialize_with = "strings")]
    pub cmd: Option<Vec<String>>,
}

/// The answer to `POST /containers/{id}/exec`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateResponse {
    /// Id of the exec instance.
    #[serde(deserialize_with = "null")]
    pub id: String,
}

/// The body of `POST /exec/{id}/start`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct StartRequest {
    /// Do not attach.
    #[serde(deserialize_with = "null")]
    pub detach: bool,
    /// A terminal was allocated.
    #[serde(deserialize_with = "null")]
    pub tty: bool,
    /// Initial console size, `[height, width]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<[u32; 2]>,
}

/// The answer to `GET /exec/{id}/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct InspectResponse {
    /// Id of the exec instance.
    #[serde(rename = "ID", deserialize_with = "null")]
    pub id: String,
    /// The process is running.
    #[serde(deserialize_with = "null")]
    pub running: bool,
    /// Exit code; null while it runs.
    pub exit_code: Option<i64>,
    /// What was asked for.
    pub process_config: Option<ProcessConfig>,
    /// stdin was attached.
    #[serde(deserialize_with = "null")]
    pub open_stdin: bool,
    /// stderr was attached.
    #[serde(deserialize_with = "null")]
    pub open_stderr: bool,
    /// stdout was attached.
    #[serde(deserialize_with = "null")]
    pub open_stdout: bool,
    /// Nobody needs the instance any more.
    #[serde(deserialize_with = "null")]
    pub can_remove: bool,
    /// Container it runs in.
    #[serde(rename = "ContainerID", deserialize_with = "null")]
    pub container_id: String,
    /// Key sequence for detaching, as it was asked for; null means the default.
    pub detach_keys: Option<String>,
    /// Process id on the host; 0 before it runs.
    #[serde(deserialize_with = "null")]
    pub pid: i64,
}

/// The process of an exec instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProcessConfig {
    /// It has a terminal.
    #[serde(deserialize_with = "null")]
    pub tty: bool,
    /// The program.
    #[serde(deserialize_with = "null")]
    pub entrypoint: String,
    /// Its arguments.
    pub arguments: Option<Vec<String>>,
    /// It runs with all capabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// User it runs as.
    #[serde(deserialize_with = "null", skip_serializing_if = "empty")]
    pub user: String,
}
