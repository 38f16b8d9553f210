//! What the distribution specification 1.1 demands and no other file here asks for, by its endpoints (end-1 … end-13).

use brig_store::digest;
use serde_json::json;

use crate::rig::{Answer, INDEX, MANIFEST, OCTETS, Rig, manifest, sha512};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A refusal with a body is JSON as the specification has it, and its length is said.
#[test]
fn every_refusal_is_json_and_a_head_has_none() {
    let rig = Rig::new();
    rig.push_image("a", "v1", "word");
    let absent = digest::sha256_of(b"absent");
    let upload = rig.begin("a");
    for (method, path, expected) in [
        ("GET", format!("/v2/a/blobs/{absent}"), "404 BLOB_UNKNOWN"),
        ("GET", "/v2/a/blobs/sha256:x".into(), "400 DIGEST_INVALID"),
        ("DELETE", format!("/v2/a/blobs/{absent}"), "404 BLOB_UNKNOWN"),
        ("GET", format!("/v2/a/manifests/{absent}"), "404 MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/manifests/none".into(), "404 MANIFEST_UNKNOWN"),
        ("DELETE", "/v2/a/manifests/none".into(), "404 MANIFEST_UNKNOWN"),
        ("DELETE", format!("/v2/a/manifests/{absent}"), "404 MANIFEST_UNKNOWN"),
        ("PUT", "/v2/a/manifests/v2".into(), "400 MANIFEST_INVALID"),
        ("PUT", "/v2/a/manifests/sha256:x".into(), "400 DIGEST_INVALID"),
        ("GET", "/v2/none/tags/list".into(), "404 NAME_UNKNOWN"),
        ("GET", "/v2/a/tags/list?n=x".into(), "400 UNSUPPORTED"),
        ("GET", "/v2/NO/tags/list".into(), "400 NAME_INVALID"),
        ("GET", "/v2/a/referrers/sha256:x".into(), "400 DIGEST_INVALID"),
        ("GET", "/v2/a/blobs/uploads/none".into(), "404 BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/a/blobs/uploads/none".into(), "404 BLOB_UPLOAD_UNKNOWN"),
        ("PUT", format!("/v2/a/blobs/uploads/none?digest={absent}"), "404 BLOB_UPLOAD_UNKNOWN"),
        ("DELETE", "/v2/a/blobs/uploads/none".into(), "404 BLOB_UPLOAD_UNKNOWN"),
        ("PUT", upload, "400 DIGEST_INVALID"),
        ("GET", "/v2/a".into(), "404 UNSUPPORTED"),
    ] {
        let answer = rig.ask(method, &path, &[], b"x");
        assert_eq!(answer.refusal(), expected, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/json", "{method} {path}");
        assert_eq!(answer.header("content-length"), answer.body.len().to_string(), "{method} {path}");
        if method == "GET" {
            let head = rig.ask("HEAD", &path, &[], b"");
            assert_eq!((head.status, head.body.len()), (answer.status, 0), "{path}");
            // What a GET would send, or nothing: never another length.
            assert!(
                !head.has("content-length") || head.header("content-length") == answer.header("content-length"),
                "{head:?}"
            );
        }
    }
}

#[test]
fn what_is_not_done_at_an_address_is_said_with_what_is() {
    let rig = Rig::new();
    let digest = rig.push_image("a", "v1", "word");
    for (path, allowed) in [
        ("/v2/".to_owned(), "GET, HEAD"),
        ("/v2/_catalog".into(), "GET, HEAD"),
        ("/v2/a/tags/list".into(), "GET, HEAD"),
        (format!("/v2/a/referrers/{digest}"), "GET, HEAD"),
        ("/v2/a/manifests/v1".into(), "GET, HEAD, PUT, DELETE"),
        (format!("/v2/a/blobs/{digest}"), "GET, HEAD, DELETE"),
        ("/v2/a/blobs/uploads/".into(), "POST"),
        (rig.begin("a"), "GET, HEAD, PATCH, PUT, DELETE"),
    ] {
        for method in ["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            if allowed.split(", ").any(|known| known == method) {
                continue;
            }
            let answer = rig.ask(method, &path, &[], b"");
            assert_eq!(
                (answer.refusal(), answer.header("allow")),
                ("405 UNSUPPORTED".into(), allowed),
                "{method} {path}"
            );
        }
    }
    assert_eq!(rig.get("/v2/a/manifests/v1").status, 200, "nothing has changed");
}

/// end-2, end-3: a HEAD answers as the GET does, without the body and without its parts.
#[test]
fn a_head_says_what_a_get_would_send() {
    let rig = Rig::new();
    let image = rig.push_image("a", "v1", "word");
    let bytes = vec![5u8; 100_000];
    let blobs = [rig.push_blob("a", &bytes), rig.push_blob("a", b"")];
    let paths = [
        format!("/v2/a/manifests/{image}"),
        "/v2/a/manifests/v1".into(),
        "/v2/a/tags/list".into(),
        "/v2/_catalog".into(),
        "/v2/".into(),
    ];
    for path in paths.into_iter().chain(blobs.iter().map(|digest| format!("/v2/a/blobs/{digest}"))) {
        let (get, head) = (rig.get(&path), rig.ask("HEAD", &path, &[], b""));
        assert_eq!((get.status, head.status), (200, 200), "{path}");
        let told = |answer: &Answer| {
            let names = ["content-length", "content-type", "docker-content-digest", "etag"];
            names.map(|name| answer.has(name).then(|| answer.header(name).to_owned()))
        };
        assert_eq!(told(&get), told(&head), "{path}");
        assert_eq!(head.header("content-length"), get.body.len().to_string(), "{path}");
    }
    let path = format!("/v2/a/blobs/{}", blobs[0]);
    let head = rig.ask("HEAD", &path, &[("Range", "bytes=0-9")], b"");
    assert_eq!((head.status, head.header("content-length")), (200, "100000"));
    // One byte more than there is, exactly what there is, the last byte.
    for (range, expected) in
        [("bytes=0-100000", 100_000), ("bytes=0-99999", 100_000), ("bytes=99999-99999", 1), ("bytes=0-0", 1)]
    {
        let answer = rig.ask("GET", &path, &[("Range", range)], b"");
        assert_eq!(
            (answer.status, answer.body.len(), answer.header("docker-content-digest")),
            (206, expected, &*blobs[0]),
            "{range}"
        );
        assert!(answer.header("content-range").ends_with("/100000"));
    }
}

/// end-4b, end-5, end-6, end-13: chunks in order, of any length; a wrong one changes nothing and says where to go on.
#[test]
fn chunks_may_be_short_and_a_wrong_one_says_where_to_go_on() {
    let rig = Rig::new();
    let answer = rig.ask("POST", "/v2/a/blobs/uploads/", &[], b"");
    assert_eq!(answer.status, 202);
    assert!(!answer.has("oci-chunk-min-length"), "there is none");
    let path = answer.header("location").to_owned();
    let text = b"a byte at a time";
    for (at, byte) in text.iter().enumerate() {
        let ahead = rig.ask("PATCH", &path, &[("Content-Range", &format!("{}-{}", at + 1, at + 1))], b"x");
        assert_eq!(ahead.refusal(), "416 BLOB_UPLOAD_INVALID");
        let reached = format!("0-{}", at.saturating_sub(1));
        assert_eq!((ahead.header("location"), ahead.header("range")), (path.as_str(), reached.as_str()));
        for method in ["GET", "HEAD"] {
            let status = rig.ask(method, &path, &[], b"");
            assert_eq!(
                (status.status, status.header("range"), status.header("location")),
                (204, reached.as_str(), path.as_str())
            );
        }
        let headers = [("Content-Range", &*format!("{at}-{at}")), ("Content-Type", OCTETS)];
        let answer = rig.ask("PATCH", &path, &headers, &[*byte]);
        assert_eq!((answer.status, answer.header("range")), (202, &*format!("0-{at}")));
        assert_eq!(answer.header("location"), path);
    }
    let digest = digest::sha256_of(text);
    let put = format!("{path}?digest={digest}");
    // A last piece that is not the next one, by the closing request too.
    assert_eq!(rig.ask("PUT", &put, &[("Content-Range", "0-0")], b"a").refusal(), "416 BLOB_UPLOAD_INVALID");
    let answer = rig.ask("PUT", &put, &[], b"");
    assert_eq!((answer.status, answer.header("location")), (201, &*format!("/v2/a/blobs/{digest}")));
    assert_eq!(answer.header("docker-content-digest"), digest.as_str());
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        assert_eq!(rig.ask(method, &put, &[], b"").refusal(), "404 BLOB_UPLOAD_UNKNOWN", "{method}: it is over");
    }
    // end-14: given up, nothing goes on.
    let path = rig.begin("a");
    rig.ask("PATCH", &path, &[], b"part");
    assert_eq!(rig.ask("DELETE", &path, &[], b"").status, 204);
    for method in ["GET", "PATCH", "PUT"] {
        assert_eq!(rig.ask(method, &format!("{path}?digest={digest}"), &[], b"").refusal(), "404 BLOB_UPLOAD_UNKNOWN");
    }
}

/// end-11: what cannot be mounted is uploaded there and then, and what can needs no upload.
#[test]
fn a_mount_that_fails_goes_on_as_an_upload() {
    let rig = Rig::new();
    for bytes in [&b"content"[..], b""] {
        for digest in [digest::sha256_of(bytes).to_string(), sha512(bytes)] {
            let answer = rig.ask("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), &[], b"");
            assert_eq!(answer.status, 202);
            let put = format!("{}?digest={digest}", answer.header("location"));
            assert_eq!(rig.ask("PUT", &put, &[], bytes).status, 201);
            for from in ["&from=b", ""] {
                let to = format!("c{}", from.len());
                let answer = rig.ask("POST", &format!("/v2/{to}/blobs/uploads/?mount={digest}{from}"), &[], b"");
                assert_eq!((answer.status, answer.header("docker-content-digest")), (201, &*digest));
                let got = rig.get(answer.header("location"));
                assert_eq!((got.status, got.body), (200, bytes.to_vec()));
            }
        }
    }
    assert_eq!(brig_store::Repositories::of(&rig.store).uploads().count().unwrap(), 0);
}

/// end-7: what is in a manifest need not be known here; all kinds of artifacts are kept as they come, under any digest.
#[test]
fn manifests_of_all_kinds_are_kept() {
    let rig = Rig::new();
    let empty = rig.push_blob("a", b"{}");
    let layer = sha512(b"anything");
    let upload = format!("/v2/a/blobs/uploads/?digest={layer}");
    assert_eq!(rig.ask("POST", &upload, &[], b"anything").status, 201);
    let entry = |kind: &str, digest: &str, size: usize| {
        format!("{{\"mediaType\":\"{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}")
    };
    let (config, data) = (entry(EMPTY, &empty, 2), entry("application/x-unknown", &layer, 8));
    let with = |more: &str, layers: &str| {
        format!("{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",{more}\"config\":{config},\"layers\":[{layers}]}}")
    };
    let unknown_config =
        manifest(&empty, 2, &layer, 8, "").replace("application/vnd.oci.image.config.v1+json", "application/x-config");
    for text in [
        with("\"artifactType\":\"application/x-thing\",", &data),
        with("\"artifactType\":\"application/x-thing\",", &config),
        with("\"artifactType\":\"application/x-thing\",", ""),
        with("\"artifactType\":\"application/x-thing\",\"annotations\":{\"a\":\"b\"},", &format!("{data},{data}")),
        unknown_config.clone(),
        // Without the field only the header says what it is.
        unknown_config.replace(&format!("\"mediaType\":\"{MANIFEST}\","), ""),
    ] {
        for digest in [digest::sha256_of(text.as_bytes()).to_string(), sha512(text.as_bytes())] {
            let answer = rig.put_manifest("a", &digest, MANIFEST, &text);
            assert_eq!((answer.status, answer.header("docker-content-digest")), (201, &*digest), "{text}");
            assert!(!answer.has("oci-subject"));
            let got = rig.get(answer.header("location"));
            assert_eq!((got.status, got.header("content-type"), got.text()), (200, MANIFEST, text.clone()));
        }
    }
    // By its own word, where no header says it.
    let text = with("", &data);
    let answer = rig.ask("PUT", "/v2/a/manifests/plain", &[], text.as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(rig.get("/v2/a/manifests/plain").header("content-type"), MANIFEST);
    // An index of an index, one of nothing, and one about something that is not there.
    let inner = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{}]}}",
        entry(MANIFEST, digest::sha256_of(text.as_bytes()).as_str(), text.len())
    );
    assert_eq!(rig.put_manifest("a", "inner", INDEX, &inner).status, 201);
    let about = entry(MANIFEST, digest::sha256_of(b"nowhere").as_str(), 7);
    let outer = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{}],\"subject\":{about}}}",
        entry(INDEX, digest::sha256_of(inner.as_bytes()).as_str(), inner.len())
    );
    let answer = rig.put_manifest("a", "outer", INDEX, &outer);
    assert_eq!((answer.status, answer.header("oci-subject")), (201, digest::sha256_of(b"nowhere").as_str()));
}

/// end-8: lists that end exactly, begin behind the end, or are of a repository that has become empty.
#[test]
fn tags_are_listed_to_their_end_and_no_further() {
    let rig = Rig::new();
    let digest = rig.push_image("a", "one", "word");
    rig.push_image("a", "two", "word");
    let list = |query: &str| rig.get(&format!("/v2/a/tags/list{query}"));
    for (query, tags, more) in [
        ("?n=1", json!(["one"]), true),
        ("?n=2", json!(["one", "two"]), false),
        ("?n=3", json!(["one", "two"]), false),
        ("?n=99999999999999", json!(["one", "two"]), false),
        ("?n=1&last=one", json!(["two"]), false),
        ("?last=two", json!([]), false),
        ("?last=zzz&n=5", json!([]), false),
        // A tag that is not there is a place in the order all the same.
        ("?last=p", json!(["two"]), false),
    ] {
        let answer = list(query);
        assert_eq!((answer.status, &answer.json()["tags"], answer.has("link")), (200, &tags, more), "{query}");
        assert_eq!(answer.json()["name"], "a");
    }
    assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").status, 202);
    assert_eq!((list("").status, list("").json()), (200, json!({"name": "a", "tags": []})));
}

/// More than is given out from memory without a turn: the whole list comes all the same, in one answer or by its links.
#[test]
fn long_lists_come_whole() {
    let rig = Rig::new();
    let text = rig.image("a", "word", "");
    let digest = digest::sha256_of(text.as_bytes());
    let tags: Vec<String> = (0..1200).map(|nth| format!("{nth:0100}")).collect();
    for some in tags.chunks(60) {
        let query: Vec<String> = some.iter().map(|tag| format!("tag={tag}")).collect();
        assert_eq!(rig.put_manifest("a", &format!("{digest}?{}", query.join("&")), MANIFEST, &text).status, 201);
    }
    let answer = rig.get("/v2/a/tags/list");
    assert!(answer.body.len() > 64 << 10 && !answer.has("link"));
    assert_eq!(answer.json()["tags"], json!(tags));
    let head = rig.ask("HEAD", "/v2/a/tags/list", &[], b"");
    assert_eq!(head.header("content-length"), answer.header("content-length"));
    let (mut seen, mut path) = (Vec::new(), "/v2/a/tags/list?n=700".to_owned());
    loop {
        let answer = rig.get(&path);
        seen.extend(answer.json()["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
        if !answer.has("link") {
            break;
        }
        path = answer.header("link")[1..answer.header("link").find('>').unwrap()].to_owned();
    }
    assert_eq!(seen, tags);
}

/// end-9, end-10: a tag alone, a manifest with all its tags; what is gone is unknown at once, and only there.
#[test]
fn what_was_deleted_is_gone_at_once_and_only_there() {
    let rig = Rig::new();
    let digest = rig.push_image("a", "v1", "word");
    rig.push_image("b", "v1", "word");
    let ask = |method: &str, path: &str| rig.ask(method, path, &[], b"").status;
    assert_eq!(ask("DELETE", "/v2/a/manifests/v1"), 202);
    assert_eq!((ask("DELETE", "/v2/a/manifests/v1"), ask("HEAD", "/v2/a/manifests/v1")), (404, 404));
    assert_eq!(ask("GET", &format!("/v2/a/manifests/{digest}")), 200, "by its digest it stays");
    assert_eq!(ask("DELETE", &format!("/v2/a/manifests/{digest}")), 202);
    assert_eq!(ask("HEAD", &format!("/v2/a/manifests/{digest}")), 404);
    let layer = digest::sha256_of(b"word");
    assert_eq!(ask("DELETE", &format!("/v2/a/blobs/{layer}")), 202);
    assert_eq!((ask("GET", &format!("/v2/a/blobs/{layer}")), ask("HEAD", &format!("/v2/a/blobs/{layer}"))), (404, 404));
    assert_eq!((ask("GET", "/v2/b/manifests/v1"), ask("GET", &format!("/v2/b/blobs/{layer}"))), (200, 200));
}

/// end-12: images and indexes about a manifest that is there, is not there yet, or is there no more.
#[test]
fn referrers_are_listed_whatever_becomes_of_their_subject() {
    let rig = Rig::new();
    let subject_text = rig.image("a", "subject", "");
    let subject = digest::sha256_of(subject_text.as_bytes()).to_string();
    let about = format!(
        "\"subject\":{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{subject}\",\"size\":{}}}",
        subject_text.len()
    );
    let list = |query: &str| {
        let answer = rig.get(&format!("/v2/a/referrers/{subject}{query}"));
        assert_eq!((answer.status, answer.header("content-type")), (200, INDEX));
        assert_eq!(answer.has("oci-filters-applied"), query.contains("=x"), "{query}");
        answer.json()["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["artifactType"].clone())
            .collect::<Vec<_>>()
    };
    assert!(list("").is_empty() && list("?artifactType=x/none").is_empty(), "an empty list, not an error");
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"artifactType\":\"x/list\",\"manifests\":[],{about}}}"
    );
    assert_eq!(rig.put_manifest("a", "list", INDEX, &index).header("oci-subject"), subject);
    assert_eq!(list(""), [json!("x/list")], "before its subject");
    assert_eq!(rig.put_manifest("a", "subject", MANIFEST, &subject_text).status, 201);
    let signature = rig.image("a", "sig", &format!("{about},\"artifactType\":\"x/sig\","));
    assert_eq!(rig.put_manifest("a", "sig", MANIFEST, &signature).status, 201);
    assert_eq!(list("").len(), 2);
    assert_eq!((list("?artifactType=x/sig"), list("?artifactType=")), (vec![json!("x/sig")], list("")));
    assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{subject}"), &[], b"").status, 202);
    assert_eq!(list("").len(), 2, "its subject is gone");
    assert_eq!(rig.ask("DELETE", "/v2/a/manifests/sig", &[], b"").status, 202);
    assert_eq!(list("").len(), 2, "only a tag");
    let signature = digest::sha256_of(signature.as_bytes());
    assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{signature}"), &[], b"").status, 202);
    assert_eq!(list(""), [json!("x/list")]);
    // A digest of another kind, of which nothing is known.
    let answer = rig.get(&format!("/v2/a/referrers/{}", sha512(b"unknown")));
    assert_eq!((answer.status, &answer.json()["manifests"]), (200, &json!([])));
}
