//! What registries list: tags page by page, what a search finds, what a name means.

use brig_oci::{Reference, media_type};
use brig_registry::ErrorKind;
use serde_json::json;

use super::rig::{Image, Registry, Reply, Seen, TestBox};

fn json_reply(value: &serde_json::Value) -> Reply {
    Reply::With(200, vec![("content-type", "application/json".into())], value.to_string().into_bytes())
}

async fn tags(host: &TestBox, registry: &Registry) -> Result<Vec<String>, brig_registry::Error> {
    host.client.tags(&Reference::parse_bare(&registry.name("team/app")).unwrap(), None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_come_page_by_page() {
    let registry = Registry::new().await;
    let host = TestBox::new();
    registry.hook(|seen| match seen.path.as_str() {
        "/v2/team/app/tags/list?n=1000" => Reply::With(
            200,
            // The other host is not believed, only the query.
            vec![("link", "<http://169.254.169.254/x?n=2&last=b>; rel=\"next\"".into())],
            json!({"name": "team/app", "tags": ["a", "b"]}).to_string().into_bytes(),
        ),
        "/v2/team/app/tags/list?n=2&last=b" => json_reply(&json!({"tags": ["c", "b", "../evil", "bad tag", ""]})),
        _ => Reply::With(404, vec![], vec![]),
    });
    assert_eq!(tags(&host, &registry).await.unwrap(), ["a", "b", "c"]);
    registry.hook(|_| json_reply(&json!({"tags": null})));
    assert_eq!(tags(&host, &registry).await.unwrap(), [""; 0]);
    // A list without an end, one that is none, and one that is too long.
    let endless = |seen: &Seen| {
        let link = format!("<?n=1&last={}>; rel=\"next\"", seen.nth);
        Reply::With(200, vec![("link", link)], br#"{"tags":["x"]}"#.to_vec())
    };
    registry.hook(endless);
    assert!(tags(&host, &registry).await.unwrap_err().message.contains("does not end"));
    registry.hook(|_| Reply::With(200, vec![], b"<html>".to_vec()));
    assert!(tags(&host, &registry).await.unwrap_err().message.contains("not the list"));
    registry.hook(|_| Reply::With(200, vec![], vec![b' '; 5 << 20]));
    assert!(tags(&host, &registry).await.unwrap_err().message.contains("larger than"));
    registry.hook(|_| {
        let body = br#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
        Reply::With(404, vec![], body.to_vec())
    });
    let error = tags(&host, &registry).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("list of tags of") && error.message.contains("name unknown"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn searching() {
    let registry = Registry::new().await;
    let host = TestBox::new();
    let domain = registry.address.to_string();
    let search = |term: &'static str, limit| host.client.search(&domain, term, limit, None);
    registry.hook(|seen| match seen.path.as_str() {
        "/v1/search?q=web%20server&n=2" => json_reply(&json!({"num_results": 3, "results": [
            {"name": "nginx", "description": "It\u{1b}[31m serves", "star_count": 7, "is_official": true},
            {"name": "caddy", "description": null, "star_count": 5},
            {"name": "third"},
        ]})),
        _ => Reply::With(404, vec![], vec![]),
    });
    let found = search("web server", 2).await.unwrap();
    let names: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.star_count, f.is_official)).collect();
    assert_eq!(names, [("nginx", 7, true), ("caddy", 5, false)]);
    assert_eq!(found[0].description, "It\\u{1b}[31m serves");
    // No search there: what the catalog has.
    registry.hook(|seen| match seen.path.as_str() {
        "/v2/_catalog?n=1000" => Reply::With(
            200,
            vec![("link", "</v2/_catalog?last=b&n=2>; rel=\"next\"".into())],
            br#"{"repositories":["a/Web","b"]}"#.to_vec(),
        ),
        "/v2/_catalog?last=b&n=2" => json_reply(&json!({"repositories": ["webby", "zzz"]})),
        _ => Reply::With(404, vec![], b"<html>no</html>".to_vec()),
    });
    let names: Vec<_> = search("web", 25).await.unwrap().into_iter().map(|f| f.name).collect();
    assert_eq!(names, ["a/Web", "webby"]);
    // Neither.
    registry.hook(|_| Reply::With(404, vec![], vec![]));
    let error = search("web", 25).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("cannot be searched"), "{error}");
    registry.hook(|_| Reply::With(429, vec![], vec![]));
    assert_eq!(search("web", 25).await.unwrap_err().kind, ErrorKind::RateLimited);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_name_means() {
    let registry = Registry::new().await;
    let (here, there) = (Image::small(), Image::for_platform(Vec::new(), "linux", "s390x"));
    registry.push("app", "one", &here);
    registry.push("app", "two", &there);
    let index = json!({"schemaVersion": 2, "mediaType": media_type::OCI_INDEX,
        "manifests": [here.entry("linux", "amd64"), there.entry("linux", "s390x")]});
    let bytes = serde_json::to_vec(&index).unwrap();
    registry.push_manifest("app", "all", media_type::OCI_INDEX, &bytes);
    let host = TestBox::new();
    let describe = async |tag: &str| {
        let name = Reference::parse(&registry.name(&format!("app:{tag}"))).unwrap();
        host.client.describe(&name, None).await
    };
    let all = describe("all").await.unwrap();
    let platforms: Vec<String> = all.platforms.iter().map(ToString::to_string).collect();
    assert_eq!(
        (all.descriptor.size, platforms),
        (bytes.len() as u64, vec!["linux/amd64".into(), "linux/s390x".into()])
    );
    let two = describe("two").await.unwrap();
    assert_eq!((two.descriptor.digest, two.platforms[0].architecture.as_str()), (there.digest(), "s390x"));
    assert_eq!(describe("none").await.unwrap_err().kind, ErrorKind::NotFound);
    host.assert_clean().await;
}
