//! Owns requests to one repository at one place: the way to reach it, authorization, and small verified content. It must
//! not know what the content means.

use std::collections::BTreeSet;
use std::sync::Arc;

use brig_oci::{Digest, Reference};
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use tokio::sync::OnceCell;

use crate::answer::{Asked, refusal};
use crate::auth::{Fresh, Grant};
use crate::backoff::{Backoff, retried};
use crate::client::Inner;
use crate::config::{Auth, Endpoint};
use crate::error::{Error, ErrorKind, Failure};
use crate::hash::digest_of;
use crate::net::transport::{Outgoing, Response};
use crate::net::url::{Origin, Url};

/// One repository at one endpoint, for one user.
pub(crate) struct Session {
    pub(crate) inner: Arc<Inner>,
    pub(crate) endpoint: Endpoint,
    pub(crate) reference: Reference,
    auth: Option<Auth>,
    /// What tokens are asked for.
    scope: String,
    /// Chosen at the first request.
    origin: OnceCell<Origin>,
}

/// The places that may have what `reference` names, in the order to be asked: mirrors first, the registry itself last.
pub(crate) fn sessions(inner: &Arc<Inner>, reference: &Reference, auth: Option<&Auth>) -> Result<Vec<Session>, Error> {
    let endpoints = inner.config.endpoints(reference.domain()).map_err(Error::invalid)?;
    let session = |endpoint| Session::new(inner.clone(), endpoint, reference.clone(), auth);
    Ok(endpoints.into_iter().map(session).collect())
}

impl Session {
    /// `auth` is for the registry that the image names; a mirror never gets it.
    pub(crate) fn new(inner: Arc<Inner>, endpoint: Endpoint, reference: Reference, auth: Option<&Auth>) -> Session {
        let auth = auth.filter(|a| !endpoint.is_mirror && **a != Auth::default()).cloned();
        let scope = format!("repository:{}:pull", reference.path());
        Session { inner, endpoint, reference, auth, scope, origin: OnceCell::new() }
    }

    /// As [`Session::new`], allowed to write, and to read the repositories `sources` of the same registry.
    pub(crate) fn for_push(
        inner: Arc<Inner>,
        endpoint: Endpoint,
        reference: Reference,
        auth: Option<&Auth>,
        sources: &BTreeSet<&str>,
    ) -> Session {
        let session = Session::new(inner, endpoint, reference, auth);
        let mut scopes = vec![format!("repository:{}:pull,push", session.reference.path())];
        scopes.extend(sources.iter().map(|source| format!("repository:{source}:pull")));
        Session { scope: scopes.join(" "), ..session }
    }

    /// The scheme and host in use. An insecure registry is tried with TLS first, as dockerd does.
    pub(crate) async fn origin(&self) -> Result<&Origin, Failure> {
        self.origin.get_or_try_init(|| self.inner.choose_origin(&self.endpoint)).await
    }

    /// `<prefix>/v2/<repository>/<rest>` on this endpoint.
    pub(crate) async fn url(&self, rest: &str) -> Result<Url, Failure> {
        let mut target = format!("{}/v2/{}/{rest}", self.endpoint.prefix, self.reference.path());
        if let Some(namespace) = &self.endpoint.namespace {
            target.push_str(if target.contains('?') { "&ns=" } else { "?ns=" });
            target.push_str(&namespace.replace(':', "%3A"));
        }
        Ok(Url::new(self.origin().await?, target))
    }

    /// Sends `request` with the authorization that this repository needs; a 401 is answered once.
    pub(crate) async fn send(&self, request: Outgoing) -> Result<Response<'_>, Failure> {
        let grant = Grant { origin: self.origin().await?.clone(), auth: self.auth.clone(), scope: self.scope.clone() };
        self.inner.send_authorized(&grant, self.endpoint.trust, request).await.map(|(response, _)| response)
    }

    /// Fetches a blob that fits into memory and verifies it. `what` names it in errors.
    pub(crate) async fn small_blob(
        &self,
        digest: &Digest,
        size: u64,
        limit: usize,
        what: &str,
    ) -> Result<Vec<u8>, Failure> {
        if size > limit as u64 {
            return Err(Failure::fatal(
                ErrorKind::Invalid,
                format!("{what} is {size} bytes large; at most {limit} are accepted"),
            ));
        }
        let mut backoff = Backoff::new(self.inner.config.retry_delay);
        retried(&mut backoff, drop, || self.small_blob_once(digest, limit, what)).await
    }

    async fn small_blob_once(&self, digest: &Digest, limit: usize, what: &str) -> Result<Vec<u8>, Failure> {
        let request = Outgoing::new(Method::GET, self.url(&format!("blobs/{digest}")).await?);
        let mut response = self.send(request).await?;
        if response.status != StatusCode::OK {
            return Err(refusal(response, Asked::Content(&self.reference, what)).await);
        }
        check_encoding(&response)?;
        let body = response.collect(limit).await?;
        let actual = digest_of(&body, digest);
        if actual != *digest {
            let text =
                format!("{what} of {}: digest mismatch: expected {digest}, got {actual}", self.reference.familiar());
            return Err(Failure::fatal(ErrorKind::Mismatch, text));
        }
        Ok(body)
    }
}

/// A digest is over the bytes as stored: an encoding on top, which nobody asked for, cannot be right.
pub(crate) fn check_encoding(response: &Response<'_>) -> Result<(), Failure> {
    match response.header(&CONTENT_ENCODING) {
        None | Some("" | "identity") => Ok(()),
        Some(other) => {
            let text =
                format!("{}: unwanted content encoding {:?}", response.context(), crate::error::printable(other));
            Err(Failure::fatal(ErrorKind::Invalid, text))
        }
    }
}

impl Inner {
    /// The first of the endpoint's origins that a connection can be made to.
    pub(crate) async fn choose_origin(&self, endpoint: &Endpoint) -> Result<Origin, Failure> {
        let (last, others) = endpoint.origins.split_last().expect("an endpoint has an origin");
        for origin in others {
            match self.transport.probe(origin, endpoint.trust).await {
                Ok(()) => return Ok(origin.clone()),
                Err(failure) => tracing::debug!("{origin}: {}; trying {last}", failure.error),
            }
        }
        Ok(last.clone())
    }

    /// Sends with the remembered authorization, and once more with a fresh one if that is refused. Also returns what was
    /// obtained freshly.
    pub(crate) async fn send_authorized(
        &self,
        grant: &Grant,
        trust: crate::net::tls::Trust,
        mut request: Outgoing,
    ) -> Result<(Response<'_>, Option<Fresh>), Failure> {
        if let Some(value) = self.tokens.get(grant) {
            request.headers.insert(AUTHORIZATION, value);
        }
        let response = self.transport.send(&request, trust).await?;
        let ready_made = grant.auth.as_ref().is_some_and(|a| !a.registry_token.is_empty());
        if response.status != StatusCode::UNAUTHORIZED || !response.headers.contains_key(WWW_AUTHENTICATE) || ready_made
        {
            return Ok((response, None));
        }
        let fresh = match self.tokens.answer(&self.transport, &self.config, grant, &response).await {
            Ok(fresh) => fresh,
            Err(failure) => {
                self.tokens.forget(grant);
                return Err(failure);
            }
        };
        response.discard().await;
        request.headers.insert(AUTHORIZATION, fresh.value.clone());
        let response = self.transport.send(&request, trust).await?;
        if response.status == StatusCode::UNAUTHORIZED {
            self.tokens.forget(grant);
        }
        Ok((response, Some(fresh)))
    }
}
