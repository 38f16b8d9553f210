//! Standing in for another registry: fetched once, kept, given out when that one is away.

use brig_registry_server::{Proxy, Settings};
use brig_store::digest;

use crate::rig::{MANIFEST, Rig};

fn cache_of(upstream: &Rig) -> Rig {
    let proxy = Proxy::new(&format!("http://{}", upstream.address), None).unwrap();
    Rig::with(Settings { proxy: Some(proxy), ..Settings::default() })
}

#[test]
fn what_was_fetched_once_is_there_when_the_other_is_away() {
    let upstream = Rig::new();
    let cache = cache_of(&upstream);
    let pushed = upstream.push_image("a/b", "v1", "word");
    let layer = digest::sha256_of(b"word");
    let manifest = cache.get("/v2/a/b/manifests/v1");
    assert_eq!((manifest.status, manifest.header("docker-content-digest")), (200, pushed.as_str()));
    assert_eq!(manifest.body, upstream.get("/v2/a/b/manifests/v1").body);
    assert_eq!(manifest.header("content-type"), MANIFEST);
    assert_eq!(cache.get(&format!("/v2/a/b/blobs/{layer}")).text(), "word");
    // A tag that moves is followed.
    let moved = upstream.push_image("a/b", "v1", "other");
    assert_eq!(cache.get("/v2/a/b/manifests/v1").header("docker-content-digest"), moved);
    assert_eq!(cache.get(&format!("/v2/a/b/manifests/{pushed}")).status, 200);
    // What the other does not have is not there.
    assert_eq!(cache.get("/v2/a/b/manifests/v2").status, 404);
    assert_eq!(cache.get(&format!("/v2/a/b/blobs/{}", digest::sha256_of(b"absent"))).status, 404);
    assert_eq!(cache.get(&format!("/v2/else/where/blobs/{}", digest::sha256_of(b"absent"))).status, 404);
    // What was never asked for stays away with it, and says so; the rest is here, also after a collection.
    cache.collect();
    drop(upstream);
    assert_eq!(cache.get("/v2/a/b/manifests/v1").header("docker-content-digest"), moved);
    assert_eq!(cache.get(&format!("/v2/a/b/manifests/{pushed}")).status, 200);
    assert_eq!(cache.get(&format!("/v2/a/b/blobs/{layer}")).text(), "word");
    let never = cache.get(&format!("/v2/a/b/blobs/{}", digest::sha256_of(b"other")));
    assert_eq!(never.status, 502, "{never:?}");
    assert_eq!(cache.get("/v2/a/b/manifests/v3").status, 502);
    // Nothing is pushed to a cache.
    assert_eq!(cache.ask("POST", "/v2/a/b/blobs/uploads/", &[], b"").refusal(), "405 UNSUPPORTED");
}

#[test]
fn many_who_want_the_same_fetch_it_once() {
    let upstream = Rig::new();
    let cache = cache_of(&upstream);
    let bytes = vec![5u8; 4 << 20];
    let digest = upstream.push_blob("a", &bytes);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(cache.get(&format!("/v2/a/blobs/{digest}")).body == bytes));
        }
    });
    assert!(cache.store.partials().list().unwrap().is_empty());
}

#[test]
fn what_is_damaged_there_is_not_given_out() {
    let upstream = Rig::new();
    let cache = cache_of(&upstream);
    let digest = upstream.push_blob("a", b"content");
    let file = upstream.store.root().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    std::fs::write(&file, b"another").unwrap();
    assert_eq!(cache.get(&format!("/v2/a/blobs/{digest}")).status, 500);
    std::fs::write(&file, b"content").unwrap();
    assert_eq!(cache.get(&format!("/v2/a/blobs/{digest}")).text(), "content");
}
