//! Owns getting a file from a URL that a user named, which belongs to no registry: by the same connections, proxies,
//! authorities and bounds. It must not know what the file is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};

use crate::client::Inner;
use crate::error::{Error, ErrorKind, Result, printable};
use crate::net::proxy::percent_decode;
use crate::net::tls::Trust;
use crate::net::transport::{Outgoing, Response};
use crate::net::url::Url;

/// The longest text of a refusal that is read, in bytes.
const LARGEST_REFUSAL: usize = 16 << 10;

/// A file on its way.
pub struct Fetch<'c> {
    response: Response<'c>,
    url: Url,
    total: Option<u64>,
}

/// See [`crate::Settled::fetch`].
pub(crate) async fn fetch<'c>(inner: &'c Inner, url: &str) -> Result<Fetch<'c>> {
    let (url, login) = address(url)?;
    let mut request = Outgoing::new(Method::GET, url.clone());
    if let Some(login) = login {
        let value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(login)));
        let mut value = value.map_err(|_| Error::invalid("the user in the URL is not a header value"))?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let mut response = inner.transport.send(&request, Trust::Verified).await?;
    let status = response.status;
    if !status.is_success() {
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
        return Err(Error::new(kind, format!("failed to GET {url} with status {status}{text}")));
    }
    let total = response.header(&CONTENT_LENGTH).and_then(|length| length.parse().ok());
    Ok(Fetch { response, url, total })
}

impl Fetch<'_> {
    /// Where it was asked for, fit for a log: without a password and without a query, which may work as one.
    pub fn source(&self) -> String {
        self.url.to_string()
    }

    /// How long it is in bytes, if the server has said.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next bytes; `None` at its proper end.
    ///
    /// # Errors
    /// The connection broke off, or nothing came for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        Ok(self.response.chunk().await?)
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
