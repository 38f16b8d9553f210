//! Discovery: tags, repositories and referrers, a page at a time.

use brig_store::digest;
use serde_json::{Value, json};

use crate::rig::{INDEX, MANIFEST, Rig};

#[test]
fn tags_are_listed_in_order_and_in_pages() {
    let rig = Rig::new();
    assert_eq!(rig.get("/v2/a/tags/list").refusal(), "404 NAME_UNKNOWN");
    let text = rig.image("a", "word", "");
    for tag in ["c", "a", "b", "B", "d"] {
        assert_eq!(rig.put_manifest("a", tag, MANIFEST, &text).status, 201);
    }
    let list = |query: &str| rig.get(&format!("/v2/a/tags/list{query}"));
    assert_eq!(list("").json(), json!({"name": "a", "tags": ["a", "B", "b", "c", "d"]}));
    assert!(!list("").has("link"));
    assert_eq!(list("?n=2").json()["tags"], json!(["a", "B"]));
    assert_eq!(list("?n=2&last=B").json()["tags"], json!(["b", "c"]));
    assert_eq!(list("?n=2&last=bb").json()["tags"], json!(["c", "d"]));
    assert_eq!(list("?last=c").json()["tags"], json!(["d"]));
    assert_eq!(list("?n=0").json()["tags"], json!([]));
    assert!(!list("?n=0").has("link"));
    assert_eq!(list("?n=-1").status, 400);
    // Following the links gives everything once.
    let (mut all, mut path) = (Vec::new(), "/v2/a/tags/list?n=2".to_owned());
    loop {
        let answer = rig.get(&path);
        all.extend(answer.json()["tags"].as_array().unwrap().clone());
        if !answer.has("link") {
            break;
        }
        let link = answer.header("link");
        assert!(link.ends_with("; rel=\"next\""), "{link}");
        path = link[1..link.find('>').unwrap()].to_owned();
    }
    assert_eq!(all, ["a", "B", "b", "c", "d"]);
}

#[test]
fn the_catalog_lists_what_has_manifests() {
    let rig = Rig::new();
    rig.push_blob("empty", b"x");
    for name in ["z", "b/c", "a"] {
        rig.push_image(name, "v1", "word");
    }
    assert_eq!(rig.get("/v2/_catalog").json(), json!({"repositories": ["a", "b/c", "z"]}));
    let page = rig.get("/v2/_catalog?n=2");
    assert_eq!(page.json()["repositories"], json!(["a", "b/c"]));
    assert_eq!(page.header("link"), "</v2/_catalog?last=b%2Fc&n=2>; rel=\"next\"");
    assert_eq!(rig.get("/v2/_catalog?last=b%2Fc&n=2").json()["repositories"], json!(["z"]));
}

fn referrers(rig: &Rig, subject: &str, query: &str) -> (Vec<Value>, crate::rig::Answer) {
    let answer = rig.get(&format!("/v2/a/referrers/{subject}{query}"));
    assert_eq!((answer.status, answer.header("content-type")), (200, INDEX));
    let json = answer.json();
    assert_eq!((&json["schemaVersion"], &json["mediaType"]), (&json!(2), &json!(INDEX)));
    (json["manifests"].as_array().unwrap().clone(), answer)
}

#[test]
fn referrers_are_found_by_their_subject_and_kind() {
    let rig = Rig::new();
    let subject = digest::sha256_of(b"not pushed yet").to_string();
    assert!(referrers(&rig, &subject, "").0.is_empty(), "of a repository that is not there");
    let about = format!("\"subject\":{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{subject}\",\"size\":1}}");
    let signature =
        rig.image("a", "sig", &format!("{about},\"artifactType\":\"x/sig\",\"annotations\":{{\"k\":\"v\"}},"));
    let plain = rig.image("a", "plain", &format!("{about},"));
    let index = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"artifactType\":\"x/list\",\"manifests\":[],{about}}}"
    );
    let unrelated = rig.image("a", "unrelated", "");
    for (text, kind) in [(&signature, MANIFEST), (&plain, MANIFEST), (&index, INDEX), (&unrelated, MANIFEST)] {
        let digest = digest::sha256_of(text.as_bytes());
        assert_eq!(rig.put_manifest("a", digest.as_str(), kind, text).status, 201);
    }
    let (all, answer) = referrers(&rig, &subject, "");
    assert!(!answer.has("oci-filters-applied"));
    let kinds: std::collections::BTreeSet<&str> =
        all.iter().filter_map(|entry| entry["artifactType"].as_str()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["application/vnd.oci.image.config.v1+json", "x/list", "x/sig"]);
    let (found, answer) = referrers(&rig, &subject, "?artifactType=x%2Fsig");
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    let digest = digest::sha256_of(signature.as_bytes()).to_string();
    let expected = json!([{"mediaType": MANIFEST, "digest": digest, "size": signature.len(), "annotations": {"k": "v"}, "artifactType": "x/sig"}]);
    assert_eq!(Value::from(found), expected);
    assert!(referrers(&rig, &subject, "?artifactType=none").0.is_empty());
    // Deleted, it refers no more.
    assert_eq!(rig.ask("DELETE", &format!("/v2/a/manifests/{digest}"), &[], b"").status, 202);
    assert_eq!(referrers(&rig, &subject, "").0.len(), 2);
    assert_eq!(rig.get("/v2/a/referrers/nonsense").refusal(), "400 DIGEST_INVALID");
}

#[test]
fn many_referrers_come_in_pages() {
    let rig = Rig::new();
    let subject = digest::sha256_of(b"subject").to_string();
    let long = "a".repeat(600_000);
    for number in 0..4 {
        let more = format!(
            "\"subject\":{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{subject}\",\"size\":1}},\"annotations\":{{\"n\":\"{number}{long}\"}},"
        );
        assert_eq!(rig.put_manifest("a", "t", MANIFEST, &rig.image("a", "word", &more)).status, 201);
    }
    let (mut seen, mut path) =
        (Vec::new(), format!("/v2/a/referrers/{subject}?artifactType=application%2Fvnd.oci.image.config.v1%2Bjson"));
    loop {
        let answer = rig.get(&path);
        assert!(answer.body.len() < 4 << 20);
        seen.extend(
            answer.json()["manifests"]
                .as_array()
                .unwrap()
                .iter()
                .map(|entry| entry["digest"].as_str().unwrap().to_owned()),
        );
        if !answer.has("link") {
            break;
        }
        path = answer.header("link")[1..answer.header("link").find('>').unwrap()].to_owned();
        assert!(path.contains("artifactType="), "{path}");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
}
