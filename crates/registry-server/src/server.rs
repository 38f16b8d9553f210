//! Connections: accepted, timed, answered, logged and ended. Owns what is common to all requests. Must not know what any of
//! them means.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, SERVER, USER_AGENT};
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::access::{Need, Visitor};
use crate::body::{Answer, Pieces};
use crate::handlers::{self, API_VERSION, Ask};
use crate::peers::Peers;
use crate::query::Query;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::route::Route;
use crate::stall::Stall;

/// The most connections at once; further ones wait to be accepted.
const CONNECTIONS: usize = 8192;
/// The most of a request's head, in bytes.
const LARGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 100;
/// How long a client may take for its TLS handshake, for a request's head, and between two requests.
const HEAD: Duration = Duration::from_secs(30);
/// How long requests that are under way may go on when the registry is told to end.
const LAST_ANSWERS: Duration = Duration::from_secs(30);
const NAME: &str = concat!("brig/", env!("CARGO_PKG_VERSION"));

/// Where connections come from.
pub struct Acceptor {
    /// A socket that is listened on.
    pub listener: TcpListener,
    /// How connections are protected, if they are.
    pub tls: Option<TlsAcceptor>,
}

impl Registry {
    /// Serves until `stop` becomes true or its sender is gone; then takes no new request, and returns when those that are
    /// under way have ended, or have had half a minute to.
    pub async fn serve(&self, acceptor: Acceptor, mut stop: watch::Receiver<bool>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let peers = Peers::new(self.inner.settings.client_connections);
        let mut connections = JoinSet::new();
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = async { drop(stop.wait_for(|stop| *stop).await) } => break,
                accepted = acceptor.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    // An IPv4 address on a socket for both is called what it is.
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    let Some(own) = peers.enter(peer.ip()) else {
                        tracing::warn!("{peer} has too many connections: another one is closed");
                        continue;
                    };
                    let (registry, tls, stop) = (self.clone(), acceptor.tls.clone(), stop.clone());
                    connections.spawn(async move {
                        registry.connection(stream, peer, tls, stop).await;
                        drop((place, own));
                    });
                    while connections.try_join_next().is_some() {}
                }
                Err(error) => {
                    // Out of descriptors, most likely: let some connections end. Nothing tells when a descriptor is free again.
                    tracing::warn!("accepting a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(acceptor);
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_ANSWERS, ended).await.is_err() {
            tracing::warn!("requests that are still under way are broken off");
        }
    }

    async fn connection(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Option<TlsAcceptor>,
        stop: watch::Receiver<bool>,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!("TCP_NODELAY: {error}");
        }
        match tls {
            None => self.requests(stream, peer, stop).await,
            Some(tls) => match tokio::time::timeout(HEAD, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.requests(stream, peer, stop).await,
                Ok(Err(error)) => tracing::info!("{peer}: TLS handshake: {error}"),
                Err(_) => tracing::info!("{peer}: the TLS handshake took too long"),
            },
        }
    }

    async fn requests<S>(&self, stream: S, peer: SocketAddr, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let registry = self.clone();
        let service = service_fn(move |request| {
            let registry = registry.clone();
            async move { Ok::<_, Infallible>(registry.answer(request, peer).await) }
        });
        let stream = TokioIo::new(Stall::new(stream, self.inner.settings.patience));
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD).max_headers(MOST_HEADERS);
        let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
        let told = async { drop(stop.wait_for(|stop| *stop).await) };
        let ended = tokio::select! {
            outcome = connection.as_mut() => Some(outcome),
            () = told => None,
        };
        let outcome = match ended {
            Some(outcome) => outcome,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = outcome {
            tracing::debug!("{peer}: the connection ended: {error}");
        }
    }

    async fn answer(self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let begun = Instant::now();
        let (head, incoming) = request.into_parts();
        let (method, target) = (head.method.clone(), head.uri.clone());
        let agent = head.headers.get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let body = Pieces::new(incoming, self.inner.settings.patience);
        let mut user = String::new();
        let outcome = self.dispatch(head, peer.ip(), body, &mut user).await;
        let mut answer = outcome.unwrap_or_else(|refusal| refusal.answer(method == Method::HEAD));
        let headers = answer.headers_mut();
        headers.insert(HeaderName::from_static(API_VERSION.0), HeaderValue::from_static(API_VERSION.1));
        headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
        headers.insert(SERVER, HeaderValue::from_static(NAME));
        tracing::info!(
            "{peer} {user:?} {method} {target} {} {} bytes, {} ms, {:?}",
            answer.status().as_u16(),
            answer.body().size_hint().exact().unwrap_or_default(),
            begun.elapsed().as_millis(),
            agent.unwrap_or_default()
        );
        answer
    }

    /// Passwords that nobody has given before are compared in turns: that takes long, and the threads are everybody's.
    async fn let_in(&self, headers: HeaderMap, need: Need, peer: IpAddr) -> Result<Visitor, Refusal> {
        let (given, wanted) = (headers.clone(), need.clone());
        if let Some(known) = self.blocking(move |inner| Ok(inner.settings.access.admit_known(&given, &wanted))).await? {
            return known;
        }
        let _turn = self.inner.comparing.take(peer, self.inner.settings.patience).await?;
        self.blocking(move |inner| inner.settings.access.admit(&headers, &need)).await
    }

    async fn dispatch(
        &self,
        head: hyper::http::request::Parts,
        peer: IpAddr,
        body: Pieces,
        user: &mut String,
    ) -> Result<Answer, Refusal> {
        let route = Route::parse(head.uri.path());
        let need = match &route {
            Ok(route) => Need::of(route, &head.method),
            Err(_) => Need::Login,
        };
        let headers = head.headers.clone();
        // Before anything else is told, even that an address is wrong.
        let visitor = match self.inner.settings.access {
            crate::access::Access::Open => Visitor::default(),
            _ => self.let_in(headers, need, peer).await?,
        };
        user.clone_from(&visitor.name);
        let query = Query::parse(head.uri.query().unwrap_or_default());
        let ask = Ask { registry: self.clone(), head, query, visitor, peer, body };
        // A task of its own: what arrived is kept though the client leaves, and what was begun is finished.
        tokio::spawn(handlers::handle(route?, ask)).await.map_err(Refusal::internal)?
    }
}
