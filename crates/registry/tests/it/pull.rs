//! Pulls that go well: formats, platforms, sharing, resumption, mirrors, progress.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brig_oci::{Digest, Platform, media_type};
use brig_registry::{Config, ErrorKind, PullEvent, RegistrySettings};
use brig_store::{CheckOptions, Packed};
use brig_tests::corpus::liar;
use brig_tests::corpus::tar::Tar;
use serde_json::json;

use super::rig::image::descriptor;
use super::rig::{Image, Layer, Packing, Registry, Reply, TestBox, eventually, quick};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_every_packing() {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    let host = TestBox::new();
    let pulled = host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!((&pulled.image_id, &pulled.manifest_digest, pulled.up_to_date), (&image.id(), &image.digest(), false));
    assert_eq!(host.store.read_blob(&image.id()).unwrap(), image.config);
    assert_eq!(host.store.read_blob(&image.digest()).unwrap(), image.manifest);
    assert!(host.store.image(&image.id()).is_some());
    assert_eq!(host.layers(), 3);
    host.assert_no_ingest().await;

    // Once more: nothing is fetched, not even the manifest.
    registry.clear_log();
    let again = host.pull(&registry.name("app:v1")).await.unwrap();
    assert!(again.up_to_date);
    assert_eq!(registry.count("GET", ""), 0, "{:?}", registry.log());

    // By digest too, from an empty store.
    let host = TestBox::new();
    let by_digest = host.pull(&registry.name(&format!("app@{}", image.digest()))).await.unwrap();
    assert_eq!(by_digest.image_id, image.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_is_what_docker_shows() {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    let slow = image.layers[0].digest();
    registry.hook_blob(&slow, |_| Reply::Slow(2_000, Duration::from_millis(8)));
    let host = TestBox::new();
    let begun = Instant::now();
    host.pull(&registry.name("app:v1")).await.unwrap();
    let most = begun.elapsed().as_millis() as usize / 100 + 2;
    let events = host.events();
    assert_eq!(events[0], PullEvent::Resolved { tag: "v1".into(), repository: "app".into() });
    let id = slow.hex()[..12].to_owned();
    let size = image.layers[0].blob.len() as u64;
    assert_eq!(events[1], PullEvent::LayerQueued { id: id.clone(), size });
    let of_slow: Vec<&PullEvent> = events
        .iter()
        .filter(|e| matches!(e, PullEvent::Downloading { id: i, .. } | PullEvent::DownloadComplete { id: i } | PullEvent::PullComplete { id: i } if *i == id))
        .collect();
    let steps = of_slow.len() - 2;
    // About 0.9 seconds of download, and however much longer on a busy machine: one event for each tenth of a second.
    assert!((2..=most).contains(&steps), "{steps} download events: {of_slow:?}");
    assert_eq!(
        of_slow[steps..],
        [&PullEvent::DownloadComplete { id: id.clone() }, &PullEvent::PullComplete { id: id.clone() }]
    );
    let completes: Vec<String> = events
        .iter()
        .filter_map(|e| if let PullEvent::PullComplete { id } = e { Some(id.clone()) } else { None })
        .collect();
    let in_order: Vec<String> = image.layers.iter().map(|l| l.digest().hex()[..12].to_owned()).collect();
    assert_eq!(completes, in_order, "layers are committed bottom first");
    assert_eq!(events.last(), Some(&PullEvent::Digest(image.digest())));

    host.events.lock().unwrap().clear();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!(host.events().len(), 2, "of an image that is here nothing is told: {:?}", host.events());
    let again = Image::new(image.layers.iter().cloned().chain([Layer::file("more", 10, Packing::Gzip)]).collect());
    registry.push("app", "v2", &again);
    host.events.lock().unwrap().clear();
    host.pull(&registry.name("app:v2")).await.unwrap();
    assert_eq!(host.events().iter().filter(|e| matches!(e, PullEvent::AlreadyExists { .. })).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_lead_to_the_platform() {
    let registry = Registry::new().await;
    let amd = Image::new(vec![Layer::file("amd", 10, Packing::Gzip)]);
    let arm = Image::for_platform(vec![Layer::file("arm", 10, Packing::Gzip)], "linux", "arm64");
    for image in [&amd, &arm] {
        registry.push("app", "unused", image);
    }
    let mut attestation = amd.entry("unknown", "unknown");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let list = json!({
        "schemaVersion": 2, "mediaType": media_type::DOCKER_INDEX,
        "manifests": [attestation, arm.entry("linux", "arm64"), amd.entry("linux", "amd64"), amd.entry("windows", "amd64")],
    });
    let list = serde_json::to_vec(&list).unwrap();
    registry.push_manifest("app", "multi", media_type::DOCKER_INDEX, &list);
    // And an index around it, whose entry says nothing about platforms.
    let outer = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": [descriptor(media_type::DOCKER_INDEX, &list)]});
    let outer = serde_json::to_vec(&outer).unwrap();
    registry.push_manifest("app", "outer", media_type::OCI_INDEX, &outer);

    let host = TestBox::new();
    let platform = |text: &str| Platform::parse(text).unwrap();
    for (tag, top) in [("multi", &list), ("outer", &outer)] {
        let name = registry.name(&format!("app:{tag}"));
        let pulled = host.pull_as(&name, None, Some(&platform("linux/amd64"))).await.unwrap();
        assert_eq!((pulled.image_id, pulled.manifest_digest), (amd.id(), super::rig::image::sha256(top)));
        let pulled = host.pull_as(&name, None, Some(&platform("linux/arm64/v8"))).await.unwrap();
        assert_eq!(pulled.image_id, arm.id());
        let error = host.pull_as(&name, None, Some(&platform("linux/s390x"))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(
            error.message.starts_with("no matching manifest for linux/s390x in the manifest list entries"),
            "{error}"
        );
        assert!(error.message.contains("linux/arm64, linux/amd64"), "{error}");
    }
    let error = host
        .pull_as(&registry.name(&format!("app@{}", arm.digest())), None, Some(&platform("linux/amd64")))
        .await
        .unwrap_err();
    assert!(
        error.message.contains("does not provide the specified platform: wanted linux/amd64, actual: linux/arm64"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_download_goes_on_where_it_stopped() {
    let registry = Registry::new().await;
    let image = Image::new(vec![Layer::file("big", 2_000_000, Packing::Gzip)]);
    registry.push("app", "v1", &image);
    let size = image.layers[0].blob.len();
    for percent in [1, 50, 99] {
        let cut = size * percent / 100;
        for ranges in [true, false] {
            registry.clear_log();
            registry.hook_blob(&image.layers[0].digest(), move |seen| {
                match (seen.nth, ranges) {
                    (0, _) => Reply::Cut(cut),
                    (_, true) => Reply::Serve,
                    // No ranges: from the start, and cut once more on the way.
                    (1, false) => Reply::WholeCut(cut + (size - cut) / 2),
                    (_, false) => Reply::Whole,
                }
            });
            let host = TestBox::new();
            host.pull(&registry.name("app:v1")).await.unwrap();
            let blobs: Vec<_> =
                registry.log().into_iter().filter(|s| s.path.contains(image.layers[0].digest().hex())).collect();
            assert_eq!(blobs.len(), if ranges { 2 } else { 3 }, "cut at {percent} %, ranges: {ranges}");
            let from: usize = blobs[1]
                .range
                .as_ref()
                .unwrap()
                .strip_prefix("bytes=")
                .unwrap()
                .strip_suffix('-')
                .unwrap()
                .parse()
                .unwrap();
            assert!(from <= cut && from + 20_000 >= cut, "cut at {cut}, resumed at {from}");
            assert!(host.events().iter().any(|e| matches!(e, PullEvent::Retrying { in_seconds: 1, .. })));
            assert_eq!(host.layers(), 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_again_and_again_still_ends() {
    let registry = Registry::new().await;
    let image = Image::new(vec![Layer::file("big", 400_000, Packing::Plain)]);
    registry.push("app", "v1", &image);
    registry.hook_blob(&image.layers[0].digest(), |_| Reply::Cut(40_000));
    let host = TestBox::new();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert!(registry.count("GET", "/blobs/") >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_ranges_are_wrong_is_read_from_the_start() {
    let registry = Registry::new().await;
    let image = Image::new(vec![Layer::file("big", 400_000, Packing::Gzip)]);
    registry.push("app", "v1", &image);
    let blob = image.layers[0].blob.clone();
    registry.hook_blob(&image.layers[0].digest(), move |seen| match (seen.nth, &seen.range) {
        (0, _) => Reply::Cut(100_000),
        (_, Some(_)) => {
            let range = format!("bytes 7-{}/{}", blob.len() - 1, blob.len());
            Reply::With(206, vec![("content-range", range)], blob[7..].to_vec())
        }
        _ => Reply::Serve,
    });
    let host = TestBox::new();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!(registry.log().last().unwrap().range, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_pulls_at_once_download_once() {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    registry.push("other", "v1", &image);
    registry.hook(|seen| {
        if seen.path.contains("/blobs/") { Reply::Slow(20_000, Duration::from_millis(10)) } else { Reply::Serve }
    });
    let host = Arc::new(TestBox::new());
    let pulls: Vec<_> = (0..10)
        .map(|nth| {
            let (host, name) = (host.clone(), registry.name(if nth % 2 == 0 { "app:v1" } else { "other:v1" }));
            tokio::spawn(async move { host.pull(&name).await })
        })
        .collect();
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().image_id, image.id());
    }
    for layer in &image.layers {
        assert_eq!(registry.count("GET", layer.digest().hex()), 1);
    }
    host.assert_no_ingest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_download_outlives_the_pull_that_began_it() {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    registry.hook(|seen| {
        if seen.path.contains("/blobs/") { Reply::Slow(5_000, Duration::from_millis(10)) } else { Reply::Serve }
    });
    let host = Arc::new(TestBox::new());
    let begin = |name: String| {
        let host = host.clone();
        tokio::spawn(async move { host.pull(&name).await })
    };
    let first = begin(registry.name("app:v1"));
    let asked = || registry.count("GET", image.layers[0].digest().hex());
    eventually(|| "the layer is not asked for".into(), || asked() > 0).await;
    let second = begin(registry.name("app:v1"));
    let joined = || {
        let queued = |e: &&PullEvent| matches!(e, PullEvent::LayerQueued { .. });
        host.events().iter().filter(queued).count() == 2 * image.layers.len()
    };
    eventually(|| format!("the second does not join in: {:?}", host.events()), joined).await;
    first.abort();
    second.await.unwrap().unwrap();
    assert_eq!(registry.count("GET", image.layers[0].digest().hex()), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_downloads_at_once_than_allowed() {
    let registry = Registry::new().await;
    let image = Image::new((0..6).map(|n| Layer::file(&format!("f{n}"), 60_000, Packing::Plain)).collect());
    registry.push("app", "v1", &image);
    registry.hook(|seen| {
        if seen.path.contains("/blobs/") { Reply::Slow(10_000, Duration::from_millis(10)) } else { Reply::Serve }
    });
    let host = TestBox::with(Config { max_concurrent_downloads: 2, ..quick() });
    host.pull(&registry.name("app:v1")).await.unwrap();
    let most = registry.most_slow_answers();
    assert!((1..=2).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_the_next_one_stands_in() {
    let image = Image::small();
    let (absent, lying, good) = (Registry::new().await, Registry::new().await, Registry::new().await);
    for registry in [&lying, &good] {
        registry.push("library/app", "latest", &image);
    }
    // The first mirror asks for a password that is not for it, the second serves one wrong layer, the third everything.
    absent.hook(|_| Reply::With(401, vec![("www-authenticate", "Basic".into())], Vec::new()));
    lying.hook_blob(&image.layers[1].digest(), |_| Reply::Content { bytes: vec![1; 5000], chunked: true });
    let mirrors = [&absent, &lying, &good].map(|r| format!("http://{}/", r.address)).to_vec();
    let host = TestBox::with(Config { mirrors, ..quick() });
    let auth = brig_registry::Auth { username: "hub".into(), password: "CANARY".into(), ..Default::default() };
    let pulled = host.pull_as("app", Some(&auth), None).await.unwrap();
    assert_eq!(pulled.image_id, image.id());
    assert!(absent.count("HEAD", "/v2/library/app/manifests/latest") > 0);
    assert_eq!(good.count("GET", "/blobs/"), 1, "only the layer that the second mirror had wrong");
    for registry in [&absent, &lying, &good] {
        assert!(registry.log().iter().all(|s| s.authorization.is_none()), "a mirror got Docker Hub's credentials");
    }
    host.assert_no_ingest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_registry_can_have_mirrors() {
    let image = Image::small();
    let (home, own, all) = (Registry::new().await, Registry::new().await, Registry::new().await);
    for registry in [&home, &own, &all] {
        registry.push("team/app", "v1", &image);
    }
    let auth = brig_registry::Auth { username: "u".into(), password: "CANARY".into(), ..Default::default() };
    let name = home.name("team/app:v1");
    let settings =
        [format!("{}=mirror=http://{}", home.address, own.address), format!("*=mirror=http://{}", all.address)];
    let with = || TestBox::with(Config { registries: RegistrySettings::parse(&settings).unwrap(), ..quick() });
    // Its own mirror has everything.
    with().pull_as(&name, Some(&auth), None).await.unwrap();
    assert!(home.log().is_empty() && all.log().is_empty() && own.count("GET", "/blobs/") == 4);
    // It does not: the one of all registries is told which one is meant.
    own.hook(|_| Reply::With(404, vec![], vec![]));
    with().pull_as(&name, Some(&auth), None).await.unwrap();
    let namespace = format!("?ns={}", home.address.to_string().replace(':', "%3A"));
    assert!(home.log().is_empty() && all.log().iter().all(|seen| seen.path.ends_with(&namespace)));
    // Neither does, in three different ways: the registry itself, the only one to be told who asks.
    for broken in [0, 1, 2] {
        for mirror in [&own, &all] {
            mirror.hook(move |seen| match broken {
                0 => Reply::With(500, vec![], vec![]),
                1 => Reply::With(429, vec![("retry-after", "900".into())], vec![]),
                _ if seen.path.contains("/blobs/") => Reply::Content { bytes: vec![1; 100], chunked: true },
                _ => Reply::Serve,
            });
        }
        with().pull_as(&name, Some(&auth), None).await.unwrap();
        assert_eq!(home.count("GET", "/blobs/"), 4 * (broken + 1), "{broken}");
    }
    assert!([&own, &all].iter().all(|mirror| mirror.log().iter().all(|seen| seen.authorization.is_none())));
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_digests_and_empty_images() {
    use sha2::Digest as _;
    let registry = Registry::new().await;
    let layer = Layer::file("f", 1000, Packing::Gzip);
    let long = Digest::from_sha512(sha2::Sha512::digest(&layer.blob).into());
    let image = Image::new(vec![layer.clone()]).edit(|m| m["layers"][0]["digest"] = json!(long.to_string()));
    registry.push("app", "v1", &image);
    registry.put(format!("/v2/app/blobs/{long}"), "application/octet-stream", &layer.blob);
    let host = TestBox::new();
    host.pull(&registry.name("app:v1")).await.unwrap();
    let empty = Image::new(Vec::new());
    registry.push("app", "empty", &empty);
    assert_eq!(host.pull(&registry.name("app:empty")).await.unwrap().image_id, empty.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_layer_stays_out_of_memory() {
    let registry = Registry::new().await;
    // 192 MiB of zeros in a tar: small on the wire, large unpacked.
    let image = Image::new(vec![{
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(192 << 20);
        tar.append_data(&mut header, "zeros", &vec![0; 192 << 20][..]).unwrap();
        Layer::of(&tar.into_inner().unwrap(), Packing::Gzip)
    }]);
    registry.push("app", "v1", &image);
    let host = TestBox::new();
    host.pull(&registry.name("app:v1")).await.unwrap();
    let size = host.store.layer(&image.layers[0].diff_id).unwrap().size_bytes;
    assert!(size >= 192 << 20, "{size}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_serves_images_that_pack_it_differently_if_it_is_what_it_claims() {
    let registry = Registry::new().await;
    let of = |content: &[u8], packing| Layer::of(&Tar::new().file("login", content).finish(), packing);
    let image = |packing| Image::new(vec![of(b"right", packing), Layer::file("above", 100, Packing::Gzip)]);
    let (gzip, zstd) = (image(Packing::Gzip), image(Packing::Zstd));
    registry.push("app", "gzip", &gzip);
    registry.push("app", "zstd", &zstd);
    let fetched = |layer: &Layer| registry.count("GET", layer.digest().hex());
    let login = |host: &TestBox| {
        let diff = host.store.root().join("layers").join(gzip.layers[0].diff_id.hex()).join("diff");
        std::fs::read_to_string(diff.join("login")).unwrap()
    };

    let host = TestBox::new();
    host.pull(&registry.name("app:zstd")).await.unwrap();
    host.pull(&registry.name("app:gzip")).await.unwrap();
    assert_eq!((fetched(&zstd.layers[0]), fetched(&gzip.layers[0]), fetched(&gzip.layers[1])), (1, 0, 1));

    // The process that unpacked the one was taken over, and said that it unpacked what the other image has.
    for both_at_once in [false, true] {
        let host = TestBox::new();
        let claim = Tar::new().file("login", b"right").finish();
        let mut ingest = host.store.begin_layer().unwrap();
        let poison = Tar::new().file("login", b"wrong").finish();
        ingest.unpack_telling(&poison, |_| (liar::summary(&claim, 5, false), Vec::new())).unwrap();
        ingest.came_as(&zstd.layers[0].digest());
        registry.clear_log();
        if both_at_once {
            let held = registry.name("app:gzip");
            let (arrived, mut arrives) = tokio::sync::mpsc::unbounded_channel();
            registry.hook_blob(&gzip.layers[0].digest(), move |_| {
                arrived.send(()).ok();
                Reply::Slow(100, Duration::from_millis(50))
            });
            let (pulled, ()) = tokio::join!(host.pull(&held), async {
                arrives.recv().await.unwrap();
                host.store.commit_layer(ingest, None).unwrap();
            });
            pulled.unwrap();
        } else {
            host.store.commit_layer(ingest, None).unwrap();
            host.pull(&registry.name("app:zstd")).await.unwrap();
            assert_eq!((fetched(&zstd.layers[0]), login(&host).as_str()), (0, "wrong"));
            host.pull(&registry.name("app:gzip")).await.unwrap();
        }
        assert_eq!((fetched(&gzip.layers[0]), login(&host).as_str()), (1, "right"));
        host.pull(&registry.name("app:zstd")).await.unwrap();
        assert_eq!((fetched(&zstd.layers[0]), login(&host).as_str()), (0, "right"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_brings_back_what_is_damaged_of_a_layers_compressed_form() {
    let registry = Registry::new().await;
    let lines: String = (0..20_000u64).map(|nth| format!("{:x}\n", nth.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let tar = Tar::new().file("lines", lines.as_bytes()).finish();
    let known = Layer { blob: brig_tests::image::gzip_program(&tar, 6), ..Layer::of(&tar, Packing::Gzip) };
    for (layer, name) in [(known.clone(), known.digest().hex().to_owned()), {
        let zstd = Layer::of(&tar, Packing::Zstd);
        let name = format!("{}.blob", zstd.digest().hex());
        (zstd, name)
    }] {
        let (digest, size) = (layer.digest(), layer.blob.len() as u64);
        let image = Image::new(vec![layer.clone()]);
        registry.push("app", "v1", &image);
        let host = TestBox::new();
        host.pull(&registry.name("app:v1")).await.unwrap();
        Packed::of(&host.store).wait();
        let path = host.store.root().join("packed").join(&name);
        let read = || {
            let mut bytes = Vec::new();
            Packed::of(&host.store).blob(&digest).map_err(std::io::Error::other)?.read_to_end(&mut bytes).map(|_| bytes)
        };
        assert!(read().unwrap() == layer.blob);
        let flip = || {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x55;
            std::fs::write(&path, bytes).unwrap();
        };
        for damage in
            [&|| std::fs::remove_file(&path).unwrap(), &|| std::fs::write(&path, "x").unwrap(), &flip] as [&dyn Fn(); 3]
        {
            damage();
            let error = read().unwrap_err();
            registry.clear_log();
            host.events.lock().unwrap().clear();
            let pulled = host.pull(&registry.name("app:v1")).await.unwrap();
            assert!(read().unwrap() == layer.blob, "{error}");
            assert_eq!((registry.count("GET", digest.hex()), pulled.up_to_date), (1, false), "{error}");
            let id = digest.hex()[..12].to_owned();
            assert!(host.events().contains(&PullEvent::LayerQueued { id, size }), "{:?}", host.events());
            Packed::of(&host.store).wait();
            assert!(read().unwrap() == layer.blob);
            host.pull(&registry.name("app:v1")).await.unwrap();
            assert_eq!(registry.count("GET", digest.hex()), 1, "once is enough");
        }
        // What a check put into the quarantine is brought back as well.
        flip();
        let mut found = Vec::new();
        let options = CheckOptions { full: true, repair: true };
        host.store.upkeep().check(options, &mut |finding| found.push(finding)).unwrap();
        assert!(found.iter().any(|finding| finding.kind == "packed"), "{found:?}");
        host.pull(&registry.name("app:v1")).await.unwrap();
        assert!(read().unwrap() == layer.blob);
    }
}
