//! Owns what the tests share: a registry on loopback with a store of its own, and an HTTP client that sends exactly what it
//! is told.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use brig_registry_server::{Acceptor, Registry, Settings, Upkeep};
use brig_store::{Store, digest};
use tokio::sync::watch;

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCTETS: &str = "application/octet-stream";

/// A registry that is served until this is dropped.
pub struct Rig {
    pub store: Store,
    pub registry: Registry,
    pub address: SocketAddr,
    stop: Option<watch::Sender<bool>>,
    runtime: Option<tokio::runtime::Runtime>,
    _dir: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Rig {
        Rig::over(tempfile::tempdir().unwrap(), settings)
    }

    /// Over what is in a directory already.
    pub fn over(dir: tempfile::TempDir, settings: Settings) -> Rig {
        Rig::threaded(dir, settings, 512)
    }

    /// As [`Rig::over`], with so many threads that may wait for the disk.
    pub fn threaded(dir: tempfile::TempDir, settings: Settings, threads: usize) -> Rig {
        let store = Store::open(&dir.path().join("v1")).unwrap();
        let registry = Registry::new(store.clone(), settings);
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).max_blocking_threads(threads).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = registry.clone();
        runtime.spawn(async move { served.serve(Acceptor { listener, tls: None }, stopped).await });
        Rig { store, registry, address, stop: Some(stop), runtime: Some(runtime), _dir: dir }
    }

    /// One request on a connection of its own, exactly these headers beside `Host`, `Connection` and, unless one of them
    /// says how long the body is, `Content-Length`.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let knows = |name: &str| headers.iter().any(|(header, _)| header.eq_ignore_ascii_case(name));
        if !knows("content-length") && !knows("transfer-encoding") && method != "GET" && method != "HEAD" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has refused need not read the rest.
        stream.write_all(body).ok();
        Answer::read(stream, method)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Begins an upload; its path.
    pub fn begin(&self, repository: &str) -> String {
        let answer = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("location").to_owned()
    }

    /// Pushes a blob; its digest.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = digest::sha256_of(bytes).to_string();
        let answer = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/?digest={digest}"), &[], bytes);
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    pub fn put_manifest(&self, repository: &str, reference: &str, kind: &str, text: &str) -> Answer {
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.ask("PUT", &path, &[("Content-Type", kind)], text.as_bytes())
    }

    /// Pushes an image of one layer whose content is `word`; the digest of its manifest.
    pub fn push_image(&self, repository: &str, tag: &str, word: &str) -> String {
        let text = self.image(repository, word, "");
        let answer = self.put_manifest(repository, tag, MANIFEST, &text);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.header("docker-content-digest").to_owned()
    }

    /// The manifest of an image whose blobs are pushed; `more` is put into it.
    pub fn image(&self, repository: &str, word: &str, more: &str) -> String {
        let config = format!("{{\"word\":\"{word}\"}}");
        let (config_digest, layer) =
            (self.push_blob(repository, config.as_bytes()), self.push_blob(repository, word.as_bytes()));
        manifest(&config_digest, config.len(), &layer, word.len(), more)
    }

    /// One round of collection at once, without any grace.
    pub fn collect(&self) {
        let upkeep = Upkeep { grace: Duration::ZERO, uploads: Duration::ZERO, ..Upkeep::default() };
        self.registry.tidy(&upkeep).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.take().unwrap().send_replace(true);
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(2));
    }
}

/// The other kind of digest.
pub fn sha512(bytes: &[u8]) -> String {
    let mut hasher = digest::Hasher::like(&brig_oci::Digest::from_sha512([0; 64]));
    hasher.update(bytes);
    hasher.finish().to_string()
}

pub fn manifest(config: &str, config_size: usize, layer: &str, layer_size: usize, more: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}",{more}"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
    )
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn read(mut stream: TcpStream, method: &str) -> Answer {
        let mut bytes = Vec::new();
        // A server that has refused may reset what it did not read.
        stream.read_to_end(&mut bytes).ok();
        let end =
            bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("{method}: no answer"));
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let answer = Answer { status, headers, body: bytes[end + 4..].to_vec() };
        if method != "HEAD" && answer.has("content-length") {
            assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{answer:?}");
        }
        if method == "HEAD" {
            assert!(answer.body.is_empty());
        }
        answer
    }

    pub fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(header, _)| header == name)
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(header, _)| header == name);
        &found.unwrap_or_else(|| panic!("no {name} in {self:?}")).1
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The specification's code of a refusal, which must have the form that it has there.
    #[track_caller]
    pub fn code(&self) -> String {
        let json = self.json();
        let error = &json["errors"][0];
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{json}");
        error["code"].as_str().unwrap().to_owned()
    }

    /// Status and code in one.
    #[track_caller]
    pub fn refusal(&self) -> String {
        format!("{} {}", self.status, self.code())
    }
}
