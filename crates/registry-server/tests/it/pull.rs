//! Pulling: manifests and blobs, their headers, ranges, and what is not there.

use brig_store::digest;

use crate::rig::{MANIFEST, Rig};

#[test]
fn the_base_says_which_protocol_it_is() {
    let rig = Rig::new();
    for path in ["/v2/", "/v2"] {
        let answer = rig.get(path);
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"));
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    }
}

#[test]
fn a_manifest_is_given_out_as_it_came() {
    let rig = Rig::new();
    let text = rig.image("a/b", "word", "\"x-custom\": {\"odd\":  [1]},");
    assert_eq!(rig.put_manifest("a/b", "v1", MANIFEST, &text).status, 201);
    let digest = digest::sha256_of(text.as_bytes()).to_string();
    for reference in ["v1", digest.as_str()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        let (got, head) = (rig.get(&path), rig.ask("HEAD", &path, &[], b""));
        for answer in [&got, &head] {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), MANIFEST);
            assert_eq!(answer.header("docker-content-digest"), digest);
            assert_eq!(answer.header("content-length"), text.len().to_string());
        }
        assert_eq!(got.text(), text);
        let again = rig.ask("GET", &path, &[("If-None-Match", &format!("\"{digest}\""))], b"");
        assert_eq!((again.status, again.body.len()), (304, 0));
    }
}

#[test]
fn a_blob_is_given_out_whole_and_in_parts() {
    let rig = Rig::new();
    let bytes: Vec<u8> = (0..1_500_000u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let digest = rig.push_blob("a", &bytes);
    let path = format!("/v2/a/blobs/{digest}");
    let whole = rig.get(&path);
    assert_eq!((whole.status, whole.header("docker-content-digest")), (200, digest.as_str()));
    assert!(whole.body == bytes);
    let head = rig.ask("HEAD", &path, &[], b"");
    assert_eq!((head.status, head.header("content-length"), head.header("accept-ranges")), (200, "1500000", "bytes"));
    for (range, part) in [
        ("bytes=500-1499", 500..1500),
        ("bytes=1499000-", 1_499_000..1_500_000),
        ("bytes=-1000000", 500_000..1_500_000),
    ] {
        let answer = rig.ask("GET", &path, &[("Range", range)], b"");
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.header("content-range"), format!("bytes {}-{}/1500000", part.start, part.end - 1));
        assert!(answer.body == bytes[part]);
    }
    for range in ["bytes=1500000-", "bytes=500-0"] {
        let answer = rig.ask("GET", &path, &[("Range", range)], b"");
        assert_eq!((answer.status, answer.header("content-range")), (416, "bytes */1500000"), "{range}");
    }
    let other = rig.ask("GET", &path, &[("Range", "bytes=0-1"), ("If-Range", "\"sha256:other\"")], b"");
    assert_eq!(other.status, 200, "the part is of something else");
}

#[test]
fn an_empty_blob_is_a_blob() {
    let rig = Rig::new();
    let digest = rig.push_blob("a", b"");
    let answer = rig.get(&format!("/v2/a/blobs/{digest}"));
    assert_eq!((answer.status, answer.header("content-length")), (200, "0"));
}

#[test]
fn what_is_not_there_is_unknown() {
    let rig = Rig::new();
    let absent = digest::sha256_of(b"absent");
    rig.push_image("a", "v1", "word");
    assert_eq!(rig.get(&format!("/v2/a/blobs/{absent}")).refusal(), "404 BLOB_UNKNOWN");
    assert_eq!(rig.get(&format!("/v2/a/manifests/{absent}")).refusal(), "404 MANIFEST_UNKNOWN");
    assert_eq!(rig.get("/v2/a/manifests/v2").refusal(), "404 MANIFEST_UNKNOWN");
    assert_eq!(rig.get("/v2/a/manifests/.INVALID").refusal(), "404 MANIFEST_UNKNOWN");
    assert_eq!(rig.get("/v2/nowhere/manifests/v1").refusal(), "404 MANIFEST_UNKNOWN");
    assert_eq!(rig.get("/v2/a/manifests/sha256:short").refusal(), "400 DIGEST_INVALID");
    assert_eq!(rig.get("/v2/a/blobs/sha256:short").refusal(), "400 DIGEST_INVALID");
    assert_eq!(rig.get("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e").refusal(), "400 DIGEST_INVALID");
    assert_eq!(rig.ask("HEAD", &format!("/v2/a/blobs/{absent}"), &[], b"").status, 404);
}

#[test]
fn a_blob_is_seen_only_where_it_was_pushed() {
    let rig = Rig::new();
    let digest = rig.push_blob("mine", b"secret");
    assert_eq!(rig.get(&format!("/v2/mine/blobs/{digest}")).status, 200);
    assert_eq!(rig.get(&format!("/v2/yours/blobs/{digest}")).refusal(), "404 BLOB_UNKNOWN");
    let manifest = rig.push_image("mine", "v1", "word");
    assert_eq!(rig.get(&format!("/v2/yours/manifests/{manifest}")).status, 404);
    assert_eq!(rig.get(&format!("/v2/mine/blobs/{manifest}")).status, 404, "a manifest is no blob");
}

#[test]
fn a_lost_or_damaged_blob_is_said_to_be_unknown_and_mended_by_a_push() {
    let rig = Rig::new();
    let digest = rig.push_blob("a", b"content");
    let path = format!("/v2/a/blobs/{digest}");
    let file = rig.store.root().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    std::fs::write(&file, b"cut").unwrap();
    assert_eq!(rig.get(&path).status, 404);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(rig.ask("HEAD", &path, &[], b"").status, 404);
    rig.push_blob("a", b"content");
    assert_eq!(rig.get(&path).text(), "content");
}
