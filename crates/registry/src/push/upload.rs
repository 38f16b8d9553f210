//! Owns getting one blob into a repository: asking whether it is there, mounting it from another repository, sending it
//! whole or in chunks, and going on where a broken upload stopped (distribution-spec 1.1, "Push"). It must not know what
//! the blob is.

use brig_oci::Digest;
use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, RANGE};
use hyper::{Method, StatusCode};

use super::packed::Content;
use crate::answer::{Asked, refusal};
use crate::backoff::{Backoff, retried};
use crate::error::{ErrorKind, Failure, Retry};
use crate::net::transport::{Outgoing, Response};
use crate::net::url::Url;
use crate::session::Session;

/// The size of a chunk, and the largest blob that is sent in one request, in bytes. What is lost with a connection, and
/// what is in memory for each running upload.
const CHUNK: u64 = 8 << 20;

/// What an upload tells.
pub(super) enum Step {
    /// The registry has so many bytes.
    Sent(u64),
    /// Broken off; going on in so many seconds.
    Waiting(u64),
}

/// One blob for one repository.
pub(super) struct Upload<'a> {
    pub(super) session: &'a Session,
    pub(super) digest: &'a Digest,
    pub(super) size: u64,
    pub(super) content: &'a Content,
}

/// Whether the repository has this blob. One that may not be looked at counts as missing: sending it will tell why.
pub(super) async fn exists(session: &Session, digest: &Digest) -> Result<bool, Failure> {
    let mut backoff = Backoff::at_beginning(session.inner.config.retry_delay);
    retried(&mut backoff, drop, || async {
        let request = Outgoing::new(Method::HEAD, session.url(&format!("blobs/{digest}")).await?);
        let response = session.send(request).await?;
        match response.status {
            StatusCode::OK => Ok(true),
            status if status.is_server_error() => Err(refusal(response, Asked::Push).await),
            _ => Ok(false),
        }
    })
    .await
}

/// Asks for the blob from another repository of the same registry. `false` if it has to be sent after all.
pub(super) async fn mount(session: &Session, digest: &Digest, from: &str) -> Result<bool, Failure> {
    let mut backoff = Backoff::at_beginning(session.inner.config.retry_delay);
    retried(&mut backoff, drop, || async {
        let url = session.url(&format!("blobs/uploads/?mount={digest}&from={from}")).await?;
        let response = session.send(with_length(Outgoing::new(Method::POST, url))).await?;
        match response.status {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                // An upload was begun instead. It is not used: whether sending is needed is not known yet.
                cancel(session, &response).await;
                Ok(false)
            }
            _ => Ok(false),
        }
    })
    .await
}

async fn cancel(session: &Session, response: &Response<'_>) {
    if let Ok(url) = location(session, response).await {
        // Registries forget abandoned uploads by themselves.
        session.send(Outgoing::new(Method::DELETE, url)).await.ok();
    }
}

/// Some servers ask for a length even where there is no body.
fn with_length(request: Outgoing) -> Outgoing {
    request.header(CONTENT_LENGTH, HeaderValue::from_static("0"))
}

/// Where an upload goes on. Only to the registry itself: credentials and content are for nobody else.
async fn location(session: &Session, response: &Response<'_>) -> Result<Url, Failure> {
    let refuse = |why: String| {
        Failure::fatal(ErrorKind::Invalid, format!("{}: cannot follow the upload: {why}", response.context()))
    };
    let text = response.header(&LOCATION).ok_or_else(|| refuse("the registry names no location".into()))?;
    let url = response.join(text).map_err(refuse)?;
    if url.origin != *session.origin().await? {
        return Err(refuse(format!("it leads to another server, {}", url.origin)));
    }
    Ok(url)
}

/// Where an upload stands.
struct Place {
    url: Url,
    offset: u64,
}

impl Upload<'_> {
    /// Sends the blob.
    pub(super) async fn run(&self, step: &(dyn Fn(Step) + Send + Sync)) -> Result<(), Failure> {
        let mut backoff = Backoff::new(self.session.inner.config.retry_delay);
        let mut place: Option<Place> = None;
        // What was said to be there and then was not is no progress when it is there again.
        let mut furthest = 0;
        loop {
            let failure = match self.attempt(&mut place, step).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if let Some(reached) = place.as_ref().map(|place| place.offset).filter(|reached| *reached > furthest) {
                furthest = reached;
                backoff.progress();
            }
            let waiting = |wait, failure: &Failure| {
                tracing::debug!("{}: {}; trying again in {wait:?}", self.digest, failure.error);
                step(Step::Waiting(crate::pull::whole_seconds(wait)));
            };
            backoff.wait(failure, waiting).await?;
            if let Some(known) = place.take() {
                place = self.status(known).await;
            }
        }
    }

    /// Goes on from `place`, or begins.
    async fn attempt(&self, place: &mut Option<Place>, step: &(dyn Fn(Step) + Send + Sync)) -> Result<(), Failure> {
        if place.is_none() {
            let url = self.session.url("blobs/uploads/").await?;
            let response = self.session.send(with_length(Outgoing::new(Method::POST, url))).await?;
            if response.status != StatusCode::ACCEPTED {
                return Err(refusal(response, Asked::Push).await);
            }
            *place = Some(Place { url: location(self.session, &response).await?, offset: 0 });
            response.discard().await;
        }
        let place_now = place.as_mut().expect("an upload was begun above");
        if self.size <= CHUNK {
            let body = self.content.read(0, CHUNK as usize).await?;
            let finished = self.finish(place_now, body).await.map_err(|failure| lost(failure, place));
            if finished.is_err() {
                // What of it arrived is not worth asking for.
                *place = None;
            }
            return finished;
        }
        while place_now.offset < self.size {
            match self.chunk(place_now).await {
                Ok(()) => step(Step::Sent(place_now.offset)),
                Err(failure) => return Err(lost(failure, place)),
            }
        }
        let finished = self.finish(place_now, Bytes::new()).await;
        finished.map_err(|failure| lost(failure, place))
    }

    /// Sends one chunk.
    async fn chunk(&self, place: &mut Place) -> Result<(), Failure> {
        let length = CHUNK.min(self.size - place.offset);
        // At most the size of a chunk.
        let body = self.content.read(place.offset, length as usize).await?;
        let end = place.offset + body.len() as u64;
        let range = HeaderValue::try_from(format!("{}-{}", place.offset, end.saturating_sub(1)));
        let range = range.map_err(|error| Failure::fatal(ErrorKind::Invalid, error.to_string()))?;
        let mut request = Outgoing::new(Method::PATCH, place.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(CONTENT_RANGE, range);
        request.body = body;
        let response = self.session.send(request).await?;
        match response.status {
            StatusCode::ACCEPTED => {}
            // It has another number of bytes than it said: ask, and go on from there.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Failure::transient(ErrorKind::Network, format!("{}: out of step", response.context())));
            }
            _ => return Err(refusal(response, Asked::Push).await),
        }
        place.url = location(self.session, &response).await?;
        let before = place.offset;
        place.offset = response.header(&RANGE).and_then(received).unwrap_or(end);
        if place.offset > self.size {
            let text = format!("{}: the registry has more bytes than were sent", response.context());
            return Err(Failure::fatal(ErrorKind::Invalid, text));
        }
        if place.offset <= before {
            let text = format!("{}: the upload has not got further than byte {}", response.context(), place.offset);
            return Err(Failure::transient(ErrorKind::Network, text));
        }
        response.discard().await;
        Ok(())
    }

    /// Closes the upload, with its whole content or after its last chunk.
    async fn finish(&self, place: &Place, body: Bytes) -> Result<(), Failure> {
        let separator = if place.url.target.contains('?') { '&' } else { '?' };
        let target = format!("{}{separator}digest={}", place.url.target, self.digest);
        let mut request = Outgoing::new(Method::PUT, Url::new(&place.url.origin, target))
            .header(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if body.is_empty() {
            request = with_length(request);
        }
        request.body = body;
        let response = self.session.send(request).await?;
        let refused = match response.status {
            StatusCode::CREATED => {
                response.discard().await;
                return Ok(());
            }
            status => (status, refusal(response, Asked::Push).await),
        };
        // A connection that broke after the content had arrived made the request go out twice: the upload is closed, which
        // the second one is told, and the blob is there.
        if refused.0 == StatusCode::NOT_FOUND && exists(self.session, self.digest).await? {
            return Ok(());
        }
        Err(refused.1)
    }

    /// Asks a broken upload how far it came; `None` if it is to begin anew.
    async fn status(&self, place: Place) -> Option<Place> {
        let response = self.session.send(Outgoing::new(Method::GET, place.url.clone())).await.ok()?;
        if !matches!(response.status, StatusCode::NO_CONTENT | StatusCode::OK | StatusCode::ACCEPTED) {
            return None;
        }
        let offset = response.header(&RANGE).and_then(received)?;
        let url = location(self.session, &response).await.unwrap_or(place.url);
        response.discard().await;
        (offset <= self.size).then_some(Place { url, offset })
    }
}

/// An upload that the registry does not know (any more), or not at this place, is begun anew. Registries that keep the
/// place in the URL know it only until an answer is lost.
fn lost(mut failure: Failure, place: &mut Option<Place>) -> Failure {
    if failure.error.kind == ErrorKind::NotFound {
        *place = None;
        failure.retry = Retry::Soon;
    }
    failure
}

/// How many bytes `Range: 0-99` says that there are. `0-0` is what servers say when they have none.
fn received(range: &str) -> Option<u64> {
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let (start, end) = range.split_once('-')?;
    match (start.parse::<u64>().ok()?, end.parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, end) => end.checked_add(1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::received;

    #[test]
    fn ranges_of_uploads() {
        assert_eq!(received("0-99"), Some(100));
        assert_eq!(received("bytes=0-99"), Some(100));
        assert_eq!(received("0-0"), Some(0));
        for bad in ["", "5-9", "0-", "0-x", "0-18446744073709551615"] {
            assert_eq!(received(bad), None, "{bad}");
        }
    }
}
