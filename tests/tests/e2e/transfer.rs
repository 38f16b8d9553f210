//! Images that leave: saved to archives and pushed to registries, by `brig` and by the stock client.

use brig_tests::image::{digest, gzip, noise};
use brig_tests::{Image, Layer, TestHost, eventually, needs};

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
fn an_image_is_saved_as_it_came() {
    let host = TestHost::new();
    let registry = host.registry();
    let manifest = registry.push(&image(), "team/app", "v1");
    let name = registry.name("team/app:v1");
    let known = format!("{}@{manifest}", registry.name("team/app"));
    let shown = || host.field(&name, "{{json .RepoDigests}}");
    host.brig(&["pull", &name]).ok();
    assert!(shown().contains(&known), "{}", shown());
    let file = host.root.join("saved.tar").display().to_string();
    host.brig(&["save", "--original", "-o", &file, &name]).ok();
    let saved = std::fs::read(&file).unwrap();
    host.brig(&["rmi", &name]).ok();
    let other = host.registry_at("127.0.0.1:5001");
    let copy = other.name("copy:v1");
    for packed in [false, true] {
        let archive = if packed { gzip(&saved) } else { saved.clone() };
        assert_eq!(host.brig_run(&["load"]).input(archive).output().ok(), format!("Loaded image: {name}"));
        assert!(shown().contains(&known), "{}", shown());
        assert_eq!(host.brig(&["run", "--rm", &name, "cat", "/etc/link"]).ok(), "mine");
        // What was loaded is pushed as it was, too.
        host.brig(&["tag", &name, &copy]).ok();
        let pushed = host.brig(&["push", &copy]).ok();
        assert!(pushed.contains(&format!("v1: digest: {manifest} ")), "{pushed}");
        other.empty();
        host.brig(&["save", "--original", "-o", &file, &name]).ok();
        assert!(saved == std::fs::read(&file).unwrap(), "the same images, the same bytes");
        host.brig(&["rmi", &name, &copy]).ok();
    }
    // Nothing is left of what was put aside.
    let partial = host.root.join("data/v1/partial");
    let left: Vec<_> = std::fs::read_dir(&partial).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
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

#[test]
fn the_stock_client_saves_what_came_if_the_daemon_is_told_to() {
    needs!("transfer::the_stock_client_saves_what_came_if_the_daemon_is_told_to", "docker");
    let host = TestHost::with(&["--save-original"]);
    let registry = host.registry();
    let manifest = registry.push(&image(), "team/app", "v1");
    let name = registry.name("team/app:v1");
    host.docker(&["pull", "-q", &name]).ok();
    let file = host.root.join("saved.tar").display().to_string();
    host.docker(&["save", "-o", &file, &name]).ok();
    let plain = host.root.join("plain.tar").display().to_string();
    host.brig(&["save", "--original=false", "-o", &plain, &name]).ok();
    assert!(std::fs::read(&file).unwrap() != std::fs::read(&plain).unwrap());
    let other = TestHost::new();
    for (file, same) in [(&plain, false), (&file, true)] {
        assert_eq!(other.docker(&["load", "-q", "-i", file]).ok(), format!("Loaded image: {name}"));
        assert_eq!(other.field(&name, "{{json .RepoDigests}}").contains(&manifest), same);
        assert_eq!(other.docker(&["run", "--rm", &name, "cat", "/etc/link"]).ok(), "mine");
        other.docker(&["rmi", &name]).ok();
    }
}

/// The id by which a push shows a layer.
fn short(layer: &[u8]) -> String {
    digest(layer)["sha256:".len()..][..12].to_owned()
}

#[test]
fn a_pushed_image_is_pulled_elsewhere() {
    let host = TestHost::new();
    let registry = host.registry();
    host.brig_run(&["load"]).input(image().docker_archive("app:1")).output().ok();
    let name = registry.name("team/app:v1");
    host.brig(&["tag", "app:1", &name]).ok();
    let pushed = host.brig(&["push", &name]).ok();
    let top = short(image().layers.last().unwrap());
    assert!(
        pushed.starts_with(&format!("The push refers to repository [{}]\n", registry.name("team/app"))),
        "{pushed}"
    );
    assert!(
        pushed.contains(&format!("\n{top}: Preparing\n")) && pushed.contains(&format!("\n{top}: Pushed\n")),
        "{pushed}"
    );
    let last = pushed.lines().last().unwrap();
    assert!(last.starts_with("v1: digest: sha256:") && last.contains(" size: "), "{pushed}");
    let manifest = last.split(' ').nth(2).unwrap().to_owned();
    let digests = host.field(&name, "{{json .RepoDigests}}");
    assert!(digests.contains(&format!("{}@{manifest}", registry.name("team/app"))), "{digests}");
    // What is there is not sent again, and another repository of the registry's lends it.
    let again = host.brig(&["push", &name]).ok();
    assert!(again.contains(&format!("{top}: Layer already exists")) && again.ends_with(last), "{again}");
    let other = registry.name("other");
    host.brig(&["tag", &name, &other]).ok();
    let mounted = host.brig(&["push", &other]).ok();
    assert!(mounted.starts_with("Using default tag: latest\n"), "{mounted}");
    assert!(mounted.contains(&format!("{top}: Mounted from team/app")) && mounted.contains(&manifest), "{mounted}");
    // Pulled again it is the same image; pushed to an empty registry its manifest stays the same.
    host.brig(&["rmi", "app:1", &name, &other]).ok();
    host.brig(&["pull", &name]).ok();
    assert_eq!(host.field(&name, "{{.Id}}"), image().id());
    let empty = host.registry_at("127.0.0.1:5001");
    let copy = empty.name("copy:v1");
    host.brig(&["tag", &name, &copy]).ok();
    let copied = host.brig(&["push", &copy]).ok();
    assert!(copied.contains(&format!("v1: digest: {manifest} ")), "{copied}");
    assert_eq!(host.brig(&["run", "--rm", "--pull", "always", &copy, "cat", "/etc/link"]).ok(), "mine");
}

#[test]
fn all_tags_and_refusals() {
    let host = TestHost::new();
    let registry = host.registry();
    host.load_busybox();
    let name = registry.name("many");
    let refused = host.brig(&["push", &name]).fails(1);
    assert!(refused.contains(&format!("An image does not exist locally with the tag: {name}")), "{refused}");
    for tag in ["a", "b"] {
        host.brig(&["tag", "busybox", &format!("{name}:{tag}")]).ok();
    }
    let refused = host.brig(&["push", &format!("{name}:c")]).fails(1);
    assert!(refused.contains(&format!("tag does not exist: {name}:c")), "{refused}");
    let pushed = host.brig(&["push", "-a", &name]).ok();
    assert!(pushed.contains("\na: digest: sha256:") && pushed.contains("\nb: digest: sha256:"), "{pushed}");
    assert_eq!(host.brig(&["push", "-q", &format!("{name}:a")]).ok(), format!("{name}:a"));
    assert_eq!(host.brig(&["push", "-a", "-q", &name]).ok(), name);
    let nobody = "127.0.0.1:5999/x:1";
    host.brig(&["tag", "busybox", nobody]).ok();
    let refused = host.brig(&["push", nobody]).fails(1);
    assert!(refused.contains("connection refused"), "{refused}");
}

#[test]
fn a_push_that_was_cut_goes_on() {
    let host = TestHost::new();
    let registry = host.registry();
    let big = Image::busybox().with(Layer::new().file("big", 0o644, noise(24 << 20)), &[]);
    host.brig_run(&["load"]).input(big.docker_archive("big:1")).output().ok();
    // Answers of a push are short: the wire is cut in the midst of the big layer's chunks.
    let proxy = host.proxy("127.0.0.1:5001", &registry.address, 2_500, true);
    let name = format!("{}/big:1", proxy.address);
    host.brig(&["tag", "big:1", &name]).ok();
    let pushed = host.brig(&["push", &name]).ok();
    assert!(pushed.contains("1: digest: sha256:"), "{pushed}");
    assert!(proxy.cuts() >= 1, "the wire was cut");
    let id = host.field("big:1", "{{.Id}}");
    host.brig(&["rmi", "big:1", &name]).ok();
    let direct = registry.name("big:1");
    host.brig(&["pull", &direct]).ok();
    assert_eq!(host.field(&direct, "{{.Id}}"), id);
}

#[test]
fn the_stock_client_pushes_too() {
    needs!("transfer::the_stock_client_pushes_too", "docker");
    let host = TestHost::new();
    let registry = host.registry();
    host.load_busybox();
    let name = registry.name("busybox:2");
    host.docker(&["tag", "busybox", &name]).ok();
    let pushed = host.docker(&["push", &name]).ok();
    assert!(pushed.contains(": Pushed") && pushed.contains("2: digest: sha256:"), "{pushed}");
    host.docker(&["rmi", &name, "busybox"]).ok();
    assert_eq!(host.docker(&["run", "--rm", &name, "echo", "back"]).ok(), "back");
}

#[test]
fn what_a_push_took_of_memory_it_gives_back() {
    let host = TestHost::new();
    let registry = host.registry();
    let layers =
        (1..=4u8).map(|number| Layer::new().file("big", 0o600, noise((20 << 20) + usize::from(number))).bytes());
    let image = Image::new(layers.collect(), serde_json::json!({"Cmd": ["/big"]}));
    host.brig_run(&["load"]).input(image.docker_archive("big:1")).output().ok();
    for round in 1..=3 {
        let name = registry.name(&format!("big{round}:1"));
        host.brig(&["tag", "big:1", &name]).ok();
        registry.empty();
        host.brig(&["push", &name]).ok();
    }
    eventually("the memory is given back", || (host.daemon_memory("RssAnon") < 20 << 10).then_some(()));
}
