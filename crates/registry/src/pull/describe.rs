//! Owns telling what a name means at its registry without fetching any of it but documents.

use std::sync::Arc;

use brig_oci::{Descriptor, Document, MAX_CONFIG_SIZE, Platform, Reference, media_type};

use super::resolve::{self, Around};
use crate::client::Inner;
use crate::config::Auth;
use crate::error::{Error, Result};
use crate::session::{Session, sessions};

/// What a name means at its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// What it points to.
    pub descriptor: Descriptor,
    /// The platforms that it is there for; none for what is no image.
    pub platforms: Vec<Platform>,
}

/// See [`crate::Client::describe`].
pub(crate) async fn describe(inner: &Arc<Inner>, reference: &Reference, auth: Option<&Auth>) -> Result<Described> {
    let mut failed = None;
    for session in sessions(inner, reference, auth)? {
        match at(&session).await {
            Ok(described) => return Ok(described),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.expect("the registry itself is always among the endpoints"))
}

async fn at(session: &Session) -> Result<Described> {
    let around = Around { local: &|_| None, waiting: &|_| {} };
    let named = resolve::named(session, around).await?;
    let (kind, platforms) = match &named.document {
        Document::Index(index) => {
            let platforms = index.manifests.iter().filter_map(|entry| entry.platform.clone()).collect();
            (media_type_or(&index.media_type, media_type::OCI_INDEX), platforms)
        }
        Document::Manifest(manifest) => {
            let mut platforms = Vec::new();
            if media_type::is_image_config(&manifest.config.media_type) {
                let config = &manifest.config;
                let bytes = session.small_blob(&config.digest, config.size, MAX_CONFIG_SIZE, "image config").await?;
                let config = brig_oci::ImageConfig::parse(&bytes).map_err(|error| Error::invalid(error.to_string()))?;
                platforms.push(config.platform());
            }
            (media_type_or(&manifest.media_type, media_type::OCI_MANIFEST), platforms)
        }
    };
    Ok(Described { descriptor: Descriptor::new(kind, named.digest, named.bytes.len() as u64), platforms })
}

/// A document that does not say what it is is OCI's, which need not.
fn media_type_or<'a>(own: &'a str, default: &'a str) -> &'a str {
    if own.is_empty() { default } else { own }
}
