//! The registry over an engine's own storage (`brig daemon --serve-registry`): what is pushed there is an image of the engine, and
//! the engine's images can be had from there.

use brig_tests::image::{digest, gzip, gzip_program};
use brig_tests::{Image, Layer, Registry, TestHost, eventually, needs};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

const ADDRESS: &str = "127.0.0.1:5000";

fn serving() -> (TestHost, Registry) {
    serving_with(&[])
}

fn serving_with(settings: &[&str]) -> (TestHost, Registry) {
    let mut arguments = vec!["--serve-registry", ":5000"];
    settings.iter().for_each(|setting| arguments.extend(["--serve-registry-opt", setting]));
    let host = TestHost::with(&arguments);
    let registry = host.daemons_registry(ADDRESS);
    (host, registry)
}

/// A daemon on another machine, and the address of the first one's registry as it is seen from there.
fn other_engine(host: &TestHost) -> (TestHost, String) {
    let neighbour = host.neighbour();
    let address = format!("{}:5000", neighbour.host);
    let mut other = TestHost::without_daemon(&["--insecure-registry", &address]);
    other.netns = neighbour.netns;
    // Its network is not its own to leave clean.
    other.forgive = true;
    other.start_daemon();
    (other, address)
}

fn image() -> Image {
    Image::busybox().with(Layer::new().file("etc/mine", 0o600, "mine\n"), &[])
}

fn blob_file(host: &TestHost, digest: &str) -> PathBuf {
    host.data_root.join("v1/blobs/sha256").join(digest.strip_prefix("sha256:").expect("a sha256 digest"))
}

fn exists(registry: &Registry, path: &str) -> bool {
    registry.ask("HEAD", path, &[]).status == 200
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

#[test]
fn what_is_pushed_is_an_image_and_is_kept_once() {
    // Who asks with HEAD whether a blob is there may rely on the answer for so long.
    let (host, registry) = serving_with(&["gc-grace=3s", "gc-interval=1s"]);
    let (manifest, blobs) = image().distributable();
    let pushed = registry.push_parts(&blobs, &manifest, "team/app", "v1");
    assert_eq!(host.brig(&["images", "-q", "--no-trunc"]).ok(), image().id());
    let run = ["run", "--rm", "--network", "none", "--pull", "never", "team/app:v1", "cat", "/etc/mine"];
    assert_eq!(host.brig(&run).ok(), "mine");
    let shown = host.brig(&["image", "inspect", "--format", "{{.RepoDigests}} {{.RepoTags}}", "team/app:v1"]).ok();
    assert_eq!(shown, format!("[team/app@{pushed}] [team/app:v1]"));
    // By tag and by digest, byte for byte.
    for reference in ["v1", &pushed] {
        let answer = registry.ask("GET", &format!("/v2/team/app/manifests/{reference}"), &[]);
        assert_eq!((answer.status, &answer.body), (200, &manifest));
    }
    for blob in &blobs {
        let path = format!("/v2/team/app/blobs/{}", digest(blob));
        let head = registry.ask("HEAD", &path, &[]);
        assert_eq!((head.status, head.header("content-length")), (200, Some(blob.len().to_string().as_str())));
        assert!(registry.ask("GET", &path, &[]).body == *blob);
        let part = registry.part(&path, "bytes=50-99");
        assert_eq!((part.status, &part.body[..]), (206, &blob[50..100]));
        let end = registry.part(&path, "bytes=-1");
        assert_eq!((end.status, &end.body[..]), (206, &blob[blob.len() - 1..]));
    }
    let kept: Value = serde_json::from_slice(&manifest).unwrap();
    for layer in kept["layers"].as_array().unwrap() {
        let digest = layer["digest"].as_str().unwrap();
        assert!(!blob_file(&host, digest).exists(), "{digest} is there unpacked and as it came");
    }
    // Nothing but the image holds it.
    host.brig(&["rmi", "team/app:v1"]).ok();
    assert_eq!(registry.ask("GET", "/v2/team/app/manifests/v1", &[]).status, 404);
    assert_eq!(registry.ask("GET", &format!("/v2/team/app/manifests/{pushed}"), &[]).status, 404);
    eventually("the layers are gone", || {
        std::fs::read_dir(host.data_root.join("v1/layers")).is_ok_and(|mut left| left.next().is_none()).then_some(())
    });
    assert!(!exists(&registry, &format!("/v2/team/app/blobs/{}", digest(&blobs[0]))));
}

#[test]
fn images_that_were_made_here_can_be_had() {
    let (host, registry) = serving();
    host.load_busybox();
    host.brig(&["run", "--name", "box", "--network", "none", "busybox", "sh", "-c", "echo made > /made"]).ok();
    host.brig(&["commit", "box", "made:1"]).ok();
    let tar = host.root.join("root.tar");
    std::fs::write(&tar, Layer::new().file("only", 0o644, "imported\n").bytes()).unwrap();
    host.brig(&["import", &tar.display().to_string(), "imported:1"]).ok();
    assert_eq!(
        strings(&registry.ask("GET", "/v2/_catalog", &[]).json()["repositories"]),
        ["busybox", "imported", "made"]
    );
    assert_eq!(registry.ask("GET", "/v2/made/tags/list", &[]).json(), json!({ "name": "made", "tags": ["1"] }));
    let (other, address) = other_engine(&host);
    let far = |name: &str| format!("{address}/{name}");
    for name in ["made:1", "imported:1", "busybox:latest"] {
        let pulled = other.brig(&["pull", &far(name)]).ok();
        let id = |on: &TestHost, name: &str| on.brig(&["image", "inspect", "--format", "{{.Id}}", name]).ok();
        assert_eq!(id(&other, &far(name)), id(&host, name), "{pulled}");
        // Asked again it is the same.
        let (repository, tag) = name.split_once(':').unwrap();
        let said = registry.ask("HEAD", &format!("/v2/{repository}/manifests/{tag}"), &[]);
        assert!(pulled.contains(said.header("docker-content-digest").unwrap()), "{pulled}");
    }
    let run = ["run", "--rm", "--network", "none", &far("made:1"), "cat", "/made"];
    assert_eq!(other.brig(&run).ok(), "made");
}

#[test]
fn the_stock_client_and_skopeo_push_to_it_and_pull_from_it() {
    needs!("registry_engine::the_stock_client_and_skopeo_push_to_it_and_pull_from_it", "docker");
    needs!("registry_engine::the_stock_client_and_skopeo_push_to_it_and_pull_from_it", "skopeo");
    let (host, registry) = serving();
    let (other, address) = other_engine(&host);
    other.load_busybox();
    let far = |name: &str| format!("{address}/{name}");
    let name = far("team/box:v1");
    other.docker(&["tag", "busybox", &name]).ok();
    let pushed = other.docker(&["push", &name]).ok();
    let digest = registry.ask("HEAD", "/v2/team/box/manifests/v1", &[]);
    assert!(pushed.contains(digest.header("docker-content-digest").unwrap()), "{pushed}");
    assert_eq!(host.brig(&["run", "--rm", "--network", "none", "team/box:v1", "echo", "runs"]).ok(), "runs");
    // Again, everything is there; under another name it is mounted.
    assert!(other.docker(&["push", &name]).ok().contains("Layer already exists"));
    other.docker(&["tag", "busybox", &far("other/box:v2")]).ok();
    other.docker(&["push", "-q", &far("other/box:v2")]).ok();
    other.docker(&["rmi", "-f", &name, &far("other/box:v2"), "busybox"]).ok();
    other.docker(&["pull", "-q", &far("other/box:v2")]).ok();
    let skopeo = |arguments: &[&str]| host.program("skopeo", arguments).output().ok();
    let (from, to) =
        (format!("docker://{}", registry.name("team/box:v1")), format!("docker://{}", registry.name("zstd/box:v1")));
    let plain = ["copy", "--src-tls-verify=false", "--dest-tls-verify=false", "--dest-compress-format", "zstd"];
    skopeo(&[&plain[..], &[&from, &to]].concat());
    assert_eq!(host.brig(&["run", "--rm", "--network", "none", "zstd/box:v1", "echo", "runs"]).ok(), "runs");
    skopeo(&["delete", "--tls-verify=false", &to]);
    assert_eq!(registry.ask("GET", "/v2/zstd/box/manifests/v1", &[]).status, 404);
    assert!(!host.brig(&["images"]).ok().contains("zstd/box"));
}

#[test]
fn names_and_deletions_are_the_same_on_both_sides() {
    let (host, registry) = serving_with(&["gc-grace=0s"]);
    let first = registry.push(&image(), "app", "1");
    host.brig(&["tag", "app:1", "app:2"]).ok();
    host.brig(&["tag", "app:1", "ghcr.io/team/app:1"]).ok();
    host.brig(&["tag", "app:1", "localhost:5000/hidden:1"]).ok();
    let catalog = registry.ask("GET", "/v2/_catalog", &[]).json();
    assert_eq!(strings(&catalog["repositories"]), ["app", "ghcr.io/team/app"]);
    let page = registry.ask("GET", "/v2/app/tags/list?n=1", &[]);
    assert_eq!(strings(&page.json()["tags"]), ["1"]);
    assert!(page.header("link").is_some_and(|link| link.contains("last=1")));
    assert_eq!(strings(&registry.ask("GET", "/v2/app/tags/list?last=1", &[]).json()["tags"]), ["2"]);
    assert!(exists(&registry, "/v2/ghcr.io/team/app/manifests/1"));
    // One name for each image: who may see one thing is not asked about another.
    assert_eq!(registry.ask("GET", "/v2/library/app/manifests/1", &[]).status, 404);
    let (manifest, blobs) = image().distributable();
    let refused = registry.try_push(&blobs, &manifest, "library/app", "1");
    assert!(refused.status == 400 && refused.text().contains("called app here"), "{}", refused.text());
    // A tag that is pushed anew: what it meant can be had by its digest until it is collected.
    let second = registry.push(&image().with(Layer::new().file("etc/second", 0o644, "2"), &[]), "app", "2");
    assert_eq!(registry.ask("GET", &format!("/v2/app/manifests/{first}"), &[]).status, 200);
    assert_eq!(registry.ask("DELETE", "/v2/app/manifests/2", &[]).status, 202);
    assert!(!host.brig(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok().contains("app:2"));
    assert_eq!(registry.ask("GET", "/v2/app/manifests/2", &[]).status, 404);
    assert!(exists(&registry, &format!("/v2/app/manifests/{second}")));
    assert_eq!(registry.ask("DELETE", &format!("/v2/app/manifests/{second}"), &[]).status, 202);
    assert_eq!(registry.ask("GET", &format!("/v2/app/manifests/{second}"), &[]).status, 404);
    // Its image had no other name.
    assert_eq!(host.brig(&["images", "-aq", "--filter", "dangling=true"]).ok(), "");
    // By digest all tags go, and the image stays for its other names.
    assert_eq!(registry.ask("DELETE", &format!("/v2/app/manifests/{first}"), &[]).status, 202);
    assert!(!exists(&registry, "/v2/app/manifests/1"));
    assert!(exists(&registry, "/v2/ghcr.io/team/app/manifests/1"));
    assert_eq!(host.brig(&["run", "--rm", "--network", "none", "ghcr.io/team/app:1", "cat", "/etc/mine"]).ok(), "mine");
}

#[test]
fn a_container_keeps_its_layers_whatever_the_registry_is_told() {
    let (host, registry) = serving_with(&["gc-grace=3s", "gc-interval=1s", "gc-untagged"]);
    let pushed = registry.push(&image(), "app", "1");
    host.brig(&["run", "-d", "--name", "box", "--network", "none", "app:1", "sleep", "1000"]).ok();
    assert_eq!(registry.ask("DELETE", &format!("/v2/app/manifests/{pushed}"), &[]).status, 202);
    registry.push(&image().with(Layer::new().file("etc/other", 0o644, "2"), &[]), "app", "1");
    host.brig(&["system", "prune", "-f"]).ok();
    assert_eq!(host.brig(&["exec", "box", "cat", "/etc/mine"]).ok(), "mine");
    host.brig(&["rm", "-f", "box"]).ok();
}

#[test]
fn artifacts_and_indexes_are_kept_beside_images() {
    let (host, registry) = serving();
    let image_digest = registry.push(&image(), "app", "1");
    // About the image; not an image itself.
    let empty = b"{}".to_vec();
    let content = b"signed".to_vec();
    let descriptor =
        |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let subject_size = registry.raw_manifest("app", "1").1.len();
    let manifest_kind = "application/vnd.oci.image.manifest.v1+json";
    let artifact = json!({
        "schemaVersion": 2, "mediaType": manifest_kind, "artifactType": "application/vnd.test.signature",
        "config": descriptor("application/vnd.oci.empty.v1+json", &empty),
        "layers": [descriptor("application/vnd.test.signature", &content)],
        "subject": { "mediaType": manifest_kind, "digest": image_digest, "size": subject_size },
    });
    let artifact = serde_json::to_vec(&artifact).unwrap();
    let artifact_digest = registry.push_parts(&[empty, content], &artifact, "app", "signature");
    let referrers = registry.ask("GET", &format!("/v2/app/referrers/{image_digest}"), &[]).json();
    assert_eq!(referrers["manifests"][0]["digest"], artifact_digest.as_str());
    assert_eq!(strings(&registry.ask("GET", "/v2/app/tags/list", &[]).json()["tags"]), ["1", "signature"]);
    assert!(!host.brig(&["images"]).ok().contains("signature"));
    // An index of the image that is there and of another one, which comes first.
    let arm = Image::busybox().with(Layer::new().file("arm", 0o644, "arm"), &[("architecture", json!("arm64"))]);
    let arm_digest = registry.push(&arm, "app", &digest(&arm.distributable().0));
    let of = |digest: &str, architecture: &str, size: usize| {
        let platform = json!({ "os": "linux", "architecture": architecture });
        json!({ "mediaType": manifest_kind, "digest": digest, "size": size, "platform": platform })
    };
    let here = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [of(&arm_digest, "riscv64", arm.distributable().0.len()), of(&image_digest, here, subject_size)],
    }))
    .unwrap();
    registry.push_parts(&[], &index, "app", "multi");
    assert_eq!(registry.ask("GET", "/v2/app/manifests/multi", &[]).body, index);
    assert!(exists(&registry, &format!("/v2/app/manifests/{arm_digest}")));
    assert_eq!(host.brig(&["run", "--rm", "--network", "none", "app:multi", "cat", "/etc/mine"]).ok(), "mine");
    // The index's parts go with it, what stands by itself stays.
    host.brig(&["rmi", "app:1"]).ok();
    assert!(exists(&registry, &format!("/v2/app/manifests/{image_digest}")));
    host.brig(&["rmi", "app:multi"]).ok();
    assert_eq!(host.brig(&["images", "-aq"]).ok(), "");
    assert!(!exists(&registry, &format!("/v2/app/manifests/{arm_digest}")));
    assert_eq!(registry.ask("GET", "/v2/app/manifests/signature", &[]).body, artifact);
}

#[test]
fn what_an_artifact_shares_with_an_image_outlives_it() {
    let (host, registry) = serving_with(&["gc-grace=3s", "gc-interval=1s"]);
    // Of the gzip program's work there is a recipe.
    let image =
        Image::busybox().with(Layer::new().file("etc/mine", 0o600, "mine, and mine again\n".repeat(9_999)), &[]);
    let (manifest, mut blobs) = image.distributable();
    let mut kept: Value = serde_json::from_slice(&manifest).unwrap();
    for (nth, layer) in image.layers.iter().enumerate() {
        let packed = gzip_program(layer, 6);
        kept["layers"][nth]["digest"] = json!(digest(&packed));
        kept["layers"][nth]["size"] = json!(packed.len());
        blobs.push(packed);
    }
    registry.push_parts(&blobs, &serde_json::to_vec(&kept).unwrap(), "app", "1");
    let (layer, empty) = (kept["layers"][1].clone(), b"{}".to_vec());
    let artifact = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "application/x",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(&empty), "size": 2 },
        "layers": [layer],
    });
    registry.push_parts(&[empty], &serde_json::to_vec(&artifact).unwrap(), "app", "artifact");
    // From now on the blob is made of the layer.
    host.wait_for_recipes();
    host.brig(&["rmi", "app:1"]).ok();
    host.brig(&["system", "prune", "-af"]).ok();
    let wanted = layer["digest"].as_str().unwrap();
    let blob = registry.ask("GET", &format!("/v2/app/blobs/{wanted}"), &[]);
    assert_eq!((blob.status, digest(&blob.body).as_str()), (200, wanted));
}

#[test]
fn a_broken_image_is_kept_as_it_is_and_makes_no_image() {
    let (host, registry) = serving();
    let (manifest, mut blobs) = image().distributable();
    let mut said: Value = serde_json::from_slice(&manifest).unwrap();
    let wrong = gzip(&Layer::new().file("etc/mine", 0o600, "another\n").bytes());
    said["layers"][1]["digest"] = json!(digest(&wrong));
    said["layers"][1]["size"] = json!(wrong.len());
    blobs.push(wrong);
    let manifest = serde_json::to_vec(&said).unwrap();
    let answer = registry.try_push(&blobs, &manifest, "app", "1");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert!(answer.header("warning").is_some_and(|text| text.contains("promises")), "{}", answer.head);
    assert_eq!(host.brig(&["images", "-aq"]).ok(), "");
    assert_eq!(registry.ask("GET", "/v2/app/manifests/1", &[]).body, manifest);
    let begun = std::fs::read_dir(host.data_root.join("v1/ingest")).unwrap().count();
    assert_eq!(begun, 0);
    // A whole one takes the name over.
    registry.push(&image(), "app", "1");
    assert_eq!(strings(&registry.ask("GET", "/v2/app/tags/list", &[]).json()["tags"]), ["1"]);
    assert_eq!(host.brig(&["images", "-q", "--no-trunc"]).ok(), image().id());
}

/// The names in a directory of the store.
fn names(host: &TestHost, dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(host.data_root.join("v1").join(dir)).expect("a directory of the store");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_is_deleted_gives_its_bytes_back_and_what_is_on_its_way_stays() {
    // With an hour's grace, as it is by default.
    let (host, registry) = serving();
    let (manifest, blobs) = image().distributable();
    let pushed = registry.push_parts(&blobs, &manifest, "app", "1");
    // Another push is told that the layer below is there, sends its own, and is in the midst of one more blob.
    let other = Image::busybox().with(Layer::new().file("etc/other", 0o644, "other\n"), &[]);
    let (others, parts) = other.distributable();
    let layers = |manifest: &[u8]| -> Vec<String> {
        let kept: Value = serde_json::from_slice(manifest).unwrap();
        let layers = kept["layers"].as_array().unwrap().iter();
        layers.map(|layer| format!("/v2/app/blobs/{}", layer["digest"].as_str().unwrap())).collect()
    };
    assert!(exists(&registry, &layers(&manifest)[0]) && layers(&manifest)[0] == layers(&others)[0]);
    let own = parts.iter().filter(|part| !blobs.contains(part));
    own.for_each(|part| registry.push_blob("app", part));
    let upload = registry.ask("POST", "/v2/app/blobs/uploads/", &[]).header("location").unwrap().to_owned();
    assert_eq!(registry.ask("PATCH", &upload, b"half").status, 202);
    assert_eq!(names(&host, "layers").len(), 2);
    for reference in ["1", &pushed] {
        assert_eq!(registry.ask("DELETE", &format!("/v2/app/manifests/{reference}"), &[]).status, 202);
    }
    let said = host.brig(&["image", "prune", "-f"]).ok();
    assert_eq!(names(&host, "layers").len(), 1, "{said}");
    assert_eq!(registry.ask("GET", &layers(&manifest)[1], &[]).status, 404);
    registry.push_parts(&[], &others, "app", "2");
    let run = ["run", "--rm", "--network", "none", "app:2", "cat", "/etc/other"];
    assert_eq!(host.brig(&run).ok(), "other");
    // The tag means something else, then nothing: what is left has no name, and a prune takes it.
    registry.push(&Image::busybox(), "app", "2");
    assert_eq!(registry.ask("DELETE", "/v2/app/manifests/2", &[]).status, 202);
    assert_eq!(host.brig(&["images", "-aq"]).ok().lines().count(), 2);
    let said = host.brig(&["image", "prune", "-f"]).ok();
    assert_eq!(host.brig(&["images", "-aq"]).ok(), "", "{said}");
    host.nothing_is_left();
    let rest = registry.ask("PUT", &format!("{upload}?digest={}", digest(b"half a blob")), b" a blob");
    assert_eq!(rest.status, 201, "{}", rest.text());
}

#[test]
fn what_a_push_was_told_of_outlives_the_images_that_brought_it() {
    let (host, registry) = serving();
    let with = |word: &str| Image::busybox().with(Layer::new().file("etc/word", 0o644, format!("{word}\n")), &[]);
    let (first, blobs) = with("first").distributable();
    registry.push_parts(&blobs, &first, "app", "first");
    let named: Value = serde_json::from_slice(&first).unwrap();
    let shared = named["layers"][0]["digest"].as_str().unwrap();
    let send_own = |image: &Image, repository: &str| {
        let own = image.distributable().1.into_iter().filter(|part| !blobs.contains(part));
        own.for_each(|part| registry.push_blob(repository, &part));
    };
    // Three pushes rely on the layer below: one asks in the repository, one mounts it into another, and a third asks and ends.
    let (slow, mounting, quick) = (with("slow"), with("mounting"), with("quick"));
    assert!(exists(&registry, &format!("/v2/app/blobs/{shared}")));
    let mount = format!("/v2/other/blobs/uploads/?mount={shared}&from=app");
    assert_eq!(registry.ask("POST", &mount, &[]).status, 201);
    for (image, repository) in [(&slow, "app"), (&mounting, "other"), (&quick, "app"), (&quick, "other")] {
        send_own(image, repository);
    }
    for repository in ["app", "other"] {
        assert!(exists(&registry, &format!("/v2/{repository}/blobs/{shared}")));
        registry.push_parts(&[], &quick.distributable().0, repository, "quick");
    }
    host.brig(&["rmi", "app:first", "app:quick", "other:quick"]).ok();
    host.brig(&["system", "prune", "-af"]).ok();
    assert_eq!(host.brig(&["images", "-aq"]).ok(), "");
    for (image, repository, word) in [(&slow, "app", "slow"), (&mounting, "other", "mounting")] {
        registry.push_parts(&[], &image.distributable().0, repository, word);
        let name = format!("{repository}:{word}");
        let run = ["run", "--rm", "--network", "none", "--pull", "never", &name, "cat", "/etc/word"];
        assert_eq!(host.brig(&run).ok(), word);
    }
    // Nobody waits for anything any more.
    host.brig(&["rmi", "app:slow", "other:mounting"]).ok();
    host.brig(&["system", "prune", "-af"]).ok();
    host.nothing_is_left();
}

#[test]
fn df_calls_reclaimable_what_a_prune_gives_back() {
    let (host, registry) = serving();
    let noise = brig_tests::image::noise;
    let image = Image::busybox().with(Layer::new().file("big", 0o644, noise(2 << 20)), &[]);
    registry.push(&image, "app", "1");
    let used = Image::busybox().with(Layer::new().file("used", 0o644, noise(1 << 20)), &[]);
    registry.push(&used, "used", "1");
    host.brig(&["create", "--name", "box", "used:1"]).ok();
    // What no prune of images takes: an artifact with a blob of its own and a layer of the image's, a blob that is sent for a manifest
    // to come, and half of another one.
    let (mine, empty) = (noise(3 << 20), b"{}".to_vec());
    let named: Value = serde_json::from_slice(&image.distributable().0).unwrap();
    let kind = "application/x";
    let artifact = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": kind,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(&empty), "size": 2 },
        "layers": [{ "mediaType": kind, "digest": digest(&mine), "size": mine.len() }, named["layers"][0]],
    });
    registry.push_parts(&[empty, mine], &serde_json::to_vec(&artifact).unwrap(), "app", "artifact");
    registry.push_blob("app", &noise(4 << 20));
    let upload = registry.ask("POST", "/v2/app/blobs/uploads/", &[]).header("location").unwrap().to_owned();
    assert_eq!(registry.ask("PATCH", &upload, &noise(5 << 20)).status, 202);
    let df = || {
        rustix::fs::sync();
        let usage = brig_tests::http::unix(&host.socket(), "GET", "/v1.43/system/df?type=image", &[]).unwrap().json();
        let size = |value: &Value| value.as_u64().unwrap_or_default();
        let line = host.brig(&["system", "df", "--format", "{{.Type}} {{.Reclaimable}}"]).ok();
        (size(&usage["LayersSize"]), size(&usage["BrigRegistry"]["Size"]), size(&usage["BrigReclaimable"]), line)
    };
    let close = |what: &str, one: u64, other: u64| {
        assert!(one.abs_diff(other) * 50 <= other, "{what}: {one} and {other}");
    };
    let (images, held, reclaimable, line) = df();
    let names = ["layers", "blobs", "packed", "partial", "ingest"];
    close("all of it", images + held, crate::upkeep::du_of(&host, &names));
    assert!(held > 12 << 20 && line.contains("Registry 0B (0%)"), "{held}: {line}");
    let pruned = brig_tests::http::unix(
        &host.socket(),
        "POST",
        "/v1.43/images/prune?filters=%7B%22dangling%22%3A%5B%22false%22%5D%7D",
        &[],
    );
    let freed = pruned.unwrap().json()["SpaceReclaimed"].as_u64().unwrap();
    close("what a prune gives back", freed, reclaimable);
    let (left, still, reclaimable, line) = df();
    close("what the registry has", still, held);
    close("what goes", images - left, freed);
    assert!(left > 2 << 20 && reclaimable < 65536, "{left} are left, {reclaimable} reclaimable");
    assert!(line.contains("Registry 0B (0%)"), "{line}");
    // Deleted there it is given back.
    assert_eq!(registry.ask("DELETE", &upload, &[]).status, 204);
    host.brig(&["rm", "box"]).ok();
}

#[test]
fn an_engines_root_is_served_by_its_daemon_only() {
    let (mut host, registry) = serving_with(&["read-only=true"]);
    assert_eq!(registry.ask("POST", "/v2/app/blobs/uploads/", &[]).status, 405);
    let root = host.data_root.display().to_string();
    let serve = ["registry", "serve", "--addr", "127.0.0.1:5002", "--root", &root];
    let refused = host.brig(&serve).fails(1);
    assert!(refused.contains("--serve-registry"), "{refused}");
    host.stop_daemon();
    let refused = host.brig(&serve).fails(1);
    assert!(refused.contains("--serve-registry"), "{refused}");
    let taken = TestHost::without_daemon(&[]);
    let refused =
        taken.brig(&["daemon", "--serve-registry", "127.0.0.1:1", "--serve-registry-opt", "root=/x"]).fails(1);
    assert!(refused.contains("root=/x"), "{refused}");
    host.start_daemon();
    assert_eq!(registry.ask("GET", "/v2/", &[]).status, 200);
}

/// A manifest, pushed by its digest and by a tag, is given out as it came, and goes when it is deleted.
fn comes_and_goes(registry: &Registry, blobs: &[Vec<u8>], manifest: &[u8], tag: &str) {
    let by_digest = digest(manifest);
    for reference in [by_digest.as_str(), tag] {
        registry.push_parts(blobs, manifest, "forms", reference);
        assert!(registry.ask("GET", &format!("/v2/forms/manifests/{reference}"), &[]).body == manifest, "{tag}");
    }
    assert_eq!(strings(&registry.ask("GET", "/v2/forms/tags/list", &[]).json()["tags"]), [tag]);
    for reference in [tag, &by_digest] {
        let path = format!("/v2/forms/manifests/{reference}");
        assert_eq!(registry.ask("DELETE", &path, &[]).status, 202, "{tag}");
        assert_eq!(registry.ask("HEAD", &path, &[]).status, 404, "{tag}");
    }
    for blob in blobs {
        let path = format!("/v2/forms/blobs/{}", digest(blob));
        assert!(registry.ask("GET", &path, &[]).body == *blob, "{tag}");
        assert_eq!(registry.ask("DELETE", &path, &[]).status, 202, "{tag}");
        assert_eq!(registry.ask("HEAD", &path, &[]).status, 404, "{tag}");
    }
}

#[test]
fn manifests_of_all_forms_come_back_as_they_came() {
    let (host, registry) = serving();
    let manifest_kind = "application/vnd.oci.image.manifest.v1+json";
    let config_kind = "application/vnd.oci.image.config.v1+json";
    let layer_kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let of = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": digest(bytes), "size": bytes.len() });
    let config = |diff_ids: &[String]| {
        let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
        serde_json::to_vec(&json!({ "os": "linux", "architecture": "amd64", "rootfs": rootfs })).unwrap()
    };
    let manifest = |config: &[u8], layers: Value| {
        let config = of(config_kind, config);
        serde_json::to_vec(
            &json!({ "schemaVersion": 2, "mediaType": manifest_kind, "config": config, "layers": layers }),
        )
    };
    let tar = Layer::new().file("file", 0o644, "content").bytes();
    let layer = gzip(&tar);
    // An image; one whose layers are called empty; one without any; one with a layer that is somewhere else.
    let whole = config(&[digest(&tar)]);
    let image = manifest(&whole, json!([of(layer_kind, &layer)])).unwrap();
    comes_and_goes(&registry, &[layer.clone(), whole], &image, "whole");
    let empty = config(&[digest(b"")]);
    comes_and_goes(
        &registry,
        &[layer.clone(), empty.clone()],
        &manifest(&empty, json!([of(layer_kind, &layer)])).unwrap(),
        "wrong",
    );
    let none = config(&[]);
    comes_and_goes(&registry, std::slice::from_ref(&none), &manifest(&none, json!([])).unwrap(), "none");
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let mut elsewhere = of(foreign, b"elsewhere");
    elsewhere["urls"] = json!(["https://store.example.com/blob"]);
    let two = config(&[digest(b"elsewhere"), digest(&tar)]);
    let image = manifest(&two, json!([elsewhere, of(layer_kind, &layer)])).unwrap();
    comes_and_goes(&registry, &[layer, two], &image, "foreign");
    assert_eq!(host.brig(&["images", "-aq"]).ok(), "");
    // An index of an index of an image.
    let index_kind = "application/vnd.oci.image.index.v1+json";
    let (image, blobs) = self::image().distributable();
    registry.push_parts(&blobs, &image, "nested", &digest(&image));
    let index = |kind: &str, entry: &[u8]| {
        let entries = json!([of(kind, entry)]);
        serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": index_kind, "manifests": entries })).unwrap()
    };
    let inner = index(manifest_kind, &image);
    registry.push_parts(&[], &inner, "nested", &digest(&inner));
    let outer = index(index_kind, &inner);
    registry.push_parts(&[], &outer, "nested", "outer");
    for document in [&image, &inner, &outer] {
        let path = format!("/v2/nested/manifests/{}", digest(document));
        assert!(registry.ask("GET", &path, &[]).body == *document);
    }
    let run = ["run", "--rm", "--network", "none", "nested:outer", "cat", "/etc/mine"];
    assert_eq!(host.brig(&run).ok(), "mine");
}

/// Counts the end of a thread, however it ends.
struct Ended<'a>(&'a AtomicUsize);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn pushes_beside_prunes_and_collections_lose_nothing() {
    let (host, registry) = serving_with(&["gc-grace=1m", "gc-interval=1s", "gc-untagged"]);
    let images: Vec<Image> = (0..12)
        .map(|n| {
            image().with(Layer::new().file("etc/number", 0o644, format!("number {}", n % 4)), &[("author", json!(n))])
        })
        .collect();
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for part in images.chunks(4) {
            let (registry, done) = (&registry, &done);
            scope.spawn(move || {
                let _end = Ended(done);
                for one in part {
                    let (manifest, blobs) = one.distributable();
                    // By its digest first, as a part of an index comes; the tag is its own.
                    registry.push_parts(&blobs, &manifest, "app", &digest(&manifest));
                    registry.push_parts(&[], &manifest, "app", &digest(&manifest)[7..19]);
                }
            });
        }
        scope.spawn(|| {
            while done.load(Ordering::Relaxed) < 3 {
                host.brig(&["image", "prune", "-f"]).ok();
            }
        });
    });
    host.brig(&["image", "prune", "-f"]).ok();
    for one in &images {
        let (manifest, blobs) = one.distributable();
        let got = registry.ask("GET", &format!("/v2/app/manifests/{}", &digest(&manifest)[7..19]), &[]);
        assert!(got.body == manifest, "{}", got.text());
        for blob in blobs {
            assert!(registry.ask("GET", &format!("/v2/app/blobs/{}", digest(&blob)), &[]).body == blob);
        }
    }
    assert_eq!(host.brig(&["images", "-q"]).ok().lines().count(), images.len());
}

#[test]
fn a_killed_daemon_has_what_was_pushed_and_goes_on_with_the_rest() {
    let (mut host, registry) = serving();
    let (manifest, blobs) = image().distributable();
    let second = image().with(Layer::new().file("etc/second", 0o644, "2"), &[]);
    let (other, parts) = second.distributable();
    registry.push_parts(&blobs, &manifest, "app", "1");
    parts.iter().for_each(|blob| registry.push_blob("app", blob));
    host.kill_daemon();
    host.start_daemon();
    let got = registry.ask("GET", "/v2/app/manifests/1", &[]);
    assert!(got.body == manifest, "{}", got.text());
    for blob in &blobs {
        assert!(registry.ask("GET", &format!("/v2/app/blobs/{}", digest(blob)), &[]).body == *blob);
    }
    registry.push_parts(&[], &other, "app", "2");
    assert_eq!(host.brig(&["run", "--rm", "--network", "none", "app:2", "cat", "/etc/second"]).ok(), "2");
}
