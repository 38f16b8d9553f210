//! What registries are asked beside pulls and pushes, by `brig`, the stock client and over the API.

use brig_tests::{Image, Layer, TestHost, http, needs};

fn image(name: &str) -> Image {
    Image::new(vec![Layer::new().file(name, 0o600, name).bytes()], serde_json::json!({"Cmd": ["/x"]}))
}

#[test]
fn all_tags_of_a_repository() {
    let host = TestHost::new();
    let registry = host.registry();
    for tag in ["v1", "v2", "v3"] {
        registry.push(&image(tag), "team/app", tag);
    }
    let name = registry.name("team/app");
    let pulled = host.brig(&["pull", "--all-tags", &name]).ok();
    assert!(pulled.contains("v2: Pulling from team/app"), "{pulled}");
    assert!(pulled.ends_with(&format!("Status: Downloaded newer image for {name}\n{name}")), "{pulled}");
    for tag in ["v1", "v2", "v3"] {
        assert_eq!(host.field(&format!("{name}:{tag}"), "{{.Id}}"), image(tag).id());
    }
    assert!(host.brig(&["pull", "-a", &name]).ok().contains(&format!("Status: Image is up to date for {name}")));
    let refused = host.brig(&["pull", "-a", &format!("{name}:v1")]).fails(1);
    assert!(refused.contains("tag can't be used with --all-tags/-a"), "{refused}");
    let refused = host.brig(&["pull", "-a", &registry.name("nosuch")]).fails(1);
    assert!(refused.contains("repository name not known to registry"), "{refused}");
    // And back, all of them.
    let other = host.registry_at("127.0.0.1:5009");
    for tag in ["v1", "v2", "v3"] {
        host.brig(&["tag", &format!("{name}:{tag}"), &other.name(&format!("app:{tag}"))]).ok();
    }
    let pushed = host.brig(&["push", "--all-tags", &other.name("app")]).ok();
    assert_eq!(pushed.matches("digest: sha256:").count(), 3, "{pushed}");
    assert_eq!(other.manifest("app", "v2")["config"]["digest"], image("v2").id());
}

#[test]
fn the_stock_client_pulls_all_tags_and_searches() {
    needs!("registries::the_stock_client_pulls_all_tags_and_searches", "docker");
    let host = TestHost::new();
    let registry = host.registry();
    for tag in ["v1", "v2"] {
        registry.push(&image(tag), "team/app", tag);
    }
    let name = registry.name("team/app");
    host.docker(&["pull", "-a", &name]).ok();
    assert_eq!(host.docker(&["images", "-q", &name]).ok().lines().count(), 2);
    let found = host.docker(&["search", &registry.name("app")]).ok();
    assert!(found.contains(&name), "{found}");
}

#[test]
fn searching_and_asking() {
    let host = TestHost::new();
    let registry = host.registry();
    let digest = registry.push(&image("x"), "team/web", "v1");
    registry.push(&image("y"), "team/db", "v1");
    let name = registry.name("team/web");
    let found = host.brig(&["search", &registry.name("web")]).ok();
    assert!(found.starts_with("NAME") && found.lines().count() == 2 && found.contains(&name), "{found}");
    assert_eq!(
        host.brig(&["search", "--format", "{{.Name}}", "--limit", "1", &registry.name("team")]).ok().lines().count(),
        1
    );
    let refused = host.brig(&["search", "--limit", "101", &registry.name("web")]).fails(1);
    assert!(refused.contains("limit 101 is outside the range of [1, 100]"), "{refused}");
    let refused = host.brig(&["search", "--filter", "colour=red", &registry.name("web")]).fails(1);
    assert!(refused.contains("invalid filter 'colour'"), "{refused}");
    let answer = http::unix(&host.socket(), "GET", &format!("/distribution/{name}:v1/json"), &[]).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!(told["Descriptor"]["digest"], digest);
    assert_eq!(told["Platforms"][0]["os"], "linux");
    let answer = http::unix(&host.socket(), "GET", &format!("/distribution/{name}:v2/json"), &[]).unwrap();
    assert_eq!(answer.status, 404, "{}", answer.text());
}
