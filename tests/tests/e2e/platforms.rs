//! Images for several platforms: kept whole under one name, shown, chosen from, pushed, saved and removed.

use brig_tests::image::digest;
use brig_tests::{Image, Layer, Registry, TestHost, needs};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Busybox with a file that says for which platform it is.
fn image_for(architecture: &str) -> Image {
    let mut image = Image::busybox().with(Layer::new().file("which", 0o644, architecture), &[]);
    image.config["architecture"] = json!(architecture);
    image
}

/// Pushes an index of three images and an attestation; its digest, and the entries.
fn push_index(registry: &Registry, repository: &str, tag: &str) -> (String, Vec<Value>) {
    let mut entries = Vec::new();
    for architecture in ["s390x", "amd64", "arm64"] {
        let image = image_for(architecture);
        registry.push(&image, repository, architecture);
        let (manifest, _) = image.distributable();
        entries.push(json!({
            "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let (statement, config) = (br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#.to_vec(), b"{}".to_vec());
    let attestation = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": digest(&statement), "size": statement.len()}],
    });
    let attestation = attestation.to_string().into_bytes();
    registry.push_parts(&[statement, config], &attestation, repository, "attestation");
    (push_listed(registry, (repository, tag), &mut entries, &attestation), entries)
}

/// Pushes an index of these entries and of an attestation about the second, which it adds to them; the index's digest.
fn push_listed(
    registry: &Registry,
    (repository, tag): (&str, &str),
    entries: &mut Vec<Value>,
    attestation: &[u8],
) -> String {
    entries.push(json!({
        "mediaType": MANIFEST, "digest": digest(attestation), "size": attestation.len(),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": entries[1]["digest"]},
    }));
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).to_string().into_bytes();
    registry.push_parts(&[], &index, repository, tag)
}

fn images(host: &TestHost) -> String {
    host.brig(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok()
}

fn tree(host: &TestHost) -> Vec<(String, bool)> {
    let path = "/v1.48/images/json?manifests=1";
    let list = brig_tests::http::unix(&host.socket(), "GET", path, b"").unwrap().json();
    let manifests = list[0]["Manifests"].as_array().cloned().unwrap_or_default();
    let shown = |entry: &Value| {
        let what = match entry["Kind"].as_str().unwrap() {
            "image" => entry["ImageData"]["Platform"]["architecture"].as_str().unwrap().to_owned(),
            kind => kind.to_owned(),
        };
        (what, entry["Available"] == true)
    };
    manifests.iter().map(shown).collect()
}

fn of(all: &[(&str, bool)]) -> Vec<(String, bool)> {
    all.iter().map(|(what, here)| ((*what).to_owned(), *here)).collect()
}

#[test]
fn an_index_is_kept_whole_if_asked() {
    let host = TestHost::new();
    let registry = host.registry();
    let (index, entries) = push_index(&registry, "multi", "v1");
    let name = registry.name("multi:v1");
    host.brig(&["pull", &name]).ok();
    assert_eq!(tree(&host), of(&[("s390x", false), ("amd64", true), ("arm64", false), ("attestation", false)]));
    let pulled = host.brig(&["pull", "--all-platforms", &name]).ok();
    assert!(pulled.contains(&format!("Digest: {index}")), "{pulled}");
    assert!(pulled.starts_with("v1: Pulling from multi\n") && pulled.matches("Pulling from").count() == 1, "{pulled}");
    assert_eq!(tree(&host), of(&[("s390x", true), ("amd64", true), ("arm64", true), ("attestation", true)]));
    assert_eq!(images(&host), name, "the parts are not images of their own");
    let which = |platform: &str| {
        host.brig(&["create", "--name", "some", "--platform", platform, &name]).ok();
        let id = host.field("some", "{{.Image}}");
        host.brig(&["rm", "some"]).ok();
        id
    };
    for architecture in ["s390x", "amd64", "arm64"] {
        assert_eq!(which(&format!("linux/{architecture}")), image_for(architecture).id());
    }
    let by_digest = format!("{}@{}", registry.name("multi"), entries[2]["digest"].as_str().unwrap());
    assert_eq!(host.field(&by_digest, "{{.Architecture}}"), "arm64");
    let shown = ["image", "inspect", "--platform", "linux/arm64", "-f", "{{.Architecture}} {{.RepoTags}}", &name];
    assert_eq!(host.brig(&shown).ok(), format!("arm64 [{name}]"));
    let refused = host.brig(&["create", "--platform", "linux/riscv64", "--pull", "never", &name]);
    assert!(refused.code != 0 && refused.stderr.contains("linux/riscv64"), "{refused}");

    // A prune leaves what a name leads to; the name takes all with it.
    host.brig(&["image", "prune", "-f"]).ok();
    assert_eq!(which("linux/s390x"), image_for("s390x").id());
    host.brig(&["tag", &name, "other:1"]).ok();
    host.brig(&["rmi", &name]).ok();
    assert_eq!(host.brig(&["create", "--name", "tagged", "--platform", "linux/arm64", "other:1"]).code, 0);
    host.brig(&["rm", "tagged"]).ok();
    host.brig(&["rmi", "other:1"]).ok();
    assert_eq!(host.brig(&["images", "-aq"]).ok(), "");
}

#[test]
fn a_daemon_that_keeps_all_platforms() {
    let host = TestHost::with(&["--pull-all-platforms"]);
    let registry = host.registry();
    let (index, _) = push_index(&registry, "multi", "v1");
    let name = registry.name("multi:v1");
    let pulled = host.brig(&["pull", &name]).ok();
    assert!(pulled.contains(&format!("Digest: {index}")), "{pulled}");
    assert_eq!(tree(&host), of(&[("s390x", true), ("amd64", true), ("arm64", true), ("attestation", true)]));
    host.brig(&["rmi", &name]).ok();
    host.brig(&["pull", "--platform", "linux/arm64", &name]).ok();
    assert_eq!(tree(&host), of(&[("s390x", false), ("amd64", false), ("arm64", true), ("attestation", false)]));
    // Who did not ask for another CPU's image is told.
    let warning =
        "The requested image's platform (linux/arm64) does not match the detected host platform (linux/amd64)";
    let made = host.brig(&["create", &name]);
    assert!(made.code == 0 && made.stderr.contains(warning), "{made}");
    assert_eq!(host.brig(&["create", "--platform", "linux/arm64", &name]).stderr, "");
}

#[test]
fn what_a_daemon_keeps_is_read_again() {
    let host = TestHost::new();
    let registry = host.registry();
    push_index(&registry, "multi", "v1");
    let name = registry.name("multi:v1");
    let kept = || {
        host.brig(&["pull", &name]).ok();
        let kept = tree(&host).into_iter().filter(|(_, is_here)| *is_here).count();
        host.brig(&["rmi", &name]).ok();
        kept
    };
    assert_eq!(kept(), 1);
    for (json, expected) in [(r#"{"pull-all-platforms": true}"#, 4), ("{}", 1)] {
        let said = crate::registry_settings::settings(&host, json);
        assert!(said.contains("configuration reloaded"), "{said}");
        assert_eq!(kept(), expected, "{json}");
    }
    let events = host.brig(&["events", "--since", "10m", "--until", "0s", "--filter", "type=daemon"]).ok();
    assert!(events.contains("pull-all-platforms=true"), "{events}");
}

#[test]
fn an_index_goes_to_another_registry_as_it_is() {
    let host = TestHost::new();
    let registry = host.registry();
    let (index, _) = push_index(&registry, "multi", "v1");
    let name = registry.name("multi:v1");
    host.brig(&["pull", "--all-platforms", &name]).ok();
    let other = host.registry_at("127.0.0.1:5001");
    let target = other.name("copy/multi:v2");
    host.brig(&["tag", &name, &target]).ok();
    let pushed = host.brig(&["push", &target]).ok();
    let sent = other.manifest("copy/multi", "v2");
    let platforms: Vec<&Value> =
        sent["manifests"].as_array().unwrap().iter().map(|entry| &entry["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["s390x", "amd64", "arm64", "unknown"]);
    assert!(pushed.contains("v2: digest: sha256:"), "{pushed}");
    // What an attestation is about is what was sent.
    let about = &sent["manifests"][3]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(*about, sent["manifests"][1]["digest"]);
    assert!(pushed.contains(&index), "{pushed}");
    assert_eq!(sent, registry.manifest("multi", "v1"));
    // And through an archive.
    let file = host.root.join("whole.tar").display().to_string();
    host.brig(&["save", "--original", "-o", &file, &name]).ok();
    host.brig(&["rmi", &name, &target]).ok();
    host.brig(&["load", "-i", &file]).ok();
    let third = host.registry_at("127.0.0.1:5002");
    let loaded = third.name("multi:v3");
    host.brig(&["tag", &name, &loaded]).ok();
    let pushed = host.brig(&["push", &loaded]).ok();
    assert!(pushed.contains(&index), "{pushed}");
    // One platform alone goes as an image.
    let single = other.name("copy/multi:single");
    host.brig(&["tag", &name, &single]).ok();
    host.brig(&["push", "--platform", "linux/arm64", &single]).ok();
    assert_eq!(other.manifest("copy/multi", "single")["config"]["digest"], image_for("arm64").id());
}

#[test]
fn an_archive_has_all_platforms() {
    let mut host = TestHost::new();
    let registry = host.registry();
    push_index(&registry, "multi", "v1");
    let name = registry.name("multi:v1");
    host.brig(&["pull", "--all-platforms", &name]).ok();
    let file = |name: &str| host.root.join(name).display().to_string();
    let (first, second, one) = (file("1.tar"), file("2.tar"), file("3.tar"));
    host.brig(&["save", "-o", &first, &name]).ok();
    host.brig(&["save", "-o", &one, "--platform", "linux/arm64", &name]).ok();
    host.brig(&["rmi", &name]).ok();
    let loaded = host.brig(&["load", "-i", &first]).ok();
    assert_eq!(loaded, format!("Loaded image: {name}"));
    assert_eq!(tree(&host), of(&[("s390x", true), ("amd64", true), ("arm64", true), ("attestation", true)]));
    assert_eq!(host.field(&name, "{{.Architecture}}"), "amd64");
    host.brig(&["save", "-o", &second, &name]).ok();
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap(), "the same again");
    host.brig(&["rmi", &name]).ok();
    host.brig(&["load", "-i", &first, "--platform", "linux/arm64"]).ok();
    assert_eq!(tree(&host), of(&[("s390x", false), ("amd64", false), ("arm64", true), ("attestation", true)]));
    assert_eq!(host.field(&name, "{{.Id}}"), image_for("arm64").id());
    host.brig(&["rmi", &name]).ok();
    host.brig(&["load", "-i", &one]).ok();
    assert_eq!(host.field(&name, "{{.Architecture}}"), "arm64");
    let refused = host.brig(&["load", "-i", &first, "--platform", "linux/riscv64"]).fails(1);
    assert!(refused.contains("no image for linux/riscv64"), "{refused}");
    host.stop_daemon();
}

#[test]
fn the_stock_client_shows_the_tree() {
    needs!("platforms::the_stock_client_shows_the_tree", "docker");
    let host = TestHost::new();
    let registry = host.registry();
    push_index(&registry, "multi", "v1");
    let name = registry.name("multi:v1");
    host.brig(&["pull", "--all-platforms", &name]).ok();
    let shown = host.docker(&["images", "--tree"]).ok();
    for part in ["linux/amd64", "linux/arm64", "linux/s390x", &name] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    let ours = host.brig(&["images", "--tree"]).ok();
    for part in ["linux/amd64", "linux/arm64", "linux/s390x", "multi:v1"] {
        assert!(ours.contains(part), "{part}:\n{ours}");
    }
    let architecture = ["image", "inspect", "--platform", "linux/s390x", "-f", "{{.Architecture}}", &name];
    assert_eq!(host.docker(&architecture).ok(), "s390x");
    let history = host.docker(&["history", "--platform", "linux/arm64", "-q", "--no-trunc", &name]).ok();
    assert!(history.contains(&image_for("arm64").id()), "{history}");
    host.docker(&["image", "rm", "--platform", "linux/s390x", &name]).ok();
    let left: Vec<bool> = tree(&host).into_iter().map(|(_, here)| here).collect();
    assert_eq!(left, [false, true, true, true]);
}

#[test]
fn a_manifest_list_is_made_and_pushed() {
    let host = TestHost::new();
    let registry = host.registry();
    for architecture in ["amd64", "arm64"] {
        registry.push(&image_for(architecture), "one", architecture);
    }
    registry.push(&image_for("arm64"), "two", "other");
    let (list, amd, arm) = (registry.name("one:all"), registry.name("one:amd64"), registry.name("two:other"));
    let config = format!("--config={}", host.root.join("client").display());
    let manifest = |arguments: &[&str]| host.brig(&[&[&config, "manifest"][..], arguments].concat());
    assert_eq!(manifest(&["create", &list, &amd, &arm]).ok(), format!("Created manifest list {list}"));
    assert!(manifest(&["create", &list, &amd]).fails(1).contains("refusing to amend"));
    manifest(&["annotate", "--arch", "arm64", "--variant", "v8", &list, &arm]).ok();
    let local: Value = serde_json::from_str(&manifest(&["inspect", &list]).ok()).unwrap();
    assert_eq!(local["manifests"][1]["platform"]["variant"], "v8");
    let pushed = manifest(&["push", "--purge", &list]).ok();
    let sent = registry.manifest("one", "all");
    assert_eq!(sent["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(sent["manifests"][0]["platform"]["architecture"], "amd64");
    let remote: Value = serde_json::from_str(&manifest(&["inspect", &list]).ok()).unwrap();
    assert_eq!(remote, sent);
    assert!(manifest(&["rm", &list]).fails(1).contains("No such manifest"));
    // What came from another repository is in this one now.
    let pulled = host.brig(&["pull", "--all-platforms", &list]).ok();
    assert!(pulled.contains(&format!("Digest: {pushed}")), "{pulled}");
    assert!(manifest(&["create", &registry.name("one:more"), &list]).fails(1).contains("is a manifest list"));
    let elsewhere = registry.name("none:1");
    assert_eq!(manifest(&["inspect", &elsewhere]).fails(1), format!("no such manifest: {elsewhere}"));
    // In full, all that it leads to.
    let full: Value = serde_json::from_str(&manifest(&["inspect", "-v", &list]).ok()).unwrap();
    for (shown, entry) in full.as_array().unwrap().iter().zip(sent["manifests"].as_array().unwrap()) {
        assert_eq!(shown["Ref"], format!("{list}@{}", entry["digest"].as_str().unwrap()));
        assert_eq!(shown["Descriptor"]["platform"], entry["platform"]);
        assert_eq!(shown["OCIManifest"]["layers"].as_array().unwrap().len(), 2, "{shown}");
    }
    assert_eq!(full.as_array().unwrap().len(), 2);
}

const PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";
const SBOM: &str = "https://spdx.dev/Document";

/// Pushes an index of two images with statements about the second; gives these.
fn push_attested(registry: &Registry, name: &str) -> Vec<String> {
    let here = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let mut entries = Vec::new();
    for architecture in ["s390x", here] {
        let (manifest, blobs) = image_for(architecture).distributable();
        registry.push_parts(&blobs, &manifest, name, &digest(&manifest));
        entries.push(json!({
            "mediaType": MANIFEST, "digest": digest(&manifest), "size": manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    // The second with spaces and keys in no order: it comes back word for word.
    let statements = [
        json!({"_type": "https://in-toto.io/Statement/v0.1", "predicateType": PROVENANCE, "predicate": {}}).to_string(),
        format!(r#"{{"predicateType": "{SBOM}",  "predicate": {{"z": 1.0, "a": 1e2}}}}"#),
    ];
    let layer = |statement: &String, annotations: Value| {
        let digest = digest(statement.as_bytes());
        json!({"mediaType": "application/vnd.in-toto+json", "digest": digest, "size": statement.len(), "annotations": annotations})
    };
    let attestation = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [
            layer(&statements[0], json!({"in-toto.io/predicate-type": PROVENANCE})),
            layer(&statements[0], json!({"about": "nothing"})),
            layer(&statements[1], json!({"in-toto.io/predicate-type": SBOM})),
        ],
    });
    let attestation = attestation.to_string().into_bytes();
    let mut blobs: Vec<Vec<u8>> = statements.iter().map(|statement| statement.clone().into_bytes()).collect();
    blobs.push(b"{}".to_vec());
    registry.push_parts(&blobs, &attestation, name, &digest(&attestation));
    push_listed(registry, (name, "v1"), &mut entries, &attestation);
    statements.to_vec()
}

#[test]
fn statements_about_an_image() {
    let host = TestHost::new();
    let registry = host.registry();
    let statements = push_attested(&registry, "attested");
    let name = registry.name("attested:v1");
    let ask = |image: &str, query: &str| {
        let path = format!("/images/{image}/attestations{query}");
        brig_tests::http::unix(&host.socket(), "GET", &path, b"").unwrap()
    };
    assert_eq!(ask(&name, "").status, 404);
    host.brig(&["pull", &name]).ok();
    let refused = ask(&name, "");
    assert!(refused.status == 404 && refused.text().contains("--all-platforms"), "{}", refused.text());
    host.brig(&["pull", "--all-platforms", &name]).ok();
    let kinds = |query: &str| {
        let answer = ask(&name, query);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let entries = answer.json().as_array().unwrap().clone();
        let kinds: Vec<String> = entries.iter().map(|it| it["PredicateType"].as_str().unwrap().to_owned()).collect();
        (entries, kinds)
    };
    let (entries, all) = kinds("");
    assert_eq!(all, [PROVENANCE, SBOM]);
    assert!(entries.iter().all(|entry| entry.get("Statement").is_none()), "{entries:?}");
    assert_eq!(entries[1]["Descriptor"]["digest"], digest(statements[1].as_bytes()));
    assert_eq!(entries[1]["Descriptor"]["mediaType"], "application/vnd.in-toto+json");
    assert_eq!(entries[1]["Descriptor"]["annotations"]["in-toto.io/predicate-type"], SBOM);
    let text = ask(&name, "?statement=true").text();
    assert!(statements.iter().all(|statement| text.contains(statement)), "{text}");
    assert_eq!(kinds(&format!("?type={SBOM}")).1, [SBOM]);
    assert_eq!(kinds(&format!("?type={SBOM}&type={PROVENANCE}")).1, [PROVENANCE, SBOM]);
    assert_eq!(kinds(&format!("?type={SBOM},{PROVENANCE}")).1, [PROVENANCE, SBOM]);
    assert!(kinds("?type=https://example.com/none").1.is_empty());
    // Of another image of the index there are none; of what is not in it nothing can be said.
    let platform =
        |architecture: &str| format!("platform=%7B%22os%22:%22linux%22,%22architecture%22:%22{architecture}%22%7D");
    assert!(kinds(&format!("?{}", platform("s390x"))).1.is_empty());
    assert_eq!(ask(&name, &format!("?{}", platform("riscv64"))).status, 404);
    let two = ask(&name, &format!("?{}&{}", platform("s390x"), platform("riscv64")));
    assert!(
        two.status == 400 && two.text().contains("only one platform value is currently supported"),
        "{}",
        two.text()
    );
    // An image without an index has none; nor is more than the index needed to find them.
    host.load_busybox();
    assert_eq!(ask("busybox", "").text().trim(), "[]");
    host.brig(&["image", "prune", "-f"]).ok();
    assert_eq!(ask(&host.field(&name, "{{.Id}}"), "?statement=1").json().as_array().unwrap().len(), 2);
}

#[test]
fn statements_that_are_pushed_with_an_image() {
    let host = TestHost::with(&["--serve-registry", "127.0.0.1:5000"]);
    let registry = host.daemons_registry("127.0.0.1:5000");
    let statements = push_attested(&registry, "attested");
    let ask = || {
        let path = "/images/attested:v1/attestations?statement=1";
        brig_tests::http::unix(&host.socket(), "GET", path, b"").unwrap()
    };
    let text = ask().text();
    assert!(statements.iter().all(|statement| text.contains(statement)), "{text}");
    host.brig(&["image", "prune", "-f"]).ok();
    assert_eq!(ask().text(), text);
    // They go with the name that leads to them.
    host.brig(&["rmi", "attested:v1"]).ok();
    assert_eq!(ask().status, 404);
    host.brig(&["image", "prune", "-f"]).ok();
    host.nothing_is_left();
}
