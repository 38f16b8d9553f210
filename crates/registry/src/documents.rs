//! Owns what is not one runnable image: indexes as a whole, attestations and artifacts. Fetched and sent as they are; what
//! they mean is the caller's.

use std::sync::Arc;
use std::time::Duration;

use brig_oci::{Descriptor, Digest, Document, MAX_CONFIG_SIZE, Manifest, Reference, media_type};
use brig_store::Store;
use futures_util::future::try_join_all;

use crate::client::Client;
use crate::config::Auth;
use crate::error::{Error, Result};
use crate::pull::resolve::{self, Around};
use crate::pull::{blocking, raw_blob};
use crate::push::{is_foreign, send};
use crate::session::{Session, sessions};

/// What a name points to in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes, over which that is.
    pub bytes: Vec<u8>,
    /// What they say.
    pub document: Document,
}

/// Fetches the manifest or index that `reference` names, from the first endpoint that has it. Stores nothing.
pub async fn fetch(client: &Client, store: &Store, reference: &Reference, auth: Option<&Auth>) -> Result<Named> {
    first(client, store, reference, auth).await.map(|(_, named)| named)
}

/// Fetches a manifest and all that it lists, blobs of any size, into the store, going on with what an earlier pull left.
/// Nothing in it is unpacked; what may not be distributed is left out. The caller holds a lease until something leads to it.
pub async fn pull_raw(client: &Client, store: &Store, reference: &Reference, auth: Option<&Auth>) -> Result<Digest> {
    let (session, named) = first(client, store, reference, auth).await?;
    let parts = match &named.document {
        Document::Manifest(manifest) => {
            std::iter::once(&manifest.config).chain(&manifest.layers).cloned().collect::<Vec<_>>()
        }
        Document::Index(_) => Vec::new(),
    };
    let session = Arc::new(session);
    let wanted = parts.iter().filter(|part| !is_foreign(part));
    try_join_all(wanted.map(|part| raw_blob(store, &session, part))).await?;
    let (store, digest, bytes) = (store.clone(), named.digest.clone(), named.bytes);
    blocking(move || Ok(store.put_blobs(&[(&digest, &bytes)])?)).await?;
    Ok(named.digest)
}

/// Sends a manifest or index as it is to the tag, or under the digest, that `reference` names; before it those of `parts`
/// that the registry does not have, from the store.
pub async fn push_raw(
    client: &Client,
    store: &Store,
    reference: &Reference,
    (bytes, media_type): (&[u8], &str),
    parts: &[Descriptor],
    auth: Option<&Auth>,
) -> Result<()> {
    let endpoint = client.inner().config.registry(reference.domain()).map_err(Error::invalid)?;
    let session = Session::for_push(client.inner(), endpoint, reference.clone(), auth, &Default::default());
    for part in parts {
        if is_foreign(part) {
            continue;
        }
        let (store, digest) = (store.clone(), part.digest.clone());
        let (file, _) = blocking(move || Ok(store.open_blob(&digest)?)).await?;
        send::file(&session, part, file).await?;
    }
    send::manifest(&session, bytes, media_type).await
}

/// Sees to it that the repository of `target` has the manifest that `source`, in the same registry, names by digest: its blobs
/// are mounted where that is another repository. Nothing of it comes here but the manifest.
pub async fn copy(
    client: &Client,
    store: &Store,
    source: &Reference,
    target: &Reference,
    auth: Option<&Auth>,
) -> Result<Named> {
    let named = fetch(client, store, source, auth).await?;
    let Document::Manifest(manifest) = &named.document else { return Ok(named) };
    if source.path() == target.path() {
        return Ok(named);
    }
    let endpoint = client.inner().config.registry(target.domain()).map_err(Error::invalid)?;
    let sources = std::collections::BTreeSet::from([source.path()]);
    let session = Session::for_push(client.inner(), endpoint, target.clone(), auth, &sources);
    for part in std::iter::once(&manifest.config).chain(&manifest.layers) {
        send::mount(&session, &part.digest, source.path()).await?;
    }
    let kind = if manifest.media_type.is_empty() { media_type::OCI_MANIFEST } else { &manifest.media_type };
    send::manifest(&session, &named.bytes, kind).await?;
    Ok(named)
}

/// The configuration of an image that [`fetch`] found, verified against its manifest.
pub async fn fetch_config(
    client: &Client,
    reference: &Reference,
    manifest: &Manifest,
    auth: Option<&Auth>,
) -> Result<Vec<u8>> {
    let config = &manifest.config;
    let mut failed = None;
    for session in sessions(&client.inner(), reference, auth)? {
        match session.small_blob(&config.digest, config.size, MAX_CONFIG_SIZE, "image config").await {
            Ok(bytes) => return Ok(bytes),
            Err(failure) => failed = Some(failure.error),
        }
    }
    Err(failed.expect("the registry itself is always among the endpoints"))
}

async fn first(client: &Client, store: &Store, reference: &Reference, auth: Option<&Auth>) -> Result<(Session, Named)> {
    let local = |digest: &Digest| if store.has_blob(digest) { store.read_blob(digest).ok() } else { None };
    let waiting = |_: Duration| {};
    let around = Around { local: &local, waiting: &waiting };
    let mut failed = None;
    for session in sessions(&client.inner(), reference, auth)? {
        match resolve::named(&session, around).await {
            Ok(found) => {
                let named = Named { digest: found.digest, bytes: found.bytes, document: found.document };
                return Ok((session, named));
            }
            Err(failure) => failed = Some(failure.error),
        }
    }
    Err(failed.expect("the registry itself is always among the endpoints"))
}
