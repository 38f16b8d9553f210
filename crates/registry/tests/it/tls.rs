//! TLS and proxies. A proxy on loopback plays the outside world: it knows where `registry.test` is, the client does not.

use std::path::PathBuf;
use std::sync::Arc;

use brig_registry::{Config, ErrorKind, Proxies, RegistrySettings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::rig::{Image, Registry, TestBox, quick};

const CA: &[u8] = include_bytes!("certs/ca.crt");
const SERVER: &[u8] = include_bytes!("certs/server.crt");
const EXPIRED: &[u8] = include_bytes!("certs/expired.crt");
const SELF_SIGNED: &[u8] = include_bytes!("certs/selfsigned.crt");
const CLIENT: &[u8] = include_bytes!("certs/client.crt");
/// The key of all of them.
const KEY: &[u8] = include_bytes!("certs/server.key");

fn chain(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().unwrap()
}

fn server(certificate: &[u8], demand_client: bool) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(chain(CA));
    let builder = if demand_client {
        builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap(),
        )
    } else {
        builder.with_no_client_auth()
    };
    builder.with_single_cert(chain(certificate), PrivateKeyDer::from_pem_slice(KEY).unwrap()).unwrap()
}

/// A proxy that tunnels every CONNECT and forwards every plain request to `to`. Returns its URL, with credentials.
async fn proxy(to: std::net::SocketAddr) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    if client.read_line(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                if !head.to_lowercase().contains("proxy-authorization: basic dtpw") {
                    client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await.unwrap();
                    return;
                }
                let mut upstream = TcpStream::connect(to).await.unwrap();
                if head.starts_with("CONNECT ") {
                    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
                } else {
                    // Absolute form to origin form, one request per connection.
                    let (_, rest) = head.split_once("http://").unwrap();
                    let path = &rest[rest.find('/').unwrap()..];
                    let method = head.split(' ').next().unwrap();
                    let forwarded = format!("{method} {}", path.replacen("\r\n", "\r\nconnection: close\r\n", 1));
                    upstream.write_all(forwarded.as_bytes()).await.unwrap();
                }
                tokio::io::copy_bidirectional(&mut client, &mut upstream).await.ok();
            });
        }
    });
    format!("http://u:p@{address}")
}

/// A client that reaches the world through `proxy` and has `files` under `certs.d/registry.test:5443/`.
fn host(proxy: &str, files: &[(&str, &[u8])]) -> (TestBox, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let certs: PathBuf = dir.path().join("registry.test:5443");
    std::fs::create_dir(&certs).unwrap();
    for (name, content) in files {
        std::fs::write(certs.join(name), content).unwrap();
    }
    let proxies = Proxies { http: proxy.into(), https: proxy.into(), none_for: String::new() };
    (TestBox::with(Config { ca_dirs: vec![dir.path().into()], proxies, ..quick() }), dir)
}

const NAME: &str = "registry.test:5443/app:v1";

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_verified() {
    let image = Image::small();
    for (certificate, files, complaint) in [
        (SERVER, vec![("ca.crt", CA)], ""),
        (SERVER, vec![], "x509: certificate signed by unknown authority"),
        (EXPIRED, vec![("ca.crt", CA)], "x509: certificate has expired or is not yet valid"),
        (SELF_SIGNED, vec![("ca.crt", SELF_SIGNED)], ""),
        (SELF_SIGNED, vec![("ca.crt", CA)], "x509: "),
        (SERVER, vec![("ca.crt", b"nonsense".as_slice()), ("x.cert", CLIENT)], "x.key"),
    ] {
        let registry = Registry::tls(server(certificate, false)).await;
        registry.push("app", "v1", &image);
        let (host, _certs) = host(&proxy(registry.address).await, &files);
        let result = host.pull(NAME).await;
        if complaint.is_empty() {
            assert_eq!(result.unwrap().image_id, image.id());
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Network);
            assert!(error.message.contains(complaint), "{error}");
            assert!(
                error
                    .message
                    .starts_with("failed to do request: Head \"https://registry.test:5443/v2/app/manifests/v1\": "),
                "{error}"
            );
            assert!(registry.log().is_empty(), "a request went to an unverified server");
            host.assert_clean().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_one_registry_by_its_setting() {
    let registry = Registry::tls(server(SERVER, false)).await;
    registry.push("app", "v1", &Image::small());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, CA).unwrap();
    let proxy = proxy(registry.address).await;
    let proxies = Proxies { http: proxy.clone(), https: proxy, none_for: String::new() };
    let with = |text: String| {
        let registries = RegistrySettings::parse(&[text]).unwrap();
        TestBox::with(Config { registries, proxies: proxies.clone(), ..quick() })
    };
    for name in ["registry.test:5443", "registry.test", "*"] {
        with(format!("{name}=ca={}", file.display())).pull(NAME).await.unwrap();
    }
    let error = with(format!("other.test=ca={}", file.display())).pull(NAME).await.unwrap_err();
    assert!(error.message.contains("unknown authority"), "{error}");
    let error = with("registry.test=ca=/nonexistent.pem".into()).pull(NAME).await.unwrap_err();
    assert!(error.message.contains("/nonexistent.pem"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name() {
    let registry = Registry::tls(server(SERVER, false)).await;
    let (mut host, certs) = host(&proxy(registry.address).await, &[]);
    let other = certs.path().join("other.test");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("ca.crt"), CA).unwrap();
    let error = host.pull("other.test/app:v1").await.unwrap_err();
    assert!(error.message.contains("x509: certificate is not valid for other.test"), "{error}");
    // Insecure by name: any certificate will do.
    let proxies = Proxies { https: proxy(registry.address).await, ..Proxies::default() };
    host = TestBox::with(Config { insecure: vec!["other.test".into()], proxies, ..quick() });
    registry.push("app", "v1", &Image::small());
    host.pull("other.test/app:v1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates() {
    let registry = Registry::tls(server(SERVER, true)).await;
    registry.push("app", "v1", &Image::small());
    let proxy = proxy(registry.address).await;
    let (with, _certs) = host(&proxy, &[("ca.crt", CA), ("client.cert", CLIENT), ("client.key", KEY)]);
    with.pull(NAME).await.unwrap();
    let (without, _certs) = host(&proxy, &[("ca.crt", CA)]);
    let refused = without.refused(NAME).await;
    assert_eq!(refused.kind, ErrorKind::Network);
    assert!(refused.message.contains("remote error: tls: certificate required"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_registry_on_loopback_needs_no_certificate() {
    let registry = Registry::tls(server(SELF_SIGNED, false)).await;
    registry.push("app", "v1", &Image::small());
    TestBox::new().pull(&registry.name("app:v1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_through_a_proxy() {
    let registry = Registry::new().await;
    registry.push("app", "v1", &Image::small());
    let url = proxy(registry.address).await;
    let proxies = Proxies { http: url.clone(), https: url, none_for: String::new() };
    let host = TestBox::with(Config { proxies: proxies.clone(), insecure: vec!["registry.test".into()], ..quick() });
    host.pull("registry.test/app:v1").await.unwrap();
    let without_password = Proxies { http: proxies.http.replace("u:p@", ""), ..Proxies::default() };
    let host = TestBox::with(Config { proxies: without_password, insecure: vec!["10.0.0.0/8".into()], ..quick() });
    let error = host.refused("10.9.9.9:5000/app:v1").await;
    assert!(!error.message.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_downgrade_from_tls() {
    let (registry, plain) = (Registry::tls(server(SERVER, false)).await, Registry::new().await);
    let image = Image::small();
    registry.push("app", "v1", &image);
    let to = format!("http://{}/x", plain.address);
    registry.hook(move |seen| {
        use super::rig::Reply;
        if seen.path.contains("/blobs/") {
            Reply::With(307, vec![("location", to.clone())], vec![])
        } else {
            Reply::Serve
        }
    });
    let (host, _certs) = host(&proxy(registry.address).await, &[("ca.crt", CA)]);
    let error = host.refused(NAME).await;
    assert!(error.message.contains("is not encrypted, https://"), "{error}");
    assert!(plain.log().is_empty());
}

#[tokio::test]
async fn a_server_that_talks_before_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-x\r\n").await.ok();
            stream.read_u8().await.ok();
        }
    });
    let error = TestBox::new().refused(&format!("{address}/x:y")).await;
    assert_eq!(error.kind, ErrorKind::Network);
}
