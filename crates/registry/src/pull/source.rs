//! Owns fetching one layer's compressed bytes: ranges, resumption, retries, the promised size. It must not look inside
//! the bytes; their digest is checked by whoever reads them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brig_oci::Descriptor;
use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use hyper::{Method, StatusCode};
use tokio::sync::{mpsc, watch};

use super::flight::Stage;
use crate::answer::{Asked, refusal};
use crate::backoff::Backoff;
use crate::error::{ErrorKind, Failure, Retry};
use crate::net::tls::Trust;
use crate::net::transport::{Outgoing, Response};
use crate::net::url::{Scheme, Url};
use crate::session::{Session, check_encoding};

/// How often progress is published.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What goes from the network to the unpacking thread. Without `End` the stream was broken off.
pub(super) enum Piece {
    Data(Bytes),
    End,
}

/// One layer at one endpoint.
pub(super) struct LayerSource {
    pub(super) session: Arc<Session>,
    pub(super) descriptor: Descriptor,
}

/// Where a download stands.
struct Position {
    /// Bytes handed on.
    offset: u64,
    /// Whether the server is still believed to serve ranges.
    ranges: bool,
    reported: Instant,
}

/// Why a download stopped.
pub(super) enum Stop {
    Failed(Failure),
    /// The reader went away: its own error says why.
    ReaderGone,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl LayerSource {
    /// Sends the layer's bytes, all of them and not one more, into `pieces`.
    pub(super) async fn feed(&self, pieces: &mpsc::Sender<Piece>, stage: &watch::Sender<Stage>) -> Result<(), Stop> {
        tokio::select! {
            // Without this a reader that failed would be noticed only when the next byte arrives.
            () = pieces.closed() => Err(Stop::ReaderGone),
            result = self.feed_with_retries(pieces, stage) => result,
        }
    }

    async fn feed_with_retries(&self, pieces: &mpsc::Sender<Piece>, stage: &watch::Sender<Stage>) -> Result<(), Stop> {
        let mut backoff = Backoff::new(self.session.inner.config.retry_delay);
        let mut position = Position { offset: 0, ranges: true, reported: Instant::now() };
        loop {
            let before = position.offset;
            let failure = match self.attempt(&mut position, pieces, stage).await {
                Ok(()) => return pieces.send(Piece::End).await.map_err(|_| Stop::ReaderGone),
                Err(Stop::Failed(failure)) => failure,
                Err(gone) => return Err(gone),
            };
            if position.offset > before {
                backoff.progress();
            }
            let Some(wait) = backoff.next(failure.retry) else {
                return Err(self.name(failure, position.offset));
            };
            tracing::debug!("{}: {}; trying again in {wait:?}", self.descriptor.digest, failure.error);
            stage.send_replace(Stage::Retrying { seconds: super::whole_seconds(wait) });
            tokio::time::sleep(wait).await;
            stage.send_replace(Stage::Downloading { current: position.offset });
        }
    }

    /// Puts the layer's name and how far it came before a failure's text.
    fn name(&self, mut failure: Failure, offset: u64) -> Stop {
        let Descriptor { digest, size, .. } = &self.descriptor;
        if !failure.error.message.starts_with("layer ") {
            let far = if offset > 0 { format!(" (after {offset} of {size} bytes)") } else { String::new() };
            failure.error.message = format!("layer {digest}: {}{far}", failure.error.message);
        }
        Stop::Failed(failure)
    }

    async fn attempt(
        &self,
        position: &mut Position,
        pieces: &mpsc::Sender<Piece>,
        stage: &watch::Sender<Stage>,
    ) -> Result<(), Stop> {
        let size = self.descriptor.size;
        let before = position.offset;
        let mut response = self.open(position).await?;
        let mut skip = self.skip(&response, position)?;
        while let Some(mut data) = response.chunk().await? {
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            // The cast is lossless: `skipped` is at most the length of `data`.
            data = data.slice(skipped as usize..);
            if data.is_empty() {
                continue;
            }
            if data.len() as u64 > size - position.offset {
                return Err(self.wrong_size(&format!("at least {}", position.offset + data.len() as u64)).into());
            }
            position.offset += data.len() as u64;
            if position.reported.elapsed() >= PROGRESS_INTERVAL {
                position.reported = Instant::now();
                stage.send_replace(Stage::Downloading { current: position.offset });
            }
            pieces.send(Piece::Data(data)).await.map_err(|_| Stop::ReaderGone)?;
        }
        if position.offset == size {
            return Ok(());
        }
        let mut failure = self.wrong_size(&position.offset.to_string());
        if position.offset > before {
            // A proper end that came too early may be a proxy's doing: ask for the rest, once.
            failure.retry = Retry::Soon;
        }
        Err(failure.into())
    }

    fn wrong_size(&self, actual: &str) -> Failure {
        let Descriptor { digest, size, .. } = &self.descriptor;
        let truncated = actual.parse::<u64>().is_ok_and(|n| n < *size);
        let what = if truncated { "truncated" } else { "has the wrong size" };
        Failure::fatal(ErrorKind::Mismatch, format!("layer {digest} is {what}: expected {size} bytes, got {actual}"))
    }

    async fn open(&self, position: &mut Position) -> Result<Response<'_>, Failure> {
        let url = self.session.url(&format!("blobs/{}", self.descriptor.digest)).await?;
        let response = self.session.send(self.request(url, position)?).await?;
        let missing = matches!(response.status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN);
        if missing && let Some(found) = self.open_elsewhere(position).await? {
            return Ok(found);
        }
        self.check(response, position).await
    }

    fn request(&self, url: Url, position: &Position) -> Result<Outgoing, Failure> {
        let request = Outgoing::new(Method::GET, url);
        if position.offset == 0 || !position.ranges {
            return Ok(request);
        }
        let range = HeaderValue::try_from(format!("bytes={}-", position.offset));
        let range = range.map_err(|e| Failure::fatal(ErrorKind::Invalid, e.to_string()))?;
        Ok(request.header(RANGE, range))
    }

    /// Layers that may not be distributed name other places. They are asked without credentials, encrypted, and only in
    /// networks where the registry could lead to.
    async fn open_elsewhere(&self, position: &mut Position) -> Result<Option<Response<'_>>, Failure> {
        let mut last = None;
        for text in self.descriptor.urls.iter().take(8) {
            let Ok(url) = Url::parse(text) else { continue };
            if url.origin.scheme != Scheme::Https {
                continue;
            }
            let request = self.request(url, position)?;
            let home = self.session.origin().await?;
            match self.session.inner.transport.send_elsewhere(&request, Trust::Verified, home).await {
                Ok(response) if response.status.is_success() => {
                    return self.check(response, position).await.map(Some);
                }
                Ok(response) => last = Some(refusal(response, Asked::Content(&self.session.reference, "layer")).await),
                Err(failure) => last = Some(failure),
            }
        }
        if last.is_none() && !self.descriptor.urls.is_empty() {
            let text = format!(
                "layer {} is kept outside the registry and none of its URLs is https: refusing to fetch it",
                self.descriptor.digest
            );
            return Err(Failure::fatal(ErrorKind::Invalid, text));
        }
        last.map_or(Ok(None), Err)
    }

    async fn check<'r>(&self, response: Response<'r>, position: &mut Position) -> Result<Response<'r>, Failure> {
        match response.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                check_encoding(&response)?;
                Ok(response)
            }
            StatusCode::RANGE_NOT_SATISFIABLE if position.ranges => {
                // It has fewer bytes than it gave, or no ranges: the answer without one will tell.
                position.ranges = false;
                Err(Failure::transient(ErrorKind::Network, format!("{}: range not satisfiable", response.context())))
            }
            _ => {
                let what = format!("layer {}", self.descriptor.digest);
                Err(refusal(response, Asked::Content(&self.session.reference, &what)).await)
            }
        }
    }

    /// How many bytes of this response were handed on before. Fails where it cannot be what was asked for.
    fn skip(&self, response: &Response<'_>, position: &mut Position) -> Result<u64, Failure> {
        let size = self.descriptor.size;
        if response.status == StatusCode::OK {
            let length = response.header(&CONTENT_LENGTH).and_then(|v| v.parse::<u64>().ok());
            return match length {
                Some(length) if length != size => Err(self.wrong_size(&length.to_string())),
                _ => Ok(position.offset),
            };
        }
        match response.header(&CONTENT_RANGE).and_then(content_range) {
            Some((_, Some(total))) if total != size => Err(self.wrong_size(&total.to_string())),
            Some((start, _)) if start == position.offset => Ok(0),
            other => {
                // Never append at a place that was not asked for.
                position.ranges = false;
                let text =
                    format!("{}: asked for bytes from {}, was offered {other:?}", response.context(), position.offset);
                Err(Failure::transient(ErrorKind::Network, text))
            }
        }
    }
}

/// The first byte and the total of `bytes 5-9/10`; the total may be `*`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 5-9", "items 1-2/3", "bytes -1-2/3"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
