//! Owns fetching a blob as it is, of any size, for whoever stands in for a registry. It must not verify it: publishing does.

use std::sync::Arc;

use brig_oci::{Digest, Reference};
use brig_store::Partial;
use bytes::Bytes;
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, StatusCode};

use crate::answer::{Asked, refusal};
use crate::client::Client;
use crate::config::Auth;
use crate::error::{Failure, Result};
use crate::net::transport::Outgoing;
use crate::pull::blocking;
use crate::session::{Session, check_encoding, sessions};

/// Fetches a blob of any size from the first endpoint that has it, to the end of `partial`, which is emptied first. Its digest
/// is verified by whoever publishes it. `begun` is called each time that an endpoint begins to send it, with its length if that
/// was told: from then on a reader of `partial` follows it.
pub async fn fetch_blob(
    client: &Client,
    reference: &Reference,
    digest: &Digest,
    partial: &Arc<Partial>,
    auth: Option<&Auth>,
    begun: &(dyn Fn(Option<u64>) + Send + Sync),
) -> Result<()> {
    let mut failed = None;
    for session in sessions(&client.inner(), reference, auth)? {
        match blob_from(&session, digest, partial, begun).await {
            Ok(()) => return Ok(()),
            Err(failure) => failed = Some(failure.error),
        }
    }
    Err(failed.expect("the registry itself is always among the endpoints"))
}

async fn blob_from(
    session: &Session,
    digest: &Digest,
    partial: &Arc<Partial>,
    begun: &(dyn Fn(Option<u64>) + Send + Sync),
) -> std::result::Result<(), Failure> {
    /// How much is collected before a thread is taken to write it, in bytes.
    const BATCH: usize = 512 << 10;
    let request = Outgoing::new(Method::GET, session.url(&format!("blobs/{digest}")).await?);
    let mut response = session.send(request).await?;
    if response.status != StatusCode::OK {
        return Err(refusal(response, Asked::Content(&session.reference, "a blob")).await);
    }
    check_encoding(&response)?;
    let emptied = partial.clone();
    blocking(move || Ok(emptied.truncate(0)?)).await?;
    begun(response.header(&CONTENT_LENGTH).and_then(|text| text.parse().ok()));
    let (mut batch, mut collected) = (Vec::new(), 0);
    loop {
        let piece = response.chunk().await?;
        let is_end = piece.is_none();
        batch.extend(piece.inspect(|piece| collected += piece.len()));
        if is_end || collected >= BATCH {
            let (partial, pieces) = (partial.clone(), std::mem::take(&mut batch));
            blocking(move || Ok(pieces.iter().try_for_each(|piece: &Bytes| partial.append(piece))?)).await?;
            collected = 0;
        }
        if is_end {
            return Ok(());
        }
    }
}
