//! Tests of the whole way from a socket to an answer, over an engine in a root of its own. Owns a minimal HTTP client.

use std::sync::Arc;
use std::time::Duration;

use brig_engine::{Config, Engine};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::server::Server;
use crate::socket::Transport;

/// A server with an engine below a directory that goes away with it.
struct Fixture {
    server: Arc<Server>,
    _root: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let config = Config {
            data_root: root.path().join("data"),
            exec_root: root.path().join("run"),
            shim_binary: Some("/bin/true".into()),
            ..Config::default()
        };
        let engine = Engine::open(config).await.unwrap();
        Self { server: Arc::new(Server::new(Arc::new(engine))), _root: root }
    }

    fn connect(&self) -> UnixStream {
        let (client, there) = UnixStream::pair().unwrap();
        tokio::spawn(self.server.clone().serve(Transport::Unix(there)));
        client
    }

    /// Sends bytes, closes the sending side only if asked to, and reads until the server closes.
    async fn raw(&self, request: &[u8]) -> String {
        let mut client = self.connect();
        client.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let read = client.read_to_end(&mut answer);
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer in time").unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn ask(&self, method: &str, target: &str, body: &str) -> (u16, String, String) {
        let content = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
        };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n{content}\r\n{body}");
        let answer = self.raw(request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.trim_end().to_owned())
    }
}

#[tokio::test]
async fn ping_has_all_of_dockers_headers() {
    let fixture = Fixture::new().await;
    for target in ["/_ping", "/v1.24/_ping", "/v1.51/_ping"] {
        let (status, head, body) = fixture.ask("GET", target, "").await;
        assert_eq!((status, body.as_str()), (200, "OK"), "{target}");
        for header in [
            "api-version: 1.51",
            "ostype: linux",
            "docker-experimental: false",
            "swarm: inactive",
            "server: docker/",
            "cache-control: no-cache, no-store, must-revalidate",
            "pragma: no-cache",
        ] {
            assert!(head.contains(header), "{target}: {header} in {head}");
        }
    }
    let (status, _, body) = fixture.ask("HEAD", "/_ping", "").await;
    assert_eq!((status, body.as_str()), (200, ""));
}

#[tokio::test]
async fn versions_and_routes_are_refused_in_dockers_words() {
    let fixture = Fixture::new().await;
    let refused = |status: u16, text: &str| (status, format!("{{\"message\":\"{text}\"}}"));
    for (method, target, expected) in [
        ("GET", "/v1.99/info", refused(400, "client version 1.99 is too new. Maximum supported API version is 1.51")),
        (
            "GET",
            "/v1.2/info",
            refused(
                400,
                "client version 1.2 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version",
            ),
        ),
        ("GET", "/v1.51/nope", refused(404, "page not found")),
        ("PATCH", "/containers/json", refused(404, "page not found")),
        ("POST", "/build", refused(501, "building images is not supported yet")),
        ("GET", "/containers/nope/json", refused(404, "No such container: nope")),
    ] {
        let (status, _, body) = fixture.ask(method, target, "").await;
        assert_eq!((status, body), expected, "{method} {target}");
    }
    let (status, _, body) = fixture.ask("GET", "/nodes", "").await;
    assert_eq!(status, 503);
    assert!(body.contains("This node is not a swarm manager"), "{body}");
}

#[tokio::test]
async fn bodies_are_checked_and_bounded() {
    let fixture = Fixture::new().await;
    let (status, _, body) = fixture.ask("POST", "/containers/create", "{\"Image\":7}").await;
    assert_eq!(status, 400);
    assert!(body.contains("invalid JSON: json: cannot unmarshal"), "{body}");
    let (status, _, body) = fixture.ask("POST", "/containers/create", "{} {}").await;
    assert_eq!((status, body.as_str()), (400, "{\"message\":\"invalid JSON: unexpected content after JSON\"}"));
    let wrong = "POST /containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    let answer = fixture.raw(wrong.as_bytes()).await;
    assert!(answer.contains("unsupported Content-Type header (text/plain): must be 'application/json'"), "{answer}");
    let announced = "POST /containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 5000000\r\n\r\n";
    assert!(fixture.raw(announced.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    // The same without saying so in advance.
    let mut chunked = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    chunked.extend(format!("{:x}\r\n", 5 << 20).as_bytes());
    let mut client = fixture.connect();
    client.write_all(&chunked).await.unwrap();
    let flood = vec![b' '; 5 << 20];
    // The server may stop reading before all is sent.
    let (mut read, mut write) = client.into_split();
    let sender = tokio::spawn(async move { write.write_all(&flood).await.ok() });
    let mut answer = vec![0; 12];
    read.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    drop(read);
    sender.await.unwrap();
}

#[tokio::test]
async fn one_connection_serves_several_requests() {
    let fixture = Fixture::new().await;
    let mut client = fixture.connect();
    for _ in 0..3 {
        client.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nOK") {
            let mut piece = [0; 1024];
            let count = client.read(&mut piece).await.unwrap();
            assert_ne!(count, 0);
            answer.extend_from_slice(&piece[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"));
    }
}

#[tokio::test]
async fn a_client_that_closes_its_side_still_gets_a_quick_answer() {
    let fixture = Fixture::new().await;
    let mut client = fixture.connect();
    client.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("OK"), "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_stream() {
    let fixture = Fixture::new().await;
    let mut client = fixture.connect();
    client.write_all(b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    let mut head = [0; 15];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    assert_eq!(fixture.server.idle(), Duration::ZERO);
    drop(client);
    tokio::time::timeout(Duration::from_secs(5), fixture.server.at_rest())
        .await
        .expect("the stream ends with its client");
}

#[tokio::test]
async fn a_hijack_that_fails_is_told_by_status_with_and_without_upgrade() {
    let fixture = Fixture::new().await;
    for upgrade in ["", "Connection: Upgrade\r\nUpgrade: tcp\r\n"] {
        let mut client = fixture.connect();
        let request = format!("POST /containers/nope/attach?stream=1 HTTP/1.1\r\nHost: d\r\n{upgrade}\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 22];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 404 Not Found");
    }
}
