//! A store opens in whatever state its files are, and nothing that is whole is lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use brig_oci::Digest;
use brig_store::Store;
use common::Tar;

const TABLE: &[&str] = &["CREATE TABLE things (id TEXT PRIMARY KEY, text TEXT NOT NULL)"];

/// A store with two images, one named, one container that wrote something, and a table of somebody else's.
struct Example {
    _dir: tempfile::TempDir,
    root: PathBuf,
    image: Digest,
    chain: Digest,
}

fn example(settled: bool) -> Example {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    let store = Store::open(&root).unwrap();
    let tar = Tar::new().dir("etc", 0o755).file("etc/hosts", b"localhost").finish();
    let image = common::image(&store, &[&tar]);
    common::image(&store, &[&tar, &Tar::new().file("more", b"more").finish()]);
    store.tag("docker.io/library/named:latest", &image, None).unwrap();
    let chain = store.image(&image).unwrap().chain_id.unwrap();
    let layers = store.prepare("container", Some(&chain)).unwrap();
    std::fs::write(layers.upper.join("precious"), b"precious").unwrap();
    store.database().migrate("things", TABLE).unwrap();
    for n in 0..300 {
        let text = "x".repeat(500);
        let row = (format!("{n:04}"), text);
        store.database().write_relaxed(|db| db.execute("INSERT INTO things VALUES (?1, ?2)", row).map(drop)).unwrap();
    }
    if settled {
        store.upkeep().settle().unwrap();
    }
    drop(store);
    Example { _dir: dir, root, image, chain }
}

/// Everything of a store, in a directory of its own.
fn copy(root: &Path) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("v1");
    assert!(std::process::Command::new("cp").arg("-a").arg(root).arg(&copy).status().unwrap().success());
    (dir, copy)
}

fn quarantined(root: &Path, kind: &str) -> Vec<PathBuf> {
    let dates = std::fs::read_dir(root.join("quarantine")).into_iter().flatten();
    let kinds = dates.map(|date| date.unwrap().path().join(kind)).filter(|path| path.is_dir());
    kinds.flat_map(|path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())).collect()
}

/// Neither layers nor what containers wrote is lost, whatever the database was.
fn nothing_lost(root: &Path, example: &Example) -> Store {
    let store = Store::open(root).unwrap();
    assert_eq!(store.images().len(), 2);
    assert!(store.layer(&example.chain).is_some());
    let kept = root.join("active/container/upper/precious").exists()
        || quarantined(root, "active").iter().any(|path| path.join("upper/precious").exists());
    assert!(kept, "what the container wrote");
    let tar = store.layer_tar(&example.chain).unwrap();
    std::io::copy(&mut { tar }, &mut std::io::sink()).unwrap();
    store
}

fn things(store: &Store) -> i64 {
    store.database().migrate("things", TABLE).unwrap();
    store.database().read(|db| db.query_row("SELECT count(*) FROM things", [], |row| row.get(0))).unwrap()
}

#[test]
fn a_database_of_garbage_is_replaced() {
    let example = example(false);
    let (_dir, root) = copy(&example.root);
    std::fs::write(root.join("brig.db"), vec![0xaa; 100_000]).unwrap();
    let store = nothing_lost(&root, &example);
    assert!(store.database().rescued().is_some());
    assert_eq!(quarantined(&root, "database").len(), 1);
    assert!(store.tags().is_empty(), "only the database knew the names");
    store.upkeep().settle().unwrap();
    drop(store);
    let store = nothing_lost(&root, &example);
    assert_eq!(store.database().rescued(), None);
}

#[test]
fn the_copy_knows_what_the_damaged_one_does_not() {
    let example = example(true);
    let (_dir, root) = copy(&example.root);
    std::fs::remove_file(root.join("brig.db")).unwrap();
    let store = nothing_lost(&root, &example);
    assert_eq!(store.resolve("docker.io/library/named:latest").unwrap().image, example.image);
    assert!(store.active("container").is_some());
    assert_eq!(things(&store), 300);
}

/// Whether the copy has this name.
fn copied(root: &Path, name: &str) -> bool {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let Ok(db) = rusqlite::Connection::open_with_flags(root.join("brig.db.copy"), flags) else { return false };
    let count = db.query_row("SELECT count(*) FROM store_tags WHERE name = ?1", [name], |row| row.get::<_, i64>(0));
    count.is_ok_and(|count| count > 0)
}

#[test]
fn the_copy_follows_what_is_written() {
    const LATER: &str = "docker.io/library/later:latest";
    let example = example(false);
    let (_dir, root) = copy(&example.root);
    let store = Store::open(&root).unwrap();
    store.tag("docker.io/library/before:latest", &example.image, None).unwrap();
    store.upkeep().settle().unwrap();
    assert!(copied(&root, "docker.io/library/before:latest"));
    store.tag(LATER, &example.image, None).unwrap();
    brig_tests::eventually("the copy has the name", || copied(&root, LATER).then_some(()));
    // What is written last is in it when the store is closed.
    store.tag("docker.io/library/last:latest", &example.image, None).unwrap();
    drop(store);
    for name in ["brig.db", "brig.db-wal", "brig.db-shm"] {
        std::fs::remove_file(root.join(name)).ok();
    }
    let store = nothing_lost(&root, &example);
    let names: Vec<String> = store.tags().into_iter().map(|tag| tag.name).collect();
    assert_eq!(names.len(), 4, "{names:?}");
    assert!(store.active("container").is_some());
}

#[test]
fn a_registrys_blobs_are_not_taken_for_a_new_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    let store = Store::open(&root).unwrap();
    let repositories = brig_store::Repositories::of(&store);
    let blob = store.put_blob(b"content").unwrap();
    repositories.link_blob("team/app", &blob, 7).unwrap();
    store.upkeep().settle().unwrap();
    drop((store, repositories));
    std::fs::remove_file(root.join("brig.db")).unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.database().rescued().is_some());
    assert_eq!(brig_store::Repositories::of(&store).blob_size("team/app", &blob).unwrap(), Some(7));
    store.upkeep().prune().unwrap();
    assert!(store.has_blob(&blob));
}

#[test]
fn what_was_removed_since_the_copy_stays_away() {
    let example = example(true);
    let (_dir, root) = copy(&example.root);
    let store = Store::open(&root).unwrap();
    store.remove_active("container").unwrap();
    store.remove_image(&example.image).unwrap();
    store.gc(&[]).unwrap();
    drop(store);
    std::fs::write(root.join("brig.db"), b"").unwrap();
    std::fs::write(root.join("brig.db"), vec![1; 5000]).unwrap();
    let store = Store::open(&root).unwrap();
    assert!(store.image(&example.image).is_none() && store.tags().is_empty());
    assert_eq!(store.images().len(), 1);
}

#[test]
fn a_rescue_that_was_cut_off_is_begun_again() {
    let example = example(true);
    let (_dir, root) = copy(&example.root);
    std::fs::write(root.join("brig.db"), vec![0xaa; 100_000]).unwrap();
    // The tables of others were not made before the crash.
    drop(nothing_lost(&root, &example));
    let store = nothing_lost(&root, &example);
    assert_eq!(things(&store), 300);
    store.upkeep().settle().unwrap();
}

#[test]
fn a_torn_database_gives_what_can_be_read() {
    let example = example(false);
    let length = std::fs::metadata(example.root.join("brig.db")).unwrap().len();
    // Every page in turn becomes zeros, or noise, or everything from there on is cut off.
    let mut saved = 0;
    let mut tries = 0;
    for page in (0..length / 4096).step_by(5) {
        for (kind, bytes) in
            [("zeros", vec![0u8; 4096]), ("noise", (0..4096u32).map(|n| (n * 37 + 11) as u8).collect())]
        {
            let (_dir, root) = copy(&example.root);
            let file = std::fs::File::options().write(true).open(root.join("brig.db")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &bytes, page * 4096).unwrap();
            let store = nothing_lost(&root, &example);
            tries += 1;
            let things = things(&store);
            saved += things;
            assert!(things <= 300, "{kind} at page {page}");
        }
        let (_dir, root) = copy(&example.root);
        let file = std::fs::File::options().write(true).open(root.join("brig.db")).unwrap();
        file.set_len(page * 4096 + 512).unwrap();
        drop(nothing_lost(&root, &example));
    }
    assert!(saved > tries * 200, "{saved} rows of {tries} times 300");
}

#[test]
fn without_its_log_it_opens() {
    let example = example(false);
    let (_dir, root) = copy(&example.root);
    for name in ["brig.db-wal", "brig.db-shm"] {
        std::fs::remove_file(root.join(name)).ok();
        std::fs::create_dir(root.join(name)).unwrap();
    }
    nothing_lost(&root, &example);
}

#[test]
fn whatever_stands_in_the_way_is_moved() {
    let example = example(false);
    for name in ["ingest", "trash", "partial", "blobs/sha512"] {
        let (_dir, root) = copy(&example.root);
        std::fs::remove_dir_all(root.join(name)).unwrap();
        std::fs::write(root.join(name), b"file").unwrap();
        nothing_lost(&root, &example);
        assert_eq!(quarantined(&root, "stray").len(), 1, "{name}");
    }
    for name in ["reserve", "lock"] {
        let (_dir, root) = copy(&example.root);
        std::fs::remove_file(root.join(name)).unwrap();
        std::fs::create_dir(root.join(name)).unwrap();
        std::fs::write(root.join(name).join("file"), b"x").unwrap();
        nothing_lost(&root, &example);
    }
    let (_dir, root) = copy(&example.root);
    std::fs::remove_dir_all(root.join("layers")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.join("layers")).unwrap();
    let store = Store::open(&root).unwrap();
    assert_eq!((store.layer(&example.chain), store.images().len()), (None, 2));
}

#[test]
fn strays_anywhere_do_no_harm() {
    let example = example(false);
    let (_dir, root) = copy(&example.root);
    for name in [
        "x",
        "blobs/x",
        "blobs/sha256/x",
        "blobs/sha512/x",
        "layers/x",
        "active/x",
        "partial/x",
        "containers",
        "quarantine",
    ] {
        std::fs::write(root.join(name), b"stray").unwrap();
    }
    for name in ["blobs/sha256/d", "layers/d", "ingest/d", "trash/d", "partial/d"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::create_dir_all(root.join("active/d/upper")).unwrap();
    let store = nothing_lost(&root, &example);
    store.gc(&[]).unwrap();
    store.upkeep().prune().unwrap();
    assert!(root.join("blobs/sha256/x").exists() && root.join("layers/x").exists());
}

#[test]
fn layers_without_rows_are_taken_up_again() {
    let example = example(false);
    let (_dir, root) = copy(&example.root);
    let store = Store::open(&root).unwrap();
    let before = store.layer(&example.chain);
    store.database().write(|db| db.execute("DELETE FROM store_layers", []).map(drop)).unwrap();
    drop(store);
    let store = nothing_lost(&root, &example);
    assert_eq!(store.layer(&example.chain), before);
}

#[test]
fn what_a_lost_container_wrote_is_kept() {
    let example = example(false);
    let (_dir, root) = copy(&example.root);
    let store = Store::open(&root).unwrap();
    store.prepare("empty", Some(&example.chain)).unwrap();
    store.database().write(|db| db.execute("DELETE FROM store_active", []).map(drop)).unwrap();
    drop(store);
    drop(nothing_lost(&root, &example));
    assert_eq!(common::count(&Store::open(&root).unwrap(), "active"), 0);
    assert_eq!(quarantined(&root, "active").len(), 1);
}

/// A blob of the right length and the wrong bytes: whoever has the right ones puts them in its place.
#[test]
fn a_damaged_blob_is_mended_by_whoever_brings_it_again() {
    let (dir, store) = common::open();
    let bytes = b"what it should be".to_vec();
    let digest = store.put_blob(&bytes).unwrap();
    let path = dir.path().join("v1/blobs/sha256").join(digest.hex());
    let damage = || std::fs::write(&path, vec![b'x'; bytes.len()]).unwrap();
    damage();
    store.put_blob(&bytes).unwrap();
    assert_eq!(store.read_blob(&digest).unwrap(), bytes, "stored again");
    damage();
    let partial = store.partials().open("again").unwrap();
    partial.append(&bytes).unwrap();
    assert_eq!(partial.commit(&digest).unwrap(), bytes.len() as u64);
    assert_eq!(store.read_blob(&digest).unwrap(), bytes, "arrived again");
    assert!(store.partials().list().unwrap().is_empty());
    // One that is whole is left as it is.
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let before = inode(&path);
    store.put_blob(&bytes).unwrap();
    let partial = store.partials().open("again").unwrap();
    partial.append(&bytes).unwrap();
    partial.commit(&digest).unwrap();
    assert_eq!(inode(&path), before);
}

/// Directories where unfinished blobs are kept, and one where the database's copy is made: stray, old, and in nobody's way.
#[test]
fn directories_among_files_keep_nobody_from_opening_or_collecting() {
    let example = example(true);
    let (_dir, root) = copy(&example.root);
    for name in ["partial/load-stray", "partial/stray", "partial/stray.map", "brig.db.copy.new", "rescue"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::write(root.join("partial/load-file"), b"part of an archive").unwrap();
    std::fs::remove_file(root.join("brig.db.copy")).unwrap();
    std::fs::create_dir_all(root.join("brig.db.copy/full")).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(30 * 24 * 3600);
    for name in ["partial/load-stray", "partial/stray"] {
        std::fs::File::open(root.join(name)).unwrap().set_modified(old).unwrap();
    }
    let store = nothing_lost(&root, &example);
    assert!(!root.join("partial/load-file").exists(), "nobody can go on with that");
    store.gc(&[]).unwrap();
    store.upkeep().prune().unwrap();
    store.upkeep().settle().unwrap();
    assert!(copied(&root, "docker.io/library/named:latest"));
}

/// What cannot be removed, for whatever reason, is said and left.
#[test]
fn what_cannot_be_removed_keeps_nobody_from_opening() {
    let example = example(true);
    let (_dir, root) = copy(&example.root);
    let stuck = [root.join("ingest/stuck"), root.join("active/stuck"), root.join("active/full")];
    let mark = |on: bool| {
        stuck.iter().all(|path| {
            let directory = std::fs::File::open(path).unwrap();
            let Ok(flags) = rustix::fs::ioctl_getflags(&directory) else { return false };
            let immutable = rustix::fs::IFlags::IMMUTABLE;
            rustix::fs::ioctl_setflags(&directory, if on { flags | immutable } else { flags - immutable }).is_ok()
        })
    };
    stuck.iter().for_each(|path| std::fs::create_dir_all(path.join("upper")).unwrap());
    std::fs::write(root.join("active/full/upper/precious"), b"precious").unwrap();
    if !mark(true) {
        mark(false);
        brig_tests::skip::skip(
            "what_cannot_be_removed_keeps_nobody_from_opening",
            "files cannot be made immutable here",
        );
        return;
    }
    let opened = std::panic::catch_unwind(|| drop(nothing_lost(&root, &example)));
    let left = stuck.iter().all(|path| path.exists());
    assert!(mark(false));
    assert!(opened.is_ok() && left);
    drop(nothing_lost(&root, &example));
    assert!(stuck.iter().all(|path| !path.exists()));
    assert!(quarantined(&root, "active").iter().any(|path| path.join("upper/precious").exists()));
}
