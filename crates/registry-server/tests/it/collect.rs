//! Collection while serving: what nothing needs goes, what somebody was told of stays.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brig_registry_server::{Settings, Upkeep};
use brig_store::digest;

use crate::rig::{INDEX, MANIFEST, Rig, manifest};

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

/// Two pushes rely on the same blob. One of them comes to its end, and what it has pushed is deleted before the other one's manifest
/// is there.
#[test]
fn what_one_push_was_told_of_outlives_what_another_has_pushed() {
    type Tell = fn(&Rig, &str, &str);
    let asks: Tell = |rig, to, layer| {
        assert_eq!(rig.ask("HEAD", &format!("/v2/{to}/blobs/{layer}"), &[], b"").status, 200);
    };
    let mounts: Tell = |rig, to, layer| {
        let answer = rig.ask("POST", &format!("/v2/{to}/blobs/uploads/?mount={layer}&from=source"), &[], b"");
        assert_eq!(answer.status, 201, "{answer:?}");
    };
    let sends: Tell = |rig, to, _| drop(rig.push_blob(to, b"shared"));
    for (nth, tell) in [asks, mounts, sends].into_iter().enumerate() {
        let rig = Rig::new();
        let layer = digest::sha256_of(b"shared").to_string();
        rig.push_blob("source", b"shared");
        // One that is there before, and has been for long.
        let before = rig.push_image("a", "before", "shared");
        rig.ask("DELETE", "/v2/a/manifests/before", &[], b"");
        let config = |word: &str| rig.push_blob("a", format!("{{\"of\":\"{word}\"}}").as_bytes());
        let (quick, slow) = (config("quick"), config("slow"));
        tell(&rig, "a", &layer);
        tell(&rig, "a", &layer);
        let quick = manifest(&quick, 14, &layer, 6, "");
        assert_eq!(rig.put_manifest("a", "quick", MANIFEST, &quick).status, 201);
        for gone in [before, digest::sha256_of(quick.as_bytes()).to_string()] {
            assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{gone}"), &[], b"").status, 202);
        }
        rig.ask("DELETE", &format!("/v2/source/blobs/{layer}"), &[], b"");
        rig.registry.tidy(&Upkeep::default()).unwrap();
        let answer = rig.put_manifest("a", "slow", MANIFEST, &manifest(&slow, 13, &layer, 6, ""));
        assert_eq!(answer.status, 201, "{nth}: {answer:?}");
        assert_eq!(rig.get(&format!("/v2/a/blobs/{layer}")).text(), "shared");
        // Nobody waits for it any more: it goes with what was pushed last.
        let last = answer.header("docker-content-digest");
        assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{last}"), &[], b"").status, 202);
        rig.registry.tidy(&Upkeep::default()).unwrap();
        assert_eq!(rig.get(&format!("/v2/a/blobs/{layer}")).status, 404, "{nth}");
    }
}

/// As Docker's client does, which asks for what it has just sent: that is no second push.
#[test]
fn a_push_that_looks_at_what_it_sent_is_one_push() {
    let rig = Rig::new();
    let docker = [("User-Agent", "docker/28.2.2")];
    let layer = digest::sha256_of(b"layer").to_string();
    let blob = format!("/v2/a/blobs/{layer}");
    let image = |config: &str| manifest(&rig.push_blob("a", config.as_bytes()), config.len(), &layer, 5, "");
    let delete = |digest: &str| {
        assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").status, 202);
        rig.registry.tidy(&Upkeep::default()).unwrap();
    };
    let send = || {
        let answer = rig.ask("POST", &format!("/v2/a/blobs/uploads/?digest={layer}"), &docker, b"layer");
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(rig.ask("HEAD", &blob, &docker, b"").status, 200);
    };
    send();
    let answer = rig.put_manifest("a", "v", MANIFEST, &image("{}"));
    delete(answer.header("docker-content-digest"));
    assert_eq!(rig.get(&blob).status, 404);
    // Another one that asks is another push.
    send();
    assert_eq!(rig.ask("HEAD", &blob, &docker, b"").status, 200);
    let answer = rig.put_manifest("a", "v", MANIFEST, &image("{}"));
    delete(answer.header("docker-content-digest"));
    assert_eq!(rig.get(&blob).status, 200);
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

#[test]
fn what_a_lost_database_knew_of_is_found_again() {
    let rig = Rig::new();
    let image = rig.push_image("a", "v1", "image");
    let part = rig.push_image("a", "part", "part");
    let part_size = rig.get(&format!("/v2/a/manifests/{part}")).body.len();
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{{"mediaType":"{MANIFEST}","digest":"{part}","size":{part_size}}}]}}"#
    );
    let index = rig.put_manifest("a", "multi", INDEX, &index).header("docker-content-digest").to_owned();
    let about = format!(
        r#""artifactType":"application/x.signature","subject":{{"mediaType":"{MANIFEST}","digest":"{image}","size":1}},"#
    );
    let signature = rig.image("a", "signature", &about);
    let signature = rig.put_manifest("a", "signature", MANIFEST, &signature).header("docker-content-digest").to_owned();
    let stray = rig.push_blob("a", b"stray");
    let dir = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp").arg("-a").arg(rig.store.root()).arg(dir.path()).status().unwrap();
    assert!(copied.success());
    for name in ["brig.db", "brig.db-wal", "brig.db-shm", "brig.db.copy"] {
        std::fs::remove_file(dir.path().join("v1").join(name)).ok();
    }
    drop(rig);

    let rig = Rig::over(dir, Settings::default());
    // As a daemon does that has come up.
    rig.store.upkeep().settle().unwrap();
    rig.collect();
    rig.collect();
    assert_eq!(rig.get("/v2/_catalog").json()["repositories"], serde_json::json!(["lost-and-found"]));
    let tag = |digest: &str| format!("lost-{}", &digest["sha256:".len()..][..12]);
    let mut tags = [tag(&image), tag(&index)];
    tags.sort();
    assert_eq!(rig.get("/v2/lost-and-found/tags/list").json()["tags"], serde_json::json!(tags));
    for (digest, kind) in [(&image, MANIFEST), (&index, INDEX), (&part, MANIFEST), (&signature, MANIFEST)] {
        let answer = rig.get(&format!("/v2/lost-and-found/manifests/{digest}"));
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{answer:?}");
        assert_eq!(digest::sha256_of(&answer.body).as_str(), digest);
    }
    for word in ["image", "part", "signature"] {
        let path = format!("/v2/lost-and-found/blobs/{}", digest::sha256_of(word.as_bytes()));
        assert_eq!(rig.get(&path).text(), word);
    }
    let referrers = rig.get(&format!("/v2/lost-and-found/referrers/{image}")).json();
    assert_eq!(referrers["manifests"][0]["digest"], signature.as_str());
    assert_eq!(referrers["manifests"][0]["artifactType"], "application/x.signature");
    assert_eq!(rig.get(&format!("/v2/lost-and-found/blobs/{stray}")).status, 404, "nobody has gone on with that");
    let findings = || {
        let mut found = Vec::new();
        let options = brig_store::CheckOptions { full: true, repair: true };
        rig.store.upkeep().check(options, &mut |finding| found.push(finding)).unwrap();
        found.retain(|finding| finding.kind != "database");
        found
    };
    let found = findings();
    assert!(found.len() == 1 && found[0].problem.contains("4 manifests"), "{found:?}");
    // A young one stays also with an explicit prune, and goes when somebody says so.
    rig.store.upkeep().prune().unwrap();
    assert_eq!(findings().len(), 1);
    for digest in [&signature, &image, &index, &part] {
        assert_eq!(rig.ask("DELETE", &format!("/v2/lost-and-found/manifests/{digest}"), &[], b"").status, 202);
    }
    assert_eq!(findings(), []);
    rig.collect();
    assert_eq!(std::fs::read_dir(rig.store.root().join("blobs/sha256")).unwrap().count(), 0);
}
