//! Owns fetching a blob's bytes from one place: ranges one after another or side by side, resumption, retries, the promised
//! size. It must not look inside the bytes or keep them; their digest is checked by whoever collects them.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use brig_oci::Descriptor;
use bytes::Bytes;
use futures_util::future::try_join_all;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use hyper::{Method, StatusCode};
use tokio::sync::{mpsc, watch};

use super::download::Arrival;
use crate::answer::{Asked, refusal};
use crate::backoff::Backoff;
use crate::error::{ErrorKind, Failure, Retry};
use crate::net::tls::Trust;
use crate::net::transport::{Outgoing, Response};
use crate::net::url::{Scheme, Url};
use crate::session::{Session, check_encoding};

/// How often progress is published.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes from the network, and where in the blob they belong.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) data: Bytes,
}

/// One blob at one endpoint.
pub(super) struct BlobSource {
    pub(super) session: Arc<Session>,
    pub(super) descriptor: Descriptor,
}

/// Why a download stopped.
pub(super) enum Stop {
    Failed(Failure),
    /// Asked for parts side by side, the server began to send something else.
    RangesLost,
    /// Whoever takes the bytes went away: its own error says why.
    ReaderGone,
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

/// Where progress is told.
pub(super) struct Report<'a> {
    publish: &'a watch::Sender<Arrival>,
    arrived: AtomicU64,
    last: Mutex<Instant>,
}

impl<'a> Report<'a> {
    /// `present` bytes are there already.
    pub(super) fn new(publish: &'a watch::Sender<Arrival>, present: u64) -> Report<'a> {
        Report { publish, arrived: AtomicU64::new(present), last: Mutex::new(Instant::now()) }
    }

    fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    fn add(&self, length: usize) {
        let current = self.arrived.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= PROGRESS_INTERVAL {
            *last = Instant::now();
            self.publish.send_replace(Arrival::Downloading { current });
        }
    }
}

/// The parts of a blob that nobody fetches yet, from the lowest on.
struct Queue {
    parts: Mutex<VecDeque<Range<u64>>>,
    /// The largest part handed out.
    most: u64,
}

impl Queue {
    fn next(&self) -> Option<Range<u64>> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let first = parts.front_mut()?;
        let part = first.start..first.end.min(first.start.saturating_add(self.most));
        first.start = part.end;
        if first.is_empty() {
            parts.pop_front();
        }
        Some(part)
    }

    fn clear(&self) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Where one stream stands.
struct Position {
    /// What it is still to bring.
    part: Range<u64>,
    /// Whether the server is still believed to serve ranges.
    ranges: bool,
    /// Others are fetching other parts.
    accompanied: bool,
}

/// What streams of one download share.
struct Streams<'a> {
    queue: Queue,
    pieces: &'a mpsc::Sender<Piece>,
    report: &'a Report<'a>,
    /// The server was seen serving a range.
    proven: watch::Sender<bool>,
}

impl BlobSource {
    /// Whether the blob is so large that several streams are worth their requests.
    pub(super) fn is_worth_ranges(&self) -> bool {
        let config = &self.session.inner.config;
        config.ranges_at_once > 1 && self.descriptor.size >= config.ranges_above
    }

    /// Sends the `missing` parts of the blob, and not one byte that it has not, into `pieces`; several parts at once if
    /// `in_ranges`. Bytes that are not missing may come along.
    pub(super) async fn fetch(
        &self,
        missing: Vec<Range<u64>>,
        in_ranges: bool,
        pieces: &mpsc::Sender<Piece>,
        report: &Report<'_>,
    ) -> Result<(), Stop> {
        let config = &self.session.inner.config;
        let most = if in_ranges { config.range_size.max(1) } else { u64::MAX };
        let streams = Streams {
            queue: Queue { parts: Mutex::new(missing.into()), most },
            pieces,
            report,
            proven: watch::channel(false).0,
        };
        let followers = if in_ranges { config.ranges_at_once - 1 } else { 0 };
        let others = try_join_all((0..followers).map(|_| async {
            // The first stream finds out whether the server can do it; where it cannot, it fetches everything.
            let mut proven = streams.proven.subscribe();
            if proven.wait_for(|proven| *proven).await.is_ok() { self.stream(&streams, true).await } else { Ok(()) }
        }));
        let first = async {
            let fetched = self.stream(&streams, false).await;
            // Nothing is left for those who still wait.
            streams.proven.send_replace(true);
            fetched
        };
        tokio::try_join!(first, others).map(drop)
    }

    /// Fetches parts from the queue until there is none.
    async fn stream(&self, streams: &Streams<'_>, follows: bool) -> Result<(), Stop> {
        let mut backoff = Backoff::new(self.session.inner.config.retry_delay);
        let mut ranges = true;
        while let Some(part) = streams.queue.next() {
            let accompanied = follows || *streams.proven.borrow();
            let mut position = Position { part, ranges, accompanied };
            self.part(&mut position, streams, &mut backoff).await?;
            ranges = position.ranges;
        }
        Ok(())
    }

    async fn part(&self, position: &mut Position, streams: &Streams<'_>, backoff: &mut Backoff) -> Result<(), Stop> {
        loop {
            let before = position.part.start;
            let failure = match self.attempt(position, streams).await {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(failure)) => failure,
                Err(stop) => return Err(stop),
            };
            if position.accompanied && !position.ranges {
                return Err(Stop::RangesLost);
            }
            if position.part.start > before {
                backoff.progress();
            }
            let waiting = |wait, failure: &Failure| {
                tracing::debug!("{}: {}; trying again in {wait:?}", self.descriptor.digest, failure.error);
                streams.report.publish.send_replace(Arrival::Retrying { seconds: super::whole_seconds(wait) });
            };
            let waited = backoff.wait(failure, waiting).await;
            waited.map_err(|failure| self.name(failure, streams.report.arrived()))?;
            streams.report.publish.send_replace(Arrival::Downloading { current: streams.report.arrived() });
        }
    }

    /// Puts the layer's name and how far it came before a failure's text.
    fn name(&self, mut failure: Failure, arrived: u64) -> Stop {
        let Descriptor { digest, size, .. } = &self.descriptor;
        if !failure.error.message.starts_with("layer ") {
            let far = if arrived > 0 { format!(" (after {arrived} of {size} bytes)") } else { String::new() };
            failure.error.message = format!("layer {digest}: {}{far}", failure.error.message);
        }
        Stop::Failed(failure)
    }

    async fn attempt(&self, position: &mut Position, streams: &Streams<'_>) -> Result<(), Stop> {
        let size = self.descriptor.size;
        let before = position.part.start;
        let mut response = self.open(position).await?;
        let mut skip = self.skip(&response, position)?;
        if response.status == StatusCode::OK {
            if position.accompanied {
                return Err(Stop::RangesLost);
            }
            // It sends everything to the end: nothing else need be asked for.
            position.part.end = size;
            streams.queue.clear();
        } else if !position.accompanied && streams.queue.most < u64::MAX {
            position.accompanied = true;
            streams.proven.send_replace(true);
        }
        while let Some(mut data) = response.chunk().await? {
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            // The cast is lossless: `skipped` is at most the length of `data`.
            data = data.slice(skipped as usize..);
            if data.is_empty() {
                continue;
            }
            let (offset, length) = (position.part.start, data.len());
            if length as u64 > position.part.end - offset {
                return Err(self.too_much(&response, position, offset + length as u64).into());
            }
            position.part.start += length as u64;
            streams.report.add(length);
            streams.pieces.send(Piece { offset, data }).await.map_err(|_| Stop::ReaderGone)?;
        }
        if position.part.is_empty() {
            return Ok(());
        }
        let mut failure = self.wrong_size(&position.part.start.to_string());
        if position.part.start > before {
            // A proper end that came too early may be a proxy's doing: ask for the rest, once.
            failure.retry = Retry::Soon;
        }
        Err(failure.into())
    }

    /// More came than the part that was asked for, or than there is.
    fn too_much(&self, response: &Response<'_>, position: &mut Position, end: u64) -> Failure {
        if end > self.descriptor.size {
            return self.wrong_size(&format!("at least {end}"));
        }
        position.ranges = false;
        Failure::transient(ErrorKind::Network, format!("{}: more than the range was sent", response.context()))
    }

    fn wrong_size(&self, actual: &str) -> Failure {
        let Descriptor { digest, size, .. } = &self.descriptor;
        let truncated = actual.parse::<u64>().is_ok_and(|n| n < *size);
        let what = if truncated { "truncated" } else { "has the wrong size" };
        let text = format!("layer {digest} is {what}: expected {size} bytes, got {actual}");
        Failure::fatal(ErrorKind::Mismatch, text)
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
        let Range { start, end } = position.part;
        let to_the_end = end == self.descriptor.size;
        if !position.ranges || (start == 0 && to_the_end) {
            return Ok(request);
        }
        let range = if to_the_end { format!("bytes={start}-") } else { format!("bytes={start}-{}", end - 1) };
        let range = HeaderValue::try_from(range);
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

    /// How many bytes of this response come before the part. Fails where it cannot be what was asked for.
    fn skip(&self, response: &Response<'_>, position: &mut Position) -> Result<u64, Failure> {
        let size = self.descriptor.size;
        if response.status == StatusCode::OK {
            let length = response.header(&CONTENT_LENGTH).and_then(|v| v.parse::<u64>().ok());
            return match length {
                Some(length) if length != size => Err(self.wrong_size(&length.to_string())),
                _ => Ok(position.part.start),
            };
        }
        match response.header(&CONTENT_RANGE).and_then(content_range) {
            Some((_, Some(total))) if total != size => Err(self.wrong_size(&total.to_string())),
            Some((start, _)) if start == position.part.start => Ok(0),
            other => {
                // Never write at a place that was not asked for.
                position.ranges = false;
                let from = position.part.start;
                let text = format!("{}: asked for bytes from {from}, was offered {other:?}", response.context());
                Err(Failure::transient(ErrorKind::Network, text))
            }
        }
    }
}

/// The first byte and the total of `bytes 5-9/10`; the total may be `*`.
pub(crate) fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
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

    #[test]
    fn parts_are_handed_out_from_the_lowest() {
        let queue = Queue { parts: Mutex::new([3..20, 30..32].into()), most: 10 };
        let parts: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(parts, [3..13, 13..20, 30..32]);
    }
}
