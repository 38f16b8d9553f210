//! Images from archives: load and import. Owns Docker's progress lines; reading archives is the store's.

use std::io::Read;

use brig_api::progress::Message;
use brig_oci::{ImageConfig, Platform, Reference};
use brig_store::archive;
use tokio::sync::mpsc;

use super::Images;
use super::transfer::{LINES, Progress, failure, status, with_detail};
use crate::error::{Error, Result, from_store};

impl Images {
    /// Loads images from an archive.
    pub fn load(&self, reader: Box<dyn Read + Send>, quiet: bool) -> Progress {
        let (sender, lines) = mpsc::channel(LINES);
        let images = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut show = |event: archive::LoadEvent| {
                if let Some(line) = load_line(event).filter(|_| !quiet) {
                    sender.blocking_send(line).ok();
                }
            };
            let last = match archive::load(&images.store, reader, &mut show) {
                Ok(loaded) => loaded
                    .into_iter()
                    .map(|image| {
                        images.emit("load", image.id.as_str(), image.name.as_deref().unwrap_or_default());
                        let name = image.name.as_deref().and_then(|name| Reference::parse(name).ok());
                        let text = match name {
                            Some(name) => format!("Loaded image: {}\n", name.familiar()),
                            None => format!("Loaded image ID: {}\n", image.id),
                        };
                        Message { stream: text, ..Message::default() }
                    })
                    .collect(),
                Err(e) => vec![failure(&from_store(e).message)],
            };
            for line in last {
                sender.blocking_send(line).ok();
            }
        });
        lines
    }

    /// Makes an image of one layer from a tar of a root file system.
    pub fn import(&self, reader: Box<dyn Read + Send>, import: Import) -> Result<Progress> {
        let target = match import.repository.as_str() {
            "" => None,
            repository => {
                let target = Reference::parse_bare(repository).map_err(|e| Error::invalid(e.to_string()))?;
                let tag = if import.tag.is_empty() {
                    target.tag().unwrap_or("latest").to_owned()
                } else {
                    import.tag.clone()
                };
                Some(target.with_tag(&tag).map_err(|e| Error::invalid(e.to_string()))?)
            }
        };
        let platform = match import.platform.as_str() {
            "" => Platform::host(),
            text => Platform::parse(text).map_err(|e| Error::invalid(e.to_string()))?,
        };
        let mut config = ImageConfig {
            created: Some(crate::id::now()),
            architecture: platform.architecture,
            os: platform.os,
            variant: platform.variant,
            comment: if import.message.is_empty() { "Imported from -".into() } else { import.message },
            ..ImageConfig::default()
        };
        super::changes::apply(&mut config.config, &import.changes)?;
        let (sender, lines) = mpsc::channel(LINES);
        let images = self.clone();
        tokio::task::spawn_blocking(move || {
            let name = target.as_ref().map(Reference::canonical);
            let line = match archive::import(&images.store, reader, config, name.as_deref()) {
                Ok(id) => {
                    images.emit("import", id.as_str(), target.map(|t| t.familiar()).unwrap_or_default().as_str());
                    status(id.to_string(), "")
                }
                Err(e) => failure(&from_store(e).message),
            };
            sender.blocking_send(line).ok();
        });
        Ok(lines)
    }
}

/// What `import` takes beside the tar.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// Name to give it; empty for none.
    pub repository: String,
    /// Tag to give it; empty for the name's or `latest`.
    pub tag: String,
    /// Comment.
    pub message: String,
    /// Dockerfile instructions that change the configuration.
    pub changes: Vec<String>,
    /// `os/architecture`; empty for this host's.
    pub platform: String,
}

fn load_line(event: archive::LoadEvent) -> Option<Message> {
    match event {
        archive::LoadEvent::Layer { id, current, total } => Some(with_detail("Loading layer", &id, current, total)),
    }
}
