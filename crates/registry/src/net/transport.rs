//! Owns HTTP/1.1 requests over dialled streams: connection reuse, redirects, time limits and bounded bodies. It binds the
//! `Authorization` header of a request to the origin it was made for; it must not know what a credential is.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::dial::{Dialer, Reach, describe_io};
use super::proxy::Proxy;
use super::sent::Sent;
use super::tls::{Trust, refused_certificate};
use super::url::{Origin, Scheme, Url};
use crate::error::{ErrorKind, Failure, Retry};

/// Redirects followed for one request.
const MOST_REDIRECTS: usize = 10;
/// Largest response head.
const LARGEST_HEAD: usize = 64 << 10;
/// Longest time for a document, however steadily it drips in.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(300);
/// A server that has been given something may take so many times as long before it answers as one that is only asked.
const WORKING: u32 = 10;
/// Idle connections kept per origin, and for how long.
const IDLE_CONNECTIONS: usize = 8;
const IDLE_FOR: Duration = Duration::from_secs(30);

type Sender = SendRequest<Sent>;

/// Sends requests.
pub(crate) struct Transport {
    pub(crate) dialer: Dialer,
    user_agent: HeaderValue,
    /// Longest wait for the next byte of a response.
    stall: Duration,
    idle: Mutex<HashMap<(Origin, Trust), Vec<Connection>>>,
}

struct Connection {
    sender: Sender,
    via_plain_proxy: Option<Proxy>,
    idle_since: Instant,
}

/// A request, sendable again.
#[derive(Clone)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Outgoing {
    pub(crate) fn new(method: Method, url: Url) -> Outgoing {
        Outgoing { method, url, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Outgoing {
        self.headers.insert(name, value);
        self
    }
}

/// A response: the head, and the body still on the wire.
pub(crate) struct Response<'t> {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    stall: Duration,
    /// What was asked for, to resolve a redirect against.
    url: Url,
    /// Method and URL for error texts.
    context: String,
    /// Whether a redirect may be followed.
    replayable: bool,
    /// The connection and the pool it returns to when the body was read to its end.
    lease: Option<(&'t Transport, (Origin, Trust), Connection)>,
}

impl Transport {
    pub(crate) fn new(dialer: Dialer, user_agent: HeaderValue, stall: Duration) -> Transport {
        Transport { dialer, user_agent, stall, idle: Mutex::default() }
    }

    /// Can `origin` be connected to (and, for https, does it speak TLS)? The connection is kept for the next request.
    pub(crate) async fn probe(&self, origin: &Origin, trust: Trust) -> Result<(), Failure> {
        let connection = self.connect(origin, trust, None).await?;
        self.put_back((origin.clone(), trust), connection);
        Ok(())
    }

    /// Sends `request` and follows redirects. Only requests to the origin that the request was made for carry its
    /// `Authorization` header, are trusted without proof, or may lead into any network.
    pub(crate) async fn send(&self, request: &Outgoing, trust: Trust) -> Result<Response<'_>, Failure> {
        let home = &request.url.origin;
        let mut hop = request.clone();
        let mut limit = None;
        for _ in 0..=MOST_REDIRECTS {
            let response = if hop.url.origin == *home {
                hop.headers = request.headers.clone();
                self.send_once(&hop, trust, None).await?
            } else {
                hop.headers.remove(AUTHORIZATION);
                if limit.is_none() {
                    limit = Some(self.dialer.reach(home).await?);
                }
                self.send_once(&hop, Trust::Verified, limit).await?
            };
            let Some(next) = response.redirect(home)? else {
                return Ok(response);
            };
            response.discard().await;
            hop.url = next;
        }
        Err(Failure::fatal(
            ErrorKind::Network,
            format!("{}: stopped after {MOST_REDIRECTS} redirects", context(request)),
        ))
    }

    /// Sends to an origin other than the registry's own, named by the registry: no redirects, no pooled connection, and
    /// only where the registry's own reach allows.
    pub(crate) async fn send_elsewhere(
        &self,
        request: &Outgoing,
        trust: Trust,
        home: &Origin,
    ) -> Result<Response<'_>, Failure> {
        let limit = self.dialer.reach(home).await?;
        self.send_once(request, trust, Some(limit)).await
    }

    async fn send_once(&self, request: &Outgoing, trust: Trust, limit: Option<Reach>) -> Result<Response<'_>, Failure> {
        let context = context(request);
        let explain = |mut failure: Failure| {
            failure.error.message = format!("failed to do request: {context}: {}", failure.error.message);
            failure
        };
        let key = (request.url.origin.clone(), trust);
        // A kept connection may just have been closed by the other side: then a fresh one is tried.
        while let Some(mut connection) = if limit.is_none() { self.take(&key) } else { None } {
            if connection.sender.ready().await.is_err() {
                continue;
            }
            match self.exchange(&mut connection, request).await {
                Ok(response) => {
                    return Ok(self.response(response, request, context, Some((key, connection))));
                }
                // A chunk may have arrived before the connection went: sent again it would be there twice.
                Err(failure) if failure.error.kind == ErrorKind::Network && request.method != Method::PATCH => continue,
                Err(failure) => return Err(explain(failure)),
            }
        }
        let mut connection = self.connect(&request.url.origin, trust, limit).await.map_err(explain)?;
        let response = self.exchange(&mut connection, request).await.map_err(explain)?;
        let lease = limit.is_none().then_some((key, connection));
        Ok(self.response(response, request, context, lease))
    }

    async fn connect(&self, origin: &Origin, trust: Trust, limit: Option<Reach>) -> Result<Connection, Failure> {
        let dialled = self.dialer.dial(origin, trust, limit).await.map_err(|mut failure| {
            if failure.retry == Retry::Soon {
                failure.retry = Retry::Reconnect;
            }
            failure
        })?;
        let io = TokioIo::new(dialled.stream);
        let handshake = http1::Builder::new().max_buf_size(LARGEST_HEAD).handshake::<_, Sent>(io).await;
        let (sender, driver) = handshake.map_err(|e| http_failure(&e))?;
        // Ends when sender and response body are gone, so dropping a request closes its connection.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::debug!("connection ended: {error}");
            }
        });
        Ok(Connection { sender, via_plain_proxy: dialled.via_plain_proxy, idle_since: Instant::now() })
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: &Outgoing,
    ) -> Result<hyper::Response<Incoming>, Failure> {
        let url = &request.url;
        let target = match &connection.via_plain_proxy {
            Some(_) => format!("{}{}", url.origin, url.target),
            None => url.target.clone(),
        };
        let mut builder = Request::builder().method(request.method.clone()).uri(target);
        if let Some(headers) = builder.headers_mut() {
            *headers = request.headers.clone();
            let host = HeaderValue::from_str(&url.origin.authority());
            headers.insert(HOST, host.map_err(|_| Failure::fatal(ErrorKind::Invalid, "host is not a header value"))?);
            headers.insert(USER_AGENT, self.user_agent.clone());
            // Digests are over the bytes as stored; a transfer encoding would change them.
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(text) = connection.via_plain_proxy.as_ref().and_then(|p| p.authorization.as_ref()) {
                let value = HeaderValue::from_str(text)
                    .map_err(|_| Failure::fatal(ErrorKind::Invalid, "bad proxy credentials"))?;
                headers.insert(hyper::header::PROXY_AUTHORIZATION, value);
            }
        }
        let (body, progress) = Sent::new(request.body.clone());
        let message = builder.body(body);
        let message = message.map_err(|e| Failure::fatal(ErrorKind::Invalid, format!("cannot be requested: {e}")))?;
        let mut answer = std::pin::pin!(connection.sender.send_request(message));
        loop {
            let left = progress.left();
            // What was handed over may still have to go through a slow line, and what a server does with a whole blob or image
            // takes its time.
            let patience = if left == 0 && writes(&request.method) { self.stall * WORKING } else { self.stall };
            match timeout(patience, answer.as_mut()).await {
                Ok(result) => return result.map_err(|e| http_failure(&e)),
                Err(_) if progress.left() < left => {}
                Err(_) => {
                    let text = "net/http: timeout awaiting response headers";
                    return Err(Failure::transient(ErrorKind::Timeout, text));
                }
            }
        }
    }

    fn response(
        &self,
        response: hyper::Response<Incoming>,
        request: &Outgoing,
        context: String,
        lease: Option<((Origin, Trust), Connection)>,
    ) -> Response<'_> {
        let (head, body) = response.into_parts();
        let lease = lease.map(|(key, connection)| (self, key, connection));
        let replayable = matches!(request.method, Method::GET | Method::HEAD);
        Response {
            status: head.status,
            headers: head.headers,
            body,
            stall: self.stall,
            url: request.url.clone(),
            context,
            replayable,
            lease,
        }
    }

    fn take(&self, key: &(Origin, Trust)) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        let connections = idle.get_mut(key)?;
        connections.retain(|c| c.idle_since.elapsed() < IDLE_FOR && !c.sender.is_closed());
        connections.pop()
    }

    fn put_back(&self, key: (Origin, Trust), mut connection: Connection) {
        connection.idle_since = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(|e| e.into_inner());
        // The map grows with the registries contacted; dead entries leave here.
        idle.retain(|_, connections| {
            connections.retain(|c| c.idle_since.elapsed() < IDLE_FOR && !c.sender.is_closed());
            !connections.is_empty()
        });
        let connections = idle.entry(key).or_default();
        if connections.len() < IDLE_CONNECTIONS {
            connections.push(connection);
        }
    }
}

impl Response<'_> {
    /// Where this response redirects to, if it does.
    fn redirect(&self, home: &Origin) -> Result<Option<Url>, Failure> {
        if !matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let refuse =
            |why: String| Failure::fatal(ErrorKind::Invalid, format!("{}: refusing the redirect: {why}", self.context));
        if !self.replayable {
            // The body may hold a refresh token, which is for this server only.
            return Err(refuse("only GET and HEAD requests may move".into()));
        }
        let location = self.header(&LOCATION).ok_or_else(|| refuse("it names no location".into()))?;
        let next = self.url.join(location).map_err(refuse)?;
        if home.scheme == Scheme::Https && next.origin.scheme == Scheme::Http {
            return Err(refuse(format!("{next} is not encrypted, {home} is")));
        }
        Ok(Some(next))
    }

    /// A header's value, if there is one and it is text.
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// Resolves a `Location` against what was asked for.
    pub(crate) fn join(&self, location: &str) -> Result<Url, String> {
        self.url.join(location)
    }

    /// `Get "https://…"`, to begin an error text with.
    pub(crate) fn context(&self) -> &str {
        &self.context
    }

    /// The next piece of the body, or `None` at its proper end. A broken connection is an error, never an end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = match timeout(self.stall, self.body.frame()).await {
                Ok(frame) => frame,
                Err(_) => {
                    let text = format!("{}: no data for {} seconds", self.context, self.stall.as_secs_f32());
                    return Err(Failure::transient(ErrorKind::Timeout, text));
                }
            };
            match frame {
                None => {
                    if let Some((transport, key, connection)) = self.lease.take() {
                        transport.put_back(key, connection);
                    }
                    return Ok(None);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
                Some(Err(error)) => {
                    let mut failure = http_failure(&error);
                    failure.error.message = format!("{}: {}", self.context, failure.error.message);
                    return Err(failure);
                }
            }
        }
    }

    /// Reads a short rest, so that the connection can serve the next request.
    pub(crate) async fn discard(mut self) {
        const WORTH_READING: usize = 16 << 10;
        // Whether that works out makes no difference to the caller.
        self.collect(WORTH_READING).await.ok();
    }

    /// The whole body, refused if longer than `limit` bytes or dripping for minutes.
    pub(crate) async fn collect(&mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        match timeout(DOCUMENT_TIMEOUT, self.collect_all(limit)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::transient(
                ErrorKind::Timeout,
                format!("{}: the answer took longer than {} seconds", self.context, DOCUMENT_TIMEOUT.as_secs()),
            )),
        }
    }

    async fn collect_all(&mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(data) = self.chunk().await? {
            if body.len() + data.len() > limit {
                return Err(Failure::fatal(
                    ErrorKind::Invalid,
                    format!("{}: the answer is larger than {limit} bytes", self.context),
                ));
            }
            body.extend_from_slice(&data);
        }
        Ok(body)
    }
}

fn writes(method: &Method) -> bool {
    matches!(*method, Method::PUT | Method::PATCH)
}

/// `Get "http://host/path"`, as Go's http package begins its errors.
fn context(request: &Outgoing) -> String {
    let method = request.method.as_str();
    let (first, rest) = method.split_at(1.min(method.len()));
    format!("{first}{} \"{}\"", rest.to_ascii_lowercase(), request.url)
}

fn http_failure(error: &hyper::Error) -> Failure {
    use std::error::Error as _;
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return match refused_certificate(io) {
                Some(why) => Failure::fatal(ErrorKind::Network, why),
                None => Failure::transient(ErrorKind::Network, describe_io(io)),
            };
        }
        source = inner.source();
    }
    if error.is_incomplete_message() {
        return Failure::transient(ErrorKind::Network, "unexpected EOF");
    }
    if error.is_parse() {
        return Failure::fatal(ErrorKind::Network, format!("malformed HTTP response: {error}"));
    }
    Failure::transient(ErrorKind::Network, error.to_string())
}
