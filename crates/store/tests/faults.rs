//! A process that is killed in the middle, and a disk that is full.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use brig_store::{ErrorKind, Store};
use common::Tar;

/// Runs one of the ignored tests below as a process of its own, with its directory in the environment.
fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("STORE_TEST_DIR", dir)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn child_dir() -> PathBuf {
    std::env::var_os("STORE_TEST_DIR").expect("only run as a child of another test").into()
}

/// An archive that goes on for ever.
struct Endless {
    index: u64,
    ready: Vec<u8>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.ready.is_empty() {
            self.index += 1;
            let mut bytes = Tar::new().file(&format!("d{}/f{}", self.index % 10, self.index), &[5; 5000]).finish();
            bytes.truncate(bytes.len() - 1024);
            self.ready = bytes;
        }
        let length = buffer.len().min(self.ready.len());
        buffer[..length].copy_from_slice(&self.ready[..length]);
        self.ready.drain(..length);
        Ok(length)
    }
}

#[test]
#[ignore = "the child of a_killed_process_leaves_nothing"]
fn unpacks_until_killed() {
    let store = Store::open(&child_dir()).unwrap();
    common::image(&store, &[&Tar::new().file("kept", b"kept").finish()]);
    let mut ingest = store.begin_layer().unwrap();
    ingest.unpack(Endless { index: 0, ready: Vec::new() }).unwrap();
}

#[test]
fn a_killed_process_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    for _ in 0..3 {
        let mut child = child("unpacks_until_killed", &root);
        let deadline = Instant::now() + Duration::from_secs(60);
        let busy = |root: &Path| {
            let Ok(mut ingests) = std::fs::read_dir(root.join("ingest")) else { return false };
            ingests.any(|entry| entry.is_ok_and(|entry| entry.path().join("diff/d3").exists()))
        };
        while !busy(&root) {
            assert!(Instant::now() < deadline, "the child does not unpack");
            // Another process's files: the folder itself is yet to be made.
            std::thread::sleep(Duration::from_millis(5));
        }
        let error = Store::open(&root).err().unwrap();
        assert!(error.kind == ErrorKind::Busy && error.message.contains(&child.id().to_string()), "{error}");
        child.kill().unwrap();
        child.wait().unwrap();
        let store = Store::open(&root).unwrap();
        store.wait_for_removals();
        assert_eq!(
            (common::count(&store, "ingest"), common::count(&store, "trash"), common::count(&store, "layers")),
            (0, 0, 1)
        );
        assert_eq!(store.images().len(), 1);
        assert!(store.layer(store.images()[0].chain_id.as_ref().unwrap()).is_some());
    }
}

#[test]
#[ignore = "the child of a_full_disk_can_be_emptied"]
fn fills_the_disk() {
    let dir = child_dir();
    let store = Store::open(&dir.join("v1")).unwrap();
    let reserve = dir.join("v1/reserve");
    assert_eq!(reserve.metadata().unwrap().blocks() * 512, 16 << 20);
    let mut ingest = store.begin_layer().unwrap();
    let error = ingest.unpack(Endless { index: 0, ready: Vec::new() }).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(error.message.contains(dir.join("v1/ingest").to_str().unwrap()), "{error}");
    drop(ingest);
    store.wait_for_removals();
    assert_eq!(common::count(&store, "ingest"), 0);
    let id = common::image(&store, &[&Tar::new().file("a", b"a").finish()]);
    let layers = store.prepare("c", store.image(&id).unwrap().chain_id.as_ref()).unwrap();
    let mut file = std::fs::File::create(layers.upper.join("big")).unwrap();
    let filled = std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
    assert_eq!(filled.kind(), std::io::ErrorKind::StorageFull);
    drop(file);
    // Not a byte is free, and everything can be removed.
    store.remove_active("c").unwrap();
    store.remove_image(&id).unwrap();
    store.gc(&[]).unwrap();
    store.wait_for_removals();
    assert_eq!((common::count(&store, "layers"), common::count(&store, "active")), (0, 0));
    assert_eq!(reserve.metadata().unwrap().blocks() * 512, 16 << 20, "set aside again");
}

#[test]
fn a_full_disk_can_be_emptied() {
    let dir = tempfile::tempdir().unwrap();
    // In a mount namespace of its own, which takes the file system with it.
    let script = r#"mount -t tmpfs -o size=100m none "$STORE_TEST_DIR" && exec "$0" --exact fills_the_disk --ignored"#;
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("STORE_TEST_DIR", dir.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}
