//! Standing in for another registry: what is not here, or what a tag means now, is asked there, and kept.
//! Owns when that registry is asked. Must not give out what it has not verified: everything goes through the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use brig_oci::{Digest, Reference};
use brig_registry::documents::fetch;
use brig_registry::{Auth, Client, Config, Error, ErrorKind, fetch_blob};
use brig_store::Lease;
use hyper::StatusCode;

use crate::handlers::keep_manifest;
use crate::refusal::Refusal;
use crate::registry::Registry;

/// The registry behind a cache.
pub struct Proxy {
    client: Client,
    host: String,
    auth: Option<Auth>,
    /// Blobs that are being fetched: whoever wants one too waits for it.
    fetching: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Proxy {
    /// `address` is `host[:port]` or `https://host[:port]`; `docker.io` is Docker Hub. Plain HTTP is spoken with this machine
    /// only, and where the address says `http://`.
    ///
    /// # Errors
    /// Names what is wrong with the address.
    pub fn new(address: &str, auth: Option<Auth>) -> Result<Proxy, String> {
        let (scheme, host) = address.split_once("://").unwrap_or(("https", address));
        let host = host.trim_end_matches('/');
        let insecure = match scheme {
            "https" => Vec::new(),
            "http" => vec![host.to_owned()],
            _ => return Err(format!("{address}: a registry is reached by https:// or http://")),
        };
        Reference::parse(&format!("{host}/name:tag"))
            .ok()
            .filter(|reference| reference.domain() == host)
            .ok_or_else(|| format!("{address}: not the address of a registry, which is host[:port]"))?;
        let client = Client::new(Config { insecure, ..Config::default() }).map_err(|error| error.message)?;
        Ok(Proxy { client, host: host.to_owned(), auth, fetching: Mutex::default() })
    }

    fn reference(&self, name: &str, rest: &str) -> Result<Reference, Refusal> {
        // The path of an image of Docker Hub's own has a word before it that nobody writes.
        let text = format!("{}/{name}{rest}", self.host);
        Reference::parse(&text).map_err(|error| Refusal::manifest_invalid(error.to_string()))
    }

    /// Asks what a tag means there, or for the manifest with a digest, and keeps it. `Ok(false)`: it could not be asked.
    pub(crate) async fn manifest(&self, registry: &Registry, name: &str, reference: &str) -> Result<bool, Refusal> {
        let separator = if reference.contains(':') { '@' } else { ':' };
        let wanted = self.reference(name, &format!("{separator}{reference}"))?;
        let named = match fetch(&self.client, &registry.inner.store, &wanted, self.auth.as_ref()).await {
            Ok(named) => named,
            Err(error) => return self.judge(&error, name),
        };
        let (name, tag) = (name.to_owned(), wanted.tag().map(str::to_owned));
        registry.blocking(move |inner| keep_manifest(inner, &name, &named.digest, &named.bytes, tag)).await?;
        Ok(true)
    }

    /// Fetches a blob and keeps it. `Ok(false)` as above.
    pub(crate) async fn blob(&self, registry: &Registry, name: &str, digest: &Digest) -> Result<bool, Refusal> {
        let turn =
            self.fetching.lock().unwrap_or_else(PoisonError::into_inner).entry(digest.clone()).or_default().clone();
        let _turn = turn.lock().await;
        let outcome = self.blob_now(registry, name, digest).await;
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
        outcome
    }

    async fn blob_now(&self, registry: &Registry, name: &str, digest: &Digest) -> Result<bool, Refusal> {
        let (repository, wanted) = (name.to_owned(), digest.clone());
        // Somebody else's turn may have brought it.
        let is_here = move |inner: &crate::registry::Inner| {
            let linked = inner.repositories.blob_size(&repository, &wanted)?;
            Ok(linked.is_some_and(|size| inner.store.blob_size(&wanted) == Some(size)))
        };
        if registry.blocking(is_here).await? {
            return Ok(true);
        }
        let partial_name = format!("proxy-{}-{}", digest.algorithm(), digest.hex());
        let partial = Arc::new(registry.blocking(move |inner| Ok(inner.store.partials().open(&partial_name)?)).await?);
        let wanted = self.reference(name, &format!("@{digest}"))?;
        if let Err(error) = fetch_blob(&self.client, &wanted, digest, &partial, self.auth.as_ref()).await {
            return self.judge(&error, name);
        }
        let (repository, digest) = (name.to_owned(), digest.clone());
        registry
            .blocking(move |inner| {
                let partial = Arc::into_inner(partial)
                    .ok_or_else(|| Refusal::internal("a blob from elsewhere is still being written"))?;
                let _lease = Lease::begin(&inner.store);
                // Another digest there is no fault of the client's.
                let size = partial.commit(&digest).map_err(Refusal::internal)?;
                Ok(inner.repositories.link_blob(&repository, &digest, size)?)
            })
            .await?;
        Ok(true)
    }

    /// Whether what is here may be given out instead: not if the other registry has said that there is no such thing.
    fn judge(&self, error: &Error, name: &str) -> Result<bool, Refusal> {
        match error.kind {
            ErrorKind::NotFound => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "MANIFEST_UNKNOWN",
                format!("{} does not have it: {}", self.host, error.message),
            )),
            _ => {
                tracing::warn!("{} could not be asked for {name}, what is here will do: {error}", self.host);
                Ok(false)
            }
        }
    }

    /// Nothing is here and nothing could be had.
    pub(crate) fn away(&self) -> Refusal {
        let text = format!("it is not here yet, and {} cannot be asked for it: the log has the cause", self.host);
        Refusal::new(StatusCode::BAD_GATEWAY, "UNKNOWN", text)
    }
}
