//! Downloads that end early and go on later, also in another process, and large blobs in parts side by side: nothing is
//! asked for twice, and nothing wrong is believed.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use brig_oci::Reference;
use brig_registry::{Config, ErrorKind, fetch_blob};

use super::rig::{Image, Layer, Packing, Registry, Reply, Seen, TestBox, eventually, quick};

/// One incompressible layer of so many bytes, as `app:v1`.
async fn registry(length: usize) -> (Registry, Image) {
    let registry = Registry::new().await;
    let image = Image::new(vec![Layer::file("big", length, Packing::Gzip)]);
    registry.push("app", "v1", &image);
    (registry, image)
}

/// Settings that fetch everything in parts of 256 KiB.
fn in_parts() -> Config {
    Config { ranges_above: 1_000_000, range_size: 256 << 10, ..quick() }
}

fn part_of(seen: &Seen, size: usize) -> Range<usize> {
    let Some((start, end)) = seen.range.as_ref().and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) else {
        return 0..size;
    };
    start.parse().unwrap()..end.parse::<usize>().map_or(size, |end| end + 1)
}

/// The parts of the layer that were asked for, in order of their place.
fn parts(registry: &Registry, layer: &Layer) -> Vec<Range<usize>> {
    let log = registry.log();
    let asked = log.iter().filter(|s| s.method == "GET" && s.path.contains(layer.digest().hex()));
    let mut parts: Vec<_> = asked.map(|seen| part_of(seen, layer.blob.len())).collect();
    parts.sort_by_key(|part| part.start);
    parts
}

/// What a kill at this moment leaves of the unfinished blobs, in a fresh store.
fn killed(host: &TestBox, config: Config) -> TestBox {
    let later = TestBox::with(config);
    for entry in std::fs::read_dir(host.dir.path().join("v1/partial")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), later.dir.path().join("v1/partial").join(entry.file_name())).unwrap();
    }
    later
}

/// Waits until so many bytes of the only unfinished blob are on the disk.
async fn arrived(host: &TestBox, length: u64) {
    let list = || host.store.partials().list().unwrap();
    eventually(|| format!("{:?}", list()), || list().iter().any(|partial| partial.len >= length)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pull_goes_on_where_it_was() {
    let (registry, image) = registry(3_000_000).await;
    let layer = &image.layers[0];
    for percent in [1, 50, 99] {
        let cut = layer.blob.len() * percent / 100;
        registry.hook_blob(&layer.digest(), move |seen| if seen.nth == 0 { Reply::Cut(cut) } else { Reply::Hang });
        registry.clear_log();
        let host = Arc::new(TestBox::new());
        let (pulling, name) = (host.clone(), registry.name("app:v1"));
        let pull = tokio::spawn(async move { pulling.pull(&name).await });
        arrived(&host, cut as u64).await;
        // It has asked for the rest, and asks for nothing more: what comes from here on is the other's.
        let asked = || registry.count("GET", layer.digest().hex());
        eventually(|| format!("{} requests", asked()), || asked() == 2).await;
        let later = killed(&host, quick());
        pull.abort();
        registry.hook(|_| Reply::Serve);
        registry.clear_log();
        later.pull(&registry.name("app:v1")).await.unwrap();
        let again = parts(&registry, layer);
        assert_eq!(again, [cut..layer.blob.len()], "cut at {percent} %");
        later.assert_no_partial().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_pull_is_gone_on_with() {
    let (registry, image) = registry(400_000).await;
    let layer = &image.layers[0];
    registry.hook_blob(&layer.digest(), |seen| if seen.nth == 0 { Reply::Cut(300_000) } else { Reply::Cut(0) });
    let host = TestBox::new();
    assert_eq!(host.refused(&registry.name("app:v1")).await.kind, ErrorKind::Network);
    registry.hook(|_| Reply::Serve);
    registry.clear_log();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!(parts(&registry, layer), [300_000..layer.blob.len()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_whole_is_not_fetched_and_what_is_wrong_is_fetched_again() {
    let (registry, image) = registry(400_000).await;
    let layer = &image.layers[0];
    let name = format!("sha256-{}", layer.digest().hex());
    let host = TestBox::new();
    host.store.partials().open(&name).unwrap().append(&layer.blob).unwrap();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!(parts(&registry, layer), []);
    // Part of it is not what it should be, as after a power cut.
    let host = TestBox::new();
    host.store.partials().open(&name).unwrap().append(&vec![7; 200_000]).unwrap();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!(parts(&registry, layer), [0..layer.blob.len(), 200_000..layer.blob.len()]);
    // More than there can be.
    let host = TestBox::new();
    host.store.partials().open(&name).unwrap().append(&vec![7; 500_000]).unwrap();
    host.pull(&registry.name("app:v1")).await.unwrap();
    // The registry is wrong as well: once again, and no more.
    registry.clear_log();
    registry.hook_blob(&layer.digest(), {
        let wrong = vec![8; layer.blob.len()];
        move |_| Reply::Content { bytes: wrong.clone(), chunked: false }
    });
    let host = TestBox::new();
    host.store.partials().open(&name).unwrap().append(&vec![7; 200_000]).unwrap();
    assert_eq!(host.refused(&registry.name("app:v1")).await.kind, ErrorKind::Mismatch);
    assert_eq!(parts(&registry, layer).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_there_twice_is_fetched_once() {
    let registry = Registry::new().await;
    let layer = Layer::file("twin", 300_000, Packing::Zstd);
    let image = Image::new(vec![layer.clone(), Layer::file("other", 1_000, Packing::Gzip), layer.clone()]);
    registry.push("app", "v1", &image);
    let host = TestBox::new();
    host.pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!((parts(&registry, &layer).len(), host.layers()), (1, 3));
    host.assert_no_partial().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_is_fetched_in_parts_side_by_side() {
    let (registry, image) = registry(3_000_000).await;
    let layer = &image.layers[0];
    registry.hook_blob(&layer.digest(), |seen| match seen.range.as_deref() {
        Some("bytes=0-262143") => Reply::Slow(10_000, Duration::from_millis(50)),
        _ => Reply::Serve,
    });
    let host = Arc::new(TestBox::with(in_parts()));
    let (pulling, name) = (host.clone(), registry.name("app:v1"));
    let pull = tokio::spawn(async move { pulling.pull(&name).await });
    // The others are all there while the first is still coming.
    arrived(&host, layer.blob.len() as u64).await;
    assert!(!pull.is_finished());
    let later = killed(&host, in_parts());
    pull.await.unwrap().unwrap();
    let expected: Vec<_> =
        (0..layer.blob.len()).step_by(262_144).map(|at| at..(at + 262_144).min(layer.blob.len())).collect();
    assert_eq!(parts(&registry, layer), expected);
    // Killed in that moment it asks for what was missing of the first, and nothing else.
    registry.clear_log();
    registry.hook(|_| Reply::Serve);
    later.pull(&registry.name("app:v1")).await.unwrap();
    let again = parts(&registry, layer);
    assert!(again.len() == 1 && again[0].end == 262_144, "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_break_are_asked_for_again() {
    let (registry, image) = registry(3_000_000).await;
    let layer = &image.layers[0];
    registry.hook_blob(&layer.digest(), |seen| match seen.nth % 4 {
        1 => Reply::Cut(100_000),
        2 => Reply::With(503, vec![], vec![]),
        _ => Reply::Serve,
    });
    let host = TestBox::with(in_parts());
    host.pull(&registry.name("app:v1")).await.unwrap();
    host.assert_no_partial().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_sends_it_whole() {
    let (registry, image) = registry(3_000_000).await;
    let layer = &image.layers[0];
    registry.hook_blob(&layer.digest(), |_| Reply::Whole);
    TestBox::with(in_parts()).pull(&registry.name("app:v1")).await.unwrap();
    assert_eq!(parts(&registry, layer), [0..262_144], "asked for a part, given the whole");
    // One that changes its mind.
    registry.clear_log();
    registry.hook_blob(&layer.digest(), |seen| if seen.nth < 3 { Reply::Serve } else { Reply::Whole });
    TestBox::with(in_parts()).pull(&registry.name("app:v1")).await.unwrap();
    // One whose parts are not what was asked for.
    let blob = layer.blob.clone();
    registry.clear_log();
    registry.hook_blob(&layer.digest(), move |seen| match (&seen.range, seen.nth) {
        (Some(_), 1..) => {
            let range = format!("bytes 7-{}/{}", blob.len() - 1, blob.len());
            Reply::With(206, vec![("content-range", range)], blob[7..].to_vec())
        }
        _ => Reply::Serve,
    });
    TestBox::with(in_parts()).pull(&registry.name("app:v1")).await.unwrap();
    // One that sends more than was asked for.
    let blob = layer.blob.clone();
    registry.clear_log();
    registry.hook_blob(&layer.digest(), move |seen| match part_of(seen, blob.len()) {
        part if seen.range.is_some() => {
            let range = format!("bytes {}-{}/{}", part.start, blob.len() - 1, blob.len());
            Reply::With(206, vec![("content-range", range)], blob[part.start..].to_vec())
        }
        _ => Reply::Serve,
    });
    TestBox::with(in_parts()).pull(&registry.name("app:v1")).await.unwrap();
}

/// What stands in for a registry fetches blobs as they are, and goes on with them where they broke off.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_passed_on_is_gone_on_with_where_it_broke() {
    let (registry, image) = registry(3_000_000).await;
    let layer = &image.layers[0];
    let (digest, length) = (layer.digest(), layer.blob.len());
    let host = TestBox::new();
    let name = Reference::parse(&registry.name("app:v1")).unwrap();
    // Twice in the midst, by a server that serves ranges and by one that does not.
    for (nth, ranges) in [true, false].into_iter().enumerate() {
        registry.clear_log();
        registry.hook_blob(&digest, move |seen| match (seen.nth, ranges) {
            (0, _) => Reply::Cut(1_000_000),
            (1, true) => Reply::Cut(500_000),
            (1, false) => Reply::WholeCut(2_000_000),
            (_, true) => Reply::Serve,
            (_, false) => Reply::Whole,
        });
        let partial = Arc::new(host.store.partials().open(&format!("blob{nth}")).unwrap());
        let begun = AtomicUsize::new(0);
        let count = |total: Option<u64>| {
            assert_eq!(total, Some(length as u64));
            begun.fetch_add(1, Ordering::Relaxed);
        };
        fetch_blob(&host.client, &name, &digest, &partial, None, &count).await.unwrap();
        partial.verify(&digest).unwrap();
        assert_eq!((registry.count("GET", digest.hex()), begun.into_inner()), (3, 1));
        let asked: Vec<bool> = registry.log().iter().map(|seen| seen.range.is_some()).collect();
        assert_eq!(asked, [false, true, true]);
    }
    // Another blob than it was.
    registry.clear_log();
    registry.hook_blob(&digest, move |seen| match seen.nth {
        0 => Reply::Cut(1_000_000),
        _ => Reply::Content { bytes: vec![0; 2_000_000], chunked: false },
    });
    let partial = Arc::new(host.store.partials().open("other").unwrap());
    let error = fetch_blob(&host.client, &name, &digest, &partial, None, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Mismatch, "{error}");
}
