//! Connections and the way from a request to its handler: version, route, a task of its own, headers, errors.
//! Owns what is common to all requests; must not know what any handler does.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use brig_engine::Engine;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue, SERVER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::watch;

use crate::body::Body;
use crate::call::{Call, Outcome, Query, Reply, failure};
use crate::fault::Fault;
use crate::request_body::RequestBody;
use crate::router::{Router, Version, percent_decode, split_version};
use crate::routes::{self, Action};
use crate::socket::{Busy, Socket, Transport};

/// Everything that requests share.
pub struct Server {
    engine: Arc<Engine>,
    router: Router<Action>,
    server_header: HeaderValue,
    activity: Arc<Activity>,
}

impl Server {
    /// A server in front of an engine.
    pub fn new(engine: Arc<Engine>) -> Self {
        let name = format!("Docker/{} (linux)", brig_engine::VERSION);
        Self {
            engine,
            router: routes::table(),
            server_header: HeaderValue::from_str(&name).expect("a version is made of visible characters"),
            activity: Arc::default(),
        }
    }

    /// The engine behind it.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// For how long no request has been there; zero while there is one.
    pub fn idle(&self) -> Duration {
        self.activity.idle()
    }

    /// Waits until no request is there.
    pub async fn at_rest(&self) {
        self.activity.at_rest().await;
    }

    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Self>, transport: Transport) {
        let socket = Socket::new(transport);
        let busy = socket.busy();
        let service = service_fn(move |request| {
            let (server, busy) = (self.clone(), busy.clone());
            async move { Ok::<_, Infallible>(server.answer(request, busy).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .title_case_headers(true)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, busy: Busy) -> Response<Tracked> {
        let engaged = Arc::new(Engaged(busy));
        let guard = Guard { _engaged: engaged.clone(), _present: self.activity.present() };
        let present = self.activity.present();
        // A task of its own: what was begun is finished though the client leaves, and a panic is only this request's.
        let server = self.clone();
        let outcome = tokio::spawn(async move {
            let _present = present;
            server.dispatch(request.map(|body| RequestBody::new(body, engaged))).await
        })
        .await;
        let mut reply = match outcome {
            Ok(Ok(reply)) => reply,
            Ok(Err(fault)) => {
                // What is not there at all is no failure of the daemon's.
                if fault.status == StatusCode::INTERNAL_SERVER_ERROR {
                    tracing::error!("Handler returned error: {}", fault.message);
                }
                failure(&fault)
            }
            Err(error) => {
                tracing::error!("a request's handler panicked: {error}");
                failure(&Fault::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal error: the request's handler panicked",
                ))
            }
        };
        self.common_headers(&mut reply);
        reply.map(|body| Tracked { body, _guard: guard })
    }

    async fn dispatch(self: Arc<Self>, request: Request<RequestBody>) -> Outcome {
        let (head, body) = request.into_parts();
        tracing::debug!("Calling {} {}", head.method, head.uri);
        let path = percent_decode(head.uri.path(), false);
        let versioned = split_version(&path).map_err(Fault::bad_request)?;
        if head.method == Method::OPTIONS {
            return crate::call::empty(StatusCode::OK);
        }
        let (action, params) = self.router.find(&head.method, versioned.path).ok_or_else(Fault::page_not_found)?;
        let version: Version = versioned.version;
        let query = Query::parse(head.uri.query().unwrap_or_default());
        match action {
            Action::Serve(handler) => {
                handler(Call { engine: self.engine.clone(), version, params, query, head, body }).await
            }
            Action::Refuse(status, message) => Err(Fault::new(*status, *message)),
        }
    }

    fn common_headers(&self, reply: &mut Reply) {
        let headers = reply.headers_mut();
        headers.insert(SERVER, self.server_header.clone());
        for (name, value) in
            [("api-version", brig_api::API_VERSION), ("ostype", "linux"), ("docker-experimental", "false")]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
    }
}

/// How many requests there are and when the last one ended.
struct Activity {
    requests: watch::Sender<usize>,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { requests: watch::Sender::new(0), last: Mutex::new(Instant::now()) }
    }
}

impl Activity {
    fn present(self: &Arc<Self>) -> Present {
        self.requests.send_modify(|requests| *requests += 1);
        Present(self.clone())
    }

    fn end(&self) {
        *self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
        self.requests.send_modify(|requests| *requests -= 1);
    }

    fn idle(&self) -> Duration {
        if *self.requests.borrow() > 0 {
            return Duration::ZERO;
        }
        self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner).elapsed()
    }

    async fn at_rest(&self) {
        // Only fails when the sender is gone, which is here.
        self.requests.subscribe().wait_for(|requests| *requests == 0).await.ok();
    }
}

/// Something is being done for a client.
struct Present(Arc<Activity>);

impl Drop for Present {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Lives as long as its request's answer.
struct Guard {
    _engaged: Arc<Engaged>,
    _present: Present,
}

/// The connection is engaged until its answer is given and its request read.
struct Engaged(Busy);

impl Drop for Engaged {
    fn drop(&mut self) {
        self.0.done();
    }
}

/// A body that tells when it is over.
pub struct Tracked {
    body: Body,
    _guard: Guard,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
