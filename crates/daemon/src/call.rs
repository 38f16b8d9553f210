//! One request as handlers see it, and the small answers they give.
//! Owns reading of queries and the common answers; must not do what is asked for.

use std::sync::Arc;

use brig_api::filters::Filters;
use brig_engine::Engine;
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::{self, Body, BodyReader};
use crate::fault::Fault;
use crate::request_body::RequestBody;
use crate::router::{Params, Version, percent_decode};

/// An answer.
pub type Reply = Response<Body>;

/// What a handler gives back.
pub type Outcome = Result<Reply, Fault>;

/// One request.
pub struct Call {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The API version that was asked for.
    pub version: Version,
    /// Names from the path.
    pub params: Params,
    /// The parsed query.
    pub query: Query,
    /// The request's head. Taking the upgrade needs it whole.
    pub head: Parts,
    /// The request's body.
    pub body: RequestBody,
}

impl Call {
    /// A name from the path.
    pub fn param(&self, name: &str) -> &str {
        self.params.get(name)
    }

    /// Reads the JSON body.
    ///
    /// # Errors
    /// See [`body::json`].
    pub async fn json<T: DeserializeOwned + Default>(self) -> Result<(T, Caller), Fault> {
        let caller = Caller { engine: self.engine, version: self.version, params: self.params, query: self.query };
        Ok((body::json(&self.head.headers, self.body).await?, caller))
    }

    /// The body for a blocking reader.
    pub fn reader(self) -> (BodyReader, Caller) {
        let caller = Caller { engine: self.engine, version: self.version, params: self.params, query: self.query };
        (BodyReader::new(self.body), caller)
    }

    /// Credentials for a registry, from the header `X-Registry-Auth`.
    ///
    /// # Errors
    /// 400 when the header is not base64 of JSON.
    pub fn registry_auth(&self) -> Result<Option<brig_api::system::AuthConfig>, Fault> {
        let header = self.head.headers.get("x-registry-auth").and_then(|value| value.to_str().ok());
        brig_api::auth::decode(header.unwrap_or_default()).map_err(Fault::bad_request)
    }
}

/// What is left of a request when its body was taken.
pub struct Caller {
    /// The engine.
    pub engine: Arc<Engine>,
    /// The API version that was asked for.
    pub version: Version,
    /// Names from the path.
    pub params: Params,
    /// The parsed query.
    pub query: Query,
}

/// The parameters behind the `?`.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses the part behind the `?`.
    pub fn parse(text: &str) -> Self {
        let pair = |piece: &str| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            (percent_decode(name, true), percent_decode(value, true))
        };
        Self(text.split('&').filter(|piece| !piece.is_empty()).map(pair).collect())
    }

    /// The first value of a parameter; empty if it is absent.
    pub fn get(&self, name: &str) -> &str {
        self.given(name).unwrap_or_default()
    }

    /// The first value of a parameter.
    pub fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    /// A flag as Docker reads it: everything is true except nothing, `0`, `no`, `false` and `none`.
    pub fn flag(&self, name: &str) -> bool {
        !matches!(self.get(name).trim().to_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A flag with a default for when it is absent.
    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        if self.given(name).is_none() { default } else { self.flag(name) }
    }

    /// A whole number; absent or empty is `None`.
    ///
    /// # Errors
    /// 400 in Go's words.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Fault> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            Fault::bad_request(format!(
                "invalid value for query parameter {name}: strconv.Atoi: parsing {text:?}: invalid syntax"
            ))
        })
    }

    /// The parameter `filters`.
    ///
    /// # Errors
    /// 400 when it is neither of Docker's two forms.
    pub fn filters(&self) -> Result<Filters, Fault> {
        Filters::parse(self.get("filters")).map_err(Fault::bad_request)
    }
}

/// Runs work that may wait for the disk where it holds nobody up.
///
/// # Errors
/// Those of the work.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> brig_engine::Result<T> + Send + 'static,
) -> Result<T, Fault> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(error) => {
            Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the operation was cut short: {error}")))
        }
    }
}

/// An answer with a JSON body.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Outcome {
    let mut bytes = serde_json::to_vec(value).map_err(|error| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding the answer as JSON: {error}"))
    })?;
    bytes.push(b'\n');
    Ok(typed(status, "application/json", Body::whole(bytes)))
}

/// An answer of 200 with a JSON body.
pub fn ok<T: Serialize>(value: &T) -> Outcome {
    json(StatusCode::OK, value)
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Outcome {
    let mut reply = Response::new(Body::Whole(None));
    *reply.status_mut() = status;
    Ok(reply)
}

/// An answer of 204.
pub fn no_content() -> Outcome {
    empty(StatusCode::NO_CONTENT)
}

/// An answer with a content type.
pub fn typed(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// The answer to an error.
pub fn failure(fault: &Fault) -> Reply {
    if fault.status == StatusCode::NOT_MODIFIED {
        let mut reply = Response::new(Body::Whole(None));
        *reply.status_mut() = fault.status;
        return reply;
    }
    let error = brig_api::system::ErrorResponse { message: fault.message.clone() };
    let mut bytes = serde_json::to_vec(&error).expect("a message is a string and always JSON");
    bytes.push(b'\n');
    typed(fault.status, "application/json", Body::whole(Bytes::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_docker_reads_them() {
        let query = Query::parse("a=1&b=false&c=yes&d=&e&f=None&x=a%26b&x=2");
        let flags: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g"].iter().map(|n| query.flag(n)).collect();
        assert_eq!(flags, [true, false, true, false, false, false, false]);
        assert!(query.flag_or("nope", true));
        assert!(!query.flag_or("b", true));
        assert_eq!(query.all("x"), ["a&b", "2"]);
        assert_eq!(query.number("a").unwrap(), Some(1));
        assert_eq!(query.number("d").unwrap(), None);
        assert!(query.number("c").unwrap_err().message.contains("invalid syntax"));
    }
}
