//! Registries that lie, break off, stall or refuse: each ends in an error that names the matter, with nothing left behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brig_oci::media_type;
use brig_registry::{Config, Error, ErrorKind};
use serde_json::json;

use super::rig::image::{descriptor, sha256};
use super::rig::{Image, Layer, Packing, Registry, Reply, TestBox, eventually, quick};

#[track_caller]
fn says(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind, kind, "{error}");
    for part in parts {
        assert!(error.message.contains(part), "{:?} does not say {part:?}", error.message);
    }
}

/// A registry with the small image as `app:v1`.
async fn registry() -> (Registry, Image) {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    (registry, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes() {
    let (registry, image) = registry().await;
    for nth in 0..3 {
        let layer = &image.layers[nth];
        for at in [0, layer.blob.len() / 2, layer.blob.len() - 1] {
            let mut bytes = layer.blob.clone();
            bytes[at] ^= 0x10;
            let actual = sha256(&bytes).to_string();
            registry.hook_blob(&layer.digest(), move |_| Reply::Content { bytes: bytes.clone(), chunked: false });
            let host = TestBox::new();
            let error = host.pull(&registry.name("app:v1")).await.unwrap_err();
            let expected = layer.digest().to_string();
            says(&error, ErrorKind::Mismatch, &["layer digest mismatch: expected", &expected, &actual]);
            host.assert_no_ingest().await;
            assert!(host.layers() <= nth, "a layer above the wrong one was committed");
            assert!(host.store.image(&image.id()).is_none());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_overlong_layers() {
    let (registry, image) = registry().await;
    let layer = &image.layers[0];
    let (digest, size) = (layer.digest().to_string(), layer.blob.len());
    for chunked in [false, true] {
        for keep in [0, size / 100, size / 2, size - 1] {
            let bytes = layer.blob[..keep].to_vec();
            registry.hook_blob(&layer.digest(), move |_| Reply::Content { bytes: bytes.clone(), chunked });
            let host = TestBox::new();
            let error = host.refused(&registry.name("app:v1")).await;
            let (expected, got) = (format!("expected {size} bytes"), format!("got {keep}"));
            says(&error, ErrorKind::Mismatch, &[&digest, "truncated", &expected, &got]);
        }
        let longer = [&layer.blob[..], b"more"].concat();
        registry.hook_blob(&layer.digest(), move |_| Reply::Content { bytes: longer.clone(), chunked });
        let error = TestBox::new().refused(&registry.name("app:v1")).await;
        says(&error, ErrorKind::Mismatch, &[&digest, "wrong size", &format!("expected {size} bytes")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_never_gets_further() {
    let (registry, image) = registry().await;
    registry.hook_blob(
        &image.layers[0].digest(),
        |seen| {
            if seen.nth == 0 { Reply::Cut(20_000) } else { Reply::Cut(0) }
        },
    );
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    says(&error, ErrorKind::Network, &[&image.layers[0].digest().to_string(), "unexpected EOF", "after 20000 of"]);
    assert_eq!(registry.count("GET", image.layers[0].digest().hex()), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_say_nothing() {
    let (registry, image) = registry().await;
    let host = TestBox::with(Config { stall_timeout: Duration::from_millis(150), ..quick() });
    registry.hook(|seen| if seen.path.contains("/manifests/") { Reply::Hang } else { Reply::Serve });
    let error = host.refused(&registry.name("app:v1")).await;
    says(&error, ErrorKind::Timeout, &["timeout awaiting response headers"]);
    registry.hook_blob(&image.layers[0].digest(), |_| Reply::Slow(30_000, Duration::from_millis(600)));
    let error = host.refused(&registry.name("app:v1")).await;
    says(&error, ErrorKind::Timeout, &["no data for 0.15 seconds"]);
    // Slow is not stalled.
    registry.hook_blob(&image.layers[0].digest(), |_| Reply::Slow(4_000, Duration::from_millis(40)));
    host.pull(&registry.name("app:v1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_in_dockers_words() {
    let (registry, _) = registry().await;
    let host = TestBox::new();
    let name = registry.name("app:v1");
    let unknown = registry.name("app:nosuch");
    let error = host.refused(&unknown).await;
    assert_eq!(error.message, format!("manifest for {unknown} not found: manifest unknown: manifest unknown"));
    assert_eq!(error.kind, ErrorKind::NotFound);
    let body =
        |code: &str, message: &str| json!({"errors": [{"code": code, "message": message}]}).to_string().into_bytes();
    let denied = body("DENIED", "requested access to the resource is denied");
    registry.hook(move |_| Reply::With(403, vec![], denied.clone()));
    let error = host.refused(&name).await;
    let repository = registry.name("app");
    assert_eq!(
        error.message,
        format!(
            "pull access denied for {repository}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
        )
    );
    assert_eq!(error.kind, ErrorKind::Denied);
    registry.hook(|_| Reply::With(500, vec![], b"<html>\x1b[31m".to_vec()));
    registry.clear_log();
    says(&host.refused(&name).await, ErrorKind::Network, &["unexpected status: 500 Internal Server Error"]);
    assert_eq!(registry.count("GET", "/manifests/"), 5, "server errors are tried again");
    registry.hook(|_| Reply::With(418, vec![], vec![]));
    says(&host.refused(&name).await, ErrorKind::Invalid, &["unexpected status: 418"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_layer() {
    let (registry, image) = registry().await;
    let digest = image.layers[2].digest();
    registry.hook_blob(&digest, |_| Reply::With(404, vec![], vec![]));
    let host = TestBox::new();
    let error = host.pull(&registry.name("app:v1")).await.unwrap_err();
    says(&error, ErrorKind::NotFound, &[&digest.to_string(), "not found: blob unknown"]);
    host.assert_no_ingest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limits() {
    let (registry, image) = registry().await;
    let limited = |wait: &str| {
        let wait = wait.to_owned();
        move || {
            Reply::With(
                429,
                vec![("retry-after", wait.clone())],
                br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#.to_vec(),
            )
        }
    };
    let host = TestBox::new();
    let short = limited("1");
    registry.hook_blob(&image.layers[0].digest(), move |seen| if seen.nth == 0 { short() } else { Reply::Serve });
    let begun = Instant::now();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "the wait was honoured");
    assert!(host.events().iter().any(|e| matches!(e, brig_registry::PullEvent::Retrying { in_seconds: 1, .. })));
    let short = limited("1");
    registry.clear_log();
    registry.hook(move |seen| if seen.path.contains("/manifests/") && seen.nth == 0 { short() } else { Reply::Serve });
    let host = TestBox::new();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!(host.events()[0], brig_registry::PullEvent::Retrying { id: "v1".into(), in_seconds: 1 });
    registry.hook(|_| {
        let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        Reply::With(429, vec![("ratelimit-limit", "100;w=21600".into()), ("retry-after", "900".into())], body.to_vec())
    });
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    let quota = "toomanyrequests: You have reached your pull rate limit. (its limit is 100 pulls in 6 hours)";
    says(&error, ErrorKind::RateLimited, &[quota, "wait 900 seconds"]);
    let long = limited("1000000000");
    registry.hook(move |_| long());
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    says(&error, ErrorKind::RateLimited, &["toomanyrequests: slow down", "wait 1000000000 seconds"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_server_are_retried_for_layers() {
    let (registry, image) = registry().await;
    registry.hook_blob(&image.layers[0].digest(), |seen| {
        if seen.nth < 3 { Reply::With(503, vec![], vec![]) } else { Reply::Serve }
    });
    TestBox::new().pull(&registry.name("app:v1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = TestBox::new().refused(&format!("{address}/x:y")).await;
    assert_eq!(error.kind, ErrorKind::Network);
    let want = format!(
        "failed to do request: Head \"http://{address}/v2/x/manifests/y\": dial tcp {address}: connect: connection refused"
    );
    assert_eq!(error.message, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_must_not_be_believed() {
    let registry = Registry::new().await;
    let image = Image::small();
    registry.push("app", "v1", &image);
    let serve = |tag: &str, kind: &str, document: &serde_json::Value| {
        registry.push_manifest("app", tag, kind, &serde_json::to_vec(document).unwrap());
    };
    let manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut document = manifest.clone();
        change(&mut document);
        document
    };
    let oci = media_type::OCI_MANIFEST;
    serve("both", oci, &changed(&|m| m["manifests"] = json!([])));
    serve("confused", media_type::DOCKER_INDEX, &manifest);
    serve("schema1", media_type::DOCKER_SCHEMA1_SIGNED, &json!({"schemaVersion": 1, "fsLayers": []}));
    serve("html", "text/html", &json!({"schemaVersion": 2}));
    serve("artifact", oci, &changed(&|m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")));
    serve(
        "encrypted",
        oci,
        &changed(&|m| m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted")),
    );
    serve("traversal", oci, &changed(&|m| m["layers"][0]["digest"] = json!("sha256:../../etc/passwd")));
    serve(
        "few",
        oci,
        &changed(&|m| {
            m["layers"].as_array_mut().unwrap().pop();
        }),
    );
    serve("negative", oci, &changed(&|m| m["layers"][0]["size"] = json!(-1)));
    serve("configsize", oci, &changed(&|m| m["config"]["size"] = json!(1u64 << 40)));
    let many: Vec<_> = (0..600).map(|_| manifest["layers"][0].clone()).collect();
    serve("many", oci, &changed(&|m| m["layers"] = json!(many)));
    for (tag, part) in [
        ("both", "two ways"),
        ("confused", "declared"),
        ("schema1", "schema 1"),
        ("html", "text/html"),
        ("artifact", "not a container image"),
        ("encrypted", "unsupported media type"),
        ("traversal", "digest"),
        ("few", "layers, the config 3"),
        ("negative", "invalid"),
        ("configsize", "bytes large"),
        ("many", "600 layers"),
    ] {
        let host = TestBox::new();
        says(&host.refused(&registry.name(&format!("app:{tag}"))).await, ErrorKind::Invalid, &[part]);
        assert!(
            !registry.log().iter().any(|s| s.path.contains(image.layers[0].digest().hex())),
            "{tag}: a layer was fetched"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_are_not_what_was_asked_for() {
    let (registry, image) = registry().await;
    let other = Image::new(Vec::new());
    let bytes = other.manifest.clone();
    registry.hook(move |seen| match seen.method.as_str() {
        "GET" if seen.path.contains("/manifests/") => Reply::Content { bytes: bytes.clone(), chunked: false },
        _ => Reply::Serve,
    });
    let by_digest = registry.name(&format!("app@{}", image.digest()));
    let error = TestBox::new().refused(&by_digest).await;
    says(&error, ErrorKind::Mismatch, &["digest mismatch", &image.digest().to_string(), &other.digest().to_string()]);
    let promise = image.digest().to_string();
    let bytes = other.manifest.clone();
    registry.hook(move |seen| match seen.method.as_str() {
        "GET" if seen.path.contains("/manifests/") => Reply::With(
            200,
            vec![("docker-content-digest", promise.clone()), ("content-type", media_type::OCI_MANIFEST.into())],
            bytes.clone(),
        ),
        _ => Reply::Serve,
    });
    says(&TestBox::new().refused(&registry.name("app:v1")).await, ErrorKind::Mismatch, &["digest mismatch"]);
    registry.hook(|seen| {
        if seen.path.contains("/manifests/") { Reply::With(200, vec![], vec![b' '; 5 << 20]) } else { Reply::Serve }
    });
    says(&TestBox::new().refused(&registry.name("app:v1")).await, ErrorKind::Invalid, &["larger than 4194304 bytes"]);
    registry.hook(|seen| {
        let gzip = vec![("content-encoding", "gzip".to_owned())];
        if seen.path.contains("/manifests/") { Reply::With(200, gzip, vec![0x1f, 0x8b]) } else { Reply::Serve }
    });
    says(&TestBox::new().refused(&registry.name("app:v1")).await, ErrorKind::Invalid, &["content encoding"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_a_gigabyte_are_not_read() {
    let (registry, image) = registry().await;
    let pull = async |part: &'static str| {
        registry.hook(move |seen| {
            let hit = seen.method == "GET" && seen.path.contains(part);
            if hit { Reply::Blank(1 << 30) } else { Reply::Serve }
        });
        let begun = Instant::now();
        let error = TestBox::new().refused(&registry.name("app:v1")).await;
        // A gigabyte would take far longer than its first megabytes.
        assert!(begun.elapsed() < Duration::from_secs(20));
        error
    };
    says(&pull("/manifests/").await, ErrorKind::Invalid, &["larger than 4194304 bytes"]);
    let config = image.id().hex().to_owned();
    let error = pull(Box::leak(config.into_boxed_str())).await;
    says(&error, ErrorKind::Invalid, &["larger than"]);
    let layer = image.layers[0].digest().hex().to_owned();
    let error = pull(Box::leak(layer.into_boxed_str())).await;
    says(&error, ErrorKind::Mismatch, &["wrong size", "got 1073741824"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_without_end() {
    let (registry, image) = registry().await;
    let mut inner = (media_type::OCI_MANIFEST, image.manifest.clone());
    for depth in 0..100 {
        let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [descriptor(inner.0, &inner.1)]});
        inner = (media_type::OCI_INDEX, serde_json::to_vec(&index).unwrap());
        registry.push_manifest("app", &format!("deep{depth}"), inner.0, &inner.1);
    }
    TestBox::new().pull(&registry.name("app:deep2")).await.unwrap();
    let error = TestBox::new().refused(&registry.name("app:deep3")).await;
    says(&error, ErrorKind::Invalid, &["nested deeper than 3"]);
    registry.clear_log();
    TestBox::new().refused(&registry.name("app:deep99")).await;
    assert!(registry.count("GET", "/manifests/") <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_lies_about_its_layers() {
    let registry = Registry::new().await;
    let layer = Layer::file("f", 5_000, Packing::Gzip);
    let lie = sha256(b"something else");
    let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [lie]}});
    registry.push("app", "v1", &Image::with_config(vec![layer.clone()], config));
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    says(&error, ErrorKind::Mismatch, &["diff id", &lie.to_string(), &layer.diff_id.to_string()]);
    let windows = Image::for_platform(vec![layer.clone()], "windows", "amd64");
    registry.push("app", "win", &windows);
    says(
        &TestBox::new().refused(&registry.name("app:win")).await,
        ErrorKind::NotFound,
        &["operating system \"windows\" cannot be used"],
    );
    // Right digest, wrong content.
    let garbage = Layer { blob: b"\x1f\x8b\x08\x00 this is no deflate stream".to_vec(), ..layer };
    registry.push("app", "garbage", &Image::new(vec![garbage.clone()]));
    let error = TestBox::new().refused(&registry.name("app:garbage")).await;
    says(&error, ErrorKind::Invalid, &[&garbage.digest().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_kept_elsewhere() {
    let (registry, image) = registry().await;
    let evil = Registry::new().await;
    evil.put("/layer".into(), "application/octet-stream", &image.layers[0].blob);
    let foreign = |url: String| {
        image.clone().edit(move |m| {
            m["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
            m["layers"][0]["urls"] = json!([url]);
        })
    };
    registry.push("app", "http", &foreign(format!("http://{}/layer", evil.address)));
    // What the registry has is taken from there.
    TestBox::new().pull(&registry.name("app:http")).await.unwrap();
    registry.hook_blob(&image.layers[0].digest(), |_| Reply::With(404, vec![], vec![]));
    let error = TestBox::new().refused(&registry.name("app:http")).await;
    says(&error, ErrorKind::Invalid, &["kept outside the registry", "none of its URLs is https"]);
    registry.push("app", "meta", &foreign("https://169.254.169.254/latest".into()));
    let error = TestBox::new().refused(&registry.name("app:meta")).await;
    says(&error, ErrorKind::Invalid, &["(169.254.169.254): it leads into a network"]);
    assert!(evil.log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_of_the_bad_kind() {
    let (registry, image) = registry().await;
    let redirect = |to: String| move |_: &super::rig::Seen| Reply::With(307, vec![("location", to.clone())], vec![]);
    let name = registry.name("app:v1");
    let me = format!("http://{}/v2/app/blobs/{}", registry.address, image.layers[0].digest());
    for (to, part) in [
        (me, "stopped after 10 redirects"),
        ("file:///etc/passwd".into(), "scheme"),
        ("http://169.254.169.254/latest/meta-data".into(), "(169.254.169.254): it leads into a network"),
        ("http://user:pw@127.0.0.1:1/".into(), "user information"),
        (String::new(), "redirect"),
    ] {
        registry.hook_blob(&image.layers[0].digest(), redirect(to.clone()));
        let host = TestBox::new();
        let error = host.refused(&name).await;
        assert!(error.message.contains(part) || to.is_empty(), "{to}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_leaves_nothing() {
    let (registry, _) = registry().await;
    registry.hook(|seen| {
        if seen.path.contains("/blobs/") { Reply::Slow(1_000, Duration::from_millis(20)) } else { Reply::Serve }
    });
    let host = Arc::new(TestBox::new());
    let (pulling, name) = (host.clone(), registry.name("app:v1"));
    registry.push(
        "app",
        "v1",
        &Image::new((0..4).map(|n| Layer::file(&format!("g{n}"), 100_000, Packing::Gzip)).collect()),
    );
    let pull = tokio::spawn(async move { pulling.pull(&name).await });
    let is_under_way = || {
        let arrives =
            |e: &brig_registry::PullEvent| matches!(e, brig_registry::PullEvent::Downloading { current: 1.., .. });
        registry.count("GET", "/blobs/") >= 4 && host.events().iter().any(arrives)
    };
    eventually(|| format!("it does not begin: {:?}", host.events()), is_under_way).await;
    pull.abort();
    assert!(pull.await.unwrap_err().is_cancelled());
    host.assert_clean().await;
    let seen = registry.log().len();
    // Time for more requests, if there are any; that nothing happens has no event.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(registry.log().len(), seen, "requests went on after the pull was dropped");
    registry.hook(|_| Reply::Serve);
    host.pull(&registry.name("app:v1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_failure_is_everyones_and_bounded() {
    let (registry, image) = registry().await;
    registry.hook_blob(&image.layers[0].digest(), |_| Reply::Content { bytes: vec![0; 100], chunked: true });
    let host = Arc::new(TestBox::new());
    let pulls: Vec<_> = (0..10)
        .map(|_| {
            let (host, name) = (host.clone(), registry.name("app:v1"));
            tokio::spawn(async move { host.pull(&name).await })
        })
        .collect();
    for pull in pulls {
        says(&pull.await.unwrap().unwrap_err(), ErrorKind::Mismatch, &["truncated"]);
    }
    host.assert_clean().await;
}

/// Runs the test below in a mount namespace of its own, where a small file system can be mounted.
#[test]
fn a_full_disk() {
    let program = std::env::current_exe().unwrap();
    let test = ["--exact", "faults::inside_a_full_disk", "--ignored", "--nocapture"];
    // The mount goes with the namespace; the directory under it is this test's to remove.
    let dir = tempfile::tempdir().unwrap();
    let unshare = std::process::Command::new("unshare")
        .env("TMPDIR", dir.path())
        .args(["--mount", "--propagation", "private"])
        .arg(program)
        .args(test)
        .output();
    let Ok(output) = unshare else {
        eprintln!("SKIPPED: no unshare program");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{errors}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a file system: run by a_full_disk in a namespace of its own"]
async fn inside_a_full_disk() {
    let registry = Registry::new().await;
    let image =
        Image::new(vec![Layer::file("small", 1_000, Packing::Gzip), Layer::file("large", 16_000_000, Packing::Gzip)]);
    registry.push("app", "v1", &image);
    let host = TestBox::new_on_small_disk("8m");
    let error = host.pull(&registry.name("app:v1")).await.unwrap_err();
    says(&error, ErrorKind::Storage, &["no space left"]);
    host.assert_no_ingest().await;
    host.assert_no_partial().await;
    assert!(host.store.image(&image.id()).is_none());
    let small = Image::new(vec![Layer::file("fits", 1_000_000, Packing::Gzip)]);
    registry.push("app", "small", &small);
    host.pull(&registry.name("app:small")).await.unwrap();
}
