//! The store's upkeep as users see it: whatever happened to its files the daemon starts, and what is freed is free.

use brig_tests::{Image, Layer, TestHost};
use std::path::Path;
use std::process::Command;

/// Bytes on the disk, as `du` counts them.
fn du(path: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// What a command prints that ends with 3, because something is left to be done.
fn left(output: &brig_tests::Output) -> String {
    assert_eq!(output.code, 3, "{output}");
    output.stdout.clone()
}

/// Changes the database with no daemon there.
fn sql(host: &TestHost, statement: &str) {
    let database = rusqlite::Connection::open(host.data_root.join("v1/brig.db")).unwrap();
    database.execute_batch(statement).unwrap();
}

#[test]
fn the_daemon_starts_without_its_database() {
    let mut host = TestHost::new();
    host.load_busybox();
    host.brig(&["volume", "create", "data"]).ok();
    host.brig(&[
        "run",
        "-d",
        "--name",
        "runs",
        "-v",
        "data:/data",
        "busybox",
        "sh",
        "-c",
        "echo kept > /data/file; exec sleep 1000",
    ])
    .ok();
    host.brig(&["run", "--name", "ended", "busybox", "sh", "-c", "echo mine > /file; exit 3"]).fails(3);
    let pid = host.pid("runs");
    // The copy is made when a daemon has come up.
    host.crash_daemon();
    brig_tests::eventually("a copy that is newer", || {
        let path = host.data_root.join("v1/brig.db.copy");
        let database = rusqlite::Connection::open(path).ok()?;
        let count: i64 = database.query_row("SELECT count(*) FROM containers", [], |row| row.get(0)).ok()?;
        (count == 2).then_some(())
    });
    host.kill_daemon();
    std::fs::write(host.data_root.join("v1/brig.db"), vec![0x5a; 50_000]).unwrap();
    std::fs::remove_file(host.data_root.join("v1/brig.db-wal")).unwrap();
    host.start_daemon();
    assert_eq!(host.pid("runs"), pid);
    assert_eq!(host.field("ended", "{{.State.ExitCode}}"), "3");
    assert_eq!(host.brig(&["exec", "runs", "cat", "/data/file"]).ok(), "kept");
    assert_eq!(host.brig(&["images", "--format", "{{.Repository}}"]).ok(), "busybox");
    assert!(host.daemon_log().contains("could not be used"), "{}", host.daemon_log());
    // And without the copy: what only the database knew is gone, what is on the disk is not.
    host.brig(&["rm", "-f", "runs"]).ok();
    host.kill_daemon();
    for name in ["brig.db", "brig.db-wal", "brig.db-shm", "brig.db.copy"] {
        std::fs::remove_file(host.data_root.join("v1").join(name)).ok();
    }
    host.start_daemon();
    assert_eq!(host.brig(&["images", "-q"]).ok().lines().count(), 1);
    assert_eq!(host.brig(&["volume", "ls", "-q"]).ok(), "data");
    let id = host.brig(&["images", "-q"]).ok();
    assert_eq!(host.brig(&["run", "--rm", "-v", "data:/data", &id, "cat", "/data/file"]).ok(), "kept");
    let found =
        Command::new("find").arg(host.data_root.join("v1/quarantine")).args(["-name", "file"]).output().unwrap();
    assert!(String::from_utf8_lossy(&found.stdout).contains("upper/file"), "what the container wrote is kept");
}

#[test]
fn an_unreadable_container_gives_up_its_name() {
    let mut host = TestHost::new();
    host.load_busybox();
    let id = host.brig(&["create", "--name", "broken", "busybox"]).ok();
    host.brig(&["create", "--name", "whole", "busybox"]).ok();
    host.kill_daemon();
    sql(&host, "UPDATE containers SET record = 'no record' WHERE name = 'broken'");
    host.start_daemon();
    assert_eq!(host.brig(&["ps", "-a", "--format", "{{.Names}}"]).ok(), "whole");
    host.brig(&["create", "--name", "broken", "busybox"]).ok();
    let found = left(&host.brig(&["system", "check"]));
    assert!(found.contains(&id), "{found}");
    let mended = host.brig(&["system", "check", "--repair"]).ok();
    assert!(mended.contains("its record cannot be read") && mended.contains("all mended"), "{mended}");
    assert_eq!(host.brig(&["system", "check", "--full"]).ok(), "Everything is as it should be.");
    assert!(!host.data_root.join("v1/active").join(&id).exists());
}

#[test]
fn a_damaged_layer_is_found_and_healed_while_it_is_used() {
    let mut host = TestHost::new();
    let registry = host.registry();
    let image = Image::busybox().with(Layer::new().file("data", 0o644, "as it was"), &[]);
    registry.push(&image, "data", "v1");
    let name = registry.name("data:v1");
    host.brig(&["run", "-d", "--name", "user", &name, "sleep", "1000"]).ok();
    assert_eq!(host.brig(&["system", "check", "--full"]).ok(), "Everything is as it should be.");
    let layers = host.data_root.join("v1/layers");
    let find = || {
        std::fs::read_dir(&layers)
            .unwrap()
            .map(|entry| entry.unwrap().path().join("diff/data"))
            .find(|path| path.exists())
    };
    std::fs::write(find().unwrap(), "as it is!").unwrap();
    assert_eq!(host.brig(&["system", "check"]).ok(), "Everything is as it should be.");
    let lines = left(&host.brig(&["system", "check", "--full", "--format", "json"]));
    assert!(lines.contains("\"kind\":\"layer\"") && lines.contains("\"summary\":{\"found\":"), "{lines}");
    let repaired = left(&host.brig(&["system", "check", "--full", "--repair"]));
    assert!(repaired.contains(&format!("to do: brig pull {name}")), "{repaired}");
    host.brig(&["create", "--name", "another", &name]).fails(1);
    host.brig(&["pull", &name]).ok();
    assert_eq!(std::fs::read_to_string(find().unwrap()).unwrap(), "as it was");
    assert_eq!(host.brig(&["run", "--rm", &name, "cat", "/data"]).ok(), "as it was");
    // The one that ran all the time goes on with what it has, to the end.
    assert_eq!(host.brig(&["exec", "user", "cat", "/data"]).ok(), "as it is!");
    host.brig(&["restart", "-t", "0", "user"]).ok();
    assert_eq!(host.brig(&["exec", "user", "cat", "/data"]).ok(), "as it was");
    assert_eq!(host.brig(&["system", "check", "--full"]).ok(), "Everything is as it should be.");
    // Without a daemon: refused while there is one, done when there is none.
    let data_root = host.data_root.to_string_lossy().into_owned();
    let offline =
        |host: &TestHost, more: &[&str]| host.brig(&[&["system", "check", "--data-root", &data_root], more].concat());
    let refused = offline(&host, &[]).fails(1);
    assert!(refused.contains("is in use by process"), "{refused}");
    host.brig(&["rm", "-f", "user"]).ok();
    host.stop_daemon();
    assert_eq!(offline(&host, &["--full"]).ok(), "Everything is as it should be.");
    std::fs::write(host.data_root.join("v1/stray"), "stray").unwrap();
    let found = left(&offline(&host, &[]));
    assert!(found.contains("it is not the store's") && found.contains("1 found, 1 left"), "{found}");
    let mended = offline(&host, &["--repair"]).ok();
    assert!(mended.contains("1 found, all mended."), "{mended}");
    let nothing = host.brig(&["system", "check", "--data-root", "/nonexistent"]).fails(1);
    assert!(nothing.contains("is not a data root of brig"), "{nothing}");
    host.start_daemon();
}

#[test]
fn strays_do_not_keep_the_daemon_down() {
    let mut host = TestHost::new();
    host.load_busybox();
    host.stop_daemon();
    let root = host.data_root.join("v1");
    for name in ["stray", "layers/stray", "active/stray", "blobs/sha256/stray", "containers/stray", "volumes/stray"] {
        std::fs::write(root.join(name), "stray").unwrap();
    }
    for name in ["ingest", "trash", "partial"] {
        std::fs::remove_dir_all(root.join(name)).unwrap();
    }
    std::fs::write(root.join("trash"), "in the way").unwrap();
    host.start_daemon();
    assert_eq!(host.brig(&["run", "--rm", "busybox", "echo", "hi"]).ok(), "hi");
    for name in ["active/stray", "containers/stray"] {
        std::fs::remove_file(root.join(name)).unwrap();
    }
}

#[test]
fn a_prune_gives_back_what_it_says() {
    let host = TestHost::new();
    let registry = host.registry();
    let image = Image::busybox().with(Layer::new().file("big", 0o644, brig_tests::image::noise(6 << 20)), &[]);
    registry.push(&image, "big", "v1");
    let name = registry.name("big:v1");
    host.brig(&["pull", &name]).ok();
    rustix::fs::sync();
    let before = du(&host.data_root);
    let answer = host.brig(&["image", "prune", "-a", "-f"]).ok();
    let after = du(&host.data_root);
    assert!(answer.contains("Total reclaimed space: "), "{answer}");
    let report: u64 = {
        let events = host
            .brig(&[
                "events",
                "--since",
                "5m",
                "--until",
                "0s",
                "--filter",
                "event=prune",
                "--format",
                "{{index .Actor.Attributes \"reclaimed\"}}",
            ])
            .ok();
        events.lines().last().unwrap().trim().parse().unwrap()
    };
    let difference = before - after;
    assert!(difference > 6 << 20, "{difference}");
    assert!(report.abs_diff(difference) * 100 <= difference, "{report} reported, {difference} by du");
}

/// What `du` says about everything below some of the data root's directories.
pub(crate) fn du_of(host: &TestHost, names: &[&str]) -> u64 {
    let paths = names.iter().map(|name| host.data_root.join("v1").join(name)).filter(|path| path.exists());
    paths.map(|path| du(&path)).sum()
}

#[test]
fn df_is_what_du_says() {
    let host = TestHost::new();
    host.load_busybox();
    let registry = host.registry();
    let image = Image::busybox().with(Layer::new().file("big", 0o644, brig_tests::image::noise(6 << 20)), &[]);
    registry.push(&image, "big", "v1");
    let name = registry.name("big:v1");
    host.brig(&["pull", &name]).ok();
    let write =
        "head -c 3000000 /dev/urandom > /file; head -c 2000000 /dev/urandom > /data/file; ln /data/file /data/again";
    host.brig(&["run", "--name", "writes", "-v", "data:/data", &name, "sh", "-c", write]).ok();
    let answer = |query: &str| {
        rustix::fs::sync();
        brig_tests::http::unix(&host.socket(), "GET", &format!("/v1.43/system/df{query}"), &[]).unwrap().json()
    };
    let usage = answer("");
    let sum = |list: &str, size: &dyn Fn(&serde_json::Value) -> Option<u64>| -> u64 {
        usage[list].as_array().unwrap().iter().map(|one| size(one).unwrap()).sum()
    };
    let images = usage["LayersSize"].as_u64().unwrap();
    let containers = sum("Containers", &|one| one["SizeRw"].as_u64());
    let volumes = sum("Volumes", &|one| one["UsageData"]["Size"].as_u64());
    let close = |what: &str, said: u64, names: &[&str]| {
        let is = du_of(&host, names);
        assert!(is > 1_000_000 && said.abs_diff(is) * 100 <= is, "{what}: {said} said, {is} by du");
    };
    close("images", images, &["layers", "blobs", "packed", "partial", "ingest", "repositories"]);
    close("containers", containers, &["active", "containers"]);
    close("volumes", volumes, &["volumes"]);
    // Measured once, the layers are not looked at again; what was added since is.
    host.brig(&["tag", &name, "second"]).ok();
    assert!(answer("")["LayersSize"].as_u64().unwrap().abs_diff(images) * 100 < images);
    let big = |value: &serde_json::Value| value["RepoTags"].as_array().unwrap().iter().any(|tag| *tag == name.as_str());
    let shown = usage["Images"].as_array().unwrap().iter().find(|image| big(image)).unwrap();
    let (size, shared) = (shown["Size"].as_u64().unwrap(), shown["SharedSize"].as_u64().unwrap());
    assert!(shared > 100_000 && size - shared == 6 << 20, "{size} of which {shared} shared");
    let only = answer("?type=volume");
    assert!(only["Images"].is_null() && only["Containers"].is_null() && only["Volumes"].is_array(), "{only}");
    host.brig(&["rm", "writes"]).ok();
    host.brig(&["volume", "rm", "data"]).ok();
}

#[test]
fn unused_images_without_a_name_go_when_the_disk_is_full() {
    // Always too full, and nothing is too young.
    let gc = ["high=0%", "low=0%", "keep=0s", "every=1s"];
    let flags: Vec<&str> = gc.iter().flat_map(|option| ["--storage-gc", option]).collect();
    let host = TestHost::with(&flags);
    let registry = host.registry();
    for version in ["first", "second", "third"] {
        let image = Image::busybox().with(Layer::new().file("file", 0o644, version), &[]);
        registry.push(&image, "it", version);
        let name = registry.name(&format!("it:{version}"));
        if version == "third" {
            host.brig(&["pull", &name]).ok();
        } else {
            host.brig(&["run", "-d", "--name", version, &name, "sleep", "1000"]).ok();
            host.brig(&["rmi", "-f", &name]).ok();
        }
    }
    assert_eq!(host.brig(&["ps", "-q"]).ok().lines().count(), 2);
    host.brig(&["rm", "-f", "first"]).ok();
    // What the container stood on had lost its name, and now its user.
    let event = brig_tests::eventually("room is made", || {
        let events = host.brig(&["events", "--since", "5m", "--until", "0s", "--filter", "event=gc"]).ok();
        events.lines().next().map(str::to_owned)
    });
    assert!(event.contains("reclaimed="), "{event}");
    assert_eq!(host.brig(&["exec", "second", "cat", "/file"]).ok(), "second");
    // The image that a container is of is one still.
    let of_second = host.field("second", "{{.Image}}");
    assert_eq!(host.field(&of_second, "{{.Id}}"), of_second);
    assert_eq!(host.brig(&["images", "--format", "{{.Tag}}"]).ok().lines().filter(|tag| *tag == "third").count(), 1);
    host.brig(&["rm", "-f", "second"]).ok();
}
