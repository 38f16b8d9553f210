//! Images that leave: saved to archives and pushed to registries, by `brig` and by the stock client.

use brig_tests::{Image, Layer, TestHost, needs};

fn image() -> Image {
    Image::busybox().with(Layer::new().file("etc/mine", 0o600, "mine\n").link("etc/link", "mine"), &[])
}

#[test]
fn a_saved_image_comes_back_as_it_was() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&image(), "team/app", "v1");
    let name = registry.name("team/app:v1");
    host.brig(&["pull", &name]).ok();
    host.brig(&["tag", &name, "other:2"]).ok();
    let file = host.root.join("saved.tar").display().to_string();
    host.brig(&["save", "-o", &file, &name, "other:2"]).ok();
    let first = std::fs::read(&file).unwrap();
    host.brig(&["save", "-o", &file, "other:2", &name]).ok();
    host.brig(&["rmi", &name, "other:2"]).ok();
    let loaded = host.brig(&["load", "-i", &file]).ok();
    assert!(loaded.contains("Loaded image: other:2") && loaded.contains(&format!("Loaded image: {name}")), "{loaded}");
    assert_eq!(host.field("other:2", "{{.Id}}"), image().id());
    assert_eq!(host.brig(&["run", "--rm", "other:2", "cat", "/etc/link"]).ok(), "mine");
    host.brig(&["save", "-o", &file, &name, "other:2"]).ok();
    assert!(first == std::fs::read(&file).unwrap(), "the same images, the same bytes");
}

#[test]
fn what_cannot_be_saved_leaves_no_file() {
    let host = TestHost::new();
    host.load_busybox();
    let file = host.root.join("saved.tar");
    let path = file.display().to_string();
    let refused = host.brig(&["save", "-o", &path, "nosuch"]).fails(1);
    assert!(refused.contains("No such image: nosuch"), "{refused}");
    let refused = host.brig(&["save", "-o", &path, "--platform", "linux/s390x", "busybox"]).fails(1);
    assert!(refused.contains("does not provide the specified platform (linux/s390x)"), "{refused}");
    // A layer that is not what it was: the answer breaks off, and no half an archive stays.
    let layers = host.data_root.join("v1/layers");
    for layer in std::fs::read_dir(&layers).unwrap() {
        std::fs::write(layer.unwrap().path().join("diff/bin/busybox"), "short").unwrap();
    }
    let refused = host.brig(&["save", "-o", &path, "busybox"]);
    assert_ne!(refused.code, 0, "{refused}");
    assert!(!file.exists());
    assert!(host.daemon_log().contains("pull it again"), "{}", host.daemon_log());
}

#[test]
fn the_stock_client_saves_too() {
    needs!("transfer::the_stock_client_saves_too", "docker");
    let host = TestHost::new();
    host.load_busybox();
    host.docker(&["tag", "busybox", "mine:1"]).ok();
    let file = host.root.join("saved.tar").display().to_string();
    host.docker(&["save", "-o", &file, "busybox:latest", "mine:1"]).ok();
    host.docker(&["rmi", "mine:1"]).ok();
    assert!(host.docker(&["load", "-i", &file]).ok().contains("Loaded image: mine:1"));
    assert_eq!(host.docker(&["run", "--rm", "mine:1", "echo", "back"]).ok(), "back");
}
