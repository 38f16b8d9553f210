//! Refusals: the status and the error body of the distribution specification ("Error Codes").
//! Owns the words and the mapping of the store's errors. Must not decide that something is refused.

use brig_oci::Digest;
use brig_store::ErrorKind;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{Answer, Body};

/// Why a request is not done.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    code: &'static str,
    pub(crate) message: String,
    /// Rarely anything, and out of the way of results that are passed through many hands.
    more: Box<More>,
}

#[derive(Debug, Clone, Default)]
struct More {
    detail: Value,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, code, message: message.into(), more: Box::default() }
    }

    pub(crate) fn detail(mut self, detail: Value) -> Refusal {
        self.more.detail = detail;
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Refusal {
        // Values are made of checked names and numbers; one that is not is left out rather than the answer.
        self.more.headers.extend(HeaderValue::from_str(value).map(|value| (name, value)));
        self
    }

    pub(crate) fn name_invalid(name: &str) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "NAME_INVALID", "invalid repository name")
            .detail(json!({ "name": shorten(name) }))
    }

    pub(crate) fn name_unknown(name: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository name not known to registry")
            .detail(json!({ "name": name }))
    }

    pub(crate) fn digest_invalid(why: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why)
    }

    pub(crate) fn blob_unknown(digest: &Digest) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to registry")
            .detail(json!({ "digest": digest.as_str() }))
    }

    pub(crate) fn manifest_unknown(reference: &str) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
            .detail(json!({ "reference": shorten(reference) }))
    }

    pub(crate) fn manifest_invalid(why: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why)
    }

    pub(crate) fn manifest_too_large(limit: u64) -> Refusal {
        let text = format!("manifest is larger than the {limit} bytes that are accepted");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID", text)
    }

    pub(crate) fn upload_unknown() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
    }

    pub(crate) fn upload_invalid(why: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", why)
    }

    pub(crate) fn size_invalid(why: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", why)
    }

    pub(crate) fn unsupported(why: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", why)
    }

    /// The client may ask again after so many seconds.
    pub(crate) fn too_many(why: impl Into<String>, seconds: &str) -> Refusal {
        Refusal::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", why).header(RETRY_AFTER, seconds)
    }

    pub(crate) fn not_found() -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, "UNSUPPORTED", "there is nothing at this address: the registry is at /v2/")
    }

    pub(crate) fn internal(why: impl std::fmt::Display) -> Refusal {
        tracing::error!("a request failed: {why}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "internal error: the registry's log has the cause")
    }

    /// The answer; without its body where the request was a HEAD.
    pub(crate) fn answer(self, is_head: bool) -> Answer {
        let mut error = json!({ "code": self.code, "message": self.message });
        let More { detail, headers } = *self.more;
        if !detail.is_null() {
            error["detail"] = detail;
        }
        let text = json!({ "errors": [error] }).to_string();
        let mut answer = Response::new(if is_head { Body::empty() } else { Body::whole(text) });
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            answer.headers_mut().append(name, value);
        }
        answer
    }
}

impl From<brig_store::Error> for Refusal {
    fn from(error: brig_store::Error) -> Refusal {
        match error.kind {
            ErrorKind::Mismatch => Refusal::digest_invalid("provided digest did not match uploaded content"),
            ErrorKind::NoSpace => {
                tracing::error!("no space is left for what is pushed: {error}");
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN", "the registry's disk is full")
            }
            _ => Refusal::internal(error),
        }
    }
}

/// What a client sent is given back only in part.
fn shorten(text: &str) -> String {
    text.chars().take(300).collect()
}
