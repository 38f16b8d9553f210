//! Pushing: blobs in one piece, streamed and in chunks, resumed, mounted; manifests with what they name; deleting.

use brig_store::Repositories;
use brig_store::digest;

use crate::rig::{INDEX, MANIFEST, OCTETS, Rig, manifest, sha512};

#[test]
fn a_blob_comes_in_four_ways_under_two_kinds_of_digest() {
    let rig = Rig::new();
    let bytes = vec![7u8; 3 << 20];
    for digest in [digest::sha256_of(&bytes).to_string(), sha512(&bytes)] {
        // POST then PUT.
        let path = rig.begin("one");
        let put = |path: &str, body: &[u8]| rig.ask("PUT", &format!("{path}?digest={digest}"), &[], body);
        let answer = put(&path, &bytes);
        assert_eq!((answer.status, answer.header("docker-content-digest")), (201, digest.as_str()));
        assert!(rig.get(answer.header("location")).body == bytes);
        // One POST.
        let answer = rig.ask("POST", &format!("/v2/two/blobs/uploads/?digest={digest}"), &[], &bytes);
        assert_eq!((answer.status, answer.header("location")), (201, &*format!("/v2/two/blobs/{digest}")));
        // Streamed, of a length that nobody said.
        let path = rig.begin("three");
        let mut body = Vec::new();
        for piece in bytes.chunks(100_000) {
            body.extend(format!("{:x}\r\n", piece.len()).bytes());
            body.extend(piece);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        let answer = rig.ask("PATCH", &path, &[("Transfer-Encoding", "chunked"), ("Content-Type", OCTETS)], &body);
        assert_eq!((answer.status, answer.header("range")), (202, &*format!("0-{}", bytes.len() - 1)));
        assert_eq!(put(answer.header("location"), b"").status, 201);
        // In chunks, the last of them with the PUT.
        let path = rig.begin("four");
        let half = bytes.len() / 2;
        let range = format!("0-{}", half - 1);
        let answer = rig.ask("PATCH", &path, &[("Content-Range", &range)], &bytes[..half]);
        assert_eq!((answer.status, answer.header("range")), (202, range.as_str()));
        let range = format!("{half}-{}", bytes.len() - 1);
        let put = rig.ask("PUT", &format!("{path}?digest={digest}"), &[("Content-Range", &range)], &bytes[half..]);
        assert_eq!(put.status, 201);
        for repository in ["two", "three", "four"] {
            assert!(rig.get(&format!("/v2/{repository}/blobs/{digest}")).body == bytes, "{repository}");
        }
    }
    assert_eq!(Repositories::of(&rig.store).uploads().count().unwrap(), 0);
    assert!(rig.store.partials().list().unwrap().is_empty());
}

#[test]
fn an_upload_tells_how_far_it_is_and_goes_on_there() {
    let rig = Rig::new();
    let path = rig.begin("a");
    let status = || rig.get(&path);
    assert_eq!((status().status, status().header("range")), (204, "0-0"));
    assert_eq!(rig.ask("PATCH", &path, &[("Content-Range", "0-3")], b"abcd").status, 202);
    assert_eq!((status().status, status().header("range"), status().header("location")), (204, "0-3", path.as_str()));
    // What does not begin there is refused and changes nothing: before, after, and again.
    for (range, body) in [("2-5", "cdef"), ("5-6", "fg"), ("0-3", "abcd")] {
        let answer = rig.ask("PATCH", &path, &[("Content-Range", range)], body.as_bytes());
        assert_eq!(answer.refusal(), "416 BLOB_UPLOAD_INVALID", "{range}");
        assert_eq!((answer.header("range"), answer.header("location")), ("0-3", path.as_str()));
        assert_eq!(status().header("range"), "0-3");
    }
    let digest = digest::sha256_of(b"abcdefg");
    let put = format!("{path}?digest={digest}");
    assert_eq!(rig.ask("PUT", &put, &[("Content-Range", "3-6")], b"defg").status, 416);
    assert_eq!(rig.ask("PUT", &put, &[("Content-Range", "4-6")], b"efg").status, 201);
    assert_eq!(rig.get(&format!("/v2/a/blobs/{digest}")).text(), "abcdefg");
    assert_eq!(status().refusal(), "404 BLOB_UPLOAD_UNKNOWN");
}

#[test]
fn a_connection_that_breaks_leaves_what_arrived() {
    use std::io::Write as _;
    let rig = Rig::new();
    let path = rig.begin("a");
    let bytes = vec![9u8; 2 << 20];
    let mut stream = rig.connect();
    write!(stream, "PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", bytes.len()).unwrap();
    stream.write_all(&bytes[..1 << 20]).unwrap();
    drop(stream);
    // The server learns of it when it reads.
    let arrived = loop {
        let answer = rig.get(&path);
        assert!(matches!(answer.status, 204 | 409), "{answer:?}");
        if answer.status == 204
            && answer.header("range") == "0-1048575"
            && rig.store.partials().list().unwrap().iter().all(|p| !p.open)
        {
            break 1 << 20;
        }
        std::thread::yield_now();
    };
    let digest = digest::sha256_of(&bytes);
    let answer = rig.ask("PUT", &format!("{path}?digest={digest}"), &[], &bytes[arrived..]);
    assert_eq!(answer.status, 201, "{answer:?}");
}

#[test]
fn an_upload_can_be_given_up() {
    let rig = Rig::new();
    let path = rig.begin("a");
    assert_eq!(rig.ask("PATCH", &path, &[], b"abc").status, 202);
    assert_eq!(rig.ask("DELETE", &path, &[], b"").status, 204);
    assert_eq!(rig.get(&path).status, 404);
    assert_eq!(rig.ask("DELETE", &path, &[], b"").refusal(), "404 BLOB_UPLOAD_UNKNOWN");
    assert!(rig.store.partials().list().unwrap().is_empty());
}

#[test]
fn a_blob_is_mounted_from_where_it_is() {
    let rig = Rig::new();
    let digest = rig.push_blob("from", b"shared");
    let mount = |to: &str, rest: &str| rig.ask("POST", &format!("/v2/{to}/blobs/uploads/?mount={rest}"), &[], b"");
    let answer = mount("to", &format!("{digest}&from=from"));
    assert_eq!((answer.status, answer.header("location")), (201, &*format!("/v2/to/blobs/{digest}")));
    assert_eq!(rig.get(&format!("/v2/to/blobs/{digest}")).text(), "shared");
    // From wherever it is, if nobody says from where.
    assert_eq!(mount("else", &digest).status, 201);
    // What is not there becomes an upload.
    assert_eq!(mount("third", &format!("{digest}&from=empty")).status, 202);
    let absent = digest::sha256_of(b"absent");
    let answer = mount("third", &format!("{absent}&from=from"));
    assert_eq!(answer.status, 202);
    assert!(answer.header("location").starts_with("/v2/third/blobs/uploads/"));
    for nonsense in ["nonsense&from=from", &format!("{digest}&from=../from"), &format!("{digest}&from=From")] {
        let answer = mount("third", nonsense);
        assert!(
            answer.status == 202 && answer.header("location").starts_with("/v2/third/blobs/uploads/"),
            "{answer:?}"
        );
    }
    assert_eq!(mount("third", &format!("{digest}&mount={digest}&from=from")).refusal(), "400 DIGEST_INVALID");
}

#[test]
fn a_manifest_needs_what_it_names_but_not_what_it_is_about() {
    let rig = Rig::new();
    let (config, layer) = (rig.push_blob("a", b"{}"), digest::sha256_of(b"layer").to_string());
    let text = manifest(&config, 2, &layer, 5, "");
    let answer = rig.put_manifest("a", "v1", MANIFEST, &text);
    assert_eq!(answer.refusal(), "400 MANIFEST_BLOB_UNKNOWN");
    assert!(answer.text().contains(&layer), "it says which: {}", answer.text());
    rig.push_blob("b", b"layer");
    assert_eq!(rig.put_manifest("a", "v1", MANIFEST, &text).status, 400, "another repository has it");
    rig.push_blob("a", b"layer");
    assert_eq!(rig.put_manifest("a", "v1", MANIFEST, &text).status, 201);
    // A layer that is elsewhere need not be here.
    let foreign = text
        .replace(&layer, &digest::sha256_of(b"foreign").to_string())
        .replace("\"size\":5", "\"size\":5,\"urls\":[\"https://example.com/x\"]");
    assert_eq!(rig.put_manifest("a", "v2", MANIFEST, &foreign).status, 201);
    // Nor a subject.
    let absent = digest::sha256_of(b"subject").to_string();
    let about = rig.image(
        "a",
        "sig",
        &format!("\"subject\":{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{absent}\",\"size\":1}},"),
    );
    let answer = rig.put_manifest("a", "sig", MANIFEST, &about);
    assert_eq!((answer.status, answer.header("oci-subject")), (201, absent.as_str()));
    // An index needs its entries.
    let entry =
        |digest: &str, size: usize| format!("{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{digest}\",\"size\":{size}}}");
    let index = |entries: &str| format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{entries}]}}");
    let there = digest::sha256_of(text.as_bytes()).to_string();
    assert_eq!(rig.put_manifest("a", "i", INDEX, &index(&entry(&there, text.len()))).status, 201);
    assert_eq!(rig.put_manifest("a", "e", INDEX, &index("")).status, 201);
    assert_eq!(rig.put_manifest("a", "x", INDEX, &index(&entry(&absent, 1))).refusal(), "400 MANIFEST_BLOB_UNKNOWN");
    assert_eq!(rig.put_manifest("b", "i", INDEX, &index(&entry(&there, text.len()))).status, 400);
}

#[test]
fn a_manifest_is_pushed_by_digest_with_tags() {
    let rig = Rig::new();
    let text = rig.image("a", "word", "");
    for digest in [digest::sha256_of(text.as_bytes()).to_string(), sha512(text.as_bytes())] {
        let answer = rig.put_manifest("a", &format!("{digest}?tag=x&tag=y"), MANIFEST, &text);
        assert_eq!((answer.status, answer.header("location")), (201, &*format!("/v2/a/manifests/{digest}")));
        let tags: Vec<&str> =
            answer.headers.iter().filter(|(name, _)| name == "oci-tag").map(|(_, tag)| &**tag).collect();
        assert_eq!(tags, ["x", "y"]);
        assert_eq!(rig.get("/v2/a/manifests/y").header("docker-content-digest"), digest);
    }
    let other = digest::sha256_of(b"other");
    assert_eq!(rig.put_manifest("a", other.as_str(), MANIFEST, &text).refusal(), "400 DIGEST_INVALID");
    // Many clients read no more than a hundred headers.
    let digest = digest::sha256_of(text.as_bytes());
    let push = |count: usize| {
        let tags: Vec<String> = (0..count).map(|nth| format!("tag=t{nth}")).collect();
        rig.put_manifest("a", &format!("{digest}?{}", tags.join("&")), MANIFEST, &text)
    };
    assert_eq!(push(65).refusal(), "400 MANIFEST_INVALID");
    let answer = push(64);
    assert!(answer.status == 201 && answer.headers.len() < 100, "{answer:?}");
    assert_eq!(rig.get("/v2/a/tags/list").json()["tags"].as_array().unwrap().len(), 66);
}

#[test]
fn deleting_takes_away_what_was_meant() {
    let rig = Rig::new();
    let digest = rig.push_image("a", "v1", "word");
    rig.put_manifest("a", "v2", MANIFEST, &rig.image("a", "word", ""));
    let layer = digest::sha256_of(b"word");
    let delete = |path: &str| rig.ask("DELETE", &format!("/v2/a/{path}"), &[], b"");
    // A blob that a manifest needs stays.
    assert_eq!(delete(&format!("blobs/{layer}")).refusal(), "405 DENIED");
    assert_eq!(delete("manifests/v1").status, 202);
    assert_eq!(rig.get("/v2/a/manifests/v1").status, 404);
    assert_eq!(rig.get("/v2/a/manifests/v2").status, 200, "only the tag went");
    assert_eq!(delete(&format!("manifests/{digest}")).status, 202);
    assert_eq!(rig.get("/v2/a/manifests/v2").status, 404, "tags go with what they mean");
    assert_eq!(rig.get("/v2/a/tags/list").json()["tags"], serde_json::json!([]));
    assert_eq!(delete(&format!("manifests/{digest}")).refusal(), "404 MANIFEST_UNKNOWN");
    assert_eq!(delete(&format!("blobs/{layer}")).status, 202);
    assert_eq!(rig.get(&format!("/v2/a/blobs/{layer}")).status, 404);
    assert_eq!(delete(&format!("blobs/{layer}")).refusal(), "404 BLOB_UNKNOWN");
}
