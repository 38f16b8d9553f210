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
    for part in ["active", "containers"] {
        std::fs::remove_dir_all(host.data_root.join("v1").join(part).join(&id)).unwrap();
    }
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
