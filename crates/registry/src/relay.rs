//! Owns fetching a blob as it is, of any size, for whoever stands in for a registry. It must not verify it: publishing does.

use std::sync::Arc;

use brig_oci::{Digest, Reference};
use brig_store::Partial;
use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use hyper::{Method, StatusCode};

use crate::answer::{Asked, refusal};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::config::Auth;
use crate::error::{ErrorKind, Failure, Result};
use crate::net::transport::{Outgoing, Response};
use crate::pull::{blocking, content_range};
use crate::session::{Session, check_encoding, sessions};

/// Fetches a blob of any size from the first endpoint that has it, to the end of `partial`, which is emptied first. Its digest
/// is verified by whoever publishes it. A connection that breaks off is made anew, and gone on with where it broke. `begun` is
/// called each time that an endpoint begins to send it, with its length if that was told: from then on a reader of `partial`
/// follows it.
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
    let emptied = partial.clone();
    blocking(move || Ok(emptied.truncate(0)?)).await?;
    let mut backoff = Backoff::at_beginning(session.inner.config.retry_delay);
    let mut answered = Answered { begun, total: None, any: false };
    loop {
        let before = partial.len();
        let Err(failure) = rest_from(session, digest, partial, &mut answered).await else { return Ok(()) };
        if partial.len() > before {
            backoff.progress();
            backoff = backoff.begun();
        }
        let waiting = |wait, failure: &Failure| tracing::debug!("{digest}: {}; going on in {wait:?}", failure.error);
        backoff.wait(failure, waiting).await?;
    }
}

/// What an endpoint has said of a blob.
struct Answered<'a> {
    begun: &'a (dyn Fn(Option<u64>) + Send + Sync),
    total: Option<u64>,
    any: bool,
}

impl Answered<'_> {
    /// How much of what it sends now is there already.
    fn skip(&mut self, response: &Response<'_>, there: u64) -> std::result::Result<u64, Failure> {
        let length = response.header(&CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        let (start, total) = match response.status {
            StatusCode::OK => (0, length),
            _ => response.header(&CONTENT_RANGE).and_then(content_range).unwrap_or((u64::MAX, None)),
        };
        let is_other = self.total.is_some_and(|known| total.is_some_and(|total| total != known));
        if start > there || is_other {
            let text = format!("{}: the blob is not sent on where it broke off, at byte {there}", response.context());
            return Err(Failure::fatal(ErrorKind::Mismatch, text));
        }
        self.total = self.total.or(total);
        if !std::mem::replace(&mut self.any, true) {
            (self.begun)(total);
        }
        Ok(there - start)
    }
}

/// Fetches what is not there yet.
async fn rest_from(
    session: &Session,
    digest: &Digest,
    partial: &Arc<Partial>,
    answered: &mut Answered<'_>,
) -> std::result::Result<(), Failure> {
    /// How much is collected before a thread is taken to write it, in bytes.
    const BATCH: usize = 512 << 10;
    let there = partial.len();
    let mut request = Outgoing::new(Method::GET, session.url(&format!("blobs/{digest}")).await?);
    if there > 0 {
        let range = HeaderValue::try_from(format!("bytes={there}-"));
        request = request.header(RANGE, range.map_err(|e| Failure::fatal(ErrorKind::Invalid, e.to_string()))?);
    }
    let mut response = session.send(request).await?;
    if response.status != StatusCode::OK && (there == 0 || response.status != StatusCode::PARTIAL_CONTENT) {
        return Err(refusal(response, Asked::Content(&session.reference, "a blob")).await);
    }
    check_encoding(&response)?;
    let mut skip = answered.skip(&response, there)?;
    let (mut batch, mut collected) = (Vec::new(), 0);
    loop {
        let piece = response.chunk().await;
        let is_end = !matches!(piece, Ok(Some(_)));
        if let Ok(Some(piece)) = &piece {
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            // Lossless: at most the piece's length.
            let piece = piece.slice(skipped as usize..);
            collected += piece.len();
            batch.push(piece);
        }
        if is_end || collected >= BATCH {
            let (partial, pieces) = (partial.clone(), std::mem::take(&mut batch));
            blocking(move || Ok(pieces.iter().try_for_each(|piece: &Bytes| partial.append(piece))?)).await?;
            collected = 0;
        }
        if is_end {
            // What came before it broke off stays.
            return piece.map(drop);
        }
    }
}
