//! `brig registry serve` as a process: with brig, the stock client, skopeo and podman, beside Debian's registry, and killed.

use brig_tests::image::{digest, noise};
use brig_tests::{Image, Layer, TestHost, http, needs};
use std::io::{Read as _, Write as _};
use std::time::Duration;

const OWN: &str = "127.0.0.1:5001";

fn image() -> Image {
    Image::busybox().with(Layer::new().file("etc/mine", 0o600, "mine\n"), &[])
}

#[test]
fn an_image_goes_through_both_registries_unchanged() {
    let host = TestHost::new();
    for registry in [host.registry(), host.brig_registry(OWN, &[])] {
        let pushed = registry.push(&image(), "team/app", "v1");
        let (name, copy) = (registry.name("team/app:v1"), registry.name("other/copy:v2"));
        host.brig(&["pull", "-q", &name]).ok();
        assert_eq!(host.brig(&["run", "--rm", &name, "cat", "/etc/mine"]).ok(), "mine");
        host.brig(&["tag", &name, &copy]).ok();
        host.brig(&["push", "-q", &copy]).ok();
        host.brig(&["rmi", "-f", &name, &copy]).ok();
        let pulled = host.brig(&["pull", &copy]).ok();
        assert!(pulled.contains(&format!("Digest: {pushed}")), "{pulled}");
        host.brig(&["rmi", "-f", &copy]).ok();
    }
}

#[test]
fn the_stock_client_and_skopeo_use_it() {
    needs!("registry_serve::the_stock_client_and_skopeo_use_it", "docker");
    needs!("registry_serve::the_stock_client_and_skopeo_use_it", "skopeo");
    let host = TestHost::new();
    let registry = host.brig_registry(OWN, &[]);
    let pushed = registry.push(&image(), "team/app", "v1");
    let (name, copy) = (registry.name("team/app:v1"), registry.name("team/app:v2"));
    host.docker(&["pull", "-q", &name]).ok();
    host.docker(&["tag", &name, &copy]).ok();
    host.docker(&["push", "-q", &copy]).ok();
    let skopeo = |arguments: &[&str]| host.program("skopeo", arguments).output().ok();
    let listed = skopeo(&["list-tags", "--tls-verify=false", &format!("docker://{}", registry.name("team/app"))]);
    assert!(listed.contains("\"v1\"") && listed.contains("\"v2\""), "{listed}");
    let from = format!("docker://{name}");
    let format = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &from];
    assert_eq!(skopeo(&format), pushed);
    let (zstd, plain) = (registry.name("zstd/app:v1"), ["copy", "--src-tls-verify=false", "--dest-tls-verify=false"]);
    let mut arguments = plain.to_vec();
    let to = format!("docker://{zstd}");
    arguments.extend(["--dest-compress-format", "zstd", &from, &to]);
    skopeo(&arguments);
    host.brig(&["pull", "-q", &zstd]).ok();
    assert_eq!(host.brig(&["run", "--rm", &zstd, "cat", "/etc/mine"]).ok(), "mine");
    skopeo(&["delete", "--tls-verify=false", &to]);
    assert_eq!(registry.ask("GET", "/v2/zstd/app/manifests/v1", &[]).status, 404);
}

#[test]
fn a_killed_registry_goes_on_where_it_was() {
    let host = TestHost::without_daemon(&[]);
    let registry = host.brig_registry(OWN, &[]);
    let kept = registry.push(&image(), "team/app", "v1");
    let blob = noise(6 << 20);
    let begun = registry.ask("POST", "/v2/team/app/blobs/uploads/", &[]);
    let path = begun.header("location").expect("an upload has a location").to_owned();
    // In the midst of a piece: what the kernel has is there after the kill.
    let mut stream = http::connect(&host.netns, OWN, Duration::from_secs(5)).unwrap();
    write!(stream, "PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", blob.len()).unwrap();
    stream.write_all(&blob[..4 << 20]).unwrap();
    let arrived = |answer: &http::Answer| {
        let range = answer.header("range").and_then(|text| text.strip_prefix("0-")).expect("it tells how far it is");
        range.parse::<usize>().unwrap() + 1
    };
    while arrived(&registry.ask("GET", &path, &[])) < 2 << 20 {
        std::thread::yield_now();
    }
    // Its end is a kill.
    drop(registry);
    let registry = host.brig_registry(OWN, &[]);
    let status = registry.ask("GET", &path, &[]);
    assert_eq!(status.status, 204, "{}", status.text());
    let from = arrived(&status);
    assert!((2 << 20..=4 << 20).contains(&from), "{from}");
    let done = registry.ask("PUT", &format!("{path}?digest={}", digest(&blob)), &blob[from..]);
    assert_eq!(done.status, 201, "{}", done.text());
    assert!(registry.ask("GET", &format!("/v2/team/app/blobs/{}", digest(&blob)), &[]).body == blob);
    let manifest = registry.ask("GET", "/v2/team/app/manifests/v1", &[]);
    assert_eq!(manifest.header("docker-content-digest"), Some(kept.as_str()));
    assert_eq!(registry.stop(), Some(0));
}

#[test]
fn told_to_end_it_finishes_what_is_under_way() {
    let host = TestHost::without_daemon(&[]);
    let registry = host.brig_registry(OWN, &[]);
    let blob = noise(4 << 20);
    let begin = |registry: &brig_tests::Registry| {
        let begun = registry.ask("POST", "/v2/team/app/blobs/uploads/", &[]);
        let path = begun.header("location").expect("an upload has a location").to_owned();
        let head = format!("PUT {path}?digest={} HTTP/1.1\r\nContent-Length: {}", digest(&blob), blob.len());
        let stream = registry.begin(&head, &blob[..2 << 20]);
        let arrived = || {
            let range =
                registry.ask("GET", &path, &[]).header("range").and_then(|text| text.strip_prefix("0-")?.parse().ok());
            range.unwrap_or(0) + 1
        };
        while arrived() < 1 << 20 {
            std::thread::yield_now();
        }
        (path, stream)
    };
    let (_, mut stream) = begin(&registry);
    registry.terminate();
    brig_tests::eventually("nobody is let in any more", || {
        http::connect(&host.netns, OWN, Duration::from_secs(1)).is_err().then_some(())
    });
    stream.write_all(&blob[2 << 20..]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(registry.ended(), Some(0));
    let registry = host.brig_registry(OWN, &[]);
    let location = format!("/v2/team/app/blobs/{}", digest(&blob));
    assert!(registry.ask("GET", &location, &[]).body == blob);
    // A client that does not end is cut off when that is said twice; what it had sent is there afterwards.
    let (path, stream) = begin(&registry);
    registry.terminate();
    brig_tests::eventually("nobody is let in any more", || {
        http::connect(&host.netns, OWN, Duration::from_secs(1)).is_err().then_some(())
    });
    registry.terminate();
    let begun = std::time::Instant::now();
    assert_eq!(registry.ended(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop(stream);
    let registry = host.brig_registry(OWN, &[]);
    let status = registry.ask("GET", &path, &[]);
    let from: usize = status.header("range").and_then(|text| text.strip_prefix("0-")?.parse().ok()).expect("it tells");
    assert!(from + 1 >= 1 << 20, "{from}");
    let done = registry.ask("PUT", &format!("{path}?digest={}", digest(&blob)), &blob[from + 1..]);
    assert_eq!(done.status, 201, "{}", done.text());
}

#[test]
fn one_root_has_one_registry_and_bad_settings_are_named() {
    let host = TestHost::without_daemon(&[]);
    let _registry = host.brig_registry(OWN, &[]);
    let root = host.root.join("brig-registry-127.0.0.1-5001/data").display().to_string();
    let refused = host.brig(&["registry", "serve", "--addr", "127.0.0.1:5002", "--root", &root]).fails(1);
    assert!(refused.contains("is in use by process"), "{refused}");
    let elsewhere = host.root.join("elsewhere").display().to_string();
    let refused = host.brig(&["registry", "serve", "--addr", OWN, "--root", &elsewhere]).fails(1);
    assert!(refused.contains(OWN), "{refused}");
    let refused = host.brig(&["registry", "serve", "--htpasswd", "/nonexistent", "--root", &elsewhere]).fails(1);
    assert!(refused.contains("/nonexistent"), "{refused}");
}
