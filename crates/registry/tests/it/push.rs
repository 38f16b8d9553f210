//! Pushing: what is sent, what is not, and every way in which it can go wrong.

use std::time::Duration;

use brig_oci::{Digest, Document, Manifest, Reference};
use brig_registry::{Auth, Client, Config, ErrorKind, PushEvent};
use brig_store::{ImageRecord, Lease};

use super::rig::image::sha256;
use super::rig::{Image, Layer, Packing, Registry, Reply, TestBox, quick};

fn manifest_at(registry: &Registry, repository: &str, tag: &str) -> (Manifest, Vec<u8>) {
    let bytes = registry.content(&format!("/v2/{repository}/manifests/{tag}")).unwrap();
    match Document::parse(&bytes, None).unwrap() {
        Document::Manifest(manifest) => (manifest, bytes),
        Document::Index(_) => panic!("an index"),
    }
}

/// An image in a store, from a registry that is gone afterwards.
async fn with_image(image: &Image) -> (TestBox, Digest) {
    let host = TestBox::new();
    let source = Registry::new().await;
    source.push("source", "1", image);
    let pulled = host.pull(&source.name("source:1")).await.unwrap();
    (host, pulled.image_id)
}

fn id(layer: &Layer) -> String {
    layer.diff_id.hex()[..12].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_sent_to_an_empty_registry_and_nothing_twice() {
    let image = Image::small();
    let (host, image_id) = with_image(&image).await;
    let registry = Registry::new().await;
    let (pushed, events) = host.push(&image_id, &registry.name("app:1"), None).await.unwrap();
    let (manifest, bytes) = manifest_at(&registry, "app", "1");
    assert_eq!((pushed.digest.clone(), pushed.size), (sha256(&bytes), bytes.len() as u64));
    assert_eq!(manifest.config.digest, image_id);
    for layer in &image.layers {
        assert!(events.contains(&PushEvent::Preparing { id: id(layer) }), "{events:?}");
        assert!(events.contains(&PushEvent::Pushed { id: id(layer) }), "{events:?}");
    }
    // Whatever packed the layers, each is the very blob that it came as, and so is the manifest.
    assert_eq!((pushed.digest.clone(), bytes.clone()), (image.digest(), image.manifest.clone()));
    for layer in &image.layers {
        assert_eq!(registry.content(&format!("/v2/app/blobs/{}", layer.digest())), Some(layer.blob.clone()));
    }
    registry.clear_log();
    let (again, events) = host.push(&image_id, &registry.name("app:1"), None).await.unwrap();
    assert_eq!(again, pushed);
    assert!(events.contains(&PushEvent::AlreadyExists { id: id(&image.layers[0]) }), "{events:?}");
    assert_eq!(registry.count("POST", "/blobs/uploads/"), 0, "{:?}", registry.log());
    // Someone else gets the same image from it, and sends on the same manifest, byte for byte.
    let other = TestBox::new();
    let pulled = other.pull(&registry.name("app:1")).await.unwrap();
    assert_eq!((&pulled.image_id, &pulled.manifest_digest), (&image_id, &pushed.digest));
    let empty = Registry::new().await;
    assert_eq!(other.push(&image_id, &empty.name("copy:1"), None).await.unwrap().0, pushed);
    assert_eq!(manifest_at(&empty, "copy", "1").1, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_registry_has_every_layer_the_original_manifest_is_sent() {
    let image = Image::small();
    let registry = Registry::new().await;
    registry.push("app", "1", &image);
    let host = TestBox::new();
    let image_id = host.pull(&registry.name("app:1")).await.unwrap().image_id;
    host.store.tag(&format!("{}/app:1", registry.address), &image_id, Some(&image.digest())).unwrap();
    let (pushed, _) = host.push(&image_id, &registry.name("app:2"), None).await.unwrap();
    assert_eq!(pushed.digest, image.digest());
    // Another repository of the same registry takes them from the first.
    let (pushed, events) = host.push(&image_id, &registry.name("team/other:1"), None).await.unwrap();
    assert_eq!(pushed.digest, image.digest());
    let mounted = PushEvent::Mounted { id: id(&image.layers[0]), from: "app".into() };
    assert!(events.contains(&mounted), "{events:?}");
    assert_eq!(registry.content("/v2/team/other/manifests/1"), Some(image.manifest.clone()));
    assert_eq!(registry.count("PATCH", ""), 0);
}

/// A layer of several chunks.
fn big() -> Image {
    Image::new(vec![Layer::file("big", 20 << 20, Packing::Plain)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_goes_on_where_it_stopped() {
    let (host, image_id) = with_image(&big()).await;
    let registry = Registry::new().await;
    registry.hook(|seen| match (seen.method.as_str(), seen.nth) {
        // In the midst of the second chunk (uploads keep their path), then once before anything of it arrives.
        ("PATCH", 1) => Reply::Break(3_000_000),
        ("PATCH", 2) => Reply::Break(0),
        _ => Reply::Serve,
    });
    let (pushed, events) = host.push(&image_id, &registry.name("app:1"), None).await.unwrap();
    assert_eq!(
        registry.content(&format!("/v2/app/blobs/{}", big().layers[0].digest())),
        Some(big().layers[0].blob.clone())
    );
    assert!(events.iter().any(|event| matches!(event, PushEvent::Retrying { .. })), "{events:?}");
    let ranges: Vec<String> =
        registry.log().iter().filter(|seen| seen.method == "PATCH").filter_map(|seen| seen.range.clone()).collect();
    assert!(ranges.iter().any(|range| range.starts_with("11388608-")), "{ranges:?}");
    assert_eq!(pushed.digest, big().digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_upload_begins_anew() {
    let (host, image_id) = with_image(&big()).await;
    let registry = Registry::new().await;
    registry.hook(|seen| match (seen.method.as_str(), seen.nth) {
        ("PATCH", 1) if seen.path.contains("uploads/0") => Reply::Break(5),
        // The next one is forgotten without a break.
        ("PATCH", 1) if seen.path.contains("uploads/1") => Reply::With(404, vec![], vec![]),
        ("GET", _) if seen.path.contains("uploads/0") => Reply::With(404, vec![], vec![]),
        _ => Reply::Serve,
    });
    let (pushed, _) = host.push(&image_id, &registry.name("app:1"), None).await.unwrap();
    assert_eq!(pushed.digest, big().digest());
    assert!(registry.count("POST", "/blobs/uploads/") >= 3);
}

/// A registry that takes chunks for ever and says each time that it has nothing: asked a few times more, then given up.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_never_gets_further_ends() {
    const MOST: usize = 40;
    let (host, image_id) = with_image(&big()).await;
    for takes_first in [false, true] {
        let registry = Registry::new().await;
        registry.hook(move |seen| match seen.method.as_str() {
            // So that the test ends whatever happens.
            "PATCH" if seen.nth > MOST => Reply::With(403, vec![], vec![]),
            "PATCH" if takes_first && seen.range.as_deref().is_some_and(|range| range.starts_with("0-")) => {
                Reply::With(
                    202,
                    vec![("location", seen.path.clone()), ("range", format!("0-{}", (8 << 20) - 1))],
                    vec![],
                )
            }
            "PATCH" => Reply::With(202, vec![("location", seen.path.clone()), ("range", "0-0".into())], vec![]),
            _ => Reply::Serve,
        });
        let error = host.push(&image_id, &registry.name("app:1"), None).await.unwrap_err();
        assert!(registry.count("PATCH", "") < MOST, "{} chunks were sent: {error}", registry.count("PATCH", ""));
        assert!(error.message.contains("has not got further"), "{error}");
    }
}

/// What takes longer than a registry may be silent: a chunk on a slow line, and what is done with the whole at the end.
#[tokio::test(flavor = "multi_thread")]
async fn slow_is_not_silent() {
    const STALL: Duration = Duration::from_millis(400);
    let (source, image_id) = with_image(&big()).await;
    let host = TestBox { client: Client::new(Config { stall_timeout: STALL, ..quick() }).unwrap(), ..source };
    let registry = Registry::new().await;
    // Eight MiB in three times that.
    registry.takes_slowly(STALL * 3 / 128);
    registry.hook(|seen| {
        if seen.method == "PUT" {
            // What it has to do takes it so long.
            std::thread::sleep(STALL * 2);
        }
        Reply::Serve
    });
    let (pushed, events) = host.push(&image_id, &registry.name("app:1"), None).await.unwrap();
    assert_eq!(pushed.digest, big().digest());
    assert!(!events.iter().any(|event| matches!(event, PushEvent::Retrying { .. })), "{events:?}");
    assert_eq!(registry.count("PATCH", ""), 3, "each chunk once");
    assert_eq!(registry.count("PUT", ""), 3, "layer, configuration and manifest");
}

/// The manifest of an image that came with none: a collection that comes before its name leads to it leaves it alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_that_was_made_stays_for_its_name() {
    let (host, image_id) = with_image(&Image::small()).await;
    host.store.put_image(ImageRecord::new(image_id.clone(), None)).unwrap();
    let registry = Registry::new().await;
    let name = Reference::parse(&registry.name("app:1")).unwrap();
    let lease = Lease::begin(&host.store);
    let pushed = host.client.push(&host.store, &image_id, &name, None, &|_| {}).await.unwrap();
    host.store.gc(&[]).unwrap();
    assert!(host.store.has_blob(&pushed.digest));
    host.store.tag(&name.canonical(), &image_id, Some(&pushed.digest)).unwrap();
    drop(lease);
    host.store.gc(&[]).unwrap();
    assert!(host.store.has_blob(&pushed.digest), "the name leads to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_refuses_is_said_in_its_words() {
    let (host, image_id) = with_image(&Image::small()).await;
    let registry = Registry::new().await;
    let name = registry.name("app:1");
    let refuse = |status: u16, code: &str, message: &str| {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#).into_bytes();
        registry.hook(move |seen| match seen.method.as_str() {
            "POST" => Reply::With(status, vec![], body.clone()),
            _ => Reply::Serve,
        });
    };
    refuse(403, "DENIED", "requested access to the resource is denied");
    let error = host.push(&image_id, &name, None).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Denied, "denied: requested access to the resource is denied")
    );
    refuse(401, "UNAUTHORIZED", "authentication required");
    let error = host.push(&image_id, &name, None).await.unwrap_err();
    assert_eq!(error.message, "unauthorized: authentication required");
    refuse(429, "TOOMANYREQUESTS", "slow down");
    assert_eq!(host.push(&image_id, &name, None).await.unwrap_err().kind, ErrorKind::RateLimited);
    // A place elsewhere gets neither the content nor the credentials.
    registry.hook(|seen| match seen.method.as_str() {
        "POST" => Reply::With(202, vec![("location", "http://127.0.0.1:9/steal".into())], vec![]),
        _ => Reply::Serve,
    });
    let error = host.push(&image_id, &name, None).await.unwrap_err();
    assert!(error.message.contains("leads to another server"), "{error}");
    // A registry that took another manifest than was sent.
    let lie = sha256(b"something else").to_string();
    registry.hook(move |seen| match seen.path.contains("/manifests/") {
        true => Reply::With(201, vec![("docker-content-digest", lie.clone())], vec![]),
        false => Reply::Serve,
    });
    let error = host.push(&image_id, &name, None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Mismatch, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_for_pushing_and_for_reading_what_is_mounted() {
    let image = Image::small();
    let registry = Registry::new().await;
    registry.push("app", "1", &image);
    let host = TestBox::new();
    let image_id = host.pull(&registry.name("app:1")).await.unwrap().image_id;
    host.store.tag(&format!("{}/app:1", registry.address), &image_id, Some(&image.digest())).unwrap();
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"test\"", registry.address);
    registry.hook(move |seen| match seen.path.starts_with("/token") {
        true => Reply::With(200, vec![], br#"{"token":"good"}"#.to_vec()),
        false if seen.authorization.as_deref() == Some("Bearer good") => Reply::Serve,
        false => Reply::With(401, vec![("www-authenticate", realm.clone())], vec![]),
    });
    let auth = Auth { username: "me".into(), password: "pw".into(), ..Auth::default() };
    host.push(&image_id, &registry.name("other:1"), Some(&auth)).await.unwrap();
    let token = registry.log().into_iter().find(|seen| seen.path.starts_with("/token")).unwrap().path;
    assert!(token.contains("scope=repository%3Aother%3Apull%2Cpush&scope=repository%3Aapp%3Apull"), "{token}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_layer_is_not_sent() {
    let (host, image_id) = with_image(&big()).await;
    let chain = host.store.image(&image_id).unwrap().chain_id.unwrap();
    let file = host.dir.path().join("v1/layers").join(chain.hex()).join("diff/big");
    std::fs::write(file, vec![0; 20 << 20]).unwrap();
    let registry = Registry::new().await;
    let error = host.push(&image_id, &registry.name("app:1"), None).await.unwrap_err();
    assert!(error.message.contains("remove the image and pull it again"), "{error}");
    // It is made while it is sent: the upload ends before the last piece.
    let layer = big().layers[0].digest();
    assert_eq!(registry.count("PUT", layer.hex()) + registry.count("PUT", "/manifests/"), 0);
    assert_eq!(registry.content(&format!("/v2/app/blobs/{layer}")), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_distributed_is_not() {
    let image = Image::small().edit(|manifest| {
        manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        manifest["layers"][0]["urls"] = serde_json::json!(["https://maker.example/layer"]);
    });
    let (host, image_id) = with_image(&image).await;
    let registry = Registry::new().await;
    let (_, events) = host.push(&image_id, &registry.name("app:1"), None).await.unwrap();
    assert!(events.contains(&PushEvent::Skipped { id: id(&image.layers[0]) }), "{events:?}");
    let (manifest, _) = manifest_at(&registry, "app", "1");
    assert_eq!(manifest.layers[0].digest, image.layers[0].digest());
    assert_eq!(registry.content(&format!("/v2/app/blobs/{}", image.layers[0].digest())), None);
}
