//! Answers that are odd in what surrounds them: challenges, tokens, encodings, places for uploads, a tag that moves, names
//! for which a redirect wants a way inside. (The rows of security.md 5.3 that `faults`, `auth`, `tls` and `lists` have not.)

use std::time::Duration;

use brig_oci::media_type;
use brig_registry::{Auth, Config, ErrorKind};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::rig::{Image, Layer, Packing, Registry, Reply, TestBox, quick};

async fn registry() -> (Registry, Image) {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    (registry, image)
}

fn me() -> Auth {
    Auth { username: "me".into(), password: "CANARY".into(), ..Auth::default() }
}

fn challenge(text: &str) -> Reply {
    Reply::With(401, vec![("www-authenticate", text.to_owned())], Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_without_end() {
    let (registry, _) = registry().await;
    let name = registry.name("app:v1");
    // Whatever is sent, it is not enough: asked twice at most for each request.
    registry.hook(|_| challenge("Basic realm=\"x\""));
    let error = TestBox::new().pull_as(&name, Some(&me()), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized, "{error}");
    assert!(registry.log().len() <= 6, "{:?}", registry.log().len());
    // A head of a megabyte is not read.
    registry.hook(|_| challenge(&format!("Bearer realm=\"http://127.0.0.1:1/{}\"", "x".repeat(1 << 20))));
    let error = TestBox::new().refused(&name).await;
    assert!(error.message.len() < 4096, "{} bytes of error", error.message.len());
    // Many schemes, none of them known; a realm that is none.
    for odd in
        ["Negotiate", "Bearer", "Bearer realm=\"\"", "Bearer realm=\"/relative\"", "Bearer realm=\"http://a b/\""]
    {
        registry.hook(move |_| challenge(odd));
        TestBox::new().refused(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_every_kind() {
    let (registry, _) = registry().await;
    let tokens = Registry::new().await;
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"x\"", tokens.address);
    registry.hook(move |seen| match seen.authorization.as_deref() {
        Some("Bearer good") => Reply::Serve,
        _ => challenge(&realm),
    });
    let name = registry.name("app:v1");
    for (body, taken) in [
        (br#"{"token":"good","expires_in":1000000000000}"#.to_vec(), true),
        (br#"{"token":"good","expires_in":-1,"issued_at":"9999-01-01T00:00:00Z"}"#.to_vec(), true),
        (br#"{"access_token":"good"}"#.to_vec(), true),
        (br#"{"token":"","access_token":"good"}"#.to_vec(), true),
        (br#"{}"#.to_vec(), false),
        (br#"{"token":7}"#.to_vec(), false),
        (br#"{"token":"a\r\nX-Evil: 1"}"#.to_vec(), false),
        (b"<html>".to_vec(), false),
        (format!("{{\"token\":\"{}\"}}", "x".repeat(10 << 20)).into_bytes(), false),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        tokens.hook(move |_| Reply::With(200, vec![], body.clone()));
        let host = TestBox::new();
        match host.pull(&name).await {
            Ok(_) => assert!(taken, "{shown}"),
            Err(error) => {
                assert!(!taken, "{shown}: {error}");
                assert!(error.message.len() < 4096);
                host.assert_clean().await;
            }
        }
    }
    tokens.hook(|_| Reply::Blank(1 << 30));
    TestBox::new().refused(&name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_encoded_once_more() {
    let (registry, image) = registry().await;
    let layer = image.layers[0].clone();
    let packed = layer.blob.clone();
    registry.hook_blob(&layer.digest(), move |_| {
        Reply::With(200, vec![("content-encoding", "gzip".into())], packed.clone())
    });
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    assert!(error.message.contains("content encoding"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moves_between_two_questions() {
    let (registry, first) = registry().await;
    let second = Image::new(vec![Layer::file("second", 1000, Packing::Gzip)]);
    registry.push("app", "v2", &second);
    let (manifest, digest) = (second.manifest.clone(), first.digest().to_string());
    registry.hook(move |seen| match seen.method.as_str() {
        // First it means the one, then the other; each answer is true when it is given.
        "HEAD" if seen.path.contains("/manifests/v1") => Reply::With(
            200,
            vec![("docker-content-digest", digest.clone()), ("content-type", media_type::OCI_MANIFEST.into())],
            Vec::new(),
        ),
        "GET" if seen.path.contains("/manifests/v1") => Reply::Content { bytes: manifest.clone(), chunked: false },
        _ => Reply::Serve,
    });
    let host = TestBox::new();
    // Either image whole, or a refusal; never parts of both.
    match host.pull(&registry.name("app:v1")).await {
        Ok(pulled) => {
            let both = [(first.digest(), first.id()), (second.digest(), second.id())];
            assert!(both.contains(&(pulled.manifest_digest, pulled.image_id)));
        }
        Err(error) => assert_eq!(error.kind, ErrorKind::Mismatch, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_are_to_go_elsewhere() {
    let image = Image::small();
    let (source, evil, registry) = (Registry::new().await, Registry::new().await, Registry::new().await);
    source.push("app", "v1", &image);
    let host = TestBox::new();
    let id = host.pull(&source.name("app:v1")).await.unwrap().image_id;
    let to = format!("http://{}/steal?x=y", evil.address);
    registry.hook(move |seen| match (seen.method.as_str(), seen.authorization.is_some()) {
        (_, false) => challenge("Basic realm=\"x\""),
        ("POST", _) => Reply::With(202, vec![("location", to.clone())], vec![]),
        _ => Reply::Serve,
    });
    // Whether it goes there or not, the password does not.
    drop(host.push(&id, &registry.name("app:1"), Some(&me())).await);
    assert!(evil.log().iter().all(|seen| seen.authorization.is_none()), "{:?}", evil.log());
    for odd in ["file:///etc/passwd", "http://169.254.169.254/x", "http://u:p@127.0.0.1:1/", ""] {
        registry.hook(move |seen| match seen.method.as_str() {
            "POST" => Reply::With(202, vec![("location", odd.to_owned())], vec![]),
            _ => Reply::Serve,
        });
        assert!(host.push(&id, &registry.name("app:1"), None).await.is_err(), "{odd}");
    }
    let long = format!("/v2/app/blobs/uploads/{}", "x".repeat(200_000));
    registry.hook(move |seen| match seen.method.as_str() {
        "POST" => Reply::With(202, vec![("location", long.clone())], vec![]),
        _ => Reply::Serve,
    });
    assert!(host.push(&id, &registry.name("app:1"), None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_and_never_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Neither a greeting of TLS nor a request gets a word.
            drop(stream.read(&mut [0; 1]).await);
            held.push(stream);
        }
    });
    let host = TestBox::with(Config { stall_timeout: Duration::from_millis(300), ..quick() });
    let (other, image) = registry().await;
    let (silent, good) = (format!("{address}/x:y"), other.name("app:v1"));
    let (stuck, fine) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(50), host.pull(&silent)), host.pull(&good));
    assert_eq!(fine.unwrap().image_id, image.id(), "another pull goes on");
    let error = stuck.expect("it is given up").unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Timeout | ErrorKind::Network), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn warnings_and_errors_are_bounded_and_plain() {
    let (registry, _) = registry().await;
    registry.hook(|_| {
        let long = format!("{{\"errors\":[{{\"code\":\"X\",\"message\":\"{}\\u001b[31m\"}}]}}", "y".repeat(40_000));
        Reply::With(403, vec![("warning", format!("299 - \"{}\"", "w".repeat(8_000)))], long.into_bytes())
    });
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    assert!(error.message.len() <= 8 << 10, "{} bytes", error.message.len());
    assert!(!error.message.contains('\u{1b}'));
}
