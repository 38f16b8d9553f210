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

/// `wire` with the password `wire-secret`, by bcrypt.
const USERS: &str = "wire:$2y$05$abcdefghijklmnopqrstuuOFzrL4HP4MV.ru7/Ow4Zkvhp8BcEWQa\n";

#[test]
fn a_registry_with_users() {
    let host = TestHost::new();
    let registry = host.registry_for("127.0.0.1:5000", USERS);
    let name = registry.name("team/app:v1");
    let client = ["load", "-q"];
    host.brig_run(&client).input(image("x").docker_archive(&name)).output().ok();
    let refused = host.brig(&["push", &name]).fails(1);
    assert!(refused.contains("no basic auth credentials") || refused.contains("unauthorized"), "{refused}");
    let login = |password: &str| {
        let arguments = ["login", "-u", "wire", "--password-stdin", &registry.address];
        host.brig_run(&arguments).input(format!("{password}\n").into_bytes()).output()
    };
    let refused = login("wrong").fails(1);
    assert!(refused.contains("unauthorized"), "{refused}");
    let config = host.root.join("home/.docker/config.json");
    assert!(
        !std::fs::read_to_string(&config).is_ok_and(|text| text.contains("auth\"")),
        "a wrong password is not kept"
    );
    assert!(login("wire-secret").ok().contains("Login Succeeded"));
    let known = host.brig(&["login", &registry.address]);
    assert!(known.ok().contains("Login Succeeded") && known.stderr.contains("existing credentials"), "{known}");
    assert!(host.brig(&["push", &name]).ok().contains("v1: digest: sha256:"));
    host.brig(&["rmi", &name]).ok();
    host.brig(&["pull", &name]).ok();
    assert_eq!(host.field(&name, "{{.Id}}"), image("x").id());
    host.brig(&["search", &registry.name("app")]).ok();
    // They are for that host and port only, and in no log.
    let other = host.registry_for("127.0.0.1:5001", USERS);
    let elsewhere = other.name("team/app:v1");
    host.brig(&["tag", &name, &elsewhere]).ok();
    host.brig(&["push", &elsewhere]).fails(1);
    assert!(!host.daemon_log().contains("wire-secret"));
    assert!(host.brig(&["logout", &registry.address]).ok().contains("Removing login credentials"));
    host.brig(&["rmi", &name]).ok();
    let refused = host.brig(&["pull", &name]).fails(1);
    assert!(refused.contains("no basic auth credentials") || refused.contains("unauthorized"), "{refused}");
}

#[test]
fn credential_helpers_are_asked() {
    let host = TestHost::new();
    let registry = host.registry_for("127.0.0.1:5000", USERS);
    let name = registry.name("team/app:v1");
    host.brig_run(&["load", "-q"]).input(image("x").docker_archive(&name)).output().ok();
    let folder = host.root.join("helpers");
    std::fs::create_dir_all(&folder).unwrap();
    let kept = folder.join("kept").display().to_string();
    let script = format!(
        "#!/bin/sh\ncase $1 in\nstore) cat > {kept};;\nget) cat > /dev/null; [ -f {kept} ] && cat {kept} || {{ echo 'credentials not found in native keychain'; exit 1; }};;\nerase) cat > /dev/null; rm -f {kept};;\nesac\n"
    );
    let program = folder.join("docker-credential-mine");
    // By another process: a child of a test beside this one must not hold it open for writing.
    let put = format!("cat > {0}; chmod 755 {0}", program.display());
    brig_tests::Run::new("sh", &["-c", &put]).input(script).output().ok();
    let config = host.root.join("home/.docker");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.json"), format!("{{\"credHelpers\":{{\"{}\":\"mine\"}}}}", registry.address))
        .unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let brig = |arguments: &[&str], input: &str| {
        host.brig_run(arguments).env("PATH", path.as_str()).input(input.as_bytes().to_vec()).output()
    };
    brig(&["push", &name], "").fails(1);
    // A helper is asked by host and port, however the registry was written.
    brig(&["login", "-u", "wire", "--password-stdin", &format!("http://{}/v2/", registry.address)], "wire-secret").ok();
    let text = std::fs::read_to_string(config.join("config.json")).unwrap();
    assert!(!text.contains("auth\""), "{text}");
    assert!(std::fs::read_to_string(&kept).unwrap().contains("wire-secret"));
    brig(&["push", &name], "").ok();
    brig(&["logout", &registry.address], "").ok();
    brig(&["push", &name], "").fails(1);
}
