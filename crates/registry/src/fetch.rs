//! Owns getting a file from a URL that a user named, which belongs to no registry: by the same connections, proxies,
//! authorities and bounds, and going on with it where it was cut. It must not know what the file is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE,
};
use hyper::{Method, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::answer::{retry_advice, wait_asked};
use crate::backoff::{Backoff, retried};
use crate::client::Inner;
use crate::error::{Error, ErrorKind, Failure, Result, printable};
use crate::net::proxy::percent_decode;
use crate::net::tls::Trust;
use crate::net::transport::{Outgoing, Response};
use crate::net::url::Url;
use crate::pull::content_range;
use crate::session::check_encoding;

/// The longest text of a refusal that is read, in bytes.
const LARGEST_REFUSAL: usize = 16 << 10;

/// A file on its way. What is cut goes on at the byte where it stopped: by a range where the server serves the same file under a
/// strong validator, else from the first byte, if that brings again what came before.
pub struct Fetch<'c> {
    inner: &'c Inner,
    request: Outgoing,
    response: Response<'c>,
    total: Option<u64>,
    /// What a range is asked for with: it proves that the file is the same.
    validator: Option<HeaderValue>,
    /// What was handed out: how much, and its digest.
    position: u64,
    handed_out: Sha256,
    /// What comes before the rest of the response.
    pending: Bytes,
    backoff: Backoff,
}

/// See [`crate::Settled::fetch`].
pub(crate) async fn fetch<'c>(inner: &'c Inner, url: &str) -> Result<Fetch<'c>> {
    let (url, login) = address(url)?;
    let mut request = Outgoing::new(Method::GET, url);
    if let Some(login) = login {
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(login)));
        let mut value = value.map_err(|_| Error::invalid("the user in the URL is not a header value"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let mut backoff = Backoff::at_beginning(inner.config.retry_delay);
    let response = retried(&mut backoff, drop, || ask(inner, &request)).await?;
    let backoff = backoff.begun();
    let total = response.header(&CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let validator = validator(&response);
    let (handed_out, pending) = (Sha256::new(), Bytes::new());
    Ok(Fetch { inner, request, response, total, validator, position: 0, handed_out, pending, backoff })
}

/// The answer to a request, if it is the file or a part of it.
async fn ask<'c>(inner: &'c Inner, request: &Outgoing) -> Result<Response<'c>, Failure> {
    let mut response = inner.transport.send(request, Trust::Verified).await?;
    let status = response.status;
    if status.is_success() {
        return Ok(response);
    }
    let retry = retry_advice(status, wait_asked(&response));
    // Without its text the status alone must do.
    let body = response.collect(LARGEST_REFUSAL).await.unwrap_or_default();
    let kind = match status.as_u16() {
        400 => ErrorKind::Invalid,
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        429 => ErrorKind::RateLimited,
        _ => ErrorKind::Network,
    };
    let text = String::from_utf8_lossy(&body);
    let text = printable(text.trim());
    let text = if text.is_empty() { text } else { format!(": {text}") };
    let error = Error::new(kind, format!("failed to GET {} with status {status}{text}", request.url));
    Err(Failure { error, retry })
}

/// A validator that two files of different bytes never share (RFC 9110, 8.8): an `ETag` that is not weak, or the date of a change
/// that was over when it was told.
fn validator(response: &Response<'_>) -> Option<HeaderValue> {
    if let Some(tag) = response.headers.get(ETAG) {
        return (!tag.as_bytes().starts_with(b"W/")).then(|| tag.clone());
    }
    let changed = response.headers.get(LAST_MODIFIED)?;
    response.headers.get(DATE).filter(|now| *now != changed).map(|_| changed.clone())
}

impl Fetch<'_> {
    /// Where it was asked for, fit for a log: without a password and without a query, which may work as one.
    pub fn source(&self) -> String {
        self.request.url.to_string()
    }

    /// How long it is in bytes, if the server has said.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next bytes; `None` at its proper end. A connection that breaks off is made anew, several times with growing waits.
    ///
    /// # Errors
    /// The file does not come to its end, or became another one meanwhile.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            let piece = match std::mem::take(&mut self.pending) {
                pending if pending.is_empty() => self.response.chunk().await,
                pending => Ok(Some(pending)),
            };
            let failure = match piece {
                Ok(Some(piece)) => {
                    self.position += piece.len() as u64;
                    self.handed_out.update(&piece);
                    self.backoff.progress();
                    return Ok(Some(piece));
                }
                Ok(None) => return Ok(None),
                Err(failure) => failure,
            };
            self.go_on(failure).await?;
        }
    }

    /// Asks again until the answer stands at the byte that is wanted next.
    async fn go_on(&mut self, mut failure: Failure) -> Result<()> {
        loop {
            let position = self.position;
            let waiting = |wait, failure: &Failure| {
                tracing::info!("{}; going on at byte {position} in {wait:?}", failure.error);
            };
            self.backoff.wait(failure, waiting).await?;
            match self.again().await {
                Ok(()) => return Ok(()),
                Err(next) => failure = next,
            }
        }
    }

    async fn again(&mut self) -> Result<(), Failure> {
        let mut request = self.request.clone();
        if let Some(validator) = self.validator.clone().filter(|_| self.position > 0) {
            let range = HeaderValue::try_from(format!("bytes={}-", self.position));
            let range = range.map_err(|error| Failure::fatal(ErrorKind::Invalid, error.to_string()))?;
            request = request.header(RANGE, range).header(IF_RANGE, validator);
        }
        let mut response = ask(self.inner, &request).await?;
        check_encoding(&response)?;
        if response.status == StatusCode::PARTIAL_CONTENT {
            let offered = response.header(&CONTENT_RANGE).and_then(content_range);
            let same_file = validator(&response).is_none_or(|now| Some(now) == self.validator);
            let fits = matches!(offered, Some((start, total)) if start == self.position
                && (total.is_none() || self.total.is_none() || total == self.total));
            if !fits || !same_file {
                // Never go on with what was not asked for: from the first byte it can be compared.
                self.validator = None;
                let text =
                    format!("{}: asked for bytes from {}, was offered others", response.context(), self.position);
                return Err(Failure::transient(ErrorKind::Network, text));
            }
        } else {
            self.skip(&mut response).await?;
        }
        self.response = response;
        Ok(())
    }

    /// Reads what was handed out once more, and compares it.
    async fn skip(&mut self, response: &mut Response<'_>) -> Result<(), Failure> {
        let length = response.header(&CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let mut left = self.position;
        let mut seen = Sha256::new();
        let mut rest = Bytes::new();
        while left > 0 {
            let Some(mut piece) = response.chunk().await? else { break };
            let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            rest = piece.split_off(take);
            seen.update(&piece);
            left -= take as u64;
        }
        let other_length = length.zip(self.total).is_some_and(|(now, before)| now != before);
        if left > 0 || other_length || seen.finalize() != self.handed_out.clone().finalize() {
            let text =
                format!("{}: the file became another one while it was fetched; import it again", response.context());
            return Err(Failure::fatal(ErrorKind::Mismatch, text));
        }
        self.pending = rest;
        Ok(())
    }
}

/// A URL as people write it, and the user and password in it.
fn address(text: &str) -> Result<(Url, Option<Vec<u8>>)> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let (scheme, rest) = with_scheme.split_once("://").unwrap_or_default();
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (login, bare) = match rest[..end].rsplit_once('@') {
        Some((login, host)) => (Some(login), format!("{scheme}://{host}{}", &rest[end..])),
        None => (None, with_scheme.clone()),
    };
    let url =
        Url::parse(&bare).map_err(|why| Error::invalid(format!("cannot import from {}: {why}", printable(&bare))))?;
    let login = login.map(|login| match login.split_once(':') {
        Some((user, password)) => [percent_decode(user.as_bytes()), percent_decode(password.as_bytes())].join(&b':'),
        None => [&percent_decode(login.as_bytes())[..], b":"].concat(),
    });
    Ok((url, login))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        let read = |text: &str| {
            let (url, login) = address(text).unwrap();
            (format!("{}{}", url.origin, url.target), login.map(|login| String::from_utf8(login).unwrap()))
        };
        assert_eq!(read("https://h/a?b"), ("https://h/a?b".into(), None));
        assert_eq!(read("h:81/a@b"), ("http://h:81/a@b".into(), None));
        assert_eq!(read("http://me:p%40%2fss:x@h/"), ("http://h/".into(), Some("me:p@/ss:x".into())));
        assert_eq!(read("http://me@h"), ("http://h/".into(), Some("me:".into())));
        assert_eq!(percent_decode(b"a%4"), b"a%4");
        for bad in ["ftp://h/x", "file:///etc/passwd", "http:///x", "http://"] {
            assert_eq!(address(bad).unwrap_err().kind, ErrorKind::Invalid, "{bad}");
        }
        let error = address("ftp://me:secret@h/x").unwrap_err();
        assert!(!error.message.contains("secret"), "{error}");
    }
}
