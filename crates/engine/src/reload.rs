//! What may change while the engine runs: how registries are reached, and labels. Owns which of the settings those are; must
//! not read files (the daemon's).

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use crate::error::{Error, Result};
use crate::{Config, Engine, VERSION};

/// The client's settings.
pub(crate) fn registry(config: &Config) -> Result<brig_registry::Config> {
    Ok(brig_registry::Config {
        mirrors: config.registry_mirrors.clone(),
        registries: brig_registry::RegistrySettings::parse(&config.registries).map_err(Error::invalid)?,
        insecure: config.insecure_registries.clone(),
        max_concurrent_downloads: config.max_concurrent_downloads,
        max_concurrent_uploads: config.max_concurrent_uploads,
        compression: compression(&config.layer_compression)?,
        user_agent: format!("docker/28.0.0 brig/{VERSION}"),
        ..brig_registry::Config::default()
    })
}

/// What `--layer-compression` means.
fn compression(name: &str) -> Result<brig_store::Compression> {
    match name {
        "gzip" => Ok(brig_store::Compression::Gzip),
        "zstd" => Ok(brig_store::Compression::Zstd),
        other => Err(Error::invalid(format!("layer compression {other:?} is not known: it is gzip or zstd"))),
    }
}

impl Engine {
    /// Takes over from `config` what may change: everything about registries, labels, and whether debugging is on. An event
    /// says so in dockerd's words. What is under way goes on as it began.
    ///
    /// # Errors
    /// If a setting cannot be used; then nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<()> {
        self.images.reconfigure(registry(config)?)?;
        self.images.keep_all_platforms(config.pull_all_platforms);
        let now = Config {
            registry_mirrors: config.registry_mirrors.clone(),
            insecure_registries: config.insecure_registries.clone(),
            registries: config.registries.clone(),
            max_concurrent_downloads: config.max_concurrent_downloads,
            max_concurrent_uploads: config.max_concurrent_uploads,
            layer_compression: config.layer_compression.clone(),
            pull_all_platforms: config.pull_all_platforms,
            save_original: config.save_original,
            labels: config.labels.clone(),
            debug: config.debug,
            ..Config::clone(&self.config)
        };
        let list = |values: &[String]| serde_json::to_string(values).unwrap_or_default();
        let attributes = BTreeMap::from(
            [
                ("debug", now.debug.to_string()),
                ("insecure-registries", list(&now.insecure_registries)),
                ("labels", list(&now.labels)),
                ("max-concurrent-downloads", now.max_concurrent_downloads.to_string()),
                ("max-concurrent-uploads", now.max_concurrent_uploads.to_string()),
                ("pull-all-platforms", now.pull_all_platforms.to_string()),
                ("registries", list(&now.registries)),
                ("registry-mirrors", list(&now.registry_mirrors)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        *self.reloaded.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
        self.events.emit("daemon", "reload", &self.id, attributes);
        Ok(())
    }

    /// Whether images are saved as they came unless a client says otherwise.
    pub fn saves_originals(&self) -> bool {
        self.settings().save_original
    }

    /// The settings as they are now.
    pub(crate) fn settings(&self) -> Arc<Config> {
        Arc::clone(&self.reloaded.read().unwrap_or_else(PoisonError::into_inner))
    }
}
