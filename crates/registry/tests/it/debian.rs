//! A pull from Debian's `docker-registry`, an implementation that is not ours. Skipped, loudly, where it is not installed.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use brig_oci::media_type;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::rig::image::sha256;
use super::rig::{Image, TestBox, eventually};

const PROGRAM: &str = "/usr/bin/docker-registry";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start(dir: &Path) -> (Running, String) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let config = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        dir.join("data").display()
    );
    std::fs::write(dir.join("config.yml"), config).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg(dir.join("config.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    (Running(command.spawn().unwrap()), address)
}

/// One request on a connection of its own; status and `Location`.
async fn request(address: &str, method: &str, target: &str, kind: &str, body: Vec<u8>) -> (StatusCode, Option<String>) {
    let stream = TcpStream::connect(address.parse::<std::net::SocketAddr>().unwrap()).await.unwrap();
    let (mut sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(driver);
    let request = Request::builder().method(method).uri(target).header(HOST, address).header(CONTENT_TYPE, kind);
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let location = response.headers().get(LOCATION).map(|v| v.to_str().unwrap().to_owned());
    let status = response.status();
    response.into_body().collect().await.unwrap();
    (status, location)
}

async fn push(address: &str, repository: &str, tag: &str, image: &Image) {
    for blob in image.layers.iter().map(|l| &l.blob).chain([&image.config]) {
        let (status, location) =
            request(address, "POST", &format!("/v2/{repository}/blobs/uploads/"), "", Vec::new()).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        let location = location.unwrap();
        let target = location.strip_prefix(&format!("http://{address}")).unwrap_or(&location);
        let target = format!("{target}{}digest={}", if target.contains('?') { '&' } else { '?' }, sha256(blob));
        let (status, _) = request(address, "PUT", &target, "application/octet-stream", blob.clone()).await;
        assert_eq!(status, StatusCode::CREATED);
    }
    let target = format!("/v2/{repository}/manifests/{tag}");
    let (status, _) = request(address, "PUT", &target, media_type::OCI_MANIFEST, image.manifest.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_from_debians_registry() {
    if !Path::new(PROGRAM).exists() {
        eprintln!("SKIPPED: {PROGRAM} is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_running, address) = start(dir.path());
    let target = address.parse::<std::net::SocketAddr>().unwrap();
    let listens = || std::net::TcpStream::connect(target).is_ok();
    eventually(|| format!("{PROGRAM} does not listen"), listens).await;
    let image = Image::small();
    push(&address, "team/app", "v1", &image).await;
    let host = TestBox::new();
    let pulled = host.pull(&format!("{address}/team/app:v1")).await.unwrap();
    assert_eq!((pulled.image_id, pulled.manifest_digest), (image.id(), image.digest()));
    assert!(host.pull(&format!("{address}/team/app:v1")).await.unwrap().up_to_date);
    let error = host.pull(&format!("{address}/team/app:nosuch")).await.unwrap_err();
    assert_eq!(
        error.message,
        format!("manifest for {address}/team/app:nosuch not found: manifest unknown: manifest unknown")
    );
    let error = host.pull(&format!("{address}/nosuch:v1")).await.unwrap_err();
    assert!(error.message.contains("not found: "), "{error}");
}
