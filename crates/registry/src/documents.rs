//! Owns what is not one runnable image: indexes as a whole, attestations and artifacts. Fetched and sent as they are; what
//! they mean is the caller's.

use std::time::Duration;

use brig_oci::{Descriptor, Digest, Document, Reference};
use brig_store::{MAX_BLOB_SIZE, Store};
use bytes::Bytes;

use crate::client::Client;
use crate::config::Auth;
use crate::error::{Error, Result};
use crate::pull::blocking;
use crate::pull::resolve::{self, Around};
use crate::push::send;
use crate::session::Session;

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

/// Fetches a manifest and all that it lists, each a blob of at most [`MAX_BLOB_SIZE`] bytes, into the store. Nothing in it is
/// unpacked. The caller holds a lease until something leads to it.
pub async fn pull_raw(client: &Client, store: &Store, reference: &Reference, auth: Option<&Auth>) -> Result<Digest> {
    let (session, named) = first(client, store, reference, auth).await?;
    let parts = match &named.document {
        Document::Manifest(manifest) => std::iter::once(&manifest.config).chain(&manifest.layers).cloned().collect(),
        Document::Index(_) => Vec::new(),
    };
    let mut blobs = vec![(named.digest.clone(), named.bytes)];
    // Far more than any attestation has.
    let limit = usize::try_from(MAX_BLOB_SIZE).unwrap_or(usize::MAX);
    for part in parts {
        if !store.has_blob(&part.digest) {
            blobs.push((
                part.digest.clone(),
                session.small_blob(&part.digest, part.size, limit, "a part of an artifact").await?,
            ));
        }
    }
    let store = store.clone();
    blocking(move || Ok(blobs.iter().try_for_each(|(digest, bytes)| store.put_blob_as(digest, bytes))?)).await?;
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
    let endpoints = client.inner.config.endpoints(reference.domain()).map_err(Error::invalid)?;
    let endpoint = endpoints.into_iter().last().expect("the registry itself is always the last endpoint");
    let session = Session::for_push(client.inner.clone(), endpoint, reference.clone(), auth, &Default::default());
    for part in parts {
        let (store, digest) = (store.clone(), part.digest.clone());
        let content: Bytes = blocking(move || Ok(store.read_blob(&digest)?)).await?.into();
        send::blob(&session, &part.digest, content).await?;
    }
    send::manifest(&session, bytes, media_type).await
}

async fn first(client: &Client, store: &Store, reference: &Reference, auth: Option<&Auth>) -> Result<(Session, Named)> {
    let local = |digest: &Digest| if store.has_blob(digest) { store.read_blob(digest).ok() } else { None };
    let waiting = |_: Duration| {};
    let around = Around { local: &local, waiting: &waiting };
    let mut failed = None;
    for endpoint in client.inner.config.endpoints(reference.domain()).map_err(Error::invalid)? {
        let session = Session::new(client.inner.clone(), endpoint, reference.clone(), auth);
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
