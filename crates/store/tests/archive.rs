//! Image archives: `docker save` old and new, OCI layouts, plain and packed; and what must be refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::Write;

use brig_oci::{Digest, ImageConfig, Platform};
use brig_store::archive::{LoadEvent, Loaded, import, load};
use brig_store::digest::sha256_of;
use brig_store::{ErrorKind, Result, Store};
use brig_tests::image::{gzip, piped};
use common::{Tar, config, open};

fn run(store: &Store, archive: &[u8]) -> Result<Vec<Loaded>> {
    load(store, archive, &[], &mut |_| {})
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn layers() -> [Vec<u8>; 2] {
    [Tar::new().file("bin/sh", &[7; 70_000]).finish(), Tar::new().file("etc/x", b"x").finish()]
}

/// An archive as `docker save` made it for ten years: `<hex>.json`, `<id>/layer.tar`, links for layers seen before.
fn classic(tags: &str) -> Vec<u8> {
    let [a, b] = layers();
    let config = config(&[&a, &b, &a]);
    let name = format!("{}.json", sha256_of(&config).hex());
    let manifest =
        format!(r#"[{{"Config":"{name}","RepoTags":{tags},"Layers":["l1/layer.tar","l2/layer.tar","l3/layer.tar"]}}]"#);
    Tar::new()
        .dir("l1", 0o755)
        .file("l1/VERSION", b"1.0")
        .file("l1/json", b"{}")
        .file("l1/layer.tar", &a)
        .file("l2/layer.tar", &b)
        .symlink("l3/layer.tar", "../l1/layer.tar")
        .file(&name, &config)
        .file("manifest.json", manifest.as_bytes())
        .file("repositories", b"{}")
        .finish()
}

#[test]
fn docker_save_loads_packed_or_not() {
    for pack in [
        |data: &[u8]| data.to_vec(),
        gzip,
        bzip2,
        |data: &[u8]| piped("xz", &["-c1"], data),
        |data: &[u8]| zstd::encode_all(data, 1).unwrap(),
    ] {
        let (_dir, store) = open();
        let mut events = Vec::new();
        let archive = pack(&classic(r#"["app:1","h.io/app:2"]"#));
        let loaded = load(&store, &archive[..], &[], &mut |event| events.push(event)).unwrap();
        let names: Vec<_> = loaded.iter().map(|image| image.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["docker.io/library/app:1", "h.io/app:2"]);
        let image = store.image(&loaded[0].id).unwrap();
        assert_eq!(image.size_bytes, 140_001);
        let layers = store.prepare("c", image.chain_id.as_ref()).unwrap();
        assert!(
            layers.lower.len() == 3
                && layers.lower[0].join("bin/sh").exists()
                && layers.lower[2].join("bin/sh").exists()
        );
        assert!(matches!(&events[0], LoadEvent::Layer { id, current, total } if id == "l1" && current == total));
        assert_eq!(run(&store, &archive).unwrap(), loaded, "again, all there already");
        store.wait_for_removals();
        assert_eq!((common::count(&store, "ingest"), common::count(&store, "layers")), (0, 3));
    }
}

#[test]
fn nameless_images_load() {
    let (_dir, store) = open();
    let loaded = run(&store, &classic("null")).unwrap();
    assert_eq!((loaded.len(), loaded[0].name.as_deref()), (1, None));
    assert!(store.tags().is_empty());
}

/// An OCI layout: blobs by digest, given in any order.
struct Layout {
    blobs: Vec<Vec<u8>>,
}

impl Layout {
    fn blob(&mut self, bytes: Vec<u8>) -> (Digest, usize) {
        let found = (sha256_of(&bytes), bytes.len());
        self.blobs.push(bytes);
        found
    }

    fn descriptor(&mut self, kind: &str, bytes: Vec<u8>, extra: &str) -> String {
        let (digest, size) = self.blob(bytes);
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}{extra}}}"#)
    }

    fn image(&mut self, extra: &str) -> String {
        let [a, b] = layers();
        let config = self.descriptor("config.v1+json", config(&[&a, &b]), "");
        let first = self.descriptor("layer.v1.tar+gzip", gzip(&a), "");
        let second = self.descriptor("layer.v1.tar", b, "");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{first},{second}]}}"#);
        self.descriptor("manifest.v1+json", manifest.into_bytes(), extra)
    }

    fn finish(&self, index: &[String]) -> Vec<u8> {
        let mut tar = Tar::new()
            .file("index.json", format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, index.join(",")).as_bytes());
        for blob in &self.blobs {
            tar = tar.file(&format!("blobs/sha256/{}", sha256_of(blob).hex()), blob);
        }
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).finish()
    }
}

const NAMED: &str =
    r#","annotations":{"io.containerd.image.name":"docker.io/library/app:1","org.opencontainers.image.ref.name":"1"}"#;

#[test]
fn layouts_load_by_either_annotation() {
    for (annotation, name) in [
        (NAMED, Some("docker.io/library/app:1")),
        (r#","annotations":{"org.opencontainers.image.ref.name":"h.io/app"}"#, Some("h.io/app:latest")),
        (r#","annotations":{"org.opencontainers.image.ref.name":"latest"}"#, None),
        ("", None),
    ] {
        let (_dir, store) = open();
        let mut layout = Layout { blobs: Vec::new() };
        let entry = layout.image(annotation);
        let loaded = run(&store, &layout.finish(&[entry])).unwrap();
        assert_eq!(loaded[0].name.as_deref(), name);
        assert!(store.image(&loaded[0].id).unwrap().manifest.is_some());
        if let Some(name) = name {
            assert!(store.has_blob(&store.resolve(name).unwrap().manifest.unwrap()));
        }
    }
}

#[test]
fn the_image_for_this_machine_is_taken() {
    let (_dir, store) = open();
    let mut layout = Layout { blobs: Vec::new() };
    let here =
        layout.image(&format!(r#","platform":{{"os":"linux","architecture":"{}"}}"#, Platform::host().architecture));
    let other = r#"{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:1111111111111111111111111111111111111111111111111111111111111111","size":7,"platform":{"os":"linux","architecture":"s390x"}}"#;
    let nested = format!(r#"{{"schemaVersion":2,"manifests":[{other},{here}]}}"#);
    let entry = layout.descriptor("index.v1+json", nested.into_bytes(), NAMED);
    let loaded = run(&store, &layout.finish(std::slice::from_ref(&entry))).unwrap();
    assert_eq!(loaded.len(), 1);
    let tag = store.resolve("docker.io/library/app:1").unwrap();
    assert!(entry.contains(tag.manifest.unwrap().as_str()), "the name means the index");
    assert!(store.image(&tag.image).unwrap().manifest.is_some());
    assert_eq!(store.gc(&[]).unwrap(), Default::default());
    // The same as entries of index.json itself.
    let (_dir, store) = open();
    assert_eq!(run(&store, &layout.finish(&[other.to_owned(), here])).unwrap().len(), 1);
    let error = run(&store, &layout.finish(&[other.to_owned(), other.to_owned()])).unwrap_err();
    assert!(error.message.contains("linux/s390x"), "{error}");
}

#[track_caller]
fn refused(archive: &[u8], kind: ErrorKind, part: &str) {
    let (_dir, store) = open();
    let error = run(&store, archive).unwrap_err();
    assert!(error.kind == kind && error.message.contains(part), "{:?}: {error}", error.kind);
    store.wait_for_removals();
    assert!(store.images().is_empty() && store.tags().is_empty());
    for name in ["ingest", "layers", "trash"] {
        assert_eq!(common::count(&store, name), 0, "{name}");
    }
}

#[test]
fn hostile_docker_archives_are_refused() {
    let [a, b] = layers();
    let config = config(&[&a]);
    let hex = sha256_of(&config).hex().to_owned();
    let with = |config_name: &str, layers: &str, tags: &str| {
        let manifest = format!(r#"[{{"Config":"{config_name}","RepoTags":{tags},"Layers":{layers}}}]"#);
        Tar::new()
            .file(&format!("{hex}.json"), &config)
            .file(&format!("{}.json", "0".repeat(64)), &config)
            .file("a.tar", &a)
            .file("b.tar", &b)
            .file("broken.tar", &a[..1000])
            .file("manifest.json", manifest.as_bytes())
    };
    let good = format!("{hex}.json");
    run(&open().1, &with(&good, r#"["a.tar"]"#, "[]").finish()).unwrap();
    let case = |config: &str, layers: &str, tags: &str| with(config, layers, tags).finish();
    refused(&case(&good, r#"["../../etc/passwd"]"#, "[]"), ErrorKind::Invalid, "missing");
    refused(&case(&good, r#"["/etc/passwd"]"#, "[]"), ErrorKind::Invalid, "missing");
    refused(&case(&good, r#"["absent.tar"]"#, "[]"), ErrorKind::Invalid, "missing");
    refused(&case(&good, r#"["a.tar","b.tar"]"#, "[]"), ErrorKind::Invalid, "has 1 layers");
    refused(&case(&good, r#"["b.tar"]"#, "[]"), ErrorKind::Mismatch, "diff id");
    refused(&case(&good, r#"["broken.tar"]"#, "[]"), ErrorKind::Invalid, "cut off");
    refused(&case(&good, r#"["manifest.json"]"#, "[]"), ErrorKind::Invalid, "not a layer");
    refused(&case(&good, r#"["a.tar"]"#, r#"["../../x"]"#), ErrorKind::Invalid, "invalid reference");
    refused(
        &case(&format!("{}.json", "0".repeat(64)), r#"["a.tar"]"#, "[]"),
        ErrorKind::Mismatch,
        "not what its name says",
    );
    refused(&case("a.tar", r#"["a.tar"]"#, "[]"), ErrorKind::Invalid, "not a JSON document");
    refused(&Tar::new().symlink("manifest.json", "/etc/passwd").finish(), ErrorKind::Invalid, "absolute link");
    refused(&Tar::new().symlink("dev/fd", "/proc/self/fd").finish(), ErrorKind::Invalid, "import it");
    refused(&Tar::new().symlink("manifest.json", "../y").finish(), ErrorKind::Invalid, "leads out");
    let lap = Tar::new().symlink("manifest.json", "b").symlink("b", "manifest.json").finish();
    refused(&lap, ErrorKind::Invalid, "links of links");
    refused(&Tar::new().file("repositories", b"{}").finish(), ErrorKind::Invalid, "older than 1.10");
    refused(b"<html>not found</html>", ErrorKind::Invalid, "tar:");
    refused(b"", ErrorKind::Invalid, "not an image archive");
}

#[test]
fn hostile_layouts_are_refused() {
    let mut layout = Layout { blobs: Vec::new() };
    let entry = layout.image(NAMED);
    let bad_size = entry.replace("\"size\":", "\"size\":1");
    refused(&layout.finish(&[bad_size]), ErrorKind::Mismatch, "not what its name says");
    let bad_name = entry.replace("docker.io/library/app:1", "../../x");
    refused(&layout.finish(&[bad_name]), ErrorKind::Invalid, "invalid reference");
    let bad_type = entry.replace("manifest.v1", "index.v1");
    refused(&layout.finish(&[bad_type]), ErrorKind::Invalid, "without \"manifests\"");
    let no_layout = Tar::new().file("index.json", br#"{"schemaVersion":2,"manifests":[]}"#);
    refused(&no_layout.clone().finish(), ErrorKind::Invalid, "oci-layout is missing");
    let old = no_layout.file("oci-layout", br#"{"imageLayoutVersion":"9"}"#).finish();
    refused(&old, ErrorKind::Invalid, "only 1.x");
    // One blob's content under another's name.
    let mut other = Layout { blobs: layout.blobs.clone() };
    let entry = other.image(NAMED);
    for blob in &mut other.blobs {
        if blob.starts_with(b"{\"schemaVersion\"") {
            *blob = [&blob[..], b" "].concat();
        }
    }
    refused(&other.finish(&[entry]), ErrorKind::Invalid, "missing");
}

#[test]
fn import_makes_one_layer() {
    let (_dir, store) = open();
    let tar = Tar::new().file("etc/x", b"x").finish();
    let config = ImageConfig { os: "linux".into(), comment: "Imported from -".into(), ..ImageConfig::default() };
    let id = import(&store, &gzip(&tar)[..], config, Some("docker.io/library/r:1")).unwrap();
    let config = store.image_config(&id).unwrap();
    assert_eq!(config.rootfs.diff_ids, [sha256_of(&tar)]);
    assert_eq!(config.history[0].comment, "Imported from -");
    assert_eq!(store.resolve("docker.io/library/r:1").unwrap().image, id);
    assert!(import(&store, &b"garbage"[..], ImageConfig::default(), None).is_err());
}

/// An image of one layer for a platform, in a layout.
fn image_for(layout: &mut Layout, architecture: &str) -> String {
    let tar = Tar::new().file("which", architecture.as_bytes()).finish();
    let config = String::from_utf8(config(&[&tar])).unwrap().replace("amd64", architecture).into_bytes();
    let (layer, layer_size) = layout.blob(gzip(&tar));
    let (config, config_size) = layout.blob(config);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{layer}","size":{layer_size}}}]}}"#
    );
    let platform = format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#);
    layout.descriptor("manifest.v1+json", manifest.into_bytes(), &platform)
}

/// An attestation, which looks like an image for no platform.
fn attestation(layout: &mut Layout) -> (String, Digest) {
    let (statement, size) = layout.blob(br#"{"_type":"https://in-toto.io/Statement/v0.1"}"#.to_vec());
    let (config, config_size) = layout.blob(b"{}".to_vec());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"application/vnd.in-toto+json","digest":"{statement}","size":{size}}}]}}"#
    );
    let extra = r#","platform":{"os":"unknown","architecture":"unknown"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#;
    (layout.descriptor("manifest.v1+json", manifest.into_bytes(), extra), statement)
}

#[test]
fn images_for_all_platforms_are_kept_under_one_name() {
    let host = Platform::host().architecture;
    for platforms in [vec![], vec![Platform::parse("linux/s390x").unwrap()]] {
        let (_dir, store) = open();
        let mut layout = Layout { blobs: Vec::new() };
        let entries =
            [image_for(&mut layout, "s390x"), image_for(&mut layout, &host), image_for(&mut layout, "riscv64")];
        let (attestation, statement) = attestation(&mut layout);
        let nested = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{},{attestation}]}}"#,
            entries.join(",")
        );
        let entry = layout.descriptor("index.v1+json", nested.into_bytes(), NAMED);
        let loaded = load(&store, &layout.finish(std::slice::from_ref(&entry))[..], &platforms, &mut |_| {}).unwrap();
        assert_eq!(loaded.len(), 1, "one name");
        let tag = store.resolve(loaded[0].name.as_deref().unwrap()).unwrap();
        let meant = store.image_config(&tag.image).unwrap().architecture;
        assert_eq!(meant, if platforms.is_empty() { host.as_str() } else { "s390x" });
        assert_eq!(store.images().len(), if platforms.is_empty() { 3 } else { 1 });
        store.gc(&[]).unwrap();
        assert!(store.has_blob(&tag.manifest.unwrap()) && store.has_blob(&statement), "the index keeps what it lists");
    }
    let (_dir, store) = open();
    let mut layout = Layout { blobs: Vec::new() };
    let entry = image_for(&mut layout, "s390x");
    let arm = Platform::parse("linux/arm64").unwrap();
    let error = load(&store, &layout.finish(&[entry])[..], &[arm], &mut |_| {}).unwrap_err();
    assert!(error.message.contains("no image for linux/arm64") && error.message.contains("linux/s390x"), "{error}");
}

#[test]
fn parts_that_do_not_fit_are_seen_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let canary = brig_tests::corpus::Canary::beneath(dir.path());
    let cases = [
        brig_tests::corpus::images::docker_archives(canary.host()),
        brig_tests::corpus::images::layouts(canary.host()),
    ];
    for (number, case) in cases.concat().into_iter().enumerate() {
        let store = Store::open(&dir.path().join(number.to_string())).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        let loading = store.clone();
        std::thread::spawn(move || done.send(run(&loading, &case.bytes)).ok());
        let outcome = wait.recv_timeout(std::time::Duration::from_secs(30));
        let outcome = outcome.unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(outcome.is_ok(), case.accepted, "{}: {outcome:?}", case.name);
        canary.check(case.name);
        store.wait_for_removals();
        assert_eq!(common::count(&store, "ingest"), 0, "{}", case.name);
    }
}
