//! What requests do, one file for each kind of thing. Owns the way from a route to its handler and what all answers have in
//! common. Must not decide who may do it: that is settled before.

mod blobs;
mod lists;
mod manifests;
mod receive;
mod uploads;

pub(crate) use manifests::{Parsed, keep as keep_manifest, parse as parse_manifest, store as store_manifest};

use std::net::IpAddr;

use hyper::header::{ALLOW, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use crate::access::{Action, Need, Visitor};
use crate::body::{Answer, Body, Pieces};
use crate::query::Query;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::route::Route;
use crate::told::Client;

/// The version of the protocol, as clients older than the specification look for it.
pub(crate) const API_VERSION: (&str, &str) = ("docker-distribution-api-version", "registry/2.0");
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// One request that was let in.
pub(crate) struct Ask {
    pub(crate) registry: Registry,
    pub(crate) head: Parts,
    pub(crate) query: Query,
    pub(crate) visitor: Visitor,
    /// Where it comes from.
    pub(crate) peer: IpAddr,
    pub(crate) body: Pieces,
}

impl Ask {
    fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// The value of a header that is there once; `None` if it is not, an error if it is there twice or is no text.
    fn header(&self, name: HeaderName) -> Result<Option<&str>, Refusal> {
        let mut values = self.head.headers.get_all(&name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        match (value.to_str(), values.next()) {
            (Ok(text), None) => Ok(Some(text)),
            _ => Err(Refusal::upload_invalid(format!("the header {name} is there twice, or is no text"))),
        }
    }

    /// By what somebody can be known again; `None` if they do not say which program they are.
    fn client(&self) -> Option<Client> {
        let agent = self.head.headers.get(USER_AGENT).filter(|agent| !agent.is_empty())?;
        Some(Client { user: self.visitor.name.clone(), address: self.peer, agent: agent.clone() })
    }

    /// Whether a manifest of the visitor's would be taken in.
    fn may_push(&self, repository: &str) -> bool {
        let need = Need::Repository(repository.to_owned(), vec![Action::Pull, Action::Push]);
        self.must_be_writable().is_ok() && self.visitor.may(&need)
    }

    fn must_be_writable(&self) -> Result<(), Refusal> {
        if self.registry.inner.settings.read_only {
            return Err(Refusal::unsupported("the registry is read-only"));
        }
        if self.registry.inner.settings.proxy.is_some() {
            return Err(Refusal::unsupported("the registry is a cache of another one: push there"));
        }
        Ok(())
    }

    fn must_delete(&self) -> Result<(), Refusal> {
        if self.registry.inner.settings.read_only {
            return Err(Refusal::unsupported("the registry is read-only"));
        }
        if !self.registry.inner.settings.deletion {
            return Err(Refusal::unsupported("the registry deletes nothing"));
        }
        Ok(())
    }
}

/// The name of an upload's bytes in the store.
pub(crate) fn partial_name(id: &str) -> String {
    format!("{}{id}", brig_store::UPLOAD)
}

/// Does what a request asks.
pub(crate) async fn handle(route: Route, ask: Ask) -> Result<Answer, Refusal> {
    let method = ask.head.method.clone();
    match (route, method) {
        (Route::Base, Method::GET | Method::HEAD) => lists::base(&ask),
        (Route::Catalog, Method::GET | Method::HEAD) => lists::catalog(ask).await,
        (Route::Tags(name), Method::GET | Method::HEAD) => lists::tags(ask, name).await,
        (Route::Referrers(name, digest), Method::GET | Method::HEAD) => lists::referrers(ask, name, digest).await,
        (Route::Manifest(name, reference), Method::GET | Method::HEAD) => manifests::get(ask, name, reference).await,
        (Route::Manifest(name, reference), Method::PUT) => manifests::put(ask, name, reference).await,
        (Route::Manifest(name, reference), Method::DELETE) => manifests::delete(ask, name, reference).await,
        (Route::Blob(name, digest), Method::GET | Method::HEAD) => blobs::get(ask, name, digest).await,
        (Route::Blob(name, digest), Method::DELETE) => blobs::delete(ask, name, digest).await,
        (Route::Uploads(name), Method::POST) => uploads::begin(ask, name).await,
        (Route::Upload(name, id), Method::GET | Method::HEAD) => uploads::status(ask, name, id).await,
        (Route::Upload(name, id), Method::PATCH) => uploads::add(ask, name, id).await,
        (Route::Upload(name, id), Method::PUT) => uploads::finish(ask, name, id).await,
        (Route::Upload(name, id), Method::DELETE) => uploads::cancel(ask, name, id).await,
        (route, method) => {
            let allowed: Vec<&str> = route.methods().iter().map(Method::as_str).collect();
            Err(Refusal::unsupported(format!("{method} is not done here")).header(ALLOW, &allowed.join(", ")))
        }
    }
}

/// An answer without a body.
fn done(status: StatusCode, headers: &[(HeaderName, &str)]) -> Result<Answer, Refusal> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    set(&mut answer, headers)?;
    Ok(answer)
}

fn set(answer: &mut Answer, headers: &[(HeaderName, &str)]) -> Result<(), Refusal> {
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).map_err(Refusal::internal)?;
        answer.headers_mut().append(name, value);
    }
    Ok(())
}
