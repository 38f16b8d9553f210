//! Paths: what a request is about. Owns the grammar of repository names, tags and addresses, which is all that stands between
//! a client's words and the database. Must not look anything up.

use brig_oci::Digest;
use hyper::Method;

use crate::refusal::Refusal;

/// The longest name of a repository, in bytes (the host is not part of it).
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// What a path means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(String),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(String, String),
    /// `/v2/<name>/blobs/<digest>`
    Blob(String, String),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(String),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(String, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(String, String),
}

impl Route {
    /// Reads a path as it was sent.
    pub(crate) fn parse(path: &str) -> Result<Route, Refusal> {
        let path = percent_decode(path);
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Route::Base),
            Some(rest) => rest.strip_prefix('/').ok_or_else(Refusal::not_found)?,
            None => return Err(Refusal::not_found()),
        };
        if rest == "_catalog" {
            return Ok(Route::Catalog);
        }
        // From the end: a repository may be called like the words of the protocol.
        let mut parts = rest.rsplitn(4, '/');
        let (last, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let head = parts.next();
        let name = |name: Option<&str>| match name {
            Some(name) if is_name(name) => Ok(name.to_owned()),
            name => Err(Refusal::name_invalid(name.unwrap_or_default())),
        };
        let upper = || head.map(|head| format!("{head}/{}", third.unwrap_or_default())).or(third.map(str::to_owned));
        match (third, second, last) {
            (Some("blobs"), Some("uploads"), "") => Ok(Route::Uploads(name(head)?)),
            (Some("blobs"), Some("uploads"), id) => Ok(Route::Upload(name(head)?, id.to_owned())),
            (_, Some("blobs"), "uploads") => Ok(Route::Uploads(name(upper().as_deref())?)),
            (_, Some("tags"), "list") => Ok(Route::Tags(name(upper().as_deref())?)),
            (_, Some("manifests"), last) => Ok(Route::Manifest(name(upper().as_deref())?, last.to_owned())),
            (_, Some("blobs"), last) => Ok(Route::Blob(name(upper().as_deref())?, last.to_owned())),
            (_, Some("referrers"), last) => Ok(Route::Referrers(name(upper().as_deref())?, last.to_owned())),
            _ => Err(Refusal::not_found()),
        }
    }

    /// The repository that is spoken of.
    pub(crate) fn repository(&self) -> Option<&str> {
        match self {
            Route::Base | Route::Catalog => None,
            Route::Tags(name)
            | Route::Manifest(name, _)
            | Route::Blob(name, _)
            | Route::Uploads(name)
            | Route::Upload(name, _)
            | Route::Referrers(name, _) => Some(name),
        }
    }

    /// The methods that there are here, for `Allow`.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self {
            Route::Base | Route::Catalog | Route::Tags(_) | Route::Referrers(..) => &[Method::GET, Method::HEAD],
            Route::Manifest(..) => &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE],
            Route::Blob(..) => &[Method::GET, Method::HEAD, Method::DELETE],
            Route::Uploads(_) => &[Method::POST],
            Route::Upload(..) => &[Method::GET, Method::HEAD, Method::PATCH, Method::PUT, Method::DELETE],
        }
    }
}

/// Whether this can be the name of a repository (distribution specification, "Pulling manifests").
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && name.split('/').all(is_component)
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(is_word)
        && bytes.last().copied().is_some_and(is_word)
        && bytes
            .split(|byte| is_word(*byte))
            .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-'))
}

/// Whether this can be a tag (same place).
pub(crate) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= LONGEST_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

/// A digest that a client wrote.
pub(crate) fn digest(text: &str) -> Result<Digest, Refusal> {
    Digest::parse(text).map_err(|error| Refusal::digest_invalid(error.to_string()))
}

/// Decodes `%XX`, once; what is none stays as it is, and what is no UTF-8 becomes what no name may have.
pub(crate) fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(path: &str) -> u16 {
        Route::parse(path).map_or_else(|refusal| refusal.status.as_u16(), |_| 200)
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let name = |text: &str| text.to_owned();
        assert_eq!(Route::parse("/v2").unwrap(), Route::Base);
        assert_eq!(Route::parse("/v2/").unwrap(), Route::Base);
        assert_eq!(Route::parse("/v2/_catalog").unwrap(), Route::Catalog);
        assert_eq!(Route::parse("/v2/a/b/tags/list").unwrap(), Route::Tags(name("a/b")));
        assert_eq!(Route::parse("/v2/a/manifests/x").unwrap(), Route::Manifest(name("a"), name("x")));
        assert_eq!(Route::parse("/v2/a/b/c/d/blobs/x").unwrap(), Route::Blob(name("a/b/c/d"), name("x")));
        assert_eq!(Route::parse("/v2/a/b/blobs/uploads/").unwrap(), Route::Uploads(name("a/b")));
        assert_eq!(Route::parse("/v2/a/b/blobs/uploads").unwrap(), Route::Uploads(name("a/b")));
        assert_eq!(Route::parse("/v2/a/blobs/uploads/1").unwrap(), Route::Upload(name("a"), name("1")));
        assert_eq!(Route::parse("/v2/a/referrers/x").unwrap(), Route::Referrers(name("a"), name("x")));
        assert_eq!(Route::parse("/v2/tags/list/tags/list").unwrap(), Route::Tags(name("tags/list")));
        assert_eq!(Route::parse("/v2/a/blobs/sha256%3Aab").unwrap(), Route::Blob(name("a"), name("sha256:ab")));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "/v2/../../etc/tags/list",
            "/v2/%2e%2e/%2e%2e/tags/list",
            "/v2/a%2f..%2fb/tags/list",
            "/v2/%252e%252e/tags/list",
            "/v2/a//b/tags/list",
            "/v2//tags/list",
            "/v2/A/tags/list",
            "/v2/-a/tags/list",
            "/v2/a../tags/list",
            "/v2/a___b/tags/list",
            "/v2/a%00/tags/list",
            "/v2/%ff/tags/list",
            "/v2/tags/list",
            "/v2/blobs/uploads/",
        ] {
            assert_eq!(status(bad), 400, "{bad}");
        }
        let long = "a".repeat(256);
        assert_eq!(
            (status(&format!("/v2/{long}/tags/list")), status(&format!("/v2/{}/tags/list", &long[1..]))),
            (400, 200)
        );
        for absent in ["/", "/v1/", "/v2x/", "/v2/a", "/v2/a/b", "/v2/a/tags", "/v2/../etc/passwd", "v2/../../"] {
            assert_eq!(status(absent), 404, "{absent}");
        }
    }

    #[test]
    fn tags() {
        assert!(is_tag("latest") && is_tag("_1.2-x") && is_tag(&"a".repeat(128)));
        assert!(!is_tag("") && !is_tag(".x") && !is_tag("-x") && !is_tag("a b") && !is_tag(&"a".repeat(129)));
    }
}
