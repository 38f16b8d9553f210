//! The distribution protocol, client half: finding, fetching and verifying images, pushing them, and checking credentials.
//!
//! It must not interpret Docker's API, tag images, or touch the disk other than through [`brig_store::Store`].
//! Everything that a registry sends is hostile until its digest is verified; everything is bounded in size and time.
//!
//! A pull in file names: `client` (what all pulls share) → `pull` → `pull/resolve` (name to manifest and config) →
//! `pull/flight` (shared downloads) → `pull/source` (bytes of one layer) → `session` (requests to one repository) →
//! `auth` (tokens) → `net` (HTTP, TLS, names). A push: `client` → `push` → `push/packed` (a layer's blob, made again) →
//! `push/upload` → `session`. Whole indexes and what is no image: `documents`.

mod answer;
mod auth;
mod backoff;
mod challenge;
mod client;
mod config;
pub mod documents;
mod error;
mod fetch;
mod hash;
mod lists;
mod net;
mod pull;
mod push;
mod relay;
mod session;

/// What is read of a registry's headers, for the fuzz targets.
#[doc(hidden)]
pub mod headers {
    /// The token servers of a `WWW-Authenticate`: realm and service.
    pub fn token_servers(text: &str) -> Vec<(String, String)> {
        let all = crate::challenge::parse(text).into_iter();
        all.filter_map(|challenge| match challenge {
            crate::challenge::Challenge::Bearer { realm, service } => Some((realm, service)),
            crate::challenge::Challenge::Basic => None,
        })
        .collect()
    }

    /// The query of the next page in a `Link`.
    pub fn next_page(text: &str) -> Option<String> {
        crate::lists::next_query(text)
    }

    /// Where a `Location` leads from a page of `https://registry.test:5000`: origin and target.
    pub fn location(text: &str) -> Option<(String, String)> {
        let base = crate::net::url::Url::parse("https://registry.test:5000/v2/x/blobs/uploads/?a=b").ok()?;
        let url = base.join(text).ok()?;
        Some((url.origin.to_string(), url.target))
    }
}

pub use client::{Client, Settled};
pub use config::{Auth, Config, RegistrySettings};
pub use error::{Error, ErrorKind, Result};
pub use fetch::Fetch;
pub use lists::Found;
pub use net::proxy::Proxies;
pub use pull::Pulled;
pub use pull::describe::Described;
pub use pull::event::PullEvent;
pub use push::{PushEvent, Pushed, prepare};
pub use relay::fetch_blob;
