//! Blobs on their way in: what is there after each kind of interruption, and what becomes of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{ErrorKind as IoKind, Read};
use std::time::Duration;

use brig_store::digest::sha256_of;
use brig_store::{ErrorKind, Store};
use common::{count, open};

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// The store as a kill at this moment leaves it: its files as they are now, opened by another process.
fn killed(store: &Store) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    std::fs::create_dir_all(root.join("partial")).unwrap();
    for entry in std::fs::read_dir(store.root().join("partial")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), root.join("partial").join(entry.file_name())).unwrap();
    }
    let copy = Store::open(&root).unwrap();
    (dir, copy)
}

#[test]
fn a_blob_is_gone_on_with_after_a_kill() {
    let (_dir, store) = open();
    let content = bytes(300_000);
    let digest = sha256_of(&content);
    let partial = store.partials().open("sha256-x").unwrap();
    partial.append(&content[..200_000]).unwrap();
    let (_dir2, later) = killed(&store);
    let lease = brig_store::Lease::begin(&later);
    let resumed = later.partials().open("sha256-x").unwrap();
    assert_eq!((resumed.len(), resumed.present()), (200_000, 200_000));
    assert_eq!(resumed.verify(&digest).unwrap_err().kind, ErrorKind::Mismatch);
    resumed.append(&content[200_000..]).unwrap();
    assert_eq!(resumed.commit(&digest).unwrap(), 300_000);
    assert_eq!(later.blob_size(&digest), Some(300_000));
    let (mut file, size) = later.open_blob(&digest).unwrap();
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    assert_eq!((read == content, size), (true, 300_000));
    assert_eq!(count(&later, "partial"), 0);
    // Nothing refers to it yet, but it belongs to work in flight.
    later.gc(&[]).unwrap();
    assert!(later.has_blob(&digest));
    drop(lease);
    later.gc(&[]).unwrap();
    assert!(!later.has_blob(&digest));
}

#[test]
fn parts_of_an_archive_are_not_gone_on_with() {
    let (_dir, store) = common::open();
    for name in ["load-x", "other"] {
        store.partials().open(name).unwrap().append(b"part").unwrap();
    }
    let (_dir, again) = killed(&store);
    let names: Vec<String> = again.partials().list().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["other"]);
}

#[test]
fn parts_count_when_the_gaps_before_them_are_closed() {
    let (_dir, store) = open();
    let content = bytes(100_000);
    let partial = store.partials().open("p").unwrap();
    partial.append(&content[..10_000]).unwrap();
    partial.write_at(50_000, &content[50_000..60_000]).unwrap();
    partial.write_at(30_000, &content[30_000..50_000]).unwrap();
    assert_eq!((partial.len(), partial.present()), (10_000, 40_000));
    assert_eq!(partial.missing(100_000), [10_000..30_000, 60_000..100_000]);
    // The file is longer than what counts, and a kill does not make the hole count.
    let (_dir2, later) = killed(&store);
    let resumed = later.partials().open("p").unwrap();
    assert_eq!(resumed.missing(100_000), [10_000..30_000, 60_000..100_000]);
    resumed.append(&content[10_000..30_000]).unwrap();
    assert_eq!(resumed.len(), 60_000);
    drop(resumed);
    // Whole again, so the map is not needed any more.
    assert_eq!(later.partials().open("p").unwrap().len(), 60_000);
    assert_eq!(count(&later, "partial"), 1);
    let resumed = later.partials().open("p").unwrap();
    resumed.write_at(60_000, &content[60_000..]).unwrap();
    resumed.commit(&sha256_of(&content)).unwrap();
    assert_eq!(count(&later, "partial"), 0);
}

#[test]
fn a_map_that_was_cut_or_lies_is_not_believed() {
    let (_dir, store) = open();
    let partial = store.partials().open("p").unwrap();
    partial.append(&bytes(1000)).unwrap();
    partial.write_at(2000, &bytes(500)).unwrap();
    drop(partial);
    let map = store.root().join("partial/p.map");
    let mut records = std::fs::read(&map).unwrap();
    records.extend_from_slice(&[4000u64.to_le_bytes(), u64::MAX.to_le_bytes(), [9; 8]].concat());
    std::fs::write(&map, &records).unwrap();
    let partial = store.partials().open("p").unwrap();
    assert_eq!(partial.missing(5000), [1000..2000, 2500..5000]);
    drop(partial);
    std::fs::write(&map, b"").unwrap();
    assert_eq!(store.partials().open("p").unwrap().present(), 0);
}

#[test]
fn what_is_there_never_changes() {
    let (_dir, store) = open();
    let content = bytes(5000);
    let partial = store.partials().open("p").unwrap();
    partial.write_at(1000, &content[1000..2000]).unwrap();
    partial.append(&content[..1500]).unwrap();
    partial.write_at(500, &[0; 1000]).unwrap();
    partial.write_at(1800, &content[1800..]).unwrap();
    assert_eq!(partial.commit(&sha256_of(&content)).unwrap(), 5000);
}

#[test]
fn a_reader_follows_until_the_end() {
    let (_dir, store) = open();
    let content = bytes(3_000_000);
    let partial = store.partials().open("p").unwrap();
    partial.append(&content[..100]).unwrap();
    let mut reader = partial.reader();
    std::thread::scope(|scope| {
        let read = scope.spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).map(|_| all)
        });
        for (nth, piece) in content[100..].chunks(64 * 1024).enumerate().collect::<Vec<_>>().into_iter().rev() {
            partial.write_at(100 + nth as u64 * 64 * 1024, piece).unwrap();
        }
        partial.finish();
        assert!(read.join().unwrap().unwrap() == content);
    });
    assert_eq!(partial.commit(&sha256_of(&content)).unwrap(), 3_000_000);
}

#[test]
fn a_reader_is_told_why_nothing_more_comes() {
    let (_dir, store) = open();
    let partial = store.partials().open("p").unwrap();
    partial.append(b"abc").unwrap();
    let kind = |mut reader: brig_store::PartialReader| {
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        (error.kind(), error.to_string())
    };
    let (first, second, third) = (partial.reader(), partial.reader(), partial.reader());
    partial.fail(IoKind::InvalidData, "wrong size");
    assert_eq!(kind(first), (IoKind::InvalidData, "wrong size".to_owned()));
    partial.truncate(0).unwrap();
    assert_eq!(kind(second).0, IoKind::ConnectionAborted);
    let fourth = partial.reader();
    let waiting = std::thread::spawn(move || kind(fourth));
    drop(partial);
    assert_eq!(waiting.join().unwrap().0, IoKind::ConnectionAborted);
    assert_eq!(kind(third).0, IoKind::ConnectionAborted);
}

#[test]
fn wrong_content_is_not_kept_and_beginning_again_works() {
    let (_dir, store) = open();
    let content = bytes(4000);
    let digest = sha256_of(&content);
    let partial = store.partials().open("p").unwrap();
    partial.append(b"wrong").unwrap();
    partial.write_at(100, b"also wrong").unwrap();
    assert_eq!(partial.verify(&digest).unwrap_err().kind, ErrorKind::Mismatch);
    partial.truncate(0).unwrap();
    partial.append(&content).unwrap();
    partial.verify(&digest).unwrap();
    partial.truncate(3999).unwrap();
    assert_eq!(partial.len(), 3999);
    let error = partial.commit(&digest).unwrap_err();
    assert_eq!((error.kind, store.has_blob(&digest), count(&store, "partial")), (ErrorKind::Mismatch, false, 0));
    let sha512 = brig_oci::Digest::parse(&format!("sha512:{}", "0".repeat(128))).unwrap();
    let partial = store.partials().open("p").unwrap();
    partial.append(&content).unwrap();
    assert_eq!(partial.commit(&sha512).unwrap_err().kind, ErrorKind::Mismatch);
}

#[test]
fn one_at_a_time_and_gone_after_a_while() {
    let (_dir, store) = open();
    let partial = store.partials().open("a").unwrap();
    assert_eq!(store.partials().open("a").err().unwrap().kind, ErrorKind::Busy);
    partial.append(b"12345").unwrap();
    drop(store.partials().open("b-2").unwrap());
    let mut names: Vec<_> = store.partials().list().unwrap().into_iter().map(|p| (p.name, p.len, p.open)).collect();
    names.sort();
    assert_eq!(names, [("a".to_owned(), 5, true), ("b-2".to_owned(), 0, false)]);
    assert_eq!(store.partials().expire(Duration::from_secs(60)).unwrap(), 0);
    assert_eq!(count(&store, "partial"), 2);
    assert_eq!(store.partials().expire(Duration::ZERO).unwrap(), 0);
    assert_eq!(count(&store, "partial"), 1, "one that is open stays");
    drop(partial);
    assert_eq!(store.partials().expire(Duration::ZERO).unwrap(), 5);
    for bad in ["", "../x", "a.map", "a/b", &"x".repeat(161)] {
        assert_eq!(store.partials().open(bad).err().unwrap().kind, ErrorKind::Invalid, "{bad}");
    }
    // A map whose blob was published just before a kill.
    std::fs::write(store.root().join("partial/gone.map"), [0; 16]).unwrap();
    let (_dir2, later) = killed(&store);
    assert_eq!(count(&later, "partial"), 0);
}
