//! The image configuration: how to run an image, which layers it has, how it came to be.
//! What is stored and hashed are its raw bytes; this is only a view of them. Must not decide what a value means.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::Digest;
use crate::manifest::MAX_LAYERS;
use crate::null_default;
use crate::platform::Platform;

/// The largest image configuration, in bytes.
pub const MAX_CONFIG_SIZE: usize = 8 * 1024 * 1024;

/// The image's JSON (OCI image-spec `config.md`, and what Docker adds). Unknown fields are ignored.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// CPU architecture in Go's names.
    #[serde(default, deserialize_with = "null_default")]
    pub architecture: String,
    /// Operating system in Go's names.
    #[serde(default, deserialize_with = "null_default")]
    pub os: String,
    /// Only used by Windows images.
    #[serde(
        rename = "os.version",
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// Only used by Windows images.
    #[serde(rename = "os.features", default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// Variant of the architecture.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// The version of the Docker that made it.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub docker_version: String,
    /// A comment, set by import and commit.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// How to run it.
    #[serde(default, deserialize_with = "null_default")]
    pub config: ContainerConfig,
    /// What its file system consists of.
    #[serde(default, deserialize_with = "null_default")]
    pub rootfs: RootFs,
    /// How it came to be, oldest step first.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

/// How to run an image: Docker's `config` object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user`, `uid`, `user:group`, ….
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// Ports as `80/tcp`.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What runs before the command. An empty list is not the same as none.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or arguments for the entry point.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get a volume of their own.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// The directory to start in.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free text by key. Data only: labels of images never select behaviour.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the process to stop, by name or number.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// How to tell whether it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Windows only: the command is already escaped.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub args_escaped: bool,
    /// Dockerfile instructions for images built on this one.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell for the shell form of instructions.
    #[serde(default, deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Seconds to wait for a stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
}

/// The `{}` that Go writes for a set's values. Reads anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Empty {}

impl Serialize for Empty {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde::ser::SerializeMap::end(serializer.serialize_map(Some(0))?)
    }
}

impl<'de> Deserialize<'de> for Empty {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Empty, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Empty {})
    }
}

/// A health check, durations in nanoseconds; 0 is the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`; empty inherits.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Until one check counts as failed.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks during the start period.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// What the root file system consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_default")]
    pub kind: String,
    /// The digest of each layer's uncompressed tar, lowest first.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One step in the making of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// By whom.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// A comment.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The step changed no file.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Why an image configuration was refused, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfigError(String);

impl fmt::Display for ImageConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ImageConfigError {}

impl ImageConfig {
    /// Reads a configuration of at most 8 MiB. `null` stands for absent everywhere.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, ImageConfigError> {
        let refuse = |text: String| Err(ImageConfigError(text));
        if bytes.len() > MAX_CONFIG_SIZE {
            return refuse(format!("image config of {} bytes is larger than {MAX_CONFIG_SIZE}", bytes.len()));
        }
        if crate::nested_too_deep(bytes) {
            return refuse(format!("image config with more than {} levels of JSON", crate::MAX_DEPTH));
        }
        // The derived reader would also take an array of the fields in their order.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return refuse("invalid image config: not a JSON object".to_owned());
        }
        let config: ImageConfig = match serde_json::from_slice(bytes) {
            Ok(config) => config,
            Err(error) => return refuse(format!("invalid image config: {error}")),
        };
        if !matches!(config.rootfs.kind.as_str(), "layers" | "") {
            return refuse(format!("invalid image config: rootfs type {:?} is not \"layers\"", config.rootfs.kind));
        }
        if config.rootfs.diff_ids.len() > MAX_LAYERS {
            return refuse(format!("image of {} layers: at most {MAX_LAYERS}", config.rootfs.diff_ids.len()));
        }
        Ok(config)
    }

    /// The platform that the image was made for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
        }
    }
}

/// A list of words, or, as Docker's `StrSlice` also takes, one string.
fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        Many(Vec<String>),
        One(String),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::Many(words) => words,
        Words::One(word) => vec![word],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_docker_writes() {
        let diff_id = Digest::from_sha256([7; 32]);
        let json = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{"Hostname":"","User":"1000:1000","ExposedPorts":{{"80/tcp":{{}}}},
            "Env":["PATH=/bin"],"Entrypoint":null,"Cmd":["/bin/sh"],"Volumes":{{"/data":{{}}}},"WorkingDir":"/w","Labels":{{"a":"b"}},
            "StopSignal":"SIGQUIT","Healthcheck":{{"Test":["CMD","true"],"Interval":30000000000}},"ArgsEscaped":true,"OnBuild":null,
            "Shell":["/bin/bash","-c"],"Image":"sha256:x"}},"container_config":{{"Cmd":["x"]}},
            "rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},"history":[{{"created":"2026-01-01T00:00:00Z","created_by":"ADD x","empty_layer":true}}]}}"#
        );
        let config = ImageConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(config.config.cmd.as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert_eq!(config.config.entrypoint, None);
        assert!(config.config.exposed_ports.contains_key("80/tcp") && config.config.args_escaped);
        assert_eq!(config.config.healthcheck.as_ref().map(|check| check.interval), Some(30_000_000_000));
        assert_eq!(config.rootfs.diff_ids, [diff_id]);
        assert!(config.history[0].empty_layer);
        let again = serde_json::to_vec(&config).unwrap();
        assert_eq!(ImageConfig::parse(&again).unwrap(), config);
    }

    #[test]
    fn null_is_absent_everywhere() {
        let json = r#"{"created":null,"author":null,"architecture":null,"os":null,"os.features":null,"config":{"User":null,
            "ExposedPorts":null,"Env":null,"Cmd":null,"Volumes":null,"WorkingDir":null,"Labels":null,"StopSignal":null,
            "Healthcheck":null,"ArgsEscaped":null,"OnBuild":null,"Shell":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        assert_eq!(ImageConfig::parse(json.as_bytes()).unwrap(), ImageConfig::default());
        assert_eq!(ImageConfig::parse(br#"{"config":null,"rootfs":null}"#).unwrap(), ImageConfig::default());
    }

    #[test]
    fn one_string_is_a_command() {
        let config = ImageConfig::parse(br#"{"config":{"Cmd":"ls","Entrypoint":[]}}"#).unwrap();
        assert_eq!((config.config.cmd, config.config.entrypoint), (Some(vec!["ls".to_owned()]), Some(vec![])));
    }

    #[test]
    fn refuses_other_roots_and_bad_digests() {
        for json in [
            r#"{"rootfs":{"type":"blobs"}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":"x"}}"#,
            r#"{"config":{"Env":[1]}}"#,
            r#"{"os":"linux","os":"linux"}"#,
            "[]",
            "",
        ] {
            assert!(ImageConfig::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
