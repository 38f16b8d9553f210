//! Images: pulled, loaded, imported, listed, tagged, removed; and every way in which a pull can go wrong.

use brig_tests::image::{digest, gzip, noise};
use brig_tests::{Image, Layer, TestHost, http};
use rustix::process::Signal;
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

fn listed(host: &TestHost) -> String {
    host.brig(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok()
}

/// No half-made layer is left, and no image.
fn nothing_half_made(host: &TestHost) {
    let folder = |name: &str| std::fs::read_dir(host.data_root.join("v1").join(name)).map_or(0, Iterator::count);
    brig_tests::eventually("unfinished layers are gone", || (folder("ingest") == 0).then_some(()));
    assert_eq!(listed(host), "");
}

/// Three layers; the last one is big and does not compress.
fn big_image() -> Image {
    Image::busybox()
        .with(Layer::new().file("one", 0o644, "one"), &[])
        .with(Layer::new().file("big", 0o644, noise(8 << 20)), &[("Cmd", json!(["wc", "-c", "/big"]))])
}

#[test]
fn pull_run_and_remove() {
    let host = TestHost::new();
    let registry = host.registry();
    let manifest = registry.push(&big_image(), "team/big", "v1");
    let name = registry.name("team/big:v1");
    let pulled = host.brig(&["pull", &name]).ok();
    for line in [format!("Digest: {manifest}"), format!("Status: Downloaded newer image for {name}"), name.clone()] {
        assert!(pulled.contains(&line), "{line}:\n{pulled}");
    }
    let again = host.brig(&["pull", &name]).ok();
    assert!(again.contains(&format!("Status: Image is up to date for {name}")), "{again}");
    assert_eq!(host.brig(&["run", "--rm", &name]).ok(), "8388608 /big");
    assert_eq!(host.field(&name, "{{.Id}}"), big_image().id());
    assert_eq!(host.brig(&["images", "--digests", "--format", "{{.Digest}}"]).ok(), manifest);
    let by_digest = format!("{}@{manifest}", registry.name("team/big"));
    assert_eq!(host.brig(&["run", "--rm", &by_digest, "cat", "/one"]).ok(), "one");
    let removed = host.brig(&["rmi", &name]).ok();
    assert!(removed.contains(&format!("Untagged: {name}")), "{removed}");
    assert_eq!(listed(&host).lines().filter(|line| line.contains("v1")).count(), 0);
}

#[test]
fn run_pulls_what_is_not_there() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&Image::busybox(), "small", "latest");
    let name = registry.name("small");
    let output = host.brig(&["run", "--rm", &name, "echo", "hi"]);
    assert_eq!(output.ok(), "hi");
    assert!(output.stderr.contains(&format!("Unable to find image '{name}:latest' locally")), "{output}");
    let refused = host.brig(&["run", "--rm", "--pull", "never", &registry.name("other"), "true"]).fails(125);
    assert!(refused.contains("No such image"), "{refused}");
}

#[test]
fn a_pull_that_was_cut_goes_on() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&big_image(), "big", "latest");
    let proxy = host.proxy("127.0.0.1:5001", &registry.address, 4 << 20, true);
    let name = format!("{}/big", proxy.address);
    host.brig(&["pull", &name]).ok();
    assert!(proxy.cuts() >= 1, "the wire was cut");
    assert_eq!(host.brig(&["run", "--rm", &name]).ok(), "8388608 /big");
}

#[test]
fn a_registry_that_stays_away_is_an_error_and_leaves_nothing() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&big_image(), "big", "latest");
    let proxy = host.proxy("127.0.0.1:5001", &registry.address, 4 << 20, false);
    let name = format!("{}/big", proxy.address);
    let failed = host.brig_run(&["pull", &name]).limit(Duration::from_secs(240)).output().fails(1);
    assert!(failed.contains("127.0.0.1:5001") || failed.contains("EOF") || failed.contains("connection"), "{failed}");
    nothing_half_made(&host);
    proxy.heal();
    host.brig(&["pull", &name]).ok();
    let nobody = host.brig(&["pull", "127.0.0.1:5999/big"]).fails(1);
    assert!(nobody.contains("127.0.0.1:5999") && nobody.contains("refused"), "{nobody}");
}

#[test]
fn a_truncated_layer_and_a_wrong_digest_are_found() {
    let host = TestHost::new();
    let registry = host.registry();
    let image = big_image();
    registry.push(&image, "big", "latest");
    let (_, blobs) = image.distributable();
    let file = registry.blob_file(&digest(&blobs[2]));
    let name = registry.name("big");

    let mut wrong = blobs[2].clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    std::fs::write(&file, &wrong).unwrap();
    let failed = host.brig_run(&["pull", &name]).limit(Duration::from_secs(240)).output().fails(1);
    let names_it = |text: &str| text.contains(&digest(&blobs[2])[7..19]) || text.contains("digest");
    assert!(names_it(&failed), "{failed}");
    nothing_half_made(&host);

    std::fs::write(&file, &blobs[2][..middle]).unwrap();
    let failed = host.brig_run(&["pull", &name]).limit(Duration::from_secs(240)).output().fails(1);
    assert!(!failed.is_empty());
    nothing_half_made(&host);

    std::fs::write(&file, &blobs[2]).unwrap();
    host.brig(&["pull", &name]).ok();
}

#[test]
fn a_layer_that_is_not_what_its_image_says_is_refused() {
    let host = TestHost::new();
    let registry = host.registry();
    let mut image = Image::busybox();
    let other = gzip(&Layer::new().file("x", 0o644, "x").bytes());
    image.config["rootfs"]["diff_ids"][0] = json!(digest(&other));
    registry.push(&image, "liar", "latest");
    let failed = host.brig(&["pull", &registry.name("liar")]).fails(1);
    assert!(failed.contains("diff") || failed.contains("digest") || failed.contains("layer"), "{failed}");
    nothing_half_made(&host);
}

#[test]
fn a_full_disk_during_a_pull() {
    let mut host = TestHost::without_daemon(&[]);
    let disk = SmallDisk::new(&host, 6);
    host.data_root = disk.0.join("data");
    host.start_daemon();
    let registry = host.registry();
    registry.push(&big_image(), "big", "latest");
    registry.push(&Image::new(vec![Layer::new().file("x", 0o644, "x").bytes()], json!({})), "small", "latest");
    let failed = host.brig(&["pull", &registry.name("big")]).fails(1);
    assert!(failed.contains("No space left on device"), "{failed}");
    nothing_half_made(&host);
    host.brig(&["pull", &registry.name("small")]).ok();
    drop(registry);
    drop(host);
    drop(disk);
}

/// A tmpfs of some megabytes, mounted for the length of a test.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn new(host: &TestHost, megabytes: u32) -> SmallDisk {
        let path = brig_tests::host::base().join(format!("{}-small", host.name)).join("brig-test-disk");
        std::fs::create_dir_all(&path).unwrap();
        let options = format!("size={megabytes}m,mode=755");
        let path_text = path.display().to_string();
        brig_tests::Run::new("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &path_text]).output().ok();
        SmallDisk(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: after a failure the daemon still has files there.
        brig_tests::Run::new("umount", &["-l", &self.0.display().to_string()]).output();
        std::fs::remove_dir_all(self.0.parent().unwrap()).ok();
    }
}

#[test]
fn control_c_ends_a_pull_and_the_next_one_works() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&big_image(), "big", "latest");
    let pull = host.brig_run(&["pull", &registry.name("big")]).start();
    // Any moment will do.
    std::thread::sleep(Duration::from_millis(60));
    pull.signal(Signal::INT);
    pull.finish();
    host.brig(&["pull", &registry.name("big")]).ok();
    assert_eq!(host.brig(&["run", "--rm", &registry.name("big")]).ok(), "8388608 /big");
}

#[test]
fn a_daemon_killed_during_a_pull_leaves_nothing_half_made() {
    let mut host = TestHost::new();
    let registry = host.registry();
    registry.push(&big_image(), "big", "latest");
    for wait in [30, 90, 200] {
        let pull = host.brig_run(&["pull", &registry.name("big")]).start();
        // Any moment will do, and the three are different ones.
        std::thread::sleep(Duration::from_millis(wait));
        host.crash_daemon();
        if pull.finish().code != 0 {
            let left = std::fs::read_dir(host.data_root.join("v1/ingest")).map_or(0, Iterator::count);
            assert_eq!(left, 0, "unfinished layers after a restart");
        }
    }
    host.brig(&["pull", &registry.name("big")]).ok();
    assert_eq!(host.brig(&["run", "--rm", &registry.name("big")]).ok(), "8388608 /big");
}

#[test]
fn load_of_both_kinds_and_import() {
    let host = TestHost::new();
    let image = Image::busybox();
    let load = |bytes: Vec<u8>| host.brig_run(&["load"]).input(bytes).output();
    assert_eq!(load(image.docker_archive("from/docker:1")).ok(), "Loaded image: from/docker:1");
    assert_eq!(load(gzip(&image.docker_archive("from/gzip:1"))).ok(), "Loaded image: from/gzip:1");
    let oci = load(image.oci_archive("docker.io/from/oci:1"));
    assert!(oci.ok().starts_with("Loaded image"), "{oci}");
    assert_eq!(host.field("from/docker:1", "{{.Id}}"), image.id());
    assert_eq!(host.brig(&["run", "--rm", "from/docker:1", "echo", "hi"]).ok(), "hi");
    let path = host.root.join("root.tar");
    std::fs::write(&path, &image.layers[0]).unwrap();
    let id =
        host.brig(&["import", "-c", "CMD [\"echo\", \"imported\"]", &path.display().to_string(), "from/import:1"]).ok();
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(host.brig(&["run", "--rm", "from/import:1"]).ok(), "imported");
    let refused = load(b"this is no tar".to_vec()).fails(1);
    assert!(!refused.is_empty());
    let mut cut = image.docker_archive("cut:1");
    cut.truncate(cut.len() / 2);
    load(cut).fails(1);
    assert!(!listed(&host).contains("cut"), "{}", listed(&host));
}

#[test]
fn layers_on_layers() {
    let host = TestHost::new();
    let image = Image::busybox()
        .with(
            Layer::new()
                .dir("d", 0o750)
                .file("d/a", 0o644, "a")
                .file("d/b", 0o644, "b")
                .dir("opaque", 0o755)
                .file("opaque/old", 0o644, "old")
                .file("gone", 0o644, "gone")
                .owned("suid", 0o4755, (5, 6), "s")
                .hard_link("linked", "d/a"),
            &[],
        )
        .with(
            Layer::new()
                .file("d/.wh.b", 0o644, "")
                .dir("opaque", 0o755)
                .file("opaque/.wh..wh..opq", 0o644, "")
                .file("opaque/new", 0o644, "new")
                .file(".wh.gone", 0o644, ""),
            &[],
        );
    host.brig_run(&["load"]).input(image.docker_archive("deep:1")).output().ok();
    let script = "ls /d /opaque; ls /gone 2>&1; stat -c '%a %u %g' /suid /d; stat -c %h /linked; cat /linked; id -u";
    let seen = host.brig(&["run", "--rm", "deep:1", "sh", "-c", script]).ok();
    let expected = "/d:\na\n\n/opaque:\nnew\nls: /gone: No such file or directory\n4755 5 6\n750 0 0\n2\na0";
    assert_eq!(seen, expected);
    // On disk everything has its plain ids.
    let layers = std::fs::read_dir(host.data_root.join("v1/layers")).unwrap().flatten();
    let suid = layers.map(|layer| layer.path().join("diff/suid")).find(|path| path.exists()).unwrap();
    let on_disk = suid.metadata().unwrap();
    assert_eq!((on_disk.uid(), on_disk.gid(), on_disk.mode() & 0o7777), (5, 6, 0o4755));
}

#[test]
fn a_hostile_archive_stays_in_its_layer() {
    let host = TestHost::new();
    let canary = host.root.join("canary");
    std::fs::create_dir(&canary).unwrap();
    let target = canary.display().to_string();
    let climbing = Layer::new().link("escape", &target).file("escape/written", 0o644, "x");
    let image = Image::busybox().with(climbing, &[]);
    host.brig_run(&["load"]).input(image.docker_archive("climb:1")).output();
    let mut up = Layer::new().bytes();
    up.clear();
    let name = b"../../../../../../../../../../../../tmp/brig-escape";
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name);
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(b"00000000001");
    header[136..147].copy_from_slice(b"00000000000");
    header[156] = b'0';
    header[257..263].copy_from_slice(b"ustar\0");
    header[263..265].copy_from_slice(b"00");
    header[148..156].copy_from_slice(b"        ");
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    up.extend_from_slice(&header);
    up.extend_from_slice(b"x");
    up.resize(512 * 4, 0);
    let image = Image::new(vec![up], json!({}));
    host.brig_run(&["load"]).input(image.docker_archive("up:1")).output();
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0, "written through a link in the layer");
    assert!(!Path::new("/tmp/brig-escape").exists(), "written above the layer");
}

#[test]
fn listing_tagging_and_removing() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["tag", "busybox", "other:2"]).ok();
    let mut names: Vec<String> = listed(&host).lines().map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["busybox:latest", "other:2"]);
    assert_eq!(host.brig(&["rmi", "other:2"]).ok(), "Untagged: other:2");
    host.brig(&["create", "--name", "user", "busybox"]).ok();
    let refused = host.brig(&["rmi", "busybox"]).fails(1);
    assert!(refused.contains("conflict") && refused.contains("container"), "{refused}");
    host.brig(&["rm", "user"]).ok();
    let removed = host.brig(&["rmi", "busybox"]).ok();
    assert!(removed.contains("Untagged: busybox:latest") && removed.contains("Deleted: sha256:"), "{removed}");
    let layers = || std::fs::read_dir(host.data_root.join("v1/layers")).unwrap().count();
    brig_tests::eventually("the layers are gone", || (layers() == 0).then_some(()));
    let history = host.brig(&["history", "busybox"]).fails(1);
    assert!(history.contains("busybox"), "{history}");
}

#[test]
fn a_reference_leaves_the_other_names_out() {
    let host = TestHost::new();
    let registry = host.registry();
    let digest = registry.push(&Image::busybox(), "team/app", "v1");
    let name = registry.name("team/app:v1");
    host.brig(&["pull", &name]).ok();
    host.brig(&["tag", &name, "other:2"]).ok();
    let list = |pattern: &str| {
        let path = format!("/images/json?filters=%7B%22reference%22%3A%5B%22{pattern}%22%5D%7D");
        let images = http::unix(&host.socket(), "GET", &path, b"").unwrap().json();
        let found = images.as_array().unwrap().first().cloned().unwrap_or_default();
        (found["RepoTags"].clone(), found["RepoDigests"].clone())
    };
    let known = format!("{}@{digest}", registry.name("team/app"));
    assert_eq!(list("other"), (json!(["other:2"]), json!([])));
    assert_eq!(list("other:*"), (json!(["other:2"]), json!([])));
    assert_eq!(list("*/team/app"), (json!([name]), json!([known])));
    assert_eq!(list("nosuch"), (json!(null), json!(null)));
}

#[test]
fn every_filter_leaves_the_others_out() {
    let host = TestHost::new();
    // Each made a year after the other; the last has no name.
    for (name, year, labels) in [
        ("old:1", 2020, json!({"team": "a"})),
        ("mid:1", 2021, json!({"team": "b", "site": "x"})),
        ("new:1", 2022, json!({"team": "a", "site": "x"})),
        ("gone:1", 2023, json!({"site": "y"})),
    ] {
        let layer = Layer::new().file("file", 0o644, name);
        let mut image = Image::busybox().with(layer, &[("Labels", labels)]);
        image.config["created"] = json!(format!("{year}-06-01T00:00:00Z"));
        let path = host.root.join("image.tar");
        std::fs::write(&path, image.docker_archive(name)).unwrap();
        host.brig(&["load", "-q", "-i", &path.display().to_string()]).ok();
        if name == "gone:1" {
            host.brig(&["create", "--name", "user", name]).ok();
            host.brig(&["rmi", "-f", name]).ok();
        }
    }
    let list = |filters: &[&str]| {
        let mut arguments = vec!["images", "--format", "{{.Repository}}"];
        arguments.extend(filters.iter().flat_map(|filter| ["--filter", filter]));
        host.brig(&arguments).ok().replace('\n', " ")
    };
    let expected = [
        (&[][..], "<none> new mid old"),
        (&["dangling=true"], "<none>"),
        (&["dangling=false"], "new mid old"),
        (&["before=new:1"], "mid old"),
        (&["since=mid:1"], "<none> new"),
        (&["since=old:1", "before=new:1"], "mid"),
        (&["until=2021-12-31"], "mid old"),
        (&["label=team"], "new mid old"),
        (&["label=team=a"], "new old"),
        (&["label=team=a", "label=site"], "new"),
        (&["label!=site"], "old"),
        (&["reference=m*"], "mid"),
        (&["reference=m*", "reference=old:*"], "mid old"),
        (&["reference=nothing"], ""),
    ];
    let found = expected.map(|(filters, _)| (filters, list(filters)));
    assert_eq!(found, expected.map(|(filters, names)| (filters, names.to_owned())));
    let refused = host.brig(&["images", "--filter", "before=nothing"]).fails(1);
    assert!(refused.contains("nothing"), "{refused}");
    let refused = host.brig(&["images", "--filter", "colour=red"]).fails(1);
    assert!(refused.contains("invalid filter 'colour'"), "{refused}");
    host.brig(&["rm", "user"]).ok();
}
