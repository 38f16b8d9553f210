//! What clients are told of images and what was made from them: fields, names, events, lines of progress.

use brig_tests::{Image, Layer, TestHost, http};
use serde_json::{Value, json};

fn get(host: &TestHost, path: &str) -> Value {
    http::unix(&host.socket(), "GET", path, b"").unwrap().json()
}

/// Loads an image whose only own file says `content`.
fn load(host: &TestHost, name: &str, content: &str) {
    let image = Image::busybox().with(Layer::new().file("file", 0o644, content), &[("Labels", json!({"team": "a"}))]);
    let path = host.root.join("image.tar");
    std::fs::write(&path, image.docker_archive(name)).unwrap();
    host.brig(&["load", "-q", "-i", &path.display().to_string()]).ok();
}

/// `action name` of what happened and passes the filters.
fn events(host: &TestHost, filters: &Value) -> Vec<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let filters = filters.to_string().replace('{', "%7B").replace('}', "%7D").replace('"', "%22").replace(' ', "");
    let path = format!("/events?since=1&until={}.{:09}&filters={filters}", now.as_secs(), now.subsec_nanos());
    let text = http::unix(&host.socket(), "GET", &path, b"").unwrap().text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|event| format!("{} {}", event["Action"], event["Actor"]["Attributes"]["name"]).replace('"', ""))
        .collect()
}

#[test]
fn a_configuration_has_the_fields_of_its_api_version() {
    let host = TestHost::new();
    load(&host, "app:1", "one");
    let config = |version: &str| get(&host, &format!("/v{version}/images/app:1/json"))["Config"].clone();
    let new = config("1.51");
    for name in ["Entrypoint", "OnBuild", "Volumes"] {
        assert_eq!(new.get(name), Some(&Value::Null), "{name}: {new}");
    }
    assert_eq!((&new["User"], &new["WorkingDir"], &new["Labels"]), (&json!(""), &json!(""), &json!({"team": "a"})));
    assert_eq!(new.get("Hostname"), None);
    let old = config("1.49");
    assert_eq!((&old["Hostname"], &old["Tty"], &old["Image"]), (&json!(""), &json!(false), &json!("")));
    assert_eq!(old["Cmd"], new["Cmd"]);
    let containers = |version: &str| get(&host, &format!("/v{version}/images/json"))[0]["Containers"].clone();
    assert_eq!((containers("1.51"), containers("1.50")), (json!(0), json!(-1)));
    host.brig(&["create", "app:1"]).ok();
    assert_eq!(containers("1.51"), json!(1));
}

#[test]
fn a_name_by_digest_goes_without_the_tags() {
    let host = TestHost::new();
    let registry = host.registry();
    let digest = registry.push(&Image::busybox(), "team/app", "v1");
    registry.push(&Image::busybox(), "other/app", "v1");
    let (name, other) = (registry.name("team/app:v1"), registry.name("other/app:v1"));
    let by_digest = format!("{}@{digest}", registry.name("team/app"));
    for image in [&name, &other] {
        host.brig(&["pull", image]).ok();
    }
    let again = host.brig(&["pull", &by_digest]).ok();
    assert!(again.starts_with(&format!("{by_digest}: Pulling from team/app")), "{again}");
    assert!(again.contains(&format!("Status: Image is up to date for {by_digest}")), "{again}");
    assert_eq!(host.brig(&["rmi", &by_digest]).ok(), format!("Untagged: {by_digest}"));
    let listed = host.brig(&["images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}"]).ok();
    let mut listed: Vec<&str> = listed.lines().collect();
    listed.sort_unstable();
    let (repository, others) = (registry.name("team/app"), registry.name("other/app"));
    assert_eq!(listed, [format!("{others} v1 {digest}"), format!("{repository} v1 <none>")]);
    let missing = host.brig(&["rmi", &by_digest]).fails(1);
    assert!(missing.contains("No such image"), "{missing}");
    // The last name takes the image along.
    host.brig(&["rmi", &name]).ok();
    let removed = host.brig(&["rmi", &format!("{others}@{digest}")]).ok();
    assert_eq!(removed, format!("Untagged: {others}@{digest}"));
    assert!(host.brig(&["rmi", &other]).ok().contains("Deleted: sha256:"));
    // Without any tag a digest is the name: what was asked for so precisely does not go with what nothing names.
    host.brig(&["pull", &by_digest]).ok();
    host.brig(&["image", "prune", "-f"]).ok();
    assert_eq!(host.brig(&["images", "-q", "-f", "dangling=true"]).ok(), "");
    assert!(host.brig(&["rmi", &by_digest]).ok().contains("Deleted: sha256:"));
}

#[test]
fn events_tell_the_labels_and_are_found_by_image() {
    let host = TestHost::new();
    let registry = host.registry();
    load(&host, "app:1", "one");
    let name = registry.name("team/app:v1");
    host.brig(&["tag", "app:1", &name]).ok();
    host.brig(&["create", "--name", "box", &name, "true"]).ok();
    let id = host.brig(&["commit", "box", "made:1"]).ok();
    assert_eq!(
        events(&host, &json!({"type": ["image"], "label": ["team=a"]})),
        ["load app:1".to_owned(), format!("tag {name}"), format!("create {id}"), "tag made:1".to_owned()]
    );
    // A registry's port is no tag.
    for wanted in [registry.name("team/app"), name.clone()] {
        let seen = events(&host, &json!({"image": [wanted]}));
        assert_eq!(seen, [format!("tag {name}"), "create box".to_owned(), "commit box".to_owned()], "{wanted}");
    }
    assert_eq!(events(&host, &json!({"image": ["127.0.0.1"]})), Vec::<String>::new());
}

#[test]
fn a_container_is_listed_by_id_when_its_name_means_another_image() {
    let host = TestHost::new();
    load(&host, "app:1", "one");
    let id = host.field("app:1", "{{.Id}}");
    host.brig(&["create", "--name", "box", "app:1", "true"]).ok();
    let image = || host.brig(&["ps", "-a", "--format", "{{.Image}}"]).ok();
    assert_eq!(image(), "app:1");
    load(&host, "app:1", "two");
    assert_eq!(image(), id["sha256:".len()..][..12]);
    assert_eq!(get(&host, "/containers/json?all=1")[0]["Image"], json!(id));
    // What it was given is what it says of itself.
    assert_eq!(get(&host, "/containers/box/json")["Config"]["Image"], json!("app:1"));
}

#[test]
fn a_prune_tells_what_went() {
    let host = TestHost::new();
    load(&host, "app:v1", "one");
    host.brig(&["tag", "app:v1", "app:V2"]).ok();
    let asked = host.brig_run(&["image", "prune", "-a"]).input("n\n").output();
    assert!(asked.ok().contains("Are you sure you want to continue? [y/N]"), "{asked}");
    let pruned = host.brig(&["image", "prune", "-af"]).ok();
    for line in ["untagged: app:v1\n", "untagged: app:V2\n", "deleted: sha256:"] {
        assert!(pruned.contains(line), "{line}: {pruned}");
    }
}

#[test]
fn lines_of_progress_have_a_bar() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&Image::busybox(), "app", "v1");
    let path = format!("/images/create?fromImage={}&tag=v1", registry.name("app"));
    let text = http::unix(&host.socket(), "POST", &path, b"").unwrap().text();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let extracted = lines.iter().rfind(|line| line["status"] == "Extracting").unwrap();
    let bar = extracted["progress"].as_str().unwrap_or_default();
    assert!(bar.starts_with("[=====") && bar.contains("MB/"), "{extracted}");
    assert!(
        lines.iter().all(|line| line["progressDetail"]["total"].is_i64() == line["progress"].is_string()),
        "{text}"
    );
}

#[test]
fn names_that_cannot_be_are_refused() {
    let host = TestHost::new();
    load(&host, "app:1", "one");
    let refused = host.brig(&["pull", "scratch"]).fails(1);
    assert!(refused.contains("'scratch' is a reserved name"), "{refused}");
    let refused = host.brig(&["tag", "app:1", "sha256:abc"]).fails(1);
    assert!(refused.contains("refusing to create an ambiguous tag using digest algorithm as name"), "{refused}");
    let refused = host.brig(&["inspect", "--type", "container", "team/app:1"]).fails(1);
    assert!(refused.contains("No such container: team/app:1"), "{refused}");
    let digest = format!("x@sha256:{}", "0".repeat(64));
    host.brig(&["create", "--name", "box", "app:1", "true"]).ok();
    for arguments in [["commit", "box", &digest], ["import", "/dev/null", &digest]] {
        let refused = host.brig(&arguments).fails(1);
        assert!(refused.contains("refusing to create a tag with a digest reference"), "{refused}");
    }
    for verb in ["load", "import"] {
        let archive = if verb == "load" { vec!["load", "-i", "/tmp"] } else { vec!["import", "/tmp"] };
        assert!(host.brig(&archive).fails(1).contains("read /tmp: is a directory"), "{verb}");
    }
}
