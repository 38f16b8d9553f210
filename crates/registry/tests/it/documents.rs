//! What is no image, and blobs that are wanted in more than one place: each comes and goes once, as it is.

use brig_oci::{Descriptor, Document, Reference, media_type};
use brig_registry::{ErrorKind, documents};
use brig_store::{Lease, MAX_BLOB_SIZE, Packed};
use serde_json::json;

use super::rig::image::{descriptor, noise, sha256};
use super::rig::{Image, Layer, Packing, Registry, Reply, TestBox};

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_of_any_size_comes_and_goes() {
    let registry = Registry::new().await;
    let (empty, model) = (b"{}".to_vec(), noise(5, MAX_BLOB_SIZE as usize + 4_000_000));
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "application/x-thing",
        "config": descriptor("application/vnd.oci.empty.v1+json", &empty),
        "layers": [descriptor("application/x-model", &model), descriptor("application/x-model", &model)]});
    let manifest = serde_json::to_vec_pretty(&manifest).unwrap();
    registry.push_manifest("app", "v1", media_type::OCI_MANIFEST, &manifest);
    for blob in [&empty, &model] {
        registry.put(format!("/v2/app/blobs/{}", sha256(blob)), "application/octet-stream", blob);
    }
    let host = TestBox::new();
    let _lease = Lease::begin(&host.store);
    let name = Reference::parse(&registry.name("app:v1")).unwrap();
    // Cut in the midst, and given up: what came stays for the next time.
    registry.hook_blob(&sha256(&model), |seen| if seen.nth == 0 { Reply::Cut(15_000_000) } else { Reply::Cut(0) });
    let error = documents::pull_raw(&host.client, &host.store, &name, None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Network);
    registry.hook(|_| Reply::Serve);
    registry.clear_log();
    let digest = documents::pull_raw(&host.client, &host.store, &name, None).await.unwrap();
    assert_eq!((&digest, host.store.blob_size(&sha256(&model))), (&sha256(&manifest), Some(model.len() as u64)));
    let asked = registry.log().into_iter().filter(|seen| seen.path.contains(sha256(&model).hex())).collect::<Vec<_>>();
    assert_eq!((asked.len(), asked[0].range.as_deref()), (1, Some("bytes=15000000-")));
    // An image it is not.
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    assert!(error.message.contains("it is an artifact of type \"application/x-thing\""), "{error}");
    let copy = Registry::new().await;
    let target = Reference::parse(&copy.name("copy:v2")).unwrap();
    let Ok(Document::Manifest(parsed)) = Document::parse(&manifest, None) else { panic!("a manifest") };
    let parts: Vec<Descriptor> = std::iter::once(&parsed.config).chain(&parsed.layers).cloned().collect();
    let sent = (&manifest[..], media_type::OCI_MANIFEST);
    documents::push_raw(&host.client, &host.store, &target, sent, &parts, None).await.unwrap();
    assert!(copy.content("/v2/copy/manifests/v2").unwrap() == manifest);
    assert!(copy.content(&format!("/v2/copy/blobs/{}", sha256(&model))).unwrap() == model);
    assert_eq!(copy.count("POST", "/blobs/uploads/"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_in_another_place_is_neither_fetched_nor_sent_again() {
    let registry = Registry::new().await;
    let shared = Layer::file("shared", 300_000, Packing::Gzip);
    registry.push("app", "one", &Image::new(vec![shared.clone()]));
    let other = Image::new(vec![Layer::file("base", 1000, Packing::Zstd), shared.clone(), shared.clone()]);
    registry.push("app", "two", &other);
    let host = TestBox::new();
    host.pull(&registry.name("app:one")).await.unwrap();
    // Whether it is kept as it came or as a recipe makes no difference.
    Packed::of(&host.store).wait();
    host.pull(&registry.name("app:two")).await.unwrap();
    assert_eq!(registry.count("GET", shared.digest().hex()), 1);
    host.assert_no_partial().await;
    let copy = Registry::new().await;
    host.push(&other.id(), &copy.name("copy:v1"), None).await.unwrap();
    assert!(copy.content("/v2/copy/manifests/v1").unwrap() == other.manifest);
    assert_eq!(copy.count("POST", "/blobs/uploads/"), 3, "two layers and the configuration: {:#?}", copy.log());
}
