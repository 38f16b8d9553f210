//! Owns the registry of the tests: in memory, with a hook that sees every request first and may misbehave.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brig_oci::media_type;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::image::{Image, sha256};

type Body = BoxBody<Bytes, std::io::Error>;

/// A request as the registry saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub body: String,
    /// How many requests with this method and path came before.
    pub nth: usize,
}

/// What a hook makes of a request.
pub enum Reply {
    /// Serve it properly.
    Serve,
    /// This status, these headers, this body.
    With(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Serve it, but break the connection after so many bytes of the body.
    Cut(usize),
    /// Serve the whole content with 200 whatever range was asked for, breaking after so many bytes.
    WholeCut(usize),
    /// Serve the whole content with 200 whatever range was asked for.
    Whole,
    /// Serve other content with the status and headers that belong to it, without a length if `chunked`.
    Content { bytes: Vec<u8>, chunked: bool },
    /// Serve it in pieces of so many bytes with a pause after each.
    Slow(usize, Duration),
    /// A body of so many bytes of white space, made as it is sent.
    Blank(u64),
    /// Never answer.
    Hang,
    /// Take so many bytes of what was sent, then break the connection without an answer.
    Break(usize),
}

type Hook = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

struct State {
    content: Mutex<HashMap<String, (String, Vec<u8>)>>,
    /// Uploads under way, by path.
    uploads: Mutex<HashMap<String, Vec<u8>>>,
    /// Uploads that were ever begun: the next one's name.
    begun: AtomicUsize,
    slow: Arc<SlowAnswers>,
    hook: Mutex<Hook>,
    log: Mutex<Vec<Seen>>,
    /// How long it takes to take in 64 KiB.
    slowness: Mutex<Duration>,
}

/// Slow answers whose last piece was not given out yet, and the most there ever were.
#[derive(Default)]
struct SlowAnswers {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl SlowAnswers {
    fn another(self: &Arc<Self>) -> SlowAnswer {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        SlowAnswer(self.clone())
    }
}

struct SlowAnswer(Arc<SlowAnswers>);

impl Drop for SlowAnswer {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A running registry; gone when dropped.
pub struct Registry {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registry {
    pub async fn new() -> Registry {
        Registry::start(None).await
    }

    /// One that speaks TLS.
    pub async fn tls(config: rustls::ServerConfig) -> Registry {
        Registry::start(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            content: Mutex::default(),
            uploads: Mutex::default(),
            begun: AtomicUsize::default(),
            slow: Arc::default(),
            hook: Mutex::new(Box::new(|_| Reply::Serve)),
            log: Mutex::default(),
            slowness: Mutex::default(),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (state, tls) = (shared.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, state).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                    }
                });
            }
        });
        Registry { address, state, task }
    }

    /// `127.0.0.1:port/rest`.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    pub fn hook(&self, hook: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        *self.state.hook.lock().unwrap() = Box::new(hook);
    }

    /// From now on it takes so long to take in 64 KiB.
    pub fn takes_slowly(&self, slowness: Duration) {
        *self.state.slowness.lock().unwrap() = slowness;
    }

    /// Misbehaves for requests to blobs only.
    pub fn hook_blob(&self, digest: &brig_oci::Digest, hook: impl Fn(&Seen) -> Reply + Send + Sync + 'static) {
        let end = format!("/blobs/{digest}");
        self.hook(move |seen| if seen.path.ends_with(&end) { hook(seen) } else { Reply::Serve });
    }

    pub fn put(&self, path: String, media_type: &str, bytes: &[u8]) {
        self.state.content.lock().unwrap().insert(path, (media_type.to_owned(), bytes.to_vec()));
    }

    /// Serves `image` as `repository:tag` and by its digest.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        self.push_manifest(repository, tag, media_type::OCI_MANIFEST, &image.manifest);
        let blobs = image.layers.iter().map(|l| &l.blob).chain([&image.config]);
        for blob in blobs {
            self.put(format!("/v2/{repository}/blobs/{}", sha256(blob)), "application/octet-stream", blob);
        }
    }

    pub fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) {
        for name in [tag, &sha256(bytes).to_string()] {
            self.put(format!("/v2/{repository}/manifests/{name}"), media_type, bytes);
        }
    }

    /// What is at a path.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.state.content.lock().unwrap().get(path).map(|(_, bytes)| bytes.clone())
    }

    pub fn log(&self) -> Vec<Seen> {
        self.state.log.lock().unwrap().clone()
    }

    pub fn clear_log(&self) {
        self.state.log.lock().unwrap().clear();
    }

    /// How many requests with this method had a path containing `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.log().iter().filter(|s| s.method == method && s.path.contains(part)).count()
    }

    /// How many slow answers were under way at once at the most.
    pub fn most_slow_answers(&self) -> usize {
        self.state.slow.most.load(Ordering::SeqCst)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, state: Arc<State>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { answer(request, &state).await }
    });
    // A connection that a client gives up is part of the tests.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

async fn answer(request: Request<Incoming>, state: &State) -> std::io::Result<Response<Body>> {
    let header =
        |name| request.headers().get(name).map(|v: &hyper::header::HeaderValue| v.to_str().unwrap().to_owned());
    let (method, path) = (request.method().to_string(), request.uri().path_and_query().unwrap().to_string());
    let (authorization, range) = (header("authorization"), header("content-range").or(header("range")));
    let kind = header("content-type").unwrap_or_default();
    let slowness = *state.slowness.lock().unwrap();
    let bytes = take(request.into_body(), slowness).await?;
    let body = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).into_owned();
    let seen = {
        let mut log = state.log.lock().unwrap();
        let nth = log.iter().filter(|s| s.path == path && s.method == method).count();
        log.push(Seen { method, path, authorization, range, body, nth });
        log.last().unwrap().clone()
    };
    let reply = (state.hook.lock().unwrap())(&seen);
    if let Reply::Break(length) = reply {
        if let Some(upload) = state.uploads.lock().unwrap().get_mut(&seen.path) {
            upload.extend_from_slice(&bytes[..length.min(bytes.len())]);
        }
        return Err(std::io::Error::other("broken"));
    }
    if matches!(reply, Reply::Serve)
        && let Some(response) = take_in(&seen, state, &kind, &bytes)
    {
        return Ok(response);
    }
    let content = state.content.lock().unwrap().get(seen.path.split('?').next().unwrap()).cloned();
    Ok(respond(&seen, reply, content, &state.slow).await)
}

async fn take(mut body: Incoming, slowness: Duration) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let data = frame.map_err(std::io::Error::other)?.into_data().unwrap_or_default();
        // The slowness that was asked for.
        tokio::time::sleep(slowness.mul_f64(data.len() as f64 / f64::from(64 << 10))).await;
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Everything that writes.
fn take_in(seen: &Seen, state: &State, kind: &str, bytes: &[u8]) -> Option<Response<Body>> {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let field = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let mut content = state.content.lock().unwrap();
    let mut uploads = state.uploads.lock().unwrap();
    let stand = |status, path: &str, length: usize| {
        let range = format!("0-{}", length.saturating_sub(1));
        plain(status, vec![("location", path.to_owned()), ("range", range)], vec![])
    };
    if let Some(repository) = path.strip_suffix("/blobs/uploads/").filter(|_| seen.method == "POST") {
        let lent = field("mount")
            .zip(field("from"))
            .map(|(digest, from)| (format!("{repository}/blobs/{digest}"), format!("/v2/{from}/blobs/{digest}")));
        if let Some((here, there)) = lent
            && let Some(blob) = content.get(&there).cloned()
        {
            content.insert(here, blob);
            return Some(plain(201, vec![], vec![]));
        }
        let place = format!("{path}{}?state=1", state.begun.fetch_add(1, Ordering::Relaxed));
        uploads.insert(place.clone(), Vec::new());
        return Some(stand(202, &place, 0));
    }
    if path.contains("/blobs/uploads/") {
        let place = format!("{path}?state=1");
        if seen.method == "GET" {
            return Some(stand(204, &place, uploads.get(&place)?.len()));
        }
        let upload = uploads.get_mut(&place)?;
        if seen.method == "PATCH" {
            let start = seen.range.as_ref()?.split('-').next()?.parse::<usize>().ok()?;
            if start != upload.len() {
                return Some(stand(416, &place, upload.len()));
            }
            upload.extend_from_slice(bytes);
            return Some(stand(202, &place, upload.len()));
        }
        if seen.method == "PUT" {
            upload.extend_from_slice(bytes);
            let blob = uploads.remove(&place)?;
            let digest = field("digest")?;
            if sha256(&blob).to_string() != digest {
                let text = r#"{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}"#;
                return Some(plain(400, vec![], text.into()));
            }
            let repository = path.split("/uploads/").next()?;
            content.insert(format!("{repository}/{digest}"), ("application/octet-stream".into(), blob));
            return Some(plain(201, vec![], vec![]));
        }
    }
    if seen.method == "PUT" && path.contains("/manifests/") {
        let digest = sha256(bytes).to_string();
        let (repository, _) = path.rsplit_once('/')?;
        for name in [path.to_owned(), format!("{repository}/{digest}")] {
            content.insert(name, (kind.to_owned(), bytes.to_vec()));
        }
        return Some(plain(201, vec![("docker-content-digest", digest)], vec![]));
    }
    None
}

async fn respond(
    seen: &Seen,
    reply: Reply,
    content: Option<(String, Vec<u8>)>,
    slow: &Arc<SlowAnswers>,
) -> Response<Body> {
    let not_found = || {
        let code = if seen.path.contains("/blobs/") { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" };
        let text =
            format!(r#"{{"errors":[{{"code":"{code}","message":"{}"}}]}}"#, code.to_lowercase().replace('_', " "));
        plain(404, vec![], text.into_bytes())
    };
    match reply {
        Reply::Hang => std::future::pending().await,
        Reply::Break(_) => unreachable!("answered before"),
        Reply::With(status, headers, body) => plain(status, headers, body),
        Reply::Blank(length) => blank(length),
        Reply::Content { bytes, chunked } => {
            let kind = content.map_or_else(|| "application/octet-stream".into(), |c| c.0);
            let mut response =
                if chunked { pieces(&bytes, 10_000, Duration::ZERO, None, None) } else { plain(200, vec![], bytes) };
            response.headers_mut().insert(CONTENT_TYPE, kind.parse().unwrap());
            response
        }
        _ if seen.path == "/v2/" => plain(200, vec![], b"{}".to_vec()),
        reply => {
            let Some((kind, bytes)) = content else {
                return not_found();
            };
            whole_or_part(seen, reply, &kind, &bytes, slow)
        }
    }
}

fn whole_or_part(seen: &Seen, reply: Reply, kind: &str, bytes: &[u8], slow: &Arc<SlowAnswers>) -> Response<Body> {
    let ranges = !matches!(reply, Reply::Whole | Reply::WholeCut(_));
    let range =
        seen.range.as_ref().filter(|_| ranges).map(|r| r.strip_prefix("bytes=").unwrap().split_once('-').unwrap());
    let from = range.map(|(from, _)| from.parse::<usize>().unwrap());
    if from.is_some_and(|f| f >= bytes.len()) {
        return plain(416, vec![], vec![]);
    }
    let end = range.and_then(|(_, to)| to.parse::<usize>().ok()).map_or(bytes.len(), |to| bytes.len().min(to + 1));
    let part = &bytes[from.unwrap_or(0)..end];
    let mut response = match reply {
        _ if seen.method == "HEAD" => plain(200, vec![], vec![]),
        Reply::Cut(at) | Reply::WholeCut(at) => pieces(part, 10_000, Duration::ZERO, Some(at), None),
        Reply::Slow(size, pause) => pieces(part, size, pause, None, Some(slow.another())),
        _ => plain(200, vec![], part.to_vec()),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, kind.parse().unwrap());
    headers.insert(CONTENT_LENGTH, part.len().to_string().parse().unwrap());
    if seen.path.contains("/manifests/") {
        headers.insert("docker-content-digest", sha256(bytes).to_string().parse().unwrap());
    }
    if let Some(from) = from {
        headers.insert(CONTENT_RANGE, format!("bytes {from}-{}/{}", end - 1, bytes.len()).parse().unwrap());
        *response.status_mut() = hyper::StatusCode::PARTIAL_CONTENT;
    }
    response
}

fn plain(status: u16, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).map_err(|e| match e {}).boxed());
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

/// White space, a piece at a time.
fn blank(length: u64) -> Response<Body> {
    const PIECE: u64 = 64 << 10;
    let body = stream::unfold(length, |left| async move {
        let piece = usize::try_from(left.min(PIECE)).unwrap();
        (left > 0).then(|| (Ok(Frame::data(Bytes::from(vec![b' '; piece]))), left - piece as u64))
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(sync(body)))));
    response.headers_mut().insert(CONTENT_LENGTH, length.to_string().parse().unwrap());
    response.headers_mut().insert(CONTENT_TYPE, media_type::OCI_MANIFEST.parse().unwrap());
    response
}

/// A body in pieces; with `cut` an error that breaks the connection after so many bytes.
fn pieces(bytes: &[u8], size: usize, pause: Duration, cut: Option<usize>, slow: Option<SlowAnswer>) -> Response<Body> {
    let end = cut.unwrap_or(bytes.len()).min(bytes.len());
    let mut frames: Vec<Option<Bytes>> =
        bytes[..end].chunks(size.max(1)).map(|c| Some(Bytes::copy_from_slice(c))).collect();
    if cut.is_some() {
        frames.push(None);
    }
    let body = stream::unfold((frames.into_iter(), slow), move |(mut frames, mut slow)| async move {
        let frame = match frames.next()? {
            Some(bytes) => {
                // The slowness that was asked for.
                tokio::time::sleep(pause).await;
                // The client may ask for the next as soon as it has the last piece.
                slow = slow.filter(|_| frames.len() > 0);
                Ok(Frame::data(bytes))
            }
            None => {
                // What was sent so far must be on the wire before the connection goes, and nothing tells that it is.
                tokio::time::sleep(Duration::from_millis(30)).await;
                Err(std::io::Error::other("cut"))
            }
        };
        Some((frame, (frames, slow)))
    });
    // `StreamBody` over an unsynchronised stream: a mutex makes it shareable.
    Response::new(BodyExt::boxed(StreamBody::new(Box::pin(sync(body)))))
}

fn sync<S: futures_util::Stream + Send + 'static>(
    stream: S,
) -> impl futures_util::Stream<Item = S::Item> + Send + Sync {
    let stream = Mutex::new(Box::pin(stream));
    stream::poll_fn(move |context| stream.lock().unwrap().as_mut().poll_next(context))
}
