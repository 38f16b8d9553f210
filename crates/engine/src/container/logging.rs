//! `--log-driver` and `--log-opt`. Owns parsing, defaults and what a record's lines carry; must not write a log.

use std::collections::BTreeMap;

use brig_api::container::LogConfig;

use super::record::Record;
use crate::error::{Error, Result};

/// Logs are bounded unless the user says otherwise: this many bytes a file …
const DEFAULT_MAX_SIZE: u64 = 10_000_000;
/// … and this many files.
const DEFAULT_MAX_FILES: u32 = 3;

/// The options of the json-file driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bytes after which a file is rotated; `None` for never.
    pub max_size: Option<u64>,
    /// How many files are kept.
    pub max_files: u32,
    labels: Vec<String>,
    env: Vec<String>,
    tag: Option<String>,
}

impl Options {
    /// Parses; what Docker refuses is refused.
    pub fn parse(config: &LogConfig) -> Result<Self> {
        let mut options = Self {
            max_size: Some(DEFAULT_MAX_SIZE),
            max_files: DEFAULT_MAX_FILES,
            labels: Vec::new(),
            env: Vec::new(),
            tag: None,
        };
        let list =
            |text: &str| text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
        for (key, value) in config.config.iter().flatten() {
            match key.as_str() {
                "max-size" => options.max_size = size(value)?,
                "max-file" => {
                    options.max_files = value
                        .parse()
                        .ok()
                        .filter(|n| *n >= 1)
                        .ok_or_else(|| Error::invalid(format!("max-file cannot be less than 1: {value:?}")))?;
                }
                "labels" => options.labels = list(value),
                "env" => options.env = list(value),
                "tag" => options.tag = Some(value.clone()),
                // Rotated files are small already and lines never wait: true as far as a reader can tell.
                "mode" if value == "blocking" || value == "non-blocking" => {}
                "max-buffer-size" => {}
                "compress" if value == "false" => {}
                "compress" => {
                    return Err(Error::not_implemented("log option compress=true is not in brig yet; leave it out"));
                }
                other => {
                    return Err(Error::invalid(format!("unknown log opt '{other}' for json-file log driver")));
                }
            }
        }
        Ok(options)
    }

    /// The attributes that every line carries.
    pub fn attributes(&self, record: &Record) -> BTreeMap<String, String> {
        let mut attributes = BTreeMap::new();
        let labels = record.config.labels.iter().flatten().filter(|(name, _)| self.labels.contains(name));
        attributes.extend(labels.map(|(name, value)| (name.clone(), value.clone())));
        let variables = record.config.env.iter().flatten().filter_map(|entry| entry.split_once('='));
        let wanted = variables.filter(|(name, _)| self.env.iter().any(|wanted| wanted == name));
        attributes.extend(wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if let Some(tag) = &self.tag {
            let text = tag
                .replace("{{.Name}}", &record.name)
                .replace("{{.ID}}", record.short_id())
                .replace("{{.FullID}}", &record.id)
                .replace("{{.ImageName}}", &record.image);
            attributes.insert("tag".into(), text);
        }
        attributes
    }
}

/// `10m`, `1g`, `-1` for no limit.
fn size(text: &str) -> Result<Option<u64>> {
    if text == "-1" {
        return Ok(None);
    }
    let bad = || Error::invalid(format!("invalid size for max-size: {text:?}"));
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches('b');
    let (number, factor) = match digits.strip_suffix(['k', 'm', 'g']) {
        Some(number) if digits.ends_with('k') => (number, 1u64 << 10),
        Some(number) if digits.ends_with('m') => (number, 1 << 20),
        Some(number) => (number, 1 << 30),
        None => (digits, 1),
    };
    let number: u64 = number.trim().parse().map_err(|_| bad())?;
    number.checked_mul(factor).filter(|bytes| *bytes > 0).map(Some).ok_or_else(bad)
}

/// Fills in the daemon's default and refuses drivers that brig does not have.
pub fn resolve(given: &LogConfig, driver: &str, options: &BTreeMap<String, String>) -> Result<LogConfig> {
    let mut config = given.clone();
    if config.type_.is_empty() {
        config.type_ = driver.into();
        if config.config.as_ref().is_none_or(BTreeMap::is_empty) {
            config.config = Some(options.clone());
        }
    }
    match config.type_.as_str() {
        "none" => Ok(config),
        "json-file" => Options::parse(&config).map(|_| config),
        "local" | "syslog" | "journald" | "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs" | "etwlogs" => {
            Err(Error::not_implemented(format!(
                "log driver '{}' is not in brig yet: use json-file (bounded by default) or none",
                config.type_
            )))
        }
        other => Err(Error::invalid(format!("logger: no log driver named '{other}' is registered"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<Options> {
        let config = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Options::parse(&LogConfig { type_: "json-file".into(), config: Some(config) })
    }

    #[test]
    fn bounded_unless_said_otherwise() {
        let default = options(&[]).unwrap();
        assert_eq!((default.max_size, default.max_files), (Some(DEFAULT_MAX_SIZE), 3));
        assert_eq!(options(&[("max-size", "10m"), ("max-file", "2")]).unwrap().max_size, Some(10 << 20));
        assert_eq!(options(&[("max-size", "-1")]).unwrap().max_size, None);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [("max-size", "x"), ("max-size", "0"), ("max-file", "0"), ("what", "1"), ("compress", "true")] {
            assert!(options(&[bad]).is_err(), "{bad:?}");
        }
        assert!(resolve(&LogConfig { type_: "loki".into(), config: None }, "json-file", &BTreeMap::new()).is_err());
    }
}
