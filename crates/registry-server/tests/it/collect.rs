//! Collection while serving: what nothing needs goes, what somebody was told of stays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brig_registry_server::Upkeep;
use brig_store::digest;

use crate::rig::{MANIFEST, Rig};

#[test]
fn what_nothing_needs_goes_and_what_is_needed_stays() {
    let rig = Rig::new();
    let orphan = rig.push_blob("a", b"orphan");
    let kept = rig.push_image("a", "v1", "kept");
    let gone = rig.push_image("a", "v2", "gone");
    rig.ask("DELETE", &format!("/v2/a/manifests/{gone}"), &[], b"");
    let shared = rig.push_blob("b", b"gone");
    let file = |digest: &str| rig.store.root().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let upload = rig.begin("a");
    rig.ask("PATCH", &upload, &[], b"abc");
    // Within the grace everything stays.
    rig.registry.tidy(&Upkeep::default()).unwrap();
    assert!(file(&orphan).exists() && file(&shared).exists() && rig.get(&upload).status == 204);
    rig.collect();
    assert_eq!(rig.get(&format!("/v2/a/blobs/{orphan}")).status, 404);
    assert_eq!(rig.get(&upload).status, 404);
    for digest in [&orphan, &shared, &gone] {
        assert!(!file(digest).exists(), "{digest}");
    }
    assert!(rig.store.partials().list().unwrap().is_empty());
    assert_eq!(rig.get("/v2/a/manifests/v1").header("docker-content-digest"), kept);
    assert_eq!(rig.get(&format!("/v2/a/blobs/{}", digest::sha256_of(b"kept"))).text(), "kept");
}

#[test]
fn what_only_a_deleted_manifest_needed_goes_at_once_but_for_what_was_spoken_of_since() {
    let rig = Rig::new();
    let deleted = rig.push_image("a", "v1", "goes");
    let asked = rig.push_image("a", "v2", "asked for");
    let kept = rig.push_image("a", "v3", "kept");
    let layer = |word: &str| digest::sha256_of(word.as_bytes());
    let blob = |word: &str| format!("/v2/a/blobs/{}", layer(word));
    // Somebody who is about to push an image with that layer.
    assert_eq!(rig.ask("HEAD", &blob("asked for"), &[], b"").status, 200);
    for digest in [&deleted, &asked] {
        assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").status, 202);
    }
    // Until the next collection it is there for those who know it.
    assert_eq!(rig.get(&blob("goes")).text(), "goes");
    rig.registry.tidy(&Upkeep::default()).unwrap();
    assert_eq!(rig.get(&blob("goes")).status, 404);
    assert!(!rig.store.root().join("blobs/sha256").join(layer("goes").hex()).exists());
    assert_eq!(rig.get(&blob("asked for")).text(), "asked for");
    assert_eq!(rig.get("/v2/a/manifests/v3").header("docker-content-digest"), kept);
    assert_eq!(rig.get(&blob("kept")).text(), "kept");
}

#[test]
fn untagged_manifests_go_only_if_asked_for() {
    let rig = Rig::new();
    let text = rig.image("a", "old", "");
    let old = digest::sha256_of(text.as_bytes());
    assert_eq!(rig.put_manifest("a", "v1", MANIFEST, &text).status, 201);
    rig.push_image("a", "v1", "new");
    let signature = rig.image(
        "a",
        "sig",
        &format!("\"subject\":{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{old}\",\"size\":1}},"),
    );
    let signature_digest = digest::sha256_of(signature.as_bytes());
    assert_eq!(rig.put_manifest("a", signature_digest.as_str(), MANIFEST, &signature).status, 201);
    let status = |digest: &brig_oci::Digest| rig.get(&format!("/v2/a/manifests/{digest}")).status;
    rig.collect();
    assert_eq!((status(&old), status(&signature_digest)), (200, 200));
    let upkeep = Upkeep { grace: Duration::ZERO, untagged: true, ..Upkeep::default() };
    rig.registry.tidy(&upkeep).unwrap();
    // The signature went with what it was about.
    assert_eq!((status(&old), status(&signature_digest)), (404, 404));
    assert_eq!(rig.get("/v2/a/manifests/v1").status, 200);
}

/// Images are pushed while collections run one after the other; whatever a client was told is there must be there when the
/// manifest comes. The grace is that of a real registry, so links stay; what is tried is the race with the files.
#[test]
fn pushes_beside_collections_lose_nothing() {
    let rig = Rig::new();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                rig.registry
                    .tidy(&Upkeep {
                        grace: Duration::from_secs(5),
                        uploads: Duration::from_secs(60),
                        ..Upkeep::default()
                    })
                    .unwrap();
            }
        });
        let pushers: Vec<_> = (0..4)
            .map(|pusher| {
                let rig = &rig;
                scope.spawn(move || {
                    for round in 0..25 {
                        let repository = format!("r{pusher}");
                        // The same content from everybody, so that files come and go under each other's hands.
                        let word = format!("word {}", round % 3);
                        let digest = rig.push_image(&repository, "v", &word);
                        let layer = digest::sha256_of(word.as_bytes());
                        assert_eq!(rig.get(&format!("/v2/{repository}/blobs/{layer}")).text(), word);
                        assert_eq!(
                            rig.ask("DELETE", &format!("/v2/{repository}/manifests/{digest}"), &[], b"").status,
                            202
                        );
                        assert!(matches!(
                            rig.ask("DELETE", &format!("/v2/{repository}/blobs/{layer}"), &[], b"").status,
                            202 | 404
                        ));
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = pushers.into_iter().map(|pusher| pusher.join()).collect();
        over.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
    });
}

#[test]
fn the_same_blob_from_many_at_once_is_one() {
    let rig = Rig::new();
    let bytes = vec![3u8; 1 << 20];
    std::thread::scope(|scope| {
        for pusher in 0..8 {
            let (rig, bytes) = (&rig, &bytes);
            scope.spawn(move || rig.push_blob(&format!("r{pusher}"), bytes));
        }
    });
    let digest = digest::sha256_of(&bytes);
    for pusher in 0..8 {
        assert!(rig.get(&format!("/v2/r{pusher}/blobs/{digest}")).body == bytes);
    }
    assert_eq!(std::fs::read_dir(rig.store.root().join("blobs/sha256")).unwrap().count(), 1);
    assert!(rig.store.partials().list().unwrap().is_empty());
}
