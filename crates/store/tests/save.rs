//! Images written as an archive and read again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::process::Command;

use brig_oci::{Digest, Reference};
use brig_store::archive::{Chosen, load, save};
use brig_store::{ErrorKind, Store};
use common::Tar;

fn archive(store: &Store, images: &[Chosen]) -> Vec<u8> {
    let mut bytes = Vec::new();
    save(store, images).unwrap().write(&mut bytes).unwrap();
    bytes
}

fn chosen(id: &Digest, names: &[&str]) -> Chosen {
    Chosen {
        id: id.clone(),
        names: names.iter().map(|name| Reference::parse(name).unwrap()).collect(),
        index: Vec::new(),
        original: None,
    }
}

fn two_images(store: &Store) -> (Digest, Digest) {
    let base = Tar::new().dir("etc", 0o755).file("etc/os", b"base").finish();
    let one = Tar::new().file("one", b"1").file("etc/.wh.os", b"").finish();
    (common::image(store, &[&base, &one]), common::image(store, &[&base]))
}

#[test]
fn saved_images_are_loaded_elsewhere_as_they_were() {
    let (_dir, store) = common::open();
    let (one, two) = two_images(&store);
    let wanted = [chosen(&one, &["app:1", "localhost:5000/team/app:2"]), chosen(&two, &[])];
    let bytes = archive(&store, &wanted);
    assert!(bytes == archive(&store, &wanted), "the same images give the same bytes");
    let (_other_dir, other) = common::open();
    let loaded = load(&other, &bytes[..], &[], &mut |_| {}).unwrap();
    let names: Vec<Option<&str>> = loaded.iter().map(|image| image.name.as_deref()).collect();
    assert_eq!(names, [Some("docker.io/library/app:1"), Some("localhost:5000/team/app:2"), None]);
    assert_eq!([&loaded[0].id, &loaded[2].id], [&one, &two]);
    assert!(bytes == archive(&other, &wanted), "an image that was loaded saves the same");
}

#[test]
fn the_archive_is_dockers_and_an_oci_layout() {
    let (dir, store) = common::open();
    let (one, two) = two_images(&store);
    let file = dir.path().join("saved.tar");
    std::fs::write(&file, archive(&store, &[chosen(&one, &["app:1"]), chosen(&two, &["base"])])).unwrap();
    let tar = |arguments: &[&str]| {
        let output = Command::new("tar").arg("-f").arg(&file).args(arguments).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listed = tar(&["-t"]);
    assert!(listed.starts_with("blobs/\nblobs/sha256/\nblobs/sha256/"), "{listed}");
    assert!(listed.ends_with("index.json\nmanifest.json\noci-layout\nrepositories\n"), "{listed}");
    // Two configurations, two manifests, and of three layers two that differ.
    assert_eq!(listed.lines().count(), 2 + 6 + 4, "{listed}");
    assert_eq!(tar(&["-xO", "oci-layout"]), r#"{"imageLayoutVersion":"1.0.0"}"#);
    let manifest = tar(&["-xO", "manifest.json"]);
    assert!(manifest.starts_with(&format!("[{{\"Config\":\"blobs/sha256/{}\",\"RepoTags\":[\"app:1\"]", one.hex())));
    assert!(tar(&["-xO", "index.json"]).contains(
        r#""annotations":{"io.containerd.image.name":"docker.io/library/app:1","org.opencontainers.image.ref.name":"1"}"#
    ));
    assert!(tar(&["-xO", "repositories"]).starts_with(r#"{"app":{"1":""#));
    // Without manifest.json it is read as a layout.
    let unpacked = dir.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    tar(&["-x", "--exclude=manifest.json", "-C", unpacked.to_str().unwrap()]);
    tar(&["-c", "-C", unpacked.to_str().unwrap(), "."]);
    let (_other_dir, other) = common::open();
    let loaded = load(&other, std::fs::File::open(&file).unwrap(), &[], &mut |_| {}).unwrap();
    assert_eq!(loaded.iter().map(|image| &image.id).collect::<Vec<_>>(), [&one, &two]);
}

#[test]
fn what_cannot_be_saved_is_refused_before_the_first_byte() {
    let (_dir, store) = common::open();
    let (one, _) = two_images(&store);
    let missing = common::image(&store, &[&Tar::new().file("x", b"x").finish()]);
    let chain = store.image(&missing).unwrap().chain_id.unwrap();
    std::fs::remove_file(common::diff(&store, &chain).parent().unwrap().join("tar-recipe")).unwrap();
    let error = save(&store, &[chosen(&one, &[]), chosen(&missing, &["old:1"])]).err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.to_string().starts_with("save old:1: layer sha256:"), "{error}");
    // What changes afterwards is noticed while writing.
    let chain = store.image(&one).unwrap().chain_id.unwrap();
    std::fs::write(common::diff(&store, &chain).join("one"), b"2").unwrap();
    let error = save(&store, &[chosen(&one, &[])]).unwrap().write(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("cannot be made again"), "{error}");
}

#[test]
fn what_is_being_saved_stays() {
    let (_dir, store) = common::open();
    let (one, _) = two_images(&store);
    let saving = save(&store, &[chosen(&one, &[])]).unwrap();
    store.remove_image(&one).unwrap();
    store.gc(&[]).unwrap();
    saving.write(&mut std::io::sink()).unwrap();
}
